"""Pages that are too small to be read whole: where they are cut, and what each tile shows."""

from __future__ import annotations

import io
import itertools
import random
from pathlib import Path

import pymupdf
import pytest
from PIL import Image, ImageChops, ImageDraw

from kobold_reader.pages import Box, ImageBudget, LinePiece, PageChild, PageImages, PageView
from kobold_reader.pages.orientation import CLOCKWISE, UPRIGHT, stored_box
from kobold_reader.pages.tiles import MAX_TILES, TilePlan, find_writing, plan_tiles
from kobold_reader.pages.values import pack, unpack
from kobold_reader.pages.views import Placement, picture_images
from tests import page_files as make
from tests.conftest import SAMPLES
from tests.test_pages_orientation import prose, turned

pytestmark = pytest.mark.slow

DPI = 150
SMALL = ImageBudget(max_side_px=336, min_px_per_inch=85.0)
LARGE = ImageBudget(max_side_px=1024, min_px_per_inch=85.0)


def plan(picture: Image.Image, budget: ImageBudget = SMALL) -> TilePlan:
    found = plan_tiles(picture, picture.size, budget)
    assert found is not None
    return found


def pixels(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    left, top, right, bottom = (round(share * side) for share, side in zip(box, size * 2, strict=True))
    return left, top, right, bottom


# ── the writing ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("skew", [0.0, 1.5, -1.5])
def test_every_line_is_found_and_measured(skew: float) -> None:
    page = prose(DPI, lines=30).rotate(skew, Image.Resampling.BICUBIC, fillcolor=(255, 255, 255))
    writing = find_writing(page)
    assert writing is not None
    assert len(writing.rows) == 30
    assert writing.letter_px == pytest.approx(0.08 * 1.1 * DPI, rel=0.15), "11 pt"
    covered = Image.new("L", page.size)
    for row in writing.rows:
        for cell in row.whole_cells:
            ImageDraw.Draw(covered).rectangle(cell, fill=255)
    outside = ImageChops.multiply(ImageChops.invert(covered), ImageChops.invert(page.convert("L")))
    assert sum(outside.histogram()[128:]) <= 0.01 * sum(page.convert("L").histogram()[:128])


def test_the_rules_of_a_table_askew_are_no_writing() -> None:
    """Their pieces would be taken for lines, and the amounts would slip to the next name."""
    page = make.sheet(DPI)
    draw = ImageDraw.Draw(page)
    for row in range(10):
        draw.line((150, 300 + 60 * row, 1090, 300 + 60 * row), fill=(90, 90, 90), width=2)
    for x in (150, 830, 1090):
        draw.line((x, 300, x, 840), fill=(90, 90, 90), width=2)
    for row in range(9):
        make.write(page, f"Floating jetty {row + 20} metres", dpi=DPI, at=(0.14, (315 + 60 * row) / page.height))
        make.write(page, f"{row + 1},450", dpi=DPI, at=(0.8, (315 + 60 * row) / page.height))
    askew = page.rotate(-0.6, Image.Resampling.BICUBIC, fillcolor=(255, 255, 255))
    writing = find_writing(askew)
    assert writing is not None
    assert [(row.left < 300, row.right > 900) for row in writing.rows] == [(True, True)] * 9


def test_columns_are_read_one_after_the_other() -> None:
    writing = find_writing(prose(DPI, lines=20, columns=2))
    assert writing is not None
    lefts = [row.left < 0.5 * writing.letters.width for row in writing.rows]
    assert lefts == [True] * 20 + [False] * 20


def pebbles() -> Image.Image:
    chance, picture = random.Random(3), Image.new("L", (1200, 900), 230)
    draw = ImageDraw.Draw(picture)
    for _ in range(500):
        x, y, size = chance.uniform(0, 1200), chance.uniform(0, 900), chance.uniform(6, 24)
        draw.ellipse((x, y, x + size, y + size), fill=chance.randint(40, 160))
    return picture


@pytest.mark.parametrize("picture", [pebbles(), make.sheet(DPI)])
def test_where_there_is_no_lettering_nothing_is_cut(picture: Image.Image) -> None:
    assert plan_tiles(picture, picture.size, SMALL) is None


def test_a_photo_is_read_whole() -> None:
    with Image.open(SAMPLES / "photos" / "boathouse 1999.jpg") as photo:
        assert plan_tiles(photo.convert("RGB"), photo.size, SMALL) is None


# ── the plan ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("columns", [1, 2])
def test_every_line_stands_in_the_tiles_once(columns: int) -> None:
    page = prose(DPI, lines=30, columns=columns)
    found = plan(page)
    writing = find_writing(page)
    assert writing is not None
    for number, row in enumerate(writing.rows):
        pieces = sorted(line.box for tile in found.tiles for line in tile.lines if line.row == number)
        assert pieces[0][0] * page.width == pytest.approx(row.left, abs=1)
        assert pieces[-1][2] * page.width == pytest.approx(row.right, abs=1)
        for one, other in itertools.pairwise(pieces):
            assert one[2] <= other[0] + 1e-9, "cut at a gap: nothing is shown twice"


def test_a_line_is_cut_between_words_only() -> None:
    page = prose(DPI, lines=12)
    ink = page.convert("L").point([255] * 128 + [0] * 128)
    for tile in plan(page).tiles:
        for line in tile.lines:
            left, top, right, bottom = pixels(line.box, page.size)
            for outside in (left - 1, right):
                assert not ink.crop((outside, top + 4, outside + 1, bottom - 4)).getbbox(), "no letter goes on"


def test_tiles_are_as_few_as_can_be() -> None:
    letter = prose(DPI, lines=40)
    assert len(plan(letter, ImageBudget(max_side_px=700, min_px_per_inch=85.0)).tiles) == 2
    assert len(plan(prose(DPI, lines=40), SMALL).tiles) <= 12


def test_large_print_and_fine_budgets_need_no_tiles() -> None:
    poster = make.sheet(DPI)
    for line in range(8):
        make.write(poster, "REGATTA ON SUNDAY", dpi=DPI, at=(0.1, 0.1 + line * 0.1), points=36)
    assert plan_tiles(poster, poster.size, SMALL) is None
    letter = prose(DPI)
    assert plan_tiles(letter, letter.size, LARGE) is None
    assert plan_tiles(letter, letter.size, ImageBudget(max_side_px=336)) is None, "no threshold, no tiles"
    assert plan_tiles(letter, letter.size, ImageBudget(max_side_px=2000, min_px_per_inch=85.0)) is None


def test_a_page_of_tiny_print_is_cut_to_a_bound_and_says_so() -> None:
    page = make.sheet(200)
    for line in range(100):
        make.write(page, f"{make.WORDS} {make.WORDS}", dpi=200, at=(0.03, 0.03 + line * 0.0094), points=4.5)
    found = plan(page, ImageBudget(max_side_px=224, min_px_per_inch=140.0))
    assert len(found.tiles) <= MAX_TILES
    assert found.is_coarse


# ── the images ──────────────────────────────────────────────────────────────────────────────────


def test_a_box_is_found_again_in_the_stored_picture() -> None:
    stored = Image.new("L", (40, 60))
    stored.paste(255, (4, 6, 12, 24))
    for orientation in UPRIGHT:
        for deg in CLOCKWISE:
            page = stored
            for step in (UPRIGHT[orientation][0], CLOCKWISE[deg]):
                page = page if step is None else page.transpose(step)
            ink = page.getbbox()
            assert ink is not None
            box = (ink[0] / page.width, ink[1] / page.height, ink[2] / page.width, ink[3] / page.height)
            assert stored_box(box, orientation, deg) == pytest.approx((0.1, 0.1, 0.3, 0.4))


def test_tiles_cross_the_border_of_the_child() -> None:
    view = PageView(b"whole", "image/jpeg", 3, 4, None, 0)
    lines = (LinePiece(2, (0.1, 0.2, 0.3, 0.4)),)
    tiles = tuple(PageView(data, "image/png", 1, 2, 90.0, 90, (0, 0, 0.5, 0.5), lines=lines) for data in (b"a", b"b"))
    images = PageImages((view,), is_blank=False, tiles=tiles, is_coarse=True)
    assert unpack(*pack(images)) == images


def opened(view: PageView) -> Image.Image:
    with Image.open(io.BytesIO(view.image)) as picture:
        assert picture.size == (view.width_px, view.height_px)
        return picture.convert("L")


@pytest.fixture(params=["jpeg", "sideways jpeg", "born-digital", "scanned pdf"])
def images(request: pytest.FixtureRequest, child: PageChild, tmp_path: Path) -> PageImages:
    """The same page of text, stored in several ways."""
    path, kind = tmp_path / "page", "image"
    page = prose(200, lines=24)
    if request.param == "jpeg":
        path.write_bytes(make.jpeg(page, dpi=(200, 200)))
    elif request.param == "sideways jpeg":
        path.write_bytes(make.jpeg(turned(page, 270), dpi=(200, 200)))
    else:
        kind = "pdf"
        with pymupdf.open() as document:
            sheet = document.new_page(width=595, height=842)
            if request.param == "scanned pdf":
                sheet.insert_image(sheet.rect, stream=make.encoded(page.convert("L"), "PNG"))
            else:
                for line in range(24):
                    sheet.insert_text((60, 90 + line * 17), make.WORDS[:75], fontsize=11)
            document.save(path)
    child.open(path, source="file:///page", kind=kind)
    return child.page_images(1, SMALL, rotate_deg=None)


def test_tiles_are_sharp_and_within_the_budget(images: PageImages) -> None:
    assert len(images.views) == 1
    assert 3 <= len(images.tiles) <= 16
    for tile in images.tiles:
        assert max(tile.width_px, tile.height_px) <= 336
        assert tile.effective_dpi is not None
        assert 85 <= tile.effective_dpi <= 300
        picture = opened(tile)
        width, height = (tile.box[2] - tile.box[0]) * 8.27, (tile.box[3] - tile.box[1]) * 11.69
        assert picture.width / picture.height == pytest.approx(width / height, rel=0.03), "nothing is distorted"
        dark = picture.point([255] * 128 + [0] * 128)
        edges = ((0, 0, picture.width, 1), (0, picture.height - 1, *picture.size), (0, 0, 1, picture.height))
        for edge in (*edges, (picture.width - 1, 0, *picture.size)):
            assert not dark.crop(edge).getbbox(), "no word runs over a tile's edge"


def test_a_tile_shows_its_own_words_and_no_others(images: PageImages) -> None:
    for tile in images.tiles:
        dark = opened(tile).point([255] * 110 + [0] * 146)
        width, height = tile.box[2] - tile.box[0], tile.box[3] - tile.box[1]
        for line in tile.lines:
            left, top, right, bottom = (
                round((line.box[0] - tile.box[0]) / width * dark.width) - 1,
                round((line.box[1] - tile.box[1]) / height * dark.height) - 1,
                round((line.box[2] - tile.box[0]) / width * dark.width) + 1,
                round((line.box[3] - tile.box[1]) / height * dark.height) + 1,
            )
            assert dark.crop((left, top, right, bottom)).getbbox(), "its line is there"
            dark.paste(0, (left, top, right, bottom))
        assert sum(dark.histogram()[128:]) <= 12, "and nothing else is"


def test_a_scan_is_never_enlarged(child: PageChild, tmp_path: Path) -> None:
    """60 px to the inch are all there are: a tile shows its part of the page in as many px as are stored."""
    path = tmp_path / "coarse.png"
    page = prose(60, lines=30)
    path.write_bytes(make.encoded(page, "PNG", dpi=(60, 60)))
    child.open(path, source="file:///coarse.png", kind="image")
    for tile in child.page_images(1, SMALL, rotate_deg=0).tiles:
        assert tile.width_px <= round((tile.box[2] - tile.box[0]) * page.width) + 1
        assert tile.effective_dpi == pytest.approx(60, rel=0.03)


@pytest.mark.parametrize("inches", [None, (2.5, 60.0)])
def test_a_long_receipt_is_not_blank_and_its_tiles_show_every_line(inches: tuple[float, float] | None) -> None:
    """Shrunk to the length of a page, it would be 50 px wide: white, and without lines."""
    receipt = Image.new("L", (500, 12_000), 255)
    tops = range(60, 11_900, 60)
    for number, top in enumerate(tops):
        words = f"Item {number:03d} rope and tar"
        ImageDraw.Draw(receipt).text((30, top), words, font=make.font(72, 24), fill=20)
    placement = Placement((500, 12_000), inches)
    images = picture_images(receipt, placement, LARGE, original=None, rotate_deg=None, reopen=receipt.copy)
    assert not images.is_blank
    assert not images.is_coarse
    shown = [line.box for tile in images.tiles for line in tile.lines]
    assert len(shown) == len(tops)
    for box, top in zip(shown, tops, strict=True):
        assert box[1] * 12_000 <= top + 8 <= box[3] * 12_000
    assert all(tile.width_px / (500 * (tile.box[2] - tile.box[0])) > 0.5 for tile in images.tiles)
