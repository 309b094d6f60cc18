"""What the views share: all pages in order, without their texts, and the kept readings of some pages."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from kobold_reader.archive import Archive
from kobold_reader.archive.filters import DATE_KEYS, Filter
from kobold_reader.archive.store import PageRow
from kobold_reader.errors import LedgerError, StoreError
from kobold_reader.reader import KoboldReader
from kobold_reader.reading.ledger import Ledger
from kobold_reader.reading.results import Reading

log = logging.getLogger(__name__)

QUICK_S = 0.5
"""An overview that takes longer is made in a thread, while the views show the one before."""
PAUSES = 5
"""Pause between two such overviews, in multiples of the time that one takes: `index` adds pages all the time."""
_CHOICES = ("folder", "page_status", "file_type", "image_kind")
_FIRST_CHARS = 140


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
    """When a photo was taken, else when it was scanned; "" where unknown."""
    is_photo: bool
    file_size: int
    """In bytes."""
    beginning: str
    """Of its text; of a photo's description."""
    facts: Mapping[str, Any]
    """Metadata by which pages are chosen."""

    @property
    def label(self) -> str:
        """How people call the page: `3`, or `3 (iii)` where another number is printed on it."""
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
    """All pages by file and number."""

    leaves: tuple[Leaf, ...]
    positions: Mapping[str, int]
    """In `leaves`, by page id."""
    choices: Mapping[str, tuple[tuple[str, int], ...]]
    """By metadata key: its values, with how many pages have each."""

    @classmethod
    def of(cls, leaves: Sequence[Leaf]) -> Overview:
        """Make one."""
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
        return (
            self.leaves[at - 1] if at else None,
            self.leaves[at + 1] if at + 1 < len(self.leaves) else None,
        )

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

    def overview(self) -> Overview:
        """Return all pages; of a large archive that is being added to, perhaps those of a moment ago."""
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
        """Return the readings that the texts of pages come from, by page id and task.

        A reading knows the doubtful words and the places of lines. A corrected text has none.
        """
        path = self.archive.folder / "ledger.sqlite"
        found: dict[str, dict[str, Reading]] = {page.page_id: {} for page in pages}
        if path.is_file():
            # A page can be shown without them.
            with suppress(LedgerError), Ledger(path, read_only=True) as ledger:
                for page in pages:
                    found[page.page_id] = self._readings(page, ledger)
        return found

    def _readings(self, page: PageRow, ledger: Ledger) -> dict[str, Reading]:
        settings = self.archive.settings_of(page.uri)
        if not settings:
            return {}
        reader = KoboldReader.from_dict(settings)
        found = {}
        for task, text in page.parts.items():
            reading = ledger.reading(page.content_sha256, task, reader.engine, reader.options.key(task))
            if reading is not None and reading.text == text:
                found[task] = reading
        return found
