"""read_pages: files in, a Ray dataset out, with a flat row for each page that any program can use."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from itertools import chain, islice
from typing import Any

from kobold_reader.cluster.joining import LOCAL, connect
from kobold_reader.cluster.page_reader import transcriber
from kobold_reader.errors import KoboldReaderError
from kobold_reader.reader import KoboldReader, Paths, take
from kobold_reader.reading.results import PageResult

BLOCK_ROWS = 256
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


def page_row(result: PageResult) -> dict[str, Any]:
    """Return a page as a row."""
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
    """Return the row of a file or folder that could not be looked at."""
    return {
        **dict.fromkeys(COLUMNS),
        "uri": str(error.source),
        "page_number": 0,
        "total_pages": 0,
        "page_status": "failed",
        "text": "",
        "page_error": str(error),
        "error_kind": type(error).__name__,
        "is_kept": False,
        "metadata": "{}",
        "readings": "{}",
    }


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=dict)


def read_pages(
    paths: Paths,
    servers: str | Sequence[str],
    *,
    reader: KoboldReader | None = None,
    address: str = LOCAL,
    fs: Any = None,
    cancel: threading.Event | None = None,
) -> Any:
    """Read pages on a Ray cluster; return them all, kept ones too, as a `ray.data.Dataset` in page order.

    Reads before it returns, because only this process writes the ledger: every page is recorded as it comes in, and a
    call that was killed goes on from there. Each page, failed ones too, is one row with the columns of
    `kobold_reader.cluster.dataset.COLUMNS`; a file that could not be looked at is a row with page number 0. The rows
    are kept in the cluster, which stays joined: `.write_parquet(…)`, `.to_pandas()`.

    Args:
        paths: A file, a folder, a pattern, or a list of them; every node has to see local ones under the same path.
        servers: KoboldCpp servers, all with the same model, as the nodes reach them.
        reader: Everything else; its own servers are not asked.
        address: `local` starts a cluster on this machine, `auto` joins the one that runs here, `HOST:6379` another.
        fs: An fsspec filesystem that the paths belong to.
        cancel: Set by another thread to stop.

    Raises:
        SourceError: Nothing could be taken from `paths`.
        ServerError: No server can be used, or the cluster cannot; what was read before is kept in the ledger.
        MissingExtraError: Ray is not installed.
    """
    connect(address)
    import pyarrow as pa
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it reports every step on the console
    # Named, or a column of nulls would have no type.
    schema = pa.schema([pa.field(name, pa.type_for_alias(kind)) for name, kind in COLUMNS.items()])
    selection = take(paths, fs)
    urls = [servers] if isinstance(servers, str) else list(servers)
    with (
        (reader or KoboldReader()).changed(api_url=urls) as own,
        own.open_ledger() as ledger,
        closing(transcriber(own, ledger, address=address, cancel=cancel).run(selection.files)) as run,
    ):
        rows = chain(map(error_row, selection.errors), map(page_row, run))
        blocks = [ray.put(pa.Table.from_pylist(some, schema=schema)) for some in _batches(rows)]
    return ray.data.from_arrow_refs(blocks or [ray.put(schema.empty_table())])


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while some := list(islice(rows, BLOCK_ROWS)):
        yield some
