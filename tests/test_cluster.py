"""Reading on a Ray cluster: what a lost server, actor or driver costs, and what comes out of it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kobold_reader.pages import select
from kobold_reader.reading.results import PageResult
from tests.kobold_simulator import KoboldSimulator, ScriptBrain
from tests.test_reading_several import number_of, numbers, reader, scans

# Ray copies its own settings, and so sets those that it calls deprecated.
pytestmark = pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.")

MakeSimulator = Callable[..., KoboldSimulator]


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


@pytest.fixture
def make_simulator(make_simulator: MakeSimulator) -> MakeSimulator:
    """Servers whose model says which page it saw."""
    return functools.partial(
        make_simulator, brain=ScriptBrain(lambda request: f"This is page {number_of(request)}, of 1954.")
    )


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_a_server_that_dies_on_the_way_costs_no_page_and_a_rerun_asks_nothing(
    make_simulator: MakeSimulator, tmp_path: Path
) -> None:
    from kobold_reader.cluster import transcriber

    t = time.time()
    one, two = make_simulator(service_s=0.1), make_simulator(service_s=0.1)
    book = scans(tmp_path, 24)
    own = reader(one, two, ledger=str(tmp_path / "ledger.sqlite"))
    results: list[PageResult] = []
    with own.open_ledger() as ledger:
        for result in transcriber(own, ledger).run(select([book]).files):
            results.append(result)
            print(time.time() - t, result.page_number, result.status, result.error)
            if len(results) == 3:
                two.stop()
    assert numbers(results) == list(range(1, 25))
    asked = one.count()
    with own.open_ledger() as ledger:
        again = list(transcriber(own, ledger).run(select([book]).files))
    assert numbers(again) == list(range(1, 25))
    assert all(result.is_kept for result in again)
    assert one.count() == asked
