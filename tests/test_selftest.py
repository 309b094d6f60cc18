"""The test card, what is concluded from it, and what is remembered: with a model that is told what the card says."""

from __future__ import annotations

import io
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kobold_reader import KoboldReader
from kobold_reader.doctor import examine
from kobold_reader.errors import (
    ContextTooSmallError,
    ImageNotSeenError,
    KoboldReaderError,
    MissingExtraError,
    NoVisionModelError,
)
from kobold_reader.kobold import KoboldClient, Lease, ServerInfo, ServerPool, choose_family
from kobold_reader.options import ReadOptions
from kobold_reader.pages import ImageBudget, PageImages, PageView
from kobold_reader.pages.testcard import CARD_HEIGHT_PX, CARD_WIDTH_PX, draw_card, draw_probe
from kobold_reader.reading.due import long_side_px
from kobold_reader.reading.koboldcpp import KoboldEngine
from kobold_reader.reading.page_reader import PageJob
from kobold_reader.reading.remembered import Remembered, SelfTestFile
from kobold_reader.reading.results import Reading
from kobold_reader.reading.selftest import SelfTest, self_test, smallest_row, start_of
from tests.card_reader import CARD, DRAWN_BY, SEED, card_text, reads_down_to
from tests.kobold_simulator import Fault, KoboldSimulator, ScriptBrain
from tests.simulator_projectors import PROJECTORS

Simulators = Callable[..., KoboldSimulator]


@pytest.fixture(autouse=True)
def known_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """The card of this seed is the one that is shown."""
    monkeypatch.setattr(DRAWN_BY, lambda _: SEED)


def on_server(simulator: KoboldSimulator, call: Callable[[Lease], Any]) -> Any:
    with ServerPool([simulator.url]) as pool, pool.lease() as lease:
        return call(lease)


def examined(simulator: KoboldSimulator) -> SelfTest:
    result = on_server(simulator, lambda lease: self_test(lease, choose_family(lease.info)))
    assert isinstance(result, SelfTest)
    return result


# ── the card ──────────────────────────────────────────────────────────────────────────────────────


def test_a_card_is_new_for_every_seed_and_the_same_for_one() -> None:
    assert draw_card(SEED) == CARD
    other = draw_card(SEED + 1)
    assert other.image != CARD.image
    texts = [text for row in CARD.rows for text in row.texts]
    assert len(set(texts)) == len(texts), "each stands on the card once"
    numbers = {text for text in texts if text.isdecimal()}
    assert not numbers & {text for row in other.rows for text in row.texts}, "numbers cannot be guessed"


@pytest.mark.parametrize("seed", range(12))
def test_all_of_the_card_is_inside_its_margins(seed: int) -> None:
    card = draw_card(seed)
    with Image.open(io.BytesIO(card.image)) as picture:
        assert (picture.size, picture.mode, picture.format) == ((CARD_WIDTH_PX, CARD_HEIGHT_PX), "L", "PNG")
        box = picture.point(lambda value: 255 * (value < 128)).getbbox()
    assert box is not None
    assert min(box[0], box[1], CARD_WIDTH_PX - box[2], CARD_HEIGHT_PX - box[3]) > 25
    sizes = [row.size_pt for row in card.rows]
    assert sizes == sorted(sizes, reverse=True)


def test_letters_are_as_high_as_is_said() -> None:
    """The first letter of the card, where it is a flat one without ascender, measured on the drawing."""
    cards = (draw_card(seed) for seed in range(100))
    card = next(card for card in cards if card.rows[0].texts[0][0] in "vwxz")
    with Image.open(io.BytesIO(card.image)) as picture:
        ink: Any = np.asarray(picture) < 128
    line = ink[: first_gap(ink.any(axis=1))]
    letter: Any = line[:, : first_gap(line.any(axis=0))]
    rows = np.flatnonzero(letter.any(axis=1))
    assert rows[-1] + 1 - rows[0] == pytest.approx(card.rows[0].letter_px, rel=0.04)


def first_gap(has_ink: Any) -> int:
    """Where the first stretch of ink ends."""
    start = int(has_ink.argmax())
    return start + int(has_ink[start:].argmin())


def test_drawing_imports_pillow_only_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL._imagingft", None)
    monkeypatch.setattr("PIL.ImageFont.core", type("None", (), {"__getattr__": _no_freetype})())
    with pytest.raises(MissingExtraError, match="FreeType"):
        draw_card(1)


def _no_freetype(*_: object) -> object:
    raise ImportError("The _imagingft C module is not installed")


# ── what came back ────────────────────────────────────────────────────────────────────────────────


def test_the_smallest_row_read_counts() -> None:
    assert smallest_row(CARD, card_text(9)) == next(row for row in CARD.rows if row.size_pt == 9)
    assert smallest_row(CARD, card_text(4)) == CARD.rows[-1]
    assert smallest_row(CARD, card_text(200)) is None
    assert smallest_row(CARD, "A white page with words such as amber and zebra in several sizes.") is None


def test_layout_and_one_misread_row_do_not_matter() -> None:
    one_line = card_text(10).upper().replace("\n", " | ").replace(" ", "**")
    row = smallest_row(CARD, one_line)
    assert row is not None
    assert row.size_pt == 10
    lines = card_text(8).splitlines()
    lines[4] = "misread 0000"
    row = smallest_row(CARD, "\n".join(lines))
    assert row is not None
    assert row.size_pt == 8
    lines[5] = "misread 1111"
    row = smallest_row(CARD, "\n".join(lines))
    assert row is not None
    assert row == CARD.rows[3], "two rows in a row are the end of its eyesight"


# ── the limit of the server ───────────────────────────────────────────────────────────────────────


@pytest.mark.slow
@pytest.mark.parametrize("mrope", [False, True])
@pytest.mark.parametrize(
    ("limit_px", "told_px"),
    [(512, 512), (768, 768), (1024, 1024), (1280, 1280), (1536, 1536), (1700, 1792), (2048, 2048)],
)
def test_visionmaxres_is_told_by_token_counts(
    make_simulator: Simulators, limit_px: int, told_px: int, mrope: bool
) -> None:
    simulator = make_simulator(visionmaxres=limit_px, mrope=mrope, brain=reads_down_to(8))
    found = examined(simulator)
    assert found.visionmaxres_px == told_px
    assert simulator.count() <= 6, "a self-test costs some seconds, not minutes"


@pytest.mark.slow
@pytest.mark.parametrize("limit_px", [768, 1024, 1536, 2048])
def test_visionmaxres_is_told_where_images_come_in_slices(make_simulator: Simulators, limit_px: int) -> None:
    simulator = make_simulator(
        model="MiniCPM-V-2_6-Q4_K_M", projector="resampler", visionmaxres=limit_px, brain=reads_down_to(8)
    )
    assert examined(simulator).visionmaxres_px == limit_px


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "projector", "requests"),
    [("llava-v1.5-7b", "mlp", 1), ("gemma-3-12b-it", "gemma3", 1), ("foo", "mlp", 6)],
)
def test_where_counts_tell_nothing_it_is_said(
    make_simulator: Simulators, model: str, projector: str, requests: int
) -> None:
    simulator = make_simulator(model=model, projector=projector, brain=reads_down_to(18))
    found = examined(simulator)
    assert (found.visionmaxres_px, found.is_counted) == (None, True)
    assert (found.letter_px is None) is (model == "foo"), "an unknown encoder's size is not known"
    assert simulator.count() == requests


def test_letters_are_measured_where_they_reach_the_encoder(make_simulator: Simulators) -> None:
    found = examined(make_simulator(visionmaxres=1024, brain=reads_down_to(10)))
    assert found.smallest is not None
    assert found.smallest.size_pt == 10
    assert found.letter_px == pytest.approx(found.smallest.letter_px / 2, abs=0.1)
    assert not found.is_smallest_of_card


# ── a small context ───────────────────────────────────────────────────────────────────────────────


def a4_page(budget: ImageBudget) -> PageJob:
    """A blank scan of an A4 page as large as such pages are sent."""
    long_px = long_side_px(210, 297, budget.max_side_px, budget.max_pixels)
    width_px = round(long_px * 210 / 297)
    view = PageView(draw_probe(width_px, long_px), "image/png", width_px, long_px, None, 0)
    return PageJob("file:///a.pdf", 1, ("ocr",), PageImages(views=(view,), is_blank=False))


MODELS = {
    "mlp": "llava-v1.5-7b",
    "mlp-384": "bunny-phi-3",
    "mlp-grid": "llava-v1.6-vicuna-7b",
    "mlp-grid-384": "granite-vision-3.2-2b",
    "ldp": "MobileVLM-1.7B",
    "ldpv2": "MobileVLM_V2-1.7B",
    "resampler": "MiniCPM-V-2_6-Q4_K_M",
    "resampler-2.5": "MiniCPM-Llama3-V-2_5",
    "qwen2vl": "Qwen2.5-VL-7B-Instruct-Q4_K_M",
    "qwen3vl": "Qwen3-VL-8B-Instruct",
    "gemma3": "gemma-3-12b-it",
    "gemma4": "gemma-4-E4B-it",
    "pixtral": "pixtral-12b",
    "mistral3": "Mistral-Small-3.2-24B-Instruct",
    "lightonocr": "LightOnOCR-1B",
    "internvl": "InternVL3-8B",
    "idefics3": "SmolVLM-Instruct",
    "idefics3-384": "SmolVLM-Instruct",
    "lfm2": "LFM2-VL-1.6B",
    "glm4v": "GLM-4.1V-9B-Thinking",
    "paddleocr": "PaddleOCR-VL",
    "dots_ocr": "dots.ocr",
    "deepseekocr": "DeepSeek-OCR",
}
"""By projector: a model of the family whose files have it."""
CONTEXTS = (1024, 1536, 2048, 3072, 4096, 8192, 16384)
QUICK = {("qwen2vl", 1024), ("qwen2vl", 2048), ("mlp", 1024), ("mlp-grid", 2048), ("gemma3", 1024), ("resampler", 2048)}


def test_all_projectors_are_tried() -> None:
    assert set(MODELS) == set(PROJECTORS)


@pytest.mark.slow
@pytest.mark.parametrize("visionmaxres", [1024, 2048])
@pytest.mark.parametrize(
    ("projector", "context"),
    [
        pytest.param(*case, marks=() if case in QUICK else pytest.mark.thorough)
        for case in itertools.product(MODELS, CONTEXTS)
    ],
)
def test_the_doctor_does_not_contradict_a_run(
    make_simulator: Simulators,
    engine_for: Callable[..., KoboldEngine],
    projector: str,
    context: int,
    visionmaxres: int,
) -> None:
    """What the doctor says cannot be read cannot be read; all else is read, before the self-test and after it."""
    options: dict[str, Any] = {"projector": projector, "context_size": context, "visionmaxres": visionmaxres}
    simulator = make_simulator(model=MODELS[projector], brain=reads_down_to(10), **options)
    before = read_a4(engine_for(simulator))

    findings = {finding.about: finding for finding in examine([simulator.url], None, None, None) if finding.server}
    cannot = [about for about, finding in findings.items() if finding.level == "problem"]
    fails = bool(cannot) or "it fails by name" in findings["context"].text

    outcome = read_a4(engine_for(simulator))
    assert isinstance(outcome, ContextTooSmallError if fails else Reading), [
        finding.text for finding in findings.values()
    ]
    assert type(outcome) is type(before), "the self-test takes no page away"
    assert ("self-test" in cannot) is ("context" in cannot)
    if not cannot:
        assert findings["self-test"].values["smallest_pt"]


def read_a4(engine: KoboldEngine) -> object:
    return engine.read(a4_page(engine.prepare().budget))["ocr"]


@pytest.mark.parametrize(("limit_px", "sent_px"), [(1024, 1024), (1280, 1024), (2048, 1024)])
def test_a_limit_above_the_default_is_used_as_far_as_the_context_has_room(
    make_simulator: Simulators, engine_for: Callable[..., KoboldEngine], limit_px: int, sent_px: int
) -> None:
    """An A4 page of 1280 px is 1,550 tokens: of 2,048 that would leave a quarter of a page of text."""
    simulator = make_simulator(context_size=2048, visionmaxres=limit_px, brain=reads_down_to(10))
    found = examined(simulator)
    assert found.card_px == 1024
    assert found.is_counted
    assert engine_for(simulator).prepare().budget.max_side_px == sent_px


def test_the_limit_of_a_server_whose_context_is_small_is_measured(make_simulator: Simulators) -> None:
    """The card as drawn is counted as 2,080 tokens, and the server lets 1,024 px through: 1,000 of them."""
    found = examined(make_simulator(context_size=2048, visionmaxres=1024, brain=reads_down_to(10)))
    assert found.smallest is not None
    assert found.smallest.size_pt == 10
    assert (found.visionmaxres_px, found.has_dropped_sheets) == (1024, False)
    unknown = examined(make_simulator(context_size=2048, visionmaxres=2048, brain=reads_down_to(10)))
    assert (unknown.visionmaxres_px, unknown.has_dropped_sheets) == (None, True)


def test_an_answer_cut_for_want_of_room_is_said(make_simulator: Simulators) -> None:
    long_words = {f" {text}": 9 for row in CARD.rows for text in row.texts}
    simulator = make_simulator(context_size=1024, brain=reads_down_to(4), token_counts=long_words)
    found = examined(simulator)
    assert found.is_cut
    assert found.smallest is not None
    assert not found.is_smallest_of_card


# ── a server that does not see ────────────────────────────────────────────────────────────────────


def test_a_dropped_card_is_an_error(make_simulator: Simulators) -> None:
    simulator = make_simulator(brain=reads_down_to(8))
    simulator.fault(Fault.DROP_IMAGES)
    with pytest.raises(ImageNotSeenError, match="did not see the test card"):
        examined(simulator)
    with pytest.raises(ContextTooSmallError, match="too small for the test card"):
        examined(make_simulator(context_size=400))


def test_a_model_that_invents_reads_nothing(make_simulator: Simulators) -> None:
    simulator = make_simulator(brain=ScriptBrain("Invoice 2024, total 1234. Amber, badge and zebra."))
    found = examined(simulator)
    assert (found.smallest, found.is_counted) == (None, True)
    assert simulator.count() == 5, "asked twice, then its limit is measured"


def test_a_first_word_that_leads_astray_costs_a_second_try(make_simulator: Simulators) -> None:
    simulator = make_simulator(
        model="llava-v1.5-7b", projector="mlp", brain=ScriptBrain(["I am sorry.", card_text(24)])
    )
    found = examined(simulator)
    assert found.smallest is not None
    assert found.smallest.size_pt == 24


# ── what is remembered ────────────────────────────────────────────────────────────────────────────


def job() -> PageJob:
    image = draw_probe(600, 800)
    view = PageView(image, "image/png", 600, 800, None, 0)
    return PageJob("file:///a.pdf", 1, ("ocr",), PageImages(views=(view,), is_blank=False))


@pytest.fixture
def engine_for() -> Iterator[Callable[..., KoboldEngine]]:
    engines: list[KoboldEngine] = []

    def make(simulator: KoboldSimulator, **options: Any) -> KoboldEngine:
        engines.append(KoboldEngine(ServerPool([simulator.url]), ReadOptions(**options)))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


@pytest.mark.slow
def test_what_was_found_out_is_used(make_simulator: Simulators, engine_for: Callable[..., KoboldEngine]) -> None:
    simulator = make_simulator(visionmaxres=2048, brain=reads_down_to(8))
    assert engine_for(simulator).prepare().budget.max_side_px == 1024, "KoboldCpp's default"
    examined(simulator)
    assert engine_for(simulator).prepare().budget.max_side_px == 2048, "the self-test's"
    assert engine_for(simulator, visionmaxres=512).prepare().budget.max_side_px == 512, "the user knows best"


@pytest.mark.slow
def test_a_server_that_was_started_anew_is_another(
    make_simulator: Simulators, engine_for: Callable[..., KoboldEngine]
) -> None:
    simulator = make_simulator(visionmaxres=2048, brain=reads_down_to(8))
    simulator.started_at -= 600
    started = simulator.started_at
    examined(simulator)
    assert engine_for(simulator).prepare().budget.max_side_px == 2048
    simulator.restart(visionmaxres=1024)
    assert engine_for(simulator).prepare().budget.max_side_px == 1024
    simulator.started_at = started + 1
    assert engine_for(simulator).prepare().budget.max_side_px == 2048, (
        "started when that one was, as far as can be told"
    )
    simulator.model_name = "koboldcpp/Qwen2.5-VL-32B"
    assert engine_for(simulator).prepare().budget.max_side_px == 1024, "another model"


def test_clocks_may_drift_apart() -> None:
    info = ServerInfo("http://a", "m", "1.115", True, False, False, False, None, 8192, "")
    found = Remembered("m", "1.115", 1_000.0, 2_000.0, True, 1024, 1024)
    assert found.holds_for(info, 1_002.0, 1_010.0)
    assert not found.holds_for(info, 1_010.0, 1_020.0)
    month_s = 30 * 86_400
    assert found.holds_for(info, 1_100.0, 1_000 + month_s)
    assert not found.holds_for(info, None, 1_000.0)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "\0\0\0",
        '{"format": 1}',
        '{"format": 2, "servers": {}}',
        '{"format": 1, "servers": {"loopback:5001": {"model": "m"}}}',
        '{"format": 1, "servers": {"loopback:5001": [1]}}',
    ],
)
def test_an_unreadable_file_is_ignored_and_written_anew(tmp_path: Path, content: str) -> None:
    file = SelfTestFile(tmp_path / "data" / "self-tests.json")
    file.path.parent.mkdir()
    file.path.write_text(content, encoding="utf-8")
    assert file.find("http://127.0.0.1:5001") is None
    found = Remembered("m", "1.115", 1.5, 2.0, True, 2048, 896, None, 8, 4.5)
    file.put("http://localhost:5001", found)
    file.put("http://10.0.0.2:5001", found)
    assert file.find("http://127.0.0.1:5001/api") == found, "however the server is spelled"
    assert len(json.loads(file.path.read_text(encoding="utf-8"))["servers"]) == 2
    assert {path.name for path in file.path.parent.iterdir()} <= {"self-tests.json", "self-tests.lock"}


def test_values_of_another_kind_are_not_believed(tmp_path: Path) -> None:
    file = SelfTestFile(tmp_path / "self-tests.json")
    file.put("http://a", Remembered("m", "1", 1.5, 2.0, True, 2048, 896))
    text = file.path.read_text(encoding="utf-8")
    file.path.write_text(text.replace("2048", '"2048"'), encoding="utf-8")
    assert file.find("http://a") is None


def test_a_folder_that_cannot_be_written_costs_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "data").write_text("a file, no folder")
    SelfTestFile(tmp_path / "data" / "self-tests.json").put("http://a", Remembered("m", "1", 1, 2, True, None, 896))
    assert "could not be kept" in caplog.text


def test_a_server_without_an_uptime_is_never_recognised(make_simulator: Simulators) -> None:
    simulator = make_simulator()
    simulator.fault_when = lambda request: Fault.HTML if request.path.endswith("/perf") else None
    assert start_of(KoboldClient(simulator.url)) is None


# ── before 1.77 nothing is counted ────────────────────────────────────────────────────────────────


def old(make: Simulators, **options: Any) -> KoboldSimulator:
    options.setdefault("brain", reads_down_to(10))
    return make(version="1.76", model="MiniCPM-V-2_6-Q4_K_M", projector="resampler", **options)


@pytest.mark.slow
def test_vision_is_proved_once_per_start(make_simulator: Simulators, engine_for: Callable[..., KoboldEngine]) -> None:
    simulator = old(make_simulator)
    engine = engine_for(simulator)
    for _ in range(2):
        reading = engine.read(job())["ocr"]
        assert isinstance(reading, Reading)
        assert reading.image_verified is False
    assert simulator.count() == 3, "the card, and the page twice"
    engine_for(simulator).read(job())
    assert simulator.count() == 4, "remembered by the next run"
    simulator.started_at -= 600
    engine_for(simulator).read(job())
    assert simulator.count() == 6, "another start of the server"


@pytest.mark.slow
def test_what_was_not_proved_is_in_the_metadata(make_simulator: Simulators, tmp_path: Path) -> None:
    """1.76 can drop an image without a word: `ok` says less there. Nothing is said where the counts prove it."""
    page = tmp_path / "page.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (300, 220), dtype=np.uint8)).save(page)
    for simulator, said in ((old(make_simulator), False), (make_simulator(brain=reads_down_to(10)), None)):
        with KoboldReader(api_url=simulator.url, ledger="none", tasks=["ocr", "caption"]) as reader:
            documents = reader.load_data(page)
        assert [document.metadata["page_status"] for document in documents] == ["ok"]
        assert [document.metadata.get("image_verified") for document in documents] == [said]


@pytest.mark.slow
def test_a_card_that_was_not_read_is_remembered(
    make_simulator: Simulators, engine_for: Callable[..., KoboldEngine]
) -> None:
    simulator = old(make_simulator, brain=ScriptBrain("A letter to Axel Lindqvist, 1954."))
    for _ in range(2):
        with pytest.raises(NoVisionModelError, match=r"only `kobold-reader doctor` shows it another card"):
            engine_for(simulator).read(job())
    assert simulator.count() == 2, "the card, twice, by the first run"
    with pytest.raises(NoVisionModelError):
        engine_for(simulator, family="llava-1.5").read(job())
    assert simulator.count() == 4, "another family has other tags and another prompt"
    simulator.brain = reads_down_to(10)
    assert examined(simulator).smallest is not None
    assert isinstance(engine_for(simulator).read(job())["ocr"], Reading), "the doctor showed another card"


@pytest.mark.slow
def test_a_server_that_was_never_seen_to_see_ends_the_run(
    make_simulator: Simulators, engine_for: Callable[..., KoboldEngine]
) -> None:
    simulator = old(make_simulator, brain=ScriptBrain("A letter to Axel Lindqvist, 1954."))
    with pytest.raises(NoVisionModelError, match="not one word of a test card came back") as caught:
        engine_for(simulator).read(job())
    assert "--mmproj" in str(caught.value)
    assert simulator.count() == 2, "no page was sent"
    with pytest.raises(NoVisionModelError):
        engine_for(simulator).read(job())


def test_a_card_that_cannot_be_shown_is_the_pages_error(
    make_simulator: Simulators, engine_for: Callable[..., KoboldEngine]
) -> None:
    engine = engine_for(old(make_simulator, context_size=380))
    outcome = engine.read(job())["ocr"]
    assert isinstance(outcome, KoboldReaderError)
    assert "too small for the test card" in str(outcome)
