"""The passage on the picture: it lies where the words stand, or nowhere."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from kobold_reader import Archive, KoboldReader
from kobold_reader.archive.rows import PageRow
from kobold_reader.html.text import Mark
from kobold_reader.pages import PageView
from kobold_reader.reading.line_reader import load_line_reader
from kobold_reader.reading.results import Reading, joined
from kobold_reader.web import make_app
from kobold_reader.web.views import overlay
from tests.conftest import SAMPLES
from tests.test_web import ACCESS, HERE, Seen, row

# ── which lines ───────────────────────────────────────────────────────────────────────────────────


def corners(left: int, top: int, right: int, slope: int = 0) -> tuple[int, ...]:
    return (left, top, right, top + slope, right, top + slope + 200, left, top + 200)


TEXT, BOXES = joined(
    [
        [("Dear Axel,", corners(1000, 1000, 5000), 0.9)],
        [("the slates came on Tues-", corners(1000, 1300, 9000, slope=50), 0.9)],
        [("day", corners(1000, 9000, 2000), 0.9), ("12.50", corners(8000, 9000, 9000), 0.9)],
    ]
)
READING = Reading("ocr", "ok", TEXT, "rapidocr", boxes=BOXES, view_sizes=((500, 1000),))


def marks(passage: str, *found: str) -> list[Mark]:
    start = TEXT.index(passage)
    places = [(TEXT.index(word), "found", word) for word in found]
    return [Mark(at, at + len(text), kind) for at, kind, text in [(start, "passage", passage), *places]]


def test_a_passage_over_several_lines_has_them_all_and_the_words_found_stand_out() -> None:
    shown = overlay(row(1, TEXT), READING, marks("slates came on Tues-\nday", "slates"))
    assert shown is not None
    assert (shown.width, shown.height) == (500, 1000)
    assert [(one.number, one.kind) for one in shown.chosen] == [(1, "passage found"), (2, "passage")]
    assert [(one.number, one.row) for one in shown.outlines] == [(0, 0), (1, 1), (2, 2), (3, 2)]
    assert shown.outlines[1].points == "50,130 450,135 450,155 50,150", "in the picture's own shape, skew and all"
    assert [TEXT[mark.start : mark.end] for mark in shown.marks] == [
        "Dear Axel,",
        "the slates came on Tues-",
        "day",
        "12.50",
    ]


def test_a_thumbnail_shows_the_end_of_the_page_where_the_words_stand_there() -> None:
    lows = [overlay(row(1, TEXT), READING, marks(*asked)) for asked in (("Dear",), ("12.50",), (TEXT, "12.50"))]
    assert [low and low.is_low for low in lows] == [False, True, True]


@pytest.mark.parametrize(
    ("rotation_deg", "size", "points"),
    [
        (0, (500, 1000), "50,130 450,135 450,155 50,150"),
        (90, (1000, 500), "870,50 865,450 845,450 850,50"),
        (180, (500, 1000), "450,870 50,865 50,845 450,850"),
        (270, (1000, 500), "130,450 135,50 155,50 150,450"),
    ],
)
def test_lines_are_turned_with_a_picture_that_a_person_turned(
    rotation_deg: int, size: tuple[int, int], points: str
) -> None:
    shown = overlay(row(1, TEXT), READING, marks("slates"), rotation_deg)
    assert shown is not None
    assert ((shown.width, shown.height), shown.outlines[1].points) == (size, points)


@pytest.mark.parametrize(
    ("page", "reading"),
    [
        (row(1, TEXT), None),
        (row(1, TEXT), replace(READING, boxes=())),
        (row(1, TEXT + " "), READING),  # another text, perhaps a person's
        (row(1, TEXT, about={"rotation_deg": 90}), READING),
        (row(1, TEXT), replace(READING, rotation_deg=90)),
    ],
)
def test_nothing_is_marked_where_it_could_be_a_wrong_place(page: PageRow, reading: Reading | None) -> None:
    assert overlay(page, reading, marks("Axel")) is None


# ── with RapidOCR ─────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    """A card that lies on its side, read by RapidOCR."""
    folder = tmp_path_factory.mktemp("site")
    with Archive.open(folder / "boxes", create=True, embedder="none") as archive:
        archive.sync(SAMPLES / "scans" / "scan0007.jpg", reader=KoboldReader(engine="rapidocr", ledger="none"))
        yield archive


@pytest.fixture
def client(archive: Archive) -> Iterator[TestClient]:
    app, close = make_app(archive, ACCESS)
    client = TestClient(app, HERE, raise_server_exceptions=False)
    client.cookies.set(ACCESS.cookie, ACCESS.session, domain="127.0.0.1")
    yield client
    close()


def lines_of(html: str) -> dict[int, tuple[str, str]]:
    """Kind and points of every line on the picture, by its number."""
    polygon = r'<polygon data-line="(\d+)" data-row="\d+" points="([^"]*)"(?: class="([^"]*)")?/>'
    return {int(number): (kind, points) for number, points, kind in re.findall(polygon, html)}


def read(picture: bytes, view_box: tuple[int, int], points: str) -> str:
    """Return what stands under a line of the overlay, read anew from the very picture that is shown."""
    image: Image.Image = Image.open(io.BytesIO(picture))
    xs, ys = zip(*[[float(one) for one in pair.split(",")] for pair in points.split()], strict=True)
    scale = image.width / view_box[0], image.height / view_box[1]
    box = (min(xs) * scale[0], min(ys) * scale[1], max(xs) * scale[0], max(ys) * scale[1])
    written = io.BytesIO()
    line = image.crop(box).convert("RGB")
    if line.height > line.width:  # of a picture that was turned clockwise
        line = line.transpose(Image.Transpose.ROTATE_90)
    line.save(written, "PNG")
    reader = load_line_reader()
    assert reader is not None
    view = PageView(written.getvalue(), "image/png", line.width, line.height, None, 0)
    return reader(view, (0.0, 0.0, 1.0, 1.0), 0)[0]


@pytest.mark.slow
def test_the_words_stand_under_their_mark_on_the_picture_that_is_shown(archive: Archive, client: TestClient) -> None:
    [page] = archive.pages()
    assert page.metadata["rotation_deg"] == 270, "the picture is turned, and the boxes with it"
    hits = client.get("/", params={"q": "Ejdern"}).text
    link = unescape(re.findall(r'<a href="([^"]*)" data-hit>', hits)[0])
    html = client.get(link).text
    shown = lines_of(html)
    assert len(shown) > 12
    width, height = map(int, re.findall(r'class="lines" viewBox="0 0 (\d+) (\d+)"', html)[0])
    picture = client.get(f"/image/{page.page_id}/large").content
    found = [points for kind, points in shown.values() if "found" in kind]
    assert len(found) == 1
    assert re.search("Stood.*Ejdern.*1929", read(picture, (width, height), found[0])), "all of its line"

    archive.rotate(page.page_id, 0)  # it lies on its side again
    try:
        html = client.get(link).text
        width, height = map(int, re.findall(r'class="lines" viewBox="0 0 (\d+) (\d+)"', html)[0])
        picture = client.get(f"/image/{page.page_id}/large").content
        [points] = [points for kind, points in lines_of(html).values() if "found" in kind]
        assert height > width
        assert re.search("Stood.*Ejdern.*1929", read(picture, (width, height), points)), "turned with its picture"
    finally:
        archive.rotate(page.page_id, None)

    thumb = lines_of(hits)
    assert {kind for kind, _ in thumb.values()} <= {"passage", "passage found"}, "of a hit, only what was looked for"
    assert found == [points for kind, points in thumb.values() if "found" in kind]


@pytest.mark.slow
def test_every_line_has_its_part_of_the_text_and_nothing_has_a_style(archive: Archive, client: TestClient) -> None:
    [page] = archive.pages()
    html = client.get(f"/page/{page.page_id}?q=compass").text
    parts: dict[int, str] = {}
    for number, text in re.findall(r'<(?:span|mark)[^>]*data-line="(\d+)"[^>]*>([^<]*)<', html):
        parts[int(number)] = parts.get(int(number), "") + unescape(text)
    assert set(parts) == set(lines_of(html))
    assert " ".join(parts[number] for number in sorted(parts)).split() == page.text.split()
    assert Seen(html).handlers == []


@pytest.mark.slow
def test_a_corrected_text_has_no_places(archive: Archive, client: TestClient) -> None:
    def shown() -> list[Any]:
        [page] = archive.pages()
        pages = client.get(f"/page/{page.page_id}?q=compass").text, client.get("/?q=compass").text
        assert all("compass</mark>" in html for html in pages)
        return [bool(lines_of(html)) for html in pages] + ["data-line" in pages[0]]

    [page] = archive.pages()
    assert shown() == [True, True, True]
    archive.correct(page.page_id, page.text.replace("Boat compass", "A boat compass"))
    assert shown() == [False, False, False]
    archive.uncorrect(page.page_id)
    assert shown() == [True, True, True]
