"""What a search is narrowed to, and how its hits are grouped; dates and amounts in several notations."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from kobold_reader.archive import Hit, words
from kobold_reader.archive.filters import parse_filter
from kobold_reader.archive.query import parse_query
from kobold_reader.archive.ranking import Cosines
from kobold_reader.archive.rows import PageRow
from kobold_reader.archive.search import Searcher, grouped, passage
from kobold_reader.archive.store import Catalog
from kobold_reader.archive.vectors import Near
from kobold_reader.errors import ConfigError

PAGES: dict[str, dict[str, object]] = {
    "letter 1": {"file_path": "/box/letters/1954/axel.pdf", "date_digitized": "2019-05-02T10:00:00"},
    "letter 2": {"file_path": "/box/letters/1954/axel.pdf", "date_digitized": "2019-05-02T10:00:00"},
    "photo": {"file_path": "/box/photos/boat.jpg", "date_taken": "1999-07-03T18:20:00", "creation_date": "2021-01-01"},
    "scan": {"file_path": "C:\\Scans\\Briefe\\Köln.tif", "creation_date": "2020-12-31", "persons": "Åsa, Bo"},
    "undated": {"file_path": "/box/letters old/x.png", "rating": 4},
}


@pytest.fixture(name="catalog")
def open_catalog(tmp_path: Path) -> Iterator[Catalog]:
    catalog = Catalog(tmp_path / "archive.sqlite")
    rows = [
        PageRow(
            name, name, 1, "ok", {"ocr": "a boat " * (5 - number)}, "1", {**metadata, "file_name": name}, f"file:{name}"
        )
        for number, (name, metadata) in enumerate(PAGES.items())
    ]
    catalog.finish(catalog.begin(rows))
    yield catalog
    catalog.close()


def found(catalog: Catalog, *where: str, **narrowed: str) -> set[str]:
    hits = Searcher(catalog, None).search(
        "boat", limit=9, mode="keyword", filter_=parse_filter(where, **narrowed), by="page"
    )
    return {hit.page_id for hit in hits}


@pytest.mark.parametrize(
    ("since", "until", "pages"),
    [
        ("1999", "1999", {"photo"}),
        ("2019", None, {"letter 1", "letter 2", "scan"}),
        ("2019-05-03", None, {"scan"}),
        ("2019-05-02", "2019-05-02", {"letter 1", "letter 2"}),
        (None, "2019-04", {"photo"}),
        (None, "2019-05", {"photo", "letter 1", "letter 2"}),
        ("2020", "2020", {"scan"}),
    ],
)
def test_since_and_until(catalog: Catalog, since: str | None, until: str | None, pages: set[str]) -> None:
    given = {"since": since, "until": until}
    assert found(catalog, **{key: value for key, value in given.items() if value}) == pages


@pytest.mark.parametrize("date", ["", "54", "1954-13", "1954-02-30", "12.03.1954", "yesterday", "1954-3-1"])
def test_a_date_of_another_shape_is_refused(date: str) -> None:
    with pytest.raises(ConfigError, match="1954-03-12"):
        parse_filter(since=date)


@pytest.mark.parametrize(
    ("folder", "pages"),
    [
        ("letters", {"letter 1", "letter 2"}),
        ("LETTERS/", {"letter 1", "letter 2"}),
        ("letters/1954", {"letter 1", "letter 2"}),
        ("/box", {"letter 1", "letter 2", "photo", "undated"}),
        ("/box/photos", {"photo"}),
        ("briefe", {"scan"}),
        ("C:\\Scans", {"scan"}),
        ("Scans/Briefe", {"scan"}),
    ],
)
def test_in_a_folder(catalog: Catalog, folder: str, pages: set[str]) -> None:
    assert found(catalog, folder=folder) == pages


@pytest.mark.parametrize("folder", ["letter", "/letters", "box/1954", "axel.pdf"])
def test_an_unknown_folder_is_named_with_those_there_are(catalog: Catalog, folder: str) -> None:
    with pytest.raises(ConfigError) as refused:
        found(catalog, folder=folder)
    assert repr(folder) in str(refused.value)
    assert "1954, Briefe, letters old, photos" in str(refused.value)


def test_a_folder_relative_to_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    narrowed = parse_filter(folder="./scans")
    assert narrowed.holds({"file_path": str(tmp_path.resolve() / "scans" / "deep" / "a.png")})
    assert not narrowed.holds({"file_path": str(tmp_path.resolve() / "other" / "scans" / "a.png")})
    for nothing in ("", " ", "/"):
        with pytest.raises(ConfigError, match="not a folder"):
            parse_filter(folder=nothing)


def test_an_unknown_key_is_named_with_the_keys_there_are(catalog: Catalog) -> None:
    with pytest.raises(ConfigError) as refused:
        found(catalog, "person=Bo")
    assert "'person'; the keys are creation_date, date_digitized" in str(refused.value)
    assert "Did you mean 'persons'?" in str(refused.value)


def test_conditions_are_all_to_be_met(catalog: Catalog) -> None:
    assert found(catalog, "persons=~asa", since="2020") == {"scan"}
    assert found(catalog, "persons=~asa", since="2021") == set()
    assert found(catalog, "rating=4..5") == {"undated"}
    assert found(catalog) == set(PAGES)


@pytest.mark.parametrize(("by", "first"), [("file", 2), ("folder", 2), ("page", 1)])
def test_hits_of_one_file_come_together(catalog: Catalog, by: str, first: int) -> None:
    searcher = Searcher(catalog, None)
    hits = searcher.search("boat", limit=1, mode="keyword", filter_=parse_filter(), by=by)  # type: ignore[arg-type]
    assert len(hits) == first
    assert len({hit.group(by) for hit in hits}) == 1  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="page, file, folder"):
        searcher.search("boat", limit=1, mode="keyword", filter_=parse_filter(), by="box")  # type: ignore[arg-type]


def test_a_group_stands_where_its_best_hit_stood() -> None:
    def hit(path: str, number: int, score: float) -> Hit:
        return Hit(f"{path}{number}", score, "exact", "", "", {"file_path": path, "page_number": number})

    hits = [hit("/a/x", 1, 0.9), hit("/b/y", 1, 0.8), *(hit("/a/x", number, 0.7) for number in range(2, 12))]
    by_file = [(one.metadata["file_path"], one.page_number) for one in grouped(hits, "file", 9)]
    assert by_file == [*(("/a/x", number) for number in range(1, 6)), ("/b/y", 1)]
    assert [one.group("folder") for one in grouped(hits, "folder", 1)] == ["/a"] * 5


# ── notations ─────────────────────────────────────────────────────────────────────────────────────

SAME = {
    "12.03.1954": [
        "12/03/1954",
        "12-3-1954",
        "1954-03-12",
        "19540312",
        "12 March 1954",
        "12th of March, 1954",
        "March 12, 1954",
        "12. März 1954",
        "12 de marzo de 1954",
        "12 MAR 54",
        "12MAR1954",
        "1954年3月12日",
        "12.3.54",
    ],
    "12 March 1954": ["12.03.1954", "1954-03-12", "le 12 mars 1954", "Mar. 12th, 1954", "03/12/1954"],
    "1954-03-12": ["12 mars 1954", "12.03.1954"],
    "1249.00": ["1,249.00", "1.249,00", "RM1,249.00", "1249,00", "1'249.00"],
    "1,249.00": ["1249.00", "1.249,00"],
    "2340": ["2,340 kronor", "2.340"],
    "86300": ["86,300"],
    "8,20": ["$8.20"],
}
OTHER = {
    "12.03.1954": ["12.03.1955", "2.03.1954", "12.04.1954", "112.03.1954", "12 May 1954", "12.03.19541", "12.03.45"],
    "12 March 1954": ["11 March 1954", "12 March 1955", "March 1954", "12 marches 1954"],
    "13.03.1954": ["03.12.1954"],
    "1249.00": ["11,249.00", "1,249.50", "249.00", "1,249.001"],
    "2340": ["12,340", "2,3401", "2,341"],
    "8.20": ["18.20", "8.201"],
}


def strength(query: str, text: str) -> float:
    db = sqlite3.connect(":memory:")
    words.create(db)
    words.put(db, "page", text=f"before {text} behind", names="")
    for number in range(30):
        words.put(db, f"other {number}", text="nothing of note", names="")
    parsed = parse_query(query)
    assert len(parsed.terms) == 1, "a date is one thing that is asked for"
    lookup = words.look_up(db, parsed, 5)
    db.close()
    return lookup.evidence["page"].strengths[0] if "page" in lookup.evidence else 0.0


@pytest.mark.parametrize(("query", "text"), [(query, text) for query, texts in SAME.items() for text in texts])
def test_a_day_or_an_amount_is_found_however_it_is_written(query: str, text: str) -> None:
    assert strength(query, text) >= 0.75
    marked = passage(f"before {text} behind", parse_query(query))
    assert marked.marks, "and it is marked"


@pytest.mark.parametrize(("query", "text"), [(query, text) for query, texts in OTHER.items() for text in texts])
def test_another_day_or_amount_is_not_it(query: str, text: str) -> None:
    assert strength(query, text) <= 0.6


def test_what_is_written_as_asked_is_surer_than_the_other_order() -> None:
    assert strength("12.03.1954", "12. März 1954") > strength("12.03.1954", "March 3, 1954 and December 3, 1954")


# ── any script ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("東京", "古い東京"),
        ("東京", "東京"),
        ("東京都", "これは東京都です"),
        ("猫", "その猫は"),
        ("กรุงเทพ", "แผนที่กรุงเทพเก่า"),
        ("Москва", "город москва"),
        ("Αθήνα", "ΑΘΗΝΑ 1896"),
        ("القاهرة", "خريطة القاهرة"),
        ("Köln", "KOLN"),
        ("Zażółć", "zazolc gesla"),
    ],
)
def test_any_script(query: str, text: str) -> None:
    db = sqlite3.connect(":memory:")
    words.create(db)
    words.put(db, "page", text=text, names="")
    for number in range(3):
        words.put(db, f"other {number}", text="京都の地図 犬 Paris 1900", names="")
    lookup = words.look_up(db, parse_query(query), 5)
    db.close()
    assert lookup.frequencies == (1,)
    assert (lookup.words + lookup.trigrams)[0][0] == "page"
    assert lookup.evidence["page"].strengths[0] >= 0.95


def metadata_of(number: int) -> dict[str, object]:
    return {
        "file_path": f"/box/{number % 3}/a.pdf",
        "page_number": number,
        "rating": number / 2,
        "is_odd": number % 2 == 1,
    }


def rows_of(numbers: range, **more: object) -> list[PageRow]:
    return [
        PageRow(f"p{number}", "s", number, "ok", {"ocr": f"boat {number}"}, "1", {**metadata_of(number), **more}, "u")
        for number in numbers
    ]


def test_facets_follow_the_rows(tmp_path: Path) -> None:
    with closing(Catalog(tmp_path / "archive.sqlite")) as catalog:
        catalog.finish(catalog.begin(rows_of(range(6))))
        keys = catalog.metadata_keys()
        assert {"rating", "is_odd"} <= keys
        numbers = catalog.numbers([f"p{number}" for number in range(6)])
        catalog.finish(catalog.begin(rows_of(range(2, 6), persons="Åsa", date_taken="1954-03-12")))
        assert catalog.numbers([f"p{number}" for number in range(6)]) == numbers, "a page keeps its number"
        assert catalog.meant(parse_filter(["persons=asa", "is_odd=1"], since="1954")) == {numbers["p3"], numbers["p5"]}
        catalog.finish(catalog.begin(rows_of(range(6))))
        assert catalog.metadata_keys() == keys
        assert catalog.meant(parse_filter(["rating=1.5"])) == {numbers["p3"]}
        assert catalog.meant(parse_filter(since="1954")) == set()
        catalog.remove_pages([f"p{number}" for number in range(6)])
        assert catalog.metadata_keys() == set()


def test_a_number_that_is_none_can_be_kept(tmp_path: Path) -> None:
    with closing(Catalog(tmp_path / "archive.sqlite")) as catalog:
        catalog.finish(catalog.begin(rows_of(range(1), confidence=float("nan"))))
        assert "confidence" not in catalog.metadata_keys()


class Asked:
    """Vectors that know a list of nearest chunks by heart, and remember how they were asked."""

    def __init__(self, nearest: Sequence[str]) -> None:
        self._nearest = nearest
        self.calls: list[tuple[int, Sequence[str] | None]] = []

    def near(self, query: str, limit: int, node_ids: Sequence[str] | None) -> list[Near]:
        assert query
        self.calls.append((limit, node_ids))
        some = [one for one in self._nearest if node_ids is None or one in node_ids]
        return [Near(one, one.split("-")[0], "ocr", 1 - at / 1000) for at, one in enumerate(some[:limit])]

    def texts(self, node_ids: Sequence[str]) -> dict[str, str]:
        return dict.fromkeys(node_ids, "boat")

    def cosines(self, query: str) -> Cosines:
        assert query
        return Cosines(unrelated=0.05, spread=0.09)


@pytest.mark.parametrize(
    ("until", "calls"),
    [
        (70, 1),  # a few: they are named
        (300, 1),  # many, and among the nearest of all
        (300, 2),  # many, but the nearest of all are others
    ],
)
def test_the_nearest_of_the_pages_meant_are_found(tmp_path: Path, until: int, calls: int) -> None:
    """Whatever share of the archive a filter leaves, no page that is meant is lost behind those that are not."""
    with closing(Catalog(tmp_path / "archive.sqlite")) as catalog:
        rows = [replace(row, node_ids=(f"{row.page_id}-ocr-0",)) for row in rows_of(range(1000))]
        catalog.finish(catalog.begin(rows))
        nearest = [f"p{number}-ocr-0" for number in (range(1000) if calls == 1 else range(999, -1, -1))]
        dense = Asked(nearest)
        hits = Searcher(catalog, dense).search(
            "boat", limit=9, mode="dense", filter_=parse_filter([f"page_number=0..{until - 1}"]), related=True
        )
        meant = [one.split("-")[0] for one in nearest if int(one.split("-")[0][1:]) < until]
        assert [hit.page_id for hit in hits] == meant[:9]
        assert len(dense.calls) == calls
