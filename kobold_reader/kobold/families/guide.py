"""The pairs of KoboldCpp's Vision Model Guide, and the one it began with.

Small CLIP encoders, 2023 and 2024. They see 336 or 384 px: enough for a caption, and for a page only in tiles. Most
of their files have no chat template, for which KoboldCpp would write Alpaca.
"""

from __future__ import annotations

from typing import Final

from kobold_reader.kobold.families import templates, wording
from kobold_reader.kobold.families.family import Family, ImageRule

__all__ = ["GUIDE"]

_CLIP: Final = "CLIP ViT-L/14, 336 px"
_CLIP_TILES: Final = "CLIP ViT-L/14, up to 4 tiles of 336 px and an overview"
_SIGLIP: Final = "SigLIP so400m/14, 384 px"

_ONE_VIEW: Final = ImageRule("fixed", tokens=576)
_TILES: Final = ImageRule("fixed", tokens=5 * 576)  # what a page gets; smaller pictures get fewer
_PAGE_IN_TILES_PX: Final = 672
"""A page is fitted into 2 by 2 tiles; only a strip three times as long as wide would get 1008 px."""
_MOBILE: Final = ImageRule("fixed", tokens=144)
_SIGLIP_VIEW: Final = ImageRule("fixed", tokens=729)

_PROMPTS: Final = wording.general_prompts(wording.TRANSCRIBE)

GUIDE: Final = (
    Family(
        name="llava-phi-3-mini",
        patterns=(r"llava[-_. ]?phi[-_. ]?3",),
        **templates.PHI_3,
        prompts=_PROMPTS,
        image=_ONE_VIEW,
        max_side_px=336,
        projector="mlp",
        language_model="Phi-3 mini 4k 3.8B",
        encoder=_CLIP,
        tested=True,
    ),
    Family(
        name="llama-3.1-unhinged-vision",
        patterns=(r"unhinged[-_. ]?vision", r"llama[-_. ]?3[._]1[-_. ]?unhinged", r"llava[-_. ]?llama[-_. ]?3[._]1"),
        **templates.LLAMA_3,
        prompts=_PROMPTS,
        image=_ONE_VIEW,
        max_side_px=336,
        projector="mlp",
        language_model="Llama 3.1 8B (Unhinged tune)",
        encoder=_CLIP,
        tested=True,
    ),
    Family(
        name="llava-llama-3",
        patterns=(r"llava[-_. ]?llama[-_. ]?3(?![._]\d)",),
        **templates.LLAMA_3,
        prompts=_PROMPTS,
        image=_ONE_VIEW,
        max_side_px=336,
        projector="mlp",
        language_model="Llama 3 8B (XTuner)",
        encoder=_CLIP,
        tested=True,
    ),
    Family(
        name="llava-1.5-mistral",
        patterns=(r"bakllava", r"llava[-_. ]?v?1[._]5[-_. ]?mistral", r"mistral[-_. ]?7b[-_. ]?llava[-_. ]?v?1[._]5"),
        **templates.VICUNA,
        prompts=_PROMPTS,
        image=_ONE_VIEW,
        max_side_px=336,
        projector="mlp",
        language_model="Mistral 7B",
        encoder=_CLIP,
        tested=True,
    ),
    Family(
        name="llava-phi-2",
        patterns=(r"llava[-_. ]?phi[-_. ]?2", r"llava[-_. ]?v?1[._]5[-_. ]?phi[-_. ]?2", r"phi[-_. ]?2[-_. ]?llava"),
        **templates.VICUNA,
        prompts=_PROMPTS,
        image=_ONE_VIEW,
        max_side_px=336,
        projector="mlp",
        language_model="Phi-2 3B",
        encoder=_CLIP,
        tested=True,
    ),
    Family(
        name="llava-1.5",
        patterns=(r"llava[-_. ]?v?1[._]5",),
        **templates.VICUNA,
        prompts=_PROMPTS,
        image=_ONE_VIEW,
        max_side_px=336,
        projector="mlp",
        language_model="Vicuna 1.5 7B, 13B",
        encoder=_CLIP,
        tested=True,
    ),
    Family(
        name="llava-next-video-mistral",
        patterns=(r"llava[-_. ]?next[-_. ]?video",),
        **templates.MISTRAL,
        prompts=_PROMPTS,
        image=_TILES,
        max_side_px=_PAGE_IN_TILES_PX,
        projector="mlp",
        language_model="Mistral 7B",
        encoder=_CLIP_TILES,
        tested=True,
    ),
    Family(
        name="llava-1.6-34b",
        patterns=(r"llava[-_. ]?(?:v?1[._]6|next)[-_. ]?(?:34b|yi|nous|hermes)", r"yi[-_. ]?34b[-_. ]?llava"),
        **templates.CHATML,
        prompts=_PROMPTS,
        image=_TILES,
        max_side_px=_PAGE_IN_TILES_PX,
        projector="mlp",
        language_model="Nous-Hermes-2-Yi 34B",
        encoder=_CLIP_TILES,
        tested=True,
    ),
    Family(
        name="llava-1.6-llama-3",
        patterns=(
            r"llama[-_. ]?3[-_. ]?(?:8b[-_. ]?)?llava[-_. ]?(?:next|v?1[._]6)",
            r"llava[-_. ]?(?:v?1[._]6|next)[-_. ]?llama[-_. ]?3",
        ),
        **templates.LLAMA_3,
        prompts=_PROMPTS,
        image=_TILES,
        max_side_px=_PAGE_IN_TILES_PX,
        projector="mlp",
        language_model="Llama 3 8B",
        encoder=_CLIP_TILES,
        tested=True,
    ),
    Family(
        name="llava-1.6-mistral",
        patterns=(r"llava[-_. ]?(?:v?1[._]6|next)[-_. ]?mistral",),
        **templates.MISTRAL,
        prompts=_PROMPTS,
        image=_TILES,
        max_side_px=_PAGE_IN_TILES_PX,
        projector="mlp",
        language_model="Mistral 7B",
        encoder=_CLIP_TILES,
        tested=True,
    ),
    Family(
        name="llava-1.6-vicuna",
        patterns=(r"llava[-_. ]?(?:v?1[._]6|next)",),
        **templates.VICUNA,
        prompts=_PROMPTS,
        image=_TILES,
        max_side_px=_PAGE_IN_TILES_PX,
        projector="mlp",
        language_model="Vicuna 1.5 7B, 13B",
        encoder=_CLIP_TILES,
        tested=True,
    ),
    Family(
        name="mobilevlm-v2",
        patterns=(r"mobilevlm[-_. ]?v[-_. ]?2", r"mobilevlm[-_. ]?2[._]1"),
        **templates.VICUNA,
        prompts=_PROMPTS,
        image=_MOBILE,
        max_side_px=336,
        projector="ldpv2",
        language_model="MobileLLaMA 1.4B",
        encoder=_CLIP,
        tested=True,
    ),
    Family(
        name="mobilevlm",
        patterns=(r"mobilevlm",),
        **templates.VICUNA,
        prompts=_PROMPTS,
        image=_MOBILE,
        max_side_px=336,
        projector="ldp",
        language_model="MobileLLaMA 1.4B",
        encoder=_CLIP,
        tested=True,
    ),
    Family(
        name="minicpm-v-2.5",
        patterns=(r"minicpm[-_. ]?(?:llama[-_. ]?3[-_. ]?)?v[-_. ]?2[._]5",),
        **templates.LLAMA_3,
        prompts=wording.general_prompts(wording.JUST_TRANSCRIBE),
        image=ImageRule("slices", tokens=96, patch_px=448, max_slices=9),
        max_side_px=2048,
        max_pixels=1344 * 1344,
        projector="resampler",
        language_model="Llama 3 8B",
        encoder="SigLIP 400M, up to 9 slices of 448 px",
        tested=True,
    ),
    Family(
        name="minicpm-v-2.6",
        patterns=(r"minicpm[-_. ]?[vo][-_. ]?2[._]6",),
        **templates.CHATML,
        prompts=wording.general_prompts(wording.JUST_TRANSCRIBE),
        image=ImageRule("slices", tokens=64, patch_px=448, max_slices=9),
        max_side_px=2048,
        max_pixels=1344 * 1344,
        projector="resampler",
        language_model="Qwen2 7B",
        encoder="SigLIP 400M, up to 9 slices of 448 px",
        tested=True,
    ),
    Family(
        name="sharegpt4v",
        patterns=(r"share[-_. ]?gpt[-_. ]?4v",),
        **templates.VICUNA,
        prompts=_PROMPTS,
        image=_ONE_VIEW,
        max_side_px=336,
        projector="mlp",
        language_model="Vicuna 1.5 7B, 13B",
        encoder=_CLIP,
        tested=True,
    ),
    Family(
        name="bunny-llama-3",
        patterns=(r"bunny.*llama[-_. ]?3",),
        **templates.BUNNY,
        prompts=_PROMPTS,
        trusts_server=False,  # the file has Llama 3's template, which Bunny was not trained with
        image=_SIGLIP_VIEW,
        max_side_px=384,
        projector="mlp",
        language_model="Llama 3 8B",
        encoder=_SIGLIP,
        tested=True,
    ),
    Family(
        name="bunny-phi-3",
        patterns=(r"bunny.*(?:4b|phi[-_. ]?3)",),
        **templates.BUNNY,
        prompts=_PROMPTS,
        trusts_server=False,
        image=_SIGLIP_VIEW,
        max_side_px=384,
        projector="mlp",
        language_model="Phi-3 mini 4k 4B",
        encoder=_SIGLIP,
        tested=True,
    ),
)
"""In the order in which a model's name is looked up: the particular before the general."""
