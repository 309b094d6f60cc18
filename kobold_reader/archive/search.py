"""Hybrid search: words, trigrams and vectors, weighed by what the query looks like.

A hit is a page, with the passage that answers and the words in it marked.

The passage of a page that answers a query, with the words that were found marked.

Offsets are those of the page's own text, not of the folded form in which it is compared, so that a
face can mark the words in the text it shows.

The archive as a LlamaIndex retriever.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from typing_extensions import override

from kobold_reader.archive import words
from kobold_reader.archive.duplicates import Alike, Duplicates
from kobold_reader.archive.filters import Filter, check_folder_known, check_keys
from kobold_reader.archive.matching import exact_spans, similarity, spaced_spans
from kobold_reader.archive.query import MAX_QUERY_CHARS, Kind, Query, Term, fold_with_offsets, parse_query
from kobold_reader.archive.ranking import Scored, rank
from kobold_reader.archive.store import Catalog, PageRow
from kobold_reader.archive.vectors import Near
from kobold_reader.documents import EMBED_KEYS, LLM_KEYS, page_link
from kobold_reader.errors import ConfigError
from kobold_reader.html.text import Mark, escaped, marked_html
from kobold_reader.options import Grouping, Mode

__all__ = [
    "GROUPINGS",
    "MODES",
    "ArchiveRetriever",
    "Hit",
    "Passage",
    "Searcher",
    "grouped",
    "passage",
]

PASSAGE_CHARS = 240

_PIECES = re.compile(r"[^\W_](?:\S*[^\W_])?")
_LEAST_LIKENESS = 0.5
_LEAD_CHARS = 60
_WEIGHTS = {Kind.STOP: 0.0, Kind.WORD: 1.0, Kind.NAME: 1.5}
_EXACT_WEIGHT = 2.0


@dataclass(frozen=True)
class Passage:
    """A part of a text.

    Attributes:
        start: Offset of its first character in the text.
        end: Offset behind its last one.
        snippet: The text between them, as it stands there.
        marks: Offsets of the words found in it, in the whole text, in order, without overlap.
    """

    start: int
    end: int
    snippet: str
    marks: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class _Span:
    start: int
    end: int
    term: int
    weight: float


def passage(text: str, query: Query, *, length: int = PASSAGE_CHARS) -> Passage:
    """Choose the window that holds most of the query; the beginning where it holds nothing of it.

    Args:
        text: Text of the page, or of the passage that the vectors found.
        query: What was asked.
        length: Characters of the window, about; it ends between words where it can.
    """
    spans = _spans(text, query)
    start = _best_start(spans, length)
    end = min(len(text), start + length)
    start = max(0, min(start, end - length))
    start, end = _between_words(text, start, end)
    inside = [span for span in spans if span.start >= start and span.end <= end]
    return Passage(start, end, text[start:end], _merged(inside))


def _spans(text: str, query: Query) -> list[_Span]:
    folded, offsets = fold_with_offsets(text)
    found: list[_Span] = []
    for number, term in enumerate(query.terms):
        weight = _WEIGHTS.get(term.kind, _EXACT_WEIGHT)
        if weight == 0.0:
            continue
        for start, end, strength in _found(term, folded):
            # the character behind a match may share its place with the match's last one (a
            # ligature)
            last = offsets[end - 1] + 1
            found.append(_Span(offsets[start], max(last, offsets[end]), number, weight * strength))
    return sorted(found, key=lambda span: (span.start, span.end))


def _found(term: Term, folded: str) -> list[tuple[int, int, float]]:
    """The surest kind of match that the text holds: as typed, with other gaps, glued, alike."""
    exact = list(exact_spans(term, folded)) or list(spaced_spans((term,), folded))
    if exact:
        return [(*span, 1.0) for span in exact]
    if term.notation and (other := list(term.notation.spans(folded))):
        return other
    if len(term.folded) > 3 and not term.folded.isdigit():  # noqa: PLR2004
        glued = [found.span() for found in re.finditer(re.escape(term.folded), folded)]
        if glued:
            return [(*span, 0.8) for span in glued]
    return list(_alike(term, folded))


def _alike(term: Term, folded: str) -> Iterator[tuple[int, int, float]]:
    for piece in _PIECES.finditer(folded):
        likeness = max(similarity(part, piece[0]) for part in {term.folded, *term.parts})
        if likeness >= _LEAST_LIKENESS:
            yield (*piece.span(), likeness * 0.8)


def _best_start(spans: Sequence[_Span], length: int) -> int:
    """Start of the window whose terms weigh most; each term counts once, the first window wins."""
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


def _between_words(text: str, start: int, end: int) -> tuple[int, int]:
    """Move both ends inwards to white space, by a few characters at most."""
    if start > 0:
        gap = re.search(r"\s", text[start - 1 : start + _LEAD_CHARS // 2])
        start += gap.start() if gap else 0
    if end < len(text):
        gap = re.search(r"\s\S*$", text[end - _LEAD_CHARS // 2 : end + 1])
        end = end - _LEAD_CHARS // 2 + gap.start() if gap else end
    return start, end


def _merged(spans: Sequence[_Span]) -> tuple[tuple[int, int], ...]:
    marks: list[tuple[int, int]] = []
    for span in spans:
        if marks and span.start <= marks[-1][1]:
            marks[-1] = (marks[-1][0], max(marks[-1][1], span.end))
        else:
            marks.append((span.start, span.end))
    return tuple(marks)


MODES: Final[tuple[Mode, ...]] = ("hybrid", "dense", "keyword")

GROUPINGS: Final[tuple[Grouping, ...]] = ("page", "file", "folder")


class DenseSearch(Protocol):
    """Search by meaning."""

    def near(self, query: str, limit: int, node_ids: Sequence[str] | None) -> Iterable[Near]:
        """Return so many chunks at most, nearest first; only some of these, where they are named."""
        ...

    def texts(self, node_ids: Sequence[str]) -> Mapping[str, str]:
        """Return what stands in some of those chunks."""
        ...


LIST_LENGTH: Final = 50
"""Candidates from each list, at least."""
CHUNKS_PER_PAGE: Final = 4
"""Nodes asked of Chroma for each page wanted: a long page has several that match."""
WORDS_TELL: Final = 0.5
"""From this share of the query found word by word on, the passage is chosen by words, below by meaning."""
PAGES_PER_GROUP: Final = 5
"""Of one file or folder, where hits are grouped."""
LARGE_SHARE: Final = 0.1
"""Where a filter means so many of all pages, Chroma is asked for more, and its answer filtered; else the nodes are
named that are meant."""


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
    alike: tuple[Alike, ...] = ()
    """Pages that show the same and are left out for this one: copies, and photos that look like it."""

    @property
    def file_name(self) -> str:
        """Name of the file."""
        return str(self.metadata["file_name"])

    @property
    def page_number(self) -> int:
        """1-based."""
        return int(self.metadata["page_number"])

    def group(self, by: Grouping) -> str:
        """What it is grouped under: its page, the path of its file, or of its folder."""
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
        passage = marked_html(self.text, [Mark(start, end, "") for start, end in self.marks])
        return f'<div>{place} <small class="score">{self.score:.2f}</small>\n{passage}</div>'


def grouped(hits: Iterable[Hit], by: Grouping, limit: int) -> list[Hit]:
    """Bring hits of one file or folder together, the group of the best hit first; `limit` counts groups.

    Args:
        hits: Best first.
        by: `page`: each is a group of its own.
        limit: At most so many groups, each of five pages at most.
    """
    groups: dict[str, list[Hit]] = {}
    for hit in hits:
        group = groups.setdefault(hit.group(by), [])
        if len(group) < PAGES_PER_GROUP:
            group.append(hit)
    return [hit for group in list(groups.values())[:limit] for hit in group]


class Searcher:
    """Searches one archive.

    Args:
        catalog: Pages and words.
        dense: None where there are no vectors.
        duplicates: Which pages show the same; None: found anew.
    """

    def __init__(self, catalog: Catalog, dense: DenseSearch | None, duplicates: Duplicates | None = None) -> None:
        self._catalog = catalog
        self._duplicates = duplicates or Duplicates(catalog)
        self._dense = dense

    def search(
        self, query: str, *, limit: int, mode: Mode, filter_: Filter, by: Grouping = "page", all_copies: bool = False
    ) -> list[Hit]:
        """Return the best pages for a query, best first; see `grouped`.

        Of pages that show the same the best is a hit, unless `all_copies` asks for each.

        Raises:
            ConfigError: An unknown mode, metadata key or folder, or `dense` without vectors.
        """
        if mode not in MODES:
            msg = f"mode: {mode!r} is not one of {', '.join(MODES)}."
            raise ConfigError(msg)
        if by not in GROUPINGS:
            msg = f"by: {by!r} is not one of {', '.join(GROUPINGS)}."
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
        allowed = self._allowed(filter_)
        length = max(LIST_LENGTH, 4 * limit)
        near = self._near(query, length, allowed) if mode != "keyword" else {}
        parsed = parse_query(query)
        scored = self._score(parsed, near, length, allowed, mode)
        chosen = self._choose(scored, by, limit, all_copies=all_copies)
        nearest = self._nearest_texts([one for one, _ in chosen], near)
        hits = [_hit(parsed, one, row, nearest.get(one.page_id)) for one, row in chosen]
        if all_copies:
            return hits
        return [replace(hit, alike=self._duplicates.alike(row)) for hit, (_, row) in zip(hits, chosen, strict=True)]

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

    def _allowed(self, filter_: Filter) -> set[int] | None:
        """Return the numbers of the pages meant; None: all."""
        if filter_.conditions:
            check_keys(filter_.conditions, self._catalog.metadata_keys())
        if filter_.folder:
            check_folder_known(filter_.folder, self._catalog.metadata_values("file_path"))
        return self._catalog.meant(filter_)

    def _near(self, query: str, length: int, allowed: set[int] | None) -> dict[str, Near]:
        """Return the nearest chunk of each page, nearest page first."""
        if self._dense is None:
            return {}
        wanted = length * CHUNKS_PER_PAGE
        if allowed is None:
            return _nearest(self._dense.near(query, wanted, None))
        share = len(allowed) / max(1, self._catalog.count_pages())
        if share >= LARGE_SHARE:
            best = _nearest(self._dense.near(query, int(wanted / share), None))
            numbers = self._catalog.numbers(best)
            best = {page_id: near for page_id, near in best.items() if numbers.get(page_id) in allowed}
            if len(best) >= length or share == 1:
                return best  # else the nearest pages are just those that are not meant
        return _nearest(self._dense.near(query, wanted, self._catalog.node_ids(allowed)))

    def _nearest_texts(self, scored: Iterable[Scored], near: Mapping[str, Near]) -> dict[str, tuple[str, str]]:
        """Return part and text of the nearest chunk of each page where the words tell less; by page id."""
        wanted = [near[one.page_id] for one in scored if one.page_id in near and one.lexical < WORDS_TELL]
        texts = self._dense.texts([one.node_id for one in wanted]) if self._dense else {}
        return {one.page_id: (one.part, texts[one.node_id]) for one in wanted if one.node_id in texts}

    def _score(
        self, query: Query, near: dict[str, Near], length: int, allowed: set[int] | None, mode: Mode
    ) -> list[Scored]:
        dense = [(one.page_id, one.cosine) for one in near.values()]
        if mode == "dense":
            return [Scored(page_id, max(0.0, cosine), 0.0, cosine) for page_id, cosine in dense]
        with self._catalog.reading() as db:
            also = [page_id for page_id, _ in dense[:length]]
            lookup = words.look_up(db, query, length, only=allowed, also=also)
        return rank(query, lookup, dense, length)


def _nearest(found: Iterable[Near]) -> dict[str, Near]:
    """Return the first chunk of each page."""
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
    part, text, found = _best_passage(query, row, nearest)
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


def _best_passage(query: Query, row: PageRow, nearest: tuple[str, str] | None) -> tuple[str, str, Passage]:
    """Return the part, the passage's text and the passage: what the vectors found, else where the words stand."""
    if nearest is not None and nearest[0] in row.parts:
        found = passage(nearest[1], query)
        return nearest[0], found.snippet, found
    passages = {part: passage(text, query) for part, text in row.parts.items()} or {"ocr": passage("", query)}
    part = max(passages, key=lambda one: len(passages[one].marks))
    return part, passages[part].snippet, passages[part]


class ArchiveRetriever(BaseRetriever):
    """Retrieves whole pages by hybrid search; a node's text is all of the page's text.

    Args:
        search: From a query to pages, best first; its archive stays open as long as the retriever is used.
    """

    def __init__(self, search: Callable[[str], list[Hit]]) -> None:
        super().__init__()
        self._search = search

    @override
    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        hits = self._search(query_bundle.query_str)
        return [NodeWithScore(node=_node(hit), score=hit.score) for hit in hits if hit.page_text]


def _node(hit: Hit) -> TextNode:
    metadata = {**hit.metadata, "link": hit.link, "passage": hit.text}
    return TextNode(
        id_=hit.page_id,
        text=hit.page_text,
        metadata=metadata,
        excluded_embed_metadata_keys=sorted(key for key in metadata if key not in EMBED_KEYS),
        excluded_llm_metadata_keys=sorted(key for key in metadata if key not in LLM_KEYS),
    )
