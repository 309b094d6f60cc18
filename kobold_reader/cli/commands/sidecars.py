"""kobold-reader sidecars."""

from __future__ import annotations

import difflib
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kobold_reader.cli.exit_codes import EXIT_OK, EXIT_PARTIAL, EXIT_SOURCE
from kobold_reader.cli.options import ARCHIVE_VARIABLE, LEDGER_VARIABLE
from kobold_reader.cli.output import complain, notice, say, say_json
from kobold_reader.errors import ConfigError
from kobold_reader.progress import spell_count

if TYPE_CHECKING:
    from kobold_reader.archive.sidecars import SidecarReport


def sidecars(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Photos, or folders of them.")],
    archive: Annotated[
        Path | None,
        typer.Option("--archive", metavar="DIR", envvar=ARCHIVE_VARIABLE, help="Write what this archive says."),
    ] = None,
    ledger: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help=f"Or what this ledger says; left out: the default one. [env: {LEDGER_VARIABLE}]"
        ),
    ] = None,
    sidecar_name: Annotated[
        Literal["photo.xmp", "photo.jpg.xmp"] | None,
        typer.Option(help="How sidecars are named; left out: the one that is there, else photo.jpg.xmp."),
    ] = None,
    keyword_parent: Annotated[
        str | None,
        typer.Option(metavar="WORD", help='The keyword above ours; left out: as before, else AI. "": none.'),
    ] = None,
    title: Annotated[bool, typer.Option("--title", help="Write a title, too.")] = False,
    overwrite: Annotated[
        Literal["description", "title"] | None,
        typer.Option(help="Replace what people wrote by ours; theirs is kept aside, and --remove puts it back."),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take out exactly what was put in.")] = False,
    rename: Annotated[
        list[str] | None,
        typer.Option(metavar="OLD=NEW", help="Rename a keyword of ours, in the archive too. May be repeated."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing; show what would change.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="What was done, as JSON.")] = False,
) -> int:
    """Write descriptions and keywords of photos into XMP sidecars.

    Photo programs read them. What people wrote there stays. The photos themselves are never written.
    """
    from kobold_reader.archive import Archive
    from kobold_reader.archive.sidecars import SidecarOptions, Sidecars
    from kobold_reader.archive.tags import parse_names
    from kobold_reader.reading.ledger import Ledger
    from kobold_reader.session import take

    names = parse_names(rename or ())
    if remove and names:
        raise typer.BadParameter("it does not go together with --remove", param_hint="--rename")
    options = SidecarOptions(sidecar_name, keyword_parent, title, (overwrite,) if overwrite else (), dry_run)
    on_change = _show if dry_run and not as_json else None
    with nullcontext() if archive is None else Archive.open(archive) as opened:
        if remove:
            report = Sidecars(options, on_change).remove(take(paths))
        elif names:
            selection = take(paths)
            if opened is not None and not dry_run:
                pages = spell_count(opened.rename_tags(names), "page")
                notice(f"tags of {pages} in the archive renamed; those of later readings will be, too")
            report = Sidecars(options, on_change).rename(selection, names)
        elif opened is not None:
            report = opened.write_sidecars(paths, options, on_change=on_change)
        else:
            with Ledger(_existing(ledger), read_only=True) as kept:
                report = Sidecars(options, on_change).write(take(paths, known=kept.kind_of), kept)
    if as_json:
        say_json(report.to_json())
    notice_sidecars(report, dry_run=dry_run)
    if not report.errors:
        return EXIT_OK
    return EXIT_PARTIAL if report.written or report.removed or report.unchanged else EXIT_SOURCE


def _existing(given: str | None) -> Path:
    from kobold_reader.cli.outcome import existing_ledger

    path = existing_ledger(given)
    if path is None:
        hint = "What `index` read is in its archive: name it with --archive DIR."
        raise ConfigError("there is no ledger of `read` to take words from.", hint=hint)
    return path


def _show(place: Path, before: bytes | None, after: bytes | None) -> None:
    """Write the difference to stdout."""
    from kobold_reader.pages import shown

    name = shown(str(place))
    old, new = (name if data is not None else "/dev/null" for data in (before, after))
    for line in difflib.unified_diff(_lines(before), _lines(after), old, new, lineterm=""):
        say(line)


def _lines(data: bytes | None) -> list[str]:
    data = data or b""
    return data.decode("utf-16" if data[:2] in {b"\xff\xfe", b"\xfe\xff"} else "utf-8", "replace").splitlines()


def notice_sidecars(report: SidecarReport, *, dry_run: bool = False) -> None:
    """Say what became of sidecars."""
    would = "would be " if dry_run else ""
    is_all_new = 0 < report.new == report.written
    new = f" ({report.new} of them new)" if report.new and not is_all_new else ""
    said = [f"{spell_count(report.written, 'new sidecar' if is_all_new else 'sidecar')} {would}written{new}"]
    said += [f"{report.removed} {would}removed, as nothing else was in them"] if report.removed else []
    said += [f"{report.unchanged} unchanged"] if report.unchanged else []
    notice(", ".join(said))
    if report.wordless_photos:
        photos = spell_count(report.wordless_photos, "photo")
        notice(f"{photos} without a description and keywords; --tasks caption,tags of `index` makes them")
    if report.unknown_files:
        notice(f"{spell_count(report.unknown_files, 'file')} not read yet, or changed since: `index` reads them")
    if report.other_files:
        notice(f"{spell_count(report.other_files, 'file')} left alone: no photos")
    for error in report.errors[:10]:
        complain(str(error))
    if more := len(report.errors[10:]):
        complain(f"and {more} more; --json names all")
