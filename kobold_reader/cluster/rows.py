"""A PageResult as one flat row: for Parquet, pandas, and whoever knows nothing of this package."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from kobold_reader.errors import KoboldReaderError
from kobold_reader.reading.results import PageResult

__all__ = ["COLUMNS", "error_row", "page_row", "schema"]

COLUMNS: dict[str, str] = {
    "uri": "string",
    "file_name": "string",
    "folder": "string",
    "page_number": "int32",
    "page_label": "string",
    "total_pages": "int32",
    "file_sha256": "string",
    "content_sha256": "string",
    "page_status": "string",
    "text": "string",
    "ocr": "string",
    "caption": "string",
    "tags": "string",
    "model": "string",
    "confidence": "float64",
    "failed_tasks": "string",
    "page_error": "string",
    "error_kind": "string",
    "is_kept": "bool",
    "metadata": "string",
    "readings": "string",
}
"""Name and Arrow type of each column; a page without a value holds null. `metadata` and `readings` are JSON."""


def schema() -> Any:
    """Return the Arrow schema: said once, or a column that is null throughout would have no type."""
    import pyarrow as pa

    return pa.schema([pa.field(name, pa.type_for_alias(kind)) for name, kind in COLUMNS.items()])


def page_row(result: PageResult) -> dict[str, Any]:
    """Return a page as a row: its text, each task's own, how sure the model was, and how it was read."""
    readings = result.readings
    first = readings.get(result.tasks[0])
    error = result.error or next(iter(result.errors.values()), None)
    return {
        "uri": result.source.uri,
        "file_name": result.source.name,
        "folder": result.source.folder,
        "page_number": result.page_number,
        "page_label": result.page_label,
        "total_pages": result.total_pages,
        "file_sha256": result.file_sha256 or None,
        "content_sha256": result.content_sha256 or None,
        "page_status": result.status,
        "text": result.text,
        **{task: readings[task].text if task in readings else None for task in ("ocr", "caption", "tags")},
        "model": first.model if first else None,
        "confidence": first.confidence if first else None,
        "failed_tasks": ",".join(result.failed_tasks) or None,
        "page_error": str(error) if error else None,
        "error_kind": type(error).__name__ if error else None,
        "is_kept": result.is_kept,
        "metadata": _json(dict(result.metadata)),
        "readings": _json({task: asdict(reading) for task, reading in readings.items()}),
    }


def error_row(error: KoboldReaderError) -> dict[str, Any]:
    """Return the row of what could not be looked at: page 0 of it."""
    filled = {"uri": str(error.source), "page_number": 0, "page_status": "failed", "text": "", "is_kept": False}
    said = {"page_error": str(error), "error_kind": type(error).__name__, "metadata": "{}", "readings": "{}"}
    return {**dict.fromkeys(COLUMNS), "total_pages": 0, **filled, **said}


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=dict)
