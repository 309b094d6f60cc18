"""Pages turned by themselves: what the picture tells, and what only reading a few lines can tell.

The page child finds out along which axis the writing runs; which end is up it can tell for Latin print at best. Where
RapidOCR is installed, a few lines are read both ways: the right way gives scores near 1, the wrong way gibberish. Its
own direction classifier is not asked: it is sure of itself on upright dot-matrix and typewritten lines, and wrong.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from kobold_reader.pages import Box, FileFacts, ImageBudget, PageFacts, PageImages, PageView, Posture, SourceFile
from kobold_reader.reading.open_file import OpenFile

__all__ = ["LineReader", "turn_by_reading", "upright_images"]

log = logging.getLogger(__name__)

LineReader = Callable[[PageView, Box, int], tuple[str, float]]
"""Reads the line in this part of a view after a clockwise turn: text, and score from 0 to 1."""

LOOK_PX: Final = 1600
"""Lines are read at this size, as a model's own may be too small for letters."""

_READ: Final = 0.9  # the wrong way up, real lines reached 0.91 at most, and most of them 0.75
_BETTER: Final = 0.15
_LETTERS: Final = 4
_SIDEWAYS: Final = (90, 270)
# Chinese, Japanese, Korean: an upright page of columns looks like one on its side, and RapidOCR reads it that way too.
_COLUMN_SCRIPT: Final = re.compile("[\u1100-\u11ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")
_LINES: Final = 3  # so many lines must agree, and three more for each that does not


def upright_images(
    opened: OpenFile, source: SourceFile, file: FileFacts, facts: PageFacts, budget: ImageBudget
) -> PageImages:
    """Make the images of a page, turned upright where that can be told.

    Raises:
        SourceError: The page or the file cannot be read.
    """
    number = facts.page_number
    images = opened.page_images(source, file, number, budget, None)
    if images.is_blank:
        return images
    turned = (images.views[0].rotation_deg - facts.rotation_deg) % 360
    read = line_reader() if images.posture else None
    if read is not None and images.posture is not None:
        view = images.views[0]
        if max(view.width_px, view.height_px) < LOOK_PX and budget.max_side_px < LOOK_PX:
            larger = replace(budget, max_side_px=LOOK_PX, max_pixels=None, min_px_per_inch=None)
            view = opened.page_images(source, file, number, larger, turned).views[0]
        try:
            more = turn_by_reading(view, images.posture, read)
        except Exception as err:  # noqa: BLE001  (OpenCV and onnxruntime raise what they like; the page lies as it lies)
            log.warning("%s page %d: RapidOCR cannot tell which end is up: %s", source.path, number, err)
            more = 0
        if more:
            turned = (turned + more) % 360
            images = opened.page_images(source, file, number, budget, turned)
    if turned:
        log.info("%s page %d: turned by %d°", source.path, number, turned)
    return images


def turn_by_reading(view: PageView, posture: Posture, read: LineReader) -> int:
    """Return the clockwise turn of the view that makes its lines legible; 0 where that is not clear."""
    votes = [0, 0]
    for box in posture.lines:
        scores = [0.0, 0.0]
        for index, turn in sorted(enumerate(posture.turns), key=lambda one: one[1]):
            text, score = read(view, box, turn)
            if len(text.replace(" ", "")) >= _LETTERS and not (turn in _SIDEWAYS and _COLUMN_SCRIPT.search(text)):
                scores[index] = score
            if turn == 0 and scores[index] >= _READ:
                break  # it reads well as it lies: no need to look at it upside down
        best = int(scores[1] > scores[0])
        if scores[best] >= _READ and scores[best] - scores[1 - best] >= _BETTER:
            votes[best] += 1
        for index, turn in enumerate(posture.turns):
            if votes[index] >= _LINES * (1 + votes[1 - index]):
                return turn
    return 0


_loaded: list[LineReader | None] = []
_loading = threading.Lock()


def line_reader() -> LineReader | None:
    """Return RapidOCR's recogniser, loaded once a process; None where it is not installed."""
    with _loading:
        if not _loaded:
            _loaded.append(_load())
        return _loaded[0]


def _load() -> LineReader | None:
    # onnxruntime writes telemetry files at import unless this is set before (its Privacy.md).
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import cv2
        import numpy as np
        from rapidocr import RapidOCR
    except ImportError:
        log.info("RapidOCR is not installed: pages on their head are not turned, pages on their side only if clear")
        return None
    ocr: Any = RapidOCR(params={"Global.log_level": "error"})
    last: list[tuple[bytes, Any]] = []
    lock = threading.Lock()

    def pixels_of(view: PageView) -> Any:
        with lock:
            if not last or last[0][0] is not view.image:
                flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
                last[:] = [(view.image, cv2.imdecode(np.frombuffer(view.image, np.uint8), flags))]
            return last[0][1]

    def read(view: PageView, box: Box, turn_deg: int) -> tuple[str, float]:
        pixels = pixels_of(view)
        height, width = pixels.shape[:2]
        left, top, right, bottom = box
        line = pixels[int(top * height) : int(bottom * height) + 1, int(left * width) : int(right * width) + 1]
        line = np.ascontiguousarray(np.rot90(line, -turn_deg // 90))
        found = ocr(line, use_det=False, use_cls=False, use_rec=True)
        if not getattr(found, "txts", None):
            return "", 0.0
        return str(found.txts[0]), float(found.scores[0])

    return read
