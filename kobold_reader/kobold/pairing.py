"""Which projector goes with which language model: pure rules over what their headers say."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from kobold_reader.kobold.autoguess import TemplateAdvice, advise_template
from kobold_reader.kobold.families import DEFAULT, FAMILIES, Family
from kobold_reader.kobold.gguf import GgufModel, GgufProjector
from kobold_reader.kobold.projectors import KINDS, VISION_ARCHITECTURES
from kobold_reader.kobold.values import version_tuple

__all__ = [
    "Pair",
    "Verdict",
    "better_name",
    "family_of",
    "is_made_to_see",
    "judge",
    "min_version",
    "pair_up",
    "wants",
    "what_it_sees",
]

Verdict = Literal["fits", "doubtful", "does not load"]

_MINICPMV: Final[Mapping[int | None, tuple[str, ...]]] = {
    2: ("llama",),
    3: ("qwen2",),
    4: ("qwen2",),
    5: ("llama", "minicpm"),
    6: ("qwen3",),
    100045: ("qwen3",),
}
"""What a MiniCPM-V is built on, by `clip.minicpmv_version`."""

_MEANINGLESS_NAME: Final = re.compile(
    r"(mm[-_.]?proj|clip|projector|vision)?[-_.]*(model|encoder)?[-_.]*(b?f16|f32|fp16|q\d\w*)?", re.IGNORECASE
)
_FILE_TYPES: Final[Mapping[int, str]] = {0: "f32", 1: "f16", 7: "q8_0", 32: "bf16"}
_QUANTIZATION: Final = re.compile(r"[-_.](UD[-_.])?(I?Q\d\w*|b?f16|f32|fp16|mxfp4\w*)$", re.IGNORECASE)
_SPLIT: Final = re.compile(r"-\d{5}-of-\d{5}$")


@dataclass(frozen=True, slots=True)
class Pair:
    """A language model and a projector.

    Attributes:
        model: The language model.
        projector: The projector.
        verdict: `doubtful`: it loads, and may write nonsense.
        why: Why it is doubtful or does not load; "" where it fits.
        family: As which kobold-reader reads it, by the model's file name.
        template: What KoboldCpp does about its chat template.
    """

    model: GgufModel
    projector: GgufProjector
    verdict: Verdict
    why: str
    family: Family
    template: TemplateAdvice


def family_of(name: str) -> Family:
    """The family that a model's file name tells; DEFAULT where it tells none."""
    return next((family for family in FAMILIES.values() if family.matches(name)), DEFAULT)


def is_made_to_see(model: GgufModel) -> bool:
    """Whether its architecture or a name says that a language model goes with a projector."""
    return model.architecture in VISION_ARCHITECTURES or _family_of_file(model).name != DEFAULT.name


def pair_up(models: Sequence[GgufModel], projectors: Sequence[GgufProjector]) -> list[Pair]:
    """Judge every model with every projector that sees; those that fit come first."""
    order: dict[Verdict, int] = {"fits": 0, "doubtful": 1, "does not load": 2}
    pairs = [judge(model, projector) for model in models for projector in projectors if projector.kind]
    return sorted(pairs, key=lambda pair: order[pair.verdict])


def judge(model: GgufModel, projector: GgufProjector) -> Pair:
    """Say whether a projector loads on a model, and whether it was made for it."""
    family = family_of(model.stem)
    verdict, why = _verdict(model, projector)
    return Pair(model, projector, verdict, why, family, advise_template(model, projector.kind, family))


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
    if projector.kind == "resampler" and projector.minicpmv_version in _MINICPMV:
        made_for = frozenset(_MINICPMV[projector.minicpmv_version])
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
    """What remains where all facts agree: most text models are of the very architecture of one that sees."""
    if model.basename and model.basename.casefold() == projector.basename.casefold():
        return ""  # both converted from one model
    family = _family_of_file(model)
    made_for = _family_of_file(projector)
    if family.name == DEFAULT.name:
        if model.architecture in VISION_ARCHITECTURES or KINDS[projector.kind].image_token in model.image_tokens:
            return ""
        return f"equally wide, but nothing in the model's name says that it was taught to see ({model.architecture})"
    if family.projector in KINDS and family.projector != projector.kind:
        return f"equally wide, but the model's name says {family.name}, whose projector is a {family.projector}"
    if made_for.name not in {DEFAULT.name, family.name} and model.architecture not in VISION_ARCHITECTURES:
        return f"equally wide, but the model's name says {family.name}, the projector's {made_for.name}"
    return ""


def _family_of_file(file: GgufModel | GgufProjector) -> Family:
    """The family told by a file's name, or by the names inside it."""
    found = (family_of(name) for name in (file.stem, file.name, file.basename))
    return next((family for family in found if family.name != DEFAULT.name), DEFAULT)


def _or(names: frozenset[str]) -> str:
    *most, last = sorted(names)
    return f"{', '.join(most)} or {last}" if most else last


def wants(projector: GgufProjector) -> str:
    """What language model a projector is for."""
    kind = KINDS.get(projector.kind)
    width = f"{projector.width} wide" if projector.width else "of a width that cannot be told here"
    made_for = f" ({_or(kind.architectures)})" if kind and kind.architectures else ""
    return f"wants a language model {width}{made_for}"


def what_it_sees(projector: GgufProjector) -> str:
    """What of an image reaches the encoder, for people."""
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
    """The first KoboldCpp that loads a pair, as far as known; "" for a kind that 1.115.1 does not know."""
    kind = KINDS.get(pair.projector.kind)
    return max(kind.min_version, pair.family.min_version, key=version_tuple) if kind else ""


def better_name(projector: GgufProjector, fits: Sequence[GgufModel]) -> str:
    """A name for a projector whose own says nothing; "" where it is good, or none can be told.

    Many repositories call theirs `mmproj-model-f16.gguf`, and KoboldCpp takes an old file of that name for the new one.

    Args:
        projector: The projector.
        fits: The models it fits.
    """
    if not _MEANINGLESS_NAME.fullmatch(projector.stem):
        return ""
    told = projector.basename or projector.name
    if told and projector.size_label and projector.size_label.casefold() not in told.casefold():
        told = f"{told}-{projector.size_label}"
    stems = {_QUANTIZATION.sub("", _SPLIT.sub("", model.stem)) for model in fits}
    if len(stems) == 1 and (not told or family_of(told).name == DEFAULT.name):
        told = stems.pop()  # LLaVA's projectors are called after CLIP
    told = re.sub(r"[^\w.]+", "-", told).strip("-.")
    if not told:
        return ""
    file_type = _FILE_TYPES.get(projector.file_type if projector.file_type is not None else -1, "")
    name = f"mmproj-{told}" + (f"-{file_type}" if file_type else "") + ".gguf"
    return name if name != projector.path.name else ""
