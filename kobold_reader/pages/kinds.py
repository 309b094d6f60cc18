"""What a file is, by its first bytes; and which optional part of the package takes it."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path, PurePath
from typing import Final

from kobold_reader.pages.values import Kind

__all__ = ["HEAD_BYTES", "TAKEN", "extra_hint", "kind_of", "missing_extra"]

HEAD_BYTES: Final = 1024
"""As much of a file as `kind_of` looks at."""

TAKEN: Final = "PDF, JPEG, PNG, TIFF, WebP, BMP, GIF, JPEG 2000, AVIF, HEIC, camera RAW, CBZ, EPUB and XPS are."
"""What is taken, for people."""

_IMAGE_SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".jp2", ".j2k", ".jpx"}
)
_RAW_SUFFIXES: Final = frozenset(
    {
        ".3fr", ".arw", ".cr2", ".cr3", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos",
        ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".sr2", ".srf", ".srw", ".x3f",
    }
)  # fmt: skip
_KINDS_BY_SUFFIX: Final = {
    ".pdf": "pdf",
    ".epub": "epub",
    ".xps": "xps",
    ".oxps": "xps",
    ".cbz": "cbz",
    ".heic": "heic",
    ".heif": "heic",
    ".hif": "heic",
    ".avif": "avif",
    **dict.fromkeys(_IMAGE_SUFFIXES, "image"),
    **dict.fromkeys(_RAW_SUFFIXES, "raw"),
}
_TIFF_STARTS: Final = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_IMAGE_STARTS: Final = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"\x00\x00\x00\x0cjP  \r\n\x87\n",
    b"\xff\x4f\xff\x51",
)
_RAW_STARTS: Final = (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\x00", b"FOVb", b"\x00MRM")
_HEIC_BRANDS: Final = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
_AVIF_BRANDS: Final = frozenset({b"avif", b"avis"})
_ANY_HEIF_BRANDS: Final = frozenset({b"mif1", b"msf1"})
_ZIP: Final = b"PK\x03\x04"

_EXTRAS: Final = {"heic": "heic", "avif": "heic", "raw": "raw"}


def kind_of(head: bytes, name: str) -> Kind | None:
    """What a file is by its first bytes; by its ending where they tell nothing; None: not taken."""
    by_suffix = _KINDS_BY_SUFFIX.get(PurePath(name).suffix.lower())
    # The PDF standard allows a kilobyte of anything before the header.
    if b"%PDF-" in head and not head.startswith(_ZIP):
        return "pdf"
    if head.startswith(_RAW_STARTS) or head[8:10] == b"CR":
        return "raw"
    if head.startswith(_TIFF_STARTS):
        # Many a camera's raw file is a TIFF, in which Pillow would find only the thumbnail.
        return "raw" if by_suffix == "raw" else "image"
    if head.startswith(_IMAGE_STARTS) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return "image"
    if head[:2] == b"BM" and head[6:10] == bytes(4):
        return "image"
    if head[4:8] == b"ftyp":
        return _kind_of_boxes(head)
    if head.startswith(_ZIP):
        return _kind_of_zip(head, by_suffix)
    return by_suffix


def _kind_of_boxes(head: bytes) -> Kind | None:
    """HEIF, AVIF and Canon's CR3 share their container with films."""
    end = min(int.from_bytes(head[:4]), len(head))
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))}
    if head[8:12] == b"crx ":
        return "raw"
    if brands & _HEIC_BRANDS:
        return "heic"
    if brands & _AVIF_BRANDS:
        return "avif"
    return "heic" if brands & _ANY_HEIF_BRANDS else None


def _kind_of_zip(head: bytes, by_suffix: Kind | None) -> Kind | None:
    # An EPUB names itself in its first entry; nothing else that is a ZIP does.
    if b"mimetypeapplication/epub+zip" in head:
        return "epub"
    if b"FixedDocSeq.fdseq" in head or b"FixedDocumentSequence.fdseq" in head:
        return "xps"
    return by_suffix


def missing_extra(kind: Kind) -> str | None:
    """The extra that must be installed before files of this kind can be opened; None: none."""
    extra = _EXTRAS.get(kind)
    return extra if extra is not None and not _is_there(kind) else None


def extra_hint(ending: str) -> str | None:
    """How to have files of a key of `Selection.skipped` taken: the line that installs what is missing."""
    _, _, inside = ending.rpartition(" holding ")
    extra = missing_extra(_KINDS_BY_SUFFIX.get(inside, inside))
    return f'pip install "kobold-reader[{extra}]"' if extra else None


@functools.cache
def _is_there(kind: Kind) -> bool:
    """Whether the library for a kind is installed, without importing it."""
    if kind == "heic":
        return importlib.util.find_spec("pillow_heif") is not None
    if kind == "raw":
        return importlib.util.find_spec("rawpy") is not None
    pillow = importlib.util.find_spec("PIL")
    folders = (pillow.submodule_search_locations if pillow else None) or ()
    return any(any(Path(folder).glob("_avif.*")) for folder in folders)  # Pillow 11.3 and later
