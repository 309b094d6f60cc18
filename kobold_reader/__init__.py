"""Make private scanned archives searchable on your own machine.

KoboldReader turns scanned PDFs and images into LlamaIndex Documents through KoboldCpp; Archive finds them again with
Chroma. A name is imported when it is first used: `import kobold_reader` alone is cheap.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kobold_reader.lazy import lazy_names

# onnxruntime's telemetry is on by default (its Privacy.md), and PyMuPDF 2 loads onnxruntime: switched off before either
# can be imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from kobold_reader.archive import Alike, Answer, AnswerStream, Archive, Hit
    from kobold_reader.embeddings import E5Embedding, KoboldEmbedding, MiniLMEmbedding
    from kobold_reader.errors import KoboldReaderError, PagesFailedError
    from kobold_reader.llm import KoboldLLM
    from kobold_reader.reader import KoboldReader
    from kobold_reader.reading.results import PageResult, Reading
    from kobold_reader.release import __version__ as __version__

__all__ = [
    "Alike",
    "Answer",
    "AnswerStream",
    "Archive",
    "E5Embedding",
    "Hit",
    "KoboldEmbedding",
    "KoboldLLM",
    "KoboldReader",
    "KoboldReaderError",
    "MiniLMEmbedding",
    "PageResult",
    "PagesFailedError",
    "Reading",
]

if not TYPE_CHECKING:  # else a type checker takes every name for one of these
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "archive": ("Alike", "Answer", "AnswerStream", "Archive", "Hit"),
            "embeddings": ("E5Embedding", "KoboldEmbedding", "MiniLMEmbedding"),
            "errors": ("KoboldReaderError", "PagesFailedError"),
            "llm": ("KoboldLLM",),
            "reader": ("KoboldReader",),
            "reading.results": ("PageResult", "Reading"),
            "release": ("__version__",),
        },
    )
