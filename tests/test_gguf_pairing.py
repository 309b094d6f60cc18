"""Which projector goes with which language model, and what KoboldCpp is told about the pair."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kobold_reader.errors import ConfigError, quoted
from kobold_reader.kobold import FAMILIES, ServerInfo, choose_family, families, family_of
from kobold_reader.kobold.gguf import EmbeddingModel, GgufModel, GgufProjector, read_gguf, survey
from kobold_reader.kobold.pairing import (
    Pair,
    arguments,
    better_name,
    command,
    guess_template,
    judge,
    min_version,
    pair_up,
    settings,
    wants,
    what_it_sees,
    write_kcpps,
)
from tests.gguf_files import (
    CHATML,
    GEMMA,
    LLAMA_3,
    Shape,
    write_gguf,
    write_model,
    write_projector,
    write_qwen,
    write_qwen_projector,
)


def model_of(path: Path) -> GgufModel:
    found = read_gguf(path)
    assert isinstance(found, GgufModel)
    return found


def projector_of(path: Path) -> GgufProjector:
    found = read_gguf(path)
    assert isinstance(found, GgufProjector)
    return found


def pair_of(model: Path, projector: Path) -> Pair:
    return judge(model_of(model), projector_of(projector))


# Which tensor tells, as KoboldCpp's own check reads it; the other numbers would be wrong.
WIDTHS: list[tuple[str, dict[str, Shape], int]] = [
    ("mlp", {"mm.0.weight": (1024, 4096), "mm.2.weight": (4096, 5120), "mm.2.bias": (5120,)}, 5120),
    ("mlp", {"mm.2.bias": (5120,)}, 5120),
    ("mlp", {"mm.1.weight": (7168,), "mm.2.weight": (8, 9), "mm.3.bias": (7168,)}, 7168),
    ("ldp", {"mm.model.mb_block.1.block.2.1.bias": (2048,)}, 2048),
    ("ldpv2", {"mm.model.peg.0.bias": (2048,)}, 2048),
    ("resampler", {"resampler.proj.weight": (3584, 3585)}, 3584),
    ("adapter", {"adapter.linear.dense_4h_to_h.weight": (9, 3072)}, 3072),
    ("qwen2vl_merger", {"mm.2.bias": (1536,), "mm.2.weight": (5120, 1536)}, 1536),
    ("qwen2.5vl_merger", {"mm.2.bias": (3584,)}, 3584),
    ("qwen3vl_merger", {"mm.2.bias": (2560,)}, 2560),
    (
        "qwen3vl_merger",
        {
            "mm.2.bias": (2560,),
            **{f"v.deepstack.{n}.{part}": (3,) for n in (5, 11, 17) for part in ("fc1.weight", "norm.bias")},
        },
        4 * 2560,
    ),
    ("gemma3", {"mm.input_projection.weight": (2560, 1152)}, 2560),
    ("gemma4v", {"mm.input_projection.weight": (1152, 2560)}, 2560),
    ("idefics3", {"mm.model.fc.weight": (9, 576)}, 576),
    ("internvl", {"mm.model.mlp.3.weight": (9, 2048)}, 2048),
    ("pixtral", {"mm.2.weight": (9, 5120)}, 5120),
    ("llama4", {"mm.model.fc.weight": (9, 5120)}, 5120),
    ("glm4v", {"mm.down.weight": (9, 4096)}, 4096),
    ("deepseekocr", {"mm.model.fc.weight": (9, 1280)}, 1280),
    ("lightonocr", {"mm.2.weight": (9, 1024)}, 1024),
    ("paddleocr", {"mm.2.weight": (9, 1024)}, 1024),
    ("dots_ocr", {"mm.2.weight": (9, 1536)}, 1536),
    ("janus_pro", {"mm.1.bias": (2048,)}, 2048),
]


@pytest.mark.parametrize(("kind", "tensors", "width"), WIDTHS)
def test_the_width_comes_from_the_tensors(tmp_path: Path, kind: str, tensors: dict[str, Shape], width: int) -> None:
    path = write_projector(tmp_path / "p.gguf", kind, tensors, clip__vision__projection_dim=768)
    assert (projector_of(path).kind, projector_of(path).width) == (kind, width)


@pytest.mark.parametrize(
    ("kind", "why", "version"),
    [
        ("granite4_vision", "how wide a model a projector of kind granite4_vision is for cannot be told", "1.115"),
        ("a kind of next year", "KoboldCpp 1.115.1 knows no projectors of kind a kind of next year", ""),
    ],
)
def test_what_cannot_be_told_is_a_doubt(tmp_path: Path, kind: str, why: str, version: str) -> None:
    pair = pair_of(
        write_model(tmp_path / "m.gguf", "granite", 2048),
        write_projector(tmp_path / "p.gguf", kind, {"mm.2.bias": (2048,)}, clip__vision__projection_dim=2048),
    )
    assert pair.verdict == "doubtful"
    assert why in pair.why
    assert min_version(pair) == version
    assert "cannot be told" in wants(pair.projector)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({}, "mlp"),
        ({"clip__projector_type": "gemma3"}, "gemma3"),
        ({"clip__vision__projector_type": "qwen2.5o", "clip__audio__projector_type": "qwen2a"}, "qwen2.5o"),
        ({"clip__projector_type": "qwen2vl_merger"}, "qwen2vl_merger"),
        (
            {"clip__projector_type": "qwen2vl_merger", "clip__use_glu_mlp": True, "clip__use_rms_norm": True},
            "qwen2.5vl_merger",
        ),
        ({"clip__projector_type": "ultravox"}, ""),
        ({"clip__audio__projector_type": "voxtral"}, ""),
    ],
)
def test_the_kind_of_a_projector(tmp_path: Path, fields: dict[str, str | bool], kind: str) -> None:
    path = write_projector(tmp_path / "p.gguf", "", {"mm.2.bias": (8,)}, **fields)
    assert projector_of(path).kind == kind


def test_a_pair_fits(tmp_path: Path) -> None:
    pair = pair_of(write_qwen(tmp_path), write_qwen_projector(tmp_path))
    assert (pair.verdict, pair.why, pair.family.name) == ("fits", "", "qwen2.5-vl")
    assert pair.template.text == "in the file; AutoGuess takes it for ChatML (Generic)"


def test_deepstack_layers_widen_the_model(tmp_path: Path) -> None:
    stack: dict[str, Shape] = {f"v.deepstack.{n}.fc1.bias": (3,) for n in (8, 16, 24)}
    projector = write_projector(tmp_path / "p.gguf", "qwen3vl_merger", {"mm.2.bias": (4096,), **stack})
    tokens = ("<|vision_start|>",)
    with_stack = write_model(tmp_path / "a.gguf", "qwen3vl", 4096, tokens=tokens, qwen3vl__n_deepstack_layers=3)
    without = write_model(tmp_path / "b.gguf", "qwen3", 4096, tokens=tokens)
    assert pair_of(with_stack, projector).verdict == "fits"
    assert pair_of(without, projector).why == "the model is 4096 wide, the projector is for 16384"
    assert pair_of(without, projector).verdict == "does not load"


Doubt = tuple[tuple[str, str, int, str], tuple[str, str, dict[str, Shape], dict[str, int]], str]
DOUBTS: dict[str, Doubt] = {
    "another architecture": (
        ("Some-Model", "qwen3", 3584, "<|vision_start|>"),
        ("p", "qwen2.5vl_merger", {"mm.2.bias": (3584,)}, {}),
        "made for qwen2vl, not for qwen3",
    ),
    "Nemo with Pixtral's": (
        ("Mistral-Nemo-Instruct-2407", "llama", 5120, "<SPECIAL_10>"),
        ("mmproj-pixtral-12b", "pixtral", {"mm.2.weight": (5120, 5120)}, {}),
        "no token [IMG_END]",
    ),
    "any 4096 wide Llama with a LLaVA projector": (
        ("Meta-Llama-3-8B-Instruct", "llama", 4096, "a"),
        ("mmproj-model-f16", "", {"mm.2.weight": (4096, 4096)}, {}),
        "nothing in the model's name says that it was taught to see",
    ),
    "Qwen2.5-VL with the projector of 2": (
        ("Qwen2.5-VL-7B-Instruct", "qwen2vl", 3584, "<|vision_start|>"),
        ("mmproj-model", "qwen2vl_merger", {"mm.2.bias": (3584,)}, {}),
        "name says qwen2.5-vl, whose projector is a qwen2.5vl_merger",
    ),
    "MiniCPM-V 2.6 with a Llama of its width": (
        ("Llama-3-Something", "llama", 3584, "<image>"),
        ("mmproj-MiniCPM-V-2_6", "resampler", {"resampler.proj.weight": (3584, 4)}, {"clip__minicpmv_version": 3}),
        "made for qwen2, not for llama",
    ),
    "LLaVA with a projector named after another": (
        ("llava-v1.5-7b", "llama", 4096, "a"),
        ("mmproj-gemma-3-f16", "mlp", {"mm.2.weight": (8, 4096)}, {}),
        "the model's name says llava-1.5, the projector's gemma-3",
    ),
    "a kind of which nothing is known": (
        ("x", "llama", 64, "a"),
        ("p", "yasa2", {"mm.2.weight": (8, 64)}, {}),
        "is made for is not known here",
    ),
}


@pytest.mark.parametrize("name", DOUBTS)
def test_equal_width_is_not_enough(tmp_path: Path, name: str) -> None:
    (stem, architecture, width, token), (projector, kind, tensors, more), why = DOUBTS[name]
    pair = pair_of(
        write_model(tmp_path / f"{stem}.gguf", architecture, width, tokens=("a", token)),
        write_projector(tmp_path / f"{projector}.gguf", kind, tensors, **more),
    )
    assert pair.verdict == "doubtful"
    assert why in pair.why


def test_what_takes_the_doubt_away(tmp_path: Path) -> None:
    projector = write_projector(
        tmp_path / "mmproj-f16.gguf", "", {"mm.2.weight": (8, 4096)}, general__basename="Own-Tune"
    )
    same_origin = write_model(tmp_path / "x.gguf", "llama", 4096, general__basename="own-tune")
    named = write_model(tmp_path / "llava-v1.5-7b.gguf", "llama", 4096)
    pixtral = write_projector(tmp_path / "pixtral.gguf", "pixtral", {"mm.2.weight": (8, 5120)})
    taught = write_model(tmp_path / "finetune.gguf", "llama", 5120, tokens=("[IMG_END]",))
    assert pair_of(same_origin, projector).verdict == "fits"
    assert pair_of(named, projector).verdict == "fits"
    assert pair_of(taught, pixtral).verdict == "fits"


def test_a_name_is_enough_for_a_kind_of_which_nothing_else_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = replace(FAMILIES["unknown"], name="new", patterns=("brand-new",), projector="yasa2")
    monkeypatch.setattr(families, "FAMILIES", {"new": family, "unknown": FAMILIES["unknown"]})
    projector = write_projector(tmp_path / "p.gguf", "yasa2", {"mm.2.weight": (8, 64)})
    assert pair_of(write_model(tmp_path / "Brand-New-7B.gguf", "llama", 64), projector).verdict == "fits"
    assert pair_of(write_model(tmp_path / "other.gguf", "llama", 64), projector).verdict == "doubtful"


def test_those_that_fit_come_first(tmp_path: Path) -> None:
    models = [
        model_of(write_qwen(tmp_path, "A-text", 2048)),
        model_of(write_model(tmp_path / "b.gguf", "qwen2", 3584, tokens=("<|vision_start|>",))),
        model_of(write_qwen(tmp_path, "Qwen2.5-VL-7B")),
    ]
    hears = projector_of(write_projector(tmp_path / "a.gguf", "ultravox", {"mm.a.mlp.2.weight": (3584, 3584)}))
    pairs = pair_up(models, [hears, projector_of(write_qwen_projector(tmp_path))])
    assert [(pair.model.stem, pair.verdict) for pair in pairs] == [
        ("Qwen2.5-VL-7B", "fits"),
        ("b", "doubtful"),
        ("A-text", "does not load"),
    ]


@pytest.mark.parametrize(
    "stem",
    ["Qwen2.5-VL-7B-Instruct-Q4_K_M", "gemma-3-12b-it", "MiniCPM-V-2_6", "llava-v1.5-7b", "Mistral-Nemo", "Ærø"],
)
def test_the_family_is_the_one_the_server_will_be_read_as(stem: str) -> None:
    info = ServerInfo("http://127.0.0.1:5001", stem, "1.115.1", True, False, False, False, None, 8192, "")
    assert family_of(stem).name == choose_family(info).name


@pytest.mark.parametrize(
    ("template", "rule"),
    [
        ("", ""),
        (CHATML, "ChatML (Generic)"),
        (f"{CHATML} You are provided with function signatures within <tools>", "ChatML (Qwen 2.5 based)"),
        (GEMMA, "Gemma 3"),
        (LLAMA_3, "Llama 3.x"),
        ("<|turn>model<|think|><|channel>thought\\n<channel|>", "Gemma 4 26B/31B"),
        ("<|turn>model<|think|>", "Gemma 4 E2B/E4B"),
        ("[INST]x[/INST]", "Mistral (Generic)"),
        ("[SYSTEM_PROMPT]s[/SYSTEM_PROMPT][INST]x[/INST]", "Mistral Tekken"),
        ("[gMASK]<sop>", "GLM-4"),
        ("<|im_start|>User: x<end_of_utterance>\nAssistant:", ""),
    ],
)
def test_autoguess(template: str, rule: str) -> None:
    assert guess_template(template) == rule


@pytest.mark.parametrize(
    ("stem", "architecture", "template", "told"),
    [
        ("x", "qwen2vl", CHATML, {}),
        ("llava-v1.5-7b", "llama", "", {"chatcompletionsadapter": "Vicuna"}),
        ("Qwen2.5-VL-7B", "qwen2vl", "", {"chatcompletionsadapter": "ChatML"}),
        ("llava-phi-3-mini", "phi3", "<|user|>\nx<|end|>\n<|assistant|>", {"chatcompletionsadapter": "Phi-3"}),
        ("Meta-Llama-3-8B", "llama", "", {"chatcompletionsadapter": "Llama-3"}),
        ("SmolVLM2-2.2B", "llama", "<|im_start|>User: x<end_of_utterance>", {"jinja": True}),
        ("granite-vision-3.2-2b", "granite", "<|system|>\ns<|user|>\nx<|assistant|>", {"jinja": True}),
        ("something", "llama", "", {}),
    ],
)
def test_what_koboldcpp_is_told_about_the_template(
    tmp_path: Path, stem: str, architecture: str, template: str, told: dict[str, object]
) -> None:
    model = write_model(tmp_path / f"{stem}.gguf", architecture, 64, template=template)
    pair = pair_of(model, write_projector(tmp_path / "p.gguf", "", {"mm.2.bias": (64,)}))
    assert pair.template.settings == told
    assert pair.template.text


def test_a_model_without_a_template_that_wants_none(tmp_path: Path) -> None:
    pair = pair_of(
        write_model(tmp_path / "DeepSeek-OCR.gguf", "deepseek2-ocr", 1280),
        write_projector(tmp_path / "p.gguf", "deepseekocr", {"mm.model.fc.weight": (8, 1280)}),
    )
    assert pair.verdict == "fits"
    assert (pair.template.settings, "none is needed" in pair.template.text) == ({}, True)


def test_the_line(tmp_path: Path) -> None:
    pair = pair_of(write_qwen(tmp_path / "my models"), write_qwen_projector(tmp_path))
    line = arguments(settings(pair))
    assert line[:5] == ["koboldcpp", "--model", str(pair.model.path), "--mmproj", str(pair.projector.path)]
    assert " ".join(line[5:]) == (
        "--contextsize 16384 --visionmaxres 2048 --visionmintokens 256 --visionmaxtokens 4096 --batchsize 1024 "
        "--noshift --quiet"
    )
    assert command(pair) == quoted(line)
    assert quoted(["koboldcpp", "--model", "C:\\my models\\a.gguf"], is_windows=True) == (
        'koboldcpp --model "C:\\my models\\a.gguf"'
    )
    assert quoted(["koboldcpp", "--model", "/it's/a b.gguf"], is_windows=False) == (
        "koboldcpp --model '/it'\"'\"'s/a b.gguf'"
    )


def test_the_context_is_never_larger_than_the_model_was_trained_for(tmp_path: Path) -> None:
    model = write_model(tmp_path / "llava-v1.5-7b.gguf", "llama", 64, llama__context_length=4096)
    pair = pair_of(model, write_projector(tmp_path / "p.gguf", "", {"mm.2.bias": (64,)}))
    assert settings(pair)["contextsize"] == 4096
    assert "visionmaxtokens" not in settings(pair)
    assert settings(pair)["chatcompletionsadapter"] == "Vicuna"


def test_versions_are_compared_as_numbers(tmp_path: Path) -> None:
    new = pair_of(
        write_model(tmp_path / "Qwen3-VL.gguf", "qwen3vl", 8),
        write_projector(tmp_path / "p.gguf", "qwen3vl_merger", {"mm.2.bias": (8,)}),
    )
    assert min_version(new) == "1.102"
    assert min_version(pair_of(write_qwen(tmp_path), write_qwen_projector(tmp_path))) == "1.90"


@pytest.mark.parametrize(
    ("kind", "fields", "seen"),
    [
        ("", {}, "336 px, always 576 tokens"),
        ("", {"clip__vision__image_grid_pinpoints": [336, 672]}, "336 px, an overview and tiles"),
        ("gemma3", {}, "896 px, always 256 tokens"),
        ("lightonocr", {"clip__vision__image_size": 1540}, "1540 px"),
    ],
)
def test_what_is_seen_of_an_image(tmp_path: Path, kind: str, fields: dict[str, object], seen: str) -> None:
    path = write_projector(tmp_path / "p.gguf", kind, {"mm.2.bias": (8,)}, **fields)
    assert what_it_sees(projector_of(path)) == seen


@pytest.mark.parametrize(
    ("name", "fields", "fits", "better"),
    [
        (
            "mmproj-model-f16",
            {"general__name": "Gemma 3 12b It", "general__file_type": 1},
            [],
            "mmproj-Gemma-3-12b-It-f16.gguf",
        ),
        (
            "mmproj-F16",
            {"general__basename": "Qwen2.5-VL", "general__size_label": "7B", "general__file_type": 32},
            [],
            "mmproj-Qwen2.5-VL-7B-bf16.gguf",
        ),
        (
            "mmproj",
            {"general__name": "openai/clip-vit-large-patch14-336"},
            ["llava-v1.5-7b-Q4_K_M"],
            "mmproj-llava-v1.5-7b.gguf",
        ),
        ("mmproj-model-f16", {}, ["one-Q4_0", "two-Q4_0"], ""),
        ("mmproj-model-f16", {"general__name": "../../☠"}, [], ""),
        ("mmproj-Qwen2.5-VL-7B-f16", {"general__name": "something else"}, [], ""),
    ],
)
def test_a_better_name(tmp_path: Path, name: str, fields: dict[str, object], fits: list[str], better: str) -> None:
    projector = projector_of(write_projector(tmp_path / f"{name}.gguf", "", {"mm.2.bias": (8,)}, **fields))
    models = [model_of(write_model(tmp_path / f"{stem}.gguf", "llama", 8)) for stem in fits]
    assert better_name(projector, models) == better


def test_embedding_models_and_others_are_told_apart(tmp_path: Path) -> None:
    bert = {"nomic-bert.embedding_length": 768, "nomic-bert.context_length": 2048}
    found = read_gguf(write_gguf(tmp_path / "a.gguf", "nomic-bert", bert))
    assert isinstance(found, EmbeddingModel)
    assert (found.dimensions, found.context_tokens) == (768, 2048)
    pooled = write_model(tmp_path / "b.gguf", "qwen3", 1024, qwen3__pooling_type=3)
    assert isinstance(read_gguf(pooled), EmbeddingModel)
    for other in (
        write_model(tmp_path / "rerank.gguf", "qwen3", 1024, qwen3__pooling_type=4),
        write_gguf(tmp_path / "image.gguf", "flux"),
        write_model(tmp_path / "lora.gguf", "llama", 4096, general__type="adapter"),
    ):
        assert not isinstance(read_gguf(other), (EmbeddingModel, GgufModel, GgufProjector))


def test_a_split_model_counts_as_one(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        write_model(tmp_path / f"big-{number:05d}-of-00003.gguf", "qwen2vl", 3584, split__count=3)
    found = survey([tmp_path / "big-00002-of-00003.gguf", tmp_path])
    (model,) = found.files
    assert (model.path.name, model.parts, model.stem) == ("big-00001-of-00003.gguf", 3, "big-00001-of-00003")
    assert model.size_bytes == sum(path.stat().st_size for path in tmp_path.glob("*.gguf"))
    assert not found.errors


def test_missing_parts_are_named(tmp_path: Path) -> None:
    write_model(tmp_path / "big-00002-of-00004.gguf", "qwen2vl", 3584, split__count=4)
    write_model(tmp_path / "huge-00001-of-99999.gguf", "qwen2vl", 3584, split__count=99999)
    write_model(tmp_path / "lone.gguf", "qwen2vl", 3584, split__count=2)
    big, huge, lone = survey([tmp_path]).errors
    assert "parts 1, 3, 4 of 4 are missing" in str(big)
    assert "parts 2, 3, 4, 5, 6 and 99993 more of 99999 are missing" in str(huge)
    assert "one part of 2, but its name does not say so" in str(lone)


def test_a_part_that_is_cut_short_is_named(tmp_path: Path) -> None:
    for number in (1, 2):
        path = write_model(tmp_path / f"big-{number:05d}-of-00002.gguf", "qwen2vl", 3584, split__count=2)
    path.write_bytes(path.read_bytes()[:-40])
    found = survey([tmp_path])
    assert not found.files
    assert "big-00002-of-00002.gguf: is cut short" in str(found.errors[0])


def test_folders_are_walked_and_no_file_is_taken_twice(tmp_path: Path) -> None:
    write_qwen(tmp_path / "a" / "b" / "Ærø 日本語", "ünï")
    write_qwen_projector(tmp_path / "a", "MMPROJ").rename(tmp_path / "a" / "MMPROJ.GGUF")
    (tmp_path / "a" / "round").symlink_to(tmp_path / "a", target_is_directory=True)
    (tmp_path / "a" / "notes.txt").write_text("x")
    found = survey([tmp_path, tmp_path / "a", tmp_path / "a" / "MMPROJ.GGUF"])
    assert [one.path.name for one in found.files] == ["MMPROJ.GGUF", "ünï.gguf"]
    assert (list(found.errors), list(found.empty)) == ([], [])


def test_a_configuration_is_written_whole_and_over_nothing(tmp_path: Path) -> None:
    pair = pair_of(write_qwen(tmp_path / "Ærø"), write_qwen_projector(tmp_path))
    path = tmp_path / "ocr.kcpps"
    write_kcpps(path, settings(pair))
    written = json.loads(path.read_text(encoding="utf-8"))
    assert (written["model_param"], written["mmproj"]) == (str(pair.model.path), str(pair.projector.path))
    assert (written["contextsize"], written["noshift"], written["visionmaxres"]) == (16384, True, 2048)
    path.write_text("my own", encoding="utf-8")
    with pytest.raises(ConfigError, match="is not overwritten"):
        write_kcpps(path, settings(pair))
    assert path.read_text(encoding="utf-8") == "my own"
    with pytest.raises(ConfigError, match="cannot be written"):
        write_kcpps(tmp_path / "no such folder" / "x.kcpps", settings(pair))
    assert not list(tmp_path.rglob("*.part"))


def test_a_configuration_that_cannot_be_finished_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        write_kcpps(tmp_path / "ocr.kcpps", {"noshift": True})
    assert not list(tmp_path.glob("ocr*"))


def test_the_unknown_family_is_never_told_by_a_name() -> None:
    assert family_of("") is FAMILIES["unknown"]


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_qwen(tmp_path / "open")
    closed = tmp_path / "closed"
    closed.mkdir()
    scandir = os.scandir

    def guarded(path: str) -> Any:
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    found = survey([tmp_path])
    assert len(found.files) == 1
    assert str(found.errors[0]) == f"{closed}: cannot be read (Permission denied)."
    assert not found.empty
    assert survey([closed]).empty == [closed]
