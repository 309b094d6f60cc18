"""The layout of a PDF page, found without painting it: whether it is one scan, and whether its text layer is its text.

In doubt the text layer is not: an unnecessary request costs little, but a page whose text is a stamp or the garbage of
a broken font is lost to every search. Where only the letters leave a doubt, the caller may have some lines read.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import pymupdf
from PIL import Image

from kobold_reader.pages.garbled import judge
from kobold_reader.pages.images import LIBRARY_ERRORS, MAX_PIXELS, is_plain_jpeg
from kobold_reader.pages.metadata import exif_of, orientation_of
from kobold_reader.pages.values import Box, TextLayer, TextLine

Document: TypeAlias = Any
"""A `pymupdf.Document`; its types cannot be checked."""
Page: TypeAlias = Any
"""A `pymupdf.Page`."""

MUPDF_ERRORS = (pymupdf.mupdf.FzErrorBase, *LIBRARY_ERRORS)
"""What PyMuPDF raises on bad files: its own errors, its core's, and Python's from incomplete structures."""

_IMAGES = frozenset({"fill-image", "fill-imgmask"})
_PATHS = frozenset({"fill-path", "stroke-path"})
_GRID = 128
_CLOSE = 0.02  # an edge this share of a page away is at the page's edge
_SCAN_COVERAGE = 0.5
_COARSE_DPI = 100
_MIN_INCHES = 1
_SPECK, _SPECK_DPI = 1e-4, 2400  # share of the page: no letter is smaller and so finely stored
_SIDES = 8  # lines of a clip that follows the sheet's edges
_UNCUT = 0.9  # share of the page that such a clip leaves at least
_CLIPPED_TO_TEXT = re.compile(rb"[\s\]>)][4-7]\s+Tr\b")
_REFERENCE = re.compile(r"\b(\d+) \d+ R\b")


@dataclass(frozen=True, slots=True)
class Scan:
    """The one picture that a page is."""

    data: Callable[[], bytes]
    """Gives its bytes: for a JPEG as stored, else a lossless PNG of the pixels."""
    is_jpeg: bool
    content_sha256: str | None
    """Independent of the file that it is in; None where it depends on too many objects."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The facts of a page's layout."""

    size_pt: tuple[float, float]
    """Of the upright page."""
    rotation_deg: int
    """The page's /Rotate."""
    text: str
    """The text layer, hidden text included."""
    text_layer: TextLayer
    doubtful_lines: tuple[TextLine, ...]
    """See `PageFacts`."""
    has_visible_text: bool
    image_coverage: float
    """Share of the page under images."""
    image_px: tuple[int, int]
    """Upright size, in pixels of the finest image, of a page that images cover for the most part, else (0, 0)."""
    native_dpi: float | None
    """Where only images are painted: the resolution of the finest one or its mask, beyond which no detail is gained."""
    is_in_pieces: bool
    """Only images are painted, and there are several (strips, layers), or one through a mask."""
    is_grey: bool
    """Nothing on the page has colour."""
    scan: Scan | None
    """The one picture that the page is, if it is nothing else."""

    @property
    def is_scan_like(self) -> bool:
        """Mostly image, and no text to speak of."""
        return self.image_coverage >= _SCAN_COVERAGE and self.text_layer != "good"

    @property
    def inches(self) -> tuple[float, float] | None:
        """Width and height of the upright page; None where it is so small that nobody meant paper."""
        inches = self.size_at(1)
        return inches if max(inches) >= _MIN_INCHES else None

    def size_at(self, dpi: float) -> tuple[float, float]:
        """Width and height of the upright page in pixels at this resolution."""
        return self.size_pt[0] * dpi / 72, self.size_pt[1] * dpi / 72


def read_layout(document: Document, page: Page) -> Layout:
    """Find a page's layout; one of `MUPDF_ERRORS` is raised if the page cannot be interpreted at all."""
    rotation = int(page.rotation) % 360
    is_sideways = rotation in {90, 270}
    size = (float(page.rect.width), float(page.rect.height))
    if text := _clear_text(document, page):
        return Layout(
            size_pt=size,
            rotation_deg=rotation,
            text=text,
            text_layer="good",
            doubtful_lines=(),
            has_visible_text=True,
            image_coverage=0.0,
            image_px=(0, 0),
            native_dpi=None,
            is_in_pieces=False,
            is_grey=False,
            scan=None,
        )
    flat = size[::-1] if is_sideways else size  # boxes are as stored
    painted = [(str(what), tuple(box)) for what, box in page.get_bboxlog()]
    images = [(order, box) for order, (what, box) in enumerate(painted) if what in _IMAGES]
    coverage = _coverage([box for _, box in images], flat)
    placed = page.get_image_info(hashes=False, xrefs=False)
    seen = _painted_images(page, placed, flat)
    found = _read_text(page, painted, images)
    others = any(what in _PATHS or what == "fill-shade" for what, _ in painted)
    only_images = bool(images) and not found.visible and not others
    image_px, dpi = _largest(seen, flat), max((max(image.dpi) for image in seen), default=None)
    is_in_pieces = only_images and (len(placed) > 1 or any(image["has-mask"] for image in placed))
    if is_in_pieces and seen and coverage >= _SCAN_COVERAGE:
        image_px = _joined(seen, flat)
    if only_images and dpi and dpi < _COARSE_DPI and _is_cut_out(page, flat):
        dpi = None
    verdict = _verdict(found, coverage)
    return Layout(
        size_pt=size,
        rotation_deg=rotation,
        text=found.text,
        text_layer="good" if verdict == "good" else "none" if verdict == "none" else "poor",
        doubtful_lines=_longest_lines(page) if verdict == "doubtful" else (),
        has_visible_text=found.visible > 0,
        image_coverage=coverage,
        image_px=image_px[::-1] if is_sideways else image_px,
        native_dpi=dpi if only_images else None,
        is_in_pieces=is_in_pieces,
        is_grey=only_images and all(image["colorspace"] == 1 for image in placed),
        scan=_scan(document, page, painted, placed, flat) if rotation == 0 and document.is_pdf else None,
    )


# ── images ───────────────────────────────────────────────────────────────────────────────────────


def _coverage(boxes: Sequence[Any], size: tuple[float, float]) -> float:
    """Share of the page under these boxes, overlaps counted once."""
    covered = np.zeros((_GRID, _GRID), np.bool_)
    for left, top, right, bottom in boxes:
        x0, x1 = (round(min(max(x / size[0], 0.0), 1.0) * _GRID) for x in (left, right))
        y0, y1 = (round(min(max(y / size[1], 0.0), 1.0) * _GRID) for y in (top, bottom))
        covered[y0:y1, x0:x1] = True
    return float(covered.mean())


@dataclass(frozen=True, slots=True)
class _Painted:
    """An image on the page, which is as stored."""

    size: tuple[int, int]
    """Its pixels as it lies, or its mask's where these are more: a layered scan paints colour through fine letters."""
    sides: tuple[float, float]
    """Its sides on the page, in points."""

    @property
    def dpi(self) -> tuple[float, float]:
        return self.size[0] / self.sides[0] * 72, self.size[1] / self.sides[1] * 72


def _painted_images(page: Page, placed: Sequence[dict[str, Any]], flat: tuple[float, float]) -> list[_Painted]:
    """The images that can be seen on the page."""
    masks: dict[int, tuple[int, int]] = {}
    if any(image["has-mask"] for image in placed):
        textpage = page.get_textpage(flags=pymupdf.TEXT_PRESERVE_IMAGES)  # where `placed` is from, in its order
        blocks = (block for block in textpage.this if block.m_internal.type != pymupdf.mupdf.FZ_STEXT_BLOCK_TEXT)
        for index, block in enumerate(blocks):
            mask = block.i_image().mask()
            if mask.m_internal:
                masks[index] = (mask.w(), mask.h())
    images = []
    for index, image in enumerate(placed):
        a, b, c, d, _, _ = image["transform"]
        across, down = (a * a + b * b) ** 0.5, (c * c + d * d) ** 0.5
        width, height = (
            max(sides) for sides in zip((image["width"], image["height"]), masks.get(index, (0, 0)), strict=True)
        )
        if across <= 0 or down <= 0 or width < 1 or height < 1:
            continue
        if across * down < _SPECK * flat[0] * flat[1] and width / across * 72 > _SPECK_DPI:
            continue  # whole pages shrunk to a dot: some programs leave their masks so
        is_on_its_side = abs(b) > abs(a)
        images.append(
            _Painted((height, width), (down, across)) if is_on_its_side else _Painted((width, height), (across, down))
        )
    return images


def _largest(images: Sequence[_Painted], flat: tuple[float, float]) -> tuple[int, int]:
    """Pixels of the finest image that covers most of the page; (0, 0) if none does."""
    covering = (image.size for image in images if image.sides[0] * image.sides[1] >= _SCAN_COVERAGE * flat[0] * flat[1])
    return max(covering, key=lambda size: size[0] * size[1], default=(0, 0))


def _joined(images: Sequence[_Painted], flat: tuple[float, float]) -> tuple[int, int]:
    """The page in pixels of the finest of the images that cover it together; each side has a resolution of its own."""
    across, down = (max(image.dpi[side] for image in images) for side in (0, 1))
    return round(flat[0] * across / 72), round(flat[1] * down / 72)


def _is_cut_out(page: Page, flat: tuple[float, float]) -> bool:
    """Whether what is painted is clipped to a shape, as a patch of colour to letters: the shape has the detail."""
    if _CLIPPED_TO_TEXT.search(page.read_contents()):
        return True
    clips = (drawing for drawing in page.get_cdrawings(extended=True) if drawing["type"] == "clip")
    return any(len(clip["items"]) > _SIDES or _coverage([clip["scissor"]], flat) < _UNCUT for clip in clips)


def _scan(
    document: Document,
    page: Page,
    painted: Sequence[tuple[str, Any]],
    placed: Sequence[dict[str, Any]],
    flat: tuple[float, float],
) -> Scan | None:
    """The one picture that the page is, if it is nothing else."""
    visible = [what for what, _ in painted if what != "ignore-text"]
    # An opaque picture of the whole page hides what was painted before it, not what is painted after it.
    if not visible or visible[-1] != "fill-image" or len(placed) != 1:
        return None
    image = placed[0]
    if not _fills(image, flat) or image.get("has-mask") or image["width"] * image["height"] > MAX_PIXELS:
        return None
    xref = _xref(document, page, image)
    if xref is None or not is_plain(document, xref):
        return None
    # A clip may belong to hidden text; only where the image is alone it is the image's.
    if len(painted) == 1 and _is_cut_out(page, flat):
        return None
    _, filters = document.xref_get_key(xref, "Filter")
    if "DCTDecode" in filters:
        data = bytes(document.extract_image(xref)["image"])
        if not _is_upright_jpeg(data, image["colorspace"]):
            return None
        return Scan(lambda: data, is_jpeg=True, content_sha256=hashlib.sha256(data).hexdigest())
    space = str(image["cs-name"])
    is_plain_space = space.startswith(("DeviceGray", "DeviceRGB", "ICCBased", "Cal")) and image["colorspace"] in {1, 3}
    if "JPXDecode" in filters or image["bpc"] > 8 or not is_plain_space:  # noqa: PLR2004 - a byte
        return None
    content = _stored_sha256(document, xref, image)
    return Scan(lambda: bytes(document.extract_image(xref)["image"]), is_jpeg=False, content_sha256=content)


def is_plain(document: Document, xref: int) -> bool:
    """Whether an image is shown with its pixels unchanged: no mask, no inverted levels."""
    keys = (document.xref_get_key(xref, key) for key in ("Decode", "SMask", "Mask", "ImageMask"))
    return all(kind == "null" or value == "false" for kind, value in keys)


def _stored_sha256(document: Document, xref: int, image: dict[str, Any]) -> str | None:
    """Hash of a lossless picture as it is stored, and of its decoder's settings; None where these link too far.

    MuPDF's PNG of it may differ between releases, and hashing its pixels would decode a large page twice.
    """
    digest = hashlib.sha256()
    digest.update(f"{image['width']}x{image['height']}x{image['colorspace']}x{image['bpc']}".encode())
    for key in ("Filter", "DecodeParms"):
        _, value = document.xref_get_key(xref, key)
        for _ in range(3):
            value = _REFERENCE.sub(lambda match: _target(document, int(match[1])), value)
        if _REFERENCE.search(value):
            return None
        digest.update(b"|" + value.encode("utf-8", "replace"))
    digest.update(b"|" + document.xref_stream_raw(xref))
    return digest.hexdigest()


def _target(document: Document, xref: int) -> str:
    """An object's contents: its stream's checksum (JBIG2 globals), or else its own text."""
    if document.xref_is_stream(xref):
        return hashlib.sha256(document.xref_stream_raw(xref)).hexdigest()
    return str(document.xref_object(xref, compressed=True))


def _fills(image: dict[str, Any], flat: tuple[float, float]) -> bool:
    """Whether an image is upright, undistorted, and as large as the page."""
    a, b, c, d, x, y = image["transform"]
    if a <= 0 or d <= 0 or abs(b) > _CLOSE * a or abs(c) > _CLOSE * d:
        return False
    near_x, near_y = _CLOSE * flat[0], _CLOSE * flat[1]
    if abs(x) > near_x or abs(y) > near_y or abs(x + a - flat[0]) > near_x or abs(y + d - flat[1]) > near_y:
        return False
    return bool(abs((image["width"] / a) / (image["height"] / d) - 1) <= _CLOSE)


def _is_upright_jpeg(data: bytes, components: int) -> bool:
    """Whether a JPEG looks the same inside a PDF and outside: no CMYK, no EXIF turn."""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as picture:
            plain = is_plain_jpeg(data, picture) and orientation_of(exif_of(picture)) == 1
            return plain and len(picture.getbands()) == components
    except MUPDF_ERRORS:
        return False


def _xref(document: Document, page: Page, image: dict[str, Any]) -> int | None:
    """The object of the one image on the page.

    Many programs list all images of the file under every page; the page's content names the right one. Comparing the
    pixels would decode them all.
    """
    listed = document.get_page_images(page.number, full=True)
    if len(listed) > 1:
        named = set(re.findall(rb"/([^\s/<>\[\](){}%]+)\s+Do\b", page.read_contents()))
        listed = [item for item in listed if item[7].encode("utf-8", "replace") in named and item[9] == 0]
    if len(listed) != 1:
        return None
    xref, _, width, height = listed[0][:4]
    return int(xref) if (width, height) == (image["width"], image["height"]) else None


# ── the text layer ───────────────────────────────────────────────────────────────────────────────

TEXT_FLAGS = pymupdf.TEXT_PRESERVE_WHITESPACE | pymupdf.TEXT_MEDIABOX_CLIP
"""How a page's text is taken."""
# Text as by TEXT_FLAGS, with a block for each image and path, and after the line of text that they stand in.
_ALL_PAINTED = (
    TEXT_FLAGS
    | pymupdf.TEXT_PRESERVE_IMAGES
    | pymupdf.mupdf.FZ_STEXT_COLLECT_VECTORS
    | pymupdf.mupdf.FZ_STEXT_LAZY_VECTORS
    if hasattr(pymupdf.mupdf, "FZ_STEXT_LAZY_VECTORS")
    else None  # an older MuPDF
)
_HIDING = re.compile(rb"\bTr\b|\bDo\b")  # another way to paint text than filled, and instructions in other streams
_SET_STATE = re.compile(rb"\bgs\b")
_STATE = re.compile(rb"(?<!\S)/([\w.+-]+)\s+gs\b")
_FEW_BLOCKS = 60
_CLEARLY = 1.5  # as near a limit as this, two ways of counting may differ
_HIDDEN = 3  # text render mode: neither fill nor stroke
_MAX_UNICODE = 0x10FFFF

# Letters that a good text layer has at least: one where only text is painted, and more where more of the page is image,
# as a stamp or a library's footer on a scan is not its text. Stamped scans have up to 70 letters, pages with as much
# picture as text over 300.
_MIN_LETTERS = 20
_LETTERS_PER_COVERAGE = 600
_MAX_GARBLED = 0.05
_MEANINGLESS = frozenset({"Cc", "Co", "Cn", "Cs"})
_LINES = 5  # read where the letters leave a doubt

# Letters drawn as outlines: many small paths, or few of many curves. A glyph has about ten.
_MANY_PATHS = 200
_GLYPH_PT = 24.0
_FEW_LETTERS = 400
_MAX_PATHS_LOOKED_AT = 3_000
_MANY_CURVES = 400
_CURVES_PER_LETTER = 10


@dataclass(frozen=True, slots=True)
class _PageText:
    text: str
    """Hidden text included."""
    outlines: int
    """Paths of the size of a letter."""
    visible: int = 0
    """Letters and digits that are painted and not painted over."""
    garbled: int = 0
    """Visible characters without meaning: control codes, private use."""
    curves: int = 0
    """In all paths; counted only where letters are few."""
    is_alone: bool = False
    """Nothing but text is painted."""


def _clear_text(document: Document, page: Page) -> str:
    """The text of a page that paints nothing but good text and few paths; "" where that takes a closer look to tell.

    MuPDF does this in C and at one go. The closer look goes over the page four times, and twice calls Python for every
    thing that is painted. Both come to the same: what is near a limit is looked at closely.
    """
    if _ALL_PAINTED is None:
        return ""
    try:
        found = page.get_textpage(flags=_ALL_PAINTED)
        kinds = _kinds_of_blocks(found)
        if pymupdf.mupdf.FZ_STEXT_BLOCK_IMAGE in kinds:
            return ""
        paths = kinds.count(pymupdf.mupdf.FZ_STEXT_BLOCK_VECTOR)
        text = str(found.extractText()).replace("\x00", "").strip()
        letters = counted = Counter(text)
        if not _hides_nothing(document, page):
            lines = (line for block in found.extractDICT()["blocks"] for line in block.get("lines", ()))
            letters = Counter("".join(span["text"] for line in lines for span in line["spans"] if span["alpha"]))
        visible, garbled = _count(letters)
        garbled -= letters["\n"]
        if visible < (_FEW_LETTERS if paths else _MIN_LETTERS) * _CLEARLY or paths > max(_MANY_PATHS, visible):
            return ""
    except MUPDF_ERRORS:
        return ""
    return text if garbled * _CLEARLY < _MAX_GARBLED * visible and judge(text, counted) == "text" else ""


def _kinds_of_blocks(found: Any) -> list[int]:
    """The kind of each block of a `pymupdf.TextPage`."""
    kinds = [block.m_internal.type for block in itertools.islice(found.this, _FEW_BLOCKS)]
    # This takes the texts of all blocks, but in C: of many blocks it is quicker.
    return kinds if len(kinds) < _FEW_BLOCKS else [kind for *_, kind in found.extractBLOCKS()]


def _hides_nothing(document: Document, page: Page) -> bool:
    """Whether nothing in the page's own instructions can hide text; to ask for each piece takes as long as its text."""
    if not document.is_pdf or has_annotations(document, page):
        return False
    contents = page.read_contents()
    if (b"Tr" in contents or b"Do" in contents) and _HIDING.search(contents):
        return False
    if b"gs" not in contents:
        return True
    states = _STATE.findall(contents)
    if len(states) != len(_SET_STATE.findall(contents)):
        return False  # a name that is written in another way
    for name in set(states):
        state = f"Resources/ExtGState/{name.decode()}"
        if document.xref_get_key(page.xref, state)[0] not in {"dict", "xref"}:
            return False  # it stands elsewhere
        opacities = (document.xref_get_key(page.xref, f"{state}/{key}") for key in ("ca", "CA"))
        if any(kind != "null" and not (kind in {"int", "real", "float"} and float(value)) for kind, value in opacities):
            return False
    return True


def has_annotations(document: Document, page: Page) -> bool:
    """Whether anything is laid over the page: a note, a form's field, a link."""
    return bool(document.is_pdf and document.xref_get_key(page.xref, "Annots")[0] != "null")


def _count(letters: Mapping[str, int]) -> tuple[int, int]:
    """How many characters are letters and digits, and how many of the others have no meaning."""
    visible = sum(count for letter, count in letters.items() if letter.isalnum())
    garbled = sum(
        count
        for letter, count in letters.items()
        if not letter.isalnum() and (letter == "\ufffd" or unicodedata.category(letter) in _MEANINGLESS)
    )
    return visible, garbled


def _read_text(page: Page, painted: Sequence[tuple[str, Any]], images: Sequence[tuple[int, Any]]) -> _PageText:
    """Read a page's text layer; one that cannot be read counts as none, as the page's image remains.

    `painted` is all that is painted, in order, with boxes; `images` are the images' indices in that order and boxes.
    """
    paths = [box for what, box in painted if what in _PATHS]
    outlines = sum(1 for box in paths if _is_glyph_sized(box))
    try:
        text = str(page.get_text("text", flags=TEXT_FLAGS)).replace("\x00", "").strip()
        spans = page.get_texttrace()
    except MUPDF_ERRORS:
        return _PageText("", outlines)
    codes: Counter[int] = Counter()
    for span in spans:
        if span["type"] == _HIDDEN or span["opacity"] == 0:
            continue
        if any(order > span["seqno"] and _inside(span["bbox"], box) for order, box in images):
            continue  # a scan was laid over it
        codes.update([character[0] for character in span["chars"]])
    letters: Counter[str] = Counter()
    for code, count in codes.items():
        letters[chr(code) if 0 <= code <= _MAX_UNICODE else "\ufffd"] += count
    visible, garbled = _count(letters)
    curves = _curves(page) if visible < _FEW_LETTERS and 0 < len(paths) <= _MAX_PATHS_LOOKED_AT else 0
    return _PageText(text, outlines, visible, garbled, curves, all(what.endswith("-text") for what, _ in painted))


def _verdict(found: _PageText, coverage: float) -> TextLayer | Literal["doubtful"]:
    """The quality of a text layer on a page of which this share is under images."""
    if not found.text:
        return "none"
    judged = judge(found.text)
    if judged == "garbled" or found.garbled > _MAX_GARBLED * (found.visible + found.garbled):
        return "poor"
    # Where letters are drawn as outlines, the text layer is a caption or a watermark.
    if found.outlines > max(_MANY_PATHS, 3 * found.visible):
        return "poor"
    if found.curves > max(_MANY_CURVES, _CURVES_PER_LETTER * found.visible):
        return "poor"
    if found.is_alone and not found.visible:  # nothing is painted, so these words are all that there is
        is_text = judged == "text" and sum(map(str.isalpha, found.text)) >= _MIN_LETTERS
        return "good" if is_text else "poor"
    needed = 1 if found.is_alone else _MIN_LETTERS + _LETTERS_PER_COVERAGE * coverage
    if found.visible < needed:
        return "poor"
    return "doubtful" if judged == "doubtful" else "good"


def _longest_lines(page: Page) -> tuple[TextLine, ...]:
    """The longest lines of a page's text layer."""
    return tuple(sorted(text_lines(page), key=lambda line: len(line.text), reverse=True)[:_LINES])


def text_lines(page: Page) -> list[TextLine]:
    """Return the lines of a page's text layer, hidden ones included."""
    width, height = page.rect.width, page.rect.height
    found: list[TextLine] = []
    for block in page.get_text("dict", flags=TEXT_FLAGS)["blocks"]:
        for line in block.get("lines", ()):
            text = "".join(span["text"] for span in line["spans"]).strip()
            left, top, right, bottom = pymupdf.Rect(line["bbox"]) * page.rotation_matrix  # boxes are as stored
            found.append(TextLine(text, (left / width, top / height, right / width, bottom / height)))
    return found


def _is_glyph_sized(box: Box) -> bool:
    return 0 < box[3] - box[1] <= _GLYPH_PT and 0 < box[2] - box[0] <= _GLYPH_PT


def _inside(box: Box, outer: Box) -> bool:
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return bool(outer[0] <= x <= outer[2] and outer[1] <= y <= outer[3])


def _curves(page: Page) -> int:
    try:
        return sum(item[0] == "c" for drawing in page.get_cdrawings() for item in drawing["items"])
    except MUPDF_ERRORS:
        return 0
