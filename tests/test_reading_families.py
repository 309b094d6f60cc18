"""Every family driven through the engine, against a KoboldCpp with its projector, its template and its limits.

The templates, encoders and sizes below are the makers' and KoboldCpp's, written down a second time, not taken from the
table they check.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymupdf
import pytest
from PIL import Image

from kobold_reader import KoboldReader
from kobold_reader.errors import ConfigError, ImageNotSeenError
from kobold_reader.kobold import FAMILIES, ServerPool, image_tokens
from kobold_reader.options import ReadOptions
from kobold_reader.pages import ImageBudget, PageImages, PageView
from kobold_reader.reading.koboldcpp import KoboldEngine
from kobold_reader.reading.page_reader import PageJob
from kobold_reader.reading.results import Reading
from tests.card_reader import DRAWN_BY, SEED, card_text
from tests.conftest import LETTER
from tests.kobold_simulator import CHATML_TEMPLATE, Fault, FaultKind, KoboldSimulator, ScriptBrain
from tests.simulator_projectors import Projector

pytestmark = pytest.mark.slow

MakeSimulator = Callable[..., KoboldSimulator]
MakeEngine = Callable[..., KoboldEngine]

READ = "Dear Axel, the slates came on Tuesday."

# What the files of the models hold under tokenizer.chat_template, as far as KoboldCpp looks at it.
NO_TEMPLATE = ""
CHATML = CHATML_TEMPLATE
LLAMA_3 = "{{ content }}<|eot_id|>{% if add %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
MISTRAL = "{{ bos }}[INST] {{ content }} [/INST]"
TEKKEN = "[SYSTEM_PROMPT]{{ system }}[/SYSTEM_PROMPT][INST]{{ content }}[IMG][/INST]"
PHI_3 = "{{ '<|user|>' + content + '<|end|>' + '<|assistant|>' }}"
GEMMA_3 = "<start_of_turn>{{ role }}<start_of_image>{{ content }}<end_of_turn>"
GEMMA_4 = "<|turn>{{ role }}<turn|><|turn>model<|think|>"
GEMMA_4_LARGE = GEMMA_4 + r"<|channel>thought\n<channel|>"
SMOLVLM = "<|im_start|>{{ role }}: {{ content }}<end_of_utterance>\nAssistant:"
GLM_4 = "[gMASK]<sop><|system|><|user|>{{ content.split('</think>') }}<|begin_of_image|>"
GRANITE = "<|system|>\n<|user|>\n{{ content }}\n<|assistant|>\n"
DOTS = "<|system|>{{ s }}<|endofsystem|><|user|><|imgpad|>{{ content }}<|endofuser|><|assistant|>"
PADDLE = "User: {{ content }}\nAssistant:\n"

CURIOUS = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)
AS_VICUNA = "USER: {}\nASSISTANT:"
AS_BUNNY = f"{CURIOUS} USER: {{}} ASSISTANT:"
AS_CHATML = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
AS_LLAMA_3 = "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
AS_PHI_3 = "<|user|>\n{}<|end|>\n<|assistant|>\n"
AS_GEMMA_3 = "<start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n"
AS_GEMMA_4 = "<|turn>user\n{}<turn|>\n<|turn>model\n"
THOUGHTLESS = "<think>\n\n</think>\n\n"


@dataclass(frozen=True)
class Driven:
    """One model as people run it, and what must come of a page in A4."""

    family: str
    model: str
    projector: str
    view: tuple[int, int]
    """What reaches the encoder, tiles put together."""
    prompt: str
    chat_template: str = NO_TEMPLATE
    mrope: bool = False


GUIDE = (
    Driven("llava-phi-3-mini", "llava-phi-3-mini-int4", "mlp", (336, 336), AS_PHI_3, PHI_3),
    Driven("llava-llama-3", "llava-llama-3-8b-v1_1-int4", "mlp", (336, 336), AS_LLAMA_3, LLAMA_3),
    Driven("llava-1.5", "ggml_llava-v1.5-7b-q4_k", "mlp", (336, 336), AS_VICUNA),
    Driven("llava-1.5-mistral", "bakllava-1-q4_k", "mlp", (336, 336), AS_VICUNA),
    Driven("llava-phi-2", "llava-phi-2-3b.Q4_K_M", "mlp", (336, 336), AS_VICUNA),
    Driven("llama-3.1-unhinged-vision", "Llama-3.1-Unhinged-Vision-8B-q8_0", "mlp", (336, 336), AS_LLAMA_3, LLAMA_3),
    Driven("llava-1.6-34b", "llava-v1.6-34b.Q4_K_M", "mlp-grid", (672, 672), AS_CHATML),
    Driven("llava-1.6-vicuna", "llava-v1.6-vicuna-13b.Q5_K_M", "mlp-grid", (672, 672), AS_VICUNA),
    Driven("llava-1.6-mistral", "llava-v1.6-mistral-7b.Q4_K_M", "mlp-grid", (672, 672), "[INST] {} [/INST]"),
    Driven("llava-1.6-llama-3", "llama3-llava-next-8b-Q4_K_M", "mlp-grid", (672, 672), AS_LLAMA_3, LLAMA_3),
    Driven("llava-next-video-mistral", "LLaVA-NeXT-Video-7B-Mistral", "mlp-grid", (672, 672), "[INST] {} [/INST]"),
    Driven("mobilevlm", "MobileVLM-1.7B-q4_k", "ldp", (336, 336), AS_VICUNA),
    Driven("mobilevlm-v2", "mobilevlm_v2-1.7b-q4_k", "ldpv2", (336, 336), AS_VICUNA),
    Driven("minicpm-v-2.5", "MiniCPM-Llama3-V-2_5-Q4_K_M", "resampler-2.5", (1130, 1598), AS_LLAMA_3, LLAMA_3),
    Driven("minicpm-v-2.6", "MiniCPM-V-2_6-Q4_K_M", "resampler", (1130, 1598), AS_CHATML, CHATML),
    Driven("sharegpt4v", "ShareGPT4V-7B-Q4_K_M", "mlp", (336, 336), AS_VICUNA),
    Driven("bunny-phi-3", "Bunny-v1_0-4B-Q4_K_S", "mlp-384", (384, 384), AS_BUNNY, PHI_3),
    Driven("bunny-llama-3", "Bunny-Llama-3-8B-V-Q4_K_M", "mlp-384", (384, 384), AS_BUNNY, LLAMA_3),
)
TODAY = (
    Driven("qwen2-vl", "Qwen2-VL-7B-Instruct-Q4_K_M", "qwen2vl", (1064, 1484), AS_CHATML, CHATML, mrope=True),
    Driven("qwen2.5-vl", "Qwen2.5-VL-7B-Instruct-Q4_K_M", "qwen2vl", (1064, 1484), AS_CHATML, CHATML, mrope=True),
    Driven("qwen3-vl", "Qwen3-VL-8B-Instruct-Q4_K_M", "qwen3vl", (1216, 1696), AS_CHATML, CHATML, mrope=True),
    Driven(
        *("qwen3-vl-thinking", "Qwen3-VL-8B-Thinking-Q4_K_M", "qwen3vl", (1216, 1696)),
        *(AS_CHATML + THOUGHTLESS, CHATML),
        mrope=True,
    ),
    Driven("qwen3.5", "Qwen3.5-9B-Q4_K_M", "qwen3vl", (1216, 1696), AS_CHATML + THOUGHTLESS, CHATML, mrope=True),
    Driven("qwen-vl", "my-qwen-vl-tune", "qwen2vl", (1064, 1484), AS_CHATML, CHATML, mrope=True),
    Driven("gemma-3", "gemma-3-12b-it-Q4_K_M", "gemma3", (896, 896), AS_GEMMA_3, GEMMA_3),
    Driven("gemma-4", "gemma-4-E4B-it-Q4_K_M", "gemma4", (672, 960), AS_GEMMA_4, GEMMA_4),
    Driven(
        *("gemma-4-large", "gemma-4-31B-it-Q4_K_M", "gemma4", (672, 960)),
        *(AS_GEMMA_4 + "<|channel>thought\n<channel|>", GEMMA_4_LARGE),
    ),
    Driven("internvl-2.5", "InternVL2_5-8B-Q4_K_M", "internvl", (896, 1344), AS_CHATML, CHATML),
    Driven("internvl-3", "InternVL3-8B-Instruct-Q4_K_M", "internvl", (896, 1344), AS_CHATML, CHATML),
    Driven("internvl-3.5", "InternVL3_5-8B-Q4_K_M", "internvl", (896, 1344), AS_CHATML, CHATML),
    Driven("pixtral", "pixtral-12b-Q4_K_M", "pixtral", (416, 608), "[INST] {}[/INST]", MISTRAL),
    Driven(
        *("mistral-small-3", "Mistral-Small-3.2-24B-Instruct-2506-Q4_K_M", "mistral3", (728, 1064)),
        *("[INST]{}[/INST]", TEKKEN),
    ),
    Driven("minicpm-v-4", "MiniCPM-V-4-Q4_K_M", "resampler", (1130, 1598), AS_CHATML, CHATML),
    Driven("minicpm-v-4.5", "MiniCPM-V-4_5-Q4_K_M", "resampler", (1130, 1598), AS_CHATML + THOUGHTLESS, CHATML),
    Driven(
        *("smolvlm", "SmolVLM2-500M-Instruct-Q8_0", "idefics3", (1536, 2048)),
        *("<|im_start|>User: {}<end_of_utterance>\nAssistant:", SMOLVLM),
    ),
    Driven("lfm2-vl", "LFM2-VL-1.6B-Q8_0", "lfm2", (416, 608), AS_CHATML, CHATML),
    Driven(
        *("glm-4v", "GLM-4.6V-Flash-Q4_K_M", "glm4v", (1456, 2044)),
        *("[gMASK]<sop> <|user|>\n{}/nothink<|assistant|>\n<think></think>", GLM_4),
        mrope=True,
    ),
    Driven(
        *("granite-vision", "granite-vision-3.3-2b-Q8_0", "mlp-grid-384", (1152, 1152)),
        *(f"<|system|>\n{CURIOUS}\n<|user|>\n{{}}\n<|assistant|>\n", GRANITE),
    ),
    Driven("olmocr-2", "olmOCR-2-7B-1025-Q4_K_M", "qwen2vl", (924, 1288), AS_CHATML, CHATML, mrope=True),
    Driven("rolmocr", "RolmOCR.Q4_K_M", "qwen2vl", (728, 1036), AS_CHATML, CHATML, mrope=True),
    Driven("nanonets-ocr-s", "Nanonets-OCR-s-Q8_0", "qwen2vl", (728, 1036), AS_CHATML, CHATML, mrope=True),
    Driven("nanonets-ocr2", "Nanonets-OCR2-3B-Q4_K_M", "qwen2vl", (1064, 1484), AS_CHATML, CHATML, mrope=True),
    Driven("deepseek-ocr", "DeepSeek-OCR-Q8_0", "deepseekocr", (1280, 1280), "{}"),
    Driven(
        *("glm-ocr", "GLM-OCR-Q8_0", "glm4v", (1456, 2044)),
        *("[gMASK]<sop> <|user|>\n{}<|assistant|>\n", GLM_4),
        mrope=True,
    ),
    Driven(
        *("lightonocr", "LightOnOCR-2-1B-Q8_0", "lightonocr", (1092, 1540)),
        *("<|im_start|>system<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n", CHATML),
    ),
    Driven(
        *("paddleocr-vl", "PaddleOCR-VL-1.5-Q8_0", "paddleocr", (840, 1176)),
        *("User: {}\nAssistant:\n", PADDLE),
        mrope=True,
    ),
    Driven(
        *("dots.ocr", "dots.ocr-Q8_0", "dots_ocr", (1456, 2044)),
        *("<|user|>{}<|endofuser|><|assistant|>", DOTS),
    ),
)
DRIVEN = (*GUIDE, *TODAY)


def a4(budget: ImageBudget) -> PageView:
    """A page in A4 of the largest size that the budget allows."""
    scale = budget.max_side_px / 297
    if budget.max_pixels:
        scale = min(scale, math.sqrt(budget.max_pixels / (210 * 297)))
    width_px, height_px = int(210 * scale), int(297 * scale)
    data = io.BytesIO()
    Image.new("L", (width_px, height_px), 240).save(data, "JPEG")
    return PageView(data.getvalue(), "image/jpeg", width_px, height_px, scale * 25.4, 0)


@pytest.fixture
def make_engine(tmp_path: Path) -> Iterator[MakeEngine]:
    engines: list[KoboldEngine] = []

    def make(server: KoboldSimulator, **options: Any) -> KoboldEngine:
        pool = ServerPool([server.url], lock_dir=tmp_path / "locks")
        engines.append(KoboldEngine(pool, ReadOptions(visionmaxres=server.visionmaxres, **options)))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


def job(engine: KoboldEngine, *tasks: str) -> PageJob:
    view = a4(engine.prepare().budget)
    return PageJob("file:///letter.pdf", 1, tasks, PageImages(views=(view,), is_blank=False))


@pytest.mark.parametrize("driven", DRIVEN, ids=lambda driven: driven.family)
def test_a_page_is_read_at_the_encoders_resolution(
    driven: Driven, make_simulator: MakeSimulator, make_engine: MakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    server = make_simulator(
        model=driven.model,
        projector=driven.projector,
        chat_template=driven.chat_template,
        mrope=driven.mrope,
        visionmaxres=2048,
        brain=ScriptBrain(READ),
    )
    engine = make_engine(server)
    family = FAMILIES[driven.family]
    facts = engine.prepare()
    assert facts.family == driven.family
    assert facts.tasks == family.tasks
    page = job(engine, "ocr")
    outcome = engine.read(page)["ocr"]
    assert isinstance(outcome, Reading), outcome
    # Text comes back, from an image that was seen …
    assert outcome.text == READ
    assert outcome.status == "ok"
    assert outcome.image_verified
    # … through the maker's template, with the maker's words …
    (seen,) = server.seen
    assert seen.prompt == driven.prompt.format(family.prompts["ocr"])
    # … at the size the encoder works at, within the tokens that were reckoned with.
    (pixels,) = seen.images
    assert pixels.size == driven.view
    view = page.images.views[0]
    taken = Projector(driven.projector).tokens(pixels)
    assert taken <= image_tokens(family, view.width_px, view.height_px)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize("driven", DRIVEN, ids=lambda driven: driven.family)
def test_no_family_is_believed_without_an_image(
    driven: Driven, make_simulator: MakeSimulator, make_engine: MakeEngine
) -> None:
    server = make_simulator(
        model=driven.model,
        projector=driven.projector,
        chat_template=driven.chat_template,
        mrope=driven.mrope,
        brain=ScriptBrain(READ),
    )
    server.fault_when = lambda _: Fault(FaultKind.DROP_IMAGES)
    engine = make_engine(server)
    assert isinstance(engine.read(job(engine, "ocr"))["ocr"], ImageNotSeenError)


@pytest.mark.parametrize("driven", GUIDE, ids=lambda driven: driven.family)
def test_the_guides_models_are_read_by_1_76(
    driven: Driven, make_simulator: MakeSimulator, make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DRAWN_BY, lambda _limit: SEED)  # the card that proves vision there
    server = make_simulator(
        model=driven.model,
        projector=driven.projector,
        version="1.76",
        visionmaxres=2048,
        brain=ScriptBrain([card_text(24), READ]),
    )
    engine = make_engine(server)
    outcome = engine.read(job(engine, "ocr"))["ocr"]
    assert isinstance(outcome, Reading), outcome
    assert outcome.text == READ
    assert not outcome.image_verified  # it returns no counts
    assert server.seen[-1].prompt == driven.prompt.format(FAMILIES[driven.family].prompts["ocr"])
    assert server.seen[-1].images[0].size == driven.view


def test_tested_is_what_is_driven() -> None:
    assert {family.name for family in FAMILIES.values() if family.tested} == {driven.family for driven in DRIVEN}


SIZES = ((1, 1), (336, 336), (500, 500), (640, 480), (724, 1024), (1448, 2048), (2048, 2048), (2048, 512), (150, 600))


_RULES = {(FAMILIES[driven.family].image, driven.projector): driven.family for driven in DRIVEN}


@pytest.mark.parametrize(
    ("name", "projector"),
    [*((name, projector) for (_, projector), name in _RULES.items()), ("smolvlm", "idefics3-384")],
)
def test_no_image_takes_more_tokens_than_reckoned(name: str, projector: str) -> None:
    """Else KoboldCpp would drop the image without a word, where the context is small."""
    loaded = Projector(projector, visionmaxres=2048)
    for size in SIZES:
        taken = loaded.tokens(loaded.view(Image.new("RGB", size)))
        assert taken <= image_tokens(FAMILIES[name], *size), size


# ── what a family cannot do, and what it does not take ────────────────────────────────────────────

LIGHTON = "LightOnOCR-2-1B-Q8_0"


@pytest.mark.parametrize("words", [{"hint": "Swedish letters"}, {"prompts": {"ocr": "Read it all."}}])
def test_words_that_a_model_does_not_take_are_refused(
    words: dict[str, Any], make_simulator: MakeSimulator, make_engine: MakeEngine
) -> None:
    server = make_simulator(model=LIGHTON)
    with pytest.raises(ConfigError, match="trained on its maker's prompts only"):
        make_engine(server, **words).prepare()
    assert server.count() == 0


def reader(server: KoboldSimulator, ledger: Path, **options: Any) -> KoboldReader:
    return KoboldReader(api_url=server.url, ledger=str(ledger), **options)


def test_tasks_nobody_named_are_less_what_the_model_cannot_do(make_simulator: MakeSimulator, tmp_path: Path) -> None:
    server = make_simulator(model=LIGHTON, projector="lightonocr", brain=ScriptBrain(READ))
    ledger = tmp_path / "ledger.sqlite"
    documents = reader(server, ledger).load_data(LETTER)
    assert documents
    assert server.count() == len(documents)
    assert all("failed_tasks" not in document.metadata for document in documents)
    assert all("Image description" not in document.text for document in documents)
    # What was read is read: no server is asked whether it could do more, …
    server.stop()
    again = reader(server, ledger).load_data(LETTER)
    assert [document.text for document in again] == [document.text for document in documents]
    # … nor is it due because another model happens to be loaded.
    server.restart(model="Qwen2.5-VL-7B-Instruct", projector="qwen2vl", brain=ScriptBrain("A letter."))
    before = server.count()
    assert len(reader(server, ledger).load_data(LETTER)) == len(documents)
    assert server.count() == before
    # Asked for by name, it is read.
    described = reader(server, ledger, tasks=["ocr", "caption"]).load_data(LETTER)
    assert all("Image description" in document.text for document in described)
    assert server.count() == before + len(documents)


def test_redo_asks_only_what_the_model_can_do(make_simulator: MakeSimulator, tmp_path: Path) -> None:
    server = make_simulator(brain=ScriptBrain({"Describe": "A letter.", "": READ}))
    ledger = tmp_path / "ledger.sqlite"
    (first, *_) = reader(server, ledger).load_data(LETTER)
    assert "A letter." in first.text
    server.restart(model=LIGHTON, projector="lightonocr", brain=ScriptBrain("Read anew."))
    (again, *_) = reader(server, ledger, redo="all").load_data(LETTER)
    assert "Read anew." in again.text
    assert "A letter." in again.text, "the description that another model made is kept"
    # The other way round, what was left out is asked for with the rest.
    server.restart(model="Qwen3-VL-8B", projector="qwen3vl", brain=ScriptBrain({"Describe": "Anew.", "": READ}))
    (third, *_) = reader(server, ledger, redo="outdated").load_data(LETTER)
    assert "Anew." in third.text


def test_tasks_named_are_refused_where_the_model_cannot_do_them(make_simulator: MakeSimulator, tmp_path: Path) -> None:
    server = make_simulator(model=LIGHTON, projector="lightonocr", brain=ScriptBrain(READ))
    asked = reader(server, tmp_path / "ledger.sqlite", tasks=["ocr", "caption"])
    with pytest.raises(ConfigError, match="cannot do the task 'caption'"):
        asked.load_data(LETTER)
    assert server.count() == 0


def test_a_text_layer_is_not_due_for_a_description_nobody_can_give(
    make_simulator: MakeSimulator, tmp_path: Path
) -> None:
    """Its caption is asked for where images cover the page; the model that read the rest cannot make one."""
    born = tmp_path / "1993-born-digital.pdf"
    picture = io.BytesIO()
    Image.effect_noise((300, 300), 60).save(picture, "PNG")
    with pymupdf.open() as pdf:
        sheet = pdf.new_page()
        words = "The harbour board met on Tuesday and heard the report on the slates for the boathouse roof. "
        sheet.insert_textbox(pymupdf.Rect(50, 500, 550, 780), words * 8, fontsize=11)
        sheet.insert_image(pymupdf.Rect(50, 50, 550, 450), stream=picture.getvalue(), keep_proportion=False)
        pdf.save(born)
    server = make_simulator(model=LIGHTON, projector="lightonocr", brain=ScriptBrain(READ))
    ledger = tmp_path / "ledger.sqlite"
    documents = reader(server, ledger).load_data([LETTER, born])
    assert documents[-1].metadata["text_source"] == "text_layer"
    assert server.count() == len(documents) - 1
    server.stop()
    assert len(reader(server, ledger).load_data([LETTER, born])) == len(documents)
    # A model that can is asked.
    server.restart(model="Qwen2.5-VL-7B-Instruct", projector="qwen2vl", brain=ScriptBrain("A harbour."))
    described = reader(server, ledger, tasks=["ocr", "caption"]).load_data(born)
    assert "A harbour." in described[0].text
