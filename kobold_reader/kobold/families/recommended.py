"""Which model for how much graphics memory.

From the makers' file sizes and papers, with room for the projector and a context of 8192 tokens. Nothing of it was
measured here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

__all__ = ["RECOMMENDED", "Recommendation"]


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One model to try.

    Attributes:
        family: Name of its row.
        model: Size and quantisation, as its files are called.
        note: Why, and what to expect of it.
    """

    family: str
    model: str
    note: str


RECOMMENDED: Final[Mapping[int, tuple[Recommendation, ...]]] = MappingProxyType(
    {
        6: (
            Recommendation(
                "lightonocr",
                "LightOnOCR-2-1B Q8_0, about 2 GB with its projector",
                "Reads only: no captions, no hints. Small and fast; ranked first on real historical scans.",
            ),
            Recommendation(
                "qwen3-vl",
                "Qwen3-VL-4B-Instruct Q4_K_M, about 3.5 GB with its projector",
                "Reads, describes, and takes a hint; many languages.",
            ),
            Recommendation(
                "qwen2.5-vl",
                "Qwen2.5-VL-3B-Instruct Q4_K_M, about 3.5 GB with its projector",
                "For KoboldCpp before 1.102.",
            ),
        ),
        12: (
            Recommendation(
                "qwen3-vl",
                "Qwen3-VL-8B-Instruct Q4_K_M, about 6.5 GB with its projector",
                "The first to try: reads print and handwriting, describes, takes a hint.",
            ),
            Recommendation(
                "olmocr-2",
                "olmOCR-2-7B-1025 Q4_K_M, about 6 GB with its projector",
                "Reads only: trained on scans of documents, with tables and formulas.",
            ),
            Recommendation(
                "qwen2.5-vl",
                "Qwen2.5-VL-7B-Instruct Q4_K_M, about 6 GB with its projector",
                "For KoboldCpp before 1.102; long in use.",
            ),
        ),
        24: (
            Recommendation(
                "qwen3-vl",
                "Qwen3-VL-30B-A3B-Instruct Q4_K_M, about 20 GB with its projector",
                "Knows more than the 8B and is no slower: only 3B of it work at a time.",
            ),
            Recommendation(
                "mistral-small-3",
                "Mistral-Small-3.2-24B-Instruct-2506 Q4_K_M, about 15 GB with its projector",
                "Strong in European languages; sees 0.8 MP, so pages are read in tiles.",
            ),
            Recommendation(
                "olmocr-2",
                "olmOCR-2-7B-1025 Q8_0, about 10 GB with its projector",
                "Reads only; nothing lost to quantisation, and room for a long context.",
            ),
        ),
    }
)
"""By GB of graphics memory, best first."""
