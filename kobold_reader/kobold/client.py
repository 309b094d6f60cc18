"""ONE server, ONE attempt: a request in, a value or a named error out.

Trying again and choosing a server is the business of `pool`; whether the text is a reading of the
page is that of the reading engine. Nothing KoboldCpp does silently passes here as success.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from types import TracebackType
from typing import Any, Final, Self

from typing_extensions import override

from kobold_reader.errors import ServerConnectionError, ServerError, ServerHungError, ServerTimeoutError
from kobold_reader.kobold.addresses import address_kind, normalize_url
from kobold_reader.kobold.answers import classify_error, no_vision_error, parse_generate
from kobold_reader.kobold.api import QUICK_READ_S, Api
from kobold_reader.kobold.job import Job
from kobold_reader.kobold.server_info import ask_info, ask_model
from kobold_reader.kobold.silence import Silence
from kobold_reader.kobold.transport import Answer, Transport
from kobold_reader.kobold.values import (
    Completion,
    ExpandedPrompt,
    GenerateRequest,
    ServerInfo,
)
from kobold_reader.kobold.vectors import embed

__all__ = [
    "CancelledError",
    "Completion",
    "ExpandedPrompt",
    "GenerateRequest",
    "KoboldClient",
    "ServerInfo",
    "address_kind",
    "classify_error",
    "parse_generate",
]

_log = logging.getLogger(__name__)

_STEP_S: Final = 0.1  # how soon a cancel is seen; Windows sees Ctrl-C only between two waits
_ABORT_AGAIN_S: Final = 0.25
_THREAD_END_S: Final = 6.0
_QUIET_LOOK_S: Final = 10.0  # between two looks at the text where nobody wants to see it
_LONGEST_READ_S: Final = 7 * 24 * 3600.0  # the socket is silent until the whole answer is there; `silence` watches


class KoboldClient:
    """Speaks with one KoboldCpp server; safe to use from several threads.

    Args:
        url: `http://127.0.0.1:5001` or as people write it: without scheme, ending in `/api/v1` …
        password: What the server was started with (`--password`).
        connect_timeout_s: For the TCP connection of every request.
        clock: Monotonic seconds.
        poll_interval_s: Between two looks at the text being written.
        abort_grace_s: How long to wait for the server to take an abort before hanging up.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:5001",
        *,
        password: str | None = None,
        connect_timeout_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        poll_interval_s: float = 1.0,
        abort_grace_s: float = 10.0,
    ) -> None:
        self.url = normalize_url(url)
        self._has_password = bool(password)
        self._api = Api(Transport(self.url, password, connect_timeout_s))
        self._clock = clock
        self._poll_interval_s = poll_interval_s
        self._abort_grace_s = abort_grace_s
        self._info: ServerInfo | None = None
        self.prompt_cache: dict[tuple[str, ...], ExpandedPrompt] = {}
        """For `render_prompt`; emptied whenever the server is asked about itself again."""

    @override
    def __repr__(self) -> str:
        secret = ", password=…" if self._has_password else ""
        return f"KoboldClient({self.url!r}{secret})"

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
        """Refuse further requests; no connection is kept between them."""
        self._api.closed = True

    # ── what the server is ──────────────────────────────────────────────────────────────────────

    def info(self, *, refresh: bool = False) -> ServerInfo:
        """What the server says of itself; asked once, then remembered.

        Raises:
            ServerConnectionError: No answer.
            AuthenticationError: The password is missing or wrong.
            ResponseFormatError: Something answers, but it is no KoboldCpp.
        """
        if self._info is None or refresh:
            self._info = None
            info = ask_info(self._api)
            self.prompt_cache.clear()
            self._info = info
        return self._info

    def model(self) -> str:
        """The model that is loaded now, asked anew; see `ServerInfo.model`.

        Raises:
            ServerError: As `info`.
        """
        return ask_model(self._api)

    def require_vision(self) -> ServerInfo:
        """Make sure that the server can see.

        Raises:
            NoVisionModelError: It has no projector, and would answer without having seen the image.
        """
        info = self.info()
        if not info.vision:
            raise no_vision_error(self.url)
        return info

    def perf(self) -> Mapping[str, Any]:
        """Counters of `/api/extra/perf`: `queue`, `idle`, `stop_reason`, `uptime` and speeds."""
        return self._api.get_object("/api/extra/perf")

    # ── text and tokens ─────────────────────────────────────────────────────────────────────────

    def expand(self, messages: list[dict[str, str]]) -> ExpandedPrompt:
        """The messages as the chat template of the server writes them, with their token count.

        Send that text with `replace_instruct_placeholders=False`: it has the same tokens then
        (measured on KoboldCpp 1.115.1).

        Raises:
            ResponseFormatError: The server does not expand messages (1.76 and others before 1.115).
        """
        answer = self._api.post("/api/extra/tokencount", {"messages": messages})
        text, tokens = answer.get("prompt"), self._api.token_count(answer)
        if not isinstance(text, str) or not text:
            raise self._api.unexpected("holds no expanded prompt", text)
        return ExpandedPrompt(text=text, tokens=tokens)

    def count_tokens(self, text: str) -> int:
        """Tokens of this very text, start token included; placeholders are not expanded."""
        return self._api.count_tokens(text)

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """One vector per text, in order.

        KoboldCpp answers every failure with HTTP 200 and an empty vector; none is ever returned.

        Raises:
            ContextTooSmallError: A text is too long for the embedding model. (Not truncated: the
                server would cut off the beginning.)
            ServerError: No embedding model is loaded.
        """
        return embed(self._api, texts)

    # ── generate ────────────────────────────────────────────────────────────────────────────────

    def generate(
        self,
        request: GenerateRequest,
        *,
        time_limit_s: float | None = None,
        on_progress: Callable[[str], bool] | None = None,
        cancel: threading.Event | None = None,
    ) -> Completion:
        """Send it once, wait for the answer, and leave nothing running behind.

        However this ends otherwise (time limit, cancel, Ctrl-C, an error in `on_progress`, a broken
        connection), the job is aborted on the server, also while it is still queued.

        Args:
            request: What is asked.
            time_limit_s: For the whole, the wait in the server's queue included. None: as long as
                the server shows any sign of work (see `silence`).
            on_progress: Called in this thread with the text so far, about every `poll_interval_s`
                ("" while it is queued or reads the prompt). False aborts, and what was written so
                far is returned with the ending `aborted`.
            cancel: Set by another thread to abort.

        Raises:
            ServerTimeoutError: The time limit.
            ServerHungError: No time limit was given, and no sign of work came.
            CancelledError: `cancel` was set (`concurrent.futures.CancelledError`).
            ServerError: As `parse_generate` and `Transport.exchange` say.
        """
        if cancel is not None and cancel.is_set():
            raise CancelledError
        genkey = f"KR-{uuid.uuid4().hex}"
        body = request.body(genkey)
        self._api.refuse_if_closed()
        started = self._clock()
        read_s = _LONGEST_READ_S if time_limit_s is None else time_limit_s + 60.0
        job = Job(self._api.transport, "/api/v1/generate", body, read_timeout_s=read_s)
        try:
            job.start()
            shown = self._watch(
                job,
                genkey=genkey,
                started=started,
                time_limit_s=time_limit_s,
                on_progress=on_progress,
                cancel=cancel,
            )
        except BaseException:
            if job.begun:
                self._stop(job, genkey, wait_for_answer_s=0.0)
            raise
        if shown is not None:
            self._stop(job, genkey, wait_for_answer_s=self._abort_grace_s)
            return self._partial(job, request, shown, started)
        job.leave(_THREAD_END_S)
        return self._finished(job, genkey, request, started)

    def _watch(
        self,
        job: Job,
        *,
        genkey: str,
        started: float,
        time_limit_s: float | None,
        on_progress: Callable[[str], bool] | None,
        cancel: threading.Event | None,
    ) -> str | None:
        """Wait until the job is done (None), or `on_progress` has enough (the text it saw)."""
        interval_s = self._poll_interval_s if on_progress is not None else max(self._poll_interval_s, _QUIET_LOOK_S)
        next_look = started + interval_s
        silence = Silence(started)
        while not job.done.wait(_STEP_S if time_limit_s is None else min(_STEP_S, time_limit_s)):
            if cancel is not None and cancel.is_set():
                raise CancelledError
            if time_limit_s is not None and self._clock() - started >= time_limit_s:
                raise ServerTimeoutError(
                    f"{self.url}: no answer within {time_limit_s:g} s; the job was aborted.",
                    server=self.url,
                    hint="Allow more time (--page-timeout), or see whether the server is too slow.",
                )
            if self._clock() < next_look or (on_progress is None and time_limit_s is not None):
                continue
            text = self._text_so_far(genkey)
            next_look = self._clock() + interval_s
            if time_limit_s is None:
                self._listen(silence, text)
            if on_progress is not None and text is not None and not on_progress(text):
                return text
        return None

    def _listen(self, silence: Silence, text: str | None) -> None:
        """Raise if the server hangs, or has lost the job."""
        silence.hear(text, self._clock())
        if not silence.wants_look(self._clock()):
            return
        try:
            perf = self._api.get_object("/api/extra/perf", read_timeout_s=QUICK_READ_S)
        except ServerError as err:
            _log.debug("%s: silent, and does not say what it is doing: %s", self.url, err)
            perf = None
        now_s = self._clock()
        silence.look(perf, now_s)
        if silence.is_lost(now_s):
            raise ServerConnectionError(
                f"{self.url}: the server says that it has nothing to do, but an answer to the job never came.",
                server=self.url,
            )
        if silence.is_hang(now_s):
            raise ServerHungError(
                f"{self.url}: no sign of work for {silence.lasts_s(now_s) / 60:.0f} min; the job was aborted.",
                server=self.url,
                hint="It hangs, or is far slower than it was: look at its console. --page-timeout sets a limit of your "
                "own.",
            )

    def _text_so_far(self, genkey: str) -> str | None:
        """What is written so far, or None if that could not be learned, which is no error."""
        try:
            answer = self._api.post("/api/extra/generate/check", {"genkey": genkey}, read_timeout_s=QUICK_READ_S)
            text = answer["results"][0]["text"]
        except (ServerError, KeyError, IndexError, TypeError) as err:
            _log.debug("%s: no progress: %s", self.url, err)
            return None
        return text if isinstance(text, str) else None

    def _stop(self, job: Job, genkey: str, *, wait_for_answer_s: float) -> None:
        """Abort the job on the server, and end its thread here.

        An abort that comes before the request itself is answered "false": it is repeated until the
        server takes it. One for a queued job is remembered by the server.
        """
        deadline = time.monotonic() + self._abort_grace_s
        taken = False
        try:
            while not (taken or job.done.is_set()) and time.monotonic() < deadline:
                try:
                    taken = self.abort(genkey)
                except ServerError as err:
                    _log.debug("%s: the abort failed: %s", self.url, err)
                if not taken:
                    job.done.wait(_ABORT_AGAIN_S)
            if taken:
                job.done.wait(wait_for_answer_s)
            elif not job.done.is_set():
                _log.warning("%s: took no abort; it may still be writing.", self.url)
        finally:
            job.leave(_THREAD_END_S)

    def _partial(self, job: Job, request: GenerateRequest, shown: str, started: float) -> Completion:
        """The answer to an aborted job, or, if none came, the text as last seen."""
        elapsed_s = self._clock() - started
        try:
            answer = job.result()
            return self._parse(answer, request, elapsed_s, aborted=True)
        except ServerError as err:
            _log.debug("%s: no answer to the aborted job: %s", self.url, err)
            return Completion(text=shown, ending="aborted", elapsed_s=elapsed_s)

    def _finished(self, job: Job, genkey: str, request: GenerateRequest, started: float) -> Completion:
        elapsed_s = self._clock() - started
        try:
            answer = job.result()
        except ServerConnectionError:
            if job.connected:
                self._abort_unheard(genkey)  # the line broke; the server may be writing on
            raise
        if answer.status in (502, 504):
            self._abort_unheard(genkey)  # a proxy lost patience; the server behind it did not
        return self._parse(answer, request, elapsed_s)

    def _parse(
        self, answer: Answer, request: GenerateRequest, elapsed_s: float, *, aborted: bool = False
    ) -> Completion:
        return parse_generate(
            answer.status,
            answer.headers,
            answer.body,
            request,
            url=self.url,
            elapsed_s=elapsed_s,
            aborted=aborted,
        )

    def _abort_unheard(self, genkey: str) -> None:
        try:
            self.abort(genkey)
        except ServerError as err:
            _log.debug("%s: the abort failed: %s", self.url, err)

    def abort(self, genkey: str) -> bool:
        """Stop the job of that key; True if the server knew it, running or queued."""
        answer = self._api.post("/api/extra/abort", {"genkey": genkey}, read_timeout_s=QUICK_READ_S)
        return str(answer.get("success")).lower() == "true"  # a string, in 1.76 and 1.115.1
