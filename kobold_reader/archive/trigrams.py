"""How the index of trigrams is asked: for misreadings of words, and for runs of characters between which no space is.

Trigrams that stand on many pages say next to nothing and cost the most, so the rarest are asked for.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence

from kobold_reader.archive.query import Term

__all__ = ["containing", "quoted", "resembling"]

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
