"""The examples, with nothing but the local server.

One of them runs as its readers run it, in a process of its own that is watched; the others run in this process, which
no test may let connect to another machine.
"""

from __future__ import annotations

import csv
import io
import json
import os
import runpy
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kobold_reader import MiniLMEmbedding
from tests.conftest import ROOT, SAMPLES, page_text
from tests.kobold_simulator import BrainRequest, KoboldSimulator, ScriptBrain

# A process with Chroma and MiniLM needs seconds to start, on a busy machine many.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

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


Run = Callable[..., tuple[subprocess.CompletedProcess[str], set[str]]]
EXAMPLES = ROOT / "examples"


@pytest.fixture
def run_watched(tmp_path: Path) -> Run:
    """Run a Python file; returns what it did and every address that it or its children looked up or contacted."""
    folder = tmp_path / "watch"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(WATCH, encoding="utf-8")
    seen = folder / "seen.txt"

    def run(*arguments: str, stdin: str = "") -> tuple[subprocess.CompletedProcess[str], set[str]]:
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
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            env=environment,
            cwd=tmp_path,
            timeout=200,
            check=False,
        )
        return done, {line.split()[-1] for line in seen.read_text(encoding="utf-8").splitlines()}

    return run


@dataclass(frozen=True)
class Done:
    """How an example ended."""

    code: int
    out: str
    err: str


Start = Callable[..., Done]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Start]:
    """Run an example in this process, in a folder of its own."""
    from llama_index.core import Settings

    monkeypatch.chdir(tmp_path)
    before = dict(vars(Settings))

    def start(name: str, *arguments: str, stdin: str = "") -> Done:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        code = 0
        try:
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        except SystemExit as end:
            code = 1 if isinstance(end.code, str) else end.code or 0
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        return Done(code, *capsys.readouterr())

    yield start
    vars(Settings).update(before)


def test_the_watch_sees_what_it_must_see(
    run_watched: Run,
) -> None:
    done, contacted = run_watched("-c", "import socket; socket.create_connection(('192.0.2.1', 443), 0.2)")

    assert done.returncode != 0
    assert "PermissionError" in done.stderr
    assert "192.0.2.1" in contacted


@pytest.mark.skipif(not MiniLMEmbedding.available(), reason="MiniLM is not installed")
@pytest.mark.thorough
def test_rag_pipeline(
    make_simulator: Callable[..., KoboldSimulator],
    run_watched: Run,
    run: Start,
) -> None:
    def answer(request: BrainRequest) -> str:
        if request.images:
            return page_text(request)
        return "It has the number 1954/37-b." if "inventory 1954/37-b" in request.prompt else "I do not know."

    simulator = make_simulator(brain=ScriptBrain(answer))
    command = (
        "rag_pipeline.py",
        str(SAMPLES / "letters"),
        "Which number has the inventory of Axel Lindqvist?",
        "--api-url",
        simulator.url,
    )

    done, contacted = run_watched(str(EXAMPLES / command[0]), *command[1:])

    assert done.returncode == 0, done.stderr
    assert "It has the number 1954/37-b." in done.stdout
    assert "3 pages, " in done.stdout
    assert "1954-lindqvist-letter.pdf, page " in done.stdout
    assert contacted == {"127.0.0.1"}
    assert simulator.count() == 3 * 2 + 1, "two tasks a page, and one question"

    again = run(*command)

    assert again.code == 0, again.err
    assert "It has the number 1954/37-b." in again.out
    assert simulator.count() == 3 * 2 + 2, "the pages were kept"


CARD = {
    "number": "1954/37-b",
    "thing": "Boat compass in gimbals",
    "material": "Brass bowl, oak box",
    "received": "3 August 1954",
    "value_kronor": 85,
}


def test_index_cards(make_simulator: Callable[..., KoboldSimulator], run: Start, tmp_path: Path) -> None:
    answers = iter(["The card says 1954/37-b.", json.dumps({"number": "1954/37-b"}), json.dumps(CARD)])
    simulator = make_simulator(brain=ScriptBrain(lambda _: next(answers)))
    command = ("index_cards.py", str(SAMPLES / "scans"), "cards.csv", "--api-url", simulator.url)

    for _ in range(2):
        done = run(*command)

        assert done.code == 0, done.err
        assert done.out == "scan0007.jpg: 1954/37-b, Boat compass in gimbals\n"
        with (tmp_path / "cards.csv").open(encoding="utf-8", newline="") as file:
            (row,) = csv.DictReader(file)
        assert row == {"file": "scan0007.jpg", "page": "1", **CARD, "value_kronor": "85"}
    assert simulator.count() == 3, "no JSON, a field missing, a card; and the second run asked for nothing"
    body = next(request.body for request in simulator.requests if request.path.endswith("/generate"))
    assert set(json.loads(body["grammar"])["properties"]) == set(CARD)
    assert "Copy its fields" in body["prompt"]


def test_photo_collection(make_simulator: Callable[..., KoboldSimulator], run: Start) -> None:
    simulator = make_simulator(brain=ScriptBrain("A rowing boat lies at a wooden jetty before a red boathouse."))
    photos = SAMPLES / "photos"
    start = ("photo_collection.py", str(photos))

    done = run(*start, "rowing boat at a jetty", "--api-url", simulator.url)
    by_picture = run(*start, str(photos / "boathouse 1999.jpg"), "--api-url", simulator.url)

    assert done.code == 0, done.err
    assert "1 photos described now, 1 in all" in done.out
    assert "  boathouse 1999.jpg  1999-07-18" in done.out
    assert by_picture.code == 0, by_picture.err
    assert "Looking for: A rowing boat lies at a wooden jetty before a red boathouse." in by_picture.out
    assert "  boathouse 1999.jpg  " in by_picture.out


def test_chat(make_simulator: Callable[..., KoboldSimulator], run: Start) -> None:
    def answer(request: BrainRequest) -> str:
        if request.images:
            return page_text(request)
        if "Question: Which inventory is it?" in request.prompt:
            return "It is 1954/37-b [1]." if "inventory 1954/37-b" in request.prompt else "I do not know."
        if "Question: Who owns inventory 1954/37-b?" in request.prompt:
            return "Axel Lindqvist [1]."
        assert "Which inventory is it?" in request.prompt, "what was said before"
        assert "And who owns it?" in request.prompt
        return "Who owns inventory 1954/37-b?"

    simulator = make_simulator(brain=ScriptBrain(answer), embeddings_model="nomic-embed")
    command = ("chat.py", str(SAMPLES / "letters"), "--api-url", simulator.url)

    done = run(*command, stdin="Which inventory is it?\nAnd who owns it?\n\n")

    assert done.code == 0, done.err
    assert "It is 1954/37-b [1]." in done.out
    assert "Axel Lindqvist [1]." in done.out
    assert "  [1] 1954-lindqvist-letter.pdf, page " in done.out
    assert simulator.count("/v1/embeddings") >= 3, "pages and questions"


def test_several_servers(make_simulator: Callable[..., KoboldSimulator], run: Start, tmp_path: Path) -> None:
    busy = [threading.Event(), threading.Event()]

    def brain(number: int) -> ScriptBrain:
        def answer(request: BrainRequest) -> str:
            busy[number].set()
            assert busy[1 - number].wait(60), "one waits while the other has nothing to do"
            return page_text(request)

        return ScriptBrain(answer)

    simulators = [make_simulator(brain=brain(0)), make_simulator(brain=brain(1))]
    urls = [word for simulator in simulators for word in ("--api-url", simulator.url)]

    done = run("several_servers.py", str(SAMPLES / "letters"), "pages.jsonl", *urls)

    assert done.code == 0, done.err
    assert done.out == f"{simulators[0].url}, {simulators[1].url}\n3 ok\n"
    lines = (tmp_path / "pages.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["page"] for line in lines] == [1, 2, 3]


def test_resuming(make_simulator: Callable[..., KoboldSimulator], run: Start) -> None:
    simulator = make_simulator()
    start = ("resuming.py", str(SAMPLES / "letters"), "--archive", "kept", "--api-url", simulator.url)

    first = run(*start, "--hours", "1e-9")
    assert first.code == 0, first.err
    assert "3 pages were due, 0 were read" in first.out
    simulator.stop()
    without = run(*start)
    assert without.code == 1
    assert "What was read is kept" in without.err
    simulator.start()
    second = run(*start)
    assert second.out == "3 pages were due, 3 were read; 3 are in the archive\n", second.err
    third = run(*start)

    assert third.out == "0 pages were due, 0 were read; 3 are in the archive\n", third.err
    assert simulator.count() == 3 * 2


NOBODY = "http://127.0.0.1:9"
WITHOUT_SERVER = {
    "chat.py": ("--archive", "a", "--engine", "rapidocr"),
    "index_cards.py": ("cards.csv", "--engine", "rapidocr"),
    "photo_collection.py": ("a boat", "--archive", "a"),
    "ray_archive.py": ("pages.parquet", "--engine", "rapidocr"),
    "resuming.py": ("--archive", "a"),
    "several_servers.py": ("missing/pages.jsonl", "--engine", "rapidocr"),
}


@pytest.mark.parametrize("name", WITHOUT_SERVER)
def test_an_example_that_cannot_go_on_says_so_in_a_sentence(run: Start, name: str) -> None:
    if name == "ray_archive.py":
        pytest.importorskip("ray", reason="the extra `ray` is not installed")
    done = run(name, str(SAMPLES / "photos"), *WITHOUT_SERVER[name], "--api-url", NOBODY)
    assert done.code == 1
    assert "Traceback" not in done.err
    assert len(done.err.strip().splitlines()) <= 3, "a sentence, and warnings of the library"


@pytest.mark.skipif(not MiniLMEmbedding.available(), reason="MiniLM is not installed")
@pytest.mark.thorough
def test_rag_pipeline_without_a_server_names_the_pages(run_watched: Run) -> None:
    question = [str(SAMPLES / "scans"), "Who owns it?", "--engine", "rapidocr", "--api-url", NOBODY]
    done, _ = run_watched(str(EXAMPLES / "rag_pipeline.py"), *question)
    assert done.returncode == 0, done.stderr
    assert "Nobody answers, but these pages were found: " in done.stdout
    assert "scan0007.jpg, page 1: " in done.stdout


def test_the_samples_maker_has_a_help(run: Start) -> None:
    done = run("make_samples.py", "--help")
    assert done.code == 0
    assert done.out.startswith("usage: make_samples.py")


@pytest.mark.thorough
def test_ray_archive(make_simulator: Callable[..., KoboldSimulator], tmp_path: Path) -> None:
    """Without the watch: a cluster's own processes meet at this machine's address."""
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    servers = [make_simulator(brain=ScriptBrain("Axel Lindqvist")) for _ in range(2)]
    urls = [word for server in servers for word in ("--api-url", server.url)]
    command = [sys.executable, str(EXAMPLES / "ray_archive.py"), str(SAMPLES / "letters"), "pages.parquet", *urls]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "3 pages indexed, 0 errors" in done.stdout
    assert "3 rows in pages.parquet" in done.stdout
    assert list((tmp_path / "pages.parquet").iterdir())


def test_every_example_is_short_run_here_and_in_the_docs() -> None:
    docs = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    tested = Path(__file__).read_text(encoding="utf-8")
    for path in EXAMPLES.glob("*.py"):
        if path.name != "make_samples.py":
            assert len(path.read_text(encoding="utf-8").splitlines()) < 70
            assert f'"{path.name}"' in tested
            assert f"(../examples/{path.name})" in docs
