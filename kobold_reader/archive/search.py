"""Hybrid search: pages for a query, found by words, trigrams and vectors, each with the passage that answers.

`ranking.py` decides the order of the hits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, get_args, overload

from typing_extensions import override

from kobold_reader.archive import words
from kobold_reader.archive.duplicates import MOST_BITS, Alike, Duplicates
from kobold_reader.archive.filters import Condition, Filter, check_folder_known, check_keys
from kobold_reader.archive.query import Kind, Query, fold_with_offsets, parse_query
from kobold_reader.archive.ranking import FOUND, Cosines, Scored, by_meaning, by_meaning_only, rank, surest_matches
from kobold_reader.archive.rows import PageRow
from kobold_reader.archive.store import Catalog
from kobold_reader.archive.vectors import Near
from kobold_reader.errors import ConfigError
from kobold_reader.html.text import Mark, escaped, marked_html
from kobold_reader.options import Grouping, Match, Mode

if TYPE_CHECKING:
    from kobold_reader.archive.picture import Picture

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

    def cosines(self, query: str) -> Cosines | None:
        """Return what the embedder's cosines say for a query; None where it does not answer."""
        ...


@dataclass(frozen=True)
class Hit:
    """One page that answers a query."""

    page_id: str
    score: float
    """How surely it answers, 0 to 1. From 0.5 it is found. The scale is the same in all archives and modes."""
    match: Match
    """`exact`: it holds every word as typed. `similar`: found by other spellings, by most words, or by meaning.
    `related`: perhaps."""
    page_text: str
    link: str
    """Opens the file, a PDF at the page."""
    metadata: dict[str, Any]
    missing: tuple[str, ...] = ()
    """Words of the query that the page does not hold, if it holds others."""
    respelled: tuple[str, ...] = ()
    """Words that it holds in another spelling only."""
    alike: tuple[Alike, ...] = ()
    """Pages left out because they show the same: copies, and photos that look like it."""
    query: Query = field(default=Query("", (), False), repr=False)
    parts: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The page's texts by task."""
    nearest: tuple[str, str] | None = field(default=None, repr=False)
    """Part and text of the chunk that the vectors found."""

    @cached_property
    def _best(self) -> tuple[str, Passage]:
        # When it is first asked for: a list of a hundred hits shows twenty, and a passage takes milliseconds.
        if self.nearest is not None and self.nearest[0] in self.parts:
            return self.nearest[0], passage(self.nearest[1], self.query)
        passages = [(part, passage(text, self.query)) for part, text in (self.parts or {"ocr": ""}).items()]
        return max(passages, key=lambda one: len(one[1].marks))

    @property
    def text(self) -> str:
        """The passage that answers."""
        return self._best[1].snippet

    @property
    def marks(self) -> tuple[tuple[int, int], ...]:
        """Start and end, within `text`, of what the query's words matched."""
        found = self._best[1]
        return tuple((start - found.start, end - found.start) for start, end in found.marks)

    @property
    def page_part(self) -> str:
        """ocr, caption or tags: the part that the passage is from."""
        return self._best[0]

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
            "match": self.match,
            "text": self.text,
            **{key: self.metadata.get(key) for key in keys},
            "page_part": self.page_part,
            "link": self.link,
            "missing": list(self.missing),
            "respelled": list(self.respelled),
            "alike": [one.to_json() for one in self.alike],
        }

    def _repr_html_(self) -> str:
        label = str(self.metadata.get("page_label", self.page_number))
        place = f'<a href="{escaped(self.link)}">{escaped(self.file_name)}, page {escaped(label)}</a>'
        text = marked_html(self.text, [Mark(start, end, "") for start, end in self.marks])
        return f'<div>{place} <small class="score">{self.score:.2f}</small>\n{text}</div>'


@dataclass(frozen=True)
class Hits(Sequence[Hit]):
    """The hits of a search, best first, those found before those related."""

    hits: tuple[Hit, ...] = ()
    total: int = 0
    """Number of pages found, of which `limit` are here; related pages and copies left out are not counted."""
    absent_phrases: tuple[str, ...] = ()
    """Quoted phrases that stand on no page, or not on one page together; then there are no hits."""

    @overload
    def __getitem__(self, index: int) -> Hit: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Hit, ...]: ...
    @override
    def __getitem__(self, index: int | slice) -> Hit | tuple[Hit, ...]:
        return self.hits[index]

    @override
    def __len__(self) -> int:
        return len(self.hits)

    @classmethod
    def merged(cls, several: Sequence[Hits], by: Grouping, limit: int) -> Hits:
        """Return the best hits of searches of several archives; `limit` and `by` as in each search."""
        hits = sorted((hit for some in several for hit in some), key=lambda hit: -hit.score)
        absent = [some.absent_phrases for some in several]
        return cls(
            tuple(grouped(hits, by, limit)), sum(some.total for some in several), absent[0] if all(absent) else ()
        )


def grouped(hits: Iterable[Hit], by: Grouping, limit: int) -> list[Hit]:
    """Bring hits, best first, of one file or folder together; returns `limit` groups, each of five pages at most.

    Related pages are groups of their own, behind the pages found.
    """
    groups: dict[tuple[bool, str], list[Hit]] = {}
    for hit in sorted(hits, key=lambda hit: hit.match == "related"):
        group = groups.setdefault((hit.match == "related", hit.group(by)), [])
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
        self,
        query: str,
        *,
        limit: int,
        mode: Mode,
        filter_: Filter,
        by: Grouping = "page",
        all_copies: bool = False,
        related: bool = False,
    ) -> Hits:
        """Return the best pages for a query, best first; see `grouped`.

        Of pages that show the same only the best is a hit, unless `all_copies` asks for each. `related` adds pages that
        are merely near, behind those that are found.

        Raises:
            ConfigError: An unknown mode, metadata key or folder, or `dense` without vectors.
        """
        _check_choices(mode=mode, by=by, limit=limit)
        if mode == "dense" and self._dense is None:
            raise ConfigError(
                "this archive cannot be searched by meaning: it has no vectors, or their embedder cannot be reached.",
                hint="Search with --mode hybrid or keyword; index --reembed makes vectors.",
            )
        parsed = parse_query(query)
        if not parsed.text.strip():
            raise ConfigError("the query is empty.", hint="Give a word, a name, a number or a question.")
        self._check_filter(filter_)
        allowed, absent = self._holding_phrases(parsed, self._catalog.meant(filter_))
        if absent:
            return Hits(absent_phrases=absent)
        length = max(LIST_LENGTH, 4 * limit)
        near = self._near(parsed.text, length, allowed) if mode != "keyword" else {}
        scored, total = self._score(parsed, near, length, allowed, mode)
        if not related:
            scored = [one for one in scored if one.score >= FOUND]
        chosen, copies = self._choose(scored[:length], by, limit, all_copies=all_copies)
        hits = self._hits(chosen, parsed, near, all_copies=all_copies)
        return Hits(hits, max(total - copies, sum(hit.score >= FOUND for hit in hits)))

    def like(
        self,
        picture: Picture,
        *,
        limit: int,
        filter_: Filter,
        by: Grouping = "page",
        all_copies: bool = False,
        related: bool = False,
    ) -> Hits:
        """Return the photos that look like a picture or show the like, best first; options are those of `search`.

        Those that look like it come first. What others show is told by their descriptions: by meaning, and by words.
        """
        _check_choices(by=by, limit=limit)
        self._check_filter(filter_)
        is_photo = Condition("phash", "between", ("", ""))
        allowed = self._catalog.meant(replace(filter_, conditions=(*filter_.conditions, is_photo))) or set()
        looks = self._duplicates.near(picture.phash, MOST_LIKE_BITS) if picture.phash else {}
        nearest = [page_id for page_id, bits in looks.items() if bits <= MOST_BITS and page_id != picture.page_id]
        if not picture.text and nearest:  # what looks the same is the same
            picture = picture.described_as(self._catalog.pages(nearest[:1])[0])
        length = max(LIST_LENGTH, 4 * limit)
        parsed = parse_query(picture.terms)
        near: dict[str, Near] = {}
        scored: list[Scored] = []
        if parsed.text and allowed:
            near = self._near(picture.text, length, allowed)
            scored, _ = self._score(parsed, near, length, allowed, "hybrid")
        by_text = {one.page_id: _below_looks(one) for one in scored}
        numbers = self._catalog.numbers(looks)
        for page_id, bits in looks.items():
            known = by_text.get(page_id)
            if numbers.get(page_id) in allowed and (known is None or known.score < _look_score(bits)):
                match: Match = "exact" if bits == 0 else "similar" if _look_score(bits) >= FOUND else "related"
                by_text[page_id] = Scored(page_id, _look_score(bits), match)
        found = sorted((one for one in by_text.values() if one.page_id != picture.page_id), key=lambda one: -one.score)
        total = sum(one.score >= FOUND for one in found)
        if not related:
            found = found[:total]
        chosen, copies = self._choose(found[:length], by, limit, all_copies=all_copies)
        return Hits(self._hits(chosen, parsed, near, all_copies=all_copies), total - copies)

    def _hits(
        self, chosen: Sequence[tuple[Scored, PageRow]], query: Query, near: Mapping[str, Near], *, all_copies: bool
    ) -> tuple[Hit, ...]:
        nearest = self._nearest_texts([one for one, _ in chosen], near)
        return tuple(
            Hit(
                page_id=row.page_id,
                score=one.score,
                match=one.match,
                page_text=row.text,
                link=row.link,
                metadata=dict(row.metadata),
                missing=one.missing,
                respelled=one.respelled,
                alike=() if all_copies else self._duplicates.alike(row),
                query=query,
                parts=row.parts,
                nearest=nearest.get(one.page_id),
            )
            for one, row in chosen
        )

    def _check_filter(self, filter_: Filter) -> None:
        if filter_.conditions:
            check_keys(filter_.conditions, self._catalog.metadata_keys())
        if filter_.folder:
            check_folder_known(filter_.folder, self._catalog.metadata_values("file_path"))

    def _holding_phrases(self, query: Query, allowed: set[int] | None) -> tuple[set[int] | None, tuple[str, ...]]:
        """Return the pages allowed that hold the query's quoted phrases; if there are none, the phrases to blame."""
        phrases = [term for term in query.terms if term.kind is Kind.PHRASE]
        if not phrases:
            return allowed, ()
        with self._catalog.reading() as db:
            holding = [words.pages_holding(db, phrase) for phrase in phrases]
        if allowed is not None:
            holding = [pages & allowed for pages in holding]
        together = set.intersection(*holding)
        absent = [phrase.text for phrase, pages in zip(phrases, holding, strict=True) if not pages]
        return together, () if together else tuple(absent or (phrase.text for phrase in phrases))

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
    ) -> tuple[list[Scored], int]:
        """Return the pages for which something speaks, best first, and how many are found in all."""
        dense = [(one.page_id, one.cosine) for one in near.values()]
        cosines = self._dense.cosines(query.text) if self._dense and dense else None
        with self._catalog.reading() as db:
            if mode == "dense":
                known = words.frequencies(db, query)
                scored = by_meaning_only(by_meaning(query, known, dense, cosines)) if cosines else []
                return scored, sum(one.score >= FOUND for one in scored)
            also = [page_id for page_id, _ in dense[:length]]
            found = words.look_up(db, query, length, only=allowed, also=also)
            scored = rank(query, found, dense, cosines=cosines, whole_only=mode == "keyword")
            total = sum(one.score >= FOUND for one in scored)
            if len(found.words) >= length:  # more pages may hold the words than were weighed
                total = max(total, words.count_whole(db, query, allowed))
        return scored, total

    def _choose(
        self, scored: Sequence[Scored], by: Grouping, limit: int, *, all_copies: bool
    ) -> tuple[list[tuple[Scored, PageRow]], int]:
        """Return the pages of the first groups, as `grouped` does; of pages that show the same, the best.

        The number is that of the copies among the pages found that are left out.
        """
        rows = {row.page_id: row for row in self._catalog.pages([one.page_id for one in scored])}
        groups: dict[tuple[bool, str], list[tuple[Scored, PageRow]]] = {}
        seen: set[str] = set()
        copies = 0
        for one in scored:
            row = rows.get(one.page_id)
            if row is None or one.page_id in seen:
                copies += row is not None and one.score >= FOUND
                continue
            name = one.score < FOUND, _group(one.page_id, row.metadata, by)
            if name not in groups and len(groups) == limit:
                continue
            group = groups.setdefault(name, [])
            if len(group) < PAGES_PER_GROUP:
                group.append((one, row))
                seen.update(() if all_copies else self._duplicates.group(one.page_id))
        return [pair for group in groups.values() for pair in group], copies

    def _nearest_texts(self, scored: Iterable[Scored], near: Mapping[str, Near]) -> dict[str, tuple[str, str]]:
        """Return part and text of the nearest chunk of each page whose words tell less, by page id."""
        wanted = [near[one.page_id] for one in scored if one.page_id in near and one.lexical < WORDS_TELL]
        texts = self._dense.texts([one.node_id for one in wanted]) if self._dense else {}
        return {one.page_id: (one.part, texts[one.node_id]) for one in wanted if one.node_id in texts}


def _check_choices(*, by: Grouping, limit: int, mode: Mode = "hybrid") -> None:
    for name, value, known in (("mode", mode, get_args(Mode)), ("by", by, get_args(Grouping))):
        if value not in known:
            raise ConfigError(f"{value!r} is not one of {', '.join(known)}.", argument=name)
    if limit < 1:
        raise ConfigError(f"{limit} must be at least 1.", argument="limit")


# ── photos like a picture ─────────────────────────────────────────────────────────────────────────

MOST_LIKE_BITS = 18
"""Of two hashes without relation one pair in three thousand is so near: such a photo is perhaps related."""
_LEAST_LIKE_BITS = 16
"""Of 12,403 pairs of different pictures none was nearer."""


def _below_looks(one: Scored) -> Scored:
    """Return a photo of which a description tells the like: it comes behind those that look the same.

    The words of the description were typed by nobody, so none of them is missing.
    """
    score = FOUND + (one.score - FOUND) * 0.78 if one.score > FOUND else one.score
    match: Match = "similar" if score >= FOUND else "related"
    return replace(one, score=score, match=match, missing=(), respelled=())


def _look_score(bits: int) -> float:
    """Return how surely photos whose hashes differ so are of the like."""
    if bits <= MOST_BITS:
        return 1 - bits / 100
    return 0.9 - 0.4 * (bits - MOST_BITS) / (_LEAST_LIKE_BITS - MOST_BITS) if bits < _LEAST_LIKE_BITS else 0.3


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
            stop = max(last, offsets[end])
            if "\n" in text[last:stop]:
                stop = last  # what was left out at the end of a line is no part of the word before
            found.append(_Span(offsets[start], stop, number, weight * strength))
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
