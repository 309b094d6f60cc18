"""Embeddings. KoboldCpp answers every failure with HTTP 200 and an empty vector: none gets out."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kobold_reader.errors import ConfigError, ContextTooSmallError, ServerError
from kobold_reader.kobold.api import QUEUE_READ_S, Api
from kobold_reader.kobold.settings import SETTINGS

__all__ = ["embed"]


def embed(api: Api, texts: Sequence[str]) -> list[list[float]]:
    """One vector per text, in order; see `KoboldClient.embed`."""
    if isinstance(texts, str):
        raise ConfigError("embed takes a list of texts, not one text.")
    if not texts:
        return []
    # Truncated, a text would lose its beginning (1.115.1 keeps the last tokens).
    body = {"input": list(texts), "truncate": False}
    answer = api.post("/v1/embeddings", body, read_timeout_s=QUEUE_READ_S)
    if answer.get("model") == "inactive":
        raise ServerError(
            f"{api.url}: KoboldCpp runs without an embedding model.",
            server=api.url,
            hint=f"Start it {SETTINGS['embeddingsmodel'].remedy('FILE')}.",
        )
    data = answer.get("data")
    if not isinstance(data, list) or len(data) != len(texts):
        raise api.unexpected(f"does not hold {len(texts)} vectors", data)
    vectors = [_vector(api, item, number) for number, item in enumerate(data)]
    if len({len(vector) for vector in vectors}) > 1:
        raise api.unexpected("mixes vectors of different lengths", [len(v) for v in vectors])
    return vectors


def _vector(api: Api, item: object, number: int) -> list[float]:
    vector = item.get("embedding") if isinstance(item, dict) else None
    if not isinstance(item, dict) or item.get("index") != number or not isinstance(vector, list):
        raise api.unexpected("holds no vectors in order", item)
    if not vector:
        raise ContextTooSmallError(
            f"{api.url}: the embedding model gave no vector for text {number + 1}; most likely it "
            "is empty or too long for the model.",
            server=api.url,
            hint="Send shorter pieces, or start KoboldCpp with a larger --embeddingsmaxctx.",
        )
    numbers = [x for x in vector if isinstance(x, int | float) and not isinstance(x, bool)]
    if len(numbers) != len(vector) or not all(map(math.isfinite, numbers)):
        raise api.unexpected("holds a vector that is not of numbers", vector)
    return [float(x) for x in numbers]
