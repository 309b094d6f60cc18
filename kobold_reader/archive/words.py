"""The index of words in the archive's SQLite file, and which pages it finds for a query.

Two FTS5 indexes share one folded text: whole words, and trigrams for words that were misread or glued together. The
text is stored once, in `word_pages`; both indexes refer to it. Nothing here begins or ends a transaction: the caller
writes words and `indexed_as` in one, so that after a crash a page is either found or due.

Text is folded here and not by SQLite's tokenizers: the trigram tokenizer ignores accents only since SQLite 3.45.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

from kobold_reader.archive.query import HYPHENS, RUNS, Kind, Query, Term, fold, is_unspaced
from kobold_reader.archive.ranking import Misreadings, PageText, Ranked, WordHits, evidence_of

NAMES_WEIGHT = 0.3
"""Weight of a word in the file's or folder's name, against one on the page."""

_WORD_POSTINGS = 20_000
"""Pages that one query's words may be on, each word counted for itself: to weigh a page costs 3 µs. Words on more pages
say next to nothing, and are looked for only on the pages that hold the rarer ones."""
_TRIGRAM_POSTINGS = 15_000
_NEAR_POSTINGS = 5_000
_CANDIDATES_PER_TERM = 20
_TRIGRAM = 3
_MAX_TRIGRAMS = 100
"""The rarest of a long query."""
_LEAST_TRIGRAMS = 3
"""Asked for each term. If they are on too many pages, its halves are, one of which a misread letter leaves intact."""
_MAX_BEGINNINGS = 300
"""Trigrams that begin with two characters of Chinese."""
_END = "\n\n"
"""After each page's text, so that its last two characters begin a trigram too."""
_EMPHASIS = re.compile(
    r"(\*{1,3}|~~|`)(?=\S)([^*~`\n]*[^\W\d_][^*~`\n]*)(?<=\S)\1|</?(?:b|i|u|s|em|strong|mark|su[bp])>"
)
"""Marks of Markdown, which may stand inside a word."""
_HYPHENATED = re.compile(rf"([^\W\d_]+)[{HYPHENS}]\s*\n\s*([^\W\d_]+)")
_INNER_HYPHEN = re.compile(r"(?<=[^\W\d_])-(?=[^\W\d_])")
_APART = "\nǂ\n"
"""A letter that no text has: without it the last words of a page and the first of what is added would be a phrase."""

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


def create(db: sqlite3.Connection) -> None:
    """Make the tables where they are missing."""
    for statement in _TABLES:
        db.execute(statement)


def put(db: sqlite3.Connection, page_id: str, *, text: str, names: str, number: int | None = None) -> None:
    """Index a page in place of what was indexed under its id.

    `names` are the words of its file and folder names; `number` is its row id, by which searches are narrowed (None:
    the next that is free).
    """
    # Words broken at the end of a line are whole (`fold`). Their halves are indexed too, since the hyphen may be the
    # word's own, and so are words parted by marks of Markdown.
    also = [f"{first}-{second}" for first, second in _HYPHENATED.findall(text)]
    if (plain := _EMPHASIS.sub(r"\2", text)) != text:
        parted = set(RUNS.findall(text))
        also += [word for word in dict.fromkeys(RUNS.findall(plain)) if word not in parted]
    row = (fold(text) + (_APART + fold("\n".join(also)) if also else "") + _END, fold(names))
    before = db.execute("SELECT id, body, names FROM word_pages WHERE page_id = ?", (page_id,)).fetchone()
    if before is not None and before[1:] == row and number in {None, before[0]}:
        return
    delete(db, page_id)
    number = db.execute("INSERT INTO word_pages VALUES (?, ?, ?, ?)", (number, page_id, *row)).lastrowid
    db.execute("INSERT INTO words (rowid, body, names) VALUES (?, ?, ?)", (number, *row))
    db.execute("INSERT INTO trigrams (rowid, body, names) VALUES (?, ?, ?)", (number, *row))


def delete(db: sqlite3.Connection, page_id: str) -> None:
    """Remove a page from the index, if it is in it."""
    found = db.execute("SELECT id, body, names FROM word_pages WHERE page_id = ?", (page_id,)).fetchone()
    if found is None:
        return
    # An index without its own copy of the text has to be given the text it is to forget.
    for table in ("words", "trigrams"):
        db.execute(f"INSERT INTO {table} ({table}, rowid, body, names) VALUES ('delete', ?, ?, ?)", found)  # noqa: S608
    db.execute("DELETE FROM word_pages WHERE id = ?", found[:1])


def compact(db: sqlite3.Connection) -> None:
    """Rewrite both indexes: until then they hold the words of deleted pages, marked as deleted."""
    for table in ("words", "trigrams"):
        db.execute(f"INSERT INTO {table} ({table}) VALUES ('optimize')")  # noqa: S608


_Frequent = Sequence[tuple[Term, int]]
"""The terms of a query, each with the number of pages it is on."""


def look_up(
    db: sqlite3.Connection,
    query: Query,
    limit: int,
    *,
    only: Container[int] | None = None,
    also: Iterable[str] = (),
) -> WordHits:
    """Search both indexes, and weigh what the pages found really hold.

    Each list has `limit` pages at most. `only` has the numbers of the pages to search (None: all), `also` the ids of
    further pages to weigh: those that the vectors found.
    """
    counts = frequencies(db, query)
    terms = list(zip(query.terms, counts, strict=True))
    with _narrowed_to(only, db) as condition:
        words = _match(db, "words", _any_words(terms), limit, condition)
        trigrams = _match(db, "trigrams", _any_trigrams(db, terms, limit), limit, condition)
        near = [
            found
            for expression in _misreadings_of_rare_terms(db, terms)
            for found in _match(db, "trigrams", expression, _CANDIDATES_PER_TERM, condition)
        ]
        near += _match(db, "words", _common_neighbours(terms), limit, condition)
    page_ids = dict.fromkeys([*(page for page, _ in words + trigrams + near), *also])
    rows = db.execute(
        "SELECT page_id, body, names FROM word_pages WHERE page_id IN (SELECT value FROM json_each(?))",
        (json.dumps(list(page_ids)),),
    )
    pages = {page_id: PageText(body, names) for page_id, body, names in rows}
    misreadings = Misreadings(list(pages.values()))
    evidence = {page_id: evidence_of(query, page, counts, misreadings) for page_id, page in pages.items()}
    return WordHits(words, trigrams, counts, page_count(db), evidence)


def document_frequency(db: sqlite3.Connection, term: Term) -> int:
    """Return on how many pages the term is as typed, or in another notation."""
    if is_unspaced(term.folded):
        return _count(db, "trigrams", _run_of_characters(db, term.folded))
    if len(term.parts) == 1 and not term.notation:
        row = db.execute("SELECT doc FROM word_counts WHERE term = ?", term.parts).fetchone()
        return int(row[0]) if row else 0
    return _count(db, "words", _phrases(term))


def pages_holding(db: sqlite3.Connection, phrase: Term) -> set[int]:
    """Return the numbers of the pages that hold a quoted phrase, word by word, or whose file's name does."""
    if not is_unspaced(phrase.folded):
        # A hyphen may have gone at the end of a line, or stand where the phrase has none.
        joined = _INNER_HYPHEN.sub("", phrase.folded)
        expression = " OR ".join({_quoted(" ".join(RUNS.findall(one))) for one in (phrase.folded, joined)})
        return {number for (number,) in db.execute("SELECT rowid FROM words WHERE words MATCH ?", (expression,))}
    pieces = phrase.folded.split()
    pattern = re.compile(r"\s{0,40}".join(map(re.escape, pieces)))
    runs = " AND ".join(_quoted(piece) for piece in pieces if len(piece) >= _TRIGRAM)
    among = "WHERE id IN (SELECT rowid FROM trigrams WHERE trigrams MATCH ?)" if runs else ""
    rows = db.execute(f"SELECT id, body, names FROM word_pages {among}", (runs,) if runs else ())  # noqa: S608
    return {number for number, body, names in rows if pattern.search(body) or pattern.search(names)}


def count_whole(db: sqlite3.Connection, query: Query, only: Container[int] | None = None) -> int:
    """Count the pages that hold all words of a query as typed, or in another notation."""
    telling = [term for term in query.terms if term.kind is not Kind.STOP] or list(query.terms)
    if not telling or any(is_unspaced(term.folded) for term in telling):
        return 0
    with _narrowed_to(only, db) as condition:
        expression = " AND ".join(f"({_phrases(term)})" for term in telling)
        found = db.execute(f"SELECT count(*) FROM words WHERE words MATCH ? {condition}", (expression,))  # noqa: S608
        return int(found.fetchone()[0])


def frequencies(db: sqlite3.Connection, query: Query) -> tuple[int, ...]:
    """Return for each term of a query on how many pages it is."""
    return tuple(document_frequency(db, term) for term in query.terms)


def page_count(db: sqlite3.Connection) -> int:
    """Return the number of pages indexed."""
    found: int = db.execute("SELECT count(*) FROM word_pages").fetchone()[0]
    return found


def _count(db: sqlite3.Connection, table: str, expression: str) -> int:
    if not expression:
        return 0
    found: int = db.execute(f"SELECT count(*) FROM {table} WHERE {table} MATCH ?", (expression,)).fetchone()[0]  # noqa: S608
    return found


@contextmanager
def _narrowed_to(pages: Container[int] | None, db: sqlite3.Connection) -> Iterator[str]:
    """Give the condition that a row of an index is of one of these pages."""
    if pages is None:
        yield ""
        return
    db.create_function("is_wanted", 1, pages.__contains__)
    try:
        yield "AND is_wanted(rowid)"
    finally:
        db.create_function("is_wanted", 1, None)


def _match(db: sqlite3.Connection, table: str, expression: str, limit: int, condition: str) -> Ranked:
    """Return the pages that match an FTS5 expression, by bm25 (higher is better)."""
    if not expression:
        return []
    found = db.execute(
        f"""SELECT page_id, -score FROM (
            SELECT number, score FROM (
                SELECT rowid AS number, bm25({table}, 1.0, {NAMES_WEIGHT}) AS score FROM {table}
                WHERE {table} MATCH ? {condition} LIMIT {_WORD_POSTINGS}
            ) ORDER BY score LIMIT ?
        ) JOIN word_pages ON word_pages.id = number ORDER BY score, page_id""",  # noqa: S608
        (expression, limit),
    )
    return found.fetchall()


def _any_words(terms: _Frequent) -> str:
    """Any of the rarer terms as whole words; all of them, if even the rarest is on too many pages."""
    spaced = [(term, count) for term, count in terms if not is_unspaced(term.folded)]
    telling = [(term, count) for term, count in spaced if term.kind is not Kind.STOP] or spaced
    rarest_first = sorted((count, _phrases(term)) for term, count in telling)
    if rarest_first and rarest_first[0][0] > _WORD_POSTINGS:
        return " AND ".join(f"({phrases})" for _, phrases in rarest_first)
    chosen, postings = [], 0
    for count, phrases in rarest_first:
        postings += count
        if postings > _WORD_POSTINGS:
            break
        chosen.append(phrases)
    return " OR ".join(chosen)


def _common_neighbours(terms: _Frequent) -> str:
    """Any two terms side by side as in the query, if each term is on more pages than can be weighed."""
    if any(count <= _WORD_POSTINGS for term, count in terms if term.kind is not Kind.STOP):
        return ""
    return " OR ".join(
        _quoted(" ".join((*first.parts, *second.parts)))
        for (first, one), (second, other) in pairwise(terms)
        if min(one, other) > _WORD_POSTINGS and Kind.STOP not in {first.kind, second.kind}
    )


def _any_trigrams(db: sqlite3.Connection, terms: _Frequent, limit: int) -> str:
    """Misreadings of terms on few pages; a term on many pages fills the list as typed."""
    telling = [(term, count) for term, count in terms if term.kind is not Kind.STOP] or terms
    rare = [term for term, count in telling if count < limit]
    expressions = [
        _misreadings(db, [term for term in rare if not is_unspaced(term.folded)], _TRIGRAM_POSTINGS),
        # Without spaces between words the characters themselves are looked for.
        *(_run_of_characters(db, term.folded) for term, _ in telling if is_unspaced(term.folded)),
        *(_misreadings(db, [term], _NEAR_POSTINGS) for term in rare if is_unspaced(term.folded)),
    ]
    return " OR ".join(filter(None, expressions))


def _misreadings_of_rare_terms(db: sqlite3.Connection, terms: _Frequent) -> Iterator[str]:
    """Misreadings of each rare term, whatever else the page shares with the query.

    A page with one misread name would drown in the list of the whole query among those that share its common words.
    """
    if len(terms) > 1:
        for term, count in terms:
            if count <= _CANDIDATES_PER_TERM and term.kind is not Kind.STOP:
                yield _misreadings(db, [term], _NEAR_POSTINGS)


def _misreadings(db: sqlite3.Connection, terms: Sequence[Term], most_postings: int) -> str:
    """Any trigrams of the terms: the rarest of each term first, until they are on `most_postings` pages.

    Trigrams on many pages say next to nothing and cost the most.
    """
    of_terms = [_trigrams(term.folded) for term in terms]
    # The trigrams across the gaps come last: they tell a whole number from the end of another.
    of_terms.append(_trigrams(" ".join(term.folded for term in terms)).difference(*of_terms))
    counts: dict[str, int] = dict(
        db.execute(
            "SELECT term, doc FROM trigram_counts WHERE term IN (SELECT value FROM json_each(?))",
            (json.dumps(sorted(set().union(*of_terms))),),
        )
    )
    ranked = [sorted((counts[one], one) for one in trigrams if one in counts) for trigrams in of_terms]
    chosen: dict[str, None] = {}
    for number, term in enumerate(terms):
        middle = len(term.folded) // 2
        if middle >= _TRIGRAM and sum(count for count, _ in ranked[number][:_LEAST_TRIGRAMS]) > most_postings:
            chosen |= dict.fromkeys((term.folded[:middle], term.folded[middle:]))
            ranked[number] = []
    postings = 0
    for position in range(max(map(len, ranked))):
        for number, trigrams in enumerate(ranked):
            if position < len(trigrams) and trigrams[position][1] not in chosen:
                postings += trigrams[position][0]
                is_needed = position < _LEAST_TRIGRAMS and number < len(terms)
                if is_needed or postings <= most_postings:
                    chosen[trigrams[position][1]] = None
    return " OR ".join(_quoted(trigram) for trigram in list(chosen)[:_MAX_TRIGRAMS])


def _trigrams(folded: str) -> set[str]:
    return {folded[start : start + _TRIGRAM] for start in range(len(folded) - _TRIGRAM + 1)}


def _run_of_characters(db: sqlite3.Connection, folded: str) -> str:
    """A run of characters as it is; one shorter than a trigram, as the trigrams that begin with it."""
    if len(folded) >= _TRIGRAM:
        return _quoted(folded)
    beginning = db.execute(
        "SELECT term FROM trigram_counts WHERE term >= ? AND term < ? ORDER BY doc DESC, term LIMIT ?",
        (folded, folded + "\U0010ffff", _MAX_BEGINNINGS),
    )
    return " OR ".join(_quoted(trigram) for (trigram,) in beginning)


def _phrases(term: Term) -> str:
    """The term as typed, or in any other notation."""
    phrases = [term.parts, *(term.notation.phrases if term.notation else ())]
    return " OR ".join(dict.fromkeys(_quoted(" ".join(phrase)) for phrase in phrases))


def _quoted(term: str) -> str:
    return '"' + term.replace('"', '""') + '"'
