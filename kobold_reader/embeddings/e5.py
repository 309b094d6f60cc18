"""E5Embedding: the model of `e5_model.py` as LlamaIndex takes it."""

from __future__ import annotations

from typing import ClassVar

from llama_index.core.base.embeddings.base import Embedding
from llama_index.core.bridge.pydantic import Field
from typing_extensions import override

from kobold_reader.embeddings.e5_model import DIMENSION, NAME, E5Tokenizer, embed, embed_queries, is_available
from kobold_reader.embeddings.threaded import ThreadedEmbedding


class E5Embedding(ThreadedEmbedding):
    """Embeds texts with multilingual-e5-small; vectors have length 1.

    All instances of a process share one loaded model; several threads may use it at once.

    Raises:
        MissingExtraError: At the first use, where the model is not installed.
    """

    dimension: ClassVar[int] = DIMENSION

    model_name: str = Field(default=NAME, description="Name of the model; there is only this one.")
    embed_batch_size: int = Field(default=64, gt=0, le=2048, description="Texts handed over at once.")

    @classmethod
    @override
    def class_name(cls) -> str:
        return "E5Embedding"

    @classmethod
    def available(cls) -> bool:
        """Tell whether the model is installed. Imports nothing heavy."""
        return is_available()

    @property
    def tokenizer(self) -> E5Tokenizer:
        """Counts tokens as this model does, for SentenceSplitter."""
        return E5Tokenizer()

    @override
    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return embed(texts)

    @override
    def _get_query_embedding(self, query: str) -> Embedding:
        return embed_queries([query])[0]
