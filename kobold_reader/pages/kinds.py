"""What a file is, by its first bytes."""

from __future__ import annotations

from pathlib import PurePath
from typing import Final

from kobold_reader.pages.values import Kind

__all__ = ["HEAD_BYTES", "kind_of"]

HEAD_BYTES: Final = 1024
"""As much of a file as `kind_of` looks at."""

_IMAGE_SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".jp2"}
)
# Camera raw files begin like a TIFF, and Pillow finds only their thumbnail in them.
_RAW_SUFFIXES: Final = frozenset(
    {
        ".3fr", ".arw", ".cr2", ".cr3", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos",
        ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".sr2", ".srf", ".srw", ".x3f",
    }
)  # fmt: skip
_IMAGE_STARTS: Final = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"II*\x00",
    b"MM\x00*",
    b"II+\x00",
    b"MM\x00+",
    b"GIF87a",
    b"GIF89a",
    b"\x00\x00\x00\x0cjP  \r\n\x87\n",
)


def kind_of(head: bytes, name: str) -> Kind | None:
    """What a file is by its first bytes; by its ending where they tell nothing; None: not taken."""
    suffix = PurePath(name).suffix.lower()
    if suffix in _RAW_SUFFIXES or head[8:10] == b"CR":
        return None
    # The PDF standard allows a kilobyte of anything before the header.
    if b"%PDF-" in head:
        return "pdf"
    if head.startswith(_IMAGE_STARTS) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return "image"
    if head[:2] == b"BM" and head[6:10] == bytes(4):
        return "image"
    if suffix == ".pdf":
        return "pdf"
    return "image" if suffix in _IMAGE_SUFFIXES else None
