"""MiniLMEmbedding: the model of `minilm_model.py` as LlamaIndex takes it."""

from __future__ import annotations

from typing import ClassVar

from llama_index.core.base.embeddings.base import Embedding
from llama_index.core.bridge.pydantic import Field
from typing_extensions import override

from kobold_reader.embeddings.minilm_model import MAX_TOKENS, NAME, MiniLMTokenizer, embed, is_available
from kobold_reader.embeddings.threaded import ThreadedEmbedding


class MiniLMEmbedding(ThreadedEmbedding):
    """Embeds texts with all-MiniLM-L6-v2 through onnxruntime; vectors have length 1.

    The first use builds the ONNX graph in the user's cache folder (some seconds, 60 MB). All instances of a process
    share one loaded model; several threads may use it at once.

    Raises:
        MissingExtraError: At the first use, where a library or the model folder is missing.
        ConfigError: At the first use, where the folder holds another model.
    """

    max_tokens: ClassVar[int] = MAX_TOKENS
    chunk_tokens: ClassVar[int] = MAX_TOKENS - 2  # what is left for a chunk beside the special tokens
    dimension: ClassVar[int] = 384

    model_name: str = Field(default=NAME, description="Name of the model; there is only this one.")
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
        return is_available(model_dir)

    @property
    def tokenizer(self) -> MiniLMTokenizer:
        """Counts tokens as this model does; with `chunk_tokens` for SentenceSplitter."""
        return MiniLMTokenizer(self.model_dir)

    @override
    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return embed(texts, self.model_dir, self.threads)
