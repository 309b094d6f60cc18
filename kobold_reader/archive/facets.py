"""Which pages have which metadata, inside the archive's own SQLite file.

Pages of one file mostly say the same, so each value is kept once, with the numbers of its pages: a filter asks hundreds
of values, not a hundred thousand pages. Nothing here begins or ends a transaction: facets are written with the rows
that they are of.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from kobold_reader.archive.where import DAY, Filter, day_of

__all__ = ["create", "delete", "keys", "meant", "pages_by_value", "put", "values"]

_TABLES: Final = (
    """CREATE TABLE IF NOT EXISTS facet_values (
        id INTEGER PRIMARY KEY, key TEXT NOT NULL, value NOT NULL, UNIQUE (key, value))""",
    """CREATE TABLE IF NOT EXISTS facet_pages (
        value_id INTEGER NOT NULL, page INTEGER NOT NULL, PRIMARY KEY (value_id, page)) WITHOUT ROWID""",
)
# CROSS JOIN: the page's few values come first, not the archive's many.
_OF_PAGE: Final = (
    "FROM json_each(?) AS given CROSS JOIN facet_values "
    "ON facet_values.key = given.key AND facet_values.value = given.value"
)


def create(db: sqlite3.Connection) -> None:
    """Make the tables where they are missing."""
    for statement in _TABLES:
        db.execute(statement)


def put(db: sqlite3.Connection, page: int, metadata: Mapping[str, Any]) -> None:
    """Record the metadata of a page that has none recorded.

    Args:
        db: The archive's connection, inside a transaction.
        page: Its number.
        metadata: Flat.
    """
    given = _described(metadata)
    db.execute(
        "INSERT OR IGNORE INTO facet_values (key, value) SELECT key, value FROM json_each(?) WHERE value IS NOT NULL",
        (given,),
    )
    db.execute(f"INSERT INTO facet_pages SELECT facet_values.id, ? {_OF_PAGE}", (page, given))


def delete(db: sqlite3.Connection, page: int, metadata: Mapping[str, Any]) -> None:
    """Take back what was recorded of a page; values that no other page has are forgotten."""
    found = db.execute(f"SELECT facet_values.id {_OF_PAGE}", (_described(metadata),)).fetchall()
    db.executemany("DELETE FROM facet_pages WHERE value_id = ? AND page = ?", [(number, page) for (number,) in found])
    db.executemany(
        "DELETE FROM facet_values WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM facet_pages WHERE value_id = ?1)", found
    )


def _described(metadata: Mapping[str, Any]) -> str:
    known = {**metadata, DAY: day_of(metadata)}
    # SQLite reads no NaN; what is no number is no fact either.
    said = {key: value for key, value in known.items() if not isinstance(value, float) or math.isfinite(value)}
    return json.dumps(said, ensure_ascii=False)


def keys(db: sqlite3.Connection) -> set[str]:
    """Return the keys that any page has."""
    found = db.execute(  # from key to key through the index, past all values
        "WITH RECURSIVE found (key) AS (SELECT min(key) FROM facet_values UNION ALL "
        "SELECT (SELECT min(key) FROM facet_values WHERE key > found.key) FROM found WHERE found.key IS NOT NULL) "
        "SELECT key FROM found WHERE key IS NOT NULL"
    )
    return {key for (key,) in found} - {DAY}


def values(db: sqlite3.Connection, key: str) -> list[Any]:
    """Return the different values of one key."""
    return [value for (value,) in db.execute("SELECT value FROM facet_values WHERE key = ?", (key,))]


def pages_by_value(db: sqlite3.Connection, key: str) -> Iterator[tuple[Any, int]]:
    """Yield the value and the number of each page that has this key."""
    yield from db.execute(
        "SELECT value, page FROM facet_values JOIN facet_pages ON value_id = facet_values.id WHERE key = ?", (key,)
    )


def meant(db: sqlite3.Connection, filter_: Filter) -> set[int] | None:
    """Return the numbers of the pages that a filter means; None: all."""
    found = [_pages_with(db, key, meets) for key, meets in filter_.questions()]
    return set.intersection(*found) if found else None


def _pages_with(db: sqlite3.Connection, key: str, meets: Callable[[Any], bool]) -> set[int]:
    every = db.execute("SELECT id, value FROM facet_values WHERE key = ?", (key,))
    chosen = json.dumps([number for number, value in every if meets(value)])
    pages = db.execute("SELECT page FROM facet_pages WHERE value_id IN (SELECT value FROM json_each(?))", (chosen,))
    return {page for (page,) in pages}
