"""What a notebook shows: escaped, marked, turned as it was read; and the archive as a table."""

from __future__ import annotations

import builtins
import io
import re
from base64 import b64decode
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from kobold_reader import Archive, KoboldReader, PageResult
from kobold_reader.errors import MissingExtraError
from kobold_reader.notebook import compare, show_hits, show_pages
from tests.conftest import LETTER, SAMPLES
from tests.kobold_simulator import KoboldSimulator, ScriptBrain
from tests.test_html import HOSTILE, Seen

MARKED = re.compile(r"<mark([^>]*)>([^<]*)</mark>")


def marks(html: object, kind: str) -> list[str]:
    return [text for named, text in MARKED.findall(str(html)) if f'class="{kind}"' in named]


def sizes(html: object) -> list[tuple[int, int]]:
    images = re.findall(r'src="data:image/(?:jpeg|png);base64,([^"]+)"', str(html))
    return [Image.open(io.BytesIO(b64decode(image))).size for image in images]


def seen_in(html: object) -> Seen:
    return Seen(re.sub(r"<style>.*?</style>", "", str(html), flags=re.DOTALL))


# ── two texts ────────────────────────────────────────────────────────────────────────────────────


def test_the_words_that_differ_are_marked_on_both_sides_with_what_the_other_has() -> None:
    html = compare("Mr Rosenfeld paid 21 kr. in May", "Mr Roscnfeld paid 27 kr. in  late May", names=("full", "half"))
    assert marks(html, "first") == ["Rosenfeld", "21"]
    assert marks(html, "second") == ["Roscnfeld", "27", "late"]
    assert 'title="the other has: 27"' in str(html)
    assert 'title="missing in the other"' in str(html)
    assert "They differ in 3 places." in seen_in(html).text


def test_spaces_and_line_ends_are_no_difference() -> None:
    html = compare("a page\nof  text", "a page of text")
    assert "<mark" not in str(html)
    assert "Word for word the same." in str(html)


@pytest.mark.parametrize(("first", "second"), [("", "a word"), ("a word", ""), ("", "")])
def test_an_empty_text_can_be_compared(first: str, second: str) -> None:
    html = compare(first, second)
    assert marks(html, "first") == ([first] if first else [])
    assert marks(html, "second") == ([second] if second else [])


def test_compared_texts_are_nothing_but_text() -> None:
    seen = seen_in(compare(HOSTILE, "<b>other</b>", names=("<i>a</i>", "b")))
    assert not {"script", "img", "b", "i"} & set(seen.tags)
    assert "<i>a</i>" in seen.text
    assert seen.open == []


# ── pages ────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def read(make_simulator: Callable[..., KoboldSimulator]) -> Callable[..., Sequence[PageResult]]:
    def read(*paths: Path, text: str = HOSTILE, **options: Any) -> Sequence[PageResult]:
        server = make_simulator(brain=ScriptBrain(lambda _: text))
        with KoboldReader(api_url=server.url, tasks=["ocr"], ledger="none", **options) as reader:
            return list(reader.read_pages(paths))

    return read


@pytest.mark.slow
def test_pages_stand_beside_their_text(read: Callable[..., Sequence[PageResult]], tmp_path: Path) -> None:
    broken = tmp_path / "broken.pdf"
    broken.write_bytes(b"%PDF-1.7\nnothing more")
    one, other, _, failed = read(LETTER, broken, rotate=0)
    doubtful = replace(one.readings["ocr"], doubtful=({"start": 0, "end": 5, "rival": "Tofal"},))
    html = show_pages([replace(one, readings={"ocr": doubtful}), other, failed])
    seen = seen_in(html)
    assert seen.open == []
    assert seen.text.count("<script>alert(1)</script>") == 2
    assert not {"script", "b"} & set(seen.tags)
    assert [max(size) for size in sizes(html)] == [300, 300], "a file that cannot be opened has no picture"
    assert '<mark tabindex="0" title="or: Tofal">Total</mark>' in str(html)
    assert "said failed" in str(html)
    assert all(link.startswith("data:image/") for link in seen.links)
    assert len(str(html)) < 100_000
    assert "broken.pdf" in seen.text


@pytest.mark.slow
def test_documents_are_shown_turned_as_they_were_read(make_simulator: Callable[..., KoboldSimulator]) -> None:
    server = make_simulator(brain=ScriptBrain(lambda _: HOSTILE))
    with KoboldReader(api_url=server.url, tasks=["ocr"], ledger="none", rotate=90) as reader:
        documents = reader.load_data([LETTER])
        results = list(reader.read_pages([LETTER]))
    html = show_pages(documents, limit=1, size_px=120)
    assert sizes(html) == sizes(show_pages(results[:1], size_px=120))
    [(width, height)] = sizes(html)
    assert width == 120 > height
    assert "Only the first 1 are shown" in str(html)
    assert re.sub("[\x1b\u202e]", "\ufffd", HOSTILE) in seen_in(html).text
    gone = documents[1]
    gone.metadata["file_path"] = "/nowhere/letter.pdf"
    assert "No picture: " in str(show_pages([gone]))


@pytest.mark.slow
def test_no_more_of_a_generator_is_taken_than_is_shown(read: Callable[..., Sequence[PageResult]]) -> None:
    results = read(LETTER)
    rest = iter(results)
    show_pages(rest, limit=1)
    assert list(rest) == [results[2]], "one is shown, one tells that there are more"


@pytest.mark.slow
def test_a_page_result_shows_itself(read: Callable[..., Sequence[PageResult]], tmp_path: Path) -> None:
    broken = tmp_path / "bro<b>ken.pdf"
    broken.write_bytes(b"%PDF-1.7\nnothing more")
    *_, page, failed = read(LETTER, broken)
    seen = seen_in(page._repr_html_())
    assert not {"script", "img"} & set(seen.tags)
    assert "<script>alert(1)</script>" in seen.text
    assert "read by Qwen2.5-VL" in seen.text
    seen = seen_in(failed._repr_html_())
    assert "bro<b>ken.pdf" in seen.text
    assert "failed" in seen.text
    assert str(failed.error) in seen.text


# ── the archive ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def archive(make_simulator: Callable[..., KoboldSimulator], tmp_path: Path) -> Any:
    server = make_simulator(brain=ScriptBrain(lambda _: "Axel Lindqvist & <b>sons</b>"))
    broken = tmp_path / "broken.pdf"
    broken.write_bytes(b"%PDF-1.7\nnothing more")
    paths = [LETTER, broken, SAMPLES / "scans" / "scan0008.jpg", SAMPLES / "photos"]
    with Archive.open(tmp_path / "archive", create=True, embedder="none") as archive:
        archive.sync(paths, reader=KoboldReader(api_url=server.url, tasks=["ocr"], on_error="skip"))
        yield archive


@pytest.mark.slow
def test_hits_are_marked_and_lead_to_their_page(archive: Archive) -> None:
    hits = archive.search("Lindqvist", limit=2)
    html = show_hits(hits)
    seen = seen_in(html)
    assert [text for _, text in MARKED.findall(str(html))] == ["Lindqvist", "Lindqvist"]
    assert seen.text.count("<b>sons</b>") == 2
    assert [link for link in seen.links if not link.startswith("data:")] == [hit.link for hit in hits]
    assert [max(size) for size in sizes(html)] == [160, 160], "the page stands beside its passage"
    assert sizes(show_hits(hits, size_px=0)) == []
    gone = replace(hits[0], metadata={**hits[0].metadata, "file_path": "/nowhere/letter.pdf"})
    assert "No picture: " in str(show_hits([gone]))
    assert "Nothing was found." in str(show_hits([]))


@pytest.mark.slow
def test_the_archive_is_a_table_with_a_row_for_each_page(archive: Archive) -> None:
    frame = archive.to_dataframe()
    shown = frame[frame.file_name == LETTER.name]
    assert list(shown.page_number) == [1, 2, 3]
    assert set(shown.text_length) == {len("Axel Lindqvist & <b>sons</b>")}
    assert set(shown.model) == {"Qwen2.5-VL-7B-Instruct-Q4_K_M"}
    assert set(shown.text_source) == {"ocr"}
    assert [link[-7:] for link in shown.link] == ["#page=1", "#page=2", "#page=3"]
    assert set(shown.date_digitized) == {"1998-11-03T12:00:00+00:00"}
    [blank] = frame[frame.page_status == "blank"].itertuples()
    assert (blank.file_name, blank.text_length, blank.folder) == ("scan0008.jpg", 0, "scans")
    [photo] = frame[frame.folder == "photos"].itertuples()
    assert photo.date_taken.startswith("1999-07-18")
    assert frame.confidence.dtype == "float64"
    [broken] = frame[frame.page_number == 0].itertuples()
    assert (broken.file_name, broken.page_status) == ("broken.pdf", "failed")
    assert broken.error
    assert len(frame) == 6


def test_an_empty_archive_is_an_empty_table(tmp_path: Path) -> None:
    with Archive.open(tmp_path / "archive", create=True, embedder="none") as archive:
        frame = archive.to_dataframe()
    assert len(frame) == 0
    assert "confidence" in frame.columns


def test_without_pandas_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_pandas(name: str, *arguments: Any, **named: Any) -> Any:
        if name == "pandas":
            raise ImportError(name)
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without_pandas)
    with (
        Archive.open(tmp_path / "archive", create=True, embedder="none") as archive,
        pytest.raises(MissingExtraError, match=r"install .*\[notebook\]"),
    ):
        archive.to_dataframe()
