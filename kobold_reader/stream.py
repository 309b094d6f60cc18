"""Streams between threads: one for `for` and `async for`, and one that a running call fills."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from llama_index.core.schema import Document

T = TypeVar("T")

_LOOK_S = 0.1
"""Windows sees Ctrl-C only between two waits."""


class DocumentStream:
    """Documents as they are read; iterate once, with `for` or with `async for`.

    `async for` runs every step in another thread, so the event loop stays free. Leaving the loop early or cancelling
    the task sets `cancel`, which aborts the running job on the server. `make` is called when iteration starts.
    """

    def __init__(self, make: Callable[[], Iterator[Document]], cancel: threading.Event) -> None:
        self._make = make
        self._cancel = cancel
        self._is_started = False

    def __iter__(self) -> Iterator[Document]:
        if self._is_started:
            raise RuntimeError("a DocumentStream can be iterated only once; ask alazy_load_data for another one.")
        self._is_started = True
        return self._make()

    def __aiter__(self) -> AsyncIterator[Document]:
        return stepped(iter(self), self._cancel)


async def stepped(items: Iterator[T], cancel: threading.Event) -> AsyncGenerator[T, None]:
    """Take each item in another thread, so that the event loop stays free; None must not be among the items.

    All steps run in one thread, as SQLite and generators need. At the end, or if the iteration is left early, `cancel`
    is set and the iterator closed.
    """
    loop = asyncio.get_running_loop()
    thread = ThreadPoolExecutor(1, thread_name_prefix="kobold-reader-stream")
    try:
        while (item := await loop.run_in_executor(thread, next, items, None)) is not None:
            yield item
    finally:
        cancel.set()
        thread.submit(getattr(items, "close", lambda: None))
        thread.shutdown(wait=False)


def pushed(run: Callable[[Callable[[T], None]], None], cancel: threading.Event) -> Iterator[T]:
    """Yield the things that a call pushes while it runs, in a thread of its own; raises the exception of the call.

    Args:
        run: Called with a function that takes one thing to yield.
        cancel: Set when the iterator is left early or Ctrl-C comes. Then this waits for the call, which has to heed it.
    """
    things: queue.SimpleQueue[tuple[T] | None] = queue.SimpleQueue()
    errors: list[BaseException] = []

    def work() -> None:
        try:
            run(lambda thing: things.put((thing,)))
        except BaseException as err:  # noqa: BLE001  (raised again in the caller's thread)
            errors.append(err)
        finally:
            things.put(None)

    thread = threading.Thread(target=work, name="kobold-reader-answer", daemon=True)
    try:
        thread.start()
        while True:
            try:
                thing = things.get(timeout=_LOOK_S)
            except queue.Empty:
                continue
            if thing is None:
                break
            yield thing[0]
        if errors:
            raise errors[0]
    finally:
        cancel.set()
        if thread.ident is not None:
            thread.join()
