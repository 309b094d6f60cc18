"""The simulator's contract: every recording of a real KoboldCpp is asked again and compared."""

import base64
import functools
import hashlib
import io
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image, ImageDraw, ImageFont

from tests.kobold_simulator import (
    Answer,
    BrainRequest,
    EyesBrain,
    Fault,
    KoboldSimulator,
    RecordedRequest,
    ScriptBrain,
)
from tests.simulator_model import Projector, Tokenizer, cut_into, decode_image

pytestmark = pytest.mark.slow

RECORDINGS = Path(__file__).parent / "recordings"
CHAIN = " The image shows a photo of cat sitting on wooden table near window."

# --- which recordings, and what is not compared -------------------------------------------------

# Recordings that are not asked again, and why.
NOT_REPLAYED = {
    "get_api_tags": "Ollama's imitation; nothing of this project asks it",
    "ollama_show": "Ollama's imitation; nothing of this project asks it",
    "responses_api": "OpenAI's responses API; nothing of this project asks it",
    "router_mode_while_loading": "the router is another program in front; a fault replies its page",
    "gemma3_t.webp": "the native code had crashed before; refused, as in test_killed_server",
    "stream_without_finish_5002_chat": "a stream's text; see test_stream_without_finish",
}
# Fields that are not compared, and why; all other values of these recordings are.
EXEMPT = {
    "maxlen_0": ("results.prompt_tokens", "nothing was processed: counts the cached prefix"),
    "maxlen_neg": ("results.prompt_tokens", "nothing was processed: counts the cached prefix"),
    "json_to_grammar": ("result", "the simulator has no grammar compiler; it says it has one"),
    "pw_stream_right": ("events", "the real server lost the finish event (a race)"),
    "generate_image_logprobs_t0.1": ("rivals", "a random model's alternatives; shape is compared"),
    "generate_image_logprobs_t0.3": ("rivals", "a random model's alternatives; shape is compared"),
    "generate_image_logprobs_t1.0": ("rivals", "a random model's alternatives; shape is compared"),
    "jinja_tokencount_msgs": ("ids", "the words of a Python repr; their number is compared"),
    "check_get_after": ("text", "what another request had left; test_progress compares the rule"),
    "check_post_nokey": ("text", "what another request had left; test_progress compares the rule"),
    "pw_check_right": ("text", "what another request had left; test_progress compares the rule"),
}
# Recordings that need a server in the middle of something: each has its test below.
IN_SCENARIOS = {
    "abort_chatstream", "abort_chatstream_first", "abort_idle", "abort_idle_key",
    "abort_in_prompt", "abort_in_prompt_first", "abort_nobody", "abort_nobody_first",
    "abort_nokey", "abort_nokey_first", "abort_stream", "abort_stream_first",
    "after_abort_in_prompt", "after_client_timeout_perf", "after_client_timeout_second",
    "after_killed", "busy_mu0_abort_rightkey", "busy_mu0_abort_wrongkey", "busy_mu0_chat",
    "busy_mu0_check_get", "busy_mu0_check_key", "busy_mu0_check_nokey", "busy_mu0_check_wrongkey",
    "busy_mu0_embeddings", "busy_mu0_first", "busy_mu0_model", "busy_mu0_perf", "busy_mu0_second",
    "busy_mu0_stream", "busy_mu0_tokencount", "check_during_stream_0", "check_during_stream_1",
    "check_during_stream_2", "check_during_stream_3", "check_during_stream_first",
    "check_during_sync_first", "killed_mid_generate", "killed_mid_stream", "perf_after_abort",
    "perf_after_abort_in_prompt", "perf_after_custom_stop", "perf_after_eos", "perf_after_img",
    "perf_after_stopseq", "perf_after_stream_close", "perf_after_text", "generate_extra_perf_idle",
    "queue_13_requests", "queue_abort_nokey", "queue_abort_pending_Q5", "while_loading",
    "pw_perf_none",
}  # fmt: skip
VOLATILE_PERF = {
    "last_process", "last_eval", "last_process_time", "last_eval_time", "last_process_speed",
    "last_eval_speed", "uptime", "idletime", "last_seed", "total_gens", "last_input_count",
}  # fmt: skip


def recorded(name: str) -> dict[str, Any]:
    path = next(path for path in (RECORDINGS / f"{name}.json",) if path.exists())
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


ALL_NAMES = sorted(path.stem for path in RECORDINGS.iterdir() if path.name != "manifest.json")
REPLAYED = [name for name in ALL_NAMES if name not in NOT_REPLAYED and name not in IN_SCENARIOS]


# --- pictures for the places where the recordings say only how long they were --------------------


@functools.cache
def picture(width: int = 640, height: int = 480, seed: int = 0) -> Image.Image:
    image = Image.new("RGB", (width, height), (200, 210, 220 - seed % 100))
    ImageDraw.Draw(image).rectangle((0, 0, width // 2, height // 2), (seed % 256, 80, 40))
    return image


def encoded(image: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return base64.b64encode(buffer.getvalue()).decode()


def with_orientation() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@functools.cache
def stand_in(name: str, length: int) -> str:
    """An image of the kind the recording was made with, as base64."""
    jpeg = functools.partial(encoded, picture(seed=length), "JPEG")
    makers: dict[int, Callable[[], str]] = {
        9220: lambda: encoded(picture(), "WEBP"),
        16576: lambda: encoded(picture(), "WEBP", lossless=True),
        30000: lambda: encoded(picture(), "WEBP", save_all=True, append_images=[picture(seed=9)], duration=100),
        10428: lambda: base64.b64encode(b"\0\0\0\x20ftypavif" + bytes(500)).decode(),
        1228988: lambda: encoded(picture(), "TIFF"),
        1655540: lambda: encoded(picture(3000, 3000), "JPEG"),
        5860: lambda: encoded(picture(10, 2000), "JPEG"),
        16656: lambda: encoded(picture(), "JPEG", progressive=True),
        13936: lambda: encoded(picture().convert("L"), "JPEG"),
        52168: lambda: encoded(picture().convert("CMYK"), "JPEG"),
        1228872: lambda: encoded(picture(), "BMP"),
        55588: lambda: encoded(picture().convert("P"), "GIF"),
        26892: lambda: encoded(picture().convert("I;16"), "PNG"),
        28412: lambda: encoded(picture().convert("RGBA"), "PNG"),
        25680: lambda: encoded(picture(), "PNG").rstrip("="),
        20212: lambda: encoded(picture(), "JPEG", exif=with_orientation()),
        27724: lambda: encoded(picture(480, 640), "JPEG"),
        30043: lambda: "\n".join(re.findall(".{1,76}", jpeg())),
        14824: lambda: jpeg()[: len(jpeg()) // 8 * 4] if name == "img1_trunc" else jpeg(),
        4000: lambda: base64.b64encode(bytes(range(256)) * 12).decode()[:4000],
        536: lambda: base64.b64encode(b"\xff\xd8 broken" * 40).decode(),
    }
    return makers.get(length, jpeg)()


def restored(value: Any, name: str) -> Any:
    """The request with pictures and long texts in the places of their placeholders."""
    if isinstance(value, list):
        return [restored(item, name) for item in value]
    if isinstance(value, dict):
        return {key: restored(item, name) for key, item in value.items()}
    if not isinstance(value, str):
        return value
    if name == "img1_b64_urlsafe" and value.endswith("chars>"):
        return encoded(picture(), "JPEG").replace("/", "_").replace("+", "-")
    found = re.search(r"<base64 (\d+) chars>", value)
    if not found:
        return value
    length = int(found[1])
    long_text = length in {11200, 19000, 45000}
    new = "word " * (length // 5) if long_text else stand_in(name, length)
    return value.replace(found[0], new)


# --- the server of a recording ------------------------------------------------------------------


def says_chain(record: dict[str, Any]) -> bool:
    body = record["request"].get("body")
    prompt = body.get("prompt") if isinstance(body, dict) else None
    text = json.dumps(record.get("body"))
    return prompt == "Describe:" or CHAIN[:20] in text or "lab-chain" in text


def script_of(record: dict[str, Any]) -> ScriptBrain:
    """The recorded words as the model's script, cut into as many tokens as were counted."""
    body = record.get("body")
    if record["name"] == "img1_maxlen_over":
        return ScriptBrain([Answer(["erc"])])
    if says_chain(record) or not isinstance(body, dict | str):
        return ScriptBrain()
    if isinstance(body, str):
        if record["request"]["method"] != "POST" or "data: " not in body:
            return ScriptBrain()
        return ScriptBrain([streamed_answer(record)])
    if "caption" in body:
        return ScriptBrain([Answer(cut_into(body["caption"], 150), ends=False)])
    result = (body.get("results") or body.get("choices") or [{}])[0]
    text = result.get("text", result.get("message", {}).get("content", ""))
    counts = body.get("usage", result)
    ends = result.get("finish_reason") == "stop"
    if result.get("logprobs"):
        return ScriptBrain([Answer(result["logprobs"]["tokens"], ends=ends)])
    count = counts.get("completion_tokens", 0) - ends
    return ScriptBrain([Answer(cut_into(text, max(count, 0)), ends=ends)])


def streamed_answer(record: dict[str, Any]) -> Answer:
    text, finish = streamed(record["body"])
    asked = record["request"]["body"]
    count = asked.get("max_length", asked.get("max_tokens", 1))
    return Answer(cut_into(text, count), ends=finish == "stop")


def streamed(body: str) -> tuple[str, str | None]:
    """The words of a stream and the reason of its last event."""
    text, finish = "", None
    for line in body.splitlines():
        if not line.startswith("data: {"):
            continue
        event = json.loads(line[6:])
        choice = (event.get("choices") or [event])[0]
        text += choice.get("token", choice.get("delta", {}).get("content", ""))
        finish = choice.get("finish_reason") or finish
    return text, finish


KNOWN_COUNTS = {
    "Über 日本 😀": 16,
    " GPUALatML": 3,
    "<|im_start|>user\n[{'type': 'text', 'text': '\\n(Attached Image 1)\\nDescribe.'}]<|im_end|>\n"
    "<|im_start|>assistant\n": 35,
}
QWEN = ("qwen2vl_", "many_1px_", "concurrent_", "sequential_", "order_")


def server_of(record: dict[str, Any], **changes: Any) -> KoboldSimulator:
    """A simulator configured as the server was that the recording was made with."""
    name = record["name"]
    text = json.dumps(record.get("body"))
    named = re.search(r"lab-(?!embed)\w+-\d+", text)
    slow = name.startswith(("pw_", "busy_", "queue_", "abort_"))
    settings: dict[str, Any] = {
        "model": named[0] if named else "lab-slow-256" if slow else "lab-random-256",
        "projector": "mlp",
        "context_size": 4096,
        "embeddings_model": "lab-embed-96",
        "token_counts": KNOWN_COUNTS,
        "brain": script_of(record),
        "jinja": name.startswith("jinja_"),
    }
    if name.startswith(QWEN):
        settings["projector"] = "qwen2vl"
    if name.startswith("gemma3_"):
        settings["projector"] = "gemma3"
    if name.startswith("nommproj_"):
        settings |= {"projector": None, "embeddings_model": None}
    if slow or name.startswith(("noemb_", "jinja_")):
        settings["embeddings_model"] = None
    if name.startswith(("pw_", "queue_")):
        settings |= {"password": "secret123"}
    usage = record.get("body")
    if "embeddings" in name and isinstance(usage, dict) and "usage" in usage:
        settings["embedding_token_counts"] = embedding_counts(record)
    return KoboldSimulator(**(settings | changes))


def embedding_counts(record: dict[str, Any]) -> dict[str, int]:
    """Token numbers of the recorded bert, given to the first text where only the sum is known."""
    body = restored(record["request"]["body"], record["name"])
    given = body.get("input") or []
    texts = [given] if isinstance(given, str) else list(given)
    if not texts or not all(isinstance(text, str) for text in texts):
        return {}
    if "toolong" in record["name"]:
        return {}
    rest = sum(len(text.split()) + 2 for text in texts[1:])
    return {texts[0]: record["body"]["usage"]["total_tokens"] - rest}


def ask(server: KoboldSimulator, request: dict[str, Any], name: str = "") -> requests.Response:
    body = restored(request.get("body"), name)
    data = None if body is None else body if isinstance(body, str) else json.dumps(body)
    with requests.Session() as session:
        session.trust_env = False
        return session.request(
            request["method"],
            server.url + request["path"],
            data=data.encode() if data is not None else None,
            headers=request.get("headers") or {},
            timeout=20,
        )


# --- comparing ----------------------------------------------------------------------------------


def comparable(value: Any, name: str) -> Any:
    """The body without what time, chance, or a table entry makes different."""
    if isinstance(value, list):
        return [comparable(item, name) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {key: comparable(item, name) for key, item in value.items()}
    if "created" in kept:
        kept["created"] = "a time"
    if re.fullmatch(r"\w+-A\d{6}", str(kept.get("id"))):
        kept["id"] = str(kept["id"])[:-6]
    if kept.get("embedding"):
        coded = isinstance(kept["embedding"], str)
        kept["embedding"] = "base64" if coded else "96 numbers"
    if "idle" in kept:
        kept = {key: "measured" if key in VOLATILE_PERF else kept[key] for key in kept}
    field = EXEMPT.get(name, ("", ""))[0].rpartition(".")[2]
    if field in kept:
        kept[field] = "exempt"
    if field == "rivals" and isinstance(kept.get("logprobs"), dict):
        kept["logprobs"] = shape(kept["logprobs"])
    if isinstance(kept.get("logprobs"), dict):
        kept["logprobs"] = without_ids(kept["logprobs"])
    return kept | ({"ids": len(kept["ids"])} if field == "ids" and "ids" in kept else {})


def shape(logprobs: dict[str, Any]) -> dict[str, Any]:
    return {
        "keys": list(logprobs),
        "tokens": logprobs["tokens"],
        "text_offset": logprobs["text_offset"],
        "alternatives": [len(entry["top_logprobs"]) for entry in logprobs["content"]],
        "entry": [list(entry) for entry in logprobs["content"]],
        "alternative": [list(other) for other in logprobs["content"][0]["top_logprobs"]],
        "floor": all(other["logprob"] > -9.2104 for other in logprobs["content"][0]["top_logprobs"]),
    }


def without_ids(value: Any) -> Any:
    if isinstance(value, list):
        return [without_ids(item) for item in value]
    if isinstance(value, dict):
        return {key: "ids" if key in {"token_id", "token_ids"} else without_ids(item) for key, item in value.items()}
    return value


def assert_same(answer: requests.Response, record: dict[str, Any]) -> None:
    name = record["name"]
    assert answer.status_code == record["status"]
    if record.get("response_headers"):
        assert_same_headers(answer, record["response_headers"])
    expected = record["body"]
    if record.get("body_type") == "json":
        assert comparable(answer.json(), name) == comparable(expected, name)
        assert list(answer.json() or {}) == list(expected or {})
    elif isinstance(expected, str) and "data: " in expected:
        text, finish = streamed(expected)
        if EXEMPT.get(name, ("",))[0] == "events":
            assert streamed(answer.text)[0] == text
        else:
            assert streamed(answer.text) == (text, finish)
            assert skeleton(answer.text) == skeleton(expected)
    else:
        assert answer.text == expected


def assert_same_headers(answer: requests.Response, expected: dict[str, str]) -> None:
    varying = {"Date", "content-length"}
    assert list(answer.headers) == list(expected)
    for header in set(expected) - varying:
        assert answer.headers[header] == expected[header]
    if "content-length" in expected:
        assert int(answer.headers["content-length"]) == len(answer.content)


def skeleton(body: str) -> list[Any]:
    """What a stream's events look like, each kind once, in order."""
    kinds: list[Any] = []
    for block in body.split("\n\n"):
        lines = [line.partition(": ") for line in block.splitlines()]
        kind: list[Any] = []
        for field, _, data in lines:
            if data.startswith("{"):
                event = comparable(json.loads(data), "")
                said = json.dumps(event)
                said = re.sub(r'"(token|content)": "(?:[^"\\]|\\.)+"', r'"\1": "…"', said)
                kind.append((field, said))
            else:
                kind.append((field, data))
        if kind and (not kinds or kinds[-1] != kind):
            kinds.append(kind)
    return kinds


# --- the contract -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REPLAYED)
def test_recording(name: str) -> None:
    record = recorded(name)
    with server_of(record) as server:
        if record["status"] is None:
            assert "without response" in record["exception"]
            with pytest.raises(requests.ConnectionError, match="without response"):
                ask(server, record["request"], name)
        else:
            assert_same(ask(server, record["request"], name), record)


def test_every_recording_has_its_place() -> None:
    places = [*REPLAYED, *NOT_REPLAYED, *IN_SCENARIOS]
    assert sorted(places) == ALL_NAMES
    assert set(EXEMPT) <= set(REPLAYED)
    source = Path(__file__).read_text(encoding="utf-8")
    for name in IN_SCENARIOS:
        assert source.count(f'"{name}"') >= 2, f"no test uses {name}"


def test_manifest() -> None:
    manifest = json.loads((RECORDINGS / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["count"] == len(ALL_NAMES)
    for file_name, sha256 in manifest["sha256"].items():
        assert hashlib.sha256((RECORDINGS / file_name).read_bytes()).hexdigest() == sha256


# --- servers in the middle of something -----------------------------------------------------------


class Asking:
    """One recorded request, asked in a thread."""

    def __init__(self, server: KoboldSimulator, request: dict[str, Any]) -> None:
        self.answer: requests.Response | None = None
        self.error: requests.RequestException | None = None
        self._thread = threading.Thread(target=self._ask, args=(server, request))
        self._thread.start()

    def _ask(self, server: KoboldSimulator, request: dict[str, Any]) -> None:
        try:
            self.answer = ask(server, request)
        except requests.RequestException as error:
            self.error = error

    def result(self) -> requests.Response:
        self._thread.join(20)
        assert self.answer is not None, self.error
        return self.answer

    def failure(self) -> requests.RequestException:
        self._thread.join(20)
        assert self.error is not None, self.answer
        return self.error


def started(server: KoboldSimulator, name: str, *, said: int = 0) -> Asking:
    """Ask what was recorded first; return when the model is at it and has said so much."""
    request = recorded(name)["request"]
    asking, key = Asking(server, request), request["body"].get("genkey", "")
    assert server.wait_for(lambda: server.running and server.running_key == key and len(server.running_text) >= said)
    return asking


def assert_recorded(server: KoboldSimulator, name: str) -> None:
    record = recorded(name)
    assert_same(ask(server, record["request"], name), record)


def assert_perf(server: KoboldSimulator, name: str, *fields: str) -> None:
    record = recorded(name)
    answer, expected = ask(server, record["request"]).json(), record["body"]
    assert list(answer) == list(expected)
    for field in fields:
        assert answer[field] == expected[field], field


def rambling(text: str = " word and another") -> ScriptBrain:
    return ScriptBrain([Answer(cut_into(text, 8), ends=False)])


def paced(name: str, **changes: Any) -> KoboldSimulator:
    settings: dict[str, Any] = {"brain": rambling(), "tokens_per_s": 100, "embeddings_model": None}
    return server_of(recorded(name), **(settings | changes))


def test_busy_server() -> None:
    with paced("busy_mu0_first", multiuser=0, linger_s=0) as server:
        server.fault(Fault.HANG)
        first = started(server, "busy_mu0_first")
        for name in (
            "busy_mu0_second", "busy_mu0_stream", "busy_mu0_chat", "busy_mu0_embeddings",
            "busy_mu0_model", "busy_mu0_tokencount", "busy_mu0_check_key",
            "busy_mu0_check_nokey", "busy_mu0_check_wrongkey", "busy_mu0_check_get",
            "busy_mu0_abort_wrongkey",
        ):  # fmt: skip
            if name == "busy_mu0_tokencount":
                assert ask(server, recorded(name)["request"]).json() == recorded(name)["body"]
            else:
                assert_recorded(server, name)
        assert_perf(server, "busy_mu0_perf", "idle", "queue", "stop_reason", "total_gens")
        assert server.running
        server.release()
        assert server.wait_for(lambda: len(server.running_text) > 20)
        assert_recorded(server, "busy_mu0_abort_rightkey")
        result = first.result().json()["results"][0]
        assert result["text"]
        assert result["completion_tokens"] < 600
        expected = recorded("busy_mu0_first")["body"]["results"][0]
        assert list(result) == list(expected)
        assert result["finish_reason"] == expected["finish_reason"] == "length"
        assert result["prompt_tokens"] == expected["prompt_tokens"]
        assert_perf(server, "perf_after_abort", "idle", "queue", "stop_reason", "total_gens")


@pytest.mark.parametrize("name", ["abort_nokey", "abort_nobody"])
def test_abort_without_key(name: str) -> None:
    firsts = {"abort_nokey": "abort_nokey_first", "abort_nobody": "abort_nobody_first"}
    first_record = recorded(firsts[name])
    with paced(firsts[name]) as server:
        first = started(server, firsts[name], said=10)
        assert_recorded(server, name)
        answer = first.result()
        assert_same_headers(answer, first_record["response_headers"])
        result, expected = (body["results"][0] for body in (answer.json(), first_record["body"]))
        assert result["completion_tokens"] < 600
        for field in ("finish_reason", "prompt_tokens", "logprobs"):
            assert result[field] == expected[field]


@pytest.mark.parametrize(
    ("name", "first_name"),
    [("abort_stream", "abort_stream_first"), ("abort_chatstream", "abort_chatstream_first")],
)
def test_abort_of_a_stream(name: str, first_name: str) -> None:
    with paced(first_name) as server:
        first = started(server, first_name, said=10)
        assert_recorded(server, name)
        answer, expected = first.result(), recorded(first_name)
        assert_same_headers(answer, expected["response_headers"])
        assert skeleton(answer.text) == skeleton(expected["body"])
        assert streamed(answer.text)[1] is streamed(expected["body"])[1] is None


def test_abort_of_nothing() -> None:
    with server_of(recorded("abort_idle")) as server:
        assert_recorded(server, "abort_idle")
        assert_recorded(server, "abort_idle_key")


def test_abort_waits_for_the_prompt() -> None:
    first_record = recorded("abort_in_prompt_first")
    with paced("abort_in_prompt", multiuser=0, prompt_seconds=0.5, linger_s=5) as server:
        first = started(server, "abort_in_prompt_first")
        assert_recorded(server, "abort_in_prompt")
        assert server.running
        assert_recorded(server, "after_abort_in_prompt")
        assert_same(first.result(), first_record)
        assert_perf(server, "perf_after_abort_in_prompt", "idle", "queue", "stop_reason",
                    "last_token_count", "last_input_count")  # fmt: skip


def test_client_that_gives_up_stops_nothing() -> None:
    name = "after_client_timeout_second"
    with paced(name, multiuser=0, tokens_per_s=None) as server:
        server.fault(Fault.HANG)
        body = {"prompt": "Write.", "max_length": 60}
        with pytest.raises(requests.ReadTimeout):
            requests.post(f"{server.url}/api/v1/generate", json=body, timeout=(5, 0.05))
        assert server.wait_for(lambda: server.running)
        assert_recorded(server, "after_client_timeout_second")
        assert_perf(server, "after_client_timeout_perf", "idle", "queue", "stop_reason")
        server.release()
        assert server.wait_for(lambda: not server.running)
        assert server.perf()["last_token_count"] == 60


def test_closing_a_stream_stops_it() -> None:
    with paced("perf_after_stream_close") as server, requests.Session() as session:
        body = {"prompt": "Write.", "max_length": 600}
        url = f"{server.url}/api/extra/generate/stream"
        with session.post(url, json=body, stream=True, timeout=5) as answer:
            next(answer.iter_lines())
        assert server.wait_for(lambda: not server.running)
        assert_perf(server, "perf_after_stream_close", "idle", "queue", "stop_reason")
        assert server.perf()["last_token_count"] < 600


def test_progress() -> None:
    with paced("check_during_sync_first") as server:
        first = started(server, "check_during_sync_first", said=12)
        url = f"{server.url}/api/extra/generate/check"
        seen = requests.post(url, json={"genkey": "KCPP1111"}, timeout=5).json()
        assert seen["results"][0]["text"].startswith(" word and")
        for other in ({}, {"genkey": "other"}):
            nothing = requests.post(url, json=other, timeout=5).json()
            assert nothing == {"results": [{"text": ""}]}
        server.tokens_per_s = None
        result = first.result().json()["results"][0]
        expected = recorded("check_during_sync_first")["body"]["results"][0]
        for field in ("finish_reason", "prompt_tokens", "completion_tokens"):
            assert result[field] == expected[field]
        after = requests.post(url, json={"genkey": "KCPP1111"}, timeout=5).json()
        assert after["results"][0]["text"] == result["text"]
        assert requests.get(url, timeout=5).json() == after


def test_progress_of_a_refused_stream() -> None:
    with paced("check_during_stream_0", multiuser=0) as server:
        server.fault(Fault.HANG)
        first = started(server, "busy_mu0_first")
        assert_recorded(server, "check_during_stream_first")
        for name in (
            "check_during_stream_0", "check_during_stream_1",
            "check_during_stream_2", "check_during_stream_3",
        ):  # fmt: skip
            assert_recorded(server, name)
        server.abort("KCPP1111")
        assert first.result().json()["results"][0]["completion_tokens"] == 0


def test_killed_server() -> None:
    server = paced("killed_mid_generate").start()
    first = started(server, "killed_mid_generate", said=10)
    server.stop()
    assert "without response" in recorded("killed_mid_generate")["exception"]
    assert "without response" in str(first.failure())
    assert "Connection refused" in recorded("after_killed")["exception"]
    with pytest.raises(requests.ConnectionError, match="refused"):
        ask(server, recorded("after_killed")["request"])
    url = server.url
    server.restart(model="lab-slow-256")
    assert server.url == url
    stream = started(server, "killed_mid_stream", said=10)
    server.stop()
    ended = stream.result()
    assert ended.status_code == recorded("killed_mid_stream")["status"] == 200
    assert streamed(ended.text)[1] is streamed(recorded("killed_mid_stream")["body"])[1] is None


def test_queue() -> None:
    record = recorded("queue_13_requests")
    headers = {"Authorization": "Bearer secret123"}

    def request(number: int) -> dict[str, Any]:
        body = {"prompt": "x", "max_length": 4, "genkey": f"Q{number}"}
        path = "/api/v1/generate"
        return {"method": "POST", "path": path, "headers": headers, "body": body}

    with server_of({"name": "queue_13_requests", "request": {}}, brain=rambling()) as server:
        server.fault(Fault.HANG)
        asked = []
        for number in range(13):
            asked.append(Asking(server, request(number)))
            assert server.wait_for(lambda: server.running and server.queued == len(asked[1:10]))
        refused = [asking.result().status_code for asking in asked[10:]]
        assert refused == [status for _, status, *_ in record["results"][10:]]
        assert server.perf()["queue"] == 9
        assert_recorded(server, "queue_abort_nokey")
        assert_recorded(server, "queue_abort_pending_Q5")
        server.release()
        answers = [asking.result() for asking in asked[:10]]
        results = [answer.json()["results"][0] for answer in answers]
        statuses = [[answer.status_code, answer.json()["results"][0]["finish_reason"]]
                    for answer in answers]  # fmt: skip
        assert statuses == [[status, finish] for _, status, _, finish in record["results"][:10]]
        assert [result["completion_tokens"] for result in results] == [4] * 5 + [0] + [4] * 4
        assert json.loads(record["results"][10][3]) == asked[10].result().json()
        assert server.in_flight_max == 10


def test_while_loading() -> None:
    seen = recorded("while_loading")["seen"]
    assert "ConnectionError" in seen[0][1]
    assert seen[-1][1] == 200
    request = {"method": "GET", "path": "/api/extra/version"}
    with KoboldSimulator(loading=True) as server:
        with pytest.raises(requests.ConnectionError, match="refused"):
            ask(server, request)
        server.finish_loading()
        assert ask(server, request).status_code == 200


@pytest.mark.parametrize(
    ("name", "body", "fields"),
    [
        ("perf_after_eos", {"max_length": 40}, ["last_token_count", "last_input_count"]),
        ("perf_after_stopseq", {"max_length": 40}, ["last_token_count"]),
        ("perf_after_custom_stop", {"stop_sequence": [" cat"], "max_length": 12},
         ["last_token_count", "last_input_count"]),
        ("perf_after_text", {"prompt": "Hello there, this is a test.", "max_length": 8},
         ["last_token_count", "last_input_count"]),
        ("perf_after_img", {"max_length": 24, "ban_eos_token": True}, ["last_token_count"]),
        ("generate_extra_perf_idle", {"max_length": 2}, ["last_token_count"]),
        ("pw_perf_none", {"prompt": "x", "max_length": 4},
         ["last_token_count", "last_input_count"]),
    ],
)  # fmt: skip
def test_perf(name: str, body: dict[str, Any], fields: list[str]) -> None:
    busy = recorded(name)["body"]["idle"] == 0  # the model is freed 50 ms after the answer
    with KoboldSimulator(linger_s=5 if busy else 0) as server:
        whole = {"prompt": "Describe:", "temperature": 0} | body
        requests.post(f"{server.url}/api/v1/generate", json=whole, timeout=5)
        assert_perf(server, name, "stop_reason", "queue", "idle", *fields)


# --- what the recordings do not hold --------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[KoboldSimulator]:
    with KoboldSimulator() as simulator:
        yield simulator


def generate(server: KoboldSimulator, **body: Any) -> dict[str, Any]:
    whole = {"prompt": "Read.", "max_length": 200} | body
    answer = requests.post(f"{server.url}/api/v1/generate", json=whole, timeout=20)
    result: dict[str, Any] = answer.json()["results"][0]
    return result


def test_images_are_encoded_once(server: KoboldSimulator) -> None:
    one, two = encoded(picture(), "PNG"), encoded(picture(seed=3), "PNG")
    encodings = []
    for images in ([one], [one], [two], [one], [], [one], [one, two], [one, two]):
        generate(server, images=images)
        encodings.append(server.encodings)
    assert encodings == [1, 1, 2, 3, 3, 4, 6, 6]
    requests.post(f"{server.url}/v1/embeddings", json={"input": "x"}, timeout=5)
    generate(server, images=[one, two], prompt="Another question.")
    assert server.encodings == 6


def test_176_encodes_for_every_request() -> None:
    image = encoded(picture(), "JPEG")
    with KoboldSimulator(version="1.76", projector="mlp") as server:
        for number in (1, 2, 3):
            generate(server, images=[image])
            assert server.encodings == number


@pytest.mark.parametrize("version", ["1.76", "1.115.1"])
def test_what_the_memory_holds_is_not_processed_again(version: str) -> None:
    """The last prompt of 1 token says nothing about the speed, and 1.76 does not even tell how many it were."""
    with KoboldSimulator(version=version, projector="mlp", brain=ScriptBrain("Dear Axel.")) as server:
        body = {"images": [encoded(picture(), "JPEG")], "prompt": "Read the page. "}
        generate(server, **body)
        first = server.perf()
        generate(server, **{**body, "prompt": "Read the page. Dear"})
        again = server.perf()
    if version == "1.76":
        assert "last_input_count" not in again
        assert again["last_process"] > 0
    else:
        assert first["last_input_count"] > 576
        assert again["last_input_count"] == 1
        assert again["last_process"] == pytest.approx(again["last_process_time"] * 1000)


@pytest.mark.parametrize(
    ("data", "max_length"),
    [(b"no image", 64), (None, 4096 - 20)],
    ids=["failed to decode image bytes", "Too many LLaVA tokens"],
)
def test_176_drops_an_image_without_a_word(data: bytes | None, max_length: int) -> None:
    sent = encoded(picture(), "JPEG") if data is None else base64.b64encode(data).decode()
    with KoboldSimulator(version="1.76", projector="mlp", context_size=4096) as server:
        result = generate(server, images=[sent], max_length=max_length)
        assert list(result) == ["text", "finish_reason"]
        assert result["text"]
        assert server.encodings == 0
        assert server.seen[-1].images == []


def test_176_cuts_an_answer_to_the_context_less_16() -> None:
    endless = ScriptBrain([Answer([" on"], ends=False)])
    with KoboldSimulator(version="1.76", context_size=300, brain=endless) as server:
        assert generate(server, max_length=4000)["finish_reason"] == "length"
        assert server.perf()["last_token_count"] == 300 - 16


def test_without_a_queue_the_lock_outlasts_the_answer() -> None:
    with KoboldSimulator(multiuser=0) as server:
        generate(server)
        body = {"prompt": "x", "max_length": 8}
        refused = requests.post(f"{server.url}/api/v1/generate", json=body, timeout=5)
        assert refused.status_code == 503
        while server.perf()["idle"] != 1:  # the lock ends by the clock alone
            time.sleep(0.01)
        assert requests.post(f"{server.url}/api/v1/generate", json=body, timeout=5).status_code == 200


def test_counts_agree(server: KoboldSimulator) -> None:
    for prompt in ("Read the page.", "Größe 12,5 cm – «à»\n\n", "", "a" * 100):
        count = requests.post(f"{server.url}/api/extra/tokencount", json={"prompt": prompt}, timeout=5).json()["value"]
        assert generate(server, prompt=prompt)["prompt_tokens"] == count
        image = encoded(picture(56, 280), "PNG")
        assert (
            generate(server, prompt=prompt, images=[image])["prompt_tokens"] == count + 7 + 42
        )  # 70 px wide with its bars: 2.5 patches are 3


def test_requests_are_remembered(server: KoboldSimulator) -> None:
    image = encoded(picture(64, 48), "PNG")
    generate(server, images=[image, "no image"])
    record = server.requests[-1]
    assert (record.method, record.path, record.status) == ("POST", "/api/v1/generate", 200)
    data = base64.b64decode(image)
    facts = {"size": (64, 48), "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    assert record.body["images"][0] == facts
    assert record.body["images"][1]["size"] is None
    assert server.count() == 1
    assert server.count("/api/extra/version") == 0


@pytest.mark.parametrize("lead", ["", " "])
def test_continuation(lead: str) -> None:
    page = lead + "The quick brown fox jumps over the lazy dog, twice. " * 8
    for brain in (ScriptBrain([page, "another"]), ScriptBrain({"": page})):
        with KoboldSimulator(brain=brain) as server:
            opening = "<|im_start|>user\nRead.<|im_end|>\n<|im_start|>assistant\n"
            text, finish = "", "length"
            while finish == "length":
                result = generate(server, prompt=opening + text, max_length=13)
                text += result["text"]
                finish = result["finish_reason"]
            assert text == page


def test_tokens_and_loops_are_continued_too() -> None:
    tokens = [" The", " slates", " came", ".", "\n"]
    opening = "<|im_start|>user\nRead.<|im_end|>\n<|im_start|>assistant\n"
    for ends, whole in ((True, "".join(tokens)), (False, "".join(tokens * 3))):
        with KoboldSimulator(brain=ScriptBrain([Answer(tokens, ends=ends), "another"])) as server:
            text = ""
            while len(text) < len(whole):
                text += generate(server, prompt=opening + text, max_length=3)["text"]
            assert text == whole


def test_logprobs_show_hesitation() -> None:
    answer = Answer(["kitten", " sat"], rivals={0: ("mitten", 0.5)})
    with KoboldSimulator(brain=ScriptBrain([answer])) as server:
        asked = {"logprobs": True, "temperature": 0.5, "top_k": 0}
        first = generate(server, **asked)["logprobs"]["content"][0]
        chances = {other["token"]: other["logprob"] for other in first["top_logprobs"]}
        assert 0.5 * (chances["mitten"] - chances["kitten"]) == pytest.approx(-0.6931, abs=1e-3)
        assert generate(server, logprobs=True, temperature=0)["logprobs"]["token_logprobs"] == [
            0.0, 0.0,
        ]  # fmt: skip


def test_loop_and_limits() -> None:
    with KoboldSimulator(brain=rambling(), genlimit=50, context_size=100) as server:
        assert generate(server, max_length=99)["completion_tokens"] == 50
        server.restart(genlimit=None)
        assert generate(server, max_length=99)["completion_tokens"] == 80
        dropped = generate(server, max_length=60, images=[encoded(picture(), "PNG")])
        assert dropped["prompt_tokens"] == 4


def test_rate_limit() -> None:
    with KoboldSimulator(ratelimit_s=60) as server:
        generate(server)
        body = {"prompt": "Read."}
        answer = requests.post(f"{server.url}/api/v1/generate", json=body, timeout=5)
        assert answer.status_code == 503
        assert "Please try again in 60 seconds." in answer.json()["detail"]["msg"]


def test_faults(server: KoboldSimulator) -> None:
    broken = (requests.ConnectionError, requests.exceptions.ChunkedEncodingError)
    for fault in (Fault.CLOSE, Fault.RESET, Fault.RESET_BODY, Fault.WRONG_LENGTH):
        server.fault(fault)
        with pytest.raises(broken):
            generate(server)
    server.fault(Fault.TRUNCATED_JSON, Fault.HTML, None, Fault.NOT_UTF8)
    for _ in range(2):
        with pytest.raises(requests.exceptions.JSONDecodeError):
            generate(server)
    assert generate(server)["text"] == CHAIN
    answer = requests.post(f"{server.url}/api/v1/generate", json={"prompt": ""}, timeout=5)
    with pytest.raises(UnicodeDecodeError):
        answer.content.decode("utf-8")
    server.fault(Fault.EMPTY_TEXT, Fault.ERROR, Fault.DROP_IMAGES, Fault.slow(0.05))
    assert generate(server) | {"prompt_tokens": 0} == {
        "text": "", "tool_calls": [], "finish_reason": "stop", "logprobs": None,
        "prompt_tokens": 0, "completion_tokens": 1,
    }  # fmt: skip
    assert generate(server)["finish_reason"] == "error"
    assert generate(server, images=[encoded(picture(), "PNG")])["prompt_tokens"] == 4
    assert generate(server)["text"] == CHAIN


def test_fault_when(server: KoboldSimulator) -> None:
    def too_much(request: RecordedRequest) -> Fault | None:
        return Fault.BUSY if request.path == "/api/extra/perf" else None

    server.fault_when = too_much
    assert requests.get(f"{server.url}/api/extra/perf", timeout=5).status_code == 503
    assert generate(server)["text"] == CHAIN


def test_stream_without_finish(server: KoboldSimulator) -> None:
    text = (RECORDINGS / "stream_without_finish_5002_chat.txt").read_text(encoding="utf-8")
    server.fault(Fault.NO_FINISH)
    body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True, "max_tokens": 40}
    answer = requests.post(f"{server.url}/v1/chat/completions", json=body, timeout=5)
    assert streamed(answer.text) == streamed(text) == (CHAIN, None)
    assert "[DONE]" not in answer.text


def test_fault_in_the_brain_is_not_hidden() -> None:
    def confused(request: BrainRequest) -> str:
        raise LookupError(request.prompt)

    server = KoboldSimulator(brain=ScriptBrain(confused)).start()
    with pytest.raises(requests.ConnectionError):
        generate(server)
    server.stop()
    assert isinstance(server.errors[0], LookupError)


def test_too_big(server: KoboldSimulator) -> None:
    data = b" " * (32 * 1024 * 1024 + 1)
    answer = requests.post(f"{server.url}/api/v1/generate", data=data, timeout=10)
    assert answer.status_code == 500
    assert answer.json()["detail"]["msg"].startswith("Payload is too big.")


def test_embeddings_are_near_for_like_texts() -> None:
    with KoboldSimulator(embeddings_model="lab-embed-96") as server:
        texts = ["the old town bridge", "the old bridge", "seventeen invoices"]
        url = f"{server.url}/v1/embeddings"
        data = requests.post(url, json={"input": texts}, timeout=5).json()["data"]
        one, two, three = (entry["embedding"] for entry in data)
        assert sum(value * value for value in one) == pytest.approx(1, abs=1e-4)
        near, far = (sum(a * b for a, b in zip(one, other, strict=True)) for other in (two, three))
        assert near > 0.6 > far


def test_176() -> None:
    with KoboldSimulator(version="1.76", projector="mlp", brain=rambling()) as server:
        image = encoded(picture(), "JPEG")
        result = generate(server, max_length=None, images=[image] * 5)
        assert list(result) == ["text", "finish_reason"]
        assert server.perf()["last_token_count"] == 180
        assert len(server.seen[-1].images) == 4
        generate(server, prompt="{{[INPUT]}}x")
        assert server.seen[-1].prompt == "{{[INPUT]}}x"
        stopped = generate(server, stop_sequence=["and"])
        assert "and" in stopped["text"]
        version = requests.get(f"{server.url}/api/extra/version", timeout=5).json()
        assert version == {
            "result": "KoboldCpp", "version": "1.76", "protected": False, "txt2img": False,
            "vision": True, "transcribe": False,
        }  # fmt: skip
        assert requests.get(f"{server.url}/props", timeout=5).status_code == 404
        missing = requests.post(f"{server.url}/v1/embeddings", json={"input": "x"}, timeout=5)
        assert missing.status_code == 404


@pytest.mark.parametrize(
    ("projector", "size", "view", "tokens"),
    [
        ("mlp", (724, 1024), (336, 336), 578),
        ("gemma3", (724, 1024), (896, 896), 272),
        ("qwen2vl", (640, 480), (644, 476), 403),
        ("qwen2vl", (4000, 4000), (1036, 1036), 1381),
        ("resampler", (724, 1024), (753, 1066), 64 * 5 + 4),
        ("resampler", (448, 448), (448, 448), 68),
    ],
)
def test_what_reaches_the_encoder(projector: str, size: tuple[int, int], view: tuple[int, int], tokens: int) -> None:
    kind = Projector(projector)
    seen = kind.view(picture(*size))
    assert seen.size == view
    assert kind.tokens(seen) == tokens


def test_decoding_as_stb_does() -> None:
    half_clear = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    decoded = decode_image(base64.b64decode(encoded(half_clear, "PNG")))
    assert decoded is not None
    assert decoded.getpixel((0, 0)) == (10, 20, 30)
    deep = Image.new("I;16", (4, 4), 0x8000)
    grey = decode_image(base64.b64decode(encoded(deep, "PNG")))
    assert grey is not None
    assert grey.getpixel((0, 0)) == (128, 128, 128)


def test_tokens_are_the_text() -> None:
    text = "Straße 12,5 cm — «Übergrößenträger»\n\n  two   blanks\ttab <|im_end|> 2026."
    assert "".join(Tokenizer().pieces(text)) == text


@pytest.mark.thorough
@pytest.mark.slow
def test_eyes_read_what_reaches_the_encoder() -> None:
    font = ImageFont.load_default(size=18)
    page = Image.new("RGB", (900, 420), "white")
    draw = ImageDraw.Draw(page)
    draw.text((60, 100), "Invoice 4711 of March", "black", font)
    draw.text((60, 180), "Total", "black", font)
    draw.text((600, 180), "12.50", "black", font)
    image = encoded(page, "PNG")
    eyes = EyesBrain()
    with KoboldSimulator(brain=eyes, visionmaxres=2048) as server:
        assert generate(server, images=[image])["text"].split("\n") == [
            "Invoice 4711 of March",
            "Total 12.50",
        ]
        blank = encoded(Image.new("RGB", (300, 300), "white"), "PNG")
        assert generate(server, images=[blank])["text"] == EyesBrain.NOTHING
        caption = generate(server, prompt="Describe this.", images=[image])["text"]
        assert caption.startswith("A bright, mostly white wide picture")
        assert "with lettering" in caption
        server.restart(projector="mlp", encoder_px=112)
        assert "Invoice 4711 of March" not in generate(server, images=[image])["text"]
