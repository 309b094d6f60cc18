"""The pictures of pages: upright as they were read, made in the page child, kept in a bounded cache."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit
from urllib.request import url2pathname

from kobold_reader.archive.corrections import as_read
from kobold_reader.archive.store import PageRow
from kobold_reader.errors import CorruptSourceError, SourceError, SourceNotFoundError
from kobold_reader.pages import ImageBudget, SourceFile, select
from kobold_reader.reading.ledger import Ledger
from kobold_reader.reading.open_file import OpenFile

__all__ = ["SIZES", "Picture", "Pictures", "Size", "file_place"]

Size = Literal["small", "large"]
SIZES: Final[dict[Size, ImageBudget]] = {
    "small": ImageBudget(max_side_px=360, jpeg_quality=78, max_bytes=60_000),
    "large": ImageBudget(max_side_px=1600, jpeg_quality=84, max_bytes=1_500_000),
}
CACHE_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded picture."""

    data: bytes
    mime: str


class Pictures:
    """Makes the pictures of an archive's pages, one at a time; safe to use from several threads.

    Args:
        passwords: Tried on encrypted files.
        cache_bytes: Most that is kept.
    """

    def __init__(self, passwords: Sequence[str] = (), *, cache_bytes: int = CACHE_BYTES) -> None:
        self._ledger = Ledger(None)  # remembers for this run which file has which content
        self._opened = OpenFile(self._ledger, tuple(passwords))
        self._lock = threading.Lock()
        self._cache: OrderedDict[tuple[str, Size, int, int], Picture] = OrderedDict()
        self._cache_bytes = cache_bytes
        self._held_bytes = 0

    def picture(self, page: PageRow, size: Size) -> Picture:
        """Return a page's picture.

        Raises:
            SourceNotFoundError: Its file is not there any more.
            CorruptSourceError: It holds something else by now.
            SourceError: It cannot be shown.
        """
        source = _source(page)
        key = (page.page_id, size, source.size_bytes, source.mtime_ns)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
            return self._keep(key, self._make(page, source, SIZES[size]))

    def _make(self, page: PageRow, source: SourceFile, budget: ImageBudget) -> Picture:
        file = self._opened.facts(source)
        if file.sha256 != page.sha256:
            msg = "The file was changed since its pages were read; only the text is shown."
            raise CorruptSourceError(msg, hint="The next `kobold-reader index` reads it as it is now.")
        turn_deg = 0
        if as_read(page).metadata.get("model") or "rotation_deg" in page.metadata:  # a picture of it was read
            stored_deg = self._opened.page_facts(source, file, page.page_number).rotation_deg
            turn_deg = (int(page.metadata.get("rotation_deg", 0)) - stored_deg) % 360
        view = self._opened.page_images(source, file, page.page_number, budget, turn_deg).views[0]
        return Picture(view.image, view.mime)

    def _keep(self, key: tuple[str, Size, int, int], picture: Picture) -> Picture:
        self._cache[key] = picture
        self._held_bytes += len(picture.data)
        while self._held_bytes > self._cache_bytes:
            _, dropped = self._cache.popitem(last=False)
            self._held_bytes -= len(dropped.data)
        return picture

    def close(self) -> None:
        """End the page child."""
        with self._lock:
            self._opened.close()
            self._ledger.close()


def file_place(uri: str) -> str:
    """Return the path of a local file, the address of any other."""
    return url2pathname(urlsplit(uri).path) if uri.startswith("file:") else uri


def _source(page: PageRow) -> SourceFile:
    place = file_place(page.uri)
    if page.uri.startswith("file:") and not Path(place).is_file():  # a folder or a pattern would be taken for others
        msg = "The file is not there any more; only the text is shown."
        raise SourceNotFoundError(msg, hint=f"It was {place}.")
    selection = select([place])
    if not selection.files:
        raise selection.errors[0] if selection.errors else SourceError("The file is not of a kind that is taken.")
    return selection.files[0]
