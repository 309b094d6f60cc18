"""Which model family wants what: a table, and three functions that read it.

Prompts come from the makers or from projects that have used the family for long; sizes and token
rules from KoboldCpp 1.115.1 (`tools/mtmd/clip.cpp`) and the model cards. The legibility threshold
is our own: at 85 px per inch the small letters of 10 pt print are about 5 px high, and an A4 page
read whole at KoboldCpp's default of 1024 px (87 px per inch) just passes.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, Literal, TypedDict

from kobold_reader.errors import ConfigError
from kobold_reader.kobold.values import ServerInfo

__all__ = [
    "DEFAULT",
    "FAMILIES",
    "Decoding",
    "Family",
    "ImageRule",
    "choose_family",
    "image_tokens",
]

_log = logging.getLogger(__name__)

_AROUND_IMAGE: Final = 32
"""Tokens of the server's own words around an image: 9 to 23 were measured."""


@dataclass(frozen=True, slots=True)
class ImageRule:
    """How many tokens an image becomes.

    Attributes:
        kind: `fixed`: always `tokens`. `patches`: one per `patch_px` square, between `min_tokens`
            and `tokens`. `slices`: `tokens` for the overview and for each slice of `patch_px`, up
            to `max_slices`.
        tokens: See kind.
        patch_px: See kind.
        min_tokens: See kind.
        max_slices: See kind.
    """

    kind: Literal["fixed", "patches", "slices"]
    tokens: int
    patch_px: int = 0
    min_tokens: int = 0
    max_slices: int = 0


class Decoding(TypedDict, total=False):
    """Fields of GenerateRequest in which families differ; left out: its default."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    rep_pen: float
    dry_multiplier: float
    reasoning_effort: str | None


@dataclass(frozen=True, slots=True)
class Family:
    """What one model family needs to read a page.

    Attributes:
        name: What `--family` takes.
        patterns: Regular expressions searched in the model's name, ignoring case.
        user_start: Template tags, used where the server cannot expand the template itself.
        user_end: Before the answer.
        assistant_start: Begins the answer; without a trailing blank, which would be half a token.
        assistant_end: After the answer.
        system_start: Before a system text.
        system_end: After a system text.
        prompts: Instruction by task.
        tasks: What it can do at all; an OCR-only model is never asked for a caption.
        max_length: Tokens of an answer, by task.
        decoding: `GenerateRequest(…, **family.decoding)`.
        stop_sequence: End tags that may come out as text. Only such: a hit counts as the end of a
            page, so nothing that can be printed on one.
        max_side_px: What reaches the encoder at most; more is not worth sending.
        max_pixels: The same by area.
        min_px_per_inch: Below it a page is cut into tiles.
        image: How many tokens an image becomes.
        min_version: First KoboldCpp that can load it.
        projector: `clip.projector_type` of its mmproj.
        language_model: The language models it is built on, for people.
        encoder: Its image encoder and what reaches it, for people.
        tested: Whether a test drives it through the simulator; if not, it is from papers only.
        forced: Chosen by the user against the model's name: its own tags are used.
    """

    name: str
    patterns: tuple[str, ...]
    user_start: str
    user_end: str
    assistant_start: str
    assistant_end: str
    prompts: Mapping[str, str]
    image: ImageRule
    max_side_px: int
    max_pixels: int | None = None
    system_start: str = ""
    system_end: str = ""
    tasks: frozenset[str] = frozenset({"ocr", "caption", "tags"})
    max_length: Mapping[str, int] = field(default_factory=lambda: {"ocr": 2048, "caption": 256, "tags": 96})
    decoding: Decoding = field(default_factory=lambda: Decoding(temperature=0.1))
    stop_sequence: tuple[str, ...] = ()
    min_px_per_inch: float = 85.0
    min_version: str = "1.76"
    projector: str = ""
    language_model: str = ""
    encoder: str = ""
    tested: bool = False
    forced: bool = False

    def matches(self, model: str) -> bool:
        """Whether the name of a model says that it is of this family."""
        return any(re.search(pattern, model, re.IGNORECASE) for pattern in self.patterns)


_FAITHFUL: Final = (
    "Write exactly what is written, in its own language and spelling, in reading order, line by "
    "line; do not correct, translate, summarize or invent anything. Write tables as Markdown "
    "tables. Where nothing can be made out, write [illegible]. Output only the text of the page, "
    "without any comment."
)
_CAPTION: Final = (
    "Describe this image in one or two sentences: what kind of picture or document it is, who or "
    'what is on it, where and when as far as it can be seen. Do not begin with "The image shows". '
    "Say nothing that cannot be seen. Output only the description."
)
_TAGS: Final = (
    "Give 5 to 10 keywords for this image, each of one or two words, most important first, "
    "separated by commas. Only what can be seen. Output only the keywords."
)


def _prompts(ocr: str) -> Mapping[str, str]:
    return {"ocr": f"{ocr} {_FAITHFUL}", "caption": _CAPTION, "tags": _TAGS}


class _Tags(TypedDict):
    user_start: str
    user_end: str
    assistant_start: str
    assistant_end: str
    system_start: str
    system_end: str


_CHATML: Final[_Tags] = {
    "user_start": "<|im_start|>user\n",
    "user_end": "<|im_end|>\n",
    "assistant_start": "<|im_start|>assistant\n",
    "assistant_end": "<|im_end|>\n",
    "system_start": "<|im_start|>system\n",
    "system_end": "<|im_end|>\n",
}
_GEMMA: Final[_Tags] = {
    "user_start": "<start_of_turn>user\n",
    "user_end": "<end_of_turn>\n",
    "assistant_start": "<start_of_turn>model\n",
    "assistant_end": "<end_of_turn>\n",
    "system_start": "<start_of_turn>user\n",
    "system_end": "<end_of_turn>\n",
}
_VICUNA: Final[_Tags] = {
    "user_start": "USER: ",
    "user_end": "\n",
    "assistant_start": "ASSISTANT:",
    "assistant_end": "</s>\n",
    "system_start": "",
    "system_end": "\n\n",
}

_TO_MARKDOWN: Final = (  # docling's, for Qwen and Gemma
    "Convert this page to markdown. Do not miss any text and only output the bare markdown!"
)
_JUST_TRANSCRIBE: Final = (  # paperless-gpt's beginning
    "Just transcribe the text in this image and preserve the formatting and layout (high quality OCR)."
)

DEFAULT: Final = Family(
    name="unknown",
    patterns=(),
    # The tags of models whose file has no template, the only ones for which these are used.
    **_VICUNA,
    prompts=_prompts("Transcribe all text on this page to Markdown."),
    image=ImageRule("patches", tokens=2048, patch_px=28, min_tokens=8),
    max_side_px=1024,
    stop_sequence=("</s>", "<|im_end|>", "<end_of_turn>"),
)
"""For a model whose name says nothing; sound for most, best for none."""

FAMILIES: Final[Mapping[str, Family]] = MappingProxyType(
    {
        family.name: family
        for family in (
            Family(
                name="qwen2.5-vl",
                patterns=(r"qwen[-_. ]?2[._]5[-_. ]?vl",),
                **_CHATML,
                prompts=_prompts(_TO_MARKDOWN),
                # KoboldCpp allows 2048 tokens where llama.cpp allows 4096.
                image=ImageRule("patches", tokens=2048, patch_px=28, min_tokens=8),
                max_side_px=2048,
                max_pixels=2048 * 28 * 28,
                stop_sequence=("<|im_end|>",),
                min_version="1.90",
                projector="qwen2.5vl_merger",
                tested=True,
            ),
            Family(
                name="gemma-3",
                patterns=(r"gemma[-_. ]?3(?!n|[-_. ]?n)(?![\d])",),
                **_GEMMA,
                prompts=_prompts(_TO_MARKDOWN),
                image=ImageRule("fixed", tokens=256),
                max_side_px=896,
                stop_sequence=("<end_of_turn>",),
                min_version="1.86",
                projector="gemma3",
                tested=True,
            ),
            Family(
                name="minicpm-v-2.6",
                patterns=(r"minicpm[-_. ]?v[-_. ]?2[._]6",),
                **_CHATML,
                prompts=_prompts(_JUST_TRANSCRIBE),
                image=ImageRule("slices", tokens=64, patch_px=448, max_slices=9),
                max_side_px=2048,
                max_pixels=1344 * 1344,
                stop_sequence=("<|im_end|>",),
                min_version="1.76",
                projector="resampler",
                tested=True,
            ),
            Family(
                name="llava-1.5",
                patterns=(r"llava[-_. ]?v?1[._]5",),
                **_VICUNA,
                prompts=_prompts("Transcribe all text in this image."),
                image=ImageRule("fixed", tokens=576),
                max_side_px=336,
                stop_sequence=("</s>",),
                min_version="1.76",
                projector="mlp",
                tested=True,
            ),
            DEFAULT,
        )
    }
)
"""By name."""


def choose_family(info: ServerInfo, override: str | None = None) -> Family:
    """The family of the server's model, or the one the user named.

    An unknown model gets DEFAULT, and a warning in the log.

    Raises:
        ConfigError: No family has that name; the message lists them.
    """
    known = next((family for family in FAMILIES.values() if family.matches(info.model)), None)
    if override is not None:
        chosen = FAMILIES.get(override.strip().lower())
        if chosen is None:
            raise ConfigError(f"There is no model family {override!r}. Known: {', '.join(sorted(FAMILIES))}.")
        return chosen if chosen is known else replace(chosen, forced=True)
    if known is None:
        _log.warning(
            "%s: the name of the model, %s, tells no family; sizes and prompts are general ones. --family chooses: %s.",
            info.url,
            info.model,
            ", ".join(sorted(name for name in FAMILIES if name != DEFAULT.name)),
        )
        return DEFAULT
    return known


def image_tokens(family: Family, width_px: int, height_px: int) -> int:
    """How many tokens of context an image of that size takes at most, all around it included."""
    rule = family.image
    if rule.kind == "fixed":
        tokens = rule.tokens
    elif rule.kind == "patches":
        patches = math.ceil(width_px / rule.patch_px) * math.ceil(height_px / rule.patch_px)
        tokens = max(rule.min_tokens, min(rule.tokens, patches))
    else:
        slices = math.ceil(width_px * height_px / rule.patch_px**2)
        # One slice needs no overview; several are laid out in a grid that may have one more.
        count = 1 if slices <= 1 else 1 + min(rule.max_slices, slices + 1)
        tokens = rule.tokens * count
    return tokens + _AROUND_IMAGE
