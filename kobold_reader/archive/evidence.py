"""What one page holds of one query, and how surely."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from kobold_reader.archive.matching import Page, Resemblances, follows, match_strength
from kobold_reader.archive.query import Kind, Query

__all__ = ["Evidence", "weighed"]

_TELLING_DIGITS = 3
_LONELY_NUMBER = 0.3


@dataclass(frozen=True)
class Evidence:
    """What one page holds of one query.

    Attributes:
        strengths: For each term, how surely the page holds it: 1 as typed … 0 not at all.
        adjacent: For each term but the last, whether the next one follows it on the page.
    """

    strengths: tuple[float, ...]
    adjacent: tuple[bool, ...]


def weighed(query: Query, page: Page, frequencies: tuple[int, ...], resemblances: Resemblances) -> Evidence:
    """Weigh what a page holds of the query, whose terms stand on so many pages."""
    adjacent = tuple(follows(*pair, page) for pair in pairwise(query.terms))
    strengths = []
    for index, (term, frequency) in enumerate(zip(query.terms, frequencies, strict=True)):
        strength = match_strength(term, page, is_known=frequency > 0, resemblances=resemblances)
        # a 12 stands on every page; the 12 of "12 March" stands beside its March
        if adjacent and term.kind is Kind.NUMBER and len(term.folded) < _TELLING_DIGITS:
            strength *= 1.0 if any(adjacent[max(0, index - 1) : index + 1]) else _LONELY_NUMBER
        strengths.append(strength)
    return Evidence(tuple(strengths), adjacent)
