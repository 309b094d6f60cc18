"""Hybrid search: words, trigrams and vectors, weighed by what the query looks like.

A hit is a page, with the passage that answers and the words in it marked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from kobold_reader.archive import words
from kobold_reader.archive.catalog import Catalog, PageRow
from kobold_reader.archive.passage import Passage, passage
from kobold_reader.archive.query import MAX_QUERY_CHARS, Query, parse_query
from kobold_reader.archive.ranking import Scored, rank
from kobold_reader.archive.vectors import Near
from kobold_reader.archive.where import Condition, check_keys
from kobold_reader.documents import page_link
from kobold_reader.errors import ConfigError
from kobold_reader.html.text import Mark, escaped, marked_html

__all__ = ["MODES", "Hit", "Mode", "Searcher"]

Mode = Literal["hybrid", "dense", "keyword"]
MODES: Final[tuple[Mode, ...]] = ("hybrid", "dense", "keyword")

DenseSearch = Callable[[str, int, Sequence[str] | None], Iterable[Near]]
"""(query, limit, allowed page ids) → chunks, nearest first."""

LIST_LENGTH: Final = 100
"""Candidates from each list, at least."""
CHUNKS_PER_PAGE: Final = 4
"""Nodes asked of Chroma for each page wanted: a long page has several that match."""
WORDS_TELL: Final = 0.5
"""From this share of the query found word by word on, the passage is chosen by words, below by meaning."""
FEW_PAGES: Final = 400
"""Up to so many allowed pages are named to Chroma; beyond, its answer is filtered."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One page that answers a query."""

    page_id: str
    score: float
    """0 to 1, best first within one search."""
    text: str
    """The passage that answers."""
    marks: tuple[tuple[int, int], ...]
    """Start and end, within `text`, of what the query's words matched."""
    page_text: str
    """Everything on the page."""
    page_part: str
    """ocr, caption or tags: where the passage stands."""
    link: str
    """Opens the file, a PDF at the page."""
    metadata: dict[str, Any]

    @property
    def file_name(self) -> str:
        """Name of the file."""
        return str(self.metadata["file_name"])

    @property
    def page_number(self) -> int:
        """1-based."""
        return int(self.metadata["page_number"])

    def to_json(self) -> dict[str, Any]:
        """Return the stable form that the command line prints."""
        keys = ("file_name", "file_path", "page_number", "page_label", "page_status")
        return {
            "score": round(self.score, 4),
            "text": self.text,
            **{key: self.metadata.get(key) for key in keys},
            "page_part": self.page_part,
            "link": self.link,
        }

    def _repr_html_(self) -> str:
        label = str(self.metadata.get("page_label", self.page_number))
        place = f'<a href="{escaped(self.link)}">{escaped(self.file_name)}, page {escaped(label)}</a>'
        passage = marked_html(self.text, [Mark(start, end, "") for start, end in self.marks])
        return f'<div>{place} <small class="score">{self.score:.2f}</small>\n{passage}</div>'


class Searcher:
    """Searches one archive.

    Args:
        catalog: Pages and words.
        dense: None where there are no vectors.
    """

    def __init__(self, catalog: Catalog, dense: DenseSearch | None) -> None:
        self._catalog = catalog
        self._dense = dense

    def search(self, query: str, *, limit: int, mode: Mode, conditions: Sequence[Condition]) -> list[Hit]:
        """Return the best pages for a query, best first.

        Raises:
            ConfigError: An unknown mode or metadata key, or `dense` without vectors.
        """
        if mode not in MODES:
            msg = f"mode: {mode!r} is not one of {', '.join(MODES)}."
            raise ConfigError(msg)
        if mode == "dense" and self._dense is None:
            msg = "this archive cannot be searched by meaning: it has no vectors, or their embedder cannot be reached."
            raise ConfigError(msg, hint="Search with --mode hybrid or keyword; index --reembed makes vectors.")
        # A command line may hold bytes that are no text; embedders take none of them.
        query = query[:MAX_QUERY_CHARS].encode("utf-8", "replace").decode("utf-8")
        if limit < 1:
            msg = f"limit: {limit} must be at least 1."
            raise ConfigError(msg)
        if not query.strip():
            msg = "the query is empty."
            raise ConfigError(msg)
        allowed = self._allowed(conditions)
        length = max(LIST_LENGTH, 4 * limit)
        near = self._near(query, length, allowed) if mode != "keyword" else {}
        parsed = parse_query(query)
        scored = self._score(parsed, near, length, allowed, mode)[:limit]
        rows = {row.page_id: row for row in self._catalog.pages([one.page_id for one in scored])}
        return [_hit(parsed, one, rows[one.page_id], near.get(one.page_id)) for one in scored if one.page_id in rows]

    def _allowed(self, conditions: Sequence[Condition]) -> set[str] | None:
        if not conditions:
            return None
        pages = list(self._catalog.every_page())
        check_keys(conditions, (key for row in pages for key in row.metadata))
        return {row.page_id for row in pages if all(condition.holds(row.metadata) for condition in conditions)}

    def _near(self, query: str, length: int, allowed: set[str] | None) -> dict[str, Near]:
        """Return the nearest chunk of each page, nearest page first."""
        if self._dense is None:
            return {}
        named = sorted(allowed) if allowed is not None and len(allowed) <= FEW_PAGES else None
        best: dict[str, Near] = {}
        for near in self._dense(query, length * CHUNKS_PER_PAGE, named):
            if (allowed is None or near.page_id in allowed) and near.page_id not in best:
                best[near.page_id] = near
        return best

    def _score(
        self, query: Query, near: dict[str, Near], length: int, allowed: set[str] | None, mode: Mode
    ) -> list[Scored]:
        dense = [(one.page_id, one.cosine) for one in near.values()]
        if mode == "dense":
            return [Scored(page_id, max(0.0, cosine), 0.0, cosine) for page_id, cosine in dense]
        with self._catalog.reading() as db:
            also = [page_id for page_id, _ in dense[:length]]
            lookup = words.look_up(db, query, length, ids=allowed, also=also)
        return rank(query, lookup, dense, length)


def _hit(query: Query, scored: Scored, row: PageRow, near: Near | None) -> Hit:
    part, text, found = _best_passage(query, scored, row, near)
    return Hit(
        page_id=row.page_id,
        score=min(1.0, scored.score),
        text=text,
        marks=tuple((start - found.start, end - found.start) for start, end in found.marks),
        page_text=row.text,
        page_part=part,
        link=page_link(row.uri, str(row.metadata.get("file_type")), row.page_number),
        metadata=dict(row.metadata),
    )


def _best_passage(query: Query, scored: Scored, row: PageRow, near: Near | None) -> tuple[str, str, Passage]:
    """Return the part, the passage's text and the passage: where the words stand, else what the vectors found."""
    if near is not None and near.part in row.parts and scored.lexical < WORDS_TELL:
        found = passage(near.text, query)
        return near.part, found.snippet, found
    passages = {part: passage(text, query) for part, text in row.parts.items()} or {"ocr": passage("", query)}
    part = max(passages, key=lambda one: len(passages[one].marks))
    return part, passages[part].snippet, passages[part]
