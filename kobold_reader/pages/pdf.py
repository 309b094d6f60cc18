"""PDF files through MuPDF.

MuPDF mends what it can and says nothing: a file cut in half opens with white pages. Therefore white
is believed only of a file that needed no mending, and a scan lifted out of a page is decoded
strictly.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pymupdf
from PIL import Image

from kobold_reader.errors import (
    CorruptSourceError,
    EncryptedSourceError,
    PageRenderError,
    SourceError,
    UnsupportedSourceError,
)
from kobold_reader.pages.blank import Ink, analysis_size, find_ink
from kobold_reader.pages.image import LIBRARY_ERRORS, encode_within, fit_size, without_colour
from kobold_reader.pages.layout import Document, Layout, Page, read_layout
from kobold_reader.pages.metadata import clean_text, pdf_metadata
from kobold_reader.pages.picture import scan_images
from kobold_reader.pages.values import FileFacts, ImageBudget, PageFacts, PageImages, PageView

__all__ = ["MUPDF_ERRORS", "PdfFile"]

pymupdf.TOOLS.mupdf_display_errors(False)
pymupdf.TOOLS.mupdf_display_warnings(False)

MUPDF_ERRORS: Final = (pymupdf.mupdf.FzErrorBase, *LIBRARY_ERRORS)
"""What PyMuPDF raises on bad files: its own, its core's, and Python's from half-read structures."""

_CLOCKWISE: Final = {
    90: Image.Transpose.ROTATE_270,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_90,
}
_HEX_PREFIX: Final = re.compile(r"^<((?:FEFF)(?:[0-9A-F]{4})*)>", re.IGNORECASE)
_CUT_SHORT: Final = re.compile("truncated image|premature end of (file|data)")
_MATTERS: Final = 0.25  # share of the page under images from which a cut one is the page's loss
_COMPLETE: Final = 0.98
_SHRINK_EVERY: Final = 50  # pages; MuPDF's store of decoded images grows to 256 MB otherwise


class PdfFile:
    """An open PDF.

    Args:
        path: Local path.
        sha256: Of the file.
        passwords: Tried in this order, after the empty one.

    Raises:
        CorruptSourceError: It is no PDF that can be opened, or holds no pages.
        EncryptedSourceError: None of the passwords opens it.
        UnsupportedSourceError: It is a document of another kind.
    """

    def __init__(self, path: Path, sha256: str, passwords: Sequence[str] = ()) -> None:
        self._sha256 = sha256
        self._rendered = 0
        self._cut_short: dict[int, float] = {}  # page index → share of its image that is there
        self._layout: tuple[int, Layout] | None = None
        try:
            self._document = pymupdf.open(path, filetype="pdf")
        except MUPDF_ERRORS as error:
            raise CorruptSourceError(
                f"The file cannot be opened as a PDF ({_said(error)}).",
                hint="Copy or scan it again.",
            ) from error
        try:
            self.facts = self._file_facts(passwords)
        except SourceError:
            self._document.close()
            raise
        except MUPDF_ERRORS as error:
            self._document.close()
            raise CorruptSourceError(f"The PDF's structure cannot be read ({_said(error)}).") from error

    def _file_facts(self, passwords: Sequence[str]) -> FileFacts:
        document = self._document
        if not document.is_pdf:
            raise UnsupportedSourceError("It is called a PDF, but its bytes are of another kind.")
        if document.needs_pass and not any(document.authenticate(word) for word in ("", *passwords)):
            if passwords:
                raise EncryptedSourceError("None of the passwords given opens this PDF.")
            raise EncryptedSourceError("This PDF is locked.", hint="Give its password.")
        total = document.page_count
        if total < 1:
            raise CorruptSourceError("The PDF holds no pages.", hint="Copy or scan it again.")
        is_scan = False
        if (document.metadata or {}).get("creationDate"):
            try:
                is_scan = self._layout_of(1).is_scan_like
            except (SourceError, *MUPDF_ERRORS):
                is_scan = False  # page 1 will tell of its damage itself
        metadata = pdf_metadata(document.metadata, is_scan=is_scan)
        return FileFacts(self._sha256, "pdf", total, bool(document.is_repaired), metadata)

    def close(self) -> None:
        """Let go of the file and of what MuPDF keeps of it."""
        self._layout = None
        self._document.close()
        pymupdf.TOOLS.store_shrink(100)

    @contextmanager
    def _page(self, page_number: int) -> Iterator[Page]:
        try:
            pymupdf.TOOLS.reset_mupdf_warnings()
            yield _load(self._document, page_number - 1)
        except SourceError:
            raise
        except MemoryError as error:
            raise PageRenderError("The page needs more memory than the reader may use.") from error
        except MUPDF_ERRORS as error:
            raise PageRenderError(f"The page cannot be read ({_said(error)}).") from error

    def _layout_of(self, page_number: int) -> Layout:
        """The page's layout; the last one is kept, as facts and images are asked for in turn."""
        if self._layout is None or self._layout[0] != page_number:
            with self._page(page_number) as page:
                self._layout = (page_number, read_layout(self._document, page))
        return self._layout[1]

    def page_facts(self, page_number: int) -> PageFacts:
        """What the page is."""
        layout = self._layout_of(page_number)
        content = layout.content_sha256
        if content is None:
            content = hashlib.sha256(f"{self._sha256}:{page_number}".encode()).hexdigest()
        with self._page(page_number) as page:
            width, height = layout.size_pt
            return PageFacts(
                page_number=page_number,
                page_label=_label(page) or str(page_number),
                content_sha256=content,
                width_pt=width,
                height_pt=height,
                width_px=layout.image_px[0],
                height_px=layout.image_px[1],
                text=layout.text,
                text_layer=layout.text_layer,
                image_coverage=layout.image_coverage,
                rotation_deg=layout.rotation_deg,
            )

    def page_images(self, page_number: int, budget: ImageBudget, rotate_deg: int) -> PageImages:
        """What the page looks like."""
        layout = self._layout_of(page_number)
        inches = (layout.size_pt[0] / 72, layout.size_pt[1] / 72)
        self._rendered += 1
        if self._rendered % _SHRINK_EVERY == 0:
            pymupdf.TOOLS.store_shrink(100)
        with self._page(page_number) as page:
            scan = layout.scan
            if scan is not None and (scan.is_jpeg or fit_size(*layout.image_px, budget) == layout.image_px):
                data = scan.data()
                self._check_images(page, layout)
                return scan_images(data, inches, budget, rotate_deg=rotate_deg)
            return self._rendering(page, layout, budget, rotate_deg)

    def _rendering(self, page: Page, layout: Layout, budget: ImageBudget, rotate_deg: int) -> PageImages:
        width, height = layout.size_pt
        dpi = layout.native_dpi or budget.max_dpi
        size = fit_size(width * dpi / 72, height * dpi / 72, budget)

        def upright(width_px: int, height_px: int) -> Image.Image:
            return without_colour(_render(page, (width_px, height_px), is_grey=layout.is_grey))

        first = upright(*size)
        self._check_images(page, layout)
        ink = self._ink(page, layout, first, size)

        def make(width_px: int, height_px: int) -> Image.Image:
            made = first if (width_px, height_px) == size else upright(width_px, height_px)
            return made.transpose(_CLOCKWISE[rotate_deg]) if rotate_deg else made

        data, mime, view = encode_within(make, size, budget)
        turn = (layout.rotation_deg + rotate_deg) % 360
        effective_dpi = max(view.size) * 72 / max(layout.size_pt)
        only = PageView(data, mime, *view.size, effective_dpi, turn)
        return PageImages((only,), ink.is_blank, ink.share)

    def _check_images(self, page: Page, layout: Layout) -> None:
        """Refuse a page whose image ends before its last lines; MuPDF fills them up and goes on.

        Raises:
            PageRenderError: More is missing than the last line or two, which scanners often owe.
        """
        warned = clean_text(pymupdf.TOOLS.mupdf_warnings(reset=False))
        # Warned of once only, when it is decoded; a second look finds it in MuPDF's store.
        if _CUT_SHORT.search(warned) and layout.image_coverage >= _MATTERS:
            self._cut_short.setdefault(page.number, _stored_share(self._document, page))
        share = self._cut_short.get(page.number, 1.0)
        if share < _COMPLETE:
            raise PageRenderError("The page's image is cut short.", hint="Copy or scan the file again.")

    def _ink(self, page: Page, layout: Layout, view: Image.Image, size: tuple[int, int]) -> Ink:
        """Judge the page, on the view where that is fine enough.

        Raises:
            PageRenderError: The page came out white, and not because it is.
        """
        width, height = layout.size_pt
        dpi = layout.native_dpi or 100
        judged = analysis_size(width * dpi / 72, height * dpi / 72, (width / 72, height / 72))
        picture = view
        if size[0] > judged[0] or size[1] > judged[1]:
            picture = view.resize(judged, Image.Resampling.BOX)
        elif size != judged and not layout.has_visible_text:
            picture = _render(page, judged, is_grey=layout.is_grey)
        ink = find_ink(picture)
        if ink.is_white:
            warned = clean_text(pymupdf.TOOLS.mupdf_warnings(reset=False))
            if self._document.is_repaired:
                raise PageRenderError(
                    "The PDF is damaged, and this page was repaired into white: what it held is lost.",
                    hint="Copy or scan it again.",
                )
            if layout.image_coverage > 0 and warned:
                raise PageRenderError(f"The page's image cannot be decoded ({warned[:200]}).")
        if layout.has_visible_text and not ink.is_white:
            return Ink(is_blank=False, share=ink.share, is_white=False)
        return ink


def _render(page: Page, size: tuple[int, int], *, is_grey: bool) -> Image.Image:
    """The upright page at exactly this size."""
    matrix = pymupdf.Matrix(size[0] / page.rect.width, size[1] / page.rect.height)
    space = pymupdf.csGRAY if is_grey else pymupdf.csRGB
    pixmap = page.get_pixmap(matrix=matrix, colorspace=space, alpha=False)
    mode = "L" if is_grey else "RGB"
    picture = Image.frombytes(mode, (pixmap.width, pixmap.height), pixmap.samples, "raw", mode, pixmap.stride, 1)
    if picture.size != size:  # rounding may add a row
        picture = picture.crop((0, 0, *size))
    return picture


def _load(document: Document, index: int) -> Page:
    """The page, shown whole where its crop box leaves nothing of it: MuPDF would show white."""
    page = document.load_page(index)
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


def _stored_share(document: Document, page: Page) -> float:
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


def _label(page: Page) -> str:
    try:
        label = str(page.get_label())
    except MUPDF_ERRORS:
        return ""  # a broken label tree costs the labels, not the pages
    # PyMuPDF leaves a prefix in hexadecimal as it stands.
    return clean_text(_HEX_PREFIX.sub(lambda match: bytes.fromhex(match[1]).decode("utf-16"), label))


def _said(error: Exception) -> str:
    return clean_text(str(error))[:200] or type(error).__name__
