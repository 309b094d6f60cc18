"""Loops: does a text end in endless repetition? Cheap enough to be checked every second while a page is written.

Repetition alone proves nothing: forty equal ledger lines, rows of dots, tables of zeros and columns of ditto marks are
on real paper, and have to be kept. But paper is finite and a loop is not: a text is a loop if it ends in more
repetition than a page can hold. So every limit below is the capacity of a page, with room to spare.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_EQUAL_LINES = 80
"""Repetitions of a unit that contains a line end. Ruled and typewritten pages have up to 70 lines."""
MAX_WORD_CHARS = 600
"""Characters of repeated words without a line end. A printed line has up to 200."""
MAX_LEADER_CHARS = 2000
"""Characters of a repeated unit without letters: dots, dashes, zeros. Models join several dotted lines of a form."""
MIN_COPIES_IN_LINE = 10
"""Fewer copies within a paragraph are a refrain, however long."""
MAX_PROSE_COPIES = ((100, 16), (400, 6))
"""Pairs: least letters of a unit, and how often it occurs at most, on a sheet of labels or receipts."""
MAX_LINE_STEPS = 150
"""Lines that are equal except for a number that grows by one."""
MAX_INLINE_STEPS = 250
"""Numbers that grow by one within a line."""
MIN_LINES_OF_FEW = 120
MAX_DISTINCT_LINES = 4
"""A text whose last 120 lines are at most four different ones is a loop that changes its order."""

_WINDOW = 24_000
_MIN_COPIES = min(copies for _, copies in MAX_PROSE_COPIES)
_LINE_END = re.compile(r"\n|<br ?/?>|</tr>|</p>|\\\\")
_MARKUP = re.compile(r"<[^<>\n]{1,80}>")
_NUMBER = re.compile(r"(\d+)")


@dataclass(frozen=True, slots=True)
class Loop:
    """Where a text begins to repeat itself without end."""

    start: int
    """Start of the first occurrence."""
    kept: int
    """Where to cut the text: after the first or second occurrence of the repeated part."""


def find_loop(text: str, *, patience: float = 1.0) -> Loop | None:
    r"""Find the endless repetition that a text ends in.

    Args:
        text: The text so far.
        patience: Factor on all limits; more than 1 for a text that the model ended by itself, because that is finite.

    >>> find_loop("1 bushel of oats 0.50\n" * 60) is None
    True
    >>> find_loop("To Axel. " + "and the slates " * 60)
    Loop(start=8, kept=23)
    """
    return _repeated_unit(text, patience) or _counting(text, patience) or _few_lines(text, patience)


def _repeated_unit(text: str, patience: float) -> Loop | None:
    """Find the shortest unit of which the text ends in more copies than a page can hold."""
    tail = text[-_WINDOW:]
    shared = _shared_ends(tail)
    for period in range(1, len(tail) // _MIN_COPIES + 1):
        length = shared[period] + period
        if length < _MIN_COPIES * period or not _is_endless(tail[-period:], length, patience):
            continue
        start = len(text) - length
        while start > 0 and text[start - 1] == text[start - 1 + period]:
            start -= 1
        return _loop(text, start, start + period, has_lines="\n" in tail[-period:])
    return None


def _shared_ends(text: str) -> list[int]:
    """For each distance: how many characters at the end of the text equal those that far before (the Z-function)."""
    reverse = text[::-1]
    size = len(reverse)
    shared = [0] * (size + 1)
    left = right = 0
    for at in range(1, size):
        known = min(right - at, shared[at - left]) if at < right else 0
        while at + known < size and reverse[known] == reverse[at + known]:
            known += 1
        shared[at] = known
        if at + known > right:
            left, right = at, at + known
    return shared


def _is_endless(unit: str, length: int, patience: float) -> bool:
    copies = length / len(unit)
    letters = _letters(unit * 3) - _letters(unit * 2)  # a unit may begin within a tag
    if any(letters >= least and copies >= most * patience for least, most in MAX_PROSE_COPIES):
        return True
    if _LINE_END.search(unit * 2):
        return copies > MAX_EQUAL_LINES * patience
    return copies >= MIN_COPIES_IN_LINE and length >= (MAX_WORD_CHARS if letters else MAX_LEADER_CHARS) * patience


def _letters(text: str) -> int:
    return sum(map(str.isalpha, _MARKUP.sub("", text)))


def _counting(text: str, patience: float) -> Loop | None:
    """Find text that is equal except for one number that grows by one; the last number may be half written."""
    parts = _NUMBER.split(text[-_WINDOW:])
    numbers, between = parts[1::2], parts[2::2]
    first = last = len(numbers) - 2
    # Longer numbers are no counters, and Python refuses to read the longest.
    while (
        first > 0
        and between[first - 1] == between[last - 1]
        and max(len(numbers[first - 1]), len(numbers[first])) <= 9  # noqa: PLR2004
        and int(numbers[first]) == int(numbers[first - 1]) + 1
    ):
        first -= 1
    has_lines = last > 0 and "\n" in between[last - 1]
    if last - first < (MAX_LINE_STEPS if has_lines else MAX_INLINE_STEPS) * patience:
        return None
    start = len(text) - sum(map(len, parts[2 * first + 1 :]))
    kept = start + sum(map(len, parts[2 * first + 1 : 2 * first + 4]))
    return _loop(text, start, kept, has_lines=has_lines)


def _few_lines(text: str, patience: float) -> Loop | None:
    """Find many lines in a row of which only a few differ."""
    least = MIN_LINES_OF_FEW * patience
    lines = [line.strip() for line in text.split("\n")[:-1]]
    filled = [line for line in lines if line]
    known = set(filled[-int(least) :])
    if len(filled) < least or len(known) > MAX_DISTINCT_LINES:
        return None
    first = len(lines)
    while first > 0 and (not lines[first - 1] or lines[first - 1] in known):
        first -= 1
    ends = [0, *(found.end() for found in re.finditer("\n", text))]
    return Loop(ends[first], ends[min(first + len(known), len(lines))])


def _loop(text: str, start: int, kept: int, *, has_lines: bool) -> Loop:
    """Keep whole lines where lines are repeated."""
    if has_lines:
        line_end = text.find("\n", max(kept - 1, 0))
        kept = line_end + 1 if line_end >= 0 else kept
    return Loop(start, kept)
