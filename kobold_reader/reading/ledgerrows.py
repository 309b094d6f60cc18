"""What the ledger hands out, and the rows in which it keeps it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any, Final

from kobold_reader.errors import KoboldReaderError
from kobold_reader.pages import FileFacts, PageFacts, SourceFile
from kobold_reader.reading.boxes import LineBox
from kobold_reader.reading.results import Reading

__all__ = [
    "GET_READING",
    "GET_TIMINGS",
    "PUT_FAILURE",
    "PUT_PAGE",
    "PUT_PAGE_MERGED",
    "PUT_READING",
    "Failure",
    "KnownPage",
    "Statement",
    "Timing",
    "failure_rows",
    "file_statements",
    "page_row",
    "reading_row",
    "to_file_facts",
    "to_page",
    "to_reading",
]

Statement = tuple[str, tuple[Any, ...]]
"""SQL with its values."""

_JSON_FIELDS: Final = ("decoding", "view_sizes", "doubtful", "boxes")
_READING_FIELDS: Final = tuple(field.name for field in fields(Reading) if field.name not in {"task", "engine"})
_READING_COLUMNS: Final = ", ".join(_READING_FIELDS)
PUT_READING: Final = (
    f"INSERT OR REPLACE INTO readings (content_sha256, task, engine, settings, {_READING_COLUMNS}, created_at) "  # noqa: S608
    f"VALUES ({', '.join('?' * (len(_READING_FIELDS) + 5))})"
)
GET_READING: Final = (
    f"SELECT {_READING_COLUMNS} FROM readings "  # noqa: S608
    "WHERE content_sha256 = ? AND task = ? AND engine = ? AND settings = ?"
)
GET_TIMINGS: Final = """
SELECT content_sha256, model, elapsed_s, json_array_length(view_sizes), prompt_tokens, completion_tokens,
       length(text) + length(coalesce(prompt, ''))
FROM readings WHERE engine = ? AND task = ? AND settings = ? AND elapsed_s > 0 AND (? IS NULL OR model = ?)
ORDER BY created_at DESC LIMIT 300"""
"""Enough for any mean; a model that was quicker last year does not count for ever."""
PUT_PAGE: Final = "INSERT OR REPLACE INTO pages VALUES (?, ?, ?, ?, ?, ?)"
PUT_PAGE_MERGED: Final = (
    "INSERT INTO pages VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (sha256, page_number) DO UPDATE SET "
    "content_sha256 = excluded.content_sha256, is_blank = coalesce(excluded.is_blank, is_blank), "
    "text_layer = excluded.text_layer, facts = excluded.facts"
)
"""What is known of blankness stays known."""
PUT_FAILURE: Final = "INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?, ?, ?, ?)"


@dataclass(frozen=True, slots=True)
class KnownPage:
    """A page's facts as the ledger remembers them."""

    facts: PageFacts
    is_blank: bool | None
    """None: not looked at yet."""


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
class Timing:
    """What one reading cost."""

    content_sha256: str
    task: str
    model: str | None
    elapsed_s: float
    images: int
    """Sent for this task: one, or as many as the page had tiles."""
    prompt_tokens: int | None
    completion_tokens: int | None
    kept_bytes: int
    """Of its text and prompt."""


def file_statements(source: SourceFile, facts: FileFacts) -> list[Statement]:
    """Return what records that this file has this content; a failure of the file as a whole is forgotten."""
    return [
        (
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)",
            (source.uri, source.size_bytes, source.mtime_ns, facts.sha256),
        ),
        (
            "INSERT OR REPLACE INTO documents VALUES (?, ?, ?)",
            (facts.sha256, facts.total_pages, _json(asdict(facts))),
        ),
        (
            "DELETE FROM failures WHERE uri = ? AND (page_number = 0 OR sha256 != ?)",
            (source.uri, facts.sha256),
        ),
    ]


def page_row(sha256: str, page: KnownPage) -> tuple[Any, ...]:
    """Return the row of one page of a file's content, for PUT_PAGE and PUT_PAGE_MERGED."""
    facts = page.facts
    return (sha256, facts.page_number, facts.content_sha256, page.is_blank, facts.text_layer, _json(asdict(facts)))


def to_page(is_blank: int | None, facts: str) -> KnownPage:
    """Return the page of a row."""
    return KnownPage(PageFacts(**json.loads(facts)), None if is_blank is None else bool(is_blank))


def failure_rows(
    source: SourceFile, sha256: str, page_number: int, errors: Mapping[str, KoboldReaderError]
) -> list[tuple[Any, ...]]:
    """Return the rows of what failed by task, for PUT_FAILURE."""
    now = _now()
    return [
        (source.uri, page_number, task, sha256, type(error).__name__, str(error), now) for task, error in errors.items()
    ]


def reading_row(content_sha256: str, settings: str, reading: Reading) -> tuple[Any, ...]:
    """Return the row of one reading of a page's content, for PUT_READING."""
    values = {name: getattr(reading, name) for name in _READING_FIELDS}
    values |= {name: _json(values[name]) for name in _JSON_FIELDS}
    return (content_sha256, reading.task, reading.engine, settings, *values.values(), _now())


def to_reading(task: str, engine: str, row: tuple[Any, ...]) -> Reading:
    """Return the reading of a row of GET_READING."""
    values = dict(zip(_READING_FIELDS, row, strict=True))
    values |= {name: json.loads(values[name]) for name in _JSON_FIELDS}
    values["view_sizes"] = tuple(tuple(size) for size in values["view_sizes"])
    values["doubtful"] = tuple(values["doubtful"])
    values["boxes"] = tuple(LineBox(start, end, tuple(corners)) for start, end, corners in values["boxes"])
    if values["image_verified"] is not None:
        values["image_verified"] = bool(values["image_verified"])
    return Reading(task=task, engine=engine, **values)


def to_file_facts(facts: str) -> FileFacts:
    """Return the facts of a file's content as they were kept."""
    return FileFacts(**json.loads(facts))


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
