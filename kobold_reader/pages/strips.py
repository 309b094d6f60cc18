"""A scan that lies on its page in strips, put together again pixel by pixel.

MuPDF moves every image to whole pixels of what it paints, so at any size but the scan's own the
letters on the seams are squeezed: measured on a printed page at 1024 px, its painting differs from
the scan by 8.7 grey levels a pixel, the joined strips by none.
"""

from __future__ import annotations

import io
from typing import Any, Final

from PIL import Image

from kobold_reader.errors import PageRenderError
from kobold_reader.pages.image import flatten
from kobold_reader.pages.layout import Document, Layout, Page
from kobold_reader.pages.picture import picture_errors

__all__ = ["join_strips"]

_MAX_STRIPS: Final = 2_000
_MAX_PIXELS: Final = 100_000_000
_SKEW: Final = 0.002
_SCALE: Final = 0.02
_PLAIN_SPACES: Final = frozenset({1, 3})  # grey, RGB


def join_strips(document: Document, page: Page, layout: Layout) -> Image.Image | None:
    """The scan, grey or RGB; None where the images are not strips of one, and must be painted.

    Raises:
        PageRenderError: A strip is cut short or cannot be decoded.
    """
    width, height = layout.image_px
    if layout.rotation_deg or not 0 < width * height <= _MAX_PIXELS:
        return None
    scale = (width / layout.size_pt[0], height / layout.size_pt[1])
    strips = page.get_image_info(xrefs=True)
    if len(strips) > _MAX_STRIPS or not all(_is_strip(document, strip, scale) for strip in strips):
        return None
    is_grey = all(strip["colorspace"] == 1 for strip in strips)
    whole = Image.new("L" if is_grey else "RGB", (width, height), "white")
    for strip in strips:
        data = document.extract_image(strip["xref"])["image"]
        with picture_errors(PageRenderError), Image.open(io.BytesIO(data)) as picture:
            picture.load()
            flat = flatten(picture)
        place = (round(strip["bbox"][0] * scale[0]), round(strip["bbox"][1] * scale[1]))
        whole.paste(flat.convert(whole.mode), place)
    return whole


def _is_strip(document: Document, strip: dict[str, Any], scale: tuple[float, float]) -> bool:
    """Whether an image lies upright, at the scan's own resolution, and means what its pixels say."""
    a, b, c, d, _, _ = strip["transform"]
    if a <= 0 or d <= 0 or abs(b) > _SKEW * a or abs(c) > _SKEW * d:
        return False
    # A strip of a few rows is as much too high as its edge was rounded.
    for pixels, side in ((strip["width"], a * scale[0]), (strip["height"], d * scale[1])):
        if abs(pixels - side) > max(1, _SCALE * side):
            return False
    if not strip["xref"] or strip.get("has-mask") or strip["colorspace"] not in _PLAIN_SPACES or strip["bpc"] > 8:  # noqa: PLR2004 - a byte
        return False
    keys = (document.xref_get_key(strip["xref"], key) for key in ("Decode", "SMask", "Mask", "ImageMask"))
    return all(kind == "null" or value == "false" for kind, value in keys)
