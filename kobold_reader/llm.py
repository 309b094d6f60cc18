"""KoboldLLM: the language model that KoboldCpp runs, as a LlamaIndex LLM."""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
)
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.custom import CustomLLM
from llama_index.core.schema import BaseComponent
from typing_extensions import override

from kobold_reader.errors import ContextTooSmallError, ResponseFormatError, ServerError
from kobold_reader.kobold import (
    SETTINGS,
    Completion,
    ExpandedPrompt,
    Family,
    GenerateRequest,
    KoboldClient,
    ServerInfo,
    ServerPool,
    check_way,
    choose_family,
    render_prompt,
    spoken,
    without_begun,
)
from kobold_reader.stream import pushed, stepped

T = TypeVar("T")

log = logging.getLogger(__name__)

MIN_ANSWER_TOKENS = 64
"""A prompt that leaves less room than this is refused."""
ANSWER_SHARE = 0.25
"""This much of a small context is kept free for the answer."""
WAIT_LOGGED_AFTER_S = 2.0


class KoboldLLM(CustomLLM):
    """Answers with the model loaded in KoboldCpp, under the template that the server knows for it.

    It takes the same lease as reading, so a question never throws a page's image out of the server's cache; a wait for
    the lease is logged. The model gets a conversation as one instruction, with one turn below the other, which every
    template can take. Thoughts are no part of an answer. Can be pickled; `to_dict` leaves the password out.

    Streams show the answer while it is written, by polling (KoboldCpp's own streams may end without a sign); the last
    piece comes with the answer itself. Leaving a stream early, and Ctrl-C, abort the job on the server. The async
    methods leave the event loop free. With `formatted=True` a prompt is sent as it is, without a template.
    `max_length`, `temperature` and `stop` can be given with each call.

    Raises:
        ContextTooSmallError: The prompt leaves no room for an answer; the server would drop its beginning.
        ResponseFormatError: The answer is empty.
        ServerError: No server can answer.
    """

    api_url: str | list[str] = Field(
        default="http://127.0.0.1:5001", description="One server, or several with the same model."
    )
    api_password: str | None = Field(default=None, exclude=True, repr=False)
    max_length: int = Field(default=1024, gt=0, description="Tokens of an answer.")
    temperature: float = Field(default=0.1, ge=0)
    context_window: int = Field(default=8192, gt=0, description="Tokens; what the server was started with.")
    family: str | None = Field(default=None, description="Model family; left out: chosen by the model's name.")
    allow_remote: bool = Field(default=False, description="Send pages to a public address over plain http.")

    _pool: ServerPool | None = PrivateAttr(default=None)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)
    _families: dict[tuple[str, str, str | None], Family] = PrivateAttr(default_factory=dict)
    _streams: Any = PrivateAttr(default_factory=weakref.WeakSet)
    _is_aborted: bool = PrivateAttr(default=False)

    @classmethod
    @override
    def class_name(cls) -> str:
        return "KoboldLLM"

    @override
    def __getstate__(self) -> dict[str, Any]:
        # Past LlamaIndex's own, which tries to pickle every private attribute and warns of each that cannot be;
        # connections and locks are made anew where the copy is used.
        state: dict[str, Any] = super(BaseComponent, self).__getstate__()
        return {**state, "__pydantic_private__": None}

    @property
    @override
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(
            context_window=self.context_window,
            num_output=self.max_length,
            model_name="koboldcpp",
            # Else query engines hand their prompts over as finished text, and no template would be applied.
            is_chat_model=True,
        )

    def _servers(self) -> ServerPool:
        with self._lock:
            if self._pool is None:
                urls = [self.api_url] if isinstance(self.api_url, str) else self.api_url
                check_way(urls, allow_remote=self.allow_remote)
                # The clients look at an answer that is being written five times a second.
                client = partial(KoboldClient, password=self.api_password, poll_interval_s=0.2)
                self._pool = ServerPool(urls, make_client=client)
            return self._pool

    # ── what fits ────────────────────────────────────────────────────────────────────────────────

    def _look(self, call: Callable[[KoboldClient], T]) -> T:
        """Ask the first server that answers; without a lease, as a server answers this while it reads a page."""
        *others, last = self._servers().clients
        for client in others:
            try:
                return call(client)
            except ServerError as err:
                log.debug("%s cannot say: %s", client.url, err)
        return call(last)

    def _family_of(self, info: ServerInfo) -> Family:
        """Choose the family once for each model, because there is a warning if it is unknown."""
        key = (info.model, info.version, self.family)
        with self._lock:
            if key not in self._families:
                self._families[key] = choose_family(info, self.family)
            return self._families[key]

    def server(self) -> tuple[ServerInfo, Family]:
        """Return the server's facts and the family of its model; does not wait for a lease."""
        info = self._look(lambda client: client.info())
        return info, self._family_of(info)

    def count_tokens(self, prompt: str) -> int:
        """Return how many tokens an instruction becomes, the model's template included; does not wait for a lease."""

        def count(client: KoboldClient) -> int:
            info = client.info()
            return render_prompt(client, info, self._family_of(info), prompt).tokens

        return self._look(count)

    def room_tokens(self) -> int:
        """Return how many tokens an instruction may have, so that an answer has room after it."""
        context_tokens = self.server()[0].context_tokens
        return context_tokens - min(self.max_length, int(context_tokens * ANSWER_SHARE))

    # ── one instruction ──────────────────────────────────────────────────────────────────────────

    @llm_completion_callback()
    @override
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return self._answer(prompt, formatted=formatted, **kwargs)

    @llm_completion_callback()
    @override
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        return self._pieces(threading.Event(), prompt, formatted=formatted, **kwargs)

    @llm_completion_callback()
    @override
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return await asyncio.to_thread(self._answer, prompt, formatted=formatted, **kwargs)

    @llm_completion_callback()
    @override
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        cancel = threading.Event()
        return stepped(self._pieces(cancel, prompt, formatted=formatted, **kwargs), cancel)

    # ── a conversation ───────────────────────────────────────────────────────────────────────────

    @llm_chat_callback()
    @override
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return _as_chat(self._answer(_as_instruction(messages), **kwargs))

    @llm_chat_callback()
    @override
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        pieces = self._pieces(threading.Event(), _as_instruction(messages), **kwargs)
        return (_as_chat(piece) for piece in pieces)

    @llm_chat_callback()
    @override
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return _as_chat(await asyncio.to_thread(self._answer, _as_instruction(messages), **kwargs))

    @llm_chat_callback()
    @override
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        cancel = threading.Event()
        pieces = self._pieces(cancel, _as_instruction(messages), **kwargs)
        return stepped((_as_chat(piece) for piece in pieces), cancel)

    # ── asking ───────────────────────────────────────────────────────────────────────────────────

    def _pieces(self, cancel: threading.Event, prompt: str, **kwargs: Any) -> CompletionResponseGen:
        """Yield the answer as it is written; the last piece has the server's facts in `raw`."""
        shown = ""
        with self._lock:
            self._streams.add(cancel)
            if self._is_aborted:
                cancel.set()

        def run(push: Callable[[CompletionResponse], None]) -> None:
            push(
                self._answer(prompt, on_text=lambda text: push(CompletionResponse(text=text)), cancel=cancel, **kwargs)
            )

        for response in pushed(run, cancel):
            is_whole = response.raw is not None
            if response.text.startswith(shown):
                response.delta = response.text[len(shown) :]
            elif is_whole:  # begun again after a failure, with other words
                response.delta = f"\n\n{response.text}"
            else:
                continue
            if response.delta or is_whole:
                shown = response.text
                yield response

    def abort(self) -> None:
        """End all streams of this object for good, from another thread: their jobs on the server are aborted."""
        with self._lock:
            self._is_aborted = True
            for cancel in self._streams:
                cancel.set()

    def _answer(
        self,
        prompt: str,
        *,
        formatted: bool = False,
        on_text: Callable[[str], None] | None = None,
        cancel: threading.Event | None = None,
        **kwargs: Any,
    ) -> CompletionResponse:
        with self._servers().lease(cancel=cancel, on_wait=_log_wait_once()) as lease:
            info = lease.info
            family = self._family_of(info)
            if formatted:
                expanded = ExpandedPrompt(prompt, lease.run(lambda client: client.count_tokens(prompt), cancel=cancel))
            else:
                expanded = lease.run(lambda client: render_prompt(client, info, family, prompt), cancel=cancel)
            request = self._request(info, family, expanded, **kwargs)

            def show(text_so_far: str) -> bool:
                for stop in request.stop_sequence:
                    text_so_far = text_so_far.partition(stop)[0]
                text = without_begun(text_so_far, request.stop_sequence)
                if on_text:
                    on_text(spoken(text, prompt=request.prompt, is_whole=False).strip())
                return True

            completion = lease.generate(request, on_progress=show if on_text else None, cancel=cancel)
        return CompletionResponse(
            text=_answer_text(completion, request, info),
            raw={name: getattr(completion, name) for name in ("ending", "prompt_tokens", "completion_tokens")},
        )

    def _request(self, info: ServerInfo, family: Family, prompt: ExpandedPrompt, **kwargs: Any) -> GenerateRequest:
        room_tokens = info.context_tokens - prompt.tokens
        max_length = min(int(kwargs.get("max_length", self.max_length)), info.max_answer_tokens)
        if room_tokens < min(MIN_ANSWER_TOKENS, max_length):
            raise ContextTooSmallError(
                f"the prompt of {prompt.tokens} tokens leaves no room for an answer in the context of "
                f"{info.context_tokens}; KoboldCpp would drop its beginning without a word.",
                server=info.url,
                hint=f"Set context_window={info.context_tokens} so that LlamaIndex sends less, or start it "
                f"{SETTINGS['contextsize'].remedy(str(2 * info.context_tokens))}.",
            )
        return GenerateRequest(
            prompt=prompt.text,
            max_length=min(max_length, room_tokens),
            temperature=float(kwargs.get("temperature", self.temperature)),
            stop_sequence=(*family.stop_sequence, *kwargs.get("stop", ())),
            reasoning_effort=family.decoding_for(info).get("reasoning_effort"),
        )


def _answer_text(completion: Completion, request: GenerateRequest, info: ServerInfo) -> str:
    text = spoken(completion.text, prompt=request.prompt).strip()
    if text:
        return text
    if completion.text.strip():
        raise ResponseFormatError(
            f"the model only thought, for {request.max_length} tokens, and never came to an answer.",
            server=info.url,
            hint="Allow it a longer answer (max_length), or name its family.",
        )
    raise ResponseFormatError(
        "the model gave an empty answer.", server=info.url, hint="Ask again, or look at the server's console."
    )


def _log_wait_once() -> Callable[[float], None]:
    has_logged = False

    def log_wait(waited_s: float) -> None:
        nonlocal has_logged
        if waited_s > WAIT_LOGGED_AFTER_S and not has_logged:
            has_logged = True
            log.warning("the server is reading a page; the question waits for its turn")

    return log_wait


def _as_instruction(messages: Sequence[ChatMessage]) -> str:
    """Join chat messages: first the system's, then the turns, with their roles if there are several."""
    system = [message.content or "" for message in messages if message.role == MessageRole.SYSTEM]
    turns = [message for message in messages if message.role != MessageRole.SYSTEM]
    if len(turns) == 1:
        return "\n\n".join([*system, turns[0].content or ""])
    return "\n\n".join([*system, *(f"{message.role.value}: {message.content or ''}" for message in turns)])


def _as_chat(response: CompletionResponse) -> ChatResponse:
    return ChatResponse(
        message=ChatMessage(role=MessageRole.ASSISTANT, content=response.text),
        delta=response.delta,
        raw=response.raw,
    )
