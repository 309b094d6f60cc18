"""What people corrected, inside the archive's own SQLite file.

A correction stands in place of a page's transcription and wins over any reading. It belongs to the page's content, as a
reading does: it follows renames and copies, and waits where the content is gone for a while. A page's row keeps what
was read beside what stands in its place, so that a correction can be taken back without reading anything.

Nothing here begins or ends a transaction: a correction, the rows it changes and their words are written in one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from kobold_reader.archive.values import PageRow, version_of
from kobold_reader.errors import ConfigError

__all__ = [
    "Correction",
    "as_it_stands",
    "as_read",
    "bare",
    "check_correctable",
    "clean",
    "contents",
    "count",
    "create",
    "delete",
    "find",
    "is_as_read",
    "is_same_text",
    "put",
    "read_text",
]

PART: Final = "ocr"
"""What is corrected; captions and tags stay as they were made."""

_TABLE: Final = """CREATE TABLE IF NOT EXISTS corrections (
    content_sha256 TEXT PRIMARY KEY, text TEXT NOT NULL, corrected_at TEXT NOT NULL, origin TEXT NOT NULL)"""


@dataclass(frozen=True, slots=True)
class Correction:
    """What a person wrote in place of a page's transcription."""

    text: str
    """"" where the page holds none."""
    corrected_at: str
    """ISO 8601, UTC."""
    origin: str = ""
    """The file it was imported from; "" for one made by `Archive.correct`."""


# ── the table ─────────────────────────────────────────────────────────────────────────────────────


def create(db: sqlite3.Connection) -> None:
    """Make the table where it is missing."""
    db.execute(_TABLE)


def find(db: sqlite3.Connection, content_sha256: str) -> Correction | None:
    """Return the correction of a page's content."""
    row = db.execute(
        "SELECT text, corrected_at, origin FROM corrections WHERE content_sha256 = ?", (content_sha256,)
    ).fetchone()
    return Correction(*row) if row else None


def put(db: sqlite3.Connection, content_sha256: str, text: str, origin: str) -> None:
    """Record a correction in place of the one there was."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    db.execute("INSERT OR REPLACE INTO corrections VALUES (?, ?, ?, ?)", (content_sha256, text, now, origin))


def delete(db: sqlite3.Connection, content_sha256: str) -> int:
    """Remove a correction; returns 1 where there was one."""
    return db.execute("DELETE FROM corrections WHERE content_sha256 = ?", (content_sha256,)).rowcount


def count(db: sqlite3.Connection) -> int:
    """Number of corrections, those of contents that are gone for a while too."""
    found: int = db.execute("SELECT count(*) FROM corrections").fetchone()[0]
    return found


def contents(db: sqlite3.Connection) -> list[str]:
    """Return the contents that were corrected."""
    return [row[0] for row in db.execute("SELECT content_sha256 FROM corrections")]


# ── texts ─────────────────────────────────────────────────────────────────────────────────────────


def clean(text: str) -> str:
    r"""Return a text as it is kept: newlines are `\n`, nothing empty around it.

    Raises:
        ConfigError: It is no text that can be written as UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError as err:
        msg = f"the text cannot be kept: its character {err.start + 1} is half of one."
        raise ConfigError(msg, hint="Type it anew.") from err
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "").strip()


def is_same_text(one: str, other: str) -> bool:
    """Tell whether two texts are equal but for their newlines and for spaces at line ends, which editors remove."""
    return bare(one) == bare(other)


def bare(text: str) -> str:
    """Return what of a text counts when two are compared."""
    return "\n".join(line.rstrip() for line in clean(text).split("\n"))


# ── pages ─────────────────────────────────────────────────────────────────────────────────────────


def check_correctable(row: PageRow) -> None:
    """Check that something is known of the page to which a correction can belong.

    Raises:
        ConfigError: The page could never be looked at.
    """
    if not row.content_sha256:
        msg = "this page could never be opened, so nothing is known to which a correction could belong."
        hint = "Mend the file, or index the archive once more."
        raise ConfigError(msg, source=str(row.metadata.get("file_path")), page_number=row.page_number, hint=hint)


def read_text(row: PageRow) -> str:
    """Return the transcription that was read, whatever stands in its place."""
    return as_read(row).parts.get(PART, "")


def is_as_read(row: PageRow, text: str) -> bool:
    """Tell whether a text is just what was read; of a page that failed, nothing is."""
    read = as_read(row)
    return read.status != "failed" and is_same_text(text, read.parts.get(PART, ""))


def as_it_stands(db: sqlite3.Connection, row: PageRow) -> PageRow:
    """Return a page with its correction, if there is one now, else as it was read."""
    correction = find(db, row.content_sha256) if row.content_sha256 else None
    return as_read(row) if correction is None else _corrected(row, correction.text)


def as_read(row: PageRow) -> PageRow:
    """Return a page as it was read."""
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
    row = as_read(row)
    parts = _with_part(row.parts, text)
    status = "ok" if text else "no_text"
    metadata = _without_reading(row.metadata) | {"page_status": status, "text_source": "correction"}
    if len(parts) > (PART in parts) and "model" in row.metadata:
        metadata["model"] = row.metadata["model"]  # it made the caption, which stays
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
