"""Reading pages again from the browser: one at a time, in a thread, with the settings they were read with."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from kobold_reader.archive import Archive
from kobold_reader.errors import ConfigError, KoboldReaderError
from kobold_reader.pages import local_path
from kobold_reader.reader import KoboldReader

_STOP_S = 15.0


@dataclass(frozen=True, slots=True)
class RereadStatus:
    """The page that is being read again, or was last."""

    name: str
    """File and page."""
    is_running: bool
    sentence: str
    """What is being done, the outcome, or why it failed."""
    has_failed: bool = False


class Rereader:
    """Reads pages again.

    Args:
        archive: Holds the pages.
        changes: KoboldReader arguments that differ from the run that read a page before.
        secrets: Arguments that an archive does not remember: passwords.
    """

    def __init__(self, archive: Archive, changes: Mapping[str, Any], secrets: Mapping[str, Any]) -> None:
        self._archive = archive
        self._changes = dict(changes)
        self._secrets = dict(secrets)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._cancel = threading.Event()  # a run sets it at its end, too
        self._is_closing = False
        self.now: RereadStatus | None = None
        """None until the first page is read again."""

    def start(self, uri: str, page_number: int, name: str) -> None:
        """Begin to read a page (1-based; 0: all pages of a file that could not be opened).

        Raises:
            ConfigError: Another page is being read, or the archive does not know how this one was read.
        """
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                hint = "One at a time: wait until it is done."
                raise ConfigError("Another page is being read again.", hint=hint)
            settings = self._archive.settings_of(uri)
            if not settings:
                hint = "`kobold-reader index PATH --archive DIR` reads it again."
                raise ConfigError(f"The archive does not know how {name} was read.", hint=hint)
            once = {
                "pages": str(page_number) if page_number else None,
                "sample": None,
                "on_error": "skip",
                "outage_patience_s": 0.0,  # the user is waiting: an error now, not after ten minutes
            }
            reader = KoboldReader.from_dict({**settings, **self._changes, **once, **self._secrets})
            self.now = RereadStatus(name, is_running=True, sentence="waiting for the server")
            self._cancel = threading.Event()
            self._thread = threading.Thread(target=self._read, args=(uri, reader), name="read-again", daemon=True)
            self._thread.start()

    def _read(self, uri: str, reader: KoboldReader) -> None:
        try:
            with reader:
                report = self._archive.sync(
                    local_path(uri), reader=reader, remember=False, cancel=self._cancel, on_progress=self._set_sentence
                )
        except KoboldReaderError as err:
            self._end(str(err), has_failed=True)
        except Exception as err:
            self._end(f"Internal error ({err!r}).", has_failed=True)
            raise
        else:
            if report.errors:
                self._end(str(report.errors[0]), has_failed=True)
            elif self._is_closing:
                self._end("Stopped.", has_failed=True)
            else:
                self._end("It was read, and can be found.")

    def _set_sentence(self, text: str) -> None:
        if self.now:
            self.now = replace(self.now, sentence=text)

    def _end(self, sentence: str, *, has_failed: bool = False) -> None:
        if self.now:
            self.now = replace(self.now, is_running=False, sentence=sentence, has_failed=has_failed)

    def join(self, timeout_s: float | None = None) -> None:
        """Wait until nothing is being read."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def close(self) -> None:
        """Stop: the job is aborted on the server."""
        self._is_closing = True
        self._cancel.set()
        self.join(_STOP_S)
