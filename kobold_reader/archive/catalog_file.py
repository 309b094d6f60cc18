"""The file archive.sqlite: opened, brought to today's format, read and written by several threads."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from kobold_reader.archive import corrections, facets, words
from kobold_reader.archive.rows import PAGE_COLUMNS
from kobold_reader.errors import StoreError
from kobold_reader.reading.ledger import Ledger

__all__ = ["CatalogFile"]

FORMAT: Final = 4
"""2 added corrections, and to pages `content_sha256` and `as_read`; 3 the stamps of places; 4 numbers of pages (those
of their words, too) and facets."""
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS roots (path TEXT PRIMARY KEY, settings TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS places (
    id INTEGER PRIMARY KEY, uri TEXT NOT NULL UNIQUE, sha256 TEXT NOT NULL, metadata TEXT NOT NULL,
    is_missing INTEGER NOT NULL DEFAULT 0, error TEXT, former_sha256 TEXT NOT NULL DEFAULT '',
    settled TEXT NOT NULL DEFAULT '');
CREATE INDEX IF NOT EXISTS places_by_sha256 ON places (sha256);
CREATE TABLE IF NOT EXISTS pages (
    id INTEGER PRIMARY KEY, page_id TEXT NOT NULL UNIQUE, node_ids TEXT NOT NULL, sha256 TEXT NOT NULL,
    page_number INTEGER NOT NULL, status TEXT NOT NULL, parts TEXT NOT NULL, version TEXT NOT NULL,
    metadata TEXT NOT NULL, uri TEXT NOT NULL, indexed_as TEXT, error TEXT,
    content_sha256 TEXT NOT NULL DEFAULT '', as_read TEXT);
CREATE INDEX IF NOT EXISTS pages_by_content ON pages (content_sha256);
CREATE INDEX IF NOT EXISTS pages_by_sha256 ON pages (sha256, page_number);
CREATE INDEX IF NOT EXISTS pages_to_finish ON pages (page_id) WHERE indexed_as IS NULL;
"""


class CatalogFile:
    """An open archive.sqlite; safe to use from several threads.

    Raises:
        StoreError: The file cannot be opened or written, or was made by a newer release.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        with self._guard("open"):
            self.db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=30)
            try:
                self._prepare()
            except BaseException:
                self.db.close()
                raise

    def _prepare(self) -> None:
        found = self.db.execute("PRAGMA user_version").fetchone()[0]
        if found > FORMAT:
            msg = f"the archive {self.path.parent} was made by a newer release of kobold-reader (format {found})."
            raise StoreError(msg, hint="Update kobold-reader.")
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute("PRAGMA synchronous=FULL")
        if found < FORMAT:
            with self.transaction("create"):
                found = self.db.execute("PRAGMA user_version").fetchone()[0]  # another process may have been faster
                if found == 1:
                    self._add_contents()
                if found in {1, 2}:
                    self.db.execute("ALTER TABLE places ADD COLUMN settled TEXT NOT NULL DEFAULT ''")
                if found:
                    self.db.execute("ALTER TABLE pages RENAME TO former_pages")
                    for index in ("pages_by_content", "pages_by_sha256", "pages_to_finish"):
                        self.db.execute(f"DROP INDEX IF EXISTS {index}")
                for statement in _SCHEMA.split(";"):
                    self.db.execute(statement)
                words.create(self.db)
                corrections.create(self.db)
                facets.create(self.db)
                if found:
                    self._number_pages()
                self.db.execute(f"PRAGMA user_version={FORMAT}")

    def _add_contents(self) -> None:
        """Bring pages of format 1 up to date: what they hold is in the ledger beside, or is learned when next read."""
        self.db.execute("ALTER TABLE pages ADD COLUMN content_sha256 TEXT NOT NULL DEFAULT ''")
        self.db.execute("ALTER TABLE pages ADD COLUMN as_read TEXT")
        path = self.path.with_name("ledger.sqlite")
        if not path.is_file():
            return
        with Ledger(path, read_only=True) as ledger:
            for (sha256,) in self.db.execute("SELECT DISTINCT sha256 FROM pages").fetchall():
                self.db.executemany(
                    "UPDATE pages SET content_sha256 = ? WHERE sha256 = ? AND page_number = ?",
                    [(page.facts.content_sha256, sha256, number) for number, page in ledger.pages(sha256).items()],
                )

    def _number_pages(self) -> None:
        """Give the pages of formats 1 to 3 the numbers that their words have, and facets."""
        # Pages without words, the last, get numbers behind all those.
        self.db.execute(
            f"INSERT INTO pages (id, {PAGE_COLUMNS}) SELECT word_pages.id, {PAGE_COLUMNS} "  # noqa: S608
            "FROM former_pages LEFT JOIN word_pages USING (page_id) ORDER BY word_pages.id IS NULL"
        )
        self.db.execute("DROP TABLE former_pages")
        for number, metadata in self.db.execute("SELECT id, metadata FROM pages").fetchall():
            facets.put(self.db, number, json.loads(metadata))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self.db.close()

    @contextmanager
    def _guard(self, doing: str) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except sqlite3.Error as err:
                msg = f"the archive's file {self.path} cannot be used ({doing}): {err}."
                raise StoreError(msg, hint="Check that its folder can be written and the disk is not full.") from err

    @contextmanager
    def transaction(self, doing: str = "write") -> Iterator[sqlite3.Connection]:
        """Hold a write transaction; committed at the end, rolled back on any exception."""
        with self._guard(doing):
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield self.db
                self.db.execute("COMMIT")
            except BaseException:
                if self.db.in_transaction:  # a full disk has ended it already
                    self.db.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Hold one consistent view of the file."""
        with self._guard("read"):
            self.db.execute("BEGIN")
            try:
                yield self.db
            finally:
                self.db.execute("COMMIT")

    def _column(self, query: str, *values: object) -> list[str]:
        with self._guard("read"):
            return [str(value) for (value,) in self.db.execute(query, values)]

    def meta(self, key: str) -> str | None:
        """Return a remembered setting of the archive."""
        with self._guard("read"):
            row = self.db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return str(row[0]) if row else None

    def set_meta(self, key: str, value: str) -> None:
        """Remember a setting of the archive."""
        with self.transaction() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    @property
    def generation(self) -> int:
        """Grows with every change that a search could see."""
        return int(self.meta("generation") or 0)

    @staticmethod
    def _next_generation(db: sqlite3.Connection) -> None:
        db.execute(
            "INSERT INTO meta VALUES ('generation', '1') "
            "ON CONFLICT (key) DO UPDATE SET value = CAST(value AS INTEGER) + 1"
        )
