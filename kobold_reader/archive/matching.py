"""What a page holds of a query: how surely it holds each term, and which passage shows it.

A transcription misreads letters (`Lindqvlst`), glues words together (`TotalRM9.00`) and pulls them apart. So a term is
looked for in steps of falling trust, and the first step that finds it gives its strength between 0 and 1. Numbers are
treated more strictly than words: 1954 is not 1955, and 9.00 is not part of 19.00.

Everything here is a pure function of folded text, except `passage`: its offsets are those of the text as it is shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

from rapidfuzz import process
from rapidfuzz.distance import OSA

from kobold_reader.archive.query import Kind, Query, Term, fold_with_offsets, is_unspaced

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

_RUNS = re.compile(r"[^\W_]+")
_EDGES = re.compile(r"^[\W_]+|[\W_]+$")


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
        runs = set(_RUNS.findall(" ".join(pieces)))
        runs.update(_EDGES.sub("", piece) for piece in pieces - runs)
        runs.discard("")
        return frozenset(runs)

    @cached_property
    def skeletons(self) -> frozenset[str]:
        """Skeletons of all words."""
        return frozenset(_skeletons(self.words))

    @cached_property
    def skeleton(self) -> str:
        """The skeleton of the whole text: what it does not contain is the skeleton of no word."""
        return skeleton(self.body)

    @cached_property
    def squeezed(self) -> str:
        """The letters and digits of the text."""
        return "".join(_RUNS.findall(self.body))

    @cached_property
    def squeezed_skeleton(self) -> str:
        """The skeleton of `squeezed`."""
        return skeleton(self.squeezed)


@dataclass(frozen=True)
class Evidence:
    """What one page holds of one query."""

    strengths: tuple[float, ...]
    """For each term, how surely the page holds it: 1 as typed, 0 not at all."""
    adjacent: tuple[bool, ...]
    """For each term but the last, whether the next one follows it on the page."""


def evidence_of(query: Query, page: PageText, frequencies: Sequence[int], misreadings: Misreadings) -> Evidence:
    """Weigh what a page holds of a query.

    Args:
        query: Its terms are looked for.
        page: Where they are looked for.
        frequencies: For each term, the number of pages that hold it as typed.
        misreadings: Those of all pages that are weighed.
    """
    adjacent = tuple(next(spaced_spans(pair, page.body), None) is not None for pair in pairwise(query.terms))
    strengths = []
    for index, (term, frequency) in enumerate(zip(query.terms, frequencies, strict=True)):
        strength = match_strength(term, page, is_known=frequency > 0, misreadings=misreadings)
        # A 12 is on every page; the 12 of "12 March" is next to its March.
        if adjacent and term.kind is Kind.NUMBER and len(term.folded) < _MIN_TELLING_DIGITS:
            strength *= 1.0 if any(adjacent[max(0, index - 1) : index + 1]) else _LONELY_NUMBER
        strengths.append(strength)
    return Evidence(tuple(strengths), adjacent)


def match_strength(
    term: Term, page: PageText, *, is_known: bool = True, misreadings: Misreadings | None = None
) -> float:
    """Return how surely the page holds the term: 1 exactly, 0 not at all.

    Args:
        term: What is looked for.
        page: Where it is looked for.
        is_known: Whether any page holds the term exactly as typed. Such a plain word is probably not misread elsewhere
            (`water` does not mean `later`), so resemblance counts for less.
        misreadings: Those of all pages, where this is one of several.
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
        return _fuzzy_strength(term, page, misreadings) * (0.5 if is_doubtful else 1.0)
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


def _fuzzy_strength(term: Term, page: PageText, misreadings: Misreadings) -> float:
    word = term.parts[0]
    if any(char.isdigit() for char in word):
        shortest = _MIN_NEAR_NUMBER
    else:
        shortest = _MIN_FUZZY_NAME if term.kind is Kind.NAME else _MIN_FUZZY
    return misreadings.best(word, page) if len(word) >= shortest else 0.0


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
        yield from (found.span() for found in _parts_pattern(parts, terms[0].folded).finditer(text))


@lru_cache(maxsize=1024)
def _parts_pattern(parts: tuple[str, ...], folded: str) -> re.Pattern[str]:
    """Parts of a term on their own: letters may touch a number (RM9.00), digits may not.

    Args:
        parts: With up to three separators between them, or none (12MAR2018).
        folded: The term with the first part.
    """
    if not folded[0].isdigit():
        before = r"(?<![^\W\d_])"
    else:  # 249.00 is not in 1,249.00, but 1954 is in 12.03.1954
        before = r"(?<!\d)(?<!\d[.,])" if "." in folded or "," in folded else r"(?<!\d)"
    after = r"(?!\d)" if parts[-1][-1].isdigit() else r"(?![^\W\d_])"
    return re.compile(before + r"[\W_]{0,3}".join(map(re.escape, parts)) + after)


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
    """Likely misreadings among the words of some pages; each word is compared once, on however many pages it is.

    Args:
        pages: All that will be asked about.
    """

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
            words, skeletons = self._words
            near = process.extract(
                skeleton(word), skeletons, scorer=OSA.distance, score_cutoff=_allowed_edits(word), limit=None
            )
            self._of_word[word] = {words[at]: similarity(word, words[at]) for _, _, at in near}
        found = self._of_word[word]
        return max((likeness for other, likeness in found.items() if other in page.words), default=0.0)


# ── the passage that is shown ─────────────────────────────────────────────────────────────────────

PASSAGE_CHARS = 240
_LEAD_CHARS = 60
"""Characters shown before the first match."""
_LEAST_LIKENESS = 0.5
_WEIGHTS = {Kind.STOP: 0.0, Kind.WORD: 1.0, Kind.NAME: 1.5}
_EXACT_WEIGHT = 2.0
_PIECES = re.compile(r"[^\W_](?:\S*[^\W_])?")


@dataclass(frozen=True)
class Passage:
    """A part of a text with the words found in it."""

    start: int
    """Offset of its first character in the text."""
    end: int
    snippet: str
    marks: tuple[tuple[int, int], ...]
    """Offsets of the words found, in the whole text, in order, without overlap."""


@dataclass(frozen=True)
class _Span:
    start: int
    end: int
    term: int
    weight: float


def passage(text: str, query: Query, *, length: int = PASSAGE_CHARS) -> Passage:
    """Choose the window that holds most of the query; the beginning if no term is found.

    Args:
        text: Text of the page, or of the chunk that the vectors found.
        query: What was asked.
        length: Characters of the window, about; it ends between words where it can.
    """
    spans = _spans(text, query)
    start = _best_start(spans, length)
    end = min(len(text), start + length)
    start = max(0, min(start, end - length))
    if start > 0 and (gap := re.search(r"\s", text[start - 1 : start + _LEAD_CHARS // 2])):
        start += gap.start()
    if end < len(text) and (gap := re.search(r"\s\S*$", text[end - _LEAD_CHARS // 2 : end + 1])):
        end += gap.start() - _LEAD_CHARS // 2
    marks: list[tuple[int, int]] = []
    for span in spans:
        if span.start < start or span.end > end:
            continue
        if marks and span.start <= marks[-1][1]:
            marks[-1] = (marks[-1][0], max(marks[-1][1], span.end))
        else:
            marks.append((span.start, span.end))
    return Passage(start, end, text[start:end], tuple(marks))


def _spans(text: str, query: Query) -> list[_Span]:
    """Return where the terms occur in the text, in order."""
    folded, offsets = fold_with_offsets(text)
    found: list[_Span] = []
    for number, term in enumerate(query.terms):
        weight = _WEIGHTS.get(term.kind, _EXACT_WEIGHT)
        for start, end, strength in _surest_matches(term, folded) if weight else ():
            # The character behind a match may have the same offset as the match's last one (a ligature).
            last = offsets[end - 1] + 1
            found.append(_Span(offsets[start], max(last, offsets[end]), number, weight * strength))
    return sorted(found, key=lambda span: (span.start, span.end))


def _surest_matches(term: Term, folded: str) -> list[tuple[int, int, float]]:
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


def _best_start(spans: Sequence[_Span], length: int) -> int:
    """Return the start of the window whose terms weigh most; each term counts once, the first window wins."""
    best_start, best_weight = 0, 0.0
    for index, first in enumerate(spans):
        weights: dict[int, float] = {}
        for span in spans[index:]:
            if span.end > first.start + length - _LEAD_CHARS:
                break
            weights[span.term] = max(weights.get(span.term, 0.0), span.weight)
        weight = sum(weights.values())
        if weight > best_weight:
            best_start, best_weight = first.start, weight
    return max(0, best_start - _LEAD_CHARS)
