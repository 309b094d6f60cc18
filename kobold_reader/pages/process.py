"""One running child process: its pipes, the threads that read them, and how it ended."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any, Final, TypeAlias

import kobold_reader
from kobold_reader.pages.wire import read_frame

__all__ = ["ChildProcess", "Frame"]

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
