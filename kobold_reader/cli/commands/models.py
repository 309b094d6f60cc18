"""kobold-reader models."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from kobold_reader.cli.output import complain, notice, say

if TYPE_CHECKING:
    from kobold_reader.kobold.models.gguf import EmbeddingModel, GgufFile, GgufModel, GgufProjector, Survey
    from kobold_reader.kobold.models.pairing import Pair

SHOWN_NAMES: Final = 6

_Key = TypeVar("_Key")


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
    """Say which language model fits which projector; without PATH: the model families."""
    from kobold_reader.cli.exit_codes import EXIT_OK, EXIT_PARTIAL, EXIT_SOURCE

    if not paths:
        if kcpps:
            raise typer.BadParameter("name the language model and its projector.", param_hint="PATH")
        _say_families(as_json=as_json)
        return EXIT_OK
    from kobold_reader.kobold.models.gguf import survey

    found = _Found(survey(paths), paths)
    if kcpps:
        _write(kcpps, found)
    if as_json:
        say(json.dumps(found.facts(), ensure_ascii=False, indent=1))
    else:
        found.say()
    for error in found.errors:
        complain(str(error))
    if found.empty:
        return EXIT_SOURCE
    return EXIT_PARTIAL if found.errors else EXIT_OK


def _say_families(*, as_json: bool) -> None:
    from kobold_reader.cli.output import say_table
    from kobold_reader.kobold import FAMILIES, RECOMMENDED
    from kobold_reader.options import TASKS

    families = [family for family in FAMILIES.values() if family.is_known]
    if as_json:
        facts = {
            "families": [
                {
                    "name": family.name,
                    "language_model": family.language_model,
                    "encoder": family.encoder,
                    "max_side_px": family.max_side_px,
                    "tasks": [task for task in TASKS if task in family.tasks],
                    "min_version": family.min_version,
                    "tested": family.tested,
                }
                for family in families
            ],
            "recommended": {
                str(memory): [{"family": one.family, "model": one.model, "note": one.note} for one in models]
                for memory, models in RECOMMENDED.items()
            },
        }
        say(json.dumps(facts, ensure_ascii=False, indent=1))
        return
    say_table(
        ("family", "language model; encoder", "px", "tasks", "since", "tested"),
        [
            (
                family.name,
                "; ".join(part for part in (family.language_model, family.encoder) if part),
                str(family.max_side_px),
                " ".join(task for task in TASKS if task in family.tasks),
                family.min_version,
                "yes" if family.tested else "no",
            )
            for family in families
        ],
    )
    say()
    say(
        "px: the longer side of an image that reaches the encoder. tested: driven through a simulated server by a test."
    )
    for memory, recommended in RECOMMENDED.items():
        say()
        say(f"worth trying with {memory} GB of graphics memory:")
        for one in recommended:
            say(f"  {one.model} ({one.family})" + (f": {one.note}" if one.note else ""))


def _write(path: Path, found: _Found) -> None:
    from kobold_reader.errors import ConfigError
    from kobold_reader.kobold.models.launch import quoted, settings, write_kcpps

    fits = [pair for pair in found.pairs if pair.verdict == "fits"]
    if not fits and len(found.pairs) == 1 and found.pairs[0].verdict == "doubtful":
        fits = found.pairs  # two files named by hand: they load
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


class _Found:
    """What lies in the PATHs, and how it is shown."""

    def __init__(self, found: Survey, paths: Sequence[Path]) -> None:
        from kobold_reader.kobold.models.gguf import EmbeddingModel, GgufModel, GgufProjector
        from kobold_reader.kobold.models.pairing import pair_up

        self._roots = [os.path.abspath(path) for path in paths]  # noqa: PTH100  (as the files were found)
        self.errors = found.errors
        self.empty = found.empty
        self.models = [one for one in found.files if isinstance(one, GgufModel)]
        self.projectors = [one for one in found.files if isinstance(one, GgufProjector)]
        self.embedding_models = [one for one in found.files if isinstance(one, EmbeddingModel)]
        known = (GgufModel, GgufProjector, EmbeddingModel)
        self.others = [one for one in found.files if not isinstance(one, known)]
        self.pairs = pair_up(self.models, self.projectors)

    def say(self) -> None:
        """Show everything to a person."""
        self._say_models()
        for pair in self.pairs:
            if pair.verdict == "fits" or (len(self.pairs) == 1 and pair.verdict == "doubtful"):
                self._say_pair(pair)
        if len(self.pairs) > 1:
            self._say_doubts()
        self._say_refused()
        self._say_blind()
        for projector in self.projectors:
            self._say_projector(projector)
        for model in self.embedding_models:
            about = f"{model.architecture}, {model.dimensions or '?'} dimensions"
            say(f"\n{self._name(model)}: an embedding model ({about}): --embeddingsmodel FILE")
        for other in self.others:
            say(f"\n{self._name(other)}: neither a language model nor a projector ({other.architecture})")

    def _say_models(self) -> None:
        from kobold_reader.cli.output import say_table
        from kobold_reader.kobold.families import family_of

        if not self.models:
            return
        columns = ("language model", "architecture", "width", "family")
        say_table(
            columns,
            [
                (
                    self._name(model),
                    model.architecture,
                    str(model.input_width),
                    family_of(model.stem).name,
                )
                for model in self.models
            ],
        )

    def _say_pair(self, pair: Pair) -> None:
        from kobold_reader.kobold.models.launch import LINE_VERSION, command
        from kobold_reader.kobold.models.pairing import min_version, what_it_sees

        family = pair.family.name
        if not pair.family.is_known:
            family += ": its file name tells none; rename it, or name one with --family"
        say(f"\n{pair.verdict}: {self._name(pair.model)} + {self._name(pair.projector)}")
        if pair.why:
            say(f"  {pair.why}")
        say(f"  projector  {pair.projector.kind}, for models {pair.projector.width or '?'} wide")
        say(f"  image      {what_it_sees(pair.projector)}")
        since = f"{min_version(pair)} or later" if min_version(pair) else "later than 1.115.1"
        say(f"  KoboldCpp  {since} (for the line below: {LINE_VERSION})")
        say(f"  template   {pair.template.text}")
        say(f"  family     {family}")
        say(f"  {command(pair)}")

    def _say_doubts(self) -> None:
        for (projector, why), found in _grouped(
            ((self._name(pair.projector), pair.why), self._name(pair.model))
            for pair in self.pairs
            if pair.verdict == "doubtful"
        ).items():
            say(f"\ndoubtful: {_listed(found)} + {projector}\n  {why}")

    def _say_refused(self) -> None:
        refused = [pair for pair in self.pairs if pair.verdict == "does not load"]
        if len(refused) > SHOWN_NAMES:
            say(f"\nThe other {len(refused)} pairs do not load: one is wider than the other (--json names them).")
            return
        for pair in refused:
            say(f"\ndoes not load: {self._name(pair.model)} + {self._name(pair.projector)}\n  {pair.why}")

    def _say_blind(self) -> None:
        """Name the models that were made to see, and nothing here lets them."""
        from kobold_reader.kobold.models.pairing import is_made_to_see

        paired = {pair.model.path for pair in self.pairs if pair.verdict != "does not load"}
        for model in self.models:
            if model.path not in paired and is_made_to_see(model):
                say(f"\n{self._name(model)}: no projector here fits it; it needs one for {model.input_width}")

    def _say_projector(self, projector: GgufProjector) -> None:
        from kobold_reader.kobold.models.pairing import wants

        name = self._name(projector)
        if not projector.kind:
            say(f"\n{name}: a projector that only hears ({projector.audio_kind}); it cannot read pages")
            return
        if not self._fitting(projector):
            say(f"\n{name}: no model here is known to fit it; it {wants(projector)}")
        if better := self._better_name(projector):
            say(f"\n{name}: its name tells nothing; {better} would")

    def facts(self) -> dict[str, Any]:
        """Return everything for a program."""
        return {
            "models": [self._model_facts(model) for model in self.models],
            "projectors": [self._projector_facts(projector) for projector in self.projectors],
            "pairs": [_pair_facts(pair) for pair in self.pairs],
            "embedding_models": [_embedding_facts(model) for model in self.embedding_models],
            "others": [{"file": str(other.path), "architecture": other.architecture} for other in self.others],
            "problems": [
                {"file": error.source, "why": f"{error.message} {error.hint or ''}".strip()} for error in self.errors
            ],
        }

    def _model_facts(self, model: GgufModel) -> dict[str, Any]:
        from kobold_reader.kobold.families import family_of
        from kobold_reader.kobold.models.pairing import guess_template

        return {
            "file": str(model.path),
            "architecture": model.architecture,
            "width": model.input_width,
            "context_tokens": model.context_tokens,
            "family": family_of(model.stem).name,
            "has_template": bool(model.chat_template),
            "template_rule": guess_template(model.chat_template),
            "parts": model.parts,
            "size_bytes": model.size_bytes,
        }

    def _projector_facts(self, projector: GgufProjector) -> dict[str, Any]:
        from kobold_reader.kobold.models.pairing import wants, what_it_sees

        return {
            "file": str(projector.path),
            "kind": projector.kind,
            "audio_kind": projector.audio_kind,
            "width": projector.width,
            "image_size_px": projector.image_size_px,
            "image": what_it_sees(projector) if projector.kind else "",
            "wants": wants(projector) if projector.kind else "",
            "fits": [str(model.path) for model in self._fitting(projector)],
            "better_name": self._better_name(projector),
        }

    def _fitting(self, projector: GgufProjector) -> list[GgufModel]:
        return [pair.model for pair in self.pairs if pair.projector is projector and pair.verdict == "fits"]

    def _better_name(self, projector: GgufProjector) -> str:
        from kobold_reader.kobold.models.pairing import better_name

        return better_name(projector, self._fitting(projector))

    def _name(self, file: GgufFile) -> str:
        """Return a file's path below the PATH it was found in."""
        for root in self._roots:
            if file.path.is_relative_to(root) and str(file.path) != root:
                return str(file.path.relative_to(root))
        return file.path.name


def _grouped(items: Iterable[tuple[_Key, str]]) -> Mapping[_Key, list[str]]:
    groups: dict[_Key, list[str]] = {}
    for key, item in items:
        groups.setdefault(key, []).append(item)
    return groups


def _listed(names: Sequence[str]) -> str:
    more = len(names) - SHOWN_NAMES
    return ", ".join(names[:SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")


def _pair_facts(pair: Pair) -> dict[str, Any]:
    from kobold_reader.kobold.models.launch import arguments, settings
    from kobold_reader.kobold.models.pairing import min_version

    return {
        "model": str(pair.model.path),
        "projector": str(pair.projector.path),
        "verdict": pair.verdict,
        "why": pair.why,
        "family": pair.family.name,
        "min_version": min_version(pair),
        "template": pair.template.text,
        "command": [] if pair.verdict == "does not load" else arguments(settings(pair)),
    }


def _embedding_facts(model: EmbeddingModel) -> dict[str, Any]:
    return {
        "file": str(model.path),
        "architecture": model.architecture,
        "dimensions": model.dimensions,
        "context_tokens": model.context_tokens,
    }
