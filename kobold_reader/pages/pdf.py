"""PDF files through MuPDF, and the books that it lays out: EPUB and XPS.

MuPDF mends what it can and says nothing: a file cut in half opens with white pages. Therefore white
is believed only of a file that needed no mending, and a scan lifted out of a page is decoded
strictly.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
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
from kobold_reader.pages.image import encode_within, fit_size, without_colour
from kobold_reader.pages.layout import Document, Layout, Page, read_layout
from kobold_reader.pages.look import look_at_jpeg
from kobold_reader.pages.metadata import clean_text, pdf_metadata
from kobold_reader.pages.orientation import Lie, find_lie
from kobold_reader.pages.pdf_page import (
    MUPDF_ERRORS,
    label_of,
    load_page,
    lost_contents,
    notes_of,
    render,
    said,
    stored_share,
)
from kobold_reader.pages.picture import scan_images
from kobold_reader.pages.strips import join_strips
from kobold_reader.pages.tiles import Plan, Tile, is_worth_a_look, plan_size, plan_tiles
from kobold_reader.pages.turns import turned_box, turned_by
from kobold_reader.pages.values import FileFacts, ImageBudget, PageFacts, PageImages, PageLook, PageView, Scalar
from kobold_reader.pages.xmp import xmp_of_bytes

__all__ = ["PdfFile"]

pymupdf.TOOLS.mupdf_display_errors(False)
pymupdf.TOOLS.mupdf_display_warnings(False)


_A: Final = {"pdf": "a PDF", "epub": "an EPUB", "xps": "an XPS document"}
_BOOK_PT: Final = (0, 0, 420, 595)  # A5: a book has no pages of its own until it is laid out
_BOOK_LETTER_PT: Final = 11
_MAX_IN_MEMORY: Final = 256 * 1024 * 1024
_NO_MEMORY: Final = "The page needs more memory than the reader may use."
_NO_MALLOC: Final = re.compile(r"\b(malloc|calloc|realloc)\b.* failed")
_CUT_SHORT: Final = re.compile("truncated image|premature end of (file|data)")
_MATTERS: Final = 0.25  # share of the page under images from which a cut one is the page's loss
_COMPLETE: Final = 0.98
_SHRINK_EVERY: Final = 10  # pages; MuPDF's store of decoded images grows to 256 MB otherwise


class PdfFile:
    """An open PDF, EPUB or XPS.

    Args:
        path: Local path.
        sha256: Of the file.
        passwords: Tried in this order, after the empty one.
        kind: "pdf", "epub" or "xps".

    Raises:
        CorruptSourceError: It is no PDF that can be opened, or holds no pages.
        EncryptedSourceError: None of the passwords opens it.
        UnsupportedSourceError: It is a document of another kind.
    """

    def __init__(self, path: Path, sha256: str, passwords: Sequence[str] = (), *, kind: str = "pdf") -> None:
        self._path = path
        self._sha256 = sha256
        self._kind = kind
        self._rendered = 0
        self._cut_short: dict[int, float] = {}  # page index → share of its image that is there
        self._layout: tuple[int, Layout] | None = None
        try:
            self._document = _opened(path, kind)
        except MUPDF_ERRORS as error:
            # MuPDF's own message repeats the path, which may be that of a temporary copy.
            raise CorruptSourceError(
                f"The file cannot be opened as {_A[kind]}: its bytes are damaged, or of another kind.",
                hint="Copy or scan it again.",
            ) from error
        try:
            self.facts = self._file_facts(passwords)
        except SourceError:
            self._document.close()
            raise
        except MUPDF_ERRORS as error:
            self._document.close()
            raise CorruptSourceError(f"The file's structure cannot be read ({said(error)}).") from error

    def _file_facts(self, passwords: Sequence[str]) -> FileFacts:
        document = self._document
        # MuPDF trusts the bytes more than what it is told, and knows HTML and plain text too.
        opened_as = str((document.metadata or {}).get("format") or "")
        if document.is_pdf != (self._kind == "pdf") or (not document.is_pdf and opened_as not in {"EPUB", "XPS"}):
            raise UnsupportedSourceError(f"It is called {_A[self._kind]}, but its bytes are of another kind.")
        if document.needs_pass and not any(document.authenticate(word) for word in ("", *passwords)):
            document = self._without_lock(has_passwords=bool(passwords))
        total = document.page_count
        if total < 1:
            raise CorruptSourceError("The file holds no pages.", hint="Copy or scan it again.")
        is_scan = False
        if (document.metadata or {}).get("creationDate"):
            try:
                is_scan = self._layout_of(1).is_scan_like
            except (SourceError, *MUPDF_ERRORS):
                is_scan = False  # page 1 will tell of its damage itself
        try:
            packet = document.get_xml_metadata() if document.is_pdf else None
        except MUPDF_ERRORS:
            packet = None
        metadata = pdf_metadata(document.metadata, xmp_of_bytes(packet), is_scan=is_scan)
        return FileFacts(self._sha256, self._kind, total, bool(document.is_repaired), metadata)

    def _without_lock(self, *, has_passwords: bool) -> Document:
        """The same file without its lock, where only what is attached to it is locked.

        Raises:
            EncryptedSourceError: The pages are locked too.
        """
        lock = {key: self._document.xref_get_key(-1, f"Encrypt/{key}") for key in ("V", "StmF", "StrF")}
        version, *filters = (value for _, value in lock.values())
        is_open = version in {"4", "5"} and all(value in {"/Identity", "null"} for value in filters)
        if is_open and self._path.stat().st_size <= _MAX_IN_MEMORY:
            # MuPDF asks for the password all the same; without this entry there is nothing to ask.
            data = self._path.read_bytes().replace(b"/Encrypt", b"/Ignored")
            self._document.close()
            self._document = pymupdf.open(stream=data, filetype="pdf")
            if not self._document.needs_pass:
                return self._document
        if has_passwords:
            raise EncryptedSourceError("None of the passwords given opens this PDF.")
        raise EncryptedSourceError("This PDF is locked.", hint="Give its password.")

    def close(self) -> None:
        """Let go of the file and of what MuPDF keeps of it."""
        self._layout = None
        self._document.close()
        pymupdf.TOOLS.store_shrink(100)

    @contextmanager
    def _page(self, page_number: int) -> Iterator[Page]:
        try:
            pymupdf.TOOLS.reset_mupdf_warnings()
            yield load_page(self._document, page_number - 1)
        except SourceError:
            raise
        except MemoryError as error:
            raise PageRenderError(_NO_MEMORY) from error
        except MUPDF_ERRORS as error:
            if _NO_MALLOC.search(str(error)):
                raise PageRenderError(_NO_MEMORY) from error
            raise PageRenderError(f"The page cannot be read ({said(error)}).") from error

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
        width, height = layout.size_pt
        metadata: dict[str, Scalar] = {}
        with self._page(page_number) as page:
            notes = notes_of(page) if self._kind == "pdf" else []
            if notes and layout.text_layer != "good":
                metadata["notes"] = clean_text("; ".join(notes))  # no text of the page will hold them
            return PageFacts(
                page_number=page_number,
                page_label=(label_of(page) if self._kind == "pdf" else "") or str(page_number),
                content_sha256=content,
                width_pt=width,
                height_pt=height,
                width_px=layout.image_px[0],
                height_px=layout.image_px[1],
                text="\n\n".join([layout.text, *(f"Note: {note}" for note in notes)]).strip(),
                text_layer=layout.text_layer,
                image_coverage=layout.image_coverage,
                rotation_deg=layout.rotation_deg,
                metadata=metadata,
            )

    def page_look(self, page_number: int) -> PageLook:
        """What the page is a picture of, where it is one as a whole."""
        try:
            layout = self._layout_of(page_number)
            if layout.scan is not None and layout.scan.is_jpeg:
                return look_at_jpeg(layout.scan.data())
        except SourceError:
            return PageLook()
        # What is stored without loss, in strips or in layers comes from scanners and copiers.
        return PageLook("scan") if self._kind == "pdf" and layout.is_scan_like else PageLook()

    def page_images(self, page_number: int, budget: ImageBudget, rotate_deg: int | None) -> PageImages:
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

    def _rendering(self, page: Page, layout: Layout, budget: ImageBudget, rotate_deg: int | None) -> PageImages:
        width, height = layout.size_pt
        dpi = layout.native_dpi or budget.max_dpi
        size = fit_size(width * dpi / 72, height * dpi / 72, budget)

        def upright(width_px: int, height_px: int) -> Image.Image:
            return without_colour(render(page, (width_px, height_px), is_grey=layout.is_grey))

        whole = self._whole(page, layout)
        first = whole.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0) if whole else upright(*size)
        self._check_images(page, layout)
        ink = self._ink(page, layout, first, size)
        lie = find_lie(ink.mask) if rotate_deg is None and ink.mask is not None else Lie()
        turn_deg = lie.turn_deg if rotate_deg is None else rotate_deg

        def make(width_px: int, height_px: int) -> Image.Image:
            made = first
            if (width_px, height_px) != size:
                made = whole.resize((width_px, height_px)) if whole else upright(width_px, height_px)
            return turned_by(made, turn_deg)

        data, mime, view = encode_within(make, size, budget)
        turned = (layout.rotation_deg + turn_deg) % 360
        effective_dpi = max(view.size) * 72 / max(layout.size_pt)
        only = PageView(data, mime, *view.size, effective_dpi, turned)
        tiles: tuple[PageView, ...] = ()
        plan = None if ink.is_blank else self._plan(page, layout, whole, turn_deg, budget)
        if plan is not None:
            tiles = tuple(_tile_view(page, layout, whole, turn_deg, plan, tile, budget) for tile in plan.tiles)
        return PageImages(
            (only,), ink.is_blank, ink.share, lie.after(turn_deg), tiles, plan is not None and plan.is_coarse
        )

    def _plan(
        self, page: Page, layout: Layout, whole: Image.Image | None, turn_deg: int, budget: ImageBudget
    ) -> Plan | None:
        """How the page is to be cut, as it lies once it is upright."""
        width, height = (side * (layout.native_dpi or budget.max_dpi) / 72 for side in layout.size_pt)
        if not is_worth_a_look(width, height, budget):
            return None
        size = plan_size(width, height, (layout.size_pt[0] / 72, layout.size_pt[1] / 72))
        picture = whole.resize(size, Image.Resampling.BOX) if whole else render(page, size, is_grey=layout.is_grey)
        native = (width, height) if turn_deg % 180 == 0 else (height, width)
        return plan_tiles(turned_by(without_colour(picture), turn_deg), native, budget)

    def _whole(self, page: Page, layout: Layout) -> Image.Image | None:
        """A scan stored in strips, whole and at its own resolution; None for every other page."""
        if not (layout.is_in_strips and layout.is_scan_like):
            return None
        joined = join_strips(self._document, page, layout)
        return without_colour(joined) if joined else None

    def _check_images(self, page: Page, layout: Layout) -> None:
        """Refuse a page whose image ends before its last lines; MuPDF fills them up and goes on.

        Raises:
            PageRenderError: More is missing than the last line or two, which scanners often owe.
        """
        warned = clean_text(pymupdf.TOOLS.mupdf_warnings(reset=False))
        # Warned of once only, when it is decoded; a second look finds it in MuPDF's store.
        if _CUT_SHORT.search(warned) and layout.image_coverage >= _MATTERS:
            self._cut_short.setdefault(page.number, stored_share(self._document, page))
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
            picture = render(page, judged, is_grey=layout.is_grey)
        ink = find_ink(picture)
        if ink.is_white:
            warned = clean_text(pymupdf.TOOLS.mupdf_warnings(reset=False))
            if self._document.is_repaired:
                raise PageRenderError(
                    "The PDF is damaged, and this page was repaired into white: what it held is lost.",
                    hint="Copy or scan it again.",
                )
            if self._kind == "pdf" and lost_contents(self._document, page):
                raise PageRenderError("What the page should show cannot be decoded.", hint="Copy or scan it again.")
            if layout.image_coverage > 0 and warned:
                raise PageRenderError(f"The page's image cannot be decoded ({warned[:200]}).")
        if layout.has_visible_text and not ink.is_white:
            return replace(ink, is_blank=False)
        return ink


def _tile_view(
    page: Page,
    layout: Layout,
    whole: Image.Image | None,
    turn_deg: int,
    plan: Plan,
    tile: Tile,
    budget: ImageBudget,
) -> PageView:
    """A part of the page, painted at its size, or cut out of the scan that its strips make up."""
    box = turned_box(tile.box, 1, turn_deg)
    inches = ((box[2] - box[0]) * layout.size_pt[0] / 72, (box[3] - box[1]) * layout.size_pt[1] / 72)
    is_turned = turn_deg % 180 != 0

    def make(width_px: int, height_px: int) -> Image.Image:
        size = (height_px, width_px) if is_turned else (width_px, height_px)
        if whole is not None:
            part = (box[0] * whole.width, box[1] * whole.height, box[2] * whole.width, box[3] * whole.height)
            made = whole.resize(size, Image.Resampling.LANCZOS, box=part, reducing_gap=3.0)
        else:
            made = render(page, size, is_grey=layout.is_grey, box=box)
        return without_colour(plan.covered(turned_by(made, turn_deg), tile))

    dpi = layout.native_dpi or budget.max_dpi
    native = (inches[0] * dpi, inches[1] * dpi)
    data, mime, view = encode_within(make, fit_size(*(native[::-1] if is_turned else native), budget), budget)
    turned = (layout.rotation_deg + turn_deg) % 360
    return PageView(data, mime, *view.size, view.width / inches[is_turned], turned, tile.box, lines=tile.lines)


def _opened(path: Path, kind: str) -> Document:
    document = pymupdf.open(path, filetype=kind)
    if document.is_reflowable:
        document.layout(rect=pymupdf.Rect(*_BOOK_PT), fontsize=_BOOK_LETTER_PT)
    return document
