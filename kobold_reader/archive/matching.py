"""Does this page hold this term, and how surely? Pure functions over folded text.

A transcription misreads letters (`Lindqvlst`), glues words together (`TotalRM9.00`) and pulls them
apart. So a term is looked for in steps that trust less and less, and the first step that finds it
gives its strength between 0 and 1. Numbers are treated more strictly than words: 1954 is not 1955,
and 9.00 is not part of 19.00.

What one page holds of one query, and how surely.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

from rapidfuzz import process
from rapidfuzz.distance import OSA

from kobold_reader.archive.query import Kind, Query, Term, is_unspaced

__all__ = [
    "Evidence",
    "Page",
    "Resemblances",
    "edit_distance",
    "exact_spans",
    "follows",
    "match_strength",
    "similarity",
    "skeleton",
    "spaced_spans",
    "weighed",
]

_RUNS = re.compile(r"[^\W_]+")
_EDGES = re.compile(r"^[\W_]+|[\W_]+$")

SPACED = 0.95
"""The parts stand there with other separators between them (12-03-2018 for 12/03/2018)."""
LOOKALIKE = 0.9
"""Only characters that look alike differ (0 and O, 1 and l, 5 and S)."""
GLUED = 0.85
"""Inside a longer run of letters, or with gaps between its letters."""
GLUED_SHORT = 0.7
"""The same of four or five letters, which stand inside many other words."""
GLUED_ALIKE = 0.75
"""Both at once: inside a longer run, with characters that look alike."""
NEAR_NUMBER = 0.3
"""A long number or code with one other character: a misreading, or the next invoice."""
IN_NAMES = 0.6
"""Found in the name of the file or folder and not on the page."""

_MIN_LOOKALIKE = 4
_MIN_GLUED = 4
_MIN_SQUEEZED = 6
_MIN_SQUEEZED_DIGITS = 8
_MIN_FUZZY = 5
_MIN_NEAR_NUMBER = 7


class _Squeezing(dict[int, int | None]):
    """Table for `str.translate` that drops all but letters and digits, filled with each character when first met."""

    def __missing__(self, code: int) -> int | None:
        self[code] = kept = code if _RUNS.match(chr(code)) else None
        return kept


_SQUEEZED = _Squeezing()


@dataclass(frozen=True)
class Page:
    """A page's folded text, with what is derived from it only where a term asks for it."""

    body: str
    names: str = ""

    @cached_property
    def words(self) -> frozenset[str]:
        """Runs of letters and digits, and what stands between white space without its edges."""
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
        """The skeleton of the whole text: what stands not in it is the skeleton of no word."""
        return _skeleton(self.body)

    @cached_property
    def squeezed(self) -> str:
        """The text without anything but letters and digits."""
        return self.body.translate(_SQUEEZED)

    @cached_property
    def squeezed_skeleton(self) -> str:
        """The skeleton of that."""
        return _skeleton(self.squeezed)


class Resemblances:
    """The misreadings among the words of some pages: each word is compared once, on however many pages it stands.

    Args:
        pages: All that will be asked about.
    """

    def __init__(self, pages: Sequence[Page]) -> None:
        self._pages = pages
        self._found: dict[str, dict[str, float]] = {}

    @cached_property
    def _words(self) -> tuple[list[str], list[str]]:
        """All words, and their skeletons."""
        words = list(frozenset().union(*(page.words for page in self._pages)))
        return words, _skeletons(words)

    def best(self, word: str, page: Page) -> float:
        """How likely the page's likest word is a misreading of this one."""
        alike = self._found.get(word)
        if alike is None:
            alike = self._found[word] = self._alike(word)
        return max((likeness for other, likeness in alike.items() if other in page.words), default=0.0)

    def _alike(self, word: str) -> dict[str, float]:
        """The similarity of each word that has any."""
        allowed = 1 if any(char.isdigit() for char in word) else _allowed_edits(word)
        words, shapes = self._words
        found = process.extract(skeleton(word), shapes, scorer=OSA.distance, score_cutoff=allowed, limit=None)
        near = (words[at] for _, _, at in found)
        return {other: likeness for other in near if (likeness := similarity(word, other)) > 0}


def match_strength(term: Term, page: Page, *, is_known: bool = True, resemblances: Resemblances | None = None) -> float:
    """How surely the page holds the term: 1 exactly, 0 not at all.

    Args:
        term: What is looked for.
        page: Where.
        is_known: Whether the term stands anywhere in the archive exactly as typed. A plain word
            that does is probably not misread elsewhere (`water` does not mean `later`), so
            resemblance counts for less.
        resemblances: Those of all pages, where this is one of several.
    """
    strength = _body_strength(term, page)
    if strength <= NEAR_NUMBER and page.names:
        strength = max(strength, IN_NAMES * _exact(term, page.names))
    if strength == 0.0 and is_unspaced(term.folded):
        return _unspaced(term.folded, page.body)
    resemblances = resemblances or Resemblances([page])
    if strength == 0.0 and len(term.parts) == 1:
        strength = _fuzzy(term, page, resemblances)
        if term.kind is Kind.PHRASE or (is_known and term.kind is Kind.WORD):
            strength /= 2
    if strength == 0.0 and len(term.parts) > 1:
        strength = _by_parts(term, page, is_known=is_known, resemblances=resemblances)
    return strength


def follows(term: Term, following: Term, page: Page) -> bool:
    """Whether the two stand on the page next to each other, in this order."""
    return next(spaced_spans((term, following), page.body), None) is not None


def _body_strength(term: Term, page: Page) -> float:
    exact = _exact(term, page.body)
    if exact > 0:
        return exact
    shape = skeleton(term.folded)
    if len(term.folded) >= _MIN_LOOKALIKE and shape in page.skeleton and shape in page.skeletons:
        return LOOKALIKE
    squeezed = "".join(term.parts)
    is_digits = squeezed.isdigit()
    if len(squeezed) >= (_MIN_SQUEEZED_DIGITS if is_digits else _MIN_SQUEEZED):
        if squeezed in page.squeezed and (not is_digits or _apart(squeezed).search(page.body)):
            return GLUED
        if skeleton(squeezed) in page.squeezed_skeleton:
            return GLUED_ALIKE if not is_digits or _apart(skeleton(squeezed)).search(page.skeleton) else 0.0
        return 0.0
    if not is_digits and len(squeezed) >= _MIN_GLUED and squeezed in page.body:
        return GLUED_SHORT
    return 0.0


def _exact(term: Term, text: str) -> float:
    if next(exact_spans(term, text), None) is not None:
        return 1.0
    if len(term.parts) > 1 and next(spaced_spans((term,), text), None) is not None:
        return SPACED
    notation = term.notation
    return next((strength for *_, strength in notation.spans(text)), 0.0) if notation else 0.0


def exact_spans(term: Term, text: str) -> Iterator[tuple[int, int]]:
    """Where the term stands as typed, on its own."""
    if term.folded in text:
        spaceless = is_unspaced(term.folded)
        pattern = re.compile(re.escape(term.folded)) if spaceless else _standing(term.folded)
        yield from (found.span() for found in pattern.finditer(text))


def spaced_spans(terms: tuple[Term, ...], text: str) -> Iterator[tuple[int, int]]:
    """Where the parts of the terms follow each other with hardly anything between them."""
    parts = tuple(part for term in terms for part in term.parts)
    if len(parts) > 1 and all(part in text for part in parts):
        pattern = _spaced(parts, terms[0].folded)
        yield from (found.span() for found in pattern.finditer(text))


@lru_cache(maxsize=512)
def _standing(folded: str) -> re.Pattern[str]:
    """The term on its own: letters may touch a number (RM9.00), digits may not."""
    return re.compile(_before(folded) + re.escape(folded) + _after(folded))


@lru_cache(maxsize=512)
def _spaced(parts: tuple[str, ...], folded: str) -> re.Pattern[str]:
    gap = r"[\W_]{0,3}"  # none: 12MAR2018
    return re.compile(_before(folded) + gap.join(map(re.escape, parts)) + _after(parts[-1]))


@lru_cache(maxsize=512)
def _apart(run: str) -> re.Pattern[str]:
    """A run of digits with gaps between them, and no further digit (or letter like one) at its ends."""
    return re.compile(r"(?<!\w)" + r"[\W_]{0,3}".join(map(re.escape, run)) + r"(?!\w)")


def _before(folded: str) -> str:
    if not folded[0].isdigit():
        return r"(?<![^\W\d_])"
    # 249.00 does not stand in 1,249.00, but 1954 does in 12.03.1954
    return r"(?<!\d)(?<!\d[.,])" if "." in folded or "," in folded else r"(?<!\d)"


def _after(folded: str) -> str:
    return r"(?!\d)" if folded[-1].isdigit() else r"(?![^\W\d_])"


def _fuzzy(term: Term, page: Page, resemblances: Resemblances) -> float:
    """The best resemblance among the words of the page."""
    word = term.parts[0]
    if any(char.isdigit() for char in word):
        shortest = _MIN_NEAR_NUMBER
    else:
        shortest = _MIN_FUZZY - 1 if term.kind is Kind.NAME else _MIN_FUZZY
    return resemblances.best(word, page) if len(word) >= shortest else 0.0


def _unspaced(folded: str, body: str) -> float:
    """Share of neighbouring characters, where nothing says which of them form a word."""
    pairs = {folded[i : i + 2] for i in range(len(folded) - 1)}
    share = sum(pair in body for pair in pairs) / max(1, len(pairs))
    return GLUED * share if share >= 0.5 else 0.0  # noqa: PLR2004


def _by_parts(term: Term, page: Page, *, is_known: bool, resemblances: Resemblances) -> float:
    strengths = []
    for part in term.parts:
        kind = Kind.CODE if part.isdigit() else Kind.WORD if term.kind is Kind.PHRASE else term.kind
        single = Term(part, part, (part,), kind)
        strengths.append(match_strength(single, page, is_known=is_known, resemblances=resemblances) * len(part))
    share = sum(strengths) / sum(map(len, term.parts))
    # parts of a number are found everywhere (the 12 of a date), parts of a name are worth something
    return share * (0.3 if term.kind in {Kind.NUMBER, Kind.CODE} else 0.6)


# ── letters that look alike ───────────────────────────────────────────────────────────────────────

_LOOKALIKES = str.maketrans({"0": "o", "1": "l", "i": "l", "|": "l", "!": "l", "5": "s", "$": "s", "8": "b", "2": "z"})


@lru_cache(maxsize=65536)
def skeleton(word: str) -> str:
    """The word with one character for each group of lookalikes; no two digits share a group."""
    return _skeleton(word)


def _skeleton(text: str) -> str:
    return text.translate(_LOOKALIKES).replace("rn", "m").replace("vv", "w")


def _skeletons(words: Iterable[str]) -> list[str]:
    """Those of many words, at one go."""
    return _skeleton("\n".join(words)).split("\n")


@lru_cache(maxsize=65536)
def similarity(word: str, other: str) -> float:
    """How likely one word is a misreading of the other: 1 equal, 0 none.

    Differences in lookalike characters cost little, others as much as their share of the word.
    Words under five letters are too short to tell a misreading from another word.
    """
    if word == other:
        return 1.0
    first, second = skeleton(word), skeleton(other)
    if first == second:
        return LOOKALIKE if len(word) >= _MIN_LOOKALIKE else 0.0
    shortest = min(len(word), len(other))
    if any(char.isdigit() for char in word):
        is_near = len(word) == len(other) and len(word) >= _MIN_NEAR_NUMBER
        return NEAR_NUMBER if is_near and edit_distance(first, second, 1) == 1 else 0.0
    allowed = _allowed_edits(word)
    if shortest < _MIN_FUZZY - 1:
        return 0.0
    distance = edit_distance(first, second, allowed)
    return max(0.0, LOOKALIKE - 1.5 * distance / max(len(first), len(second))) if distance <= allowed else 0.0


def _allowed_edits(word: str) -> int:
    return 1 if len(word) < 8 else 2 if len(word) < 13 else 3  # noqa: PLR2004


def edit_distance(first: str, second: str, limit: int) -> int:
    """Insertions, deletions, replacements and swaps of neighbours; `limit` + 1 at most."""
    return OSA.distance(first, second, score_cutoff=limit)


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
