"""What goes to the actors and comes back: units of pages, small enough to spread, large enough to open files once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from kobold_reader.pages import FileFacts, SourceFile
from kobold_reader.reading.ledger import KnownPage
from kobold_reader.reading.results import PageResult

__all__ = ["PageToRead", "ReadPage", "Unit", "in_units"]

UNIT_PAGES: Final = 16
"""At most so many pages are read in one go: the last server to finish keeps the others waiting for no more."""
UNITS_A_SERVER: Final = 4
"""A wave of fewer pages is cut so that each server gets about so many units."""


@dataclass(frozen=True, slots=True)
class PageToRead:
    """One page as the driver knows it."""

    position: int
    """In its wave."""
    source: SourceFile
    file: FileFacts
    known: KnownPage
    tasks: tuple[str, ...]
    """Due ones."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Pages that one actor reads in one go, all with the same tasks due."""

    number: int
    pages: tuple[PageToRead, ...]

    @property
    def tasks(self) -> tuple[str, ...]:
        """What is due of every page."""
        return self.pages[0].tasks


@dataclass(frozen=True, slots=True)
class ReadPage:
    """One page as an actor gives it back."""

    unit: int
    position: int
    result: PageResult
    known: KnownPage | None
    """With what was learned of it; None where it could not be looked at."""


def in_units(pages: Sequence[PageToRead], *, servers: int, numbers: Iterator[int]) -> list[Unit]:
    """Cut the pages of a wave into units, numbered as none before.

    A unit may hold pages of several files (photos), and a file may lie in several units (a book).
    """
    size = max(1, min(UNIT_PAGES, -(-len(pages) // (servers * UNITS_A_SERVER))))
    return [Unit(next(numbers), some) for some in _cut(pages, size)]


def _cut(pages: Iterable[PageToRead], size: int) -> Iterator[tuple[PageToRead, ...]]:
    some: list[PageToRead] = []
    for page in pages:
        if some and (len(some) == size or page.tasks != some[0].tasks):
            yield tuple(some)
            some = []
        some.append(page)
    if some:
        yield tuple(some)
