"""What people ask an archive: the pages for a query, what shows the same, an answer out of the pages."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llama_index.core.llms import LLM
from llama_index.core.query_engine import RetrieverQueryEngine

from kobold_reader.archive.ask import Answer, AnswerStream, query_engine, stream_answer
from kobold_reader.archive.duplicates import Alike
from kobold_reader.archive.opened import OpenArchive
from kobold_reader.archive.retriever import ArchiveRetriever
from kobold_reader.archive.search import Grouping, Hit, Mode, Searcher
from kobold_reader.archive.where import parse_filter
from kobold_reader.llm import KoboldLLM

__all__ = ["SearchedArchive"]


class SearchedArchive(OpenArchive):
    """An archive in which people look for something."""

    def search(
        self,
        query: str,
        *,
        limit: int = 5,
        mode: Mode = "hybrid",
        where: Sequence[str] = (),
        since: str | None = None,
        until: str | None = None,
        folder: str | Path | None = None,
        by: Grouping = "page",
        all_copies: bool = False,
    ) -> list[Hit]:
        """Return the best pages for a query, best first.

        Args:
            query: Words, names, numbers, "quoted phrases", or a question.
            limit: At most so many pages.
            mode: `hybrid`; `dense`: by meaning alone; `keyword`: by words alone.
            where: Conditions on metadata: `KEY=VALUE`, `KEY=A..B`, `KEY=~WORD`.
            since: Pages of this year, month or day (`1954`, `1954-03`, `1954-03-12`) or later. A page is of the day of
                its `date_taken`, else `date_digitized`, `creation_date`, `last_modified_date`.
            until: Pages of this year, month or day or earlier.
            folder: Pages of files that lie in it or below: a path, or any part of one (`letters`, `letters/1954`).
            by: `file` or `folder`: hits of one together, best first, at most five pages of each.
            all_copies: Each of several pages that show the same (copies, photos that look alike) as a hit of its own;
                else the best of them, which names the others in `Hit.alike`. So it is with `by`, too.

        Raises:
            ConfigError: Empty query, unknown mode, key or folder; a date of another shape.
        """
        self.notices.clear()
        searcher = Searcher(self._catalog, self._meaning.search(mode, self.notices), self._duplicates)
        filter_ = parse_filter(where, since=since, until=until, folder=folder)
        return searcher.search(query, limit=limit, mode=mode, filter_=filter_, by=by, all_copies=all_copies)

    def duplicates(self) -> list[tuple[Alike, ...]]:
        """Return groups of pages that show the same: copies of a file, one scan in several files, photos nearly alike.

        The largest file of each stands first, and `is_equal` says of each other whether its bytes are the same. Of
        copies of a file with many pages only the first page is named.
        """
        return self._duplicates.groups()

    def alike(self, page_id: str) -> tuple[Alike, ...]:
        """Return what shows the same as a page, wherever it lies, without the page itself."""
        row = self._catalog.page(page_id)
        return self._duplicates.alike(row) if row is not None else ()

    def as_retriever(self, *, limit: int = 5, mode: Mode = "hybrid", **narrowed: Any) -> ArchiveRetriever:
        """Return a LlamaIndex retriever over `search`, one node a page; `narrowed` as there."""
        return ArchiveRetriever(functools.partial(self.search, limit=limit, mode=mode, **narrowed))

    def as_query_engine(
        self, llm: LLM | None = None, *, limit: int = 5, where: Sequence[str] = (), streaming: bool = False
    ) -> RetrieverQueryEngine:
        """Return LlamaIndex's query engine over `search`, which answers from pages that fit the model's context.

        Args:
            llm: Answers; None: the model of this archive's KoboldCpp. LlamaIndex's own default is never used.
            limit: At most so many pages.
            where: Conditions on metadata, as in `search`.
            streaming: Whether its responses are streams.
        """
        retriever = self.as_retriever(limit=limit, where=where)
        return query_engine(retriever, llm or self._llm(), self.notices, streaming=streaming)

    def ask(self, question: str, *, llm: LLM | None = None, limit: int = 5, where: Sequence[str] = ()) -> Answer:
        """Answer a question as `ask_stream` does, but return the whole answer at once."""
        with self.ask_stream(question, llm=llm, limit=limit, where=where) as stream:
            for _ in stream:
                pass
            return stream.answer

    def ask_stream(
        self, question: str, *, llm: LLM | None = None, limit: int = 5, where: Sequence[str] = ()
    ) -> AnswerStream:
        """Find pages for a question, and return the answer as a stream of text.

        Where the search finds nothing, no request is sent. What did not fit the context is said in `notices`.

        Args:
            question: What is asked.
            llm: Answers; None: the model of this archive's KoboldCpp.
            limit: At most so many pages.
            where: Conditions on metadata, as in `search`.

        Raises:
            ConfigError: An empty question.
            ContextTooSmallError: Not even a part of one page fits.
            ServerError: No server can answer.
        """
        hits: dict[str, Hit] = {}

        def search(query: str) -> list[Hit]:
            found = self.search(query, limit=limit, where=where)
            hits.update({hit.page_id: hit for hit in found})
            return found

        engine = query_engine(ArchiveRetriever(search), llm or self._llm(), self.notices, streaming=True)
        return stream_answer(engine, hits, question)

    def _llm(self) -> KoboldLLM:
        return KoboldLLM(api_url=list(self._access.urls), api_password=self._access.password)
