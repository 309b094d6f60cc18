"""The local search page: who may see and change what, what is shown, and that nothing on a page can run."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from starlette.testclient import TestClient
from typing_extensions import override

from kobold_reader import Archive, KoboldReader
from kobold_reader.archive.rows import PageRow, Place, version_of
from kobold_reader.archive.store import Catalog
from kobold_reader.errors import ConfigError, quoted
from kobold_reader.html.text import Mark, marked_html
from kobold_reader.pages import local_uri
from kobold_reader.web import Access, WebServer, make_app
from kobold_reader.web.library import Library
from kobold_reader.web.security import POLICY
from tests.archive_rows import amend_reading, catalog_of, put
from tests.conftest import LETTER
from tests.kobold_simulator import Fault, KoboldSimulator, RecordedRequest, ScriptBrain

EVIL = "Lindqvist <script>alert(1)</script> \"><img src=x onerror='alert(1)'>"
ACCESS = Access(port=8642, token="the-secret-of-this-run")  # noqa: S106
HERE = "http://127.0.0.1:8642"
SHA = "ab" * 32


def row(number: int, text: str = "", **changes: Any) -> PageRow:
    """A page as `index` records it."""
    name = str(changes.pop("file_name", "box.pdf"))
    more = changes.pop("about", {})
    sha256 = changes.pop("sha256", SHA)
    parts = changes.pop("parts", {"ocr": text} if text else {})
    status = changes.pop("status", "ok")
    metadata = {
        "file_name": name,
        "file_path": f"/scans/{name}",
        "file_type": "application/pdf",
        "folder": "scans",
        "page_number": number,
        "page_label": str(number),
        "total_pages": 3,
        "page_status": status,
        **more,
    }
    page = PageRow(
        f"{sha256[:32]}-{number}", sha256, number, status, parts, version_of(parts), metadata, f"file:///{name}"
    )
    content = "" if status == "failed" else f"{sha256[:60]}{number:04}"  # of a failed page nothing is known
    return replace(page, content_sha256=content, **changes)


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with Archive.open(tmp_path / "boxes", create=True, embedder="none") as archive:
        put(
            archive,
            row(1, "Axel Lindqvist, inventory 1954/37-b."),
            row(2, EVIL, about={"file_name": EVIL, "folder": EVIL, "title": EVIL, "page_label": EVIL}),
            row(3, status="failed", error="/scans/box.pdf page 3: the model is gone <b>. Start it."),
            row(
                1,
                sha256="cd" * 32,
                file_name="boat.jpg",
                parts={"caption": "A red boathouse."},
                status="no_text",
                about={
                    "file_type": "image/jpeg",
                    "date_taken": "1999-07-14T15:22:10",
                    "file_path": "/photos/boat.jpg",
                    "folder": "photos",
                },
            ),
        )
        yield archive


@dataclass
class Site:
    """The page, with and without the browser's cookie."""

    archive: Archive
    client: TestClient
    stranger: TestClient


@pytest.fixture
def make_site() -> Iterator[Callable[[Archive], Site]]:
    closing: list[Callable[[], None]] = []

    def make(archive: Archive, **options: Any) -> Site:
        app, close = make_app(archive, ACCESS, **options)
        closing.append(close)
        stranger, client = (TestClient(app, HERE, follow_redirects=False, raise_server_exceptions=False) for _ in "ab")
        client.cookies.set(ACCESS.cookie, ACCESS.session, domain="127.0.0.1")
        return Site(archive, client, stranger)

    yield make
    for close in closing:
        close()


@pytest.fixture
def site(archive: Archive, make_site: Callable[[Archive], Site]) -> Site:
    return make_site(archive)


class Seen(HTMLParser):
    """What a browser would make of it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.scripts: list[str | None] = []
        self.handlers: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.handlers += [name for name in given if name.startswith("on") or name == "style"]
        self.addresses += [given[name] or "" for name in ("src", "href", "action") if name in given]
        if tag == "script":
            self.scripts.append(given.get("src"))

    @override
    def handle_data(self, data: str) -> None:
        self.text += data


def change(site: Site, path: str, headers: dict[str, str] | None = None, **fields: str) -> Any:
    sent = {"token": ACCESS.change_token, **fields}
    return site.client.post(
        path,
        content=urlencode(sent),
        headers={"Content-Type": "application/x-www-form-urlencoded", "Origin": HERE, **(headers or {})},
    )


GETS = [
    "/",
    "/?q=Lindqvist",
    f"/page/{SHA[:32]}-1",
    f"/image/{SHA[:32]}-1/small",
    f"/original/{SHA[:32]}-1",
    "/photos",
    "/failed",
    "/about",
    "/run",
    "/add",
    "/ready",
]
SCRIPTS = ["/static/app.js", "/static/live.js"]
POSTS = [
    f"/page/{SHA[:32]}-1/text",
    f"/page/{SHA[:32]}-1/as-read",
    f"/page/{SHA[:32]}-3/again",
    "/file/00/again",
    f"/page/{SHA[:32]}-1/rotation",
    f"/page/{SHA[:32]}-1/unlock",
    "/export",
    "/add/index",
    "/add/stop",
]


# ── who may see ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", ["/nothing", f"/page/{SHA[:32]}-99", f"/original/{SHA[:32]}-1"])
def test_errors_are_pages_of_our_own(site: Site, path: str) -> None:
    html = site.client.get(path).text
    assert '<h1 class="view">Not found</h1>' in html
    assert '<a class="button" href="/">Back to the search</a>' in html
    for answer in (html, site.stranger.get(path).text):
        assert '<span class="product">kobold-reader</span>' in answer
        assert '<svg class="icon"' in answer
        assert '<link rel="stylesheet" href="/static/style.css">' in answer
    assert '<span class="archive">boxes</span>' in html
    assert "boxes" not in site.stranger.get(path).text


@pytest.mark.parametrize("path", GETS)
def test_nothing_is_shown_without_the_token(site: Site, path: str) -> None:
    answer = site.stranger.get(path)
    assert answer.status_code == 403
    assert "Lindqvist" not in answer.text
    wrong = site.stranger.get(path, params={"token": "guessed"})
    assert wrong.status_code == 403
    assert not wrong.cookies


def test_the_printed_address_gives_the_browser_its_cookie_and_goes_on_without_the_token(site: Site) -> None:
    assert ACCESS.url("127.0.0.1") == f"{HERE}/?token={ACCESS.token}"
    answer = site.stranger.get("/", params={"q": "Lindqvist", "token": ACCESS.token})
    assert (answer.status_code, answer.headers["location"]) == (303, "/?q=Lindqvist")
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert ACCESS.token not in cookie, "other servers of this machine are sent the cookie, too"
    assert "1954/37-b" in site.stranger.get("/", params={"q": "Lindqvist"}).text, "the cookie is enough from now on"


def test_a_terminal_inside_a_web_page_gets_in_by_a_page_of_our_own(site: Site) -> None:
    foreign = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    answer = site.stranger.get("/", params={"token": ACCESS.token, "q": '">'}, headers=foreign)
    assert answer.status_code == 200
    assert 'content="0;url=/?q=%22%3E"' in answer.text
    assert ACCESS.cookie in answer.headers["set-cookie"]
    foreign["Sec-Fetch-Mode"] = "no-cors"
    assert site.stranger.get("/", params={"token": ACCESS.token}, headers=foreign).status_code == 403


@pytest.mark.parametrize(("path", "target"), [("//evil.example/x", "/evil.example/x"), ("/%5Cevil", "/%5Cevil")])
def test_the_way_in_leads_nowhere_else(site: Site, path: str, target: str) -> None:
    answer = site.stranger.get(f"{HERE}{path}", params={"token": ACCESS.token})
    assert answer.headers["location"] == target
    foreign = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    answer = site.stranger.get(f"{HERE}{path}", params={"token": ACCESS.token}, headers=foreign)
    assert f'content="0;url={target}"' in answer.text


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8642", "10.0.0.7:8642", "127.0.0.1.evil.example", "", "["]
)
@pytest.mark.parametrize("path", ["/", "/static/app.js", f"/?token={ACCESS.token}"])
def test_a_name_made_to_point_here_is_refused(site: Site, host: str, path: str) -> None:
    answer = site.client.get(path, headers={"Host": host})
    assert answer.status_code == 421
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("host", ["127.0.0.1:8642", "localhost:8642", "[::1]:8642", "LOCALHOST:9000"])
def test_this_machines_own_names_are_taken(site: Site, host: str) -> None:
    assert site.client.get("/static/app.js", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_loopback_is_told(host: str) -> None:
    access = Access(host=host, port=1)
    assert access.is_loopback
    assert access.knows(host)
    assert not access.knows("192.168.1.7")


def test_open_to_others_only_addresses_and_own_names_are_taken() -> None:
    access = Access(host="0.0.0.0", port=1)  # noqa: S104
    assert not access.is_loopback
    assert access.knows("192.168.1.7")
    assert access.knows("127.0.0.1")
    assert not access.knows("evil.example"), "no name that somebody else can point here"


@pytest.mark.parametrize("site_header", ["cross-site", "same-site"])
@pytest.mark.parametrize("path", [*GETS, "/static/app.js"])
def test_other_pages_may_show_nothing_of_ours(site: Site, path: str, site_header: str) -> None:
    """`same-site` is another server of this machine, on another port: our cookie goes along with its requests."""
    assert site.client.get(path, headers={"Sec-Fetch-Site": site_header}).status_code == 403


# ── who may change ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:5001"},
        {"Origin": "file://127.0.0.1:8642"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Host": "evil.example", "Origin": "http://evil.example"},
    ],
)
def test_a_change_from_another_page_is_refused(site: Site, path: str, headers: dict[str, str]) -> None:
    assert change(site, path, headers, text="x").status_code in {403, 421}


@pytest.mark.parametrize("path", POSTS)
def test_every_change_needs_cookie_and_token(site: Site, path: str) -> None:
    for token in ("", "guessed", ACCESS.token, ACCESS.session):
        assert change(site, path, token=token).status_code == 403
    site.client.cookies.clear()
    assert change(site, path).status_code == 403
    assert site.client.post(f"{path}?token={ACCESS.token}", headers={"Origin": HERE}).status_code == 403


@pytest.mark.parametrize("path", POSTS)
def test_a_link_changes_nothing(site: Site, path: str) -> None:
    assert site.client.get(path).status_code in {404, 405}


def test_what_is_sent_is_bounded(site: Site) -> None:
    assert change(site, POSTS[0], text="x" * 4_100_000).status_code == 413


# ── what every answer carries ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", [*GETS, "/nothing", "/static/app.js", "/static/style.css", "/static/icon.svg"])
def test_every_answer_carries_the_policy(site: Site, path: str) -> None:
    for answer in (site.client.get(path), site.stranger.get(path), site.client.get(path, headers={"Host": "evil"})):
        assert answer.headers["content-security-policy"] == POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-store"
    assert "unsafe" not in POLICY
    assert "http" not in POLICY, "no other host"


@pytest.mark.parametrize(
    "path", [one for one in GETS if "image" not in one and one not in {"/run", "/ready"}] + ["/nothing"]
)
def test_no_view_loads_or_runs_anything_else(site: Site, path: str) -> None:
    seen = Seen(site.client.get(path).text)
    assert seen.scripts == SCRIPTS
    assert seen.handlers == []
    assert [one for one in seen.addresses if not re.match(r"[/#](?!/)", one)] == []


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/static//etc/passwd",
        "/static/",
        "/page/..%2f..%2fetc%2fpasswd",
        "/image/%2fetc%2fpasswd/small",
        f"/image/{SHA[:32]}-1/huge",
        f"/original/{SHA[:32]}-99",
        f"/original/{SHA[:32]}-1",
        "/original/..%2f..%2fetc%2fpasswd",
        "/original//etc/passwd",
        "/original/",
        f"/image/{SHA[:32]}-99/small",
        f"/page/{SHA[:32]}-99",
        f"/page/{SHA[:32]}-1%00",
        "/page/' OR 1=1 --",
        "/scans/box.pdf",
        "/nothing",
    ],
)
def test_only_what_the_archive_knows_by_its_id_is_served(site: Site, path: str) -> None:
    answer = site.client.get(path)
    assert answer.status_code == 404
    assert "root:" not in answer.text


# ── what pages, names and queries hold is only shown ──────────────────────────────────────────────


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/?q=Lindqvist",
        f"/page/{SHA[:32]}-2?q=Lindqvist&at=ocr.0.20",
        f"/page/{SHA[:32]}-2?edit=1",
        f"/page/{SHA[:32]}-1",
        "/failed",
        "/?" + urlencode({"q": EVIL}),
        "/?" + urlencode({"q": "x", "folder": EVIL, "status": EVIL, "since": EVIL}),
        f"/page/{SHA[:32]}-2?" + urlencode({"q": EVIL, "folder": EVIL, "at": EVIL}),
    ],
)
def test_nothing_hostile_runs(site: Site, path: str) -> None:
    answer = site.client.get(path)
    seen = Seen(answer.text)
    assert seen.scripts == SCRIPTS
    assert seen.handlers == []
    assert [one for one in seen.addresses if not re.match(r"[/#](?!/)", one)] == []
    assert "<img src=x" not in answer.text


def test_hostile_text_is_shown_as_it_stands(site: Site) -> None:
    assert EVIL in Seen(site.client.get(f"/page/{SHA[:32]}-2").text).text
    assert EVIL in Seen(site.client.get(f"/page/{SHA[:32]}-2?edit=1").text).text, "and edited as it stands"


# ── the views ─────────────────────────────────────────────────────────────────────────────────────


def test_hits_have_their_passage_marked_and_lead_to_it(site: Site) -> None:
    html = site.client.get("/?q=1954/37-b").text
    assert '<mark class="found">1954/37-b</mark>' in html
    [address] = set(re.findall(r'href="(/page/[^"]+-1\?[^"]+)"', html))
    page = site.client.get(address.replace("&amp;", "&")).text
    assert '<mark class="passage found">1954/37-b</mark>' in page
    assert '<mark class="passage">Axel Lindqvist, inventory </mark>' in page
    assert "All hits for “1954/37-b”" in page


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<table>\n<tr><th>Item</th><td>Quarantine</td></tr></table>\nend", " · Item · Quarantine · end"),
        ("| Item | Kr. |\n|:---|---:|\n| Quarantine | 2 |", "| Item | Kr. | Quarantine | 2 |"),
        ("Quarantine <b> | --- |", "Quarantine <b> |"),
    ],
)
def test_a_passage_shows_no_tags_of_tables(site: Site, text: str, shown: str) -> None:
    put(site.archive, row(1, text, sha256="ef" * 32, file_name="t.pdf"))
    [passage] = re.findall(r'class="passage" dir="auto">(.*?)</p>', site.client.get("/?q=quarantine").text, re.DOTALL)
    assert " ".join(Seen(passage).text.split()) == " ".join(shown.split())


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", {f"{SHA[:32]}-1", f"{'cd' * 16}-1"}),
        ("status=ok", {f"{SHA[:32]}-1", f"{SHA[:32]}-2"}),
        ("status=failed", {f"{SHA[:32]}-3"}),
        ("kind=image/jpeg", {f"{'cd' * 16}-1"}),
        ("folder=photos", {f"{'cd' * 16}-1"}),
        ("since=1999&until=1999", {f"{'cd' * 16}-1"}),
        ("since=2000", set()),
        ("since=1999-07-15", set()),
        ("q=boathouse&folder=photos", {f"{'cd' * 16}-1"}),
        ("q=boathouse&folder=scans", set()),
    ],
)
def test_filters_choose_pages(site: Site, query: str, expected: set[str]) -> None:
    html = site.client.get(f"/?{query}").text
    assert set(re.findall(r"/image/([0-9a-f]{32}-\d+)/small", html)) == expected


def test_filters_are_named_and_cleared(site: Site) -> None:
    html = site.client.get("/?q=boathouse&folder=photos").text
    assert "<summary>Filters</summary>" in html
    assert '<a href="/?q=boathouse">Clear</a>' in html
    assert ">Clear</a>" not in site.client.get("/?q=boathouse").text


def test_the_parts_of_a_page_have_headings(site: Site) -> None:
    put(site.archive, row(1, sha256="ef" * 32, parts={"ocr": "Axel", "caption": "A letter."}))
    headings = re.findall(r"<h2>([^<]*)</h2>", site.client.get(f"/page/{'ef' * 16}-1").text)
    assert headings == ["Text", "Image description"]
    assert "<h2>" not in site.client.get(f"/page/{SHA[:32]}-1").text, "one text needs none"


def test_what_cannot_be_asked_is_answered_in_a_sentence(site: Site) -> None:
    assert "is not a date" in site.client.get("/?q=x&since=yesterday").text
    assert "Nothing found" in site.client.get("/?q=zzzzqqqq").text
    assert "no such page in this archive" in site.client.get(f"/page/{SHA[:32]}-99").text


def test_what_is_merely_near_stands_below_a_line(site: Site) -> None:
    put(
        site.archive,
        row(1, "The gantry and the capstan were oiled.", sha256="ef" * 32, file_name="all.pdf"),
        row(1, "The capstan was sold.", sha256="ee" * 32, file_name="some.pdf"),
    )
    html = site.client.get("/?q=gantry+capstan").text
    found, line, related = html.partition('<h2 class="related">Perhaps related</h2>')
    assert line
    assert "<h1>1 hit</h1>" in found
    assert (found.count("all.pdf</a></h2>"), related.count("some.pdf</a></h2>")) == (1, 1)
    assert "Not on this page: gantry" in related
    assert "Export the one found" in related
    for sha256, place, way in (("ef", "1 of 1", "next"), ("ee", "1 of 1 related", "previous")):
        page = site.client.get(f"/page/{sha256 * 16}-1?q=gantry+capstan").text
        assert f'<span class="facts">{place}</span>' in page, "counted as they are listed"
        assert f"data-{way}-hit" in page, "one leads to the other"
    html = site.client.get("/?q=capstan+gantry+bollard+winch").text
    assert "Nothing found" in html
    assert "<h1>Perhaps related</h1>" in html


def test_a_phrase_that_stands_nowhere_is_offered_without_quotes(site: Site) -> None:
    html = site.client.get('/?q="inventory Axel" Lindqvist&status=ok').text
    assert "“inventory Axel” stands on no page of these." in html
    assert '<a href="/?q=inventory+Axel+Lindqvist&amp;status=ok">Search without quotes</a>' in html
    assert 'class="hit"' not in html


def test_previous_and_next_go_through_all_files(site: Site) -> None:
    html = site.client.get(f"/page/{'cd' * 16}-1").text
    assert "data-previous" not in html, "boat.jpg is the first"
    assert f'data-next href="/page/{SHA[:32]}-1"' in html
    html = site.client.get(f"/page/{SHA[:32]}-1?q=Axel").text
    assert f'data-previous href="/page/{"cd" * 16}-1?q=Axel&amp;hit=1"' in html


def test_hits_are_counted_and_sorted(site: Site) -> None:
    for number, name in enumerate("bca"):
        day = {"date_taken": f"190{9 - number}-01-01T00:00:00"}
        text = f"{'Quarantine. ' * (number + 1)} Of other things."
        put(site.archive, row(1, text, sha256=f"e{name}" * 32, file_name=f"{name}.pdf", about=day))

    def listed(sort: str) -> tuple[str, str]:
        html = site.client.get(f"/?q=quarantine&sort={sort}").text
        assert re.findall(r"<h1>(.*)</h1>", html) == ["3 hits"]
        kept = {"sort=" in address for address in re.findall(r'href="(/page/[^"]+)" data-hit', html)}
        assert kept == {sort in {"date", "file"}}, "the page knows the order"
        [current] = re.findall(r'aria-current="true">(\w+)<', html)
        return current, "".join(re.findall(r"data-hit>(\w)\.pdf<", html))

    assert listed("date") == ("Date", "acb")
    assert listed("file") == ("File", "abc")
    assert listed("nonsense") == listed("")
    assert listed("")[0] == "Relevance"


def test_more_hits_are_shown_in_the_same_order(site: Site) -> None:
    put(site.archive, *(row(number, f"Quarantine number {number}.", sha256="ef" * 32) for number in range(1, 31)))
    html = site.client.get("/?q=quarantine&sort=file").text
    assert re.findall(r"<h1>(.*)</h1>", html) == ["30 hits"]
    assert re.findall(r'href="(/page/[^"]+-\d+)\?[^"]*" data-hit', html)[-1] == f"/page/{'ef' * 16}-20"
    [more] = re.findall(r'class="more"><a href="([^"]+)"', html)
    html = site.client.get(more.replace("&amp;", "&")).text
    assert len(re.findall("data-hit", html)) == 30
    assert 'class="more"' not in html
    for number, n in ((20, ""), (21, "&amp;n=40")):
        page = f"{'ef' * 16}-{number}"
        html = site.client.get(f"/page/{page}?q=quarantine&sort=file").text
        [back] = re.findall(r'class="back" href="([^"]+)"', html)
        assert back == f"/?q=quarantine{n}&amp;sort=file#{page}", "to where it stands in the list"


def test_from_hit_to_hit_in_the_order_of_the_list(site: Site) -> None:
    for name in "abc":
        put(site.archive, *(row(number, sha256=f"e{name}" * 32, file_name=f"{name}.pdf") for number in (2, 3)))
        put(site.archive, row(1, f"The quarantine {name}.", sha256=f"e{name}" * 32, file_name=f"{name}.pdf"))
    ids = [f"{f'e{name}' * 16}-1" for name in "abc"]

    def ways(address: str) -> dict[str, str]:
        html = site.client.get(address.replace("&amp;", "&")).text
        ways = dict(re.findall(r'data-((?:next|previous)(?:-hit)?) href="([^"]+)"', html))
        ways["number"] = "".join(re.findall(r'class="facts">(\d+ of \d+)<', html))
        return ways

    first = ways(f"/page/{ids[0]}?q=quarantine&sort=file")
    assert "previous-hit" not in first
    assert first["number"] == "1 of 3"
    assert first["next-hit"] == f"/page/{ids[1]}?q=quarantine&amp;at=ocr.0.17&amp;sort=file"
    second = ways(first["next-hit"])
    assert (second["number"], second["previous-hit"].split("?")[0]) == ("2 of 3", f"/page/{ids[0]}")
    aside = ways(second["next"])
    assert aside["number"] == "2 of 3", "a page that is no hit remembers where one came from"
    assert [aside[way].split("?")[0] for way in ("previous-hit", "next-hit")] == [f"/page/{one}" for one in ids[1:]]
    assert "next-hit" not in ways(aside["next-hit"])
    assert "next-hit" not in ways(f"/page/{ids[0]}"), "without a search there are no hits"
    for odd in ("0", "99", "x", "²"):
        assert "next-hit" not in ways(f"/page/{'ea' * 16}-2?q=quarantine&hit={odd}")


def test_keywords_lead_to_a_search(site: Site) -> None:
    tags = "A letter <to> Axel.\n\nKeywords: letter, brass & slates"
    put(site.archive, row(1, sha256="ef" * 32, parts={"ocr": "Axel", "tags": tags}))
    html = site.client.get(f"/page/{'ef' * 16}-1?q=letter").text
    assert '<div class="text" dir="auto">A <mark class="found">letter</mark> &lt;to&gt; Axel.</div>' in html
    assert '<li><a href="/?q=brass%20%26%20slates">brass &amp; slates</a></li>' in html
    assert "Keywords: " not in html


def test_photos_stand_on_the_wall_by_year(site: Site) -> None:
    html = site.client.get("/photos").text
    assert re.findall(r"/image/([0-9a-f]{32}-\d+)/small", html) == [f"{'cd' * 16}-1"]
    assert '<span class="year">1999</span>' in html
    assert 'alt="A red boathouse."' in html


def photo(name: str, phash: str, **about: Any) -> PageRow:
    more = {"file_type": "image/jpeg", "image_kind": "photo", "phash": phash, "total_pages": 1, **about}
    sha256 = name.encode().hex().ljust(64, "0")
    return row(1, f"A heron, {name}.", sha256=sha256, file_name=name, about=more)


def test_photos_that_look_alike_are_one_pile(site: Site) -> None:
    old = photo("old.jpg", "00ff00ff00ff00ff", date_taken="1998-05-01T10:00:00", file_size=20_000)
    large = photo("large.jpg", "00ff00ff00ff00fe", file_size=3_000_000)
    other = photo("other.jpg", "ff00ff00ff00ff00", date_taken="1997-01-01T10:00:00")
    scan = row(1, "A heron, drawn.", sha256="5c" * 32, file_name="s.jpg", about={"image_kind": "scan", "camera": "X"})
    put(site.archive, old, large, other, scan)
    html = site.client.get("/photos").text
    wall = re.findall(
        r'href="(/[^"]+)" title="[^"]+" data-hit>\s*<span class="[^"]+">.*?<img src="/image/([^/]+)/small"', html
    )
    assert wall == [
        (f"/page/{other.page_id}?wall=1&amp;large=1", other.page_id),
        (f"/alike/{large.page_id}", large.page_id),
        (f"/page/{'cd' * 16}-1?wall=1&amp;large=1", f"{'cd' * 16}-1"),
    ], "the largest of the pile, where the oldest of it stands; a scan hangs on no wall"
    assert re.findall(r'class="number"[^>]*>(\d+)<', html) == ["2"]
    assert re.findall(r'<span class="year">(\d+)</span>', html) == ["1997", "1998", "1999"]
    text = " ".join(Seen(site.client.get(f"/alike/{large.page_id}").text).text.split())
    assert "2 that look alike" in text
    assert "looks alike" in text
    html = site.client.get(f"/alike/{large.page_id}").text
    assert set(re.findall(r'href="/page/([^"?]+)" data-hit', html)) == {old.page_id, large.page_id}
    assert "Nothing looks like it" in site.client.get(f"/alike/{scan.page_id}").text
    assert site.client.get("/alike/nobody").status_code == 404
    assert site.stranger.get(f"/alike/{large.page_id}").status_code == 403


def test_a_pile_is_one_hit_that_leads_to_all(site: Site) -> None:
    put(site.archive, photo("a.jpg", "00ff00ff00ff00ff"), photo("b.jpg", "00ff00ff00ff00fe"))
    html = site.client.get("/?q=heron").text
    [shown] = re.findall(r"/image/([^/]+)/small", html)
    assert f'<a href="/alike/{shown}">and 1 like it</a>' in html
    assert f'<a href="/alike/{shown}">and 1 like it</a>' in site.client.get(f"/page/{shown}").text
    assert re.findall(r"/image/([^/]+)/small", site.client.get("/?q=heron&shows=scan").text) == []
    assert re.findall(r"/image/([^/]+)/small", site.client.get("/?q=heron&shows=photo").text) == [shown]


def test_from_the_wall_one_goes_from_photo_to_photo_and_back(site: Site) -> None:
    first, second, copy = (
        photo("a.jpg", "00ff00ff00ff00ff"),
        photo("b.jpg", "ff00ff00ff00ff00"),
        photo("c.jpg", "ff00ff00ff00ff01"),
    )
    put(site.archive, first, second, copy, row(2, "no photo", sha256="5c" * 32, about={"image_kind": "scan"}))
    html = site.client.get(f"/page/{first.page_id}?wall=1&large=1").text
    assert f'href="/page/{second.page_id}?wall=1"' in html
    assert re.search(r'href="/photos" data-close', html)
    html = site.client.get(f"/page/{second.page_id}?wall=1").text
    assert f'href="/page/{first.page_id}?wall=1"' in html
    assert copy.page_id not in html, "what looks alike is passed over"
    assert 'href="/photos" data-back' in html


def test_a_large_wall_is_shown_in_parts(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kobold_reader.web.app.PHOTOS", 2)
    photos = [
        photo(f"{n}.jpg", f"{n * 0x1111_0F0F_3333_5555 % 2**64:016x}", date_taken=f"19{70 + n // 2}")
        for n in range(1, 6)
    ]
    put(site.archive, *photos)

    def part(address: str) -> tuple[list[str], list[str], list[str]]:
        html = site.client.get(address).text
        ways = re.findall(r'class="more[^>]*><a href="([^"]+)"', html)
        years = re.findall(r'<span class="year">(\d+)</span>', html)
        return re.findall(r"/image/([^/]+)/small", html), years, ways

    ids = [one.page_id for one in photos]
    assert part("/photos") == (ids[:2], ["1970", "1971"], ["/photos?from=3"])
    assert part("/photos?from=3") == (ids[2:4], ["1971", "1972"], ["/photos?from=1", "/photos?from=5"])
    assert part("/photos?from=99") == ([f"{'cd' * 16}-1"], ["1999"], ["/photos?from=4"])
    html = site.client.get("/photos").text
    assert '<nav class="years" aria-label="Years and places"><a href="/photos?from=1">1970</a>' in html
    assert '<a href="/photos?from=4">1972</a>' in html
    assert 'href="/photos?from=3" data-back' in site.client.get(f"/page/{ids[3]}?wall=1").text


# ── cameras, persons, keywords, ratings, places ──────────────────────────────────────────────────


@pytest.fixture
def collection(site: Site) -> Site:
    put(
        site.archive,
        photo("a.jpg", "00ff00ff00ff00ff", camera="Nikon D700", persons="Axel, Berta", keywords="boat, lake", rating=5,
              latitude=59.86, longitude=17.64),
        photo("b.jpg", "ff00ff00ff00ff00", camera="Nikon D700", persons="Axel", keywords="boathouse", rating=3,
              latitude=59.9449, longitude=17.6),
        photo("c.jpg", "0f0f0f0f0f0f0f0f", camera="Leica", keywords="boat", latitude=-33.9, longitude=-70.04),
    )  # fmt: skip
    return site


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ("camera=Nikon+D700", "a b"),
        ("persons=Axel", "a b"),
        ("persons=Berta", "a"),
        ("keywords=boat", "a c"),
        ("rating=5", "a"),
        ("place=59.9,17.6", "a b"),
        ("place=-33.9,-70.0", "c"),
        ("keywords=boat&camera=Leica", "c"),
    ],
)
def test_pages_are_narrowed_down_by_what_they_have(collection: Site, asked: str, names: str) -> None:
    expected = {photo(f"{name}.jpg", "").page_id for name in names.split()}
    for query in ("", "q=heron&"):
        html = collection.client.get(f"/?{query}{asked}").text
        assert set(re.findall(r"/image/([^/]+)/small", html)) == expected


def test_the_values_are_listed_with_their_counts(collection: Site) -> None:
    html = collection.client.get("/?q=heron&camera=Nikon+D700").text
    side = html[html.index('id="browse"') :]
    listed = re.findall(r'<a href="([^"]+)"[^>]*><span class="label">([^<]+)</span> <span class="pages">(\d+)<', side)
    found = {(label, count): unescape(address) for address, label, count in listed}
    assert found["Axel", "2"] == "/?q=heron&camera=Nikon+D700&persons=Axel"
    assert {("boat", "1"), ("boathouse", "1"), ("5 stars", "1"), ("59.9° N, 17.6° E", "2")} <= found.keys()
    assert ("Leica", "1") not in found
    assert '<a href="/?q=heron">Any camera</a>' in side
    assert "no place" in collection.client.get("/?place=here").text


def test_from_any_photo_one_goes_to_those_like_it(collection: Site) -> None:
    a = photo("a.jpg", "").page_id
    near = photo("d.jpg", "00ff00ff00ff00fe", file_size=10)
    put(collection.archive, replace(near, parts={"caption": "A boathouse in red."}))
    assert f'href="/like/{a}">Photos like this one</a>' in collection.client.get(f"/page/{a}").text
    html = collection.client.get(f"/like/{a}").text
    shown = re.findall(r"/image/([^/]+)/small", html)
    assert shown == [a, near.page_id, photo("c.jpg", "").page_id], "it looks the same; it has the same keyword"
    lonely = photo("z.jpg", "1234567812345678")
    put(collection.archive, lonely)
    assert "No other photo is like it" in collection.client.get(f"/like/{lonely.page_id}").text
    assert collection.client.get("/like/nobody").status_code == 404
    assert collection.stranger.get(f"/like/{a}").status_code == 403
    scan = row(1, "A heron, drawn.", sha256="5c" * 32, about={"image_kind": "scan"})
    put(collection.archive, scan)
    page = collection.client.get(f"/page/{scan.page_id}")
    assert page.status_code == 200
    assert "like this one" not in page.text


def test_a_map_is_a_list_of_places_with_links(collection: Site) -> None:
    html = collection.client.get("/places").text
    assert '<a class="spot" href="/?place=59.9%2C17.6" data-hit>' in html
    assert "33.9° S, 70.0° W" in html
    links = re.findall(r'<a href="((?:https|geo):[^"]+)" rel="([^"]*)"|(?<=<a href=")(geo:[^"]+)', html)
    assert ("", "", "geo:59.9,17.6") in links
    outside = "https://www.openstreetmap.org/?mlat=59.9&amp;mlon=17.6#map=10/59.9/17.6"
    assert (outside, "noreferrer noopener", "") in links
    assert set(re.findall(r'(?:src|rel="stylesheet" href)="([^/"][^"]*)"', html)) == set(), "nothing from elsewhere"
    page = photo("a.jpg", "").page_id
    assert 'href="geo:59.86,17.64"' in collection.client.get(f"/page/{page}").text
    assert '<a href="/places">Places</a>' in collection.client.get("/photos").text
    assert "No page here says" in collection.client.get("/places?camera=nobody").text


# ── folders, dates ────────────────────────────────────────────────────────────────────────────────


def filed(path: str, number: int, **about: Any) -> PageRow:
    folder, name = path.rsplit("/", 1)
    more = {"file_path": path, "folder": folder.rsplit("/", 1)[-1], **about}
    sha256 = f"{number:02x}" * 32
    return replace(row(1, f"Page {number}.", sha256=sha256, file_name=name, about=more), uri=f"file://{path}")


def test_folders_and_dates_are_counted_and_lead_to_their_pages(
    tmp_path: Path, make_site: Callable[[Archive], Site]
) -> None:
    with Archive.open(tmp_path / "boxes", create=True, embedder="none") as archive:
        put(
            archive,
            filed("/home/eva/box/letters/1954/a.pdf", 1, date_digitized="1954-03-01T00:00:00"),
            filed("/home/eva/box/letters/1955/b.pdf", 2, date_digitized="1955-03-01T00:00:00"),
            filed("/home/eva/box/letters/1955/c.pdf", 3, date_digitized="1955-11-01T00:00:00"),
            filed("/home/eva/box/letters 2/deep/er/d.pdf", 4),
        )
        site = make_site(archive)
        html = site.client.get("/").text
        entry = r'<a href="([^"]+)"[^>]*><span class="label">([^<]+)</span>.*?<span class="pages">(\d+)</span></a>'
        found = {name: (unescape(address), int(pages)) for address, name, pages in re.findall(entry, html)}
        assert {name: pages for name, (_, pages) in found.items()} == {
            "letters": 3, "1954": 1, "1955": 2, "letters 2/deep/er": 1,
        }  # fmt: skip
        assert found["1955"][0] == "/?since=1955&until=1955", "a year; the folders of that name come before"
        inside = re.findall(r'href="(/\?folder=[^"]+)"', html)
        images = r"/image/([0-9a-f]{32}-1)/small"
        letters = next(address for address in inside if address.endswith("letters%2F"))
        html = site.client.get(unescape(letters)).text
        assert [one[:2] for one in re.findall(images, html)] == ["01", "02", "03"], "not those of `letters 2`"
        assert re.findall(r'aria-current="true"><span class="label">([^<]+)', html) == ["letters"]
        assert "All folders" in html
        html = site.client.get("/?since=1955&until=1955").text
        assert [one[:2] for one in re.findall(images, html)] == ["02", "03"]
        months = [name for _, name, _ in re.findall(entry, html) if name.startswith("1955-")]
        assert months == ["1955-03", "1955-11"]
        assert "2 pages" in " ".join(Seen(html).text.split())
        assert [
            one[:2] for one in re.findall(images, site.client.get("/?q=page&folder=/home/eva/box/letters/1954").text)
        ] == ["01"]
        assert Seen(html).handlers == [], "bars have no style of their own"


def counted(html: str) -> dict[str, int]:
    entries = re.findall(r'<span class="label">([^<]+)</span>(?: <svg.*?</svg>)?(?: <span class="pages">(\d+))?', html)
    return {name: int(pages or 0) for name, pages in entries}


def test_what_is_counted_is_what_is_listed(
    tmp_path: Path, make_site: Callable[[Archive], Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Archive.open(tmp_path / "boxes", create=True, embedder="none") as archive:
        put(
            archive,
            filed("/box/bills/1.pdf", 1, date_digitized="1954-03-01T00:00:00", camera="Leica"),
            filed("/box/bills/2.pdf", 2, date_digitized="1955-03-01T00:00:00"),
            filed("/box/letters/3.pdf", 3, date_digitized="1955-03-01T00:00:00"),
        )
        site = make_site(archive)
        whole = {"Leica": 1, "bills": 2, "letters": 1, "1954": 1, "1955": 2}
        assert counted(site.client.get("/").text) == whole
        assert counted(site.client.get("/?q=page").text) == whole, "all are hits"
        assert counted(site.client.get("/?q=3").text) == {"bills": 0, "letters": 1, "1955-03": 1}
        assert counted(site.client.get("/?since=1955").text) == {"bills": 1, "letters": 1, "1955-03": 2}
        beside = {"Leica": 1, "bills": 2, "letters": 1, "1954": 1, "1955": 1}
        assert counted(site.client.get("/?folder=/box/bills/").text) == beside, "the folder beside it keeps its number"
        assert counted(site.client.get("/?q=page&folder=/box/bills/").text) == {**beside, "letters": 0}
        html = site.client.get("/?q=zebra&since=1900&camera=Leica").text
        assert counted(html) == {"bills": 0, "letters": 0}
        assert "All dates" in html
        assert "Any camera" in html
        monkeypatch.setattr("kobold_reader.web.library.MOST_HITS", 2)
        html = site.client.get("/?q=page+1+2").text
        assert set(counted(html).values()) == {0}, "of more hits than are listed, none are counted"


def test_many_years_are_shown_by_decade(tmp_path: Path, make_site: Callable[[Archive], Site]) -> None:
    with Archive.open(tmp_path / "boxes", create=True, embedder="none") as archive:
        put(archive, *[filed(f"/box/{n}.pdf", n, date_digitized=f"{1900 + n}-01-01T00:00:00") for n in range(30)])
        html = make_site(archive).client.get("/").text
    assert re.findall(r'<span class="label">(\d{4}–\d{4})</span>', html) == ["1900–1909", "1910–1919", "1920–1929"]
    assert "since=1910&amp;until=1919" in html


# ── export of a selection ─────────────────────────────────────────────────────────────────────────


def saved(site: Site, **fields: Any) -> Any:
    sent = {"token": ACCESS.change_token, **fields}
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Origin": HERE}
    return site.client.post("/export", content=urlencode(sent, doseq=True), headers=headers)


def test_ticked_pages_are_saved_as_export_writes_them(site: Site) -> None:
    html = site.client.get("/?q=Lindqvist").text
    ticks = re.findall(r'<input type="checkbox" class="tick" form="export" name="page" value="([^"]+)"', html)
    assert len(ticks) == 2
    assert re.search(r'<form id="export"[^>]* method="post" action="/export"', html)
    answer = saved(site, page=[f"{'cd' * 16}-1", f"{SHA[:32]}-1"], to="md")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''boxes.md"
    assert answer.text.index("A red boathouse.") < answer.text.index("Axel Lindqvist, inventory"), "in the order given"
    assert EVIL not in answer.text
    file = site.archive.folder.parent / "edited.md"
    file.write_text(answer.text.replace("Axel Lindqvist, inventory", "Axel Lundqvist, inventory"), encoding="utf-8")
    assert site.archive.import_corrections(file).corrected == [f"{SHA[:32]}-1"], "it is a real export"


def test_all_hits_or_all_pages_of_a_filter_are_saved(site: Site) -> None:
    text = saved(site, all="1", q="Lindqvist", to="txt", page=f"{'cd' * 16}-1").text
    assert EVIL in text
    assert "Axel Lindqvist" in text
    assert "boathouse" not in text
    lines = saved(site, all="1", folder="photos", to="jsonl").text.splitlines()
    assert {json.loads(line)["file_sha256"][:2] for line in lines} == {"cd"}


def test_a_table_for_spreadsheets_runs_nothing(site: Site) -> None:
    formula = '=HYPERLINK("http://evil")'
    put(site.archive, row(1, f'{formula}\n"quoted"; and, more', sha256="ef" * 32, file_name="+1.pdf"))
    answer = saved(site, page=f"{'ef' * 16}-1", to="csv")
    [one] = csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"), newline=""))
    assert one["text"] == f'\'{formula}\n"quoted"; and, more'
    assert one["file_name"] == "'+1.pdf"
    assert (one["page_number"], one["page_status"], one["folder"]) == ("1", "ok", "scans")


def test_commands_can_be_pasted(make_site: Callable[[Archive], Site], tmp_path: Path) -> None:
    folder = tmp_path / "box of scans"
    with Archive.open(folder, create=True, embedder="none") as empty:
        site = make_site(empty)
        for view, command in (("/", "index PATH"), ("/photos", "index FILE")):
            said = Seen(site.client.get(view).text).text
            assert f"kobold-reader {command} {quoted(['--archive', str(folder)])}" in said


def test_an_export_that_cannot_be_made_says_so(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for fields, why in (
        ({"to": "md"}, "No page is ticked"),
        ({"to": "exe", "page": f"{SHA[:32]}-1"}, "is not one of md, txt, jsonl, csv"),
    ):
        answer = saved(site, **fields)
        assert answer.status_code == 409
        assert why in Seen(answer.text).text
    monkeypatch.setattr("kobold_reader.web.app.EXPORTED", 1)
    answer = saved(site, all="1", q="Lindqvist")
    assert answer.status_code == 409
    assert "kobold-reader export FOLDER --archive" in Seen(answer.text).text


def test_failed_pages_say_why_and_can_be_read_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    html = site.client.get("/failed").text
    assert "more" not in re.sub("<.*?>", "", html)
    assert "the model is gone &lt;b&gt;. Start it." in html
    assert f'action="/page/{SHA[:32]}-3/again"' in html
    assert '<span class="count">1</span>' in html
    monkeypatch.setattr("kobold_reader.web.app.MOST_FAILED", 0)
    assert "and 1 more. " in Seen(site.client.get("/failed").text).text, "of thousands, not all are listed"


def test_about_counts(site: Site) -> None:
    text = " ".join(Seen(site.client.get("/about").text).text.split())
    assert "4 in 2 files" in text
    assert "By words only" in text
    assert re.search(r"failed\s?1\b", text)


def test_an_open_page_sees_what_another_process_indexes(site: Site) -> None:
    assert "Nothing found" in site.client.get("/?q=Rosenfeldt").text
    with Archive.open(site.archive.folder) as other:
        put(other, row(1, "Rosenfeldt was here.", sha256="ef" * 32, file_name="new.pdf"))
    assert "new.pdf" in site.client.get("/?q=Rosenfeldt").text
    assert "new.pdf" in site.client.get("/").text
    assert "new.pdf" in site.client.get(f"/page/{SHA[:32]}-3").text, "the next one"


def test_the_overview_is_made_once_a_generation(archive: Archive) -> None:
    library = Library(archive)
    first = library.overview()
    assert library.overview() is first
    put(archive, row(1, "new", sha256="ef" * 32))
    assert len(library.overview().leaves) == len(first.leaves) + 1


# ── the embedder is loaded behind the first views ─────────────────────────────────────────────────


@pytest.fixture
def meaning(tmp_path: Path, make_simulator: Callable[..., KoboldSimulator]) -> tuple[KoboldSimulator, Path]:
    """A server that embeds, and an archive whose vectors it made."""
    server = make_simulator(embeddings_model="nomic-embed-text-v1.5")
    folder = tmp_path / "meaning"
    with Archive.open(folder, create=True, embedder="koboldcpp", api_url=server.url) as archive:
        put(archive, row(1, "The schooner came in on Monday with slates."))
        archive.reembed()
    return server, folder


@pytest.mark.slow
def test_words_answer_first_while_the_embedder_is_being_loaded(
    meaning: tuple[KoboldSimulator, Path], make_site: Callable[[Archive], Site]
) -> None:
    server, folder = meaning
    may_embed = threading.Event()

    def hold(request: RecordedRequest) -> None:
        if "embeddings" in request.path:
            assert may_embed.wait(60)

    server.fault_when = hold
    with Archive.open(folder, api_url=server.url) as archive:
        site = make_site(archive)
        html = site.client.get("/?q=schooner").text
        assert "Searching…" in html
        assert '<noscript><meta http-equiv="refresh"' in html, "without scripts the browser asks again by itself"
        assert len(re.findall('class="hit"', html)) == 1
        nothing = site.client.get("/?q=Xylophon").text
        assert "Searching…" in nothing
        assert "Nothing found" not in nothing, "that is not known yet"
        assert "Searching…" not in site.client.get("/").text

        may_embed.set()
        assert site.client.get("/ready").json() == {"ready": True}
        before = server.count("/v1/embeddings")
        html = site.client.get("/?q=schooner").text
        assert "Searching…" not in html
        assert "refresh" not in html
        assert server.count("/v1/embeddings") > before, "it is searched by meaning"
        assert len(re.findall('class="hit"', html)) == 1


@pytest.mark.slow
def test_an_embedder_that_cannot_be_loaded_is_said_and_words_still_search(
    meaning: tuple[KoboldSimulator, Path], make_site: Callable[[Archive], Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, folder = meaning
    server.stop()
    with Archive.open(folder, api_url=server.url) as archive:
        site = make_site(archive)
        assert site.client.get("/ready").json() == {"ready": True}
        html = site.client.get("/?q=schooner").text
        assert f"Searching by words only: No server can be used. {server.url}: nothing answers there" in Seen(html).text
        assert len(re.findall('class="hit"', html)) == 1
        server.restart()
        assert "by words only" not in site.client.get("/?q=schooner").text, "it is tried again"

    def broken(*_: object) -> None:
        raise OSError("a library is <broken>")

    monkeypatch.setattr("kobold_reader.archive.vector_index.open_embedder", broken)
    with Archive.open(folder, api_url=server.url) as archive:
        site = make_site(archive)
        assert site.client.get("/ready").json() == {"ready": True}
        html = site.client.get("/?q=schooner").text
        assert "the embedder cannot be loaded (OSError('a library is <broken>'))" in Seen(html).text
        assert len(re.findall('class="hit"', html)) == 1


# ── corrections ───────────────────────────────────────────────────────────────────────────────────


def test_a_correction_is_saved_found_and_taken_back(site: Site) -> None:
    page = site.archive.page(f"{SHA[:32]}-1")
    assert page is not None
    html = site.client.get(f"/page/{page.page_id}?edit=1&q=Axel").text
    assert re.search(r"<textarea[^>]*>\nAxel Lindqvist, inventory 1954/37-b.</textarea>", html)
    form = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', html.split("data-edit")[1]))
    answer = change(site, f"/page/{page.page_id}/text", **{**form, "text": "Axel\r\nLundqvist"})
    assert (answer.status_code, answer.headers["location"]) == (303, f"/page/{page.page_id}?q=Axel&saved=1")

    html = site.client.get(answer.headers["location"]).text
    assert "Saved." in html
    assert "corrected by hand" in html
    assert "Axel</mark>\nLundqvist" in html
    assert page.page_id in site.client.get("/?q=Lundqvist").text
    answer = change(site, re.findall(r'action="(/page/[^"]+/as-read)".*Undo correction</button>', html)[0])
    html = site.client.get(answer.headers["location"]).text
    assert "inventory 1954/37-b" in html
    assert "/as-read" not in html


@pytest.mark.parametrize(
    ("page_number", "version", "why"), [(1, "older", "was changed since you began"), (3, "", "could not be opened yet")]
)
def test_what_cannot_be_saved_is_not_lost(site: Site, page_number: int, version: str, why: str) -> None:
    page = site.archive.page(f"{SHA[:32]}-{page_number}")
    assert page is not None
    mine = "Mine <b>, typed for an hour"
    answer = change(site, f"/page/{page.page_id}/text", text=mine, version=version or page.version)
    assert answer.status_code == 409
    seen = Seen(answer.text).text
    assert f"Not saved: {'T' if page_number == 1 else ''}" in seen
    assert why in seen
    assert mine in seen
    assert site.archive.status().corrections == 0


def test_an_unknown_page_cannot_be_corrected(site: Site) -> None:
    assert change(site, f"/page/{SHA[:32]}-99/text", text="x").status_code == 404


# ── marks ─────────────────────────────────────────────────────────────────────────────────────────


def test_marks_may_overlap_and_tables_stay_tables() -> None:
    marks = [Mark(0, 9, "passage"), Mark(5, 9, "found"), Mark(7, 12, "", "or: <x>")]
    assert marked_html("Axel Lind<qvist", marks) == (
        '<div class="text" dir="auto"><mark class="passage">Axel </mark><mark class="passage found">Li</mark>'
        '<mark class="passage found" tabindex="0" title="or: &lt;x&gt;">nd</mark>'
        '<mark tabindex="0" title="or: &lt;x&gt;">&lt;qv</mark>ist</div>'
    )
    table = "| a | b |\n|---|---|\n| Axel | 2 |"
    at = table.index("Axel")
    assert '<td><mark class="found">Axel</mark></td>' in marked_html(table, [Mark(at, at + 4, "found")])


def test_only_long_lines_of_prose_flow_on_a_narrow_window() -> None:
    long = "The club bought a new boat at the auction in spring"
    html = marked_html(f"{long}\nand sold it.\nShort line\nnext\n{long}\n\n{long}\n- an item\n{long}\n1. one", [])
    assert html.count('<span class="wrap">\n</span>') == 1
    assert f'{long}<span class="wrap">\n</span>and sold it.\nShort line\nnext' in html


# ── the server ────────────────────────────────────────────────────────────────────────────────────


def test_a_port_that_is_taken_is_said_in_a_sentence() -> None:
    with WebServer(port=0) as first, pytest.raises(ConfigError, match=rf"port {first.port}.*--port 0"):
        WebServer(port=first.port)


def test_a_page_that_waits_for_a_server_has_not_failed(site: Site) -> None:
    put(site.archive, row(1, status="due", sha256="ef" * 32, parts={}))
    (waiting,) = [page for page in site.archive.pages() if page.status == "due"]
    assert "still to be read" in site.client.get(f"/page/{waiting.page_id}").text
    assert waiting.page_id not in site.client.get("/failed").text


def test_a_view_counts_the_failed_pages_without_loading_them(
    archive: Archive, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [row(number, status="failed", error="Nothing came back.", sha256="ef" * 32) for number in range(1, 301)]
    put(archive, *many)
    with catalog_of(archive) as catalog:
        catalog.put_place(Place("file:///broken.pdf", "", {"file_name": "broken.pdf"}, error="It is broken."))
    site.client.get("/")  # makes the overview of this generation
    for loads in ("failed", "places", "every_page"):
        monkeypatch.setattr(Catalog, loads, lambda *_: pytest.fail("rows were loaded"))
    assert '<span class="count">302</span>' in site.client.get("/photos").text


# ── pictures and reading again: files are opened ──────────────────────────────────────────────────


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    (folder / "letter.pdf").write_bytes(LETTER.read_bytes())
    return folder


def reader_of(simulator: KoboldSimulator, **more: Any) -> KoboldReader:
    return KoboldReader(api_url=simulator.url, tasks=["ocr"], on_error="skip", ledger="none", **more)


@pytest.mark.slow
def test_pictures_are_small_or_large_and_kept(
    simulator: KoboldSimulator, scans: Path, archive: Archive, make_site: Callable[[Archive], Site]
) -> None:
    import io

    from PIL import Image

    archive.sync(scans, reader=reader_of(simulator))
    site = make_site(archive)
    page = next(one for one in archive.pages() if one.metadata["file_name"] == "letter.pdf")
    sides = {}
    for size in ("small", "large"):
        answer = site.client.get(f"/image/{page.page_id}/{size}")
        assert answer.status_code == 200
        assert answer.headers["content-type"] in {"image/jpeg", "image/png"}
        with Image.open(io.BytesIO(answer.content)) as image:
            sides[size] = max(image.size)
    assert sides["small"] <= 360 < sides["large"] <= 1600

    (scans / "letter.pdf").write_bytes(LETTER.read_bytes() + b"\n")
    answer = site.client.get(f"/image/{page.page_id}/large")
    assert (answer.status_code, answer.headers["content-type"]) == (409, "text/plain; charset=utf-8")
    assert "was changed since its pages were read" in answer.text
    (scans / "letter.pdf").unlink()
    answer = site.client.get(f"/image/{page.page_id}/small")
    assert answer.status_code == 404
    assert "not there any more" in answer.text
    assert "Text of a page" in site.client.get(f"/page/{page.page_id}").text


@pytest.mark.slow
def test_a_page_that_a_person_turns_stays_turned_everywhere(
    simulator: KoboldSimulator, scans: Path, archive: Archive, make_site: Callable[[Archive], Site]
) -> None:
    """Kept by content, over a copy, another reading and another process, until it is undone; nothing is read for it."""
    from PIL import Image

    archive.sync(scans, reader=reader_of(simulator))
    site = make_site(archive)
    page = next(one for one in archive.pages() if one.metadata["file_name"] == "letter.pdf")

    def shape(size: str) -> str:
        with Image.open(io.BytesIO(site.client.get(f"/image/{page.page_id}/{size}").content)) as image:
            return "wide" if image.width > image.height else "tall"

    asked = simulator.count()
    assert [shape("small"), shape("large")] == ["tall", "tall"]
    answer = change(site, f"/page/{page.page_id}/rotation", by="90", q="wrote", large="1")
    assert (answer.status_code, answer.headers["location"]) == (303, f"/page/{page.page_id}?q=wrote&large=1")
    assert [shape("small"), shape("large"), shape("full")] == ["wide", "wide", "wide"]
    assert archive.rotations([page]) == {page.page_id: 90}
    assert "Undo rotation" in site.client.get(f"/page/{page.page_id}").text
    change(site, f"/page/{page.page_id}/rotation", by="270")
    assert archive.rotations([page]) == {page.page_id: 0}
    change(site, f"/page/{page.page_id}/rotation", by="270")
    assert archive.rotations([page]) == {page.page_id: 270}
    assert simulator.count() == asked, "turning reads nothing"

    (scans / "letter.pdf").rename(scans / "renamed.pdf")
    archive.sync(scans, reader=reader_of(simulator, redo="all"))
    with Archive.open(archive.folder) as other:
        assert other.rotations([page]) == {page.page_id: 270}
    page = next(one for one in archive.pages() if one.metadata["file_name"] == "renamed.pdf")
    assert shape("small") == "wide"

    change(site, f"/page/{page.page_id}/rotation", by="")
    assert archive.rotations([page]) == {}
    assert shape("large") == "tall"
    assert "Undo rotation" not in site.client.get(f"/page/{page.page_id}").text
    assert change(site, f"/page/{page.page_id}/rotation", by="45").status_code == 409

    archive.rotate(page.page_id, 90)
    archive.forget(archive.uris())
    assert archive.rotations([page]) == {}, "forgotten with its page"


@pytest.mark.slow
def test_the_original_is_shown_or_downloaded(
    simulator: KoboldSimulator, scans: Path, archive: Archive, make_site: Callable[[Archive], Site]
) -> None:
    """Also under a name that no header could hold, and never as a type that could run."""
    data = LETTER.read_bytes()
    (scans / "letter.pdf").rename(scans / 'brief "ö";\r.pdf' if os.name != "nt" else scans / "brief ö;.pdf")
    archive.sync(scans, reader=reader_of(simulator, pages="1"))
    [page] = [one for one in archive.pages() if "brief" in str(one.metadata["file_name"])]
    site = make_site(archive)
    html = site.client.get(f"/page/{page.page_id}").text
    assert f'href="/original/{page.page_id}#page=1">Open file<' in html
    answer = site.client.get(f"/original/{page.page_id}")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/pdf")
    assert answer.content == data
    assert re.fullmatch(r"inline; filename\*=UTF-8''brief[\w%.]+pdf", answer.headers["content-disposition"])
    assert answer.headers["content-security-policy"] == POLICY
    assert site.stranger.get(f"/original/{page.page_id}").status_code == 403
    [saved] = re.findall(r'href="(/original/[^"]+)" download>Download<', html)
    answer = site.client.get(saved)
    assert answer.headers["content-disposition"].startswith("attachment; ")
    assert answer.content == data

    for kind in ("text/html", "image/svg+xml", "application/epub+zip"):
        put(archive, replace(page, metadata={**page.metadata, "file_type": kind}))
        answer = site.client.get(f"/original/{page.page_id}")
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["content-disposition"].startswith("attachment; ")
        assert "Open file" not in site.client.get(f"/page/{page.page_id}").text

    file = next(scans.iterdir())
    file.write_bytes(data + b"\n")
    answer = site.client.get(f"/original/{page.page_id}")
    assert answer.status_code == 409
    assert "was changed since its pages were read" in Seen(answer.text).text
    file.unlink()
    answer = site.client.get(f"/original/{page.page_id}")
    assert answer.status_code == 404
    assert "not there any more" in Seen(answer.text).text


@pytest.mark.slow
def test_the_pictures_kept_are_bounded_and_upright(simulator: KoboldSimulator, scans: Path, archive: Archive) -> None:
    from kobold_reader.web.library import Pictures

    archive.sync(scans, reader=reader_of(simulator, rotate=90))
    pages = [one for one in archive.pages() if one.metadata["file_name"] == "letter.pdf"]
    pictures = Pictures(cache_bytes=40_000)
    try:
        first = pictures.picture(pages[0], "small")
        assert pictures.picture(pages[0], "small") is first
        for page in pages:
            pictures.picture(page, "small")
        assert pictures.picture(pages[0], "small") is not first, "it was dropped for the others"
        import io

        from PIL import Image

        with Image.open(io.BytesIO(first.image)) as image:
            assert image.width > image.height, "as it was read: on its side"
    finally:
        pictures.close()


@pytest.mark.slow
def test_a_failed_page_is_read_again_as_it_was_read(
    simulator: KoboldSimulator, scans: Path, archive: Archive, make_site: Callable[[Archive], Site]
) -> None:
    archive.sync(scans, reader=reader_of(simulator, hint="Swedish"))
    page = archive.pages_of(
        next(one for one in archive.pages() if one.metadata["total_pages"] == 3 and "model" in one.metadata).sha256
    )[1]
    put(archive, replace(page, status="failed", parts={}, error="gone", version=version_of({})))
    before, settings = simulator.count(), archive.settings_of(scans)
    site = make_site(archive)
    runs = site.client.app.state.runs  # type: ignore[attr-defined]

    assert change(site, f"/page/{page.page_id}/again").headers["location"] == "/failed"
    runs.join(60)

    now = site.client.get("/run").json()
    assert (now["running"], now["sentence"]) == (False, "It was read, and can be found.")
    row_now = archive.page(page.page_id)
    assert row_now is not None
    assert (row_now.status, row_now.error, row_now.text) == ("ok", None, page.text)
    assert simulator.count() == before, "the ledger knew it"
    assert archive.settings_of(scans) == settings != {}, "the next run repeats what it did before"


@pytest.fixture
def answers() -> list[str]:
    """What the model says next, the last one for ever; "" is no reading."""
    return [""]


@pytest.fixture
def moody(make_simulator: Callable[..., KoboldSimulator], answers: list[str]) -> KoboldSimulator:
    return make_simulator(brain=ScriptBrain(lambda _: answers[-1]))


@pytest.mark.slow
def test_without_a_server_reading_again_says_so_and_keeps_the_page_failed(
    moody: KoboldSimulator,
    answers: list[str],
    scans: Path,
    archive: Archive,
    make_site: Callable[[Archive], Site],
) -> None:
    archive.sync(scans, reader=reader_of(moody, pages="1"))
    [page] = [one for one in archive.pages() if one.metadata["file_name"] == "letter.pdf"]
    assert page.status == "failed"
    moody.stop()
    site = make_site(archive)

    change(site, f"/page/{page.page_id}/again")
    site.client.app.state.runs.join(60)  # type: ignore[attr-defined]

    html = site.client.get("/failed").text
    assert 'class="said failed" role="status"' in html
    assert moody.url in Seen(html).text
    assert "letter.pdf, page 1" in html
    moody.restart()
    answers.append("Dear Axel, this is what stands here.")
    change(site, f"/page/{page.page_id}/again")
    site.client.app.state.runs.join(60)  # type: ignore[attr-defined]
    now = archive.page(page.page_id)
    assert now is not None
    assert now.status == "ok"


@pytest.mark.slow
def test_one_page_is_read_again_at_a_time_and_the_end_stops_it(
    moody: KoboldSimulator,
    answers: list[str],
    scans: Path,
    archive: Archive,
    make_site: Callable[[Archive], Site],
) -> None:
    archive.sync(scans, reader=reader_of(moody, pages="1"))
    [page] = [one for one in archive.pages() if one.metadata["file_name"] == "letter.pdf"]
    answers.append("Dear Axel, this is what stands here.")
    moody.fault(Fault.HANG)
    site = make_site(archive)
    runs = site.client.app.state.runs  # type: ignore[attr-defined]
    change(site, f"/page/{page.page_id}/again")
    assert site.client.get("/run").json()["running"]
    assert "disabled" in site.client.get("/failed").text
    answer = change(site, f"/page/{page.page_id}/again")
    assert answer.status_code == 409
    assert "One at a time" in answer.text
    runs.close()
    assert not runs.now.is_running


def test_a_page_that_nobody_remembers_reading_cannot_be_read_again(site: Site) -> None:
    answer = change(site, f"/page/{SHA[:32]}-3/again")
    assert answer.status_code == 409
    assert "does not know how" in answer.text
    assert change(site, "/file/00/again").status_code == 404


@pytest.mark.slow
def test_a_file_that_cannot_be_opened_is_read_again_once_it_can(
    simulator: KoboldSimulator, scans: Path, archive: Archive, make_site: Callable[[Archive], Site]
) -> None:
    (scans / "letter.pdf").write_bytes(b"%PDF-1.7 nothing")
    archive.sync(scans, reader=reader_of(simulator))
    site = make_site(archive)
    [action] = re.findall(r'action="(/file/[^"]+)"', site.client.get("/failed").text)
    (scans / "letter.pdf").write_bytes(LETTER.read_bytes())
    os.utime(scans / "letter.pdf", (1, 1))
    change(site, action)
    site.client.app.state.runs.join(60)  # type: ignore[attr-defined]
    assert "/file/" not in site.client.get("/failed").text
    assert "letter.pdf" in site.client.get("/?q=Lindqvist").text


@pytest.mark.slow
def test_a_large_archive_is_counted_while_the_last_count_is_shown(
    simulator: KoboldSimulator,
    scans: Path,
    archive: Archive,
    make_site: Callable[[Archive], Site],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kobold_reader.web.library.QUICK_S", -1.0)
    monkeypatch.setattr("kobold_reader.web.library.PAUSES", 1e9)
    archive.sync(scans, reader=reader_of(simulator))
    site = make_site(archive)
    assert "brandnew" not in site.client.get("/").text
    (scans / "brandnew.pdf").write_bytes(LETTER.read_bytes() + b"% another file")
    archive.sync(scans, reader=reader_of(simulator))
    assert "brandnew" not in site.client.get("/").text, "what it held lately"
    found = site.client.get("/?q=brandnew").text
    assert "brandnew.pdf</a>" in found, "a hit is shown all the same"
    pages = re.findall(r'href="(/page/[^"?]+)[^"]*" data-hit>brandnew.pdf', found)
    assert "brandnew.pdf" in site.client.get(pages[0]).text
    monkeypatch.setattr("kobold_reader.web.library.PAUSES", 0)
    for _ in range(200):
        if "brandnew" in site.client.get("/").text:
            break
        threading.Event().wait(0.05)
    else:
        pytest.fail("it was not counted anew")


def test_settings_are_those_of_the_nearest_folder_above(archive: Archive, tmp_path: Path) -> None:
    with catalog_of(archive) as catalog:
        catalog.remember_root(str(tmp_path / "a"), {"hint": "outer"})
        catalog.remember_root(str(tmp_path / "a" / "b"), {"hint": "inner"})
    hints = [archive.settings_of(local_uri(tmp_path / name)).get("hint") for name in ("a/x.pdf", "a/b/x.pdf", "c.pdf")]
    assert hints == ["outer", "inner", None]
    assert archive.settings_of(tmp_path / "a" / "b" / "c" / "x.pdf") == {"hint": "inner"}


@pytest.mark.parametrize("pattern", ["box 1/*.pdf", "box ?/*.pdf", "**/*.pdf", "box*"])
def test_a_pattern_counts_as_the_folder_of_what_it_found(archive: Archive, tmp_path: Path, pattern: str) -> None:
    with catalog_of(archive) as catalog:
        catalog.remember_root(str(tmp_path / pattern), {"hint": "pattern"})
        catalog.remember_root(str(tmp_path / "box 1" / "deep"), {"hint": "folder"})
    assert archive.settings_of(local_uri(tmp_path / "box 1" / "ä 7%.pdf")) == {"hint": "pattern"}
    assert archive.settings_of(local_uri(tmp_path / "box 1" / "deep" / "x.pdf")) == {"hint": "folder"}
    assert archive.settings_of(local_uri(tmp_path / "other" / "x.jpg")) == {}


@pytest.mark.slow
def test_doubtful_words_are_marked_with_their_rivals(
    simulator: KoboldSimulator, scans: Path, archive: Archive, make_site: Callable[[Archive], Site]
) -> None:
    archive.sync(scans, reader=reader_of(simulator))
    page = next(one for one in archive.pages() if one.metadata["file_name"] == "letter.pdf")
    start = page.text.index("Lindqvist")
    amend_reading(archive, page, doubtful=({"start": start, "end": start + 9, "rival": "Lundqvist"},))
    site = make_site(archive)
    html = site.client.get(f"/page/{page.page_id}").text
    assert '<mark tabindex="0" title="or: Lundqvist">Lindqvist</mark>' in html
    assert "1 doubtful word" in html
    other = {"ocr": f"Corrected: {page.text}"}
    put(archive, replace(page, parts=other, version=version_of(other)))
    assert "Lundqvist" not in site.client.get(f"/page/{page.page_id}").text, "the text is another one now"
