"""Files and databases of our own: written whole or not at all, and read where nothing may be written."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from typing_extensions import override


def user_data_folder() -> Path:
    """Return the folder for data that must not be lost: readings are worth a night's work."""
    import platformdirs

    return Path(platformdirs.user_data_dir("kobold-reader", appauthor=False))


def write_atomically(path: Path, content: bytes, *, mode_of: Path | None = None) -> None:
    """Write a file beside its place, and put it there when it is on the disk; safe against kill -9.

    Whoever may read and write `mode_of` may read and write it; None: only the user (mode 0600).
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name[:100]}.", suffix=".part")
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if mode_of is not None:
            part.chmod(mode_of.stat().st_mode & 0o666 | 0o200)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


# ── databases ────────────────────────────────────────────────────────────────────────────────────

_JOURNAL_TRIES: Final = 50


def use_wal(database: sqlite3.Connection) -> None:
    """Choose the journal; SQLite does not wait for another process that chooses it at the same time."""
    for _ in range(_JOURNAL_TRIES):
        try:
            # WAL is refused on some file systems, which answer with the mode they kept.
            if database.execute("PRAGMA journal_mode=WAL").fetchone()[0] not in {"wal", "memory"}:
                database.execute("PRAGMA journal_mode=DELETE")
            return
        except sqlite3.OperationalError as err:
            if err.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            time.sleep(0.1)
    database.execute("PRAGMA journal_mode=WAL")


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """Hold a write transaction; committed at the end, rolled back on any exception."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:  # a full disk has ended it already
            database.execute("ROLLBACK")
        raise


def write_anew(database: sqlite3.Connection) -> bool:
    """Write a database without what was deleted, which stays readable in its free pages and its log.

    Returns:
        False if another process uses it: then its log keeps what was deleted.
    """
    database.execute("VACUUM")
    is_busy, *_ = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return not is_busy


# ── databases where nothing may be written ───────────────────────────────────────────────────────

_NOT_WRITABLE: Final = frozenset({sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY})


def is_writable(path: Path) -> bool:
    """Tell whether a file and its folder may be written; Windows tells that only when it is tried."""
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)


def says_not_writable(error: sqlite3.Error) -> bool:
    """Tell whether this is what SQLite says of a file that it may not write, or not beside it."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _NOT_WRITABLE


def wal_of(path: Path) -> Path:
    """Return where SQLite keeps what it has not yet written into the database itself."""
    return path.with_name(f"{path.name}-wal")


class ReadOnlyDatabase(sqlite3.Connection):
    """A connection by `connect_read_only`."""

    is_frozen = False
    """It shows the file as it was when it was opened, and must not be used once that has changed."""
    copy: tempfile.TemporaryDirectory[str] | None = None

    @override
    def close(self) -> None:
        """Close it, and remove the copy if there is one."""
        super().close()
        if self.copy is not None:
            self.copy.cleanup()


def connect_read_only(path: Path) -> ReadOnlyDatabase:
    """Open an SQLite database and change nothing, also in a folder where nothing may be written.

    SQLite reads a database in WAL mode only where the index of its log is, or can be made. Elsewhere it is opened as
    one that nobody changes. Where a killed writer left a log, the database alone is not what was written, and may be
    torn: both are copied to a temporary folder.

    Raises:
        sqlite3.Error: It is no database, or may not be read.
        OSError: It cannot be copied.
    """
    where: Any = {"check_same_thread": False, "isolation_level": None, "timeout": 30, "factory": ReadOnlyDatabase}
    name = path.absolute().as_uri()
    database: ReadOnlyDatabase = sqlite3.connect(f"{name}?mode=ro", uri=True, **where)
    try:
        database.execute("PRAGMA user_version").fetchone()
    except sqlite3.OperationalError as err:
        database.close()
        if not says_not_writable(err) or not os.access(path, os.R_OK):
            raise
    else:
        return database
    log = wal_of(path)
    if log.exists() and log.stat().st_size:
        copy = tempfile.TemporaryDirectory(prefix="kobold-reader-")
        for file in (path, log):
            with suppress(FileNotFoundError):  # a writer has just ended
                shutil.copyfile(file, Path(copy.name, file.name))
        database = sqlite3.connect(Path(copy.name, path.name), **where)
        database.copy = copy
    else:
        database = sqlite3.connect(f"{name}?immutable=1", uri=True, **where)
    database.is_frozen = True
    return database
