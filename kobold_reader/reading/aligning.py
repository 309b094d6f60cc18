"""Which line of an answer is which line of the plan: aligned by length, as Gale and Church align translations."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from kobold_reader.pages import LinePiece

__all__ = ["Span", "align"]

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
