"""Pictures and parts of them, turned: what EXIF and a quarter turn do, and where a part of the page came from."""

from __future__ import annotations

from typing import Final

from PIL import Image

from kobold_reader.pages.values import Box

__all__ = ["CLOCKWISE", "UPRIGHT", "turned_box", "turned_by"]

_TURN: Final = Image.Transpose
UPRIGHT: Final = {
    1: (None, 0),
    2: (_TURN.FLIP_LEFT_RIGHT, 0),
    3: (_TURN.ROTATE_180, 180),
    4: (_TURN.FLIP_TOP_BOTTOM, 180),
    5: (_TURN.TRANSPOSE, 270),
    6: (_TURN.ROTATE_270, 90),
    7: (_TURN.TRANSVERSE, 90),
    8: (_TURN.ROTATE_90, 270),
}
"""EXIF orientation → what makes a picture upright, and how far clockwise that turns."""
CLOCKWISE: Final = {0: None, 90: _TURN.ROTATE_270, 180: _TURN.ROTATE_180, 270: _TURN.ROTATE_90}

_UNDO: Final = {_TURN.ROTATE_90: _TURN.ROTATE_270, _TURN.ROTATE_270: _TURN.ROTATE_90}


def turned_by(picture: Image.Image, turn_deg: int) -> Image.Image:
    """The picture after a clockwise turn."""
    step = CLOCKWISE[turn_deg]
    return picture if step is None else picture.transpose(step)


def turned_box(box: Box, orientation: int, turn_deg: int) -> Box:
    """Where a part of the upright page lies in the picture as stored.

    Args:
        box: A part of the page.
        orientation: EXIF orientation of the picture.
        turn_deg: Clockwise turn beyond it that made the page upright.
    """
    for step in (CLOCKWISE[turn_deg], UPRIGHT[orientation][0]):
        if step is not None:
            box = _moved(box, _UNDO.get(step, step))
    return box


def _moved(box: Box, step: Image.Transpose) -> Box:
    left, top, right, bottom = box
    match step:
        case Image.Transpose.FLIP_LEFT_RIGHT:
            return 1 - right, top, 1 - left, bottom
        case Image.Transpose.FLIP_TOP_BOTTOM:
            return left, 1 - bottom, right, 1 - top
        case Image.Transpose.ROTATE_180:
            return 1 - right, 1 - bottom, 1 - left, 1 - top
        case Image.Transpose.TRANSPOSE:
            return top, left, bottom, right
        case Image.Transpose.TRANSVERSE:
            return 1 - bottom, 1 - right, 1 - top, 1 - left
        case Image.Transpose.ROTATE_90:
            return top, 1 - right, bottom, 1 - left
    return 1 - bottom, left, 1 - top, right
