"""Where lines stand: offsets in the text beside corners on the page."""

from __future__ import annotations

from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kobold_reader.reading.results import LineBox, Reading, joined, lines_at

HERE = (0, 0, 10_000, 0, 10_000, 500, 0, 500)

pieces = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)


@given(st.lists(st.lists(pieces, max_size=4), max_size=6))
def test_every_box_says_where_its_piece_stands(lines: list[list[str]]) -> None:
    numbers = iter(range(1000))
    placed = [[(piece, (next(numbers),), 0.5) for piece in line] for line in lines]
    text, boxes = joined(placed)
    assert text == "\n".join(" ".join(filter(None, line)) for line in lines if any(line))
    written = [one for line in placed for one in line if one[0]]
    assert [(text[box.start : box.end], box.corners, box.score) for box in boxes] == written


def boxes_of(*lines: str) -> tuple[str, tuple[LineBox, ...]]:
    return joined([[(piece, HERE, None) for piece in line.split("|")] for line in lines])


@pytest.mark.parametrize(
    ("passage", "lines"),
    [
        ("Axel", [0]),
        ("slates", [1]),
        ("the slates came on Tues-\nday with", [1, 2]),  # hyphenated, over two lines
        ("Mooring 12.50", [3, 4]),  # two boxes, joined on one line of the text
        ("12.50", [4]),
        ("Axel,\nthe slates came on Tues-\nday with Johansson.\nMooring", [0, 1, 2, 3]),
        ("\n", []),  # the end of a line is no part of any
    ],
)
def test_a_passage_has_the_lines_that_hold_any_of_it(passage: str, lines: list[int]) -> None:
    text, boxes = boxes_of("Dear Axel,", "the slates came on Tues-", "day with Johansson.", "Mooring|12.50")
    start = text.index(passage)
    assert lines_at(boxes, start, start + len(passage)) == lines


def test_places_of_older_ledgers_are_known_without_scores_and_words() -> None:
    older = [[0, 4, list(HERE)], [5, 9, list(HERE), 0.9], [10, 14, list(HERE), None, [0, 10_000]]]
    reading = Reading("ocr", "ok", "some dues here", "rapidocr")
    boxes = Reading.of_json({**asdict(reading), "boxes": older}).boxes
    assert boxes == (LineBox(0, 4, HERE), LineBox(5, 9, HERE, 0.9), LineBox(10, 14, HERE, None, (0, 10_000)))


def test_a_page_without_lines_has_no_text_and_no_boxes() -> None:
    assert joined([]) == ("", ())
    assert joined([[("", HERE, None)], []]) == ("", ())
    assert lines_at((), 0, 5) == []
