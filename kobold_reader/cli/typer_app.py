"""All commands in one typer application."""

from __future__ import annotations

from typing import Annotated

import typer

from kobold_reader.cli.commands import (
    ask,
    demo,
    doctor,
    export,
    forget,
    import_,
    index,
    models,
    plan,
    read,
    search,
    status,
    web,
)
from kobold_reader.cli.output import say, show_log

app = typer.Typer(
    name="kobold-reader",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

for command in (
    demo.demo,
    plan.plan,
    read.read,
    index.index,
    search.search,
    ask.ask,
    web.web,
    status.status,
    doctor.doctor,
    models.models,
    export.export,
    import_.import_,
    forget.forget,
):
    app.command(command.__name__.rstrip("_"))(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        from kobold_reader.release import RELEASE

        say(f"kobold-reader {RELEASE}")
        raise typer.Exit


@app.callback()
def options(
    *,
    verbose: Annotated[
        int, typer.Option("-v", "--verbose", count=True, help="Say more on stderr; twice: everything.")
    ] = 0,
    version: Annotated[  # noqa: ARG001  (its callback acts)
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="The version.")
    ] = False,
) -> None:
    """Make private scanned archives searchable on your own machine, with KoboldCpp."""
    show_log(verbose)
