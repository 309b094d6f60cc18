"""Words as people write them: whatever page and query differ in, the page is found, and the right letters marked."""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import closing

import pytest

from kobold_reader.archive.filters import parse_filter
from kobold_reader.archive.query import fold, fold_with_offsets, parse_query
from kobold_reader.archive.ranking import Cosines
from kobold_reader.archive.rows import PageRow, version_of
from kobold_reader.archive.search import Hits, Searcher
from kobold_reader.archive.store import Catalog
from kobold_reader.archive.vectors import Near
from kobold_reader.options import Mode

# Kind: what stands on the page, the query, and what is marked.
KINDS: dict[str, tuple[str, str, list[str]]] = {
    "case": ("The HARBOUR was full.", "harbour", ["HARBOUR"]),
    "case across scripts": ("Прибыл КОРАБЛЬ утром.", "корабль", ["КОРАБЛЬ"]),
    "accent left out": ("Le café d'Orsay.", "cafe", ["café"]),
    "accent typed": ("Une facade grise.", "façade", ["facade"]),
    "sharp s": ("In der Lindenstraße wohnt er.", "lindenstrasse", ["Lindenstraße"]),
    "sharp s typed": ("In der Gartenstrasse wohnt sie.", "Gartenstraße", ["Gartenstrasse"]),
    "oe": ("Un chef-d'œuvre.", "oeuvre", ["œuvre"]),
    "oe typed": ("Les oeufs frais.", "œufs", ["oeufs"]),
    "ae": ("Encyclopædia, vol. 2", "encyclopaedia", ["Encyclopædia"]),
    "ligature": ("The ﬁshery ofﬁce.", "fishery", ["ﬁshery"]),
    "ligature inside": ("An efﬂuent pipe.", "effluent", ["efﬂuent"]),
    "long s": ("Congreſs met.", "congress", ["Congreſs"]),
    "soft hyphen": ("The tele\u00adgraph wire.", "telegraph", ["tele\u00adgraph"]),
    "soft hyphen at the line end": ("Old light\u00ad\nkeeper Holm.", "lightkeeper", ["light\u00ad\nkeeper"]),
    "hyphen at the line end": ("The carpen-\nter came.", "carpenter", ["carpen-\nter"]),
    "negation sign at the line end": ("The wheel¬\nwright came.", "wheelwright", ["wheel¬\nwright"]),
    "half of a broken word": ("A dress-\nmaker's bill.", "dress", ["dress"]),
    "hyphen of a name at the line end": (
        "Signed Bernadotte-\nWisborg here.",
        "Bernadotte-Wisborg",
        ["Bernadotte-\nWisborg"],
    ),
    "hyphen that stands for a word": ("Vor-\nund Nachteile", "nachteile", ["Nachteile"]),
    "phrase over the line end": ("She sold the blue\nvelvet chair.", '"blue velvet chair"', ["blue\nvelvet chair"]),
    "phrase with a broken word": (
        "It was a marvel-\nlous evening there.",
        '"marvellous evening"',
        ["marvel-\nlous evening"],
    ),
    "decomposed page": (
        unicodedata.normalize("NFD", "Från Värmdö kyrka"),
        "Värmdö",
        [unicodedata.normalize("NFD", "Värmdö")],
    ),
    "decomposed query": ("Från Ångermanland", unicodedata.normalize("NFD", "Ångermanland"), ["Ångermanland"]),
    "full width": ("型番ＡＢＣ１２３です", "ABC123", ["ＡＢＣ１２３"]),
    "half-width kana": ("ｶﾞﾗｽの瓶", "ガラス", ["ｶﾞﾗｽ"]),
    "alef": ("زار أحمد المدينة", "احمد", ["أحمد"]),
    "alef wasla": ("كتاب ٱلنور", "النور", ["ٱلنور"]),
    "ya": ("ذهب إلى مستشفى قديم", "مستشفي", ["مستشفى"]),
    "ta marbuta": ("مدرسة البنات", "مدرسه", ["مدرسة"]),
    "tatweel": ("اسم الشـــاعر هنا", "الشاعر", ["الشـــاعر"]),
    "vowel marks": ("قَرَأَ الوَلَدُ", "الولد", ["الوَلَدُ"]),
    "Chinese": ("本年收到大米三石", "大米", ["大米"]),
    "Chinese, one character": ("甲乙鹽丙丁", "鹽", ["鹽"]),
    "Chinese over the line end": ("寄往上海\n码头仓库", "上海码头", ["上海\n码头"]),
    "Chinese phrase": ("民国银元二十四", "「银元二十四」", ["银元二十四"]),
    "Japanese": ("昨日は帆船が着いた", "帆船", ["帆船"]),
    "Korean with a particle": ("어제 범선이 왔다", "범선", ["범선"]),
    "Thai": ("เรือใบมาถึงท่าเรือ", "ท่าเรือ", ["ท่าเรือ"]),
    "one letter": ("Plan Q of the yard", "Q", ["Q"]),
    "two characters": ("Berth 7b is free", "7b", ["7b"]),
    "a word that is an operator": ("Near the mill. Not sold.", "near NOT sold", ["Near", "sold"]),
    "operators": ("alpha* (beta): -gamma", "alpha* AND (beta): OR -gamma", ["alpha", "beta", "gamma"]),
    "quote not closed": ("The copper kettle leaks.", '"copper kettle', ["copper", "kettle"]),
    "curly quotes": ("A brass sundial stood there.", "“brass sundial”", ["brass sundial"]),
    "typographic apostrophe": ("O’Grady's inn", "O'Grady", ["O’Grady"]),
    "minus": ("Stand −273 Grad", "-273", ["273"]),
}


class EverythingIsNear:
    """Vectors to which every page is as near as any."""

    def __init__(self, pages: Sequence[str]) -> None:
        self._pages = pages

    def near(self, query: str, limit: int, node_ids: Sequence[str] | None) -> list[Near]:
        assert query
        return [Near(page, page, "ocr", 0.2) for page in self._pages if node_ids is None or page in node_ids][:limit]

    def texts(self, node_ids: Sequence[str]) -> dict[str, str]:
        return {node_id: KINDS[node_id][0] for node_id in node_ids}

    def cosines(self, query: str) -> Cosines:
        assert query
        return Cosines(0.05, 0.09)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    with closing(Catalog(tmp_path_factory.mktemp("spellings") / "archive.sqlite")) as opened:
        rows = []
        for number, (kind, (text, *_)) in enumerate(KINDS.items(), start=1):
            parts = {"ocr": text}
            metadata = {"file_name": f"{number:03}.png", "file_path": f"{number:03}.png", "page_number": 1}
            rows.append(
                PageRow(
                    kind, kind, 1, "ok", parts, version_of(parts), metadata, f"file:///{number}.png", node_ids=(kind,)
                )
            )
        opened.finish(opened.begin(rows))
        yield opened


def search(catalog: Catalog, query: str, way: str = "keyword", *, related: bool = False) -> Hits:
    dense = EverythingIsNear(list(KINDS)) if way == "hybrid with vectors" else None
    mode: Mode = "keyword" if way == "keyword" else "hybrid"
    return Searcher(catalog, dense).search(query, limit=5, mode=mode, filter_=parse_filter(), related=related)


@pytest.mark.parametrize("way", ["keyword", "hybrid", "hybrid with vectors"])
@pytest.mark.parametrize("kind", KINDS)
def test_found_as_people_write_it(catalog: Catalog, kind: str, way: str) -> None:
    text, query, marked = KINDS[kind]
    hits = search(catalog, query, way)
    assert hits, "nothing found"
    assert (hits[0].page_id, hits[0].match, hits[0].missing) == (kind, "exact", ())
    assert hits[0].page_text == text, "the text stays as it was read"
    assert [hits[0].text[start:end] for start, end in hits[0].marks] == marked


@pytest.mark.parametrize("kind", KINDS)
def test_folding_with_offsets_is_folding(kind: str) -> None:
    for text in KINDS[kind][:2]:
        folded, offsets = fold_with_offsets(text)
        assert folded == fold(text)
        assert len(offsets) == len(folded) + 1
        assert offsets == sorted(offsets)


@pytest.mark.parametrize(
    ("query", "absent"),
    [
        ('"velvet blue chair"', ("velvet blue chair",)),
        ('"blue velvet chairs"', ("blue velvet chairs",)),
        ('"the carpenters came" harbour', ("the carpenters came",)),
        ('"blue velvet" "brass sundial"', ("blue velvet", "brass sundial")),
        ('"blue velvet" "no such thing"', ("no such thing",)),
        ("「银元四十二」", ("银元四十二",)),
    ],
)
@pytest.mark.parametrize("way", ["keyword", "hybrid", "hybrid with vectors"])
def test_a_quoted_phrase_has_to_be_there(catalog: Catalog, query: str, absent: tuple[str, ...], way: str) -> None:
    hits = search(catalog, query, way, related=True)
    assert (list(hits), hits.total, hits.absent_phrases) == ([], 0, absent)


def test_words_of_keyword_are_all_there_or_said_to_be_missing(catalog: Catalog) -> None:
    assert [hit.page_id for hit in search(catalog, "harbour full")] == ["case"]
    assert not search(catalog, "harbour chair")
    some = search(catalog, "harbour chair", related=True)
    assert {(hit.page_id, hit.match, hit.missing) for hit in some} == {
        ("case", "related", ("chair",)),
        ("phrase over the line end", "related", ("harbour",)),
    }
    assert all(hit.score < 0.5 for hit in some)
    [misread] = search(catalog, "carpcnter")
    assert (misread.page_id, misread.match, misread.respelled) == ("hyphen at the line end", "similar", ("carpcnter",))


@pytest.mark.parametrize("way", ["keyword", "hybrid", "hybrid with vectors"])
def test_gibberish_finds_nothing(catalog: Catalog, way: str) -> None:
    for query in ("qwxz vrtl", "zxcvbnmasdf", "blorptang", "??? !!!", '"', '""', "() - *"):
        assert not search(catalog, query, way), query


@pytest.mark.parametrize(
    "query", ["harbour " * 1250, '"' * 10_000, "港" * 10_000, "a-" * 5000, "(" * 10_000, "x" * 10_000]
)
def test_a_long_query_takes_no_longer_than_its_first_words(catalog: Catalog, query: str) -> None:
    assert len(query) >= 10_000
    parsed = parse_query(query)
    assert len(parsed.text) <= 2000
    assert len(parsed.terms) <= 48
    started_s = time.monotonic()
    search(catalog, query, "hybrid with vectors", related=True)
    assert time.monotonic() - started_s < 20, "a hang, not a slow machine"
