"""Is a picture a photo or a scan? Decided by what it shows, since that is what people look for.

A photo shows a scene, also where a print of it was scanned; a scan shows a sheet with writing or drawing on it, also
where a phone took the picture. So the pixels decide, and what the file says of its making where they leave it open:

- A sheet has one colour: within 16 levels of the commonest lie 0.70 to 1.00 of the pixels of the public scans and
  receipts that this was measured on, and 0.06 to 0.44 of those of photos. The limit lies in between, lower where a
  scanner says that it made the picture: a page with large figures shows less of its paper.
- One colour that is dark or strong is night, sea or sky. Sheets are pale, and strongly coloured ones are written on.
- Where the light falls unevenly, as on a page at a window, it is taken out first; then a sheet needs writing on it, for
  fog and snow are of one colour, too. Such a sheet is a scan even if a camera took it; otherwise a camera's word (an
  exposure in EXIF) stands.
- Drawings, screenshots and logos have areas in which no pixel differs from the next; no lens does that. They are
  scans.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from PIL import ExifTags, Image, ImageChops, ImageFilter, ImageMath, ImageStat

from kobold_reader.pages.metadata import clean_text, is_photo

__all__ = ["THUMBNAIL_PX", "ImageKind", "Making", "kind_of", "making_of"]

ImageKind = Literal["photo", "scan"]

THUMBNAIL_PX: Final = 256
"""Longest side at which a picture is judged: lines of writing still show, noise does not."""
_SMALLEST_PX: Final = 64
_NEAR: Final = 16
_SHEET: Final = 0.58
_SCANNED_SHEET: Final = 0.45
_LIT_SHEET: Final = 0.5
"""Lower, for a desk shows around a page that was photographed; photos have up to 0.41 there, written on or not."""
_STROKE: Final = 40
"""Grey levels between a stroke and what is beside it."""
_WRITTEN: Final = 0.025
"""Share of pixels in dark strokes that stand on the sheet: a letter has 0.06, a title page 0.02."""
_PALE: Final = 110
_COLOURED: Final = 60
"""Levels between two channels; yellowed paper has 30."""
_DRAWN: Final = 0.35
"""Share of pixels whose neighbours are all equal to them; photos have up to 0.07."""
_LIGHT_PX: Final = 8
_LIGHTEST: Final = 235
_SCANNER_DPI: Final = frozenset({150, 200, 240, 400, 600, 1200, 2400})
"""What scanners are set to; 300 is what picture editors write into everything."""
_SCANNER: Final = re.compile(r"scan|twain|naps2|paperport|\bfax|copier|workcentre|imagerunner", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Making:
    """What a file says of how its picture was made."""

    is_camera: bool = False
    is_scanner: bool = False


def making_of(exif: Image.Exif, dpi: object = None) -> Making:
    """Return what EXIF and the resolution tell.

    Args:
        exif: Of the picture.
        dpi: Pillow's `info["dpi"]`.
    """
    if is_photo(exif):
        return Making(is_camera=True)
    base = ExifTags.Base
    named = " ".join(clean_text(exif.get(tag)) for tag in (base.Software, base.Make, base.Model))
    first = dpi[0] if isinstance(dpi, tuple) and dpi else None
    is_set = isinstance(first, int | float) and first == first and round(min(first, 1e6)) in _SCANNER_DPI  # noqa: PLR0124
    return Making(is_scanner=bool(_SCANNER.search(named)) or is_set)


def kind_of(thumbnail: Image.Image, making: Making) -> ImageKind | None:
    """Return what a picture is; None for an icon, which is neither.

    Args:
        thumbnail: Grey or RGB, its longest side `THUMBNAIL_PX` or less.
        making: What is known of its making.
    """
    if max(thumbnail.size) < _SMALLEST_PX:
        return None
    grey = thumbnail.convert("L")
    lit = _sheet(thumbnail, _evenly_lit(grey))
    if lit.is_pale and not lit.is_coloured and lit.written >= _WRITTEN and lit.share >= _LIT_SHEET:
        return "scan"
    if making.is_camera:
        return "photo"
    plain = _sheet(thumbnail, grey)
    is_paper = plain.is_pale and (not plain.is_coloured or plain.written >= _WRITTEN)
    is_sheet = plain.share >= (_SCANNED_SHEET if making.is_scanner else _SHEET)
    return "scan" if (is_paper and is_sheet) or _drawn(grey) >= _DRAWN else "photo"


@dataclass(frozen=True, slots=True)
class _Sheet:
    """What a picture would be as a sheet of paper."""

    share: float
    """Of the pixels, those in its colour."""
    is_pale: bool
    is_coloured: bool
    written: float
    """Share of the pixels in thin dark strokes on it."""


def _sheet(thumbnail: Image.Image, grey: Image.Image) -> _Sheet:
    """Take the commonest tone of a picture for a sheet.

    Args:
        thumbnail: As it is.
        grey: The same in grey; lamps and shadows may have been taken out.
    """
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
    around = grey.filter(ImageFilter.MaxFilter(5)).filter(ImageFilter.MinFilter(5))
    strokes = ImageChops.difference(around, grey).point([255 * (it >= _STROKE) for it in range(256)])
    written = ImageChops.darker(strokes, around.point(tone)).histogram()[255]
    return _Sheet(mask.histogram()[255] / pixels, min(level, light) >= _PALE, is_coloured, written / pixels)


def _evenly_lit(grey: Image.Image) -> Image.Image:
    """The picture as if the same light fell on all of it; what is brightest nearby becomes paper."""
    cells = (max(1, grey.width // _LIGHT_PX), max(1, grey.height // _LIGHT_PX))
    light = grey.resize(cells, Image.Resampling.BOX).filter(ImageFilter.MedianFilter(3))
    light = light.filter(ImageFilter.MaxFilter(5)).filter(ImageFilter.GaussianBlur(3))
    light = light.resize(grey.size, Image.Resampling.BILINEAR)
    lit: Image.Image = ImageMath.lambda_eval(
        lambda names: names["convert"](
            names["min"](names["grey"] * _LIGHTEST / names["max"](names["light"], 40), 255), "L"
        ),
        grey=grey,
        light=light,
    )
    return lit


def _drawn(grey: Image.Image) -> float:
    """Share of pixels in areas of exactly one tone."""
    around = ImageChops.difference(grey.filter(ImageFilter.MaxFilter(3)), grey.filter(ImageFilter.MinFilter(3)))
    return around.histogram()[0] / (grey.width * grey.height)
