"""Make private scanned archives searchable on your own machine.

KoboldReader turns scanned PDFs and images into LlamaIndex Documents through KoboldCpp; Archive finds them again with
Chroma. Names are imported when they are first used: `import kobold_reader` alone is cheap.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any, Final

# onnxruntime's telemetry is on by default, and PyMuPDF 2 loads onnxruntime: off before either can be imported (its
# Privacy.md).
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from kobold_reader.archive import Alike, Answer, AnswerStream, Archive, Hit
    from kobold_reader.embeddings import KoboldEmbedding, MiniLMEmbedding
    from kobold_reader.errors import KoboldReaderError, PagesFailedError
    from kobold_reader.llm import KoboldLLM
    from kobold_reader.reader import KoboldReader
    from kobold_reader.reading.results import PageResult, Reading

__all__ = [
    "Alike",
    "Answer",
    "AnswerStream",
    "Archive",
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

_HOMES: Final = {
    "Alike": "kobold_reader.archive",
    "Answer": "kobold_reader.archive",
    "AnswerStream": "kobold_reader.archive",
    "Archive": "kobold_reader.archive",
    "Hit": "kobold_reader.archive",
    "KoboldEmbedding": "kobold_reader.embeddings",
    "MiniLMEmbedding": "kobold_reader.embeddings",
    "KoboldReaderError": "kobold_reader.errors",
    "PagesFailedError": "kobold_reader.errors",
    "KoboldLLM": "kobold_reader.llm",
    "KoboldReader": "kobold_reader.reader",
    "PageResult": "kobold_reader.reading.results",
    "Reading": "kobold_reader.reading.results",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from kobold_reader.release import RELEASE

        return RELEASE
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
