"""kobold-reader models."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kobold_reader.cli.exit_codes import EXIT_OK, EXIT_PARTIAL, EXIT_SOURCE
from kobold_reader.cli.output import complain, notice, say, say_json, say_table
from kobold_reader.errors import ConfigError
from kobold_reader.options import TASKS

if TYPE_CHECKING:
    from kobold_reader.kobold.pairing import Pair


def models(
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="[PATH...]", help="GGUF files, or folders of them.")
    ] = None,
    kcpps: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the pair that fits as a KoboldCpp configuration: --config FILE."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> int:
    """Say which language model fits which projector.

    Without PATH: list the model families.
    """
    if not paths:
        if kcpps:
            raise typer.BadParameter("name the language model and its projector.", param_hint="PATH")
        _say_families(as_json=as_json)
        return EXIT_OK
    from kobold_reader.kobold.pairing import ModelReport

    report = ModelReport(paths)
    if kcpps:
        _write_configuration(kcpps, report.pairs)
    if as_json:
        say_json(report.facts())
    else:
        if report.models:
            say_table(("language model", "architecture", "width", "family"), report.model_rows())
        for line in report.lines():
            say(line)
    for error in report.errors:
        complain(str(error))
    if report.empty:
        return EXIT_SOURCE
    return EXIT_PARTIAL if report.errors else EXIT_OK


def _write_configuration(path: Path, pairs: list[Pair]) -> None:
    from kobold_reader.errors import quoted
    from kobold_reader.kobold.pairing import settings, write_kcpps

    fits = [pair for pair in pairs if pair.verdict == "fits"]
    if not fits and len(pairs) == 1 and pairs[0].verdict == "doubtful":
        fits = pairs  # two files named by hand: they load
        notice(f"doubtful: {fits[0].why}")
    if not fits:
        raise ConfigError("no configuration was written: no language model and projector here fit each other.")
    if len(fits) > 1:
        raise ConfigError(
            f"no configuration was written: {len(fits)} pairs fit.",
            hint="Name the two files: kobold-reader models MODEL.gguf MMPROJ.gguf --kcpps FILE",
        )
    write_kcpps(path, settings(fits[0]))
    notice(f"written; start it with: {quoted(['koboldcpp', '--config', str(path)])}")


def _say_families(*, as_json: bool) -> None:
    from kobold_reader.kobold import FAMILIES, RECOMMENDED

    families = [family for family in FAMILIES.values() if family.is_known]
    tasks = {family.name: [task for task in TASKS if task in family.tasks] for family in families}
    if as_json:
        names = ("name", "language_model", "encoder", "max_side_px", "tasks", "min_version", "tested")
        facts = {
            "families": [
                {name: tasks[family.name] if name == "tasks" else getattr(family, name) for name in names}
                for family in families
            ],
            "recommended": {
                str(memory_gb): [asdict(one) for one in recommended] for memory_gb, recommended in RECOMMENDED.items()
            },
        }
        say_json(facts)
        return
    say_table(
        ("family", "language model; encoder", "px", "tasks", "since", "tested"),
        [
            (
                family.name,
                f"{family.language_model}; {family.encoder}",
                str(family.max_side_px),
                " ".join(tasks[family.name]),
                family.min_version,
                "yes" if family.tested else "no",
            )
            for family in families
        ],
    )
    say("\npx: the longer side of an image that reaches the encoder. tested: a test drives it on a simulated server.")
    for memory_gb, recommended in RECOMMENDED.items():
        say(f"\nworth trying with {memory_gb} GB of graphics memory:")
        for one in recommended:
            say(f"  {one.model} ({one.family}): {one.note}")
