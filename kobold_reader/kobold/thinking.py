"""Models that think aloud: their thoughts are no part of the answer.

Families that are known to think are told not to. These blocks come from models that do it all the same, or that are
unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

BLOCKS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|channel>thought", "<channel|>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)
"""How a thought begins and ends, by maker."""
STARTS = [start for start, _ in BLOCKS]
ANY_START = "|".join(map(re.escape, STARTS))
ANY_END = "|".join(re.escape(end) for _, end in BLOCKS)
CLOSED = re.compile(
    "|".join(f"{re.escape(start)}.*?{re.escape(end)}" for start, end in BLOCKS), re.DOTALL | re.IGNORECASE
)
FROM_START = re.compile(f"(?:{ANY_START}).*", re.DOTALL | re.IGNORECASE)
TO_END = re.compile(f".*(?:{ANY_END})", re.DOTALL | re.IGNORECASE)


def spoken(text: str, *, prompt: str = "", is_whole: bool = True) -> str:
    """Return an answer without the thoughts before and within it.

    Args:
        text: The answer, or the answer so far.
        prompt: What it continues: some templates begin the thought themselves.
        is_whole: False while more may come: an end that may be the beginning of a tag is held back.

    >>> spoken("<think>Slates, then.</think>The roof.")
    'The roof.'
    >>> spoken("The roof. <thi", is_whole=False)
    'The roof. '
    """
    begun = next((start for start in STARTS if prompt.rstrip().endswith(start)), "")
    text = CLOSED.sub("", begun + text)
    if is_whole:
        text = TO_END.sub("", text)  # the thought began out of sight
    text = FROM_START.sub("", text)
    return text if is_whole else without_begun(text, STARTS)


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
