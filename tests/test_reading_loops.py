"""Loops are seen soon; pages that repeat themselves are left alone."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kobold_reader.reading.loops import find_loop

HEAD = "Ledger of the parish of Lindby, 1931.\nEntries of the autumn:\n"
_random = random.Random(1931)
_WORDS = ("slates", "oats", "the", "bushel", "came", "morning", "of", "and", "Tuesday", "cart", "by", "broken", "two")
_PARAGRAPHS = "".join(" ".join(_random.choice(_WORDS) for _ in range(11)) + "\n" for _ in range(20))
_ADDRESS = "Johann Lindqvist\nStorgatan 4\n123 45 Uppsala\nSweden\n\n"
_CARD = (
    "Axel Lindqvist, slates and roofing of every kind\nStorgatan 4, 123 45 Uppsala\nTelephone 1234, mornings only\n\n"
)

PAGES = {
    "equal ledger lines": "1 bushel of oats ........ 0.50\n" * 60,
    "dittos": "1 bushel of oats\n" + '"\n' * 70,
    "dittos in words": "do.  do.  do.   12 0 0\n" * 70,
    "a dotted form": "Name " + "." * 90 + "\n" + ("." * 110 + "\n") * 50,
    "a dotted form in one line": "Name " + "." * 1500,
    "lines to write on": ("Name: " + "_" * 80 + "\n") * 45,
    "a table of zeros": "| 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 |\n" * 70,
    "an empty table": "|  |  |  |  |  |  |\n" * 75,
    "an HTML table of zeros": "<table>" + ("<tr>" + "<td>0</td>" * 14 + "</tr>") * 60 + "</table>",
    "a wide HTML row": "<table><tr>" + "<td></td>" * 90 + "</tr></table>",
    "a sheet of labels": _ADDRESS * 24,
    "a sheet of cards": _CARD * 12,
    "receipts": _PARAGRAPHS[:700] * 4,
    "a refrain": "We plough the fields, and scatter the good seed on the land. " * 8,
    "lines to be learnt": "I will not talk in class.\n" * 45,
    "years": "".join(f"{year}\n" for year in range(1800, 1920)),
    "a numbered form": "".join(f"{number}. ______________\n" for number in range(1, 101)),
    "a calendar": " ".join(str(day) for _ in range(12) for day in range(1, 31)),
    "an index of numbers": " ".join(str(number) for number in range(1, 200)),
    "blank lines": "\n" * 70,
    "prose": _PARAGRAPHS,
}
LOOPS = {  # what is written before it is seen: at 40 tokens a second and 4 characters each, 1600 are ten seconds
    "one token": ("the ", 640),
    "one character": ("0", 2020),
    "dots": (".", 2020),
    "line feeds": ("\n", 100),
    "a phrase": ("and the slates came ", 640),
    "a long phrase": ("and the slates that came on Tuesday with the cart of old Johansson were broken, ", 840),
    "a line": ("1 bushel of oats 0.50\n", 1800),
    "a row of a table": ("| 0 | 0 | 0 |\n", 1200),
    "a block of lines": (_PARAGRAPHS[:150] + "\n", 2500),
    "an HTML row": ("<tr><td>1 bushel</td><td>0.50</td></tr>", 3300),
    "a page": (_PARAGRAPHS, 7400),
    "Chinese": ("今天天气很好。", 640),
    "Japanese": ("拝啓、時下ますますご清栄のことと", 660),
    "Cyrillic": ("и вот пришли плиты ", 640),
    "an emoji": ("🙂", 2020),
}


@pytest.mark.parametrize("page", PAGES.values(), ids=list(PAGES))
@pytest.mark.parametrize("head", ["", HEAD])
def test_a_page_that_repeats_itself_is_no_loop(page: str, head: str) -> None:
    text = head + page
    assert find_loop(text) is None
    for so_far in range(0, len(text), 397):
        assert find_loop(text[:so_far]) is None, "nor while it is written"


@pytest.mark.parametrize(("unit", "chars"), LOOPS.values(), ids=list(LOOPS))
def test_a_loop_is_seen_within_seconds(unit: str, chars: int) -> None:
    text = HEAD + unit * (chars // len(unit) + 1)
    loop = find_loop(text)

    assert loop is not None
    assert abs(loop.start - len(HEAD)) <= 1, "what came before it is known"
    kept = text[: loop.kept]
    assert kept.startswith(HEAD.rstrip())
    assert len(HEAD) + 1 <= loop.kept + 1 <= len(HEAD) + 2 * len(unit) + 1, "the first occurrence or two"


@pytest.mark.parametrize(("unit", "chars"), LOOPS.values(), ids=list(LOOPS))
@pytest.mark.parametrize("cut", [1, 2, 3, 5, 7])
def test_a_loop_is_seen_wherever_it_is_cut(unit: str, chars: int, cut: int) -> None:
    text = HEAD + unit * (chars // len(unit) + 2)
    loop = find_loop(text[:-cut])
    assert loop is not None
    assert abs(loop.start - len(HEAD)) <= 1


@pytest.mark.parametrize(
    "runaway",
    [
        "".join(f"{number}. Item\n" for number in range(1, 170)),
        " ".join(f"{number}." for number in range(1, 270)),
        "".join(f"{number}\n" for number in range(1850, 2020)),
    ],
)
def test_counting_without_end_is_a_loop(runaway: str) -> None:
    loop = find_loop(HEAD.replace("1931", "") + runaway)
    assert loop is not None
    assert loop.kept < len(HEAD) + 20
    assert find_loop(HEAD + runaway[:-1]) is not None, "the last number may be cut"


def test_a_loop_that_changes_its_order_is_seen() -> None:
    lines = ["1 bushel of oats\n", "2 sacks\n", "a cart\n"]
    assert find_loop(HEAD + "".join(_random.choice(lines) for _ in range(130))) is not None
    assert find_loop(HEAD + "".join(_random.choice(lines) for _ in range(100))) is None


def test_numbers_of_a_thousand_digits_are_no_counters() -> None:
    assert find_loop("1" * 1500 + " " + "2" * 1500 + " 3 ") is None


def test_an_answer_that_ended_by_itself_deserves_more_patience() -> None:
    text = HEAD + "1 bushel of oats 0.50\n" * 100
    assert find_loop(text) is not None
    assert find_loop(text, patience=2) is None
    assert find_loop(HEAD + "1 bushel of oats 0.50\n" * 170, patience=2) is not None


@given(head=st.text(max_size=60), unit=st.text("abc åя漢\n.|0", min_size=1, max_size=40), more=st.integers(0, 60))
def test_whatever_is_repeated_without_end_is_found(head: str, unit: str, more: int) -> None:
    copies = max(170, 4100 // len(unit) + 1)
    text = head + unit * copies
    loop = find_loop(text[: len(text) - more])
    assert loop is not None
    assert loop.start <= len(head) + len(unit)
    assert loop.kept <= len(head) + 3 * len(unit)


@given(st.lists(st.text(max_size=70), max_size=60))
def test_nothing_that_fits_a_page_once_is_a_loop(lines: list[str]) -> None:
    assert find_loop("\n".join(lines)) is None


@given(unit=st.text("abcdefghij ", min_size=1, max_size=60), copies=st.integers(1, 70))
def test_equal_lines_of_one_page_are_no_loop(unit: str, copies: int) -> None:
    if sum(map(str.isalpha, unit)) < 100:
        assert find_loop(f"{unit}\n" * copies) is None
