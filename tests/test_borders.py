"""One file never ends a run: what is raised at any stage becomes the error of its page, unless it is of the run."""

from __future__ import annotations

import errno
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pymupdf
import pytest
from PIL import Image, ImageDraw

from kobold_reader.archive import words
from kobold_reader.cli import app as cli
from kobold_reader.errors import (
    EmptyTranscriptionError,
    LedgerError,
    NoServerAvailableError,
    UnexpectedError,
)
from kobold_reader.options import ReadOptions
from kobold_reader.pages import ImageBudget, PageChild, select
from kobold_reader.reading import open_file
from kobold_reader.reading.ledger import Ledger
from kobold_reader.reading.page_reader import EngineFacts, LocalPageReader, PageJob, TaskOutcome
from kobold_reader.reading.results import PageResult, Reading
from kobold_reader.reading.transcriber import Transcriber

pytestmark = pytest.mark.slow

BAD = "2.png"
"""The file in the middle, to which everything happens."""
Fault = Callable[[], object]


class FaultyChild:
    """The page child of all these tests, which raises in one request about one file."""

    def __init__(self, child: PageChild, request: str, fault: Fault) -> None:
        self._child = child
        self._request = request
        self._fault = fault
        self._is_bad = False

    def open(self, path: str, **options: Any) -> Any:
        self._is_bad = path.endswith(BAD)
        return self._answer("open", path, **options)

    def page_facts(self, number: int, **ahead: Any) -> Any:
        return self._answer("page_facts", number, **ahead)

    def page_look(self, number: int) -> Any:
        return self._answer("page_look", number)

    def page_images(self, number: int, budget: ImageBudget, **options: Any) -> Any:
        return self._answer("page_images", number, budget, **options)

    def close(self) -> None:
        """Others go on with it."""

    def _answer(self, request: str, *values: Any, **options: Any) -> Any:
        if self._is_bad and request == self._request:
            self._fault()
        return getattr(self._child, request)(*values, **options)


class FaultyEngine:
    """An engine of somebody's own, which answers for one page with whatever it is told."""

    parallel = 1

    def __init__(self, answer: Callable[[PageJob], Any] | None = None) -> None:
        self._answer = answer

    def prepare(self, cancel: threading.Event | None = None) -> EngineFacts:  # noqa: ARG002
        return EngineFacts("model", None, frozenset({"ocr"}), ImageBudget(max_side_px=400))

    def read(self, job: PageJob) -> Mapping[str, TaskOutcome]:
        if self._answer and job.source.endswith(BAD):
            return self._answer(job)  # type: ignore[no-any-return]
        if job.on_progress:
            job.on_progress("ocr", 1)
        return {"ocr": reading("The slates came on Tuesday.")}

    def close(self) -> None:
        """Nothing is open."""


def reading(text: str, **more: Any) -> Reading:
    return Reading(task="ocr", status="ok", text=text, engine="koboldcpp", **more)


def raising(error: BaseException) -> Callable[..., Any]:
    def fault(*_: object, **__: object) -> None:
        raise error

    return fault


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    for number in (1, 2, 3):
        image = Image.new("L", (200 + number, 200), 250)
        for line in range(20, 180, 20):
            ImageDraw.Draw(image).text((10, line), f"page {number} the slates", fill=10)
        image.save(folder / f"{number}.png")
    return folder


@pytest.fixture
def run(
    scans: Path, tmp_path: Path, child: PageChild, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[PageResult]]:
    """Read the three scans, and return the results."""

    def run(
        engine: FaultyEngine | None = None, request: str = "", fault: Fault = object, **more: Any
    ) -> list[PageResult]:
        monkeypatch.setattr(open_file, "new_child", lambda: FaultyChild(child, request, fault))
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            options = ReadOptions(tasks=("ocr",))
            transcriber = Transcriber(LocalPageReader(engine or FaultyEngine(), 0), ledger, options, **more)
            files = select(scans).files
            transcriber.survey(files)
            return list(transcriber.run(files))

    return run


def failures(tmp_path: Path) -> list[tuple[str, int, str]]:
    with Ledger(tmp_path / "ledger.sqlite", read_only=True) as ledger:
        return [(one.uri.rpartition("/")[2], one.page_number, one.message) for one in ledger.failures()]


BOOM = ValueError("boom \ud83d")
"""Its text cannot be stored as it is."""


@pytest.mark.parametrize(
    ("request_", "page_number"), [("open", 0), ("page_facts", 1), ("page_look", 1), ("page_images", 1)]
)
def test_an_error_of_the_page_child(
    run: Callable[..., list[PageResult]], tmp_path: Path, request_: str, page_number: int
) -> None:
    results = run(request=request_, fault=raising(BOOM))
    if request_ == "page_look":  # what kind of picture it is decides nothing
        assert [result.status for result in results] == ["ok", "ok", "ok"]
        return
    assert [result.status for result in results] == ["ok", "failed", "ok"]
    error = results[1].error
    assert isinstance(error, UnexpectedError)
    assert (error.page_number or 0) == results[1].page_number == page_number
    assert "ValueError: boom \\ud83d" in str(error)
    assert isinstance(error.__cause__, ValueError)
    assert failures(tmp_path) == [(BAD, page_number, str(error))]
    assert [result.status for result in run()] == ["ok", "ok", "ok"], "the next run tries again"
    assert failures(tmp_path) == []


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (raising(RuntimeError("boom")), "RuntimeError: boom"),
        (raising(EmptyTranscriptionError("nothing")), "nothing"),
        (raising(OSError(errno.ENOENT, "gone")), "FileNotFoundError"),
        (lambda _: {}, "neither a reading nor an error"),
        (lambda _: {"ocr": None}, "neither a reading nor an error"),
        (lambda _: None, "AttributeError"),
        (lambda _: {"ocr": reading("half of an emoji: \ud83d")}, "UnicodeEncodeError"),
        (lambda _: {"ocr": reading("long", prompt_tokens=1 << 70)}, "OverflowError"),
        (lambda _: {"ocr": reading("odd", confidence=object())}, "type 'object' is not supported"),
    ],
)
def test_an_error_of_the_engine_or_of_what_it_gives(
    run: Callable[..., list[PageResult]], tmp_path: Path, answer: Callable[[PageJob], Any], why: str
) -> None:
    results = run(FaultyEngine(answer))
    assert [result.status for result in results] == ["ok", "failed", "ok"]
    assert why in str(results[1].error)
    assert str(results[1].error).startswith(f"{results[1].source.path} page 1: ")
    assert [(name, number) for name, number, _ in failures(tmp_path)] == [(BAD, 1)]


@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt(),
        MemoryError(),
        OSError(errno.ENOSPC, "No space left on device"),
        NoServerAvailableError("all are gone"),
        LedgerError("the disk is full"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_the_run_ends_it(run: Callable[..., list[PageResult]], error: BaseException) -> None:
    with pytest.raises(type(error)) as raised:
        run(FaultyEngine(raising(error)))
    assert raised.value is error


def test_an_error_of_the_caller_is_no_page_s_error(run: Callable[..., list[PageResult]]) -> None:
    def tell(text: str) -> None:
        if text.startswith("1.png page"):
            raise ZeroDivisionError(text)

    with pytest.raises(ZeroDivisionError):
        run(on_progress=tell)


def test_an_error_in_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2, 3):
        with pymupdf.open() as document:
            document.new_page().insert_textbox((50, 50, 550, 800), f"The master wrote wharf{number} in his book. " * 9)
            document.save(tmp_path / f"{number}.pdf")

    def kobold(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["kobold-reader", *arguments, "--archive", str(tmp_path / "archive")])
        code = cli.run()
        said = capsys.readouterr()
        return code, said.out + said.err

    put = words.put
    with monkeypatch.context() as broken:

        def put_but_one(db: Any, page_id: str, *, text: str, **more: Any) -> None:
            if "wharf2" in text:
                raise RuntimeError("boom")
            put(db, page_id, text=text, **more)

        broken.setattr(words, "put", put_but_one)
        code, said = kobold("-v", "index", str(tmp_path), "--embedder", "none", "--ledger", "none")
        assert code == 5
        assert "2.pdf page 1: indexing it failed in a way that nobody foresaw (RuntimeError: boom)." in said
        assert "Traceback" in said
        assert "3 pages: 3 text_layer" in said
    for number, hits in ((1, 1), (2, 0), (3, 1)):
        assert kobold("search", f"wharf{number}", "--mode", "keyword", "--json")[1].count('"score": 1.0') == hits
    assert "RuntimeError: boom" in kobold("status")[1]
    code, said = kobold("index", str(tmp_path), "--embedder", "none", "--ledger", "none")
    assert (code, "Traceback" in said) == (0, False), "the next run tries again"
    assert kobold("search", "wharf2", "--mode", "keyword", "--json")[1].count('"score": 1.0') == 1
    assert "boom" not in kobold("status")[1]
