"""PDF, EPUB and XPS files, opened with MuPDF.

MuPDF repairs what it can without a word: a file cut in half opens with white pages. So a white page counts as blank
only in a file that needed no repair, and a scan that is lifted out of a page is decoded strictly.
"""

from __future__ import annotations

import functools
import hashlib
import io
import re
import shutil
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pymupdf
from PIL import Image

from kobold_reader.errors import (
    CorruptSourceError,
    EncryptedSourceError,
    PageRenderError,
    SourceError,
    UnsupportedSourceError,
)
from kobold_reader.pages import pdfium
from kobold_reader.pages.attachments import Attachment
from kobold_reader.pages.blank import Ink, analysis_size, find_ink, is_all_white
from kobold_reader.pages.form_buttons import text_with_buttons
from kobold_reader.pages.images import (
    COMPLETE,
    fit_size,
    flatten,
    missing_from,
    picture_errors,
    salvaged,
    shrunk,
    without_colour,
)
from kobold_reader.pages.jbig2 import demanding_segments
from kobold_reader.pages.layout import (
    MUPDF_ERRORS,
    TEXT_FLAGS,
    Document,
    Layout,
    Page,
    Scan,
    has_annotations,
    is_plain,
    read_layout,
    text_lines,
)
from kobold_reader.pages.metadata import clean_text, pdf_metadata, read_xmp
from kobold_reader.pages.page_tree import count_pages, set_count
from kobold_reader.pages.photos import look_at_jpeg
from kobold_reader.pages.values import (
    WHOLE,
    Box,
    FileFacts,
    ImageBudget,
    PageFacts,
    PageImages,
    PageLook,
    Scalar,
    TextLines,
)
from kobold_reader.pages.views import Canvas, Placement, page_images, picture_canvas, picture_images, scan_images

if TYPE_CHECKING:
    from kobold_reader.pages.text_copy import TextCopy

pymupdf.TOOLS.mupdf_display_errors(False)
pymupdf.TOOLS.mupdf_display_warnings(False)

_NAMES = {"pdf": "a PDF", "epub": "an EPUB", "xps": "an XPS document"}
_MAX_CONTENTS = 64 * 1024 * 1024
_MAX_IN_MEMORY = 256 * 1024 * 1024
_NO_MEMORY = re.compile(r"\b(malloc|calloc|realloc)\b.* failed")
_CUT_SHORT = re.compile("truncated image|premature end of (file|data)")
_MISSING = re.compile("cannot find XObject resource|no XObject subtype")
_MATTERS = 0.25  # share of the page under images from which on an image that is cut short matters
_SQUARE = 0.02  # the proportions of page and image may differ by this share, as paper is cut and scanned unevenly
_SHRINK_EVERY = 10  # pages; MuPDF's store of decoded images grows to 256 MB otherwise
_WORD_LETTERS, _HIDDEN_LETTERS = 3, 20
_HINT = "Copy or scan it again."
_UNLOCK = "Give its password with --pdf-password (in Python: pdf_passwords=[…])."


class PdfFile:
    """An open file of kind `pdf`, `epub` or `xps`.

    Raises:
        CorruptSourceError: It cannot be opened, or contains no pages.
        EncryptedSourceError: None of the passwords opens it.
        UnsupportedSourceError: It is a document of another kind.
    """

    def __init__(self, path: Path, sha256: str, passwords: Sequence[str] = (), *, kind: str = "pdf") -> None:
        self._path = path
        self._sha256 = sha256
        self._kind = kind
        self._rendered = 0
        self._password: str | None = None
        self._has_locked_files = False
        self._cut_short: dict[int, float] = {}  # page index → share of its image that is there
        self._layout: tuple[int, Layout, str] | None = None
        try:
            self._document: Document = pymupdf.open(path, filetype=kind)
            if self._document.is_reflowable:
                # A book has no pages of its own until it is laid out, here on A5 in 11 pt.
                self._document.layout(rect=pymupdf.Rect(0, 0, 420, 595), fontsize=11)
        except MUPDF_ERRORS as error:
            if "unknown encryption" in str(error.__cause__):
                raise EncryptedSourceError(
                    "This PDF is locked by a certificate, or in another way that MuPDF does not know.",
                    hint="Save it without its lock in the program that opens it.",
                ) from error
            # MuPDF's own message repeats the path, which may be that of a temporary copy.
            raise CorruptSourceError(
                f"The file cannot be opened as {_NAMES[kind]}: its bytes are damaged, or of another kind.", hint=_HINT
            ) from error
        try:
            self.facts = self._file_facts(passwords)
        except (SourceError, *MUPDF_ERRORS) as error:
            self._document.close()
            if isinstance(error, SourceError):
                raise
            raise CorruptSourceError(f"The file's structure cannot be read: {_message(error)}.", hint=_HINT) from error

    def _file_facts(self, passwords: Sequence[str]) -> FileFacts:
        document = self._document
        # MuPDF trusts the bytes more than the kind that it is given, and opens HTML and plain text too.
        info = document.metadata or {}
        is_known = document.is_pdf or info.get("format") in {"EPUB", "XPS"}
        if document.is_pdf != (self._kind == "pdf") or not is_known:
            raise UnsupportedSourceError(f"It is called {_NAMES[self._kind]}, but its bytes are of another kind.")
        self._has_locked_files = document.is_pdf and _locks_files(document)
        if document.needs_pass:
            self._password = next((word for word in ("", *passwords) if document.authenticate(word)), None)
            if self._password is None:
                document = self._unlock(has_passwords=bool(passwords))
        said, damage = self._said_pages(), ""
        total = self._total_pages(said)
        if said is None:
            damage = f"The file does not say how many pages it has; it has {total}."
        elif total != said:
            damage = f"The file says that it has {said} pages, and it has {total}."
        if total < 1:
            raise self._without_pages(has_passwords=bool(passwords))
        info = document.metadata or {}
        is_scan, packet = False, None
        with suppress(SourceError, *MUPDF_ERRORS):  # page 1 reports its damage itself
            is_scan = bool(info.get("creationDate")) and self._layout_of(1).is_scan_like
        with suppress(*MUPDF_ERRORS):
            packet = document.get_xml_metadata() if document.is_pdf else None
        metadata = pdf_metadata(info, read_xmp(packet), is_scan=is_scan)
        if damage:
            metadata["damage"] = damage
        return FileFacts(self._sha256, self._kind, total, bool(document.is_repaired), metadata)

    def _said_pages(self) -> int | None:
        """The number of pages that the file says it has; None where that is no possible number."""
        try:
            return int(self._document.page_count)
        except MUPDF_ERRORS:
            if count_pages(self._document) is None:
                raise
            return None

    def _total_pages(self, said: int | None) -> int:
        """The number of pages, by the page tree where it can be followed."""
        if self._kind != "pdf" and said is not None:
            return said
        with suppress(*MUPDF_ERRORS):
            found = count_pages(self._document)
            if found is not None and found != said:
                set_count(self._document, found)
                return int(self._document.page_count)
        return said or 0

    def _without_pages(self, *, has_passwords: bool) -> SourceError:
        """The error of a file without pages; a locked one shows none either where MuPDF does not find its lock."""
        if self._path.stat().st_size > _MAX_IN_MEMORY or b"/Encrypt" not in self._path.read_bytes():
            return CorruptSourceError("The file contains no pages.", hint=_HINT)
        if has_passwords:
            return CorruptSourceError(
                "This PDF is locked and damaged: no page is found, with its password too.", hint=_HINT
            )
        return EncryptedSourceError("This PDF is locked, and no page is found without its password.", hint=_UNLOCK)

    def _unlock(self, *, has_passwords: bool) -> Document:
        """Open the file without its lock, where only its attachments are encrypted."""
        version, *filters = (self._document.xref_get_key(-1, f"Encrypt/{key}")[1] for key in ("V", "StmF", "StrF"))
        is_open = version in {"4", "5"} and all(value in {"/Identity", "null"} for value in filters)
        if is_open and self._path.stat().st_size <= _MAX_IN_MEMORY:
            # MuPDF asks for the password even so; without this entry it cannot.
            data = self._path.read_bytes().replace(b"/Encrypt", b"/Ignored")
            self._document.close()
            self._document = pymupdf.open(stream=data, filetype="pdf")
            if not self._document.needs_pass:
                return self._document
        if has_passwords:
            raise EncryptedSourceError("None of the passwords given opens this PDF.", hint=_UNLOCK)
        raise EncryptedSourceError("This PDF is locked.", hint=_UNLOCK)

    def close(self) -> None:
        """Close the file, and free the images that MuPDF keeps of it."""
        self._layout = None
        self._document.close()
        if self._rendered:  # else it only keeps what it wants for the next file, such as fonts
            pymupdf.TOOLS.store_shrink(100)

    @contextmanager
    def _page(self, page_number: int) -> Iterator[Page]:
        try:
            pymupdf.TOOLS.reset_mupdf_warnings()
            yield _load_page(self._document, page_number - 1)
        except SourceError:
            raise
        except MUPDF_ERRORS as error:
            if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
                raise PageRenderError("The page needs more memory than the reader may use.") from error
            raise PageRenderError(f"The page cannot be read: {_message(error)}.", hint=_HINT) from error

    def _layout_of(self, page_number: int) -> Layout:
        """The page's layout; the last one is kept, as facts and images are asked for in turn."""
        if self._layout is None or self._layout[0] != page_number:
            with self._page(page_number) as page:
                return self._layout_on(page)
        return self._layout[1]

    def _layout_on(self, page: Page) -> Layout:
        number = page.number + 1
        if self._layout is None or self._layout[0] != number:
            self._layout = number, read_layout(self._document, page), _damage_of_contents(self._document, page)
        return self._layout[1]

    def attachments(self) -> list[Attachment]:
        """The files in it: those of a portfolio, and those pinned to its pages."""
        found: list[Attachment] = []
        with suppress(*MUPDF_ERRORS):  # a broken list of files costs these files, not the pages
            for name in self._document.embfile_names():
                info = self._document.embfile_info(name)
                shown = clean_text(info.get("ufilename") or info.get("filename") or name)
                found.append(Attachment(shown, functools.partial(self._attached, name)))
            for index in range(self._document.page_count):
                for xref, kind, *_ in self._document.page_annot_xrefs(index):
                    if kind == pymupdf.PDF_ANNOT_FILE_ATTACHMENT:
                        found.append(self._pinned(index, xref))
        return found

    def _attached(self, name: str) -> bytes:
        self._refuse_locked_files()
        try:
            return bytes(self._document.embfile_get(name))
        except MUPDF_ERRORS as error:
            raise CorruptSourceError(f"It cannot be taken out of the PDF ({_message(error)}).") from error

    def _pinned(self, index: int, xref: int) -> Attachment:
        """A file that is pinned to a page."""

        def data() -> bytes:
            self._refuse_locked_files()
            try:
                page = self._document[index]  # an annotation goes with its page
                return bytes(page.load_annot(xref).get_file())
            except MUPDF_ERRORS as error:
                raise CorruptSourceError(f"It cannot be taken out of the PDF ({_message(error)}).") from error

        page = self._document[index]
        name = clean_text(page.load_annot(xref).file_info.get("filename", ""))
        return Attachment(name or f"attached to page {index + 1}", data)

    def _refuse_locked_files(self) -> None:
        if self._has_locked_files:  # MuPDF would give their encrypted bytes, with the right password too
            raise EncryptedSourceError(
                "It is locked separately from the PDF.", hint="Save it from a PDF viewer as a file of its own."
            )

    def _damage_of(self, page_number: int) -> str:
        """A sentence about what the page's contents lack; "" where they are whole."""
        return self._layout[2] if self._layout is not None and self._layout[0] == page_number else ""

    @functools.cached_property
    def _label_rules(self) -> list[dict[str, Any]]:
        """The rules by which pages have labels, the last first."""
        rules: list[dict[str, Any]] = []
        with suppress(*MUPDF_ERRORS):  # a broken label tree costs the labels, not the pages
            rules = self._document.get_page_labels() if self._kind == "pdf" else []
        return sorted(rules, key=lambda rule: int(rule["startpage"]), reverse=True)

    def _label_of(self, page: Page) -> str:
        """The page's label; "" where the file has none."""
        if not self._label_rules:
            return ""
        rule = next((rule for rule in self._label_rules if rule["startpage"] <= page.number), {})
        if rule.get("style") == "D":  # `get_label` reads all rules again for each page
            label = f"{rule['prefix']}{rule['firstpagenum'] + page.number - rule['startpage']}"
        else:
            try:
                label = str(page.get_label())
            except MUPDF_ERRORS:
                return ""  # a number that cannot be spelled in letters costs the label, not the page
        # PyMuPDF does not decode a prefix in hexadecimal.
        return clean_text(_HEX_PREFIX.sub(lambda match: bytes.fromhex(match[1]).decode("utf-16"), label))

    def page_facts(self, page_number: int) -> PageFacts:
        """Facts about the page."""
        metadata: dict[str, Scalar] = {}
        with self._page(page_number) as page:
            layout = self._layout_on(page)
            content = layout.scan.content_sha256 if layout.scan else None
            is_annotated = has_annotations(self._document, page)
            notes = _notes_of(page) if is_annotated else []
            text = layout.text
            if is_annotated and text:
                with suppress(*MUPDF_ERRORS):  # a broken form costs its ticks, not the page
                    text = text_with_buttons(self._document, page, text, TEXT_FLAGS)
            damage = self._damage_of(page_number)
            if layout.text_layer == "good" and not layout.has_visible_text:
                damage = damage or "The page shows nothing: its text is that of a hidden layer."
            if damage:
                metadata["damage"] = damage
            if notes and layout.text_layer != "good":
                metadata["notes"] = clean_text("; ".join(notes))  # they are missing from the text that is read
            return PageFacts(
                page_number=page_number,
                page_label=self._label_of(page) or str(page_number),
                content_sha256=content or hashlib.sha256(f"{self._sha256}:{page_number}".encode()).hexdigest(),
                width_pt=layout.size_pt[0],
                height_pt=layout.size_pt[1],
                width_px=layout.image_px[0],
                height_px=layout.image_px[1],
                text="\n\n".join([text, *(f"Note: {note}" for note in notes)]).strip(),
                text_layer=layout.text_layer,
                doubtful_lines=layout.doubtful_lines,
                image_coverage=layout.image_coverage,
                rotation_deg=layout.rotation_deg,
                metadata=metadata,
            )

    def text_lines(self, page_number: int) -> TextLines:
        """The lines of the page's own text."""
        with self._page(page_number) as page:
            return TextLines(tuple(text_lines(page)))

    def text_copy(self, target: Path) -> TextCopy:
        """A copy of the PDF itself, byte for byte."""
        from kobold_reader.pages.text_copy import TextCopy

        if self._kind != "pdf":
            raise UnsupportedSourceError(
                "Only PDFs and pictures are copied with text; the text of this file can be searched as it is."
            )
        shutil.copyfile(self._path, target)
        return TextCopy(target, self._password)

    def copy_page(self, page_number: int, copy: TextCopy) -> None:
        """Nothing: the copy has every page."""

    def page_look(self, page_number: int) -> PageLook:
        """Whether the page is a photo or a scan, where it is one picture."""
        layout = self._layout_of(page_number)
        if layout.scan is not None and layout.scan.is_jpeg:
            return look_at_jpeg(layout.scan.data())
        # Images that are stored without loss, in strips or in layers come from scanners and copiers.
        return PageLook("scan") if self._kind == "pdf" and layout.is_scan_like else PageLook()

    def page_images(self, page_number: int, budget: ImageBudget, rotate_deg: int | None) -> PageImages:
        """The images of the page."""
        layout = self._layout_of(page_number)
        self._rendered += 1
        if self._rendered % _SHRINK_EVERY == 0:
            pymupdf.TOOLS.store_shrink(100)
        with self._page(page_number) as page:
            error: Exception | None = None
            try:
                images, is_white = self._images(page, layout, budget, rotate_deg)
                if not images.is_blank:
                    return replace(images, damage=images.damage or self._damage_of(page_number))
            except (PageRenderError, *MUPDF_ERRORS) as caught:
                images, is_white, error = None, False, caught
            # Whole JBIG2 that MuPDF cannot decode, or that comes out white, is of a kind that it does not draw.
            jbig2 = _whole_jbig2(self._document, page) if self._kind == "pdf" else []
            is_suspect = bool(jbig2) and not self._damage_of(page_number) if error else is_white and any(jbig2)
            if is_suspect and (error or not pdfium.is_installed()):
                error = PageRenderError(
                    "The page's image is of a kind of JBIG2 that MuPDF does not draw.", hint=_remedy()
                )
            elif is_white and _says_words(layout):
                is_suspect, error = True, _shows_nothing(layout)
            drawn = self._drawn_by_pdfium(page, layout, budget, rotate_deg) if is_suspect else None
            if drawn is not None and not (error and drawn.is_blank):
                return drawn
            if error:
                raise error
            assert images is not None  # noqa: S101  (there was no error)
            return images

    def _images(
        self, page: Page, layout: Layout, budget: ImageBudget, rotate_deg: int | None
    ) -> tuple[PageImages, bool]:
        """The images of a page as MuPDF draws it, and whether it draws nothing, or no more than a dot."""
        scan = layout.scan
        if scan is not None and (scan.is_jpeg or fit_size(*layout.image_px, budget) == layout.image_px):
            data = scan.data()
            try:
                if self._share_there(page, layout) < COMPLETE:
                    return self._part_of(scan, page, layout, budget, rotate_deg), False
                images = scan_images(data, layout.inches, budget, rotate_deg)
            except PageRenderError:
                if not scan.is_jpeg:
                    raise
                return self._part_of(scan, page, layout, budget, rotate_deg), False
            if not images.is_blank:
                return images, False  # else it is judged by what the page shows
        return self._rendering(page, layout, budget, rotate_deg)

    def _rendering(
        self, page: Page, layout: Layout, budget: ImageBudget, rotate_deg: int | None
    ) -> tuple[PageImages, bool]:
        """As `_images`, of a page that MuPDF paints, or that is put together from its strips or layers."""
        placement = Placement(_square_px(layout, budget), layout.inches)
        if pieces := _join_strips(self._document, page, layout) or _join_layers(page, layout):
            canvas = picture_canvas(without_colour(pieces), placement, layout.rotation_deg)
        else:
            draw = functools.partial(_render, page, layout)
            canvas = Canvas(placement, draw, draw, layout.rotation_deg)
        first = without_colour(canvas.draw(fit_size(*placement.square, budget), WHOLE))

        def draw_again(size: tuple[int, int], box: Box) -> Image.Image:
            return first if (size, box) == (first.size, WHOLE) else canvas.draw(size, box)

        share = self._share_there(page, layout)
        if share < COMPLETE and layout.scan is not None:
            return self._part_of(layout.scan, page, layout, budget, rotate_deg), False
        damage = missing_from(share) if share < COMPLETE else self._damage_of(page.number + 1)
        ink = self._ink(page, layout, first)
        if ink.is_blank and damage:
            raise PageRenderError(damage, hint=_HINT)
        images = page_images(replace(canvas, draw=draw_again), ink, budget, rotate_deg)
        return replace(images, damage=damage), ink.is_white

    def _part_of(
        self, scan: Scan, page: Page, layout: Layout, budget: ImageBudget, rotate_deg: int | None
    ) -> PageImages:
        """The images of a scan of which only the first lines are there.

        Raises:
            PageRenderError: Nothing can be seen on them.
        """
        picture, share = salvaged(lambda: Image.open(io.BytesIO(scan.data())))
        share = min(share, self._share_there(page, layout))
        placement = Placement(picture.size, layout.inches)
        images = picture_images(picture, placement, budget, original=None, rotate_deg=rotate_deg, reopen=picture.copy)
        if images.is_blank:
            raise PageRenderError("The page's image is cut short, and what is there shows nothing.", hint=_HINT)
        return replace(images, damage=missing_from(share))

    def _drawn_by_pdfium(
        self, page: Page, layout: Layout, budget: ImageBudget, rotate_deg: int | None
    ) -> PageImages | None:
        """The images of a page as PDFium draws it; None where it is not installed or cannot draw it either."""
        placement = Placement(_square_px(layout, budget), layout.inches)
        picture = None
        if pdfium.is_installed():
            picture = pdfium.draw(self._path, self._password, page.number + 1, placement.square)
        if picture is None:
            return None
        picture = without_colour(picture)
        ink = find_ink(shrunk(picture, analysis_size(*picture.size, layout.inches)))
        return page_images(picture_canvas(picture, placement, layout.rotation_deg), ink, budget, rotate_deg)

    def _share_there(self, page: Page, layout: Layout) -> float:
        """The share that is there of the page's image, once it was decoded; MuPDF fills up the rest without an error.

        Raises:
            PageRenderError: Nothing of it is there.
        """
        # MuPDF warns only once, when it decodes the image; later it takes the image from its store.
        if _CUT_SHORT.search(_warnings()) and layout.image_coverage >= _MATTERS:
            self._cut_short.setdefault(page.number, _stored_share(self._document, page))
        share = self._cut_short.get(page.number, 1.0)
        if not share:
            raise PageRenderError("The page's image is cut short or damaged: nothing of it is there.", hint=_HINT)
        return share

    def _ink(self, page: Page, layout: Layout, view: Image.Image) -> Ink:
        """Judge the page, on the view where that is fine enough; refuse one that is white because it is damaged."""
        judged = analysis_size(*layout.size_at(layout.native_dpi or 100), layout.inches)
        picture = view
        if view.width > judged[0] or view.height > judged[1]:
            picture = shrunk(view, judged)
        elif view.size != judged and not layout.has_visible_text:
            picture = _render(page, layout, judged)
        ink = find_ink(picture)
        if ink.is_white:
            if self._document.is_repaired and layout.image_coverage < _MATTERS:
                message = "The PDF is damaged, and this page was repaired into white: what it held may be lost."
                raise PageRenderError(message, hint=_HINT)
            if self._kind == "pdf" and _lost_contents(self._document, page):
                raise PageRenderError("What the page should show cannot be decoded.", hint=_HINT)
            if layout.image_coverage > 0 and (warned := _warnings()):
                raise PageRenderError(f"The page's image cannot be decoded ({warned[:200]}).")
        # A dot may be a small numeral, but no sentence.
        is_dot = ink.is_white and not is_all_white(picture) and not _says_words(layout)
        if layout.has_visible_text and (is_dot or not ink.is_white):
            return replace(ink, is_blank=False, is_white=False)
        return ink


_CODE = re.compile(r"^code=\d+: ")
_IN_WORDS = {
    "cycle in page tree": "the file's list of pages leads back to itself",
    "invalid number of pages": "it does not say how many pages it has",
}


def _message(error: Exception) -> str:
    said = _CODE.sub("", clean_text(str(error)))[:200]
    return _IN_WORDS.get(said.lower()) or (f"MuPDF says: {said}" if said else type(error).__name__)


def _damage_of_contents(document: Document, page: Page) -> str:
    """A sentence about what MuPDF missed when it last looked at the page; "" where it missed nothing."""
    warned = _warnings()
    if _MISSING.search(warned):
        return "Something that the page should show is missing from the file."
    if _CUT_SHORT.search(warned) and any(not _ends(document, xref) for xref in page.get_contents()):
        return "The page's contents end too early."
    return ""


def _ends(document: Document, xref: int) -> bool:
    """Whether a stream is stored up to its end; its checksum may be missing."""
    stored = document.xref_stream_raw(xref)
    if not stored or document.xref_get_key(xref, "Filter")[1].strip("[] ") != "/FlateDecode":
        return True
    decoder = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        decoder.decompress(stored[2:], _MAX_CONTENTS)
    except zlib.error:
        return False
    return decoder.eof or bool(decoder.unconsumed_tail)


def _warnings() -> str:
    return clean_text(pymupdf.TOOLS.mupdf_warnings(reset=False))


def _remedy() -> str:
    if pdfium.is_installed():
        return "PDFium does not draw it either: save the page with another program."
    from kobold_reader.release import install_command  # looks into the installed package: only where it is needed

    return f"PDFium draws it: {install_command(pdfium.EXTRA)}"


def _locks_files(document: Document) -> bool:
    """Whether the PDF encrypts its attached files in another way than its pages."""
    files, streams = (document.xref_get_key(-1, f"Encrypt/{key}")[1] for key in ("EFF", "StmF"))
    return files not in {"null", streams}


# ── one page ─────────────────────────────────────────────────────────────────────────────────────

_HEX_PREFIX = re.compile(r"^<((?:FEFF)(?:[0-9A-F]{4})*)>", re.IGNORECASE)
_MAX_NOTES = 200
_MAX_NOTE_CHARS = 2_000
_PAINTED = frozenset({pymupdf.PDF_ANNOT_FREE_TEXT, pymupdf.PDF_ANNOT_WIDGET, pymupdf.PDF_ANNOT_POPUP})


def _load_page(document: Document, index: int) -> Page:
    """The page, without its crop box where that would leave nothing of it: MuPDF would show white."""
    page = document.load_page(index)
    if not document.is_pdf:
        return page
    crop = _box(document, page, "CropBox")
    media = _box(document, page, "MediaBox") if crop is not None else None
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


def _render(page: Page, layout: Layout, size: tuple[int, int], box: Box = WHOLE) -> Image.Image:
    """The upright page, or a part of it, at exactly this size."""
    sides = (page.rect.width, page.rect.height) * 2
    left, top, right, bottom = (share * side for share, side in zip(box, sides, strict=True))
    matrix = pymupdf.Matrix(size[0] / (right - left), size[1] / (bottom - top))
    part = pymupdf.Rect(left, top, right, bottom) + (page.rect.x0, page.rect.y0) * 2
    space, mode = (pymupdf.csGRAY, "L") if layout.is_grey else (pymupdf.csRGB, "RGB")
    pixmap = page.get_pixmap(matrix=matrix, colorspace=space, alpha=False, clip=None if box == WHOLE else part)
    picture = Image.frombytes(mode, (pixmap.width, pixmap.height), pixmap.samples, "raw", mode, pixmap.stride, 1)
    return picture if picture.size == size else picture.crop((0, 0, *size))  # rounding may add a row


def _square_px(layout: Layout, budget: ImageBudget) -> tuple[float, float]:
    """The page's size in square pixels, the images' own where these are square."""
    width, height = layout.size_at(layout.native_dpi or budget.max_dpi)
    own = layout.image_px
    is_square = all(own) and layout.native_dpi and abs(own[0] / own[1] / (width / height) - 1) <= _SQUARE
    return own if is_square else (width, height)


def _notes_of(page: Page) -> list[str]:
    """Notes and comments that people pinned to the page, in its order, without text that is painted anyway."""
    notes: list[str] = []
    with suppress(*MUPDF_ERRORS):  # a broken annotation costs itself and those after it, not the page
        for annotation in page.annots() or ():
            if len(notes) >= _MAX_NOTES:
                break
            hidden = annotation.flags & (pymupdf.PDF_ANNOT_IS_HIDDEN | pymupdf.PDF_ANNOT_IS_NO_VIEW)
            if annotation.type[0] in _PAINTED or hidden:
                continue
            note = str(annotation.info.get("content") or "").replace("\r", "\n").strip()
            if note and note not in notes:
                notes.append(note[:_MAX_NOTE_CHARS])
    return notes


def _stored_share(document: Document, page: Page) -> float:
    """The share that is stored of the page's most incomplete image, 0 to 1; 0 where that is not known."""
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


def _says_words(layout: Layout) -> bool:
    """Whether the text layer says more than what dust on a blank scan is taken for."""
    letters = sum(character.isalpha() for character in layout.text)
    return letters >= (_WORD_LETTERS if layout.has_visible_text else _HIDDEN_LETTERS)


def _shows_nothing(layout: Layout) -> PageRenderError:
    said = clean_text(layout.text)[:40]
    hint = "" if pdfium.is_installed() else _remedy().replace("draws", "may draw") + " or: "
    return PageRenderError(
        f"The page shows nothing, but its text layer says “{said}”.", hint=f"{hint}--text-layer only takes that text."
    )


def _whole_jbig2(document: Document, page: Page) -> list[int]:
    """For each image or mask of the page that is JBIG2 with no segment cut short: its `demanding_segments`."""
    listed = document.get_page_images(page.number, full=True)
    streams = {stream for xref, mask, *_ in listed for stream in (xref, mask) if stream}
    found = (
        demanding_segments(document.xref_stream_raw(stream))
        for stream in streams
        if document.xref_get_key(stream, "Filter")[1].strip("[] ") == "/JBIG2Decode"
    )
    return [count for count in found if count is not None]


def _lost_contents(document: Document, page: Page) -> bool:
    """Whether the page has instructions to paint and none of them can be decoded."""
    try:
        streams = page.get_contents()
        stored = sum(len(document.xref_stream_raw(xref) or b"") for xref in streams)
        return stored > 0 and not any((document.xref_stream(xref) or b"").strip() for xref in streams)
    except MUPDF_ERRORS:
        return True


# ── scans in strips and layers ───────────────────────────────────────────────────────────────────

_MAX_STRIPS = 2_000
_MAX_STRIP_PIXELS = 100_000_000
_MAX_LAYERED_PIXELS = 40_000_000
_SKEW = 0.002
_OVERLAP = 1.1
_SCALE = 0.02  # a strip's size and its pixels may differ by this share


def _join_layers(page: Page, layout: Layout) -> Image.Image | None:
    """A scan whose pieces only MuPDF can put together, at their own resolution; None where that is too large.

    Made smaller by MuPDF, masks come out coarser than a plain scan of the same pixels: by 4.5 grey levels a pixel on a
    printed page at 1024 px, by none if it is painted whole and then resampled as the plain scan is.
    """
    width, height = layout.image_px
    is_joinable = layout.is_in_pieces and layout.is_scan_like and layout.native_dpi is not None
    if not is_joinable or not 0 < width * height <= _MAX_LAYERED_PIXELS:
        return None
    return _render(page, layout, (width, height))


def _join_strips(document: Document, page: Page, layout: Layout) -> Image.Image | None:
    """A scan that is stored in strips, put together pixel by pixel; None where MuPDF must paint it.

    MuPDF moves every image to whole pixels of what it paints, so at any size but the scan's own the letters on the
    seams are squeezed: measured on a printed page at 1024 px, its painting differs from the scan by 8.7 grey levels a
    pixel, the joined strips by none.
    """
    width, height = layout.image_px
    is_joinable = layout.is_in_pieces and layout.is_scan_like and not layout.rotation_deg
    if not is_joinable or not 0 < width * height <= _MAX_STRIP_PIXELS:
        return None
    scale = (width / layout.size_pt[0], height / layout.size_pt[1])
    strips = page.get_image_info()
    if len(strips) > _MAX_STRIPS or not all(_is_strip(strip, scale) for strip in strips):
        return None
    if sum(strip["width"] * strip["height"] for strip in strips) > _OVERLAP * width * height:
        return None  # layers: one may be the mask of another
    strips = page.get_image_info(xrefs=True)  # decodes them all
    if not all(strip["xref"] and is_plain(document, strip["xref"]) for strip in strips):
        return None
    is_grey = all(strip["colorspace"] == 1 for strip in strips)
    whole = Image.new("L" if is_grey else "RGB", (width, height), "white")
    for strip in strips:
        data = document.extract_image(strip["xref"])["image"]
        with picture_errors(PageRenderError), Image.open(io.BytesIO(data)) as picture:
            flat = flatten(picture).convert(whole.mode)
        whole.paste(flat, (round(strip["bbox"][0] * scale[0]), round(strip["bbox"][1] * scale[1])))
    return whole


def _is_strip(strip: dict[str, Any], scale: tuple[float, float]) -> bool:
    """Whether an image is upright, opaque, and at the scan's own resolution."""
    a, b, c, d, _, _ = strip["transform"]
    if a <= 0 or d <= 0 or abs(b) > _SKEW * a or abs(c) > _SKEW * d:
        return False
    sides = ((strip["width"], a * scale[0]), (strip["height"], d * scale[1]))
    if any(abs(pixels - side) > max(1, _SCALE * side) for pixels, side in sides):  # 1: a strip's edge may be rounded
        return False
    return not strip["has-mask"] and strip["colorspace"] in {1, 3} and strip["bpc"] <= 8  # noqa: PLR2004 - a byte
