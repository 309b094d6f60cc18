"""HTTP exchanges with one server: a request to its address becomes an answer, or an error named by its cause.

The only module that imports requests; no exception of requests or urllib3 leaves it. Nothing is sent twice here: no
retry, no redirect, no proxy, no `.netrc` (the last two would send pages elsewhere, and a `.netrc` entry replaces the
password). KoboldCpp speaks HTTP/1.0 and closes after each answer, so every exchange has a session of its own, and
threads share nothing.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from kobold_reader.errors import (
    ConfigError,
    ResponseFormatError,
    ServerConnectionError,
    ServerError,
    ServerTimeoutError,
    reason,
)
from kobold_reader.kobold.protocol import HttpAnswer, excerpt, parse_json

if TYPE_CHECKING:  # imported at the first request: many commands send none
    import requests

log = logging.getLogger(__name__)

READ_S = 30.0
QUICK_READ_S = 5.0
"""For progress and aborts: better no answer than a late one."""
MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""Ten times an answer of 8,192 tokens with all their log-probabilities."""
CHUNK_BYTES = 64 * 1024
BODY_LIMIT_BYTES = 32 * 1024 * 1024
"""Largest request that KoboldCpp takes by default: `--maxrequestsize` of 1.115.1; fixed in 1.76."""


class Transport:
    """Exchanges with one server; safe to use from several threads.

    The password is sent as `Authorization: Bearer`, and never shown.
    """

    def __init__(self, url: str, password: str | None, connect_timeout_s: float) -> None:
        self.url = url
        self.closed = False
        """Set: all further exchanges are refused."""
        self._connect_timeout_s = connect_timeout_s
        self._headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if password:
            self._headers["Authorization"] = f"Bearer {_checked(password)}"

    @override
    def __repr__(self) -> str:
        return f"Transport({self.url!r})"

    # ── JSON objects ────────────────────────────────────────────────────────────────────────────

    def get(self, path: str, *, read_timeout_s: float = READ_S) -> dict[str, Any]:
        """GET a JSON object.

        Raises:
            ServerError: As `exchange` and `parse_json`, or the answer is not a JSON object.
        """
        return self.as_object(self.exchange(path, read_timeout_s=read_timeout_s))

    def post(self, path: str, body: Mapping[str, object], *, read_timeout_s: float = READ_S) -> dict[str, Any]:
        """POST a JSON object and get one; raises as `get`."""
        data = json.dumps(body, allow_nan=False).encode("ascii")
        return self.as_object(self.exchange(path, data, read_timeout_s=read_timeout_s))

    def as_object(self, answer: HttpAnswer) -> dict[str, Any]:
        """Return the JSON object in an answer; raises as `get`."""
        value = parse_json(answer, self.url)
        if not isinstance(value, dict):
            raise self.unexpected("is not a JSON object", value)
        return value

    def unexpected(self, why: str, value: object) -> ResponseFormatError:
        """Return an error that shows the unexpected value."""
        shown = excerpt(repr(value).encode("utf-8", "backslashreplace"))
        return ResponseFormatError(f"{self.url}: the answer {why}: {shown}.", server=self.url)

    # ── bytes ───────────────────────────────────────────────────────────────────────────────────

    def refuse_if_closed(self) -> None:
        """Raise a ConfigError if `closed` is set."""
        if self.closed:
            raise ConfigError(f"{self.url}: this client is closed.", server=self.url)

    def exchange(self, path: str, body: bytes | None = None, *, read_timeout_s: float = READ_S) -> HttpAnswer:
        """Send a GET, or a POST if there is a body of JSON.

        `read_timeout_s` is for each wait for bytes; the whole answer must come within twice that.

        Raises:
            ConfigError: The transport is closed, or the address or password cannot be sent.
            ServerConnectionError: No answer, or only the beginning of one.
            ServerTimeoutError: Connected, but silent for `read_timeout_s`.
            ResponseFormatError: The answer is too long.
        """
        import requests
        import urllib3

        self.refuse_if_closed()
        started = time.monotonic()
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
                chunks = self._bounded(response.iter_content(CHUNK_BYTES), started + 2 * read_timeout_s)
                answer = HttpAnswer(response.status_code, dict(response.headers), b"".join(chunks))
        except (
            requests.RequestException,
            urllib3.exceptions.HTTPError,
            http.client.HTTPException,
            OSError,
            UnicodeError,
        ) as err:
            if isinstance(err, requests.RequestException):
                err.request = err.response = None  # their headers hold the password, their body the page
            raise self._named(err, read_timeout_s, len(body or b"")) from err
        facts = (self.url, path, answer.status, len(body or b""), len(answer.body), time.monotonic() - started)
        log.debug("%s%s: HTTP %d, %d bytes sent, %d received, %.3f s", *facts)
        return answer

    def begin_post(self, answer: Future[HttpAnswer], path: str, body: bytes, *, read_timeout_s: float) -> None:
        """Send a POST in a thread of its own, so that the caller stays free to watch, abort and leave.

        A synchronous generate cannot be interrupted from within, and the server writes on to the limit when its client
        goes away (measured on KoboldCpp 1.115.1). So another request aborts it. The thread then ends with the server's
        answer, which is dropped; it is a daemon, and keeps no program running. After any exception here (Ctrl-C while
        the thread starts) the job must be aborted too.
        """

        def run() -> None:
            try:
                answer.set_result(self.exchange(path, body, read_timeout_s=read_timeout_s))
            except BaseException as err:  # noqa: BLE001  (raised again in the caller's thread)
                answer.set_exception(err)

        threading.Thread(target=run, name=f"kobold-reader {path}", daemon=True).start()

    def _session(self) -> requests.Session:
        import requests
        import urllib3
        from requests.adapters import HTTPAdapter

        session = requests.Session()
        session.trust_env = False
        # The only variable that still counts: a KoboldCpp often has a certificate of its own (--ssl).
        session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or True
        session.headers.clear()
        session.headers.update(self._headers)
        # A generate may be silent for hours: TCP keep-alive notices that the machine has gone.
        keep_alive = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
        if hasattr(socket, "TCP_KEEPIDLE"):
            keep_alive.append((socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60))
        options = [*urllib3.connection.HTTPConnection.default_socket_options, *keep_alive]
        adapter = HTTPAdapter()
        adapter.poolmanager.connection_pool_kw["socket_options"] = options
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        return session

    def _bounded(self, chunks: Iterator[bytes], deadline: float) -> Iterator[bytes]:
        received = 0
        for chunk in chunks:
            received += len(chunk)
            if received > MAX_ANSWER_BYTES:
                raise ResponseFormatError(f"{self.url}: the answer is longer than any of KoboldCpp's.", server=self.url)
            if time.monotonic() > deadline:
                raise ServerTimeoutError(f"{self.url}: the answer came too slowly.", server=self.url)
            yield chunk

    def _named(self, err: Exception, read_timeout_s: float, sent_bytes: int) -> ServerError | ConfigError:
        import requests

        causes = list(_causes(err))
        if isinstance(err, requests.exceptions.InvalidURL | requests.exceptions.InvalidHeader):
            return ConfigError(f"{self.url}: this address or password cannot be sent.", server=self.url)
        if isinstance(err, requests.exceptions.ReadTimeout):
            return ServerTimeoutError(
                f"{self.url}: connected, but no answer within {read_timeout_s:g} s.",
                server=self.url,
                hint="It may hang; look at its console.",
            )
        hint: str | None = None
        if isinstance(err, requests.exceptions.ConnectTimeout):
            what = f"no connection within {self._connect_timeout_s:g} s"
            hint = "Check the address, the firewall, and that the machine is on."
        elif any(isinstance(cause, ConnectionRefusedError) for cause in causes):
            what = "nothing answers there (connection refused)"
            hint = "Start KoboldCpp and let it load its model, or give its address (--api-url)."
        elif any(isinstance(cause, socket.gaierror) for cause in causes):
            what = "no machine of that name was found"
            hint = "Check the address."
        elif isinstance(err, requests.exceptions.SSLError):
            what = f"no trusted encrypted connection ({_short(causes[-1])})"
            hint = (
                "Without encryption write http://. For a certificate of your own, set REQUESTS_CA_BUNDLE to its file."
            )
        elif isinstance(err, requests.exceptions.ChunkedEncodingError):
            what = "the connection broke in the middle of the answer"
        else:
            what = f"the connection was closed without an answer ({_short(causes[-1])})"
            hint = "If it has stopped, its console says why."
            if sent_bytes > BODY_LIMIT_BYTES:
                hint = f"{sent_bytes / 1e6:.0f} MB were sent; KoboldCpp takes 32 MB by default."
        return ServerConnectionError(f"{self.url}: {what}.", server=self.url, hint=hint)


def was_reached(error: ServerConnectionError) -> bool:
    """Tell whether there was a connection before it failed, so that the server may have begun to work."""
    import urllib3

    kinds = urllib3.exceptions
    never = (kinds.NewConnectionError, kinds.ConnectTimeoutError, kinds.SSLError)
    return not any(isinstance(cause, never) for cause in _causes(error.__cause__))


def _checked(password: str) -> str:
    """Return the password; raise a ConfigError that does not show it if no HTTP header can carry it."""
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


def _causes(err: BaseException | None) -> Iterator[BaseException]:
    """Yield the error and its causes, which urllib3 keeps in arguments, in `reason` and in `__cause__`."""
    seen: set[int] = set()
    while err is not None and id(err) not in seen:
        seen.add(id(err))
        yield err
        inner = [*err.args, getattr(err, "reason", None), err.__cause__, err.__context__]
        err = next((one for one in inner if isinstance(one, BaseException)), None)


def _short(err: BaseException) -> str:
    text = reason(err)
    return f"{type(err).__name__}: {' '.join(text.split()):.120}"
