"""The photo wall, and the pages that show the same as another one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from kobold_reader.archive import Alike, Archive
from kobold_reader.web.library import Leaf, Overview

__all__ = ["Member", "Tile", "alike_address", "members", "said_alike", "wall"]


@dataclass(frozen=True, slots=True)
class Tile:
    """A photo on the wall, in place of all that look like it."""

    leaf: Leaf
    date: str
    """Of the oldest of them: the others may have lost theirs."""
    address: str
    others: int
    """How many look like it, copies of the file included."""


def wall(overview: Overview, archive: Archive, limit: int) -> tuple[list[tuple[str, list[Tile]]], bool]:
    """Return the photos under their year, those without a date under "", and whether there are more.

    Photos that look alike are one tile, which shows the largest of them where the oldest stands.
    """
    tiles: list[Tile] = []
    seen: set[str] = set()
    photos = overview.photos
    for leaf in photos:
        if leaf.page_id in seen:
            continue
        if len(tiles) == limit:
            return _by_year(tiles), True
        alike = archive.alike(leaf.page_id)
        seen |= {leaf.page_id, *(one.page_id for one in alike)}
        tiles.append(_tile(leaf, alike, overview))
    return _by_year(tiles), False


def _tile(leaf: Leaf, alike: Sequence[Alike], overview: Overview) -> Tile:
    shown = [leaf, *(overview.leaves[at] for one in alike if (at := overview.positions.get(one.page_id)) is not None)]
    best = max(shown, key=lambda one: one.file_size)
    address = alike_address(best.page_id) if alike else f"/page/{best.page_id}"
    return Tile(best, leaf.date, address, len(alike))


def _by_year(tiles: Iterable[Tile]) -> list[tuple[str, list[Tile]]]:
    return [(year, list(some)) for year, some in groupby(tiles, key=lambda tile: tile.date[:4])]


def alike_address(page_id: str) -> str:
    """Return where all that show the same as a page are seen."""
    return f"/alike/{page_id}"


def said_alike(count: int) -> str:
    """Return how many others there are, as a link says it."""
    return f"and {count} like it"


@dataclass(frozen=True, slots=True)
class Member:
    """One of several pages that show the same."""

    page_id: str
    name: str
    folder: str
    """The path of the folder it lies in."""
    size: str
    """Of the file, for people."""
    said: str
    """How it is like the page it is shown beside; "" for that page."""


def members(leaf: Leaf, file_path: str, alike: Iterable[Alike]) -> list[Member]:
    """Return a page and what shows the same, as they are shown."""
    others = (
        Member(
            one.page_id,
            one.file_name,
            _folder(one.file_path),
            _size(one.file_size),
            "the same" if one.is_equal else "looks alike",
        )
        for one in alike
    )
    return [Member(leaf.page_id, leaf.file_name, _folder(file_path), _size(leaf.file_size), ""), *others]


def _folder(file_path: str) -> str:
    return re.split(r"[/\\][^/\\]*$", file_path)[0]


def _size(size_bytes: int) -> str:
    mega = 1_000_000
    return f"{size_bytes / mega:.1f} MB" if size_bytes >= mega else f"{max(1, round(size_bytes / 1000))} kB"
