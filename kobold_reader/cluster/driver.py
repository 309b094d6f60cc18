"""ClusterTranscriber: the driver's part. Decides what is due, hands it out in waves, records what comes back.

A wave is as many pages as keep the servers busy for a while; the next one is looked up meanwhile. Within a wave the
pages come back in any order and are recorded as they come; results go out in page order.

Team: the foreman and the readers on the cluster, as the driver sees them.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any, Final, Self

from typing_extensions import override

from kobold_reader.cluster.foreman import Foreman, Order
from kobold_reader.cluster.session import LOCAL, check_installed, connect, quiet_context
from kobold_reader.cluster.unit_reader import PageToRead, ReadPage, UnitReader, in_units
from kobold_reader.errors import ClusterError, ConfigError, KoboldReaderError
from kobold_reader.kobold import CancelledError, check_way
from kobold_reader.pages import FileFacts, SourceFile
from kobold_reader.reader import KoboldReader
from kobold_reader.reading.ledger import KnownPage, Ledger
from kobold_reader.reading.open_file import OpenFile
from kobold_reader.reading.pipeline import Ahead
from kobold_reader.reading.results import PageResult
from kobold_reader.reading.transcriber import PageStep, Transcriber

__all__ = ["ClusterTranscriber", "Team", "transcriber"]

log = logging.getLogger(__name__)

_LOOK_S: Final = 0.2
_END_S: Final = 10.0
"""At most so long the readers are given to abort the jobs that run on their servers."""


class _RemoteForeman:
    """The foreman's methods by name, across the cluster; goes to the actors."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def __call__(self, method: str, *arguments: Any) -> Any:
        import ray

        return ray.get(getattr(self._actor, method).remote(*arguments))


class _Actor:
    """What Ray Data calls: a UnitReader in columns and rows."""

    def __init__(self, reader: KoboldReader, foreman: _RemoteForeman) -> None:
        import ray

        # The same where Ray starts a lost actor anew.
        name = ray.get_runtime_context().get_actor_id()
        self._units = UnitReader(reader, foreman, name)

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, list[Any]]]:
        for unit in batch["unit"]:
            for page in self._units.read(unit):
                yield {"page": [page]}


class Team:
    """Joins the cluster when the first page is to be read; use it in a `with` statement.

    Args:
        reader: How to read, and the servers.
        address: As `connect` takes it.
        is_cancelled: Whether the run is to be broken off.
        goes_on: Whether more pages are to be begun.
    """

    def __init__(
        self, reader: KoboldReader, address: str, is_cancelled: Callable[[], bool], goes_on: Callable[[], bool]
    ) -> None:
        self._reader = reader
        self._urls = list(dict.fromkeys(reader.api_urls))
        self._address = address
        self._is_cancelled = is_cancelled
        self._goes_on = goes_on
        self._unit_numbers = itertools.count()
        self._foreman: _RemoteForeman | None = None
        self._is_over = threading.Event()
        self.error: KoboldReaderError | None = None
        """What ended the run."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()

    def read(self, pages: Sequence[PageToRead]) -> Iterator[ReadPage]:
        """Yield pages as they are read, in any order; those that nobody began are missing.

        Raises:
            ClusterError: The cluster cannot be joined, or was lost.
        """
        if not pages:
            return
        ray = connect(self._address)
        units = in_units(pages, servers=len(self._urls), numbers=self._unit_numbers)
        missing = {unit.number: len(unit.pages) for unit in units}
        foreman = self._foreman or self._begin(ray)
        # Nothing is fetched ahead: a page that waits for the next one could be lost with this process.
        batches = iter(
            self._dataset(ray, foreman, units).iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0)
        )
        try:
            for page in itertools.chain.from_iterable(batch["page"] for batch in batches):
                missing[page.unit] -= 1
                if not missing[page.unit]:
                    foreman("forget", page.unit)
                yield page
            self.error = foreman("error")
        except ray.exceptions.RayError as err:
            msg = f"the Ray cluster lost what it was doing: {str(err).strip().splitlines()[-1]}"
            raise ClusterError(msg, hint="What was read is kept; the next run goes on from here.") from err
        finally:
            with suppress(Exception):  # a foreman that is gone has nobody to stop
                self._end(foreman, is_done=not any(missing.values()))
            close = getattr(batches, "close", None)
            if close:
                close()

    def _begin(self, ray: Any) -> _RemoteForeman:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # Beside the driver: where that is lost, so is the run. Were it soft, Ray would put what needs no processor
        # on any node.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(Foreman).options(num_cpus=0, scheduling_strategy=here)
        self._foreman = _RemoteForeman(actor.remote(self._urls, self._reader.outage_patience_s))
        threading.Thread(target=self._watch, args=(self._foreman,), name="kobold-reader-team", daemon=True).start()
        return self._foreman

    def _dataset(self, ray: Any, foreman: _RemoteForeman, units: Sequence[Any]) -> Any:
        with ray.data.DataContext.current(quiet_context(ray)):
            return ray.data.from_items([{"unit": unit} for unit in units], override_num_blocks=len(units)).map_batches(
                _Actor,
                fn_constructor_args=(self._reader, foreman),
                batch_size=1,
                batch_format="numpy",
                # One unit at a time: those that wait are for whoever is free first.
                compute=ray.data.ActorPoolStrategy(
                    size=min(len(self._urls), len(units)), max_tasks_in_flight_per_actor=1
                ),
                # They wait for their servers most of the time; but Ray does not spread what asks for nothing.
                num_cpus=0.01,
            )

    def _watch(self, foreman: _RemoteForeman) -> None:
        """Pass the driver's wishes on, and say what became of servers."""
        order: Order = "go on"
        with suppress(Exception):  # the cluster is gone; the driver sees that by itself
            while not self._is_over.wait(_LOOK_S):
                wish: Order = "stop" if self._is_cancelled() else "go on" if self._goes_on() else "begin nothing"
                if wish != order:
                    foreman("order", wish)
                    order = wish
                for news in foreman("news"):
                    log.warning(news)

    def _end(self, foreman: _RemoteForeman, *, is_done: bool) -> None:
        for news in foreman("news"):
            log.warning(news)
        if is_done:
            return
        foreman("order", "stop")
        end_s = time.monotonic() + _END_S
        while foreman("held") and time.monotonic() < end_s:
            time.sleep(_LOOK_S)


FIRST_WAVE_PAGES: Final = 32
"""Due pages in the first wave, for each server: the first page is not to wait for a look at thousands."""
WAVE_PAGES: Final = 512
"""The same of the later ones: between two waves the actors are started anew, which takes seconds."""
WAVE_STEPS: Final = 20_000
"""A wave ends here, however few of its pages are due."""
Step = PageResult | PageStep


def transcriber(reader: KoboldReader, ledger: Ledger, *, address: str = LOCAL, **options: Any) -> ClusterTranscriber:
    """Return what reads like `reader.transcriber`, on a Ray cluster; options as there, and as `connect` takes them.

    The cluster is joined when the first page is due, and not at all if none is.

    Raises:
        ConfigError: The reader asks no server.
        MissingExtraError: Ray is not installed.
    """
    if reader.engine != "koboldcpp":
        msg = "a cluster is for KoboldCpp servers, an actor for each; RapidOCR reads on this machine alone."
        raise ConfigError(msg, hint="Leave out --ray, or --engine rapidocr.")
    check_way(reader.api_urls, allow_remote=reader.allow_remote)
    check_installed()
    return ClusterTranscriber(reader, ledger, address=address, **options)


class ClusterTranscriber(Transcriber):
    """Reads files on a Ray cluster: `run` and `survey` as Transcriber's; `run` raises ClusterError where it is lost.

    Args:
        reader: How to read, and the servers.
        ledger: Written here alone.
        address: As `connect` takes it.
        options: As Transcriber takes them; `on_progress` hears of every page that is done.
    """

    def __init__(self, reader: KoboldReader, ledger: Ledger, *, address: str = LOCAL, **options: Any) -> None:
        super().__init__(reader.make_engine(), ledger, reader.options, **options)
        self._reader = reader
        self._urls = list(dict.fromkeys(reader.api_urls))
        self._address = address

    @override
    def run(self, files: Sequence[SourceFile]) -> Generator[PageResult, None, None]:
        self._begin(files)
        with (
            suppress(CancelledError),
            closing(Ahead(self._waves(files), 1, on_close=self._cancel.set)) as waves,
            Team(self._reader, self._address, self._cancel.is_set, self._goes_on) as team,
        ):
            for wave in waves:
                contents = [step.known.facts.content_sha256 for step in wave if not isinstance(step, PageResult)]
                with self._claims.hold_all(contents, self._cancel):
                    yield from self._read_wave(team, wave)
                if error := team.error or self._breaker.error:
                    raise error
                if not self._goes_on():
                    return

    # ── what is due ──────────────────────────────────────────────────────────────────────────────

    def _waves(self, files: Sequence[SourceFile]) -> Generator[list[Step], None, None]:
        wave: list[Step] = []
        due, enough = 0, FIRST_WAVE_PAGES * len(self._urls)
        for step in self._steps(files):
            wave.append(step)
            due += not isinstance(step, PageResult)
            if due == enough or len(wave) == WAVE_STEPS:
                yield wave
                wave, due, enough = [], 0, WAVE_PAGES * len(self._urls)
        yield wave

    @override
    def _step(self, opened: OpenFile, source: SourceFile, file: FileFacts, known: KnownPage) -> Step:
        page = self._look_up(source, file, known, self._engine_now())
        if not page.due_tasks:
            return self._result(page, {}, is_kept=True)
        if self._settings.text_layer == "only":
            return super()._step(opened, source, file, known)  # an error that needs nobody's help
        return page

    # ── a wave ───────────────────────────────────────────────────────────────────────────────────

    def _read_wave(self, team: Team, wave: Sequence[Step]) -> Iterator[PageResult]:
        """Yield the results of a wave in page order, each as soon as those before it are there."""
        results: dict[int, PageResult] = {}
        pages: dict[int, PageStep] = {}
        twins: dict[int, list[int]] = {}
        """Of a page that is sent: others that show the same, and are not."""
        sent: dict[tuple[str, tuple[str, ...]], int] = {}
        for position, step in enumerate(wave):
            now = step if isinstance(step, PageResult) else self._look_again(step)
            if isinstance(now, PageResult):
                results[position] = now
                continue
            pages[position] = now
            first = sent.setdefault((now.known.facts.content_sha256, now.due_tasks), position)
            twins.setdefault(first, []).extend([position] if first != position else [])
        yielded = 0
        for read in team.read([_to_read(position, pages[position]) for position in twins]):
            results[read.position] = self._came(pages[read.position], read)
            for twin in twins[read.position]:
                results[twin] = self._twin(pages[twin], results[read.position])
            while yielded in results:
                yield results.pop(yielded)
                yielded += 1
        # The run was broken off: pages that nobody began have no result, those after them may.
        yield from (results[position] for position in sorted(results))

    def _look_again(self, page: PageStep) -> Step:
        """Look a page up once more when its turn comes: a copy of it may have been read since."""
        page = self._look_up(page.source, page.file, page.known, self._engine_now())
        return page if page.due_tasks else self._result(page, {})

    def _came(self, page: PageStep, read: ReadPage) -> PageResult:
        """Record what an actor read."""
        number = page.known.facts.page_number
        page.known = read.known or page.known
        readings = {task: reading for task, reading in read.result.readings.items() if task in page.due_tasks}
        errors = {task: error.at(page.source.path, number) for task, error in read.result.errors.items()}
        if page.known.is_blank:  # kept as a fact of the page, not as a reading
            page.readings |= readings
            readings = {}
        # What the model cannot do is left out where nobody asked for it by name.
        page.tasks = tuple(task for task in page.tasks if task in page.readings or task in readings or task in errors)
        result = self._record(page, readings, errors)
        self._breaker.note(result, page.due_tasks)
        if self._on_progress:
            self._on_progress(f"{page.source.name} page {number}: {result.status}")
        return result

    def _twin(self, page: PageStep, first: PageResult) -> PageResult:
        again = self._look_again(replace(page, known=replace(page.known, is_blank=self._is_blank(page, first))))
        if isinstance(again, PageResult):
            return again
        again.tasks = first.tasks
        return self._record(again, {}, dict(first.errors))

    @staticmethod
    def _is_blank(page: PageStep, first: PageResult) -> bool | None:
        return True if first.status == "blank" else page.known.is_blank


def _to_read(position: int, page: PageStep) -> PageToRead:
    return PageToRead(position, page.source, page.file, page.known, page.due_tasks)
