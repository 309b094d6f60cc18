"""One KoboldCpp server, one attempt: a request becomes a value or a named error.

`pool` tries again and chooses servers; the reading engine decides whether the text is a reading of the page. KoboldCpp
reports many failures as success (HTTP 200 with an empty vector, a dropped image); here they are errors. The client also
asks a server what it is, and makes sure that it is a KoboldCpp.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, wait
from typing import Any, Self

from typing_extensions import override

from kobold_reader.errors import (
    ConfigError,
    ContextTooSmallError,
    ResponseFormatError,
    ServerBusyError,
    ServerConnectionError,
    ServerError,
    ServerHungError,
    ServerStatusError,
    ServerTimeoutError,
)
from kobold_reader.kobold.addresses import normalize_url
from kobold_reader.kobold.protocol import (
    SETTINGS,
    Completion,
    ExpandedPrompt,
    GenerateRequest,
    HttpAnswer,
    ServerInfo,
    is_count,
    no_vision_error,
    parse_generate,
    version_tuple,
)
from kobold_reader.kobold.transport import QUICK_READ_S, Transport, was_reached

log = logging.getLogger(__name__)

OLDEST_VERSION = "1.76"
"""Older ones lack too much of what is needed (projectors, aborting one job) or answer otherwise."""
OK, NOT_FOUND, BUSY = 200, 404, 503
QUEUE_READ_S = 2 * 60 * 60.0
"""For a request that waits in the server's queue, silently, with nine others before it."""
LONGEST_READ_S = 7 * 24 * 3600.0
"""For generate without a time limit: the socket is silent until the whole answer is there; `Silence` watches."""
WATCH_S = 0.1
"""How soon a cancel is seen. Windows sees Ctrl-C only between two waits."""
QUIET_LOOK_S = 10.0
"""Between two looks at the text that no caller wants to see."""
ABORT_AGAIN_S = 0.25
OWN_LOCK_S = 0.15
"""KoboldCpp stays locked for 50 ms after an answer, on a loaded machine longer. With `--multiuser 0` the
next request is refused until then."""


class KoboldClient:
    """Speaks with one KoboldCpp server; safe to use from several threads.

    Args:
        url: As people write it, also without a scheme or ending in `/api/v1`.
        password: What the server was started with (`--password`).
        connect_timeout_s: For the TCP connection of every request.
        clock: Monotonic seconds.
        poll_interval_s: Between two looks at the text being written.
        abort_grace_s: How long to wait for the server to take an abort, and then for its answer if it is wanted.
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
        self._transport = Transport(self.url, password, connect_timeout_s)
        self._clock = clock
        self._poll_interval_s = poll_interval_s
        self._abort_grace_s = abort_grace_s
        self._info: ServerInfo | None = None
        self._answered_s = -math.inf
        """When the last answer of the model came, on `time.monotonic`."""
        self.prompt_cache: dict[tuple[str, ...], ExpandedPrompt] = {}
        """For `render_prompt`; emptied whenever the server is asked about itself again."""

    @override
    def __repr__(self) -> str:
        secret = ", password=…" if self._has_password else ""
        return f"KoboldClient({self.url!r}{secret})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Refuse further requests; no connection is kept between them."""
        self._transport.closed = True

    # ── what the server is ──────────────────────────────────────────────────────────────────────

    def info(self, *, refresh: bool = False) -> ServerInfo:
        """Return what the server reports about itself; asked once, then remembered.

        Raises:
            ServerConnectionError: No answer.
            AuthenticationError: The password is missing or wrong.
            ResponseFormatError: Something answers, but it is not KoboldCpp.
        """
        if self._info is None or refresh:
            self._info = None
            info = self._ask_info()
            self.prompt_cache.clear()
            self._info = info
        return self._info

    def _ask_info(self) -> ServerInfo:
        server, version = self._transport, self._version()
        if version_tuple(version["version"]) < version_tuple(OLDEST_VERSION):
            raise ServerError(
                f"{self.url}: KoboldCpp {version['version']} is too old; {OLDEST_VERSION} is the oldest that can read "
                "pages.",
                server=self.url,
                hint="Update KoboldCpp: it is one file, and the same models still work.",
            )
        protected = version.get("protected") is True
        if protected:
            # It masks the name of its model. tokencount answers a wrong password with 401 at once; generate would wait
            # for its turn.
            self.count_tokens("x")
        model = self.model()
        props = server.exchange("/props")  # since 1.79
        template = None if props.status == NOT_FOUND else server.as_object(props).get("chat_template")
        embedding_model = version.get("embeddingModel")
        context = server.get("/api/extra/true_max_context_length")
        return ServerInfo(
            url=self.url,
            model=model,
            version=str(version["version"]),
            vision=version.get("vision") is True,
            protected=protected,
            jinja=version.get("jinja") is True,
            embeddings=version.get("embeddings") is True,
            embedding_model=embedding_model if isinstance(embedding_model, str) and embedding_model else None,
            context_tokens=self._natural_number(context, "holds no context size"),
            chat_template=template if isinstance(template, str) else None,
            text_model=version.get("llm") is not False,
        )

    def _version(self) -> dict[str, Any]:
        try:
            version = self._transport.get("/api/extra/version")
        except ServerStatusError as err:
            if err.status == NOT_FOUND:
                raise self._not_koboldcpp("it does not know /api/extra/version") from err
            raise
        except ResponseFormatError as err:
            why = err.message.removeprefix(f"{self.url}: ").partition(". It begins")[0].rstrip(".")
            raise self._not_koboldcpp(why, hint=err.hint) from err
        name = version.get("result")
        if name != "KoboldCpp" or not isinstance(version.get("version"), str):
            why = f"it calls itself {name[:60]!r}" if isinstance(name, str) else "it does not say what it is"
            raise self._not_koboldcpp(why)
        return version

    def _not_koboldcpp(self, why: str, *, hint: str | None = None) -> ResponseFormatError:
        if not hint and (other := self._other_server()):
            return ResponseFormatError(
                f"{self.url}: {other} answers there, not KoboldCpp.",
                server=self.url,
                hint="kobold-reader needs KoboldCpp, which reads the same GGUF files; its own port is 5001.",
            )
        return ResponseFormatError(
            f"{self.url}: something answers there, but it is not KoboldCpp ({why}).",
            server=self.url,
            hint=hint or "Look at the address and the port: KoboldCpp's own port is 5001.",
        )

    def _other_server(self) -> str:
        """Return the name of a well-known server that is not KoboldCpp; "" for anything else."""
        try:
            root = self._transport.exchange("/")
            if root.status == OK and root.body.strip() == b"Ollama is running":
                return "Ollama"
            models = self._transport.exchange("/v1/models")
            if "llama.cpp" in root.header("server") + models.header("server"):
                return "llama.cpp's own server"
            if isinstance(self._transport.as_object(models).get("data"), list):
                return "an OpenAI-compatible server (vLLM, LM Studio or another)"
        except ServerError:
            pass  # not one of these
        return ""

    def _natural_number(self, answer: dict[str, Any], otherwise: str) -> int:
        """Return `value` of an answer; raise a ResponseFormatError that says `otherwise` if it is no count."""
        value = answer.get("value")
        if not is_count(value):
            raise self._transport.unexpected(otherwise, value)
        return value

    def model(self) -> str:
        """Return the model that is loaded now, asked anew; see `ServerInfo.model`. Raises as `info`."""
        model = self._transport.get("/api/v1/model").get("result")
        if not isinstance(model, str):
            raise self._transport.unexpected("names no model", model)
        return model.removeprefix("koboldcpp/")

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
        """Return the counters of `/api/extra/perf`: `queue`, `idle`, `stop_reason`, `uptime` and speeds."""
        return self._transport.get("/api/extra/perf")

    # ── tokens and vectors ──────────────────────────────────────────────────────────────────────

    def expand(self, messages: list[dict[str, str]]) -> ExpandedPrompt:
        """Return the messages as the server's chat template writes them, with their token count.

        Send that text with `replace_instruct_placeholders=False`: it has the same tokens then
        (measured on KoboldCpp 1.115.1).

        Raises:
            ResponseFormatError: The server does not expand messages (1.76 and others before 1.115).
        """
        answer = self._transport.post("/api/extra/tokencount", {"messages": messages})
        text, tokens = answer.get("prompt"), self._natural_number(answer, "holds no token count")
        if not isinstance(text, str) or not text:
            raise self._transport.unexpected("holds no expanded prompt", text)
        return ExpandedPrompt(text=text, tokens=tokens)

    def count_tokens(self, text: str) -> int:
        """Return the tokens of this very text, the start token included; placeholders are not expanded."""
        answer = self._transport.post("/api/extra/tokencount", {"prompt": text, "special": True})
        return self._natural_number(answer, "holds no token count")

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return one vector per text, in order.

        KoboldCpp answers every failure with HTTP 200 and an empty vector; none is ever returned.

        Raises:
            ContextTooSmallError: A text is too long for the embedding model.
            ServerError: No embedding model is loaded.
        """
        if isinstance(texts, str):
            raise ConfigError("embed takes a list of texts, not one text.")
        if not texts:
            return []
        # A truncated text would lose its beginning (1.115.1 keeps the last tokens).
        body = {"input": list(texts), "truncate": False}
        since_answer_s = time.monotonic() - self._answered_s
        try:
            answer = self._transport.post("/v1/embeddings", body, read_timeout_s=QUEUE_READ_S)
        except ServerBusyError as err:
            raise self._named(err, since_answer_s) from None
        self._answered_s = time.monotonic()
        if answer.get("model") == "inactive":
            raise ServerError(
                f"{self.url}: KoboldCpp runs without an embedding model.",
                server=self.url,
                hint=f"Start it {SETTINGS['embeddingsmodel'].remedy('FILE')}.",
            )
        data = answer.get("data")
        if not isinstance(data, list) or len(data) != len(texts):
            raise self._transport.unexpected(f"does not hold {len(texts)} vectors", data)
        vectors = [self._vector(item, number) for number, item in enumerate(data)]
        if len({len(vector) for vector in vectors}) > 1:
            raise self._transport.unexpected("mixes vectors of different lengths", [len(v) for v in vectors])
        return vectors

    def _vector(self, item: object, number: int) -> list[float]:
        vector = item.get("embedding") if isinstance(item, dict) else None
        if not isinstance(item, dict) or item.get("index") != number or not isinstance(vector, list):
            raise self._transport.unexpected("holds no vectors in order", item)
        if not vector:
            raise ContextTooSmallError(
                f"{self.url}: the embedding model gave no vector for text {number + 1}; most likely it is empty or too "
                "long for the model.",
                server=self.url,
                hint="Send shorter pieces, or start KoboldCpp with a larger --embeddingsmaxctx.",
            )
        numbers = [float(x) for x in vector if isinstance(x, int | float) and not isinstance(x, bool)]
        if len(numbers) != len(vector) or not all(map(math.isfinite, numbers)):
            raise self._transport.unexpected("holds a vector that is not of numbers", vector)
        return numbers

    # ── generate ────────────────────────────────────────────────────────────────────────────────

    def generate(
        self,
        request: GenerateRequest,
        *,
        time_limit_s: float | None = None,
        on_progress: Callable[[str], bool] | None = None,
        cancel: threading.Event | None = None,
    ) -> Completion:
        """Send a request once, wait for the answer, and leave nothing running on the server.

        If this ends without an answer (time limit, cancel, Ctrl-C, an error in `on_progress`, a broken connection), the
        job is aborted on the server, also while it is still queued. The call returns as soon as the server has taken
        the abort.

        Args:
            request: The prompt and how to answer it.
            time_limit_s: For the whole, the wait in the server's queue included. None: as long as the server shows any
                sign of work (see `Silence`).
            on_progress: Called in this thread with the text so far, about every `poll_interval_s` ("" while it is
                queued or reads the prompt). False aborts, and the text so far is returned with the ending `aborted`.
            cancel: Set by another thread to abort.

        Raises:
            ServerTimeoutError: The time limit.
            ServerHungError: No time limit was given, and no sign of work came.
            CancelledError: `cancel` was set (`concurrent.futures.CancelledError`).
            ServerError: As `parse_generate` and `Transport.exchange`.
        """
        if cancel is not None and cancel.is_set():
            raise CancelledError
        genkey = f"KR-{uuid.uuid4().hex}"
        body = request.body(genkey)
        self._transport.refuse_if_closed()
        since_answer_s = time.monotonic() - self._answered_s
        started = self._clock()
        read_s = LONGEST_READ_S if time_limit_s is None else time_limit_s + 60.0
        job: Future[HttpAnswer] = Future()
        try:
            self._transport.begin_post(job, "/api/v1/generate", body, read_timeout_s=read_s)
            seen = self._watch(job, genkey, started, time_limit_s, on_progress, cancel)
        except BaseException:
            self._stop(job, genkey)
            raise
        if seen is None:
            elapsed_s = self._clock() - started
            try:
                answer = job.result()
            except ServerConnectionError as err:
                if was_reached(err):
                    self._try_abort(genkey)  # the connection broke; the server may be writing on
                raise
            if answer.status in (502, 504):
                self._try_abort(genkey)  # a proxy gave up; its server may be writing on
            try:
                completion = parse_generate(answer, request, url=self.url, elapsed_s=elapsed_s)
            except ServerBusyError as err:
                raise self._named(err, since_answer_s) from None
            self._answered_s = time.monotonic()
            return completion
        if self._stop(job, genkey):
            wait([job], self._abort_grace_s)
        self._answered_s = time.monotonic()
        elapsed_s = self._clock() - started
        if job.done():
            try:
                return parse_generate(job.result(), request, url=self.url, elapsed_s=elapsed_s, aborted=True)
            except ServerError as err:
                log.debug("%s: no answer to the aborted job: %s", self.url, err)
        return Completion(text=seen, ending="aborted", elapsed_s=elapsed_s)

    def _named(self, error: ServerBusyError, since_answer_s: float) -> ServerBusyError:
        """Return the error for a busy server, or the one that tells that it only closes its last answer to us."""
        if error.status != BUSY or error.retry_after_s is not None or since_answer_s > OWN_LOCK_S:
            return error
        own = ServerBusyError(
            f"{self.url}: it is still closing its last answer, and lets no request wait meanwhile.",
            server=error.server,
            status=error.status,
            detail_type=error.detail_type,
            detail_msg=error.detail_msg,
        )
        own.is_own_lock = True
        return own

    def _watch(
        self,
        job: Future[HttpAnswer],
        genkey: str,
        started: float,
        time_limit_s: float | None,
        on_progress: Callable[[str], bool] | None,
        cancel: threading.Event | None,
    ) -> str | None:
        """Wait until the job is done (None), or `on_progress` has enough (the text it saw)."""
        interval_s = self._poll_interval_s if on_progress is not None else max(self._poll_interval_s, QUIET_LOOK_S)
        next_look = started + interval_s
        silence = Silence(started)
        while not wait([job], WATCH_S if time_limit_s is None else min(WATCH_S, time_limit_s)).done:
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
            perf = self._transport.get("/api/extra/perf", read_timeout_s=QUICK_READ_S)
        except ServerError as err:
            log.debug("%s: silent, and does not tell what it is doing: %s", self.url, err)
            perf = None
        now_s = self._clock()
        silence.look(perf, now_s)
        if silence.is_lost(now_s):
            raise ServerConnectionError(
                f"{self.url}: the server reports that it has nothing to do, but an answer to the job never came.",
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
        """Return the text written so far; None if the server did not tell, which is no error."""
        try:
            answer = self._transport.post("/api/extra/generate/check", {"genkey": genkey}, read_timeout_s=QUICK_READ_S)
            text = answer["results"][0]["text"]
        except (ServerError, KeyError, IndexError, TypeError) as err:
            log.debug("%s: no progress: %s", self.url, err)
            return None
        return text if isinstance(text, str) else None

    def abort(self, genkey: str) -> bool:
        """Stop the job of that key; return True if the server knew it, running or queued."""
        answer = self._transport.post("/api/extra/abort", {"genkey": genkey}, read_timeout_s=QUICK_READ_S)
        return str(answer.get("success")).lower() == "true"  # a string, in 1.76 and 1.115.1

    def _try_abort(self, genkey: str) -> bool:
        try:
            return self.abort(genkey)
        except ServerError as err:
            log.debug("%s: the abort failed: %s", self.url, err)
            return False

    def _stop(self, job: Future[HttpAnswer], genkey: str) -> bool:
        """Abort the job on the server; return whether the server took it.

        An abort that comes before the request itself is answered "false", so it is repeated until the server takes it.
        One for a queued job is remembered by the server.
        """
        deadline = time.monotonic() + self._abort_grace_s
        while not job.done() and time.monotonic() < deadline:
            if self._try_abort(genkey):
                return True
            wait([job], ABORT_AGAIN_S)
        if not job.done():
            log.warning("%s: took no abort; it may still be writing.", self.url)
        return False


# ── a server that hangs, and one that is slow ─────────────────────────────────────────────────────

LOOK_S = 30.0
"""Between two questions to a silent server about what it is doing."""
FLOOR_S = 600.0
"""No silence shorter than this is called a hang."""
UNMEASURED_S = 1800.0
"""For the prompt of a server that has not measured its speed yet: its first image may be a slow one."""
PROMPT_TOKENS = 16_384
"""A prompt is allowed the time of this many tokens: a large page with its image, four times over."""
MEASURING_TOKENS = 128
"""A prompt of fewer tokens tells no speed: of one that the server still had in its memory a single token is processed,
and 1.76 counts all the time for the image against it."""
TEXT_TOKENS = 100
"""Allowed between two signs of new text, in tokens."""
IDLE_LIMIT_S = 300.0
"""A server that reports itself idle for this long has lost the job, or its answer was lost."""


def silence_limit_s(perf: Mapping[str, Any], *, has_text: bool) -> float:
    """Return for how many seconds a server that works may show no sign of it.

    Args:
        perf: Body of `/api/extra/perf`: `last_process` and `last_eval` are ms per token (1.76 and later). How many
            tokens of the last prompt were processed is in `last_input_count`, which 1.76 does not have.
        has_text: Whether it has begun to write; before, it reads prompt and image.
    """
    if not has_text and not _is_measured(perf.get("last_input_count")):
        return UNMEASURED_S
    ms_per_token = perf.get("last_eval" if has_text else "last_process")
    if not isinstance(ms_per_token, int | float) or ms_per_token <= 0:
        return FLOOR_S if has_text else UNMEASURED_S
    return max(FLOOR_S, ms_per_token / 1000 * (TEXT_TOKENS if has_text else PROMPT_TOKENS))


def _is_measured(prompt_tokens: object) -> bool:
    return isinstance(prompt_tokens, int) and prompt_tokens >= MEASURING_TOKENS


class Silence:
    """How long one job has shown no sign of work. The caller gives all times, on a monotonic clock.

    A limit on the whole request would have to know the machine: what takes a GPU seconds takes an old CPU an hour, and
    jobs of others come first in the queue. So the *silence* is limited: the time without new text of the job and
    without the end of another client's job. A model that writes shows one token after the other, however slow. Only the
    reading of prompt and image is silent for long; how long follows from the speed that the server reports.
    """

    def __init__(self, now_s: float) -> None:
        self._text = ""
        self._perf: Mapping[str, Any] = {}
        self._idle_since_s: float | None = None
        self._break(now_s)

    def hear(self, text: str | None, now_s: float) -> None:
        """Note the job's text so far; None: the server did not tell."""
        if text and text != self._text:
            self._text = text
            self._break(now_s)

    def wants_look(self, now_s: float) -> bool:
        """Tell whether to ask the server what it is doing."""
        return now_s >= self._next_look_s

    def look(self, perf: Mapping[str, Any] | None, now_s: float) -> None:
        """Note the server's counters; None: it did not answer."""
        self._next_look_s = now_s + LOOK_S
        if perf is None:
            return
        before, self._perf = self._perf, perf
        if before and any(before.get(key) != perf.get(key) for key in ("total_gens", "queue")):
            self._break(now_s)  # another client is being served
        if perf.get("idle") != 1 or perf.get("queue"):
            self._idle_since_s = None
        elif self._idle_since_s is None:
            self._idle_since_s = now_s

    def _break(self, now_s: float) -> None:
        self._since_s = now_s
        self._idle_since_s = None
        self._next_look_s = now_s + 2 * LOOK_S

    def lasts_s(self, now_s: float) -> float:
        """Return how long the server has been silent."""
        return now_s - self._since_s

    def is_hang(self, now_s: float) -> bool:
        """Tell whether the silence is longer than this server's work explains."""
        return self.lasts_s(now_s) >= silence_limit_s(self._perf, has_text=bool(self._text))

    def is_lost(self, now_s: float) -> bool:
        """Tell whether the server has been idle for long without an answer to the job."""
        return self._idle_since_s is not None and now_s - self._idle_since_s >= IDLE_LIMIT_S
