"""Pixels: from a decoded picture to the bytes a server takes, resampled once at most.

Pictures and parts of them, turned: what EXIF and a quarter turn do, and where a part of the page came from.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Callable
from typing import Final, cast

from PIL import Image, ImageChops

from kobold_reader.errors import PageRenderError
from kobold_reader.pages.values import Box, ImageBudget, Mime

__all__ = [
    "CLOCKWISE",
    "LIBRARY_ERRORS",
    "MAX_PIXELS",
    "UPRIGHT",
    "check_pixels",
    "encode",
    "encode_within",
    "fit_size",
    "flatten",
    "is_plain_jpeg",
    "is_plain_png",
    "turned_box",
    "turned_by",
    "without_colour",
]

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


MAX_PIXELS = 300_000_000
"""No picture larger than this is decoded: 17,000 × 17,000 px, four bytes each."""

# Pillow's own check would warn at this size and raise at twice it; `check_pixels` is stricter.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS

LIBRARY_ERRORS = (
    OSError,
    SyntaxError,  # Pillow's word for a broken PNG
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    EOFError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""What Pillow and its plugins raise on bad files."""

_MIN_QUALITY = 50
_JPEG_START = b"\xff\xd8"
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_DEPTH_AT = 24
_OTHER_FRAMES = frozenset(range(0xC3, 0xD0)) - {0xC4, 0xC8, 0xCC}  # lossless, arithmetic, …
_FLAT_SHARE = 0.6
_BANDS, _BAND_PX = 3, 32
_GREY_TOLERANCE = 2


def check_pixels(width_px: int, height_px: int) -> None:
    """Refuse what would eat the memory.

    Raises:
        PageRenderError: More than `MAX_PIXELS`, or none at all.
    """
    if width_px < 1 or height_px < 1:
        raise PageRenderError(f"The picture measures {width_px} × {height_px} px.")
    if width_px * height_px > MAX_PIXELS:
        raise PageRenderError(
            f"The picture measures {width_px} × {height_px} px, more than {MAX_PIXELS:,} pixels.",
            hint="Save it smaller, or cut it into parts.",
        )


def fit_size(width_px: float, height_px: float, budget: ImageBudget) -> tuple[int, int]:
    """The largest size of these proportions within the budget, never larger than given."""
    scale = min(1.0, budget.max_side_px / max(width_px, height_px))
    if budget.max_pixels is not None:
        scale = min(scale, math.sqrt(budget.max_pixels / (width_px * height_px)))
    width = max(1, min(budget.max_side_px, round(width_px * scale)))
    height = max(1, min(budget.max_side_px, round(height_px * scale)))
    if budget.max_pixels is not None and width * height > budget.max_pixels:
        # Both sides were rounded up; one pixel less on each is within a pixel of the proportions.
        width, height = max(1, math.floor(width_px * scale)), max(1, math.floor(height_px * scale))
    return width, height


def flatten(picture: Image.Image) -> Image.Image:
    """The picture as 8-bit grey or RGB, transparent parts white."""
    if picture.mode in {"L", "RGB"} and "transparency" not in picture.info:
        return picture
    if picture.mode.startswith("I;16") or picture.mode in {"I", "F"}:
        return _eight_bit(picture)
    if picture.mode == "1":
        return picture.convert("L")
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        paper = Image.new("RGB", layer.size, (255, 255, 255))
        paper.paste(layer, mask=layer.getchannel("A"))
        return paper
    if picture.mode in {"LA", "La"}:
        return picture.convert("L")
    return picture.convert("RGB")


def _eight_bit(picture: Image.Image) -> Image.Image:
    """Deep grey to 8 bits: scaled by the depth in use, for convert() alone would clip to white."""
    deep = picture if picture.mode == "F" else picture.convert("I")
    low, high = cast("tuple[float, float]", deep.getextrema())
    if picture.mode == "F":
        span = (high - low) or 1.0
        return deep.point(lambda value: value * (255 / span) + -low * 255 / span).convert("L")
    top = next((bits for bits in (8, 10, 12, 14, 16) if high < 1 << bits), 32)
    scale = 255 / ((1 << top) - 1)
    return deep.point(lambda value: value * scale + 0).convert("L")


def without_colour(picture: Image.Image) -> Image.Image:
    """An RGB picture that holds only grey as a grey one: a third of the bytes, the same pixels."""
    if picture.mode != "RGB":
        return picture
    red, green, blue = picture.split()
    for other in (red, blue):
        if any(ImageChops.difference(green, other).histogram()[_GREY_TOLERANCE + 1 :]):
            return picture
    return green


def encode(picture: Image.Image, quality: int) -> tuple[bytes, Mime]:
    """A grey or RGB picture as JPEG, or as PNG where that is smaller (line art, flat colours)."""
    jpeg = _saved(picture, "JPEG", quality=quality)
    histogram = picture.convert("L").histogram()
    if max(histogram) >= _FLAT_SHARE * picture.width * picture.height and _may_be_line_art(picture, quality):
        png = _saved(picture, "PNG")
        if len(png) <= len(jpeg):
            return png, "image/png"
    return jpeg, "image/jpeg"


def _saved(picture: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def _may_be_line_art(picture: Image.Image, quality: int) -> bool:
    """Whether PNG is the smaller for some bands of a picture; for all of it that takes up to 40 times JPEG's time."""
    if picture.height < _BANDS * 4 * _BAND_PX:
        return True
    bands = Image.new(picture.mode, (picture.width, _BANDS * _BAND_PX))
    for number in range(_BANDS):
        top = (number + 1) * picture.height // (_BANDS + 1)
        bands.paste(picture.crop((0, top, picture.width, top + _BAND_PX)), (0, number * _BAND_PX))
    return len(_saved(bands, "PNG")) <= len(_saved(bands, "JPEG", quality=quality))


def encode_within(
    make: Callable[[int, int], Image.Image], size: tuple[int, int], budget: ImageBudget
) -> tuple[bytes, Mime, Image.Image]:
    """Make the picture at this size and encode it; worse, then smaller, until the bytes fit.

    Args:
        make: Gives the picture at a width and height; called again for each smaller size, so that
            every picture is resampled once.
        size: Width and height to begin with.
        budget: Its max_bytes and jpeg_quality.

    Raises:
        PageRenderError: Even the smallest picture is larger than max_bytes.
    """
    width, height = size
    while True:
        picture = make(width, height)
        for quality in (
            budget.jpeg_quality,
            *range(budget.jpeg_quality - 10, _MIN_QUALITY - 1, -10),
        ):
            data, mime = encode(picture, quality)
            if len(data) <= budget.max_bytes:
                return data, mime, picture
        if max(width, height) <= 1:
            raise PageRenderError(f"No image of this page fits {budget.max_bytes} bytes.")
        width, height = max(1, round(width * 0.7)), max(1, round(height * 0.7))


def is_plain_jpeg(data: bytes, picture: Image.Image) -> bool:
    """Whether these bytes may go to a server as they are: 8-bit grey or RGB, Huffman coded."""
    if picture.format != "JPEG" or picture.mode not in {"L", "RGB"} or data[:2] != _JPEG_START:
        return False
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:  # noqa: PLR2004 - marker byte
        marker = data[position + 1]
        if marker in {0xC0, 0xC1, 0xC2}:  # baseline, extended, progressive
            return data[position + 4] == 8  # noqa: PLR2004 - bits a sample
        if marker in _OTHER_FRAMES:
            return False
        position += 1 if marker == 0xFF else 2 + int.from_bytes(data[position + 2 : position + 4])  # noqa: PLR2004
    return False


def is_plain_png(data: bytes, picture: Image.Image) -> bool:
    """Whether these PNG bytes may go to a server as they are: one opaque frame, 8 bits at most."""
    return (
        picture.format == "PNG"
        and data[:8] == _PNG_START
        and data[_PNG_DEPTH_AT] <= 8  # noqa: PLR2004 - bits a sample
        and picture.mode in {"1", "L", "P", "RGB"}
        and not picture.has_transparency_data
        and getattr(picture, "n_frames", 1) == 1
    )
