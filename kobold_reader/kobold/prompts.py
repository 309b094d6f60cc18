"""An instruction becomes the text the model continues.

The count that comes with it is of the very text that is sent: an image was seen if and only if the
server then reports more prompt tokens than that.
"""

from __future__ import annotations

import logging
from typing import Final

from kobold_reader.errors import BadRequestError, ResponseFormatError
from kobold_reader.kobold.client import KoboldClient
from kobold_reader.kobold.families import DEFAULT, Family, tags_of
from kobold_reader.kobold.values import ExpandedPrompt, ServerInfo

__all__ = ["render_prompt"]

_log = logging.getLogger(__name__)

_ALPACA: Final = "### Instruction:"
"""What KoboldCpp writes for a template it does not recognise, without a word about it."""


def render_prompt(client: KoboldClient, info: ServerInfo, family: Family, instruction: str) -> ExpandedPrompt:
    """The whole prompt for one instruction, ending where the answer begins.

    The server's own template is used where it has one: it knows the model's file. Tags of our own are used where it
    has none or does not recognise it (it writes Alpaca then, without a word), where it is known to take it for another
    one (`Family.trusts_server`), before 1.115 (which expands no messages), with `--jinja` (templates for lists of
    parts write Python source into the prompt), and where the user chose the family. For an unknown family they are
    those that the chat template of the model's file shows, and `--jinja` is trusted, since there is nothing to prefer.
    Placeholders (`{{[INPUT]}}`) are never sent: the server counts them, and not what they become.

    Args:
        client: Remembers the result until the server is asked about itself again.
        info: Of that client.
        family: From `choose_family`.
        instruction: What the user's turn says; may be empty.
    """
    key = (info.model, info.version, family.name, str(family.forced), instruction)
    if key not in client.prompt_cache:
        client.prompt_cache[key] = _render(client, info, family, instruction)
    return client.prompt_cache[key]


def _render(client: KoboldClient, info: ServerInfo, family: Family, instruction: str) -> ExpandedPrompt:
    is_general = family.name == DEFAULT.name and not family.forced
    shown = tags_of(info.chat_template or "") if is_general else None
    if info.chat_template and family.trusts_server and not family.forced and (is_general or not info.jinja):
        expanded = _expand(client, instruction)
        # Nothing speaks against Alpaca where neither the family nor the file shows another template.
        if expanded is not None and (_ALPACA not in expanded.text or (is_general and shown is None)):
            text = _opened(expanded.text, family)
            return expanded if text == expanded.text else _counted(client, text)
    if shown is not None:
        return _counted(client, f"{shown['user_start']}{instruction}{shown['user_end']}{shown['assistant_start']}")
    opening = f"{family.assistant_start}{family.no_think}"
    return _counted(client, f"{family.user_start}{instruction}{family.user_end}{opening}")


def _counted(client: KoboldClient, text: str) -> ExpandedPrompt:
    return ExpandedPrompt(text=text, tokens=client.count_tokens(text))


def _expand(client: KoboldClient, instruction: str) -> ExpandedPrompt | None:
    """As the server's template writes it; None where it has none, or lost what was to be said."""
    try:
        expanded = client.expand([{"role": "user", "content": instruction}])
    except (ResponseFormatError, BadRequestError) as err:
        _log.debug("%s does not expand templates: %s", client.url, err)
        return None
    return expanded if instruction.strip() in expanded.text else None


def _opened(text: str, family: Family) -> str:
    """The same up to where the answer begins: with the start of the answer, and past any thought.

    Tags other than the family's are left alone: those of an adapter that the user chose.
    """
    if family.user_start.strip() not in text:
        return text
    opening, no_think = family.assistant_start.strip(), family.no_think.strip()
    head, found, tail = text.rpartition(opening)
    if not found or family.user_start.strip() in tail:
        return f"{text}{family.assistant_start}{family.no_think}"
    if no_think in tail or not no_think.startswith(tail.strip()):
        return text  # the template says itself how the answer begins
    return f"{head}{family.assistant_start}{family.no_think}"
