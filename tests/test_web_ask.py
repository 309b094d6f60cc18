"""Ask in the browser: the answer streams into the page, is never trusted, and ends where nobody reads it any more."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import pytest
import requests
from starlette.testclient import TestClient

from kobold_reader import Archive
from kobold_reader.archive.ask import NOTHING_FOUND
from kobold_reader.web import Access, WebServer, make_app
from kobold_reader.web.ask import linked
from tests.axe import serious_findings
from tests.browser import Browser, find_browser
from tests.kobold_simulator import Fault, KoboldSimulator, ScriptBrain
from tests.test_ask import COWS, QUESTION, SLATES, from_the_page, make_archive, prompts
from tests.test_web import ACCESS, EVIL, HERE, SCRIPTS, Seen

pytestmark = pytest.mark.slow

ADDRESS = "/ask?" + urlencode({"q": QUESTION})
MakeSimulator = Callable[..., KoboldSimulator]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive(tmp_path_factory.mktemp("ask"), roof=["Minutes.", SLATES], cows=[COWS], fish=["Herring."])


@contextmanager
def asking(folder: Path, server: KoboldSimulator) -> Iterator[TestClient]:
    with Archive.open(folder, api_url=server.url) as archive:
        app, close = make_app(archive, ACCESS)
        client = TestClient(app, HERE, follow_redirects=False)
        client.cookies.set(ACCESS.cookie, ACCESS.session, domain="127.0.0.1")
        yield client
        close()


@contextmanager
def served(folder: Path, server: KoboldSimulator) -> Iterator[tuple[Access, WebServer]]:
    with Archive.open(folder, api_url=server.url) as archive, WebServer(port=0) as web:
        access = Access(port=web.port)
        app, close = make_app(archive, access)
        thread = threading.Thread(target=web.run, args=(app,))
        thread.start()
        try:
            yield access, web
        finally:
            web.stop()
            thread.join(30)
            close()


def test_the_answer_names_its_pages_and_leads_to_them(folder: Path, make_simulator: MakeSimulator) -> None:
    server = make_simulator(brain=ScriptBrain(from_the_page))
    with asking(folder, server) as client:
        html = client.get(ADDRESS).text
        assert "Nystrand replaced them [<a href=" in html
        [found] = re.findall(r'replaced them \[<a href="([^"]+)">1</a>\]\.', html)
        assert f'<a href="{found}" data-hit>roof.pdf, page 2</a> <span class="facts">scans<' in html, (
            "the page in the list"
        )
        page = client.get(found.replace("&amp;", "&")).text
        assert "Nystrand" in page
        assert 'class="passage' in page
        for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Host": "evil.example"}):
            assert client.get(ADDRESS, headers=headers).status_code in {403, 421}
        client.cookies.clear()
        assert client.get(ADDRESS).status_code == 403
    assert len(prompts(server)) == 1, "nobody else asks the model"


def test_filters_choose_the_pages_that_are_asked_about(folder: Path, make_simulator: MakeSimulator) -> None:
    server = make_simulator()
    with asking(folder, server) as client:
        html = client.get(f"{ADDRESS}&kind=image/jpeg").text
    assert "No page was found" in html
    assert NOTHING_FOUND in html
    assert prompts(server) == [], "the search finds nothing, and nobody is asked"


def test_nothing_that_a_model_writes_is_trusted(folder: Path, make_simulator: MakeSimulator) -> None:
    said = f"{EVIL} [1] [<img src=x onerror=alert(1)>] [1](javascript:alert(1)) [9]"
    with asking(folder, make_simulator(brain=ScriptBrain(said))) as client:
        html = client.get(ADDRESS).text
    seen = Seen(html)
    assert seen.scripts == SCRIPTS
    assert seen.handlers == []
    assert [one for one in seen.addresses if not re.match(r"[/#](?!/)", one)] == []
    assert said in seen.text, "as it stands"
    assert "The answer refers to [9]: there is no such page." in seen.text


@pytest.mark.parametrize("length", [1, 2, 3, 50])
def test_numbers_that_come_in_halves_become_links(length: int) -> None:
    text = "By [1] and [2, 11], [x], [3;1] and [12"
    pieces = [text[at : at + length] for at in range(0, len(text), length)]
    html = "".join(map(str, linked(iter(pieces), {1: "/a?b&c", 2: "/2", 11: "/11"})))
    one = '<a href="/a?b&amp;c">1</a>'
    assert html == f'By [{one}] and [<a href="/2">2</a>, <a href="/11">11</a>], [x], [3;{one}] and [12'


def test_without_a_server_the_pages_found_are_shown_and_it_says_so(folder: Path, make_simulator: MakeSimulator) -> None:
    server = make_simulator()
    server.stop()
    with asking(folder, server) as client:
        seen = Seen(client.get(ADDRESS).text).text
    assert f"{server.url}: nothing answers there" in seen
    assert "roof.pdf, page 2" in seen
    assert "The model is answering" not in seen


def test_a_question_that_cannot_be_searched_is_answered_in_a_sentence(
    folder: Path, make_simulator: MakeSimulator
) -> None:
    server = make_simulator()
    with asking(folder, server) as client:
        assert "is not a date" in Seen(client.get(f"{ADDRESS}&since=yesterday").text).text
        assert client.get("/ask?q=").headers["location"] == "/"
        assert client.head(ADDRESS).status_code == 200
    assert prompts(server) == [], "whoever only wants the headers asks no model"


def test_an_answer_that_nobody_reads_any_more_is_aborted(folder: Path, make_simulator: MakeSimulator) -> None:
    server = make_simulator(brain=ScriptBrain(from_the_page))
    server.fault_when = lambda request: Fault.HANG if request.path.endswith("/generate") else None
    with served(folder, server) as (access, _), requests.Session() as browser:
        base = access.url("127.0.0.1").partition("/?")[0]
        browser.get(access.url("127.0.0.1"), timeout=60)
        answer = browser.get(base + ADDRESS, stream=True, timeout=60)
        pieces = answer.iter_content(None, decode_unicode=False)
        begun = b""
        while b"The model is answering" not in begun:
            begun += next(pieces)
        assert b"roof.pdf, page 2" in begun, "the pages are there before the answer"
        assert server.wait_for(lambda: server.running)
        answer.close()
        assert server.wait_for(lambda: not server.running), "the job is aborted although it said nothing yet"
        assert server.count("/api/extra/abort") >= 1


@pytest.mark.skipif(find_browser() is None, reason="no Chromium is installed (Debian: apt-get install chromium)")
@pytest.mark.thorough
def test_the_answer_streams_into_the_page_and_stop_ends_it(folder: Path, make_simulator: MakeSimulator) -> None:
    server = make_simulator(brain=ScriptBrain("Nystrand replaced them [1]. " * 90), tokens_per_s=20)
    text = "document.querySelector('.answer .text').textContent"
    with served(folder, server) as (access, web), Browser() as browser:
        browser.open(access.url("127.0.0.1"))
        browser.type(QUESTION)
        browser.run("document.querySelector('[formaction=\"/ask\"]').click()")
        grows = (
            f"new Promise(done => {{ const look = () => document.querySelector('.answer .text a')"
            f" ? done({text}) : setTimeout(look, 50); look() }})"
        )
        while browser.run("location.pathname") != "/ask":
            pass
        assert browser.run(grows).startswith("Nystrand replaced them [1]")
        assert browser.run("document.readyState") == "loading", "the rest is still being written"
        browser.run("document.querySelector('[data-stop]').click()")
        assert server.wait_for(lambda: not server.running)
        assert "Stopped." in browser.text()
        assert browser.run(f"{text}.length") < len("Nystrand replaced them [1]. " * 90)
        assert serious_findings(browser) == []
        assert browser.said == []
        browser.run(f"location.assign({ADDRESS!r})")
        assert server.wait_for(lambda: server.running)
        web.stop()
        cut = "document.querySelector('[data-answering]')?.textContent ?? ''"
        while "was cut off" not in browser.run(cut):
            pass
