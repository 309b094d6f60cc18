"""How a page is cut that is too small to be read whole: along its white gaps, into the fewest tiles.

A line of writing is cut only where it shows no ink, at the widest gap near the cut, so every word is whole in one
tile. Any other writing in the tile's rectangle is covered with paper. So nothing is read twice, and no half of a word
is there to be guessed at.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from PIL import Image, ImageDraw, ImageFilter, ImageStat

from kobold_reader.pages.images import fit_size, size_at
from kobold_reader.pages.lines import Cell, Row, Writing, find_writing
from kobold_reader.pages.values import Box, ImageBudget, LinePiece

MAX_TILES = 40
"""A page is cut into no more, even if its print remains too small."""

_DPI = 150
_UNKNOWN_SIDE_PX = 1800  # long side where the size of the paper is unknown: A4 at 154 dpi
_MAX_SIDE_PX = 4000

_INCH_LETTER = 0.08
"""Small letters of 10 pt print, as `Writing.letter_px` measures them, in inches."""
_AIM = 1.25
"""Tiles are this much finer than the threshold: measured on receipts, recall still rises there (README)."""
_GAIN = 1.1  # a page is not cut to gain less

# In heights of a small letter.
_ZONE = 10.0  # a long word
_PAD = 0.8
_WIDE_GAP, _SMALLEST_GAP = 1.5, 0.12
_TIGHT = 0.02  # what it costs to cut between lines that are close, in tiles
_FULL = 0.05  # what it costs to fill one tile completely rather than two by halves
_COARSER = 0.85


@dataclass(frozen=True, slots=True)
class _Segment:
    """The part of a row that a tile shows, in px of the plan."""

    row: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of the page."""

    box: Box
    lines: tuple[LinePiece, ...]
    """The writing it shows."""
    cover: Image.Image | None
    """Where it is covered with paper (255), at the plan's scale; None: nowhere."""


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
    """Where that has ink."""

    @cached_property
    def _paper(self) -> Image.Image:
        """The page without its ink, which takes the colour around it."""
        blank = self.letters.point([255] + [0] * 255).filter(ImageFilter.MinFilter(5))
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
    """The size at which to plan: 150 dpi, or the size it has if that is less."""
    wanted = min(max(inches) * _DPI, _MAX_SIDE_PX) if inches else _UNKNOWN_SIDE_PX
    return size_at(wanted, width_px, height_px)


def is_worth_a_look(width_px: float, height_px: float, budget: ImageBudget) -> bool:
    """Whether a page of that size could be cut at all: where all its pixels are sent, nothing is gained."""
    whole = fit_size(width_px, height_px, budget)
    return budget.min_px_per_inch is not None and max(whole) < round(max(width_px, height_px))


def plan_tiles(picture: Image.Image, native_px: tuple[float, float], budget: ImageBudget) -> TilePlan | None:
    """Plan the tiles of a page; None where it is legible whole, or holds no lettering.

    Args:
        picture: The page, upright, of about `plan_size`, grey or RGB.
        native_px: The size beyond which the page has no more detail.
        budget: How large each image may be, and how fine it should be.
    """
    if budget.min_px_per_inch is None or not is_worth_a_look(*native_px, budget):
        return None
    writing = find_writing(picture)
    if writing is None:
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
    tiles = tuple(_tile(writing, part, picture.size) for part in cutter.parts())
    return TilePlan(tiles, scale < min(least, wanted), picture, writing.letters)


class _Cutter:
    """Divides the rows of a page among tiles.

    Args:
        writing: Of the page.
        scale: Px of a tile's image per px of the plan.
        budget: How large an image may be.
    """

    def __init__(self, writing: Writing, scale: float, budget: ImageBudget) -> None:
        self._rows = writing.rows
        self._letters = writing.letters
        self._letter_px = writing.letter_px
        pad = 2 * _PAD * self._letter_px + 2
        self._side = max(1.0, budget.max_side_px / scale - pad)
        self._area = None if budget.max_pixels is None else budget.max_pixels / scale**2
        self._zone = min(_ZONE * self._letter_px, self._side / 4)
        self._boxes = [(row.left, row.top, row.right, row.bottom) for row in self._rows]
        self._gaps: dict[int, list[tuple[int, int]]] = {}
        self._bands = self._banded()

    @property
    def count(self) -> int:
        """How many tiles there will be, at most."""
        return sum(self._columns(*_size(self._extent(*band))) for band in self._bands)

    def parts(self) -> list[list[_Segment]]:
        """What each tile shows."""
        return [part for start, end in self._bands for part in self._across(start, end)]

    def _banded(self) -> list[tuple[int, int]]:
        """Consecutive rows that share tiles: as many as give the fewest tiles."""
        count = len(self._rows)
        best: list[tuple[float, int]] = [(0.0, 0)] + [(float("inf"), 0)] * count
        for end in range(1, count + 1):
            box = self._boxes[end - 1]
            for start in range(end - 1, -1, -1):
                box = _around(box, self._boxes[start])
                cost = self._cost(start, end, box)
                if cost is None:
                    break
                total = best[start][0] + cost
                if total < best[end][0]:
                    best[end] = (total, start)
        bands: list[tuple[int, int]] = []
        end = count
        while end > 0:
            bands.append((best[end][1], end))
            end = best[end][1]
        return bands[::-1]

    def _extent(self, start: int, end: int) -> Cell:
        return functools.reduce(_around, self._boxes[start:end])

    def _width(self, height: float) -> float:
        """How wide a tile of that height may be."""
        return self._side if self._area is None else min(self._side, self._area / max(height, 1.0))

    def _columns(self, width: float, height: float) -> int:
        count, most = 1, self._width(height)
        while width > count * most - (count - 1) * self._zone:
            count += 1
            if count > MAX_TILES:
                break
        return count

    def _cost(self, start: int, end: int, box: Cell) -> float | None:
        """What it costs, in tiles, to show these rows, all in that box, together; None where they do not fit."""
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
        return any(
            left < (row.left + row.right) / 2 < right and top < (row.top + row.bottom) / 2 < bottom
            for number, row in enumerate(self._rows)
            if not start <= number < end
        )

    def _across(self, start: int, end: int) -> list[list[_Segment]]:
        """Divide some rows among tiles side by side."""
        left, top, right, bottom = self._extent(start, end)
        count = self._columns(right - left, bottom - top)
        most = self._width(bottom - top)
        begins = {number: self._rows[number].left for number in range(start, end)}
        parts: list[list[_Segment]] = []
        since = float(left)
        for after in range(count - 1, 0, -1):
            lowest = max(since + self._zone, right - after * most + (after - 1) * self._zone)
            zone = self._best_zone(range(start, end), lowest, since + most - self._zone)
            part = []
            for number in range(start, end):
                row = self._rows[number]
                if row.right <= zone:
                    stop = go_on = row.right
                elif row.left >= zone + self._zone:
                    stop = go_on = row.left
                else:
                    stop, go_on = self._cut(number, zone)
                if stop > begins[number]:
                    part.append(_Segment(number, begins[number], stop))
                begins[number] = go_on
            parts.append(part)
            since = zone
        parts.append([_Segment(n, begins[n], self._rows[n].right) for n in begins if begins[n] < self._rows[n].right])
        return [shown for part in parts if (shown := [one for one in part if _cells(self._rows[one.row], one)])]

    def _best_zone(self, numbers: Iterable[int], lowest: float, highest: float) -> int:
        """Where to cut: through the fewest words, else in the middle of the possible range."""
        highest = max(lowest, highest)
        steps = max(1, min(24, round((highest - lowest) / self._letter_px)))
        middle = (lowest + highest) / 2
        rows = list(numbers)

        def badness(zone: int) -> float:
            total = 0.0
            for number in rows:
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


def _around(one: Cell, other: Cell) -> Cell:
    return min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3])


def _size(box: Cell) -> tuple[int, int]:
    return box[2] - box[0], box[3] - box[1]


def _cells(row: Row, segment: _Segment) -> list[Cell]:
    """The cells of a row that a segment shows, risers and tails included."""
    return [
        (max(cell[0], segment.start), cell[1], min(cell[2], segment.end), cell[3])
        for cell in map(row.whole, row.cells)
        if cell[0] < segment.end and cell[2] > segment.start
    ]


def _tile(writing: Writing, part: Sequence[_Segment], size: tuple[int, int]) -> Tile:
    width, height = size
    shown = {segment.row: _cells(writing.rows[segment.row], segment) for segment in part}
    every = [cell for cells in shown.values() for cell in cells]
    pad = round(_PAD * writing.letter_px) + 1
    left, top = max(0, min(cell[0] for cell in every) - pad), max(0, min(cell[1] for cell in every) - pad)
    right = min(width, max(cell[2] for cell in every) + pad)
    bottom = min(height, max(cell[3] for cell in every) + pad)
    cover = Image.new("L", (right - left, bottom - top), 0)
    draw = ImageDraw.Draw(cover)

    def fill(cells: Iterable[Cell], level: int) -> None:
        for cell in cells:
            if cell[0] < right and cell[2] > left and cell[1] < bottom and cell[3] > top and cell[2] > cell[0]:
                draw.rectangle((cell[0] - left, cell[1] - top, cell[2] - 1 - left, cell[3] - 1 - top), fill=level)

    for row in writing.rows:
        fill(((x0 - 1, y0, x1 + 1, y1) for x0, y0, x1, y1 in map(row.whole, row.cells)), 255)
    for cells in shown.values():
        fill(cells, 0)
    lines = tuple(
        LinePiece(
            number,
            (
                min(cell[0] for cell in cells) / width,
                max(0, min(cell[1] for cell in cells)) / height,
                max(cell[2] for cell in cells) / width,
                min(height, max(cell[3] for cell in cells)) / height,
            ),
        )
        for number, cells in shown.items()
    )
    box = (left / width, top / height, right / width, bottom / height)
    return Tile(box, lines, cover if cover.getbbox() else None)
