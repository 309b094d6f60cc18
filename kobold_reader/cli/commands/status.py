"""kobold-reader status."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kobold_reader.cli.options import ARCHIVE_VARIABLE, LEDGER_VARIABLE, ServerOptions
from kobold_reader.cli.output import notice, say, say_json
from kobold_reader.progress import spell_count

if TYPE_CHECKING:
    from kobold_reader.archive import Alike, TagStatistics


WORTH_A_LOOK = 20
"""Pages listed, the most doubtful ones."""
TAGS_LISTED = 40
"""The most used ones."""


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
    tags: Annotated[
        bool, typer.Option("--tags", help="An archive's tags: how many pages have each, and which are nearly the same.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> int:
    """Report pages by status, and failed pages by name."""
    from kobold_reader.archive.folder import LEDGER
    from kobold_reader.cli.outcome import find_lower_resolution

    if archive and ledger:
        raise typer.BadParameter("name one of the two.", param_hint="--archive, --ledger")
    if not archive and not ledger and (folder := os.environ.get(ARCHIVE_VARIABLE)):
        archive = Path(folder)
    if (duplicates or tags) and not archive:
        raise typer.BadParameter("name the archive to look through.", param_hint="--archive")
    groups: list[tuple[Alike, ...]] | None = None
    used: TagStatistics | None = None
    if archive:
        facts, groups, used = _archive_facts(archive, with_duplicates=duplicates, with_tags=tags)
        ledger_path = archive / LEDGER
    else:
        facts = _ledger_facts(ledger)
        ledger_path = Path(facts["ledger"])
    lower = find_lower_resolution(ledger_path, ServerOptions().urls())
    if as_json:
        facts |= {"low_resolution": asdict(lower) if lower else None}
        facts |= {} if groups is None else {"duplicates": [[one.to_json() for one in group] for group in groups]}
        facts |= {} if used is None else {"tags": used.to_json()}
        say_json(facts)
        return 0
    _say_facts(facts)
    if not archive and not ledger:
        notice("what `index` read is in its archive: kobold-reader status --archive DIR")
    if lower:
        say(f"low resolution: {lower}")
    if groups is not None:
        _say_groups(groups)
    if used is not None:
        _say_tags(used)
    return 0


def _say_groups(groups: Sequence[tuple[Alike, ...]]) -> None:
    say(f"duplicates: {spell_count(len(groups), 'group')}")
    for group in groups:
        for number, one in enumerate(group):
            how = "" if not number else "  same: " if one.is_equal else "  like: "
            say(f"{how}{one.file_path}" + (f" page {one.page_number}" if "#page=" in one.link else ""))


def _say_tags(used: TagStatistics) -> None:
    say(f"tags: {len(used.counts)} on {spell_count(used.pages, 'page')}, {len(used.once)} of one page only")
    for one in used.counts[:TAGS_LISTED]:
        by_people = f", {one.by_people} by people" if one.by_people else ""
        say(f"{one.pages:>7}  {one.tag}{by_people}")
    if len(used.counts) > TAGS_LISTED:
        say(f"         and {len(used.counts) - TAGS_LISTED} more, which --json lists")
    for group in used.near:
        say(f"nearly the same: {', '.join(f'{one.tag} ({one.pages})' for one in group)}")


def _archive_facts(
    folder: Path, *, with_duplicates: bool, with_tags: bool
) -> tuple[dict[str, Any], list[tuple[Alike, ...]] | None, TagStatistics | None]:
    from kobold_reader.archive import Archive

    with Archive.open(folder) as archive:
        found = archive.status()
        groups = archive.duplicates() if with_duplicates else None
        used = archive.tags() if with_tags else None
        look = [one for one in archive.worth_a_look() if one.status != "failed"]
    facts = {
        "archive": str(folder),
        "files": found.files,
        "pages": found.pages,
        "corrections": found.corrections,
        "embedder": found.embedder,
        "unfinished_pages": found.unfinished_pages,
        "missing": [{"file": path} for path in found.missing_files],
        "failed": [_failed(path, number, why) for path, number, why in found.failed],
    }
    facts |= _looks((one.file_path, one.page_number, one.status, one.why) for one in look[:WORTH_A_LOOK])
    if look:
        facts["to look at"] = f"{spell_count(len(look), 'page')}, one by one in `kobold-reader web`"
    return facts, groups, used


def _ledger_facts(name: str | None) -> dict[str, Any]:
    from kobold_reader.cli.outcome import existing_ledger
    from kobold_reader.errors import LedgerError
    from kobold_reader.pages import local_path, shown
    from kobold_reader.reading.ledger import DoubtfulPage, Ledger, default_ledger_path

    path = existing_ledger(name)
    if path is None:
        none_yet = name or os.environ.get(LEDGER_VARIABLE) or str(default_ledger_path())
        return {"ledger": none_yet, "files": 0, "pages": {}, "failed": []}
    with Ledger(path, read_only=True) as ledger:
        counts = ledger.count()
        failures = ledger.failures()
        look: list[DoubtfulPage] = []
        with suppress(LedgerError):  # only these facts are missing
            look = ledger.worth_a_look()[:WORTH_A_LOOK]
    return {
        "ledger": str(path),
        "files": counts["files"],
        "pages": {what: count for what, count in counts.items() if count and what not in {"files", "pages"}},
        "failed": [_failed(shown(local_path(one.uri)), one.page_number, one.message) for one in failures],
        **_looks((shown(local_path(one.uri)), one.page_number, one.status, one.why) for one in look),
    }


def _looks(pages: Iterable[tuple[str, int, str, str]]) -> dict[str, Any]:
    look = [
        {"file": path, "page_number": number, "why": ", ".join(filter(None, (status if status != "ok" else "", why)))}
        for path, number, status, why in pages
    ]
    return {"worth a look": look} if look else {}


def _failed(path: str, page_number: int, why: str) -> dict[str, Any]:
    place = f"{path} page {page_number}" if page_number else path
    return {"file": path, "page_number": page_number, "why": why.removeprefix(f"{place}: ")}


def _say_facts(facts: Mapping[str, Any]) -> None:
    for key, value in facts.items():
        if isinstance(value, dict):
            say(f"{key}: " + (", ".join(f"{count} {what}" for what, count in value.items()) or "none"))
        elif isinstance(value, list):
            for item in value:
                page = f" page {item['page_number']}" if item.get("page_number") else ""
                why = f": {item['why']}" if item.get("why") else ""
                say(f"{key}: {item['file']}{page}{why}")
        else:
            say(f"{key}: {value}")
