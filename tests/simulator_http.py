"""The HTTP side of the simulated KoboldCpp: paths, headers, streams, what goes wrong on the way."""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from typing_extensions import override

from tests.simulator_parts import (
    ALLOWED_HEADERS,
    BAD_INPUT,
    MAX_BODY_BYTES,
    NO_VISION,
    NOT_FOUND,
    TOO_BIG,
    UNAUTHORIZED,
    Done,
    Fault,
    FaultKind,
    GoneError,
    Job,
    RecordedRequest,
    RefusedError,
    Task,
    detail,
)
from tests.simulator_requests import (
    ANY_JSON_GRAMMAR,
    INTERROGATE_PROMPT,
    chat_prompt,
    chat_task,
    completions_task,
    native_result,
    native_task,
    to_last_sentence,
    usage,
)

if TYPE_CHECKING:
    from tests.kobold_simulator import KoboldSimulator


class Server(ThreadingHTTPServer):
    """HTTP/1.0, a thread a connection, all of them joined at the end."""

    daemon_threads = False
    block_on_close = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, simulator: KoboldSimulator, port: int) -> None:
        super().__init__(("127.0.0.1", port), Handler, bind_and_activate=False)
        self.simulator = simulator
        self._connections: set[socket.socket] = set()
        self._connections_lock = threading.Lock()
        try:
            self.server_bind()
        except BaseException:
            self.server_close()
            raise

    @override
    def process_request(self, request: Any, client_address: Any) -> None:
        with self._connections_lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    @override
    def shutdown_request(self, request: Any) -> None:
        with self._connections_lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    @override
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Errors of connections are part of the play; `Handler` keeps all others."""

    def end(self) -> None:
        """Cut every open connection and wait for its thread."""
        with self._connections_lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    """Reads one request, answers it as KoboldCpp does, closes the connection."""

    server: Server
    server_version = "KoboldCppServer"
    sys_version = "1"
    protocol_version = "HTTP/1.0"
    record: RecordedRequest

    @override
    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""

    def do_GET(self) -> None:
        self._serve(self._get)

    def do_POST(self) -> None:
        self._serve(self._post)

    def do_HEAD(self) -> None:
        self._serve(lambda _: self._send(200, b"", "text/html", length=False))

    def do_OPTIONS(self) -> None:
        self._serve(lambda _: self._send(200, b"", "text/html", length=False))

    # --- one request ---

    @property
    def _simulator(self) -> KoboldSimulator:
        return self.server.simulator

    @property
    def _path(self) -> str:
        return urlsplit(self.path).path.rstrip("/")

    def _serve(self, answer: Callable[[bytes], None]) -> None:
        simulator = self._simulator
        try:
            raw = self._read_body()
            self._remember(raw)
            self._fault = self._next_fault()
            if self._fault is None or not self._spoiled(self._fault):
                answer(raw)
        except RefusedError as refused:
            self._json(refused.status, refused.body)
        except GoneError as gone:
            self._cut(reset=gone.reset)
        except OSError:
            self._cut(reset=False)
        except Exception as error:  # noqa: BLE001  # kept for the test, which must fail
            simulator.errors.append(error)
            self._cut(reset=False)

    def _read_body(self) -> bytes:
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            return b"".join(parts)
        length = int(self.headers.get("content-length") or 0)
        return self.rfile.read(length) if length else b""

    def _remember(self, raw: bytes) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.record = RecordedRequest(self.command, self.path, headers, raw, time.monotonic())
        with self._simulator._changed:
            self._simulator.requests.append(self.record)
            self._simulator._changed.notify_all()

    def _next_fault(self) -> Fault | None:
        simulator = self._simulator
        if simulator.fault_when is not None:
            fault = simulator.fault_when(self.record)
            if fault is not None:
                return fault
        if self.command != "POST" or not self._path.endswith(_TEXT_PATHS):
            return None
        with simulator._lock:
            return simulator._faults.popleft() if simulator._faults else None

    def _spoiled(self, fault: Fault) -> bool:
        """Faults that come instead of an answer."""
        if fault.kind is FaultKind.REPLY:
            self._send(fault.status, fault.body, fault.content_type, extra=fault.headers)
            return True
        if fault.kind in {FaultKind.CLOSE, FaultKind.RESET}:
            raise GoneError(reset=fault.kind is FaultKind.RESET)
        if fault.kind is FaultKind.ENDLESS:
            self._head(200, "application/json", length=None, stream=False)
            self.end_headers()
            self.wfile.write(b'{"results": [{"text": "')
            while True:  # a write fails once nobody listens
                self.wfile.write(b"page " * 13_000)
        return False

    def _cut(self, *, reset: bool) -> None:
        with suppress(OSError):
            if reset:
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                os.close(self.connection.detach())
            else:
                self.connection.shutdown(socket.SHUT_RDWR)

    # --- writing ---

    def _head(self, status: int, content_type: str, *, length: int | None, stream: bool) -> None:
        self.record.status = status
        self.send_response(status)
        if length is not None:
            self.send_header("content-length", str(length))
        if stream:
            self.send_header("X-Accel-Buffering", "no")
            self.send_header("cache-control", "no-cache, no-store")
            self.send_header("connection", "keep-alive")  # said, but not done
            self.close_connection = True
        self.send_header("access-control-allow-origin", "*")
        self.send_header("access-control-allow-methods", "*")
        self.send_header("access-control-allow-headers", ALLOWED_HEADERS)
        if not stream:
            self.send_header("cache-control", "no-store")
        self.send_header("content-type", content_type)

    def _send(
        self,
        status: int,
        data: bytes,
        content_type: str,
        *,
        length: bool = True,
        extra: Iterable[tuple[str, str]] = (),
    ) -> None:
        """One whole answer; only successes and 400 carry a content-length."""
        fault = self._fault.kind if self._fault else None
        size = len(data)
        if fault is FaultKind.TRUNCATED_JSON:
            data = data[: size // 2]
            size = len(data)
        elif fault is FaultKind.WRONG_LENGTH:
            data = data[: size // 2]
        elif fault is FaultKind.NOT_UTF8:
            data = data.replace(b'"text": "', b'"text": "\xff\xfe', 1)
            size = len(data)
        self._head(status, content_type, length=size if length else None, stream=False)
        for name, value in extra:
            self.send_header(name, value)
        self.end_headers()
        if fault is FaultKind.RESET_BODY:
            self.wfile.write(data[: size // 2])
            raise GoneError(reset=True)
        self.wfile.write(data)

    def _json(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self._send(status, data, "application/json", length=status in {200, 400})

    # --- GET ---

    def _get(self, _raw: bytes) -> None:
        path = self._path
        for suffix, answer in _GETS.items():
            if path.endswith(suffix) and not (self._simulator.old and suffix in _GETS_NOT_IN_176):
                status, body = answer(self)
                self._json(status, body)
                return
        page = NOT_FOUND.format(path=urlsplit(self.path).path).encode()
        self._send(404, page, "text/html", length=False)

    def _version(self) -> tuple[int, Any]:
        simulator = self._simulator
        start = {"result": "KoboldCpp", "version": simulator.version}
        protected = {"protected": bool(simulator.password)}
        vision = {"vision": simulator.vision}
        if simulator.old:
            return 200, {
                **start, **protected, "txt2img": False, **vision, "transcribe": False
            }  # fmt: skip
        no = dict.fromkeys(("audio", "transcribe", "multiplayer", "websearch", "tts"), False)
        return 200, {
            **start, **protected, "llm": True, "txt2img": False, **vision, **no,
            "embeddings": bool(simulator.embeddings_model), "music": False, "fs": False,
            "fsMode": "memory", "savedata": False, "admin": 0, "router": False,
            "guidance": False, "jinja": simulator.jinja, "mcp": False, "hasServerSaving": False,
            "hasAdminWithHF": False, "embeddingModel": simulator.embeddings_model or "",
            "canSearchDocuments": False, "hasOpenLumaraEnabled": False,
            "hasOpenLumaraAuthenticated": True,
        }  # fmt: skip

    def _model_name(self) -> tuple[int, Any]:
        name = self._simulator.model_name if self._allowed() else "koboldcpp/protected-model"
        return 200, {"result": name}

    def _context(self) -> tuple[int, Any]:
        return 200, {"value": self._simulator.context_size}

    def _max_length(self) -> tuple[int, Any]:
        return 200, {"value": 400 if self._simulator.old else 1024}

    def _props(self) -> tuple[int, Any]:
        simulator = self._simulator
        return 200, {
            "chat_template": simulator.chat_template,
            "id": 0,
            "id_task": -1,
            "total_slots": 1,
            "modalities": {"vision": simulator.vision, "audio": False},
            "model_path": simulator.model_name,
            "n_ctx": simulator.context_size,
            "default_generation_settings": {"n_ctx": simulator.context_size},
        }

    def _models(self) -> tuple[int, Any]:
        entry = {
            "id": self._simulator.model_name,
            "object": "model",
            "created": int(time.time()),
            "owned_by": "koboldcpp",
            "permission": [],
            "root": "koboldcpp",
        }
        return 200, {"object": "list", "data": [entry]}

    def _perf(self) -> tuple[int, Any]:
        return 200, self._simulator.perf()

    def _check_without_key(self) -> tuple[int, Any]:
        self._demand_key()
        return 200, {"results": [{"text": self._simulator.check("")}]}

    def _service(self) -> tuple[int, Any]:
        version = self._simulator.version
        home = "https://github.com/LostRuins/koboldcpp"
        logo = "https://raw.githubusercontent.com/LostRuins/koboldcpp/refs/heads/concedo/niko.ico"
        return 200, {
            "version": "0.2",
            "software": {
                "name": "KoboldCpp", "version": version, "repository": home, "homepage": home,
                "logo": logo,
            },
            "api": {
                "koboldai": {
                    "name": "KoboldAI API", "rel_url": "/api",
                    "documentation": "https://lite.koboldai.net/koboldcpp_api",
                    "version": version,
                },
                "openai": {
                    "name": "OpenAI API", "rel_url ": "/v1",
                    "documentation": "https://openai.com/documentation/api", "version": version,
                },
            },
        }  # fmt: skip

    # --- POST ---

    def _post(self, raw: bytes) -> None:
        if len(raw) > MAX_BODY_BYTES:
            raise RefusedError(TOO_BIG[0], detail(*TOO_BIG[1:]))
        path = self._path
        for suffix, answer in _POSTS.items():
            if path.endswith(suffix) and not (self._simulator.old and suffix in _POSTS_NOT_IN_176):
                answer(self, raw)
                return
        self._send(404, b"", "text/html", length=False)

    def _allowed(self) -> bool:
        password = self._simulator.password
        return not password or self.headers.get("authorization") == f"Bearer {password}"

    def _demand_key(self) -> None:
        if not self._allowed():
            raise RefusedError(401, UNAUTHORIZED)

    def _keyed(self, raw: bytes) -> str:
        self._demand_key()
        try:
            body = json.loads(raw)
        except ValueError:
            return ""
        return str(body.get("genkey") or "") if isinstance(body, dict) else ""

    def _check(self, raw: bytes) -> None:
        self._json(200, {"results": [{"text": self._simulator.check(self._keyed(raw))}]})

    def _abort(self, raw: bytes) -> None:
        success, done = self._simulator.abort(self._keyed(raw))
        self._json(200, {"success": success, "done": done})

    def _last_logprobs(self, raw: bytes) -> None:
        self._keyed(raw)
        self._json(200, {"logprobs": self._simulator._last_logprobs})

    def _tokencount(self, raw: bytes) -> None:
        self._demand_key()
        simulator = self._simulator
        try:
            body = json.loads(raw)
            if "messages" in body and simulator.expands_messages:
                prompt = chat_prompt(body["messages"], simulator)[0]
            else:
                prompt = body.get("prompt", "")
            pieces = simulator.tokenizer.pieces(prompt)
        except (ValueError, TypeError, AttributeError, KeyError):
            self._json(400, {"value": -1})
            return
        ids = [simulator.tokenizer.id_of(piece) for piece in pieces]
        if body.get("special", True):
            ids.insert(0, 0)
        answer = {"value": len(ids), "ids": ids}
        self._json(200, answer if simulator.old else {**answer, "prompt": prompt})

    def _detokenize(self, raw: bytes) -> None:
        self._demand_key()
        try:
            body = json.loads(raw)
            special = bool(body.get("special", True))
            tokenizer = self._simulator.tokenizer
            text = "".join(tokenizer.text_of(number, special=special) for number in body["ids"])
        except (ValueError, TypeError, AttributeError, KeyError):
            self._json(400, {"result": "", "success": False})
            return
        self._json(200, {"result": text, "success": True})

    def _grammar(self, raw: bytes) -> None:
        self._demand_key()
        try:
            json.loads(raw)
        except ValueError:
            self._json(400, {"result": "", "success": False})
            return
        self._json(200, {"result": ANY_JSON_GRAMMAR, "success": True})

    # --- POST: everything that needs the model ---

    @contextmanager
    def _with_model(self, raw: bytes, *, open_to_all: bool = False) -> Iterator[tuple[Job, Any]]:
        """Queue, then password, then JSON, in this order."""
        simulator = self._simulator
        simulator._limit_rate()
        job = Job(fault=self._fault)
        with simulator._model(job):
            if not open_to_all:
                self._demand_key()
            try:
                body = json.loads(raw)
            except ValueError:
                raise RefusedError(BAD_INPUT[0], detail(*BAD_INPUT[1:])) from None
            self.record.was_read(body)
            if not isinstance(body, dict):
                raise GoneError
            job.key = str(body.get("genkey") or "")
            yield job, body

    def _read(self, reader: Callable[[Any, KoboldSimulator], Task], body: Any) -> Task:
        """Read the fields; what cannot be read ends the connection without an answer."""
        try:
            return reader(body, self._simulator)
        except (TypeError, AttributeError, KeyError):
            raise GoneError from None

    def _client_left(self) -> bool:
        """Whether the other side has closed its connection."""
        try:
            if select.select([self.connection], [], [], 0)[0]:
                return not self.connection.recv(1, socket.MSG_PEEK)
        except (OSError, ValueError):
            return True
        return False

    def _generate(self, raw: bytes) -> None:
        with self._with_model(raw) as (job, body):
            try:
                task = native_task(body, self._simulator)
            except (TypeError, AttributeError):
                answer: Any = None  # an exception inside: 200 and null
            else:
                done = self._simulator._generate(task, job)
                answer = {"results": [native_result(done, old=self._simulator.old)]}
            data = json.dumps(answer).encode()  # written while the model is still held, as the real one does
        self._send(200, data, "application/json")

    def _stream(self, raw: bytes) -> None:
        def event(token: str, finish: str | None) -> bytes:
            data = json.dumps({"token": token, "finish_reason": finish})
            return f"event: message\ndata: {data}\n\n".encode()

        with self._with_model(raw) as (job, body):
            task = self._read(native_task, body)
            self._begin_stream()
            out = Lumps(self, job, lambda token: event(token, None))
            done = self._simulator._generate(task, job, out.told)
            out.close(done.text)
        if not job.aborted and not self._unfinished():
            self._write(event("", done.finish_reason))

    def _chat(self, raw: bytes) -> None:
        with self._with_model(raw) as (job, body):
            task = self._read(chat_task, body)
            if body.get("stream"):
                done, tail = self._chat_stream(task, job)
                answer = None
            else:
                done, tail = self._simulator._generate(task, job), []
                answer = self._chat_answer(done)
        if answer is not None:
            self._json(200, answer)
        elif not job.aborted and not self._unfinished():
            for chunk in tail:
                self._write(chunk)

    def _chat_answer(self, done: Done) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": done.text}
        choice: dict[str, Any] = {"index": 0, "message": message}
        choice["finish_reason"] = done.finish_reason
        if not self._simulator.old:
            message["tool_calls"] = []
            choice["logprobs"] = done.logprobs
        return {
            **self._openai("chatcmpl", "chat.completion"),
            "usage": usage(done, old=self._simulator.old),
            "choices": [choice],
        }

    def _openai(self, prefix: str, kind: str) -> dict[str, Any]:
        number = time.monotonic_ns() // 1000 % 10**6
        return {
            "id": prefix if self._simulator.old else f"{prefix}-A{number:06d}",
            "object": kind,
            "created": int(time.time()),
            "model": self._simulator.model_name,
        }

    def _chat_stream(self, task: Task, job: Job) -> tuple[Done, list[bytes]]:
        head = self._openai("chatcmpl", "chat.completion.chunk")

        def chunk(token: str, finish: str | None) -> bytes:
            delta = {"role": "assistant", "content": token}
            choice = {"index": 0, "finish_reason": finish, "delta": delta}
            return f"data: {json.dumps({**head, 'choices': [choice]})}\n\n".encode()

        self._begin_stream()
        out = Lumps(self, job, lambda token: chunk(token, None))
        done = self._simulator._generate(task, job, out.told)
        out.close(done.text)
        tail = [chunk("", done.finish_reason)]
        options = task.body.get("stream_options")
        if isinstance(options, dict) and options.get("include_usage"):
            last = {**head, "choices": [], "usage": usage(done, old=self._simulator.old)}
            tail.append(f"data: {json.dumps(last)}\n\n".encode())
        tail.append(b"data: [DONE]" if self._simulator.old else b"data: [DONE]\n\n")
        return done, tail

    def _completions(self, raw: bytes) -> None:
        with self._with_model(raw) as (job, body):
            done = self._simulator._generate(self._read(completions_task, body), job)
        choice = {"text": done.text, "index": 0, "finish_reason": done.finish_reason}
        if not self._simulator.old:
            choice["logprobs"] = done.logprobs
        self._json(
            200,
            {
                **self._openai("cmpl", "text_completion"),
                "usage": usage(done, old=self._simulator.old),
                "choices": [choice],
            },
        )

    def _interrogate(self, raw: bytes) -> None:
        if not self._simulator.vision:
            message = "No LLaVA model loaded" if self._simulator.old else NO_VISION[1]
            raise RefusedError(503, detail(message, NO_VISION[2]))
        with self._with_model(raw, open_to_all=True) as (job, body):
            task = native_task(
                {
                    "prompt": INTERROGATE_PROMPT,
                    "max_length": 42 if self._simulator.old else 150,
                    "images": [body.get("image") or ""],
                    "temperature": body.get("temperature"),
                },
                self._simulator,
            )
            done = self._simulator._generate(task, job)
        self._json(200, {"caption": to_last_sentence(done.text)})

    def _embeddings(self, raw: bytes) -> None:
        with self._with_model(raw) as (_, body):
            answer = self._simulator.embed(body)
        self._json(200, answer)

    def _unfinished(self) -> bool:
        return self._fault is not None and self._fault.kind is FaultKind.NO_FINISH

    def _begin_stream(self) -> None:
        self._head(200, "text/event-stream", length=None, stream=True)
        self.end_headers()

    def _write(self, data: bytes) -> None:
        self.wfile.write(data)

    _fault: Fault | None = None


class Lumps:
    """Sends a growing text in events; a client that went away ends the generation."""

    def __init__(self, handler: Handler, job: Job, event: Callable[[str], bytes]) -> None:
        self._handler = handler
        self._job = job
        job.lost = handler._client_left
        self._event = event
        self._sent = 0
        self._tokens = 0

    def told(self, certain: str) -> None:
        """The text that is certain by now; without a pace several tokens go in one event."""
        self._tokens += 1
        if self._handler._simulator.tokens_per_s is None and self._tokens % 5 != 2:
            return
        if self._handler._client_left():
            self._job.aborted = True
            return
        self._send(certain)

    def close(self, text: str) -> None:
        """What is left when the answer has ended."""
        if not self._job.aborted:
            self._send(text)

    def _send(self, text: str) -> None:
        if len(text) > self._sent:
            try:
                self._handler._write(self._event(text[self._sent :]))
            except OSError:
                self._job.aborted = True
            self._sent = len(text)


_Get = Callable[[Handler], tuple[int, Any]]
_Post = Callable[[Handler, bytes], None]


def _constant(body: Any, status: int = 200) -> _Get:
    return lambda _: (status, body)


_GETS: dict[str, _Get] = {
    "/api/extra/version": Handler._version,
    "/api/v1/info/version": _constant({"result": "1.2.5"}),
    "/api/latest/info/version": _constant({"result": "1.2.5"}),
    "/api/v1/model": Handler._model_name,
    "/api/latest/model": Handler._model_name,
    "/api/extra/true_max_context_length": Handler._context,
    "/api/v1/config/max_context_length": Handler._context,
    "/api/latest/config/max_context_length": Handler._context,
    "/api/v1/config/max_length": Handler._max_length,
    "/api/latest/config/max_length": Handler._max_length,
    "/api/v1/config/soft_prompt": _constant({"value": ""}),
    "/api/extra/perf": Handler._perf,
    "/api/extra/generate/check": Handler._check_without_key,
    "/v1/models": Handler._models,
    "/props": Handler._props,
    "/ping": _constant({"status": "healthy"}),
    "/slots": _constant(
        {
            "error": {
                "code": 501,
                "message": "This server does not support slots endpoint.",
                "type": "not_supported_error",
            }
        },
        501,
    ),
    "/.well-known/serviceinfo": Handler._service,
}
_GETS_NOT_IN_176 = {"/props", "/ping", "/slots"}
_POSTS: dict[str, _Post] = {
    "/api/v1/generate": Handler._generate,
    "/api/latest/generate": Handler._generate,
    "/api/extra/generate/stream": Handler._stream,
    "/api/extra/generate/check": Handler._check,
    "/api/extra/abort": Handler._abort,
    "/api/extra/last_logprobs": Handler._last_logprobs,
    "/api/extra/tokencount": Handler._tokencount,
    "/api/extra/detokenize": Handler._detokenize,
    "/api/extra/json_to_grammar": Handler._grammar,
    "/chat/completions": Handler._chat,
    "/completions": Handler._completions,
    "/v1/embeddings": Handler._embeddings,
    "/api/extra/embeddings": Handler._embeddings,
    "/sdapi/v1/interrogate": Handler._interrogate,
}
_POSTS_NOT_IN_176 = {
    "/api/extra/last_logprobs",
    "/api/extra/detokenize",
    "/api/extra/json_to_grammar",
    "/v1/embeddings",
    "/api/extra/embeddings",
}
_TEXT_PATHS = ("/generate", "/generate/stream", "/completions")
