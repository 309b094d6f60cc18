"""Is a picture a photo or a scan? Decided by what it shows, since that is what people look for.

A photo shows a scene, also where a print of it was scanned; a scan shows a sheet with writing or drawing on it, also
where a phone took the picture. So the pixels decide, and what the file says of its making where they leave it open:

- A sheet is of one tone: within 16 grey levels of the commonest lie 0.70 to 1.00 of the pixels of the public scans and
  receipts that this was measured on, and 0.19 to 0.51 of those of photos. The limit lies in between, a little lower
  where a scanner says that it made the picture: a page full of figures shows less of its paper.
- One tone that is dark or strongly coloured is night, sea or sky. Sheets are pale, and coloured ones are written on.
- A camera's word (an exposure in EXIF) stands unless there is a pale sheet full of writing: snow, fog and white walls
  are of one tone, too. Lamps and shadows are taken out before, or no page that lay at a window would be a sheet.
- Drawings, screenshots and logos have areas in which no pixel differs from the next; no lens does that. They are
  scans.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from PIL import ExifTags, Image, ImageChops, ImageFilter, ImageMath

from kobold_reader.pages.metadata import clean_text, is_photo

__all__ = ["THUMBNAIL_PX", "ImageKind", "Making", "kind_of", "making_of"]

ImageKind = Literal["photo", "scan"]

THUMBNAIL_PX: Final = 256
"""Longest side at which a picture is judged: lines of writing still show, noise does not."""
_SMALLEST_PX: Final = 64
_NEAR: Final = 16
_SHEET: Final = 0.58
_SCANNED_SHEET: Final = 0.52
_LIT_SHEET: Final = 0.5
"""For pages that a camera took: the desk around them takes its share. The photos measured stay below 0.35."""
_STROKE: Final = 40
"""Grey levels between a stroke and what is beside it."""
_WRITTEN: Final = 0.025
"""Share of pixels in strokes: a letter has 0.06, a title page 0.02."""
_PALE: Final = 110
_COLOURED: Final = 60
"""Levels between the strongest and the weakest channel of the commonest tone; yellowed paper has 30."""
_DRAWN: Final = 0.35
"""Share of pixels whose neighbours are all equal to them; photos have up to 0.06."""
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
    lit = _evenly_lit(grey)
    level, share = _commonest(grey)
    lit_level, lit_share = _commonest(lit)
    if making.is_camera:
        is_page = lit_share >= _LIT_SHEET and _is_sheet(thumbnail, lit, lit_level) and _strokes(lit) >= _WRITTEN
        return "scan" if is_page else "photo"
    if _drawn(grey) >= _DRAWN:
        return "scan"
    limit = _SCANNED_SHEET if making.is_scanner else _SHEET
    for picture, commonest, found in ((grey, level, share), (lit, lit_level, lit_share)):
        if found >= limit and commonest >= _PALE:
            return "scan" if _is_sheet(thumbnail, picture, commonest) or _strokes(picture) >= _WRITTEN else "photo"
    return "photo"


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


def _commonest(grey: Image.Image) -> tuple[int, float]:
    """The tone that most pixels are near to, and their share."""
    levels = grey.histogram()
    near = {level: sum(levels[level - _NEAR : level + _NEAR + 1]) for level in range(_NEAR, 256 - _NEAR)}
    level = max(near, key=lambda one: near[one])
    return level, near[level] / (grey.width * grey.height)


def _is_sheet(thumbnail: Image.Image, grey: Image.Image, level: int) -> bool:
    """Whether the commonest tone is that of paper: pale, and of no strong colour."""
    if level < _PALE:
        return False
    if thumbnail.mode != "RGB":
        return True
    red, green, blue = thumbnail.split()
    strongest = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    weakest = ImageChops.darker(ImageChops.darker(red, green), blue)
    mask = grey.point([255 if abs(one - level) <= _NEAR else 0 for one in range(256)])
    counts = ImageChops.subtract(strongest, weakest).histogram(mask)
    return sum(index * count for index, count in enumerate(counts)) / max(1, sum(counts)) < _COLOURED


def _strokes(grey: Image.Image) -> float:
    """Share of pixels in dark lines so thin that they vanish among what is light around them."""
    without = grey.filter(ImageFilter.MaxFilter(5)).filter(ImageFilter.MinFilter(5))
    return sum(ImageChops.difference(without, grey).histogram()[_STROKE:]) / (grey.width * grey.height)


def _drawn(grey: Image.Image) -> float:
    """Share of pixels in areas of exactly one tone."""
    around = ImageChops.difference(grey.filter(ImageFilter.MaxFilter(3)), grey.filter(ImageFilter.MinFilter(3)))
    return around.histogram()[0] / (grey.width * grey.height)
