"""Which row is the server's model?

By the model's name; where that says nothing, by the chat template of its file; else `DEFAULT`, with a warning.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from kobold_reader.errors import ConfigError
from kobold_reader.kobold.families import templates, wording
from kobold_reader.kobold.families.family import Family, ImageRule
from kobold_reader.kobold.families.guide import GUIDE
from kobold_reader.kobold.families.specialists import SPECIALISTS
from kobold_reader.kobold.families.today import TODAY
from kobold_reader.kobold.values import ServerInfo, version_tuple

__all__ = ["DEFAULT", "FAMILIES", "choose_family"]

_log = logging.getLogger(__name__)

_UNKNOWN_TAGS: Final[templates.Tags] = {
    # The tags of models whose file has no template, the only ones for which these are used.
    **templates.VICUNA,
    "stop_sequence": ("</s>", "<|im_end|>", "<end_of_turn>"),
}

DEFAULT: Final = Family(
    name="unknown",
    patterns=(),
    **_UNKNOWN_TAGS,
    prompts=wording.general_prompts("Transcribe all text on this page to Markdown."),
    image=ImageRule("patches", tokens=2048, patch_px=28, min_tokens=8),
    max_side_px=1024,
)
"""For a model that nothing tells; sound for most, best for none."""

FAMILIES: Final[Mapping[str, Family]] = MappingProxyType(
    {family.name: family for family in (*SPECIALISTS, *GUIDE, *TODAY, DEFAULT)}
)
"""By name, in the order in which a model's name is looked up."""


def choose_family(info: ServerInfo, override: str | None = None) -> Family:
    """The family of the server's model, or the one the user named.

    An unknown model gets DEFAULT, and a warning in the log; so does a server too old for the family.

    Raises:
        ConfigError: No family has that name; the message lists them.
    """
    known = _by_name(info.model)
    if override is not None:
        chosen = FAMILIES.get(override.strip().lower())
        if chosen is None:
            raise ConfigError(f"There is no model family {override!r}. Known: {', '.join(sorted(FAMILIES))}.")
        chosen = chosen if chosen is known else replace(chosen, forced=True)
    else:
        chosen = known or _by_template(info.chat_template or "") or _unknown(info)
    if info.version_tuple < version_tuple(chosen.min_version):
        _log.warning(
            "%s: KoboldCpp %s is older than %s, the first that can load a model of the family %s. Update it, or choose "
            "another family with --family.",
            info.url,
            info.version,
            chosen.min_version,
            chosen.name,
        )
    return chosen


def _by_name(model: str) -> Family | None:
    return next((family for family in FAMILIES.values() if family.matches(model)), None)


def _by_template(chat_template: str) -> Family | None:
    """The row most of whose marks stand in the template."""
    fitting = [
        family for family in FAMILIES.values() if family.marks and all(mark in chat_template for mark in family.marks)
    ]
    return max(fitting, key=lambda family: len(family.marks), default=None)


def _unknown(info: ServerInfo) -> Family:
    _log.warning(
        "%s: the name of the model, %s, tells no family; sizes and prompts are general ones. --family chooses one of "
        "those that `kobold-reader models` lists.",
        info.url,
        info.model,
    )
    return DEFAULT
