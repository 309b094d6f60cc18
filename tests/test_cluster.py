"""Reading on a Ray cluster: what a lost server or actor costs, and what comes out of it.

What the actors do is tested without Ray, in threads that speak with a foreman; a few runs on a real cluster, on this
machine, show that Ray does its part.
"""

from __future__ import annotations

import functools
import itertools
import json
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from kobold_reader import KoboldReader
from kobold_reader.cli import app as cli
from kobold_reader.cluster import driver as team
from kobold_reader.cluster.dataset import COLUMNS, error_row, page_row
from kobold_reader.cluster.driver import ClusterTranscriber, transcriber
from kobold_reader.cluster.foreman import LOST_AFTER_S, Foreman
from kobold_reader.cluster.unit_reader import PageToRead, ReadPage, UnitReader, in_units
from kobold_reader.errors import (
    ClusterError,
    ConfigError,
    KoboldReaderError,
    MissingExtraError,
    NoServerAvailableError,
    ServerConnectionError,
    SourceNotFoundError,
)
from kobold_reader.pages import select
from kobold_reader.reading.results import PageResult
from tests.kobold_simulator import Fault, KoboldSimulator, ScriptBrain
from tests.test_reading_several import always, number_of, numbers, reader, scans

# Ray copies its own settings, and so sets those that it calls deprecated.
pytestmark = pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.")

MakeSimulator = Callable[..., KoboldSimulator]
ONE, TWO = "http://one", "http://two"


@pytest.fixture
def make_simulator(make_simulator: MakeSimulator) -> MakeSimulator:
    """Servers whose model says which page it saw."""
    return functools.partial(
        make_simulator, brain=ScriptBrain(lambda request: f"This is page {number_of(request)}, of 1954.")
    )


# ── the foreman ───────────────────────────────────────────────────────────────────────────────────


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_each_reader_keeps_its_server_and_the_rest_wait_their_turn() -> None:
    clock = Clock()
    foreman = Foreman([ONE, TWO], clock=clock)
    assert foreman.take("a") == (ONE, False)
    assert foreman.take("b") == (TWO, False)
    assert foreman.take("c") == (None, True)
    foreman.give_back("b", TWO)
    assert foreman.take("b") == (None, True), "c has waited longer"
    assert foreman.take("c") == (TWO, False)
    foreman.give_back("c", TWO)
    foreman.give_back("a", ONE)
    clock.now_s += 3  # b does not ask any more
    assert foreman.take("c") == (TWO, False)
    assert foreman.take("a") == (ONE, False)


def test_a_reader_that_was_lost_gives_its_server_back_by_its_silence_or_when_it_is_started_anew() -> None:
    clock = Clock()
    foreman = Foreman([ONE], clock=clock)
    foreman.take("a")
    for _ in range(3):
        clock.now_s += LOST_AFTER_S - 1
        foreman.hear("a")
    assert foreman.take("b") == (None, True)
    assert foreman.take("a") == (None, True), "it has lost it, and b was first"
    clock.now_s += 3
    assert foreman.take("a") == (ONE, False), "b does not ask any more"
    clock.now_s += LOST_AFTER_S + 1
    assert foreman.take("b") == (ONE, False)


def test_a_server_that_failed_is_left_alone_then_tried_and_the_end_is_named() -> None:
    clock = Clock()
    foreman = Foreman([ONE, TWO], 600, clock=clock)
    gone = ServerConnectionError("nobody listens there.", server=ONE)
    foreman.take("a")
    foreman.give_back("a", ONE, gone)
    assert foreman.take("a") == (TWO, False)
    assert foreman.take("b") == (None, True), "better wait than ask a server that is gone"
    assert "nobody listens" in foreman.news()[0]
    assert foreman.news() == []
    foreman.give_back("a", TWO, gone)
    clock.now_s += 3
    assert foreman.take("a", {TWO}) == (ONE, False), "there is no other"
    assert foreman.take("b", {ONE, TWO}) == (None, False)
    assert not foreman.is_waited_for(), "none has ever worked"
    assert isinstance(foreman.error(), NoServerAvailableError)
    assert foreman.hear("a") == "begin nothing"


def test_an_outage_is_waited_for_as_long_as_was_asked() -> None:
    clock = Clock()
    foreman = Foreman([ONE], 600, clock=clock)
    foreman.runs(ONE, "model")
    assert foreman.is_waited_for()
    clock.now_s += 599
    assert foreman.is_waited_for()
    clock.now_s += 2
    assert not foreman.is_waited_for()


def test_different_models_end_the_run_and_an_order_is_not_taken_back() -> None:
    foreman = Foreman([ONE, TWO])
    foreman.runs(ONE, "one model")
    foreman.order("stop")
    foreman.runs(TWO, "another model")
    assert foreman.hear("a") == "stop"
    error = foreman.error()
    assert isinstance(error, ConfigError)
    assert all(part in str(error) for part in (ONE, "one model", TWO, "another model"))


def test_a_unit_is_remembered_for_a_while_after_it_came_home() -> None:
    foreman = Foreman([ONE])
    for unit in range(5):
        foreman.keep(unit, f"page of {unit}")
        foreman.forget(unit)
    assert foreman.rows(4) == ["page of 4"], "its reader may be lost before Ray has heard its end"
    assert foreman.rows(0) == [], "but not for ever"


# ── units and rows ────────────────────────────────────────────────────────────────────────────────


def test_units_are_of_one_task_each_and_small_enough_to_spread() -> None:
    def page(position: int, *tasks: str) -> PageToRead:
        return PageToRead(position, None, None, None, tasks)  # type: ignore[arg-type]

    count = itertools.count(7)
    units = in_units([page(n, "ocr") for n in range(500)], servers=2, numbers=count)
    assert {len(unit.pages) for unit in units} == {16, 4}
    assert [unit.number for unit in units] == list(range(7, 7 + len(units)))
    assert [p.position for unit in units for p in unit.pages] == list(range(500))
    mixed = in_units([page(n, "ocr" if n < 18 else "caption") for n in range(40)], servers=2, numbers=count)
    assert all({page.tasks for page in unit.pages} == {unit.tasks} for unit in mixed)
    assert in_units([], servers=2, numbers=count) == []


# ── readers, in threads ───────────────────────────────────────────────────────────────────────────


class ThreadTeam(team.Team):
    """The same readers and the same foreman, in threads of this process in place of a cluster's actors."""

    loses: Callable[[int], bool] = staticmethod(lambda _: False)
    """After so many pages: whether the reader is lost with all that it knows."""

    @override
    def read(self, pages: Any) -> Iterator[ReadPage]:
        foreman = Foreman(self._urls, self._reader.outage_patience_s)
        lock = threading.RLock()
        came: list[ReadPage] = []
        units = in_units(pages, servers=len(self._urls), numbers=itertools.count())
        errors: list[BaseException] = []

        def call(method: str, *arguments: Any) -> Any:
            with lock:
                return getattr(foreman, method)(*arguments)

        def work(name: str) -> None:
            try:
                actor = UnitReader(self._reader, call, name)
                while units:
                    unit = units.pop(0)
                    known = len(call("rows", unit.number))
                    for page in itertools.islice(actor.read(unit), known, None):
                        came.append(page)
                        if self.loses(len(came)):
                            units.insert(0, unit)  # as Ray does: begun again from the start
                            actor = UnitReader(self._reader, call, name)
                            break
            except BaseException as err:  # noqa: BLE001
                errors.append(err)

        threads = [threading.Thread(target=work, args=(f"reader {number}",)) for number in range(len(self._urls))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        call("order", "stop")
        assert not errors, errors
        self.error = foreman.error()
        yield from came


@pytest.fixture
def in_threads(monkeypatch: pytest.MonkeyPatch) -> type[ThreadTeam]:
    monkeypatch.setattr("kobold_reader.cluster.driver.Team", ThreadTeam)
    return ThreadTeam


def run(own: KoboldReader, *paths: Path, **options: Any) -> list[PageResult]:
    with own.open_ledger() as ledger:
        return list(transcriber(own, ledger, **options).run(select(paths).files))


@pytest.mark.slow
def test_a_reader_that_is_lost_costs_the_page_it_was_at(
    in_threads: type[ThreadTeam], make_simulator: MakeSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_threads, "loses", staticmethod(lambda came: came in {2, 5, 9}))
    one, two = make_simulator(), make_simulator()
    results = run(reader(one, two), scans(tmp_path, 20))
    assert numbers(results) == list(range(1, 21))
    assert one.count() + two.count() <= 20 + 3


@pytest.mark.slow
@pytest.mark.parametrize("fault", [Fault.NULL, Fault.DROP_IMAGES, Fault.UNAUTHORIZED])
def test_a_server_that_fails_costs_no_page(
    in_threads: type[ThreadTeam], make_simulator: MakeSimulator, tmp_path: Path, fault: Fault
) -> None:
    assert in_threads
    bad, good = make_simulator(), make_simulator()
    bad.fault_when = always(fault)
    assert numbers(run(reader(bad, good), scans(tmp_path, 10))) == list(range(1, 11))


@pytest.mark.slow
@pytest.mark.usefixtures("in_threads")
def test_when_all_servers_are_gone_the_run_ends_by_name_and_the_next_goes_on(
    make_simulator: MakeSimulator, tmp_path: Path
) -> None:
    one, two = make_simulator(), make_simulator()

    def stop() -> None:
        one.stop()
        two.stop()

    def dying(_: Any) -> None:
        if one.count() + two.count() == 6:
            threading.Thread(target=stop).start()

    one.fault_when = two.fault_when = dying
    book = scans(tmp_path, 12)
    own = reader(one, two, ledger=str(tmp_path / "ledger.sqlite"))
    with pytest.raises(NoServerAvailableError, match="None of the 2 servers"):
        run(own, book)
    with own.open_ledger() as ledger:
        kept = ledger.count()["ok"]
    assert 0 < kept < 12
    one.restart(fault_when=None)
    two.restart(fault_when=None)
    before = one.count() + two.count()
    results = run(own, book)
    assert numbers(results) == list(range(1, 13))
    assert one.count() + two.count() == before + 12 - kept, "only what is missing"


@pytest.mark.slow
@pytest.mark.usefixtures("in_threads")
def test_what_is_due_is_the_drivers_to_say(make_simulator: MakeSimulator, tmp_path: Path) -> None:
    one, two = make_simulator(), make_simulator()
    servers = (one, two)
    book = scans(tmp_path, 3)
    scans(tmp_path, 3, name="copy.tif")  # the same scans in another file
    ledger = str(tmp_path / "ledger.sqlite")

    def count() -> int:
        return one.count() + two.count()

    first = run(reader(*servers, ledger=ledger), tmp_path)
    assert [result.status for result in first] == ["ok"] * 6
    assert count() == 3, "the same scan is asked once"
    more = run(reader(*servers, ledger=ledger, tasks=["ocr", "caption"]), book)
    assert count() == 6, "only the caption was missing"
    assert all(set(result.readings) == {"ocr", "caption"} for result in more)
    again = run(reader(*servers, ledger=ledger, redo="all", pages="2-"), book)
    assert [result.page_number for result in again] == [2, 3]
    assert count() == 8
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.7 and no more")
    broken = run(reader(*servers, ledger=ledger), tmp_path / "broken.pdf")
    assert [(result.page_number, result.status) for result in broken] == [(0, "failed")]


@pytest.mark.slow
def test_nothing_due_joins_no_cluster(
    make_simulator: MakeSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = reader(make_simulator(), ledger=str(tmp_path / "ledger.sqlite"))
    joined: list[str] = []

    def join(address: str) -> None:
        joined.append(address)
        raise ClusterError("nobody is there.")

    monkeypatch.setattr("kobold_reader.cluster.driver.connect", join)
    book = scans(tmp_path, 3)
    with pytest.raises(ClusterError, match="nobody is there"):
        run(own, book, address="there:6379")
    with monkeypatch.context() as patch:
        patch.setattr("kobold_reader.cluster.driver.Team", ThreadTeam)
        assert numbers(run(own, book)) == [1, 2, 3]
    assert numbers(run(own, book, address="there:6379")) == [1, 2, 3]
    assert joined == ["there:6379"], "the last run found everything in the ledger"


@pytest.mark.slow
@pytest.mark.usefixtures("in_threads")
def test_two_runs_with_one_ledger_ask_for_no_page_twice(make_simulator: MakeSimulator, tmp_path: Path) -> None:
    one, two = make_simulator(service_s=0.1), make_simulator(service_s=0.1)
    book = scans(tmp_path, 8)
    ledger = str(tmp_path / "ledger.sqlite")
    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(run, reader(server, ledger=ledger), book) for server in (one, two)]
        assert [numbers(each.result(timeout=60)) for each in both] == [list(range(1, 9))] * 2
    assert one.count() + two.count() == 8


@pytest.mark.slow
@pytest.mark.usefixtures("in_threads")
def test_a_page_that_no_server_can_read_is_named(make_simulator: MakeSimulator, tmp_path: Path) -> None:
    one, two = make_simulator(), make_simulator()
    one.fault_when = two.fault_when = always(Fault.EMPTY_TEXT)
    results = run(reader(one, two, on_error="skip"), scans(tmp_path, 4))
    assert [(result.page_number, result.status) for result in results] == [(n, "failed") for n in range(1, 5)]
    for result in results:
        assert result.error
        assert result.error.page_number == result.page_number
        row = page_row(result)
        assert row.keys() == COLUMNS.keys()
        assert row["text"] == ""
        assert f"page {result.page_number}" in row["page_error"]


@pytest.mark.slow
@pytest.mark.usefixtures("in_threads")
def test_files_elsewhere_are_fetched_by_the_readers(make_simulator: MakeSimulator, tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "scans.zip", "w") as archive:
        archive.write(scans(tmp_path, 4), "box/scans.tif")
    one = make_simulator()
    with reader(one) as own, own.open_ledger() as ledger:
        files = select([f"zip://box::{tmp_path / 'scans.zip'}"]).files
        results = list(transcriber(own, ledger).run(files))
        assert numbers(results) == [1, 2, 3, 4]
        assert all(result.source is files[0] for result in results)


def test_rapidocr_and_a_missing_ray_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with KoboldReader(ledger="none") as own, own.open_ledger() as ledger:
        with pytest.raises(ConfigError, match="RapidOCR"):
            transcriber(own.model_copy(update={"engine": "rapidocr"}), ledger)
        monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
        with pytest.raises(MissingExtraError, match=r"kobold-reader\[ray\]"):
            transcriber(own, ledger)


def test_a_row_of_what_could_not_be_looked_at_has_the_same_columns() -> None:
    row = error_row(SourceNotFoundError("There is no such file.", source="file:///gone"))
    assert row.keys() == COLUMNS.keys()
    assert (row["uri"], row["page_number"], row["error_kind"]) == ("file:///gone", 0, "SourceNotFoundError")


# ── on a real cluster ─────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A Ray cluster on this machine, one for all tests here: it takes seconds to start."""
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    from kobold_reader.cluster import connect, session

    with pytest.MonkeyPatch.context() as patch:  # what Ray starts lives in another home than each test's own
        home = tmp_path_factory.mktemp("ray-home")
        for name in ("HOME", "USERPROFILE", "XDG_DATA_HOME", "LOCALAPPDATA", "APPDATA"):
            patch.setenv(name, str(home))
        with session():
            yield connect()


def kill_an_actor() -> None:
    """End one of the readers as a system short of memory would."""
    import psutil

    for process in psutil.Process().children(recursive=True):
        if "ray::" in " ".join(process.cmdline()) and "MapWorker" in " ".join(process.cmdline()):
            process.kill()
            return
    pytest.fail("no reader is running")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="processes are told apart by their titles")
def test_a_dead_server_and_a_killed_actor_cost_no_page_and_a_rerun_asks_nothing(
    ray: Any, make_simulator: MakeSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kobold_reader.cluster import read_pages

    one, two = make_simulator(service_s=0.2), make_simulator(service_s=0.2)
    own = reader(ledger=str(tmp_path / "ledger.sqlite"))
    came: list[int] = []
    plain = ClusterTranscriber._came

    def watched(self: ClusterTranscriber, page: Any, read: ReadPage) -> PageResult:
        came.append(read.position)
        if len(came) == 3:
            kill_an_actor()
        if len(came) == 6:
            two.stop()
        return plain(self, page, read)

    monkeypatch.setattr(ClusterTranscriber, "_came", watched)
    book = scans(tmp_path, 24)
    dataset = read_pages([book, tmp_path / "gone.pdf"], [one.url, two.url], reader=own)
    assert sorted(came) == list(range(24)), "each page came home once"
    dataset.write_parquet(str(tmp_path / "parquet"))
    rows = ray.data.read_parquet(str(tmp_path / "parquet")).to_pandas()
    assert set(rows.columns) == set(COLUMNS)
    pages = rows[rows.page_number > 0].sort_values("page_number")
    assert [text.split(",")[0] for text in pages.text] == [f"This is page {n}" for n in range(1, 25)]
    assert json.loads(pages.readings.iloc[0])["ocr"]["model"] == pages.model.iloc[0]
    assert list(rows[rows.page_number == 0].error_kind) == ["SourceNotFoundError"]
    before = one.count()
    again = read_pages(book, [one.url, two.url], reader=own).take_all()
    assert [row["page_number"] for row in again] == list(range(1, 25))
    assert all(row["is_kept"] for row in again)
    assert one.count() == before


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.usefixtures("ray")
def test_the_command_line_reads_and_indexes_on_a_cluster(
    make_simulator: MakeSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from kobold_reader.cli.typer_app import app

    one, two = make_simulator(), make_simulator()
    book = str(scans(tmp_path, 6))
    servers = ["--api-url", one.url, "--api-url", two.url, "--tasks", "ocr", "--ray", "local"]

    def kobold(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["kobold-reader", *arguments, *servers])
        capsys.readouterr()
        assert cli.run(app) == 0
        return capsys.readouterr().out

    folder = str(tmp_path / "archive")
    kobold("index", book, "--archive", folder, "--embedder", "none")
    assert one.count() + two.count() == 6
    out = kobold("read", book, "--format", "jsonl", "--ledger", f"{folder}/ledger.sqlite")
    assert [json.loads(line)["metadata"]["page_number"] for line in out.splitlines()] == list(range(1, 7))
    kobold("index", "--archive", folder)
    assert one.count() + two.count() == 6


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.usefixtures("ray")
def test_leaving_early_aborts_the_jobs_on_the_servers(make_simulator: MakeSimulator, tmp_path: Path) -> None:
    one = make_simulator()
    one.fault(None, Fault.HANG)
    with reader(one) as own, own.open_ledger() as ledger:
        with closing(transcriber(own, ledger).run(select([scans(tmp_path, 5)]).files)) as results:
            assert next(results).page_number == 1
            assert one.wait_for(lambda: one.running and one.count() == 2)
        assert one.wait_for(lambda: not one.running)
    assert one.count("/api/extra/abort") == 1


def test_errors_travel() -> None:
    """What an actor raises arrives as it was."""
    import pickle

    error = ServerConnectionError("gone.", server=ONE).at("file", 3)
    again: KoboldReaderError = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (type(again), str(again)) == (type(error), str(error))
