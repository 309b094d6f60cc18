"""DocumentStream: one iterator for `for` and for `async for`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from llama_index.core.schema import Document

__all__ = ["DocumentStream"]


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
