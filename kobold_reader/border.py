"""The border around one page: what is raised inside becomes that page's error, unless it concerns the whole run.

Of the run: errors of this package that say so (no server is left, the ledger or the archive cannot be used), a full
disk and the like, MemoryError, and whatever is no Exception, such as Ctrl-C. Anything else is of the page.
"""

from __future__ import annotations

import errno
import logging
import sqlite3
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Final

from kobold_reader.errors import KoboldReaderError, UnexpectedError

log = logging.getLogger(__name__)

_OF_THE_SYSTEM: Final = frozenset(
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EROFS", "EMFILE", "ENFILE", "ENOMEM", "EIO")
    if hasattr(errno, name)
)
_OF_ONE_ROW: Final = frozenset(
    {sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_RANGE}
)


@contextmanager
def of_one_page(doing: str, source: str, page_number: int | None = None) -> Iterator[None]:
    """Make whatever is raised inside an error of this file or page: one page never ends a run.

    Args:
        doing: What is being done, for the message: `reading it`.
        source: The file.
        page_number: 1-based; None: the file as a whole.

    Raises:
        UnexpectedError: In place of any other exception.
    """
    try:
        yield
    except (KoboldReaderError, CancelledError, MemoryError):
        raise
    except Exception as err:
        if isinstance(err, OSError) and is_of_the_system(err):
            raise
        # A message may quote what no database takes.
        what = f"{type(err).__name__}: {err}".encode("utf-8", "backslashreplace").decode()
        error = UnexpectedError(
            f"{doing} failed in a way that nobody foresaw ({what}).",
            source=source,
            page_number=page_number,
            hint="All other pages go on. Please report it with what `kobold-reader -v` shows.",
        )
        log.info("%s", error, exc_info=True)
        raise error from err


def is_of_the_system(error: OSError) -> bool:
    """Tell whether an error is of the machine, as that of a full disk is, and not of one file."""
    return error.errno in _OF_THE_SYSTEM


def is_of_one_row(error: Exception) -> bool:
    """Tell whether SQLite refused one value or row, and not the whole file."""
    return isinstance(error, sqlite3.Error) and (
        getattr(error, "sqlite_errorcode", 0) & 0xFF in _OF_ONE_ROW
        or isinstance(error, sqlite3.DataError)
        or "binding parameter" in str(error)
    )
