"""Can a page's own text stand for what is seen on it?

In doubt it cannot: a page asked for in vain costs one request, a page whose text is a stamp or the
garbage of a broken font is lost to every search.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import pymupdf

from kobold_reader.pages.image import LIBRARY_ERRORS
from kobold_reader.pages.values import TextLayer

__all__ = ["PATHS", "PageText", "is_garbled", "read_text", "verdict"]

PATHS: Final = frozenset({"fill-path", "stroke-path"})

Box: TypeAlias = tuple[float, float, float, float]
Page: TypeAlias = Any

_MUPDF_ERRORS: Final = (pymupdf.mupdf.FzErrorBase, *LIBRARY_ERRORS)
_TEXT_FLAGS: Final = pymupdf.TEXT_PRESERVE_WHITESPACE | pymupdf.TEXT_MEDIABOX_CLIP
_HIDDEN: Final = 3  # text render mode: neither fill nor stroke
_MAX_UNICODE: Final = 0x10FFFF

# Letters that a text layer needs before it may stand for the page: one where it is all that is
# painted, and more, the more of the page is image, for a stamp or a library's footer on a scan is
# not its text. Stamped scans have up to 70 letters, pages with as much picture as text over 300.
_MIN_LETTERS: Final = 20
_LETTERS_PER_COVERAGE: Final = 600
_MAX_GARBLED: Final = 0.05
_MEANINGLESS: Final = frozenset({"Cc", "Co", "Cn", "Cs"})

# Letters drawn as outlines: many small paths, or few of many curves. A glyph has about ten.
_MANY_PATHS: Final = 200
_GLYPH_PT: Final = 24.0
_FEW_LETTERS: Final = 400
_MAX_PATHS_LOOKED_AT: Final = 3_000
_MANY_CURVES: Final = 400
_CURVES_PER_LETTER: Final = 10

# A font without a true table of its characters gives others: shifted by a constant, or permuted.
# Vowels are 0.29 to 0.50 of any 200 letters in each of 20 languages written in Latin letters, and of
# till receipts, the least wordy pages there are; never under 0.25 of 100 letters. Shifted text has
# 0.00 to 0.26, most of it under 0.2. Signs are at most 0.20 of all characters there, and 0.64 and
# more in text shifted into the signs, as by the common 29. Of 44 real texts, each shifted by 8
# constants, 351 of 352 are found so, and none of the 44 is called garbled.
_VOWELS: Final = frozenset("aeiouyæœøıəɔ")
_MIN_VOWELS: Final = ((100, 0.25), (40, 0.15))  # of so many letters, at least this share
_MAX_SIGNS: Final = 0.45
_MIN_CHARACTERS: Final = 40
# Words with a sign or a capital inside: at most 0.07 of all there, over 0.12 in most shifted text.
_ODD_WORD: Final = re.compile(r"\w[^\W\d]*(?:[^\w\s'’./,:@&+%()–—-]\w|[a-zß-öø-ÿ](?=[A-ZÀ-ÖØ-Þ]))")
_MAX_ODD_WORDS: Final = 0.12
_MIN_WORDS: Final = 12
_LEADERS: Final = re.compile(r"(\S)(?:\s?\1){2,}")  # dotted lines in a table of contents, rules


@dataclass(frozen=True, slots=True)
class PageText:
    """The text of a page, and what it takes to judge it.

    Attributes:
        text: All of it, hidden text included.
        visible: Letters and digits that are painted and not painted over.
        garbled: Visible characters that mean nothing: control codes, private use.
        outlines: Paths on the page of the size of a letter.
        curves: In all paths, where letters are few enough for that to matter.
        is_alone: Nothing else is painted.
    """

    text: str
    visible: int
    garbled: int
    outlines: int
    curves: int
    is_alone: bool

    @property
    def has_visible(self) -> bool:
        """Some letter of it is seen."""
        return self.visible > 0


def read_text(page: Page, painted: Sequence[tuple[str, Any]], images: Sequence[tuple[int, Any]]) -> PageText:
    """Read a page's text layer. One that cannot be read counts as none: the page's image remains.

    Args:
        page: A `pymupdf.Page`.
        painted: What is painted, in order, with its boxes.
        images: Of these, the images: their place in that order, and their boxes.
    """
    paths = [box for what, box in painted if what in PATHS]
    outlines = sum(1 for box in paths if _is_glyph_sized(box))
    try:
        text = str(page.get_text("text", flags=_TEXT_FLAGS)).replace("\x00", "").strip()
        spans = page.get_texttrace()
    except _MUPDF_ERRORS:
        return PageText("", 0, 0, outlines, 0, is_alone=False)
    visible = garbled = 0
    for span in spans:
        if span["type"] == _HIDDEN or span["opacity"] == 0:
            continue
        if any(order > span["seqno"] and _inside(span["bbox"], box) for order, box in images):
            continue  # a scan was laid over it
        for code, *_ in span["chars"]:
            character = chr(code) if 0 <= code <= _MAX_UNICODE else "\ufffd"
            if character.isalnum():
                visible += 1
            elif character == "\ufffd" or unicodedata.category(character) in _MEANINGLESS:
                garbled += 1
    curves = _curves(page) if visible < _FEW_LETTERS and 0 < len(paths) <= _MAX_PATHS_LOOKED_AT else 0
    is_alone = all(what.endswith("-text") for what, _ in painted)
    return PageText(text, visible, garbled, outlines, curves, is_alone)


def verdict(found: PageText, coverage: float) -> TextLayer:
    """What a text layer is worth on a page of which this share is under images."""
    if not found.text:
        return "none"
    if found.garbled > _MAX_GARBLED * (found.visible + found.garbled) or is_garbled(found.text):
        return "poor"
    if found.outlines > max(_MANY_PATHS, 3 * found.visible):
        return "poor"  # the text layer is a caption or a watermark
    if found.curves > max(_MANY_CURVES, _CURVES_PER_LETTER * found.visible):
        return "poor"
    needed = 1 if found.is_alone else _MIN_LETTERS + _LETTERS_PER_COVERAGE * coverage
    return "good" if found.visible >= needed else "poor"


def is_garbled(text: str) -> bool:
    """Whether a font gave other characters than it shows. Short texts and other scripts pass."""
    plain = [character for character in _LEADERS.sub(" ", text) if not character.isspace()]
    letters = [character for character in plain if character.isalpha()]
    signs = sum(1 for character in plain if not character.isalnum() and unicodedata.category(character)[0] != "M")
    if len(plain) >= _MIN_CHARACTERS and signs > _MAX_SIGNS * len(plain):
        return True
    bases = [unicodedata.normalize("NFKD", letter.casefold())[0] for letter in letters]
    latin = [base for base in bases if base < "\u0250"]
    if len(latin) * 2 < len(letters):
        return False
    words = [word for word in text.split() if len(word) > 2]  # noqa: PLR2004 - two signs are no word
    if len(words) >= _MIN_WORDS and sum(map(_is_odd, words)) > _MAX_ODD_WORDS * len(words):
        return True
    vowels = sum(base in _VOWELS for base in latin)
    least = next((share for count, share in _MIN_VOWELS if len(latin) >= count), 0.0)
    return vowels < least * len(latin)


def _is_odd(word: str) -> bool:
    return _ODD_WORD.search(word) is not None


def _is_glyph_sized(box: Box) -> bool:
    return 0 < box[3] - box[1] <= _GLYPH_PT and 0 < box[2] - box[0] <= _GLYPH_PT


def _inside(box: Box, outer: Box) -> bool:
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return bool(outer[0] <= x <= outer[2] and outer[1] <= y <= outer[3])


def _curves(page: Page) -> int:
    try:
        return sum(1 for drawing in page.get_cdrawings() for item in drawing["items"] if item[0] == "c")
    except _MUPDF_ERRORS:
        return 0
