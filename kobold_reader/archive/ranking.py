"""How hits are ranked: words, trigrams and vectors become one list, weighed by what the query looks like.

Reciprocal rank fusion ruins exact questions: the vectors know nothing of dates and totals, yet their vote counts as
much as the words'. Here the words count in proportion to how exact the query looks (numbers, codes, quoted phrases,
names, rare words) and how much of it a page really holds; the vectors get the rest. Scores are between 0 and 1: 1 is a
page that holds everything asked for, word by word, and that is nearest by meaning too.

The numbers are measured with `tests/benchmarks/search_quality.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from kobold_reader.archive.matching import Evidence
from kobold_reader.archive.query import Kind, Query
from kobold_reader.archive.words import WordHits

_EXACTNESS = {Kind.PHRASE: 1.0, Kind.NUMBER: 1.0, Kind.CODE: 1.0, Kind.NAME: 0.8}
"""How much a kind of term asks to be found as typed."""
_RARITY_FACTOR = {Kind.STOP: 0.1, Kind.PHRASE: 1.8, Kind.NUMBER: 1.8, Kind.CODE: 1.8}
_ADJACENT_SHARE = 0.12
"""Share of a score that terms side by side, as in the query, decide."""
_LIST_SHARE = 0.12
"""Share of a score that bm25 decides."""
_LEAST_TRUST = 0.1
_MOST_TRUST = 0.95
_FOUND_FACTOR = 2.5
_PLAIN_TRUST = 0.5
_QUESTION_FACTOR = 0.75
_TYPICAL_LIST = 20
_HELD = 0.9
"""Share of a query that a page with all of it holds: misread letters and other notations cost a little."""


@dataclass(frozen=True)
class Scored:
    """A page found, with scores between 0 and 1."""

    page_id: str
    score: float
    lexical: float
    """Score of its words alone."""
    dense: float
    """Score of its vectors alone."""


@dataclass(frozen=True)
class Weighing:
    """How a query is to be answered."""

    information: tuple[float, ...]
    """For each term its share of what the query says; they add up to 1."""
    trust: float
    """Share of the words in a score; the rest is the vectors'."""
    is_exact: bool
    """Whether only names, numbers, codes and phrases are asked for."""


def rank(query: Query, found: WordHits, dense: Sequence[tuple[str, float]], limit: int) -> list[Scored]:
    """Merge the three lists.

    Args:
        query: What was asked.
        found: What the words know; its `evidence` covers the pages of `dense`.
        dense: Pages with the cosine of their nearest chunk, the best first; empty without vectors.
        limit: Length of the result.
    """
    weighing = weigh(query, found, has_vectors=bool(dense))
    words, trigrams = _relative(found.words), _relative(found.trigrams)
    meaning = _above_floor(dense)
    scored = []
    for page_id in dict.fromkeys([*found.evidence, *meaning]):
        evidence = found.evidence.get(page_id)
        lexical, holds_all = 0.0, False
        if evidence is not None:
            coverage = _coverage(weighing.information, evidence)
            holds_all = coverage >= _HELD
            lexical = (1 - _LIST_SHARE) * _with_adjacency(coverage, weighing.information, evidence)
            lexical += _LIST_SHARE * (words.get(page_id, 0.0) + 2 * trigrams.get(page_id, 0.0)) / 3
        # Half of the plain words says less than half; of names and numbers it does not.
        lexical **= 2 - weighing.trust
        near = meaning.get(page_id, 0.0)
        score = weighing.trust * lexical + (1 - weighing.trust) * near
        if weighing.is_exact and holds_all:
            # Between pages that hold all of it the vectors would decide by chance, for they know nothing of names and
            # numbers, and so would a word more or less: these pages score the same.
            lexical = round(lexical, 2)
            score = weighing.trust * lexical + (1 - weighing.trust)
        if score > 0:
            scored.append(Scored(page_id, score, lexical, near))
    scored.sort(key=lambda hit: (-hit.score, -hit.lexical, hit.page_id))
    return scored[:limit]


def weigh(query: Query, found: WordHits, *, has_vectors: bool = True) -> Weighing:
    """Decide how much each term tells, and how far the words are to be trusted for this query."""
    raw = [
        _rarity(frequency, found.pages) * _RARITY_FACTOR.get(term.kind, 1.0)
        for term, frequency in zip(query.terms, found.frequencies, strict=True)
    ]
    total = sum(raw) or 1.0
    information = tuple(value / total for value in raw)
    is_exact = all(term.kind in _EXACTNESS or term.kind is Kind.STOP for term in query.terms)
    if not has_vectors:
        return Weighing(information, 1.0, is_exact)
    trust = _exact_trust(query, information, found) + _plain_trust(query, information, found)
    if query.is_question:
        trust *= _QUESTION_FACTOR
    trust = _LEAST_TRUST + (_MOST_TRUST - _LEAST_TRUST) * min(1.0, trust)
    return Weighing(information, trust, is_exact)


def _exact_trust(query: Query, information: Sequence[float], found: WordHits) -> float:
    """Share of the query that looks exact, unless hardly any of it is on any page."""
    is_single = sum(term.kind is not Kind.STOP for term in query.terms) == 1
    plain = _EXACTNESS[Kind.NAME] if is_single else 0.0  # one word alone: that word is wanted
    exact = [
        share * (plain if term.kind is Kind.WORD else _EXACTNESS.get(term.kind, 0.0))
        for term, share in zip(query.terms, information, strict=True)
    ]
    asked = sum(exact)
    return asked * min(1.0, _FOUND_FACTOR * _best_coverage(exact, found) / asked) if asked else 0.0


def _plain_trust(query: Query, information: Sequence[float], found: WordHits) -> float:
    """Trust in plain words: only a page that holds most of them says more than the vectors do."""
    plain = [share if term.kind is Kind.WORD else 0.0 for term, share in zip(query.terms, information, strict=True)]
    asked = sum(plain)
    covered = _best_coverage(plain, found) / asked if asked else 0.0
    return _PLAIN_TRUST * asked * max(0.0, 2 * covered - 1)


def _best_coverage(information: Sequence[float], found: WordHits) -> float:
    return max((_coverage(information, page) for page in found.evidence.values()), default=0.0)


def _coverage(information: Sequence[float], page: Evidence) -> float:
    return sum(i * s for i, s in zip(information, page.strengths, strict=True))


def _with_adjacency(coverage: float, information: Sequence[float], page: Evidence) -> float:
    pairs = [min(pair) for pair in pairwise(information)]
    if not sum(pairs):
        return coverage
    together = sum(i for i, near in zip(pairs, page.adjacent, strict=True) if near) / sum(pairs)
    return (1 - _ADJACENT_SHARE) * coverage + _ADJACENT_SHARE * together


def _rarity(frequency: int, pages: int) -> float:
    frequency = max(1, frequency)  # a term on no page tells no more than a term on one
    return math.log(1 + (pages - frequency + 0.5) / (frequency + 0.5)) + 0.1


def _relative(ranked: Sequence[tuple[str, float]]) -> Mapping[str, float]:
    """Return scores as shares of the best one: bm25 has no scale of its own."""
    best = max((score for _, score in ranked), default=0.0)
    return {page: score / best for page, score in ranked} if best > 0 else {}


def _above_floor(dense: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Return cosines above what this model gives to pages that have nothing to do with the query.

    Some models give any two texts 0.6; the tail of a long list shows it.
    """
    scores = sorted((score for _, score in dense), reverse=True)
    floor = min(0.9, max(0.0, scores[-1])) if len(scores) >= _TYPICAL_LIST else 0.0
    return {page: min(1.0, max(0.0, (score - floor) / (1 - floor))) for page, score in dense}
