"""Decides on a page's picture whether the page is blank. In doubt it is not.

A page wrongly called blank is lost for good; one wrongly called inked costs a single request. Only four things count
as paper: marks paler than writing, marks smaller than a letter, marks at the very edge, and punched holes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter, ImageStat

from kobold_reader.pages.images import darkest_channel, percentile, size_at_dpi
from kobold_reader.pages.shapes import Shape, find_shapes

_WHITE = 254
_DOT = 1e-4  # share of the pixels, or of the colours that make them up
_DPI = 100

# Grey levels below the paper around. Bleed-through and texture are under the first, pencil is over it; grainy paper
# raises the limit up to the second.
_MIN_CONTRAST = 26
_MAX_CONTRAST = 64
_NOISE_FACTOR = 5.0

# A letter at 100 dpi: 6 pt digits are 6 px high. Specks of dust are smaller than 1.2 mm.
_LETTER_PX = 5
_LETTER_AREA_PX = 7
_SMALL_PX, _SMALL_AREA_PX = 9, 16
_NUMERAL_PX = 7
_DUSTY, _DUSTY_FACTOR = 30, 4
_INKED_SHARE = 0.01  # more than this is ink whatever its shape, away from the edges
_EDGE_SHARE = 0.02
_BORDER_SHARE = 0.08  # a bar or shadow along an edge reaches no further
_BORDER_START = 0.04  # and its rim begins no later: a wide bar has no contrast of its own
_BORDER_GAP_PX = 3
_BORDER_FILL = 64  # of 255: a line that is a quarter dark
_FLAT_RANGE = 80  # grey levels between the darkest and lightest large areas of a sheet of paper
_FLAT_CHROMA = 8.0
_HOLE_PX = (13, 36)  # 3.3 to 9 mm

# At a glance, at 25 dpi, a pixel is a square millimetre: two dark pixels side by side are more than a speck. Of 43
# receipts and about 20 printed scans all but the palest have 0.0013 to 0.04 of their pixels in such pairs; dust, holes,
# bars, and sheets with a word or two of handwriting on them have 0.0002 at most.
_GLANCE = 4  # times smaller than `analysis_size`
_GLANCE_CONTRAST = 48
_GLANCE_INSET = 0.125  # no hole and no bar reaches further
_GLANCE_SHARE = 0.001


@dataclass(frozen=True, slots=True)
class Ink:
    """The ink found on a page."""

    is_blank: bool
    """Nothing but paper."""
    share: float
    """Share of the pixels that are ink, without dust and edges."""
    is_white: bool
    """Every pixel is white, but for a dot: not even paper was scanned."""
    mask: Image.Image | None = field(default=None, repr=False)
    """Where there is ink (255); None where there is none, or it was not looked for."""


def analysis_size(width_px: float, height_px: float, inches: tuple[float, float] | None) -> tuple[int, int]:
    """The size at which to judge a picture: 100 dpi, or the size it has if that is less."""
    return size_at_dpi(_DPI, width_px, height_px, inches)


def glance_size(judged: tuple[int, int]) -> tuple[int, int]:
    """The size that is enough for a glance at a picture whose `analysis_size` this is."""
    return max(1, judged[0] // _GLANCE), max(1, judged[1] // _GLANCE)


def find_ink_at_a_glance(picture: Image.Image, judged: tuple[int, int]) -> Ink | None:
    """Judge a page that is written all over in a tenth of the time; None for others, which need `find_ink`.

    The picture is grey or RGB, of `glance_size` or larger; `judged` is its `analysis_size`.
    """
    small = picture.reduce(max(1, round(picture.width * _GLANCE / judged[0]))).convert("L")
    if min(small.size) < 2 * _GLANCE:
        return None
    paper = small.reduce(4).filter(ImageFilter.MedianFilter(3))
    smooth = paper.resize(small.size, Image.Resampling.BILINEAR, box=(0, 0, small.width / 4, small.height / 4))
    darker = _inset(ImageChops.subtract(smooth, small), _GLANCE_INSET)
    dark = darker.point([0] * _GLANCE_CONTRAST + [255] * (256 - _GLANCE_CONTRAST))
    pairs = ImageChops.darker(dark, ImageChops.offset(dark, 1, 0)).histogram()[255]
    pixels = small.width * small.height
    if pairs < _GLANCE_SHARE * pixels:
        return None
    return Ink(is_blank=False, share=dark.histogram()[255] / pixels, is_white=False)


def is_all_white(picture: Image.Image) -> bool:
    """Whether no pixel of a grey or RGB picture has any mark."""
    return not np.count_nonzero(np.asarray(picture) < _WHITE)


def find_ink(picture: Image.Image) -> Ink:
    """Judge a grey or RGB picture of about `analysis_size`."""
    marks = int(np.count_nonzero(np.asarray(picture) < _WHITE))
    if not marks:
        return Ink(is_blank=True, share=0.0, is_white=True)
    contrast, paper = _contrast(picture)
    grain = max(1, percentile(contrast, 0.75))
    threshold = round(min(max(_MIN_CONTRAST, _NOISE_FACTOR * grain), _MAX_CONTRAST))
    mask = _without_borders(contrast.point([0] * threshold + [255] * (256 - threshold)))
    pixels = picture.width * picture.height
    inked, found = int(np.count_nonzero(np.asarray(mask))), True
    if inked <= _INKED_SHARE * pixels:
        inked, found = _components(mask)
    is_blank = not found and _is_flat(paper, picture)
    is_white = is_blank and marks <= _DOT * pixels
    return Ink(is_blank, min(1.0, inked / pixels), is_white, mask=None if is_blank else mask)


def _contrast(picture: Image.Image) -> tuple[Image.Image, Image.Image]:
    """The difference of each pixel from the paper around it, and the paper itself (small, grey).

    Writing in colour is darkest in one channel, light writing on dark paper is lighter in grey: both count.
    """
    grey = picture.convert("L")
    contrasts, papers = [], []
    cells = 8 if min(picture.size) >= 64 else 1  # noqa: PLR2004 - 8 cells
    # reduce() rounds up: without the box the paper would be shifted against its picture.
    box = (0.0, 0.0, picture.width / cells, picture.height / cells)
    for plane in (grey, darkest_channel(picture)) if picture.mode == "RGB" else (grey,):
        papers.append(_paper(plane.reduce(cells)))
        smooth = papers[-1].resize(plane.size, Image.Resampling.BILINEAR, box=box)
        contrasts.append(ImageChops.difference(plane, smooth))
    return ImageChops.lighter(contrasts[0], contrasts[-1]), papers[0]


def _paper(small: Image.Image) -> Image.Image:
    """The brightness of the sheet itself, without its writing.

    Lamps and spines shade whole rows and columns up to the corner, where the window of a median is too small; so rows
    and columns are evened out first.
    """
    levels = np.asarray(small)
    rows, columns = (np.median(levels, axis=axis).astype(np.uint8) for axis in (1, 0))
    down = Image.fromarray(rows[:, np.newaxis]).resize(small.size, Image.Resampling.NEAREST)
    across = Image.fromarray(columns[np.newaxis]).resize(small.size, Image.Resampling.NEAREST)
    profile = ImageChops.add(down, across, 1, -int(np.median(rows)))
    rest = Image.fromarray(median_around(np.asarray(ImageChops.subtract(small, profile, 1, 128))))
    return ImageChops.add(profile, rest, 1, -128)


def median_around(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The median of the 7 × 7 around each pixel, as Pillow's filter finds it, but three times as fast.

    It is found bit by bit, highest first: a bit is set where at most half of the 49 are below the number with that bit.
    """
    height, width = levels.shape
    padded = np.pad(levels, 3, mode="edge")
    around = np.stack([padded[y : y + height, x : x + width] for y in range(7) for x in range(7)])
    found = np.zeros_like(levels)
    for bit in (128, 64, 32, 16, 8, 4, 2, 1):
        higher = found | np.uint8(bit)
        found = np.where((around < higher).sum(axis=0, dtype=np.uint8) <= 24, higher, found)  # noqa: PLR2004 - of 49
    return found


def _without_borders(mask: Image.Image) -> Image.Image:
    """The mask without the bars and shadows that run along a whole side of the sheet."""
    width, height = mask.size
    dark = np.asarray(mask)
    columns, rows = (np.rint(dark.sum(axis=axis) / dark.shape[axis]).astype(np.uint8).tobytes() for axis in (0, 1))
    left, right = _border(columns), width - _border(columns[::-1])
    top, bottom = _border(rows), height - _border(rows[::-1])
    if right - left < 1 or bottom - top < 1 or (right - left, bottom - top) == mask.size:
        return mask
    cleared = Image.new("L", mask.size, 0)
    cleared.paste(mask.crop((left, top, right, bottom)), (left, top))
    return cleared


def _border(filled: bytes) -> int:
    """The number of lines, counted inwards from an edge, that belong to a bar along it; `filled`: how dark each is."""
    reach, start = (round(len(filled) * share) for share in (_BORDER_SHARE, _BORDER_START))
    last = -1
    for index in range(reach):
        if filled[index] >= _BORDER_FILL:
            last = index
        elif index > start and index - last > _BORDER_GAP_PX:
            break
    return last + 3 if last >= 0 else 0  # its own blurred rim included


def _inset(picture: Image.Image, share: float) -> Image.Image:
    """The picture without this share on each side."""
    x, y = round(picture.width * share), round(picture.height * share)
    return picture.crop((x, y, max(x + 1, picture.width - x), max(y + 1, picture.height - y)))


def _is_flat(paper: Image.Image, picture: Image.Image) -> bool:
    """Whether the large areas have one colour, as paper has and a photo has not."""
    inner = _inset(paper, 0.06)
    if percentile(inner, 0.99) - percentile(inner, 0.01) > _FLAT_RANGE:
        return False
    if picture.mode != "RGB":
        return True
    _, blue, red = picture.resize((32, 32), Image.Resampling.BOX).convert("YCbCr").split()
    return max(ImageStat.Stat(blue).stddev[0], ImageStat.Stat(red).stddev[0]) <= _FLAT_CHROMA


def _components(mask: Image.Image) -> tuple[int, bool]:
    """The number of pixels in connected shapes that are ink, and whether there is any such shape."""
    # Gaps of two pixels are closed first: thin writing breaks at this resolution, and a broken letter would look like
    # dust. Areas count the pixels of the mask itself.
    joined = mask
    for shift in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        joined = ImageChops.lighter(joined, ImageChops.offset(joined, *shift))
    shapes = find_shapes(joined, mask)
    if shapes is None:  # too many to be dust
        return mask.histogram()[255], True
    found = [shape for shape in shapes if _is_ink(shape, *mask.size)]
    small = [shape for shape in found if _is_small(shape)]
    specks = len(shapes) - len(found)
    if specks >= _DUSTY and specks >= _DUSTY_FACTOR * len(small):
        # In that much dust, some specks are so close that together they look like a letter. On a clean sheet the same
        # shape is a page number.
        found = [shape for shape in found if not _is_small(shape)]
    return sum(shape.area for shape in found), bool(found)


def _is_small(shape: Shape) -> bool:
    """Whether this may be two or three specks that touch; these would not form a 1."""
    across, down = shape.right - shape.left - 2, shape.bottom - shape.top - 2
    if down >= _NUMERAL_PX and across * 2 <= down:
        return False
    return max(across, down) < _SMALL_PX and shape.area <= _SMALL_AREA_PX


def _is_ink(shape: Shape, width: int, height: int) -> bool:
    # The joining added a pixel on each side.
    across, down = shape.right - shape.left - 2, shape.bottom - shape.top - 2
    if max(across, down) < _LETTER_PX or shape.area < _LETTER_AREA_PX:
        return False
    edge_x, edge_y = max(2, round(width * _EDGE_SHARE)), max(2, round(height * _EDGE_SHARE))
    if shape.right <= edge_x or shape.left >= width - edge_x or shape.bottom <= edge_y or shape.top >= height - edge_y:
        return False  # a strip of shadow along the edge, where no writing is
    return not _is_hole(shape, across, down, width, height)


def _is_hole(shape: Shape, across: int, down: int, width: int, height: int) -> bool:
    """A filled disc near an edge: a punched hole."""
    low, high = _HOLE_PX
    if not (low <= across <= high and low <= down <= high and abs(across - down) <= 4):  # noqa: PLR2004
        return False
    if not 0.65 <= shape.area / (across * down) <= 0.9:  # noqa: PLR2004 - a disc fills π/4
        return False
    x, y = (shape.left + shape.right) / 2 / width, (shape.top + shape.bottom) / 2 / height
    return min(x, 1 - x, y, 1 - y) <= 0.12  # noqa: PLR2004 - a punch reaches no further
