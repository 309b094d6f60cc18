"""Pillow's images: their errors and limits, sizes, greys, and how they are encoded for a server."""

from __future__ import annotations

import functools
import io
import math
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageFile, TiffImagePlugin, UnidentifiedImageError

from kobold_reader.errors import PageRenderError, SourceError
from kobold_reader.pages.values import ImageBudget, Mime

MAX_PIXELS = 300_000_000
"""No image larger than this is decoded: 17,000 × 17,000 px, four bytes each."""

# Pillow lacks 16 bits of grey that begin with white in this order of bytes, and knows them in the other.
TiffImagePlugin.OPEN_INFO.setdefault((b"MM", 0, (1,), 1, (16,), ()), ("I;16B", "I;16B"))

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

COMPLETE = 0.98
"""The share of an image's lines from which on it counts as whole."""
_CUT_SHORT = ("truncated", "premature", "unexpected end", "eof", "not enough")
_MIN_QUALITY = 50
_MAX_JPEG_SIDE_PX = 65_500
_LONG_ASPECT = 3
_PAPER = 250
_OTHER_FRAMES = frozenset(range(0xC3, 0xD0)) - {0xC4, 0xC8, 0xCC}  # lossless, arithmetic, …
_FRAMES = frozenset({b"\xc0", b"\xc1", b"\xc2"})  # baseline, extended, progressive
_WITHOUT_LENGTH = frozenset(bytes([code]) for code in (0, 1, *range(0xD0, 0xDA), 0xFF)) | {b""}
_FLAT_SHARE = 0.6
_BANDS, _BAND_PX = 3, 32
_GREY_TOLERANCE = 2
# TIFF's tags of deep grey, their values, and the highest level of each depth in use.
_PHOTOMETRIC, _SAMPLE_FORMAT = 262, 339
_WHITE_IS_ZERO, _SIGNED = 0, 2
_DEPTHS = tuple((1 << bits) - 1 for bits in (8, 10, 12, 14, 16, 32))
_SIGNED_DEPTHS = tuple(depth >> 1 for depth in _DEPTHS)
_FRACTION_DEPTHS = (1, *_DEPTHS[:-1])
_ROWS_AT_ONCE = 256
_SEEN = 32  # of 255: what is fainter is the rim of a letter or a shadow
_SHEET_SHARE = 0.82  # an A4 sheet on its slant, by 5°, fills 0.84 of its frame; a disc 0.79
_CLEARER = 1.5
_EDGE = 48


@contextmanager
def picture_errors(kind: type[SourceError]) -> Iterator[None]:
    """Raise Pillow's exceptions as this kind of ours."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except SourceError:
        raise
    except UnidentifiedImageError as error:
        raise kind("The bytes are not those of an image.") from error
    except MemoryError as error:
        raise PageRenderError("The picture needs more memory than the reader may use.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PageRenderError(f"The picture is too large to decode: {error}") from error
    except LIBRARY_ERRORS as error:
        text = str(error)
        if any(word in text.lower() for word in _CUT_SHORT):
            raise kind(f"The picture is cut short ({text}).", hint="Copy or scan it again.") from error
        raise kind(f"The picture cannot be decoded ({text or type(error).__name__}).") from error


def check_pixels(width_px: int, height_px: int) -> None:
    """Raise PageRenderError if an image has more than `MAX_PIXELS`, or no pixel."""
    if width_px < 1 or height_px < 1:
        raise PageRenderError(f"The picture measures {width_px} × {height_px} px.")
    if width_px * height_px > MAX_PIXELS:
        raise PageRenderError(
            f"The picture measures {width_px} × {height_px} px, more than {MAX_PIXELS:,} pixels.",
            hint="Save it smaller, or cut it into parts.",
        )


def fit_size(width_px: float, height_px: float, budget: ImageBudget) -> tuple[int, int]:
    """The largest size of these proportions within the budget, never larger than given."""
    longest = max(width_px, height_px)
    bounded, max_side_px = longest, budget.max_side_px
    if budget.max_aspect is not None and longest > budget.max_aspect * min(width_px, height_px):
        bounded, max_side_px = budget.max_aspect * min(width_px, height_px), _MAX_JPEG_SIDE_PX
    scale = min(1.0, budget.max_side_px / bounded, max_side_px / longest)
    if budget.max_pixels is not None:
        scale = min(scale, math.sqrt(budget.max_pixels / (width_px * height_px)))
    width = max(1, min(max_side_px, round(width_px * scale)))
    height = max(1, min(max_side_px, round(height_px * scale)))
    if budget.max_pixels is not None and width * height > budget.max_pixels:
        # Both sides were rounded up; one pixel less on each is within a pixel of the proportions.
        width, height = max(1, math.floor(width_px * scale)), max(1, math.floor(height_px * scale))
    return width, height


def size_at(long_side_px: float, width_px: float, height_px: float) -> tuple[int, int]:
    """The size of these proportions with this long side, never larger than given."""
    scale = min(1.0, long_side_px / max(width_px, height_px))
    return max(1, round(width_px * scale)), max(1, round(height_px * scale))


def size_at_dpi(dpi: int, width_px: float, height_px: float, inches: tuple[float, float] | None) -> tuple[int, int]:
    """The size of a page at this resolution, never larger than given; paper of unknown size counts as 12 inches.

    A page longer than three times its width counts as several pages: a long receipt is no narrower than a short one.
    """
    pages = max(1.0, max(width_px, height_px) / (_LONG_ASPECT * min(width_px, height_px)))
    return size_at(min(max(inches) * dpi, 4000 * pages) if inches else 12 * dpi * pages, width_px, height_px)


def shrunk(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture at a smaller size, each pixel the mean of those it replaces."""
    if picture.size == size:
        return picture
    return picture.resize(size, Image.Resampling.BOX, reducing_gap=2.0)


def flatten(picture: Image.Image) -> Image.Image:
    """The picture as 8-bit grey or RGB, transparent parts white; black where what is drawn shows only on black."""
    if picture.mode in {"L", "RGB"} and "transparency" not in picture.info:
        return picture
    if picture.mode.startswith("I;16") or picture.mode in {"I", "F"}:
        return _eight_bit(picture)
    if picture.has_transparency_data and picture.mode != "1":
        return _flat_layer(picture.convert("RGBA"))
    return picture.convert("L" if picture.mode == "1" else "RGB")


def _flat_layer(layer: Image.Image) -> Image.Image:
    return _laid_on("black" if _shows_only_on_black(layer) else "white", layer)


def _laid_on(ground: str, layer: Image.Image) -> Image.Image:
    paper = Image.new("RGB", layer.size, ground)
    paper.paste(layer, mask=layer.getchannel("A"))
    return paper


def _shows_only_on_black(layer: Image.Image) -> bool:
    """Whether most of what is drawn on a transparent ground is light, as white writing for a dark page is.

    Edges are counted on both grounds. A white sheet with a transparent margin has its own edge on black, too: what
    fills most of its frame is a sheet, and stays on white.
    """
    seen = layer.getchannel("A").point([0] * _SEEN + [255] * (256 - _SEEN))
    frame = seen.getbbox()
    if frame is None or seen.histogram()[255] >= _SHEET_SHARE * (frame[2] - frame[0]) * (frame[3] - frame[1]):
        return False
    on_white, on_black = (_edges(_laid_on(ground, layer)) for ground in ("white", "black"))
    return on_black > _CLEARER * on_white


def _edges(picture: Image.Image) -> int:
    """The number of pixels at edges that an eye sees."""
    grey = picture.convert("L")
    steps = ImageChops.difference(lightest_around(grey, 3), darkest_around(grey, 3))
    return sum(steps.histogram()[_EDGE:])


def lightest_around(grey: Image.Image, size_px: int) -> Image.Image:
    """Give each pixel the lightest tone of the square around it: Pillow's MaxFilter, but not sorting each square."""
    return _extreme(np.maximum, grey, size_px)


def darkest_around(grey: Image.Image, size_px: int) -> Image.Image:
    """Give each pixel the darkest tone of the square around it, as Pillow's MinFilter."""
    return _extreme(np.minimum, grey, size_px)


def _extreme(pick: Callable[..., Any], grey: Image.Image, size_px: int) -> Image.Image:
    levels = np.pad(np.asarray(grey), size_px // 2, mode="edge")
    across = functools.reduce(pick, (levels[:, left : left + grey.width] for left in range(size_px)))
    return Image.fromarray(functools.reduce(pick, (across[top : top + grey.height] for top in range(size_px))))


def _eight_bit(picture: Image.Image) -> Image.Image:
    """Deep grey to 8 bits: scaled by the depth in use, as convert() alone would clip to white."""
    tags = getattr(picture, "tag_v2", {})
    levels = np.asarray(picture)
    is_signed = tags.get(_SAMPLE_FORMAT) == (_SIGNED,)
    if levels.dtype == np.int32 and tags and not is_signed:
        levels = levels.view(np.uint32)  # Pillow has no other mode for them
    is_known = np.isfinite(levels)
    known = levels[is_known] if levels.dtype.kind == "f" else levels
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    depths = _FRACTION_DEPTHS if levels.dtype.kind == "f" else _SIGNED_DEPTHS if is_signed else _DEPTHS
    top = next((float(depth) for depth in depths if high <= depth), high)
    bottom = 0.0
    if low < 0 or top == high > _DEPTHS[-1]:
        bottom, top = low, max(high, low + 1)
    eight = np.empty(levels.shape, np.uint8)
    for row in range(0, len(levels), _ROWS_AT_ONCE):  # fractions take eight times the room
        part = np.s_[row : row + _ROWS_AT_ONCE]
        scaled = np.rint((np.where(is_known[part], levels[part], bottom) - bottom) * (255 / (top - bottom)))
        scaled = 255 - scaled if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else scaled
        eight[part] = np.where(is_known[part], scaled, 255)  # where nothing was measured is paper
    flat = Image.fromarray(eight)
    key = picture.info.get("transparency")
    if not isinstance(key, int):
        return flat
    layer = Image.merge("LA", (flat, Image.fromarray(np.where(levels == key, 0, 255).astype(np.uint8))))
    return _flat_layer(layer.convert("RGBA")).convert("L")


def salvaged(open_it: Callable[[], Image.Image]) -> tuple[Image.Image, float]:
    """A picture whose data ends too early, its lost lines white, and the share of its lines that is there."""
    with picture_errors(PageRenderError), open_it() as picture:
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try:
            flat = flatten(picture).copy()
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = False
    is_from_below = picture.format == "BMP"
    levels = np.asarray(flat).reshape(flat.height, -1)[:: -1 if is_from_below else 1]
    is_filled = (levels == levels[-1, -1]).all(axis=1)  # decoders fill up lost lines with one dark level
    lost = flat.height if is_filled.all() else int(np.argmin(is_filled[::-1]))
    if levels[-1, -1] >= _PAPER:
        lost = 0
    flat.paste("white", (0, 0, flat.width, lost) if is_from_below else (0, flat.height - lost, *flat.size))
    return flat, 1 - lost / flat.height


def missing_from(share: float) -> str:
    """A sentence about an image of which this share is there."""
    if share >= COMPLETE:  # as scanners often leave out a line or two
        return "The page's image is damaged."
    return f"The page's image is cut short: about {share:.0%} of it is there."


def darkest_channel(picture: Image.Image) -> Image.Image:
    """The darkest channel of an RGB picture, in which writing in colour is darkest; a grey picture itself."""
    if picture.mode != "RGB":
        return picture
    red, green, blue = picture.split()
    return ImageChops.darker(ImageChops.darker(red, green), blue)


def without_colour(picture: Image.Image) -> Image.Image:
    """The picture as grey if it is RGB without colour: the same pixels in a third of the bytes."""
    if picture.mode != "RGB":
        return picture
    red, green, blue = picture.split()
    for other in (red, blue):
        if any(ImageChops.difference(green, other).histogram()[_GREY_TOLERANCE + 1 :]):
            return picture
    return green


def percentile(grey: Image.Image, share: float) -> int:
    """The grey level that at least this share of the pixels does not exceed."""
    left = share * grey.width * grey.height
    for level, count in enumerate(grey.histogram()):
        left -= count
        if left <= 0:
            return level
    return 255


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
    """Whether PNG is smaller for some bands; PNG of the whole picture takes up to 40 times JPEG's time."""
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
    """Make a picture of this size and encode it; with less quality, then smaller, until the bytes fit.

    `make` gives the picture at a width and height; it is called for each size, so that every picture is resampled once.

    Raises:
        PageRenderError: Even the smallest picture is larger than max_bytes.
    """
    width, height = size
    while True:
        picture = make(width, height)
        for quality in (budget.jpeg_quality, *range(budget.jpeg_quality - 10, _MIN_QUALITY - 1, -10)):
            data, mime = encode(picture, quality)
            if len(data) <= budget.max_bytes:
                return data, mime, picture
        if max(width, height) <= 1:
            raise PageRenderError(f"No image of this page fits {budget.max_bytes} bytes.")
        width, height = max(1, round(width * 0.7)), max(1, round(height * 0.7))


def is_plain_jpeg(data: bytes, picture: Image.Image) -> bool:
    """Whether these bytes may go to a server as they are: 8-bit grey or RGB, Huffman coded."""
    if picture.format != "JPEG" or picture.mode not in {"L", "RGB"} or data[:2] != b"\xff\xd8":
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
    """Whether these bytes may go to a server as they are: one opaque frame, 8 bits at most."""
    return (
        picture.format == "PNG"
        and data[:8] == b"\x89PNG\r\n\x1a\n"
        and data[24] <= 8  # noqa: PLR2004 - bits a sample
        and picture.mode in {"1", "L", "P", "RGB"}
        and not picture.has_transparency_data
        and getattr(picture, "n_frames", 1) == 1
    )


JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
JPEG_TAIL_BYTES = 64
_RESTARTS = [bytes([0xFF, 0xD0 + number]) for number in range(8)]
_OTHER_ENDS = [
    (noise * 16).join([b"", *_RESTARTS, *_RESTARTS, JPEG_END]) for noise in (b"\x5a\xa5\x3c\xc3", b"\x00", b"\xfe\x01")
]


def lacks_end_mark(start: bytes, tail: bytes) -> bool:
    """Whether a file of these first and last bytes is a JPEG without its end mark; some programs write behind it."""
    return start.startswith(JPEG_START) and JPEG_END not in tail


def with_end_mark(data: bytes) -> bytes | None:
    """A JPEG whose pixels are all there but whose end mark is missing, with the mark; None for any other data.

    The decoder waits for more at the end of such data, and then calls it cut short. Where pixels are missing, it makes
    them of what follows: so the picture is decoded with several ends, and is whole only if all give the same pixels.
    """
    body = data.rstrip(b"\xff")
    if not lacks_end_mark(data[:2], data[-JPEG_TAIL_BYTES:]) or _is_decodable(data) or not _has_all_scans(body):
        return None
    try:
        with _jpeg(body + JPEG_END) as picture:
            for end in _OTHER_ENDS:
                with _jpeg(body + end) as other:
                    if ImageChops.difference(picture, other).getbbox() is not None:
                        return None
    except LIBRARY_ERRORS:
        return None
    return body + JPEG_END


def _jpeg(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data), formats=("JPEG",))
    check_pixels(*picture.size)
    picture.load()
    return picture


def _is_decodable(data: bytes) -> bool:
    try:
        _jpeg(data).close()
    except LIBRARY_ERRORS:
        return False
    return True


def _has_all_scans(data: bytes) -> bool:
    """Whether the scans of a JPEG bring all coefficients of all its components, to their last bit."""
    lowest_bits: dict[int, list[int]] = {}
    position = 2
    while (position := data.find(b"\xff", position)) >= 0:
        marker, body = data[position + 1 : position + 2], data[position + 4 :][: 3 * 256]
        if marker in _WITHOUT_LENGTH:
            position += 1 if marker == b"\xff" else 2
            continue
        if marker in _FRAMES and len(body) > 6:  # noqa: PLR2004 - up to the count of components
            lowest_bits = {component: [-1] * 64 for component in body[6 : 6 + 3 * body[5] : 3]}
        if marker == b"\xda" and body and len(body) > 3 + 2 * body[0]:
            first, last, bits = body[1 + 2 * body[0] :][:3]
            for component in body[1 : 1 + 2 * body[0] : 2]:
                lowest_bits.get(component, [])[first : last + 1] = [bits & 15] * (last + 1 - first)
        position += 2 + int.from_bytes(data[position + 2 : position + 4])
    return bool(lowest_bits) and not any(any(bits) for bits in lowest_bits.values())
