"""Does this text go round in circles? Pure functions, cheap enough to be asked every second while a page is written.

Repetition alone proves nothing: forty equal ledger lines, rows of dots, tables of zeros and columns of dittos stand on
real paper, and are to be kept. But paper is finite, and a loop is not: what tells them apart is that a text ends in
more repetition than a page can hold. So every limit below is the capacity of a page, with room to spare.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

__all__ = ["Loop", "find_loop"]

EQUAL_UNITS: Final = 80
"""Repetitions of a unit with a line end. Ruled and typewritten pages have up to 70 lines."""
WORD_CHARS: Final = 600
"""Characters of repeated words without a line end. A printed line has up to 200."""
LEADER_CHARS: Final = 2000
"""The same without any letter: dots, dashes, cells of zeros. Models join several dotted lines of a form."""
FEWEST_IN_LINE: Final = 10
"""A refrain that comes a few times within a paragraph is none, however long."""
PROSE: Final = ((100, 16), (400, 6))
"""Letters of a longer unit, and how often it comes at most: a sheet of labels, of receipts."""
STEPS_DOWN: Final = 150
"""Lines that are equal but for a number that grows by one."""
STEPS_ALONG: Final = 250
"""The same within a line."""
FEW_DISTINCT: Final = (120, 4)
"""So many lines in a row of which so few differ: a loop that changes its order."""

_WINDOW: Final = 24_000
_FEWEST: Final = min(fewest for _, fewest in PROSE)
_LINE_END: Final = re.compile(r"\n|<br ?/?>|</tr>|</p>|\\\\")
_MARKUP: Final = re.compile(r"<[^<>\n]{1,80}>")
_NUMBER: Final = re.compile(r"(\d+)")


@dataclass(frozen=True, slots=True)
class Loop:
    """Where a text begins to repeat itself without end."""

    start: int
    """Of the first occurrence."""
    kept: int
    """Where to cut: behind the first occurrence or two of what is repeated."""


def find_loop(text: str, *, patience: float = 1.0) -> Loop | None:
    r"""Find the endless repetition that a text ends in.

    Args:
        text: What was written so far.
        patience: Factor on all limits. A text that its writer ended by itself is finite, and deserves more.

    >>> find_loop("1 bushel of oats 0.50\n" * 60) is None
    True
    >>> find_loop("To Axel. " + "and the slates " * 60)
    Loop(start=8, kept=23)
    """
    return _periodic(text, patience) or _counting(text, patience) or _few_lines(text, patience)


def _periodic(text: str, patience: float) -> Loop | None:
    """The shortest unit that the text ends in more copies of than a page can hold."""
    tail = text[-_WINDOW:]
    shared = _shared_ends(tail)
    for period in range(1, len(tail) // _FEWEST + 1):
        length = shared[period] + period
        if length < _FEWEST * period or not _is_endless(tail[-period:], length, patience):
            continue
        start = len(text) - length
        while start > 0 and text[start - 1] == text[start - 1 + period]:
            start -= 1
        return _loop(text, start, start + period, has_lines="\n" in tail[-period:])
    return None


def _shared_ends(text: str) -> list[int]:
    """For each distance: how many characters at the end of the text equal those so far before (the Z-function)."""
    turned = text[::-1]
    size = len(turned)
    shared = [0] * (size + 1)
    left = right = 0
    for at in range(1, size):
        known = min(right - at, shared[at - left]) if at < right else 0
        while at + known < size and turned[known] == turned[at + known]:
            known += 1
        shared[at] = known
        if at + known > right:
            left, right = at, at + known
    return shared


def _is_endless(unit: str, length: int, patience: float) -> bool:
    copies = length / len(unit)
    letters = _letters(unit * 3) - _letters(unit * 2)  # a unit may begin within a tag
    if any(letters >= least and copies >= most * patience for least, most in PROSE):
        return True
    if _LINE_END.search(unit * 2):
        return copies > EQUAL_UNITS * patience
    return copies >= FEWEST_IN_LINE and length >= (WORD_CHARS if letters else LEADER_CHARS) * patience


def _letters(text: str) -> int:
    return sum(map(str.isalpha, _MARKUP.sub("", text)))


def _counting(text: str, patience: float) -> Loop | None:
    """Equal but for one number that grows by one: `1. 2. 3. …`; the last number may be half written."""
    parts = _NUMBER.split(text[-_WINDOW:])
    numbers, between = parts[1::2], parts[2::2]
    last = len(numbers) - 2
    first = last
    # Longer numbers are no counters, and Python refuses to read the longest.
    while first > 0 and between[first - 1] == between[last - 1] and _follows(numbers[first - 1], numbers[first]):
        first -= 1
    steps = last - first
    if steps < (STEPS_DOWN if last > 0 and "\n" in between[last - 1] else STEPS_ALONG) * patience:
        return None
    start = len(text) - sum(map(len, parts[2 * first + 1 :]))
    kept = start + sum(map(len, parts[2 * first + 1 : 2 * first + 4]))
    return _loop(text, start, kept, has_lines="\n" in between[last - 1])


def _follows(one: str, other: str) -> bool:
    return len(other) <= 9 and len(one) <= 9 and int(other) == int(one) + 1  # noqa: PLR2004


def _few_lines(text: str, patience: float) -> Loop | None:
    least, few = FEW_DISTINCT
    lines = text.split("\n")[:-1]
    filled = [line.strip() for line in lines if line.strip()]
    known = set(filled[-int(least * patience) :])
    if len(filled) < least * patience or len(known) > few:
        return None
    first = len(lines)
    while first > 0 and (not lines[first - 1].strip() or lines[first - 1].strip() in known):
        first -= 1
    start = sum(len(line) + 1 for line in lines[:first])
    kept = sum(len(line) + 1 for line in lines[: first + len(known)])
    return Loop(start, kept)


def _loop(text: str, start: int, kept: int, *, has_lines: bool) -> Loop:
    """Whole lines are kept where lines are repeated."""
    if has_lines:
        line_end = text.find("\n", max(kept - 1, 0))
        kept = line_end + 1 if line_end >= 0 else kept
    return Loop(start, kept)
