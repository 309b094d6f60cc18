"""Which projector goes with which language model, and what KoboldCpp makes of its chat template.

Pure rules over what the headers of the files say. The AutoGuess rules of KoboldCpp are in `autoguess.toml`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from kobold_reader.kobold.families import Family, family_of
from kobold_reader.kobold.models.gguf import KINDS, GgufModel, GgufProjector, architectures_that_see
from kobold_reader.kobold.protocol import version_tuple
from kobold_reader.kobold.tables import read_toml

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
SPLIT = re.compile(r"-\d{5}-of-\d{5}$")


@dataclass(frozen=True, slots=True)
class TemplateAdvice:
    """What KoboldCpp does about a chat template, and what to tell it."""

    text: str
    """For people."""
    rule: str
    """The rule of AutoGuess that hits; "" for none."""
    settings: Mapping[str, str | bool]
    """What to add to KoboldCpp's arguments."""


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
    order: dict[Verdict, int] = {"fits": 0, "doubtful": 1, "does not load": 2}
    pairs = [judge(model, projector) for model in models for projector in projectors if projector.kind]
    return sorted(pairs, key=lambda pair: order[pair.verdict])


def judge(model: GgufModel, projector: GgufProjector) -> Pair:
    """Say whether a projector loads on a model, and whether it was made for it."""
    family = family_of(model.stem)
    verdict, why = _verdict(model, projector)
    return Pair(model, projector, verdict, why, family, _template_advice(model, projector.kind, family))


def _verdict(model: GgufModel, projector: GgufProjector) -> tuple[Verdict, str]:
    if projector.kind not in KINDS:
        return "doubtful", f"KoboldCpp 1.115.1 knows no projectors of kind {projector.kind}"
    if projector.width is None:
        return "doubtful", f"how wide a model a projector of kind {projector.kind} is for cannot be told here"
    if projector.width != model.input_width:
        return "does not load", f"the model is {model.input_width} wide, the projector is for {projector.width}"
    doubt = _doubt_by_facts(model, projector) or _doubt_by_name(model, projector)
    return ("doubtful", doubt) if doubt else ("fits", "")


def _doubt_by_facts(model: GgufModel, projector: GgufProjector) -> str:
    kind = KINDS[projector.kind]
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
    """A doubt that remains where all facts agree: most text models share their architecture with one that sees."""
    if model.basename and model.basename.casefold() == projector.basename.casefold():
        return ""  # both converted from one model
    family = _family_of_file(model)
    made_for = _family_of_file(projector)
    sees = model.architecture in architectures_that_see()
    if not family.is_known:
        if sees or KINDS[projector.kind].image_token in model.image_tokens:
            return ""
        return f"equally wide, but nothing in the model's name says that it was taught to see ({model.architecture})"
    if family.projector in KINDS and family.projector != projector.kind:
        return f"equally wide, but the model's name says {family.name}, whose projector is a {family.projector}"
    if made_for.is_known and made_for.name != family.name and not sees:
        return f"equally wide, but the model's name says {family.name}, the projector's {made_for.name}"
    return ""


def _family_of_file(file: GgufModel | GgufProjector) -> Family:
    """The family told by a file's name, or by the names inside it."""
    found = [family_of(name) for name in (file.stem, file.name, file.basename)]
    return next((family for family in found if family.is_known), found[0])


def is_made_to_see(model: GgufModel) -> bool:
    """Tell whether a language model's architecture or name says that it goes with a projector."""
    return model.architecture in architectures_that_see() or _family_of_file(model).is_known


def _or(names: frozenset[str]) -> str:
    *most, last = sorted(names)
    return f"{', '.join(most)} or {last}" if most else last


# ── about a projector, for people ─────────────────────────────────────────────────────────────────


def wants(projector: GgufProjector) -> str:
    """Describe the language model that a projector is for."""
    kind = KINDS.get(projector.kind)
    width = f"{projector.width} wide" if projector.width else "of a width that cannot be told here"
    made_for = f" ({_or(kind.architectures)})" if kind and kind.architectures else ""
    return f"wants a language model {width}{made_for}"


def what_it_sees(projector: GgufProjector) -> str:
    """Describe what of an image reaches the encoder."""
    kind = KINDS.get(projector.kind)
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
    kind = KINDS.get(pair.projector.kind)
    return max(kind.min_version, pair.family.min_version, key=version_tuple) if kind else ""


def better_name(projector: GgufProjector, fits: Sequence[GgufModel]) -> str:
    """Return a name for a projector whose own says nothing; "" where it is good, or none can be told.

    Many repositories call theirs `mmproj-model-f16.gguf`, and KoboldCpp takes an old file of that name for the new one.

    Args:
        projector: The projector.
        fits: The models that it fits.
    """
    if not MEANINGLESS_NAME.fullmatch(projector.stem):
        return ""
    told = projector.basename or projector.name
    if told and projector.size_label and projector.size_label.casefold() not in told.casefold():
        told = f"{told}-{projector.size_label}"
    stems = {QUANTIZATION.sub("", SPLIT.sub("", model.stem)) for model in fits}
    if len(stems) == 1 and (not told or not family_of(told).is_known):
        told = stems.pop()  # LLaVA's projectors are called after CLIP
    told = re.sub(r"[^\w.]+", "-", told).strip("-.")
    if not told:
        return ""
    file_type = FILE_TYPES.get(projector.file_type, "")
    name = f"mmproj-{told}" + (f"-{file_type}" if file_type else "") + ".gguf"
    return name if name != projector.path.name else ""


# ── chat templates ────────────────────────────────────────────────────────────────────────────────


@cache
def _autoguess() -> dict[str, Any]:
    return read_toml("kobold_reader.kobold.models", "autoguess.toml")


def _rule_for(template: str) -> Mapping[str, Any] | None:
    return next((rule for rule in _autoguess()["rule"] if all(text in template for text in rule["texts"])), None)


def guess_template(template: str) -> str:
    """Return the rule of AutoGuess that a chat template hits; "" where KoboldCpp would fall back on Alpaca."""
    rule = _rule_for(template)
    return str(rule["name"]) if rule else ""


def _template_advice(model: GgufModel, projector_kind: str, family: Family) -> TemplateAdvice:
    found = _rule_for(model.chat_template)
    rule = found["name"] if found else ""
    if found and model.architecture not in found.get("wrong_for", ()):
        return TemplateAdvice(f"in the file; AutoGuess takes it for {rule}", rule, {})
    kind = KINDS.get(projector_kind)
    if kind and not kind.needs_template and not model.chat_template:
        return TemplateAdvice("none, and none is needed: the model takes the bare instruction", "", {})
    adapter = _adapter(model, family)
    if model.chat_template and (rule or not adapter):
        why = f"AutoGuess would wrongly take it for {rule}" if rule else "no rule of AutoGuess knows it"
        return TemplateAdvice(f"in the file, but {why}: --jinja uses it as it is", rule, {"jinja": True})
    why = "no rule of AutoGuess knows the file's" if model.chat_template else "none in the file"
    if adapter:
        return TemplateAdvice(f"{why}: {adapter} is forced", "", {"chatcompletionsadapter": adapter})
    return TemplateAdvice(f"{why}, and none is known for it: KoboldCpp would use Alpaca's", "", {})


def _adapter(model: GgufModel, family: Family) -> str:
    """KoboldCpp's name for the chat template that a model wants; "" where it is not known."""
    if family.is_known and family.adapter:
        return family.adapter
    if model.architecture != "llama":
        return str(_autoguess()["adapter_by_architecture"].get(model.architecture, ""))
    names = f"{model.stem} {model.name}"
    rows = _autoguess()["adapter_by_name"]
    return next((row["adapter"] for row in rows if re.search(row["pattern"], names, re.IGNORECASE)), "")
