"""The words of all pages, inside the archive's own SQLite file.

Two FTS5 indexes over the same folded text: whole words, and trigrams for what was misread or glued
together. The text is stored once, in `word_pages`; both indexes only point at it. Nothing here
begins or ends a transaction: the caller writes words and `indexed_as` in one, so that a crash
leaves a page either findable or due.

Folding is done here and not by SQLite's tokenizers, because the trigram tokenizer learned to ignore
accents only in 3.45.
"""

from __future__ import annotations

import json
import math
import re
import sqlite3
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from kobold_reader.archive.matching import Page, follows, match_strength
from kobold_reader.archive.query import Kind, Query, Term, fold, is_unspaced

__all__ = [
    "Evidence",
    "Lookup",
    "compact",
    "create",
    "delete",
    "document_frequency",
    "evidence",
    "look_up",
    "page_count",
    "put",
    "search_trigrams",
    "search_words",
]

Ranked = list[tuple[str, float]]
"""Page ids with their scores, the best first."""

NAMES_WEIGHT = 0.3
"""Of a word in the file's or folder's name, against one on the page."""

_TRIGRAM = 3
_MAX_TRIGRAMS = 100  # the rarest of a long query
_ENOUGH_TRIGRAMS = 12
_FEW_PAGES = 1000  # so few that even trigrams on all of them cost nothing
_CANDIDATES_PER_TERM = 20
_TELLING_DIGITS = 3
_LONELY_NUMBER = 0.3
_HYPHENATED = re.compile(r"([^\W\d_]+)[-¬⸗]\s*\n\s*([^\W\d_]+)")

_TABLES = (
    """CREATE TABLE IF NOT EXISTS word_pages (
        id INTEGER PRIMARY KEY,
        page_id TEXT NOT NULL UNIQUE,
        body TEXT NOT NULL,
        names TEXT NOT NULL
    )""",
    """CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5 (
        body, names,
        content='word_pages', content_rowid='id', tokenize='unicode61 remove_diacritics 2'
    )""",
    """CREATE VIRTUAL TABLE IF NOT EXISTS trigrams USING fts5 (
        body, names, content='word_pages', content_rowid='id', tokenize='trigram'
    )""",
    "CREATE VIRTUAL TABLE IF NOT EXISTS trigram_counts USING fts5vocab ('trigrams', 'row')",
)


@dataclass(frozen=True)
class Evidence:
    """What one page holds of one query.

    Attributes:
        strengths: For each term, how surely the page holds it: 1 as typed … 0 not at all.
        adjacent: For each term but the last, whether the next one follows it on the page.
    """

    strengths: tuple[float, ...]
    adjacent: tuple[bool, ...]


@dataclass(frozen=True)
class Lookup:
    """Everything the words know about a query.

    Attributes:
        words: Pages by bm25 of whole words.
        trigrams: Pages by bm25 of trigrams.
        frequencies: For each term, on how many pages it stands as typed.
        pages: Number of pages indexed.
        evidence: For each page of the lists (and each asked for besides) how surely it holds each
            term, 0 to 1.
    """

    words: Ranked
    trigrams: Ranked
    frequencies: tuple[int, ...]
    pages: int
    evidence: Mapping[str, Evidence]


# ── writing ───────────────────────────────────────────────────────────────────────────────────────


def create(db: sqlite3.Connection) -> None:
    """Make the tables where they are missing."""
    for statement in _TABLES:
        db.execute(statement)


def put(db: sqlite3.Connection, page_id: str, *, text: str, names: str) -> None:
    """Index a page, in place of what was indexed under its id.

    Args:
        db: The archive's connection, inside a transaction.
        page_id: Key of the page.
        text: Its text.
        names: Words of its file and folder names.
    """
    delete(db, page_id)
    body = fold(text + _rejoined(text))
    row = (body, fold(names))
    number = db.execute("INSERT INTO word_pages (page_id, body, names) VALUES (?, ?, ?)", (page_id, *row)).lastrowid
    db.execute("INSERT INTO words (rowid, body, names) VALUES (?, ?, ?)", (number, *row))
    db.execute("INSERT INTO trigrams (rowid, body, names) VALUES (?, ?, ?)", (number, *row))


def delete(db: sqlite3.Connection, page_id: str) -> None:
    """Take a page out of the index; nothing happens where it is not in it."""
    found = db.execute("SELECT id, body, names FROM word_pages WHERE page_id = ?", (page_id,)).fetchone()
    if found is None:
        return
    # An index without its own copy of the text has to be told what it is to forget.
    for table in ("words", "trigrams"):
        db.execute(
            f"INSERT INTO {table} ({table}, rowid, body, names) VALUES ('delete', ?, ?, ?)",  # noqa: S608
            found,
        )
    db.execute("DELETE FROM word_pages WHERE id = ?", found[:1])


def compact(db: sqlite3.Connection) -> None:
    """Write both indexes anew: until then they hold the words of deleted pages, each with a mark that it is gone."""
    for table in ("words", "trigrams"):
        db.execute(f"INSERT INTO {table} ({table}) VALUES ('optimize')")  # noqa: S608


def _rejoined(text: str) -> str:
    """Words broken at the end of a line, whole, to be indexed beside their halves."""
    whole = [first + second for first, second in _HYPHENATED.findall(text)]
    return "\n" + " ".join(whole) if whole else ""


# ── searching ─────────────────────────────────────────────────────────────────────────────────────


def look_up(
    db: sqlite3.Connection,
    query: Query,
    limit: int,
    *,
    ids: Collection[str] | None = None,
    also: Iterable[str] = (),
) -> Lookup:
    """Ask both indexes, and weigh what the pages found really hold.

    Args:
        db: The archive's connection.
        query: What is asked.
        limit: Length of each list.
        ids: Only these pages, where given.
        also: Further pages to be weighed: those the vectors found.
    """
    words = search_words(db, query, limit, ids)
    trigrams = search_trigrams(db, query, limit, ids)
    frequencies = tuple(document_frequency(db, term) for term in query.terms)
    near = _near_candidates(db, query, frequencies, ids)
    found = dict.fromkeys([*(page for page, _ in words + trigrams), *near, *also])
    weighed = evidence(db, query, found, frequencies)
    return Lookup(words, trigrams, frequencies, page_count(db), weighed)


def search_words(db: sqlite3.Connection, query: Query, limit: int, ids: Collection[str] | None = None) -> Ranked:
    """Pages that hold any of the terms as whole words, by bm25 (higher is better)."""
    terms = [term for term in query.terms if term.kind is not Kind.STOP] or query.terms
    return _match(db, "words", " OR ".join(_quote(" ".join(term.parts)) for term in terms), limit, ids)


def search_trigrams(db: sqlite3.Connection, query: Query, limit: int, ids: Collection[str] | None = None) -> Ranked:
    """Pages that share trigrams with the query, by bm25 (higher is better).

    Terms of two characters have no trigrams; those of scripts without spaces are looked for as
    they are.
    """
    terms = [term for term in query.terms if term.kind is not Kind.STOP] or query.terms
    scores = dict(_match(db, "trigrams", _trigram_expression(db, terms), limit, ids))
    for term in terms:
        if len(term.folded) < _TRIGRAM and is_unspaced(term.folded):
            for page, score in _containing(db, term.folded, limit, ids):
                scores[page] = scores.get(page, 0.0) + score
    return sorted(scores.items(), key=lambda hit: (-hit[1], hit[0]))[:limit]


def document_frequency(db: sqlite3.Connection, term: Term) -> int:
    """On how many pages the term stands as typed."""
    if is_unspaced(term.folded):
        return _count_containing(db, term.folded)
    phrase = _quote(" ".join(term.parts))
    found: int = db.execute("SELECT count(*) FROM words WHERE words MATCH ?", (phrase,)).fetchone()[0]
    return found


def page_count(db: sqlite3.Connection) -> int:
    """Number of pages indexed."""
    found: int = db.execute("SELECT count(*) FROM word_pages").fetchone()[0]
    return found


def evidence(
    db: sqlite3.Connection, query: Query, page_ids: Iterable[str], frequencies: tuple[int, ...]
) -> dict[str, Evidence]:
    """Weigh what pages hold of the query; pages that are not indexed are left out."""
    rows = db.execute(
        """SELECT page_id, body, names FROM word_pages
        WHERE page_id IN (SELECT value FROM json_each(?))""",
        (json.dumps(list(page_ids)),),
    )
    result: dict[str, Evidence] = {}
    for page_id, body, names in rows:
        page = Page(body, names)
        result[page_id] = _weigh_page(query, page, frequencies)
    return result


def _weigh_page(query: Query, page: Page, frequencies: tuple[int, ...]) -> Evidence:
    adjacent = tuple(follows(*pair, page) for pair in pairwise(query.terms))
    strengths = []
    for index, (term, frequency) in enumerate(zip(query.terms, frequencies, strict=True)):
        strength = match_strength(term, page, is_known=frequency > 0)
        # a 12 stands on every page; the 12 of "12 March" stands beside its March
        if adjacent and term.kind is Kind.NUMBER and len(term.folded) < _TELLING_DIGITS:
            strength *= 1.0 if any(adjacent[max(0, index - 1) : index + 1]) else _LONELY_NUMBER
        strengths.append(strength)
    return Evidence(tuple(strengths), adjacent)


def _near_candidates(
    db: sqlite3.Connection,
    query: Query,
    frequencies: tuple[int, ...],
    ids: Collection[str] | None,
) -> list[str]:
    """Pages that may hold a misreading of a rare term, whatever else they share with the query.

    A page with one misread name would drown in the list of the whole query among those that share
    its common words.
    """
    if len(query.terms) == 1:
        return []
    found: list[str] = []
    for term, frequency in zip(query.terms, frequencies, strict=True):
        if frequency <= _CANDIDATES_PER_TERM and term.kind is not Kind.STOP:
            expression = _trigram_expression(db, [term])
            found += [page for page, _ in _match(db, "trigrams", expression, _CANDIDATES_PER_TERM, ids)]
    return found


def _match(db: sqlite3.Connection, table: str, expression: str, limit: int, ids: Collection[str] | None) -> Ranked:
    if not expression:
        return []
    wanted = ""
    parameters: list[object] = [expression]
    if ids is not None:
        wanted = """AND rowid IN (
            SELECT id FROM word_pages WHERE page_id IN (SELECT value FROM json_each(?)))"""
        parameters.append(json.dumps(list(ids)))
    found = db.execute(
        f"""SELECT page_id, -score FROM (
            SELECT rowid AS number, bm25({table}, 1.0, {NAMES_WEIGHT}) AS score FROM {table}
            WHERE {table} MATCH ? {wanted} ORDER BY score LIMIT ?
        ) JOIN word_pages ON word_pages.id = number ORDER BY score, page_id""",  # noqa: S608
        (*parameters, limit),
    )
    return [(page_id, score) for page_id, score in found]


def _trigram_expression(db: sqlite3.Connection, terms: Iterable[Term]) -> str:
    """Any of the trigrams of the terms, less those on so many pages that they only cost time."""
    text = " ".join(term.folded for term in terms)
    wanted = {text[start : start + _TRIGRAM] for start in range(len(text) - _TRIGRAM + 1)}
    counts = db.execute(
        """SELECT term, doc FROM trigram_counts
        WHERE term IN (SELECT value FROM json_each(?)) ORDER BY doc, term""",
        (json.dumps(sorted(wanted)),),
    ).fetchall()
    common = max(_FEW_PAGES, page_count(db) // 5)
    rare = [trigram for trigram, pages in counts if pages <= common]
    chosen = rare if len(rare) >= _ENOUGH_TRIGRAMS else [trigram for trigram, _ in counts]
    return " OR ".join(map(_quote, chosen[:_MAX_TRIGRAMS]))


def _containing(db: sqlite3.Connection, folded: str, limit: int, ids: Collection[str] | None) -> Ranked:
    """Pages that hold the characters, each with the same score: the term's rarity."""
    rows = db.execute("SELECT page_id FROM word_pages WHERE instr(body, ?) ORDER BY id", (folded,))
    wanted = None if ids is None else set(ids)
    found = [page for (page,) in rows if wanted is None or page in wanted]
    rarity = math.log(1 + page_count(db) / max(1, len(found)))
    return [(page, rarity) for page in found[:limit]]


def _count_containing(db: sqlite3.Connection, folded: str) -> int:
    found: int = db.execute("SELECT count(*) FROM word_pages WHERE instr(body, ?)", (folded,)).fetchone()[0]
    return found


def _quote(term: str) -> str:
    return '"' + term.replace('"', '""') + '"'
