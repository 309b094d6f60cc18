"""The readings of a page's tiles become one text. Pure functions.

A model gives lines, not places. But the page was cut by plan: which lines of writing stand in which tile, and how long
they are, is known. So the lines of each answer are aligned to the lines of the plan by their lengths, as translations
are aligned by Gale and Church; then the pieces of one line are put together again. Where there was no gap to cut at,
the same words stand in two answers: those are found by what they have in common, and kept once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import Final

from kobold_reader.pages import LinePiece, PageView
from kobold_reader.reading.aligning import Span, align
from kobold_reader.reading.results import Reading, Scalar, Status

__all__ = ["Joined", "join_readings", "join_tiles"]

_TABLE: Final = re.compile(r"\s*\|.*\|\s*")
_RULE: Final = re.compile(r"\s*\|?(\s*:?-{3,}:?\s*\|)*\s*:?-{3,}:?\s*\|?\s*")
_OVERLAP: Final = 0.002  # of a page's side: what pieces must have in common to show the same writing
_PARAGRAPH: Final = re.compile(r"\S[^\S\n]*\n[^\S\n]*\n\s*$")
_WHITE_OR_BAR: Final = " \t\n|"
_SLACK: Final = 3  # letters: what misreading, and a word cut in half, may add to one copy of an overlap
_ELSEWHERE: Final = 0.3  # what an overlap of twice the length, or none, must be more alike
_SAME_HEAD: Final = 0.85
_ALIKE: Final = 0.7
_WORST_FIRST: Final[tuple[Status, ...]] = ("looping", "truncated", "ok")


_Line = list[Span]
"""What stands on one line of the joined text; nothing for an empty one."""


@dataclass(frozen=True, slots=True)
class Joined:
    """One text, and where the characters of the tiles' texts went.

    Attributes:
        text: The page.
        spans: Parts of the tiles' texts in the order in which they stand in it.
    """

    text: str
    spans: tuple[Span, ...]

    def place(self, tile: int, start: int, end: int) -> tuple[int, int] | None:
        """Where a part of a tile's text stands; None where it was left out, as doubled."""
        for span in self.spans:
            if span.tile == tile and span.start <= start and end <= span.end:
                return span.at + start - span.start, span.at + end - span.start
        return None


def join_tiles(views: Sequence[PageView], texts: Sequence[str]) -> Joined:
    """Join the texts of a page's tiles, both in reading order.

    Nothing that a model wrote is left out, but for what two tiles show both.

    Args:
        views: The tiles.
        texts: What was read in each; "" where there was nothing.
    """
    lines: list[_Line] = []
    for run in _runs(views):
        _continue_tables(lines, _join_run(run, views, texts), texts)
    return _written(lines, texts)


def _runs(views: Sequence[PageView]) -> list[list[int]]:
    """Tiles that stand beside each other: such as share a line."""
    runs: list[list[int]] = []
    seen: set[int] = set()
    for number, view in enumerate(views):
        rows = {line.row for line in view.lines}
        if runs and rows & seen:
            runs[-1].append(number)
            seen |= rows
        else:
            runs.append([number])
            seen = rows
    return runs


def _lines(tile: int, text: str) -> list[Span]:
    """The lines of a text that are not empty."""
    return [Span(tile, found.start(), found.end()) for found in re.finditer(r"\S(?:[^\n]*\S)?", text)]


def _join_run(run: Sequence[int], views: Sequence[PageView], texts: Sequence[str]) -> list[_Line]:
    """The lines of tiles that stand beside each other."""
    if len(run) == 1:
        return _as_written(run[0], texts[run[0]])
    rules: dict[tuple[int, int], Span] = {}
    placed: dict[int, list[tuple[LinePiece, list[Span]]]] = {}
    for tile in run:
        answered, under = _without_rules(_lines(tile, texts[tile]), texts[tile])
        rules |= {(tile, start): rule for start, rule in under.items()}
        for piece, spans in zip(views[tile].lines, align(views[tile].lines, answered, texts[tile]), strict=True):
            placed.setdefault(piece.row, []).append((piece, spans))
    joined: list[_Line] = []
    for row in sorted(placed):
        line = _whole_line(placed[row], texts)
        if not line:
            continue
        if joined and _PARAGRAPH.search(texts[line[0].tile][: line[0].start]):
            joined.append([])
        joined.append(_as_row(line, texts))
        under_line = [rules[span.tile, span.start] for span in line if (span.tile, span.start) in rules]
        if under_line:
            joined.append(_as_row(under_line, texts))
    return joined


def _without_rules(lines: Sequence[Span], text: str) -> tuple[list[Span], dict[int, Span]]:
    """The lines less those that only rule off a table's head, and these by where the line above them starts."""
    kept: list[Span] = []
    rules: dict[int, Span] = {}
    for line in lines:
        if kept and _RULE.fullmatch(text, line.start, line.end):
            rules[kept[-1].start] = line
        else:
            kept.append(line)
    return kept, rules


def _whole_line(pieces: Sequence[tuple[LinePiece, list[Span]]], texts: Sequence[str]) -> _Line:
    """One line of the page, from its pieces in tiles beside each other."""
    line: _Line = []
    before: LinePiece | None = None
    for piece, spans in pieces:
        overlap = 0.0 if before is None else before.box[2] - piece.box[0]
        if line and spans and overlap > _OVERLAP:
            line += _without_double(line, spans, texts, overlap / (piece.box[2] - piece.box[0]))
        else:
            line += spans
        before = piece
    return line


def _as_row(line: _Line, texts: Sequence[str]) -> _Line:
    """Pieces of a table's row without the bars that would stand twice between them."""
    parts = [texts[span.tile][span.start : span.end] for span in line]
    return [
        replace(span, end=span.start + len(part[:-1].rstrip()))
        if index + 1 < len(parts) and part.endswith("|") and parts[index + 1].startswith("|") and len(part) > 1
        else span
        for index, (span, part) in enumerate(zip(line, parts, strict=True))
    ]


def _as_written(tile: int, text: str) -> list[_Line]:
    """The lines of one tile, empty ones between them included."""
    lines: list[_Line] = []
    end = 0
    for span in _lines(tile, text):
        if lines and text.count("\n", end, span.start) > 1:
            lines.append([])
        lines.append([span])
        end = span.end
    return lines


def _without_double(line: _Line, right: _Line, texts: Sequence[str], share: float) -> _Line:
    """Shorten a line, and the piece that follows, by what both show; give the piece.

    The word at a tile's edge may be cut: of two copies of the overlap, the half of each is kept that stands further
    inside its own tile.

    Args:
        line: The line so far; its last span is shortened in place.
        right: What follows.
        texts: Of all tiles.
        share: How much of what follows stands in the overlap.
    """
    before, after = line[-1], right[0]
    first, second = texts[before.tile][before.start : before.end], texts[after.tile][after.start : after.end]
    expected = max(1.0, share * len(second))
    most = round(2 * expected) + _SLACK
    best: tuple[float, int, int] | None = None
    for tail in range(2, min(len(first), most) + 1):
        for head in range(max(2, tail - _SLACK), min(len(second), most, tail + _SLACK) + 1):
            match = SequenceMatcher(None, first[-tail:].casefold(), second[:head].casefold(), autojunk=False)
            if match.real_quick_ratio() < _ALIKE or match.quick_ratio() < _ALIKE:
                continue
            ratio = match.ratio()
            fit = ratio - _ELSEWHERE * abs(tail - expected) / expected
            if ratio >= _ALIKE and (best is None or fit > best[0]):
                best = (fit, tail, head)
    if best is None:
        return right
    _, tail, head = best
    match = SequenceMatcher(None, first[-tail:].casefold(), second[:head].casefold(), autojunk=False)
    block = max(match.get_matching_blocks(), key=lambda block: block.size)
    stop = len(first) - tail + block.a + block.size // 2
    go_on = block.b + block.size // 2
    kept, rest = first[:stop].rstrip(), second[go_on:].lstrip()
    line[-1] = replace(before, end=before.start + len(kept))
    return [replace(after, start=after.end - len(rest)), *right[1:]]


def _continue_tables(lines: list[_Line], more: list[_Line], texts: Sequence[str]) -> None:
    """Add the lines of the next tiles; a table that goes on there gets no second head.

    A model begins each table with a head and a rule under it, though the tile shows the middle of one.
    """
    above, below = ([_text_of(line, texts) for line in some] for some in (lines, more))
    is_table = bool(above and below) and bool(_TABLE.fullmatch(above[-1]) and _TABLE.fullmatch(below[0]))
    if is_table and above[-1].count("|") == below[0].count("|"):
        first = len(above)
        while first and _TABLE.fullmatch(above[first - 1]):
            first -= 1
        if len(below) > 1 and _RULE.fullmatch(below[1]):
            is_repeated = _is_alike(above[first], below[0]) or not below[0].strip("| ")
            more = more[2:] if is_repeated else [more[0], *more[2:]]
    lines += more


def _text_of(line: _Line, texts: Sequence[str]) -> str:
    return " ".join(texts[span.tile][span.start : span.end] for span in line)


def _is_alike(one: str, other: str) -> bool:
    return SequenceMatcher(None, one.casefold(), other.casefold(), autojunk=False).ratio() >= _SAME_HEAD


def _written(lines: Sequence[_Line], texts: Sequence[str]) -> Joined:
    """Write the lines down, and where each span went."""
    text = ""
    spans: list[Span] = []
    for number, line in enumerate(lines):
        if number:
            text += "\n"
        for index, span in enumerate(line):
            if index and not _is_seamless(line[index - 1], span, texts):
                text += " "
            spans.append(replace(span, at=len(text)))
            text += texts[span.tile][span.start : span.end]
    return Joined(text, tuple(spans))


def _is_seamless(before: Span, after: Span, texts: Sequence[str]) -> bool:
    """Whether two spans are the halves of one word, as `_without_double` leaves them."""
    ended = texts[before.tile][before.end : before.end + 1].strip(_WHITE_OR_BAR)
    began = texts[after.tile][max(0, after.start - 1) : after.start].strip()
    if texts[before.tile][before.end - 1] == "-" and texts[after.tile][after.start] == "|":
        return True  # the rule under the heads of two tables that are one
    return before.tile != after.tile and bool(ended) and bool(began)


def join_readings(views: Sequence[PageView], readings: Sequence[Reading]) -> Reading:
    """One reading of a page from those of its tiles, both in reading order."""
    joined = join_tiles(views, [reading.text for reading in readings])
    first = readings[0]
    statuses = [reading.status for reading in readings]
    status: Status = next((worst for worst in _WORST_FIRST if worst in statuses), "no_text")
    sure = [(reading.confidence, len(reading.text)) for reading in readings if reading.confidence is not None]
    letters = sum(length for _, length in sure)
    lowest = [reading.confidence_p5 for reading in readings if reading.confidence_p5 is not None]
    return replace(
        first,
        status=status,
        text=joined.text,
        view_sizes=tuple(size for reading in readings for size in reading.view_sizes),
        effective_px=min(_page_px(view) for view in views),
        image_verified=all(reading.image_verified for reading in readings),
        confidence=round(sum(value * length for value, length in sure) / letters, 4) if letters else None,
        confidence_p5=min(lowest, default=None),
        doubtful=_moved(joined, readings),
        attempts=sum(reading.attempts for reading in readings),
        prompt_tokens=_total([reading.prompt_tokens for reading in readings]),
        completion_tokens=_total([reading.completion_tokens for reading in readings]),
        elapsed_s=round(sum(reading.elapsed_s for reading in readings), 3),
    )


def _page_px(view: PageView) -> int:
    """The longest side of the page, if all of it were as large as in this tile."""
    left, top, right, bottom = view.box
    return round(max(view.width_px / (right - left), view.height_px / (bottom - top)))


def _total(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _moved(joined: Joined, readings: Sequence[Reading]) -> tuple[Mapping[str, Scalar], ...]:
    """The doubtful words of all tiles at their places in the joined text, less those that stand twice."""
    moved: list[Mapping[str, Scalar]] = []
    for tile, reading in enumerate(readings):
        for word in reading.doubtful:
            place = joined.place(tile, int(word["start"]), int(word["end"]))
            if place is not None:
                moved.append({**word, "start": place[0], "end": place[1]})
    return tuple(sorted(moved, key=lambda word: int(word["start"])))
