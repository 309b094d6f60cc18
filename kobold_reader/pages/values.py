"""What pages/ hands out: plain, frozen values that cross the border of the child process.

This module imports nothing heavy, so that everybody may name these types.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

__all__ = [
    "Box",
    "FileFacts",
    "ImageBudget",
    "Kind",
    "LinePiece",
    "Mime",
    "PageFacts",
    "PageImages",
    "PageLook",
    "PageView",
    "Posture",
    "Scalar",
    "TextLayer",
]

Kind = str
"""What a file is, by its bytes: `pdf image heic avif raw cbz epub xps`; a str, so that new kinds move no wall."""

Mime = Literal["image/jpeg", "image/png"]
TextLayer = Literal["none", "good", "poor"]
Scalar = str | int | float | bool
Box = tuple[float, float, float, float]
"""Left, top, right, bottom as shares of a picture's sides."""


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What is known once a file is open.

    Attributes:
        sha256: Of the whole file, lower-case hex.
        kind: As it was opened.
        total_pages: Pages of a PDF or book; pictures of a CBZ; frames of a TIFF; 1 for every other
            image, animated or not.
        is_repaired: The PDF was damaged and MuPDF rebuilt it: content may be gone without a sign.
        metadata: `title author description keywords keywords_source persons rating camera latitude
            longitude date_taken date_digitized`, only where known; dates in ISO 8601, degrees north
            and east, keywords and persons joined by ", ".
    """

    sha256: str
    kind: Kind
    total_pages: int
    is_repaired: bool
    metadata: dict[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PageFacts:
    """What one page is, found without making its image.

    Attributes:
        page_number: 1-based.
        page_label: The printed label (`xiv`), else the page number.
        content_sha256: Of the embedded scan where the page is just that: the same scan as a .jpg
            file and inside two PDFs has the same one. Else made of file sha256 and page number.
        width_pt: Width of the upright paper in points; None where no resolution is known.
        height_pt: Height of the upright paper.
        width_px: Pixels of the embedded scan or frame, upright; 0 for a born-digital page.
        height_px: Its height.
        text: The text layer, also where it is hidden OCR text; "" without one.
        text_layer: "good" where the text can stand for a transcription; "poor" where it is hidden,
            sparse or garbled.
        image_coverage: Share of the page under images, 0 to 1.
        rotation_deg: Clockwise turn already applied to make the page upright (/Rotate, EXIF).
        metadata: Page-level facts, as of a TIFF frame; `notes` are what people pinned to a page whose
            own text cannot stand for it. Usually empty.
    """

    page_number: int
    page_label: str
    content_sha256: str
    width_pt: float | None
    height_pt: float | None
    width_px: int
    height_px: int
    text: str
    text_layer: TextLayer
    image_coverage: float
    rotation_deg: int
    metadata: dict[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PageLook:
    """What a page's picture is, seen small.

    Attributes:
        kind: `photo` or `scan`; None where it is neither: an icon, a page of text, a picture that cannot be decoded.
        phash: 16 hexadecimal digits, of the upright picture; None where nothing tells it apart from others.
    """

    kind: Literal["photo", "scan"] | None = None
    phash: str | None = None


@dataclass(frozen=True, slots=True)
class ImageBudget:
    """How large an image may be.

    Attributes:
        max_side_px: Longest side.
        max_pixels: Width times height, where the encoder counts that.
        max_bytes: Encoded size.
        multiple_px: The encoder's patch size; a hint only, sides need not be multiples.
        jpeg_quality: Quality to begin with; lowered only to keep max_bytes.
        max_dpi: Born-digital pages are rendered at no more.
        min_px_per_inch: A page that would come out below it is cut into tiles as well; None: never.
    """

    max_side_px: int = 1024
    max_pixels: int | None = None
    max_bytes: int = 12_000_000
    multiple_px: int = 1
    jpeg_quality: int = 90
    max_dpi: float = 300.0
    min_px_per_inch: float | None = None


@dataclass(frozen=True, slots=True)
class LinePiece:
    """A line of writing, or the piece of it that a tile shows.

    Attributes:
        row: Number of the line on its page, in reading order: its pieces in other tiles have the same one.
        box: Where it stands, as shares of the page's sides. Pieces of one row overlap where there was no gap to
            cut at: what stands there is seen in both tiles, and in no other place is any writing seen twice.
    """

    row: int
    box: Box


@dataclass(frozen=True, slots=True)
class PageView:
    """One image of a page: RGB or grey, upright, opaque.

    Attributes:
        image: Encoded bytes.
        mime: Of the bytes.
        width_px: Of the image.
        height_px: Of the image.
        effective_dpi: Pixels per inch of paper; None where the size of the paper is unknown.
        rotation_deg: Clockwise turn applied to the page as stored, the one asked for included.
        box: The part of the page shown: left, top, right, bottom as shares of its sides.
        is_passthrough: The bytes are those of the file, untouched.
        lines: Of a tile: the writing it shows, in reading order.
    """

    image: bytes
    mime: Mime
    width_px: int
    height_px: int
    effective_dpi: float | None
    rotation_deg: int
    box: Box = (0.0, 0.0, 1.0, 1.0)
    is_passthrough: bool = False
    lines: tuple[LinePiece, ...] = ()


@dataclass(frozen=True, slots=True)
class Posture:
    """What a page's picture alone does not tell: which of two ways is up.

    Attributes:
        turns: Clockwise turns of the view, one of which puts its writing upright.
        lines: Some lines of writing in the view, for whoever can read them both ways.
    """

    turns: tuple[int, int]
    lines: tuple[Box, ...]


@dataclass(frozen=True, slots=True)
class PageImages:
    """The views of a page, and whether anything is on it.

    Attributes:
        views: The whole page, as the budget allows; always one.
        tiles: Where that is too small to be read: parts of the page, in reading order, that together show all its
            writing, each word whole and (see `LinePiece`) once. Empty where the whole page is legible.
        is_coarse: Even in as many tiles as are made at most, the print is smaller than it should be.
        is_blank: Nothing but paper: dust, texture, bleed-through and edge shadows do not count.
        ink_share: Share of the page's pixels that are ink, after dust is taken away.
        posture: Which way may be up, where the page was to be turned by itself and that is open.
    """

    views: tuple[PageView, ...]
    is_blank: bool
    ink_share: float
    posture: Posture | None = None
    tiles: tuple[PageView, ...] = ()
    is_coarse: bool = False
