"""DocumentStream: one iterator for `for` and for `async for`; `pushed`: what a call says while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar

from llama_index.core.schema import Document

__all__ = ["DocumentStream", "pushed"]

T = TypeVar("T")

_LOOK_S: Final = 0.1
"""Windows sees Ctrl-C only between two waits."""


class DocumentStream:
    """Documents as they are read; iterate once, with `for` or with `async for`.

    `async for` runs every step in a thread of its own, so the event loop stays free; leaving the loop early or
    cancelling the task aborts the running job on the server.

    Args:
        make: Makes the underlying iterator; called once, when iteration starts.
        cancel: Set when the stream is left early.
    """

    def __init__(self, make: Callable[[], Iterator[Document]], cancel: threading.Event) -> None:
        self._make = make
        self._cancel = cancel
        self._is_started = False

    def _start(self) -> Iterator[Document]:
        if self._is_started:
            msg = "a DocumentStream can be iterated only once; ask alazy_load_data for another one."
            raise RuntimeError(msg)
        self._is_started = True
        return self._make()

    def __iter__(self) -> Iterator[Document]:
        return self._start()

    async def __aiter__(self) -> AsyncIterator[Document]:
        items = self._start()
        # One thread for all steps: SQLite's and the generator's owner stays the same.
        loop = asyncio.get_running_loop()
        thread = ThreadPoolExecutor(1, thread_name_prefix="kobold-reader-stream")
        try:
            while True:
                item = await loop.run_in_executor(thread, next, items, None)
                if item is None:
                    return
                yield item
        finally:
            self._cancel.set()
            thread.submit(_close, items)
            thread.shutdown(wait=False)


def _close(items: Iterator[Document]) -> None:
    close = getattr(items, "close", None)
    if close is not None:
        close()


@dataclass(frozen=True, slots=True)
class _End:
    error: BaseException | None


def pushed(run: Callable[[Callable[[T], None]], None], cancel: threading.Event) -> Iterator[T]:
    """Yield what a call pushes while it runs, in a thread of its own.

    Args:
        run: Called with a function that takes one thing to yield.
        cancel: Set, and the call waited for, when the iterator is left early or Ctrl-C comes; `run` has to heed it.

    Raises:
        BaseException: Whatever `run` raised.
    """
    things: queue.SimpleQueue[T | _End] = queue.SimpleQueue()

    def work() -> None:
        error: BaseException | None = None
        try:
            run(things.put)
        except BaseException as err:  # noqa: BLE001 - raised again in the caller's thread
            error = err
        things.put(_End(error))

    thread = threading.Thread(target=work, name="kobold-reader-answer", daemon=True)
    try:
        thread.start()
        while True:
            with contextlib.suppress(queue.Empty):
                thing = things.get(timeout=_LOOK_S)
                if isinstance(thing, _End):
                    if thing.error is not None:
                        raise thing.error
                    return
                yield thing
    finally:
        cancel.set()
        if thread.ident is not None:
            thread.join()
