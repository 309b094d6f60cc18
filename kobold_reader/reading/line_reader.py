"""Single lines read by RapidOCR, where it is installed, to tell which end is up and whether a text layer is right."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from typing import Any

from kobold_reader.pages import Box, PageView, TextLine

log = logging.getLogger(__name__)

LineReader = Callable[[PageView, Box, int], tuple[str, float]]
"""Reads the line in this part of a view after a clockwise turn in degrees: text, and score from 0 to 1."""

LOOK_PX = 1600
"""Lines are read at this size, as the model's own may be too small for letters."""
_ALIKE = 0.7
"""Share of the letters that are the same where a text layer is right; garbage has 0.4 at most by chance."""

_loading = threading.Lock()


def line_reader() -> LineReader | None:
    """Return RapidOCR's recogniser, loaded once a process; None where it is not installed."""
    with _loading:
        return load_line_reader()


@functools.cache
def load_line_reader() -> LineReader | None:
    """As `line_reader`, without its lock."""
    try:
        import cv2
        import numpy as np
        from rapidocr import RapidOCR
    except ImportError:
        log.info(
            "RapidOCR is not installed: pages on their head are not turned, pages on their side only if clear, and "
            "doubtful text layers are not used"
        )
        return None
    ocr: Any = RapidOCR(params={"Global.log_level": "error"})

    @functools.lru_cache(1)
    def pixels_of(image: bytes) -> Any:
        return cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)

    def read(view: PageView, box: Box, turn_deg: int) -> tuple[str, float]:
        pixels = pixels_of(view.image)
        height, width = pixels.shape[:2]
        left, top, right, bottom = box
        line = pixels[int(top * height) : int(bottom * height) + 1, int(left * width) : int(right * width) + 1]
        line = np.ascontiguousarray(np.rot90(line, -turn_deg // 90))
        found = ocr(line, use_det=False, use_cls=False, use_rec=True)
        if not getattr(found, "txts", None):
            return "", 0.0
        return str(found.txts[0]), float(found.scores[0])

    return read


def is_shown(lines: Sequence[TextLine], view: PageView, read: LineReader) -> bool:
    """Tell whether most of these lines of a text layer are what RapidOCR reads in their places.

    It reads Latin letters, Chinese and Japanese; of other scripts nothing is confirmed.
    """
    right = 0
    for line in lines:
        text, _ = read(view, line.box, 0)
        right += SequenceMatcher(None, _letters(line.text), _letters(text), autojunk=False).ratio() >= _ALIKE
    return right * 2 > len(lines)


def _letters(text: str) -> str:
    return "".join(character for character in text.casefold() if character.isalnum())
