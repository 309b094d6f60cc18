"""Pictures of pages, turned as they were read, with a bounded cache."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from kobold_reader.archive.corrections import as_read
from kobold_reader.archive.store import PageRow
from kobold_reader.errors import CorruptSourceError, SourceError, SourceNotFoundError
from kobold_reader.html.pages import page_picture
from kobold_reader.pages import ImageBudget, PageView, SourceFile, local_path, select
from kobold_reader.reading.ledger import Ledger
from kobold_reader.reading.open_file import OpenFile

Size = Literal["small", "large"]
SIZES: dict[Size, ImageBudget] = {
    "small": ImageBudget(max_side_px=360, jpeg_quality=78, max_bytes=60_000),
    "large": ImageBudget(max_side_px=1600, jpeg_quality=84, max_bytes=1_500_000),
}
CACHE_BYTES = 64 * 1024 * 1024


class Pictures:
    """Makes the pictures of an archive's pages, one at a time; thread-safe.

    Args:
        passwords: Tried on encrypted files.
        cache_bytes: The most that is kept in memory.
    """

    def __init__(self, passwords: Sequence[str] = (), *, cache_bytes: int = CACHE_BYTES) -> None:
        self._ledger = Ledger(None)  # remembers during this run which file has which content
        self._opened = OpenFile(self._ledger, tuple(passwords))
        self._lock = threading.Lock()
        self._cache: OrderedDict[tuple[str, Size, int, int], PageView] = OrderedDict()
        self._cache_bytes = cache_bytes
        self._held_bytes = 0

    def picture(self, page: PageRow, size: Size) -> PageView:
        """Return a page's picture.

        Raises:
            SourceNotFoundError: Its file is missing.
            CorruptSourceError: The file was changed since the page was read.
            SourceError: It cannot be shown.
        """
        source = _source(page)
        key = (page.page_id, size, source.size_bytes, source.mtime_ns)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
            picture = self._cache[key] = self._make(page, source, size)
            self._held_bytes += len(picture.image)
            while self._held_bytes > self._cache_bytes:
                self._held_bytes -= len(self._cache.popitem(last=False)[1].image)
            return picture

    def _make(self, page: PageRow, source: SourceFile, size: Size) -> PageView:
        if self._opened.facts(source).sha256 != page.sha256:
            raise CorruptSourceError(
                "The file was changed since its pages were read; only the text is shown.",
                hint="The next `kobold-reader index` reads it as it is now.",
            )
        # Only a page of which a picture was read was turned; a correction hides the model that read it.
        was_turned = as_read(page).metadata.get("model") or "rotation_deg" in page.metadata
        rotation_deg = int(page.metadata.get("rotation_deg", 0)) if was_turned else None
        return page_picture(self._opened, source, page.page_number, SIZES[size], rotation_deg)

    def close(self) -> None:
        """End the page child."""
        with self._lock:
            self._opened.close()
            self._ledger.close()


def _source(page: PageRow) -> SourceFile:
    path = local_path(page.uri)
    # `select` would take a path with `*` or a folder's for other files.
    if page.uri.startswith("file:") and not Path(path).is_file():
        raise SourceNotFoundError("The file is not there any more; only the text is shown.", hint=f"It was {path}.")
    selection = select([path])
    if not selection.files:
        raise next(iter(selection.errors), SourceError("The file is not of a kind that is taken."))
    return selection.files[0]
