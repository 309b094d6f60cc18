"""Loops are seen soon; pages that repeat themselves are left alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kobold_reader.reading.attempts import FINITE_PATIENCE
from kobold_reader.reading.loops import find_loop

HEAD = "Ledger of the parish of Lindby, 1931.\nEntries of the autumn:\n"
_random = random.Random(1931)
_WORDS = ("slates", "oats", "the", "bushel", "came", "morning", "of", "and", "Tuesday", "cart", "by", "broken", "two")
_PARAGRAPHS = "".join(" ".join(_random.choice(_WORDS) for _ in range(11)) + "\n" for _ in range(20))
_ADDRESS = "Johann Lindqvist\nStorgatan 4\n123 45 Uppsala\nSweden\n\n"
_CARD = (
    "Axel Lindqvist, slates and roofing of every kind\nStorgatan 4, 123 45 Uppsala\nTelephone 1234, mornings only\n\n"
)

_NAMES = ("Axel", "Johann", "Maria", "Anna", "Karl", "Erik", "Ingrid", "Sven", "Brita", "Olof", "Nils", "Karin", "Elsa")


def _some(*choices: str) -> str:
    return _random.choice(choices)


def _lines(count: int, line: str, **values: Sequence[object]) -> str:
    """Lines in which each name in braces is one of its values, by chance; `i` is the number of the line."""
    return "".join(
        line.format(i=i, **{name: _random.choice(some) for name, some in values.items()}) for i in range(1, count + 1)
    )


def _bottles() -> str:
    tens, ones = ("ninety", "eighty", "seventy", "sixty"), ("nine", "eight", "seven", "six", "five", "four", "three")
    numbers = [f"{ten}-{one}" for ten in tens for one in ones]
    verse = "{0} bottles of beer on the wall, {0} bottles of beer.\nTake one down and pass it around, {1} bottles.\n\n"
    return "".join(verse.format(*pair) for pair in pairwise(numbers))


PAGES = {
    "equal ledger lines": "1 bushel of oats ........ 0.50\n" * 60,
    "a sheet of answers": "".join(f"{i}. (A) (B) (C) (D) (E)\n" for i in range(1, 201)),
    "dittos": "1 bushel of oats\n" + '"\n' * 70,
    "dittos in words": "do.  do.  do.   12 0 0\n" * 70,
    "a dotted form": "Name " + "." * 90 + "\n" + ("." * 110 + "\n") * 50,
    "a dotted form in one line": "Name " + "." * 1500,
    "lines to write on": ("Name: " + "_" * 80 + "\n") * 45,
    "a table of zeros": "| 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 |\n" * 70,
    "an empty table": "|  |  |  |  |  |  |\n" * 75,
    "an HTML table of zeros": "<table>" + ("<tr>" + "<td>0</td>" * 14 + "</tr>") * 60 + "</table>",
    "a wide HTML row": "<table><tr>" + "<td></td>" * 90 + "</tr></table>",
    "a prayer": "南無阿弥陀仏" * 108,
    "a prayer with blanks": "南無阿弥陀仏 " * 108,
    "a prayer in columns": "南無阿弥陀仏\n" * 108,
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
    "long lines to be learnt": "I will not talk in class when the teacher is speaking.\n" * 78,
    "a ledger": _lines(
        100, "{n} bushels of {what} ...... {n}.{c}\n", n=range(1, 60), what=("oats", "rye", "wheat"), c=range(10, 99)
    ),
    "a bank statement": _lines(
        90, "{d}.11. PURCHASE BY CARD 1234 GROCER STORES {n}.{c}\n", d=range(10, 30), n=range(90), c=range(10, 99)
    ),
    "a litany": _lines(90, "Saint {one} of {two}, pray for us.\n", one=_NAMES, two=_NAMES),
    "a counting song": _bottles(),
    "a poem with a refrain": "".join(
        _lines(4, "The {a} went down to the {b}\n", a=_WORDS, b=_NAMES)
        + "And the wind blew over the sea, my love,\n" * 2
        for _ in range(12)
    ),
    "a psalm": _lines(
        40, "O give thanks for the {a} and the {b}: for his mercy endureth for ever.\n", a=_WORDS, b=_WORDS
    ),
    "an index": _lines(150, "{a} {b}, {n}, {m}\n", a=_NAMES, b=_NAMES, n=range(400), m=range(400)),
    "a table of contents": _lines(70, "Chapter {i}. The {a} of {b} {dots} {i}7\n", a=_WORDS, b=_NAMES, dots=["." * 50]),
    "addresses": _lines(
        60, "{a} {b}, Storgatan {n}, Uppsala, telephone {t}\n", a=_NAMES, b=_NAMES, n=range(99), t=range(1000, 9999)
    ),
    "a price list": _lines(
        80, "Screw, steel, M{n} x {m} ........ {c} a hundred\n", n=range(2, 20), m=range(10, 90, 5), c=range(100, 900)
    ),
    "a dictionary": "".join(
        f"{word[:1]}{word[::-1]}, n., the {word} of a {other}; see also {other}{word}.\n"
        for word in _WORDS
        for other in _NAMES[:8]
    ),
    "drawn numbers": _lines(400, "{n}\n", n=range(10_000, 99_999)),
    "random figures": "\n".join(" ".join(f"{_random.randrange(100):02}" for _ in range(25)) for _ in range(60)),
    "a table of noughts and ones": "\n".join(" ".join(_some("0", "1") for _ in range(40)) for _ in range(60)),
    "a register of a class": "".join(
        f"| {_some(*_NAMES)} | " + " | ".join(_some("P", "P", "P", "A") for _ in range(31)) + " |\n" for _ in range(60)
    ),
    "a knitting pattern": "".join(
        f"Row {row}: " + ", ".join(_some("k2", "p2", "k1", "p1", "yo", "k2tog") for _ in range(14)) + ".\n"
        for row in range(1, 61)
    ),
    "a questionnaire": _lines(
        40,
        "{i}. The {a} of {b} came in time.\n[ ] strongly agree [ ] agree [ ] neutral [ ] disagree [ ] do not know\n",
        a=_WORDS,
        b=_NAMES,
    ),
    "a multiplication table": "\n".join(" ".join(str(a * b) for a in range(1, 21)) for b in range(1, 51)),
    "a Chinese ledger": _lines(80, "收入大米{n}斗，计银{m}两。\n", n=range(1, 60), m=range(1, 90)),
    "a Chinese prayer": "南無阿彌陀佛\n" * 78,
    "a Japanese register": _lines(
        70, "{a}年{b}月 {c}丁目 戸主 転入届 受付済\n", a=range(1, 40), b=range(1, 13), c=range(1, 30)
    ),
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
    for so_far in range(397, len(text), 797):
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


# ── loops that vary ──────────────────────────────────────────────────────────────────────────────


def _rut(words: Sequence[str], chars: int, chance: float, blank: str = " ") -> str:
    """Text of a model in a rut: it goes on as it did before, or with another of its few words."""
    chooses = random.Random(7)
    text = list(words)
    followers: dict[str, list[str]] = {}
    while len(text) * (len(blank) + sum(map(len, words)) / len(words)) < chars:
        followers.setdefault(text[-2], []).append(text[-1])
        before = followers.get(text[-1], words)
        text.append(chooses.choice(words if chooses.random() < chance else before))
    return blank.join(text)


_ENGLISH = "the slates came on Tuesday with cart of old Johansson and they were broken when it rained in harbour"
_RUSSIAN = "плиты пришли во вторник на старой телеге и были разбиты когда пошёл дождь над гаванью у города"
_ARABIC = "وصلت الألواح يوم الثلاثاء مع عربة قديمة وكانت مكسورة حين نزل المطر على الميناء قرب المدينة"
_HINDI = "मंगलवार को पुरानी गाड़ी से पत्थर आए और बारिश में बंदरगाह के पास टूट गए थे"
_CHINESE = ("今天天气很好", "我们去公园", "大家都很高兴", "下午下雨了", "他回家吃饭", "明天再来")
_JAPANESE = ("今日は天気が良い", "公園に行きました", "みんな喜んでいた", "午後に雨が降った", "家に帰りました")
_THAI = ("วันนี้อากาศดี", "เราไปสวนสาธารณะ", "ทุกคนมีความสุข", "ตอนบ่ายฝนตก", "เขากลับบ้าน")

_PROSE = (
    "My dear sister, we reached the island before dark, and the pilot, who knows every rock of it, would not hear of\n"
    "payment. The house stands empty since the autumn; two windows are gone, and swallows have built above the stove.\n"
    "I have written to the carpenter at Norrby about the roof, and hope that he comes while the weather holds.\n"
)

VARIED = {
    "nearly exact": _rut(_ENGLISH.split(), 9000, 0.02),
    "under a penalty": _rut(_ENGLISH.split(), 9000, 0.15),
    "a few words in any order": _rut(_ENGLISH.split(), 9000, 1.0),
    "Russian": _rut(_RUSSIAN.split(), 9000, 0.1),
    "Arabic": _rut(_ARABIC.split(), 8000, 0.1),
    "Hindi": _rut(_HINDI.split(), 9500, 0.1),
    "Chinese": _rut(_CHINESE, 4500, 0.2, "，"),
    "Japanese": _rut(_JAPANESE, 4500, 0.2, "。"),
    "Thai": _rut(_THAI, 8500, 0.2, ""),
    "two sentences by turns": "".join(
        _some("He went down to the harbour. ", "She came back from the town. ") for _ in range(250)
    ),
    "paragraphs by turns": "".join(_some(_PARAGRAPHS[:300], _PARAGRAPHS[300:600]) + "\n\n" for _ in range(60)),
    "rows of a table": _lines(420, "| {a} | {b} | 0.50 |\n", a=("oats", "rye", "wheat"), b="234"),
    "rows of an HTML table": "<table>"
    + "".join(f"<tr><td>{_some(*_WORDS)}</td><td>{_some('1', '2', '3')}</td></tr>" for _ in range(420)),
    "rows that count": _lines(360, "| {i} | 1931 | oats | 0.50 |\n"),
    "rows that count by tens": "".join(f"| {10 * i} | {i} | oats |\n" for i in range(1, 360)),
    "rows that count and end in a number": "<table>"
    + "".join(
        f"<tr><td>{i}</td><td>Lindqvist, Axel</td><td>{_some('19', '23', '31', '40', '44', '52')}</td></tr>"
        for i in range(1, 420)
    ),
    "a price that grows with its number": "".join(f"Item {i} ........ ${i}.00\n" for i in range(1, 400)),
    "sentences that count": "".join(
        f"Paragraph {i} says that the slates were broken in the harbour. " for i in range(140)
    ),
    "one word and its echoes": "".join(_some("slates ", "slates, ", "Slates. ", "slates and ") for _ in range(950)),
    "one letter and another": "".join(_some("l", "I") for _ in range(7000)),
}


@pytest.mark.parametrize("loop", VARIED.values(), ids=list(VARIED))
@pytest.mark.parametrize("patience", [1.0, FINITE_PATIENCE])
def test_a_loop_that_varies_is_seen(loop: str, patience: float) -> None:
    text = HEAD + _PROSE + loop
    found = find_loop(text, patience=patience)
    assert found is not None
    page = len(HEAD + _PROSE)
    assert page <= found.kept <= page + 2000, "what came before, and little more"


def test_a_loop_of_eighty_thousand_characters_begins_where_it_began() -> None:
    """A server whose progress cannot be asked for gives it whole."""
    text = HEAD + _rut(_ENGLISH.split(), 80_000, 0.1)
    found = find_loop(text)
    assert found is not None
    assert found.kept < len(HEAD) + 1500


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
