"""Every message that a user can cause: what happened in plain words, and the option to type."""

from __future__ import annotations

import functools
import http.server
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from kobold_reader import Archive, KoboldReader
from kobold_reader.cli import app as cli
from kobold_reader.cli.commands.search import wrapped
from kobold_reader.cli.output import harmless
from kobold_reader.errors import quoted
from tests import page_files as make
from tests.kobold_simulator import KoboldSimulator, ScriptBrain
from tests.test_cli import HUSH, draw_pages

DEAD = "http://127.0.0.1:9"

Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the wrong inputs are made of, and an archive of words of one born-digital page."""
    root = tmp_path_factory.mktemp("messages")
    (root / "ok").mkdir()
    (root / "ok" / "minutes.pdf").write_bytes(make.pdf(functools.partial(make.text_on, lines=20)))
    (root / "locked.pdf").write_bytes(make.locked_pdf(user="key"))
    draw_pages(root / "scans" / "one.tif", ["a scanned page"])
    (root / "movies").mkdir()
    (root / "movies" / "film.mov").write_bytes(b"film")
    (root / "none").mkdir()
    (root / "a file").write_text("hello", encoding="utf-8")
    (root / "other").mkdir()
    (root / "other" / "archive.sqlite").write_text("no database " * 200, encoding="utf-8")
    (root / "other.sqlite").mkdir()
    with closing(sqlite3.connect(root / "other.sqlite" / "archive.sqlite")) as database:
        database.execute("CREATE TABLE mail (subject TEXT)")
    with Archive.open(root / "archive", create=True, embedder="none") as archive:
        archive.sync(root / "ok", reader=KoboldReader(text_layer="only", ledger="none"))
    Archive.open(root / "empty archive", create=True, embedder="none").close()
    return root


@pytest.fixture(scope="module")
def web_server(folder: Path) -> Iterator[str]:
    """What `python -m http.server` starts."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        @override
        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process, in the folder; return the exit code and everything said."""
    monkeypatch.chdir(folder)

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["kobold-reader", *map(str, arguments)])
        capsys.readouterr()
        code = cli.run()
        said = "".join(capsys.readouterr())
        for never in ("Traceback", "Value error", "Input should", "<html", "<!DOCTYPE", "[Errno", "file://"):
            assert never not in said
        return code, said

    return run


def words(line: str) -> list[str]:
    """Split at blanks; `_` stands for a blank inside a word."""
    return ["" if word == "EMPTY" else word.replace("_", " ") for word in line.split()]


SEARCH, READ, INDEX = "search dues --archive archive", "read ok", "index ok --archive archive"
WRONG = [
    # typed, exit code, what must be said
    ("serch x", 2, "'search'"),
    ("read", 2, "PATH"),
    ("read ok --foo", 2, "--help"),
    (f"{SEARCH} --mode fuzzy", 2, "'hybrid', 'dense', 'keyword'"),
    (f"{SEARCH} -k 0", 2, "'-k': it must be 1 or more"),
    (f"{SEARCH} -k many", 2, "'-k': it must be a whole number"),
    (f"{SEARCH} --by page", 2, "'file', 'folder'"),
    (f"{SEARCH} --where author", 2, "--where: 'author' is not a condition; write KEY=VALUE"),
    (f"{SEARCH} --where author=x", 2, "--where: no page has 'author'; the keys are file"),
    (f"{SEARCH} --where file-size=9..3", 2, "--where: 'file-size=9..3' is not a condition"),
    (f"{SEARCH} --where total=9..3", 2, "--where: 'total=9..3': the range runs backwards; write total=3..9."),
    (f"{SEARCH} --since yesterday", 2, "--since: 'yesterday' is not a date; write 1954, 1954-03 or 1954-03-12."),
    (f"{SEARCH} --until 31.12.1899", 2, "--until: '31.12.1899' is not a date; write"),
    (f"{SEARCH} --since 1950 --until 1940", 2, "--since: '1950' is later than '1940'"),
    (f"{SEARCH} --in nowhere", 2, "--in: no page is in 'nowhere'; the folders are ok"),
    ("search EMPTY --archive archive", 2, "the query is empty. Give a word"),
    ("search dues", 2, "--archive"),
    ("search dues --archive nothing", 2, "kobold-reader index PATH --archive nothing"),
    ("search dues --archive a_file", 2, "a file is a file, and an archive is a folder. Name a folder with --archive."),
    ("search dues --archive other", 2, "made by another program. Name another folder with --archive."),
    ("search dues", 2, "name the archive's folder with --archive DIR, or in the variable KOBOLD_READER_ARCHIVE."),
    ("search x --archive no_where", 2, f"kobold-reader index PATH {quoted(['--archive', 'no where'])}"),
    ("search harbour dues --archive empty_archive", 0, "is empty. Add files with: kobold-reader index PATH --archive"),
    (f"{READ} --pages x", 2, "--pages: 'x' is not a page range; write 7, 1-3,7 or 10-"),
    (f"{READ} --pages 0", 2, "--pages: '0' is not a page range: pages count from 1"),
    (f"{READ} --pages 5-3", 2, "--pages: '5-3' is not a page range: a range runs forwards"),
    (f"{READ} --pages 99", 0, "--pages 99: none of the 1 file has such a page"),
    (f"{READ} --sample 0", 2, "'--sample': it must be 1 or more"),
    (f"{READ} --tasks ocr,sing", 2, "--tasks: 'sing' is not a task; the tasks are ocr, caption, tags."),
    (f"{READ} --prompt sing=a_file", 2, "--prompt: 'sing' is not a task"),
    (f"{READ} --engine tesseract", 2, "'koboldcpp', 'rapidocr'"),
    (f"{READ} --rotate 45", 2, "'90'"),
    (f"{READ} --stop-after soon", 2, "write 7h, 90m or 300s"),
    (f"{READ} --page-timeout never", 2, "'--page-timeout': it must be a number"),
    (f"{READ} --ledger a_file", 2, "--ledger"),
    (f"{READ} -o none", 2, "Name a file with -o"),
    ("read nothing.pdf", 3, "kobold-reader: nothing.pdf: There is no such file or folder."),
    ("read ./ok/*.tif", 3, "kobold-reader: ./ok/*.tif: No file matches this pattern."),
    ("plan nothing", 3, "kobold-reader: nothing: There is no such file or folder."),
    ("index nothing --archive new", 3, "kobold-reader: nothing: There is no such file or folder."),
    ("index none --archive new", 3, "nothing to read: no files there. Supported: PDF"),
    ("index movies --archive new", 3, "nothing to read: 1 file there, none of a supported kind. Supported: PDF"),
    ("read movies/film.mov", 3, "kobold-reader: movies/film.mov: This kind of file is not supported. Supported: PDF"),
    ("read locked.pdf", 3, "--pdf-password"),
    ("read locked.pdf --pdf-password wrong", 3, "None of the passwords given opens this PDF."),
    (
        "index locked.pdf --archive new --embedder none",
        3,
        "1 file: 1 new, 1 that cannot be opened; no page has new text",
    ),
    (f"{INDEX} --embedder minilm", 2, "Leave --embedder out"),
    ("index ok --archive a_file", 2, "Name a folder with --archive."),
    ("index ok --archive other", 2, "Name another folder with --archive."),
    ("index ok --archive other.sqlite", 2, "was made by another program, not by kobold-reader. Name another folder"),
    ("index ok --archive new --chroma-url x", 2, "--chroma-url names no Chroma server"),
    ("index --archive nothing", 2, "kobold-reader index PATH --archive nothing"),
    (
        "export archive --archive archive",
        2,
        "archive is in the folder of an archive. Name a folder that is in no archive",
    ),
    ("export archive/texts --archive archive", 2, "archive/texts is in the folder of an archive"),
    ("export a_file --archive archive", 2, "Name a folder to export to."),
    ("export x --archive archive --to docx", 2, "'md', 'txt', 'jsonl'"),
    ("import nothing --archive archive", 3, "nothing: there is no such file or folder."),
    ("import none --archive archive", 3, "`kobold-reader export` makes some"),
    ("status --ledger nothing", 2, "there is no ledger nothing. Name another one with --ledger"),
    ("status --ledger scans", 2, "scans is a folder, and a ledger is a file. Name a file with --ledger."),
    ("read scans --ledger scans", 2, "the ledger scans cannot be used (open): Is a directory. "),
    ("read scans -o scans", 2, "the output file scans is a folder. Name a file with -o."),
    ("search x --archive a_file", 2, "a file is a file, and an archive is a folder."),
    ("status --archive a --ledger b", 2, "--archive, --ledger"),
    ("status --duplicates", 2, "--archive"),
    ("forget x --ledger nothing", 2, "--ledger"),
    ("forget nothing.pdf", 0, "nothing was known of these files"),
    ("models --kcpps x", 2, "name the language model and its projector"),
    ("models a_file", 3, "not a GGUF file"),
    ("web --archive archive --port 99999", 2, "'--port': it must be 65535 or less"),
    ("web --archive archive --host 192.0.2.1", 2, "Name an address of this machine with --host"),
    ("doctor --api-url ftp://x", 2, "http://127.0.0.1:5001"),
    ("ask Line --archive archive --api-url http://8.8.8.8", 2, "--allow-remote"),
    ("demo --folder a_file", 2, "cannot be made (Not a directory)"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("typed", "exits", "says"), WRONG, ids=[typed for typed, _, _ in WRONG])
def test_a_wrong_input_is_answered_in_plain_words(run: Run, folder: Path, typed: str, exits: int, says: str) -> None:
    code, said = run(*words(typed))
    assert says in said
    assert code == exits
    assert not (folder / "new").exists(), "a run that fails leaves no empty archive"


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    ["read scans", "index scans --archive new --embedder none", "plan scans", "doctor", "ask Line --archive archive"],
)
def test_what_answers_and_is_no_koboldcpp_is_named(run: Run, folder: Path, web_server: str, command: str) -> None:
    code, said = run(*words(command), "--api-url", web_server)
    assert code == 4
    assert "something answers there, but it is not KoboldCpp" in said
    assert "KoboldCpp's own port is 5001" in said
    assert not (folder / "new").exists()


@pytest.mark.slow
def test_no_server_names_both_ways_on_and_leaves_no_empty_archive(run: Run, folder: Path) -> None:
    for place in ("new", "deep/er/new"):
        code, said = run("index", "scans", "--archive", place, "--embedder", "none", "--api-url", DEAD)
        assert code == 4
        assert "Then run the same command again." in said
        assert said.rstrip().endswith(f"index scans --archive {place} --embedder none --engine rapidocr")
        assert not (folder / "new").exists()
        assert not (folder / "deep").exists(), "no folder is left where there was none"
    (folder / "mine").mkdir()
    (folder / "mine" / "notes.txt").write_text("mine", encoding="utf-8")
    assert run("index", "scans", "--archive", "mine", "--embedder", "none", "--api-url", DEAD)[0] == 4
    assert [path.name for path in (folder / "mine").iterdir()] == ["notes.txt"], "nothing else is removed"
    assert run("index", "ok", "scans", "--archive", "part", "--embedder", "none", "--api-url", DEAD)[0] == 4
    with Archive.open(folder / "part") as archive:
        assert archive.has_read_pages(), "what needed no server stays"


@pytest.mark.slow
def test_a_wrong_password_is_no_reason_to_start_a_server(
    run: Run, make_simulator: Callable[..., KoboldSimulator]
) -> None:
    server = make_simulator(password=HUSH)
    code, said = run("read", "scans", "--api-url", server.url, "--api-password", "wrong")
    assert code == 4
    assert "--api-password-file" in said
    assert "Start KoboldCpp" not in said


@pytest.mark.slow
def test_files_that_are_gone_are_named_for_what_they_are(run: Run, folder: Path) -> None:
    (folder / "box").mkdir()
    page = folder / "box" / "minutes.pdf"
    page.write_bytes((folder / "ok" / "minutes.pdf").read_bytes())
    assert run("index", "box", "--archive", "boxes", "--embedder", "none")[0] == 0
    again = run("index", "box", "--archive", "boxes")
    assert (again[0], "1 file, none changed; no page has new text\n" in again[1]) == (0, True)
    page.unlink()
    for arguments in (["box"], []):
        code, said = run("index", *arguments, "--archive", "boxes")
        assert code == 3
        assert "no file is left of 1 file. Is a disk not mounted?" in said
        assert "kobold-reader forget PATH" in said
    code, said = run("index", "box/minutes.pdf", "--archive", "boxes")
    assert code == 3
    assert "box/minutes.pdf: There is no such file or folder. Its pages stay in the archive" in said


@pytest.mark.slow
def test_index_warns_where_the_doctor_found_a_server_that_cannot_read(
    run: Run, make_simulator: Callable[..., KoboldSimulator]
) -> None:
    server = make_simulator(brain=ScriptBrain("A dog sits on a bench in the park."))
    code, said = run("doctor", "--api-url", server.url)
    assert (code, "no page can be read there" in said) == (4, True)
    _, said = run("index", "scans", "--archive", "dogs", "--embedder", "none", "--api-url", server.url)
    assert f"{server.url} read not one word of the test card: what it writes about pages may be invented" in said
    assert "`kobold-reader doctor` says what to change" in said


@pytest.mark.slow
def test_of_many_errors_ten_are_shown_with_what_shows_all(run: Run, folder: Path, tmp_path: Path) -> None:
    (folder / "hollow").mkdir()
    for number in range(12):
        (folder / "hollow" / f"{number}.pdf").touch()
    draw_pages(folder / "hollow" / "blank.tif", [""])
    archive = tmp_path / "an archive"
    code, said = run("index", "hollow", "--archive", archive, "--embedder", "none", "--engine", "rapidocr")
    assert (code, said.count("The file is empty")) == (5, 10)
    assert "and 2 more; to see all: " in said
    assert f"status {quoted(['--archive', str(archive)])}\n" in said
    assert run("status", "--archive", archive)[1].count("The file is empty") == 12
    for ledger, shown in (("none", 12), (str(tmp_path / "a ledger"), 10)):
        code, said = run("read", "hollow", "--engine", "rapidocr", "--ledger", ledger)
        assert (code, said.count("The file is empty")) == (5, shown)
    assert f"status {quoted(['--ledger', ledger])}\n" in said
    assert run("status", "--ledger", ledger)[1].count("The file is empty") == 12


@pytest.mark.slow
def test_a_ledger_of_the_environment_that_is_not_there_yet_is_no_error(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KOBOLD_READER_LEDGER", str(tmp_path / "ledger.sqlite"))
    assert run("forget", "nothing.pdf") == (0, "nothing was known of these files\n")
    code, said = run("status")
    assert (code, str(tmp_path / "ledger.sqlite") in said) == (0, True)


def test_a_text_neither_steers_the_terminal_nor_turns_its_letters_around() -> None:
    assert harmless("paid\t\x1b[2J \u202e12.34\u202d, ö") == "paid\t\ufffd[2J \ufffd12.34\ufffd, ö"


def test_passages_wrap_at_words_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    passage = "The harbour board met on \x1b[1mTuesday\x1b[0m and agreed on the dues for the year 1938. " * 4
    monkeypatch.setenv("COLUMNS", "50")
    assert wrapped("dues for the year " * 9).count("\n") == 0, "a program that reads stdout gets one line"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    lines = wrapped(passage).split("\n")
    assert len(lines) > 4
    assert all(len(line.replace("\x1b[1m", "").replace("\x1b[0m", "")) < 50 for line in lines)
    assert " ".join(lines).split() == passage.split()
