"""An archive's folder: network shares are refused, and only one process writes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kobold_reader import Archive
from kobold_reader.archive.folder import BusyError, check_folder, is_locked, locked
from kobold_reader.errors import StoreError

MOUNTS = """/dev/sda1 / ext4 rw 0 0
server:/scans {share} {kind} rw 0 0
/dev/sdb1 {share}/disk ext4 rw 0 0
"""


@pytest.fixture
def share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """A folder that the system calls a share of this kind, with a local disk in it."""
    folder = tmp_path / "on the server"
    mounts = MOUNTS.format(share=str(folder).replace(" ", "\\040"), kind=request.param)
    monkeypatch.setattr(Path, "read_text", lambda path, **_: mounts if str(path) == "/proc/self/mounts" else "")
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="other systems tell what is mounted in another way")
@pytest.mark.parametrize("share", ["nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p"], indirect=True)
def test_an_archive_on_a_network_share_is_refused(share: Path) -> None:
    with pytest.raises(StoreError, match="is on a network share"):
        Archive.open(share / "archive", create=True)
    assert not share.exists(), "nothing was written there"
    check_folder(share / "disk" / "archive")
    check_folder(share.with_name("on the server's disk"))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems tell what is mounted in another way")
@pytest.mark.parametrize("share", ["ext4", "btrfs", "fuse.mergerfs"], indirect=True)
def test_an_archive_on_a_local_disk_is_not(share: Path) -> None:
    check_folder(share / "archive")


def test_one_writes_at_a_time(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    with locked(tmp_path):
        assert is_locked(tmp_path)
        with pytest.raises(BusyError, match="another process is writing"), locked(tmp_path):
            pass
    assert not is_locked(tmp_path)
    assert not is_locked(tmp_path / "missing"), "nobody can write there"
