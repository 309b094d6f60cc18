"""The nearest chunks, of all and of some, those among them that Chroma does not have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from kobold_reader.archive import vectors as module
from kobold_reader.archive.embedders import Embedder
from kobold_reader.archive.vector_index import Calibration
from kobold_reader.archive.vectors import Node, Vectors

DIMENSION = 8
EMBEDDINGS = np.random.default_rng(6).standard_normal((60, DIMENSION))
IDS = [f"p{number}-ocr-0" for number in range(60)]


@pytest.fixture(name="vectors", scope="module")
def make_vectors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vectors]:
    vectors = Vectors(tmp_path_factory.mktemp("a") / "chroma", embedder="e", dimension=DIMENSION)
    assert vectors.query(EMBEDDINGS[0].tolist(), 5) == [], "none yet"
    rows = zip(IDS, EMBEDDINGS.tolist(), strict=True)
    vectors.put([Node(name, name, {"page_id": name.split("-")[0]}, embedding) for name, embedding in rows])
    yield vectors
    vectors.close()


def nearest(ids: list[str], limit: int) -> list[tuple[str, float]]:
    query = EMBEDDINGS[3]
    found = []
    for name in ids:
        one = EMBEDDINGS[IDS.index(name)]
        found.append((name, float(one @ query / np.linalg.norm(one) / np.linalg.norm(query))))
    return sorted(found, key=lambda pair: -pair[1])[:limit]


@pytest.mark.parametrize("few", [0, 1500])
@pytest.mark.parametrize(("ids", "limit"), [(None, 7), (IDS[10:30], 7), (IDS[40:44], 7), ([], 7)])
def test_the_nearest_of_some_chunks(
    vectors: Vectors, monkeypatch: pytest.MonkeyPatch, ids: list[str] | None, limit: int, few: int
) -> None:
    """Compared one by one, or found by Chroma among those named: the same."""
    monkeypatch.setattr(module, "FEW_NODES", few)
    found = vectors.query(EMBEDDINGS[3].tolist(), limit, ids)
    expected = nearest(IDS if ids is None else ids, limit)
    assert [near.node_id for near in found] == [name for name, _ in expected]
    assert [near.page_id for near in found] == [name.split("-")[0] for name, _ in expected]
    assert [near.cosine for near in found] == pytest.approx([cosine for _, cosine in expected], abs=1e-5)


@pytest.mark.parametrize("few", [0, 1500])
def test_chunks_that_are_not_there_yet_are_passed_over(
    vectors: Vectors, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    """Another process has begun to index their page."""
    monkeypatch.setattr(module, "FEW_NODES", few)
    found = vectors.query(EMBEDDINGS[3].tolist(), 7, [*IDS[10:30], "new-ocr-0", "new-ocr-1"])
    assert [near.node_id for near in found] == [name for name, _ in nearest(IDS[10:30], 7)]
    assert vectors.query(EMBEDDINGS[3].tolist(), 7, ["new-ocr-0"]) == []


# ── what cosines say ──────────────────────────────────────────────────────────────────────────────


def by_script(texts: Sequence[str]) -> list[list[float]]:
    """A model that knows English, and of other scripts only which they are."""
    latin = [sum(char < "\u0250" for char in text) / len(text) for text in texts]
    return [
        [share * len(text), share * text.count("e"), (1 - share) * 50] for text, share in zip(texts, latin, strict=True)
    ]


def test_a_question_is_compared_to_unrelated_texts_of_its_language() -> None:
    embedder = Embedder("python", "scripts", 3, 256, by_script, lambda: None)
    measured = Calibration.of(embedder)
    english, chinese = by_script(["where is the mill", "磨坊在哪里"])
    assert measured.for_question(chinese).unrelated == pytest.approx(1, abs=0.01), (
        "any two Chinese texts are alike to it"
    )
    assert measured.for_question([2 * value for value in english]) == measured.for_question(english)
    assert 0.01 <= measured.spread < 0.5
