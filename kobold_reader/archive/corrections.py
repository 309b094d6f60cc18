"""What people corrected, found right, and how they turned pictures, inside the archive's own SQLite file.

A correction replaces a page's transcription and wins over any reading. It belongs to the page's content, as a reading
does: it follows renames and copies, and stays while the content is missing. A page's row keeps what was read beside the
correction, so that a correction can be taken back without reading anything.

Nothing here begins or ends a transaction: a correction, the rows it changes and their words are written in one.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from kobold_reader.archive.rows import UNREAD, PageRow, version_of
from kobold_reader.errors import ConfigError

PART: Final = "ocr"
"""Only the transcription is corrected; captions and tags stay as they were made."""


@dataclass(frozen=True, slots=True)
class Correction:
    """What a person wrote in place of a page's transcription."""

    text: str
    """"" where the page has no text."""
    corrected_at: str
    """ISO 8601, UTC."""
    origin: str = ""
    """The file it was imported from; "" for one made by `Archive.correct`."""


def create(db: sqlite3.Connection) -> None:
    """Make the table."""
    db.execute(
        "CREATE TABLE corrections (content_sha256 TEXT PRIMARY KEY, text TEXT NOT NULL, corrected_at TEXT NOT NULL, "
        "origin TEXT NOT NULL)"
    )


def find(db: sqlite3.Connection, content_sha256: str) -> Correction | None:
    """Return the correction of a page's content."""
    row = db.execute(
        "SELECT text, corrected_at, origin FROM corrections WHERE content_sha256 = ?", (content_sha256,)
    ).fetchone()
    return Correction(*row) if row else None


def put(db: sqlite3.Connection, content_sha256: str, text: str, origin: str) -> None:
    """Record a correction in place of any earlier one."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    db.execute("INSERT OR REPLACE INTO corrections VALUES (?, ?, ?, ?)", (content_sha256, text, now, origin))


def delete(db: sqlite3.Connection, content_sha256: str) -> int:
    """Remove a correction; returns 1 where there was one."""
    return _delete(db, "corrections", content_sha256)


def rotations(db: sqlite3.Connection, contents: Iterable[str]) -> dict[str, int]:
    """Return how the pictures of contents are turned, of those that a person turned; as `Reading.rotation_deg`."""
    if not _has(db, "rotations"):
        return {}
    asked = json.dumps(list(contents))
    found = db.execute("SELECT * FROM rotations WHERE content_sha256 IN (SELECT value FROM json_each(?))", (asked,))
    return dict(found)


def rotate(db: sqlite3.Connection, content_sha256: str, rotation_deg: int | None) -> None:
    """Record how the picture of a content is turned; None: as it was read."""
    if rotation_deg is None:
        _delete(db, "rotations", content_sha256)
        return
    # Made with the first rotation: archives without any, also those of earlier releases, are the same as before.
    db.execute("CREATE TABLE IF NOT EXISTS rotations (content_sha256 TEXT PRIMARY KEY, rotation_deg INTEGER NOT NULL)")
    db.execute("INSERT OR REPLACE INTO rotations VALUES (?, ?)", (content_sha256, rotation_deg))


def approvals(db: sqlite3.Connection) -> dict[str, str]:
    """Return the checksum of the text that a person found right, by content."""
    return dict(db.execute("SELECT content_sha256, text_sha256 FROM approvals")) if _has(db, "approvals") else {}


def approve(db: sqlite3.Connection, content_sha256: str, text: str) -> None:
    """Record that a person found a content's text right."""
    db.execute("CREATE TABLE IF NOT EXISTS approvals (content_sha256 TEXT PRIMARY KEY, text_sha256 TEXT NOT NULL)")
    db.execute("INSERT OR REPLACE INTO approvals VALUES (?, ?)", (content_sha256, text_sha256(text)))


def text_sha256(text: str) -> str:
    """Return the checksum by which an approval knows its text."""
    return hashlib.sha256(bare(text).encode("utf-8", "surrogatepass")).hexdigest()


def forget(db: sqlite3.Connection, content_sha256: str) -> int:
    """Remove what people said of a content; returns how much that was."""
    return sum(_delete(db, table, content_sha256) for table in ("corrections", "rotations", "approvals"))


def _delete(db: sqlite3.Connection, table: str, content_sha256: str) -> int:
    if not _has(db, table):
        return 0
    return db.execute(f"DELETE FROM {table} WHERE content_sha256 = ?", (content_sha256,)).rowcount  # noqa: S608


def _has(db: sqlite3.Connection, table: str) -> bool:
    return bool(db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone())


def clean(text: str) -> str:
    r"""Return a text as it is recorded: newlines are `\n`, no white space around it.

    Raises:
        ConfigError: It cannot be written as UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError as err:
        raise ConfigError(
            f"the text cannot be kept: its character {err.start + 1} is half of one.", hint="Type it anew."
        ) from err
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "").strip()


def is_same_text(one: str, other: str) -> bool:
    """Tell whether two texts are equal but for their newlines and for spaces at line ends, which editors remove."""
    return bare(one) == bare(other)


def bare(text: str) -> str:
    """Return a text without the spaces at line ends, for comparing."""
    return "\n".join(line.rstrip() for line in clean(text).split("\n"))


def check_correctable(row: PageRow) -> None:
    """Raise ConfigError for a page that could never be opened, so that its content is unknown."""
    if not row.content_sha256:
        raise ConfigError(
            "this page could not be opened yet, so its text cannot be corrected.",
            source=row.path,
            page_number=row.page_number,
            hint="Repair the file, then index it again.",
        )


def read_text(row: PageRow) -> str:
    """Return the transcription as it was read, also of a corrected page."""
    return as_read(row).parts.get(PART, "")


def is_as_read(row: PageRow, text: str) -> bool:
    """Tell whether a text is what was read; never so for a page that was not read."""
    read = as_read(row)
    return read.status not in UNREAD and is_same_text(text, read.parts.get(PART, ""))


def applied(db: sqlite3.Connection, row: PageRow) -> PageRow:
    """Return a page with its correction, if it has one, else as it was read."""
    correction = find(db, row.content_sha256) if row.content_sha256 else None
    return as_read(row) if correction is None else _corrected(as_read(row), correction.text)


def as_read(row: PageRow) -> PageRow:
    """Return a page without its correction."""
    if row.as_read is None:
        return row
    read = dict(row.as_read)
    parts = _with_part(row.parts, read["text"])
    return replace(
        row,
        status=read["status"],
        parts=parts,
        version=version_of(parts),
        metadata=_without_reading(row.metadata) | read["metadata"],
        error=read["error"],
        as_read=None,
    )


def _corrected(row: PageRow, text: str) -> PageRow:
    parts = _with_part(row.parts, text)
    status = "ok" if text else "no_text"
    metadata = _without_reading(row.metadata) | {"page_status": status, "text_source": "correction"}
    if len(parts) > (PART in parts) and "model" in row.metadata:
        metadata["model"] = row.metadata["model"]  # it made the caption, which is kept
    return replace(
        row,
        status=status,
        parts=parts,
        version=version_of(parts),
        metadata=metadata,
        error=None,
        as_read={
            "status": row.status,
            "text": row.parts.get(PART, ""),
            "metadata": {key: value for key, value in row.metadata.items() if _is_of_reading(key)},
            "error": row.error,
        },
    )


def _with_part(parts: Mapping[str, str], text: str) -> dict[str, str]:
    others = {part: other for part, other in parts.items() if part != PART}
    return {PART: text, **others} if text else others


def _without_reading(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metadata.items() if not _is_of_reading(key)}


def _is_of_reading(key: str) -> bool:
    """Tell whether metadata says how a text was read."""
    return key in {"page_status", "text_source", "model"} or key.startswith("confidence")
