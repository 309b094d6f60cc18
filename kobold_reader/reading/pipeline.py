"""Work ahead of the caller in bounded memory: `Ahead` with one thread, `InOrder` with several."""

from __future__ import annotations

import atexit
import threading
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_LOOK_S = 0.1
"""Windows sees Ctrl-C only between two waits, so the caller waits no longer than this at a time."""


class Ahead(Generic[Item]):
    """Runs an iterator in a thread of its own, a bounded number of items ahead of the caller.

    Iterate over it once; always close it (`contextlib.closing`). An exception of the iterator is raised after the items
    before it.

    Args:
        items: Runs in the thread, and is closed there.
        size: At most this many items wait, or items that need so much room.
        room: The room that an item needs; left out: 1.
        on_close: Called by `close` before it waits for the thread, to end the iterator's present work.
    """

    def __init__(
        self,
        items: Generator[Item, None, None],
        size: int,
        *,
        room: Callable[[Item], int] = lambda _: 1,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self._items = items
        self._size = size
        self._room = room
        self._taken = 0
        """Room that the waiting items need."""
        self._on_close = on_close
        self._changed = threading.Condition()
        self._waiting: deque[Item] = deque()
        self._error: BaseException | None = None
        self._is_stopped = False
        self._is_over = False
        self._thread = threading.Thread(target=self._run, name="kobold-reader-ahead", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with closing(self._items):
                for item in self._items:
                    with self._changed:
                        self._waiting.append(item)
                        self._taken += self._room(item)
                        del item  # images are large
                        self._changed.notify_all()
                        self._changed.wait_for(lambda: self._is_stopped or self._taken < self._size)
                        if self._is_stopped:
                            return
        except BaseException as err:  # noqa: BLE001  (handed over, and raised where the items are consumed)
            self._error = err
        finally:
            with self._changed:
                self._is_over = True
                self._changed.notify_all()

    def __iter__(self) -> Iterator[Item]:
        while True:
            with self._changed:
                while not (self._waiting or self._is_over or self._is_stopped):
                    self._changed.wait(_LOOK_S)
                if not self._is_stopped and not self._waiting and self._error is not None:
                    raise self._error
                if self._is_stopped or not self._waiting:
                    return
                item = self._waiting.popleft()
                self._taken -= self._room(item)
                self._changed.notify_all()
            yield item
            del item

    def stop(self) -> None:
        """Make no more items and hand none out, also where another thread waits for one."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()

    def close(self) -> None:
        """End the thread and wait for it."""
        self.stop()
        if self._on_close:
            self._on_close()
        self._thread.join()


@dataclass(slots=True)
class _Slot(Generic[Result]):
    """The place of one item's result, without the item, whose images are large."""

    is_work: bool
    is_done: bool = False
    result: Result | None = None


class InOrder(Generic[Item, Result]):
    """Works on several items at once, and yields the results in the order of the items.

    Workers pull, so a fast one does more. How far they run ahead depends on the caller: while it waits for a slow item,
    the others go on, up to `many` results; while it is busy, only a `few` items are begun beyond those it has taken.

    Iterate over it once; always close it (`contextlib.closing`). An exception of a worker ends them all; it is raised
    after the finished results before it.

    Args:
        items: Pulled by one worker at a time, one by one.
        work: Makes the result of an item; called by several threads.
        workers: How many threads work.
        few: How many items may be in work or waiting beyond those that the caller has taken, while it does not wait.
        many: How many results may wait while the caller waits for one before them.
        key: Items of one key are worked on one after another; None: the item needs hardly any work and does not count.
        goes_on: Asked before each pull; False ends the pulling, and the items begun are finished.
        on_close: Called by `close`, and after an exception, to end the present work of the workers and `items`.
    """

    def __init__(
        self,
        items: Iterator[Item],
        work: Callable[[Item], Result],
        *,
        workers: int,
        few: int,
        many: int,
        key: Callable[[Item], Hashable | None],
        goes_on: Callable[[], bool],
        on_close: Callable[[], None],
    ) -> None:
        self._items = items
        self._work = work
        self._few = few
        self._many = many
        self._key = key
        self._goes_on = goes_on
        self._on_close = on_close
        self._pulling = threading.Lock()
        """Held from the pull of an item until its slot is in place, so that slots are in the order of the items."""
        self._changed = threading.Condition()
        """Guards everything below."""
        self._slots: deque[_Slot[Result]] = deque()
        self._ahead = 0
        """Slots of work that the caller has not taken."""
        self._busy: dict[Hashable, deque[tuple[_Slot[Result], Item]]] = {}
        """By key of each item in work: the items of the same key that wait for it."""
        self._is_wanted = False
        """The caller waits for a result."""
        self._is_ended = False
        self._error: BaseException | None = None
        self._live = workers
        # A script that ends by an exception may never close its generators; its jobs on the servers must still end.
        atexit.register(self.close)
        self._threads = [
            threading.Thread(target=self._run, name=f"kobold-reader-page-{number}", daemon=True)
            for number in range(1, workers + 1)
        ]
        for thread in self._threads:
            thread.start()

    # ── the workers ──────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        try:
            while (pulled := self._pull()) is not None:
                while pulled is not None:
                    slot, item = pulled
                    pulled = self._done(slot, item, self._work(item))
                del item  # its images are large, and the next pull may have to wait
        except BaseException as err:  # noqa: BLE001  (handed over, and raised where the results are consumed)
            with self._changed:
                self._error = self._error or err
                self._is_ended = True
            self._on_close()
        finally:
            with self._changed:
                self._live -= 1
                self._changed.notify_all()

    def _pull(self) -> tuple[_Slot[Result], Item] | None:
        """Take the next item that this thread is to work on; None at the end."""
        with self._pulling:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._is_ended or self._has_room())
                    self._is_ended = self._is_ended or not self._goes_on()
                    if self._is_ended:
                        return None
                try:
                    item = next(self._items)
                except StopIteration:
                    with self._changed:
                        self._is_ended = True
                    return None
                key = self._key(item)
                slot: _Slot[Result] = _Slot(is_work=key is not None)
                with self._changed:
                    self._slots.append(slot)
                    self._ahead += slot.is_work
                if key is None:
                    self._done(slot, item, self._work(item))
                elif self._takes(slot, item, key):
                    return slot, item
                del item

    def _has_room(self) -> bool:
        return len(self._slots) < self._many and (self._is_wanted or self._ahead < self._few)

    def _takes(self, slot: _Slot[Result], item: Item, key: Hashable) -> bool:
        """Tell whether this thread is to work on the item; if not, the worker that has its key does so afterwards."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_ended or key not in self._busy or sum(map(len, self._busy.values())) < self._few
            )
            if key in self._busy:
                self._busy[key].append((slot, item))
                return False
            self._busy[key] = deque()
            return True

    def _done(self, slot: _Slot[Result], item: Item, result: Result) -> tuple[_Slot[Result], Item] | None:
        """Put the result in its place; return an item of the same key that waited."""
        with self._changed:
            slot.result, slot.is_done = result, True
            self._changed.notify_all()
            key = self._key(item)
            if key is None:
                return None
            if self._busy[key]:
                return self._busy[key].popleft()
            del self._busy[key]
            return None

    # ── the caller ───────────────────────────────────────────────────────────────────────────────

    def __iter__(self) -> Iterator[Result]:
        while (slot := self._next()) is not None:
            assert slot.result is not None  # noqa: S101  (it is done)
            yield slot.result

    def _next(self) -> _Slot[Result] | None:
        with self._changed:
            self._is_wanted = True
            self._changed.notify_all()
            try:
                while not (self._slots and self._slots[0].is_done):
                    if not self._live:
                        if self._error is not None:
                            raise self._error
                        return None
                    self._changed.wait(_LOOK_S)
            finally:
                self._is_wanted = False
            slot = self._slots.popleft()
            self._ahead -= slot.is_work
            self._changed.notify_all()
            return slot

    def close(self) -> None:
        """End the workers and wait for them."""
        with self._changed:
            self._is_ended = True
            self._changed.notify_all()
        self._on_close()
        for thread in self._threads:
            thread.join()
        atexit.unregister(self.close)
