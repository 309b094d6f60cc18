"""Where on the page the lines of a reading stand: offsets in its text beside corners in its picture.

Only an engine that finds lines before it reads them knows. A line here is what it read in one go: on a page of columns
or a table there are several side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

__all__ = ["SHARES", "Corners", "LineBox", "joined", "lines_at"]

SHARES: Final = 10_000
"""A picture's width, and its height, in units of corners: they hold at every size it is shown in."""

Corners = tuple[int, ...]
"""x and y of four corners, clockwise from where the line begins: a line on a skewed page is no upright rectangle."""


class LineBox(NamedTuple):
    """A line's place in the text and on the upright page; a tuple, so that it is kept as a plain JSON array."""

    start: int
    end: int
    corners: Corners


def joined(lines: Iterable[Iterable[tuple[str, Corners]]]) -> tuple[str, tuple[LineBox, ...]]:
    r"""Return the text that pieces of lines make, and where each stands in it; pieces without text count for nothing.

    >>> joined([[("Mooring", ()), ("12.50", ())], [("Total", ())]])[0]
    'Mooring 12.50\nTotal'
    """
    text = ""
    boxes: list[LineBox] = []
    for line in lines:
        gap = "\n"
        for piece, corners in line:
            if not piece:
                continue
            text += gap if text else ""
            boxes.append(LineBox(len(text), len(text) + len(piece), corners))
            text += piece
            gap = " "
    return text, tuple(boxes)


def lines_at(boxes: Sequence[LineBox], start: int, end: int) -> list[int]:
    """Return the numbers of the lines that hold any of these characters; what stands between lines is in none."""
    return [number for number, box in enumerate(boxes) if box.start < end and box.end > start]
