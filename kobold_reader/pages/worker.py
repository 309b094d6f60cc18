"""The child in which files are opened: `python -m kobold_reader.pages.worker`.

A native crash ends this process and costs one page; rendering holds this process's GIL and no other. It reads one
request at a time from stdin, answers each with one frame on stdout, and ends when stdin ends, so it outlives its parent
by no more than one page.
"""

from __future__ import annotations

import faulthandler
import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from kobold_reader.errors import (
    CorruptSourceError,
    KoboldReaderError,
    PageRenderError,
    SourceError,
    SourceNotFoundError,
    UnsupportedSourceError,
    reason,
)
from kobold_reader.pages.values import (
    CopyNotes,
    Embedded,
    FileFacts,
    ImageBudget,
    PageFacts,
    PageImages,
    PageLook,
    PlacedText,
    TextLines,
    Value,
    header_of_error,
    pack,
    read_frame,
    write_frame,
)

if TYPE_CHECKING:
    from kobold_reader.pages.text_copy import TextCopy

_CHUNK_BYTES = 4 * 1024 * 1024
_TICK_S = 1.0
GRACE_S = 10.0
"""How much longer than its parent waits for an answer the process lives."""
_MAX_DEPTH = 3


class PageFile(Protocol):
    """An open file of any kind. All but `close` raise PageRenderError where the page is damaged."""

    facts: FileFacts

    def page_facts(self, page_number: int) -> PageFacts:
        """Facts about a page."""

    def text_lines(self, page_number: int) -> TextLines:
        """The lines of the page's own text; none where it has none."""

    def page_look(self, page_number: int) -> PageLook:
        """Whether a page is a photo or a scan; any SourceError where it cannot be decoded."""

    def page_images(self, page_number: int, budget: ImageBudget, rotate_deg: int | None) -> PageImages:
        """The images of a page, turned clockwise as asked, or (None) until it is upright."""

    def text_copy(self, target: Path) -> TextCopy:
        """A copy of the file as a PDF, to which pages are still to get their text."""

    def copy_page(self, page_number: int, copy: TextCopy) -> None:
        """Add the page to the copy, where it is not there yet."""

    def close(self) -> None:
        """Close the file."""


def _hash_file(path: Path, tick: Callable[[], None]) -> str:
    """The file's sha256; `tick` is called between pieces, as a slow disk is not a hang."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while piece := stream.read(_CHUNK_BYTES):
                digest.update(piece)
                tick()
            size = stream.tell()
    except FileNotFoundError as error:
        raise SourceNotFoundError("There is no such file.") from error
    except (OSError, ValueError) as error:
        raise CorruptSourceError(f"The file cannot be read ({reason(error)}).") from error
    if size == 0:
        raise CorruptSourceError("The file is empty (0 bytes).", hint="Copy or scan it again.")
    return digest.hexdigest()


def open_file(
    path: Path,
    kind: str,
    *,
    passwords: Sequence[str] = (),
    sha256: str | None = None,
    tick: Callable[[], None] = lambda: None,
    depth: int = 0,
) -> PageFile:
    """Open a file of a `SourceFile.kind`; `tick` is called now and then while it is hashed.

    `depth` is the number of PDFs that it is attached to, one inside the other.

    Raises:
        SourceError: One of its subclasses tells why it cannot be opened.
    """
    if sha256 is None:
        sha256 = _hash_file(path, tick)
    if kind in {"pdf", "epub", "xps"}:
        from kobold_reader.pages.pdf import PdfFile

        pdf = PdfFile(path, sha256, passwords, kind=kind)
        if kind != "pdf" or depth >= _MAX_DEPTH or not (attachments := pdf.attachments()):
            return pdf
        from kobold_reader.pages.attachments import Portfolio

        def open_attached(path: Path, kind: str, sha256: str) -> PageFile:
            tick()  # a thousand small files are not a hang
            return open_file(path, kind, passwords=passwords, sha256=sha256, tick=tick, depth=depth + 1)

        return Portfolio(pdf, attachments, open_attached)
    from kobold_reader.pages.image_files import ComicFile, PictureFile, open_raw

    match kind:
        case "image" | "heic" | "avif":
            return PictureFile(path, sha256, kind=kind)
        case "raw":
            return open_raw(path, sha256)
        case "cbz":
            return ComicFile(path, sha256)
    raise UnsupportedSourceError(f"Files of kind {kind!r} are not supported.")


class Worker:
    """Answers requests about one open file at a time, in frames written to `output`."""

    def __init__(self, output: BinaryIO) -> None:
        self._output = output
        self._file: PageFile | None = None
        self._copy: TextCopy | None = None
        self._ticked = 0.0
        self._deadline_s = 0.0

    def answer(self, request: dict[str, Any]) -> None:
        """Answer one request with a frame, whatever happens."""
        page_number = request.get("page_number")
        self._deadline_s = float(request["timeout_s"]) + GRACE_S
        _end_after(self._deadline_s)
        blobs: tuple[bytes, ...] = ()
        try:
            value = self._do(request)
        except KoboldReaderError as error:
            header = header_of_error(error.at(request["source"], page_number))
        except Exception as error:  # noqa: BLE001 - the border: nothing foreign leaves this process
            kind = CorruptSourceError if page_number is None else PageRenderError
            foreign = kind(f"The file broke the reader ({type(error).__name__}: {error}).")
            header = header_of_error(foreign.at(request["source"], page_number))
        else:
            header, blobs = pack(value)
        finally:
            _end_after(0)
        write_frame(self._output, header, blobs)

    def _do(self, request: dict[str, Any]) -> Value:
        match request["do"]:
            case "open":
                self.close()
                self._file = open_file(
                    Path(request["path"]),
                    request["kind"],
                    passwords=request["passwords"],
                    sha256=request["sha256"],
                    tick=self._tick,
                )
                return self._file.facts
            case "page_facts":
                return self._page(request).page_facts(request["page_number"])
            case "text_lines":
                return self._page(request).text_lines(request["page_number"])
            case "page_look":
                file = self._page(request)
                try:
                    return file.page_look(request["page_number"])
                except SourceError:
                    return PageLook()  # not a picture, or one that cannot be decoded
            case "embedded":
                from kobold_reader.pages.image_files import PictureFile

                file = self._page(request)
                return file.embedded() if isinstance(file, PictureFile) else Embedded()
            case "page_images":
                budget = ImageBudget(**request["budget"])
                return self._page(request).page_images(request["page_number"], budget, request["rotate_deg"])
            case "begin_copy":
                self._end_copy()
                self._copy = self._page(request).text_copy(Path(request["target"]))
                return CopyNotes(self._copy.notices)
            case "copy_page":
                self._page(request).copy_page(request["page_number"], copy := self._begun())
                copy.add(request["page_number"], (PlacedText(*line) for line in request["lines"]))
                return CopyNotes()
            case "end_copy":
                self._begun().save()
                self._copy = None
                return CopyNotes()
        raise ValueError(f"unknown request {request['do']!r}")

    def _begun(self) -> TextCopy:
        if self._copy is None:
            raise CorruptSourceError("The process that writes the copy had to begin anew, without what it had.")
        return self._copy

    def _end_copy(self) -> None:
        copy, self._copy = self._copy, None
        if copy is not None:
            copy.close()

    def _page(self, request: dict[str, Any]) -> PageFile:
        if self._file is None:
            raise CorruptSourceError("The file is not open.")
        total = self._file.facts.total_pages
        if not 1 <= request["page_number"] <= total:
            raise PageRenderError(f"There is no such page; the file has {total}.")
        return self._file

    def _tick(self) -> None:
        """Tell the parent that the work goes on."""
        now = time.monotonic()
        if now - self._ticked >= _TICK_S:
            self._ticked = now
            _end_after(self._deadline_s)
            write_frame(self._output, {"alive": True})

    def close(self) -> None:
        """Close the open file."""
        self._end_copy()
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _end_after(delay_s: float) -> None:
    """Have this process end after so many seconds, even where native code holds the GIL; 0: let it go on.

    A living parent ends it earlier.
    """
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, delay_s)  # nothing handles SIGALRM, so it ends the process
    elif delay_s:
        faulthandler.dump_traceback_later(delay_s, exit=True)  # a thread for each request: Windows has no timer
    else:
        faulthandler.cancel_dump_traceback_later()


def _limit_memory(limit_bytes: int) -> None:
    try:
        import resource
    except ImportError:
        return  # Windows has no such limit
    try:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        soft = limit_bytes if hard == resource.RLIM_INFINITY else min(limit_bytes, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
    except (OSError, ValueError):
        print("The memory limit cannot be set.", file=sys.stderr)  # noqa: T201 - stderr is kept for the crash message


def main() -> None:
    """Answer requests until stdin ends."""
    stdin = sys.stdin.buffer
    # stdout is for frames alone: what anything else prints, in Python or below it, goes to stderr.
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    # Ctrl-C reaches every process of the terminal; the parent decides when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGALRM"):  # a parent that ignores or blocks it hands that on
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    faulthandler.enable()
    # onnxruntime, which PyMuPDF 2 may load, reports home unless told otherwise before its import.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    # numpy starts a thread for each core otherwise, and nothing here multiplies matrices.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    # PyMuPDF 2 imports its layout models (51 MB) and its Markdown writer with onnxruntime, most of its start-up time,
    # where it can. Nothing here uses them.
    for unused in ("pymupdf.layout", "pymupdf4llm"):
        sys.modules[unused] = None  # type: ignore[assignment]
    if len(sys.argv) > 1:
        _limit_memory(int(sys.argv[1]))
    worker = Worker(output)
    while (frame := read_frame(stdin)) is not None:
        worker.answer(frame[0])
    worker.close()
    output.close()
    stdin.close()


if __name__ == "__main__":
    main()
