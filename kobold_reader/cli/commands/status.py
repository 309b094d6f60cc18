"""kobold-reader status."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kobold_reader.cli.options import ARCHIVE_VARIABLE, LEDGER_VARIABLE, ServerOptions

if TYPE_CHECKING:
    from kobold_reader.archive import Alike


def status(
    archive: Annotated[
        Path | None,
        typer.Option("--archive", metavar="DIR", help=f"The archive's folder. [env: {ARCHIVE_VARIABLE}]"),
    ] = None,
    ledger: Annotated[
        str | None,
        typer.Option(metavar="FILE", help=f"A ledger; left out: the default one. [env: {LEDGER_VARIABLE}]"),
    ] = None,
    duplicates: Annotated[
        bool, typer.Option("--duplicates", help="An archive's copies and look-alike photos, the largest file first.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> int:
    """Say what was read: pages by status, failed ones by name."""
    from kobold_reader.cli.outcome import find_lower, spell_lower
    from kobold_reader.cli.output import say

    if archive and ledger:
        raise typer.BadParameter("name one of the two.", param_hint="--archive, --ledger")
    if not archive and not ledger and (folder := os.environ.get(ARCHIVE_VARIABLE)):
        archive = Path(folder)
    if duplicates and not archive:
        raise typer.BadParameter("name the archive to look through.", param_hint="--archive")
    facts = _archive_facts(archive) if archive else _ledger_facts(ledger or os.environ.get(LEDGER_VARIABLE))
    groups = _groups(archive) if archive and duplicates else None
    lower = find_lower(archive / "ledger.sqlite" if archive else Path(str(facts["ledger"])), ServerOptions().urls())
    if as_json:
        more: dict[str, object] = {"low_resolution": asdict(lower) if lower else None}
        more |= {"duplicates": [[one.to_json() for one in group] for group in groups]} if groups is not None else {}
        say(json.dumps(facts | more, ensure_ascii=False, indent=1))
        return 0
    for key, value in facts.items():
        if isinstance(value, dict):
            say(f"{key}: " + (", ".join(f"{count} {what}" for what, count in value.items()) or "none"))
        elif isinstance(value, list):
            for item in value:
                say(
                    f"{key}: {item['file']}"
                    + (f" page {item['page_number']}" if item.get("page_number") else "")
                    + (f": {item['why']}" if item.get("why") else "")
                )
        else:
            say(f"{key}: {value}")
    if lower:
        say(f"low resolution: {spell_lower(lower)}")
    if groups is not None:
        _say_groups(groups)
    return 0


def _groups(folder: Path) -> list[tuple[Alike, ...]]:
    from kobold_reader.archive import Archive

    with Archive.open(folder) as archive:
        return archive.duplicates()


def _say_groups(groups: Sequence[Sequence[Alike]]) -> None:
    from kobold_reader.cli.output import say, spell_count

    say(f"duplicates: {spell_count(len(groups), 'group')}")
    for group in groups:
        for number, one in enumerate(group):
            how = "" if not number else "  same: " if one.is_equal else "  like: "
            say(f"{how}{one.file_path}" + (f" page {one.page_number}" if "#page=" in one.link else ""))


def _archive_facts(folder: Path) -> dict[str, object]:
    from kobold_reader.archive import Archive

    with Archive.open(folder) as archive:
        found = archive.status()
    return {
        "archive": str(folder),
        "files": found.files,
        "pages": found.pages,
        "corrections": found.corrections,
        "embedder": found.embedder,
        "unfinished_pages": found.unfinished_pages,
        "missing": [{"file": path} for path in found.missing_files],
        "failed": [
            {"file": path, "page_number": number, "why": _why(path, number, why)} for path, number, why in found.failed
        ],
    }


def _ledger_facts(name: str | None) -> dict[str, object]:
    from kobold_reader.cli.outcome import existing_ledger, path_of
    from kobold_reader.reading.ledger import Ledger, default_ledger_path

    place = existing_ledger(name)
    if place is None:
        return {"ledger": name or str(default_ledger_path()), "files": 0, "pages": {}, "failed": []}
    with Ledger(place, read_only=True) as ledger:
        counts = ledger.count()
        failures = ledger.failures()
    files = counts.pop("files")
    counts.pop("pages")
    return {
        "ledger": str(place),
        "files": files,
        "pages": {status: count for status, count in counts.items() if count},
        "failed": [
            {"file": path, "page_number": one.page_number, "why": _why(path, one.page_number, one.message)}
            for path, one in ((path_of(one.uri), one) for one in failures)
        ],
    }


def _why(path: str, page_number: int, message: str) -> str:
    """Return an error's message without the file and page, which stand beside it."""
    place = f"{path} page {page_number}" if page_number else path
    return message.removeprefix(f"{place}: ")
