"""The order in which a person reads the boxes of a page: block by block, columns column by column, tables row by row.

A box is (left, top, right, bottom) in px. The page is cut where a gutter parts running text: lines across it (headings,
footnotes, rows of a table) divide the gutter, and what lies left and right of a piece of it is cut again. A gutter
parts columns only where the lines on both sides are as wide as text and mostly full, or do not stand in common rows. In
doubt boxes are read row by row, as a table, a form or a receipt must be.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Final, Literal

from kobold_reader.pages.values import Box

_MIN_BOXES: Final = 6  # fewer make no two columns
_SAME_LINE: Final = 0.5  # boxes are on one line where they overlap by this share of the lower one's height
_INITIAL: Final = 1.8  # a large initial is so much higher than the lines beside it, and belongs to the first
_VERTICAL: Final = 2.0  # a box so much higher than wide is a vertical line of Japanese or Chinese

# In heights of a line.
_WORD_GAP: Final = 0.8  # a wider gap parts two pieces of a row
_BAND_GAP: Final = 0.7  # a higher gap parts two bands
_FAR: Final = 2.5  # a band so far from columns is not their continuation
_ACROSS: Final = 0.3  # how far a line reaches over a gutter that it does not cross
_TEXT_WIDTH: Final = 8.0  # running text is as wide
_ENTRY_WIDTH: Final = 4.5  # entries of an index, lines of an address
_NOTE_WIDTH: Final = 2.5  # marginal notes; numbers of lines and paragraphs are narrower
_WIDE: Final = 12.0
_LEVEL: Final = 0.2  # two pieces whose middles are so near stand in one row
_SKEW: Final = 0.01  # slope of a scan that lies askew

_MIN_ROWS: Final = 3
_MIN_ENTRIES: Final = 4
_MIN_ROWS_OF_NARROW_GUTTER: Final = 8
_FULL_WIDTH: Final = 0.7  # of the widest: a full line
_FULL_LINES: Final = 0.62  # running text has as many full lines
_ROWS_SHARED: Final = 0.65  # a table has more rows in common
_LIST_SHARED: Final = 0.5  # a list beside running text has lines of its own
_NOTES: Final = 0.6  # there are fewer notes than lines

Kind = Literal["across", "columns", "rows", "few"]


def reading_order(boxes: Sequence[Box], page_width_px: float, *, right_to_left: bool = False) -> list[list[int]]:
    """Return the lines of the page in reading order, each a list of indices into `boxes`.

    With `right_to_left` (Arabic, Hebrew) columns and the pieces of a line go from right to left. Vertical lines are
    left in the order of their tops.
    """
    if right_to_left:
        boxes = [(page_width_px - right, top, page_width_px - left, bottom) for left, top, right, bottom in boxes]
    vertical = sum(box[3] - box[1] > _VERTICAL * (box[2] - box[0]) for box in boxes)
    if vertical * 2 > len(boxes):
        return _lines(boxes, range(len(boxes)))
    return _arranged(boxes, range(len(boxes)))


def _arranged(boxes: Sequence[Box], indices: Sequence[int]) -> list[list[int]]:
    """Order a part of the page."""
    lines = _lines(boxes, indices)
    blocks = _cut(boxes, lines) if len(indices) >= _MIN_BOXES else None
    if blocks is None:
        return lines
    return [line for block in blocks for line in _arranged(boxes, block)]


# ── cutting ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of a row without a wide gap."""

    box: Box
    indices: tuple[int, ...]

    @property
    def width(self) -> float:
        return self.box[2] - self.box[0]


@dataclass(slots=True)
class _Band:
    """Rows on both sides of a gutter, or one row across it."""

    kind: Kind
    left: list[_Piece]
    right: list[_Piece]
    top: float
    bottom: float
    rows: list[tuple[list[_Piece], list[_Piece]]]

    @property
    def pieces(self) -> list[_Piece]:
        return self.left + self.right


def _cut(boxes: Sequence[Box], lines: Sequence[Sequence[int]]) -> list[list[int]] | None:
    """Cut lines into blocks at the gutter that parts most text; None where no gutter parts columns."""
    height = median(boxes[index][3] - boxes[index][1] for line in lines for index in line)
    rows = [_pieces(boxes, line, height) for line in lines]
    starts = sorted({boxes[index][0] for line in lines for index in line})
    best: tuple[int, list[list[int]]] | None = None
    last = starts[0]
    for start in starts[1:]:
        if start - last < _ACROSS * height:
            continue  # the same edge
        last, gutter = start, start - _ACROSS * height
        bands = _bands([_parted(boxes, row, gutter, height) for row in rows], gutter, height)
        blocks, parted = _blocks(bands, height)
        if parted and (best is None or parted > best[0]):
            best = (parted, blocks)
    return best[1] if best else None


def _pieces(boxes: Sequence[Box], line: Sequence[int], height: float) -> list[_Piece]:
    pieces: list[_Piece] = []
    for index in line:
        box = boxes[index]
        if pieces and box[0] - pieces[-1].box[2] <= _WORD_GAP * height:
            before = pieces.pop()
            pieces.append(_Piece(_around([before.box, box]), (*before.indices, index)))
        else:
            pieces.append(_Piece(box, (index,)))
    return pieces


def _parted(boxes: Sequence[Box], row: Sequence[_Piece], gutter: float, height: float) -> list[_Piece]:
    """Part the piece that lies over a gutter where its boxes leave that free: some gutters are as narrow as a space."""
    parted: list[_Piece] = []
    for piece in row:
        sides = [
            tuple(index for index in piece.indices if (boxes[index][0] + boxes[index][2] < 2 * gutter) == is_left)
            for is_left in (True, False)
        ]
        halves = [_Piece(_around(boxes[index] for index in side), side) for side in sides if side]
        parted += [piece] if any(_crosses(half, gutter, height) for half in halves) else halves
    return parted


def _around(boxes: Iterable[Box]) -> Box:
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def _bands(rows: Sequence[Sequence[_Piece]], gutter: float, height: float) -> list[_Band]:
    """Part the rows at those across the gutter, and at gaps."""
    bands: list[_Band] = []
    for number, row in enumerate(rows):
        _, top, _, bottom = _around(piece.box for piece in row)
        is_across = any(_crosses(piece, gutter, height) for piece in row)
        left = [piece for piece in row if _centre(piece) < gutter]
        right = [piece for piece in row if _centre(piece) >= gutter]
        if is_across and _is_joined(rows, number, gutter, height):
            is_across, left, right = False, list(row), []
        if is_across:
            bands.append(_Band("across", left, right, top, bottom, []))
        elif bands and bands[-1].kind != "across" and top - bands[-1].bottom <= _BAND_GAP * height:
            band = bands[-1]
            band.left += left
            band.right += right
            band.bottom = max(band.bottom, bottom)
            band.rows.append((left, right))
        else:
            bands.append(_Band("few", left, right, top, bottom, [(left, right)]))
    for band in bands:
        if band.kind != "across":
            band.kind = _kind(band, height)
    return bands


def _crosses(piece: _Piece, gutter: float, height: float) -> bool:
    return piece.box[0] < gutter - _ACROSS * height and piece.box[2] > gutter + _ACROSS * height


def _is_joined(rows: Sequence[Sequence[_Piece]], number: int, gutter: float, height: float) -> bool:
    """Tell whether a row is a line of each column that OCR took for one: it stands in both columns without a gap."""
    above, below = rows[max(0, number - 2) : number], rows[number + 1 : number + 3]
    if len(rows[number]) > 1 or not above or not below:
        return False
    left, top, _, bottom = rows[number][0].box
    for near in (above, below):
        pieces = [piece for row in near for piece in row]
        beside = [piece for piece in pieces if _centre(piece) < gutter]
        if not beside or len(beside) == len(pieces) or any(_crosses(piece, gutter, height) for piece in pieces):
            return False
        if abs(min(piece.box[0] for piece in beside) - left) > height:
            return False
    gaps = (top - _around(piece.box for piece in above[-1])[3], _around(piece.box for piece in below[0])[1] - bottom)
    return max(gaps) <= _BAND_GAP * height


def _kind(band: _Band, height: float) -> Kind:
    """Tell whether a gutter parts two columns in this band, or the cells of rows."""
    if not band.left or not band.right:
        return "few"
    sides = [_running(band, side) for side in (0, 1)]
    widths = [median(piece.width for piece in side) / height for side in sides]
    counts = [sum(bool(row[side]) for row in band.rows) for side in (0, 1)]
    if min(counts) < _MIN_ROWS and max(counts) < 2 * _MIN_ROWS:
        is_narrow = max(widths) < _TEXT_WIDTH or len(band.pieces) > 3 * len(band.rows)
        return "rows" if is_narrow else "few"
    both = [(left[-1], right[0]) for left, right in band.rows if left and right]
    # Where words are boxes, spaces of some lines one under the other look like a gutter.
    if both and median(other.box[0] - one.box[2] for one, other in both) <= _WORD_GAP * height:
        overlap = max(one.box[2] for one, _ in both) - min(other.box[0] for _, other in both)
        if min(counts) < _MIN_ROWS_OF_NARROW_GUTTER or overlap > -_ACROSS * height:
            return "rows"
    full = [_full_share(side) for side in sides]
    if min(widths) >= _TEXT_WIDTH and min(full) >= _FULL_LINES:
        return "columns"
    slopes = [(_middle(other.box) - _middle(one.box)) / max(1.0, _centre(other) - _centre(one)) for one, other in both]
    slope = max(-_SKEW, min(_SKEW, median(slopes))) if slopes else 0.0
    level = sum(_are_level(one.box, other.box, slope, height) for one, other in both)
    if min(widths) >= _ENTRY_WIDTH and min(counts) >= _MIN_ENTRIES and level < _ROWS_SHARED * min(counts):
        return "columns"
    if _are_notes(band, widths, counts, full, height):
        return "columns"
    text = int(widths[1] > widths[0])
    is_list = widths[1 - text] >= _NOTE_WIDTH and min(counts) >= _MIN_ENTRIES and level < _LIST_SHARED * min(counts)
    if is_list and widths[text] >= _WIDE and full[text] >= _FULL_LINES:
        return "columns"
    return "rows"


def _running(band: _Band, side: int) -> list[_Piece]:
    """Return the lines of one side; without the rows of a table in it, where most rows are lines."""
    rows = [row[side] for row in band.rows if row[side]]
    lines = [row[0] for row in rows if len(row) == 1]
    return lines if len(lines) * 2 > len(rows) else [piece for row in rows for piece in row]


def _are_level(one: Box, other: Box, slope: float, height: float) -> bool:
    """Tell whether two boxes stand in one row of a page with this slope."""
    expected = slope * ((other[0] + other[2]) - (one[0] + one[2])) / 2
    return abs(_middle(other) - _middle(one) - expected) <= _LEVEL * height


def _full_share(side: Sequence[_Piece]) -> float:
    widths = sorted(piece.width for piece in side)
    widest = widths[round(0.9 * (len(widths) - 1))]
    return sum(width >= _FULL_WIDTH * widest for width in widths) / len(widths)


def _are_notes(
    band: _Band, widths: Sequence[float], counts: Sequence[int], full: Sequence[float], height: float
) -> bool:
    """Tell whether one side is notes in the margin of the other: a few lines, one under the other."""
    text = int(widths[1] > widths[0])
    notes = 1 - text
    if widths[text] < _WIDE or full[text] < _FULL_LINES or widths[notes] < _NOTE_WIDTH:
        return False
    side = sorted((band.left, band.right)[notes], key=lambda piece: piece.box[1])
    stacked = sum(below.box[1] - above.box[3] <= _BAND_GAP * height for above, below in pairwise(side))
    return counts[notes] < _NOTES * counts[text] and stacked * 2 >= len(side)


def _blocks(bands: Sequence[_Band], height: float) -> tuple[list[list[int]], int]:
    """Join bands to blocks of columns, each left then right, and what is between; and how many boxes are in columns."""
    blocks: list[list[int]] = []
    rest: list[_Band] = []
    parted = 0
    position = 0
    while position < len(bands):
        if bands[position].kind != "columns":
            rest.append(bands[position])
            position += 1
            continue
        columns = [bands[position]]
        while rest and rest[-1].kind == "few" and rest[-1].left and _follows(rest[-1], columns[0], height):
            if len(rest) > 1 and rest[-1].top - rest[-2].bottom < columns[0].top - rest[-1].bottom:
                break  # it belongs to what is above it
            columns.insert(0, rest.pop())
        position += 1
        while (more := _continued(bands, position, height)) > position:
            columns += bands[position:more]
            position = more
        blocks += [_indices(piece for band in rest for piece in band.pieces)] if rest else []
        rest = []
        sides = [
            _indices(piece for band in columns for piece in band.left),
            _indices(piece for band in columns for piece in band.right),
        ]
        blocks += sides
        parted += sum(map(len, sides))
    blocks += [_indices(piece for band in rest for piece in band.pieces)] if rest else []
    return blocks, parted


def _continued(bands: Sequence[_Band], position: int, height: float) -> int:
    """Return where the bands end that continue the columns above `position`: up to more columns, or close below."""
    end = position
    while end < len(bands) and bands[end].kind == "few" and not _is_heading(bands, end, height):
        end += 1
    if end < len(bands) and bands[end].kind == "columns":
        return end + 1
    near = position
    while near < end and _follows(bands[near - 1], bands[near], height) and not _is_caption(bands, near):
        near += 1
    return near


def _is_caption(bands: Sequence[_Band], position: int) -> bool:
    """Tell whether a single row is nearer to what stands below it than to the columns above."""
    band = bands[position]
    if len(band.rows) != 1 or position + 1 == len(bands):
        return False
    return bands[position + 1].top - band.bottom < band.top - bands[position - 1].bottom


def _is_heading(bands: Sequence[_Band], position: int, height: float) -> bool:
    """Tell whether a short line at the left is a heading of the columns below it: both start under it."""
    if bands[position].right or len(bands[position].left) > 1 or position + 1 == len(bands):
        return False
    below = bands[position + 1]
    if not below.left or not below.right:
        return False
    firsts = [min((piece.box for piece in side), key=lambda box: box[1]) for side in (below.left, below.right)]
    apart = abs(firsts[1][1] - firsts[0][1]) - _SKEW * (firsts[1][0] - firsts[0][0])
    return below.kind == "columns" and apart <= _LEVEL * height


def _follows(above: _Band, below: _Band, height: float) -> bool:
    return below.top - above.bottom <= _FAR * height


def _indices(pieces: Iterable[_Piece]) -> list[int]:
    return [index for piece in pieces for index in piece.indices]


def _centre(piece: _Piece) -> float:
    return (piece.box[0] + piece.box[2]) / 2


# ── lines ───────────────────────────────────────────────────────────────────────────────────────────


def _lines(boxes: Sequence[Box], indices: Sequence[int]) -> list[list[int]]:
    """Group boxes into lines, top to bottom; each joins the line of its neighbour to the left.

    Comparing with the neighbour, not with the first box, keeps the lines of a skewed page together.
    """
    lines: list[list[int]] = []
    for index in sorted(indices, key=lambda one: (boxes[one][0], boxes[one][1])):
        best: tuple[float, list[int]] | None = None
        for line in lines:
            last = boxes[line[-1]]
            shared = min(last[3], boxes[index][3]) - max(last[1], boxes[index][1])
            share = shared / max(1.0, min(last[3] - last[1], boxes[index][3] - boxes[index][1]))
            overlaps_sideways = boxes[index][0] < last[2] - 0.5 * (last[3] - last[1])
            is_below_initial = (
                last[3] - last[1] > _INITIAL * (boxes[index][3] - boxes[index][1])
                and boxes[index][1] - last[1] > _SAME_LINE * (boxes[index][3] - boxes[index][1])
                and len(line) == 1
            )
            if (
                share >= _SAME_LINE
                and not overlaps_sideways
                and not is_below_initial
                and (best is None or share > best[0])
            ):
                best = (share, line)
        if best:
            best[1].append(index)
        else:
            lines.append([index])
    return sorted(lines, key=lambda line: median(_middle(boxes[index]) for index in line))


def _middle(box: Box) -> float:
    return (box[1] + box[3]) / 2


# ── one gutter a page, for tiles ─────────────────────────────────────────────────────────────────

_CROSSING: Final = 0.12  # at most this share of the boxes crosses the gutter, as headings do
_COLUMN_SHARE: Final = 0.30  # each column holds at least this share of the boxes
_COLUMN_WIDTH: Final = 0.22  # their median width is more than this share of the page; cells of a table are narrower
_STEPS: Final = 41


def find_gutter(boxes: Sequence[Box], page_width_px: float) -> float | None:
    """Return x of the emptiest gutter in the middle half of the page, or None where there are no columns."""
    if len(boxes) < _MIN_BOXES:
        return None
    best: tuple[int, float] | None = None
    for step in range(_STEPS):
        x = page_width_px * (0.25 + 0.5 * step / (_STEPS - 1))
        crossing = sum(1 for box in boxes if box[0] < x < box[2])
        sides = ([box for box in boxes if box[2] <= x], [box for box in boxes if box[0] >= x])
        if crossing > _CROSSING * len(boxes) or any(len(side) < _COLUMN_SHARE * len(boxes) for side in sides):
            continue
        if any(median(box[2] - box[0] for box in side) <= _COLUMN_WIDTH * page_width_px for side in sides):
            continue
        if best is None or crossing < best[0]:
            best = (crossing, x)
    return best[1] if best else None
