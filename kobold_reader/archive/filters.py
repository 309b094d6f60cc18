"""Which pages have which metadata, inside the archive's own SQLite file.

Pages of one file mostly say the same, so each value is kept once, with the numbers of its pages: a filter asks hundreds
of values, not a hundred thousand pages. Nothing here begins or ends a transaction: facets are written with the rows
that they are of.

Filters: conditions on metadata (`KEY=VALUE`, `KEY=A..B`, `KEY=~WORD`), the page's date, the folder it lies in.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import math
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

from kobold_reader.archive.query import fold
from kobold_reader.errors import ConfigError

__all__ = [
    "DATE_KEYS",
    "DAY",
    "Condition",
    "Filter",
    "check_folder_known",
    "check_keys",
    "create",
    "day_of",
    "delete",
    "keys",
    "meant",
    "pages_by_value",
    "parse_filter",
    "parse_where",
    "put",
    "values",
]

DATE_KEYS: Final = ("date_taken", "date_digitized", "creation_date", "last_modified_date")
"""What says of when a page is: the first of them that is known."""
DAY: Final = ""
"""The key of that day, beside a page's own metadata: none that can be typed."""
_PATH_KEY: Final = "file_path"
_MOST_NAMED: Final = 20

_SHAPE = re.compile(r"\s*(\w+)\s*=\s*(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition; a page without the key never meets it."""

    key: str
    kind: Literal["equal", "between", "contains"]
    values: tuple[str, ...]
    """One value; two for `between`, either may be "" (open)."""

    def meets(self, value: object) -> bool:
        """Tell whether a page's value meets it; numbers compare as numbers, all else as folded text."""
        if self.kind == "contains":
            return fold(self.values[0]) in fold(str(value))
        if self.kind == "equal":
            return _key(value) == _key(self.values[0])
        low, high = self.values
        return (not low or _compare(low, value)) and (not high or _compare(value, high))


@dataclass(frozen=True, slots=True)
class Filter:
    """What a page has to be, beside answering the query."""

    conditions: tuple[Condition, ...] = ()
    since: str = ""
    """Year, month or day, in ISO 8601; "": open."""
    until: str = ""
    """The last year, month or day that is still meant."""
    folder: str = ""
    """As typed; "": anywhere."""

    def questions(self) -> Iterator[tuple[str, Callable[[Any], bool]]]:
        """Yield the keys that decide, each with what its value has to meet; a page must have and meet them all."""
        for condition in self.conditions:
            yield condition.key, condition.meets
        if self.since or self.until:
            yield DAY, self._is_in_time
        if self.folder:
            yield _PATH_KEY, self._holds_path

    def holds(self, metadata: Mapping[str, Any]) -> bool:
        """Tell whether a page of this metadata is meant."""
        known = {**metadata, DAY: day_of(metadata)}
        return all(known.get(key) is not None and meets(known[key]) for key, meets in self.questions())

    def _is_in_time(self, day: str) -> bool:
        return day >= self.since and (not self.until or day[: len(self.until)] <= self.until)

    def _holds_path(self, path: str) -> bool:
        return _lies_in(path, self.folder)


def day_of(metadata: Mapping[str, Any]) -> str | None:
    """Return of when a page is, in ISO 8601; None where nothing says so."""
    return next((str(metadata[key]) for key in DATE_KEYS if metadata.get(key)), None)


def parse_filter(
    where: Iterable[str] = (), *, since: str | None = None, until: str | None = None, folder: str | Path | None = None
) -> Filter:
    """Read a filter as typed.

    Raises:
        ConfigError: A condition or a date of another shape.

    >>> parse_filter(until="1954-06").holds({"date_taken": "1954-06-30T12:00:00"})
    True
    """
    return Filter(
        tuple(parse_where(where)),
        _parse_date("since", since),
        _parse_date("until", until),
        "" if folder is None else _parse_folder(folder),
    )


def _parse_date(name: str, text: str | None) -> str:
    if text is None:
        return ""
    text = text.strip()
    for shape, length in (("%Y", 4), ("%Y-%m", 7), ("%Y-%m-%d", 10)):
        with contextlib.suppress(ValueError):
            datetime.strptime(text, shape)  # noqa: DTZ007  (a day, of no time zone)
            if len(text) == length:
                return text
    msg = f"{name}: {text!r} is no date; write 1954, 1954-03 or 1954-03-12."
    raise ConfigError(msg)


def _parse_folder(folder: str | Path) -> str:
    text = str(folder).strip()
    if not text.strip("/\\"):
        msg = f"in: {str(folder)!r} is no folder; name one, or a part of its path."
        raise ConfigError(msg)
    if text.startswith("~"):
        text = str(Path(text).expanduser())
    # Only what is typed as a place on this disk is looked for from its root on.
    return str(Path(text).resolve()) if text.startswith(".") else text


def _lies_in(path: str, folder: str) -> bool:
    above, wanted = _names(path)[:-1], _names(folder)
    if _is_from_root(folder):
        return above[: len(wanted)] == wanted
    return any(above[start : start + len(wanted)] == wanted for start in range(len(above) - len(wanted) + 1))


def _is_from_root(folder: str) -> bool:
    return "://" in folder or folder.startswith(("/", "\\")) or bool(re.match(r"[A-Za-z]:[/\\]", folder))


def _names(path: str) -> list[str]:
    return [fold(name) for name in re.split(r"[/\\]+", path) if name]


def parse_where(conditions: Iterable[str]) -> list[Condition]:
    """Read conditions as typed.

    Raises:
        ConfigError: Not of one of the three shapes.

    >>> parse_where(["date_taken=1950..1960"])[0].kind
    'between'
    """
    return [_parse(text) for text in conditions]


def _parse(text: str) -> Condition:
    found = _SHAPE.fullmatch(text)
    if not found or not found[2].strip():
        msg = f"where: {text!r} is no condition; write KEY=VALUE, KEY=A..B or KEY=~WORD."
        raise ConfigError(msg)
    key, value = found[1], found[2].strip()
    if value.startswith("~"):
        return Condition(key, "contains", (value[1:].strip(),))
    if ".." in value:
        low, _, high = value.partition("..")
        return Condition(key, "between", (low.strip(), high.strip()))
    return Condition(key, "equal", (value,))


def check_keys(conditions: Iterable[Condition], known: Iterable[str]) -> None:
    """Raise ConfigError for a key that no page has, naming those there are."""
    keys = sorted(set(known))
    for condition in conditions:
        if condition.key not in keys:
            near = difflib.get_close_matches(condition.key, keys, n=1)
            meant = f" Did you mean {near[0]!r}?" if near else ""
            msg = f"where: no page has {condition.key!r}; there are {', '.join(keys)}.{meant}"
            raise ConfigError(msg)


def check_folder_known(folder: str, paths: Iterable[str]) -> None:
    """Raise ConfigError for a folder in which no page lies, naming those there are."""
    folders: set[str] = set()
    for path in paths:
        if _lies_in(path, folder):
            return
        folders.add(re.split(r"[/\\]+", path)[-2] if re.search(r"[^/\\][/\\]", path) else path)
    named = sorted(folders)
    more = f" and {len(named) - _MOST_NAMED} more" if len(named) > _MOST_NAMED else ""
    msg = f"in: no page lies in {folder!r}; there are {', '.join(named[:_MOST_NAMED])}{more}."
    raise ConfigError(msg)


def _key(value: object) -> float | str:
    with contextlib.suppress(ValueError):
        number = float(str(value))
        if math.isfinite(number):  # "nan" and "infinity" are words, or names
            return number
    return fold(str(value))


def _compare(low: object, high: object) -> bool:
    """Tell whether low <= high; `1950..1960` holds all of 1960 where the value is a longer date."""
    first, second = _key(low), _key(high)
    if isinstance(first, float) and isinstance(second, float):
        return first <= second
    first, second = fold(str(low)), fold(str(high))
    return first <= second or first.startswith(second)


_TABLES: Final = (
    """CREATE TABLE IF NOT EXISTS facet_values (
        id INTEGER PRIMARY KEY, key TEXT NOT NULL, value NOT NULL, UNIQUE (key, value))""",
    """CREATE TABLE IF NOT EXISTS facet_pages (
        value_id INTEGER NOT NULL, page INTEGER NOT NULL, PRIMARY KEY (value_id, page)) WITHOUT ROWID""",
)
# CROSS JOIN: the page's few values come first, not the archive's many.
_OF_PAGE: Final = (
    "FROM json_each(?) AS given CROSS JOIN facet_values "
    "ON facet_values.key = given.key AND facet_values.value = given.value"
)


def create(db: sqlite3.Connection) -> None:
    """Make the tables where they are missing."""
    for statement in _TABLES:
        db.execute(statement)


def put(db: sqlite3.Connection, page: int, metadata: Mapping[str, Any]) -> None:
    """Record the metadata of a page that has none recorded.

    Args:
        db: The archive's connection, inside a transaction.
        page: Its number.
        metadata: Flat.
    """
    given = _described(metadata)
    db.execute(
        "INSERT OR IGNORE INTO facet_values (key, value) SELECT key, value FROM json_each(?) WHERE value IS NOT NULL",
        (given,),
    )
    db.execute(f"INSERT INTO facet_pages SELECT facet_values.id, ? {_OF_PAGE}", (page, given))


def delete(db: sqlite3.Connection, page: int, metadata: Mapping[str, Any]) -> None:
    """Take back what was recorded of a page; values that no other page has are forgotten."""
    found = db.execute(f"SELECT facet_values.id {_OF_PAGE}", (_described(metadata),)).fetchall()
    db.executemany("DELETE FROM facet_pages WHERE value_id = ? AND page = ?", [(number, page) for (number,) in found])
    db.executemany(
        "DELETE FROM facet_values WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM facet_pages WHERE value_id = ?1)", found
    )


def _described(metadata: Mapping[str, Any]) -> str:
    known = {**metadata, DAY: day_of(metadata)}
    # SQLite reads no NaN; what is no number is no fact either.
    said = {key: value for key, value in known.items() if not isinstance(value, float) or math.isfinite(value)}
    return json.dumps(said, ensure_ascii=False)


def keys(db: sqlite3.Connection) -> set[str]:
    """Return the keys that any page has."""
    found = db.execute(  # from key to key through the index, past all values
        "WITH RECURSIVE found (key) AS (SELECT min(key) FROM facet_values UNION ALL "
        "SELECT (SELECT min(key) FROM facet_values WHERE key > found.key) FROM found WHERE found.key IS NOT NULL) "
        "SELECT key FROM found WHERE key IS NOT NULL"
    )
    return {key for (key,) in found} - {DAY}


def values(db: sqlite3.Connection, key: str) -> list[Any]:
    """Return the different values of one key."""
    return [value for (value,) in db.execute("SELECT value FROM facet_values WHERE key = ?", (key,))]


def pages_by_value(db: sqlite3.Connection, key: str) -> Iterator[tuple[Any, int]]:
    """Yield the value and the number of each page that has this key."""
    yield from db.execute(
        "SELECT value, page FROM facet_values JOIN facet_pages ON value_id = facet_values.id WHERE key = ?", (key,)
    )


def meant(db: sqlite3.Connection, filter_: Filter) -> set[int] | None:
    """Return the numbers of the pages that a filter means; None: all."""
    found = [_pages_with(db, key, meets) for key, meets in filter_.questions()]
    return set.intersection(*found) if found else None


def _pages_with(db: sqlite3.Connection, key: str, meets: Callable[[Any], bool]) -> set[int]:
    every = db.execute("SELECT id, value FROM facet_values WHERE key = ?", (key,))
    chosen = json.dumps([number for number, value in every if meets(value)])
    pages = db.execute("SELECT page FROM facet_pages WHERE value_id IN (SELECT value FROM json_each(?))", (chosen,))
    return {page for (page,) in pages}
