"""Taking turns at one server between threads and between processes of one machine.

A file lock alone is unfair: who lets go and asks again at once wins against everyone who looks
only now and then, and a second run would starve all night. So there are two locks: who waits holds
the *queue* lock, and who wants in again must get that first. Both are locks of the operating
system: a killed process frees them.
"""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

from filelock import FileLock, Timeout

from kobold_reader.errors import ConfigError

__all__ = ["Turn"]


class Turn:
    """The right to use one server. Not re-entrant; one thread at a time goes through `try_take`.

    Args:
        key: Names the server, the same in every process.
        folder: Where the lock files lie; made if missing.
    """

    def __init__(self, key: str, folder: Path) -> None:
        name = hashlib.sha256(key.encode()).hexdigest()[:20]
        self._folder = folder
        self._thread = threading.Lock()
        self._queue = FileLock(folder / f"{name}.queue.lock", thread_local=False)
        self._work = FileLock(folder / f"{name}.lock", thread_local=False)

    def try_take(self) -> bool:
        """Take the turn if it is free. If not, the place in the queue may be held: see `leave`."""
        if self._thread.acquire(blocking=False):
            taken = False
            try:
                taken = _try_lock(self._queue, self._folder) and _try_lock(self._work, self._folder)
                if taken:
                    self._queue.release()
            finally:
                if not taken:
                    self._thread.release()
            return taken
        return False

    def leave_queue(self) -> None:
        """Give up the place in the queue, for who has got another server or waits no more."""
        if self._thread.acquire(blocking=False):
            try:
                self._queue.release(force=True)
            finally:
                self._thread.release()

    def give_back(self) -> None:
        """End the turn."""
        try:
            self._work.release(force=True)
        finally:
            self._thread.release()


def _try_lock(lock: FileLock, folder: Path) -> bool:
    if lock.is_locked:  # held since an earlier look
        return True
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        return False
    except OSError as err:
        raise ConfigError(
            f"The folder for lock files, {folder}, cannot be written ({err.strerror or err}).",
            hint="Give another one (lock_dir).",
        ) from err
    return True
