"""kobold-reader export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kobold_reader.cli.exit_codes import EXIT_OK, EXIT_PARTIAL
from kobold_reader.cli.options import ArchiveOption, PdfPasswordOption
from kobold_reader.cli.output import complain, notice
from kobold_reader.options import ExportFormat, GroupBy
from kobold_reader.progress import spell_count


def export(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to; made if missing.")],
    archive: ArchiveOption,
    to: Annotated[ExportFormat, typer.Option(help="Texts, a searchable PDF, or text with places.")] = "md",
    group_by: Annotated[GroupBy, typer.Option(help="One file for each file, or for each folder.")] = "file",
    pdf_password: PdfPasswordOption = None,
) -> int:
    """Write all texts to files, or searchable PDFs.

    md, txt and jsonl can be edited and imported again; pdf is a copy of the file with text.
    """
    from kobold_reader.archive import Archive

    with Archive.open(archive) as opened:
        report = opened.export(folder, to=to, group_by=group_by, pdf_passwords=pdf_password or ())
    unchanged = f", {report.unchanged_files} unchanged" if report.unchanged_files else ""
    notice(f"{spell_count(report.pages, 'page')}: {spell_count(len(report.written), 'file')} written{unchanged}")
    if report.unplaced_lines:
        notice(f"{spell_count(report.unplaced_lines, 'line')} without a known place, put between their neighbours")
    for sentence in report.notices:
        notice(sentence)
    for error in report.errors:
        complain(str(error))
    return EXIT_PARTIAL if report.errors else EXIT_OK
