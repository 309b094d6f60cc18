"""A KoboldCpp that stands in for the real one: a loopback HTTP server, no model, no GPU.

It is written against recordings of KoboldCpp 1.115.1 and, for `version="1.76"`, against that
release's source; not against the client. What it answers is decided by a `Brain`.

    with KoboldSimulator(brain=ScriptBrain(["first page", "second page"])) as server:
        requests.post(f"{server.url}/api/v1/generate", json={"prompt": "Read.", "max_length": 50})
"""

import base64
import itertools
import math
import re
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from tests.simulator_http import Server
from tests.simulator_model import (
    ADAPTERS,
    Adapter,
    Answer,
    Brain,
    BrainRequest,
    EyesBrain,
    Projector,
    ScriptBrain,
    Tokenizer,
    clean_base64,
    decode_image,
    guess_adapter,
)
from tests.simulator_parts import (
    BUSY,
    MEDIA_INTRO_TOKENS,
    Done,
    Fault,
    FaultKind,
    GoneError,
    Job,
    Media,
    RecordedRequest,
    RefusedError,
    Task,
    detail,
)
from tests.simulator_speaker import Speaker, hashed_vector, held_already, pieces_held

__all__ = [
    "Answer",
    "Brain",
    "BrainRequest",
    "EyesBrain",
    "Fault",
    "FaultKind",
    "KoboldSimulator",
    "RecordedRequest",
    "ScriptBrain",
]

LOCKED_AFTER_ANSWER_S = 0.05

CHATML_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

GLM_START = "[gMASK]<sop>"
GEMMA_4_THOUGHT = r"<|channel>thought\n<channel|>"
GEMMA_4_CHANNEL = ("<|channel>", "<channel|>")


class KoboldSimulator:
    """A simulated KoboldCpp on a loopback port; use it in a `with` statement.

    Measured on KoboldCpp 1.115.1 (the recordings say how); `version="1.76"` answers as that
    release's source says. Arguments are named like KoboldCpp's options where one exists.
    `token_counts` teaches token numbers of whole texts; `linger_s` keeps the model locked after
    an answer: 0.05 s with `multiuser=0`, as a real server does always, else 0 so that tests need
    not wait. With `service_s` every generation takes that long, whatever this machine needs for it;
    `busy` holds when each ran.
    """

    def __init__(
        self,
        *,
        model: str = "lab-chain-256",
        model_name: str | None = None,
        version: str = "1.115.1",
        vision: bool = True,
        projector: str | None = "qwen2vl",
        context_size: int = 16384,
        chat_template: str = CHATML_TEMPLATE,
        adapter: str | None = None,
        password: str | None = None,
        multiuser: int = 10,
        visionmaxres: int = 1024,
        encoder_px: int | None = None,
        mrope: bool = False,
        embeddings_model: str | None = None,
        embedding_dimensions: int = 96,
        embedding_context: int = 512,
        jinja: bool = False,
        brain: Brain | None = None,
        tokens_per_s: float | None = None,
        prompt_seconds: float = 0.0,
        service_s: float | None = None,
        default_genamt: int = 2048,
        genlimit: int | None = None,
        ratelimit_s: float | None = None,
        loading: bool = False,
        linger_s: float | None = None,
        token_counts: Mapping[str, int] | None = None,
        embedding_token_counts: Mapping[str, int] | None = None,
        port: int = 0,
    ) -> None:
        self.model = model
        self.model_name = model_name or f"koboldcpp/{model}"
        self.version = version
        self.projector = projector if vision else None
        self.context_size = context_size
        self.chat_template = chat_template
        self.adapter = adapter
        self.password = password
        self.multiuser = multiuser
        self.visionmaxres = visionmaxres
        self.encoder_px = encoder_px
        self.mrope = mrope
        self.embeddings_model = embeddings_model
        self.embedding_dimensions = embedding_dimensions
        self.embedding_context = embedding_context
        self.jinja = jinja
        self.brain: Brain = brain or ScriptBrain()
        self.tokens_per_s = tokens_per_s
        self.prompt_seconds = prompt_seconds
        self.service_s = service_s
        self.default_genamt = default_genamt
        self.genlimit = genlimit
        self.ratelimit_s = ratelimit_s
        self.linger_s = (0.0 if multiuser else LOCKED_AFTER_ANSWER_S) if linger_s is None else linger_s
        self.tokenizer = Tokenizer(token_counts)
        self.embedding_token_counts = dict(embedding_token_counts or {})
        self.loading = loading

        self.requests: list[RecordedRequest] = []
        self.seen: list[BrainRequest] = []
        self.errors: list[BaseException] = []
        self.encodings = 0
        self.busy: list[tuple[float, float]] = []
        self.in_flight_max = 0
        self.fault_when: Callable[[RecordedRequest], Fault | None] | None = None

        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._faults: deque[Fault] = deque()
        self._port = port
        self._server: Server | None = None
        self._thread: threading.Thread | None = None
        self._forget_everything()

    # --- life ---

    @property
    def url(self) -> str:
        """`http://127.0.0.1:PORT`, the same after a restart."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def vision(self) -> bool:
        """Whether a projector is loaded."""
        return self.projector is not None

    @property
    def old(self) -> bool:
        """Whether this is a KoboldCpp of 2024, before token counts and chat templates."""
        return self._release < (1, 77)

    @property
    def expands_messages(self) -> bool:
        """Whether tokencount takes `messages` (known of 1.115)."""
        return self._release >= (1, 115)

    @property
    def _release(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.version.split(".")[:2])

    def start(self) -> Self:
        """Bind the port; connections are refused until the model is loaded."""
        if self._server is None:
            self._forget_everything()
            self._server = Server(self, self._port)
            self._port = self._server.server_address[1]
            if not self.loading:
                self.finish_loading()
        return self

    def finish_loading(self) -> None:
        """The model is loaded: the port opens."""
        self.loading = False
        if self._server is not None and self._thread is None:
            self._server.server_activate()
            self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), name="kobold-simulator")
            self._thread.start()

    def stop(self) -> None:
        """Kill the server: running requests get no answer, later ones are refused."""
        server, thread = self._server, self._thread
        self._server = self._thread = None
        if server is None:
            return
        if thread is not None:
            server.shutdown()
            thread.join()
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        server.end()

    def restart(self, **changes: Any) -> None:
        """Stop, change attributes (`brain=`, `model=` …), start on the same port."""
        self.stop()
        for name, value in changes.items():
            if not hasattr(self, name):
                raise TypeError(f"a simulator has no {name!r}")
            setattr(self, name, value)
        if "model" in changes and "model_name" not in changes:
            self.model_name = f"koboldcpp/{self.model}"
        self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        if self.errors and error is None:
            raise AssertionError("the simulator itself failed") from self.errors[0]

    def _forget_everything(self) -> None:
        self._stopping = False
        self._released = 0
        self._running: Job | None = None
        self._waiting: deque[Job] = deque()
        self._free_at = 0.0
        self._current_key = ""
        self._pending_abort = ""
        self._last_text = ""
        self._last_logprobs: dict[str, Any] | None = None
        self._media_key: tuple[str, ...] = ()
        self._memory: tuple[tuple[str, ...], str] | None = None
        """Images and text that the model's memory holds; what a prompt begins with of them is not processed again."""
        self._last_request_at = -math.inf
        self.started_at = self._active_at = time.monotonic()
        self._perf: dict[str, Any] = {
            "last_process": 0.0,
            "last_eval": 0.0,
            "last_token_count": 0,
            "last_input_count": 0,
            "last_process_time": 0.0,
            "last_eval_time": 0.0,
            "last_process_speed": 0,
            "last_eval_speed": 0,
            "last_seed": -1,
            "last_draft_success": 0,
            "last_draft_failed": 0,
            "total_gens": 0,
            "stop_reason": -1,
            "total_img_gens": 0,
            "total_tts_gens": 0,
            "total_transcribe_gens": 0,
        }

    # --- for tests ---

    def count(self, path_suffix: str = "/api/v1/generate") -> int:
        """How many requests came to paths with this ending."""
        with self._lock:
            paths = [urlsplit(request.path).path.rstrip("/") for request in self.requests]
        return sum(path.endswith(path_suffix.rstrip("/")) for path in paths)

    def fault(self, *faults: Fault | None) -> None:
        """Queue faults for the next requests for text, one each; None lets one pass."""
        with self._lock:
            self._faults.extend(Fault(FaultKind.SLOW) if fault is None else fault for fault in faults)

    def release(self) -> None:
        """Let every hanging request go on."""
        with self._changed:
            self._released += 1
            self._changed.notify_all()

    def wait_for(self, condition: Callable[[], bool], timeout: float = 10.0) -> bool:
        """Wait, without polling, until something about the server holds (requests, queue …)."""
        with self._changed:
            return self._changed.wait_for(condition, timeout)

    @property
    def running(self) -> bool:
        """Whether a generation is running now."""
        return self._running is not None

    @property
    def running_key(self) -> str:
        """The key of the running (or last) generation, by which it can be aborted."""
        return self._current_key

    @property
    def queued(self) -> int:
        """How many generations wait for the model."""
        return len(self._waiting)

    @property
    def running_text(self) -> str:
        """What the running (or last) generation has said so far."""
        return self._running.text if self._running else self._last_text

    def chat_adapter(self) -> Adapter:
        """The tags in force: those named by `adapter`, else guessed from the chat template."""
        return ADAPTERS[self.adapter] if self.adapter else guess_adapter(self.chat_template)

    # --- one generation at a time ---

    def _queue_limit(self) -> int:
        """How many may wait; 503 beyond that (queue_13_requests, busy_mu0_second)."""
        users = self.multiuser
        if self.old:
            return {0: 0, 1: 6}.get(users, users - 1)
        if users == 0 and self.embeddings_model:
            users = 2
        return {0: 0, 1: 10}.get(users, users - 1)

    @contextmanager
    def _model(self, job: Job) -> Iterator[None]:
        """Wait for the model, hold it, and free it; first come, first served."""
        with self._changed:
            busy = self._running is not None or self._waiting or time.monotonic() < self._free_at
            if busy and len(self._waiting) >= self._queue_limit():
                raise RefusedError(BUSY[0], detail(*BUSY[1:]))
            self._waiting.append(job)
            self.in_flight_max = max(self.in_flight_max, len(self._waiting) + (self._running is not None))
            self._changed.notify_all()
            try:
                while not self._stopping:
                    if self._waiting[0] is job and self._running is None:
                        wait_s = self._free_at - time.monotonic()
                        if wait_s <= 0:
                            break
                        self._changed.wait(wait_s)
                    else:
                        self._changed.wait()
            finally:
                self._waiting.remove(job)
            if self._stopping:
                raise GoneError
            self._running = job
            began = time.monotonic()
            self._changed.notify_all()
        try:
            yield
            if self.service_s is not None:
                self._silence(job, began + self.service_s - time.monotonic(), lambda: False)
        finally:
            with self._changed:
                self._running = None
                self._active_at = time.monotonic()
                self.busy.append((began, self._active_at))
                self._free_at = self._active_at + self.linger_s
                self._changed.notify_all()

    def _pause(self, seconds: float | None, until: Callable[[], bool]) -> None:
        """Wait so long or until something holds; a stopped server ends the request."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or until(), seconds)
            if self._stopping:
                raise GoneError

    def _silence(self, job: Job, seconds: float | None, until: Callable[[], bool]) -> None:
        """The model says nothing for a while; an abort or a stream's lost client ends it."""
        end = math.inf if seconds is None else time.monotonic() + seconds
        while not (job.aborted or until()) and (left := end - time.monotonic()) > 0:
            self._pause(min(left, 0.1) if job.lost else seconds, lambda: job.aborted or until())
            if job.lost is not None and job.lost():
                job.aborted = True

    # --- images ---

    def _load_media(self, images: list[Any], limit_tokens: int) -> Media:
        """Decode what KoboldCpp can decode; everything else is dropped without a word."""
        media = Media()
        if self.projector is None:
            return media
        kept = images[:4] if self.old else images[-16:]
        projector = Projector(self.projector, self.encoder_px, None if self.old else self.visionmaxres, self.mrope)
        failed = 0
        for text in kept:
            picture = decode_image(clean_base64(text))
            if picture is None:
                failed += 1
                continue
            view = projector.view(picture)
            tokens = projector.tokens(view)
            if tokens >= limit_tokens:
                continue
            media.views.append(view)
            media.tokens += tokens
        if media.views:
            media.tokens += -2 if self.old else MEDIA_INTRO_TOKENS
        media.broken = bool(failed and media.views) and not self.old
        return media

    def _see(self, task: Task, job: Job) -> Media:
        """The images that reach the model; the last list seen is not encoded again."""
        dropped = job.fault is not None and job.fault.kind is FaultKind.DROP_IMAGES
        media = self._load_media([] if dropped else task.images, task.n_ctx)
        if media.tokens + task.max_length + 4 > task.n_ctx:
            media = Media()
        key = tuple(task.images) if media.views else ()
        with self._lock:
            if key != self._media_key or self.old:
                self.encodings += len(media.views)
            self._media_key = key
        return media

    # --- what the endpoints answer ---

    def perf(self) -> dict[str, Any]:
        """The body of /api/extra/perf; it needs no model and answers at once."""
        with self._lock:
            now = time.monotonic()
            idle = self._running is None and now >= self._free_at
            perf = self._perf | {
                "queue": len(self._waiting),
                "idle": int(idle),
                "hordeexitcounter": -1,
                "uptime": now - self.started_at,
                "idletime": now - self._active_at,
                "quiet": False,
            }
            newer = {
                "last_input_count", "last_process_time", "last_eval_time", "last_process_speed",
                "last_eval_speed", "last_draft_success", "last_draft_failed", "total_tts_gens",
                "total_transcribe_gens",
            }  # fmt: skip
            return {key: perf[key] for key in perf if not (self.old and key in newer)}

    def check(self, key: str) -> str:
        """The text so far of the job with this key, or of the last one; else nothing."""
        with self._lock:
            running = self._running
            keyless = not self._waiting and not (running and self._current_key)
            known = key == self._current_key if key else keyless
            if not known:
                return ""
            return running.text if running else self._last_text

    def abort(self, key: str) -> tuple[str, str]:
        """/api/extra/abort: "success" and "done", both strings."""
        with self._changed:
            if (key and key == self._current_key) or (not key and not self._waiting):
                if self._running is not None:
                    self._running.aborted = True
                    self._changed.notify_all()
                return "true", "true"
            if key and self._waiting:
                self._pending_abort = key
                return "true", "false"
            return "false", "false"

    def embed(self, body: dict[str, Any]) -> dict[str, Any]:
        """/v1/embeddings: hashed words, so that like texts are near; every error is silent."""
        given = body.get("input")
        texts = [given] if isinstance(given, str) and given else given
        data, total = [], 0
        for index, text in enumerate(texts if isinstance(texts, list) else []):
            numbers, tokens = self._embedding(text, truncate=body.get("truncate", True))
            total += tokens
            embedding: Any = numbers
            if body.get("encoding_format") == "base64" and numbers:
                embedding = base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()
            data.append({"object": "embedding", "index": index, "embedding": embedding})
        return {
            "object": "list",
            "data": data,
            "model": self.embeddings_model or "inactive",
            "usage": {"prompt_tokens": total, "total_tokens": total},
        }

    def _embedding(self, text: Any, *, truncate: bool) -> tuple[list[float], int]:
        if not isinstance(text, str) or not text or not self.embeddings_model:
            return [], 0
        words = re.findall(r"\w+|[^\w\s]", text.lower())
        tokens = self.embedding_token_counts.get(text, len(words) + 2)
        most = self.embedding_context - 1
        if tokens > most:
            if not truncate:
                return [], 0
            words, tokens = words[-most:], most
        return hashed_vector(words, self.embedding_dimensions), tokens

    def _limit_rate(self) -> None:
        """`--ratelimit`: requests that come too quickly are refused."""
        with self._lock:
            now = time.monotonic()
            left = (self.ratelimit_s or 0.0) - (now - self._last_request_at)
            if left > 0:
                message = f"You are sending requests too quickly. Please try again in {math.ceil(left)} seconds."
                raise RefusedError(503, detail(message, "service_unavailable"))
            self._last_request_at = now

    # --- text ---

    def _begun(self, task: Task) -> tuple[str, str]:
        """Memory and prompt with what KoboldCpp itself writes before them for two makers (gpttype_adapter.cpp)."""
        memory, prompt = task.memory, task.prompt
        if GLM_START in self.chat_template and self._release >= (1, 90):
            whole = memory or prompt
            for begun in ("[gMASK]", "<sop>", " "):
                whole = whole.removeprefix(begun)
            memory, prompt = (f"{GLM_START} {whole}", prompt) if memory else (f"{GLM_START} ", whole)
        elif GEMMA_4_THOUGHT in self.chat_template and not any(tag in memory + prompt for tag in GEMMA_4_CHANNEL):
            memory = "".join(GEMMA_4_CHANNEL) + memory
        return memory, prompt

    def _fit(self, task: Task, media: Media) -> tuple[str, int]:
        """The prompt, its front cut off where it does not fit, and the tokens of all input."""
        begin, prompt = self._begun(task)
        memory = self.tokenizer.pieces(begin)
        pieces = self.tokenizer.pieces(prompt)
        room = task.n_ctx - task.max_length - (1 if media.views else 0)
        room -= 1 + media.tokens + len(memory)
        if len(pieces) > room:
            pieces = pieces[len(pieces) - max(room, 0) :]
        return begin + "".join(pieces), 1 + media.tokens + len(memory) + len(pieces)

    def _ask(self, task: Task, prompt: str, media: Media) -> Answer:
        """What the model says from here on; what the prompt holds of it already is left out."""
        so_far = self._said_so_far(prompt)
        request = BrainRequest(prompt, media.views, task.body, so_far)
        with self._lock:
            self.seen.append(request)
        try:
            said = self.brain.answer(request)
        except Exception as error:
            self.errors.append(error)
            raise GoneError from error
        if isinstance(said, Answer):
            return said
        return Answer(self.tokenizer.pieces(said[held_already(prompt, so_far, said) :]))

    def _said_so_far(self, prompt: str) -> str:
        """The part of the prompt after the last tag that opens an answer."""
        adapters = [self.chat_adapter(), *ADAPTERS.values()]
        starts = {tag for adapter in adapters for tag in (adapter.assistant_start, adapter.opening)}
        ends = [prompt.rfind(tag) + len(tag) for tag in starts if tag and tag in prompt]
        said = prompt[max(ends) :] if ends else ""
        said = re.sub(r"\s*<think>\s*</think>\s*", "", said)  # an empty thought is no part of an answer
        return said if said.strip() else ""

    def _generate(self, task: Task, job: Job, told: Callable[[str], None] | None = None) -> Done:
        """Run one request; the caller holds the model."""
        with self._changed:
            self._current_key = job.key
            pending = self._pending_abort and self._pending_abort == job.key
            if pending:
                self._pending_abort = ""
            self._perf["stop_reason"] = 0
            self._changed.notify_all()
        if pending:
            return self._finished(job, Done())
        started = time.monotonic()
        media = self._see(task, job)
        if media.broken or (job.fault and job.fault.kind is FaultKind.ERROR):
            return self._finished(job, Done(stop_reason=-2))
        prompt, prompt_tokens = self._fit(task, media)
        done = Done(prompt_tokens=prompt_tokens)
        self._hold(job)
        answer = self._ask(task, prompt, media)
        if job.fault and job.fault.kind is FaultKind.EMPTY_TEXT:
            answer = Answer([])
        processed = time.monotonic()
        held = pieces_held(answer, self._said_so_far(prompt))
        Speaker(self, task, job, answer, told, held=held).speak(done)
        with self._lock:
            self._measure(done, started, processed, task, self._new_tokens(prompt, prompt_tokens))
            self._memory = (self._media_key, prompt + job.text)
        return self._finished(job, done)

    def _new_tokens(self, prompt: str, prompt_tokens: int) -> int:
        """How many tokens are processed: those behind what the memory holds, at least one."""
        if self._memory is None or self._memory[0] != self._media_key:
            return prompt_tokens
        held = self._memory[1]
        begins_alike = sum(
            1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(prompt, held, strict=False))
        )
        return max(1, len(self.tokenizer.pieces(prompt[begins_alike:])))

    def _hold(self, job: Job) -> None:
        """The time before the first token: the prompt (not interruptible), then a fault."""
        if self.prompt_seconds:
            self._pause(self.prompt_seconds, lambda: False)
        if job.fault is None:
            return
        if job.fault.kind is FaultKind.SLOW:
            self._silence(job, job.fault.seconds, lambda: False)
        if job.fault.kind is FaultKind.HANG:
            released = self._released
            self._silence(job, None, lambda: self._released != released)

    def _finished(self, job: Job, done: Done) -> Done:
        with self._changed:
            self._last_text = job.text
            self._last_logprobs = done.logprobs
            self._perf["stop_reason"] = done.stop_reason
            self._perf["total_gens"] += 1
            self._changed.notify_all()
        return done

    def _measure(self, done: Done, started: float, processed: float, task: Task, inputs: int) -> None:
        tokens = done.completion_tokens
        process_s = max(processed - started, 0.001)
        eval_s = max(time.monotonic() - processed, 0.001)
        seed = task.body.get("sampler_seed", -1)
        self._perf |= {
            "last_process": process_s * 1000 / max(inputs, 1),
            "last_eval": eval_s * 1000 / max(tokens, 1),
            "last_token_count": tokens,
            "last_input_count": inputs,
            "last_process_time": process_s,
            "last_eval_time": eval_s,
            "last_process_speed": inputs / process_s,
            "last_eval_speed": tokens / eval_s,
            "last_seed": seed if isinstance(seed, int) and seed > 0 else int(time.time()) % 10**6,
        }
