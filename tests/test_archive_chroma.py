"""Chroma as its users expect it: filters and deletion of plain LlamaIndex, and an archive whose vectors were harmed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.vector_stores import FilterOperator, MetadataFilter, MetadataFilters
from llama_index.vector_stores.chroma import ChromaVectorStore

from kobold_reader import Archive
from tests.test_archive_embedders import fill, first, letters

TEXTS = ("aaa bbb", "eee bbb", "iii bbb")


@pytest.fixture(name="place")
def make_place(tmp_path: Path) -> Path:
    """An archive of three pages, closed."""
    with Archive.open(tmp_path / "archive", create=True, embed_model=letters()) as archive:
        fill(archive, *TEXTS)
    return tmp_path / "archive"


def opened(place: Path) -> Archive:
    return Archive.open(place, embed_model=letters())


def index_of(archive: Archive) -> VectorStoreIndex:
    store = ChromaVectorStore(chroma_collection=archive.chroma_collection)
    return VectorStoreIndex.from_vector_store(store, embed_model=archive.embed_model)


@pytest.mark.parametrize(
    ("key", "operator", "value", "pages"),
    [
        ("page_number", FilterOperator.GTE, 2, {"p2", "p3"}),
        ("page_number", FilterOperator.IN, [1, 3], {"p1", "p3"}),
        ("file_name", FilterOperator.EQ, "a.pdf", {"p1", "p2", "p3"}),
        ("page_number", FilterOperator.EQ, "1", set()),  # another type
        ("date_taken", FilterOperator.EQ, "1954-03-12", set()),  # no page has it
    ],
)
def test_filters_of_llama_index(
    place: Path, key: str, operator: FilterOperator, value: int | str | list[int], pages: set[str]
) -> None:
    filters = MetadataFilters(filters=[MetadataFilter(key=key, operator=operator, value=value)])
    with opened(place) as archive:
        found = index_of(archive).as_retriever(similarity_top_k=9, filters=filters).retrieve("aaa")
    assert {one.metadata["page_id"] for one in found} == pages


def test_deletion_by_the_page(place: Path) -> None:
    with opened(place) as archive:
        index_of(archive).delete_ref_doc("p1")
        assert sorted(archive.chroma_collection.get()["ids"]) == ["p2-ocr-0", "p3-ocr-0"]
        archive.reembed()
        assert first(archive, "uuu") == "p1"


def test_two_open_archives_see_each_others_vectors(place: Path) -> None:
    with opened(place) as one, opened(place) as other:
        assert first(one, "uuu") == first(other, "uuu") == "p1"
        one.reembed()
        assert first(other, "uuu") == "p1"


def test_a_collection_that_was_deleted_is_healed(place: Path) -> None:
    said: list[str] = []
    with opened(place) as archive:
        archive.chroma_collection._client.delete_collection("pages")  # noqa: SLF001
        assert archive.search("bbb", on_notice=said.append)[0].page_id in {"p1", "p2", "p3"}
    assert "index --reembed makes the vectors anew" in said[0]
    with opened(place) as archive:
        assert archive.search("bbb", on_notice=said.append)[0].page_id in {"p1", "p2", "p3"}, "words are left"
        archive.reembed()
        assert first(archive, "uuu") == "p1"


def test_a_folder_that_is_half_gone_is_healed(place: Path) -> None:
    for graph in (place / "chroma").iterdir():
        if graph.is_dir():
            shutil.rmtree(graph)
    with opened(place) as archive:
        assert archive.search("bbb")[0].page_id in {"p1", "p2", "p3"}
        archive.reembed()
        assert first(archive, "uuu") == "p1"
    (place / "chroma" / "chroma.sqlite3").write_bytes(b"no database")
    said: list[str] = []
    with opened(place) as archive:
        assert archive.search("bbb", on_notice=said.append)[0].page_id in {"p1", "p2", "p3"}
        assert "index --reembed makes the vectors anew" in said[0]
        archive.reembed()
        assert first(archive, "uuu") == "p1"
