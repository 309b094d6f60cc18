"""An archive as a table: one row a page."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from kobold_reader.archive.catalog import PageRow, Place
from kobold_reader.documents import page_link
from kobold_reader.errors import MissingExtraError

__all__ = ["COLUMNS", "to_frame"]

COLUMNS: Final = (
    "file_name",
    "page_number",
    "page_label",
    "page_status",
    "text_length",
    "confidence",
    "text_source",
    "model",
    "folder",
    "date_taken",
    "date_digitized",
    "last_modified_date",
    "keywords",
    "link",
    "error",
    "file_path",
    "page_id",
)
"""Named as the metadata of Documents are."""


def to_frame(pages: Iterable[PageRow], places: Iterable[Place]) -> Any:
    """Return the pages as a pandas DataFrame, by path and page; what is not known is missing.

    Args:
        pages: Of the archive.
        places: Its files: those that cannot be opened have a row, too, as page 0.

    Raises:
        MissingExtraError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as err:
        raise MissingExtraError("notebook", "A table of pages") from err
    rows = [*map(_row, pages), *(_failed(place) for place in places if place.error)]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    # Where a column is empty, or holds nothing but None, pandas would not know that it is one of numbers.
    frame = frame.astype({"page_number": "int64", "text_length": "int64", "confidence": "float64"})
    return frame.sort_values(["file_path", "page_number"], ignore_index=True)


def _row(page: PageRow) -> dict[str, Any]:
    own = {
        "page_number": page.page_number,
        "page_status": page.status,
        "text_length": len(page.text),
        "link": page_link(page.uri, str(page.metadata.get("file_type")), page.page_number),
        "error": page.error,
        "page_id": page.page_id,
    }
    return {**{key: page.metadata.get(key) for key in COLUMNS}, **own}


def _failed(place: Place) -> dict[str, Any]:
    own = {"page_number": 0, "page_status": "failed", "text_length": 0, "link": place.uri, "error": place.error}
    return {**{key: place.metadata.get(key) for key in COLUMNS}, **own}
