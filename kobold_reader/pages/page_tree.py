"""The number of pages in a PDF by its page tree: MuPDF believes the count that the file gives, which may be wrong."""

from __future__ import annotations

import re
from typing import Any

_REFERENCE = re.compile(r"(\d+) \d+ R")
_MAX_DEPTH = 64


def count_pages(document: Any) -> int | None:
    """The number of pages that the tree holds; None where it holds none, or goes in circles."""
    root = _REFERENCE.fullmatch(document.xref_get_key(document.pdf_catalog(), "Pages")[1])
    return _count(document, int(root[1]), set(), 0) or None if root else None


def set_count(document: Any, count: int) -> None:
    """Correct the file's own count where it is another, in memory only."""
    root = _REFERENCE.fullmatch(document.xref_get_key(document.pdf_catalog(), "Pages")[1])
    if root and document.xref_get_key(int(root[1]), "Count")[1] != str(count):
        document.xref_set_key(int(root[1]), "Count", str(count))


def _count(document: Any, node: int, seen: set[int], depth: int) -> int | None:
    """The pages below a node; None where it was seen before, or one of its children is no reference."""
    kids = _kids(document, node)
    if node in seen or depth > _MAX_DEPTH or kids is None:
        return None
    seen.add(node)
    # A hundred thousand pages are not looked at one by one where they are just as many as is said.
    if str(len(kids)) == document.xref_get_key(node, "Count")[1] and not any(
        _is_node(document, kid) for kid in (*kids[:1], *kids[-1:])
    ):
        return len(kids)
    counts = [_count(document, kid, seen, depth + 1) if _is_node(document, kid) else 1 for kid in kids]
    return None if None in counts else sum(count or 0 for count in counts)


def _kids(document: Any, node: int) -> list[int] | None:
    kind, value = document.xref_get_key(node, "Kids")
    if kind == "xref":
        value = document.xref_object(int(value.split()[0]), compressed=True)
    kids = [int(number) for number in _REFERENCE.findall(value)]
    return None if _REFERENCE.sub("", value).strip("[] \n\r\t") else kids


def _is_node(document: Any, number: int) -> bool:
    return 0 < number < int(document.xref_length()) and bool(document.xref_get_key(number, "Kids")[0] != "null")
