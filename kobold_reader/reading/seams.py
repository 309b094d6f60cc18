"""Where a continued answer begins again with what it was given."""

from __future__ import annotations

from typing import Final

__all__ = ["overlap"]

SHORTEST_OVERLAP: Final = 24
"""Fewer characters are repeated by chance."""
LONGEST_OVERLAP: Final = 2000
RESTART: Final = 200
"""A continuation that equals the first so many characters of the page has started over."""


def overlap(before: str, after: str) -> int:
    r"""Tell how many characters of `after` stand at the end of `before` already.

    KoboldCpp continues exactly, so plain concatenation is the rule. Some models all the same say the last line again,
    or begin the page again. Repetition is taken for that only where it is long, exact, and stands nowhere else before:
    a page that repeats itself may go on doing so.

    >>> overlap("Dear Axel,\nthe slates came on Tuesday", "the slates came on Tuesday with Johansson.")
    26
    >>> overlap("1 bushel of oats ... 0.50\n1 bushel of oats ... 0.50\n", "1 bushel of oats ... 0.50\n")
    0
    """
    if not before:
        return 0
    lead_before = len(before) - len(before.lstrip())
    lead = len(after) - len(after.lstrip())
    page, again = before[lead_before:], after[lead:]
    equal = next((at for at, (one, other) in enumerate(zip(page, again, strict=False)) if one != other), None)
    equal = min(len(page), len(again)) if equal is None else equal
    if equal >= RESTART or (equal == len(page) and equal >= SHORTEST_OVERLAP):
        # From the top: what goes beyond is new. Where it differs it is another attempt, and adds nothing.
        return lead + equal if equal == len(page) else len(after)
    for length in range(min(len(before), len(after), LONGEST_OVERLAP), SHORTEST_OVERLAP - 1, -1):
        head = after[:length]
        if before.endswith(head) and before.count(head) == 1:
            return length
    return 0
