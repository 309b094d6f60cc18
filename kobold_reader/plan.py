"""A plan: the pages of some paths by kind, a few of them timed on this server, and how long the rest will take.

The sample pages are read as a run would read them, and their readings are kept: the run finds them done, and the same
plan made again asks the server nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import closing
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any, Final

from kobold_reader.errors import KoboldReaderError, ServerError
from kobold_reader.options import PageRange, ReadOptions
from kobold_reader.pages import Selection, SourceFile
from kobold_reader.reading.due import spread
from kobold_reader.reading.ledger import Ledger
from kobold_reader.reading.page_reader import EngineFacts
from kobold_reader.reading.results import PageResult
from kobold_reader.reading.second_reader import is_installed, witness_key
from kobold_reader.reading.survey import (
    MEASURED_PAGES,
    PAGE_KINDS,
    Forecast,
    Outlook,
    PageAhead,
    PageKind,
)
from kobold_reader.session import ReadSession

DEFAULT_SAMPLE: Final = 3


@dataclass(slots=True)
class Plan:
    """The pages ahead, and how long they will take."""

    selection: Selection
    outlook: Outlook
    """After the sample was read."""
    sample_pages: int = 0
    """Pages chosen, spread evenly over all that need the engine."""
    statuses: Counter[str] = field(default_factory=Counter)
    """Of the sample pages that were read just now; the others were read before."""
    engine: EngineFacts | None = None
    """None where no server was asked."""
    forecast: Forecast | None = None
    witness_s: float | None = None
    """How long RapidOCR will take to read these pages, too; None: there is no witness, or it was not timed."""
    errors: list[KoboldReaderError] = field(default_factory=list)
    """Files and pages that cannot be read, and sample pages that failed."""
    server_error: ServerError | None = None
    """Why the sample could not be read."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as `plan --json` writes it."""
        outlook, forecast = self.outlook, self.forecast
        return {
            "files": {
                "total": outlook.files,
                "failed": outlook.failed_files,
                "skipped": dict(self.selection.skipped),
            },
            "pages": {"total": outlook.pages, **_by_kind(outlook.by_kind)},
            "pages_by_file_kind": {kind: _by_kind(counts) for kind, counts in sorted(outlook.by_file_kind.items())},
            "poor_text_layer_pages": outlook.poor_text_pages,
            "tasks": dict(outlook.due_tasks),
            "model": self.engine.model if self.engine else forecast.model if forecast else None,
            "sample": {"pages": self.sample_pages, "read_now": dict(self.statuses)},
            "forecast": None
            if forecast is None
            else {
                "seconds": round(forecast.seconds, 1),
                "low_s": round(forecast.low_s, 1),
                "high_s": round(forecast.high_s, 1),
                "timed_pages": forecast.timed_pages,
                "requests": forecast.requests,
                "images_a_page": round(forecast.images_a_page, 2),
                "tokens": forecast.tokens,
                "kept_bytes": forecast.kept_bytes,
            },
            "witness_s": None if self.witness_s is None else round(self.witness_s, 1),
            "indexing_s": None if outlook.indexing_s is None else round(outlook.indexing_s, 1),
            "errors": [str(error) for error in (*self.errors, *([self.server_error] if self.server_error else []))],
        }


def make_plan(
    session: ReadSession,
    selection: Selection,
    ledger: Ledger,
    *,
    sample: int = DEFAULT_SAMPLE,
    on_progress: Callable[[str], None] | None = None,
) -> Plan:
    """Look at every page, read a few, and forecast the rest; a server that is off is reported in the plan.

    The ledger keeps the facts of pages, and the readings of the sample. `sample` is the number of pages to be timed; 0:
    no request is sent, and the forecast is made from earlier readings.
    """
    options = replace(session.options, sample=None, stop_after_s=None)
    pages: list[PageAhead] = []

    def survey() -> Outlook:
        pages.clear()
        transcriber = session.transcriber(ledger, options=options, on_progress=on_progress)
        return transcriber.survey(selection.files, on_page=pages.append)

    plan = Plan(selection, Outlook(len(selection.files)))
    try:
        plan.outlook = survey()
        if sample and plan.outlook.due_tasks:
            plan.engine = session.engine().prepare()
            keys = {task: options.key(task) for task in options.tasks}
            timings = ledger.timings(options.engine, keys, plan.engine.model)
            timed = {(timing.content_sha256, timing.task) for timing in timings}
            chosen = choose_sample(pages, sample, timed)
            plan.sample_pages = len(chosen)
            untimed = [page for page in chosen if {(page.content_sha256, task) for task in page.due_tasks} - timed]
            try:
                for result in _read(untimed, session, ledger, options, on_progress):
                    plan.statuses[result.status] += 1
                    plan.errors += [result.error] if result.error else list(result.errors.values())
            finally:
                plan.outlook = survey()
    except ServerError as err:
        plan.server_error = err
    plan.outlook.indexing_s = _indexing_s(plan.outlook, ledger)
    plan.selection = replace(
        selection, skipped=ledger.attachments_skipped(selection.files) + Counter(selection.skipped)
    )
    plan.errors += [*selection.errors, *plan.outlook.errors]
    plan.forecast = session.forecast(plan.outlook, ledger, asks_server=bool(plan.engine))
    if options.has_witness and is_installed():
        plan.witness_s = _witness_s(plan.outlook, ledger, options)
    return plan


def _witness_s(outlook: Outlook, ledger: Ledger, options: ReadOptions) -> float | None:
    timings = ledger.timings("rapidocr", {"ocr": witness_key(options)}, None)
    of_these = [timing for timing in timings if timing.content_sha256 in outlook.contents]
    seconds = [timing.elapsed_s for timing in of_these or timings]
    return fmean(seconds) * outlook.due_tasks["ocr"] if seconds else None


def _indexing_s(outlook: Outlook, ledger: Ledger) -> float | None:
    """Return how long a new archive with the usual embedder would take to embed these pages; None: not known."""
    if outlook.pages < MEASURED_PAGES:
        return None
    # Seconds to import, and a plan of few pages does without.
    from kobold_reader.archive.embedders import ServerAccess, choose_embedder
    from kobold_reader.archive.vector_index import measure_embedding

    return measure_embedding(choose_embedder(None, ServerAccess()), ledger, outlook.contents)


def choose_sample(pages: Iterable[PageAhead], sample: int, timed: AbstractSet[tuple[str, str]]) -> list[PageAhead]:
    """Return pages spread evenly over all that need the engine, each content once.

    Pages that were read by this model, or found to be blank, are candidates too, so that a plan made again chooses the
    same pages and finds them read.
    """
    contents = {content for content, _ in timed}
    needing: dict[str, PageAhead] = {}
    for page in pages:
        if page.due_tasks or page.kind == "blank" or (page.kind == "read" and page.content_sha256 in contents):
            needing.setdefault(page.content_sha256, page)
    candidates = list(needing.values())
    return [candidates[position] for position in spread(len(candidates), sample)]


def _read(
    pages: Iterable[PageAhead],
    session: ReadSession,
    ledger: Ledger,
    options: ReadOptions,
    on_progress: Callable[[str], None] | None,
) -> Iterator[PageResult]:
    """Read some pages of some files, as a run would."""
    spans: dict[str, list[tuple[int, int]]] = defaultdict(list)
    files: dict[str, SourceFile] = {}
    for page in pages:
        spans[page.source.uri].append((page.page_number, page.page_number))
        files[page.source.uri] = page.source
    for uri, source in files.items():
        only = replace(options, pages=PageRange(tuple(spans[uri])))
        with closing(session.transcriber(ledger, options=only, on_progress=on_progress).run([source])) as results:
            yield from results


def _by_kind(counts: Mapping[PageKind, int]) -> dict[PageKind, int]:
    return {kind: counts.get(kind, 0) for kind in PAGE_KINDS}
