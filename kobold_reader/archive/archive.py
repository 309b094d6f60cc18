"""Archive: one folder that knows what was read and finds it again.

`DIR/ledger.sqlite` holds the readings, `DIR/archive.sqlite` files, pages and words, `DIR/chroma` the vectors. One
process writes at a time (a file lock); any number search meanwhile, and see new pages with the next query.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from glob import has_magic
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from kobold_reader.archive.catalog import PageRow, Place
from kobold_reader.archive.correcting import CorrectedArchive
from kobold_reader.archive.searching import SearchedArchive
from kobold_reader.archive.sync import is_at
from kobold_reader.archive.table import to_frame
from kobold_reader.archive.writing import WritingArchive, root_name
from kobold_reader.pages import local_uri
from kobold_reader.reading.ledger import Ledger

__all__ = ["Archive", "ArchiveStatus"]


@dataclass(frozen=True, slots=True)
class ArchiveStatus:
    """What an archive holds."""

    pages: dict[str, int]
    """By status."""
    files: int
    missing_files: tuple[str, ...]
    failed: tuple[tuple[str, int, str], ...]
    """(path, page number, why); page 0: the file as a whole."""
    embedder: str
    unfinished_pages: int
    """Begun by a run that was interrupted; the next `index` ends them."""
    corrections: int
    """Pages that people corrected."""


class Archive(WritingArchive, CorrectedArchive, SearchedArchive):
    """One archive folder. Use `Archive.open`; safe to search from several threads.

    Example:
        >>> from kobold_reader import Archive, KoboldReader
        >>> with Archive.open("my-archive", create=True) as archive:  # doctest: +SKIP
        ...     archive.sync("scans", reader=KoboldReader())
        ...     archive.search("Lindqvist 1954")[0].link
    """

    def uris(self) -> list[str]:
        """Return the URIs of all files that the archive knows, those that were pruned too."""
        uris = dict.fromkeys(self._catalog.places())
        path = self.folder / "ledger.sqlite"
        if path.is_file():
            with Ledger(path, read_only=True) as ledger:
                uris |= dict.fromkeys(ledger.uris())
        return list(uris)

    def settings_of(self, path: str | Path) -> dict[str, Any]:
        """Return the KoboldReader settings that a path was read with: its own, or those of the nearest folder above.

        A pattern counts as a folder. Empty where it never was read.
        """
        roots, name = self._catalog.roots(), root_name(path)
        if name in roots:
            return roots[name]
        above = [root for root in roots if _covers(_address(root), _address(name))]
        return roots[max(above, key=len)] if above else {}

    def page(self, page_id: str) -> PageRow | None:
        """Return one page by its id."""
        return self._catalog.page(page_id)

    def to_dataframe(self) -> Any:
        """Return a pandas DataFrame with one row a page: file, status, length of the text, confidence, dates, link.

        Columns are named as the metadata of Documents; `text_length` is in characters. Copies of a file have one row;
        a file that cannot be opened has one, too, as page 0.

        Raises:
            MissingExtraError: The extra `notebook` is not installed.
        """
        return to_frame(self._catalog.every_page(), self._catalog.places().values())

    def pages(self) -> Iterator[PageRow]:
        """Yield all pages by file and page number."""
        return self._catalog.every_page()

    def pages_of(self, file_sha256: str) -> list[PageRow]:
        """Return the pages of a file's content in page order."""
        return self._catalog.pages_of(file_sha256)

    def failed_pages(self) -> list[PageRow]:
        """Return the pages that failed at the last try, those that keep an earlier reading too."""
        return self._catalog.failed()

    def places(self) -> list[Place]:
        """Return all files where they lie, those that are missing or cannot be opened too."""
        return list(self._catalog.places().values())

    @property
    def generation(self) -> int:
        """Grows with every change that a search could see, whoever makes it."""
        return self._catalog.generation

    def status(self) -> ArchiveStatus:
        """Return what the archive holds."""
        places = self._catalog.places().values()
        failed = [
            (str(row.metadata.get("file_path")), row.page_number, row.error or "") for row in self._catalog.failed()
        ]
        failed += [(str(place.metadata.get("file_path")), 0, place.error) for place in places if place.error]
        record = self._meaning.record()
        return ArchiveStatus(
            pages=self._catalog.count_by_status(),
            files=len(places),
            missing_files=tuple(str(place.metadata.get("file_path")) for place in places if place.is_missing),
            failed=tuple(failed),
            embedder=record["kind"] if record["kind"] == "none" else f"{record['kind']} ({record['name']})",
            unfinished_pages=len(self._catalog.unfinished()),
            corrections=self._catalog.count_corrections(),
        )


def _address(path: str) -> str:
    return path if "://" in path else local_uri(path)


def _covers(root: str, uri: str) -> bool:
    """Tell whether a run over `root`, a folder or a pattern, took this file."""
    if is_at(uri, root):
        return True
    pattern, place = unquote(root), PurePosixPath(unquote(uri))
    if "**" in pattern:
        return fnmatchcase(str(place), str(PurePosixPath(pattern.replace("**/", "*"))))
    return has_magic(pattern) and any(some.match(pattern) for some in (place, *place.parents))
