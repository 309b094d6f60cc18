"""What the views show of an archive: all pages in order without their texts, kept readings, and pictures of pages."""

from __future__ import annotations

import functools
import logging
import re
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from sys import intern
from typing import Any, Literal, NamedTuple

from kobold_reader.archive import Archive, Hits
from kobold_reader.archive.corrections import as_read
from kobold_reader.archive.filters import DATE, LISTS, Filter, date_of
from kobold_reader.archive.rows import PageOutline, PageRow
from kobold_reader.errors import CorruptSourceError, LedgerError, StoreError
from kobold_reader.html.pages import page_picture
from kobold_reader.options import Mode
from kobold_reader.pages import ImageBudget, PageFacts, PageView, SourceFile, file_at
from kobold_reader.pages.sources import natural_key
from kobold_reader.reading.ledger import Ledger
from kobold_reader.reading.open_file import OpenFile

log = logging.getLogger(__name__)

QUICK_S = 0.5
"""An overview that takes longer is made in a thread, while the views show the one before."""
PAUSES = 5
"""Pause between two such overviews, in multiples of the time that one takes: `index` adds pages all the time."""
_CHOICES = ("page_status", "file_type", "image_kind")
FACETS = {"persons": "Persons", "keywords": "Keywords", "camera": "Cameras", "rating": "Ratings"}
"""Keys of metadata by which pages are narrowed down beside folders and dates, and what they are called."""
PLACE = ("latitude", "longitude")
_FILTERED = (*_CHOICES, "file_path", *FACETS, *PLACE)
_FIRST_CHARS = 140
READ_CHARS = 2 * _FIRST_CHARS
"""Of a text, so that its beginning is long enough without white space."""
Size = Literal["small", "medium", "large", "full"]
SIZES: dict[Size, ImageBudget] = {
    "small": ImageBudget(max_side_px=360, jpeg_quality=78, max_bytes=60_000),
    "medium": ImageBudget(max_side_px=720, jpeg_quality=78, max_bytes=200_000),
    "large": ImageBudget(max_side_px=1600, jpeg_quality=84, max_bytes=1_500_000),
    "full": ImageBudget(max_side_px=4000, jpeg_quality=88, max_bytes=6_000_000),
}
MOST_HITS = 100
MOST_LIKE = 48
MOST_YEARS = 24
"""A timeline of more years shows decades."""
KEPT_SEARCHES = 8
"""Whose hits are kept, so that one can go from hit to hit, and sort them, without searching again."""
CACHE_BYTES = 64 * 1024 * 1024


class Leaf(NamedTuple):
    """One page without its text."""

    page_id: str
    uri: str
    file_name: str
    folder: str
    page_number: int
    page_label: str
    total_pages: int
    status: str
    date: str
    """When it was taken, else when it was scanned; "" where unknown."""
    is_photo: bool
    file_size: int
    """In bytes."""
    beginning: str
    """Beginning of its text, or of a photo's description."""
    facts: Mapping[str, Any]
    """What filters look at: metadata, and under `DATE` the day that `--since` means."""

    @property
    def label(self) -> str:
        """`3`, or `3 (iii)` where another number is printed on the page."""
        number = str(self.page_number)
        return number if self.page_label in {"", number} else f"{number} ({self.page_label})"


def leaf_of(page: PageRow | PageOutline) -> Leaf:
    """Return a page without its text."""
    about, parts = page.metadata, page.parts
    kind = about.get("image_kind")  # missing on pages that an older release read
    is_photo = kind == "photo" if kind else bool(about.get("camera")) or page.status == "no_text"
    text = (is_photo and parts.get("caption")) or "\n\n".join([part[:READ_CHARS] for part in parts.values()])
    facts = {key: about[key] for key in _FILTERED if key in about}
    if date := date_of(about):
        facts[DATE] = date
    return Leaf(
        page_id=page.page_id,
        uri=intern(page.uri),
        file_name=intern(str(about.get("file_name", ""))),
        folder=intern(str(about.get("folder", ""))),
        page_number=page.page_number,
        page_label=str(about.get("page_label", "")),
        total_pages=int(about.get("total_pages", 0)),
        status=page.status,
        date=str(about.get("date_taken") or about.get("date_digitized") or ""),
        is_photo=is_photo,
        file_size=int(about.get("file_size") or 0),
        beginning=" ".join(text[:READ_CHARS].split())[:_FIRST_CHARS],
        facts=facts,
    )


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder with files in it or below."""

    name: str
    """A chain of folders of which each holds nothing but the next is one, as `letters/1954`."""
    path: str
    folders: tuple[Folder, ...]
    size: int
    """Number of folders below."""


def folder_of(file_path: str) -> str:
    """Return the path of a file's folder with the sign behind it, on any system."""
    return file_path[: max(file_path.rfind("/"), file_path.rfind("\\")) + 1]


def _tree(paths: Iterable[str]) -> Folder:
    """Return the deepest folder that holds all these folders, which hold files."""

    def folder(above: str, name: str, inside: list[list[str]], depth: int) -> Folder:
        below: dict[str, list[list[str]]] = {}
        for names in inside:
            if len(names) > depth:
                below.setdefault(names[depth], []).append(names)
        if len(below) == 1 and sum(map(len, below.values())) == len(inside):
            return folder(above, name + next(iter(below)), inside, depth + 1)
        path = above + name
        folders = tuple(
            folder(path, one, some, depth + 1)
            for one, some in sorted(below.items(), key=lambda item: natural_key(item[0]))
        )
        size = len(folders) + sum(one.size for one in folders)
        return Folder(name.rstrip("/\\") or name, path, folders, size)

    return folder("", "", [re.findall(r"[^/\\]*[/\\]", path) for path in paths], 0)


@dataclass(frozen=True, slots=True)
class Period:
    """A decade, a year or a month, and how many pages are of it."""

    name: str
    since: str
    until: str
    """As in a filter."""
    pages: int


def _timeline(pages_of_months: Mapping[str, int]) -> tuple[Period, ...]:
    """Return months of one year, years of a few decades, else decades; no empty ones."""
    years = {month[:4] for month in pages_of_months}
    length = 7 if len(years) == 1 else 4 if len(years) <= MOST_YEARS else 3
    count: Counter[str] = Counter()
    for month, pages in pages_of_months.items():
        count[month[:length]] += pages
    if length == 3:  # noqa: PLR2004
        return tuple(Period(f"{one}0–{one}9", f"{one}0", f"{one}9", pages) for one, pages in sorted(count.items()))
    return tuple(Period(one, one, one, pages) for one, pages in sorted(count.items()))


class Facet(NamedTuple):
    """One value of a key, and how many pages have it."""

    value: str
    pages: int


class Spot(NamedTuple):
    """A place on the map: a tenth of a degree wide, which is a town and what lies around it."""

    latitude: float
    longitude: float
    pages: int
    page_id: str
    """Of one page there."""

    @property
    def value(self) -> str:
        """The place in a filter."""
        return f"{self.latitude:.1f},{self.longitude:.1f}"


def spot_of(latitude: float, longitude: float) -> tuple[float, float]:
    """Return the place in which a point is."""
    return round(latitude, 1) + 0.0, round(longitude, 1) + 0.0  # no -0.0


@dataclass(frozen=True)
class Part:
    """Some of the pages, in order, and what they are counted by."""

    leaves: Sequence[Leaf]

    @functools.cached_property
    def folders(self) -> Mapping[str, int]:
        """The number of pages in each folder and below it, by its path; without empty ones."""
        pages: Counter[str] = Counter()
        for path, number in Counter(folder_of(str(leaf.facts.get("file_path", ""))) for leaf in self.leaves).items():
            for sign in re.finditer(r"[/\\]", path):
                pages[path[: sign.end()]] += number
        return pages

    @functools.cached_property
    def facets(self) -> dict[str, tuple[Facet, ...]]:
        """The values of `FACETS`, the most frequent first."""
        found = {}
        for key in FACETS:
            counts: Counter[str] = Counter()
            for value, number in Counter(leaf.facts[key] for leaf in self.leaves if key in leaf.facts).items():
                for one in dict.fromkeys(str(value).split(", ") if key in LISTS else (str(value),)):
                    counts[one] += number
            order = sorted(counts.items(), key=lambda item: (-item[1], item[0].casefold()))
            found[key] = tuple(Facet(value, number) for value, number in order if value)
        return found

    @functools.cached_property
    def spots(self) -> tuple[Spot, ...]:
        """The places, those with the most pages first."""
        at: dict[tuple[float, float], list[Leaf]] = {}
        for leaf in self.leaves:
            latitude, longitude = (leaf.facts.get(key) for key in PLACE)
            if isinstance(latitude, float | int) and isinstance(longitude, float | int):
                at.setdefault(spot_of(latitude, longitude), []).append(leaf)
        spots = (Spot(*where, len(leaves), leaves[0].page_id) for where, leaves in at.items())
        return tuple(sorted(spots, key=lambda spot: (-spot.pages, spot.latitude, spot.longitude)))

    @functools.cached_property
    def timeline(self) -> tuple[Period, ...]:
        """The pages by decade, year or month."""
        return _timeline(Counter(str(leaf.facts[DATE])[:7] for leaf in self.leaves if DATE in leaf.facts))


@dataclass(frozen=True)
class Overview:
    """All pages, by file and number."""

    leaves: tuple[Leaf, ...]
    positions: Mapping[str, int]
    """In `leaves`, by page id."""
    choices: Mapping[str, tuple[str, ...]]
    """By metadata key: its values."""

    @classmethod
    def of(cls, leaves: Sequence[Leaf]) -> Overview:
        """Return the overview of pages in this order."""
        choices = {key: {str(leaf.facts[key]) for leaf in leaves if key in leaf.facts} for key in _CHOICES}
        return cls(
            leaves=tuple(leaves),
            positions={leaf.page_id: number for number, leaf in enumerate(leaves)},
            choices={key: tuple(sorted(values)) for key, values in choices.items()},
        )

    def beside(self, page_id: str) -> tuple[Leaf | None, Leaf | None]:
        """Return the pages before and after one; the last page of a file is followed by the next file."""
        at = self.positions.get(page_id)
        if at is None:
            return None, None
        return self.leaves[at - 1] if at else None, next(iter(self.leaves[at + 1 : at + 2]), None)

    def part(self, filter_: Filter) -> Part:
        """Return the pages that pass a filter; without one, all."""
        if filter_ == Filter():
            return self._whole
        found: Iterable[Leaf] = self.leaves
        for key, test in filter_.tests():
            passes = functools.cache(test)  # a hundred thousand pages have a few hundred values
            found = [leaf for leaf in found if (value := leaf.facts.get(key)) is not None and passes(value)]
        return Part(list(found))

    def those(self, page_ids: Iterable[str]) -> Part:
        """Return these pages, unknown ones left out."""
        return Part([self.leaves[at] for one in page_ids if (at := self.positions.get(one)) is not None])

    @functools.cached_property
    def _whole(self) -> Part:
        return Part(self.leaves)

    @functools.cached_property
    def first_leaves(self) -> Sequence[Leaf]:
        """The first page of every file."""
        firsts = {leaf.uri: leaf for leaf in reversed(self.leaves)}
        return list(reversed(firsts.values()))

    @functools.cached_property
    def folders(self) -> Folder:
        """All folders, below the deepest that holds all."""
        return _tree({folder_of(str(leaf.facts.get("file_path", ""))) for leaf in self.leaves})


class Pile(NamedTuple):
    """A photo on the wall, shown in place of all photos that look like it."""

    leaf: Leaf
    """The largest of them."""
    date: str
    """The date of the oldest; the others may have lost theirs."""
    others: int
    """Number of photos that look like it, copies of the file included."""


@dataclass(frozen=True)
class Wall:
    """All photos, oldest first, those without a date last; those that look alike as one."""

    overview: Overview
    piles: tuple[Pile, ...]
    positions: Mapping[str, int]
    """In `piles`, by the id of each of their pages."""
    years: Mapping[str, int]
    """The position of each year's first photo; "" for those without a date."""

    @classmethod
    def of(cls, overview: Overview, alike: Mapping[str, Sequence[str]], copies: Mapping[str, int]) -> Wall:
        """Return the wall of these pages; `alike` and `copies` are those of the archive."""
        piles: list[Pile] = []
        positions: dict[str, int] = {}
        photos = (leaf for leaf in overview.leaves if leaf.is_photo)
        for leaf in sorted(photos, key=lambda leaf: (not leaf.date, leaf.date)):
            if leaf.page_id in positions:
                continue
            page_ids = alike.get(leaf.page_id, (leaf.page_id,))
            known = [overview.leaves[at] for one in page_ids if (at := overview.positions.get(one)) is not None]
            positions |= dict.fromkeys(page_ids, len(piles))
            largest = max((leaf, *known), key=lambda one: one.file_size)
            piles.append(Pile(largest, leaf.date, sum(copies.get(one, 1) for one in page_ids) - 1))
        years: dict[str, int] = {}
        for at, pile in enumerate(piles):
            years.setdefault(pile.date[:4], at)
        return cls(overview, tuple(piles), positions, years)

    def beside(self, page_id: str) -> tuple[Leaf | None, Leaf | None]:
        """Return the photos before and after one."""
        at = self.positions.get(page_id)
        if at is None:
            return None, None
        before, after = self.piles[at - 1 : at] if at else (), self.piles[at + 1 : at + 2]
        return next((pile.leaf for pile in before), None), next((pile.leaf for pile in after), None)


class Library:
    """An open archive as the views see it; thread-safe."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self._lock = threading.Lock()
        self._generation = -1
        self._overview = Overview.of(())
        self._took_s = 0.0
        self._ended_s = 0.0
        self._thread: threading.Thread | None = None
        self._wall: Wall | None = None
        self._searches: OrderedDict[tuple[str, str, int], Hits] = OrderedDict()
        self._warming: threading.Thread | None = None
        self._is_warm = threading.Event()
        self._is_warm.set()
        self._cold = ""
        """Why pages cannot be searched by meaning as long as this process runs."""

    def warm_up(self) -> None:
        """Load, in a thread, what the views show of all pages, then the embedder and the vectors.

        The latter take seconds, in which only words are searched.
        """
        if self.archive.embedder != "none":
            self._is_warm.clear()
        self._warming = threading.Thread(target=self._warm_up, name="kobold-reader-warm", daemon=True)
        self._warming.start()

    def _warm_up(self) -> None:
        try:
            with suppress(StoreError):  # closed, or being changed: the views try again
                self.overview()
            if not self.is_warm:
                self._load_embedder()
        finally:
            self._is_warm.set()
        with suppress(StoreError):
            self.wall()

    def _load_embedder(self) -> None:
        try:
            # Whatever else goes wrong is said by each search, which tries again.
            self.archive.search("ready", limit=1, on_notice=log.debug)
        except Exception as err:
            log.exception("the embedder cannot be loaded")
            self._cold = f"Searching by words only: the embedder cannot be loaded ({err!r})."

    @property
    def is_warm(self) -> bool:
        """Whether searches are complete, or say why they are not."""
        return self._is_warm.is_set()

    def await_warm(self, timeout_s: float) -> bool:
        """Wait until searches are complete, and tell whether they are."""
        return self._is_warm.wait(timeout_s)

    def close(self, timeout_s: float) -> None:
        """Wait until the thread of `warm_up` has ended."""
        if self._warming is not None:
            self._warming.join(timeout_s)

    def hits(self, query: str, asked: Mapping[str, Any], on_notice: Callable[[str], None]) -> Hits:
        """Return the best hits, `MOST_HITS` at most, best first; those of the last searches are kept.

        As long as the embedder is being loaded, they are found by their words alone.

        Args:
            query: What is searched for.
            asked: Filters, as arguments of `Archive.search`.
            on_notice: Called as `Archive.search` does; such a search is not kept.

        Raises:
            ConfigError: As `Archive.search` does.
        """
        if not self.is_warm or self._cold:
            if self._cold:
                on_notice(self._cold)
            return self.archive.search(
                query, limit=MOST_HITS, mode="keyword", related=True, on_notice=on_notice, **asked
            )
        key = (query, repr(asked), self.archive.generation)
        with self._lock:
            if key in self._searches:
                self._searches.move_to_end(key)
                return self._searches[key]
        notices: list[str] = []
        hits = self.archive.search(query, limit=MOST_HITS, related=True, on_notice=notices.append, **asked)
        for notice in notices:
            on_notice(notice)
        if not notices:
            with self._lock:
                self._searches[key] = hits
                if len(self._searches) > KEPT_SEARCHES:
                    self._searches.popitem(last=False)
        return hits

    def like(self, page_id: str, on_notice: Callable[[str], None]) -> Hits:
        """Return the photos like the one of a page, those nearest first; without vectors as long as they are loaded."""
        mode: Mode = "hybrid" if self.is_warm and not self._cold else "keyword"
        return self.archive.like(page_id, limit=MOST_LIKE, mode=mode, related=True, on_notice=on_notice)

    def overview(self) -> Overview:
        """Return all pages; while a large archive grows, perhaps those of a moment ago."""
        with self._lock:
            if self.archive.generation == self._generation:
                return self._overview
            if self._generation < 0 or self._took_s < QUICK_S:
                self._renew()
            elif self._thread is None and time.monotonic() - self._ended_s > PAUSES * self._took_s:
                self._thread = threading.Thread(target=self._renew_in_thread, name="kobold-reader-web", daemon=True)
                self._thread.start()
            return self._overview

    def wall(self) -> Wall:
        """Return all photos, of the pages that `overview` returns."""
        overview = self.overview()
        with self._lock:
            if self._wall is None or self._wall.overview is not overview:
                self._wall = Wall.of(overview, self.archive.piles(), self.archive.copies())
            return self._wall

    def _renew(self) -> None:
        started_s = time.monotonic()
        generation = self.archive.generation
        self._overview = Overview.of([leaf_of(page) for page in self.archive.outlines(READ_CHARS)])
        self._generation = generation
        self._ended_s = time.monotonic()
        self._took_s = self._ended_s - started_s

    def _renew_in_thread(self) -> None:
        try:
            self._renew()
        except StoreError as err:
            log.debug("%s", err)  # closed, or being changed: the next view tries again
        finally:
            self._thread = None

    def facts(self, pages: Iterable[PageRow]) -> dict[str, PageFacts]:
        """Return what the ledger knows of the pictures of pages, by page id, unknown ones left out."""
        path = self.archive.folder / "ledger.sqlite"
        found: dict[str, PageFacts] = {}
        if path.is_file():
            # Pages can be shown without their facts.
            with suppress(LedgerError), Ledger(path, read_only=True) as ledger:
                for page in pages:
                    if known := ledger.page(page.sha256, page.page_number):
                        found[page.page_id] = known.facts
        return found

    def rotation_deg(self, page: PageRow) -> int:
        """Return how the picture of a page is turned where it is shown."""
        turned = self.archive.rotations([page]).get(page.page_id, read_rotation_deg(page))
        if turned is not None:
            return turned
        facts = self.facts([page]).get(page.page_id)
        return facts.rotation_deg if facts else 0

    def ratios(self, pages: Sequence[PageRow]) -> dict[str, float]:
        """Return width by height of pictures as they are shown, by page id, unknown ones left out."""
        turned = self.archive.rotations(pages)
        rotations = {page.page_id: turned.get(page.page_id, read_rotation_deg(page)) for page in pages}
        ratios = {}
        for page_id, facts in self.facts(pages).items():
            width, height = (facts.width_px, facts.height_px) if facts.width_px else (facts.width_pt, facts.height_pt)
            if width and height:
                rotation_deg = rotations[page_id]
                is_turned = rotation_deg is not None and (rotation_deg - facts.rotation_deg) % 180 != 0
                ratios[page_id] = height / width if is_turned else width / height
        return ratios


def read_rotation_deg(page: PageRow) -> int | None:
    """Return the clockwise turn with which the picture of a page was read; None where only its own text was."""
    # A correction hides the model that read it.
    was_read = as_read(page).metadata.get("model") or "rotation_deg" in page.metadata
    return int(page.metadata.get("rotation_deg", 0)) if was_read else None


class Pictures:
    """Makes the pictures of pages, one at a time, turned as the pages were read; thread-safe, with a bounded cache."""

    def __init__(self, passwords: Sequence[str] = (), *, cache_bytes: int = CACHE_BYTES) -> None:
        self._ledger = Ledger(None)  # remembers during this run which file has which content
        self._passwords = tuple(passwords)
        self._opened = OpenFile(self._ledger, self._passwords)
        self._lock = threading.Lock()
        self._cache: OrderedDict[tuple[str, Size, int | None, int, int], PageView] = OrderedDict()
        self._cache_bytes = cache_bytes
        self._held_bytes = 0

    def picture(self, page: PageRow, size: Size, rotation_deg: int | None = None) -> PageView:
        """Return a page's picture; `rotation_deg`: turned so, else as it was read.

        Raises:
            SourceNotFoundError: Its file is missing.
            CorruptSourceError: Its file was changed since the page was read.
            SourceError: Its file cannot be opened.
        """
        source = file_at(page.uri)
        if rotation_deg is None:
            rotation_deg = read_rotation_deg(page)
        key = (page.page_id, size, rotation_deg, source.size_bytes, source.mtime_ns)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
            picture = self._cache[key] = self._make(page, source, size, rotation_deg)
            self._held_bytes += len(picture.image)
            while self._held_bytes > self._cache_bytes:
                self._held_bytes -= len(self._cache.popitem(last=False)[1].image)
            return picture

    def add_password(self, password: str) -> None:
        """Try another password on encrypted files from now on."""
        with self._lock:
            self._passwords += (password,)
            self._opened.close()
            self._opened = OpenFile(self._ledger, self._passwords)

    def original(self, page: PageRow) -> SourceFile:
        """Return a page's file, which is as it was when the page was read.

        Raises:
            SourceNotFoundError: It is missing.
            CorruptSourceError: It was changed since.
            SourceError: It cannot be opened.
        """
        source = file_at(page.uri)
        with self._lock:
            self._check_unchanged(page, source)
        return source

    def _check_unchanged(self, page: PageRow, source: SourceFile) -> None:
        if self._opened.facts(source).sha256 != page.sha256:
            raise CorruptSourceError(
                "The file was changed since its pages were read; only the text is shown.",
                hint="The next `kobold-reader index` reads it as it is now.",
            )

    def _make(self, page: PageRow, source: SourceFile, size: Size, rotation_deg: int | None) -> PageView:
        self._check_unchanged(page, source)
        return page_picture(self._opened, source, page.page_number, SIZES[size], rotation_deg)

    def close(self) -> None:
        """End the page child."""
        with self._lock:
            self._opened.close()
            self._ledger.close()
