"""Nothing leaves this machine but to the server that was named, and nothing is written where nobody expects it."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from typing_extensions import override

from kobold_reader import KoboldReader
from kobold_reader.embeddings import MiniLMEmbedding
from tests.conftest import LETTER, ROOT, SAMPLES
from tests.kobold_simulator import KoboldSimulator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

RECEIPT = SAMPLES / "receipts" / "1987-05-12 chandler.jpg"

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
        if not path.endswith("?mode=ro") and not (event == "os.mkdir" and os.path.isdir(path)):
            _note("write", os.path.abspath(path))


_note("started", *sys.orig_argv)
sys.addaudithook(_watch)
'''

RUN = """
import sys
from kobold_reader.cli import app as cli
import json
commands, code = json.loads(sys.argv[1]), int(sys.argv[2])
for arguments in commands:
    sys.argv = ["kobold-reader", *arguments]
    assert cli.run() == code, arguments
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

    def written(self) -> set[Path]:
        """Everything that was opened for writing, made, or renamed to; SQLite's files when they were opened."""
        return {Path(what[0]) for event, _pid, *what in self.events if event == "write"}


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

    def run(*commands: list[Any], code: int = 0, **environment: str) -> Watched:
        log.unlink(missing_ok=True)
        arguments = json.dumps([[str(part) for part in command] for command in commands])
        done = subprocess.run(
            [sys.executable, "-c", RUN, arguments, str(code)],
            capture_output=True,
            check=False,
            timeout=280,
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


def test_every_command_writes_in_its_own_places_only(
    watched: Watch, simulator: KoboldSimulator, tmp_path: Path, home: Path
) -> None:
    """The places given, the ledger's, the cache's and the temporary folder: nothing else is opened for writing."""
    given = [tmp_path / name for name in ("archive", "demo", "pages.jsonl")]
    scans = tmp_path / "scans"
    scans.mkdir()
    (scans / "letter.pdf").write_bytes(LETTER.read_bytes())
    before = files_below(tmp_path)

    seen = watched(
        ["doctor", "--no-self-test"],
        ["read", scans, "--pages", "1", "--format", "jsonl", "-o", given[2]],
        ["index", scans, "--pages", "1-2", "--archive", given[0]],
        ["status", "--archive", given[0]],
        ["status"],
        ["search", "inventory", "--archive", given[0]],
        ["forget", scans, "--archive", given[0]],
        ["demo", "--folder", given[1]],
        KOBOLD_READER_URL=simulator.url,
    )

    assert seen.addresses() == {place(simulator)}
    # What goes to a file is written beside it, and renamed when it is whole.
    allowed = [
        *given,
        tmp_path / "pages.jsonl.part",
        home / "data" / "kobold-reader",
        home / ".cache" / "kobold-reader",
        tmp_path / "tmp",
    ]
    devices = {Path(os.devnull), Path("/dev/tty")}
    strange = {
        path
        for path in seen.written() - devices
        if not any(path.is_relative_to(one) for one in allowed)
        and path not in {folder for one in allowed for folder in one.parents}  # made where they were missing
    }
    assert strange == set()
    assert {given[0] / "archive.sqlite", given[2]} <= seen.written(), "the watch sees what is written"
    # Chroma writes past Python: what lies there in the end tells.
    new = {tmp_path / name for name in files_below(tmp_path) - before - {"watch/log"}}
    assert {path for path in new if not any(path.is_relative_to(one) for one in allowed)} == set()
    assert files_below(tmp_path / "tmp") == set()


def test_a_redirect_leads_nowhere(watched: Watch, simulator: KoboldSimulator, tmp_path: Path) -> None:
    """Not even when it leads to another KoboldCpp that would read the page."""

    class Elsewhere(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(307)
            self.send_header("Location", simulator.url + self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_GET  # noqa: N815

        @override
        def log_message(self, format: str, *arguments: Any) -> None:
            """Quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        seen = watched(["read", RECEIPT, "--api-url", url, "--ledger", tmp_path / "l.sqlite"], code=4)
        server.shutdown()
        thread.join()
    assert seen.addresses() == {("127.0.0.1", server.server_address[1])}
    assert simulator.requests == []


def test_a_public_server_is_announced(caplog: pytest.LogCaptureFixture) -> None:
    for url in ("https://kobold.example.org", "http://127.0.0.1:5001", "http://192.168.1.5:5001"):
        KoboldReader(api_url=url).session.engine()
    assert [record.getMessage() for record in caplog.records] == [
        "the pages are sent to https://kobold.example.org, which is neither this machine nor in a private network"
    ]


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
