"""The ledger: what has been read, at what cost, by which model. One SQLite file, safe against kill -9 and power loss.

A reading belongs to a page's *content* (sha256 of its embedded scan or image frame, else of file and page number), so a
renamed file, a copy, the same scan in two PDFs and a new release of a rendering library cost nothing. It is found again
by task, engine, and `ReadOptions.key`. Failures are kept for `status`; they are never a hit.

`synchronous=FULL` and one transaction a page that was read: it took seconds of GPU time, a commit milliseconds. What
was found by a look at a file is put off: it is written about once a second, and with the next page that was read. A
kill before that costs a second look.

The tables `readings` and `pages` have rowids because their rows are long: as keys of a B-tree, rows of 2 KB made it
four times as deep and the file twice as large.

`Claims` keeps two processes with one ledger from asking for the same page. The content of a page selects one of a few
lock files beside the ledger. A process that finds it locked waits, and then finds the other's reading in the ledger.
The locks are the operating system's, so a killed process frees them.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from kobold_reader.border import is_of_one_row
from kobold_reader.errors import KoboldReaderError, LedgerError, reason
from kobold_reader.files import connect_read_only, transaction, use_wal, user_data_folder, write_anew
from kobold_reader.pages import FileFacts, Kind, PageFacts, SourceFile
from kobold_reader.reading.results import DOUBTFUL, WITNESS_AGREES, Reading, Status

if TYPE_CHECKING:
    from filelock import FileLock

log = logging.getLogger(__name__)

FORMAT: Final = 3
"""`user_version` of the file; format 2 lacks what the witness found, and is taken over; others are refused."""

_DOUBTFUL: Final = (
    "task = 'ocr' AND engine != 'rapidocr' AND (status IN ('unsupported', 'looping', 'truncated', 'damaged') "
    f"OR confidence_p5 < {DOUBTFUL} OR json_extract(witness, '$.agreement') < {WITNESS_AGREES} "
    "OR json_extract(witness, '$.missing', '$.unsupported', '$.repeated', '$.differences') "
    "!= '[null,null,null,null]')"
)
"""Readings that a person should look at. The index of them is used where it was made with this very text."""
_INDEX_DOUBTFUL: Final = f"CREATE INDEX readings_doubtful ON readings (content_sha256) WHERE {_DOUBTFUL}"
_SCHEMA: Final = f"""
CREATE TABLE files (
    uri TEXT PRIMARY KEY, size_bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, sha256 TEXT NOT NULL);
CREATE INDEX files_by_sha256 ON files (sha256);
CREATE TABLE documents (
    sha256 TEXT PRIMARY KEY, total_pages INTEGER NOT NULL, facts TEXT NOT NULL);
CREATE TABLE pages (
    sha256 TEXT NOT NULL, page_number INTEGER NOT NULL, content_sha256 TEXT NOT NULL,
    is_blank INTEGER, text_layer TEXT NOT NULL, facts TEXT NOT NULL,
    PRIMARY KEY (sha256, page_number));
CREATE INDEX pages_by_content ON pages (content_sha256);
CREATE TABLE readings (
    content_sha256 TEXT NOT NULL, task TEXT NOT NULL, engine TEXT NOT NULL, settings TEXT NOT NULL,
    status TEXT NOT NULL, text TEXT NOT NULL, model TEXT, family TEXT, prompt TEXT, decoding TEXT NOT NULL,
    view_sizes TEXT NOT NULL, effective_px INTEGER, server_version TEXT, release TEXT, image_verified INTEGER,
    confidence REAL, confidence_p5 REAL, doubtful TEXT NOT NULL, rotation_deg INTEGER NOT NULL, attempts INTEGER NOT
    NULL, prompt_tokens INTEGER, completion_tokens INTEGER, elapsed_s REAL NOT NULL, created_at TEXT NOT NULL,
    boxes TEXT NOT NULL DEFAULT '[]', witness TEXT NOT NULL DEFAULT 'null',
    PRIMARY KEY (content_sha256, task, engine, settings));
{_INDEX_DOUBTFUL};
CREATE TABLE failures (
    uri TEXT NOT NULL, page_number INTEGER NOT NULL, task TEXT NOT NULL, sha256 TEXT NOT NULL,
    kind TEXT NOT NULL, message TEXT NOT NULL, created_at TEXT NOT NULL,
    PRIMARY KEY (uri, page_number, task)) WITHOUT ROWID;
"""

_JSON_FIELDS: Final = ("decoding", "view_sizes", "doubtful", "boxes", "witness")
_READING_FIELDS: Final = tuple(field.name for field in fields(Reading) if field.name not in {"task", "engine"})
_FACTS_KEPT: Final = tuple(field.name for field in fields(PageFacts) if field.name != "doubtful_lines")
_READING_COLUMNS: Final = ", ".join(_READING_FIELDS)
PUT_OFF_ROWS: Final = 1000
PUT_OFF_S: Final = 1.0
"""The most that is put off: what was found by a look at files, and rows of the fallback, which has them until then."""
_TIMINGS: Final = 300
"""Newest readings taken into account: a model that was quicker last year does not count for ever."""
_TEXT_TRIES: Final = 20

Statement = tuple[str, tuple[Any, ...]]
"""SQL with its values."""


def default_ledger_path() -> Path:
    """Return where readings are kept by default."""
    return user_data_folder() / "ledger.sqlite"


@dataclass(frozen=True, slots=True)
class KnownPage:
    """A page's facts as the ledger remembers them."""

    facts: PageFacts
    is_blank: bool | None
    """None: its image was not looked at yet."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A page (or, with page_number 0, a file) that could not be read at the last try."""

    uri: str
    page_number: int
    task: str
    kind: str
    """Name of the error's class."""
    message: str


@dataclass(frozen=True, slots=True)
class DoubtfulPage:
    """A page that a person should look at."""

    uri: str
    sha256: str
    """Of the file."""
    page_number: int
    text: str
    status: Status
    agreement: float | None
    """With the witness."""
    confidence: float | None
    confidence_p5: float | None
    missing: int
    unsupported: int
    repeated: int
    differences: int
    """How many of each the witness found."""

    @property
    def rank(self) -> tuple[Any, ...]:
        """Sorts the most doubtful first."""
        agreement = 1.0 if self.agreement is None else self.agreement
        confidence = 1.0 if self.confidence_p5 is None else self.confidence_p5
        is_unsupported, is_ok = self.status == "unsupported", self.status == "ok"
        return not is_unsupported, agreement, is_ok, confidence, self.uri, self.page_number

    @property
    def why(self) -> str:
        """The reasons in a few words, beside the status."""
        reasons = []
        if self.agreement is not None and self.agreement < WITNESS_AGREES:
            reasons.append(f"the witness agrees with {self.agreement:.2f} of it")
        counts = (
            (self.missing, "line missing", "lines missing"),
            (self.unsupported, "sentence not on the page", "sentences not on the page"),
            (self.repeated, "passage repeated", "passages repeated"),
            (self.differences, "other number or name", "other numbers or names"),
        )
        reasons += [f"{count} {one if count == 1 else more}" for count, one, more in counts if count]
        if self.confidence_p5 is not None and self.confidence_p5 < DOUBTFUL and self.confidence is not None:
            reasons.append(f"confidence {self.confidence:.2f}")
        return ", ".join(reasons)


@dataclass(frozen=True, slots=True)
class Timing:
    """What one reading cost."""

    content_sha256: str
    task: str
    model: str | None
    elapsed_s: float
    images: int
    """Sent for this task: one, or one for each tile."""
    prompt_tokens: int | None
    completion_tokens: int | None
    kept_bytes: int
    """Of its text and prompt."""


class Ledger:
    """The ledger in one SQLite file; safe to use from several threads, and by several processes at once.

    Args:
        path: The file, made with its folder if missing (mode 0600); None keeps everything in memory for this run only.
        fallback: Another ledger that is read where this one knows nothing; rows found there are copied.
        read_only: Open an existing file and change nothing.

    Raises:
        LedgerError: The folder is read-only, the disk is full, or the file has another format. All methods raise it.
    """

    def __init__(self, path: Path | None, *, fallback: Ledger | None = None, read_only: bool = False) -> None:
        self.path = path
        self._fallback = fallback
        self._is_read_only = read_only and path is not None
        self._lock = threading.RLock()
        self._put_off: list[Statement] = []
        """Written with the next transaction: one of their own each would cost an fsync."""
        self._put_off_keys: set[tuple[str, str]] = set()
        """Table and key of what is put off and can be found nowhere else."""
        self._put_off_since_s = 0.0
        with self._guard("open"):
            self._db = self._connect()

    def _connect(self) -> sqlite3.Connection:
        db: sqlite3.Connection
        if self.path is not None and self._is_read_only:
            db = connect_read_only(self.path)
        else:
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            db = sqlite3.connect(self.path or ":memory:", check_same_thread=False, isolation_level=None, timeout=30)
        try:
            found = db.execute("PRAGMA user_version").fetchone()[0]
            if found > FORMAT:
                raise LedgerError(
                    f"the ledger {self.path} was made by a newer release of kobold-reader (format {found}).",
                    hint="Update kobold-reader, or name another file with --ledger.",
                )
            if found == 2 and self._is_read_only:  # noqa: PLR2004
                db.execute("CREATE TEMP VIEW readings AS SELECT *, 'null' AS witness FROM main.readings")
            elif found == 2:  # noqa: PLR2004
                self._add_witness(db)
            elif 0 < found < FORMAT:
                raise LedgerError(
                    f"the ledger {self.path} has format {found}, which no release of kobold-reader wrote.",
                    hint="Move it away, or name another file with --ledger; its pages are read again.",
                )
            if self._is_read_only and found == 0:  # the process that made it was killed before it made the tables
                db.close()
                db = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
            elif not self._is_read_only:
                db.execute("PRAGMA synchronous=FULL")
                use_wal(db)
            if found == 0:
                self._make_tables(db)
        except BaseException:
            db.close()
            raise
        return db

    @staticmethod
    def _make_tables(db: sqlite3.Connection) -> None:
        with transaction(db):
            if db.execute("PRAGMA user_version").fetchone()[0] == 0:  # no other process came first
                for statement in _SCHEMA.split(";"):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version={FORMAT}")

    @staticmethod
    def _add_witness(db: sqlite3.Connection) -> None:
        with transaction(db):
            if db.execute("PRAGMA user_version").fetchone()[0] < FORMAT:  # no other process came first
                db.execute("ALTER TABLE readings ADD COLUMN witness TEXT NOT NULL DEFAULT 'null'")
                db.execute(_INDEX_DOUBTFUL)
                db.execute(f"PRAGMA user_version={FORMAT}")

    @contextmanager
    def _guard(self, doing: str) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except (sqlite3.Error, OSError) as err:
                if is_of_one_row(err):
                    raise
                hint = "Check that its folder can be written and the disk is not full"
                if getattr(err, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
                    hint = "It is damaged, or not a ledger: restore a copy of it"
                raise LedgerError(
                    f"the ledger {self.path or 'in memory'} cannot be used ({doing}): {reason(err)}.",
                    hint=f"{hint}, or name another file with --ledger.",
                ) from err

    def _rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        self.settle()
        return self._found(sql, *values)

    def _row(self, sql: str, *values: object) -> tuple[Any, ...] | None:
        return next(iter(self._rows(sql, *values)), None)

    def _found(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Return rows, among which may lack those that are put off."""
        with self._guard("read"):
            return self._db.execute(sql, values).fetchall()

    def _found_by_key(self, table: str, key: str, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Return the rows of a table with this key, those that are put off included."""
        with self._lock:
            if (table, key) in self._put_off_keys:
                self.settle()
            return self._found(sql, *values)

    @contextmanager
    def _transaction(self, doing: str) -> Iterator[sqlite3.Connection]:
        with self._guard(doing):
            with transaction(self._db):
                for statement in self._put_off:
                    self._db.execute(*statement)
                yield self._db
            self._put_off.clear()
            self._put_off_keys.clear()

    def _write(self, statements: Iterable[Statement]) -> None:
        with self._transaction("write") as db:
            for statement in statements:
                db.execute(*statement)

    def _put(self, statements: Iterable[Statement], *keys: tuple[str, str]) -> None:
        """Put statements off."""
        with self._guard("write"):
            now_s = time.monotonic()
            if not self._put_off:
                self._put_off_since_s = now_s
            for sql, values in statements:
                # What SQLite does not take is an error of this page, and not of the transaction that writes it.
                self._db.execute(f"SELECT {', '.join('?' * len(values))}", values)
                self._put_off.append((sql, values))
            self._put_off_keys.update(keys)
            if len(self._put_off) >= PUT_OFF_ROWS or now_s - self._put_off_since_s >= PUT_OFF_S:
                self.settle()

    def _copy(self, statements: Iterable[Statement]) -> None:
        if not self._is_read_only:
            self._put(statements)

    def settle(self) -> None:
        """Write what was put off."""
        with self._lock:
            if self._put_off:
                self._write(())

    def close(self) -> None:
        """Close the file (and the fallback's)."""
        try:
            self.settle()
        finally:
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
            return None  # a file system without times: only the bytes show whether it changed
        sql = "SELECT sha256 FROM files WHERE uri = ? AND size_bytes = ? AND mtime_ns = ?"
        rows = self._found_by_key("files", source.uri, sql, source.uri, source.size_bytes, source.mtime_ns)
        if rows:
            return str(rows[0][0])
        found = self._fallback.sha256_of(source) if self._fallback else None
        facts = self._fallback.document(found) if self._fallback and found else None
        if facts:
            self._copy(_put_file(source, facts))
        return facts.sha256 if facts else None

    def document(self, sha256: str) -> FileFacts | None:
        """Return the known facts of a file's content."""
        rows = self._found_by_key("documents", sha256, "SELECT facts FROM documents WHERE sha256 = ?", sha256)
        if rows:
            return FileFacts(**json.loads(rows[0][0]))
        return self._fallback.document(sha256) if self._fallback else None

    def kind_of(self, source: SourceFile) -> Kind | None:
        """Return the kind as which an unchanged file was opened before, else None."""
        sha256 = self.sha256_of(source)
        facts = self.document(sha256) if sha256 else None
        return facts.kind if facts else None

    def attachments_skipped(self, sources: Iterable[SourceFile]) -> Counter[str]:
        """Count the files inside these files that are not taken, as `Selection.skipped` counts files."""
        uris = {source.uri for source in sources}
        # One pass over all files: to look up each of 100,000 would take seconds.
        sql = "SELECT uri, facts FROM files JOIN documents USING (sha256) WHERE facts NOT LIKE '%_skipped\":{}%'"
        total: Counter[str] = Counter()
        for uri, facts in self._rows(sql):
            if uri in uris:
                total.update(FileFacts(**json.loads(facts)).attachments_skipped)
        return total

    def remember_file(self, source: SourceFile, facts: FileFacts) -> None:
        """Record that this file has this content; a failure of the file as a whole is forgotten."""
        self._put(_put_file(source, facts), ("files", source.uri), ("documents", facts.sha256))

    # ── pages ────────────────────────────────────────────────────────────────────────────────────

    def pages(self, sha256: str, numbers: Sequence[int]) -> dict[int, KnownPage]:
        """Return those of these pages of a file's content that are known, by 1-based page number."""
        sql = (
            "SELECT page_number, is_blank, facts FROM pages "
            "WHERE sha256 = ? AND page_number IN (SELECT value FROM json_each(?)) ORDER BY page_number"
        )
        rows = self._found_by_key("pages", sha256, sql, sha256, _json(list(numbers)))
        known = {number: _to_page(is_blank, facts) for number, is_blank, facts in rows}
        if self._fallback and len(known) < len(numbers):
            behind = self._fallback.pages(sha256, numbers)
            # Copied with the readings, because `forget` finds readings by their pages.
            self._copy(_put_page(sha256, page) for number, page in behind.items() if number not in known)
            known = behind | known
        return known

    def page(self, sha256: str, page_number: int) -> KnownPage | None:
        """Return one page (1-based) of a file's content, if it is known."""
        sql = "SELECT is_blank, facts FROM pages WHERE sha256 = ? AND page_number = ?"
        rows = self._found_by_key("pages", sha256, sql, sha256, page_number)
        if rows:
            return _to_page(*rows[0])
        return self._fallback.page(sha256, page_number) if self._fallback else None

    def remember_pages(self, sha256: str, pages: Sequence[KnownPage]) -> None:
        """Record facts of pages; a page that is known as blank or not stays so."""
        self._put((_put_page(sha256, page) for page in pages), ("pages", sha256))

    # ── readings ─────────────────────────────────────────────────────────────────────────────────

    def reading(self, content_sha256: str, task: str, engine: str, key: str) -> Reading | None:
        """Return the reading of a page's content made with the options of this key (`ReadOptions.key`), if any."""
        sql = (
            f"SELECT {_READING_COLUMNS} FROM readings "  # noqa: S608  (names of fields)
            "WHERE content_sha256 = ? AND task = ? AND engine = ? AND settings = ?"
        )
        rows = self._found(sql, content_sha256, task, engine, key)
        if rows:
            return _to_reading(task, engine, rows[0])
        found = self._fallback.reading(content_sha256, task, engine, key) if self._fallback else None
        if found:
            self._copy([_put_reading(content_sha256, key, found)])
        return found

    def newest(self, content_sha256: str, task: str) -> Reading | None:
        """Return the newest reading of a page's content that has text, by any engine and with any options."""
        sql = (
            f"SELECT engine, {_READING_COLUMNS} FROM readings WHERE content_sha256 = ? AND task = ? "  # noqa: S608
            "AND text != '' ORDER BY created_at DESC, rowid DESC LIMIT 1"
        )
        row = self._row(sql, content_sha256, task)
        return _to_reading(task, row[0], row[1:]) if row else None

    def reading_of_text(self, content_sha256: str, task: str, text: str) -> Reading | None:
        """Return the newest reading of a page's content with this text; RapidOCR's only if no other has it."""
        sql = (
            f"SELECT engine, {_READING_COLUMNS} FROM readings WHERE content_sha256 = ? AND task = ? "  # noqa: S608
            "AND text = ? ORDER BY engine = 'rapidocr', created_at DESC, rowid DESC LIMIT 1"
        )
        row = self._row(sql, content_sha256, task, text)
        return _to_reading(task, row[0], row[1:]) if row else None

    def mark(self) -> str:
        """Return a text that changes whenever any process adds, replaces or removes a reading."""
        [(newest, count)] = self._rows("SELECT max(rowid), count(*) FROM readings")
        return f"{newest or 0}:{count}"

    def last_family(self, engine: str) -> str | None:
        """Return the model family of this engine's newest reading, if any."""
        # By time it would be a pass over all texts: two seconds for 200,000 readings.
        rows = self._found("SELECT family FROM readings WHERE engine = ? ORDER BY rowid DESC LIMIT 1", engine)
        if not rows and self._fallback:
            return self._fallback.last_family(engine)
        return str(rows[0][0]) if rows and rows[0][0] else None

    def record(
        self,
        source: SourceFile,
        sha256: str,
        page: KnownPage,
        readings: Mapping[str, Reading],
        keys: Mapping[str, str],
        errors: Mapping[str, KoboldReaderError],
    ) -> None:
        """Record the outcome of one page of a file, in one transaction; readings, their keys, and errors by task."""
        facts = page.facts
        self._write(
            [
                _put_page(sha256, page),
                *(_put_reading(facts.content_sha256, keys[task], reading) for task, reading in readings.items()),
                _delete_failures(source.uri, facts.page_number),
                *_put_failures(source, sha256, facts.page_number, errors),
            ]
        )

    def keep(self, content_sha256: str, key: str, reading: Reading) -> None:
        """Record one reading of a page that is known."""
        self._write([_put_reading(content_sha256, key, reading)])

    def record_failure(
        self, source: SourceFile, sha256: str, page_number: int, errors: Mapping[str, KoboldReaderError]
    ) -> None:
        """Record that a page, or with page_number 0 a file, could not be read."""
        self._write(_put_failures(source, sha256, page_number, errors))

    def clear_failure(self, uri: str, page_number: int) -> None:
        """Forget that a page failed: it has since been read, perhaps as a copy in another file."""
        self._write([_delete_failures(uri, page_number)])

    def texts(self, contents: AbstractSet[str], limit: int) -> list[str]:
        """Return the text of a few of these contents: of up to `limit` that were read or have a good text layer."""
        found: list[str] = []
        ordered = sorted(contents)  # sums of bytes: this order is as good as a random one
        for content in ordered[: _TEXT_TRIES * limit]:
            row = self._row(
                "SELECT text FROM readings WHERE content_sha256 = ?1 AND task = 'ocr' UNION ALL "
                "SELECT json_extract(facts, '$.text') FROM pages WHERE content_sha256 = ?1 AND text_layer = 'good'",
                content,
            )
            if row and row[0]:
                found.append(str(row[0]))
            if len(found) == limit:
                break
        return found

    # ── looking back ─────────────────────────────────────────────────────────────────────────────

    def uris(self) -> list[str]:
        """Return the URIs of all files that the ledger knows, failed ones too."""
        return [uri for (uri,) in self._rows("SELECT uri FROM files UNION SELECT uri FROM failures")]

    def contents_of(self, uri: str) -> set[str]:
        """Return the contents of a file's pages."""
        rows = self._rows("SELECT content_sha256 FROM pages JOIN files USING (sha256) WHERE uri = ?", uri)
        return {content for (content,) in rows}

    def knows(self, content_sha256: str) -> bool:
        """Tell whether a page of any known file has this content."""
        sql = "SELECT 1 FROM pages JOIN files USING (sha256) WHERE content_sha256 = ? LIMIT 1"
        return self._row(sql, content_sha256) is not None

    def failures(self) -> list[Failure]:
        """Return what failed at the last try, by file and page."""
        sql = "SELECT uri, page_number, task, kind, message FROM failures ORDER BY uri, page_number, task"
        return [Failure(*row) for row in self._rows(sql)]

    def worth_a_look(self) -> list[DoubtfulPage]:
        """Return the pages that a model read and that a person should look at, the most doubtful first."""
        rows = self._rows(
            "SELECT uri, sha256, page_number, text, status, json_extract(witness, '$.agreement'), confidence, "  # noqa: S608
            # Of each passage that is missing, the lines.
            "confidence_p5, (SELECT coalesce(sum(1 + length(value) - length(replace(value, char(10), ''))), 0) "
            "FROM json_each(witness, '$.missing')), coalesce(json_array_length(witness, '$.unsupported'), 0), "
            "coalesce(json_array_length(witness, '$.repeated'), 0), "
            "coalesce(json_array_length(witness, '$.differences'), 0) "
            f"FROM readings JOIN pages USING (content_sha256) JOIN files USING (sha256) WHERE {_DOUBTFUL}"
        )
        # SQLite would sort the texts along.
        return sorted((DoubtfulPage(*row) for row in rows), key=lambda page: page.rank)

    def count_readings(self, engine: str | None = None) -> int:
        """Count the readings of this file, or those of one engine; the fallback's do not count."""
        [(count,)] = self._rows("SELECT count(*) FROM readings WHERE engine = coalesce(?, engine)", engine)
        return int(count)

    def count(self) -> dict[str, int]:
        """Count `files`, `pages`, and pages by status (of `ocr`)."""
        return dict(
            self._rows(
                "SELECT 'files', count(DISTINCT sha256) FROM files "
                "UNION ALL SELECT 'pages', count(*) FROM pages "
                "UNION ALL SELECT 'text_layer', count(*) FROM pages WHERE text_layer = 'good' "
                "UNION ALL SELECT 'blank', count(*) FROM pages WHERE is_blank = 1 "
                "UNION ALL SELECT 'failed', count(*) FROM (SELECT DISTINCT uri, page_number FROM failures) "
                # Of a page that a model read, RapidOCR's reading is the witness.
                "UNION ALL SELECT status, count(*) FROM readings AS one WHERE task = 'ocr' "
                "AND (engine != 'rapidocr' OR NOT EXISTS (SELECT 1 FROM readings AS other "
                "WHERE other.content_sha256 = one.content_sha256 AND other.task = 'ocr' "
                "AND other.engine != 'rapidocr')) GROUP BY status"
            )
        )

    def resolutions(self, engine: str) -> list[tuple[int, int, int, float | None, float | None, int]]:
        """Count pages by resolution: effective px, page's own px (wide, high), paper's pt (wide, high), pages.

        Of several readings of one page the one with the most px counts.
        """
        return self._rows(
            "SELECT px, json_extract(facts, '$.width_px'), json_extract(facts, '$.height_px'), "
            "json_extract(facts, '$.width_pt') AS wide, json_extract(facts, '$.height_pt') AS high, count(*) "
            "FROM pages JOIN (SELECT content_sha256 AS content, max(effective_px) AS px FROM readings "
            "WHERE engine = ? AND effective_px IS NOT NULL GROUP BY content_sha256) ON content = content_sha256 "
            "GROUP BY 1, 2, 3, 4, 5",
            engine,
        )

    def timings(self, engine: str, keys: Mapping[str, str], model: str | None) -> list[Timing]:
        """Return what readings with the options of these keys (by task) cost, newest first.

        All are by one model: the one given, else the one that read last.
        """
        found: dict[tuple[str, str], Timing] = {}
        for task, key in keys.items():
            rows = self._rows(
                "SELECT content_sha256, task, model, elapsed_s, json_array_length(view_sizes), prompt_tokens, "
                "completion_tokens, length(text) + length(coalesce(prompt, '')) FROM readings "
                "WHERE engine = ? AND task = ? AND settings = ? AND elapsed_s > 0 AND (? IS NULL OR model = ?) "
                "ORDER BY created_at DESC LIMIT ?",
                *(engine, task, key, model, model, _TIMINGS),
            )
            behind = self._fallback.timings(engine, {task: key}, model) if self._fallback else []
            for timing in (*(Timing(*row) for row in rows), *behind):
                model = model or timing.model
                if timing.model == model:
                    found.setdefault((timing.content_sha256, task), timing)
        return list(found.values())

    def forget(self, uris: Iterable[str]) -> int:
        """Remove these files, and the readings that no other known file shares; returns the number of those."""
        with self._guard("forget"):
            # A kill before the file is written anew leaves zeros where the text was.
            self._db.execute("PRAGMA secure_delete=ON")
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
        if self._db.total_changes > before and self.path is not None:
            with self._guard("forget"):
                is_erased = write_anew(self._db)
            if not is_erased:
                log.warning("another process uses %s: forgotten text leaves its bytes when that one ends", self.path)
        return removed


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────


def _put_file(source: SourceFile, facts: FileFacts) -> list[Statement]:
    return [
        (
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)",
            (source.uri, source.size_bytes, source.mtime_ns, facts.sha256),
        ),
        ("INSERT OR REPLACE INTO documents VALUES (?, ?, ?)", (facts.sha256, facts.total_pages, _json(asdict(facts)))),
        ("DELETE FROM failures WHERE uri = ? AND (page_number = 0 OR sha256 != ?)", (source.uri, facts.sha256)),
    ]


def _put_page(sha256: str, page: KnownPage) -> Statement:
    sql = (
        "INSERT INTO pages VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (sha256, page_number) DO UPDATE SET "
        "content_sha256 = excluded.content_sha256, is_blank = coalesce(excluded.is_blank, is_blank), "
        "text_layer = excluded.text_layer, facts = excluded.facts"
    )
    facts = page.facts
    kept = {name: getattr(facts, name) for name in _FACTS_KEPT}
    row = (sha256, facts.page_number, facts.content_sha256, page.is_blank, facts.text_layer, _json(kept))
    return sql, row


def _to_page(is_blank: int | None, facts: str) -> KnownPage:
    return KnownPage(PageFacts(**json.loads(facts)), None if is_blank is None else bool(is_blank))


def _put_reading(content_sha256: str, key: str, reading: Reading) -> Statement:
    values = {name: getattr(reading, name) for name in _READING_FIELDS}
    values |= {name: _json(values[name]) for name in _JSON_FIELDS}
    sql = (
        f"INSERT OR REPLACE INTO readings (content_sha256, task, engine, settings, {_READING_COLUMNS}, created_at) "  # noqa: S608  (names of fields)
        f"VALUES ({', '.join('?' * (len(values) + 5))})"
    )
    return sql, (content_sha256, reading.task, reading.engine, key, *values.values(), _now())


def _to_reading(task: str, engine: str, row: tuple[Any, ...]) -> Reading:
    values = dict(zip(_READING_FIELDS, row, strict=True))
    values |= {name: json.loads(values[name]) for name in _JSON_FIELDS}
    if values["image_verified"] is not None:
        values["image_verified"] = bool(values["image_verified"])
    return Reading.of_json({"task": task, "engine": engine, **values})


def _put_failures(
    source: SourceFile, sha256: str, page_number: int, errors: Mapping[str, KoboldReaderError]
) -> list[Statement]:
    return [
        (
            "INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?, ?, ?, ?)",
            (source.uri, page_number, task, sha256, type(error).__name__, str(error), _now()),
        )
        for task, error in errors.items()
    ]


def _delete_failures(uri: str, page_number: int) -> Statement:
    return "DELETE FROM failures WHERE uri = ? AND page_number = ?", (uri, page_number)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


_LOCK_FILES = 64
"""Not one for each page, because the files stay. A process may have to wait for another page with the same file."""


class Claims:
    """The claims of this process among those of others; safe to use from several threads.

    Args:
        folder: Place of the lock files, made with the first claim; None: no other process has this ledger.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._held: dict[int, tuple[FileLock, int]] = {}
        """By number of the file: its lock, and how many pages of this process hold it."""

    @contextmanager
    def hold(self, content_sha256: str, cancel: threading.Event | None = None) -> Iterator[None]:
        """Hold a page until it is read and recorded; waits while another process holds it.

        Look the page up again under the claim. Threads of this process do not wait for one another, because they are
        given different pages. A thread must not hold two pages at once.

        Raises:
            CancelledError: `cancel` was set while waiting.
        """
        number = int(content_sha256[:8], 16) % _LOCK_FILES
        waiter = cancel or threading.Event()
        while not self._try(number):
            if waiter.wait(0.1):
                raise CancelledError
        try:
            yield
        finally:
            self._give_back(number)

    def _try(self, number: int) -> bool:
        if self._folder is None:
            return True
        from filelock import FileLock, Timeout

        with self._lock:
            if number in self._held:
                lock, pages = self._held[number]
            else:
                lock, pages = FileLock(self._folder / f"{number:02}.lock", thread_local=False), 0
                try:
                    self._folder.mkdir(parents=True, exist_ok=True)
                    lock.acquire(timeout=0)
                except Timeout:
                    return False
                except (OSError, NotImplementedError) as err:
                    # A file system without locks: at worst a page is asked twice, which loses nothing.
                    log.debug("%s: %s; pages are not claimed", self._folder, err)
            self._held[number] = lock, pages + 1
            return True

    def _give_back(self, number: int) -> None:
        with self._lock:
            if number in self._held:
                lock, pages = self._held.pop(number)
                if pages > 1:
                    self._held[number] = lock, pages - 1
                else:
                    lock.release(force=True)
