"""The pure decisions: page ranges, what is due, reading order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kobold_reader import KoboldReader
from kobold_reader.errors import ConfigError
from kobold_reader.options import PageRange, ReadOptions, Redo
from kobold_reader.pages import Box, ImageBudget, reading_order
from kobold_reader.reading import due
from kobold_reader.reading.cleaning import tidy
from kobold_reader.reading.page_reader import EngineFacts
from kobold_reader.reading.results import Reading
from tests.test_reading_ledger import READING, facts

ENGINE = EngineFacts(
    model="m",
    family="f",
    tasks=frozenset({"ocr", "caption"}),
    budget=ImageBudget(max_side_px=1024),
    prompts={"ocr": "Read."},
)


@pytest.mark.parametrize(
    ("text", "pages"),
    [
        ("1-3,7", {1, 2, 3, 7}),
        ("2", {2}),
        (" 4 - 5 ", {4, 5}),
        ("-2", {1, 2}),
        ("9-", {9, 10}),
        ("", set(range(1, 11))),
        (None, set(range(1, 11))),
    ],
)
def test_page_ranges(text: str | None, pages: set[int]) -> None:
    assert {number for number in range(1, 11) if number in PageRange.parse(text)} == pages


@pytest.mark.parametrize("text", ["0", "3-1", "a", "1,,2", "-", "1-2-3", "1.5", "0-3"])
def test_wrong_page_ranges_are_named(text: str) -> None:
    with pytest.raises(ConfigError, match="pages"):
        PageRange.parse(text)


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 9)), min_size=1, max_size=6))
def test_page_ranges_round_trip(spans: list[tuple[int, int]]) -> None:
    ranges = PageRange(tuple((first, first + more) for first, more in spans))
    assert [n in PageRange.parse(str(ranges)) for n in range(1, 70)] == [n in ranges for n in range(1, 70)]


@given(st.integers(1, 500), st.integers(1, 60))
def test_samples_are_spread(count: int, sample: int) -> None:
    chosen = list(due.spread(count, sample))
    assert len(chosen) == min(count, sample)
    assert len(set(chosen)) == len(chosen)
    assert all(0 <= position < count for position in chosen)


@pytest.mark.parametrize(
    "wrong",
    [
        {"tasks": ()},
        {"tasks": ("read",)},
        {"text_layer": "maybe"},
        {"redo": "some"},
        {"rotate": 45},
        {"sample": 0},
        {"page_timeout_s": -1},
        {"prompts": {"ocrr": "x"}},
    ],
)
def test_wrong_settings_are_named(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"tasks|text_layer|redo|rotate|sample|page_timeout_s|prompts"):
        ReadOptions(**wrong)  # type: ignore[arg-type]


def test_only_what_the_user_gave_makes_another_key() -> None:
    plain = ReadOptions()
    assert plain.key("ocr") == "default"
    assert ReadOptions(text_layer="ignore", redo="all", page_timeout_s=3).key("ocr") == "default"
    keys = {
        plain.key("ocr"),
        ReadOptions(hint="Swedish").key("ocr"),
        ReadOptions(prompts={"ocr": "Read it."}).key("ocr"),
        ReadOptions(rotate=90).key("ocr"),
        ReadOptions(family="gemma-3").key("ocr"),
    }
    assert len(keys) == 5
    assert ReadOptions(prompts={"ocr": "Read it."}).key("caption") == "default"


SCHEMA = {"type": "object", "properties": {"number": {"type": "string"}}, "required": ["number"]}


@pytest.mark.parametrize(
    ("given", "task", "key"),
    [
        ({}, "ocr", "default"),
        ({"tasks": ["ocr"], "text_layer": "ignore", "visionmaxres": 768, "image_kind": "photo"}, "ocr", "default"),
        ({"hint": "Swedish letters, about 1900"}, "ocr", "8e676551d1ece5a175f5a46d4325b53b"),
        ({"hint": "Swedish letters, about 1900"}, "caption", "8e676551d1ece5a175f5a46d4325b53b"),
        ({"hint": "Müller"}, "ocr", "9ae0d02c38198e1a50c927a13f2c19d2"),
        ({"prompts": {"ocr": "Read it."}}, "ocr", "0367e58359fb6a91fe13e0c39eb894d6"),
        ({"prompts": {"ocr": "Read it."}}, "caption", "default"),
        ({"family": "gemma-3"}, "tags", "de9357b45a48519b6f0c303691adfb70"),
        ({"rotate": 0}, "ocr", "696f8f6f9048211cff11519cdf1b888c"),
        ({"rotate": 90}, "ocr", "73cd83e9db7214adc54a3b76f681b86e"),
        ({"rotate": "90"}, "ocr", "73cd83e9db7214adc54a3b76f681b86e"),
        ({"engine": "rapidocr", "rotate": 270}, "ocr", "e78552ac331950cc5cc4c51640c5614c"),
        (
            {"hint": "h", "family": "qwen2-vl", "rotate": 180, "prompts": {"ocr": "A", "tags": "B"}},
            "tags",
            "9146c39aaf1160a4c186f991377d4ceb",
        ),
        ({"prompts": {"ocr": "Which number?"}, "json_schema": SCHEMA}, "ocr", "13c61573716e8992362a4180af8ce951"),
    ],
)
def test_keys_are_those_of_the_ledgers_that_exist(given: dict[str, Any], task: str, key: str) -> None:
    assert KoboldReader(**given).options.key(task) == key, "another key would make every page due"


def test_a_text_layer_answers_ocr_and_spares_the_caption() -> None:
    born = replace(facts(), text="All of it.", text_layer="good", image_coverage=0.1)
    assert due.tasks_of_page(born, ReadOptions()) == ("ocr",)
    assert due.tasks_of_page(replace(born, image_coverage=0.25), ReadOptions()) == ("ocr", "caption")
    assert due.tasks_of_page(born, ReadOptions(tasks=("caption",))) == ("caption",)
    assert due.tasks_of_page(born, ReadOptions(text_layer="ignore")) == ("ocr", "caption")
    tagged = ReadOptions(tasks=("ocr", "tags"))
    assert due.tasks_of_page(born, tagged) == ("ocr",)
    assert due.tasks_of_page(replace(born, image_coverage=0.25), tagged) == ("ocr", "tags")
    assert due.tasks_of_page(replace(born, text_layer="poor"), ReadOptions()) == ("ocr", "caption")


@pytest.mark.parametrize(
    ("redo", "reading", "again"),
    [
        (None, READING, False),
        ("all", READING, True),
        ("truncated", READING, False),
        ("truncated", replace(READING, status="truncated"), True),
        ("looping", replace(READING, status="looping"), True),
        ("low-confidence", replace(READING, confidence=0.5), True),
        ("low-confidence", replace(READING, confidence=0.99, confidence_p5=0.6), True),
        ("low-confidence", replace(READING, confidence=0.75, confidence_p5=0.9), False),
        ("low-confidence", replace(READING, confidence=None), False),
        ("outdated", replace(READING, prompt="<u>Read.<a>"), False),
        ("outdated", replace(READING, model="older"), True),
        ("outdated", replace(READING, prompt="Other words"), True),
        ("low-resolution", replace(READING, effective_px=512), True),
        ("low-resolution", replace(READING, effective_px=None), False),
        ("low-resolution", READING, False),
    ],
)
def test_redo(redo: Redo | None, reading: Reading, again: bool) -> None:
    assert due.to_redo(reading, redo, ENGINE, facts()) is again


A4_PT = {"width_pt": 595.0, "height_pt": 842.0}
BORN_DIGITAL = {"width_px": 0, "height_px": 0}


@pytest.mark.parametrize(
    ("page", "budget", "effective_px", "again"),
    [
        ({"width_px": 2480, "height_px": 3508}, {}, 1024, True),
        ({"width_px": 2480, "height_px": 3508}, {}, 1990, False),  # rounding is no reason
        ({"width_px": 420, "height_px": 600}, {}, 600, False),  # a small scan has no more to give
        ({"width_px": 1000, "height_px": 1400}, {}, 1024, True),
        ({**BORN_DIGITAL, **A4_PT}, {}, 1024, True),
        # What the family takes by area: 1506 of the 2048 px that would pass.
        ({**BORN_DIGITAL, **A4_PT}, {"max_pixels": 2048 * 28 * 28}, 1506, False),
        ({**BORN_DIGITAL, **A4_PT}, {"max_pixels": 2048 * 28 * 28}, 1024, True),
        # A visiting card is rendered at 300 dpi and no more.
        ({**BORN_DIGITAL, "width_pt": 241.0, "height_pt": 156.0}, {}, 1004, False),
        ({**BORN_DIGITAL, "width_pt": None, "height_pt": None}, {}, 1024, True),
        # Read in tiles: effective_px is the page's long side at the scale of its tiles.
        ({"width_px": 2480, "height_px": 3508}, {}, 3508, False),
    ],
)
def test_low_resolution_is_what_this_page_lacks(
    page: dict[str, Any], budget: dict[str, Any], effective_px: int, again: bool
) -> None:
    engine = replace(ENGINE, budget=ImageBudget(max_side_px=2048, **budget))
    reading = replace(READING, effective_px=effective_px)
    assert due.to_redo(reading, "low-resolution", engine, replace(facts(), **page)) is again
    assert not due.to_redo(reading, "low-resolution", None, replace(facts(), **page))


def test_tidy_keeps_the_page() -> None:
    assert tidy("  a  \r\nb\x00\t\n\n") == "a\nb"
    assert tidy("\n    indented\n  more") == "indented\n  more"


def words(boxes: list[tuple[str, Box]], width: float = 1000) -> str:
    order = reading_order([box for _, box in boxes], width)
    return " / ".join(" ".join(boxes[index][0] for index in line) for line in order)


def line(name: str, left: float, top: float, right: float) -> tuple[str, Box]:
    return name, (left, top, right, top + 20)


def test_two_columns_are_read_one_after_the_other() -> None:
    boxes = [line("heading", 100, 10, 900)]
    boxes += [line(f"L{row}", 50, 100 + 30 * row, 470) for row in range(8)]
    boxes += [line(f"R{row}", 530, 105 + 30 * row, 950) for row in range(8)]
    boxes += [line("footer", 100, 900, 900)]
    expected = ["heading", *(f"L{row}" for row in range(8)), *(f"R{row}" for row in range(8)), "footer"]
    assert words(boxes) == " / ".join(expected)


def test_a_table_is_read_row_by_row() -> None:
    boxes = [
        line(f"{name}{row}", left, 100 + 30 * row, left + 120)
        for row in range(8)
        for name, left in (("date", 50), ("who", 330), ("what", 620), ("sum", 850))
    ]
    assert words(boxes) == " / ".join(f"date{row} who{row} what{row} sum{row}" for row in range(8))


def test_a_skewed_line_stays_one_line() -> None:
    boxes = [line(f"w{number}", 100 * number, 100 + 6 * number, 100 * number + 90) for number in range(9)]
    boxes += [line(f"x{number}", 100 * number, 130 + 6 * number, 100 * number + 90) for number in range(9)]
    first = " ".join(f"w{number}" for number in range(9))
    assert words(boxes) == f"{first} / {first.replace('w', 'x')}"


@given(
    st.lists(
        st.tuples(st.floats(0, 900), st.floats(0, 900), st.floats(1, 400), st.floats(1, 60)).map(
            lambda box: (box[0], box[1], box[0] + box[2], box[1] + box[3])
        ),
        max_size=40,
    )
)
def test_every_box_is_read_once(boxes: list[Box]) -> None:
    order = [index for line in reading_order(boxes, 1300) for index in line]
    assert sorted(order) == list(range(len(boxes)))
