"""White that is not blank: a page of which MuPDF makes nothing is drawn by PDFium, or fails with a true remedy."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pymupdf
import pytest
from PIL import Image, ImageChops, ImageStat

from kobold_reader.errors import PageRenderError
from kobold_reader.pages import ImageBudget
from kobold_reader.pages.worker import PageFile, open_file
from tests import jbig2_files as jbig2
from tests import layered_pages as layers
from tests import page_files as make
from tests.garbled_texts import permuted

BUDGET = ImageBudget(max_side_px=600)
PAPER = make.write(make.sheet(12), "Mooring", dpi=12, at=(0.1, 0.3), points=100).convert("1", dither=Image.Dither.NONE)
WHITE = make.sheet(12).convert("1")
REFINED = jbig2.refined(PAPER)
Opener = Callable[[bytes], PageFile]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opener]:
    """Opens bytes as a PDF, in this process: PDFium can be taken away here."""
    files: list[PageFile] = []

    def open_bytes(data: bytes) -> PageFile:
        path = tmp_path / f"{len(files)}.pdf"
        path.write_bytes(data)
        files.append(open_file(path, "pdf"))
        return files[-1]

    yield open_bytes
    for file in files:
        file.close()


@pytest.fixture
def without_pdfium(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pypdfium2", None)


def image_of(file: PageFile) -> Image.Image:
    with Image.open(io.BytesIO(file.page_images(1, BUDGET, 0).views[0].image)) as picture:
        return picture.convert("L")


def test_jbig2_that_mupdf_does_not_draw_is_drawn_by_pdfium(opened: Opener) -> None:
    file = opened(make.jbig2_pdf(PAPER, REFINED))
    images = file.page_images(1, BUDGET, 0)
    assert not images.is_blank
    expected = image_of(opened(make.jbig2_pdf(PAPER, jbig2.generic(PAPER))))
    assert expected.size == image_of(file).size
    assert ImageStat.Stat(ImageChops.difference(expected, image_of(file))).mean[0] < 3


@pytest.mark.usefixtures("without_pdfium")
def test_jbig2_that_nobody_draws_fails_with_the_remedy(opened: Opener) -> None:
    file = opened(make.jbig2_pdf(PAPER, REFINED))
    with pytest.raises(PageRenderError, match="kind of JBIG2 that MuPDF does not draw") as caught:
        file.page_images(1, BUDGET, 0)
    assert "[pdfium]" in str(caught.value)


def test_jbig2_that_is_cut_short_is_still_called_so(opened: Opener) -> None:
    with pytest.raises(PageRenderError, match="cut short"):
        opened(make.jbig2_pdf(PAPER, REFINED[: len(REFINED) * 2 // 3])).page_images(1, BUDGET, 0)


def test_white_jbig2_is_blank_where_both_renderers_say_so(opened: Opener) -> None:
    for data in (jbig2.white_refined(PAPER), jbig2.generic(WHITE)):
        assert opened(make.jbig2_pdf(PAPER, data)).page_images(1, BUDGET, 0).is_blank


@pytest.mark.usefixtures("without_pdfium")
def test_white_jbig2_is_not_believed_without_the_second_renderer(opened: Opener) -> None:
    assert opened(make.jbig2_pdf(PAPER, jbig2.generic(WHITE))).page_images(1, BUDGET, 0).is_blank
    with pytest.raises(PageRenderError, match="JBIG2"):
        opened(make.jbig2_pdf(PAPER, jbig2.white_refined(PAPER))).page_images(1, BUDGET, 0)


def test_a_locked_file_is_opened_by_both(tmp_path: Path) -> None:
    document = pymupdf.open("pdf", make.jbig2_pdf(PAPER, REFINED))
    path = tmp_path / "locked.pdf"
    document.save(path, encryption=pymupdf.PDF_ENCRYPT_AES_256, user_pw="sésame", owner_pw="x")
    file = open_file(path, "pdf", passwords=["wrong", "sésame"])
    assert not file.page_images(1, BUDGET, 0).is_blank
    file.close()


# A font whose letters are drawn as nothing: as of glyphs that refer to themselves, which MuPDF leaves out.
_LETTERS = b"".join(b"/g%d 6 0 R " % code for code in range(32, 127))
_FONT = (
    b"/Font<</F<</Type/Font/Subtype/Type3/FontBBox[0 0 750 750]/FontMatrix[.001 0 0 .001 0 0]/FirstChar 32/LastChar 126"
    b"/Widths[" + b"600 " * 95 + b"]/Encoding<</Differences[32 " + b"".join(b"/g%d" % code for code in range(32, 127))
    + b"]>>/CharProcs<<" + _LETTERS + b">>/ToUnicode 5 0 R>>>>"
)  # fmt: skip
_UNICODE = (
    b"/CIDInit /ProcSet findresource begin begincmap 1 begincodespacerange <20> <7e> endcodespacerange "
    b"1 beginbfrange <20> <7e> <0020> endbfrange endcmap end"
)


def unseen(text: bytes, more: bytes = b"") -> bytes:
    return layers.written_pdf(
        b"BT /F 12 Tf 60 700 Td (" + text + b") Tj ET " + more, _FONT, (b"", _UNICODE), (b"", b"600 0 d0 ")
    )


DOT = b" 300 400 1 1 re f"


@pytest.mark.parametrize("more", [b"", DOT], ids=["nothing", "a dot"])
def test_a_page_that_shows_nothing_of_its_words_is_not_blank(opened: Opener, more: bytes) -> None:
    file = opened(unseen(b"Minutes of the harbour committee", more))
    assert "Minutes of the harbour committee" in file.page_facts(1).text
    with pytest.raises(
        PageRenderError, match="shows nothing, but its text layer says “Minutes of the harbour"
    ) as caught:
        file.page_images(1, BUDGET, 0)
    assert "--text-layer only" in str(caught.value)


def test_a_small_number_is_no_blank_page(opened: Opener) -> None:
    def draw(page: pymupdf.Page) -> None:
        page.insert_text((300, 820), "12", fontsize=3)

    assert not opened(make.pdf(draw)).page_images(1, BUDGET, 0).is_blank


def test_hidden_words_over_a_white_scan_are_not_blank(opened: Opener) -> None:
    white = make.scan_on(make.encoded(make.sheet(50), "PNG"))
    with pytest.raises(PageRenderError, match="its text layer says “The quick brown fox"):
        opened(make.pdf(make.both(white, make.hidden_text_on))).page_images(1, BUDGET, 0)


def framed_on(page: pymupdf.Page) -> None:
    page.draw_rect(pymupdf.Rect(40, 40, 550, 800))


def test_a_page_of_hidden_words_alone_is_read_from_them_with_a_note(opened: Opener) -> None:
    facts = opened(make.pdf(make.hidden_text_on)).page_facts(1)
    assert facts.text_layer == "good"
    assert facts.text.startswith("The quick brown fox")
    assert facts.metadata["damage"] == "The page shows nothing: its text is that of a hidden layer."

    def permuted_on(page: pymupdf.Page) -> None:
        page.insert_text((60, 80), permuted(make.WORDS * 3), render_mode=3)

    assert opened(make.pdf(permuted_on)).page_facts(1).text_layer == "poor"
    assert opened(make.pdf(make.both(make.hidden_text_on, framed_on))).page_facts(1).text_layer == "poor"


def test_what_dust_is_taken_for_is_no_text(opened: Opener) -> None:
    def dust(page: pymupdf.Page) -> None:
        page.insert_text((60, 80), ". , i l - .", render_mode=3)

    white = make.scan_on(make.encoded(make.sheet(50), "PNG"))
    assert opened(make.pdf(make.both(white, dust))).page_images(1, BUDGET, 0).is_blank


@pytest.mark.parametrize("is_lost", [True, False])
def test_only_what_was_lost_is_called_so(opened: Opener, is_lost: bool) -> None:
    """A repaired file with a white scan that is whole, and with a page of which nothing is left."""
    page = make.blank_on if is_lost else make.scan_on(make.encoded(make.sheet(50), "PNG"))
    data = make.pdf(page)
    file = opened(data[: data.rindex(b"startxref")].replace(b"xref", b"xxxx"))
    assert file.facts.is_repaired
    if is_lost:
        with pytest.raises(PageRenderError, match="may be lost"):
            file.page_images(1, BUDGET, 0)
    else:
        assert file.page_images(1, BUDGET, 0).is_blank
