"""Reading on a Ray cluster: an actor for each server prepares pages on a node and has them read.

The driver decides what is due, gives out one page at a time, and alone writes the ledger, so a lost actor costs only
the pages that it was reading. Importing this is cheap; Ray is imported when the first page is due.

The rules for servers are those of `kobold.pool`: a server that fails is left alone for a while and its page goes to
another one; when all are gone, the driver waits for those that have worked. The transcriber restores the pages' order.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, islice
from typing import Any

from kobold_reader.errors import (
    ClusterError,
    ConfigError,
    ImageNotSeenError,
    KoboldReaderError,
    MissingExtraError,
    NoServerAvailableError,
    ServerError,
    ServerTimeoutError,
    SourceError,
    reason,
)
from kobold_reader.kobold import RetryPolicy, ServerHealth, check_way
from kobold_reader.kobold.pool import none_left
from kobold_reader.options import ReadOptions
from kobold_reader.pages import as_uri
from kobold_reader.reader import KoboldReader
from kobold_reader.reading.due import blank_reading
from kobold_reader.reading.ledger import Ledger
from kobold_reader.reading.open_file import OpenFile
from kobold_reader.reading.page_reader import DuePage, EngineFacts, LocalPageReader, TaskOutcome
from kobold_reader.reading.results import PageResult, Reading
from kobold_reader.reading.transcriber import Transcriber
from kobold_reader.session import Paths, ReadSession, take

log = logging.getLogger(__name__)

PAGES_A_SERVER = 2
"""While one page is being read, the actor makes the images of the next."""
ACTOR_LIVES = 3
"""How many actors a page may lose before the run is ended."""
_KEPT_HINT = "What was read is kept; the next run continues from here."
_LOOK_S = 0.2
"""How often a wait looks whether the run was cancelled."""
LOCAL = "local"
"""The address of a cluster that is started on this machine for this process."""
AUTO = "auto"
"""The address of the cluster that runs on this machine."""
ANSWERS_WITHIN_S = 10.0


# ── joining a cluster ────────────────────────────────────────────────────────────────────────────


def check_installed() -> None:
    """Raise MissingExtraError where Ray is missing; do not import it, as that takes seconds."""
    if not all(importlib.util.find_spec(name) for name in ("ray", "pyarrow")):
        raise MissingExtraError("ray", "Reading on a Ray cluster")


def connect(address: str = LOCAL) -> Any:
    """Join the cluster at `address` unless this process has joined one already; returns the module `ray`.

    Args:
        address: `local` starts one on this machine, for this process; `auto` joins the one that runs here;
            `HOST:6379` or `ray://HOST:10001` one elsewhere.

    Raises:
        MissingExtraError: Ray is not installed.
        ClusterError: No cluster answers there.
    """
    check_installed()
    if address not in {LOCAL, AUTO}:
        _check_answers(address)
    # Set before the first import. A cluster that is started here sends no usage reports.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its warnings are in its own log files
    import ray

    logging.getLogger("ray._private.worker").setLevel(logging.ERROR)  # it reports every step on the console
    if ray.is_initialized():
        return ray
    options = {"address": address, "log_to_driver": False, "configure_logging": False}
    if address == LOCAL:
        options["include_dashboard"] = False
    joined: Future[None] = Future()
    threading.Thread(target=_join, args=(ray, options, joined), name="kobold-reader-ray", daemon=True).start()
    try:
        joined.result()
    except (ConnectionError, OSError, RuntimeError, ValueError, TimeoutError) as err:
        raise ClusterError(
            f"The Ray cluster at {address!r} cannot be joined: {err}.",
            hint="`ray start --head` starts one; 'local' starts one for this run alone.",
        ) from err
    return ray


def _check_answers(address: str) -> None:
    """Raise ClusterError if nothing answers there; Ray itself would try for many minutes without a word of why."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWERS_WITHIN_S).close()
    except (OSError, ValueError) as err:
        raise ClusterError(
            f"No Ray cluster answers at {address!r} ({reason(err) if isinstance(err, OSError) else 'it has no port'}).",
            hint="Write HOST:6379, with the address that `ray start --head` shows there.",
        ) from err


def _join(ray: Any, options: dict[str, Any], joined: Future[None]) -> None:
    """Join in this thread, which then lives for as long as the cluster is joined.

    On Linux the processes of a local cluster end with the thread that started them. In the main thread Ray would take
    over SIGTERM, which has to abort the jobs that run on the servers.
    """
    try:
        ray.init(**options)
    except BaseException as err:  # noqa: BLE001  (raised in the thread that waits)
        joined.set_exception(err)
        return
    joined.set_result(None)
    while ray.is_initialized():
        time.sleep(1)


@contextmanager
def session() -> Iterator[None]:
    """Leave the cluster at the end, if it was joined meanwhile.

    Raises:
        MissingExtraError: Ray is not installed.
    """
    check_installed()

    def has_joined() -> bool:
        return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())

    had_joined = has_joined()
    try:
        yield
    finally:
        if not had_joined and has_joined():
            sys.modules["ray"].shutdown()


# ── on a node ────────────────────────────────────────────────────────────────────────────────────


class NodeReader:
    """Makes the images of pages on its node, and reads them with one server; runs as an actor with several threads.

    Keeps no ledger. The file of the last page stays open for the next one, so one that is fetched from elsewhere is
    fetched once for all its pages. Errors are returned, as Ray would wrap those that are raised.
    """

    def __init__(self, options: ReadOptions, url: str) -> None:
        # The driver decides whether to wait for a server that is gone: there may be others.
        session = ReadSession(replace(options, api_url=(url,), ledger="none", outage_patience_s=0.0))
        self._pages = LocalPageReader(session.engine(), options.rotate_deg)
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


# ── in the driver ────────────────────────────────────────────────────────────────────────────────


def transcriber(session: ReadSession, ledger: Ledger, *, address: str = LOCAL, **more: Any) -> Transcriber:
    """Return the counterpart of `ReadSession.transcriber` for the Ray cluster at an address (see `connect`).

    The cluster is joined when the first page is due or `redo` asks for the model, and not at all otherwise. `more` are
    further arguments of `Transcriber`; `on_progress` is called for each task when its page was read.

    Raises:
        ConfigError: The session asks no server.
        MissingExtraError: Ray is not installed.
    """
    options = session.options
    if options.engine != "koboldcpp":
        raise ConfigError(
            "A cluster is for KoboldCpp servers, an actor for each; RapidOCR reads on this machine alone.",
            hint="Leave out --ray, or --engine rapidocr.",
        )
    check_way(options.api_url, allow_remote=options.allow_remote)
    check_installed()
    return Transcriber(ClusterPageReader(options, address), ledger, options, **more)


class LostActorError(Exception):
    """The actor is gone, with its process or its node."""


class RayActors:
    """The actors of the cluster at an address, which is joined here. An actor ends when no reference to it is left."""

    def __init__(self, address: str) -> None:
        self._ray = connect(address)

    def start(self, options: ReadOptions, url: str) -> Any:
        """Start a NodeReader on some node."""
        actor = self._ray.remote(NodeReader).options(
            # It waits for its server most of the time, but Ray does not spread actors that ask for no CPU.
            num_cpus=0.01,
            scheduling_strategy="SPREAD",
            max_concurrency=PAGES_A_SERVER + 2,  # `prepare` and `stop` beside the pages
        )
        return actor.remote(options, url)

    def call(self, actor: Any, method: str, *arguments: Any, cancel: threading.Event | None = None) -> Any:
        """Call a method of an actor and wait for its answer.

        Raises:
            LostActorError: The actor is gone.
            ClusterError: The cluster is gone.
            CancelledError: `cancel` was set; the actor has aborted its job.
        """
        try:
            answer = getattr(actor, method).remote(*arguments)
            while not self._ray.wait([answer], timeout=_LOOK_S)[0]:
                if cancel is not None and cancel.is_set():
                    actor.stop.remote()
                    self._ray.wait([answer], timeout=10)  # while it aborts the job on its server
                    raise CancelledError
            return self._ray.get(answer)
        except self._ray.exceptions.RayActorError as err:
            raise LostActorError(_last_line(err)) from err
        except self._ray.exceptions.RayError as err:
            raise ClusterError(
                f"The Ray cluster failed: {_last_line(err)}",
                hint=_KEPT_HINT,
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
    """The `PageReader` of a Ray cluster; the servers are named as the nodes reach them."""

    def __init__(self, options: ReadOptions, address: str) -> None:
        self._options = options
        self._address = address
        self._policy = RetryPolicy(outage_patience_s=options.outage_patience_s)
        self._servers = [_ServerOfRun(url) for url in dict.fromkeys(options.api_url)]
        self._starting = threading.Lock()
        self._actors: RayActors | None = None
        self._facts: EngineFacts | None = None
        self._changed = threading.Condition()
        """Guards the servers, and the start of the outage."""
        self._outage_since_s: float | None = None

    @property
    def parallel(self) -> int:
        """Pages that all actors together work on at once."""
        return PAGES_A_SERVER * len(self._servers)

    def images(self, *_: object) -> None:
        """Make no images here: the actor makes them."""

    def prepare(self, cancel: threading.Event | None = None) -> EngineFacts:
        """Join the cluster and ask each server what it runs, which must be one model; see `PageReader.prepare`."""
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
        """By URL, of the servers that were asked for this page."""
        while todo := tuple(task for task in page.due_tasks if _is_servers_fault(outcomes.get(task))):
            server = self._take(failures, cancel)
            if server is None:
                if outcomes.keys() >= set(todo):
                    break  # every server was asked, and their last answer is the page's error
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
                with self._changed:
                    server.free_places += 1
                    self._changed.notify_all()
        if on_progress:
            for task, outcome in outcomes.items():
                on_progress(task, len(outcome.text) if isinstance(outcome, Reading) else 0)
        return outcomes

    def _read_with(
        self, server: _ServerOfRun, page: DuePage, outcomes: dict[str, TaskOutcome], cancel: threading.Event | None
    ) -> KoboldReaderError | None:
        """Add what the server's actor read to the outcomes; return why another server has to be asked."""
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
        """Call a method of the server's actor; if the actor is lost, start another one and call that."""
        assert self._actors is not None  # noqa: S101  (`prepare` made it)
        lost: LostActorError | None = None
        for _ in range(ACTOR_LIVES):
            with self._changed:
                if server.actor is None:
                    server.actor = self._actors.start(self._options, server.url)
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
            hint=_KEPT_HINT,
        )

    # ── servers ──────────────────────────────────────────────────────────────────────────────────

    def _take(self, exclude: Collection[str], cancel: threading.Event | None) -> _ServerOfRun | None:
        """Wait for a place on a server; None: no server is left to be asked."""
        with self._changed:
            while True:
                if cancel is not None and cancel.is_set():
                    raise CancelledError
                left = [server for server in self._servers if server.url not in exclude]
                if not left:
                    return None
                now_s = time.monotonic()
                # Servers that failed lately come last: there may be no other.
                usable = [server for server in left if not server.health.is_quarantined(now_s)] or left
                server = max(usable, key=lambda server: server.free_places)
                if server.free_places:
                    server.free_places -= 1
                    return server
                self._changed.wait(_LOOK_S)

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
        """Wait a while after all servers failed; raise if none has worked before, or the patience is at its end."""
        with self._changed:
            now_s = time.monotonic()
            if is_new := self._outage_since_s is None:
                self._outage_since_s = now_s
            left_s = self._policy.outage_patience_s - (now_s - (self._outage_since_s or now_s))
            if left_s <= 0 or not any(server.health.may_return for server in self._servers):
                raise none_left(failures)
        if is_new:
            reasons = " ".join(map(str, failures.values()))
            log.warning("%s Waiting up to %.0f s for a server to come back.", reasons, left_s)
        if (cancel or threading.Event()).wait(min(5, left_s)):
            raise CancelledError


def _own_error(error: ServerError) -> KoboldReaderError:
    """Return the server's own error where an actor reports that its only server cannot be used."""
    return next(iter(error.errors.values()), error) if isinstance(error, NoServerAvailableError) else error


def _is_servers_fault(outcome: TaskOutcome | None) -> bool:
    """Tell whether another server should be asked: not after a timeout, as the limit is the user's."""
    return outcome is None or (
        isinstance(outcome, ServerError | ImageNotSeenError) and not isinstance(outcome, ServerTimeoutError)
    )


# ── pages as rows of a dataset ───────────────────────────────────────────────────────────────────


BLOCK_ROWS = 256
COLUMNS: dict[str, str] = {
    **dict.fromkeys(("uri", "file_name", "folder"), "string"),
    "page_number": "int32",
    "page_label": "string",
    "total_pages": "int32",
    **dict.fromkeys(("file_sha256", "content_sha256", "page_status", "text", "ocr", "caption", "tags"), "string"),
    "model": "string",
    "confidence": "float64",
    **dict.fromkeys(("failed_tasks", "page_error", "error_kind"), "string"),
    "is_kept": "bool",
    **dict.fromkeys(("metadata", "readings"), "string"),
}
"""Name and Arrow type of each column; a page without a value holds null. `metadata` and `readings` are JSON."""


def page_row(result: PageResult) -> dict[str, Any]:
    """Return a page as a row."""
    readings = result.readings
    first = readings.get(result.tasks[0])
    error = result.error or next(iter(result.errors.values()), None)
    return {
        "uri": result.source.uri,
        "file_name": result.source.name,
        "folder": result.source.folder,
        "page_number": result.page_number,
        "page_label": result.page_label,
        "total_pages": result.total_pages,
        "file_sha256": result.file_sha256 or None,
        "content_sha256": result.content_sha256 or None,
        "page_status": result.status,
        "text": result.text,
        **{task: readings[task].text if task in readings else None for task in ("ocr", "caption", "tags")},
        "model": first.model if first else None,
        "confidence": first.confidence if first else None,
        "failed_tasks": ",".join(result.failed_tasks) or None,
        "page_error": str(error) if error else None,
        "error_kind": type(error).__name__ if error else None,
        "is_kept": result.is_kept,
        "metadata": _json({**result.metadata, **result.beside}),
        "readings": _json({task: asdict(reading) for task, reading in readings.items()}),
    }


def error_row(error: KoboldReaderError) -> dict[str, Any]:
    """Return the row of a file or folder that could not be looked at."""
    return {
        **dict.fromkeys(COLUMNS),
        **dict.fromkeys(("page_number", "total_pages"), 0),
        "uri": as_uri(str(error.source)),
        "page_status": "failed",
        "text": "",
        "page_error": str(error),
        "error_kind": type(error).__name__,
        "is_kept": False,
        "metadata": "{}",
        "readings": "{}",
    }


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=dict)


def read_pages(
    paths: Paths,
    servers: str | Sequence[str],
    *,
    reader: KoboldReader | None = None,
    address: str = LOCAL,
    fs: Any = None,
    cancel: threading.Event | None = None,
) -> Any:
    """Read pages on a Ray cluster; return all of them, kept ones too, as a `ray.data.Dataset` in page order.

    Everything is read before it returns, because only this process writes the ledger: each page is recorded as it comes
    in, and the next call goes on after a call that was killed. Each page, failed ones too, is a row with the columns of
    `kobold_reader.cluster.COLUMNS`; a file that could not be opened is a row with page number 0. The rows are kept in
    the cluster, which stays joined: `.write_parquet(…)`, `.to_pandas()`.

    Args:
        paths: A file, a folder, a pattern, or a list of them; every node has to see local ones under the same path.
        servers: KoboldCpp servers, all with the same model, as the nodes reach them.
        reader: Everything else; its own servers are not asked.
        address: `local` starts a cluster on this machine, `auto` joins the one that runs here, `HOST:6379` another.
        fs: An fsspec filesystem that the paths belong to.
        cancel: Set by another thread to stop.

    Raises:
        SourceError: Nothing could be taken from `paths`.
        ServerError: No server can be used, or the cluster cannot; what was read before is kept in the ledger.
        MissingExtraError: Ray is not installed.
    """
    connect(address)
    import pyarrow as pa
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it reports every step on the console
    # Named, or a column of nulls would have no type.
    schema = pa.schema([pa.field(name, pa.type_for_alias(kind)) for name, kind in COLUMNS.items()])
    selection = take(paths, fs)
    urls = [servers] if isinstance(servers, str) else list(servers)
    with (
        (reader or KoboldReader()).changed(api_url=urls) as own,
        own.open_ledger() as ledger,
        closing(transcriber(own.session, ledger, address=address, cancel=cancel).run(selection.files)) as run,
    ):
        rows = chain(map(error_row, selection.errors), map(page_row, run))
        batches = iter(lambda: list(islice(rows, BLOCK_ROWS)), [])
        blocks = [ray.put(pa.Table.from_pylist(batch, schema=schema)) for batch in batches]
    return ray.data.from_arrow_refs(blocks or [ray.put(schema.empty_table())])
