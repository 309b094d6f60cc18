"""A text that remembers, through every cut, where in the model's answer each of its characters stood."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

__all__ = ["Traced"]


@dataclass(frozen=True, slots=True)
class Traced:
    """What is left of an answer; cleaning only ever takes away."""

    text: str
    origin: Sequence[int]
    """For each character: its position in the answer."""

    @classmethod
    def of(cls, answer: str) -> Self:
        """The whole answer."""
        return cls(answer, range(len(answer)))

    def only(self, start: int, end: int) -> Traced:
        """The characters from `start` to `end`."""
        return Traced(self.text[start:end], self.origin[start:end])

    def at(self, places: Sequence[int]) -> Traced:
        """The characters at those positions, which ascend."""
        return Traced("".join(self.text[place] for place in places), [self.origin[place] for place in places])

    def keep(self, is_kept: Callable[[int], bool]) -> Traced:
        """The characters at the positions that pass."""
        return self.at([place for place in range(len(self.text)) if is_kept(place)])
