"""Claims: which pages are being asked for now, so that two processes with one ledger do not ask for the same page.

The content of a page selects one of a few lock files beside the ledger. A process that finds it locked waits, and then
finds the other's reading in the ledger. The locks are the operating system's, so a killed process frees them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from kobold_reader.kobold import CancelledError

log = logging.getLogger(__name__)

_FILES = 64
"""Not one a page: the files stay. Where two pages share one, a process waits at most for that page."""
_LOOK_S = 0.1


class Claims:
    """The claims of this process among those of others; safe to use from several threads.

    Args:
        folder: Place of the lock files, made with the first claim; None: no other process has this ledger.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._held: dict[int, tuple[FileLock, int]] = {}
        """By number of the file: its lock, and how many pages of this process hold it."""

    @contextmanager
    def hold(self, content_sha256: str, cancel: threading.Event | None = None) -> Iterator[None]:
        """Hold a page until it is read and recorded; waits while another process holds it.

        Look the page up again under the claim. Threads of this process do not wait for one another: they are given
        different pages. A thread must not hold two pages at once.

        Raises:
            CancelledError: `cancel` was set while waiting.
        """
        number = int(content_sha256[:8], 16) % _FILES
        waiter = cancel or threading.Event()
        while not self._try(number):
            if waiter.wait(_LOOK_S):
                raise CancelledError
        try:
            yield
        finally:
            self._give_back(number)

    def _try(self, number: int) -> bool:
        if self._folder is None:
            return True
        with self._lock:
            if number in self._held:
                lock, pages = self._held[number]
            else:
                lock, pages = FileLock(self._folder / f"{number:02}.lock", thread_local=False), 0
                try:
                    self._folder.mkdir(parents=True, exist_ok=True)
                    lock.acquire(timeout=0)
                except Timeout:
                    return False
                except (OSError, NotImplementedError) as err:
                    # A file system without locks: at worst a page is asked twice, which loses nothing.
                    log.debug("%s: %s; pages are not claimed", self._folder, err)
            self._held[number] = lock, pages + 1
            return True

    def _give_back(self, number: int) -> None:
        with self._lock:
            if number in self._held:
                lock, pages = self._held.pop(number)
                if pages > 1:
                    self._held[number] = lock, pages - 1
                else:
                    lock.release(force=True)
