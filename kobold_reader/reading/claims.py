"""Which pages are being asked for just now, so that two processes with one ledger do not ask for the same.

The page's content claims one of a few lock files beside the ledger; who finds it taken waits, and finds the other's
reading when it looks again. The locks are the operating system's: a killed process frees them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from kobold_reader.kobold import CancelledError

__all__ = ["Claims"]

log = logging.getLogger(__name__)

_FILES: Final = 64
"""Not one a page: they stay where they are. That two pages share one makes a process wait at most for that page."""
_LOOK_S: Final = 0.1


class Claims:
    """Claims of this process among those of others; safe to use from several threads.

    Args:
        folder: Where the lock files lie, made with the first claim; None: nobody else has this ledger.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._held: dict[int, tuple[FileLock, int]] = {}
        """By number of the file: how many pages this process asks for under it."""

    @contextmanager
    def hold(self, content_sha256: str, cancel: threading.Event | None = None) -> Iterator[None]:
        """Hold a page until it is read and recorded; waits while another process does.

        What is known of the page should be looked up under the claim. Threads of this process do not wait for one
        another: they are given different pages.

        Raises:
            CancelledError: `cancel` was set while waiting.
        """
        with self.hold_all([content_sha256], cancel):
            yield

    @contextmanager
    def hold_all(self, contents_sha256: Iterable[str], cancel: threading.Event | None = None) -> Iterator[None]:
        """Hold many pages together, as `hold` does one; who holds a page must not ask for more.

        Raises:
            CancelledError: `cancel` was set while waiting.
        """
        waiter = cancel or threading.Event()
        with ExitStack() as held:
            # Always in this order: two processes that want the same never wait for each other.
            for number in sorted({int(content[:8], 16) % _FILES for content in contents_sha256}):
                while not self._try(number):
                    if waiter.wait(_LOOK_S):
                        raise CancelledError
                held.callback(self._give_back, number)
            yield

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
