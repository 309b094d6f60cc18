"""kobold-reader forget."""

from __future__ import annotations

from contextlib import nullcontext
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
        str | None, typer.Option(metavar="FILE", envvar=LEDGER_VARIABLE, help="A ledger; left out: the default one.")
    ] = None,
) -> int:
    """Remove what was read of files; the files themselves stay."""
    from kobold_reader.archive import Archive
    from kobold_reader.archive.sync import is_at
    from kobold_reader.cli.outcome import existing_ledger
    from kobold_reader.cli.output import notice, spell_count
    from kobold_reader.reading.ledger import Ledger

    roots = [uri for path in paths for uri in _uris_of(path)]
    place = existing_ledger(ledger)
    removed = pages = corrections = 0
    with Archive.open(archive) if archive else nullcontext() as kept:
        if place:
            with Ledger(place) as opened:
                removed = opened.forget([uri for uri in opened.uris() if any(is_at(uri, root) for root in roots)])
        if kept:
            uris = [uri for uri in kept.uris() if any(is_at(uri, root) for root in roots)]
            if uris:
                notice("the archive's files are written anew, so that nothing of it stays readable in their bytes")
            before = kept.status().corrections
            pages = kept.forget(uris)
            corrections = before - kept.status().corrections
    said = spell_count(removed, "reading") + (f", {spell_count(pages, 'page')} of the archive" if archive else "")
    said += f", {spell_count(corrections, 'correction')}" if corrections else ""
    notice(f"forgotten: {said}" if removed or pages or corrections else "nothing was known of what lies there")
    return 0


def _uris_of(path: str) -> set[str]:
    """Return the names under which a file, or the files of a folder, may be known."""
    from kobold_reader.pages import local_uri

    if "://" in path:
        return {path}
    # The files of a folder that is a link are known under the folder it leads to.
    return {local_uri(path), local_uri(Path(path).resolve())}
