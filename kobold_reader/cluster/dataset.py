"""read_pages: files in, a Ray dataset of page rows out.

A PageResult as one flat row: for Parquet, pandas, and whoever knows nothing of this package.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from itertools import chain, islice
from typing import Any, Final

from kobold_reader.cluster.driver import transcriber
from kobold_reader.cluster.session import LOCAL, connect
from kobold_reader.errors import KoboldReaderError
from kobold_reader.reader import KoboldReader, Paths, take
from kobold_reader.reading.results import PageResult

__all__ = ["COLUMNS", "error_row", "page_row", "read_pages", "schema"]

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


BLOCK_ROWS: Final = 256


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
    `kobold_reader.cluster.dataset.COLUMNS`; what could not be looked at at all is a row with page number 0. They lie in
    the cluster, which stays joined: `.write_parquet(…)`, `.to_pandas()`.

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
    ray = connect(address)
    import pyarrow as pa

    selection = take(paths, fs)
    urls = [servers] if isinstance(servers, str) else list(servers)
    with _with_servers(reader, urls) as own, own.open_ledger() as ledger:
        run = transcriber(own, ledger, address=address, cancel=cancel).run(selection.files)
        with closing(run):
            rows = chain(map(error_row, selection.errors), map(page_row, run))
            blocks = [ray.put(pa.Table.from_pylist(some, schema=schema())) for some in _batches(rows)] or [
                ray.put(schema().empty_table())
            ]
    return ray.data.from_arrow_refs(blocks)


def _with_servers(reader: KoboldReader | None, urls: list[str]) -> KoboldReader:
    given = reader or KoboldReader()
    arguments = {name: getattr(given, name) for name in type(given).model_fields if name != "is_remote"}
    return KoboldReader(**{**arguments, "api_url": urls})


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while some := list(islice(rows, BLOCK_ROWS)):
        yield some
