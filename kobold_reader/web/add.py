"""Add: index a folder of this machine, or files that are sent through the browser, and see the run that does it."""

from __future__ import annotations

import os
import secrets
import unicodedata
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from kobold_reader.archive import Archive
from kobold_reader.errors import ConfigError
from kobold_reader.pages import TAKEN, expanded, is_text, shown
from kobold_reader.pages.sources import ENDINGS, natural_key
from kobold_reader.progress import spell_bytes
from kobold_reader.web.runs import Runs
from kobold_reader.web.security import is_same

UPLOAD_BYTES = 2_000_000_000
"""The largest upload, all its files together."""
MOST_FOLDERS = 500
"""Folders that the picker shows."""
_NAME_BYTES = 180
_FIELD_BYTES = 1000
_PART = ".kobold-reader-upload-"
_ENDINGS = frozenset(" ".join(ENDINGS.values()).split())
_FORBIDDEN = '<>:"/\\|?*'
_RESERVED = {"con", "prn", "aux", "nul", *(f"{name}{number}" for name in ("com", "lpt") for number in range(1, 10))}


@dataclass(frozen=True)
class Adding:
    """What may be added through the browser."""

    folders: tuple[Path, ...] = ()
    """Only these, and what is in them."""
    inbox: Path | None = None
    """Files that are sent are saved here."""
    is_anywhere: bool = False
    """Any folder of this machine: whoever holds the token of a server that only this machine reaches."""

    def allowed(self, text: str) -> Path:
        """Return the folder or file that a path names, links followed.

        Raises:
            ConfigError: It is not there, or may not be added.
        """
        path = expanded(text)
        try:
            path = path.resolve(strict=True)
        except (OSError, RuntimeError, ValueError) as err:
            raise ConfigError(f"there is no folder {shown(text)}.", hint="Look at how it is written.") from err
        if not self.is_anywhere and not any(path.is_relative_to(root.resolve()) for root in self.roots):
            hint = "Start the page with --add FOLDER to allow it."
            raise ConfigError(f"{shown(text)} is not among the folders that may be added.", hint=hint)
        return path

    @property
    def roots(self) -> tuple[Path, ...]:
        """Where the picker begins."""
        if self.folders or not self.is_anywhere:
            return self.folders
        return (Path.home(),)


@dataclass(frozen=True, slots=True)
class FolderView:
    """A folder in the picker."""

    path: Path
    above: tuple[Path, ...]
    """Folders that lead to it, outermost first."""
    inside: tuple[Path, ...] = ()
    files: int = 0
    """Those directly in it that look as if they were taken."""
    is_cut: bool = False


def look_into(path: Path, adding: Adding) -> FolderView:
    """Return what the picker shows of a folder.

    Raises:
        ConfigError: It cannot be opened.
    """
    roots = [root.resolve() for root in adding.roots]
    inside, files = [], 0
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.startswith(".") or not is_text(entry.name):
                    continue
                with suppress(OSError):
                    if entry.is_dir():
                        inside.append(path / entry.name)
                    elif Path(entry.name).suffix.lower() in _ENDINGS:
                        files += 1
    except OSError as err:
        raise ConfigError(f"{shown(str(path))} cannot be opened: {err.strerror}.") from err
    inside.sort(key=lambda one: natural_key(one.name))
    above = [one for one in reversed(path.parents) if adding.is_anywhere or any(map(one.is_relative_to, roots))]
    return FolderView(path, tuple(above), tuple(inside[:MOST_FOLDERS]), files, len(inside) > MOST_FOLDERS)


class AddViews:
    """Answers at `/add` and below it.

    Args:
        archive: Into which files are added.
        runs: Does it.
        adding: What may be added.
        show: Renders a template, as `_Pages` does.
        form: Returns what one of our own forms sent.
        change_token: In each of them.
    """

    def __init__(
        self,
        archive: Archive,
        runs: Runs,
        adding: Adding,
        *,
        show: Callable[..., Response],
        form: Callable[[Request], Awaitable[dict[str, str]]],
        change_token: str,
    ) -> None:
        self._archive = archive
        self._runs = runs
        self._adding = adding
        self._show = show
        self._form = form
        self._change_token = change_token
        self._received: Received | None = None
        """The last upload, until it was shown."""
        if adding.inbox is not None:
            for left in adding.inbox.glob(f"{_PART}*"):
                left.unlink(missing_ok=True)  # of a server that was killed

    @property
    def routes(self) -> list[Route]:
        """The addresses."""
        return [
            Route("/add", self.add),
            Route("/add/index", self.index, methods=["POST"]),
            Route("/add/stop", self.stop, methods=["POST"]),
            Route("/add/files", self.files, methods=["POST"]),
        ]

    def add(self, request: Request) -> Response:
        """What can be added, and the run that does it."""
        asked = request.query_params.get("folder", "")
        roots = self._adding.roots
        folder, problem = None, ""
        if asked or len(roots) == 1:
            try:
                folder = look_into(self._adding.allowed(asked or str(roots[0])), self._adding)
            except ConfigError as err:
                problem = str(err)
        run = self._runs.now if self._runs.now and self._runs.now.is_index else None
        is_running = bool(self._runs.now and self._runs.now.is_running)
        received, self._received = self._received, None
        return self._show(
            "add.html",
            409 if problem else 200,
            view="add",
            adding=self._adding,
            folder=folder,
            problem=problem,
            run=run,
            is_running=is_running,
            is_busy=not is_running and self._archive.is_being_written(),
            received=received,
            known=self._archive.has_places(),
            taken=TAKEN,
            endings=",".join(sorted(_ENDINGS)),
            most_bytes=UPLOAD_BYTES,
            most=spell_bytes(UPLOAD_BYTES),
        )

    async def index(self, request: Request) -> Response:
        """Begin to index a folder; all that was indexed before, where none is named."""
        form = await self._form(request)
        engine = "rapidocr" if form.get("engine") == "rapidocr" else ""

        def start() -> None:
            path = self._adding.allowed(form["folder"]) if form.get("folder") else None
            self._runs.index(path, engine=engine, is_agreed=form.get("anyway") == "1")

        await run_in_threadpool(start)
        return RedirectResponse("/add", 303)

    async def stop(self, request: Request) -> Response:
        """End the run."""
        await self._form(request)
        self._runs.stop()
        await run_in_threadpool(self._runs.join, 2.0)
        return RedirectResponse("/add", 303)

    async def files(self, request: Request) -> Response:
        """Save files that were sent, and begin to index them."""
        inbox = self._adding.inbox
        if inbox is None:
            raise HTTPException(404, "Files can be sent where the page was started with --inbox FOLDER.")
        received = await receive(request, inbox, self._change_token)
        self._received = received
        if received.saved:
            with suppress(ConfigError):  # the next run takes them
                await run_in_threadpool(self._runs.index, inbox)
        return RedirectResponse("/add", 303)


# ── files that are sent ──────────────────────────────────────────────────────────────────────────


@dataclass
class Received:
    """What became of an upload."""

    saved: list[str] = field(default_factory=list)
    """Names under which files were saved."""
    refused: list[str] = field(default_factory=list)


async def receive(request: Request, inbox: Path, change_token: str) -> Received:
    """Save the files of an upload, none of them over another one.

    Raises:
        HTTPException: It is too large, is no upload, does not come from one of our forms, or the disk is full.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or b"boundary" not in options:
        raise HTTPException(415, "That is no form with files.")
    length = request.headers.get("content-length", "")
    is_too_large = length.isdigit() and int(length) > UPLOAD_BYTES
    upload = _Upload(inbox, change_token)
    parser = MultipartParser(options[b"boundary"], upload.callbacks)
    size_bytes = 0
    try:
        async for piece in request.stream():
            size_bytes += len(piece)
            is_too_large = is_too_large or size_bytes > UPLOAD_BYTES
            if not is_too_large:  # else the rest is let pass: a browser shows no answer that comes too early
                await run_in_threadpool(parser.write, piece)
        if is_too_large:
            raise HTTPException(
                413, f"That is too much at once: at most {spell_bytes(UPLOAD_BYTES)}. Send fewer files."
            )
        if not upload.is_whole:
            raise FormParserError
    except FormParserError as err:
        raise HTTPException(400, "The upload did not arrive whole. Send it again.") from err
    except OSError as err:
        raise HTTPException(507, f"The files cannot be saved in {shown(str(inbox))}: {err.strerror or err}.") from err
    finally:
        upload.close()
    if not upload.is_ours:
        raise HTTPException(403, "This change was not asked for by one of our own pages. Open the page anew.")
    return upload.received


class _Upload:
    """Takes the parts of a form, one after the other; files are written once the token has come."""

    def __init__(self, inbox: Path, change_token: str) -> None:
        self._inbox = inbox
        self._change_token = change_token
        self._headers: dict[bytes, bytes] = {}
        self._name = self._value = b""
        self._field = b""
        self._text = b""
        self._file_name = ""
        self._part: Path | None = None
        self._out: IO[bytes] | None = None
        self.is_ours = False
        self.is_whole = False
        self.received = Received()

    @property
    def callbacks(self) -> Any:
        """For `MultipartParser`."""
        return {
            "on_part_begin": self._headers.clear,
            "on_header_field": self._take_name,
            "on_header_value": self._take_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._begin,
            "on_part_data": self._take,
            "on_part_end": self._end,
            "on_end": self._end_all,
        }

    def _take_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _take_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def _begin(self) -> None:
        _, about = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._field, self._text = about.get(b"name", b""), b""
        self._file_name = safe_name(about.get(b"filename", b"").decode("utf-8", "replace"))
        if not self.is_ours or not about.get(b"filename"):
            return
        if Path(self._file_name).suffix.lower() not in _ENDINGS:
            self.received.refused.append(self._file_name)
            return
        self._inbox.mkdir(parents=True, exist_ok=True)
        self._part = self._inbox / f"{_PART}{secrets.token_hex(8)}"
        self._out = self._part.open("xb")

    def _take(self, data: bytes, start: int, end: int) -> None:
        if self._out is not None:
            self._out.write(data[start:end])
        elif self._field == b"token" and len(self._text) < _FIELD_BYTES:
            self._text += data[start:end]

    def _end(self) -> None:
        if self._field == b"token":
            self.is_ours = is_same(self._text.decode("utf-8", "replace"), self._change_token)
        if self._out is None or self._part is None:
            return
        self._out.close()
        self._out = None
        self.received.saved.append(put_beside(self._part, self._inbox, self._file_name))

    def _end_all(self) -> None:
        self.is_whole = True

    def close(self) -> None:
        """Remove what came in part."""
        if self._out is not None:
            self._out.close()
        if self._part is not None:
            self._part.unlink(missing_ok=True)


def put_beside(part: Path, folder: Path, name: str) -> str:
    """Move a file into a folder under its name, or `name (2)` where that is taken; return the name."""
    for number in range(1, 10_000):
        stem, suffix = Path(name).stem, Path(name).suffix
        target = folder / (name if number == 1 else f"{stem} ({number}){suffix}")
        try:
            target.open("xb").close()  # takes the name, which nobody else can take from now on
        except FileExistsError:
            continue
        part.replace(target)
        return target.name
    raise FileExistsError(f"too many files are named {name}")


def safe_name(name: str) -> str:
    r"""Return a name that every system takes, and that leads into no other folder.

    >>> safe_name("../../etc/pass:wd.PDF"), safe_name("C:\\scans\\Brief ö.pdf"), safe_name("..")
    ('pass_wd.PDF', 'Brief ö.pdf', 'file')
    """
    name = unicodedata.normalize("NFC", name.replace("\\", "/").rpartition("/")[2])
    kept = "".join("_" if one in _FORBIDDEN or unicodedata.category(one)[0] == "C" else one for one in name)
    kept = kept.strip(" .")
    stem, suffix = Path(kept).stem, Path(kept).suffix[:20]
    if stem.partition(".")[0].strip().lower() in _RESERVED:
        stem = f"_{stem}"
    while len(stem.encode()) > _NAME_BYTES:
        stem = stem[:-1]
    return f"{stem.rstrip(' .')}{suffix}" or "file"
