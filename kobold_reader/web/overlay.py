"""What is marked on a page's picture: the places of its lines, where the reading knows them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from kobold_reader.archive.catalog import PageRow
from kobold_reader.html.text import Mark
from kobold_reader.reading.boxes import SHARES, LineBox, lines_at
from kobold_reader.reading.results import Reading

__all__ = ["Outline", "Overlay", "overlay"]

LOW: Final = 0.6


@dataclass(frozen=True, slots=True)
class Outline:
    """One line on the picture."""

    number: int
    """The same as of its marks in the text."""
    row: int
    """Of the text as it is edited: several lines may stand side by side in one."""
    points: str
    """Of an SVG polygon."""
    kind: str
    """`passage` and `found`, as the marks in the text; "" for a line that was not looked for."""


@dataclass(frozen=True, slots=True)
class Overlay:
    """All lines of a page, drawn over its picture at whatever size that has."""

    width: int
    height: int
    """In units of `points`: the picture's own shape, so that nothing is distorted."""
    outlines: tuple[Outline, ...]
    marks: tuple[Mark, ...]
    """Say in the text which line is which."""
    is_low: bool
    """The passage stands in the lower part of the page, which a thumbnail may cut off."""

    @property
    def chosen(self) -> tuple[Outline, ...]:
        """The lines that were looked for."""
        return tuple(outline for outline in self.outlines if outline.kind)


def overlay(page: PageRow, reading: Reading | None, marks: Sequence[Mark]) -> Overlay | None:
    """Return what is marked on the picture of a page; None where nobody knows.

    Args:
        page: The page.
        reading: The one that its text is, letter by letter: a box tells nothing of another text.
        marks: In that text.
    """
    if reading is None or not reading.boxes or not reading.view_sizes:
        return None
    if reading.text != page.parts.get(reading.task) or reading.rotation_deg != page.metadata.get("rotation_deg", 0):
        return None  # the picture is turned as the page says
    size, text = reading.view_sizes[0], reading.text
    chosen = {kind: _lines_of(reading.boxes, marks, kind) for kind in ("passage", "found")}
    return Overlay(
        *size,
        outlines=tuple(
            Outline(
                number,
                text.count("\n", 0, box.start),
                _points(box, size),
                " ".join(kind for kind, lines in chosen.items() if number in lines),
            )
            for number, box in enumerate(reading.boxes)
        ),
        marks=tuple(Mark(box.start, box.end, "", line=number) for number, box in enumerate(reading.boxes)),
        is_low=_is_low([reading.boxes[number] for number in chosen["found"] or chosen["passage"]]),
    )


def _lines_of(boxes: Sequence[LineBox], marks: Iterable[Mark], kind: str) -> set[int]:
    return {number for mark in marks if mark.kind == kind for number in lines_at(boxes, mark.start, mark.end)}


def _is_low(boxes: Sequence[LineBox]) -> bool:
    heights = [y for box in boxes for y in box.corners[1::2]]
    return bool(heights) and (min(heights) + max(heights)) / 2 > LOW * SHARES


def _points(box: LineBox, size: tuple[int, int]) -> str:
    pairs = zip(box.corners[::2], box.corners[1::2], strict=True)
    return " ".join(f"{round(x * size[0] / SHARES)},{round(y * size[1] / SHARES)}" for x, y in pairs)
