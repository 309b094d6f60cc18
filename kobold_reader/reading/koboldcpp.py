"""KoboldEngine: reads pages with the vision model that KoboldCpp runs.

Which server, which family, which views for which task; the conversation about one view is `asking`'s. A page whose
server is lost goes on with the next one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Final

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
from kobold_reader.pages import ImageBudget
from kobold_reader.reading.asking import ENGINE_NAME, Asking, ask
from kobold_reader.reading.engine import EngineFacts, PageJob, TaskOutcome
from kobold_reader.reading.records import RecordForm
from kobold_reader.reading.results import Reading
from kobold_reader.reading.selftest import DEFAULT_VISIONMAXRES_PX, Eyesight
from kobold_reader.reading.tilewise import read_tiles
from kobold_reader.release import RELEASE

__all__ = ["DEFAULT_VISIONMAXRES_PX", "KoboldEngine"]

log = logging.getLogger(__name__)

PAGE_ERRORS: Final = (TranscriptionError, ServerError)
"""What befalls one page …"""
RUN_ERRORS: Final = (NoServerAvailableError, AuthenticationError, NoVisionModelError)
"""… but for these: no page could be read, so they end the run."""
SERVERS_OWN: Final = (
    AuthenticationError,
    NoVisionModelError,
    ResponseFormatError,
    ContextTooSmallError,
    ImageNotSeenError,
)
"""What one server answers and another one may not: with several, the page goes there."""


class KoboldEngine:
    """Reads pages through the servers of a pool.

    Args:
        pool: One lease holds one server for one page.
        family: Name of the model family; None: chosen by the model's name.
        prompts: Wording by task in place of the family's.
        hint: What the user knows of the pages ("Swedish letters, about 1900"), added to every instruction.
        visionmaxres: What the server was started with, in px; None: what its self-test found out, else the default.
        page_timeout_s: Limit for one request; None: none.
        form: What answers to `ocr` must be, in place of a text; each page is then asked as a whole.
    """

    name = ENGINE_NAME

    def __init__(
        self,
        pool: ServerPool,
        *,
        family: str | None = None,
        prompts: Mapping[str, str] | None = None,
        hint: str | None = None,
        visionmaxres: int | None = None,
        page_timeout_s: float | None = None,
        form: RecordForm | None = None,
    ) -> None:
        self._pool = pool
        self._form = form
        self._family = family
        self._prompts = dict(prompts or {})
        self._hint = hint
        self._eyesight = Eyesight(visionmaxres)
        self._page_timeout_s = page_timeout_s
        self._lock = threading.RLock()
        """Of what follows; pages are read without it."""
        self._facts: EngineFacts | None = None
        self._families: dict[tuple[str, str], Family] = {}

    @property
    def parallel(self) -> int:
        """One page a server."""
        return len(self._pool.urls)

    def _family_of(self, info: ServerInfo) -> Family:
        """Choose the family once for each model: an unknown one is warned of once."""
        key = (info.model, info.version)
        with self._lock:
            if key not in self._families:
                self._families[key] = choose_family(info, self._family)
            return self._families[key]

    def prepare(self, cancel: threading.Event | None = None) -> EngineFacts:
        """Find a server with vision and the family of its model; see `Engine.prepare`."""
        with self._lock:
            if self._facts is None:
                self._pool.compare()
                with self._pool.lease(cancel=cancel, vision=True) as lease:
                    info = lease.info
                    visionmaxres_px = self._eyesight.visionmaxres_px(lease, info)
                family = self._family_of(info)
                self._facts = EngineFacts(
                    name=self.name,
                    model=info.model,
                    family=family.name,
                    tasks=family.tasks,
                    budget=self._budget(family, visionmaxres_px),
                    release=RELEASE,
                    server_version=info.version,
                    prompts={task: self._instruction(family, task) for task in family.tasks},
                )
                log.info("%s: %s (KoboldCpp %s), family %s", info.url, info.model, info.version, family.name)
            return self._facts

    @staticmethod
    def _budget(family: Family, visionmaxres_px: int) -> ImageBudget:
        return ImageBudget(
            max_side_px=min(family.max_side_px, visionmaxres_px),
            max_pixels=family.max_pixels,
            min_px_per_inch=family.min_px_per_inch,
        )

    def _instruction(self, family: Family, task: str) -> str:
        return family.instruction(task, wording=self._prompts.get(task), hint=self._hint)

    def read(self, job: PageJob) -> Mapping[str, TaskOutcome]:
        """Ask all tasks of one page back to back on one server; see `Engine.read`.

        A page that is cut is read tile by tile; a caption is asked of the whole page.

        Where the server is lost, the tasks that are left go on with the next one, or with the same one if it answers
        again; a page that every server broke off is that page's error. Where the server answers, but with nonsense or
        without having seen the image, one of the others is asked, if there is any. Where none answers, the pool ends
        the run.
        """
        self.prepare(job.cancel)
        urls = self._pool.urls
        outcomes: dict[str, TaskOutcome] = {}
        finished: dict[int, Reading] = {}
        spent: set[str] = set()
        failure: KoboldReaderError | None = None
        if job.images.is_coarse:
            log.warning(
                "%s page %d: its print is so small that even %d tiles do not make it as large as it should be; "
                "a model that takes larger images reads it better",
                job.source,
                job.page_number,
                len(job.images.tiles),
            )
        for _ in range(len(urls) + 1):
            todo = [task for task in job.tasks if task not in outcomes or outcomes[task] is failure]
            try:
                with self._pool.lease(cancel=job.cancel, vision=True, exclude=spent) as lease:
                    has_others = len(urls) > len(spent) + 1
                    failure = self._read_with(lease, job, todo, outcomes, finished, has_others=has_others)
            except NoServerAvailableError:
                if not spent:
                    raise
                break  # who has not been asked cannot be; what the others answered stands
            if failure is None:
                break
            if not _is_lost(failure):
                spent.add(lease.info.url)
            has_waited_enough = isinstance(failure, ServerBusyError | ServerHungError) and len(urls) == 1
            if has_waited_enough or len(spent) == len(urls):
                break
        return {task: outcomes[task] for task in job.tasks}

    def _read_with(
        self,
        lease: Lease,
        job: PageJob,
        todo: Sequence[str],
        outcomes: dict[str, TaskOutcome],
        finished: dict[int, Reading],
        *,
        has_others: bool,
    ) -> KoboldReaderError | None:
        """Ask one server for some tasks of a page.

        Returns:
            Why the rest is to be asked of another server, as the outcome of all that is left; None: it was all asked.
        """
        info = lease.info
        family = self._family_of(info)
        asking = Asking(
            lease,
            info,
            family,
            job,
            time_limit_s=self._page_timeout_s,
            max_side_px=self._budget(family, self._eyesight.visionmaxres_px(lease, info)).max_side_px,
            form=self._form,
        )
        for position, task in enumerate(todo):
            try:
                self._eyesight.ensure_vision(lease, info, family, time_limit_s=self._page_timeout_s, cancel=job.cancel)
                instruction = self._instruction(family, task)
                if task == "ocr" and job.images.tiles and self._form is None:
                    outcomes[task] = read_tiles(asking, instruction, finished)
                else:
                    outcomes[task] = ask(asking, task, instruction, job.images.views[0])
            except PAGE_ERRORS as err:
                if isinstance(err, RUN_ERRORS) and not (has_others and isinstance(err, SERVERS_OWN)):
                    raise
                outcomes[task] = err
                if isinstance(err, ImageNotSeenError) and has_others:
                    lease.fail(err)
                if _is_lost(err) or (has_others and isinstance(err, SERVERS_OWN)):
                    outcomes.update(dict.fromkeys(todo[position:], err))
                    return err
        return None

    def close(self) -> None:
        """Close the connections to all servers."""
        self._facts = None
        self._pool.close()


def _is_lost(outcome: TaskOutcome) -> bool:
    """Tell whether no answer came though the request was sent again: the server is to blame, not the page.

    A time limit is not that: another server would need as long.
    """
    return isinstance(outcome, ServerConnectionError | ServerBusyError) and not isinstance(outcome, ServerTimeoutError)
