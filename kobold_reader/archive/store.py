"""archive.sqlite: which files the archive knows, where they are, what their pages hold, and what is indexed.

Its rows say what should be indexed; Chroma and the words follow. A page is indexed in three steps, and a kill between
any two of them leaves it completable: (1) `begin` writes its row with `indexed_as` NULL and every node id it may have,
(2) Chroma, (3) `finish` writes words, `indexed_as` and a new generation in one transaction.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from kobold_reader.archive import corrections, filters, tags, words
from kobold_reader.archive.filters import Filter
from kobold_reader.archive.query import FOLDING
from kobold_reader.archive.rows import (
    PAGE_COLUMNS,
    PLACE_COLUMNS,
    UNREAD,
    PageOutline,
    PageRow,
    Place,
    from_row,
    to_json,
    to_row,
)
from kobold_reader.border import is_of_one_row, of_one_page
from kobold_reader.errors import StoreError, UnexpectedError, reason
from kobold_reader.files import (
    ReadOnlyDatabase,
    connect_read_only,
    is_writable,
    says_not_writable,
    transaction,
    use_wal,
    wal_of,
    write_anew,
)

log = logging.getLogger(__name__)

FORMAT: Final = 4
OTHER_FOLDER: Final = "Name another folder with --archive."
_SCHEMA: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE roots (path TEXT PRIMARY KEY, settings TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE places (
    id INTEGER PRIMARY KEY, uri TEXT NOT NULL UNIQUE, sha256 TEXT NOT NULL, metadata TEXT NOT NULL,
    is_missing INTEGER NOT NULL DEFAULT 0, error TEXT, former_sha256 TEXT NOT NULL DEFAULT '',
    settled TEXT NOT NULL DEFAULT '');
CREATE INDEX places_by_sha256 ON places (sha256);
CREATE TABLE pages (
    id INTEGER PRIMARY KEY, page_id TEXT NOT NULL UNIQUE, node_ids TEXT NOT NULL, sha256 TEXT NOT NULL,
    page_number INTEGER NOT NULL, status TEXT NOT NULL, parts TEXT NOT NULL, version TEXT NOT NULL,
    metadata TEXT NOT NULL, uri TEXT NOT NULL, indexed_as TEXT, error TEXT,
    content_sha256 TEXT NOT NULL DEFAULT '', as_read TEXT);
CREATE INDEX pages_by_content ON pages (content_sha256);
CREATE INDEX pages_by_sha256 ON pages (sha256, page_number);
CREATE INDEX pages_to_finish ON pages (page_id) WHERE indexed_as IS NULL;
CREATE INDEX pages_failed ON pages (uri, page_number) WHERE error IS NOT NULL;
CREATE INDEX places_failed ON places (uri) WHERE error IS NOT NULL;
"""
_TAGGED: Final = "json_extract(parts, '$.tags') IS NOT NULL"
"""Pages that the model has tagged."""
_ORPHANED: Final = (
    "sha256 IN (SELECT sha256 FROM pages EXCEPT SELECT sha256 FROM places EXCEPT SELECT former_sha256 FROM places)"
)
"""Pages of contents that no place has any more; SQLite finds them in the index of contents, without any page."""
_RENEWED_AT_ONCE: Final = 500
_IN_LIST: Final = "IN (SELECT value FROM json_each(?))"


def _upsert(table: str, columns: str, key: str, also: str = "") -> str:
    names = columns.split(", ")
    new = ", ".join(f"{name} = excluded.{name}" for name in names)
    return (
        f"INSERT INTO {table} ({columns}) VALUES ({', '.join('?' * len(names))}) "  # noqa: S608
        f"ON CONFLICT ({key}) DO UPDATE SET {new}{also}"
    )


_PUT_PLACE: Final = _upsert("places", PLACE_COLUMNS, "uri", ", settled = ''")
_PUT_PAGE: Final = _upsert("pages", PAGE_COLUMNS, "page_id")


class Catalog:
    """An open archive.sqlite; safe to use from several threads.

    Where nothing may be written (`is_read_only`), it is read as it is; where another user writes, it is opened again
    once it has changed.

    Raises:
        StoreError: The file cannot be opened or written, or its format is not of this release.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self.is_read_only = path.is_file() and not is_writable(path)
        self._seen: list[tuple[int, int]] = []
        with self._errors("open"):
            self.db = self._connect()
            try:
                self._prepare()
            except sqlite3.OperationalError as err:
                self.db.close()
                if self.is_read_only or not says_not_writable(err) or not path.is_file():
                    raise
                self.is_read_only = True
                self.db = self._connect()
                self._prepare()
            except BaseException:
                self.db.close()
                raise
        if self.is_read_only and self.meta("folding") != str(FOLDING):
            log.warning(
                "%s is read-only, and another release of kobold-reader made its words: accents and signs of some "
                "scripts are looked for as that release did, and what people wrote into photos may not be found.",
                path.parent,
            )

    def _connect(self) -> sqlite3.Connection:
        if self.is_read_only:
            self._seen = self._state()
            try:
                return connect_read_only(self.path)
            except OSError as err:
                raise StoreError(
                    f"the archive's file {self.path} cannot be copied to a temporary folder: {reason(err)}.",
                    hint="A killed run left it unfinished. Make room there, or name another folder in TMPDIR.",
                ) from err
        return sqlite3.connect(self.path, check_same_thread=False, isolation_level=None, timeout=30)

    def _state(self) -> list[tuple[int, int]]:
        """What changes when anybody writes the file."""
        found = []
        for file in (self.path, wal_of(self.path)):
            with suppress(OSError):
                found.append(((stat := file.stat()).st_mtime_ns, stat.st_size))
        return found

    def _look_again(self) -> None:
        """Open the file again if it has changed under a connection that does not see that."""
        is_frozen = isinstance(self.db, ReadOnlyDatabase) and self.db.is_frozen
        if is_frozen and not self.db.in_transaction and self._state() != self._seen:
            self.db.close()
            self.db = self._connect()

    def refuse_changes(self) -> None:
        """Raise StoreError where the archive is read-only."""
        if self.is_read_only:
            raise StoreError(
                f"the archive {self.path.parent} is read-only here: it can be searched and shown, not changed.",
                hint="To change it, copy the folder to a place of your own, and name that with --archive.",
            )

    def _prepare(self) -> None:
        found = self._format()
        if found == 0 and self.is_read_only:
            raise StoreError(
                f"the archive {self.path.parent} is read-only, and the run that made it was killed before it began.",
                hint="Copy the folder to a place of your own and index its paths there.",
            )
        if found not in {0, FORMAT}:
            folder = self.path.parent
            newer = "Update kobold-reader, or make" if found > FORMAT else "Make"
            raise StoreError(
                f"the archive {folder} has format {found}; this release of kobold-reader reads format {FORMAT} only.",
                hint=f"{newer} the archive anew: remove {self.path.name} and the folder chroma in {folder}, then index "
                "its paths again. Its ledger stays, so no page is read again. Corrections are in the file removed: "
                "`export` of the release that made it saves them.",
            )
        if self.is_read_only:
            return
        self.db.execute("PRAGMA synchronous=FULL")
        use_wal(self.db)
        if found == FORMAT:
            return
        with self.transaction("create"):
            if self._format():  # another process was faster
                return
            for statement in _SCHEMA.split(";"):
                self.db.execute(statement)
            words.create(self.db)
            corrections.create(self.db)
            filters.create(self.db)
            self.db.execute("INSERT INTO meta VALUES ('folding', ?)", (str(FOLDING),))
            self.db.execute(f"PRAGMA user_version={FORMAT}")

    def _format(self) -> int:
        # One statement sees one state of the file, also while another process makes it.
        query = "SELECT user_version, (SELECT count(*) FROM sqlite_master) FROM pragma_user_version"
        version, tables = self.db.execute(query).fetchone()
        if tables and not version:
            raise StoreError(f"{self.path} was made by another program, not by kobold-reader.", hint=OTHER_FOLDER)
        return int(version)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self.db.close()

    @contextmanager
    def _guard(self, doing: str) -> Iterator[sqlite3.Connection]:
        """Hold the connection while other threads wait."""
        with self._lock, self._errors(doing):
            self._look_again()
            yield self.db

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as err:
            if is_of_one_row(err):
                raise
            if "not a database" in str(err):
                message = f"{self.path} is damaged, or was made by another program."
                raise StoreError(message, hint=f"{OTHER_FOLDER} Or restore a copy of it.") from err
            raise StoreError(
                f"the archive's file {self.path} cannot be used ({doing}): {err}.",
                hint="Check that its folder can be written and the disk is not full.",
            ) from err

    @contextmanager
    def transaction(self, doing: str = "write") -> Iterator[sqlite3.Connection]:
        """Hold a write transaction; committed at the end, rolled back on any exception."""
        self.refuse_changes()
        with self._guard(doing) as db, transaction(db):
            yield db

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Hold one consistent view of the file."""
        with self._guard("read") as db:
            db.execute("BEGIN")
            try:
                yield db
            finally:
                db.execute("COMMIT")

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._guard("read") as db:
            return db.execute(query, values).fetchall()

    def _column(self, query: str, *values: object) -> list[Any]:
        return [value for (value,) in self._rows(query, *values)]

    def _change(self, query: str, values: Iterable[tuple[object, ...]], doing: str = "write") -> None:
        with self.transaction(doing) as db:
            db.executemany(query, values)

    # ── settings and generation ──────────────────────────────────────────────────────────────────

    def meta(self, key: str) -> str | None:
        """Return a remembered setting of the archive."""
        return next(iter(self._column("SELECT value FROM meta WHERE key = ?", key)), None)

    def set_meta(self, key: str, value: str) -> None:
        """Remember a setting of the archive."""
        self._change("INSERT OR REPLACE INTO meta VALUES (?, ?)", [(key, value)])

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

    # ── roots and places ─────────────────────────────────────────────────────────────────────────

    def roots(self) -> dict[str, dict[str, Any]]:
        """Return the paths of past runs with the settings they were read with."""
        rows = self._rows("SELECT path, settings FROM roots ORDER BY path")
        return {path: json.loads(settings) for path, settings in rows}

    def remember_root(self, path: str, settings: Mapping[str, Any]) -> None:
        """Remember a path and the settings it is read with."""
        self._change("INSERT OR REPLACE INTO roots VALUES (?, ?)", [(path, to_json(settings))])

    def forget_root(self, path: str) -> None:
        """Forget that this path was ever read."""
        self._change("DELETE FROM roots WHERE path = ?", [(path,)], "forget")

    def places(self) -> dict[str, Place]:
        """Return all places by URI, in the order in which they came."""
        return {place.uri: place for place in self._places("1 ORDER BY id")}

    def places_of(self, sha256: str) -> list[Place]:
        """Return the places of a content; first that by which it is shown: the oldest one not missing, if any."""
        return self._places("sha256 = ? ORDER BY is_missing, id", sha256)

    def copies(self) -> dict[str, int]:
        """Return the number of places of each page that has several, by page id."""
        return dict(
            self._rows(
                "SELECT page_id, number FROM pages JOIN (SELECT sha256, count(*) AS number FROM places "
                "WHERE sha256 != '' GROUP BY sha256 HAVING number > 1) USING (sha256)"
            )
        )

    def failed_places(self) -> list[Place]:
        """Return the places of files that could not be opened."""
        return self._places("error IS NOT NULL ORDER BY id")

    def missing_places(self) -> list[Place]:
        """Return the places of files that are gone."""
        return self._places("is_missing = 1 ORDER BY id")

    def first_place(self, sha256: str) -> Place | None:
        """Return the place by which a content is shown."""
        return next(iter(self.places_of(sha256)), None)

    def _places(self, where: str, *values: object) -> list[Place]:
        query = f"SELECT {PLACE_COLUMNS} FROM places WHERE {where}"  # noqa: S608
        return [from_row(Place, row) for row in self._rows(query, *values)]

    def put_place(self, place: Place) -> None:
        """Record where a content is; a place keeps its rank among the places of its content and loses its stamp."""
        self._change(_PUT_PLACE, [to_row(place)])

    def mark_missing(self, uris: Iterable[str]) -> None:
        """Mark places as missing; they are still found, and lose their stamps."""
        with self.transaction() as db:
            db.executemany("UPDATE places SET is_missing = 1, settled = '' WHERE uri = ?", [(uri,) for uri in uris])
            self._next_generation(db)

    def stamps(self) -> dict[str, str]:
        """Return the stamps of files for which nothing is left to do, by URI."""
        return dict(self._rows("SELECT uri, settled FROM places WHERE settled != ''"))

    def put_stamps(self, stamps: Mapping[str, str]) -> None:
        """Stamp files; "" takes a stamp away."""
        self._change("UPDATE places SET settled = ? WHERE uri = ?", [(text, uri) for uri, text in stamps.items()])

    def remove_places(self, uris: Iterable[str]) -> None:
        """Remove places; pages whose last place went are orphans from then on."""
        self._change("DELETE FROM places WHERE uri = ?", [(uri,) for uri in uris])

    # ── pages, read ──────────────────────────────────────────────────────────────────────────────

    def page(self, page_id: str) -> PageRow | None:
        """Return one page."""
        return next(iter(self.pages([page_id])), None)

    def pages(self, page_ids: Sequence[str]) -> list[PageRow]:
        """Return pages by id, unknown ones left out, in the order of the ids."""
        found = {row.page_id: row for row in self._select(f"page_id {_IN_LIST}", to_json(list(page_ids)))}
        return [found[page_id] for page_id in page_ids if page_id in found]

    def pages_of(self, sha256: str) -> list[PageRow]:
        """Return the pages of a file's content in page order."""
        return self._select("sha256 = ? ORDER BY page_number", sha256)

    def pages_at(self, uri: str) -> list[PageRow]:
        """Return the pages that are shown at a place, in page order."""
        return self._select("uri = ? ORDER BY sha256, page_number", uri)

    def every_page(self) -> Iterator[PageRow]:
        """Yield all pages by file and page number."""
        yield from self._select("1 ORDER BY uri, page_number")

    def outlines(self, length: int) -> Iterator[PageOutline]:
        """Yield all pages by file and page number, of each text the first `length` characters."""
        rows = self._rows(
            "SELECT page_id, uri, page_number, status, metadata, "
            "(SELECT json_group_object(key, substr(value, 1, ?)) FROM json_each(pages.parts)) "
            "FROM pages ORDER BY uri, page_number",
            length,
        )
        for page_id, uri, page_number, status, metadata, parts in rows:
            yield PageOutline(page_id, uri, page_number, status, json.loads(metadata), json.loads(parts))

    def unfinished(self) -> list[PageRow]:
        """Return pages whose indexing was begun and not finished, with their corrections."""
        with self._guard("read") as db:
            rows = self._select("indexed_as IS NULL ORDER BY sha256, page_number")
            return [self._as_people_say(db, row) for row in rows]

    def unfinished_of(self, page_ids: Sequence[str]) -> list[PageRow]:
        """Return the unfinished pages that have the same content as these."""
        wanted = {row.content_sha256 for row in self.pages(page_ids) if row.content_sha256}
        return [row for row in self.unfinished() if row.content_sha256 in wanted]

    def orphans(self) -> list[PageRow]:
        """Return pages of contents that no place has any more."""
        return self._select(_ORPHANED)

    def pages_at_lost_places(self) -> list[PageRow]:
        """Return the pages that are shown at a place that is not known any more."""
        return self._select("uri NOT IN (SELECT uri FROM places)")

    def as_they_were_read(self, page_ids: Sequence[str]) -> Iterator[tuple[str, str, str, int, str]]:
        """Yield id, content, path, number and transcription of those of these pages that nobody corrected, in order."""
        yield from self._rows(
            "SELECT page_id, content_sha256, json_extract(metadata, '$.file_path'), page_number, "  # noqa: S608
            "coalesce(json_extract(parts, '$.ocr'), '') FROM json_each(?) CROSS JOIN pages ON page_id = value "
            f"WHERE as_read IS NULL AND status NOT IN {UNREAD}",
            to_json(list(page_ids)),
        )

    def failed(self, limit: int = -1) -> list[PageRow]:
        """Return the pages that failed at the last try, also those that keep an earlier reading; -1: all."""
        return self._select("error IS NOT NULL ORDER BY uri, page_number LIMIT ?", limit)

    def _select(self, where: str, *values: object) -> list[PageRow]:
        query = f"SELECT {PAGE_COLUMNS} FROM pages WHERE {where}"  # noqa: S608
        return [from_row(PageRow, row) for row in self._rows(query, *values)]

    def uris_of_pages(self) -> list[str]:
        """Return the URIs at which pages are shown."""
        return self._column("SELECT DISTINCT uri FROM pages")

    def nodes(self) -> Iterator[tuple[str, list[str], bool]]:
        """Yield page id, node ids, and whether the page is finished, without loading any text."""
        for page_id, node_ids, is_finished in self._rows("SELECT page_id, node_ids, indexed_as IS NOT NULL FROM pages"):
            yield page_id, json.loads(node_ids), bool(is_finished)

    def node_ids(self, numbers: Iterable[int]) -> list[str]:
        """Return the ids of all nodes that Chroma may have of these pages."""
        found = self._column(f"SELECT node_ids FROM pages WHERE id {_IN_LIST}", to_json(sorted(numbers)))  # noqa: S608
        return [node_id for ids in found for node_id in json.loads(ids)]

    def numbers(self, page_ids: Iterable[str]) -> dict[str, int]:
        """Return the numbers of pages by id, unknown ones left out."""
        return dict(self._rows(f"SELECT page_id, id FROM pages WHERE page_id {_IN_LIST}", to_json(list(page_ids))))  # noqa: S608

    def indexed_contents(self) -> set[str]:
        """Return the contents of all pages that are indexed."""
        return set(self._column("SELECT DISTINCT content_sha256 FROM pages WHERE indexed_as IS NOT NULL"))

    def count_places(self) -> int:
        """Count the files, each at each of its places."""
        return self._count("places")

    def count_unfinished(self) -> int:
        """Count the pages whose indexing was begun and not finished."""
        return self._count("pages WHERE indexed_as IS NULL")

    def count_pages(self) -> int:
        """Count all pages."""
        return self._count("pages")

    def count_failed(self) -> int:
        """Count the pages and the files that failed at the last try, without loading any."""
        return self._count("pages WHERE error IS NOT NULL") + self._count("places WHERE error IS NOT NULL")

    def count_corrections(self) -> int:
        """Count the contents that were corrected."""
        return self._count("corrections")

    def _count(self, rows: str) -> int:
        return int(self._column(f"SELECT count(*) FROM {rows}")[0])  # noqa: S608

    def has_read_pages(self) -> bool:
        """Tell whether any page was read, even if it is known to be empty."""
        return bool(self._rows(f"SELECT 1 FROM pages WHERE status NOT IN {UNREAD} LIMIT 1"))  # noqa: S608

    def count_by_status(self) -> dict[str, int]:
        """Count pages by status."""
        return dict(self._rows("SELECT status, count(*) FROM pages GROUP BY status ORDER BY 1"))

    def meant(self, filter_: Filter) -> set[int] | None:
        """Return the numbers of the pages that pass a filter; None: all."""
        with self._guard("read") as db:
            return filters.meant(db, filter_)

    def metadata_keys(self) -> set[str]:
        """Return the keys that any page has."""
        with self._guard("read") as db:
            return filters.keys(db)

    def metadata_values(self, key: str) -> list[str]:
        """Return the different values of one key, as text."""
        return list(map(str, self._column("SELECT value FROM facet_values WHERE key = ?", key)))

    def values_of_pages(self, key: str) -> list[tuple[str, Any]]:
        """Return the id of each page that has this key in its metadata, with the value."""
        return self._rows(
            "SELECT page_id, value FROM facet_values JOIN facet_pages ON value_id = facet_values.id "
            "JOIN pages ON pages.id = page WHERE key = ?",
            key,
        )

    def with_contents_of(self, page_ids: Sequence[str]) -> list[str]:
        """Return the ids of all pages that have, byte for byte, the content of one of these."""
        return self._column(
            "SELECT page_id FROM pages WHERE content_sha256 IN (SELECT content_sha256 FROM pages "
            "WHERE page_id IN (SELECT value FROM json_each(?)) AND content_sha256 != '')",
            to_json(list(page_ids)),
        )

    def equal_contents(self) -> list[list[str]]:
        """Return the ids of pages that have the same content byte for byte, in lists of two and more."""
        found = self._column(
            "SELECT json_group_array(page_id) FROM pages WHERE content_sha256 != '' "
            "GROUP BY content_sha256 HAVING count(*) > 1"
        )
        return [json.loads(ids) for ids in found]

    def copied(self) -> list[str]:
        """Return the id of the first page of every content that is in several places."""
        return self._column(
            "SELECT page_id FROM pages JOIN (SELECT sha256, min(page_number) AS page_number FROM pages "
            "WHERE sha256 IN (SELECT sha256 FROM places WHERE sha256 != '' GROUP BY sha256 HAVING count(*) > 1) "
            "GROUP BY sha256) USING (sha256, page_number)"
        )

    def correction(self, content_sha256: str) -> corrections.Correction | None:
        """Return the correction of a page's content."""
        with self._guard("read") as db:
            return corrections.find(db, content_sha256)

    def as_people_say(self, row: PageRow) -> PageRow:
        """Return a page with its correction, if there is one now, else as it was read; its tags as they are named."""
        with self._guard("read") as db:
            return self._as_people_say(db, row)

    @staticmethod
    def _as_people_say(db: sqlite3.Connection, row: PageRow) -> PageRow:
        return tags.renamed(corrections.applied(db, row), tags.rules(db))

    def keywords(self) -> Iterator[tuple[str, str]]:
        """Yield of each page that has any: the keywords that people wrote, and the text of the model's tags."""
        sources = dict(self.values_of_pages("keywords_source"))
        written = {one: text for one, text in self.values_of_pages("keywords") if sources.get(one) != "model"}
        tagged = {row.page_id: row.parts[tags.PART] for row in self._select(_TAGGED)}
        for page_id in written | tagged:
            yield written.get(page_id, ""), tagged.get(page_id, "")

    # ── pages, written ───────────────────────────────────────────────────────────────────────────

    def begin(self, rows: Iterable[PageRow]) -> list[PageRow]:
        """Step 1: write rows as unfinished, with every node id they have had or will have; returns them so."""
        with self.transaction() as db:
            return [self._begin(db, row) for row in rows]

    def _begin(self, db: sqlite3.Connection, row: PageRow) -> PageRow:
        old = db.execute("SELECT node_ids FROM pages WHERE page_id = ?", (row.page_id,)).fetchone()
        ids = tuple(dict.fromkeys([*(json.loads(old[0]) if old else ()), *row.node_ids]))
        begun = replace(row, node_ids=ids, indexed_as=None)
        self._put(db, begun)
        return begun

    def finish(self, rows: Iterable[PageRow]) -> None:
        """Step 3: words, final node ids, `indexed_as`, and a new generation, in one transaction.

        A page that was corrected since step 1 stays unfinished, with the new text and its words.
        """
        with self.transaction() as db:
            for row in rows:
                now = self._as_people_say(db, row)
                self._put(db, replace(now, indexed_as=row.version if now == row else None))
                self._put_words(db, now)
            self._next_generation(db)

    def renew_words(self) -> None:
        """Make the words anew from the texts kept, if another release folded them otherwise; only for the writer.

        A kill leaves some pages with new words and some with old ones; the next writer begins again.
        """
        if self.meta("folding") == str(FOLDING):
            return
        numbers = self._column("SELECT id FROM pages ORDER BY id")
        if numbers:
            log.warning("the index of words of %d pages is made anew, as this release makes it otherwise", len(numbers))
        for start in range(0, len(numbers), _RENEWED_AT_ONCE):
            some = to_json(numbers[start : start + _RENEWED_AT_ONCE])
            with self.transaction() as db:
                for row in self._select(f"id {_IN_LIST}", some):
                    db.execute("SAVEPOINT page")
                    try:
                        with of_one_page("indexing its words", row.path, row.page_number):
                            self._put_words(db, row)
                    except UnexpectedError as err:
                        db.execute("ROLLBACK TO page")
                        log.warning("%s", err)
                    db.execute("RELEASE page")
                self._next_generation(db)
        self.set_meta("folding", str(FOLDING))

    def leave_unfinished(self, row: PageRow) -> None:
        """Record a page that cannot be indexed now, with its error; it is found by its words, and tried again."""
        with self.transaction() as db:
            self._begin(db, row)
            self._next_generation(db)
        with self.transaction() as db:  # of its own: the words may be what fails
            self._put_words(db, row)

    def correct(self, texts: Mapping[str, str | None], origin: str = "") -> int:
        """Record corrections, with the rows and words of all pages concerned; returns how many corrections changed.

        `texts` are by page id; None, or the text as it was read, takes a correction back. `origin` is the file that
        they come from. The vectors of these pages are due from then on. Needs no writer's lock: a run that is indexing
        one of these pages at this moment leaves it unfinished.
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
            concerned = self._select(f"content_sha256 {_IN_LIST}", to_json(sorted(changed)))
            for row in concerned:
                self._put_words(db, self._begin(db, corrections.applied(db, row)))
            if concerned:
                self._next_generation(db)
        return len(changed)

    def rename_tags(self, names: Mapping[str, str]) -> list[str]:
        """Record new names of tags, with the rows and words of all pages that have them; returns the pages' ids.

        As with `correct`, the vectors of these pages are due, and no writer's lock is needed.
        """
        with self.transaction("rename tags") as db:
            known = tags.put_rules(db, names)
            tagged = self._select(_TAGGED)
            changed = [row for old in tagged if (row := tags.renamed(old, known)) is not old]
            for row in changed:
                self._put_words(db, self._begin(db, row))
            if changed:
                self._next_generation(db)
        return [row.page_id for row in changed]

    def forget(
        self, uris: Iterable[str], contents: Iterable[str] = (), is_known: Callable[[str], bool] = lambda _: False
    ) -> int:
        """Remove places, and pages whose last place went, with their words and corrections; returns how many pages.

        What was removed is still readable in the bytes: `is_erasing` until `erase_deleted`. Corrections of further
        `contents` are removed too. Where `is_known` tells that another file has a content, also a pruned one, the
        content keeps its correction.
        """
        with self._guard("forget") as db:
            db.execute("PRAGMA secure_delete=ON")
        with self.transaction("forget") as db:
            gone = [db.execute("DELETE FROM places WHERE uri = ?", (uri,)).rowcount for uri in uris]
            orphans = db.execute(f"SELECT page_id, content_sha256 FROM pages WHERE {_ORPHANED}").fetchall()  # noqa: S608
            for page_id, _ in orphans:
                self._remove(db, page_id)
            gone += [
                corrections.forget(db, content)
                for content in {*contents, *(content for _, content in orphans)}
                if not is_known(content)
                and not db.execute("SELECT 1 FROM pages WHERE content_sha256 = ?", (content,)).fetchone()
            ]
            if any(gone) or orphans:
                db.execute("INSERT OR REPLACE INTO meta VALUES ('erasing', '1')")
                self._next_generation(db)
        return len(orphans)

    @property
    def is_erasing(self) -> bool:
        """Whether something was removed that may still be readable in the bytes of the archive's files."""
        return self.meta("erasing") is not None

    def erase_deleted(self) -> None:
        """Write the file anew without anything deleted; the last step of forgetting."""
        with self._guard("forget") as db:
            words.compact(db)
            is_erased = write_anew(db)
        if not is_erased:
            log.warning("another process is using %s: the next run erases what was forgotten from its bytes", self.path)
            return
        with self.transaction("forget") as db:
            db.execute("DELETE FROM meta WHERE key = 'erasing'")
            self._next_generation(db)

    def remove_pages(self, page_ids: Iterable[str]) -> None:
        """Remove pages with their words; their nodes were removed before."""
        with self.transaction() as db:
            for page_id in page_ids:
                self._remove(db, page_id)
            self._next_generation(db)

    @staticmethod
    def _remove(db: sqlite3.Connection, page_id: str) -> None:
        words.delete(db, page_id)
        found = db.execute("SELECT id, metadata FROM pages WHERE page_id = ?", (page_id,)).fetchone()
        if found:  # else it was removed before
            filters.delete(db, found[0], json.loads(found[1]))
            db.execute("DELETE FROM pages WHERE id = ?", (found[0],))

    @staticmethod
    def _put(db: sqlite3.Connection, row: PageRow) -> None:
        old = db.execute("SELECT id, metadata FROM pages WHERE page_id = ?", (row.page_id,)).fetchone()
        put = db.execute(_PUT_PAGE, to_row(row))
        if old is None:
            filters.put(db, put.lastrowid or 0, row.metadata)
        elif old[1] != to_json(row.metadata):
            filters.delete(db, old[0], json.loads(old[1]))
            filters.put(db, old[0], row.metadata)

    @staticmethod
    def _put_words(db: sqlite3.Connection, row: PageRow) -> None:
        if row.status in {*UNREAD, "blank"}:
            words.delete(db, row.page_id)
        else:
            number = db.execute("SELECT id FROM pages WHERE page_id = ?", (row.page_id,)).fetchone()[0]
            words.put(db, row.page_id, text=row.text, names=row.names, number=number)
