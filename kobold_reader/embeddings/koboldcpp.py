"""KoboldEmbedding: the embedding model that KoboldCpp runs beside its language model."""

from __future__ import annotations

import threading
from typing import Any

from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.schema import BaseComponent
from typing_extensions import override

from kobold_reader.embeddings.local import mean_of_windows
from kobold_reader.embeddings.threaded import ThreadedEmbedding
from kobold_reader.errors import ConfigError, ContextTooSmallError
from kobold_reader.kobold import SETTINGS, ServerInfo, ServerPool

_LEAST_CHARS = 64
"""A shorter text is not too long for any model: something else is wrong with it."""


class KoboldEmbedding(ThreadedEmbedding):
    """Embeds through `/v1/embeddings`; vectors are L2-normalised by the server.

    KoboldCpp generates and embeds under one lock, so a search may wait for a page; it takes the same lease. An error
    that the server signals by an empty vector is raised, never stored. A text that is too long for the model is
    embedded in parts, whose mean is its vector. Can be pickled; `to_dict` leaves the password out.
    """

    api_url: str | list[str] = Field(
        default="http://127.0.0.1:5001", description="One server, or several with the same model."
    )
    api_password: str | None = Field(default=None, exclude=True, repr=False)
    model_name: str = Field(default="koboldcpp", description="A name for people; the server has one model.")
    embed_batch_size: int = Field(default=32, gt=0, le=2048, description="Texts in one request.")

    _pool: ServerPool | None = PrivateAttr(default=None)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)

    @classmethod
    @override
    def class_name(cls) -> str:
        return "KoboldEmbedding"

    @override
    def __getstate__(self) -> dict[str, Any]:
        # Past LlamaIndex's own, which tries to pickle every private attribute and warns of each that cannot be;
        # connections and locks are made anew where the copy is used.
        state: dict[str, Any] = super(BaseComponent, self).__getstate__()
        return {**state, "__pydantic_private__": None}

    def _servers(self) -> ServerPool:
        with self._lock:
            if self._pool is None:
                self._pool = ServerPool(self.api_url, password=self.api_password)
            return self._pool

    def loaded_model(self) -> str:
        """Return the name of the embedding model that is loaded.

        Raises:
            ConfigError: The server runs without one.
            ServerError: The server does not answer.
        """
        with self._servers().lease() as lease:
            return _loaded_model(lease.info)

    @override
    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        with self._servers().lease() as lease:
            _loaded_model(lease.info)
            try:
                return lease.run(lambda client: client.embed(texts))
            except ContextTooSmallError:
                if len(texts) == 1 and len(texts[0]) < 2 * _LEAST_CHARS:
                    raise
        if len(texts) > 1:
            return [self._get_text_embedding(text) for text in texts]
        halves = _halves(texts[0])
        return [mean_of_windows(self._get_text_embeddings(halves), [len(half) for half in halves])]


def _halves(text: str) -> list[str]:
    """Split a text at the white space that is nearest to its middle, if there is some near."""
    middle = len(text) // 2
    at = max(text.rfind(space, middle - _LEAST_CHARS, middle) for space in " \n")
    at = at if at > 0 else middle
    return [text[:at], text[at:]]


def _loaded_model(info: ServerInfo) -> str:
    if not info.embeddings:
        raise ConfigError(
            f"{info.url} runs without an embedding model.",
            server=info.url,
            hint=f"Start it {SETTINGS['embeddingsmodel'].remedy('FILE.gguf')}.",
        )
    return info.embedding_model or "koboldcpp"
