"""Confidence: how sure the model was of each word, as far as the server shows it.

KoboldCpp takes log-probabilities after temperature and samplers, and floors them at 1e-4. Only the *ratio* of two
candidates survives both: at temperature T the model's own is exp(T * (logprob_a - logprob_b)), as long as neither is at
the floor. At T = 0.1, the default, a rival shows from a ratio of 0.4 on. So 1.0 does not mean "certain", but "no rival
came near"; a word below DOUBTFUL had rivals at least 0.43 times as likely.

There is no confidence where the numbers cannot be trusted: no log-probabilities (before 1.77), temperature 0 or
samplers that leave one candidate, another temperature than requested (`--gendefaultsoverwrite`), or tokens that do not
make up the text.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from kobold_reader.kobold import Completion
from kobold_reader.pages import Scalar
from kobold_reader.reading.cleaning import Traced
from kobold_reader.reading.results import DOUBTFUL

_FLOOR = math.log(1e-4) + 1e-3
_NEARLY_GREEDY = 0.15
_CROWDED = 5
"""Five candidates within a ratio of 0.4 at most tokens: no model reads like that; it was another temperature."""
_IDEOGRAPH = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_IDEOGRAPH}]|[^\W_{_IDEOGRAPH}]+(?:[.,:/'’·-][^\W_{_IDEOGRAPH}]+)*")
"""Letters and digits, and the marks that join them (12.50, 3/4, d'Arc). Scripts without blanks: each character."""


@dataclass(frozen=True, slots=True)
class Confidence:
    """How sure the model was of one reading."""

    mean: float
    """Mean over the words; each is as sure as its least sure token."""
    p5: float
    """Fifth percentile of the words."""
    doubtful: tuple[Mapping[str, Scalar], ...]
    """`start`, `end` in the text, and `rival`: the word as the second choice would have begun it."""


@dataclass(frozen=True, slots=True)
class _Token:
    start: int
    """Its position in the text of the answer."""
    text: str
    candidates: Sequence[tuple[str, float]]
    """All that the server lists for this position, with log-probabilities."""
    logprob: float

    def ratios(self, temperature: float) -> tuple[float, list[tuple[str, float]]]:
        """Return how likely this token and the others, likeliest first, were in relation to the first choice."""
        first = max([self.logprob, *(logprob for _, logprob in self.candidates)])
        rivals = [
            (other, math.exp(temperature * (logprob - first)))
            for other, logprob in sorted(self.candidates, key=lambda candidate: -candidate[1])
            if other != self.text and logprob > _FLOOR
        ]
        return math.exp(temperature * (self.logprob - first)), rivals


def confidence_of(parts: Sequence[tuple[Completion, int]], temperature: float, page: Traced) -> Confidence | None:
    """Tell how sure the model was of a cleaned answer, or None where that cannot be known.

    Args:
        parts: The completions of the answer, each with the number of characters left out at its beginning.
        temperature: At which they were sampled.
        page: The answer, cleaned.
    """
    if temperature <= 0:
        return None
    tokens: list[_Token] = []
    start = 0
    for completion, skipped in parts:
        placed = _tokens(completion, skipped, start)
        if placed is None:
            return None
        tokens += placed
        start += len(completion.text) - skipped
    # Half of the tokens must come with a second candidate, even if it is at the floor.
    if not tokens or sum(len(token.candidates) > 1 for token in tokens) < len(tokens) / 2:
        return None
    crowded = sum(sum(logprob > _FLOOR for _, logprob in token.candidates) >= _CROWDED for token in tokens)
    if temperature <= _NEARLY_GREEDY and crowded > len(tokens) / 2:
        return None
    return _of_words(page, tokens, temperature)


def _tokens(completion: Completion, skipped: int, start: int) -> list[_Token] | None:
    """Return the tokens of one completion, placed in the whole answer; None where they do not make up its text.

    A character may be spread over several tokens, so bytes are counted. Tokens behind the text (the end token, the rest
    of a stop sequence) are left out.
    """
    content = (completion.logprobs or {}).get("content")
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        return None
    pieces = [_bytes_of(entry) for entry in content]
    if not b"".join(pieces).startswith(completion.text.encode()):
        return None
    char_ends = list(accumulate(len(char.encode()) for char in completion.text))
    tokens = []
    at = 0
    for piece, entry in zip(pieces, content, strict=True):
        first = bisect_right(char_ends, at)
        if first >= len(completion.text):
            break
        at += len(piece)
        if first >= skipped:
            text, own = piece.decode(errors="replace"), entry.get("logprob")
            logprob = float(own) if isinstance(own, int | float) else 0.0
            tokens.append(_Token(start + first - skipped, text, _candidates(entry), logprob))
    return tokens


def _bytes_of(entry: Mapping[str, Any]) -> bytes:
    listed = entry.get("bytes")
    if isinstance(listed, list):
        # A page has thousands of candidates, and the server waits meanwhile: bytes() itself checks quickest.
        with suppress(TypeError, ValueError):
            return bytes(listed)
    return str(entry.get("token", "")).encode(errors="replace")


def _candidates(entry: Mapping[str, Any]) -> list[tuple[str, float]]:
    listed = entry.get("top_logprobs")
    return [
        (_bytes_of(other).decode(errors="replace"), float(other["logprob"]))
        for other in (listed if isinstance(listed, list) else [])
        if isinstance(other, dict) and isinstance(other.get("logprob"), int | float)
    ]


def _of_words(page: Traced, tokens: Sequence[_Token], temperature: float) -> Confidence | None:
    starts = [token.start for token in tokens]
    words: list[float] = []
    doubtful: list[Mapping[str, Scalar]] = []
    for word in _WORD.finditer(page.text):
        places = page.origin[word.start() : word.end()]
        last = bisect_right(starts, places[-1])
        first = max(bisect_right(starts, places[0]) - 1, 0)
        first = bisect_left(starts, starts[first])  # a character may be spread over several tokens
        judged = [_judged(token, temperature, word.group(), places) for token in tokens[first:last]]
        if not judged:
            continue
        least, rival = min(judged, key=lambda one: one[0])
        words.append(least)
        if least < DOUBTFUL and rival is not None:
            doubtful.append({"start": word.start(), "end": word.end(), "rival": rival})
    if not words:
        return None
    fifth = sorted(words)[math.ceil(0.05 * len(words)) - 1]
    return Confidence(round(sum(words) / len(words), 4), round(fifth, 4), tuple(doubtful))


def _judged(token: _Token, temperature: float, word: str, places: Sequence[int]) -> tuple[float, str | None]:
    """Return how sure the token is as far as it belongs to this word, and the likeliest other word."""
    same, rivals = token.ratios(temperature)
    other = 0.0
    rival: str | None = None
    for spelled, ratio in _spelled(token, rivals, word, places):
        if spelled is None or spelled == word:
            same += ratio
        else:
            other += ratio
            rival = rival or spelled
    return same / (same + other), rival


def _spelled(
    token: _Token, rivals: Sequence[tuple[str, float]], word: str, places: Sequence[int]
) -> Iterator[tuple[str | None, float]]:
    """Yield the word as each rival would spell it; None where only the text before the word would change."""
    written = word[: bisect_right(places, token.start - 1)]
    for text, ratio in rivals:
        if written:
            begun = re.match(r"[^\s|*\ufffd]*", text)
            yield written + (begun.group() if begun else ""), ratio
        else:
            found = _WORD.search(text)
            yield (found.group() if found else None), ratio
