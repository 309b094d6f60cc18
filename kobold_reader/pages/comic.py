"""CBZ: a ZIP of pictures, one a page. Nothing is unpacked to disk, and no more than a page at a time."""

from __future__ import annotations

import dataclasses
import hashlib
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Final

from kobold_reader.errors import CorruptSourceError, EncryptedSourceError, PageRenderError, SourceError
from kobold_reader.pages.kinds import HEAD_BYTES, kind_of
from kobold_reader.pages.picture_file import PictureFile
from kobold_reader.pages.sources import natural_key
from kobold_reader.pages.values import FileFacts, ImageBudget, PageFacts, PageImages, PageLook

__all__ = ["ComicFile"]

_MAX_ENTRY_BYTES: Final = 256 * 1024 * 1024
_MAX_ENTRIES: Final = 100_000
_LOCKED: Final = 0x1
_PICTURES: Final = frozenset({"image", "heic", "avif"})
_ZIP_ERRORS: Final = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    ValueError,
    EOFError,
    RuntimeError,
    NotImplementedError,
    LookupError,
)


class ComicFile:
    """An open CBZ; its pages are its pictures in natural order of their names.

    Args:
        path: Local path.
        sha256: Of the file.

    Raises:
        CorruptSourceError: It is no ZIP, or holds no pictures.
        EncryptedSourceError: Its pictures are locked.
    """

    def __init__(self, path: Path, sha256: str) -> None:
        self._open_page: tuple[int, PictureFile] | None = None
        try:
            self._zip = zipfile.ZipFile(path)
        except _ZIP_ERRORS as error:
            raise CorruptSourceError(f"The file cannot be opened as a CBZ ({error}).") from error
        entries = [entry for entry in self._zip.infolist()[:_MAX_ENTRIES] if _is_page(entry)]
        self._pages = sorted(entries, key=lambda entry: natural_key(entry.filename))
        if not self._pages:
            self.close()
            raise CorruptSourceError("The CBZ holds no pictures.")
        if all(entry.flag_bits & _LOCKED for entry in self._pages):
            self.close()
            raise EncryptedSourceError("This CBZ is locked.", hint="Unpack it and read the folder.")
        self.facts = FileFacts(sha256, "cbz", len(self._pages), is_repaired=False)

    def close(self) -> None:
        """Let go of the file."""
        self._let_go()
        self._zip.close()

    def _let_go(self) -> None:
        held, self._open_page = self._open_page, None
        if held is not None:
            held[1].close()

    def _page(self, page_number: int) -> PictureFile:
        """The picture of a page; the last one is kept, as facts and images are asked for in turn."""
        if self._open_page is None or self._open_page[0] != page_number:
            self._let_go()
            data = self._read(self._pages[page_number - 1])
            kind = kind_of(data[:HEAD_BYTES], "") or ""
            with _as_page():
                sha256 = hashlib.sha256(data).hexdigest()
                picture = PictureFile(data, sha256, kind=kind if kind in _PICTURES else "image")
            if picture.facts.total_pages > 1:
                picture.close()
                raise PageRenderError("A picture of many pages lies inside.", hint="Unpack it and read the folder.")
            self._open_page = (page_number, picture)
        return self._open_page[1]

    def _read(self, entry: zipfile.ZipInfo) -> bytes:
        """An entry's bytes; no more than it claims to have, and no bomb.

        Raises:
            PageRenderError: It is damaged, locked, or too large.
        """
        if entry.file_size > _MAX_ENTRY_BYTES:
            raise PageRenderError(f"The page unpacks to {entry.file_size:,} bytes, which is more than a picture has.")
        try:
            with self._zip.open(entry) as stream:
                return stream.read(entry.file_size)
        except _ZIP_ERRORS as error:
            raise PageRenderError(f"The page cannot be unpacked ({error}).", hint="Copy the file again.") from error

    def page_facts(self, page_number: int) -> PageFacts:
        """What the page is."""
        picture = self._page(page_number)
        with _as_page():
            facts = picture.page_facts(1)
        return dataclasses.replace(
            facts, page_number=page_number, page_label=str(page_number), metadata=picture.facts.metadata
        )

    def page_look(self, page_number: int) -> PageLook:
        """What the page is a picture of."""
        try:
            return self._page(page_number).page_look(1)
        except SourceError:
            return PageLook()

    def page_images(self, page_number: int, budget: ImageBudget, rotate_deg: int | None) -> PageImages:
        """What the page looks like."""
        picture = self._page(page_number)
        with _as_page():
            return picture.page_images(1, budget, rotate_deg)


@contextmanager
def _as_page() -> Iterator[None]:
    """What is the end of a picture file is here the end of one page."""
    try:
        yield
    except PageRenderError:
        raise
    except SourceError as error:
        raise PageRenderError(error.message, hint=error.hint) from error


def _is_page(entry: zipfile.ZipInfo) -> bool:
    path = PurePosixPath(entry.filename.replace("\\", "/"))
    if entry.is_dir() or any(part.startswith((".", "__MACOSX")) for part in path.parts):
        return False
    return kind_of(b"", path.name) in _PICTURES
