"""One look at a small copy of a picture: what it is, and the hash by which pictures like it are found.

Neither is needed to read a page, so nothing here fails: a picture that cannot be decoded is nothing, and says so itself
when it is to be read.

A perceptual hash: two pictures of one scene have nearly the same 64 bits.

The classical pHash: 32 × 32 grey pixels, their cosine transform, and of its 8 × 8 lowest frequencies which are above
the median. Against a difference hash, which is cheaper, it was measured on fourteen photos and parts of them. Copies
that are smaller, recompressed, brightened, or cropped by up to 6 % differ by up to 10 bits from the original with both,
but of 12,403 pairs of different pictures none came nearer than 16 bits with this one, one within 5 with that.

It knows nothing of writing: all typed pages are grey lines on white to it. Pages are told apart by their content alone.

Is a picture a photo or a scan? Decided by what it shows, since that is what people look for.

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

import io
import math
import operator
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from PIL import ExifTags, Image, ImageChops, ImageFilter, ImageMath, ImageStat

from kobold_reader.errors import PageRenderError, SourceError
from kobold_reader.pages.metadata import clean_text, exif_of, is_photo, orientation_of
from kobold_reader.pages.picture import picture_errors
from kobold_reader.pages.pixels import UPRIGHT, check_pixels, flatten
from kobold_reader.pages.values import PageLook

__all__ = ["THUMBNAIL_PX", "ImageKind", "Making", "kind_of", "look_at", "look_at_jpeg", "making_of", "perceptual_hash"]

_SIDE: Final = 32
_KEPT: Final = 8
_FLAT: Final = 12
"""Grey levels between the darkest and the lightest of the 32 × 32: below it, the bits are those of the noise."""
_COSINES: Final = tuple(
    tuple(math.cos(math.pi * (2 * x + 1) * frequency / (2 * _SIDE)) for x in range(_SIDE)) for frequency in range(_KEPT)
)


def perceptual_hash(picture: Image.Image) -> str | None:
    """Return 16 hexadecimal digits; None where there is nothing to tell pictures apart by, as in fog or the dark.

    Args:
        picture: Upright; its proportions do not count.
    """
    small = picture.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    levels = small.tobytes()
    if max(levels) - min(levels) < _FLAT:
        return None
    rows = [levels[start : start + _SIDE] for start in range(0, _SIDE * _SIDE, _SIDE)]
    across = [[_product(row, cosines) for cosines in _COSINES] for row in rows]
    found = [_product([row[x] for row in across], cosines) for cosines in _COSINES for x in range(_KEPT)]
    middle = sum(sorted(found)[_KEPT * _KEPT // 2 - 1 : _KEPT * _KEPT // 2 + 1]) / 2
    bits = 0
    for value in found:
        bits = bits << 1 | (value > middle)
    return f"{bits:016x}"


def _product(values: Iterable[float], cosines: Iterable[float]) -> float:
    return float(sum(map(operator.mul, values, cosines)))


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


def look_at(picture: Image.Image, exif: Image.Exif) -> PageLook:
    """Look at a picture that is opened and not yet decoded: a JPEG is decoded small, and stays so.

    Raises:
        PageRenderError: It is too large to decode.
    """
    check_pixels(*picture.size)
    is_bilevel = picture.mode == "1"
    making = making_of(exif, picture.info.get("dpi"))
    if picture.format == "JPEG":
        picture.draft(picture.mode, (2 * THUMBNAIL_PX, 2 * THUMBNAIL_PX))
    flat = flatten(picture)
    scale = min(1.0, THUMBNAIL_PX / max(flat.size))
    size = (max(1, round(flat.width * scale)), max(1, round(flat.height * scale)))
    small = flat.resize(size, Image.Resampling.BOX, reducing_gap=2.0)
    step = UPRIGHT[orientation_of(exif)][0]
    upright = small if step is None else small.transpose(step)
    return PageLook("scan" if is_bilevel else kind_of(small, making), perceptual_hash(upright))


def look_at_jpeg(data: bytes) -> PageLook:
    """Look at the one picture that a PDF page is."""
    try:
        with picture_errors(PageRenderError), Image.open(io.BytesIO(data), formats=("JPEG",)) as picture:
            return look_at(picture, exif_of(picture))
    except SourceError:
        return PageLook()
