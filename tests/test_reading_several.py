"""Several servers at once: who reads what, in which order it comes, and what one bad server costs."""

from __future__ import annotations

import asyncio
import base64
import functools
import io
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from kobold_reader import KoboldReader
from kobold_reader.errors import ConfigError, LedgerError, NoServerAvailableError, NoVisionModelError
from kobold_reader.kobold import RetryPolicy, ServerPool
from kobold_reader.options import ReadOptions
from kobold_reader.pages import select
from kobold_reader.reading.koboldcpp import KoboldEngine
from kobold_reader.reading.ledger import Ledger
from kobold_reader.reading.page_reader import LocalPageReader
from kobold_reader.reading.results import PageResult
from kobold_reader.reading.transcriber import Transcriber
from tests.kobold_simulator import BrainRequest, Fault, KoboldSimulator, RecordedRequest, ScriptBrain

pytestmark = pytest.mark.slow

MakeSimulator = Callable[..., KoboldSimulator]
WIDTH_PX = 400


def number_of(request: BrainRequest) -> int:
    """Which page was sent: its width tells (the encoder's view of it is rounded)."""
    with Image.open(io.BytesIO(base64.b64decode(request.body["images"][0]))) as image:
        return image.size[0] - WIDTH_PX


@pytest.fixture
def make_simulator(make_simulator: MakeSimulator) -> MakeSimulator:
    """Servers whose model says which page it saw."""
    return functools.partial(
        make_simulator, brain=ScriptBrain(lambda request: f"This is page {number_of(request)}, of 1954.")
    )


def scans(folder: Path, count: int, *, name: str = "scans.tif", first: int = 1) -> Path:
    """A TIFF whose pages can be told apart by their width."""
    frames = []
    for number in range(first, first + count):
        frame = Image.new("L", (WIDTH_PX + number, 300), 255)
        for line in range(4):
            ImageDraw.Draw(frame).text((30, 20 + 60 * line), f"page {number}", fill=0, font_size=40)
        frames.append(frame)
    frames[0].save(folder / name, save_all=True, append_images=frames[1:])
    return folder / name


def reader(*servers: KoboldSimulator, **options: Any) -> KoboldReader:
    options = {"tasks": ["ocr"], "rotate": 0, "ledger": "none", **options}
    return KoboldReader(api_url=[server.url for server in servers], **options)


def numbers(results: list[PageResult]) -> list[int]:
    """The pages that the texts speak of, which must be the pages they stand on."""
    spoken = [int(re.search(r"This is page (\d+)", result.text)[1]) for result in results]  # type: ignore[index]
    assert spoken == [result.page_number for result in results]
    return spoken


def pages_seen(server: KoboldSimulator) -> list[int]:
    """The pages whose images a server saw, request by request."""
    return [number_of(request) for request in server.seen]


def always(fault: Fault) -> Callable[[RecordedRequest], Fault | None]:
    return lambda request: fault if request.path.endswith("/generate") else None


def both_run(*servers: KoboldSimulator, request: int = 1) -> bool:
    """Wait until each server is busy with its request of that number, which hangs."""

    def runs(server: KoboldSimulator) -> bool:
        return server.wait_for(lambda: server.count() == request and server.running)

    return all(map(runs, servers))


def let_go(server: KoboldSimulator) -> None:
    """Release the hanging request, also if it is still on its way to where it hangs."""
    while not server.wait_for(lambda: not server.running, 0.05):
        server.release()


# ── the work is shared ────────────────────────────────────────────────────────────────────────────


def test_the_fast_server_does_more_and_pages_come_in_order(make_simulator: MakeSimulator, tmp_path: Path) -> None:
    slow, fast = make_simulator(), make_simulator()
    slow.fault(Fault.HANG)
    results: list[PageResult] = []
    thread = threading.Thread(target=lambda: results.extend(reader(slow, fast).read_pages(scans(tmp_path, 12))))
    thread.start()
    assert fast.wait_for(lambda: len(fast.busy) == 11), "it need not wait for the slow one"
    assert len(results) < 12
    let_go(slow)
    thread.join(30)
    assert numbers(results) == list(range(1, 13))
    assert slow.count() == 1
    assert sorted(pages_seen(slow) + pages_seen(fast)) == list(range(1, 13)), "each page once"


def test_the_tasks_of_a_page_stay_on_one_server(make_simulator: MakeSimulator, tmp_path: Path) -> None:
    servers = [make_simulator(service_s=0.05), make_simulator(service_s=0.05)]
    results = list(reader(*servers, tasks=["ocr", "caption"]).read_pages(scans(tmp_path, 8)))
    numbers(results)
    assert all(result.failed_tasks == () for result in results)
    for server in servers:
        seen = pages_seen(server)
        assert seen, "both work"
        assert seen[::2] == seen[1::2], "ocr and caption of one page, back to back"
        assert server.in_flight_max == 1


def test_nothing_is_asked_before_iteration_begins_and_little_beyond_what_is_taken(
    make_simulator: MakeSimulator, tmp_path: Path
) -> None:
    servers = [make_simulator(service_s=0.02), make_simulator(service_s=0.02)]
    results = reader(*servers).read_pages(scans(tmp_path, 40))
    assert sum(server.count() for server in servers) == 0
    with closing(results):  # type: ignore[type-var]
        next(results)
        for server in servers:
            server.wait_for(lambda: sum(len(server.busy) for server in servers) > 8, 1.0)
        assert sum(server.count() for server in servers) <= 8, "the caller has gone away"


def test_the_same_scan_in_flight_is_not_asked_twice(make_simulator: MakeSimulator, tmp_path: Path) -> None:
    one, two = make_simulator(), make_simulator()
    one.fault(Fault.HANG)
    two.fault(Fault.HANG)
    for name in ("a.tif", "b.tif", "c.tif"):
        scans(tmp_path, 1, name=name)
    scans(tmp_path, 1, name="d.tif", first=2)
    results: list[PageResult] = []
    thread = threading.Thread(target=lambda: results.extend(reader(one, two).read_pages(tmp_path)))
    thread.start()
    assert both_run(one, two), "the copies keep no server from the other scan"
    let_go(one)
    let_go(two)
    thread.join(30)
    assert [result.source.name for result in results] == ["a.tif", "b.tif", "c.tif", "d.tif"]
    assert len({result.text for result in results}) == 2
    assert sorted(pages_seen(one) + pages_seen(two)) == [1, 2]


# ── one bad server ────────────────────────────────────────────────────────────────────────────────


def test_different_models_are_refused_before_the_first_page(make_simulator: MakeSimulator, tmp_path: Path) -> None:
    one, two = make_simulator(), make_simulator(model="gemma-3-12b-it-Q4_K_M", projector="gemma3")
    with pytest.raises(ConfigError) as caught:
        list(reader(one, two).read_pages(scans(tmp_path, 3)))
    for part in (one.url, two.url, one.model, two.model):
        assert part in str(caught.value)
    assert one.count() == two.count() == 0


def test_a_server_that_comes_back_with_another_model_is_left_out(make_simulator: MakeSimulator, tmp_path: Path) -> None:
    one, two = make_simulator(), make_simulator()
    with reader(one, two) as both:
        numbers(list(both.read_pages(scans(tmp_path, 4))))
        one.restart(model="gemma-3-12b-it-Q4_K_M", projector="gemma3")
        asked = one.count()
        numbers(list(both.read_pages(scans(tmp_path, 6))))
    assert one.count() == asked, "it is seen before a page is sent"


@pytest.mark.parametrize("fault", [Fault.RESET, Fault.NULL, Fault.HTML, Fault.DROP_IMAGES, Fault.UNAUTHORIZED])
def test_a_server_that_fails_costs_no_page(make_simulator: MakeSimulator, tmp_path: Path, fault: Fault) -> None:
    bad, good = make_simulator(), make_simulator()
    bad.fault_when = always(fault)
    results = list(reader(bad, good).read_pages(scans(tmp_path, 10)))
    assert [result.status for result in results] == ["ok"] * 10
    numbers(results)
    assert 1 <= bad.count() <= 4, "one page was tried there, and then it was left alone"


def test_a_server_that_dies_with_a_page_leaves_it_to_the_other(make_simulator: MakeSimulator, tmp_path: Path) -> None:
    one, two = make_simulator(), make_simulator()
    one.fault(Fault.HANG)
    results: list[PageResult] = []
    thread = threading.Thread(target=lambda: results.extend(reader(one, two).read_pages(scans(tmp_path, 6))))
    thread.start()
    assert one.wait_for(lambda: one.running)
    one.stop()
    thread.join(30)
    assert numbers(results) == list(range(1, 7))
    assert two.count() == 6


def test_a_server_without_a_projector_is_left_out(make_simulator: MakeSimulator, tmp_path: Path) -> None:
    blind, seeing = make_simulator(vision=False), make_simulator()
    numbers(list(reader(blind, seeing).read_pages(scans(tmp_path, 4))))
    assert (blind.count(), seeing.count()) == (0, 4)
    with pytest.raises(NoVisionModelError):
        list(reader(blind, make_simulator(vision=False)).read_pages(scans(tmp_path, 1)))


def test_a_smaller_context_sends_its_pages_to_the_larger_one(make_simulator: MakeSimulator, tmp_path: Path) -> None:
    small, large = make_simulator(context_size=512), make_simulator()
    numbers(list(reader(small, large).read_pages(scans(tmp_path, 4))))
    assert (small.count(), large.count()) == (0, 4)


def test_a_server_that_is_busy_with_others_work_hands_its_page_over(
    make_simulator: MakeSimulator, tmp_path: Path
) -> None:
    busy, free = make_simulator(), make_simulator()
    busy.fault_when = always(Fault.BUSY)
    waits: list[float] = []
    engine = engine_of(tmp_path, busy, free, policy=RetryPolicy(), sleep=waits.append)
    numbers(list(read_by(engine, scans(tmp_path, 6))))
    assert sum(waits) <= 30
    assert free.count() == 6


# ── the breaker ───────────────────────────────────────────────────────────────────────────────────


def test_pages_that_cannot_be_read_never_open_the_breaker(make_simulator: MakeSimulator, tmp_path: Path) -> None:
    servers = [make_simulator(), make_simulator()]
    for server in servers:
        server.fault_when = always(Fault.EMPTY_TEXT)
    results = list(reader(*servers).read_pages(scans(tmp_path, 8)))
    assert [(result.page_number, result.status) for result in results] == [(n, "failed") for n in range(1, 9)]


def test_failures_of_all_servers_open_the_breaker(make_simulator: MakeSimulator, tmp_path: Path) -> None:
    servers = [make_simulator(), make_simulator()]
    for server in servers:
        server.fault_when = always(Fault.NULL)
    results: list[PageResult] = []
    with pytest.raises(NoServerAvailableError, match="3 pages in a row"):
        results.extend(reader(*servers).read_pages(scans(tmp_path, 20)))
    asked = [result.page_number for result in results if not result.is_due]
    assert asked in ([1, 2, 3], [1, 2, 3, 4]), "what was begun is finished"
    assert [result.page_number for result in results] == list(range(1, 21)), "the others are named, and still due"
    assert {result.status for result in results} == {"failed"}


# ── the end ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("how", ["close", "cancel", "error"])
def test_whatever_ends_the_run_ends_the_jobs(
    make_simulator: MakeSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    one, two, three = make_simulator(), make_simulator(), make_simulator()
    before = set(threading.enumerate())
    one.fault(None, Fault.HANG)
    two.fault(None, Fault.HANG)
    cancel = threading.Event()
    ledger = Ledger(None)
    transcriber = reader(one, two, three).transcriber(ledger, cancel=cancel)
    results = transcriber.run(select([scans(tmp_path, 60)]).files)
    taken = [next(results)]
    assert both_run(one, two, request=2)
    if how == "close":
        results.close()
    elif how == "cancel":
        cancel.set()
        taken.extend(results)
    else:

        def failing(*_: Any, **__: Any) -> None:
            raise LedgerError("the disk is full")

        monkeypatch.setattr(ledger, "record", failing)
        with pytest.raises(LedgerError, match="disk is full"):
            taken.extend(results)
    assert numbers(taken) == list(range(1, len(taken) + 1))
    assert len(taken) < 60
    for server in (one, two):
        assert server.count("/api/extra/abort") == 1
        assert server.wait_for(lambda server=server: not server.running)  # type: ignore[misc]
    ours = [one for one in threading.enumerate() if one.name.startswith("kobold-reader") and one not in before]
    for thread in ours:
        assert "/api/v1/generate" in thread.name, "only an abandoned request may still hear that it was aborted"
        thread.join(5)
    assert not [thread.name for thread in ours if thread.is_alive()]
    ledger.close()


def test_an_async_task_that_is_cancelled_aborts_the_jobs_on_all_servers(
    make_simulator: MakeSimulator, tmp_path: Path
) -> None:
    one, two = make_simulator(), make_simulator()
    one.fault_when = two.fault_when = always(Fault.HANG)
    file = scans(tmp_path, 6)

    async def main() -> None:
        with reader(one, two) as both:
            task = asyncio.create_task(both.aload_data(file))
            assert await asyncio.to_thread(both_run, one, two)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    for server in (one, two):
        assert server.wait_for(lambda server=server: not server.running)  # type: ignore[misc]
        assert server.count("/api/extra/abort") == 1


# ── all servers gone ──────────────────────────────────────────────────────────────────────────────


def engine_of(folder: Path, *servers: KoboldSimulator, **options: Any) -> KoboldEngine:
    options.setdefault("policy", RetryPolicy(base_s=0.01, cap_s=0.02))
    urls = [server.url for server in servers]
    pool = ServerPool(urls, lock_dir=folder / "locks", random=lambda: 0.0, **options)
    return KoboldEngine(pool, ReadOptions())


def read_by(engine: KoboldEngine, file: Path) -> Iterator[PageResult]:
    options = KoboldReader(tasks=["ocr"], rotate=0).options
    with closing(engine), Ledger(None) as ledger:
        yield from Transcriber(LocalPageReader(engine, 0), ledger, options).run(select(file).files)


class Time:
    """A clock that only sleeping moves."""

    def __init__(self, during: Callable[[float], None]) -> None:
        self.now_s = 1000.0
        self._during = during
        self._lock = threading.Lock()

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.now_s += seconds
            self._during(self.now_s - 1000.0)

    def clock(self) -> float:
        return self.now_s


@pytest.mark.parametrize("count", [1, 2])
def test_a_night_outlives_a_restart_of_the_last_server(
    make_simulator: MakeSimulator, tmp_path: Path, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    servers = [make_simulator() for _ in range(count)]
    first = servers[0]
    returns = iter([first.restart])

    def during(waited_s: float) -> None:
        if waited_s >= 240:
            for restart in returns:
                restart()

    time = Time(during)
    policy = RetryPolicy(outage_patience_s=600)
    engine = engine_of(tmp_path, *servers, policy=policy, sleep=time.sleep, clock=time.clock)
    results = read_by(engine, scans(tmp_path, 12))
    taken = [next(results)]
    for server in servers:
        server.stop()
    taken.extend(results)
    assert numbers(taken) == list(range(1, 13))
    assert "Waiting up to 10 min for a server to come back" in caplog.text


def test_an_address_that_never_answered_is_not_waited_for(tmp_path: Path) -> None:
    waits: list[float] = []
    pool = ServerPool(
        ["http://127.0.0.1:9"], policy=RetryPolicy(outage_patience_s=600), sleep=waits.append, lock_dir=tmp_path
    )
    with pytest.raises(NoServerAvailableError):
        KoboldEngine(pool, ReadOptions()).prepare()
    assert waits == []
