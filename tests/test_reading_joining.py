"""The readings of tiles become one text: nothing is doubled or lost, and every character can be found again."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kobold_reader.pages import LinePiece, PageView
from kobold_reader.reading.joining import join_readings, join_tiles
from kobold_reader.reading.results import Reading
from tests.measure import character_error_rate

LINES = 0.02  # of the page, from one line to the next
LETTER = 0.01


def view(pieces: Sequence[LinePiece], size: tuple[int, int] = (336, 336)) -> PageView:
    box = (
        min(one.box[0] for one in pieces),
        min(one.box[1] for one in pieces),
        max(one.box[2] for one in pieces),
        max(one.box[3] for one in pieces),
    )
    return PageView(b"", "image/jpeg", *size, None, 0, box, lines=tuple(pieces))


def piece(row: int, start: int, end: int) -> LinePiece:
    """The letters from `start` to `end` of a row of typescript."""
    return LinePiece(row, (start * LETTER, row * LINES, end * LETTER, (row + 0.8) * LINES))


def cut(lines: Sequence[str], columns: Sequence[Sequence[tuple[int, int]]]) -> tuple[list[PageView], list[str]]:
    """Tiles beside each other that show of line n the letters of `columns[tile][n]`, and what stands in them."""
    views, texts = [], []
    for column in columns:
        shown = [(row, start, end) for row, (start, end) in enumerate(column) if lines[row][start:end].strip()]
        if not shown:
            continue
        views.append(view([piece(*one) for one in shown]))
        texts.append("\n".join(lines[row][start:end].strip() for row, start, end in shown))
    return views, texts


def joined(lines: Sequence[str], columns: Sequence[Sequence[tuple[int, int]]]) -> str:
    views, texts = cut(lines, columns)
    return join_tiles(views, texts).text


PROSE = [
    "It",
    "was",
    "agreed",
    "that",
    "the",
    "jetty",
    "should",
    "be",
    "mended",
    "before",
    "the",
    "summer",
    "and",
    "that",
    "the",
    "members",
    "would",
    "bring",
    "their",
    "own",
    "tools",
    "to",
    "the",
    "boathouse",
    "on",
    "Saturday",
    "morning",
    "where",
    "the",
    "harbour",
    "master",
    "keeps",
    "the",
    "keys",
    "of",
    "the",
    "shed",
]


@st.composite
def pages(draw: st.DrawFn) -> list[str]:
    words = st.sampled_from(PROSE)
    return [" ".join(draw(st.lists(words, min_size=2, max_size=9))) for _ in range(draw(st.integers(1, 12)))]


def between_words(line: str, near: int) -> int:
    """The gap between two words that is nearest."""
    gaps = [0, *(at for at, letter in enumerate(line) if letter == " "), len(line)]
    return min(gaps, key=lambda at: abs(at - near))


@given(pages(), st.integers(5, 40))
def test_lines_cut_between_words_come_back_as_they_were(lines: list[str], near: int) -> None:
    cuts = [between_words(line, near) for line in lines]
    left = [(0, at) for at in cuts]
    right = [(at, len(line)) for at, line in zip(cuts, lines, strict=True)]
    assert joined(lines, [left, right]) == "\n".join(lines)


@given(pages(), st.integers(5, 40))
def test_tiles_below_each_other_come_back_as_they_were(lines: list[str], at: int) -> None:
    parts = [part for part in (range(min(at, len(lines))), range(min(at, len(lines)), len(lines))) if part]
    views = [view([piece(row, 0, len(lines[row])) for row in part]) for part in parts]
    texts = ["\n".join(lines[row] for row in part) for part in parts]
    assert join_tiles(views, texts).text == "\n".join(lines)


@given(st.integers(0, 1000), st.integers(12, 30))
def test_what_two_tiles_both_show_stands_once(seed: int, near: int) -> None:
    """Where there was no gap to cut at, both tiles show ten letters, each with half a letter misread at its edge."""
    chance = random.Random(seed)
    lines = [" ".join(chance.sample(PROSE, 8)) for _ in range(6)]
    views, texts = cut(lines, [[(0, near + 10)] * 6, [(near, len(line)) for line in lines]])
    texts = ["\n".join(row[:-1] + "l" for row in texts[0].split("\n")), texts[1]]
    found = join_tiles(views, texts).text
    assert character_error_rate("\n".join(lines), found) <= 0.03
    assert sum((Counter(found.split()) & Counter(" ".join(lines).split())).values()) >= 46, "of 48 words"


def test_misread_letters_in_the_overlap_keep_one_copy() -> None:
    views = [view([piece(0, 0, 20)]), view([piece(0, 8, 30)])]
    found = join_tiles(views, ["the harbour mastcr ke", "ur master keeps the keys"]).text
    assert found in {"the harbour master keeps the keys", "the harbour mastcr keeps the keys"}


def test_two_pieces_that_have_nothing_in_common_both_stay() -> None:
    views = [view([piece(0, 0, 20)]), view([piece(0, 15, 30)])]
    assert join_tiles(views, ["one two three", "seven eight"]).text == "one two three seven eight"


def test_a_model_that_runs_lines_together_is_taken_apart_again() -> None:
    lines = ["Thank you for your card from the mountains", "answered in July but you know how", "are long and there"]
    columns = [[(0, 23), (0, 20), (0, 18)], [(24, 42), (21, 33), (18, 18)]]
    views, texts = cut(lines, columns)
    texts[0] = texts[0].replace("\n", " ")
    assert join_tiles(views, texts).text == "\n".join(lines)


def test_a_line_that_one_model_left_out_moves_no_other() -> None:
    lengths = (4, 20, 9, 16, 6, 18, 11, 3)
    lines = [f"{'x' * length} and the rest of line {row}" for row, length in enumerate(lengths)]
    columns = [[(0, length) for length in lengths], [(length, len(lines[row])) for row, length in enumerate(lengths)]]
    views, texts = cut(lines, columns)
    shorter = texts[0].split("\n")
    lost = shorter.pop(3)
    found = join_tiles(views, ["\n".join(shorter), texts[1]]).text.split("\n")
    assert found == [line.removeprefix(lost).strip() if row == 3 else line for row, line in enumerate(lines)]


@given(pages(), st.lists(st.lists(st.sampled_from([*PROSE, "|", "\n", "\n\n"]), max_size=30), min_size=2, max_size=2))
def test_whatever_the_models_write_no_word_of_it_is_lost(lines: list[str], answers: list[list[str]]) -> None:
    cuts = [between_words(line, 20) for line in lines]
    views, _ = cut(lines, [[(0, at) for at in cuts], [(at, len(line)) for at, line in zip(cuts, lines, strict=True)]])
    answers = answers[: len(views)]
    texts = [" ".join(answer) for answer in answers]
    found = join_tiles(views, texts)
    assert Counter(found.text.replace("|", " ").split()) == Counter(" ".join(texts).replace("|", " ").split())


@given(pages(), st.integers(5, 40))
def test_every_character_is_found_where_it_went(lines: list[str], near: int) -> None:
    cuts = [between_words(line, near) for line in lines]
    columns = [[(0, at) for at in cuts], [(at, len(line)) for at, line in zip(cuts, lines, strict=True)]]
    views, texts = cut(lines, columns)
    whole = join_tiles(views, texts)
    for tile, text in enumerate(texts):
        at = 0
        for word in text.split():
            at = text.index(word, at)
            place = whole.place(tile, at, at + len(word))
            assert place is not None
            assert whole.text[slice(*place)] == word
            at += len(word)


# ── tables ────────────────────────────────────────────────────────────────────────────────────────


def test_a_table_cut_between_its_columns_is_one_table() -> None:
    rows = ["Date No. Kr.", "2 May 1 12.50", "2 May 2 8.50"]
    views, _ = cut(rows, [[(0, 8), (0, 7), (0, 7)], [(9, 12), (8, 13), (8, 12)]])
    texts = ["| Date | No. |\n|---|---|\n| 2 May | 1 |\n| 2 May | 2 |", "| Kr. |\n|---|\n| 12.50 |\n| 8.50 |"]
    assert join_tiles(views, texts).text == (
        "| Date | No. | Kr. |\n|---|---|---|\n| 2 May | 1 | 12.50 |\n| 2 May | 2 | 8.50 |"
    )


@pytest.mark.parametrize("head", ["", "| Date | Kr. |\n|---|---|\n", "|  |  |\n|---|---|\n"])
def test_a_table_that_goes_on_in_the_next_tile_has_one_head(head: str) -> None:
    views = [view([piece(row, 0, 20) for row in part]) for part in ((0, 1), (2, 3))]
    texts = ["| Date | Kr. |\n|---|---|\n| 2 May | 12.50 |", f"{head}| 3 May | 8.50 |\n| 4 May | 6.25 |"]
    assert join_tiles(views, texts).text == (
        "| Date | Kr. |\n|---|---|\n| 2 May | 12.50 |\n| 3 May | 8.50 |\n| 4 May | 6.25 |"
    )


def test_a_row_taken_for_a_head_stays_as_a_row() -> None:
    views = [view([piece(row, 0, 20) for row in part]) for part in ((0, 1), (2, 3))]
    texts = ["| Date | Kr. |\n|---|---|\n| 2 May | 12.50 |", "| 3 May | 8.50 |\n|---|---|\n| 4 May | 6.25 |"]
    assert "| 3 May | 8.50 |\n| 4 May | 6.25 |" in join_tiles(views, texts).text


def test_another_table_keeps_its_head() -> None:
    views = [view([piece(row, 0, 20) for row in part]) for part in ((0, 1), (2, 3))]
    texts = ["| Date | Kr. |\n|---|---|\n| 2 May | 12.50 |", "| A | B | C |\n|---|---|---|\n| 1 | 2 | 3 |"]
    assert join_tiles(views, texts).text == "\n".join(texts)


# ── readings ──────────────────────────────────────────────────────────────────────────────────────


def reading(text: str, **more: object) -> Reading:
    return Reading(task="ocr", status="ok" if text else "no_text", text=text, engine="koboldcpp", **more)  # type: ignore[arg-type]


def test_readings_are_added_up() -> None:
    views = [view([piece(0, 0, 20)], (300, 16)), view([piece(1, 0, 20)], (200, 16))]
    sizes = ((300, 16),), ((200, 16),)
    whole = join_readings(
        views,
        [
            reading("Dear Ingrid,", view_sizes=sizes[0], confidence=0.9, prompt_tokens=600, completion_tokens=4,
                    elapsed_s=1.0, image_verified=True, doubtful=({"start": 5, "end": 11, "rival": "Astrid"},)),
            reading("Thank you!!!", view_sizes=sizes[1], confidence=0.7, prompt_tokens=600, completion_tokens=3,
                    elapsed_s=2.0, attempts=2, image_verified=True,
                    doubtful=({"start": 6, "end": 9, "rival": "me"},)),
        ],
    )  # fmt: skip
    assert (whole.text, whole.status) == ("Dear Ingrid,\nThank you!!!", "ok")
    assert whole.view_sizes == ((300, 16), (200, 16))
    assert whole.effective_px == 1000, "the coarser of both tiles shows a fifth of the page's width in 200 px"
    assert (whole.prompt_tokens, whole.completion_tokens, whole.attempts, whole.elapsed_s) == (1200, 7, 3, 3.0)
    assert whole.confidence == pytest.approx(0.8)
    assert whole.image_verified is True
    assert [(whole.text[int(one["start"]) : int(one["end"])], one["rival"]) for one in whole.doubtful] == [
        ("Ingrid", "Astrid"),
        ("you", "me"),
    ]


@pytest.mark.parametrize(
    ("statuses", "wanted"),
    [
        (("ok", "no_text"), "ok"),
        (("no_text", "no_text"), "no_text"),
        (("ok", "truncated"), "truncated"),
        (("truncated", "looping"), "looping"),
    ],
)
def test_the_worst_status_is_the_pages(statuses: tuple[str, str], wanted: str) -> None:
    views = [view([piece(row, 0, 20)]) for row in (0, 1)]
    readings = [
        Reading(task="ocr", status=status, text="" if status == "no_text" else "text", engine="koboldcpp")  # type: ignore[arg-type]
        for status in statuses
    ]
    assert join_readings(views, readings).status == wanted


def test_one_count_that_is_not_known_makes_the_sum_unknown() -> None:
    views = [view([piece(row, 0, 20)]) for row in (0, 1)]
    whole = join_readings(
        views, [reading("a", prompt_tokens=5, image_verified=True), reading("b", image_verified=False)]
    )
    assert whole.prompt_tokens is None
    assert whole.image_verified is False
