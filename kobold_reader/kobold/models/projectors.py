"""The kinds of projectors (mmproj) KoboldCpp 1.115.1 loads, as a table: `tools/mtmd/clip.cpp`, `clip-impl.h`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

__all__ = ["AUDIO_KINDS", "IMAGE_TOKENS", "KINDS", "VISION_ARCHITECTURES", "ProjectorKind", "width_of"]


@dataclass(frozen=True, slots=True)
class ProjectorKind:
    """One kind of projector.

    Attributes:
        name: `clip.projector_type`.
        width_from: Tensors and axes that tell how wide a language model it is for; the first that is there does.
        architectures: `general.architecture` of the language models it is made for; empty: not known.
        min_version: First KoboldCpp that loads it, as far as known.
        image: What of an image reaches the encoder; "": the file's own image size.
        image_token: Put around the image by the server, so the language model must have it.
        vision_tokens: `--visionmintokens` and `--visionmaxtokens` worth setting for full pages; KoboldCpp sets both
            to the same value where only one is given.
        batch_tokens: `--batchsize`.
    """

    name: str
    width_from: tuple[tuple[str, int], ...]
    architectures: frozenset[str] = frozenset()
    min_version: str = "1.115"
    image: str = ""
    image_token: str = ""
    vision_tokens: tuple[int, int] | None = None
    batch_tokens: int = 1024


VISION_ARCHITECTURES: Final = frozenset(
    {
        *("qwen2vl", "qwen3vl", "qwen3vlmoe", "gemma3", "gemma3n", "gemma4", "llama4", "cogvlm", "deepseek2-ocr"),
        *("paddleocr", "hunyuan_vl"),
    }
)
"""Language models of these are made to see; all others are text models of which some were taught to."""

AUDIO_KINDS: Final = frozenset(
    {
        *("ultravox", "qwen2a", "qwen3a", "glma", "voxtral", "meralion", "musicflamingo", "lfm2a", "gemma3na"),
        *("gemma4a", "gemma4ua", "granite_speech"),
    }
)

_MM2 = ("mm.2.weight", 1), ("mm.2.bias", 0)
_FC = (("mm.model.fc.weight", 1),)
_DOWN = (("mm.down.weight", 1),)
_QWEN_VL: Final = "up to 1.6 MP, in patches of 28 px; 3.2 MP with 4096 tokens"
_LLAVA: Final = frozenset({"llama", "phi2", "phi3", "qwen2", "stablelm", "gemma", "granite"})
_SEEN: Final = "<|vision_start|>"
_FULL_PAGE: Final = (256, 4096)

KINDS: Final[Mapping[str, ProjectorKind]] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            # mm.3 is the second layer where norms stand between them (Yi).
            ProjectorKind("mlp", (("mm.3.bias", 0), *_MM2), _LLAVA, "1.76"),
            ProjectorKind("ldp", (("mm.model.mb_block.1.block.2.1.bias", 0),), frozenset({"llama"}), "1.76"),
            ProjectorKind("ldpv2", (("mm.model.peg.0.bias", 0),), frozenset({"llama"}), "1.76"),
            ProjectorKind(
                "resampler",
                (("resampler.proj.weight", 0),),
                frozenset({"llama", "qwen2", "qwen3", "minicpm", "minicpm3"}),
                "1.76",
                "an overview and up to 9 slices of 448 px",
                image_token="<image>",  # noqa: S106
            ),
            ProjectorKind(
                "adapter", (("adapter.linear.dense_4h_to_h.weight", 1),), frozenset({"chatglm", "glm4"}), "1.83"
            ),
            *(
                ProjectorKind(
                    name, (("mm.2.bias", 0), ("mm.2.weight", 1)), frozenset(models), version, image, _SEEN, _FULL_PAGE
                )
                for name, models, version, image in (
                    ("qwen2vl_merger", ("qwen2vl",), "1.80", _QWEN_VL),
                    ("qwen2.5vl_merger", ("qwen2vl",), "1.90", _QWEN_VL),
                    ("qwen2.5o", ("qwen2vl",), "1.90", _QWEN_VL),
                    (
                        "qwen3vl_merger",
                        ("qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe"),
                        "1.102",
                        "up to 2.1 MP, in patches of 32 px; 4.2 MP with 4096 tokens",
                    ),
                )
            ),
            ProjectorKind("step3vl", _FC, frozenset({"qwen3"}), "1.112"),
            ProjectorKind(
                "gemma3",
                (("mm.input_projection.weight", 0),),
                frozenset({"gemma3"}),
                "1.86",
                "896 px, always 256 tokens",
                image_token="<start_of_image>",  # noqa: S106
            ),
            ProjectorKind("gemma3nv", (("mm.input_projection.weight", 0),), frozenset({"gemma3n"})),
            *(
                ProjectorKind(
                    name,
                    (("mm.input_projection.weight", 1),),
                    frozenset({"gemma4"}),
                    version,
                    "40 to 280 tokens; up to 1120 if told",
                    vision_tokens=(40, 1120),
                    batch_tokens=2048,  # an image is decoded in one batch
                )
                for name, version in (("gemma4v", "1.111"), ("gemma4uv", "1.115"))
            ),
            ProjectorKind("phi4", _MM2, frozenset({"phi3"}), "1.111"),
            ProjectorKind("idefics3", _FC, frozenset({"llama", "granite"}), "1.90", "an overview and tiles"),
            ProjectorKind(
                "pixtral",
                _MM2,
                frozenset({"llama", "mistral3"}),
                "1.90",
                "1024 tokens (512 px for Pixtral 12B); 4096 if told",
                "[IMG_END]",
                _FULL_PAGE,
            ),
            ProjectorKind(
                "internvl",
                (("mm.model.mlp.3.weight", 1),),
                frozenset({"internlm2", "qwen2", "qwen3", "qwen3moe", "llama", "gpt-oss"}),
                "1.91",
                "an overview and up to 12 tiles of 448 px",
                image_token="<img>",  # noqa: S106
            ),
            ProjectorKind("nemotron_v2_vl", (("mm.model.mlp.3.weight", 1),), frozenset({"nemotron_h"}), "1.109"),
            ProjectorKind("llama4", _FC, frozenset({"llama4"}), "1.92", "tiles"),
            ProjectorKind("hunyuanvl", _FC, frozenset({"hunyuan-dense", "hunyuan_vl"}), "1.113"),
            ProjectorKind("lfm2", _MM2, frozenset({"lfm2", "lfm2moe"}), "1.98", "64 to 256 tokens"),
            ProjectorKind("kimivl", _MM2, frozenset({"deepseek2"}), "1.99", "up to 1024 tokens"),
            ProjectorKind("kimik25", _MM2, frozenset({"deepseek2"})),
            ProjectorKind(
                "paddleocr",
                _MM2,
                frozenset({"ernie4_5", "paddleocr"}),
                "1.109",
                image_token="<|IMAGE_START|>",  # noqa: S106
            ),
            ProjectorKind("lightonocr", _MM2, frozenset({"qwen3"}), "1.102"),
            ProjectorKind("dots_ocr", _MM2, frozenset({"qwen2"}), "1.112", image_token="<|img|>"),  # noqa: S106
            ProjectorKind("deepseekocr", _FC, frozenset({"deepseek2-ocr"}), "1.111", "1024 px and tiles"),
            ProjectorKind("deepseekocr2", _FC, frozenset({"deepseek2-ocr"}), "1.115", "1024 px and tiles"),
            ProjectorKind(
                "glm4v",
                _DOWN,
                frozenset({"glm4", "glm4moe"}),
                "1.105",
                "8 to 4096 tokens",
                "<|begin_of_image|>",
            ),
            ProjectorKind("cogvlm", _DOWN, frozenset({"cogvlm"}), "1.102"),
            ProjectorKind("minicpmv4_6", _DOWN, min_version="1.114"),
            ProjectorKind("janus_pro", (("mm.1.bias", 0),), frozenset({"llama"}), "1.102"),
            ProjectorKind("youtuvl", (("mm.2.bias", 0),)),
            ProjectorKind("exaone4_5", (("mm.2.bias", 0),), frozenset({"exaone4"})),
            ProjectorKind("yasa2", _MM2),
            ProjectorKind("mimovl", _MM2),
            # So many blocks times the projection's width, and which tensors are blocks is not known here.
            ProjectorKind("granite4_vision", (), frozenset({"granite", "granitehybrid"})),
        )
    }
)
"""By name."""

IMAGE_TOKENS: Final = frozenset(kind.image_token for kind in KINDS.values() if kind.image_token)

_DEEPSTACK: Final = re.compile(r"v\.deepstack\.(\d+)\.")


def width_of(kind: str, tensors: Mapping[str, tuple[int, ...]]) -> int | None:
    """How wide a language model's input must be for a projector of that kind, from its tensors.

    `clip.vision.projection_dim` is not asked: in LLaVA's and MobileVLM's files it is CLIP's own.
    """
    rule = KINDS.get(kind)
    if rule is None:
        return None
    for tensor, axis in rule.width_from:
        shape = tensors.get(tensor, ())
        if len(shape) > axis:
            width = shape[axis]
            break
    else:
        return None
    if kind == "qwen3vl_merger":  # each deepstack layer is one more input beside the first
        width *= 1 + len({found[1] for name in tensors if (found := _DEEPSTACK.match(name))})
    return width
