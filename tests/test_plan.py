"""`plan`, and the first lines of `index`: what lies there, timed samples, and how long the rest will take."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pymupdf
import pytest

from kobold_reader import KoboldReader
from kobold_reader.pages import select
from kobold_reader.plan import make_plan
from kobold_reader.reading.ledger import Ledger
from tests.kobold_simulator import Fault, KoboldSimulator
from tests.test_cli import Command, draw_pages, kobold  # noqa: F401  (a fixture)
from tests.test_regressions_reading import PROSE, scan

pytestmark = pytest.mark.slow

Simulators = Callable[..., KoboldSimulator]


@pytest.fixture
def simulator(make_simulator: Simulators, monkeypatch: pytest.MonkeyPatch) -> KoboldSimulator:
    """The server of this test, named by the environment."""
    server = make_simulator()
    monkeypatch.setenv("KOBOLD_READER_URL", server.url)
    return server


def make_pdf(path: Path, pages: Sequence[int | str]) -> Path:
    """A PDF of pages: a number is a scan, `blank` an empty page, `text` nothing but prose."""
    document = pymupdf.open()
    for what in pages:
        page = document.new_page(width=595, height=842)
        if isinstance(what, int):
            page.insert_image(page.rect, stream=scan(what))
        elif what == "text":
            page.insert_textbox((50, 50, 545, 400), PROSE, fontsize=11)
    document.save(str(path))
    document.close()
    return path


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Ten pages of ink, two with their own text, one blank, a copy of one file, and a film."""
    folder = tmp_path / "scans"
    folder.mkdir()
    make_pdf(folder / "a.pdf", [1, 2, 3, 4, 5, 6, "text"])
    make_pdf(folder / "b.pdf", [7, 8, 9, "text", "blank"])
    draw_pages(folder / "c.png", ["a photo of ink"])
    shutil.copy(folder / "c.png", folder / "d.png")
    (folder / "film.mov").write_bytes(b"film")
    return folder


def planned(said: Any) -> dict[str, Any]:
    found = json.loads(said.out)
    assert isinstance(found, dict)
    return found


KEYS = {
    *("files", "pages", "pages_by_file_kind", "poor_text_layer_pages", "tasks", "model", "sample", "forecast"),
    *("witness_s", "indexing_s"),
    "errors",
}


def test_plan_times_a_sample_once_and_its_readings_are_kept(
    kobold: Command,  # noqa: F811
    simulator: KoboldSimulator,
    scans: Path,
) -> None:
    first = kobold("plan", scans, "--rotate", "0", "--json")
    found = planned(first)
    assert first.code == 0
    assert set(found) == KEYS
    assert "skipped: 1 .mov" in first.err
    assert found["files"] == {"total": 4, "failed": 0, "skipped": {".mov": 1}}
    assert found["sample"]["pages"] == 3
    asked = simulator.count()
    assert asked == 2 * sum(count for status, count in found["sample"]["read_now"].items() if status != "blank")
    assert found["pages"]["total"] == 14
    assert found["pages"]["text_layer"] == 2
    assert found["pages"]["copy"] + found["pages"]["read"] + found["pages"]["blank"] + found["pages"]["to_read"] == 12
    assert found["forecast"]["timed_pages"] == asked // 2
    assert found["forecast"]["requests"] == sum(found["tasks"].values())
    assert found["forecast"]["low_s"] <= found["forecast"]["seconds"] <= found["forecast"]["high_s"]
    assert found["forecast"]["tokens"] > 0

    again = planned(kobold("plan", scans, "--rotate", "0", "--json"))
    assert simulator.count() == asked, "the same plan asks nothing"
    assert again == {**found, "sample": {"pages": 3, "read_now": {}}}

    read = kobold("read", scans, "--rotate", "0")
    assert read.code == 0
    assert simulator.count() == 2 * 10, "nothing is asked twice, copies not once"
    assert planned(kobold("plan", scans, "--rotate", "0", "--json"))["pages"]["to_read"] == 0
    simulator.stop()
    assert "nothing is left to be read" in kobold("plan", scans, "--rotate", "0").out


def test_a_sample_of_none_sends_nothing(kobold: Command, simulator: KoboldSimulator, scans: Path) -> None:  # noqa: F811
    said = kobold("plan", scans, "--rotate", "0", "--sample", "0")
    assert said.code == 0
    assert simulator.requests == []
    assert "4 files, 14 pages\n" in said.out
    assert "  pdf    2 with their own text, 10 to be read\n" in said.out
    assert "  image  1 copy, 1 to be read\n" in said.out
    assert "to be asked: ocr of 11 pages, caption of 11 pages\n" in said.out
    assert "not known: no page was timed" in said.out

    kobold("read", scans / "b.pdf", "--rotate", "0")
    asked = len(simulator.requests)
    said = kobold("plan", scans, "--rotate", "0", "--sample", "0", "--stop-after", "24h")
    assert len(simulator.requests) == asked
    assert "by 3 pages that Qwen2.5-VL-7B" in said.out
    assert "in 24 h 00 min: about 7 pages of these\n" in said.out


def test_the_sample_is_spread_and_does_not_grow_with_redo(
    simulator: KoboldSimulator, scans: Path, tmp_path: Path
) -> None:
    reader = KoboldReader(api_url=simulator.url, tasks=["ocr"], redo="all", rotate=0)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        for _ in range(2):
            plan = make_plan(reader.session, select([scans / "a.pdf"]), ledger, sample=2)
            assert plan.outlook.due_tasks["ocr"] == 6, "all are to be made again"
            assert simulator.count() == 2
        sha256 = ledger.sha256_of(select([scans / "a.pdf"]).files[0])
        contents = {
            page.facts.content_sha256: number for number, page in ledger.pages(str(sha256), range(1, 100)).items()
        }
        key = {"ocr": reader.options.key("ocr")}
        read = [contents[timing.content_sha256] for timing in ledger.timings("koboldcpp", key, None)]
    assert sorted(read) == [2, 5], "in the middle of the first and of the second half"
    reader.close()


def test_another_model_is_timed_anew(
    simulator: KoboldSimulator,
    kobold: Command,  # noqa: F811
    scans: Path,
) -> None:
    kobold("plan", scans / "a.pdf", "--rotate", "0", "--sample", "2")
    simulator.restart(model="Qwen2.5-VL-3B-Instruct-Q4_K_M")
    found = planned(kobold("plan", scans / "a.pdf", "--rotate", "0", "--sample", "2", "--json"))
    assert found["model"].endswith("Qwen2.5-VL-3B-Instruct-Q4_K_M")
    assert found["sample"]["read_now"] == {"ok": 2}
    assert found["forecast"]["timed_pages"] == 2


def test_a_server_that_is_off_is_exit_4_with_the_pages_counted(
    kobold: Command,  # noqa: F811
    simulator: KoboldSimulator,
    scans: Path,
) -> None:
    simulator.stop()
    said = kobold("plan", scans, "--rotate", "0")
    assert said.code == 4
    assert "10 to be read" in said.out
    assert "no page was timed" in said.out
    assert "nothing answers there" in said.err


def test_what_cannot_be_read_is_counted_and_named(
    kobold: Command,  # noqa: F811
    simulator: KoboldSimulator,
    scans: Path,
    tmp_path: Path,
) -> None:
    broken = tmp_path / "broken.pdf"
    broken.write_bytes(b"%PDF-1.7\nnothing more")
    said = kobold("plan", broken, "--json")
    assert (said.code, planned(said)["files"]["failed"]) == (3, 1)
    assert kobold("plan", tmp_path / "not-there").code == 3
    (tmp_path / "empty").mkdir()
    assert kobold("plan", tmp_path / "empty").code == 3

    simulator.fault(Fault.BAD_INPUT)
    said = kobold("plan", scans / "a.pdf", "--rotate", "0", broken, "--sample", "2", "--tasks", "ocr", "--json")
    found = planned(said)
    assert said.code == 5
    assert str(broken) in said.err
    assert found["sample"]["read_now"] == {"failed": 1, "ok": 1}
    assert len(found["errors"]) == 2
    assert found["forecast"]["timed_pages"] == 1

    only = planned(kobold("plan", scans / "b.pdf", "--text-layer", "only", "--json"))["pages"]
    assert (only["text_layer"], only["failed"], only["to_read"]) == (1, 4, 0)


# ── index ─────────────────────────────────────────────────────────────────────────────────────────


def index(run: Command, scans: Path, archive: Path, *more: object) -> Any:
    return run("index", scans, "--archive", archive, "--embedder", "none", "--rotate", "0", *more)


def test_index_says_what_lies_ahead_and_how_long_it_takes(
    kobold: Command,  # noqa: F811
    simulator: KoboldSimulator,
    scans: Path,
    tmp_path: Path,
) -> None:
    kobold("plan", scans, "--rotate", "0", "--sample", "4")
    asked = simulator.count()
    said = index(kobold, scans, tmp_path / "archive")
    assert said.code == 0
    first, second = said.err.splitlines()[1:3]
    assert first.startswith("4 files, 14 pages: ")
    assert "2 with their own text" in first
    assert "to be read" in first
    assert second.startswith("about ")
    assert f"by {asked // 2} pages that Qwen2.5-VL-7B-Instruct-Q4_K_M read before" in second
    assert "by the first" not in said.err
    assert simulator.count() == 20, "what the plan read is not asked again"


def test_index_tells_after_the_first_pages_what_nobody_knew_before(
    kobold: Command,  # noqa: F811
    simulator: KoboldSimulator,
    scans: Path,
    tmp_path: Path,
) -> None:
    said = index(kobold, scans, tmp_path / "archive")
    assert "11 to be read\n" in said.err
    assert "the time is estimated after the first 5 pages" in said.err
    assert "pages left: about" in said.err
    assert said.err.count("by the first 5\n") == 1

    simulator.stop()
    again = index(kobold, scans, tmp_path / "archive")
    assert again.code == 0
    assert "how long" not in again.err
    assert "4 files, 14 pages: 11 read before, 2 with their own text, 1 known to be blank\n" in again.err


def test_the_survey_looks_at_each_page_once(
    simulator: KoboldSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kobold_reader.pages import PageChild

    looked: list[int] = []
    look = PageChild.page_facts

    def counted(self: PageChild, page_number: int, **ahead: Any) -> Any:
        looked.append(page_number)
        return look(self, page_number, **ahead)

    monkeypatch.setattr(PageChild, "page_facts", counted)
    file = make_pdf(tmp_path / "a.pdf", [1, 2, "text"])
    with (
        KoboldReader(api_url=simulator.url, tasks=["ocr"], rotate=0) as reader,
        Ledger(tmp_path / "l.sqlite") as ledger,
    ):
        files = select([file]).files
        assert reader.transcriber(ledger).survey(files, looks=False).read_pages == 0
        assert looked == []
        assert reader.transcriber(ledger).survey(files).by_kind == {"to_read": 2, "text_layer": 1}
        assert [result.status for result in reader.transcriber(ledger).run(files)] == ["ok", "ok", "text_layer"]
    assert looked == [1, 2, 3]
