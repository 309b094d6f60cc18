"""Pages of the kinds on which reading order is tested: columns under headings, sidebars, tables, captions, newspapers.

`python -m tests.order_pages` draws them, has RapidOCR find their lines, and writes these with the words that mark them
into `order_pages.json`. Each block begins, goes on and ends with a word that occurs nowhere else.
"""

from __future__ import annotations

import functools
import io
import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pymupdf
from PIL import Image

from tests import page_files as make
from tests.conftest import GROUND_TRUTH

RECORDED = Path(__file__).with_suffix(".json")
DPI = 150
FIRST = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "haven")
SECOND = ("stone", "light", "field", "water", "house", "smith", "berry", "craft", "ridge", "march", "brook", "wheel")
MARKS = [first + second for first in FIRST for second in SECOND]
Half = Literal["seen", "held out", "drawn anew"]
Rect = tuple[float, float, float, float]


@dataclass
class Sheet:
    """A page of A4 (595 by 842 pt) that is filled with blocks in the order in which they are to be read."""

    name: str
    page: Any
    chance: random.Random
    half: Half
    blocks: list[tuple[str, ...]] = field(default_factory=list)
    """The marks of each block: of its beginning, its middle and its end."""
    chains: list[list[int]] = field(default_factory=lambda: [[]])
    """Blocks that follow one another; a sidebar is a chain of its own."""

    def _add(self, count: int) -> list[str]:
        marks = self.chance.sample(
            [one for one in MARKS if one not in {m for block in self.blocks for m in block}], count
        )
        self.chains[-1].append(len(self.blocks))
        self.blocks.append(tuple(marks))
        return marks

    def aside(self) -> None:
        self.chains.append([])

    def text(self, rect: Rect, *, size: float = 9, bold: bool = False) -> None:
        """Fill a rectangle with running text."""
        sentences = _sentences()
        start, middle, end = self._add(3)
        first = self.chance.randrange(len(sentences))
        many = [sentences[(first + more) % len(sentences)] for more in range(60)]
        for count in range(60, 0, -1):
            half = count // 2
            words = f"{start.capitalize()} {' '.join(many[:half])} {middle} {' '.join(many[half:count])} {end}."
            if (
                self.page.insert_textbox(pymupdf.Rect(rect), words, fontsize=size, fontname="tibo" if bold else "tiro")
                >= 0
            ):
                return
        raise ValueError(f"{self.name}: the text does not fit")

    def heading(self, x: float, y: float, words: str, *, size: float = 16) -> None:
        (mark,) = self._add(1)
        self.page.insert_text((x, y), f"{mark.capitalize()} {words}", fontsize=size, fontname="hebo")

    def table(self, xs: Sequence[float], y: float, rows: int, *, size: float = 8) -> None:
        start, end = self._add(2)
        for row in range(rows):
            for number, x in enumerate(xs):
                word = start if (row, number) == (0, 0) else end if (row, number) == (rows - 1, len(xs) - 1) else ""
                cell = word or (
                    f"{self.chance.randrange(10, 9999)}" if number else self.chance.choice(make.WORDS.split())
                )
                self.page.insert_text((x, y + row * size * 1.6), cell, fontsize=size, fontname="helv")

    def list(self, x: float, y: float, entries: int, *, size: float = 9, letters: int = 16) -> None:
        start, end = self._add(2)
        for number in range(entries):
            word = start if not number else end if number == entries - 1 else self.chance.choice(make.WORDS.split())
            line = f"{word}, {self.chance.randrange(2, 400)}, {self.chance.randrange(2, 400)}"[: letters + 8]
            self.page.insert_text((x, y + number * size * 1.45), line, fontsize=size, fontname="tiro")

    def figure(self, rect: Rect) -> None:
        self.page.draw_rect(pymupdf.Rect(rect), color=(0.3, 0.3, 0.3), fill=(0.75, 0.75, 0.75))


@functools.cache
def _sentences() -> list[str]:
    texts = [path.read_text(encoding="utf-8") for path in sorted(GROUND_TRUTH.rglob("*.txt"))]
    every = " ".join(texts).replace("\n", " ").split(". ")
    return [f"{' '.join(one.split())}." for one in every if 40 < len(one) < 160 and one.isascii()]


LEFT, RIGHT = (50, 285), (310, 545)
THREE = ((45, 205), (218, 378), (391, 551))


def columns(sheet: Sheet, top: float, bottom: float, sides: Sequence[tuple[float, float]], *, size: float = 9) -> None:
    for left, right in sides:
        sheet.text((left, top, right, bottom), size=size)


def two_under_a_heading(s: Sheet) -> None:
    s.heading(50, 70, "of the harbour commission")
    columns(s, 90, 780, (LEFT, RIGHT))


def three_under_heading_and_byline(s: Sheet) -> None:
    s.heading(45, 70, "storms along the whole coast", size=24)
    s.heading(45, 92, "from our own correspondent", size=10)
    columns(s, 105, 790, THREE, size=8)


def heading_amid_two(s: Sheet) -> None:
    columns(s, 60, 380, (LEFT, RIGHT))
    s.heading(50, 415, "and the second part of the report", size=14)
    columns(s, 430, 780, (LEFT, RIGHT))


def headline_over_two_of_three(s: Sheet) -> None:
    s.heading(45, 70, "ferry aground on sand", size=18)
    columns(s, 85, 790, THREE[:2], size=8)
    s.aside()
    s.heading(391, 68, "in brief", size=12)
    s.text((391, 80, 551, 790), size=8)


def table_in_the_left(s: Sheet) -> None:
    s.text((50, 60, 285, 300))
    s.table((55, 130, 190, 245), 320, 9)
    s.text((50, 460, 285, 780))
    s.text((310, 60, 545, 780))


def table_at_the_end_of_the_right(s: Sheet) -> None:
    s.text((50, 60, 285, 780))
    s.text((310, 60, 545, 560))
    s.table((315, 400, 460, 510), 590, 11)


def figure_across_the_top(s: Sheet) -> None:
    s.figure((50, 50, 545, 250))
    s.heading(50, 266, "the new mole seen from the lighthouse in the year of its completion", size=9)
    columns(s, 285, 780, (LEFT, RIGHT))


def figure_in_the_right(s: Sheet) -> None:
    s.text((50, 60, 285, 780))
    s.text((310, 60, 545, 280))
    s.figure((310, 290, 545, 470))
    s.heading(310, 486, "a plan of the inner basin", size=8)
    s.text((310, 500, 545, 780))


def sidebar_at_the_right(s: Sheet) -> None:
    s.heading(50, 70, "a history of the quay")
    s.text((50, 90, 380, 780), size=10)
    s.aside()
    s.figure((400, 90, 555, 430))
    s.heading(408, 110, "at a glance", size=11)
    s.text((408, 120, 548, 420), size=8)


def narrow_sidebar_at_the_left(s: Sheet) -> None:
    s.text((190, 60, 545, 780), size=10)
    s.aside()
    s.text((50, 130, 170, 420), size=8)


def footnotes_across(s: Sheet) -> None:
    columns(s, 60, 690, (LEFT, RIGHT))
    s.page.draw_line((50, 705), (200, 705))
    s.text((50, 712, 545, 760), size=7)


def footnotes_in_each(s: Sheet) -> None:
    for left, right in (LEFT, RIGHT):
        s.text((left, 60, right, 680))
        s.page.draw_line((left, 692), (left + 80, 692))
        s.text((left, 700, right, 770), size=7)


def two_stories(s: Sheet) -> None:
    s.heading(45, 70, "council votes for the bridge", size=20)
    columns(s, 85, 400, THREE, size=8)
    s.heading(45, 440, "herring prices fall again this week", size=18)
    columns(s, 455, 790, (LEFT, RIGHT), size=8)


def four_narrow(s: Sheet) -> None:
    s.heading(40, 66, "notices and advertisements", size=18)
    columns(s, 80, 800, ((40, 160), (172, 292), (304, 424), (436, 556)), size=7.5)


def running_head(s: Sheet) -> None:
    s.heading(50, 45, "proceedings of the society", size=8)
    columns(s, 70, 770, (LEFT, RIGHT))
    s.page.insert_text((295, 805), "117", fontsize=9)


def front_of_a_paper(s: Sheet) -> None:
    s.heading(110, 70, "drift of sand in tidal harbours", size=18)
    s.text((110, 110, 485, 220), size=8.5)
    s.heading(50, 250, "introduction", size=11)
    columns(s, 262, 780, (LEFT, RIGHT))


def table_across_three(s: Sheet) -> None:
    columns(s, 60, 340, THREE, size=8)
    s.table((50, 150, 250, 350, 450), 370, 8)
    columns(s, 490, 790, THREE, size=8)


def table_across_the_bottom(s: Sheet) -> None:
    columns(s, 60, 520, (LEFT, RIGHT))
    s.heading(50, 550, "dues by year and kind of vessel", size=9)
    s.table((55, 160, 260, 360, 460), 575, 12)


def index_of_three(s: Sheet) -> None:
    s.heading(45, 66, "index of names", size=14)
    for left, _ in THREE:
        s.list(left, 95, 50)


def dictionary(s: Sheet) -> None:
    columns(s, 60, 790, ((50, 293), (301, 545)), size=8)


def notes_in_the_margin(s: Sheet) -> None:
    s.text((50, 60, 400, 780), size=10)
    for top in (100, 330, 560):
        s.aside()
        s.text((425, top, 550, top + 90), size=7.5)


def unequal(s: Sheet) -> None:
    s.heading(50, 66, "reports from the districts")
    columns(s, 85, 780, ((50, 355), (380, 545)))


def quotation_amid(s: Sheet) -> None:
    columns(s, 60, 340, (LEFT, RIGHT))
    s.heading(90, 380, "we never saw such a sea before", size=20)
    columns(s, 410, 780, (LEFT, RIGHT))


def recipe(s: Sheet) -> None:
    s.heading(50, 70, "soup of smoked haddock")
    s.list(50, 110, 14, size=10, letters=14)
    s.text((230, 98, 545, 420), size=10)


LAYOUTS: Sequence[Callable[[Sheet], None]] = (
    two_under_a_heading,
    three_under_heading_and_byline,
    heading_amid_two,
    headline_over_two_of_three,
    table_in_the_left,
    table_at_the_end_of_the_right,
    figure_across_the_top,
    figure_in_the_right,
    sidebar_at_the_right,
    narrow_sidebar_at_the_left,
    footnotes_across,
    footnotes_in_each,
    two_stories,
    four_narrow,
    running_head,
    front_of_a_paper,
    table_across_three,
    table_across_the_bottom,
    index_of_three,
    dictionary,
    notes_in_the_margin,
    unequal,
    quotation_amid,
    recipe,
)
"""Every second one was held out when the rule was first measured on them. After that all were seen, and all were drawn
anew to be held out."""


def drawn(number: int, *, anew: bool = False) -> tuple[Sheet, Image.Image, list[tuple[float, float, str]]]:
    """Draw a page: its picture, and the words with their middles in px; some lie askew, as on a scanner.

    With `anew`, the same kind of page has other words, another size and another slant.
    """
    half: Half = "drawn anew" if anew else "held out" if number % 2 else "seen"
    turn_deg = 0.5 if number % 3 == 2 else 0.0
    paper_pt = (595.0, 842.0)
    if anew:
        turn_deg = (0.0, -0.4, 0.3)[number % 3]
        paper_pt = ((595.0, 842.0), (612.0, 860.0), (640.0, 842.0), (600.0, 900.0))[number % 4]
    page = pymupdf.open().new_page(width=paper_pt[0], height=paper_pt[1])
    sheet = Sheet(LAYOUTS[number].__name__, page, random.Random(number + 100 * anew), half)
    LAYOUTS[number](sheet)
    dpi = (DPI, 135, 170)[number % 3] if anew else DPI
    pixmap = sheet.page.get_pixmap(dpi=dpi, colorspace=pymupdf.csGRAY)
    picture = Image.frombytes("L", (pixmap.width, pixmap.height), pixmap.samples)
    cos, sin = math.cos(math.radians(turn_deg)), math.sin(math.radians(turn_deg))
    words = []
    for left, top, right, bottom, word, *_ in sheet.page.get_text("words"):
        x, y = (left + right) / 2 * dpi / 72 - picture.width / 2, (top + bottom) / 2 * dpi / 72 - picture.height / 2
        words.append((cos * x + sin * y + picture.width / 2, cos * y - sin * x + picture.height / 2, word))
    return sheet, picture.rotate(turn_deg, Image.Resampling.BICUBIC, fillcolor=255), words


def record() -> None:
    """Have RapidOCR find the lines of the pages, and write these with the words that stand in them."""
    from rapidocr import RapidOCR

    ocr: Any = RapidOCR(params={"Global.log_level": "error"})
    pages = []
    every = range(len(LAYOUTS))
    for number, anew in (*((one, False) for one in every), *((one, True) for one in every)):
        sheet, picture, words = drawn(number, anew=anew)
        data = io.BytesIO()
        picture.save(data, "PNG")
        found = ocr(data.getvalue(), use_cls=False, use_rec=False)
        lines: list[list[Any]] = [
            [*(round(float(edge)) for edge in (xs.min(), ys.min(), xs.max(), ys.max())), ""]
            for xs, ys in (box.T for box in found.boxes)
        ]
        for x, y, word in words:
            around = [one for one in lines if one[0] <= x <= one[2] and one[1] <= y <= one[3]]
            if around and any(mark in word.lower() for block in sheet.blocks for mark in block):
                min(around, key=lambda one: abs((one[1] + one[3]) / 2 - y))[4] += f"{word.lower().strip('.,')} "
        pages.append(
            {
                "name": sheet.name,
                "half": sheet.half,
                "width": picture.width,
                "blocks": sheet.blocks,
                "chains": sheet.chains,
                "lines": lines,
            }
        )
        print(sheet.name, len(lines), flush=True)
    RECORDED.write_text(json.dumps(pages, separators=(",", ":")).replace("},{", "},\n{"), encoding="utf-8")


if __name__ == "__main__":
    record()
