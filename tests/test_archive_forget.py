"""What was forgotten is in no byte of any file, and a kill on the way there changes nothing about that."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kobold_reader import Archive
from kobold_reader.archive import vectors as erasing
from kobold_reader.archive.rows import PageRow
from kobold_reader.archive.store import Catalog
from kobold_reader.archive.vectors import Node, Vectors
from kobold_reader.errors import ConfigError, ServerError, StoreError
from kobold_reader.reading.ledger import Ledger
from tests.conftest import ROOT
from tests.kobold_simulator import KoboldSimulator, ScriptBrain
from tests.test_regressions_archive import Killed, kill, reader_of
from tests.test_regressions_reading import make_pdf

pytestmark = pytest.mark.slow

WORDS = {"a.pdf": b"qzyxwhistle", "secretplace.pdf": b"vjkwbadger"}
SECRETS = (WORDS["secretplace.pdf"], b"secretplace")


@pytest.fixture(scope="module")
def server() -> Iterator[KoboldSimulator]:
    """A KoboldCpp that reads, in the order of the files, and embeds."""
    said = iter([word.decode() for word in WORDS.values()])
    with KoboldSimulator(
        model="Qwen2.5-VL-7B-Instruct-Q4_K_M",
        embeddings_model="embed-a",
        brain=ScriptBrain(lambda _: f"Lindqvist saw the {next(said, 'mole')}. " * 9),
    ) as simulator:
        yield simulator


@pytest.fixture(scope="module")
def made(server: KoboldSimulator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scans, and an archive and a ledger of them; made once, copied for every test."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "scans").mkdir()
    for number, name in enumerate(WORDS, start=1):
        make_pdf(folder / "scans" / name, [number])
    reader = reader_of(server, ledger=str(folder / "default.sqlite"))
    with Archive.open(folder / "archive", create=True, embedder="koboldcpp", api_url=server.url) as archive:
        list(reader.read_pages(folder / "scans"))
        archive.sync([folder / "scans" / name for name in WORDS], reader=reader)
    return folder


@pytest.fixture
def scans(made: Path) -> Iterator[Path]:
    yield made / "scans"
    (made / "scans" / "kept.pdf").unlink(missing_ok=True)


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """An archive of two files."""
    shutil.copytree(made / "archive", tmp_path / "archive")
    return tmp_path / "archive"


def holding(folder: Path, *words: bytes) -> set[str]:
    """The names of files in whose bytes one of the words is, as UTF-8 or UTF-16."""
    pieces = [word.decode().encode(code) for word in words for code in ("utf-8", "utf-16-le", "utf-16-be")]
    return {
        path.name
        for path in folder.rglob("*")
        if path.is_file() and any(piece in path.read_bytes().lower() for piece in pieces)
    }


def command(server: KoboldSimulator, *arguments: str) -> str:
    """Run the command line in a process of its own; returns what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "kobold_reader", *arguments],
        cwd=ROOT,
        env={**os.environ, "KOBOLD_READER_URL": server.url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def opened(place: Path) -> Archive:
    return Archive.open(place, api_url="http://127.0.0.1:9")  # forgetting asks no server


def test_what_is_forgotten_is_in_no_byte(place: Path, made: Path, scans: Path, tmp_path: Path) -> None:
    # Chroma may have written memory that it never used into its empty graph as well.
    assert holding(place, *SECRETS) >= {"ledger.sqlite", "archive.sqlite", "chroma.sqlite3"}, "else nothing is proved"
    with opened(place) as archive:
        assert archive.forget([(scans / "secretplace.pdf").as_uri()]).pages == 1
        assert [hit.file_name for hit in archive.search("Lindqvist", mode="keyword")] == ["a.pdf"]
        assert archive.status().unfinished_pages == 0
    assert holding(place, *SECRETS) == set()
    (tmp_path / "default").mkdir()
    shutil.copy(made / "default.sqlite", tmp_path / "default")
    assert holding(tmp_path / "default", *SECRETS)
    with Ledger(tmp_path / "default" / "default.sqlite") as ledger:
        ledger.forget([(scans / "secretplace.pdf").as_uri()])
    assert holding(tmp_path / "default", *SECRETS) == set()
    assert {path.name for path in place.iterdir()} <= {
        "archive.lock",
        "archive.sqlite",
        "chroma",
        "ledger.claims",
        "ledger.sqlite",
        *("ledger.sqlite-shm", "ledger.sqlite-wal"),  # left by a look, which may not remove them
    }


@pytest.mark.thorough
def test_nothing_of_it_comes_back_with_a_search_or_an_index_run(
    place: Path, scans: Path, server: KoboldSimulator
) -> None:
    """From outside: each command in a process of its own, and all bytes of all files looked through after each."""
    command(server, "forget", str(scans / "secretplace.pdf"), "--archive", str(place), "--ledger", "none")
    assert holding(place, *SECRETS) == set()
    assert "a.pdf" in command(server, "search", "Lindqvist", "--mode", "dense", "--archive", str(place))
    assert holding(place, *SECRETS) == set()
    command(server, "index", "--archive", str(place))
    assert holding(place, *SECRETS) == set()
    assert holding(place / "chroma", WORDS["a.pdf"]), "else nothing is proved"


def test_the_others_keep_their_vectors_and_nothing_is_embedded(
    place: Path, server: KoboldSimulator, scans: Path
) -> None:
    asked, read = server.count("/v1/embeddings"), server.count()
    with opened(place) as archive:
        archive.forget([(scans / "secretplace.pdf").as_uri()])
    assert server.count("/v1/embeddings") == asked
    with Archive.open(place, api_url=server.url) as archive:
        assert [hit.file_name for hit in archive.search("Lindqvist", mode="dense", related=True)] == ["a.pdf"]
        archive.sync(reader=reader_of(server))
        assert [hit.file_name for hit in archive.search("Lindqvist", mode="dense", related=True)] == ["a.pdf"]
    assert server.count() == read, "its path is forgotten as well: it was not read again"


@pytest.mark.parametrize(
    "step",
    [
        "kobold_reader.archive.vectors.settle",
        *(
            pytest.param(f"kobold_reader.archive.{step}", marks=pytest.mark.thorough)
            for step in (
                "store.Catalog.forget",
                "store.Catalog.erase_deleted",
                "vector_index.rewrite",
                "vectors._flush",
                "vectors._remove",
                "words.compact",
            )
        ),
    ],
)
def test_a_kill_on_the_way_is_made_good_by_the_next_run(
    place: Path, scans: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    gone = (scans / "secretplace.pdf").as_uri()
    calls = iter([step.endswith("settle")])  # the first only looks; the second puts the new folder in place
    module, _, name = step.rpartition(".")
    real = erasing.settle

    def dying(*arguments: Any, **options: Any) -> None:
        real(*arguments, **options) if next(calls, False) else kill()

    with monkeypatch.context() as patch, opened(place) as archive:
        patch.setattr(f"{module}.{name}", dying)
        with pytest.raises(Killed):
            archive.forget([gone])
    with opened(place) as archive:
        archive.forget([gone] if gone in archive.uris() else [])
    assert holding(place, *SECRETS) == set()
    assert {path.name for path in place.iterdir()} <= {
        "archive.lock",
        "archive.sqlite",
        "chroma",
        "ledger.claims",
        "ledger.sqlite",
    }
    with opened(place) as archive:
        assert archive.status().unfinished_pages == 0
        assert [hit.file_name for hit in archive.search("Lindqvist", mode="keyword")] == ["a.pdf"]
    assert holding(place / "chroma", WORDS["a.pdf"]), "the other page's vectors are there"


def test_a_copy_that_stays_is_shown_where_it_lies(place: Path, server: KoboldSimulator, scans: Path) -> None:
    (scans / "kept.pdf").write_bytes((scans / "secretplace.pdf").read_bytes())
    with Archive.open(place, api_url=server.url) as archive:
        archive.sync(scans / "kept.pdf", reader=reader_of(server))
        assert archive.forget([(scans / "secretplace.pdf").as_uri()]).pages == 0
        assert {hit.file_name for hit in archive.search("badger", mode="keyword")} == {"kept.pdf"}
    assert holding(place, b"secretplace") == set()
    assert holding(place, WORDS["secretplace.pdf"]) >= {"ledger.sqlite", "archive.sqlite", "chroma.sqlite3"}


@pytest.mark.thorough
def test_without_the_embedder_such_a_copy_waits_for_it(place: Path, server: KoboldSimulator, scans: Path) -> None:
    (scans / "kept.pdf").write_bytes((scans / "secretplace.pdf").read_bytes())
    with Archive.open(place, api_url=server.url) as archive:
        archive.sync(scans / "kept.pdf", reader=reader_of(server))
    with opened(place) as archive, pytest.raises(ServerError):
        archive.forget([(scans / "secretplace.pdf").as_uri()])
    # This process has had its words in memory: another one ends it.
    command(server, "index", "--archive", str(place))
    with opened(place) as archive:
        assert {hit.file_name for hit in archive.search("badger", mode="keyword")} == {"kept.pdf"}
    assert holding(place, b"secretplace") == set()


def test_a_page_whose_vectors_were_lost_gets_them_again(place: Path, server: KoboldSimulator, scans: Path) -> None:
    vectors = Vectors(place / "chroma", embedder="embed-a", dimension=384)
    vectors.delete(sorted(vectors.ids()))
    vectors.close()
    with opened(place) as archive:
        archive.forget([(scans / "secretplace.pdf").as_uri()])
        assert archive.status().unfinished_pages == 1
    with Archive.open(place, api_url=server.url) as archive:
        archive.sync(reader=reader_of(server))
        assert [hit.file_name for hit in archive.search("Lindqvist", mode="dense", related=True)] == ["a.pdf"]


def test_an_archive_of_words_only(tmp_path: Path, server: KoboldSimulator, made: Path, scans: Path) -> None:
    with Archive.open(tmp_path / "words", create=True, embedder="none") as archive:
        archive.sync([scans / name for name in WORDS], reader=reader_of(server, ledger=str(made / "default.sqlite")))
        archive.forget([(scans / "secretplace.pdf").as_uri()])
    assert holding(tmp_path / "words", *SECRETS) == set()
    assert holding(tmp_path / "words", WORDS["a.pdf"]) == {"archive.sqlite", "ledger.sqlite"}


@pytest.mark.thorough
def test_forgotten_vectors_leave_the_graph(tmp_path: Path) -> None:
    """Chroma writes its graph to a file only from a thousand nodes on, and never takes a vector out of it."""
    folder, dimension, chance = tmp_path / "chroma", 8, random.Random(1)
    embeddings = [[chance.uniform(-1, 1) for _ in range(dimension)] for _ in range(1200)]
    nodes = [
        Node(f"p{number}-ocr-0", f"text {number}", {"page_id": f"p{number}", "page_part": "ocr"}, embedding)
        for number, embedding in enumerate(embeddings)
    ]
    vectors = Vectors(folder, embedder="e", dimension=dimension)
    vectors.put(nodes)
    vectors.delete(["p7-ocr-0"])
    stored = vectors.collection.get(ids=["p8-ocr-0"], include=["embeddings"])["embeddings"][0]
    vectors.close()
    lengths = [sum(value * value for value in embedding) ** 0.5 for embedding in embeddings]
    forgotten = [struct.pack(f"<{dimension}f", *(value / lengths[7] for value in embeddings[7]))[:12]]
    forgotten.append(struct.pack(f"<{dimension}f", *embeddings[7])[:12])
    assert len(stored) == dimension
    assert holding_bytes(folder, forgotten), "else nothing is proved"

    catalog = Catalog(tmp_path / "archive.sqlite")
    page = PageRow("", "s", 1, "ok", {"ocr": "a"}, "v", {}, "u")
    kept = [number for number in range(1200) if number != 7]
    catalog.finish(
        catalog.begin([replace(page, page_id=f"p{number}", node_ids=(f"p{number}-ocr-0",)) for number in kept])
    )
    erasing.rewrite(folder, catalog, embedder="e", dimension=dimension)
    catalog.close()

    assert not holding_bytes(folder, forgotten)
    vectors = Vectors(folder, embedder="e", dimension=dimension)
    assert len(vectors.ids()) == 1199
    assert [near.page_id for near in vectors.query(embeddings[8], 1)] == ["p8"]
    vectors.close()


def holding_bytes(folder: Path, pieces: list[bytes]) -> bool:
    return any(piece in path.read_bytes() for path in folder.rglob("*") if path.is_file() for piece in pieces)


@pytest.mark.thorough
def test_a_folder_that_cannot_be_replaced_is_said(place: Path, scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows: another process holds a file of the folder open."""
    with opened(place) as archive:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(PermissionError(13, "in use")))
            with pytest.raises(StoreError, match=r"cannot be written anew.*End what else uses the archive"):
                archive.forget([(scans / "secretplace.pdf").as_uri()])
        archive.forget([])
    assert holding(place, *SECRETS) == set()


def test_all_of_it(place: Path, made: Path, scans: Path, server: KoboldSimulator) -> None:
    with Archive.open(place, api_url=server.url) as archive:
        assert set(archive.uris()) == {(scans / name).as_uri() for name in WORDS}
        archive.sync(scans, reader=reader_of(server, ledger=str(made / "default.sqlite")))
        archive.forget(archive.uris())
        assert archive.status().files == 0
        assert archive.uris() == []
        with pytest.raises(ConfigError, match="remembers no paths"):
            archive.sync()  # else it would read it all again
    assert holding(place, *SECRETS, *WORDS.values()) == set()
