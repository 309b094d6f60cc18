"""archive.sqlite: which files the archive knows, where they lie, what stands on their pages, what is indexed as what.

Rows are the truth about what *should* be indexed; Chroma and the words follow. A page goes through three steps, and a
kill between any two leaves it completable: (1) its row is written with `indexed_as` NULL and all node ids it may have,
(2) Chroma, (3) words, `indexed_as` and a new generation, in one transaction.

Is this folder fit for an archive? SQLite and Chroma need real file locks, which network folders do not give.

The file archive.sqlite: opened, brought to today's format, read and written by several threads.

Which paths were read, which files lie there, and where each content lies.

What stands in an archive's catalog of its pages: by id, by file, by metadata, by content.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from kobold_reader.archive import corrections, filters, words
from kobold_reader.archive.filters import Filter
from kobold_reader.archive.values import (
    FILE_KEYS,
    PAGE_COLUMNS,
    PLACE_COLUMNS,
    PageRow,
    Place,
    to_json,
    to_page,
    to_place,
)
from kobold_reader.errors import StoreError
from kobold_reader.reading.ledger import Ledger

__all__ = [
    "FILE_KEYS",
    "LOCK",
    "ORPHANED",
    "Catalog",
    "CatalogFile",
    "PageRow",
    "PageTable",
    "Place",
    "PlaceTable",
    "check_folder",
]

LOCK: Final = "archive.lock"
"""Held by who writes."""

_NETWORK: Final = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb",
        "smb2",
        "smb3",
        "smbfs",
        "afpfs",
        "webdav",
        "davfs",
        "9p",
        "ncpfs",
        "fuse.sshfs",
        "fuse.rclone",
    }
)
_DRIVE_REMOTE: Final = 4
"""What GetDriveTypeW answers for a network drive (Windows API)."""


def check_folder(folder: Path) -> None:
    """Refuse a folder on a network share.

    Raises:
        StoreError: With the reason and what to do.
    """
    kind = _filesystem(folder.absolute())
    if kind in _NETWORK:
        msg = f"{folder} lies on a network share ({kind}): its locks do not protect an archive from being damaged."
        raise StoreError(msg, hint="Keep the archive on a local disk; the scans themselves may lie anywhere.")


def _filesystem(folder: Path) -> str:
    if os.name == "nt":
        return _windows_drive(folder)
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return _statfs_name(folder) if sys.platform == "darwin" else ""
    best, kind = "", ""
    for line in mounts.splitlines():
        _, point, name, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        if folder.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, name
    return kind


def _windows_drive(folder: Path) -> str:
    if str(folder).startswith("\\\\"):
        return "smb"
    import ctypes

    windll = getattr(ctypes, "windll", None)
    if windll is None:
        return ""
    return "smb" if windll.kernel32.GetDriveTypeW(folder.anchor) == _DRIVE_REMOTE else ""


def _statfs_name(folder: Path) -> str:
    """Ask macOS's mount table; it has no /proc."""
    import shutil
    import subprocess

    mount = shutil.which("mount")
    if mount is None:
        return ""
    listing = subprocess.run([mount], capture_output=True, text=True, check=False).stdout  # noqa: S603
    best, kind = "", ""
    for line in listing.splitlines():
        _, _, rest = line.partition(" on ")
        point, _, options = rest.rpartition(" (")
        if point and folder.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, options.split(",")[0].rstrip(")")
    return kind


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
CREATE INDEX IF NOT EXISTS pages_failed ON pages (uri, page_number) WHERE error IS NOT NULL;
CREATE INDEX IF NOT EXISTS places_failed ON places (uri) WHERE error IS NOT NULL;
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
                filters.create(self.db)
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
            filters.put(self.db, number, json.loads(metadata))

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


class PlaceTable(CatalogFile):
    """The tables `roots` and `places`."""

    def roots(self) -> dict[str, dict[str, Any]]:
        """Return the paths of past runs with the settings they were read with."""
        with self._guard("read"):
            rows = self.db.execute("SELECT path, settings FROM roots ORDER BY path").fetchall()
        return {path: json.loads(settings) for path, settings in rows}

    def remember_root(self, path: str, settings: Mapping[str, Any]) -> None:
        """Remember a path and the settings it is read with."""
        with self.transaction() as db:
            db.execute("INSERT OR REPLACE INTO roots VALUES (?, ?)", (path, to_json(settings)))

    def forget_root(self, path: str) -> None:
        """Forget that this path was ever read."""
        with self.transaction("forget") as db:
            db.execute("DELETE FROM roots WHERE path = ?", (path,))

    def places(self) -> dict[str, Place]:
        """Return all places by URI, in the order in which they came."""
        with self._guard("read"):
            rows = self.db.execute(f"SELECT {PLACE_COLUMNS} FROM places ORDER BY id").fetchall()  # noqa: S608
        return {row[0]: to_place(row) for row in rows}

    def put_place(self, place: Place) -> None:
        """Record where a content lies; a place keeps its rank among the places of its content."""
        with self.transaction() as db:
            db.execute(
                f"INSERT INTO places ({PLACE_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?) "  # noqa: S608
                "ON CONFLICT (uri) DO UPDATE SET sha256 = excluded.sha256, metadata = excluded.metadata, "
                "is_missing = excluded.is_missing, error = excluded.error, former_sha256 = excluded.former_sha256, "
                "settled = ''",
                (
                    place.uri,
                    place.sha256,
                    to_json(place.metadata),
                    place.is_missing,
                    place.error,
                    place.former_sha256,
                ),
            )

    def mark_missing(self, uris: Iterable[str]) -> None:
        """Mark places as missing; they are still found."""
        with self.transaction() as db:
            db.executemany("UPDATE places SET is_missing = 1, settled = '' WHERE uri = ?", [(uri,) for uri in uris])
            self._next_generation(db)

    def stamps(self) -> dict[str, str]:
        """Return the stamps of the files of which nothing is left to do, by URI."""
        with self._guard("read"):
            return dict(self.db.execute("SELECT uri, settled FROM places WHERE settled != ''").fetchall())

    def put_stamps(self, stamps: Mapping[str, str]) -> None:
        """Stamp files; whatever is recorded of their place takes the stamp away."""
        with self.transaction() as db:
            db.executemany("UPDATE places SET settled = ? WHERE uri = ?", [(text, uri) for uri, text in stamps.items()])

    def remove_places(self, uris: Iterable[str]) -> None:
        """Remove places; pages whose last place went are orphans from then on."""
        with self.transaction() as db:
            db.executemany("DELETE FROM places WHERE uri = ?", [(uri,) for uri in uris])

    def first_place(self, sha256: str) -> Place | None:
        """Return the place by which a content is shown: the oldest that is not missing, else the oldest."""
        with self._guard("read"):
            row = self.db.execute(
                f"SELECT {PLACE_COLUMNS} FROM places WHERE sha256 = ? ORDER BY is_missing, id LIMIT 1",  # noqa: S608
                (sha256,),
            ).fetchone()
        return to_place(row) if row else None

    def places_of(self, sha256: str) -> list[Place]:
        """Return the places of a content, that by which it is shown first."""
        with self._guard("read"):
            rows = self.db.execute(
                f"SELECT {PLACE_COLUMNS} FROM places WHERE sha256 = ? ORDER BY is_missing, id",  # noqa: S608
                (sha256,),
            ).fetchall()
        return [to_place(row) for row in rows]


ORPHANED: Final = (
    "sha256 IN (SELECT sha256 FROM pages EXCEPT SELECT sha256 FROM places EXCEPT SELECT former_sha256 FROM places)"
)
"""Of a content that lies nowhere any more; told by the index of contents, without a look at any page."""


class PageTable(CatalogFile):
    """The table `pages`, read."""

    def page(self, page_id: str) -> PageRow | None:
        """Return one page."""
        return next(iter(self.pages([page_id])), None)

    def pages(self, page_ids: Sequence[str]) -> list[PageRow]:
        """Return pages by id, unknown ones left out, in the order of the ids."""
        rows = self._select("page_id IN (SELECT value FROM json_each(?))", to_json(list(page_ids)))
        found = {row.page_id: row for row in rows}
        return [found[page_id] for page_id in page_ids if page_id in found]

    def pages_of(self, sha256: str) -> list[PageRow]:
        """Return the pages of a file's content in page order."""
        return self._select("sha256 = ? ORDER BY page_number", sha256)

    def uris_of_pages(self) -> list[str]:
        """Return the URIs at which pages are shown."""
        with self._guard("read"):
            return [row[0] for row in self.db.execute("SELECT DISTINCT uri FROM pages")]

    def pages_at(self, uri: str) -> list[PageRow]:
        """Return the pages that are shown at a place, in page order."""
        return self._select("uri = ? ORDER BY sha256, page_number", uri)

    def every_page(self) -> Iterator[PageRow]:
        """Yield all pages by file and page number."""
        yield from self._select("1 ORDER BY uri, page_number")

    def unfinished(self) -> list[PageRow]:
        """Return pages whose indexing was begun and not ended, as they stand now."""
        with self._guard("read"):
            rows = self._select("indexed_as IS NULL ORDER BY sha256, page_number")
            return [corrections.as_it_stands(self.db, row) for row in rows]

    def unfinished_of(self, page_ids: Sequence[str]) -> list[PageRow]:
        """Return the unfinished pages that show the same as these."""
        rows = self.pages(page_ids)
        wanted = {row.content_sha256 for row in rows if row.content_sha256}
        return [row for row in self.unfinished() if row.content_sha256 in wanted]

    def orphans(self) -> list[PageRow]:
        """Return pages of contents that lie nowhere any more."""
        return self._select(ORPHANED)

    def shown_nowhere(self) -> list[PageRow]:
        """Return the pages that are shown as lying at a place that is known no more."""
        return self._select("uri NOT IN (SELECT uri FROM places)")

    def failed(self) -> list[PageRow]:
        """Return the pages that failed at the last try, those that keep an earlier reading too."""
        return self._select("error IS NOT NULL ORDER BY uri, page_number")

    def nodes(self) -> Iterator[tuple[str, list[str], bool]]:
        """Yield page id, node ids, and whether the page is finished, without loading any text."""
        with self._guard("read"):
            rows = self.db.execute("SELECT page_id, node_ids, indexed_as IS NOT NULL FROM pages").fetchall()
        for page_id, node_ids, is_finished in rows:
            yield page_id, json.loads(node_ids), bool(is_finished)

    def node_ids(self, numbers: Iterable[int]) -> list[str]:
        """Return the ids of all nodes that Chroma may hold of these pages."""
        found = self._column(
            "SELECT node_ids FROM pages WHERE id IN (SELECT value FROM json_each(?))", to_json(sorted(numbers))
        )
        return [node_id for ids in found for node_id in json.loads(ids)]

    def numbers(self, page_ids: Iterable[str]) -> dict[str, int]:
        """Return the numbers of pages by id, unknown ones left out."""
        with self._guard("read"):
            return dict(
                self.db.execute(
                    "SELECT page_id, id FROM pages WHERE page_id IN (SELECT value FROM json_each(?))",
                    (to_json(list(page_ids)),),
                )
            )

    def count_pages(self) -> int:
        """Count all pages."""
        with self._guard("read"):
            return int(self.db.execute("SELECT count(*) FROM pages").fetchone()[0])

    def count_failed(self) -> int:
        """Count the pages and the files that failed at the last try, without loading any."""
        with self._guard("read"):
            counts = [
                self.db.execute(f"SELECT count(*) FROM {table} WHERE error IS NOT NULL").fetchone()[0]  # noqa: S608
                for table in ("pages", "places")
            ]
        return sum(counts)

    def count_by_status(self) -> dict[str, int]:
        """Count pages by status."""
        with self._guard("read"):
            return dict(self.db.execute("SELECT status, count(*) FROM pages GROUP BY status ORDER BY 1").fetchall())

    def meant(self, filter_: Filter) -> set[int] | None:
        """Return the numbers of the pages that a filter means; None: all."""
        with self._guard("read"):
            return filters.meant(self.db, filter_)

    def metadata_keys(self) -> set[str]:
        """Return the keys that any page has."""
        with self._guard("read"):
            return filters.keys(self.db)

    def metadata_values(self, key: str) -> list[str]:
        """Return the different values of one key, as text."""
        with self._guard("read"):
            return [str(value) for value in filters.values(self.db, key)]

    def values_of_pages(self, key: str) -> list[tuple[str, Any]]:
        """Return the id of each page that has this key in its metadata, with the value."""
        with self._guard("read"):
            numbered = list(filters.pages_by_value(self.db, key))
            ids = dict(
                self.db.execute(
                    "SELECT id, page_id FROM pages WHERE id IN (SELECT value FROM json_each(?))",
                    (to_json([number for _, number in numbered]),),
                )
            )
        return [(ids[number], value) for value, number in numbered]

    def with_contents_of(self, page_ids: Sequence[str]) -> list[str]:
        """Return the ids of all pages that hold, byte for byte, what one of these holds."""
        return self._column(
            "SELECT page_id FROM pages WHERE content_sha256 IN "
            "(SELECT content_sha256 FROM pages WHERE page_id IN (SELECT value FROM json_each(?)) "
            "AND content_sha256 != '')",
            to_json(list(page_ids)),
        )

    def equal_contents(self) -> list[list[str]]:
        """Return the ids of pages that hold the same byte for byte, in lists of two and more."""
        found = self._column(
            "SELECT json_group_array(page_id) FROM pages WHERE content_sha256 != '' "
            "GROUP BY content_sha256 HAVING count(*) > 1"
        )
        return [json.loads(ids) for ids in found]

    def copied(self) -> list[str]:
        """Return the id of the first page of every content that lies in several places."""
        return self._column(
            "SELECT page_id FROM pages JOIN (SELECT sha256, min(page_number) AS page_number FROM pages "
            "WHERE sha256 IN (SELECT sha256 FROM places WHERE sha256 != '' GROUP BY sha256 HAVING count(*) > 1) "
            "GROUP BY sha256) USING (sha256, page_number)"
        )

    def correction(self, content_sha256: str) -> corrections.Correction | None:
        """Return the correction of a page's content."""
        with self._guard("read"):
            return corrections.find(self.db, content_sha256)

    def count_corrections(self) -> int:
        """Count the contents that were corrected."""
        with self._guard("read"):
            return corrections.count(self.db)

    def as_it_stands(self, row: PageRow) -> PageRow:
        """Return a page with its correction, if there is one now, else as it was read."""
        with self._guard("read"):
            return corrections.as_it_stands(self.db, row)

    def _select(self, where: str, *values: object) -> list[PageRow]:
        with self._guard("read"):
            rows = self.db.execute(f"SELECT {PAGE_COLUMNS} FROM pages WHERE {where}", values).fetchall()  # noqa: S608
        return [to_page(row) for row in rows]


log = logging.getLogger(__name__)
_PUT_PAGE: Final = (
    f"INSERT INTO pages ({PAGE_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (page_id) "  # noqa: S608
    f"DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in PAGE_COLUMNS.split(', '))}"
)


class Catalog(PlaceTable, PageTable):
    """archive.sqlite of one archive; safe to use from several threads.

    Raises:
        StoreError: The file cannot be opened or written, or was made by a newer release.
    """

    def begin(self, rows: Iterable[PageRow]) -> list[PageRow]:
        """Step 1: write rows as unfinished, with every node id they have had or will have; returns them so."""
        with self.transaction() as db:
            return self._begin(db, rows)

    def _begin(self, db: sqlite3.Connection, rows: Iterable[PageRow]) -> list[PageRow]:
        begun: list[PageRow] = []
        for row in rows:
            old = db.execute("SELECT node_ids FROM pages WHERE page_id = ?", (row.page_id,)).fetchone()
            ids = tuple(dict.fromkeys([*(json.loads(old[0]) if old else ()), *row.node_ids]))
            begun.append(replace(row, node_ids=ids, indexed_as=None))
            self._put(db, begun[-1])
        return begun

    def finish(self, rows: Iterable[PageRow]) -> None:
        """Step 3: words, final node ids, `indexed_as`, and a new generation, in one transaction.

        A page that was corrected since step 1 stays unfinished, with the new text and its words.
        """
        with self.transaction() as db:
            for row in rows:
                now = corrections.as_it_stands(db, row)
                self._put(db, replace(now, indexed_as=row.version if now == row else None))
                self._put_words(db, now)
            self._next_generation(db)

    def correct(self, texts: Mapping[str, str | None], origin: str = "") -> int:
        """Record corrections, with the rows and words of all pages concerned; their vectors are due from then on.

        Needs no writer's lock: a run that is indexing one of these pages at this moment leaves it unfinished.

        Args:
            texts: By page id; None, or what was read itself, takes a correction back.
            origin: The file that they come from.

        Returns:
            How many pages' corrections changed.
        """
        changed: set[str] = set()
        with self.transaction("correct") as db:
            for row in self.pages(list(texts)):
                new = texts[row.page_id]
                text = None if new is None else corrections.clean(new)
                kept = corrections.find(db, row.content_sha256)
                if text is None or corrections.is_as_read(row, text):
                    if not corrections.delete(db, row.content_sha256):
                        continue
                elif kept is not None and (kept.text, kept.origin) == (text, origin):
                    continue
                else:
                    corrections.put(db, row.content_sha256, text, origin)
                changed.add(row.content_sha256)
            rows = [
                corrections.as_it_stands(db, row)
                for row in self._select("content_sha256 IN (SELECT value FROM json_each(?))", to_json(sorted(changed)))
            ]
            for row in self._begin(db, rows):
                self._put_words(db, row)
            if rows:
                self._next_generation(db)
        return len(changed)

    def forget(
        self, uris: Iterable[str], contents: Iterable[str] = (), is_known: Callable[[str], bool] = lambda _: False
    ) -> int:
        """Remove places, and pages whose last place went, with their words and corrections.

        What was removed is still readable in the bytes: `is_erasing` until `erase_deleted`.

        Args:
            uris: The places.
            contents: Of pages that are to be forgotten with their corrections, beside those that lie there.
            is_known: Whether another file has such a content, one that was pruned too; that keeps its correction.

        Returns:
            How many pages went.
        """
        with self._guard("forget"):
            self.db.execute("PRAGMA secure_delete=ON")
        with self.transaction("forget") as db:
            gone = [db.execute("DELETE FROM places WHERE uri = ?", (uri,)).rowcount for uri in uris]
            orphans = db.execute(f"SELECT page_id, content_sha256 FROM pages WHERE {ORPHANED}").fetchall()  # noqa: S608
            for page_id, _ in orphans:
                self._remove(db, page_id)
            gone += [
                corrections.delete(db, content)
                for content in {*contents, *(content for _, content in orphans)}
                if not is_known(content) and not self._is_shown(db, content)
            ]
            if any(gone) or orphans:
                db.execute("INSERT OR REPLACE INTO meta VALUES ('erasing', '1')")
                self._next_generation(db)
        return len(orphans)

    @staticmethod
    def _is_shown(db: sqlite3.Connection, content_sha256: str) -> bool:
        return bool(db.execute("SELECT 1 FROM pages WHERE content_sha256 = ?", (content_sha256,)).fetchone())

    @property
    def is_erasing(self) -> bool:
        """Whether something was removed that may still be readable in the bytes of the archive's files."""
        return self.meta("erasing") is not None

    def erase_deleted(self) -> None:
        """Write the file anew without anything deleted; the last step of forgetting."""
        with self._guard("forget"):
            words.compact(self.db)
            self.db.execute("VACUUM")
            is_busy, *_ = self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if is_busy:
            log.warning("another process is using %s: the next run erases what was forgotten from its bytes", self.path)
            return
        with self.transaction("forget") as db:
            db.execute("DELETE FROM meta WHERE key = 'erasing'")
            self._next_generation(db)

    def remove_pages(self, page_ids: Iterable[str]) -> None:
        """Remove pages with their words; their nodes have gone before."""
        with self.transaction() as db:
            for page_id in page_ids:
                self._remove(db, page_id)
            self._next_generation(db)

    @staticmethod
    def _remove(db: sqlite3.Connection, page_id: str) -> None:
        words.delete(db, page_id)
        found = db.execute("SELECT id, metadata FROM pages WHERE page_id = ?", (page_id,)).fetchone()
        if found:  # else it went before
            filters.delete(db, found[0], json.loads(found[1]))
            db.execute("DELETE FROM pages WHERE id = ?", (found[0],))

    @staticmethod
    def _put(db: sqlite3.Connection, row: PageRow) -> None:
        old = db.execute("SELECT id, metadata FROM pages WHERE page_id = ?", (row.page_id,)).fetchone()
        metadata = to_json(row.metadata)
        put = db.execute(
            _PUT_PAGE,
            (
                row.page_id,
                row.sha256,
                row.page_number,
                row.status,
                to_json(row.parts),
                row.version,
                metadata,
                row.uri,
                to_json(row.node_ids),
                row.indexed_as,
                row.error,
                row.content_sha256,
                None if row.as_read is None else to_json(row.as_read),
            ),
        )
        if old is None:
            filters.put(db, put.lastrowid or 0, row.metadata)
        elif old[1] != metadata:
            filters.delete(db, old[0], json.loads(old[1]))
            filters.put(db, old[0], row.metadata)

    @staticmethod
    def _put_words(db: sqlite3.Connection, row: PageRow) -> None:
        if row.status in {"failed", "blank"}:
            words.delete(db, row.page_id)
        else:
            number = db.execute("SELECT id FROM pages WHERE page_id = ?", (row.page_id,)).fetchone()[0]
            words.put(db, row.page_id, text=row.text, names=row.names, number=number)
