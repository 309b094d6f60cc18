"""KoboldLLM: the language model that KoboldCpp runs, as a LlamaIndex LLM."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    CompletionResponse,
    CompletionResponseGen,
    LLMMetadata,
)
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.llms.custom import CustomLLM
from typing_extensions import override

from kobold_reader.errors import ResponseFormatError
from kobold_reader.kobold import (
    Completion,
    Family,
    GenerateRequest,
    Lease,
    ServerPool,
    choose_family,
    render_prompt,
)

__all__ = ["KoboldLLM"]


class KoboldLLM(CustomLLM):
    """Answers with the model loaded in KoboldCpp, under the template that the server knows for it.

    It borrows the same lease as reading, so a question never throws a page's image out of the server's cache. Can be
    pickled; `to_dict` leaves the password out.
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
        state = super().__getstate__()
        state["__pydantic_private__"] = None
        return state

    @property
    @override
    def metadata(self) -> LLMMetadata:
        """What LlamaIndex asks before it fills a prompt; no server is contacted."""
        return LLMMetadata(
            context_window=self.context_window,
            num_output=self.max_length,
            model_name="koboldcpp",
            is_chat_model=False,
        )

    def _servers(self) -> ServerPool:
        with self._lock:
            if self._pool is None:
                urls = [self.api_url] if isinstance(self.api_url, str) else self.api_url
                self._pool = ServerPool(urls, password=self.api_password)
            return self._pool

    @override
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Complete an instruction; with `formatted` the prompt is sent as it stands.

        Raises:
            ServerError: No server can answer.
        """
        with self._servers().lease() as lease:
            family = choose_family(lease.info, self.family)
            text = prompt if formatted else render_prompt(lease.client, lease.info, family, prompt).text
            completion = self._generate(lease, family, text, **kwargs)
        return CompletionResponse(text=completion.text.strip(), raw={"ending": completion.ending})

    def _generate(self, lease: Lease, family: Family, text: str, **kwargs: Any) -> Completion:
        request = GenerateRequest(
            prompt=text,
            max_length=int(kwargs.get("max_length", self.max_length)),
            temperature=float(kwargs.get("temperature", self.temperature)),
            stop_sequence=(*family.stop_sequence, *kwargs.get("stop", ())),
        )
        completion = lease.generate(request)
        if not completion.text.strip():
            msg = "the model gave an empty answer."
            raise ResponseFormatError(msg, server=lease.info.url, hint="Ask again, or look at the server's console.")
        return completion

    @override
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """Yield the answer; one piece for now, since a stream's end proves nothing on KoboldCpp."""
        response = self.complete(prompt, formatted, **kwargs)
        response.delta = response.text
        yield response

    def messages_to_prompt_text(self, messages: Sequence[ChatMessage]) -> str:
        """Return chat messages as one instruction."""
        return "\n\n".join(f"{message.role.value}: {message.content}" for message in messages)
