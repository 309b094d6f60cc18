"""Scans in layers: their resolution, their size and whether they are blank are decided by what the page paints."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pymupdf
import pytest
from PIL import Image, ImageChops, ImageStat

from kobold_reader.pages import FileFacts, ImageBudget, PageChild, PageImages
from tests import layered_pages as layers
from tests import page_files as make

pytestmark = pytest.mark.slow

BUDGET = ImageBudget(max_side_px=600)
PAPER = make.printed_page(100, 20)
Opener = Callable[[bytes], FileFacts]


@pytest.fixture
def opened(child: PageChild, tmp_path: Path) -> Opener:
    def open_bytes(data: bytes) -> FileFacts:
        path = tmp_path / "file.pdf"
        path.write_bytes(data)
        return child.open(path, kind="pdf")

    return open_bytes


def seen(images: PageImages) -> Image.Image:
    with Image.open(io.BytesIO(images.views[0].image)) as picture:
        return picture.convert("L")


def difference(one: Image.Image, other: Image.Image) -> float:
    return ImageStat.Stat(ImageChops.difference(one, other)).mean[0]


@pytest.mark.parametrize("kind", layers.KINDS)
def test_a_layered_page_is_sent_as_the_plain_scan_is(child: PageChild, opened: Opener, kind: str) -> None:
    opened(layers.layered(PAPER, kind))
    facts, images = child.page_facts(1), child.page_images(1, BUDGET)
    assert (facts.width_px, facts.height_px) == pytest.approx(PAPER.size, abs=2)
    assert (images.views[0].width_px, images.views[0].height_px) == pytest.approx((424, 600), abs=1)
    assert not images.is_blank
    plain = PAPER.convert("L").resize(seen(images).size, Image.Resampling.LANCZOS)
    assert difference(plain, seen(images)) < 6


@pytest.mark.parametrize("kind", ["soft mask over JPEG"])
def test_a_layered_page_is_cut_into_tiles_as_the_plain_scan_is(child: PageChild, opened: Opener, kind: str) -> None:
    budget = ImageBudget(max_side_px=448, min_px_per_inch=100)
    opened(make.pdf(make.scan_on(make.jpeg(PAPER))))
    plain = child.page_images(1, budget).tiles
    opened(layers.layered(PAPER, kind))
    assert len(child.page_images(1, budget).tiles) == len(plain) > 1


@pytest.mark.parametrize("deg", [90, 180])
def test_a_turned_layered_page_comes_upright(child: PageChild, opened: Opener, deg: int) -> None:
    opened(layers.layered(PAPER, "mask on a dot"))
    upright = seen(child.page_images(1, BUDGET))
    document = pymupdf.open("pdf", layers.layered(PAPER, "mask on a dot"))
    document[0].set_rotation(deg)
    opened(document.tobytes())
    turned = child.page_images(1, BUDGET)
    assert turned.views[0].rotation_deg == deg
    assert difference(upright.rotate(-deg, expand=True), seen(turned)) < 3


@pytest.mark.parametrize("kind", ["mask on a dot", "soft mask on 25 dpi", "stencil over JPEG"])
def test_a_mask_through_which_nothing_shows_is_blank(child: PageChild, opened: Opener, kind: str) -> None:
    opened(layers.layered(make.sheet(50), kind))
    assert child.page_images(1, BUDGET).is_blank


LETTERS = b"".join(b"%d %d 4 9 re " % (60 + x * 12, 700 - y * 20) for x in range(30) for y in range(20))
FONT = b"/Font<</F<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>"
SENTENCE = b"BT /F 12 Tf 7 Tr 60 700 Td (The quick brown fox jumps over the lazy dog) Tj ET "


@pytest.mark.parametrize("clip", [LETTERS + b"W n ", SENTENCE], ids=["shapes", "letters"])
def test_a_patch_seen_through_letters_is_no_coarse_page(child: PageChild, opened: Opener, clip: bytes) -> None:
    contents = b"q " + clip + layers.painted(b"I") + b"Q"
    opened(layers.written_pdf(contents, layers.ONE + FONT, layers.image(layers.patch(1))))
    images = child.page_images(1, BUDGET)
    assert images.views[0].height_px == 600
    assert not images.is_blank


def test_a_scan_of_which_a_part_is_shown_does_not_pass_whole(child: PageChild, opened: Opener) -> None:
    scan = layers.jpeg(make.printed_page(50))
    for clip, is_whole in (b"0 0 595 842 re W n ", True), (b"0 0 595 200 re W n ", False):
        opened(layers.written_pdf(b"q " + clip + layers.painted(b"I") + b"Q", layers.ONE, scan))
        assert child.page_images(1, BUDGET).views[0].is_passthrough == is_whole


def test_a_white_scan_under_a_soft_mask_of_letters_is_not_blank(child: PageChild, opened: Opener) -> None:
    """The page is judged by its rendering where the scan alone is blank."""
    group = layers.form(
        b"0 0 595 842 re f " + SENTENCE.replace(b"7 Tr", b"1 g 0 Tr"), FONT, b"/Group<</S/Transparency/CS/DeviceGray>>"
    )
    state = b"/ExtGState<</S<</SMask<</S/Luminosity/G 6 0 R>>>>>>"
    black = b"q 0 g 0 0 595 842 re f Q "
    white = layers.image(Image.new("L", (827, 1169), 255))
    opened(layers.written_pdf(black + b"/S gs " + layers.painted(b"I"), layers.ONE + state, white, group))
    assert not child.page_images(1, BUDGET).is_blank


def test_a_mask_shrunk_to_a_dot_does_not_count(child: PageChild, opened: Opener) -> None:
    dot = b"q 1 0 0 1 0 841 cm /M Do Q "
    scan, mask = make.printed_page(50), Image.new("1", (2480, 3508), 1)
    opened(layers.written_pdf(layers.painted(b"B") + dot, layers.TWO, layers.jpeg(scan), layers.image(mask)))
    facts = child.page_facts(1)
    assert (facts.width_px, facts.height_px) == pytest.approx(scan.size, abs=2)
