"""kobold-reader import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kobold_reader.cli.exit_codes import EXIT_OK, EXIT_PARTIAL, EXIT_SOURCE
from kobold_reader.cli.options import ArchiveOption, ServerOptions, with_options
from kobold_reader.cli.output import complain, notice
from kobold_reader.progress import spell_count


@with_options(ServerOptions)
def import_(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What was exported and edited; also a single file.")],
    archive: ArchiveOption,
    options: ServerOptions,
) -> int:
    """Take your edits in exported files as corrections."""
    from kobold_reader.archive import Archive

    with Archive.open(archive, api_url=options.urls(), api_password=options.password()) as opened:
        report = opened.import_corrections(folder)
        unfinished = opened.status().unfinished_pages
    corrected, taken_back = len(report.corrected), len(report.taken_back)
    counted = f"{spell_count(report.pages, 'page')} in {spell_count(report.files, 'file')}: {corrected} corrected"
    notice(counted + (f", {taken_back} set back to what was read" if taken_back else ""))
    if report.other_files:
        notice(f"{spell_count(report.other_files, 'file')} left aside: not exported by kobold-reader")
    if unfinished and (corrected or taken_back):
        notice("the corrections can be found by their words now, and by meaning after the next `index`")
    for error in report.errors:
        complain(str(error))
    if report.errors:
        return EXIT_PARTIAL if report.files else EXIT_SOURCE
    return EXIT_OK
