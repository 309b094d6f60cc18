"""The views of a page: the whole page as large as the budget allows, and tiles where that is too small to be read.

The pixels come from a frame of an image file, from a scan lifted out of a PDF, or are painted by MuPDF.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from kobold_reader.errors import PageRenderError
from kobold_reader.pages.blank import Ink, analysis_size, find_ink, find_ink_at_a_glance, glance_size
from kobold_reader.pages.images import (
    LIBRARY_ERRORS,
    check_pixels,
    encode_within,
    fit_size,
    flatten,
    is_plain_jpeg,
    is_plain_png,
    picture_errors,
    shrunk,
    with_end_mark,
    without_colour,
)
from kobold_reader.pages.orientation import UPRIGHT, find_orientation, stored_box, upright
from kobold_reader.pages.tiles import is_worth_a_look, plan_size, plan_tiles
from kobold_reader.pages.values import WHOLE, Box, ImageBudget, Mime, PageImages, PageView

_UNMEASURED_DPI = (72, 96)  # what programs write where nobody measured
_MIN_DPI, _MAX_DPI = 50, 4800
_MIN_INCHES, _MAX_INCHES = 1, 80
_TILES_ABREAST = 8  # a JPEG is decoded no finer than this number of tiles beside each other can show


@dataclass(frozen=True, slots=True)
class Placement:
    """How a picture is placed on its paper, before it is turned upright."""

    square: tuple[float, float]
    """Width and height in square pixels: a fax has 204 × 98 to the inch."""
    inches: tuple[float, float] | None
    """Width and height of the paper; None where unknown."""
    orientation: int = 1
    """EXIF orientation, 1 to 8."""

    @property
    def rotation_deg(self) -> int:
        """Clockwise turn that the orientation asks for."""
        return UPRIGHT[self.orientation][1]


def placement_of(picture: Image.Image, *, is_camera: bool, orientation: int) -> Placement:
    """The placement of a frame, with the size of the paper where the frame's resolution can be believed."""
    width, height = square = picture.size
    try:
        dpi_x, dpi_y = (float(value) for value in picture.info.get("dpi", (0, 0)))
    except LIBRARY_ERRORS:
        dpi_x = dpi_y = 0.0
    if is_camera or not (_MIN_DPI <= dpi_x <= _MAX_DPI and _MIN_DPI <= dpi_y <= _MAX_DPI):
        return Placement(square, None, orientation)
    best = max(dpi_x, dpi_y)
    if best / min(dpi_x, dpi_y) > 1.05:  # noqa: PLR2004 - a fax, not a rounding
        square = (round(width * best / dpi_x), round(height * best / dpi_y))
    elif any(abs(dpi_x - default) < 1 for default in _UNMEASURED_DPI):
        return Placement(square, None, orientation)
    inches = (width / dpi_x, height / dpi_y)
    return Placement(square, inches if _MIN_INCHES <= max(inches) <= _MAX_INCHES else None, orientation)


@dataclass(frozen=True, slots=True)
class Canvas:
    """Gives the pixels of a page before it is turned upright."""

    placement: Placement
    draw: Callable[[tuple[int, int], Box], Image.Image]
    """Gives a part of the page at a size, resampled once."""
    shrink: Callable[[tuple[int, int]], Image.Image]
    """Gives the page at a small size, in which its writing is looked for."""
    rotation_deg: int = 0
    """Clockwise turn that is in the pixels already."""


def page_images(
    canvas: Canvas, ink: Ink, budget: ImageBudget, rotate_deg: int | None, *, passing: PageView | None = None
) -> PageImages:
    """The view of a page, and its tiles where they are needed.

    Args:
        canvas: Gives the pixels.
        ink: Of the page, with its mask where `rotate_deg` is None.
        budget: The limits of each image.
        rotate_deg: Clockwise turn beyond the placement's: 0, 90, 180 or 270; None: as the ink shows.
        passing: A view of the stored bytes, used if the page is not turned.
    """
    placement = canvas.placement
    turn_deg, posture = rotate_deg or 0, None
    if rotate_deg is None and ink.mask is not None:
        found = find_orientation(upright(ink.mask, placement.orientation))
        turn_deg, posture = found.turn_deg, found.after(found.turn_deg)
    is_turned = (placement.rotation_deg + turn_deg) % 180 != 0
    rotation_deg = (canvas.rotation_deg + placement.rotation_deg + turn_deg) % 360

    def view(shown: Box, cover: Callable[[Image.Image], Image.Image] | None = None) -> tuple[bytes, Mime, Image.Image]:
        left, top, right, bottom = box = stored_box(shown, placement.orientation, turn_deg)

        def make(width_px: int, height_px: int) -> Image.Image:
            made = upright(canvas.draw((width_px, height_px), box), placement.orientation, turn_deg)
            return without_colour(cover(made) if cover else made)

        size = fit_size((right - left) * placement.square[0], (bottom - top) * placement.square[1], budget)
        return encode_within(make, size, budget)

    whole = None if turn_deg else passing
    if whole is None:
        data, mime, made = view(WHOLE)
        whole = PageView(data, mime, *made.size, _dpi(made.size, placement), rotation_deg)
    plan = None
    if not ink.is_blank and is_worth_a_look(*placement.square, budget):
        small = canvas.shrink(plan_size(*placement.square, placement.inches))
        native_px = placement.square[::-1] if is_turned else placement.square
        plan = plan_tiles(without_colour(upright(small, placement.orientation, turn_deg)), native_px, budget)
    if plan is None:
        return PageImages((whole,), ink.is_blank, posture)
    tiles = []
    for tile in plan.tiles:
        data, mime, made = view(tile.box, functools.partial(plan.covered, tile))
        dpi = None
        if placement.inches is not None:
            dpi = made.width / ((tile.box[2] - tile.box[0]) * placement.inches[is_turned])
        tiles.append(PageView(data, mime, *made.size, dpi, rotation_deg, tile.box, lines=tile.lines))
    return PageImages((whole,), ink.is_blank, posture, tuple(tiles), plan.is_coarse)


def _dpi(size: tuple[int, int], placement: Placement) -> float | None:
    """Pixels per inch of paper of a whole page."""
    return None if placement.inches is None else max(size) / max(placement.inches)


def picture_canvas(picture: Image.Image, placement: Placement, rotation_deg: int = 0) -> Canvas:
    """A canvas of a picture that is decoded in full."""
    return Canvas(
        placement, functools.partial(_cut, picture, picture.size), functools.partial(shrunk, picture), rotation_deg
    )


def _cut(picture: Image.Image, stored_size: tuple[int, int], size: tuple[int, int], box: Box) -> Image.Image:
    """A part of a picture, which may have been decoded smaller than it is stored."""
    if box == WHOLE and picture.size == size:
        return picture
    # Half of an odd side was rounded up.
    scale = max(1, round(max(stored_size) / max(picture.size)))
    width, height = (side / scale for side in stored_size) if box == WHOLE else picture.size
    left, top, right, bottom = box
    part = (left * width, top * height, right * width, bottom * height)
    return picture.resize(size, Image.Resampling.LANCZOS, box=part, reducing_gap=3.0)


def picture_images(
    picture: Image.Image,
    placement: Placement,
    budget: ImageBudget,
    *,
    original: bytes | None,
    rotate_deg: int | None,
    reopen: Callable[[], Image.Image],
) -> PageImages:
    """The view of a picture that is open and not yet decoded, and its tiles where they are needed.

    The bytes in `original` are sent untouched where the server takes them. `reopen` opens a JPEG or PNG anew, as one
    that was decoded small stays small. `rotate_deg` is that of `page_images`.
    """
    check_pixels(*picture.size)
    stored_size = picture.size
    passing = None if rotate_deg or original is None else _passing(picture, placement, budget, original)
    if passing and passing.mime == "image/jpeg" and rotate_deg is not None:
        judged = analysis_size(*placement.square, placement.inches)
        with reopen() as small:
            small.draft("L", glance_size(judged))  # it is read to its end, so a JPEG that is cut short fails here too
            glanced = find_ink_at_a_glance(small, judged)
        if glanced is not None:
            return PageImages((passing,), glanced.is_blank)
    flat, ink = _pixels(picture, placement, budget, reopen, is_passing=passing is not None, has_mask=rotate_deg is None)

    def draw(size: tuple[int, int], box: Box) -> Image.Image:
        # What was to pass, and is turned after all, was decoded small.
        source = _decoded(reopen, stored_size).convert(flat.mode) if passing else flat
        return _cut(source, stored_size, size, box)

    canvas = Canvas(placement, draw, functools.partial(shrunk, flat))
    return page_images(canvas, ink, budget, rotate_deg, passing=passing)


def _pixels(
    picture: Image.Image,
    placement: Placement,
    budget: ImageBudget,
    reopen: Callable[[], Image.Image],
    *,
    is_passing: bool,
    has_mask: bool,
) -> tuple[Image.Image, Ink]:
    """As many of a picture's pixels as are needed, grey where it has no colour; and its ink.

    A JPEG's decoder halves while it decodes, from the same coefficients: the page is decoded at a smaller size, no
    smaller than its view, and that is resampled once. RapidOCR reads it as well as all pixels resampled; averaging
    those by threes before LANCZOS cost one word in seventy on three receipts.
    """
    target, judged = fit_size(*placement.square, budget), analysis_size(*placement.square, placement.inches)
    is_halving = picture.format == "JPEG" and placement.square == picture.size
    need = judged if is_passing else _larger(target, judged)
    if is_worth_a_look(*placement.square, budget):
        need = _larger(need, (_TILES_ABREAST * budget.max_side_px,) * 2)
    if is_halving:
        picture.draft(picture.mode, need)
    picture.load()
    flat = flatten(picture)
    ink = find_ink_at_a_glance(flat, judged)
    closely = _larger((2 * target[0], 2 * target[1]), judged)
    if ink is None and is_halving and not is_passing and flat.width < min(closely[0], placement.square[0]):
        # Nearly blank, or pale: more pixels tell grain from writing more surely.
        flat = _decoded(reopen, closely)
    if ink is None or has_mask or flat.mode == "RGB":
        paper = without_colour(shrunk(flat, judged))
        if paper.mode == "L":
            flat = flat.convert("L")  # one channel to resample instead of three
        if ink is None or has_mask:
            ink = find_ink(paper)
    return flat, ink


def _larger(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    return max(one[0], other[0]), max(one[1], other[1])


def _decoded(reopen: Callable[[], Image.Image], need: tuple[int, int]) -> Image.Image:
    with reopen() as picture:
        picture.draft(picture.mode, need)
        return flatten(picture).copy()


def _passing(picture: Image.Image, placement: Placement, budget: ImageBudget, original: bytes) -> PageView | None:
    """The view of the stored bytes if these may be sent untouched, else None."""
    is_small = len(original) <= budget.max_bytes and fit_size(*picture.size, budget) == picture.size
    if not is_small or placement.orientation != 1 or placement.square != picture.size:
        return None
    is_jpeg = is_plain_jpeg(original, picture)
    if not is_jpeg and not is_plain_png(original, picture):
        return None
    mime: Mime = "image/jpeg" if is_jpeg else "image/png"
    return PageView(original, mime, *picture.size, _dpi(picture.size, placement), 0, is_passthrough=True)


def scan_images(
    data: bytes, inches: tuple[float, float] | None, budget: ImageBudget, rotate_deg: int | None
) -> PageImages:
    """The images of a PDF page that is one scan, from the scan's bytes."""
    whole = with_end_mark(data) or data

    def opened() -> Image.Image:
        return Image.open(io.BytesIO(whole), formats=("JPEG", "PNG"))

    with picture_errors(PageRenderError), opened() as picture:
        placement = Placement(picture.size, inches)
        return picture_images(picture, placement, budget, original=whole, rotate_deg=rotate_deg, reopen=opened)
