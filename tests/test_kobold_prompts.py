"""Prompts: whose template, which tags, and a count that is true."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kobold_reader.kobold import (
    FAMILIES,
    ExpandedPrompt,
    Family,
    GenerateRequest,
    KoboldClient,
    choose_family,
    render_prompt,
)
from tests.kobold_simulator import CHATML_TEMPLATE, KoboldSimulator

GEMMA_TEMPLATE = "<start_of_image><start_of_turn>model<end_of_turn>"
LLAMA_3_TEMPLATE = "<|start_header_id|>assistant<|end_header_id|>\n\n"
GLM_4_7 = "[gMASK]<sop>content.split('</think>')"
GEMMA_4_LARGE = r"<|turn>model<|think|><|channel>thought\n<channel|>"
NONE_KNOWN = "a template {{ of }} nobody"

PARTICULAR = (
    *("qwen2.5-vl", "qwen3.5", "gemma-3", "gemma-4-large", "minicpm-v-2.6", "llava-1.5", "llava-1.6-mistral"),
    *("bunny-phi-3", "smolvlm", "glm-4v", "granite-vision", "lightonocr", "deepseek-ocr", "dots.ocr", "unknown"),
)
"""Families that differ in how their prompt is made."""


@pytest.mark.parametrize("family", [FAMILIES[name] for name in PARTICULAR], ids=lambda family: family.name)
def test_the_tokens_are_those_of_the_text_sent(family: Family) -> None:
    for settings in (
        {"chat_template": ""},
        {"jinja": True},
        {"version": "1.76", "projector": "mlp"},
        {"version": "1.100"},
        {},
    ):
        with KoboldSimulator(**settings) as sim:
            client = KoboldClient(sim.url)
            prompt = render_prompt(client, client.info(), family, "Read {{[INPUT]}} this.")
            assert prompt.tokens == client.count_tokens(prompt.text)
            assert "Read {{[INPUT]}} this." in prompt.text
            counted = client.generate(GenerateRequest(prompt.text)).prompt_tokens
            assert counted in (prompt.tokens, None)


@pytest.mark.parametrize("jinja", [False, True])
@pytest.mark.parametrize(
    ("family", "template"),
    [
        *(("glm-4v", GLM_4_7), ("glm-ocr", GLM_4_7), ("unknown", GLM_4_7)),
        *(("gemma-4", GEMMA_4_LARGE), ("gemma-4-large", GEMMA_4_LARGE), ("unknown", GEMMA_4_LARGE)),
    ],
)
def test_what_koboldcpp_writes_before_a_prompt_is_counted(family: str, template: str, *, jinja: bool) -> None:
    with KoboldSimulator(chat_template=template, jinja=jinja) as sim:
        client = KoboldClient(sim.url)
        chosen = replace(FAMILIES[family], forced=family != "unknown")
        prompt = render_prompt(client, client.info(), chosen, "Read this.")
        assert client.generate(GenerateRequest(prompt.text)).prompt_tokens == prompt.tokens
        assert sim.seen[-1].prompt == prompt.text


def test_the_servers_own_template_is_used_where_it_has_one() -> None:
    with KoboldSimulator() as sim:
        client = KoboldClient(sim.url)
        prompt = render_prompt(client, client.info(), FAMILIES["unknown"], "Read.")
        assert prompt.text == "<|im_start|>user\nRead.<|im_end|>\n<|im_start|>assistant\n"


def test_the_prompt_is_asked_for_once_per_check() -> None:
    with KoboldSimulator() as sim:
        client = KoboldClient(sim.url)
        for _ in range(3):
            render_prompt(client, client.info(), FAMILIES["unknown"], "Read.")
        assert sim.count("/api/extra/tokencount") == 1
        render_prompt(client, client.info(refresh=True), FAMILIES["unknown"], "Read.")
        assert sim.count("/api/extra/tokencount") == 2


VICUNA = "USER: Read.\nASSISTANT:"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"chat_template": ""}, VICUNA),
        ({"version": "1.76", "projector": "mlp"}, VICUNA),
        ({"jinja": True}, VICUNA),
        ({"chat_template": "unheard of", "adapter": None}, VICUNA),
    ],
)
def test_the_familys_tags_are_used_where_the_servers_are_none(settings: dict[str, Any], text: str) -> None:
    with KoboldSimulator(**settings) as sim:
        client = KoboldClient(sim.url)
        prompt = render_prompt(client, client.info(), FAMILIES["llava-1.5"], "Read.")
        assert prompt.text == text


def test_a_forced_family_brings_its_own_tags() -> None:
    with KoboldSimulator(model="mystery") as sim:
        client = KoboldClient(sim.url)
        family = choose_family(client.info(), "gemma-3")
        prompt = render_prompt(client, client.info(), family, "Read.")
        assert prompt.text == ("<start_of_turn>user\nRead.<end_of_turn>\n<start_of_turn>model\n")


def test_a_template_without_the_start_of_the_answer_gets_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with KoboldSimulator() as sim:
        client = KoboldClient(sim.url)
        open_end = ExpandedPrompt("<|im_start|>user\nRead.<|im_end|>\n", 7)
        monkeypatch.setattr(client, "expand", lambda _messages: open_end)
        prompt = render_prompt(client, client.info(), FAMILIES["qwen2.5-vl"], "Read.")
        assert prompt.text == open_end.text + "<|im_start|>assistant\n"
        assert prompt.tokens == client.count_tokens(prompt.text)


def test_tags_of_another_adapter_are_left_alone() -> None:
    with KoboldSimulator() as sim:
        client = KoboldClient(sim.url)
        llava = replace(FAMILIES["llava-1.5"])
        prompt = render_prompt(client, client.info(), llava, "Read.")
        assert prompt.text.startswith("<|im_start|>")


def prompt_of(family: str, **settings: Any) -> str:
    with KoboldSimulator(**settings) as sim:
        client = KoboldClient(sim.url)
        prompt = render_prompt(client, client.info(), FAMILIES[family], "Read.")
        assert prompt.tokens == client.count_tokens(prompt.text)
        return prompt.text


GEMMA = "<start_of_turn>user\nRead.<end_of_turn>\n<start_of_turn>model\n"
LLAMA_3 = "Read.<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
CHATML = "<|im_start|>user\nRead.<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        # 1.92 to 1.114: /props, but no messages in tokencount; the file's own template shows the tags
        ({"version": "1.100"}, CHATML),
        ({"version": "1.100", "chat_template": GEMMA_TEMPLATE}, GEMMA),
        ({"version": "1.114", "chat_template": NONE_KNOWN}, "USER: Read.\nASSISTANT:"),
        ({"version": "1.76", "projector": "mlp"}, "USER: Read.\nASSISTANT:"),
        # 1.115
        ({"jinja": True}, CHATML),
        ({"chat_template": ""}, "USER: Read.\nASSISTANT:"),
        # Alpaca is the server's word for a template it does not know; ours may know it
        ({"chat_template": "User: <end_of_utterance>"}, "<|im_start|>User: Read.<end_of_utterance>\nAssistant:"),
        ({"chat_template": NONE_KNOWN}, "\n### Instruction:\nRead.\n\n\n### Response:\n"),
    ],
)
def test_an_unknown_model_gets_the_tags_its_file_shows(settings: dict[str, Any], text: str) -> None:
    assert prompt_of("unknown", **settings) == text


@pytest.mark.parametrize(
    ("family", "settings", "text"),
    [
        # What KoboldCpp would take for another template, or for none, never reaches the model.
        ("granite-vision", {"chat_template": "<|system|><|user|><|assistant|>"}, "<|user|>\nRead.\n<|assistant|>\n"),
        ("dots.ocr", {"chat_template": "<|system|><|user|><|endofuser|>"}, "<|user|>Read.<|endofuser|><|assistant|>"),
        ("smolvlm", {"chat_template": "<|im_start|>User: <end_of_utterance>"}, "Read.<end_of_utterance>\nAssistant:"),
        ("llava-phi-3-mini", {"chat_template": "<|user|><|end|>"}, "<|user|>\nRead.<|end|>\n<|assistant|>\n"),
        ("bunny-llama-3", {"chat_template": LLAMA_3_TEMPLATE}, "user's questions. USER: Read. ASSISTANT:"),
        ("deepseek-ocr", {}, "Read."),
        ("paddleocr-vl", {"chat_template": NONE_KNOWN}, "User: Read.\nAssistant:\n"),
        ("lightonocr", {}, f"<|im_start|>system<|im_end|>\n{CHATML}"),
        # Its own template is right where the server knows it.
        ("llava-llama-3", {"chat_template": LLAMA_3_TEMPLATE}, LLAMA_3),
        ("llava-1.6-mistral", {"chat_template": "[INST][/INST]"}, "[INST] Read.[/INST]"),
        ("llava-1.6-mistral", {"chat_template": ""}, "[INST] Read. [/INST]"),
        ("llava-1.6-mistral", {"version": "1.76"}, "[INST] Read. [/INST]"),
        ("minicpm-v-2.5", {"version": "1.76"}, LLAMA_3),
        ("qwen2.5-vl", {"version": "1.100"}, CHATML),
    ],
)
def test_the_right_template_on_every_server(family: str, settings: dict[str, Any], text: str) -> None:
    assert prompt_of(family, **settings).endswith(text)


NO_THINK = "<|im_start|>assistant\n<think>\n\n</think>\n\n"


@pytest.mark.parametrize(
    ("family", "settings", "opening"),
    [
        ("qwen3.5", {}, NO_THINK),
        ("qwen3.5", {"jinja": True}, NO_THINK),
        ("qwen3.5", {"version": "1.113"}, NO_THINK),
        ("qwen3-vl-thinking", {"chat_template": ""}, NO_THINK),
        ("minicpm-v-4.5", {}, NO_THINK),
        # An adapter that does so itself is left alone.
        ("qwen3.5", {"adapter": "ChatML-NoThink"}, "<|im_start|>assistant\n<think>\n\n</think>\n"),
        (
            "gemma-4-large",
            {"chat_template": GEMMA_4_LARGE},
            "<turn|>\n<|turn>model\n<|channel>thought\n<channel|>",
        ),
        ("gemma-4-large", {"chat_template": ""}, "<turn|>\n<|turn>model\n<|channel>thought\n<channel|>"),
        ("gemma-4", {"chat_template": "<|turn>model<|think|>"}, "<turn|>\n<|turn>model\n"),
        ("glm-4v", {"chat_template": GLM_4_7}, "/nothink<|assistant|>\n<think></think>"),
        ("qwen3-vl", {}, "<|im_start|>assistant\n"),
        ("qwen-vl", {}, "<|im_start|>assistant\n"),
    ],
)
def test_no_thought_is_begun(family: str, settings: dict[str, Any], opening: str) -> None:
    assert prompt_of(family, **settings).endswith(opening)


def test_a_thought_that_the_template_opens_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    with KoboldSimulator() as sim:
        client = KoboldClient(sim.url)
        opened = ExpandedPrompt("<|im_start|>user\nRead.<|im_end|>\n<|im_start|>assistant\n<think>\n", 9)
        monkeypatch.setattr(client, "expand", lambda _messages: opened)
        prompt = render_prompt(client, client.info(), FAMILIES["qwen3-vl-thinking"], "Read.")
        assert prompt.text.endswith(NO_THINK)
        assert prompt.text.count("<think>") == 1
        assert prompt.tokens == client.count_tokens(prompt.text)


def test_an_empty_instruction_is_one_too() -> None:
    with KoboldSimulator(chat_template=CHATML_TEMPLATE) as sim:
        client = KoboldClient(sim.url)
        prompt = render_prompt(client, client.info(), FAMILIES["lightonocr"], "")
        assert prompt.text == ("<|im_start|>system<|im_end|>\n<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n")
