"""Which files are taken, in which order, under which URI."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kobold_reader.errors import SourceNotFoundError, UnsupportedSourceError
from kobold_reader.pages import Selection, SourceFile, select
from kobold_reader.pages.sources import kind_of
from kobold_reader.progress import spell_skipped
from kobold_reader.reading.ledger import Ledger
from kobold_reader.release import install_command
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


def test_what_is_known_of_a_file(folder: Path) -> None:
    path = folder / "Box 2" / "letter.pdf"
    os.utime(path, ns=(10**18, 10**18 + 7))
    (file,) = select([path]).files
    assert file.uri == path.resolve().as_uri()
    assert (file.path, file.folder) == (str(path), str(path.parent))
    assert (file.size_bytes, file.mtime_ns, file.kind) == (len(PDF), path.stat().st_mtime_ns, "pdf")
    assert file.modified_date in {"2001-09-08", "2001-09-09"}
    assert file.named_by_hand
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
    (outside / "another.pdf").write_bytes(PDF)
    (folder / "another.PDF").symlink_to(outside / "another.pdf")
    (folder / "broken.pdf").symlink_to(folder / "gone.pdf")
    (folder / "same.jpg").symlink_to(folder / "IMG_2.jpg")
    (folder / ".private.pdf").symlink_to(outside / "private.pdf")
    before = select([folder])
    assert "private.pdf" not in {Path(file.path).resolve().name for file in before.files}
    assert {key: count for key, count in before.skipped.items() if "link" in key} == {
        ".pdf behind a link out of the folder": 2,
        ".pdf behind a link that cannot be followed": 1,
        "(folder) behind a link out of the folder": 1,
    }
    assert "2 .pdf behind a link out of the folder" in spell_skipped(before.skipped)
    assert len(before.files) == 6, "a link inside the folder is another name of its file"
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
    kinds = {file.name: file.kind for file in select([folder]).files}
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


def installed(monkeypatch: pytest.MonkeyPatch, *kinds: str) -> None:
    """Pretend that only what opens these kinds is installed."""
    monkeypatch.setattr("kobold_reader.pages.sources._is_there", lambda kind: kind in kinds)


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
RAW = make.tiff([make.corners()])


def test_what_needs_an_extra_is_counted_with_its_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "DSC_1.NEF").write_bytes(RAW)
    (folder / "IMG_7.HEIC").write_bytes(HEIC)
    (folder / "from a phone.jpg").write_bytes(HEIC)
    installed(monkeypatch)
    found = select([folder])
    assert found.skipped == {".heic": 1, ".jpg holding heic": 1, ".mov": 2, ".nef": 1}
    said = spell_skipped(found.skipped)
    assert f"1 .heic ({install_command('heic')})" in said
    assert f"1 .jpg holding heic ({install_command('heic')})" in said
    assert f"1 .nef ({install_command('raw')})" in said
    assert "2 .mov," in said
    (error,) = select([folder / "IMG_7.HEIC"]).errors
    assert isinstance(error, UnsupportedSourceError)
    assert install_command("heic") in str(error)
    installed(monkeypatch, "heic", "raw")
    found = select([folder])
    assert found.skipped == {".mov": 2}
    kinds = {file.name: file.kind for file in found.files}
    assert (kinds["DSC_1.NEF"], kinds["IMG_7.HEIC"], kinds["from a phone.jpg"]) == ("raw", "heic", "heic")


@pytest.mark.parametrize("extras", [(), ("raw", "heic")])
def test_a_raw_photo_and_its_jpeg_are_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, extras: tuple[str, ...]
) -> None:
    (folder / "IMG_2.CR2").write_bytes(RAW)
    (folder / "img_3.dng").write_bytes(RAW)
    (folder / "Box 2" / "IMG_10.cr2").write_bytes(RAW)  # the JPEG of that name lies elsewhere
    installed(monkeypatch, *extras)
    found = select([folder])
    skipped = {".cr2 beside its .jpg": 1, ".dng beside its .jpg": 1, ".mov": 2}
    assert found.skipped == (skipped if extras else {**skipped, ".cr2": 1})
    assert [file.name for file in found.files if file.kind == "raw"] == (["IMG_10.cr2"] if extras else [])
    assert "IMG_2.jpg" in names(found)
    if extras:
        assert names(select([folder / "IMG_2.CR2", folder])).count("IMG_2.CR2") == 1, "named by hand"
        assert names(select([str(folder / "*.CR2")])) == ["IMG_2.CR2"], "no JPEG is taken beside it"


def boxes(brand: bytes, *others: bytes) -> bytes:
    body = brand + bytes(4) + b"".join(others)
    return (len(body) + 8).to_bytes(4) + b"ftyp" + body


@pytest.mark.parametrize(
    ("head", "name", "kind"),
    [
        (boxes(b"mif1", b"avif"), "a.jpg", "avif"),
        (boxes(b"mif1", b"heic"), "a", "heic"),
        (boxes(b"mif1"), "a", "heic"),
        (boxes(b"avis"), "a.heic", "avif"),
        (boxes(b"crx "), "a.mp4", "raw"),
        (boxes(b"isom", b"avc1"), "a.heic", None),
        (boxes(b"qt  "), "a.jpg", None),
        (b"PK\x03\x04" + bytes(26) + b"mimetypeapplication/epub+zip", "book.zip", "epub"),
        (b"PK\x03\x04" + bytes(26) + b"001.jpg", "comic.cbz", "cbz"),
        (b"PK\x03\x04" + bytes(26) + b"[Content_Types].xml", "letter.oxps", "xps"),
        (b"PK\x03\x04" + bytes(26) + b"[Content_Types].xml", "letter.docx", None),
        (b"PK\x03\x04" + bytes(26) + b"word.pdf%PDF-1.4", "papers.zip", None),
        (b"\xff\xd8\xff\xe1", "IMG_1.CR2", "image"),
        (b"II*\0\x10\0\0\0CR\x02\0", "IMG_1.tif", "raw"),
        (b"II*\0\x08\0\0\0", "IMG_1.dng", "raw"),
        (b"II*\0\x08\0\0\0", "IMG_1.tif", "image"),
        (b"FUJIFILMCCD-RAW 0201", "IMG_1", "raw"),
        (b"\xff\x4f\xff\x51\0", "scan", "image"),
        (b"AT&TFORM", "book.djvu", None),
    ],
)
def test_kinds(head: bytes, name: str, kind: str | None) -> None:
    assert kind_of(head, name) == kind


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


def test_a_time_that_cannot_be_is_none(folder: Path, memory: Any, tmp_path: Path) -> None:
    """A broken clock, or an archive that was unpacked, leaves such times; a database cannot hold them."""
    os.utime(folder / "Box 2" / "letter.pdf", (15_000_000_000, 15_000_000_000))  # the year 2445
    memory.store["/box/b2.pdf"].modified = dt.datetime(9999, 12, 31, 23, tzinfo=dt.UTC)
    (local,) = select([folder / "Box 2" / "letter.pdf"]).files
    assert local.modified_date is not None
    remote = next(file for file in select(["/box"], fs=memory).files if file.name == "b2.pdf")
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        for file in (local, remote):
            assert abs(file.mtime_ns) < 1 << 63
            assert ledger.sha256_of(file) is None
    assert remote.mtime_ns == 0


def test_another_filesystem(memory: Any) -> None:
    by_fs = select(["/box"], fs=memory)
    by_url = select(["memory://box"])
    assert names(by_fs) == names(by_url) == ["b2.pdf", "b10.pdf", "a.jpg"]
    assert [file.uri for file in by_fs.files] == [file.uri for file in by_url.files]
    assert by_fs.files[0].uri == "memory:///box/b2.pdf"
    assert by_fs.skipped == {".mov": 1}
    assert names(select(["memory://box/*.pdf"])) == ["b2.pdf", "b10.pdf"]
    assert isinstance(select(["memory://box/gone.pdf"]).errors[0], SourceNotFoundError)


@pytest.mark.usefixtures("memory")
def test_a_file_elsewhere_is_copied_for_as_long_as_it_is_open() -> None:
    (file,) = select(["memory://box/b2.pdf"]).files
    assert file.named_by_hand
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
