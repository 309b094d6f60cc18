"""For Jupyter: pages beside their text, hits, and two texts compared.

Jupyter need not be installed: it shows the values that the functions return, and `str()` gives their HTML.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher
from itertools import islice
from typing import Any

from llama_index.core.schema import BaseNode, MetadataMode
from markupsafe import Markup
from typing_extensions import override

from kobold_reader.archive import Hit
from kobold_reader.errors import SourceError
from kobold_reader.html.pages import STATUS_WORDS, page_head, page_picture, result_picture, templates
from kobold_reader.html.text import Mark, marked_html
from kobold_reader.pages import ImageBudget, PageView, as_uri, file_at
from kobold_reader.reading.ledger import Ledger
from kobold_reader.reading.open_file import OpenFile
from kobold_reader.reading.results import PageResult

__all__ = ["Html", "compare", "show_hits", "show_pages"]

_TOKEN = re.compile(r"\w+|\s+|[^\w\s]")


class Html:
    """A piece of HTML that Jupyter shows; `content` is escaped already."""

    def __init__(self, content: Markup) -> None:
        self._html = str(_macros("notebook.html").shown(content))

    def _repr_html_(self) -> str:
        return self._html

    @override
    def __str__(self) -> str:
        return self._html

    @override
    def __repr__(self) -> str:
        return f"<Html, {len(self._html)} characters>"


def _macros(template: str) -> Any:
    return templates().get_template(template).module


def show_pages(pages: Iterable[PageResult | BaseNode], *, limit: int = 20, size_px: int = 300) -> Html:
    """Show pages beside their text: their picture, status, confidence, doubtful words, and errors.

    Args:
        pages: PageResults or Documents; from a generator at most one more than `limit` is taken.
        limit: The most pages that are shown.
        size_px: Longest side of the pictures, which the notebook's file keeps: about 15 kB each at 300 px.
    """
    budget = _budget(size_px)
    rest = iter(pages)
    with Ledger(None) as ledger, OpenFile(ledger) as opened:
        shown = [_article(page, opened, budget) for page in islice(rest, limit)]
    if next(rest, None) is not None:
        shown.append(_macros("notebook.html").limited(limit))
    return Html(Markup("\n").join(shown) or Markup("<p>No pages.</p>"))


def show_hits(hits: Iterable[Hit], *, size_px: int = 160) -> Html:
    """Show the hits of a search: their page, place, score, and the passage with the query's words marked.

    Args:
        hits: Of `Archive.search`.
        size_px: Longest side of the pictures, about 5 kB each at 160 px; 0: none.
    """
    with Ledger(None) as ledger, OpenFile(ledger) as opened:
        shown = [(hit, *_hit_picture(hit, opened, size_px)) for hit in hits]
    return Html(_macros("notebook.html").hits(shown))


def compare(text_a: str, text_b: str, *, names: tuple[str, str] = ("first", "second")) -> Html:
    """Show two readings of one page side by side, with the words in which they differ marked.

    Only the page shows which of the two is right. Spaces and line ends are not compared.
    """
    words_a, words_b = (
        [found for found in _TOKEN.finditer(text) if not found[0].isspace()] for text in (text_a, text_b)
    )
    matcher = SequenceMatcher(None, [word[0] for word in words_a], [word[0] for word in words_b], autojunk=False)
    places = [place for place in matcher.get_opcodes() if place[0] != "equal"]
    marks_a, marks_b = [], []
    for _, start_a, end_a, start_b, end_b in places:
        span_a, span_b = _span(words_a, start_a, end_a), _span(words_b, start_b, end_b)
        if span_a:
            marks_a.append(Mark(*span_a, "first", _hint(text_b, span_b)))
        if span_b:
            marks_b.append(Mark(*span_b, "second", _hint(text_a, span_a)))
    columns = list(zip(names, (marked_html(text_a, marks_a), marked_html(text_b, marks_b)), strict=True))
    return Html(_macros("notebook.html").compared(len(places), columns))


def _span(words: list[re.Match[str]], first: int, end: int) -> tuple[int, int] | None:
    return (words[first].start(), words[end - 1].end()) if first < end else None


def _hint(text: str, span: tuple[int, int] | None) -> str:
    return f"the other has: {text[slice(*span)]}" if span else "missing in the other"


def _article(page: PageResult | BaseNode, opened: OpenFile, budget: ImageBudget) -> Markup:
    picture, problem = None, ""
    try:
        if isinstance(page, PageResult):
            name, head, text = page.source.name, page_head(page), _macros("pages.html").texts(page)
            picture = result_picture(page, opened, budget) if page.page_number else None
        else:
            name, head, text = str(page.metadata.get("file_name", "")), _document_head(page), _document_text(page)
            picture = _known_picture(page.metadata, opened, budget) if page.metadata.get("page_number") else None
    except SourceError as err:
        problem = err.message
    return Markup(_macros("notebook.html").article(name, head, text, picture, problem))  # noqa: S704


def _document_head(document: BaseNode) -> dict[str, Any]:
    metadata = document.metadata
    status = metadata.get("page_status", "ok")
    facts = [f"read by {metadata.get('model', '?')}" if status == "ok" else STATUS_WORDS.get(status, str(status))]
    if isinstance(confidence := metadata.get("confidence"), float):
        facts.append(f"confidence {confidence:.2f}")
    return {"name": f"Page {metadata.get('page_label', '?')}", "status": status, "facts": facts}


def _document_text(document: BaseNode) -> Markup:
    if error := document.metadata.get("page_error"):
        return Markup(_macros("notebook.html").error(error))  # noqa: S704
    return marked_html(document.get_content(MetadataMode.NONE), [])


def _budget(size_px: int) -> ImageBudget:
    return ImageBudget(max_side_px=size_px, jpeg_quality=70, max_bytes=max(60_000, size_px * size_px))


def _hit_picture(hit: Hit, opened: OpenFile, size_px: int) -> tuple[PageView | None, str]:
    """Return the picture of a hit's page, or why there is none."""
    if not size_px:
        return None, ""
    try:
        return _known_picture(hit.metadata, opened, _budget(size_px)), ""
    except SourceError as err:
        return None, err.message


def _known_picture(metadata: Mapping[str, Any], opened: OpenFile, budget: ImageBudget) -> PageView:
    """Make the picture of a page, turned as it was read, by the metadata of its Document."""
    source = file_at(as_uri(str(metadata["file_path"])))
    rotation_deg = int(metadata.get("rotation_deg", 0)) if "model" in metadata else None  # else no picture was read
    return page_picture(opened, source, int(metadata["page_number"]), budget, rotation_deg)
