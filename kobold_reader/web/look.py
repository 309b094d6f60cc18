"""Worth a look: the most doubtful pages one after the other, each beside what the witness read of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from kobold_reader.archive import Archive
from kobold_reader.archive.archive import Doubt
from kobold_reader.archive.rows import PageRow
from kobold_reader.errors import KoboldReaderError
from kobold_reader.html.text import Mark, doubtful_marks, marked_html
from kobold_reader.reading.results import Reading
from kobold_reader.reading.witness import ComparedLine, side_by_side
from kobold_reader.web import views
from kobold_reader.web.library import leaf_of


@dataclass(frozen=True, slots=True)
class LookLine:
    """A line of the page's text beside the witness's."""

    number: int
    text: Markup
    """"": it is on the page, and not in the text."""
    page: Markup
    """"": it is in the text, and not on the page."""
    is_different: bool
    take: str
    """What its button does."""
    about: str
    """The same for people who hear the page."""


class LookViews:
    """Answers at `/look` and below it.

    Args:
        archive: Holds the pages.
        show: Renders a template, as `_Pages` does.
        form: Returns what one of our own forms sent.
        page_of: Returns the page that an address names.
    """

    def __init__(
        self,
        archive: Archive,
        *,
        show: Callable[..., Response],
        form: Callable[[Request], Awaitable[dict[str, str]]],
        page_of: Callable[[Request], PageRow],
    ) -> None:
        self._archive = archive
        self._show = show
        self._form = form
        self._page_of = page_of

    @property
    def routes(self) -> list[Route]:
        """The addresses."""
        return [
            Route("/look", self.first),
            Route("/look/{page_id:str}", self.look),
            Route("/look/{page_id:str}", self.change, methods=["POST"]),
        ]

    def first(self, request: Request) -> Response:  # noqa: ARG002
        """The most doubtful page, or that there is none."""
        queue = self._archive.worth_a_look()
        page = self._archive.page(queue[0].page_id) if queue else None
        if page is None:
            return self._show("look.html", view="look", page=None, left=0)
        return self._shown(page, queue, after="", is_editing=False)

    def look(self, request: Request) -> Response:
        """One page, and both texts side by side."""
        query = request.query_params
        is_editing = query.get("edit") == "1" and not self._archive.is_read_only
        queue = self._archive.worth_a_look()
        return self._shown(self._page_of(request), queue, after=query.get("after", ""), is_editing=is_editing)

    async def change(self, request: Request) -> Response:
        """Take a page's text for right, take the witness's line or all of its text, or take another text."""
        form, page = await self._form(request), await run_in_threadpool(self._page_of, request)
        after = form.get("after", "")
        text = form.get("text", "").replace("\r\n", "\n")
        if form.get("version") != page.version:
            problem = "The text was changed since you began; copy yours from here, then open the page anew."
        else:
            try:
                return await run_in_threadpool(self._changed, page, form, text, after)
            except KoboldReaderError as err:
                problem = str(err)
        # The form is shown as it was sent, so that no typed text is lost.
        return await run_in_threadpool(
            lambda: self._shown(
                page,
                self._archive.worth_a_look(),
                after=after,
                is_editing="text" in form,
                text=text,
                problem=problem,
            )
        )

    def _changed(self, page: PageRow, form: dict[str, str], text: str, after: str) -> Response:
        next_id = _next(self._archive.worth_a_look(), page.page_id, after)
        if "take" in form:
            before = page.parts.get("ocr", "")
            rows, witness = self._rows(page, before)
            if form["take"] == "all" and witness is not None:
                self._archive.correct(page.page_id, witness.text)
                return RedirectResponse(f"/look/{page.page_id}?after={next_id}", 303)
            number = int(form["take"]) if form["take"].isdecimal() else len(rows)
            if number >= len(rows):
                raise HTTPException(409, "There is no such line.")
            self._archive.correct(page.page_id, rows[number].taken(before))
            return RedirectResponse(f"/look/{page.page_id}?after={next_id}#line-{number}", 303)
        if "text" in form:
            self._archive.correct(page.page_id, text)
        else:
            self._archive.approve(page.page_id)
        return RedirectResponse(f"/look/{next_id}" if next_id else "/look", 303)

    def _rows(self, page: PageRow, text: str) -> tuple[Sequence[ComparedLine], Reading | None]:
        witness = self._archive.second_reading(page)
        if witness is None or not witness.text:
            return (), None
        # Texts of two different pages have no lines to compare.
        return side_by_side(text, witness) if page.status != "unsupported" else (), witness

    def _shown(
        self,
        page: PageRow,
        queue: Sequence[Doubt],
        *,
        after: str,
        is_editing: bool,
        text: str | None = None,
        problem: str = "",
    ) -> Response:
        own = page.parts.get("ocr", "")
        rows, witness = self._rows(page, own)
        reading = self._archive.readings([page])[page.page_id].get("ocr")
        doubtful = doubtful_marks(reading) if reading else []
        rotation_deg = self._archive.rotations([page]).get(page.page_id)
        lines = [_line(number, row, own, doubtful) for number, row in enumerate(rows)]
        return self._show(
            "look.html",
            409 if problem else 200,
            view="look",
            page=page,
            left=len(queue),
            label=leaf_of(page).label,
            state=views.state_of(page),
            why=next((one.why for one in queue if one.page_id == page.page_id), ""),
            next_id=_next(queue, page.page_id, after),
            rotation_deg=rotation_deg,
            overlay=_overlay(page, rows, own, witness, rotation_deg),
            lines=lines,
            unlike=sum(line.is_different for line in lines),
            own=marked_html(own, doubtful),
            other=marked_html(witness.text, []) if witness is not None and (is_editing or not rows) else "",
            is_editing=is_editing,
            text=escape(own if text is None else text),
            problem=problem,
        )


def _next(queue: Sequence[Doubt], page_id: str, after: str) -> str:
    """Return the page that follows in the queue: after a corrected one, which is in it no more, the one given."""
    page_ids = [one.page_id for one in queue]
    if page_id not in page_ids:
        return after if after in page_ids else ""
    following = page_ids[page_ids.index(page_id) + 1 :] or page_ids
    return following[0] if following[0] != page_id else ""


def _line(number: int, row: ComparedLine, text: str, doubtful: Sequence[Mark]) -> LookLine:
    marks = [Mark(start, end, "unlike") for start, end in row.text_marks] + list(doubtful)
    inside = [
        Mark(max(mark.start, row.start) - row.start, min(mark.end, row.end) - row.start, mark.kind, mark.hint)
        for mark in marks
        if mark.start < row.end and mark.end > row.start
    ]
    own = text[row.start : row.end]
    if not own:
        take, about = "Add", f"Add the line: {row.page}"
    elif not row.page:
        take, about = "Leave out", f"Leave out the line: {own}"
    else:
        take, about = "Take", f"Take the line “{row.page}” in place of “{own}”"
    return LookLine(
        number,
        marked_html(own, inside),
        marked_html(row.page, [Mark(start, end, "unlike") for start, end in row.page_marks]),
        row.is_different,
        take,
        about,
    )


def _overlay(
    page: PageRow, rows: Sequence[ComparedLine], text: str, witness: Reading | None, rotation_deg: int | None
) -> views.Overlay | None:
    """Return the witness's lines on the picture, those that differ in colour; None where the picture is turned."""
    if witness is None or not witness.view_sizes or witness.rotation_deg != page.metadata.get("rotation_deg", 0):
        return None
    numbered = [(number, box) for number, row in enumerate(rows) for box in row.boxes]
    size, boxes = views.on_picture(witness, [box for _, box in numbered], rotation_deg)
    outlines = tuple(
        views.Outline(
            number,
            text.count("\n", 0, rows[number].start),
            views.points_of(box, size),
            "found" if rows[number].is_different else "",
        )
        for (number, _), box in zip(numbered, boxes, strict=True)
    )
    return views.Overlay(*size, outlines, (), is_low=False)
