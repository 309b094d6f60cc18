"""Pages on their side or head: no upright page is ever turned, and what cannot be told stays as it lies."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pymupdf
import pytest
from PIL import Image, ImageDraw, ImageFilter

from kobold_reader.errors import ConfigError
from kobold_reader.pages import ImageBudget, PageChild, PageImages, PageView, Posture, select
from kobold_reader.pages.blank import find_ink
from kobold_reader.pages.orientation import Orientation, find_orientation
from kobold_reader.reader import KoboldReader
from kobold_reader.reading import page_reader as upright
from kobold_reader.reading.ledger import Ledger
from kobold_reader.reading.open_file import OpenFile
from tests import page_files as make
from tests.conftest import SAMPLES

pytestmark = pytest.mark.slow

BUDGET = ImageBudget()
CLOCKWISE = {
    0: None,
    90: Image.Transpose.ROTATE_270,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_90,
}
SIDEWAYS = SAMPLES / "scans" / "scan0007.jpg"
PROSE = (
    "It was agreed that the jetty should be mended before the summer, and that the members would bring their own "
    "tools. The harbour master thanked everybody who had helped during the autumn storms, although only half of the "
    "boats could be saved. A letter from the neighbouring club was read aloud and put by until the next meeting. "
)


@pytest.fixture(autouse=True)
def no_line_reader() -> None:
    """Here the real one reads."""


def turned(picture: Image.Image, deg: int) -> Image.Image:
    step = CLOCKWISE[deg]
    return picture if step is None else picture.transpose(step)


def prose(dpi: int = 100, text: str = PROSE, lines: int = 30, columns: int = 1) -> Image.Image:
    paper = make.sheet(dpi)
    words, wanted = text.split() * 60, 0
    for column in range(columns):
        left, width = 0.1 + column * 0.8 / columns, 0.8 / columns - 0.03
        for line in range(lines):
            piece = words[wanted]
            while make.font(dpi, 11).getlength(f"{piece} {words[wanted + 1]}") < width * paper.width:
                wanted += 1
                piece += f" {words[wanted]}"
            wanted += 1
            make.write(paper, piece, dpi=dpi, at=(left, 0.1 + line * 0.02))
    return paper


def lie_of(picture: Image.Image) -> Orientation:
    mask = find_ink(picture).mask
    assert mask is not None
    return find_orientation(mask)


# ── what the picture tells ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("columns", "skew"), [(1, 0.0), (1, -4.0), (2, 2.5)])
def test_a_printed_page_on_its_side_is_turned_and_an_upright_one_is_not(columns: int, skew: float) -> None:
    page = prose(columns=columns).rotate(skew, Image.Resampling.BICUBIC, fillcolor=(255, 255, 255))
    assert {deg: lie_of(turned(page, deg)).turn_deg for deg in CLOCKWISE} == {0: 0, 90: 270, 180: 0, 270: 90}
    assert lie_of(page).posture is None
    on_its_head = lie_of(turned(page, 180)).posture
    assert on_its_head is not None
    assert on_its_head.turns == (0, 180)


def test_capitals_and_figures_leave_open_which_end_is_up() -> None:
    page = prose(text=PROSE.upper() + " 1954 1961 1988 37 1999")
    for deg in CLOCKWISE:
        lie = lie_of(turned(page, deg))
        assert lie.turn_deg == 0
        assert lie.posture is not None
        assert lie.posture.turns == ((0, 180) if deg in {0, 180} else (90, 270))


@pytest.mark.parametrize("deg", [0, 90, 270])
def test_a_receipt_with_too_many_letters_is_judged_by_its_middle(deg: int) -> None:
    receipt = Image.new("L", (500, 12_000), 250)
    for number, top in enumerate(range(30, 11_900, 45)):
        words = f"{number} HERRING potatoes, oats and rye"
        ImageDraw.Draw(receipt).text((20, top), words, font=make.font(72, 26), fill=20)
    lie = lie_of(turned(receipt, deg))
    assert lie.posture is not None
    assert lie.posture.turns == ((0, 180) if deg == 0 else (90, 270))
    long_side = 1 if deg == 0 else 0
    assert all(0.4 < line[long_side] < line[long_side + 2] < 0.6 for line in lie.posture.lines)


def noise() -> Image.Image:
    grey = Image.effect_noise((900, 600), 90).filter(ImageFilter.GaussianBlur(3))
    return grey.point([max(0, min(255, (level - 128) * 6 + 128)) for level in range(256)]).convert("RGB")


def street_map() -> Image.Image:
    paper, chance = make.sheet(100), random.Random(4)
    draw = ImageDraw.Draw(paper)
    for _ in range(120):
        x, y = chance.randrange(80, 740), chance.randrange(80, 1080)
        draw.line([(x, y), (x + chance.randrange(-90, 90), y + chance.randrange(-90, 90))], fill=(60, 60, 60), width=3)
    return paper


def empty_form() -> Image.Image:
    paper = make.sheet(100)
    draw = ImageDraw.Draw(paper)
    for row in range(25):
        draw.line([(80, 100 + 38 * row), (740, 100 + 38 * row)], fill=(0, 0, 0), width=2)
    for column in range(8):
        draw.line([(80 + 94 * column, 100), (80 + 94 * column, 1012)], fill=(0, 0, 0), width=2)
    return paper


def figures() -> Image.Image:
    paper, chance = make.sheet(100), random.Random(7)
    for row in range(30):
        for column in range(6):
            make.write(paper, str(chance.randrange(10, 9999)), dpi=100, at=(0.1 + column * 0.14, 0.1 + row * 0.025))
    return paper


def few_words() -> Image.Image:
    return make.write(make.sheet(100), "Summer 1954", dpi=100, points=14)


@pytest.mark.parametrize("draw", [noise, street_map, empty_form, figures, few_words])
@pytest.mark.parametrize("deg", CLOCKWISE)
def test_photos_maps_forms_figures_and_sparse_pages_are_left_alone(draw: object, deg: int) -> None:
    assert callable(draw)
    assert lie_of(turned(draw(), deg)).turn_deg == 0


def test_what_is_open_is_said_of_the_page_as_it_was_turned() -> None:
    lie = Orientation(270, Posture(turns=(90, 270), lines=((0.1, 0.2, 0.2, 0.9),)))
    after = lie.after(270)
    assert after is not None
    assert set(after.turns) == {0, 180}
    assert after.lines[0] == pytest.approx((0.2, 0.8, 0.9, 0.9))
    assert lie.after(0) is lie.posture
    assert Orientation().after(0) is None


# ── through the child ───────────────────────────────────────────────────────────────────────────


def test_no_sample_page_is_turned_but_the_one_on_its_side(child: PageChild) -> None:
    turns = {}
    for file in select([SAMPLES]).files:
        facts = child.open(file.path.removeprefix("file://"), kind=file.kind)
        for number in range(1, facts.total_pages + 1):
            rotation = child.page_facts(number).rotation_deg
            turns[file.name, number] = (
                child.page_images(number, BUDGET, rotate_deg=None).views[0].rotation_deg - rotation
            )
    assert len(turns) >= 17
    assert {page: turn for page, turn in turns.items() if turn} == {(SIDEWAYS.name, 1): 270}


def pixels(images: PageImages) -> Image.Image:
    return Image.open(io.BytesIO(images.views[0].image)).convert("L")


@pytest.mark.parametrize("deg", [90, 270])
def test_a_scan_that_would_pass_untouched_is_turned_in_full_size(child: PageChild, tmp_path: Path, deg: int) -> None:
    page = prose().convert("L")
    path = tmp_path / "page.jpg"
    turned(page, deg).save(path, quality=95)
    child.open(path, kind="image")
    budget = ImageBudget(max_side_px=4000)
    assert child.page_images(1, budget, rotate_deg=0).views[0].is_passthrough
    images = child.page_images(1, budget, rotate_deg=None)
    assert images.views[0].rotation_deg == 360 - deg
    assert not images.views[0].is_passthrough
    assert pixels(images).size == page.size
    assert images.posture is not None
    assert sorted(images.posture.turns) == [0, 180]

    page.save(path, quality=95)
    child.open(path, kind="image")
    images = child.page_images(1, budget, rotate_deg=None)
    assert images.views[0].is_passthrough
    assert images.posture is None


def test_what_the_file_says_comes_first(child: PageChild, tmp_path: Path) -> None:
    path = tmp_path / "phone.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it clockwise by 90 to see it upright
    turned(prose(), 270).save(path, exif=exif)
    child.open(path, kind="image")
    assert child.page_images(1, BUDGET, rotate_deg=None).views[0].rotation_deg == 90
    assert child.page_images(1, BUDGET, rotate_deg=0).views[0].rotation_deg == 90


def test_a_pdf_page_is_turned_like_a_scan(child: PageChild, tmp_path: Path) -> None:
    path = tmp_path / "page.pdf"
    document = pymupdf.open()
    page = document.new_page(width=595, height=842)
    page.insert_textbox((70, 70, 525, 780), PROSE * 6, fontsize=11, lineheight=1.6, rotate=90)
    document.save(path)
    child.open(path, kind="pdf")
    images = child.page_images(1, ImageBudget(max_side_px=1200), rotate_deg=None)
    assert images.views[0].rotation_deg == 90
    assert images.views[0].width_px > images.views[0].height_px
    with pytest.raises(ConfigError, match="rotate_deg"):
        child.page_images(1, BUDGET, rotate_deg=45)


# ── what reading tells ──────────────────────────────────────────────────────────────────────────

VIEW = PageView(b"", "image/png", 10, 10, None, 0)
LINES = tuple((0.1, row / 10, 0.9, row / 10 + 0.05) for row in range(6))
RIGHT, WRONG = ("the jetty", 0.98), ("aq 1etl", 0.6)


def by_reading(turns: tuple[int, int], scripts: list[dict[int, tuple[str, float]]]) -> int:
    def read(view: PageView, box: tuple[float, float, float, float], turn: int) -> tuple[str, float]:
        assert view is VIEW
        return scripts[LINES.index(box)][turn]

    return upright.turn_by_reading(VIEW, Posture(turns, LINES[: len(scripts)]), read)


@pytest.mark.parametrize("turns", [(0, 180), (180, 0), (90, 270), (270, 90)])
def test_three_lines_that_agree_decide(turns: tuple[int, int]) -> None:
    good, bad = turns
    assert by_reading(turns, [{good: RIGHT, bad: WRONG}] * 3) == good
    assert by_reading(turns, [{good: RIGHT, bad: WRONG}] * 2) == 0


@pytest.mark.parametrize(
    "line",
    [
        {0: ("m m m", 0.5), 180: ("m m m", 0.6)},  # legible neither way
        {0: ("609", 0.7), 180: ("609", 0.99)},  # too short
        {0: ("NOON SOS", 0.91), 180: ("SOS NOON", 0.99)},  # reads as it lies
        {0: ("jetty", 0.8), 180: ("1etty", 0.93)},  # hardly better
    ],
)
def test_a_page_that_reads_no_better_upside_down_stays(line: dict[int, tuple[str, float]]) -> None:
    assert by_reading((0, 180), [line] * 6) == 0


def test_columns_of_chinese_are_no_page_on_its_side() -> None:
    line = {90: ("人人生而自由", 0.99), 270: ("所", 0.3)}
    assert by_reading((90, 270), [line] * 6) == 0
    assert by_reading((0, 180), [{0: ("所", 0.3), 180: ("人人生而自由", 0.99)}] * 3) == 180


def test_lines_that_contradict_each_other_need_more_lines() -> None:
    one, other = {0: RIGHT, 180: WRONG}, {0: WRONG, 180: RIGHT}
    assert by_reading((0, 180), [one, other, other, other, other]) == 0
    assert by_reading((0, 180), [one, *[other] * 5]) == 0
    assert by_reading((0, 180), [other, other, other, one]) == 180


def look(path: Path, tmp_path: Path) -> PageImages:
    with Ledger(tmp_path / "ledger.sqlite") as ledger, OpenFile(ledger) as opened:
        (source,) = select([path]).files
        file = opened.facts(source)
        facts = opened.page_facts(source, file, 1)
        return upright.upright_images(opened, source, file, facts, ImageBudget(max_side_px=800))


@pytest.fixture
def on_its_head(tmp_path: Path) -> Path:
    path = tmp_path / "head.png"
    turned(prose(150), 180).save(path)
    return path


def test_without_rapidocr_no_page_is_turned_on_its_head(
    on_its_head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upright, "line_reader", lambda: None)
    assert look(on_its_head, tmp_path).views[0].rotation_deg == 0
    assert look(SIDEWAYS, tmp_path).views[0].rotation_deg == 270


def test_a_reader_that_breaks_turns_nothing(on_its_head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> tuple[str, float]:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(upright, "line_reader", lambda: broken)
    assert look(on_its_head, tmp_path).views[0].rotation_deg == 0


@pytest.mark.slow
@pytest.mark.thorough
def test_with_rapidocr_it_is(on_its_head: Path, tmp_path: Path) -> None:
    assert look(on_its_head, tmp_path).views[0].rotation_deg == 180
    capitals = tmp_path / "capitals.png"
    page = prose(150, text=PROSE.upper())
    for deg, turn in ((0, 0), (90, 270), (180, 180), (270, 90)):
        turned(page, deg).save(capitals)
        assert look(capitals, tmp_path).views[0].rotation_deg == turn


@pytest.mark.thorough
@pytest.mark.slow
def test_a_sideways_sample_is_read_and_says_how_it_was_turned() -> None:
    with KoboldReader(engine="rapidocr", ledger="none") as reader:
        (document,) = reader.load_data(SIDEWAYS)
    assert document.metadata["rotation_deg"] == 270
    assert "INVENTORY" in document.text
    assert "1954" in document.text


def test_auto_is_the_default_and_keeps_what_was_read_before() -> None:
    keys = {
        rotate: KoboldReader(rotate=rotate, ledger="none").options.key("ocr") for rotate in ("auto", 0, 90, 180, 270)
    }
    assert keys["auto"] == "default"
    assert len(set(keys.values())) == 5
