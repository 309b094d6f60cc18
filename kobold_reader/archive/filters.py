"""Filters: conditions on metadata (`KEY=VALUE`, `KEY=A..B`, `KEY=~WORD`), on the date and on the folder of a page.

The metadata of all pages is indexed in the archive's SQLite file. Pages of one file mostly have the same metadata, so
each value is kept once, with the numbers of its pages: a filter asks hundreds of values, not a hundred thousand pages.
Nothing here begins or ends a transaction: metadata is written with the rows of its pages.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import json
import math
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from kobold_reader.archive.query import fold
from kobold_reader.errors import ConfigError
from kobold_reader.pages import expanded, shown, storable

DATE_KEYS = ("date_taken", "date_digitized", "creation_date", "last_modified_date")
"""The date of a page is the first of them that is known."""
DATE = ""
"""The key of that date in the index; no person can type it."""
LISTS = ("keywords", "persons")
"""Keys whose values are several, joined by commas; a condition is met by one of them, too."""
_MOST_NAMED = 20
"""Folders named in a message."""


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
            several = str(value).split(", ") if self.key in LISTS else ()
            return _comparable(self.values[0]) in map(_comparable, (value, *several))
        low, high = self.values
        return (not low or _is_at_most(low, value)) and (not high or _is_at_most(value, high))


def _comparable(value: object) -> float | str:
    with contextlib.suppress(ValueError):
        number = float(str(value))
        if math.isfinite(number):  # "nan" and "infinity" are words, or names
            return number
    return fold(str(value))


def _is_at_most(low: object, high: object) -> bool:
    """Tell whether low <= high; `1950..1960` includes all of 1960 if the value is a longer date."""
    first, second = _comparable(low), _comparable(high)
    if isinstance(first, float) and isinstance(second, float):
        return first <= second
    first, second = fold(str(low)), fold(str(high))
    return first <= second or first.startswith(second)


@dataclass(frozen=True, slots=True)
class Filter:
    """What the metadata of a hit has to meet."""

    conditions: tuple[Condition, ...] = ()
    since: str = ""
    """First year, month or day, in ISO 8601; "": open."""
    until: str = ""
    """Last year, month or day."""
    folder: str = ""
    """As typed; "": any."""

    def tests(self) -> Iterator[tuple[str, Callable[[Any], bool]]]:
        """Yield keys, each with a test of its value; a page must have all keys and pass all tests."""
        for condition in self.conditions:
            yield condition.key, condition.meets
        if self.since or self.until:
            yield DATE, lambda date: date >= self.since and (not self.until or date[: len(self.until)] <= self.until)
        if self.folder:
            yield "file_path", _inside(self.folder)

    def holds(self, metadata: Mapping[str, Any]) -> bool:
        """Tell whether a page with this metadata is meant."""
        known = {**metadata, DATE: date_of(metadata)}
        return all(known.get(key) is not None and test(known[key]) for key, test in self.tests())


def date_of(metadata: Mapping[str, Any]) -> str | None:
    """Return the date of a page in ISO 8601; None if it is not known."""
    return next((str(metadata[key]) for key in DATE_KEYS if metadata.get(key)), None)


def _inside(folder: str) -> Callable[[str], bool]:
    """Return the test whether a file is in a folder or below it; it looks at each folder of files once."""
    wanted = _names(folder)
    is_absolute = "://" in folder or re.match(r"[/\\]|[A-Za-z]:[/\\]", folder)

    @functools.cache
    def is_below(path: str) -> bool:
        names = _names(path)
        starts = range(1 if is_absolute else max(0, len(names) - len(wanted) + 1))
        return any(names[start : start + len(wanted)] == wanted for start in starts)

    return lambda path: is_below(path[: max(path.rfind("/"), path.rfind("\\")) + 1])


def _names(path: str) -> list[str]:
    return [fold(name) for name in re.split(r"[/\\]+", path) if name]


def parse_filter(
    where: Iterable[str] = (), *, since: str | None = None, until: str | None = None, folder: str | Path | None = None
) -> Filter:
    """Read a filter as typed.

    Raises:
        ConfigError: A condition, date or folder that cannot be read.

    >>> parse_filter(until="1954-06").holds({"date_taken": "1954-06-30T12:00:00"})
    True
    >>> parse_filter(["date_taken=1950..1960"]).conditions[0].kind
    'between'
    """
    first = "" if since is None else _parse_date("since", since)
    last = "" if until is None else _parse_date("until", until)
    if first and last and not _is_at_most(first, last):
        raise ConfigError(f"{first!r} is later than {last!r}: no page is of both.", argument="since")
    within = "" if folder is None else _parse_folder(str(folder))
    return Filter(tuple(map(_parse_condition, where)), first, last, within)


def _parse_condition(text: str) -> Condition:
    found = re.fullmatch(r"\s*(\w+)\s*=\s*(.*)", text, re.DOTALL)
    if not found or not found[2].strip():
        examples = "for example author=Lindqvist, page_number=1..9 or file_name=~letter"
        raise ConfigError(
            f"{text!r} is not a condition; write KEY=VALUE, KEY=A..B or KEY=~WORD, {examples}.", argument="where"
        )
    key, value = found[1], storable(found[2].strip())
    if value.startswith("~"):
        return Condition(key, "contains", (value[1:].strip(),))
    if ".." in value:
        low, high = map(str.strip, value.split("..", 1))
        if low and high and not _is_at_most(low, high):
            raise ConfigError(f"{text!r}: the range runs backwards; write {key}={high}..{low}.", argument="where")
        return Condition(key, "between", (low, high))
    return Condition(key, "equal", (value,))


def _parse_date(name: str, text: str) -> str:
    text = text.strip()
    for shape, length in (("%Y", 4), ("%Y-%m", 7), ("%Y-%m-%d", 10)):
        with contextlib.suppress(ValueError):
            datetime.strptime(text, shape)  # noqa: DTZ007  (a day, of no time zone)
            if len(text) == length:
                return text
    raise ConfigError(f"{text!r} is not a date; write 1954, 1954-03 or 1954-03-12.", argument=name)


def _parse_folder(folder: str) -> str:
    text = shown(folder.strip())
    if not text.strip("/\\"):
        raise ConfigError(f"{folder!r} is not a folder; name one, or a part of its path.", argument="folder")
    if text.startswith("~"):
        text = str(expanded(text))
    # Only a path typed as a place on this disk is absolute.
    return str(Path(text).resolve()) if text.startswith(".") else text


def check_keys(conditions: Iterable[Condition], known: Iterable[str]) -> None:
    """Raise ConfigError for a key that no page has, with the keys that there are."""
    keys = sorted(set(known))
    for condition in conditions:
        if condition.key not in keys:
            near = difflib.get_close_matches(condition.key, keys, n=1)
            meant = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(
                f"no page has {condition.key!r}; the keys are {', '.join(keys)}.{meant}", argument="where"
            )


def check_folder_known(folder: str, paths: Iterable[str]) -> None:
    """Raise ConfigError for a folder that has none of these files, with the folders that there are."""
    folders, is_inside = set[str](), _inside(folder)
    for path in paths:
        if is_inside(path):
            return
        folders.add(re.split(r"[/\\]+", path)[-2] if re.search(r"[^/\\][/\\]", path) else path)
    more = f" and {len(folders) - _MOST_NAMED} more" if len(folders) > _MOST_NAMED else ""
    known = ", ".join(sorted(folders)[:_MOST_NAMED])
    raise ConfigError(f"no page is in {folder!r}; the folders are {known}{more}.", argument="folder")


_TABLES = (
    """CREATE TABLE IF NOT EXISTS facet_values (
        id INTEGER PRIMARY KEY, key TEXT NOT NULL, value NOT NULL, UNIQUE (key, value))""",
    """CREATE TABLE IF NOT EXISTS facet_pages (
        value_id INTEGER NOT NULL, page INTEGER NOT NULL, PRIMARY KEY (value_id, page)) WITHOUT ROWID""",
)
# CROSS JOIN: the page's few values come first, not the archive's many.
_OF_PAGE = (
    "FROM json_each(?) AS given CROSS JOIN facet_values "
    "ON facet_values.key = given.key AND facet_values.value = given.value"
)


def create(db: sqlite3.Connection) -> None:
    """Make the tables where they are missing."""
    for statement in _TABLES:
        db.execute(statement)


def put(db: sqlite3.Connection, page: int, metadata: Mapping[str, Any]) -> None:
    """Index the metadata of a page, by its number, that has none indexed."""
    given = _indexed(metadata)
    db.execute(
        "INSERT OR IGNORE INTO facet_values (key, value) SELECT key, value FROM json_each(?) WHERE value IS NOT NULL",
        (given,),
    )
    db.execute(f"INSERT INTO facet_pages SELECT facet_values.id, ? {_OF_PAGE}", (page, given))


def delete(db: sqlite3.Connection, page: int, metadata: Mapping[str, Any]) -> None:
    """Remove the metadata of a page, and values that no other page has."""
    found = db.execute(f"SELECT facet_values.id {_OF_PAGE}", (_indexed(metadata),)).fetchall()
    db.executemany("DELETE FROM facet_pages WHERE value_id = ? AND page = ?", [(number, page) for (number,) in found])
    db.executemany(
        "DELETE FROM facet_values WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM facet_pages WHERE value_id = ?1)", found
    )


def _indexed(metadata: Mapping[str, Any]) -> str:
    known = {**metadata, DATE: date_of(metadata)}
    # SQLite's JSON has no NaN and no infinity.
    finite = {key: value for key, value in known.items() if not isinstance(value, float) or math.isfinite(value)}
    return json.dumps(finite, ensure_ascii=False)


def keys(db: sqlite3.Connection) -> set[str]:
    """Return the keys that any page has."""
    found = db.execute(  # from key to key through the index, past all values
        "WITH RECURSIVE found (key) AS (SELECT min(key) FROM facet_values UNION ALL "
        "SELECT (SELECT min(key) FROM facet_values WHERE key > found.key) FROM found WHERE found.key IS NOT NULL) "
        "SELECT key FROM found WHERE key IS NOT NULL"
    )
    return {key for (key,) in found} - {DATE}


def meant(db: sqlite3.Connection, filter_: Filter) -> set[int] | None:
    """Return the numbers of the pages that a filter means; None: all."""
    found = []
    for key, test in filter_.tests():
        rows = db.execute("SELECT id, value FROM facet_values WHERE key = ?", (key,))
        chosen = json.dumps([number for number, value in rows if test(value)])
        pages = db.execute("SELECT page FROM facet_pages WHERE value_id IN (SELECT value FROM json_each(?))", (chosen,))
        found.append({page for (page,) in pages})
    return set.intersection(*found) if found else None
