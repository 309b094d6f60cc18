"""What people do to an archive's texts: correct them one by one, or export, edit and import them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from kobold_reader.archive.corrections import Correction, check_correctable, read_text
from kobold_reader.archive.export import Exporter, ExportReport, GroupBy
from kobold_reader.archive.importing import Importer, ImportReport
from kobold_reader.archive.marks import ExportFormat
from kobold_reader.archive.opened import BusyError, OpenArchive
from kobold_reader.errors import ConfigError, MissingExtraError, ServerError

__all__ = ["CorrectedArchive"]

log = logging.getLogger(__name__)


class CorrectedArchive(OpenArchive):
    """An archive whose texts people put right."""

    def correct(self, page_id: str, text: str) -> None:
        """Put a person's text in place of a page's transcription; it is found at once, and wins over any reading.

        It belongs to what the page shows: copies of the file have it too, and it stays through renames, `redo` and
        `reembed`. While another run is indexing, or the embedder's server is off, the page is found by its words, and
        the next run makes its vectors.

        Args:
            page_id: As in `Hit.page_id`.
            text: Of the whole page, without its image description; "": the page holds none. The very text that was
                read takes the correction back.

        Raises:
            ConfigError: There is no such page, or the text is none that can be kept.
            StoreError: The archive cannot be written.
        """
        self._correct(page_id, text)

    def uncorrect(self, page_id: str) -> None:
        """Take a correction back: what was read stands again; nothing happens where there is none.

        Raises:
            ConfigError: There is no such page.
            StoreError: The archive cannot be written.
        """
        self._correct(page_id, None)

    def _correct(self, page_id: str, text: str | None) -> None:
        row = self._catalog.page(page_id)
        if row is None:
            msg = f"there is no page {page_id!r} in the archive {self.folder}."
            raise ConfigError(msg, hint="A page's id changes with its file: search again.")
        check_correctable(row)
        if self._catalog.correct({page_id: text}):
            self._index_corrected([page_id])

    def correction(self, page_id: str) -> Correction | None:
        """Return what a person wrote in place of a page's transcription; None where nobody did."""
        row = self._catalog.page(page_id)
        return self._catalog.correction(row.content_sha256) if row is not None else None

    def text_as_read(self, page_id: str) -> str:
        """Return a page's transcription as it was read, whatever stands in its place; "" where there is none."""
        row = self._catalog.page(page_id)
        return read_text(row) if row is not None else ""

    def export(self, folder: str | Path, *, to: ExportFormat = "md", group_by: GroupBy = "file") -> ExportReport:
        """Write all texts to files that people can read, and edit for `import_corrections`.

        A file that is there already is written over only where nothing is lost by it: it is as it was exported, or
        everything edited in it was imported.

        Args:
            folder: Where to; made if missing.
            to: `md`, `txt` or `jsonl`.
            group_by: `file`: one for each file; `folder`: one for each folder.

        Raises:
            ConfigError: The folder is a file, or `to` or `group_by` is unknown.
        """
        return Exporter(self._catalog, Path(folder), to, group_by).run()

    def import_corrections(self, folder: str | Path) -> ImportReport:
        """Take what was edited in exported files as corrections: only pages whose text is another than was exported.

        A file whose marks are damaged is left aside as a whole. A page that was corrected elsewhere since the export
        keeps that correction.

        Args:
            folder: One that was exported to, or a single file of it.

        Raises:
            SourceError: There is no export.
            StoreError: The archive cannot be written.
        """
        report = Importer(self._catalog).run(Path(folder))
        if changed := report.corrected + report.taken_back:
            self._index_corrected(changed)
        return report

    def _index_corrected(self, page_ids: Sequence[str]) -> None:
        """Make the vectors of pages just corrected, if that can be done now."""
        try:
            with self._locked():
                indexer = self._meaning.begin_writing()
                indexer.index(self._catalog.unfinished_of(page_ids))
        except (BusyError, ServerError, MissingExtraError) as err:
            log.info("the next run makes the vectors of what was corrected: %s", err)
