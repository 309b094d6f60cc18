"""The rows of an archive's catalog: where a file is, and what one page holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, Self, TypeVar

from kobold_reader.documents import page_link

FILE_KEYS: Final = (
    "file_name",
    "file_path",
    "file_type",
    "file_size",
    "creation_date",
    "last_modified_date",
    "folder",
)
"""Metadata of the place, not of the content: a rename changes these and nothing else."""

UNREAD: Final = ("failed", "due")
"""`PageRow.status` of a page without a reading: it could not be read, or waits for an engine that can be used."""

_FROM_COLUMN: Final[Mapping[str, Callable[[Any], Any]]] = {
    **dict.fromkeys(("parts", "metadata", "as_read"), json.loads),
    "node_ids": lambda text: tuple(json.loads(text)),
    "is_missing": bool,
}
"""How the values of columns are read that SQLite has no type for."""


@dataclass(frozen=True, slots=True)
class Place:
    """One file where it is."""

    uri: str
    sha256: str
    """Hash of its content; "" if it could never be opened."""
    metadata: Mapping[str, Any]
    """FILE_KEYS."""
    is_missing: bool = False
    error: str | None = None
    """Why it could not be opened at the last try."""
    former_sha256: str = ""
    """Hash of the content before, until a page of the new content was read: half a copy is no new content."""

    @property
    def path(self) -> str:
        """The file's path, as it is shown."""
        return str(self.metadata.get("file_path"))


@dataclass(frozen=True, slots=True)
class PageRow:
    """One page's content, at its first place."""

    page_id: str
    sha256: str
    page_number: int
    status: str
    """That of the page's reading, or one of UNREAD."""
    parts: Mapping[str, str]
    """Text by part: ocr, caption, tags; empty ones left out."""
    version: str
    """Hash of the parts: vectors and words of another version are stale."""
    metadata: Mapping[str, Any]
    uri: str
    """URI of the place whose FILE_KEYS are in `metadata`."""
    node_ids: tuple[str, ...] = ()
    """All nodes that Chroma may have of this page."""
    indexed_as: str | None = None
    """The version that is indexed; None while that is being changed."""
    error: str | None = None
    content_sha256: str = ""
    """What its readings and its correction belong to, as in the ledger; "" for a page that could never be opened."""
    as_read: Mapping[str, Any] | None = None
    """What was read, if the page was corrected."""

    @property
    def path(self) -> str:
        """Its file's path, as it is shown."""
        return str(self.metadata.get("file_path"))

    @property
    def link(self) -> str:
        """Opens the file, a PDF at the page."""
        return page_link(self.uri, str(self.metadata.get("file_type")), self.page_number)

    @property
    def text(self) -> str:
        """All parts, as shown in a hit."""
        return "\n\n".join(self.parts.values())

    @property
    def names(self) -> str:
        """The words of file and folder names, those above its tags, and what people wrote into a photo or beside it."""
        keys = ["file_path", "title", "tag_paths", "persons", "description"]
        if self.metadata.get("keywords_source") != "model":  # the model's are in its text
            keys.append("keywords")
        return " ".join(str(self.metadata.get(key, "")) for key in keys)

    def at(self, place: Place) -> Self:
        """Return the page as it is shown at a place: with the URI and FILE_KEYS of that one."""
        kept = {key: value for key, value in self.metadata.items() if key not in FILE_KEYS}
        return replace(self, uri=place.uri, metadata={**place.metadata, **kept})


class PageOutline(NamedTuple):
    """What is shown of a page among all others."""

    page_id: str
    uri: str
    page_number: int
    status: str
    metadata: Mapping[str, Any]
    parts: Mapping[str, str]
    """The beginnings of its texts."""


Row = TypeVar("Row", Place, PageRow)
PLACE_COLUMNS: Final = ", ".join(Place.__slots__)
PAGE_COLUMNS: Final = ", ".join(PageRow.__slots__)


def to_json(value: object) -> str:
    """Return the text that a column of SQLite holds."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def to_row(value: Place | PageRow) -> tuple[Any, ...]:
    """Return the values of PLACE_COLUMNS or PAGE_COLUMNS."""
    columns = (getattr(value, name) for name in value.__slots__)
    return tuple(to_json(one) if isinstance(one, Mapping | tuple) else one for one in columns)


def from_row(kind: type[Row], row: tuple[Any, ...]) -> Row:
    """Return a place from PLACE_COLUMNS, or a page from PAGE_COLUMNS."""
    columns = zip(kind.__slots__, row, strict=True)
    return kind(
        **{
            name: _FROM_COLUMN[name](held) if name in _FROM_COLUMN and held is not None else held
            for name, held in columns
        }
    )


def version_of(parts: Mapping[str, str]) -> str:
    """Return a hash of a page's texts."""
    return hashlib.sha256(json.dumps(dict(parts), ensure_ascii=False, sort_keys=True).encode()).hexdigest()[:32]
