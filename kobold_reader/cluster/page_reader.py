"""ClusterPageReader: gives pages to the actors of a Ray cluster, one for each server.

The rules are those of `kobold.pool`, applied here in the driver: a server that fails is left alone for a while, its
page goes to another one, and servers that have worked are waited for when all are gone. A page whose actor is lost is
given out again. Results need no order here; the transcriber keeps it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from kobold_reader.cluster.joining import LOCAL, check_installed, connect
from kobold_reader.errors import (
    ClusterError,
    ConfigError,
    ImageNotSeenError,
    KoboldReaderError,
    NoServerAvailableError,
    ServerError,
    ServerTimeoutError,
    SourceError,
)
from kobold_reader.kobold import CancelledError, RetryPolicy, ServerHealth, check_way
from kobold_reader.kobold.pool import none_left
from kobold_reader.reader import KoboldReader
from kobold_reader.reading.due import blank_reading
from kobold_reader.reading.engine import EngineFacts, TaskOutcome
from kobold_reader.reading.ledger import Ledger
from kobold_reader.reading.open_file import OpenFile
from kobold_reader.reading.page_reader import DuePage, LocalPageReader
from kobold_reader.reading.results import Reading
from kobold_reader.reading.transcriber import Transcriber

log = logging.getLogger(__name__)

PAGES_A_SERVER = 2
"""While one page is being read, the actor makes the images of the next."""
ACTOR_LIVES = 3
"""How many actors a page may lose before the run is ended."""
_LOOK_S = 0.2
_OUTAGE_LOOK_S = 5.0
_END_S = 10.0
"""How long an actor may take to abort the job on its server."""


def transcriber(reader: KoboldReader, ledger: Ledger, *, address: str = LOCAL, **more: Any) -> Transcriber:
    """Return what reads like `reader.transcriber`, on the Ray cluster at an address as `connect` takes it.

    The cluster is joined when the first page is due or `redo` asks for the model, and not at all otherwise. `more` is
    what `Transcriber` takes besides; `on_progress` hears of each task when its page is read.

    Raises:
        ConfigError: The reader asks no server.
        MissingExtraError: Ray is not installed.
    """
    if reader.engine != "koboldcpp":
        raise ConfigError(
            "A cluster is for KoboldCpp servers, an actor for each; RapidOCR reads on this machine alone.",
            hint="Leave out --ray, or --engine rapidocr.",
        )
    check_way(reader.api_urls, allow_remote=reader.allow_remote)
    check_installed()
    return Transcriber(ClusterPageReader(reader, address), ledger, reader.options, **more)


# ── on a node ─────────────────────────────────────────────────────────────────────────────────────


class NodeReader:
    """Makes the images of pages on its node, and reads them with one server; runs as an actor with several threads.

    Keeps no ledger. The file of the last page stays open for the next one, so one that is fetched from elsewhere is
    fetched once for all its pages. Errors are returned, as Ray would wrap those that are raised.

    Args:
        reader: How to read.
        url: The server.
    """

    def __init__(self, reader: KoboldReader, url: str) -> None:
        # Whether an outage is waited for is decided by the driver: there may be other servers.
        self._reader = reader.changed(api_url=url, ledger="none", outage_patience_s=0)
        options = self._reader.options
        self._pages = LocalPageReader(self._reader.make_engine(), options.rotate_deg)
        self._opened = OpenFile(Ledger(None), options.pdf_passwords)
        self._preparing = threading.Lock()
        self._asking = threading.Lock()
        self._cancel = threading.Event()

    def prepare(self) -> EngineFacts | KoboldReaderError:
        """Return what the server runs, or why it cannot be used."""
        try:
            return self._pages.prepare(self._cancel)
        except KoboldReaderError as err:
            return err

    def read(self, page: DuePage) -> Mapping[str, TaskOutcome] | KoboldReaderError:
        """Return an outcome for every due task, or why the server cannot be used."""
        try:
            with self._preparing:
                page.images = self._pages.images(self._opened, page, self._cancel)
            if page.images.is_blank:
                return {task: blank_reading(task) for task in page.due_tasks}
            with self._asking:
                return self._pages.read(page, cancel=self._cancel)
        except SourceError as err:
            return dict.fromkeys(page.due_tasks, err)
        except KoboldReaderError as err:
            return err
        except CancelledError:
            return {}

    def stop(self) -> None:
        """Abort the job that runs on the server, and read nothing more."""
        self._cancel.set()


# ── in the driver ─────────────────────────────────────────────────────────────────────────────────


class LostActorError(Exception):
    """The actor is gone, with its process or its node."""


class RayActors:
    """The actors of one cluster, which is joined here. An actor ends when no reference to it is left.

    Args:
        address: As `connect` takes it.
    """

    def __init__(self, address: str) -> None:
        self._ray = connect(address)

    def start(self, reader: KoboldReader, url: str) -> Any:
        """Start a NodeReader on some node."""
        actor = self._ray.remote(NodeReader).options(
            # It waits for its server most of the time; but Ray does not spread what asks for nothing.
            num_cpus=0.01,
            scheduling_strategy="SPREAD",
            max_concurrency=PAGES_A_SERVER + 2,  # `prepare` and `stop` beside the pages
        )
        return actor.remote(reader, url)

    def call(self, actor: Any, method: str, *arguments: Any, cancel: threading.Event | None = None) -> Any:
        """Call a method of an actor and wait for its answer.

        Raises:
            LostActorError: The actor is gone.
            ClusterError: The cluster is.
            CancelledError: `cancel` was set; the actor has aborted its job.
        """
        try:
            answer = getattr(actor, method).remote(*arguments)
            while not self._ray.wait([answer], timeout=_LOOK_S)[0]:
                if cancel is not None and cancel.is_set():
                    actor.stop.remote()
                    self._ray.wait([answer], timeout=_END_S)
                    raise CancelledError
            return self._ray.get(answer)
        except self._ray.exceptions.RayActorError as err:
            raise LostActorError(_last_line(err)) from err
        except self._ray.exceptions.RayError as err:
            raise ClusterError(
                f"The Ray cluster failed: {_last_line(err)}",
                hint="What was read is kept; the next run goes on from here.",
            ) from err


def _last_line(err: Exception) -> str:
    return str(err).strip().splitlines()[-1]


@dataclass(slots=True, eq=False)
class _ServerOfRun:
    url: str
    actor: Any = None
    free_places: int = PAGES_A_SERVER
    health: ServerHealth = field(default_factory=ServerHealth)


class ClusterPageReader:
    """Reads pages on a Ray cluster; see `PageReader`.

    Args:
        reader: How to read, and the servers as the nodes reach them.
        address: As `connect` takes it.
    """

    name = "koboldcpp"

    def __init__(self, reader: KoboldReader, address: str) -> None:
        self._reader = reader
        self._address = address
        self._policy = RetryPolicy(outage_patience_s=reader.outage_patience_s)
        self._servers = [_ServerOfRun(url) for url in dict.fromkeys(reader.api_urls)]
        self._starting = threading.Lock()
        self._actors: RayActors | None = None
        self._facts: EngineFacts | None = None
        self._changed = threading.Condition()
        """Of what follows, and of the servers."""
        self._outage_since_s: float | None = None

    @property
    def parallel(self) -> int:
        """The pages that all actors together can have in hand."""
        return PAGES_A_SERVER * len(self._servers)

    def images(self, *_: object) -> None:
        """Make no images here: an actor does."""

    def prepare(self, cancel: threading.Event | None = None) -> EngineFacts:
        """Join the cluster and ask every server what it runs; see `PageReader.prepare`.

        Raises:
            ClusterError: The cluster cannot be joined, or was lost.
            ConfigError: The servers run different models.
            NoServerAvailableError: None of them can be used.
        """
        with self._starting:
            if self._facts is None:
                self._actors = RayActors(self._address)
                with ThreadPoolExecutor(len(self._servers), thread_name_prefix="kobold-reader-actors") as threads:
                    answers = list(
                        threads.map(lambda server: self._call(server, "prepare", cancel=cancel), self._servers)
                    )
                self._facts = self._common_facts(answers)
            return self._facts

    def _common_facts(self, answers: list[EngineFacts | KoboldReaderError]) -> EngineFacts:
        facts: dict[str, EngineFacts] = {}
        failures: dict[str, KoboldReaderError] = {}
        for server, answer in zip(self._servers, answers, strict=True):
            if isinstance(answer, EngineFacts):
                server.health = replace(server.health, has_worked=True)
                facts[server.url] = answer
            elif isinstance(answer, ServerError):
                failures[server.url] = _own_error(answer)
                self._note_failure(server, failures[server.url])
            else:
                raise answer
        if not facts:
            raise none_left(failures)
        if len({each.model for each in facts.values()}) > 1:
            models = ", ".join(f"{url} {each.model}" for url, each in facts.items())
            raise ConfigError(
                f"The servers run different models: {models}.",
                hint="Start all with the same model, or use only one of them.",
            )
        return next(iter(facts.values()))

    def read(
        self,
        page: DuePage,
        on_progress: Callable[[str, int], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> Mapping[str, TaskOutcome]:
        """Have an actor read the page, and another one what a server failed to read; see `PageReader.read`."""
        self.prepare(cancel)
        outcomes: dict[str, TaskOutcome] = {}
        failures: dict[str, KoboldReaderError] = {}
        """Of the servers that had their chance with this page."""
        while True:
            todo = tuple(task for task in page.due_tasks if _is_servers_fault(outcomes.get(task)))
            if not todo:
                break
            server = self._take(failures, cancel)
            if server is None:
                if outcomes.keys() >= set(todo):
                    break  # every server was asked, and what they answered is the page's error now
                self._wait_for_servers(failures, cancel)
                failures.clear()
                continue
            try:
                failure = self._read_with(server, replace(page, due_tasks=todo, readings={}), outcomes, cancel)
                if failure is None:
                    self._note_success(server)
                else:
                    self._note_failure(server, failure)
                    failures[server.url] = failure
            finally:
                self._give_back(server)
        if on_progress:
            for task, outcome in outcomes.items():
                on_progress(task, len(outcome.text) if isinstance(outcome, Reading) else 0)
        return outcomes

    def _read_with(
        self, server: _ServerOfRun, page: DuePage, outcomes: dict[str, TaskOutcome], cancel: threading.Event | None
    ) -> KoboldReaderError | None:
        """Add what the server's actor read to the outcomes; return why another server is to be asked."""
        answer = self._call(server, "read", page, cancel=cancel)
        if isinstance(answer, ServerError):
            return _own_error(answer)
        if isinstance(answer, KoboldReaderError):
            raise answer
        assert self._facts is not None  # noqa: S101  (`read` prepared it)
        failure: KoboldReaderError | None = None
        for outcome in answer.values():
            if isinstance(outcome, KoboldReaderError):
                failure = failure or (outcome if _is_servers_fault(outcome) else None)
            elif outcome.model not in {None, self._facts.model} and len(self._servers) > 1:
                return ServerError(
                    f"The servers run different models: the others {self._facts.model}, {server.url} {outcome.model}.",
                    server=server.url,
                    hint="It is left out until it runs the same again.",
                )
        outcomes |= answer
        return failure

    def _call(self, server: _ServerOfRun, method: str, *arguments: Any, cancel: threading.Event | None) -> Any:
        """Call a method of the server's actor; where the actor is lost, start another one and call that."""
        assert self._actors is not None  # noqa: S101  (`prepare` made it)
        lost: LostActorError | None = None
        for _ in range(ACTOR_LIVES):
            with self._changed:
                if server.actor is None:
                    server.actor = self._actors.start(self._reader, server.url)
                actor = server.actor
            try:
                return self._actors.call(actor, method, *arguments, cancel=cancel)
            except LostActorError as err:
                lost = err
                log.warning("The actor for %s was lost (%s); another one is started.", server.url, err)
                with self._changed:
                    if server.actor is actor:
                        server.actor = None
        raise ClusterError(
            f"The actor for {server.url} was lost {ACTOR_LIVES} times: {lost}",
            server=server.url,
            hint="What was read is kept; the next run goes on from here.",
        )

    # ── servers ──────────────────────────────────────────────────────────────────────────────────

    def _take(self, exclude: Collection[str], cancel: threading.Event | None) -> _ServerOfRun | None:
        """Wait for a place on a server; None: no server is left to be asked.

        Raises:
            CancelledError: `cancel` was set.
        """
        with self._changed:
            while True:
                if cancel is not None and cancel.is_set():
                    raise CancelledError
                left = [server for server in self._servers if server.url not in exclude]
                if not left:
                    return None
                now_s = time.monotonic()
                # Servers that failed lately come last, but they come: there may be no other.
                usable = [server for server in left if not server.health.is_quarantined(now_s)] or left
                server = max(usable, key=lambda server: server.free_places)
                if server.free_places:
                    server.free_places -= 1
                    return server
                self._changed.wait(_LOOK_S)

    def _give_back(self, server: _ServerOfRun) -> None:
        with self._changed:
            server.free_places += 1
            self._changed.notify_all()

    def _note_success(self, server: _ServerOfRun) -> None:
        with self._changed:
            if server.health.failures and len(self._servers) > 1:
                log.warning("%s works again.", server.url)
            server.health = server.health.after_success()
            self._outage_since_s = None

    def _note_failure(self, server: _ServerOfRun, error: KoboldReaderError) -> None:
        with self._changed:
            server.health = server.health.after_failure(error, self._policy, time.monotonic())
            if server.health.failures == 1 and len(self._servers) > 1:
                log.warning("%s The other servers go on.", error)

    def _wait_for_servers(self, failures: Mapping[str, KoboldReaderError], cancel: threading.Event | None) -> None:
        """Wait a while now that all servers failed.

        Raises:
            NoServerAvailableError: None has worked before, or they were waited for long enough.
            CancelledError: `cancel` was set.
        """
        with self._changed:
            now_s = time.monotonic()
            is_new = self._outage_since_s is None
            since_s = self._outage_since_s = now_s if self._outage_since_s is None else self._outage_since_s
            left_s = self._policy.outage_patience_s - (now_s - since_s)
            if left_s <= 0 or not any(server.health.may_return for server in self._servers):
                raise none_left(failures)
        if is_new:
            reasons = " ".join(map(str, failures.values()))
            log.warning("%s Waiting up to %.0f s for a server to come back.", reasons, left_s)
        if (cancel or threading.Event()).wait(min(_OUTAGE_LOOK_S, left_s)):
            raise CancelledError


def _own_error(error: ServerError) -> KoboldReaderError:
    """Return the server's own error in place of an actor's remark that its only server cannot be used."""
    return next(iter(error.errors.values()), error) if isinstance(error, NoServerAvailableError) else error


def _is_servers_fault(outcome: TaskOutcome | None) -> bool:
    """Tell whether another server should be asked: not where the time limit was the user's."""
    return outcome is None or (
        isinstance(outcome, ServerError | ImageNotSeenError) and not isinstance(outcome, ServerTimeoutError)
    )
