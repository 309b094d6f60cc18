"""What the archive holds, as far as every view needs it: counted anew when its generation has grown."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from kobold_reader.archive import Archive
from kobold_reader.archive.filters import DATE_KEYS, Filter
from kobold_reader.archive.store import PageRow
from kobold_reader.errors import LedgerError, StoreError
from kobold_reader.reader import KoboldReader
from kobold_reader.reading.ledger import Ledger
from kobold_reader.reading.results import Reading

__all__ = ["Leaf", "Library", "Overview", "leaf_of"]

log = logging.getLogger(__name__)

_CHOICES: Final = ("folder", "page_status", "file_type", "image_kind")
_KEPT: Final = (*_CHOICES, *DATE_KEYS)
"""Metadata that pages are chosen by."""
_FIRST_CHARS: Final = 140
QUICK_S: Final = 0.5
"""What takes longer to count is counted while the last count is shown."""
PAUSES: Final = 5
"""So many times as long as it takes nothing is counted anew: a night's run adds pages every few seconds."""


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
    """Of its text, of a photo's description."""
    facts: Mapping[str, Any]

    @property
    def label(self) -> str:
        """How people call the page: `3`, or `3 (iii)` where another number is printed on it."""
        own = self.page_label
        return f"{self.page_number}" + (f" ({own})" if own and own != str(self.page_number) else "")


@dataclass(frozen=True, slots=True)
class Overview:
    """All pages by file and number, and where each stands."""

    leaves: tuple[Leaf, ...]
    positions: Mapping[str, int]
    """By page id."""
    choices: Mapping[str, tuple[tuple[str, int], ...]]
    """By metadata key: its values, with how many pages have each."""

    def beside(self, page_id: str) -> tuple[Leaf | None, Leaf | None]:
        """Return the pages before and after one, those of the files before and after included."""
        at = self.positions.get(page_id)
        if at is None:
            return None, None
        return (
            self.leaves[at - 1] if at else None,
            self.leaves[at + 1] if at + 1 < len(self.leaves) else None,
        )

    def chosen(self, filter_: Filter) -> list[Leaf]:
        """Return the pages that are meant; where nothing narrows them down, the first page of every file."""
        if filter_ == Filter():
            firsts = {leaf.uri: leaf for leaf in reversed(self.leaves)}
            return sorted(firsts.values(), key=lambda leaf: self.positions[leaf.page_id])
        return [leaf for leaf in self.leaves if filter_.holds(leaf.facts)]

    @property
    def photos(self) -> list[Leaf]:
        """The pages that are photos, oldest first, those without a date last."""
        return sorted((leaf for leaf in self.leaves if leaf.is_photo), key=lambda leaf: (not leaf.date, leaf.date))


class Library:
    """An archive as the views see it; safe to use from several threads.

    Args:
        archive: An open one.
    """

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self._lock = threading.Lock()
        self._generation = -1
        self._overview = Overview((), {}, {})
        self._took_s = 0.0
        self._ended_s = 0.0
        self._counting: threading.Thread | None = None

    def overview(self) -> Overview:
        """Return what the archive holds now; of a large one, to which pages are being added, what it held lately."""
        with self._lock:
            if self.archive.generation == self._generation:
                return self._overview
            if self._generation < 0 or self._took_s < QUICK_S:
                self._count()
            elif self._counting is None and time.monotonic() - self._ended_s > PAUSES * self._took_s:
                self._counting = threading.Thread(target=self._count_meanwhile, name="kobold-reader-web", daemon=True)
                self._counting.start()
            return self._overview

    def _count(self) -> None:
        started_s = time.monotonic()
        generation = self.archive.generation
        self._overview = _overview([leaf_of(row) for row in self.archive.pages()])
        self._generation = generation
        self._ended_s = time.monotonic()
        self._took_s = self._ended_s - started_s

    def _count_meanwhile(self) -> None:
        try:
            self._count()
        except StoreError as err:
            log.debug("%s", err)  # closed, or being changed: the next view asks again
        finally:
            self._counting = None

    def readings(self, pages: Collection[PageRow]) -> dict[str, dict[str, Reading]]:
        """Return the kept readings that the texts of pages are, by page id and task.

        They know the doubtful words, and where lines stand. A text that was corrected since is none of them.
        """
        path = self.archive.folder / "ledger.sqlite"
        found: dict[str, dict[str, Reading]] = {page.page_id: {} for page in pages}
        if not path.is_file():
            return found
        # Without them a page is shown all the same.
        with suppress(LedgerError), Ledger(path, read_only=True) as ledger:
            for page in pages:
                found[page.page_id] = self._readings(page, ledger)
        return found

    def _readings(self, page: PageRow, ledger: Ledger) -> dict[str, Reading]:
        settings = self.archive.settings_of(page.uri)
        if not settings:
            return {}
        reader = KoboldReader.from_dict(settings)
        made = (
            ledger.reading(page.content_sha256, task, reader.engine, reader.options.key(task)) for task in page.parts
        )
        return {one.task: one for one in made if one is not None and one.text == page.parts[one.task]}


def leaf_of(row: PageRow) -> Leaf:
    """Return a page without its text."""
    about = row.metadata
    described = row.parts.get("caption", "")
    kind = about.get("image_kind")  # a page that an older release read was not looked at
    is_photo = kind == "photo" if kind else bool(about.get("camera")) or row.status == "no_text"
    text = described if is_photo and described else row.text
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
        facts={key: about[key] for key in _KEPT if key in about},
    )


def _overview(leaves: Sequence[Leaf]) -> Overview:
    counts = {key: Counter(str(leaf.facts[key]) for leaf in leaves if key in leaf.facts) for key in _CHOICES}
    return Overview(
        leaves=tuple(leaves),
        positions={leaf.page_id: number for number, leaf in enumerate(leaves)},
        choices={key: tuple(sorted(count.items())) for key, count in counts.items()},
    )
