"""The archive: every way in which a folder changes, every instant at which a run may be killed."""

from __future__ import annotations

import functools
import os
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from kobold_reader import Archive, KoboldReader
from kobold_reader.archive import vector_index
from kobold_reader.archive.rows import PageRow
from kobold_reader.archive.vector_index import Indexer
from kobold_reader.embeddings import minilm_model
from kobold_reader.errors import ConfigError, NoServerAvailableError, SourceNotFoundError, StoreError
from kobold_reader.pages import select
from kobold_reader.plan import make_plan
from kobold_reader.reading import ledger as ledger_module
from kobold_reader.reading.ledger import Ledger
from kobold_reader.reading.results import PageResult
from tests import page_files as make
from tests.conftest import GROUND_TRUTH, LETTER, ROOT, SAMPLES
from tests.kobold_simulator import BrainRequest, Fault, KoboldSimulator, ScriptBrain

pytestmark = pytest.mark.slow

RECEIPT = SAMPLES / "receipts" / "1987-05-12 chandler.jpg"
CARD = SAMPLES / "scans" / "scan0007.jpg"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of two scans, one page each, and three pages of a letter."""
    scans = tmp_path / "scans"
    (scans / "letters").mkdir(parents=True)
    (scans / "letters" / "letter.pdf").write_bytes(LETTER.read_bytes())
    (scans / "receipt.jpg").write_bytes(RECEIPT.read_bytes())
    return scans


@pytest.fixture
def reader(simulator: KoboldSimulator) -> KoboldReader:
    return KoboldReader(api_url=simulator.url, tasks=["ocr"], on_error="skip")


def found(archive: Archive, query: str = "Lindqvist") -> set[tuple[str, int]]:
    return {(hit.file_name, hit.page_number) for hit in archive.search(query, limit=50)}


EVERYTHING = {("letter.pdf", 1), ("letter.pdf", 2), ("letter.pdf", 3), ("receipt.jpg", 1)}


def test_new_and_unchanged(folder: Path, reader: KoboldReader, simulator: KoboldSimulator, tmp_path: Path) -> None:
    with Archive.open(tmp_path / "a", create=True) as archive:
        first = archive.sync(folder, reader=reader)
        asked = simulator.count()
        again = archive.sync(folder, reader=reader)
        assert found(archive) == EVERYTHING
    assert (first.new_files, first.read_pages, first.indexed_pages) == (2, 4, 4)
    assert (again.new_files, again.changed_files, again.indexed_pages, again.read_pages) == (0, 0, 0, 0)
    assert simulator.count() == asked == 4


def test_without_paths_the_last_ones_are_repeated(
    folder: Path, reader: KoboldReader, simulator: KoboldSimulator, tmp_path: Path
) -> None:
    with Archive.open(tmp_path / "a", create=True) as archive:
        archive.sync(folder, reader=reader)
        (folder / "card.jpg").write_bytes(CARD.read_bytes())
    with Archive.open(tmp_path / "a") as archive:
        report = archive.sync()
        assert report.new_files == 1
        assert found(archive) == EVERYTHING | {("card.jpg", 1)}
    assert simulator.count() == 5, "with the same tasks as before"


def test_the_time_that_indexing_takes_is_known_from_the_run_before(tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    reader = KoboldReader(text_layer="only", ledger="none")
    told: list[float | None] = []
    with Archive.open(tmp_path / "a", create=True, embedder="none") as archive:
        for lines in (30, 20, None):
            if lines:
                (scans / f"{lines}.pdf").write_bytes(make.pdf(functools.partial(make.text_on, lines=lines)))
            archive.sync(scans, reader=reader, on_start=lambda _, outlook: told.append(outlook.indexing_s))
    first, second, third = told
    assert first is None, "nothing was indexed before"
    assert second is not None
    assert 0 < second < 30, "one page"
    assert third is None, "nothing is new"


@pytest.mark.thorough
def test_in_a_new_archive_some_passages_are_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded: list[str] = []

    def embed(texts: Sequence[str]) -> list[list[float]]:
        embedded.extend(texts)
        return [[1.0] + [0.0] * 383 for _ in texts]

    monkeypatch.setattr(minilm_model, "embed", embed)
    monkeypatch.setattr(vector_index, "time", SimpleNamespace(perf_counter=lambda: 0.02 * len(embedded)))
    (tmp_path / "scans").mkdir()
    pages = [functools.partial(make.text_on, lines=30 + number % 2) for number in range(50)]
    (tmp_path / "scans" / "year.pdf").write_bytes(make.pdf(*pages))
    told: list[float | None] = []
    reader = KoboldReader(text_layer="only", ledger="none")
    plan = make_plan(reader.session, select([tmp_path / "scans"]), Ledger(None))
    with Archive.open(tmp_path / "a", create=True, embedder="minilm") as archive:
        before = len(embedded)
        archive.sync(tmp_path / "scans", reader=reader, on_start=lambda _, outlook: told.append(outlook.indexing_s))
    [first] = told
    measured = min(40, len(embedded) // 50 * 8)
    assert first == pytest.approx(0.02 * (len(embedded) - before - measured), rel=0.2)
    assert plan.to_dict()["indexing_s"] == pytest.approx(first, abs=0.1)


def test_a_rename_embeds_and_asks_nothing(
    folder: Path,
    reader: KoboldReader,
    simulator: KoboldSimulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Archive.open(tmp_path / "a", create=True) as archive:
        archive.sync(folder, reader=reader)
        (folder / "letters").rename(folder / "post")
        (folder / "post" / "letter.pdf").rename(folder / "post" / "Axel.pdf")
        monkeypatch.setattr(minilm_model, "embed", lambda *_, **__: pytest.fail("something was embedded"))
        report = archive.sync(folder, reader=reader)
        monkeypatch.undo()
        assert (report.renamed_files, report.missing_files, report.new_files) == (1, 0, 0)
        assert found(archive) == {("Axel.pdf", 1), ("Axel.pdf", 2), ("Axel.pdf", 3), ("receipt.jpg", 1)}
        stored = archive.chroma_collection.get(include=["metadatas"])["metadatas"]
        assert {metadata["file_name"] for metadata in stored} == {"Axel.pdf", "receipt.jpg"}
        assert archive.status().files == 2
        assert "post" in archive.search("axel", limit=1)[0].link, "the new name is found"
    assert simulator.count() == 4


def test_a_changed_file_replaces_its_pages(folder: Path, reader: KoboldReader, tmp_path: Path) -> None:
    with Archive.open(tmp_path / "a", create=True) as archive:
        archive.sync(folder, reader=reader)
        nodes = set(archive.chroma_collection.get(include=[])["ids"])
        (folder / "letters" / "letter.pdf").write_bytes((SAMPLES / "ledger" / "1938-harbour-dues.pdf").read_bytes())
        report = archive.sync(folder, reader=reader)
        assert (report.changed_files, report.new_files) == (1, 0)
        assert found(archive) == {("letter.pdf", 1), ("receipt.jpg", 1)}
        kept = set(archive.chroma_collection.get(include=[])["ids"])
        assert len(kept) == 2
        assert len(nodes - kept) == 3, "the old pages' nodes are gone"


def test_a_copy_is_one_content_until_its_last_place_goes(
    folder: Path, reader: KoboldReader, simulator: KoboldSimulator, tmp_path: Path
) -> None:
    copy = folder / "copy.jpg"
    with Archive.open(tmp_path / "a", create=True) as archive:
        archive.sync(folder, reader=reader)
        copy.write_bytes(RECEIPT.read_bytes())
        assert archive.sync(folder, reader=reader).new_files == 1
        assert found(archive) == EVERYTHING, "one content, shown at its first place"
        (folder / "receipt.jpg").unlink()
        report = archive.sync(folder, reader=reader)
        assert report.missing_files == 0
        assert found(archive) == (EVERYTHING - {("receipt.jpg", 1)}) | {("copy.jpg", 1)}
    assert simulator.count() == 4


def test_what_the_archive_holds_the_ledger_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a copy of a scan loses its reading if the run is killed and the other copy is forgotten."""
    (tmp_path / "book.pdf").write_bytes(make.pdf(*[functools.partial(make.text_on, lines=3)] * 200))
    unknown: list[str] = []
    monkeypatch.setattr(ledger_module, "PUT_OFF_S", 3600)

    def index(self: Indexer, rows: Sequence[PageRow]) -> int:
        with Ledger(tmp_path / "a" / "ledger.sqlite", read_only=True) as ledger:
            unknown.extend(row.page_id for row in rows if not ledger.knows(row.content_sha256))
        return indexed(self, rows)

    indexed = Indexer.index
    monkeypatch.setattr(Indexer, "index", index)
    with Archive.open(tmp_path / "a", create=True, embedder="none") as archive:
        assert archive.sync(tmp_path / "book.pdf").indexed_pages == 200
    assert unknown == []


def test_what_is_gone_is_marked_found_and_pruned_only_on_request(
    folder: Path, reader: KoboldReader, tmp_path: Path
) -> None:
    with Archive.open(tmp_path / "a", create=True) as archive:
        archive.sync(folder, reader=reader)
        (folder / "receipt.jpg").unlink()
        report = archive.sync(folder, reader=reader)
        assert (report.missing_files, report.pruned_files) == (1, 0)
        assert archive.status().missing_files == (str(folder / "receipt.jpg"),)
        assert found(archive) == EVERYTHING, "still found"

        (folder / "receipt.jpg").write_bytes(RECEIPT.read_bytes())
        assert archive.sync(folder, reader=reader).missing_files == 0
        assert archive.status().missing_files == (), "back again"

        (folder / "receipt.jpg").unlink()
        report = archive.sync(folder, reader=reader, prune=True)
        assert (report.missing_files, report.pruned_files) == (0, 1)
        assert found(archive) == EVERYTHING - {("receipt.jpg", 1)}
        assert len(archive.chroma_collection.get(include=[])["ids"]) == 3


def test_pruning_trusts_no_empty_and_no_absent_folder(folder: Path, reader: KoboldReader, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "card.jpg").write_bytes(CARD.read_bytes())
    with Archive.open(tmp_path / "a", create=True) as archive:
        archive.sync([folder, elsewhere], reader=reader)
        (elsewhere / "card.jpg").unlink()
        archive.sync([folder, elsewhere], reader=reader, prune=True)
        assert ("card.jpg", 1) in found(archive), "an unmounted disk looks like an empty folder"
        elsewhere.rmdir()
        archive.sync([folder, elsewhere], reader=reader, prune=True)
        assert ("card.jpg", 1) in found(archive)
        archive.sync([folder], reader=reader, prune=True)
        assert ("card.jpg", 1) in found(archive), "only below the paths of this run"


def test_a_move_to_another_folder_of_the_run_asks_nothing(
    folder: Path, reader: KoboldReader, simulator: KoboldSimulator, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "card.jpg").write_bytes(CARD.read_bytes())
    with Archive.open(tmp_path / "a", create=True, embedder="none") as archive:
        archive.sync([folder, other], reader=reader)
        (folder / "receipt.jpg").rename(other / "receipt.jpg")
        report = archive.sync([folder, other], reader=reader)
        assert (report.renamed_files, report.new_files, report.missing_files) == (1, 0, 0)
        [hit] = archive.search("receipt", limit=1)
        assert hit.metadata["file_path"] == str(other / "receipt.jpg")
        assert archive.status().files == 3
    assert simulator.count() == 5


def test_pruned_and_back_again_asks_nothing(
    folder: Path, reader: KoboldReader, simulator: KoboldSimulator, tmp_path: Path
) -> None:
    with Archive.open(tmp_path / "a", create=True, embedder="none") as archive:
        archive.sync(folder, reader=reader)
        (folder / "receipt.jpg").unlink()
        archive.sync(folder, reader=reader, prune=True)
        (folder / "receipt.jpg").write_bytes(RECEIPT.read_bytes())
        report = archive.sync(folder, reader=reader)
        assert (report.new_files, report.read_pages, report.indexed_pages) == (1, 0, 1)
        assert found(archive) == EVERYTHING
    assert simulator.count() == 4


def test_a_file_that_breaks_keeps_the_pages_it_had(folder: Path, reader: KoboldReader, tmp_path: Path) -> None:
    with Archive.open(tmp_path / "a", create=True) as archive:
        archive.sync(folder, reader=reader)
        (folder / "receipt.jpg").write_bytes(RECEIPT.read_bytes()[:5000])
        report = archive.sync(folder, reader=reader)
        assert archive.status().pages["damaged"] == 1
        assert found(archive) >= EVERYTHING, "half a copy is no new content"
        (folder / "receipt.jpg").write_bytes(RECEIPT.read_bytes()[:20])
        report = archive.sync(folder, reader=reader)
        assert [type(error).__name__ for error in report.errors] == ["CorruptSourceError"]
        assert found(archive) == EVERYTHING
        [(path, page_number, why)] = archive.status().failed
        assert path.endswith("receipt.jpg")
        assert page_number in {0, 1}
        assert why


def test_a_page_that_was_never_read_goes_with_its_content(
    folder: Path, reader: KoboldReader, simulator: KoboldSimulator, tmp_path: Path
) -> None:
    receipt = folder / "receipt.jpg"
    simulator.fault(Fault.DROP_IMAGES)
    with Archive.open(tmp_path / "a", create=True, embedder="none") as archive:
        archive.sync(receipt, reader=reader)
        assert archive.status().pages == {"failed": 1}
        receipt.write_bytes(CARD.read_bytes()[: CARD.stat().st_size // 2])
        archive.sync(receipt, reader=reader)
        assert (archive.status().pages, archive.status().failed) == ({"damaged": 1}, ())


def test_a_failed_page_is_no_text_and_is_tried_again(
    folder: Path, reader: KoboldReader, simulator: KoboldSimulator, tmp_path: Path
) -> None:
    simulator.fault(None, None, Fault.DROP_IMAGES)  # the receipt comes first, then the letter
    with Archive.open(tmp_path / "a", create=True) as archive:
        report = archive.sync(folder, reader=reader)
        assert [(error.page_number, type(error).__name__) for error in report.errors] == [(2, "ImageNotSeenError")]
        assert found(archive) == EVERYTHING - {("letter.pdf", 2)}
        assert [(number, "did not see" in why) for _, number, why in archive.status().failed] == [(2, True)]
        asked = simulator.count()
        assert archive.sync(folder, reader=reader).errors == []
        assert simulator.count() == asked + 1, "only the failed page was asked again"
        assert found(archive) == EVERYTHING
        assert archive.status().failed == ()


def test_every_task_that_failed_is_named(folder: Path, simulator: KoboldSimulator, tmp_path: Path) -> None:
    reader = KoboldReader(api_url=simulator.url, tasks=["ocr", "tags"], on_error="skip")  # it answers without keywords
    with Archive.open(tmp_path / "a", create=True, embedder="none") as archive:
        report = archive.sync(folder, reader=reader)
        said = sorted((error.source, error.page_number, str(error)) for error in report.errors)
        assert len(said) == len(EVERYTHING)
        assert sorted(archive.status().failed) == said
        assert archive.status().pages == {"ok": len(EVERYTHING)}
        for page in archive.pages():
            archive.correct(page.page_id, "Typed by hand.")
        assert sorted(archive.status().failed) == said, "the keywords are missing as before"


def test_a_page_that_was_not_tried_is_as_it_was(
    folder: Path, reader: KoboldReader, simulator: KoboldSimulator, tmp_path: Path
) -> None:
    simulator.fault(None, None, Fault.DROP_IMAGES)  # the receipt comes first, then the letter
    with Archive.open(tmp_path / "a", create=True, embedder="none") as archive:
        archive.sync(folder, reader=reader)
        before = archive.status()
        simulator.stop()
        again = KoboldReader(api_url=simulator.url, tasks=["ocr"], on_error="skip", redo="all")
        with pytest.raises(NoServerAvailableError):
            archive.sync(folder, reader=again)
        assert (archive.status().pages, archive.status().failed) == (before.pages, before.failed)
        assert found(archive) == EVERYTHING - {("letter.pdf", 2)}


def test_a_redo_that_fails_is_said_and_takes_nothing_away(
    folder: Path, reader: KoboldReader, simulator: KoboldSimulator, tmp_path: Path
) -> None:
    with Archive.open(tmp_path / "a", create=True, embedder="none") as archive:
        archive.sync(folder, reader=reader)
        simulator.fault(Fault.DROP_IMAGES)
        again = KoboldReader(api_url=simulator.url, tasks=["ocr"], on_error="skip", redo="all")
        report = archive.sync(folder, reader=again)
        assert [type(error).__name__ for error in report.errors] == ["ImageNotSeenError"]
        assert found(archive) == EVERYTHING


def test_an_interrupt_aborts_the_page_before_anything_is_embedded(
    folder: Path, reader: KoboldReader, simulator: KoboldSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With KoboldCpp's own embedder, embedding waits for the lease that the page being read holds."""
    simulator.fault(None, None, Fault.HANG)  # two pages are read, the third never ends
    aborted_first: list[bool] = []
    pages = iter(range(2))

    def interrupted(_: PageResult) -> None:
        if next(pages) == 1:
            assert simulator.wait_for(lambda: simulator.count() == 3)
            raise KeyboardInterrupt

    index = Indexer.index

    def noted(self: Indexer, rows: Sequence[PageRow]) -> int:
        if rows:
            aborted_first.append(simulator.wait_for(lambda: not simulator.running, 10))
        return index(self, rows)

    monkeypatch.setattr(Indexer, "index", noted)
    with Archive.open(tmp_path / "a", create=True, embedder="none") as archive, pytest.raises(KeyboardInterrupt):
        archive.sync(folder, reader=reader, on_page=interrupted)
    assert aborted_first == [True]


def test_words_only(folder: Path, reader: KoboldReader, tmp_path: Path) -> None:
    with Archive.open(tmp_path / "a", create=True, embedder="none") as archive:
        archive.sync(folder, reader=reader)
        assert found(archive) == EVERYTHING
        with pytest.raises(ConfigError, match="by meaning"):
            archive.search("Lindqvist", mode="dense", related=True)
        assert archive.reembed("minilm") == 4
        assert archive.search("Lindqvist", mode="dense", related=True)
    with Archive.open(tmp_path / "a") as archive:
        assert archive.status().embedder.startswith("minilm")
        assert len(archive.search("Lindqvist", mode="dense", related=True, limit=9)) == 4


def test_tags_are_found(folder: Path, simulator: KoboldSimulator, tmp_path: Path) -> None:
    simulator.brain = ScriptBrain(
        {'"keywords"': '{"description": "Quay with nets.", "keywords": ["Skarvholm", "quay"]}', "": "A page of text."}
    )
    reader = KoboldReader(api_url=simulator.url, tasks=["ocr", "tags"])
    with Archive.open(tmp_path / "a", create=True, embedder="none") as archive:
        archive.sync(folder / "receipt.jpg", reader=reader)
        for query in ("Skarvholm", "nets"):
            (hit,) = archive.search(query)
            assert (hit.file_name, hit.page_part) == ("receipt.jpg", "tags")
        assert len(archive.search("page", where=["keywords=~quay"])) == 1


def test_tags_are_found_by_the_words_above_them(folder: Path, simulator: KoboldSimulator, tmp_path: Path) -> None:
    simulator.brain = ScriptBrain(lambda _: '{"description": "Quay with nets.", "keywords": ["pier"]}')
    reader = KoboldReader(api_url=simulator.url, tasks=["tags"], vocabulary="harbour\n\tquay\n\t\t{pier}\n")
    with Archive.open(tmp_path / "a", create=True, embedder="none") as archive:
        archive.sync(folder / "receipt.jpg", reader=reader)
        for asked in ({"query": "harbour"}, {"query": "quay", "where": ["tag_paths=~harbour"]}):
            (hit,) = archive.search(**asked)
            assert hit.metadata["keywords"] == "quay"
        archive.sync()
        assert simulator.count() == 1, "the archive remembers the words"


def test_where(folder: Path, reader: KoboldReader, tmp_path: Path) -> None:
    with Archive.open(tmp_path / "a", create=True, embedder="none") as archive:
        archive.sync(folder, reader=reader)
        pages = {
            condition: {hit.page_number for hit in archive.search("Lindqvist", where=[condition])}
            for condition in (
                "page_number=2",
                "page_number=2..3",
                "page_number=2..",
                "file_name=~LETTER",
                "folder=letters",
            )
        }
        assert pages == {
            "page_number=2": {2},
            "page_number=2..3": {2, 3},
            "page_number=2..": {2, 3},
            "file_name=~LETTER": {1, 2, 3},
            "folder=letters": {1, 2, 3},
        }
        with pytest.raises(ConfigError, match=r"'colour'.*the keys are .*page_number"):
            archive.search("Lindqvist", where=["colour=red"])
        with pytest.raises(ConfigError, match="KEY=VALUE"):
            archive.search("Lindqvist", where=["page_number"])


def test_plain_llamaindex_opens_the_vectors(folder: Path, reader: KoboldReader, tmp_path: Path) -> None:
    import chromadb
    from llama_index.core import VectorStoreIndex
    from llama_index.vector_stores.chroma import ChromaVectorStore

    with Archive.open(tmp_path / "a", create=True) as archive:
        archive.sync(folder, reader=reader)
        embed_model = archive.embed_model
        nodes = archive.as_retriever(limit=2).retrieve("Lindqvist")
    assert len(nodes) == 2
    assert nodes[0].node.metadata["link"].startswith("file://")

    client = chromadb.PersistentClient(path=str(tmp_path / "a" / "chroma"))
    store = ChromaVectorStore(chroma_collection=client.get_collection("pages", embedding_function=None))
    index = VectorStoreIndex.from_vector_store(store, embed_model=embed_model)
    [node] = index.as_retriever(similarity_top_k=1).retrieve("Axel Lindqvist")
    client.close()
    assert "Axel Lindqvist" in node.node.get_content()
    assert node.node.metadata["page_part"] == "ocr"
    assert node.score is not None
    assert 0 < node.score <= 1


def test_an_archive_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no archive"):
        Archive.open(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_nothing_to_take(tmp_path: Path) -> None:
    with (
        Archive.open(tmp_path / "a", create=True, embedder="none") as archive,
        pytest.raises(SourceNotFoundError, match="no such file"),
    ):
        archive.sync(tmp_path / "nowhere")


@pytest.mark.parametrize(("format_", "remedy"), [(9, "Update kobold-reader, or make"), (3, "Make")])
def test_an_archive_of_another_format_is_refused_and_made_anew_without_reading(
    folder: Path, reader: KoboldReader, simulator: KoboldSimulator, tmp_path: Path, format_: int, remedy: str
) -> None:
    place = tmp_path / "a"
    with Archive.open(place, create=True, embedder="none") as archive:
        archive.sync(folder, reader=reader)
    with closing(sqlite3.connect(place / "archive.sqlite")) as db:
        db.execute(f"PRAGMA user_version = {format_}")
    with pytest.raises(StoreError, match=rf"has format {format_}.*{remedy} the archive anew: remove archive.sqlite"):
        Archive.open(place)

    asked = simulator.count()
    for left in place.glob("archive.sqlite*"):
        left.unlink()
    shutil.rmtree(place / "chroma", ignore_errors=True)
    with Archive.open(place, create=True, embedder="none") as archive:
        archive.sync(folder, reader=reader)
        assert len(found(archive)) == 4
    assert simulator.count() == asked


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"import sys\nsys.modules['rfc3987_syntax'] = None\n{code}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ),
    )


WRITER = """
import sys
from kobold_reader import Archive, KoboldReader
with Archive.open(sys.argv[1], create=True) as archive:
    archive.sync(sys.argv[2], reader=KoboldReader(api_url=sys.argv[3], tasks=["ocr"], on_error="skip", rotate=0))
"""


@pytest.mark.thorough
def test_a_reader_sees_what_another_process_wrote(
    folder: Path, reader: KoboldReader, simulator: KoboldSimulator, tmp_path: Path
) -> None:
    with Archive.open(tmp_path / "a", create=True) as archive:
        archive.sync(folder, reader=reader)
        assert len(archive.search("Lindqvist", mode="dense", related=True, limit=50)) == 4
        (folder / "card.jpg").write_bytes(CARD.read_bytes())
        done = run_python(WRITER, str(tmp_path / "a"), str(folder), simulator.url)
        assert done.returncode == 0, done.stderr
        assert ("card.jpg", 1) in found(archive)
        assert len(archive.search("Lindqvist", mode="dense", related=True, limit=50)) == 5, "by its vectors too"


MINUTES = (GROUND_TRUTH / "minutes" / "1961 annual meeting.pdf.txt").read_text(encoding="utf-8")
"""Enough for several chunks of a page."""
KILLED = """
import os, sys
from kobold_reader import Archive, KoboldReader
from kobold_reader.archive import store, vectors
where, when = sys.argv[4].split(".")
owner = {"Catalog": store.Catalog, "Vectors": vectors.Vectors}[where]
original = getattr(owner, when)
def dying(self, *arguments, **options):
    original(self, *arguments, **options)
    os._exit(9)
setattr(owner, when, dying)
with Archive.open(sys.argv[1]) as archive:
    archive.sync(sys.argv[2], reader=KoboldReader(api_url=sys.argv[3], tasks=["ocr"], on_error="skip", rotate=0))
"""


@pytest.mark.thorough
@pytest.mark.parametrize(
    "step",
    [
        "Catalog.begin",
        "Vectors.put",
        "Catalog.finish",
        "Vectors.delete",
        "Catalog.put_place",
        "Catalog.remove_pages",
    ],
)
def test_killed_after_any_step_it_can_be_completed(
    step: str, folder: Path, make_simulator: Callable[..., KoboldSimulator], tmp_path: Path
) -> None:
    words = ["mole", "lantern", "otter"]
    asked: Counter[bytes] = Counter()

    def answer(request: BrainRequest) -> str:
        asked[request.images[0].tobytes()] += 1
        return f"Lindqvist and the {words[len(request.images[0].tobytes()) % 3]}. {MINUTES}"

    simulator = make_simulator(brain=ScriptBrain(answer))
    reader = KoboldReader(api_url=simulator.url, tasks=["ocr"], on_error="skip", rotate=0)
    place = tmp_path / "a"
    with Archive.open(place, create=True) as archive:
        archive.sync(folder, reader=reader)
    # One page goes, one comes, one changes: every step has something to do.
    (folder / "letters" / "letter.pdf").write_bytes((SAMPLES / "ledger" / "1938-harbour-dues.pdf").read_bytes())
    (folder / "card.jpg").write_bytes(CARD.read_bytes())

    killed = run_python(KILLED, str(place), str(folder), simulator.url, step)
    assert killed.returncode == 9, f"the step {step} was never reached: {killed.stderr}"

    with Archive.open(place) as archive:
        archive.sync(folder, reader=reader)
        completed = contents(archive)
    assert asked.total() - len(asked) <= 1, "only the page in flight was asked again"
    with Archive.open(tmp_path / "clean", create=True) as clean:
        clean.sync(folder, reader=reader)
        assert completed == contents(clean)


def contents(archive: Archive) -> dict[str, object]:
    collection = archive.chroma_collection.get(include=["documents", "metadatas"])
    nodes = {
        node_id: (document, metadata["file_name"])
        for node_id, document, metadata in zip(
            collection["ids"], collection["documents"], collection["metadatas"], strict=True
        )
    }
    return {"nodes": nodes, "found": found(archive), "status": archive.status()}
