"""One HTTP exchange with one server: bytes out, status and bytes back, or a named error.

The only module that imports requests; no exception of requests or urllib3 leaves it. Nothing is
sent twice here: no retry, no redirect, no proxy, no `.netrc` (either would send pages elsewhere,
and a `.netrc` entry replaces the password). KoboldCpp speaks HTTP/1.0 and closes after each answer,
so every exchange has a session of its own and nothing is shared between threads.

One long POST in a thread of its own, so that the caller stays free to watch, stop and leave.

A synchronous generate cannot be interrupted from within, and a client that goes away does not stop
the server: it writes on to the limit (measured on KoboldCpp 1.115.1).
"""

from __future__ import annotations

import http.client
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import requests
import urllib3
from requests.adapters import HTTPAdapter
from typing_extensions import override

from kobold_reader.errors import (
    ConfigError,
    ResponseFormatError,
    ServerConnectionError,
    ServerError,
    ServerTimeoutError,
)

__all__ = ["Answer", "Job", "Transport", "Wire"]

_log = logging.getLogger(__name__)

_MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
"""Ten times an answer of 8,192 tokens with all their log-probabilities."""
_CHUNK_BYTES: Final = 64 * 1024
_DEFAULT_BODY_LIMIT_BYTES: Final = 32 * 1024 * 1024  # --maxrequestsize of 1.115.1; fixed in 1.76
_AFTER_REFUSAL: Final = "Is KoboldCpp started, and has it finished loading its model?"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, unjudged."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Wire:
    """The socket of one exchange, so that another thread can cut it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._cut = False

    @property
    def connected(self) -> bool:
        """Whether a connection ever stood."""
        return self._socket is not None

    def attach(self, sock: socket.socket) -> None:
        """Called by the connection as soon as it stands."""
        with self._lock:
            self._socket = sock
            if self._cut:
                self._shut(sock)

    def cut(self) -> None:
        """End the exchange now, whatever it waits for; it then fails as a broken connection."""
        with self._lock:
            self._cut = True
            if self._socket is not None:
                self._shut(self._socket)

    @staticmethod
    def _shut(sock: socket.socket) -> None:
        try:
            # The plain method: that of an SSL socket also touches state its own thread uses.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
        except OSError:
            _log.debug("the connection was closed already")


_current = threading.local()


class _HTTPConnection(urllib3.connection.HTTPConnection):
    @override
    def connect(self) -> None:
        super().connect()
        _attach(self.sock)


class _HTTPSConnection(urllib3.connection.HTTPSConnection):
    @override
    def connect(self) -> None:
        super().connect()
        _attach(self.sock)


def _attach(sock: socket.socket | None) -> None:
    wire: Wire | None = getattr(_current, "wire", None)
    if wire is not None and sock is not None:
        wire.attach(sock)


class _HTTPPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


class _Adapter(HTTPAdapter):
    """Makes connections that tell their socket and notice a dead peer (TCP keep-alive)."""

    @override
    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **more: object) -> None:
        options = [
            *urllib3.connection.HTTPConnection.default_socket_options,
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        ]
        if hasattr(socket, "TCP_KEEPIDLE"):
            options.append((socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60))
        super().init_poolmanager(connections, maxsize, block, socket_options=options, **more)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}


class Transport:
    """Exchanges with one server; safe to use from several threads.

    Args:
        url: Normalized.
        password: Sent as `Authorization: Bearer`; never shown.
        connect_timeout_s: For the TCP connection.
    """

    def __init__(self, url: str, password: str | None, connect_timeout_s: float) -> None:
        self.url = url
        self._connect_timeout_s = connect_timeout_s
        self._headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if password:
            self._headers["Authorization"] = f"Bearer {_checked(password)}"

    @override
    def __repr__(self) -> str:
        return f"Transport({self.url!r})"

    def exchange(
        self,
        path: str,
        body: bytes | None = None,
        *,
        read_timeout_s: float,
        wire: Wire | None = None,
    ) -> Answer:
        """GET, or POST where there is a body.

        Args:
            path: Begins with a slash.
            body: JSON.
            read_timeout_s: For each wait for bytes; the whole answer must come within twice that.
            wire: Lets another thread cut the exchange.

        Raises:
            ServerConnectionError: No answer, or only the beginning of one.
            ServerTimeoutError: Connected, but silent for `read_timeout_s`.
        """
        started = time.monotonic()
        _current.wire = wire
        try:
            with (
                self._session() as session,
                session.request(
                    "GET" if body is None else "POST",
                    f"{self.url}{path}",
                    data=body,
                    headers={"Content-Type": "application/json"} if body is not None else {},
                    timeout=(self._connect_timeout_s, read_timeout_s),
                    allow_redirects=False,
                    stream=True,
                ) as response,
            ):
                chunks = response.iter_content(_CHUNK_BYTES)
                whole = b"".join(self._bounded(chunks, started + 2 * read_timeout_s))
                answer = Answer(response.status_code, dict(response.headers), whole)
        except (
            requests.RequestException,
            urllib3.exceptions.HTTPError,
            http.client.HTTPException,
            OSError,
            UnicodeError,
        ) as err:
            raise self._named(err, read_timeout_s, len(body or b"")) from _without_request(err)
        finally:
            _current.wire = None
        _log.debug(
            "%s%s: HTTP %d, %d bytes sent, %d received, %.3f s",
            self.url,
            path,
            answer.status,
            len(body or b""),
            len(answer.body),
            time.monotonic() - started,
        )
        return answer

    def _session(self) -> requests.Session:
        session = requests.Session()
        session.trust_env = False
        # The one variable still honoured: many a KoboldCpp has a certificate of its own (--ssl).
        session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or True
        session.headers.clear()
        session.headers.update(self._headers)
        adapter = _Adapter(max_retries=0)
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        return session

    def _bounded(self, chunks: Iterator[bytes], deadline: float) -> Iterator[bytes]:
        received = 0
        for chunk in chunks:
            received += len(chunk)
            if received > _MAX_ANSWER_BYTES:
                raise ResponseFormatError(f"{self.url}: the answer is longer than any of KoboldCpp's.", server=self.url)
            if time.monotonic() > deadline:
                raise ServerTimeoutError(f"{self.url}: the answer came too slowly to be waited for.", server=self.url)
            yield chunk

    def _named(self, err: Exception, read_timeout_s: float, sent_bytes: int) -> ServerError | ConfigError:
        url = self.url
        causes = list(_causes(err))
        if isinstance(err, requests.exceptions.InvalidURL | requests.exceptions.InvalidHeader):
            return ConfigError(f"{url}: this address or password cannot be sent.", server=url)
        if isinstance(err, requests.exceptions.ConnectTimeout):
            return ServerConnectionError(
                f"{url}: no connection within {self._connect_timeout_s:g} s.",
                server=url,
                hint="Is the address right, is the machine on, does a firewall stand between?",
            )
        if isinstance(err, requests.exceptions.ReadTimeout):
            return ServerTimeoutError(
                f"{url}: connected, but no answer within {read_timeout_s:g} s.",
                server=url,
                hint="It may hang; look at its console.",
            )
        if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
            return ServerConnectionError(
                f"{url}: nobody listens there (connection refused).",
                server=url,
                hint=_AFTER_REFUSAL,
            )
        if any(isinstance(cause, socket.gaierror) for cause in causes):
            return ServerConnectionError(f"{url}: no machine of that name was found.", server=url)
        if isinstance(err, requests.exceptions.SSLError):
            return ServerConnectionError(
                f"{url}: no trusted encrypted connection ({_short(causes[-1])}).",
                server=url,
                hint="For a certificate of your own, set REQUESTS_CA_BUNDLE to its file.",
            )
        if isinstance(err, requests.exceptions.ChunkedEncodingError):
            return ServerConnectionError(f"{url}: the connection broke in the middle of the answer.", server=url)
        return ServerConnectionError(
            f"{url}: the connection was closed without an answer ({_short(causes[-1])}).",
            server=url,
            hint=f"{sent_bytes / 1e6:.0f} MB were sent; KoboldCpp takes 32 MB unless told more."
            if sent_bytes > _DEFAULT_BODY_LIMIT_BYTES
            else "If it has stopped, its console says why.",
        )


def _checked(password: str) -> str:
    """Raise a ConfigError, which does not show it, for a password no HTTP header can carry."""
    if not password.isprintable() or password != password.strip():
        raise ConfigError("The password has blanks at its ends or characters that cannot be sent.")
    try:
        password.encode("latin-1")
    except UnicodeEncodeError:
        # Without a cause: it holds the password.
        raise ConfigError(
            "The password has characters that HTTP cannot carry.",
            hint="Start KoboldCpp with one of plain letters, digits and signs.",
        ) from None
    return password


def _causes(err: BaseException) -> Iterator[BaseException]:
    """The error and what lies behind it; urllib3 hides that in arguments and in `__cause__`."""
    seen: set[int] = set()
    current: BaseException | None = err
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        inner = next((arg for arg in current.args if isinstance(arg, BaseException)), None)
        reason = getattr(current, "reason", None)
        current = (
            inner or (reason if isinstance(reason, BaseException) else None) or current.__cause__ or current.__context__
        )


def _short(err: BaseException) -> str:
    text = str(err) if not isinstance(err, OSError) else err.strerror or str(err)
    return f"{type(err).__name__}: {text:.120}"


def _without_request(err: Exception) -> Exception:
    """Take the request off the error: its headers hold the password, its body the page."""
    if isinstance(err, requests.RequestException):
        err.request = None
        err.response = None
    return err


class Job:
    """A POST that runs once it is started; `done` is set when it has an answer or has failed.

    The thread is a daemon: if all else fails, it does not keep the program from ending.
    """

    def __init__(self, transport: Transport, path: str, body: bytes, *, read_timeout_s: float) -> None:
        self.done = threading.Event()
        self._wire = Wire()
        self._answer: Answer | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(
            target=self._run,
            args=(transport, path, body, read_timeout_s),
            name=f"kobold-reader {path}",
            daemon=True,
        )
        self.begun = False

    def start(self) -> None:
        """Send it. Ctrl-C may come while the thread starts: whoever calls this must then stop the job."""
        self.begun = True
        self._thread.start()

    def _run(self, transport: Transport, path: str, body: bytes, read_timeout_s: float) -> None:
        try:
            self._answer = transport.exchange(path, body, read_timeout_s=read_timeout_s, wire=self._wire)
        except BaseException as err:  # noqa: BLE001 - raised again in the caller's thread
            self._error = err
        finally:
            self.done.set()

    @property
    def connected(self) -> bool:
        """Whether the server was ever reached, and so may have begun to work."""
        return self._wire.connected

    def result(self) -> Answer:
        """The answer, or the error raised here; only after `done`."""
        if self._error is not None:
            raise self._error
        if self._answer is None:
            raise RuntimeError("the job is not done")
        return self._answer

    def leave(self, timeout_s: float) -> None:
        """Cut the connection if it still stands, and wait for the thread to end."""
        if not self.done.is_set():
            self._wire.cut()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
