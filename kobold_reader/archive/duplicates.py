"""Pages that show the same: copies of a file, one scan in two files, and photos that are nearly the same picture.

Only photos are compared by how they look. Typed pages look alike to a perceptual hash: of 903 pairs of 43 different
receipts 71 are as near as copies of a photo, one has the very same hash. A page left out for another's sake would be
lost; so pages of writing are the same only where their bytes are.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kobold_reader.archive.catalog import Catalog, PageRow, Place
from kobold_reader.archive.likeness import Likeness
from kobold_reader.documents import page_link

__all__ = ["Alike", "Duplicates"]


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
