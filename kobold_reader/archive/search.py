"""Hybrid search: pages for a query, found by words, trigrams and vectors, each with the passage that answers.

`ranking.py` decides the order of the hits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, get_args

from kobold_reader.archive import words
from kobold_reader.archive.duplicates import Alike, Duplicates
from kobold_reader.archive.filters import Filter, check_folder_known, check_keys
from kobold_reader.archive.query import Kind, Query, fold_with_offsets, parse_query
from kobold_reader.archive.ranking import Scored, rank, surest_matches
from kobold_reader.archive.rows import PageRow
from kobold_reader.archive.store import Catalog
from kobold_reader.archive.vectors import Near
from kobold_reader.documents import page_link
from kobold_reader.errors import ConfigError
from kobold_reader.html.text import Mark, escaped, marked_html
from kobold_reader.options import Grouping, Mode

LIST_LENGTH = 50
"""Candidates from each list, at least."""
CHUNKS_PER_PAGE = 4
"""Nodes asked of Chroma for each page wanted: a long page has several that match."""
WORDS_TELL = 0.5
"""Lexical score from which the passage is chosen by words; below, by meaning."""
PAGES_PER_GROUP = 5
"""Hits of one file or folder, where hits are grouped."""
LARGE_SHARE = 0.1
"""If a filter means this share of all pages, Chroma is asked for more and its answer filtered; else it is asked for the
nodes by name."""


class DenseSearch(Protocol):
    """Search by meaning."""

    def near(self, query: str, limit: int, node_ids: Sequence[str] | None) -> Iterable[Near]:
        """Return at most `limit` chunks, nearest first, of these nodes or of all."""
        ...

    def texts(self, node_ids: Sequence[str]) -> Mapping[str, str]:
        """Return the texts of chunks by node id."""
        ...


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
    page_part: str
    """ocr, caption or tags: the part that the passage is from."""
    link: str
    """Opens the file, a PDF at the page."""
    metadata: dict[str, Any]
    alike: tuple[Alike, ...] = ()
    """Pages left out because they show the same: copies, and photos that look like it."""

    @property
    def file_name(self) -> str:
        """Name of the file."""
        return str(self.metadata["file_name"])

    @property
    def page_number(self) -> int:
        """1-based."""
        return int(self.metadata["page_number"])

    def group(self, by: Grouping) -> str:
        """Return what it is grouped under: its page, the path of its file, or of its folder."""
        return _group(self.page_id, self.metadata, by)

    def to_json(self) -> dict[str, Any]:
        """Return the stable form that the command line prints."""
        keys = ("file_name", "file_path", "page_number", "page_label", "page_status")
        return {
            "score": round(self.score, 4),
            "text": self.text,
            **{key: self.metadata.get(key) for key in keys},
            "page_part": self.page_part,
            "link": self.link,
            "alike": [one.to_json() for one in self.alike],
        }

    def _repr_html_(self) -> str:
        label = str(self.metadata.get("page_label", self.page_number))
        place = f'<a href="{escaped(self.link)}">{escaped(self.file_name)}, page {escaped(label)}</a>'
        text = marked_html(self.text, [Mark(start, end, "") for start, end in self.marks])
        return f'<div>{place} <small class="score">{self.score:.2f}</small>\n{text}</div>'


def grouped(hits: Iterable[Hit], by: Grouping, limit: int) -> list[Hit]:
    """Bring hits, best first, of one file or folder together; returns `limit` groups, each of five pages at most."""
    groups: dict[str, list[Hit]] = {}
    for hit in hits:
        group = groups.setdefault(hit.group(by), [])
        if len(group) < PAGES_PER_GROUP:
            group.append(hit)
    return [hit for group in list(groups.values())[:limit] for hit in group]


class Searcher:
    """Searches one archive; by words only, where `dense` is None."""

    def __init__(self, catalog: Catalog, dense: DenseSearch | None, duplicates: Duplicates | None = None) -> None:
        self._catalog = catalog
        self._dense = dense
        self._duplicates = duplicates or Duplicates(catalog)

    def search(
        self, query: str, *, limit: int, mode: Mode, filter_: Filter, by: Grouping = "page", all_copies: bool = False
    ) -> list[Hit]:
        """Return the best pages for a query, best first; see `grouped`.

        Of pages that show the same only the best is a hit, unless `all_copies` asks for each.

        Raises:
            ConfigError: An unknown mode, metadata key or folder, or `dense` without vectors.
        """
        for name, value, known in (("mode", mode, get_args(Mode)), ("by", by, get_args(Grouping))):
            if value not in known:
                raise ConfigError(f"{value!r} is not one of {', '.join(known)}.", argument=name)
        if mode == "dense" and self._dense is None:
            raise ConfigError(
                "this archive cannot be searched by meaning: it has no vectors, or their embedder cannot be reached.",
                hint="Search with --mode hybrid or keyword; index --reembed makes vectors.",
            )
        if limit < 1:
            raise ConfigError(f"{limit} must be at least 1.", argument="limit")
        parsed = parse_query(query)
        if not parsed.text.strip():
            raise ConfigError("the query is empty.", hint="Give a word, a name, a number or a question.")
        if filter_.conditions:
            check_keys(filter_.conditions, self._catalog.metadata_keys())
        if filter_.folder:
            check_folder_known(filter_.folder, self._catalog.metadata_values("file_path"))
        allowed = self._catalog.meant(filter_)
        length = max(LIST_LENGTH, 4 * limit)
        near = self._near(parsed.text, length, allowed) if mode != "keyword" else {}
        scored = self._score(parsed, near, length, allowed, mode)
        chosen = self._choose(scored, by, limit, all_copies=all_copies)
        nearest = self._nearest_texts([one for one, _ in chosen], near)
        hits = [_hit(parsed, one, row, nearest.get(one.page_id)) for one, row in chosen]
        if all_copies:
            return hits
        return [replace(hit, alike=self._duplicates.alike(row)) for hit, (_, row) in zip(hits, chosen, strict=True)]

    def _near(self, query: str, length: int, allowed: set[int] | None) -> dict[str, Near]:
        """Return the nearest chunk of each of `length` pages that the filter means, by page id, nearest first."""
        if self._dense is None:
            return {}
        wanted = length * CHUNKS_PER_PAGE
        if allowed is None:
            return _first_of_page(self._dense.near(query, wanted, None))
        share = len(allowed) / max(1, self._catalog.count_pages())
        if share >= LARGE_SHARE:
            best = _first_of_page(self._dense.near(query, int(wanted / share), None))
            numbers = self._catalog.numbers(best)
            best = {page_id: near for page_id, near in best.items() if numbers.get(page_id) in allowed}
            if len(best) >= length or share == 1:
                return best  # else the filter leaves out just the nearest pages
        return _first_of_page(self._dense.near(query, wanted, self._catalog.node_ids(allowed)))

    def _score(
        self, query: Query, near: Mapping[str, Near], length: int, allowed: set[int] | None, mode: Mode
    ) -> list[Scored]:
        dense = [(one.page_id, one.cosine) for one in near.values()]
        if mode == "dense":
            return [Scored(page_id, max(0.0, cosine), 0.0, cosine) for page_id, cosine in dense]
        also = [page_id for page_id, _ in dense[:length]]
        with self._catalog.reading() as db:
            found = words.look_up(db, query, length, only=allowed, also=also)
        return rank(query, found, dense, length)

    def _choose(
        self, scored: Sequence[Scored], by: Grouping, limit: int, *, all_copies: bool
    ) -> list[tuple[Scored, PageRow]]:
        """Return the pages of the first groups, as `grouped` does; of pages that show the same, the best."""
        rows = {row.page_id: row for row in self._catalog.pages([one.page_id for one in scored])}
        groups: dict[str, list[tuple[Scored, PageRow]]] = {}
        seen: set[str] = set()
        for one in scored:
            row = rows.get(one.page_id)
            if row is None or one.page_id in seen:
                continue
            name = _group(one.page_id, row.metadata, by)
            if name not in groups and len(groups) == limit:
                continue
            group = groups.setdefault(name, [])
            if len(group) < PAGES_PER_GROUP:
                group.append((one, row))
                seen.update(() if all_copies else self._duplicates.group(one.page_id))
        return [pair for group in groups.values() for pair in group]

    def _nearest_texts(self, scored: Iterable[Scored], near: Mapping[str, Near]) -> dict[str, tuple[str, str]]:
        """Return part and text of the nearest chunk of each page whose words tell less, by page id."""
        wanted = [near[one.page_id] for one in scored if one.page_id in near and one.lexical < WORDS_TELL]
        texts = self._dense.texts([one.node_id for one in wanted]) if self._dense else {}
        return {one.page_id: (one.part, texts[one.node_id]) for one in wanted if one.node_id in texts}


def _first_of_page(found: Iterable[Near]) -> dict[str, Near]:
    best: dict[str, Near] = {}
    for near in found:
        best.setdefault(near.page_id, near)
    return best


def _group(page_id: str, metadata: Mapping[str, Any], by: Grouping) -> str:
    if by == "page":
        return page_id
    path = str(metadata["file_path"])
    return path if by == "file" else re.sub(r"[/\\][^/\\]*$", "", path)


def _hit(query: Query, scored: Scored, row: PageRow, nearest: tuple[str, str] | None) -> Hit:
    part, found = _best_passage(query, row, nearest)
    return Hit(
        page_id=row.page_id,
        score=min(1.0, scored.score),
        text=found.snippet,
        marks=tuple((start - found.start, end - found.start) for start, end in found.marks),
        page_text=row.text,
        page_part=part,
        link=page_link(row.uri, str(row.metadata.get("file_type")), row.page_number),
        metadata=dict(row.metadata),
    )


def _best_passage(query: Query, row: PageRow, nearest: tuple[str, str] | None) -> tuple[str, Passage]:
    """Return a passage and the part it is from: of the chunk that the vectors found, else where the words are."""
    if nearest is not None and nearest[0] in row.parts:
        return nearest[0], passage(nearest[1], query)
    passages = [(part, passage(text, query)) for part, text in (row.parts or {"ocr": ""}).items()]
    return max(passages, key=lambda one: len(one[1].marks))


# ── the passage that is shown ─────────────────────────────────────────────────────────────────────

PASSAGE_CHARS = 240
_LEAD_CHARS = 60
"""Characters shown before the first match."""
_WEIGHTS = {Kind.STOP: 0.0, Kind.WORD: 1.0, Kind.NAME: 1.5}
_EXACT_WEIGHT = 2.0


@dataclass(frozen=True)
class Passage:
    """A part of a text with the words found in it."""

    start: int
    """Offset of its first character in the text."""
    end: int
    snippet: str
    marks: tuple[tuple[int, int], ...]
    """Offsets of the words found, in the whole text, in order, without overlap."""


@dataclass(frozen=True)
class _Span:
    start: int
    end: int
    term: int
    weight: float


def passage(text: str, query: Query, *, length: int = PASSAGE_CHARS) -> Passage:
    """Choose the window that holds most of the query; the beginning if no term is found.

    It has about `length` characters, and ends between words where it can.
    """
    spans = _spans(text, query)
    start = _best_start(spans, length)
    end = min(len(text), start + length)
    start = max(0, min(start, end - length))
    if start > 0 and (gap := re.search(r"\s", text[start - 1 : start + _LEAD_CHARS // 2])):
        start += gap.start()
    if end < len(text) and (gap := re.search(r"\s\S*$", text[end - _LEAD_CHARS // 2 : end + 1])):
        end += gap.start() - _LEAD_CHARS // 2
    marks: list[tuple[int, int]] = []
    for span in spans:
        if span.start < start or span.end > end:
            continue
        if marks and span.start <= marks[-1][1]:
            marks[-1] = (marks[-1][0], max(marks[-1][1], span.end))
        else:
            marks.append((span.start, span.end))
    return Passage(start, end, text[start:end], tuple(marks))


def _spans(text: str, query: Query) -> list[_Span]:
    """Return where the terms occur in the text, in order."""
    folded, offsets = fold_with_offsets(text)
    found: list[_Span] = []
    for number, term in enumerate(query.terms):
        weight = _WEIGHTS.get(term.kind, _EXACT_WEIGHT)
        for start, end, strength in surest_matches(term, folded) if weight else ():
            # The character behind a match may have the same offset as the match's last one (a ligature).
            last = offsets[end - 1] + 1
            found.append(_Span(offsets[start], max(last, offsets[end]), number, weight * strength))
    return sorted(found, key=lambda span: (span.start, span.end))


def _best_start(spans: Sequence[_Span], length: int) -> int:
    """Return the start of the window whose terms weigh most; each term counts once, the first window wins."""
    best_start, best_weight = 0, 0.0
    for index, first in enumerate(spans):
        weights: dict[int, float] = {}
        for span in spans[index:]:
            if span.end > first.start + length - _LEAD_CHARS:
                break
            weights[span.term] = max(weights.get(span.term, 0.0), span.weight)
        weight = sum(weights.values())
        if weight > best_weight:
            best_start, best_weight = first.start, weight
    return max(0, best_start - _LEAD_CHARS)
