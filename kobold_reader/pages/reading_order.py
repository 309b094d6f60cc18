"""The order in which a person reads the boxes of a page: by columns if there are columns, else line by line.

A box is (left, top, right, bottom) in px. The rule for columns was measured on two-column pages, ruled tables and
single columns at 72 to 300 dpi: it reads two-column pages by column and leaves tables alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from kobold_reader.pages.values import Box

_MIN_BOXES = 6  # fewer make no two columns
_CROSSING = 0.12  # at most this share of the boxes crosses the gutter, as headings do
_COLUMN_SHARE = 0.30  # each column holds at least this share of the boxes
_COLUMN_WIDTH = 0.22  # their median width is more than this share of the page; cells of a table are narrower
_STEPS = 41
_SAME_LINE = 0.5  # boxes are on one line where they overlap by this share of the lower one's height


def reading_order(boxes: Sequence[Box], page_width_px: float) -> list[list[int]]:
    """Return the lines of the page in reading order, each a list of indices into `boxes`, left to right.

    Boxes across the gutter (a heading, a footer) keep their place between the parts of the columns above and below
    them.
    """
    gutter = find_gutter(boxes, page_width_px)
    if gutter is None:
        return _lines(boxes, range(len(boxes)))
    across = [index for index, box in enumerate(boxes) if box[0] < gutter < box[2]]
    rest = [index for index in range(len(boxes)) if index not in across]
    ordered: list[list[int]] = []
    for line in _lines(boxes, across):
        top = min(boxes[index][1] for index in line)
        above = [index for index in rest if _middle(boxes[index]) < top]
        ordered += [*_columns(boxes, above, gutter), line]
        rest = [index for index in rest if index not in above]
    return ordered + _columns(boxes, rest, gutter)


def _columns(boxes: Sequence[Box], indices: Sequence[int], gutter: float) -> list[list[int]]:
    left = [index for index in indices if boxes[index][2] <= gutter]
    right = [index for index in indices if boxes[index][0] >= gutter]
    return _lines(boxes, left) + _lines(boxes, right)


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
            if share >= _SAME_LINE and not overlaps_sideways and (best is None or share > best[0]):
                best = (share, line)
        if best:
            best[1].append(index)
        else:
            lines.append([index])
    return sorted(lines, key=lambda line: median(_middle(boxes[index]) for index in line))


def _middle(box: Box) -> float:
    return (box[1] + box[3]) / 2
