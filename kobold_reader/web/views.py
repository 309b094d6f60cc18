"""What the templates show: filters, hits, a page with its marks and the outlines of its lines, and the photo wall."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import chain, pairwise
from typing import Any
from urllib.parse import urlencode

from markupsafe import Markup

from kobold_reader.archive import Archive, Hit
from kobold_reader.archive.filters import date_of
from kobold_reader.archive.query import parse_query
from kobold_reader.archive.rows import PageRow
from kobold_reader.archive.search import passage
from kobold_reader.errors import ConfigError
from kobold_reader.html.pages import STATUS_SENTENCES, STATUS_WORDS, keywords_in
from kobold_reader.html.text import Mark, doubtful_marks, marked_html, without_table_tags
from kobold_reader.pages import local_path, shown
from kobold_reader.reading.results import SHARES, Corners, LineBox, Reading, lines_at
from kobold_reader.web.library import FACETS, PLACE, Leaf, Library, Pile, leaf_of

_UNKNOWN_RATIO = 4 / 3
_LOW = 0.6
"""Share of a page's height; a thumbnail may cut off what is below."""
_HEADINGS = {"ocr": "Text", "caption": "Image description", "tags": "Keywords"}
SORTS = {"": "Relevance", "date": "Date", "file": "File"}
"""Orders of hits, and their names."""
_FACTS = {
    "title": "Title",
    "author": "Author",
    "date_taken": "Taken",
    "date_digitized": "Scanned",
    "camera": "Camera",
    "keywords": "Keywords",
    "persons": "Persons",
    "language": "Language",
    "model": "Read by",
    "damage": "Damage",
}
SHOWN_TYPES = frozenset(
    {"application/pdf", "image/avif", "image/bmp", "image/gif", "image/jpeg", "image/png", "image/webp"}
)
"""MIME types that browsers show, and that run nothing in our name; files of others are downloaded only."""
_FILE_KINDS = {
    "application/pdf": "PDF",
    "application/epub+zip": "EPUB",
    "application/oxps": "XPS",
    "application/vnd.comicbook+zip": "CBZ",
    "image/x-raw": "camera raw",
    "image/jp2": "JPEG 2000",
}


# ── lines on the picture ─────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Outline:
    """One line on the picture."""

    number: int
    """The `line` of its mark in the text."""
    row: int
    """Row of the edited text; it may hold several lines side by side."""
    points: str
    """Points of an SVG polygon."""
    kind: str
    """`passage` and `found`, as the marks in the text; "" for a line that was not searched for."""


@dataclass(frozen=True, slots=True)
class Overlay:
    """All lines of a page, drawn over its picture at any size."""

    width: int
    height: int
    """In the unit of `points`; their ratio is the picture's."""
    outlines: tuple[Outline, ...]
    marks: tuple[Mark, ...]
    """One for each line of the text."""
    is_low: bool
    """The passage is in the lower part of the page, which a thumbnail may cut off."""

    @property
    def chosen(self) -> tuple[Outline, ...]:
        """The lines that were searched for."""
        return tuple(outline for outline in self.outlines if outline.kind)


def overlay(
    page: PageRow, reading: Reading | None, marks: Sequence[Mark], rotation_deg: int | None = None
) -> Overlay | None:
    """Return the lines of a page; None where their places are unknown, or belong to another text than the page's.

    `rotation_deg` is how a person turned the picture, if so.
    """
    if reading is None or not reading.boxes or not reading.view_sizes:
        return None
    if reading.text != page.parts.get(reading.task) or reading.rotation_deg != page.metadata.get("rotation_deg", 0):
        return None  # the picture is turned as the page's metadata say
    size, boxes = on_picture(reading, reading.boxes, rotation_deg)
    lines: dict[str, set[int]] = {"passage": set(), "found": set()}
    for mark in marks:
        if mark.kind in lines:
            lines[mark.kind].update(lines_at(boxes, mark.start, mark.end))
    outlines = tuple(
        Outline(
            number,
            reading.text.count("\n", 0, box.start),
            points_of(box, size),
            " ".join(kind for kind, numbers in lines.items() if number in numbers),
        )
        for number, box in enumerate(boxes)
    )
    line_marks = tuple(Mark(box.start, box.end, "", line=number) for number, box in enumerate(boxes))
    heights = [y for at in lines["found"] or lines["passage"] for y in boxes[at].corners[1::2]]
    is_low = bool(heights) and (min(heights) + max(heights)) / 2 > _LOW * SHARES
    return Overlay(*size, outlines, line_marks, is_low)


def on_picture(
    reading: Reading, boxes: Sequence[LineBox], rotation_deg: int | None
) -> tuple[tuple[int, int], list[LineBox]]:
    """Return the size of a page's picture as a person turned it, and the boxes of a reading on it."""
    turn_deg = 0 if rotation_deg is None else (rotation_deg - reading.rotation_deg) % 360
    size = reading.view_sizes[0] if turn_deg % 180 == 0 else reading.view_sizes[0][::-1]
    return size, [box._replace(corners=_turned(box.corners, turn_deg)) for box in boxes]


def _turned(corners: Corners, turn_deg: int) -> Corners:
    """Return corners on the picture turned clockwise."""
    for _ in range(turn_deg // 90):
        x1, y1, x2, y2, x3, y3, x4, y4 = corners
        corners = SHARES - y1, x1, SHARES - y2, x2, SHARES - y3, x3, SHARES - y4, x4
    return corners


def points_of(box: LineBox, size: tuple[int, int]) -> str:
    """Return the corners of a box as the points of an SVG polygon."""
    pairs = zip(box.corners[::2], box.corners[1::2], strict=True)
    return " ".join(f"{round(x * size[0] / SHARES)},{round(y * size[1] / SHARES)}" for x, y in pairs)


# ── what the templates call ──────────────────────────────────────────────────────────────────────


def file_kind(file_type: str) -> str:
    """Return the name that people use for a MIME type."""
    return _FILE_KINDS.get(file_type) or file_type.partition("/")[2].upper() or file_type


def file_key(uri: str) -> str:
    """Return the id of a file in addresses, which hold no paths."""
    return hashlib.sha256(uri.encode()).hexdigest()[:32]


def amount(count: int, what: str = "") -> str:
    """Return a number, or a number of things.

    >>> amount(12_030), amount(12_030, "page"), amount(1, "page")
    ('12,030', '12,030 pages', '1 page')
    """
    things = f" {what}{'' if count == 1 else 's'}" if what else ""
    return f"{count:,}{things}"


def why_failed(failed: PageRow | Any) -> str:
    """Return the error of a page or a place, without the file and page, which are shown beside it."""
    place = str(failed.metadata.get("file_path"))
    if isinstance(failed, PageRow):
        place += f" page {failed.page_number}"
    return in_browser((failed.error or "").removeprefix(f"{place}: "))


def in_browser(error: object) -> str:
    """Return an error in words, without the option for a password: the page of failed files has a field for it."""
    return str(error).partition(" Give its password with --pdf-password")[0]


def state_of(page: PageRow) -> str:
    """Return the status of a page in words."""
    return "corrected by hand" if page.as_read else STATUS_WORDS[page.status]


def is_locked(failed: PageRow | Any) -> bool:
    """Tell whether a page or a place failed because its file needs a password."""
    return "--pdf-password" in (failed.error or "")


# ── filters ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Filters:
    """The filters in an address, and the order of the hits; what is not set is ""."""

    folder: str = ""
    """A path, or any part of one."""
    status: str = ""
    kind: str = ""
    shows: str = ""
    """`photo` or `scan`."""
    since: str = ""
    until: str = ""
    camera: str = ""
    persons: str = ""
    keywords: str = ""
    rating: str = ""
    place: str = ""
    """Latitude and longitude in tenths of a degree."""
    sort: str = ""
    """One of `SORTS`."""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Filters:
        """Read the filters from an address or a form."""
        found = cls(**{field.name: query.get(field.name, "").strip() for field in fields(cls)})
        return found if found.sort in SORTS else found.but(sort="")

    def but(self, **changes: str) -> Filters:
        """Return the same filters with some of them changed; "": not set."""
        return replace(self, **changes)

    def is_in(self, folder: str) -> bool:
        """Tell whether the folder that is chosen is this one or below it."""
        return bool(folder) and _as_folder(self.folder).startswith(_as_folder(folder))

    @property
    def are_set(self) -> bool:
        """Whether some pages are left out."""
        return self.but(sort="") != Filters()

    @property
    def given(self) -> dict[str, str]:
        """What is set, by its name in addresses and forms."""
        return {name: value for name, value in asdict(self).items() if value}

    def asked(self) -> dict[str, Any]:
        """Return the filters as arguments of `Archive.search`."""
        keys = {"page_status": self.status, "file_type": self.kind, "image_kind": self.shows}
        keys |= {key: getattr(self, key) for key in FACETS}
        where = [
            # `~` keeps a value with `..` from being a range.
            f"{key}={'~' if '..' in value or value.startswith('~') else ''}{value}"
            for key, value in keys.items()
            if value
        ]
        if self.place:
            where += _around(self.place)
        given = {"since": self.since, "until": self.until, "folder": self.folder}
        return {"where": where, **{name: value or None for name, value in given.items()}}

    def address(self, path: str = "/", **more: object) -> str:
        """Return the address of a view with these filters and more parameters, without empty ones."""
        given = {**more, **self.given}
        query = urlencode({name: str(value) for name, value in given.items() if value not in {"", None}})
        return f"{path}?{query}" if query else path


def _around(place: str) -> list[str]:
    """Return the conditions of being in a place, as `spot_of` rounds."""
    try:
        at = [float(text) for text in place.split(",")]
        latitude, longitude = at
    except ValueError:
        raise ConfigError(f"{place!r} is no place; write latitude and longitude, like 59.9,17.6.") from None
    around = ((key, value - 0.05, value + 0.05) for key, value in zip(PLACE, (latitude, longitude), strict=True))
    return [f"{key}={low:.9f}..{high:.9f}" for key, low, high in around]


def _as_folder(path: str) -> str:
    """Return the path of a folder with a sign behind it, so that no other folder's begins with it."""
    return re.sub(r"[/\\]+", "/", path).rstrip("/") + "/"


# ── hits ─────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class ShownHit:
    """A hit of a search."""

    leaf: Leaf
    is_description: bool
    pieces: tuple[tuple[str, bool], ...]
    """The passage, cut where its marks begin and end; each piece with whether it is marked."""
    address: str
    others: int
    """Number of other pages that show the same."""
    is_related: bool
    """Whether it is merely near, and not found."""
    missing: tuple[str, ...]
    respelled: tuple[str, ...]
    """As in `Hit`."""
    overlay: Overlay | None
    """The passage on the picture; None where its place is unknown."""


def sorted_hits(hits: Sequence[Hit], sort: str) -> list[Hit]:
    """Return hits in one of the orders of `SORTS`; they come best first.

    The day of a page is the one that `--since` looks at. The oldest are first, those without a day last. Related pages
    stay behind those found.
    """
    if sort == "date":
        days = {hit.page_id: date_of(hit.metadata) or "" for hit in hits}
        hits = sorted(hits, key=lambda hit: (not days[hit.page_id], days[hit.page_id]))
    if sort == "file":
        hits = sorted(hits, key=lambda hit: (str(hit.metadata["file_path"]).casefold(), hit.page_number))
    return sorted(hits, key=lambda hit: hit.match == "related")


def _place_of(hit: Hit, page: PageRow) -> int:
    """Return where the passage of a hit begins in its part of the page; -1 where that is not known."""
    return page.parts.get(hit.page_part, "").find(hit.text) if hit.text else -1


def hit_address(hit: Hit, page: PageRow, query: str, filters: Filters) -> str:
    """Return the address of a hit's page, with the place of the passage."""
    start = _place_of(hit, page)
    at = f"{hit.page_part}.{start}.{start + len(hit.text)}" if start >= 0 else ""
    return filters.address(f"/page/{hit.page_id}", q=query, at=at)


@dataclass(frozen=True, slots=True)
class HitsBeside:
    """The way from the page of one hit to the hits before and after."""

    number: int
    """1-based, of the hit that is shown, or of the one from which people went on to other pages; among all hits."""
    rank: int
    """The same among those with which it is listed: the hits found, or the related ones."""
    total: int
    """Number of those."""
    is_related: bool
    before: str
    after: str
    """Addresses; "" where there is none."""


def hits_beside(
    hits: Sequence[Hit], page_id: str, number: str, archive: Archive, query: str, filters: Filters
) -> HitsBeside | None:
    """Return the hits before and after a page.

    Args:
        hits: In the order in which they are listed.
        page_id: Of the page that is shown.
        number: Where the page is no hit itself: the 1-based number of the hit from which people came, as the address
            holds it.
        archive: Holds the pages.
        query: What was searched for.
        filters: Stay in the addresses.

    Returns:
        None where the page is no hit, and nobody came from one.
    """
    at = next((at for at, hit in enumerate(hits) if hit.page_id == page_id), None)
    if at is not None:
        before, after = at - 1, at + 1
    elif number.isascii() and number.isdigit() and 0 < int(number[:6]) <= len(hits):
        at = before = int(number[:6]) - 1
        after = at + 1
    else:
        return None
    is_related = hits[at].match == "related"
    listed = [one for one, hit in enumerate(hits) if (hit.match == "related") == is_related]

    def address(at: int) -> str:
        page = archive.page(hits[at].page_id) if 0 <= at < len(hits) else None
        return hit_address(hits[at], page, query, filters) if page else ""

    return HitsBeside(at + 1, listed.index(at) + 1, len(listed), is_related, address(before), address(after))


def shown_hits(hits: Iterable[Hit], library: Library, query: str, filters: Filters) -> list[ShownHit]:
    """Return hits as they are shown."""
    pages = [(hit, library.archive.page(hit.page_id)) for hit in hits]
    known = [page for _, page in pages if page is not None]
    readings, rotations = library.archive.readings(known), library.archive.rotations(known)
    shown = []
    for hit, page in pages:
        if page is None:
            continue  # removed a moment ago
        marks = []
        if (start := _place_of(hit, page)) >= 0:
            marks = [Mark(start, start + len(hit.text), "passage")]
            marks += [Mark(start + first, start + last, "found") for first, last in hit.marks]
        shown.append(
            ShownHit(
                leaf=leaf_of(page),
                is_description=hit.page_part in {"caption", "tags"},
                pieces=_pieces(hit),
                address=hit_address(hit, page, query, filters),
                others=len(hit.alike),
                is_related=hit.match == "related",
                missing=hit.missing,
                respelled=hit.respelled,
                overlay=overlay(page, readings[page.page_id].get(hit.page_part), marks, rotations.get(page.page_id)),
            )
        )
    return shown


def _pieces(hit: Hit) -> tuple[tuple[str, bool], ...]:
    bounds = [0, *chain.from_iterable(hit.marks), len(hit.text)]
    cut = ((hit.text[start:end], number % 2 == 1) for number, (start, end) in enumerate(pairwise(bounds)))
    return tuple((without_table_tags(piece), is_marked) for piece, is_marked in cut if piece)


# ── one page ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class TextPart:
    """The text of one task."""

    task: str
    heading: str
    html: Markup
    keywords: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PageSheet:
    """A page beside its text."""

    page: PageRow
    label: str
    state: str
    """Its status in words."""
    sentence: str
    """A warning about its text, or ""."""
    parts: tuple[TextPart, ...]
    doubtful_words: int
    facts: tuple[tuple[str, str], ...]
    place: tuple[float, float] | None
    """Latitude and longitude."""
    rotation_deg: int | None
    """How a person turned its picture; None: nobody did."""
    overlay: Overlay | None


def page_sheet(
    page: PageRow, readings: Mapping[str, Reading], rotation_deg: int | None, query: str, at: str
) -> PageSheet:
    """Return a page with the words of `query` marked, and the passage at `PART.START.END` that was found.

    Args:
        page: The page.
        readings: Those that its texts come from, by task.
        rotation_deg: How a person turned its picture; None: nobody did.
        query: What was searched for.
        at: The passage.
    """
    marks = {task: doubtful_marks(reading) for task, reading in readings.items()}
    doubtful_words = sum(map(len, marks.values()))
    for task, text in page.parts.items():
        marks.setdefault(task, []).extend(_search_marks(task, text, query, at))
    lines = overlay(page, readings.get("ocr"), marks.get("ocr", []), rotation_deg)
    if lines is not None:
        marks["ocr"] += lines.marks
    return PageSheet(
        page=page,
        label=leaf_of(page).label,
        state=state_of(page),
        sentence="" if page.as_read else STATUS_SENTENCES.get(page.status, ""),
        parts=tuple(_part(task, text, marks[task]) for task, text in page.parts.items()),
        doubtful_words=doubtful_words,
        facts=tuple(_facts(page)),
        place=_place(page),
        rotation_deg=rotation_deg,
        overlay=lines,
    )


def _search_marks(task: str, text: str, query: str, at: str) -> list[Mark]:
    marks: list[Mark] = []
    if query.strip():
        whole = passage(text, parse_query(query), length=len(text) + 1)
        marks += [Mark(start, end, "found") for start, end in whole.marks]
    place = re.fullmatch(r"(\w+)\.(\d{1,9})\.(\d{1,9})", at)
    if place and place[1] == task and int(place[2]) < int(place[3]) <= len(text):
        marks.append(Mark(int(place[2]), int(place[3]), "passage"))
    return marks


def _part(task: str, text: str, marks: Sequence[Mark]) -> TextPart:
    keywords = keywords_in(text) if task == "tags" else ()
    if keywords:
        text = text.rpartition("\n")[0].rstrip()  # the last line lists them
    html = marked_html(text, [mark for mark in marks if mark.end <= len(text)])
    return TextPart(task, _HEADINGS.get(task, task), html, keywords)


def _place(page: PageRow) -> tuple[float, float] | None:
    latitude, longitude = (page.metadata.get(key) for key in PLACE)
    if isinstance(latitude, float | int) and isinstance(longitude, float | int):
        return latitude, longitude
    return None


def _facts(page: PageRow) -> Iterator[tuple[str, str]]:
    about = page.metadata
    for key, word in _FACTS.items():
        if about.get(key):
            yield word, str(about[key])[:16].replace("T", " ") if key.startswith("date_") else str(about[key])
    if isinstance(about.get("confidence"), float):
        yield "Confidence", f"{about['confidence']:.2f}"
    if isinstance(about.get("witness_agreement"), float):
        yield "Witness", f"agrees with {about['witness_agreement']:.2f} of it"
    yield "File", shown(local_path(page.uri))


# ── photos ───────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class WallPhoto:
    """A photo on the wall."""

    pile: Pile
    ratio: int
    """Width by height in hundredths, in steps of five, for the rows of the wall."""
    year: str | None
    """Its year, "" where its date is unknown; None where it is that of the photo before."""


def wall_photos(piles: Sequence[Pile], library: Library) -> list[WallPhoto]:
    """Return a part of the wall; its first photo has its year."""
    ratios = library.ratios(library.archive.pages_by_id([pile.leaf.page_id for pile in piles]))
    years = [pile.date[:4] for pile in piles]
    return [
        WallPhoto(pile, step_of(ratios.get(pile.leaf.page_id, _UNKNOWN_RATIO)), None if year == before else year)
        for pile, year, before in zip(piles, years, [None, *years], strict=False)
    ]


def step_of(ratio: float) -> int:
    """Return a ratio in hundredths, in steps of five; very wide and very tall photos are cut."""
    return round(min(2.5, max(0.5, ratio)) * 20) * 5
