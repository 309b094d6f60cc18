"""Open one file, whatever its kind. Runs inside the child."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from kobold_reader.errors import (
    CorruptSourceError,
    PageRenderError,
    SourceNotFoundError,
    UnsupportedSourceError,
)
from kobold_reader.pages.values import FileFacts, ImageBudget, PageFacts, PageImages, PageLook

__all__ = ["OpenFile", "hash_file", "open_file"]

_CHUNK_BYTES = 4 * 1024 * 1024


class OpenFile(Protocol):
    """What every kind of file can do."""

    facts: FileFacts

    def page_facts(self, page_number: int) -> PageFacts:
        """What a page is; PageRenderError where that one page is damaged."""

    def page_look(self, page_number: int) -> PageLook:
        """What a page is a picture of, seen small; nothing where it is no picture or cannot be decoded."""

    def page_images(self, page_number: int, budget: ImageBudget, rotate_deg: int | None) -> PageImages:
        """What a page looks like, turned as asked or (None) as it seems to need; PageRenderError where damaged."""

    def close(self) -> None:
        """Let go of the file."""


def hash_file(path: Path, tick: Callable[[], None] = lambda: None) -> tuple[str, int]:
    """The file's sha256 and size; `tick` is called between pieces, for a slow disk is no hang.

    Raises:
        SourceNotFoundError: No such file.
        CorruptSourceError: The file cannot be read.
    """
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as stream:
            while piece := stream.read(_CHUNK_BYTES):
                digest.update(piece)
                size += len(piece)
                tick()
    except FileNotFoundError as error:
        raise SourceNotFoundError("There is no such file.") from error
    except (OSError, ValueError) as error:
        raise CorruptSourceError(f"The file cannot be read ({error}).") from error
    return digest.hexdigest(), size


def open_file(
    path: Path,
    kind: str,
    *,
    passwords: Sequence[str] = (),
    sha256: str | None = None,
    tick: Callable[[], None] = lambda: None,
) -> OpenFile:
    """Open a file.

    Args:
        path: Local path.
        kind: As `sources` found it.
        passwords: For kinds that can be locked.
        sha256: Of the file, where it is known already.
        tick: Called now and then while a large file is hashed.

    Raises:
        SourceError: One of its children says why it cannot be opened.
    """
    if sha256 is None:
        sha256, size = hash_file(path, tick)
        if size == 0:
            raise CorruptSourceError("The file is empty (0 bytes).", hint="Copy or scan it again.")
    if kind in {"pdf", "epub", "xps"}:
        from kobold_reader.pages.pdf import PdfFile

        return PdfFile(path, sha256, passwords, kind=kind)
    if kind in {"image", "heic", "avif"}:
        from kobold_reader.pages.picture_file import PictureFile

        return PictureFile(path, sha256, kind=kind)
    if kind == "raw":
        from kobold_reader.pages.raw import open_raw

        return open_raw(path, sha256)
    if kind == "cbz":
        from kobold_reader.pages.comic import ComicFile

        return ComicFile(path, sha256)
    raise UnsupportedSourceError(f"Files of kind {kind!r} are not taken.")


def check_page_number(file: OpenFile, page_number: int) -> None:
    """Refuse a page that the file does not have.

    Raises:
        PageRenderError: There is no such page.
    """
    if not 1 <= page_number <= file.facts.total_pages:
        raise PageRenderError(f"There is no such page; the file has {file.facts.total_pages}.")
