"""The search page: its addresses, what each shows and changes, and the HTTP server that answers there."""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from importlib.resources import files
from pathlib import Path
from typing import IO, Any, Self
from urllib.parse import parse_qs, quote

import uvicorn
from jinja2 import Environment
from markupsafe import escape
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route
from starlette.types import ASGIApp

from kobold_reader.archive import Archive
from kobold_reader.archive.filters import parse_filter
from kobold_reader.archive.query import unquoted
from kobold_reader.archive.rows import PageRow
from kobold_reader.errors import (
    ConfigError,
    EncryptedSourceError,
    KoboldReaderError,
    SourceError,
    SourceNotFoundError,
    archive_option,
)
from kobold_reader.html.pages import explained, templates
from kobold_reader.progress import spell_bytes
from kobold_reader.web import views
from kobold_reader.web.add import Adding, AddViews
from kobold_reader.web.ask import Asking
from kobold_reader.web.library import FACETS, SIZES, Library, Overview, Part, Pictures, folder_of, leaf_of
from kobold_reader.web.look import LookViews
from kobold_reader.web.runs import CLOSING_S, Runs
from kobold_reader.web.security import Access, Guard, is_same

log = logging.getLogger(__name__)

HITS = 20
BROWSED = 60
PHOTOS = 240
MOST_FAILED = 500
"""Failed pages that are listed, and failed files."""
BODY_BYTES = 4_000_000
EXPORTED = 5_000
"""Pages in one exported file, at most."""
PIECE_BYTES = 1 << 20
READY_WAIT_S = 10.0
_HEADINGS = {
    403: "Not allowed",
    404: "Not found",
    405: "Not found",
    409: "Not possible",
    413: "Too large",
    423: "Locked",
    507: "Not saved",
}
"""Of the pages that say why an address cannot be shown, by HTTP status."""
_STATIC = {
    "style.css": "text/css; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "live.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


def make_app(
    archive: Archive,
    access: Access,
    *,
    changes: Mapping[str, Any] | None = None,
    api_password: str | None = None,
    pdf_passwords: Sequence[str] = (),
    adding: Adding | None = None,
) -> tuple[Starlette, Callable[[], None]]:
    """Return the application, and the function that ends the processes and threads that it has started.

    Args:
        archive: An open archive; the caller closes it.
        access: Who may see and change it.
        changes: options of `ReadOptions` for reading pages again that differ from the run that read them before.
        api_password: Password of the server that reads them.
        pdf_passwords: Tried on encrypted files.
        adding: What may be added through the browser; None: nothing.
    """
    pictures = Pictures(pdf_passwords)
    runs = Runs(archive, changes or {}, api_password, pdf_passwords)
    library = Library(archive)
    pages = _Pages(library, access, pictures, runs)
    add = AddViews(
        archive, runs, adding or Adding(), show=pages.show, form=pages.form, change_token=access.change_token
    )
    page = "/page/{page_id:str}"
    app = Starlette(
        routes=[
            Route("/", pages.search),
            Route("/ask", Asking(library, lambda: _templates().get_template("ask.html"), pages.values).ask),
            Route("/photos", pages.photos),
            Route("/places", pages.places),
            Route("/like/{page_id:str}", pages.like),
            Route("/alike/{page_id:str}", pages.alike),
            Route("/failed", pages.failed),
            Route("/about", pages.about),
            Route(page, pages.page),
            Route("/image/{page_id:str}/{size:str}", pages.image),
            Route("/original/{page_id:str}", pages.original),
            Route("/run", pages.run),
            *add.routes,
            *LookViews(archive, show=pages.show, form=pages.form, page_of=pages.page_of).routes,
            Route("/ready", pages.ready),
            Route("/export", pages.export, methods=["POST"]),
            Route("/static/{name:str}", pages.static),
            Route(f"{page}/text", pages.correct, methods=["POST"]),
            Route(f"{page}/as-read", pages.uncorrect, methods=["POST"]),
            Route(f"{page}/again", pages.reread_page, methods=["POST"]),
            Route(f"{page}/rotation", pages.rotate, methods=["POST"]),
            Route(f"{page}/unlock", pages.unlock, methods=["POST"]),
            Route("/file/{key:str}/again", pages.reread_file, methods=["POST"]),
        ],
        middleware=[Middleware(Guard, access=access)],
        exception_handlers={KoboldReaderError: pages.error, HTTPException: pages.error, Exception: pages.error},
    )
    app.state.runs = runs
    app.state.library = library
    library.warm_up()

    def close() -> None:
        runs.close()
        library.close(CLOSING_S)
        pictures.close()

    return app, close


class _Pages:
    """Answers requests, with one method for each address."""

    def __init__(self, library: Library, access: Access, pictures: Pictures, runs: Runs) -> None:
        self._library = library
        self._archive = library.archive
        self._access = access
        self._pictures = pictures
        self._runs = runs
        self._picture_lock = asyncio.Lock()

    def values(self, **shown: Any) -> dict[str, Any]:
        """Return what every view shows, with what this one shows."""
        values = {"query": "", "filters": views.Filters(), "view": "", **shown}
        values["archive_name"] = self._archive.folder.absolute().name
        values["archive_option"] = archive_option(self._archive.folder.absolute())
        values["change_token"] = self._access.change_token
        values["is_read_only"] = self._archive.is_read_only
        if "failed_count" not in values:
            values["failed_count"] = self._archive.count_failed()
        return values

    def show(self, template: str, status: int = 200, **shown: Any) -> Response:
        """Return a view."""
        return HTMLResponse(_templates().get_template(template).render(self.values(**shown)), status)

    # ── looking ──────────────────────────────────────────────────────────────────────────────────

    def search(self, request: Request) -> Response:
        """Hits for a query; without one, all files or the pages that pass the filters."""
        query = request.query_params.get("q", "").strip()
        filters = views.Filters.of(request.query_params)
        overview = self._library.overview()
        notices: list[str] = []
        shown: dict[str, Any] = {"hits": [], "leaves": [], "total": 0, "found": 0, "more": "", "problem": ""}
        shown |= {"absent_phrases": (), "part": Part(()), "anywhere": Part(()), "is_counted": True}
        shown["is_searching"] = bool(query) and not self._library.is_warm  # as the search begins
        try:
            if query:
                shown |= self._searched(request, overview, query, filters, notices.append)
            else:
                shown |= self._browsed(request, overview, filters)
        except ConfigError as err:
            shown["problem"] = str(err)
        return self.show(
            "search.html",
            view="search",
            query=query,
            filters=filters,
            is_narrowed=filters.are_set,
            sorts=views.SORTS,
            facet_names=FACETS,
            choices=overview.choices,
            folders=overview.folders,
            pages=len(overview.leaves),
            notices=notices,
            **shown,
        )

    def _searched(
        self,
        request: Request,
        overview: Overview,
        query: str,
        filters: views.Filters,
        on_notice: Callable[[str], None],
    ) -> dict[str, Any]:
        limit = _number(request, "n", HITS)
        asked = filters.asked()
        found = self._library.hits(query, asked, on_notice)
        hits = views.sorted_hits(found, filters.sort)
        page_ids = [hit.page_id for hit in hits if hit.match != "related"]
        # Counts of the listed hits would mislead where there are more hits than are listed.
        is_counted = found.total <= len(page_ids)
        part = overview.those(page_ids) if is_counted else overview.part(parse_filter(**asked))
        return {
            "hits": views.shown_hits(hits[:limit], self._library, query, filters),
            "total": len(page_ids),
            "found": found.total,
            "absent_phrases": found.absent_phrases,
            "unquoted": unquoted(query),
            "part": part,
            "anywhere": part,
            "is_counted": is_counted,
            "more": f"{filters.address(q=query, n=limit + HITS)}#{hits[limit].page_id}" if len(hits) > limit else "",
        }

    def _browsed(self, request: Request, overview: Overview, filters: views.Filters) -> dict[str, Any]:
        limit = _number(request, "n", BROWSED)
        part = overview.part(parse_filter(**filters.asked()))
        leaves = part.leaves if filters.are_set else overview.first_leaves
        return {
            "leaves": leaves[:limit],
            "total": len(leaves),
            "part": part,
            "anywhere": overview.part(parse_filter(**filters.but(folder="").asked())),
            "more": f"{filters.address(n=limit + BROWSED)}#{leaves[limit].page_id}" if len(leaves) > limit else "",
        }

    def page(self, request: Request) -> Response:
        """One page, large, beside its text."""
        page, overview = self.page_of(request), self._library.overview()
        if request.query_params.get("wall"):
            before, after = self._library.wall().beside(page.page_id)
        else:
            before, after = overview.beside(page.page_id)
        return self._show_page(
            page,
            request.query_params,
            before=before,
            after=after,
            beside=self._hits_beside(page, request.query_params),
            others=len(self._archive.alike(page.page_id)),
            is_editing=request.query_params.get("edit") == "1" and not self._archive.is_read_only,
            text=page.parts.get("ocr", ""),
        )

    def _hits_beside(self, page: PageRow, query: Mapping[str, str]) -> views.HitsBeside | None:
        asked, filters = query.get("q", "").strip(), views.Filters.of(query)
        if not asked:
            return None
        try:
            found = self._library.hits(asked, filters.asked(), log.debug)
        except ConfigError:
            return None  # the list of hits says what cannot be searched for
        hits = views.sorted_hits(found, filters.sort)
        return views.hits_beside(hits, page.page_id, query.get("hit", ""), self._archive, asked, filters)

    def _show_page(
        self, page: PageRow, query: Mapping[str, str], *, text: str, problem: str = "", **more: Any
    ) -> Response:
        asked, filters = query.get("q", "").strip(), views.Filters.of(query)
        readings = {} if problem else self._archive.readings([page])[page.page_id]
        rotation_deg = self._archive.rotations([page]).get(page.page_id)
        kept = {"q": asked, **{name: query.get(name, "") for name in ("at", "hit", "wall")}}
        values = {
            "kept": kept,
            "back": self._part_of_wall(page) if kept["wall"] else _list_with(page, filters, asked, more.get("beside")),
            "is_large": query.get("large") == "1",
            "before": None,
            "after": None,
            "beside": None,
            "others": 0,
            "here": filters.address(f"/page/{page.page_id}", **kept),
            "edit": filters.address(f"/page/{page.page_id}", q=asked, edit=1),
            "is_saved": query.get("saved") == "1",
            "problem": problem,
            "text": escape(text),  # Markup: what is edited keeps its control characters
            "shown": views.page_sheet(page, readings, rotation_deg, asked, kept["at"]),
            **more,
        }
        return self.show("page.html", 409 if problem else 200, view="page", query=asked, filters=filters, **values)

    def photos(self, request: Request) -> Response:
        """Photos by year, those that look alike as one: a part of the wall, from a place on it."""
        wall = self._library.wall()
        start = min(_number(request, "from", 1), max(1, len(wall.piles))) - 1
        stop = start + PHOTOS
        return self.show(
            "photos.html",
            view="photos",
            photos=views.wall_photos(wall.piles[start:stop], self._library),
            wall=wall,
            has_places=any("latitude" in leaf.facts for leaf in wall.overview.leaves),
            before=f"/photos?from={max(1, start + 1 - PHOTOS)}" if start else "",
            more=f"/photos?from={stop + 1}" if stop < len(wall.piles) else "",
        )

    def _part_of_wall(self, page: PageRow) -> str:
        start = self._library.wall().positions.get(page.page_id, 0) // PHOTOS * PHOTOS
        return f"/photos?from={start + 1}" if start else "/photos"

    def places(self, request: Request) -> Response:
        """Where photos were taken, as a list."""
        filters = views.Filters.of(request.query_params)
        spots = self._library.overview().part(parse_filter(**filters.asked())).spots
        return self.show("places.html", view="photos", spots=spots, filters=filters)

    def alike(self, request: Request) -> Response:
        """A page and all pages that show the same."""
        page = self.page_of(request)
        leaf, alike = leaf_of(page), self._archive.alike(page.page_id)
        path = str(page.metadata.get("file_path", ""))
        return self.show("alike.html", view="photos" if leaf.is_photo else "", leaf=leaf, path=path, alike=alike)

    def like(self, request: Request) -> Response:
        """A photo and those like it: that look like it, or whose descriptions say the like."""
        page, notices = self.page_of(request), list[str]()
        hits = self._library.like(page.page_id, notices.append)
        shown = views.shown_hits(hits, self._library, "", views.Filters())
        return self.show("like.html", view="photos", leaf=leaf_of(page), hits=shown, notices=notices)

    def failed(self, request: Request) -> Response:  # noqa: ARG002
        """Pages and files that could not be read, and why."""
        pages, places = self._archive.failed_pages(MOST_FAILED), self._archive.failed_places()[:MOST_FAILED]
        more = self._archive.count_failed() - len(pages) - len(places)
        return self.show(
            "failed.html",
            view="failed",
            pages=pages,
            places=places,
            more=more,
            due_count=self._archive.status().pages.get("due", 0),
            run=self._runs.now,
        )

    def about(self, request: Request) -> Response:  # noqa: ARG002
        """What the archive holds."""
        return self.show(
            "about.html",
            view="about",
            held=self._archive.status(),
            folder=str(self._archive.folder.absolute()),
            is_loopback=self._access.is_loopback,
        )

    async def image(self, request: Request) -> Response:
        """A page's picture, or a sentence that says why there is none."""
        size = request.path_params["size"]
        if size not in SIZES:
            raise HTTPException(404)
        page = await run_in_threadpool(self.page_of, request)
        turned = await run_in_threadpool(self._archive.rotations, [page])
        async with self._picture_lock:  # the page child makes one picture at a time
            if await request.is_disconnected():
                return Response(status_code=204)  # the browser has left for another view
            try:
                picture = await run_in_threadpool(self._pictures.picture, page, size, turned.get(page.page_id))
            except SourceError as err:
                return PlainTextResponse(views.in_browser(explained(err)), _status_of(err))
        return Response(picture.image, media_type=picture.mime)

    def original(self, request: Request) -> Response:
        """The file that a page is from, to be shown or downloaded."""
        page = self.page_of(request)
        with ExitStack() as opened:
            try:
                source = self._pictures.original(page)
                file = opened.enter_context(Path(opened.enter_context(source.opened_path())).open("rb"))
            except SourceError as err:
                raise HTTPException(_status_of(err), views.in_browser(explained(err))) from err
            except OSError as err:
                raise HTTPException(409, f"The file cannot be opened: {err.strerror or err}.") from err
            kind = str(page.metadata.get("file_type"))
            is_shown = kind in views.SHOWN_TYPES and "download" not in request.query_params
            way = "inline" if is_shown else "attachment"
            headers = {
                "Content-Type": kind if kind in views.SHOWN_TYPES else "application/octet-stream",
                "Content-Length": str(source.size_bytes),
                "Content-Disposition": f"{way}; filename*=UTF-8''{quote(source.name, safe='')}",
            }
            return StreamingResponse(_pieces(file, opened.pop_all()), headers=headers)

    def run(self, request: Request) -> Response:  # noqa: ARG002
        """The progress of the run that goes on, or how the last one ended."""
        now = self._runs.now
        return JSONResponse(now.to_json() if now else {"running": False, "sentence": ""})

    def ready(self, request: Request) -> Response:  # noqa: ARG002
        """Whether pages are searched by meaning, too; waits a while for it."""
        return JSONResponse({"ready": self._library.await_warm(READY_WAIT_S)})

    def static(self, request: Request) -> Response:
        """One of our own files."""
        name = request.path_params["name"]
        if name not in _STATIC:
            raise HTTPException(404)
        data = (files("kobold_reader.web") / "static" / name).read_bytes()
        return Response(data, headers={"Content-Type": _STATIC[name]})

    def page_of(self, request: Request) -> PageRow:
        """Return the page that an address names."""
        page = self._archive.page(request.path_params["page_id"])
        if page is None:
            raise HTTPException(404, "There is no such page in this archive.")
        return page

    # ── changing ─────────────────────────────────────────────────────────────────────────────────

    async def correct(self, request: Request) -> Response:
        """Save a corrected text."""
        form, page = await self.form(request), await run_in_threadpool(self.page_of, request)
        text = form.get("text", "").replace("\r\n", "\n")
        if form.get("version") == page.version:
            try:
                await run_in_threadpool(self._archive.correct, page.page_id, text)
            except KoboldReaderError as err:
                problem = str(err)
            else:
                filters = views.Filters.of(form)
                return RedirectResponse(filters.address(f"/page/{page.page_id}", q=form.get("q", ""), saved=1), 303)
        else:
            problem = "The text was changed since you began; copy yours from here, then open the page anew."
        # The form is shown as it was sent, so that no typed text is lost.
        show = functools.partial(self._show_page, page, form, text=text, problem=problem)
        return await run_in_threadpool(show, edit="", is_editing=True)

    async def uncorrect(self, request: Request) -> Response:
        """Take a correction back."""
        await self.form(request)
        page = await run_in_threadpool(self.page_of, request)
        await run_in_threadpool(self._archive.uncorrect, page.page_id)
        return RedirectResponse(f"/page/{page.page_id}", 303)

    async def rotate(self, request: Request) -> Response:
        """Turn the picture of a page by some degrees, or back to how it was read."""
        form, page = await self.form(request), await run_in_threadpool(self.page_of, request)
        by = form.get("by", "")
        if by not in {"", "90", "180", "270"}:
            raise HTTPException(409, "A page is turned by 90, 180 or 270 degrees.")
        rotation_deg = await run_in_threadpool(self._library.rotation_deg, page) + int(by) if by else None
        await run_in_threadpool(self._archive.rotate, page.page_id, rotation_deg)
        return _back_to(page, form)

    async def unlock(self, request: Request) -> Response:
        """Take the password of a page's file, so that its picture can be shown."""
        form, page = await self._form_of_locked(request), await run_in_threadpool(self.page_of, request)
        return _back_to(page, form)

    async def export(self, request: Request) -> Response:
        """The ticked pages, or all that were found, as a file to be saved."""
        form = await self._lists(request)
        first = {name: values[0] for name, values in form.items()}
        page_ids = form.get("page", [])
        if "all" in form:
            page_ids = await run_in_threadpool(self._found, first.get("q", "").strip(), views.Filters.of(first))
        if not page_ids:
            raise HTTPException(409, "No page is ticked. Go back, and tick some, or export all.")
        if len(page_ids) > EXPORTED:
            command = f"kobold-reader export FOLDER {archive_option(self._archive.folder)}"
            raise HTTPException(
                409, f"{len(page_ids):,} pages are too many for one file. `{command}` writes one file for each."
            )
        form_of_file = first.get("to", "md")
        text = await run_in_threadpool(self._archive.exported, page_ids, to=form_of_file)
        name = f"{self._archive.folder.absolute().name}.{form_of_file}"
        headers = {
            "Content-Type": "application/octet-stream",  # saved, and never shown as a page of ours
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}",
        }
        return Response(text.encode(), headers=headers)

    def _found(self, query: str, filters: views.Filters) -> list[str]:
        if query:
            hits = self._library.hits(query, filters.asked(), log.debug)
            return [hit.page_id for hit in views.sorted_hits(hits, filters.sort) if hit.match != "related"]
        part = self._library.overview().part(parse_filter(**filters.asked()))
        return [leaf.page_id for leaf in part.leaves]

    async def reread_page(self, request: Request) -> Response:
        """Begin to read a page again."""
        form = await self._form_of_locked(request)
        page = await run_in_threadpool(self.page_of, request)
        name = f"{page.metadata.get('file_name', '')}, page {page.page_number}"
        return await self._begin_again(request, form, page.uri, page.page_number, name)

    async def reread_file(self, request: Request) -> Response:
        """Begin to read a file that could not be opened."""
        form = await self._form_of_locked(request)
        places = await run_in_threadpool(self._archive.failed_places)
        place = next((one for one in places if views.file_key(one.uri) == request.path_params["key"]), None)
        if place is None:
            raise HTTPException(404, "There is no such file in this archive.")
        return await self._begin_again(request, form, place.uri, 0, str(place.metadata.get("file_name", place.uri)))

    async def _begin_again(
        self, request: Request, form: dict[str, str], uri: str, page_number: int, name: str
    ) -> Response:
        engine = "rapidocr" if form.get("engine") == "rapidocr" else ""
        await run_in_threadpool(self._runs.reread, uri, page_number, name, again=request.url.path, engine=engine)
        return RedirectResponse("/failed", 303)

    async def _form_of_locked(self, request: Request) -> dict[str, str]:
        """Return a form, and take the password of a file, if one was sent; it is never stored, shown or logged."""
        form = await self.form(request)
        if password := form.get("password", ""):
            await run_in_threadpool(self._pictures.add_password, password)
            self._runs.add_password(password)
        return form

    async def form(self, request: Request) -> dict[str, str]:
        """Return what one of our own forms sent, with the first value of each name."""
        return {name: values[0] for name, values in (await self._lists(request)).items()}

    async def _lists(self, request: Request) -> dict[str, list[str]]:
        """Return what one of our own forms sent, with all values of each name.

        Raises:
            HTTPException: It is too large, or does not come from one of our forms.
        """
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > BODY_BYTES:
                raise HTTPException(413, "That is too much text for one page.")
        form = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True)
        if not is_same(form.get("token", [""])[0], self._access.change_token):
            raise HTTPException(403, "This change was not asked for by one of our own pages. Open the page anew.")
        return form

    # ── errors ───────────────────────────────────────────────────────────────────────────────────

    def error(self, request: Request, error: Exception) -> Response:  # noqa: ARG002
        """A sentence in place of the page."""
        status = 500
        if isinstance(error, HTTPException):
            status = error.status_code
            sentence = "There is no such page." if error.detail == "Not Found" else error.detail
        elif isinstance(error, KoboldReaderError):
            status, sentence = 409 if isinstance(error, ConfigError) else 500, str(error)
        else:
            log.error("internal error in the search page", exc_info=error)
            sentence = "Internal error: please report it, with what the terminal shows."
        # The archive may be what failed, so the failed pages are not counted.
        heading = _HEADINGS.get(status, "Something went wrong")
        return self.show("message.html", status, heading=heading, sentence=sentence, failed_count=0)


def _pieces(file: IO[bytes], opened: ExitStack) -> Iterator[bytes]:
    with opened:
        while piece := file.read(PIECE_BYTES):
            yield piece


@functools.cache
def _templates() -> Environment:
    environment = templates("kobold_reader.web")
    environment.globals["shown_types"] = views.SHOWN_TYPES
    environment.filters |= {
        "amount": views.amount,
        "bytes": spell_bytes,
        "file_key": views.file_key,
        "file_kind": views.file_kind,
        "folder_of": folder_of,
        "is_locked": views.is_locked,
        "why_failed": views.why_failed,
    }
    return environment


def _status_of(error: SourceError) -> int:
    """Return the HTTP status of the answer in place of a file."""
    if isinstance(error, SourceNotFoundError):
        return 404
    return 423 if isinstance(error, EncryptedSourceError) else 409


def _back_to(page: PageRow, form: Mapping[str, str]) -> Response:
    """Send the browser back to a page as it was shown."""
    kept = {name: form.get(name, "") for name in ("q", "at", "hit", "wall", "large")}
    return RedirectResponse(views.Filters.of(form).address(f"/page/{page.page_id}", **kept), 303)


def _list_with(page: PageRow, filters: views.Filters, query: str, beside: views.HitsBeside | None) -> str:
    """Return the address of the list from which people came to a page, at that page."""
    listed = -(-beside.number // HITS) * HITS if beside else HITS
    return f"{filters.address(q=query, n=listed if listed > HITS else None)}#{page.page_id}"


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, "")
    return max(1, int(text)) if text.isascii() and text.isdigit() and len(text) < 7 else default  # noqa: PLR2004


# ── the server ───────────────────────────────────────────────────────────────────────────────────


class WebServer:
    """Takes its address when it is made, so that `port` (0: any free one) can be shown before `run` answers there.

    Raises:
        ConfigError: The address is in use, or does not belong to this machine.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 8642) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family)
        except (OSError, OverflowError) as err:
            if isinstance(err, OverflowError) or err.errno in {errno.EADDRINUSE, errno.EACCES}:
                hint = "Another page may be open there; --port 0 takes any free one."
                raise ConfigError(
                    f"port {port} of {host} cannot be used: it is taken, or not allowed.", hint=hint
                ) from err
            hint = "Name an address of this machine with --host, or leave it out."
            raise ConfigError(
                f"the page cannot be shown at {host} port {port}: no such address here.", hint=hint
            ) from err
        self.port: int = self._socket.getsockname()[1]
        self._server: uvicorn.Server | None = None

    def run(self, app: ASGIApp) -> None:
        """Serve until `stop`, or Ctrl-C, which is raised after the last answers were sent."""
        config = uvicorn.Config(
            app,
            access_log=False,  # addresses hold what was searched for
            log_level="critical",  # views log their own errors; an answer that is cut off at the end is no error
            lifespan="auto",  # the server for agents has one
            ws="none",
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=2,
        )
        self._server = uvicorn.Server(config)
        self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """End `run`, from another thread."""
        if self._server is not None:
            self._server.should_exit = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
