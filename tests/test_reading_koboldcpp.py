"""KoboldEngine against the simulated server: what is sent, and what is taken for a reading of the page."""

from __future__ import annotations

import base64
import hashlib
import io
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pymupdf
import pytest
from PIL import Image, ImageDraw

from kobold_reader import KoboldReader
from kobold_reader.errors import (
    ContextTooSmallError,
    EmptyTranscriptionError,
    ImageNotSeenError,
    KoboldReaderError,
    NoServerAvailableError,
    NoVisionModelError,
    ResponseFormatError,
    ServerBusyError,
    ServerConnectionError,
    ServerStatusError,
    ServerTimeoutError,
)
from kobold_reader.kobold import RetryPolicy, ServerPool
from kobold_reader.options import ReadOptions
from kobold_reader.pages import LinePiece, PageImages, PageView
from kobold_reader.reading.koboldcpp import KoboldEngine
from kobold_reader.reading.page_reader import PageJob
from kobold_reader.reading.results import PageResult, Reading
from tests.card_reader import DRAWN_BY, SEED, reads_down_to
from tests.conftest import LETTER, SAMPLES
from tests.kobold_simulator import BrainRequest, Fault, FaultKind, KoboldSimulator, ScriptBrain

pytestmark = pytest.mark.slow

MakeSimulator = Callable[..., KoboldSimulator]
MakeEngine = Callable[..., KoboldEngine]

READ = "Dear Axel, the slates came on Tuesday."
NOTHING = "There is no text in the image."


def picture(width_px: int = 700, height_px: int = 900, kind: str = "JPEG") -> bytes:
    image = Image.new("L", (width_px, height_px), 250)
    draw = ImageDraw.Draw(image)
    for line in range(40, height_px - 40, 40):
        draw.text((40, line), f"{line} Dear Axel, the slates came on Tuesday.", fill=10)
    data = io.BytesIO()
    image.save(data, kind)
    return data.getvalue()


def page(*tasks: str, image: bytes | None = None, cancel: threading.Event | None = None, **options: Any) -> PageJob:
    data = image or picture()
    with Image.open(io.BytesIO(data)) as opened:
        width_px, height_px = opened.size
    view = PageView(data, "image/png" if data[:1] == b"\x89" else "image/jpeg", width_px, height_px, None, 0)
    images = PageImages(views=(view,), is_blank=False)
    return PageJob("file:///letter.pdf", 3, tasks or ("ocr",), images, cancel=cancel, **options)


@pytest.fixture
def waits() -> list[float]:
    """The pauses between two requests, which no test waits for."""
    return []


@pytest.fixture
def make_engine(tmp_path: Path, waits: list[float]) -> Iterator[MakeEngine]:
    """An engine on one or more servers that never sleeps between two attempts."""
    engines: list[KoboldEngine] = []

    def make(*servers: KoboldSimulator, **options: Any) -> KoboldEngine:
        urls = [server.url for server in servers]
        password = options.pop("password", None)
        pool = ServerPool(
            urls,
            password=password,
            policy=RetryPolicy(),  # as users have it: the waits are counted, not slept
            sleep=waits.append,
            lock_dir=tmp_path / "locks",
            random=lambda: 0.0,
        )
        engines.append(KoboldEngine(pool, ReadOptions(**options)))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


def reading(outcome: Reading | KoboldReaderError) -> Reading:
    assert isinstance(outcome, Reading), outcome
    return outcome


def generated(simulator: KoboldSimulator) -> list[dict[str, Any]]:
    """The bodies of all requests for text."""
    return [request.body for request in simulator.requests if request.path.endswith("/api/v1/generate")]


# ── what is sent ──────────────────────────────────────────────────────────────────────────────────


def test_every_field_that_matters_is_sent(simulator: KoboldSimulator, make_engine: MakeEngine) -> None:
    make_engine(simulator).read(page("ocr", "caption"))

    bodies = generated(simulator)
    assert len(bodies) == 2
    for body in bodies:
        assert body["temperature"] == 0.1
        assert body["trim_stop"] is False
        assert body["sampler_seed"] == 1
        assert body["replace_instruct_placeholders"] is False
        assert 0 < body["max_length"] < 0.8 * simulator.context_size
        assert {"temp", "seed", "max_tokens", "stop", "max_context_length"}.isdisjoint(body)
        assert len(body["images"]) == 1
    assert len({body["genkey"] for body in bodies}) == 2
    assert all(body["genkey"] for body in bodies)
    ocr, caption = (body["prompt"] for body in bodies)
    assert "Convert this page to markdown" in ocr
    assert "Describe this image" in caption
    assert ocr.startswith("<|im_start|>user\n")
    assert ocr.endswith("<|im_end|>\n<|im_start|>assistant\n"), "under the server's own template"


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_image_goes_as_plain_base64_of_the_very_bytes(
    make_simulator: MakeSimulator, make_engine: MakeEngine, kind: str
) -> None:
    sent: list[str] = []

    def answer(request: BrainRequest) -> str:
        sent.extend(request.body["images"])
        return READ

    data = picture(kind=kind)
    simulator = make_simulator(brain=ScriptBrain(answer))
    outcome = make_engine(simulator).read(page(image=data))["ocr"]

    assert [base64.b64decode(text, validate=True) for text in sent] == [data]
    assert reading(outcome).view_sizes == ((700, 900),)


def test_an_embedded_scan_reaches_the_server_untouched(simulator: KoboldSimulator, tmp_path: Path) -> None:
    scan = picture(724, 1024)
    path = tmp_path / "scan.pdf"
    with pymupdf.open() as pdf:
        sheet = pdf.new_page(width=421, height=595)
        sheet.insert_image(sheet.rect, stream=scan, keep_proportion=False)
        pdf.save(path)

    KoboldReader(api_url=simulator.url, tasks=["ocr"], ledger="none").load_data(path)

    (image,) = generated(simulator)[0]["images"]
    assert image == {"size": (724, 1024), "sha256": hashlib.sha256(scan).hexdigest(), "bytes": len(scan)}


def test_no_view_is_larger_than_what_the_server_takes(simulator: KoboldSimulator) -> None:
    def sides(**options: Any) -> tuple[int, int]:
        simulator.requests.clear()
        reader = KoboldReader(api_url=simulator.url, tasks=["caption"], pages="1", ledger="none", **options)
        reader.load_data(LETTER)
        (image,) = generated(simulator)[0]["images"]
        return min(image["size"]), max(image["size"])

    assert sides() == (724, 1024), "the scan has 1240 by 1754; no endpoint reports --visionmaxres"
    assert sides(visionmaxres=512) == (362, 512)
    wide, high = sides(visionmaxres=4096)
    assert 1024 < high < 1754, "as large as the family's encoder takes"
    assert wide * high <= 2048 * 28 * 28


def test_what_the_reading_remembers(simulator: KoboldSimulator, make_engine: MakeEngine) -> None:
    one = reading(make_engine(simulator, hint="Swedish, about 1954.").read(page())["ocr"])

    assert (one.status, one.engine, one.task) == ("ok", "koboldcpp", "ocr")
    assert (one.model, one.family) == ("Qwen2.5-VL-7B-Instruct-Q4_K_M", "qwen2.5-vl")
    assert one.server_version == "1.115.1"
    assert one.prompt == generated(simulator)[0]["prompt"]
    assert one.prompt is not None
    assert "Swedish, about 1954." in one.prompt
    assert one.decoding["temperature"] == 0.1
    assert one.image_verified is True
    assert one.prompt_tokens is not None
    assert one.completion_tokens is not None
    assert one.prompt_tokens > one.completion_tokens > 10
    assert one.attempts == 1


def test_the_users_wording_takes_the_place_of_the_familys(simulator: KoboldSimulator, make_engine: MakeEngine) -> None:
    make_engine(simulator, prompts={"ocr": "Läs sidan."}).read(page("ocr", "caption"))

    ocr, caption = (body["prompt"] for body in generated(simulator))
    assert ocr == "<|im_start|>user\nLäs sidan.<|im_end|>\n<|im_start|>assistant\n"
    assert "Describe this image" in caption


# ── was the image seen? ───────────────────────────────────────────────────────────────────────────


def test_an_answer_without_the_image_is_thrown_away(simulator: KoboldSimulator, make_engine: MakeEngine) -> None:
    simulator.fault(Fault.DROP_IMAGES)
    simulator.brain = ScriptBrain("An invented page, fluent and false.")

    outcome = make_engine(simulator).read(page())["ocr"]

    assert isinstance(outcome, ImageNotSeenError)
    assert "invented page" not in str(outcome)
    assert "--mmproj" in str(outcome)
    assert "Vision mmproj" in str(outcome)
    assert simulator.count() == 1, "asked again, it would be dropped again"


def test_an_unseen_image_leaves_no_text_behind(simulator: KoboldSimulator) -> None:
    simulator.fault(Fault.DROP_IMAGES)
    simulator.brain = ScriptBrain("An invented page, fluent and false.")

    results = list(KoboldReader(api_url=simulator.url, tasks=["ocr"], pages="1").read_pages(LETTER))
    again = list(KoboldReader(api_url=simulator.url, tasks=["ocr"], pages="1").read_pages(LETTER))

    assert [(result.status, result.text, result.readings) for result in results] == [("failed", "", {})]
    assert isinstance(results[0].error, ImageNotSeenError)
    assert results[0].error.page_number == 1
    assert [result.status for result in again] == ["ok"], "a failure is never kept as a reading"


def test_an_image_of_few_tokens_is_still_seen(make_simulator: MakeSimulator, make_engine: MakeEngine) -> None:
    """With M-RoPE a page counts as its longer side in patches, not as their product."""
    wide = make_simulator(brain=ScriptBrain(READ))
    narrow = make_simulator(brain=ScriptBrain(READ), mrope=True)

    all_tokens = reading(make_engine(wide).read(page())["ocr"])
    few_tokens = reading(make_engine(narrow).read(page())["ocr"])

    assert (few_tokens.status, few_tokens.image_verified) == ("ok", True)
    assert few_tokens.prompt_tokens is not None
    assert all_tokens.prompt_tokens is not None
    assert few_tokens.prompt_tokens < all_tokens.prompt_tokens / 2


def test_a_server_without_projector_is_never_asked(make_simulator: MakeSimulator, make_engine: MakeEngine) -> None:
    simulator = make_simulator(vision=False)

    with pytest.raises(NoVisionModelError, match=r"--mmproj FILE \(launcher: \"Vision mmproj\""):
        make_engine(simulator).prepare()
    assert simulator.count() == 0


def test_a_server_that_comes_back_without_projector_is_not_asked_either(
    simulator: KoboldSimulator, make_engine: MakeEngine
) -> None:
    engine = make_engine(simulator)
    assert reading(engine.read(page())["ocr"]).text
    simulator.restart(projector=None)
    simulator.fault(*[Fault.RESET] * 4)  # the lease of before still believes in its eyes; a failure makes it look again

    with pytest.raises(NoVisionModelError):
        engine.read(page())
    assert simulator.count() == 2, "one page, one broken request, and then none"


# ── does it fit? ──────────────────────────────────────────────────────────────────────────────────


def test_a_page_that_does_not_fit_the_context_is_not_sent(
    make_simulator: MakeSimulator, make_engine: MakeEngine
) -> None:
    simulator = make_simulator(context_size=1024)

    outcome = make_engine(simulator).read(page())["ocr"]

    assert isinstance(outcome, ContextTooSmallError)
    assert "1024" in str(outcome)
    assert "--contextsize 8192" in str(outcome)
    assert '(launcher: "Context Size" in "Quick Launch")' in str(outcome)
    assert simulator.count() == 0


def test_the_answer_shrinks_so_that_the_image_is_kept(make_simulator: MakeSimulator, make_engine: MakeEngine) -> None:
    simulator = make_simulator(context_size=2048)

    one = reading(make_engine(simulator).read(page())["ocr"])

    assert one.image_verified is True
    assert one.prompt_tokens is not None
    max_length = generated(simulator)[0]["max_length"]
    assert 256 <= max_length < 2048 - one.prompt_tokens


# ── is it a reading? ──────────────────────────────────────────────────────────────────────────────


def test_an_empty_answer_is_asked_again(simulator: KoboldSimulator, make_engine: MakeEngine) -> None:
    simulator.fault(Fault.EMPTY_TEXT)

    one = reading(make_engine(simulator).read(page())["ocr"])

    assert (one.status, one.attempts) == ("ok", 2)
    temperatures = [body["temperature"] for body in generated(simulator)]
    seeds = [body["sampler_seed"] for body in generated(simulator)]
    assert temperatures[0] < temperatures[1], "another attempt must be able to say something else"
    assert len(set(seeds)) == 2
    assert simulator.encodings == 1


def test_an_inked_page_without_text_is_an_error(simulator: KoboldSimulator, make_engine: MakeEngine) -> None:
    simulator.brain = ScriptBrain(" \n\n \x00")

    outcome = make_engine(simulator).read(page())["ocr"]

    assert isinstance(outcome, EmptyTranscriptionError)
    assert "4 times (ocr)" in str(outcome)
    assert simulator.count() == 4


@pytest.mark.parametrize(
    ("said", "status", "text"), [([NOTHING, NOTHING, READ], "no_text", ""), ([NOTHING, READ], "ok", READ)]
)
def test_a_refusal_is_believed_if_said_twice(
    simulator: KoboldSimulator, make_engine: MakeEngine, said: list[str], status: str, text: str
) -> None:
    simulator.brain = ScriptBrain(said)

    one = reading(make_engine(simulator).read(page())["ocr"])

    assert (one.status, one.text, one.attempts) == (status, text, 2)


def test_a_caption_is_never_no_text(simulator: KoboldSimulator, make_engine: MakeEngine) -> None:
    simulator.brain = ScriptBrain({"Describe": "I cannot see the image.", "": READ})

    outcomes = make_engine(simulator).read(page("ocr", "caption"))

    assert reading(outcomes["ocr"]).text == READ
    assert isinstance(outcomes["caption"], ImageNotSeenError)
    assert "sees no image" in str(outcomes["caption"])


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ("I'm sorry, but I can't assist with that request. Is there anything else?", EmptyTranscriptionError),
        ("I'm unable to view images directly. If you describe it, I'd be happy to help!", ImageNotSeenError),
    ],
)
def test_talk_in_place_of_a_page_is_asked_again_and_never_the_page(
    simulator: KoboldSimulator, make_engine: MakeEngine, answer: str, error: type[Exception]
) -> None:
    simulator.brain = ScriptBrain(answer)
    outcome = make_engine(simulator).read(page())["ocr"]
    assert type(outcome) is error
    assert answer[:40] in str(outcome)
    assert simulator.count() == 4

    simulator.brain = ScriptBrain([answer, READ])
    assert reading(make_engine(simulator).read(page())["ocr"]).text == READ


def test_several_sentences_that_say_there_is_no_text_are_no_text(
    simulator: KoboldSimulator, make_engine: MakeEngine
) -> None:
    simulator.brain = ScriptBrain("The image appears to be a blank page. There is no text visible. Please try another.")
    assert reading(make_engine(simulator).read(page())["ocr"]).status == "no_text"


# ── the server stumbles ───────────────────────────────────────────────────────────────────────────


def test_what_the_pool_tries_again_is_no_attempt_of_the_page(
    simulator: KoboldSimulator, make_engine: MakeEngine
) -> None:
    """How often it tries is in test_kobold_pool.py, what each fault costs a run in test_fault_matrix.py."""
    simulator.fault(Fault.RESET, Fault.BUSY)

    one = reading(make_engine(simulator).read(page())["ocr"])

    assert one.status == "ok"
    assert simulator.count() == 3
    assert one.attempts == 1, "the content was asked for once"


def test_a_reset_while_the_prompt_is_counted_costs_nothing(simulator: KoboldSimulator, make_engine: MakeEngine) -> None:
    left = [Fault.RESET]
    simulator.fault_when = lambda request: left.pop() if request.path.endswith("/tokencount") and left else None

    assert reading(make_engine(simulator).read(page())["ocr"]).status == "ok"
    assert simulator.count("/api/extra/tokencount") == 2


def test_a_page_that_every_request_breaks_off_is_an_error_of_that_page(
    simulator: KoboldSimulator, make_engine: MakeEngine
) -> None:
    engine = make_engine(simulator)
    engine.prepare()
    simulator.fault(*[Fault.RESET] * 8)

    outcomes = engine.read(page("ocr", "caption"))

    assert {task: type(outcome) for task, outcome in outcomes.items()} == {
        "ocr": ServerConnectionError,
        "caption": ServerConnectionError,
    }
    assert simulator.count() == 8, "two leases of four attempts; the second task was not asked on a lost server"
    assert reading(engine.read(page())["ocr"]).status == "ok", "the next page is read"


def test_a_lost_server_hands_its_page_to_the_next_one(make_simulator: MakeSimulator, make_engine: MakeEngine) -> None:
    first, second = make_simulator(), make_simulator()
    engine = make_engine(first, second)
    engine.prepare()
    first.fault_when = lambda request: (
        Fault.RESET if request.path.endswith("/generate") and "Describe" in request.body["prompt"] else None
    )

    outcomes = engine.read(page("ocr", "caption"))

    assert [reading(outcomes[task]).status for task in ("ocr", "caption")] == ["ok", "ok"]
    assert ("Describe" in generated(second)[0]["prompt"], second.count()) == (True, 1), "ocr was kept, not asked again"


def test_a_dead_server_ends_the_run(simulator: KoboldSimulator, make_engine: MakeEngine) -> None:
    engine = make_engine(simulator)
    engine.prepare()
    simulator.stop()

    with pytest.raises(NoServerAvailableError, match="No server can be used"):
        engine.read(page())


def test_a_changed_password_ends_the_run(make_simulator: MakeSimulator, make_engine: MakeEngine) -> None:
    simulator = make_simulator(password="anchor")  # noqa: S106
    engine = make_engine(simulator, password="anchor")  # noqa: S106
    assert reading(engine.read(page())["ocr"]).status == "ok"
    simulator.password = "sail"  # noqa: S105

    with pytest.raises(NoServerAvailableError, match="the password is missing or wrong"):
        engine.read(page())


def test_an_odd_status_is_an_error_of_the_page(simulator: KoboldSimulator, make_engine: MakeEngine) -> None:
    simulator.fault(Fault.reply(500, "out of memory"), None)

    outcomes = make_engine(simulator).read(page("ocr", "caption"))

    assert isinstance(outcomes["ocr"], ServerStatusError)
    assert "out of memory" in str(outcomes["ocr"])
    assert reading(outcomes["caption"]).status == "ok"


def test_a_server_busy_for_ever_is_given_up(
    simulator: KoboldSimulator, make_engine: MakeEngine, waits: list[float]
) -> None:
    engine = make_engine(simulator)
    engine.prepare()
    simulator.fault_when = lambda request: Fault.BUSY if request.path.endswith("/generate") else None

    outcomes = engine.read(page("ocr", "caption"))

    assert isinstance(outcomes["ocr"], ServerBusyError)
    assert outcomes["caption"] is outcomes["ocr"]
    assert "--multiuser" in str(outcomes["ocr"])
    assert 1700 < sum(waits) <= 1800, "half an hour in all, not for every task and lease"


def test_a_page_over_its_time_is_aborted_on_the_server(simulator: KoboldSimulator, make_engine: MakeEngine) -> None:
    engine = make_engine(simulator, page_timeout_s=2.5)
    simulator.fault(Fault.HANG)

    outcomes = engine.read(page("ocr", "caption"))

    assert isinstance(outcomes["ocr"], ServerTimeoutError)
    assert "2.5 s" in str(outcomes["ocr"])
    assert simulator.count("/api/extra/abort") >= 1
    assert simulator.wait_for(lambda: not simulator.running)
    assert reading(outcomes["caption"]).status == "ok", "the same server goes on"
    assert simulator.count() == 2, "the same work would take the same time"


def test_progress_is_told_while_the_server_writes(make_simulator: MakeSimulator, make_engine: MakeEngine) -> None:
    simulator = make_simulator(brain=ScriptBrain(READ))
    simulator.fault(Fault.HANG)
    told: list[tuple[str, int]] = []

    def on_progress(task: str, characters: int) -> None:
        told.append((task, characters))
        simulator.release()

    one = reading(make_engine(simulator).read(page(on_progress=on_progress))["ocr"])

    assert one.text == READ
    assert told[0] == ("ocr", 0)


def test_three_failures_of_the_server_in_a_row_end_the_run(simulator: KoboldSimulator) -> None:
    simulator.fault_when = lambda request: Fault.NULL if request.path.endswith("/generate") else None
    reader = KoboldReader(api_url=simulator.url, tasks=["ocr"])
    results: list[PageResult] = []

    with pytest.raises(NoServerAvailableError, match="3 pages in a row") as caught:
        results.extend(reader.read_pages([LETTER, SAMPLES / "fax"]))

    asked = [(result.page_number, type(result.error)) for result in results if not result.is_due]
    assert asked == [(number, ResponseFormatError) for number in (1, 2, 3)]
    assert [type(result.error) for result in results if result.is_due] == [NoServerAvailableError] * (len(results) - 3)
    assert simulator.count() == 6, "each was asked once more; the fax was not tried"
    assert list(caught.value.errors) == [simulator.url]


# ── servers of other kinds ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("options", [{"chat_template": ""}, {"jinja": True}], ids=["no template", "jinja"])
def test_where_the_servers_template_does_not_count_the_familys_tags_are_used(
    make_simulator: MakeSimulator, make_engine: MakeEngine, options: dict[str, Any]
) -> None:
    simulator = make_simulator(**options)

    one = reading(make_engine(simulator).read(page())["ocr"])

    assert (one.status, one.image_verified) == ("ok", True)
    prompt = generated(simulator)[0]["prompt"]
    assert prompt.startswith("<|im_start|>user\nConvert this page")
    assert prompt.endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert "### Instruction" not in prompt, "what KoboldCpp writes where it knows no template"
    assert "{'type'" not in prompt, "no Python source in the prompt"


def test_a_server_of_2024_reads_but_proves_nothing(
    make_simulator: MakeSimulator, make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DRAWN_BY, lambda _: SEED)
    brain = reads_down_to(10)  # the test card comes first
    simulator = make_simulator(version="1.76", model="MiniCPM-V-2_6-Q4_K_M", projector="resampler", brain=brain)

    one = reading(make_engine(simulator).read(page())["ocr"])

    assert (one.status, one.family, one.server_version) == ("ok", "minicpm-v-2.6", "1.76")
    assert one.image_verified is False
    assert (one.prompt_tokens, one.completion_tokens) == (None, None)
    assert len(simulator.seen[-1].images) == 1
    assert generated(simulator)[0]["prompt"].startswith("<|im_start|>user\n")


def test_a_family_that_the_user_names_brings_its_own_tags(simulator: KoboldSimulator, make_engine: MakeEngine) -> None:
    one = reading(make_engine(simulator, family="gemma-3").read(page())["ocr"])

    assert one.family == "gemma-3"
    assert generated(simulator)[0]["prompt"].startswith("<start_of_turn>user\n")


# ── pages in tiles ────────────────────────────────────────────────────────────────────────────────


def cut_page(*tasks: str, tiles: int = 3, **options: Any) -> PageJob:
    """A page of three parts, the first of them the widest image."""
    whole = page(*tasks)
    parts = []
    for number in range(tiles):
        width_px, top = 330 - 10 * number, number / tiles
        box = (0.0, top, 1.0, top + 1 / tiles)
        lines = (LinePiece(number, (0.1, top + 0.1, 0.9, top + 0.2)),)
        parts.append(PageView(picture(width_px, 200), "image/jpeg", width_px, 200, 90.0, 0, box, lines=lines))
    images = replace(whole.images, tiles=tuple(parts), **options)
    return replace(whole, images=images)


def sent_sizes(simulator: KoboldSimulator) -> list[tuple[int, int]]:
    return [tuple(image["size"]) for body in generated(simulator) for image in body["images"]]


def test_a_cut_page_is_read_in_tiles_and_described_whole(
    make_simulator: MakeSimulator, make_engine: MakeEngine
) -> None:
    simulator = make_simulator(brain=ScriptBrain(["First part.", "Second part.", "Third part.", "A letter."]))
    outcomes = make_engine(simulator).read(cut_page("ocr", "caption"))

    assert sent_sizes(simulator) == [(330, 200), (320, 200), (310, 200), (700, 900)]
    ocr, caption = reading(outcomes["ocr"]), reading(outcomes["caption"])
    assert (ocr.text, ocr.status) == ("First part.\nSecond part.\nThird part.", "ok")
    assert ocr.view_sizes == ((330, 200), (320, 200), (310, 200))
    assert ocr.effective_px == 600, "the page's height, were all of it as large as its tiles"
    assert ocr.attempts == 3
    assert caption.text == "A letter."
    assert caption.view_sizes == ((700, 900),)


def test_a_tile_without_lettering_adds_nothing(make_simulator: MakeSimulator, make_engine: MakeEngine) -> None:
    simulator = make_simulator(brain=ScriptBrain(["First part.", NOTHING, NOTHING, "Third part."]))
    ocr = reading(make_engine(simulator).read(cut_page("ocr"))["ocr"])
    assert (ocr.text, ocr.status) == ("First part.\nThird part.", "ok")


def test_a_tile_that_fails_fails_the_page_and_names_the_part(
    make_simulator: MakeSimulator, make_engine: MakeEngine
) -> None:
    simulator = make_simulator(brain=ScriptBrain(["First part.", "", "", "", "", "A letter."]))
    outcomes = make_engine(simulator).read(cut_page("ocr", "caption"))
    assert isinstance(outcomes["ocr"], EmptyTranscriptionError)
    assert "part 2 of 3 of the page" in str(outcomes["ocr"])
    assert reading(outcomes["caption"]).text == "A letter."


def test_tiles_that_were_read_before_a_server_was_lost_are_not_asked_again(
    make_simulator: MakeSimulator, make_engine: MakeEngine
) -> None:
    simulator = make_simulator(brain=ScriptBrain(["First part.", "Second part.", "Third part."]))
    resets = [Fault(FaultKind.RESET)] * RetryPolicy().attempts
    simulator.fault(None, *resets)
    ocr = reading(make_engine(simulator).read(cut_page("ocr"))["ocr"])
    assert ocr.text == "First part.\nSecond part.\nThird part."
    assert sent_sizes(simulator).count((330, 200)) == 1


def test_progress_counts_on_over_the_tiles(make_simulator: MakeSimulator, make_engine: MakeEngine) -> None:
    simulator = make_simulator(brain=ScriptBrain(["First part, and long.", "Second part.", "Third part."]))
    simulator.fault(None, Fault.HANG)
    told: list[int] = []

    def on_progress(_: str, characters: int) -> None:
        told.append(characters)
        simulator.release()

    make_engine(simulator).read(replace(cut_page("ocr"), on_progress=on_progress))
    assert told
    assert min(told) >= len("First part, and long."), "the second tile goes on where the first ended"


def test_print_that_stays_too_small_is_said(
    simulator: KoboldSimulator, make_engine: MakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    make_engine(simulator).read(cut_page("ocr", is_coarse=True))
    assert "even 3 tiles do not make it as large as it should be" in caplog.text


def test_a_page_too_small_for_the_encoder_goes_out_in_tiles(make_simulator: MakeSimulator) -> None:
    simulator = make_simulator(model="llava-v1.5-7b", projector="mlp")
    (document,) = KoboldReader(api_url=simulator.url, tasks=["ocr"], pages="1", ledger="none").load_data(LETTER)
    sizes = sent_sizes(simulator)
    assert len(sizes) >= 4
    assert all(max(size) <= 336 for size in sizes)
    assert document.text.count("1954/37-b") == len(sizes), "every tile's answer is in the page's text"
