"""Export with the place of each line: searchable PDFs whose pages are untouched, hOCR, ALTO."""

from __future__ import annotations

import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pymupdf
import pytest
from PIL import Image, ImageChops, ImageDraw, ImageOps

from kobold_reader import Archive, KoboldReader
from kobold_reader.archive.layouts import LayoutWriter, check_sealed, page_lines
from kobold_reader.archive.rows import PageRow, version_of
from kobold_reader.errors import ConfigError, CorruptSourceError, SourceError, StoreError
from kobold_reader.options import ExportFormat
from kobold_reader.pages import file_at, local_uri
from kobold_reader.reading.ledger import Ledger
from kobold_reader.reading.open_file import OpenFile
from kobold_reader.reading.results import LineBox, Reading, joined
from tests.conftest import LETTER
from tests.page_files import pdf_of_many_pages
from tests.test_cli import Command, kobold

__all__ = ["kobold"]

A4 = (595, 842)
LINES = ("Mooring dues of the harbour", "Axel Lindqvist, 12.50 kronor", "Third line")


def at(left: float, top: float, right: float, bottom: float) -> tuple[int, ...]:
    """Corners, from shares of the page."""
    return tuple(round(share * 10_000) for share in (left, top, right, top, right, bottom, left, bottom))


def reading_of(*lines: tuple[str, tuple[int, ...]], rotation_deg: int = 0) -> Reading:
    text, boxes = joined([(*line, None)] for line in lines)
    return Reading("ocr", "ok", text, "rapidocr", boxes=boxes, rotation_deg=rotation_deg)


def row_of(reading: Reading, path: Path, sha256: str, number: int = 1, **changes: Any) -> PageRow:
    parts = {"ocr": reading.text}
    about = {"file_name": path.name, "page_number": number, "page_label": str(number), "page_status": "ok"}
    return PageRow(
        f"{sha256[:32]}-{number}", sha256, number, "ok", parts, version_of(parts), about, local_uri(path), **changes
    )


def written(
    path: Path, form: ExportFormat, readings: Mapping[int, Reading], passwords: tuple[str, ...] = ()
) -> tuple[Path, tuple[str, ...], int]:
    """Return what an export of one document writes, its notices, and the number of lines without a place."""
    target = path.with_name(f"{path.name}.{form}")
    with Ledger(None) as ledger, OpenFile(ledger, passwords) as opened:
        source = file_at(local_uri(path))
        sha256 = opened.facts(source).sha256
        rows = [row_of(reading, path, sha256, number) for number, reading in readings.items()]

        def known(pages: Sequence[PageRow]) -> dict[str, dict[str, Reading]]:
            return {page.page_id: {"ocr": readings[page.page_number]} for page in pages}

        writer = LayoutWriter(opened, form, known)
        notices = writer.write(source, rows, target)
        return target, notices, writer.unplaced


def pdf(path: Path, pages: int = 1, rotation: int = 0) -> Path:
    with pymupdf.open() as document:
        for _ in range(pages):
            page = document.new_page(width=400, height=600)
            page.draw_rect(pymupdf.Rect(20, 20, 380, 580))
            page.set_rotation(rotation)
        document.save(path)
    return path


# ── searchable PDFs ───────────────────────────────────────────────────────────────────────────────


def test_a_pdf_keeps_every_byte_and_gains_its_text(tmp_path: Path) -> None:
    path = tmp_path / "letter.pdf"
    shutil.copy(LETTER, path)
    with pymupdf.open(path) as before:
        total, pictures = before.page_count, [page.get_pixmap(dpi=40).samples for page in before]
    lines = [(line, at(0.1, 0.1 + 0.05 * n, 0.7, 0.13 + 0.05 * n)) for n, line in enumerate(LINES)]

    target, notices, unplaced = written(path, "pdf", {2: reading_of(*lines)})

    assert (notices, unplaced) == ((), 0)
    assert target.read_bytes().startswith(path.read_bytes())
    with pymupdf.open(target) as copy:
        assert copy.page_count == total
        assert not copy.is_repaired
        assert [page.get_pixmap(dpi=40).samples for page in copy] == pictures, "the text is invisible"
        page = copy[1]
        assert page.get_text().split("\n")[: len(LINES)] == list(LINES)
        (found,) = page.search_for("12.50")
        assert 0.14 < found.y0 / page.rect.height < found.y1 / page.rect.height < 0.19
        assert 0.3 < found.x0 / page.rect.width < 0.55, "in the middle of its line"
        assert copy[0].get_text().strip() == ""


@pytest.mark.parametrize("stored", [0, 90, 180, 270])
@pytest.mark.parametrize("turned", [0, 90, 180, 270])
def test_words_stand_where_they_were_read_however_the_page_lies(tmp_path: Path, stored: int, turned: int) -> None:
    path = pdf(tmp_path / "turned.pdf", rotation=stored)
    reading = reading_of(("Mooring dues", at(0.1, 0.2, 0.5, 0.25)), rotation_deg=stored + turned)

    target, _, _ = written(path, "pdf", {1: reading})

    # On the page as it was read, the words begin at 0.1 from the left and 0.2 from the top.
    with pymupdf.open(target) as copy:
        copy[0].set_rotation((stored + turned) % 360)
        page = copy[0]
        (found,) = (one * page.rotation_matrix for one in page.search_for("dues"))
        wide, high = page.rect.width, page.rect.height
        assert found.normalize().x1 / wide == pytest.approx(0.5, abs=0.01)
        assert found.y0 / high == pytest.approx(0.2, abs=0.02)
        assert found.y1 / high == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize(
    "text",
    [
        "Žluťoučký kůň — “quotes” ﬁ",
        "Привет, мир",
        "Καλημέρα κόσμε",
        "漢字とかな混じりの文章",
        "한국어 문장",
        "हिन्दी पाठ",
        "שלום עולם",
        "مرحبا بالعالم",
        "a clef 𝄞, 🎉 and 𠮷",
    ],
)
def test_every_script_is_found_and_copied(tmp_path: Path, text: str) -> None:
    target, _, _ = written(pdf(tmp_path / "script.pdf"), "pdf", {1: reading_of((text, at(0.1, 0.2, 0.8, 0.25)))})

    with pymupdf.open(target) as copy:
        assert copy[0].get_text().strip() == text
    if (pdftotext := shutil.which("pdftotext")) is not None:
        read = subprocess.run([pdftotext, "-enc", "UTF-8", target, "-"], capture_output=True, check=True)
        marks = dict.fromkeys((0x202A, 0x202B, 0x202C, 0x0C))  # poppler shows the direction
        assert read.stdout.decode().translate(marks).strip() == text


def test_a_skewed_line_stays_one_line_and_its_words_follow_it(tmp_path: Path) -> None:
    corners = tuple(round(share * 10_000) for share in (0.1, 0.75, 0.8, 0.733, 0.8, 0.763, 0.1, 0.78))
    text = "skewed line of text here"

    target, _, _ = written(pdf(tmp_path / "skewed.pdf"), "pdf", {1: reading_of((text, corners))})

    with pymupdf.open(target) as copy:
        page = copy[0]
        assert page.get_text().strip() == text
        first, last = page.search_for("skewed")[0], page.search_for("here")[0]
        assert first.y0 - last.y0 == pytest.approx(0.017 * 600, abs=4)
    if (pdftotext := shutil.which("pdftotext")) is not None:
        read = subprocess.run([pdftotext, target, "-"], capture_output=True, check=True)
        assert read.stdout.decode().strip("\n\f") == text


def test_resources_and_contents_of_every_shape_take_the_text(tmp_path: Path) -> None:
    path = pdf(tmp_path / "shapes.pdf", pages=3)
    with pymupdf.open(path) as document:
        tree = int(document.xref_get_key(document.pdf_catalog(), "Pages")[1].split()[0])
        document.xref_set_key(tree, "Resources", "<</Font<</F9 <</Type/Font/Subtype/Type1/BaseFont/Courier>>>>>>")
        first, second, third = (document[number].xref for number in range(3))
        document.xref_set_key(first, "Resources", "null")  # inherited
        held = document.get_new_xref()
        document.update_object(held, document.xref_get_key(second, "Contents")[1])
        document.xref_set_key(second, "Contents", f"{held} 0 R")  # an array elsewhere
        document.xref_set_key(third, "Contents", "null")
        document.save(tmp_path / "odd.pdf")
    line = ("Mooring dues", at(0.1, 0.2, 0.5, 0.25))

    target, _, _ = written(tmp_path / "odd.pdf", "pdf", dict.fromkeys((1, 2, 3), reading_of(line)))

    with pymupdf.open(target) as copy:
        assert [page.get_text().strip() for page in copy] == ["Mooring dues"] * 3
        assert {font[3] for font in copy[0].get_fonts()} >= {"Courier", "KoboldReaderText"}
        assert copy[1].get_drawings(), "what was on the page is there"


def test_signed_encrypted_and_damaged_files_say_so(tmp_path: Path) -> None:
    reading = {1: reading_of(("Mooring dues", at(0.1, 0.2, 0.5, 0.25)))}
    plain = pdf(tmp_path / "plain.pdf")
    with pymupdf.open(plain) as document:
        document.save(tmp_path / "locked.pdf", encryption=pymupdf.PDF_ENCRYPT_AES_256, user_pw="sesame", owner_pw="o")
        document.xref_set_key(document.pdf_catalog(), "AcroForm", "<</Fields[]/SigFlags 3>>")
        document.save(tmp_path / "signed.pdf")
    (tmp_path / "cut.pdf").write_bytes(plain.read_bytes()[:-200])

    target, (notice,), _ = written(tmp_path / "signed.pdf", "pdf", reading)
    assert "The signature still covers what was signed" in notice
    assert target.read_bytes().startswith((tmp_path / "signed.pdf").read_bytes())
    target, (notice,), _ = written(tmp_path / "locked.pdf", "pdf", reading, ("sesame",))
    assert "opens with the same password" in notice
    with pymupdf.open(target) as copy:
        assert copy.needs_pass
        assert copy.authenticate("sesame")
        assert copy[0].get_text().strip() == "Mooring dues"
    with pytest.raises(SourceError):
        written(tmp_path / "locked.pdf", "pdf", reading)
    target, (notice,), _ = written(tmp_path / "cut.pdf", "pdf", reading)
    assert "damaged" in notice
    with pymupdf.open(target) as copy:
        assert copy[0].get_text().strip() == "Mooring dues"


def test_a_pdf_that_does_not_say_how_many_pages_it_has_gets_its_text(tmp_path: Path) -> None:
    path = tmp_path / "minutes.pdf"
    path.write_bytes(pdf_of_many_pages(12).replace(b"/Count 12", b"/Count -1"))
    target, _, _ = written(path, "pdf", {12: reading_of(("Mooring dues", at(0.1, 0.2, 0.5, 0.25)))})
    with pymupdf.open(target) as copy:
        assert copy.page_count == 12
        assert copy[11].get_text().strip() == "Mooring dues"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_becomes_an_upright_page_with_its_very_bytes(tmp_path: Path, orientation: int) -> None:
    picture = Image.new("RGB", (300, 200), "white")
    ImageDraw.Draw(picture).rectangle((10, 10, 120, 60), fill="red")
    path = tmp_path / "photo.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(path, exif=exif, dpi=(100, 100), quality=95)

    target, _, _ = written(path, "pdf", {1: reading_of(("Mooring", at(0.1, 0.1, 0.4, 0.2)))})

    with Image.open(path) as stored, pymupdf.open(target) as copy:
        upright = ImageOps.exif_transpose(stored).convert("RGB")
        page = copy[0]
        assert page.rect.br == pymupdf.Point(upright.width, upright.height) * 0.72, "100 pixels an inch"
        (image,) = page.get_images()
        assert copy.xref_stream_raw(image[0]) == path.read_bytes()
        pixels = page.get_pixmap(dpi=100)
        shown = Image.frombytes("RGB", (pixels.width, pixels.height), pixels.samples)
        difference = ImageChops.difference(shown, upright)
        assert sum(difference.convert("L").histogram()[60:]) < 400, "edges of the red field alone"
        assert page.get_text().strip() == "Mooring"


def test_many_frames_become_many_pages(tmp_path: Path) -> None:
    frames = [Image.new("1", (200, 300), 1) for _ in range(40)]
    for number, frame in enumerate(frames):
        ImageDraw.Draw(frame).text((20, 20), f"{number}")
    path = tmp_path / "fax.tif"
    frames[0].save(path, save_all=True, append_images=frames[1:], compression="group4", dpi=(100, 100))
    line = at(0.1, 0.5, 0.6, 0.55)

    target, _, _ = written(path, "pdf", {number: reading_of((f"page {number}", line)) for number in (1, 17, 40)})

    with pymupdf.open(target) as copy:
        assert copy.page_count == 40
        texts = {page.number + 1: text for page in copy if (text := page.get_text().strip())}
        assert texts == {1: "page 1", 17: "page 17", 40: "page 40"}
        assert copy[39].get_pixmap(dpi=100).samples.count(0) == 3 * frames[39].convert("L").histogram()[0]


def test_of_a_picture_that_is_cut_short_what_is_there_is_in_the_copy(tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    image = Image.effect_noise((400, 300), 80)
    image.save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    target, _, _ = written(path, "pdf", {1: reading_of(("Mooring dues", at(0.1, 0.2, 0.5, 0.25)))})
    with pymupdf.open(target) as copy:
        assert copy.page_count == 1
        assert copy[0].get_text().strip() == "Mooring dues"
        (shown,) = copy[0].get_images()
        pixels = pymupdf.Pixmap(copy, shown[0])
        assert pixels.samples[: 400 * 100] == image.tobytes()[: 400 * 100], "the upper third is there"


def test_a_pdf_that_is_too_damaged_for_a_copy_says_so(tmp_path: Path) -> None:
    path = pdf(tmp_path / "minutes.pdf")
    with pymupdf.open(path) as document:
        document.update_object(document.get_new_xref(), "<</AAAA/BBBB>>")
        data = document.tobytes()
    path.write_bytes(data.replace(b"/AAAA", b"(AAA)")[:-60])  # no key, and MuPDF has to write the file anew
    with pytest.raises(CorruptSourceError, match="too damaged for a copy"):
        written(path, "pdf", {1: reading_of(("Mooring dues", at(0.1, 0.2, 0.5, 0.25)))})


# ── lines and places ──────────────────────────────────────────────────────────────────────────────


def test_a_correction_keeps_the_places_of_its_lines() -> None:
    reading = reading_of(*((line, at(0.1, 0.1 * n, 0.7, 0.1 * n + 0.03)) for n, line in enumerate(LINES, start=1)))
    *others, third = reading.boxes
    reading = replace(reading, boxes=(*others, third._replace(words=(0, 3000, 7000, 10_000))))
    row = row_of(reading, Path("/x.pdf"), "ab" * 32)
    text = "Mooring dues of this harbour\nAxel Lindqvist, 12.60 kronor\nA line that nobody read\nThird line"
    row = replace(
        row, parts={"ocr": text}, as_read={"text": reading.text, "status": "ok", "metadata": {}, "error": None}
    )

    found = page_lines(row, reading, 0)

    assert [line.text for line in found.lines] == text.split("\n")
    assert [round(line.corners[1], 2) for line in found.lines] == [0.1, 0.2, 0.23, 0.3]
    assert [line.words for line in found.lines] == [(), (), (), (0.0, 0.3, 0.7, 1.0)]
    assert found.unplaced == 1


def test_lines_without_a_place_go_between_their_neighbours() -> None:
    text = "# Heading\n\nfirst\nsecond | third\n\nlast"
    boxes = (LineBox(text.index("first"), text.index("first") + 5, at(0.2, 0.3, 0.8, 0.35)),)
    reading = Reading("ocr", "ok", text, "koboldcpp", boxes=boxes)

    found = page_lines(row_of(reading, Path("/x.pdf"), "ab" * 32), reading, 0)

    assert [line.text for line in found.lines] == ["Heading", "first", "second third", "last"]
    assert found.unplaced == 3
    tops = [line.corners[1] for line in found.lines]
    assert tops == sorted(tops)
    assert tops[0] < 0.3 <= tops[1] < 0.35 <= tops[2]


def test_words_and_signs_between_two_places_of_a_line_stay_in_it() -> None:
    text = "Total, of 12.50 RM.\n(Thank you)"
    places = (
        ("Total", at(0.1, 0.5, 0.2, 0.53)),
        ("12.50 RM", at(0.4, 0.5, 0.6, 0.53)),
        ("Thank you", at(0.1, 0.6, 0.4, 0.63)),
    )
    boxes = tuple(LineBox(text.index(part), text.index(part) + len(part), corners) for part, corners in places)
    reading = Reading("ocr", "ok", text, "koboldcpp", boxes=boxes)

    found = page_lines(row_of(reading, Path("/x.pdf"), "ab" * 32), reading, 0)

    assert [line.text for line in found.lines] == ["Total", ", of", "12.50 RM.", "(Thank you)"]
    assert found.lines[1].corners[:2] == (0.2, 0.5)
    assert found.lines[1].corners[4] == 0.4
    assert found.unplaced == 1


def test_words_stand_where_the_engine_saw_them(tmp_path: Path) -> None:
    """Typewritten letters are all as wide as the widest of print."""
    reading = reading_of(("ill will", at(0.1, 0.2, 0.5, 0.25)))
    reading = replace(reading, boxes=(reading.boxes[0]._replace(words=(0, 2000, 7500, 10_000)),))
    path = pdf(tmp_path / "typed.pdf")

    target, _, _ = written(path, "pdf", {1: reading})
    with pymupdf.open(target) as copy:
        left, right = (number / copy[0].rect.width for number in copy[0].search_for("will")[0][:3:2])
        assert (left, right) == (pytest.approx(0.4, abs=0.002), pytest.approx(0.5, abs=0.002))
        assert copy[0].get_text() == "ill will\n", "one line, however wide the gap"
    touching = replace(reading, boxes=(reading.boxes[0]._replace(words=(0, 5000, 4990, 10_000)),))
    with pymupdf.open(written(pdf(tmp_path / "near.pdf"), "pdf", {1: touching})[0]) as copy:
        assert [word[4] for word in copy[0].get_text("words")] == ["ill", "will"]
    root = ET.parse(written(path, "hocr", {1: reading})[0]).getroot()  # noqa: S314  (our own file)
    titles = [one.get("title") for one in root.iter() if one.get("class") == "ocrx_word"]
    assert titles == ["bbox 167 500 300 625", "bbox 667 500 834 625"]


# ── hOCR and ALTO ─────────────────────────────────────────────────────────────────────────────────


def test_hocr_has_lines_and_words_with_their_boxes(tmp_path: Path) -> None:
    path = pdf(tmp_path / 'a "b" & c.pdf')

    target, _, _ = written(path, "hocr", {1: reading_of(("Dues <12> kronor", at(0.1, 0.2, 0.5, 0.25)))})

    root = ET.parse(target).getroot()  # noqa: S314  (our own file)
    spans = {one.get("class"): one for one in root.iter() if one.get("class")}
    assert spans["ocr_page"].get("title", "").endswith("bbox 0 0 1667 2500; ppageno 0")
    assert spans["ocr_line"].get("title") == "bbox 167 500 834 625"
    words = [one for one in root.iter() if one.get("class") == "ocrx_word"]
    assert [word.text for word in words] == ["Dues", "<12>", "kronor"]
    boxes = [[int(number) for number in word.get("title", "").split()[1:]] for word in words]
    assert boxes[0][0] == 167
    assert boxes[-1][2] == 834
    assert all(one[2] <= following[0] for one, following in pairwise(boxes))


def test_alto_has_every_page_and_string(tmp_path: Path) -> None:
    path = pdf(tmp_path / "minutes.pdf", pages=2)

    target, _, _ = written(path, "alto", {2: reading_of(("Dues & kronor", at(0.1, 0.2, 0.5, 0.25)))})

    names = {"a": "http://www.loc.gov/standards/alto/ns-v4#"}
    root = ET.parse(target).getroot()  # noqa: S314  (our own file)
    assert [page.get("PHYSICAL_IMG_NR") for page in root.iterfind(".//a:Page", names)] == ["1", "2"]
    assert [one.get("CONTENT") for one in root.iterfind(".//a:String", names)] == ["Dues", "&", "kronor"]
    (line,) = root.iterfind(".//a:TextLine", names)
    assert [line.get(name) for name in ("HPOS", "VPOS", "WIDTH", "HEIGHT")] == ["167", "500", "667", "125"]


@pytest.mark.parametrize("form", ["hocr", "alto"])
def test_control_characters_that_xml_cannot_hold_are_left_out(tmp_path: Path, form: ExportFormat) -> None:
    path = pdf(tmp_path / "minutes.pdf")
    odd = "Dues\x0b12\x1b kronor\ufffe"
    target, _, _ = written(path, form, {1: reading_of((odd, at(0.1, 0.2, 0.5, 0.25)))})
    root = ET.parse(target).getroot()  # noqa: S314  (our own file)
    words = [
        one.get("CONTENT") or one.text for one in root.iter() if one.get("CONTENT") or one.get("class") == "ocrx_word"
    ]
    assert words == ["Dues", "12", "kronor"]


# ── the command ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_export_writes_beside_the_original_and_never_over_what_was_changed(tmp_path: Path, kobold: Command) -> None:
    (tmp_path / "scans").mkdir()
    original = pdf(tmp_path / "scans" / "minutes.pdf")
    with pymupdf.open(original) as document:
        document[0].insert_text((50, 100), "Minutes of the harbour board, which met in March.")
        document.saveIncr()
    content = original.read_bytes()
    with Archive.open(tmp_path / "archive", create=True, embedder="none") as archive:
        archive.sync(tmp_path / "scans", reader=KoboldReader(text_layer="only", tasks=["ocr"], ledger="none"))
    command = ("export", str(tmp_path / "scans"), "--archive", str(tmp_path / "archive"), "--to", "pdf")

    assert "1 page: 1 file written" in kobold(*command).err
    target = tmp_path / "scans" / "minutes.pdf.ocr.pdf"
    assert original.read_bytes() == content
    check_sealed(target)
    assert "1 page: 0 files written, 1 unchanged" in kobold(*command).err

    with target.open("ab") as file:
        file.write(b"% a note\n")
    done = kobold(*command)
    assert done.code == 5
    assert "is not as kobold-reader wrote it, and is not overwritten" in done.err
    target.write_bytes(content)
    with pytest.raises(StoreError, match="not as kobold-reader wrote it"):
        check_sealed(target)


@pytest.mark.parametrize("form", ["pdf", "hocr", "alto"])
def test_a_file_that_was_changed_is_not_exported_without_its_text(tmp_path: Path, form: ExportFormat) -> None:
    path = pdf(tmp_path / "minutes.pdf")
    row = row_of(reading_of(("Mooring dues", at(0.1, 0.2, 0.5, 0.25))), path, "ab" * 32)
    with Ledger(None) as ledger, OpenFile(ledger) as opened:
        writer = LayoutWriter(opened, form, lambda _: {})
        with pytest.raises(SourceError, match="was changed since its pages were read"):
            writer.write(file_at(local_uri(path)), [row], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_layouts_are_written_for_each_file_alone(tmp_path: Path) -> None:
    with (
        Archive.open(tmp_path / "archive", create=True, embedder="none") as archive,
        pytest.raises(ConfigError, match="for each file"),
    ):
        archive.export(tmp_path / "out", to="pdf", group_by="folder")


@pytest.mark.parametrize("turned_deg", [0, 90])
def test_a_page_with_its_own_text_has_the_places_of_its_lines(tmp_path: Path, turned_deg: int) -> None:
    path = tmp_path / "minutes.pdf"
    with pymupdf.open() as document:
        page = document.new_page(width=600, height=800)
        page.insert_text((60, 80), "Minutes of the harbour board", fontsize=20)
        page.insert_text((60, 400), "which met in  March", fontsize=20)
        page.set_rotation(turned_deg)
        document.save(path)
    text = Reading("ocr", "text_layer", "Minutes of the harbour board\nwhich met in March", "pdf")
    with Ledger(None) as ledger, OpenFile(ledger) as opened:
        source = file_at(local_uri(path))
        row = replace(row_of(text, path, opened.facts(source).sha256), status="text_layer")
        writer = LayoutWriter(opened, "alto", lambda rows: {one.page_id: {} for one in rows})
        writer.write(source, [row], tmp_path / "out")
    assert writer.unplaced == 0
    root = ET.fromstring((tmp_path / "out").read_text(encoding="utf-8"))  # noqa: S314  (our own file)
    names = {"a": "http://www.loc.gov/standards/alto/ns-v4#"}
    scale = 300 / 72
    places = [
        tuple(round(int(line.get(name, "")) / scale) for name in ("HPOS", "VPOS"))
        for line in root.iterfind(".//a:TextLine", names)
    ]
    upright = [(60, 58), (60, 378)]
    shown = upright if not turned_deg else [(800 - 86, 60), (800 - 406, 60)]
    for (left, top), (at_left, at_top) in zip(places, shown, strict=True):
        assert left == pytest.approx(at_left, abs=6)
        assert top == pytest.approx(at_top, abs=6)
