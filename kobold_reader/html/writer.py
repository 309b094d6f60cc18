"""One HTML file of page images beside what was read of them, written page by page.

Everything is in the file: its policy forbids the browser to load anything, or to run anything.
"""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from importlib.resources import files
from pathlib import PurePosixPath
from types import TracebackType
from typing import IO, Final, Self

from kobold_reader.errors import KoboldReaderError, SourceError
from kobold_reader.html.text import escaped, reading_html
from kobold_reader.pages import ImageBudget, PageView
from kobold_reader.reading.open_file import OpenFile
from kobold_reader.reading.results import PageResult, Reading, Status
from kobold_reader.reading.tags import keywords_of

__all__ = ["STATUS_SENTENCES", "STATUS_WORDS", "HtmlWriter", "page_head", "page_said", "page_view", "picture_html"]

PICTURE: Final = ImageBudget(max_side_px=900, jpeg_quality=70, max_bytes=150_000)
"""Large enough to compare a doubtful word with, small enough for a few hundred pages in one file."""

_POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STATUS_WORDS: Final[dict[Status, str]] = {
    "ok": "read",
    "text_layer": "the file’s own text",
    "blank": "blank",
    "no_text": "no lettering",
    "truncated": "cut off",
    "looping": "went in circles",
    "failed": "failed",
}
STATUS_SENTENCES: Final[dict[Status, str]] = {
    "blank": "Nothing is on this page.",
    "no_text": "No lettering was found on this page.",
    "truncated": "The answer was cut off here; the rest of the page is missing.",
    "looping": "From here the answer went round in circles; the rest of the page is missing.",
}
_HEADINGS: Final = {"ocr": "", "caption": "Image description"}


class HtmlWriter:
    """Writes PageResults as they come; use it in a `with` statement, which writes the end.

    Args:
        out: Text stream; nothing is read back.
        title: Of the whole.
        opened: Opens the files for their pictures; closed by the caller.
    """

    def __init__(self, out: IO[str], title: str, opened: OpenFile) -> None:
        self._out = out
        self._title = title
        self._opened = opened
        self._file: str | None = None
        self._counts: Counter[Status] = Counter()
        self._doubtful_words = 0
        self._failed: list[tuple[str, str]] = []

    def __enter__(self) -> Self:
        style = (files("kobold_reader.html") / "style.css").read_text(encoding="utf-8")
        self._out.write(
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<meta name="referrer" content="no-referrer">\n<meta name="generator" content="kobold-reader">\n'
            f"<title>{escaped(self._title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
            f'<header class="top"><h1>{escaped(self._title)}</h1>\n'
            '<p class="facts">Each page beside what was read of it. Models misread, and invent: look at the page '
            'before you quote it. <a href="#end">What became of all pages</a></p></header>\n<main>\n'
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            return  # the file is not kept
        counts = ", ".join(f"{count} {STATUS_WORDS[status]}" for status, count in self._counts.items())
        total = sum(self._counts.values())
        self._out.write("</section>\n" if self._file is not None else "")
        self._out.write(
            f'</main>\n<footer id="end"><p>{total} page{"" if total == 1 else "s"}: {counts or "none"}.</p>\n'
        )
        if self._failed:
            links = "".join(f'<li><a href="#{anchor}">{escaped(name)}</a></li>' for anchor, name in self._failed)
            self._out.write(f"<p>Not read, and tried again by every run:</p><ul>{links}</ul>\n")
        if self._doubtful_words:
            self._out.write(
                f"<p><mark>Marked</mark> words are doubtful ({self._doubtful_words} in all); what else they may be is "
                "shown under the pointer, or at a tap.</p>\n"
            )
        self._out.write("</footer>\n</body>\n</html>\n")

    def write(self, result: PageResult) -> None:
        """Write one page, or a file that cannot be opened."""
        self._begin_file(result)
        anchor = f"p{sum(self._counts.values()) + 1}" if result.page_number else f"f{len(self._failed) + 1}"
        if result.page_number:
            self._counts[result.status] += 1
        if result.status == "failed":
            self._failed.append((anchor, f"{result.source.name}{_page(result)}"))
        self._doubtful_words += sum(len(reading.doubtful) for reading in result.readings.values())
        body = f"<h3>{page_head(result)}</h3>\n{page_said(result)}"
        picture = f'<figure class="sheet">{self._picture(result)}</figure>\n' if result.page_number else ""
        self._out.write(f'<article id="{anchor}">\n{picture}<div class="read">\n{body}</div>\n</article>\n')
        self._out.flush()

    def _begin_file(self, result: PageResult) -> None:
        if result.source.uri == self._file:
            return
        self._out.write("</section>\n" if self._file is not None else "")
        self._file = result.source.uri
        folder = PurePosixPath(result.source.folder.replace("\\", "/")).name
        place = f'<span class="folder">{escaped(folder)} / </span>' if folder else ""
        self._out.write(f"<section>\n<h2>{place}{escaped(result.source.name)}</h2>\n")

    def _picture(self, result: PageResult) -> str:
        try:
            view = page_view(result, self._opened, PICTURE)
        except SourceError as err:
            return f'<div class="nothing">The page cannot be shown: {escaped(err.message)}</div>'
        return picture_html(view, f"{result.source.name}{_page(result)}")


# ── the picture ──────────────────────────────────────────────────────────────────────────────────


def page_view(result: PageResult, opened: OpenFile, budget: ImageBudget) -> PageView:
    """Make the picture of a page as it was read: turned as it was turned then.

    Raises:
        SourceError: The page or its file cannot be opened any more.
    """
    source, number = result.source, result.page_number
    file = opened.facts(source)
    reading = next((one for one in result.readings.values() if one.view_sizes), None)
    turn_deg = 0
    if reading:
        turn_deg = (reading.rotation_deg - opened.page_facts(source, file, number).rotation_deg) % 360
    return opened.page_images(source, file, number, budget, turn_deg).views[0]


def picture_html(view: PageView, alt: str) -> str:
    """Return a picture that is all in the HTML."""
    data = b64encode(view.image).decode("ascii")
    return (
        f'<img src="data:{view.mime};base64,{data}" alt="{escaped(alt)}" width="{view.width_px}" '
        f'height="{view.height_px}">'
    )


# ── what was read ────────────────────────────────────────────────────────────────────────────────


def page_said(result: PageResult) -> str:
    """Return what was read of a page, task by task, or why it failed."""
    if result.error:
        return _sentence("failed", _why(result.error))
    parts = []
    for task in result.tasks:
        reading = result.readings.get(task)
        if reading is None:
            parts.append(_sentence("missing", f"{task}: {_why(result.errors[task])}"))
            continue
        parts.append(_tags(reading) if task == "tags" else _reading(reading, result.tasks))
    return "".join(parts)


def page_head(result: PageResult) -> str:
    """Return a page's number and what became of it, in a line."""
    name = "The file" if not result.page_number else f"Page {result.page_number}"
    if result.page_number and result.page_label not in {"", str(result.page_number)}:
        name += f" ({result.page_label})"
    first = result.readings.get(result.tasks[0])
    model = f"read by {first.model}" if first and first.model else ""
    said = [model] if model and result.status == "ok" else [STATUS_WORDS[result.status], *([model] if model else [])]
    said += [f"confidence {first.confidence:.2f}"] if first and first.confidence is not None else []
    doubtful = sum(len(reading.doubtful) for reading in result.readings.values())
    said += [f"{doubtful} doubtful word{'' if doubtful == 1 else 's'}"] if doubtful else []
    return f'{escaped(name)} <span class="status {result.status}">{escaped(", ".join(said))}</span>'


def _page(result: PageResult) -> str:
    return f", page {result.page_number}" if result.page_number else ""


def _reading(reading: Reading, tasks: tuple[str, ...]) -> str:
    heading = _HEADINGS.get(reading.task, reading.task)
    shown = f"<h4>{escaped(heading)}</h4>\n" if heading and tasks[0] != reading.task and reading.text else ""
    text = f"{reading_html(reading)}\n" if reading.text else ""
    sentence = STATUS_SENTENCES.get(reading.status)
    if reading.task != tasks[0] and not reading.text:
        sentence = None  # once is enough for an empty page
    said = _sentence(reading.status, sentence) if sentence else ""
    return f'<div class="{escaped(reading.task)}">\n{shown}{text}{said}</div>\n'


def _tags(reading: Reading) -> str:
    sentence = reading.text.partition("\n\nKeywords:")[0] if "\n\nKeywords:" in reading.text else ""
    chips = "".join(f"<li>{escaped(tag)}</li>" for tag in keywords_of(reading.text))
    return (f'<p class="caption">{escaped(sentence)}</p>\n' if sentence else "") + (
        f'<ul class="tags">{chips}</ul>\n' if chips else ""
    )


def _sentence(kind: str, text: str) -> str:
    return f'<p class="said {kind}">{escaped(text)}</p>\n'


def _why(error: KoboldReaderError) -> str:
    return f"{error.message} {error.hint or ''}".strip()
