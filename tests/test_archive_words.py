"""The words index: what is found, what is forgotten, and that no query raises."""

from __future__ import annotations

import sqlite3
import tomllib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kobold_reader import Archive, KoboldReader
from kobold_reader.archive import query as query_module
from kobold_reader.archive import words
from kobold_reader.archive.query import Kind, fold, fold_with_offsets, parse_query
from kobold_reader.archive.ranking import Cosines, rank
from kobold_reader.archive.search import passage
from kobold_reader.archive.store import Catalog
from tests.test_archive_export import put_page

PAGES = {
    "sale": "Jonas Lindqvist sells the brown mare\nBella for 240 crowns, 12.03.1954.",
    "misread": "Received of Jonas Lindqvlst the sum of 24O crowns.",
    "museum": "Bronze brooch, object 1954/37-b, gift of a farmer.",
    "shop": "TOTALRM19.00 cash 19.00 change 0.00",
    "other shop": "Total RM9.00 date 25/12/2018",
    "japan": "東京都の古い地図",
    "hyphen": "a letter from the station-\nmaster of Steinach",
    "accents": "Žluťoučký kůň, Straße, Ærø, ſchön",
    "arabic": "لَقَدْ وَصَلَتِ السَّفِينَةُ إِلَى المَرْفَأِ",
    "drawn out": "مـــحـــمـــد علي ١٩٣٧",
    "hebrew": "בְּיוֹם שֵׁנִי הִגִּיעָה הָאֳנִיָּה",
    "hindi": "यह हिन्दी में लिखा है",
    "thai": "เรือใบมาถึงท่าเรือ",
    "tamil": "தமிழ் மொழி",
    "korean": "그날 범선이 항구에 들어왔다",
    "voiced": "がくせい",
    "unvoiced": "かくせい",
    "markdown": "the *BOLD*WORD, **Har**bour~~mas~~ter and H<sub>2</sub>O; 2*3*4 snake_case",
    "emoji": "Greetings \u2764\ufe0f from the \U0001f44d\U0001f3fd crew \u2693 and \U0001fae8",
    "signs": "a \u2265 b",
}


@pytest.fixture(name="db")
def open_index() -> Iterator[sqlite3.Connection]:
    db = sqlite3.connect(":memory:")
    words.create(db)
    for page_id, text in PAGES.items():
        words.put(db, page_id, text=text, names=f"box 7 {page_id} scan")
    yield db
    db.close()


def found(db: sqlite3.Connection, query: str) -> list[str]:
    parsed = parse_query(query)
    return [hit.page_id for hit in rank(parsed, words.look_up(db, parsed, 20))]


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("Lindqvist", "sale"),
        ("Lindqvlst", "misread"),
        ("mare lindqvist", "sale"),
        ("1954/37-b", "museum"),
        ('"brown mare"', "sale"),
        ("12/03/1954", "sale"),
        ("9.00", "other shop"),
        ("19.00", "shop"),
        ("25/12/2018 9.00", "other shop"),
        ("240 crowns", "sale"),
        ("東京", "japan"),
        ("地図", "japan"),
        ("stationmaster", "hyphen"),
        ("zlutoucky kun", "accents"),
        ("STRASSE", "accents"),
        ("schön", "accents"),
        ("museum", "museum"),
        ("وصلت", "arabic"),
        ("وَصَلَتِ", "arabic"),
        ("السفينة", "arabic"),
        ("محمد", "drawn out"),
        ("1937", "drawn out"),
        ("١٩٣٧", "drawn out"),
        ("ביום", "hebrew"),
        ("בְּיוֹם", "hebrew"),
        ("हिन्दी", "hindi"),
        ("लिखा", "hindi"),
        ("เรือใบ", "thai"),
        ("ท่าเรือ", "thai"),
        ("தமிழ்", "tamil"),
        ("범선", "korean"),
        ("범선이", "korean"),
        ("항구", "korean"),
        ("がくせい", "voiced"),
        ("か\u3099くせい", "voiced"),
        ("かくせい", "unvoiced"),
        ("BOLDWORD", "markdown"),
        ("harbourmaster", "markdown"),
        ("H2O", "markdown"),
        ("snake_case", "markdown"),
        ("\u2764", "emoji"),
        ("\u2764\ufe0f", "emoji"),
        ("\U0001f44d", "emoji"),
        ("crew\u2693", "emoji"),
        ("\U0001fae8", "emoji"),
        ("\u2265", "signs"),
    ],
)
def test_the_right_page_is_first(db: sqlite3.Connection, query: str, first: str) -> None:
    assert found(db, query)[0] == first


def test_marks_between_numbers_are_no_marks_of_markdown(db: sqlite3.Connection) -> None:
    assert found(db, "234") == []


@pytest.mark.parametrize(
    ("page", "query", "marked"),
    [
        ("arabic", "وصلت", "وَصَلَتِ"),
        ("hebrew", "ביום", "בְּיוֹם"),
        ("hindi", "लिखा", "लिखा"),
        ("thai", "เรือใบ", "เรือใบ"),
        ("tamil", "தமிழ்", "தமிழ்"),
        ("korean", "범선", "범선"),
        ("emoji", "\u2764", "\u2764\ufe0f"),
    ],
)
def test_a_passage_shows_and_marks_the_text_as_it_was_read(page: str, query: str, marked: str) -> None:
    shown = passage(PAGES[page], parse_query(query))
    assert shown.snippet == PAGES[page]
    assert [shown.snippet[start - shown.start : end - shown.start] for start, end in shown.marks] == [marked]


def test_an_archive_of_another_release_gets_its_words_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    (scans / "no scan.mov").write_bytes(b"moov")
    with Archive.open(tmp_path / "archive", create=True, embedder="none") as archive:
        page_id = put_page(archive, "file:///scans/1.pdf", 1, {"ocr": PAGES["arabic"]})
        with closing(Catalog(archive.folder / "archive.sqlite")) as catalog:
            catalog.set_meta("folding", "1")
            words.put(catalog.db, page_id, text="as it was folded before", names="")
        assert not archive.search("وصلت", mode="keyword")
        for _ in range(2):
            archive.sync(scans, reader=KoboldReader(ledger="none"))
        assert [hit.page_id for hit in archive.search("وصلت", mode="keyword")] == [page_id]
        assert not archive.search("folded", mode="keyword")
    assert caplog.text.count("1 page") == 1


def test_a_misread_name_is_found_both_ways(db: sqlite3.Connection) -> None:
    for query in ("Lindqvist", "Lindqvlst"):
        assert set(found(db, query)[:2]) == {"sale", "misread"}


def test_a_word_on_the_page_is_worth_more_than_one_in_its_name(db: sqlite3.Connection) -> None:
    words.put(db, "named", text="nothing of note", names="brooch")
    hits = words.look_up(db, parse_query("brooch"), 5).words
    assert [page_id for page_id, _ in hits] == ["museum", "named"]
    assert found(db, "brooch")[:2] == ["museum", "named"]


def test_only_the_pages_asked_for(db: sqlite3.Connection) -> None:
    query = parse_query("Lindqvist 東京")
    words.put(db, "misread", text=PAGES["misread"], names="", number=99)
    hits = words.look_up(db, query, 9, only={99})
    for pages in (hits.words, hits.trigrams):
        assert {page for page, _ in pages} <= {"misread"}
    assert set(hits.evidence) == {"misread"}
    assert words.look_up(db, query, 9, only=set()).evidence == {}


def test_a_page_is_replaced_and_forgotten(db: sqlite3.Connection) -> None:
    words.put(db, "sale", text="quite another text", names="")
    assert "sale" not in found(db, "mare Bella")
    assert found(db, "another")[0] == "sale"
    words.delete(db, "sale")
    words.delete(db, "sale")
    assert "sale" not in found(db, "another")
    assert words.page_count(db) == len(PAGES) - 1
    for table in ("words", "trigrams"):
        db.execute(f"INSERT INTO {table} ({table}, rank) VALUES ('integrity-check', 1)")  # noqa: S608


def test_the_caller_decides_what_is_kept(db: sqlite3.Connection) -> None:
    db.commit()
    words.put(db, "new", text="xylophone", names="")
    words.delete(db, "sale")
    db.rollback()
    assert found(db, "Lindqvist")[0] == "sale"
    assert "new" not in found(db, "xylophone")


def test_document_frequencies(db: sqlite3.Connection) -> None:
    terms = parse_query('jonas "the sum of" 東京 absent').terms
    assert [words.document_frequency(db, term) for term in terms] == [2, 1, 1, 0]


# ── any string is a query ─────────────────────────────────────────────────────────────────────────

SHARED = sqlite3.connect(":memory:", check_same_thread=False)
words.create(SHARED)
for _page_id, _text in PAGES.items():
    words.put(SHARED, _page_id, text=_text, names="box 7")


@pytest.fixture(scope="module", autouse=True)
def close_shared() -> Iterator[None]:
    yield
    SHARED.close()


@given(st.text(max_size=80) | st.text("\"'*():^-+ANDORNT{}\0 a1é東😀\ud800", max_size=40))
@example('"')
@example('""" NEAR(a b) OR * ^a {x} : y')
@example("a\0b")
@example("😀")
@example("½ ² ①")
@example("東" * 10_000)
@example("word " * 2_000)
@example("\u19b0\u1c80\u0488")
@example("¨")
@example("™ © ¼")
def test_no_query_raises(text: str) -> None:
    query = parse_query(text)
    lookup = words.look_up(SHARED, query, 10)
    for hit in rank(query, lookup, [("sale", 0.4), ("nowhere", -0.1)], cosines=Cosines(0.05, 0.09)):
        assert 0 < hit.score <= 1
    for page in PAGES.values():
        chosen = passage(page, query)
        assert chosen.snippet == page[chosen.start : chosen.end]
        assert all(chosen.start <= start < end <= chosen.end for start, end in chosen.marks)


@given(st.text(max_size=200))
def test_any_text_can_be_indexed_found_and_forgotten(text: str) -> None:
    words.put(SHARED, "any", text=text, names=text)
    passage(text, parse_query(text[:40]))
    words.delete(SHARED, "any")
    SHARED.commit()  # inside a transaction FTS5's check takes its own unwritten pages for damage
    SHARED.execute("INSERT INTO trigrams (trigrams, rank) VALUES ('integrity-check', 1)")


@pytest.mark.parametrize("space", [" ", "\u3000", "\u00a0", "\u2009"])
def test_a_japanese_name_is_found_whatever_space_is_in_it(space: str) -> None:
    assert fold(f"山田{space}太郎") == fold("山田太郎")


@example("山田\u3000太郎")
@example("山田¸太郎")
@given(st.text(max_size=100))
def test_folding_twice_changes_nothing_and_offsets_point_into_the_text(text: str) -> None:
    assert fold(fold(text)) == fold(text)
    folded, offsets = fold_with_offsets(text)
    assert len(offsets) == len(folded) + 1
    assert offsets == sorted(offsets)
    assert offsets[-1] == len(text)


# ── taking a query apart ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("1954/37-b", [("1954/37-b", Kind.CODE)]),
        ("Total: $9.00!", [("total", Kind.WORD), ("9.00", Kind.NUMBER)]),
        ('"New York" harbour', [("new york", Kind.PHRASE), ("harbour", Kind.WORD)]),
        (
            "„Alte Post“ in Köln",
            [("alte post", Kind.PHRASE), ("in", Kind.STOP), ("koln", Kind.NAME)],
        ),
        ('5" pipe', [("5", Kind.NUMBER), ("pipe", Kind.WORD)]),
        ("SIN DU", [("sin", Kind.NAME), ("du", Kind.NAME)]),
        ("a a A", [("a", Kind.NAME)]),
        ("D.I.Y.(M)", [("d.i.y", Kind.NAME), ("m", Kind.NAME)]),
        ('"" ?!', []),
        ("I \u2764\ufe0f NY!", [("i", Kind.NAME), ("\u2764", Kind.WORD), ("ny", Kind.NAME)]),
        ("salt + pepper", [("salt", Kind.WORD), ("pepper", Kind.WORD)]),
        ("+", [("+", Kind.WORD)]),
    ],
)
def test_terms(text: str, terms: list[tuple[str, Kind]]) -> None:
    assert [(term.folded, term.kind) for term in parse_query(text).terms] == terms


@pytest.mark.parametrize(
    ("text", "is_question"),
    [
        ("Who repaired the roof", True),
        ("letters about the roof of the church", True),
        ("roof repaired?", True),
        ("Lindqvist 1954", False),
        ("church roof", False),
    ],
)
def test_questions(text: str, *, is_question: bool) -> None:
    assert parse_query(text).is_question is is_question


def test_the_tables_of_notations_and_stopwords_are_sound() -> None:
    folder = Path(query_module.__file__).parent
    notations = tomllib.loads((folder / "notations.toml").read_text(encoding="utf-8"))
    assert notations.keys() == {"date", "amount"}
    months, fillers, separators = (notations["date"][key] for key in ("months", "fillers", "separators"))
    assert len(months) == 12
    names = [name for of_month in months for name in of_month]
    assert len(names) == len(set(names)), "each name means one month"
    for word in (*names, *fillers, *separators):
        assert word == fold(word)
        assert word.isalpha(), "a pattern is made of it"
    assert notations["amount"].keys() == {"thousands", "decimals"}
    stopwords = tomllib.loads((folder / "stopwords.toml").read_text(encoding="utf-8"))
    assert stopwords.keys() == {"stop", "question"}
    assert stopwords["stop"].keys() == stopwords["question"].keys(), "the same languages"
    for words_of_language in (*stopwords["stop"].values(), *stopwords["question"].values()):
        assert all(parse_query(word).terms for word in words_of_language.split())


CROWD = "the market and the street, a paper ersatz universal sand anthem intern terse old"
"""Holds every trigram of Persanter, and no word like it."""


@pytest.fixture(name="crowded")
def make_crowded(monkeypatch: pytest.MonkeyPatch) -> Iterator[sqlite3.Connection]:
    """A large archive in small: nothing is rare, and only the first of the pages can be weighed."""
    monkeypatch.setattr(words, "_WORD_POSTINGS", 40)
    monkeypatch.setattr(words, "_TRIGRAM_POSTINGS", 30)
    monkeypatch.setattr(words, "_NEAR_POSTINGS", 10)
    db = sqlite3.connect(":memory:")
    words.create(db)
    for number in range(200):
        words.put(db, f"crowd {number}", text=CROWD, names="")
    yield db
    db.close()


@pytest.mark.parametrize("misread", ["perdanter", "persantes", "bersanter", "persarter", "pesranter", "persaanter"])
def test_a_misread_word_of_common_letters_is_found_behind_many_pages(crowded: sqlite3.Connection, misread: str) -> None:
    words.put(crowded, "late", text=f"the market {misread} the street", names="")
    assert found(crowded, "Persanter")[0] == "late"
    assert found(crowded, "street Persanter")[0] == "late"


def test_common_words_side_by_side_are_found_behind_many_pages(crowded: sqlite3.Connection) -> None:
    words.put(crowded, "late", text="the old market, and the street", names="")
    assert found(crowded, "old market")[0] == "late"
    assert found(crowded, "the old market street")[0] == "late"
