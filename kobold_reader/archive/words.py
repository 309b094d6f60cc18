"""The words of all pages, inside the archive's own SQLite file.

Two FTS5 indexes over the same folded text: whole words, and trigrams for what was misread or glued
together. The text is stored once, in `word_pages`; both indexes only point at it. Nothing here
begins or ends a transaction: the caller writes words and `indexed_as` in one, so that a crash
leaves a page either findable or due.

Folding is done here and not by SQLite's tokenizers, because the trigram tokenizer learned to ignore
accents only in 3.45.

How the index of trigrams is asked: for misreadings of words, and for runs of characters between which no space is.

Trigrams that stand on many pages say next to nothing and cost the most, so the rarest are asked for.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

from kobold_reader.archive.matching import Evidence, Page, Resemblances, weighed
from kobold_reader.archive.query import Kind, Query, Term, fold, is_unspaced

__all__ = [
    "Lookup",
    "compact",
    "containing",
    "create",
    "delete",
    "document_frequency",
    "evidence",
    "look_up",
    "page_count",
    "put",
    "quoted",
    "resembling",
    "search_trigrams",
    "search_words",
]

_TRIGRAM = 3
_MAX_TRIGRAMS = 100  # the rarest of a long query
_MAX_BEGINNINGS = 300  # trigrams that begin with two characters of Chinese
_LEAST_TRIGRAMS = 3
"""Of each term, unless they stand on too many pages: then its halves, one of which a misread letter leaves alone."""


def resembling(db: sqlite3.Connection, terms: Sequence[Term], most_postings: int) -> str:
    """Any of the trigrams of the terms, the rarest of each term first, as many as stand on so many pages."""
    of_terms = [_trigrams(term.folded) for term in terms]
    # Last of all those over the gaps: they tell a number that stands alone from the end of another.
    of_terms.append(_trigrams(" ".join(term.folded for term in terms)).difference(*of_terms))
    counts: dict[str, int] = dict(
        db.execute(
            "SELECT term, doc FROM trigram_counts WHERE term IN (SELECT value FROM json_each(?))",
            (_listed(set().union(*of_terms)),),
        )
    )
    ranked = [sorted((counts[one], one) for one in trigrams if one in counts) for trigrams in of_terms]
    chosen: dict[str, None] = {}
    for of_term, term in enumerate(terms):
        if sum(count for count, _ in ranked[of_term][:_LEAST_TRIGRAMS]) > most_postings and (both := _halves(term)):
            chosen |= dict.fromkeys(both)
            ranked[of_term] = []
    postings = 0
    for position in range(max(map(len, ranked), default=0)):
        for of_term, trigrams in enumerate(ranked):
            if position < len(trigrams) and trigrams[position][1] not in chosen:
                postings += trigrams[position][0]
                is_needed = position < _LEAST_TRIGRAMS and of_term < len(terms)
                if is_needed or postings <= most_postings:
                    chosen[trigrams[position][1]] = None
    return " OR ".join(quoted(trigram) for trigram in list(chosen)[:_MAX_TRIGRAMS])


def _trigrams(folded: str) -> set[str]:
    return {folded[start : start + _TRIGRAM] for start in range(len(folded) - _TRIGRAM + 1)}


def _halves(term: Term) -> list[str]:
    middle = len(term.folded) // 2
    return [term.folded[:middle], term.folded[middle:]] if middle >= _TRIGRAM else []


def containing(db: sqlite3.Connection, folded: str) -> str:
    """Ask the trigrams for a run of characters as it is; a shorter one than a trigram by all that begin with it."""
    if len(folded) >= _TRIGRAM:
        return quoted(folded)
    beginning = db.execute(
        "SELECT term FROM trigram_counts WHERE term >= ? AND term < ? ORDER BY doc DESC, term LIMIT ?",
        (folded, folded + "\U0010ffff", _MAX_BEGINNINGS),
    )
    return " OR ".join(quoted(trigram) for (trigram,) in beginning)


def _listed(values: Iterable[str]) -> str:
    return json.dumps(sorted(values))


def quoted(term: str) -> str:
    """Write a term so that an index takes it as it is."""
    return '"' + term.replace('"', '""') + '"'


Ranked = list[tuple[str, float]]
"""Page ids with their scores, the best first."""

NAMES_WEIGHT = 0.3
"""Of a word in the file's or folder's name, against one on the page."""

_WORD_POSTINGS = 20_000
"""Pages that one query's words may stand on, each word counted for itself: what is weighed costs 3 µs a page. Words on
more pages than that say next to nothing, and are looked for only where the rarer ones stand."""
_TRIGRAM_POSTINGS = 15_000
_NEAR_POSTINGS = 5_000
_CANDIDATES_PER_TERM = 20
_END = "\n\n"
"""Behind each page's text: so the last two characters, too, begin a trigram."""
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
    "CREATE VIRTUAL TABLE IF NOT EXISTS word_counts USING fts5vocab ('words', 'row')",
    "CREATE VIRTUAL TABLE IF NOT EXISTS trigram_counts USING fts5vocab ('trigrams', 'row')",
)


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


def put(db: sqlite3.Connection, page_id: str, *, text: str, names: str, number: int | None = None) -> None:
    """Index a page, in place of what was indexed under its id.

    Args:
        db: The archive's connection, inside a transaction.
        page_id: Key of the page.
        number: By which searches are narrowed to some pages; None: the next that is free.
        text: Its text.
        names: Words of its file and folder names.
    """
    delete(db, page_id)
    body = fold(text + _rejoined(text)) + _END
    row = (body, fold(names))
    number = db.execute("INSERT INTO word_pages VALUES (?, ?, ?, ?)", (number, page_id, *row)).lastrowid
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
    only: Container[int] | None = None,
    also: Iterable[str] = (),
) -> Lookup:
    """Ask both indexes, and weigh what the pages found really hold.

    Args:
        db: The archive's connection.
        query: What is asked.
        limit: Length of each list.
        only: Only pages of these numbers, where given.
        also: Further pages to be weighed: those the vectors found.
    """
    frequencies = tuple(document_frequency(db, term) for term in query.terms)
    with _only(db, only) as wanted:
        words = _search_words(db, query, frequencies, limit, wanted)
        trigrams = _search_trigrams(db, query, frequencies, limit, wanted)
        near = _near_candidates(db, query, frequencies, wanted) + _neighbours(db, query, frequencies, limit, wanted)
    found = dict.fromkeys([*(page for page, _ in words + trigrams), *near, *also])
    weighed = evidence(db, query, found, frequencies)
    return Lookup(words, trigrams, frequencies, page_count(db), weighed)


def search_words(db: sqlite3.Connection, query: Query, limit: int, only: Container[int] | None = None) -> Ranked:
    """Pages that hold any of the terms as whole words, by bm25 (higher is better)."""
    frequencies = tuple(document_frequency(db, term) for term in query.terms)
    with _only(db, only) as wanted:
        return _search_words(db, query, frequencies, limit, wanted)


def search_trigrams(db: sqlite3.Connection, query: Query, limit: int, only: Container[int] | None = None) -> Ranked:
    """Pages that share trigrams with the query, by bm25 (higher is better); of terms on few pages as typed alone."""
    frequencies = tuple(document_frequency(db, term) for term in query.terms)
    with _only(db, only) as wanted:
        return _search_trigrams(db, query, frequencies, limit, wanted)


def document_frequency(db: sqlite3.Connection, term: Term) -> int:
    """On how many pages the term stands as typed, or written another way."""
    if is_unspaced(term.folded):
        return _count(db, "trigrams", containing(db, term.folded))
    if len(term.parts) == 1 and not term.notation:
        row = db.execute("SELECT doc FROM word_counts WHERE term = ?", term.parts).fetchone()
        return int(row[0]) if row else 0
    return _count(db, "words", _phrases(term))


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
    pages = {page_id: Page(body, names) for page_id, body, names in rows}
    resemblances = Resemblances(list(pages.values()))
    return {page_id: weighed(query, page, frequencies, resemblances) for page_id, page in pages.items()}


def _near_candidates(
    db: sqlite3.Connection,
    query: Query,
    frequencies: tuple[int, ...],
    wanted: str,
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
            expression = resembling(db, [term], _NEAR_POSTINGS)
            found += [page for page, _ in _match(db, "trigrams", expression, _CANDIDATES_PER_TERM, wanted)]
    return found


def _neighbours(
    db: sqlite3.Connection, query: Query, frequencies: tuple[int, ...], limit: int, wanted: str
) -> list[str]:
    """Pages on which terms stand side by side as in the query, where each stands on more pages than are weighed."""
    pairs = [
        quoted(" ".join((*first.parts, *second.parts)))
        for (first, one), (second, other) in pairwise(zip(query.terms, frequencies, strict=True))
        if min(one, other) > _WORD_POSTINGS and Kind.STOP not in {first.kind, second.kind}
    ]
    is_common = all(
        frequency > _WORD_POSTINGS
        for term, frequency in zip(query.terms, frequencies, strict=True)
        if term.kind is not Kind.STOP
    )
    return [page for page, _ in _match(db, "words", " OR ".join(pairs), limit, wanted)] if is_common else []


def _search_words(
    db: sqlite3.Connection, query: Query, frequencies: tuple[int, ...], limit: int, wanted: str
) -> Ranked:
    terms = _telling(query, frequencies)
    chosen = [phrases for _, phrases in terms[:1]]
    postings = terms[0][0] if terms else 0
    if postings > _WORD_POSTINGS:  # the rarest of them stands on so many pages: together they stand on fewer
        return _match(db, "words", " AND ".join(f"({phrases})" for _, phrases in terms), limit, wanted)
    for frequency, phrases in terms[1:]:
        postings += frequency
        if postings > _WORD_POSTINGS:
            break
        chosen.append(phrases)
    return _match(db, "words", " OR ".join(chosen), limit, wanted)


def _telling(query: Query, frequencies: tuple[int, ...]) -> list[tuple[int, str]]:
    """The terms that say something, each with its frequency and how the index is asked, the rarest first."""
    every = [
        (frequency, term.kind is Kind.STOP, _phrases(term))
        for term, frequency in zip(query.terms, frequencies, strict=True)
        if not is_unspaced(term.folded)
    ]
    said = [one for one in every if not one[1]] or every
    return sorted((frequency, phrases) for frequency, _, phrases in said)


def _phrases(term: Term) -> str:
    phrases = [term.parts, *(term.notation.phrases if term.notation else ())]
    return " OR ".join(dict.fromkeys(quoted(" ".join(phrase)) for phrase in phrases))


def _search_trigrams(
    db: sqlite3.Connection, query: Query, frequencies: tuple[int, ...], limit: int, wanted: str
) -> Ranked:
    """Misreadings of what stands on few pages as typed: what stands on many needs none to fill the list."""
    said = [pair for pair in zip(query.terms, frequencies, strict=True) if pair[0].kind is not Kind.STOP]
    terms = [term for term, frequency in said or zip(query.terms, frequencies, strict=True) if frequency < limit]
    spaced = [term for term in terms if not is_unspaced(term.folded)]
    expressions = [resembling(db, spaced, _TRIGRAM_POSTINGS)]
    # Without spaces between words the characters themselves are looked for.
    expressions += [containing(db, term.folded) for term, _ in said if is_unspaced(term.folded)]
    expressions += [resembling(db, [term], _NEAR_POSTINGS) for term in terms if is_unspaced(term.folded)]
    return _match(db, "trigrams", " OR ".join(filter(None, expressions)), limit, wanted)


@contextmanager
def _only(db: sqlite3.Connection, pages: Container[int] | None) -> Iterator[str]:
    """Give the condition under which a row of an index is wanted."""
    if pages is None:
        yield ""
        return
    db.create_function("is_wanted", 1, pages.__contains__)
    try:
        yield "AND is_wanted(rowid)"
    finally:
        db.create_function("is_wanted", 1, None)


def _match(db: sqlite3.Connection, table: str, expression: str, limit: int, wanted: str) -> Ranked:
    if not expression:
        return []
    found = db.execute(
        f"""SELECT page_id, -score FROM (
            SELECT number, score FROM (
                SELECT rowid AS number, bm25({table}, 1.0, {NAMES_WEIGHT}) AS score FROM {table}
                WHERE {table} MATCH ? {wanted} LIMIT {_WORD_POSTINGS}
            ) ORDER BY score LIMIT ?
        ) JOIN word_pages ON word_pages.id = number ORDER BY score, page_id""",  # noqa: S608
        (expression, limit),
    )
    return [(page_id, score) for page_id, score in found]


def _count(db: sqlite3.Connection, table: str, expression: str) -> int:
    if not expression:
        return 0
    found: int = db.execute(f"SELECT count(*) FROM {table} WHERE {table} MATCH ?", (expression,)).fetchone()[0]  # noqa: S608
    return found
