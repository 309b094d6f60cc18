"""Pages that show the same: copies of a file, one scan in two files, and photos that are nearly the same picture.

Only photos are compared by how they look. Typed pages look alike to a perceptual hash: of 903 pairs of 43 different
receipts 71 are as near as copies of a photo, and one pair has the very same hash. A page left out as a duplicate would
be lost, so pages of writing are the same only if their bytes are.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from kobold_reader.archive.rows import PageRow
from kobold_reader.archive.store import Catalog

if TYPE_CHECKING:  # imported where there are photos to compare
    import numpy as np
    from numpy.typing import NDArray

MOST_BITS = 10
"""Photos whose hashes differ in no more bits show the same scene: see `pages/photos.py` for what was measured."""

Name = TypeVar("Name")


class Likeness(Generic[Name]):
    """Perceptual hashes by name, and which of them are near each other.

    Each hash is compared with all others. Of 100,000 hashes, that takes a millisecond for one and five seconds for all.
    A hash is a text of 16 hexadecimal digits; any other text is left out.
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

    @cached_property
    def _hashes(self) -> NDArray[np.uint64]:
        import numpy as np

        return np.fromiter(self._names, dtype=np.uint64, count=len(self._names))

    def near(self, text: str, most_bits: int) -> dict[Name, int]:
        """Return all names whose hash differs in so many bits at most, each with that number, nearest first."""
        import numpy as np

        bits = np.bitwise_count(self._hashes ^ np.uint64(int(text, 16)))
        near = [(int(bits[at]), int(self._hashes[at])) for at in np.flatnonzero(bits <= most_bits)]
        return {name: number for number, value in sorted(near) for name in self._names[value]}

    def group(self, name: Name) -> list[Name]:
        """Return all names whose hash is near this one's, or near one that is, and so on; itself first."""
        value = self._hash_of.get(name)
        if value is None:
            return [name]
        import numpy as np

        found, _ = _chain(np.uint64(value), self._hashes[self._hashes != value])
        return [name, *(one for value in found for one in self._names[value] if one != name)]

    def groups(self) -> list[list[Name]]:
        """Return every group of two names and more, in the order of the hashes."""
        order = {value: number for number, value in enumerate(self._names)}
        groups = []
        left = self._hashes
        while len(left):
            found, left = _chain(left[0], left[1:])
            names = [name for value in sorted(found, key=order.__getitem__) for name in self._names[value]]
            if len(names) > 1:
                groups.append(names)
        return groups


def _chain(first: np.uint64, others: NDArray[np.uint64]) -> tuple[list[int], NDArray[np.uint64]]:
    """Return a hash with all that are near it, or near one that is, and so on; and the rest of the others."""
    import numpy as np

    found = [first]
    for one in found:
        bits = np.bitwise_count(others ^ one)
        if len(bits) and bits.min() <= MOST_BITS:
            near = bits <= MOST_BITS
            found.extend(others[near])
            others = others[~near]
    return [int(one) for one in found], others


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
    """Whether its bytes are those of the page it is compared with; else it only looks the same."""

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
        self._likeness: Likeness[str] | None = None

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

    def near(self, phash: str, most_bits: int) -> dict[str, int]:
        """Return the photos whose hash differs in so many bits at most, by page id, nearest first."""
        return self._photos().near(phash, most_bits)

    def alike(self, row: PageRow) -> tuple[Alike, ...]:
        """Return all that show the same as a page, at every place; equal ones first, then the largest file."""
        return self._members(self.group(row.page_id), row)

    def groups(self) -> list[tuple[Alike, ...]]:
        """Return all groups of two and more, the largest file of each first; copies of a file with many pages once."""
        united = self._united([one] for one in self._catalog.copied())
        groups = (self._members(page_ids) for page_ids in united)
        return sorted((group for group in groups if len(group) > 1), key=lambda group: group[0].file_path)

    def piles(self) -> dict[str, list[str]]:
        """Return the ids of all pages that show the same as a page, itself included, by id; no page that is alone."""
        return {page_id: page_ids for page_ids in self._united() for page_id in page_ids}

    def _united(self, more: Iterable[list[str]] = ()) -> list[list[str]]:
        group_of: dict[str, list[str]] = {}
        for part in [
            *self._photos().groups(),
            *self._catalog.equal_contents(),
            *more,
        ]:  # those that share a page are one
            merged = list(dict.fromkeys(one for name in part for one in group_of.get(name, [name])))
            group_of |= dict.fromkeys(merged, merged)
        return list({id(group): group for group in group_of.values()}.values())

    def _photos(self) -> Likeness[str]:
        """Return the photos' hashes, read again if the archive has changed."""
        with self._lock:
            generation = self._catalog.generation
            if self._likeness is None or generation != self._generation:
                hashes = self._catalog.values_of_pages("phash")
                self._likeness = Likeness((page_id, str(phash)) for page_id, phash in hashes)
                self._generation = generation
            return self._likeness

    def _members(self, page_ids: Iterable[str], beside: PageRow | None = None) -> tuple[Alike, ...]:
        """Return the pages at all their places, except `beside`; it is what they are compared with."""
        rows = self._catalog.pages(list(page_ids))
        found = [row.at(place) for row in rows for place in self._catalog.places_of(row.sha256)]
        if beside is not None:
            found = [row for row in found if (row.page_id, row.uri) != (beside.page_id, beside.uri)]
        if not found:
            return ()
        first = beside or max(found, key=_size)
        alike = [
            Alike(
                page_id=row.page_id,
                file_name=str(row.metadata.get("file_name", "")),
                file_path=row.path,
                page_number=row.page_number,
                link=row.link,
                file_size=_size(row),
                is_equal=row.page_id == first.page_id or row.content_sha256 == first.content_sha256 != "",
            )
            for row in found
        ]
        return tuple(sorted(alike, key=lambda one: (not one.is_equal, -one.file_size, one.file_path, one.page_number)))


def _size(row: PageRow) -> int:
    return int(row.metadata.get("file_size") or 0)
