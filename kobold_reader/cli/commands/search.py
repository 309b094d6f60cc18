"""kobold-reader search."""

from __future__ import annotations

import re
import shutil
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from kobold_reader.cli.options import ArchivesOption, ServerOptions, with_options
from kobold_reader.cli.output import harmless, notice, say, say_json
from kobold_reader.options import GroupBy, Grouping, Mode

if TYPE_CHECKING:
    from kobold_reader.archive import Hit

NAMED_COPIES = 3


@with_options(ServerOptions)
def search(
    query: Annotated[str, typer.Argument(metavar="QUERY", help='Words, names, numbers, "quoted phrases", a question.')],
    archive: ArchivesOption,
    options: ServerOptions,
    limit: Annotated[int, typer.Option("-k", min=1, help="At most this many pages.")] = 5,
    mode: Annotated[Mode, typer.Option(help="dense: by meaning; keyword: by words.")] = "hybrid",
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="COND", help="KEY=VALUE, KEY=A..B or KEY=~WORD; may be repeated."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="Pages taken, digitized or made in this year, month or day, or later."),
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="DATE", help="The same, or earlier.")] = None,
    folder: Annotated[
        str | None, typer.Option("--in", metavar="FOLDER", help="Only files there or below: a path, or a part of one.")
    ] = None,
    by: Annotated[GroupBy | None, typer.Option(help="Group the hits; -k counts groups then.")] = None,
    all_copies: Annotated[
        bool, typer.Option("--all-copies", help="Also show copies and photos that look like one already shown.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list.")] = False,
) -> int:
    """Find pages."""
    from kobold_reader.archive import Archive, grouped

    grouping: Grouping = by or "page"
    hits: list[Hit] = []
    for path in archive:
        with Archive.open(path, api_url=options.urls(), api_password=options.password()) as opened:
            hits += opened.search(
                query,
                limit=limit,
                mode=mode,
                where=where or (),
                since=since,
                until=until,
                folder=folder,
                by=grouping,
                all_copies=all_copies,
                on_notice=notice,
            )
    hits = grouped(sorted(hits, key=lambda hit: -hit.score), grouping, limit)
    if as_json:
        say_json([hit.to_json() for hit in hits])
        return 0
    group = ""
    for number, hit in enumerate(hits, start=1):
        if by and hit.group(grouping) != group:
            group = hit.group(grouping)
            say(f"{harmless(group)}\n")
        say(show_hit(number, hit, colour=sys.stdout.isatty()), is_harmless=True)
    if not hits:
        notice("nothing found; other words, or fewer conditions, may find more")
    return 0


def wrapped(passage: str) -> str:
    """Return a passage in lines as wide as the terminal, broken between words; as one line where stdout is piped."""
    if not sys.stdout.isatty():
        return f"   {passage}"
    width = max(30, min(shutil.get_terminal_size().columns, 100) - 1)
    lines, line_columns = ["  "], 2
    for word in passage.split():
        columns = len(re.sub(r"\x1b\[\d*m", "", word))  # marks take no room
        if line_columns + 1 + columns > width and line_columns > 2:  # noqa: PLR2004
            lines.append("  ")
            line_columns = 2
        lines[-1] += f" {word}"
        line_columns += 1 + columns
    return "\n".join(lines)


def show_hit(number: int, hit: Hit, *, colour: bool) -> str:
    """Return a hit as text: file, page, score, the passage with its words marked, and the link."""
    start, stop = ("\x1b[1m", "\x1b[0m") if colour else ("", "")
    marked, end = "", 0
    for first, last in hit.marks:
        marked += harmless(hit.text[end:first]) + start + harmless(hit.text[first:last]) + stop
        end = last
    passage = wrapped(" ".join((marked + harmless(hit.text[end:])).split()))
    label = str(hit.metadata.get("page_label", ""))
    page = f"page {hit.page_number}" + (f" ({label})" if label not in {"", str(hit.page_number)} else "")
    part = {"caption": ", description", "tags": ", tags"}.get(hit.page_part, "")
    alike = ""
    if hit.alike:
        copies = [
            harmless(one.file_path) + (f" page {one.page_number}" if "#page=" in one.link else "")
            for one in hit.alike[:NAMED_COPIES]
        ]
        more = " …" if len(hit.alike) > NAMED_COPIES else ""
        alike = f"   and {len(hit.alike)} like it: {', '.join(copies)}{more}\n"
    return f"{number}. {hit.file_name}, {page}{part}  [{hit.score:.2f}]\n{passage}\n   {hit.link}\n{alike}"
