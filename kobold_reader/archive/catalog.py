"""archive.sqlite: which files the archive knows, where they lie, what stands on their pages, what is indexed as what.

Rows are the truth about what *should* be indexed; Chroma and the words follow. A page goes through three steps, and a
kill between any two leaves it completable: (1) its row is written with `indexed_as` NULL and all node ids it may have,
(2) Chroma, (3) words, `indexed_as` and a new generation, in one transaction.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final

from kobold_reader.archive import corrections, facets, words
from kobold_reader.archive.page_table import ORPHANED, PageTable
from kobold_reader.archive.place_table import PlaceTable
from kobold_reader.archive.rows import FILE_KEYS, PAGE_COLUMNS, PageRow, Place, to_json

__all__ = ["FILE_KEYS", "Catalog", "PageRow", "Place"]

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
            facets.delete(db, found[0], json.loads(found[1]))
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
            facets.put(db, put.lastrowid or 0, row.metadata)
        elif old[1] != metadata:
            facets.delete(db, old[0], json.loads(old[1]))
            facets.put(db, old[0], row.metadata)

    @staticmethod
    def _put_words(db: sqlite3.Connection, row: PageRow) -> None:
        if row.status in {"failed", "blank"}:
            words.delete(db, row.page_id)
        else:
            number = db.execute("SELECT id FROM pages WHERE page_id = ?", (row.page_id,)).fetchone()[0]
            words.put(db, row.page_id, text=row.text, names=row.names, number=number)
