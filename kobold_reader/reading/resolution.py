"""At how many px was a page read, and how many would it be now? Pure; for `--redo low-resolution`."""

from __future__ import annotations

import math
from typing import Final

__all__ = ["is_clearly_lower", "long_side_px", "would_reach_px"]

_CLEARLY: Final = 0.95
"""Less than 5 % is rounding, or the paper's proportions; it makes no print legible."""
_PT_PER_INCH: Final = 72.0


def long_side_px(width: float, height: float, max_side_px: int, max_pixels: int | None) -> int:
    """Return the longest side, in px, of a picture of these proportions that is as large as both limits allow.

    >>> long_side_px(210, 297, 1024, None), long_side_px(210, 297, 2048, 2048 * 28 * 28)
    (1024, 1506)
    """
    long_px = float(max_side_px)
    if max_pixels is not None and width > 0 and height > 0:
        long_px = min(long_px, math.sqrt(max_pixels * max(width, height) / min(width, height)))
    return int(long_px)


def would_reach_px(
    size_px: tuple[int, int],
    size_pt: tuple[float | None, float | None],
    max_side_px: int,
    max_pixels: int | None,
    max_dpi: float,
) -> int:
    """Return the longest side, in px, that a whole page would reach the encoder with.

    Args:
        size_px: Of the embedded scan or photo; zeros for a born-digital page, which has no pixels of its own.
        size_pt: Of the paper, where known.
        max_side_px: What the server and the family let through.
        max_pixels: The same by area.
        max_dpi: Born-digital pages are rendered at no more.
    """
    width_pt, height_pt = size_pt[0] or 0.0, size_pt[1] or 0.0
    width, height = size_px if all(size_px) else (width_pt, height_pt)
    reach_px = long_side_px(width, height, max_side_px, max_pixels)
    if all(size_px):
        return min(reach_px, max(size_px))
    if width_pt and height_pt:
        return min(reach_px, int(max(width_pt, height_pt) / _PT_PER_INCH * max_dpi))
    return reach_px


def is_clearly_lower(effective_px: int | None, now_px: int) -> bool:
    """Tell whether a page was read with clearly fewer px than it would be now; unknown is not lower."""
    return effective_px is not None and effective_px < _CLEARLY * now_px
