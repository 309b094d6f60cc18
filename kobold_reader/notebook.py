"""What was read, to look at in Jupyter: pages beside their text, hits, two texts compared.

Needs nothing of Jupyter: what the functions return shows itself there, and is plain HTML as `str()`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import SequenceMatcher
from itertools import islice
from typing import Final

from llama_index.core.schema import BaseNode, MetadataMode
from typing_extensions import override

from kobold_reader.archive import Hit
from kobold_reader.errors import SourceError
from kobold_reader.html.text import Mark, escaped, marked_html
from kobold_reader.html.writer import STATUS_WORDS, page_head, page_said, page_view, picture_html
from kobold_reader.pages import ImageBudget, PageView, select
from kobold_reader.reading.ledger import Ledger
from kobold_reader.reading.open_file import OpenFile
from kobold_reader.reading.results import PageResult

__all__ = ["Html", "compare", "show_hits", "show_pages"]

# No colours of our own but the marks': the notebook's theme is light or dark, and its text must stay readable.
_STYLE: Final = """<style>
.kobold-reader { overflow-wrap: anywhere; }
.kobold-reader article {
  display: flex; flex-wrap: wrap; gap: 1.25em; align-items: flex-start; padding: .8em 0; border-top: 1px solid #8886; }
.kobold-reader figure { flex: none; margin: 0; }
.kobold-reader figure p { max-width: 18em; margin: 0; opacity: .75; }
.kobold-reader img { display: block; max-width: 100%; height: auto; border: 1px solid #8886; }
.kobold-reader .read { flex: 1 1 22em; min-width: 0; }
.kobold-reader h4, .kobold-reader .place { margin: 0 0 .5em; font-size: 1em; font-weight: 600; }
.kobold-reader .status, .kobold-reader .score { font-weight: 400; opacity: .75; }
.kobold-reader .text { font-family: Georgia, "Noto Serif", serif; line-height: 1.5; white-space: pre-wrap; }
.kobold-reader .caption .text { font-style: italic; }
.kobold-reader .said { border-left: 3px solid #8886; padding-left: .7em; }
.kobold-reader .said.failed, .kobold-reader .said.missing { border-color: #d0453a; }
.kobold-reader .said.truncated, .kobold-reader .said.looping { border-color: #d08a1e; }
.kobold-reader mark {
  padding: 0 .1em; border-radius: 2px; background: #e8b83059; color: inherit; text-decoration: underline dotted; }
.kobold-reader mark.first { background: #d0453a40; text-decoration: underline solid; }
.kobold-reader mark.second { background: #2f8f5b47; text-decoration: underline double; }
</style>"""
_TOKENS: Final = re.compile(r"\w+|\s+|[^\w\s]")
_THUMBNAIL_BYTES: Final = 60_000


class Html:
    """A piece of HTML that Jupyter shows as what it means.

    Args:
        html: Escaped already.
    """

    def __init__(self, html: str) -> None:
        self._html = f'{_STYLE}\n<div class="kobold-reader">\n{html}\n</div>'

    def _repr_html_(self) -> str:
        return self._html

    @override
    def __str__(self) -> str:
        return self._html

    @override
    def __repr__(self) -> str:
        return f"<Html, {len(self._html)} characters>"


def show_pages(pages: Iterable[PageResult | BaseNode], *, limit: int = 20, size_px: int = 300) -> Html:
    """Show pages beside their text: their picture, status, confidence, doubtful words, and errors.

    Args:
        pages: PageResults or Documents; of a generator no more than needed is taken.
        limit: Show at most so many.
        size_px: Longest side of the pictures, which are kept in the notebook: about 15 kB each at 300 px.
    """
    budget = ImageBudget(max_side_px=size_px, jpeg_quality=70, max_bytes=max(_THUMBNAIL_BYTES, size_px * size_px))
    rest = iter(pages)
    with _opened() as opened:
        shown = [_page(page, opened, budget) for page in islice(rest, limit)]
    if next(rest, None) is not None:
        shown.append(f"<p>Only the first {limit} are shown; <code>limit=</code> shows more.</p>")
    return Html("\n".join(shown) or "<p>No pages.</p>")


def show_hits(hits: Iterable[Hit]) -> Html:
    """Show what a search found: place, score, and the passage with the query's words marked."""
    shown = [f'<article><div class="read">{hit._repr_html_()}</div></article>' for hit in hits]
    return Html("\n".join(shown) or "<p>Nothing was found.</p>")


def compare(text_a: str, text_b: str, *, names: tuple[str, str] = ("first", "second")) -> Html:
    """Show two readings of one page side by side, with the words in which they differ marked.

    Which of the two is right, only the page tells. Spaces and line ends are not compared.

    Args:
        text_a: One text.
        text_b: The other.
        names: What stands above them.
    """
    words_a, words_b = (
        [found for found in _TOKENS.finditer(text) if not found[0].isspace()] for text in (text_a, text_b)
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
    count = len(places)
    said = "Word for word the same." if not count else f"They differ in {count} place{'' if count == 1 else 's'}."
    columns = "".join(
        f'<div class="read"><p class="place">{escaped(name)}</p>{marked_html(text, marks)}</div>'
        for name, text, marks in zip(names, (text_a, text_b), (marks_a, marks_b), strict=True)
    )
    return Html(f'<p class="differences">{said}</p><article>{columns}</article>')


def _span(words: list[re.Match[str]], first: int, end: int) -> tuple[int, int] | None:
    return (words[first].start(), words[end - 1].end()) if first < end else None


def _hint(text: str, span: tuple[int, int] | None) -> str:
    return f"the other has: {text[slice(*span)]}" if span else "missing in the other"


@contextmanager
def _opened() -> Iterator[OpenFile]:
    with Ledger(None) as ledger, OpenFile(ledger) as opened:
        yield opened


def _page(page: PageResult | BaseNode, opened: OpenFile, budget: ImageBudget) -> str:
    if isinstance(page, PageResult):
        name, head, said = page.source.name, page_head(page), page_said(page)
        picture = _picture(page, opened, budget, name) if page.page_number else ""
    else:
        name, head, said = _of_document(page)
        picture = _picture(page, opened, budget, name) if page.metadata.get("page_number") else ""
    place = f'<p class="place">{escaped(name)} · {head}</p>'
    return f'<article>\n<figure>{picture}</figure>\n<div class="read">{place}\n{said}</div>\n</article>'


def _of_document(document: BaseNode) -> tuple[str, str, str]:
    """Return a Document's name, head and text."""
    metadata = document.metadata
    status = metadata.get("page_status", "ok")
    head = f"Page {metadata.get('page_label', '?')}"
    confidence = metadata.get("confidence")
    words = [STATUS_WORDS.get(status, str(status)) if status != "ok" else f"read by {metadata.get('model', '?')}"]
    words += [f"confidence {confidence:.2f}"] if isinstance(confidence, float) else []
    head = f'{escaped(head)} <span class="status">{escaped(", ".join(words))}</span>'
    error = metadata.get("page_error")
    if error:
        return str(metadata.get("file_name", "")), head, f'<p class="said failed">{escaped(str(error))}</p>'
    return str(metadata.get("file_name", "")), head, marked_html(document.get_content(MetadataMode.NONE), [])


def _picture(page: PageResult | BaseNode, opened: OpenFile, budget: ImageBudget, name: str) -> str:
    try:
        view = page_view(page, opened, budget) if isinstance(page, PageResult) else _view(page, opened, budget)
    except SourceError as err:
        return f"<p>No picture: {escaped(err.message)}</p>"
    return picture_html(view, name)


def _view(document: BaseNode, opened: OpenFile, budget: ImageBudget) -> PageView:
    """Make the picture of a Document's page, turned as it was read.

    Raises:
        SourceError: Its file cannot be opened any more.
    """
    metadata = document.metadata
    selection = select([str(metadata["file_path"])])
    if not selection.files:
        raise next(iter(selection.errors), SourceError("The file is not there any more."))
    [source], number = selection.files, int(metadata["page_number"])
    file = opened.facts(source)
    turn_deg = 0
    if "model" in metadata:  # its picture was read
        stored_deg = opened.page_facts(source, file, number).rotation_deg
        turn_deg = (int(metadata.get("rotation_deg", 0)) - stored_deg) % 360
    return opened.page_images(source, file, number, budget, turn_deg).views[0]
