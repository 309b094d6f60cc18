"""The examples, run as their readers run them: in a process of their own, with nothing but the local server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kobold_reader import MiniLMEmbedding
from tests.conftest import ROOT, SAMPLES, page_text
from tests.kobold_simulator import BrainRequest, KoboldSimulator, ScriptBrain

pytestmark = pytest.mark.slow

WATCH = '''\
"""Imported by every Python that starts: writes down, and refuses, connections to elsewhere."""

import os
import sys


def watch(event, arguments):
    if event in ("socket.connect", "socket.sendto"):
        address = arguments[1]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        address = arguments[0]
    else:
        return
    host = address[0] if isinstance(address, tuple) else address
    with open(os.environ["WATCH_FILE"], "a") as file:
        print(event, host, file=file)
    if host not in ("127.0.0.1", "::1", "localhost"):
        raise PermissionError(f"{event} to {host}")


sys.addaudithook(watch)
'''


@pytest.fixture
def run_watched(tmp_path: Path) -> Callable[..., tuple[subprocess.CompletedProcess[str], set[str]]]:
    """Run a Python file; returns what it did and every address that it or its children looked up or contacted."""
    folder = tmp_path / "watch"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(WATCH, encoding="utf-8")
    seen = folder / "seen.txt"

    def run(*arguments: str) -> tuple[subprocess.CompletedProcess[str], set[str]]:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
            "PYTHONWARNINGS": "error::UserWarning",
            "WATCH_FILE": str(seen),
        }
        assert environment["OPENAI_API_KEY"], "the temptation must be there"
        seen.write_text("", encoding="utf-8")
        done = subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            encoding="utf-8",
            env=environment,
            cwd=tmp_path,
            timeout=100,
            check=False,
        )
        return done, {line.split()[-1] for line in seen.read_text(encoding="utf-8").splitlines()}

    return run


def test_the_watch_sees_what_it_must_see(
    run_watched: Callable[..., tuple[subprocess.CompletedProcess[str], set[str]]],
) -> None:
    done, contacted = run_watched("-c", "import socket; socket.create_connection(('192.0.2.1', 443), 0.2)")

    assert done.returncode != 0
    assert "PermissionError" in done.stderr
    assert "192.0.2.1" in contacted


@pytest.mark.slow
@pytest.mark.skipif(not MiniLMEmbedding.available(), reason="MiniLM is not installed")
def test_rag_pipeline(
    make_simulator: Callable[..., KoboldSimulator],
    run_watched: Callable[..., tuple[subprocess.CompletedProcess[str], set[str]]],
) -> None:
    def answer(request: BrainRequest) -> str:
        if request.images:
            return page_text(request)
        return "It has the number 1954/37-b." if "inventory 1954/37-b" in request.prompt else "I do not know."

    simulator = make_simulator(brain=ScriptBrain(answer))
    command = (
        str(ROOT / "examples" / "rag_pipeline.py"),
        str(SAMPLES / "letters"),
        "Which number has the inventory of Axel Lindqvist?",
        "--api-url",
        simulator.url,
    )

    done, contacted = run_watched(*command)

    assert done.returncode == 0, done.stderr
    assert "It has the number 1954/37-b." in done.stdout
    assert "3 pages, " in done.stdout
    assert "1954-lindqvist-letter.pdf, page " in done.stdout
    assert contacted == {"127.0.0.1"}
    assert simulator.count() == 3 * 2 + 1, "two tasks a page, and one question"

    again, contacted = run_watched(*command)

    assert again.returncode == 0, again.stderr
    assert "It has the number 1954/37-b." in again.stdout
    assert contacted == {"127.0.0.1"}
    assert simulator.count() == 3 * 2 + 2, "the pages were kept"
