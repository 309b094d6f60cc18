"""Files of which nothing is left to do: a run passes them over without a look at their pages.

A file is stamped once all its pages stand in the archive as they should be, with its size, its time of change, and
everything else that decides what would be due. Where any of it is another, its pages are looked at one by one.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Final

from kobold_reader.archive.catalog import Catalog
from kobold_reader.pages import SourceFile
from kobold_reader.reading.due import ReadSettings
from kobold_reader.reading.ledger import Ledger
from kobold_reader.reading.results import PageResult
from kobold_reader.release import RELEASE

__all__ = ["Settled"]

LEDGER_MARK: Final = "ledger_mark"


@dataclass(slots=True)
class _Count:
    """The pages of one file that came by in this run."""

    expected: int
    statuses: Counter[str] = field(default_factory=Counter)
    is_spoiled: bool = False
    """Something of it failed: it is to be tried again."""


class Settled:
    """The stamps of one run.

    Args:
        catalog: Where they are kept, with the places of the files.
        ledger: Of the archive. Where the last run did not come to its end, or somebody else wrote into the
            ledger since, no stamp holds.
        settings: With `redo` or `sample` every page is looked at, and nothing is stamped.
        engine_name: Whose readings count.
    """

    def __init__(self, catalog: Catalog, ledger: Ledger, settings: ReadSettings, engine_name: str) -> None:
        self._catalog = catalog
        self._ledger = ledger
        self._settings = settings
        self._is_used = settings.redo is None and settings.sample is None
        self._engine_name = engine_name
        self._last_family = self._read_last()
        self._key = self._make_key()
        self._stamps = catalog.stamps()
        self._is_trusted = self._is_used and catalog.meta(LEDGER_MARK) == ledger.mark()
        self._counts: dict[str, _Count] = {}
        self._complete: dict[str, tuple[SourceFile, Counter[str]]] = {}
        self.passed: dict[str, Counter[str]] = {}
        """By URI of a file that was passed over: its pages by status."""

    def rest(self, files: Sequence[SourceFile]) -> list[SourceFile]:
        """Return the files whose pages must be looked at, and lose their stamps; the others are in `passed` then."""
        rest: list[SourceFile] = []
        for source in files:
            stamp, _, statuses = self._stamps.get(source.uri, "").partition(" ")
            if self._is_trusted and stamp == self._stamp(source):
                self.passed[source.uri] = Counter(json.loads(statuses))
            else:
                rest.append(source)
        stale = [source.uri for source in rest if self._stamps.pop(source.uri, "")]
        self._catalog.put_stamps(dict.fromkeys(stale, ""))
        return rest

    def note(self, result: PageResult) -> None:
        """Take notice of a page's result, before it is indexed."""
        uri = result.source.uri
        if not self._is_used or not result.source.mtime_ns:  # no time of change: only its bytes could tell
            return
        if uri not in self._counts:
            pages = sum(number in self._settings.pages for number in range(1, result.total_pages + 1))
            self._counts[uri] = _Count(pages)
        count = self._counts[uri]
        count.statuses[result.status] += 1
        count.is_spoiled |= bool(result.errors) or result.error is not None or result.page_number == 0
        if count.statuses.total() == count.expected and not count.is_spoiled:
            self._complete[uri] = result.source, count.statuses

    def take_complete(self) -> Mapping[str, tuple[SourceFile, Counter[str]]]:
        """Return the files of which every page was noted, by URI; whoever takes them stamps them, or nobody does."""
        taken, self._complete = self._complete, {}
        return taken

    def stamp(self, complete: Mapping[str, tuple[SourceFile, Counter[str]]]) -> None:
        """Stamp files whose every page is in the archive by now."""
        if not complete:
            return
        if self._last_family is None:  # who was asked first in this run
            self._last_family = self._read_last()
            self._key = self._make_key()
        self._catalog.put_stamps(
            {uri: f"{self._stamp(source)} {json.dumps(pages)}" for uri, (source, pages) in complete.items()}
        )

    def begin(self) -> None:
        """Trust no stamp until the run has ended: a kill may leave pages under a name that their file had before."""
        self._catalog.set_meta(LEDGER_MARK, "")

    def end(self) -> None:
        """Remember where the ledger stands at the end of a run that came to its end."""
        self._catalog.set_meta(LEDGER_MARK, self._ledger.mark())

    def statuses(self) -> Counter[str]:
        """Return the pages passed over, by status."""
        return sum(self.passed.values(), Counter())

    def by_kind(self, files: Iterable[SourceFile]) -> dict[str, Counter[str]]:
        """Return the pages passed over, by kind of file and status."""
        found: dict[str, Counter[str]] = {}
        for source in files:
            if source.uri in self.passed:
                found.setdefault(source.kind, Counter()).update(self.passed[source.uri])
        return found

    def _stamp(self, source: SourceFile) -> str:
        return f"{self._key}/{source.size_bytes}/{source.mtime_ns}"

    def _read_last(self) -> str | None:
        """The family of who read last, where it decides which tasks are asked for."""
        return self._ledger.last_family(self._engine_name) if self._settings.are_tasks_default else None

    def _make_key(self) -> str:
        """Everything but the file itself that decides what is due, and what a page's row looks like."""
        settings = replace(self._settings, redo=None, sample=None, passwords=(), page_timeout_s=None, stop_after_s=None)
        known = [
            RELEASE,
            self._engine_name,
            self._last_family,
            {**asdict(settings), "pages": str(settings.pages)},
        ]
        return hashlib.sha256(json.dumps(known, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:32]
