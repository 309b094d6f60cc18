"""The search page in a real browser, over a real server: keys, pictures, corrections, both themes, a phone."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pymupdf
import pytest

from kobold_reader import Archive, KoboldReader
from kobold_reader.reading.results import LineBox
from kobold_reader.web import Access, Adding, WebServer, make_app
from tests.archive_rows import amend_reading, put
from tests.axe import serious_findings
from tests.browser import Browser, find_browser
from tests.conftest import LETTER, ROOT, SAMPLES, without_line_reader
from tests.kobold_simulator import KoboldSimulator, ScriptBrain
from tests.test_ask import write_pdf
from tests.test_web import EVIL, photo

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_browser() is None, reason="no Chromium is installed (Debian: apt-get install chromium)"),
]

TABLE = "| Date | Name |\n|---|---|\n| 1938 | Lindqvist |"


@dataclass
class Site:
    """A page that is being served."""

    archive: Archive
    access: Access
    folder: Path

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.access.port}"


@contextmanager
def served(archive: Archive, folder: Path) -> Iterator[Site]:
    with WebServer(port=0) as server:
        access = Access(port=server.port)
        app, close = make_app(archive, access, adding=Adding(folders=(folder,), inbox=folder / "inbox"))
        thread = threading.Thread(target=server.run, args=(app,))
        thread.start()
        try:
            yield Site(archive, access, folder)
        finally:
            server.stop()
            thread.join(30)
            close()
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """An archive of a letter, a photo, and a page that would like to run something."""
    folder = tmp_path_factory.mktemp("site")
    scans = folder / "scans"
    scans.mkdir()
    (scans / "letter.pdf").write_bytes(LETTER.read_bytes())
    (scans / "photo.jpg").write_bytes((SAMPLES / "photos" / "boathouse 1999.jpg").read_bytes())
    said = iter([f"Axel Lindqvist wrote this.\n\n{TABLE}", EVIL, "Third page.", "A boathouse by Lindqvist."])
    with (
        without_line_reader(),
        KoboldSimulator(brain=ScriptBrain(lambda _: next(said)), model="Qwen2.5-VL-7B-Instruct-Q4_K_M") as simulator,
        Archive.open(folder / "boxes", create=True, embedder="none") as archive,
    ):
        archive.sync(scans, reader=KoboldReader(api_url=simulator.url, tasks=["ocr"], ledger="none", on_error="skip"))
        with served(archive, folder) as site:
            yield site


@pytest.fixture
def browser(site: Site) -> Iterator[Browser]:
    with Browser() as browser:
        browser.open(site.access.url("127.0.0.1"))
        yield browser


def no_complaints(browser: Browser, site: Site) -> None:
    """Nothing broke the policy or raised, and no other host was asked for anything."""
    assert browser.said == []
    assert {urlsplit(url).netloc for url in browser.requested if not url.startswith("data:")} == {
        urlsplit(site.base).netloc
    }


def test_a_search_from_the_keyboard_to_the_page_and_back(browser: Browser, site: Site) -> None:
    assert browser.run("location.search") == "", "the token is not left in the address"
    assert browser.run("document.activeElement.id") == "q"
    browser.type("Lindqvist wrote")
    browser.press("Enter", leads_on=True)
    assert browser.run("location.search") == "?q=Lindqvist+wrote"
    assert browser.run("document.querySelector('.hit mark').textContent") == "Lindqvist"
    browser.press("j")
    assert browser.run("document.activeElement.matches('[data-hit]')")
    browser.press("Enter", leads_on=True)
    assert "letter.pdf" in browser.text()
    assert browser.run("document.querySelectorAll('mark.passage, mark.passage.found').length") >= 2
    assert browser.run("document.querySelector('td mark.found').textContent") == "Lindqvist"
    number = "document.querySelector('nav[aria-label=Hits] .facts').textContent"
    browser.press("n", leads_on=True)
    assert browser.run(number).endswith(" related"), "those follow the hits found"
    browser.press("p", leads_on=True)
    assert browser.run(number) == "1 of 1"
    browser.press("j", leads_on=True)
    assert "page 2 of 3" in browser.text()
    browser.press("k", leads_on=True)
    assert "page 1 of 3" in browser.text()
    browser.press("ArrowRight", leads_on=True)
    assert "page 2 of 3" in browser.text()
    browser.press("/")
    assert browser.run("document.activeElement.id") == "q"
    browser.press("j")
    assert "page 2 of 3" in browser.text(), "in the box it is a letter"
    browser.press("Escape")
    browser.press("Escape", leads_on=True)
    assert browser.run("location.pathname + location.search") == "/?q=Lindqvist+wrote"
    browser.press("j")
    assert browser.run("document.activeElement.closest(':target') !== null"), "one goes on where one was"
    browser.open(f"{site.base}/?folder=scans")
    browser.press("j")
    assert browser.run("document.activeElement.matches('[data-hit]')"), "who narrows down is not about to type"
    no_complaints(browser, site)


def test_pictures_are_shown_and_enlarged(browser: Browser, site: Site) -> None:
    page = next(one for one in site.archive.pages() if one.metadata["file_name"] == "letter.pdf")
    browser.open(f"{site.base}/page/{page.page_id}")
    width = "document.querySelector('.sheet img').getBoundingClientRect().width"
    assert browser.run("document.querySelector('.sheet img').naturalHeight") > 1000
    before = browser.run(width)
    browser.press("z")
    fitting = browser.run(width)
    assert fitting > before
    browser.press("+")
    assert browser.run(width) == pytest.approx(1.5 * fitting, rel=0.01)
    browser.press("0")
    assert browser.run(width) == fitting
    browser.press("Escape")
    assert browser.run(width) == before
    no_complaints(browser, site)


POINTER = """(kind, id, x, y) => document.querySelector('.stage').dispatchEvent(new PointerEvent(kind, {
    pointerId: id, pointerType: 'touch', clientX: x, clientY: y, bubbles: true, isPrimary: id === 1}))"""


def test_the_large_view_is_zoomed_and_moved_by_wheel_fingers_and_keys(browser: Browser, site: Site) -> None:
    page = next(one for one in site.archive.pages() if one.metadata["file_name"] == "letter.pdf")
    browser.open(f"{site.base}/page/{page.page_id}?large=1")
    browser.run("document.querySelector('.sheet img').decode()")
    browser.run("Element.prototype.setPointerCapture = () => {}")  # made-up pointers cannot be captured
    box = "(box => [box.left, box.top, box.width])(document.querySelector('.sheet img').getBoundingClientRect())"
    left, top, width = browser.run(box)
    # The point under the wheel stays where it is.
    browser.run(
        f"document.querySelector('.stage').dispatchEvent(new WheelEvent('wheel', {{deltaY: -800, bubbles: true, "
        f"cancelable: true, clientX: {left + width / 4}, clientY: {top + 300}}}))"
    )
    zoomed_left, _, zoomed_width = browser.run(box)
    assert zoomed_width > 4 * width
    assert (left + width / 4 - zoomed_left) / zoomed_width == pytest.approx(0.25, abs=0.01)
    moved = [("pointerdown", 1, 500, 500), ("pointermove", 1, 480, 450), ("pointerup", 1, 480, 450)]
    before = browser.run(box)
    for kind, number, x, y in moved:
        browser.run(f"({POINTER})('{kind}', {number}, {x}, {y})")
    after = browser.run(box)
    assert (after[0] - before[0], after[1] - before[1]) == pytest.approx((-20, -50), abs=1)
    browser.press("0")
    spread = [("pointerdown", 1, 600, 500), ("pointerdown", 2, 700, 500), ("pointermove", 2, 900, 500)]
    for kind, number, x, y in spread:
        browser.run(f"({POINTER})('{kind}', {number}, {x}, {y})")
    assert browser.run(box)[2] == pytest.approx(3 * width, rel=0.01)
    before = browser.run(box)
    browser.press("ArrowDown")
    assert browser.run(box)[1] < before[1], "a zoomed picture is moved by the arrows"
    browser.run("document.querySelector('[data-scale=\"0\"]').click()")
    assert browser.run(box)[2] == pytest.approx(width, abs=1)
    no_complaints(browser, site)


def test_fingers_on_the_glass_pinch_and_swipe_and_the_large_view_fills_the_screen(site: Site) -> None:
    pages = [one for one in site.archive.pages() if one.metadata["file_name"] == "letter.pdf"]
    with Browser(width_px=390, height_px=780, is_phone=True) as phone:
        phone.open(site.access.url("127.0.0.1"))
        phone.open(f"{site.base}/page/{pages[0].page_id}?large=1")
        phone.run("document.querySelector('.sheet img').decode()")
        width = "document.querySelector('.sheet img').getBoundingClientRect().width"
        before = phone.run(width)
        phone.touch((165, 400))
        for apart in (30, 60, 90):
            phone.touch((195 - apart, 400), (195 + apart, 400))
        phone.touch()
        assert phone.run(width) == pytest.approx(3 * before, rel=0.01)
        assert phone.run("visualViewport.scale") == 1, "the picture is zoomed, not the page"
        phone.press("f")
        assert phone.run("document.fullscreenElement.querySelector('.sheet img, img') !== null")
        phone.press("0")
        for x in (300, 200, 100):
            phone.touch((x, 400))
        phone.touch()
        is_next = f"location.pathname === '/page/{pages[1].page_id}'"
        look = f"() => {is_next} || Date.now() > end ? done({is_next}) : setTimeout(look, 20)"
        assert phone.run(f"new Promise(done => {{ const end = Date.now() + 20000, look = {look}; look() }})")
        assert phone.run("document.fullscreenElement !== null"), "the next page fills the screen, too"
        no_complaints(phone, site)


def test_in_the_large_view_one_turns_pages_and_pictures_without_leaving_it(browser: Browser, site: Site) -> None:
    pages = [one for one in site.archive.pages() if one.metadata["file_name"] == "letter.pdf"]
    browser.open(f"{site.base}/page/{pages[0].page_id}")
    browser.press("z")
    loaded = browser.loaded
    shown = "document.querySelector('.sheet .of').textContent"
    browser.press("ArrowRight")
    await_(browser, f"{shown}.endsWith('page 2')")
    assert browser.run("location.pathname") == f"/page/{pages[1].page_id}"
    assert browser.loaded == loaded, "no other document: full screen stays"
    assert browser.run("document.querySelector('.viewer').open")
    try:
        browser.press("r")
        await_(browser, "document.querySelector('.sheet img').src.endsWith('turned=90')")
        browser.run("document.querySelector('.sheet img').decode()")
        assert browser.run("(one => one.naturalWidth > one.naturalHeight)(document.querySelector('.sheet img'))")
        assert site.archive.rotations(pages) == {pages[1].page_id: 90}
        browser.run("[...document.querySelectorAll('button')].find(one => one.textContent === 'Undo rotation').click()")
        await_(browser, "!document.querySelector('.sheet img').src.includes('turned')")
        assert site.archive.rotations(pages) == {}
    finally:
        site.archive.rotate(pages[1].page_id, None)
    assert browser.run("document.querySelector('.viewer').contains(document.activeElement)")
    browser.run("Element.prototype.setPointerCapture = () => {}")
    for kind, at in (("pointerdown", 400), ("pointermove", 500), ("pointerup", 520)):
        browser.run(f"({POINTER})('{kind}', 1, {at}, 400)")
    await_(browser, f"{shown}.endsWith('page 1')")
    browser.run("document.querySelector('.turn.next').click()")
    await_(browser, f"{shown}.endsWith('page 2')")
    assert serious_findings(browser) == []
    browser.press("Escape")
    assert browser.run("document.querySelector('.spread > .sheet') && !document.querySelector('.sheet.large')")
    assert browser.run("location.search") == ""
    no_complaints(browser, site)


def await_(browser: Browser, condition: str) -> None:
    browser.run(
        f"new Promise((done, fail) => {{ const end = Date.now() + 20000; const look = () => ({condition}) ? done(1) : "
        f"Date.now() > end ? fail(new Error('it did not happen')) : setTimeout(look, 20); look() }})"
    )


@pytest.mark.parametrize(("view", "number"), [("/", "BROWSED"), ("/?status=ok", "BROWSED"), ("/?q=Lindqvist", "HITS")])
def test_more_goes_on_where_the_list_ended(
    browser: Browser, site: Site, monkeypatch: pytest.MonkeyPatch, view: str, number: str
) -> None:
    monkeypatch.setattr(f"kobold_reader.web.app.{number}", 1)
    browser.open(site.base + view)
    pages = "[...document.querySelectorAll('.results li[id]')].map(one => one.id)"
    [first] = browser.run(pages)
    loaded = browser.loaded
    browser.run("document.querySelector('.more a').click()")
    browser.await_load(loaded)
    assert browser.run(pages)[0] == first
    assert browser.run("document.querySelector(':target').id") == browser.run(pages)[1]


def test_files_are_dropped_anywhere_on_the_page_and_sent(browser: Browser, site: Site) -> None:
    browser.open(f"{site.base}/add")
    drop = """(() => {
        const dropped = new DataTransfer();
        dropped.items.add(new File(["Nothing."], "dropped.exe"));
        const event = new DragEvent("drop", {dataTransfer: dropped, bubbles: true, cancelable: true});
        return document.querySelector("h1").dispatchEvent(event);
    })()"""
    assert browser.run(drop) is False, "the browser does not show it"
    loaded = browser.loaded
    browser.run("document.querySelector('[data-send] button').click()")
    browser.await_load(loaded)
    assert "Not taken: dropped.exe." in browser.text()
    no_complaints(browser, site)


def test_ticked_pages_are_counted_and_ticked_by_key(browser: Browser, site: Site) -> None:
    browser.open(f"{site.base}/?q=Lindqvist")
    browser.press("j")
    browser.press("x")
    assert browser.run("document.querySelectorAll('.tick:checked').length") == 1
    assert "Export 1 ticked page" in browser.text()
    assert browser.run("getComputedStyle(document.querySelector('.export')).position") == "sticky"
    browser.press("Enter", leads_on=True)
    browser.press("Escape", leads_on=True)
    assert "Export 1 ticked page" in browser.text(), "one may look at a page, and come back"
    browser.open(f"{site.base}/?q=Lindqvist&sort=file")
    assert "Export 1 ticked page" in browser.text()
    browser.open(f"{site.base}/?q=boathouse")
    assert "Export ticked pages" in browser.text(), "those of another search are others"
    no_complaints(browser, site)


@pytest.mark.parametrize("width_px", [1280, pytest.param(390, marks=pytest.mark.thorough)])
def test_photos_stand_in_rows_of_equal_height_that_do_not_jump(site: Site, width_px: int) -> None:
    """Also before any of their pictures has come."""
    rows = """(() => {
        const wall = document.querySelector('.wall');
        for (const ratio of [75, 150, 50, 180, 135, 65, 250, 100, 150, 135]) {
            const one = wall.firstElementChild.cloneNode(true);
            one.className = `r${ratio}`;
            one.querySelector('img').removeAttribute('src');
            wall.append(one);
        }
        const rows = {};
        for (const picture of wall.querySelectorAll('img')) {
            const box = picture.getBoundingClientRect();
            (rows[Math.round(box.top)] ??= []).push([box.height, box.right, box.width / box.height]);
        }
        return [Object.values(rows), wall.getBoundingClientRect().right];
    })()"""
    with Browser(width_px=width_px) as browser:
        browser.open(site.access.url("127.0.0.1"))
        browser.open(f"{site.base}/photos")
        found, right = browser.run(rows)
        assert len(found) > 1
        for row in found:
            heights = [height for height, *_ in row]
            assert max(heights) - min(heights) < 3
        for row in found[:-1]:
            assert row[-1][1] == pytest.approx(right, abs=2), "each row but the last is full"
        assert browser.run("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize(("pixel_ratio", "size"), [(1, "small"), (1.5, "medium"), (3, "medium")])
def test_photos_are_sharp_on_screens_with_small_pixels(site: Site, pixel_ratio: float, size: str) -> None:
    with Browser(pixel_ratio=pixel_ratio) as browser:
        browser.open(site.access.url("127.0.0.1"))
        browser.open(f"{site.base}/photos")
        photo = "document.querySelector('.wall img')"
        browser.run(f"{photo}.decode()")
        assert browser.run(f"{photo}.currentSrc").endswith(f"/{size}")
        no_complaints(browser, site)


def test_the_next_part_of_the_wall_comes_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kobold_reader.web.app.PHOTOS", 2)
    photos = [
        photo(f"{n}.jpg", f"{n * 0x1111_0F0F_3333_5555 % 2**64:016x}", date_taken=f"{1970 + n // 4}")
        for n in range(1, 6)
    ]
    wait = """new Promise((done) => {
        const look = () => document.querySelector('[data-more]') ? setTimeout(look, 20) : done();
        look();
    })"""
    with Archive.open(tmp_path / "photos", create=True, embedder="none") as archive:
        put(archive, *photos)
        with served(archive, tmp_path) as site, Browser() as browser:
            browser.open(site.access.url("127.0.0.1"))
            browser.open(f"{site.base}/photos")
            browser.run(wait)
            assert browser.run("document.querySelectorAll('.wall li').length") == 5
            years = "[...document.querySelectorAll('.year')].map((one) => one.textContent).join()"
            assert browser.run(years) == "1970,1971"
            for _ in range(3):
                browser.press("j")
            assert browser.run("document.activeElement.href").endswith(f"/page/{photos[2].page_id}?wall=1&large=1")


def give_places(archive: Archive, page_id: str) -> None:
    """Have the first line of a page's text stand at its lower right, and the third above it."""
    page = archive.page(page_id)
    assert page is not None
    text = page.parts["ocr"]
    third = text.index("|")
    boxes = (
        LineBox(0, text.index("\n"), (5000, 9400, 10000, 9400, 10000, 9900, 5000, 9900)),
        LineBox(third, text.index("\n", third), (5000, 5000, 10000, 5000, 10000, 5500, 5000, 5500)),
    )
    amend_reading(archive, page, boxes=boxes)


@pytest.mark.parametrize("look", [{}, {"width_px": 390, "height_px": 800, "is_phone": True}], ids=["wide", "phone"])
def test_the_passage_is_in_sight_on_the_picture_at_its_place(site: Site, look: dict[str, Any]) -> None:
    page = next(one for one in site.archive.pages() if one.metadata["file_name"] == "letter.pdf")
    give_places(site.archive, page.page_id)
    share = """(() => {
        const sheet = document.querySelector('.sheet img').getBoundingClientRect();
        const line = document.querySelector('.lines .passage').getBoundingClientRect();
        return [(line.left - sheet.left) / sheet.width, (line.top - sheet.top) / sheet.height,
                (line.right - sheet.left) / sheet.width, (line.bottom - sheet.top) / sheet.height];
    })()"""
    in_sight = """(() => {
        const box = document.querySelector('.lines .passage').getBoundingClientRect();
        return box.top >= 0 && box.bottom <= innerHeight;
    })()"""
    lit = "[...document.querySelectorAll('.lit')].map(one => one.tagName + one.dataset.line)"
    with Browser(**look) as browser:
        browser.open(site.access.url("127.0.0.1"))
        browser.open(f"{site.base}/page/{page.page_id}?q=wrote&at=ocr.0.10")
        browser.run("document.querySelector('.sheet img').decode().then(() => new Promise(requestAnimationFrame))")
        assert browser.run(share) == pytest.approx([0.5, 0.94, 1, 0.99], abs=0.01)
        assert browser.run(in_sight)
        browser.press("z")
        assert browser.run(share) == pytest.approx([0.5, 0.94, 1, 0.99], abs=0.01)
        assert browser.run(in_sight), "the enlarged picture begins with what was found"
        browser.press("z")
        browser.run("document.querySelector('mark.found').dispatchEvent(new Event('pointerover', {bubbles: true}))")
        assert set(browser.run(lit)) == {"MARK0", "SPAN0", "polygon0"}
        browser.run("document.querySelector('h1').dispatchEvent(new Event('pointerover', {bubbles: true}))")
        browser.run(
            "document.querySelector('[data-row=\"2\"]').dispatchEvent(new Event('pointerover', {bubbles: true}))"
        )
        assert "polygon1" in browser.run(lit)
        no_complaints(browser, site)


def test_the_line_that_is_edited_is_shown_on_the_picture(browser: Browser, site: Site) -> None:
    page = next(one for one in site.archive.pages() if one.metadata["file_name"] == "letter.pdf")
    give_places(site.archive, page.page_id)
    lit = "[...document.querySelectorAll('.lit')].map(one => one.dataset.row)"
    browser.open(f"{site.base}/page/{page.page_id}?edit=1")
    assert browser.run(lit) == ["0"], "the first one"
    for _ in range(2):
        browser.press("ArrowDown")
    assert browser.run(lit) == ["2"]
    browser.press("Enter")
    browser.press("ArrowUp")
    assert browser.run(lit) == [], "which line stands where is not known any more"
    browser.run("document.querySelector('[data-edit]').reset()")  # nothing is left unsaved
    no_complaints(browser, site)


def test_what_a_page_would_like_to_run_does_not(browser: Browser, site: Site) -> None:
    pages = [one for one in site.archive.pages() if one.metadata["file_name"] == "letter.pdf"]
    for address in ("/?q=alert", f"/page/{pages[1].page_id}?q=alert", f"/page/{pages[1].page_id}?edit=1"):
        browser.open(site.base + address)
        assert browser.run("document.querySelectorAll('img[src=x], script').length") == 2, "our own"
        assert "<script>alert(1)</script>" in browser.run(
            "document.body.innerText + [...document.querySelectorAll('textarea')].map(t => t.value)"
        )
    for script in ("eval('1')", "document.body.innerHTML = '<b>x</b>'", "setTimeout('1')"):
        tried = browser.run(
            f"(() => {{ try {{ {script}; return 'it ran' }} catch (error) {{ return error.name }} }})()"
        )
        assert tried in {"EvalError", "TypeError"}, script


@pytest.mark.parametrize("view", ["page", "look"])
def test_the_picture_of_a_file_that_is_gone_says_so(browser: Browser, site: Site, view: str) -> None:
    page = next(one for one in site.archive.pages() if one.metadata["file_name"] == "photo.jpg")
    photo = site.folder / "scans" / "photo.jpg"
    data = photo.read_bytes()
    browser.run("Promise.all([...document.images].map(one => one.decode())).then(() => 1)")  # of the view before
    photo.unlink()
    try:
        browser.open(f"{site.base}/{view}/{page.page_id}")
        said = browser.run(
            "new Promise(done => { const look = () => { const one = document.querySelector('.sheet .nothing');"
            " one ? done(one.textContent) : setTimeout(look, 20) }; look() })"
        )
    finally:
        photo.write_bytes(data)
    assert "not there any more" in said
    assert "boathouse by Lindqvist" in browser.text()
    assert all("404" in one for one in browser.said), "a picture is missing, and that is all"


def test_a_file_that_was_read_and_is_locked_is_unlocked_on_its_page(tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    write_pdf(tmp_path / "open.pdf", "Nystrand replaced forty slates of the boathouse roof on Tuesday.")
    with pymupdf.open(tmp_path / "open.pdf") as document:
        document.save(scans / "locked.pdf", encryption=pymupdf.PDF_ENCRYPT_AES_256, owner_pw="o", user_pw="u")
    reader = KoboldReader(text_layer="only", tasks=["ocr"], ledger="none", pdf_passwords=["u"])
    shown = "document.querySelector('.sheet img')?.naturalWidth > 0"
    with Archive.open(tmp_path / "boxes", create=True, embedder="none") as archive:
        archive.sync(scans, reader=reader)
        [page] = archive.pages()
        with served(archive, tmp_path) as site, Browser() as browser:
            browser.open(site.access.url("127.0.0.1"))
            browser.open(f"{site.base}/page/{page.page_id}?q=slates&large=1")
            await_(browser, "document.querySelector('[data-unlock]').checkVisibility()")
            assert serious_findings(browser) == []
            assert "This PDF is locked." in browser.text()
            assert "--pdf-password" not in browser.text()
            browser.press("Escape")
            assert browser.run("document.querySelector('[data-open]').checkVisibility()")
            browser.run("document.querySelector('[type=password]').focus()")
            browser.type("wrong")
            browser.press("Enter", leads_on=True)
            await_(browser, "document.querySelector('[data-unlock]').checkVisibility()")
            assert "None of the passwords given opens this PDF." in browser.text()
            browser.run("document.querySelector('[type=password]').focus()")
            browser.type("u")
            browser.press("Enter", leads_on=True)
            await_(browser, shown)
            assert browser.run("document.querySelector('[data-unlock]').checkVisibility()") is False
            assert browser.run("location.search") == "?q=slates"
            assert all("423" in one for one in browser.said), "a picture was missing, and that is all"


def test_a_correction_from_the_keyboard(browser: Browser, site: Site) -> None:
    page = [one for one in site.archive.pages() if one.metadata["file_name"] == "letter.pdf"][2]
    browser.open(f"{site.base}/page/{page.page_id}")
    browser.press("e", leads_on=True)
    assert browser.run("document.activeElement.name") == "text"
    browser.type("Corrected: ")
    browser.press("Enter", ctrl=True, leads_on=True)
    kept = site.archive.correction(page.page_id)
    assert kept is not None
    assert kept.text == "Corrected: Third page."
    assert "Saved." in browser.text()
    browser.press("e", leads_on=True)
    browser.press("Escape", leads_on=True)
    assert "Edit" in browser.text()
    assert site.archive.correction(page.page_id) == kept
    no_complaints(browser, site)


VIEWS = [
    "/",
    "/?q=Lindqvist",
    "/?status=ok",
    "PAGE",
    "PAGE?edit=1",
    "PAGE?large=1",
    "/photos",
    "/places",
    "/failed",
    "/add",
    "/about",
]


@pytest.mark.parametrize(
    "look",
    [
        pytest.param({}, id="light", marks=pytest.mark.thorough),
        pytest.param({"is_dark": True}, id="dark", marks=pytest.mark.thorough),
        pytest.param({"width_px": 390, "height_px": 800, "is_phone": True}, id="phone"),
    ],
)
def test_every_view_fits_its_window_in_both_themes(site: Site, look: dict[str, Any], tmp_path: Path) -> None:
    page = next(one for one in site.archive.pages() if one.metadata["file_name"] == "letter.pdf")
    with Browser(**look) as browser:
        browser.open(site.access.url("127.0.0.1"))
        for view in VIEWS:
            browser.open(site.base + view.replace("PAGE", f"/page/{page.page_id}"))
            assert browser.run("document.documentElement.scrollWidth <= innerWidth"), view
            assert browser.run(
                "[...document.querySelectorAll('input:not([type=hidden]), select, textarea')].every("
                "one => one.labels.length || one.ariaLabel)"
            ), view
            assert browser.run("[...document.images].every(one => one.hasAttribute('alt'))"), view
            ground, ink = (
                browser.run(f"getComputedStyle(document.body).{name}") for name in ("backgroundColor", "color")
            )
            assert (luminance(ground) < luminance(ink)) == bool(look.get("is_dark"))
            assert contrast(ground, ink) > 7
            quiet = browser.run("(one => one && getComputedStyle(one).color)(document.querySelector('.facts, .back'))")
            assert quiet is None or contrast(ground, quiet) >= 4.5, view
            browser.screenshot(tmp_path / "seen.png")
            assert (tmp_path / "seen.png").stat().st_size > 5_000
        no_complaints(browser, site)


@pytest.mark.parametrize(
    "look",
    [
        pytest.param({}, id="light"),
        pytest.param({"is_dark": True}, id="dark"),
        pytest.param({"width_px": 390, "height_px": 800, "is_phone": True}, id="phone"),
    ],
)
@pytest.mark.thorough
def test_nobody_is_kept_out(site: Site, look: dict[str, Any]) -> None:
    pages = [one for one in site.archive.pages() if one.metadata["file_name"] == "letter.pdf"]
    with Browser(**look) as browser:
        browser.open(site.base)
        assert serious_findings(browser) == [], "the page that refuses"
        browser.open(site.access.url("127.0.0.1"))
        found = {}
        more = [
            "PAGE?q=Lindqvist&at=ocr.0.20",
            "PAGE?wall=1&large=1",
            f"/alike/{pages[0].page_id}",
            f"/like/{pages[0].page_id}",
            "/nothing",
        ]
        for view in [*VIEWS, "/?since=1950", *more]:
            browser.open(site.base + view.replace("PAGE", f"/page/{pages[0].page_id}"))
            found[view] = serious_findings(browser)
        assert {view: one for view, one in found.items() if one} == {}


def luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_without_scripts_everything_can_be_reached(site: Site) -> None:
    with Browser() as browser:
        browser.without_scripts()
        browser.open(site.access.url("127.0.0.1"))
        browser.open(f"{site.base}/?q=Lindqvist")
        html = browser.html()
        assert 'class="hit"' in html
        address = html.split("data-hit")[0].rsplit('href="', 1)[1].split('"')[0].replace("&amp;", "&")
        browser.open(site.base + address)
        html = browser.html()
        assert "edit=1" in html
        assert 'name="by" value="90"' in html
        larger = html.split(" data-open")[0].rsplit('href="', 1)[1].split('"')[0].replace("&amp;", "&")
        browser.open(site.base + larger)
        assert '<figure class="sheet large"' in browser.html()


# ── the command ──────────────────────────────────────────────────────────────────────────────────


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "kobold_reader", "web", "--archive", str(folder), "--port", "0", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_command_prints_one_address_that_works_and_ends_with_ctrl_c(site: Site) -> None:
    with started(site.archive.folder) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        try:
            assert urlsplit(url).hostname == "127.0.0.1"
            with Browser() as browser:
                browser.open(url)
                assert "letter.pdf" in browser.text()
        finally:
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "")
    assert "Ctrl-C ends it." in err
    assert "Traceback" not in err
    assert url.split("token=")[1] not in err


def test_open_to_others_it_warns(site: Site) -> None:
    with started(site.archive.folder, "--host", "0.0.0.0") as process:  # noqa: S104
        assert process.stdout is not None
        urls = [process.stdout.readline().strip() for _ in range(2)]
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert [urlsplit(url).hostname for url in urls] == ["127.0.0.1", socket.gethostname().lower()]
    assert "warning: other machines can reach this page" in err
    assert process.returncode == 0


def test_a_taken_port_ends_the_command_with_a_sentence(site: Site) -> None:
    command = [sys.executable, "-m", "kobold_reader", "web", "--archive", str(site.archive.folder), "--port"]
    taken = str(site.access.port)
    done = subprocess.run([*command, taken], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--port 0" in done.stderr


@pytest.mark.thorough
def test_from_nothing_to_a_hit_in_the_browser(tmp_path: Path) -> None:
    """One command, and the rest by the keyboard: a folder is chosen, indexed while one watches, and searched."""
    scans = tmp_path / "scans"
    scans.mkdir()
    write_pdf(scans / "minutes.pdf", "Nystrand replaced forty slates of the boathouse roof on Tuesday.")
    write_pdf(tmp_path / "open.pdf", "Nothing to see.")
    with pymupdf.open(tmp_path / "open.pdf") as document:
        document.save(scans / "locked.pdf", encryption=pymupdf.PDF_ENCRYPT_AES_256, owner_pw="o", user_pw="u")
    inbox = str(tmp_path / "inbox")
    with started(tmp_path / "archive", "--add", str(scans), "--inbox", inbox) as process, Browser() as browser:
        assert process.stdout is not None
        try:
            browser.open(process.stdout.readline().strip())
            assert "This archive holds no page yet." in browser.text()
            loaded = browser.loaded
            browser.run("document.querySelector('main a[href=\"/add\"]').click()")
            browser.await_load(loaded)
            browser.run("document.querySelector('[aria-label^=\"Index this folder\"]').focus()")
            browser.press("Enter", leads_on=True)
            ended = "/Done, but for 1 error/.test(document.body?.innerText)"
            while not browser.run(ended):
                time.sleep(0.1)
            assert serious_findings(browser) == []
            browser.open(browser.run("location.origin") + "/failed")
            assert serious_findings(browser) == [], "with the field for a password"
            assert browser.run("document.querySelector('[type=password]').ariaLabel") == "Password of locked.pdf"
            browser.open(browser.run("location.origin") + "/?q=slates")
            assert "minutes.pdf" in browser.text()
            assert browser.said == []
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
    assert process.returncode == 0
