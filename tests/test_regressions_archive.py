"""Faults that were found once, and must not come back: archives."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import chromadb
import pytest
from filelock import FileLock

from kobold_reader import Archive, KoboldReader
from kobold_reader.archive.folder import LOCK
from kobold_reader.archive.store import Catalog
from kobold_reader.archive.vectors import Vectors
from kobold_reader.errors import ConfigError, ServerError, StoreError
from kobold_reader.options import Mode
from tests.archive_rows import touch
from tests.kobold_simulator import Fault, KoboldSimulator
from tests.test_regressions_reading import make_pdf

pytestmark = pytest.mark.slow


@pytest.fixture
def server(make_simulator: Callable[..., KoboldSimulator]) -> KoboldSimulator:
    """A KoboldCpp that reads and embeds."""
    return make_simulator(embeddings_model="embed-a")


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    make_pdf(folder / "a.pdf", [1])
    make_pdf(folder / "b.pdf", [2])
    return folder


def make_archive(tmp_path: Path, server: KoboldSimulator, embedder: str = "none") -> Archive:
    return Archive.open(tmp_path / "archive", create=True, embedder=embedder, api_url=server.url)


def reader_of(server: KoboldSimulator, **arguments: Any) -> KoboldReader:
    return KoboldReader(**{"api_url": server.url, "tasks": ["ocr"], **arguments})


def shown(archive: Archive) -> list[str]:
    return sorted(hit.file_name for hit in archive.search("Lindqvist", limit=9))


class Killed(BaseException):
    """Stands for kill -9: nothing of ours catches it."""


def kill(*_: Any, **__: Any) -> None:
    raise Killed


def test_a_copy_is_shown_where_it_lies_once_the_original_changed(
    server: KoboldSimulator, tmp_path: Path, scans: Path
) -> None:
    """Until the run after next, hits for the old text led to the file that held another one by then."""
    with make_archive(tmp_path, server) as archive:
        archive.sync(scans, reader=reader_of(server))
        shutil.copy(scans / "b.pdf", scans / "0 copy of b.pdf")
        archive.sync(scans, reader=reader_of(server))
        make_pdf(scans / "b.pdf", [17])
        archive.sync(scans, reader=reader_of(server))
        assert shown(archive) == ["0 copy of b.pdf", "a.pdf", "b.pdf"]


def test_what_cannot_be_looked_at_is_not_pruned(
    server: KoboldSimulator, tmp_path: Path, scans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder or file that could not be read for a moment counted as gone."""
    (scans / "sub").mkdir()
    make_pdf(scans / "sub" / "c.pdf", [3])
    with make_archive(tmp_path, server) as archive:
        archive.sync(scans, reader=reader_of(server))
        os.utime(scans / "b.pdf", (0, 1))  # as large and as old as before, it would not even be opened
        scandir, open_path = os.scandir, Path.open

        def broken_scandir(path: Any) -> Any:
            if Path(path).name == "sub":
                raise PermissionError(13, "Permission denied")
            return scandir(path)

        def broken_open(self: Path, *arguments: Any, **options: Any) -> Any:
            if self.name == "b.pdf":
                raise OSError(5, "Input/output error")
            return open_path(self, *arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(os, "scandir", broken_scandir)
            patch.setattr(Path, "open", broken_open)
            report = archive.sync(scans, reader=reader_of(server), prune=True)

        assert (report.pruned_files, report.missing_files, len(report.errors)) == (0, 0, 2)
        assert shown(archive) == ["a.pdf", "b.pdf", "c.pdf"]


def test_a_run_that_stops_early_prunes_nothing(server: KoboldSimulator, tmp_path: Path, scans: Path) -> None:
    """A file that had been renamed, and whose turn had not come yet, was taken for gone."""
    with make_archive(tmp_path, server) as archive:
        archive.sync(scans, reader=reader_of(server))
        (scans / "b.pdf").rename(scans / "renamed.pdf")
        make_pdf(scans / "0 new.pdf", [9])

        report = archive.sync(scans, reader=reader_of(server, stop_after_s=1e-6), prune=True)

        assert report.pruned_files == 0
        assert shown(archive) == ["a.pdf", "b.pdf"]
        archive.sync(scans, reader=reader_of(server), prune=True)
        assert shown(archive) == ["0 new.pdf", "a.pdf", "renamed.pdf"]


def test_redo_is_asked_for_once(server: KoboldSimulator, tmp_path: Path, scans: Path) -> None:
    """It was remembered with the other settings: every later `index` without a path read everything again."""
    with make_archive(tmp_path, server) as archive:
        archive.sync(scans, reader=reader_of(server, redo="all"))
        asked = server.count()
        archive.sync()
        assert server.count() == asked == 2


def test_a_folder_named_from_the_home_folder_is_remembered(
    server: KoboldSimulator, tmp_path: Path, scans: Path, home: Path
) -> None:
    scans.rename(home / "scans")
    with make_archive(tmp_path, server) as archive:
        archive.sync("~/scans", reader=reader_of(server))
        assert archive.sync().files == 2


def test_readings_are_known_whatever_the_settings(server: KoboldSimulator, tmp_path: Path) -> None:
    """RapidOCR's in place of a server was found in no later command: no marks, and copies with lines in no place."""
    make_pdf(tmp_path / "a.pdf", [1])
    with make_archive(tmp_path, server) as archive:
        archive.sync(tmp_path / "a.pdf", reader=reader_of(server, hint="letters"), remember=False)
        assert archive.settings_of(tmp_path / "a.pdf") == {}
        [page] = archive.pages()
        assert archive.readings([page])[page.page_id]["ocr"].text == page.parts["ocr"]


def test_every_folder_keeps_its_own_settings(server: KoboldSimulator, tmp_path: Path) -> None:
    """Without paths, the first folder's settings were used for all of them, and remembered: all pages were due."""
    with make_archive(tmp_path, server) as archive:
        for number, hint in enumerate(["Swedish letters", None], start=1):
            folder = tmp_path / str(number)
            folder.mkdir()
            make_pdf(folder / "a.pdf", [number])
            archive.sync(folder, reader=reader_of(server, hint=hint))
        asked, remembered = server.count(), [archive.settings_of(tmp_path / name) for name in ("1", "2")]

        report = archive.sync()

        assert server.count() == asked == 2
        assert (report.files, report.pages["ok"], report.errors) == (2, 2, [])
        assert [archive.settings_of(tmp_path / name) for name in ("1", "2")] == remembered
        shutil.rmtree(tmp_path / "1")
        assert [str(error) for error in archive.sync().errors if "no such" in str(error)]


@pytest.mark.parametrize("is_empty", [True, False])
def test_an_archive_killed_while_it_was_made_is_made_anew(
    server: KoboldSimulator, tmp_path: Path, *, is_empty: bool
) -> None:
    """It was taken for an archive of words only, for good."""
    (tmp_path / "archive").mkdir()
    if is_empty:
        (tmp_path / "archive" / "archive.sqlite").touch()
    else:
        Catalog(tmp_path / "archive" / "archive.sqlite").close()
    with make_archive(tmp_path, server, "koboldcpp") as archive:
        assert archive.status().embedder == "koboldcpp (embed-a)"


def test_two_writers_are_one_too_many(server: KoboldSimulator, tmp_path: Path, scans: Path) -> None:
    """`reembed` threw the vectors away under the hands of the process that was writing them."""
    with make_archive(tmp_path, server, "koboldcpp") as archive:
        archive.sync(scans, reader=reader_of(server))
        with FileLock(tmp_path / "archive" / LOCK):  # as another process holds it
            for write in (archive.reembed, archive.sync, partial(archive.forget, archive.uris())):
                with pytest.raises(StoreError, match="another process is writing"):
                    write()
        assert archive.status().unfinished_pages == 0
        assert len(archive.search("Lindqvist", mode="dense", related=True)) == 2


@pytest.mark.parametrize(
    "step", ["kobold_reader.archive.vector_index.discard", "kobold_reader.archive.vector_index.Indexer.index"]
)
def test_reembed_killed_midway_is_ended_by_the_next_run(
    server: KoboldSimulator, tmp_path: Path, scans: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The old embedder's collection took none of the new one's vectors: the archive could not be written any more."""
    with make_archive(tmp_path, server, "koboldcpp") as archive:
        archive.sync(scans, reader=reader_of(server))
        server.restart(embeddings_model="embed-b", embedding_dimensions=32)
        with monkeypatch.context() as patch:
            patch.setattr(step, kill)
            with pytest.raises(Killed):
                archive.reembed()

    with Archive.open(tmp_path / "archive", api_url=server.url) as archive:
        archive.sync(scans, reader=reader_of(server))
        assert archive.status().unfinished_pages == 0
        assert len(archive.search("Lindqvist", mode="dense", related=True)) == 2


def test_vectors_that_are_gone_are_made_again(server: KoboldSimulator, tmp_path: Path, scans: Path) -> None:
    """They are a derived index; without them the archive was searched by words, and nobody said so."""
    with make_archive(tmp_path, server, "koboldcpp") as archive:
        archive.sync(scans, reader=reader_of(server))
    shutil.rmtree(tmp_path / "archive" / "chroma")
    with Archive.open(tmp_path / "archive", api_url=server.url) as archive:
        archive.sync(scans, reader=reader_of(server))
        assert len(archive.search("Lindqvist", mode="dense", related=True)) == 2


@pytest.mark.slow
def test_an_open_archive_follows_a_change_of_embedder(server: KoboldSimulator, tmp_path: Path, scans: Path) -> None:
    """It went on asking the old embedder, whose vectors do not fit."""
    with make_archive(tmp_path, server, "koboldcpp") as archive:
        archive.sync(scans, reader=reader_of(server))
        assert archive.search("Lindqvist", mode="dense", related=True)
        with Archive.open(tmp_path / "archive", api_url=server.url) as other:
            other.reembed("minilm")
        assert len(archive.search("Lindqvist", mode="dense", related=True)) == 2


def test_dense_search_says_that_the_embedder_is_gone(server: KoboldSimulator, tmp_path: Path, scans: Path) -> None:
    """It found nothing, and said that it searched by words."""
    with make_archive(tmp_path, server, "koboldcpp") as archive:
        archive.sync(scans, reader=reader_of(server))
        assert archive.search("Lindqvist", mode="dense", related=True)
        server.stop()
        with pytest.raises(ServerError):
            archive.search("Lindqvist", mode="dense", related=True)
        notices: list[str] = []
        assert len(archive.search("Lindqvist", on_notice=notices.append)) == 2
        assert len(notices) == 1
        server.restart()


def test_each_of_two_searching_threads_gets_its_own_notices(
    server: KoboldSimulator, tmp_path: Path, scans: Path
) -> None:
    """One list for the whole archive was cleared by each search: the other one's notice was lost."""
    with make_archive(tmp_path, server, "koboldcpp") as archive:
        archive.sync(scans, reader=reader_of(server))
        server.stop()
        heard: list[list[str]] = [[] for _ in range(8)]
        start = threading.Barrier(len(heard))

        def search(notices: list[str], mode: Mode) -> None:
            start.wait(10)
            for _ in range(3):
                assert len(archive.search("Lindqvist", mode=mode, on_notice=notices.append)) == 2

        threads = [
            threading.Thread(target=search, args=(notices, "keyword" if number % 2 else "hybrid"))
            for number, notices in enumerate(heard)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [len(notices) for notices in heard] == [3, 0] * 4
        assert all("words only" in text for notices in heard for text in notices)
        server.restart()


@pytest.mark.slow
def test_a_query_of_broken_bytes_is_a_query(server: KoboldSimulator, tmp_path: Path, scans: Path) -> None:
    with make_archive(tmp_path, server, "minilm") as archive:
        archive.sync(scans, reader=reader_of(server))
        assert len(archive.search("Lindqvist \udcff")) == 2
        with pytest.raises(ConfigError, match="limit"):
            archive.search("Lindqvist", limit=-1)


def test_a_name_that_python_takes_for_a_number_is_found(server: KoboldSimulator, tmp_path: Path, scans: Path) -> None:
    scans.rename(tmp_path / "Nan")
    with make_archive(tmp_path, server) as archive:
        archive.sync(tmp_path / "Nan", reader=reader_of(server))
        assert len(archive.search("Lindqvist", where=["folder=Nan"])) == 2


def test_opening_vectors_anew_leaves_other_clients_of_the_process_alone(
    server: KoboldSimulator, tmp_path: Path, scans: Path
) -> None:
    """Chroma shares one system among all clients of a path, and that one does not see what other processes wrote."""
    with make_archive(tmp_path, server, "koboldcpp") as archive:
        archive.sync(scans, reader=reader_of(server))
        client = chromadb.PersistentClient(tmp_path / "archive" / "chroma")
        same = client.get_collection("pages", embedding_function=None)
        elsewhere = chromadb.PersistentClient(tmp_path / "elsewhere")
        other = elsewhere.create_collection("other", embedding_function=None)
        try:
            with Archive.open(tmp_path / "archive", api_url=server.url) as second:
                for _ in range(20):
                    touch(archive)  # the vectors are opened anew
                    assert len(archive.search("Lindqvist", mode="dense", related=True)) == 2
                    assert len(second.search("Lindqvist", mode="dense", related=True)) == 2
            other.add(ids=["one"], embeddings=[[1.0, 0.0]])
            assert chromadb.PersistentClient(tmp_path / "elsewhere").get_collection("other").count() == 1
            assert same.count() == 2
            make_pdf(scans / "c.pdf", [3])
            archive.sync(scans, reader=reader_of(server))
            assert len(archive.search("Lindqvist", mode="dense", related=True)) == 3
        finally:
            client.close()
            elsewhere.close()
        assert len(archive.search("Lindqvist", mode="dense", related=True)) == 3


def test_a_page_that_fails_anew_is_still_found_by_what_was_read(
    server: KoboldSimulator, tmp_path: Path, scans: Path
) -> None:
    """One bad answer to a new hint took the page's words and vectors out of the archive."""
    with make_archive(tmp_path, server, "koboldcpp") as archive:
        archive.sync(scans, reader=reader_of(server))
        server.fault(*[Fault.EMPTY_TEXT] * 4)
        report = archive.sync(scans, reader=reader_of(server, hint="Swedish letters"))
        assert report.pages["failed"] == len(archive.status().failed) == 1
        assert shown(archive) == ["a.pdf", "b.pdf"]
        archive.sync(scans, reader=reader_of(server, hint="Swedish letters"))
        assert archive.status().failed == ()


def test_searching_threads_do_not_close_each_others_vectors(
    server: KoboldSimulator, tmp_path: Path, scans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread reopened the vectors for what was new while another one was asking them."""
    with make_archive(tmp_path, server, "koboldcpp") as archive:
        archive.sync(scans, reader=reader_of(server))
        real = Vectors.query
        inside: list[int] = []

        def query(self: Vectors, *arguments: Any) -> Any:
            if not inside:
                inside.append(True)
                touch(archive)
                other = threading.Thread(target=archive.search, args=("Lindqvist",))
                other.start()
                other.join(0.5)  # it has to wait
                others.append(other)
            return real(self, *arguments)

        others: list[threading.Thread] = []
        monkeypatch.setattr(Vectors, "query", query)
        assert len(archive.search("Lindqvist", mode="dense", related=True)) == 2
        others[0].join()


def test_searching_while_the_same_archive_is_written(
    server: KoboldSimulator, tmp_path: Path, scans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search closed the vectors that the indexer of the same process was writing."""
    monkeypatch.setattr("kobold_reader.archive.sync.BATCH_PAGES", 1)
    make_pdf(scans / "c.pdf", [3])
    seen: list[int] = []
    with make_archive(tmp_path, server, "koboldcpp") as archive:
        archive.sync(
            scans,
            reader=reader_of(server),
            on_page=lambda _: seen.append(len(archive.search("Lindqvist", mode="dense", related=True))),
        )
        assert seen == [0, 1, 2]
        assert len(archive.search("Lindqvist", mode="dense", related=True)) == 3


def test_reembed_needs_no_answer_from_the_old_embedder(server: KoboldSimulator, tmp_path: Path, scans: Path) -> None:
    with make_archive(tmp_path, server, "koboldcpp") as archive:
        archive.sync(scans, reader=reader_of(server))
    server.stop()
    with Archive.open(tmp_path / "archive", api_url=server.url) as archive:
        assert archive.reembed("none") == 2
        assert shown(archive) == ["a.pdf", "b.pdf"]
    server.restart()
