"""Several servers, leased one page at a time; requests that failed are sent again here.

A lease holds one server for one page, in this process and, by a file lock, on this machine. KoboldCpp generates one
thing at a time and keeps no more than the last image encoded, so two pages at once on one server would throw each
other's image out. Each page takes a free server, so a fast server reads more pages. A server that fails is left alone
for a while, longer each time, and is then tried with one page.
"""

from __future__ import annotations

import hashlib
import logging
import random as _random
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self, TypeVar

from filelock import FileLock, Timeout
from typing_extensions import override

from kobold_reader.errors import (
    AuthenticationError,
    ConfigError,
    KoboldReaderError,
    NoServerAvailableError,
    NoVisionModelError,
    ResponseFormatError,
    ServerBusyError,
    ServerChangedError,
    ServerConnectionError,
    ServerError,
    ServerHungError,
    ServerTimeoutError,
    reason,
)
from kobold_reader.files import user_data_folder
from kobold_reader.kobold.addresses import server_key
from kobold_reader.kobold.client import KoboldClient
from kobold_reader.kobold.protocol import Completion, GenerateRequest, ServerInfo, no_vision_error

log = logging.getLogger(__name__)

OWN_LOCK_WAIT_S = 0.06
"""KoboldCpp stays locked for 50 ms after an answer (measured on 1.76 and 1.115.1)."""
TURN_POLL_S = 0.1
"""Between two looks whether a server has become free."""
CANCEL_POLL_S = 0.5

T = TypeVar("T")


# ── when to try again ─────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently one server is asked the same. All times are in seconds."""

    attempts: int = 4
    """Requests in all, the first included, while the connection fails."""
    base_s: float = 1.0
    """Wait after the first failure; it doubles with each one."""
    cap_s: float = 30.0
    """Longest wait, unless the server asks for more."""
    jitter: float = 0.25
    """Share of a wait that is left to chance, so that several clients do not ask in step."""
    busy_patience_s: float = 1800.0
    """How long a busy server is waited for. Busy is not a failure: another client is being served."""
    outage_patience_s: float = 0.0
    """How long a lease waits when all servers are gone that have worked before. One that restarts needs minutes to
    load its model."""
    handover_s: float = 30.0
    """How long a busy server is waited for while another one works; the page then goes there."""
    quarantine_s: float = 60.0
    """How long a server that failed is left alone while others work; it doubles with each failure in a row."""
    quarantine_cap_s: float = 600.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ConfigError(f"attempts is {self.attempts}; it must be 1 or more.")
        if not 0 <= self.jitter <= 1:
            raise ConfigError(f"jitter is {self.jitter}; it must be between 0 and 1.")
        times_s = (self.base_s, self.cap_s, self.busy_patience_s, self.outage_patience_s, self.handover_s)
        if min(*times_s, self.quarantine_s, self.quarantine_cap_s) < 0:
            raise ConfigError("The times of a RetryPolicy cannot be negative.")

    def delay_s(self, attempt: int, error: KoboldReaderError, random: Callable[[], float]) -> float:
        """Return how long to wait after the failure of an attempt (1-based).

        `random`, in [0, 1), shortens our own wait, never one that the server asked for.
        """
        own_s = min(self.cap_s, self.base_s * 2.0 ** min(attempt - 1, 60)) * (1.0 - self.jitter * random())
        asked_s = error.retry_after_s if isinstance(error, ServerBusyError) else None
        return own_s if asked_s is None else max(own_s, asked_s)

    def quarantine_of(self, failures: int) -> float:
        """Return how many seconds a server is left alone after that many failures in a row."""
        return min(self.quarantine_cap_s, self.quarantine_s * 2.0 ** min(failures - 1, 60))

    def gives_up(
        self, attempt: int, error: KoboldReaderError, busy_s: float = 0.0, *, has_others: bool = False
    ) -> bool:
        """Tell whether no further request should be sent to this server.

        After a time limit the same work would take the same time, and a server that hangs has had time enough. A
        malformed answer is tried once more only.

        Args:
            attempt: How many attempts failed, not counting those at a busy server.
            error: The last failure.
            busy_s: How long the server has been busy by now, the next wait included.
            has_others: Whether another server could do the work.
        """
        if isinstance(error, ServerBusyError):
            return busy_s > (min(self.handover_s, self.busy_patience_s) if has_others else self.busy_patience_s)
        if not error.retryable or isinstance(error, ServerTimeoutError | ServerHungError):
            return True
        return attempt >= (min(2, self.attempts) if isinstance(error, ResponseFormatError) else self.attempts)


@dataclass(frozen=True, slots=True)
class ServerHealth:
    """How one server has done so far, and until when it is left alone. Every change gives a new value."""

    has_worked: bool = False
    error: KoboldReaderError | None = None
    """The last failure; None after a success."""
    failures: int = 0
    """Failures in a row since a page last ended well; an answered request for information does not reset the count."""
    quarantined_until_s: float = 0.0
    """On the caller's clock."""

    def after_failure(self, error: KoboldReaderError, policy: RetryPolicy, now_s: float) -> ServerHealth:
        """Return the health after one more failure."""
        failures = self.failures + 1
        return ServerHealth(self.has_worked, error, failures, now_s + policy.quarantine_of(failures))

    def after_success(self) -> ServerHealth:
        """Return the health after a page that ended well."""
        return ServerHealth(has_worked=True)

    def is_quarantined(self, now_s: float) -> bool:
        """Tell whether the server is to be left alone while others work."""
        return now_s < self.quarantined_until_s

    @property
    def may_return(self) -> bool:
        """Whether a server that failed is worth waiting for: it has worked, and is only busy or gone."""
        return self.has_worked and isinstance(self.error, ServerConnectionError | ServerBusyError)


# ── one server at a time ──────────────────────────────────────────────────────────────────────────


class Turn:
    """The right to use one server, among the threads and processes of this machine. Not re-entrant.

    A file lock alone is unfair: a process that lets go and asks again at once beats all that look only now and then,
    and a second run would starve. So there are two locks: a process that waits holds the queue lock, and only the
    holder of the queue lock takes the work lock. The operating system frees both when a process is killed. `key` names
    the server in every process; `folder` is for the lock files, and is made if missing.
    """

    def __init__(self, key: str, folder: Path) -> None:
        name = hashlib.sha256(key.encode()).hexdigest()[:20]
        self._folder = folder
        self._thread = threading.Lock()
        self._queue = FileLock(folder / f"{name}.queue.lock", thread_local=False)
        self._work = FileLock(folder / f"{name}.lock", thread_local=False)

    def try_take(self) -> bool:
        """Take the turn if it is free. If not, this process may have got the place in the queue: see `leave_queue`."""
        if not self._thread.acquire(blocking=False):
            return False
        taken = False
        try:
            taken = self._try_lock(self._queue) and self._try_lock(self._work)
            if taken:
                self._queue.release()
        finally:
            if not taken:
                self._thread.release()
        return taken

    def leave_queue(self) -> None:
        """Give up the place in the queue, after taking another server or when no longer waiting."""
        if self._thread.acquire(blocking=False):
            try:
                self._queue.release(force=True)
            finally:
                self._thread.release()

    def give_back(self) -> None:
        """End the turn."""
        try:
            self._work.release(force=True)
        finally:
            self._thread.release()

    def _try_lock(self, lock: FileLock) -> bool:
        if lock.is_locked:  # held since an earlier look
            return True
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            return False
        except OSError as err:
            raise ConfigError(
                f"The folder for lock files, {self._folder}, cannot be written ({reason(err)}).",
                hint="Give another one (lock_dir).",
            ) from err
        return True


class _Server:
    """One server of the pool; `checking` is held while `info` or `health` changes."""

    def __init__(self, client: KoboldClient, lock_dir: Path) -> None:
        self.client = client
        self.turn = Turn(server_key(client.url), lock_dir)
        self.checking = threading.RLock()
        self.info: ServerInfo | None = None
        """None: to be asked for again before the server is used."""
        self.health = ServerHealth()


class Lease:
    """One server, held for one page."""

    def __init__(self, pool: ServerPool, server: _Server, info: ServerInfo) -> None:
        self.client = server.client
        """For requests that are not to be tried again."""
        self.info = info
        """What the server reported when it was checked."""
        self._pool = pool
        self._server = server

    def generate(
        self,
        request: GenerateRequest,
        *,
        time_limit_s: float | None = None,
        on_progress: Callable[[str], bool] | None = None,
        cancel: threading.Event | None = None,
    ) -> Completion:
        """As `KoboldClient.generate`, tried again where the transport failed."""
        return self.run(
            lambda client: client.generate(request, time_limit_s=time_limit_s, on_progress=on_progress, cancel=cancel),
            cancel=cancel,
        )

    def fail(self, error: KoboldReaderError) -> None:
        """Report that this server, and not the page, is the cause of an error; it is left alone for a while."""
        self._pool.note_failure(self._server, error)

    def run(self, call: Callable[[KoboldClient], T], *, cancel: threading.Event | None = None) -> T:
        """Make any request to this server, and try it again as the pool's policy says.

        Errors that a second try cannot help are raised at once. After a failure of the server the next lease checks it
        anew, and prefers others for a while.

        Raises:
            CancelledError: `cancel` was set while waiting.
            ServerChangedError: The server was restarted with other settings, so the prepared request is void.
            ServerError: The last failure.
        """
        policy, failures, busy_looks, busy_s = self._pool.policy, 0, 0, 0.0
        while True:
            try:
                return call(self.client)
            except ServerError as err:
                if isinstance(err, ServerBusyError):
                    is_own_lock = err.is_own_lock and not busy_s
                    busy_looks += not is_own_lock
                    delay_s = OWN_LOCK_WAIT_S if is_own_lock else policy.delay_s(busy_looks, err, self._pool.random)
                    busy_s += delay_s
                else:
                    failures += 1
                    delay_s = policy.delay_s(failures, err, self._pool.random)
                if policy.gives_up(failures, err, busy_s, has_others=self._pool.has_others(self._server)):
                    if err.retryable or isinstance(err, AuthenticationError):
                        self._pool.note_failure(self._server, err)
                    raise
                log.debug("%s; again in %.1f s", err, delay_s)
                has_broken = isinstance(err, ServerConnectionError)
            self._pool.wait(delay_s, cancel)
            if has_broken:
                self._pool.refuse_changed(self._server, self.info)


# ── the pool ──────────────────────────────────────────────────────────────────────────────────────


class ServerPool:
    """Leases servers; safe to use from several threads.

    Args:
        urls: One or more. Several spellings of one server count once. Earlier ones are preferred.
        password: The same for all.
        policy: When requests are tried again.
        outage_patience_s: In place of the policy's.
        lock_dir: Where processes of this machine see which server is taken; by default in the user's data folder.
        sleep: Waits that many seconds.
        clock: Monotonic seconds.
        random: Numbers in [0, 1).
        make_client: From URL to client.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        password: str | None = None,
        policy: RetryPolicy | None = None,
        outage_patience_s: float | None = None,
        lock_dir: Path | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = _random.random,
        make_client: Callable[[str], KoboldClient] | None = None,
    ) -> None:
        if isinstance(urls, str):
            urls = (urls,)
        make = make_client or (lambda url: KoboldClient(url, password=password, clock=clock))
        folder = lock_dir or user_data_folder() / "locks"
        unique = {server_key(url): url for url in reversed(urls)}
        if not unique:
            raise ConfigError("No server address was given.", hint="For example: http://127.0.0.1:5001")
        self.policy = policy or RetryPolicy()
        if outage_patience_s is not None:
            self.policy = replace(self.policy, outage_patience_s=outage_patience_s)
        self.random = random
        self._sleep = sleep
        self._clock = clock
        self._servers = [_Server(make(url), folder) for url in sorted(unique.values(), key=urls.index)]
        self._freed = threading.Condition()
        self._closed = False
        self._models = threading.Lock()
        """Held while a server's model is compared with the others' and recorded."""
        self._is_compared = False
        """Whether all servers were asked for their model. A server that changes it later is only left out."""

    @property
    def urls(self) -> tuple[str, ...]:
        """The servers, normalized, in order of preference."""
        return tuple(server.client.url for server in self._servers)

    @property
    def clients(self) -> tuple[KoboldClient, ...]:
        """One for each server, for requests that need no lease."""
        return tuple(server.client for server in self._servers)

    @override
    def __repr__(self) -> str:
        return f"ServerPool({list(self.urls)!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Grant no further leases; those that are held stay valid."""
        with self._freed:
            self._closed = True
            self._freed.notify_all()

    def compare(self) -> None:
        """Ask every server what it runs, so that different models are refused before the first page.

        A server that does not answer is left alone for now; it may come later.

        Raises:
            ConfigError: Two servers run different models.
        """
        if self._is_compared or len(self._servers) == 1:
            return
        with ThreadPoolExecutor(len(self._servers), thread_name_prefix="kobold-reader-compare") as threads:
            list(threads.map(lambda server: self._checked(server, {}), self._servers))
        self._is_compared = True

    @contextmanager
    def lease(
        self,
        *,
        cancel: threading.Event | None = None,
        vision: bool = False,
        exclude: Collection[str] = (),
        on_wait: Callable[[float], None] | None = None,
    ) -> Iterator[Lease]:
        """Hold one server; waits while all that work are taken.

        Args:
            cancel: Set by another thread to stop waiting.
            vision: Whether the server must have a projector.
            exclude: URLs of servers that were tried already. If given, unreachable servers are not waited for.
            on_wait: Called now and then while all that work are taken, with the seconds waited so far.

        Raises:
            NoServerAvailableError: No server can be used; holds the last error of each.
            NoVisionModelError: No server has a projector.
            ConfigError: Two servers run different models: the pages of one archive would be read by both, at random.
            CancelledError: `cancel` was set while waiting.
        """
        server, info = self._take(cancel, exclude, vision=vision, on_wait=on_wait)
        failures = server.health.failures
        try:
            yield Lease(self, server, info)
            if server.health.failures == failures:
                with server.checking:
                    if failures and len(self._servers) > 1:
                        log.warning("%s works again.", server.client.url)
                    server.health = server.health.after_success()
        finally:
            self._give_back(server)

    def has_others(self, server: _Server) -> bool:
        """Tell whether a server other than this one works, as far as is known."""
        now_s = self._clock()
        return any(other is not server and not other.health.is_quarantined(now_s) for other in self._servers)

    def _take(
        self,
        cancel: threading.Event | None,
        exclude: Collection[str],
        *,
        vision: bool,
        on_wait: Callable[[float], None] | None,
    ) -> tuple[_Server, ServerInfo]:
        started_s = self._clock()
        failed: dict[str, KoboldReaderError] = {}
        has_warned = False
        candidates = [server for server in self._servers if server.client.url not in exclude]
        try:
            while True:
                if self._closed:
                    raise ConfigError("This ServerPool is closed.")
                if cancel is not None and cancel.is_set():
                    raise CancelledError
                found, is_taken = self._try_each(candidates, failed, vision=vision)
                if found is not None:
                    return found
                if is_taken:
                    if on_wait is not None:
                        on_wait(self._clock() - started_s)
                    with self._freed:
                        self._freed.wait(TURN_POLL_S)
                    continue
                left_s = 0.0 if exclude else self.policy.outage_patience_s - (self._clock() - started_s)
                if left_s <= 0 or not any(server.health.may_return for server in self._servers):
                    raise none_left(failed)
                if not has_warned:
                    has_warned = True
                    why = " ".join(map(str, failed.values()))
                    log.warning("%s Waiting up to %s for a server to come back.", why, _spelled(left_s))
                self.wait(min(self.policy.cap_s, left_s), cancel)
                failed.clear()
        finally:
            for server in self._servers:
                server.turn.leave_queue()

    def _try_each(
        self, candidates: Sequence[_Server], failed: dict[str, KoboldReaderError], *, vision: bool
    ) -> tuple[tuple[_Server, ServerInfo] | None, bool]:
        """Try each server once; return the one taken, and whether to wait for one that is in use."""
        is_taken = False
        now_s = self._clock()
        # Servers that failed lately are tried last, but they are tried: there may be no other.
        for server in sorted(candidates, key=lambda server: server.health.is_quarantined(now_s)):
            if server.health.is_quarantined(now_s) and (is_taken or server.client.url in failed):
                continue
            if not server.turn.try_take():
                is_taken = True
                continue
            info = None
            try:
                info = self._checked(server, failed, vision=vision)
            finally:
                if info is None:
                    self._give_back(server)
            if info is not None:
                return (server, info), False
        return None, is_taken

    def _checked(
        self, server: _Server, failed: dict[str, KoboldReaderError], *, vision: bool = False
    ) -> ServerInfo | None:
        """Return what the server reports; None where it cannot be used, with the reason in `failed`."""
        with server.checking:
            try:
                known = server.info if self._runs_known_model(server) else None
                info = known or server.client.info(refresh=True)
                with self._models:
                    if known is None:
                        self._refuse_another_model(server, info)
                    server.info = info
                server.health = replace(server.health, has_worked=True)
                if vision and not info.vision:
                    raise no_vision_error(info.url)
            except ServerError as err:
                self.note_failure(server, err)
                failed[server.client.url] = err
                return None
            failed.pop(server.client.url, None)
            return info

    def _runs_known_model(self, server: _Server) -> bool:
        """Ask for the model before each page: else a restart between two pages would go unnoticed."""
        try:
            return server.info is not None and server.client.model() == server.info.model
        except ServerError as err:
            log.debug("%s", err)
            return False

    def _refuse_another_model(self, server: _Server, info: ServerInfo) -> None:
        for other in self._servers:
            known = other.info
            if other is server or known is None or known.model == info.model:
                continue
            message = f"The servers run different models: {known.url} {known.model}, {info.url} {info.model}."
            if self._is_compared:
                raise ServerError(message, server=info.url, hint="It is left out until it runs the same again.")
            raise ConfigError(message, hint="Start all with the same model, or use only one of them.")

    def refuse_changed(self, server: _Server, known: ServerInfo) -> None:
        """Raise a ServerChangedError if a server whose connection broke has come back with other settings."""
        try:
            info = server.client.info(refresh=True)
        except ServerError as err:
            log.debug("%s", err)
            return
        if info != known:
            with server.checking:
                server.info = None
            raise ServerChangedError(
                f"{info.url}: was restarted with {info.model} (before: {known.model}); the page is begun again.",
                server=info.url,
            )

    def note_failure(self, server: _Server, error: KoboldReaderError) -> None:
        """Record a failure of the server, so that it is checked anew, and others are preferred for a while."""
        with server.checking:
            server.info = None
            server.health = server.health.after_failure(error, self.policy, self._clock())
            failures = server.health.failures
        # Logged as a warning once, not at every look. For a single server the error itself is enough.
        level = logging.WARNING if failures == 1 and len(self._servers) > 1 else logging.DEBUG
        again_in = _spelled(self.policy.quarantine_of(failures))
        log.log(level, "%s The other servers go on; it is tried again in %s.", error, again_in)

    def _give_back(self, server: _Server) -> None:
        server.turn.give_back()
        with self._freed:
            self._freed.notify_all()

    def wait(self, seconds: float, cancel: threading.Event | None) -> None:
        """Sleep; with `cancel` in slices, so that it is seen soon (CancelledError)."""
        if cancel is None:
            self._sleep(seconds)
            return
        while not cancel.is_set():
            if seconds <= 0:
                return
            self._sleep(min(CANCEL_POLL_S, seconds))
            seconds -= CANCEL_POLL_S
        raise CancelledError


def none_left(failed: Mapping[str, KoboldReaderError]) -> ServerError:
    """Return the error that no server can be used, from the last error of each, by URL."""
    errors = list(failed.values())
    if errors and all(isinstance(error, NoVisionModelError) for error in errors):
        return NoVisionModelError(errors[0].message, server=errors[0].server, hint=errors[0].hint)
    whole = "No server" if len(errors) == 1 else f"None of the {len(errors)} servers"
    return NoServerAvailableError(f"{whole} can be used. {' '.join(map(str, errors))}", errors=dict(failed))


def _spelled(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"  # noqa: PLR2004
