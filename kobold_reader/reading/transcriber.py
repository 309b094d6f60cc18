"""The transcriber: every page of every file becomes a PageResult, in page order, in bounded memory.

    file → facts → what is due? → images → claim → page reader → ledger → result

One thread looks at the files and prepares the images of the next pages, so a server finds its next page ready when it
has answered. With one server, the thread that iterates asks it, and nothing is asked before the caller wants the next
result. With several, a thread for each takes the next page as soon as iteration has begun (`InOrder` says how far they
run ahead), and results still come in page order. Every page of every file yields exactly one result under its own
number; a file that cannot be opened yields one with number 0. Where the engine is lost, the pages that need none (text
layers, blank ones, kept readings) still go through; all others stay due, and the run ends with the engine's error.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, closing, suppress
from copy import copy
from dataclasses import replace
from functools import cached_property

from kobold_reader.border import of_one_page
from kobold_reader.errors import (
    BadRequestError,
    ConfigError,
    ContextTooSmallError,
    ImageNotSeenError,
    KoboldReaderError,
    MissingExtraError,
    NoServerAvailableError,
    ServerError,
    ServerTimeoutError,
    SourceError,
    TranscriptionError,
    UnexpectedError,
    UnsupportedSourceError,
)
from kobold_reader.options import ReadOptions
from kobold_reader.pages import FileFacts, ImageBudget, SourceFile
from kobold_reader.pages.sidecars import people_say
from kobold_reader.reading import due
from kobold_reader.reading.ledger import Claims, KnownPage, Ledger
from kobold_reader.reading.open_file import OpenFile, public_metadata, with_known
from kobold_reader.reading.page_reader import DuePage, EngineFacts, PageReader
from kobold_reader.reading.pipeline import Ahead, InOrder
from kobold_reader.reading.results import PageResult, Reading
from kobold_reader.reading.second_reader import SecondReader, Word, is_installed
from kobold_reader.reading.survey import Outlook, PageAhead, pages_ahead
from kobold_reader.reading.witness import Comparison, compare

log = logging.getLogger(__name__)

AHEAD_PAGES = 1
"""Pages that wait with their images ready, besides one for each page that is being read."""
FEW_PAGES = 2
"""For each server: pages that may be begun ahead of the caller while the caller is busy."""
RESULTS_A_PAGE = 32
"""Results that wait for the caller in the room of one page with its images."""
MANY_PAGES = 64
"""The same limit while the caller waits for an earlier, slow page."""
WAITING_PAGES = 4096
"""Results that may wait for the witness, where they are handed out once; elsewhere, those to be handed out again."""
WAITING_PAGES_SOON = 16
"""Results that may wait where those that did not are handed out again, or where the witness only reads along."""
BREAKER_FAILURES = 3
_LOOK_S = 0.1
"""A wait for the witness: then it is looked whether the run goes on."""
LOST = (ServerError, MissingExtraError)
"""An engine that raises one of these, instead of giving it as a page's outcome, can read no page of this run."""


class Transcriber:
    """Reads files page by page, keeping every reading in the ledger. Use each one for one run.

    Args:
        pages: Makes images and has them read; asked only when something is due.
        ledger: Each page is recorded there before its result is yielded.
        options: The options of the run.
        on_progress: Called with a text like `letter.pdf page 3: ocr, 512 characters` while a page is being read, by one
            thread at a time.
        cancel: Set by any thread to stop: the running job is aborted on the server. Set at the end of the run, too.
        hands_out_again: Results do not wait long for the witness; those that it has not read by then come once more
            at the end (`PageResult.first_status`).
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        pages: PageReader,
        ledger: Ledger,
        options: ReadOptions,
        *,
        on_progress: Callable[[str], None] | None = None,
        cancel: threading.Event | None = None,
        hands_out_again: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._page_reader = pages
        self._ledger = ledger
        self._options = options
        self._words = options.words
        self._on_progress = on_progress
        self._telling = threading.Lock()
        self._error_of_caller: Exception | None = None
        """Raised by `on_progress`; it is no page's error."""
        self._cancel = cancel or threading.Event()
        self._hands_out_again = hands_out_again
        self._clock = clock
        self._witness: SecondReader | None = None
        """Of the run, if it has one."""
        self.uncompared_pages = 0
        """Pages that the witness did not come to in this run."""
        self._chosen: frozenset[tuple[str, int]] | None = None
        """URI and number of the pages in the sample; None: every page."""
        self._failed_before: set[tuple[str, int]] = set()
        self._able: frozenset[str] | None = None
        """The tasks that the engine can do; None: it was not asked yet."""
        self._made: set[tuple[str, str]] = set()
        """Content and task of every reading made in this run: `redo` does not ask for them again."""
        self._looked_at: set[str] = set()
        """Contents of the pages that were first looked at, or found blank, in this run or in its survey."""
        self._breaker = Breaker()
        self.lost: KoboldReaderError | None = None
        """Why the engine can be asked no more in this run; `run` raises it at its end."""
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
        """Count the pages of a run before anything is read; opens the files that the ledger does not know.

        Args:
            files: The files of the run.
            looks: Look at each page that is not known yet, to tell its kind; False: it counts as one to be read.
            on_page: Called with every page.

        Raises:
            ServerError: `redo` needs the loaded model and no server answers. Without such a `redo` no server is asked.
        """
        self._choose_sample(files)
        outlook = Outlook(len(files))
        with OpenFile(self._ledger, self._options.pdf_passwords) as opened:
            for page in pages_ahead(
                files,
                opened,
                self._ledger,
                self._options,
                numbers=self._numbers,
                engine=self._engine_now(),
                looks=looks,
                on_progress=self._on_progress,
            ):
                outlook.take(page)
                if page.is_new:
                    self._looked_at.add(page.content_sha256)
                if on_page:
                    on_page(page)
        return outlook

    def _choose_sample(self, files: Sequence[SourceFile]) -> None:
        self._chosen = None
        if self._options.sample is None:
            return
        every: list[tuple[str, int]] = []
        with OpenFile(self._ledger, self._options.pdf_passwords) as opened:
            for source in files:
                with suppress(SourceError):  # the run reports it
                    every += [(source.uri, number) for number in self._numbers(source, opened.facts(source))]
        self._chosen = frozenset(every[position] for position in due.spread(len(every), self._options.sample))

    def _numbers(self, source: SourceFile, file: FileFacts) -> Iterator[int]:
        for number in range(1, file.total_pages + 1):
            if number in self._options.pages and (self._chosen is None or (source.uri, number) in self._chosen):
                yield number

    # ── the run ──────────────────────────────────────────────────────────────────────────────────

    def run(self, files: Sequence[SourceFile]) -> Generator[PageResult, None, None]:
        """Yield the result of every page, file by file and page by page.

        Closing the generator (or an interrupt) aborts the running jobs on all servers and ends the threads; every page
        that was finished is in the ledger.

        Raises:
            ServerError: No server could go on. It is raised after the last page, and is the error of each page that
                needed one; these stay due, and all others were finished.
            MissingExtraError: As ServerError, of an engine that is not installed.
        """
        self._choose_sample(files)
        self._failed_before = {(failure.uri, failure.page_number) for failure in self._ledger.failures()}
        self._started_s = self._clock()
        waiting = AHEAD_PAGES + self._page_reader.parallel
        with ExitStack() as stack:
            stack.enter_context(suppress(CancelledError))
            if self._options.needs_witness or (self._options.has_witness and is_installed()):
                self._witness = stack.enter_context(SecondReader(self._ledger, self._options))
            steps = stack.enter_context(
                closing(
                    Ahead(
                        self._steps(files),
                        waiting * RESULTS_A_PAGE,
                        room=lambda step: 1 if isinstance(step, PageResult) else RESULTS_A_PAGE,
                        on_close=self._cancel.set,
                    )
                )
            )
            results = self._one_by_one(steps) if self._page_reader.parallel == 1 else self._at_once(steps)
            yield from (
                self._witnessed(stack.enter_context(closing(results)), self._witness) if self._witness else results
            )
            if self.lost:
                raise self.lost

    def _one_by_one(self, steps: Ahead[PageResult | DuePage]) -> Generator[PageResult, None, None]:
        for step in steps:
            if not self._goes_on():
                return
            yield self._result_of(step)

    def _at_once(self, steps: Ahead[PageResult | DuePage]) -> Generator[PageResult, None, None]:
        def stop() -> None:
            self._cancel.set()
            steps.stop()

        parallel = self._page_reader.parallel
        with closing(
            InOrder(
                iter(steps),
                self._result_of,
                workers=parallel,
                few=FEW_PAGES * parallel,
                many=MANY_PAGES * parallel,
                # Of two identical scans one is read; the second finds that reading.
                key=lambda step: None if isinstance(step, PageResult) else step.known.facts.content_sha256,
                goes_on=self._goes_on,
                on_close=stop,
            )
        ) as results:
            yield from results

    def _result_of(self, step: PageResult | DuePage) -> PageResult:
        if isinstance(step, PageResult):
            return step
        if self.lost:
            return self._unread(step, self.lost)
        place = step.source.path, step.known.facts.page_number
        try:
            with of_one_page("reading it", *place):
                result = self._read(step)
        except LOST as err:
            self.lost = self.lost or err
            return self._unread(step, err)
        except (SourceError, TranscriptionError) as err:
            if self._error_of_caller is not None and self._error_of_caller is err.__cause__:
                raise self._error_of_caller from None
            errors = dict.fromkeys(step.due_tasks, err.at(*place))
            self._ledger.record_failure(step.source, step.file.sha256, place[1], errors)
            result = self._result(step, errors)
        self._breaker.note(result, step.due_tasks)
        self.lost = self.lost or self._breaker.error
        return result

    def _goes_on(self) -> bool:
        return not (self._cancel.is_set() or self._is_time_up())

    def _is_time_up(self) -> bool:
        limit_s = self._options.stop_after_s
        if limit_s is None or self._clock() - self._started_s < limit_s:
            return False
        log.warning("stopped after %.0f s as asked; the next run continues from here", limit_s)
        return True

    # ── due tasks and images: in a thread of their own ───────────────────────────────────────────

    def _steps(self, files: Sequence[SourceFile]) -> Generator[PageResult | DuePage, None, None]:
        with OpenFile(self._ledger, self._options.pdf_passwords) as opened:
            for source in files:
                try:
                    file = opened.facts(source)
                    if (source.uri, 0) in self._failed_before:
                        self._ledger.clear_failure(source.uri, 0)  # an unchanged file that came back is not opened
                    yield from self._file_steps(opened, source, file)
                except SourceError as err:
                    self._ledger.record_failure(source, "", 0, {"": err})
                    yield self._failed(source, None, 0, err)

    def _file_steps(
        self, opened: OpenFile, source: SourceFile, file: FileFacts
    ) -> Generator[PageResult | DuePage, None, None]:
        for number, before, unknown in with_known(self._ledger, source, file, self._numbers(source, file)):
            try:
                with of_one_page("preparing it", source.path, number):
                    page = before or KnownPage(opened.page_facts(source, file, number, ahead=unknown), None)
                    if before is None:
                        self._looked_at.add(page.facts.content_sha256)
                    page = opened.with_image_kind(source, file, page, self._options.image_kind)
                    if page is not before:
                        opened.remember(source, file, page)
                    step = self._step(opened, source, file, page)
            except SourceError as err:
                err.at(source.path, number)
                self._ledger.record_failure(source, file.sha256, number, {"": err})
                step = self._failed(source, file, number, err)
            self._call_witness(source, file, step)
            yield step
            del step  # its images are large

    def _step(self, opened: OpenFile, source: SourceFile, file: FileFacts, known: KnownPage) -> PageResult | DuePage:
        """Decide which tasks of a page are due, and have its images made if any are.

        Raises:
            SourceError: The page cannot be turned into an image, and its first task has no reading.
        """
        page = self._look_up(source, file, known)
        only_text_layers = self._options.text_layer == "only"
        if page.due_tasks and not only_text_layers and self._is_ready():
            page = self._look_up(source, file, known)  # only the model knows which tasks it can do
        if not page.due_tasks:
            return self._result(page, {}, is_asked=False)
        try:
            if self.lost:
                turn_deg = self._options.rotate_deg
                seen = opened.page_images(source, file, known.facts.page_number, ImageBudget(), turn_deg)
                return self._blank(page) if seen.is_blank else self._unread(page, self.lost)
            if only_text_layers:
                raise UnsupportedSourceError(
                    "The page has no text layer, and only text layers were asked for.",
                    hint="--text-layer auto reads its image.",
                )
            page.images = self._page_reader.images(opened, page, self._cancel)
        except SourceError as err:
            if page.tasks[0] not in page.readings:
                raise
            # The page keeps its readings; only the tasks that need its image failed.
            errors = dict.fromkeys(page.due_tasks, err.at(source.path, known.facts.page_number))
            self._ledger.record(source, file.sha256, known, {}, {}, errors)
            return self._result(page, errors)
        if page.images and page.images.is_blank:
            return self._blank(page)
        if page.images and (damage := page.images.damage):
            log.warning("%s page %d: %s What is there is read.", source.path, known.facts.page_number, damage)
            facts = replace(known.facts, metadata={**known.facts.metadata, "damage": damage})
            page.known = replace(known, facts=facts)
        return page

    def _look_up(self, source: SourceFile, file: FileFacts, known: KnownPage) -> DuePage:
        found = due.find_due(
            self._ledger,
            self._options,
            known,
            engine=self._engine_now(),
            made=self._made,
            able=self._able,
            last_family=self._last_family,
        )
        return DuePage(source, file, known, found.tasks, found.readings, found.due_tasks)

    def _engine_now(self) -> EngineFacts | None:
        """Return the engine's facts where `redo` compares readings with them."""
        return self._page_reader.prepare(self._cancel) if self._options.redo in {"outdated", "low-resolution"} else None

    @cached_property
    def _last_family(self) -> str | None:
        return self._ledger.last_family(self._options.engine) if self._options.are_tasks_default else None

    def _is_ready(self) -> bool:
        """Prepare the engine, and tell whether it can be asked.

        Raises:
            ConfigError: It cannot do a task that was named.
        """
        try:
            facts = None if self.lost else self._page_reader.prepare(self._cancel)
        except LOST as err:
            self.lost, facts = err, None
        if facts is None:
            return False
        self._able = facts.tasks
        are_left_out = self._options.are_tasks_default or (self._options.is_stand_in and "ocr" in self._options.tasks)
        for task in self._options.tasks:
            if task not in facts.tasks and not are_left_out:
                engine = f"{self._options.engine} with {facts.model}"
                raise ConfigError(
                    f"{engine} cannot do the task {task!r}; it can do {', '.join(sorted(facts.tasks))}.",
                    hint="Leave it out of --tasks, or load a model that can.",
                )
        return True

    # ── reading ──────────────────────────────────────────────────────────────────────────────────

    def _read(self, page: DuePage) -> PageResult:
        """Read what is due on one page, and record it, while no other process does."""
        with self._claims.hold(page.known.facts.content_sha256, self._cancel):
            # The same scan may have been read a moment ago as another page, or by another process.
            page = replace(self._look_up(page.source, page.file, page.known), images=page.images)
            return self._ask(page) if page.due_tasks else self._result(page, {})

    def _ask(self, page: DuePage) -> PageResult:
        number = page.known.facts.page_number
        started_s = self._clock()
        outcomes = self._page_reader.read(page, self._progress(page), self._cancel)
        tasks, took_s = ", ".join(page.due_tasks), self._clock() - started_s
        log.debug("%s page %d: %s in %.1f s", page.source.path, number, tasks, took_s)
        readings = {task: outcome for task, outcome in outcomes.items() if isinstance(outcome, Reading)}
        if any(reading.status == "blank" for reading in readings.values()):
            return self._blank(page)
        errors = {
            task: outcome.at(page.source.path, number)
            for task, outcome in outcomes.items()
            if isinstance(outcome, KoboldReaderError)
        }
        for task in page.due_tasks:
            if task not in readings and task not in errors:
                unkept = UnexpectedError(
                    "The engine gave neither a reading nor an error.", hint="The next run asks again."
                )
                errors[task] = unkept.at(page.source.path, number)
        if readings:
            page.known = replace(page.known, is_blank=False)
        keys = {task: self._options.key(task) for task in readings}
        self._ledger.record(page.source, page.file.sha256, page.known, readings, keys, errors)
        self._made |= {(page.known.facts.content_sha256, task) for task in readings}
        for task, error in errors.items():
            if task in page.readings:
                log.warning("%s The earlier reading is kept.", error)
        page.readings |= readings
        return self._result(page, errors)

    def _progress(self, page: DuePage) -> Callable[[str, int], None] | None:
        place = f"{page.source.name} page {page.known.facts.page_number}"
        if self._on_progress is None:
            return None
        return lambda task, characters: self._tell(f"{place}: {task}, {characters} characters")

    def _tell(self, doing: str) -> None:
        with self._telling:
            try:
                if self._on_progress:
                    self._on_progress(doing)
            except Exception as err:
                self._error_of_caller = err
                raise

    # ── the witness ──────────────────────────────────────────────────────────────────────────────

    def _call_witness(self, source: SourceFile, file: FileFacts, step: PageResult | DuePage) -> None:
        """Have the witness read a page while a server does, or, once those are done, a page that lacks its word."""
        if self._witness is None:
            return
        if isinstance(step, DuePage):
            if "ocr" in step.due_tasks:
                self._witness.look_at(source, file, step.known.facts, is_urgent=True)
        elif lacks_witness(step) and self._options.needs_witness:
            known = self._ledger.page(file.sha256, step.page_number)
            assert known is not None  # noqa: S101  (it was read earlier)
            self._witness.look_at(source, file, known.facts, is_urgent=False)

    def _witnessed(self, results: Iterable[PageResult], witness: SecondReader) -> Iterator[PageResult]:
        """Yield the results as soon as the witness has read them; the servers never wait for it.

        While a result waits, the next pages are read. Where too many wait, the first goes without the witness's word,
        and comes again when it is there. A witness that only reads along leaves those out when the last page was read.
        """
        waiting: deque[PageResult] = deque()
        late: deque[PageResult] = deque()
        is_patient = self._options.needs_witness
        most = WAITING_PAGES if is_patient and not self._hands_out_again else WAITING_PAGES_SOON
        for result in results:
            waiting.append(result)
            if lacks_witness(result):
                witness.compare(result.content_sha256, result.readings["ocr"].text)
            elif "ocr" in result.tasks:
                witness.leave(result.content_sha256)  # it turned out to be blank, or could not be read
            while waiting and (len(waiting) > most or self._has_word(waiting[0], witness)):
                first = waiting.popleft()
                if self._has_word(first, witness):
                    yield self._with_word(first, witness)
                    continue
                yield first
                if self._hands_out_again and len(late) < WAITING_PAGES:
                    late.append(first)
                else:
                    self._leave(first, witness)
            while late and self._has_word(late[0], witness):
                yield from self._late(late.popleft(), witness)
        if not is_patient:
            for result in late:
                self._leave(result, witness)
            late.clear()
        for result in waiting:
            yield self._with_word(result, witness)
        for result in late:
            yield from self._late(result, witness)

    def _late(self, result: PageResult, witness: SecondReader) -> Iterator[PageResult]:
        """Yield a page once more, with the witness's word."""
        heard = self._with_word(result, witness)
        if heard is not result:
            yield replace(heard, first_status=result.status)

    def _leave(self, result: PageResult, witness: SecondReader) -> None:
        """Do without the witness's word about a page."""
        witness.leave(result.content_sha256)
        self.uncompared_pages += 1

    @staticmethod
    def _has_word(result: PageResult, witness: SecondReader) -> bool:
        return not lacks_witness(result) or not witness.is_awaited(result.content_sha256)

    def _with_word(self, result: PageResult, witness: SecondReader) -> PageResult:
        """Wait for the witness's word about a page and keep it with the reading; the same result where none comes."""
        if not lacks_witness(result):
            return result
        content_sha256, reading, key = result.content_sha256, result.readings["ocr"], self._options.key("ocr")
        if self._on_progress and witness.is_awaited(content_sha256):
            self._tell(f"{result.source.name} page {result.page_number}: compared with RapidOCR's reading")
        while witness.is_awaited(content_sha256, _LOOK_S) and self._goes_on():
            pass
        word = witness.word(content_sha256)
        if word is None:  # a copy of the page has had its word
            kept = self._ledger.reading(content_sha256, "ocr", self._options.engine, key)
            if kept is None or kept.witness is None:
                self.uncompared_pages += 1
                return result
            return replace(result, readings={**result.readings, "ocr": kept})
        if isinstance(word, Word):
            heard = _heard(reading, word.witness, word.comparison)
            if heard.status == "unsupported":
                heard = self._asked_again(result, heard, word)
        else:
            heard = replace(reading, witness={"agreement": None, "error": str(word)})
        self._ledger.keep(content_sha256, key, heard)
        witness.leave(content_sha256)
        return replace(result, readings={**result.readings, "ocr": heard})

    def _asked_again(self, result: PageResult, first: Reading, word: Word) -> Reading:
        """Ask the server once more for a page whose text is of another page, and return the better reading."""
        known = self._ledger.page(result.file_sha256, result.page_number)
        file = self._ledger.document(result.file_sha256)
        place = result.source.path, result.page_number
        if known is None or file is None or self.lost:
            return first
        log.warning("%s page %d: nothing of the text is on the page; it is asked for once more", *place)
        page = DuePage(result.source, file, known, ("ocr",), {}, ("ocr",), is_again=True)
        try:
            with (
                of_one_page("reading it again", *place),
                OpenFile(self._ledger, self._options.pdf_passwords) as opened,
                self._claims.hold(result.content_sha256, self._cancel),
            ):
                page.images = self._page_reader.images(opened, page, self._cancel)
                outcome = self._page_reader.read(page, self._progress(page), self._cancel)["ocr"]
        except KoboldReaderError as err:
            outcome = err
        if not isinstance(outcome, Reading) or not outcome.text:
            log.warning("%s page %d: asked once more without success: %s", *place, outcome)
            return first
        attempts = first.attempts + outcome.attempts
        second = _heard(replace(outcome, attempts=attempts), word.witness, compare(outcome.text, word.witness))
        support = [(one.witness or {}).get("support") or 0.0 for one in (first, second)]
        return second if support[1] > support[0] else replace(first, attempts=attempts)

    # ── results ──────────────────────────────────────────────────────────────────────────────────

    def _blank(self, page: DuePage) -> PageResult:
        """Record that a page is blank, which is a fact of the page and no reading, and return its result."""
        page.known = replace(page.known, is_blank=True)
        self._looked_at.add(page.known.facts.content_sha256)
        page.readings |= {task: due.blank_reading(task) for task in page.due_tasks}
        self._ledger.record(page.source, page.file.sha256, page.known, {}, {}, {})
        return self._result(page, {})

    def _result(self, page: DuePage, errors: Mapping[str, KoboldReaderError], *, is_asked: bool = True) -> PageResult:
        facts = page.known.facts
        content_sha256 = facts.content_sha256
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
            errors=dict(errors),
            metadata={**page.file.metadata, **public_metadata(facts.metadata), **self._tag_paths(page)},
            beside=people_say(page.source.sidecars),
            content_sha256=content_sha256,
            is_kept=bool(page.readings)
            and not any(
                content_sha256 in self._looked_at
                if reading.engine in due.OF_THE_PAGE
                else (content_sha256, task) in self._made
                for task, reading in page.readings.items()
            ),
            is_asked=is_asked,
        )

    def _tag_paths(self, page: DuePage) -> dict[str, str]:
        """Return the tags of a page that have words above them, each with these: `animal|dog, vehicle|car`."""
        tags = page.readings.get("tags")
        if self._words is None or tags is None:
            return {}
        from kobold_reader.reading.tags import keywords_of  # compiles many patterns, and few pages have keywords

        found = (path for word in keywords_of(tags.text) for path in self._words.paths(word) if len(path) > 1)
        joined = ", ".join("|".join(path) for path in found)
        return {"tag_paths": joined} if joined else {}

    def _unread(self, page: DuePage, error: KoboldReaderError) -> PageResult:
        """Return the result of a page that stays due: nothing was asked, so nothing is recorded."""
        own = copy(error).at(page.source.path, page.known.facts.page_number)
        return self._result(page, dict.fromkeys(page.due_tasks, own), is_asked=False)

    def _failed(self, source: SourceFile, file: FileFacts | None, page_number: int, error: SourceError) -> PageResult:
        return PageResult(
            source=source,
            page_number=page_number,
            page_label=str(page_number) if page_number else "",
            total_pages=file.total_pages if file else 0,
            file_sha256=file.sha256 if file else "",
            tasks=self._options.tasks,
            readings={},
            errors=dict.fromkeys(self._options.tasks, error),
            metadata=file.metadata if file else {},
            is_asked=True,
        )


class Breaker:
    """Gives the engine up when three pages in a row failed because of a server; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._in_a_row = 0
        self.error: NoServerAvailableError | None = None

    def note(self, result: PageResult, asked: Sequence[str]) -> None:
        """Count the result of a page that was asked for these tasks."""
        with self._lock:
            self._in_a_row = self._in_a_row + 1 if _is_server_failure(result, asked) else 0
            if self._in_a_row == BREAKER_FAILURES and self.error is None:
                last = list(result.errors.values())
                self.error = NoServerAvailableError(
                    f"{BREAKER_FAILURES} pages in a row failed because of the server; the last: {last[0]}",
                    errors={error.server or "server": error for error in last},
                    hint="The next run reads what is missing.",
                )


def lacks_witness(result: PageResult) -> bool:
    """Tell whether a model transcribed the page, and no witness has read it."""
    reading = result.readings.get("ocr")
    return reading is not None and reading.engine not in due.OF_THE_PAGE and reading.witness is None


def _heard(reading: Reading, witness: Reading, found: Comparison) -> Reading:
    """Return a reading with what the witness found, and the places of its words where it has none of its own."""
    is_same_way = reading.rotation_deg == witness.rotation_deg
    return replace(
        reading,
        witness=found.findings,
        boxes=reading.boxes or (found.places if is_same_way else ()),
        status="unsupported" if reading.status == "ok" and found.is_of_another_page else reading.status,
    )


def _is_server_failure(result: PageResult, asked: Sequence[str]) -> bool:
    """Tell whether no task of a page was answered, and the server is to blame.

    A server that drops every image is no better than one that is gone. A page that takes too long or is too
    large is at fault itself: three of them in a row must not keep the others from being read.
    """
    of_page = (ServerTimeoutError, ContextTooSmallError, BadRequestError)
    return set(asked) <= set(result.errors) and all(
        isinstance(error, ServerError | ImageNotSeenError) and not isinstance(error, of_page)
        for error in result.errors.values()
    )
