"""Lines of writing on a page and the size of their letters, found from the page's ink alone.

A line is the band that its small letters fill: ink is smeared along the line, and only the rows that stay dark are
kept, so tails and risers that reach into the neighbouring lines join nothing. The height of that band is the height of
the small letters (of the capitals, where there are only capitals).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from kobold_reader.pages.images import darkest_channel, percentile
from kobold_reader.pages.orientation import runs_across
from kobold_reader.pages.reading_order import find_gutter
from kobold_reader.pages.shapes import Shape, find_shapes, without_rules

_RULE_PX = 80  # at about 150 dpi: a headline's strokes are shorter
_WINDOW_PX = 20
_LEAST_CONTRAST, _MOST_CONTRAST, _NOISE_FACTOR = 20, 40, 4
_LETTER_PX = 4
_MIN_LETTERS = 8
_BAND_PX = 250

# All in heights of a small letter.
_SMEAR = 1.3
_SOFT = 0.12
_DARK = 0.4  # of the darkest row of the line
_FAINT = 8
_AROUND = 0.8
_THIN, _TALL = 0.3, 8.0
_CELL = 5.0
_SAME_ROW = 0.6
_RISER, _TAIL = 0.8, 0.6
_DUST = 0.5
_NARROW = 2.0
_EDGE = 0.03  # of the page: the shadow along its edge breaks into pieces no wider than a letter

_SMALL_PRINT = 0.3  # so much of the writing is no larger

Cell = tuple[int, int, int, int]
"""Left, top, right, bottom in px of the mask; right and bottom exclusive."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of writing, in px of the mask."""

    cells: tuple[Cell, ...]
    """Its steps from left to right, each as high as its small letters: a skewed line climbs."""
    letter_px: float
    """Height of its small letters."""
    block: int = 0
    """Rows of one column, and each heading across columns, have a number of their own."""

    @property
    def left(self) -> int:
        """Left edge of its ink."""
        return self.cells[0][0]

    @property
    def right(self) -> int:
        """Right edge of its ink."""
        return self.cells[-1][2]

    @property
    def top(self) -> int:
        """Top of its risers."""
        return min(cell[1] for cell in self.cells) - round(_RISER * self.letter_px)

    @property
    def bottom(self) -> int:
        """Bottom of its tails."""
        return max(cell[3] for cell in self.cells) + round(_TAIL * self.letter_px)

    def whole(self, cell: Cell) -> Cell:
        """A cell with its risers and tails."""
        left, top, right, bottom = cell
        return left, top - round(_RISER * self.letter_px), right, bottom + round(_TAIL * self.letter_px)

    def gaps(self, letters: Image.Image, start: int, end: int) -> list[tuple[int, int]]:
        """Where the row shows no ink between two places: start and end of each gap."""
        inked = np.zeros(max(0, end - start), np.bool_)
        for cell in self.cells:
            left, top, right, _ = self.whole(cell)
            left, right = max(left, start), min(right, end)
            if left < right:
                # The middle of the line: tails and risers of the neighbouring lines close no gap.
                middle = letters.crop((left, (top + cell[1]) // 2, right, cell[3]))
                inked[left - start : right - start] |= np.asarray(middle).any(axis=0)
        edges = np.flatnonzero(np.diff(inked, prepend=True, append=True)) + start
        return [(int(one), int(other)) for one, other in edges.reshape(-1, 2)]


@dataclass(frozen=True, slots=True)
class Writing:
    """The writing of a page."""

    rows: tuple[Row, ...]
    """In reading order."""
    letter_px: float
    """Height of the small letters of its smaller print."""
    letters: Image.Image
    """The mask without its rules."""


def find_writing(picture: Image.Image) -> Writing | None:
    """Find the lines of an upright grey or RGB picture of about 150 dpi; None where there is no lettering."""
    letters = without_rules(_strokes(picture), _RULE_PX, slack_px=2)
    shapes = _letters_of(letters)
    heights = [one.height for one in shapes if one.height >= _LETTER_PX and one.width < 10 * one.height]
    if len(heights) < _MIN_LETTERS or not runs_across(shapes):
        return None
    size = median(heights)
    reach = max(1, round(_SMEAR * size))
    smeared = letters.filter(ImageFilter.BoxBlur((reach, _SOFT * size)))
    around = _highest(_highest(smeared, round(_AROUND * size), (0, 1)), reach, (1, 0))
    around = around.point([max(_FAINT, round(level * _DARK)) for level in range(256)])
    bands = ImageChops.subtract(smeared, around).point([0] + [255] * 255)
    pieces = []
    for shape in find_shapes(bands) or []:
        thickness = shape.area / shape.width
        if shape.height < _THIN * size or thickness > _TALL * size:
            continue
        ends = letters.crop((shape.left, shape.top, shape.right, shape.bottom)).getbbox()
        if ends is not None:  # the smear reaches beyond the line's ends
            left, right = shape.left + ends[0], shape.left + ends[2]
            pieces.append(Row(_cells(bands, shape, left, right, thickness), thickness))
    rows = _in_order(pieces, size, picture.width)
    if not rows:
        return None
    lengths = [(row.letter_px, sum(cell[2] - cell[0] for cell in row.cells)) for row in rows]
    return Writing(tuple(rows), _quantile(lengths, _SMALL_PRINT), letters)


def _strokes(picture: Image.Image) -> Image.Image:
    """A mask of what is darker than its surroundings, also on shaded paper, in colour, and of pale print."""
    grey = darkest_channel(picture)
    darkness = ImageChops.subtract(grey.filter(ImageFilter.BoxBlur(_WINDOW_PX)), grey)
    least = min(max(_LEAST_CONTRAST, _NOISE_FACTOR * percentile(darkness, 0.7)), _MOST_CONTRAST)
    return darkness.point([0] * least + [255] * (256 - least))


def _cells(bands: Image.Image, shape: Shape, left: int, right: int, thickness: float) -> tuple[Cell, ...]:
    """Follow a band from left to right."""
    count = max(1, round((right - left) / (_CELL * thickness)))
    cells: list[Cell] = []
    for index in range(count):
        start, end = (left + (right - left) * edge // count for edge in (index, index + 1))
        box = bands.crop((start, shape.top, end, shape.bottom)).getbbox()
        if box is None:
            continue
        top, bottom = shape.top + box[1], shape.top + box[3]
        if cells and bottom - top > 1.8 * thickness:
            _, top, _, bottom = cells[-1]
        cells.append((start, top, end, bottom))
    return tuple(cells) or ((left, shape.top, right, shape.bottom),)


def _in_order(pieces: Sequence[Row], size: float, width_px: int) -> list[Row]:
    """Join pieces that are on one line, column by column."""
    if not pieces:
        return []
    letter_px = _quantile([(one.letter_px, one.right - one.left) for one in pieces], 0.5)
    edge = _EDGE * width_px
    writing = [
        one
        for one in pieces
        if not _is_dust(one, size, letter_px)
        and (one.right - one.left > _NARROW * size or edge <= one.left <= one.right <= width_px - edge)
    ]
    boxes = [(float(one.left), float(one.top), float(one.right), float(one.bottom)) for one in writing]
    gutter = find_gutter(boxes, width_px)
    if gutter is None:
        return _joined(writing, 0)
    across = _joined([one for one in writing if one.left < gutter < one.right], 0)
    sides = ([one for one in writing if one.right <= gutter], [one for one in writing if one.left >= gutter])
    rows: list[Row] = []
    block = 0
    for heading in [*across, None]:
        for index, side in enumerate(sides):
            above = [one for one in side if heading is None or one.cells[0][3] <= heading.top + heading.letter_px]
            rows += _joined(above, block := block + 1)
            sides[index][:] = [one for one in side if one not in above]
        if heading is not None:
            rows.append(Row(heading.cells, heading.letter_px, block := block + 1))
    return rows


def _is_dust(piece: Row, size: float, letter_px: float) -> bool:
    """Whether a piece is smaller than a letter; a 1 is narrow but high."""
    if piece.right - piece.left < size:
        return piece.letter_px < letter_px
    return piece.letter_px < _DUST * letter_px


def _joined(pieces: Sequence[Row], block: int) -> list[Row]:
    """Rows of pieces, top to bottom; each piece joins the one that ends where it starts."""
    chains: list[list[Row]] = []
    for piece in sorted(pieces, key=lambda one: one.left):
        best: tuple[float, list[Row]] | None = None
        start = _middle(piece.cells[0])
        for chain in chains:
            last = chain[-1]
            apart = abs(_middle(last.cells[-1]) - start)
            size = max(last.letter_px, piece.letter_px)
            if apart <= _SAME_ROW * size and piece.left >= last.right - size and (best is None or apart < best[0]):
                best = (apart, chain)
        if best:
            best[1].append(piece)
        else:
            chains.append([piece])
    rows = []
    for chain in chains:
        cells = tuple(cell for piece in chain for cell in piece.cells)
        lengths = [(piece.letter_px, piece.right - piece.left) for piece in chain]
        rows.append(Row(cells, _quantile(lengths, 0.5), block))
    return sorted(rows, key=lambda row: median(_middle(cell) for cell in row.cells))


def _middle(cell: Cell) -> float:
    return (cell[1] + cell[3]) / 2


def _highest(grey: Image.Image, reach: int, along: tuple[int, int]) -> Image.Image:
    """The highest value from `reach` px before to `reach` px after each pixel, along one axis."""
    for direction in (1, -1):
        step, left = 1, reach
        while left > 0:
            by = direction * min(step, left)
            grey = ImageChops.lighter(grey, ImageChops.offset(grey, by * along[0], by * along[1]))
            left -= step
            step *= 2
    return grey


def _letters_of(letters: Image.Image) -> list[Shape]:
    """The connected shapes, found band by band: a dense page has more than `find_shapes` takes at once."""
    found: list[Shape] = []
    for top in range(0, letters.height, _BAND_PX):
        shapes = find_shapes(letters.crop((0, top, letters.width, min(letters.height, top + _BAND_PX)))) or []
        found += [Shape(one.left, one.top + top, one.right, one.bottom + top, one.area) for one in shapes]
    return found


def _quantile(values: Sequence[tuple[float, float]], share: float) -> float:
    """The value below which this share of the weights is; of pairs of value and weight."""
    left = share * sum(weight for _, weight in values)
    for value, weight in sorted(values):
        left -= weight
        if left <= 0:
            return value
    return max(value for value, _ in values)
