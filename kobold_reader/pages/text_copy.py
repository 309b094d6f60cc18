"""A copy of a document as a PDF whose pages are as they were, with their text laid over them invisibly.

The text can be searched, marked and copied in any viewer. A PDF is copied byte for byte, and what is added is appended
to it (an incremental update, ISO 32000-1, 7.5.6), so its pictures, bookmarks and signed parts stay as they are.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path
from typing import Final

import pymupdf

from kobold_reader.errors import CorruptSourceError, EncryptedSourceError
from kobold_reader.pages.layout import MUPDF_ERRORS, Page
from kobold_reader.pages.page_tree import count_pages, set_count
from kobold_reader.pages.values import PlacedText

_NAME: Final = "KoboldReaderText"
_EM: Final = 1000
_DESCENT: Final = 0.2
"""Share of a line's height below its base line."""
_TALL: Final = 1.5
"""A line of two characters and more that is higher than this many widths is written downwards."""
_SKEW: Final = 0.2
"""About 11 degrees."""
_PAGES_IN_MEMORY: Final = 16
_LEAST_PT: Final = 0.01
_LEAST_SPACE: Final = 0.15
"""In heights of a line; poppler takes nearer words for one."""
_CODES: Final = 100
"""Entries in one block of a ToUnicode map, at most (Adobe Technical Note 5411)."""
_FORWARD: Final = re.compile(
    r"[^\W\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff]+(?:[.,:/-]\d+)*|.[\u0300-\u036f\u0591-\u05c7\u064b-\u065f]*"
)
"""Within a line from right to left: a number or a word of another script, else one character with its marks."""


@contextmanager
def _damage_named() -> Iterator[None]:
    """Raise MuPDF's errors about what a file holds as ours."""
    damage = (pymupdf.mupdf.FzErrorSyntax, pymupdf.mupdf.FzErrorFormat, pymupdf.mupdf.FzErrorLibrary)
    try:
        yield
    except damage as error:
        said = str(error).partition(": ")[2]
        raise CorruptSourceError(
            f"It is too damaged for a copy as a PDF (MuPDF says: {said}).",
            hint="--to hocr and --to alto write its text with the places.",
        ) from error


class TextCopy:
    """A PDF to which pages get their text, one after the other; `save` writes it.

    Args:
        path: Where it is written; a PDF that is there already is appended to.
        password: What opens that PDF.
    """

    def __init__(self, path: Path, password: str | None = None) -> None:
        self._path = path
        self._password = password
        self._codes: dict[str, int] = {}
        self._pictures = 0
        self._document = self._opened() if path.exists() else pymupdf.open()
        self._font = self._document.get_new_xref()
        self._document.update_object(self._font, "<</Type/Font>>")  # else another object could get its number

    @property
    def notices(self) -> tuple[str, ...]:
        """What the reader of the copy should know, in sentences."""
        document = self._document
        said = {
            "It is signed. The signature still covers what was signed, and viewers say that text was added since.": (
                document.get_sigflags() > 0
            ),
            "It is encrypted, and its copy opens with the same password.": bool(self._password),
            "It is damaged: its copy was written anew, with what could be read of it.": bool(document.is_repaired),
        }
        return tuple(sentence for sentence, holds in said.items() if holds)

    def add_picture(self, picture: bytes, size_pt: tuple[float, float], orientation: int) -> None:
        """Add a page that shows a picture in this size; the bytes of a JPEG are kept as they are.

        `size_pt` is that of the picture turned upright by its EXIF orientation, 1 to 8.
        """
        self._pictures += 1
        if self._pictures % _PAGES_IN_MEMORY == 0:
            self._write_down()
            self._document = self._opened()
        page = self._document.new_page(width=size_pt[0], height=size_pt[1])
        try:
            with _damage_named():
                page.insert_image(page.rect, stream=picture)
        except CorruptSourceError:
            self._document.delete_page(-1)
            raise
        (name,) = (image[7] for image in page.get_images())
        matrix = " ".join(f"{number:g}" for number in _placed(orientation, *size_pt))
        (content,) = page.get_contents()
        self._document.update_stream(content, f"q {matrix} cm /{name} Do Q".encode())

    def add(self, page_number: int, lines: Iterable[PlacedText]) -> None:
        """Lay lines over a page (1-based), in reading order."""
        lines = [line for line in lines if line.text.strip()]
        if not lines:
            return  # a page of an attached file is no page of this PDF
        with _damage_named():
            self._lay_over(self._document[page_number - 1], lines)

    def _lay_over(self, page: Page, lines: Sequence[PlacedText]) -> None:
        # Shares of the page as it is displayed → points of the page as it is stored.
        to_stored = (
            pymupdf.Matrix(page.rect.width, page.rect.height) * page.derotation_matrix * ~page.transformation_matrix
        )
        written = [self._written(line, to_stored) for line in lines]
        content = self._document.get_new_xref()
        self._document.update_object(content, "<<>>")
        self._document.update_stream(content, b"BT 3 Tr\n%s\nET" % b"\n".join(written))
        self._put_first(page.xref, content)
        self._name_font(page.xref)

    def save(self) -> None:
        """Write the font and the file."""
        if self._codes:
            self._write_font()
        with _damage_named():
            self._write_down()

    def close(self) -> None:
        """Close the file, whatever state it is in."""
        if not self._document.is_closed:
            self._document.close()

    def _opened(self) -> pymupdf.Document:
        document = pymupdf.open(self._path, filetype="pdf")
        if document.needs_pass and not document.authenticate(self._password or ""):
            document.close()
            raise EncryptedSourceError(
                "Its attached files are locked, and so no copy of it can be written.",
                hint="Give the password with --pdf-password.",
            )
        with suppress(*MUPDF_ERRORS):
            if total := count_pages(document):
                set_count(document, total)
        return document

    def _write_down(self) -> None:
        """Write what was added, and close the file."""
        if self._document.name and self._document.can_save_incrementally():
            keep = pymupdf.PDF_ENCRYPT_KEEP
            self._document.save(self._document.name, incremental=True, encryption=keep, no_new_id=True)
            self._document.close()
            return
        whole = self._path.with_name(self._path.name + ".whole")
        self._document.save(whole, no_new_id=True, deflate=True)
        self._document.close()
        whole.replace(self._path)

    def _written(self, line: PlacedText, to_stored: pymupdf.Matrix) -> bytes:
        """Return the operators that write one line from corner to corner, word by word."""
        text = _as_painted(" ".join(unicodedata.normalize("NFC", line.text).split()))
        first, second, third, fourth = (
            pymupdf.Point(line.corners[at], line.corners[at + 1]) * to_stored for at in range(0, 8, 2)
        )
        if len(text) > 1 and abs(fourth - first) > _TALL * abs(second - first):  # written downwards, or on its side
            first, second, third, fourth = second, third, fourth, first
        width, height = max(abs(second - first), _LEAST_PT), max(abs(fourth - first), _LEAST_PT)
        along, up = (third - fourth) / width, (first - fourth) / height
        straight, upright = _squared(along), _squared(up)
        base = fourth + up * (_DESCENT * height)
        words = text.split(" ")
        ends = line.words if len(line.words) == 2 * len(words) and text == line.text else _shared_out(words)
        space = _LEAST_SPACE * height / width
        operators = [f"/{_NAME} {height:.2f} Tf"]
        for at, (word, begin, end) in enumerate(zip(words, ends[::2], ends[1::2], strict=True)):
            following = (*ends, 1 + space)[2 * at + 2]
            behind = max(min(end, following - space), begin)
            length = (behind - begin) * width
            # Of a skewed line each word is level: poppler parts a word whose base line moves by half a point.
            start = base + along * (begin * width + length / 2) - straight * (length / 2)
            numbers = (straight.x, straight.y, upright.x, upright.y, start.x, start.y)
            operators.append(f"{' '.join(f'{number:.2f}' for number in numbers)} Tm")
            operators.append(self._stretched(word, length / height))
            if following <= 1:  # a space that reaches to the next word: MuPDF begins a new line at a wide gap
                operators.append(self._stretched(" ", (following - behind) * width / height))
        return "\n".join(operators).encode()

    def _stretched(self, text: str, length: float) -> str:
        """Return the operators that write a text of this length, in heights of its letters."""
        natural = max(sum(map(_advance, text)) / _EM, _LEAST_PT)
        codes = "".join(f"{self._codes.setdefault(char, len(self._codes) + 1):04X}" for char in text)
        return f"{max(1.0, 100 * length / natural):.2f} Tz <{codes}> Tj"

    def _put_first(self, page: int, content: int) -> None:
        """Make a stream the first of a page's contents: what follows finds the graphics state untouched."""
        kind, value = self._document.xref_get_key(page, "Contents")
        if kind == "xref" and (held := self._document.xref_object(int(value.split()[0]))).startswith("["):
            kind, value = "array", held
        others = value.strip("[]") if kind == "array" else value if kind == "xref" else ""
        self._document.xref_set_key(page, "Contents", f"[{content} 0 R {others}]")

    def _name_font(self, page: int) -> None:
        """Name the font in a page's resources, which may be inherited, or shared with other pages."""
        holder = page
        kind, value = self._document.xref_get_key(page, "Resources")
        while kind == "null" and (parent := self._document.xref_get_key(holder, "Parent"))[0] == "xref":
            holder = int(parent[1].split()[0])
            kind, value = self._document.xref_get_key(holder, "Resources")
        if holder != page or kind == "null":
            self._document.xref_set_key(page, "Resources", value if kind != "null" else "<<>>")
        owner, path = (int(value.split()[0]), "Font") if kind == "xref" else (page, "Resources/Font")
        kind, value = self._document.xref_get_key(owner, path)
        if kind == "xref":
            self._document.xref_set_key(int(value.split()[0]), _NAME, f"{self._font} 0 R")
        else:
            self._document.xref_set_key(owner, f"{path}/{_NAME}", f"{self._font} 0 R")

    def _write_font(self) -> None:
        """Write a font whose every character is empty, as wide as usual, and stands for one of Unicode."""
        document = self._document
        file, glyphs, unicode, descriptor, inner = (document.get_new_xref() for _ in range(5))
        outline = files("kobold_reader.pages").joinpath("invisible.ttf").read_bytes()
        for xref, content in (
            (file, outline),
            (glyphs, b"\0\1" * (len(self._codes) + 1)),
            (unicode, _to_unicode(list(self._codes)).encode()),
        ):
            document.update_object(xref, f"<</Length1 {len(outline)}>>" if xref == file else "<<>>")
            document.update_stream(xref, content)
        document.update_object(
            descriptor,
            f"<</Type/FontDescriptor/FontName/{_NAME}/Flags 4/FontBBox[0 -200 1000 800]/ItalicAngle 0/Ascent 800"
            f"/Descent -200/CapHeight 700/StemV 80/FontFile2 {file} 0 R>>",
        )
        widths = " ".join(str(_advance(char)) for char in self._codes)
        document.update_object(
            inner,
            f"<</Type/Font/Subtype/CIDFontType2/BaseFont/{_NAME}/CIDSystemInfo<</Registry(Adobe)/Ordering(Identity)"
            f"/Supplement 0>>/FontDescriptor {descriptor} 0 R/DW 500/W[1[{widths}]]/CIDToGIDMap {glyphs} 0 R>>",
        )
        document.update_object(
            self._font,
            f"<</Type/Font/Subtype/Type0/BaseFont/{_NAME}/Encoding/Identity-H/DescendantFonts[{inner} 0 R]"
            f"/ToUnicode {unicode} 0 R>>",
        )


def _placed(orientation: int, width: float, height: float) -> tuple[float, ...]:
    """Return the matrix that puts a picture of an EXIF orientation upright on a page of this size."""

    def shown(right: float, up: float) -> tuple[float, float]:
        down = 1 - up
        x, y = (right, down) if orientation <= 4 else (down, right)  # noqa: PLR2004  (5 to 8 lie on their side)
        x = 1 - x if orientation in {2, 3, 6, 7} else x
        y = 1 - y if orientation in {3, 4, 7, 8} else y
        return x * width, (1 - y) * height

    (x, y), (right_x, right_y), (up_x, up_y) = shown(0, 0), shown(1, 0), shown(0, 1)
    return right_x - x, right_y - y, up_x - x, up_y - y, x, y


def _to_unicode(chars: Sequence[str]) -> str:
    """Return the map from codes, counted from 1, to characters."""
    entries = [f"<{code:04X}> <{char.encode('utf-16-be').hex().upper()}>" for code, char in enumerate(chars, start=1)]
    blocks = [
        f"{len(some)} beginbfchar\n" + "\n".join(some) + "\nendbfchar"
        for some in (entries[at : at + _CODES] for at in range(0, len(entries), _CODES))
    ]
    return (
        "/CIDInit /ProcSet findresource begin\n12 dict begin\nbegincmap\n"
        "/CIDSystemInfo <</Registry (Adobe) /Ordering (UCS) /Supplement 0>> def\n"
        "/CMapName /Adobe-Identity-UCS def\n/CMapType 2 def\n"
        "1 begincodespacerange\n<0000> <FFFF>\nendcodespacerange\n"
        + "\n".join(blocks)
        + "\nendcmap\nCMapName currentdict /CMap defineresource pop\nend\nend\n"
    )


@functools.lru_cache(maxsize=4096)
def _advance(char: str) -> int:
    """Return how wide a character is in print, in thousandths of its height."""
    if unicodedata.combining(char):
        return 0
    if unicodedata.east_asian_width(char) in "WF":
        return _EM
    latin = _latin()
    return round(latin.glyph_advance(ord(char)) * _EM) if latin.has_glyph(ord(char)) else _EM // 2


@functools.cache
def _latin() -> pymupdf.Font:
    return pymupdf.Font("helv")


def _shared_out(words: Sequence[str]) -> tuple[float, ...]:
    """Return where words begin and end along a line that they fill, if its letters are as wide as usual."""
    ends = [0]
    for word in words:
        ends += [ends[-1] + sum(map(_advance, word)), ends[-1] + sum(map(_advance, word)) + _advance(" ")]
    return tuple(end / max(ends[-2], 1) for end in ends[:-1])


def _squared(direction: pymupdf.Point) -> pymupdf.Point:
    """Return the direction of the nearest edge of the page, where it is near; else the direction itself."""
    nearest = pymupdf.Point(round(direction.x), round(direction.y))
    return nearest if abs(nearest - direction) < _SKEW else direction


def _as_painted(text: str) -> str:
    """Return a line of Hebrew or Arabic from left to right, as PDFs hold it and viewers expect it; other text as it is.

    Numbers and words of other scripts keep their order, and marks stay behind the letters that they belong to.
    """
    kinds = [unicodedata.bidirectional(char) for char in text]
    if sum(kind in {"R", "AL"} for kind in kinds) <= sum(kind == "L" for kind in kinds):
        return text
    return "".join(reversed(_FORWARD.findall(text)))
