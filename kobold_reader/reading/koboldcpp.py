"""KoboldEngine: reads pages with the vision model that KoboldCpp runs.

It chooses the server, the family, and the views for each task; `attempts` asks about one view. A page whose server is
lost goes on with the next server. A page that was cut into tiles is read tile by tile, and the texts are joined.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from kobold_reader.errors import (
    AuthenticationError,
    ContextTooSmallError,
    ImageNotSeenError,
    KoboldReaderError,
    NoServerAvailableError,
    NoVisionModelError,
    ResponseFormatError,
    ServerBusyError,
    ServerConnectionError,
    ServerError,
    ServerHungError,
    ServerTimeoutError,
    TranscriptionError,
)
from kobold_reader.kobold import Family, Lease, ServerInfo, ServerPool, choose_family
from kobold_reader.options import ReadOptions
from kobold_reader.pages import ImageBudget
from kobold_reader.reading.attempts import PageContext, ask
from kobold_reader.reading.joining import join_readings
from kobold_reader.reading.page_reader import EngineFacts, PageJob, TaskOutcome
from kobold_reader.reading.records import RecordForm
from kobold_reader.reading.results import Reading
from kobold_reader.reading.selftest import Eyesight
from kobold_reader.reading.tags import MOST_KEYWORDS, TagForm

log = logging.getLogger(__name__)

RUN_ERRORS = (NoServerAvailableError, AuthenticationError, NoVisionModelError)
"""With these no page can be read, so they end the run. All other errors of a server are the page's."""
SERVERS_OWN = (AuthenticationError, NoVisionModelError, ResponseFormatError, ContextTooSmallError, ImageNotSeenError)
"""Errors of one server that another one may not have: the page is given to another one, if there is any."""


class KoboldEngine:
    """Reads pages through the servers of a pool.

    Args:
        pool: One lease holds one server for one page.
        options: The options of the run.
        form: The form of answers to `ocr`, in place of a text; each page is then asked as a whole.
    """

    def __init__(self, pool: ServerPool, options: ReadOptions, *, form: RecordForm | None = None) -> None:
        self._pool = pool
        self._options = options
        self._eyesight = Eyesight(options.visionmaxres)
        self._form = form
        self._tag_form = TagForm(options.words, options.max_tags or MOST_KEYWORDS)
        self._lock = threading.RLock()
        """Guards the two fields below; pages are read without it."""
        self._facts: EngineFacts | None = None
        self._families: dict[tuple[str, str], Family] = {}

    @property
    def parallel(self) -> int:
        """One page per server."""
        return len(self._pool.urls)

    def prepare(self, cancel: threading.Event | None = None) -> EngineFacts:
        """Find a server with vision and the family of its model; see `Engine.prepare`."""
        with self._lock:
            if self._facts is None:
                self._pool.compare()
                with self._pool.lease(cancel=cancel, vision=True) as lease:
                    info = lease.info
                    family = self._family_of(info)
                    budget = self._budget(lease, family)
                self._facts = EngineFacts(
                    model=info.model,
                    family=family.name,
                    tasks=family.tasks,
                    budget=budget,
                    prompts={task: self._instruction(family, task) for task in family.tasks},
                )
                log.info("%s: %s (KoboldCpp %s), family %s", info.url, info.model, info.version, family.name)
            return self._facts

    def _family_of(self, info: ServerInfo) -> Family:
        """Choose the family once for each model, because there is a warning if it is unknown."""
        key = (info.model, info.version)
        with self._lock:
            if key not in self._families:
                self._families[key] = choose_family(info, self._options.family)
            return self._families[key]

    def _budget(self, lease: Lease, family: Family) -> ImageBudget:
        return ImageBudget(
            max_side_px=min(family.max_side_px, self._eyesight.visionmaxres_px(lease, family)),
            max_pixels=family.max_pixels,
            min_px_per_inch=family.min_px_per_inch,
        )

    def _instruction(self, family: Family, task: str) -> str:
        options = self._options
        return family.instruction(
            task, wording=options.wordings.get(task), hint=options.hint, language=options.language
        )

    def read(self, job: PageJob) -> Mapping[str, TaskOutcome]:
        """Ask all tasks of one page back to back on one server; see `Engine.read`.

        Where the server is lost, the remaining tasks go on with the next one, or with the same one if it answers again;
        if every server breaks off, the error is the page's. Where the server answers with nonsense, or did not see the
        image, another one is asked, if there is any. Where no server answers, the pool ends the run.
        """
        self.prepare(job.cancel)
        if job.images.is_coarse:
            log.warning(
                "%s page %d: its print is so small that even %d tiles do not make it as large as it should be; "
                "a model that takes larger images reads it better",
                *(job.source, job.page_number, len(job.images.tiles)),
            )
        urls = self._pool.urls
        outcomes: dict[str, TaskOutcome] = {}
        finished_tiles: dict[int, Reading] = {}
        spent: set[str] = set()
        failure: KoboldReaderError | None = None
        for _ in range(len(urls) + 1):
            todo = [task for task in job.tasks if task not in outcomes or outcomes[task] is failure]
            try:
                with self._pool.lease(cancel=job.cancel, vision=True, exclude=spent) as lease:
                    has_others = len(urls) > len(spent) + 1
                    failure = self._ask_server(lease, job, todo, outcomes, finished_tiles, has_others=has_others)
            except NoServerAvailableError:
                if not spent:
                    raise
                break  # the servers left cannot be asked; the outcomes of the others count
            if failure is None:
                break
            if not _is_lost(failure):
                spent.add(lease.info.url)
            has_waited_enough = len(urls) == 1 and isinstance(failure, ServerBusyError | ServerHungError)
            if has_waited_enough or len(spent) == len(urls):
                break
        return {task: outcomes[task] for task in job.tasks}

    def _ask_server(
        self,
        lease: Lease,
        job: PageJob,
        todo: Sequence[str],
        outcomes: dict[str, TaskOutcome],
        finished_tiles: dict[int, Reading],
        *,
        has_others: bool,
    ) -> KoboldReaderError | None:
        """Ask one server for some tasks of a page, and add their outcomes.

        Returns:
            The error for which another server should be asked; it is the outcome of all tasks that are left.
        """
        family = self._family_of(lease.info)
        context = PageContext(
            lease,
            family,
            job,
            time_limit_s=self._options.page_timeout_s,
            max_side_px=self._budget(lease, family).max_side_px,
            form=self._form,
            tag_form=self._tag_form,
        )
        for position, task in enumerate(todo):
            try:
                self._eyesight.ensure_vision(lease, family, time_limit_s=context.time_limit_s, cancel=job.cancel)
                instruction = self._instruction(family, task)
                if task == "ocr" and job.images.tiles and self._form is None:
                    outcomes[task] = _read_tiles(context, instruction, finished_tiles)
                else:
                    outcomes[task] = ask(context, task, instruction, job.images.views[0])
            except (TranscriptionError, ServerError) as err:
                may_move = has_others and isinstance(err, SERVERS_OWN)
                if isinstance(err, RUN_ERRORS) and not may_move:
                    raise
                outcomes[task] = err
                if isinstance(err, ImageNotSeenError) and has_others:
                    lease.fail(err)
                if may_move or _is_lost(err):
                    outcomes.update(dict.fromkeys(todo[position:], err))
                    return err
        return None

    def close(self) -> None:
        """Close the connections to all servers."""
        self._facts = None
        self._pool.close()


def _read_tiles(context: PageContext, instruction: str, finished: dict[int, Reading]) -> Reading:
    """Read a page's tiles one after another, and join their texts; errors are those of `ask`, and name the tile.

    `finished` has the tiles read before a server was lost, by number; readings are added to it.
    """
    job, model = context.job, (context.lease.info.model, context.family.name)
    tiles = job.images.tiles
    for number, tile in enumerate(tiles):
        before = finished.get(number)
        if before is not None and (before.model, before.family) == model:
            continue  # the text of a page comes from one model
        read = sum(len(finished[earlier].text) for earlier in range(number))
        tile_job = replace(job, on_progress=_counting_on(job.on_progress, read))
        try:
            finished[number] = ask(replace(context, job=tile_job), "ocr", instruction, tile)
        except (TranscriptionError, ServerError) as err:
            err.message = f"part {number + 1} of {len(tiles)} of the page: {err.message}"
            raise
    return join_readings(tiles, [finished[number] for number in range(len(tiles))])


def _counting_on(on_progress: Callable[[str, int], None] | None, read: int) -> Callable[[str, int], None] | None:
    """Return a callback that adds the characters of the tiles before."""
    return on_progress and (lambda task, characters: on_progress(task, read + characters))


def _is_lost(error: KoboldReaderError) -> bool:
    """Tell whether the server is to blame, not the page; with a time limit, another server would need as long."""
    return isinstance(error, ServerConnectionError | ServerBusyError) and not isinstance(error, ServerTimeoutError)
