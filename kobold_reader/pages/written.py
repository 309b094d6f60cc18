"""What people wrote into a photo, whichever of the three ways their program knew: XMP, IPTC, EXIF."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from PIL import ExifTags, Image, ImageFile, IptcImagePlugin

from kobold_reader.pages.image import LIBRARY_ERRORS
from kobold_reader.pages.metadata import clean_text, clean_title, exif_metadata, exif_of, join_names
from kobold_reader.pages.values import Scalar
from kobold_reader.pages.xmp import Xmp, xmp_of_bytes

__all__ = ["picture_metadata"]

_XMP_TAG: Final = 700
_XMP_SEGMENT: Final = b"http://ns.adobe.com/xap/1.0/\x00"
_USER_COMMENT: Final = 0x9286
_RATING: Final = 0x4746
_XP_TITLE, _XP_COMMENT, _XP_AUTHOR, _XP_KEYWORDS, _XP_SUBJECT = range(0x9C9B, 0x9CA0)
_UTF8: Final = b"\x1b%G"
_IPTC: Final = {
    (2, 5): "title",
    (2, 25): "keywords",
    (2, 80): "author",
    (2, 120): "description",
}
_MAX_STARS: Final = 5
_CHARSET_BYTES: Final = 8
_NO_COMMENT: Final = frozenset({"ASCII", "Screenshot", "User comments", "charset=Ascii"})

Written = dict[str, list[str]]


def picture_metadata(picture: Image.Image, exif: Image.Exif | None = None) -> dict[str, Scalar]:
    """Everything that a picture tells of itself, with what people wrote into it.

    Args:
        picture: Open; need not be decoded.
        exif: Where it is not the picture's own, as for the preview of a raw file.
    """
    exif = exif_of(picture) if exif is None else exif
    facts = exif_metadata(exif)
    sources = {
        "xmp": _from_xmp(_xmp_of(picture)),
        "iptc": _from_iptc(picture),
        "exif": _from_exif(exif),
    }
    own_title = facts.pop("title", "")  # EXIF knows no title but its description
    title = clean_title(_first(sources, "title"))
    described = clean_text(_first(sources, "description"))
    described = described or (str(own_title) if title else "")
    title = title or str(own_title)
    _set(facts, "title", title)
    _set(facts, "description", described if described != title else "")
    _set(facts, "author", facts.get("author") or clean_text(_first(sources, "author")))
    # Programs that know two ways write the same into both; an old list is the shorter one.
    best = max(sources, key=lambda name: len(sources[name].get("keywords", [])))
    if keywords := join_names(sources[best].get("keywords", [])):
        facts["keywords"], facts["keywords_source"] = keywords, best
    _set(facts, "persons", join_names(sources["xmp"].get("persons", [])))
    stars = _stars([*sources["xmp"].get("rating", []), *sources["exif"].get("rating", [])])
    if stars is not None:
        facts["rating"] = stars
    return facts


def _set(facts: dict[str, Scalar], key: str, value: Scalar) -> None:
    if value != "":
        facts[key] = value


def _first(sources: Mapping[str, Written], key: str) -> str:
    return next((values[0] for written in sources.values() if (values := written.get(key))), "")


def _stars(ratings: Sequence[str]) -> int | None:
    for rating in ratings:
        try:
            stars = int(float(rating))
        except (ValueError, OverflowError):
            continue
        if stars == -1 or 1 <= stars <= _MAX_STARS:  # -1: rejected; 0: nobody has rated it
            return stars
    return None


def _xmp_of(picture: Image.Image) -> Xmp:
    packet: Any = picture.info.get("xmp") or picture.info.get("XML:com.adobe.xmp")
    for name, segment in getattr(picture, "applist", ()):  # older Pillows leave a JPEG's there
        if not packet and name == "APP1" and segment.startswith(_XMP_SEGMENT):
            packet = segment.removeprefix(_XMP_SEGMENT)
    if not packet:
        tags = getattr(picture, "tag_v2", None)
        try:
            packet = tags.get(_XMP_TAG) if tags is not None else None
        except LIBRARY_ERRORS:
            packet = None
    return xmp_of_bytes(packet if isinstance(packet, (bytes, str)) else None)


def _from_xmp(xmp: Xmp) -> Written:
    keywords = xmp.of("keywords") or [path.replace("|", "/").rpartition("/")[2] for path in xmp.of("paths")]
    return {**xmp.values, "keywords": keywords}


def _from_iptc(picture: Image.Image) -> Written:
    try:
        records: Any = (
            IptcImagePlugin.getiptcinfo(picture) if isinstance(picture, ImageFile.ImageFile) else None
        ) or {}
    except LIBRARY_ERRORS:
        return {}
    is_utf8 = records.get((1, 90)) == _UTF8
    written: Written = {}
    for key, name in _IPTC.items():
        values = records.get(key, [])
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, bytes):
                written.setdefault(name, []).append(_decoded(value, is_utf8=is_utf8))
    return written


def _decoded(value: bytes, *, is_utf8: bool) -> str:
    """IPTC names its charset hardly ever; bytes that are good UTF-8 are nothing else by chance."""
    try:
        return value.decode("utf-8", "replace" if is_utf8 else "strict")
    except UnicodeDecodeError:
        return value.decode("cp1252", "replace")


def _from_exif(exif: Image.Exif) -> Written:
    """What Windows writes into EXIF, and the comment that cameras leave room for."""
    written: Written = {
        "title": _wide(exif.get(_XP_TITLE)),
        "description": _wide(exif.get(_XP_COMMENT)) or _wide(exif.get(_XP_SUBJECT)),
        "author": _wide(exif.get(_XP_AUTHOR)),
        "keywords": [word for text in _wide(exif.get(_XP_KEYWORDS)) for word in text.split(";")],
    }
    rating = exif.get(_RATING)
    if isinstance(rating, int):
        written["rating"] = [str(rating)]
    if not written["description"]:
        try:
            comment = exif.get_ifd(ExifTags.IFD.Exif).get(_USER_COMMENT)
        except LIBRARY_ERRORS:
            comment = None
        text = _comment(comment)
        written["description"] = [text] if text else []
    return written


def _wide(value: object) -> list[str]:
    if isinstance(value, tuple) and all(isinstance(item, int) and 0 <= item < 256 for item in value):  # noqa: PLR2004 - bytes
        value = bytes(value)
    if not isinstance(value, bytes):
        return []
    text = clean_text(value.decode("utf-16-le", "replace"))
    return [text] if text and "\ufffd" not in text else []


def _comment(value: object) -> str:
    """EXIF's UserComment: eight bytes that name its charset, then the text."""
    if not isinstance(value, bytes) or len(value) <= _CHARSET_BYTES:
        return ""
    charset, text = value[:_CHARSET_BYTES].rstrip(b"\x00"), value[_CHARSET_BYTES:]
    if charset == b"UNICODE":
        is_big = text[0::2].count(0) > text[1::2].count(0)  # half of plain letters is zero
        words = clean_text(text.decode("utf-16-be" if is_big else "utf-16-le", "replace"))
    elif charset == b"ASCII":
        words = clean_text(text)
    else:
        return ""
    # Cameras leave serial numbers and settings here; a person's sentence has words.
    has_words = sum(word.isalpha() and len(word) > 1 for word in words.split()) > 1
    return words if has_words and "\ufffd" not in words and words not in _NO_COMMENT else ""
