"""Embedding models that stay on this machine: MiniLM or E5 on the CPU, or whatever KoboldCpp has loaded.

The classes for LlamaIndex are imported when they are first used; `minilm_model` and `e5_model` do without LlamaIndex.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kobold_reader.embeddings.e5 import E5Embedding
    from kobold_reader.embeddings.e5_model import E5Tokenizer
    from kobold_reader.embeddings.fastembed import FastEmbedding
    from kobold_reader.embeddings.koboldcpp import KoboldEmbedding
    from kobold_reader.embeddings.minilm import MiniLMEmbedding
    from kobold_reader.embeddings.minilm_model import MiniLMTokenizer

__all__ = ["E5Embedding", "E5Tokenizer", "FastEmbedding", "KoboldEmbedding", "MiniLMEmbedding", "MiniLMTokenizer"]

_MODULES = {
    "E5Embedding": "e5",
    "E5Tokenizer": "e5_model",
    "FastEmbedding": "fastembed",
    "KoboldEmbedding": "koboldcpp",
    "MiniLMEmbedding": "minilm",
    "MiniLMTokenizer": "minilm_model",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
