"""Which projector goes with which language model: pure rules over what their headers say.

What KoboldCpp makes of a chat template: its AutoGuess rules (1.115.1), and what to tell it where they fail.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from kobold_reader.kobold.families import DEFAULT, FAMILIES, Family
from kobold_reader.kobold.models.gguf import GgufModel, GgufProjector
from kobold_reader.kobold.models.projectors import KINDS, VISION_ARCHITECTURES
from kobold_reader.kobold.values import version_tuple

__all__ = [
    "Pair",
    "TemplateAdvice",
    "Verdict",
    "advise_template",
    "better_name",
    "family_of",
    "guess_template",
    "is_made_to_see",
    "judge",
    "min_version",
    "pair_up",
    "wants",
    "what_it_sees",
]

_RULES: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("ChatML (Phi 4)", ("<|im_start|>assistant", "<|im_end|>", "<|im_sep|>")),
    (
        "ChatML (Qwen 2.5 based)",
        ("<|im_start|>assistant", "<|im_end|>", "You are provided with function signatures within <tools>"),
    ),
    ("ChatML (Kimi)", ("<|im_user|>",)),
    ("Gemma 2", ("System role not supported", "<start_of_turn>")),
    ("Gemma 3", ("<start_of_image>", "<start_of_turn>", "<end_of_turn>")),
    ("Gemma 3n", ("<image_soft_token>", "<start_of_turn>model", "<end_of_turn>")),
    ("Gemma 4 26B/31B", ("<|turn>model", "<|think|>", r"<|channel>thought\n<channel|>")),
    ("Gemma 4 E2B/E4B", ("<|turn>model", "<|think|>")),
    ("Llama 3.x", ("<|start_header_id|>assistant<|end_header_id|>",)),
    ("Llama 4", ("<|header_start|>assistant<|header_end|>",)),
    ("Granite 4", ("<|start_of_role|>system<|end_of_role|>",)),
    ("Mistral Tekken", ("[/INST]", "[SYSTEM_PROMPT]")),
    ("Mistral Non-Tekken", ("[/INST]", '"[INST] " + system_message')),
    ("GLM-4.7", ("[gMASK]<sop>", "content.split('</think>')")),
    ("GLM-4", ("[gMASK]<sop>",)),
    ("Phi 3.5", ("<|system|>", "<|user|>")),
    ("Phi 4 (mini)", ("'<|' + message['role'] + '|>'",)),
    ("Cohere", ("<|START_OF_TURN_TOKEN|>",)),
    ("DeepSeek V2.5", ("<｜User｜>",)),
    ("Jamba", ("<|bom|>", "is_last_checked_defined")),
    ("Dots", ("<|userprompt|>", "<|endofuserprompt|>", "<|response|>", "<|endofresponse|>")),
    ("OpenAI Harmony", ("<|start|>user<|message|>", "<|channel|>", "<|end|>")),
    ("Seed OSS", ("<seed:bos>", "<seed:eos>")),
    ("RWKV World", ("rwkv_", "'User: '")),
    ("Mistral (Generic)", ("[/INST]",)),
    ("ChatML (Generic)", ("<|im_start|>assistant", "<|im_end|>")),
    ("MiniMax", ("[e~[", "]~b]user")),
)
"""The first of which all texts stand in the template."""

_WRONG: Final = frozenset({("Phi 3.5", "granite"), ("Phi 3.5", "chatglm")})
"""Rules that hit a model of another architecture, whose end tag they do not know."""

_WITHOUT_TEMPLATE: Final = frozenset({"deepseekocr", "deepseekocr2"})
"""Projectors of models that take the bare instruction."""

_BY_TAGS: Final[Mapping[tuple[str, bool], str]] = {
    # how the user's turn begins, and whether the system has a tag like [SYSTEM_PROMPT]
    ("<|im_start|>user", False): "ChatML",
    ("USER:", False): "Vicuna",
    ("<start_of_turn>user", False): "Gemma-3",
    ("<|start_header_id|>user<|end_header_id|>", False): "Llama-3",
    ("<|header_start|>user<|header_end|>", False): "Llama-4",
    ("[INST]", False): "Mistral-NonTekken",
    ("[INST]", True): "Mistral-Tekken",
}
_BY_ARCHITECTURE: Final[Mapping[str, str]] = {
    **dict.fromkeys(("qwen2", "qwen2vl", "qwen3", "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe"), "ChatML"),
    **dict.fromkeys(("internlm2", "lfm2", "lfm2moe"), "ChatML"),
    **dict.fromkeys(("gemma3", "gemma3n"), "Gemma-3"),
    **dict.fromkeys(("glm4", "glm4moe", "chatglm"), "GLM-4"),
    "gemma4": "Gemma-4-E2B-E4B",
    "phi3": "Phi-3",
    "llama4": "Llama-4",
    "mistral3": "Mistral-Tekken",
    "granitehybrid": "Granite-4",
}
_BY_NAME: Final = (  # llama is everything from Vicuna to Yi
    (r"yi[-_ ]|hermes", "ChatML"),
    (r"vicuna|llava[-_ ]?v?1[._]5|mobile[-_ ]?(vlm|llama)|sharegpt4v", "Vicuna"),
    (r"mistral[-_ ]?small|magistral", "Mistral-Tekken"),
    (r"mistral|pixtral", "Mistral-NonTekken"),
    (r"llama[-_ ]?3", "Llama-3"),
)


@dataclass(frozen=True, slots=True)
class TemplateAdvice:
    """What KoboldCpp does about the chat template, and what to tell it.

    Attributes:
        text: For people.
        rule: The rule of AutoGuess that hits; "" for none.
        settings: What to add to KoboldCpp's arguments.
    """

    text: str
    rule: str
    settings: Mapping[str, str | bool]


def guess_template(template: str) -> str:
    """The rule of AutoGuess that a chat template hits; "" where KoboldCpp would fall back on Alpaca."""
    return next((name for name, texts in _RULES if all(text in template for text in texts)), "")


def advise_template(model: GgufModel, kind: str, family: Family) -> TemplateAdvice:
    """What to tell KoboldCpp about a model's chat template, if anything.

    Args:
        model: The language model.
        kind: Of its projector.
        family: As which it will be read.
    """
    rule = guess_template(model.chat_template)
    if rule and (rule, model.architecture) not in _WRONG:
        return TemplateAdvice(f"in the file; AutoGuess takes it for {rule}", rule, {})
    if kind in _WITHOUT_TEMPLATE and not model.chat_template:
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
    """KoboldCpp's name for the tags a model wants; "" where it is not known."""
    if family.name != DEFAULT.name:
        key = (family.user_start.strip(), "[SYSTEM_PROMPT]" in family.system_start)
        if key in _BY_TAGS:
            return _BY_TAGS[key]
    if model.architecture in _BY_ARCHITECTURE:
        return _BY_ARCHITECTURE[model.architecture]
    if model.architecture != "llama":
        return ""
    names = f"{model.stem} {model.name}"
    return next((adapter for pattern, adapter in _BY_NAME if re.search(pattern, names, re.IGNORECASE)), "")


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
