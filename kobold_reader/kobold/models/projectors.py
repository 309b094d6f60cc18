"""The kinds of projectors (mmproj) that KoboldCpp loads; the table is `projectors.toml`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from kobold_reader.kobold.tables import LazyTable, read_toml

DEEPSTACK = re.compile(r"v\.deepstack\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class ProjectorKind:
    """One kind of projector; the fields are explained in `projectors.toml`."""

    name: str
    width_from: tuple[tuple[str, int], ...] = ()
    architectures: frozenset[str] = frozenset()
    min_version: str = "1.115"
    image: str = ""
    image_token: str = ""
    vision_tokens: tuple[int, int] | None = None
    batch_tokens: int = 1024
    needs_template: bool = True


@cache
def _data() -> dict[str, Any]:
    return read_toml("kobold_reader.kobold.models", "projectors.toml")


def _kind(name: str, row: Mapping[str, Any]) -> ProjectorKind:
    fields = dict(row)
    fields["width_from"] = tuple((tensor, axis) for tensor, axis in row["width_from"])
    fields["architectures"] = frozenset(row.get("architectures", ()))
    if "vision_tokens" in row:
        least, most = row["vision_tokens"]
        fields["vision_tokens"] = (least, most)
    return ProjectorKind(name, **fields)


KINDS: Mapping[str, ProjectorKind] = LazyTable(
    lambda: {name: _kind(name, row) for name, row in _data()["kinds"].items()}
)
"""By `clip.projector_type`."""


def architectures_that_see() -> frozenset[str]:
    """Architectures of language models that are made to see."""
    return frozenset(_data()["vision_architectures"])


def audio_kinds() -> frozenset[str]:
    """Projectors that only hear."""
    return frozenset(_data()["audio_kinds"])


def image_tokens_known() -> frozenset[str]:
    """Tokens that some projector needs in the vocabulary of its language model."""
    return frozenset(kind.image_token for kind in KINDS.values() if kind.image_token)


def width_of(kind: str, tensors: Mapping[str, tuple[int, ...]]) -> int | None:
    """Return how wide a language model's input must be for a projector of that kind; None where it cannot be told.

    The tensors tell. `clip.vision.projection_dim` does not: in LLaVA's and MobileVLM's files it is CLIP's own.
    """
    rule = KINDS.get(kind)
    found = rule.width_from if rule else ()
    width = next((tensors[name][axis] for name, axis in found if len(tensors.get(name, ())) > axis), None)
    if width is not None and kind == "qwen3vl_merger":  # each deepstack layer is one more input beside the first
        width *= 1 + len({match[1] for name in tensors if (match := DEEPSTACK.match(name))})
    return width
