"""Worth a look: which pages come, in which order, and what a person makes of them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from kobold_reader import Archive, KoboldReader
from kobold_reader.archive.folder import LEDGER
from kobold_reader.cli.app import make_app
from kobold_reader.options import ReadOptions
from kobold_reader.reading.ledger import Ledger
from kobold_reader.reading.second_reader import witness_key
from kobold_reader.reading.witness import compare
from tests.archive_rows import amend_reading, put
from tests.axe import serious_findings
from tests.browser import Browser, find_browser
from tests.conftest import without_line_reader
from tests.kobold_simulator import KoboldSimulator, ScriptBrain
from tests.test_reading_witness import witness_of
from tests.test_web import EVIL, Seen, Site, change, make_site  # noqa: F401  (a fixture)
from tests.test_web_browser import no_complaints, served

pytestmark = pytest.mark.slow

SHOWN = "Skarvholm Boat Club\nthe slates came on Tuesday\nCarting of slates  8.20\nand nobody was there to sign"
WRITTEN = {
    "a right": SHOWN,
    "b unlike": f"Skarvholm Boat Club\nthe slates came on Tuesday\nCarting of slates 8.70\n{EVIL}",
    "c wrong page": "Dear Margaret, thank you for the recipe.\nWe baked it on Sunday with Uncle William.",
    "d hardly": "Skarvholm Boat Club\nthe slates came on Tuesday\nCarting of slates 8.20",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of four pages that a model read, each with a witness that read what is on it."""
    folder = tmp_path_factory.mktemp("look")
    scans = folder / "scans"
    scans.mkdir(parents=True)
    for number, name in enumerate(WRITTEN):
        image = Image.new("L", (600, 400), 250)
        image.paste(10, (30, 30, 90 + 40 * number, 60))
        image.save(scans / f"{name}.png")
    said = iter(WRITTEN.values())
    with (
        without_line_reader(),
        KoboldSimulator(brain=ScriptBrain(lambda _: next(said)), model="Qwen2.5-VL-7B-Instruct-Q4_K_M") as simulator,
        Archive.open(folder / "boxes", create=True, embedder="none") as archive,
    ):
        reader = KoboldReader(api_url=simulator.url, tasks=["ocr"], ledger="none", witness="none")
        archive.sync(scans, reader=reader)
        witness = replace(witness_of(SHOWN), view_sizes=((600, 400),))
        for page in archive.pages():
            found = compare(page.parts["ocr"], witness)
            status = "unsupported" if found.is_of_another_page else "ok"
            amend_reading(archive, page, witness=found.findings, status=status)
            with Ledger(archive.folder / LEDGER) as ledger:
                ledger.keep(page.content_sha256, witness_key(ReadOptions()), witness)
        archive.sync()
    return folder / "boxes"


@pytest.fixture
def archive(made: Path, tmp_path: Path) -> Iterator[Archive]:
    shutil.copytree(made, tmp_path / "boxes")
    with Archive.open(tmp_path / "boxes") as archive:
        yield archive


def names(archive: Archive) -> list[str]:
    return [Path(one.file_path).stem for one in archive.worth_a_look()]


def page_id(archive: Archive, name: str) -> str:
    return next(page.page_id for page in archive.pages() if page.metadata["file_name"] == f"{name}.png")


def form_of(site: Site, address: str) -> dict[str, Any]:
    html = site.client.get(address).text
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', html))


def test_the_most_doubtful_page_is_first_and_those_that_a_person_settled_are_gone(archive: Archive) -> None:
    assert names(archive) == ["c wrong page", "b unlike", "d hardly"]
    assert archive.worth_a_look()[0].status == "unsupported"
    assert archive.worth_a_look()[0].why.startswith("the witness agrees with 0.")
    assert "1 line missing" in archive.worth_a_look()[2].why
    archive.approve(page_id(archive, "d hardly"))
    assert names(archive) == ["c wrong page", "b unlike"]
    archive.correct(page_id(archive, "c wrong page"), SHOWN)
    assert names(archive) == ["b unlike"]
    archive.uncorrect(page_id(archive, "c wrong page"))
    assert names(archive) == ["c wrong page", "b unlike"]
    said = CliRunner().invoke(make_app(), ["status", "--archive", str(archive.folder)]).stdout
    assert re.search(r"worth a look: .*c wrong page.png page 1: unsupported", said)
    assert "to look at: 2 pages, one by one in `kobold-reader web`" in said
    found = json.loads(CliRunner().invoke(make_app(), ["status", "--archive", str(archive.folder), "--json"]).stdout)
    assert [Path(one["file"]).stem for one in found["worth a look"]] == ["c wrong page", "b unlike"]


def test_what_was_found_right_is_right_for_that_text_alone(archive: Archive) -> None:
    page = archive.page(page_id(archive, "d hardly"))
    assert page is not None
    archive.approve(page.page_id)
    shorter = "Skarvholm Boat Club\nthe slates came on Tuesday"
    amend_reading(archive, page, text=shorter, witness=compare(shorter, witness_of(SHOWN)).findings)
    archive.sync()
    why = {one.page_id: one.why for one in archive.worth_a_look()}
    assert "2 lines missing" in why[page.page_id], "one after the other, as they are shown"


@pytest.fixture
def site(archive: Archive, make_site: Callable[[Archive], Site]) -> Site:  # noqa: F811
    return make_site(archive)


def test_both_texts_are_shown_and_nothing_on_a_page_can_run(site: Site) -> None:
    assert f'action="/look/{page_id(site.archive, "c wrong page")}"' in site.client.get("/look").text, "it comes first"
    html = site.client.get(f"/look/{page_id(site.archive, 'b unlike')}").text
    assert "<script>alert" not in html
    assert "&lt;script&gt;" in html
    assert 'Carting of slates <mark class="unlike">8.70</mark>' in html
    assert 'Carting of slates <mark class="unlike">8.20</mark>' in html
    assert 'aria-label="Take the line “Carting of slates 8.20” in place of “Carting of slates 8.70”"' in html
    assert 'aria-label="Add the line: and nobody was there to sign"' in html
    assert html.count('<polygon data-line="2"') == 2, "the line and the amount beside it"


def test_texts_of_two_pages_are_shown_whole(site: Site) -> None:
    wrong = page_id(site.archive, "c wrong page")
    html = site.client.get(f"/look/{wrong}").text
    seen = " ".join(Seen(html).text.split())
    assert "not on the page · the witness agrees with 0." in seen
    assert "lines differ" not in seen
    for text in (WRITTEN["c wrong page"], SHOWN):
        assert " ".join(text.split()) in seen, "as it stands"
    assert "data-hit data-take" not in html, "no line is like one of the other's"
    assert html.count("data-take") == 1
    form = form_of(site, f"/look/{wrong}")
    assert change(site, f"/look/{wrong}", **{**form, "take": "0"}).status_code == 409
    change(site, f"/look/{wrong}", **form, take="all")
    page = site.archive.page(wrong)
    assert page is not None
    assert page.parts["ocr"] == SHOWN.replace("  ", " ")
    assert "corrected by hand · 0 lines differ" in " ".join(Seen(site.client.get(f"/look/{wrong}").text).text.split())


def test_right_a_line_and_another_text_are_taken_and_lead_on(site: Site) -> None:
    wrong, unlike, hardly = [one.page_id for one in site.archive.worth_a_look()]
    answer = change(site, f"/look/{wrong}", **form_of(site, f"/look/{wrong}"), do="right")
    assert (answer.status_code, answer.headers["location"]) == (303, f"/look/{unlike}")

    answer = change(site, f"/look/{unlike}", **form_of(site, f"/look/{unlike}"), take="2")
    assert answer.headers["location"] == f"/look/{unlike}?after={hardly}#line-2"
    page = site.archive.page(unlike)
    assert page is not None
    assert page.parts["ocr"].split("\n")[2] == "Carting of slates 8.20"
    html = site.client.get(f"/look/{unlike}?after={hardly}").text
    assert "corrected by hand" in html
    form = form_of(site, f"/look/{unlike}?edit=1&after={hardly}")
    seen = Seen(site.client.get(f"/look/{unlike}?edit=1").text).text
    assert "nobody was there to sign" in seen, "RapidOCR's text, to be copied from"
    assert "next page" not in seen, "while one types, those are letters"
    answer = change(site, f"/look/{unlike}", **form, text="Skarvholm\r\nBoat Club")
    assert answer.headers["location"] == f"/look/{hardly}"
    page = site.archive.page(unlike)
    assert page is not None
    assert page.parts["ocr"] == "Skarvholm\nBoat Club"

    answer = change(site, f"/look/{unlike}", **form_of(site, f"/look/{unlike}"), take="all")
    assert answer.headers["location"].startswith(f"/look/{unlike}?")
    page = site.archive.page(unlike)
    assert page is not None
    assert page.parts["ocr"] == SHOWN.replace("  ", " ")

    answer = change(site, f"/look/{hardly}", **form_of(site, f"/look/{hardly}"), do="right")
    assert answer.headers["location"] == "/look"
    assert "No page is left" in site.client.get("/look").text


@pytest.mark.parametrize("sent", [{"do": "right"}, {"take": "2"}, {"text": "my own words"}])
def test_what_was_changed_meanwhile_is_not_overwritten(site: Site, sent: dict[str, Any]) -> None:
    unlike = page_id(site.archive, "b unlike")
    form = form_of(site, f"/look/{unlike}")
    site.archive.correct(unlike, "Another person's words")
    answer = change(site, f"/look/{unlike}", **form, **sent)
    assert answer.status_code == 409
    assert "was changed since you began" in answer.text
    assert sent.get("text", "") in answer.text
    assert site.archive.correction(unlike).text == "Another person's words"  # type: ignore[union-attr]


def test_only_our_own_form_may_say_that_a_page_is_right(site: Site) -> None:
    wrong = page_id(site.archive, "c wrong page")
    form = {**form_of(site, f"/look/{wrong}"), "token": "guessed", "do": "right"}
    assert site.client.post(f"/look/{wrong}", data=form).status_code == 403
    assert site.client.get("/look/nothing").status_code == 404
    answer = change(site, f"/look/{wrong}", **{**form_of(site, f"/look/{wrong}"), "take": "99"})
    assert answer.status_code == 409


def test_a_failed_page_comes_last_and_can_be_typed(site: Site) -> None:
    page = site.archive.page(page_id(site.archive, "a right"))
    assert page is not None
    put(site.archive, replace(page, status="failed", parts={}, error="the model is gone", version=""))
    assert names(site.archive)[-1] == "a right"
    html = site.client.get(f"/look/{page.page_id}").text
    assert "data-right" not in html
    assert "data-begin-edit" in html


@pytest.mark.thorough
@pytest.mark.xdist_group("browser")
@pytest.mark.skipif(find_browser() is None, reason="no Chromium is installed (Debian: apt-get install chromium)")
def test_one_key_each_and_nobody_is_kept_out(archive: Archive, tmp_path: Path) -> None:
    with served(archive, tmp_path) as site, Browser(width_px=390, height_px=844, is_phone=True) as browser:
        browser.open(site.access.url("127.0.0.1"))
        browser.open(f"{site.base}/look")
        browser.press("n", leads_on=True)
        assert "b unlike.png" in browser.text()
        assert serious_findings(browser) == []
        assert browser.run("document.documentElement.scrollWidth") == 390
        browser.press("j")
        assert browser.run("document.activeElement.textContent") == "Take"
        browser.press("t", leads_on=True)
        assert "corrected by hand" in browser.text()
        assert browser.run("document.activeElement.matches('#line-2 ~ li button')"), "one goes on with the next line"
        page = site.archive.page(page_id(archive, "b unlike"))
        assert page is not None
        assert "8.20" in page.parts["ocr"]
        browser.press("e", leads_on=True)
        assert browser.run("document.activeElement.id") == "text"
        browser.press("Escape", leads_on=True)
        browser.press("y", leads_on=True)
        assert "d hardly.png" in browser.text()
        browser.press("y", leads_on=True)
        assert "c wrong page.png" in browser.text(), "what was skipped comes again"
        assert serious_findings(browser) == []
        browser.press("t", leads_on=True)
        assert "corrected by hand" in browser.text()
        no_complaints(browser, site)


@pytest.mark.xdist_group("browser")
@pytest.mark.skipif(find_browser() is None, reason="no Chromium is installed (Debian: apt-get install chromium)")
@pytest.mark.parametrize(("width_px", "is_beside"), [(1280, True), (820, False), (390, False)])
def test_lines_have_room_or_stand_below_each_other(
    archive: Archive, tmp_path: Path, width_px: int, is_beside: bool
) -> None:
    with served(archive, tmp_path) as site, Browser(width_px=width_px) as browser:
        browser.open(site.access.url("127.0.0.1"))
        browser.open(f"{site.base}/look/{page_id(archive, 'b unlike')}")
        [text, page] = browser.run(
            "[...document.querySelectorAll('#line-2 > div')].map(one => one.getBoundingClientRect()).map("
            "box => [box.width, box.top])"
        )
        assert text[0] > 200
        assert (text[1] == page[1]) == is_beside
