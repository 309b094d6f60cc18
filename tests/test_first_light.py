"""The whole way once: file → pixels → request → text → Document → Chroma → hit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kobold_reader import Archive, KoboldReader
from tests.conftest import LETTER
from tests.kobold_simulator import KoboldSimulator

pytestmark = pytest.mark.slow


def test_a_scanned_pdf_becomes_documents_and_is_found(simulator: KoboldSimulator, tmp_path: Path) -> None:
    reader = KoboldReader(api_url=simulator.url)
    documents = reader.load_data(LETTER)

    assert [document.metadata["page_number"] for document in documents] == [1, 2, 3]
    assert len({document.text for document in documents}) == 3, "each page has its own text"
    assert all("Text of a page" in document.text for document in documents)
    assert all("## Image description\n\nA page" in document.text for document in documents)
    assert simulator.count() == 6, "two tasks a page"
    assert simulator.encodings == 3, "the second task found the image in the server's cache"
    assert simulator.in_flight_max == 1

    with Archive.open(tmp_path / "archive", create=True) as archive:
        report = archive.sync(LETTER.parent, reader=reader)
        hits = archive.search("Lindqvist 1954/37-b", limit=3)
    assert simulator.count() == 6, "the archive read through to the ledger: nothing was asked twice"
    assert (report.new_files, report.pages["ok"], report.indexed_pages) == (1, 3, 3)
    assert sorted(hit.page_number for hit in hits) == [1, 2, 3]
    assert all(hit.link == f"{LETTER.as_uri()}#page={hit.page_number}" for hit in hits)
    assert all(hit.text[start:end] in {"Lindqvist", "1954/37-b"} for hit in hits for start, end in hit.marks)
    assert all(hit.marks for hit in hits)


def test_metadata_is_flat_scalar_and_complete(simulator: KoboldSimulator) -> None:
    document = KoboldReader(api_url=simulator.url, tasks=["ocr"]).load_data(LETTER)[1]

    metadata = document.metadata
    assert all(isinstance(value, str | int | float | bool) for value in metadata.values())
    assert json.loads(json.dumps(metadata)) == metadata
    assert metadata["page_label"] == "2"
    assert metadata["total_pages"] == 3
    assert metadata["page_status"] == "ok"
    assert metadata["page_part"] == "page"
    assert metadata["text_source"] == "ocr"
    assert metadata["model"] == "Qwen2.5-VL-7B-Instruct-Q4_K_M"
    assert metadata["file_path"] == str(LETTER)
    assert not {"document_id", "doc_id", "ref_doc_id"} & metadata.keys()
    assert "file_name" in document.excluded_embed_metadata_keys
    assert not any("127.0.0.1" in str(value) for value in metadata.values()), "no server address"
