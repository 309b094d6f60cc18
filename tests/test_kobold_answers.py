"""What KoboldCpp was recorded to answer, read without a server."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kobold_reader.errors import (
    AuthenticationError,
    BadRequestError,
    ConfigError,
    KoboldReaderError,
    NoVisionModelError,
    ResponseFormatError,
    ServerBusyError,
    ServerStatusError,
)
from kobold_reader.kobold import GenerateRequest, classify_error, parse_generate
from kobold_reader.kobold.protocol import MAX_IMAGES, HttpAnswer, ServerInfo, version_tuple

RECORDINGS = Path(__file__).parent / "recordings"
URL = "http://127.0.0.1:5001"
JPEG = b"\xff\xd8\xff\xe0" + bytes(range(256))


def recording(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((RECORDINGS / f"{name}.json").read_text("utf-8"))
    return loaded


def answered(name: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body; the body is written anew, so its length is left out."""
    made = recording(name)
    body = made["body"]
    raw = body.encode() if made["body_type"] == "text" else json.dumps(body).encode()
    return made["status"], {"content-type": "application/json"}, raw


def asked(name: str) -> GenerateRequest:
    body = recording(name)["request"]["body"]
    stops = body.get("stop_sequence") if isinstance(body, dict) else None
    return GenerateRequest("", stop_sequence=tuple(stops) if isinstance(stops, list) else ())


GENERATED = sorted(
    path.stem
    for path in RECORDINGS.glob("*.json")
    if (made := json.loads(path.read_text("utf-8"))).get("request", {}).get("method") == "POST"
    and made["request"]["path"].rstrip("/").endswith("/generate")
    and made.get("status") is not None
)

ERRORS: dict[str, type[KoboldReaderError]] = {
    "after_abort_in_prompt": ServerBusyError,
    "after_client_timeout_second": ServerBusyError,
    "busy_mu0_second": ServerBusyError,
    "bad_json_generate": BadRequestError,
    "empty_body_generate": BadRequestError,
    "gen_prompt_wrongtype": ResponseFormatError,
    "img1_null": ResponseFormatError,
    "img_mixed_bad_good": ResponseFormatError,
    "img_mixed_good_bad": ResponseFormatError,
    "pw_generate_none": AuthenticationError,
    "pw_generate_noscheme": AuthenticationError,
    "pw_generate_wrong": AuthenticationError,
    "pw_generate_xapikey": AuthenticationError,
}

HITS = {"stopseq_cat_notrim": " The image shows a photo of"}


@pytest.mark.parametrize("name", GENERATED)
def test_every_recorded_generate_is_a_value_or_a_named_error(name: str) -> None:
    status, headers, body = answered(name)
    if name in ERRORS:
        with pytest.raises(ERRORS[name]) as caught:
            parse_generate(HttpAnswer(status, headers, body), asked(name), url=URL)
        assert URL in str(caught.value)
        assert caught.value.server == URL
        return
    result = recording(name)["body"]["results"][0]
    completion = parse_generate(HttpAnswer(status, headers, body), asked(name), url=URL, elapsed_s=2.5)
    if name in HITS:
        assert (completion.text, completion.ending) == (HITS[name], "stop_sequence")
    else:
        assert completion.text == result["text"]
        assert completion.ending == {"stop": "eos", "length": "length"}[result["finish_reason"]]
    assert completion.prompt_tokens == result["prompt_tokens"]
    assert completion.completion_tokens == result["completion_tokens"]
    assert completion.logprobs == result["logprobs"]
    assert completion.elapsed_s == 2.5


def test_enough_recordings_were_found() -> None:
    assert len(GENERATED) > 130
    assert set(GENERATED) >= set(ERRORS) | set(HITS)


def reply(text: str, finish: str = "length", **more: object) -> bytes:
    return json.dumps({"results": [{"text": text, "finish_reason": finish, **more}]}).encode()


@pytest.mark.parametrize(
    ("text", "stops", "kept"),
    [
        ("Die Stadt<END>", ("<END>",), "Die Stadt"),
        ("lorem seduper", ("sedu",), "lorem "),  # measured: a stop inside a token leaves its rest
        ("a STOP b END", ("END", "STOP"), "a "),
        ("END" + "-" * 200, ("END",), ""),
    ],
)
def test_a_hit_stop_sequence_is_told_by_its_text(text: str, stops: tuple[str, ...], kept: str) -> None:
    request = GenerateRequest("", stop_sequence=stops)
    for aborted in (False, True):
        completion = parse_generate(HttpAnswer(200, {}, reply(text)), request, aborted=aborted)
        assert (completion.text, completion.ending) == (kept, "stop_sequence")


def test_an_ended_text_is_not_cut() -> None:
    request = GenerateRequest("", stop_sequence=("END",))
    assert parse_generate(HttpAnswer(200, {}, reply("END", "stop")), request).text == "END"


def test_far_from_the_end_a_stop_sequence_is_text() -> None:
    request = GenerateRequest("", stop_sequence=("END",))
    completion = parse_generate(HttpAnswer(200, {}, reply("END" + "x" * 5000)), request)
    assert completion.ending == "length"
    assert len(completion.text) == 5003


def test_an_abort_is_told_apart_from_a_cut() -> None:
    request = GenerateRequest("")
    assert parse_generate(HttpAnswer(200, {}, reply("so far")), request, aborted=True).ending == "aborted"
    assert parse_generate(HttpAnswer(200, {}, reply("whole", "stop")), request, aborted=True).ending == "eos"


def test_old_answers_have_no_counts() -> None:
    completion = parse_generate(HttpAnswer(200, {}, reply("text", "stop")), GenerateRequest(""))
    assert completion.prompt_tokens is None
    assert completion.completion_tokens is None


def test_an_error_inside_koboldcpp_is_told_as_such() -> None:
    with pytest.raises(ResponseFormatError, match="an error inside KoboldCpp"):
        parse_generate(HttpAnswer(200, {}, reply("", "error")), GenerateRequest(""))


def test_half_a_surrogate_pair_does_not_reach_a_file() -> None:
    body = b'{"results": [{"text": "a\\ud83d b", "finish_reason": "stop"}]}'
    completion = parse_generate(HttpAnswer(200, {}, body), GenerateRequest(""))
    assert completion.text == "a\ufffd b"
    completion.text.encode()


GOOD = reply("x" * 600, "stop", prompt_tokens=3, completion_tokens=2)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"42",
        b'{"results": null}',
        b'{"results": []}',
        b'{"results": [null]}',
        b'{"results": [{"text": null, "finish_reason": "stop"}]}',
        b'{"results": [{"text": "a", "finish_reason": null}]}',
        b'{"results": [{"text": "a", "finish_reason": ["stop"]}]}',
        b'{"results": [{"text": "a"}]}',
        b'{"results": [{"text": "a", "finish_reason": "stop", "prompt_tokens": "3"}]}',
        b'{"results": [{"text": "a", "finish_reason": "stop", "completion_tokens": -1}]}',
        b'{"results": [{"text": "a", "finish_reason": "stop", "logprobs": 3}]}',
        b'{"results": [{"text": "a", "finish_reason": "stop"}, {"text": "b"}]}',
        b'{"results": [{"text": "\xff", "finish_reason": "stop"}]}',
        b"<!DOCTYPE html><html>nginx</html>",
        b"[" * 100_000,
        GOOD[:-2],
        GOOD[:300],
    ],
)
def test_a_200_that_is_no_answer_is_never_a_text(body: bytes) -> None:
    with pytest.raises(ResponseFormatError) as caught:
        parse_generate(HttpAnswer(200, {}, body), GenerateRequest(""), url=URL)
    message = str(caught.value)
    assert message.startswith(URL)
    assert message.isprintable()
    assert len(message) < 1200


def test_a_length_that_is_not_kept_is_noticed() -> None:
    for promised in (len(GOOD) + 1, len(GOOD) - 1):
        with pytest.raises(ResponseFormatError, match="promised"):
            parse_generate(HttpAnswer(200, {"Content-Length": str(promised)}, GOOD), GenerateRequest(""))
    parse_generate(HttpAnswer(200, {"Content-Length": str(len(GOOD))}, GOOD), GenerateRequest(""))


@given(st.binary(max_size=200) | st.integers(0, len(GOOD) - 1).map(lambda cut: GOOD[:cut]))
def test_no_bytes_at_all_are_taken_for_a_text(body: bytes) -> None:
    with pytest.raises(ResponseFormatError):
        parse_generate(HttpAnswer(200, {}, body), GenerateRequest(""))


@given(st.text(), st.sampled_from(["stop", "length"]))
def test_any_text_comes_through_unchanged(text: str, finish: str) -> None:
    assert parse_generate(HttpAnswer(200, {}, reply(text, finish)), GenerateRequest("")).text == text


# ── errors ────────────────────────────────────────────────────────────────────────────────────


def detail(msg: str, kind: str = "service_unavailable") -> bytes:
    return json.dumps({"detail": {"msg": msg, "type": kind}}).encode()


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (503, detail("Server is busy; please try again later."), ServerBusyError, "busy"),
        (503, b"<html>", ServerBusyError, "busy"),
        (503, detail("No Vision model loaded"), NoVisionModelError, "Vision mmproj"),
        (503, detail("No LLaVA model loaded"), NoVisionModelError, "--mmproj"),
        (500, detail("Error parsing input.", "bad_input"), BadRequestError, "parsing"),
        (
            500,
            detail("Payload is too big. Max payload size is 32MB.", "bad_input"),
            BadRequestError,
            "--maxrequestsize",
        ),
        (413, b"<html>", BadRequestError, "--maxrequestsize"),
        (400, b'{"value": -1}', BadRequestError, "refused"),
        (500, b"oops", ServerStatusError, "oops"),
        (401, b"", AuthenticationError, "password"),
        (403, b"nginx", ServerStatusError, "403"),
        (404, b"", ServerStatusError, "5001"),
        (502, b"\n   <!DOCTYPE html>", ServerBusyError, "loading"),
        (504, b"", ServerBusyError, "504"),
        (429, b"", ServerBusyError, "faster"),
    ],
)
def test_errors_are_told_by_status_and_body(
    status: int, body: bytes, kind: type[KoboldReaderError], words: str
) -> None:
    error = classify_error(HttpAnswer(status, {}, body), URL)
    assert type(error) is kind
    assert words in str(error)
    assert str(error).startswith(URL)
    assert error.server == URL


def test_the_server_says_how_long_to_wait() -> None:
    msg = "You are sending requests too quickly. Please try again in 7 seconds."
    error = classify_error(HttpAnswer(503, {}, detail(msg)), URL)
    assert isinstance(error, ServerBusyError)
    assert error.retry_after_s == 7.0
    busy = classify_error(HttpAnswer(503, {}, detail("Server is busy; please try again later.")), URL)
    assert isinstance(busy, ServerBusyError)
    assert busy.retry_after_s is None


def test_no_vision_is_not_retryable_and_busy_is() -> None:
    assert not classify_error(HttpAnswer(503, {}, detail("No Vision model loaded")), URL).retryable
    assert classify_error(HttpAnswer(503, {}, b""), URL).retryable


def test_a_redirect_is_named_without_its_secrets() -> None:
    headers = {"Location": "https://user:secret@elsewhere.example/api?token=abc"}
    error = classify_error(HttpAnswer(307, headers, b""), URL)
    assert type(error) is ResponseFormatError
    assert "https://elsewhere.example/api" in str(error)
    assert "secret" not in str(error)
    assert "abc" not in str(error)


@given(st.integers(300, 599), st.binary(max_size=100))
def test_every_status_has_an_error(status: int, body: bytes) -> None:
    error = classify_error(HttpAnswer(status, {}, body), URL)
    assert str(error).startswith(URL)
    assert json.dumps(str(error))


# ── what we send ──────────────────────────────────────────────────────────────────────────────


def test_the_request_leaves_nothing_to_the_server() -> None:
    request = GenerateRequest("Read.", images=(JPEG,), stop_sequence=("<|im_end|>",))
    assert json.loads(request.body("K1")) == {
        "prompt": "Read.",
        "memory": "",
        "genkey": "K1",
        "images": [base64.b64encode(JPEG).decode()],
        "max_length": 2048,
        "temperature": 0.1,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "top_a": 0.0,
        "typical": 1.0,
        "tfs": 1.0,
        "nsigma": 0.0,
        "rep_pen": 1.0,
        "presence_penalty": 0.0,
        "dry_multiplier": 0.0,
        "xtc_probability": 0.0,
        "mirostat": 0,
        "dynatemp_range": 0.0,
        "smoothing_factor": 0.0,
        "sampler_order": [6, 0, 1, 3, 4, 2, 5],
        "sampler_seed": 1,
        "stop_sequence": ["<|im_end|>"],
        "trim_stop": False,
        "ban_eos_token": False,
        "use_default_badwordsids": False,
        "bypass_eos": False,
        "render_special": False,
        "banned_tokens": [],
        "logit_bias": {},
        "grammar": "",
        "grammar_retain_state": False,
        "replace_instruct_placeholders": False,
    }


def test_the_request_asks_for_more_only_if_told() -> None:
    body = json.loads(GenerateRequest("", logprobs=True, reasoning_effort="none", grammar="root ::= x").body(""))
    assert body["logprobs"] is True
    assert body["reasoning_effort"] == "none"
    assert body["grammar"] == "root ::= x"
    traps = {"temp", "max_tokens", "stop", "seed", "max_context_length"}
    assert not traps & set(body)


def test_an_image_is_encoded_once_for_all_that_is_asked_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[bytes] = []
    encode = base64.b64encode

    def noted(image: bytes) -> bytes:
        encoded.append(image)
        return encode(image)

    monkeypatch.setattr(base64, "b64encode", noted)
    page, other = JPEG + b"a page", JPEG + b"another"
    bodies = [
        json.loads(GenerateRequest(prompt, images=images).body(prompt))
        for prompt in ("Read.", "Describe.", 'Say "é\ud83d".')
        for images in ((page,), (page, other))
    ]
    assert [body["images"] for body in bodies[:2]] == [
        [encode(page).decode()],
        [encode(page).decode(), encode(other).decode()],
    ]
    assert {body["prompt"] for body in bodies} == {"Read.", "Describe.", 'Say "é\ud83d".'}
    assert encoded == [page, other]


@pytest.mark.parametrize(
    "request_",
    [
        GenerateRequest("", images=(b"RIFF\x00\x00\x00\x00WEBP",)),
        GenerateRequest("", images=(b"II*\x00",)),
        GenerateRequest("", images=(b"",)),
        GenerateRequest("", images=(JPEG,) * (MAX_IMAGES + 1)),
        GenerateRequest("", max_length=0),
        GenerateRequest("", stop_sequence=("",)),
    ],
)
def test_what_the_server_would_drop_silently_is_not_sent(request_: GenerateRequest) -> None:
    with pytest.raises(ConfigError):
        request_.body("K")


@pytest.mark.parametrize(
    ("version", "numbers"),
    [("1.115.1", (1, 115, 1)), ("1.76", (1, 76)), ("1.99b-x", (1, 99)), ("dev", ())],
)
def test_versions_are_numbers(version: str, numbers: tuple[int, ...]) -> None:
    assert version_tuple(version) == numbers


def test_counts_came_with_1_77() -> None:
    def info(version: str) -> ServerInfo:
        return ServerInfo(URL, "m", version, True, False, False, False, None, 4096, None)

    assert not info("1.76").counts_tokens
    assert info("1.77").counts_tokens
    assert info("1.115.1").counts_tokens
