"""A page with small writing is cut along its white gaps into the fewest tiles.

First the lines of writing are found, from the page's ink alone. Ink is smeared along the line, and only the rows that
stay dark are kept: the band that the line's small letters fill. So tails and risers that reach into the neighbouring
lines join nothing, and the height of the band is that of the small letters (of the capitals, if there are no others).

Then the lines are divided among tiles. A line is cut only where it shows no ink, at the widest gap near the cut, so
every word is whole in one tile. Other writing in a tile's rectangle is covered with paper. So nothing is read twice,
and the model sees no half of a word that it could guess at.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageStat

from kobold_reader.pages.images import darkest_around, darkest_channel, fit_size, percentile, size_at_dpi
from kobold_reader.pages.orientation import runs_across
from kobold_reader.pages.reading_order import find_gutter
from kobold_reader.pages.shapes import Shape, find_shapes, without_rules
from kobold_reader.pages.values import Box, ImageBudget, LinePiece

MAX_TILES = 40
"""A page is cut into no more, even if its print remains too small."""

_DPI = 150
_INCH_LETTER = 0.08  # height of the small letters of 10 pt print, as `Writing.letter_px` measures them
_AIM = 1.25  # tiles are this much finer than the threshold: measured on receipts, recall still rises there (README)
_GAIN = 1.1  # a page is not cut to gain less
_COARSER = 0.85

# The search for lines, at 150 dpi.
_RULE_PX = 80  # a headline's strokes are shorter
_WINDOW_PX = 20
_LEAST_CONTRAST, _MOST_CONTRAST, _NOISE_FACTOR = 20, 40, 4
_LETTER_PX = 4
_MIN_LETTERS = 8
_BAND_PX = 250  # a dense page has more shapes than `find_shapes` takes at once
_SMALL_PRINT = 0.3  # at least this share of the writing is no larger than `Writing.letter_px`

# In heights of a small letter.
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
_ZONE = 10.0  # a long word
_PAD = 0.8
_WIDE_GAP, _SMALLEST_GAP = 1.5, 0.12

# In tiles.
_TIGHT = 0.02  # the cost of a cut between lines that are close
_FULL = 0.05  # the cost of filling one tile completely rather than two by halves

Cell = tuple[int, int, int, int]
"""Left, top, right, bottom in px of the mask; right and bottom exclusive."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of writing, or a piece of one, in px of the mask."""

    cells: tuple[Cell, ...]
    """Its steps from left to right, each as high as its small letters: a skewed line climbs."""
    letter_px: float
    """Height of its small letters."""
    block: int = 0
    """Each column has a number of its own, and so has each heading across columns."""

    @property
    def left(self) -> int:
        """Left edge of its ink."""
        return self.cells[0][0]

    @property
    def right(self) -> int:
        """Right edge of its ink."""
        return self.cells[-1][2]

    @property
    def width(self) -> int:
        """From its left edge to its right."""
        return self.right - self.left

    @property
    def whole_cells(self) -> list[Cell]:
        """Its cells with their risers and tails."""
        riser, tail = round(_RISER * self.letter_px), round(_TAIL * self.letter_px)
        return [(left, top - riser, right, bottom + tail) for left, top, right, bottom in self.cells]

    @property
    def box(self) -> Cell:
        """All of it, risers and tails included."""
        cells = self.whole_cells
        return self.left, min(cell[1] for cell in cells), self.right, max(cell[3] for cell in cells)

    def gaps(self, letters: Image.Image, start: int, end: int) -> list[tuple[int, int]]:
        """Where the row shows no ink between two places: start and end of each gap."""
        inked = np.zeros(max(0, end - start), np.bool_)
        for cell_left, top, cell_right, bottom in self.cells:
            left, right = max(cell_left, start), min(cell_right, end)
            if left < right:
                # Only the middle of the line counts: tails and risers of the neighbouring lines close no gap.
                above = top - round(_RISER * self.letter_px)
                middle = letters.crop((left, (above + top) // 2, right, bottom))
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


# ── the lines of a page ──────────────────────────────────────────────────────────────────────────


def find_writing(picture: Image.Image) -> Writing | None:
    """Find the lines of an upright grey or RGB picture of about 150 dpi; None where there is no lettering."""
    letters = without_rules(_strokes(picture), _RULE_PX, slack_px=2)
    shapes = [
        Shape(one.left, one.top + top, one.right, one.bottom + top, one.area)
        for top in range(0, letters.height, _BAND_PX)
        for one in find_shapes(letters.crop((0, top, letters.width, min(letters.height, top + _BAND_PX)))) or []
    ]
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
            pieces.append(Row(_ink_cells(bands, shape, left, right, thickness), thickness))
    rows = _in_order(pieces, size, picture.width)
    if not rows:
        return None
    lengths = ((row.letter_px, sum(cell[2] - cell[0] for cell in row.cells)) for row in rows)
    return Writing(tuple(rows), _quantile(lengths, _SMALL_PRINT), letters)


def _strokes(picture: Image.Image) -> Image.Image:
    """A mask of what is darker than its surroundings, also on shaded paper, in colour, and of pale print."""
    grey = darkest_channel(picture)
    darkness = ImageChops.subtract(grey.filter(ImageFilter.BoxBlur(_WINDOW_PX)), grey)
    least = min(max(_LEAST_CONTRAST, _NOISE_FACTOR * percentile(darkness, 0.7)), _MOST_CONTRAST)
    return darkness.point([0] * least + [255] * (256 - least))


def _ink_cells(bands: Image.Image, shape: Shape, left: int, right: int, thickness: float) -> tuple[Cell, ...]:
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
    letter_px = _typical_letter_px(pieces)
    edge = _EDGE * width_px
    writing = [
        one
        for one in pieces
        # Dust is smaller than a letter; a 1 is narrow but high.
        if one.letter_px >= letter_px * (1 if one.width < size else _DUST)
        and (one.width > _NARROW * size or edge <= one.left <= one.right <= width_px - edge)
    ]
    gutter = find_gutter([one.box for one in writing], width_px)
    if gutter is None:
        return _joined(writing, 0)
    across = _joined([one for one in writing if one.left < gutter < one.right], 0)
    sides = ([one for one in writing if one.right <= gutter], [one for one in writing if one.left >= gutter])
    rows: list[Row] = []
    block = 0
    for heading in [*across, None]:
        for index, side in enumerate(sides):
            above = [one for one in side if heading is None or one.cells[0][3] <= heading.box[1] + heading.letter_px]
            rows += _joined(above, block := block + 1)
            sides[index][:] = [one for one in side if one not in above]
        if heading is not None:
            rows.append(Row(heading.cells, heading.letter_px, block := block + 1))
    return rows


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
    rows = [
        Row(tuple(cell for piece in chain for cell in piece.cells), _typical_letter_px(chain), block)
        for chain in chains
    ]
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


def _typical_letter_px(pieces: Sequence[Row]) -> float:
    return _quantile(((one.letter_px, one.width) for one in pieces), 0.5)


def _quantile(values: Iterable[tuple[float, float]], share: float) -> float:
    """The value below which this share of the weights is, of pairs of value and weight."""
    ordered = sorted(values)
    left = share * sum(weight for _, weight in ordered)
    for value, weight in ordered:
        left -= weight
        if left <= 0:
            return value
    return ordered[-1][0]


# ── the tiles of a page ──────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of the page."""

    box: Box
    lines: tuple[LinePiece, ...]
    """The writing it shows."""
    cover: Image.Image | None
    """A mask of what is covered with paper, at the plan's scale; None: nothing."""


@dataclass(frozen=True)
class TilePlan:
    """How a page is cut."""

    tiles: tuple[Tile, ...]
    """In reading order."""
    is_coarse: bool
    """Fine enough tiles would be more than `MAX_TILES`."""
    picture: Image.Image
    """The page that was planned on."""
    letters: Image.Image
    """Where the picture has ink."""

    @functools.cached_property
    def _paper(self) -> Image.Image:
        """The page without its ink, which takes the colour around it."""
        blank = darkest_around(self.letters.point([255] + [0] * 255), 5)
        middle = ImageStat.Stat(self.picture, blank).median if blank.getbbox() else ImageStat.Stat(self.picture).median
        paper = Image.new(self.picture.mode, self.picture.size, tuple(round(value) for value in middle))
        for reach in (24, 12):
            paper = Image.composite(self.picture, paper, blank).filter(ImageFilter.BoxBlur(reach))
        return paper

    def covered(self, tile: Tile, image: Image.Image) -> Image.Image:
        """A tile's image with paper over the writing of other tiles."""
        if tile.cover is None:
            return image
        left, top, right, bottom = tile.box
        width, height = self.picture.size
        paper = self._paper.convert(image.mode).resize(
            image.size, Image.Resampling.BILINEAR, box=(left * width, top * height, right * width, bottom * height)
        )
        return Image.composite(paper, image, tile.cover.resize(image.size, Image.Resampling.BILINEAR))


def plan_size(width_px: float, height_px: float, inches: tuple[float, float] | None) -> tuple[int, int]:
    """The size at which the tiles of a page are planned: 150 dpi, or its own size if that is less."""
    return size_at_dpi(_DPI, width_px, height_px, inches)


def is_worth_a_look(width_px: float, height_px: float, budget: ImageBudget) -> bool:
    """Whether a page of that size could be cut at all: where all its pixels are sent, nothing is gained."""
    if budget.min_px_per_inch is None:
        return False
    return max(fit_size(width_px, height_px, budget)) < round(max(width_px, height_px))


def plan_tiles(picture: Image.Image, native_px: tuple[float, float], budget: ImageBudget) -> TilePlan | None:
    """Plan the tiles of a page; None where it is legible whole, or contains no lettering.

    The picture is upright, of about `plan_size`, grey or RGB. Beyond `native_px` the page has no more detail.
    """
    if budget.min_px_per_inch is None or not is_worth_a_look(*native_px, budget):
        return None
    if (writing := find_writing(picture)) is None:
        return None
    whole_scale = fit_size(*native_px, budget)[0] / picture.width
    native_scale = native_px[0] / picture.width
    least = budget.min_px_per_inch * _INCH_LETTER / writing.letter_px
    wanted = scale = min(_AIM * least, native_scale)
    if whole_scale >= least or scale < _GAIN * whole_scale:
        return None
    while (cutter := _Cutter(writing, scale, budget)).count > MAX_TILES:
        scale *= _COARSER
    if scale < _GAIN * whole_scale:
        return None
    tiles = tuple(_tile(writing, part, picture.size) for part in cutter.tiles())
    return TilePlan(tiles, scale < min(least, wanted), picture, writing.letters)


_Shown = dict[int, list[Cell]]
"""What a tile shows: numbers of rows, and the cells of each, risers and tails included."""


class _Cutter:
    """Divides the rows of a page among tiles, at `scale` px of a tile's image per px of the plan."""

    def __init__(self, writing: Writing, scale: float, budget: ImageBudget) -> None:
        self._rows = writing.rows
        self._letters = writing.letters
        self._letter_px = writing.letter_px
        pad = 2 * _PAD * self._letter_px + 2
        self._side = max(1.0, budget.max_side_px / scale - pad)
        self._area = None if budget.max_pixels is None else budget.max_pixels / scale**2
        self._zone = min(_ZONE * self._letter_px, self._side / 4)
        self._boxes = [row.box for row in self._rows]
        self._gaps: dict[int, list[tuple[int, int]]] = {}
        self._bands = self._banded()

    @property
    def count(self) -> int:
        """How many tiles there will be, at most."""
        return sum(self._columns(*_size(self._extent(*band))) for band in self._bands)

    def tiles(self) -> list[_Shown]:
        """What each tile shows, in reading order."""
        return [shown for start, end in self._bands for shown in self._across(start, end)]

    def _banded(self) -> list[tuple[int, int]]:
        """Divide the rows into bands that share tiles, so that there are the fewest tiles."""
        count = len(self._rows)
        best: list[tuple[float, int]] = [(0.0, 0)] + [(float("inf"), 0)] * count
        for end in range(1, count + 1):
            box = self._boxes[end - 1]
            for start in range(end - 1, -1, -1):
                box = _around(box, self._boxes[start])
                cost = self._cost(start, end, box)
                if cost is None:
                    break
                best[end] = min(best[end], (best[start][0] + cost, start), key=lambda one: one[0])
        bands: list[tuple[int, int]] = []
        while count > 0:
            bands.append((best[count][1], count))
            count = best[count][1]
        return bands[::-1]

    def _extent(self, start: int, end: int) -> Cell:
        return _around(*self._boxes[start:end])

    def _widest(self, height: float) -> float:
        return self._side if self._area is None else min(self._side, self._area / max(height, 1.0))

    def _columns(self, width: float, height: float) -> int:
        count, most = 1, self._widest(height)
        while count <= MAX_TILES and width > count * most - (count - 1) * self._zone:
            count += 1
        return count

    def _cost(self, start: int, end: int, box: Cell) -> float | None:
        """The cost, in tiles, of showing these rows, all in that box, together; None where they do not fit."""
        width, height = _size(box)
        if end - start > 1 and (height > self._side or self._has_strangers(start, end, box)):
            return None
        above = self._letter_px
        if start:
            above = max(0, self._boxes[start][1] - self._boxes[start - 1][3]) / self._letter_px
        return self._columns(width, height) + _TIGHT / (1 + above) + _FULL * min(1.0, height / self._side) ** 2

    def _has_strangers(self, start: int, end: int, box: Cell) -> bool:
        """Whether other rows are among these, such as those of the next column."""
        if self._rows[start].block == self._rows[end - 1].block:
            return False
        left, top, right, bottom = box
        others = (*self._boxes[:start], *self._boxes[end:])
        return any(left < (x0 + x1) / 2 < right and top < (y0 + y1) / 2 < bottom for x0, y0, x1, y1 in others)

    def _across(self, start: int, end: int) -> list[_Shown]:
        """Divide some rows among tiles side by side."""
        left, top, right, bottom = self._extent(start, end)
        count = self._columns(right - left, bottom - top)
        most = self._widest(bottom - top)
        begins = {number: self._rows[number].left for number in range(start, end)}
        tiles: list[_Shown] = []
        since = float(left)
        for after in range(count - 1, -1, -1):
            if after:
                lowest = max(since + self._zone, right - after * most + (after - 1) * self._zone)
                since = zone = self._best_zone(begins, lowest, since + most - self._zone)
            shown: _Shown = {}
            for number, begin in begins.items():
                row = self._rows[number]
                if not after or row.right <= zone:
                    stop = begins[number] = row.right
                elif row.left >= zone + self._zone:
                    stop = begins[number] = row.left
                else:
                    stop, begins[number] = self._cut(number, zone)
                if cells := _cells_between(row, begin, stop):
                    shown[number] = cells
            if shown:
                tiles.append(shown)
        return tiles

    def _best_zone(self, numbers: Iterable[int], lowest: float, highest: float) -> int:
        """Where to cut: through the fewest words, else in the middle of the possible range."""
        highest = max(lowest, highest)
        steps = max(1, min(24, round((highest - lowest) / self._letter_px)))
        middle = (lowest + highest) / 2

        def badness(zone: int) -> float:
            total = 0.0
            for number in numbers:
                left, _, right, _ = self._boxes[number]
                if left < zone + self._zone and right > zone:
                    gaps = self._gaps_in(number, zone)
                    widest = max((b - a for a, b in gaps), default=0) / self._letter_px
                    total += 1 - min(widest, _WIDE_GAP) / _WIDE_GAP
            return total + 0.1 * abs(zone - middle) / max(1.0, highest - lowest)

        places = [round(lowest + (highest - lowest) * step / steps) for step in range(steps + 1)]
        return min(places, key=badness)

    def _gaps_in(self, number: int, zone: int) -> list[tuple[int, int]]:
        """The gaps of a row in which it may be cut."""
        if number not in self._gaps:
            row = self._rows[number]
            beyond = round(2 * self._zone)
            self._gaps[number] = row.gaps(self._letters, row.left - beyond, row.right + beyond)
        end = round(zone + self._zone)
        return [(max(a, zone), min(b, end)) for a, b in self._gaps[number] if a < end and b > zone]

    def _cut(self, number: int, zone: int) -> tuple[int, int]:
        """Where a row ends in the left tile and begins in the right one: at its widest gap, else both show the zone."""
        end = round(zone + self._zone)
        middle = (zone + end) / 2

        def width(gap: tuple[int, int]) -> tuple[float, float]:
            return min(gap[1] - gap[0], _WIDE_GAP * self._letter_px), -abs((gap[0] + gap[1]) / 2 - middle)

        gap = max(self._gaps_in(number, zone), key=width, default=(0, 0))
        if gap[1] - gap[0] < max(1.0, _SMALLEST_GAP * self._letter_px):
            return end, zone
        place = (gap[0] + gap[1]) // 2
        return place, place


def _around(*cells: Cell) -> Cell:
    lefts, tops, rights, bottoms = zip(*cells, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def _size(box: Cell) -> tuple[int, int]:
    return box[2] - box[0], box[3] - box[1]


def _cells_between(row: Row, start: int, end: int) -> list[Cell]:
    """The cells of a row from `start` to `end`, risers and tails included."""
    if end <= start:
        return []
    return [
        (max(cell[0], start), cell[1], min(cell[2], end), cell[3])
        for cell in row.whole_cells
        if cell[0] < end and cell[2] > start
    ]


def _tile(writing: Writing, shown: _Shown, size: tuple[int, int]) -> Tile:
    width, height = size
    boxes = {number: _around(*cells) for number, cells in shown.items()}
    left, top, right, bottom = _around(*boxes.values())
    pad = round(_PAD * writing.letter_px) + 1
    left, top, right, bottom = max(0, left - pad), max(0, top - pad), min(width, right + pad), min(height, bottom + pad)
    cover = Image.new("L", (right - left, bottom - top), 0)
    draw = ImageDraw.Draw(cover)

    def fill(cells: Iterable[Cell], level: int) -> None:
        for cell in cells:
            if cell[0] < right and cell[2] > left and cell[1] < bottom and cell[3] > top and cell[2] > cell[0]:
                draw.rectangle((cell[0] - left, cell[1] - top, cell[2] - 1 - left, cell[3] - 1 - top), fill=level)

    for row in writing.rows:
        fill(((x0 - 1, y0, x1 + 1, y1) for x0, y0, x1, y1 in row.whole_cells), 255)
    for cells in shown.values():
        fill(cells, 0)
    lines = tuple(
        LinePiece(number, (x0 / width, max(0, y0) / height, x1 / width, min(height, y1) / height))
        for number, (x0, y0, x1, y1) in boxes.items()
    )
    box = (left / width, top / height, right / width, bottom / height)
    return Tile(box, lines, cover if cover.getbbox() else None)
