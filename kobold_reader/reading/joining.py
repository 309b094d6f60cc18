"""The readings of a page's tiles become one text. Pure functions.

A model gives lines, not places. But the page was cut by plan: which lines of writing stand in which tile, and how long
they are, is known. So the lines of each answer are aligned to the lines of the plan by their lengths, as translations
are aligned by Gale and Church; then the pieces of one line are put together again. Where there was no gap to cut at,
the same words stand in two answers: those are found by what they have in common, and kept once.

Which line of an answer is which line of the plan: aligned by length, as Gale and Church align translations.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import Final

from kobold_reader.pages import LinePiece, PageView
from kobold_reader.reading.results import Reading, Scalar, Status

__all__ = ["Joined", "Span", "align", "join_readings", "join_tiles"]

_SKIPPED: Final = 0.6  # a line of the plan for which there is no answer, by its length
_UNPLANNED: Final = 0.8  # an answer for which there is no line of the plan
_LEFT_OUT: Final = (1.0, 1.15, 1.35)  # so much longer the answer would be, had the model left out nothing
_JOINT: Final = 0.25
_MOST_LINES: Final = 12  # of the plan that a model wrote as one, or of the answer that the plan took for one


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a tile's text, and where it went."""

    tile: int
    start: int
    end: int
    at: int = 0


def align(pieces: Sequence[LinePiece], lines: Sequence[Span], text: str) -> list[list[Span]]:
    """For each piece of the plan what the answer has for it, in order; no line of the answer is left out."""
    if len(pieces) == len(lines):
        return [[line] for line in lines]
    if not pieces:
        return []
    if not lines:
        return [[] for _ in pieces]
    lengths = [float(line.end - line.start) for line in lines]
    widths = [piece.box[2] - piece.box[0] for piece in pieces]
    letters = sum(lengths) / max(sum(widths), 1e-9)
    tried = [[width * letters * more for width in widths] for more in _LEFT_OUT]
    path, expected = min(((_path(one, lengths), one) for one in tried), key=lambda found: found[0][0])
    found: list[list[Span]] = [[] for _ in pieces]
    for there, here in reversed(path[1]):
        answered = list(lines[here.start : here.stop])
        if not there:  # it belongs to no line of the plan: it follows the one before
            found[max(0, there.start - 1)][:0] = answered
        elif len(there) == 1:
            found[there.start][:0] = answered
        elif answered:
            parts = _shared(answered[0], [expected[one] for one in there], text)
            for number, part in zip(there, parts, strict=True):
                found[number][:0] = part
    return found


def _path(expected: Sequence[float], lengths: Sequence[float]) -> tuple[float, list[tuple[range, range]]]:
    """The cheapest way through two rows of lengths: its cost, and which of the first go with which of the second."""
    mean = max(1.0, sum(lengths) / len(expected))
    best: dict[tuple[int, int], tuple[float, tuple[int, int]]] = {(0, 0): (0.0, (0, 0))}
    for at in itertools.product(range(len(expected) + 1), range(len(lengths) + 1)):
        if at not in best:
            continue
        for more, many in _STEPS:
            to = (at[0] + more, at[1] + many)
            if to[0] > len(expected) or to[1] > len(lengths):
                continue
            wanted, got = sum(expected[at[0] : to[0]]), sum(lengths[at[1] : to[1]])
            if more and many:
                cost = abs(wanted - got) + _JOINT * mean * (max(more, many) - 1)
            else:  # a speck that the plan took for writing is easily passed over, an answer is not
                cost = _SKIPPED * min(mean, wanted) + _UNPLANNED * max(mean if many else 0.0, got)
            cost += best[at][0]
            if to not in best or cost < best[to][0]:
                best[to] = (cost, at)
    total = best[len(expected), len(lengths)][0]
    path: list[tuple[range, range]] = []
    at = (len(expected), len(lengths))
    while at != (0, 0):
        since = best[at][1]
        path.append((range(since[0], at[0]), range(since[1], at[1])))
        at = since
    return total / mean, path[::-1]


_STEPS: Final = (
    (1, 1),
    (1, 0),
    (0, 1),
    *((many, 1) for many in range(2, _MOST_LINES + 1)),
    *((1, many) for many in range(2, _MOST_LINES + 1)),
)


def _shared(line: Span, expected: Sequence[float], text: str) -> list[list[Span]]:
    """A line of the answer that holds several of the plan, taken apart between words where they should end."""
    words = [
        Span(line.tile, line.start + word.start(), line.start + word.end())
        for word in re.finditer(r"\S+", text[line.start : line.end])
    ]
    scale = (line.end - line.start) / max(sum(expected), 1e-9)
    parts: list[list[Span]] = []
    end = float(line.start)
    for number, length in enumerate(expected):
        end += length * scale
        last = number == len(expected) - 1
        mine = [word for word in words if last or (word.start + word.end) / 2 <= end]
        words = words[len(mine) :]
        parts.append([Span(line.tile, mine[0].start, mine[-1].end)] if mine else [])
    return parts


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
