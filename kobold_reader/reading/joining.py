"""Joining: the readings of a page's tiles become one text.

A model gives lines without their places. But the plan by which the page was cut says which lines of writing each tile
shows, and how long they are. So the lines of each answer are aligned with the lines of the plan by length, as Gale and
Church align translations; then the pieces of one line are put together. Where the page had no gap to cut at, two
answers contain the same words; these are found by comparison, and kept once.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

from kobold_reader.pages import LinePiece, PageView, Scalar
from kobold_reader.reading.results import Reading, Status

# Costs of an alignment, in lengths of a line.
_COST_SKIPPED = 0.6  # a line of the plan without an answer
_COST_UNPLANNED = 0.8  # an answer without a line of the plan
_COST_MERGED = 0.25  # for each further line that is taken together with one of the other side
_MAX_MERGED = 12  # lines of the plan that a model wrote as one, or of the answer that the plan took for one
_LEFT_OUT = (1.0, 1.15, 1.35)  # how much longer the answer would be, had the model left out nothing

_MIN_OVERLAP = 0.002  # of a page's side: what two pieces must have in common to show the same writing
_SLACK_LETTERS = 3  # what misreading, and a word cut in half, may add to one copy of an overlap
_ALIKE = 0.7  # how alike two copies of an overlap are at least
_UNEXPECTED = 0.3  # how much more alike an overlap of twice the expected length must be
_SAME_HEAD = 0.85  # how alike the head of a table is to its repetition

_TABLE_ROW = re.compile(r"\s*\|.*\|\s*")
_TABLE_RULE = re.compile(r"\s*\|?(\s*:?-{3,}:?\s*\|)*\s*:?-{3,}:?\s*\|?\s*")
_PARAGRAPH_END = re.compile(r"\S[^\S\n]*\n[^\S\n]*\n\s*$")


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a tile's text, and where it is in the joined text."""

    tile: int
    start: int
    end: int
    at: int = 0


Line = list[Span]
"""One line of the joined text, from left to right; an empty list for an empty line."""


@dataclass(frozen=True, slots=True)
class Joined:
    """One text, and the places of the tiles' texts in it."""

    text: str
    spans: tuple[Span, ...]

    def place(self, tile: int, start: int, end: int) -> tuple[int, int] | None:
        """Return the place of a part of a tile's text; None where it was left out as a double."""
        for span in self.spans:
            if span.tile == tile and span.start <= start and end <= span.end:
                return span.at + start - span.start, span.at + end - span.start
        return None


def join_readings(views: Sequence[PageView], readings: Sequence[Reading]) -> Reading:
    """Make one reading of a page from those of its tiles; both are in reading order."""
    joined = join_tiles(views, [reading.text for reading in readings])
    statuses: list[Status] = [reading.status for reading in readings]
    worst_first: tuple[Status, ...] = ("looping", "truncated", "ok")
    rated = [(reading.confidence, len(reading.text)) for reading in readings if reading.confidence is not None]
    letters = sum(length for _, length in rated)
    lowest = [reading.confidence_p5 for reading in readings if reading.confidence_p5 is not None]
    return replace(
        readings[0],
        status=next((status for status in worst_first if status in statuses), "no_text"),
        text=joined.text,
        view_sizes=tuple(size for reading in readings for size in reading.view_sizes),
        effective_px=min(_page_px(view) for view in views),
        image_verified=all(reading.image_verified for reading in readings),
        confidence=round(sum(value * length for value, length in rated) / letters, 4) if letters else None,
        confidence_p5=min(lowest, default=None),
        doubtful=_moved(joined, readings),
        boxes=(),  # a tile's places are drawn on the page's picture only where the whole page was one image
        attempts=sum(reading.attempts for reading in readings),
        prompt_tokens=_total([reading.prompt_tokens for reading in readings]),
        completion_tokens=_total([reading.completion_tokens for reading in readings]),
        elapsed_s=round(sum(reading.elapsed_s for reading in readings), 3),
    )


def _page_px(view: PageView) -> int:
    """Return the longest side of the page at the scale of this tile."""
    left, top, right, bottom = view.box
    return round(max(view.width_px / (right - left), view.height_px / (bottom - top)))


def _total(counts: Sequence[int | None]) -> int | None:
    return None if None in counts else sum(count or 0 for count in counts)


def _moved(joined: Joined, readings: Sequence[Reading]) -> tuple[Mapping[str, Scalar], ...]:
    """Return the doubtful words of all tiles at their places in the joined text, without those that were left out."""
    moved: list[Mapping[str, Scalar]] = [
        {**word, "start": place[0], "end": place[1]}
        for tile, reading in enumerate(readings)
        for word in reading.doubtful
        if (place := joined.place(tile, int(word["start"]), int(word["end"])))
    ]
    return tuple(sorted(moved, key=lambda word: int(word["start"])))


def join_tiles(views: Sequence[PageView], texts: Sequence[str]) -> Joined:
    """Join the texts of a page's tiles; both are in reading order.

    Nothing that a model wrote is left out, except what two tiles both show.
    """
    lines: list[Line] = []
    for strip in _strips(views):
        _append(lines, _join_strip(strip, views, texts), texts)
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
    """Tell whether two spans are halves of one word, as `_without_double` leaves them."""
    if texts[before.tile][before.end - 1] == "-" and texts[after.tile][after.start] == "|":
        return True  # the rule under the heads of two tables that are one
    ended = texts[before.tile][before.end : before.end + 1].strip(" \t\n|")
    began = texts[after.tile][max(0, after.start - 1) : after.start].strip()
    return before.tile != after.tile and bool(ended) and bool(began)


def _strips(views: Sequence[PageView]) -> list[list[int]]:
    """Return the numbers of the tiles, those together that share a line."""
    strips: list[list[int]] = []
    seen: set[int] = set()
    for number, view in enumerate(views):
        rows = {line.row for line in view.lines}
        if strips and rows & seen:
            strips[-1].append(number)
            seen |= rows
        else:
            strips.append([number])
            seen = rows
    return strips


def _join_strip(strip: Sequence[int], views: Sequence[PageView], texts: Sequence[str]) -> list[Line]:
    if len(strip) == 1:
        return _as_written(strip[0], texts[strip[0]])
    rules: dict[tuple[int, int], Span] = {}
    """Rules under the heads of tables, by tile and start of the line above."""
    placed: dict[int, list[tuple[LinePiece, list[Span]]]] = {}
    for tile in strip:
        lines: list[Span] = []
        for line in _filled_lines(tile, texts[tile]):
            if lines and _TABLE_RULE.fullmatch(texts[tile], line.start, line.end):
                rules[tile, lines[-1].start] = line
            else:
                lines.append(line)
        pieces = views[tile].lines
        for piece, spans in zip(pieces, _align(pieces, lines, texts[tile]), strict=True):
            placed.setdefault(piece.row, []).append((piece, spans))
    joined: list[Line] = []
    for row in sorted(placed):
        whole = _whole_line(placed[row], texts)
        if not whole:
            continue
        if joined and _PARAGRAPH_END.search(texts[whole[0].tile][: whole[0].start]):
            joined.append([])
        joined.append(_without_double_bars(whole, texts))
        rule = [rules[span.tile, span.start] for span in whole if (span.tile, span.start) in rules]
        if rule:
            joined.append(_without_double_bars(rule, texts))
    return joined


def _filled_lines(tile: int, text: str) -> list[Span]:
    return [Span(tile, found.start(), found.end()) for found in re.finditer(r"\S(?:[^\n]*\S)?", text)]


def _as_written(tile: int, text: str) -> list[Line]:
    """Return the lines of one tile, with one empty line for each gap between them."""
    lines: list[Line] = []
    end = 0
    for span in _filled_lines(tile, text):
        if lines and text.count("\n", end, span.start) > 1:
            lines.append([])
        lines.append([span])
        end = span.end
    return lines


# ── lines of an answer and lines of the plan ──────────────────────────────────────────────────────


def _align(pieces: Sequence[LinePiece], lines: Sequence[Span], text: str) -> list[list[Span]]:
    """Return the answer's lines for each piece of the plan, in order; no line of the answer is left out."""
    if len(pieces) == len(lines):
        return [[line] for line in lines]
    if not pieces or not lines:
        return [[] for _ in pieces]
    lengths = [float(line.end - line.start) for line in lines]
    widths = [piece.box[2] - piece.box[0] for piece in pieces]
    letters = sum(lengths) / max(sum(widths), 1e-9)
    tried = [[width * letters * more for width in widths] for more in _LEFT_OUT]
    (_, path), expected = min(((_cheapest_path(one, lengths), one) for one in tried), key=lambda found: found[0][0])
    aligned: list[list[Span]] = [[] for _ in pieces]
    for planned, answered in path:
        spans = list(lines[answered.start : answered.stop])
        if not planned:  # it belongs to no line of the plan, so it follows the line before
            aligned[max(0, planned.start - 1)] += spans
        elif len(planned) == 1:
            aligned[planned.start] += spans
        elif spans:
            for number, part in zip(planned, _split(spans[0], [expected[one] for one in planned], text), strict=True):
                aligned[number] += part
    return aligned


_MANY = range(2, _MAX_MERGED + 1)
_STEPS = ((1, 1), (1, 0), (0, 1), *((n, 1) for n in _MANY), *((1, n) for n in _MANY))


def _cheapest_path(expected: Sequence[float], lengths: Sequence[float]) -> tuple[float, list[tuple[range, range]]]:
    """Align two rows of lengths; return the cost, and in order which of the first belong to which of the second."""
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
                cost = abs(wanted - got) + _COST_MERGED * mean * (max(more, many) - 1)
            else:  # the plan takes specks for writing, so its lines are skipped more cheaply than an answer's
                cost = _COST_SKIPPED * min(mean, wanted) + _COST_UNPLANNED * max(mean if many else 0.0, got)
            cost += best[at][0]
            if to not in best or cost < best[to][0]:
                best[to] = (cost, at)
    end = at = (len(expected), len(lengths))
    path: list[tuple[range, range]] = []
    while at != (0, 0):
        since = best[at][1]
        path.append((range(since[0], at[0]), range(since[1], at[1])))
        at = since
    return best[end][0] / mean, path[::-1]


def _split(line: Span, expected: Sequence[float], text: str) -> list[list[Span]]:
    """Split a line of the answer that holds several of the plan, between the words where they should end."""
    words = [
        Span(line.tile, line.start + word.start(), line.start + word.end())
        for word in re.finditer(r"\S+", text[line.start : line.end])
    ]
    scale = (line.end - line.start) / max(sum(expected), 1e-9)
    parts: list[list[Span]] = []
    end = float(line.start)
    for number, length in enumerate(expected):
        end += length * scale
        is_last = number == len(expected) - 1
        mine = [word for word in words if is_last or (word.start + word.end) / 2 <= end]
        words = words[len(mine) :]
        parts.append([Span(line.tile, mine[0].start, mine[-1].end)] if mine else [])
    return parts


# ── pieces of one line ────────────────────────────────────────────────────────────────────────────


def _whole_line(pieces: Sequence[tuple[LinePiece, list[Span]]], texts: Sequence[str]) -> Line:
    line: Line = []
    before: LinePiece | None = None
    for piece, spans in pieces:
        overlap = 0.0 if before is None else before.box[2] - piece.box[0]
        if line and spans and overlap > _MIN_OVERLAP:
            share = overlap / (piece.box[2] - piece.box[0])
            line[-1], shortened = _without_double(line[-1], spans[0], texts, share)
            line += [shortened, *spans[1:]]
        else:
            line += spans
        before = piece
    return line


def _without_double(left: Span, right: Span, texts: Sequence[str], share: float) -> tuple[Span, Span]:
    """Shorten two pieces of a line by what both show; `share` is the part of `right` expected in the overlap.

    The word at a tile's edge may be cut. So of each copy, the half is kept that is further inside its own tile.
    """
    first, second = texts[left.tile][left.start : left.end], texts[right.tile][right.start : right.end]
    expected = max(1.0, share * len(second))
    most = round(2 * expected) + _SLACK_LETTERS
    best: tuple[float, int, SequenceMatcher[str]] | None = None
    for tail in range(2, min(len(first), most) + 1):
        heads = range(max(2, tail - _SLACK_LETTERS), min(len(second), most, tail + _SLACK_LETTERS) + 1)
        for head in heads:
            match = SequenceMatcher(None, first[-tail:].casefold(), second[:head].casefold(), autojunk=False)
            if match.real_quick_ratio() < _ALIKE or match.quick_ratio() < _ALIKE:
                continue
            ratio = match.ratio()
            fit = ratio - _UNEXPECTED * abs(tail - expected) / expected
            if ratio >= _ALIKE and (best is None or fit > best[0]):
                best = (fit, tail, match)
    if best is None:
        return left, right
    _, tail, match = best
    block = max(match.get_matching_blocks(), key=lambda block: block.size)
    kept = first[: len(first) - tail + block.a + block.size // 2].rstrip()
    rest = second[block.b + block.size // 2 :].lstrip()
    return replace(left, end=left.start + len(kept)), replace(right, start=right.end - len(rest))


def _without_double_bars(line: Line, texts: Sequence[str]) -> Line:
    """Remove the second of two bars between pieces of a table's row."""
    parts = [texts[span.tile][span.start : span.end] for span in line]
    return [
        replace(span, end=span.start + len(part[:-1].rstrip()))
        if index + 1 < len(parts) and part.endswith("|") and parts[index + 1].startswith("|") and len(part) > 1
        else span
        for index, (span, part) in enumerate(zip(line, parts, strict=True))
    ]


def _append(lines: list[Line], more: list[Line], texts: Sequence[str]) -> None:
    """Append the lines of the next tiles; a table that goes on there gets no second head.

    A model begins each table with a head and a rule under it, even if the tile shows the middle of a table.
    """
    above, below = (
        [" ".join(texts[span.tile][span.start : span.end] for span in line) for line in some] for some in (lines, more)
    )
    is_table = bool(above and below) and bool(_TABLE_ROW.fullmatch(above[-1]) and _TABLE_ROW.fullmatch(below[0]))
    if is_table and len(below) > 1 and above[-1].count("|") == below[0].count("|") and _TABLE_RULE.fullmatch(below[1]):
        first = len(above)
        while first and _TABLE_ROW.fullmatch(above[first - 1]):
            first -= 1
        heads = SequenceMatcher(None, above[first].casefold(), below[0].casefold(), autojunk=False)
        is_repeated = heads.ratio() >= _SAME_HEAD or not below[0].strip("| ")
        more = more[2:] if is_repeated else [more[0], *more[2:]]
    lines += more
