"""kobold-reader index."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kobold_reader.cli.options import ArchiveOption, ReadingOptions, with_options

if TYPE_CHECKING:
    from kobold_reader.archive import SyncReport
    from kobold_reader.archive.embedder import EmbedderKind


class EmbedderName(StrEnum):
    """Embedders."""

    minilm = "minilm"
    koboldcpp = "koboldcpp"
    none = "none"


@with_options(ReadingOptions)
def index(
    archive: ArchiveOption,
    options: ReadingOptions,
    paths: Annotated[
        list[str] | None, typer.Argument(metavar="[PATH...]", help="Left out: the paths and settings of past runs.")
    ] = None,
    embedder: Annotated[
        EmbedderName | None, typer.Option(help="For a new archive; left out: minilm if installed, else words only.")
    ] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Remove files that are gone, below these PATHs.")] = False,
    reembed: Annotated[bool, typer.Option("--reembed", help="Make all vectors anew; reads no page.")] = False,
) -> int:
    """Read what is new or changed, and index it."""
    from kobold_reader.archive import Archive
    from kobold_reader.cli.commands.outcome import closing_code
    from kobold_reader.cli.output import notice, page_progress

    kind: EmbedderKind | None = embedder.value if embedder else None
    wanted = None if reembed else kind
    with Archive.open(
        archive,
        create=bool(paths),
        embedder=wanted,
        api_url=options.urls(),
        api_password=options.password(),
    ) as opened:
        if reembed:
            notice(f"{opened.reembed(kind)} pages have new vectors ({opened.status().embedder})")
            if not paths:
                return 0
        _say_embedder(opened)
        with page_progress() as progress:
            report = opened.sync(
                paths or None,
                reader=options.reader() if paths else None,
                prune=prune,
                on_start=lambda selection, outlook: _say_start(selection, outlook, progress),
                on_page=lambda result: progress.page_done(is_kept=result.is_kept),
                on_progress=progress.doing,
            )
    _say_end(report, archive)
    read_pages = sum(report.pages.values()) - report.pages["failed"]
    return closing_code(report.errors, read_pages, options.on_error.value)


def _say_embedder(archive: object) -> None:
    from kobold_reader.archive import Archive
    from kobold_reader.cli.output import notice
    from kobold_reader.embeddings.minilm import INSTALL_HINT

    assert isinstance(archive, Archive)  # noqa: S101  (for the type checker; the import is deferred)
    if archive.status().embedder == "none":
        notice(f"words only: this archive has no vectors. {INSTALL_HINT}")


def _say_start(selection: object, outlook: object, progress: object) -> None:
    from kobold_reader.cli.output import PageProgress, notice
    from kobold_reader.pages import Selection
    from kobold_reader.reading.transcriber import Outlook

    assert isinstance(selection, Selection)  # noqa: S101
    assert isinstance(outlook, Outlook)  # noqa: S101
    assert isinstance(progress, PageProgress)  # noqa: S101
    to_read = outlook.pages - outlook.read_pages
    notice(f"{outlook.files} files, {outlook.pages} pages: {outlook.read_pages} read before, {to_read} to look at now")
    progress.expect(outlook.pages, to_read)


def _say_end(report: SyncReport, archive: Path) -> None:
    from kobold_reader.cli.commands.outcome import summary
    from kobold_reader.cli.output import notice, spell_skipped

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
        f"{report.files} files"
        + (f": {said}" if said else ", none changed")
        + f"; {report.indexed_pages} pages indexed"
    )
    if report.finished_pages:
        notice(f"{report.finished_pages} pages that an interrupted run had begun were finished first")
    if report.skipped:
        notice(spell_skipped(report.skipped))
    notice(f'search with: kobold-reader search "..." --archive {archive}')
