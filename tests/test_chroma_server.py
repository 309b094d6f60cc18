"""An archive whose vectors lie on a Chroma server: a real one, on this machine."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kobold_reader import Archive, KoboldReader, MiniLMEmbedding
from kobold_reader.archive.vectors import ChromaServer
from kobold_reader.errors import ConfigError, KoboldReaderError, StoreError
from tests.archive_rows import catalog_of
from tests.conftest import LETTER
from tests.kobold_simulator import KoboldSimulator

CHROMA = shutil.which("chroma", path=str(Path(sys.executable).parent)) or shutil.which("chroma")


@pytest.fixture(scope="module")
def chroma(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Chroma server, one for all tests here."""
    if not (CHROMA and MiniLMEmbedding.available()):
        pytest.skip("Chroma's command, or MiniLM, is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("chroma")
    command = [CHROMA, "run", "--path", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(1200):
            with socket.socket() as caller:
                if caller.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def reader(simulator: KoboldSimulator) -> KoboldReader:
    return KoboldReader(api_url=simulator.url, tasks=["ocr"], on_error="skip")


def by_meaning(archive: Archive) -> set[tuple[str, int]]:
    return {(hit.file_name, hit.page_number) for hit in archive.search("a letter", mode="dense", related=True, limit=9)}


@pytest.mark.slow
@pytest.mark.thorough
def test_vectors_lie_on_the_server_and_archives_do_not_meet_there(
    chroma: str, reader: KoboldReader, simulator: KoboldSimulator, tmp_path: Path
) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    shutil.copy(LETTER, scans / "letter.pdf")
    everything = {("letter.pdf", number) for number in (1, 2, 3)}
    with Archive.open(tmp_path / "a", create=True, chroma_url=chroma) as one:
        assert one.sync(scans, reader=reader).indexed_pages == 3
        assert by_meaning(one) == everything
        count = one.chroma_collection.count()
    assert not (tmp_path / "a" / "chroma").exists()
    asked = simulator.count()
    with Archive.open(tmp_path / "a") as again:  # it remembers where they are
        assert by_meaning(again) == everything
    with Archive.open(tmp_path / "b", create=True) as other:
        other.sync(scans, reader=reader.model_copy(update={"ledger": str(tmp_path / "a" / "ledger.sqlite")}))
        assert (tmp_path / "b" / "chroma").exists()
    with Archive.open(tmp_path / "b", chroma_url=chroma) as moved:
        assert moved.sync().finished_pages == 3
        assert by_meaning(moved) == everything
        assert not (tmp_path / "b" / "chroma").exists()
        assert moved.forget([(scans / "letter.pdf").as_uri()]).pages
        assert moved.chroma_collection.count() == 0
        assert moved.reembed() == 0
    with Archive.open(tmp_path / "a") as again:
        assert again.chroma_collection.count() == count
        assert again.reembed() == 3
        assert by_meaning(again) == everything
    assert simulator.count() == asked


@pytest.mark.slow
@pytest.mark.thorough
def test_a_server_that_is_gone_leaves_the_words(chroma: str, reader: KoboldReader, tmp_path: Path) -> None:
    with Archive.open(tmp_path / "a", create=True, chroma_url=chroma) as archive:
        archive.sync(LETTER, reader=reader)
        gone = ChromaServer("http://127.0.0.1:9", "kobold-reader-gone")
        with catalog_of(archive) as catalog:
            catalog.set_meta("chroma_server", gone.record())
    with Archive.open(tmp_path / "a") as archive:
        notices: list[str] = []
        assert archive.search("Lindqvist", on_notice=notices.append)
        assert "127.0.0.1:9" in notices[0]
        with pytest.raises(StoreError, match="cannot be used"):
            archive.sync(LETTER, reader=reader)


@pytest.mark.parametrize(
    "url", ["", "localhost:8000", "http://", "http://host:port", "ftp://host", "http://me:secret@host", "http://h/v1"]
)
def test_what_is_no_server_is_refused_before_anything_is_written(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        ChromaServer.chosen(url, None)
    assert "secret" not in str(caught.value)
    with pytest.raises(KoboldReaderError):
        Archive.open(tmp_path / "a", create=True, embedder="none", chroma_url="http://127.0.0.1:8000")
    assert not (tmp_path / "a").exists()


def test_a_public_server_needs_https_and_an_address_may_change() -> None:
    with pytest.raises(ConfigError, match="public address"):
        ChromaServer.chosen("http://8.8.8.8:8000", None)
    first = ChromaServer.chosen("http://127.0.0.1", None)
    assert first.url == "http://127.0.0.1:8000"
    assert ChromaServer.from_record(first.record()) == first
    assert ChromaServer.chosen("http://[::1]:9000", first) == ChromaServer("http://[::1]:9000", first.collection)
    assert ChromaServer.chosen("http://127.0.0.1", None).collection != first.collection
