"""Files become page facts and page images, in a child process.

Importing this is cheap: PyMuPDF and Pillow are loaded only inside the child.
"""

from __future__ import annotations

from kobold_reader.pages.child import PageChild
from kobold_reader.pages.names import is_text, local_path, shown, storable
from kobold_reader.pages.reading_order import reading_order
from kobold_reader.pages.sources import (
    TAKEN,
    KnownKind,
    Selection,
    SourceFile,
    as_uri,
    expanded,
    extra_hint,
    file_at,
    is_at,
    is_below,
    local_uri,
    select,
)
from kobold_reader.pages.values import (
    Box,
    FileFacts,
    ImageBudget,
    Kind,
    LinePiece,
    PageFacts,
    PageImages,
    PageView,
    PlacedText,
    Posture,
    Scalar,
    TextLine,
)

__all__ = [
    "TAKEN",
    "Box",
    "FileFacts",
    "ImageBudget",
    "Kind",
    "KnownKind",
    "LinePiece",
    "PageChild",
    "PageFacts",
    "PageImages",
    "PageView",
    "PlacedText",
    "Posture",
    "Scalar",
    "Selection",
    "SourceFile",
    "TextLine",
    "as_uri",
    "expanded",
    "extra_hint",
    "file_at",
    "is_at",
    "is_below",
    "is_text",
    "local_path",
    "local_uri",
    "reading_order",
    "select",
    "shown",
    "storable",
]
