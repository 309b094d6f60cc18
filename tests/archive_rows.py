"""Rows put into an archive as another process would: they are in its file, and searches see a new generation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

from kobold_reader import Archive
from kobold_reader.archive.folder import CATALOG, LEDGER
from kobold_reader.archive.rows import PageRow, Place
from kobold_reader.archive.store import Catalog
from kobold_reader.pages import select
from kobold_reader.reading.ledger import Ledger

_OF_FILE = ("file_name", "file_path", "file_type", "file_size")


@contextmanager
def catalog_of(archive: Archive) -> Iterator[Catalog]:
    """Open the archive's catalog a second time."""
    with closing(Catalog(archive.folder / CATALOG)) as catalog:
        yield catalog


def put(archive: Archive, *rows: PageRow) -> None:
    """Index pages, each at its place."""
    with catalog_of(archive) as catalog:
        for row in rows:
            of_file = {key: row.metadata[key] for key in _OF_FILE if key in row.metadata}
            catalog.put_place(Place(row.uri, row.sha256, of_file))
        catalog.finish(catalog.begin(rows))


def touch(archive: Archive) -> None:
    """Begin a new generation, in which nothing is different."""
    with catalog_of(archive) as catalog:
        catalog.mark_missing([])


def amend_reading(archive: Archive, page: PageRow, **changes: Any) -> None:
    """Change what the ledger says of the reading of a page that KoboldCpp read with default settings."""
    with Ledger(archive.folder / LEDGER) as ledger:
        known = ledger.pages(page.sha256, [page.page_number])[page.page_number]
        reading = ledger.reading(known.facts.content_sha256, "ocr", "koboldcpp", "default")
        assert reading is not None
        [source] = select([str(page.metadata["file_path"])]).files
        ledger.record(source, page.sha256, known, {"ocr": replace(reading, **changes)}, {"ocr": "default"}, {})
