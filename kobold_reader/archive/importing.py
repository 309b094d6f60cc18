"""Take corrections from the files of an export."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path

from kobold_reader.archive.catalog import Catalog, PageRow
from kobold_reader.archive.corrections import check_correctable, is_as_read, is_same_text
from kobold_reader.archive.marks import (
    FORMATS,
    TRANSCRIPTION,
    DamagedError,
    FoundBlock,
    decode,
    hash_of,
    is_export,
    parse,
)
from kobold_reader.documents import page_id
from kobold_reader.errors import (
    ConfigError,
    CorruptSourceError,
    KoboldReaderError,
    SourceError,
    SourceNotFoundError,
    UnsupportedSourceError,
)

__all__ = ["ImportReport", "Importer"]


@dataclass(slots=True)
class ImportReport:
    """What became of an import."""

    files: int = 0
    """Exports that were read."""
    other_files: int = 0
    """They hold no mark of ours, and were left aside."""
    pages: int = 0
    corrected: list[str] = field(default_factory=list)
    """Ids of pages that have another correction now."""
    taken_back: list[str] = field(default_factory=list)
    """Ids of pages that stand as they were read again."""
    errors: list[KoboldReaderError] = field(default_factory=list)
    """One for each file, and each page, from which nothing was taken."""


class Importer:
    """One import into one archive."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._report = ImportReport()

    def run(self, folder: Path) -> ImportReport:
        """Take what was edited in the files below a folder, or in one file.

        Raises:
            SourceError: There is no export.
        """
        if not folder.exists():
            msg = "there is no such file or folder."
            raise SourceNotFoundError(msg, source=str(folder))
        for path in _files(folder):
            try:
                self._take(path)
            except DamagedError as err:
                self._reject(path, f"{err} Nothing of this file was taken.", "Export it anew, and edit that.")
            except OSError as err:
                self._report.errors.append(SourceError(f"it cannot be read ({err.strerror or err}).", source=str(path)))
        if not self._report.files and not self._report.errors:
            msg = "there is no file that kobold-reader exported."
            raise UnsupportedSourceError(msg, source=str(folder), hint="`kobold-reader export` makes some.")
        return self._report

    def _reject(self, path: Path, why: str, hint: str) -> None:
        self._report.errors.append(CorruptSourceError(why, source=str(path), hint=hint))

    def _take(self, path: Path) -> None:
        """Take what was edited in one file, all at once or not at all.

        Raises:
            DamagedError: Its marks are damaged.
        """
        text = decode(path.read_bytes())
        if not is_export(text):
            self._report.other_files += 1
            return
        found = [(one, row) for one in parse(text) if (row := self._row(one)) is not None]
        self._report.files += 1
        self._report.pages += sum(one.block.part == TRANSCRIPTION for one, _ in found)
        origin = str(path.absolute())
        edited = {row.content_sha256 for one, row in found if one.is_edited}
        taken: dict[str, tuple[PageRow, str]] = {}
        for one, row in found:
            try:
                if self._is_wanted(one, row, origin, edited):
                    _check_alone(taken.setdefault(row.content_sha256, (row, one.block.text)), one.block.text)
            except ConfigError as err:
                err.message = f"page {one.block.page_number}, line {one.line}: {err.message}"
                err.source, err.page_number = str(path), None
                self._report.errors.append(err)
        self._catalog.correct({row.page_id: wanted for row, wanted in taken.values()}, origin)
        for row, wanted in taken.values():
            (self._report.taken_back if is_as_read(row, wanted) else self._report.corrected).append(row.page_id)

    def _row(self, found: FoundBlock) -> PageRow | None:
        """Return the page of a block; None where it is gone and nothing was edited.

        Raises:
            DamagedError: The archive knows no such page.
        """
        block = found.block
        row = self._catalog.page(page_id(block.sha256, block.page_number))
        if row is not None and row.sha256 == block.sha256:
            return row
        if found.is_edited:
            msg = f"page {block.page_number} of {block.file}, sha256 {block.sha256[:12]}…, is not in this archive."
            raise DamagedError(found.line, msg)
        return None

    def _is_wanted(self, found: FoundBlock, row: PageRow, origin: str, edited: AbstractSet[str]) -> bool:
        """Tell whether a block's text is to become, or to end, a correction.

        Raises:
            ConfigError: It was edited, and cannot be taken.
        """
        block = found.block
        if is_same_text(block.text, row.parts.get(block.part, "")):
            return False
        if block.part != TRANSCRIPTION:
            if not found.is_edited:
                return False
            msg = f"the {block.part} was edited, but only what stands on the page can be corrected."
            raise ConfigError(msg)
        kept = self._catalog.correction(row.content_sha256)
        if not found.is_edited:
            # Put back as it was exported. Only the file that the correction came from can mean that, and not by one of
            # two pages that show the same.
            return kept is not None and kept.origin == origin and row.content_sha256 not in edited
        check_correctable(row)
        if kept is not None and kept.origin != origin and hash_of(kept.text) != found.exported:
            msg = f"the archive has a later correction of it ({kept.corrected_at[:10]}), which was not replaced."
            raise ConfigError(msg, hint="Export it anew to see that one, and edit that.")
        return True


def _check_alone(taken: tuple[PageRow, str], text: str) -> None:
    if not is_same_text(taken[1], text):
        msg = f"it shows the same as page {taken[0].page_number}, which was edited in another way."
        raise ConfigError(msg, hint="Make the same of both, and import again.")


def _files(folder: Path) -> Iterator[Path]:
    if folder.is_file():
        yield folder
        return
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower().removeprefix(".") in FORMATS and path.is_file():
            yield path
