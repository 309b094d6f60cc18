"""Export of an archive's texts to files, import of the corrections made there, and the archive as a table.

The format of the files is in `export_format.py`.
"""

from __future__ import annotations

import csv
import filecmp
import hashlib
import io
import os
import re
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import urlsplit

from kobold_reader.archive.corrections import check_correctable, is_as_read, is_same_text
from kobold_reader.archive.export_format import (
    FORMATS,
    LAYOUT_ENDINGS,
    TRANSCRIPTION,
    Block,
    DamagedError,
    FoundBlock,
    decode,
    hash_of,
    is_export,
    parse,
    render,
)
from kobold_reader.archive.rows import PageRow, Place
from kobold_reader.archive.store import Catalog
from kobold_reader.errors import (
    ConfigError,
    CorruptSourceError,
    KoboldReaderError,
    MissingExtraError,
    SourceError,
    SourceNotFoundError,
    StoreError,
    UnsupportedSourceError,
    reason,
)
from kobold_reader.options import ExportFormat, GroupBy
from kobold_reader.pages import as_uri, file_at
from kobold_reader.pages.names import RESERVED, shown_of
from kobold_reader.pages.sources import natural_key

if TYPE_CHECKING:
    from kobold_reader.archive.layouts import LayoutWriter

# ── export ────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class ExportReport:
    """What an export did."""

    written: list[Path] = field(default_factory=list)
    unchanged_files: int = 0
    """Files that already had just this content."""
    pages: int = 0
    unplaced_lines: int = 0
    """Lines whose place on the page is not known; they stand where their neighbours leave room."""
    notices: list[str] = field(default_factory=list)
    """What the reader of a written file should know."""
    errors: list[KoboldReaderError] = field(default_factory=list)
    """One for each file that was left as it is."""


class Exporter:
    """One export of one archive to a folder.

    Raises:
        ConfigError: The folder is a file, or the format or grouping is unknown.
    """

    def __init__(self, catalog: Catalog, folder: Path, form: ExportFormat, group_by: GroupBy) -> None:
        _check_known("to", form, (*FORMATS, *LAYOUT_ENDINGS))
        _check_known("group_by", group_by, get_args(GroupBy))
        if form in LAYOUT_ENDINGS and group_by != "file":
            raise ConfigError(f"{form} is written for each file, not for each folder.", hint="Leave --group-by out.")
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"{folder} is a file.", hint="Name a folder to export to.")
        place = folder.resolve()
        if any((above / catalog.path.name).is_file() for above in (place, *place.parents)):
            hint = "Name a folder that is in no archive; it is made if it is missing."
            raise ConfigError(f"{folder} is in the folder of an archive.", hint=hint)
        self._catalog = catalog
        self._folder = folder
        self._form = form
        self._group_by = group_by
        self._report = ExportReport()

    def run(self, layouts: LayoutWriter | None = None) -> ExportReport:
        """Write every file that nobody has changed, each as a whole or not at all; `layouts` writes what is no text."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self._folder).close()
        except OSError as err:  # said once, not of each file
            why = f"the folder {self._folder} cannot be written ({reason(err)})."
            raise StoreError(why, hint="Export to another folder.") from err
        names = relative_names(self._catalog.uris_of_pages(), _roots(self._catalog))
        for path, uris in sorted(self._targets(names).items()):
            rows = [row for uri in uris for row in self._catalog.pages_at(uri)]
            target = self._folder / path
            try:
                if layouts is None:
                    self._write_texts(target, _rendered(rows, names, self._form).encode())
                else:
                    self._write_layout(target, uris[0], rows, layouts)
            except KoboldReaderError as err:
                self._report.errors.append(err.at(str(target)))
            except OSError as err:
                why = f"it cannot be written ({reason(err)})."
                self._report.errors.append(StoreError(why, source=str(target), hint="Export to another folder."))
            else:
                self._report.pages += len(rows)
        self._report.unplaced_lines = layouts.unplaced if layouts else 0
        return self._report

    def _write_texts(self, target: Path, content: bytes) -> None:
        """Write a file of texts, or raise StoreError if the present one holds more than what was exported."""
        if target.is_symlink() or target.exists():
            present = target.read_bytes()
            if present == content:
                self._report.unchanged_files += 1
                return
            self._check_replaceable(present)
        with self._part_of(target) as part:
            part.write_bytes(content)

    def _write_layout(self, target: Path, uri: str, rows: Sequence[PageRow], layouts: LayoutWriter) -> None:
        """Write a file with the places of its lines, or raise StoreError if the present one was changed since."""
        if target.is_symlink() or target.exists():
            from kobold_reader.archive.layouts import check_sealed

            check_sealed(target)
        with self._part_of(target) as part:
            notices = layouts.write(file_at(uri), rows, part)
        self._report.notices += [f"{target}: {notice}" for notice in notices]

    @contextmanager
    def _part_of(self, target: Path) -> Iterator[Path]:
        """Give a path to write to, and put what was written there in the place of the target."""
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        part.unlink(missing_ok=True)
        try:
            yield part
            if target.is_file() and filecmp.cmp(part, target, shallow=False):
                self._report.unchanged_files += 1
                return
            os.replace(part, target)  # noqa: PTH105  (atomic on Windows too)
        finally:
            part.unlink(missing_ok=True)
        self._report.written.append(target)

    def _targets(self, names: Mapping[str, PurePosixPath]) -> dict[PurePosixPath, list[str]]:
        """Return the files to be written, each with the URIs whose pages it holds."""
        ending = LAYOUT_ENDINGS.get(self._form, f".{self._form}")
        if self._group_by == "file":
            return {path: [uri] for uri, path in safe_paths(names, ending).items()}
        ordered = sorted(names, key=lambda uri: (_folder_of(uri), natural_key(uri)))
        folders = {folder: list(uris) for folder, uris in groupby(ordered, key=_folder_of)}
        folder_names = {folder: names[uris[0]].parent for folder, uris in folders.items()}
        for folder, name in folder_names.items():
            if not name.name:  # the folder that was indexed itself
                folder_names[folder] = PurePosixPath(shown_of(folder.rpartition("/")[2]) or "files")
        return {path: folders[folder] for folder, path in safe_paths(folder_names, ending).items()}

    def _check_replaceable(self, present: bytes) -> None:
        """Check that a file is as it was exported, or that all edits in it were imported."""
        try:
            text = decode(present)
            if not is_export(text):
                raise StoreError(
                    "it was not written by kobold-reader, and is not overwritten.", hint="Export to another folder."
                )
            edited = [one for one in parse(text) if one.is_edited]
        except DamagedError as err:
            raise StoreError(
                f"it was changed and is damaged, and is not overwritten ({err})",
                hint="Export to another folder, or remove it.",
            ) from err
        for one in edited:
            row = self._catalog.page(one.block.page_id)
            if row is None or not is_same_text(one.block.text, row.parts.get(one.block.part, "")):
                raise StoreError(
                    f"page {one.block.page_number}, line {one.line}, was edited and not imported; it is not "
                    "overwritten.",
                    hint="Import it first, or export to another folder.",
                )


def exported(catalog: Catalog, page_ids: Sequence[str], to: str) -> str:
    """Return some pages as the text of one file, in this order; `csv`: as a table, with their texts.

    Raises:
        ConfigError: The format is unknown.
    """
    _check_known("to", to, (*FORMATS, "csv"))
    rows = catalog.pages(page_ids)
    if to == "csv":
        return _table(rows)
    names = relative_names({row.uri for row in rows}, _roots(catalog))
    return _rendered(rows, names, next(form for form in FORMATS if form == to))


def _check_known(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ConfigError(f"{value!r} is not one of {', '.join(known)}.", argument=name)


def _roots(catalog: Catalog) -> list[str]:
    return list(map(as_uri, catalog.roots()))


def _rendered(rows: Iterable[PageRow], names: Mapping[str, PurePosixPath], form: ExportFormat) -> str:
    blocks = [
        Block(str(names[row.uri]), row.sha256, row.page_number, part, row.status, row.parts.get(part, ""))
        for row in rows
        for part in (TRANSCRIPTION, *sorted(row.parts.keys() - {TRANSCRIPTION}))
    ]
    return render(blocks, form)


def _folder_of(uri: str) -> str:
    return uri.rpartition("/")[0]


# ── names of exported files ───────────────────────────────────────────────────────────────────────

_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f\ud800-\udfff]')
_MAX_NAME_BYTES = 180
"""Most systems take 255; a tail, an ending and the name of the partial file need some."""


def relative_names(uris: Iterable[str], roots: Iterable[str]) -> dict[str, PurePosixPath]:
    """Return each file's path below the outermost of the folders that were indexed, else its folder and name."""
    outermost = sorted({root.rstrip("/") for root in roots}, key=len)
    found = {}
    for uri in uris:
        root = next((root for root in outermost if uri.startswith(f"{root}/")), None)
        path = uri[len(root) + 1 :] if root else "/".join(urlsplit(uri).path.split("/")[-2:])
        found[uri] = PurePosixPath(shown_of(path).lstrip("/"))
    return found


def safe_paths(names: Mapping[str, PurePosixPath], ending: str) -> dict[str, PurePosixPath]:
    """Return a path for each name that every system accepts, and no two that are the same file on any.

    Of two names that differ only in upper and lower case, the second, in the order of the keys, gets a tail made of its
    key. `ending` has its dot.
    """

    def folded(path: PurePosixPath) -> str:
        return unicodedata.normalize("NFC", str(path)).casefold()

    taken: set[str] = set()
    found = {}
    for key, name in sorted(names.items()):
        path = PurePosixPath(*[_safe_name(part) for part in name.parts or ("_",)])
        file = path.with_name(path.name + ending)
        if folded(file) in taken:
            file = path.with_name(f"{path.name}~{_tail(key)}{ending}")
        taken.add(folded(file))
        found[key] = file
    return found


def _safe_name(name: str) -> str:
    safe = _FORBIDDEN.sub("_", name)
    if safe.endswith((".", " ")):
        safe = f"{safe[:-1]}_"
    if RESERVED.fullmatch(safe):
        safe = f"_{safe}"
    if len(safe.encode()) > _MAX_NAME_BYTES:
        ending = PurePosixPath(safe).suffix
        tail = f"~{_tail(name)}{ending if len(ending.encode()) < 20 else ''}"  # noqa: PLR2004
        safe = safe.encode()[: _MAX_NAME_BYTES - len(tail.encode())].decode(errors="ignore") + tail
    return safe or "_"


def _tail(key: str) -> str:
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()[:6]


# ── import ────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class ImportReport:
    """What an import did."""

    files: int = 0
    """Exports that were read."""
    other_files: int = 0
    """Files without a mark of ours, which were left aside."""
    pages: int = 0
    corrected: list[str] = field(default_factory=list)
    """Ids of pages that have another correction now."""
    taken_back: list[str] = field(default_factory=list)
    """Ids of pages whose text is again as it was read."""
    errors: list[KoboldReaderError] = field(default_factory=list)
    """One for each file, and each page, from which nothing was taken."""


class Importer:
    """One import into one archive."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._report = ImportReport()

    def run(self, folder: Path) -> ImportReport:
        """Take the edits in the files below a folder, or in one file; raises SourceError if there is no export."""
        if not folder.exists():
            raise SourceNotFoundError("there is no such file or folder.", source=str(folder))
        below = (path for path in sorted(folder.rglob("*")) if path.suffix.lower()[1:] in FORMATS and path.is_file())
        for path in [folder] if folder.is_file() else below:
            try:
                self._import_file(path)
            except DamagedError as err:
                why = f"{err} Nothing of this file was taken."
                self._report.errors.append(
                    CorruptSourceError(why, source=str(path), hint="Export it anew, and edit that.")
                )
            except OSError as err:
                self._report.errors.append(SourceError(f"it cannot be read ({reason(err)}).", source=str(path)))
        if not self._report.files and not self._report.errors:
            raise UnsupportedSourceError(
                "there is no file that kobold-reader exported.",
                source=str(folder),
                hint="`kobold-reader export` makes some.",
            )
        return self._report

    def _import_file(self, path: Path) -> None:
        """Take all edits of one file, or none of them and raise DamagedError."""
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
                if not self._is_wanted(one, row, origin, edited):
                    continue
                first, wanted = taken.setdefault(row.content_sha256, (row, one.block.text))
                if not is_same_text(wanted, one.block.text):
                    raise ConfigError(
                        f"it shows the same as page {first.page_number}, which was edited in another way.",
                        hint="Make the same of both, and import again.",
                    )
            except ConfigError as err:
                err.message = f"page {one.block.page_number}, line {one.line}: {err.message}"
                err.source, err.page_number = str(path), None
                self._report.errors.append(err)
        self._catalog.correct({row.page_id: wanted for row, wanted in taken.values()}, origin)
        for row, wanted in taken.values():
            (self._report.taken_back if is_as_read(row, wanted) else self._report.corrected).append(row.page_id)

    def _row(self, found: FoundBlock) -> PageRow | None:
        """Return the page of a block; None if it is gone and nothing was edited, else raise DamagedError."""
        block = found.block
        row = self._catalog.page(block.page_id)
        if row is not None and row.sha256 == block.sha256:
            return row
        if found.is_edited:
            raise DamagedError(
                found.line,
                f"page {block.page_number} of {block.file}, sha256 {block.sha256[:12]}…, is not in this archive.",
            )
        return None

    def _is_wanted(self, found: FoundBlock, row: PageRow, origin: str, edited: AbstractSet[str]) -> bool:
        """Tell whether a block's text makes or ends a correction; raises ConfigError if it was edited in vain."""
        block = found.block
        if is_same_text(block.text, row.parts.get(block.part, "")):
            return False
        if block.part != TRANSCRIPTION:
            if not found.is_edited:
                return False
            raise ConfigError(f"the {block.part} was edited, but only the text on the page can be corrected.")
        kept = self._catalog.correction(row.content_sha256)
        if not found.is_edited:
            # It was put back as it was exported, which ends a correction. Only the file that the correction came from
            # can mean that, and only if no other page that shows the same was edited.
            return kept is not None and kept.origin == origin and row.content_sha256 not in edited
        check_correctable(row)
        if kept is not None and kept.origin != origin and hash_of(kept.text) != found.exported:
            raise ConfigError(
                f"the archive has a later correction of it ({kept.corrected_at[:10]}), which was not replaced.",
                hint="Export it anew to see that one, and edit that.",
            )
        return True


# ── the archive as a table ────────────────────────────────────────────────────────────────────────

COLUMNS = (
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
"""Named like the metadata of Documents."""


def to_frame(pages: Iterable[PageRow], places: Iterable[Place]) -> Any:
    """Return a pandas DataFrame of an archive by path and page; a file that cannot be opened has a row as page 0.

    Raises:
        MissingExtraError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as err:
        raise MissingExtraError("notebook", "A table of pages") from err
    rows = [_columns_of(page) for page in pages]
    failed = {"page_number": 0, "page_status": "failed", "text_length": 0}
    rows += [{**place.metadata, **failed, "link": place.uri, "error": place.error} for place in places if place.error]
    frame = pd.DataFrame([{key: row.get(key) for key in COLUMNS} for row in rows], columns=list(COLUMNS))
    # pandas does not know that a column without values, or with nothing but None, is one of numbers.
    frame = frame.astype({"page_number": "int64", "text_length": "int64", "confidence": "float64"})
    return frame.sort_values(["file_path", "page_number"], ignore_index=True)


def _columns_of(page: PageRow) -> dict[str, Any]:
    """Return the values of COLUMNS, among others."""
    return {
        **page.metadata,
        "page_number": page.page_number,
        "page_status": page.status,
        "text_length": len(page.text),
        "link": page.link,
        "error": page.error,
        "page_id": page.page_id,
    }


def _table(pages: Iterable[PageRow]) -> str:
    r"""Return pages as CSV with their texts, for spreadsheets: a byte order mark, and `\r\n` newlines."""
    out = io.StringIO(newline="")
    out.write("\ufeff")
    writer = csv.writer(out)
    writer.writerow((*COLUMNS, "text"))
    for page in pages:
        values = {**_columns_of(page), "text": page.text}
        writer.writerow([_cell(values.get(key)) for key in (*COLUMNS, "text")])
    return out.getvalue()


def _cell(value: object) -> object:
    """Return a value that no spreadsheet takes for a formula: what stands on a page may come from anybody."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
