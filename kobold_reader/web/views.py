"""What the templates show, made of what the archive says.

What is marked on a page's picture: the places of its lines, where the reading knows them.

The photo wall, and the pages that show the same as another one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import groupby, pairwise
from typing import Any, Final
from urllib.parse import urlencode

from markupsafe import Markup

from kobold_reader.archive import Alike, Archive, Hit
from kobold_reader.archive.matching import passage
from kobold_reader.archive.query import parse_query
from kobold_reader.archive.store import PageRow, Place
from kobold_reader.html.pages import STATUS_SENTENCES, STATUS_WORDS
from kobold_reader.html.text import Mark, doubtful_marks, marked_html
from kobold_reader.reading.results import SHARES, LineBox, Reading, lines_at
from kobold_reader.reading.tags import keywords_of
from kobold_reader.web.images import file_place
from kobold_reader.web.library import Leaf, Library, Overview, leaf_of

__all__ = [
    "Failed",
    "Filters",
    "Found",
    "Member",
    "Outline",
    "Overlay",
    "PageView",
    "Part",
    "Tile",
    "alike_address",
    "failed",
    "file_key",
    "found",
    "kind_word",
    "members",
    "overlay",
    "page_view",
    "said_alike",
    "wall",
]

LOW: Final = 0.6


@dataclass(frozen=True, slots=True)
class Outline:
    """One line on the picture."""

    number: int
    """The same as of its marks in the text."""
    row: int
    """Of the text as it is edited: several lines may stand side by side in one."""
    points: str
    """Of an SVG polygon."""
    kind: str
    """`passage` and `found`, as the marks in the text; "" for a line that was not looked for."""


@dataclass(frozen=True, slots=True)
class Overlay:
    """All lines of a page, drawn over its picture at whatever size that has."""

    width: int
    height: int
    """In units of `points`: the picture's own shape, so that nothing is distorted."""
    outlines: tuple[Outline, ...]
    marks: tuple[Mark, ...]
    """Say in the text which line is which."""
    is_low: bool
    """The passage stands in the lower part of the page, which a thumbnail may cut off."""

    @property
    def chosen(self) -> tuple[Outline, ...]:
        """The lines that were looked for."""
        return tuple(outline for outline in self.outlines if outline.kind)


def overlay(page: PageRow, reading: Reading | None, marks: Sequence[Mark]) -> Overlay | None:
    """Return what is marked on the picture of a page; None where nobody knows.

    Args:
        page: The page.
        reading: The one that its text is, letter by letter: a box tells nothing of another text.
        marks: In that text.
    """
    if reading is None or not reading.boxes or not reading.view_sizes:
        return None
    if reading.text != page.parts.get(reading.task) or reading.rotation_deg != page.metadata.get("rotation_deg", 0):
        return None  # the picture is turned as the page says
    size, text = reading.view_sizes[0], reading.text
    chosen = {kind: _lines_of(reading.boxes, marks, kind) for kind in ("passage", "found")}
    return Overlay(
        *size,
        outlines=tuple(
            Outline(
                number,
                text.count("\n", 0, box.start),
                _points(box, size),
                " ".join(kind for kind, lines in chosen.items() if number in lines),
            )
            for number, box in enumerate(reading.boxes)
        ),
        marks=tuple(Mark(box.start, box.end, "", line=number) for number, box in enumerate(reading.boxes)),
        is_low=_is_low([reading.boxes[number] for number in chosen["found"] or chosen["passage"]]),
    )


def _lines_of(boxes: Sequence[LineBox], marks: Iterable[Mark], kind: str) -> set[int]:
    return {number for mark in marks if mark.kind == kind for number in lines_at(boxes, mark.start, mark.end)}


def _is_low(boxes: Sequence[LineBox]) -> bool:
    heights = [y for box in boxes for y in box.corners[1::2]]
    return bool(heights) and (min(heights) + max(heights)) / 2 > LOW * SHARES


def _points(box: LineBox, size: tuple[int, int]) -> str:
    pairs = zip(box.corners[::2], box.corners[1::2], strict=True)
    return " ".join(f"{round(x * size[0] / SHARES)},{round(y * size[1] / SHARES)}" for x, y in pairs)


@dataclass(frozen=True, slots=True)
class Tile:
    """A photo on the wall, in place of all that look like it."""

    leaf: Leaf
    date: str
    """Of the oldest of them: the others may have lost theirs."""
    address: str
    others: int
    """How many look like it, copies of the file included."""


def wall(overview: Overview, archive: Archive, limit: int) -> tuple[list[tuple[str, list[Tile]]], bool]:
    """Return the photos under their year, those without a date under "", and whether there are more.

    Photos that look alike are one tile, which shows the largest of them where the oldest stands.
    """
    tiles: list[Tile] = []
    seen: set[str] = set()
    photos = overview.photos
    for leaf in photos:
        if leaf.page_id in seen:
            continue
        if len(tiles) == limit:
            return _by_year(tiles), True
        alike = archive.alike(leaf.page_id)
        seen |= {leaf.page_id, *(one.page_id for one in alike)}
        tiles.append(_tile(leaf, alike, overview))
    return _by_year(tiles), False


def _tile(leaf: Leaf, alike: Sequence[Alike], overview: Overview) -> Tile:
    shown = [leaf, *(overview.leaves[at] for one in alike if (at := overview.positions.get(one.page_id)) is not None)]
    best = max(shown, key=lambda one: one.file_size)
    address = alike_address(best.page_id) if alike else f"/page/{best.page_id}"
    return Tile(best, leaf.date, address, len(alike))


def _by_year(tiles: Iterable[Tile]) -> list[tuple[str, list[Tile]]]:
    return [(year, list(some)) for year, some in groupby(tiles, key=lambda tile: tile.date[:4])]


def alike_address(page_id: str) -> str:
    """Return where all that show the same as a page are seen."""
    return f"/alike/{page_id}"


def said_alike(count: int) -> str:
    """Return how many others there are, as a link says it."""
    return f"and {count} like it"


@dataclass(frozen=True, slots=True)
class Member:
    """One of several pages that show the same."""

    page_id: str
    name: str
    folder: str
    """The path of the folder it lies in."""
    size: str
    """Of the file, for people."""
    said: str
    """How it is like the page it is shown beside; "" for that page."""


def members(leaf: Leaf, file_path: str, alike: Iterable[Alike]) -> list[Member]:
    """Return a page and what shows the same, as they are shown."""
    others = (
        Member(
            one.page_id,
            one.file_name,
            _folder(one.file_path),
            _size(one.file_size),
            "the same" if one.is_equal else "looks alike",
        )
        for one in alike
    )
    return [Member(leaf.page_id, leaf.file_name, _folder(file_path), _size(leaf.file_size), ""), *others]


def _folder(file_path: str) -> str:
    return re.split(r"[/\\][^/\\]*$", file_path)[0]


def _size(size_bytes: int) -> str:
    mega = 1_000_000
    return f"{size_bytes / mega:.1f} MB" if size_bytes >= mega else f"{max(1, round(size_bytes / 1000))} kB"


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
