"""Matching and ranking: pure functions, so small tables say most."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kobold_reader.archive.query import parse_query
from kobold_reader.archive.ranking import (
    LOOKALIKE,
    NEAR_NUMBER,
    Cosines,
    Evidence,
    Misreadings,
    PageText,
    WordHits,
    match_strength,
    rank,
    similarity,
    weigh,
)
from kobold_reader.archive.search import passage


def strength(term: str, body: str, names: str = "") -> float:
    (parsed,) = parse_query(term).terms
    return match_strength(parsed, PageText(body, names), is_known=False)


@pytest.mark.parametrize(
    ("term", "body"),
    [
        ("9.00", "total rm9.00"),
        ("1954", "on 12.03.1954."),
        ("12 Mar", "12mar2018"),
        ("mare", "the mare, brown"),
        ("12/03/2018", "12-03-2018"),
        ('"brown mare"', "brown\nmare"),
    ],
)
def test_found_as_typed(term: str, body: str) -> None:
    assert min(match_strength(one, PageText(body)) for one in parse_query(term).terms) >= 0.7


@pytest.mark.parametrize(
    ("term", "body"),
    [
        ("9.00", "19.00 and 9.005 and 1,249.00"),
        ("249.00", "1,249.00"),
        ("1954", "1955 21954"),
        ("cat", "category"),
        ("12.03.1954", "12.03.1955"),
        ("water", "later"),
        ("10", "lo io"),
    ],
)
def test_another_number_or_word_is_not_it(term: str, body: str) -> None:
    (parsed,) = parse_query(term).terms
    assert match_strength(parsed, PageText(body), is_known=True) <= NEAR_NUMBER + 0.01


def test_the_surer_the_match_the_higher() -> None:
    order = [
        strength("Lindqvist", "jonas lindqvist"),
        strength("Lindqvist", "jonas lindqvlst"),
        strength("Lindqvist", "jonaslindqvistsells"),
        strength("Lindqvist", "jonas lindquist"),
        strength("Lindqvist", "jonas lundquist"),
        strength("Lindqvist", "jonas berg"),
    ]
    assert order == sorted(order, reverse=True)
    assert order[0] == 1.0
    assert order[1] == LOOKALIKE
    assert order[-1] == 0.0
    assert 0 < strength("Lindqvist", "nothing", "lindqvist 1954") < order[2]


WORDS = st.text("abil1o0rn", max_size=12)


WITHOUT_PAIRS = st.text("abil1o0", min_size=4, max_size=12)  # no rn, which a skeleton shortens to m


@given(WITHOUT_PAIRS, st.lists(st.frozensets(WITHOUT_PAIRS, max_size=6), max_size=4))
def test_many_pages_resemble_as_each_word_does(word: str, pages: list[frozenset[str]]) -> None:
    """Words are compared all at once, and each once for all pages; that changes nothing."""
    of_words = [PageText(" ".join(sorted(words))) for words in pages]
    misreadings = Misreadings(of_words)
    for page in of_words:
        one_by_one = max((similarity(word, other) for other in page.words), default=0.0)
        assert misreadings.best(word, page) == one_by_one


@given(WORDS, WORDS)
def test_similarity_keeps_its_bounds(first: str, second: str) -> None:
    assert 0 <= similarity(first, second) <= 1
    assert similarity(first, first) == 1


# ── ranking ───────────────────────────────────────────────────────────────────────────────────────

COSINES = Cosines(unrelated=0.05, spread=0.09)
FAR_PAGES = [(f"far {number}", 0.3 - number / 100) for number in range(25)]


def lookup_of(query: str, bodies: dict[str, str], frequency: int = 1) -> WordHits:
    terms = parse_query(query).terms
    evidence = {
        page_id: Evidence(
            tuple(match_strength(term, PageText(body)) for term in terms),
            (False,) * (len(terms) - 1),
            tuple(match_strength(term, PageText(body)) == 1 for term in terms),
        )
        for page_id, body in bodies.items()
    }
    return WordHits([], [], (frequency,) * len(terms), 1000, evidence)


def first(query: str, bodies: dict[str, str], dense: list[tuple[str, float]]) -> str:
    return rank(parse_query(query), lookup_of(query, bodies), dense, cosines=COSINES)[0].page_id


def test_exact_questions_are_the_words_to_answer() -> None:
    bodies = {"right": "acme ltd 12/03/2018 9.00", "near": "acme ltd 13/03/2018 8.00"}
    dense = [("near", 0.8), ("right", 0.2), *FAR_PAGES]
    assert first("ACME Ltd 12/03/2018", bodies, dense) == "right"
    assert first("12/03/2018 9.00", bodies, dense) == "right"


def test_between_pages_that_hold_it_all_the_vectors_decide_nothing() -> None:
    bodies = {"aaa": "acme ltd total 9.00", "zzz": "acme ltd total 9.00"}
    assert first("ACME Ltd 9.00", bodies, [("zzz", 0.8), ("aaa", 0.2), *FAR_PAGES]) == "aaa"
    assert first("acme total paid", bodies, [("zzz", 0.8), ("aaa", 0.2), *FAR_PAGES]) == "zzz"


def test_questions_by_meaning_are_the_vectors_to_answer() -> None:
    bodies = {"words": "a train at nine forty", "meaning": "the engine failed at the viaduct"}
    dense = [("meaning", 0.5), ("words", 0.42), *FAR_PAGES]
    assert first("train breakdown", bodies, dense) == "meaning"
    assert first("why was the train late?", bodies, dense) == "meaning"


def test_what_stands_nowhere_does_not_silence_the_vectors() -> None:
    query = parse_query("Zephyrine 1812 departure")
    lookup = lookup_of(query.text, {"a": "nothing", "b": "of it"})
    assert weigh(query, lookup).trust < 0.2
    assert rank(query, lookup, [("b", 0.6), *FAR_PAGES], cosines=COSINES)[0].page_id == "b"


def test_without_vectors_the_words_have_all_the_say() -> None:
    lookup = lookup_of("brown mare", {"a": "a brown mare", "b": "a brown dog", "c": "no"})
    hits = rank(parse_query("brown mare"), lookup)
    assert [hit.page_id for hit in hits] == ["a", "b"]
    assert hits[0].score > 0.7


def test_a_model_that_finds_everything_alike_does_not_win_by_it() -> None:
    dense = [(f"far {number}", 0.71 - number / 1000) for number in range(40)]
    lookup = lookup_of("12/03/2018", {"right": "12/03/2018"})
    hits = rank(parse_query("12/03/2018"), lookup, dense, cosines=COSINES)
    assert [hit.page_id for hit in hits] == ["right"]


def test_an_empty_query_finds_nothing_by_words() -> None:
    assert rank(parse_query("?!"), WordHits([], [], (), 5, {})) == []


# ── the passage ───────────────────────────────────────────────────────────────────────────────────


def test_the_passage_holds_most_of_the_query_and_marks_it() -> None:
    text = "Übergabe. " * 60 + "The mare Bella goes to LINDQVLST, ﬁnally, 12.03.1954." + " So." * 99
    chosen = passage(text, parse_query("Lindqvist mare finally 12/03/1954"))
    marked = [text[start:end] for start, end in chosen.marks]
    assert marked == ["mare", "LINDQVLST", "ﬁnally", "12.03.1954"]
    assert len(chosen.snippet) <= 240
    assert chosen.snippet.startswith("Übergabe.")


def test_without_a_match_the_passage_is_the_beginning() -> None:
    text = "word " * 200
    chosen = passage(text, parse_query("absent"))
    assert chosen.start == 0
    assert chosen.marks == ()
    assert 200 < len(chosen.snippet) <= 240
    assert passage("", parse_query("absent")).snippet == ""
