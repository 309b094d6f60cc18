"""kobold-reader search."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kobold_reader.cli.options import ArchivesOption, ServerOptions, with_options
from kobold_reader.cli.output import harmless, notice, say, say_json
from kobold_reader.options import GroupBy, Grouping, Mode
from kobold_reader.progress import spell_count

if TYPE_CHECKING:
    from kobold_reader.archive import Hit, Hits

NAMED_COPIES = 3
NOTHING_LIKE = "no other photo is like it"


@with_options(ServerOptions)
def search(
    archive: ArchivesOption,
    options: ServerOptions,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[QUERY]...", help='Words, names, numbers, "quoted phrases", a question.', show_default=False
        ),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="In place of QUERY: photos that look like this picture, or show similar things."
        ),
    ] = None,
    limit: Annotated[int, typer.Option("-k", min=1, help="At most this many pages.")] = 5,
    mode: Annotated[Mode, typer.Option(help="dense: by meaning; keyword: all the words.")] = "hybrid",
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
    related: Annotated[
        bool | None,
        typer.Option(
            "--related/--no-related", help="Also show pages that are only related; the default, except with --json."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list.")] = False,
) -> int:
    """Find pages."""
    from kobold_reader.archive import Archive, Hits

    query = " ".join(words or ())
    if bool(words) == bool(like):
        raise typer.BadParameter("give a QUERY or --like FILE.", param_hint="QUERY")
    grouping: Grouping = by or "page"
    found: list[Hits] = []
    is_empty = True
    for path in archive:
        with Archive.open(path, api_url=options.urls(), api_password=options.password()) as opened:
            is_empty = is_empty and not opened.has_read_pages()
            look = partial(opened.search, query) if like is None else partial(opened.like, like)
            some = look(
                limit=limit,
                mode=mode,
                where=where or (),
                since=since,
                until=until,
                folder=folder,
                by=grouping,
                all_copies=all_copies,
                related=not as_json if related is None else related,
                on_notice=notice,
            )
            found.append(some)
    hits = Hits.merged(found, grouping, limit)
    if as_json:
        say_json([hit.to_json() for hit in hits])
    else:
        show_hits(hits, "some of the words" if mode == "keyword" else "perhaps related", grouping)
    if hits.absent_phrases:
        _say_absent(hits.absent_phrases, query)
    elif not hits.total and not as_json:
        if like or not is_empty:  # an empty archive was named as such
            notice(NOTHING_LIKE if like else "nothing found; try other words or fewer filters")
    elif not as_json:
        shown = sum(hit.match != "related" for hit in hits)
        say(
            f"{spell_count(hits.total, 'page')} found{'' if shown == hits.total else f'; {shown} shown, -k shows more'}"
        )
    return 0


def show_hits(hits: Hits, line: str = "perhaps related", by: Grouping = "page") -> None:
    """Print hits, those that are merely related below a line."""
    group, is_related = "", False
    for number, hit in enumerate(hits, start=1):
        if hit.match == "related" and not is_related:
            group, is_related = "", True
            say(f"── {line} ──\n")
        if by != "page" and hit.group(by) != group:
            group = hit.group(by)
            say(f"{harmless(group)}\n")
        say(show_hit(number, hit, colour=sys.stdout.isatty()), is_harmless=True)


def _say_absent(phrases: Sequence[str], query: str) -> None:
    from kobold_reader.archive.query import unquoted

    quoted = " and ".join(f'"{phrase}"' for phrase in phrases)
    where = "is on no page" if len(phrases) == 1 else "are on no page together"
    notice(f"{quoted} {where}; to find the words anywhere, leave out the quotes: {unquoted(query)}")


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
    words = ""
    if hit.respelled:
        words += f"   in another spelling: {harmless(', '.join(hit.respelled))}\n"
    if hit.missing:
        words += f"   not on this page: {harmless(', '.join(hit.missing))}\n"
    alike = ""
    if hit.alike:
        copies = [
            harmless(one.file_path) + (f" page {one.page_number}" if "#page=" in one.link else "")
            for one in hit.alike[:NAMED_COPIES]
        ]
        more = " …" if len(hit.alike) > NAMED_COPIES else ""
        alike = f"   and {len(hit.alike)} like it: {', '.join(copies)}{more}\n"
    return f"{number}. {hit.file_name}, {page}{part}  [{hit.score:.2f}]\n{passage}\n{words}   {hit.link}\n{alike}"
