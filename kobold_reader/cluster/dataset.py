"""read_pages: files in, a Ray dataset of page rows out."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import chain, islice
from typing import Any, Final

from kobold_reader.cluster.driver import transcriber
from kobold_reader.cluster.rows import error_row, page_row, schema
from kobold_reader.cluster.session import LOCAL, connect
from kobold_reader.reader import KoboldReader, Paths, take

__all__ = ["read_pages"]

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
    `kobold_reader.cluster.rows.COLUMNS`; what could not be looked at at all is a row with page number 0. They lie in
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
