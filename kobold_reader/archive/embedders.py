"""The embedder of an archive: chosen by name when it is made, recorded, and opened again as it was recorded."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from kobold_reader.errors import ConfigError
from kobold_reader.options import EMBEDDERS, FASTEMBED

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import BaseEmbedding

OWN: Final = "python"
"""The kind of an embedder that a Python program brings."""
_USUAL_TOKENS: Final = 256
"""What every model takes whose limit is not known."""


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
    """The model's name."""
    dimension: int
    max_tokens: int
    """Longest text it takes, in its own tokens."""
    embed: Callable[[Sequence[str]], Sequence[Sequence[float]]]
    """From texts to their vectors."""
    make_model: Callable[[], Any]
    """Makes the LlamaIndex BaseEmbedding of the same model."""
    tokenizer: Any = None
    """From a text to its tokens, for splitting; None: LlamaIndex's own."""
    asking: Callable[[Sequence[str]], Sequence[Sequence[float]]] | None = None
    """From questions to their vectors; None: as texts."""

    def embed_queries(self, queries: Sequence[str]) -> Sequence[Sequence[float]]:
        """Return the vectors of questions, which some models embed otherwise than texts."""
        return (self.asking or self.embed)(queries)


def record_of(embedder: Embedder | None) -> str:
    """Return what an archive records of its embedder; None: words only."""
    if embedder is None:
        return json.dumps({"kind": "none"})
    return json.dumps({name: getattr(embedder, name) for name in ("kind", "name", "dimension", "max_tokens")})


def asked_name(record: Mapping[str, Any]) -> str:
    """Return the name by which the recorded embedder is asked for."""
    return f"{FASTEMBED}{record['name']}" if record["kind"] == "fastembed" else str(record["kind"])


def choose_embedder(name: str | None, access: ServerAccess) -> Embedder | None:
    """Return the embedder for a new archive (None: the usual one); None: words only.

    Raises:
        MissingExtraError: It is not installed.
        ServerError: KoboldCpp was asked for and has no embedding model, or does not answer.
        ConfigError: No such embedder, or its model cannot be downloaded.
    """
    name = name or usual_embedder()
    if name == "none":
        return None
    if name in EMBEDDERS:
        return _open(name, access)
    if name.startswith(FASTEMBED) and name != FASTEMBED:
        return _open("fastembed", access, name.removeprefix(FASTEMBED))
    raise ConfigError(f"{name!r} is not one of {', '.join(EMBEDDERS)}, {FASTEMBED}MODEL.", argument="embedder")


def usual_embedder() -> str:
    """Return the name of the first embedder that is installed, MiniLM before e5; `none` without one."""
    from kobold_reader.embeddings import e5_model, minilm_model

    installed = {"minilm": minilm_model.is_available, "e5": e5_model.is_available}
    return next((name for name, is_available in installed.items() if is_available()), "none")


def open_embedder(record: Mapping[str, Any], access: ServerAccess) -> Embedder:
    """Return the embedder that an archive has recorded.

    Raises:
        MissingExtraError: It is not installed here.
        ServerError: It is KoboldCpp's, and the server does not answer.
        ConfigError: KoboldCpp runs another embedding model now: its vectors would not fit. Or a program brought it.
    """
    if record["kind"] == OWN:
        raise ConfigError(
            f"the archive's vectors were made by {record['name']}, an embedder that a Python program supplied.",
            hint="Supply it again: Archive.open(…, embed_model=…). Or make the vectors anew: "
            f"index --reembed --embedder {usual_embedder()}.",
        )
    embedder = _open(record["kind"], access, record["name"])
    if (embedder.name, embedder.dimension) != (record["name"], record["dimension"]):
        raise ConfigError(
            f"the archive's vectors were made by {record['name']} ({record['dimension']} dimensions), but "
            f"{'the server has' if embedder.kind == 'koboldcpp' else 'there is'} "
            f"{embedder.name} ({embedder.dimension}) loaded.",
            hint="Load that model, or make the vectors anew with index --reembed.",
        )
    return embedder


def of_model(model: BaseEmbedding, record: Mapping[str, Any] | None = None) -> Embedder:
    """Return a LlamaIndex embedding model as an embedder; with a record it is not asked for its dimension.

    Raises:
        ConfigError: Another embedder is recorded.
    """
    name = model.class_name()
    if model.model_name not in {"", "unknown", name}:
        name += f" {model.model_name}"
    if record is not None and (record["kind"], record.get("name")) != (OWN, name):
        made_by = record["name"] if record["kind"] == OWN else repr(asked_name(record))
        raise ConfigError(
            f"the archive was made with the embedder {made_by}, not {name}.",
            hint="Leave embed_model out, or make the vectors anew with archive.reembed(embed_model=…).",
        )
    return _of_model(OWN, name, model, None if record is None else record["dimension"])


def _of_model(kind: str, name: str, model: BaseEmbedding, dimension: int | None = None) -> Embedder:
    return Embedder(
        kind,
        name,
        dimension or len(model.get_query_embedding("ready")),
        _USUAL_TOKENS,
        lambda texts: model.get_text_embedding_batch(list(texts)),
        lambda: model,
        asking=lambda queries: [model.get_query_embedding(query) for query in queries],
    )


def _open(kind: str, access: ServerAccess, name: str = "") -> Embedder:
    from kobold_reader import embeddings  # loads none of them; the LlamaIndex classes come when they are first used

    if kind == "fastembed":
        return _of_model(kind, name, embeddings.FastEmbedding(model_name=name))
    if kind == "minilm":
        from kobold_reader.embeddings import minilm_model as minilm

        return Embedder(
            kind,
            minilm.NAME,
            len(minilm.embed(["ready"])[0]),
            minilm.MAX_TOKENS,
            minilm.embed,
            lambda: embeddings.MiniLMEmbedding(),  # noqa: PLW0108  (the class itself would load LlamaIndex)
            minilm.MiniLMTokenizer(),
        )
    if kind == "e5":
        from kobold_reader.embeddings import e5_model as e5

        return Embedder(
            kind,
            e5.NAME,
            len(e5.embed(["ready"])[0]),
            e5.MAX_TOKENS,
            e5.embed,
            lambda: embeddings.E5Embedding(),  # noqa: PLW0108
            e5.E5Tokenizer(),
            e5.embed_queries,
        )
    model = embeddings.KoboldEmbedding(api_url=list(access.urls), api_password=access.password)
    dimension = len(model.get_query_embedding("ready"))
    # Embedding models of the BERT kind take 512 tokens, their own, which LlamaIndex's tokenizer only estimates.
    return Embedder("koboldcpp", model.loaded_model(), dimension, 480, model.get_text_embedding_batch, lambda: model)
