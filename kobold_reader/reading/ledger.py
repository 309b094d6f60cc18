"""What has been read, at what cost, by whom: one SQLite file, safe against kill -9 and power loss.

A reading belongs to a page's *content* (sha256 of its embedded scan or image frame, else of file and page number), so a
renamed file, a copy, the same scan in two PDFs and a new release of a rendering library cost nothing. It is found again
under its task, the engine, and a key of the settings that the *user* gave; what the user did not choose makes nothing
due.

Why SQLite with `synchronous=FULL` and one transaction a page: a page takes seconds of GPU time, a commit milliseconds.
Failures are kept for their names' sake only: they are never a hit.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

from kobold_reader.errors import KoboldReaderError, LedgerError
from kobold_reader.pages import FileFacts, PageFacts, SourceFile
from kobold_reader.reading.results import Reading

__all__ = ["Failure", "KnownPage", "Ledger", "default_ledger_path"]

FORMAT: Final = 1
"""`user_version` of the file; a newer one is refused, an older one would be brought up to date here."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS files (
    uri TEXT PRIMARY KEY, size_bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, sha256 TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS files_by_sha256 ON files (sha256);
CREATE TABLE IF NOT EXISTS documents (
    sha256 TEXT PRIMARY KEY, total_pages INTEGER NOT NULL, facts TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS pages (
    sha256 TEXT NOT NULL, page_number INTEGER NOT NULL, content_sha256 TEXT NOT NULL,
    is_blank INTEGER, text_layer TEXT NOT NULL, facts TEXT NOT NULL,
    PRIMARY KEY (sha256, page_number)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS pages_by_content ON pages (content_sha256);
CREATE TABLE IF NOT EXISTS readings (
    content_sha256 TEXT NOT NULL, task TEXT NOT NULL, engine TEXT NOT NULL, settings TEXT NOT NULL,
    status TEXT NOT NULL, text TEXT NOT NULL, model TEXT, family TEXT, prompt TEXT, decoding TEXT NOT NULL,
    view_sizes TEXT NOT NULL, effective_px INTEGER, server_version TEXT, release TEXT, image_verified INTEGER,
    confidence REAL, confidence_p5 REAL, doubtful TEXT NOT NULL, rotation_deg INTEGER NOT NULL, attempts INTEGER NOT
    NULL, prompt_tokens INTEGER, completion_tokens INTEGER, elapsed_s REAL NOT NULL, created_at TEXT NOT NULL,
    PRIMARY KEY (content_sha256, task, engine, settings)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS failures (
    uri TEXT NOT NULL, page_number INTEGER NOT NULL, task TEXT NOT NULL, sha256 TEXT NOT NULL,
    kind TEXT NOT NULL, message TEXT NOT NULL, created_at TEXT NOT NULL,
    PRIMARY KEY (uri, page_number, task)) WITHOUT ROWID;
"""

_JOURNAL_TRIES: Final = 50
_JOURNAL_WAIT_S: Final = 0.1

_JSON_FIELDS: Final = ("decoding", "view_sizes", "doubtful")
_READING_FIELDS: Final = tuple(field.name for field in fields(Reading) if field.name not in {"task", "engine"})
_READING_COLUMNS: Final = ", ".join(_READING_FIELDS)
_PUT_READING: Final = (
    f"INSERT OR REPLACE INTO readings (content_sha256, task, engine, settings, {_READING_COLUMNS}, created_at) "  # noqa: S608
    f"VALUES ({', '.join('?' * (len(_READING_FIELDS) + 5))})"
)
_GET_READING: Final = (
    f"SELECT {_READING_COLUMNS} FROM readings "  # noqa: S608
    "WHERE content_sha256 = ? AND task = ? AND engine = ? AND settings = ?"
)


def default_ledger_path() -> Path:
    """Where readings are kept unless told otherwise: user data, not a cache, since a night's work lies there."""
    import platformdirs

    return Path(platformdirs.user_data_dir("kobold-reader", appauthor=False)) / "ledger.sqlite"


@dataclass(frozen=True, slots=True)
class KnownPage:
    """A page's facts as the ledger remembers them."""

    facts: PageFacts
    is_blank: bool | None
    """None: not looked at yet."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A page (or, with page_number 0, a file) that could not be read at the last try."""

    uri: str
    page_number: int
    task: str
    kind: str
    """Name of the error's class."""
    message: str


class Ledger:
    """The ledger in one SQLite file; safe to use from several threads, and by several processes at once.

    Args:
        path: The file, made with its folder if missing (mode 0600); None keeps everything in memory for this run only.
        fallback: Another ledger that is read where this one knows nothing; what is found there is copied.
        read_only: Open an existing file and change nothing.

    Raises:
        LedgerError: The folder is read-only, the disk is full, or the file was made by a newer release.
    """

    def __init__(self, path: Path | None, *, fallback: Ledger | None = None, read_only: bool = False) -> None:
        self.path = path
        self._fallback = fallback
        self._read_only = read_only
        self._lock = threading.RLock()
        with self._guard("open"):
            self._db = self._connect()

    def _connect(self) -> sqlite3.Connection:
        if self.path is None:
            db = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        elif self._read_only:
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
            if not self._read_only:
                self._use_wal(db)
                db.execute("PRAGMA synchronous=FULL")
            if found < FORMAT:
                if self._read_only:
                    # Whoever made it was killed before its tables were there: it knows nothing.
                    db.close()
                    db = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
                db.execute("BEGIN IMMEDIATE")
                for statement in _SCHEMA.split(";"):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version={FORMAT}")
                db.execute("COMMIT")
        except BaseException:
            db.close()
            raise
        return db

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
    def _guard(self, doing: str) -> Iterator[None]:
        """Hold the lock, and turn SQLite's errors into sentences."""
        with self._lock:
            try:
                yield
            except (sqlite3.Error, OSError) as err:
                msg = f"the ledger {self.path or 'in memory'} cannot be used ({doing}): {err}."
                hint = (
                    "Check that its folder can be written and the disk is not full, or name another file with --ledger."
                )
                raise LedgerError(msg, hint=hint) from err

    @contextmanager
    def _transaction(self, doing: str) -> Iterator[sqlite3.Connection]:
        with self._guard(doing):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def close(self) -> None:
        """Close the file (and the fallback's)."""
        with self._lock:
            self._db.close()
        if self._fallback:
            self._fallback.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ── files ────────────────────────────────────────────────────────────────────────────────────

    def sha256_of(self, source: SourceFile) -> str | None:
        """Return the remembered sha256 of a file whose size and modification time are unchanged, else None."""
        if not source.mtime_ns:
            return None  # a filesystem that tells no time: only the bytes can say
        with self._guard("read"):
            row = self._db.execute(
                "SELECT sha256 FROM files WHERE uri = ? AND size_bytes = ? AND mtime_ns = ?",
                (source.uri, source.size_bytes, source.mtime_ns),
            ).fetchone()
        if row:
            return str(row[0])
        found = self._fallback.sha256_of(source) if self._fallback else None
        facts = self._fallback.document(found) if self._fallback and found else None
        if facts:
            self.remember_file(source, facts)
        return facts.sha256 if facts else None

    def document(self, sha256: str) -> FileFacts | None:
        """Return what is known of a file's content."""
        with self._guard("read"):
            row = self._db.execute("SELECT facts FROM documents WHERE sha256 = ?", (sha256,)).fetchone()
        if row:
            return FileFacts(**json.loads(row[0]))
        return self._fallback.document(sha256) if self._fallback else None

    def remember_file(self, source: SourceFile, facts: FileFacts) -> None:
        """Record that this file has this content; a failure of the file as a whole is forgotten."""
        with self._transaction("write") as db:
            db.execute(
                "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)",
                (source.uri, source.size_bytes, source.mtime_ns, facts.sha256),
            )
            db.execute(
                "INSERT OR REPLACE INTO documents VALUES (?, ?, ?)",
                (facts.sha256, facts.total_pages, _json(asdict(facts))),
            )
            db.execute(
                "DELETE FROM failures WHERE uri = ? AND (page_number = 0 OR sha256 != ?)",
                (source.uri, facts.sha256),
            )

    # ── pages ────────────────────────────────────────────────────────────────────────────────────

    def pages(self, sha256: str) -> dict[int, KnownPage]:
        """Return the known pages of a file's content by 1-based page number."""
        with self._guard("read"):
            rows = self._db.execute(
                "SELECT page_number, is_blank, facts FROM pages WHERE sha256 = ?", (sha256,)
            ).fetchall()
        known = dict(self._fallback.pages(sha256)) if self._fallback else {}
        own = {number for number, *_ in rows}
        # Copied with the readings: without its pages `forget` could not tell whose readings these are.
        self.remember_pages(sha256, [page for number, page in known.items() if number not in own])
        for number, is_blank, facts in rows:
            known[number] = KnownPage(PageFacts(**json.loads(facts)), None if is_blank is None else bool(is_blank))
        return known

    def remember_pages(self, sha256: str, pages: Sequence[KnownPage]) -> None:
        """Record facts of pages, in one transaction; what is known of blankness stays known."""
        if not pages:
            return
        with self._transaction("write") as db:
            db.executemany(
                "INSERT INTO pages VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (sha256, page_number) DO UPDATE SET "
                "content_sha256 = excluded.content_sha256, is_blank = coalesce(excluded.is_blank, is_blank), "
                "text_layer = excluded.text_layer, facts = excluded.facts",
                [
                    (
                        sha256,
                        page.facts.page_number,
                        page.facts.content_sha256,
                        page.is_blank,
                        page.facts.text_layer,
                        _json(asdict(page.facts)),
                    )
                    for page in pages
                ],
            )

    # ── readings ─────────────────────────────────────────────────────────────────────────────────

    def reading(self, content_sha256: str, task: str, engine: str, settings: str) -> Reading | None:
        """Return the reading of a page's content, or None where there is none made this way."""
        with self._guard("read"):
            row = self._db.execute(_GET_READING, (content_sha256, task, engine, settings)).fetchone()
        if row:
            return _reading(task, engine, row)
        found = self._fallback.reading(content_sha256, task, engine, settings) if self._fallback else None
        if found and not self._read_only:
            with self._transaction("write") as db:
                db.execute(_PUT_READING, _row(content_sha256, settings, found))
        return found

    def record(
        self,
        source: SourceFile,
        sha256: str,
        page: KnownPage,
        readings: Mapping[str, Reading],
        settings: Mapping[str, str],
        errors: Mapping[str, KoboldReaderError],
    ) -> None:
        """Record what became of one page, in one transaction.

        Args:
            source: The file that it was read from.
            sha256: Of that file.
            page: Its facts.
            readings: By task.
            settings: By task: the key under which to keep the reading.
            errors: By task; kept for their names' sake.
        """
        now = _now()
        facts = page.facts
        with self._transaction("write") as db:
            db.execute(
                "INSERT OR REPLACE INTO pages VALUES (?, ?, ?, ?, ?, ?)",
                (
                    sha256,
                    facts.page_number,
                    facts.content_sha256,
                    page.is_blank,
                    facts.text_layer,
                    _json(asdict(facts)),
                ),
            )
            db.executemany(
                _PUT_READING,
                [_row(facts.content_sha256, settings[task], reading) for task, reading in readings.items()],
            )
            db.execute(
                "DELETE FROM failures WHERE uri = ? AND page_number = ?",
                (source.uri, facts.page_number),
            )
            self._put_failures(db, source, sha256, facts.page_number, errors, now)

    def record_failure(
        self,
        source: SourceFile,
        sha256: str,
        page_number: int,
        errors: Mapping[str, KoboldReaderError],
    ) -> None:
        """Record that a page, or with page_number 0 a file, could not be read."""
        with self._transaction("write") as db:
            self._put_failures(db, source, sha256, page_number, errors, _now())

    @staticmethod
    def _put_failures(
        db: sqlite3.Connection,
        source: SourceFile,
        sha256: str,
        page_number: int,
        errors: Mapping[str, KoboldReaderError],
        now: str,
    ) -> None:
        db.executemany(
            "INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (source.uri, page_number, task, sha256, type(error).__name__, str(error), now)
                for task, error in errors.items()
            ],
        )

    # ── looking back ─────────────────────────────────────────────────────────────────────────────

    def uris(self) -> list[str]:
        """Return the URIs of all files that the ledger knows, failed ones too."""
        with self._guard("read"):
            rows = self._db.execute("SELECT uri FROM files UNION SELECT uri FROM failures").fetchall()
        return [row[0] for row in rows]

    def failures(self) -> list[Failure]:
        """Return what failed at the last try, by file and page."""
        with self._guard("read"):
            rows = self._db.execute(
                "SELECT uri, page_number, task, kind, message FROM failures ORDER BY uri, page_number, task"
            ).fetchall()
        return [Failure(*row) for row in rows]

    def clear_failure(self, uri: str, page_number: int) -> None:
        """Forget that a page failed: it has since been read, perhaps as a copy in another file."""
        with self._transaction("write") as db:
            db.execute("DELETE FROM failures WHERE uri = ? AND page_number = ?", (uri, page_number))

    def count(self) -> dict[str, int]:
        """Count `files`, `pages`, and pages by status (of `ocr`)."""
        with self._guard("read"):
            one = self._db.execute
            counts = {
                "files": one("SELECT count(DISTINCT sha256) FROM files").fetchone()[0],
                "pages": one("SELECT count(*) FROM pages").fetchone()[0],
                "text_layer": one("SELECT count(*) FROM pages WHERE text_layer = 'good'").fetchone()[0],
                "blank": one("SELECT count(*) FROM pages WHERE is_blank = 1").fetchone()[0],
                "failed": one("SELECT count(*) FROM (SELECT DISTINCT uri, page_number FROM failures)").fetchone()[0],
            }
            counts |= dict(one("SELECT status, count(*) FROM readings WHERE task = 'ocr' GROUP BY status").fetchall())
        return counts

    def forget(self, uris: Iterable[str]) -> int:
        """Remove these files and the readings that no other known file shares; returns how many readings went."""
        with self._transaction("forget") as db:
            before = db.total_changes
            removed = 0
            for uri in uris:
                row = db.execute("SELECT sha256 FROM files WHERE uri = ?", (uri,)).fetchone()
                db.execute("DELETE FROM files WHERE uri = ?", (uri,))
                db.execute("DELETE FROM failures WHERE uri = ?", (uri,))
                if row is None or db.execute("SELECT 1 FROM files WHERE sha256 = ?", row).fetchone():
                    continue
                contents = db.execute("SELECT content_sha256 FROM pages WHERE sha256 = ?", row).fetchall()
                db.execute("DELETE FROM documents WHERE sha256 = ?", row)
                db.execute("DELETE FROM pages WHERE sha256 = ?", row)
                for content in contents:
                    if not db.execute("SELECT 1 FROM pages WHERE content_sha256 = ?", content).fetchone():
                        removed += db.execute("DELETE FROM readings WHERE content_sha256 = ?", content).rowcount
        if self.path is not None and self._db.total_changes > before:
            with self._guard("forget"):
                # What was deleted must not stay readable in the file's free pages or its log.
                self._db.execute("VACUUM")
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return removed


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _row(content_sha256: str, settings: str, reading: Reading) -> tuple[Any, ...]:
    values = {name: getattr(reading, name) for name in _READING_FIELDS}
    values |= {name: _json(values[name]) for name in _JSON_FIELDS}
    return (content_sha256, reading.task, reading.engine, settings, *values.values(), _now())


def _reading(task: str, engine: str, row: tuple[Any, ...]) -> Reading:
    values = dict(zip(_READING_FIELDS, row, strict=True))
    values |= {name: json.loads(values[name]) for name in _JSON_FIELDS}
    values["view_sizes"] = tuple(tuple(size) for size in values["view_sizes"])
    values["doubtful"] = tuple(values["doubtful"])
    if values["image_verified"] is not None:
        values["image_verified"] = bool(values["image_verified"])
    return Reading(task=task, engine=engine, **values)
