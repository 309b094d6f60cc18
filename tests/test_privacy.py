"""Nothing leaves this machine but to the server that was named, and nothing is written where nobody expects it.

All commands run once, one after another in one watched process; the tests look at the record of it.
"""

from __future__ import annotations

import http.server
import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image
from typing_extensions import override

from kobold_reader import KoboldReader
from kobold_reader.embeddings import MiniLMEmbedding
from tests.conftest import LETTER, ROOT, SAMPLES, page_text
from tests.kobold_simulator import KoboldSimulator, ScriptBrain

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

RECEIPT = SAMPLES / "receipts" / "1987-05-12 chandler.jpg"
HAS_RAPIDOCR = importlib.util.find_spec("rapidocr") is not None

WATCH = '''
"""Imported by every Python that is started with this folder on its path, before anything else."""
import json, os, sys

_log = os.open(os.environ["WATCH_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
_EVENTS = {"socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"}
_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_MADE = {"os.mkdir": 0, "os.rename": 1, "os.link": 1, "os.symlink": 1, "sqlite3.connect": 0}


def _note(event, *what):
    os.write(_log, (json.dumps([event, os.getpid(), *map(str, what)]) + "\\n").encode())


def _watch(event, arguments):
    if event.startswith("socket.") and event in _EVENTS:
        _note(event, *(arguments if event == "socket.getaddrinfo" else arguments[1:] or arguments))
    elif event == "open" and isinstance(arguments[0], (str, bytes)) and (arguments[2] or 0) & _WRITE:
        _note("write", os.path.abspath(os.fsdecode(arguments[0])))
    elif event in _MADE and isinstance(arguments[_MADE[event]], (str, bytes, os.PathLike)):
        path = os.fsdecode(arguments[_MADE[event]])
        if path != ":memory:" and not path.endswith("?mode=ro") and not (event == "os.mkdir" and os.path.isdir(path)):
            _note("write", os.path.abspath(path))


_note("started", *sys.orig_argv)
sys.addaudithook(_watch)
'''

RUN = """
import json, sys
import sitecustomize
from kobold_reader.cli import app as cli

for name, code, arguments in json.loads(sys.argv[1]):
    sitecustomize._note("command", name)
    print("command", name)
    sys.argv = ["kobold-reader", *arguments]
    assert cli.run() == code, arguments
"""

Address = tuple[str, int]


@dataclass(frozen=True)
class Watched:
    """What the commands and their children did, by the command's name."""

    place: Path
    server: KoboldSimulator
    proxy: KoboldSimulator
    elsewhere: Address
    out: dict[str, str]
    events: dict[str, list[list[str]]]

    @property
    def home(self) -> Path:
        return self.place / "home"

    def addresses(self, name: str) -> set[Address]:
        """Everything that a command looked up or connected to."""
        found = set()
        for event, _pid, *what in self.events[name]:
            if event in {"socket.connect", "socket.sendto"}:
                host, port = json.loads(what[0].replace("(", "[").replace(")", "]").replace("'", '"'))[:2]
                found.add((host, port))
            elif event.startswith("socket."):
                found.add((what[0], int(what[1])))
        return found

    def written(self) -> set[Path]:
        """Everything that was opened for writing, made, or renamed to; SQLite's files when they were opened."""
        every = [event for events in self.events.values() for event in events]
        return {Path(what[0]) for event, _pid, *what in every if event == "write"}


class Redirecting(http.server.BaseHTTPRequestHandler):
    """Sends everything on to another KoboldCpp, which would read the page."""

    target = ""

    def do_GET(self) -> None:
        self.send_response(307)
        self.send_header("Location", self.target + self.path)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET  # noqa: N815

    @override
    def log_message(self, format: str, *arguments: Any) -> None:
        """Quiet."""


@contextmanager
def redirecting(target: str) -> Iterator[Address]:
    handler = type("Handler", (Redirecting,), {"target": target})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield "127.0.0.1", server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def koboldcpp() -> KoboldSimulator:
    return KoboldSimulator(brain=ScriptBrain(page_text), model="Qwen2.5-VL-7B-Instruct-Q4_K_M")


def run_watched(place: Path, commands: list[tuple[str, int, list[str]]], server: str, proxy: str) -> tuple[str, str]:
    """Run commands in one process, in a home and a temporary folder of their own; what it printed, and the record."""
    home = place / "home"
    for folder in ("watch", "tmp", "work", "home"):
        (place / folder).mkdir()
    (home / ".netrc").write_text("machine 127.0.0.1 login somebody password from-netrc\n", encoding="utf-8")
    (home / ".netrc").chmod(0o600)
    (place / "watch" / "sitecustomize.py").write_text(WATCH, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(commands)],
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=280,
        cwd=place / "work",
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("KOBOLD_READER_")},
            **dict.fromkeys(("HOME", "USERPROFILE"), str(home)),
            **dict.fromkeys(("XDG_DATA_HOME", "LOCALAPPDATA", "APPDATA"), str(home / "data")),
            "XDG_CACHE_HOME": str(home / ".cache"),
            **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(place / "tmp")),
            "PYTHONPATH": os.pathsep.join([str(place / "watch"), str(ROOT)]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONIOENCODING": "utf-8",
            "OPENAI_API_KEY": "sk-must-never-be-used",
            "WATCH_LOG": str(place / "watch" / "log"),
            "KOBOLD_READER_URL": server,
            **{
                variant: proxy
                for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
                for variant in (name, name.lower())
            },
        },
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, (place / "watch" / "log").read_text(encoding="utf-8")


def record(log: str) -> dict[str, list[list[str]]]:
    """What was noted, by the command that ran."""
    events: dict[str, list[list[str]]] = {}
    name = "start"
    for event in map(json.loads, log.splitlines()):
        if event[0] == "command":
            name = event[2]
        events.setdefault(name, []).append(event)
    return events


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """The record of all commands, with a proxy in the environment and a ~/.netrc."""
    place = tmp_path_factory.mktemp("place")
    scans, archive = place / "scans", place / "archive"
    scans.mkdir()
    (scans / LETTER.name).write_bytes(LETTER.read_bytes())
    with koboldcpp() as server, koboldcpp() as proxy, redirecting(server.url) as elsewhere:
        moved = f"http://{elsewhere[0]}:{elsewhere[1]}"
        commands: list[tuple[str, int, list[Any]]] = [
            ("doctor", 0, ["doctor", "--no-self-test"]),
            ("read", 0, ["read", scans, "--pages", "1", "--format", "jsonl", "-o", place / "pages.jsonl"]),
            ("index", 0, ["index", scans, "--archive", archive, "--pages", "1-2", "--witness", "none"]),
            ("status", 0, ["status", "--archive", archive]),
            ("ledger", 0, ["status"]),
            ("search", 0, ["search", "who wrote about the inventory?", "--archive", archive, "--json"]),
            ("forget", 0, ["forget", scans, "--archive", archive]),
            ("redirected", 4, ["read", RECEIPT, "--api-url", moved, "--ledger", "none"]),
        ]
        if HAS_RAPIDOCR:
            with Image.open(RECEIPT) as receipt:
                receipt.crop((0, 0, receipt.width, receipt.height // 6)).save(place / "head.png")
            commands.append(("rapidocr", 0, ["read", place / "head.png", "--engine", "rapidocr", "--ledger", "none"]))
        plain = [(name, code, [str(part) for part in parts]) for name, code, parts in commands]
        printed, log = run_watched(place, plain, server.url, proxy.url)
        out = {}
        for piece in printed.split("command ")[1:]:
            name, _, said = piece.partition("\n")
            out[name] = said
        yield Watched(place, server, proxy, elsewhere, out, record(log))


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def elsewhere(written: set[Path], allowed: list[Path]) -> set[Path]:
    """What was written outside of the folders allowed, less the folders above them, made where they were missing."""
    fine = {Path(os.devnull), Path("/dev/tty"), *(folder for one in allowed for folder in one.parents)}
    return {path for path in written - fine if not any(path.is_relative_to(one) for one in allowed)}


def folders_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_dir()}


def place_of(server: KoboldSimulator) -> Address:
    parts = urlsplit(server.url)
    assert parts.hostname
    assert parts.port
    return parts.hostname, parts.port


def test_the_watch_sees_what_it_is_for(watched: Watched) -> None:
    """The proofs below would be worth nothing if a connection, a file or the page child went unseen."""
    assert watched.addresses("doctor") == {place_of(watched.server)}
    assert {watched.place / "archive" / "archive.sqlite", watched.place / "pages.jsonl"} <= watched.written()
    started = [" ".join(event[2:]) for event in watched.events["read"] if event[0] == "started"]
    assert any("kobold_reader.pages.worker" in command for command in started)
    assert '"file_name": "1954-lindqvist-letter.pdf"' in watched.out["search"], "all commands did their work"
    assert watched.server.count() == 4


@pytest.mark.parametrize("command", ["start", "doctor", "read", "index", "status", "ledger"])
def test_only_the_server_named_is_contacted(watched: Watched, command: str) -> None:
    assert watched.addresses(command) <= {place_of(watched.server)}
    assert watched.proxy.requests == []


@pytest.mark.parametrize("command", ["status", "ledger", "search", "forget"])
def test_what_needs_no_server_contacts_nobody(watched: Watched, command: str) -> None:
    assert watched.addresses(command) == set()


def test_a_redirect_leads_nowhere(watched: Watched) -> None:
    """Not even when it leads to another KoboldCpp that would read the page."""
    assert watched.addresses("redirected") == {watched.elsewhere}


@pytest.mark.skipif(not HAS_RAPIDOCR, reason="RapidOCR is not installed")
def test_reading_without_a_server_contacts_nobody(watched: Watched) -> None:
    assert "page 1 (ok)" in watched.out["rapidocr"]
    assert watched.addresses("rapidocr") == set()


def test_the_server_is_told_no_name_and_no_secret(watched: Watched) -> None:
    requests = watched.server.requests
    assert all("authorization" not in request.headers for request in requests), "~/.netrc is not followed"
    told = "".join(f"{request.path}{request.headers}{request.body}" for request in requests)
    assert "sk-must-never-be-used" not in told
    assert str(watched.place) not in told
    assert LETTER.stem not in told, "not even the file's name is told"


def test_every_command_writes_in_its_own_places_only(watched: Watched) -> None:
    """The places given, the ledger's, the cache's and the temporary folder: nothing else is opened for writing."""
    given = [watched.place / name for name in ("archive", "pages.jsonl")]
    # What goes to a file is written beside it, and renamed when it is whole.
    allowed = [
        *given,
        watched.place / "pages.jsonl.part",
        watched.home / "data" / "kobold-reader",
        watched.home / ".cache" / "kobold-reader",
        watched.place / "tmp",
    ]
    assert elsewhere(watched.written(), allowed) == set()
    # Chroma and RapidOCR write past Python: what lies there in the end tells.
    before = {"watch/log", "watch/sitecustomize.py", "home/.netrc", "head.png", f"scans/{LETTER.name}"}
    new = {watched.place / name for name in files_below(watched.place) - before}
    assert {path for path in new if not any(path.is_relative_to(one) for one in allowed)} == set()
    assert {name.split("/")[0] for name in folders_below(watched.home)} <= {"data", ".cache"}
    assert watched.home / "data" / "kobold-reader" / "ledger.sqlite" in new
    assert files_below(watched.place / "tmp") == set(), "no page is left in the temporary folder"
    if MiniLMEmbedding.available():
        assert watched.place / "archive" / "chroma" / "chroma.sqlite3" in new


def test_a_public_server_is_announced(caplog: pytest.LogCaptureFixture) -> None:
    for url in ("https://kobold.example.org", "http://127.0.0.1:5001", "http://192.168.1.5:5001"):
        KoboldReader(api_url=url).session.engine()
    assert [record.getMessage() for record in caplog.records] == [
        "the pages are sent to https://kobold.example.org, which is neither this machine nor in a private network"
    ]


@pytest.mark.thorough
def test_the_demo_writes_in_its_own_places_only(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    with koboldcpp() as server, koboldcpp() as proxy:
        demo = [("demo", 0, ["demo", "--folder", str(place / "demo")])]
        _, log = run_watched(place, demo, server.url, proxy.url)
        seen = Watched(place, server, proxy, place_of(server), {}, record(log))
    assert seen.addresses("demo") == {place_of(server)}
    home = [seen.home / part / "kobold-reader" for part in ("data", ".cache")]
    assert elsewhere(seen.written(), [place / "demo", place / "tmp", *home]) == set()
    assert files_below(place / "tmp") == set()
