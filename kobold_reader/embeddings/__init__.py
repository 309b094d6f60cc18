"""Embedding models that stay on this machine: MiniLM or E5 on the CPU, or whatever KoboldCpp has loaded.

The classes for LlamaIndex are imported when they are first used; `minilm_model` and `e5_model` do without LlamaIndex.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kobold_reader.lazy import lazy_names

if TYPE_CHECKING:
    from kobold_reader.embeddings.e5 import E5Embedding
    from kobold_reader.embeddings.e5_model import E5Tokenizer
    from kobold_reader.embeddings.fastembed import FastEmbedding
    from kobold_reader.embeddings.koboldcpp import KoboldEmbedding
    from kobold_reader.embeddings.minilm import MiniLMEmbedding
    from kobold_reader.embeddings.minilm_model import MiniLMTokenizer

__all__ = ["E5Embedding", "E5Tokenizer", "FastEmbedding", "KoboldEmbedding", "MiniLMEmbedding", "MiniLMTokenizer"]

if not TYPE_CHECKING:  # else a type checker takes every name for one of these
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "e5": ("E5Embedding",),
            "e5_model": ("E5Tokenizer",),
            "fastembed": ("FastEmbedding",),
            "koboldcpp": ("KoboldEmbedding",),
            "minilm": ("MiniLMEmbedding",),
            "minilm_model": ("MiniLMTokenizer",),
        },
    )
