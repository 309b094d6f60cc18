"""The story itself: order, laziness, threads, stopping."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from kobold_reader import KoboldReader
from kobold_reader.errors import NoServerAvailableError
from kobold_reader.pages import select
from kobold_reader.reading.ledger import Ledger
from kobold_reader.reading.pipeline import Ahead
from tests import page_files as make
from tests.conftest import LETTER, SAMPLES
from tests.kobold_simulator import Fault, KoboldSimulator

pytestmark = pytest.mark.slow

RECEIPT = SAMPLES / "receipts" / "1987-05-12 chandler.jpg"


def count_up(seen: list[int], last: int) -> Generator[int, None, None]:
    for number in range(last):
        seen.append(number)
        yield number


def test_ahead_keeps_order_and_bounds() -> None:
    seen: list[int] = []
    taken: list[int] = []
    with closing(Ahead(count_up(seen, 200), 3)) as ahead:
        for item in ahead:
            taken.append(item)
            assert len(seen) - len(taken) <= 4, "three waiting, one being made"
    assert taken == list(range(200))


def test_ahead_raises_after_the_items_before() -> None:
    def failing() -> Generator[int, None, None]:
        yield 1
        raise ValueError("second")

    taken: list[int] = []
    with closing(Ahead(failing(), 5)) as ahead, pytest.raises(ValueError, match="second"):
        taken.extend(ahead)
    assert taken == [1]


def test_ahead_closed_early_ends_its_thread_and_iterator() -> None:
    ended = threading.Event()

    def endless() -> Generator[int, None, None]:
        try:
            number = 0
            while True:
                yield (number := number + 1)
        finally:
            ended.set()

    before = threading.active_count()
    ahead = Ahead(endless(), 2)
    assert next(iter(ahead)) == 1
    ahead.close()
    assert ended.is_set()
    assert threading.active_count() == before


def reader(simulator: KoboldSimulator, **options: Any) -> KoboldReader:
    return KoboldReader(api_url=simulator.url, tasks=["ocr"], **options)


@pytest.mark.usefixtures("own_child")
def test_a_closed_generator_leaves_no_thread_and_no_child(
    simulator: KoboldSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen.__init__

    def noted(self: subprocess.Popen[bytes], *arguments: Any, **options: Any) -> None:
        start(self, *arguments, **options)
        started.append(self)

    monkeypatch.setattr(subprocess.Popen, "__init__", noted)
    before = threading.active_count()
    documents = reader(simulator).lazy_load_data(LETTER)
    next(documents)
    assert started, "the page child runs"
    documents.close()  # type: ignore[attr-defined]
    assert [child.wait(10) is not None for child in started] == [True] * len(started)
    assert threading.active_count() == before


def test_what_was_read_before_the_server_died_is_kept(simulator: KoboldSimulator, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.sqlite"
    results = reader(simulator, ledger=str(ledger)).read_pages(LETTER)
    first = next(results)
    simulator.stop()
    with pytest.raises(NoServerAvailableError):
        list(results)
    simulator.restart()
    asked = simulator.count()
    again = list(reader(simulator, ledger=str(ledger)).read_pages(LETTER))
    assert [result.page_number for result in again] == [1, 2, 3]
    assert again[0].text == first.text
    assert [result.is_kept for result in again] == [True, False, False]
    assert simulator.count() == asked + 2


def test_a_failed_page_keeps_its_number_and_all_others_theirs(simulator: KoboldSimulator) -> None:
    simulator.fault(None, Fault.DROP_IMAGES)
    results = list(reader(simulator).read_pages([LETTER, RECEIPT]))
    assert [(result.source.name, result.page_number) for result in results] == [
        *((LETTER.name, number) for number in (1, 2, 3)),
        (RECEIPT.name, 1),
    ]
    assert [result.status for result in results] == ["ok", "failed", "ok", "ok"]
    error = results[1].error
    assert error is not None
    assert (error.page_number, Path(str(error.source)).name) == (2, LETTER.name)
    assert all(bool(result.text) != bool(result.error) for result in results)


def test_what_is_there_of_a_damaged_page_is_read_and_called_damaged(
    simulator: KoboldSimulator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "cut.pdf"
    path.write_bytes(make.cut_scan_pdf(make.printed_page(50).convert("L"), 0.5, kind="PNG"))
    (document,) = KoboldReader(api_url=simulator.url, tasks=["ocr"], ledger=tmp_path / "ledger.sqlite").load_data(path)
    assert document.text.startswith("Text of a page")
    assert document.metadata["page_status"] == "damaged"
    assert document.metadata["damage"] == "The page's image is cut short: about 50% of it is there."
    assert "cut.pdf page 1: The page's image is cut short" in caplog.text
    simulator.requests.clear()
    (again,) = KoboldReader(api_url=simulator.url, tasks=["ocr"], ledger=tmp_path / "ledger.sqlite").load_data(path)
    assert again.metadata == document.metadata


def test_the_same_scan_twice_in_one_run_is_asked_once(simulator: KoboldSimulator, tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (tmp_path / name).write_bytes(RECEIPT.read_bytes())
    documents = reader(simulator).load_data(tmp_path)
    assert [document.metadata["file_name"] for document in documents] == ["a.jpg", "b.jpg", "c.jpg"]
    assert len({document.text for document in documents}) == 1
    assert simulator.count() == 1


def test_another_model_makes_nothing_due_but_outdated(
    make_simulator: Callable[..., KoboldSimulator], tmp_path: Path
) -> None:
    ledger = str(tmp_path / "ledger.sqlite")
    first = make_simulator()
    for redo in (None, "outdated"):
        list(reader(first, ledger=ledger, redo=redo).read_pages(LETTER))
    assert first.count() == 3, "the same model read them"
    other = make_simulator(model="gemma-3-12b-it-Q4_K_M", projector="gemma3")
    kept = list(reader(other, ledger=ledger).read_pages(LETTER))
    assert other.count() == 0
    assert {result.readings["ocr"].model for result in kept} == {"Qwen2.5-VL-7B-Instruct-Q4_K_M"}
    anew = list(reader(other, ledger=ledger, redo="outdated").read_pages(LETTER))
    assert other.count() == sum(len(result.readings["ocr"].view_sizes) for result in anew) >= 3, "the tiles of 3 pages"
    assert {result.readings["ocr"].model for result in anew} == {"gemma-3-12b-it-Q4_K_M"}


def test_a_redo_that_fails_keeps_what_there_was(simulator: KoboldSimulator, tmp_path: Path) -> None:
    ledger = str(tmp_path / "ledger.sqlite")
    [first] = reader(simulator, ledger=ledger).read_pages(RECEIPT)
    simulator.fault(Fault.DROP_IMAGES)
    [second] = reader(simulator, ledger=ledger, redo="all").read_pages(RECEIPT)
    assert second.text == first.text
    assert second.status == "ok"
    assert second.failed_tasks == (), "the page has its reading"
    assert [type(error).__name__ for error in second.errors.values()] == ["ImageNotSeenError"], (
        "and the failure is said"
    )


def test_a_redo_on_a_server_that_drops_every_image_ends_the_run(simulator: KoboldSimulator, tmp_path: Path) -> None:
    ledger = str(tmp_path / "ledger.sqlite")
    everything = [LETTER, RECEIPT]
    before = [result.text for result in reader(simulator, ledger=ledger).read_pages(everything)]
    asked = simulator.count()
    simulator.fault_when = lambda request: Fault.DROP_IMAGES if request.path.endswith("/generate") else None
    with pytest.raises(NoServerAvailableError, match="3 pages in a row"):
        list(reader(simulator, ledger=ledger, redo="all").read_pages(everything))
    assert simulator.count() == asked + 3
    simulator.fault_when = None
    assert [result.text for result in reader(simulator, ledger=ledger).read_pages(everything)] == before


def test_stopping_after_a_time(simulator: KoboldSimulator) -> None:
    ticks: Iterator[float] = iter([0.0, 1.0, 2.0, 3.0, 50.0, 50.0, 50.0, 50.0])
    with Ledger(None) as ledger:
        transcriber = reader(simulator, stop_after_s=10).transcriber(ledger, clock=lambda: next(ticks))
        results = list(transcriber.run(select([LETTER]).files))
    assert 1 <= len(results) < 3
    assert simulator.count() == len(results)


def test_three_slow_pages_do_not_starve_the_rest(make_simulator: Callable[..., KoboldSimulator]) -> None:
    simulator = make_simulator()
    simulator.fault(Fault.HANG, Fault.HANG, Fault.HANG)
    slow = reader(simulator, page_timeout_s=0.3)
    results = list(slow.read_pages([LETTER, RECEIPT]))
    assert [result.status for result in results] == ["failed", "failed", "failed", "ok"]
