"""An answer to a question, with the pages that it came from; `query_engine.py` makes it."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

from kobold_reader.archive.search import Hit

NOT_FOUND = "Not in these pages."
"""What the model is told to answer if the pages do not hold the answer."""
NOTHING_FOUND = "Nothing was found for this question."
"""The answer if the search finds nothing: then the model is not asked."""

_SAYS_NOT_FOUND = re.compile(r"\W*not in (these|the) pages\b", re.IGNORECASE)
_CITATION = re.compile(r"\[(\d{1,3}(?:\s*[,;]\s*\d{1,3})*)\]")


@dataclass(frozen=True, slots=True)
class Answer:
    """The model's answer and its pages."""

    text: str
    hits: tuple[Hit, ...]
    """All pages that the model was given: `[1]` in the text is the first."""
    question: str = ""

    @property
    def found(self) -> bool:
        """False if the model answers that these pages do not hold the answer, or there were none."""
        return bool(self.hits) and _SAYS_NOT_FOUND.match(self.text) is None

    @property
    def cited(self) -> tuple[int, ...]:
        """Page numbers in the text, in ascending order."""
        return tuple(number for number in _numbers(self.text) if 1 <= number <= len(self.hits))

    @property
    def invented(self) -> tuple[int, ...]:
        """Numbers in the text for which there is no page."""
        return tuple(number for number in _numbers(self.text) if not 1 <= number <= len(self.hits))

    @property
    def sources(self) -> tuple[tuple[int, Hit], ...]:
        """The pages of the answer with their numbers: those that it cites, or all if it cites none."""
        numbers = self.cited or (tuple(range(1, len(self.hits) + 1)) if self.found else ())
        return tuple((number, self.hits[number - 1]) for number in numbers)

    def to_json(self) -> dict[str, Any]:
        """Return the stable form that the command line prints."""
        return {
            "question": self.question,
            "answer": self.text,
            "found": self.found,
            "pages": [{"number": number, **hit.to_json()} for number, hit in self.sources],
        }


class AnswerStream:
    """An answer while it is generated; iterate once over its pieces of text.

    Closing it early (`close`, or the end of a `with`) aborts the job on the server.

    Attributes:
        hits: The pages that the model was given: `[1]` in the text is the first.
    """

    def __init__(self, question: str, hits: Sequence[Hit], pieces: Generator[str, None, None]) -> None:
        self.question = question
        self.hits = tuple(hits)
        self._pieces = pieces
        self._text: list[str] = []

    def __iter__(self) -> Iterator[str]:
        for piece in self._pieces:
            self._text.append(piece)
            yield piece

    @property
    def answer(self) -> Answer:
        """The answer so far; complete when the iteration has ended."""
        return Answer("".join(self._text).strip(), self.hits, self.question)

    def close(self) -> None:
        """Abort the answer if it is still being generated."""
        self._pieces.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _numbers(text: str) -> list[int]:
    return sorted({int(number) for found in _CITATION.finditer(text) for number in re.findall(r"\d+", found[1])})
