"""Names of files: whatever a file system allows is read, found, shown, exported and forgotten."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import pymupdf
import pytest
from llama_index.core import SimpleDirectoryReader
from starlette.testclient import TestClient

from kobold_reader import Archive, KoboldReader
from kobold_reader.archive import archive as archives
from kobold_reader.archive.export import relative_names
from kobold_reader.cli import app as cli
from kobold_reader.pages import expanded, local_path, local_uri, select, shown, storable
from kobold_reader.pages.names import extended, uri_of
from kobold_reader.web import Access, make_app

any_bytes = pytest.mark.skipif(sys.platform in {"win32", "darwin"}, reason="only Linux allows any bytes in a name")

BYTES = [b"latin1-\xe4\xf6.pdf", b"latin1-\xf6\xe4.pdf", b"sub\xff/in \xfe.pdf", b"line\nbreak.pdf", b"esc\x1b[31m.pdf"]
"""Names that are shown in another form than they have."""
PLAIN = [
    "rlo\u202efdp.pdf",
    "\N{GRINNING FACE}.pdf",
    "\u0915\u094d\u200d\u0937.pdf",
    "-dash.pdf",
    "a#b?.pdf",
    "100%.pdf",
    "%E4.pdf",
    "con.pdf",
    "CON",
    "trail. .",
    "~home.pdf",
    "back\\slash.pdf",
    "<b>&.pdf",
    "x" * 251 + ".pdf",
]


def page_of(word: str) -> bytes:
    with pymupdf.open() as document:
        document.new_page().insert_textbox((50, 50, 550, 800), f"The harbour master wrote {word} in his book. " * 9)
        return bytes(document.tobytes())


def written(folder: Path) -> dict[str, bytes]:
    """Write a file of one page under each name; return its path by the only word that no other has."""
    found = {}
    for number, name in enumerate([*BYTES, *map(os.fsencode, PLAIN)]):
        path = os.path.join(os.fsencode(folder), name)  # noqa: PTH118  (bytes)
        os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
        with open(path, "wb") as file:  # noqa: PTH123
            file.write(page_of(f"wharf{number}x"))
        found[f"wharf{number}x"] = path
    return found


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return written(tmp_path_factory.mktemp("odd") / "scans")


@pytest.fixture(scope="module")
def archive(paths: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    """An archive of all these files, one folder of which was named by hand."""
    folder = Path(os.fsdecode(paths["wharf0x"])).parent
    with Archive.open(tmp_path_factory.mktemp("odd") / "archive", create=True, embedder="none") as archive:
        report = archive.sync([folder, *folder.glob("sub*")], reader=KoboldReader(text_layer="only", ledger="none"))
        assert not report.errors
        assert report.indexed_pages == len(paths)
        yield archive


@pytest.mark.slow
@any_bytes
def test_each_file_is_found_and_its_link_leads_to_it(archive: Archive, paths: dict[str, bytes]) -> None:
    for word, path in paths.items():
        hit = archive.search(word, mode="keyword")[0]
        assert word in hit.page_text
        assert os.fsencode(local_path(hit.link.partition("#page=")[0])) == path
        json.dumps(hit.to_json(), ensure_ascii=False).encode()
        assert not re.search("[\x00-\x1f\u202e\ud800-\udfff]", hit.metadata["file_path"])
    assert {page.metadata["file_name"] for page in archive.pages()} >= {
        *("latin1-%E4%F6.pdf", "latin1-%F6%E4.pdf", "line%0Abreak.pdf", "rlo%E2%80%AEfdp.pdf", "<b>&.pdf"),
        *("100%.pdf", "\u0915\u094d\u200d\u0937.pdf"),
    }
    assert [hit.file_name for hit in archive.search("wharf2x", folder=os.fsdecode(b"sub\xff"))] == ["in %FE.pdf"]
    # The folders that were indexed are remembered, also those whose name is no text.
    assert archive.sync().indexed_pages == 0


@pytest.mark.slow
@any_bytes
def test_each_file_is_shown_in_the_browser(archive: Archive, paths: dict[str, bytes]) -> None:
    access = Access(port=8642)
    app, close = make_app(archive, access)
    client = TestClient(app, "http://127.0.0.1:8642")
    client.cookies.set(access.cookie, access.session, domain="127.0.0.1")
    for word in paths:
        found = client.get("/", params={"q": word}).text
        assert word in found
        assert not re.search("[\x00-\x08\x0b-\x1f\u202e\ud800-\udfff]|<b>&", found)
    close()


@pytest.mark.slow
@any_bytes
def test_each_file_is_exported_under_a_name_that_every_system_takes(archive: Archive, tmp_path: Path) -> None:
    report = archive.export(tmp_path / "texts")
    assert not report.errors
    names = [path.relative_to(tmp_path / "texts").as_posix() for path in report.written]
    assert len(names) == len(BYTES) + len(PLAIN)
    assert {"latin1-%E4%F6.pdf.md", "latin1-%F6%E4.pdf.md", "sub%FF/in %FE.pdf.md", "_con.pdf.md"} <= set(names)
    assert not any(re.search(r'[\x00-\x1f\\:?<>"|\ud800-\udfff]', name) for name in names)


@pytest.mark.slow
@any_bytes
def test_a_file_is_forgotten_by_its_own_name_and_by_the_name_that_is_shown(
    archive: Archive,
    paths: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(archive.folder, tmp_path / "archive")
    first, second = (os.fsdecode(paths[word]) for word in ("wharf0x", "wharf1x"))

    def kobold(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["kobold-reader", *arguments, "--archive", str(tmp_path / "archive")])
        assert cli.run() == 0
        said = capsys.readouterr()
        return said.out + said.err

    assert '"latin1-%E4%F6.pdf"' in kobold("search", "wharf0x", "--json")
    assert "1 page of the archive" in kobold("forget", first)
    assert "1 page of the archive" in kobold("forget", shown(second))
    assert f"files: {len(paths) - 2}" in kobold("status")


@pytest.mark.slow
@any_bytes
def test_documents_of_such_files_are_plain_text(archive: Archive, paths: dict[str, bytes]) -> None:
    reader = KoboldReader(text_layer="only", ledger=archive.folder / "ledger.sqlite")
    (document,) = SimpleDirectoryReader(
        input_files=[os.fsdecode(paths["wharf0x"])],
        file_extractor=reader.file_extractor(),
        raise_on_error=True,
        file_metadata=lambda path: {"file_path": path, "origin": path},
    ).load_data()
    assert "wharf0x" in document.text
    assert document.metadata["file_name"] == "latin1-%E4%F6.pdf"
    assert document.metadata["origin"].endswith("/latin1-%E4%F6.pdf")
    document.model_dump_json().encode()


# ── the rules ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        (PurePosixPath("/scans/a b#?%.pdf"), "file:///scans/a%20b%23%3F%25.pdf"),
        (PureWindowsPath("C:\\scans\\a b.pdf"), "file:///C:/scans/a%20b.pdf"),
        (PureWindowsPath("C:\\scans\\lone \ud83d.pdf"), "file:///C:/scans/lone%20%ED%A0%BD.pdf"),
        (PureWindowsPath("\\\\nas\\scans\\lone \ud83d.pdf"), "file://nas/scans/lone%20%ED%A0%BD.pdf"),
    ],
)
def test_a_uri_leads_back_to_its_path(path: PurePosixPath | PureWindowsPath, uri: str) -> None:
    assert uri_of(path) == uri
    assert local_path(uri, is_windows=isinstance(path, PureWindowsPath)) == str(path)


@pytest.mark.parametrize(
    ("path", "opened"),
    [
        ("C:\\scans\\letter.pdf", "C:\\scans\\letter.pdf"),
        ("C:\\scans\\CON", "\\\\?\\C:\\scans\\CON"),
        ("C:\\scans\\aux.txt\\letter.pdf", "\\\\?\\C:\\scans\\aux.txt\\letter.pdf"),
        ("C:\\scans\\trailing. ", "\\\\?\\C:\\scans\\trailing. "),
        ("\\\\nas\\scans\\box.\\1.pdf", "\\\\?\\UNC\\nas\\scans\\box.\\1.pdf"),
        ("C:\\" + "long\\" * 60 + "1.pdf", "\\\\?\\C:\\" + "long\\" * 60 + "1.pdf"),
    ],
)
def test_windows_opens_every_name(path: str, opened: str) -> None:
    assert extended(PureWindowsPath(path)) == opened


def test_what_is_shown_and_what_is_stored() -> None:
    name = "a\tb\u202e\u200d\ud83d%\N{GRINNING FACE}"
    assert shown(name) == "a%09b%E2%80%AE\u200d%ED%A0%BD%\N{GRINNING FACE}"
    assert storable(name) == "a\tb\u202e\u200d%ED%A0%BD%\N{GRINNING FACE}"


def test_a_name_that_begins_with_a_tilde_is_no_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("~nobody.pdf").write_bytes(b"%PDF-")
    assert [file.name for file in select("~nobody.pdf").files] == ["~nobody.pdf"]
    assert expanded("~") == Path.home()


def test_a_folder_is_remembered_as_text(tmp_path: Path) -> None:
    odd = tmp_path / "odd \ud83d"
    assert archives.root_name(tmp_path) == str(tmp_path)
    assert archives.root_name(odd) == local_uri(odd)
    assert relative_names([f"{local_uri(odd)}/1.pdf"], [local_uri(tmp_path)]).popitem()[1].parts[0] == shown(odd.name)
