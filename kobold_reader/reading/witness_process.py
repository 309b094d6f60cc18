"""RapidOCR in a process of its own, for the witness: `python -m kobold_reader.reading.witness_process`.

In a thread it would hold up those that ask the servers: Python runs one thread at a time, and on a busy machine one of
low priority keeps its turn for long. It answers one page at a time, in frames as the page child's, and ends with its
parent, or where its libraries crash: that costs one page.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, Final, Self, cast

from kobold_reader.errors import KoboldReaderError, TranscriptionError
from kobold_reader.pages import PageImages
from kobold_reader.pages.values import pack, read_frame, unpack, write_frame
from kobold_reader.reading.page_reader import PageJob, TaskOutcome
from kobold_reader.reading.rapidocr import RapidOcrEngine
from kobold_reader.reading.results import Corners, Reading

_NICE: Final = 10
_SHARE_OF_CORES: Final = 2
"""The others are for the page children, the archive, and KoboldCpp if it is on this machine."""
_END_S: Final = 5.0
_PACKAGE_PARENT: Final = str(Path(__file__).parents[2])


class WitnessProcess:
    """Reads pages one after the other; the process starts with the first, and anew after a crash.

    Args:
        timeout_s: The longest that one page may take, the start of the process included.
    """

    def __init__(self, *, timeout_s: float = 600.0) -> None:
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._is_closed = False

    def read(self, job: PageJob) -> TaskOutcome:
        """Read a page, or say why it cannot be read."""
        answer = self._ask(*pack(job.images))
        return Reading.of_json(answer["reading"]) if "reading" in answer else TranscriptionError(answer["error"])

    def look(self, images: PageImages, places: Sequence[Corners]) -> list[list[str]]:
        """Read single lines of a page again; see `RapidOcrEngine.look`."""
        header, blobs = pack(images)
        answer = self._ask({**header, "places": places}, blobs)
        if "looks" not in answer:
            raise TranscriptionError(answer["error"])
        return cast("list[list[str]]", answer["looks"])

    def _ask(self, header: dict[str, Any], blobs: tuple[bytes, ...]) -> dict[str, Any]:
        try:
            process = self._running()
            clock = threading.Timer(self._timeout_s, process.kill)
            clock.start()
            try:
                stdin, stdout = cast("BinaryIO", process.stdin), cast("BinaryIO", process.stdout)
                write_frame(stdin, header, blobs)
                frame = read_frame(stdout)
            finally:
                clock.cancel()
        except (OSError, ValueError):
            frame = None
        if frame is not None:
            return frame[0]
        self._end()
        return {
            "error": f"RapidOCR's process ended while it read this page, or took longer than {self._timeout_s:g} s."
        }

    def _running(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._is_closed:
                raise ValueError("closed")
            if self._process is None:
                known = os.environ.get("PYTHONPATH")
                path = os.pathsep.join([_PACKAGE_PARENT, known]) if known else _PACKAGE_PARENT
                apart: dict[str, Any] = {"start_new_session": True}  # Ctrl-C must reach the parent alone
                if sys.platform == "win32":
                    apart = {
                        "creationflags": subprocess.CREATE_NEW_PROCESS_GROUP
                        | subprocess.CREATE_NO_WINDOW
                        | subprocess.BELOW_NORMAL_PRIORITY_CLASS
                    }
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "kobold_reader.reading.witness_process"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env={**os.environ, "PYTHONPATH": path, "ORT_DISABLE_TELEMETRY": "1"},
                    **apart,
                )
            return self._process

    def close(self) -> None:
        """End the process, also in the middle of a page; may be called from any thread."""
        with self._lock:
            self._is_closed = True
            if self._process is not None:
                self._process.kill()

    def _end(self) -> None:
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(_END_S)
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):
                    if pipe is not None:
                        pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._end()


def main() -> None:
    """Read pages until stdin ends."""
    stdin = sys.stdin.buffer
    # stdout is for frames alone: what anything else prints, in Python or below it, goes to stderr.
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(_NICE)
    engine = RapidOcrEngine(threads=max(1, (os.cpu_count() or 1) // _SHARE_OF_CORES))
    while (frame := read_frame(stdin)) is not None:
        images = unpack(*frame)
        assert isinstance(images, PageImages)  # noqa: S101  (nothing else is sent)
        answer: dict[str, Any]
        try:
            if "places" in frame[0]:
                answer = {"looks": engine.look(images, frame[0]["places"])}
            else:
                outcome = engine.read(PageJob("", 0, ("ocr",), images))["ocr"]
                answer = {"reading": asdict(outcome)} if isinstance(outcome, Reading) else {"error": str(outcome)}
        except KoboldReaderError as err:
            answer = {"error": str(err)}
        write_frame(output, answer)


if __name__ == "__main__":
    main()
