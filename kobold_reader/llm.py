"""KoboldLLM: the language model that KoboldCpp runs, as a LlamaIndex LLM."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any, Final

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

from kobold_reader.errors import ContextTooSmallError, ResponseFormatError
from kobold_reader.kobold import (
    SETTINGS,
    Completion,
    ExpandedPrompt,
    GenerateRequest,
    Lease,
    ServerPool,
    choose_family,
    render_prompt,
)

__all__ = ["KoboldLLM"]

MIN_ANSWER_TOKENS: Final = 64
"""A prompt that leaves less room than this gets no answer worth having."""
CONTEXT_SHARE: Final = 0.75
"""KoboldCpp cuts `max_length` to 80 % of its context without a word, so we stay below it."""


class KoboldLLM(CustomLLM):
    """Answers with the model loaded in KoboldCpp, under the template that the server knows for it.

    It borrows the same lease as reading, so a question never throws a page's image out of the server's cache. A
    conversation is given to the model as one instruction, its turns under one another, which every template can take.
    Can be pickled; `to_dict` leaves the password out.
    """

    api_url: str | list[str] = Field(
        default="http://127.0.0.1:5001", description="One server, or several with the same model."
    )
    api_password: str | None = Field(default=None, exclude=True, repr=False)
    max_length: int = Field(default=1024, gt=0, description="Tokens of an answer.")
    temperature: float = Field(default=0.1, ge=0)
    context_window: int = Field(default=8192, gt=0, description="Tokens; what the server was started with.")
    family: str | None = Field(default=None, description="Model family; left out: chosen by the model's name.")

    _pool: ServerPool | None = PrivateAttr(default=None)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)

    @classmethod
    @override
    def class_name(cls) -> str:
        """Name in LlamaIndex's serialised form."""
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
        """What LlamaIndex asks before it fills a prompt; no server is contacted."""
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
                self._pool = ServerPool(urls, password=self.api_password)
            return self._pool

    # ── one instruction ──────────────────────────────────────────────────────────────────────────

    @llm_completion_callback()
    @override
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer an instruction; with `formatted` the prompt is sent as it stands.

        Raises:
            ContextTooSmallError: The prompt leaves no room for an answer; the server would drop its beginning.
            ResponseFormatError: The answer is empty.
            ServerError: No server can answer.
        """
        return self._answer(prompt, formatted=formatted, **kwargs)

    @llm_completion_callback()
    @override
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """Yield the answer; one piece for now, since a stream's end proves nothing on KoboldCpp."""

        def pieces() -> CompletionResponseGen:
            response = self._answer(prompt, formatted=formatted, **kwargs)
            response.delta = response.text
            yield response

        return pieces()

    @llm_completion_callback()
    @override
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Like `complete`, without blocking the event loop."""
        return await asyncio.to_thread(self._answer, prompt, formatted=formatted, **kwargs)

    @llm_completion_callback()
    @override
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        """Like `stream_complete`, without blocking the event loop."""

        async def pieces() -> CompletionResponseAsyncGen:
            response = await asyncio.to_thread(self._answer, prompt, formatted=formatted, **kwargs)
            response.delta = response.text
            yield response

        return pieces()

    # ── a conversation ───────────────────────────────────────────────────────────────────────────

    @llm_chat_callback()
    @override
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer the last of the messages; errors as `complete`."""
        return _as_chat(self._answer(_as_instruction(messages), **kwargs))

    @llm_chat_callback()
    @override
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Yield the answer, in one piece."""

        def pieces() -> ChatResponseGen:
            yield _as_chat(self._answer(_as_instruction(messages), **kwargs), is_piece=True)

        return pieces()

    @llm_chat_callback()
    @override
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Like `chat`, without blocking the event loop."""
        return _as_chat(await asyncio.to_thread(self._answer, _as_instruction(messages), **kwargs))

    @llm_chat_callback()
    @override
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """Like `stream_chat`, without blocking the event loop."""

        async def pieces() -> ChatResponseAsyncGen:
            response = await asyncio.to_thread(self._answer, _as_instruction(messages), **kwargs)
            yield _as_chat(response, is_piece=True)

        return pieces()

    # ── asking ───────────────────────────────────────────────────────────────────────────────────

    def _answer(self, prompt: str, *, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        with self._servers().lease() as lease:
            info = lease.info
            family = choose_family(info, self.family)
            if formatted:
                text = ExpandedPrompt(prompt, lease.run(lambda client: client.count_tokens(prompt)))
            else:
                text = lease.run(lambda client: render_prompt(client, info, family, prompt))
            stop_sequence = (*family.stop_sequence, *kwargs.get("stop", ()))
            completion = self._generate(lease, text, stop_sequence, **kwargs)
        return CompletionResponse(
            text=completion.text.strip(),
            raw={
                "ending": completion.ending,
                "prompt_tokens": completion.prompt_tokens,
                "completion_tokens": completion.completion_tokens,
            },
        )

    def _generate(
        self, lease: Lease, prompt: ExpandedPrompt, stop_sequence: tuple[str, ...], **kwargs: Any
    ) -> Completion:
        info = lease.info
        room_tokens = info.context_tokens - prompt.tokens
        max_length = min(int(kwargs.get("max_length", self.max_length)), int(info.context_tokens * CONTEXT_SHARE))
        if room_tokens < min(MIN_ANSWER_TOKENS, max_length):
            msg = (
                f"the prompt of {prompt.tokens} tokens leaves no room for an answer in the context of "
                f"{info.context_tokens}; KoboldCpp would drop its beginning without a word."
            )
            hint = (
                f"Set context_window={info.context_tokens} so that LlamaIndex sends less, or start it "
                f"{SETTINGS['contextsize'].remedy(str(2 * info.context_tokens))}."
            )
            raise ContextTooSmallError(msg, server=info.url, hint=hint)
        request = GenerateRequest(
            prompt=prompt.text,
            max_length=min(max_length, room_tokens),
            temperature=float(kwargs.get("temperature", self.temperature)),
            stop_sequence=stop_sequence,
        )
        completion = lease.generate(request)
        if not completion.text.strip():
            msg = "the model gave an empty answer."
            raise ResponseFormatError(msg, server=info.url, hint="Ask again, or look at the server's console.")
        return completion


def _as_instruction(messages: Sequence[ChatMessage]) -> str:
    """Return chat messages as one instruction: what the system says first, then the turns, named if there are more."""
    system = [message for message in messages if message.role == MessageRole.SYSTEM]
    turns = [message for message in messages if message.role != MessageRole.SYSTEM]
    said = [message.content or "" for message in system]
    if len(turns) == 1:
        said.append(turns[0].content or "")
    else:
        said += [f"{message.role.value}: {message.content or ''}" for message in turns]
    return "\n\n".join(said)


def _as_chat(response: CompletionResponse, *, is_piece: bool = False) -> ChatResponse:
    return ChatResponse(
        message=ChatMessage(role=MessageRole.ASSISTANT, content=response.text),
        delta=response.text if is_piece else None,
        raw=response.raw,
    )
