"""A text layer stands for its page only where it makes sense, and where it is all there is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pymupdf
import pytest

from kobold_reader.pages.layout import Layout, is_garbled, read_layout
from tests import page_files as make

TEXTS = {
    "English": make.WORDS * 2,
    "German": "Das Hafengeld ist von allen Booten im Oktober bei dem Hafenmeister in der Stadt zu bezahlen.",
    "Polish": "W Szczebrzeszynie chrząszcz brzmi w trzcinie, a jego dźwięk słychać z drugiego brzegu rzeki w mieście.",
    "Czech": "Strč prst skrz krk je věta bez samohlásek, ale v českém textu je jich dost na každém řádku.",
    "Finnish": "Satamamaksut maksetaan vuosittain lokakuun ensimmäisenä päivänä satamakapteenin toimistossa.",
    "Welsh": "Rhaid talu tollau'r harbwr i gyd erbyn y dydd cyntaf o fis Hydref yn swyddfa meistr yr harbwr yn y dref.",
    "Russian": "Портовые сборы уплачиваются ежегодно первого октября в конторе капитана порта, ежедневно до полудня.",
    "Greek": "Τα λιμενικά τέλη καταβάλλονται κάθε χρόνο την πρώτη Οκτωβρίου στο γραφείο του λιμενάρχη της πόλης.",
    "Chinese": "港口费每年十月一日在港务局办公室缴纳。" * 6,
    "Arabic": "تدفع رسوم الميناء سنويا في أول أكتوبر في مكتب مدير الميناء في المدينة قبل الظهر.",
    "Hindi": "बंदरगाह शुल्क प्रति वर्ष पहली अक्टूबर को बंदरगाह अधिकारी के कार्यालय में देय है।",
    "a table": "12.50 13.75 14.00 1,204.00 -3.50 88.10 (12.00) 4.25% " * 4,
    "contents": "\n".join(f"{n}. Harbour dues {'.' * 60} {n * 7}" for n in range(1, 9)),
    "spaced contents": "\n".join(f"{n}. Harbour dues {'. ' * 40} {n * 7}" for n in range(1, 9)),
    "a till receipt": "TOTAL RM 12.50 CASH 20.00 CHANGE 7.50 GST 6% 0.71 QTY 2 PCS NO 30412 TAX CODE SR TEL 03-5512",
}


@pytest.mark.parametrize("name", TEXTS)
def test_text_that_means_something(name: str) -> None:
    assert not is_garbled(TEXTS[name])


@pytest.mark.parametrize("name", ["English", "Polish", "Finnish"])
@pytest.mark.parametrize("shift", [-31, -29, -28, -1, 3, 5, 29, 31])
def test_text_of_a_font_with_the_wrong_table(name: str, shift: int) -> None:
    """A constant added to every code, as where glyph numbers are taken for characters."""
    shifted = "".join(chr(max(33, ord(one) + shift)) if "!" <= one <= "~" else one for one in TEXTS[name] * 2)
    assert is_garbled(shifted)


def test_a_few_letters_are_no_evidence() -> None:
    assert not is_garbled("XVII")
    assert not is_garbled("Nr. 12 / BV–DK")
    assert not is_garbled("")


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
