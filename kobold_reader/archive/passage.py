"""The passage of a page that answers a query, with the words that were found marked.

Offsets are those of the page's own text, not of the folded form in which it is compared, so that a
face can mark the words in the text it shows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kobold_reader.archive.matching import exact_spans, similarity, spaced_spans
from kobold_reader.archive.query import Kind, Query, Term, fold_with_offsets

__all__ = ["Passage", "passage"]

PASSAGE_CHARS = 240

_PIECES = re.compile(r"[^\W_](?:\S*[^\W_])?")
_LEAST_LIKENESS = 0.5
_LEAD_CHARS = 60
_WEIGHTS = {Kind.STOP: 0.0, Kind.WORD: 1.0, Kind.NAME: 1.5}
_EXACT_WEIGHT = 2.0


@dataclass(frozen=True)
class Passage:
    """A part of a text.

    Attributes:
        start: Offset of its first character in the text.
        end: Offset behind its last one.
        snippet: The text between them, as it stands there.
        marks: Offsets of the words found in it, in the whole text, in order, without overlap.
    """

    start: int
    end: int
    snippet: str
    marks: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class _Span:
    start: int
    end: int
    term: int
    weight: float


def passage(text: str, query: Query, *, length: int = PASSAGE_CHARS) -> Passage:
    """Choose the window that holds most of the query; the beginning where it holds nothing of it.

    Args:
        text: Text of the page, or of the passage that the vectors found.
        query: What was asked.
        length: Characters of the window, about; it ends between words where it can.
    """
    spans = _spans(text, query)
    start = _best_start(spans, length)
    end = min(len(text), start + length)
    start = max(0, min(start, end - length))
    start, end = _between_words(text, start, end)
    inside = [span for span in spans if span.start >= start and span.end <= end]
    return Passage(start, end, text[start:end], _merged(inside))


def _spans(text: str, query: Query) -> list[_Span]:
    folded, offsets = fold_with_offsets(text)
    found: list[_Span] = []
    for number, term in enumerate(query.terms):
        weight = _WEIGHTS.get(term.kind, _EXACT_WEIGHT)
        if weight == 0.0:
            continue
        for start, end, strength in _found(term, folded):
            # the character behind a match may share its place with the match's last one (a
            # ligature)
            last = offsets[end - 1] + 1
            found.append(_Span(offsets[start], max(last, offsets[end]), number, weight * strength))
    return sorted(found, key=lambda span: (span.start, span.end))


def _found(term: Term, folded: str) -> list[tuple[int, int, float]]:
    """The surest kind of match that the text holds: as typed, with other gaps, glued, alike."""
    exact = list(exact_spans(term, folded)) or list(spaced_spans((term,), folded))
    if exact:
        return [(*span, 1.0) for span in exact]
    if term.notation and (other := list(term.notation.spans(folded))):
        return other
    if len(term.folded) > 3 and not term.folded.isdigit():  # noqa: PLR2004
        glued = [found.span() for found in re.finditer(re.escape(term.folded), folded)]
        if glued:
            return [(*span, 0.8) for span in glued]
    return list(_alike(term, folded))


def _alike(term: Term, folded: str) -> Iterator[tuple[int, int, float]]:
    for piece in _PIECES.finditer(folded):
        likeness = max(similarity(part, piece[0]) for part in {term.folded, *term.parts})
        if likeness >= _LEAST_LIKENESS:
            yield (*piece.span(), likeness * 0.8)


def _best_start(spans: Sequence[_Span], length: int) -> int:
    """Start of the window whose terms weigh most; each term counts once, the first window wins."""
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


def _between_words(text: str, start: int, end: int) -> tuple[int, int]:
    """Move both ends inwards to white space, by a few characters at most."""
    if start > 0:
        gap = re.search(r"\s", text[start - 1 : start + _LEAD_CHARS // 2])
        start += gap.start() if gap else 0
    if end < len(text):
        gap = re.search(r"\s\S*$", text[end - _LEAD_CHARS // 2 : end + 1])
        end = end - _LEAD_CHARS // 2 + gap.start() if gap else end
    return start, end


def _merged(spans: Sequence[_Span]) -> tuple[tuple[int, int], ...]:
    marks: list[tuple[int, int]] = []
    for span in spans:
        if marks and span.start <= marks[-1][1]:
            marks[-1] = (marks[-1][0], max(marks[-1][1], span.end))
        else:
            marks.append((span.start, span.end))
    return tuple(marks)
