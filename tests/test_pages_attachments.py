"""Files attached to a PDF: those of kinds that are taken are further pages, the others are named."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import pymupdf
import pytest

from kobold_reader import Archive, KoboldReader
from kobold_reader.errors import PageRenderError
from kobold_reader.pages import FileFacts, ImageBudget, PageChild, attachments, select
from kobold_reader.pages.worker import open_file
from kobold_reader.reading.ledger import Ledger
from tests import page_files as make
from tests.kobold_simulator import KoboldSimulator
from tests.test_cli import Command, kobold  # noqa: F401

pytestmark = pytest.mark.slow

BUDGET = ImageBudget(max_side_px=300)
TEXTS = make.pdf(make.text_on, make.text_on)
PHOTO = make.jpeg(make.printed_page(40))
Opener = Callable[[bytes], FileFacts]


@pytest.fixture
def opened(child: PageChild, tmp_path: Path) -> Opener:
    def open_bytes(data: bytes) -> FileFacts:
        path = tmp_path / "letter.pdf"
        path.write_bytes(data)
        return child.open(path, kind="pdf")

    return open_bytes


def page_saying(words: str) -> Callable[[pymupdf.Page], object]:
    return lambda page: page.insert_text((72, 90), words)


def portfolio(*files: tuple[str, bytes], **options: object) -> bytes:
    """A page of text, with files attached."""
    document = pymupdf.open("pdf", make.pdf(make.text_on))
    for name, data in files:
        document.embfile_add(name, data, filename=name)
    made: bytes = document.tobytes(**options)
    document.close()
    return made


def test_attached_files_are_further_pages(child: PageChild, opened: Opener) -> None:
    facts = opened(portfolio(("minutes.pdf", TEXTS), ("factur-x.xml", b"<a/>"), ("photo", PHOTO), ("talk.mov", b"\0")))
    assert facts.total_pages == 4
    assert facts.metadata == {"attachments_left_out": "2: factur-x.xml, talk.mov"}
    assert facts.attachments_skipped == {".mov attached to a PDF": 1, ".xml attached to a PDF": 1}
    pages = [child.page_facts(number) for number in (1, 2, 3, 4)]
    assert [page.page_number for page in pages] == [1, 2, 3, 4]
    assert [page.page_label for page in pages] == ["1", "minutes.pdf 1", "minutes.pdf 2", "photo 1"]
    assert [page.metadata.get("attachment") for page in pages] == [None, "minutes.pdf", "minutes.pdf", "photo"]
    assert [page.text_layer for page in pages] == ["good", "good", "good", "none"]
    assert [child.page_images(number, BUDGET).is_blank for number in (4, 1, 3)] == [False] * 3
    with pytest.raises(PageRenderError, match="no such page"):
        child.page_facts(5)


def test_an_attached_page_is_the_same_content_as_the_file_alone(child: PageChild, opened: Opener) -> None:
    opened(portfolio(("minutes.pdf", TEXTS)))
    sha256 = hashlib.sha256(TEXTS).hexdigest()
    assert child.page_facts(3).content_sha256 == hashlib.sha256(f"{sha256}:2".encode()).hexdigest()


def test_a_portfolio_inside_another(child: PageChild, opened: Opener) -> None:
    assert opened(portfolio(("year.pdf", portfolio(("minutes.pdf", TEXTS))))).total_pages == 4
    inner = child.page_facts(4)
    assert (inner.page_label, inner.metadata["attachment"]) == ("minutes.pdf 2", "year.pdf!minutes.pdf")


def test_a_file_pinned_to_a_page(child: PageChild, opened: Opener) -> None:
    def pin(page: pymupdf.Page) -> None:
        page.add_file_annot((100, 100), TEXTS, "pinned.pdf")

    assert opened(make.pdf(make.both(make.text_on, pin))).total_pages == 3
    assert child.page_facts(2).metadata["attachment"] == "pinned.pdf"


def test_what_is_not_taken_uses_up_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attachments, "_MAX_BYTES", 2 * len(TEXTS))
    path = tmp_path / "letter.pdf"
    film, more = ("film.mov", bytes(3 * len(TEXTS))), [(f"{number}.pdf", TEXTS) for number in range(3)]
    path.write_bytes(portfolio(film, *more))
    file = open_file(path, "pdf")
    assert file.facts.total_pages == 1 + 2 * 2
    assert list(file.facts.attachments_skipped) == [
        ".mov attached to a PDF",
        ".pdf attached to a PDF beyond 1000 files or 0 MB",
    ]
    file.close()


def test_a_portfolio_in_an_archive(kobold: Command, tmp_path: Path) -> None:  # noqa: F811
    """What is attached is found, shown, exported and forgotten, and what is not taken is counted by every command."""
    cover = make.pdf(page_saying("To see this portfolio, please open it in a program that can."))
    minutes = make.pdf(page_saying("Minutes of the meeting: the harbour master resigned on Tuesday."))
    inner = pymupdf.open("pdf", minutes)
    inner.embfile_add("sums.xlsx", b"PK", filename="sums.xlsx")
    document = pymupdf.open("pdf", cover)
    for name, data in (("minutes.pdf", inner.tobytes()), ("letter.docx", b"PK\3\4"), ("notes", b"?"), ("b.docx", b"")):
        document.embfile_add(name, data, filename=name)
    scans, archive = tmp_path / "scans", tmp_path / "archive"
    scans.mkdir()
    document.save(scans / "portfolio.pdf")
    (scans / "film.mov").write_bytes(b"film")
    skipped = "skipped: 1 (no ending) attached to a PDF, 2 .docx attached to a PDF, 1 .mov, 1 .xlsx attached to a PDF\n"
    options = ("--text-layer", "only")
    for _ in range(2):  # also where nothing has changed
        said = kobold("index", scans, "--archive", archive, "--embedder", "none", *options)
        assert said.code == 0, said.err
        assert said.err.count(skipped) == 1
    assert skipped in kobold("read", scans, *options).err
    said = kobold("plan", scans, "--json", *options)
    assert skipped in said.err
    assert json.loads(said.out)["files"]["skipped"][".docx attached to a PDF"] == 2

    (hit,) = json.loads(kobold("search", "harbour master", "--archive", archive, "--json").out)
    assert (hit["file_name"], hit["page_label"]) == ("portfolio.pdf!minutes.pdf", "minutes.pdf 1")
    assert kobold("export", "--archive", archive, "--to", "txt", tmp_path / "texts").code == 0
    texts = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "texts").rglob("*.txt"))
    assert "harbour master" in texts
    assert "open it in a program that can" in texts
    assert "2 text_layer" in kobold("status", "--archive", archive).out
    assert kobold("forget", scans / "portfolio.pdf", "--archive", archive).code == 0
    assert b"harbour" not in b"".join(path.read_bytes() for path in archive.rglob("*") if path.is_file())
    assert "harbour" not in kobold("search", "harbour master", "--archive", archive).out


def test_a_searchable_copy_holds_what_is_attached_as_it_was(simulator: KoboldSimulator, tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "letter.pdf").write_bytes(portfolio(("photo.jpg", PHOTO)))
    reader = KoboldReader(api_url=simulator.url, tasks=["ocr"])
    with Archive.open(tmp_path / "archive", create=True, embedder="none") as archive:
        assert archive.sync(tmp_path / "scans", reader=reader).pages == {"text_layer": 1, "ok": 1}
        report = archive.export(tmp_path / "out", to="pdf")
    assert report.errors == []
    (notice,) = report.notices
    assert "attached" in notice
    (copy,) = (tmp_path / "out").rglob("*.pdf")
    with pymupdf.open(copy) as document:
        assert document.page_count == 1
        assert document.embfile_get("photo.jpg") == PHOTO


def test_of_a_pdf_with_locked_files_no_copy_is_written(tmp_path: Path) -> None:
    (tmp_path / "letter.pdf").write_bytes(make.attachment_locked_pdf())
    with Archive.open(tmp_path / "archive", create=True, embedder="none") as archive:
        archive.sync(tmp_path / "letter.pdf")
        (error,) = archive.export(tmp_path / "out", to="pdf").errors
    assert "attached files are locked" in str(error)


def test_an_attached_file_that_cannot_be_opened_is_one_named_error(child: PageChild, opened: Opener) -> None:
    assert opened(portfolio(("cut.pdf", b"%PDF-1.7\n"), ("secret.pdf", make.locked_pdf(user="x")))).total_pages == 3
    assert child.page_facts(1).text_layer == "good"
    for number, words in (2, "cut.pdf cannot be read"), (3, "secret.pdf cannot be read: This PDF is locked"):
        with pytest.raises(PageRenderError, match=words) as caught:
            child.page_facts(number)
        assert caught.value.page_number == number


def test_a_file_with_a_lock_of_its_own_says_so(child: PageChild, opened: Opener) -> None:
    assert opened(make.attachment_locked_pdf()).total_pages == 2
    with pytest.raises(PageRenderError, match=r"letter\.pdf cannot be read: It is locked .* Save it from a PDF viewer"):
        child.page_facts(2)


def test_documents_name_the_file_and_what_is_attached(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "letter.pdf").write_bytes(portfolio(("minutes.pdf", TEXTS), ("factur-x.xml", b"<a/>")))
    with caplog.at_level(logging.WARNING):
        documents = KoboldReader(text_layer="only", ledger=None).load_data(tmp_path / "letter.pdf")
    names = [document.metadata["file_name"] for document in documents]
    assert names == ["letter.pdf", "letter.pdf!minutes.pdf", "letter.pdf!minutes.pdf"]
    assert "attached files of unsupported kinds are skipped: 1: factur-x.xml" in caplog.text
    assert len({document.id_ for document in documents}) == 3


@pytest.mark.skipif(os.name == "nt", reason="kills the child by a signal")
def test_what_was_taken_out_is_removed_also_after_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path = tmp_path / "letter.pdf"
    path.write_bytes(portfolio(("minutes.pdf", TEXTS)))
    with PageChild() as child:
        child.open(path, kind="pdf")
        assert child.page_facts(2).text_layer == "good"
        assert len(list(tmp_path.glob("kobold-reader-*/kobold-reader-*/0.pdf"))) == 1
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
    assert list(tmp_path.glob("kobold-reader-*")) == []


def test_what_was_left_out_is_said_once(
    simulator: KoboldSimulator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where the pages are counted first, as the command line does, and the file is opened anew to be read."""
    document = pymupdf.open("pdf", make.pdf(make.scan_on(PHOTO)))
    document.embfile_add("factur-x.xml", b"<a/>")
    document.save(tmp_path / "letter.pdf")
    document.close()
    files = select([tmp_path]).files
    with KoboldReader(api_url=simulator.url, tasks=["ocr"]) as reader, Ledger(None) as ledger:
        transcriber = reader.transcriber(ledger)
        with caplog.at_level(logging.WARNING):
            assert transcriber.survey(files).pages == 1
            assert [page.status for page in transcriber.run(files)] == ["ok"]
    assert caplog.text.count("attached files of unsupported kinds are skipped") == 1
