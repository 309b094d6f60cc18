"""Nothing leaves this machine but to the server that was named, and nothing is written where nobody expects it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from kobold_reader.embeddings import MiniLMEmbedding
from tests.conftest import LETTER, ROOT, SAMPLES
from tests.kobold_simulator import KoboldSimulator

pytestmark = pytest.mark.slow

RECEIPT = SAMPLES / "receipts" / "1987-05-12 chandler.jpg"

WATCH = '''
"""Imported by every Python that is started with this folder on its path, before anything else."""
import json, os, sys

_log = os.open(os.environ["WATCH_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
_EVENTS = {"socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"}


def _note(event, *what):
    os.write(_log, (json.dumps([event, os.getpid(), *map(str, what)]) + "\\n").encode())


def _watch(event, arguments):
    if event.startswith("socket.") and event in _EVENTS:
        _note(event, *(arguments if event == "socket.getaddrinfo" else arguments[1:] or arguments))


_note("started", *sys.orig_argv)
sys.addaudithook(_watch)
'''

RUN = """
import sys
from kobold_reader.cli import app as cli
from kobold_reader.cli.typer_app import app
import json
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["kobold-reader", *arguments]
    assert cli.run(app) == 0, arguments
"""


@dataclass(frozen=True)
class Watched:
    """What a process and its children did."""

    out: str
    events: list[list[str]]

    def addresses(self) -> set[tuple[str, int]]:
        """Everything that was looked up or connected to."""
        found = set()
        for event, _pid, *what in self.events:
            if event in {"socket.connect", "socket.sendto"}:
                host, port = json.loads(what[0].replace("(", "[").replace(")", "]").replace("'", '"'))[:2]
                found.add((host, port))
            elif event.startswith("socket."):
                found.add((what[0], int(what[1])))
        return found


Watch = Callable[..., Watched]


@pytest.fixture
def watched(tmp_path: Path, home: Path) -> Watch:
    """Run commands in one process, in a home and a temporary folder of their own."""
    folder = tmp_path / "watch"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(WATCH, encoding="utf-8")
    (tmp_path / "tmp").mkdir()
    (tmp_path / "work").mkdir()
    log = folder / "log"

    def run(*commands: list[Any], **environment: str) -> Watched:
        log.unlink(missing_ok=True)
        arguments = json.dumps([[str(part) for part in command] for command in commands])
        done = subprocess.run(
            [sys.executable, "-c", RUN, arguments],
            capture_output=True,
            check=False,
            timeout=100,
            cwd=tmp_path / "work",
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
                "PYTHONDONTWRITEBYTECODE": "1",
                "WATCH_LOG": str(log),
                "XDG_CACHE_HOME": str(home / ".cache"),
                **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(tmp_path / "tmp")),
                **environment,
            },
        )
        assert done.returncode == 0, done.stderr.decode("utf-8")
        return Watched(done.stdout.decode("utf-8"), [json.loads(line) for line in log.read_text().splitlines()])

    return run


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def folders_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_dir()}


def place(server: KoboldSimulator) -> tuple[str, int]:
    parts = urlsplit(server.url)
    assert parts.hostname
    assert parts.port
    return parts.hostname, parts.port


def test_the_watch_sees_what_it_is_for(watched: Watch, simulator: KoboldSimulator) -> None:
    """The proof below would be worth nothing if a connection went unseen."""
    seen = watched(["doctor", "--no-self-test", "--api-url", simulator.url])
    assert seen.addresses() == {place(simulator)}


def test_only_the_server_named_is_contacted_and_only_our_own_places_are_written(
    watched: Watch,
    simulator: KoboldSimulator,
    make_simulator: Callable[..., KoboldSimulator],
    tmp_path: Path,
    home: Path,
) -> None:
    proxy = make_simulator()
    (home / ".netrc").write_text("machine 127.0.0.1 login somebody password from-netrc\n", encoding="utf-8")
    (home / ".netrc").chmod(0o600)
    archive = tmp_path / "archive"
    before = files_below(home)

    seen = watched(
        ["read", LETTER, "--pages", "1-2"],
        ["index", LETTER.parent, "--archive", archive],
        ["search", "who wrote about the inventory?", "--archive", archive, "--json"],
        KOBOLD_READER_URL=simulator.url,
        **{
            variant: proxy.url
            for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
            for variant in (name, name.lower())
        },
    )

    assert '"file_name": "1954-lindqvist-letter.pdf"' in seen.out, "all three did their work"
    assert simulator.count() == 6
    started = [" ".join(event[2:]) for event in seen.events if event[0] == "started"]
    assert any("kobold_reader.pages.worker" in command for command in started), "the page child is watched too"

    # Where it spoke to, and what it said.
    assert seen.addresses() == {place(simulator)}
    assert proxy.requests == []
    assert all("authorization" not in request.headers for request in simulator.requests), "~/.netrc is not followed"
    told = "".join(f"{request.path}{request.headers}{request.body}" for request in simulator.requests)
    assert "sk-must-never-be-used" not in told
    assert str(LETTER.parent) not in told
    assert LETTER.stem not in told, "not even the file's name is told"

    # What it wrote.
    new = files_below(home) - before
    ours = {"data/kobold-reader/", ".cache/kobold-reader/"}
    assert {name for name in new if not any(name.startswith(prefix) for prefix in ours)} == set()
    assert "data/kobold-reader/ledger.sqlite" in new
    assert {name.split("/")[0] for name in folders_below(home)} <= {"data", ".cache"}
    assert {path.name for path in (home / ".cache").iterdir()} <= {"kobold-reader"}
    assert files_below(tmp_path / "work") == set()
    assert files_below(tmp_path / "tmp") == set(), "no page is left in the temporary folder"
    assert (archive / "archive.sqlite").is_file()
    if MiniLMEmbedding.available():
        assert (archive / "chroma" / "chroma.sqlite3").is_file()


def test_a_search_contacts_nobody(watched: Watch, simulator: KoboldSimulator, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    watched(["index", LETTER, "--pages", "1", "--archive", archive, "--api-url", simulator.url])
    asked = len(simulator.requests)

    seen = watched(
        ["search", "inventory", "--archive", archive],
        ["status", "--archive", archive],
        ["forget", LETTER, "--archive", archive],
        KOBOLD_READER_URL=simulator.url,
    )

    assert "1954-lindqvist-letter.pdf, page 1" in seen.out
    assert seen.addresses() == set()
    assert len(simulator.requests) == asked


def test_reading_without_a_server_contacts_nobody(watched: Watch, tmp_path: Path, home: Path) -> None:
    pytest.importorskip("rapidocr")
    seen = watched(["read", RECEIPT, "--engine", "rapidocr", "--ledger", tmp_path / "ledger.sqlite"])
    assert "page 1 (ok)" in seen.out
    assert seen.addresses() == set()
    assert files_below(home) == set(), "no model was downloaded, no telemetry noted"
    assert files_below(tmp_path / "tmp") == set()
