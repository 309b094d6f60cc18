"""The folder of an archive: which files are its own, where it may be, and who may write in it.

`ledger.sqlite` has the readings, `archive.sqlite` files, pages and words, `chroma` the vectors; the process that writes
holds `archive.lock`. SQLite and Chroma need locks that work, so no archive is on a network share.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from kobold_reader.errors import StoreError, reason

CATALOG: Final = "archive.sqlite"
LEDGER: Final = "ledger.sqlite"
LOCK: Final = "archive.lock"
"""The writer holds this file."""
_LOCK_WAIT_S: Final = 1.0
"""A correction holds the lock for a moment, a run for long."""


def make_folder(folder: Path) -> None:
    """Make the folder where it is missing; raises StoreError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise StoreError(
            f"the folder {folder} cannot be made ({reason(err)}).", hint="Name another folder with --archive."
        ) from err


class Traces:
    """What making an archive leaves in the file system, beside what was there before."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._before = set(folder.iterdir()) if folder.is_dir() else set()
        self._made = [one for one in (folder, *folder.absolute().parents) if not one.exists()]

    def remove(self) -> None:
        """Remove the archive's files, and the folders made for them, as far as nothing else is in them."""
        ours = re.compile(rf"({re.escape(CATALOG)}|{re.escape(LEDGER)})(-wal|-shm|-journal)?|{LOCK}|chroma|.*\.claims")
        for path in set(self._folder.iterdir()) - self._before:
            if path.is_dir() and ours.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)
            elif ours.fullmatch(path.name):
                with suppress(OSError):  # Windows keeps a file that is open
                    path.unlink()
        for folder in self._made:
            with suppress(OSError):  # something else was put there
                folder.rmdir()


# ── the lock ─────────────────────────────────────────────────────────────────────────────────────


class BusyError(StoreError):
    """Another process is writing."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold an archive for writing; raises BusyError if another process does."""
    from filelock import FileLock, Timeout

    try:
        lock = FileLock(folder / LOCK, timeout=_LOCK_WAIT_S).acquire()
    except Timeout:
        raise BusyError(
            f"another process is writing to the archive {folder}.",
            hint="Wait for it to end; searching goes on meanwhile.",
        ) from None
    with lock:
        yield


def is_locked(folder: Path) -> bool:
    """Tell whether a process, this one or another, holds an archive for writing."""
    from filelock import FileLock, Timeout

    try:
        FileLock(folder / LOCK, timeout=0).acquire().lock.release()
    except Timeout:
        return True
    except OSError:
        return False  # nobody can write there
    return False


# ── network shares ───────────────────────────────────────────────────────────────────────────────

_NETWORK: Final = re.compile(r"nfs4?|cifs|smb\d?|smbfs|afpfs|webdav|davfs|9p|ncpfs|fuse\.(sshfs|rclone)")
_DRIVE_REMOTE: Final = 4
"""GetDriveTypeW's answer for a network drive (Windows API)."""


def check_folder(folder: Path) -> None:
    """Raise StoreError for a folder on a network share: SQLite and Chroma need file locks that work."""
    kind = _filesystem(folder.absolute())
    if _NETWORK.fullmatch(kind):
        raise StoreError(
            f"{folder} is on a network share ({kind}), whose locks do not protect an archive from being damaged.",
            hint="Keep the archive on a local disk; the scans themselves may be anywhere.",
        )


def _filesystem(folder: Path) -> str:
    """Return the kind of file system that a folder is on; "" if it cannot be found out."""
    if os.name == "nt":
        import ctypes

        windll = getattr(ctypes, "windll", None)
        is_remote = windll is not None and windll.kernel32.GetDriveTypeW(folder.anchor) == _DRIVE_REMOTE
        return "smb" if is_remote or str(folder).startswith("\\\\") else ""
    within = [(point, kind) for point, kind in _mounts() if folder.is_relative_to(point)]
    return max(reversed(within), key=lambda mount: len(mount[0]), default=("", ""))[1]  # the last mount hides others


def _mounts() -> Iterator[tuple[str, str]]:
    """Yield mount points with the kinds of their file systems, in the order in which they were mounted."""
    if sys.platform == "darwin":  # has no /proc
        mount = shutil.which("mount")
        listing = subprocess.run([mount], capture_output=True, text=True, check=False).stdout if mount else ""  # noqa: S603
        for line in listing.splitlines():
            point, _, options = line.partition(" on ")[2].rpartition(" (")
            if point:
                yield point, options.split(",")[0].rstrip(")")
        return
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in mounts.splitlines():
        _, point, kind, *_ = line.split(" ")
        yield point.replace("\\040", " "), kind
