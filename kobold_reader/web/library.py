"""What the views show of an archive: all pages in order without their texts, kept readings, and pictures of pages."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kobold_reader.archive import Archive, Hit
from kobold_reader.archive.corrections import as_read
from kobold_reader.archive.filters import DATE_KEYS, Filter
from kobold_reader.archive.rows import PageRow
from kobold_reader.errors import CorruptSourceError, LedgerError, SourceError, SourceNotFoundError, StoreError
from kobold_reader.html.pages import page_picture
from kobold_reader.options import ReadOptions
from kobold_reader.pages import ImageBudget, PageView, SourceFile, local_path, select, shown
from kobold_reader.reading.ledger import Ledger
from kobold_reader.reading.open_file import OpenFile
from kobold_reader.reading.results import Reading

log = logging.getLogger(__name__)

QUICK_S = 0.5
"""An overview that takes longer is made in a thread, while the views show the one before."""
PAUSES = 5
"""Pause between two such overviews, in multiples of the time that one takes: `index` adds pages all the time."""
_CHOICES = ("folder", "page_status", "file_type", "image_kind")
_FIRST_CHARS = 140
Size = Literal["small", "large"]
SIZES: dict[Size, ImageBudget] = {
    "small": ImageBudget(max_side_px=360, jpeg_quality=78, max_bytes=60_000),
    "large": ImageBudget(max_side_px=1600, jpeg_quality=84, max_bytes=1_500_000),
}
MOST_HITS = 100
KEPT_SEARCHES = 8
"""Whose hits are kept, so that one can go from hit to hit, and sort them, without searching again."""
CACHE_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Leaf:
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
    """The metadata that filters look at."""

    @property
    def label(self) -> str:
        """`3`, or `3 (iii)` where another number is printed on the page."""
        number = str(self.page_number)
        return number if self.page_label in {"", number} else f"{number} ({self.page_label})"


def leaf_of(row: PageRow) -> Leaf:
    """Return a page without its text."""
    about = row.metadata
    kind = about.get("image_kind")  # missing on pages that an older release read
    is_photo = kind == "photo" if kind else bool(about.get("camera")) or row.status == "no_text"
    text = (is_photo and row.parts.get("caption")) or row.text
    return Leaf(
        page_id=row.page_id,
        uri=row.uri,
        file_name=str(about.get("file_name", "")),
        folder=str(about.get("folder", "")),
        page_number=row.page_number,
        page_label=str(about.get("page_label", "")),
        total_pages=int(about.get("total_pages", 0)),
        status=row.status,
        date=str(about.get("date_taken") or about.get("date_digitized") or ""),
        is_photo=is_photo,
        file_size=int(about.get("file_size") or 0),
        beginning=" ".join(text[: 2 * _FIRST_CHARS].split())[:_FIRST_CHARS],
        facts={key: about[key] for key in (*_CHOICES, *DATE_KEYS) if key in about},
    )


@dataclass(frozen=True, slots=True)
class Overview:
    """All pages, by file and number."""

    leaves: tuple[Leaf, ...]
    positions: Mapping[str, int]
    """In `leaves`, by page id."""
    choices: Mapping[str, tuple[tuple[str, int], ...]]
    """By metadata key: its values, and how many pages have each."""

    @classmethod
    def of(cls, leaves: Sequence[Leaf]) -> Overview:
        """Return the overview of pages in this order."""
        counts = {key: Counter(str(leaf.facts[key]) for leaf in leaves if key in leaf.facts) for key in _CHOICES}
        return cls(
            leaves=tuple(leaves),
            positions={leaf.page_id: number for number, leaf in enumerate(leaves)},
            choices={key: tuple(sorted(count.items())) for key, count in counts.items()},
        )

    def beside(self, page_id: str) -> tuple[Leaf | None, Leaf | None]:
        """Return the pages before and after one; the last page of a file is followed by the next file."""
        at = self.positions.get(page_id)
        if at is None:
            return None, None
        return self.leaves[at - 1] if at else None, next(iter(self.leaves[at + 1 : at + 2]), None)

    def chosen(self, filter_: Filter) -> list[Leaf]:
        """Return the pages that pass a filter; without one, the first page of every file."""
        if filter_ == Filter():
            firsts = {leaf.uri: leaf for leaf in reversed(self.leaves)}
            return sorted(firsts.values(), key=lambda leaf: self.positions[leaf.page_id])
        return [leaf for leaf in self.leaves if filter_.holds(leaf.facts)]

    @property
    def photos(self) -> list[Leaf]:
        """The pages that are photos, oldest first, those without a date last."""
        return sorted((leaf for leaf in self.leaves if leaf.is_photo), key=lambda leaf: (not leaf.date, leaf.date))


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
        self._searches: OrderedDict[tuple[str, str, int], tuple[Hit, ...]] = OrderedDict()
        self._warming: threading.Thread | None = None
        self._cold = ""
        """Why pages cannot be searched by meaning as long as this process runs."""

    def warm_up(self) -> None:
        """Load the embedder and the vectors in a thread: that takes seconds, in which only words are searched."""
        if self.archive.status().embedder != "none":
            self._warming = threading.Thread(target=self._warm_up, name="kobold-reader-warm", daemon=True)
            self._warming.start()

    def _warm_up(self) -> None:
        try:
            # Whatever else goes wrong is said by each search, which tries again.
            self.archive.search("ready", limit=1, on_notice=log.debug)
        except Exception as err:
            log.exception("the embedder cannot be loaded")
            self._cold = f"Searching by words only: the embedder cannot be loaded ({err!r})."

    @property
    def is_warm(self) -> bool:
        """Whether searches are complete, or say why they are not."""
        return self._warming is None or not self._warming.is_alive()

    def await_warm(self, timeout_s: float) -> bool:
        """Wait until searches are complete, and tell whether they are."""
        if self._warming is not None:
            self._warming.join(timeout_s)
        return self.is_warm

    def hits(self, query: str, asked: Mapping[str, Any], on_notice: Callable[[str], None]) -> tuple[Hit, ...]:
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
            return tuple(self.archive.search(query, limit=MOST_HITS, mode="keyword", on_notice=on_notice, **asked))
        key = (query, repr(asked), self.archive.generation)
        with self._lock:
            if key in self._searches:
                self._searches.move_to_end(key)
                return self._searches[key]
        notices: list[str] = []
        hits = tuple(self.archive.search(query, limit=MOST_HITS, on_notice=notices.append, **asked))
        for notice in notices:
            on_notice(notice)
        if not notices:
            with self._lock:
                self._searches[key] = hits
                if len(self._searches) > KEPT_SEARCHES:
                    self._searches.popitem(last=False)
        return hits

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

    def _renew(self) -> None:
        started_s = time.monotonic()
        generation = self.archive.generation
        self._overview = Overview.of([leaf_of(row) for row in self.archive.pages()])
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

    def readings(self, pages: Collection[PageRow]) -> dict[str, dict[str, Reading]]:
        """Return the readings that the texts of pages come from, by page id and task; a corrected text has none."""
        path = self.archive.folder / "ledger.sqlite"
        found: dict[str, dict[str, Reading]] = {page.page_id: {} for page in pages}
        if path.is_file():
            with suppress(LedgerError), Ledger(path, read_only=True) as ledger:  # pages can be shown without readings
                for page in pages:
                    found[page.page_id] = self._readings(page, ledger)
        return found

    def _readings(self, page: PageRow, ledger: Ledger) -> dict[str, Reading]:
        settings = self.archive.settings_of(page.uri)
        if not settings:
            return {}
        options = ReadOptions.of(settings)
        found = {}
        for task, text in page.parts.items():
            reading = ledger.reading(page.content_sha256, task, options.engine, options.key(task))
            if reading is not None and reading.text == text:
                found[task] = reading
        return found


class Pictures:
    """Makes the pictures of pages, one at a time, turned as the pages were read; thread-safe, with a bounded cache."""

    def __init__(self, passwords: Sequence[str] = (), *, cache_bytes: int = CACHE_BYTES) -> None:
        self._ledger = Ledger(None)  # remembers during this run which file has which content
        self._opened = OpenFile(self._ledger, tuple(passwords))
        self._lock = threading.Lock()
        self._cache: OrderedDict[tuple[str, Size, int, int], PageView] = OrderedDict()
        self._cache_bytes = cache_bytes
        self._held_bytes = 0

    def picture(self, page: PageRow, size: Size) -> PageView:
        """Return a page's picture.

        Raises:
            SourceNotFoundError: Its file is missing.
            CorruptSourceError: Its file was changed since the page was read.
            SourceError: Its file cannot be opened.
        """
        source = _source(page)
        key = (page.page_id, size, source.size_bytes, source.mtime_ns)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
            picture = self._cache[key] = self._make(page, source, size)
            self._held_bytes += len(picture.image)
            while self._held_bytes > self._cache_bytes:
                self._held_bytes -= len(self._cache.popitem(last=False)[1].image)
            return picture

    def original(self, page: PageRow) -> SourceFile:
        """Return a page's file, which is as it was when the page was read.

        Raises:
            SourceNotFoundError: It is missing.
            CorruptSourceError: It was changed since.
            SourceError: It cannot be opened.
        """
        source = _source(page)
        with self._lock:
            self._check_unchanged(page, source)
        return source

    def _check_unchanged(self, page: PageRow, source: SourceFile) -> None:
        if self._opened.facts(source).sha256 != page.sha256:
            raise CorruptSourceError(
                "The file was changed since its pages were read; only the text is shown.",
                hint="The next `kobold-reader index` reads it as it is now.",
            )

    def _make(self, page: PageRow, source: SourceFile, size: Size) -> PageView:
        self._check_unchanged(page, source)
        # A page is turned only where its picture was read. A correction hides the model that read it.
        was_turned = as_read(page).metadata.get("model") or "rotation_deg" in page.metadata
        rotation_deg = int(page.metadata.get("rotation_deg", 0)) if was_turned else None
        return page_picture(self._opened, source, page.page_number, SIZES[size], rotation_deg)

    def close(self) -> None:
        """End the page child."""
        with self._lock:
            self._opened.close()
            self._ledger.close()


def _source(page: PageRow) -> SourceFile:
    path = local_path(page.uri)
    # `select` would take a path with `*`, or the path of a folder, for other files.
    if page.uri.startswith("file:") and not Path(path).is_file():
        hint = f"It was {shown(path)}."
        raise SourceNotFoundError("The file is not there any more; only the text is shown.", hint=hint)
    selection = select([path])
    if not selection.files:
        raise next(iter(selection.errors), SourceError("The file is not of a kind that is taken."))
    return selection.files[0]
