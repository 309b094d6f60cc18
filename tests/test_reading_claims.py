"""Two processes with one ledger: who asks for a page, who waits, and what a killed one leaves behind."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import pytest

from kobold_reader.reading.ledger import Claims

PAGE, OTHER = "00000001" + 56 * "0", "00000002" + 56 * "0"


def is_free(claims: Claims, page: str) -> bool:
    """Whether a page can be had without waiting."""
    gone = threading.Event()
    gone.set()
    try:
        with claims.hold(page, gone):
            return True
    except CancelledError:
        return False


def test_a_page_is_held_against_others_until_it_is_read(tmp_path: Path) -> None:
    mine, theirs = Claims(tmp_path / "c"), Claims(tmp_path / "c")
    with mine.hold(PAGE):
        assert not is_free(theirs, PAGE)
        assert is_free(theirs, OTHER)
    assert is_free(theirs, PAGE)


def test_an_error_frees_it(tmp_path: Path) -> None:
    mine, theirs = Claims(tmp_path / "c"), Claims(tmp_path / "c")
    with pytest.raises(ValueError, match="read"), mine.hold(PAGE):
        raise ValueError("read")
    assert is_free(theirs, PAGE)


def test_pages_of_one_process_that_share_a_file_are_both_held(tmp_path: Path) -> None:
    mine, theirs = Claims(tmp_path / "c"), Claims(tmp_path / "c")
    with mine.hold(PAGE):
        with mine.hold(f"{1 + 64:08x}"):
            pass
        assert not is_free(theirs, PAGE), "the second page's end does not free the first"
    assert is_free(theirs, PAGE)


def test_who_waits_goes_on_when_it_is_free(tmp_path: Path) -> None:
    mine, theirs = Claims(tmp_path / "c"), Claims(tmp_path / "c")
    order: list[str] = []

    def wait() -> None:
        with theirs.hold(PAGE):
            order.append("theirs")

    with ThreadPoolExecutor(1) as threads:
        with mine.hold(PAGE):
            waiting = threads.submit(wait)
            threading.Event().wait(0.2)
            order.append("mine")
        waiting.result(timeout=30)
    assert order == ["mine", "theirs"]


def test_who_gives_up_waiting_keeps_nothing(tmp_path: Path) -> None:
    mine, theirs = Claims(tmp_path / "c"), Claims(tmp_path / "c")
    gone = threading.Event()
    gone.set()
    with mine.hold(PAGE), pytest.raises(CancelledError), theirs.hold(PAGE, gone):
        pass
    assert is_free(Claims(tmp_path / "c"), PAGE)


def test_a_ledger_in_memory_is_nobody_elses() -> None:
    with Claims(None).hold(PAGE):
        assert is_free(Claims(None), PAGE)


def test_where_no_lock_can_be_made_pages_are_read_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("no folder", encoding="utf-8")
    mine = Claims(tmp_path / "c")
    with mine.hold(PAGE), mine.hold(PAGE):
        pass


@pytest.mark.slow
def test_a_killed_process_frees_what_it_held(tmp_path: Path) -> None:
    hold = (
        "import sys, time; from pathlib import Path; from kobold_reader.reading.ledger import Claims\n"
        f"with Claims(Path(sys.argv[1])).hold({PAGE!r}): print('held', flush=True); time.sleep(600)"
    )
    mine = Claims(tmp_path / "c")
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path / "c")], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        assert not is_free(mine, PAGE)
        process.kill()
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(is_free, mine, PAGE).result(timeout=30)
