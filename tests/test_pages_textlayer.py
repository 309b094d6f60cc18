"""A text layer stands for its page only where it makes sense, and where it is all there is."""

from __future__ import annotations

import argparse
import inspect
import typing
import unittest.mock
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pymupdf
import pytest

from kobold_reader.pages import PageFacts, layout, select
from kobold_reader.pages.garbled import judge
from kobold_reader.pages.layout import Layout, read_layout
from kobold_reader.reading import open_file
from kobold_reader.reading.ledger import Ledger
from kobold_reader.reading.line_reader import line_reader
from kobold_reader.reading.open_file import OpenFile
from tests import page_files as make
from tests.garbled_texts import HELD_OUT, RIGHT, Chunk, backwards, garbled_chunks, permuted, right_chunks

LEAST_RIGHT = 0.98


def wrong(chunks: Sequence[Chunk], judgement: str) -> list[str]:
    return [f"{chunk.script}, {chunk.kind}: {chunk.text[:60]}" for chunk in chunks if judge(chunk.text) != judgement]


@pytest.mark.parametrize("path", [RIGHT, HELD_OUT])
def test_right_text_layers_are_good(path: Path) -> None:
    chunks = right_chunks(path)
    assert len(chunks) >= 100
    assert len({chunk.script for chunk in chunks}) >= 8
    missed = wrong(chunks, "text")
    assert len(missed) <= (1 - LEAST_RIGHT) * len(chunks), missed


@pytest.mark.parametrize("script", sorted({chunk.script for chunk in right_chunks()}))
def test_right_text_layers_of_each_script_are_good(script: str) -> None:
    missed = wrong([chunk for chunk in right_chunks() if chunk.script == script], "text")
    assert len(missed) <= 1, missed


@pytest.mark.parametrize(("path", "rounds"), [(RIGHT, 2), (HELD_OUT, 4)])
def test_garbled_text_layers_are_found(path: Path, rounds: int) -> None:
    chunks = garbled_chunks(rounds, path)
    assert len(chunks) >= 200
    missed = [chunk for chunk in chunks if judge(chunk.text) == "text"]
    assert len(missed) <= (1 - LEAST_RIGHT) * len(chunks), missed


@pytest.mark.parametrize(
    "text",
    [
        "MÃ¥ndagens mÃ¶te pÃ¥ rÃ¥dhuset, dÃ¤r frÃ¥gan om skolan â€“ som fÃ¶rr â€“ behandlades.",
        "Îãëàâëåíèå. Ãëàâà ïåðâàÿ. Îáùèå ïîëîæåíèÿ. Ãëàâà âòîðàÿ. Óñòðîéñòâî ïîðòà",
        "The#harbour#dues#are#to#be#paid#in#full#before#the#first#of#October=at#the#office",
        "(cid:12)(cid:45)(cid:7) (cid:33)(cid:12)(cid:3)(cid:45) (cid:9)(cid:10) (cid:12)(cid:61)",
        "/g55/g75/g72 /g75/g68/g85/g69/g82/g88/g85 /g71/g88/g72/g86 /g68/g85/g72",
        "Портовые сборы уплачиваются ежегодно".encode().decode("latin-1"),
        "Wkh kduerxu gxhv duh wr eh sdlg lq ixoo ehiruh wkh iluvw ri Rfwrehu dw wkh riilfh",
        "\uf054\uf068\uf065 \uf068\uf061\uf072\uf062\uf06f\uf075\uf072 \uf064\uf075\uf065\uf073",
        "锟斤拷锟斤拷锟斤拷锟斤拷锟斤拷锟斤拷锟斤拷锟斤拷锟斤拷锟斤拷锟斤拷",
        "סכמ לבקל לכוי אוהו ,רבוטקואב דחאה דע לזמנה ידמ תא םלשל בייח םדא לכ ילב עצובמה תא",
    ],
)
def test_well_known_garbage(text: str) -> None:
    assert judge(text) == "garbled"


def test_a_page_of_which_half_is_garbled_is_not_good() -> None:
    chunks = [chunk.text for chunk in right_chunks() if chunk.script == "latin"][:12]
    half = "\n".join([*chunks[:4], *(permuted(text) for text in chunks[4:])])
    assert judge(half) != "text"


@pytest.mark.parametrize("module", [argparse, inspect, typing, unittest.mock])
def test_source_code_is_good(module: Any) -> None:
    source = inspect.getsource(module)
    pages = [source[start : start + 3000] for start in range(0, min(len(source), 60_000), 3000)]
    assert [page[:60] for page in pages if judge(page) != "text"] == []


@pytest.mark.parametrize("path", [RIGHT, HELD_OUT])
def test_texts_that_are_stored_backwards_are_found(path: Path) -> None:
    """Those of a page's length; some languages read as well both ways in a sentence."""
    for script in ("latin", "cyrillic", "greek", "hebrew", "arabic"):
        texts = [chunk.text for chunk in right_chunks(path) if chunk.script == script]
        pages = ["\n".join(texts[start : start + 3]) for start in range(0, len(texts), 3)]
        assert [page for page in pages if judge(page) != "text"] == []
        missed = [page for page in map(backwards, pages) if judge(page) != "garbled"]
        assert len(missed) * 20 <= len(pages), missed


@pytest.mark.parametrize("leader", [".", ". ", "_", "·"])
def test_leaders_are_no_evidence(leader: str) -> None:
    """In a table of contents there may be more of them than letters."""
    chapters = ("The harbour master's report", "On the dues of foreign ships", "Schooners lost in the winter")
    assert judge("\n".join(f"{chapter} {leader * 40} {number}" for number, chapter in enumerate(chapters))) == "text"


ARABIC = "لا إله إلا الله. الأولاد في المدرسة يقرؤون الكتب الأولى والأخيرة، ولا يستطيع الإنسان أن يعيش بلا أمل."
HINDI = "प्रिय महोदय, आपके प्रथम अप्रैल के प्रश्न के लिए धन्यवाद। कृपया रसीद संख्या नीचे दिए गए पते पर यथाशीघ्र भेजने का कष्ट करें।"
OFFICE = (
    "The officer of the office defined a specific benefit, which is sufficient for the offended staff and its efforts"
)


@pytest.mark.parametrize(
    ("text", "letters", "hole"),
    [
        (ARABIC, "لا", "\ufffd"),
        (ARABIC, "لا", "ƾ\x06"),
        (ARABIC, "ل", "Ǆ"),
        (ARABIC, "ل", "q"),
        (HINDI, "ि", "ɚ"),
        (HINDI, "प्र", "Ś"),
        (OFFICE, "ff", "\x0b"),
        (OFFICE, "ff", "\ufffd"),
        (OFFICE, "fi", "\uf001"),
    ],
)
def test_holes_in_words_are_found(text: str, letters: str, hole: str) -> None:
    """Glyphs to which the font gives no letters: MuPDF writes Arabic and Hindi so, and TeX its ligatures."""
    chunks = [chunk.text for chunk in right_chunks() if chunk.script == "latin"][:2]
    assert judge("\n".join([text, *chunks])) == "text"
    assert judge("\n".join([text.replace(letters, hole), *chunks])) == "garbled"


@pytest.mark.parametrize(
    "beside",
    [
        "קובץ בPDF או בHTML, ולא בWord: המילים הלועזיות עומדות בתוך העברית כמו שכותבים אותן בדואר",
        "ملف PDF، أو الWord، أو الHTML: كلمات Façade وCafé وNaïve بين كلمات عربية كما يكتبها الناس في الرسائل",
        "Δx = αt + βy², where µm and Ωm are units; Σxᵢ is the sum over all xᵢ, and ∂f/∂x its derivative by x",
        "That doesn\ufffdt matter much, as long as this is the only word of the whole sentence in which it stands",
        "\uf0b7\tthe first item of a list\n\uf0b7\tthe second item of it\n\uf0b7\tthe third\n\uf0b7the last of all",
    ],
)
def test_words_beside_words_of_another_script_are_no_holes(beside: str) -> None:
    chunks = [chunk.text for chunk in right_chunks() if chunk.script == "latin"][:2]
    assert judge("\n".join([beside, *chunks])) == "text"


def test_a_few_letters_are_no_evidence() -> None:
    for few in ("XVII", "Nr. 12 / BV–DK", "", "Qty", "Å", "№ 7", "第三"):
        assert judge(few) == "text"


def layout_of(draw: Callable[[Any], Any]) -> Layout:
    document = pymupdf.open("pdf", make.pdf(draw))
    layout = read_layout(document, document[0])
    document.close()
    return layout


def outlined(page: Any) -> None:
    """A letter of outlines in one single path, as design programs export it."""
    shape = page.new_shape()
    for step in range(300):
        x, y = 60 + step % 30 * 16, 80 + step // 30 * 30
        shape.draw_bezier((x, y), (x + 4, y - 9), (x + 9, y + 9), (x + 12, y))
        shape.draw_bezier((x, y + 4), (x + 4, y - 5), (x + 9, y + 12), (x + 12, y + 4))
    shape.finish(width=1, closePath=False)
    shape.commit()


def framed(page: Any) -> None:
    page.draw_rect(pymupdf.Rect(40, 40, 550, 800))


def number_on(page: Any) -> None:
    page.insert_text((290, 810), "7")


def test_one_letter_is_the_text_of_a_page_that_holds_nothing_else() -> None:
    assert layout_of(number_on).text_layer == "good"


@pytest.mark.parametrize("rest", [outlined, framed, make.scan_on(make.jpeg(make.printed_page(50)))])
def test_one_letter_is_not_the_text_of_any_other_page(rest: Callable[[Any], Any]) -> None:
    assert layout_of(make.both(rest, number_on)).text_layer == "poor"


def test_a_footer_under_outlined_letters_is_not_the_page() -> None:
    def footer(page: Any) -> None:
        page.insert_text((60, 810), "Printed by the harbour office in Skarvholm")

    assert layout_of(make.both(outlined, footer)).text_layer == "poor"
    assert layout_of(make.both(framed, footer)).text_layer == "good"


def test_garbage_is_poor_however_much_there_is() -> None:
    def garbage(page: Any) -> None:
        for line in range(30):
            shifted = "".join(chr(ord(one) - 29) if one > "=" else one for one in make.WORDS)
            page.insert_text((60, 80 + line * 20), shifted, fontsize=10)

    assert layout_of(garbage).text_layer == "poor"
    assert layout_of(make.text_on).text_layer == "good"


def test_text_outside_the_crop_box_is_not_on_the_page() -> None:
    def draw(page: Any) -> None:
        page.insert_text((60, 80), "Seen on the page by everybody who reads it")
        page.insert_text((60, 800), "Printer's marks")
        page.set_cropbox(pymupdf.Rect(0, 0, 595, 700))

    layout = layout_of(draw)
    assert "Seen" in layout.text
    assert "marks" not in layout.text
    assert layout.size_pt == (595, 700)


ABBREVIATIONS = [
    "MKTG QTR RPT REV EBITDA YTD PCT CHG",
    "XLRT KPDF WGBH NDTV FMCG BRL PLN CZK",
    "HRK DKK MXN ZAR THB KRW JPY CNY",
    "NTFS GPT MBR DHCP HTTP SMTP SSH TLS",
    *["The market report of the last quarter year"] * 4,
]


def facts_of(tmp_path: Path, colour: tuple[float, float, float] = (0, 0, 0)) -> PageFacts:
    """Of a page of abbreviations, whose letters are as rare as those of garbage."""

    def draw(page: Any) -> None:
        for number, line in enumerate(ABBREVIATIONS):
            page.insert_text((60, 80 + number * 30), line, fontsize=14, color=colour)

    path = tmp_path / "abbreviations.pdf"
    path.write_bytes(make.pdf(draw))
    [source] = select(path).files
    with Ledger(tmp_path / "ledger.sqlite") as ledger, OpenFile(ledger) as opened:
        return opened.page_facts(source, opened.facts(source), 1)


def test_a_doubtful_text_layer_is_not_used_without_rapidocr(tmp_path: Path) -> None:
    assert judge("\n".join(ABBREVIATIONS)) == "doubtful"
    facts = facts_of(tmp_path)
    assert facts.text_layer == "poor"
    assert facts.doubtful_lines == ()


@pytest.mark.slow
@pytest.mark.parametrize(("colour", "text_layer"), [((0, 0, 0), "good"), ((1, 1, 1), "poor")])
def test_a_doubtful_text_layer_is_compared_with_what_the_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, colour: tuple[float, float, float], text_layer: str
) -> None:
    """White letters on white stand for letters that are not those that are seen."""
    monkeypatch.setattr(open_file, "line_reader", line_reader)
    assert facts_of(tmp_path, colour).text_layer == text_layer


# ── what paints nothing but text is looked at in one pass, with the same result ──────────────────

SAID = "The harbour master paid the crew on Monday and the slates went to the north quay. " * 12


def _pages_of_text() -> pymupdf.Document:
    document = pymupdf.open()

    def page(text: str = SAID, **how: Any) -> Any:
        made = document.new_page()
        made.insert_textbox((50, 50, 545, 700), text, fontsize=9, **how)
        return made

    page()
    page(rotate=90)
    page(render_mode=3)
    page(fill_opacity=0, stroke_opacity=0)
    page(fill_opacity=0.4)
    page("Short.")
    page("\ue000" + "\ue001 " * 300)
    page("".join(chr(ord(letter) + 3) if letter.isalpha() else letter for letter in SAID))
    page().insert_text((50, 600), SAID, render_mode=3)  # hidden text over visible text
    for letters, strokes in ((SAID, 60), (SAID, 900), (SAID, 4000), ("A few words of a caption.", 30), ("None.", 900)):
        shape = page(letters).new_shape()
        for stroke in range(strokes):
            x, y = 50 + stroke % 60 * 8, 300 + stroke // 60 * 6
            shape.draw_bezier((x, y), (x + 2, y + 4), (x + 4, y + 4), (x + 6, y))
            shape.finish()
        shape.commit()
    page().draw_rect((40, 40, 560, 400), fill=(1, 1, 1))
    page().insert_image((50, 500, 150, 600), stream=make.jpeg(make.corners()))
    page().insert_image((0, 0, 595, 842), stream=make.jpeg(make.corners()))
    page().add_freetext_annot((50, 720, 500, 760), "A remark in a box.")
    page().set_rotation(270)
    page().set_cropbox(pymupdf.Rect(100, 60, 400, 500))
    framed = document.new_page()
    framed.show_pdf_page(framed.rect, pymupdf.open(stream=document.tobytes()), 3)  # transparent text in a form
    return pymupdf.open(stream=document.tobytes())


def test_one_pass_over_a_page_of_text_finds_what_a_close_look_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    document = _pages_of_text()
    found = [read_layout(document, page) for page in document]
    monkeypatch.setattr(layout, "_clear_text", lambda *_: "")
    assert [repr(each) for each in found] == [repr(read_layout(document, page)) for page in document]
    assert {each.text_layer for each in found} == {"good", "poor"}


def test_a_page_of_text_is_not_looked_at_thing_by_thing(monkeypatch: pytest.MonkeyPatch) -> None:
    document = _pages_of_text()
    for slow in ("get_bboxlog", "get_texttrace", "get_image_info", "get_pixmap"):
        monkeypatch.setattr(pymupdf.Page, slow, unittest.mock.Mock(side_effect=AssertionError(slow)))
    assert [read_layout(document, document[number]).text_layer for number in (0, 4, 8, 9, 14)] == ["good"] * 5
