"""Places: what models write about where on the page something stands, in tokens of their own.

The tokens are taken out of the text. A place that is whole and whose scale is known is kept with the text that it
belongs to. Places in JSON are not kept: they are pixels of an image that only the model knows, or thousandths, by the
model's version.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kobold_reader.pages import PageView
from kobold_reader.reading.results import LineBox, corners_on_page

if TYPE_CHECKING:
    from kobold_reader.reading.cleaning import Traced

LABEL: Final = re.compile(
    r"title|sub_title|text|image|table|figure|header|footer|caption|image_caption|table_caption|figure_title|formula"
    r"|equation|list|page_number|reference|code|stamp|seal|table_footnote|aside_text",
    re.IGNORECASE,
)
"""Names of parts of a page; other words between the tokens of a reference are of the page."""

_NUMBERS = r"[\d\s.,()\[\]]{0,400}"
_PLACE = re.compile(
    rf"""
    (?:\A|(?<=\n))(?P<shown>(?:{LABEL.pattern})\[\[[\d\s.,\[\]]{{7,400}}\]\])(?=[ \t]*(?:\n|\Z))
    |(?:(?:<\|ref\|>(?P<ref>.*?)<\|/ref\|>
        |<\|object_ref_start\|>(?P<object_ref>.*?)<\|object_ref_end\|>
        |<ref>(?P<plain_ref>[^<>]*)</ref>(?=\s*<(?:box|quad)>))\s*)?
    (?:(?P<thousand_less_one><\|det\|>{_NUMBERS}(?:<\|/det\|>|\Z))
        |(?P<thousand><\|(?:box|quad)_start\|>{_NUMBERS}(?:<\|(?:box|quad)_end\|>|\Z)
            |<(?:box|quad|bbox)>(?=[^<]*,){_NUMBERS}(?:</(?:box|quad|bbox)>|\Z))
        |(?P<up_first><loc\d{{4}}>(?:\s?<loc\d{{4}}>)*)
        |(?P<five_hundred><(?P<element>(?!loc_)[a-z]\w*)>(?:<loc_\d{{1,3}}>)+)
        |(?P<after_text>(?:<loc_\d{{1,4}}>)+))
    |<\|(?:ref|object_ref_start)\|>(?P<bare_ref>.*?)<\|(?:/ref|object_ref_end)\|>
    |(?P<cut><\|?(?:det|ref|box_start|quad_start|object_ref_start|loc_?\d*)\|?\Z)
    """,
    re.DOTALL | re.VERBOSE,
)
_SCALES: Final = {
    "thousand_less_one": 999,  # DeepSeek-OCR
    "shown": 999,  # the same from a server that leaves special tokens out, as `text[[12, 30, 400, 60]]`
    "thousand": 1000,  # Qwen-VL, Qwen2-VL, InternVL
    "up_first": 1024,  # PaliGemma: y before x
    "five_hundred": 500,  # DocTags, as `<text><loc_12>…</text>`
    "after_text": 1000,  # Florence-2
}
_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?|(?<=<loc_)\d+|(?<=<loc)\d+")
_BOX, _QUAD = 4, 8


@dataclass(frozen=True, slots=True)
class TextPlace:
    """Where a part of an answer stands on the image."""

    start: int
    end: int
    """Of the answer, as the model wrote it."""
    shares: tuple[float, ...]
    """x and y of four corners, in shares of the image's width and height."""


@dataclass(frozen=True, slots=True)
class Found:
    """What was found in a text: its places, and the characters that say them."""

    places: tuple[TextPlace, ...]
    said: frozenset[int]
    breaks: frozenset[int]
    """Of the others, those in place of which a line ends."""


def find_places(text: str, is_code: Sequence[range] = ()) -> Found:
    """Find the places in a text, with the parts of the text that they belong to; `is_code` is left alone."""
    matches = [one for one in _PLACE.finditer(text) if not any(one.start() in lines for lines in is_code)]
    said: set[int] = set()
    breaks: set[int] = set()
    places: list[TextPlace] = []
    line_start = 0
    for number, found in enumerate(matches):
        following = matches[number + 1].start() if number + 1 < len(matches) else len(text)
        kind = next((name for name in _SCALES if found[name]), "")
        ref = next((name for name in ("ref", "object_ref", "plain_ref", "bare_ref") if found[name] is not None), "")
        is_label = not ref or LABEL.fullmatch(found[ref].strip())
        said |= set(range(*found.span()))
        span = _block_after(text, found.end(), following, is_line=not ref and kind != "shown")
        if not is_label:
            span = found.span(ref)
            said -= set(range(*span))
        elif kind == "after_text" and (before := text[line_start : found.start()].rpartition("\n")[2]).strip():
            span = found.start() - len(before), found.start()
            breaks |= {found.start()} if text[found.end() : found.end() + 1].strip() else set()
        elif kind == "five_hundred" and (end := text.find(f"</{found['element']}>", found.end(), following)) >= 0:
            span = found.end(), end
            behind = end + len(found["element"]) + 3
            said |= set(range(end, behind))
            breaks |= {end} if text[behind : behind + 1].strip() else set()
        elif not ref and text[: found.start()].rpartition("\n")[2].strip():
            span = 0, 0  # in the middle of a line, without a name: what it belongs to is not known
        said |= _blank_beside(text, found)
        if kind and (shares := _shares(found[kind], kind)) and text[slice(*span)].strip():
            places.append(TextPlace(*span, shares))
        line_start = found.end()
    return Found(tuple(places), frozenset(said - breaks), frozenset(breaks))


def _block_after(text: str, start: int, end: int, *, is_line: bool) -> tuple[int, int]:
    """Return the text that follows a place: to the end of the line, or to the next place."""
    lead = len(text[start:end]) - len(text[start:end].lstrip())
    line_end = text.find("\n", start + lead, end) if is_line else -1
    return start + lead, line_end if line_end >= 0 else end


def _blank_beside(text: str, found: re.Match[str]) -> set[int]:
    """Return the blank behind tokens that begin a line; they may fill it."""
    before = text[: found.start()].rpartition("\n")[2]
    is_first, kept = not before.strip(), found["ref"] or found["object_ref"] or found["plain_ref"] or found["bare_ref"]
    if not is_first or (kept and not LABEL.fullmatch(kept.strip())):
        return set()
    blank = re.compile(r"[ \t]*\n?").match(text, found.end())
    return set(range(*blank.span())) if blank else set()


def _shares(tokens: str, kind: str) -> tuple[float, ...] | None:
    """Return the corners that tokens name; None where they are not whole."""
    scale = _SCALES[kind]
    numbers = [float(number) / scale for number in _NUMBER.findall(tokens)]
    if not numbers or max(numbers) > 1 or len(numbers) % _BOX:
        return None
    if kind == "up_first":
        numbers = [numbers[at ^ 1] for at in range(len(numbers))]
    is_quad = len(numbers) == _QUAD and ("quad" in tokens or kind == "after_text")
    if is_quad:
        return tuple(numbers)
    left, top, right, bottom = min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])
    ordered = all(numbers[at] < numbers[at + 2] for at in range(len(numbers)) if at % _BOX < 2)  # noqa: PLR2004
    return (left, top, right, top, right, bottom, left, bottom) if ordered else None


def boxes_of(page: Traced, view: PageView) -> tuple[LineBox, ...]:
    """Return the places in a cleaned answer as boxes on the page; the model saw `view`."""
    boxes: list[LineBox] = []
    for place in sorted(page.places, key=lambda one: one.start):
        start, end = bisect_left(page.origin, place.start), bisect_left(page.origin, place.end)
        part = page.text[start:end]
        start, end = start + len(part) - len(part.lstrip()), end - len(part) + len(part.rstrip())
        if end > start and (not boxes or start >= boxes[-1].end):
            boxes.append(LineBox(start, end, corners_on_page(place.shares, view.box)))
    return tuple(boxes)
