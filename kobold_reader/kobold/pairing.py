"""Which projector goes with which language model, what KoboldCpp makes of its chat template, and how it is started.

The rules look at the headers of the files only. The AutoGuess rules of KoboldCpp are in `autoguess.toml`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from kobold_reader.errors import ConfigError, quoted, reason
from kobold_reader.kobold.families import Family, family_of, read_toml
from kobold_reader.kobold.gguf import (
    EmbeddingModel,
    GgufFile,
    GgufModel,
    GgufProjector,
    ProjectorKind,
    projector_kinds,
    survey,
)
from kobold_reader.kobold.protocol import version_tuple

Verdict = Literal["fits", "doubtful", "does not load"]

MINICPMV_ARCHITECTURES: Mapping[int | None, frozenset[str]] = {
    2: frozenset({"llama"}),
    3: frozenset({"qwen2"}),
    4: frozenset({"qwen2"}),
    5: frozenset({"llama", "minicpm"}),
    6: frozenset({"qwen3"}),
    100045: frozenset({"qwen3"}),
}
"""Architectures that a MiniCPM-V is built on, by `clip.minicpmv_version`."""

MEANINGLESS_NAME = re.compile(
    r"(mm[-_.]?proj|clip|projector|vision)?[-_.]*(model|encoder)?[-_.]*(b?f16|f32|fp16|q\d\w*)?", re.IGNORECASE
)
FILE_TYPES: Mapping[int | None, str] = {0: "f32", 1: "f16", 7: "q8_0", 32: "bf16"}
QUANTIZATION = re.compile(r"[-_.](UD[-_.])?(I?Q\d\w*|b?f16|f32|fp16|mxfp4\w*)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class TemplateAdvice:
    """How KoboldCpp treats a chat template, and arguments that correct it."""

    text: str
    """For people."""
    settings: Mapping[str, str | bool] = field(default_factory=dict)
    """To add to KoboldCpp's arguments."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A language model and a projector."""

    model: GgufModel
    projector: GgufProjector
    verdict: Verdict
    """`doubtful`: it loads, and may write nonsense."""
    why: str
    """Why it is doubtful or does not load; "" where it fits."""
    family: Family
    """Told by the model's file name, as when its server is read with."""
    template: TemplateAdvice


# ── which fits which ──────────────────────────────────────────────────────────────────────────────


def pair_up(models: Sequence[GgufModel], projectors: Sequence[GgufProjector]) -> list[Pair]:
    """Judge every model with every projector that sees; those that fit come first."""
    pairs = [judge(model, projector) for model in models for projector in projectors if projector.kind]
    return sorted(pairs, key=lambda pair: get_args(Verdict).index(pair.verdict))


def judge(model: GgufModel, projector: GgufProjector) -> Pair:
    """Say whether a projector loads on a model, and whether it was made for it."""
    family = family_of(model.stem)
    verdict, why = _verdict(model, projector)
    return Pair(model, projector, verdict, why, family, _template_advice(model, projector.kind, family))


def _verdict(model: GgufModel, projector: GgufProjector) -> tuple[Verdict, str]:
    if projector.kind not in projector_kinds():
        return "doubtful", f"KoboldCpp 1.115.1 knows no projectors of kind {projector.kind}"
    if projector.width is None:
        return "doubtful", f"how wide a model a projector of kind {projector.kind} is for cannot be told here"
    if projector.width != model.input_width:
        return "does not load", f"the model is {model.input_width} wide, the projector is for {projector.width}"
    doubt = _doubt_by_facts(model, projector) or _doubt_by_name(model, projector)
    return ("doubtful", doubt) if doubt else ("fits", "")


def _doubt_by_facts(model: GgufModel, projector: GgufProjector) -> str:
    kind = projector_kinds()[projector.kind]
    made_for = kind.architectures
    if kind.name == "resampler":
        made_for = MINICPMV_ARCHITECTURES.get(projector.minicpmv_version, made_for)
    if not made_for:
        if _family_of_file(model).projector == kind.name:
            return ""
        return f"equally wide, but which models a projector of kind {kind.name} is made for is not known here"
    if model.architecture not in made_for:
        return f"equally wide, but a {kind.name} projector is made for {_or(made_for)}, not for {model.architecture}"
    if kind.image_token and model.has_vocabulary and kind.image_token not in model.image_tokens:
        return f"equally wide, but the model has no token {kind.image_token}: it was not taught to see with this kind"
    return ""


def _doubt_by_name(model: GgufModel, projector: GgufProjector) -> str:
    """Doubt a pair whose facts agree: most text models share their architecture with one that sees."""
    if model.basename and model.basename.casefold() == projector.basename.casefold():
        return ""  # both converted from one model
    family = _family_of_file(model)
    made_for = _family_of_file(projector)
    sees = _has_vision_architecture(model)
    if not family.is_known:
        if sees or projector_kinds()[projector.kind].image_token in model.image_tokens:
            return ""
        return f"equally wide, but nothing in the model's name says that it was taught to see ({model.architecture})"
    if family.projector in projector_kinds() and family.projector != projector.kind:
        return f"equally wide, but the model's name says {family.name}, whose projector is a {family.projector}"
    if made_for.is_known and made_for.name != family.name and not sees:
        return f"equally wide, but the model's name says {family.name}, the projector's {made_for.name}"
    return ""


def _family_of_file(file: GgufModel | GgufProjector) -> Family:
    """Return the family by a file's name, or by the names in its header."""
    found = [family_of(name) for name in (file.stem, file.name, file.basename)]
    return next((family for family in found if family.is_known), found[0])


def _has_vision_architecture(model: GgufModel) -> bool:
    return model.architecture in read_toml("projectors.toml")["vision_architectures"]


def is_made_to_see(model: GgufModel) -> bool:
    """Tell whether a language model's architecture or name says that it goes with a projector."""
    return _has_vision_architecture(model) or _family_of_file(model).is_known


def _or(names: frozenset[str]) -> str:
    *most, last = sorted(names)
    return f"{', '.join(most)} or {last}" if most else last


# ── about a projector, for people ─────────────────────────────────────────────────────────────────


def wants(projector: GgufProjector) -> str:
    """Describe the language model that a projector is for."""
    kind = projector_kinds().get(projector.kind)
    width = f"{projector.width} wide" if projector.width else "of a width that cannot be told here"
    made_for = f" ({_or(kind.architectures)})" if kind and kind.architectures else ""
    return f"wants a language model {width}{made_for}"


def what_it_sees(projector: GgufProjector) -> str:
    """Describe what of an image reaches the encoder."""
    kind = projector_kinds().get(projector.kind)
    if kind and kind.image:
        return kind.image
    if not projector.image_size_px:
        return "not known"
    text = f"{projector.image_size_px} px"
    if projector.has_tiles:
        return f"{text}, an overview and tiles"
    if projector.kind == "mlp" and projector.patch_px:
        return f"{text}, always {(projector.image_size_px // projector.patch_px) ** 2} tokens"
    return text


def min_version(pair: Pair) -> str:
    """Return the first KoboldCpp that loads a pair, as far as known; "" for a kind that 1.115.1 does not know."""
    kind = projector_kinds().get(pair.projector.kind)
    return max(kind.min_version, pair.family.min_version, key=version_tuple) if kind else ""


def better_name(projector: GgufProjector, fits: Sequence[GgufModel]) -> str:
    """Return a better name for a projector with a meaningless one; "" if its name is good, or none is known.

    Many repositories call theirs `mmproj-model-f16.gguf`, and KoboldCpp takes an old file of that name for the new one.
    `fits` are the models that the projector fits.
    """
    if not MEANINGLESS_NAME.fullmatch(projector.stem):
        return ""
    told = projector.basename or projector.name
    if told and projector.size_label and projector.size_label.casefold() not in told.casefold():
        told = f"{told}-{projector.size_label}"
    stems = {QUANTIZATION.sub("", re.sub(r"-\d{5}-of-\d{5}$", "", model.stem)) for model in fits}
    if len(stems) == 1 and (not told or not family_of(told).is_known):
        told = stems.pop()  # LLaVA's projectors are called after CLIP
    told = re.sub(r"[^\w.]+", "-", told).strip("-.")
    if not told:
        return ""
    file_type = FILE_TYPES.get(projector.file_type, "")
    name = f"mmproj-{told}" + (f"-{file_type}" if file_type else "") + ".gguf"
    return name if name != projector.path.name else ""


# ── chat templates ────────────────────────────────────────────────────────────────────────────────


def _rule_for(template: str) -> Mapping[str, Any] | None:
    return next(
        (rule for rule in read_toml("autoguess.toml")["rule"] if all(text in template for text in rule["texts"])), None
    )


def guess_template(template: str) -> str:
    """Return the rule of AutoGuess that a chat template hits; "" where KoboldCpp would fall back on Alpaca."""
    rule = _rule_for(template)
    return str(rule["name"]) if rule else ""


def _template_advice(model: GgufModel, projector_kind: str, family: Family) -> TemplateAdvice:
    found = _rule_for(model.chat_template)
    rule = found["name"] if found else ""
    if found and model.architecture not in found.get("wrong_for", ()):
        return TemplateAdvice(f"in the file; AutoGuess takes it for {rule}")
    kind = projector_kinds().get(projector_kind)
    if kind and not kind.needs_template and not model.chat_template:
        return TemplateAdvice("none, and none is needed: the model takes the bare instruction")
    adapter = _adapter(model, family)
    if model.chat_template and (rule or not adapter):
        why = f"AutoGuess would wrongly take it for {rule}" if rule else "no rule of AutoGuess knows it"
        return TemplateAdvice(f"in the file, but {why}: --jinja uses it as it is", {"jinja": True})
    why = "no rule of AutoGuess knows the file's" if model.chat_template else "none in the file"
    if adapter:
        return TemplateAdvice(f"{why}: {adapter} is forced", {"chatcompletionsadapter": adapter})
    return TemplateAdvice(f"{why}, and none is known for it: KoboldCpp would use Alpaca's")


def _adapter(model: GgufModel, family: Family) -> str:
    """Return KoboldCpp's name for the chat template that a model wants; "" where it is not known."""
    if family.is_known and family.adapter:
        return family.adapter
    if model.architecture != "llama":
        return str(read_toml("autoguess.toml")["adapter_by_architecture"].get(model.architecture, ""))
    names = f"{model.stem} {model.name}"
    rows = read_toml("autoguess.toml")["adapter_by_name"]
    return next((row["adapter"] for row in rows if re.search(row["pattern"], names, re.IGNORECASE)), "")


# ── starting KoboldCpp with a pair ────────────────────────────────────────────────────────────────

CONTEXT_TOKENS = 16_384
VISIONMAXRES_PX = 2048
LINE_VERSION = "1.112"
"""First KoboldCpp that knows all these arguments."""


def settings(pair: Pair) -> dict[str, str | int | bool]:
    """Return KoboldCpp's arguments for reading pages with a pair, by the names that its configurations use."""
    kind = projector_kinds().get(pair.projector.kind, ProjectorKind(""))
    chosen: dict[str, str | int | bool] = {
        "model_param": str(pair.model.path),
        "mmproj": str(pair.projector.path),
        "contextsize": min(CONTEXT_TOKENS, pair.model.context_tokens or CONTEXT_TOKENS),
        "visionmaxres": VISIONMAXRES_PX,
    }
    if kind.vision_tokens:
        chosen["visionmintokens"], chosen["visionmaxtokens"] = kind.vision_tokens
    chosen["batchsize"] = kind.batch_tokens
    return {**chosen, "noshift": True, "quiet": True, **pair.template.settings}


def arguments(chosen: Mapping[str, str | int | bool]) -> list[str]:
    """Return the command line with KoboldCpp's arguments."""
    line = ["koboldcpp"]
    for name, value in chosen.items():
        line.append("--model" if name == "model_param" else f"--{name}")
        if value is not True:
            line.append(str(value))
    return line


def command(pair: Pair) -> str:
    """Return the line that starts KoboldCpp with a pair."""
    return quoted(arguments(settings(pair)))


def write_kcpps(path: Path, chosen: Mapping[str, str | int | bool]) -> None:
    """Write a KoboldCpp configuration: whole, or not at all, and never over an existing file.

    Raises:
        ConfigError: The file exists, or cannot be written.
    """
    if path.exists() or path.is_symlink():
        raise ConfigError(f"{path} exists already, and is not overwritten.", hint="Name another file, or remove it.")
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_text(json.dumps(chosen, ensure_ascii=False, indent=1) + "\n", encoding="utf-8", newline="\n")
        os.replace(part, path)  # noqa: PTH105  (atomic on Windows too)
    except OSError as err:
        raise ConfigError(f"{path} cannot be written ({reason(err)}).", hint="Name another file.") from err
    finally:
        part.unlink(missing_ok=True)


# ── for people and programs ───────────────────────────────────────────────────────────────────────

SHOWN_NAMES = 6


class ModelReport:
    """The models and projectors in some files and folders, and their pairs.

    Raises:
        MissingExtraError: The gguf package is not installed.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._roots = [os.path.abspath(path) for path in paths]  # noqa: PTH100  (as the files were found)
        found = survey(paths)
        self.errors = found.errors
        self.empty = found.empty
        self.models = [one for one in found.files if isinstance(one, GgufModel)]
        self.projectors = [one for one in found.files if isinstance(one, GgufProjector)]
        self.embedding_models = [one for one in found.files if isinstance(one, EmbeddingModel)]
        self.others = [one for one in found.files if not isinstance(one, GgufModel | GgufProjector | EmbeddingModel)]
        self.pairs = pair_up(self.models, self.projectors)

    def model_rows(self) -> list[tuple[str, str, str, str]]:
        """Return a row for each language model: name, architecture, width, family."""
        return [
            (self._name(model), model.architecture, str(model.input_width), family_of(model.stem).name)
            for model in self.models
        ]

    def lines(self) -> Iterator[str]:
        """Yield what to tell about pairs, projectors and other files."""
        for pair in self.pairs:
            if pair.verdict == "fits" or (len(self.pairs) == 1 and pair.verdict == "doubtful"):
                yield from self._about_pair(pair)
        yield from self._about_failed_pairs()
        paired = {pair.model.path for pair in self.pairs if pair.verdict != "does not load"}
        for model in self.models:
            if model.path not in paired and is_made_to_see(model):
                yield f"\n{self._name(model)}: no projector here fits it; it needs one for {model.input_width}"
        for projector in self.projectors:
            yield from self._about_projector(projector)
        for embedder in self.embedding_models:
            about = f"{embedder.architecture}, {embedder.dimensions or '?'} dimensions"
            yield f"\n{self._name(embedder)}: an embedding model ({about}): --embeddingsmodel FILE"
        for other in self.others:
            yield f"\n{self._name(other)}: neither a language model nor a projector ({other.architecture})"

    def _about_failed_pairs(self) -> Iterator[str]:
        if len(self.pairs) > 1:
            doubts: dict[tuple[str, str], list[str]] = {}
            for pair in self._with_verdict("doubtful"):
                doubts.setdefault((self._name(pair.projector), pair.why), []).append(self._name(pair.model))
            for (projector, why), models in doubts.items():
                more = f" and {len(models) - SHOWN_NAMES} more" if len(models) > SHOWN_NAMES else ""
                yield f"\ndoubtful: {', '.join(models[:SHOWN_NAMES])}{more} + {projector}\n  {why}"
        refused = self._with_verdict("does not load")
        if len(refused) > SHOWN_NAMES:
            yield f"\nThe other {len(refused)} pairs do not load: one is wider than the other (--json names them)."
        else:
            for pair in refused:
                yield f"\ndoes not load: {self._name(pair.model)} + {self._name(pair.projector)}\n  {pair.why}"

    def _with_verdict(self, verdict: str) -> list[Pair]:
        return [pair for pair in self.pairs if pair.verdict == verdict]

    def _about_pair(self, pair: Pair) -> Iterator[str]:
        family = pair.family.name
        if not pair.family.is_known:
            family += ": its file name tells none; rename it, or name one with --family"
        since = f"{min_version(pair)} or later" if min_version(pair) else "later than 1.115.1"
        yield f"\n{pair.verdict}: {self._name(pair.model)} + {self._name(pair.projector)}"
        if pair.why:
            yield f"  {pair.why}"
        yield f"  projector  {pair.projector.kind}, for models {pair.projector.width or '?'} wide"
        yield f"  image      {what_it_sees(pair.projector)}"
        yield f"  KoboldCpp  {since} (for the line below: {LINE_VERSION})"
        yield f"  template   {pair.template.text}"
        yield f"  family     {family}"
        yield f"  {command(pair)}"

    def _about_projector(self, projector: GgufProjector) -> Iterator[str]:
        name = self._name(projector)
        if not projector.kind:
            yield f"\n{name}: a projector that only hears ({projector.audio_kind}); it cannot read pages"
            return
        fits = self._fitting(projector)
        if not fits:
            yield f"\n{name}: no model here is known to fit it; it {wants(projector)}"
        if better := better_name(projector, fits):
            yield f"\n{name}: its name tells nothing; {better} would"

    def _fitting(self, projector: GgufProjector) -> list[GgufModel]:
        return [pair.model for pair in self.pairs if pair.projector is projector and pair.verdict == "fits"]

    def _name(self, file: GgufFile) -> str:
        """Return a file's path below the PATH it was found in."""
        for root in self._roots:
            if file.path.is_relative_to(root) and str(file.path) != root:
                return str(file.path.relative_to(root))
        return file.path.name

    def facts(self) -> dict[str, Any]:
        """Return everything for a program."""
        return {
            "models": [
                {
                    **_facts(model, "architecture", "context_tokens", "parts", "size_bytes"),
                    "width": model.input_width,
                    "family": family_of(model.stem).name,
                    "has_template": bool(model.chat_template),
                    "template_rule": guess_template(model.chat_template),
                }
                for model in self.models
            ],
            "projectors": [
                {
                    **_facts(projector, "kind", "audio_kind", "width", "image_size_px"),
                    "image": what_it_sees(projector) if projector.kind else "",
                    "wants": wants(projector) if projector.kind else "",
                    "fits": [str(model.path) for model in self._fitting(projector)],
                    "better_name": better_name(projector, self._fitting(projector)),
                }
                for projector in self.projectors
            ],
            "pairs": [
                {
                    "model": str(pair.model.path),
                    "projector": str(pair.projector.path),
                    "verdict": pair.verdict,
                    "why": pair.why,
                    "family": pair.family.name,
                    "min_version": min_version(pair),
                    "template": pair.template.text,
                    "command": [] if pair.verdict == "does not load" else arguments(settings(pair)),
                }
                for pair in self.pairs
            ],
            "embedding_models": [
                _facts(model, "architecture", "dimensions", "context_tokens") for model in self.embedding_models
            ],
            "others": [_facts(other, "architecture") for other in self.others],
            "problems": [
                {"file": error.source, "why": f"{error.message} {error.hint or ''}".strip()} for error in self.errors
            ],
        }


def _facts(file: GgufFile, *names: str) -> dict[str, Any]:
    return {"file": str(file.path), **{name: getattr(file, name) for name in names}}
