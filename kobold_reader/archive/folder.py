"""Is this folder fit for an archive? SQLite and Chroma need real file locks, which network folders do not give."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from kobold_reader.errors import StoreError

__all__ = ["LOCK", "check_folder"]

LOCK: Final = "archive.lock"
"""Held by who writes."""

_NETWORK: Final = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb",
        "smb2",
        "smb3",
        "smbfs",
        "afpfs",
        "webdav",
        "davfs",
        "9p",
        "ncpfs",
        "fuse.sshfs",
        "fuse.rclone",
    }
)
_DRIVE_REMOTE: Final = 4
"""What GetDriveTypeW answers for a network drive (Windows API)."""


def check_folder(folder: Path) -> None:
    """Refuse a folder on a network share.

    Raises:
        StoreError: With the reason and what to do.
    """
    kind = _filesystem(folder.absolute())
    if kind in _NETWORK:
        msg = f"{folder} lies on a network share ({kind}): its locks do not protect an archive from being damaged."
        raise StoreError(msg, hint="Keep the archive on a local disk; the scans themselves may lie anywhere.")


def _filesystem(folder: Path) -> str:
    if os.name == "nt":
        return _windows_drive(folder)
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return _statfs_name(folder) if sys.platform == "darwin" else ""
    best, kind = "", ""
    for line in mounts.splitlines():
        _, point, name, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        if folder.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, name
    return kind


def _windows_drive(folder: Path) -> str:
    if str(folder).startswith("\\\\"):
        return "smb"
    import ctypes

    windll = getattr(ctypes, "windll", None)
    if windll is None:
        return ""
    return "smb" if windll.kernel32.GetDriveTypeW(folder.anchor) == _DRIVE_REMOTE else ""


def _statfs_name(folder: Path) -> str:
    """Ask macOS's mount table; it has no /proc."""
    import shutil
    import subprocess

    mount = shutil.which("mount")
    if mount is None:
        return ""
    listing = subprocess.run([mount], capture_output=True, text=True, check=False).stdout  # noqa: S603
    best, kind = "", ""
    for line in listing.splitlines():
        _, _, rest = line.partition(" on ")
        point, _, options = rest.rpartition(" (")
        if point and folder.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, options.split(",")[0].rstrip(")")
    return kind
