"""Envelopes: JSON in which some models put the text of a page, such as `{"natural_text": "Dear Axel"}`.

An envelope holds text under a known name, and nothing else but what such models say about it. JSON with any other name
is taken for a page that shows JSON. One that was cut, or that JSON's rules forbid, is opened too: models write their
backslashes as they like.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

TEXT_KEYS: Final = (
    *("natural_text", "text_content", "text", "content", "transcription", "transcript", "transcribed_text"),
    *("extracted_text", "ocr_text", "ocr", "page_text", "full_text", "markdown", "md", "html", "output", "answer"),
)
"""The first that an object has holds its text."""
BESIDE_KEYS: Final = ("title", "heading", "header", "footer")
"""These hold text beside it."""
LESSER_KEYS: Final = ("lines", "paragraphs", "text_lines", "text_blocks", "blocks", "label")
"""These hold it where no key of the others is: a list of strings, or what stands in a box."""
BOX_KEYS: Final = frozenset({"bbox_2d", "bbox", "box_2d"})
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
_PYTHON = re.compile(r"\s*[{\[][\s{\[]*'")
"""JSON as Python prints it, with quotation marks of either kind."""
_PYTHON_TOKEN = re.compile(
    r"""(?P<quote>["'])(?P<string>(?:(?!(?P=quote))[^\\]|\\.)*)(?P<closed>(?P=quote)|\\?\Z)"""
    r"""|(?P<mark>[{}\[\],:])|(?P<bare>[^\s"'{}\[\],:]+)""",
    re.DOTALL,
)
_STRING = r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""
_STRINGS = re.compile(rf"\s*\[\s*{_STRING}(?:\s*,\s*{_STRING})+\s*,?\s*\]\s*", re.DOTALL)
"""A list of lines and nothing else."""
_ESCAPE = re.compile(
    r"\\u[dD][89abAB][\da-fA-F]{2}\\u[dD][c-fC-F][\da-fA-F]{2}|\\u[\da-fA-F]{4}|\\[\"'\\/nrt]|\\[bf](?![a-z])"
)
"""Before a letter, `\\b` and `\\f` begin a command of LaTeX, such as `\\frac`."""
_ESCAPED: Final = {"b": "", "f": "\n", "n": "\n", "r": "", "t": "\t"}


@dataclass(slots=True)
class _Object:
    strings: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)


def open_envelope(text: str) -> tuple[str, list[int]] | None:
    r"""Return the text in an envelope, and where each of its characters was; None where the text is no envelope.

    >>> open_envelope('{"text": "a\\nb"}')
    ('a\nb', [10, 11, 13])
    """
    if not text.lstrip().startswith(("{", "[")):
        return None
    if _STRINGS.fullmatch(text):
        return _joined(text, [(one.start() + 1, one.end() - 1) for one in re.finditer(_STRING, text, re.DOTALL)])
    objects = _objects(text)
    if objects is None:
        return None
    if not all(one.keys - _TEXT_KEYS <= ABOUT_KEYS for one in objects):
        return None
    names_text = any(_TEXT_KEYS & one.keys for one in objects)
    spans: list[tuple[int, int]] = []
    for one in objects:
        lesser = LESSER_KEYS if one.keys & BOX_KEYS else LESSER_KEYS[:-1]
        main = next((key for key in TEXT_KEYS if key in one.strings), None)
        for key, found in one.strings.items():
            if key == main or key in BESIDE_KEYS or (key in lesser and not names_text):
                spans += found
    if not spans and not names_text:
        return None
    return _joined(text, sorted(spans))


def _joined(text: str, spans: Sequence[tuple[int, int]]) -> tuple[str, list[int]]:
    chars: list[str] = []
    origin: list[int] = []
    for start, end in spans:
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
    open_ones: list[tuple[_Object | None, str | None]] = []
    """Objects, and None for lists; with the key in the object around, under which it stands."""
    key: str | None = None
    end = 0
    for token in (_PYTHON_TOKEN if _PYTHON.match(text) else _TOKEN).finditer(text):
        if text[end : token.start()].strip() or (end and not open_ones and token["mark"] not in {"{", ","}):
            return None
        end = token.end()
        inner, list_key = open_ones[-1] if open_ones else (None, None)
        mark = token["mark"]
        if mark == "{":
            objects.append(_Object())
            open_ones.append((objects[-1], None))
            key = None
        elif mark == "[":
            open_ones.append((None, key))
        elif mark in {"}", "]"}:
            open_ones.pop()
            key = None
        elif mark == ",":
            key = None
        elif token["string"] is not None and inner is not None and key is None:
            key = token["string"].lower()
            if token["closed"] in {'"', "'"}:
                inner.keys.add(key)
        elif token["string"] is not None and inner is not None and key is not None:
            inner.strings.setdefault(key, [token.span("string")])
        elif (
            token["string"] is not None and list_key is not None and len(open_ones) > 1 and (outer := open_ones[-2][0])
        ):
            outer.strings.setdefault(list_key, []).append(token.span("string"))
        elif not open_ones and mark != ",":
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
