"""The order of lines on pages of every shape, from their boxes alone."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest

from kobold_reader.pages import Box, reading_order
from tests.order_pages import RECORDED

HEIGHT = 20.0
LETTER = 10.0
STEP = 28.0
WIDTH = 1200.0
SEED = 1


class Page:
    """Boxes in the order in which they are to be read; each belongs to a paragraph."""

    def __init__(self) -> None:
        self.boxes: list[Box] = []
        self.rows: list[int] = []
        self.chance = random.Random(SEED)

    def line(self, x: float, y: float, letters: float, *, height: float = HEIGHT, same_row: bool = False) -> None:
        self.boxes.append((x, y, x + letters * LETTER, y + height))
        self.rows.append(self.rows[-1] if same_row else len(self.boxes))

    def text(self, x: float, y: float, letters: int, lines: int, *, step: float = STEP) -> float:
        """Paragraphs of ragged lines; returns where the next line would be."""
        for number in range(lines):
            is_last = number % 7 == 6 or number == lines - 1
            share = self.chance.uniform(0.2, 0.9) if is_last else self.chance.uniform(0.86, 1)
            self.line(x, y + number * step, letters * share)
        return y + lines * step

    def table(self, columns: Sequence[tuple[float, float]], y: float, rows: int, *, step: float = STEP) -> float:
        """Cells at x with so many letters at most, row by row."""
        for number in range(rows):
            for position, (x, letters) in enumerate(columns):
                letters_here = max(2.0, letters * self.chance.uniform(0.4, 1))
                self.line(x, y + number * step, letters_here, same_row=position > 0)
        return y + rows * step

    def uneven(self) -> list[Box]:
        """As OCR finds them: no edge where it should be."""
        return [
            (left + by[0], top + by[1], right + by[2], bottom + by[3])
            for left, top, right, bottom in self.boxes
            for by in [[self.chance.uniform(-2, 2) for _ in range(4)]]
        ]

    def mirrored(self) -> list[Box]:
        return [(WIDTH - right, top, WIDTH - left, bottom) for left, top, right, bottom in self.boxes]

    def turned(self, deg: float) -> list[Box]:
        """A scan that lies askew."""
        tan = math.tan(math.radians(deg))
        moved = []
        for left, top, right, bottom in self.boxes:
            down, slope = (left + right) / 2 * tan, abs(right - left) * abs(tan) / 2
            moved.append((left, top + down - slope, right, bottom + down + slope))
        return moved


def order(boxes: Sequence[Box], *, right_to_left: bool = False) -> list[int]:
    """The order found; the boxes are given as an OCR engine gives them, by their tops."""
    given = sorted(range(len(boxes)), key=lambda index: (boxes[index][1], boxes[index][0]))
    found = reading_order([boxes[index] for index in given], WIDTH, right_to_left=right_to_left)
    return [given[index] for line in found for index in line]


def two_columns() -> Page:
    page = Page()
    page.text(80, 100, 48, 40)
    page.text(640, 100, 48, 40)
    return page


def two_columns_out_of_step() -> Page:
    page = Page()
    page.text(80, 100, 48, 40)
    page.text(640, 111, 48, 38, step=29.5)
    return page


def narrow_gutter() -> Page:
    page = Page()
    page.text(80, 100, 50, 40)
    page.text(602, 100, 50, 40)
    return page


def gutter_as_narrow_as_a_space() -> Page:
    page = Page()
    for x in (80, 475, 870):
        page.text(x, 100, 38, 40)
    return page


def three_columns() -> Page:
    page = Page()
    for x in (60, 430, 800):
        page.text(x, 100, 33, 40)
    return page


def four_columns_of_a_newspaper() -> Page:
    page = Page()
    page.line(200, 30, 60, height=50)
    for x, lines in ((40, 50), (330, 44), (620, 50), (910, 31)):
        page.text(x, 120, 26, lines)
    return page


def headings_over_columns() -> Page:
    page = Page()
    y = 60.0
    for _ in range(2):
        page.line(250, y, 60, height=30)
        page.text(80, y + 60, 48, 12)
        page.text(640, y + 60, 48, 12)
        y += 60 + 12 * STEP + 30
    return page


def abstract_then_columns() -> Page:
    page = Page()
    page.line(300, 40, 50, height=36)
    page.line(420, 100, 30)
    end = page.text(180, 160, 84, 8)
    page.text(80, end + 40, 48, 26)
    page.text(640, end + 40, 48, 26)
    return page


def columns_of_unequal_length() -> Page:
    page = Page()
    page.text(80, 100, 48, 40)
    page.text(640, 100, 48, 12)
    page.line(590, 1400, 2)
    return page


def table_under_columns() -> Page:
    page = Page()
    page.text(80, 100, 48, 20)
    page.text(640, 100, 48, 20)
    page.line(400, 720, 40)
    page.table([(80, 20), (400, 10), (640, 10), (900, 10)], 780, 10)
    return page


def table_between_columns() -> Page:
    page = Page()
    page.text(80, 100, 48, 12)
    page.text(640, 100, 48, 12)
    end = page.table([(80, 25), (420, 8), (640, 8), (760, 8), (1000, 8)], 100 + 12 * STEP + 30, 6)
    page.text(80, end + 30, 48, 12)
    page.text(640, end + 30, 48, 12)
    return page


def table_in_a_column() -> Page:
    page = Page()
    end = page.text(80, 100, 48, 10)
    end = page.table([(80, 16), (300, 6), (450, 6)], end + 20, 6)
    page.text(80, end + 20, 48, 10)
    page.text(640, 100, 48, 28)
    return page


def table_alone() -> Page:
    page = Page()
    page.table([(80, 30), (480, 12), (700, 12), (950, 10)], 100, 25)
    return page


def table_of_wide_cells() -> Page:
    page = Page()
    page.table([(80, 36), (640, 36)], 100, 20, step=40)
    return page


def table_with_empty_cells() -> Page:
    page = Page()
    for number in range(20):
        page.line(80, 100 + number * STEP, 30 * page.chance.uniform(0.5, 1))
        page.line((700, 950)[number % 2], 100 + number * STEP, 8, same_row=True)
    return page


def receipt() -> Page:
    page = Page()
    page.line(420, 40, 30, height=30)
    page.line(470, 90, 20)
    for number in range(18):
        page.line(300, 150 + number * STEP, page.chance.uniform(12, 36))
        page.line(820, 150 + number * STEP, 6, same_row=True)
    page.line(300, 700, 10, height=30)
    page.line(800, 700, 8, height=30, same_row=True)
    page.line(400, 760, 40)
    return page


def form() -> Page:
    page = Page()
    for number in range(14):
        page.line(80, 100 + number * 44, page.chance.uniform(5, 22))
        page.line(420, 100 + number * 44, page.chance.uniform(6, 45), same_row=True)
    return page


def contents() -> Page:
    page = Page()
    for number in range(20):
        page.line(100, 100 + number * STEP, page.chance.uniform(15, 70))
        page.line(1050, 100 + number * STEP, 2, same_row=True)
    return page


def index_in_three_columns() -> Page:
    page = Page()
    for column, x in enumerate((80, 460, 840)):
        y = 100.0 + 12 * column
        for number in range(40):
            page.line(x, y, page.chance.uniform(9, 24))
            y += STEP * (1.7 if (number + column * 3) % 9 == 8 else 1)
    return page


def sidebar() -> Page:
    page = Page()
    page.text(80, 100, 68, 40)
    page.text(840, 240, 24, 14, step=26)
    return page


def notes_in_the_margin() -> Page:
    page = Page()
    for y in (180, 420, 860):
        page.text(60, y, 14, 4)
    page.text(280, 100, 80, 40)
    return page


def footnotes_across() -> Page:
    page = Page()
    page.text(80, 100, 48, 36)
    page.text(640, 100, 48, 36)
    page.text(80, 1150, 100, 4, step=24)
    return page


def numbered_paragraphs() -> Page:
    page = Page()
    y = 100.0
    for _ in range(6):
        page.line(80, y, 2)
        page.line(140, y, 88, same_row=True)
        y = page.text(140, y + STEP, 90, 4) + 10
    return page


def captions_under_pictures() -> Page:
    page = Page()
    page.text(80, 100, 48, 12)
    page.line(80, 780, 40)
    page.text(80, 830, 48, 14)
    page.text(640, 100, 48, 20)
    page.line(640, 1000, 44)
    page.text(640, 1050, 48, 6)
    return page


def letter() -> Page:
    page = Page()
    page.line(80, 60, 30, height=30)
    for number in range(4):
        page.line(80, 140 + number * STEP, 24)
    page.line(860, 300, 22)
    page.text(80, 380, 100, 24)
    page.line(80, 1100, 16)
    return page


def drop_cap() -> Page:
    page = Page()
    page.boxes.append((80, 100, 150, 100 + 3 * STEP - 8))
    page.rows.append(1)
    page.line(160, 100, 40, same_row=True)
    page.line(160, 100 + STEP, 40)
    page.line(160, 100 + 2 * STEP, 40)
    page.text(80, 100 + 3 * STEP, 48, 20)
    page.text(640, 100, 48, 23)
    return page


def single_column() -> Page:
    page = Page()
    page.text(80, 100, 100, 45)
    return page


def lines_in_pieces() -> Page:
    """Justified text whose words OCR found one by one."""
    page = Page()
    for x in (80, 640):
        for number in range(25):
            at, is_first = float(x), True
            for letters in page.chance.sample((9, 11, 6, 10, 5), 5):
                page.line(at, 100 + number * STEP, letters, same_row=not is_first)
                at, is_first = at + letters * LETTER + 12, False
    return page


def heading_at_the_left() -> Page:
    """Above columns, but no wider than one."""
    page = Page()
    page.text(80, 100, 48, 12)
    page.text(640, 100, 48, 12)
    page.line(80, 100 + 13 * STEP, 18, height=26)
    page.text(80, 100 + 15 * STEP, 48, 12)
    page.text(640, 100 + 15 * STEP, 48, 12)
    return page


def a_line_of_both_columns_taken_for_one() -> Page:
    page = Page()
    page.text(80, 100, 48, 11)
    page.line(80, 100 + 11 * STEP, 104)
    page.text(80, 100 + 12 * STEP, 48, 14)
    page.text(640, 100, 48, 11)
    page.text(640, 100 + 12 * STEP, 48, 14)
    return page


def columns_of_two_widths() -> Page:
    """Two columns above, three below."""
    page = Page()
    page.text(80, 100, 48, 14)
    page.text(640, 100, 48, 14)
    page.line(300, 530, 50, height=30)
    for x in (60, 430, 800):
        page.text(x, 600, 33, 20)
    return page


PAGES = {
    page.__name__: page
    for page in (
        two_columns,
        two_columns_out_of_step,
        narrow_gutter,
        gutter_as_narrow_as_a_space,
        three_columns,
        four_columns_of_a_newspaper,
        headings_over_columns,
        abstract_then_columns,
        columns_of_unequal_length,
        table_under_columns,
        table_between_columns,
        table_in_a_column,
        table_alone,
        table_of_wide_cells,
        table_with_empty_cells,
        receipt,
        form,
        contents,
        index_in_three_columns,
        sidebar,
        notes_in_the_margin,
        footnotes_across,
        numbered_paragraphs,
        captions_under_pictures,
        letter,
        drop_cap,
        single_column,
        lines_in_pieces,
        columns_of_two_widths,
        a_line_of_both_columns_taken_for_one,
        heading_at_the_left,
    )
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_read_as_a_person_reads_it(name: str) -> None:
    page = PAGES[name]()
    assert order(page.boxes) == list(range(len(page.boxes)))


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("deg", [-0.4, 0.4])
def test_so_is_a_scan_that_lies_slightly_askew(name: str, deg: float) -> None:
    page = PAGES[name]()
    assert order(page.turned(deg)) == list(range(len(page.boxes)))


@pytest.mark.parametrize("name", PAGES)
def test_so_is_a_page_whose_boxes_are_inexact(name: str) -> None:
    page = PAGES[name]()
    assert order(page.uneven()) == list(range(len(page.boxes)))


@pytest.mark.parametrize("name", PAGES)
def test_arabic_and_hebrew_are_read_from_the_right(name: str) -> None:
    page = PAGES[name]()
    assert order(page.mirrored(), right_to_left=True) == list(range(len(page.boxes)))


@pytest.mark.parametrize("name", ["receipt", "table_alone", "form", "contents", "lines_in_pieces"])
def test_the_pieces_of_a_row_stay_on_one_line(name: str) -> None:
    page = PAGES[name]()
    lines = reading_order(page.boxes, WIDTH)
    assert [len({page.rows[index] for index in line}) for line in lines] == [1] * len(lines)
    assert len(lines) == len(set(page.rows))


def test_vertical_lines_are_left_as_they_are() -> None:
    boxes = [(1000.0 - 40 * number, 100.0, 1020.0 - 40 * number, 900.0) for number in range(12)]
    found = [index for line in reading_order(boxes, WIDTH) for index in line]
    assert sorted(found) == list(range(12))


def test_no_box_is_lost_or_doubled_whatever_the_page() -> None:
    chance = random.Random(4)
    for count in (0, 1, 2, 7, 60):
        boxes: list[Box] = []
        for _ in range(count):
            x, y = chance.uniform(0, 1000), chance.uniform(0, 1500)
            boxes.append((x, y, x + chance.uniform(5, 600), y + chance.uniform(5, 60)))
        found = [index for line in reading_order(boxes, WIDTH) for index in line]
        assert sorted(found) == list(range(count))


# ── pages that RapidOCR found the lines of ───────────────────────────────────────────────────────────


def outcomes(page: dict[str, Any]) -> dict[str, bool]:
    """Two kinds of tests: a block ends before the next one begins, and no other block stands inside it.

    A mark that RapidOCR did not find, or found with its neighbours in one box of two columns, tests nothing.
    """
    boxes: list[Box] = [(left, top, right, bottom) for left, top, right, bottom, _ in page["lines"]]
    words = [
        word
        for line in reading_order(boxes, page["width"])
        for index in line
        for word in page["lines"][index][4].split()
    ]
    places = [[words.index(mark) for mark in block if mark in words] for block in page["blocks"]]
    results: dict[str, bool] = {}
    for chain in page["chains"]:
        for block, following in pairwise(chain):
            if places[block] and places[following]:
                results[f"{page['name']}: {block} before {following}"] = places[block][-1] < places[following][0]
    for block, own in enumerate(places):
        others = [place for other, some in enumerate(places) if other != block for place in some]
        if len(own) > 1:
            results[f"{page['name']}: {block} in one piece"] = not any(own[0] < other < own[-1] for other in others)
    return results


@pytest.mark.parametrize("half", ["seen", "held out", "drawn anew"])
def test_pages_of_many_shapes_are_read_in_order(half: str) -> None:
    """The rule was not looked at with those that are drawn anew."""
    pages = [page for page in json.loads(RECORDED.read_text("utf-8")) if page["half"] == half]
    results = {name: is_right for page in pages for name, is_right in outcomes(page).items()}
    assert len(pages) >= 12
    assert len(results) >= 60
    missed = [name for name, is_right in results.items() if not is_right]
    assert len(missed) <= 0.1 * len(results), missed
