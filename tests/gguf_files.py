"""Writes small GGUF files that say of themselves what real ones say."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

Shape = tuple[int, ...]
"""As GGUF counts: the length of a row first."""

CHATML = "{% for m in messages %}<|im_start|>{{m.role}}\n{{m.content}}<|im_end|>{% endfor %}<|im_start|>assistant"
GEMMA = "<start_of_turn>user\n<start_of_image>{{ x }}<end_of_turn>"
LLAMA_3 = "<|start_header_id|>user<|end_header_id|>x<|eot_id|><|start_header_id|>assistant<|end_header_id|>"


def write_gguf(
    path: Path,
    architecture: str,
    fields: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Shape] | None = None,
    tokens: Sequence[str] = (),
    *,
    endian: gguf.GGUFEndian = gguf.GGUFEndian.LITTLE,
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, architecture, endianess=endian)
    for key, value in (fields or {}).items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    if tokens:
        writer.add_token_list(list(tokens))
        writer.add_token_types([1] * len(tokens))
    shapes = tensors or {"token_embd.weight": (8, 4)}
    sizes = [int(np.prod(shape)) * 2 for shape in shapes.values()]
    for (name, shape), size in zip(shapes.items(), sizes, strict=True):
        writer.add_tensor_info(name, list(reversed(shape)), np.dtype(np.float16), size)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    # The tensors themselves are a hole in the file: nothing here may read them.
    os.truncate(path, padded(path.stat().st_size) + sum(map(padded, sizes)))
    return path


def padded(size: int) -> int:
    return -(-size // 32) * 32


def write_model(
    path: Path, architecture: str, width: int, *, template: str = "", tokens: Sequence[str] = (), **fields: Any
) -> Path:
    keys: dict[str, Any] = {f"{architecture}.embedding_length": width, f"{architecture}.context_length": 32768}
    keys |= {"tokenizer.chat_template": template} if template else {}
    keys |= {name.replace("__", "."): value for name, value in fields.items()}
    return write_gguf(path, architecture, keys, tokens=tokens or ("<s>", "</s>", "a"))


def write_projector(path: Path, kind: str, tensors: Mapping[str, Shape], **fields: Any) -> Path:
    keys: dict[str, Any] = {
        "clip.has_vision_encoder": True,
        "clip.vision.image_size": 336,
        "clip.vision.patch_size": 14,
    }
    keys |= {"clip.projector_type": kind} if kind else {}
    keys |= {name.replace("__", "."): value for name, value in fields.items()}
    return write_gguf(path, "clip", keys, tensors)


def write_qwen(folder: Path, name: str = "Qwen2.5-VL-7B-Instruct-Q4_K_M", width: int = 3584) -> Path:
    """A language model of Qwen2.5-VL."""
    return write_model(
        folder / f"{name}.gguf", "qwen2vl", width, template=CHATML, tokens=("a", "<|im_start|>", "<|vision_start|>")
    )


def write_qwen_projector(folder: Path, name: str = "mmproj-Qwen2.5-VL-7B-f16", width: int = 3584) -> Path:
    return write_projector(
        folder / f"{name}.gguf", "qwen2.5vl_merger", {"mm.2.bias": (width,)}, clip__vision__image_size=560
    )
