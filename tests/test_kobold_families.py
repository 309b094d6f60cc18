"""Addresses, families and prompts."""

from __future__ import annotations

import logging
import pickle
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kobold_reader.errors import ConfigError
from kobold_reader.kobold import (
    DEFAULT,
    FAMILIES,
    SETTINGS,
    Family,
    GenerateRequest,
    KoboldClient,
    ServerInfo,
    address_kind,
    choose_family,
    image_tokens,
    normalize_url,
    render_prompt,
)
from kobold_reader.kobold.addresses import server_key
from kobold_reader.kobold.values import version_tuple
from tests.kobold_simulator import KoboldSimulator

NAMED = [family for family in FAMILIES.values() if family is not DEFAULT]


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


def info(model: str) -> ServerInfo:
    return ServerInfo(
        url="http://127.0.0.1:5001",
        model=model,
        version="1.115.1",
        vision=True,
        protected=False,
        jinja=False,
        embeddings=False,
        embedding_model=None,
        context_tokens=8192,
        chat_template="",
    )


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("Qwen2.5-VL-7B-Instruct-Q4_K_M", "qwen2.5-vl"),
        ("qwen2_5_vl_3b", "qwen2.5-vl"),
        ("gemma-3-12b-it-Q4_K_M", "gemma-3"),
        ("google_gemma-3-4b-it-qat-q4_0", "gemma-3"),
        ("MiniCPM-V-2_6-Q4_K_M", "minicpm-v-2.6"),
        ("minicpm-v-2.6-f16", "minicpm-v-2.6"),
        ("llava-v1.5-7b-Q4_K", "llava-1.5"),
        ("ggml_llava-v1.5-13b", "llava-1.5"),
        ("gemma-3n-E4B-it", "unknown"),
        ("gemma-2-9b", "unknown"),
        ("Qwen2.5-7B-Instruct", "unknown"),
        ("Qwen3-VL-8B", "unknown"),
        ("llava-v1.6-mistral-7b", "unknown"),
        ("MiniCPM-V-4_5", "unknown"),
        ("ggml-model-Q4_K_M", "unknown"),
    ],
)
def test_models_are_known_by_name(model: str, name: str) -> None:
    assert choose_family(info(model), None).name == name


def test_an_unknown_model_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    assert choose_family(info("mystery"), None) is DEFAULT
    assert "mystery" in caplog.text
    assert "--family" in caplog.text
    assert "qwen2.5-vl" in caplog.text


def test_the_user_chooses() -> None:
    assert choose_family(info("mystery"), " Gemma-3 ").name == "gemma-3"
    assert choose_family(info("mystery"), "gemma-3").forced
    assert not choose_family(info("gemma-3-4b"), "gemma-3").forced
    with pytest.raises(ConfigError) as caught:
        choose_family(info("mystery"), "qwen9")
    assert all(name in str(caught.value) for name in FAMILIES)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_every_row_is_complete(family: Family) -> None:
    assert family.tasks >= {"ocr", "caption"}
    assert set(family.prompts) == family.tasks == set(family.max_length)
    assert family.min_px_per_inch > 0
    assert version_tuple(family.min_version) >= (1, 76)
    assert not family.assistant_start.endswith(" ")
    assert pickle.loads(pickle.dumps(family)) == family  # noqa: S301
    # All of it can be sent, and nothing that could be printed on a page ends one.
    request = GenerateRequest("", stop_sequence=family.stop_sequence, **family.decoding)
    assert request.body("K")["temperature"] == 0.1
    assert all(stop.startswith("<") and stop.endswith(">") for stop in family.stop_sequence)


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
    assert 0 < small <= large <= 2048 + 32


# ── prompts ───────────────────────────────────────────────────────────────────────────────────

GEMMA_TEMPLATE = "<start_of_image><start_of_turn>model<end_of_turn>"


@pytest.mark.parametrize("family", NAMED, ids=lambda family: family.name)
def test_the_tokens_are_those_of_the_text_sent(family: Family) -> None:
    for settings in (
        {"chat_template": ""},
        {"jinja": True},
        {"version": "1.76", "projector": "mlp"},
        {},
    ):
        with KoboldSimulator(**settings) as sim:
            client = KoboldClient(sim.url)
            prompt = render_prompt(client, client.info(), family, "Read {{[INPUT]}} this.")
            assert prompt.tokens == client.count_tokens(prompt.text)
            assert "Read {{[INPUT]}} this." in prompt.text
            counted = client.generate(GenerateRequest(prompt.text)).prompt_tokens
            assert counted in (prompt.tokens, None)


def test_the_servers_own_template_is_used_where_it_has_one() -> None:
    with KoboldSimulator() as sim:
        client = KoboldClient(sim.url)
        prompt = render_prompt(client, client.info(), DEFAULT, "Read.")
        assert prompt.text == "<|im_start|>user\nRead.<|im_end|>\n<|im_start|>assistant\n"


def test_the_prompt_is_asked_for_once_per_check() -> None:
    with KoboldSimulator() as sim:
        client = KoboldClient(sim.url)
        for _ in range(3):
            render_prompt(client, client.info(), DEFAULT, "Read.")
        assert sim.count("/api/extra/tokencount") == 1
        render_prompt(client, client.info(refresh=True), DEFAULT, "Read.")
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
    from kobold_reader.kobold import ExpandedPrompt

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


def test_a_family_reads_through_the_simulator(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    for name, model, projector in (
        ("qwen2.5-vl", "Qwen2.5-VL-7B", "qwen2vl"),
        ("gemma-3", "gemma-3-4b-it", "gemma3"),
        ("minicpm-v-2.6", "MiniCPM-V-2_6-Q4", "resampler"),
        ("llava-1.5", "llava-v1.5-7b", "mlp"),
    ):
        with KoboldSimulator(model=model, projector=projector) as sim:
            client = KoboldClient(sim.url)
            server = client.require_vision()
            family = choose_family(server, None)
            assert family.name == name
            assert family.tested
            prompt = render_prompt(client, server, family, family.prompts["ocr"])
            completion = client.generate(
                GenerateRequest(prompt.text, images=(png(64, 48),), stop_sequence=family.stop_sequence)
            )
            assert completion.prompt_tokens is not None
            seen = completion.prompt_tokens - prompt.tokens
            assert 0 < seen <= image_tokens(family, 64, 48)
    assert not caplog.records
    assert sum(family.tested for family in FAMILIES.values()) == 4


def png(width: int, height: int) -> bytes:
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\x00" + b"\xff" * width for _ in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
