"""Tells photos from scans, and finds a perceptual hash by which similar pictures are found, both on a small copy.

A photo shows a scene, even if a print of it was scanned; a scan shows a sheet with writing or drawing on it, even if a
phone took the picture. So the pixels decide, and the file's metadata only where they leave it open:

- A sheet has one colour: within 16 levels of the commonest are 0.70 to 1.00 of the pixels of the public scans and
  receipts that this was measured on, and 0.06 to 0.44 of those of photos. The limit is in between; it is lower where
  the metadata names a scanner: a page with large figures shows less of its paper.
- One colour that is dark or strong is night, sea or sky. Sheets are pale; strongly coloured ones are written on.
- Uneven light, as on a page at a window, is taken out first. Such a sheet must have writing on it, as fog and snow have
  one colour too, and is then a scan even if a camera took it. Otherwise an exposure in EXIF makes it a photo.
- Drawings, screenshots and logos have areas in which no pixel differs from the next; no lens does that. They are
  scans.
"""

from __future__ import annotations

import io
import math
import operator
import re
from dataclasses import dataclass
from statistics import median
from typing import Literal, TypeAlias

import numpy as np
from PIL import ExifTags, Image, ImageChops, ImageFilter, ImageStat

from kobold_reader.errors import PageRenderError, SourceError
from kobold_reader.pages.images import (
    check_pixels,
    darkest_around,
    flatten,
    lightest_around,
    picture_errors,
    shrunk,
    size_at,
    with_end_mark,
)
from kobold_reader.pages.metadata import clean_text, exif_of, is_photo, orientation_of
from kobold_reader.pages.orientation import upright
from kobold_reader.pages.values import PageLook

_SIDE = 32
_KEPT = 8
_FLAT = 12
"""Grey levels between the darkest and the lightest of the 32 × 32: below it, the bits are those of the noise."""
_COSINES = tuple(
    tuple(math.cos(math.pi * (2 * x + 1) * frequency / (2 * _SIDE)) for x in range(_SIDE)) for frequency in range(_KEPT)
)


def perceptual_hash(picture: Image.Image) -> str | None:
    """Return 16 hexadecimal digits for an upright picture; None where it has no features, as in fog or the dark."""
    small = picture.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    levels = small.tobytes()
    if max(levels) - min(levels) < _FLAT:
        return None
    rows = [levels[start : start + _SIDE] for start in range(0, _SIDE * _SIDE, _SIDE)]
    across = [[sum(map(operator.mul, row, cosines)) for cosines in _COSINES] for row in rows]
    columns = list(zip(*across, strict=True))
    found = [sum(map(operator.mul, column, cosines)) for cosines in _COSINES for column in columns]
    middle = median(found)
    return f"{int(''.join('01'[value > middle] for value in found), 2):016x}"


_THUMBNAIL_PX = 256
"""Longest side at which a picture is judged: lines of writing still show, noise does not."""
_SMALLEST_PX = 64
_NEAR = 16
_SHEET = 0.58
_SCANNED_SHEET = 0.45
_LIT_SHEET = 0.5
"""Lower, as a desk shows around a page that was photographed; photos have up to 0.41, written on or not."""
_STROKE = 40
"""Grey levels between a stroke and what is beside it."""
_WRITTEN = 0.025
"""Share of pixels in dark strokes on the sheet: a letter has 0.06, a title page 0.02."""
_PALE = 110
_COLOURED = 60
"""Levels between two channels; yellowed paper has 30."""
_DRAWN = 0.35
"""Share of pixels whose neighbours are all equal to them; photos have up to 0.07."""
_LIGHT_PX = 8
_LIGHTEST = 235
_SCANNER_DPI = frozenset({150, 200, 240, 400, 600, 1200, 2400})
"""What scanners are set to; 300 is what picture editors write into everything."""
_Device: TypeAlias = Literal["camera", "scanner"] | None
_SCANNER = re.compile(r"scan|twain|naps2|paperport|\bfax|copier|workcentre|imagerunner", re.IGNORECASE)


def device_of(exif: Image.Exif, dpi: object = None) -> _Device:
    """The device that took a picture, by its EXIF and Pillow's `info["dpi"]`; None where they do not tell."""
    if is_photo(exif):
        return "camera"
    base = ExifTags.Base
    named = " ".join(clean_text(exif.get(tag)) for tag in (base.Software, base.Make, base.Model))
    first = dpi[0] if isinstance(dpi, tuple) and dpi else None
    is_set = isinstance(first, int | float) and first == first and round(min(first, 1e6)) in _SCANNER_DPI  # noqa: PLR0124
    return "scanner" if _SCANNER.search(named) or is_set else None


def photo_or_scan(thumbnail: Image.Image, device: _Device) -> Literal["photo", "scan"] | None:
    """Judge a grey or RGB picture whose longest side is 256 px or less; None for an icon, which is neither."""
    if max(thumbnail.size) < _SMALLEST_PX:
        return None
    grey = thumbnail.convert("L")
    lit = _sheet(thumbnail, _evenly_lit(grey))
    if lit.is_pale and not lit.is_coloured and lit.written >= _WRITTEN and lit.share >= _LIT_SHEET:
        return "scan"
    if device == "camera":
        return "photo"
    plain = _sheet(thumbnail, grey)
    is_paper = plain.is_pale and (not plain.is_coloured or plain.written >= _WRITTEN)
    is_sheet = plain.share >= (_SCANNED_SHEET if device == "scanner" else _SHEET)
    return "scan" if (is_paper and is_sheet) or _drawn(grey) >= _DRAWN else "photo"


@dataclass(frozen=True, slots=True)
class _Sheet:
    """A picture judged as if it were a sheet of paper."""

    share: float
    """Share of the pixels in its colour."""
    is_pale: bool
    is_coloured: bool
    written: float
    """Share of the pixels in thin dark strokes on it."""


def _sheet(thumbnail: Image.Image, grey: Image.Image) -> _Sheet:
    """Judge a picture as if its commonest tone were that of a sheet; `grey` may be without lamps and shadows."""
    levels = grey.histogram()
    near = {level: sum(levels[level - _NEAR : level + _NEAR + 1]) for level in range(_NEAR, 256 - _NEAR)}
    level = max(near, key=lambda one: near[one])
    tone = [255 if abs(one - level) <= _NEAR else 0 for one in range(256)]
    mask = grey.point(tone)
    light = ImageStat.Stat(thumbnail.convert("L"), mask).mean[0]
    is_coloured = False
    if thumbnail.mode == "RGB":
        # How far apart the channels are: the same on all of a sheet, in light and shadow.
        red, green, blue = thumbnail.split()
        for one, other in ((red, green), (blue, green)):
            apart = ImageChops.subtract(one, other, 1, 128)
            mean = ImageStat.Stat(apart, mask).mean[0]
            is_coloured = is_coloured or abs(mean - 128) >= _COLOURED
            mask = ImageChops.darker(mask, apart.point([255 * (abs(it - mean) <= _NEAR) for it in range(256)]))
    pixels = grey.width * grey.height
    around = darkest_around(lightest_around(grey, 5), 5)
    strokes = ImageChops.difference(around, grey).point([255 * (it >= _STROKE) for it in range(256)])
    written = ImageChops.darker(strokes, around.point(tone)).histogram()[255]
    return _Sheet(mask.histogram()[255] / pixels, min(level, light) >= _PALE, is_coloured, written / pixels)


def _evenly_lit(grey: Image.Image) -> Image.Image:
    """The picture as if the same light fell on all of it; the brightest tone nearby becomes paper."""
    cells = (max(1, grey.width // _LIGHT_PX), max(1, grey.height // _LIGHT_PX))
    light = grey.resize(cells, Image.Resampling.BOX).filter(ImageFilter.MedianFilter(3))
    light = lightest_around(light, 5).filter(ImageFilter.GaussianBlur(3))
    light = light.resize(grey.size, Image.Resampling.BILINEAR)
    levels = np.asarray(grey, np.int32) * _LIGHTEST // np.maximum(np.asarray(light, np.int32), 40)
    return Image.fromarray(np.minimum(levels, 255).astype(np.uint8))


def _drawn(grey: Image.Image) -> float:
    """Share of the pixels that are in areas of exactly one tone."""
    around = ImageChops.difference(lightest_around(grey, 3), darkest_around(grey, 3))
    return around.histogram()[0] / (grey.width * grey.height)


def look_at(picture: Image.Image, exif: Image.Exif, orientation: int) -> PageLook:
    """Look at a picture that is open and not yet decoded; a JPEG is decoded small, and stays so.

    Raises:
        PageRenderError: It is too large to decode.
    """
    check_pixels(*picture.size)
    is_bilevel = picture.mode == "1"
    device = device_of(exif, picture.info.get("dpi"))
    if picture.format == "JPEG":
        picture.draft(picture.mode, (2 * _THUMBNAIL_PX, 2 * _THUMBNAIL_PX))
    flat = flatten(picture)
    small = shrunk(flat, size_at(_THUMBNAIL_PX, *flat.size))
    phash = perceptual_hash(upright(small, orientation))
    return PageLook("scan" if is_bilevel else photo_or_scan(small, device), phash)


def look_at_jpeg(data: bytes) -> PageLook:
    """Look at the JPEG that a PDF page consists of; an empty look where it cannot be decoded."""
    try:
        data = with_end_mark(data) or data
        with picture_errors(PageRenderError), Image.open(io.BytesIO(data), formats=("JPEG",)) as picture:
            exif = exif_of(picture)
            return look_at(picture, exif, orientation_of(exif))
    except SourceError:
        return PageLook()
