"""PDF information and EXIF as flat scalars: only what is known, and only what can be believed."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from PIL import ExifTags, Image

from kobold_reader.pages.image import LIBRARY_ERRORS
from kobold_reader.pages.values import Scalar
from kobold_reader.pages.xmp import Xmp

__all__ = [
    "clean_text",
    "clean_title",
    "exif_metadata",
    "exif_of",
    "is_photo",
    "join_names",
    "orientation_of",
    "pdf_metadata",
]

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
