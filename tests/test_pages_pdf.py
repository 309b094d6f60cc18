"""PDFs through the real child: what a page is, and what it looks like."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import re
import zlib
from collections.abc import Callable
from pathlib import Path

import pymupdf
import pytest
from PIL import Image, ImageChops, ImageStat

from kobold_reader.errors import (
    CorruptSourceError,
    EncryptedSourceError,
    PageRenderError,
    SourceError,
    UnsupportedSourceError,
)
from kobold_reader.pages import FileFacts, ImageBudget, PageChild, PageFacts, PageImages
from tests import layered_pages as layers
from tests import page_files as make

pytestmark = pytest.mark.slow

BUDGET = ImageBudget()
Opener = Callable[[bytes], FileFacts]


@pytest.fixture
def opened(child: PageChild, tmp_path: Path) -> Opener:
    def open_bytes(data: bytes) -> FileFacts:
        path = tmp_path / "file.pdf"
        path.write_bytes(data)
        return child.open(path, source="file:///file.pdf", kind="pdf")

    return open_bytes


def page(child: PageChild, number: int = 1, budget: ImageBudget = BUDGET) -> tuple[PageFacts, PageImages]:
    return child.page_facts(number), child.page_images(number, budget)


def decoded(images: PageImages) -> Image.Image:
    (view,) = images.views
    picture = Image.open(io.BytesIO(view.image))
    picture.load()
    assert picture.size == (view.width_px, view.height_px)
    assert Image.MIME[picture.format or ""] == view.mime
    return picture


def test_born_digital_text_can_stand_for_the_page(child: PageChild, opened: Opener) -> None:
    facts = opened(make.pdf(make.text_on, make.text_on))
    first, images = page(child)
    assert (facts.total_pages, facts.kind, facts.is_repaired) == (2, "pdf", False)
    assert first.text.startswith("Line 1. The quick brown fox")
    assert first.text_layer == "good"
    assert (first.width_px, first.height_px, first.image_coverage) == (0, 0, 0.0)
    assert (first.width_pt, first.height_pt) == make.A4_PT
    assert not images.is_blank
    assert not images.views[0].is_passthrough
    assert max(decoded(images).size) == 1024
    second = child.page_facts(2)
    assert second.content_sha256 == hashlib.sha256(f"{facts.sha256}:2".encode()).hexdigest()


def test_a_fitting_jpeg_scan_passes_untouched(child: PageChild, opened: Opener) -> None:
    scan = make.jpeg(make.printed_page(80))
    opened(make.pdf(make.scan_on(scan)))
    facts, images = page(child)
    assert facts.content_sha256 == hashlib.sha256(scan).hexdigest()
    assert facts.text_layer == "none"
    assert facts.image_coverage > 0.98
    assert images.views[0].image == scan
    assert images.views[0].is_passthrough
    assert images.views[0].effective_dpi == pytest.approx(80, abs=1)
    assert (facts.width_px, facts.height_px) == decoded(images).size


def test_the_same_scan_in_two_files_is_the_same_content(child: PageChild, opened: Opener) -> None:
    for scan in (
        make.jpeg(make.printed_page(80)),
        make.encoded(make.printed_page(80).convert("L"), "PNG"),
        make.encoded(make.printed_page(80), "PNG"),
    ):
        opened(make.pdf(make.scan_on(scan)))
        alone = child.page_facts(1).content_sha256
        opened(make.pdf(make.text_on, make.both(make.scan_on(scan), make.hidden_text_on)))
        assert child.page_facts(2).content_sha256 == alone
        assert child.page_facts(1).content_sha256 != alone


def test_another_scan_is_other_content(child: PageChild, opened: Opener) -> None:
    found = set()
    for lines in (3, 4):
        for picture in (make.printed_page(50, lines), make.printed_page(50, lines).convert("L")):
            opened(make.pdf(make.scan_on(make.encoded(picture, "PNG"))))
            found.add(child.page_facts(1).content_sha256)
    assert len(found) == 4


def test_a_large_scan_is_resampled_to_the_budget(child: PageChild, opened: Opener) -> None:
    opened(make.pdf(make.scan_on(make.jpeg(make.printed_page(200)))))
    facts, images = page(child)
    assert (facts.width_px, facts.height_px) == (1654, 2338)
    assert decoded(images).size == (724, 1024)
    assert decoded(images).mode == "L", "a page without colour needs none"
    assert images.views[0].effective_dpi == pytest.approx(1024 / 11.69, abs=0.5)


@pytest.mark.parametrize("deg", [90, 180, 270])
def test_a_turned_page_comes_upright(child: PageChild, opened: Opener, deg: int) -> None:
    turned = make.corners().rotate(deg, expand=True)  # counter-clockwise, undone by /Rotate
    scan = make.encoded(turned.resize((turned.width * 4, turned.height * 4)), "PNG")

    def draw(page: pymupdf.Page) -> None:
        width, height = (200, 300) if deg in {90, 270} else (300, 200)
        page.set_mediabox(pymupdf.Rect(0, 0, width, height))
        page.insert_image(page.rect, stream=scan, keep_proportion=False)
        page.set_rotation(deg)

    opened(make.pdf(draw))
    facts, images = page(child)
    picture = decoded(images).convert("RGB")
    assert facts.rotation_deg == images.views[0].rotation_deg == deg
    assert (facts.width_pt, facts.height_pt) == (300, 200)
    assert (facts.width_px, facts.height_px) == (360, 240)
    assert picture.size == (360, 240)
    assert_corners(picture)


def assert_corners(picture: Image.Image) -> None:
    width, height = picture.size
    places = {
        (0.25, 0.25): (220, 0, 0),
        (0.75, 0.25): (0, 200, 0),
        (0.25, 0.75): (0, 0, 220),
        (0.75, 0.75): (255, 255, 255),
    }
    for (x, y), colour in places.items():
        found = picture.getpixel((int(width * x), int(height * y)))
        assert isinstance(found, tuple)
        assert found == pytest.approx(colour, abs=12), (x, y)


@pytest.mark.parametrize("deg", [0, 90, 180, 270])
def test_turned_on_request(child: PageChild, opened: Opener, deg: int) -> None:
    corners = make.jpeg(make.corners().resize((360, 240)), quality=95)
    for step in (make.scan_on(corners), make.both(make.scan_on(corners), make.hidden_text_on)):
        opened(make.pdf(step, size=(300, 200)))
        images = child.page_images(1, BUDGET, rotate_deg=deg)
        view = images.views[0]
        assert view.rotation_deg == deg
        assert view.is_passthrough == (deg == 0)
        assert_corners(decoded(images).convert("RGB").rotate(deg, expand=True))


def test_hidden_text_is_given_but_stands_for_nothing(child: PageChild, opened: Opener) -> None:
    scan = make.scan_on(make.jpeg(make.printed_page(80)))
    opened(
        make.pdf(make.both(scan, make.hidden_text_on), make.both(make.text_on, scan))
    )  # OCR text laid over the scan unseen, and text under the scan
    for number in (1, 2):
        facts = child.page_facts(number)
        assert "quick brown fox" in facts.text
        assert facts.text_layer == "poor"
    assert child.page_images(1, BUDGET).views[0].is_passthrough


def test_a_stamp_on_a_scan_does_not_stand_for_it(child: PageChild, opened: Opener) -> None:
    def stamp(page: pymupdf.Page) -> None:
        page.insert_text((60, 820), "Downloaded from the library of the institute. " + make.WORDS)

    opened(make.pdf(make.both(make.scan_on(make.jpeg(make.printed_page(80))), stamp)))
    facts, images = page(child)
    assert facts.text_layer == "poor"
    assert not images.views[0].is_passthrough, "the stamp is part of the page"


def test_text_beside_a_picture_is_good(child: PageChild, opened: Opener) -> None:
    def picture(page: pymupdf.Page) -> None:
        page.insert_image(pymupdf.Rect(60, 690, 300, 820), stream=make.jpeg(make.corners()))

    opened(make.pdf(make.both(make.text_on, picture)))
    facts = child.page_facts(1)
    assert facts.text_layer == "good"
    assert 0.02 < facts.image_coverage < 0.1


def test_two_pictures_are_rendered_together(child: PageChild, opened: Opener) -> None:
    half = make.jpeg(make.corners().crop((0, 0, 90, 30)))

    def draw(page: pymupdf.Page) -> None:
        page.insert_image(pymupdf.Rect(0, 0, 300, 100), stream=half, keep_proportion=False)
        page.insert_image(pymupdf.Rect(0, 100, 300, 200), stream=half, keep_proportion=False)

    opened(make.pdf(draw, size=(300, 200)))
    facts, images = page(child)
    assert facts.image_coverage == pytest.approx(1.0, abs=0.02)
    assert not images.views[0].is_passthrough
    assert images.views[0].width_px == 90, "no more pixels than the pictures have"


def test_a_scan_in_strips_is_one_scan(child: PageChild, opened: Opener) -> None:
    paper = make.printed_page(150).convert("L")
    opened(make.pdf(make.strips_on(paper, 20)))
    facts, images = page(child)
    assert facts.image_coverage == pytest.approx(1.0, abs=0.01)
    assert (facts.width_px, facts.height_px) == pytest.approx(paper.size, abs=2)
    assert facts.text_layer == "none"
    seen = decoded(images)
    assert max(seen.size) == 1024
    assert seen.mode == "L"
    whole = paper.resize(seen.size, Image.Resampling.LANCZOS)
    difference = ImageStat.Stat(ImageChops.difference(whole, seen))
    assert difference.mean[0] < 1, "painted by MuPDF it is 8.7"


def test_jbig2(child: PageChild, opened: Opener) -> None:
    paper = make.printed_page(100)
    opened(make.jbig2_pdf(paper))
    facts, images = page(child)
    assert (facts.width_px, facts.height_px) == paper.size
    seen = decoded(images).convert("L")
    expected = paper.convert("1").convert("L").resize(seen.size, Image.Resampling.BOX)
    assert ImageStat.Stat(ImageChops.difference(expected, seen)).mean[0] < 15, "not inverted, not empty"
    assert not images.is_blank


def test_a_page_of_five_metres(child: PageChild, opened: Opener) -> None:
    opened(make.pdf(make.text_on, size=(14400, 14400)))
    facts, images = page(child, budget=ImageBudget(max_side_px=2000))
    assert (facts.width_pt, facts.height_pt) == (14400, 14400)
    assert decoded(images).size == (2000, 2000)
    assert not images.is_blank


@pytest.mark.parametrize("size", [(1, 1.414), (3, 4), (10, 14.14)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "strips", "layers"])
def test_a_tiny_page_that_holds_a_scan_is_read(
    child: PageChild, opened: Opener, size: tuple[float, float], kind: str
) -> None:
    paper = make.printed_page(50)
    if kind == "layers":
        document = pymupdf.open("pdf", layers.layered(paper, "stencil over JPEG"))
        small = pymupdf.open()
        small.new_page(width=size[0], height=size[1]).show_pdf_page(small[0].rect, document, keep_proportion=False)
        data = small.tobytes()
    else:
        draw = make.strips_on(paper, 3) if kind == "strips" else make.scan_on(make.encoded(paper, kind))
        data = make.pdf(draw, size=size)
    opened(data)
    images = child.page_images(1, ImageBudget(max_side_px=500))
    assert not images.is_blank
    assert images.views[0].height_px == pytest.approx(500, abs=1)


def test_forms_and_notes_are_in_the_text(child: PageChild, opened: Opener) -> None:
    opened(make.pdf(make.annotated_on))
    facts = child.page_facts(1)
    assert facts.text_layer == "good"
    assert "Written in a text box" in facts.text
    assert "Filled into a form" in facts.text
    assert facts.text.endswith("Note: A note pinned to the page\n\nNote: A comment on marked words")
    assert facts.text.count("Written in a text box") == 1, "what is painted is not repeated"
    assert facts.metadata == {}


def test_ticks_stand_beside_their_words_and_groups_have_a_value(child: PageChild, opened: Opener) -> None:
    opened(make.form_pdf())
    assert child.page_facts(1).text.splitlines() == [
        "Application for a mooring in the harbour",
        "[x] with an engine",
        "with sails [ ]",
        "the north quay",
        "the south quay",
        "[x] member",
        "quay: the north quay",
    ]


def test_a_group_is_read_by_the_value_that_its_form_names(child: PageChild, opened: Opener) -> None:
    document = pymupdf.open("pdf", make.form_pdf())
    chosen = next(field for field in document[0].widgets() if field.field_name == "quay")
    document.xref_set_key(chosen.xref, "AS", "/North")
    data = document.tobytes()
    document.close()
    opened(data)
    assert child.page_facts(1).text.endswith("quay: North")


def test_a_note_on_a_scan_is_not_lost(child: PageChild, opened: Opener) -> None:
    def pin(page: pymupdf.Page) -> None:
        page.add_text_annot((400, 300), "This is aunt Märta's hand")

    opened(make.pdf(make.both(make.scan_on(make.jpeg(make.printed_page(50))), pin)))
    facts = child.page_facts(1)
    assert facts.text_layer == "none"
    assert facts.metadata == {"notes": "This is aunt Märta's hand"}
    assert not child.page_images(1, BUDGET).is_blank


@pytest.mark.parametrize(("stored", "is_lost"), [(b"", False), (b"\0broken", True)])
def test_white_is_believed_only_where_nothing_was_to_be_painted(
    child: PageChild, opened: Opener, stored: bytes, is_lost: bool
) -> None:
    document = pymupdf.open("pdf", make.pdf(make.text_on))
    for xref in document[0].get_contents():
        document.update_stream(xref, stored, compress=False)
        document.xref_set_key(xref, "Filter", "/FlateDecode")
    data = document.tobytes()
    document.close()
    opened(data)
    if is_lost:
        with pytest.raises(PageRenderError, match="cannot be decoded"):
            child.page_images(1, BUDGET)
    else:
        assert child.page_images(1, BUDGET).is_blank


def test_a_page_of_square_points_and_oblong_pixels_is_not_distorted(child: PageChild, opened: Opener) -> None:
    fax = make.encoded(make.printed_page(100).resize((827, 584)).convert("1"), "PNG")
    opened(make.pdf(make.scan_on(fax)))
    facts, images = page(child)
    assert (facts.width_px, facts.height_px) == (827, 584)
    width, height = decoded(images).size
    assert width / height == pytest.approx(595 / 842, abs=0.002)


def test_labels(child: PageChild, opened: Opener) -> None:
    opened(make.labelled_pdf())
    assert [child.page_facts(number).page_label for number in (1, 2, 3)] == ["i", "ii", "1"]


@pytest.mark.parametrize("tree", ["<</Nums[0<</S/a/St -40>>]>>", "<</Nums[0<</S/r/St 99999999999999>>]>>"])
def test_a_label_that_cannot_be_spelled_costs_no_page(child: PageChild, opened: Opener, tree: str) -> None:
    document = pymupdf.open()
    document.new_page()
    document.xref_set_key(document.pdf_catalog(), "PageLabels", tree)
    opened(document.tobytes())
    assert child.page_facts(1).page_label == "1"


def test_labels_with_prefixes(child: PageChild, opened: Opener) -> None:
    with pymupdf.open("pdf", make.pdf(*[make.text_on] * 6)) as document:
        rules = [(1, "D", "B-", 1), (3, "D", "Tafel ", 7), (5, "A", "", 1)]
        keys = ("startpage", "style", "prefix", "firstpagenum")
        document.set_page_labels([dict(zip(keys, rule, strict=True)) for rule in rules])
        opened(document.tobytes())
    labels = [child.page_facts(number).page_label for number in range(1, 7)]
    assert labels == ["1", "B-1", "B-2", "Tafel 7", "Tafel 8", "A"]


def test_title_and_author(opened: Opener) -> None:
    document = pymupdf.open("pdf", make.pdf(make.text_on))
    document.set_metadata({"title": " Church\nregister ", "author": "A. Clerk", "creationDate": "D:20240131101500Z"})
    facts = opened(document.tobytes())
    document.close()
    assert facts.metadata == {"title": "Church register", "author": "A. Clerk"}


def test_a_scan_knows_the_day_it_was_made(opened: Opener) -> None:
    document = pymupdf.open("pdf", make.pdf(make.scan_on(make.jpeg(make.printed_page(50)))))
    document.set_metadata({"title": "untitled", "creationDate": "D:20240131101500+01'00'"})
    facts = opened(document.tobytes())
    document.close()
    assert facts.metadata == {"date_digitized": "2024-01-31T10:15:00+01:00"}


def test_an_empty_crop_box_hides_no_page(child: PageChild, opened: Opener) -> None:
    document = pymupdf.open("pdf", make.pdf(make.text_on))
    document.xref_set_key(document[0].xref, "CropBox", "[0 0 0 0]")
    data = document.tobytes()
    document.close()
    opened(data)
    facts, images = page(child)
    assert facts.text_layer == "good"
    assert not images.is_blank


def test_blank_pages_among_inked_ones(child: PageChild, opened: Opener) -> None:
    dusty = make.jpeg(make.with_dust(make.sheet(100, (240, 230, 205)), dpi=100))
    number = make.jpeg(make.write(make.sheet(100), "7", dpi=100, at=(0.5, 0.95)))
    opened(make.pdf(make.blank_on, make.scan_on(dusty), make.scan_on(number), make.text_on))
    assert [child.page_images(n, BUDGET).is_blank for n in (1, 2, 3, 4)] == [
        True,
        True,
        False,
        False,
    ]
    small = ImageBudget(max_side_px=336)
    assert [child.page_images(n, small).is_blank for n in (1, 2, 3)] == [True, True, False]


def test_passwords(child: PageChild, tmp_path: Path) -> None:
    path = tmp_path / "locked.pdf"
    path.write_bytes(make.locked_pdf(user="sésame"))
    with pytest.raises(EncryptedSourceError, match="locked") as caught:
        child.open(path, source="file:///locked.pdf", kind="pdf")
    assert caught.value.source == "file:///locked.pdf"
    with pytest.raises(EncryptedSourceError, match="None of the passwords"):
        child.open(path, kind="pdf", passwords=["wrong"])
    assert child.open(path, kind="pdf", passwords=["wrong", "sésame"]).total_pages == 1
    path.write_bytes(make.locked_pdf(user=""))
    assert child.open(path, kind="pdf").total_pages == 1
    assert child.page_facts(1).text_layer == "good"


def locked_and_damaged() -> bytes:
    """Its objects are in streams, which cannot be unlocked before the file was repaired."""
    document = pymupdf.open("pdf", make.pdf(make.text_on))
    lock = {"encryption": pymupdf.PDF_ENCRYPT_AES_256, "user_pw": "secret", "owner_pw": "owner"}
    data: bytes = document.tobytes(use_objstms=1, **lock)
    document.close()
    return data[: data.rindex(b"startxref")] + b"startxref\n7\n%%EOF"


def locked_by_certificate() -> bytes:
    return make.pdf(make.text_on).replace(b"/Root", b"/Encrypt<</Filter/Adobe.PubSec/V 4>>/Root")


def test_what_a_lock_hides_is_not_said_to_be_missing(child: PageChild, tmp_path: Path) -> None:
    path = tmp_path / "locked.pdf"
    path.write_bytes(locked_and_damaged())
    with pytest.raises(EncryptedSourceError, match="--pdf-password"):
        child.open(path, kind="pdf")
    with pytest.raises(CorruptSourceError, match="locked and damaged"):
        child.open(path, kind="pdf", passwords=["secret"])
    path.write_bytes(locked_by_certificate())
    with pytest.raises(EncryptedSourceError, match="certificate"):
        child.open(path, kind="pdf")


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (b"", CorruptSourceError, "empty"),
        (b"\0" * 5000, CorruptSourceError, "cannot be opened"),
        (b"%PDF-1.7\n", CorruptSourceError, "."),
        (b"%PDF-1.7\n" + bytes(range(256)) * 20, CorruptSourceError, "."),
        (b"<html><body><p>Not found</p></body></html>", SourceError, "."),
        (b"Just a letter, in plain text.\n" * 40, SourceError, "."),
    ],
)
def test_what_is_no_pdf(opened: Opener, data: bytes, kind: type[SourceError], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        opened(data)
    assert isinstance(caught.value, CorruptSourceError | UnsupportedSourceError)
    assert caught.value.source == "file:///file.pdf"


def test_a_file_cut_in_half_is_never_blank(child: PageChild, opened: Opener) -> None:
    scans = [make.scan_on(make.jpeg(make.printed_page(60, lines))) for lines in range(5, 35, 5)]
    whole = make.pdf(*scans)
    outcomes = set()
    for share in (0.2, 0.5, 0.8, 0.97):
        try:
            facts = opened(whole[: int(len(whole) * share)])
        except CorruptSourceError:
            outcomes.add("file")
            continue
        assert facts.is_repaired
        for number in range(1, facts.total_pages + 1):
            outcome = "lost"
            with contextlib.suppress(PageRenderError):
                assert not child.page_images(number, BUDGET).is_blank
                outcome = "read"
            outcomes.add(outcome)
    assert "read" in outcomes
    assert len(outcomes) > 1


def test_one_bad_page_costs_itself_alone(child: PageChild, opened: Opener) -> None:
    document = pymupdf.open("pdf", make.pdf(make.text_on, make.text_on, make.text_on))
    document.xref_set_key(document[1].xref, "Type", "/Nothing")
    kids = document.xref_get_key(document.pdf_catalog(), "Pages")[1]
    tree = int(kids.split()[0])
    first, _, third = (document[index].xref for index in range(3))
    document.xref_set_key(tree, "Kids", f"[{first} 0 R 9999 0 R {third} 0 R]")
    data = document.tobytes()
    document.close()
    facts = opened(data)
    assert facts.total_pages == 3
    good = []
    for number in (1, 2, 3):
        with contextlib.suppress(PageRenderError):
            page(child, number)
            good.append(number)
    assert 1 in good
    assert 2 not in good


@pytest.mark.parametrize("share", [0.0, 0.6])
def test_of_a_cut_jpeg_inside_what_is_there_is_shown(child: PageChild, opened: Opener, share: float) -> None:
    opened(make.cut_scan_pdf(make.printed_page(80), share, kind="JPEG"))
    if not share:
        with pytest.raises(PageRenderError, match="cut short") as caught:
            child.page_images(1, BUDGET)
        assert caught.value.page_number == 1
        return
    images = child.page_images(1, BUDGET)
    assert re.search("cut short: about [4-7][0-9]% of it is there", images.damage)
    assert decoded(images).getpixel((10, 900)) == 255, "what was lost is white"


@pytest.mark.parametrize(("share", "is_read"), [(0.02, False), (0.3, True), (0.9, True), (0.995, True)])
def test_of_a_cut_lossless_image_what_is_there_is_shown(
    child: PageChild, opened: Opener, share: float, is_read: bool
) -> None:
    opened(make.cut_scan_pdf(make.printed_page(80).convert("L"), share, kind="PNG"))
    for side in (1024, 500, 600):  # lifted out, rendered, and rendered from what MuPDF keeps
        budget = ImageBudget(max_side_px=side)
        if not is_read:
            with pytest.raises(PageRenderError, match="cut short"):
                child.page_images(1, budget)
            continue
        images = child.page_images(1, budget)
        assert not images.is_blank
        assert images.damage == (
            "" if share > 0.98 else f"The page's image is cut short: about {share:.0%} of it is there."
        )
        if images.damage:
            picture = decoded(images).convert("L")
            assert picture.getpixel((10, picture.height - 3)) == 255, "what was lost is white"


def with_nodes(data: bytes, root: int, node: int) -> bytes:
    """The four pages of a PDF below two nodes of its tree, with these counts."""
    document = pymupdf.open("pdf", data)
    tree = int(document.xref_get_key(document.pdf_catalog(), "Pages")[1].split()[0])
    pages = [document[number].xref for number in range(4)]
    nodes = []
    for kids in (pages[:2], pages[2:]):
        nodes.append(document.get_new_xref())
        listed = " ".join(f"{kid} 0 R" for kid in kids)
        document.update_object(nodes[-1], f"<</Type/Pages/Parent {tree} 0 R/Count {node}/Kids[{listed}]>>")
        for kid in kids:
            document.xref_set_key(kid, "Parent", f"{nodes[-1]} 0 R")
    document.xref_set_key(tree, "Kids", f"[{nodes[0]} 0 R {nodes[1]} 0 R]")
    document.xref_set_key(tree, "Count", str(root))
    made: bytes = document.tobytes()
    document.close()
    return made


FOUR = make.pdf(*[functools.partial(make.text_on, lines=number) for number in (1, 2, 3, 4)])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (FOUR, None),
        (FOUR.replace(b"/Count 4", b"/Count 1"), 1),
        (FOUR.replace(b"/Count 4", b"/Count 7"), 7),
        (FOUR.replace(b"/Count 4", b"/Count 0"), 0),
        (FOUR.replace(b"/Count 4", b"/Cuont 4"), 0),
        (with_nodes(FOUR, 4, 2), None),
        (with_nodes(FOUR, 2, 2), 2),
        (with_nodes(FOUR, 9, 1), 9),
    ],
)
def test_a_count_that_lies_hides_no_page_and_is_said(
    child: PageChild, opened: Opener, data: bytes, said: int | None
) -> None:
    facts = opened(data)
    assert facts.total_pages == 4
    lie = f"The file says that it has {said} pages, and it has 4."
    assert facts.metadata == ({} if said is None else {"damage": lie})
    assert [len(child.page_facts(number).text.splitlines()) for number in (1, 2, 3, 4)] == [1, 2, 3, 4]
    with pytest.raises(PageRenderError, match="the file has 4"):
        child.page_facts(5)


def test_a_page_tree_that_goes_in_circles_keeps_its_count(child: PageChild, opened: Opener) -> None:
    document = pymupdf.open("pdf", make.pdf(make.text_on, make.text_on))
    tree = int(document.xref_get_key(document.pdf_catalog(), "Pages")[1].split()[0])
    document.xref_set_key(tree, "Kids", f"[{document[0].xref} 0 R {tree} 0 R]")
    data = document.tobytes()
    document.close()
    assert opened(data).total_pages == 2
    assert child.page_facts(1).text_layer == "good"
    with pytest.raises(PageRenderError):
        child.page_facts(2)


MISSING = {
    "image": (b"q 595 0 0 842 0 0 cm /None Do Q", layers.ONE),
    "all resources": (layers.painted(b"I"), b""),
    "object": (layers.painted(b"I"), b"/XObject<</I 99 0 R>>"),
}


@pytest.mark.parametrize("kind", MISSING)
def test_what_is_missing_from_the_file_is_not_white(child: PageChild, opened: Opener, kind: str) -> None:
    contents, resources = MISSING[kind]
    opened(layers.written_pdf(contents, resources, layers.jpeg(make.printed_page(20))))
    with pytest.raises(PageRenderError, match="missing from the file") as caught:
        child.page_images(1, BUDGET)
    assert caught.value.page_number == 1


def test_a_page_without_one_of_its_images_says_so(child: PageChild, opened: Opener) -> None:
    contents = layers.painted(b"I") + layers.painted(b"None")
    opened(layers.written_pdf(contents, layers.ONE, layers.jpeg(make.printed_page(20))))
    facts, images = page(child)
    assert "missing from the file" in images.damage
    assert facts.metadata["damage"] == images.damage


def test_a_text_whose_end_is_lost_says_so(child: PageChild, opened: Opener) -> None:
    document = pymupdf.open("pdf", make.pdf(make.text_on))
    document[0].clean_contents()
    xref = document[0].get_contents()[0]
    whole = zlib.compress(document.xref_stream(xref))
    document.update_stream(xref, whole[: len(whole) * 2 // 3], compress=False)
    document.xref_set_key(xref, "Filter", "/FlateDecode")
    data = document.tobytes()
    document.close()
    opened(data)
    facts = child.page_facts(1)
    assert "Line 1." in facts.text
    assert facts.metadata == {"damage": "The page's contents end too early."}


def test_no_such_page(child: PageChild, opened: Opener) -> None:
    opened(make.pdf(make.text_on))
    for number in (0, 2):
        with pytest.raises(PageRenderError, match="no such page"):
            child.page_facts(number)


def test_budgets_are_kept(child: PageChild, opened: Opener) -> None:
    opened(make.pdf(make.scan_on(make.jpeg(make.printed_page(100), quality=95)), make.text_on))
    for number in (1, 2):
        for budget in (
            ImageBudget(max_side_px=336),
            ImageBudget(max_side_px=2000, max_pixels=400_000),
            ImageBudget(max_side_px=1200, max_bytes=60_000),
        ):
            view = child.page_images(number, budget).views[0]
            assert max(view.width_px, view.height_px) <= budget.max_side_px
            assert view.width_px * view.height_px <= (budget.max_pixels or 10**9)
            assert len(view.image) <= budget.max_bytes
    text = child.page_images(2, ImageBudget(max_side_px=9000, max_dpi=150)).views[0]
    assert text.height_px == pytest.approx(842 / 72 * 150, abs=1)


def with_pages(kids: bytes, count: bytes) -> bytes:
    """A PDF of a page, and a list of pages that may be anything."""
    return (
        b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Count "
        + count
        + b"/Kids["
        + kids
        + b"]>>endobj\n3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]>>endobj\n"
        b"4 0 obj<</Type/Pages/Parent 2 0 R/Count 1/Kids[2 0 R]>>endobj\ntrailer<</Root 1 0 R>>"
    )


@pytest.mark.parametrize("count", [b"99999999999", b"-9"])
def test_pages_are_found_where_their_number_is_impossible(child: PageChild, opened: Opener, count: bytes) -> None:
    facts = opened(with_pages(b"3 0 R 3 0 R", count))
    assert facts.total_pages == 2
    assert facts.metadata["damage"] == "The file does not say how many pages it has; it has 2."
    assert child.page_facts(2).text_layer == "none"


def test_a_list_of_pages_in_a_circle_is_said_in_words(child: PageChild, opened: Opener) -> None:
    opened(with_pages(b"3 0 R 4 0 R", b"2"))
    assert child.page_facts(1).text_layer == "none"
    with pytest.raises(PageRenderError, match="list of pages leads back to itself") as caught:
        child.page_facts(2)
    assert "code=" not in str(caught.value)
