"""A night's work survives anything: killed at every instant, full disks, folders that cannot be written."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kobold_reader.archive.rows import PAGE_COLUMNS
from kobold_reader.archive.vectors import Vectors
from tests.conftest import ROOT, page_text
from tests.killed_runs import KilledRuns
from tests.kobold_simulator import KoboldSimulator, ScriptBrain
from tests.test_regressions_reading import make_pdf

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot fork; kill -9 is tested where it can be"),
    pytest.mark.timeout(600),
]

PAGES = {"a.pdf": [1, 2], "b.pdf": [3], "c.pdf": [4, 5]}
LEFT = {"archive.lock", "archive.sqlite", "chroma", "ledger.sqlite"}


@dataclass(frozen=True)
class World:
    """Scans, a server, a home folder whose ledger knows all pages, and what starts runs."""

    scans: Path
    server: KoboldSimulator
    home: Path
    runs: KilledRuns

    @property
    def ledger(self) -> Path:
        return self.home / "kobold-reader" / "ledger.sqlite"

    def index(self, archive: Path, *paths: Path, reembed: bool = False, **options: Any) -> Any:
        reading = ["--api-url", self.server.url, "--embedder", "koboldcpp", "--prune", "--witness", "none"]
        given = ["--tasks", "ocr", "--rotate", "0"] if paths else []
        given += ["--reembed"] if reembed else []
        return self.runs.run("index", *paths, *given, "--archive", archive, *reading, home=self.home, **options)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    (folder / "scans").mkdir()
    for name, numbers in PAGES.items():
        make_pdf(folder / "scans" / name, numbers)
    with (
        KoboldSimulator(
            model="Qwen2.5-VL-7B-Instruct-Q4_K_M", brain=ScriptBrain(page_text), embeddings_model="embed-a"
        ) as server,
        KilledRuns() as runs,
    ):
        made = World(folder / "scans", server, folder / "home", runs)
        ended = runs.run("read", made.scans, "--api-url", server.url, "--tasks", "ocr", "--rotate", "0", home=made.home)
        assert ended.code == 0
        assert server.count() == 5
        yield made


def rows(path: Path, sql: str) -> list[Any]:
    db = sqlite3.connect(path)
    try:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return db.execute(sql).fetchall()
    finally:
        db.close()


READINGS = "SELECT content_sha256, task, engine, settings, status, text, attempts FROM readings ORDER BY 1, 2"


def contents(archive: Path) -> dict[str, Any]:
    """Everything that an archive holds, less the times at which it came there."""
    catalog = archive / "archive.sqlite"
    db = sqlite3.connect(catalog)
    for table in ("words", "trigrams"):
        db.execute(f"INSERT INTO {table} ({table}, rank) VALUES ('integrity-check', 1)")  # noqa: S608
    db.close()
    vectors = Vectors(archive / "chroma", embedder="embed-a", dimension=384)
    try:
        nodes = vectors.collection.get(include=["documents", "metadatas", "embeddings"])
    finally:
        vectors.close()
    columns = zip(nodes["ids"], nodes["documents"], nodes["metadatas"], map(list, nodes["embeddings"]), strict=True)
    return {
        "left": {path.name for path in archive.iterdir()} - {"archive.lock"},
        "pages": rows(catalog, f"SELECT {PAGE_COLUMNS} FROM pages ORDER BY page_id"),  # noqa: S608
        "places": rows(catalog, "SELECT uri, sha256, metadata, is_missing, error FROM places ORDER BY uri"),
        "roots": rows(catalog, "SELECT path, settings FROM roots ORDER BY path"),
        "words": rows(catalog, "SELECT page_id, body, names FROM word_pages ORDER BY page_id"),
        "nodes": {node_id: rest for node_id, *rest in columns},
        "readings": rows(archive / "ledger.sqlite", READINGS),
    }


def test_index_killed_at_every_instant(world: World, tmp_path: Path) -> None:
    clean = tmp_path / "clean"
    asked = world.server.count()
    whole = world.index(clean, world.scans)
    assert whole.code == 0
    assert whole.instants > 10
    expected = contents(clean)
    assert len(expected["pages"]) == len(expected["words"]) == len(expected["readings"]) == 5
    assert len(expected["nodes"]) == 5
    for instant in range(1, whole.instants + 1):
        archive = tmp_path / str(instant)
        killed = world.index(archive, world.scans, die_at=instant)
        assert (killed.code, killed.instants) == (-9, instant)
        assert world.index(archive, world.scans).code == 0, instant
        assert contents(archive) == expected, instant
        shutil.rmtree(archive)
    assert world.server.count() == asked, "all of it had been read"


def test_a_changed_folder_killed_at_every_instant(world: World, tmp_path: Path) -> None:
    """One file renamed, one gone and pruned."""
    start = tmp_path / "start"
    assert world.index(start, world.scans).code == 0
    (world.scans / "a.pdf").rename(world.scans / "renamed.pdf")
    (world.scans / "b.pdf").unlink()
    try:
        assert world.index(start.with_name("first"), world.scans).code == 0  # the ledger knows the new name
        clean = shutil.copytree(start, tmp_path / "clean")
        whole = world.index(clean, world.scans)
        assert whole.code == 0
        expected = contents(clean)
        assert len(expected["pages"]) == 4
        for instant in range(1, whole.instants + 1):
            archive = shutil.copytree(start, tmp_path / str(instant))
            killed = world.index(archive, world.scans, die_at=instant)
            assert (killed.code, killed.instants) == (-9, instant)
            assert world.index(archive, world.scans).code == 0, instant
            assert contents(archive) == expected, instant
            shutil.rmtree(archive)
    finally:
        (world.scans / "renamed.pdf").rename(world.scans / "a.pdf")
        make_pdf(world.scans / "b.pdf", PAGES["b.pdf"])


@pytest.mark.parametrize(("instants", "seconds"), [((9,), ()), ((5, 9, 11), (1.2, 1.8))])
def test_reading_killed_again_and_again(
    world: World, tmp_path: Path, instants: tuple[int, ...], seconds: tuple[float, ...]
) -> None:
    """From nothing, by a server that takes its time: no page is lost, doubled, or asked for more than once a kill."""
    asked, kills = world.server.count(), 0
    fresh = World(world.scans, world.server, tmp_path / "home", world.runs)
    for instant in instants:
        ended = fresh.index(tmp_path / "archive", world.scans, die_at=instant)
        assert (ended.code, ended.instants) == (-9, instant)
        kills += 1
    for after_s in seconds:
        ended = fresh.index(tmp_path / "archive", world.scans, after_s=after_s)
        kills += ended.code != 0
    assert fresh.index(tmp_path / "archive", world.scans).code == 0
    assert 5 <= world.server.count() - asked <= 5 + kills
    found = contents(tmp_path / "archive")
    assert world.index(tmp_path / "clean", world.scans).code == 0
    expected = contents(tmp_path / "clean")
    assert {key: found[key] for key in ("pages", "words", "nodes", "readings")} == {
        key: expected[key] for key in ("pages", "words", "nodes", "readings")
    }


# ── full disks, read-only folders, two at once ───────────────────────────────────────────────────


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An empty disk of its own, very small."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "small", folder], check=False).returncode:
        pytest.skip("only the superuser may make a small disk; tests/test_reading_ledger.py fills the ledger alone")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", disk], check=True)


def test_a_disk_that_fills_up_anywhere(world: World, disk: Path, tmp_path: Path) -> None:
    assert world.index(tmp_path / "clean", world.scans).code == 0
    expected = contents(tmp_path / "clean")
    refused = 0
    for size_kb in (64, 200, 330, 420, 520, 620, 720, 820, 920):
        remount(disk, f"size={size_kb}k")
        ended = world.index(disk / "archive", world.scans)
        if ended.code != 0:
            refused += 1
            assert ended.code == 2, ended.err
            assert "full" in ended.err or "No space left" in ended.err
            assert "Traceback" not in ended.err
            assert "room on the disk" in ended.err or "disk is not full" in ended.err
        remount(disk, "size=64m")
        assert world.index(disk / "archive", world.scans).code == 0, size_kb
        assert contents(disk / "archive") == expected, size_kb
        shutil.rmtree(disk / "archive")
    assert refused >= 4


def test_forgetting_on_a_full_disk_is_ended_when_there_is_room(world: World, disk: Path) -> None:
    remount(disk, "size=64m")
    archive = disk / "archive"
    assert world.index(archive, world.scans).code == 0
    used = sum(path.stat().st_size for path in archive.rglob("*"))
    remount(disk, f"size={used // 1024 + 100}k")
    ended = world.runs.run("forget", world.scans / "a.pdf", "--archive", archive, "--ledger", "none", home=world.home)
    assert ended.code == 2
    assert "Traceback" not in ended.err
    remount(disk, "size=64m")
    ended = world.runs.run("forget", world.scans / "a.pdf", "--archive", archive, "--ledger", "none", home=world.home)
    assert ended.code == 0
    assert {path.name for path in archive.iterdir()} == LEFT
    assert not any(b"a.pdf" in path.read_bytes() for path in archive.rglob("*") if path.is_file())


def test_a_disk_that_is_read_only(world: World, disk: Path) -> None:
    remount(disk, "size=64m")
    assert world.index(disk / "archive", world.scans).code == 0
    remount(disk, "ro")
    ended = world.runs.run("search", "x", "--archive", disk / "archive", home=world.home)
    assert ended.code == 0, ended.err
    ended = world.runs.run("index", "--archive", disk / "archive", home=world.home)
    assert ended.code == 2, ended.err
    assert f"the archive {disk / 'archive'} is read-only here" in ended.err
    assert "Traceback" not in ended.err
    for ledger in (disk / "archive" / "ledger.sqlite", disk / "new" / "ledger.sqlite"):
        ended = world.runs.run("read", world.scans, "--ledger", ledger, "--api-url", world.server.url, home=world.home)
        assert ended.code == 2
        assert "name another file with --ledger" in ended.err


def test_vectors_that_chroma_cannot_open_are_said(world: World, tmp_path: Path) -> None:
    """Chroma itself refuses no file of a later release: it fails where a table is not as it expects."""
    archive = tmp_path / "archive"
    assert world.index(archive, world.scans).code == 0
    expected = contents(archive)
    db = sqlite3.connect(archive / "chroma" / "chroma.sqlite3")
    db.execute("ALTER TABLE collections RENAME TO collections_of_2031")
    db.close()
    server = ("--api-url", world.server.url)
    found = world.runs.run("search", "Lindqvist", "--archive", archive, *server, home=world.home)
    assert found.code == 0, "by words"
    assert "Searching by words only" in found.err
    assert "--reembed makes the vectors anew" in found.err
    assert "Traceback" not in found.err
    assert world.index(archive).code == 0, "nothing changed, so Chroma is not opened"
    asked = world.server.count()
    assert world.index(archive, reembed=True).code == 0
    assert world.server.count() == asked
    assert contents(archive) == expected


def test_two_processes_read_into_one_ledger(world: World, tmp_path: Path) -> None:
    """One waits while the other asks for a page, and then finds it read: no page is asked for twice."""
    ledger, before = tmp_path / "ledger.sqlite", world.server.count()
    command = [sys.executable, "-m", "kobold_reader", "read", str(world.scans), "--tasks", "ocr", "--rotate", "0"]
    command += ["--ledger", str(ledger), "--api-url", world.server.url]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)
    ]
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert len(rows(ledger, READINGS)) == 5
    assert rows(ledger, "SELECT * FROM failures") == []
    assert world.server.count() - before == 5
