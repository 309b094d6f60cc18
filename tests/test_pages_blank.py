"""Paper is blank whatever lies on it by chance; one word, or one numeral, is not."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from PIL import Image

from kobold_reader.pages.blank import Ink, analysis_size, find_ink, find_ink_at_a_glance, glance_size
from tests import page_files as make

OLD = (238, 226, 196)
DPI = 100


def judged(paper: Image.Image, *, quality: int = 80, mode: str = "RGB") -> Ink:
    picture = Image.open(io.BytesIO(make.jpeg(paper, quality=quality))).convert(mode)
    size = analysis_size(*picture.size, make.A4_INCHES)
    return find_ink(picture.resize(size, Image.Resampling.BOX))


PAPER: dict[str, Callable[[], Image.Image]] = {
    "white": lambda: make.sheet(DPI),
    "yellowed": lambda: make.sheet(DPI, OLD),
    "dust": lambda: make.with_dust(make.sheet(DPI), dpi=DPI),
    "much dust": lambda: make.with_dust(make.sheet(DPI, OLD), dpi=DPI, specks=250, seed=5),
    "texture": lambda: make.with_texture(make.sheet(DPI, OLD), sigma=8),
    "bleed-through": lambda: make.with_bleed_through(make.sheet(DPI, OLD), dpi=DPI),
    "edge shadow": lambda: make.with_edge_shadow(make.sheet(DPI)),
    "uneven light": lambda: make.with_uneven_light(make.sheet(DPI, OLD)),
    "bar": lambda: make.with_black_bar(make.sheet(DPI, OLD)),
    "wide bar": lambda: make.with_black_bar(make.sheet(DPI, OLD), width=0.03),
    "punched": lambda: make.with_holes(make.sheet(DPI, OLD), dpi=DPI),
}

INK: dict[str, Callable[[Image.Image], Image.Image]] = {
    "page number": lambda p: make.write(p, "7", dpi=DPI, points=9, at=(0.5, 0.95)),
    "thin numeral": lambda p: make.write(p, "1", dpi=DPI, points=9, at=(0.5, 0.95)),
    "small number": lambda p: make.write(p, "12", dpi=DPI, points=6, at=(0.9, 0.04)),
    "pale word": lambda p: make.write(p, "Nota", dpi=DPI, points=9, ink=(165, 160, 150)),
    "yellow word": lambda p: make.write(p, "Nota", dpi=DPI, points=14, ink=(240, 220, 40)),
    "red stamp": lambda p: make.write(p, "PAID", dpi=DPI, points=12, ink=(230, 120, 120)),
    "handwriting": lambda p: make.handwrite(p, dpi=DPI),
    "pencil": lambda p: make.handwrite(p, dpi=DPI, ink=(165, 163, 158), stroke_mm=0.35),
    "in a corner": lambda p: make.handwrite(p, dpi=DPI, at=(0.02, 0.02)),
    "full page": lambda _: make.printed_page(DPI),
}


@pytest.mark.parametrize("name", PAPER)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_paper_is_blank(name: str, mode: str) -> None:
    ink = judged(PAPER[name](), mode=mode)
    assert ink.is_blank
    assert ink.share == 0
    assert ink.is_white == (name == "white")


@pytest.mark.parametrize("ink", INK)
@pytest.mark.parametrize("paper", ["texture", "dust", "edge shadow"])
def test_a_word_is_never_blank(ink: str, paper: str) -> None:
    found = judged(INK[ink](PAPER[paper]()))
    assert not found.is_blank
    assert found.share > 0


def test_light_writing_on_dark_is_ink() -> None:
    assert not judged(make.handwrite(make.sheet(DPI, (30, 30, 30)), dpi=DPI, ink=(200,) * 3)).is_blank


def test_a_blurred_photo_is_no_paper() -> None:
    sky = make.with_uneven_light(make.sheet(DPI, (120, 160, 220)), drop=110)
    assert not judged(sky).is_blank


def test_judged_at_the_size_of_the_paper() -> None:
    assert analysis_size(2480, 3508, (8.27, 11.69)) == (826, 1169)
    assert analysis_size(400, 300, (8.27, 11.69)) == (400, 300)
    assert max(analysis_size(9000, 4000, None)) == 1200


def glanced(paper: Image.Image, *, is_small: bool) -> Ink | None:
    data = io.BytesIO(make.jpeg(paper, quality=80))
    judged_at = analysis_size(*paper.size, make.A4_INCHES)
    with Image.open(data) as picture:
        if is_small:
            picture.draft("L", glance_size(judged_at))
        return find_ink_at_a_glance(picture, judged_at)


@pytest.mark.parametrize("is_small", [True, False])
def test_a_glance_is_enough_for_a_page_written_all_over(*, is_small: bool) -> None:
    for dpi in (100, 200):
        ink = glanced(make.printed_page(dpi), is_small=is_small)
        assert ink is not None
        assert not ink.is_blank
        assert 0.01 < ink.share < 0.5


@pytest.mark.parametrize("name", PAPER)
def test_whatever_may_be_paper_takes_a_closer_look(name: str) -> None:
    paper = PAPER[name]()
    assert glanced(paper, is_small=True) is None
    for ink in ("page number", "handwriting", "in a corner"):
        assert glanced(INK[ink](paper), is_small=True) is None
