"""The survey before a run: which pages will be read, and how long that will take.

To look at a page takes milliseconds (4 ms a scan, 20 ms a full page of text), and its facts are kept in the ledger,
where the run finds them: no page is looked at twice.

The forecast is the mean time of earlier readings by the same model, times the number of pages; the median would leave
out the slow pages that make a night long. The range is Student's, for eight times in ten; the tasks' ranges are added
up, because a page that is long to read is long to describe. Images are prepared while the server answers, and cost no
time. Pages that turn out to be blank cost none either, so the forecast is rather too long.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import sqrt
from statistics import fmean, stdev
from typing import Final, Literal, get_args

from kobold_reader.errors import KoboldReaderError, SourceError
from kobold_reader.options import ReadOptions
from kobold_reader.pages import FileFacts, SourceFile
from kobold_reader.reading.due import PageTasks, find_due, has_text_layer
from kobold_reader.reading.ledger import KnownPage, Ledger, Timing
from kobold_reader.reading.open_file import OpenFile, with_known
from kobold_reader.reading.page_reader import EngineFacts

PageKind = Literal["read", "text_layer", "blank", "to_read", "copy", "failed"]
PAGE_KINDS: Final[tuple[PageKind, ...]] = get_args(PageKind)

MEASURED_PAGES: Final = 50
"""The time to embed fewer is not worth the seconds that it takes to load an embedder and to measure it."""
TOLD_EVERY_PAGES: Final = 100
"""How often the user is told which page is looked at."""
_STUDENT: Final = (3.08, 1.89, 1.64, 1.53, 1.48, 1.44, 1.41, 1.40, 1.38)
"""90 % quantile of Student's t for 1, 2, 3 … degrees of freedom."""
_NORMAL: Final = 1.3


@dataclass(frozen=True, slots=True)
class PageAhead:
    """One page, or with `page_number` 0 a file that cannot be opened."""

    source: SourceFile
    page_number: int
    kind: PageKind
    due_tasks: tuple[str, ...] = ()
    """What the engine will be asked; empty for a copy."""
    content_sha256: str = ""
    has_poor_text: bool = False
    """It has a text layer, but not one that is good enough."""
    is_new: bool = False
    """It was looked at for the first time."""
    error: KoboldReaderError | None = None


@dataclass(slots=True)
class Outlook:
    """The pages ahead, counted."""

    files: int = 0
    failed_files: int = 0
    pages: int = 0
    """In files that open, without those that `pages` and `sample` leave out."""
    by_kind: Counter[PageKind] = field(default_factory=Counter)
    by_file_kind: dict[str, Counter[PageKind]] = field(default_factory=lambda: defaultdict(Counter))
    """By `SourceFile.kind`."""
    due_tasks: Counter[str] = field(default_factory=Counter)
    """How often each task is to be asked."""
    poor_text_pages: int = 0
    """Pages to be read although they have a text layer."""
    errors: list[KoboldReaderError] = field(default_factory=list)
    contents: set[str] = field(default_factory=set)
    """The content_sha256 of all these pages."""
    passed_pages: int = 0
    """Those among `pages` that the run will not come to, since nothing is left to do for their files."""
    forecast: Forecast | None = None
    """None: nothing is known yet."""
    indexing_s: float | None = None
    """How long an archive will take to index what is new, beside the reading; None: not known, few pages, or none."""

    @property
    def read_pages(self) -> int:
        """Pages for which nothing is left to do, as far as is known."""
        return self.by_kind["read"] + self.by_kind["text_layer"] + self.by_kind["blank"]

    @property
    def to_read_pages(self) -> int:
        """Pages that will be read, unless their image turns out to be blank."""
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
    options: ReadOptions,
    *,
    numbers: Callable[[SourceFile, FileFacts], Iterable[int]],
    engine: EngineFacts | None = None,
    looks: bool = True,
    on_progress: Callable[[str], None] | None = None,
) -> Iterator[PageAhead]:
    """Yield every page that a run would come to, in its order; asks no server.

    Args:
        files: Those that the ledger does not know are opened.
        opened: Opens them.
        ledger: Keeps the facts of pages.
        options: The options of the run.
        numbers: Returns the page numbers of a file that are meant.
        engine: Needed where `options.redo` compares readings with what the model would do now.
        looks: Look at pages that are not known; False: take them for pages to be read.
        on_progress: Called with a line of text now and then.
    """
    made: set[tuple[str, str]] = set()
    last_family = ledger.last_family(options.engine) if options.are_tasks_default else None

    def ahead(source: SourceFile, known: KnownPage) -> PageAhead:
        facts = known.facts
        found = find_due(ledger, options, known, engine=engine, last_family=last_family)
        wanted = [(facts.content_sha256, task) for task in found.due_tasks]
        due_tasks = tuple(task for content, task in wanted if (content, task) not in made)
        made.update(wanted)
        kind = _kind_ahead(known, found, due_tasks, options)
        asked = due_tasks if kind == "to_read" else ()
        is_poor = facts.text_layer == "poor"
        return PageAhead(source, facts.page_number, kind, asked, facts.content_sha256, has_poor_text=is_poor)

    def of_file(source: SourceFile) -> Iterator[PageAhead]:
        file, looked_at = opened.facts(source), 0
        for number, known, unknown in with_known(ledger, source, file, numbers(source, file)):
            if known:
                yield ahead(source, known)
                continue
            if not looks:
                yield PageAhead(source, number, "to_read", options.tasks)
                continue
            try:
                page = KnownPage(opened.page_facts(source, file, number, ahead=unknown), None)
            except SourceError as err:
                yield PageAhead(source, number, "failed", error=err)
                continue
            opened.remember(source, file, page)
            if looked_at % TOLD_EVERY_PAGES == 0 and on_progress:
                on_progress(f"looking at {source.name} page {number} of {file.total_pages}")
            looked_at += 1
            yield replace(ahead(source, page), is_new=True)

    for source in files:
        try:
            yield from of_file(source)
        except SourceError as err:
            yield PageAhead(source, 0, "failed", error=err)  # the run records it when its turn comes


def _kind_ahead(known: KnownPage, found: PageTasks, due_tasks: Sequence[str], options: ReadOptions) -> PageKind:
    if due_tasks:
        return "failed" if options.text_layer == "only" else "to_read"  # it has no text, and no engine may be asked
    if found.due_tasks:
        return "copy"
    if known.is_blank:
        return "blank"
    return "text_layer" if found.tasks[0] == "ocr" and has_text_layer(known.facts, options) else "read"


# ── how long ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Forecast:
    """How long the pages ahead will take."""

    seconds: float
    low_s: float
    high_s: float
    """Eight times in ten the time is between these; both are equal where only one page was timed."""
    timed_pages: int
    requests: int
    tokens: int | None
    """In and out; None where the server does not count."""
    kept_bytes: int
    model: str | None
    images_a_page: float
    """For `ocr`: more than 1 where pages are cut into tiles."""

    def pages_in(self, seconds: float, pages: int) -> int:
        """Return how many of these pages are done in that time."""
        return min(pages, int(pages * seconds / self.seconds)) if self.seconds else pages


def forecast(due_tasks: Mapping[str, int], timings: Sequence[Timing], *, servers: int = 1) -> Forecast | None:
    """Return how long these tasks (with how often each is due) will take; None where one of them was never timed.

    All timings are of one model. The servers work at once.
    """
    totals = [0.0, 0.0, 0.0]
    requests = tokens = kept_bytes = 0.0
    is_counted, images_a_page = True, 1.0
    for task, count in due_tasks.items():
        own = [timing for timing in timings if timing.task == task]
        if not own:
            return None
        for position, seconds in enumerate(_mean_and_range([timing.elapsed_s for timing in own])):
            totals[position] += count * seconds / max(1, servers)
        images = fmean(timing.images for timing in own)
        images_a_page = images if task == "ocr" else images_a_page
        requests += count * images
        kept_bytes += count * fmean(timing.kept_bytes for timing in own)
        counts = [(timing.prompt_tokens, timing.completion_tokens) for timing in own]
        counted = [sent + got for sent, got in counts if sent is not None and got is not None]
        is_counted &= bool(counted)
        tokens += count * fmean(counted or [0])
    return Forecast(
        seconds=totals[0],
        low_s=totals[1],
        high_s=totals[2],
        timed_pages=len({timing.content_sha256 for timing in timings if timing.task in due_tasks}),
        requests=round(requests),
        tokens=round(tokens) if is_counted else None,
        kept_bytes=round(kept_bytes),
        model=timings[0].model if timings else None,
        images_a_page=images_a_page,
    )


def _mean_and_range(seconds: Sequence[float]) -> tuple[float, float, float]:
    mean = fmean(seconds)
    if len(seconds) == 1:
        return mean, mean, mean
    freedom = len(seconds) - 1
    student = _STUDENT[freedom - 1] if freedom <= len(_STUDENT) else _NORMAL
    reach = student * stdev(seconds) / sqrt(len(seconds))
    # The mean of all is hardly below the quickest page seen.
    return mean, max(min(seconds), mean - reach), mean + reach
