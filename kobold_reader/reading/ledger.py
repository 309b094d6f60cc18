"""What has been read, at what cost, by whom: one SQLite file, safe against kill -9 and power loss.

A reading belongs to a page's *content* (sha256 of its embedded scan or image frame, else of file and page number), so a
renamed file, a copy, the same scan in two PDFs and a new release of a rendering library cost nothing. It is found again
under its task, the engine, and a key of the settings that the *user* gave; what the user did not choose makes nothing
due. Failures are kept for their names' sake only: they are never a hit.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from kobold_reader.errors import KoboldReaderError
from kobold_reader.pages import FileFacts, Kind, SourceFile
from kobold_reader.reading.ledgerfile import LedgerFile
from kobold_reader.reading.ledgerrows import (
    GET_READING,
    GET_TIMINGS,
    PUT_FAILURE,
    PUT_PAGE,
    PUT_PAGE_MERGED,
    PUT_READING,
    Failure,
    KnownPage,
    Statement,
    Timing,
    failure_rows,
    file_statements,
    page_row,
    reading_row,
    to_file_facts,
    to_page,
    to_reading,
)
from kobold_reader.reading.results import Reading

__all__ = ["Failure", "KnownPage", "Ledger", "Timing", "default_ledger_path"]

COPIES_AT_ONCE: Final = 1000
"""Rows of the fallback copied in one transaction; a kill before that loses nothing, since the fallback has them."""


def default_ledger_path() -> Path:
    """Where readings are kept unless told otherwise: user data, not a cache, since a night's work lies there."""
    import platformdirs

    return Path(platformdirs.user_data_dir("kobold-reader", appauthor=False)) / "ledger.sqlite"


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
        self._file = LedgerFile(path, read_only=read_only)
        self._db = self._file.db
        self._copies: list[Statement] = []

    @contextmanager
    def _transaction(self, doing: str) -> Iterator[sqlite3.Connection]:
        """Hold a write transaction, in which what was found in the fallback is copied first."""
        with self._file.lock:
            with self._file.transaction(doing) as db:
                for sql, row in self._copies:
                    db.execute(sql, row)
                yield db
            self._copies.clear()

    def _copy(self, statements: Iterable[Statement]) -> None:
        """Have rows of the fallback written with the next transaction: one of their own each would cost an fsync."""
        with self._file.lock:
            if not self._file.read_only:
                self._copies += statements
            if len(self._copies) >= COPIES_AT_ONCE:
                self._end_copying()

    def _end_copying(self) -> None:
        if self._copies:
            with self._transaction("copy"):
                pass

    def close(self) -> None:
        """Close the file (and the fallback's)."""
        try:
            self._end_copying()
        finally:
            self._file.close()
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
        with self._file.guard("read"):
            row = self._db.execute(
                "SELECT sha256 FROM files WHERE uri = ? AND size_bytes = ? AND mtime_ns = ?",
                (source.uri, source.size_bytes, source.mtime_ns),
            ).fetchone()
        if row:
            return str(row[0])
        found = self._fallback.sha256_of(source) if self._fallback else None
        facts = self._fallback.document(found) if self._fallback and found else None
        if facts:
            self._copy(file_statements(source, facts))
        return facts.sha256 if facts else None

    def document(self, sha256: str) -> FileFacts | None:
        """Return what is known of a file's content."""
        with self._file.guard("read"):
            row = self._db.execute("SELECT facts FROM documents WHERE sha256 = ?", (sha256,)).fetchone()
        if row:
            return to_file_facts(row[0])
        return self._fallback.document(sha256) if self._fallback else None

    def kind_of(self, source: SourceFile) -> Kind | None:
        """Return the kind as which an unchanged file was opened before, None where it must be looked into."""
        sha256 = self.sha256_of(source)
        facts = self.document(sha256) if sha256 else None
        return facts.kind if facts else None

    def remember_file(self, source: SourceFile, facts: FileFacts) -> None:
        """Record that this file has this content; a failure of the file as a whole is forgotten."""
        with self._transaction("write") as db:
            for sql, row in file_statements(source, facts):
                db.execute(sql, row)

    # ── pages ────────────────────────────────────────────────────────────────────────────────────

    def pages(self, sha256: str) -> dict[int, KnownPage]:
        """Return the known pages of a file's content by 1-based page number."""
        with self._file.guard("read"):
            rows = self._db.execute(
                "SELECT page_number, is_blank, facts FROM pages WHERE sha256 = ?", (sha256,)
            ).fetchall()
            document = self._db.execute("SELECT total_pages FROM documents WHERE sha256 = ?", (sha256,)).fetchone()
        known = {number: to_page(is_blank, facts) for number, is_blank, facts in rows}
        if self._fallback and not (document and len(rows) == document[0]):
            behind = self._fallback.pages(sha256)
            # Copied with the readings: without its pages `forget` could not tell whose readings these are.
            self._copy(
                (PUT_PAGE_MERGED, page_row(sha256, page)) for number, page in behind.items() if number not in known
            )
            known = behind | known
        return known

    def remember_pages(self, sha256: str, pages: Sequence[KnownPage]) -> None:
        """Record facts of pages, in one transaction; what is known of blankness stays known."""
        if not pages:
            return
        with self._transaction("write") as db:
            db.executemany(PUT_PAGE_MERGED, [page_row(sha256, page) for page in pages])

    # ── readings ─────────────────────────────────────────────────────────────────────────────────

    def reading(self, content_sha256: str, task: str, engine: str, settings: str) -> Reading | None:
        """Return the reading of a page's content, or None where there is none made this way."""
        with self._file.guard("read"):
            row = self._db.execute(GET_READING, (content_sha256, task, engine, settings)).fetchone()
        if row:
            return to_reading(task, engine, row)
        found = self._fallback.reading(content_sha256, task, engine, settings) if self._fallback else None
        if found:
            self._copy([(PUT_READING, reading_row(content_sha256, settings, found))])
        return found

    def mark(self) -> str:
        """Return a text that is another one once a reading was added, replaced or removed, by whomever."""
        self._end_copying()
        with self._file.guard("read"):
            newest, count = self._db.execute("SELECT max(rowid), count(*) FROM readings").fetchone()
        return f"{newest or 0}:{count}"

    def last_family(self, engine: str) -> str | None:
        """Return the model family of the reading with this engine that was recorded last; None where there is none."""
        with self._file.guard("read"):
            row = self._db.execute(
                # By time it would be a pass over all texts: two seconds for 200,000 readings.
                "SELECT family FROM readings WHERE engine = ? ORDER BY rowid DESC LIMIT 1",
                (engine,),
            ).fetchone()
        if row is None and self._fallback:
            return self._fallback.last_family(engine)
        return str(row[0]) if row and row[0] else None

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
        facts = page.facts
        with self._transaction("write") as db:
            db.execute(PUT_PAGE, page_row(sha256, page))
            db.executemany(
                PUT_READING,
                [reading_row(facts.content_sha256, settings[task], reading) for task, reading in readings.items()],
            )
            db.execute(
                "DELETE FROM failures WHERE uri = ? AND page_number = ?",
                (source.uri, facts.page_number),
            )
            db.executemany(PUT_FAILURE, failure_rows(source, sha256, facts.page_number, errors))

    def record_failure(
        self,
        source: SourceFile,
        sha256: str,
        page_number: int,
        errors: Mapping[str, KoboldReaderError],
    ) -> None:
        """Record that a page, or with page_number 0 a file, could not be read."""
        with self._transaction("write") as db:
            db.executemany(PUT_FAILURE, failure_rows(source, sha256, page_number, errors))

    # ── looking back ─────────────────────────────────────────────────────────────────────────────

    def uris(self) -> list[str]:
        """Return the URIs of all files that the ledger knows, failed ones too."""
        self._end_copying()
        with self._file.guard("read"):
            rows = self._db.execute("SELECT uri FROM files UNION SELECT uri FROM failures").fetchall()
        return [row[0] for row in rows]

    def contents_of(self, uri: str) -> set[str]:
        """Return the contents of a file's pages."""
        with self._file.guard("read"):
            rows = self._db.execute(
                "SELECT content_sha256 FROM pages JOIN files USING (sha256) WHERE uri = ?", (uri,)
            ).fetchall()
        return {row[0] for row in rows}

    def knows(self, content_sha256: str) -> bool:
        """Tell whether a page of any known file has this content."""
        with self._file.guard("read"):
            row = self._db.execute(
                "SELECT 1 FROM pages JOIN files USING (sha256) WHERE content_sha256 = ? LIMIT 1", (content_sha256,)
            ).fetchone()
        return row is not None

    def failures(self) -> list[Failure]:
        """Return what failed at the last try, by file and page."""
        with self._file.guard("read"):
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
        self._end_copying()
        with self._file.guard("read"):
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

    def resolutions(self, engine: str) -> list[tuple[int, int, int, float | None, float | None, int]]:
        """Count pages by what they were read with: effective px, page's own px (wide, high), paper's pt, pages.

        Of several readings of one page the one with the most px counts.
        """
        with self._file.guard("read"):
            return self._db.execute(
                "SELECT px, json_extract(facts, '$.width_px'), json_extract(facts, '$.height_px'), "
                "json_extract(facts, '$.width_pt') AS wide, json_extract(facts, '$.height_pt') AS high, count(*) "
                "FROM pages JOIN (SELECT content_sha256 AS content, max(effective_px) AS px FROM readings "
                "WHERE engine = ? AND effective_px IS NOT NULL GROUP BY content_sha256) ON content = content_sha256 "
                "GROUP BY 1, 2, 3, 4, 5",
                (engine,),
            ).fetchall()

    def timings(self, engine: str, settings: Mapping[str, str], model: str | None) -> list[Timing]:
        """Return what readings cost, newest first, all by one model.

        Args:
            engine: Who read.
            settings: By task: the key of the settings it was asked with.
            model: Who read; None: the one that read last.
        """
        found: dict[tuple[str, str], Timing] = {}
        for task, key in settings.items():
            with self._file.guard("read"):
                rows = self._db.execute(GET_TIMINGS, (engine, task, key, model, model)).fetchall()
            own = [Timing(content, task, *row) for content, *row in rows]
            behind = self._fallback.timings(engine, {task: key}, model) if self._fallback else []
            for timing in (*own, *behind):
                model = model or timing.model
                if timing.model == model:
                    found.setdefault((timing.content_sha256, task), timing)
        return list(found.values())

    def forget(self, uris: Iterable[str]) -> int:
        """Remove these files and the readings that no other known file shares; returns how many readings went."""
        with self._file.guard("forget"):
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
        if self._db.total_changes > before:
            self._file.erase_deleted()
        return removed
