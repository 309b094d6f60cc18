"""Comics, books, HEIC, AVIF and raw photos through the real child."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, features

from kobold_reader.errors import CorruptSourceError, EncryptedSourceError, PageRenderError, UnsupportedSourceError
from kobold_reader.pages import FileFacts, ImageBudget, PageChild, select
from tests import page_files as make
from tests.test_pages_pdf import assert_corners

pytestmark = pytest.mark.slow

BUDGET = ImageBudget()
Opener = Callable[[bytes, str], FileFacts]
CORNERS = make.jpeg(make.corners(), quality=95)

needs_heif = pytest.mark.skipif(importlib.util.find_spec("pillow_heif") is None, reason="needs pillow-heif")
needs_rawpy = pytest.mark.skipif(importlib.util.find_spec("rawpy") is None, reason="needs rawpy")
needs_avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow knows no AVIF")


@pytest.fixture
def opened(child: PageChild, tmp_path: Path) -> Opener:
    def open_bytes(data: bytes, name: str) -> FileFacts:
        path = tmp_path / name
        path.write_bytes(data)
        (file,) = select([path]).files
        return child.open(path, source=f"file:///{name}", kind=file.kind)

    return open_bytes


def shown(child: PageChild, number: int = 1) -> Image.Image:
    (view,) = child.page_images(number, BUDGET).views
    return Image.open(io.BytesIO(view.image)).convert("RGB")


def test_the_pictures_of_a_cbz_are_pages_in_natural_order(child: PageChild, opened: Opener) -> None:
    facts = opened(
        make.zipped(
            {
                "Vol 1/page10.jpg": make.jpeg(make.corners().convert("L")),
                "Vol 1/page2.jpg": CORNERS,
                "Vol 1/page3.jpg": make.oriented_jpeg(6),
                "__MACOSX/Vol 1/._page2.jpg": b"\0\5\x16\7",
                "Vol 1/.hidden.jpg": CORNERS,
                "ComicInfo.xml": b"<ComicInfo/>",
            }
        ),
        "comic.cbz",
    )
    assert (facts.kind, facts.total_pages) == ("cbz", 3)
    first = child.page_facts(1)
    assert first.content_sha256 == hashlib.sha256(CORNERS).hexdigest(), "as the same picture in a folder"
    assert (first.page_number, first.page_label, first.text_layer) == (1, "1", "none")
    assert child.page_images(1, BUDGET).views[0].image == CORNERS
    assert_corners(shown(child, 2))
    assert child.page_facts(2).page_label == "2"
    assert shown(child, 3).getpixel((10, 10)) == pytest.approx((76, 76, 76), abs=20)


def test_a_bad_page_of_a_cbz_costs_itself_alone(child: PageChild, opened: Opener) -> None:
    data = bytearray(
        make.zipped({"1.jpg": CORNERS, "2.jpg": b"no picture", "3.jpg": CORNERS, "4.jpg": CORNERS[:900]}, 0)
    )
    third = data.index(CORNERS, data.index(CORNERS) + 1)
    data[third + 500] ^= 0xFF  # its checksum is wrong now
    assert opened(bytes(data), "comic.cbz").total_pages == 4
    for number in (2, 3):
        with pytest.raises(PageRenderError) as caught:
            child.page_images(number, BUDGET)
        assert caught.value.page_number == number
    assert child.page_images(4, BUDGET).damage, "cut short, and shown as far as it goes"
    assert_corners(shown(child, 1))


def test_a_bomb_in_a_cbz_is_not_unpacked(child: PageChild, opened: Opener) -> None:
    data = bytearray(make.zipped({"1.png": bytes(50_000_000), "2.jpg": CORNERS}))
    assert len(data) < 100_000
    opened(bytes(data), "comic.cbz")
    with pytest.raises(PageRenderError, match="not those of an image"):
        child.page_facts(1)
    with zipfile.ZipFile(io.BytesIO(bytes(data))) as archive:
        at = archive.infolist()[0].file_size.to_bytes(4, "little")
    lying = bytes(data).replace(at, (3_000_000_000).to_bytes(4, "little"))
    opened(lying, "comic.cbz")
    with pytest.raises(PageRenderError, match="3,000,000,000 bytes"):
        child.page_facts(1)
    assert_corners(shown(child, 2))


def test_cbz_files_without_a_page(opened: Opener) -> None:
    for data in (make.zipped({"a.txt": b"a"}), make.zipped({}), b"PK\x03\x04" + bytes(100), b"Rar!\x1a\x07"):
        with pytest.raises(CorruptSourceError):
            opened(data, "comic.cbz")
    locked = bytearray(make.zipped({"1.jpg": CORNERS}, 0))
    locked[6] |= 1
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(EncryptedSourceError, match="Unpack"):
        opened(bytes(locked), "comic.cbz")


def test_an_epub_is_text(child: PageChild, opened: Opener) -> None:
    chapters = ("<h1>The quay</h1>" + f"<p>{make.WORDS}.</p>" * 60, "<h1>The boats</h1><p>Seven of them.</p>")
    facts = opened(make.epub(*chapters), "book.epub")
    assert facts.kind == "epub"
    assert facts.metadata == {"title": "The Harbour", "author": "A. Clerk"}
    pages = [child.page_facts(number) for number in range(1, facts.total_pages + 1)]
    assert len(pages) > 2
    assert {page.text_layer for page in pages} == {"good"}
    assert " ".join(page.text for page in pages).count("seven o'clock") == 60
    assert pages[-1].text.endswith("Seven of them.")
    assert not child.page_images(1, BUDGET).is_blank
    assert opened(make.epub(*chapters), "book.zip").kind == "epub", "told by content"


def test_an_xps_is_text(child: PageChild, opened: Opener) -> None:
    facts = opened(make.xps(make.WORDS), "letter.oxps")
    assert (facts.kind, facts.total_pages) == ("xps", 1)
    page = child.page_facts(1)
    assert (page.text, page.text_layer) == (make.WORDS, "good")
    assert page.height_pt == pytest.approx(1122 * 72 / 96)
    assert not child.page_images(1, BUDGET).is_blank


@pytest.mark.parametrize("name", ["book.epub", "letter.xps"])
def test_books_that_are_none(opened: Opener, name: str) -> None:
    for data in (b"PK\x03\x04" + bytes(200), make.zipped({"a.txt": b"a"}), b"<html>Not found</html>", b"\0" * 500):
        with pytest.raises((CorruptSourceError, UnsupportedSourceError)):
            opened(data, name)


@needs_rawpy
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_raw_photo_is_seen_through_its_preview(child: PageChild, opened: Opener, orientation: int) -> None:
    turns = {1: 0, 3: 180, 6: 90, 8: 270}
    stored = make.corners().resize((360, 240)).rotate(turns[orientation], expand=True)
    facts = opened(make.dng(stored, orientation=orientation), "IMG_1.dng")
    assert facts.kind == "raw"
    assert facts.metadata == {"camera": "Solstad Havet", "date_taken": "2008-10-22T16:28:39"}
    page = child.page_facts(1)
    assert (page.width_px, page.height_px, page.rotation_deg) == (360, 240, turns[orientation])
    assert_corners(shown(child))


@needs_rawpy
def test_a_raw_photo_that_is_none(opened: Opener) -> None:
    whole = make.dng(make.corners())
    for data in (b"II*\0" + bytes(100), whole[:500], make.tiff([make.corners()])):
        with pytest.raises(CorruptSourceError, match="raw photo"):
            opened(data, "IMG_1.dng")


@needs_heif
def test_heic(child: PageChild, opened: Opener) -> None:
    import pillow_heif

    picture = make.corners().resize((360, 240))
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Solstad", "Solstad Havet"
    exif.get_ifd(0x8769)[0x9003] = "2008:10:22 16:28:39"
    exif.get_ifd(0x8769)[0x8827] = 200
    buffer = io.BytesIO()
    pillow_heif.from_pillow(picture).save(buffer, quality=95, exif=exif.tobytes(), xmp=b"")
    for name in ("IMG_1.HEIC", "IMG_1.jpg"):
        facts = opened(buffer.getvalue(), name)
        assert (facts.kind, facts.total_pages) == ("heic", 1)
        assert facts.metadata == {"camera": "Solstad Havet", "date_taken": "2008-10-22T16:28:39"}
        assert_corners(shown(child))
    with pytest.raises(CorruptSourceError):
        opened(buffer.getvalue()[:400], "IMG_1.HEIC")


@needs_avif
def test_avif(child: PageChild, opened: Opener) -> None:
    data = make.encoded(make.corners().resize((360, 240)), "AVIF", quality=95)
    facts = opened(data, "IMG_1.avif")
    assert (facts.kind, facts.total_pages) == ("avif", 1)
    assert_corners(shown(child))


@needs_avif
def test_an_avif_cut_short(child: PageChild, opened: Opener) -> None:
    data = make.encoded(make.corners().resize((360, 240)), "AVIF", quality=95)

    def read() -> None:
        opened(data[: len(data) // 2], "IMG_1.avif")
        shown(child)

    with pytest.raises(CorruptSourceError):
        read()


def test_a_missing_library_is_named_by_the_child_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file may be opened by a kind remembered from when the library was there."""
    import sys

    from kobold_reader.pages.worker import open_file

    path = tmp_path / "photo"
    path.write_bytes(b"anything")
    for kind, library in (("heic", "pillow_heif"), ("raw", "rawpy")):
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(UnsupportedSourceError, match=rf"install .*\[{kind}\]"):
            open_file(path, kind)
