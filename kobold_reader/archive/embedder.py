"""The embedder of an archive: chosen when the archive is made, recorded, and opened again from the record."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kobold_reader.errors import ConfigError
from kobold_reader.options import EmbedderKind

__all__ = ["Embedder", "ServerAccess", "choose_embedder", "open_embedder", "record_of"]

_KOBOLD_MAX_TOKENS: Final = 480
"""Embedding models of the BERT kind take 512; KoboldCpp silently cuts longer texts at the front."""


@dataclass(frozen=True, slots=True)
class ServerAccess:
    """How to reach KoboldCpp, where it embeds or answers questions."""

    urls: Sequence[str] = ("http://127.0.0.1:5001",)
    password: str | None = None


@dataclass(frozen=True, slots=True)
class Embedder:
    """An embedder with what must never change within one archive."""

    kind: str
    name: str
    """Of the model."""
    dimension: int
    max_tokens: int
    """Longest text it takes, in its own tokens."""
    model: Any
    """A LlamaIndex BaseEmbedding."""
    tokenizer: Any = None
    """From a text to its tokens, for splitting; None: LlamaIndex's own."""


def record_of(embedder: Embedder | None) -> str:
    """Return what an archive records of its embedder; None: words only."""
    if embedder is None:
        return json.dumps({"kind": "none"})
    return json.dumps({name: getattr(embedder, name) for name in ("kind", "name", "dimension", "max_tokens")})


def choose_embedder(kind: EmbedderKind | None, access: ServerAccess) -> Embedder | None:
    """Return the embedder for a new archive; None: words only.

    Args:
        kind: None: MiniLM if it is installed, else words only.
        access: KoboldCpp, for its own embedder.

    Raises:
        MissingExtraError: MiniLM was asked for and is not installed.
        ServerError: KoboldCpp was asked for and has no embedding model, or does not answer.
        ConfigError: No such embedder.
    """
    from kobold_reader.embeddings import MiniLMEmbedding

    match kind:
        case "none":
            return None
        case None:
            return _minilm() if MiniLMEmbedding.available() else None
        case "minilm":
            return _minilm()
        case "koboldcpp":
            return _koboldcpp(access)
    raise ConfigError(f"embedder: {kind!r} is not one of minilm, koboldcpp, none.")


def open_embedder(record: Mapping[str, Any], access: ServerAccess) -> Embedder:
    """Return the embedder that an archive has recorded.

    Raises:
        MissingExtraError: It is not installed here.
        ServerError: It is KoboldCpp's, and the server does not answer.
        ConfigError: KoboldCpp runs another embedding model now: its vectors would not fit.
    """
    embedder = _minilm() if record["kind"] == "minilm" else _koboldcpp(access)
    if (embedder.name, embedder.dimension) != (record["name"], record["dimension"]):
        raise ConfigError(
            f"the archive's vectors were made by {record['name']} ({record['dimension']} dimensions), but the server "
            f"has {embedder.name} ({embedder.dimension}) loaded.",
            hint="Load that model, or make the vectors anew with index --reembed.",
        )
    return embedder


def _minilm() -> Embedder:
    from kobold_reader.embeddings import MiniLMEmbedding

    model = MiniLMEmbedding()
    dimension = len(model.get_query_embedding("ready"))
    return Embedder("minilm", "all-MiniLM-L6-v2", dimension, 256, model, model.tokenizer)


def _koboldcpp(access: ServerAccess) -> Embedder:
    from kobold_reader.embeddings import KoboldEmbedding

    model = KoboldEmbedding(api_url=list(access.urls), api_password=access.password)
    dimension = len(model.get_query_embedding("ready"))
    return Embedder("koboldcpp", model.loaded_model(), dimension, _KOBOLD_MAX_TOKENS, model)
