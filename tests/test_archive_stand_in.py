"""Pages that RapidOCR read while no KoboldCpp answered: read again when it does, and the better reading wins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from kobold_reader import Archive, KoboldReader
from tests.kobold_simulator import KoboldSimulator, ScriptBrain

pytestmark = pytest.mark.slow

LINES = (
    "Harbour dues for the year",
    "Axel Lindqvist, 12 Quay Street",
    "paid in full on Tuesday",
    "stamp and signature",
)


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """An archive of words, of one page that RapidOCR has read."""
    page = Image.new("L", (900, 400), 255)
    for number, line in enumerate(LINES):
        ImageDraw.Draw(page).text((30, 30 + 80 * number), line, fill=0, font_size=40)
    (tmp_path / "scans").mkdir()
    page.save(tmp_path / "scans" / "page.png")
    with Archive.open(tmp_path / "a", create=True, embedder="none") as archive:
        report = archive.sync(
            tmp_path / "scans", reader=KoboldReader(engine="rapidocr", on_error="skip"), remember=False
        )
    assert report.pages == {"ok": 1}
    return archive


def again(archive: Archive, server: KoboldSimulator) -> tuple[dict[str, int], str, str]:
    """Have KoboldCpp read the page; return what became of it, its text, and its status."""
    reader = KoboldReader(api_url=server.url, tasks=["ocr"], on_error="skip")
    with Archive.open(archive.folder) as opened:
        report = opened.sync(archive.folder.parent / "scans", reader=reader)
        [row] = opened.pages()
    counts = {name: getattr(report, name) for name in ("reread_pages", "stand_in_pages")}
    assert counts == {name: report.to_json()[name] for name in counts}
    return counts, row.text, row.status


def test_a_whole_reading_by_koboldcpp_replaces_the_stand_in(
    archive: Archive, make_simulator: Callable[..., KoboldSimulator]
) -> None:
    server = make_simulator(brain=ScriptBrain("Harbour dues, as a better reader writes them."))
    assert again(archive, server) == (
        {"reread_pages": 1, "stand_in_pages": 0},
        "Harbour dues, as a better reader writes them.",
        "ok",
    )
    assert again(archive, server)[0] == {"reread_pages": 0, "stand_in_pages": 0}, "once"


def test_the_stand_in_stays_where_koboldcpp_fails(
    archive: Archive, make_simulator: Callable[..., KoboldSimulator]
) -> None:
    server = make_simulator(brain=ScriptBrain(""))
    counts, text, status = again(archive, server)
    assert counts == {"reread_pages": 0, "stand_in_pages": 1}
    assert (LINES[1] in text, status) == (True, "ok")


def test_the_stand_in_stays_where_koboldcpp_loops(
    archive: Archive, make_simulator: Callable[..., KoboldSimulator]
) -> None:
    server = make_simulator(brain=ScriptBrain("Harbour dues. " * 600))
    for stand_in_pages in (1, 0):  # the second run passes over the file
        counts, text, status = again(archive, server)
        assert counts == {"reread_pages": 0, "stand_in_pages": stand_in_pages}
        assert (LINES[1] in text, status) == (True, "ok")
    server.brain = ScriptBrain("Harbour dues, read at last.")
    reader = KoboldReader(api_url=server.url, tasks=["ocr"], on_error="skip", redo="looping")
    with Archive.open(archive.folder) as opened:
        assert opened.sync(archive.folder.parent / "scans", reader=reader).reread_pages == 1
        assert [row.text for row in opened.pages()] == ["Harbour dues, read at last."]


@pytest.mark.parametrize(("answer", "status"), [("\n".join(LINES), "ok"), ("", "failed")])
def test_in_a_new_archive_no_page_was_rapidocr_s_before(
    tmp_path: Path, archive: Archive, make_simulator: Callable[..., KoboldSimulator], answer: str, status: str
) -> None:
    """The witness's reading is in the ledger before the page is indexed."""
    server = make_simulator(brain=ScriptBrain(answer))
    ledger = archive.folder / "ledger.sqlite"
    reader = KoboldReader(api_url=server.url, tasks=["ocr"], on_error="skip", ledger=str(ledger))
    with Archive.open(tmp_path / "new", create=True, embedder="none") as opened:
        report = opened.sync(tmp_path / "scans", reader=reader)
    assert report.pages == {status: 1}
    assert (report.reread_pages, report.stand_in_pages) == (0, 0)
