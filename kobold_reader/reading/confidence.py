"""How sure was the model of each word? Told from its own hesitation, as far as the server shows it.

KoboldCpp takes log-probabilities after temperature and samplers, and floors them at 1e-4. What survives both is the
*ratio* of two candidates: at temperature T the model's own is exp(T * (logprob_a - logprob_b)), as long as neither
stands on the floor. At T = 0.1, the default, a rival shows from a ratio of 0.4 on. So 1.0 does not mean "certain", but
"no rival came near"; a word below DOUBTFUL had rivals at least 0.43 times as likely.

Nothing is told where nothing can be trusted: no log-probabilities (before 1.77), temperature 0 or samplers that leave
one candidate, a temperature that is not the one asked for (`--gendefaultsoverwrite`), tokens that do not make up the
text.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final, TypeAlias

from kobold_reader.reading.attempts import Attempt, Part
from kobold_reader.reading.cleaning import Traced
from kobold_reader.reading.results import DOUBTFUL, Scalar

__all__ = ["Confidence", "confidence_of"]

_FLOOR: Final = math.log(1e-4) + 1e-3
_SHOWING: Final = 0.5
"""Share of tokens that must come with a second candidate, be it on the floor."""
_NEARLY_GREEDY: Final = 0.15
_CROWDED: Final = 5
"""So many candidates within a ratio of 0.4 at most tokens: no model reads like that; it was another temperature."""
_IDEOGRAPH: Final = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD: Final = re.compile(rf"[{_IDEOGRAPH}]|[^\W_{_IDEOGRAPH}]+(?:[.,:/'’·-][^\W_{_IDEOGRAPH}]+)*")
"""Letters and digits, and what joins them (12.50, 3/4, d'Arc). Scripts without blanks: character by character."""


@dataclass(frozen=True, slots=True)
class Confidence:
    """Of one reading."""

    mean: float
    """Over its words, each as sure as its least sure token."""
    p5: float
    """Fifth percentile of the words."""
    doubtful: tuple[Mapping[str, Scalar], ...]
    """`start`, `end` in the text, and `rival`: the word as the second choice would have begun it."""


_Candidates: TypeAlias = Sequence[tuple[str, float]]
"""What a token might have been, with log-probabilities."""


@dataclass(frozen=True, slots=True)
class _Token:
    start: int
    """In the answer's text."""
    text: str
    own: float
    rivals: tuple[tuple[str, float], ...]
    """What else was near, most likely first, with its ratio to the first choice; `own` is the token's."""


def confidence_of(made: Attempt, page: Traced) -> Confidence | None:
    """Tell how sure the model was of what is left of its answer, or None where that cannot be known.

    Args:
        made: The attempt, with its log-probabilities.
        page: Its text, cleaned.
    """
    temperature = made.request.temperature
    entries: list[tuple[int, str, Mapping[str, Any]]] = []
    start = 0
    for part in made.parts:
        placed = _placed(part, start)
        if placed is None:
            return None
        entries += placed
        start += len(part.completion.text) - part.skipped
    if not entries or temperature <= 0:
        return None
    candidates = [_candidates(entry) for _, _, entry in entries]
    if not _is_telling(candidates, temperature):
        return None
    tokens = [
        _token(start, text, entry, rivals, temperature)
        for (start, text, entry), rivals in zip(entries, candidates, strict=True)
    ]
    return _of_words(page, tokens)


def _placed(part: Part, start: int) -> list[tuple[int, str, Mapping[str, Any]]] | None:
    """Each token of a part with its place in the whole answer; None where they do not make up its text.

    A character may be spread over several tokens, so bytes are counted. Tokens behind the text (the end token, the rest
    of a stop sequence) are left out.
    """
    content = (part.completion.logprobs or {}).get("content")
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        return None
    pieces = [_bytes_of(entry) for entry in content]
    text = part.completion.text
    if not b"".join(pieces).startswith(text.encode()):
        return None
    char_ends = list(accumulate(len(char.encode()) for char in text))
    placed = []
    at = 0
    for piece, entry in zip(pieces, content, strict=True):
        first = bisect_right(char_ends, at)
        if first >= len(text):
            break
        at += len(piece)
        if first >= part.skipped:
            placed.append((start + first - part.skipped, piece.decode(errors="replace"), entry))
    return placed


def _bytes_of(entry: Mapping[str, Any]) -> bytes:
    listed = entry.get("bytes")
    if isinstance(listed, list):
        # A page has thousands of candidates, and the server waits meanwhile: bytes() itself checks quickest.
        with suppress(TypeError, ValueError):
            return bytes(listed)
    return str(entry.get("token", "")).encode(errors="replace")


def _candidates(entry: Mapping[str, Any]) -> _Candidates:
    listed = entry.get("top_logprobs")
    return [
        (_bytes_of(other).decode(errors="replace"), float(other["logprob"]))
        for other in (listed if isinstance(listed, list) else [])
        if isinstance(other, dict) and isinstance(other.get("logprob"), int | float)
    ]


def _is_telling(candidates: Sequence[_Candidates], temperature: float) -> bool:
    if sum(len(listed) > 1 for listed in candidates) < _SHOWING * len(candidates):
        return False
    crowded = sum(sum(logprob > _FLOOR for _, logprob in listed) >= _CROWDED for listed in candidates)
    return temperature > _NEARLY_GREEDY or crowded <= _SHOWING * len(candidates)


def _token(start: int, text: str, entry: Mapping[str, Any], candidates: _Candidates, temperature: float) -> _Token:
    own = entry.get("logprob")
    chosen = float(own) if isinstance(own, int | float) else 0.0
    first = max([chosen, *(logprob for _, logprob in candidates)])
    rivals = tuple(
        (other, math.exp(temperature * (logprob - first)))
        for other, logprob in sorted(candidates, key=lambda candidate: -candidate[1])
        if other != text and logprob > _FLOOR
    )
    return _Token(start, text, math.exp(temperature * (chosen - first)), rivals)


def _of_words(page: Traced, tokens: Sequence[_Token]) -> Confidence | None:
    starts = [token.start for token in tokens]
    sure: list[float] = []
    doubtful: list[Mapping[str, Scalar]] = []
    for word in _WORD.finditer(page.text):
        places = page.origin[word.start() : word.end()]
        last = bisect_right(starts, places[-1])
        first = max(bisect_right(starts, places[0]) - 1, 0)
        first = bisect_left(starts, starts[first])  # a character may be spread over several tokens
        judged = [_judged(token, word.group(), places) for token in tokens[first:last]]
        if not judged:
            continue
        least, rival = min(judged, key=lambda one: one[0])
        sure.append(least)
        if least < DOUBTFUL and rival is not None:
            doubtful.append({"start": word.start(), "end": word.end(), "rival": rival})
    if not sure:
        return None
    fifth = sorted(sure)[math.ceil(0.05 * len(sure)) - 1]
    return Confidence(round(sum(sure) / len(sure), 4), round(fifth, 4), tuple(doubtful))


def _judged(token: _Token, word: str, places: Sequence[int]) -> tuple[float, str | None]:
    """How sure the token is as far as this word goes, and the likeliest other word."""
    same, other = token.own, 0.0
    rival: str | None = None
    for spelled, ratio in _spelled(token, word, places):
        if spelled is None or spelled == word:
            same += ratio
        else:
            other += ratio
            rival = spelled if rival is None else rival
    return same / (same + other), rival


def _spelled(token: _Token, word: str, places: Sequence[int]) -> Iterator[tuple[str | None, float]]:
    """The word as each rival of the token would have it; None where only what stands before the word would change."""
    written = word[: bisect_right(places, token.start - 1)]
    for text, ratio in token.rivals:
        if written:
            begun = re.match(r"[^\s|*\ufffd]*", text)
            yield written + (begun.group() if begun else ""), ratio
        else:
            found = _WORD.search(text)
            yield (found.group() if found else None), ratio
