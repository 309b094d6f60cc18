"""The embedding models as LlamaIndex takes them: MiniLM, E5, any of fastembed's, and the one that KoboldCpp runs."""

from __future__ import annotations

import asyncio
import threading
from difflib import get_close_matches
from typing import Any, ClassVar

from llama_index.core.base.embeddings.base import BaseEmbedding, Embedding
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.schema import BaseComponent
from typing_extensions import override

from kobold_reader.embeddings import e5_model, minilm_model
from kobold_reader.embeddings.local import clean, load_once, mean_of_windows
from kobold_reader.errors import ConfigError, ContextTooSmallError, MissingExtraError
from kobold_reader.kobold import SETTINGS, ServerInfo, ServerPool


class ThreadedEmbedding(BaseEmbedding):
    """Answers each call through `_get_text_embeddings`; asynchronous calls run it in a thread.

    LlamaIndex's own asynchronous methods block the event loop. A model that embeds questions in another way overrides
    `_get_query_embedding`.
    """

    @override
    def _get_text_embedding(self, text: str) -> Embedding:
        return self._get_text_embeddings([text])[0]

    @override
    def _get_query_embedding(self, query: str) -> Embedding:
        return self._get_text_embedding(query)

    @override
    async def _aget_query_embedding(self, query: str) -> Embedding:
        return await asyncio.to_thread(self._get_query_embedding, query)

    @override
    async def _aget_text_embedding(self, text: str) -> Embedding:
        return await asyncio.to_thread(self._get_text_embedding, text)

    @override
    async def _aget_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)


# ── models on this machine ───────────────────────────────────────────────────────────────────────


class MiniLMEmbedding(ThreadedEmbedding):
    """Embeds texts with all-MiniLM-L6-v2 through onnxruntime; vectors have length 1.

    The first use builds the ONNX graph in the user's cache folder (some seconds, 60 MB). All instances of a process
    share one loaded model; several threads may use it at once.

    Raises:
        MissingExtraError: At the first use, where a library or the model folder is missing.
        ConfigError: At the first use, where the folder holds another model.
    """

    max_tokens: ClassVar[int] = minilm_model.MAX_TOKENS
    chunk_tokens: ClassVar[int] = minilm_model.MAX_TOKENS - 2  # what is left for a chunk beside the special tokens
    dimension: ClassVar[int] = 384

    model_name: str = Field(default=minilm_model.NAME, description="Name of the model; there is only this one.")
    model_dir: str | None = Field(
        default=None,
        description="Folder with model.safetensors and tokenizer.json; None: the package's.",
    )
    threads: int | None = Field(default=None, ge=1, description="Texts embedded at once; None: one per core.")
    embed_batch_size: int = Field(
        default=256,
        gt=0,
        le=2048,
        description="Texts handed over at once, the longest of which are begun first.",
    )

    @classmethod
    @override
    def class_name(cls) -> str:
        return "MiniLMEmbedding"

    @classmethod
    def available(cls, model_dir: str | None = None) -> bool:
        """Tell whether libraries and model folder are there. Imports nothing heavy."""
        return minilm_model.is_available(model_dir)

    @property
    def tokenizer(self) -> minilm_model.MiniLMTokenizer:
        """Counts tokens as this model does; with `chunk_tokens` for SentenceSplitter."""
        return minilm_model.MiniLMTokenizer(self.model_dir)

    @override
    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return minilm_model.embed(texts, self.model_dir, self.threads)


class E5Embedding(ThreadedEmbedding):
    """Embeds texts with multilingual-e5-small; vectors have length 1.

    All instances of a process share one loaded model; several threads may use it at once.

    Raises:
        MissingExtraError: At the first use, where the model is not installed.
    """

    dimension: ClassVar[int] = e5_model.DIMENSION

    model_name: str = Field(default=e5_model.NAME, description="Name of the model; there is only this one.")
    embed_batch_size: int = Field(default=64, gt=0, le=2048, description="Texts handed over at once.")

    @classmethod
    @override
    def class_name(cls) -> str:
        return "E5Embedding"

    @classmethod
    def available(cls) -> bool:
        """Tell whether the model is installed. Imports nothing heavy."""
        return e5_model.is_available()

    @property
    def tokenizer(self) -> e5_model.E5Tokenizer:
        """Counts tokens as this model does, for SentenceSplitter."""
        return e5_model.E5Tokenizer()

    @override
    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return e5_model.embed(texts)

    @override
    def _get_query_embedding(self, query: str) -> Embedding:
        return e5_model.embed_queries([query])[0]


class FastEmbedding(ThreadedEmbedding):
    """Embeds texts with a model of fastembed, on the processor; it is downloaded once, at the first use.

    Nothing of the texts leaves the machine. Models of the E5 family are told what is a question and what is a text.

    Raises:
        MissingExtraError: At the first use: fastembed is not installed.
        ConfigError: At the first use: there is no such model, or it cannot be downloaded.
    """

    model_name: str = Field(description="As fastembed names it, such as BAAI/bge-small-en-v1.5.")
    embed_batch_size: int = Field(default=64, gt=0, le=2048, description="Texts handed over at once.")

    @classmethod
    @override
    def class_name(cls) -> str:
        return "FastEmbedding"

    def _prefixed(self, before: str, texts: list[str]) -> list[str]:
        is_e5 = "e5" in self.model_name.lower().rpartition("/")[2].split("-")
        return [before + clean(text) if is_e5 else clean(text) for text in texts]

    @override
    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        model = load_once(_load_fastembed, self.model_name)
        return [vector.tolist() for vector in model.embed(self._prefixed("passage: ", texts))]

    @override
    def _get_query_embedding(self, query: str) -> Embedding:
        model = load_once(_load_fastembed, self.model_name)
        (vector,) = model.query_embed(self._prefixed("query: ", [query]))
        found: list[float] = vector.tolist()
        return found


def _load_fastembed(name: str) -> Any:
    try:
        from fastembed import TextEmbedding
    except ImportError as err:
        raise MissingExtraError("fastembed", f"the embedder fastembed:{name}") from err
    known = [model["model"] for model in TextEmbedding.list_supported_models()]
    if name.lower() not in map(str.lower, known):
        near = get_close_matches(name, known, n=3, cutoff=0) + known[:1]
        raise ConfigError(f"fastembed knows no model {name!r}.", hint=f"It knows {len(known)}, such as {near[0]}.")
    try:
        return TextEmbedding(name)
    except (OSError, ValueError, RuntimeError) as err:
        raise ConfigError(
            f"the embedding model {name} cannot be loaded: {err}.",
            hint="It is downloaded once: run this with access to the internet, or point FASTEMBED_CACHE_PATH to a "
            "folder that has it.",
        ) from err


# ── the model that KoboldCpp runs ────────────────────────────────────────────────────────────────

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
    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
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
