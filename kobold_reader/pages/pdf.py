"""PDF files through MuPDF, and the books that it lays out: EPUB and XPS.

MuPDF mends what it can and says nothing: a file cut in half opens with white pages. Therefore white
is believed only of a file that needed no mending, and a scan lifted out of a page is decoded
strictly.

A scan that lies on its page in strips, put together again pixel by pixel.

MuPDF moves every image to whole pixels of what it paints, so at any size but the scan's own the
letters on the seams are squeezed: measured on a printed page at 1024 px, its painting differs from
the scan by 8.7 grey levels a pixel, the joined strips by none.

One page of a document that MuPDF has open: how it is loaded, painted, labelled and annotated.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

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
from kobold_reader.pages.layout import Document, Layout, Page, read_layout
from kobold_reader.pages.metadata import clean_text, pdf_metadata, xmp_of_bytes
from kobold_reader.pages.orientation import Lie, find_lie
from kobold_reader.pages.photos import look_at_jpeg
from kobold_reader.pages.picture import picture_errors, scan_images
from kobold_reader.pages.pixels import (
    LIBRARY_ERRORS,
    encode_within,
    fit_size,
    flatten,
    turned_box,
    turned_by,
    without_colour,
)
from kobold_reader.pages.tiles import Plan, Tile, is_worth_a_look, plan_size, plan_tiles
from kobold_reader.pages.values import Box, FileFacts, ImageBudget, PageFacts, PageImages, PageLook, PageView, Scalar

__all__ = [
    "MUPDF_ERRORS",
    "PdfFile",
    "join_strips",
    "label_of",
    "load_page",
    "lost_contents",
    "notes_of",
    "render",
    "said",
    "stored_share",
]

_MAX_STRIPS: Final = 2_000
_MAX_PIXELS: Final = 100_000_000
_SKEW: Final = 0.002
_SCALE: Final = 0.02
_PLAIN_SPACES: Final = frozenset({1, 3})  # grey, RGB


def join_strips(document: Document, page: Page, layout: Layout) -> Image.Image | None:
    """The scan, grey or RGB; None where the images are not strips of one, and must be painted.

    Raises:
        PageRenderError: A strip is cut short or cannot be decoded.
    """
    width, height = layout.image_px
    if layout.rotation_deg or not 0 < width * height <= _MAX_PIXELS:
        return None
    scale = (width / layout.size_pt[0], height / layout.size_pt[1])
    strips = page.get_image_info(xrefs=True)
    if len(strips) > _MAX_STRIPS or not all(_is_strip(document, strip, scale) for strip in strips):
        return None
    is_grey = all(strip["colorspace"] == 1 for strip in strips)
    whole = Image.new("L" if is_grey else "RGB", (width, height), "white")
    for strip in strips:
        data = document.extract_image(strip["xref"])["image"]
        with picture_errors(PageRenderError), Image.open(io.BytesIO(data)) as picture:
            picture.load()
            flat = flatten(picture)
        place = (round(strip["bbox"][0] * scale[0]), round(strip["bbox"][1] * scale[1]))
        whole.paste(flat.convert(whole.mode), place)
    return whole


def _is_strip(document: Document, strip: dict[str, Any], scale: tuple[float, float]) -> bool:
    """Whether an image lies upright, at the scan's own resolution, and means what its pixels say."""
    a, b, c, d, _, _ = strip["transform"]
    if a <= 0 or d <= 0 or abs(b) > _SKEW * a or abs(c) > _SKEW * d:
        return False
    # A strip of a few rows is as much too high as its edge was rounded.
    for pixels, side in ((strip["width"], a * scale[0]), (strip["height"], d * scale[1])):
        if abs(pixels - side) > max(1, _SCALE * side):
            return False
    if not strip["xref"] or strip.get("has-mask") or strip["colorspace"] not in _PLAIN_SPACES or strip["bpc"] > 8:  # noqa: PLR2004 - a byte
        return False
    keys = (document.xref_get_key(strip["xref"], key) for key in ("Decode", "SMask", "Mask", "ImageMask"))
    return all(kind == "null" or value == "false" for kind, value in keys)


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
