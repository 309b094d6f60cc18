"""`read --format html`: escaped, honest about every status, and nothing from elsewhere."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from kobold_reader import KoboldReader
from kobold_reader.errors import PageRenderError
from kobold_reader.html.pages import HtmlWriter
from kobold_reader.html.text import reading_html
from kobold_reader.pages import Scalar
from kobold_reader.reading.ledger import Ledger
from kobold_reader.reading.open_file import OpenFile
from kobold_reader.reading.results import PageResult, Reading
from tests.conftest import LETTER, SAMPLES
from tests.kobold_simulator import Fault, KoboldSimulator, ScriptBrain
from tests.test_cli import Command, kobold  # noqa: F401  (a fixture)

HOSTILE = "Total <script>alert(1)</script> & \"<img src=http://evil/x onerror='alert(1)'>\" \x1b[2J \u202e12.34"


def reading(text: str, *doubtful: dict[str, Scalar], **changes: Any) -> Reading:
    return replace(Reading("ocr", "ok", text, "koboldcpp", doubtful=doubtful), **changes)


class Seen(HTMLParser):
    """What a browser would make of it: tags, addresses, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(str(html))
        self.close()

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "action", "data"}]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)

    @override
    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    @override
    def handle_data(self, data: str) -> None:
        self.text += data


def test_text_is_nothing_but_text() -> None:
    seen = Seen(reading_html(reading(HOSTILE)))
    assert seen.tags == ["div"]
    assert seen.text == HOSTILE.replace("\x1b", "\ufffd").replace("\u202e", "\ufffd")


def test_doubtful_words_are_marked_with_their_rivals_wherever_they_stand() -> None:
    text = "Mr Rosenfeld paid\n\n| Date | Kr. |\n|---|---:|\n| 3 May | 21.00 |\n\nCarried 17"
    at = text.index
    html = reading_html(
        reading(
            text,
            {"start": at("17"), "end": len(text), "rival": '"11"<b>'},
            {"start": at("Rosen"), "end": at(" paid"), "rival": "Rosenfeldt"},
            {"start": at("21"), "end": at("21") + 5, "rival": "27.00"},
        )
    )
    assert re.findall(r'<mark tabindex="0" title="([^"]*)">([^<]*)</mark>', html) == [
        ("or: Rosenfeldt", "Rosenfeld"),
        ("or: 27.00", "21.00"),
        ("or: &quot;11&quot;&lt;b&gt;", "17"),
    ]


@pytest.mark.parametrize(
    "word",
    [
        {"start": 3, "end": 99, "rival": "x"},
        {"start": -4, "end": 2, "rival": "x"},
        {"start": 2, "end": 2, "rival": "x"},
        {"rival": "x"},
    ],
)
def test_a_place_outside_the_text_marks_nothing(word: dict[str, Scalar]) -> None:
    assert reading_html(reading("a page", word)) == '<div class="text" dir="auto">a page</div>'


def test_tables_are_laid_out_and_lose_nothing() -> None:
    html = reading_html(reading("Dues\n| Date | Kr. |\n|:--|--:|\n| 3 May | <b>4</b> | more |\n|  | 5 \\| 6 |\nend"))
    assert "<tr><th>Date</th><th>Kr.</th></tr>" in html
    assert "<tr><td>3 May</td><td>&lt;b&gt;4&lt;/b&gt;</td><td>more</td></tr>" in html
    assert "5 \\| 6" in html
    assert "".join(Seen(html).text.split()) == "DuesDateKr.3May<b>4</b>more5\\|6end"
    assert html.startswith('<div class="text" dir="auto">Dues</div>')


def test_html_tables_are_made_anew() -> None:
    text = (
        "Dues\n<table border=1 onclick='alert(1)'>\n<caption>of 1938</caption><THEAD>"
        "<tr><th colspan=\"2\" style='x'>Date</th><th rowspan=999 colspan=0>Kr.</tr></thead>\n"
        "<tr><td>3 May</td><td>a<br/>b</td><td>H<sub>2</sub>O <script>alert(1)</script></td></tr></table>\nend"
    )
    at = text.index("3 May")
    html = reading_html(reading(text, {"start": at, "end": at + 1, "rival": "8"}))
    assert '<div class="table"><table dir="auto"><tbody><tr><td>of 1938</td></tr>' in html
    assert '<tr><th colspan="2">Date</th><th>Kr.</th></tr>' in html, "no span without bounds"
    assert '<td><mark tabindex="0" title="or: 8">3</mark> May</td><td>a<br>b</td>' in html
    assert "<td>H&lt;sub&gt;2&lt;/sub&gt;O &lt;script&gt;alert(1)&lt;/script&gt;</td>" in html, "other tags are text"
    assert set(Seen(html).tags) == {"div", "table", "tbody", "tr", "th", "td", "br", "mark"}


@pytest.mark.parametrize(
    ("text", "cells"),
    [
        ("<table><tr><td>a</td><td>cut o", ["a", "cut o"]),
        ("<table><td>a<td>b<tr><td>c</table>", ["a", "b", "c"]),
        ("<table><tr><td>a | b</td></tr>\n<tr><td>---|---</td></tr></table>", ["a | b", "---|---"]),
        ("<table><tr><td>a<table><tr><td>inner</td></tr></table></td></tr></table>", ["inner"]),
        ("<table><tr><td>a</td></tr></table>\n| x | y |\n|---|---|\n| 1 | 2 |", ["a", "x", "y", "1", "2"]),
        ("<table>outside<tr><td>a</td></tr></table>", []),
        ("<table></table> and <tr><td>a</td></tr>", []),
        ("<tables><tr><td>a</td></tr></tables>", []),
    ],
)
def test_no_text_of_an_odd_table_is_lost(text: str, cells: list[str]) -> None:
    html = reading_html(reading(text))
    assert re.findall(r"<t[dh]>([^<]*)</t[dh]>", html) == cells
    seen = Seen(html)
    assert seen.open == []
    before, after = (re.sub(r"<[^>]*>|\W", "", one) for one in (text, seen.text))
    assert after == before


def test_no_table_takes_long() -> None:
    for text in (
        "<table>" * 20_000,
        "<table><tr><td>" * 10_000,
        "<table " * 20_000,
        "<br" * 50_000 + "<table>" + "<" * 50_000,
    ):
        started_s = time.process_time()
        reading_html(reading(text))
        assert time.process_time() - started_s < 1


def test_a_line_with_a_bar_is_no_table() -> None:
    assert "<table" not in reading_html(reading("a | b\nc | d\n-----"))
    assert "<table" not in reading_html(reading("a | b\n|---|---|"[:5]))


def written(results: list[PageResult], ledger: Ledger, title: str = "letters") -> str:
    out = io.StringIO()
    with OpenFile(ledger) as opened, HtmlWriter(out, title, opened) as writer:
        for result in results:
            writer.write(result)
    return out.getvalue()


@pytest.mark.slow
def test_every_status_is_said_as_it_is(make_simulator: Callable[..., KoboldSimulator], tmp_path: Path) -> None:
    server = make_simulator(brain=ScriptBrain([HOSTILE]))
    paths = [SAMPLES / "letters", SAMPLES / "scans" / "scan0008.jpg"]
    with (
        KoboldReader(api_url=server.url, tasks=["ocr"], rotate=0) as reader,
        Ledger(tmp_path / "l.sqlite") as ledger,
    ):
        from kobold_reader.pages import select

        ok, cut, odd, blank = reader.transcriber(ledger).run(select(paths).files)
        error = PageRenderError("The picture <b>cannot</b> be decoded.", hint="Scan it again.")
        cut = replace(cut, readings={"ocr": replace(cut.readings["ocr"], status="truncated")})
        odd = replace(odd, readings={}, errors={"ocr": error})
        asked = ("ocr", "caption", "tags")
        ok = replace(
            ok,
            tasks=asked,
            readings={
                **ok.readings,
                "tags": Reading("tags", "ok", "A letter to Axel.\n\nKeywords: letter, 1954", "koboldcpp"),
            },
            errors={"caption": error},
        )
        html = written([ok, cut, odd, blank], ledger, title='a "title" <i>')
    seen = Seen(html)
    assert seen.open == []
    assert "script" not in seen.tags
    assert "b" not in seen.tags
    assert seen.text.count("<script>alert(1)</script>") == 2
    assert 'a "title" <i>' in seen.text
    assert len([link for link in seen.links if link.startswith("data:image/")]) == 4
    assert all(link.startswith(("data:image/", "#")) for link in seen.links), "nothing from elsewhere"
    assert "default-src 'none'" in html
    assert "caption: The picture <b>cannot</b> be decoded. Scan it again." in seen.text
    assert '<p class="caption">A letter to Axel.</p>\n<ul class="tags"><li>letter</li><li>1954</li></ul>' in html
    assert "The answer was cut off here" in seen.text
    assert "Nothing is on this page." in seen.text
    assert "4 pages: 1 read, 1 cut off, 1 failed, 1 blank." in seen.text
    failed = next(link for link in seen.links if link.startswith("#") and link != "#end")
    assert f'id="{failed[1:]}"' in html


@pytest.mark.slow
def test_read_writes_html(
    kobold: Command,  # noqa: F811
    simulator: KoboldSimulator,
    tmp_path: Path,
) -> None:
    broken, target = tmp_path / "broken.pdf", tmp_path / "letters.html"
    broken.write_bytes(b"%PDF-1.7\nnothing more")
    simulator.fault(None, Fault.BAD_INPUT)
    asked = [LETTER, broken, "--tasks", "ocr", "--rotate", "90", "--api-url", simulator.url]
    said = kobold("read", *asked, "--format", "html", "-o", target)
    assert (said.code, said.out) == (5, "")
    seen = Seen(target.read_text(encoding="utf-8"))
    assert seen.tags.count("article") == 4
    assert seen.tags.count("img") == 3, "the failed page is shown as well"
    assert "3 pages: 2 read, 1 failed." in seen.text
    assert "broken.pdf" in seen.text
    html = target.read_text(encoding="utf-8")
    sizes = [(int(width), int(height)) for width, height in re.findall(r'width="(\d+)" height="(\d+)"', html)]
    assert [width > height for width, height in sizes] == [True, False, True], "turned as they were read"
    assert max(max(size) for size in sizes) <= 900
    assert len(html) / 3 < 200_000
    assert list(tmp_path.glob("*.part")) == []
