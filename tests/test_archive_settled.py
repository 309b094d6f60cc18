"""Files of which nothing is left to do are passed over; whatever could make something due has them looked at again."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from kobold_reader import Archive, KoboldReader
from kobold_reader.archive.rows import PageRow
from kobold_reader.archive.store import Catalog
from kobold_reader.archive.sync import SyncReport
from kobold_reader.archive.vector_index import Indexer
from kobold_reader.errors import StoreError
from kobold_reader.reading.ledger import Ledger
from kobold_reader.reading.results import PageResult
from kobold_reader.reading.survey import Outlook
from kobold_reader.session import ReadSession, take
from tests.kobold_simulator import Fault, KoboldSimulator, ScriptBrain
from tests.page_files import jpeg, printed_page, tiff

pytestmark = pytest.mark.slow

RECEIPT, CARD = jpeg(printed_page(60, 16)), jpeg(printed_page(60, 18))


class Run:
    """An archive of words over a folder with a letter of three pages and a receipt."""

    def __init__(self, place: Path, simulator: KoboldSimulator) -> None:
        self.simulator = simulator
        self.folder = place / "scans"
        self.folder.mkdir()
        self.letter = self.folder / "letter.tif"
        self.receipt = self.folder / "receipt.jpg"
        self.letter.write_bytes(tiff([printed_page(60, lines) for lines in (10, 12, 14)]))
        self.receipt.write_bytes(RECEIPT)
        simulator.brain = ScriptBrain("Axel Lindqvist to Runa")
        self.archive = Archive.open(place / "a", create=True, embedder="none")
        self.looked_at: Counter[str] = Counter()
        self.outlook = Outlook()

    def sync(self, *, prune: bool = False, **settings: object) -> SyncReport:
        """Sync; afterwards `looked_at` has the pages that were looked at, by file, and `outlook` what was foreseen."""
        self.looked_at.clear()

        def on_page(result: PageResult) -> None:
            self.looked_at[result.source.name] += 1

        def on_start(_: ReadSession, outlook: Outlook) -> None:
            self.outlook = outlook

        given: dict[str, Any] = {"tasks": ["ocr"], "on_error": "skip", **settings}
        reader = KoboldReader(api_url=self.simulator.url, **given)
        return self.archive.sync(self.folder, reader=reader, prune=prune, on_page=on_page, on_start=on_start)


@pytest.fixture
def run(tmp_path: Path, simulator: KoboldSimulator) -> Run:
    return Run(tmp_path, simulator)


def names(run: Run) -> set[str]:
    return {hit.file_name for hit in run.archive.search("Lindqvist", limit=50)}


def test_an_unchanged_folder_is_not_looked_at_and_reported_all_the_same(run: Run) -> None:
    first = run.sync()
    assert run.looked_at == {"letter.tif": 3, "receipt.jpg": 1}

    again = run.sync()

    assert not run.looked_at
    assert (again.files, again.pages) == (first.files, first.pages)
    assert (again.new_files, again.read_pages, again.indexed_pages, again.missing_files) == (0, 0, 0, 0)
    assert (run.outlook.files, run.outlook.pages, run.outlook.read_pages, run.outlook.passed_pages) == (2, 4, 4, 4)
    assert names(run) == {"letter.tif", "receipt.jpg"}


def test_with_the_default_tasks_too(run: Run) -> None:
    """Which of them the model can do is known only after the first page was read."""
    run.sync(tasks=None)
    run.sync(tasks=None)
    assert not run.looked_at


def test_only_the_file_that_changed_is_looked_at(run: Run) -> None:
    run.sync()
    run.receipt.write_bytes(CARD)
    (run.folder / "new.jpg").write_bytes(RECEIPT)

    report = run.sync()

    assert run.looked_at == {"receipt.jpg": 1, "new.jpg": 1}
    assert (report.changed_files, report.new_files) == (1, 1)
    run.sync()
    assert not run.looked_at


def test_a_page_that_failed_is_tried_again_with_its_file(run: Run) -> None:
    run.simulator.fault(None, None, Fault.DROP_IMAGES)  # the receipt is read last
    run.sync()

    assert run.sync().errors == []

    assert run.looked_at in ({"receipt.jpg": 1}, {"letter.tif": 3})


def test_other_settings_and_back_again_each_stand(run: Run) -> None:
    run.simulator.brain = ScriptBrain("as it is")
    run.sync()
    run.simulator.brain = ScriptBrain("with a hint")
    run.sync(hint="Uppsala")
    assert {hit.text for hit in run.archive.search("hint")} == {"with a hint"}

    run.sync()

    assert run.looked_at == {"letter.tif": 3, "receipt.jpg": 1}
    assert {hit.text for hit in run.archive.search("as it is", limit=9)} == {"as it is"}
    assert not run.archive.search("hint")


def test_redo_looks_at_everything(run: Run) -> None:
    run.sync()
    run.simulator.brain = ScriptBrain("read anew")
    run.sync(redo="all")
    assert run.looked_at == {"letter.tif": 3, "receipt.jpg": 1}
    run.sync()
    assert len(run.archive.search("anew", limit=9)) == 4


def test_after_a_redo_that_failed_all_is_looked_at(run: Run) -> None:
    run.sync()
    run.simulator.fault(Fault.DROP_IMAGES)
    assert len(run.sync(redo="all").errors) == 1

    run.sync()

    assert run.looked_at == {"letter.tif": 3, "receipt.jpg": 1}


def test_a_sample_settles_nothing(run: Run) -> None:
    run.sync(sample=1)
    run.sync()
    assert run.looked_at == {"letter.tif": 3, "receipt.jpg": 1}


def test_some_pages_settle_nothing_but_themselves(run: Run) -> None:
    run.sync(pages="2")
    run.sync(pages="2")
    assert not run.looked_at
    run.sync()
    assert run.looked_at == {"letter.tif": 3, "receipt.jpg": 1}


def test_what_another_run_wrote_into_the_ledger_is_found(run: Run) -> None:
    run.sync()
    run.simulator.brain = ScriptBrain("read by another run")
    with Ledger(run.archive.folder / "ledger.sqlite") as ledger:
        reader = KoboldReader(api_url=run.simulator.url, tasks=["ocr"], redo="all")
        list(reader.transcriber(ledger).run(take(run.folder).files))

    run.sync()

    assert len(run.archive.search("another", limit=9)) == 4


def test_missing_and_back_again(run: Run, tmp_path: Path) -> None:
    run.sync()
    away = run.receipt.rename(tmp_path / "receipt.jpg")
    assert run.sync().missing_files == 1
    away.rename(run.receipt)  # with the same time of change

    assert run.sync().missing_files == 0

    assert run.archive.status().missing_files == ()


def test_pruning_keeps_what_is_passed_over(run: Run) -> None:
    run.sync()
    run.receipt.unlink()
    assert run.sync(prune=True).pruned_files == 1
    assert names(run) == {"letter.tif"}


def test_a_file_that_tells_no_time_of_change_is_looked_at(run: Run) -> None:
    os.utime(run.receipt, ns=(0, 0))
    run.sync()
    run.sync()
    assert run.looked_at == {"receipt.jpg": 1}


def test_killed_before_the_pages_are_indexed_the_file_is_not_settled(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Indexer, "index", dies)
        with pytest.raises(KeyboardInterrupt):
            run.sync()

    run.sync()

    assert names(run) == {"letter.tif", "receipt.jpg"}


def test_killed_before_renamed_pages_have_their_new_name_they_get_it_next_time(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove = Catalog.remove_places

    def dies(catalog: Catalog, uris: Iterable[str]) -> None:
        remove(catalog, uris)
        raise KeyboardInterrupt

    run.sync()
    run.receipt.rename(run.folder / "bill.jpg")
    with monkeypatch.context() as patched:
        patched.setattr(Catalog, "remove_places", dies)
        with pytest.raises(KeyboardInterrupt):
            run.sync()

    run.sync()

    assert names(run) == {"letter.tif", "bill.jpg"}


@pytest.mark.parametrize("call", [1, 3, 4])
def test_pages_whose_indexing_failed_on_the_way_are_not_settled(
    run: Run, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """What is left is still indexed when a run ends early; the page that failed is no part of that."""
    index, calls = Indexer.index, 0

    def fails(self: Indexer, rows: Sequence[PageRow]) -> int:
        nonlocal calls
        calls += 1
        if calls == call:
            raise StoreError("the disk is full")
        return index(self, rows)

    monkeypatch.setattr("kobold_reader.archive.sync.BATCH_PAGES", 1)
    with monkeypatch.context() as patched:
        # The empty list of what an interrupted run left is indexed first, and counts for nothing.
        patched.setattr(Indexer, "finish", lambda _: 0)
        patched.setattr(Indexer, "index", fails)
        with pytest.raises(StoreError):
            run.sync()

    run.sync()

    assert len(run.archive.search("Lindqvist", limit=9)) == 4
