"""What lies ahead: every page by what will become of it, before the first one is read.

Looking at the pages of a file takes milliseconds each (4 ms a scan, 20 ms a full page of text), and what is seen is
kept in the ledger, where the run finds it: nothing is looked at twice.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Literal

from kobold_reader.errors import KoboldReaderError, ServerError, SourceError
from kobold_reader.pages import FileFacts, SourceFile
from kobold_reader.reading.due import ReadSettings, has_text_layer
from kobold_reader.reading.engine import Engine, EngineFacts
from kobold_reader.reading.forecast import Forecast, forecast
from kobold_reader.reading.ledger import KnownPage, Ledger
from kobold_reader.reading.lookup import look_up
from kobold_reader.reading.openfile import OpenFile

__all__ = ["PAGE_KINDS", "Outlook", "PageAhead", "PageKind", "forecast_by_ledger", "pages_ahead"]

PageKind = Literal["read", "text_layer", "blank", "to_read", "copy", "failed"]
PAGE_KINDS: Final[tuple[PageKind, ...]] = ("read", "text_layer", "blank", "to_read", "copy", "failed")

_ENOUGH_PAGES: Final = 3
_KEEP_PAGES: Final = 100
"""So many pages are looked at before what was seen is written down: a killed survey costs a second."""


@dataclass(frozen=True, slots=True)
class PageAhead:
    """One page, or with `page_number` 0 a file that cannot be opened."""

    source: SourceFile
    page_number: int
    kind: PageKind
    due_tasks: tuple[str, ...] = ()
    """What the engine will be asked; for a copy nothing."""
    content_sha256: str = ""
    has_poor_text: bool = False
    """It has a text layer that cannot stand for it."""
    error: KoboldReaderError | None = None


@dataclass(slots=True)
class Outlook:
    """The pages ahead, counted."""

    files: int = 0
    failed_files: int = 0
    pages: int = 0
    """Of files that open, less those outside `pages` and `sample`."""
    by_kind: Counter[PageKind] = field(default_factory=Counter)
    by_file_kind: dict[str, Counter[PageKind]] = field(default_factory=lambda: defaultdict(Counter))
    """By `SourceFile.kind`."""
    due_tasks: Counter[str] = field(default_factory=Counter)
    """How often each task is to be asked."""
    poor_text_pages: int = 0
    """Pages to be read although they have a text layer."""
    errors: list[KoboldReaderError] = field(default_factory=list)
    contents: set[str] = field(default_factory=set)
    """Of all these pages."""
    passed_pages: int = 0
    """Those among `pages` that the run will not come to, since nothing is left to do for their files."""
    forecast: Forecast | None = None
    """How long the pages to be read will take; None: nothing is known of that yet."""

    @property
    def read_pages(self) -> int:
        """Pages that need nothing more, as far as is known."""
        return self.by_kind["read"] + self.by_kind["text_layer"] + self.by_kind["blank"]

    @property
    def to_read_pages(self) -> int:
        """Pages that the engine will be asked about, unless their image turns out to be blank."""
        return self.by_kind["to_read"]

    def take(self, page: PageAhead) -> None:
        """Count one page."""
        if page.error:
            self.errors.append(page.error)
        if not page.page_number:
            self.failed_files += 1
            return
        self.pages += 1
        self.by_kind[page.kind] += 1
        self.by_file_kind[page.source.kind][page.kind] += 1
        self.due_tasks.update(page.due_tasks)
        self.contents.add(page.content_sha256)
        self.poor_text_pages += page.has_poor_text and page.kind == "to_read"

    def pass_over(self, files: int, pages: Mapping[str, Mapping[str, int]]) -> None:
        """Count files that need no look, and their pages by kind of file and status."""
        self.files += files
        for file_kind, statuses in pages.items():
            for status, count in statuses.items():
                kind: PageKind = "blank" if status == "blank" else "text_layer" if status == "text_layer" else "read"
                self.by_kind[kind] += count
                self.by_file_kind[file_kind][kind] += count
                self.pages += count
                self.passed_pages += count


def pages_ahead(
    files: Sequence[SourceFile],
    opened: OpenFile,
    ledger: Ledger,
    settings: ReadSettings,
    *,
    engine_name: str,
    numbers: Callable[[SourceFile, FileFacts], Iterable[int]],
    engine: EngineFacts | None = None,
    looks: bool = True,
    on_progress: Callable[[str], None] | None = None,
) -> Iterator[PageAhead]:
    """Yield every page that a run would come to, in its order; asks no server.

    Args:
        files: Those that the ledger does not know are opened.
        opened: Opens them.
        ledger: What is known, and where what is seen now is kept.
        settings: What the user asks for.
        engine_name: Whose readings count.
        numbers: Which pages of a file are meant.
        engine: Needed where `settings.redo` asks what the model would do now.
        looks: Look at pages that are not known; False: take them for pages to be read.
        on_progress: Called with a line of text now and then.
    """
    made: set[tuple[str, str]] = set()
    last_family = ledger.last_family(engine_name) if settings.are_tasks_default else None
    for source in files:
        try:
            file = opened.facts(source)
        except SourceError as err:
            yield PageAhead(source, 0, "failed", error=err)  # the run records it when its turn comes
            continue
        known = ledger.pages(file.sha256)
        seen: list[KnownPage] = []
        try:
            for number in numbers(source, file):
                page = known.pop(number, None)
                if page is None and not looks:
                    yield PageAhead(source, number, "to_read", settings.tasks)
                    continue
                if page is None:
                    try:
                        page = KnownPage(opened.page_facts(source, file, number), None)
                    except SourceError as err:
                        yield PageAhead(source, number, "failed", error=err)
                        continue
                    seen.append(page)
                    if len(seen) % _KEEP_PAGES == 1 and on_progress:
                        on_progress(f"looking at {source.name} page {number} of {file.total_pages}")
                    if len(seen) >= _KEEP_PAGES:
                        ledger.remember_pages(file.sha256, seen)
                        seen.clear()
                yield _page_ahead(source, page, ledger, settings, engine_name, engine, made, last_family)
        finally:
            ledger.remember_pages(file.sha256, seen)


def _page_ahead(
    source: SourceFile,
    known: KnownPage,
    ledger: Ledger,
    settings: ReadSettings,
    engine_name: str,
    engine: EngineFacts | None,
    made: set[tuple[str, str]],
    last_family: str | None,
) -> PageAhead:
    facts = known.facts
    found = look_up(ledger, engine_name, settings, known, engine=engine, last_family=last_family)
    wanted = [(facts.content_sha256, task) for task in found.due_tasks]
    due_tasks = tuple(task for content, task in wanted if (content, task) not in made)
    made.update(wanted)
    kind: PageKind
    if due_tasks and settings.text_layer == "only":
        kind, due_tasks = "failed", ()  # it has no text, and nobody may be asked
    elif due_tasks:
        kind = "to_read"
    elif found.due_tasks:
        kind = "copy"
    elif known.is_blank:
        kind = "blank"
    else:
        kind = "text_layer" if has_text_layer(facts, settings) and found.tasks[0] == "ocr" else "read"
    return PageAhead(
        source, facts.page_number, kind, due_tasks, facts.content_sha256, has_poor_text=facts.text_layer == "poor"
    )


def forecast_by_ledger(
    outlook: Outlook,
    ledger: Ledger,
    engine: Engine,
    settings: ReadSettings,
    *,
    servers: int = 1,
    asks_server: bool = True,
) -> Forecast | None:
    """Say how long the pages ahead will take, by the ledger's own readings; None: nothing is known of that.

    Readings of these very pages tell more than those of others, so they alone count where there are enough of them.

    Args:
        outlook: What lies ahead.
        ledger: What was read before.
        engine: Whose readings count.
        settings: Only readings made with the same ones count.
        servers: So many work at once.
        asks_server: Find out which model is loaded; False, or where no server answers: the one that read last.
    """
    if not outlook.due_tasks:
        return None
    model = None
    if asks_server:
        with suppress(ServerError):  # the run will say so, to whom it concerns
            model = engine.prepare().model
    timings = ledger.timings(engine.name, {task: settings.key(task) for task in outlook.due_tasks}, model)
    own = forecast(
        outlook.due_tasks, [timing for timing in timings if timing.content_sha256 in outlook.contents], servers=servers
    )
    if own and own.timed_pages >= _ENOUGH_PAGES:
        return own
    return forecast(outlook.due_tasks, timings, servers=servers)
