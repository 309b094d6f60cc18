"""The benchmarks run, in their smallest size; what they find does not matter here, but for what must always hold."""

from __future__ import annotations

import sys

import pytest

from kobold_reader.embeddings import MiniLMEmbedding
from tests.benchmarks import (
    born_digital,
    embedding,
    memory,
    page_preparation,
    rerun,
    searchable_pdf,
    second_task,
    server_utilisation,
    start,
)

pytestmark = pytest.mark.slow


@pytest.mark.thorough
def test_start() -> None:
    seconds = start.main(["--rounds", "1"])
    assert 0 < seconds[start.EMPTY] < seconds[start.HELP]
    # Layout analysis and onnxruntime, which the bare import brings, cost more than all that the child loads.
    assert seconds[start.CHILD] < seconds[start.PYMUPDF]


@pytest.mark.thorough
@pytest.mark.skipif(not MiniLMEmbedding.available(), reason="MiniLM is not installed")
def test_embedding() -> None:
    found = embedding.main(["--passages", "8"])
    assert found["least cosine"] > 0.99, "archives made with exact vectors stay as they are"
    assert found["processor ratio"] > 1


@pytest.mark.thorough
def test_born_digital() -> None:
    times = born_digital.main(["--quick"])
    # So few pages may take less time than two starts differ by: the ratios say nothing here.
    assert set(times) == {"book", "paper", "tables", "letters, a file each"}


@pytest.mark.thorough
def test_rerun() -> None:
    found = rerun.main(["--pages", "5", "--rounds", "1"])
    assert found["opened"] == 0
    assert found[rerun.DOCUMENTS] > 0


@pytest.mark.thorough
def test_page_preparation(capsys: pytest.CaptureFixture[str]) -> None:
    ms = page_preparation.main(["--quick"])
    said = capsys.readouterr().out
    assert all(each > 0 for each in ms.values())
    assert "passthrough" in said
    assert "rendered" in said


def test_second_task(capsys: pytest.CaptureFixture[str]) -> None:
    assert second_task.main(["--quick"])
    rows = [[cell.strip() for cell in line.split("|")] for line in capsys.readouterr().out.splitlines()]
    counted = {row[1]: (row[2], float(row[4]), float(row[5])) for row in rows if row[1:2] in (["1.115.1"], ["1.76"])}
    asked = len(second_task.TASKS)
    assert counted["1.115.1"] == ("whole", asked, 1)
    kind, requests, encodings = counted["1.76"]
    assert kind == "cut"
    assert requests == encodings > asked


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform != "linux", reason="no other system tells another process's peak")
def test_memory() -> None:
    (beyond,) = memory.main(["--pages", "3"]).values()
    assert min(beyond) > 0


@pytest.mark.thorough
def test_server_utilisation() -> None:
    ours, floor = server_utilisation.main(["--service-ms", "20", "--pages", "2", "--servers", "1"])
    assert (ours.who, floor.who) == ("kobold-reader", server_utilisation.FLOOR)
    assert 0 < ours.busy < 1


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_searchable_pdf() -> None:
    found = searchable_pdf.main(["--pages", "4", "40"])
    assert all(row["page_ms"] > 0 for row in found.values())
