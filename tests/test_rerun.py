"""A run over what was read before touches no file, asks no server, and still sees every change."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import pytest
import typer

from kobold_reader import Archive, KoboldReader
from kobold_reader.cli import options
from kobold_reader.pages import SourceFile, select
from kobold_reader.reading.ledger import Ledger
from tests.benchmarks.scans import jpeg, letter, pdf_of
from tests.kobold_simulator import KoboldSimulator

pytestmark = pytest.mark.usefixtures("own_child")

NOBODY = "http://127.0.0.1:9"

watched: list[str] = []
"""What was opened below the folder, while one is watched."""
_folder: list[str] = []


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if not _folder:
        return
    if event == "subprocess.Popen":
        watched.append(f"process {arguments[0]}")
    elif event == "open" and str(arguments[0]).startswith(_folder[0]):
        watched.append(str(arguments[0]))


sys.addaudithook(_watch)  # cannot be taken out again: it looks only while `_folder` names one


@pytest.fixture
def watch() -> Iterator[Callable[[Path], list[str]]]:
    def begin(folder: Path) -> list[str]:
        watched.clear()
        _folder.append(str(folder))
        return watched

    yield begin
    _folder.clear()


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    pdf_of([jpeg(letter(number)) for number in range(2)], folder / "letters.pdf")
    (folder / "photo.jpg").write_bytes(jpeg(letter(7)))
    # Its first bytes say what it is, whatever it is called.
    (folder / "misnamed.png").write_bytes(jpeg(letter(8)))
    return folder


def reader_at(url: str, ledger: Path) -> KoboldReader:
    return KoboldReader(api_url=url, tasks=["ocr"], ledger=str(ledger), rotate=0)


@pytest.mark.slow
def test_a_rerun_opens_no_file_and_starts_no_process(
    scans: Path, tmp_path: Path, watch: Callable[[Path], list[str]]
) -> None:
    ledger = tmp_path / "ledger.sqlite"
    with KoboldSimulator() as server, reader_at(server.url, ledger) as reader:
        first = reader.load_data(scans)
    opened = watch(scans)
    with reader_at(NOBODY, ledger) as reader:
        again = reader.load_data(scans)
        results = list(reader.read_pages(scans))
    assert opened == []
    assert [document.to_dict() for document in again] == [document.to_dict() for document in first]
    assert all(result.is_kept for result in results)
    assert len(results) == 4


@pytest.mark.slow
def test_an_archive_that_is_up_to_date_opens_no_file(
    scans: Path, tmp_path: Path, watch: Callable[[Path], list[str]]
) -> None:
    ledger = tmp_path / "ledger.sqlite"
    with Archive.open(tmp_path / "archive", create=True, embedder="none") as archive:
        with KoboldSimulator() as server, reader_at(server.url, ledger) as reader:
            archive.sync(scans, reader=reader)
        opened = watch(scans)
        with reader_at(NOBODY, ledger) as reader:
            archive.sync(scans, reader=reader)
    assert opened == []


@pytest.mark.slow
def test_a_file_that_became_another_is_looked_into(scans: Path, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.sqlite"
    with KoboldSimulator() as server, reader_at(server.url, ledger) as reader:
        list(reader.read_pages(scans / "letters.pdf"))
        assert _kind(ledger, scans / "letters.pdf") == "pdf"
        (scans / "letters.pdf").write_bytes(jpeg(letter(9)))
        assert _kind(ledger, scans / "letters.pdf") == "image"
        (result,) = reader.read_pages(scans / "letters.pdf")
    assert (result.status, result.is_kept) == ("ok", False)


@pytest.mark.slow
def test_a_touched_file_is_looked_into(scans: Path, tmp_path: Path) -> None:
    """Same size, another time: only the bytes can say."""
    ledger = tmp_path / "ledger.sqlite"
    photo = scans / "photo.jpg"
    with KoboldSimulator() as server, reader_at(server.url, ledger) as reader:
        list(reader.read_pages(photo))
    asked: list[str] = []
    with Ledger(ledger) as opened:

        def known(source: SourceFile) -> str | None:
            asked.append(source.uri)
            return opened.kind_of(source)

        (found,) = select(photo).files
        assert opened.kind_of(found) == "image"
        os.utime(photo, ns=(1, found.mtime_ns + 1_000_000_000))
        (touched,) = select(photo, known=known).files
        assert opened.kind_of(touched) is None
    assert touched.kind == "image"
    assert asked == [found.uri]


def _kind(ledger: Path, path: Path) -> str:
    with Ledger(ledger) as opened:
        (found,) = select(path, known=opened.kind_of).files
    return found.kind


def test_what_is_known_is_believed_unopened(tmp_path: Path) -> None:
    path = tmp_path / "scan.bin"
    path.write_bytes(b"nothing that any kind begins with")
    assert select(path).files == ()
    assert [file.kind for file in select(path, known=lambda _: "pdf").files] == ["pdf"]


def test_options_are_worked_out_once_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for each parameter, they were a third of the time that `--help` took."""
    calls: list[object] = []

    def counted(of: Any, **given: Any) -> dict[str, Any]:
        calls.append(of)
        return get_type_hints(of, **given)

    monkeypatch.setattr(options, "get_type_hints", counted)

    def command(
        first: Annotated[str, typer.Argument()], second: int, third: bool, options: options.ReadingOptions
    ) -> None: ...

    command.__annotations__ = {"first": str, "second": int, "third": bool, "options": options.ReadingOptions}
    for _ in range(2):
        made = options.with_options(options.ReadingOptions)(command)
    assert 2 <= len(calls) <= 3  # each command's own, and the shared ones unless known before
    names = list(inspect.signature(made).parameters)
    assert names[:3] == ["first", "second", "third"]
    assert "options" not in names
    assert {"api_url", "ledger", "redo"} <= set(names)
