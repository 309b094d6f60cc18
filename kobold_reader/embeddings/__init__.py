"""Embedding models that stay on this machine: MiniLM on the CPU, or whatever KoboldCpp has loaded."""

from kobold_reader.embeddings.koboldcpp import KoboldEmbedding
from kobold_reader.embeddings.minilm import MiniLMEmbedding, MiniLMTokenizer

__all__ = ["KoboldEmbedding", "MiniLMEmbedding", "MiniLMTokenizer"]
