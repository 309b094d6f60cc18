"""A Ray cluster of several nodes, all on this machine: where the actors run, and what a lost node costs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kobold_reader.pages import SourceFile
from kobold_reader.reading.ledger import KnownPage, Ledger
from tests.test_cluster import MakeSimulator, make_simulator
from tests.test_reading_several import numbers, reader, scans

__all__ = ["make_simulator"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.thorough,
    pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\."),
]


@pytest.fixture
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two nodes, the driver beside the first."""
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    from kobold_reader.cluster import connect, session

    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("ray-home")
        for name in ("HOME", "USERPROFILE", "XDG_DATA_HOME", "LOCALAPPDATA", "APPDATA"):
            patch.setenv(name, str(home))
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        try:
            cluster.add_node(num_cpus=1)
            with session():
                connect(cluster.address)
                yield cluster
        finally:
            cluster.shutdown()


def count_actors(node: Any) -> int:
    """How many actors run on a node, whose processes are its raylet's children."""
    import psutil

    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    return sum("NodeReader" in " ".join(process.cmdline()) for process in raylet.children(recursive=True))


def test_a_node_that_is_lost_costs_no_page(
    nodes: Any, make_simulator: MakeSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = make_simulator(service_s=0.5), make_simulator(service_s=0.5)
    recorded: list[int] = []
    seen: list[int] = []
    record = Ledger.record

    def watched(self: Ledger, source: SourceFile, sha256: str, known: KnownPage, *rest: Any) -> None:
        record(self, source, sha256, known, *rest)
        recorded.append(known.facts.page_number)
        if len(recorded) == 4:
            (other,) = nodes.worker_nodes
            seen.extend(count_actors(node) for node in (nodes.head_node, other))
            nodes.remove_node(other, allow_graceful=False)

    monkeypatch.setattr(Ledger, "record", watched)
    own = reader(one, two, ledger=str(tmp_path / "ledger.sqlite"))
    book = scans(tmp_path, 24)
    with own.open_ledger() as ledger:
        from kobold_reader.cluster import transcriber
        from kobold_reader.pages import select

        results = list(transcriber(own.session, ledger, address=nodes.address).run(select([book]).files))
    assert seen == [1, 1], "an actor on each node"
    assert numbers(results) == list(range(1, 25))
    assert sorted(recorded) == list(range(1, 25)), "each page was recorded once"
    assert one.count() + two.count() <= 24 + 1, "only the page in hand was asked again"
