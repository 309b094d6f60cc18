"""Which perceptual hashes are near each other, among very many.

One hash is compared with all others: two milliseconds for 100,000. To find all groups that would be too many pairs. Two
hashes of 64 bits that differ in at most 10 differ in at most 2 of the 16 bits of one of their quarters: so only those
are compared of which a quarter differs so little, some hundreds for each of 100,000: a quarter of a minute in all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["MOST_BITS", "Likeness"]

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
