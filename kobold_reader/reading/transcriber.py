"""THE STORY: every page of every file becomes a PageResult, in page order, in bounded memory.

    file → facts → due? → images → engine → ledger → result

One thread looks at files and prepares the next pages' images, so a server finds its next page ready when it has
answered. With one server the thread that iterates asks it, and nothing is asked before the caller wants the next
result. With several, a thread for each pulls pages from there once iteration has begun (`inorder` says how far ahead),
and results still come in page order. Every page of every file yields exactly one result under its own number; a file
that cannot be opened yields one with number 0.

When to stop asking: the servers, not the pages, are at fault.

Which pages are being asked for just now, so that two processes with one ledger do not ask for the same.

The page's content claims one of a few lock files beside the ledger; who finds it taken waits, and finds the other's
reading when it looks again. The locks are the operating system's: a killed process frees them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from kobold_reader.errors import (
    BadRequestError,
    ConfigError,
    ContextTooSmallError,
    ImageNotSeenError,
    KoboldReaderError,
    NoServerAvailableError,
    ServerError,
    ServerTimeoutError,
    SourceError,
    UnsupportedSourceError,
)
from kobold_reader.kobold import CancelledError
from kobold_reader.options import ReadOptions
from kobold_reader.pages import FileFacts, PageImages, SourceFile
from kobold_reader.reading import due
from kobold_reader.reading.due import blank_reading, find_due
from kobold_reader.reading.engine import Engine, EngineFacts, PageJob
from kobold_reader.reading.ledger import KnownPage, Ledger
from kobold_reader.reading.open_file import OpenFile, public_metadata
from kobold_reader.reading.pipeline import Ahead, InOrder
from kobold_reader.reading.results import PageResult, Reading
from kobold_reader.reading.survey import Outlook, PageAhead, pages_ahead
from kobold_reader.reading.upright import upright_images

__all__ = ["BREAKER_FAILURES", "Breaker", "Claims", "PageStep", "Transcriber"]

BREAKER_FAILURES: Final = 3
"""So many pages in a row failing for the server's sake mean that the server, not the pages, is at fault."""


class Breaker:
    """Opens when three pages in a row failed for the server's sake: in a row as they end, whichever server had them.

    Pages that cannot be read never open it. Safe to use from several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._in_a_row = 0
        self._errors: tuple[KoboldReaderError, ...] = ()

    def note(self, result: PageResult, asked: Sequence[str]) -> None:
        """Count what became of a page of which these tasks were asked."""
        with self._lock:
            if self._is_open():
                return
            self._in_a_row = self._in_a_row + 1 if _is_server_failure(result, asked) else 0
            self._errors = tuple(result.errors.values())

    def _is_open(self) -> bool:
        return self._in_a_row >= BREAKER_FAILURES

    @property
    def error(self) -> NoServerAvailableError | None:
        """What ends the run, once it is open."""
        with self._lock:
            if not self._is_open():
                return None
            errors = {error.server or "server": error for error in self._errors}
            msg = f"{BREAKER_FAILURES} pages in a row failed for the server's sake; the last: {self._errors[0]}"
            return NoServerAvailableError(msg, errors=errors, hint="The next run reads what is missing.")


def _is_server_failure(result: PageResult, asked: Sequence[str]) -> bool:
    """Tell whether nothing that was asked of a page came back, and the server is to blame.

    A server that drops every image is no better than one that is gone. A page over its time or too large for the server
    is the page's own matter, or three of them would starve all pages behind them.
    """
    own = (ServerTimeoutError, ContextTooSmallError, BadRequestError)
    return set(asked) <= set(result.errors) and all(
        isinstance(error, ServerError | ImageNotSeenError) and not isinstance(error, own)
        for error in result.errors.values()
    )


log = logging.getLogger(__name__)

_FILES: Final = 64
"""Not one a page: they stay where they are. That two pages share one makes a process wait at most for that page."""
_LOOK_S: Final = 0.1


class Claims:
    """Claims of this process among those of others; safe to use from several threads.

    Args:
        folder: Where the lock files lie, made with the first claim; None: nobody else has this ledger.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._held: dict[int, tuple[FileLock, int]] = {}
        """By number of the file: how many pages this process asks for under it."""

    @contextmanager
    def hold(self, content_sha256: str, cancel: threading.Event | None = None) -> Iterator[None]:
        """Hold a page until it is read and recorded; waits while another process does.

        What is known of the page should be looked up under the claim. Threads of this process do not wait for one
        another: they are given different pages.

        Raises:
            CancelledError: `cancel` was set while waiting.
        """
        with self.hold_all([content_sha256], cancel):
            yield

    @contextmanager
    def hold_all(self, contents_sha256: Iterable[str], cancel: threading.Event | None = None) -> Iterator[None]:
        """Hold many pages together, as `hold` does one; who holds a page must not ask for more.

        Raises:
            CancelledError: `cancel` was set while waiting.
        """
        waiter = cancel or threading.Event()
        with ExitStack() as held:
            # Always in this order: two processes that want the same never wait for each other.
            for number in sorted({int(content[:8], 16) % _FILES for content in contents_sha256}):
                while not self._try(number):
                    if waiter.wait(_LOOK_S):
                        raise CancelledError
                held.callback(self._give_back, number)
            yield

    def _try(self, number: int) -> bool:
        if self._folder is None:
            return True
        with self._lock:
            if number in self._held:
                lock, pages = self._held[number]
            else:
                lock, pages = FileLock(self._folder / f"{number:02}.lock", thread_local=False), 0
                try:
                    self._folder.mkdir(parents=True, exist_ok=True)
                    lock.acquire(timeout=0)
                except Timeout:
                    return False
                except (OSError, NotImplementedError) as err:
                    # A file system without locks: at worst a page is asked twice, which loses nothing.
                    log.debug("%s: %s; pages are not claimed", self._folder, err)
            self._held[number] = lock, pages + 1
            return True

    def _give_back(self, number: int) -> None:
        with self._lock:
            if number in self._held:
                lock, pages = self._held.pop(number)
                if pages > 1:
                    self._held[number] = lock, pages - 1
                else:
                    lock.release(force=True)


AHEAD_PAGES = 1
"""So many pages wait with their images ready, and one more for each server."""
FEW_PAGES = 2
"""A server: pages asked beyond what the caller has taken, while it is busy with something else."""
MANY_PAGES = 64
"""A server: results that wait while the caller waits for a slow page before them."""


@dataclass(slots=True)
class PageStep:
    """One page on its way: what is asked, what there is, what is due."""

    source: SourceFile
    file: FileFacts
    known: KnownPage
    tasks: tuple[str, ...]
    readings: dict[str, Reading]
    due_tasks: tuple[str, ...] = ()
    images: PageImages | None = None


class Transcriber:
    """Reads files page by page, keeping every reading in the ledger. Runs once.

    Args:
        engine: Asked only when something is due.
        ledger: What was read before; each page is recorded before its result is handed out.
        settings: What the user asks for.
        on_progress: Called with a text like `letter.pdf page 3: ocr, 512 characters` while a page is being read, by one
            thread at a time.
        cancel: Set by any thread to stop: the running job is aborted on the server. Set at the end of the run, too.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        engine: Engine,
        ledger: Ledger,
        settings: ReadOptions,
        *,
        on_progress: Callable[[str], None] | None = None,
        cancel: threading.Event | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._ledger = ledger
        self._settings = settings
        self._on_progress = on_progress
        self._telling = threading.Lock()
        self._cancel = cancel or threading.Event()
        self._clock = clock
        self._chosen: frozenset[tuple[str, int]] | None = None
        self._failed_before: set[tuple[str, int]] = set()
        self._able: frozenset[str] | None = None
        """What the engine can do, once it was asked."""
        self._made: set[tuple[str, str]] = set()
        """Content and task of every reading made in this run: `redo` does not ask for them again."""
        self._breaker = Breaker()
        self._claims = Claims(ledger.path and ledger.path.with_suffix(".claims"))
        self._started_s = 0.0

    # ── before ───────────────────────────────────────────────────────────────────────────────────

    def survey(
        self,
        files: Sequence[SourceFile],
        *,
        looks: bool = True,
        on_page: Callable[[PageAhead], None] | None = None,
    ) -> Outlook:
        """Count what lies ahead, before anything is read: opens the files that the ledger does not know.

        Args:
            files: What a run would be given.
            looks: Look at each page that is not known yet, to tell its kind; False: it counts as one to be read.
            on_page: Called with every page.

        Raises:
            ServerError: `redo` asks what the model would do now, and no server answers; else none is asked.
        """
        self._choose_sample(files)
        outlook = Outlook(len(files))
        with OpenFile(self._ledger, self._settings.pdf_passwords) as opened:
            for page in pages_ahead(
                files,
                opened,
                self._ledger,
                self._settings,
                engine_name=self._engine.name,
                numbers=self._numbers,
                engine=self._engine_now(),
                looks=looks,
                on_progress=self._on_progress,
            ):
                outlook.take(page)
                if on_page:
                    on_page(page)
        return outlook

    def _choose_sample(self, files: Sequence[SourceFile]) -> None:
        if self._settings.sample is None:
            return
        everything: list[tuple[str, int]] = []
        with OpenFile(self._ledger, self._settings.pdf_passwords) as opened:
            for source in files:
                try:
                    total = opened.facts(source).total_pages
                except SourceError:
                    continue
                everything += [(source.uri, number) for number in range(1, total + 1) if number in self._settings.pages]
        self._chosen = frozenset(
            everything[position] for position in due.spread(len(everything), self._settings.sample)
        )

    def _numbers(self, source: SourceFile, file: FileFacts) -> Iterator[int]:
        for number in range(1, file.total_pages + 1):
            if number in self._settings.pages and (self._chosen is None or (source.uri, number) in self._chosen):
                yield number

    # ── the run ──────────────────────────────────────────────────────────────────────────────────

    def run(self, files: Sequence[SourceFile]) -> Generator[PageResult, None, None]:
        """Yield the result of every page, file by file and page by page.

        Closing the generator (or an interrupt) aborts the running jobs on all servers and ends the helper threads;
        everything yielded before is in the ledger, and so is every other page that was finished.

        Raises:
            ServerError: No server can go on. All results yielded before are kept; the next run goes on from here.
        """
        self._begin(files)
        size = AHEAD_PAGES + self._engine.parallel
        with (
            suppress(CancelledError),
            closing(Ahead(self._steps(files), size, on_close=self._cancel.set)) as steps,
        ):
            if self._engine.parallel == 1:
                yield from self._one_by_one(steps)
            else:
                with closing(self._at_once(steps)) as results:
                    yield from results
            if error := self._breaker.error:
                raise error

    def _begin(self, files: Sequence[SourceFile]) -> None:
        self._choose_sample(files)
        self._failed_before = {(failure.uri, failure.page_number) for failure in self._ledger.failures()}
        self._made.clear()
        self._breaker = Breaker()
        self._started_s = self._clock()

    def _one_by_one(self, steps: Ahead[PageResult | PageStep]) -> Iterator[PageResult]:
        for step in steps:
            if not self._goes_on():
                return
            yield self._result_of(step)

    def _at_once(self, steps: Ahead[PageResult | PageStep]) -> InOrder[PageResult | PageStep, PageResult]:
        def stop() -> None:
            self._cancel.set()
            steps.stop()

        servers = self._engine.parallel
        return InOrder(
            iter(steps),
            self._result_of,
            workers=servers,
            few=FEW_PAGES * servers,
            many=MANY_PAGES * servers,
            # The same scan twice is not asked twice: the second finds the reading of the first.
            key=lambda step: None if isinstance(step, PageResult) else step.known.facts.content_sha256,
            goes_on=self._goes_on,
            on_close=stop,
        )

    def _result_of(self, step: PageResult | PageStep) -> PageResult:
        if isinstance(step, PageResult):
            return step
        result = self._read(step)
        self._breaker.note(result, step.due_tasks)
        return result

    def _goes_on(self) -> bool:
        return not (self._cancel.is_set() or self._is_time_up() or self._breaker.error)

    def _is_time_up(self) -> bool:
        limit_s = self._settings.stop_after_s
        if limit_s is None or self._clock() - self._started_s < limit_s:
            return False
        log.warning("stopped after %.0f s as asked; the next run goes on from here", limit_s)
        return True

    def _steps(self, files: Sequence[SourceFile]) -> Generator[PageResult | PageStep, None, None]:
        """Everything up to the engine, in the helper thread: finished results, and pages whose images are ready."""
        with OpenFile(self._ledger, self._settings.pdf_passwords) as opened:
            for source in files:
                try:
                    file = opened.facts(source)
                except SourceError as err:
                    self._ledger.record_failure(source, "", 0, {"": err})
                    yield self._failed(source, None, 0, err)
                    continue
                if (source.uri, 0) in self._failed_before:
                    self._ledger.clear_failure(source.uri, 0)  # it may be back as it was, and not be opened at all
                yield from self._file_steps(opened, source, file)

    def _file_steps(
        self, opened: OpenFile, source: SourceFile, file: FileFacts
    ) -> Generator[PageResult | PageStep, None, None]:
        known = self._ledger.pages(file.sha256)
        seen: list[KnownPage] = []
        try:
            for number in self._numbers(source, file):
                try:
                    if number not in known:
                        known[number] = KnownPage(opened.page_facts(source, file, number), None)
                        seen.append(known[number])
                    before = known.pop(number)
                    page = opened.with_image_kind(source, file, before, self._settings.image_kind)
                    if page is not before:
                        seen.append(page)
                    yield self._step(opened, source, file, page)
                except SourceError as err:
                    err.at(source.path, number)
                    self._ledger.record_failure(source, file.sha256, number, {"": err})
                    yield self._failed(source, file, number, err)
        finally:
            self._ledger.remember_pages(file.sha256, seen)

    def _step(self, opened: OpenFile, source: SourceFile, file: FileFacts, known: KnownPage) -> PageResult | PageStep:
        """Decide what is due for a page, and make its images if anything is.

        Raises:
            SourceError: The page cannot be turned into an image, and nothing else answers for it.
        """
        page = self._look_up(source, file, known, self._engine_now())
        if page.due_tasks and self._settings.are_tasks_default and self._settings.text_layer != "only":
            self._ready()  # only the model knows which of them it can do
            page = self._look_up(source, file, known, self._engine_now())
        if not page.due_tasks:
            return self._result(page, {}, is_kept=True)
        number = known.facts.page_number
        try:
            page.images = self._images(opened, page)
        except SourceError as err:
            if page.tasks[0] not in page.readings:
                raise
            # What is known of the page stays known; only what was to be asked of its image failed.
            errors = dict.fromkeys(page.due_tasks, err.at(source.path, number))
            self._ledger.record(source, file.sha256, known, {}, {}, errors)
            return self._result(page, errors, is_kept=True)
        page.known = KnownPage(known.facts, page.images.is_blank)
        if page.images.is_blank:
            blanks = {task: blank_reading(task) for task in page.due_tasks}
            page.readings |= blanks
            self._ledger.record(source, file.sha256, page.known, {}, {}, {})
            return self._result(page, {})
        return page

    def _images(self, opened: OpenFile, page: PageStep) -> PageImages:
        if self._settings.text_layer == "only":
            msg = "the page has no text layer, and only text layers were asked for."
            raise UnsupportedSourceError(msg, hint="--text-layer auto reads its image.")
        budget = self._ready().budget
        number = page.known.facts.page_number
        if self._settings.rotate_deg is None:
            return upright_images(opened, page.source, page.file, page.known.facts, budget)
        return opened.page_images(page.source, page.file, number, budget, self._settings.rotate_deg)

    def _look_up(self, source: SourceFile, file: FileFacts, known: KnownPage, engine: EngineFacts | None) -> PageStep:
        found = find_due(
            self._ledger,
            self._engine.name,
            self._settings,
            known,
            engine=engine,
            made=self._made,
            able=self._able,
            last_family=self._last_family,
        )
        return PageStep(source, file, known, found.tasks, found.readings, found.due_tasks)

    def _engine_now(self) -> EngineFacts | None:
        """Return what the engine is, where the user asks for what it would do otherwise today."""
        return self._engine.prepare(self._cancel) if self._settings.redo in {"outdated", "low-resolution"} else None

    @cached_property
    def _last_family(self) -> str | None:
        return self._ledger.last_family(self._engine.name) if self._settings.are_tasks_default else None

    def _ready(self) -> EngineFacts:
        facts = self._engine.prepare(self._cancel)
        self._able = facts.tasks
        for task in self._settings.tasks:
            if task not in facts.tasks and not self._settings.are_tasks_default:
                who = f"{facts.name} with {facts.model}" if facts.model else facts.name
                msg = f"{who} cannot do the task {task!r}; it can do {', '.join(sorted(facts.tasks))}."
                raise ConfigError(msg, hint="Leave it out of --tasks, or load a model that can.")
        return facts

    def _read(self, page: PageStep) -> PageResult:
        """Ask the engine for what is due on one page, and record it, while no other process does."""
        with self._claims.hold(page.known.facts.content_sha256, self._cancel):
            # The same scan may have been read a moment ago as another page, or by another process.
            page = replace(self._look_up(page.source, page.file, page.known, self._engine_now()), images=page.images)
            return self._asked(page) if page.due_tasks else self._result(page, {})

    def _asked(self, page: PageStep) -> PageResult:
        assert page.images is not None  # noqa: S101  (a page without images never gets here)
        number = page.known.facts.page_number
        started_s = self._clock()
        job = PageJob(
            source=page.source.path,
            page_number=number,
            tasks=page.due_tasks,
            images=page.images,
            on_progress=self._progress(page),
            cancel=self._cancel,
        )
        outcomes = self._engine.read(job)
        readings = {task: outcome for task, outcome in outcomes.items() if isinstance(outcome, Reading)}
        errors = {
            task: outcome.at(page.source.path, number)
            for task, outcome in outcomes.items()
            if isinstance(outcome, KoboldReaderError)
        }
        log.debug(
            "%s page %d: %s in %.1f s",
            page.source.path,
            number,
            ", ".join(page.due_tasks),
            self._clock() - started_s,
        )
        return self._record(page, readings, errors)

    def _record(
        self, page: PageStep, readings: Mapping[str, Reading], errors: Mapping[str, KoboldReaderError]
    ) -> PageResult:
        """Record what became of one page, and return its result."""
        keys = {task: self._settings.key(task) for task in readings}
        self._ledger.record(page.source, page.file.sha256, page.known, readings, keys, errors)
        self._made |= {(page.known.facts.content_sha256, task) for task in readings}
        for task, error in errors.items():
            if task in page.readings:
                log.warning("%s The reading there was is kept.", error)
        page.readings |= readings
        return self._result(page, errors)

    def _progress(self, page: PageStep) -> Callable[[str, int], None] | None:
        on_progress = self._on_progress
        if on_progress is None:
            return None
        place = f"{page.source.name} page {page.known.facts.page_number}"

        def tell(task: str, characters: int) -> None:
            with self._telling:
                on_progress(f"{place}: {task}, {characters} characters")

        return tell

    # ── results ──────────────────────────────────────────────────────────────────────────────────

    def _result(self, page: PageStep, errors: Mapping[str, KoboldReaderError], *, is_kept: bool = False) -> PageResult:
        facts = page.known.facts
        if not errors and (page.source.uri, facts.page_number) in self._failed_before:
            self._ledger.clear_failure(page.source.uri, facts.page_number)
        return PageResult(
            source=page.source,
            page_number=facts.page_number,
            page_label=facts.page_label,
            total_pages=page.file.total_pages,
            file_sha256=page.file.sha256,
            tasks=page.tasks,
            readings={task: page.readings[task] for task in page.tasks if task in page.readings},
            # A task that failed when made again keeps the reading it had; that it failed is said all the same.
            errors=dict(errors),
            metadata={**page.file.metadata, **public_metadata(facts.metadata)},
            content_sha256=facts.content_sha256,
            is_kept=is_kept,
        )

    def _failed(self, source: SourceFile, file: FileFacts | None, page_number: int, error: SourceError) -> PageResult:
        return PageResult(
            source=source,
            page_number=page_number,
            page_label=str(page_number) if page_number else "",
            total_pages=file.total_pages if file else 0,
            file_sha256=file.sha256 if file else "",
            tasks=self._settings.tasks,
            readings={},
            errors=dict.fromkeys(self._settings.tasks, error),
            metadata=file.metadata if file else {},
        )
