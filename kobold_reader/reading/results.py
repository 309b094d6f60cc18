"""Results: a Reading for each task, a PageResult for each page.

A status says whether a page *was read*, never whether it was read *right*.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, Final, Literal, NamedTuple, Self, get_args

from kobold_reader.errors import KoboldReaderError
from kobold_reader.pages import Box, Scalar, SourceFile

Status = Literal["ok", "text_layer", "blank", "no_text", "truncated", "looping", "damaged", "unsupported", "failed"]
STATUSES: Final[tuple[Status, ...]] = get_args(Status)
EMPTY_STATUSES: Final[frozenset[Status]] = frozenset({"blank", "no_text"})
"""The two statuses of pages without text."""
DOUBTFUL: Final = 0.7
"""Words less sure than this are listed in a reading, with their rivals."""
WITNESS_AGREES: Final = 0.9
"""Less agreement with the witness is worth a look: true texts of print have 0.95 and more."""
_HEADINGS: Final = {"caption": "Image description", "tags": "Tags"}

SHARES: Final = 10_000
"""A picture's width, and its height, in units of corners, so that corners hold at every size it is shown in."""

Corners = tuple[int, ...]
"""x and y of four corners, clockwise from where the line begins: a line on a skewed page is no upright rectangle."""


class LineBox(NamedTuple):
    """The place of a line in the text and on the upright page; a tuple, so that JSON writes it as an array.

    In columns or a table, several lines are side by side.
    """

    start: int
    end: int
    corners: Corners
    score: float | None = None
    """How sure RapidOCR is of what it read there, 0 to 1; None where the engine does not tell."""
    words: tuple[int, ...] = ()
    """Where each word between white space begins and ends along the line, by turns, in units of its length / `SHARES`;
    empty where the engine does not tell."""


def corners_on_page(shares: Iterable[float], box: Box = (0.0, 0.0, 1.0, 1.0)) -> Corners:
    """Return corners of which x and y, by turns, are given in shares of the part of the page in `box`."""
    left, top, right, bottom = box
    on_page = (
        top + share * (bottom - top) if at % 2 else left + share * (right - left) for at, share in enumerate(shares)
    )
    return tuple(round(min(1.0, max(0.0, share)) * SHARES) for share in on_page)


def words_along(ends: Iterable[float], left: float, right: float) -> tuple[int, ...]:
    """Convert where words begin and end, in shares of a whole line, to units of the part from `left` to `right`.

    >>> words_along([0.25, 0.4, 0.5, 0.75], 0.25, 0.75)
    (0, 3000, 5000, 10000)
    """
    shares = ((end - left) / max(right - left, 1 / SHARES) for end in ends)
    return tuple(round(min(1.0, max(0.0, share)) * SHARES) for share in shares)


def _box_of_json(values: Sequence[Any]) -> LineBox:
    """Return a box from its array, which ends earlier in older ledgers."""
    box = LineBox(*values)
    return box._replace(corners=tuple(box.corners), words=tuple(box.words))


_Piece = tuple[str, Corners, float | None] | tuple[str, Corners, float | None, tuple[int, ...]]
"""A piece of a line, with its place, score and words as in `LineBox`."""


def joined(lines: Iterable[Iterable[_Piece]]) -> tuple[str, tuple[LineBox, ...]]:
    r"""Join pieces of lines to a text, and return it with the place of each; pieces without text are left out.

    >>> joined([[("Mooring", (), 0.99), ("12.50", (), 0.98)], [("Total", (), None)]])[0]
    'Mooring 12.50\nTotal'
    """
    text = ""
    boxes: list[LineBox] = []
    for line in lines:
        gap = "\n"
        for piece in line:
            if not piece[0]:
                continue
            text += gap if text else ""
            words = piece[3] if len(piece) == 4 else ()  # noqa: PLR2004
            boxes.append(LineBox(len(text), len(text) + len(piece[0]), piece[1], piece[2], words))
            text += piece[0]
            gap = " "
    return text, tuple(boxes)


def lines_at(boxes: Sequence[LineBox], start: int, end: int) -> list[int]:
    """Return the numbers of the lines that hold any of these characters; characters between lines are in none."""
    return [number for number, box in enumerate(boxes) if box.start < end and box.end > start]


@dataclass(frozen=True, slots=True)
class Reading:
    """The result of one task for one page, and how it was made; its text is empty only for `blank` and `no_text`."""

    task: str
    status: Status
    text: str
    engine: str
    """`koboldcpp`, `rapidocr`, or `pdf` for a text layer and `image` for a blank page (no engine was asked)."""
    model: str | None = None
    family: str | None = None
    prompt: str | None = None
    """The very text sent with the image."""
    decoding: Mapping[str, Scalar] = field(default_factory=dict)
    view_sizes: tuple[tuple[int, int], ...] = ()
    """Width and height in px of each image sent."""
    effective_px: int | None = None
    """The longest side of the page, in px, that could reach the model's encoder."""
    server_version: str | None = None
    release: str | None = None
    """Of kobold-reader."""
    image_verified: bool | None = None
    """Whether the server's token count proved that the image was seen; None where none was sent."""
    confidence: float | None = None
    """Mean over the words of the page, 0 to 1 (RapidOCR: over its lines); None where nothing can be trusted."""
    confidence_p5: float | None = None
    """Fifth percentile of the words' confidence."""
    doubtful: tuple[Mapping[str, Scalar], ...] = ()
    """Doubtful words: `start`, `end` in the text, and `rival`."""
    boxes: tuple[LineBox, ...] = ()
    """Places of the text's lines on the page turned by `rotation_deg`: the engine's own, else the witness's."""
    rotation_deg: int = 0
    attempts: int = 1
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    elapsed_s: float = 0.0
    witness: Mapping[str, Any] | None = None
    """What the witness found (`Comparison.findings`); None: it was not compared."""

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the reading with these values of its fields, as JSON gives them back: with lists for tuples."""
        tuples = {
            "view_sizes": tuple(map(tuple, values["view_sizes"])),
            "doubtful": tuple(values["doubtful"]),
            "boxes": tuple(map(_box_of_json, values["boxes"])),
        }
        return cls(**{**values, **tuples})


@dataclass(frozen=True, slots=True)
class PageResult:
    """One page after reading: exactly one of non-empty text, an error, or a status in {blank, no_text}.

    A photo without lettering may have the text of its caption; its status, that of the first task, is `no_text` then.
    `page_number` is 1-based; 0 is the file as a whole, which could not be opened.
    """

    source: SourceFile
    page_number: int
    page_label: str
    total_pages: int
    file_sha256: str
    tasks: tuple[str, ...]
    """Those asked of this page; the first decides its status."""
    readings: Mapping[str, Reading]
    """By task; a task that failed is absent."""
    errors: Mapping[str, KoboldReaderError]
    """By task; where the task has a reading too, making it again failed."""
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    """Of the file and the page: title, author, camera, dates …"""
    beside: Mapping[str, Scalar] = field(default_factory=dict)
    """What people wrote into the sidecars of the file, under the same keys."""
    content_sha256: str = ""
    """Checksum of the page's content, to which the readings belong; empty where the page could not be looked at."""
    is_kept: bool = False
    """An earlier run read all of it, or found its text layer, or found it blank."""
    is_asked: bool = False
    """It had to be read: an image was made for it in this run, or could not be made."""
    first_status: Status | None = None
    """The status with which it was handed out before; since then the witness has read it."""

    @property
    def status(self) -> Status:
        """The status of the first task."""
        first = self.readings.get(self.tasks[0])
        return first.status if first else "failed"

    @property
    def is_due(self) -> bool:
        """It needs an engine, and was not tried, because none could be used."""
        return bool(self.errors) and not self.is_asked

    @property
    def error(self) -> KoboldReaderError | None:
        """The error where the page as a whole failed, else None."""
        return self.errors[self.tasks[0]] if self.status == "failed" else None

    @property
    def failed_tasks(self) -> tuple[str, ...]:
        """Tasks without a reading on a page whose first task was read."""
        return () if self.status == "failed" else tuple(task for task in self.errors if task not in self.readings)

    @property
    def text(self) -> str:
        """Transcription, then caption and tags under headings; "" for a failed or empty page.

        Caption or tags that were asked alone have no heading.
        """
        if self.status == "failed":
            return ""
        texts = {task: self.readings[task].text for task in (*_HEADINGS, "ocr") if task in self.readings}
        if len(self.tasks) == 1:
            return texts.get(self.tasks[0], "")
        parts = [f"## {heading}\n\n{texts[task]}" for task, heading in _HEADINGS.items() if texts.get(task)]
        if "ocr" not in self.tasks and parts:  # the caption is the page then, and the tags are added to it
            parts[0] = parts[0].partition("\n\n")[2]
        return "\n\n".join(filter(None, (texts.get("ocr", ""), *parts)))

    def _repr_html_(self) -> str:
        first = self.readings.get(self.tasks[0])
        notes = [f"read by {first.model}" if first and first.model and self.status == "ok" else self.status]
        notes += [f"confidence {first.confidence:.2f}"] if first and first.confidence is not None else []
        place = f"{self.source.name}, page {self.page_label}" if self.page_number else self.source.name
        shown = escape(str(self.error) if self.error else self.text)
        return (
            f"<div><b>{escape(place)}</b> <small>{escape(', '.join(notes))}</small>\n"
            f'<div dir="auto" style="white-space: pre-wrap">{shown}</div></div>'
        )
