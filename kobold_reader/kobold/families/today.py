"""General vision models of today: they read, describe, and follow instructions.

Sizes and token rules are KoboldCpp 1.115.1's (`tools/mtmd/clip.cpp`).
"""

from __future__ import annotations

from typing import Final

from kobold_reader.kobold.families import templates, wording
from kobold_reader.kobold.families.family import Decoding, Family, ImageRule

__all__ = ["TODAY"]

_TO_MARKDOWN: Final = wording.general_prompts(wording.TO_MARKDOWN)
_JUST_TRANSCRIBE: Final = wording.general_prompts(wording.JUST_TRANSCRIBE)
_TRANSCRIBE: Final = wording.general_prompts(wording.TRANSCRIBE)

_QWEN_2: Final = ImageRule("patches", tokens=2048, patch_px=28, min_tokens=8)
_QWEN_2_PIXELS: Final = 2048 * 28 * 28
"""KoboldCpp allows 2048 tokens where llama.cpp allows 4096."""
_QWEN_3: Final = ImageRule("patches", tokens=2048, patch_px=32, min_tokens=8)
_QWEN_3_PIXELS: Final = 2048 * 32 * 32
_QWEN_2_ENCODER: Final = "Qwen ViT, 28 px a token, up to 1.6 MP"
_QWEN_3_ENCODER: Final = "Qwen ViT, 32 px a token, up to 2.1 MP"
_THOUGHTLESS: Final = "<think>\n\n</think>\n\n"
"""An empty thought, as Qwen's own template writes it to switch thinking off."""

_GEMMA_4: Final = ImageRule("patches", tokens=280, patch_px=48, min_tokens=40)
_GEMMA_4_PIXELS: Final = 280 * 48 * 48
_GEMMA_4_ENCODER: Final = "48 px a token, up to 0.6 MP (280 tokens)"

_INTERNVL: Final = ImageRule("fixed", tokens=13 * 256)  # the most; the nearest grid is taken, however small the picture
_INTERNVL_SIDE_PX: Final = 3 * 448  # 2 by 3 tiles have the shape of a page
_INTERNVL_ENCODER: Final = "InternViT, up to 12 tiles of 448 px and an overview"

_MINICPM: Final = ImageRule("slices", tokens=64, patch_px=448, max_slices=9)
_MINICPM_PIXELS: Final = 1344 * 1344
_MINICPM_ENCODER: Final = "SigLIP 400M, up to 9 slices of 448 px"

TODAY: Final = (
    Family(
        name="qwen2.5-vl",
        patterns=(r"qwen[-_. ]?2[._]5[-_. ]?vl",),
        **templates.CHATML,
        prompts=_TO_MARKDOWN,
        image=_QWEN_2,
        max_side_px=2048,
        max_pixels=_QWEN_2_PIXELS,
        min_version="1.90",
        projector="qwen2.5vl_merger",
        language_model="Qwen2.5 3B, 7B, 32B, 72B",
        encoder=_QWEN_2_ENCODER,
        tested=True,
    ),
    Family(
        name="qwen2-vl",
        patterns=(r"qwen[-_. ]?2[-_. ]?vl",),
        **templates.CHATML,
        prompts=_TO_MARKDOWN,
        image=_QWEN_2,
        max_side_px=2048,
        max_pixels=_QWEN_2_PIXELS,
        min_version="1.80",
        projector="qwen2vl_merger",
        language_model="Qwen2 2B, 7B, 72B",
        encoder=_QWEN_2_ENCODER,
        tested=True,
    ),
    Family(
        name="qwen3-vl-thinking",
        patterns=(r"qwen[-_. ]?3[-_. ]?vl.*thinking",),
        **templates.CHATML,
        prompts=_TO_MARKDOWN,
        thinking="always",
        no_think=_THOUGHTLESS,
        image=_QWEN_3,
        max_side_px=2048,
        max_pixels=_QWEN_3_PIXELS,
        min_version="1.102",
        projector="qwen3vl_merger",
        language_model="Qwen3 2B to 235B",
        encoder=_QWEN_3_ENCODER,
        tested=True,
    ),
    Family(
        name="qwen3-vl",
        patterns=(r"qwen[-_. ]?3[-_. ]?vl",),
        **templates.CHATML,
        prompts=_TO_MARKDOWN,
        image=_QWEN_3,
        max_side_px=2048,
        max_pixels=_QWEN_3_PIXELS,
        min_version="1.102",
        projector="qwen3vl_merger",
        language_model="Qwen3 2B to 235B",
        encoder=_QWEN_3_ENCODER,
        tested=True,
    ),
    Family(
        name="qwen3.5",
        patterns=(r"qwen[-_. ]?3[._]5(?!\d)",),
        **templates.CHATML,
        prompts=_TO_MARKDOWN,
        thinking="optional",
        no_think=_THOUGHTLESS,
        image=_QWEN_3,
        max_side_px=2048,
        max_pixels=_QWEN_3_PIXELS,
        min_version="1.111",
        projector="qwen3vl_merger",
        language_model="Qwen3.5 0.8B to 397B",
        encoder=_QWEN_3_ENCODER,
        tested=True,
    ),
    Family(
        name="qwen-vl",
        patterns=(r"qwen.*vl",),
        **templates.CHATML,
        marks=("<|vision_start|>",),
        prompts=_TO_MARKDOWN,
        thinking="optional",  # no empty thought, though: Qwen2 and 2.5 do not know that tag
        image=_QWEN_2,
        max_side_px=2048,
        max_pixels=_QWEN_2_PIXELS,
        min_version="1.80",
        projector="qwen2vl_merger",
        language_model="any Qwen-VL whose name does not tell which",
        encoder="as Qwen2-VL",
        tested=True,
    ),
    Family(
        name="gemma-3",
        patterns=(r"gemma[-_. ]?3(?!n|[-_. ]?n)(?![\d])", r"medgemma"),
        **templates.GEMMA_3,
        marks=("<start_of_image>",),
        prompts=_TO_MARKDOWN,
        image=ImageRule("fixed", tokens=256),
        max_side_px=896,
        min_version="1.86",
        projector="gemma3",
        language_model="Gemma 3 4B, 12B, 27B",
        encoder="SigLIP 400M, 896 px",
        tested=True,
    ),
    Family(
        name="gemma-4",
        patterns=(r"gemma[-_. ]?4[-_. ]?e\db",),
        **templates.GEMMA_4,
        marks=("<|turn>model", "<|think|>"),
        prompts=_TO_MARKDOWN,
        thinking="optional",
        image=_GEMMA_4,
        max_side_px=1024,
        max_pixels=_GEMMA_4_PIXELS,
        min_version="1.111",
        projector="gemma4v",
        language_model="Gemma 4 E2B, E4B",
        encoder=_GEMMA_4_ENCODER,
        tested=True,
    ),
    Family(
        name="gemma-4-large",
        patterns=(r"gemma[-_. ]?4(?!\d|b)",),
        **templates.GEMMA_4,
        marks=("<|turn>model", "<|think|>", r"<|channel>thought\n<channel|>"),
        prompts=_TO_MARKDOWN,
        thinking="optional",
        no_think="<|channel>thought\n<channel|>",
        image=_GEMMA_4,
        max_side_px=1024,
        max_pixels=_GEMMA_4_PIXELS,
        min_version="1.111",
        projector="gemma4v",
        language_model="Gemma 4 26B-A4B, 31B",
        encoder=_GEMMA_4_ENCODER,
        tested=True,
    ),
    Family(
        name="internvl-2.5",
        patterns=(r"internvl[-_. ]?2[._]5",),
        **templates.CHATML,
        prompts=_TRANSCRIBE,
        image=_INTERNVL,
        max_side_px=_INTERNVL_SIDE_PX,
        min_version="1.91",
        projector="internvl",
        language_model="InternLM2.5, Qwen2.5 1B to 78B",
        encoder=_INTERNVL_ENCODER,
        tested=True,
    ),
    Family(
        name="internvl-3.5",
        patterns=(r"internvl[-_. ]?3[._]5",),
        **templates.CHATML,
        prompts=_TRANSCRIBE,
        image=_INTERNVL,
        max_side_px=_INTERNVL_SIDE_PX,
        min_version="1.91",
        projector="internvl",
        language_model="Qwen3 1B to 241B",
        encoder=_INTERNVL_ENCODER,
        tested=True,
    ),
    Family(
        name="internvl-3",
        patterns=(r"internvl[-_. ]?3",),
        **templates.CHATML,
        marks=("<IMG_CONTEXT>",),
        prompts=_TRANSCRIBE,
        image=_INTERNVL,
        max_side_px=_INTERNVL_SIDE_PX,
        min_version="1.91",
        projector="internvl",
        language_model="Qwen2.5 1B to 78B",
        encoder=_INTERNVL_ENCODER,
        tested=True,
    ),
    Family(
        name="pixtral",
        patterns=(r"pixtral",),
        **templates.MISTRAL,
        marks=("[IMG]",),
        prompts=_TRANSCRIBE,
        # 1024 tokens of 16 px, unless both --visionmintokens and --visionmaxtokens are raised.
        image=ImageRule("patches", tokens=1024, patch_px=16, min_tokens=8, row_tokens=1),
        max_side_px=1024,
        max_pixels=1024 * 16 * 16,
        min_version="1.90",
        projector="pixtral",
        language_model="Mistral Nemo 12B",
        encoder="Pixtral ViT, 16 px a token, up to 0.26 MP",
        tested=True,
    ),
    Family(
        name="mistral-small-3",
        patterns=(r"mistral[-_. ]?small[-_. ]?3[._][12]", r"magistral[-_. ]?small[-_. ]?(?:1[._]2|2509)"),
        **templates.MISTRAL_TEKKEN,
        marks=("[IMG]", "[SYSTEM_PROMPT]"),
        prompts=_TRANSCRIBE,
        image=ImageRule("patches", tokens=1024, patch_px=28, min_tokens=8, row_tokens=1),
        max_side_px=1540,
        max_pixels=1024 * 28 * 28,
        min_version="1.91",
        projector="pixtral",
        language_model="Mistral Small 3.1, 3.2 24B",
        encoder="Pixtral ViT, 28 px a token, up to 0.8 MP",
        tested=True,
    ),
    Family(
        name="minicpm-v-4.6",
        patterns=(r"minicpm[-_. ]?[vo][-_. ]?4[._]6",),
        **templates.CHATML,
        prompts=_JUST_TRANSCRIBE,
        thinking="optional",
        image=_MINICPM,
        max_side_px=2048,
        max_pixels=_MINICPM_PIXELS,
        min_version="1.114",
        projector="minicpmv4_6",
        language_model="Qwen3.5 0.8B",
        encoder=_MINICPM_ENCODER,
    ),
    Family(
        name="minicpm-v-4.5",
        patterns=(r"minicpm[-_. ]?[vo][-_. ]?4[._]5",),
        **templates.CHATML,
        prompts=_JUST_TRANSCRIBE,
        thinking="optional",
        no_think=_THOUGHTLESS,
        image=_MINICPM,
        max_side_px=2048,
        max_pixels=_MINICPM_PIXELS,
        min_version="1.98",
        projector="resampler",
        language_model="Qwen3 8B",
        encoder=_MINICPM_ENCODER,
        tested=True,
    ),
    Family(
        name="minicpm-v-4",
        patterns=(r"minicpm[-_. ]?[vo][-_. ]?4(?![._]?[1-9])",),
        **templates.CHATML,
        prompts=_JUST_TRANSCRIBE,
        image=_MINICPM,
        max_side_px=2048,
        max_pixels=_MINICPM_PIXELS,
        min_version="1.98",
        projector="resampler",
        language_model="MiniCPM4 3B",
        encoder=_MINICPM_ENCODER,
        tested=True,
    ),
    Family(
        name="smolvlm",
        patterns=(r"smolvlm",),
        **templates.SMOLVLM,
        marks=("<end_of_utterance>",),
        prompts=_TRANSCRIBE,
        trusts_server=False,  # KoboldCpp knows no such template and writes Alpaca
        # 64 tokens a tile of 512 px, 81 a tile of 384 px in the 2.2B; with the marks around each.
        image=ImageRule("tiles", tokens=81 + 4, patch_px=512, max_slices=16, longest_px=2048),
        max_side_px=2048,
        min_version="1.90",
        projector="idefics3",
        language_model="SmolLM2 256M, 500M, 2.2B",
        encoder="SigLIP, 4 by 4 tiles of 512 px and an overview",
        tested=True,
    ),
    Family(
        name="lfm2-vl",
        patterns=(r"lfm2(?:[._]5)?[-_. ]?vl",),
        **templates.CHATML,
        prompts=_TRANSCRIBE,
        decoding=Decoding(temperature=0.1, min_p=0.15, rep_pen=1.05),  # the maker's
        image=ImageRule("patches", tokens=256, patch_px=32, min_tokens=64),
        max_side_px=1024,
        max_pixels=512 * 512,
        min_version="1.98",
        projector="lfm2",
        language_model="LFM2 350M, 1.2B, 2.6B",
        encoder="SigLIP 2, 32 px a token, up to 0.26 MP",
        tested=True,
    ),
    Family(
        name="glm-4v",
        patterns=(r"glm[-_. ]?4[._]\d[-_. ]?v",),
        **templates.GLM_4_NO_THINK,
        marks=("[gMASK]<sop>", "<|begin_of_image|>"),
        prompts=_TRANSCRIBE,
        trusts_server=False,  # the server's template opens a thought
        thinking="optional",
        no_think="<think></think>",
        image=ImageRule("patches", tokens=4096, patch_px=28, min_tokens=8),
        max_side_px=2048,
        max_pixels=4096 * 28 * 28,
        min_version="1.105",
        projector="glm4v",
        language_model="GLM-4.1V 9B, 4.5V, 4.6V",
        encoder="AIMv2, 28 px a token, up to 3.2 MP",
        tested=True,
    ),
    Family(
        name="granite-vision",
        patterns=(r"granite[-_. ]?vision[-_. ]?3", r"granite[-_. ]?3[._]\d[-_. ]?vision"),
        **templates.GRANITE_VISION,
        prompts=_TRANSCRIBE,
        trusts_server=False,  # KoboldCpp takes its template for Phi 3.5's, with an end tag Granite does not know
        image=ImageRule("tiles", tokens=729, patch_px=384, max_slices=10),
        max_side_px=1152,  # 2 by 3 tiles
        min_version="1.90",
        projector="mlp",
        language_model="Granite 3.1, 3.2, 3.3 2B",
        encoder="SigLIP so400m/14, up to 10 tiles of 384 px and an overview",
        tested=True,
    ),
)
"""In the order in which a model's name is looked up: the particular before the general."""
