"""Requests and answers as KoboldCpp reads and writes them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from tests.simulator_model import Adapter
from tests.simulator_parts import Done, Task

if TYPE_CHECKING:
    from tests.kobold_simulator import KoboldSimulator

INTERROGATE_PROMPT = "\n### Instruction:\nIn one sentence, write a descriptive caption for this image.\n### Response:\n"
ANY_JSON_GRAMMAR = 'root ::= "{" [^}]* "}"'


def whole_number(value: Any, default: int) -> int:
    """A number or a string of one; anything else is the default."""
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return default


def context_of(body: dict[str, Any], simulator: KoboldSimulator) -> int:
    """The window of this request: never more than the server's."""
    asked = whole_number(body.get("max_context_length"), simulator.context_size)
    return min(asked, simulator.context_size) if asked > 0 else simulator.context_size


def clamped_length(length: int, n_ctx: int, simulator: KoboldSimulator) -> int:
    """`--genlimit`, then 80 % of the window (1.76: the window less 16); never said to anyone."""
    if simulator.genlimit:
        length = min(length, simulator.genlimit)
    most = n_ctx - (16 if simulator.old else int(n_ctx * 0.2))
    return max(0, min(length, most))


def default_length(simulator: KoboldSimulator) -> int:
    """What an omitted max_length means."""
    if simulator.old:
        return 180
    return min(simulator.default_genamt, 16384, simulator.context_size // 2)


def items_of(value: Any) -> list[Any]:
    """A list; a string is taken for the list of its characters, null for none."""
    if value is None:
        return []
    if isinstance(value, list | str):
        return list(value)
    raise TypeError("no list")


def images_of(body: dict[str, Any]) -> list[str]:
    """The list `images`; an item that is no string is an exception inside."""
    images = items_of(body.get("images"))
    if any(not isinstance(image, str) for image in images):
        raise TypeError("an image is no string")
    return images


def native_task(body: dict[str, Any], simulator: KoboldSimulator) -> Task:
    """The fields of /api/v1/generate; `temp`, `seed`, `max_tokens`, `stop` are ignored."""
    prompt, memory = body.get("prompt", ""), body.get("memory") or ""
    stops = [str(stop) for stop in items_of(body.get("stop_sequence"))]
    if not isinstance(prompt, str) or not isinstance(memory, str):
        raise TypeError("the prompt is no string")
    replaced = body.get("replace_instruct_placeholders")
    if not simulator.old and (replaced is None or replaced):
        adapter = simulator.chat_adapter()
        prompt, memory = filled(prompt, adapter), filled(memory, adapter)
        stops = [filled(stop, adapter).strip() if "{{[" in stop else stop for stop in stops]
    n_ctx = context_of(body, simulator)
    length = whole_number(body.get("max_length"), default_length(simulator))
    trim = body.get("trim_stop")
    return Task(
        prompt=prompt,
        memory=memory,
        images=images_of(body),
        max_length=clamped_length(length, n_ctx, simulator),
        n_ctx=n_ctx,
        stops=stops,
        trim_stop=not simulator.old if trim is None else bool(trim),
        body=body,
    )


def filled(text: str, adapter: Adapter) -> str:
    """Put the adapter's tags for `{{[INPUT]}}` and its kin; without END tags, in simple mode."""
    if "{{[INPUT_END]}}" in text or "{{[OUTPUT_END]}}" in text:
        tags = {
            "INPUT": adapter.user_start, "INPUT_END": adapter.user_end,
            "OUTPUT": adapter.assistant_start, "OUTPUT_END": adapter.assistant_end,
            "SYSTEM": adapter.system_start, "SYSTEM_END": adapter.system_end,
        }  # fmt: skip
    else:
        text = text.replace("{{[INPUT]}}", adapter.user_start, 1)
        tags = {
            "INPUT": adapter.assistant_end + adapter.user_start,
            "OUTPUT": adapter.user_end + adapter.assistant_start,
            "SYSTEM": adapter.system_start, "SYSTEM_END": adapter.system_end,
        }  # fmt: skip
    for name, tag in tags.items():
        text = text.replace("{{[" + name + "]}}", tag)
    return text


def openai_task(prompt: str, images: list[Any], stops: list[str], body: dict[str, Any], sim: KoboldSimulator) -> Task:
    """What the OpenAI-like endpoints share: 0, -1 and null mean the default length."""
    default = 400 if sim.old else default_length(sim)
    asked = body.get("max_length") or body.get("max_tokens") or body.get("max_completion_tokens")
    length = whole_number(asked, default)
    n_ctx = context_of(body, sim)
    said = body.get("stop")
    stops = stops + ([said] if isinstance(said, str) else [str(stop) for stop in items_of(said)])
    return Task(
        prompt=prompt,
        memory=str(body.get("memory") or ""),
        images=images + images_of(body),
        max_length=clamped_length(length if length > 0 else default, n_ctx, sim),
        n_ctx=n_ctx,
        stops=stops,
        trim_stop=True,
        body=body,
    )


def completions_task(body: dict[str, Any], simulator: KoboldSimulator) -> Task:
    """The fields of /v1/completions."""
    return openai_task(str(body.get("prompt") or ""), [], [], body, simulator)


def chat_task(body: dict[str, Any], simulator: KoboldSimulator) -> Task:
    """The fields of /v1/chat/completions; the tags of the adapter are always stop sequences."""
    prompt, images = chat_prompt(body.get("messages", []), simulator)
    adapter = simulator.chat_adapter()
    tags = [adapter.user_start.strip(), adapter.assistant_start.strip()]
    return openai_task(prompt, images, tags, body, simulator)


def chat_prompt(messages: list[Any], simulator: KoboldSimulator) -> tuple[str, list[str]]:
    """Expand messages with the adapter's tags; each image leaves a marker in the text."""
    adapter = simulator.chat_adapter()
    tags = {
        "system": (adapter.system_start, adapter.system_end),
        "assistant": (adapter.assistant_start, adapter.assistant_end),
    }
    images: list[str] = []
    parts: list[str] = []
    for message in messages:
        start, end = tags.get(message["role"], (adapter.user_start, adapter.user_end))
        parts += [start, content_text(message.get("content"), images, simulator), end]
    if messages and messages[-1]["role"] == "assistant":
        parts.pop()
    else:
        parts.append(adapter.opening)
    return "".join(parts), images


def content_text(content: Any, images: list[str], simulator: KoboldSimulator) -> str:
    """The text of one message; only `data:image` URLs are taken, others vanish."""
    if not isinstance(content, list):
        return content if isinstance(content, str) else ""
    texts: list[str] = []
    markers: list[str] = []
    for part in content:
        if part["type"] == "text":
            texts.append(part["text"])
        elif part["type"] == "image_url" and part["image_url"]["url"].startswith("data:image"):
            images.append(part["image_url"]["url"].split(",", 1)[1])
            marker = "" if simulator.old else f"\n(Attached Image {len(images)})\n"
            (markers if simulator.jinja else texts).append(marker)
    if simulator.jinja:
        return repr([{"type": "text", "text": "".join(markers + texts)}])
    return "".join(texts)


def native_result(done: Done, *, old: bool) -> dict[str, Any]:
    """One entry of `results`."""
    if old:
        return {"text": done.text, "finish_reason": done.finish_reason}
    return {
        "text": done.text,
        "tool_calls": [],
        "finish_reason": done.finish_reason,
        "logprobs": done.logprobs,
        "prompt_tokens": done.prompt_tokens,
        "completion_tokens": done.completion_tokens,
    }


def usage(done: Done, *, old: bool) -> dict[str, int]:
    """Token numbers as OpenAI's clients expect them; constants in 1.76."""
    prompt, said = (100, 100) if old else (done.prompt_tokens, done.completion_tokens)
    return {"prompt_tokens": prompt, "completion_tokens": said, "total_tokens": prompt + said}


def to_last_sentence(text: str) -> str:
    """Cut what follows the last sentence's end, as /sdapi/v1/interrogate does."""
    ends = [match.end() for match in re.finditer(r"[.!?*\")}`\]]+", text)]
    return text[: ends[-1]] if ends else text
