"""What becomes of every kind of file: read, blank, or a named error. Nothing silent, nothing foreign."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pymupdf
import pytest
from PIL import Image

from kobold_reader.errors import SourceError
from kobold_reader.pages import ImageBudget, PageChild, select
from kobold_reader.pages.sources import ENDINGS, HEAD_BYTES, kind_of
from tests import page_files as make

pytestmark = pytest.mark.slow


def edited(draw: Callable[[Any], Any], edit: Callable[[Any], Any]) -> bytes:
    document = pymupdf.open("pdf", make.pdf(draw))
    edit(document)
    data: bytes = document.tobytes()
    document.close()
    return data


def no_contents(document: Any) -> None:
    document.xref_set_key(document[0].xref, "Contents", "null")


def cyclic_tree(document: Any) -> None:
    tree = int(document.xref_get_key(document.pdf_catalog(), "Pages")[1].split()[0])
    document.xref_set_key(tree, "Kids", f"[{tree} 0 R]")


def mad_boxes(document: Any) -> None:
    document.xref_set_key(document[0].xref, "MediaBox", "[0 0 0 0]")
    document.xref_set_key(document[0].xref, "CropBox", "[nan (a) << >> 7]")


def palette_on(page: Any) -> None:
    make.scan_on(make.encoded(make.printed_page(80).quantize(16), "PNG"))(page)


def cmyk_on(page: Any) -> None:
    make.scan_on(make.jpeg(make.printed_page(80).convert("CMYK")))(page)


SCAN = make.scan_on(make.jpeg(make.printed_page(80)))
WHOLE = make.pdf(SCAN, SCAN, SCAN)
PHOTO = make.jpeg(make.printed_page(60))
FRAMES = [make.printed_page(60).convert("1"), make.printed_page(90).convert("1")]

FILES: dict[str, tuple[bytes, str]] = {
    # PDFs as people have them
    "born digital.pdf": (make.pdf(make.text_on), "text"),
    "scan.pdf": (make.pdf(SCAN), "read"),
    "scan with hidden text.pdf": (make.pdf(make.both(SCAN, make.hidden_text_on)), "read"),
    "mixed.pdf": (make.pdf(make.text_on, SCAN, make.blank_on), "text read blank"),
    "strips.pdf": (make.pdf(make.strips_on(make.printed_page(80), 20)), "read"),
    "palette.pdf": (make.pdf(palette_on), "read"),
    "cmyk.pdf": (make.pdf(cmyk_on), "read"),
    "jbig2.pdf": (make.jbig2_pdf(make.printed_page(80)), "read"),
    "form.pdf": (make.pdf(make.annotated_on), "text"),
    "labels.pdf": (make.labelled_pdf(), "text text text"),
    "huge paper.pdf": (make.pdf(make.text_on, size=(14400, 14400)), "text"),
    "tiny paper.pdf": (make.pdf(make.blank_on, size=(3, 3)), "blank"),
    "no contents.pdf": (edited(make.text_on, no_contents), "blank"),
    "owner lock.pdf": (make.locked_pdf(user=""), "text"),
    "attachment lock.pdf": (make.attachment_locked_pdf(), "text PageRenderError"),
    "locked.pdf": (make.locked_pdf(user="secret"), "EncryptedSourceError"),
    # PDFs that were damaged
    "junk before.pdf": (b"\r\nmail header\r\n" * 9 + WHOLE, "read read read"),
    "no end.pdf": (WHOLE[: WHOLE.rindex(b"xref")], "read read read"),
    "header alone.pdf": (b"%PDF-1.3\nThis is not a valid PDF file\n%%EOF", "CorruptSourceError"),
    "cyclic tree.pdf": (edited(make.text_on, cyclic_tree), "PageRenderError"),
    "mad boxes.pdf": (edited(make.text_on, mad_boxes), "text"),
    "nested.pdf": (make.nested_pdf(20_000), "PageRenderError"),
    "empty.pdf": (b"", "CorruptSourceError"),
    "web page.pdf": (b"<html><body>Not found</body></html>", "UnsupportedSourceError"),
    # pictures
    "colour.jpg": (make.jpeg(make.corners()), "read"),
    "progressive.jpg": (make.jpeg(make.printed_page(60), progressive=True), "read"),
    "cmyk.jpg": (make.jpeg(make.printed_page(60).convert("CMYK")), "read"),
    "turned.jpg": (make.oriented_jpeg(6), "read"),
    "deep.png": (make.grey_png_16(), "read"),
    "palette.png": (make.encoded(make.printed_page(60).quantize(8), "PNG"), "read"),
    "alpha.png": (make.encoded(make.printed_page(60).convert("RGBA"), "PNG"), "read"),
    "blank.png": (make.encoded(make.sheet(60), "PNG"), "blank"),
    "moving.gif": (make.encoded(make.corners().quantize(8), "GIF"), "read"),
    "old.bmp": (make.encoded(make.corners(), "BMP"), "read"),
    "web.webp": (make.encoded(make.printed_page(60), "WEBP"), "read"),
    "archive.jp2": (make.encoded(make.printed_page(60), "JPEG2000"), "read"),
    "fax g3.tif": (make.tiff(FRAMES, compression="group3"), "read read"),
    "fax g4.tif": (make.tiff(FRAMES, compression="group4"), "read read"),
    "lzw.tif": (make.tiff([make.printed_page(60)], compression="tiff_lzw"), "read"),
    "deflate.tif": (make.tiff([make.printed_page(60)], compression="tiff_adobe_deflate"), "read"),
    "jpeg.tif": (make.tiff([make.printed_page(60)], compression="jpeg"), "read"),
    "tiles.tif": (make.tiff([make.printed_page(60)], tile=(256, 256)), "read"),
    "circle.tif": (make.tiff_in_a_circle(), "blank blank"),
    "cut.jpg": (PHOTO[: len(PHOTO) // 2], "damaged"),
    "cut.png": (make.encoded(make.printed_page(60), "PNG")[:5000], "damaged"),
    "bomb.png": (make.png_claiming(30_000, 30_000), "PageRenderError"),
    "no picture.jpg": (b"\0" * 1000, "CorruptSourceError"),
    "word.jpg": (make.pdf(make.text_on), "text"),
    # books
    "comic.cbz": (make.zipped({"1.jpg": PHOTO, "2.png": b"no picture", "10.jpg": PHOTO}), "read PageRenderError read"),
    "book.epub": (make.epub(f"<p>{make.WORDS}</p>"), "text"),
    "letter.xps": (make.xps(make.WORDS), "text"),
    "cut.cbz": (make.zipped({"1.jpg": PHOTO})[:-60], "CorruptSourceError"),
    "cut.epub": (make.epub(f"<p>{make.WORDS}</p>" * 100)[:300], "CorruptSourceError"),
    # not taken
    "film.mov": (b"\0\0\0\x14ftypqt  ", "not supported"),
    "letter.docx": (make.zipped({"[Content_Types].xml": b""}), "not supported"),
    "notes.txt": (b"notes", "not supported"),
}


def said(error: SourceError, source: str | None, page_number: int | None) -> str:
    """The name of an error that names its file and page."""
    assert (error.source, error.page_number) == (source, page_number)
    assert error.source
    assert error.message
    return type(error).__name__


def outcome(child: PageChild, path: Path) -> str:
    """One word a page, or one for the file."""
    selection = select([path.parent])
    if not selection.files:
        assert sum(selection.skipped.values()) == 1
        return "not supported"
    try:
        facts = child.open(path, kind=selection.files[0].kind)
    except SourceError as error:
        return said(error, str(path), None)
    return " ".join(page_outcome(child, number) for number in range(1, facts.total_pages + 1))


def page_outcome(child: PageChild, number: int) -> str:
    try:
        facts = child.page_facts(number)
        images = child.page_images(number, ImageBudget())
    except SourceError as error:
        return said(error, error.source, number)
    (view,) = images.views
    assert 1 <= max(view.width_px, view.height_px) <= 1024
    if facts.text_layer == "good":
        return "text"
    return "blank" if images.is_blank else "damaged" if images.damage else "read"


@pytest.mark.parametrize("name", FILES)
def test_outcome(child: PageChild, tmp_path: Path, name: str) -> None:
    data, expected = FILES[name]
    path = tmp_path / name
    path.write_bytes(data)
    assert outcome(child, path) == expected


def test_no_library_prints_or_warns_in_the_parent(child: PageChild, tmp_path: Path, capfd: Any) -> None:
    path = tmp_path / "cut.jpg"
    path.write_bytes(PHOTO[: len(PHOTO) // 2])
    outcome(child, path)
    assert capfd.readouterr() == ("", "")


def test_every_kind_that_is_taken_has_a_file_here() -> None:
    """Those that need an extra are in test_pages_books.py, where they are skipped without it."""
    here = {
        kind_of(data[:HEAD_BYTES], name)
        for name, (data, expected) in FILES.items()
        if {"read", "text"} & set(expected.split())
    }
    missing = set(ENDINGS) - here - {"heic", "avif", "raw"}
    assert missing == set(), "add a file of the kind to FILES, with what becomes of its pages"


def test_the_table_is_of_real_formats() -> None:
    """The rows above are what their names say, whatever Pillow makes of its options."""
    import io

    with Image.open(io.BytesIO(FILES["progressive.jpg"][0])) as picture:
        assert picture.info.get("progressive")
    for name, compression in (
        ("fax g3.tif", 3),
        ("fax g4.tif", 4),
        ("lzw.tif", 5),
        ("jpeg.tif", 7),
        ("deflate.tif", 8),
    ):
        with Image.open(io.BytesIO(FILES[name][0])) as picture:
            assert picture.tag_v2[259] == compression  # type: ignore[attr-defined]
