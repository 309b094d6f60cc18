"""Which files are taken, in which order, under which URI."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kobold_reader.errors import SourceNotFoundError, UnsupportedSourceError
from kobold_reader.pages import Selection, SourceFile, select, sha256_of
from tests import page_files as make

PDF = make.pdf(make.text_on)
JPEG = make.jpeg(make.corners())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "archive"
    (root / "Box 2").mkdir(parents=True)
    (root / "Box 10").mkdir()
    for name in ("IMG_10.jpg", "IMG_2.jpg", "img_3.JPG"):
        (root / name).write_bytes(JPEG)
    (root / "Box 2" / "letter.pdf").write_bytes(PDF)
    (root / "Box 10" / "no ending").write_bytes(PDF)
    (root / "film.mov").write_bytes(b"moov")
    (root / "film 2.MOV").write_bytes(b"moov")
    (root / ".DS_Store").write_bytes(b"x")
    (root / ".hidden.pdf").write_bytes(PDF)
    (root / "Thumbs.db").write_bytes(b"x")
    return root


def names(selection: Selection) -> list[str]:
    return [file.name for file in selection.files]


def test_a_folder_in_natural_order(folder: Path) -> None:
    found = select([folder])
    assert names(found) == ["IMG_2.jpg", "img_3.JPG", "IMG_10.jpg", "letter.pdf", "no ending"]
    assert found.skipped == {".mov": 2}
    assert found.errors == ()
    assert found.roots == (folder.resolve().as_uri(),)
    assert not any(file.named_by_hand for file in found.files)
    assert names(select([folder], recursive=False)) == ["IMG_2.jpg", "img_3.JPG", "IMG_10.jpg"]


def test_what_is_known_of_a_file(folder: Path) -> None:
    path = folder / "Box 2" / "letter.pdf"
    os.utime(path, ns=(10**18, 10**18 + 7))
    (file,) = select([path]).files
    assert file.uri == path.resolve().as_uri()
    assert (file.path, file.folder) == (str(path), str(path.parent))
    assert (file.size_bytes, file.mtime_ns, file.kind) == (len(PDF), path.stat().st_mtime_ns, "pdf")
    assert file.modified_date in {"2001-09-08", "2001-09-09"}
    assert file.named_by_hand
    assert sha256_of(file) == hashlib.sha256(PDF).hexdigest()
    with file.opened_path() as local:
        assert local == str(path)


def test_one_file_has_one_uri_however_it_is_reached(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    ways: list[str | Path] = [
        folder / "IMG_2.jpg",
        str(folder / "IMG_2.jpg"),
        "IMG_2.jpg",
        "./IMG_2.jpg",
        "Box 2/../IMG_2.jpg",
        Path("IMG_2.jpg"),
        (folder / "IMG_2.jpg").as_uri(),
        "IMG_[2].jpg",
    ]
    found = select(ways)
    assert names(found) == ["IMG_2.jpg"]
    assert len({select([way]).files[0].uri for way in ways}) == 1
    assert names(select([folder / "IMG_2.jpg", folder]))[0] == "IMG_2.jpg"
    assert len(select([folder, folder / "IMG_2.jpg"]).files) == 5


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_links(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "private.pdf").write_bytes(PDF)
    (folder / "out").symlink_to(outside)
    (folder / "out.pdf").symlink_to(outside / "private.pdf")
    (folder / "loop").symlink_to(folder)
    (folder / "broken.pdf").symlink_to(folder / "gone.pdf")
    assert len(select([folder]).files) == 5
    door = tmp_path / "door"
    door.symlink_to(folder)
    assert {file.uri for file in select([door]).files} == {file.uri for file in select([folder]).files}
    assert select([door / "IMG_2.jpg"]).files[0].uri == select([folder / "IMG_2.jpg"]).files[0].uri


def test_patterns(folder: Path) -> None:
    assert names(select([str(folder / "*.jpg")])) == ["IMG_2.jpg", "IMG_10.jpg"]
    assert names(select([str(folder / "**" / "*.pdf")])) == ["letter.pdf"]
    assert isinstance(select([str(folder / "*.tif")]).errors[0], SourceNotFoundError)
    (folder / "notes [old].pdf").write_bytes(PDF)
    assert names(select([folder / "notes [old].pdf"])) == ["notes [old].pdf"]


def test_content_decides_and_the_ending_where_it_is_silent(folder: Path) -> None:
    for name, data in {
        "empty.pdf": b"",
        "cut.jpg": b"\xff\xd8",
        "page.pdf": b"<html></html>",
        "junk first.bin": b"junk\n" * 50 + PDF,
        "picture.dat": JPEG,
    }.items():
        (folder / name).write_bytes(data)
    kinds = {file.name: file.kind for file in select([folder], recursive=False).files}
    assert (
        kinds.items()
        >= {
            "empty.pdf": "pdf",
            "cut.jpg": "image",
            "page.pdf": "pdf",
            "junk first.bin": "pdf",
            "picture.dat": "image",
        }.items()
    )


def test_a_raw_photo_is_not_taken_for_its_thumbnail(folder: Path) -> None:
    (folder / "DSC_1.NEF").write_bytes(make.tiff([make.corners()]))
    assert select([folder]).skipped == {".mov": 2, ".nef": 1}


def test_what_is_named_by_hand_and_not_taken(folder: Path) -> None:
    found = select([folder / "film.mov", folder / "nothing.pdf", folder / "IMG_2.jpg"])
    assert names(found) == ["IMG_2.jpg"]
    unsupported, missing = found.errors
    assert isinstance(unsupported, UnsupportedSourceError)
    assert isinstance(missing, SourceNotFoundError)
    assert (missing.source or "").endswith("nothing.pdf")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs rights that can be taken")
def test_what_may_not_be_read(folder: Path) -> None:
    (folder / "Box 2").chmod(0)
    (folder / "IMG_2.jpg").chmod(0)
    try:
        found = select([folder])
    finally:
        (folder / "Box 2").chmod(0o700)
    assert len(found.errors) == 2
    assert names(found) == ["img_3.JPG", "IMG_10.jpg", "no ending"]


@pytest.fixture
def memory() -> Iterator[Any]:
    fsspec = pytest.importorskip("fsspec")
    fs = fsspec.filesystem("memory")
    fs.pipe({"/box/b10.pdf": PDF, "/box/b2.pdf": PDF, "/box/in/a.jpg": JPEG, "/box/x.mov": b"m"})
    fs.pipe({"/box/.hidden/a.pdf": PDF})
    yield fs
    fs.rm("/box", recursive=True)


def test_another_filesystem(memory: Any) -> None:
    by_fs = select(["/box"], fs=memory)
    by_url = select(["memory://box"])
    assert names(by_fs) == names(by_url) == ["b2.pdf", "b10.pdf", "a.jpg"]
    assert [file.uri for file in by_fs.files] == [file.uri for file in by_url.files]
    assert by_fs.files[0].uri == "memory:///box/b2.pdf"
    assert by_fs.skipped == {".mov": 1}
    assert names(select(["memory://box/*.pdf"])) == ["b2.pdf", "b10.pdf"]
    assert names(select(["/box"], fs=memory, recursive=False)) == ["b2.pdf", "b10.pdf"]
    assert isinstance(select(["memory://box/gone.pdf"]).errors[0], SourceNotFoundError)


@pytest.mark.usefixtures("memory")
def test_a_file_elsewhere_is_copied_for_as_long_as_it_is_open() -> None:
    (file,) = select(["memory://box/b2.pdf"]).files
    assert file.named_by_hand
    assert sha256_of(file) == hashlib.sha256(PDF).hexdigest()
    with file.opened_path() as local:
        assert Path(local).read_bytes() == PDF
    assert not Path(local).exists()


def test_a_login_never_reaches_a_uri() -> None:
    (error,) = select(["nosuchprotocol://me:secret@host/path"]).errors
    assert "secret" not in str(error)


def test_values_are_frozen_and_comparable(folder: Path) -> None:
    first, second = (select([folder / "IMG_2.jpg"]).files[0] for _ in range(2))
    assert first == second
    assert isinstance(first, SourceFile)
    assert hash(first) == hash(second)
