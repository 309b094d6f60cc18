"""Files become page facts and page images, in a child process.

Importing this is cheap: PyMuPDF and Pillow are loaded only inside the child.
"""

from __future__ import annotations

from kobold_reader.pages.child import PageChild
from kobold_reader.pages.reading_order import reading_order
from kobold_reader.pages.sources import (
    TAKEN,
    KnownKind,
    Selection,
    SourceFile,
    extra_hint,
    local_path,
    local_uri,
    select,
)
from kobold_reader.pages.values import (
    Box,
    FileFacts,
    ImageBudget,
    Kind,
    LinePiece,
    Mime,
    PageFacts,
    PageImages,
    PageLook,
    PageView,
    Posture,
    Scalar,
    TextLayer,
)

__all__ = [
    "TAKEN",
    "Box",
    "FileFacts",
    "ImageBudget",
    "Kind",
    "KnownKind",
    "LinePiece",
    "Mime",
    "PageChild",
    "PageFacts",
    "PageImages",
    "PageLook",
    "PageView",
    "Posture",
    "Scalar",
    "Selection",
    "SourceFile",
    "TextLayer",
    "extra_hint",
    "local_path",
    "local_uri",
    "reading_order",
    "select",
]
