"""Pages beside their text: templates, pictures, and an HTML file that is written page by page."""

from __future__ import annotations

import functools
from base64 import b64encode
from collections import Counter
from pathlib import PurePosixPath
from typing import IO, Any, Self

from jinja2 import Environment, PackageLoader, StrictUndefined

from kobold_reader.errors import KoboldReaderError, SourceError
from kobold_reader.html.text import reading_html, without_controls
from kobold_reader.pages import ImageBudget, PageView, SourceFile
from kobold_reader.reading.open_file import OpenFile
from kobold_reader.reading.results import PageResult, Status

PICTURE = ImageBudget(max_side_px=900, jpeg_quality=70, max_bytes=150_000)
"""Large enough to check a doubtful word, small enough for a few hundred pages in a file."""
STATUS_WORDS: dict[str, str] = {
    "ok": "read",
    "text_layer": "the file’s own text",
    "blank": "blank",
    "no_text": "no lettering",
    "truncated": "cut off",
    "looping": "went in circles",
    "damaged": "damaged, read in part",
    "unsupported": "not on the page",
    "failed": "failed",
    "due": "to be read",
}
STATUS_SENTENCES: dict[str, str] = {
    "blank": "Nothing is on this page.",
    "no_text": "No lettering was found on this page.",
    "truncated": "The answer was cut off here; the rest of the page is missing.",
    "looping": "From here the answer went round in circles; the rest of the page is missing.",
    "damaged": "The file is damaged; what is there of this page was read.",
    "unsupported": "A second reader finds nothing of this text on the page: the model may have invented it.",
    "due": "This page is still to be read: no server could be used. The next run reads it.",
}


@functools.cache
def templates(package: str = "kobold_reader.html") -> Environment:
    """Return a package's templates: they escape every value, and replace its control characters."""
    environment = Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.globals |= {"status_words": STATUS_WORDS, "sentences": STATUS_SENTENCES}
    environment.filters |= {
        "base64": lambda data: b64encode(data).decode("ascii"),
        "explained": explained,
        "keywords": keywords_in,
        "reading_html": reading_html,
    }
    return environment


def _finalize(value: Any) -> Any:
    return without_controls(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def keywords_in(tags: str) -> tuple[str, ...]:
    """Return the keywords in a page's text of the task `tags`."""
    from kobold_reader.reading.tags import keywords_of  # compiles many patterns, and few pages have keywords

    return keywords_of(tags)


def explained(error: KoboldReaderError) -> str:
    """Return an error's message and hint, without its page, which is shown beside it."""
    return f"{error.message} {error.hint or ''}".strip()


def page_head(page: PageResult) -> dict[str, Any]:
    """Return the arguments of the macro `headline`: a page's number, status, model and confidence."""
    name = f"Page {page.page_number}" if page.page_number else "The file"
    if page.page_number and page.page_label not in {"", str(page.page_number)}:
        name += f" ({page.page_label})"
    first = page.readings.get(page.tasks[0])
    model = [f"read by {first.model}"] if first and first.model else []
    facts = model if model and page.status == "ok" else [STATUS_WORDS[page.status], *model]
    if first and first.confidence is not None:
        facts.append(f"confidence {first.confidence:.2f}")
    if doubtful := _doubtful_words(page):
        facts.append(f"{doubtful} doubtful word{'' if doubtful == 1 else 's'}")
    return {"name": name, "status": page.status, "facts": facts}


def _doubtful_words(page: PageResult) -> int:
    return sum(len(reading.doubtful) for reading in page.readings.values())


def page_picture(
    opened: OpenFile, source: SourceFile, page_number: int, budget: ImageBudget, rotation_deg: int | None
) -> PageView:
    """Make the picture of a page, with the clockwise turn with which it was read; None: as the file stores it.

    Raises:
        SourceError: The page or its file cannot be opened any more.
    """
    file = opened.facts(source)
    turn_deg = 0
    if rotation_deg is not None:
        turn_deg = (rotation_deg - opened.page_facts(source, file, page_number).rotation_deg) % 360
    return opened.page_images(source, file, page_number, budget, turn_deg).views[0]


def result_picture(page: PageResult, opened: OpenFile, budget: ImageBudget) -> PageView:
    """Make the picture of a page as it was read; see `page_picture`."""
    rotation_deg = next((one.rotation_deg for one in page.readings.values() if one.view_sizes), None)
    return page_picture(opened, page.source, page.page_number, budget, rotation_deg)


class HtmlWriter:
    """Writes PageResults as they come; the end of the `with` statement writes the end of the file."""

    def __init__(self, out: IO[str], title: str, opened: OpenFile) -> None:
        self._out = out
        self._title = title
        self._opened = opened
        self._macros: Any = templates().get_template("file.html").module
        self._uri: str | None = None
        self._counts: Counter[Status] = Counter()
        self._doubtful_words = 0
        self._failed: dict[str, str] = {}

    def __enter__(self) -> Self:
        self._out.write(self._macros.top(self._title))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            return  # the file is not kept
        self._end_file()
        counts = [f"{count} {STATUS_WORDS[status]}" for status, count in self._counts.items()]
        self._out.write(self._macros.end(self._counts.total(), counts, self._failed, self._doubtful_words))

    def write(self, page: PageResult) -> None:
        """Write one page, or a file that cannot be opened."""
        if page.source.uri != self._uri:
            self._end_file()
            self._uri = page.source.uri
            folder = PurePosixPath(page.source.folder.replace("\\", "/")).name
            self._out.write(self._macros.file_top(page.source.name, folder))
        if page.page_number:
            self._counts[page.status] += 1
            anchor, alt = f"p{self._counts.total()}", f"{page.source.name}, page {page.page_number}"
        else:
            anchor, alt = f"f{len(self._failed) + 1}", page.source.name
        if page.status == "failed":
            self._failed[anchor] = alt
        self._doubtful_words += _doubtful_words(page)
        picture, problem = None, ""
        if page.page_number:
            try:
                picture = result_picture(page, self._opened, PICTURE)
            except SourceError as err:
                problem = err.message
        self._out.write(self._macros.article(anchor, page, page_head(page), picture, problem, alt))
        self._out.flush()

    def _end_file(self) -> None:
        if self._uri is not None:
            self._out.write("</section>\n")
