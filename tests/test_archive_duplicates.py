"""Photos that look alike, copies, equal scans: grouped, and shown once."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import ExifTags, Image, ImageEnhance, ImageOps
from typer.testing import CliRunner

from kobold_reader import Archive, KoboldReader
from kobold_reader.archive.duplicates import MOST_BITS, Likeness
from kobold_reader.archive.rows import PageRow, Place
from kobold_reader.cli.app import make_app
from kobold_reader.options import Grouping
from kobold_reader.pages import PageChild
from kobold_reader.reading.ledger import Ledger
from tests import page_files as make
from tests.archive_rows import catalog_of, put
from tests.conftest import LETTER
from tests.kobold_simulator import BrainRequest, KoboldSimulator, ScriptBrain
from tests.scenes import scene

# ── hashes ───────────────────────────────────────────────────────────────────────────────────────


def flipped(value: int, bits: Sequence[int]) -> int:
    for bit in bits:
        value ^= 1 << bit
    return value


def test_near_hashes_are_found_as_if_all_were_compared() -> None:
    chance = random.Random(7)
    values = [chance.getrandbits(64) for _ in range(300)]
    # From very near to just too far, the bits wherever they fall.
    values += [flipped(value, chance.sample(range(64), chance.randrange(15))) for value in values[:100]]
    likeness = Likeness((name, f"{value:016x}") for name, value in enumerate(values))
    by_brute_force: list[set[int]] = []
    left = set(range(len(values)))
    while left:
        group, to_ask = set(), {left.pop()}
        while to_ask:
            one = to_ask.pop()
            group.add(one)
            near = {other for other in left if (values[one] ^ values[other]).bit_count() <= MOST_BITS}
            left -= near
            to_ask |= near
        by_brute_force.append(group)
    expected = {frozenset(group) for group in by_brute_force if len(group) > 1}
    assert {frozenset(group) for group in likeness.groups()} == expected
    assert len(expected) > 50
    for group in by_brute_force:
        for name in group:
            assert set(likeness.group(name)) == group
            assert likeness.group(name)[0] == name


@pytest.mark.parametrize("spread", ["one quarter", "all quarters", "one too many"])
def test_the_farthest_that_is_still_near(spread: str) -> None:
    bits = {
        "one quarter": range(10),
        "all quarters": [0, 1, 2, 16, 17, 18, 32, 33, 48, 49],
        "one too many": [0, 1, 2, 16, 17, 18, 32, 33, 34, 48, 49],
    }[spread]
    likeness = Likeness([("a", f"{0x8000_4000_2000_1000:016x}"), ("b", f"{flipped(0x8000_4000_2000_1000, bits):016x}")])
    assert (likeness.groups() == [["a", "b"]]) == (spread != "one too many")


def test_many_equal_hashes_and_what_is_none() -> None:
    likeness = Likeness([(number, "00ff00ff00ff00ff") for number in range(5000)] + [(-1, "no hash"), (-2, "-1")])
    [group] = likeness.groups()
    assert len(group) == 5000
    assert likeness.group(-1) == [-1]
    assert Likeness([]).groups() == []


# ── pages ────────────────────────────────────────────────────────────────────────────────────────

HASH = 0x8F0F_33CC_55AA_0FF0


def page(name: str, number: int = 1, *, phash: int | None = None, content: str = "", size: int = 1) -> PageRow:
    metadata = {
        "file_name": name,
        "file_path": f"/box/{name}",
        "file_type": "application/pdf" if name.endswith("pdf") else "image/jpeg",
        "file_size": size,
        "page_number": number,
        **({} if phash is None else {"phash": f"{phash:016x}", "image_kind": "photo"}),
    }
    parts = {"ocr": f"a boat by {name}"}
    return PageRow(
        f"{name}-{number}", name, number, "ok", parts, "1", metadata, f"file:///box/{name}", content_sha256=content
    )


def copied(archive: Archive, row: PageRow, path: str) -> None:
    metadata = {**row.metadata, "file_name": path.rpartition("/")[2], "file_path": path}
    with catalog_of(archive) as catalog:
        catalog.put_place(Place(f"file://{path}", row.sha256, metadata))


@pytest.fixture
def archive(tmp_path: Path) -> object:
    with Archive.open(tmp_path / "archive", create=True, embedder="none") as opened:
        yield opened


def names(groups: Sequence[Sequence[object]]) -> list[list[str]]:
    return [[one.file_name for one in group] for group in groups]  # type: ignore[attr-defined]


def test_what_is_one_group(archive: Archive) -> None:
    photo = page("photo.jpg", phash=HASH, content="a", size=900)
    put(
        archive,
        page("far.jpg", phash=flipped(HASH, range(30, 50)), content="z"),
        photo,
        page("small.jpg", phash=flipped(HASH, range(6)), content="b", size=90),
        page("smaller.jpg", phash=flipped(HASH, range(14)), content="c", size=9),  # near small.jpg alone
        page("scan.pdf", 1, content="s"),
        page("scan.pdf", 2, content="t"),
        page("album.pdf", 7, content="t"),
        page("text.pdf", 1, content="u"),
        page("unknown 1.jpg"),
        page("unknown 2.jpg"),
    )
    copied(archive, photo, "/box/copies/photo.jpg")
    copied(archive, page("text.pdf", 1), "/box/copies/text.pdf")
    groups = archive.duplicates()
    assert names(groups) == [
        ["album.pdf", "scan.pdf"],
        ["photo.jpg", "photo.jpg", "small.jpg", "smaller.jpg"],
        ["text.pdf", "text.pdf"],
    ]
    assert [one.is_equal for one in groups[1]] == [True, True, False, False]
    assert [one.page_number for one in groups[0]] == [7, 2]
    assert groups[0][1].link == "file:///box/scan.pdf#page=2"
    alike = archive.alike("smaller.jpg-1")
    assert [(one.file_path, one.is_equal) for one in alike] == [
        ("/box/copies/photo.jpg", False),
        ("/box/photo.jpg", False),
        ("/box/small.jpg", False),
    ]
    assert archive.alike("far.jpg-1") == archive.alike("nobody") == ()


def test_a_group_is_one_hit_and_can_be_shown_in_full(archive: Archive) -> None:
    rows = [page(f"{number}.jpg", phash=flipped(HASH, range(number)), content=str(number)) for number in range(4)]
    put(archive, *rows, page("other.jpg", content="o"), page("another.jpg", content="p"))
    hits = archive.search("boat", limit=3)
    assert len(hits) == 3, "the group takes one place, and leaves the others to other pages"
    assert hits.total == 3
    [shown] = [hit for hit in hits if hit.alike]
    assert {hit.file_name for hit in hits} == {shown.file_name, "other.jpg", "another.jpg"}
    everyone = {one.file_name for one in shown.alike} | {shown.file_name}
    assert everyone == {"0.jpg", "1.jpg", "2.jpg", "3.jpg"}
    assert set(shown.to_json()["alike"][0]) == {"file_path", "page_number", "link", "is_equal"}
    each = archive.search("boat", limit=9, all_copies=True)
    assert len(each) == each.total == 6
    assert not any(hit.alike for hit in each)


@pytest.mark.parametrize("by", ["file", "folder"])
def test_a_group_counts_once_where_hits_are_grouped(archive: Archive, by: Grouping) -> None:
    rows = [page(f"{number}.jpg", phash=flipped(HASH, range(number)), content=str(number)) for number in range(8)]
    put(archive, *rows, page("other.jpg", content="o"), page("another.jpg", content="p"))
    hits = archive.search("boat", limit=3, by=by)
    assert len(hits) == 3, "else the group alone would fill the folder, or all files"
    assert {"other.jpg", "another.jpg"} < {hit.file_name for hit in hits}
    assert sorted(len(hit.alike) for hit in hits) == [0, 0, 7]
    each = archive.search("boat", limit=10, by=by, all_copies=True)
    assert len(each) == (10 if by == "file" else 5)
    assert not any(hit.alike for hit in each)


def test_what_is_indexed_meanwhile_counts(archive: Archive) -> None:
    first = page("first.jpg", phash=HASH, content="a")
    put(archive, first)
    assert archive.duplicates() == []
    put(archive, page("second.jpg", phash=HASH, content="b"))
    assert names(archive.duplicates()) == [["first.jpg", "second.jpg"]]
    told = replace(first, metadata={key: value for key, value in first.metadata.items() if key != "phash"})
    put(archive, told)
    assert archive.duplicates() == [], "somebody said that it is a scan"


# ── the whole way ────────────────────────────────────────────────────────────────────────────────


def described(request: BrainRequest) -> str:
    if "keywords" in request.prompt.lower():
        return "A jetty in the evening.\n\nKeywords: jetty, evening"
    return "A heron stands on one leg." if "describe" in request.prompt.lower() else "No text."


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """A photo of 1999 with camera and keywords, two that look like it, one of something else, and a letter."""
    folder = tmp_path / "album"
    folder.mkdir()
    exif, heron = Image.Exif(), scene(1)
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Model] = "NIKON", "COOLPIX 950"
    shot = exif.get_ifd(ExifTags.IFD.Exif)
    shot[ExifTags.Base.DateTimeOriginal], shot[ExifTags.Base.ExposureTime] = "1999:07:18 20:15:00", 0.01
    body = make.bag("dc:subject", "Siljan", "midsummer")
    (folder / "heron.jpg").write_bytes(make.with_xmp(make.jpeg(heron, exif=exif.tobytes()), make.xmp(body)))
    ImageOps.contain(heron, (300, 300)).save(folder / "sent.jpg", quality=40)
    ImageEnhance.Brightness(ImageOps.crop(heron, 8)).enhance(1.1).save(folder / "bright.png")
    scene(3).save(folder / "boat.jpg")
    (folder / "letter.pdf").write_bytes(LETTER.read_bytes())
    return folder


@pytest.mark.slow
def test_a_photo_is_found_by_what_it_shows_by_keyword_by_camera_and_by_day(
    album: Path, make_simulator: Callable[..., KoboldSimulator], tmp_path: Path
) -> None:
    simulator = make_simulator(brain=ScriptBrain(described))
    reader = KoboldReader(api_url=simulator.url, tasks=["ocr", "caption", "tags"], ledger="none")
    with Archive.open(tmp_path / "a", create=True, embedder="none") as archive:
        archive.sync(album, reader=reader)

        def found(query: str, **narrowed: object) -> set[str]:
            hits = archive.search(query, limit=20, all_copies=True, **narrowed)  # type: ignore[arg-type]
            return {hit.file_name for hit in hits}

        photos = {"heron.jpg", "sent.jpg", "bright.png", "boat.jpg"}
        assert found("heron on one leg", where=["image_kind=photo"]) == photos
        assert found("jetty", where=["image_kind=photo"]) == photos
        assert found("heron", where=["image_kind=scan"]) == {"letter.pdf"}
        assert found("heron", where=["keywords=~siljan"]) == {"heron.jpg"}
        assert found("heron", where=["camera=NIKON COOLPIX 950"]) == found("heron", where=["camera=~coolpix"])
        assert found("heron", where=["camera=~coolpix"]) == {"heron.jpg"}
        assert found("heron", since="1999-07", until="1999-07-18") == {"heron.jpg"}
        [group] = [group for group in archive.duplicates() if len(group) > 1]
        assert {one.file_name for one in group} == photos - {"boat.jpg"}
        hits = archive.search("heron", where=["image_kind=photo"])
        assert sorted(len(hit.alike) for hit in hits) == [0, 2]
    runner = CliRunner()
    shown = runner.invoke(
        make_app(), ["search", "heron", "--where", "image_kind=photo", "--archive", str(tmp_path / "a")]
    )
    assert "and 2 like it: " in shown.output
    as_json = runner.invoke(make_app(), ["status", "--duplicates", "--json", "--archive", str(tmp_path / "a")])
    assert [len(group) for group in json.loads(as_json.stdout)["duplicates"]] == [3]
    as_text = runner.invoke(make_app(), ["status", "--duplicates", "--archive", str(tmp_path / "a")])
    assert "duplicates: 1 group" in as_text.output
    assert as_text.output.count("  like: ") == 2


@pytest.mark.slow
def test_what_a_person_says_of_a_picture_stays_and_asks_nobody(
    album: Path, simulator: KoboldSimulator, tmp_path: Path
) -> None:
    def reader(**said: Any) -> KoboldReader:
        return KoboldReader(api_url=simulator.url, tasks=["ocr"], ledger="none", **said)

    def kinds(archive: Archive) -> dict[str, str]:
        return {str(row.metadata["file_name"]): str(row.metadata["image_kind"]) for row in archive.pages()}

    decided = dict.fromkeys(["heron.jpg", "sent.jpg", "bright.png", "boat.jpg"], "photo") | {"letter.pdf": "scan"}
    with Archive.open(tmp_path / "a", create=True, embedder="none") as archive:
        archive.sync(album, reader=reader())
        asked = simulator.count()
        assert kinds(archive) == decided
        archive.sync(album / "boat.jpg", reader=reader(image_kind="scan"), remember=False)
        assert kinds(archive) == decided | {"boat.jpg": "scan"}
        assert all("phash" not in row.metadata for row in archive.pages() if row.metadata["image_kind"] == "scan")
        archive.sync(album, reader=reader())
        assert kinds(archive) == decided | {"boat.jpg": "scan"}, "whoever does not say otherwise leaves it"
        archive.sync(album, reader=reader(image_kind="auto"))
        assert kinds(archive) == decided
        assert "image_kind" not in archive.settings_of(album), "a later run does not undo what is said until then"
        assert simulator.count() == asked


@pytest.mark.slow
def test_pages_that_an_older_release_read_are_looked_at_once(
    album: Path, simulator: KoboldSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = KoboldReader(api_url=simulator.url, tasks=["ocr"], ledger="none")
    with Archive.open(tmp_path / "a", create=True, embedder="none") as archive:
        archive.sync(album, reader=reader)
        asked = simulator.count()
        with Ledger(tmp_path / "a" / "ledger.sqlite") as ledger:
            for uri in ledger.uris():
                [sha256] = {row.sha256 for row in archive.pages() if row.uri == uri}
                pages = [
                    replace(known, facts=replace(known.facts, metadata={}))
                    for known in ledger.pages(sha256, [1]).values()
                ]
                ledger.remember_pages(sha256, pages)
        for row in list(archive.pages()):
            metadata = {key: value for key, value in row.metadata.items() if key not in {"image_kind", "phash"}}
            put(archive, replace(row, metadata=metadata))  # and no stamp: that release left none
        assert archive.duplicates() == []
        archive.sync(album, reader=reader)
        assert len(archive.duplicates()) == 1
        monkeypatch.setattr(PageChild, "open", lambda *_: pytest.fail("opened again"))
        archive.sync(album, reader=reader)
        assert simulator.count() == asked
