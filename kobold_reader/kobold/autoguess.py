"""What KoboldCpp makes of a chat template: its AutoGuess rules (1.115.1), and what to tell it where they fail."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from kobold_reader.kobold.families import DEFAULT, Family
from kobold_reader.kobold.gguf import GgufModel

__all__ = ["TemplateAdvice", "advise_template", "guess_template"]

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
