"""Tags: description and keywords out of whatever a model answers, as people would have written them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kobold_reader.errors import ConfigError
from kobold_reader.options import ReadOptions
from kobold_reader.reading.tags import MOST_KEYWORDS, TagForm, Tags, keywords_of, singular
from kobold_reader.vocabulary import Vocabulary

parse = TagForm().parse
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
@example(listed=["A", "a"], description="")
def test_whatever_is_named_comes_back_clean(listed: list[str], description: str) -> None:
    found = parse(answer(listed, description))
    if found is None:
        return
    assert keywords_of(found.text) == found.keywords
    assert len({word.casefold() for word in found.keywords}) == len(found.keywords) <= MOST_KEYWORDS
    assert all(word.strip() == word and "," not in word and "\n" not in word for word in found.keywords)
    again = parse(answer(list(found.keywords), found.description))
    assert again is not None
    # Capitals are judged by the whole list, and a word may have been left out of it.
    assert [word.casefold() for word in again.keywords] == [word.casefold() for word in found.keywords]


@given(st.integers(0, 90))
def test_a_cut_answer_never_gives_half_a_keyword(cut: int) -> None:
    whole = answer(["letter", "slates", "Uppsala"])
    found = parse(whole[:cut])
    assert found is None or set(found.keywords) <= {"letter", "slates", "Uppsala"}


def test_the_grammar_is_gbnf() -> None:
    """The server ignores a broken one without a word, so its form is checked: every name is defined, once."""
    rules = dict(line.split(" ::= ", 1) for line in TagForm().grammar.strip().splitlines())
    assert list(rules) == ["root", "list", "string", "char", "hex", "ws"]
    assert '"\\"description\\":"' in rules["root"]
    assert '"\\"keywords\\":"' in rules["root"]
    assert rules["char"].count("[") == rules["char"].count("]") - rules["char"].count("\\]") == 2


# ── normal form ──────────────────────────────────────────────────────────────────────────────────


def test_english_keywords_are_in_the_singular_where_that_is_sure() -> None:
    described = "Two fishing boats and a dog."
    said = ["fishing boats", "dogs", "cherries", "churches", "trees", "bridges", "women", "horses", "Azores"]
    assert keywords(said, described) == [
        *("fishing boat", "dog", "cherry", "church", "tree", "bridge", "woman", "horse", "Azores"),
    ]
    assert keywords(["dogs", "dog"], described) == ["dog"]
    assert keywords(["dogs"], "Zwei Hunde.") == ["dogs"], "other languages have other rules"


RIGHT = re.findall(
    r"\S+",
    """
glass grass gas bus buses lens lenses iris tennis atlas compass cactus christmas physics ceramics athletics news jeans
scissors sunglasses ties pies movies cookies series species shoes canoes olives headaches mustaches clothes stairs ruins
woods Netherlands Paris James 1950s états
""",
)


def test_no_word_is_damaged() -> None:
    assert [singular(word) for word in RIGHT] == RIGHT


# ── vocabulary ───────────────────────────────────────────────────────────────────────────────────

LIGHTROOM = """[NATURE]
\tanimal
\t\tdog
\t\t\t{hound}
\t\tdogfish
\tsea
vehicle
\tcar
\t\t{automobile}
\t\t{motor car}
\tboat
"""


def test_a_keyword_list_of_lightroom_is_read() -> None:
    words = Vocabulary.parse(LIGHTROOM)
    assert words.words == ("animal", "dog", "dogfish", "sea", "vehicle", "car", "boat"), "a heading is no keyword"
    assert words.paths("dog") == (("NATURE", "animal", "dog"),)
    assert words.paths("vehicle") == (("vehicle",),)
    found = {said: words.word_of(said) for said in ("Automobiles", "motor-car", "DOGS", "hound", "horse", "NATURE")}
    assert found == {
        "Automobiles": "car",
        "motor-car": "car",
        "DOGS": "dog",
        "hound": "dog",
        "horse": None,
        "NATURE": None,
    }
    assert Vocabulary.parse(words.text) == words
    assert Vocabulary.parse("a\n\tParis\nb\n\tParis").paths("Paris") == (("a", "Paris"), ("b", "Paris"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no word"),
        ("{hound}", "line 1"),
        ("dog\n\t\thound", "line 2.*one tab"),
        ("dog\n  hound", "line 2.*tabs"),
        ("dog, cat", "line 1.*holds none of"),
        ("car {automobile}", "line 1"),
        ("x" * 65, "64 characters"),
    ],
)
def test_what_is_no_keyword_list_is_told_with_its_line(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        Vocabulary.parse(text)


def test_the_file_is_read_in_the_encodings_that_programs_write(tmp_path: Path) -> None:
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path = tmp_path / encoding
        path.write_bytes("Hügel\r\n\tBäume\r\n".encode(encoding))
        assert ReadOptions(vocabulary=path).vocabulary == "Hügel\n\tBäume\n"
    (tmp_path / "latin").write_bytes("Hügel".encode("latin-1"))
    for name in ("latin", "missing"):
        with pytest.raises(ConfigError, match="vocabulary"):
            ReadOptions(vocabulary=str(tmp_path / name))


def expression(gbnf: str) -> re.Pattern[str]:
    """The rule for a word as a regular expression: GBNF's groups, bars and `?` mean the same there."""
    literals = re.split(r'"((?:[^"\\]|\\.)*)"', gbnf)
    return re.compile("".join(re.escape(one.replace('\\"', '"')) if at % 2 else one.replace(" ", "")
                              for at, one in enumerate(literals)))  # fmt: skip


@given(st.lists(st.text("abcdäß 'é1.", min_size=1, max_size=8).map(lambda word: " ".join(word.split())).filter(bool)))
def test_the_grammar_allows_the_words_and_nothing_else(words: list[str]) -> None:
    if not words:
        return
    vocabulary = Vocabulary.parse("\n".join(words))
    rule = expression(vocabulary.grammar)
    for word in {*words, *(word[:-1] for word in words), *(word + "a" for word in words)}:
        assert bool(rule.fullmatch(f'"{word}"')) == (word in vocabulary.words), word


def test_the_grammar_holds_the_model_to_the_vocabulary() -> None:
    form = TagForm(Vocabulary.parse(LIGHTROOM), 3)
    rules = dict(line.split(" ::= ", 1) for line in form.grammar.strip().splitlines())
    assert rules["list"] == '"[" ws (word ("," ws word){0,2})? ws "]"'
    assert '"dog" ("fish")?' in rules["word"]
    assert "dog, dogfish" in form.instruction
    assert "At most 3" in form.instruction
    long = TagForm(Vocabulary.parse("\n".join(f"word {number}" for number in range(1000))))
    assert "word 7" not in long.instruction, "a long list would take the room of the image"


def test_the_answer_is_held_to_the_vocabulary_where_the_server_ignores_grammars() -> None:
    form = TagForm(Vocabulary.parse(LIGHTROOM), 2)
    said = answer(["Hounds", "automobile", "horse", "cars", "sea"])
    assert form.parse(said) == Tags("A letter to Axel.", ("dog", "car"))
    assert form.parse(answer([])) == Tags("A letter to Axel.", ()), "none fits"
    assert form.parse(answer(["horse"])) is None, "other words are asked for again"
    for cut in ('{"description": "A letter.", "key', '{"description": "A letter.", "keywords": ['):
        assert form.parse(cut) is None, "a cut answer does not say that none fits"
    assert Tags("A road.", ()).text == "A road."


def test_a_changed_vocabulary_makes_tags_due_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    keys = []
    for text in ("car\n", "car\n\n", "car\nboat\n"):
        path.write_text(text, encoding="utf-8")
        options = ReadOptions(vocabulary=path)
        keys.append([options.key(task) for task in ("ocr", "caption", "tags")])
        again = ReadOptions.of(options.to_dict())
        assert again.key("tags") == options.key("tags"), "remembered, or sent to another machine"
    assert keys[0] == keys[1]
    assert keys[0][:2] == keys[2][:2] == ["default", "default"]
    assert len({keys[0][2], keys[2][2], "default", ReadOptions(max_tags=3).key("tags")}) == 4
    spoken = ReadOptions(language="German")
    assert spoken.key("ocr") == "default" != spoken.key("caption")
    with pytest.raises(ConfigError, match="max_tags"):
        ReadOptions(max_tags=31)
