"""Makes `kobold_reader/embeddings/e5_languages.npy`: `python -m tests.benchmarks.e5_languages`.

The sentences of `kobold_reader/archive/calibration.toml` mean the same in 22 languages. So what their vectors differ in
from language to language is the language. The first row of the table is taken from each question's vector, then its
share along the other rows.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kobold_reader.archive import vector_index
from kobold_reader.archive.vector_index import halves_of
from kobold_reader.embeddings import e5_model

DIRECTIONS = 10
"""With 14 the questions of found.py's developed half lose pages in their own language, with 6 they gain less."""
SHARE = 0.8
"""How much of a question's share along them is removed: all of it costs in its own language, too."""
SHARE_OF_MEAN = 0.5
"""How much of the mean is removed: without it less is found, without all of it less is told from the unanswerable."""


def made() -> NDArray[np.float64]:
    """Return the table."""
    sentences = tomllib.loads(Path(vector_index.__file__).with_name("calibration.toml").read_text(encoding="utf-8"))
    of_questions, of_texts = [], []
    for language, some in sentences.items():
        of_questions.append(np.mean(e5_model.embed_queries(some, keeps_language=True), axis=0))
        of_texts.append(np.mean(e5_model.embed(halves_of(language, some)), axis=0))
    means = np.mean([of_questions, of_texts], axis=0)
    directions = np.linalg.svd(means - means.mean(axis=0), full_matrices=False)[2][:DIRECTIONS]
    return np.vstack([SHARE_OF_MEAN * np.mean(of_questions, axis=0), np.sqrt(SHARE) * directions])


def main() -> None:
    """Write the table."""
    path = Path(e5_model.__file__).with_name("e5_languages.npy")
    np.save(path, made().astype(np.float16))
    sys.stdout.write(f"{path}: {path.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
