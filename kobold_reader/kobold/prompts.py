"""The prompt: an instruction as the model gets it, in its chat template. The wordings are in `families.toml`.

Each prompt comes with the token count of the very text that is sent: an image was seen if and only if the server then
reports more prompt tokens than that.
"""

from __future__ import annotations

import logging

from kobold_reader.errors import BadRequestError, ResponseFormatError
from kobold_reader.kobold.client import KoboldClient
from kobold_reader.kobold.families import Family, template_in
from kobold_reader.kobold.protocol import ExpandedPrompt, ServerInfo

log = logging.getLogger(__name__)

ALPACA = "### Instruction:"
"""KoboldCpp writes this for a template that it does not recognise, without telling."""


def render_prompt(client: KoboldClient, info: ServerInfo, family: Family, instruction: str) -> ExpandedPrompt:
    """Return the whole prompt for one instruction, ending where the answer begins.

    The server's own template is used where it has one, since it knows the model's file. The family's tags are used
    where the server has no template or writes Alpaca, where it takes the template for another one
    (`Family.trusts_server`), before 1.115 (which expands no messages), with `--jinja` (templates for lists of parts
    write Python source into the prompt), and where the user chose the family. For an unknown family the tags are those
    that the chat template in the model's file shows, and `--jinja` is trusted, since there is nothing to prefer.
    Placeholders (`{{[INPUT]}}`) are never sent: the server counts them, and not what they become.

    Args:
        client: Remembers the result until the server is asked about itself again.
        info: Of that client.
        family: From `choose_family`.
        instruction: The text of the user's turn; may be empty.
    """
    key = (info.model, info.version, family.name, str(family.forced), instruction)
    if key not in client.prompt_cache:
        client.prompt_cache[key] = _render(client, info, family, instruction)
    return client.prompt_cache[key]


def _render(client: KoboldClient, info: ServerInfo, family: Family, instruction: str) -> ExpandedPrompt:
    is_general = not family.is_known and not family.forced
    shown = template_in(info.chat_template or "") if is_general else None
    if info.chat_template and family.trusts_server and not family.forced and (is_general or not info.jinja):
        expanded = _expand(client, instruction)
        # Nothing speaks against Alpaca where neither the family nor the file shows another template.
        if expanded is not None and (ALPACA not in expanded.text or (is_general and shown is None)):
            text = _with_opening(expanded.text, family)
            return expanded if text == expanded.text else _counted(client, text)
    if shown is not None:
        return _counted(client, f"{shown.user_start}{instruction}{shown.user_end}{shown.assistant_start}")
    opening = f"{family.assistant_start}{family.no_think}"
    return _counted(client, f"{family.user_start}{instruction}{family.user_end}{opening}")


def _counted(client: KoboldClient, text: str) -> ExpandedPrompt:
    return ExpandedPrompt(text=text, tokens=client.count_tokens(text))


def _expand(client: KoboldClient, instruction: str) -> ExpandedPrompt | None:
    """The prompt in the server's template; None where it has none, or its prompt lacks the instruction."""
    try:
        expanded = client.expand([{"role": "user", "content": instruction}])
    except (ResponseFormatError, BadRequestError) as err:
        log.debug("%s does not expand templates: %s", client.url, err)
        return None
    return expanded if instruction.strip() in expanded.text else None


def _with_opening(text: str, family: Family) -> str:
    """Return the prompt with the start of the answer behind it, past any thought.

    Tags other than the family's are left alone: they come from an adapter that the user chose.
    """
    if family.user_start.strip() not in text:
        return text
    opening, no_think = family.assistant_start.strip(), family.no_think.strip()
    head, found, tail = text.rpartition(opening)
    if not found or family.user_start.strip() in tail:
        return f"{text}{family.assistant_start}{family.no_think}"
    if no_think in tail or not no_think.startswith(tail.strip()):
        return text  # the template itself begins the answer
    return f"{head}{family.assistant_start}{family.no_think}"
