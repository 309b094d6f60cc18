"""How parent and child talk: length-prefixed frames of a JSON header and raw bytes, never pickle.

A frame is the header's length (4 bytes, big endian), the header, then as many raw blocks as its key `sizes` lists.
Values are sent by field, errors by class name: both sides are the same release, but a child that a file has taken over
must not be able to make the parent run anything.
"""

from __future__ import annotations

import dataclasses
import json
import struct
from typing import Any, BinaryIO

from kobold_reader import errors
from kobold_reader.errors import CorruptSourceError, KoboldReaderError
from kobold_reader.pages.values import Box, FileFacts, LinePiece, PageFacts, PageImages, PageLook, PageView, Posture

Value = FileFacts | PageFacts | PageLook | PageImages

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
    prefix = stream.read(_LENGTH.size)
    if len(prefix) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(prefix)
    if length > _MAX_HEADER_BYTES:
        raise ValueError(f"a frame header of {length} bytes")
    text = stream.read(length)
    if len(text) < length:
        return None
    header: dict[str, Any] = json.loads(text)
    blobs = []
    for size in header.pop("sizes"):
        blob = stream.read(size)
        if len(blob) < size:
            return None
        blobs.append(blob)
    return header, tuple(blobs)


def pack(value: Value) -> tuple[dict[str, Any], tuple[bytes, ...]]:
    """Header fields and raw blocks of a value."""
    fields = dataclasses.asdict(value)
    blobs: tuple[bytes, ...] = ()
    if isinstance(value, PageImages):
        blobs = tuple(view.image for view in (*value.views, *value.tiles))
        for view in (*fields["views"], *fields["tiles"]):
            del view["image"]
    return {"value": type(value).__name__, "fields": fields}, blobs


def unpack(header: dict[str, Any], blobs: tuple[bytes, ...]) -> Value:
    """The value that `pack` was given."""
    fields = header["fields"]
    match header["value"]:
        case "FileFacts":
            return FileFacts(**fields)
        case "PageFacts":
            return PageFacts(**fields)
        case "PageLook":
            return PageLook(**fields)
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


def _view(fields: dict[str, Any], image: bytes) -> PageView:
    lines = tuple(LinePiece(line["row"], _box(line["box"])) for line in fields["lines"])
    return PageView(**{**fields, "box": _box(fields["box"]), "lines": lines, "image": image})


def _box(shares: list[float]) -> Box:
    left, top, right, bottom = shares
    return left, top, right, bottom


def header_of_error(error: KoboldReaderError) -> dict[str, Any]:
    """An error as header fields."""
    return {
        "error": type(error).__name__,
        "message": error.message,
        "source": error.source,
        "page_number": error.page_number,
        "hint": error.hint,
    }


def error_of(header: dict[str, Any]) -> KoboldReaderError:
    """The error that `header_of_error` was given."""
    kind = getattr(errors, str(header["error"]), None)
    if not (isinstance(kind, type) and issubclass(kind, errors.SourceError)):
        kind = CorruptSourceError
    return kind(header["message"], source=header["source"], page_number=header["page_number"], hint=header["hint"])
