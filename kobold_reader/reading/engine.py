"""The protocol of both engines: what an engine can do, and how it reads a page."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from kobold_reader.errors import KoboldReaderError
from kobold_reader.pages import ImageBudget, PageImages
from kobold_reader.reading.results import Reading

TaskOutcome = Reading | KoboldReaderError
"""A reading, or the error that concerns this page alone."""


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What an engine is, once it is ready (for KoboldCpp: once a server has answered)."""

    name: str
    model: str | None
    family: str | None
    tasks: frozenset[str]
    """What it can be asked; an OCR-only model is never asked for a caption."""
    budget: ImageBudget
    """How large a view may be."""
    release: str
    server_version: str | None = None
    prompts: Mapping[str, str] | None = None
    """By task: the wording that would be sent now; readings with another one are outdated."""


@dataclass(frozen=True, slots=True)
class PageJob:
    """One page to be read."""

    source: str
    """URI of the file, for errors."""
    page_number: int
    tasks: Sequence[str]
    images: PageImages
    on_progress: Callable[[str, int], None] | None = None
    """Called with the task and the characters so far, from the thread that reads."""
    cancel: threading.Event | None = None
    """Set by another thread to stop: the running job is aborted on the server."""


class Engine(Protocol):
    """Reads page images. `read` may be called by `parallel` threads at once, everything else by any number."""

    name: str

    @property
    def parallel(self) -> int:
        """How many pages it can read at once; known without asking a server."""
        ...

    def prepare(self, cancel: threading.Event | None = None) -> EngineFacts:
        """Get ready, and return what the engine is; cheap after the first time. `cancel` ends the wait for a server.

        Raises:
            ServerError: No server can be used; nothing can be read.
            MissingExtraError: The engine's library is not installed.
        """
        ...

    def read(self, job: PageJob) -> Mapping[str, TaskOutcome]:
        """Read one page: an outcome for every task of the job, never fewer.

        Raises:
            ServerError: The server is lost for all pages; all tasks of this page stay due.
        """
        ...

    def close(self) -> None:
        """Give back connections and memory; the engine can be prepared again."""
        ...
