"""Run an iterator in a thread of its own, a bounded number of items ahead of the one who consumes it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Final, Generic, TypeVar

__all__ = ["Ahead"]

Item = TypeVar("Item")

_LOOK_S: Final = 0.1
"""How often a full or empty queue is tried again: bounds how long closing can take, besides the item being made."""


class Ahead(Generic[Item]):
    """Iterate over it once; close it (`contextlib.closing`) in any case.

    An exception of the iterator is raised where it is consumed, after the items before it.

    Args:
        items: Runs in the thread, and is closed there.
        size: At most so many items wait.
        on_close: Called by `close` before it waits for the thread, to end what the iterator is busy with.
    """

    def __init__(
        self,
        items: Generator[Item, None, None],
        size: int,
        *,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self._items = items
        self._on_close = on_close
        self._queue: queue.Queue[tuple[Item] | BaseException | None] = queue.Queue(size)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="kobold-reader-ahead", daemon=True)
        self._thread.start()

    def _fill(self) -> None:
        last: BaseException | None = None
        try:
            with closing(self._items):
                for item in self._items:
                    if not self._put((item,)):
                        return
        except BaseException as err:  # noqa: BLE001  (handed over, and raised where the items are consumed)
            last = err
        self._put(last)

    def _put(self, item: tuple[Item] | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=_LOOK_S)
            except queue.Full:
                continue
            return True
        return False

    def __iter__(self) -> Iterator[Item]:
        while not self._stop.is_set():
            try:
                item = self._queue.get(timeout=_LOOK_S)
            except queue.Empty:
                continue
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item[0]

    def stop(self) -> None:
        """Make no more items and hand none out, also where another thread waits for one."""
        self._stop.set()

    def close(self) -> None:
        """End the thread and wait for it."""
        self.stop()
        if self._on_close:
            self._on_close()
        self._thread.join()
