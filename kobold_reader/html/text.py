"""What was read, as HTML: escaped, doubtful words marked, tables laid out, and otherwise exactly as it is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Final

from kobold_reader.reading.results import Reading

__all__ = ["Mark", "doubtful_marks", "escaped", "marked_html", "reading_html"]

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_RULE: Final = re.compile(r"\s*\|?(\s*:?-+:?\s*\|)+(\s*:?-+:?\s*)?\|?\s*")
_CELL_END: Final = re.compile(r"(?<!\\)\|")

Span = tuple[int, int]
"""Start and end in a text."""


def escaped(text: str) -> str:
    """Return text that is nothing but text, wherever in HTML it stands."""
    return escape(_CONTROL.sub("\ufffd", text))


@dataclass(frozen=True, slots=True)
class Mark:
    """A part of a text that is shown in its own way."""

    start: int
    end: int
    kind: str
    """CSS class; doubtful words have none."""
    hint: str = ""
    """Shown under the pointer, or at a tap."""
    line: int | None = None
    """Tells only that it is this line of the page, and looks like nothing."""


def reading_html(reading: Reading) -> str:
    """Return a reading's text, its doubtful words marked with what else they may be."""
    return marked_html(reading.text, doubtful_marks(reading))


def doubtful_marks(reading: Reading) -> list[Mark]:
    """Return the marks of a reading's doubtful words; what is no place in its text is left out."""
    marks: list[Mark] = []
    last = 0
    for word in sorted(reading.doubtful, key=lambda word: int(word.get("start", 0))):
        start, end, rival = int(word.get("start", 0)), int(word.get("end", 0)), str(word.get("rival", ""))
        if last <= start < end <= len(reading.text):
            marks.append(Mark(start, end, "", f"or: {rival}" if rival else "doubtful"))
            last = end
    return marks


def marked_html(text: str, marks: Iterable[Mark]) -> str:
    """Return a text with its tables laid out and parts of it marked; marks may overlap."""
    marker = _Marker(text, marks)
    blocks = []
    for rows, span in _blocks(text):
        if rows:
            blocks.append(_table(rows, marker))
        elif block := text[slice(*span)].strip("\n"):
            start = text.index(block, span[0])  # the empty lines around a table are its margin
            blocks.append(f'<div class="text" dir="auto">{marker.html((start, start + len(block)))}</div>')
    return "\n".join(blocks)


class _Marker:
    """Escapes parts of a text, with what is marked in them."""

    def __init__(self, text: str, marks: Iterable[Mark]) -> None:
        self._text = text
        self._marks = sorted(marks, key=lambda mark: (mark.start, mark.end))

    def html(self, span: Span) -> str:
        inside = [mark for mark in self._marks if mark.start < span[1] and mark.end > span[0]]
        bounds = {bound for mark in inside for bound in (mark.start, mark.end) if span[0] < bound < span[1]}
        return "".join(
            self._run(start, end, [mark for mark in inside if mark.start <= start and mark.end >= end])
            for start, end in pairwise(sorted({*span, *bounds}))
        )

    def _run(self, start: int, end: int, marks: Sequence[Mark]) -> str:
        text = escaped(self._text[start:end])
        if not marks:
            return text
        line = next((mark.line for mark in marks if mark.line is not None), None)
        placed = f' data-line="{line}"' if line is not None else ""
        if all(mark.line is not None for mark in marks):
            return f"<span{placed}>{text}</span>"
        kinds = " ".join(dict.fromkeys(mark.kind for mark in marks if mark.kind))
        hint = next((mark.hint for mark in marks if mark.hint), "")
        named = f' class="{escaped(kinds)}"' if kinds else ""
        hinted = f' tabindex="0" title="{escaped(hint)}"' if hint else ""
        return f"<mark{named}{hinted}{placed}>{text}</mark>"


def _blocks(text: str) -> Iterator[tuple[list[list[Span]], Span]]:
    """Yield what stands between tables (without rows), and tables as rows of cells."""
    lines = _lines(text)
    begun, number = 0, 0
    while number < len(lines):
        if not _is_table(text, lines, number):
            number += 1
            continue
        yield [], (begun, lines[number][0])
        rows = [_cells(text, lines[number])]
        number += 2
        while number < len(lines) and "|" in text[slice(*lines[number])]:
            rows.append(_cells(text, lines[number]))
            number += 1
        begun = lines[number][0] if number < len(lines) else len(text)
        yield rows, (0, 0)
    yield [], (begun, len(text))


def _lines(text: str) -> list[Span]:
    """Return the lines without their line ends."""
    ends = [*(end.start() for end in re.finditer("\n", text)), len(text)]
    return list(zip([0, *(end + 1 for end in ends)], ends, strict=False))


def _is_table(text: str, lines: Sequence[Span], number: int) -> bool:
    """Tell whether a table's head stands here: a line of cells over a line of dashes."""
    if number + 1 >= len(lines) or "|" not in text[slice(*lines[number])]:
        return False
    return bool(_RULE.fullmatch(text[slice(*lines[number + 1])]))


def _cells(text: str, line: Span) -> list[Span]:
    start, end = line
    bounds = [start, *(start + bar.end() for bar in _CELL_END.finditer(text[start:end])), end + 1]
    cells = [(first, last - 1) for first, last in pairwise(bounds)]
    if not text[slice(*cells[0])].strip():
        cells = cells[1:]
    if cells and not text[slice(*cells[-1])].strip():
        cells = cells[:-1]
    return cells


def _table(rows: Sequence[Sequence[Span]], marker: _Marker) -> str:
    head, *body = rows
    return (
        f'<div class="table"><table dir="auto"><thead>{_row(head, "th", marker)}</thead>\n'
        f"<tbody>{''.join(_row(row, 'td', marker) for row in body)}</tbody></table></div>"
    )


def _row(cells: Sequence[Span], tag: str, marker: _Marker) -> str:
    return f"<tr>{''.join(f'<{tag}>{marker.html(cell).strip()}</{tag}>' for cell in cells)}</tr>"
