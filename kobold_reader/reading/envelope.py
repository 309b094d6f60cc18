"""Envelopes: JSON in which some models put the text of a page, such as `{"natural_text": "Dear Axel"}`.

An envelope holds text under a known name, and nothing else but what such models say about it. JSON with any other name
is taken for a page that shows JSON. One that was cut, or that JSON's rules forbid, is opened too: models write their
backslashes as they like.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

TEXT_KEYS: Final = (
    *("natural_text", "text_content", "text", "content", "transcription", "transcript", "transcribed_text"),
    *("extracted_text", "ocr_text", "ocr", "page_text", "full_text", "markdown", "md", "html", "output", "answer"),
)
"""The first that an object has holds its text."""
BESIDE_KEYS: Final = ("title", "heading", "header", "footer")
"""These hold text beside it."""
ABOUT_KEYS: Final = frozenset(
    {
        *("primary_language", "language", "lang", "is_rotation_valid", "rotation_correction", "is_table", "is_diagram"),
        *("bbox_2d", "bbox", "box_2d", "box", "boxes", "polygon", "poly", "quad", "points", "coordinates", "position"),
        *("label", "sub_label", "category", "type", "class", "role", "id", "index", "order", "reading_order", "line"),
        *("page", "page_number", "confidence", "score", "rotation", "angle", "level", "format", "status"),
        *("lines", "blocks", "items", "results", "result", "pages", "elements", "layout", "regions", "paragraphs"),
        *("text_lines", "text_blocks", "data", "document", "response"),
    }
)
_TEXT_KEYS: Final = frozenset((*TEXT_KEYS, *BESIDE_KEYS))
_TOKEN = re.compile(
    r'"(?P<string>(?:[^"\\]|\\.)*)(?P<closed>"|\\?\Z)|(?P<mark>[{}\[\],:])|(?P<bare>[^\s"{}\[\],:]+)', re.DOTALL
)
_ESCAPE = re.compile(r"\\u[dD][89abAB][\da-fA-F]{2}\\u[dD][c-fC-F][\da-fA-F]{2}|\\u[\da-fA-F]{4}|\\[\"\\/bfnrt]")
_ESCAPED: Final = {"b": "", "f": "\n", "n": "\n", "r": "", "t": "\t"}


@dataclass(slots=True)
class _Object:
    strings: dict[str, tuple[int, int]] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)


def open_envelope(text: str) -> tuple[str, list[int]] | None:
    r"""Return the text in an envelope, and where each of its characters was; None where the text is no envelope.

    >>> open_envelope('{"text": "a\\nb"}')
    ('a\nb', [10, 11, 13])
    """
    if not text.lstrip().startswith(("{", "[")):
        return None
    objects = _objects(text)
    if objects is None:
        return None
    spans: list[tuple[int, int]] = []
    for one in objects:
        if not one.keys - _TEXT_KEYS <= ABOUT_KEYS:
            return None
        main = next((key for key in TEXT_KEYS if key in one.strings), None)
        spans += [span for key, span in one.strings.items() if key == main or key in BESIDE_KEYS]
    if not spans and not any(_TEXT_KEYS & one.keys for one in objects):
        return None
    chars: list[str] = []
    origin: list[int] = []
    for start, end in sorted(spans):
        if chars:
            chars.append("\n")
            origin.append(start - 1)  # the quotation mark
        for char, at in _unescaped(text, start, end):
            chars.append(char)
            origin.append(at)
    return "".join(chars), origin


def _objects(text: str) -> list[_Object] | None:
    """Return the objects in JSON that may be cut; None where the text is none."""
    objects: list[_Object] = []
    open_ones: list[_Object | None] = []
    key: str | None = None
    end = 0
    for token in _TOKEN.finditer(text):
        if text[end : token.start()].strip() or (end and not open_ones):
            return None
        end = token.end()
        inner = open_ones[-1] if open_ones else None
        mark = token["mark"]
        if mark in {"{", "["}:
            open_ones.append(_Object() if mark == "{" else None)
            if mark == "{":
                objects.append(open_ones[-1] or _Object())
            key = None
        elif mark in {"}", "]"}:
            open_ones.pop()
            key = None
        elif mark == ",":
            key = None
        elif token["string"] is not None and inner is not None and key is None:
            key = token["string"]
            if token["closed"] == '"':
                inner.keys.add(key)
        elif token["string"] is not None and inner is not None and key is not None:
            inner.strings.setdefault(key, token.span("string"))
        elif not open_ones:
            return None
    return None if text[end:].strip() or not objects else objects


def _unescaped(text: str, start: int, end: int) -> Iterator[tuple[str, int]]:
    at = start
    for escape in _ESCAPE.finditer(text, start, end):
        yield from ((text[place], place) for place in range(at, escape.start()))
        code = escape.group()
        if code[1] == "u":
            char = bytes(int(pair, 16) for pair in re.findall("..", code.replace("\\u", ""))).decode(
                "utf-16-be", errors="replace"
            )
        else:
            char = _ESCAPED.get(code[1], code[1])
        yield from ((one, escape.start() + number) for number, one in enumerate(char))
        at = escape.end()
    yield from ((text[place], place) for place in range(at, end))
