"""kobold-reader plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from kobold_reader.cli.exit_codes import EXIT_SERVER
from kobold_reader.cli.options import WITNESS_VARIABLE, ReadingOptions, with_options
from kobold_reader.cli.output import complain, notice, page_progress, say, say_json
from kobold_reader.options import WitnessName, about
from kobold_reader.progress import (
    spell_about,
    spell_bytes,
    spell_count,
    spell_duration,
    spell_forecast,
    spell_kinds,
    spell_skipped,
    spell_tokens,
)

if TYPE_CHECKING:
    from kobold_reader.plan import Plan
    from kobold_reader.reading.survey import Forecast


@dataclass
class PlanOptions(ReadingOptions):
    """How pages would be read, and how many to try; the witness is timed, too."""

    usual_witness: ClassVar[WitnessName | None] = "auto"
    witness: Annotated[
        WitnessName | None, typer.Option(envvar=WITNESS_VARIABLE, show_default="auto", help=about("witness"))
    ] = None
    sample: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Pages to time, spread evenly over everything; 0: send no request."),
    ] = 3


@with_options(PlanOptions)
def plan(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Files, folders, patterns or URLs.")],
    options: PlanOptions,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> int:
    """Count pages, time a few, and say how long the rest will take."""
    from kobold_reader.cli.outcome import add_ways_on, closing_code, offer_rapidocr
    from kobold_reader.plan import make_plan
    from kobold_reader.session import take

    options.refuse_tagless()
    with options.session() as session, session.open_ledger() as ledger, page_progress() as progress:
        selection = take(paths, known=ledger.kind_of)
        made = make_plan(session, selection, ledger, sample=options.sample or 0, on_progress=progress.doing)
    if made.server_error and not as_json:
        offer_rapidocr(session, progress)
    if as_json:
        say_json(made.to_dict())
    else:
        for line in _lines(made, session.options.stop_after_s):
            say(line)
    if made.selection.skipped:
        notice(spell_skipped(made.selection.skipped))
    if made.server_error:
        add_ways_on(made.server_error, options)
        complain(str(made.server_error))
        return EXIT_SERVER
    usable = made.outlook.pages - made.outlook.by_kind["failed"]
    taken_of = None if selection.files else selection.skipped
    return closing_code(made.errors, usable, options.on_error, named_by="--json", taken_of=taken_of)


def _lines(made: Plan, stop_after_s: float | None) -> list[str]:
    outlook = made.outlook
    lines = [f"{spell_count(outlook.files, 'file')}, {spell_count(outlook.pages, 'page')}"]
    width = max(map(len, outlook.by_file_kind), default=0)
    lines += [f"  {kind:<{width}}  {spell_kinds(counts)}" for kind, counts in sorted(outlook.by_file_kind.items())]
    if outlook.poor_text_pages:
        lines.append(f"{spell_count(outlook.poor_text_pages, 'page')} to be read: the text layer there is too poor")
    indexing = []
    if outlook.indexing_s is not None:
        measured = f"about {spell_about(outlook.indexing_s)} in a new archive, by some passages that were timed"
        indexing.append(f"indexing, beside the reading: {measured}")
    if not outlook.due_tasks:
        return [*lines, "nothing is left to be read" if outlook.pages else "nothing to be read", *indexing]
    tasks = ", ".join(f"{task} of {spell_count(count, 'page')}" for task, count in outlook.due_tasks.items())
    lines.append(f"to be asked: {tasks}")
    if made.sample_pages:
        now = ", ".join(f"{count} {status}" for status, count in sorted(made.statuses.items()))
        read = f"just now {now}" if now else "read before"
        lines.append(f"sample: {spell_count(made.sample_pages, 'page')}, {read}")
    if made.forecast is None:
        return [*lines, "how long that takes is not known: no page was timed", *indexing]
    return [*lines, *_forecast_lines(made.forecast, made.witness_s, stop_after_s, outlook.to_read_pages), *indexing]


def _forecast_lines(
    forecast: Forecast, witness_s: float | None, stop_after_s: float | None, to_read_pages: int
) -> list[str]:
    timed = f"by {spell_count(forecast.timed_pages, 'page')} that {forecast.model or 'this engine'} read"
    tiles = f" ({forecast.images_a_page:.1f} tiles a page)" if forecast.images_a_page > 1 else ""
    cost = [f"about {spell_count(forecast.requests, 'request')}{tiles}"]
    cost += [f"{spell_tokens(forecast.tokens)} tokens"] if forecast.tokens else []
    cost += [f"{spell_bytes(forecast.kept_bytes)} in the ledger"]
    lines = [f"{spell_forecast(forecast)}, {timed}", ", ".join(cost)]
    if witness_s is not None:
        pace = "it keeps up" if witness_s <= forecast.seconds else "slower than the server, which never waits for it"
        lines.append(f"the witness, beside the reading: about {spell_about(witness_s)}; {pace}")
    if stop_after_s is not None:
        pages = spell_count(forecast.pages_in(stop_after_s, to_read_pages), "page")
        lines.append(f"in {spell_duration(stop_after_s)}: about {pages} of these")
    return lines
