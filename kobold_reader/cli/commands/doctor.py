"""kobold-reader doctor."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from kobold_reader.cli.exit_codes import EXIT_OK, EXIT_SERVER
from kobold_reader.cli.options import ServerOptions, with_options
from kobold_reader.cli.output import complain, notice, say, say_json
from kobold_reader.progress import spell_count

_MARKS = {"ok": "ok     ", "advice": "advice ", "problem": "PROBLEM"}


@with_options(ServerOptions)
def doctor(
    options: ServerOptions,
    family: Annotated[
        str | None, typer.Option(metavar="NAME", help="Model family, where the model's name does not tell it.")
    ] = None,
    visionmaxres: Annotated[
        int | None, typer.Option(metavar="N", min=64, help="What the server was started with; else it is measured.")
    ] = None,
    self_test: Annotated[
        bool, typer.Option("--self-test/--no-self-test", help="Have the server read a drawn test card.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> int:
    """Report what the server can do, and what to change."""
    from kobold_reader.doctor import examine

    findings = examine(
        options.urls(),
        options.password(),
        family,
        visionmaxres,
        with_self_test=self_test,
        on_self_test=lambda url: notice(f"{url} is shown a test card; on a slow machine that takes a while …"),
    )
    if as_json:
        say_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            say(f"{_MARKS[finding.level]} {finding.text}")
            if finding.remedy:
                say(f"        -> {finding.remedy}")
    problems = sum(finding.level == "problem" for finding in findings)
    if problems:
        complain(f"{spell_count(problems, 'problem')} found: no page can be read there until it is solved")
    return EXIT_SERVER if problems else EXIT_OK
