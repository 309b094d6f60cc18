"""The client against a simulated server, and against sockets that misbehave."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import pytest
import requests

from kobold_reader.errors import (
    AuthenticationError,
    BadRequestError,
    ConfigError,
    ContextTooSmallError,
    KoboldReaderError,
    NoVisionModelError,
    ResponseFormatError,
    ServerBusyError,
    ServerConnectionError,
    ServerError,
    ServerTimeoutError,
)
from kobold_reader.kobold import GenerateRequest, KoboldClient
from kobold_reader.kobold.transport import Transport
from tests.kobold_simulator import Answer, Fault, KoboldSimulator, ScriptBrain

pytestmark = pytest.mark.slow

WORD = "geheim-4711"
ASK = GenerateRequest("Read the page.", max_length=400)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("kobold-reader ")]


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    """An abandoned request keeps no program running, and its thread ends with the connection."""
    yield
    for thread in threads():
        assert thread.daemon
        thread.join(5)
    assert not threads()


@contextmanager
def raw_server(
    *answers: bytes | Callable[[socket.socket], None], peek: bool = True
) -> Iterator[tuple[str, list[bytes]]]:
    """A socket that sends these bytes, one answer per connection; the last for ever."""
    seen: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.05)
    ended = threading.Event()

    def serve() -> None:
        number = 0
        while not ended.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            with connection:
                connection.settimeout(2)
                seen.append(_read_request(connection) if peek else b"")
                answer = answers[min(number, len(answers) - 1)]
                number += 1
                if callable(answer):
                    answer(connection)
                else:
                    connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", seen
    finally:
        ended.set()
        thread.join()
        listener.close()


def _read_request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            while len(body) < int(value):
                body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def http(body: bytes, status: str = "200 OK", headers: str = "") -> bytes:
    return f"HTTP/1.0 {status}\r\n{headers}\r\n".encode() + body


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def reset_in_body(connection: socket.socket) -> None:
    connection.sendall(http(b'{"results": [{"text": "Die', headers="Content-Length: 900\r\n"))
    time.sleep(0.02)
    reset(connection)


# ── addresses and secrets ─────────────────────────────────────────────────────────────────────


def test_the_password_is_shown_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with KoboldSimulator(password=WORD + "!") as sim:
        client = KoboldClient(sim.url, password=WORD)
        errors: list[BaseException | None] = []
        for call in (client.info, lambda: client.generate(ASK), lambda: client.count_tokens("x")):
            with pytest.raises(AuthenticationError) as caught:
                call()
            errors += [caught.value, caught.value.__cause__]
        with pytest.raises(ServerConnectionError) as broken:
            KoboldClient("http://127.0.0.1:9", password=WORD).count_tokens("x")
        errors += [broken.value, broken.value.__cause__]
        assert isinstance(broken.value.__cause__, requests.RequestException)
        assert broken.value.__cause__.request is None, "its headers hold the password"
        shown = [repr(client), caplog.text, *map(repr, errors), *map(str, errors)]
        shown += [repr(vars(error)) for error in errors if error is not None]
        assert not [text for text in shown if WORD in text]
        assert "password" in repr(client)
        assert f"Bearer {WORD}" in str(sim.requests[-1].headers)


@pytest.mark.parametrize("password", ["a\nb", " 4711", "пароль", "a\x00"])
def test_a_password_no_header_can_carry_is_refused_unshown(password: str) -> None:
    with pytest.raises(ConfigError) as caught:
        KoboldClient(password=password)
    assert password not in str(caught.value)
    assert caught.value.__cause__ is None


def test_debug_logs_hold_no_image(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with KoboldSimulator() as sim:
        KoboldClient(sim.url).generate(GenerateRequest("x", images=(PNG,)))
    assert "/api/v1/generate: HTTP 200" in caplog.text
    assert "iVBOR" not in caplog.text


PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108020000009077"
    "53de0000000c49444154789c63f8ffff3f0005fe02fe0def46b80000000049454e44ae426082"
)


# ── info ──────────────────────────────────────────────────────────────────────────────────────


def test_info_of_a_protected_server() -> None:
    with KoboldSimulator(password=WORD, model="Qwen2.5-VL-7B-Q4_K_M", embeddings_model="minilm", jinja=True) as sim:
        info = KoboldClient(f"{sim.url}/api/v1/", password=WORD).info()
        assert info.url == sim.url
        assert info.model == "Qwen2.5-VL-7B-Q4_K_M"
        assert info.version == "1.115.1"
        assert info.version_tuple == (1, 115, 1)
        assert info.vision
        assert info.protected
        assert info.jinja
        assert info.embeddings
        assert info.embedding_model == "minilm"
        assert info.context_tokens == 16384
        assert info.chat_template
        assert "<|im_start|>" in info.chat_template


@pytest.mark.parametrize("password", [None, "wrong"])
def test_the_password_is_proved_before_the_model_is_believed(password: str | None) -> None:
    with KoboldSimulator(password=WORD) as sim:
        with pytest.raises(AuthenticationError, match="KOBOLD_READER_PASSWORD"):
            KoboldClient(sim.url, password=password).info()
        assert sim.count("/api/v1/model") == 0


def test_info_of_an_old_server() -> None:
    with KoboldSimulator(version="1.76", projector="mlp") as sim:
        info = KoboldClient(sim.url).info()
        assert info.version_tuple == (1, 76)
        assert info.chat_template is None
        assert not info.counts_tokens
        assert not info.embeddings
        assert info.embedding_model is None
        completion = KoboldClient(sim.url).generate(ASK)
        assert completion.prompt_tokens is None
        assert completion.ending == "eos"


def test_a_model_without_a_template_is_not_an_old_server() -> None:
    with KoboldSimulator(chat_template="") as sim:
        assert KoboldClient(sim.url).info().chat_template == ""


def test_info_is_asked_once() -> None:
    with KoboldSimulator() as sim:
        client = KoboldClient(sim.url)
        first = client.info()
        asked = len(sim.requests)
        assert client.info() is first
        assert len(sim.requests) == asked
        assert client.info(refresh=True) == first
        assert len(sim.requests) == 2 * asked


def test_a_blind_server_is_refused_with_the_remedy_for_everyone() -> None:
    with KoboldSimulator(vision=False) as sim:
        with pytest.raises(NoVisionModelError) as caught:
            KoboldClient(sim.url).require_vision()
        assert "--mmproj" in str(caught.value)
        assert '"Vision mmproj" in "Loaded Files"' in str(caught.value)
    with KoboldSimulator() as sim:
        assert KoboldClient(sim.url).require_vision().vision


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (http(b"<!DOCTYPE html><title>Open WebUI</title>"), "web page"),
        (http(b'{"result": "llama"}'), "calls itself 'llama'"),
        (http(b'{"version": "0.7.0"}'), "does not say what it is"),
        (http(b'["a"]'), "not a JSON object"),
        (http(b"404 page not found", "404 Not Found"), "does not know"),
        (http(b"", "301 Moved", "Location: https://a.example/x\r\n"), "https://a.example/x"),
    ],
)
def test_something_else_than_koboldcpp_is_told(answer: bytes, words: str) -> None:
    with raw_server(answer) as (url, _), pytest.raises(ResponseFormatError) as caught:
        KoboldClient(url).info()
    assert "not KoboldCpp" in str(caught.value)
    assert words in str(caught.value)
    assert url in str(caught.value)


@pytest.mark.parametrize("answer", [http(b"<html>Sorry</html>", "500 Oops"), b"SSH-2.0-OpenSSH_9.6\r\n\r\n"])
def test_what_is_no_api_is_told_in_one_line_without_html(answer: bytes) -> None:
    with raw_server(answer) as (url, _), pytest.raises(ServerError) as caught:
        KoboldClient(url).info()
    assert "\n" not in str(caught.value)
    assert "<" not in str(caught.value)


def test_a_router_that_loads_is_not_taken_for_something_else() -> None:
    loading = http(b"<!DOCTYPE html>", "502 Bad Gateway")
    with raw_server(loading) as (url, _), pytest.raises(ServerBusyError, match="loading"):
        KoboldClient(url).info()


# ── tokens ────────────────────────────────────────────────────────────────────────────────────


def test_an_expanded_prompt_has_the_tokens_the_server_reports() -> None:
    with KoboldSimulator() as sim:
        client = KoboldClient(sim.url)
        expanded = client.expand([{"role": "user", "content": "Read."}])
        assert expanded.text == "<|im_start|>user\nRead.<|im_end|>\n<|im_start|>assistant\n"
        assert client.count_tokens(expanded.text) == expanded.tokens
        assert client.generate(GenerateRequest(expanded.text)).prompt_tokens == expanded.tokens


def test_an_old_server_does_not_expand() -> None:
    with KoboldSimulator(version="1.76") as sim, pytest.raises(KoboldReaderError):
        KoboldClient(sim.url).expand([{"role": "user", "content": "Read."}])


@pytest.mark.parametrize("value", [b"-1", b"true", b'"3"', b"null", b"2.5"])
def test_a_count_that_is_none_is_no_count(value: bytes) -> None:
    answer = http(b'{"value": ' + value + b"}")
    with raw_server(answer) as (url, _), pytest.raises(ResponseFormatError, match="token count"):
        KoboldClient(url).count_tokens("x")


# ── embeddings ────────────────────────────────────────────────────────────────────────────────


def test_embeddings_come_in_order() -> None:
    with KoboldSimulator(embeddings_model="minilm") as sim:
        client = KoboldClient(sim.url)
        both = client.embed(["cat", "dog"])
        assert [len(vector) for vector in both] == [96, 96]
        assert client.embed(["dog"]) == both[1:]
        assert client.embed([]) == []
        body = sim.requests[-1].body
        assert body is not None
        assert body["truncate"] is False


def test_no_embedding_model_is_an_error_though_the_server_says_200() -> None:
    with (
        KoboldSimulator() as sim,
        pytest.raises(ServerError, match="Embeds Model"),
    ):
        KoboldClient(sim.url).embed(["x"])


def test_a_text_too_long_to_embed_is_named() -> None:
    with (
        KoboldSimulator(embeddings_model="minilm", embedding_context=16) as sim,
        pytest.raises(ContextTooSmallError, match="text 2"),
    ):
        KoboldClient(sim.url).embed(["short", "long " * 100])


@pytest.mark.parametrize(
    "data",
    [
        [],
        [{"index": 0, "embedding": [1.0]}] * 2,
        [{"index": 1, "embedding": [1.0]}],
        [{"index": 0, "embedding": ["a"]}],
        [{"index": 0, "embedding": "AAAA"}],
        [{"index": 0, "embedding": [float("nan")]}],
        [None],
        None,
    ],
)
def test_vectors_that_are_none_are_refused(data: object) -> None:
    answer = http(json.dumps({"data": data, "model": "m"}).encode())
    with raw_server(answer) as (url, _), pytest.raises(ResponseFormatError):
        KoboldClient(url).embed(["x"])


def test_one_text_is_not_a_list_of_letters() -> None:
    with pytest.raises(ConfigError):
        KoboldClient().embed("text")


# ── faults ────────────────────────────────────────────────────────────────────────────────────

FAULTS: list[tuple[Fault, type[KoboldReaderError]]] = [
    (Fault.CLOSE, ServerConnectionError),
    (Fault.RESET, ServerConnectionError),
    (Fault.RESET_BODY, ServerConnectionError),
    (Fault.WRONG_LENGTH, ServerConnectionError),
    (Fault.TRUNCATED_JSON, ResponseFormatError),
    (Fault.NOT_UTF8, ResponseFormatError),
    (Fault.HTML, ResponseFormatError),
    (Fault.NULL, ResponseFormatError),
    (Fault.ERROR, ResponseFormatError),
    (Fault.BUSY, ServerBusyError),
    (Fault.rate_limit(3), ServerBusyError),
    (Fault.NO_VISION, NoVisionModelError),
    (Fault.BAD_INPUT, BadRequestError),
    (Fault.UNAUTHORIZED, AuthenticationError),
    (Fault.reply(502, "<html>", "text/html"), ServerBusyError),
    (Fault.reply(301, "", headers={"Location": "http://127.0.0.1:1/"}), ResponseFormatError),
]


@pytest.mark.parametrize(("fault", "kind"), FAULTS)
def test_every_fault_is_a_named_error_and_one_request(fault: Fault, kind: type[KoboldReaderError]) -> None:
    with KoboldSimulator() as sim:
        client = KoboldClient(sim.url)
        sim.fault(fault)
        with pytest.raises(KoboldReaderError) as caught:
            client.generate(ASK)
        assert type(caught.value) is kind
        assert str(caught.value).startswith(sim.url)
        assert sim.count() == 1
        assert client.generate(ASK).ending == "eos"


def test_an_empty_text_is_the_callers_to_judge() -> None:
    with KoboldSimulator() as sim:
        sim.fault(Fault.EMPTY_TEXT)
        completion = KoboldClient(sim.url).generate(ASK)
        assert (completion.text, completion.ending) == ("", "eos")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (reset, "closed without an answer"),
        (reset_in_body, "middle of the answer"),
        (http(b'{"a": 1}', headers="Content-Length: 99\r\n"), "middle of the answer"),
        (b"", "closed without an answer"),
        (b"no http at all\r\n\r\n", "closed without an answer"),
        (http(b"{}", headers="Content-Encoding: gzip\r\n"), ""),
    ],
)
def test_broken_connections_are_named(answer: bytes | Callable[[socket.socket], None], words: str) -> None:
    with raw_server(answer) as (url, _), pytest.raises(ServerConnectionError) as caught:
        KoboldClient(url).perf()
    assert words in str(caught.value)
    assert url in str(caught.value)


def test_refused_says_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for call in (KoboldClient.info, KoboldClient.perf, lambda client: client.generate(ASK)):
        with pytest.raises(ServerConnectionError, match="load its model"):
            call(KoboldClient(f"127.0.0.1:{port}"))


def test_an_unknown_machine_is_told() -> None:
    with pytest.raises(ServerConnectionError, match="no machine of that name"):
        KoboldClient("http://kobold.invalid:5001").info()


def test_a_broken_line_aborts_what_may_still_run() -> None:
    with KoboldSimulator() as sim:
        sim.fault(Fault.RESET_BODY)
        with pytest.raises(ServerConnectionError):
            KoboldClient(sim.url).generate(ASK)
        assert sim.count("/api/extra/abort") == 1
        assert key_of(sim, "/api/extra/abort") == key_of(sim, "/api/v1/generate")


def key_of(sim: KoboldSimulator, path: str) -> object:
    bodies = [request.body for request in sim.requests if request.path == path]
    assert bodies
    assert bodies[-1] is not None
    return bodies[-1]["genkey"]


def test_proxies_and_netrc_are_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with KoboldSimulator(password=WORD) as sim:
        client = KoboldClient(sim.url, password=WORD)
        assert client.info().protected
        assert client.generate(ASK).ending == "eos"
        assert f"Bearer {WORD}" in str(sim.requests[-1].headers)


def test_each_request_has_its_own_key() -> None:
    with KoboldSimulator() as sim:
        client = KoboldClient(sim.url)
        client.generate(ASK)
        first = key_of(sim, "/api/v1/generate")
        client.generate(ASK)
        assert first != key_of(sim, "/api/v1/generate")


def test_a_closed_client_asks_nothing() -> None:
    with KoboldClient("http://127.0.0.1:9") as client:
        pass
    for call in (client.info, client.perf, lambda: client.generate(ASK)):
        with pytest.raises(ConfigError, match="closed"):
            call()


def failing_with(error: Exception) -> Callable[..., NoReturn]:
    def request(*_: object, **__: object) -> NoReturn:
        raise error

    return request


def test_a_slow_connection_is_told_from_a_slow_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with raw_server(lambda _: time.sleep(0.2)) as (url, _):
        transport = Transport(url, None, 5.0)
        with pytest.raises(ServerTimeoutError, match=r"no answer within 0\.05 s"):
            transport.exchange("/api/extra/perf", read_timeout_s=0.05)
        monkeypatch.setattr(requests.Session, "request", failing_with(requests.exceptions.ConnectTimeout()))
        with pytest.raises(ServerConnectionError, match="no connection within 5 s"):
            transport.exchange("/api/extra/perf")


def test_an_answer_without_end_is_left() -> None:
    def drip(connection: socket.socket) -> None:
        connection.sendall(http(b""))
        with suppress(OSError):
            for _ in range(30):
                connection.sendall(b" ")
                time.sleep(0.01)

    with raw_server(drip) as (url, _), pytest.raises(ServerTimeoutError, match="too slowly"):
        Transport(url, None, 5.0).exchange("/api/extra/perf", read_timeout_s=0.05)


def test_a_request_larger_than_the_server_takes_is_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests.Session, "request", failing_with(ConnectionResetError()))
    with pytest.raises(ServerConnectionError, match="40 MB were sent"):
        Transport("http://h", None, 5.0).exchange("/api/v1/generate", bytes(40_000_000))


def test_plain_http_behind_https_is_told() -> None:
    with (
        raw_server(http(b"{}"), peek=False) as (url, _),
        pytest.raises(ServerConnectionError) as caught,
    ):
        KoboldClient(url.replace("http://", "https://")).perf()
    assert "encrypted" in str(caught.value)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
def test_a_certificate_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)

    def encrypted(connection: socket.socket) -> None:
        with suppress(OSError), context.wrap_socket(connection, server_side=True) as secure:
            request = _read_request(secure)
            if b"/abort" in request:
                secure.sendall(http(b'{"success": "false"}'))
            elif b"/generate" in request:
                secure.settimeout(0.5)
                secure.recv(1)
            else:
                secure.sendall(http(b'{"queue": 0}'))

    with raw_server(encrypted, peek=False) as (url, _):
        client = KoboldClient(url.replace("http://", "https://"), abort_grace_s=0.1)
        monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
        with pytest.raises(ServerConnectionError, match="REQUESTS_CA_BUNDLE"):
            client.perf()
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(cert))
        assert client.perf() == {"queue": 0}
        started = time.monotonic()
        with pytest.raises(ServerTimeoutError):
            client.generate(ASK, time_limit_s=0.2)
        assert time.monotonic() - started < 8


# ── progress, time limits, aborts ─────────────────────────────────────────────────────────────

LONG = " ".join(f"word{number}" for number in range(400))


def keeping(seen: list[str]) -> Callable[[str], bool]:
    def on_progress(text: str) -> bool:
        seen.append(text)
        return True

    return on_progress


@contextmanager
def slow_server(**more: Any) -> Iterator[KoboldSimulator]:
    with KoboldSimulator(brain=ScriptBrain(LONG), tokens_per_s=400.0, **more) as sim:
        yield sim


def free(sim: KoboldSimulator) -> bool:
    return sim.wait_for(lambda: not sim.running and sim.queued == 0, 5)


def test_progress_is_seen_while_it_is_written() -> None:
    with slow_server() as sim:
        seen: list[str] = []
        client = KoboldClient(sim.url, poll_interval_s=0.05)
        completion = client.generate(GenerateRequest("Read.", max_length=120), on_progress=keeping(seen))
        assert completion.ending == "length"
        assert len(seen) > 1
        assert all(completion.text.startswith(text) for text in seen)
        assert seen == sorted(seen, key=len)
        assert sim.count("/api/extra/abort") == 0


def test_enough_seen_aborts_and_keeps_the_text() -> None:
    with slow_server() as sim:
        client = KoboldClient(sim.url, poll_interval_s=0.05)
        completion = client.generate(GenerateRequest("Read.", max_length=2000), on_progress=lambda text: len(text) < 60)
        assert completion.ending == "aborted"
        assert len(completion.text) >= 60
        assert LONG.startswith(completion.text.strip())
        assert completion.completion_tokens
        assert free(sim)


def test_without_on_progress_nothing_is_polled() -> None:
    with slow_server() as sim:
        KoboldClient(sim.url, poll_interval_s=0.01).generate(GenerateRequest("R", max_length=60))
        assert sim.count("/api/extra/generate/check") == 0


def test_progress_that_cannot_be_had_is_no_error() -> None:
    with KoboldSimulator(brain=ScriptBrain("text")) as sim:
        answers = [Fault.NULL, Fault.reply(200, '{"results": []}'), Fault.reply(500, "")] * 9
        sim.fault_when = lambda request: answers.pop() if request.path.endswith("/check") and answers else None
        sim.fault(Fault.slow(0.3))
        seen: list[str] = []
        completion = KoboldClient(sim.url, poll_interval_s=0.02).generate(ASK, on_progress=keeping(seen))
        assert completion.text == "text"


def test_an_error_in_on_progress_aborts_and_comes_out() -> None:
    def broken(_text: str) -> bool:
        raise ZeroDivisionError

    with slow_server() as sim:
        client = KoboldClient(sim.url, poll_interval_s=0.05)
        with pytest.raises(ZeroDivisionError):
            client.generate(GenerateRequest("R", max_length=2000), on_progress=broken)
        assert free(sim)
        assert sim.count("/api/extra/abort") >= 1


def test_the_time_limit_aborts_the_job() -> None:
    with KoboldSimulator() as sim:
        sim.fault(Fault.HANG)
        with pytest.raises(ServerTimeoutError, match=r"0\.2 s"):
            KoboldClient(sim.url).generate(ASK, time_limit_s=0.2)
        assert free(sim)
        assert key_of(sim, "/api/extra/abort") == key_of(sim, "/api/v1/generate")


def test_a_queued_job_is_aborted_too() -> None:
    with KoboldSimulator() as sim:
        sim.fault(Fault.HANG)
        first_error: list[BaseException] = []

        def first() -> None:
            try:
                KoboldClient(sim.url).generate(ASK, time_limit_s=20, cancel=over)
            except CancelledError as err:
                first_error.append(err)

        over = threading.Event()
        thread = threading.Thread(target=first)
        thread.start()
        assert sim.wait_for(lambda: sim.running)
        with pytest.raises(ServerTimeoutError):
            KoboldClient(sim.url).generate(ASK, time_limit_s=0.2)
        over.set()
        thread.join()
        assert first_error
        assert free(sim)
        assert len(sim.seen) == 1, "the queued job must not have asked the model"


def test_an_abort_that_comes_too_early_is_repeated() -> None:
    with KoboldSimulator() as sim:
        sim.fault(Fault.HANG)
        early = [Fault.reply(200, '{"success": "false", "done": "false"}'), Fault.RESET]
        sim.fault_when = lambda request: early.pop() if request.path.endswith("/abort") and early else None
        with pytest.raises(ServerTimeoutError):
            KoboldClient(sim.url).generate(ASK, time_limit_s=0.1)
        assert free(sim)
        assert sim.count("/api/extra/abort") == 3


def test_cancel_by_another_thread() -> None:
    with KoboldSimulator() as sim:
        sim.fault(Fault.HANG)
        cancel = threading.Event()

        def cancel_when_running() -> None:
            sim.wait_for(lambda: sim.running)
            cancel.set()

        threading.Thread(target=cancel_when_running).start()
        with pytest.raises(CancelledError):
            KoboldClient(sim.url).generate(ASK, cancel=cancel)
        assert free(sim)
        before = sim.count()
        with pytest.raises(CancelledError):
            KoboldClient(sim.url).generate(ASK, cancel=cancel)
        assert sim.count() == before


def test_a_server_deaf_to_aborts_is_left_in_bounded_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hang = threading.Event()

    def silent(_connection: socket.socket) -> None:
        hang.wait(60)

    refused = http(b'{"success": "false", "done": "false"}')
    listener = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()
    workers: list[threading.Thread] = []

    def one(connection: socket.socket) -> None:
        with connection:
            request = _read_request(connection)
            if b"/abort" in request:
                connection.sendall(refused)
            else:
                silent(connection)

    def serve() -> None:
        listener.settimeout(0.05)
        while not ended.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            connection.settimeout(2)
            worker = threading.Thread(target=one, args=(connection,))
            worker.start()
            workers.append(worker)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        client = KoboldClient(f"http://127.0.0.1:{listener.getsockname()[1]}", abort_grace_s=0.3)
        started = time.monotonic()
        with pytest.raises(ServerTimeoutError):
            client.generate(ASK, time_limit_s=0.1)
        assert time.monotonic() - started < 2, "free at once, though the request is never answered"
        assert "took no abort" in caplog.text
        program = (
            "import sys\n"
            "from kobold_reader.kobold import KoboldClient, GenerateRequest\n"
            "KoboldClient(sys.argv[1], abort_grace_s=0.3).generate(GenerateRequest('Read.'), time_limit_s=0.1)\n"
        )
        ended_by_itself = subprocess.run(
            [sys.executable, "-c", program, client.url], capture_output=True, text=True, timeout=20, check=False
        )
        assert "ServerTimeoutError" in ended_by_itself.stderr
        assert not hang.is_set(), "the abandoned request does not keep the program running"
    finally:
        ended.set()
        hang.set()
        thread.join()
        for worker in workers:
            worker.join()
        listener.close()


def test_a_server_that_dies_during_the_abort_leaves_the_text_seen() -> None:
    with slow_server() as sim:

        def enough(text: str) -> bool:
            if len(text) < 60:
                return True
            sim.fault_when = lambda request: Fault.RESET if request.path.endswith("/abort") else None
            threading.Thread(target=sim.stop).start()
            return False

        client = KoboldClient(sim.url, poll_interval_s=0.05, abort_grace_s=1.0)
        completion = client.generate(GenerateRequest("R", max_length=2000), on_progress=enough)
        assert completion.ending == "aborted"
        assert LONG.startswith(completion.text.strip())
        assert len(completion.text) >= 60


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_aborts_the_job_on_the_server() -> None:
    program = (
        "import sys\n"
        "from kobold_reader.kobold import KoboldClient, GenerateRequest\n"
        "print('ready', flush=True)\n"
        "KoboldClient(sys.argv[1]).generate(GenerateRequest('Read.'))\n"
    )
    with KoboldSimulator() as sim:
        sim.fault(Fault.HANG)
        process = subprocess.Popen(
            [sys.executable, "-c", program, sim.url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert sim.wait_for(lambda: sim.running, 20)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=10)
        assert "KeyboardInterrupt" in stderr
        assert free(sim)
        assert key_of(sim, "/api/extra/abort") == key_of(sim, "/api/v1/generate")


def test_a_stop_sequence_inside_a_token_is_cut_on_the_way() -> None:
    brain = ScriptBrain([Answer(("lorem ", "seduper", " ipsum"))])
    with KoboldSimulator(brain=brain) as sim:
        completion = KoboldClient(sim.url).generate(GenerateRequest("Read.", stop_sequence=("sedu",)))
        assert completion.text.strip() == "lorem"
        assert completion.ending == "stop_sequence"
