"""Places that a model writes are kept with their text, if they are whole and their scale is known."""

from __future__ import annotations

import pytest

from kobold_reader.pages import PageView
from kobold_reader.reading.cleaning import clean
from kobold_reader.reading.places import boxes_of

WHOLE = PageView(b"", "image/png", 1000, 1400, None, 0)
HERE = (1000, 2000, 5000, 2000, 5000, 3000, 1000, 3000)
"""From a tenth to half of the width, from a fifth to three tenths of the height."""


def placed(answer: str, view: PageView = WHOLE) -> list[tuple[str, tuple[int, ...]]]:
    page = clean(answer)
    return [(page.text[box.start : box.end], box.corners) for box in boxes_of(page, view)]


@pytest.mark.parametrize(
    "answer",
    [
        "<|object_ref_start|>Dear Axel<|object_ref_end|><|box_start|>(100,200),(500,300)<|box_end|>\nthe slates",
        "<ref>Dear Axel</ref><box>[[100, 200, 500, 300]]</box> the slates",
        "<|box_start|>(100,200),(500,300)<|box_end|> Dear Axel\nthe slates",
        "<quad>(100,200),(500,200),(500,300),(100,300)</quad>Dear Axel\nthe slates",
        "Dear Axel<loc_100><loc_200><loc_500><loc_300>the slates",
        "<text><loc_50><loc_100><loc_250><loc_150>Dear Axel</text>\nthe slates",
        "<section_header_level_1><loc_50><loc_100><loc_250><loc_150>Dear Axel</section_header_level_1>\nthe slates",
    ],
)
def test_every_way_to_write_a_place(answer: str) -> None:
    assert placed(answer) == [("Dear Axel", HERE)]
    assert clean(answer).text.split() == ["Dear", "Axel", "the", "slates"]


def test_scales_are_those_of_the_makers() -> None:
    [(text, corners)] = placed("<|ref|>text<|/ref|><|det|>[[0, 0, 999, 999]]<|/det|>\nDear Axel,\nthe slates")
    assert (text, corners) == ("Dear Axel,\nthe slates", (0, 0, 10_000, 0, 10_000, 10_000, 0, 10_000))
    [(text, corners)] = placed("text[[0, 0, 999, 999]]\nDear Axel,\nthe slates")
    assert (text, corners) == ("Dear Axel,\nthe slates", (0, 0, 10_000, 0, 10_000, 10_000, 0, 10_000)), (
        "tokens left out"
    )
    [(text, corners)] = placed("<loc0512><loc0000><loc1024><loc0256> Dear Axel")
    assert (text, corners) == ("Dear Axel", (0, 5000, 2500, 5000, 2500, 10_000, 0, 10_000)), "y before x"


@pytest.mark.parametrize(
    "place",
    [
        "<|box_start|>(100,200),(500<|box_end|>",
        "<|box_start|>(100,200),(5000,300)<|box_end|>",
        "<|box_start|>(500,200),(100,300)<|box_end|>",
        "<|det|>[[]]<|/det|>",
        "<loc_100><loc_200><loc_500>",
    ],
)
def test_a_place_that_is_not_whole_goes_without_a_trace(place: str) -> None:
    answer = f"{place} Dear Axel"
    assert (clean(answer).text, placed(answer)) == ("Dear Axel", [])


def test_a_place_in_the_middle_of_a_line_belongs_to_nothing_that_is_known() -> None:
    answer = "Dear Axel <|box_start|>(100,200),(500,300)<|box_end|>, the slates"
    assert placed(answer) == []


def test_a_place_on_a_part_of_the_page_is_one_on_the_page() -> None:
    half = PageView(b"", "image/png", 1000, 700, None, 0, box=(0.0, 0.5, 1.0, 1.0))
    [(_, corners)] = placed("<|box_start|>(100,200),(500,300)<|box_end|> Dear Axel", half)
    assert corners == (1000, 6000, 5000, 6000, 5000, 6500, 1000, 6500)


def test_places_go_with_the_fence_and_the_thought() -> None:
    answer = "<think>hm</think>\r\n```markdown\r\n<|box_start|>(100,200),(500,300)<|box_end|> A &amp; B\n```"
    assert placed(answer) == [("A & B", HERE)]
