"""kobold-reader status."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from kobold_reader.cli.options import ARCHIVE_VARIABLE, LEDGER_VARIABLE


def status(
    archive: Annotated[
        Path | None, typer.Option("--archive", metavar="DIR", envvar=ARCHIVE_VARIABLE, help="The archive's folder.")
    ] = None,
    ledger: Annotated[
        Path | None, typer.Option(metavar="FILE", envvar=LEDGER_VARIABLE, help="A ledger; left out: the default one.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> int:
    """Say what was read: pages by status, failed ones by name."""
    from kobold_reader.cli.output import say

    facts = _archive_facts(archive) if archive else _ledger_facts(ledger)
    if as_json:
        say(json.dumps(facts, ensure_ascii=False, indent=1))
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
    return 0


def _archive_facts(folder: Path) -> dict[str, object]:
    from kobold_reader.archive import Archive

    with Archive.open(folder) as archive:
        found = archive.status()
    return {
        "archive": str(folder),
        "files": found.files,
        "pages": found.pages,
        "embedder": found.embedder,
        "unfinished_pages": found.unfinished_pages,
        "missing": [{"file": path} for path in found.missing_files],
        "failed": [{"file": path, "page_number": number, "why": why} for path, number, why in found.failed],
    }


def _ledger_facts(path: Path | None) -> dict[str, object]:
    from kobold_reader.errors import ConfigError
    from kobold_reader.reading.ledger import Ledger, default_ledger_path

    place = path or default_ledger_path()
    if not place.is_file():
        if path is not None:
            msg = f"there is no ledger {path}."
            raise ConfigError(msg)
        return {"ledger": str(place), "files": 0, "pages": {}, "failed": []}
    with Ledger(place, read_only=True) as ledger:
        counts = ledger.count()
        failures = ledger.failures()
    files = counts.pop("files")
    counts.pop("pages")
    return {
        "ledger": str(place),
        "files": files,
        "pages": {status: count for status, count in counts.items() if count},
        "failed": [{"file": one.uri, "page_number": one.page_number, "why": one.message} for one in failures],
    }
