"""What the templates show, made of what the archive says."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, Final
from urllib.parse import urlencode

from markupsafe import Markup

from kobold_reader.archive import Hit
from kobold_reader.archive.catalog import PageRow, Place
from kobold_reader.archive.passage import passage
from kobold_reader.archive.query import parse_query
from kobold_reader.html.text import Mark, doubtful_marks, marked_html
from kobold_reader.html.writer import STATUS_SENTENCES, STATUS_WORDS
from kobold_reader.reading.results import Reading
from kobold_reader.reading.tags import keywords_of
from kobold_reader.web.images import file_place
from kobold_reader.web.library import Leaf, Library, leaf_of
from kobold_reader.web.overlay import Overlay, overlay

__all__ = [
    "Failed",
    "Filters",
    "Found",
    "PageView",
    "Part",
    "failed",
    "file_key",
    "found",
    "kind_word",
    "page_view",
]

_HEADINGS: Final = {"ocr": "", "caption": "Image description", "tags": "Keywords"}
_KINDS: Final = {
    "application/pdf": "PDF",
    "application/epub+zip": "EPUB",
    "application/oxps": "XPS",
    "application/vnd.comicbook+zip": "CBZ",
    "image/x-raw": "camera raw",
    "image/jp2": "JPEG 2000",
}


# ── what was asked ────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Filters:
    """What a search was narrowed to; "" where it was not."""

    folder: str = ""
    status: str = ""
    kind: str = ""
    shows: str = ""
    """`photo` or `scan`."""
    since: str = ""
    until: str = ""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Filters:
        """Read them from an address."""
        return cls(**{field.name: query.get(field.name, "").strip() for field in fields(cls)})

    def asked(self) -> dict[str, Any]:
        """Return them as arguments of `Archive.search`."""
        equal = {
            "folder": self.folder,
            "page_status": self.status,
            "file_type": self.kind,
            "image_kind": self.shows,
        }
        where = [f"{key}={_quoted(value)}" for key, value in equal.items() if value]
        return {"where": where, "since": self.since or None, "until": self.until or None}

    def address(self, path: str = "/", **more: object) -> str:
        """Return the address of a view with these filters; what is empty is left out."""
        given = {**more, **{field.name: getattr(self, field.name) for field in fields(self)}}
        query = urlencode({name: str(value) for name, value in given.items() if value not in {"", None}})
        return f"{path}?{query}" if query else path


def _quoted(value: str) -> str:
    return f"~{value}" if ".." in value or value.startswith("~") else value


def kind_word(file_type: str) -> str:
    """Return what people call a kind of file."""
    return _KINDS.get(file_type) or file_type.partition("/")[2].upper() or file_type


# ── hits ──────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Found:
    """A hit, ready to be shown."""

    leaf: Leaf
    is_description: bool
    pieces: tuple[tuple[str, bool], ...]
    """The passage, cut where its marks begin and end."""
    address: str
    others: int
    """How many pages show the same."""
    overlay: Overlay | None
    """Where the passage stands on the picture; None where that is not known."""


def found(hits: Iterable[Hit], library: Library, query: str, filters: Filters) -> list[Found]:
    """Return hits as they are shown."""
    pages = [(hit, library.archive.page(hit.page_id)) for hit in hits]
    readings = library.readings([page for _, page in pages if page is not None])
    shown = []
    for hit, page in pages:
        if page is None:
            continue  # removed a moment ago
        start = page.parts.get(hit.page_part, "").find(hit.text) if hit.text else -1
        at = f"{hit.page_part}.{start}.{start + len(hit.text)}" if start >= 0 else ""
        marks = [Mark(start, start + len(hit.text), "passage")] if start >= 0 else []
        marks += [Mark(start + first, start + last, "found") for first, last in hit.marks if start >= 0]
        shown.append(
            Found(
                leaf=leaf_of(page),
                is_description=hit.page_part in {"caption", "tags"},
                pieces=_pieces(hit.text, hit.marks),
                address=filters.address(f"/page/{hit.page_id}", q=query, at=at),
                others=len(hit.alike),
                overlay=overlay(page, readings[page.page_id].get(hit.page_part), marks),
            )
        )
    return shown


def _pieces(text: str, marks: Sequence[tuple[int, int]]) -> tuple[tuple[str, bool], ...]:
    bounds = [0, *(bound for mark in marks for bound in mark), len(text)]
    cut = [(text[start:end], number % 2 == 1) for number, (start, end) in enumerate(pairwise(bounds))]
    return tuple((piece, is_marked) for piece, is_marked in cut if piece)


# ── one page ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Part:
    """One of a page's texts."""

    name: str
    heading: str
    html: Markup
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PageView:
    """A page beside what was read of it."""

    page: PageRow
    label: str
    said: str
    """Its status, in words."""
    sentence: str
    """What must be known of its text; "" where nothing."""
    error: str
    """Why it failed at the last try."""
    parts: tuple[Part, ...]
    doubtful_words: int
    facts: tuple[tuple[str, str], ...]
    is_corrected: bool
    overlay: Overlay | None
    """None where it is not known what stands where on the picture."""


def page_view(page: PageRow, readings: Mapping[str, Reading], query: str, at: str) -> PageView:
    """Return a page as it is shown.

    Args:
        page: The page.
        readings: Those that its texts are.
        query: What was searched for; its words are marked.
        at: `PART.START.END` of the passage that was found.
    """
    marks = {task: doubtful_marks(reading) for task, reading in readings.items()}
    doubtful_words = sum(map(len, marks.values()))
    for task, text in page.parts.items():
        marks.setdefault(task, []).extend(_found_marks(task, text, query, at))
    places = overlay(page, readings.get("ocr"), marks.get("ocr", []))
    if places is not None:
        marks["ocr"] += places.marks
    about = page.metadata
    corrected = about.get("text_source") == "correction"
    label = str(about.get("page_label", ""))
    return PageView(
        page=page,
        label=f"{page.page_number}" + (f" ({label})" if label not in {"", str(page.page_number)} else ""),
        said="corrected by hand" if corrected else STATUS_WORDS[page.status],  # type: ignore[index]
        sentence="" if corrected else STATUS_SENTENCES.get(page.status, ""),  # type: ignore[call-overload]
        error=_why_page(page),
        parts=tuple(_part(task, text, marks[task]) for task, text in page.parts.items()),
        doubtful_words=doubtful_words,
        facts=tuple(_facts(page)),
        is_corrected=corrected,
        overlay=places,
    )


def _found_marks(task: str, text: str, query: str, at: str) -> list[Mark]:
    marks: list[Mark] = []
    if query.strip():
        whole = passage(text, parse_query(query), length=len(text) + 1)
        marks += [Mark(start, end, "found") for start, end in whole.marks]
    place = re.fullmatch(r"(\w+)\.(\d{1,9})\.(\d{1,9})", at)
    if place and place[1] == task and int(place[2]) < int(place[3]) <= len(text):
        marks.append(Mark(int(place[2]), int(place[3]), "passage"))
    return marks


def _part(task: str, text: str, marks: Sequence[Mark]) -> Part:
    tags = tuple(keywords_of(text)) if task == "tags" else ()
    if tags:
        text = text.rpartition("\n")[0].rstrip()  # the last line lists them
    # `marked_html` escapes all that is not its own.
    html = Markup(marked_html(text, [mark for mark in marks if mark.end <= len(text)]))  # noqa: S704
    return Part(task, _HEADINGS.get(task, task), html, tags)


def _facts(page: PageRow) -> Iterable[tuple[str, str]]:
    about = page.metadata
    words = {
        "title": "Title",
        "author": "Author",
        "date_taken": "Taken",
        "date_digitized": "Scanned",
        "camera": "Camera",
        "keywords": "Keywords",
        "persons": "Persons",
        "language": "Language",
        "model": "Read by",
    }
    for key, word in words.items():
        if about.get(key):
            yield word, str(about[key])[:16].replace("T", " ") if key.startswith("date_") else str(about[key])
    if isinstance(about.get("confidence"), float):
        yield "Confidence", f"{about['confidence']:.2f}"
    if "latitude" in about and "longitude" in about:
        yield "Place", f"{about['latitude']}, {about['longitude']}"
    yield "File", file_place(page.uri)


# ── failures ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Failed:
    """A page, or a file as a whole, that could not be read at the last try."""

    name: str
    folder: str
    why: str
    again: str
    """Where to ask for it again."""
    page_id: str = ""
    """"" for a file."""
    keeps_text: bool = False
    """An earlier reading is kept, and found."""


def file_key(uri: str) -> str:
    """Return the id of a file: addresses hold no paths."""
    return hashlib.sha256(uri.encode()).hexdigest()[:32]


def failed(pages: Iterable[PageRow], places: Iterable[Place]) -> list[Failed]:
    """Return what failed, files as a whole first."""
    shown = [
        Failed(
            name=str(place.metadata.get("file_name", place.uri)),
            folder=str(place.metadata.get("folder", "")),
            why=_why(place.error, str(place.metadata.get("file_path"))),
            again=f"/file/{file_key(place.uri)}/again",
        )
        for place in places
        if place.error
    ]
    shown += [
        Failed(
            name=f"{page.metadata.get('file_name', '')}, page {page.page_number}",
            folder=str(page.metadata.get("folder", "")),
            why=_why_page(page),
            again=f"/page/{page.page_id}/again",
            page_id=page.page_id,
            keeps_text=page.status != "failed",
        )
        for page in pages
    ]
    return shown


def _why_page(page: PageRow) -> str:
    return _why(page.error or "", f"{page.metadata.get('file_path')} page {page.page_number}")


def _why(message: str, place: str) -> str:
    """Return an error's message without the file and page, which stand beside it."""
    return message.removeprefix(f"{place}: ")
