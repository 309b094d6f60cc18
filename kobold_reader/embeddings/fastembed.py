"""FastEmbedding: any text model of the library fastembed, which downloads it at the first use."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from llama_index.core.base.embeddings.base import Embedding
from llama_index.core.bridge.pydantic import Field
from typing_extensions import override

from kobold_reader.embeddings.local import clean, load_once
from kobold_reader.embeddings.threaded import ThreadedEmbedding
from kobold_reader.errors import ConfigError, MissingExtraError


class FastEmbedding(ThreadedEmbedding):
    """Embeds texts with a model of fastembed, on the processor; it is downloaded once, at the first use.

    Nothing of the texts leaves the machine. Models of the E5 family are told what is a question and what is a text.

    Raises:
        MissingExtraError: At the first use: fastembed is not installed.
        ConfigError: At the first use: there is no such model, or it cannot be downloaded.
    """

    model_name: str = Field(description="As fastembed names it, such as BAAI/bge-small-en-v1.5.")
    embed_batch_size: int = Field(default=64, gt=0, le=2048, description="Texts handed over at once.")

    @classmethod
    @override
    def class_name(cls) -> str:
        return "FastEmbedding"

    def _prefixed(self, before: str, texts: list[str]) -> list[str]:
        is_e5 = "e5" in self.model_name.lower().rpartition("/")[2].split("-")
        return [before + clean(text) if is_e5 else clean(text) for text in texts]

    @override
    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        model = load_once(_load, self.model_name)
        return [vector.tolist() for vector in model.embed(self._prefixed("passage: ", texts))]

    @override
    def _get_query_embedding(self, query: str) -> Embedding:
        model = load_once(_load, self.model_name)
        (vector,) = model.query_embed(self._prefixed("query: ", [query]))
        found: list[float] = vector.tolist()
        return found


def _load(name: str) -> Any:
    try:
        from fastembed import TextEmbedding
    except ImportError as err:
        raise MissingExtraError("fastembed", f"the embedder fastembed:{name}") from err
    known = [model["model"] for model in TextEmbedding.list_supported_models()]
    if name.lower() not in map(str.lower, known):
        near = get_close_matches(name, known, n=3, cutoff=0) + known[:1]
        raise ConfigError(f"fastembed knows no model {name!r}.", hint=f"It knows {len(known)}, such as {near[0]}.")
    try:
        return TextEmbedding(name)
    except (OSError, ValueError, RuntimeError) as err:
        raise ConfigError(
            f"the embedding model {name} cannot be loaded: {err}.",
            hint="It is downloaded once: run this with access to the internet, or point FASTEMBED_CACHE_PATH to a "
            "folder that has it.",
        ) from err
