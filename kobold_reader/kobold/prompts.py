"""An instruction becomes the text the model continues.

The count that comes with it is of the very text that is sent: an image was seen if and only if the
server then reports more prompt tokens than that.
"""

from __future__ import annotations

import logging
from typing import Final

from kobold_reader.errors import BadRequestError, ResponseFormatError
from kobold_reader.kobold.client import KoboldClient
from kobold_reader.kobold.families import DEFAULT, Family
from kobold_reader.kobold.values import ExpandedPrompt, ServerInfo

__all__ = ["render_prompt"]

_log = logging.getLogger(__name__)

_ALPACA: Final = "### Instruction:"
"""What KoboldCpp writes for a template it does not recognise, without a word about it."""


def render_prompt(client: KoboldClient, info: ServerInfo, family: Family, instruction: str) -> ExpandedPrompt:
    """The whole prompt for one instruction, ending where the answer begins.

    The server's own template is used where it has one: it knows the model's file. The tags of the
    family are used where it has none (it would write Alpaca then), before 1.115, with `--jinja`
    (templates for lists of parts write Python source into the prompt), and where the user chose the
    family. An unknown family has no tags of its own to prefer, so `--jinja` is trusted there.

    Args:
        client: Remembers the result until the server is asked about itself again.
        info: Of that client.
        family: From `choose_family`.
        instruction: What the user's turn says.
    """
    key = (info.model, info.version, family.name, str(family.forced), instruction)
    if key not in client.prompt_cache:
        client.prompt_cache[key] = _render(client, info, family, instruction)
    return client.prompt_cache[key]


def _render(client: KoboldClient, info: ServerInfo, family: Family, instruction: str) -> ExpandedPrompt:
    general = family.name == DEFAULT.name
    if info.chat_template and not family.forced and (general or not info.jinja):
        expanded = _expand(client, instruction)
        if expanded is not None and (general or _ALPACA not in expanded.text):
            return _opened(client, family, expanded)
    text = f"{family.user_start}{instruction}{family.user_end}{family.assistant_start}"
    return ExpandedPrompt(text=text, tokens=client.count_tokens(text))


def _expand(client: KoboldClient, instruction: str) -> ExpandedPrompt | None:
    try:
        expanded = client.expand([{"role": "user", "content": instruction}])
    except (ResponseFormatError, BadRequestError) as err:
        _log.debug("%s does not expand templates: %s", client.url, err)
        return None
    return expanded if instruction.strip() in expanded.text else None


def _opened(client: KoboldClient, family: Family, expanded: ExpandedPrompt) -> ExpandedPrompt:
    """The same, with the start of the answer if the template wrote the family's tags without it."""
    opening = family.assistant_start.strip()
    user_part, _, after = expanded.text.rpartition(family.user_start.strip())
    if not user_part and family.user_start.strip() not in expanded.text:
        return expanded  # other tags than we know: those of an adapter the user chose
    if opening in after:
        return expanded
    text = expanded.text + family.assistant_start
    return ExpandedPrompt(text=text, tokens=client.count_tokens(text))
