"""The values that describe files and pages, and how they cross the border of the child process.

They cross it in length-prefixed frames, never as pickle: a child that a file has taken over must not be able to make
the parent run anything. A frame is the header's length (4 bytes, big endian), the header (JSON), then as many raw
blocks as its key `sizes` lists. Values are sent by field, errors by class name: both sides are the same release.

This module imports nothing heavy, so that every module may name these types.
"""

from __future__ import annotations

import dataclasses
import json
import struct
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal, NamedTuple

from kobold_reader import errors
from kobold_reader.errors import KoboldReaderError

Kind = str
"""What a file is, by its bytes: `pdf image heic avif raw cbz epub xps`; a str, so that a new kind breaks no caller."""
Mime = Literal["image/jpeg", "image/png"]
TextLayer = Literal["none", "good", "poor"]
Scalar = str | int | float | bool
Box = tuple[float, float, float, float]
"""Left, top, right, bottom; as shares of a picture's sides where no unit is named."""
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class FileFacts:
    """Facts about an open file."""

    sha256: str
    """Of the whole file, lower-case hex."""
    kind: Kind
    total_pages: int
    """Pages of a PDF or book; pictures of a CBZ; frames of a TIFF; 1 for every other image, animated or not."""
    is_repaired: bool
    """The PDF was damaged and MuPDF rebuilt it: content may be missing without a sign."""
    metadata: dict[str, Scalar] = field(default_factory=dict)
    """Only what is known of `title author description keywords keywords_source persons rating camera latitude longitude
    date_taken date_digitized damage`; dates in ISO 8601, degrees north and east, keywords and persons joined by ", ".
    """
    attachments_skipped: dict[str, int] = field(default_factory=dict)
    """Files inside it that are not taken, under keys like those of `Selection.skipped`."""


@dataclass(frozen=True, slots=True)
class TextLine:
    """A line of a text layer."""

    text: str
    box: Box
    """Its place on the upright page."""


@dataclass(frozen=True, slots=True)
class TextLines:
    """The lines of a page's text layer; none where it has no such layer."""

    lines: tuple[TextLine, ...] = ()


@dataclass(frozen=True, slots=True)
class PageFacts:
    """Facts about one page, found without making its image."""

    page_number: int
    """1-based."""
    page_label: str
    """The printed label (`xiv`), else the page number."""
    content_sha256: str
    """Of the embedded scan where the page is nothing else: a .jpg file and two PDFs of the same scan have the same
    hash. Else made of the file's sha256 and the page number."""
    width_pt: float | None
    """Width of the upright paper; None where no resolution is known."""
    height_pt: float | None
    width_px: int
    """Pixels of the embedded scan or frame, upright; 0 for a born-digital page."""
    height_px: int
    text: str
    """The text layer, also where it is hidden OCR text; "" without one."""
    text_layer: TextLayer
    """"good" if the text may be used as the transcription; "poor" if it is hidden, sparse or garbled."""
    image_coverage: float
    """Share of the page under images, 0 to 1."""
    rotation_deg: int
    """Clockwise turn already applied to make the page upright (/Rotate, EXIF)."""
    metadata: dict[str, Scalar] = field(default_factory=dict)
    """Of this page alone, as of a TIFF frame; `notes` are what people pinned to a page without a good text layer."""
    doubtful_lines: tuple[TextLine, ...] = ()
    """Some lines of a poor text layer that may be good, since only its letters leave a doubt: to be compared with the
    page's picture. Empty in the ledger."""


@dataclass(frozen=True, slots=True)
class PageLook:
    """Whether a page is a photo or a scan, judged on a small copy, and its perceptual hash."""

    kind: Literal["photo", "scan"] | None = None
    """None where it is neither: an icon, a page of text, a picture that cannot be decoded."""
    phash: str | None = None
    """16 hexadecimal digits, of the upright picture; None where it has no features."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """What a photo says itself, as a new sidecar takes it over."""

    packet: str = ""
    """Its XMP, whole."""
    values: dict[str, list[str]] = field(default_factory=dict)
    """What EXIF and IPTC say, by the local name of the XMP property."""


@dataclass(frozen=True, slots=True)
class ImageBudget:
    """How large an image may be."""

    max_side_px: int = 1024
    max_pixels: int | None = None
    """Width times height, where the encoder counts that."""
    max_bytes: int = 12_000_000
    """Encoded."""
    jpeg_quality: int = 90
    """To begin with; lowered only to keep max_bytes."""
    max_dpi: float = 300.0
    """Born-digital pages are rendered at no more."""
    min_px_per_inch: float | None = None
    """A page that would come out below it is cut into tiles as well; None: never."""
    max_aspect: float | None = None
    """Of a page that is longer than this many times its width, max_side_px is the size of a part of these proportions:
    the page is read in bands. None: max_side_px is that of any page."""


@dataclass(frozen=True, slots=True)
class LinePiece:
    """A line of writing, or the piece of it that a tile shows."""

    row: int
    """Number of the line on its page, in reading order: its pieces in other tiles have the same one."""
    box: Box
    """Its place on the page. Pieces of one row overlap only where no gap was found to cut at: that part is in both
    tiles. All other writing is in one tile only."""


@dataclass(frozen=True, slots=True)
class PageView:
    """One image of a page: RGB or grey, upright, opaque."""

    image: bytes
    """Encoded."""
    mime: Mime
    width_px: int
    height_px: int
    effective_dpi: float | None
    """Pixels per inch of paper; None where the size of the paper is unknown."""
    rotation_deg: int
    """Clockwise turn applied to the page as stored, the one asked for included."""
    box: Box = WHOLE
    """The part of the page shown."""
    is_passthrough: bool = False
    """The bytes are those of the file, untouched."""
    lines: tuple[LinePiece, ...] = ()
    """Of a tile: the writing it shows, in reading order."""


@dataclass(frozen=True, slots=True)
class Posture:
    """The two ways of which one is up; the picture alone does not tell which."""

    turns: tuple[int, int]
    """Clockwise turns of the view; one of them puts its writing upright."""
    lines: tuple[Box, ...]
    """Some lines of writing in the view, to be read both ways."""


@dataclass(frozen=True, slots=True)
class PageImages:
    """The views of a page, and whether anything is on it."""

    views: tuple[PageView, ...]
    """The whole page, as the budget allows; always one."""
    is_blank: bool
    """Nothing but paper: dust, texture, bleed-through and edge shadows do not count."""
    posture: Posture | None = None
    """The two ways that may be up, where no turn was asked for and the picture does not tell."""
    tiles: tuple[PageView, ...] = ()
    """Parts of the page, in reading order, that together show all its writing, each word whole; empty where the whole
    page is legible."""
    is_coarse: bool = False
    """Even in the largest number of tiles that is made, the print is smaller than it should be."""
    damage: str = ""
    """A sentence that says what is missing, where the stored image is damaged and only a part of it is shown."""


class PlacedText(NamedTuple):
    """A line of text, or a piece of one, and where it stands."""

    text: str
    corners: tuple[float, ...]
    """x and y of four corners, in shares of the page as its file shows it, clockwise from where the text begins."""
    words: tuple[float, ...] = ()
    """Where each word begins and ends, by turns, in shares of the line's length; empty where that is not known."""


@dataclass(frozen=True, slots=True)
class CopyNotes:
    """What became of a copy with text: sentences for its reader."""

    notices: tuple[str, ...] = ()


# ── across the border ────────────────────────────────────────────────────────────────────────────

Value = FileFacts | PageFacts | TextLines | PageLook | PageImages | CopyNotes | Embedded

_LENGTH = struct.Struct(">I")
_MAX_HEADER_BYTES = 256 * 1024 * 1024


def write_frame(stream: BinaryIO, header: dict[str, Any], blobs: tuple[bytes, ...] = ()) -> None:
    """Write one frame and flush it."""
    text = json.dumps({**header, "sizes": [len(blob) for blob in blobs]}).encode("ascii")
    stream.write(b"".join((_LENGTH.pack(len(text)), text, *blobs)))
    stream.flush()


def read_frame(stream: BinaryIO) -> tuple[dict[str, Any], tuple[bytes, ...]] | None:
    """Read one frame; None at the end of the stream, also where it ends inside a frame.

    Raises:
        ValueError: The bytes are no frame.
    """

    def read(size: int) -> bytes:
        if len(data := stream.read(size)) < size:
            raise EOFError
        return data

    try:
        (length,) = _LENGTH.unpack(read(_LENGTH.size))
        if length > _MAX_HEADER_BYTES:
            raise ValueError(f"a frame header of {length} bytes")
        header: dict[str, Any] = json.loads(read(length))
        return header, tuple(read(size) for size in header.pop("sizes"))
    except EOFError:
        return None


def pack(value: Value) -> tuple[dict[str, Any], tuple[bytes, ...]]:
    """Header fields and raw blocks of a value."""
    if isinstance(value, PageFacts) and not value.doubtful_lines:
        fields = {name: getattr(value, name) for name in value.__slots__}  # asdict copies each value in Python
    else:
        fields = dataclasses.asdict(value)
    views = (*fields["views"], *fields["tiles"]) if isinstance(value, PageImages) else ()
    blobs = tuple(view.pop("image") for view in views)
    return {"value": type(value).__name__, "fields": fields}, blobs


def unpack(header: dict[str, Any], blobs: tuple[bytes, ...]) -> Value:
    """The value that `pack` was given."""
    fields = header["fields"]
    match header["value"]:
        case "FileFacts":
            return FileFacts(**fields)
        case "PageFacts":
            return PageFacts(**{**fields, "doubtful_lines": _text_lines(fields["doubtful_lines"])})
        case "TextLines":
            return TextLines(_text_lines(fields["lines"]))
        case "PageLook":
            return PageLook(**fields)
        case "Embedded":
            return Embedded(**fields)
        case "CopyNotes":
            return CopyNotes(tuple(fields["notices"]))
        case "PageImages":
            shown = zip([*fields["views"], *fields["tiles"]], blobs, strict=True)
            images = [_view(view, image) for view, image in shown]
            count = len(fields["views"])
            fields |= {"views": tuple(images[:count]), "tiles": tuple(images[count:])}
            if fields["posture"]:
                first, second = fields["posture"]["turns"]
                fields["posture"] = Posture((first, second), tuple(map(_box, fields["posture"]["lines"])))
            return PageImages(**fields)
    raise ValueError(f"unknown value {header['value']!r}")


def _text_lines(lines: list[dict[str, Any]]) -> tuple[TextLine, ...]:
    return tuple(TextLine(line["text"], _box(line["box"])) for line in lines)


def _view(fields: dict[str, Any], image: bytes) -> PageView:
    lines = tuple(LinePiece(line["row"], _box(line["box"])) for line in fields["lines"])
    return PageView(**{**fields, "box": _box(fields["box"]), "lines": lines, "image": image})


def _box(shares: list[float]) -> Box:
    left, top, right, bottom = shares
    return left, top, right, bottom


def header_of_error(error: KoboldReaderError) -> dict[str, Any]:
    """An error as header fields."""
    fields = ("message", "source", "page_number", "hint")
    return {"error": type(error).__name__, **{name: getattr(error, name) for name in fields}}


def error_of(header: dict[str, Any]) -> KoboldReaderError:
    """The error that `header_of_error` was given."""
    kind = getattr(errors, str(header["error"]), None)
    if not (isinstance(kind, type) and issubclass(kind, errors.SourceError)):
        kind = errors.CorruptSourceError
    return kind(header["message"], source=header["source"], page_number=header["page_number"], hint=header["hint"])
