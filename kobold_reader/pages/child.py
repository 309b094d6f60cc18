"""The child process in which files are opened, as its parent sees it."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, TypeAlias, TypeVar

import kobold_reader
from kobold_reader.errors import (
    ConfigError,
    CorruptSourceError,
    KoboldReaderError,
    PageProcessKilledError,
    SourceError,
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
    TextLine,
    TextLines,
    error_of,
    read_frame,
    unpack,
    write_frame,
)

_Frame: TypeAlias = tuple[dict[str, Any], tuple[bytes, ...]]
_Answer = TypeVar("_Answer", FileFacts, PageFacts, TextLines, PageLook, PageImages, CopyNotes, Embedded)

_END_S = 2.0
_LAST_LINES = 20
_PACKAGE_PARENT = str(Path(kobold_reader.__file__).resolve().parent.parent)


def _default_memory_limit() -> int:
    """Half of the machine's memory, from 1 to 4 GiB; the largest picture that is decoded at all needs under 4 GiB."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 4 << 30  # Windows has neither sysconf nor such a limit
    return min(max(memory // 2, 1 << 30), 4 << 30)


class PageChild:
    """Opens files in a child process; one file at a time; safe to share between threads.

    The process starts with the first request. When it crashes or takes too long, that request raises CorruptSourceError
    with the file and page, and the next one starts a fresh process that opens the same file again: only the page that
    crashed the child is lost, also where facts of several pages were asked for at once. A request about a damaged page
    raises PageRenderError.

    Args:
        timeout_s: Longest silence of the child in one request; hashing a large file is not silent.
        memory_limit_bytes: Most memory the child may ask for; 0: no limit; left out: half of the machine's, between 1
            and 4 GiB. Only Linux enforces it, and makes a bomb a named error. Elsewhere only the bounds on pixels,
            unpacked bytes and time protect the machine.
    """

    def __init__(self, *, timeout_s: float = 120.0, memory_limit_bytes: int | None = None) -> None:
        if timeout_s <= 0:
            raise ConfigError(f"timeout_s must be more than 0, not {timeout_s}.")
        if memory_limit_bytes is not None and memory_limit_bytes < 0:
            raise ConfigError(f"memory_limit_bytes must not be negative, as {memory_limit_bytes} is.")
        self.timeout_s = timeout_s
        self._memory_limit_bytes = _default_memory_limit() if memory_limit_bytes is None else memory_limit_bytes
        self._lock = threading.Lock()
        self._process: _ChildProcess | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None
        self._opened: dict[str, Any] | None = None
        """The request that opened the file; it is sent again to a fresh child."""
        self._is_open_in_child = False
        self._asked: collections.deque[int] = collections.deque()
        """Pages whose facts the running child was asked for, in the order of its answers."""
        self._found: dict[int, PageFacts | KoboldReaderError] = {}
        """Answers to requests made ahead, by page number."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Process id of the running child, None where none runs."""
        process = self._process
        return process.popen.pid if process is not None and process.is_usable else None

    def open(
        self, path: str | Path, *, source: str | None = None, kind: str, passwords: Sequence[str] = ()
    ) -> FileFacts:
        """Open a file, in place of the one open before.

        Args:
            path: Local path.
            source: The file's URI, for errors; left out: the path.
            kind: `SourceFile.kind`.
            passwords: Tried after the empty one.

        Raises:
            SourceError: One of its subclasses tells why the file cannot be opened.
        """
        request = {
            "do": "open",
            "path": str(path),
            "source": source or str(path),
            "kind": kind,
            "passwords": list(passwords),
            "sha256": None,
        }
        with self._lock:
            self._finish_ahead()
            self._found.clear()
            self._opened = None
            self._is_open_in_child = False
            facts = self._ask(request, None, FileFacts)
            # A fresh child need not read the whole file again to hash it.
            self._opened = {**request, "sha256": facts.sha256}
            self._is_open_in_child = True
            return facts

    def page_facts(self, page_number: int, *, ahead: Sequence[int] = ()) -> PageFacts:
        """Facts about a page of the open file.

        Args:
            page_number: 1-based.
            ahead: A few pages whose facts are asked for next: the child looks at them while the caller works. An error
                of one of them is raised when its own facts are asked for.
        """
        wanted = (page_number, *ahead)
        with self._lock:
            self._leave_to_parent()
            self._found = {number: facts for number, facts in self._found.items() if number in wanted}
            if self._is_ready():
                self._ask_ahead(wanted)
            while page_number not in self._found:
                self._make_ready(page_number)
                self._ask_ahead(wanted)
                self._take_ahead()
            found = self._found.pop(page_number)
        if isinstance(found, KoboldReaderError):
            raise found
        return found

    def _ask_ahead(self, page_numbers: Sequence[int]) -> None:
        """Send a request for the facts of each page that has none yet, and wait for no answer.

        Nothing is sent while the child has enough to do: several requests at once wake it once.
        """
        process = self._process
        assert process is not None  # noqa: S101  (it was made ready, or asked before)
        if page_numbers[0] in self._asked and len(self._asked) * 2 > len(page_numbers):
            return
        for number in page_numbers:
            if number not in self._found and number not in self._asked:
                self._asked.append(number)
                self._send(process, {"do": "page_facts", "page_number": number, "source": self._source})

    def _take_ahead(self) -> None:
        """Wait for the facts of the page that was asked for first, or for the error that it costs."""
        number, process = self._asked[0], self._process
        assert process is not None  # noqa: S101  (with the process goes what it was asked)
        try:
            self._found[number] = self._receive(process, self._source, number, PageFacts)
        except KoboldReaderError as err:
            self._found[number] = err
        if self._asked:  # else it was ended, and what else it was asked for is asked of a fresh one
            self._asked.popleft()

    def _finish_ahead(self) -> None:
        """Wait for all facts that were asked for ahead, so that the next answer is that to the next request."""
        self._leave_to_parent()
        while self._asked:
            self._take_ahead()

    def _leave_to_parent(self) -> None:
        """After a fork, leave the child to the process that started it."""
        if self._process is not None and not self._process.is_own:
            self._stop(kill=True)

    def text_lines(self, page_number: int) -> tuple[TextLine, ...]:
        """The lines of the own text of a page of the open file."""
        return self._ask_page({"do": "text_lines"}, page_number, TextLines).lines

    def page_look(self, page_number: int) -> PageLook:
        """Whether a page of the open file is a photo or a scan; an empty look where it cannot be decoded."""
        return self._ask_page({"do": "page_look"}, page_number, PageLook)

    def embedded(self) -> Embedded:
        """What the open photo says itself, for its sidecar."""
        return self._ask_page({"do": "embedded"}, 1, Embedded)

    def page_images(self, page_number: int, budget: ImageBudget, *, rotate_deg: int | None = 0) -> PageImages:
        """The images of a page of the open file.

        Args:
            page_number: 1-based.
            budget: The limits of each image.
            rotate_deg: Clockwise turn beyond the file's own: 0, 90, 180 or 270; None: upright, as far as the picture
                shows which way is up, with the rest in `PageImages.posture`.
        """
        if rotate_deg not in {None, 0, 90, 180, 270}:
            raise ConfigError(f"rotate_deg must be 0, 90, 180 or 270, not {rotate_deg}.")
        request = {"do": "page_images", "budget": dataclasses.asdict(budget), "rotate_deg": rotate_deg}
        return self._ask_page(request, page_number, PageImages)

    def begin_copy(self, target: Path) -> tuple[str, ...]:
        """Begin a copy of the open file as a PDF with text; `copy_page` for each page in turn, then `end_copy`.

        Returns:
            Sentences for the reader of the copy.

        Raises:
            SourceError: Of this file no copy can be made.
        """
        return self._ask_page({"do": "begin_copy", "target": str(target)}, 1, CopyNotes).notices

    def copy_page(self, page_number: int, lines: Sequence[PlacedText]) -> None:
        """Lay lines of text, in reading order, over a page of the copy."""
        self._ask_page({"do": "copy_page", "lines": lines}, page_number, CopyNotes)

    def end_copy(self) -> None:
        """Write the copy and close it."""
        self._ask_page({"do": "end_copy"}, 1, CopyNotes)

    def close(self) -> None:
        """End the child. A later request starts another."""
        with self._lock:
            self._opened = None
            self._found.clear()
            self._stop(kill=False)

    @property
    def _source(self) -> str:
        return str((self._opened or {}).get("source"))

    def _is_ready(self) -> bool:
        """Tell whether the child runs and has the file open."""
        return self._is_open_in_child and self._process is not None and self._process.is_usable

    def _make_ready(self, page_number: int) -> None:
        """Have the file open in the child, in a fresh one if need be."""
        if self._opened is None:
            raise ConfigError("open() a file before asking for its pages.")
        if not self._is_ready() and not self._asked:
            self._ask(self._opened, page_number, FileFacts)
            self._is_open_in_child = True

    def _ask_page(self, request: dict[str, Any], page_number: int, kind: type[_Answer]) -> _Answer:
        with self._lock:
            self._finish_ahead()
            self._make_ready(page_number)
            request = {**request, "page_number": page_number, "source": self._source}
            return self._ask(request, page_number, kind)

    def _ask(self, request: dict[str, Any], page_number: int | None, kind: type[_Answer]) -> _Answer:
        """Send one request and wait for its answer; end the child if none arrives."""
        process = self._running(request["source"])
        self._send(process, request)
        return self._receive(process, request["source"], page_number, kind)

    def _send(self, process: _ChildProcess, request: dict[str, Any]) -> None:
        with contextlib.suppress(OSError, ValueError):  # the child has ended: no answer arrives, which tells it
            write_frame(process.stdin, {**request, "timeout_s": self.timeout_s})

    def _receive(self, process: _ChildProcess, source: str, page_number: int | None, kind: type[_Answer]) -> _Answer:
        where: dict[str, Any] = {"source": source, "page_number": page_number}
        answered = False
        try:
            frame = self._wait(process, where)
            if frame is not None:
                header, blobs = frame
                value = error_of(header) if "error" in header else unpack(header, blobs)
                if not isinstance(value, (kind, KoboldReaderError)):
                    raise TypeError(f"The child answered with {type(value).__name__}, not {kind.__name__}.")
                answered = True
                if isinstance(value, KoboldReaderError):
                    raise value
                return value
        finally:
            # Also on Ctrl-C: a late answer must not be taken for that to the next request.
            if not answered:
                self._stop(kill=True)
        if process.was_killed:
            raise PageProcessKilledError(
                f"The process that reads this file was killed from outside ({process.how_it_ended()}).",
                hint="The system may be short of memory; the next run tries again.",
                **where,
            )
        raise CorruptSourceError(
            f"The process that reads this file {process.how_it_ended()}.",
            hint="The file is probably damaged; all other files and pages go on.",
            **where,
        )

    def _wait(self, process: _ChildProcess, where: dict[str, Any]) -> _Frame | None:
        deadline = time.monotonic() + self.timeout_s
        while True:
            try:
                frame = process.frames.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                message = f"Reading it took longer than {self.timeout_s:g} s."
                hint = "Raise the time limit, or save the file anew."
                raise CorruptSourceError(message, hint=hint, **where) from None
            if frame is None or not frame[0].get("alive"):
                return frame
            deadline = time.monotonic() + self.timeout_s

    def _running(self, source: str) -> _ChildProcess:
        if self._process is None or not self._process.is_usable:
            self._stop(kill=True)
            try:
                self._process = process = _ChildProcess(self._memory_limit_bytes)
            except (OSError, ValueError) as error:
                raise SourceError(
                    f"The process that reads files cannot be started ({reason(error)}).", source=source
                ) from error
            # No child is left behind where close() is forgotten.
            self._finalizer = weakref.finalize(self, process.stop, kill=True)
        return self._process

    def _stop(self, *, kill: bool) -> None:
        self._is_open_in_child = False
        self._asked.clear()
        process, self._process = self._process, None
        if self._finalizer is not None:
            self._finalizer.detach()
            self._finalizer = None
        if process is not None:
            process.stop(kill=kill)


class _ChildProcess:
    """One running child: its pipes, and the threads that read them.

    Threads read the pipes, as on Windows a pipe cannot be waited on for a limited time.
    """

    def __init__(self, memory_limit_bytes: int) -> None:
        self._owner_pid = os.getpid()
        arguments = [sys.executable, "-P", "-m", "kobold_reader.pages.worker"]
        if memory_limit_bytes:
            arguments.append(str(memory_limit_bytes))
        # What the child takes out of a PDF goes with this folder, also if it crashes.
        self._folder = tempfile.mkdtemp(prefix="kobold-reader-")
        # The child must find this very package wherever it is started.
        known = os.environ.get("PYTHONPATH")
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([_PACKAGE_PARENT, known]) if known else _PACKAGE_PARENT,
            "PYTHONIOENCODING": "utf-8",
            "ORT_DISABLE_TELEMETRY": "1",
            **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), self._folder),
        }
        # Ctrl-C in the terminal must reach the parent alone.
        apart: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
        self.popen = subprocess.Popen(  # noqa: S603 - this interpreter, our own module
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            **apart,
        )
        self.stdin: Any = self.popen.stdin
        self.frames: queue.SimpleQueue[_Frame | None] = queue.SimpleQueue()
        self._last_lines: collections.deque[str] = collections.deque(maxlen=_LAST_LINES)
        self._readers = (
            threading.Thread(target=_read_frames, args=(self.popen.stdout, self.frames), daemon=True),
            threading.Thread(target=_read_lines, args=(self.popen.stderr, self._last_lines), daemon=True),
        )
        for reader in self._readers:
            reader.start()

    @property
    def is_own(self) -> bool:
        """Whether it was started by this process: a fork shares the pipes but not the child."""
        return self._owner_pid == os.getpid()

    @property
    def is_usable(self) -> bool:
        """Whether it runs, and is this process's own."""
        return self.is_own and self.popen.poll() is None

    def stop(self, *, kill: bool) -> None:
        """End the child, by force or by closing its stdin, and collect its threads and pipes."""
        if not self.is_own:
            return  # the child of the process that we were forked from
        if kill:
            with contextlib.suppress(OSError):
                self.popen.kill()
        with contextlib.suppress(OSError):
            self.stdin.close()
        try:
            self.popen.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        for reader in self._readers:
            reader.join(_END_S)
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def was_killed(self) -> bool:
        """Whether the system ended it: a file can make it crash, but not with SIGKILL. On Windows this is not known."""
        return hasattr(signal, "SIGKILL") and self.popen.returncode == -signal.SIGKILL

    def how_it_ended(self) -> str:
        """How the child ended, with its last error message."""
        code = self.popen.returncode
        if code is None:
            how = "stopped answering"
        elif code < 0:
            try:
                how = f"crashed with {signal.Signals(-code).name}"
            except ValueError:
                how = f"crashed with signal {-code}"
        else:
            how = f"ended with code {code}" + (f" (0x{code:08X})" if code > 255 else "")  # noqa: PLR2004
        message = next((line for line in reversed(self._last_lines) if "Error" in line or "error" in line), "")
        return f"{how}: {message[:200]}" if message else how


def _read_frames(stream: Any, frames: queue.SimpleQueue[_Frame | None]) -> None:
    with stream, contextlib.suppress(OSError, ValueError, KeyError):
        while (frame := read_frame(stream)) is not None:
            frames.put(frame)
    frames.put(None)


def _read_lines(stream: Any, lines: collections.deque[str]) -> None:
    with stream, contextlib.suppress(OSError, ValueError):
        lines.extend(text for line in stream if (text := line.decode("utf-8", "replace").rstrip()))
