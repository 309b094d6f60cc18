"""archive.sqlite as earlier releases made it."""

from __future__ import annotations

import sqlite3

_PAGES_3 = """CREATE TABLE pages (
    page_id TEXT PRIMARY KEY, sha256 TEXT NOT NULL, page_number INTEGER NOT NULL, status TEXT NOT NULL,
    parts TEXT NOT NULL, version TEXT NOT NULL, metadata TEXT NOT NULL, uri TEXT NOT NULL,
    node_ids TEXT NOT NULL, indexed_as TEXT, error TEXT, content_sha256 TEXT NOT NULL DEFAULT '', as_read TEXT)"""
_COLUMNS_3 = (
    "page_id, sha256, page_number, status, parts, version, metadata, uri, node_ids, indexed_as, error, "
    "content_sha256, as_read"
)


def to_format_3(db: sqlite3.Connection) -> None:
    """Take away what format 4 added: numbers of pages, which were those of nothing else, and facets."""
    db.execute("ALTER TABLE pages RENAME TO newer")
    for index in ("pages_by_content", "pages_by_sha256", "pages_to_finish"):
        db.execute(f"DROP INDEX {index}")
    db.execute(_PAGES_3)
    db.execute(f"INSERT INTO pages SELECT {_COLUMNS_3} FROM newer ORDER BY page_id DESC")  # noqa: S608
    for table in ("newer", "facet_values", "facet_pages"):
        db.execute(f"DROP TABLE {table}")
    db.execute("CREATE INDEX pages_by_content ON pages (content_sha256)")
    db.execute("CREATE INDEX pages_by_sha256 ON pages (sha256, page_number)")
    db.execute("CREATE INDEX pages_to_finish ON pages (page_id) WHERE indexed_as IS NULL")
    db.execute("PRAGMA user_version=3")
