"""Write an archive's texts to files, one for each file or folder, in folders as they lie."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Final, Literal
from urllib.parse import unquote

from kobold_reader.archive.catalog import Catalog, PageRow
from kobold_reader.archive.corrections import is_same_text
from kobold_reader.archive.marks import (
    FORMATS,
    TRANSCRIPTION,
    Block,
    DamagedError,
    ExportFormat,
    FoundBlock,
    decode,
    is_export,
    parse,
    render,
)
from kobold_reader.archive.naming import relative_names, safe_paths
from kobold_reader.documents import page_id
from kobold_reader.errors import ConfigError, KoboldReaderError, StoreError
from kobold_reader.pages import local_uri
from kobold_reader.pages.sources import natural_key

__all__ = ["ExportReport", "Exporter", "GroupBy"]

GroupBy = Literal["file", "folder"]
GROUPINGS: Final[tuple[GroupBy, ...]] = ("file", "folder")


@dataclass(slots=True)
class ExportReport:
    """What became of an export."""

    written: list[Path] = field(default_factory=list)
    unchanged_files: int = 0
    """They hold just this already."""
    pages: int = 0
    errors: list[KoboldReaderError] = field(default_factory=list)
    """One for each file that was left as it is."""


class Exporter:
    """One export of one archive.

    Args:
        catalog: What is written.
        folder: Where to.
        form: Format of the files.
        group_by: What becomes one of them.

    Raises:
        ConfigError: The folder is a file, or the format or grouping is unknown.
    """

    def __init__(self, catalog: Catalog, folder: Path, form: ExportFormat, group_by: GroupBy) -> None:
        for name, value, known in (("to", form, FORMATS), ("group_by", group_by, GROUPINGS)):
            if value not in known:
                msg = f"{name}={value!r} is unknown."
                raise ConfigError(msg, hint=f"There are: {', '.join(known)}.")
        if folder.exists() and not folder.is_dir():
            msg = f"{folder} is a file."
            raise ConfigError(msg, hint="Name a folder to export to.")
        self._catalog = catalog
        self._folder = folder
        self._form = form
        self._group_by = group_by
        self._report = ExportReport()

    def run(self) -> ExportReport:
        """Write everything that nobody has changed; a file is there whole or as it was."""
        roots = [root if "://" in root else local_uri(root) for root in self._catalog.roots()]
        uris = self._catalog.uris_of_pages()
        names = relative_names(uris, roots)
        for path, some in sorted(self._targets(names).items()):
            rows = [row for uri in some for row in self._catalog.pages_at(uri)]
            blocks = [block for row in rows for block in _blocks(row, str(names[row.uri]))]
            target = self._folder / path
            try:
                self._write(target, render(blocks, self._form))
            except KoboldReaderError as err:
                self._report.errors.append(err.at(str(target)))
            else:
                self._report.pages += len(rows)
        return self._report

    def _targets(self, names: Mapping[str, PurePosixPath]) -> dict[PurePosixPath, list[str]]:
        """Return the files to be written, each with the URIs whose pages it holds."""
        ending = f".{self._form}"
        if self._group_by == "file":
            return {path: [uri] for uri, path in safe_paths(names, ending).items()}
        ordered = sorted(names, key=lambda uri: (_folder_of(uri), natural_key(uri)))
        folders = {folder: list(some) for folder, some in groupby(ordered, key=_folder_of)}
        own = {folder: _folder_name(folder, names[some[0]]) for folder, some in folders.items()}
        return {path: folders[folder] for folder, path in safe_paths(own, ending).items()}

    def _write(self, target: Path, text: str) -> None:
        """Write a file, unless there is one that holds more than what was exported.

        Raises:
            StoreError: It was left as it is.
        """
        raw = text.encode()
        try:
            if target.is_symlink() or target.exists():
                there = target.read_bytes()
                if there == raw:
                    self._report.unchanged_files += 1
                    return
                self._check_ours(there)
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f".{target.name}.{os.getpid()}.part")
            try:
                with part.open("xb") as file:
                    file.write(raw)
                os.replace(part, target)  # noqa: PTH105  (atomic on Windows too)
            finally:
                part.unlink(missing_ok=True)
        except OSError as err:
            msg = f"it cannot be written ({err.strerror or err})."
            raise StoreError(msg, hint="Export to another folder.") from err
        self._report.written.append(target)

    def _check_ours(self, there: bytes) -> None:
        """Check that nothing is lost when a file is written over: it is as exported, or what was edited is imported."""
        try:
            text = decode(there)
            if not is_export(text):
                msg = "it was not written by kobold-reader, and is not overwritten."
                raise StoreError(msg, hint="Export to another folder.")
            found = parse(text)
        except DamagedError as err:
            msg = f"it was changed and is damaged, and is not overwritten ({err})"
            raise StoreError(msg, hint="Export to another folder, or remove it.") from err
        lost = next((one for one in found if one.is_edited and not self._is_imported(one)), None)
        if lost is not None:
            msg = (
                f"page {lost.block.page_number}, line {lost.line}, was edited and not imported; it is not overwritten."
            )
            raise StoreError(msg, hint="Import it first, or export to another folder.")

    def _is_imported(self, found: FoundBlock) -> bool:
        row = self._catalog.page(page_id(found.block.sha256, found.block.page_number))
        return row is not None and is_same_text(found.block.text, row.parts.get(found.block.part, ""))


def _blocks(row: PageRow, name: str) -> Iterable[Block]:
    parts = sorted({TRANSCRIPTION, *row.parts}, key=lambda part: (part != TRANSCRIPTION, part))
    for part in parts:
        yield Block(name, row.sha256, row.page_number, part, row.status, row.parts.get(part, ""))


def _folder_of(uri: str) -> str:
    return uri.rpartition("/")[0]


def _folder_name(folder: str, name: PurePosixPath) -> PurePosixPath:
    """Return a folder's path as that of a file; the one that was indexed itself has only its name."""
    return name.parent if name.parent.name else PurePosixPath(unquote(folder.rpartition("/")[2]) or "files")
