"""ONE server, ONE attempt: a request in, a value or a named error out.

Trying again and choosing a server is the business of `pool`; whether the text is a reading of the
page is that of the reading engine. Nothing KoboldCpp does silently passes here as success.

JSON objects to and from one server; everything that answers at once, even while it generates.

Embeddings. KoboldCpp answers every failure with HTTP 200 and an empty vector: none gets out.

Asking a server what it is, and making sure that it is a KoboldCpp.

Telling a server that hangs from one that is slow. No clock and no HTTP here.

A limit on the whole request would have to know the machine: what takes a GPU seconds takes an old CPU an hour, and
other people's jobs stand before ours in the queue. So the *silence* is limited: the time without any sign of work, that
is without new text of ours and without a job of others coming to its end. A model that writes shows a token at a time,
however slow; only the reading of the prompt and image is silent for long, and how long follows from the speed that the
server itself reports.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from types import TracebackType
from typing import Any, Final, Self

from typing_extensions import override

from kobold_reader.errors import (
    ConfigError,
    ContextTooSmallError,
    ResponseFormatError,
    ServerConnectionError,
    ServerError,
    ServerHungError,
    ServerStatusError,
    ServerTimeoutError,
)
from kobold_reader.kobold.addresses import address_kind, normalize_url
from kobold_reader.kobold.answers import SETTINGS, classify_error, excerpt, no_vision_error, parse_generate, parse_json
from kobold_reader.kobold.transport import Answer, Job, Transport
from kobold_reader.kobold.values import Completion, ExpandedPrompt, GenerateRequest, ServerInfo, version_tuple

__all__ = [
    "IDLE_LIMIT_S",
    "LOOK_S",
    "OLDEST_VERSION",
    "QUEUE_READ_S",
    "QUICK_READ_S",
    "READ_S",
    "Api",
    "CancelledError",
    "Completion",
    "ExpandedPrompt",
    "GenerateRequest",
    "KoboldClient",
    "ServerInfo",
    "Silence",
    "address_kind",
    "ask_info",
    "ask_model",
    "classify_error",
    "embed",
    "parse_generate",
    "silence_limit_s",
]

READ_S: Final = 30.0
QUICK_READ_S: Final = 5.0
"""For progress and aborts: better none than a late one."""

QUEUE_READ_S: Final = 2 * 60 * 60.0
"""For what waits in the server's queue: silently, with nine others before it."""


class Api:
    """Exchanges of JSON objects; safe to use from several threads."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.url = transport.url
        self.closed = False

    def get(self, path: str, *, read_timeout_s: float = READ_S) -> Answer:
        """The unjudged answer."""
        self.refuse_if_closed()
        return self.transport.exchange(path, read_timeout_s=read_timeout_s)

    def get_object(self, path: str, *, read_timeout_s: float = READ_S) -> dict[str, Any]:
        """GET an object."""
        return self.as_object(self.get(path, read_timeout_s=read_timeout_s))

    def post(self, path: str, body: Mapping[str, object], *, read_timeout_s: float = READ_S) -> dict[str, Any]:
        """POST an object, get one."""
        self.refuse_if_closed()
        answer = self.transport.exchange(path, _dump(body), read_timeout_s=read_timeout_s)
        return self.as_object(answer)

    def as_object(self, answer: Answer) -> dict[str, Any]:
        """The object in an answer; a ServerError if it holds none."""
        value = parse_json(answer.status, answer.headers, answer.body, self.url)
        if not isinstance(value, dict):
            raise self.unexpected("is no JSON object", value)
        return value

    def unexpected(self, why: str, value: object) -> ResponseFormatError:
        """An error that shows what came instead."""
        shown = excerpt(repr(value).encode("utf-8", "backslashreplace"))
        return ResponseFormatError(f"{self.url}: the answer {why}: {shown}.", server=self.url)

    def refuse_if_closed(self) -> None:
        """Raise a ConfigError after `close`."""
        if self.closed:
            raise ConfigError(f"{self.url}: this client is closed.", server=self.url)

    def count_tokens(self, text: str) -> int:
        """Tokens of this very text, the start token included."""
        return self.token_count(self.post("/api/extra/tokencount", {"prompt": text, "special": True}))

    def token_count(self, answer: Mapping[str, Any]) -> int:
        """`value` of an answer of tokencount."""
        value = answer.get("value")
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.unexpected("holds no token count", value)
        return value


def _dump(body: Mapping[str, object]) -> bytes:
    """JSON in ASCII."""
    return json.dumps(body, allow_nan=False).encode("ascii")


def embed(api: Api, texts: Sequence[str]) -> list[list[float]]:
    """One vector per text, in order; see `KoboldClient.embed`."""
    if isinstance(texts, str):
        raise ConfigError("embed takes a list of texts, not one text.")
    if not texts:
        return []
    # Truncated, a text would lose its beginning (1.115.1 keeps the last tokens).
    body = {"input": list(texts), "truncate": False}
    answer = api.post("/v1/embeddings", body, read_timeout_s=QUEUE_READ_S)
    if answer.get("model") == "inactive":
        raise ServerError(
            f"{api.url}: KoboldCpp runs without an embedding model.",
            server=api.url,
            hint=f"Start it {SETTINGS['embeddingsmodel'].remedy('FILE')}.",
        )
    data = answer.get("data")
    if not isinstance(data, list) or len(data) != len(texts):
        raise api.unexpected(f"does not hold {len(texts)} vectors", data)
    vectors = [_vector(api, item, number) for number, item in enumerate(data)]
    if len({len(vector) for vector in vectors}) > 1:
        raise api.unexpected("mixes vectors of different lengths", [len(v) for v in vectors])
    return vectors


def _vector(api: Api, item: object, number: int) -> list[float]:
    vector = item.get("embedding") if isinstance(item, dict) else None
    if not isinstance(item, dict) or item.get("index") != number or not isinstance(vector, list):
        raise api.unexpected("holds no vectors in order", item)
    if not vector:
        raise ContextTooSmallError(
            f"{api.url}: the embedding model gave no vector for text {number + 1}; most likely it "
            "is empty or too long for the model.",
            server=api.url,
            hint="Send shorter pieces, or start KoboldCpp with a larger --embeddingsmaxctx.",
        )
    numbers = [x for x in vector if isinstance(x, int | float) and not isinstance(x, bool)]
    if len(numbers) != len(vector) or not all(map(math.isfinite, numbers)):
        raise api.unexpected("holds a vector that is not of numbers", vector)
    return [float(x) for x in numbers]


OLDEST_VERSION: Final = (1, 76)
"""Before it, too much of what is needed is missing (projectors, aborting one job) or answers otherwise."""
_NOT_FOUND: Final = 404
_OK: Final = 200


def ask_info(api: Api) -> ServerInfo:
    """Ask; see `KoboldClient.info`.

    A protected server masks the name of its model, so the password is proved first: tokencount
    answers 401 at once, where generate would wait for its turn.
    """
    version = _version(api)
    if version_tuple(version["version"]) < OLDEST_VERSION:
        oldest = ".".join(map(str, OLDEST_VERSION))
        raise ServerError(
            f"{api.url}: KoboldCpp {version['version']} is too old; {oldest} is the oldest that can read pages.",
            server=api.url,
            hint="Update KoboldCpp: it is one file, and the same models go on working.",
        )
    protected = version.get("protected") is True
    if protected:
        api.count_tokens("x")
    model = ask_model(api)
    template = _props(api).get("chat_template")
    embedding_model = version.get("embeddingModel")
    return ServerInfo(
        url=api.url,
        model=model,
        version=str(version["version"]),
        vision=version.get("vision") is True,
        protected=protected,
        jinja=version.get("jinja") is True,
        embeddings=version.get("embeddings") is True,
        embedding_model=embedding_model if isinstance(embedding_model, str) and embedding_model else None,
        context_tokens=_context_tokens(api),
        chat_template=template if isinstance(template, str) else None,
        text_model=version.get("llm") is not False,
    )


def ask_model(api: Api) -> str:
    """The stem of the model's file; one quick request."""
    model = api.get_object("/api/v1/model").get("result")
    if not isinstance(model, str):
        raise api.unexpected("names no model", model)
    return model.removeprefix("koboldcpp/")


def _version(api: Api) -> dict[str, Any]:
    try:
        version = api.get_object("/api/extra/version")
    except ServerStatusError as err:
        if err.status == _NOT_FOUND:
            raise _not_kobold(api, "it does not know /api/extra/version") from err
        raise
    except ResponseFormatError as err:
        why = err.message.removeprefix(f"{api.url}: ").partition(". It begins")[0].rstrip(".")
        raise _not_kobold(api, why, hint=err.hint) from err
    if version.get("result") != "KoboldCpp" or not isinstance(version.get("version"), str):
        name = version.get("result")
        raise _not_kobold(
            api, f"it calls itself {name[:60]!r}" if isinstance(name, str) else "it does not say what it is"
        )
    return version


def _not_kobold(api: Api, why: str, *, hint: str | None = None) -> ResponseFormatError:
    other = "" if hint else _other_server(api)
    if other:
        return ResponseFormatError(
            f"{api.url}: {other} answers there, not KoboldCpp.",
            server=api.url,
            hint="kobold-reader needs KoboldCpp, which reads the same GGUF files; its own port is 5001.",
        )
    return ResponseFormatError(
        f"{api.url}: something answers there, but it is no KoboldCpp ({why}).",
        server=api.url,
        hint=hint or "Look at the address and the port: KoboldCpp's own port is 5001.",
    )


def _other_server(api: Api) -> str:
    """The name of a well-known server that is no KoboldCpp, "" for anything else."""
    try:
        root = api.get("/")
        if root.status == _OK and root.body.strip() == b"Ollama is running":
            return "Ollama"
        models = api.get("/v1/models")
        if "llama.cpp" in _server_header(root) + _server_header(models):
            return "llama.cpp's own server"
        if isinstance(api.as_object(models).get("data"), list):
            return "an OpenAI-compatible server (vLLM, LM Studio or another)"
    except ServerError:
        pass  # whoever it is, it is not one of these
    return ""


def _server_header(answer: Answer) -> str:
    return next((value for name, value in answer.headers.items() if name.lower() == "server"), "")


def _props(api: Api) -> dict[str, Any]:
    """Since 1.79; {} before."""
    answer = api.get("/props")
    return {} if answer.status == _NOT_FOUND else api.as_object(answer)


def _context_tokens(api: Api) -> int:
    value = api.get_object("/api/extra/true_max_context_length").get("value")
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise api.unexpected("tells no context size", value)
    return value


LOOK_S: Final = 30.0
"""Between two questions to a silent server about what it is doing."""
FLOOR_S: Final = 600.0
"""No silence shorter than this is called a hang."""
UNMEASURED_S: Final = 1800.0
"""For the prompt of a server that has not measured its speed yet: its first image may be a slow one."""
PROMPT_TOKENS: Final = 16_384
"""So many tokens' time is allowed for a prompt: a large page with its image, four times over."""
TEXT_TOKENS: Final = 100
"""So many tokens' time is allowed between two signs of new text."""
IDLE_LIMIT_S: Final = 300.0
"""A server that says for so long that it has nothing to do has lost our job, or its answer was lost on the way."""


def silence_limit_s(perf: Mapping[str, Any], *, has_text: bool) -> float:
    """How long a server that works may show nothing, in s.

    Args:
        perf: Body of `/api/extra/perf`: `last_process` and `last_eval` are ms per token (1.76 and later).
        has_text: Whether it has begun to write; before, it reads prompt and image.
    """
    ms_per_token = perf.get("last_eval" if has_text else "last_process")
    if not isinstance(ms_per_token, int | float) or ms_per_token <= 0:
        return FLOOR_S if has_text else UNMEASURED_S
    return max(FLOOR_S, ms_per_token / 1000 * (TEXT_TOKENS if has_text else PROMPT_TOKENS))


class Silence:
    """How long one job has shown no sign of work.

    Args:
        now_s: Monotonic time at which it was sent.
    """

    def __init__(self, now_s: float) -> None:
        self._since_s = now_s
        self._next_look_s = now_s + 2 * LOOK_S
        self._text = ""
        self._perf: Mapping[str, Any] = {}
        self._idle_since_s: float | None = None

    def hear(self, text: str | None, now_s: float) -> None:
        """Take note of the job's text so far; None: it could not be learnt."""
        if text and text != self._text:
            self._text = text
            self._break(now_s)

    def wants_look(self, now_s: float) -> bool:
        """Tell whether the server is to be asked what it is doing."""
        return now_s >= self._next_look_s

    def look(self, perf: Mapping[str, Any] | None, now_s: float) -> None:
        """Take note of the server's counters; None: it did not answer."""
        self._next_look_s = now_s + LOOK_S
        if perf is None:
            return
        before, self._perf = self._perf, perf
        if before and any(before.get(key) != perf.get(key) for key in ("total_gens", "queue")):
            self._break(now_s)  # somebody else is being served
        if perf.get("idle") != 1 or perf.get("queue"):
            self._idle_since_s = None
        elif self._idle_since_s is None:
            self._idle_since_s = now_s

    def _break(self, now_s: float) -> None:
        self._since_s = now_s
        self._idle_since_s = None
        self._next_look_s = now_s + 2 * LOOK_S

    def lasts_s(self, now_s: float) -> float:
        """How long it has lasted."""
        return now_s - self._since_s

    def is_hang(self, now_s: float) -> bool:
        """Tell whether it has lasted longer than this server's work explains."""
        return self.lasts_s(now_s) >= silence_limit_s(self._perf, has_text=bool(self._text))

    def is_lost(self, now_s: float) -> bool:
        """Tell whether the server has had nothing to do all the while, though our job is not answered."""
        return self._idle_since_s is not None and now_s - self._idle_since_s >= IDLE_LIMIT_S


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
