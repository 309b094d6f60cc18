"""kobold-reader demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kobold_reader.cli.options import ServerOptions, with_options
from kobold_reader.cli.output import activate_command, notice, page_progress, program_to_type, say
from kobold_reader.errors import archive_option
from kobold_reader.progress import spell_statuses


@with_options(ServerOptions)
def demo(
    options: ServerOptions,
    folder: Annotated[Path, typer.Option(metavar="DIR", help="Where samples and index are put.")] = Path(
        "kobold-reader-demo"
    ),
) -> int:
    """Read, index and search a sample archive; needs no server."""
    from kobold_reader.archive import Archive
    from kobold_reader.archive.embedders import usual_embedder
    from kobold_reader.cli.commands.search import show_hits
    from kobold_reader.cli.outcome import closing_code
    from kobold_reader.demo import SEARCHES, sync_samples
    from kobold_reader.embeddings.minilm_model import install_hint

    url, password = options.urls()[0], options.password()
    if usual_embedder() == "none":
        notice(f"Searching by words only: no embedder is installed. {install_hint()}")
    with Archive.open(folder / "archive", create=True, api_url=url, api_password=password) as archive:
        with page_progress() as progress:
            report = sync_samples(
                archive,
                folder,
                url,
                password,
                tell=notice,
                on_start=lambda _, outlook: progress.expect(
                    outlook.pages - outlook.passed_pages, outlook.pages - outlook.read_pages
                ),
                on_page=lambda result: progress.page_done(is_asked=result.is_asked),
                on_progress=progress.doing,
            )
        usable = sum(report.pages.values()) - report.pages["failed"]
        notice(spell_statuses(report.pages, report.kept_pages) + f", {report.indexed_pages} indexed just now")
        for kind, query in SEARCHES.items():
            say(f'\nSearch {kind}: "{query}"\n')
            hits = archive.search(query, limit=2, related=True)
            show_hits(hits)
            if not hits:
                say("   nothing found\n")
        engine = archive.settings_of(folder / "samples").get("engine")
    _say_what_next(folder / "archive", without_server=engine == "rapidocr")
    return closing_code(report.errors, usable, "skip", named_by=None)


def _say_what_next(archive: Path, *, without_server: bool) -> None:
    """Name commands that work as they stand: from this folder, in this environment, with or without the server."""
    program, here = program_to_type(), archive_option(archive)
    say("What to try next:")
    say(f'  {program} search "harbour dues 1938" {here}')
    say(f"  {program} web {here} --open")
    if without_server:
        say(f"  {program} index FOLDER --archive my-archive --engine rapidocr     # your own scans, printed text only")
        say(f"  {program} doctor     # what KoboldCpp needs for handwriting and descriptions of pictures")
    else:
        say(f"  {program} index FOLDER --archive my-archive     # your own scans")
        say(f"  {program} doctor     # what your KoboldCpp can do, and what to change")
    if program != "kobold-reader" and (activate := activate_command()):
        say(f"To type just kobold-reader, activate the environment first: {activate}")
