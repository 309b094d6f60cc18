"""The pages of the local search page, and the few things that can be changed there."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any, Final
from urllib.parse import parse_qs

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from kobold_reader.archive import Archive
from kobold_reader.archive.filters import parse_filter
from kobold_reader.archive.store import PageRow
from kobold_reader.errors import ConfigError, KoboldReaderError, SourceError, SourceNotFoundError
from kobold_reader.html.pages import STATUS_WORDS
from kobold_reader.web import views
from kobold_reader.web.images import Pictures
from kobold_reader.web.library import Library, leaf_of
from kobold_reader.web.reread import ReadAgain
from kobold_reader.web.security import Access, Guard

__all__ = ["make_app"]

log = logging.getLogger(__name__)

HITS: Final = 20
MOST_HITS: Final = 200
BROWSED: Final = 60
PHOTOS: Final = 240
BODY_BYTES: Final = 4_000_000
_STATIC: Final = {
    "style.css": "text/css; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


def make_app(
    archive: Archive,
    access: Access,
    *,
    changes: Mapping[str, Any] | None = None,
    api_password: str | None = None,
    pdf_passwords: Sequence[str] = (),
) -> tuple[Starlette, Callable[[], None]]:
    """Return the application over an open archive, and what closes it.

    Args:
        archive: What is searched; stays open.
        access: Who may.
        changes: KoboldReader arguments in which reading again differs from the run that read a page before.
        api_password: Of the server that reads again.
        pdf_passwords: Tried on encrypted files.
    """
    pictures = Pictures(pdf_passwords)
    secrets = {"api_password": api_password, "pdf_passwords": list(pdf_passwords)}
    again = ReadAgain(archive, changes or {}, secrets)
    pages = _Pages(archive, access, pictures, again)
    app = Starlette(
        routes=pages.routes(),
        middleware=[Middleware(Guard, access=access)],
        exception_handlers={KoboldReaderError: pages.error, HTTPException: pages.error, Exception: pages.error},
    )
    app.state.again = again

    def close() -> None:
        again.close()
        pictures.close()

    return app, close


class _Pages:
    """Answers requests; one method a view."""

    def __init__(self, archive: Archive, access: Access, pictures: Pictures, again: ReadAgain) -> None:
        self._archive = archive
        self._access = access
        self._pictures = pictures
        self._again = again
        self._library = Library(archive)
        self._turn = asyncio.Lock()
        self._everywhere = {"archive_name": archive.folder.absolute().name, "change_token": access.change_token}

    def routes(self) -> list[Route]:
        """Return every address there is."""
        one = "/page/{page_id:str}"
        return [
            Route("/", self.search),
            Route("/photos", self.photos),
            Route("/alike/{page_id:str}", self.alike),
            Route("/failed", self.failed),
            Route("/about", self.about),
            Route(one, self.page),
            Route("/image/{page_id:str}/{size:str}", self.image),
            Route("/again", self.again),
            Route("/static/{name:str}", self.static),
            Route(f"{one}/text", self.correct, methods=["POST"]),
            Route(f"{one}/as-read", self.uncorrect, methods=["POST"]),
            Route(f"{one}/again", self.read_page_again, methods=["POST"]),
            Route("/file/{key:str}/again", self.read_file_again, methods=["POST"]),
        ]

    def _show(self, template: str, status: int = 200, **shown: Any) -> Response:
        shown = {"query": "", "filters": views.Filters(), "view": "", **shown}
        failed = sum(1 for _ in self._archive.failed_pages()) + sum(1 for one in self._archive.places() if one.error)
        return HTMLResponse(self._rendered(template, failed_count=failed, **shown), status)

    def _rendered(self, template: str, **shown: Any) -> str:
        return _templates().get_template(template).render(**self._everywhere, **shown)

    # ── looking ──────────────────────────────────────────────────────────────────────────────────

    def search(self, request: Request) -> Response:
        """Hits for a query; without one, what there is."""
        query = request.query_params.get("q", "").strip()
        filters = views.Filters.of(request.query_params)
        overview = self._library.overview()
        shown: dict[str, Any] = {
            "view": "search",
            "query": query,
            "filters": filters,
            "choices": overview.choices,
            "pages": len(overview.leaves),
            "hits": [],
            "leaves": [],
            "more": "",
            "problem": "",
            "notices": [],
        }
        try:
            asked = filters.asked()
            filter_ = parse_filter(**asked)
            if query:
                limit = min(MOST_HITS, _number(request, "n", HITS))
                hits = self._archive.search(query, limit=limit, on_notice=shown["notices"].append, **asked)
                shown["hits"] = views.found(hits, self._library, query, filters)
                if len(hits) == limit < MOST_HITS:
                    shown["more"] = filters.address(q=query, n=min(MOST_HITS, limit + HITS))
            else:
                limit = _number(request, "n", BROWSED)
                chosen = overview.chosen(filter_)
                shown["leaves"] = chosen[:limit]
                if len(chosen) > limit:
                    shown["more"] = filters.address(n=limit + BROWSED)
        except ConfigError as err:
            shown["problem"] = str(err)
        return self._show("search.html", **shown, is_narrowed=filters != views.Filters())

    def page(self, request: Request) -> Response:
        """One page, large, beside its text."""
        page = self._page(request)
        query = request.query_params.get("q", "").strip()
        filters = views.Filters.of(request.query_params)
        before, after = self._library.overview().beside(page.page_id)
        here = filters.address(f"/page/{page.page_id}", q=query)
        return self._show(
            "page.html",
            view="page",
            query=query,
            filters=filters,
            shown=views.page_view(
                page, self._library.readings([page])[page.page_id], query, request.query_params.get("at", "")
            ),
            before=before,
            after=after,
            others=len(self._archive.alike(page.page_id)),
            here=here,
            edit=filters.address(f"/page/{page.page_id}", q=query, edit=1),
            is_editing=request.query_params.get("edit") == "1",
            is_saved=request.query_params.get("saved") == "1",
            text=page.parts.get("ocr", ""),
            problem="",
        )

    def photos(self, request: Request) -> Response:
        """All photos, by year; those that look alike as one."""
        overview = self._library.overview()
        limit = _number(request, "n", PHOTOS)
        years, is_cut = views.wall(overview, self._archive, limit)
        return self._show(
            "photos.html",
            view="photos",
            years=years,
            total=len(overview.photos),
            more=f"/photos?n={limit + PHOTOS}" if is_cut else "",
        )

    def alike(self, request: Request) -> Response:
        """A page and all that show the same."""
        page = self._page(request)
        leaf, path = leaf_of(page), str(page.metadata.get("file_path", ""))
        shown = views.members(leaf, path, self._archive.alike(page.page_id))
        return self._show("alike.html", view="photos" if leaf.is_photo else "", leaf=leaf, members=shown)

    def failed(self, request: Request) -> Response:  # noqa: ARG002
        """What could not be read, and why."""
        shown = views.failed(self._archive.failed_pages(), self._archive.places())
        return self._show("failed.html", view="failed", failed=shown, again=self._again.now)

    def about(self, request: Request) -> Response:  # noqa: ARG002
        """What the archive holds."""
        return self._show(
            "about.html",
            view="about",
            held=self._archive.status(),
            folder=str(self._archive.folder.absolute()),
            is_loopback=self._access.is_loopback,
        )

    async def image(self, request: Request) -> Response:
        """A page's picture; what cannot be shown is said in a sentence."""
        size = request.path_params["size"]
        if size not in {"small", "large"}:
            raise HTTPException(404)
        page = await run_in_threadpool(self._page, request)
        async with self._turn:  # the page child makes one picture at a time
            if await request.is_disconnected():
                return Response(status_code=204)  # whoever asked has gone on to another view
            try:
                picture = await run_in_threadpool(self._pictures.picture, page, size)
            except SourceError as err:
                sentence = f"{err.message} {err.hint or ''}".strip()
                return PlainTextResponse(sentence, 404 if isinstance(err, SourceNotFoundError) else 409)
        return Response(picture.data, media_type=picture.mime)

    def again(self, request: Request) -> Response:  # noqa: ARG002
        """What became of the page that is being read again."""
        now = self._again.now
        return JSONResponse({"running": bool(now and now.is_running), "sentence": now.sentence if now else ""})

    def static(self, request: Request) -> Response:
        """One of our own files, by name."""
        name = request.path_params["name"]
        if name not in _STATIC:
            raise HTTPException(404)
        data = (files("kobold_reader.web") / "static" / name).read_bytes()
        return Response(data, headers={"Content-Type": _STATIC[name]})

    def _page(self, request: Request) -> PageRow:
        page = self._archive.page(request.path_params["page_id"])
        if page is None:
            raise HTTPException(404, "There is no such page in this archive.")
        return page

    # ── changing ─────────────────────────────────────────────────────────────────────────────────

    async def correct(self, request: Request) -> Response:
        """Save a corrected text."""
        form = await self._form(request)
        page = await run_in_threadpool(self._page, request)
        here = views.Filters.of(form).address(f"/page/{page.page_id}", q=form.get("q", ""), saved=1)
        text = form.get("text", "").replace("\r\n", "\n")
        problem = ""
        if form.get("version") != page.version:
            problem = "The text was changed since you began; copy yours from here, then open the page anew."
        else:
            try:
                await run_in_threadpool(self._archive.correct, page.page_id, text)
            except KoboldReaderError as err:
                problem = str(err)
        if not problem:
            return RedirectResponse(here, 303)
        return await run_in_threadpool(self._not_saved, page, form, text, problem)

    def _not_saved(self, page: PageRow, form: Mapping[str, str], text: str, problem: str) -> Response:
        """Return the form as it was sent: nothing that was typed is lost."""
        filters, query = views.Filters.of(form), form.get("q", "")
        return self._show(
            "page.html",
            409,
            view="page",
            query=query,
            filters=filters,
            shown=views.page_view(page, {}, query, ""),
            before=None,
            after=None,
            others=0,
            here=filters.address(f"/page/{page.page_id}", q=query),
            edit="",
            is_editing=True,
            is_saved=False,
            text=text,
            problem=problem,
        )

    async def uncorrect(self, request: Request) -> Response:
        """Take a correction back."""
        await self._form(request)
        page = await run_in_threadpool(self._page, request)
        await run_in_threadpool(self._archive.uncorrect, page.page_id)
        return RedirectResponse(f"/page/{page.page_id}", 303)

    async def read_page_again(self, request: Request) -> Response:
        """Begin to read a page again."""
        await self._form(request)
        page = await run_in_threadpool(self._page, request)
        name = f"{page.metadata.get('file_name', '')}, page {page.page_number}"
        await run_in_threadpool(self._again.start, page.uri, page.page_number, name)
        return RedirectResponse("/failed", 303)

    async def read_file_again(self, request: Request) -> Response:
        """Begin to read a file that could not be opened."""
        await self._form(request)
        places = await run_in_threadpool(self._archive.places)
        place = next((one for one in places if views.file_key(one.uri) == request.path_params["key"]), None)
        if place is None:
            raise HTTPException(404, "There is no such file in this archive.")
        await run_in_threadpool(self._again.start, place.uri, 0, str(place.metadata.get("file_name", place.uri)))
        return RedirectResponse("/failed", 303)

    async def _form(self, request: Request) -> dict[str, str]:
        """Return what one of our own forms sent.

        Raises:
            HTTPException: It is too large, or was not one of ours.
        """
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > BODY_BYTES:
                raise HTTPException(413, "That is too much text for one page.")
        sent = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True)
        form = {name: values[0] for name, values in sent.items()}
        if not self._access.is_change_token(form.get("token")):
            raise HTTPException(403, "This change was not asked for by one of our own pages. Open the page anew.")
        return form

    # ── what went wrong ──────────────────────────────────────────────────────────────────────────

    def error(self, request: Request, error: Exception) -> Response:  # noqa: ARG002
        """A sentence in place of the page."""
        if isinstance(error, HTTPException):
            sentence = error.detail if error.status_code != 404 or " " in error.detail else ""  # noqa: PLR2004
            return self._sorry(error.status_code, sentence or "There is no such page.")
        if isinstance(error, KoboldReaderError):
            return self._sorry(409 if isinstance(error, ConfigError) else 500, str(error))
        log.error("internal error in the search page", exc_info=error)
        return self._sorry(500, "Internal error: please report it, with what was said in the terminal.")

    def _sorry(self, status: int, sentence: str) -> Response:
        shown = {"query": "", "filters": views.Filters(), "view": "", "failed_count": 0}
        return HTMLResponse(self._rendered("message.html", sentence=sentence, **shown), status)


@functools.cache
def _templates() -> Environment:
    templates = Environment(
        loader=PackageLoader("kobold_reader.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals |= {"status_words": STATUS_WORDS, "kind_word": views.kind_word}
    templates.globals |= {"alike_address": views.alike_address, "said_alike": views.said_alike}
    return templates


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, "")
    return max(1, int(text)) if text.isascii() and text.isdigit() and len(text) < 7 else default  # noqa: PLR2004
