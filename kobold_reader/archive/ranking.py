"""One list out of three: words, trigrams and vectors, weighed by what the query looks like.

Adding up ranks ruins exact questions: the vectors know nothing of dates and totals, yet their vote
counts as much as the words'. Here the words have their say in proportion to how exact the query
looks (numbers, codes, quoted phrases, names, rare words) and to how much of it was really found on
a page; what is left is the vectors'. Scores lie between 0 and 1: 1 is a page that holds everything
asked for, word by word, and is what the vectors would have chosen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from kobold_reader.archive.matching import Evidence
from kobold_reader.archive.query import Kind, Query
from kobold_reader.archive.words import Lookup

__all__ = ["Scored", "Weighing", "rank", "weigh"]

_EXACTNESS = {Kind.PHRASE: 1.0, Kind.NUMBER: 1.0, Kind.CODE: 1.0, Kind.NAME: 0.8}
"""How much a kind of term asks to be found as typed."""

_RARITY_FACTOR = {Kind.STOP: 0.1, Kind.PHRASE: 1.8, Kind.NUMBER: 1.8, Kind.CODE: 1.8}
_ADJACENT_SHARE = 0.12
_LEAST_TRUST = 0.1
_MOST_TRUST = 0.95
_LIST_SHARE = 0.12
_FOUND_FACTOR = 2.5
_PLAIN_TRUST = 0.5
_QUESTION_FACTOR = 0.75
_TYPICAL_LIST = 20
_HELD = 0.9
"""Of a query: misread letters and other notations cost a page a little of it."""


@dataclass(frozen=True)
class Scored:
    """A page found.

    Attributes:
        page_id: Which.
        score: 0 to 1.
        lexical: What its words say alone, 0 to 1.
        dense: What its vectors say alone, 0 to 1.
    """

    page_id: str
    score: float
    lexical: float
    dense: float


@dataclass(frozen=True)
class Weighing:
    """How the query is to be answered.

    Attributes:
        information: For each term its share of what the query says; they add up to 1.
        trust: Share of the words in a score, the rest is the vectors'.
    """

    information: tuple[float, ...]
    trust: float
    is_exact: bool = False
    """Nothing but names, numbers, codes and phrases was asked for."""


def _holds_all(page: Evidence | None, weighing: Weighing) -> bool:
    return page is not None and _coverage(weighing.information, page) >= _HELD


def rank(query: Query, lookup: Lookup, dense: Sequence[tuple[str, float]], limit: int) -> list[Scored]:
    """Merge the three lists.

    Args:
        query: What was asked.
        lookup: What the words know, the pages of `dense` among its `evidence`.
        dense: Pages with the cosine of their nearest passage, the best first; empty without
            vectors.
        limit: Length of the result.
    """
    weighing = weigh(query, lookup, has_vectors=bool(dense))
    lists = _relative(lookup.words), _relative(lookup.trigrams)
    meaning = _above_floor(dense)
    scored = []
    for page_id in dict.fromkeys([*lookup.evidence, *meaning]):
        # of plain words half of them says less than half, of names and numbers it does not
        lexical = _lexical(page_id, lookup, weighing, lists) ** (2 - weighing.trust)
        near = meaning.get(page_id, 0.0)
        score = weighing.trust * lexical + (1 - weighing.trust) * near
        if weighing.is_exact and _holds_all(lookup.evidence.get(page_id), weighing):
            # Between pages that hold all of it the vectors would decide by chance, for they know nothing of names and
            # numbers, and so would a word more or less: these are as good as each other, and keep their own order.
            lexical = round(lexical, 2)
            score = weighing.trust * lexical + (1 - weighing.trust)
        if score > 0:
            scored.append(Scored(page_id, score, lexical, near))
    scored.sort(key=lambda hit: (-hit.score, -hit.lexical, hit.page_id))
    return scored[:limit]


def weigh(query: Query, lookup: Lookup, *, has_vectors: bool = True) -> Weighing:
    """Say how much each term tells, and how far the words are to be trusted for this query."""
    raw = [
        _rarity(frequency, lookup.pages) * _RARITY_FACTOR.get(term.kind, 1.0)
        for term, frequency in zip(query.terms, lookup.frequencies, strict=True)
    ]
    total = sum(raw) or 1.0
    information = tuple(value / total for value in raw)
    is_exact = all(term.kind in _EXACTNESS or term.kind is Kind.STOP for term in query.terms)
    if not has_vectors:
        return Weighing(information, 1.0, is_exact)
    trust = _exact_trust(query, information, lookup) + _plain_trust(query, information, lookup)
    if query.is_question:
        trust *= _QUESTION_FACTOR
    trust = _LEAST_TRUST + (_MOST_TRUST - _LEAST_TRUST) * min(1.0, trust)
    return Weighing(information, trust, is_exact)


def _exact_trust(query: Query, information: Sequence[float], lookup: Lookup) -> float:
    """Share of the query that looks exact, unless hardly any of it stands anywhere."""
    is_single = sum(term.kind is not Kind.STOP for term in query.terms) == 1
    plain = _EXACTNESS[Kind.NAME] if is_single else 0.0  # one word alone: that word is wanted
    exact = [
        share * (plain if term.kind is Kind.WORD else _EXACTNESS.get(term.kind, 0.0))
        for term, share in zip(query.terms, information, strict=True)
    ]
    asked = sum(exact)
    return asked * min(1.0, _FOUND_FACTOR * _best_coverage(exact, lookup) / asked) if asked else 0.0


def _plain_trust(query: Query, information: Sequence[float], lookup: Lookup) -> float:
    """Of plain words only a page that holds most of them says more than the vectors do."""
    plain = [share if term.kind is Kind.WORD else 0.0 for term, share in zip(query.terms, information, strict=True)]
    asked = sum(plain)
    covered = _best_coverage(plain, lookup) / asked if asked else 0.0
    return _PLAIN_TRUST * asked * max(0.0, 2 * covered - 1)


def _best_coverage(information: Sequence[float], lookup: Lookup) -> float:
    return max((_coverage(information, page) for page in lookup.evidence.values()), default=0.0)


def _coverage(information: Sequence[float], page: Evidence) -> float:
    return sum(i * s for i, s in zip(information, page.strengths, strict=True))


def _rarity(frequency: int, pages: int) -> float:
    frequency = max(1, frequency)  # what stands nowhere tells no more than what stands once
    return math.log(1 + (pages - frequency + 0.5) / (frequency + 0.5)) + 0.1


def _lexical(
    page_id: str,
    lookup: Lookup,
    weighing: Weighing,
    lists: tuple[Mapping[str, float], Mapping[str, float]],
) -> float:
    page = lookup.evidence.get(page_id)
    if page is None:
        return 0.0
    coverage = _coverage(weighing.information, page)
    pairs = [min(pair) for pair in pairwise(weighing.information)]
    if pairs and sum(pairs):
        together = sum(i for i, near in zip(pairs, page.adjacent, strict=True) if near) / sum(pairs)
        coverage = (1 - _ADJACENT_SHARE) * coverage + _ADJACENT_SHARE * together
    words, trigrams = (relative.get(page_id, 0.0) for relative in lists)
    return (1 - _LIST_SHARE) * coverage + _LIST_SHARE * (words + 2 * trigrams) / 3


def _relative(ranked: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Scores as shares of the best one: bm25 has no scale of its own."""
    best = max((score for _, score in ranked), default=0.0)
    return {page: score / best for page, score in ranked} if best > 0 else {}


def _above_floor(dense: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Cosines above what this model gives to pages that have nothing to do with the query.

    Some models put any two texts at 0.6; the tail of a long list shows it.
    """
    scores = sorted((score for _, score in dense), reverse=True)
    floor = max(0.0, scores[-1]) if len(scores) >= _TYPICAL_LIST else 0.0
    floor = min(floor, 0.9)
    return {page: min(1.0, max(0.0, (score - floor) / (1 - floor))) for page, score in dense}
