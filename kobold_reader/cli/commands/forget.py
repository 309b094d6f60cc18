"""kobold-reader forget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from kobold_reader.cli.options import ARCHIVE_VARIABLE, LEDGER_VARIABLE
from kobold_reader.cli.output import notice
from kobold_reader.progress import spell_count


def forget(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="Files or folders; they need not exist any more.")
    ],
    archive: Annotated[
        Path | None, typer.Option("--archive", metavar="DIR", envvar=ARCHIVE_VARIABLE, help="Forget them there too.")
    ] = None,
    ledger: Annotated[
        str | None,
        typer.Option(metavar="FILE", help=f"A ledger; left out: the default one. [env: {LEDGER_VARIABLE}]"),
    ] = None,
) -> int:
    """Remove what was read of files; the files themselves stay.

    Afterwards no byte of an archive's files contains the forgotten words. First end other programs that use the archive
    (`web`, notebooks): from their memory Chroma may write scraps into its files again. `index --reembed` removes such
    scraps.
    """
    from kobold_reader.archive import Archive
    from kobold_reader.cli.outcome import existing_ledger
    from kobold_reader.pages import expanded, is_at, local_path, local_uri, shown
    from kobold_reader.reading.ledger import Ledger

    roots: set[str] = set()
    for path in paths:
        # The files of a folder that is a link are known under the folder it leads to.
        roots |= {path} if "://" in path else {local_uri(expanded(path)), local_uri(expanded(path).resolve())}

    def forgotten(uris: Sequence[str]) -> list[str]:
        found = [uri for uri in uris if any(is_at(uri, root) for root in roots)]
        # Nobody can type a name that is no text; it is forgotten under the name that is shown, too.
        return found or [uri for uri in uris if shown(local_path(uri)) in paths]

    ledger_path = existing_ledger(ledger)
    readings = 0
    removed: Counter[str] = Counter()
    with Archive.open(archive) if archive else nullcontext() as opened:
        if ledger_path:
            with Ledger(ledger_path) as kept:
                readings = kept.forget(forgotten(kept.uris()))
        if opened:
            uris = forgotten(opened.uris())
            if uris and not opened.is_read_only:
                notice("the archive's files are rewritten, so that none of these pages can be read from their bytes")
            pages, own_readings, corrections = opened.forget(uris)
            removed.update(page=pages, reading=own_readings, correction=corrections)
    if not (readings or removed.total()):
        notice("nothing was known of these files")
        return 0
    said = [spell_count(readings, "reading")] if readings else []
    said += [f"{spell_count(count, what)} of the archive" for what, count in removed.items() if count]
    notice(f"forgotten: {', '.join(said)}")
    return 0
