"""kobold-reader forget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kobold_reader.cli.options import ARCHIVE_VARIABLE, LEDGER_VARIABLE


def forget(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="Files or folders; they need not exist any more.")
    ],
    archive: Annotated[
        Path | None, typer.Option("--archive", metavar="DIR", envvar=ARCHIVE_VARIABLE, help="Forget them there too.")
    ] = None,
    ledger: Annotated[
        Path | None, typer.Option(metavar="FILE", envvar=LEDGER_VARIABLE, help="A ledger; left out: the default one.")
    ] = None,
) -> int:
    """Remove what was read of files; the files themselves stay."""
    from kobold_reader.archive import Archive
    from kobold_reader.cli.output import notice
    from kobold_reader.pages import local_uri
    from kobold_reader.reading.ledger import Ledger, default_ledger_path

    roots = [local_uri(path) for path in paths]
    place = ledger or default_ledger_path()
    removed = pages = 0
    if place.is_file():
        with Ledger(place) as opened:
            removed = opened.forget([uri for uri in opened.uris() if _is_at(uri, roots)])
    if archive:
        with Archive.open(archive) as kept:
            pages = kept.forget([uri for uri in kept.uris() if _is_at(uri, roots)])
    notice(f"forgotten: {removed} readings" + (f", {pages} pages of the archive" if archive else ""))
    return 0


def _is_at(uri: str, roots: list[str]) -> bool:
    return any(uri == root or uri.startswith(root.rstrip("/") + "/") for root in roots)
