"""Walls: files are not changed, text is not interpreted, passwords stay where they belong; and the rarer ways in."""

from __future__ import annotations

import functools
import http.server
import json
import logging
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from llama_index.core import SimpleDirectoryReader
from typing_extensions import override

from kobold_reader import Archive, KoboldReader
from kobold_reader.cli import app as cli
from kobold_reader.cli.output import harmless
from kobold_reader.errors import KoboldReaderError, PagesFailedError
from tests.conftest import LETTER, SAMPLES
from tests.kobold_simulator import KoboldSimulator, ScriptBrain

pytestmark = pytest.mark.slow

RECEIPT = SAMPLES / "receipts" / "1987-05-12 chandler.jpg"
SECRET, PDF_SECRET = "correct-horse-7391", "battery-staple-5527"
HOSTILE = "Lindqvist \x1b]0;title\x07\x1b[2J\x9b31m<script>alert('1954')</script> & <img src=x onerror=alert(1)>"


# ── files ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no read-only folders")
def test_files_are_opened_read_only_and_never_changed(simulator: KoboldSimulator, tmp_path: Path) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    for source in (LETTER, RECEIPT):
        copy = folder / source.name
        copy.write_bytes(source.read_bytes())
        copy.chmod(0o444)
    folder.chmod(0o555)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    try:
        with Archive.open(tmp_path / "archive", create=True, embedder="none") as archive:
            archive.sync(folder, reader=KoboldReader(api_url=simulator.url, tasks=["ocr"]))
            assert archive.search("Lindqvist")
        assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()} == before
    finally:
        folder.chmod(0o755)


# ── text ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_pages_text_steers_no_terminal_and_no_browser(
    make_simulator: Callable[..., KoboldSimulator], tmp_path: Path
) -> None:
    simulator = make_simulator(brain=ScriptBrain(lambda _: HOSTILE))
    with Archive.open(tmp_path / "archive", create=True, embedder="none") as archive:
        archive.sync(RECEIPT, reader=KoboldReader(api_url=simulator.url, tasks=["ocr"]))
        [hit] = archive.search("Lindqvist")
    html = hit._repr_html_()
    assert "<script" not in html
    assert "<img" not in html
    assert "&lt;script&gt;" in html
    assert json.loads(json.dumps(hit.to_json()))["text"].startswith("Lindqvist"), "a program gets the text as it is"
    shown = harmless(hit.page_text)
    assert not set(shown) & {"\x1b", "\x07", "\x9b"}
    assert "Lindqvist" in shown


def test_on_a_terminal_escape_codes_are_shown_not_obeyed(
    make_simulator: Callable[..., KoboldSimulator],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    simulator = make_simulator(brain=ScriptBrain(lambda _: HOSTILE))
    monkeypatch.setattr(
        sys, "argv", ["kobold-reader", "read", str(RECEIPT), "--api-url", simulator.url, "--tasks", "ocr"]
    )
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert cli.run() == 0
    seen = capsys.readouterr().out
    assert "Lindqvist" in seen
    assert not {"\x1b", "\x07"} & set(seen)


# ── passwords ────────────────────────────────────────────────────────────────────────────────────


def test_passwords_are_in_nothing_but_a_pickle(
    make_simulator: Callable[..., KoboldSimulator],
    tmp_path: Path,
    home: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    simulator = make_simulator(password=SECRET)
    reader = KoboldReader(api_url=simulator.url, api_password=SECRET, pdf_passwords=[PDF_SECRET], tasks=["ocr"])
    with Archive.open(tmp_path / "archive", create=True, embedder="none", api_password=SECRET) as archive:
        archive.sync(RECEIPT, reader=reader)
    broken = tmp_path / "broken.pdf"
    broken.write_bytes(b"%PDF-1.7 nothing")
    wrong = KoboldReader(api_url=simulator.url, api_password=SECRET + "!", pdf_passwords=[PDF_SECRET], ledger="none")
    said: list[str] = []
    for path in (broken, LETTER):
        with pytest.raises(KoboldReaderError) as raised:
            wrong.load_data(path)
        said.append(f"{raised.value!r} {raised.value} {raised.value.__cause__!r} {raised.value.__cause__}")
        if isinstance(raised.value, PagesFailedError):
            said += [f"{error!r} {error}" for error in raised.value.errors]
    said += [
        repr(reader),
        str(reader),
        json.dumps(reader.to_dict()),
        reader.to_json(),
        caplog.text,
        *capfd.readouterr(),
    ]
    for folder in (tmp_path / "archive", home):
        said += [path.read_bytes().decode("latin-1") for path in folder.rglob("*") if path.is_file()]
    assert not [text for text in said if SECRET in text or PDF_SECRET in text]
    copy = pickle.loads(pickle.dumps(reader))  # noqa: S301  (our own)
    assert (copy.api_password, copy.pdf_passwords) == (SECRET, [PDF_SECRET]), "a worker process needs them"


# ── the rarer ways in ────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A web server over a folder with the letter."""
    folder = tmp_path / "web"
    folder.mkdir()
    (folder / "letter.pdf").write_bytes(LETTER.read_bytes())
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))

    class Quiet(http.server.ThreadingHTTPServer):
        @override
        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that hangs up is no news."""

    with Quiet(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_files_on_a_web_server(simulator: KoboldSimulator, web: str) -> None:
    reader = KoboldReader(api_url=simulator.url, tasks=["ocr"])
    by_url = reader.load_data(f"{web}/letter.pdf")
    by_filesystem = reader.load_data(f"{web}/letter.pdf", fs=fsspec.filesystem("http"))
    assert [document.metadata["page_number"] for document in by_url] == [1, 2, 3]
    assert [document.id_ for document in by_filesystem] == [document.id_ for document in by_url]
    assert {document.metadata["file_name"] for document in by_url} == {"letter.pdf"}
    assert simulator.count() == 3, "the same content is not asked again"


def test_a_directory_reader_over_a_web_server(simulator: KoboldSimulator, web: str) -> None:
    """Relative paths under a base, as object stores have them: LlamaIndex itself would spoil the `//` of a URL."""
    reader = KoboldReader(api_url=simulator.url, tasks=["ocr"])
    store = DirFileSystem(path=web, fs=fsspec.filesystem("http"))
    documents = SimpleDirectoryReader(
        input_files=["letter.pdf"], fs=store, file_extractor=reader.file_extractor(), raise_on_error=True
    ).load_data()
    assert [document.metadata["page_number"] for document in documents] == [1, 2, 3]
    assert {document.metadata["file_name"] for document in documents} == {"letter.pdf"}
    assert simulator.count() == 3
