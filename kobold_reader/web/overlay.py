"""The lines of a page as outlines over its picture, where the reading knows their places."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kobold_reader.archive.store import PageRow
from kobold_reader.html.text import Mark
from kobold_reader.reading.results import SHARES, LineBox, Reading, lines_at

LOW = 0.6


@dataclass(frozen=True, slots=True)
class Outline:
    """One line on the picture."""

    number: int
    """As its marks in the text have it."""
    row: int
    """Of the text as it is edited; a row may hold several lines side by side."""
    points: str
    """Of an SVG polygon."""
    kind: str
    """`passage` and `found`, as the marks in the text; "" for a line that was not searched for."""


@dataclass(frozen=True, slots=True)
class Overlay:
    """All lines of a page, drawn over its picture at any size."""

    width: int
    height: int
    """In the unit of `points`; their ratio is the picture's."""
    outlines: tuple[Outline, ...]
    marks: tuple[Mark, ...]
    """Tell in the text which line is which."""
    is_low: bool
    """The passage is in the lower part of the page, which a thumbnail may cut off."""

    @property
    def chosen(self) -> tuple[Outline, ...]:
        """The lines that were searched for."""
        return tuple(outline for outline in self.outlines if outline.kind)


def overlay(page: PageRow, reading: Reading | None, marks: Sequence[Mark]) -> Overlay | None:
    """Return the lines of a page, or None where their places are not known.

    Args:
        page: The page.
        reading: Its reading; the boxes are of no use if the page's text is another one.
        marks: In the page's text.
    """
    if reading is None or not reading.boxes or not reading.view_sizes:
        return None
    if reading.text != page.parts.get(reading.task) or reading.rotation_deg != page.metadata.get("rotation_deg", 0):
        return None  # the picture is turned as the page's metadata say
    size, boxes = reading.view_sizes[0], reading.boxes
    lines = {kind: _lines_of(boxes, marks, kind) for kind in ("passage", "found")}
    outlines = tuple(
        Outline(
            number,
            reading.text.count("\n", 0, box.start),
            _points(box, size),
            " ".join(kind for kind, numbers in lines.items() if number in numbers),
        )
        for number, box in enumerate(boxes)
    )
    line_marks = tuple(Mark(box.start, box.end, "", line=number) for number, box in enumerate(boxes))
    return Overlay(*size, outlines, line_marks, _is_low([boxes[at] for at in lines["found"] or lines["passage"]]))


def _lines_of(boxes: Sequence[LineBox], marks: Iterable[Mark], kind: str) -> set[int]:
    return {number for mark in marks if mark.kind == kind for number in lines_at(boxes, mark.start, mark.end)}


def _is_low(boxes: Sequence[LineBox]) -> bool:
    heights = [y for box in boxes for y in box.corners[1::2]]
    return bool(heights) and (min(heights) + max(heights)) / 2 > LOW * SHARES


def _points(box: LineBox, size: tuple[int, int]) -> str:
    pairs = zip(box.corners[::2], box.corners[1::2], strict=True)
    return " ".join(f"{round(x * size[0] / SHARES)},{round(y * size[1] / SHARES)}" for x, y in pairs)
