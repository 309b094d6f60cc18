"""Everything that knows KoboldCpp: its HTTP interface, its settings, the models that it runs.

`client` makes one request to one server, `pool` chooses servers and tries again, `families` knows what a model wants to
be asked, `gguf` and `pairing` tell which model files go together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kobold_reader.lazy import lazy_names

if TYPE_CHECKING:
    from kobold_reader.kobold.addresses import address_kind, check_way, normalize_url
    from kobold_reader.kobold.client import KoboldClient
    from kobold_reader.kobold.families import (
        FAMILIES,
        RECOMMENDED,
        Decoding,
        Family,
        choose_family,
        family_of,
        image_tokens,
        render_prompt,
    )
    from kobold_reader.kobold.pool import Lease, RetryPolicy, ServerHealth, ServerPool
    from kobold_reader.kobold.protocol import (
        SETTINGS,
        Completion,
        ExpandedPrompt,
        GenerateRequest,
        ServerInfo,
        classify_error,
        parse_generate,
        spoken,
        without_begun,
    )

__all__ = [
    "FAMILIES",
    "RECOMMENDED",
    "SETTINGS",
    "Completion",
    "Decoding",
    "ExpandedPrompt",
    "Family",
    "GenerateRequest",
    "KoboldClient",
    "Lease",
    "RetryPolicy",
    "ServerHealth",
    "ServerInfo",
    "ServerPool",
    "address_kind",
    "check_way",
    "choose_family",
    "classify_error",
    "family_of",
    "image_tokens",
    "normalize_url",
    "parse_generate",
    "render_prompt",
    "spoken",
    "without_begun",
]

if not TYPE_CHECKING:  # else a type checker takes every name for one of these
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "addresses": ("address_kind", "check_way", "normalize_url"),
            "client": ("KoboldClient",),
            "families": (
                "FAMILIES",
                "RECOMMENDED",
                "Decoding",
                "Family",
                "choose_family",
                "family_of",
                "image_tokens",
                "render_prompt",
            ),
            "pool": (
                "Lease",
                "RetryPolicy",
                "ServerHealth",
                "ServerPool",
            ),
            "protocol": (
                "SETTINGS",
                "Completion",
                "ExpandedPrompt",
                "GenerateRequest",
                "ServerInfo",
                "classify_error",
                "parse_generate",
                "spoken",
                "without_begun",
            ),
        },
    )
