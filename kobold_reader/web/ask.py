"""Ask: a question answered from the pages found, sent to the browser while the model writes.

The page itself is the stream: its beginning is there before the answer, and the answer's pieces become text of the page
as they come. So it needs no script, and leaving the page, or stopping it, ends the answer on the server.
"""

from __future__ import annotations

import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from jinja2 import Template
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse

from kobold_reader.archive import Hit
from kobold_reader.errors import ConfigError, KoboldReaderError
from kobold_reader.html.text import without_controls
from kobold_reader.stream import stepped
from kobold_reader.web import views
from kobold_reader.web.library import Library

if TYPE_CHECKING:
    from kobold_reader.archive.ask import AnswerStream
    from kobold_reader.llm import KoboldLLM

PAGES = 5
"""The model gets at most so many."""
_CITATION = re.compile(r"\[\d{1,3}(?:\s*[,;]\s*\d{1,3})*\]")
_BEGUN_CITATION = re.compile(r"\[[\d\s,;]{0,40}\Z")


class Asking:
    """Answers at `/ask`.

    Args:
        library: The archive.
        template: Shows a `Talk` from its beginning to its end.
        values: Returns what every page shows.
    """

    def __init__(
        self, library: Library, template: Callable[[], Template], values: Callable[..., dict[str, Any]]
    ) -> None:
        self._library = library
        self._template = template
        self._values = values

    def ask(self, request: Request) -> Response:
        """Stream the page of a question and its answer."""
        question, filters = request.query_params.get("q", "").strip(), views.Filters.of(request.query_params)
        if not question:
            return RedirectResponse(filters.address(), 303)
        if request.method == "HEAD":
            return Response(media_type="text/html")
        values = self._values(view="ask", query=question, filters=filters)
        return StreamingResponse(self._page(question, filters, values), media_type="text/html")

    async def _page(self, question: str, filters: views.Filters, values: dict[str, Any]) -> AsyncIterator[str]:
        talk = Talk(self._library, question, filters)
        html = self._template().generate(values, talk=talk)
        try:
            async with aclosing(stepped(html, threading.Event())) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            talk.abort()  # the browser may have left


class Talk:
    """A question, the pages found for it, and its answer; everything happens when the page comes to show it.

    Attributes:
        notices: Lines of text for people, complete when the answer is.
        problem: Why there is no answer, or no more of it.
    """

    def __init__(self, library: Library, question: str, filters: views.Filters) -> None:
        self._library = library
        self._question = question
        self._filters = filters
        self._llm: KoboldLLM | None = None
        self._stream: AnswerStream | None = None
        self._is_left = False
        self._addresses: dict[int, str] = {}
        self.notices: list[str] = []
        self.problem = ""

    def pages(self) -> list[tuple[int, Hit, str]]:
        """Find pages, and return each with its number and address; they are shown even where nobody can answer."""
        archive, asked = self._library.archive, self._filters.asked()
        hits: tuple[Hit, ...] = ()
        try:
            self._llm = archive.llm()
            self._stream = archive.ask_stream(
                self._question, llm=self._llm, limit=PAGES, on_notice=self.notices.append, **asked
            )
            hits = self._stream.hits
        except KoboldReaderError as err:
            self.problem = str(err)
            if not isinstance(err, ConfigError):
                hits = tuple(archive.search(self._question, limit=PAGES, on_notice=self.notices.append, **asked))
        found = []
        for number, hit in enumerate(hits, start=1):
            if page := archive.page(hit.page_id):
                self._addresses[number] = views.hit_address(hit, page, self._question, self._filters)
                found.append((number, hit, self._addresses[number]))
        self.notices = list(dict.fromkeys(self.notices))
        return found

    def answer(self) -> Iterator[str | Markup]:
        """Yield the pieces of the answer as they come, the numbers of pages in it as links."""
        if self._stream is None or self._is_left:
            return
        shown = len(self.notices)
        try:
            yield from linked(self._stream, self._addresses)
        except KoboldReaderError as err:
            self.problem = str(err)
        except CancelledError:
            self.problem = "Stopped."
        if self._stream.answer.invented:
            numbers = ", ".join(f"[{number}]" for number in self._stream.answer.invented)
            self.notices.append(f"The answer refers to {numbers}: there is no such page.")
        elif self._stream.answer.found and not self._stream.answer.cited and not self.problem:
            self.notices.append("The answer names no page; it was given those found.")
        self.notices = self.notices[shown:]  # the others stand above

    def abort(self) -> None:
        """End the answer on the server, from any thread."""
        self._is_left = True
        if self._llm is not None:
            self._llm.abort()


def linked(pieces: Iterator[str] | AnswerStream, addresses: Mapping[int, str]) -> Iterator[str | Markup]:
    """Yield pieces of an answer, in which numbers of pages become links; a number that is being written waits.

    Everything else is plain text, which the template escapes: no HTML from a model is trusted.
    """
    held = ""
    for piece in pieces:
        text = held + piece
        begun = _BEGUN_CITATION.search(text)
        held = text[begun.start() :] if begun else ""
        yield from _with_links(text[: begun.start()] if begun else text, addresses)
    yield held


def _with_links(text: str, addresses: Mapping[int, str]) -> Iterator[str | Markup]:
    start = 0
    for found in _CITATION.finditer(text):
        yield text[start : found.start()]
        yield Markup(re.sub(r"\d+", lambda number: _link(int(number[0]), addresses), found[0]))  # noqa: S704  (digits)
        start = found.end()
    yield without_controls(text[start:])


def _link(number: int, addresses: Mapping[int, str]) -> str:
    if number not in addresses:
        return str(number)
    return f'<a href="{escape(addresses[number])}">{number}</a>'
