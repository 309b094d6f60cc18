"""One picture, from the decoder to its view: a frame of an image file, or a scan lifted out of a PDF."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from PIL import Image, UnidentifiedImageError

from kobold_reader.errors import PageRenderError, SourceError
from kobold_reader.pages.blank import Ink, analysis_size, find_ink, find_ink_at_a_glance, glance_size
from kobold_reader.pages.orientation import Lie, find_lie
from kobold_reader.pages.pixels import (
    LIBRARY_ERRORS,
    UPRIGHT,
    check_pixels,
    encode_within,
    fit_size,
    flatten,
    is_plain_jpeg,
    is_plain_png,
    turned_box,
    turned_by,
    without_colour,
)
from kobold_reader.pages.tiles import Plan, Tile, is_worth_a_look, plan_size, plan_tiles
from kobold_reader.pages.values import ImageBudget, Mime, PageImages, PageView

__all__ = ["Placement", "picture_errors", "picture_images", "placement_of", "scan_images"]

_QUARTER: Final = {90, 270}

# 72 and 96 are what programs write where nobody measured.
_UNMEASURED_DPI: Final = (72, 96)
_DPI_RANGE: Final = (50, 4800)
_TILES_ABREAST: Final = 8  # a JPEG is decoded no finer than so many tiles beside each other can show
_PAPER_INCHES: Final = (1, 80)


@dataclass(frozen=True, slots=True)
class Placement:
    """How a stored picture lies on its paper.

    Attributes:
        square: Width and height in square pixels, as stored: a fax has 204 × 98 to the inch.
        inches: Width and height of the paper, as stored; None where unknown.
        orientation: EXIF orientation, 1 to 8.
    """

    square: tuple[int, int]
    inches: tuple[float, float] | None
    orientation: int = 1

    @property
    def rotation_deg(self) -> int:
        """Clockwise turn that the orientation asks for."""
        return UPRIGHT[self.orientation][1]

    @property
    def is_turned(self) -> bool:
        """Whether width and height change places."""
        return self.rotation_deg in _QUARTER


@contextmanager
def picture_errors(kind: type[SourceError]) -> Iterator[None]:
    """Pillow's exceptions become this kind of ours."""
    try:
        with warnings.catch_warnings():
            # Odd metadata makes Pillow warn; the pixels are what counts here.
            warnings.simplefilter("ignore")
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
        if any(word in text.lower() for word in ("truncated", "premature", "unexpected end", "eof", "not enough")):
            raise kind(f"The picture is cut short ({text}).", hint="Copy or scan it again.") from error
        raise kind(f"The picture cannot be decoded ({text or type(error).__name__}).") from error


def placement_of(picture: Image.Image, *, is_camera: bool, orientation: int) -> Placement:
    """Where a frame's own resolution can be believed, the size of its paper."""
    width, height = picture.size
    try:
        dpi_x, dpi_y = (float(value) for value in picture.info.get("dpi", (0, 0)))
    except LIBRARY_ERRORS:
        dpi_x = dpi_y = 0.0
    low, high = _DPI_RANGE
    if is_camera or not (low <= dpi_x <= high and low <= dpi_y <= high):
        return Placement((width, height), None, orientation)
    square = (width, height)
    if max(dpi_x, dpi_y) / min(dpi_x, dpi_y) > 1.05:  # noqa: PLR2004 - a fax, not a rounding
        best = max(dpi_x, dpi_y)
        square = (round(width * best / dpi_x), round(height * best / dpi_y))
    elif any(abs(dpi_x - default) < 1 for default in _UNMEASURED_DPI):
        return Placement(square, None, orientation)
    inches = (width / dpi_x, height / dpi_y)
    if not _PAPER_INCHES[0] <= max(inches) <= _PAPER_INCHES[1]:
        return Placement(square, None, orientation)
    return Placement(square, inches, orientation)


def picture_images(
    picture: Image.Image,
    placement: Placement,
    budget: ImageBudget,
    *,
    original: bytes | None,
    rotate_deg: int | None,
    reopen: Callable[[], Image.Image],
) -> PageImages:
    """The view of a picture, its tiles where they are needed, and whether anything is on it.

    Args:
        picture: Opened, not yet decoded.
        placement: How it lies.
        budget: How large the view may be.
        original: Its encoded bytes, where they are to be sent untouched if they may be.
        rotate_deg: Clockwise turn asked for beyond uprightness: 0, 90, 180 or 270; None: as it lies.
        reopen: Opens a JPEG or PNG anew, as one that was decoded small stays small.
    """
    check_pixels(*picture.size)
    target = fit_size(*placement.square, budget)
    judged = analysis_size(*placement.square, placement.inches)
    mime = None if original is None else _passing(picture, placement, budget, original, rotate_deg or 0)
    stored_size = picture.size
    if mime == "image/jpeg" and original is not None and rotate_deg is not None:
        with reopen() as small:
            small.draft("L", glance_size(judged))  # all of it is read, so one that is cut short says so here too
            glanced = find_ink_at_a_glance(small, judged)
        if glanced is not None:
            only = PageView(original, mime, *stored_size, _dpi(stored_size, placement), 0, is_passthrough=True)
            return PageImages((only,), glanced.is_blank, glanced.share)
    flat, ink = _pixels(picture, placement, budget, reopen, is_passing=mime is not None, has_mask=rotate_deg is None)
    lie = Lie()
    if rotate_deg is None and ink.mask is not None:
        lie = find_lie(_upright(ink.mask, placement))
    turn_deg = lie.turn_deg if rotate_deg is None else rotate_deg
    if mime and turn_deg:  # it was to pass, and decoded small
        mime, flat = None, _decoded(reopen, stored_size).convert(flat.mode)
    if mime and original is not None:
        data, size = original, stored_size
    else:

        def make(width_px: int, height_px: int) -> Image.Image:
            made = flat
            if made.size != (width_px, height_px):
                box = _extent(flat, stored_size)
                made = flat.resize((width_px, height_px), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
            return without_colour(_turned_upright(made, placement, turn_deg))

        data, mime, view = encode_within(make, target, budget)
        size = view.size
    turned = (placement.rotation_deg + turn_deg) % 360
    only = PageView(data, mime, *size, _dpi(size, placement), turned, is_passthrough=data is original)
    plan = None if ink.is_blank else _plan(flat, placement, turn_deg, budget)
    tiles = (
        () if plan is None else tuple(_tile_view(flat, placement, turn_deg, plan, tile, budget) for tile in plan.tiles)
    )
    return PageImages((only,), ink.is_blank, ink.share, lie.after(turn_deg), tiles, plan is not None and plan.is_coarse)


def _dpi(size: tuple[int, int], placement: Placement) -> float | None:
    """Pixels per inch of paper of a whole picture of that size."""
    return None if placement.inches is None else max(size) / max(placement.inches)


def _extent(flat: Image.Image, stored_size: tuple[int, int]) -> tuple[float, float, float, float]:
    """How much of a picture that was decoded small is the page: half of an odd side is rounded up."""
    scale = max(1, round(max(stored_size) / max(flat.size)))
    return 0.0, 0.0, stored_size[0] / scale, stored_size[1] / scale


def _pixels(
    picture: Image.Image,
    placement: Placement,
    budget: ImageBudget,
    reopen: Callable[[], Image.Image],
    *,
    is_passing: bool,
    has_mask: bool,
) -> tuple[Image.Image, Ink]:
    """A picture's pixels, as many as are needed, grey where it holds nothing else; and what is on it.

    A JPEG's decoder halves while it decodes, from the same coefficients: the page is decoded at a smaller size, no
    smaller than its view, and that is resampled once. RapidOCR reads it as well as all pixels resampled; averaging
    those by threes before LANCZOS cost a word in seventy on three receipts.
    """
    target, judged = fit_size(*placement.square, budget), analysis_size(*placement.square, placement.inches)
    closely = (max(2 * target[0], judged[0]), max(2 * target[1], judged[1]))
    is_halving = picture.format == "JPEG" and placement.square == picture.size
    need = judged if is_passing else (max(target[0], judged[0]), max(target[1], judged[1]))
    if is_worth_a_look(*placement.square, budget):
        need = (max(need[0], _TILES_ABREAST * budget.max_side_px), max(need[1], _TILES_ABREAST * budget.max_side_px))
    if is_halving:
        picture.draft(picture.mode, need)
    picture.load()
    flat = flatten(picture)
    ink = find_ink_at_a_glance(flat, judged)
    if ink is None and is_halving and not is_passing and flat.width < min(closely[0], placement.square[0]):
        # Nearly blank, or pale: the finer the grain, the surer what is none.
        flat = _decoded(reopen, closely)
    if ink is None or has_mask or flat.mode == "RGB":
        paper = flat.resize(judged, Image.Resampling.BOX, reducing_gap=2.0) if flat.size != judged else flat
        paper = without_colour(paper)
        if paper.mode == "L":
            flat = flat.convert("L")  # one channel to resample instead of three
        if ink is None or has_mask:
            ink = find_ink(paper)
    return flat, ink


def _turned_upright(picture: Image.Image, placement: Placement, turn_deg: int) -> Image.Image:
    return turned_by(_upright(picture, placement), turn_deg)


def _plan(flat: Image.Image, placement: Placement, turn_deg: int, budget: ImageBudget) -> Plan | None:
    """How the page is to be cut, as it lies once it is upright."""
    if not is_worth_a_look(*placement.square, budget):
        return None
    size = plan_size(*placement.square, placement.inches)
    small = flat if flat.size == size else flat.resize(size, Image.Resampling.BOX, reducing_gap=2.0)
    native = placement.square if (placement.rotation_deg + turn_deg) % 180 == 0 else placement.square[::-1]
    return plan_tiles(_turned_upright(small, placement, turn_deg), native, budget)


def _tile_view(
    flat: Image.Image, placement: Placement, turn_deg: int, plan: Plan, tile: Tile, budget: ImageBudget
) -> PageView:
    """A part of the page, cut out of the stored picture and resampled once."""
    left, top, right, bottom = turned_box(tile.box, placement.orientation, turn_deg)
    stored = (left * flat.width, top * flat.height, right * flat.width, bottom * flat.height)
    is_turned = (placement.rotation_deg + turn_deg) % 180 != 0

    def make(width_px: int, height_px: int) -> Image.Image:
        size = (height_px, width_px) if is_turned else (width_px, height_px)
        made = flat.resize(size, Image.Resampling.LANCZOS, box=stored, reducing_gap=3.0)
        return without_colour(plan.covered(_turned_upright(made, placement, turn_deg), tile))

    across, down = (right - left) * placement.square[0], (bottom - top) * placement.square[1]
    size = fit_size(*((down, across) if is_turned else (across, down)), budget)
    data, mime, view = encode_within(make, size, budget)
    dpi = None
    if placement.inches is not None:
        dpi = view.width / ((tile.box[2] - tile.box[0]) * placement.inches[1 if is_turned else 0])
    turned = (placement.rotation_deg + turn_deg) % 360
    return PageView(data, mime, *view.size, dpi, turned, tile.box, lines=tile.lines)


def _upright(picture: Image.Image, placement: Placement) -> Image.Image:
    """The picture as its EXIF orientation asks for."""
    step = UPRIGHT[placement.orientation][0]
    return picture if step is None else picture.transpose(step)


def _decoded(reopen: Callable[[], Image.Image], need: tuple[int, int]) -> Image.Image:
    with reopen() as picture:
        picture.draft(picture.mode, need)
        return flatten(picture).copy()


def _passing(
    picture: Image.Image,
    placement: Placement,
    budget: ImageBudget,
    original: bytes,
    rotate_deg: int,
) -> Mime | None:
    """The type of bytes that may be sent untouched, None where they may not."""
    if rotate_deg or placement.orientation != 1 or len(original) > budget.max_bytes:
        return None
    if placement.square != picture.size or fit_size(*picture.size, budget) != picture.size:
        return None
    if is_plain_jpeg(original, picture):
        return "image/jpeg"
    return "image/png" if is_plain_png(original, picture) else None


def scan_images(data: bytes, inches: tuple[float, float], budget: ImageBudget, *, rotate_deg: int | None) -> PageImages:
    """The view of a scan lifted out of a PDF page that is nothing else."""

    def opened() -> Image.Image:
        return Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))

    with picture_errors(PageRenderError), opened() as picture:
        placement = Placement(picture.size, inches)
        return picture_images(picture, placement, budget, original=data, rotate_deg=rotate_deg, reopen=opened)
