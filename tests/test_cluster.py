"""Reading on a Ray cluster: what a lost server or actor costs, and what comes out of it.

What the actors do is tested without Ray, in threads of the driver; a few runs on a real cluster, on this machine, show
that Ray does its part.
"""

from __future__ import annotations

import functools
import itertools
import json
import pickle
import re
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image

from kobold_reader import KoboldReader
from kobold_reader.cli import app as cli
from kobold_reader.cluster import COLUMNS, LostActorError, NodeReader, connect, error_row, page_row, transcriber
from kobold_reader.errors import (
    ClusterError,
    ConfigError,
    KoboldReaderError,
    MissingExtraError,
    NoServerAvailableError,
    ServerConnectionError,
    SourceNotFoundError,
)
from kobold_reader.pages import SourceFile, select
from kobold_reader.reading.ledger import KnownPage, Ledger
from kobold_reader.reading.results import PageResult
from tests.kobold_simulator import Fault, KoboldSimulator, ScriptBrain
from tests.test_reading_several import always, number_of, numbers, reader, scans

# Ray copies its own settings, and so sets those that it calls deprecated.
pytestmark = pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.")

MakeSimulator = Callable[..., KoboldSimulator]


@pytest.fixture
def make_simulator(make_simulator: MakeSimulator) -> MakeSimulator:
    """Servers whose model says which page it saw."""
    return functools.partial(
        make_simulator, brain=ScriptBrain(lambda request: f"This is page {number_of(request)}, of 1954.")
    )


# ── actors, in threads ────────────────────────────────────────────────────────────────────────────


class ThreadActors:
    """The same actors in this process in place of a cluster's; what goes to them and comes back is pickled, too."""

    losses: ClassVar[Collection[int]] = ()
    """After how many pages read the actor is lost, before the driver hears of the page."""
    started: ClassVar[list[str]]
    """URLs of the actors' servers."""

    def __init__(self, _address: str) -> None:
        self._read = itertools.count(1)

    def start(self, own: KoboldReader, url: str) -> NodeReader:
        self.started.append(url)
        return NodeReader(pickle.loads(pickle.dumps(own)), url)  # noqa: S301

    def call(self, actor: NodeReader, method: str, *arguments: Any, **_: Any) -> Any:
        answer = getattr(actor, method)(*pickle.loads(pickle.dumps(arguments)))  # noqa: S301
        if method == "read" and next(self._read) in self.losses:
            raise LostActorError("it was killed")
        return pickle.loads(pickle.dumps(answer))  # noqa: S301


@pytest.fixture
def in_threads(monkeypatch: pytest.MonkeyPatch) -> type[ThreadActors]:
    monkeypatch.setattr(ThreadActors, "started", [], raising=False)
    monkeypatch.setattr("kobold_reader.cluster.RayActors", ThreadActors)
    return ThreadActors


def run(own: KoboldReader, *paths: Path, **options: Any) -> list[PageResult]:
    with own.open_ledger() as ledger:
        return list(transcriber(own.session, ledger, **options).run(select(paths).files))


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://[::1]:9", "no-port", "not.a.machine.invalid:6379"])
def test_an_address_without_a_cluster_is_told_at_once(address: str) -> None:
    """Ray tries such an address for many minutes."""
    with pytest.raises(
        ClusterError, match=f"No Ray cluster answers at {re.escape(repr(address))} [(](?!invalid literal)"
    ):
        connect(address)


@pytest.mark.slow
def test_an_actor_that_is_lost_costs_the_page_it_was_at(
    in_threads: type[ThreadActors], make_simulator: MakeSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_threads, "losses", {2, 9, 16})  # far apart: two pages at once lose the same actor
    one, two = make_simulator(), make_simulator()
    results = run(reader(one, two), scans(tmp_path, 20))
    assert numbers(results) == list(range(1, 21))
    assert one.count() + two.count() <= 20 + 3
    assert len(in_threads.started) == 2 + 3


@pytest.mark.slow
def test_a_page_whose_actor_is_lost_every_time_ends_the_run(
    in_threads: type[ThreadActors], make_simulator: MakeSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_threads, "losses", range(100))
    with pytest.raises(ClusterError, match="lost 3 times"):
        run(reader(make_simulator()), scans(tmp_path, 2))


@pytest.mark.slow
@pytest.mark.usefixtures("in_threads")
def test_different_models_are_refused_before_the_first_page(make_simulator: MakeSimulator, tmp_path: Path) -> None:
    one, two = make_simulator(), make_simulator(model="gemma-3-12b-it-Q4_K_M", projector="gemma3")
    with pytest.raises(ConfigError) as caught:
        run(reader(one, two), scans(tmp_path, 3))
    assert all(part in str(caught.value) for part in (one.url, two.url, one.model, two.model))
    assert one.count() == two.count() == 0


@pytest.mark.slow
@pytest.mark.usefixtures("in_threads")
def test_a_server_that_comes_later_with_another_model_is_left_out(
    make_simulator: MakeSimulator, tmp_path: Path
) -> None:
    one, two = make_simulator(), make_simulator()
    two.stop()
    with reader(one, two) as own, own.open_ledger() as ledger:
        results = transcriber(own.session, ledger).run(select([scans(tmp_path, 8)]).files)
        taken = [next(results)]
        two.restart(model="gemma-3-12b-it-Q4_K_M", projector="gemma3")
        one.fault(Fault.NULL, Fault.NULL)  # so that the other server is asked for a page
        taken.extend(results)
    assert two.count() >= 1
    assert [result.page_number for result in taken] == list(range(1, 9))
    assert {reading.model for result in taken for reading in result.readings.values()} == {one.model}
    assert sum(result.status == "failed" for result in taken) == 1, "and only that page's error is left"


@pytest.mark.slow
@pytest.mark.usefixtures("in_threads")
@pytest.mark.thorough
def test_an_outage_is_waited_for_as_long_as_was_asked(make_simulator: MakeSimulator, tmp_path: Path) -> None:
    one = make_simulator()
    with reader(one, outage_patience_s=60) as own, own.open_ledger() as ledger:
        results = transcriber(own.session, ledger).run(select([scans(tmp_path, 6)]).files)
        taken = [next(results)]
        one.stop()
        threading.Timer(8, one.restart).start()
        taken.extend(results)
    assert numbers(taken) == list(range(1, 7))


@pytest.mark.slow
@pytest.mark.usefixtures("in_threads")
def test_a_model_that_only_reads_is_asked_for_no_caption(make_simulator: MakeSimulator, tmp_path: Path) -> None:
    one = make_simulator(model="olmOCR-2-7B-1025-Q4_K_M")
    book = scans(tmp_path, 2)
    results = run(KoboldReader(api_url=one.url, rotate=0, ledger="none"), book)
    assert [set(result.readings) for result in results] == [{"ocr"}] * 2
    with pytest.raises(ConfigError, match="cannot do the task 'caption'"):
        run(reader(one, tasks=["ocr", "caption"]), book)


@pytest.mark.slow
@pytest.mark.usefixtures("in_threads")
def test_a_blank_page_is_known_to_be_blank(make_simulator: MakeSimulator, tmp_path: Path) -> None:
    one = make_simulator()
    Image.new("L", (400, 300), 255).save(tmp_path / "blank.png")
    own = reader(one, ledger=str(tmp_path / "ledger.sqlite"))
    for is_kept in (False, True):
        (result,) = run(own, tmp_path / "blank.png")
        assert (result.status, result.is_kept) == ("blank", is_kept)
    assert one.count() == 0


@pytest.mark.slow
@pytest.mark.parametrize("fault", [Fault.NULL, Fault.DROP_IMAGES, Fault.UNAUTHORIZED])
def test_a_server_that_fails_costs_no_page(
    in_threads: type[ThreadActors], make_simulator: MakeSimulator, tmp_path: Path, fault: Fault
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

    monkeypatch.setattr("kobold_reader.cluster.connect", join)
    book = scans(tmp_path, 3)
    with pytest.raises(ClusterError, match="nobody is there"):
        run(own, book, address="there:6379")
    with monkeypatch.context() as patch:
        patch.setattr(ThreadActors, "started", [], raising=False)
        patch.setattr("kobold_reader.cluster.RayActors", ThreadActors)
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
        results = list(transcriber(own.session, ledger).run(files))
        assert numbers(results) == [1, 2, 3, 4]
        assert all(result.source is files[0] for result in results)


def test_rapidocr_and_a_missing_ray_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with KoboldReader(ledger="none") as own, own.open_ledger() as ledger:
        with pytest.raises(ConfigError, match="RapidOCR"):
            transcriber(own.changed(engine="rapidocr").session, ledger)
        monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
        with pytest.raises(MissingExtraError, match=r"install .*\[ray\]"):
            transcriber(own.session, ledger)


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
    """End one of the actors as a system short of memory would."""
    import psutil

    for process in psutil.Process().children(recursive=True):
        if "ray::" in " ".join(process.cmdline()) and "NodeReader" in " ".join(process.cmdline()):
            process.kill()
            return
    pytest.fail("no actor is running")


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="processes are told apart by their titles")
def test_a_dead_server_and_a_killed_actor_cost_no_page_and_a_rerun_asks_nothing(
    ray: Any, make_simulator: MakeSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kobold_reader.cluster import read_pages

    one, two = make_simulator(service_s=0.2), make_simulator(service_s=0.2)
    own = reader(ledger=str(tmp_path / "ledger.sqlite"))
    recorded: list[int] = []
    record = Ledger.record

    def watched(self: Ledger, source: SourceFile, sha256: str, known: KnownPage, *rest: Any) -> None:
        record(self, source, sha256, known, *rest)
        recorded.append(known.facts.page_number)
        if len(recorded) == 3:
            kill_an_actor()
        if len(recorded) == 6:
            two.stop()

    monkeypatch.setattr(Ledger, "record", watched)
    book = scans(tmp_path, 24)
    dataset = read_pages([book, tmp_path / "gone.pdf"], [one.url, two.url], reader=own)
    assert sorted(recorded) == list(range(1, 25)), "each page was recorded once"
    assert one.count() + two.count() <= 24 + 2 * 5, "what was lost, and what a server that is gone was asked again"
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

    one, two = make_simulator(), make_simulator()
    book = str(scans(tmp_path, 6))
    servers = ["--api-url", one.url, "--api-url", two.url, "--tasks", "ocr", "--ray", "local"]

    def kobold(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["kobold-reader", *arguments, *servers])
        capsys.readouterr()
        assert cli.run() == 0
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
        with closing(transcriber(own.session, ledger).run(select([scans(tmp_path, 5)]).files)) as results:
            assert next(results).page_number == 1
            assert one.wait_for(lambda: one.running and one.count() == 2)
        assert one.wait_for(lambda: not one.running)
    assert one.count("/api/extra/abort") == 1


def test_errors_travel() -> None:
    """What an actor raises arrives as it was."""
    error = ServerConnectionError("gone.", server="http://one").at("file", 3)
    again: KoboldReaderError = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (type(again), str(again)) == (type(error), str(error))
