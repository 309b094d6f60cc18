"""Embedding models that stay on this machine: MiniLM or E5 on the CPU, or whatever KoboldCpp has loaded.

The classes for LlamaIndex are imported when they are first used; `minilm_model` and `e5_model` do without LlamaIndex.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kobold_reader.lazy import lazy_names

if TYPE_CHECKING:
    from kobold_reader.embeddings.e5_model import E5Tokenizer
    from kobold_reader.embeddings.llamaindex import E5Embedding, FastEmbedding, KoboldEmbedding, MiniLMEmbedding
    from kobold_reader.embeddings.minilm_model import MiniLMTokenizer

__all__ = ["E5Embedding", "E5Tokenizer", "FastEmbedding", "KoboldEmbedding", "MiniLMEmbedding", "MiniLMTokenizer"]

if not TYPE_CHECKING:  # else a type checker takes every name for one of these
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "e5_model": ("E5Tokenizer",),
            "llamaindex": ("E5Embedding", "FastEmbedding", "KoboldEmbedding", "MiniLMEmbedding"),
            "minilm_model": ("MiniLMTokenizer",),
        },
    )
