"""Against a real KoboldCpp: is the server what the simulator says it is?

    make live KOBOLD_READER_LIVE_URL=http://127.0.0.1:5001

Any model will do, also one of random weights whose answers are noise: what is tested is the server and the way there
and back. With KOBOLD_READER_LIVE_QUALITY=1 the model must read as well. KOBOLD_READER_LIVE_PASSWORD is the server's.
The server may be slow, and may serve others meanwhile. One without a projector must be refused.

Without that address the same tests run against the simulator, as KoboldCpp 1.115.1 and as 1.76.
"""

from __future__ import annotations

import io
import os
import re
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from kobold_reader import KoboldLLM, KoboldReader
from kobold_reader.errors import (
    ContextTooSmallError,
    EmptyTranscriptionError,
    NoVisionModelError,
    ResponseFormatError,
)
from kobold_reader.kobold import (
    Completion,
    ExpandedPrompt,
    Family,
    GenerateRequest,
    KoboldClient,
    Lease,
    ServerInfo,
    ServerPool,
    choose_family,
    render_prompt,
)
from kobold_reader.reading.results import STATUSES
from tests.card_reader import DRAWN_BY, SEED, card_text
from tests.conftest import GROUND_TRUTH, LETTER
from tests.kobold_simulator import BrainRequest, KoboldSimulator, ScriptBrain

# Read now: every test gets an environment without our variables.
URL = os.environ.get("KOBOLD_READER_LIVE_URL", "")
PASSWORD = os.environ.get("KOBOLD_READER_LIVE_PASSWORD")
QUALITY = os.environ.get("KOBOLD_READER_LIVE_QUALITY") == "1"

pytestmark = [pytest.mark.timeout(1800), pytest.mark.slow]
REAL = pytest.param(
    "real",
    marks=[pytest.mark.live, pytest.mark.skipif(not URL, reason="KOBOLD_READER_LIVE_URL names no KoboldCpp")],
)
TODAY: dict[str, Any] = {"version": "1.115.1", "model": "Qwen2.5-VL-7B-Instruct-Q4_K_M", "projector": "qwen2vl"}
OLD: dict[str, Any] = {"version": "1.76", "model": "MiniCPM-V-2_6-Q4_K_M", "projector": "resampler"}
SIMULATED: dict[str, dict[str, Any]] = {
    "1.115.1": TODAY,
    "1.76": OLD,
    "1.115.1 without a projector": TODAY | {"vision": False},
    "1.115.1 without a queue, with a password": TODAY | {"multiuser": 0, "password": "slate"},
    "1.76 without a queue": OLD | {"multiuser": 0},
}
AFTER_OTHERS_S = 600
"""For a short answer, behind the requests of others that wait before it."""

LONG = "Count from one to one thousand in words, one number a line, and leave none out."


@dataclass(frozen=True)
class Server:
    """The server that is tested."""

    url: str
    password: str | None = None


def says(request: BrainRequest) -> str:
    """Answers of a model that reads the test card, and has something to say to everything else."""
    if LONG in request.prompt:
        return "one two three four five six seven eight nine ten\n" * 200
    if not request.images:
        return "Blue."
    return card_text(10)  # the letter, too: what is tested is the server


@pytest.fixture(params=[REAL, *SIMULATED])
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    if request.param == "real":
        yield Server(URL, PASSWORD)
        return
    monkeypatch.setattr(DRAWN_BY, lambda _: SEED)
    with KoboldSimulator(**SIMULATED[request.param], brain=ScriptBrain(says), tokens_per_s=400) as simulator:
        yield Server(simulator.url, simulator.password)


@pytest.fixture
def lease(server: Server) -> Iterator[Lease]:
    """As every page has one: a busy server is asked again."""

    def client(url: str) -> KoboldClient:
        return KoboldClient(url, password=server.password, poll_interval_s=0.05)

    with ServerPool([server.url], make_client=client) as pool, pool.lease() as lease:
        yield lease


@pytest.fixture
def info(server: Server) -> ServerInfo:
    with KoboldClient(server.url, password=server.password) as client:
        return client.info()


@pytest.fixture
def family(info: ServerInfo) -> Family:
    return choose_family(info)


@pytest.fixture
def prompt(lease: Lease, info: ServerInfo, family: Family) -> ExpandedPrompt:
    return render_prompt(lease.client, info, family, "What is written here? Answer briefly.")


def card() -> bytes:
    image = Image.new("L", (448, 448), 245)
    ImageDraw.Draw(image).text((60, 200), "Axel Lindqvist, inventory 1954/37-b", fill=0)
    data = io.BytesIO()
    image.save(data, "JPEG")
    return data.getvalue()


def words(text: str) -> Counter[str]:
    return Counter(re.findall(r"\w+", text.lower()))


def test_the_server_says_what_it_is(server: Server, info: ServerInfo) -> None:
    assert info.model
    assert info.version_tuple >= (1, 76)
    assert info.context_tokens >= 512
    assert info.protected is bool(server.password)


def test_the_prompt_is_counted_as_it_is_sent(lease: Lease, info: ServerInfo, prompt: ExpandedPrompt) -> None:
    if not info.counts_tokens:
        pytest.skip(f"KoboldCpp {info.version} returns no counts")

    completion = lease.generate(GenerateRequest(prompt.text, max_length=8))

    assert completion.prompt_tokens == prompt.tokens
    assert completion.completion_tokens is not None
    assert 1 <= completion.completion_tokens <= 8


def test_an_image_that_is_seen_adds_tokens(lease: Lease, info: ServerInfo, prompt: ExpandedPrompt) -> None:
    if not info.counts_tokens:
        pytest.skip(f"KoboldCpp {info.version} returns no counts")

    completion = lease.generate(GenerateRequest(prompt.text, images=(card(),), max_length=8))

    assert completion.prompt_tokens is not None
    if info.vision:
        assert completion.prompt_tokens > prompt.tokens, "else the image was dropped"
    else:
        assert completion.prompt_tokens == prompt.tokens, "it is dropped without a word"


def long_request(lease: Lease, family: Family, info: ServerInfo, seed: int) -> GenerateRequest:
    text = render_prompt(lease.client, info, family, LONG).text
    return GenerateRequest(text, max_length=min(2048, info.context_tokens // 2), temperature=1.0, sampler_seed=seed)


def is_free(lease: Lease) -> bool:
    """Whether the server answers: jobs before this one are over."""
    after: Completion = lease.generate(GenerateRequest("Hello", max_length=2), time_limit_s=AFTER_OTHERS_S)
    return after.ending in {"eos", "length"}


def test_progress_is_told(lease: Lease, info: ServerInfo, family: Family) -> None:
    for seed in (1, 2, 3):
        seen: list[str] = []

        def on_progress(text: str, seen: list[str] = seen) -> bool:
            seen.append(text)
            return len(text) < 200

        completion = lease.generate(long_request(lease, family, info, seed), on_progress=on_progress)
        if any(seen):
            # A character may be cut in two where the server was asked in its middle.
            said = max(seen, key=len).strip().rstrip("\ufffd")
            assert completion.text.strip().startswith(said)
            return
    pytest.skip("the model ended every answer before it could be watched")


def test_an_abort_ends_the_job(lease: Lease, info: ServerInfo, family: Family) -> None:
    for seed in (1, 2, 3):
        request = long_request(lease, family, info, seed)
        completion = lease.generate(request, on_progress=lambda text: not text)
        if completion.ending == "aborted":
            assert completion.text, "what was written by then is returned"
            assert (completion.completion_tokens or 0) < request.max_length, "it wrote on to the end"
            assert is_free(lease)
            return
    pytest.skip("the model ended every answer before it could be aborted")


def test_a_cancelled_job_ends_too(lease: Lease, info: ServerInfo, family: Family) -> None:
    cancel = threading.Event()

    def on_progress(_: str) -> bool:
        cancel.set()
        return True

    try:
        lease.generate(long_request(lease, family, info, 1), on_progress=on_progress, cancel=cancel)
    except CancelledError:
        assert is_free(lease)
    else:
        pytest.skip("the model ended its answer before it could be cancelled")


def test_a_page_is_read_end_to_end(server: Server, info: ServerInfo, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.sqlite"
    with KoboldReader(
        api_url=server.url, api_password=server.password, tasks=["ocr"], pages="1", ledger=ledger
    ) as reader:
        try:
            (result,) = reader.read_pages(LETTER)
        except NoVisionModelError as err:
            if not info.vision:
                return
            if info.counts_tokens:
                raise
            pytest.skip(f"KoboldCpp {info.version} proves by a card that it sees, and its model cannot read: {err}")
        (again,) = reader.read_pages(LETTER)

    assert info.vision, "a page was read without eyes"
    assert result.status in STATUSES
    if isinstance(result.error, ContextTooSmallError):
        pytest.skip(str(result.error))
    if result.status == "failed":
        assert isinstance(result.error, EmptyTranscriptionError), f"that is not the model's fault: {result.error}"
        return
    reading = result.readings["ocr"]
    assert reading.model == info.model
    assert reading.server_version == info.version
    assert bool(reading.text) is (reading.status in {"ok", "truncated", "looping"})
    if info.counts_tokens:
        assert reading.image_verified is True
        assert reading.prompt_tokens is not None
        assert reading.completion_tokens is not None
        assert reading.completion_tokens >= 1
    else:
        assert reading.image_verified is False
    assert again.is_kept
    assert again.text == result.text


def test_a_model_that_cannot_read_is_skipped_where_only_that_proves_sight(tmp_path: Path) -> None:
    """Any model will do, also on 1.76: one of random weights reads no card, and that is no fault of the server."""
    with KoboldSimulator(**OLD) as simulator:
        info = KoboldClient(simulator.url).info()
        with pytest.raises(pytest.skip.Exception, match="its model cannot read"):
            test_a_page_is_read_end_to_end(Server(simulator.url), info, tmp_path)


def test_a_question_is_answered(server: Server, info: ServerInfo) -> None:
    llm = KoboldLLM(api_url=server.url, api_password=server.password, max_length=16, context_window=info.context_tokens)
    try:
        response = llm.complete("Name a colour.")
    except ResponseFormatError as err:
        # One of random weights may have nothing to say, and one that thinks has no time for it.
        assert re.search("empty answer|only thought", str(err))  # noqa: PT017
    else:
        assert response.text
        assert response.raw is not None
        assert response.raw["ending"] in {"eos", "length", "stop_sequence"}


@pytest.mark.live
@pytest.mark.skipif(not (URL and QUALITY), reason="KOBOLD_READER_LIVE_QUALITY is not 1")
@pytest.mark.parametrize("server", [REAL], indirect=True)
def test_the_model_can_read(server: Server, tmp_path: Path) -> None:
    truth = words((GROUND_TRUTH / "letters" / f"{LETTER.name}.txt").read_text(encoding="utf-8").split("\f")[0])
    ledger = tmp_path / "ledger.sqlite"
    with KoboldReader(
        api_url=server.url, api_password=server.password, tasks=["ocr"], pages="1", ledger=ledger
    ) as reader:
        (document,) = reader.load_data(LETTER)

    recall = (truth & words(document.text)).total() / truth.total()
    assert recall >= 0.5, f"{recall:.0%} of the words: {document.text[:300]!r}"
