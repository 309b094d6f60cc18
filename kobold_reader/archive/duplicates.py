"""Pages that show the same: copies of a file, one scan in two files, and photos that are nearly the same picture.

Only photos are compared by how they look. Typed pages look alike to a perceptual hash: of 903 pairs of 43 different
receipts 71 are as near as copies of a photo, one has the very same hash. A page left out for another's sake would be
lost; so pages of writing are the same only where their bytes are.

Which perceptual hashes are near each other, among very many.

One hash is compared with all others: two milliseconds for 100,000. To find all groups that would be too many pairs. Two
hashes of 64 bits that differ in at most 10 differ in at most 2 of the 16 bits of one of their quarters: so only those
are compared of which a quarter differs so little, some hundreds for each of 100,000: a quarter of a minute in all.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from kobold_reader.archive.store import Catalog, PageRow, Place
from kobold_reader.documents import page_link

__all__ = ["MOST_BITS", "Alike", "Duplicates", "Likeness"]

MOST_BITS: Final = 10
"""Hashes that differ in no more are of one scene: see `pages/phash.py` for what was measured."""
_QUARTERS: Final = (0, 16, 32, 48)
_KEYS: Final = 1 << 16
_FLIPS: Final = tuple(
    sum(1 << bit for bit in bits) for count in range(MOST_BITS // 4 + 1) for bits in combinations(range(16), count)
)
_PAIRS_AT_ONCE: Final = 1_000_000

Name = TypeVar("Name")
Numbers = NDArray[np.int64]
Hashes = NDArray[np.uint64]

_ONE, _TWO, _FOUR, _HIGHEST = (np.uint64(bits) for bits in (1, 2, 4, 56))
_TWOS, _FOURS, _EIGHTS, _ADDED = (np.uint64(int(byte * 8, 16)) for byte in ("55", "33", "0f", "01"))


class Likeness(Generic[Name]):
    """Hashes by name, and which are near which.

    Args:
        hashes: Names with their hashes of 16 hexadecimal digits; what is none is left out.
    """

    def __init__(self, hashes: Iterable[tuple[Name, str]]) -> None:
        self._names: dict[int, list[Name]] = {}
        self._hash_of: dict[Name, int] = {}
        for name, text in hashes:
            try:
                value = int(text, 16)
            except ValueError:
                continue
            if 0 <= value < 1 << 64:
                self._names.setdefault(value, []).append(name)
                self._hash_of[name] = value
        self._values: Hashes = np.fromiter(self._names, dtype=np.uint64, count=len(self._names))

    def group(self, name: Name) -> list[Name]:
        """Return all names whose hash is near this one's, or near one that is, and so on; itself first."""
        value = self._hash_of.get(name)
        if value is None:
            return [name]
        found, to_ask = {value: None}, [value]
        while to_ask:
            near = self._values[_distance(self._values, np.uint64(to_ask.pop())) <= MOST_BITS]
            new = [one for one in map(int, near) if one not in found]
            found |= dict.fromkeys(new)
            to_ask += new
        return [name, *(one for value in found for one in self._names[value] if one != name)]

    def groups(self) -> list[list[Name]]:
        """Return every group of two and more."""
        roots = list(range(len(self._values)))

        def root(number: int) -> int:
            while roots[number] != number:
                roots[number] = number = roots[roots[number]]
            return number

        for first, second in _near_pairs(self._values):
            roots[max(root(first), root(second))] = min(root(first), root(second))
        groups: dict[int, list[Name]] = {}
        for number, names in enumerate(self._names.values()):
            groups.setdefault(root(number), []).extend(names)
        return [names for names in groups.values() if len(names) > 1]


def _distance(values: Hashes, other: Hashes | np.uint64) -> Hashes:
    """How many bits differ: counted in pairs, then in fours, then in eights, and those added up in the highest byte."""
    bits = values ^ other
    bits -= bits >> _ONE & _TWOS
    bits = (bits & _FOURS) + (bits >> _TWO & _FOURS)
    return ((bits + (bits >> _FOUR)) & _EIGHTS) * _ADDED >> _HIGHEST


def _near_pairs(values: Hashes) -> Iterator[tuple[int, int]]:
    """Yield the places of hashes that are near each other, pairs perhaps several times."""
    for quarter in _QUARTERS:
        keys = (values >> np.uint64(quarter) & np.uint64(_KEYS - 1)).astype(np.int64)
        order = np.argsort(keys, kind="stable")
        starts = np.searchsorted(keys[order], np.arange(_KEYS + 1))
        for flip in _FLIPS:
            first = starts[keys ^ flip]
            counts = starts[(keys ^ flip) + 1] - first
            for left, right in _pairs(first, counts, order):
                near = _distance(values[left], values[right]) <= MOST_BITS
                yield from zip(left[near].tolist(), right[near].tolist(), strict=True)


def _pairs(first: Numbers, counts: Numbers, order: Numbers) -> Iterator[tuple[Numbers, Numbers]]:
    """Yield pairs of places, in pieces that fit the memory.

    Args:
        first: For each place, where those that it is to be compared with begin in `order`.
        counts: For each place, how many they are.
        order: Places.
    """
    ends = np.cumsum(counts)
    begin = 0
    while begin < len(counts):
        before = int(ends[begin - 1]) if begin else 0
        stop = max(begin + 1, int(np.searchsorted(ends, before + _PAIRS_AT_ONCE, side="right")))
        some = counts[begin:stop]
        left = np.repeat(np.arange(begin, stop), some)
        nth = np.arange(len(left)) - np.repeat(np.cumsum(some) - some, some)
        right = order[np.repeat(first[begin:stop], some) + nth]
        once = left < right
        yield left[once], right[once]
        begin = stop


@dataclass(frozen=True, slots=True)
class Alike:
    """One of several pages that show the same."""

    page_id: str
    file_name: str
    file_path: str
    page_number: int
    link: str
    """Opens the file, a PDF at the page."""
    file_size: int
    is_equal: bool
    """Its bytes are those of the page beside which it is named; else it only looks so."""

    def to_json(self) -> dict[str, Any]:
        """Return the stable form that the command line prints."""
        keys = ("file_path", "page_number", "link", "is_equal")
        return {key: getattr(self, key) for key in keys}


class Duplicates:
    """Groups of one archive's pages, as they are now; safe to use from several threads."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._lock = threading.Lock()
        self._generation = -1
        self._likeness: Likeness[str] = Likeness(())

    def _photos(self) -> Likeness[str]:
        """What photos look like: read anew when something was indexed since."""
        with self._lock:
            generation = self._catalog.generation
            if generation != self._generation:
                hashes = self._catalog.values_of_pages("phash")
                self._likeness = Likeness((page_id, str(phash)) for page_id, phash in hashes)
                self._generation = generation
            return self._likeness

    def group(self, page_id: str) -> list[str]:
        """Return the ids of all pages that show the same as this one, itself first."""
        photos = self._photos()
        found = {page_id: None}
        while True:
            more = dict.fromkeys(self._catalog.with_contents_of(list(found)))
            for one in [*found, *more]:
                more |= dict.fromkeys(photos.group(one))
            if more.keys() <= found.keys():
                return list(found)
            found |= more

    def alike(self, row: PageRow) -> tuple[Alike, ...]:
        """Return what shows the same as a page, wherever it lies; the very same first, then the largest file."""
        return self._members(self.group(row.page_id), row)

    def groups(self) -> list[tuple[Alike, ...]]:
        """Return all groups of two and more, the largest file of each first; copies of a file with many pages once."""
        parts = [*self._photos().groups(), *self._catalog.equal_contents(), *([one] for one in self._catalog.copied())]
        shown = (self._members(page_ids) for page_ids in _united(parts))
        return sorted((group for group in shown if len(group) > 1), key=lambda group: group[0].file_path)

    def _members(self, page_ids: Iterable[str], beside: PageRow | None = None) -> tuple[Alike, ...]:
        """Return the pages wherever they lie, less the one that they are named beside."""
        rows = self._catalog.pages(list(page_ids))
        found = [(row, place) for row in rows for place in self._catalog.places_of(row.sha256)]
        if beside is not None:
            found = [(row, place) for row, place in found if (row.page_id, place.uri) != (beside.page_id, beside.uri)]
        if not found:
            return ()
        first = beside or max(found, key=lambda one: _size(one[1]))[0]
        alike = [_alike(row, place, first) for row, place in found]
        return tuple(sorted(alike, key=lambda one: (not one.is_equal, -one.file_size, one.file_path, one.page_number)))


def _alike(row: PageRow, place: Place, beside: PageRow) -> Alike:
    return Alike(
        page_id=row.page_id,
        file_name=str(place.metadata.get("file_name", "")),
        file_path=str(place.metadata.get("file_path", "")),
        page_number=row.page_number,
        link=page_link(place.uri, str(place.metadata.get("file_type")), row.page_number),
        file_size=_size(place),
        is_equal=_is_equal(row, beside),
    )


def _is_equal(row: PageRow, other: PageRow) -> bool:
    return row.page_id == other.page_id or (row.content_sha256 != "" and row.content_sha256 == other.content_sha256)


def _size(place: Place) -> int:
    return int(place.metadata.get("file_size") or 0)


def _united(parts: Iterable[list[str]]) -> list[list[str]]:
    """Return these groups, those that share a page as one."""
    group_of: dict[str, list[str]] = {}
    for part in parts:
        merged = list(dict.fromkeys(one for name in part for one in group_of.get(name, [name])))
        group_of |= dict.fromkeys(merged, merged)
    return list({id(group): group for group in group_of.values()}.values())
