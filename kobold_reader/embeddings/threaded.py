"""What LlamaIndex asks of every embedding model beside its vectors: one text at a time, and without blocking."""

from __future__ import annotations

import asyncio

from llama_index.core.base.embeddings.base import BaseEmbedding, Embedding
from typing_extensions import override


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
