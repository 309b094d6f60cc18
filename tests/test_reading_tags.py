"""Tags: description and keywords out of whatever a model answers, as people would have written them."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kobold_reader.reading.tags import GRAMMAR, MOST_KEYWORDS, Tags, keywords_of, parse

INSTRUCTION = "Describe this image in one sentence, and give 5 to 10 keywords for it."


def answer(keywords: object, description: object = "A letter to Axel.") -> str:
    return json.dumps({"description": description, "keywords": keywords}, ensure_ascii=False)


def keywords(listed: object, description: object = "A letter to Axel.") -> list[str]:
    found = parse(answer(listed, description), INSTRUCTION)
    return list(found.keywords) if found else []


@pytest.mark.parametrize(
    "said",
    [
        '{"description": "A letter to Axel.", "keywords": ["letter", "slates"]}',
        '```json\n{"description": "A letter to Axel.", "keywords": ["letter", "slates"]}\n```',
        '<think>hm</think>{ "Description": "A letter to\nAxel.", "Keywords": "letter, slates" }',
        'Here is the JSON:\n\n{"caption": "A letter to Axel.", "tags": ["letter", "slates"]} I hope this helps.',
        "Description: A letter to Axel.\n\nKeywords: letter, slates",
        "**Description:** A letter to Axel.\n**Keywords:**\n- letter\n- slates",
        "A letter to Axel.\n\nTags: 1. letter\n2. slates",
        # cut by max_length
        '{"description": "A letter to Axel.", "keywords": ["letter", "slates", "rec',
        '{"description": "A letter to Axel.", "keywords": ["letter", "slates",',
        '{"description": "A letter to Axel.", "keywords": ["letter", "slates"',
    ],
)
def test_many_ways_to_say_it(said: str) -> None:
    assert parse(said, INSTRUCTION) == Tags("A letter to Axel.", ("letter", "slates"))


@pytest.mark.parametrize("said", ["letter, slates", "- letter\n- slates", "1. letter\n2. slates", "letter\nslates"])
def test_a_list_alone_has_no_description(said: str) -> None:
    assert parse(said) == Tags("", ("letter", "slates"))


@pytest.mark.parametrize(
    "said",
    [
        "",
        "<think>hm",
        "I cannot see the image.",
        '{"description": "A letter to Axel."}',
        '{"description": "A letter to Axel.", "key',
        '{"description": "A letter to Axel.", "keywords": []}',
        '{"description": "A letter to Axel.", "keywords": ["keywords", "image", 12, null]}',
        '["a page of prose"',
        "The page shows a letter that was written to Axel in the year of the great fire of Lindby.",
    ],
)
def test_what_holds_no_keyword_is_no_answer(said: str) -> None:
    assert parse(said, INSTRUCTION) is None


def test_duplicates_and_plurals_are_merged() -> None:
    assert keywords(
        ["letter", "Letter", "letters", "ledgers", "ledger", "diary", "diaries", "glass", "box", "boxes"]
    ) == [
        *("letter", "ledgers", "diary", "glass", "box"),
    ]
    assert keywords(["gas", "bus", "ss"]) == ["gas", "bus", "ss"], "alone, nothing is taken for a plural"


def test_numbers_quotes_and_words_of_the_instruction_go() -> None:
    assert keywords(["1. letter", '"slates"', "• oats", "«cart»", "5 to 10 keywords", "image", "Keyword", "1954"]) == [
        *("letter", "slates", "oats", "cart", "1954"),
    ]
    assert keywords(["a sentence that goes on for much longer than any keyword does", "letter"]) == ["letter"]
    assert keywords(["letter, slates; oats、cart"]) == ["letter", "slates", "oats", "cart"]


def test_capitals_that_mean_something_stay() -> None:
    assert keywords(["letter", "Axel Lindqvist", "Uppsala"]) == ["letter", "Axel Lindqvist", "Uppsala"]
    described = "A letter from Uppsala to the USA, with a map."
    assert keywords(["Letter", "Uppsala", "USA", "Map", "A"], described) == ["letter", "Uppsala", "USA", "map", "a"]
    assert keywords(["Brief", "Dachziegel"], "Ein Brief über Dachziegel.") == ["Brief", "Dachziegel"]


def test_every_script_is_a_script() -> None:
    assert keywords(["письмо", "Письмо", "черепица"]) == ["письмо", "черепица"]
    assert keywords(["手紙", "屋根", "手紙"]) == ["手紙", "屋根"]
    assert keywords(["رسالة"]) == ["رسالة"]
    assert keywords(["cafe\u0301", "café"]) == ["café"], "one spelling of one letter"


def test_there_are_never_more_than_people_would_write() -> None:
    assert len(keywords([f"word{number}" for number in range(200)])) == MOST_KEYWORDS
    assert len(", ".join(keywords([f"{letter * 39}" for letter in "abcdefghijkl"]))) <= 300


def test_the_text_is_read_back() -> None:
    found = parse(answer(["letter", "Axel Lindqvist"]))
    assert found is not None
    assert found.text == "A letter to Axel.\n\nKeywords: letter, Axel Lindqvist"
    assert keywords_of(found.text) == found.keywords
    assert keywords_of(Tags("", ("letter",)).text) == ("letter",)
    assert keywords_of("") == keywords_of("A letter.") == ()


@given(listed=st.lists(st.text(max_size=30)), description=st.text(max_size=60))
@example(listed=["[#0"], description="")
def test_whatever_is_named_comes_back_clean(listed: list[str], description: str) -> None:
    found = parse(answer(listed, description))
    if found is None:
        return
    assert keywords_of(found.text) == found.keywords
    assert len({word.casefold() for word in found.keywords}) == len(found.keywords) <= MOST_KEYWORDS
    assert all(word.strip() == word and "," not in word and "\n" not in word for word in found.keywords)
    again = parse(answer(list(found.keywords), found.description))
    assert again is not None
    assert again.keywords == found.keywords


@given(st.integers(0, 90))
def test_a_cut_answer_never_gives_half_a_keyword(cut: int) -> None:
    whole = answer(["letter", "slates", "Uppsala"])
    found = parse(whole[:cut])
    assert found is None or set(found.keywords) <= {"letter", "slates", "Uppsala"}


def test_the_grammar_is_gbnf() -> None:
    """The server ignores a broken one without a word, so its form is checked: every name is defined, once."""
    rules = dict(line.split(" ::= ", 1) for line in GRAMMAR.strip().splitlines())
    assert list(rules) == ["root", "list", "string", "char", "hex", "ws"]
    assert '"\\"description\\":"' in rules["root"]
    assert '"\\"keywords\\":"' in rules["root"]
    assert rules["char"].count("[") == rules["char"].count("]") - rules["char"].count("\\]") == 2
