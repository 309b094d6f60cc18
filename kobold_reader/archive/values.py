"""The version of a page's texts: what is indexed under another one is stale.

The values of an archive's catalog: where a file lies, and one page's content; and how SQLite holds them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

__all__ = [
    "FILE_KEYS",
    "PAGE_COLUMNS",
    "PLACE_COLUMNS",
    "PageRow",
    "Place",
    "to_json",
    "to_page",
    "to_place",
    "version_of",
]

FILE_KEYS: Final = (
    "file_name",
    "file_path",
    "file_type",
    "file_size",
    "creation_date",
    "last_modified_date",
    "folder",
)
"""Metadata of the place, not of the content: a rename changes these and nothing else."""


@dataclass(frozen=True, slots=True)
class Place:
    """One file as it lies somewhere."""

    uri: str
    sha256: str
    """Of its content; "" where it could never be opened."""
    metadata: Mapping[str, Any]
    """FILE_KEYS."""
    is_missing: bool = False
    error: str | None = None
    """Why it could not be opened at the last try."""
    former_sha256: str = ""
    """What it held before; kept until a page of the new content was read, since half a copy is no new content."""


@dataclass(frozen=True, slots=True)
class PageRow:
    """One page's content, at its first place."""

    page_id: str
    sha256: str
    page_number: int
    status: str
    parts: Mapping[str, str]
    """Text by part: ocr, caption, tags; empty ones left out."""
    version: str
    """Hash of the parts: vectors and words of another version are stale."""
    metadata: Mapping[str, Any]
    uri: str
    """Of the place whose FILE_KEYS are in `metadata`."""
    node_ids: tuple[str, ...] = ()
    """All nodes that Chroma may hold of this page."""
    indexed_as: str | None = None
    """The version that is indexed; None while that is being changed."""
    error: str | None = None
    content_sha256: str = ""
    """What its readings and its correction belong to, as the ledger says; "" for a page never looked at."""
    as_read: Mapping[str, Any] | None = None
    """Where a correction stands in its place: what was read."""

    @property
    def text(self) -> str:
        """All parts, as shown in a hit."""
        return "\n\n".join(self.parts.values())

    @property
    def names(self) -> str:
        """The words of file and folder names."""
        return f"{self.metadata.get('file_path', '')} {self.metadata.get('title', '')}"


PLACE_COLUMNS: Final = "uri, sha256, metadata, is_missing, error, former_sha256"
PAGE_COLUMNS: Final = (
    "page_id, sha256, page_number, status, parts, version, metadata, uri, node_ids, indexed_as, error, "
    "content_sha256, as_read"
)


def to_json(value: object) -> str:
    """Return what a column of text holds."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def to_place(row: tuple[Any, ...]) -> Place:
    """Return a row of PLACE_COLUMNS as a value."""
    return Place(row[0], row[1], json.loads(row[2]), bool(row[3]), row[4], row[5])


def to_page(row: tuple[Any, ...]) -> PageRow:
    """Return a row of PAGE_COLUMNS as a value."""
    return PageRow(
        page_id=row[0],
        sha256=row[1],
        page_number=row[2],
        status=row[3],
        parts=json.loads(row[4]),
        version=row[5],
        metadata=json.loads(row[6]),
        uri=row[7],
        node_ids=tuple(json.loads(row[8])),
        indexed_as=row[9],
        error=row[10],
        content_sha256=row[11],
        as_read=None if row[12] is None else json.loads(row[12]),
    )


def version_of(parts: Mapping[str, str]) -> str:
    """Return a hash of a page's texts."""
    return hashlib.sha256(json.dumps(dict(parts), ensure_ascii=False, sort_keys=True).encode()).hexdigest()[:32]
