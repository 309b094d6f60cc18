"""The notebooks run from top to bottom, without a server and with one, and are kept with small outputs.

`python -m tests.notebook_outputs` makes these.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kobold_reader import MiniLMEmbedding
from tests.conftest import ROOT, page_text
from tests.kobold_simulator import BrainRequest, KoboldSimulator, ScriptBrain

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

# Jupyter's own libraries warn of their next releases.
pytestmark = pytest.mark.filterwarnings("default")

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NOBODY = "http://127.0.0.1:9"


def execute(path: Path, url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("KOBOLD_READER_URL", url)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    book = nbformat.read(path, as_version=4)
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs = []  # what is looked at must be of this run
    nbclient.NotebookClient(book, timeout=500, resources={"metadata": {"path": str(folder)}}).execute()
    return book


def shown(book: Any) -> str:
    """Everything that the cells put out, as text or HTML."""
    outputs = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    return "\n".join(str(output.get("text", "")) + str(output.get("data", "")) for output in outputs)


def saying(request: BrainRequest) -> str:
    if not request.images:
        return "The Mattsons wrote to the club about the noise."
    return f"{page_text(request)} The Mattsons complained about the noise of the engine."


def test_there_are_two_notebooks() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["explore_archive", "photo_collection"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_kept_and_small(path: Path) -> None:
    assert path.stat().st_size < 1_500_000
    book = nbformat.read(path, as_version=4)
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    counts = [cell.execution_count for cell in cells]
    assert counts == list(range(1, len(cells) + 1)), "run from top to bottom, once"
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    said = shown(book)
    assert "with simulated-Qwen2.5-VL: it" in said
    assert "simulator" in book.cells[0].source, "whose outputs they are is said"
    assert "with no lettering in it." in said or "with lettering in it." in said, "a description"
    if path.stem == "explore_archive":
        assert re.search(r"'\w+', or '\w+'", said), "a doubtful word"
        assert "Nobody is there to write an answer" not in said
    assert "/home/you/" in said or path.stem != "explore_archive", "no folder of this machine"
    assert "data:image/" in said
    assert "image/png" in said, "a plot"
    sides = [int(side) for side in re.findall(r'(?:width|height)="(\d+)"', said)]
    assert sides
    assert max(sides) <= 300


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not MiniLMEmbedding.available(), reason="MiniLM is not installed")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_without_a_server(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = shown(execute(path, NOBODY, tmp_path, monkeypatch))
    assert "So RapidOCR reads" in said
    if path.stem == "explore_archive":
        assert "1987-05-12 chandler.jpg, page 1: failed" in said
        assert "1954-lindqvist-letter.pdf, page 1: ok" in said
        assert "yearbook-1993.pdf, page 1: text_layer" in said
        assert "read in this run: 1" in said, "only the page that had failed"
        assert re.search(r"They differ in \d+ places", said)
    else:
        assert "1998-06-21" in said
        assert "regatta.jpg" in said


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not MiniLMEmbedding.available(), reason="MiniLM is not installed")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_with_a_server(
    path: Path, make_simulator: Callable[..., KoboldSimulator], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator = make_simulator(brain=ScriptBrain(saying))
    said = shown(execute(path, simulator.url, tmp_path, monkeypatch))
    assert f"KoboldCpp answers at {simulator.url} with Qwen2.5-VL-7B-Instruct-Q4_K_M" in said
    assert "RapidOCR reads" not in said
    assert simulator.count() > 0
    if path.stem == "explore_archive":
        assert "The Mattsons wrote to the club about the noise." in said
        assert "read in this run: 1" in said
    else:
        assert re.search(r"A page of \d+ by \d+ pixels", said), "the caption"
