"""What the embedders on this machine's processor have in common."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

# Kept outside the instances: an instance is then a handful of settings, which can be pickled, copied and compared, and
# two instances do not load 60 MB twice. The process id is part of the key because the threads of a model do not survive
# a fork.
_loaded: dict[tuple[object, ...], Any] = {}
_loading = threading.RLock()


def load_once(load: Callable[..., T], *arguments: object) -> T:
    """Return what `load` makes of the arguments, made once in a process."""
    key = (os.getpid(), load, *arguments)
    with _loading:
        if key not in _loaded:
            _loaded[key] = load(*arguments)
        loaded: T = _loaded[key]
        return loaded


def clean(text: str) -> str:
    """Replace lone surrogates, which come from file names and broken PDFs and cannot be encoded."""
    return text.encode("utf-8", "replace").decode("utf-8")


def mean_of_windows(vectors: Sequence[Sequence[float]], weights: Sequence[int]) -> list[float]:
    """Return the vector of a text from those of its windows: their weighted mean, of length 1."""
    import numpy as np

    mean = np.average(np.asarray(vectors, dtype=np.float64), axis=0, weights=weights)
    vector: list[float] = (mean / max(float(np.linalg.norm(mean)), 1e-12)).tolist()
    return vector
