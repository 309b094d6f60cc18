"""Corrections: they win over any reading, go with the content, and are found at once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kobold_reader import Archive, KoboldReader
from kobold_reader.archive.vector_index import Indexer
from kobold_reader.errors import ConfigError, ServerError
from tests.kobold_simulator import Fault, KoboldSimulator, RecordedRequest, ScriptBrain
from tests.test_archive_forget import holding
from tests.test_regressions_archive import Killed, kill
from tests.test_regressions_reading import make_pdf

pytestmark = pytest.mark.slow

READ = "Dear Axel Lindqvist, the harbor duse are paid."
RIGHT = "Dear Axel Lindqvist, the harbour dues are paid in quinquiremes."


@pytest.fixture
def server(make_simulator: Callable[..., KoboldSimulator]) -> KoboldSimulator:
    """A KoboldCpp that reads and embeds."""
    return make_simulator(brain=ScriptBrain(lambda _: READ), embeddings_model="embed-a")


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    make_pdf(folder / "a.pdf", [1, 2])
    return folder


def reader_of(server: KoboldSimulator, **arguments: Any) -> KoboldReader:
    return KoboldReader(**{"api_url": server.url, "tasks": ["ocr"], "on_error": "skip", **arguments})


@pytest.fixture
def make_archive(tmp_path: Path, server: KoboldSimulator, scans: Path) -> Callable[..., Archive]:
    def make(embedder: str = "none", **arguments: Any) -> Archive:
        archive = Archive.open(tmp_path / "archive", create=True, embedder=embedder, api_url=server.url)
        archive.sync(scans, reader=reader_of(server, **arguments))
        return archive

    return make


def page_of(archive: Archive, page_number: int = 1, file_name: str = "a.pdf") -> str:
    hits = archive.search("Lindqvist", limit=99, where=[f"page_number={page_number}"])
    return next(hit.page_id for hit in hits if hit.file_name == file_name)


def found(archive: Archive, query: str) -> set[tuple[str, int]]:
    """Pages that hold the word as typed."""
    hits = archive.search(query, limit=9, all_copies=True)
    return {(hit.file_name, hit.page_number) for hit in hits if query in hit.page_text}


def test_a_correction_is_found_at_once_and_marked(make_archive: Callable[..., Archive]) -> None:
    with make_archive("koboldcpp") as archive:
        page_id = page_of(archive)
        assert archive.correction(page_id) is None
        archive.correct(page_id, RIGHT)
        [hit] = archive.search("quinquiremes", limit=1)
        assert (hit.page_id, hit.page_text) == (page_id, RIGHT)
        assert hit.metadata["text_source"] == "correction"
        assert hit.metadata["page_status"] == "ok"
        assert not {"confidence", "model"} & hit.metadata.keys()
        correction = archive.correction(page_id)
        assert correction is not None
        assert correction.text == RIGHT
        assert correction.corrected_at.startswith("20")
        assert archive.text_as_read(page_id) == READ
        assert archive.status().corrections == 1
        assert archive.status().unfinished_pages == 0
        stored = archive.chroma_collection.get(where={"page_number": 1}, include=["documents", "metadatas"])
        assert stored["documents"] == [RIGHT]
        assert stored["metadatas"][0]["text_source"] == "correction"
        assert found(archive, "duse") == {("a.pdf", 2)}, "what was misread is found no more"


def test_what_was_read_takes_a_correction_back(make_archive: Callable[..., Archive]) -> None:
    with make_archive() as archive:
        page_id = page_of(archive)
        before = archive.page(page_id)
        archive.correct(page_id, RIGHT)
        archive.correct(page_id, f"  {READ}  \r\n")
        assert archive.correction(page_id) is None
        assert archive.page(page_id) == before
        assert found(archive, "duse") == {("a.pdf", 1), ("a.pdf", 2)}


def test_a_text_that_was_all_deleted_is_a_page_without_text(make_archive: Callable[..., Archive]) -> None:
    with make_archive() as archive:
        page_id = page_of(archive)
        archive.correct(page_id, " \n")
        page = archive.page(page_id)
        assert page is not None
        assert (page.status, page.text, page.metadata["page_status"]) == ("no_text", "", "no_text")
        correction = archive.correction(page_id)
        assert correction is not None
        assert correction.text == ""
        assert found(archive, "duse") == {("a.pdf", 2)}


def test_it_survives_redo_and_reembed_and_follows_the_content(
    make_archive: Callable[..., Archive], server: KoboldSimulator, scans: Path
) -> None:
    with make_archive("koboldcpp") as archive:
        archive.correct(page_of(archive), RIGHT)
        server.brain = ScriptBrain(lambda _: "Lindqvist, read by a better model.")
        archive.sync(scans, reader=reader_of(server, redo="all"))
        assert found(archive, "quinquiremes") == {("a.pdf", 1)}
        assert found(archive, "better") == {("a.pdf", 2)}
        assert archive.text_as_read(page_of(archive)) == "Lindqvist, read by a better model."
        archive.reembed()
        assert archive.search("quinquiremes", mode="dense", related=True, limit=1)[0].text.endswith("quinquiremes.")

        (scans / "a.pdf").rename(scans / "b.pdf")
        archive.sync(scans, reader=reader_of(server))
        assert found(archive, "quinquiremes") == {("b.pdf", 1)}
        shutil.copy(scans / "b.pdf", scans / "c.pdf")
        archive.sync(scans, reader=reader_of(server))
        (scans / "b.pdf").unlink()
        archive.sync(scans, reader=reader_of(server), prune=True)
        assert found(archive, "quinquiremes") == {("c.pdf", 1)}

        kept = (scans / "c.pdf").read_bytes()
        make_pdf(scans / "d.pdf", [5])
        (scans / "c.pdf").unlink()
        archive.sync(scans, reader=reader_of(server), prune=True)
        assert found(archive, "quinquiremes") == set()
        (scans / "e.pdf").write_bytes(kept)
        archive.sync(scans, reader=reader_of(server))
        assert found(archive, "quinquiremes") == {("e.pdf", 1)}, "pruned, and back again"
        assert archive.status().unfinished_pages == 0


def test_the_image_description_stays(make_archive: Callable[..., Archive], server: KoboldSimulator) -> None:
    server.brain = ScriptBrain(lambda request: "A letter." if "escri" in request.prompt else READ)
    with make_archive(tasks=["ocr", "caption"]) as archive:
        page_id = page_of(archive)
        archive.correct(page_id, RIGHT)
        page = archive.page(page_id)
        assert page is not None
        assert dict(page.parts) == {"ocr": RIGHT, "caption": "A letter."}
        assert "model" in page.metadata, "it made the description"
        archive.correct(page_id, "")
        page = archive.page(page_id)
        assert page is not None
        assert page.text == "A letter."


def test_a_page_that_could_not_be_read_can_be_typed(
    make_archive: Callable[..., Archive], server: KoboldSimulator, scans: Path
) -> None:
    server.fault(None, Fault.DROP_IMAGES)
    with make_archive() as archive:
        [(_, number, _)] = archive.status().failed
        assert number == 2
        first = page_of(archive)
        page_id = first[:-1] + "2"
        archive.correct(page_id, RIGHT)
        assert archive.status().failed == ()
        assert archive.status().pages == {"ok": 2}
        assert found(archive, "quinquiremes") == {("a.pdf", 2)}
        server.fault(Fault.DROP_IMAGES)
        report = archive.sync(scans, reader=reader_of(server))
        assert report.errors == []
        assert report.pages == {"ok": 2}
        archive.correct(page_id, "")
        assert archive.status().pages == {"no_text": 1, "ok": 1}, "a person says so"
        archive.uncorrect(page_id)
        assert archive.status().pages == {"failed": 1, "ok": 1}


def test_pages_that_show_the_same_scan_are_corrected_together(
    make_archive: Callable[..., Archive], server: KoboldSimulator, scans: Path
) -> None:
    with make_archive() as archive:
        make_pdf(scans / "z.pdf", [9, 1])  # the scan of a.pdf page 1 as its page 2
        archive.sync(scans, reader=reader_of(server))
        archive.correct(page_of(archive, 2, "z.pdf"), RIGHT)
        assert found(archive, "quinquiremes") == {("a.pdf", 1), ("z.pdf", 2)}
        assert archive.status().corrections == 1


def test_a_page_that_is_not_there(make_archive: Callable[..., Archive]) -> None:
    with make_archive() as archive:
        with pytest.raises(ConfigError, match="there is no page 'nowhere-1'"):
            archive.correct("nowhere-1", "x")
        assert archive.correction("nowhere-1") is None
        page_id = page_of(archive)
        with pytest.raises(ConfigError, match="character 3 is half of one"):
            archive.correct(page_id, "ab\ud800")


def test_without_the_embedder_a_correction_is_found_by_its_words(
    make_archive: Callable[..., Archive], server: KoboldSimulator, tmp_path: Path
) -> None:
    with make_archive("koboldcpp") as archive:
        page_id = page_of(archive)
    server.stop()
    with Archive.open(tmp_path / "archive", api_url=server.url) as archive:
        archive.correct(page_id, RIGHT)
        assert archive.search("quinquiremes", mode="keyword", limit=1)[0].page_id == page_id
        with pytest.raises(ServerError):
            archive.search("quinquiremes", mode="dense", related=True)
        assert archive.status().unfinished_pages == 1


def test_while_a_run_is_indexing_that_very_page(
    make_archive: Callable[..., Archive], server: KoboldSimulator, scans: Path
) -> None:
    """The run holds the lock, and has the old text in its hands."""
    with make_archive("koboldcpp") as archive:
        page_id = page_of(archive)
        server.brain = ScriptBrain(lambda _: "Lindqvist, read by a better model.")

        def correcting(request: RecordedRequest) -> None:
            if request.path.endswith("/embeddings"):  # asked by the run
                server.fault_when = None
                archive.correct(page_id, RIGHT)

        server.fault_when = correcting
        archive.sync(scans, reader=reader_of(server, redo="all"))
        assert found(archive, "quinquiremes") == {("a.pdf", 1)}
        assert archive.status().unfinished_pages == 1
        archive.sync(scans, reader=reader_of(server))
        assert archive.status().unfinished_pages == 0
        assert archive.chroma_collection.get(where={"page_number": 1})["documents"] == [RIGHT]


def test_killed_before_its_vectors_are_made(
    make_archive: Callable[..., Archive], server: KoboldSimulator, scans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make_archive("koboldcpp") as archive:
        page_id = page_of(archive)
        monkeypatch.setattr(Indexer, "index", kill)
        with pytest.raises(Killed):
            archive.correct(page_id, RIGHT)
        monkeypatch.undo()
        assert found(archive, "quinquiremes") == {("a.pdf", 1)}
        assert archive.sync(scans, reader=reader_of(server)).finished_pages == 1
        assert archive.chroma_collection.get(where={"page_number": 1})["documents"] == [RIGHT]


def test_forgetting_a_file_forgets_its_corrections(
    make_archive: Callable[..., Archive], server: KoboldSimulator, scans: Path, tmp_path: Path
) -> None:
    make_pdf(scans / "z.pdf", [9, 1])  # the scan of a.pdf page 1 as its page 2
    with make_archive("koboldcpp") as archive:
        archive.correct(page_of(archive, 1), "Lindqvist sold quinquiremes")
        archive.correct(page_of(archive, 2), "Lindqvist sold triremes")
        archive.correct(page_of(archive, 1, "z.pdf"), "Lindqvist sold galleons")
        forget(archive, "a.pdf")
        assert not holding(tmp_path / "archive", b"trireme")
        assert archive.status().corrections == 2, "one is of a scan that is in the other file, too"
        assert found(archive, "quinquiremes") == {("z.pdf", 2)}

        (scans / "a.pdf").unlink()
        kept = scans / "kept.pdf"
        make_pdf(kept, [12])
        (scans / "z.pdf").unlink()
        archive.sync(scans, reader=reader_of(server), prune=True)
        assert archive.status().corrections == 2, "pruned: they wait"
        forget(archive, "z.pdf")
        assert archive.status().corrections == 0
        assert not holding(tmp_path / "archive", b"quinquireme", b"galleon")


def forget(archive: Archive, name: str) -> None:
    archive.forget([uri for uri in archive.uris() if uri.endswith(name)])
