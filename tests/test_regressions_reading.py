"""Faults that were found once, and must not come back: reading pages."""

from __future__ import annotations

import os
import shutil
import sqlite3
import zipfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pymupdf
import pytest
from PIL import Image, ImageDraw

from kobold_reader import KoboldReader
from kobold_reader.archive.store import Catalog
from kobold_reader.errors import PageRenderError
from kobold_reader.options import Redo
from kobold_reader.pages import select
from kobold_reader.reading.ledger import Ledger, default_ledger_path
from tests.conftest import SAMPLES
from tests.kobold_simulator import KoboldSimulator

pytestmark = pytest.mark.slow

PROSE = "The minutes of the annual meeting were read and approved. Axel Lindqvist reported on the harbour dues. " * 6


def scan(number: int) -> bytes:
    """A picture of a page with ink on it, different for each number."""
    image = Image.new("RGB", (600, 849), "white")
    draw = ImageDraw.Draw(image)
    for line in range(12):
        draw.text((40, 40 + line * 50), f"Line {line} of scan number {number} with words", fill="black")
        draw.line((40, 60 + line * 50, 300 + 15 * number, 60 + line * 50), fill="black", width=3)
    pixmap = pymupdf.Pixmap(pymupdf.csRGB, 600, 849, image.tobytes(), False)
    return bytes(pixmap.tobytes("png"))


def make_pdf(path: Path, pages: Sequence[int | str]) -> Path:
    """A PDF of pages: a number is a scan, `blank` an empty page, `text` prose above a picture."""
    document = pymupdf.open()
    for what in pages:
        page = document.new_page(width=595, height=842)
        if isinstance(what, int):
            page.insert_image(page.rect, stream=scan(what))
        elif what == "text":
            page.insert_textbox((50, 50, 545, 400), PROSE, fontsize=11)
            page.insert_image((50, 420, 545, 820), stream=scan(3), keep_proportion=False)
    document.save(str(path))
    document.close()
    return path


def no_images(*_: Any, **__: Any) -> None:
    raise PageRenderError("the image cannot be decoded")


def test_a_blank_page_stays_known_as_blank(simulator: KoboldSimulator, tmp_path: Path) -> None:
    """The facts of a file's pages, kept when its last page was looked at, wiped out which of them were blank."""
    file = make_pdf(tmp_path / "a.pdf", [1, "blank", 2])
    statuses = [page.status for page in KoboldReader(api_url=simulator.url).read_pages(file)]
    simulator.stop()

    again = list(KoboldReader(api_url=simulator.url).read_pages(file))

    assert [page.status for page in again] == statuses == ["ok", "blank", "ok"]
    assert all(page.is_kept for page in again)
    simulator.restart()


def test_text_layer_only_takes_the_text_of_a_page_with_a_picture(tmp_path: Path) -> None:
    """The caption that nobody could answer made the whole page fail, "for it has no text layer"."""
    file = make_pdf(tmp_path / "a.pdf", ["text", 1])

    first, second = KoboldReader(text_layer="only").read_pages(file)

    assert (first.status, first.errors) == ("text_layer", {})
    assert "no text layer" in str(second.error)
    assert second.error is not None
    assert second.error.page_number == 2


def test_a_page_whose_image_is_broken_keeps_its_text_layer(
    simulator: KoboldSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = make_pdf(tmp_path / "a.pdf", ["text"])
    monkeypatch.setattr("kobold_reader.pages.PageChild.page_images", no_images)

    [page] = KoboldReader(api_url=simulator.url).read_pages(file)

    assert (page.status, page.failed_tasks) == ("text_layer", ("caption",))
    assert "Axel Lindqvist" in page.text


def test_a_page_that_is_gone_keeps_what_was_read_of_it(simulator: KoboldSimulator, tmp_path: Path) -> None:
    """A further task on a file that has gone meanwhile threw away the transcription that was there."""
    file = make_pdf(tmp_path / "a.pdf", [1, 2])
    list(KoboldReader(api_url=simulator.url, tasks=["ocr"]).read_pages(file))
    files = select([file]).files
    file.unlink()
    reader = KoboldReader(api_url=simulator.url, tasks=["ocr", "caption"])

    with reader.open_ledger() as ledger:
        pages = list(reader.transcriber(ledger).run(files))

    assert [(page.status, page.failed_tasks) for page in pages] == [("ok", ("caption",))] * 2
    assert [page.errors["caption"].page_number for page in pages] == [1, 2]


def test_a_task_named_twice_is_asked_once(simulator: KoboldSimulator, tmp_path: Path) -> None:
    list(KoboldReader(api_url=simulator.url, tasks=["ocr", "ocr"]).read_pages(make_pdf(tmp_path / "a.pdf", [1])))
    assert simulator.count() == 1


def test_the_survey_counts_the_sample_only(tmp_path: Path) -> None:
    files = select([make_pdf(tmp_path / "a.pdf", [1, 2, 3, 4])]).files
    reader = KoboldReader(sample=2)
    with reader.open_ledger() as ledger:
        assert reader.transcriber(ledger).survey(files).pages == 2


def test_a_file_put_back_as_it_was_has_failed_no_more(simulator: KoboldSimulator, tmp_path: Path) -> None:
    """Broken, then restored with its old date: known again, so not opened, and its failure stayed for ever."""
    file = make_pdf(tmp_path / "a.pdf", [1])
    good, state = file.read_bytes(), file.stat()
    reader = KoboldReader(api_url=simulator.url, tasks=["ocr"])
    list(reader.read_pages(file))
    file.write_bytes(b"%PDF-1.4 broken")
    assert [page.status for page in reader.read_pages(file)] == ["failed"]
    file.write_bytes(good)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))

    assert [page.status for page in reader.read_pages(file)] == ["ok"]
    with reader.open_ledger() as ledger:
        assert ledger.failures() == []


@pytest.mark.parametrize("redo", ["all", "outdated"])
def test_redo_asks_copies_once(simulator: KoboldSimulator, tmp_path: Path, redo: Redo) -> None:
    """Every copy of a page was read anew, one after the other."""
    folder = tmp_path / "scans"
    folder.mkdir()
    make_pdf(folder / "a.pdf", [1])
    for name in ("b.pdf", "c.pdf", "d.pdf", "e.pdf"):
        shutil.copy(folder / "a.pdf", folder / name)
    list(KoboldReader(api_url=simulator.url, tasks=["ocr"]).read_pages(folder))
    simulator.restart(model="Qwen2.5-VL-3B-Instruct-Q4_K_M")

    pages = list(KoboldReader(api_url=simulator.url, tasks=["ocr"], redo=redo).read_pages(folder))

    assert simulator.count() == 2
    assert {page.readings["ocr"].model for page in pages} == {simulator.model}


def test_a_page_error_does_not_open_the_file_again(
    simulator: KoboldSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each broken page had the whole file hashed (or fetched) once more."""
    from kobold_reader.pages import PageChild

    opened: list[str] = []
    real = PageChild.open

    def counted(self: PageChild, path: str, **options: Any) -> Any:
        opened.append(path)
        return real(self, path, **options)

    monkeypatch.setattr(PageChild, "open", counted)
    monkeypatch.setattr(PageChild, "page_images", no_images)

    pages = list(KoboldReader(api_url=simulator.url).read_pages(make_pdf(tmp_path / "a.pdf", [1, 2, 3])))

    assert [page.status for page in pages] == ["failed"] * 3
    assert len(opened) == 1


def test_a_file_replaced_during_the_run_is_not_read_as_the_one_before(
    simulator: KoboldSimulator, tmp_path: Path
) -> None:
    """The new file's pages were kept as readings of the old one's content."""
    file = make_pdf(tmp_path / "a.pdf", [1])
    list(KoboldReader(api_url=simulator.url, tasks=["ocr"]).read_pages(file))
    files = select([file]).files
    make_pdf(file, [17])
    reader = KoboldReader(api_url=simulator.url, tasks=["ocr", "caption"])

    with reader.open_ledger() as ledger:
        [page] = reader.transcriber(ledger).run(files)

    assert simulator.count() == 1
    assert "was changed since this run began" in str(page.errors["caption"])
    [page] = reader.read_pages(file)
    assert (page.status, page.failed_tasks) == ("ok", ())


def test_what_came_from_the_fallback_can_be_forgotten(simulator: KoboldSimulator, tmp_path: Path) -> None:
    """Readings were copied without the pages they belong to, so `forget` did not find them."""
    file = make_pdf(tmp_path / "a.pdf", [1])
    reader = KoboldReader(api_url=simulator.url, tasks=["ocr"])
    list(reader.read_pages(file))
    with Ledger(tmp_path / "own.sqlite", fallback=reader.open_ledger()) as ledger:
        list(reader.transcriber(ledger).run(select([file]).files))
        assert ledger.forget([file.as_uri()]) == 1
    assert b"Axel Lindqvist" not in (tmp_path / "own.sqlite").read_bytes()


def test_a_fallback_ledger_without_tables_knows_nothing(tmp_path: Path) -> None:
    """The process that made the file was killed at once; from then on every archive refused to work."""
    path = default_ledger_path()
    path.parent.mkdir(parents=True)
    path.touch()
    with Ledger(tmp_path / "own.sqlite", fallback=Ledger(path, read_only=True)) as ledger:
        assert ledger.sha256_of(select([SAMPLES / "scans"]).files[0]) is None


@pytest.mark.parametrize("database", [Ledger, Catalog])
def test_opening_a_database_waits_for_a_process_that_makes_it(
    database: type[Ledger | Catalog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two first runs at once: one died with "database is locked" (SQLite does not wait for a change of journal)."""
    path = tmp_path / "made.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        waits: list[float] = []

        def wait(seconds: float) -> None:
            waits.append(seconds)
            other.execute("COMMIT")

        monkeypatch.setattr("kobold_reader.files.time.sleep", wait)
        database(path).close()
    assert len(waits) == 1


def test_a_damaged_page_keeps_its_damage_in_later_runs(tmp_path: Path) -> None:
    """What the look at the other pages found was written over the facts of the page that had been read meanwhile."""
    with zipfile.ZipFile(tmp_path / "book.cbz", "w") as book:
        for number in range(5):
            page = scan(number)
            book.writestr(f"{number}.png", page[: len(page) // 2] if number == 0 else page)
    reader = KoboldReader(engine="rapidocr", ledger=tmp_path / "ledger.sqlite")
    first, again = ([page.metadata for page in reader.read_pages(tmp_path / "book.cbz")] for _ in range(2))
    assert "damage" in first[0]
    assert again == first
