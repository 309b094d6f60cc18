"""A model that thinks aloud: what it says to itself is no part of the answer.

Families that are known to think are told not to. These blocks come from models that do it all the same, or that
nobody knows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

__all__ = ["spoken", "without_begun"]

_BLOCKS: Final = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|channel>thought", "<channel|>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)
"""How a thought begins and ends, by maker."""
_CLOSED: Final = re.compile(
    "|".join(f"{re.escape(start)}.*?{re.escape(end)}" for start, end in _BLOCKS), re.DOTALL | re.IGNORECASE
)
_OPEN: Final = re.compile("(?:" + "|".join(re.escape(start) for start, _ in _BLOCKS) + ").*", re.DOTALL | re.IGNORECASE)
_CLOSE: Final = re.compile(".*(?:" + "|".join(re.escape(end) for _, end in _BLOCKS) + ")", re.DOTALL | re.IGNORECASE)


def spoken(text: str, *, prompt: str = "", is_whole: bool = True) -> str:
    """Return what was said without the thoughts before and within it.

    Args:
        text: The answer, or the answer so far.
        prompt: What it continues: some templates begin the thought themselves.
        is_whole: False while more may come: an end that may be the beginning of a tag is held back.

    >>> spoken("<think>Slates, then.</think>The roof.")
    'The roof.'
    >>> spoken("The roof. <thi", is_whole=False)
    'The roof. '
    """
    begun = next((start for start, _ in _BLOCKS if prompt.rstrip().endswith(start)), "")
    text = _CLOSED.sub("", begun + text)
    if is_whole:
        text = _CLOSE.sub("", text)  # its beginning was in nobody's sight
    text = _OPEN.sub("", text)
    return text if is_whole else without_begun(text, (start for start, _ in _BLOCKS))


def without_begun(text: str, tags: Iterable[str]) -> str:
    """Return a text that goes on without an end that may be the beginning of one of the tags.

    >>> without_begun("The roof.<|im_", ["<|im_end|>"])
    'The roof.'
    """
    lower, tags = text.casefold(), [tag.casefold() for tag in tags]
    longest = max((len(tag) for tag in tags), default=0)
    for length in range(min(longest, len(text)), 0, -1):
        if any(tag.startswith(lower[-length:]) for tag in tags):
            return text[:-length]
    return text
