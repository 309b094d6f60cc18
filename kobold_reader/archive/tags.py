"""The tags of an archive: how often each is used, which are nearly the same, and the names that people gave to them.

A rename is a rule of the archive: it changes every page at once, and later readings get it too. It is of the model's
tags only; keywords that people wrote into a file are theirs.

Nothing here begins or ends a transaction: rules, the pages they change and their words are written in one.
"""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from kobold_reader.archive.query import fold
from kobold_reader.archive.rows import PageRow, version_of
from kobold_reader.errors import ConfigError
from kobold_reader.vocabulary import number_forms

PART = "tags"


@dataclass(frozen=True, slots=True)
class TagCount:
    """How often a tag is used."""

    tag: str
    pages: int
    by_people: int
    """Of these pages, those in whose files people wrote it."""


@dataclass(frozen=True, slots=True)
class TagStatistics:
    """The tags of an archive."""

    counts: tuple[TagCount, ...]
    """The most used first."""
    pages: int
    """Pages that have any."""
    near: tuple[tuple[TagCount, ...], ...]
    """Tags that differ in case, accents, hyphens or number only, the most used of each group first."""

    @property
    def once(self) -> tuple[str, ...]:
        """Tags of one page only."""
        return tuple(one.tag for one in self.counts if one.pages == 1)

    def to_json(self) -> dict[str, Any]:
        """Return the stable form that the command line prints."""
        return {
            "pages": self.pages,
            "counts": [{"tag": one.tag, "pages": one.pages, "by_people": one.by_people} for one in self.counts],
            "once": list(self.once),
            "near": [[one.tag for one in group] for group in self.near],
        }


def statistics(keywords: Iterable[tuple[str, str]]) -> TagStatistics:
    """Count the tags of pages, each given as the keywords that people wrote and the text of the model's tags."""
    from kobold_reader.reading.tags import keywords_of  # compiles many patterns

    pages: Counter[str] = Counter()
    by_people: Counter[str] = Counter()
    tagged = 0
    for joined, text in keywords:
        written = set(tags_in(joined))
        tags = written.union(keywords_of(text))
        tagged += bool(tags)
        pages.update(tags)
        by_people.update(written)
    counts = [TagCount(tag, count, by_people[tag]) for tag, count in pages.items()]
    counts.sort(key=lambda one: (-one.pages, one.tag))
    return TagStatistics(tuple(counts), tagged, tuple(_near(counts)))


def tags_in(joined: str) -> list[str]:
    """Return the tags in a page's metadata `keywords`."""
    return [tag for tag in joined.split(", ") if tag]


def _near(counts: Iterable[TagCount]) -> Iterable[tuple[TagCount, ...]]:
    groups: dict[str, list[TagCount]] = {}
    for one in counts:
        key = re.sub(r"[\s_-]+", "", fold(one.tag))
        known = next((form for form in (key, *sorted(number_forms(key))) if form in groups), key)
        groups.setdefault(known, []).append(one)
    return [tuple(group) for group in groups.values() if len(group) > 1]


# ── renames ──────────────────────────────────────────────────────────────────────────────────────


def parse_names(given: Iterable[str]) -> dict[str, str]:
    """Read `automobile=car`, once for each rename.

    Raises:
        ConfigError: One is of another shape.
    """
    names = {}
    for text in given:
        old, separator, new = text.partition("=")
        if not separator:
            raise ConfigError(f"{text!r} is not OLD=NEW; write for example automobile=car.", argument="rename")
        names[old] = new
    return checked(names)


def checked(names: Mapping[str, str]) -> dict[str, str]:
    """Return names without needless spaces.

    Raises:
        ConfigError: One is empty or holds a comma.
    """
    clean = {" ".join(old.split()): " ".join(new.split()) for old, new in names.items()}
    for old, new in clean.items():
        if not old or not new or re.search("[,\n]", old + new):
            raise ConfigError(f"{old!r} cannot be renamed to {new!r}: a tag is a word without commas.")
    return clean


def rules(db: sqlite3.Connection) -> dict[str, str]:
    """Return the new name of each tag that was renamed, by its folded old name."""
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'tag_names'").fetchone():
        return {}
    return dict(db.execute("SELECT tag, name FROM tag_names"))


def put_rules(db: sqlite3.Connection, names: Mapping[str, str]) -> dict[str, str]:
    """Add renames, in this order, and return all rules; what was renamed to a tag follows where that one goes."""
    # Made with the first rename: archives without any, also those of earlier releases, are the same as before.
    db.execute("CREATE TABLE IF NOT EXISTS tag_names (tag TEXT PRIMARY KEY, name TEXT NOT NULL)")
    known = rules(db)
    for old, new in names.items():
        known = {tag: new if name.casefold() == old.casefold() else name for tag, name in known.items()}
        known[old.casefold()] = new
    db.execute("DELETE FROM tag_names")
    db.executemany("INSERT INTO tag_names VALUES (?, ?)", known.items())
    return known


def renamed(row: PageRow, names: Mapping[str, str]) -> PageRow:
    """Return a page whose model's tags have the names that people gave to them; the page itself where none changes."""
    text = row.parts.get(PART, "")
    if not names or not text:
        return row
    from kobold_reader.reading.tags import description_of, keywords_of, with_keywords  # compiles many patterns

    tags = keywords_of(text)
    new = tuple(dict.fromkeys(names.get(tag.casefold(), tag) for tag in tags))
    if new == tags:
        return row
    parts = {**row.parts, PART: with_keywords(description_of(text), new)}
    metadata = dict(row.metadata)
    if metadata.get("keywords_source") == "model":
        metadata["keywords"] = ", ".join(new)
    if "tag_paths" in metadata:
        paths = [path.split("|") for path in tags_in(str(metadata["tag_paths"]))]
        named = ("|".join((*above, names.get(tag.casefold(), tag))) for *above, tag in paths)
        metadata["tag_paths"] = ", ".join(dict.fromkeys(named))
    return replace(row, parts=parts, version=version_of(parts), metadata=metadata)
