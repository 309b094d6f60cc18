"""The benchmarks run, in their smallest size; what they find does not matter here, but for what must always hold."""

from __future__ import annotations

import sys

import pytest

from kobold_reader.embeddings import MiniLMEmbedding
from kobold_reader.reading.results import Corners, Reading, joined
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
    witness,
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


@pytest.mark.thorough
def test_words_of_searchable_pdfs() -> None:
    medians = searchable_pdf.main(["--words"])
    assert min(medians.values()) > 0.9


def test_witness() -> None:
    printed = ["Skarvholm Boat Club, Quay Street", "Mooring of the schooner 12.50", "Carting of new slates 8.20"]
    lines: list[list[tuple[str, Corners, float | None]]] = []
    for number, line in enumerate([*printed, "PAID 17 JAN 2018 WITH THANKS"]):
        top = 500 + 400 * number
        lines.append([(line, (500, top, 5000, top, 5000, top + 300, 500, top + 300), 0.98)])
    text, boxes = joined(lines)
    reading = Reading("ocr", "ok", text, "rapidocr", boxes=boxes, confidence=0.98)
    pages = [
        witness.Page("whole", text, reading),
        witness.Page("stamped", "\n".join(printed), reading, completeness="stamp"),
    ]
    accused = witness.false_accusations(pages, names=False)
    assert accused == {"RapidOCR, errors and all": 0.5, witness.OF_COMPLETE: 0}, "the stamp is no false accusation"
    caught = witness.faults(pages, 2, names=False)
    assert caught["line dropped"] == 1
    assert caught["two lines swapped"] == 0, "that the stamp is named catches no other fault"
