"""The parent's side of the child in which files are opened.

One running child process: its pipes, the threads that read them, and how it ended.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self, TypeAlias, TypeVar

import kobold_reader
from kobold_reader.errors import ConfigError, CorruptSourceError, KoboldReaderError, PageProcessKilledError, SourceError
from kobold_reader.pages.values import FileFacts, ImageBudget, PageFacts, PageImages, PageLook
from kobold_reader.pages.wire import Value, error_of, read_frame, unpack, write_frame

__all__ = ["ChildProcess", "Frame", "PageChild"]

Frame: TypeAlias = tuple[dict[str, Any], tuple[bytes, ...]]

_END_S: Final = 2.0
_LAST_LINES: Final = 20
_PACKAGE_PARENT: Final = str(Path(kobold_reader.__file__).resolve().parent.parent)


class ChildProcess:
    """One running child: its pipes, and the threads that read them.

    Reading is done in threads because a pipe cannot be waited on for a limited time on Windows.
    """

    def __init__(self, memory_limit_bytes: int) -> None:
        self.owner_pid = os.getpid()
        arguments = [sys.executable, "-P", "-m", "kobold_reader.pages.worker"]
        if memory_limit_bytes:
            arguments.append(str(memory_limit_bytes))
        # Ctrl-C in the terminal must reach the parent alone.
        apart: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
        self.popen = subprocess.Popen(  # noqa: S603 - this interpreter, our own module
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(),
            **apart,
        )
        assert self.popen.stdin is not None  # noqa: S101 - asked for above
        assert self.popen.stdout is not None  # noqa: S101
        assert self.popen.stderr is not None  # noqa: S101
        self.stdin = self.popen.stdin
        self.frames: queue.SimpleQueue[Frame | None] = queue.SimpleQueue()
        self.last_lines: collections.deque[str] = collections.deque(maxlen=_LAST_LINES)
        self._readers = (
            threading.Thread(target=_read_frames, args=(self.popen.stdout, self.frames), daemon=True),
            threading.Thread(target=_read_lines, args=(self.popen.stderr, self.last_lines), daemon=True),
        )
        for reader in self._readers:
            reader.start()

    @property
    def is_usable(self) -> bool:
        """Alive, and started by this very process: a fork shares the pipes but not the child."""
        return self.owner_pid == os.getpid() and self.popen.poll() is None

    def stop(self, *, kill: bool) -> None:
        """End the child, by force or by closing its stdin, and collect its threads and pipes."""
        if self.owner_pid != os.getpid():
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

    @property
    def was_killed(self) -> bool:
        """Whether someone else ended it: a file can make it crash, but not with SIGKILL (Windows does not tell)."""
        return hasattr(signal, "SIGKILL") and self.popen.returncode == -signal.SIGKILL

    def how_it_ended(self) -> str:
        """The child's end in words, with the last thing it said."""
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
        said = next((line for line in reversed(self.last_lines) if "Error" in line or "error" in line), "")
        return f"{how}: {said[:200]}" if said else how


def _environment() -> dict[str, str]:
    """The parent's, made so that the child finds this very package wherever it is started."""
    known = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([_PACKAGE_PARENT, known]) if known else _PACKAGE_PARENT
    return {
        **os.environ,
        "PYTHONPATH": path,
        "PYTHONIOENCODING": "utf-8",
        "ORT_DISABLE_TELEMETRY": "1",
    }


def _read_frames(stream: IO[bytes], frames: queue.SimpleQueue[Frame | None]) -> None:
    with stream, contextlib.suppress(OSError, ValueError, KeyError, json.JSONDecodeError):
        while (frame := read_frame(stream)) is not None:  # type: ignore[arg-type]
            frames.put(frame)
    frames.put(None)


def _read_lines(stream: IO[bytes], lines: collections.deque[str]) -> None:
    with stream, contextlib.suppress(OSError, ValueError):
        for line in stream:
            text = line.decode("utf-8", "replace").rstrip()
            if text:
                lines.append(text)


_LEAST_MEMORY: Final = 1 << 30
_MOST_MEMORY: Final = 4 << 30

_V = TypeVar("_V", FileFacts, PageFacts, PageLook, PageImages)


@dataclasses.dataclass(frozen=True, slots=True)
class _Opened:
    """What a fresh child needs to go on with the file that the last one had open."""

    path: str
    source: str
    kind: str
    passwords: tuple[str, ...]
    sha256: str | None = None

    def request(self) -> dict[str, Any]:
        return {"do": "open", **dataclasses.asdict(self)}


def _default_limit() -> int:
    """Half of the machine's memory; the largest picture that is decoded at all needs under 4 GiB."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return _MOST_MEMORY  # Windows does not tell it here, and would not keep to it
    return min(max(memory // 2, _LEAST_MEMORY), _MOST_MEMORY)


class PageChild:
    """Opens files in a child process; one file at a time, one request at a time.

    Safe to share between threads. The process starts with the first request. When it crashes or
    takes too long, that request raises CorruptSourceError naming the file and page, and the next
    one starts a fresh process that opens the same file again: a page that kills costs itself alone.

    Args:
        timeout_s: Longest silence of the child in one request; hashing a large file is not silent.
        memory_limit_bytes: Most memory the child may ask for; 0: no limit; left out: half of the
            machine's, between 1 and 4 GiB. Only Linux enforces it: there a bomb is a named error.
            Elsewhere the bounds on pixels, unpacked bytes and time alone protect the machine.
    """

    def __init__(self, *, timeout_s: float = 120.0, memory_limit_bytes: int | None = None) -> None:
        if timeout_s <= 0:
            raise ConfigError(f"timeout_s must be more than 0, not {timeout_s}.")
        self._timeout_s = timeout_s
        if memory_limit_bytes is not None and memory_limit_bytes < 0:
            raise ConfigError(f"memory_limit_bytes must not be negative, as {memory_limit_bytes} is.")
        self._memory_limit_bytes = _default_limit() if memory_limit_bytes is None else memory_limit_bytes
        self._lock = threading.Lock()
        self._process: ChildProcess | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None
        self._opened: _Opened | None = None
        self._is_open_in_child = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Process id of the running child, None where none runs."""
        process = self._process
        return process.popen.pid if process is not None and process.is_usable else None

    def open(
        self,
        path: str | Path,
        *,
        source: str | None = None,
        kind: str,
        passwords: Sequence[str] = (),
    ) -> FileFacts:
        """Open a file, in place of the one open before.

        Args:
            path: Local path.
            source: What errors call the file, its URI; the path where left out.
            kind: `SourceFile.kind`.
            passwords: Tried after the empty one.

        Raises:
            SourceError: One of its children says why the file cannot be opened.
        """
        opened = _Opened(str(path), source or str(path), kind, tuple(passwords))
        with self._lock:
            self._opened = None
            self._is_open_in_child = False
            facts = self._ask(opened.request(), opened.source, None, FileFacts)
            # A fresh child opens it again by what was learnt, without reading it all once more.
            self._opened = dataclasses.replace(opened, sha256=facts.sha256)
            self._is_open_in_child = True
            return facts

    def page_facts(self, page_number: int) -> PageFacts:
        """What a page of the open file is.

        Raises:
            PageRenderError: This page is damaged.
            CorruptSourceError: This page made the child crash or hang.
        """
        return self._ask_page({"do": "page_facts"}, page_number, PageFacts)

    def page_look(self, page_number: int) -> PageLook:
        """What a page of the open file is a picture of, seen small; nothing where it cannot be decoded.

        Raises:
            CorruptSourceError: This page made the child crash or hang.
        """
        return self._ask_page({"do": "page_look"}, page_number, PageLook)

    def page_images(self, page_number: int, budget: ImageBudget, *, rotate_deg: int | None = 0) -> PageImages:
        """What a page of the open file looks like.

        Args:
            page_number: 1-based.
            budget: How large its image may be.
            rotate_deg: Clockwise turn beyond what the file itself asks for: 0, 90, 180 or 270; None: upright, as far
                as the picture tells which way is up, and the rest in `PageImages.posture`.

        Raises:
            PageRenderError: This page is damaged.
            CorruptSourceError: The file is cut short, or this page made the child crash or hang.
        """
        if rotate_deg not in {None, 0, 90, 180, 270}:
            raise ConfigError(f"rotate_deg must be 0, 90, 180 or 270, not {rotate_deg}.")
        request = {
            "do": "page_images",
            "budget": dataclasses.asdict(budget),
            "rotate_deg": rotate_deg,
        }
        return self._ask_page(request, page_number, PageImages)

    def close(self) -> None:
        """End the child. A later request starts another."""
        with self._lock:
            self._opened = None
            self._stop(kill=False)

    def _ask_page(self, request: dict[str, Any], page_number: int, kind: type[_V]) -> _V:
        with self._lock:
            opened = self._opened
            if opened is None:
                raise ConfigError("open() a file before asking for its pages.")
            if not (self._is_open_in_child and self._process and self._process.is_usable):
                self._ask(opened.request(), opened.source, page_number, FileFacts)
                self._is_open_in_child = True
            request = {**request, "page_number": page_number, "source": opened.source}
            return self._ask(request, opened.source, page_number, kind)

    def _ask(self, request: dict[str, Any], source: str, page_number: int | None, kind: type[_V]) -> _V:
        """Send one request and wait for its answer; any other way out ends the child."""
        process = self._running(source)
        answered = False
        try:
            try:
                write_frame(process.stdin, {**request, "timeout_s": self._timeout_s})  # type: ignore[arg-type]
            except (OSError, ValueError):
                frame = None  # it is gone; how, is said below
            else:
                frame = self._wait(process, source, page_number)
            if frame is not None:
                value = _answer(*frame, kind)
                answered = True
                if isinstance(value, KoboldReaderError):
                    raise value
                return value
        finally:
            # Also on Ctrl-C: an answer that comes late must not be taken for the next one.
            if not answered:
                self._stop(kill=True)
        if process.was_killed:
            raise PageProcessKilledError(
                f"The process that reads this file was killed from outside ({process.how_it_ended()}).",
                source=source,
                page_number=page_number,
                hint="The system may be short of memory; the next run tries again.",
            )
        raise CorruptSourceError(
            f"The process that reads this file {process.how_it_ended()}.",
            source=source,
            page_number=page_number,
            hint="The file is probably damaged; all other files and pages go on.",
        )

    def _wait(self, process: ChildProcess, source: str, page_number: int | None) -> Frame | None:
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                frame = process.frames.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise CorruptSourceError(
                    f"Reading it took longer than {self._timeout_s:g} s.",
                    source=source,
                    page_number=page_number,
                    hint="Raise the time limit, or save the file anew.",
                ) from None
            if frame is None or not frame[0].get("alive"):
                return frame
            deadline = time.monotonic() + self._timeout_s

    def _running(self, source: str) -> ChildProcess:
        if self._process is None or not self._process.is_usable:
            self._stop(kill=True)
            try:
                process = ChildProcess(self._memory_limit_bytes)
            except (OSError, ValueError) as error:
                raise SourceError(
                    f"The process that reads files cannot be started ({error}).", source=source
                ) from error
            self._process = process
            # For whoever forgets close(): no child is left behind, at exit or before.
            self._finalizer = weakref.finalize(self, process.stop, kill=True)
        return self._process

    def _stop(self, *, kill: bool) -> None:
        self._is_open_in_child = False
        process, self._process = self._process, None
        if self._finalizer is not None:
            self._finalizer.detach()
            self._finalizer = None
        if process is not None:
            process.stop(kill=kill)


def _answer(header: dict[str, Any], blobs: tuple[bytes, ...], kind: type[_V]) -> _V | KoboldReaderError:
    if "error" in header:
        return error_of(header)
    value: Value = unpack(header, blobs)
    if not isinstance(value, kind):
        raise TypeError(f"the child answered with {type(value).__name__}, not {kind.__name__}")
    return value
