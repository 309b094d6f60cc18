"""Tags of an archive: counted, renamed and merged, and what a rename outlives."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kobold_reader import Archive, KoboldReader
from kobold_reader.archive.folder import CATALOG
from kobold_reader.archive.rows import PageRow, version_of
from kobold_reader.archive.tags import parse_names
from kobold_reader.cli.app import make_app
from kobold_reader.errors import ConfigError
from kobold_reader.reading.tags import Tags
from tests.archive_rows import catalog_of, put
from tests.kobold_simulator import KoboldSimulator, ScriptBrain
from tests.scenes import scene

NEAR = [["automobile", "Automobile"], ["Street", "street"], ["car", "cars"]]


def photo(number: int, tags: Sequence[str], *, by_people: str = "", paths: str = "") -> PageRow:
    """A tagged photo."""
    parts = {"caption": "A street.", "tags": Tags("A street in the rain.", tuple(tags)).text}
    metadata = {
        "file_name": f"{number}.jpg",
        "file_path": f"/photos/{number}.jpg",
        "page_number": 1,
        "keywords": by_people or ", ".join(tags),
        "keywords_source": "xmp" if by_people else "model",
        **({"tag_paths": paths} if paths else {}),
    }
    sha256 = f"{number:064}"
    return PageRow(
        f"{sha256[32:]}-1", sha256, 1, "ok", parts, version_of(parts), metadata, f"file:///photos/{number}.jpg",
        content_sha256=sha256,
    )  # fmt: skip


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with Archive.open(tmp_path / "a", create=True, embedder="none") as archive:
        put(
            archive,
            photo(1, ["automobile", "rain"], paths="vehicle|automobile"),
            photo(2, ["car", "Automobile", "street"]),
            photo(3, ["cars", "raining"], by_people="Volvo, automobile"),
            photo(4, ["tram", "Street"]),
        )
        yield archive


def keywords_of(archive: Archive) -> list[str]:
    return [str(page.metadata["keywords"]) for page in archive.pages()]


def test_tags_are_counted(archive: Archive) -> None:
    used = archive.tags()
    assert [(one.tag, one.pages, one.by_people) for one in used.counts][:2] == [
        ("automobile", 2, 1),
        ("Automobile", 1, 0),
    ]
    assert used.pages == 4
    assert {"tram", "raining", "Volvo"} <= set(used.once), "the model's and people's, also of one page"
    assert [[one.tag for one in group] for group in used.near] == NEAR


def test_status_shows_the_tags(archive: Archive) -> None:
    said = CliRunner().invoke(make_app(), ["status", "--archive", str(archive.folder), "--tags"]).output
    assert "tags: 10 on 4 pages, 9 of one page only\n" in said
    assert "\n      2  automobile, 1 by people\n" in said
    assert "nearly the same: automobile (2), Automobile (1)\n" in said
    said = CliRunner().invoke(make_app(), ["status", "--archive", str(archive.folder), "--tags", "--json"]).output
    assert json.loads(said)["tags"]["near"] == NEAR
    assert CliRunner().invoke(make_app(), ["status", "--tags"]).exit_code == 2


def test_a_rename_merges_and_is_found(archive: Archive) -> None:
    before = archive.generation
    assert archive.rename_tags({"automobile": "car"}) == 2
    assert keywords_of(archive) == ["car, rain", "car, street", "Volvo, automobile", "tram, Street"]
    first = next(archive.pages())
    assert first.metadata["tag_paths"] == "vehicle|car"
    assert first.parts["tags"] == "A street in the rain.\n\nKeywords: car, rain"
    assert {hit.file_name for hit in archive.search("car")} >= {"1.jpg", "2.jpg"}
    assert [hit.file_name for hit in archive.search("automobile")] == ["3.jpg"], "a person's keyword"
    assert archive.generation > before
    assert archive.rename_tags({"automobile": "car"}) == 0, "it is so already"


def test_names_follow_each_other(archive: Archive) -> None:
    archive.rename_tags({"automobile": "car"})
    archive.rename_tags({"car": "vehicle", "Street": "street"})
    put(archive, photo(5, ["automobile", "Street"]))
    assert keywords_of(archive)[4] == "vehicle, street", "a page that comes later"
    archive.rename_tags({"vehicle": "automobile"})
    assert keywords_of(archive)[4] == "automobile, street", "the way back is no circle"
    put(archive, photo(6, ["car"]))
    assert keywords_of(archive)[5] == "automobile"


def test_a_rename_outlives_reading_again(tmp_path: Path, simulator: KoboldSimulator) -> None:
    simulator.brain = ScriptBrain(lambda _: '{"description": "A letter.", "keywords": ["automobile", "oats"]}')
    reader = KoboldReader(api_url=simulator.url, tasks=["tags"], ledger="none")
    one, other = tmp_path / "one.png", tmp_path / "other.png"
    scene(2).save(one)
    scene(5).save(other)
    with Archive.open(tmp_path / "b", create=True, embedder="none") as archive:
        archive.sync(one, reader=reader)
        archive.rename_tags({"automobile": "car"})
        archive.sync()
        assert keywords_of(archive) == ["car, oats"]
        archive.sync(changes={"redo": "all"})
        assert simulator.count() == 2
        assert keywords_of(archive) == ["car, oats"]
        assert archive.status().unfinished_pages == 0
        archive.sync(other, reader=reader)
        assert keywords_of(archive) == ["car, oats"] * 2


def test_a_rename_in_the_middle_of_indexing_is_not_lost(archive: Archive) -> None:
    with catalog_of(archive) as run:
        begun = run.begin([photo(7, ["automobile"])])
        archive.rename_tags({"automobile": "car"})
        run.finish(begun)
        assert [(row.page_id, row.metadata["keywords"]) for row in run.unfinished()] == [(begun[0].page_id, "car")]


def test_a_rename_that_fails_changes_nothing(archive: Archive) -> None:
    with closing(sqlite3.connect(archive.folder / CATALOG)) as db:
        db.execute(
            "CREATE TRIGGER stop BEFORE UPDATE ON pages WHEN new.metadata LIKE '%2.jpg%' "
            "BEGIN SELECT raise(ABORT, 'the disk is gone'); END"
        )
    before = keywords_of(archive)
    with pytest.raises(sqlite3.Error):
        archive.rename_tags({"automobile": "car"})
    assert keywords_of(archive) == before
    put(archive, photo(8, ["automobile"]))
    assert keywords_of(archive)[-1] == "automobile", "nor is there a rule"


@pytest.mark.parametrize("given", ["automobile", "=car", "car=", "a, b=c"])
def test_what_is_no_rename(given: str) -> None:
    with pytest.raises(ConfigError):
        parse_names([given])
    assert parse_names([" motor  car = car"]) == {"motor car": "car"}
