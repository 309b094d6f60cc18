"""Archives where nothing may be written: a colleague's folder, a read-only medium, one whose writer was killed."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pymupdf
import pytest

from kobold_reader import Archive, KoboldReader
from kobold_reader.archive.store import Catalog
from kobold_reader.embeddings import MiniLMEmbedding
from kobold_reader.errors import StoreError
from kobold_reader.files import ReadOnlyDatabase, connect_read_only
from kobold_reader.reading.ledger import Ledger

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="rights and mounts are taken away as Linux does it"),
]

NOBODY: Final = "http://127.0.0.1:9"
TEXTS: Final = (
    "Dear Axel, the schooner brought the slates on Monday.",
    "The committee decided to repair the north breakwater before the winter.",
)
# What a user does with it, in a process that may write nothing there.
USE: Final = """
import json, sys
from starlette.testclient import TestClient
from kobold_reader import Archive
from kobold_reader.errors import KoboldReaderError
from kobold_reader.web.app import make_app
from tests.test_web import ACCESS, HERE

def refused(action):
    try:
        action()
    except KoboldReaderError as err:
        return str(err)

with Archive.open(sys.argv[1]) as archive:
    words, = archive.search("schooner", mode="keyword")
    near = archive.search("repairs of the breakwater", mode="dense") if sys.argv[2] == "minilm" else [words]
    app, close = make_app(archive, ACCESS)
    client = TestClient(app, HERE)
    client.cookies.set(ACCESS.cookie, ACCESS.session, domain="127.0.0.1")
    said = {
        "is_read_only": archive.is_read_only,
        "words": words.text,
        "near": near[0].text,
        "page": "".join(client.get(f"/{view}/{words.page_id}?edit=1").text for view in ("page", "look")),
        "hits": client.get("/?q=schooner").status_code,
        "status": archive.status().pages,
        "refused": [refused(lambda: archive.correct(words.page_id, "x")), refused(lambda: archive.sync())],
    }
    close()
print(json.dumps(said))
"""


@pytest.fixture(name="kind", scope="module")
def choose_kind() -> str:
    return "minilm" if MiniLMEmbedding.available() else "none"


@pytest.fixture(name="made", scope="module")
def make_archive(tmp_path_factory: pytest.TempPathFactory, kind: Any) -> Path:
    """An archive and its two files."""
    folder = tmp_path_factory.mktemp("shared")
    (folder / "scans").mkdir()
    for number, text in enumerate(TEXTS):
        with pymupdf.open() as document:
            document.new_page().insert_text((72, 72), text)
            document.save(folder / "scans" / f"{number}.pdf")
    with Archive.open(folder / "archive", create=True, embedder=kind) as archive:
        archive.sync(folder / "scans", reader=KoboldReader(api_url=NOBODY))
    return folder / "archive"


@pytest.fixture(name="archive")
def copy_archive(made: Path, tmp_path: Path) -> Iterator[Path]:
    copy = tmp_path / "archive"
    shutil.copytree(made, copy)
    yield copy
    for path in (copy, *copy.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)


def take_rights(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)


def held(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def unprivileged() -> list[str]:
    """What a command is run through, so that root heeds the rights of files as anybody does."""
    if os.geteuid():
        return []
    if not shutil.which("setpriv"):
        pytest.skip("root may write everywhere, and setpriv is missing")
    return ["setpriv", "--bounding-set", "-dac_override,-dac_read_search,-fowner", "--inh-caps", "-all"]


def use(archive: Path, kind: str, *through: str) -> dict[str, Any]:
    before = held(archive)
    command = [*through, sys.executable, "-c", USE, str(archive), kind]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")
    assert not ended.returncode, ended.stderr
    assert held(archive) == before, "nothing in it was touched"
    said: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return said


def check(said: dict[str, Any], kind: str) -> None:
    assert said["is_read_only"]
    assert "schooner" in said["words"]
    assert "schooner" in said["page"]
    assert not [
        change
        for change in (">Edit<", "Rotate", ">Right<", ">Save<", 'href="/add"', "</kbd> edit")
        if change in said["page"]
    ]
    assert ("breakwater" if kind == "minilm" else "schooner") in said["near"]
    assert said["hits"] == 200
    assert said["status"] == {"text_layer": 2}
    assert all("read-only here" in refused and "copy the folder" in refused for refused in said["refused"])


@pytest.mark.thorough
def test_another_users_archive_is_searched_and_shown(archive: Path, kind: str) -> None:
    take_rights(archive)
    check(use(archive, kind, *unprivileged()), kind)


def test_what_may_not_be_read_or_written_is_said_in_a_sentence(tmp_path: Path) -> None:
    """Of files, folders, ledgers and outputs, as a user who has no rights there."""
    (tmp_path / "closed").mkdir()
    (tmp_path / "secret.pdf").write_bytes(b"%PDF-1.4")
    for name in ("closed", "secret.pdf"):
        (tmp_path / name).chmod(0)

    def run(*arguments: str) -> tuple[int, str]:
        command = [*unprivileged(), sys.executable, "-m", "kobold_reader", *arguments]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8", cwd=tmp_path)
        assert "[Errno" not in ended.stderr
        assert "Traceback" not in ended.stderr
        return ended.returncode, ended.stderr

    try:
        assert run("read", "secret.pdf", "--ledger", "none") == (
            3,
            "kobold-reader: secret.pdf: The file cannot be read (Permission denied).\n",
        )
        for arguments in (
            ["status", "--ledger", "closed/ledger"],
            ["search", "x", "--archive", "closed/archive"],
        ):
            code, said = run(*arguments)
            assert code == 2
            assert f"{arguments[-1]} cannot be used (Permission denied). Name another place" in said
        code, said = run("read", "secret.pdf", "--ledger", "closed/ledger")
        assert code == 2
        assert "the ledger closed/ledger cannot be used (open): Permission denied. Check that its folder" in said
    finally:
        (tmp_path / "closed").chmod(0o700)


@pytest.fixture(name="medium")
def mount_read_only(archive: Path, tmp_path: Path) -> Iterator[Path]:
    point = tmp_path / "medium"
    point.mkdir()
    mount = shutil.which("mount")
    if not mount or subprocess.run([mount, "--bind", archive, point], capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        subprocess.run([mount, "-o", "remount,ro,bind", point], check=True)
        yield point
    finally:
        subprocess.run(["umount", point], check=True)


@pytest.mark.thorough
def test_an_archive_on_a_read_only_medium_is_searched_and_shown(medium: Path, kind: str) -> None:
    check(use(medium, kind), kind)


@pytest.mark.thorough
def test_commands_on_a_read_only_medium(medium: Path, tmp_path: Path) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "kobold_reader", *arguments, "--archive", str(medium)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")
        return ended.returncode, ended.stdout + ended.stderr

    code, found = run("search", "schooner")
    assert (code, "0.pdf" in found, "only" in found) == (0, True, False)
    assert run("status")[0] == 0
    code, said = run("index", str(tmp_path))
    assert code != 0
    assert "read-only here" in said


def leave_log(archive: Path) -> None:
    """Write into the archive as a run does that is killed: what it wrote stands in the log alone."""
    script = (
        "import os, sys, pathlib\n"
        "from kobold_reader.archive.store import Catalog\n"
        "from kobold_reader.reading.ledger import Ledger\n"
        "catalog = Catalog(pathlib.Path(sys.argv[1]) / 'archive.sqlite')\n"
        "catalog.set_meta('planted', 'late')\n"
        "ledger = Ledger(pathlib.Path(sys.argv[1]) / 'ledger.sqlite')\n"
        "ledger._write([(\"INSERT INTO failures VALUES ('late.pdf', 1, 'ocr', '', 'X', 'why', '')\", ())])\n"
        "os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(archive)], check=False).returncode == 9
    for name in ("archive.sqlite", "ledger.sqlite"):
        assert (archive / f"{name}-wal").stat().st_size
        (archive / f"{name}-shm").unlink()  # is not copied by everybody, and cannot be made anew there


def test_what_a_killed_writer_left_in_its_log_is_seen_on_a_read_only_medium(archive: Path, medium: Path) -> None:
    leave_log(archive)
    before = held(archive)
    with closing(Catalog(medium / "archive.sqlite")) as catalog:
        assert catalog.meta("planted") == "late"
        assert isinstance(catalog.db, ReadOnlyDatabase)
        assert catalog.db.copy
        copy = Path(catalog.db.copy.name)
        assert copy.is_dir()
    assert not copy.exists()
    with Ledger(medium / "ledger.sqlite", read_only=True) as ledger:
        assert [failure.uri for failure in ledger.failures()] == ["late.pdf"]
    with Archive.open(medium) as opened:
        assert len(opened.search("schooner", mode="keyword")) == 1
    assert held(archive) == before


def test_an_archive_that_somebody_else_changes_is_seen_as_it_is_now(archive: Path, medium: Path) -> None:
    with closing(Catalog(medium / "archive.sqlite")) as seen, closing(Catalog(archive / "archive.sqlite")) as writer:
        assert not writer.is_read_only
        before = seen.generation
        writer.set_meta("generation", str(before + 7))
        assert seen.generation == before + 7
    for left in archive.glob("archive.sqlite-*"):
        left.unlink()  # the log is empty, and the reader kept the writer from removing it
    with closing(Catalog(medium / "archive.sqlite")) as seen:
        assert isinstance(seen.db, ReadOnlyDatabase)
        assert seen.db.is_frozen, "no log is left"
        with closing(Catalog(archive / "archive.sqlite")) as writer:
            writer.set_meta("generation", "100")
        assert seen.generation == 100
        with pytest.raises(StoreError, match="read-only here"):
            seen.set_meta("generation", "101")


def test_a_file_that_may_not_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError):
        connect_read_only(tmp_path / "none.sqlite")
