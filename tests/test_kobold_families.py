"""Addresses, families and prompts."""

from __future__ import annotations

import dataclasses
import json
import pickle
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kobold_reader.errors import ConfigError
from kobold_reader.kobold import (
    FAMILIES,
    RECOMMENDED,
    SETTINGS,
    Decoding,
    Family,
    GenerateRequest,
    KoboldClient,
    ServerInfo,
    address_kind,
    choose_family,
    image_tokens,
    normalize_url,
)
from kobold_reader.kobold.addresses import server_key
from kobold_reader.kobold.families import read_toml
from kobold_reader.kobold.gguf import projector_kinds
from kobold_reader.kobold.protocol import version_tuple
from kobold_reader.options import TASKS
from tests.families_appendix import PAGE, appendix

# ── addresses ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("typed", "url"),
    [
        ("http://127.0.0.1:5001", "http://127.0.0.1:5001"),
        ("localhost:5001", "http://localhost:5001"),
        ("  LOCALHOST:5001/  ", "http://localhost:5001"),
        ("http://host:5001/api", "http://host:5001"),
        ("http://host:5001/v1/", "http://host:5001"),
        ("http://host:5001/api/v1", "http://host:5001"),
        ("http://host:5001/api/extra/", "http://host:5001"),
        ("https://host/kobold/api/v1", "https://host/kobold"),
        ("https://host/kobold//", "https://host/kobold"),
        ("http://[::1]:5001/", "http://[::1]:5001"),
        ("http://host/myapi", "http://host/myapi"),
    ],
)
def test_addresses_as_people_write_them(typed: str, url: str) -> None:
    assert normalize_url(typed) == url
    assert normalize_url(url) == url
    assert KoboldClient(typed).url == url


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "http://",
        "ftp://host",
        "http://host:99999",
        "http://host:port",
        "http://user:geheim@host:5001",
        "geheim@host:5001",
        "http://user:geheim@host:99999",
        "http://user:geheim@[::1",
        "http://host:5001/?key=geheim",
        "http://host:5001/#geheim",
        "http://ho st:5001",
    ],
)
def test_addresses_that_are_none(typed: str) -> None:
    with pytest.raises(ConfigError) as caught:
        KoboldClient(typed)
    chain = f"{caught.value!r} {caught.value.__cause__!r}"
    assert "geheim" not in chain


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("localhost:5001", "loopback"),
        ("kobold.localhost:5001", "loopback"),
        ("127.0.0.1:5001", "loopback"),
        ("127.1:5001", "loopback"),
        ("http://[::1]:5001", "loopback"),
        ("http://[::ffff:127.0.0.1]:5001", "loopback"),
        ("192.168.1.20:5001", "private"),
        ("10.0.0.7", "private"),
        ("172.20.0.1", "private"),
        ("http://[fe80::1]:5001", "private"),
        ("http://[fd00::1]:5001", "private"),
        ("tower:5001", "private"),
        ("nas.local", "private"),
        ("box.home.arpa.", "private"),
        ("8.8.8.8", "public"),
        ("http://134744072:5001", "public"),
        ("http://[::ffff:8.8.8.8]:5001", "public"),
        ("100.64.0.1", "public"),
        ("172.32.0.1", "public"),
        ("kobold.example.org", "public"),
        ("http://127.0.0.1.example.org", "public"),
        ("https://localhost.example.org", "public"),
    ],
)
def test_where_an_address_leads(url: str, kind: str) -> None:
    assert address_kind(url) == kind


def test_one_server_has_one_key() -> None:
    spellings = ("localhost:5001", "http://127.0.0.1:5001/api/v1", "http://[::1]:5001")
    assert len({server_key(url) for url in spellings}) == 1
    assert server_key("localhost:5001") != server_key("localhost:5002")
    assert server_key("http://host") == server_key("http://host:80")
    assert server_key("http://host/a") != server_key("http://host/b")


def test_settings_name_flag_and_field() -> None:
    assert SETTINGS["visionmaxres"].remedy("2048") == (
        'with --visionmaxres 2048 (launcher: "Vision MaxRes" in "Loaded Files")'
    )
    assert all(setting.flag == f"--{name}" for name, setting in SETTINGS.items())


# ── families ──────────────────────────────────────────────────────────────────────────────────


def info(model: str, chat_template: str | None = "", version: str = "1.115.1") -> ServerInfo:
    return ServerInfo(
        url="http://127.0.0.1:5001",
        model=model,
        version=version,
        vision=True,
        protected=False,
        jinja=False,
        embeddings=False,
        embedding_model=None,
        context_tokens=8192,
        chat_template=chat_template,
    )


MODELS = [
    ("Qwen2.5-VL-7B-Instruct-Q4_K_M", "qwen2.5-vl"),
    ("qwen2_5_vl_3b", "qwen2.5-vl"),
    ("Qwen.Qwen2.5-VL-72B-Instruct.Q3_K_S", "qwen2.5-vl"),
    ("Qwen2-VL-2B-Instruct-Q8_0", "qwen2-vl"),
    ("Qwen3-VL-8B-Instruct-UD-Q4_K_XL", "qwen3-vl"),
    ("Qwen3VL-4B-Instruct-Q4_K_M", "qwen3-vl"),
    ("Qwen3-VL-30B-A3B-Thinking-Q4_K_M", "qwen3-vl-thinking"),
    ("Qwen3.5-9B-Q4_K_M", "qwen3.5"),
    ("Qwen_Qwen3.5-35B-A3B-Q4_K_L", "qwen3.5"),
    ("my-qwen-vl-tune", "qwen-vl"),
    ("gemma-3-12b-it-Q4_K_M", "gemma-3"),
    ("google_gemma-3-4b-it-qat-q4_0", "gemma-3"),
    ("gemma3-27b-abliterated", "gemma-3"),
    ("medgemma-4b-it-Q4_K_M", "gemma-3"),
    ("gemma-4-E4B-it-Q4_K_M", "gemma-4"),
    ("gemma-4-26B-A4B-it-UD-Q4_K_XL", "gemma-4-large"),
    ("google_gemma-4-31B-it-Q4_K_M", "gemma-4-large"),
    ("InternVL2_5-4B-Q4_K_M", "internvl-2.5"),
    ("InternVL3-8B-Instruct-Q4_K_M", "internvl-3"),
    ("OpenGVLab_InternVL3_5-8B-Q4_K_M", "internvl-3.5"),
    ("pixtral-12b-Q4_K_M", "pixtral"),
    ("mistral-community_pixtral-12b-Q5_K_M", "pixtral"),
    ("Mistral-Small-3.1-24B-Instruct-2503-Q4_K_M", "mistral-small-3"),
    ("mistralai_Mistral-Small-3.2-24B-Instruct-2506-Q4_K_M", "mistral-small-3"),
    ("MiniCPM-V-2_6-Q4_K_M", "minicpm-v-2.6"),
    ("minicpm-v-2.6-f16", "minicpm-v-2.6"),
    ("Model-7.6B-MiniCPM-o-2_6-Q4_K_M", "minicpm-v-2.6"),
    ("MiniCPM-Llama3-V-2_5-Q4_K_M", "minicpm-v-2.5"),
    ("MiniCPM-V-4-Q4_K_M", "minicpm-v-4"),
    ("MiniCPM-V-4_5-Q4_K_M", "minicpm-v-4.5"),
    ("MiniCPM-V-4.6-F16", "minicpm-v-4.6"),
    ("SmolVLM2-2.2B-Instruct-Q8_0", "smolvlm"),
    ("SmolVLM-500M-Instruct-f16", "smolvlm"),
    ("LFM2-VL-1.6B-Q8_0", "lfm2-vl"),
    ("LFM2.5-VL-1.6B-Q4_0", "lfm2-vl"),
    ("GLM-4.1V-9B-Thinking-Q4_K_M", "glm-4v"),
    ("zai-org_GLM-4.6V-Flash-Q4_K_M", "glm-4v"),
    ("granite-vision-3.3-2b-Q8_0", "granite-vision"),
    ("granite-3.1-vision-2b", "granite-vision"),
    ("olmOCR-2-7B-1025-Q4_K_M", "olmocr-2"),
    ("allenai_olmOCR-7B-0225-preview-Q8_0", "olmocr-2"),
    ("qwen2.5-vl-7b-olmocr-tune", "olmocr-2"),
    ("RolmOCR.Q4_K_M", "rolmocr"),
    ("Nanonets-OCR-s-Q8_0", "nanonets-ocr-s"),
    ("Nanonets-OCR2-3B-Q4_K_M", "nanonets-ocr2"),
    ("DeepSeek-OCR-Q8_0", "deepseek-ocr"),
    ("deepseek-ocr-2-bf16", "deepseek-ocr-2"),
    ("GLM-OCR-Q8_0", "glm-ocr"),
    ("LightOnOCR-1B-1025-Q8_0", "lightonocr"),
    ("LightOnOCR-2-1B-Q8_0", "lightonocr"),
    ("PaddleOCR-VL-1.5-GGUF", "paddleocr-vl"),
    ("dots.ocr-Q8_0", "dots.ocr"),
    ("dots.mocr-bf16", "dots.ocr"),
    ("llava-v1.5-7b-Q4_K", "llava-1.5"),
    ("ggml_llava-v1.5-13b", "llava-1.5"),
    ("ggml_llava-v1.5-7b-q4_k", "llava-1.5"),
    ("ggml_bakllava-1-q4_k", "llava-1.5-mistral"),
    ("llava-phi-2-3b.Q4_K_M", "llava-phi-2"),
    ("llava-phi-3-mini-int4", "llava-phi-3-mini"),
    ("llava-phi-3-mini-f16", "llava-phi-3-mini"),
    ("llava-llama-3-8b-v1_1-int4", "llava-llama-3"),
    ("LLaVA-Llama-3-8B-v1_1.Q5_K_M", "llava-llama-3"),
    ("Llama-3.1-Unhinged-Vision-8B-q8_0", "llama-3.1-unhinged-vision"),
    ("llava-v1.6-mistral-7b.Q4_K_M", "llava-1.6-mistral"),
    ("llava-1.6-mistral-7b-gguf", "llava-1.6-mistral"),
    ("llava-v1.6-vicuna-13b.Q5_K_M", "llava-1.6-vicuna"),
    ("llava-v1.6-vicuna-7b.Q4_K_M", "llava-1.6-vicuna"),
    ("llava-v1.6-34b.Q4_K_M", "llava-1.6-34b"),
    ("llama3-llava-next-8b-Q4_K_M", "llava-1.6-llama-3"),
    ("LLaVA-NeXT-Video-7B-Mistral.Q4_K_M", "llava-next-video-mistral"),
    ("LLaVA-NeXT-Video-7B-32K-Q8_0", "llava-next-video-mistral"),
    ("mobilevlm_v2-1.7b-q4_k", "mobilevlm-v2"),
    ("MobileVLM_V2-1.7B-ggml-model-q4_k", "mobilevlm-v2"),
    ("MobileVLM-1.7B-q4_k", "mobilevlm"),
    ("ShareGPT4V-13B-Q4_K_M", "sharegpt4v"),
    ("ggml-share-gpt4v-7b-q5_k", "sharegpt4v"),
    ("bunny-llama-3-8b-v-q4_k_m", "bunny-llama-3"),
    ("Bunny-Llama-3-8B-V-Q4_K_M", "bunny-llama-3"),
    ("Bunny-v1_0-4B-Q4_K_S", "bunny-phi-3"),
    # No vision family, however near: what their projector is, only the user knows.
    ("gemma-3n-E4B-it", "unknown"),
    ("gemma-2-9b", "unknown"),
    ("Qwen2.5-7B-Instruct", "unknown"),
    ("Qwen3-8B-Q4_K_M", "unknown"),
    ("Mistral-7B-Instruct-v0.3.Q4_K_M", "unknown"),
    ("Mistral-Small-24B-Instruct-2501-Q4_K_M", "unknown"),
    ("Llama-3-8B-Instruct", "unknown"),
    ("Meta-Llama-3.1-8B-Instruct-Q4_K_M", "unknown"),
    ("Phi-3-mini-4k-instruct-q4", "unknown"),
    ("vicuna-13b-v1.5.Q4_K_M", "unknown"),
    ("Nous-Hermes-2-Yi-34B.Q4_K_M", "unknown"),
    ("granite-3.3-8b-instruct-Q4_K_M", "unknown"),
    ("GLM-4-9B-0414-Q4_K_M", "unknown"),
    ("DeepSeek-R1-Distill-Qwen-7B-Q4_K_M", "unknown"),
    ("SmolLM2-1.7B-Instruct", "unknown"),
    ("LFM2-1.2B-Q8_0", "unknown"),
    ("MiniCPM3-4B-Q4_K_M", "unknown"),
    ("ggml-model-Q4_K_M", "unknown"),
]


@pytest.mark.parametrize(("model", "name"), MODELS)
def test_models_are_known_by_name(model: str, name: str) -> None:
    assert choose_family(info(model), None).name == name


@pytest.mark.parametrize(
    "family", [family for family in FAMILIES.values() if family.patterns], ids=lambda one: one.name
)
def test_every_family_with_patterns_has_a_model_above(family: Family) -> None:
    assert family.name in {name for _, name in MODELS}, "add the name of a model file, as it is published, to MODELS"


@pytest.mark.parametrize(
    ("chat_template", "name"),
    [
        ("<start_of_image><start_of_turn>model<end_of_turn>", "gemma-3"),
        ("<|vision_start|><|image_pad|><|vision_end|><|im_start|>", "qwen-vl"),
        (r"<|turn>model<|think|><|channel>thought\n<channel|>", "gemma-4-large"),
        ("<|turn>model<|think|>", "gemma-4"),
        ("[INST][IMG][/INST]", "pixtral"),
        ("[SYSTEM_PROMPT][INST][IMG][/INST]", "mistral-small-3"),
        ("User: <image><end_of_utterance>", "smolvlm"),
        ("<|im_start|>user\n<|im_end|>", "unknown"),
        ("", "unknown"),
        (None, "unknown"),
    ],
)
def test_a_template_tells_where_the_name_does_not(chat_template: str | None, name: str) -> None:
    assert choose_family(info("renamed", chat_template)).name == name
    assert choose_family(info("llava-v1.5-7b", chat_template)).name == "llava-1.5"


def test_an_unknown_model_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    assert choose_family(info("mystery"), None) is FAMILIES["unknown"]
    assert "mystery" in caplog.text
    assert "--family" in caplog.text
    assert "kobold-reader models" in caplog.text


def test_a_server_too_old_for_the_family_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    assert choose_family(info("gemma-3-12b-it", version="1.86")).name == "gemma-3"
    assert not caplog.text
    assert choose_family(info("gemma-3-12b-it", version="1.76")).name == "gemma-3"
    assert "1.76 is older than 1.86" in caplog.text


def test_the_user_chooses() -> None:
    assert choose_family(info("mystery"), " Gemma-3 ").name == "gemma-3"
    assert choose_family(info("mystery"), "gemma-3").forced
    assert not choose_family(info("gemma-3-4b"), "gemma-3").forced
    with pytest.raises(ConfigError) as caught:
        choose_family(info("mystery"), "qwen9")
    assert all(name in str(caught.value) for name in FAMILIES)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_every_row_is_complete(family: Family) -> None:
    assert "ocr" in family.tasks
    assert set(family.prompts) == family.tasks <= set(family.max_length)
    assert family.min_px_per_inch is None or family.min_px_per_inch > 0
    assert version_tuple(family.min_version) >= (1, 76)
    assert not family.assistant_start.endswith(" ")
    assert family.template
    if family.is_known:
        facts = {"projector": family.projector, "language_model": family.language_model, "encoder": family.encoder}
        assert [name for name, value in facts.items() if not value] == [], "the row lacks these"
        assert family.projector in projector_kinds(), "projectors.toml needs a row [kinds.NAME] for its projector"
    assert family.no_think == "" or family.thinking != "none"
    # The server's template would put around a fixed prompt what it thinks right.
    assert family.takes_instructions or not family.trusts_server
    assert pickle.loads(pickle.dumps(family)) == family  # noqa: S301
    # All of it can be sent, and nothing that could be printed on a page ends one.
    request = GenerateRequest("", stop_sequence=family.stop_sequence, **family.decoding_for(info("x")))
    body = json.loads(request.body("K"))
    assert body["temperature"] in {0.1, 0.2}  # at 0 the log-probabilities say nothing
    assert body.get("reasoning_effort") == (None if family.thinking == "none" else "none")
    fences = {"\n```"}
    assert all((stop.startswith("<") and stop.endswith(">")) or stop in fences for stop in family.stop_sequence)


def test_the_tables_name_only_what_exists() -> None:
    data = read_toml("families.toml")
    templates = read_toml("chat_templates.toml")
    rows = data["family"]
    assert list(data) == ["wording", "prompts", "encoders", "family", "recommended"]
    assert len({row["name"] for row in rows}) == len(rows) == len(FAMILIES)
    assert {row["encoder"] for row in rows} == data["encoders"].keys()
    assert {row["template"] for row in rows} == templates.keys()
    named = {row["prompts"] for row in rows if isinstance(row["prompts"], str)}
    assert named == data["prompts"].keys()
    fields = {field.name for field in dataclasses.fields(Family)}
    for row in rows:
        assert row.keys() <= fields
        assert row.get("decoding", {}).keys() <= Decoding.__annotations__.keys()
        assert FAMILIES[row["name"]].tasks <= set(TASKS)
        assert row.get("max_length", {}).keys() <= set(TASKS)
    for encoder in data["encoders"].values():
        assert {"name", "image", "max_side_px"} <= encoder.keys() <= {"name", "image", "max_side_px", "max_pixels"}
    assert all(row.keys() == {"memory_gb", "family", "model", "note"} for row in data["recommended"])
    assert not [text for family in FAMILIES.values() for text in family.prompts.values() if "{" in text]


def test_importing_the_families_reads_no_table() -> None:
    code = "from kobold_reader.kobold import families; families.read_toml = None; import kobold_reader.reading.due"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_thinking_is_forbidden_where_the_server_knows_how() -> None:
    family = FAMILIES["qwen3.5"]
    assert family.decoding_for(info("x", version="1.112"))["reasoning_effort"] == "none"
    assert "reasoning_effort" not in family.decoding_for(info("x", version="1.111.2"))
    assert "reasoning_effort" not in FAMILIES["qwen2.5-vl"].decoding_for(info("x"))


def test_a_hint_is_told_apart_from_the_page() -> None:
    family = FAMILIES["qwen2.5-vl"]
    said = family.instruction("ocr", hint="Swedish letters, about 1900; Lindqvist, Uppsala.")
    assert said.startswith(family.prompts["ocr"])
    assert said.endswith("not to be written down: Swedish letters, about 1900; Lindqvist, Uppsala.")
    assert family.instruction("caption", wording="Say what it is.") == "Say what it is."


@pytest.mark.parametrize("name", ["lightonocr", "deepseek-ocr", "glm-ocr", "paddleocr-vl", "dots.ocr"])
def test_a_model_of_fixed_prompts_takes_no_others(name: str) -> None:
    family = FAMILIES[name]
    assert family.instruction("ocr") == family.prompts["ocr"]
    for words in ({"hint": "Swedish"}, {"wording": "Read it."}):
        with pytest.raises(ConfigError, match=f"family {name} takes no"):
            family.instruction("ocr", **words)


@pytest.mark.parametrize(
    ("name", "size", "measured"),
    [
        # prompt_tokens less the text's own 18 (recordings of 1.115.1)
        ("qwen2.5-vl", (640, 480), 428 - 18),
        ("qwen2.5-vl", (1, 1), 46 - 18),
        ("qwen2.5-vl", (1024, 1024), 1406 - 18),
        ("gemma-3", (640, 480), 297 - 18),
        ("llava-1.5", (640, 480), 603 - 18),
        ("llava-1.5", (8000, 8000), 603 - 18),
    ],
)
def test_estimated_tokens_are_no_fewer_than_measured(name: str, size: tuple[int, int], measured: int) -> None:
    estimate = image_tokens(FAMILIES[name], *size)
    assert measured <= estimate <= measured + 64


@given(st.sampled_from(sorted(FAMILIES)), st.integers(1, 20_000), st.integers(1, 20_000))
def test_estimates_are_bounded_and_grow(name: str, width: int, height: int) -> None:
    family = FAMILIES[name]
    small, large = image_tokens(family, width, height), image_tokens(family, 2 * width, height)
    assert 0 < small <= 15_000
    # Where the longest side is scaled to one length, a wider picture becomes a flatter one.
    assert small <= large or family.image.longest_px


def test_recommendations_name_rows() -> None:
    assert set(RECOMMENDED) == {6, 12, 24}
    for advices in RECOMMENDED.values():
        assert all(choose_family(info(advice.model)).name == advice.family for advice in advices)
        assert all(advice.note for advice in advices)


def test_the_docs_have_the_table() -> None:
    rows = set(appendix().splitlines()) - set(PAGE.read_text(encoding="utf-8").splitlines())
    assert rows == set(), "run `python -m tests.families_appendix`, which renews the table"
    assert appendix() in PAGE.read_text(encoding="utf-8"), "the same, in another order"
