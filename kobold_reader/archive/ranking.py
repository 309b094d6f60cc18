"""How hits are ranked: how surely a page answers, and which of two pages that are equally sure comes first.

The score says how surely: it comes from the words that the page holds, and from how much nearer it is by meaning than a
page that has nothing to do with the query. It depends on nothing else, so it orders the hits of several archives and
modes. From `FOUND` on a page counts as found; below, it may be related. The constants were fitted on the developed half
of the questions of `tests/benchmarks/found.py`, of which half have no answer.

The order decides the rest. Reciprocal rank fusion ruins exact questions: the vectors know nothing of dates and totals,
yet their vote counts as much as the words'. Here the words count in proportion to how exact the query looks (numbers,
codes, quoted phrases, names, rare words) and how much of it a page really holds; the vectors get the rest.

A transcription misreads letters (`Lindqvlst`), glues words together (`TotalRM9.00`) and pulls them apart. So a term is
looked for in steps of falling trust, and the first step that finds it gives its strength between 0 and 1. Numbers are
treated more strictly than words: 1954 is not 1955, and 9.00 is not part of 19.00.

All functions are pure, and compare folded text. The order is measured with `tests/benchmarks/search_quality.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

from kobold_reader.archive.query import EDGES, RUNS, SHORT_YEAR, UNSPACED, Kind, Query, Term, is_unspaced
from kobold_reader.options import Match

# ── how surely a page answers ─────────────────────────────────────────────────────────────────────

FOUND = 0.5
"""Score from which a page is found."""
_RELATED = 0.03
"""Score from which a page may be related; below, nothing speaks for it."""
_MOST_RELATED = 0.45
_EXACT = 0.9
"""Least score of a page that holds every word as typed; any other page scores less."""
_MOST_SIMILAR = 0.89
_COVERAGE_SLOPE = 8.0
_HALF_COVERED = 0.6
"""Share of a query's information from which a page that holds it is rather right than wrong."""
_HALF_COVERED_EXACT = 0.7
"""The same, if only names, numbers, codes and phrases are asked for."""
_NEARNESS_SLOPE = 1.3
_HALF_NEAR = 2.9
"""Standard deviations above unrelated texts, from which a page is rather right than wrong. Where 0.95 of the questions
without an answer give nothing it is 3.2 for MiniLM and 2.6 for e5."""
_UNKNOWN = 1.0
"""Standard deviations more, where no word of the query is known: to a model, gibberish is near to something, too."""
_HELD_TERM = 0.5
"""Strength from which a page holds a term, however it is spelled."""
_COMPARED = 50
"""The nearest pages, whose mean is what this query's unrelated pages have at least."""
_SUPPOSED = 10
"""Number of supposed pages without relation among them: an archive may have few."""
_STRICT = frozenset({Kind.NUMBER, Kind.CODE, Kind.PHRASE})
"""Kinds of terms that a page must hold to be found: an invoice of another day is not the one."""


@dataclass(frozen=True)
class Cosines:
    """What an embedder's cosines say; `vector_index.py` measures it with texts that have nothing in common."""

    unrelated: float
    """The mean cosine of the query and texts of its language that have nothing to do with it."""
    spread: float
    """The standard deviation of such cosines."""


@dataclass(frozen=True)
class Scored:
    """A page, and how surely it answers."""

    page_id: str
    score: float
    """0 to 1; `FOUND` and above: found."""
    match: Match
    lexical: float = 0.0
    """Score of its words alone."""
    missing: tuple[str, ...] = ()
    """Words of the query that it does not hold; none if it holds none of them."""
    respelled: tuple[str, ...] = ()
    """Words that it holds in another spelling only."""


def rank(
    query: Query,
    found: WordHits,
    dense: Sequence[tuple[str, float]] = (),
    *,
    cosines: Cosines | None = None,
    whole_only: bool = False,
) -> list[Scored]:
    """Merge the three lists, best first; pages for which nothing speaks are left out.

    Args:
        query: What is asked.
        found: Holds evidence of every page that may be a hit.
        dense: Pages with the cosine of their nearest chunk, the best first; empty without vectors.
        cosines: Of their embedder; not needed without vectors.
        whole_only: Only pages that hold all words of the query are found; others are related.
    """
    weighing = weigh(query, found, has_vectors=bool(dense))
    order = _order(found, dense, weighing)
    nearness = by_meaning(query, found.frequencies, dense, cosines) if cosines else {}
    telling = [n for n, term in enumerate(query.terms) if term.kind is not Kind.STOP] or list(range(len(query.terms)))
    if all(query.terms[n].kind in _STRICT for n in telling):
        nearness = {}  # vectors know nothing of numbers
    most_near = _MOST_RELATED if weighing.is_exact else 1.0
    scored = []
    for page_id, (place, lexical) in order.items():
        evidence, near = found.evidence.get(page_id), min(most_near, nearness.get(page_id, 0.0))
        held = [n for n in telling if evidence and evidence.strengths[n] >= _HELD_TERM]
        exact = [n for n in telling if evidence and evidence.exact[n]]
        coverage = _coverage(weighing.information, evidence) if evidence else 0.0
        half = _HALF_COVERED_EXACT if weighing.is_exact else _HALF_COVERED
        score = 1 - (1 - _logistic(_COVERAGE_SLOPE * (coverage - half))) * (1 - near)
        missing = [n for n in telling if n not in held and n not in exact]
        if missing and (whole_only or any(query.terms[n].kind in _STRICT for n in missing)):
            score = min(score, _MOST_RELATED)
        is_exact = bool(telling) and len(exact) == len(telling)
        score = _EXACT + (1 - _EXACT) * place if is_exact else min(score, _MOST_SIMILAR)
        if score >= _RELATED:
            match: Match = "exact" if is_exact else "similar" if score >= FOUND else "related"
            lists = missing if held or exact else [], [n for n in held if n not in exact]
            texts = (tuple(query.terms[n].text for n in numbers) for numbers in lists)
            scored.append((place, Scored(page_id, score, match, lexical, *texts)))
    scored.sort(key=lambda one: (-round(one[1].score, 3), -one[0], -one[1].lexical, one[1].page_id))
    return [one for _, one in scored]


def by_meaning(
    query: Query, frequencies: Sequence[int], dense: Sequence[tuple[str, float]], cosines: Cosines
) -> dict[str, float]:
    """Return how surely each page answers by its vectors alone, 0 to 1.

    `frequencies` are the numbers of pages that hold each term of the query.
    """
    compared = [cosine for _, cosine in dense[:_COMPARED]]
    mean = (sum(compared) + _SUPPOSED * cosines.unrelated) / (len(compared) + _SUPPOSED)
    typical = max(cosines.unrelated, mean)
    is_known = any(
        frequency or term.kind is Kind.STOP or is_unspaced(term.folded)
        for term, frequency in zip(query.terms, frequencies, strict=True)
    )
    half = _HALF_NEAR + (0.0 if is_known else _UNKNOWN)
    return {
        page_id: _logistic(_NEARNESS_SLOPE * ((cosine - typical) / cosines.spread - half)) for page_id, cosine in dense
    }


def by_meaning_only(scores: Mapping[str, float]) -> list[Scored]:
    """Return all pages of `by_meaning`, best first, where nothing is asked of their words."""
    return [
        Scored(page_id, score, "similar" if score >= FOUND else "related")
        for page_id, score in sorted(scores.items(), key=lambda one: (-one[1], one[0]))
    ]


def _logistic(value: float) -> float:
    return 1 / (1 + math.exp(-max(-50.0, min(50.0, value))))


# ── the order of pages: one list out of three ─────────────────────────────────────────────────────

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

Ranked = list[tuple[str, float]]
"""Page ids with their scores, the best first."""


@dataclass(frozen=True)
class Evidence:
    """What one page holds of one query."""

    strengths: tuple[float, ...]
    """For each term, how surely the page holds it: 1 as typed, 0 not at all."""
    adjacent: tuple[bool, ...]
    """For each term but the last, whether the next one follows it on the page."""
    exact: tuple[bool, ...]
    """For each term, whether the page, or the name of its file, holds it as typed or in another notation."""


@dataclass(frozen=True)
class WordHits:
    """What the index of words knows of a query."""

    words: Ranked
    """Pages by bm25 of whole words."""
    trigrams: Ranked
    """Pages by bm25 of trigrams."""
    frequencies: tuple[int, ...]
    """For each term, on how many pages it is as typed."""
    pages: int
    """Number of pages indexed."""
    evidence: Mapping[str, Evidence]
    """What each page found, or asked for besides, holds of the query."""


@dataclass(frozen=True)
class Weighing:
    """How far the terms of a query, its words and its vectors count."""

    information: tuple[float, ...]
    """For each term its share of the query's information; they add up to 1."""
    trust: float
    """Share of the words in a score; the rest is the vectors'."""
    is_exact: bool
    """Whether only names, numbers, codes and phrases are asked for."""


def _order(found: WordHits, dense: Sequence[tuple[str, float]], weighing: Weighing) -> dict[str, tuple[float, float]]:
    """Return for each page its place among the others and the score of its words alone, both 0 to 1, by page id."""
    words, trigrams = _relative(found.words), _relative(found.trigrams)
    meaning = _above_floor(dense)
    order = {}
    for page_id in dict.fromkeys([*found.evidence, *meaning]):
        evidence = found.evidence.get(page_id)
        lexical, holds_all = 0.0, False
        if evidence is not None:
            coverage = _coverage(weighing.information, evidence)
            holds_all = coverage >= _HELD
            lexical = (1 - _LIST_SHARE) * _with_adjacency(coverage, weighing.information, evidence)
            lexical += _LIST_SHARE * (words.get(page_id, 0.0) + 2 * trigrams.get(page_id, 0.0)) / 3
        # Half of a query of plain words tells less than half of it; of names and numbers it tells half.
        lexical **= 2 - weighing.trust
        near = meaning.get(page_id, 0.0)
        place = weighing.trust * lexical + (1 - weighing.trust) * near
        if weighing.is_exact and holds_all:
            # Between pages that hold all of it the vectors would decide by chance, for they know nothing of names and
            # numbers, and so would a word more or less: these pages score the same.
            lexical = round(lexical, 2)
            place = weighing.trust * lexical + (1 - weighing.trust)
        order[page_id] = min(1.0, place), lexical
    return order


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


# ── how surely a page holds a term ────────────────────────────────────────────────────────────────

SPACED = 0.95
"""The parts have other separators between them (12-03-2018 for 12/03/2018)."""
LOOKALIKE = 0.9
"""Only characters that look alike differ (0 and O, 1 and l, 5 and S)."""
GLUED = 0.85
"""Inside a longer run of letters, or with gaps between its letters."""
GLUED_SHORT = 0.7
"""As GLUED, for four or five letters: they are part of many other words."""
GLUED_ALIKE = 0.75
"""As GLUED, with characters that look alike."""
NEAR_NUMBER = 0.3
"""A long number or code with one other character: a misreading, or the next invoice."""
IN_NAMES = 0.6
"""In the name of the file or folder and not on the page."""

_MIN_LOOKALIKE = 4
_MIN_GLUED = 4
_MIN_SQUEEZED = 6
_MIN_SQUEEZED_DIGITS = 8
_MIN_FUZZY_NAME = 4
_MIN_FUZZY = 5
_MIN_NEAR_NUMBER = 7
_MIN_TELLING_DIGITS = 3
_LEAST_PAIRS = 0.5
"""Share of neighbouring characters of an unspaced term below which a page does not hold it."""
_LONELY_NUMBER = 0.3
_LEAST_LIKENESS = 0.5
"""Similarity from which a word is marked in a passage."""

_PIECES = re.compile(r"[^\W_](?:\S*[^\W_])?")


@dataclass(frozen=True)
class PageText:
    """The folded text of a page, and what is derived from it when a term first asks for it."""

    body: str
    names: str = ""
    """Words of its file and folder names."""

    @cached_property
    def words(self) -> frozenset[str]:
        """Runs of letters and digits, and whatever is between white space, without its edges."""
        pieces = set(self.body.split())
        runs = set(RUNS.findall(" ".join(pieces)))
        runs.update(EDGES.sub("", piece) for piece in pieces - runs)
        runs.discard("")
        return frozenset(runs)

    @cached_property
    def skeletons(self) -> frozenset[str]:
        """The skeletons of all words."""
        return frozenset(_skeletons(self.words))

    @cached_property
    def skeleton(self) -> str:
        """The skeleton of the whole text: what it does not contain is the skeleton of no word."""
        return skeleton(self.body)

    @cached_property
    def squeezed(self) -> str:
        """The letters and digits of the text."""
        return "".join(RUNS.findall(self.body))

    @cached_property
    def squeezed_skeleton(self) -> str:
        """The skeleton of `squeezed`."""
        return skeleton(self.squeezed)


def evidence_of(query: Query, page: PageText, frequencies: Sequence[int], misreadings: Misreadings) -> Evidence:
    """Weigh what a page holds of a query; `frequencies` are the numbers of pages that hold each term as typed."""
    adjacent = tuple(next(spaced_spans(pair, page.body), None) is not None for pair in pairwise(query.terms))
    strengths, exact = [], []
    for index, (term, frequency) in enumerate(zip(query.terms, frequencies, strict=True)):
        strength = match_strength(term, page, is_known=frequency > 0, misreadings=misreadings)
        # A 12 is on every page; the 12 of "12 March" is next to its March.
        if adjacent and term.kind is Kind.NUMBER and len(term.folded) < _MIN_TELLING_DIGITS:
            strength *= 1.0 if any(adjacent[max(0, index - 1) : index + 1]) else _LONELY_NUMBER
        strengths.append(strength)
        as_typed = max(_exact_strength(term, page.body), _exact_strength(term, page.names)) if strength else 0.0
        exact.append(as_typed >= SHORT_YEAR)
    return Evidence(tuple(strengths), adjacent, tuple(exact))


def match_strength(
    term: Term, page: PageText, *, is_known: bool = True, misreadings: Misreadings | None = None
) -> float:
    """Return how surely the page holds the term: 1 exactly, 0 not at all.

    `is_known`: whether any page holds the term exactly as typed. Such a plain word is probably not misread elsewhere
    (`water` does not mean `later`), so resemblance counts for less. `misreadings` are those of all pages, if this is
    one of several.
    """
    strength = _strength_on_page(term, page) or IN_NAMES * _exact_strength(term, page.names)
    if strength > 0:
        return strength
    if is_unspaced(term.folded):
        # Nothing says which neighbouring characters form a word, so the share of pairs decides.
        pairs = {term.folded[at : at + 2] for at in range(len(term.folded) - 1)}
        share = sum(pair in page.body for pair in pairs) / max(1, len(pairs))
        return GLUED * share if share >= _LEAST_PAIRS else 0.0
    misreadings = misreadings or Misreadings([page])
    if len(term.parts) == 1:
        is_doubtful = term.kind is Kind.PHRASE or (is_known and term.kind is Kind.WORD)
        word = term.parts[0]
        shortest = _MIN_FUZZY_NAME if term.kind is Kind.NAME else _MIN_FUZZY
        if any(char.isdigit() for char in word):
            shortest = _MIN_NEAR_NUMBER
        return misreadings.best(word, page) * (0.5 if is_doubtful else 1.0) if len(word) >= shortest else 0.0
    total = 0.0
    for part in term.parts:
        kind = Kind.CODE if part.isdigit() else Kind.WORD if term.kind is Kind.PHRASE else term.kind
        single = Term(part, part, (part,), kind)
        total += match_strength(single, page, is_known=is_known, misreadings=misreadings) * len(part)
    # Parts of a number are on every page (the 12 of a date); parts of a name are worth something.
    return total / sum(map(len, term.parts)) * (0.3 if term.kind in {Kind.NUMBER, Kind.CODE} else 0.6)


def _strength_on_page(term: Term, page: PageText) -> float:
    exact = _exact_strength(term, page.body)
    if exact > 0:
        return exact
    shape = skeleton(term.folded)
    if len(term.folded) >= _MIN_LOOKALIKE and shape in page.skeleton and shape in page.skeletons:
        return LOOKALIKE
    squeezed = "".join(term.parts)
    is_digits = squeezed.isdigit()
    if len(squeezed) >= (_MIN_SQUEEZED_DIGITS if is_digits else _MIN_SQUEEZED):
        if squeezed in page.squeezed and (not is_digits or _with_gaps(squeezed).search(page.body)):
            return GLUED
        if skeleton(squeezed) in page.squeezed_skeleton:
            return GLUED_ALIKE if not is_digits or _with_gaps(skeleton(squeezed)).search(page.skeleton) else 0.0
        return 0.0
    return GLUED_SHORT if not is_digits and len(squeezed) >= _MIN_GLUED and squeezed in page.body else 0.0


def _exact_strength(term: Term, text: str) -> float:
    if next(exact_spans(term, text), None) is not None:
        return 1.0
    if next(spaced_spans((term,), text), None) is not None:
        return SPACED
    notation = term.notation
    return next((strength for *_, strength in notation.spans(text)), 0.0) if notation else 0.0


# ── occurrences in folded text ────────────────────────────────────────────────────────────────────


def exact_spans(term: Term, text: str) -> Iterator[tuple[int, int]]:
    """Yield start and end of the term as typed, as a word of its own."""
    if term.folded in text:
        spaceless = is_unspaced(term.folded)
        pattern = re.compile(re.escape(term.folded)) if spaceless else _parts_pattern((term.folded,), term.folded)
        yield from (found.span() for found in pattern.finditer(text))


def spaced_spans(terms: tuple[Term, ...], text: str) -> Iterator[tuple[int, int]]:
    """Yield start and end of where the parts of the terms, at least two, follow each other with small gaps."""
    parts = tuple(part for term in terms for part in term.parts)
    if len(parts) > 1 and all(part in text for part in parts):
        gap = _PHRASE_GAP if terms[0].kind is Kind.PHRASE else _GAP
        yield from (found.span() for found in _parts_pattern(parts, terms[0].folded, gap).finditer(text))


def surest_matches(term: Term, folded: str) -> list[tuple[int, int, float]]:
    """Return the surest kind of match that the text holds: as typed, with other gaps, glued, alike."""
    exact = list(exact_spans(term, folded)) or list(spaced_spans((term,), folded))
    if exact:
        return [(*span, 1.0) for span in exact]
    if term.notation and (other := list(term.notation.spans(folded))):
        return other
    if len(term.folded) >= _MIN_GLUED and not term.folded.isdigit():
        glued = [found.span() for found in re.finditer(re.escape(term.folded), folded)]
        if glued:
            return [(*span, 0.8) for span in glued]
    likely = (
        (piece.span(), max(similarity(part, piece[0]) for part in {term.folded, *term.parts}))
        for piece in _PIECES.finditer(folded)
    )
    return [(*span, likeness * 0.8) for span, likeness in likely if likeness >= _LEAST_LIKENESS]


_GAP, _PHRASE_GAP = r"[\W_]{0,3}", r"[\W_]{0,40}"
"""Between the parts of a term: a few separators, or none (12MAR2018). Between words of a phrase a line may end."""


@lru_cache(maxsize=1024)
def _parts_pattern(parts: tuple[str, ...], folded: str, gap: str = _GAP) -> re.Pattern[str]:
    """Parts of a term on their own: letters may touch a number (RM9.00), digits may not.

    `folded` is the term with the first part.
    """
    if not folded[0].isdigit():
        before = rf"(?:(?<![^\W\d_])|(?<={UNSPACED}))"
    else:  # 249.00 is not in 1,249.00, but 1954 is in 12.03.1954
        before = r"(?<!\d)(?<!\d[.,])" if "." in folded or "," in folded else r"(?<!\d)"
    after = r"(?!\d)" if parts[-1][-1].isdigit() else rf"(?:(?![^\W\d_])|(?={UNSPACED}))"
    return re.compile(before + gap.join(map(re.escape, parts)) + after)


@lru_cache(maxsize=512)
def _with_gaps(run: str) -> re.Pattern[str]:
    """A run of digits with gaps between them, and no further digit (or letter like one) at its ends."""
    return re.compile(r"(?<!\w)" + r"[\W_]{0,3}".join(map(re.escape, run)) + r"(?!\w)")


# ── misread words ─────────────────────────────────────────────────────────────────────────────────

_LOOKALIKES = str.maketrans({"0": "o", "1": "l", "i": "l", "|": "l", "!": "l", "5": "s", "$": "s", "8": "b", "2": "z"})


def skeleton(text: str) -> str:
    """Return text with one character for each group of lookalikes; no two digits share a group."""
    return text.translate(_LOOKALIKES).replace("rn", "m").replace("vv", "w")


def _skeletons(words: Iterable[str]) -> list[str]:
    return skeleton("\n".join(words)).split("\n")


@lru_cache(maxsize=65536)
def similarity(word: str, other: str) -> float:
    """Return how likely one word is a misreading of the other: 1 equal, 0 none.

    Differences in lookalike characters cost little, others as much as their share of the word. Words under four letters
    are too short to tell a misreading from another word.
    """
    if word == other:
        return 1.0
    first, second = skeleton(word), skeleton(other)
    if first == second:
        return LOOKALIKE if len(word) >= _MIN_LOOKALIKE else 0.0
    from rapidfuzz.distance import OSA  # only searches need it

    allowed = _allowed_edits(word)
    if any(char.isdigit() for char in word):
        is_near = len(word) == len(other) >= _MIN_NEAR_NUMBER
        return NEAR_NUMBER if is_near and OSA.distance(first, second, score_cutoff=allowed) == 1 else 0.0
    if min(len(word), len(other)) < _MIN_FUZZY_NAME:
        return 0.0
    distance = OSA.distance(first, second, score_cutoff=allowed)
    return max(0.0, LOOKALIKE - 1.5 * distance / max(len(first), len(second))) if distance <= allowed else 0.0


def _allowed_edits(word: str) -> int:
    if any(char.isdigit() for char in word):
        return 1
    return 1 if len(word) < 8 else 2 if len(word) < 13 else 3  # noqa: PLR2004


class Misreadings:
    """Likely misreadings among the words of some pages; each word is compared once, however many pages have it."""

    def __init__(self, pages: Sequence[PageText]) -> None:
        self._pages = pages
        self._of_word: dict[str, dict[str, float]] = {}

    @cached_property
    def _words(self) -> tuple[list[str], list[str]]:
        words = list(frozenset().union(*(page.words for page in self._pages)))
        return words, _skeletons(words)

    def best(self, word: str, page: PageText) -> float:
        """Return the similarity of the page's likeliest misreading of a word; 0 if it has none."""
        if word not in self._of_word:
            from rapidfuzz import process
            from rapidfuzz.distance import OSA

            words, skeletons = self._words
            near = process.extract(
                skeleton(word), skeletons, scorer=OSA.distance, score_cutoff=_allowed_edits(word), limit=None
            )
            self._of_word[word] = {words[at]: similarity(word, words[at]) for _, _, at in near}
        found = self._of_word[word]
        return max((likeness for other, likeness in found.items() if other in page.words), default=0.0)
