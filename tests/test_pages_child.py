"""The child may crash, hang or be left alone: one file pays, and nothing stays behind."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kobold_reader.errors import ConfigError, CorruptSourceError, PageRenderError, SourceError
from kobold_reader.pages import FileFacts, ImageBudget, PageChild, PageFacts, PageImages, PageView
from kobold_reader.pages.values import error_of, header_of_error, pack, read_frame, unpack, write_frame
from kobold_reader.pages.worker import GRACE_S
from tests import page_files as make

pytestmark = pytest.mark.slow

BUDGET = ImageBudget()
ROOT = Path(__file__).resolve().parent.parent
posix = pytest.mark.skipif(os.name == "nt", reason="stops the child by a signal")


@pytest.fixture(scope="module")
def letter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pages; no PDF, for a child that need not load MuPDF starts in a quarter of the time."""
    path = tmp_path_factory.mktemp("files") / "létter.tif"
    path.write_bytes(make.tiff([make.printed_page(40), make.printed_page(40, 5)]))
    return path


@pytest.fixture
def child() -> Iterator[PageChild]:
    with PageChild(timeout_s=30) as child:
        yield child


def is_running(pid: int) -> bool:
    """Whether a process lives; a zombie does not."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat")
        return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def gone_within(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not is_running(pid):
            return True
        threading.Event().wait(0.02)
    return False


def test_the_process_starts_late_and_ends_with_close(letter: Path) -> None:
    child = PageChild()
    assert child.pid is None
    child.open(letter, kind="image")
    pid = child.pid
    assert pid is not None
    child.close()
    assert child.pid is None
    if os.name != "nt":
        assert not is_running(pid)
    with pytest.raises(ConfigError, match="open"):
        child.page_facts(1)
    assert child.open(letter, kind="image").total_pages == 2, "a later request starts another"
    child.close()


@posix
def test_a_crash_costs_one_request(child: PageChild, letter: Path) -> None:
    child.open(letter, source="file:///letter.tif", kind="image")
    pid = child.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)  # so that the request is under way when the end comes
    timer = threading.Timer(0.2, os.kill, (pid, signal.SIGKILL))
    timer.start()
    with pytest.raises(CorruptSourceError, match="SIGKILL") as caught:
        child.page_images(2, BUDGET)
    timer.join()
    assert (caught.value.source, caught.value.page_number) == ("file:///letter.tif", 2)
    assert child.page_facts(1).page_number == 1, "the next request opens the file afresh"
    assert child.pid != pid


@posix
def test_a_child_that_died_between_requests_is_replaced(child: PageChild, letter: Path) -> None:
    child.open(letter, kind="image")
    pid = child.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert gone_within(pid, 5)
    with contextlib.suppress(CorruptSourceError):  # noticed before the request or during it
        child.page_facts(1)
    assert child.page_facts(1).page_number == 1


@posix
def test_a_hang_ends_with_the_time_limit(letter: Path) -> None:
    with PageChild(timeout_s=5) as child:
        child.open(letter, source="file:///letter.tif", kind="image")
        pid = child.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        child.timeout_s = 0.3
        with pytest.raises(CorruptSourceError, match=r"longer than 0\.3 s") as caught:
            child.page_images(1, BUDGET)
        assert caught.value.page_number == 1
        assert not is_running(pid)
        child.timeout_s = 5
        assert not child.page_images(1, BUDGET).is_blank


FATAL_PAGES = """
import os, time
from kobold_reader.pages.image_files import PictureFile
as_ever = PictureFile.page_facts
def page_facts(self, page_number):
    if page_number == 3:
        os.abort()
    if page_number == 5:
        time.sleep(600)
    return as_ever(self, page_number)
PictureFile.page_facts = page_facts
"""
"""A child that imports this as it starts crashes with page 3 and hangs with page 5."""


@posix
def test_of_pages_asked_ahead_only_the_one_that_crashes_or_hangs_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(FATAL_PAGES, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    path = tmp_path / "seven.tif"
    path.write_bytes(make.tiff([make.printed_page(40, number) for number in range(7)]))
    lost: dict[int, CorruptSourceError] = {}
    with PageChild(timeout_s=30) as child:
        child.open(path, source="file:///seven.tif", kind="image")
        alone = child.page_facts(7)
        for number in range(1, 8):
            child.timeout_s = 1 if number == 5 else 30
            try:
                facts = child.page_facts(number, ahead=range(number + 1, 8))
            except CorruptSourceError as err:
                lost[number] = err
            else:
                assert facts.page_number == number
            if number == 1:  # asked while the child is about to crash
                assert len(child.page_images(number, BUDGET).views) == 1
        assert facts == alone
    assert {number: (err.source, err.page_number) for number, err in lost.items()} == {
        3: ("file:///seven.tif", 3),
        5: ("file:///seven.tif", 5),
    }
    assert "SIGABRT" in str(lost[3])
    assert "longer than 1 s" in str(lost[5])


@posix
def test_ctrl_c_stops_waiting_and_not_the_next_answer(child: PageChild, letter: Path) -> None:
    child.open(letter, kind="image")
    pid = child.pid
    assert pid is not None
    os.kill(pid, signal.SIGINT)
    assert child.page_facts(1).page_number == 1, "the child leaves the decision to its parent"
    os.kill(pid, signal.SIGSTOP)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        child.page_facts(1)
    timer.join()
    assert not is_running(pid)
    assert child.page_facts(2).page_number == 2


@posix
@pytest.mark.parametrize("ending", ["os._exit(0)", "os.kill(os.getpid(), signal.SIGKILL)", "pass"])
def test_no_orphan_is_left(letter: Path, ending: str) -> None:
    script = f"""
        import os, signal, sys
        from kobold_reader.pages import PageChild
        child = PageChild()
        child.open(sys.argv[1], kind="image")
        print(child.pid, flush=True)
        {ending}
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(letter)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        check=False,
    )
    assert gone_within(int(done.stdout), 5)


@posix
def test_a_child_that_nobody_waits_for_ends(tmp_path: Path) -> None:
    """It hangs in a request, and its parent, which would end it, is stopped: it ends by itself."""
    never = tmp_path / "never.pdf"
    os.mkfifo(never)
    asked: dict[str, Any] = {"do": "open", "path": str(never), "source": str(never), "kind": "pdf", "passwords": []}
    frame = io.BytesIO()
    write_frame(frame, {**asked, "sha256": None, "timeout_s": 0.1 - GRACE_S})
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "kobold_reader.pages.worker"]
    before = signal.signal(signal.SIGALRM, signal.SIG_IGN)  # a child inherits that, and what is blocked
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    try:
        worker = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    with worker:
        assert worker.stdin is not None
        worker.stdin.write(frame.getvalue())
        worker.stdin.flush()
        assert worker.wait(30) == -signal.SIGALRM


def test_it_works_from_anywhere_and_light(tmp_path: Path) -> None:
    """Another folder, a trap in it, no `__main__` guard; and the parent loads no heavy library."""
    letter = tmp_path / "letter.pdf"
    letter.write_bytes(make.pdf(make.text_on, make.text_on))
    (tmp_path / "PIL.py").write_text("raise SystemExit('taken from the current folder')")
    (tmp_path / "run.py").write_text(
        textwrap.dedent(f"""
            import sys
            sys.path[:] = [entry for entry in sys.path if entry != {str(tmp_path)!r}]
            sys.path.insert(0, {str(ROOT)!r})
            from kobold_reader.pages import PageChild
            with PageChild() as child:
                print(child.open(sys.argv[1], kind="pdf").total_pages)
                print(child.page_facts(2).page_number)
            heavy = ("pymupdf", "PIL", "llama_index", "chromadb", "multiprocessing")
            print([name for name in heavy if name in sys.modules])
        """)
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "run.py", str(letter)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["2", "2", "[]"]


def test_many_threads_share_one_child(child: PageChild, letter: Path) -> None:
    child.open(letter, kind="image")
    found: list[int] = []

    def ask(number: int) -> None:
        found.append(child.page_facts(number).page_number)
        images = child.page_images(number, ImageBudget(max_side_px=100 + number))
        found.append(images.views[0].height_px)

    threads = [threading.Thread(target=ask, args=(1 + turn % 2,)) for turn in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [1] * 3 + [2] * 3 + [101] * 3 + [102] * 3


def test_a_missing_file_and_an_unknown_kind(child: PageChild, letter: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        child.open(letter.with_name("gone.tif"), kind="image")
    with pytest.raises(SourceError, match="'video'"):
        child.open(letter, kind="video")
    with pytest.raises(ConfigError, match="rotate_deg"):
        child.page_images(1, BUDGET, rotate_deg=45)
    with pytest.raises(ConfigError, match="timeout_s"):
        PageChild(timeout_s=0)


def test_values_and_errors_come_back_as_they_were_sent() -> None:
    view = PageView(b"\x00\xff", "image/png", 2, 1, None, 90)
    for value in (
        FileFacts("ab", "pdf", 3, True, {"title": "Ä\udcff", "latitude": 1.5}),
        PageFacts(1, "i", "cd", None, 2.0, 0, 0, "té\u2028xt", "poor", 0.5, 0, {"a": True}),
        PageImages((view, view), False),
    ):
        stream = io.BytesIO()
        write_frame(stream, *pack(value))
        stream.seek(0)
        frame = read_frame(stream)
        assert frame is not None
        assert unpack(*frame) == value
        assert read_frame(stream) is None
        assert read_frame(io.BytesIO(stream.getvalue()[:-1])) is None
    error = PageRenderError("It broke.", source="file:///a", page_number=3, hint="Mend it.")
    again = error_of(header_of_error(error))
    assert type(again) is PageRenderError
    assert str(again) == str(error)
    assert type(error_of({**header_of_error(error), "error": "SystemExit"})) is CorruptSourceError
