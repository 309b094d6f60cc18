"""What a row of the table holds, and how many tokens an image becomes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypedDict

from kobold_reader.errors import ConfigError
from kobold_reader.kobold.values import ServerInfo

__all__ = ["Decoding", "Family", "ImageRule", "Thinking", "image_tokens"]

Thinking = Literal["none", "optional", "always"]

_AROUND_IMAGE: Final = 32
"""Tokens of the server's own words around an image: 9 to 23 were measured."""
_REASONING_EFFORT_SINCE: Final = (1, 112)
_KNOWN_BEFORE: Final = "What is known of these pages, to help in reading them, and not to be written down: {hint}."
_MOST_OBLONG: Final = 4
"""KoboldCpp puts bars beside whatever is more oblong than this."""


@dataclass(frozen=True, slots=True)
class ImageRule:
    """How many tokens an image becomes at most.

    Attributes:
        kind: `fixed`: always `tokens`. `patches`: one per `patch_px` square, between `min_tokens` and `tokens`.
            `slices`: `tokens` for the overview and for each slice of about `patch_px` squared, up to `max_slices`.
            `tiles`: `tokens` for the overview and for each square of a grid of `patch_px`, up to `max_slices`.
        tokens: See kind.
        patch_px: See kind.
        min_tokens: See kind.
        max_slices: See kind.
        row_tokens: After each row of patches (Pixtral's line break).
        longest_px: The server scales the longest side to this first, up as well as down; 0: it does not.
    """

    kind: Literal["fixed", "patches", "slices", "tiles"]
    tokens: int
    patch_px: int = 0
    min_tokens: int = 0
    max_slices: int = 0
    row_tokens: int = 0
    longest_px: int = 0


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
        template: Name of its template, for people; "none": the text alone is the prompt.
        user_start: Template tags, used where the server cannot expand the template itself.
        user_end: Before the answer.
        assistant_start: Begins the answer; without a trailing blank, which would be half a token.
        assistant_end: After the answer.
        system_start: Before a system text.
        system_end: After a system text.
        stop_sequence: End tags that may come out as text. Only such: a hit counts as the end of a page, so nothing
            that can be printed on one.
        prompts: Instruction by task; an empty one is the maker's way, too.
        tasks: What it can do at all; an OCR-only model is never asked for a caption.
        takes_instructions: False: it knows its maker's prompts only, so a hint or a wording of the user's would take
            it out of what it was trained on.
        trusts_server: Whether the server's own template is to be preferred. False where KoboldCpp would take the
            file's template for another one, or where the maker's prompt is not what the template writes.
        marks: All of them in the chat template of the model's file tell the family where its name says nothing.
        thinking: Whether it thinks before it answers, which costs tokens and no page needs.
        no_think: What ends its thinking before it begins: written behind `assistant_start`.
        max_length: Tokens of an answer, by task.
        decoding: See `decoding_for`.
        max_side_px: What reaches the encoder at most, of a page; more is not worth sending.
        max_pixels: The same by area.
        min_px_per_inch: Below it a page is cut into tiles; None: never, it was made for whole pages.
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
    template: str = ""
    system_start: str = ""
    system_end: str = ""
    stop_sequence: tuple[str, ...] = ()
    tasks: frozenset[str] = frozenset({"ocr", "caption", "tags"})
    takes_instructions: bool = True
    trusts_server: bool = True
    marks: tuple[str, ...] = ()
    thinking: Thinking = "none"
    no_think: str = ""
    max_length: Mapping[str, int] = field(default_factory=lambda: {"ocr": 2048, "caption": 256, "tags": 96})
    decoding: Decoding = field(default_factory=lambda: Decoding(temperature=0.1))
    min_px_per_inch: float | None = 85.0
    min_version: str = "1.76"
    projector: str = ""
    language_model: str = ""
    encoder: str = ""
    tested: bool = False
    forced: bool = False

    def matches(self, model: str) -> bool:
        """Whether the name of a model says that it is of this family."""
        return any(re.search(pattern, model, re.IGNORECASE) for pattern in self.patterns)

    def instruction(self, task: str, *, wording: str | None = None, hint: str | None = None) -> str:
        """What the user's turn says.

        Args:
            task: One of `tasks`.
            wording: The user's own, in place of the family's.
            hint: What the user knows of the pages.

        Raises:
            ConfigError: The family takes neither.
        """
        if not self.takes_instructions and (wording or hint):
            what = "hint" if hint else f"prompt of your own ({task})"
            known = ", ".join(repr(prompt) if prompt else "an empty one" for prompt in self.prompts.values())
            msg = (
                f"a model of the family {self.name} takes no {what}: it was trained on its maker's prompts only "
                f"({known}), and answers others with loops or nothing."
            )
            raise ConfigError(msg, hint="Leave out --hint and --prompt, or load a model that follows instructions.")
        text = wording or self.prompts[task]
        if not hint:
            return text
        return f"{text}\n{_KNOWN_BEFORE.format(hint=hint.strip().rstrip('.'))}"

    def decoding_for(self, info: ServerInfo) -> Decoding:
        """Fields for a request to this server: `GenerateRequest(…, **family.decoding_for(info))`.

        A model that can think is told not to, where the server knows that field (since 1.112).
        """
        if self.thinking == "none" or info.version_tuple < _REASONING_EFFORT_SINCE:
            return self.decoding
        return {**self.decoding, "reasoning_effort": "none"}


def image_tokens(family: Family, width_px: int, height_px: int) -> int:
    """How many tokens of context an image of that size takes at most, all around it included."""
    rule = family.image
    if rule.longest_px:
        scale = rule.longest_px / max(width_px, height_px)
        width_px, height_px = math.ceil(width_px * scale), math.ceil(height_px * scale)
    if rule.kind == "fixed":
        return rule.tokens + _AROUND_IMAGE
    columns, rows = math.ceil(width_px / rule.patch_px), math.ceil(height_px / rule.patch_px)
    if rule.kind == "patches":
        most_rows = min(rows, math.isqrt(_MOST_OBLONG * rule.tokens))
        return max(rule.min_tokens, min(rule.tokens, columns * rows)) + rule.row_tokens * most_rows + _AROUND_IMAGE
    # Slices are laid out in a grid that may have one more than their area asks for.
    parts = columns * rows if rule.kind == "tiles" else math.ceil(width_px * height_px / rule.patch_px**2)
    if parts > 1:  # a single one needs no overview
        parts = 1 + min(rule.max_slices, parts + (rule.kind == "slices"))
    return rule.tokens * parts + _AROUND_IMAGE
