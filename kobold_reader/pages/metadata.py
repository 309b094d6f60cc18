"""Metadata of files as flat scalars: EXIF, IPTC and XMP of pictures, the information dictionary and XMP of PDFs.

Only values that can be believed are kept. An XMP packet is XML from a stranger: a packet with a document type of its
own is refused, so no entity is ever expanded.
"""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any
from xml.etree import ElementTree as ET

from PIL import ExifTags, Image, ImageFile, IptcImagePlugin, TiffImagePlugin

from kobold_reader.errors import SidecarError
from kobold_reader.pages import xmp as packets
from kobold_reader.pages.images import LIBRARY_ERRORS
from kobold_reader.pages.values import Embedded, Scalar

Written = dict[str, list[str]]
"""What a person wrote into a file: `title description author keywords paths rating persons latitude longitude`, each
with its values."""

_BASE, _GPS, _IFD = ExifTags.Base, ExifTags.GPS, ExifTags.IFD
_MAX_JOINED_CHARS = 300
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ufffe\uffff\ud800-\udfff]+")
# Titles and comments that cameras and programs write where a person wrote nothing.
_NO_TITLE = re.compile(
    r"(untitled|unbenannt|ohne titel|sans titre|default|none|image|scan|picture|"
    r"olympus digital camera|sony dsc|digital camera|samsung.*|minolta dsc|kodak.*camera|dcim.*)"
    r"\d*",
    re.IGNORECASE,
)
_NO_COMMENT = frozenset({"ASCII", "Screenshot", "User comments", "charset=Ascii"})


def clean_text(value: object) -> str:
    """One line of at most 500 characters, without control characters; "" for anything unusable."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if not isinstance(value, str):
        return ""
    return " ".join(_CONTROL.sub(" ", value).split())[:500].strip()


def clean_title(value: object) -> str:
    """One line; "" where a camera or program wrote it and no person."""
    text = clean_text(value)
    return "" if _NO_TITLE.fullmatch(text) or "\ufffd" in text else text


def join_names(names: Iterable[str]) -> str:
    """Names or keywords as one line of at most 300 characters, each once and whole; metadata takes room in a chunk."""
    kept: dict[str, None] = {}
    length = 0
    for name in names:
        text = clean_text(name)
        length += len(text) + 2
        if text and length <= _MAX_JOINED_CHARS:
            kept[text] = None
    return ", ".join(kept)


def _known(facts: Mapping[str, Scalar | None]) -> dict[str, Scalar]:
    return {key: value for key, value in facts.items() if value is not None and value != ""}


def _first(written: Mapping[str, Sequence[str]], key: str) -> str:
    return next(iter(written.get(key, ())), "")


# ── PDF ──────────────────────────────────────────────────────────────────────────────────────────

_PDF_DATE = re.compile(r"(?:D:)?(\d{4})(\d\d)?(\d\d)?(?:(\d\d)(\d\d)(\d\d)?)?\s*(?:(Z)|([+-])(\d\d)'?(\d\d)?'?)?")


def pdf_metadata(info: Mapping[str, Any], xmp: Written, *, is_scan: bool) -> dict[str, Scalar]:
    """Title, author, description, keywords and, for a scan, the day it was made.

    Args:
        info: PyMuPDF's `Document.metadata`.
        xmp: The values of the file's XMP packet; they are used where `info` has none.
        is_scan: The first page is a scan, so the creation date is the day on which the paper was digitized.
    """
    title = clean_title(info.get("title")) or clean_title(_first(xmp, "title"))
    description = clean_text(info.get("subject")) or clean_text(_first(xmp, "description"))
    listed = clean_text(info.get("keywords")) or clean_text(_first(xmp, "pdf_keywords"))
    own, other = join_names(re.split(r"[,;]", listed)), join_names(xmp.get("keywords", []))
    return _known(
        {
            "title": title,
            "author": clean_text(info.get("author")) or clean_text(_first(xmp, "author")),
            "description": description if description != title else "",
            "keywords": own or other,
            "keywords_source": "pdf" if own else "xmp" if other else "",
            "date_digitized": _pdf_date(clean_text(info.get("creationDate"))) if is_scan else None,
        }
    )


def _pdf_date(text: str) -> str | None:
    match = _PDF_DATE.match(text)
    utc, sign, hours, minutes = match.groups()[6:] if match else ("", "", "", "")
    return _date(match, "+00:00" if utc else f"{sign}{hours}:{minutes or '00'}" if sign else "")


# ── pictures ─────────────────────────────────────────────────────────────────────────────────────


def picture_metadata(picture: Image.Image, exif: Image.Exif | None = None) -> dict[str, Scalar]:
    """All metadata of an open picture, which need not be decoded.

    Args:
        picture: The picture.
        exif: Its EXIF, where that is not its own, as for the preview of a raw file.
    """
    exif = exif_of(picture) if exif is None else exif
    sources = {"xmp": _xmp_of(picture), "iptc": _iptc_of(picture), "exif": _windows_tags(exif)}
    title, description, author = (
        next(filter(None, (_first(written, key) for written in sources.values())), "")
        for key in ("title", "description", "author")
    )
    # EXIF has a description only; it is the title if there is no other.
    caption = clean_title(_exif_text(exif, _BASE.ImageDescription)) or clean_title(_exif_text(exif, _BASE.DocumentName))
    title, description = clean_title(title), clean_text(description)
    description = description or (caption if title else "")
    title = title or caption
    # Programs that know two formats write the same keywords into both; an old list is the shorter one.
    best = max(sources, key=lambda name: len(sources[name].get("keywords", [])))
    keywords = join_names(sources[best].get("keywords", []))
    return _known(
        {
            "author": clean_text(_exif_text(exif, _BASE.Artist)) or clean_text(author),
            "camera": _camera(exif),
            **_dates(exif),
            **(_position(_ifd(exif, _IFD.GPSInfo)) or _xmp_position(sources["xmp"])),
            "title": title,
            "description": description if description != title else "",
            "keywords": keywords,
            "keywords_source": best if keywords else "",
            "persons": join_names(sources["xmp"].get("persons", [])),
            "rating": _stars([*sources["xmp"].get("rating", []), *sources["exif"].get("rating", [])]),
        }
    )


def read_sidecar(content: bytes) -> Written:
    """Return what people wrote into a sidecar; what kobold-reader wrote is left out.

    Raises:
        SidecarError: It is not XMP, or hostile.
    """
    bare = packets.without_ours(content)
    text = bare.decode("utf-16" if bare.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig")
    return _with_leaves(read_xmp(text, packets.MAX_BYTES))


def sidecar_metadata(sidecars: Iterable[Written]) -> dict[str, Scalar]:
    """Return what people wrote into the sidecars of a photo; of two values that of the first sidecar, of lists both."""
    written: Written = {}
    for one in sidecars:
        for key, values in one.items():
            written.setdefault(key, []).extend(value for value in values if value not in written[key])
    title, description = clean_title(_first(written, "title")), clean_text(_first(written, "description"))
    keywords = join_names(written.get("keywords", []))
    return _known(
        {
            "author": clean_text(_first(written, "author")),
            "title": title,
            "description": description if description != title else "",
            "keywords": keywords,
            "keywords_source": "sidecar" if keywords else "",
            "persons": join_names(written.get("persons", [])),
            "rating": _stars(written.get("rating", [])),
            **_xmp_position(written),
        }
    )


def embedded(picture: Image.Image, exif: Image.Exif | None = None) -> Embedded:
    """What a picture says itself, for its sidecar: its XMP, and the same properties by EXIF and IPTC."""
    packet = _packet_of(picture) or ""
    exif = exif_of(picture) if exif is None else exif
    iptc, windows = _iptc_of(picture), _windows_tags(exif)
    facts = {**_dates(exif), **_position(_ifd(exif, _IFD.GPSInfo))}
    texts = {
        "title": _first(iptc, "title") or _first(windows, "title"),
        "description": _first(iptc, "description")
        or clean_title(_exif_text(exif, _BASE.ImageDescription))
        or _first(windows, "description"),
        "creator": _first(iptc, "author") or _exif_text(exif, _BASE.Artist) or _first(windows, "author"),
        "Rating": str(_stars(windows["rating"]) or ""),
        "DateTimeOriginal": str(facts.get("date_taken") or ""),
        "GPSLatitude": _xmp_degrees(facts.get("latitude"), "NS"),
        "GPSLongitude": _xmp_degrees(facts.get("longitude"), "EW"),
    }
    values = {name: [text] for name, text in texts.items() if text}
    if keywords := max(iptc.get("keywords", []), windows["keywords"], key=len):
        values["subject"] = keywords
    return Embedded(packet.decode("utf-8", "replace") if isinstance(packet, bytes) else packet, values)


def _stars(ratings: Iterable[str]) -> int | None:
    for rating in ratings:
        with suppress(ValueError, OverflowError):
            stars = int(float(rating))
            if stars in {-1, 1, 2, 3, 4, 5}:  # -1: rejected; 0: nobody has rated it
                return stars
    return None


# ── EXIF ─────────────────────────────────────────────────────────────────────────────────────────

_EXIF_DATE = re.compile(r"(\d{4})[:\-/.](\d\d)[:\-/.](\d\d)(?:[ T](\d\d):(\d\d)(?::(\d\d))?)?")
_EXIF_OFFSET = re.compile(r"[+-]\d\d:\d\d")
_XP_TITLE, _XP_COMMENT, _XP_AUTHOR, _XP_KEYWORDS, _XP_SUBJECT = range(0x9C9B, 0x9CA0)


def exif_of(picture: Image.Image) -> Image.Exif:
    """The picture's EXIF, empty where it cannot be parsed."""
    try:
        exif = picture.getexif()
        dict(exif)
    except LIBRARY_ERRORS:
        return Image.Exif()
    return exif


def _ifd(exif: Image.Exif, number: int) -> Mapping[int, Any]:
    try:
        return dict(exif.get_ifd(number))
    except LIBRARY_ERRORS:
        return {}


def _exif_text(exif: Image.Exif, tag: int) -> str:
    """A text, which EXIF wants in ASCII and programs write in UTF-8; Pillow reads it as Latin-1."""
    text = exif.get(tag)
    if not isinstance(text, str):
        return ""
    with suppress(UnicodeError):
        return text.encode("latin-1").decode()
    return text


def orientation_of(exif: Image.Exif) -> int:
    """EXIF orientation 1 to 8; 1 where it is missing or nonsense."""
    value = exif.get(_BASE.Orientation, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1  # noqa: PLR2004


_PLANES = 2  # of TIFF's PlanarConfiguration: each colour by itself


def take_orientation(picture: Image.Image) -> int:
    """The orientation of a picture that is open and not yet decoded; a TIFF's is taken out, so that it stays as stored.

    Pillow turns TIFFs, and no other format, when it decodes them. It exchanges width and height before that, and
    unpacks the rows of an uncompressed TIFF into the wrong shape.
    """
    exif = exif_of(picture)
    orientation = orientation_of(exif)
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        exif[_BASE.Orientation] = 1
        picture._size = picture.tag_v2[_BASE.ImageWidth], picture.tag_v2[_BASE.ImageLength]  # noqa: SLF001 - no other way
        _read_deep_planes(picture)
    return orientation


def _read_deep_planes(picture: TiffImagePlugin.TiffImageFile) -> None:
    """Have each colour of an uncompressed TIFF of 16 bits unpacked as such; Pillow takes planes for 8 bits deep."""
    is_deep = 16 in picture.tag_v2.get(_BASE.BitsPerSample, ())  # noqa: PLR2004
    if picture.tag_v2.get(_BASE.PlanarConfiguration) != _PLANES or not is_deep:
        return
    depth = ";16B" if picture.tag_v2.prefix == b"MM" else ";16L"
    picture.tile = [
        tile._replace(args=(tile.args[0] + depth, *tile.args[1:]))
        if tile.codec_name == "raw" and isinstance(tile.args, tuple) and len(tile.args[0]) == 1
        else tile
        for tile in picture.tile
    ]


def is_photo(exif: Image.Exif) -> bool:
    """Whether a camera took this: EXIF has an exposure, and does not name a scanner."""
    shot = _ifd(exif, _IFD.Exif)
    source = shot.get(_BASE.FileSource)
    source = source[0] if isinstance(source, bytes) and source else source
    if source in {1, 2}:  # scanners of film and of prints
        return False
    marks = {_BASE.ExposureTime, _BASE.FNumber, _BASE.ISOSpeedRatings, _BASE.FocalLength}
    return source == 3 or not marks.isdisjoint(shot)  # noqa: PLR2004 - a digital camera


def _camera(exif: Image.Exif) -> str:
    maker, model = clean_text(_exif_text(exif, _BASE.Make)), clean_text(_exif_text(exif, _BASE.Model))
    if maker and maker.split()[0].lower() not in model.lower():
        return f"{maker} {model}".strip()
    return model or maker


def _dates(exif: Image.Exif) -> dict[str, Scalar | None]:
    """Of a photo the day it was taken; of any other picture the day it was digitized."""
    shot = _ifd(exif, _IFD.Exif)
    if is_photo(exif):
        return {"date_taken": _exif_date(shot.get(_BASE.DateTimeOriginal), shot.get(_BASE.OffsetTimeOriginal))}
    digitized = _exif_date(shot.get(_BASE.DateTimeDigitized), shot.get(_BASE.OffsetTimeDigitized))
    return {"date_digitized": digitized or _exif_date(exif.get(_BASE.DateTime), None)}


def _exif_date(value: object, offset: object) -> str | None:
    zone = clean_text(offset)
    return _date(_EXIF_DATE.match(clean_text(value)), zone if _EXIF_OFFSET.fullmatch(zone) else "")


def _date(match: re.Match[str] | None, zone: str) -> str | None:
    """A date in ISO 8601 from the six groups year to second; None where there is no such day."""
    if match is None:
        return None
    year, month, day, hour, minute, second = match.groups()[:6]
    date = f"{year}-{month or '01'}-{day or '01'}"
    if hour is not None:
        date += f"T{hour}:{minute}:{second or '00'}{zone}"
    try:
        moment = datetime.fromisoformat(date)
    except ValueError:
        return None
    return date if moment.year > 1000 else None  # noqa: PLR2004 - cameras write 0000 for unset


def _position(gps: Mapping[int, Any]) -> dict[str, Scalar]:
    latitude = _degrees(gps.get(_GPS.GPSLatitude), gps.get(_GPS.GPSLatitudeRef), "S", 90)
    longitude = _degrees(gps.get(_GPS.GPSLongitude), gps.get(_GPS.GPSLongitudeRef), "W", 180)
    if latitude is None or longitude is None or (latitude == 0 and longitude == 0):
        return {}  # 0, 0 is in the sea: a receiver without a fix
    return {"latitude": latitude, "longitude": longitude}


def _degrees(value: object, reference: object, negative: str, limit: int) -> float | None:
    mark = clean_text(reference).upper()[:1]
    if not isinstance(value, tuple) or not value or not mark:
        return None
    try:
        degrees = math.fsum(float(part) / 60**power for power, part in enumerate(value[:3]))
    except LIBRARY_ERRORS:
        return None
    if not math.isfinite(degrees) or not 0 <= degrees <= limit:
        return None
    return round(-degrees if mark == negative else degrees, 6)


def _windows_tags(exif: Image.Exif) -> Written:
    """The tags that Windows adds to EXIF, and the user comment."""
    rating = exif.get(_BASE.Rating)
    description = _wide(exif.get(_XP_COMMENT)) or _wide(exif.get(_XP_SUBJECT))
    return {
        "title": [_wide(exif.get(_XP_TITLE))],
        "description": [description or _comment(_ifd(exif, _IFD.Exif).get(_BASE.UserComment))],
        "author": [_wide(exif.get(_XP_AUTHOR))],
        "keywords": [word for word in _wide(exif.get(_XP_KEYWORDS)).split(";") if word],
        "rating": [str(rating)] if isinstance(rating, int) else [],
    }


def _wide(value: object) -> str:
    """A text that Windows wrote in UTF-16."""
    if isinstance(value, tuple) and all(isinstance(item, int) and 0 <= item < 256 for item in value):  # noqa: PLR2004
        value = bytes(value)
    if not isinstance(value, bytes):
        return ""
    text = clean_text(value.decode("utf-16-le", "replace"))
    return "" if "\ufffd" in text else text


def _comment(value: object) -> str:
    """EXIF's UserComment: eight bytes that name its charset, then the text."""
    if not isinstance(value, bytes):
        return ""
    charset, text = value[:8].rstrip(b"\x00"), value[8:]
    if charset not in {b"UNICODE", b"ASCII"}:
        return ""
    encoding = "utf-8"
    if charset == b"UNICODE":  # one byte of each plain letter is zero
        encoding = "utf-16-be" if text[0::2].count(0) > text[1::2].count(0) else "utf-16-le"
    words = clean_text(text.decode(encoding, "replace"))
    # Cameras leave serial numbers and settings here; a person's sentence has words.
    has_words = sum(word.isalpha() and len(word) > 1 for word in words.split()) > 1
    return words if has_words and "\ufffd" not in words and words not in _NO_COMMENT else ""


# ── IPTC ─────────────────────────────────────────────────────────────────────────────────────────

_IPTC = {(2, 5): "title", (2, 25): "keywords", (2, 80): "author", (2, 120): "description"}


def _iptc_of(picture: Image.Image) -> Written:
    if not isinstance(picture, ImageFile.ImageFile):
        return {}
    try:
        records: Any = IptcImagePlugin.getiptcinfo(picture) or {}
    except LIBRARY_ERRORS:
        return {}
    # IPTC hardly ever names its charset; bytes that are valid UTF-8 are hardly anything else.
    strictness = "replace" if records.get((1, 90)) == b"\x1b%G" else "strict"
    written: Written = {}
    for key, name in _IPTC.items():
        values = records.get(key, [])
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, bytes):
                try:
                    text = value.decode("utf-8", strictness)
                except UnicodeDecodeError:
                    text = value.decode("cp1252", "replace")
                written.setdefault(name, []).append(text)
    return written


# ── XMP ──────────────────────────────────────────────────────────────────────────────────────────

_XMP_SEGMENT = b"http://ns.adobe.com/xap/1.0/\x00"
_XMP_MAX_BYTES = 4_000_000
_XMP_MAX_DEPTH = 64
_XMP_MAX_VALUES = 2_000
_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
_PROPERTIES = {
    "{http://purl.org/dc/elements/1.1/}title": "title",
    "{http://purl.org/dc/elements/1.1/}description": "description",
    "{http://purl.org/dc/elements/1.1/}creator": "author",
    "{http://purl.org/dc/elements/1.1/}subject": "keywords",
    "{http://ns.adobe.com/pdf/1.3/}Keywords": "pdf_keywords",
    "{http://ns.adobe.com/lightroom/1.0/}hierarchicalSubject": "paths",
    "{http://www.digikam.org/ns/1.0/}TagsList": "paths",
    "{http://ns.adobe.com/xap/1.0/}Rating": "rating",
    "{http://ns.adobe.com/exif/1.0/}GPSLatitude": "latitude",
    "{http://ns.adobe.com/exif/1.0/}GPSLongitude": "longitude",
    "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}PersonInImage": "persons",
    "{http://ns.microsoft.com/photo/1.2/t/Region#}PersonDisplayName": "persons",
    "{http://www.metadataworkinggroup.com/schemas/regions/}Name": "region_name",
    "{http://www.metadataworkinggroup.com/schemas/regions/}Type": "region_type",
}
_OF_PLACES = frozenset(name for name, key in _PROPERTIES.items() if key in {"latitude", "longitude"})
"""The position of the camera, or deeper inside that of a place that the picture shows."""
_ATTRIBUTE_DEPTH = 3  # x:xmpmeta, rdf:RDF, rdf:Description


def _packet_of(picture: Image.Image) -> bytes | str | None:
    packet: Any = picture.info.get("xmp") or picture.info.get("XML:com.adobe.xmp")
    for name, segment in getattr(picture, "applist", ()):  # older Pillows leave a JPEG's packet there
        if not packet and name == "APP1" and segment.startswith(_XMP_SEGMENT):
            packet = segment.removeprefix(_XMP_SEGMENT)
    if not packet:
        with suppress(*LIBRARY_ERRORS):
            packet = getattr(picture, "tag_v2", {}).get(_BASE.XMLPacket)
    return packet if isinstance(packet, (bytes, str)) else None


def _xmp_of(picture: Image.Image) -> Written:
    packet = _packet_of(picture)
    data = packet.encode() if isinstance(packet, str) else packet or b""
    if packets.NAMESPACE.encode() in data:  # a program wrote a sidecar of ours into the photo
        with suppress(SidecarError):
            data = packets.without_ours(data)
    return _with_leaves(read_xmp(data))


def _with_leaves(written: Written) -> Written:
    """Take keywords from hierarchies where there are no others."""
    leaves = [path.replace("|", "/").rpartition("/")[2] for path in written.get("paths", [])]
    return {**written, "keywords": written.get("keywords") or leaves}


_XMP_DEGREES = re.compile(r"(\d+),(\d+(?:\.\d+)?)(?:,(\d+(?:\.\d+)?))?([NSEW])")


def _xmp_position(written: Written) -> dict[str, Scalar]:
    found: dict[int, tuple[tuple[str, ...], str]] = {}
    for key, number in (("latitude", 0), ("longitude", 2)):
        if match := _XMP_DEGREES.fullmatch(_first(written, key)):
            found[number] = tuple(part or "0" for part in match.groups()[:3]), match[4]
    latitude, longitude = (found.get(number, ((), "")) for number in (0, 2))
    return _position(
        {
            _GPS.GPSLatitude: latitude[0],
            _GPS.GPSLatitudeRef: latitude[1],
            _GPS.GPSLongitude: longitude[0],
            _GPS.GPSLongitudeRef: longitude[1],
        }
    )


def _xmp_degrees(degrees: Scalar | None, marks: str) -> str:
    """Write degrees as XMP does: `57,31.2067N`."""
    if not isinstance(degrees, float):
        return ""
    whole, part = divmod(abs(degrees), 1)
    return f"{int(whole)},{part * 60:.6f}{marks[degrees < 0]}"


def read_xmp(packet: bytes | str | None, max_bytes: int = _XMP_MAX_BYTES) -> Written:
    """The values of an XMP packet, in order; none where it cannot be parsed or believed."""
    data = (packet.encode() if isinstance(packet, str) else packet or b"").strip(b"\x00 \r\n\t")
    if not data or len(data) > max_bytes:
        return {}
    reader = _XmpReader()
    try:
        encoding = "utf-8" if isinstance(packet, str) else None  # whatever the text says of itself
        parser = ET.XMLParser(target=_NoDoctype(), encoding=encoding)  # noqa: S314 - a document type is refused
        parser.feed(data)
        reader.visit(parser.close(), "", {})
    except (ET.ParseError, ValueError, LookupError):
        return {}
    return reader.found


class _NoDoctype(ET.TreeBuilder):
    def doctype(self, *_: object) -> None:
        raise ValueError("XMP has no document type.")


class _XmpReader:
    """Collects the values of an XMP packet, element by element."""

    def __init__(self) -> None:
        self.found: Written = {}
        self._count = 0

    def visit(self, element: ET.Element, owner: str, outer: dict[str, str], depth: int = 1) -> None:
        """Take the values of an element and of all elements in it.

        Args:
            element: The element.
            owner: Name of the nearest property around it.
            outer: Name and type of the region of the picture that the element around it describes.
            depth: How deep the element is nested.
        """
        if depth > _XMP_MAX_DEPTH:
            raise ValueError("The packet is nested too deeply.")
        region: dict[str, str] = {}
        for name, value in element.items():
            if depth <= _ATTRIBUTE_DEPTH or name not in _OF_PLACES:
                self._take(name, value.strip(), region)
        for inner in element:
            self.visit(inner, owner if element.tag.startswith(_RDF) else element.tag, region, depth + 1)
        if region.get("region_name") and region.get("region_type", "Face") == "Face":
            self._add("persons", region["region_name"])
        text = "".join([element.text or "", *(inner.tail or "" for inner in element)]).strip()
        if text and element.tag == f"{_RDF}li":
            self._take(owner, text, {}, first=element.get(_LANGUAGE) == "x-default")
        elif text and (depth <= _ATTRIBUTE_DEPTH + 1 or element.tag not in _OF_PLACES):
            self._take(element.tag, text, outer)

    def _take(self, name: str, value: str, region: dict[str, str], *, first: bool = False) -> None:
        key = _PROPERTIES.get(name)
        if key in {"region_name", "region_type"}:
            region[key] = value
        elif key is not None:
            self._add(key, value, first=first)

    def _add(self, key: str, value: str, *, first: bool = False) -> None:
        self._count += 1
        if self._count > _XMP_MAX_VALUES:
            raise ValueError("The packet holds too many values.")
        values = self.found.setdefault(key, [])
        if value and value not in values:
            values.insert(0 if first else len(values), value)
