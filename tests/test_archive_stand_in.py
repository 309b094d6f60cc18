"""Pages that RapidOCR read while no KoboldCpp answered: read again when it does, and the better reading wins."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from kobold_reader import Archive, KoboldReader
from kobold_reader.cli.app import make_app
from tests.conftest import without_line_reader
from tests.kobold_simulator import KoboldSimulator, ScriptBrain

pytestmark = pytest.mark.slow

LINES = (
    "Harbour dues for the year",
    "Axel Lindqvist, 12 Quay Street",
    "paid in full on Tuesday",
    "stamp and signature",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with scans of one page, and an archive of words in which RapidOCR has read it."""
    folder = tmp_path_factory.mktemp("made")
    page = Image.new("L", (900, 400), 255)
    for number, line in enumerate(LINES):
        ImageDraw.Draw(page).text((30, 30 + 80 * number), line, fill=0, font_size=40)
    (folder / "scans").mkdir()
    page.save(folder / "scans" / "page.png")
    reader = KoboldReader(engine="rapidocr", on_error="skip", ledger="none")
    with without_line_reader(), Archive.open(folder / "a", create=True, embedder="none") as archive:
        assert archive.sync(folder / "scans", reader=reader, remember=False).pages == {"ok": 1}
    return folder


@pytest.fixture
def scans(made: Path) -> Path:
    return made / "scans"


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """The archive, for one test."""
    return Path(shutil.copytree(made / "a", tmp_path / "a"))


def again(folder: Path, scans: Path, server: KoboldSimulator) -> tuple[dict[str, int], str, str]:
    """Have KoboldCpp read the page; return what became of it, its text, and its status."""
    reader = KoboldReader(api_url=server.url, tasks=["ocr"], on_error="skip")
    with Archive.open(folder) as opened:
        report = opened.sync(scans, reader=reader)
        [row] = opened.pages()
    counts = {name: getattr(report, name) for name in ("reread_pages", "stand_in_pages")}
    assert counts == {name: report.to_json()[name] for name in counts}
    return counts, row.text, row.status


def test_a_whole_reading_by_koboldcpp_replaces_the_stand_in(
    folder: Path, scans: Path, make_simulator: Callable[..., KoboldSimulator]
) -> None:
    server = make_simulator(brain=ScriptBrain("Harbour dues, as a better reader writes them."))
    assert again(folder, scans, server) == (
        {"reread_pages": 1, "stand_in_pages": 0},
        "Harbour dues, as a better reader writes them.",
        "ok",
    )
    assert again(folder, scans, server)[0] == {"reread_pages": 0, "stand_in_pages": 0}, "once"


def test_pages_in_which_rapidocr_saw_no_text_are_counted_too(
    tmp_path: Path, make_simulator: Callable[..., KoboldSimulator]
) -> None:
    page = Image.new("L", (900, 400), 255)
    ImageDraw.Draw(page).ellipse((200, 100, 600, 300), fill=90)
    page.save(tmp_path / "page.png")
    server = make_simulator(brain=ScriptBrain("A word that was written by hand."))
    with Archive.open(tmp_path / "a", create=True, embedder="none") as archive:
        reader = KoboldReader(engine="rapidocr", on_error="skip", ledger="none")
        assert archive.sync(tmp_path / "page.png", reader=reader).pages == {"no_text": 1}
    assert again(tmp_path / "a", tmp_path / "page.png", server) == (
        {"reread_pages": 1, "stand_in_pages": 0},
        "A word that was written by hand.",
        "ok",
    )


def test_the_stand_in_stays_where_koboldcpp_fails(
    folder: Path, scans: Path, make_simulator: Callable[..., KoboldSimulator]
) -> None:
    server = make_simulator(brain=ScriptBrain(""))
    counts, text, status = again(folder, scans, server)
    assert counts == {"reread_pages": 0, "stand_in_pages": 1}
    assert (LINES[1] in text, status) == (True, "ok")


def test_the_stand_in_stays_where_koboldcpp_loops(
    folder: Path, scans: Path, make_simulator: Callable[..., KoboldSimulator]
) -> None:
    server = make_simulator(brain=ScriptBrain("Harbour dues. " * 600))
    for stand_in_pages in (1, 0):  # the second run passes over the file
        counts, text, status = again(folder, scans, server)
        assert counts == {"reread_pages": 0, "stand_in_pages": stand_in_pages}
        assert (LINES[1] in text, status) == (True, "ok")
    with Archive.open(folder) as opened:
        assert opened.sync().pages == opened.status().pages == {"ok": 1}, "it was counted as looping"
    server.brain = ScriptBrain("Harbour dues, read at last.")
    reader = KoboldReader(api_url=server.url, tasks=["ocr"], on_error="skip", redo="looping")
    with Archive.open(folder) as opened:
        assert opened.sync(scans, reader=reader).reread_pages == 1
        assert [row.text for row in opened.pages()] == ["Harbour dues, read at last."]


@pytest.mark.parametrize("tasks", [None, ["ocr", "caption"]])
def test_what_koboldcpp_read_is_kept_by_a_stand_in(
    tmp_path: Path, scans: Path, make_simulator: Callable[..., KoboldSimulator], tasks: list[str] | None
) -> None:
    """All texts became RapidOCR's and all descriptions went, for one new page; named tasks were refused."""
    server = make_simulator(brain=ScriptBrain("Harbour dues, as a better reader writes them."))
    pages = Path(shutil.copytree(scans, tmp_path / "scans"))
    with without_line_reader(), Archive.open(tmp_path / "a", create=True, embedder="none") as archive:
        archive.sync(pages, reader=KoboldReader(api_url=server.url, tasks=tasks, on_error="skip", ledger="none"))
        [before] = archive.pages()
        assert set(before.parts) == {"ocr", "caption"}
        with Image.open(pages / "page.png") as page:
            page.rotate(180).save(pages / "new.png")
        server.stop()
        stand_in = {"engine": "rapidocr", "is_stand_in": True}
        for redo in (None, "all"):
            report = archive.sync(changes={**stand_in, "redo": redo}, remember=False)
            assert report.pages == archive.status().pages == {"ok": 2}
            kept, new = sorted(archive.pages(), key=lambda row: row.uri, reverse=True)
            assert kept == before
            assert set(new.parts) == {"ocr"}
            assert str(new.metadata["model"]).startswith("rapidocr-")
        asked = KoboldReader(engine="rapidocr", on_error="skip", ledger="none")
        assert archive.sync(pages, reader=asked, remember=False).pages == {"ok": 2}
        assert all(str(row.metadata["model"]).startswith("rapidocr-") for row in archive.pages()), "asked for"


def test_the_engine_rapidocr_keeps_what_koboldcpp_read(
    tmp_path: Path, scans: Path, make_simulator: Callable[..., KoboldSimulator]
) -> None:
    """The command that is suggested without a server replaced all texts, and the next run asked RapidOCR again."""
    server = make_simulator(brain=ScriptBrain("Harbour dues, as a better reader writes them."))
    pages, other = (Path(shutil.copytree(scans, tmp_path / name)) for name in ("scans", "other"))
    at = ["--archive", str(tmp_path / "a"), "--embedder", "none"]

    def index(*arguments: str) -> str:
        with without_line_reader():
            done = CliRunner().invoke(make_app(), ["index", *arguments, *at])
        assert done.exit_code == 0, done.output
        return done.output

    index(str(pages), "--api-url", server.url)
    with Archive.open(tmp_path / "a") as archive:
        before, settings = list(archive.pages()), archive.settings_of(pages)
    with Image.open(pages / "page.png") as page:
        page.rotate(180).save(pages / "new.png")
        page.rotate(180).save(other / "page.png")
    assert "pages that KoboldCpp read are kept" in index(str(pages), "--engine", "rapidocr")
    index(str(other), "--engine", "rapidocr")
    with Archive.open(tmp_path / "a") as archive:
        assert [row for row in archive.pages() if row in before] == before
        assert archive.settings_of(pages) == settings
        assert archive.settings_of(other)["engine"] == "rapidocr", "that was chosen for this folder"
    for redo in (["--redo", "all"], []):  # the choice holds for the next run, too
        index(str(pages), "--engine", "rapidocr", *redo)
        with Archive.open(tmp_path / "a") as archive:
            assert all(str(row.metadata["model"]).startswith("rapidocr-") for row in archive.pages())


@pytest.mark.parametrize(("answer", "status"), [("\n".join(LINES), "ok"), ("", "failed")])
def test_in_a_new_archive_no_page_was_rapidocr_s_before(
    tmp_path: Path, folder: Path, scans: Path, make_simulator: Callable[..., KoboldSimulator], answer: str, status: str
) -> None:
    """The witness's reading is in the ledger before the page is indexed."""
    server = make_simulator(brain=ScriptBrain(answer))
    ledger = folder / "ledger.sqlite"
    reader = KoboldReader(api_url=server.url, tasks=["ocr"], on_error="skip", ledger=str(ledger))
    with Archive.open(tmp_path / "new", create=True, embedder="none") as opened:
        report = opened.sync(scans, reader=reader)
    assert report.pages == {status: 1}
    assert (report.reread_pages, report.stand_in_pages) == (0, 0)
