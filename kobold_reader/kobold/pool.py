"""Several servers, leased one page at a time; here requests are tried again.

A lease holds one server for one page: alone in this process and, by a file lock, alone on this
machine. KoboldCpp generates one thing at a time and keeps the last image encoded, so two pages at
once on one server would only throw each other's image out. Who wants a page read takes the server
that is free, so a fast one does more. One that fails is left alone for a while, longer each time,
and then tried with one page; no thread is needed to look after it.

Taking turns at one server between threads and between processes of one machine.

A file lock alone is unfair: who lets go and asks again at once wins against everyone who looks
only now and then, and a second run would starve all night. So there are two locks: who waits holds
the *queue* lock, and who wants in again must get that first. Both are locks of the operating
system: a killed process frees them.

When to send a request again, as a frozen value and pure functions. No clock, no sleep here.
"""

from __future__ import annotations

import hashlib
import logging
import random as _random
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import platformdirs
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
)
from kobold_reader.kobold.addresses import server_key
from kobold_reader.kobold.answers import no_vision_error
from kobold_reader.kobold.client import CancelledError, Completion, GenerateRequest, KoboldClient, ServerInfo

__all__ = ["Lease", "RetryPolicy", "ServerPool", "Turn"]


class Turn:
    """The right to use one server. Not re-entrant; one thread at a time goes through `try_take`.

    Args:
        key: Names the server, the same in every process.
        folder: Where the lock files lie; made if missing.
    """

    def __init__(self, key: str, folder: Path) -> None:
        name = hashlib.sha256(key.encode()).hexdigest()[:20]
        self._folder = folder
        self._thread = threading.Lock()
        self._queue = FileLock(folder / f"{name}.queue.lock", thread_local=False)
        self._work = FileLock(folder / f"{name}.lock", thread_local=False)

    def try_take(self) -> bool:
        """Take the turn if it is free. If not, the place in the queue may be held: see `leave`."""
        if self._thread.acquire(blocking=False):
            taken = False
            try:
                taken = _try_lock(self._queue, self._folder) and _try_lock(self._work, self._folder)
                if taken:
                    self._queue.release()
            finally:
                if not taken:
                    self._thread.release()
            return taken
        return False

    def leave_queue(self) -> None:
        """Give up the place in the queue, for who has got another server or waits no more."""
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


def _try_lock(lock: FileLock, folder: Path) -> bool:
    if lock.is_locked:  # held since an earlier look
        return True
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        return False
    except OSError as err:
        raise ConfigError(
            f"The folder for lock files, {folder}, cannot be written ({err.strerror or err}).",
            hint="Give another one (lock_dir).",
        ) from err
    return True


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently one server is asked the same.

    Attributes:
        attempts: Requests in all, the first included, while the connection fails.
        base_s: Wait after the first failure; it doubles with each one.
        cap_s: Longest wait of our own choosing.
        jitter: Share of a wait that is left to chance, so that several clients part ways.
        busy_patience_s: How long a busy server is waited for. Busy is no failure: someone else is
            being served, and waiting costs nothing that trying another page would save.
        outage_patience_s: How long a lease waits for servers that have worked before and are now
            all gone (one that restarts needs minutes to load its model).
        handover_s: How long a busy server is waited for where another one works: then the page goes there.
        quarantine_s: How long a server that failed is left alone while others work; it doubles with each failure in a
            row, up to `quarantine_cap_s`.
        quarantine_cap_s: See there.
    """

    attempts: int = 4
    base_s: float = 1.0
    cap_s: float = 30.0
    jitter: float = 0.25
    busy_patience_s: float = 1800.0
    outage_patience_s: float = 0.0
    handover_s: float = 30.0
    quarantine_s: float = 60.0
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
        """How long to wait after the failure of an attempt (1-based).

        A wait the server asked for is never shortened; chance shortens only our own.

        Args:
            attempt: Which attempt failed.
            error: How.
            random: Gives a number in [0, 1).
        """
        grown_s = self.base_s * 2.0 ** min(attempt - 1, 60)
        own_s = min(self.cap_s, grown_s) * (1.0 - self.jitter * random())
        asked_s = error.retry_after_s if isinstance(error, ServerBusyError) else None
        return own_s if asked_s is None else max(own_s, asked_s)

    def quarantine_of(self, failures: int) -> float:
        """How long, in s, a server is left alone after so many failures in a row."""
        return min(self.quarantine_cap_s, self.quarantine_s * 2.0 ** min(failures - 1, 60))

    def gives_up(
        self, attempt: int, error: KoboldReaderError, busy_s: float = 0.0, *, has_others: bool = False
    ) -> bool:
        """Whether no further request is to be sent to this server.

        A time limit is not tried again: it was the caller's, and the same work takes the same time. Nor is a server
        that hangs: it was waited for long enough. A malformed answer is tried once more only.

        Args:
            attempt: How many attempts failed, those at a busy server not counted.
            error: The last failure.
            busy_s: How long the server has been busy by now, the next wait included.
            has_others: Whether another server could do the work.
        """
        if isinstance(error, ServerBusyError):
            return busy_s > (min(self.handover_s, self.busy_patience_s) if has_others else self.busy_patience_s)
        if not error.retryable or isinstance(error, ServerTimeoutError | ServerHungError):
            return True
        limit = min(2, self.attempts) if isinstance(error, ResponseFormatError) else self.attempts
        return attempt >= limit


_log = logging.getLogger(__name__)

_LOOK_S: Final = 0.1  # how often another process is asked whether its turn is over
_SLICE_S: Final = 0.5

T = TypeVar("T")


class _Server:
    """One server of the pool; who changes what is known of it holds `checking`."""

    def __init__(self, client: KoboldClient, lock_dir: Path) -> None:
        self.client = client
        self.turn = Turn(server_key(client.url), lock_dir)
        self.checking = threading.RLock()
        self.info: ServerInfo | None = None
        """None: to be asked again before it is used."""
        self.has_worked = False
        self.error: KoboldReaderError | None = None
        self.failures = 0
        """In a row: since a lease of it last ended well. That it answers a question proves little."""
        self.shunned_until = 0.0


class Lease:
    """One server, held for one page.

    Attributes:
        client: For requests that are not to be tried again.
        info: What the server said when it was checked.
    """

    def __init__(self, pool: ServerPool, server: _Server, info: ServerInfo) -> None:
        self.client = server.client
        self.info = info
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
        """Say that this server, not the page, is at fault: it is left alone for a while."""
        self._pool.note_failure(self._server, error)

    def run(self, call: Callable[[KoboldClient], T], *, cancel: threading.Event | None = None) -> T:
        """Any request to this server, tried again as the pool's policy says.

        What cannot be helped by asking again is raised at once. After a failure of the server the
        next lease checks it anew, and prefers others for a while.

        Raises:
            CancelledError: `cancel` was set while waiting.
            ServerChangedError: It was started anew meanwhile, as something else: what was prepared for it is void.
            ServerError: The last failure.
        """
        policy, failures, busy_looks, busy_s = self._pool.policy, 0, 0, 0.0
        while True:
            try:
                return call(self.client)
            except ServerError as err:
                if isinstance(err, ServerBusyError):
                    busy_looks += 1
                    delay_s = policy.delay_s(busy_looks, err, self._pool.random)
                    busy_s += delay_s
                else:
                    failures += 1
                    delay_s = policy.delay_s(failures, err, self._pool.random)
                if policy.gives_up(failures, err, busy_s, has_others=self._pool.has_others(self._server)):
                    if err.retryable or isinstance(err, AuthenticationError):
                        self._pool.note_failure(self._server, err)
                    raise
                _log.debug("%s; again in %.1f s", err, delay_s)
                has_broken = isinstance(err, ServerConnectionError)
            self._pool.wait(delay_s, cancel)
            if has_broken:
                self._pool.refuse_changed(self._server, self.info)


class ServerPool:
    """Leases servers; safe to use from several threads.

    Args:
        urls: One or more. Several spellings of one server count once. Earlier ones are preferred.
        password: The same for all.
        policy: Of trying again.
        outage_patience_s: In place of the policy's.
        lock_dir: Where processes of this machine see which server is taken; the user's data folder
            if left out.
        sleep: Seconds, between two attempts.
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
        folder = lock_dir or Path(platformdirs.user_data_dir("kobold-reader", appauthor=False), "locks")
        by_key = {server_key(url): url for url in reversed(urls)}
        unique = [url for url in urls if by_key.pop(server_key(url), None) is not None]
        if not unique:
            raise ConfigError("No server address was given.", hint="One like http://127.0.0.1:5001 .")
        self.policy = policy or RetryPolicy()
        if outage_patience_s is not None:
            self.policy = replace(self.policy, outage_patience_s=outage_patience_s)
        self.random = random
        self._sleep = sleep
        self._clock = clock
        self._servers = [_Server(make(url), folder) for url in unique]
        self._freed = threading.Condition()
        self._closed = False
        self._models = threading.Lock()
        """Held from the comparison of a server's model with the others' until it is recorded."""
        self._is_compared = False
        """Whether all servers were asked for their model; one that changes it later is left out, and ends nothing."""

    @property
    def urls(self) -> tuple[str, ...]:
        """The servers, normalized, in order of preference."""
        return tuple(server.client.url for server in self._servers)

    @override
    def __repr__(self) -> str:
        return f"ServerPool({list(self.urls)!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Grant no further leases; those held go on to their end."""
        with self._freed:
            self._closed = True
            self._freed.notify_all()

    def compare(self) -> None:
        """Ask every server what it runs, so that different models are refused before the first page.

        One that does not answer is left alone for now; it may come later.

        Raises:
            ConfigError: Two servers run different models.
        """
        if self._is_compared or len(self._servers) == 1:
            return
        with ThreadPoolExecutor(len(self._servers), thread_name_prefix="kobold-reader-compare") as threads:
            list(threads.map(self._compared, self._servers))
        self._is_compared = True

    def _compared(self, server: _Server) -> None:
        self._checked(server, {})

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
            vision: Only a server with a projector will do.
            exclude: URLs of servers that had their chance; where no other is left, no server is waited for.
            on_wait: Called now and then while all that work are taken, with the seconds waited so far.

        Raises:
            NoServerAvailableError: None can be used; holds the last error of each.
            NoVisionModelError: None has a projector.
            ConfigError: Two servers run different models: the pages of one archive would be read
                by both, at random.
            CancelledError: `cancel` was set while waiting.
        """
        server, info = self._take(cancel, exclude, vision=vision, on_wait=on_wait)
        failures = server.failures
        try:
            yield Lease(self, server, info)
            if server.failures == failures:
                self._note_success(server)
        finally:
            self._give_back(server)

    def has_others(self, server: _Server) -> bool:
        """Whether a server other than this one works, as far as is known."""
        now = self._clock()
        return any(other is not server and other.shunned_until <= now for other in self._servers)

    def _take(
        self,
        cancel: threading.Event | None,
        exclude: Collection[str],
        *,
        vision: bool,
        on_wait: Callable[[float], None] | None,
    ) -> tuple[_Server, ServerInfo]:
        started = self._clock()
        failed: dict[str, KoboldReaderError] = {}
        has_said = False
        candidates = [server for server in self._servers if server.client.url not in exclude]
        try:
            while True:
                if self._closed:
                    raise ConfigError("This ServerPool is closed.")
                if cancel is not None and cancel.is_set():
                    raise CancelledError
                found, waiting = self._look(candidates, failed, vision=vision)
                if found is not None:
                    return found
                if waiting:
                    if on_wait is not None:
                        on_wait(self._clock() - started)
                    with self._freed:
                        self._freed.wait(_LOOK_S)
                    continue
                left_s = 0.0 if exclude else self.policy.outage_patience_s - (self._clock() - started)
                if left_s <= 0 or not self._is_back_soon():
                    raise _none_left(failed)
                if not has_said:
                    has_said = True
                    why = " ".join(map(str, failed.values()))
                    _log.warning("%s Waiting up to %s for a server to come back.", why, _spelled(left_s))
                self.wait(min(self.policy.cap_s, left_s), cancel)
                failed.clear()
        finally:
            for server in self._servers:
                server.turn.leave_queue()

    def _look(
        self, candidates: Sequence[_Server], failed: dict[str, KoboldReaderError], *, vision: bool
    ) -> tuple[tuple[_Server, ServerInfo] | None, bool]:
        """One round over the servers: the one taken, and whether one is worth waiting for."""
        waiting = False
        now = self._clock()
        # Those that failed lately come last, but they come: there may be no other.
        ranked = sorted(candidates, key=lambda server: server.shunned_until > now)
        for server in ranked:
            is_shunned = server.shunned_until > now
            if is_shunned and (waiting or server.client.url in failed):
                continue
            if not server.turn.try_take():
                waiting = True
                continue
            info = None
            try:
                info = self._checked(server, failed, vision=vision)
            finally:
                if info is None:
                    self._give_back(server)
            if info is not None:
                return (server, info), False
        return None, waiting

    def _checked(
        self, server: _Server, failed: dict[str, KoboldReaderError], *, vision: bool = False
    ) -> ServerInfo | None:
        """What the server is, or None, and why it cannot be used."""
        with server.checking:
            try:
                known = server.info if self._is_as_known(server) else None
                info = known or server.client.info(refresh=True)
                with self._models:
                    if known is None:
                        self._refuse_another_model(server, info)
                    server.info = info
                server.has_worked = True
                if vision and not info.vision:
                    raise no_vision_error(info.url)
            except ServerError as err:
                self.note_failure(server, err)
                failed[server.client.url] = err
                return None
            failed.pop(server.client.url, None)
            return info

    def refuse_changed(self, server: _Server, known: ServerInfo) -> None:
        """Raise where a server that broke off came back as another than it was; where it is still away, do nothing.

        Raises:
            ServerChangedError: Another model, version, template, context or projector than before.
        """
        try:
            info = server.client.info(refresh=True)
        except ServerError as err:
            _log.debug("%s", err)
            return
        if info != known:
            with server.checking:
                server.info = None
            raise ServerChangedError(
                f"{info.url}: was started anew with {info.model} (before: {known.model}); the page is begun again.",
                server=info.url,
            )

    def _is_as_known(self, server: _Server) -> bool:
        """Whether the model is still the one that is known: a restart between two pages breaks no connection."""
        known = server.info
        try:
            return known is not None and server.client.model() == known.model
        except ServerError as err:
            _log.debug("%s", err)
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

    def _is_back_soon(self) -> bool:
        return any(
            server.has_worked and isinstance(server.error, ServerConnectionError | ServerBusyError)
            for server in self._servers
        )

    def note_failure(self, server: _Server, error: KoboldReaderError) -> None:
        """Remember a failure that is the server's: it is checked anew, others are preferred."""
        with server.checking:
            server.info = None
            server.error = error
            server.failures += 1
            quarantine_s = self.policy.quarantine_of(server.failures)
            server.shunned_until = self._clock() + quarantine_s
        # Said once, not at every look. Of an only server the error itself tells.
        is_news = server.failures == 1 and len(self._servers) > 1
        level = logging.WARNING if is_news else logging.DEBUG
        _log.log(level, "%s The other servers go on; it is tried again in %s.", error, _spelled(quarantine_s))

    def _note_success(self, server: _Server) -> None:
        with server.checking:
            if server.failures and len(self._servers) > 1:
                _log.warning("%s works again.", server.client.url)
            server.failures, server.error, server.shunned_until = 0, None, 0.0

    def _give_back(self, server: _Server) -> None:
        server.turn.give_back()
        with self._freed:
            self._freed.notify_all()

    def wait(self, seconds: float, cancel: threading.Event | None) -> None:
        """Sleep, in slices where a cancel must be seen."""
        if cancel is None:
            self._sleep(seconds)
            return
        while seconds > 0:
            if cancel.is_set():
                raise CancelledError
            self._sleep(min(_SLICE_S, seconds))
            seconds -= _SLICE_S
        if cancel.is_set():
            raise CancelledError


def _none_left(failed: Mapping[str, KoboldReaderError]) -> ServerError:
    """The error that ends a lease: no server can be used, each for its own reason."""
    errors = list(failed.values())
    if errors and all(isinstance(error, NoVisionModelError) for error in errors):
        return NoVisionModelError(errors[0].message, server=errors[0].server, hint=errors[0].hint)
    if len(errors) == 1:
        message = f"No server can be used. {errors[0]}"
    else:
        message = f"None of the {len(errors)} servers can be used. {' '.join(map(str, errors))}"
    return NoServerAvailableError(message, errors=dict(failed))


def _spelled(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"  # noqa: PLR2004
