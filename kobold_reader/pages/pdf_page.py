"""One page of a document that MuPDF has open: how it is loaded, painted, labelled and annotated."""

from __future__ import annotations

import re
from typing import Final

import pymupdf
from PIL import Image

from kobold_reader.pages.image import LIBRARY_ERRORS
from kobold_reader.pages.layout import Document, Page
from kobold_reader.pages.metadata import clean_text
from kobold_reader.pages.values import Box

__all__ = ["MUPDF_ERRORS", "label_of", "load_page", "lost_contents", "notes_of", "render", "said", "stored_share"]

MUPDF_ERRORS: Final = (pymupdf.mupdf.FzErrorBase, *LIBRARY_ERRORS)
"""What PyMuPDF raises on bad files: its own, its core's, and Python's from half-read structures."""

_HEX_PREFIX: Final = re.compile(r"^<((?:FEFF)(?:[0-9A-F]{4})*)>", re.IGNORECASE)
_MAX_NOTES: Final = 200
_MAX_NOTE_CHARS: Final = 2_000
_PAINTED: Final = frozenset({pymupdf.PDF_ANNOT_FREE_TEXT, pymupdf.PDF_ANNOT_WIDGET, pymupdf.PDF_ANNOT_POPUP})


def render(page: Page, size: tuple[int, int], *, is_grey: bool, box: Box = (0.0, 0.0, 1.0, 1.0)) -> Image.Image:
    """The upright page, or a part of it, at exactly this size."""
    left, top, right, bottom = (
        share * side for share, side in zip(box, (page.rect.width, page.rect.height) * 2, strict=True)
    )
    matrix = pymupdf.Matrix(size[0] / (right - left), size[1] / (bottom - top))
    part = pymupdf.Rect(left, top, right, bottom) + (page.rect.x0, page.rect.y0) * 2
    space = pymupdf.csGRAY if is_grey else pymupdf.csRGB
    clip = None if box == (0.0, 0.0, 1.0, 1.0) else part
    pixmap = page.get_pixmap(matrix=matrix, colorspace=space, alpha=False, clip=clip)
    mode = "L" if is_grey else "RGB"
    picture = Image.frombytes(mode, (pixmap.width, pixmap.height), pixmap.samples, "raw", mode, pixmap.stride, 1)
    if picture.size != size:  # rounding may add a row
        picture = picture.crop((0, 0, *size))
    return picture


def load_page(document: Document, index: int) -> Page:
    """The page, shown whole where its crop box leaves nothing of it: MuPDF would show white."""
    page = document.load_page(index)
    if not document.is_pdf:
        return page
    crop, media = (_box(document, page, key) for key in ("CropBox", "MediaBox"))
    if crop is not None and (media is None or (media & crop).is_empty):
        document.xref_set_key(page.xref, "CropBox", "null")  # in memory only; nothing is saved
        page = document.load_page(index)
    return page


def _box(document: Document, page: Page, key: str) -> pymupdf.Rect | None:
    kind, value = document.xref_get_key(page.xref, key)
    numbers = re.findall(r"-?[0-9.]+", value) if kind == "array" else []
    if len(numbers) != 4:  # noqa: PLR2004 - the sides of a box
        return None
    return pymupdf.Rect(*(float(number) for number in numbers)).normalize()


def stored_share(document: Document, page: Page) -> float:
    """How much of the page's most incomplete image is there, 0 to 1; 0 where that is not known."""
    shares = []
    for xref, _, width, height, bits, *_ in document.get_page_images(page.number, full=True):
        try:
            stored = len(document.xref_stream(xref))
            colours = document.extract_image(xref)["colorspace"]
        except MUPDF_ERRORS:
            return 0.0
        needed = (width * bits * colours + 7) // 8 * height
        shares.append(min(1.0, stored / needed) if needed else 1.0)
    return min(shares, default=0.0)


def label_of(page: Page) -> str:
    """The label printed on the page, "" where the file has none."""
    try:
        label = str(page.get_label())
    except MUPDF_ERRORS:
        return ""  # a broken label tree costs the labels, not the pages
    # PyMuPDF leaves a prefix in hexadecimal as it stands.
    return clean_text(_HEX_PREFIX.sub(lambda match: bytes.fromhex(match[1]).decode("utf-16"), label))


def said(error: Exception) -> str:
    """A library's own words, in one line."""
    return clean_text(str(error))[:200] or type(error).__name__


def notes_of(page: Page) -> list[str]:
    """What people pinned to the page, in its order: notes, and comments on marked words.

    What is painted anyway, as form fields and text boxes are, is not repeated.
    """
    notes: list[str] = []
    try:
        for annotation in page.annots() or ():
            if len(notes) >= _MAX_NOTES:
                break
            hidden = annotation.flags & (pymupdf.PDF_ANNOT_IS_HIDDEN | pymupdf.PDF_ANNOT_IS_NO_VIEW)
            if annotation.type[0] in _PAINTED or hidden:
                continue
            note = str(annotation.info.get("content") or "").replace("\r", "\n").strip()
            if note and note not in notes:
                notes.append(note[:_MAX_NOTE_CHARS])
    except MUPDF_ERRORS:
        return notes  # a broken annotation costs itself and those after it, not the page
    return notes


def lost_contents(document: Document, page: Page) -> bool:
    """Whether the page has instructions to paint of which nothing can be decoded."""
    try:
        streams = page.get_contents()
        stored = sum(len(document.xref_stream_raw(xref) or b"") for xref in streams)
        return stored > 0 and not any((document.xref_stream(xref) or b"").strip() for xref in streams)
    except MUPDF_ERRORS:
        return True
