"""Template tags: what stands around a turn, by the name people know it by.

Those of KoboldCpp 1.115.1 (`kcpp_adapters`) where it has them, else the makers'.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypedDict

__all__ = [
    "BUNNY",
    "CHATML",
    "DOTS_OCR",
    "GEMMA_3",
    "GEMMA_4",
    "GLM_4",
    "GLM_4_NO_THINK",
    "GLM_OCR",
    "GRANITE_VISION",
    "LIGHTON_OCR",
    "LLAMA_3",
    "MISTRAL",
    "MISTRAL_TEKKEN",
    "NONE",
    "PADDLE_OCR",
    "PHI_3",
    "SMOLVLM",
    "VICUNA",
    "Tags",
    "tags_of",
]


class Tags(TypedDict):
    """The template fields of a Family."""

    template: str
    user_start: str
    user_end: str
    assistant_start: str
    assistant_end: str
    system_start: str
    system_end: str
    stop_sequence: tuple[str, ...]


_CURIOUS: Final = (  # what LLaVA and its descendants were trained with
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)

CHATML: Final[Tags] = {
    "template": "ChatML",
    "user_start": "<|im_start|>user\n",
    "user_end": "<|im_end|>\n",
    "assistant_start": "<|im_start|>assistant\n",
    "assistant_end": "<|im_end|>\n",
    "system_start": "<|im_start|>system\n",
    "system_end": "<|im_end|>\n",
    "stop_sequence": ("<|im_end|>",),
}
GEMMA_3: Final[Tags] = {
    "template": "Gemma 3",
    "user_start": "<start_of_turn>user\n",
    "user_end": "<end_of_turn>\n",
    "assistant_start": "<start_of_turn>model\n",
    "assistant_end": "<end_of_turn>\n",
    "system_start": "<start_of_turn>user\n",
    "system_end": "<end_of_turn>\n",
    "stop_sequence": ("<end_of_turn>",),
}
GEMMA_4: Final[Tags] = {
    "template": "Gemma 4",
    "user_start": "<|turn>user\n",
    "user_end": "<turn|>\n",
    "assistant_start": "<|turn>model\n",
    "assistant_end": "<turn|>\n",
    "system_start": "<|turn>system\n",
    "system_end": "<turn|>\n",
    "stop_sequence": ("<turn|>",),
}
VICUNA: Final[Tags] = {
    "template": "Vicuna",
    "user_start": "USER: ",
    "user_end": "\n",
    "assistant_start": "ASSISTANT:",
    "assistant_end": "</s>\n",
    "system_start": "",
    "system_end": "\n\n",
    "stop_sequence": ("</s>",),
}
BUNNY: Final[Tags] = {
    "template": "Vicuna with Bunny's preamble",
    "user_start": f"{_CURIOUS} USER: ",
    "user_end": " ",
    "assistant_start": "ASSISTANT:",
    "assistant_end": "<|endoftext|>",
    "system_start": "",
    "system_end": " ",
    "stop_sequence": ("<|endoftext|>", "<|end_of_text|>"),
}
LLAMA_3: Final[Tags] = {
    "template": "Llama 3",
    "user_start": "<|start_header_id|>user<|end_header_id|>\n\n",
    "user_end": "<|eot_id|>",
    "assistant_start": "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "assistant_end": "<|eot_id|>",
    "system_start": "<|start_header_id|>system<|end_header_id|>\n\n",
    "system_end": "<|eot_id|>",
    "stop_sequence": ("<|eot_id|>",),
}
PHI_3: Final[Tags] = {
    "template": "Phi 3",
    "user_start": "<|user|>\n",
    "user_end": "<|end|>\n",
    "assistant_start": "<|assistant|>\n",
    "assistant_end": "<|end|>\n",
    "system_start": "<|system|>\n",
    "system_end": "<|end|>\n",
    "stop_sequence": ("<|end|>",),
}
MISTRAL: Final[Tags] = {
    "template": "Mistral",
    "user_start": "[INST] ",
    "user_end": " ",
    "assistant_start": "[/INST]",
    "assistant_end": "</s>",
    "system_start": "[INST] ",
    "system_end": "",
    "stop_sequence": ("</s>",),
}
MISTRAL_TEKKEN: Final[Tags] = {
    "template": "Mistral Tekken",
    "user_start": "[INST]",
    "user_end": "",
    "assistant_start": "[/INST]",
    "assistant_end": "</s>",
    "system_start": "[SYSTEM_PROMPT]",
    "system_end": "[/SYSTEM_PROMPT]",
    "stop_sequence": ("</s>",),
}
GLM_4: Final[Tags] = {  # KoboldCpp itself writes [gMASK]<sop> before it
    "template": "GLM 4",
    "user_start": "<|user|>\n",
    "user_end": "",
    "assistant_start": "<|assistant|>\n",
    "assistant_end": "",
    "system_start": "<|system|>\n",
    "system_end": "",
    "stop_sequence": ("<|user|>", "<|endoftext|>"),
}
GLM_4_NO_THINK: Final[Tags] = {**GLM_4, "user_end": "/nothink"}
GLM_OCR: Final[Tags] = {
    **GLM_4,
    # No page has a code fence of Markdown on it; behind one GLM-OCR would begin again (zai-org/GLM-OCR#220).
    "stop_sequence": ("<|user|>", "<|endoftext|>", "\n```"),
}
GRANITE_VISION: Final[Tags] = {
    "template": "Granite Vision 3",
    "user_start": f"<|system|>\n{_CURIOUS}\n<|user|>\n",
    "user_end": "\n",
    "assistant_start": "<|assistant|>\n",
    "assistant_end": "<|end_of_text|>",
    "system_start": "<|system|>\n",
    "system_end": "\n",
    "stop_sequence": ("<|end_of_text|>", "<|user|>"),
}
SMOLVLM: Final[Tags] = {
    "template": "SmolVLM",
    "user_start": "<|im_start|>User: ",
    "user_end": "<end_of_utterance>\n",
    "assistant_start": "Assistant:",
    "assistant_end": "<end_of_utterance>\n",
    "system_start": "<|im_start|>System: ",
    "system_end": "<end_of_utterance>\n",
    "stop_sequence": ("<end_of_utterance>",),
}
LIGHTON_OCR: Final[Tags] = {**CHATML, "user_start": "<|im_start|>system<|im_end|>\n<|im_start|>user\n"}
PADDLE_OCR: Final[Tags] = {
    "template": "PaddleOCR-VL",
    "user_start": "User: ",
    "user_end": "\n",
    "assistant_start": "Assistant:\n",
    "assistant_end": "</s>",
    "system_start": "",
    "system_end": "\n",
    "stop_sequence": ("</s>",),
}
DOTS_OCR: Final[Tags] = {
    "template": "dots.ocr",
    "user_start": "<|user|>",
    "user_end": "<|endofuser|>",
    "assistant_start": "<|assistant|>",
    "assistant_end": "<|endofassistant|>",
    "system_start": "<|system|>",
    "system_end": "<|endofsystem|>\n",
    "stop_sequence": ("<|endofassistant|>",),
}
NONE: Final[Tags] = {
    "template": "none",
    "user_start": "",
    "user_end": "",
    "assistant_start": "",
    "assistant_end": "",
    "system_start": "",
    "system_end": "",
    "stop_sequence": (),
}

_KNOWN_BY: Final[Mapping[tuple[str, ...], Tags]] = {
    ("<|turn>model",): GEMMA_4,
    ("<start_of_turn>model",): GEMMA_3,
    ("<|start_header_id|>assistant<|end_header_id|>",): LLAMA_3,
    ("[/INST]", "[SYSTEM_PROMPT]"): MISTRAL_TEKKEN,
    ("[/INST]",): MISTRAL,
    ("[gMASK]<sop>",): GLM_4,
    ("<|endofuser|>", "<|assistant|>"): DOTS_OCR,
    ("<end_of_utterance>",): SMOLVLM,
    ("<|user|>", "<|assistant|>", "<|end|>"): PHI_3,
    ("<|im_start|>", "<|im_end|>"): CHATML,
}
"""Most particular first."""


def tags_of(chat_template: str) -> Tags | None:
    """The tags that the chat template of a model's file would write; None where they cannot be told."""
    for marks, tags in _KNOWN_BY.items():
        if all(mark in chat_template for mark in marks):
            return tags
    return None
