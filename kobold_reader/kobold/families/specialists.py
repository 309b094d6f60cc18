"""Models made for reading documents, with the prompts their makers trained them with.

Most can do nothing else, and are asked for nothing else. Some know a few fixed prompts only: with any other wording
they loop or answer nothing (zai-org/GLM-OCR#220), so `takes_instructions` is False. Where a maker says temperature 0,
0.1 with a fixed seed is sent: nearly greedy, but the log-probabilities still show doubt.
"""

from __future__ import annotations

from typing import Final

from kobold_reader.kobold.families import templates, wording
from kobold_reader.kobold.families.family import Decoding, Family, ImageRule

__all__ = ["SPECIALISTS"]

_READS: Final = frozenset({"ocr"})
_LONG: Final = {"ocr": 4096}
_QWEN_25: Final = ImageRule("patches", tokens=2048, patch_px=28, min_tokens=8)
_QWEN_25_PIXELS: Final = 2048 * 28 * 28
_QWEN_ENCODER: Final = "Qwen ViT, 28 px a token, up to 1.6 MP"

SPECIALISTS: Final = (
    Family(
        name="olmocr-2",
        patterns=(r"(?<![a-z])olmocr",),
        **templates.CHATML,
        prompts={"ocr": wording.OLMOCR},
        tasks=_READS,
        max_length=_LONG,
        image=_QWEN_25,
        max_side_px=1288,
        max_pixels=_QWEN_25_PIXELS,
        min_px_per_inch=None,  # its front matter speaks of one whole page
        min_version="1.90",
        projector="qwen2.5vl_merger",
        language_model="Qwen2.5 7B",
        encoder=_QWEN_ENCODER,
        tested=True,
    ),
    Family(
        name="rolmocr",
        patterns=(r"rolm[-_. ]?ocr",),
        **templates.CHATML,
        prompts={"ocr": wording.ROLMOCR},
        tasks=_READS,
        max_length=_LONG,
        decoding=Decoding(temperature=0.2),
        image=_QWEN_25,
        max_side_px=1024,
        max_pixels=_QWEN_25_PIXELS,
        min_version="1.90",
        projector="qwen2.5vl_merger",
        language_model="Qwen2.5 7B",
        encoder=_QWEN_ENCODER,
        tested=True,
    ),
    Family(
        name="nanonets-ocr2",
        patterns=(r"nanonets[-_. ]?ocr[-_. ]?2",),
        **templates.CHATML,
        prompts={"ocr": wording.NANONETS},
        tasks=_READS,
        max_length=_LONG,
        image=_QWEN_25,
        max_side_px=2048,  # the maker: shortest side 1280
        max_pixels=_QWEN_25_PIXELS,
        min_version="1.90",
        projector="qwen2.5vl_merger",
        language_model="Qwen2.5 3B",
        encoder=_QWEN_ENCODER,
        tested=True,
    ),
    Family(
        name="nanonets-ocr-s",
        patterns=(r"nanonets[-_. ]?ocr",),
        **templates.CHATML,
        prompts={"ocr": wording.NANONETS},
        tasks=_READS,
        max_length=_LONG,
        image=_QWEN_25,
        max_side_px=1024,
        max_pixels=_QWEN_25_PIXELS,
        min_version="1.90",
        projector="qwen2.5vl_merger",
        language_model="Qwen2.5 3B",
        encoder=_QWEN_ENCODER,
        tested=True,
    ),
    Family(
        name="deepseek-ocr-2",
        patterns=(r"deepseek[-_. ]?ocr[-_. ]?2",),
        **templates.NONE,
        prompts={"ocr": "Free OCR."},
        tasks=_READS,
        takes_instructions=False,
        trusts_server=False,
        max_length=_LONG,
        image=ImageRule("fixed", tokens=1120),
        max_side_px=1024,
        min_version="1.115",
        projector="deepseekocr2",
        language_model="DeepSeek 3B",
        encoder="DeepEncoder 2, 1024 px",
    ),
    Family(
        name="deepseek-ocr",
        patterns=(r"deepseek[-_. ]?ocr",),
        **templates.NONE,
        prompts={"ocr": "Free OCR.", "caption": "Describe this image in detail."},
        tasks=frozenset({"ocr", "caption"}),
        takes_instructions=False,
        trusts_server=False,
        max_length={"ocr": 4096, "caption": 512},
        image=ImageRule("fixed", tokens=421),
        max_side_px=1280,
        min_version="1.111",
        projector="deepseekocr",
        language_model="DeepSeek 3B",
        encoder="DeepEncoder, squares of 512 to 1280 px",
        tested=True,
    ),
    Family(
        name="glm-ocr",
        patterns=(r"glm[-_. ]?ocr",),
        **templates.GLM_OCR,
        prompts={"ocr": "Text Recognition:"},
        tasks=_READS,
        takes_instructions=False,
        trusts_server=False,  # KoboldCpp may take its template for GLM 4.7's, which opens a thought
        max_length=_LONG,
        image=ImageRule("patches", tokens=4096, patch_px=28, min_tokens=8),
        max_side_px=2048,
        max_pixels=4096 * 28 * 28,
        min_version="1.111",
        projector="glm4v",
        language_model="GLM 0.5B",
        encoder="CogViT, 28 px a token, up to 3.2 MP",
        tested=True,
    ),
    Family(
        name="lightonocr",
        patterns=(r"lighton[-_. ]?ocr",),
        **templates.LIGHTON_OCR,
        prompts={"ocr": ""},
        tasks=_READS,
        takes_instructions=False,
        trusts_server=False,  # an empty system turn, then nothing but the image
        max_length=_LONG,
        decoding=Decoding(temperature=0.2, top_p=0.9),
        image=ImageRule("patches", tokens=55 * 55, patch_px=28, min_tokens=8, longest_px=1540),
        max_side_px=1540,
        min_version="1.102",
        projector="lightonocr",
        language_model="Qwen3 0.6B",
        encoder="Pixtral ViT, 28 px a token, longest side 1540 px",
        tested=True,
    ),
    Family(
        name="paddleocr-vl",
        patterns=(r"paddle[-_. ]?ocr[-_. ]?vl",),
        **templates.PADDLE_OCR,
        prompts={"ocr": "OCR:"},
        tasks=_READS,
        takes_instructions=False,
        trusts_server=False,
        max_length=_LONG,
        image=ImageRule("patches", tokens=1280, patch_px=28, min_tokens=188),
        max_side_px=2048,
        max_pixels=1280 * 28 * 28,
        min_version="1.109",
        projector="paddleocr",
        language_model="ERNIE 4.5 0.3B",
        encoder="NaViT, 28 px a token, up to 1 MP",
        tested=True,
    ),
    Family(
        name="dots.ocr",
        patterns=(r"dots[-_. ]?m?ocr",),
        **templates.DOTS_OCR,
        marks=("<|endofuser|>", "<|imgpad|>"),
        prompts={"ocr": "Extract the text content from this image."},
        tasks=_READS,
        takes_instructions=False,
        trusts_server=False,  # KoboldCpp takes its template for Phi 3.5's
        max_length=_LONG,
        image=ImageRule("patches", tokens=14_400, patch_px=28, min_tokens=4),
        max_side_px=2048,
        max_pixels=4096 * 28 * 28,  # it takes 11 MP; that would be 14,400 tokens
        min_version="1.112",
        projector="dots_ocr",
        language_model="Qwen2.5 1.7B",
        encoder="NaViT, 28 px a token, up to 11 MP",
        tested=True,
    ),
)
"""Looked up before all others: their names often hold that of the model they were made from."""
