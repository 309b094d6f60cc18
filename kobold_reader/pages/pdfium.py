"""PDFium, the second renderer: draws a page of which MuPDF makes nothing, where pypdfium2 is installed.

MuPDF draws no intermediate regions of JBIG2, some of its text regions come out white, and so do some broken fonts.
"""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

from PIL import Image

_MAX_PIXELS = 40_000_000
EXTRA = "pdfium"
"""The extra that installs it."""


def is_installed() -> bool:
    """Whether pypdfium2 is there, without importing it."""
    try:
        return importlib.util.find_spec("pypdfium2") is not None
    except ValueError:  # it was taken out of `sys.modules`
        return False


def draw(path: Path, password: str | None, page_number: int, size: tuple[float, float]) -> Image.Image | None:
    """The upright page at about this size in pixels; None where PDFium cannot open or draw it either."""
    import pypdfium2

    with path.open("rb") as stream:
        try:
            document = pypdfium2.PdfDocument(stream, password=password)
        except (pypdfium2.PdfiumError, OSError):
            return None
        try:
            document.init_forms()
            page = document[page_number - 1]
            width, height = page.get_size()
            pixels = min(size[0] * size[1], _MAX_PIXELS)
            bitmap = page.render(scale=math.sqrt(pixels / (width * height)))
            picture: Image.Image = bitmap.to_pil().convert("RGB")  # a copy: the bitmap goes with the document
        except (pypdfium2.PdfiumError, IndexError, ZeroDivisionError):
            return None
        finally:
            document.close()
    return picture
