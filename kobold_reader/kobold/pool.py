"""Several servers, leased one page at a time; here requests are tried again.

A lease holds one server for one page: alone in this process and, by a file lock, alone on this
machine. KoboldCpp generates one thing at a time and keeps the last image encoded, so two pages at
once on one server would only throw each other's image out.
"""

from __future__ import annotations

import logging
import random as _random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import platformdirs
from typing_extensions import override

from kobold_reader.errors import (
    AuthenticationError,
    ConfigError,
    KoboldReaderError,
    NoServerAvailableError,
    ServerBusyError,
    ServerConnectionError,
    ServerError,
)
from kobold_reader.kobold.addresses import server_key
from kobold_reader.kobold.client import (
    CancelledError,
    Completion,
    GenerateRequest,
    KoboldClient,
    ServerInfo,
)
from kobold_reader.kobold.retry import RetryPolicy
from kobold_reader.kobold.turn import Turn

__all__ = ["Lease", "ServerPool"]

_log = logging.getLogger(__name__)

_LOOK_S: Final = 0.1  # how often another process is asked whether its turn is over
_QUARANTINE_S: Final = 60.0
_SLICE_S: Final = 0.5

T = TypeVar("T")


class _Server:
    """One server of the pool; all fields but `turn` belong to who holds the turn."""

    def __init__(self, client: KoboldClient, lock_dir: Path) -> None:
        self.client = client
        self.turn = Turn(server_key(client.url), lock_dir)
        self.info: ServerInfo | None = None
        self.has_worked = False
        self.error: KoboldReaderError | None = None
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

    def run(self, call: Callable[[KoboldClient], T], *, cancel: threading.Event | None = None) -> T:
        """Any request to this server, tried again as the pool's policy says.

        What cannot be helped by asking again is raised at once. After a failure of the server the
        next lease checks it anew, and prefers others for a minute.

        Raises:
            CancelledError: `cancel` was set while waiting.
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
                if policy.gives_up(failures, err, busy_s):
                    self._pool.note_failure(self._server, err)
                    raise
                _log.debug("%s; again in %.1f s", err, delay_s)
            self._pool.wait(delay_s, cancel)


class ServerPool:
    """Leases servers; safe to use from several threads.

    Args:
        urls: One or more. Several spellings of one server count once. Earlier ones are preferred.
        password: The same for all.
        policy: Of trying again.
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
        self.random = random
        self._sleep = sleep
        self._clock = clock
        self._servers = [_Server(make(url), folder) for url in unique]
        self._freed = threading.Condition()
        self._closed = False

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

    @contextmanager
    def lease(self, *, cancel: threading.Event | None = None) -> Iterator[Lease]:
        """Hold one server; waits while all that work are taken.

        Raises:
            NoServerAvailableError: None can be used; holds the last error of each.
            ConfigError: Two servers run different models: the pages of one archive would be read
                by both, at random.
            CancelledError: `cancel` was set while waiting.
        """
        server, info = self._take(cancel)
        try:
            yield Lease(self, server, info)
        finally:
            self._give_back(server)

    def _take(self, cancel: threading.Event | None) -> tuple[_Server, ServerInfo]:
        started = self._clock()
        failed: dict[str, KoboldReaderError] = {}
        try:
            while True:
                if self._closed:
                    raise ConfigError("This ServerPool is closed.")
                if cancel is not None and cancel.is_set():
                    raise CancelledError
                found, waiting = self._look(failed)
                if found is not None:
                    return found
                if waiting:
                    with self._freed:
                        self._freed.wait(_LOOK_S)
                    continue
                self._out_of_servers(failed, started, cancel)
        finally:
            for server in self._servers:
                server.turn.leave_queue()

    def _look(self, failed: dict[str, KoboldReaderError]) -> tuple[tuple[_Server, ServerInfo] | None, bool]:
        """One round over all servers: the one taken, and whether one is worth waiting for."""
        waiting = False
        now = self._clock()
        # Those that failed lately come last, but they come: there may be no other.
        ranked = sorted(self._servers, key=lambda server: server.shunned_until > now)
        for server in ranked:
            url = server.client.url
            if url in failed:
                continue
            if waiting and server.shunned_until > now:
                continue
            if not server.turn.try_take():
                waiting = True
                continue
            info = None
            try:
                info = self._checked(server, failed)
            finally:
                if info is None:
                    self._give_back(server)
            if info is not None:
                return (server, info), False
        return None, waiting

    def _checked(self, server: _Server, failed: dict[str, KoboldReaderError]) -> ServerInfo | None:
        if server.info is None:
            try:
                info = server.client.info(refresh=True)
            except ServerError as err:
                _log.warning("%s", err)
                self.note_failure(server, err)
                failed[server.client.url] = err
                return None
            for other in self._servers:
                known = other.info
                if other is not server and known is not None and known.model != info.model:
                    raise ConfigError(
                        f"The servers run different models: {known.url} {known.model}, {info.url} {info.model}.",
                        hint="Start all with the same model, or use only one of them.",
                    )
            server.info, server.error, server.shunned_until = info, None, 0.0
            server.has_worked = True
        return server.info

    def _out_of_servers(
        self,
        failed: dict[str, KoboldReaderError],
        started: float,
        cancel: threading.Event | None,
    ) -> None:
        """Raise, or wait a while and forget the failures, if a server is likely to come back."""
        waited_s = self._clock() - started
        back_soon = any(
            server.has_worked and isinstance(server.error, ServerConnectionError | ServerBusyError)
            for server in self._servers
        )
        if back_soon and waited_s < self.policy.outage_patience_s:
            self.wait(min(self.policy.cap_s, self.policy.outage_patience_s - waited_s), cancel)
            failed.clear()
            return
        if len(failed) == 1:
            message = f"No server can be used. {next(iter(failed.values()))}"
        else:
            shown = " ".join(str(err) for err in failed.values())
            message = f"None of the {len(failed)} servers can be used. {shown}"
        raise NoServerAvailableError(message, errors=dict(failed))

    def note_failure(self, server: _Server, error: KoboldReaderError) -> None:
        """Remember a failure that is the server's: it is checked anew, others are preferred."""
        if not (error.retryable or isinstance(error, AuthenticationError)):
            return
        server.info = None
        server.error = error
        server.shunned_until = self._clock() + _QUARANTINE_S

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
