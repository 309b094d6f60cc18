"""The SQLite file under the ledger: its tables, how it is opened, and what is said when it cannot be used.

`synchronous=FULL` and one transaction a page: a page takes seconds of GPU time, a commit milliseconds. Rows of readings
and pages are long, so these two tables have rowids: as keys of a B-tree, rows of 2 KB made it four times as deep and
the file twice as large.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from kobold_reader.errors import LedgerError

__all__ = ["FORMAT", "LedgerFile"]

log = logging.getLogger(__name__)

FORMAT: Final = 2
"""`user_version` of the file; a newer one is refused, an older one is brought up to date."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS files (
    uri TEXT PRIMARY KEY, size_bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, sha256 TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS files_by_sha256 ON files (sha256);
CREATE TABLE IF NOT EXISTS documents (
    sha256 TEXT PRIMARY KEY, total_pages INTEGER NOT NULL, facts TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS pages (
    sha256 TEXT NOT NULL, page_number INTEGER NOT NULL, content_sha256 TEXT NOT NULL,
    is_blank INTEGER, text_layer TEXT NOT NULL, facts TEXT NOT NULL,
    PRIMARY KEY (sha256, page_number));
CREATE INDEX IF NOT EXISTS pages_by_content ON pages (content_sha256);
CREATE TABLE IF NOT EXISTS readings (
    content_sha256 TEXT NOT NULL, task TEXT NOT NULL, engine TEXT NOT NULL, settings TEXT NOT NULL,
    status TEXT NOT NULL, text TEXT NOT NULL, model TEXT, family TEXT, prompt TEXT, decoding TEXT NOT NULL,
    view_sizes TEXT NOT NULL, effective_px INTEGER, server_version TEXT, release TEXT, image_verified INTEGER,
    confidence REAL, confidence_p5 REAL, doubtful TEXT NOT NULL, rotation_deg INTEGER NOT NULL, attempts INTEGER NOT
    NULL, prompt_tokens INTEGER, completion_tokens INTEGER, elapsed_s REAL NOT NULL, created_at TEXT NOT NULL,
    boxes TEXT NOT NULL DEFAULT '[]',
    PRIMARY KEY (content_sha256, task, engine, settings));
CREATE TABLE IF NOT EXISTS failures (
    uri TEXT NOT NULL, page_number INTEGER NOT NULL, task TEXT NOT NULL, sha256 TEXT NOT NULL,
    kind TEXT NOT NULL, message TEXT NOT NULL, created_at TEXT NOT NULL,
    PRIMARY KEY (uri, page_number, task)) WITHOUT ROWID;
"""

_CHANGES: Final = {1: "ALTER TABLE readings ADD COLUMN boxes TEXT NOT NULL DEFAULT '[]'"}
"""By format: what makes it the next one."""
_AS_IF_CHANGED: Final = "CREATE TEMP VIEW readings AS SELECT rowid, *, '[]' AS boxes FROM main.readings"
"""A file of format 1 that is only read looks like one of today."""

_JOURNAL_TRIES: Final = 50
_JOURNAL_WAIT_S: Final = 0.1
_DAMAGED: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class LedgerFile:
    """One open SQLite file; safe to use from several threads, and by several processes at once.

    Args:
        path: Made with its folder if missing (mode 0600); None: in memory, for this run only.
        read_only: Open an existing file and change nothing.

    Raises:
        LedgerError: The folder is read-only, the disk is full, or the file was made by a newer release.
    """

    def __init__(self, path: Path | None, *, read_only: bool = False) -> None:
        self.path = path
        self.read_only = read_only
        self.lock = threading.RLock()
        with self.guard("open"):
            self.db = self._connect()

    def _connect(self) -> sqlite3.Connection:
        if self.path is None:
            db = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        elif self.read_only:
            db = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False)
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            db = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None, timeout=30)
        try:
            found = db.execute("PRAGMA user_version").fetchone()[0]
            if found > FORMAT:
                msg = f"the ledger {self.path} was made by a newer release of kobold-reader (format {found})."
                raise LedgerError(msg, hint="Update kobold-reader, or name another file with --ledger.")
            if not self.read_only:
                self._use_wal(db)
                db.execute("PRAGMA synchronous=FULL")
            if self.read_only and found == 0:
                # Whoever made it was killed before its tables were there: it knows nothing.
                db.close()
                db = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
            elif self.read_only and found < FORMAT:
                db.execute(_AS_IF_CHANGED)
                return db
            if found < FORMAT:
                self._bring_up_to_date(db)
        except BaseException:
            db.close()
            raise
        return db

    @staticmethod
    def _bring_up_to_date(db: sqlite3.Connection) -> None:
        db.execute("BEGIN IMMEDIATE")
        found = db.execute("PRAGMA user_version").fetchone()[0]  # another process may have come first
        statements = [_CHANGES[step] for step in range(found, FORMAT)] if found else _SCHEMA.split(";")
        for statement in statements:
            db.execute(statement)
        db.execute(f"PRAGMA user_version={FORMAT}")
        db.execute("COMMIT")

    @staticmethod
    def _use_wal(db: sqlite3.Connection) -> None:
        """Choose the journal; SQLite does not wait for another process that is choosing it at the same time."""
        for _ in range(_JOURNAL_TRIES):
            try:
                # WAL is refused on some file systems and answers with the mode it kept.
                if db.execute("PRAGMA journal_mode=WAL").fetchone()[0] not in {"wal", "memory"}:
                    db.execute("PRAGMA journal_mode=DELETE")
                return
            except sqlite3.OperationalError as err:
                if err.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                    raise
                time.sleep(_JOURNAL_WAIT_S)
        db.execute("PRAGMA journal_mode=WAL")

    @contextmanager
    def guard(self, doing: str) -> Iterator[None]:
        """Hold the lock, and turn SQLite's errors into sentences."""
        with self.lock:
            try:
                yield
            except (sqlite3.Error, OSError) as err:
                msg = f"the ledger {self.path or 'in memory'} cannot be used ({doing}): {err}."
                hint = (
                    "Check that its folder can be written and the disk is not full, or name another file with --ledger."
                )
                if getattr(err, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:
                    hint = "It is damaged, or no ledger: put back a copy of it, or name another file with --ledger."
                raise LedgerError(msg, hint=hint) from err

    @contextmanager
    def transaction(self, doing: str) -> Iterator[sqlite3.Connection]:
        """Hold a write transaction: committed at the end, rolled back on any exception."""
        with self.guard(doing):
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield self.db
                self.db.execute("COMMIT")
            except BaseException:
                if self.db.in_transaction:  # a full disk has ended it already
                    self.db.execute("ROLLBACK")
                raise

    def erase_deleted(self) -> None:
        """Write the file anew: what was deleted must not stay readable in its free pages or its log."""
        if self.path is None:
            return
        with self.guard("forget"):
            self.db.execute("VACUUM")
            is_busy, *_ = self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if is_busy:
            log.warning(
                "another process is using %s: what was forgotten leaves its bytes when that one ends", self.path
            )

    def close(self) -> None:
        """Close the file."""
        with self.lock:
            self.db.close()
