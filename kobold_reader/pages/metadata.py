"""PDF information and EXIF as flat scalars: only what is known, and only what can be believed.

What people wrote into a picture as XMP: keywords, titles, names of persons.

The packet is XML from a stranger, so nothing in it is ever expanded: a document type, and with it
every entity of its own, ends the reading.

What people wrote into a photo, whichever of the three ways their program knew: XMP, IPTC, EXIF.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from xml.parsers import expat

from PIL import ExifTags, Image, ImageFile, IptcImagePlugin

from kobold_reader.pages.pixels import LIBRARY_ERRORS
from kobold_reader.pages.values import Scalar

__all__ = [
    "Xmp",
    "clean_text",
    "clean_title",
    "exif_metadata",
    "exif_of",
    "is_photo",
    "join_names",
    "orientation_of",
    "pdf_metadata",
    "picture_metadata",
    "xmp_of_bytes",
]

_MAX_BYTES: Final = 4_000_000
_MAX_DEPTH: Final = 64
_MAX_VALUES: Final = 2_000

_RDF: Final = "http://www.w3.org/1999/02/22-rdf-syntax-ns# "
_PROPERTIES: Final = {
    "http://purl.org/dc/elements/1.1/ title": "title",
    "http://purl.org/dc/elements/1.1/ description": "description",
    "http://purl.org/dc/elements/1.1/ creator": "author",
    "http://purl.org/dc/elements/1.1/ subject": "keywords",
    "http://ns.adobe.com/pdf/1.3/ Keywords": "pdf_keywords",
    "http://ns.adobe.com/lightroom/1.0/ hierarchicalSubject": "paths",
    "http://www.digikam.org/ns/1.0/ TagsList": "paths",
    "http://ns.adobe.com/xap/1.0/ Rating": "rating",
    "http://iptc.org/std/Iptc4xmpExt/2008-02-29/ PersonInImage": "persons",
    "http://ns.microsoft.com/photo/1.2/t/Region# PersonDisplayName": "persons",
    "http://www.metadataworkinggroup.com/schemas/regions/ Name": "region_name",
    "http://www.metadataworkinggroup.com/schemas/regions/ Type": "region_type",
}
_LANGUAGE: Final = "http://www.w3.org/XML/1998/namespace lang"


class _RefusedError(Exception):
    """The packet asks for what XMP has no need of."""


_XMP_ERRORS: Final = (expat.ExpatError, _RefusedError, ValueError, LookupError)


@dataclass(slots=True)
class Xmp:
    """Values by our own names (`title description author keywords paths rating persons`), in order."""

    values: dict[str, list[str]] = field(default_factory=dict)

    def of(self, name: str) -> list[str]:
        """All values of a property; none where it is not there."""
        return self.values.get(name, [])


class _Reader:
    def __init__(self) -> None:
        self.found = Xmp()
        self._names: list[str] = []  # of the open elements
        self._texts: list[list[str]] = []
        self._regions: list[dict[str, str]] = [{}]
        self._is_default: list[bool] = []
        self._count = 0

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        if len(self._names) >= _MAX_DEPTH:
            raise _RefusedError("nested too deeply")
        self._names.append(name)
        self._texts.append([])
        self._regions.append({})
        self._is_default.append(attributes.get(_LANGUAGE) == "x-default")
        for key, value in attributes.items():
            self._take(_PROPERTIES.get(key), value, self._regions[-1])

    def text(self, data: str) -> None:
        if self._texts:
            self._texts[-1].append(data)

    def end(self, name: str) -> None:
        text = "".join(self._texts.pop()).strip()
        self._names.pop()
        region = self._regions.pop()
        is_default = self._is_default.pop()
        if region.get("region_name") and region.get("region_type", "Face") == "Face":
            self._add("persons", region["region_name"])
        if not text:
            return
        if name == f"{_RDF}li":  # an item of the nearest property around it
            owner = next((above for above in reversed(self._names) if not above.startswith(_RDF)), "")
            self._take(_PROPERTIES.get(owner), text, {}, first=is_default)
        else:
            self._take(_PROPERTIES.get(name), text, self._regions[-1])

    def _take(self, key: str | None, value: str, region: dict[str, str], *, first: bool = False) -> None:
        if key in {"region_name", "region_type"}:
            region[key] = value.strip()
        elif key is not None:
            self._add(key, value, first=first)

    def _add(self, key: str, value: str, *, first: bool = False) -> None:
        values = self.found.values.setdefault(key, [])
        self._count += 1
        if self._count > _MAX_VALUES:
            raise _RefusedError("too many values")
        value = value.strip()
        if value and value not in values:
            values.insert(0 if first else len(values), value)


def _refuse(*_: object) -> None:
    raise _RefusedError("a document type of its own")


def _read_xmp(packet: bytes | str) -> Xmp:
    """Read an XMP packet.

    Raises:
        expat.ExpatError: It is no XML; with the other `_XMP_ERRORS`, what cannot be believed.
    """
    data = packet.encode() if isinstance(packet, str) else packet
    data = data.strip(b"\x00 \r\n\t")
    if len(data) > _MAX_BYTES:
        raise _RefusedError("too long")
    reader = _Reader()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    parser.StartDoctypeDeclHandler = _refuse
    parser.EntityDeclHandler = _refuse
    parser.Parse(data, True)
    return reader.found


def xmp_of_bytes(packet: bytes | str | None) -> Xmp:
    """A packet's values; none where it cannot be parsed."""
    if not packet:
        return Xmp()
    try:
        return _read_xmp(packet)
    except _XMP_ERRORS:
        return Xmp()


_BASE, _GPS, _IFD = ExifTags.Base, ExifTags.GPS, ExifTags.IFD
_MAX_CHARS = 500
_MAX_JOINED = 300  # keywords are counted against the size of a chunk
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ufffe\uffff\ud800-\udfff]+")
_EXIF_DATE = re.compile(r"(\d{4})[:\-/.](\d\d)[:\-/.](\d\d)(?:[ T](\d\d):(\d\d)(?::(\d\d))?)?")
_EXIF_OFFSET = re.compile(r"[+-]\d\d:\d\d")
_PDF_DATE = re.compile(r"(?:D:)?(\d{4})(\d\d)?(\d\d)?(?:(\d\d)(\d\d)(\d\d)?)?\s*(?:(Z)|([+-])(\d\d)'?(\d\d)?'?)?")
# What cameras and programs write where a person wrote nothing.
_NO_TITLE = re.compile(
    r"(untitled|unbenannt|ohne titel|sans titre|default|none|image|scan|picture|"
    r"olympus digital camera|sony dsc|digital camera|samsung.*|minolta dsc|kodak.*camera|dcim.*)"
    r"\d*",
    re.IGNORECASE,
)
_FILM_SCANNER, _PRINT_SCANNER, _CAMERA = 1, 2, 3  # values of FileSource


def clean_text(value: object) -> str:
    """One line of at most 500 characters, without control characters; "" for anything unusable."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if not isinstance(value, str):
        return ""
    text = " ".join(_CONTROL.sub(" ", value).split())
    return text[:_MAX_CHARS].strip()


def join_names(names: Iterable[str]) -> str:
    """Names or keywords as one line, each once; whole ones, for as many as there is room."""
    kept: dict[str, None] = {}
    length = 0
    for name in names:
        text = clean_text(name)
        length += len(text) + 2
        if text and text not in kept and length <= _MAX_JOINED:
            kept[text] = None
    return ", ".join(kept)


def _set(facts: dict[str, Scalar], key: str, value: Scalar | None) -> None:
    if value is not None and value != "":
        facts[key] = value


def clean_title(value: object) -> str:
    """One line, "" where a camera or program wrote it and no person."""
    text = clean_text(value)
    return "" if _NO_TITLE.fullmatch(text) or "\ufffd" in text else text


def pdf_metadata(info: Mapping[str, Any] | None, xmp: Xmp, *, is_scan: bool) -> dict[str, Scalar]:
    """Title, author, description, keywords and, for a scan, the day it was made.

    Args:
        info: PyMuPDF's `Document.metadata`.
        xmp: The file's own packet, for what the information leaves out.
        is_scan: The first page is a scan; only then does the creation date tell of the paper's
            digitizing, and not of a text's writing.
    """
    facts: dict[str, Scalar] = {}
    info = info or {}
    title = clean_title(info.get("title")) or clean_title(_first(xmp, "title"))
    _set(facts, "title", title)
    _set(facts, "author", clean_text(info.get("author")) or clean_text(_first(xmp, "author")))
    described = clean_text(info.get("subject")) or clean_text(_first(xmp, "description"))
    _set(facts, "description", described if described != title else "")
    listed = re.split(r"[,;]", clean_text(info.get("keywords")) or clean_text(_first(xmp, "pdf_keywords")))
    own, other = join_names(listed), join_names(xmp.of("keywords"))
    if own or other:
        facts["keywords"], facts["keywords_source"] = (own, "pdf") if own else (other, "xmp")
    if is_scan:
        _set(facts, "date_digitized", _pdf_date(clean_text(info.get("creationDate"))))
    return facts


def _first(xmp: Xmp, name: str) -> str:
    return next(iter(xmp.of(name)), "")


def _pdf_date(text: str) -> str | None:
    match = _PDF_DATE.match(text)
    if match is None:
        return None
    year, month, day, hour, minute, second, utc, sign, ahead_h, ahead_m = match.groups()
    date = f"{year}-{month or '01'}-{day or '01'}"
    if hour is not None:
        date += f"T{hour}:{minute}:{second or '00'}"
        if utc or sign:
            date += "+00:00" if utc else f"{sign}{ahead_h}:{ahead_m or '00'}"
    return _checked(date)


def _checked(date: str) -> str | None:
    """The date where such a day exists, else None."""
    try:
        moment = datetime.fromisoformat(date)
    except ValueError:
        return None
    return date if moment.year > 1000 else None  # noqa: PLR2004 - "0000" is how cameras say unset


def exif_of(picture: Image.Image) -> Image.Exif:
    """The picture's EXIF, empty where it cannot be parsed."""
    try:
        exif = picture.getexif()
        dict(exif)
    except LIBRARY_ERRORS:
        return Image.Exif()
    return exif


def _part(exif: Image.Exif, part: int) -> Mapping[int, Any]:
    try:
        return dict(exif.get_ifd(part))
    except LIBRARY_ERRORS:
        return {}


def orientation_of(exif: Image.Exif) -> int:
    """EXIF orientation 1 to 8; 1 where it is missing or nonsense."""
    value = exif.get(_BASE.Orientation, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1  # noqa: PLR2004


def is_photo(exif: Image.Exif) -> bool:
    """Whether a camera took this: it tells of an exposure, and does not call itself a scanner."""
    shot = _part(exif, _IFD.Exif)
    source = shot.get(_BASE.FileSource)
    number = source[0] if isinstance(source, bytes) and source else source
    if number in {_FILM_SCANNER, _PRINT_SCANNER}:
        return False
    marks = (_BASE.ExposureTime, _BASE.FNumber, _BASE.ISOSpeedRatings, _BASE.FocalLength)
    return number == _CAMERA or any(mark in shot for mark in marks)


def exif_metadata(exif: Image.Exif) -> dict[str, Scalar]:
    """Everything EXIF tells that a searcher would ask for."""
    facts: dict[str, Scalar] = {}
    shot = _part(exif, _IFD.Exif)
    _set(
        facts,
        "title",
        clean_title(exif.get(_BASE.ImageDescription)) or clean_title(exif.get(_BASE.DocumentName)),
    )
    _set(facts, "author", clean_text(exif.get(_BASE.Artist)))
    maker, model = clean_text(exif.get(_BASE.Make)), clean_text(exif.get(_BASE.Model))
    if maker and maker.split()[0].lower() not in model.lower():
        model = f"{maker} {model}".strip()
    _set(facts, "camera", model or maker)
    if is_photo(exif):
        taken = _exif_date(shot.get(_BASE.DateTimeOriginal), shot.get(_BASE.OffsetTimeOriginal))
        _set(facts, "date_taken", taken)
    else:
        digitized = _exif_date(shot.get(_BASE.DateTimeDigitized), shot.get(_BASE.OffsetTimeDigitized))
        _set(facts, "date_digitized", digitized or _exif_date(exif.get(_BASE.DateTime), None))
    facts.update(_position(_part(exif, _IFD.GPSInfo)))
    return facts


def _exif_date(value: object, offset: object) -> str | None:
    match = _EXIF_DATE.match(clean_text(value))
    if match is None:
        return None
    year, month, day, hour, minute, second = match.groups()
    date = f"{year}-{month}-{day}"
    if hour is not None:
        date += f"T{hour}:{minute}:{second or '00'}"
        zone = clean_text(offset)
        if _EXIF_OFFSET.fullmatch(zone):
            date += zone
    return _checked(date)


def _position(gps: Mapping[int, Any]) -> dict[str, Scalar]:
    latitude = _degrees(gps.get(_GPS.GPSLatitude), gps.get(_GPS.GPSLatitudeRef), "S", 90)
    longitude = _degrees(gps.get(_GPS.GPSLongitude), gps.get(_GPS.GPSLongitudeRef), "W", 180)
    if latitude is None or longitude is None or (latitude == 0 and longitude == 0):
        return {}  # 0, 0 lies in the sea: a receiver without a fix
    return {"latitude": latitude, "longitude": longitude}


def _degrees(value: object, reference: object, negative: str, limit: int) -> float | None:
    mark = clean_text(reference).upper()[:1]
    if not isinstance(value, tuple) or not value or not mark:
        return None
    try:
        parts = [float(part) for part in value]
    except LIBRARY_ERRORS:
        return None
    degrees = math.fsum(part / 60**power for power, part in enumerate(parts[:3]))
    if not math.isfinite(degrees) or not 0 <= degrees <= limit:
        return None
    return round(-degrees if mark == negative else degrees, 6)


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
    title = clean_title(_first_written(sources, "title"))
    described = clean_text(_first_written(sources, "description"))
    described = described or (str(own_title) if title else "")
    title = title or str(own_title)
    _set_written(facts, "title", title)
    _set_written(facts, "description", described if described != title else "")
    _set_written(facts, "author", facts.get("author") or clean_text(_first_written(sources, "author")))
    # Programs that know two ways write the same into both; an old list is the shorter one.
    best = max(sources, key=lambda name: len(sources[name].get("keywords", [])))
    if keywords := join_names(sources[best].get("keywords", [])):
        facts["keywords"], facts["keywords_source"] = keywords, best
    _set_written(facts, "persons", join_names(sources["xmp"].get("persons", [])))
    stars = _stars([*sources["xmp"].get("rating", []), *sources["exif"].get("rating", [])])
    if stars is not None:
        facts["rating"] = stars
    return facts


def _set_written(facts: dict[str, Scalar], key: str, value: Scalar) -> None:
    if value != "":
        facts[key] = value


def _first_written(sources: Mapping[str, Written], key: str) -> str:
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
