"""Image files through the real child."""

from __future__ import annotations

import hashlib
import io
import re
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageDraw

from kobold_reader.errors import CorruptSourceError, PageRenderError
from kobold_reader.pages import FileFacts, ImageBudget, PageChild, PageImages, PageView
from kobold_reader.pages.images import with_end_mark
from kobold_reader.pages.views import Placement, picture_images
from kobold_reader.pages.worker import open_file
from tests import page_files as make
from tests.test_pages_pdf import assert_corners

pytestmark = pytest.mark.slow

BUDGET = ImageBudget()
Opener = Callable[[bytes], FileFacts]


@pytest.fixture
def opened(child: PageChild, tmp_path: Path) -> Opener:
    def open_bytes(data: bytes) -> FileFacts:
        path = tmp_path / "picture"
        path.write_bytes(data)
        return child.open(path, source="file:///picture", kind="image")

    return open_bytes


def decoded(view: PageView) -> Image.Image:
    picture = Image.open(io.BytesIO(view.image))
    picture.load()
    assert picture.size == (view.width_px, view.height_px)
    assert picture.format in {"JPEG", "PNG"}
    assert picture.getexif().get(0x0112, 1) == 1
    return picture


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_comes_upright(child: PageChild, opened: Opener, orientation: int) -> None:
    opened(make.oriented_jpeg(orientation))
    facts = child.page_facts(1)
    view = child.page_images(1, BUDGET).views[0]
    assert (facts.width_px, facts.height_px) == (view.width_px, view.height_px) == (90, 60)
    assert view.is_passthrough == (orientation == 1)
    assert facts.rotation_deg == view.rotation_deg
    assert_corners(decoded(view).convert("RGB"))


@pytest.mark.parametrize("deg", [90, 180, 270])
def test_turned_on_request_on_top_of_exif(child: PageChild, opened: Opener, deg: int) -> None:
    opened(make.oriented_jpeg(6))
    view = child.page_images(1, BUDGET, rotate_deg=deg).views[0]
    assert view.rotation_deg == (90 + deg) % 360
    assert_corners(decoded(view).convert("RGB").rotate(deg, expand=True))


@pytest.mark.parametrize(
    "data",
    [
        make.jpeg(make.corners()),
        make.jpeg(make.corners(), progressive=True),
        make.jpeg(make.corners().convert("L")),
        make.encoded(make.corners(), "PNG"),
        make.encoded(make.corners().convert("L"), "PNG"),
        make.encoded(make.corners().convert("1"), "PNG"),
        make.encoded(make.corners().quantize(8), "PNG"),
    ],
)
def test_what_a_server_takes_passes_untouched(child: PageChild, opened: Opener, data: bytes) -> None:
    facts = opened(data)
    view = child.page_images(1, BUDGET).views[0]
    assert view.is_passthrough
    assert view.image == data
    assert child.page_facts(1).content_sha256 == facts.sha256 == hashlib.sha256(data).hexdigest()


def transparent(mode: str) -> Image.Image:
    """Black where it is seen, and black where it is not."""
    picture = Image.new("RGBA", (60, 60), (0, 0, 0, 0))
    picture.paste((0, 0, 0, 255), (0, 0, 30, 60))
    return picture.convert(mode)


@pytest.mark.parametrize(
    "data",
    [
        make.encoded(transparent("RGBA"), "PNG"),
        make.encoded(transparent("LA"), "PNG"),
        make.encoded(transparent("RGBA"), "WEBP", lossless=True),
        make.encoded(transparent("RGBA"), "TIFF"),
    ],
)
def test_transparent_parts_are_paper(child: PageChild, opened: Opener, data: bytes) -> None:
    opened(data)
    picture = decoded(child.page_images(1, BUDGET).views[0]).convert("L")
    assert picture.getpixel((15, 30)) == pytest.approx(0, abs=3)
    assert picture.getpixel((45, 30)) == pytest.approx(255, abs=3)


def drawn_on_nothing(*inks: tuple[int, int, int], sheet: tuple[int, int, int] | None = None) -> Image.Image:
    """A line of writing in each ink on a transparent ground, or on a sheet that is turned a little."""
    picture = Image.new("RGBA", (400, 300), (0, 0, 0, 0))
    if sheet:
        ImageDraw.Draw(picture).polygon([(20, 10), (390, 30), (380, 290), (10, 270)], fill=sheet)
    for number, ink in enumerate(inks):
        place = (60, 60 + 40 * number)
        ImageDraw.Draw(picture).text(place, make.WORDS[:24], font=make.font(150, 10), fill=(*ink, 255))
    return picture


WHITE, LIGHT, YELLOW, RED, BLACK = (255, 255, 255), (215, 215, 215), (255, 240, 80), (190, 30, 30), (0, 0, 0)


@pytest.mark.parametrize(
    ("picture", "ground", "is_blank"),
    [
        (drawn_on_nothing(WHITE), 0, False),
        (drawn_on_nothing(LIGHT), 0, False),
        (drawn_on_nothing(YELLOW, WHITE), 0, False),
        (drawn_on_nothing(WHITE, WHITE, RED), 0, False),
        (drawn_on_nothing(BLACK), 255, False),
        (drawn_on_nothing(RED, (90, 90, 90)), 255, False),
        (drawn_on_nothing(BLACK, sheet=WHITE), 255, False),
        (drawn_on_nothing(sheet=WHITE), 255, True),
        (drawn_on_nothing(), 255, True),
    ],
)
@pytest.mark.parametrize(("mode", "form"), [("RGBA", "PNG"), ("LA", "PNG"), ("RGBA", "TIFF"), ("P", "GIF")])
def test_the_ground_of_what_is_transparent_is_that_which_makes_it_legible(
    tmp_path: Path, picture: Image.Image, ground: int, is_blank: bool, mode: str, form: str
) -> None:
    path = tmp_path / "drawing"
    # A GIF's transparency is all or nothing.
    drawn = picture.convert(mode) if mode != "P" else picture
    path.write_bytes(make.encoded(drawn, form))
    with closing(open_file(path, "image")) as file:
        images = file.page_images(1, BUDGET, 0)
    assert decoded(images.views[0]).convert("L").getpixel((2, 2)) == pytest.approx(ground, abs=3)
    assert images.is_blank == is_blank


@pytest.mark.parametrize(
    "data",
    [
        make.encoded(make.corners(), "WEBP", quality=95),
        make.encoded(make.corners(), "TIFF"),
        make.encoded(make.corners(), "TIFF", compression="tiff_lzw"),
        make.encoded(make.corners(), "BMP"),
        make.encoded(make.corners().quantize(16), "GIF"),
        make.encoded(make.corners().convert("CMYK"), "JPEG", quality=95),
        make.encoded(make.corners().convert("CMYK"), "TIFF"),
        make.encoded(make.corners().convert("RGBA"), "PNG"),
    ],
)
def test_everything_else_becomes_jpeg_or_png(child: PageChild, opened: Opener, data: bytes) -> None:
    opened(data)
    view = child.page_images(1, BUDGET).views[0]
    assert not view.is_passthrough
    picture = decoded(view)
    assert picture.mode in {"RGB", "L"}
    assert_corners(picture.convert("RGB"))


@pytest.mark.parametrize("levels", [(0, 65535), (0, 4095), (0, 1023)])
def test_deep_grey_is_scaled_not_clipped(child: PageChild, opened: Opener, levels: tuple[int, int]) -> None:
    opened(make.grey_png_16(levels))
    picture = decoded(child.page_images(1, BUDGET).views[0])
    assert picture.mode == "L"
    assert picture.getpixel((10, 30)) == pytest.approx(0, abs=2)
    assert picture.getpixel((50, 30)) == pytest.approx(255, abs=2)


def test_the_frames_of_a_tiff_are_pages(child: PageChild, opened: Opener) -> None:
    frames = [make.printed_page(40, lines).convert("1") for lines in (5, 0, 30)]
    facts = opened(make.tiff(frames, compression="group4", dpi=(40 * 5, 40 * 5)))
    assert facts.total_pages == 3
    pages = [child.page_facts(number) for number in (3, 1, 2)]
    assert len({page.content_sha256 for page in pages}) == 3
    assert pages[0].width_pt == pytest.approx(frames[0].width / 200 * 72)
    images = [child.page_images(number, BUDGET) for number in (1, 2, 3, 1)]
    assert [image.is_blank for image in images] == [False, True, False, False]
    assert images[0] == images[3]
    with pytest.raises(PageRenderError, match="no such page"):
        child.page_images(4, BUDGET)


def test_a_moving_picture_is_one_page(child: PageChild, opened: Opener) -> None:
    frames = [make.corners(), make.corners().rotate(90)]
    data = make.encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert opened(data).total_pages == 1
    assert_corners(decoded(child.page_images(1, BUDGET).views[0]).convert("RGB"))


def test_oblong_pixels_are_made_square(child: PageChild, opened: Opener) -> None:
    opened(make.tiff([make.printed_page(100).resize((827, 584)).convert("1")], dpi=(200, 100)))
    facts = child.page_facts(1)
    assert (facts.width_px, facts.height_px) == (827, 584)
    assert facts.width_pt == pytest.approx(827 / 200 * 72)
    assert facts.height_pt == pytest.approx(584 / 100 * 72)
    view = child.page_images(1, BUDGET).views[0]
    assert view.width_px / view.height_px == pytest.approx(827 / (584 * 2), abs=0.002)


@pytest.mark.parametrize(("dpi", "is_known"), [(300, True), (72, False), (96, False), (1, False)])
def test_only_a_measured_resolution_gives_a_size_of_paper(
    child: PageChild, opened: Opener, dpi: int, is_known: bool
) -> None:
    opened(make.jpeg(make.printed_page(100), dpi=(dpi, dpi)))
    assert (child.page_facts(1).width_pt is not None) == is_known
    assert (child.page_images(1, BUDGET).views[0].effective_dpi is not None) == is_known


def camera_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "NIKON CORPORATION", "NIKON D70"
    exif[0x010E] = "OLYMPUS DIGITAL CAMERA"
    shot = exif.get_ifd(0x8769)
    shot[0x829A] = 0.01
    shot[0x9003], shot[0x9011] = "2008:10:22 16:28:39", "+02:00"
    gps = exif.get_ifd(0x8825)
    gps[1], gps[2] = "S", (43.0, 28.0, 2.81)
    gps[3], gps[4] = "E", (11.0, 53.0, 6.46)
    return exif


def test_what_a_photo_knows(child: PageChild, opened: Opener) -> None:
    facts = opened(make.jpeg(make.corners(), exif=camera_exif(), dpi=(300, 300)))
    assert facts.metadata == {
        "camera": "NIKON D70",
        "date_taken": "2008-10-22T16:28:39+02:00",
        "latitude": -43.467447,
        "longitude": 11.885128,
    }
    assert child.page_facts(1).width_pt is None, "a photo's resolution is no size of paper"


def test_what_a_scanned_picture_knows(opened: Opener) -> None:
    exif = Image.Exif()
    exif[0x010E], exif[0x013B], exif[0x0110] = "Baptisms 1832", "Parish", "Perfection V600"
    exif[0x0132] = "2019:05:04 10:00:00"
    facts = opened(make.jpeg(make.corners(), exif=exif))
    assert facts.metadata == {
        "title": "Baptisms 1832",
        "author": "Parish",
        "camera": "Perfection V600",
        "date_digitized": "2019-05-04T10:00:00",
    }


@pytest.mark.parametrize("date", ["0000:00:00 00:00:00", "    :  :     :  :  ", "2008:13:45 99:99:99"])
def test_dates_that_are_none(opened: Opener, date: str) -> None:
    exif = Image.Exif()
    exif[0x0132] = date
    assert opened(make.jpeg(make.corners(), exif=exif)).metadata == {}


def test_broken_exif_costs_no_page(child: PageChild, opened: Opener) -> None:
    data = bytearray(make.jpeg(make.corners(), exif=camera_exif()))
    start = data.index(b"Exif\0\0") + 14
    data[start : start + 60] = b"\xff" * 60
    opened(bytes(data))
    assert child.page_facts(1).rotation_deg == 0
    assert child.page_images(1, BUDGET).views[0].width_px == 90


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP"])
def test_of_a_picture_that_is_cut_short_what_is_there_is_shown(child: PageChild, opened: Opener, kind: str) -> None:
    page = make.printed_page(60)
    data = make.encoded(page, kind, quality=95)
    for share in (0.3, 0.6, 0.9):
        opened(data[: int(len(data) * share)])
        images = child.page_images(1, ImageBudget(), rotate_deg=0)
        assert not images.is_blank
        found = re.search("cut short: about ([0-9]+)% of it is there", images.damage)
        assert found, images.damage
        there = int(page.height * int(found[1]) / 100) - 20
        seen, whole = decoded(images.views[0]).convert("L"), page.convert("L")
        lost = (0, 0, page.width, page.height - there - 40) if kind == "BMP" else (0, there + 40, *page.size)
        kept = (0, page.height - there, *page.size) if kind == "BMP" else (0, 0, page.width, there)
        assert seen.crop(lost).getextrema() == (255, 255)
        assert np.asarray(ImageChops.difference(seen.crop(kept), whole.crop(kept))).mean() < 2
    opened(data)
    assert child.page_images(1, ImageBudget()).damage == ""


@pytest.mark.parametrize(("kind", "share"), [("WEBP", 0.6), ("JPEG2000", 0.6), ("PNG", 0.02), ("TIFF", 0.001)])
def test_a_picture_of_which_nothing_can_be_shown_says_so(
    child: PageChild, opened: Opener, kind: str, share: float
) -> None:
    data = make.encoded(make.printed_page(60), kind)

    def read() -> None:
        opened(data[: int(len(data) * share)])
        child.page_images(1, BUDGET)

    with pytest.raises(CorruptSourceError) as caught:
        read()
    assert caught.value.source == "file:///picture"


JPEG_KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "progressive": {"progressive": True},
    "with restarts": {"restart_marker_blocks": 4},
    "without subsampling": {"subsampling": 0},
}


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("kind", JPEG_KINDS)
def test_a_jpeg_without_its_end_mark_is_whole(tmp_path: Path, kind: str, mode: str) -> None:
    whole = make.jpeg(make.printed_page(30).convert(mode), **JPEG_KINDS[kind])
    path, scan = tmp_path / "scan.jpg", tmp_path / "scan.pdf"
    path.write_bytes(whole)
    with closing(open_file(path, "image")) as file:
        wanted = file.page_images(1, BUDGET, 0).views[0]
        assert "damage" not in file.facts.metadata
    for lost_bytes in (1, 2):
        path.write_bytes(whole[:-lost_bytes])
        with closing(open_file(path, "image")) as file:
            view = file.page_images(1, BUDGET, 0).views[0]
            assert view.image in {wanted.image, whole[:-lost_bytes]}
            assert decoded(view).tobytes() == decoded(wanted).tobytes()
            assert file.page_images(1, ImageBudget(max_side_px=200), None).views[0].height_px == 200
            assert file.page_facts(1).content_sha256 == hashlib.sha256(whole[:-lost_bytes]).hexdigest()
            assert file.page_look(1).kind == "scan"
            # Of some grey JPEGs the decoder gives all pixels without the mark: these need none.
            assert view.image != wanted.image or "end mark" in str(file.facts.metadata["damage"])
    scan.write_bytes(make.pdf(make.scan_on(whole)).replace(whole, whole[:-2] + b"  "))
    with closing(open_file(scan, "pdf")) as file:
        assert not file.page_images(1, BUDGET, 0).is_blank


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("kind", JPEG_KINDS)
def test_a_jpeg_that_lacks_pixels_is_not_taken_for_whole(kind: str, mode: str) -> None:
    whole = make.jpeg(make.printed_page(30).convert(mode), **JPEG_KINDS[kind])
    scans = [at for at in range(len(whole)) if whole[at : at + 2] == b"\xff\xda"]
    lengths = [*(len(whole) - lost for lost in (3, 4, 5, 8, 12, 20, 50, 100, 1000)), len(whole) // 2, *scans]
    assert with_end_mark(whole[:-1]) == whole
    assert [length for length in lengths if with_end_mark(whole[:length]) is not None] == []


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"not an image at all", b"\0" * 3000])
def test_what_is_no_picture(opened: Opener, data: bytes) -> None:
    with pytest.raises(CorruptSourceError):
        opened(data)


def test_a_bomb_is_refused_before_it_is_decoded(opened: Opener) -> None:
    data = bytearray(make.encoded(Image.new("L", (10, 10)), "PNG"))
    data[16:24] = (30_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    with pytest.raises(PageRenderError, match=r"large|pixels"):
        opened(bytes(data))


def looked_at(page: Image.Image, budget: ImageBudget) -> tuple[Image.Image, PageImages, tuple[int, int]]:
    """A scan's view, and how many of its pixels were decoded for it."""
    data = make.jpeg(page)
    inches = (page.width / 300, page.height / 300)
    opened: list[Image.Image] = []

    def reopen() -> Image.Image:
        opened.append(Image.open(io.BytesIO(data)))
        return opened[-1]

    picture = reopen()
    found = picture_images(picture, Placement(page.size, inches), budget, original=data, rotate_deg=0, reopen=reopen)
    return Image.open(io.BytesIO(found.views[0].image)).convert("L"), found, opened[-1].size


def test_a_large_jpeg_is_decoded_at_half_its_size_and_reads_the_same() -> None:
    page = make.printed_page(300).convert("L")
    view, found, decoded_px = looked_at(page, ImageBudget(max_side_px=1400))
    assert decoded_px == ((page.width + 1) // 2, (page.height + 1) // 2)
    assert max(view.size) == 1400
    assert not found.is_blank
    with Image.open(io.BytesIO(make.jpeg(page))) as picture:
        slowly = picture.resize(view.size, Image.Resampling.LANCZOS)
    levels = ImageChops.difference(view, slowly).histogram()
    assert sum(level * count for level, count in enumerate(levels)) / sum(levels) < 1.5


def test_what_a_glance_leaves_open_is_decided_on_all_pixels() -> None:
    for spoil, is_blank in ((make.with_dust, True), (make.handwrite, False)):
        page = spoil(make.sheet(300, (238, 226, 196)), dpi=300)
        _, found, decoded_px = looked_at(page, ImageBudget(max_side_px=1024))
        assert found.is_blank == is_blank
        assert decoded_px == page.size


def test_a_scan_that_passes_is_decoded_small_where_it_is_written_all_over() -> None:
    page = make.printed_page(100)
    view, found, decoded_px = looked_at(page, ImageBudget(max_side_px=2000))
    assert found.views[0].is_passthrough
    assert not found.is_blank
    assert view.size == page.size
    assert max(decoded_px) < page.height / 2
    _, found, decoded_px = looked_at(make.handwrite(make.sheet(100), dpi=100), ImageBudget(max_side_px=2000))
    assert found.views[0].is_passthrough
    assert not found.is_blank
