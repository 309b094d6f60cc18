"""The child in which files are opened: `python -m kobold_reader.pages.worker`.

A native crash ends this process and costs one file; rendering holds this process's GIL and nobody
else's. It answers one request at a time on stdin with one frame on stdout, and ends when stdin
does, so it cannot outlive its parent for longer than one page.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from kobold_reader.errors import CorruptSourceError, KoboldReaderError, PageRenderError
from kobold_reader.pages.file import OpenFile, check_page_number, open_file
from kobold_reader.pages.values import ImageBudget
from kobold_reader.pages.wire import Value, header_of_error, pack, read_frame, write_frame

__all__ = ["main"]

_TICK_S = 1.0
_GRACE_S = 10.0


class Worker:
    """Answers requests about one open file at a time.

    Args:
        output: Where frames go.
    """

    def __init__(self, output: BinaryIO) -> None:
        self._output = output
        self._file: OpenFile | None = None
        self._ticked = 0.0
        self._deadline_s = 0.0

    def answer(self, request: dict[str, Any]) -> None:
        """Do one request, and write its frame, whatever happens."""
        page_number = request.get("page_number")
        self._deadline_s = float(request["timeout_s"]) + _GRACE_S
        self._arm()
        blobs: tuple[bytes, ...] = ()
        try:
            value = self._do(request)
        except KoboldReaderError as error:
            header = header_of_error(error.at(request["source"], page_number))
        except Exception as error:  # noqa: BLE001 - the border: nothing foreign leaves this process
            kind = CorruptSourceError if page_number is None else PageRenderError
            foreign = kind(
                f"The file broke the reader ({type(error).__name__}: {error}).",
                source=request["source"],
                page_number=page_number,
            )
            header = header_of_error(foreign)
        else:
            header, blobs = pack(value)
        finally:
            faulthandler.cancel_dump_traceback_later()
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
            case "page_look":
                return self._page(request).page_look(request["page_number"])
            case "page_images":
                budget = ImageBudget(**request["budget"])
                file = self._page(request)
                return file.page_images(request["page_number"], budget, request["rotate_deg"])
        raise ValueError(f"unknown request {request['do']!r}")

    def _page(self, request: dict[str, Any]) -> OpenFile:
        if self._file is None:
            raise CorruptSourceError("The file is not open.")
        check_page_number(self._file, request["page_number"])
        return self._file

    def _tick(self) -> None:
        """Say that the work goes on."""
        now = time.monotonic()
        if now - self._ticked >= _TICK_S:
            self._ticked = now
            self._arm()
            write_frame(self._output, {"alive": True})

    def _arm(self) -> None:
        # Ends this process from a C thread even where native code holds the GIL for ever. The
        # parent is quicker as long as it lives; without it, this is what ends an orphan.
        faulthandler.dump_traceback_later(self._deadline_s, exit=True)

    def close(self) -> None:
        """Let go of the open file."""
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _frames_only(stdin: BinaryIO) -> tuple[BinaryIO, Callable[[], None]]:
    """Keep stdout for frames: what anything else prints, in Python or below it, goes to stderr."""
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr

    def close() -> None:
        output.close()
        stdin.close()

    return output, close


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
    output, close = _frames_only(stdin)
    # Ctrl-C reaches every process of the terminal; when to stop is the parent's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    # onnxruntime, which PyMuPDF 2 may load, reports home unless told otherwise before its import.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    # PyMuPDF 2 imports its layout models (51 MB, most of its start-up time) if they can be
    # imported, and does without them otherwise. Nothing here uses them.
    sys.modules["pymupdf.layout"] = None  # type: ignore[assignment]
    if len(sys.argv) > 1:
        _limit_memory(int(sys.argv[1]))
    worker = Worker(output)
    while (frame := read_frame(stdin)) is not None:
        worker.answer(frame[0])
    worker.close()
    close()


if __name__ == "__main__":
    main()
