"""Everything that knows KoboldCpp: its HTTP interface, its settings, the models that it runs.

`client` makes one request to one server, `pool` chooses servers and tries again, `families` knows what a model wants to
be asked, `gguf` and `pairing` tell which model files go together.
"""

from concurrent.futures import CancelledError

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
from kobold_reader.kobold.transport import address_kind, check_way, normalize_url

__all__ = [
    "FAMILIES",
    "RECOMMENDED",
    "SETTINGS",
    "CancelledError",
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
