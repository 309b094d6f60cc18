"""Which files are the sidecars of a photo, and how one is written."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from kobold_reader.errors import SidecarError
from kobold_reader.pages import select
from kobold_reader.pages.sidecars import SidecarName, contents, replace_file
from kobold_reader.pages.sources import sidecar_finder
from tests import page_files as make
from tests import sidecar_samples as samples


def folder_of(tmp_path: Path, names: str) -> Path:
    for name in names.split():
        (tmp_path / name).write_bytes(samples.BARE if name.lower().endswith(".xmp") else b"-")
    return tmp_path


@pytest.mark.parametrize(
    ("names", "photo", "read", "written"),
    [
        ("a.jpg", "a.jpg", "", "a.jpg.xmp"),
        ("a.jpg a.xmp", "a.jpg", "a.xmp", "a.xmp"),
        ("a.jpg a.jpg.xmp", "a.jpg", "a.jpg.xmp", "a.jpg.xmp"),
        ("a.jpg a.jpg.xmp a.xmp", "a.jpg", "a.jpg.xmp a.xmp", "a.jpg.xmp a.xmp"),
        ("a.JPG a.XMP", "a.JPG", "a.XMP", "a.XMP"),
        ("a.jpg b.xmp b.jpg.xmp a_01.jpg.xmp", "a.jpg", "", "a.jpg.xmp"),
        # A raw file and its JPEG: one picture, whose `a.xmp` is the raw file's.
        ("a.cr2 a.jpg a.xmp", "a.jpg", "a.xmp", "a.jpg.xmp"),
        ("a.cr2 a.jpg a.xmp", "a.cr2", "a.xmp", "a.xmp"),
        ("a.cr2 a.jpg a.xmp a.cr2.xmp", "a.cr2", "a.cr2.xmp a.xmp", "a.cr2.xmp a.xmp"),
        ("a.cr2 a.tif a.xmp", "a.tif", "", "a.tif.xmp"),
        # Two pictures with one stem: nobody knows whose it is.
        ("a.jpg a.png a.xmp", "a.jpg", "", "a.jpg.xmp"),
        ("a.jpg a.png a.xmp a.png.xmp", "a.jpg", "", "a.jpg.xmp"),
        ("a.heic a.mov a.xmp", "a.heic", "", "a.heic.xmp"),
        ("a.cr2 a.dng a.jpg a.xmp", "a.jpg", "", "a.jpg.xmp"),
        ("a.jpg a.jpg.tif a.jpg.xmp", "a.jpg.tif", "", "a.jpg.tif.xmp"),
        ("a.jpg a.jpg.tif a.jpg.xmp", "a.jpg", "a.jpg.xmp", "a.jpg.xmp"),
    ],
)
def test_names(names: str, photo: str, read: str, written: str, tmp_path: Path) -> None:
    place = folder_of(tmp_path, names) / photo
    finder = sidecar_finder()
    assert [Path(one.path).name for one in finder.read_of(place)] == read.split()
    assert [path.name for path in finder.written_of(place)] == written.split()


@pytest.mark.parametrize(
    ("names", "photo", "name", "written"),
    [
        ("a.jpg a.xmp", "a.jpg", "photo.jpg.xmp", "a.jpg.xmp"),
        ("a.jpg a.jpg.xmp", "a.jpg", "photo.xmp", "a.xmp"),
        ("a.cr2 a.jpg", "a.jpg", "photo.xmp", "a.xmp"),
        ("a.cr2 a.jpg a.XMP", "a.jpg", "photo.xmp", "a.XMP"),
        ("a.jpg a.png", "a.jpg", "photo.xmp", ""),
        ("a.cr2 a.tif", "a.tif", "photo.xmp", ""),
    ],
)
def test_names_that_are_asked_for(names: str, photo: str, name: SidecarName, written: str, tmp_path: Path) -> None:
    place = folder_of(tmp_path, names) / photo
    if written:
        assert [path.name for path in sidecar_finder().written_of(place, name)] == [written]
    else:
        with pytest.raises(SidecarError, match=r"a\.xmp would also be the sidecar of a\.(png|cr2)"):
            sidecar_finder().written_of(place, name)


def test_selected_photos_know_their_sidecars_and_no_other_file_does(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(make.jpeg(make.corners()))
    (tmp_path / "letter.pdf").write_bytes(b"%PDF-1.4")
    for name in ("a.jpg.xmp", "b.xmp", "letter.xmp", "letter.pdf.xmp", "gone.xmp"):
        (tmp_path / name).write_bytes(samples.BARE)
    selection = select([tmp_path])
    found = {file.name: [Path(one.path).name for one in file.sidecars] for file in selection.files}
    assert found == {"a.jpg": ["a.jpg.xmp"], "b.jpg": ["b.xmp"], "letter.pdf": []}
    assert selection.skipped == {".xmp": 3}
    by_hand = select([tmp_path / "a.jpg"]).files[0].sidecars[0]
    assert by_hand.size_bytes == len(samples.BARE)
    assert select([tmp_path / "a.jpg", tmp_path / "b.jpg"]).skipped == {}


def test_a_sidecar_is_written_whole_with_the_rights_of_its_photo(tmp_path: Path) -> None:
    photo, sidecar = tmp_path / "a.jpg", tmp_path / "a.jpg.xmp"
    photo.write_bytes(b"photo")
    photo.chmod(0o640)
    os.utime(photo, ns=(1, 2_000_000_000))
    replace_file(sidecar, None, b"first", photo=photo)
    if sys.platform != "win32":
        assert stat.S_IMODE(sidecar.stat().st_mode) == 0o640
        sidecar.chmod(0o664)
    replace_file(sidecar, b"first", b"second", photo=photo)
    assert contents(sidecar) == b"second"
    if sys.platform != "win32":
        assert stat.S_IMODE(sidecar.stat().st_mode) == 0o664
    assert (photo.read_bytes(), photo.stat().st_mtime_ns) == (b"photo", 2_000_000_000)
    replace_file(sidecar, b"second", None, photo=photo)
    assert not list(tmp_path.glob("a.jpg.*"))


@pytest.mark.parametrize("before", [None, b"what it was"])
def test_what_another_program_wrote_meanwhile_is_not_overwritten(before: bytes | None, tmp_path: Path) -> None:
    sidecar = tmp_path / "a.jpg.xmp"
    sidecar.write_bytes(b"what it is now")
    with pytest.raises(SidecarError, match="Another program"):
        replace_file(sidecar, before, b"ours", photo=tmp_path / "a.jpg")
    assert sidecar.read_bytes() == b"what it is now"


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, sidecar = tmp_path / "elsewhere" / "x.xmp", tmp_path / "a.jpg.xmp"
    target.write_bytes(b"old")
    sidecar.symlink_to(target)
    replace_file(sidecar, b"old", b"new", photo=tmp_path / "a.jpg")
    assert sidecar.is_symlink()
    assert target.read_bytes() == b"new"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="only POSIX has them")
def test_a_pipe_or_a_folder_is_no_sidecar(tmp_path: Path) -> None:
    photo = folder_of(tmp_path, "a.jpg b.jpg") / "a.jpg"
    os.mkfifo(tmp_path / "a.jpg.xmp")
    (tmp_path / "b.jpg.xmp").mkdir()
    assert sidecar_finder().read_of(photo) == sidecar_finder().read_of(tmp_path / "b.jpg") == ()
    with pytest.raises(SidecarError, match="not a file"):
        contents(tmp_path / "a.jpg.xmp")
