"""When to stop asking: the servers, not the pages, are at fault."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final

from kobold_reader.errors import (
    BadRequestError,
    ContextTooSmallError,
    ImageNotSeenError,
    KoboldReaderError,
    NoServerAvailableError,
    ServerError,
    ServerTimeoutError,
)
from kobold_reader.reading.results import PageResult

__all__ = ["BREAKER_FAILURES", "Breaker"]

BREAKER_FAILURES: Final = 3
"""So many pages in a row failing for the server's sake mean that the server, not the pages, is at fault."""


class Breaker:
    """Opens when three pages in a row failed for the server's sake: in a row as they end, whichever server had them.

    Pages that cannot be read never open it. Safe to use from several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._in_a_row = 0
        self._errors: tuple[KoboldReaderError, ...] = ()

    def note(self, result: PageResult, asked: Sequence[str]) -> None:
        """Count what became of a page of which these tasks were asked."""
        with self._lock:
            if self._is_open():
                return
            self._in_a_row = self._in_a_row + 1 if _is_server_failure(result, asked) else 0
            self._errors = tuple(result.errors.values())

    def _is_open(self) -> bool:
        return self._in_a_row >= BREAKER_FAILURES

    @property
    def error(self) -> NoServerAvailableError | None:
        """What ends the run, once it is open."""
        with self._lock:
            if not self._is_open():
                return None
            errors = {error.server or "server": error for error in self._errors}
            msg = f"{BREAKER_FAILURES} pages in a row failed for the server's sake; the last: {self._errors[0]}"
            return NoServerAvailableError(msg, errors=errors, hint="The next run reads what is missing.")


def _is_server_failure(result: PageResult, asked: Sequence[str]) -> bool:
    """Tell whether nothing that was asked of a page came back, and the server is to blame.

    A server that drops every image is no better than one that is gone. A page over its time or too large for the server
    is the page's own matter, or three of them would starve all pages behind them.
    """
    own = (ServerTimeoutError, ContextTooSmallError, BadRequestError)
    return set(asked) <= set(result.errors) and all(
        isinstance(error, ServerError | ImageNotSeenError) and not isinstance(error, own)
        for error in result.errors.values()
    )
