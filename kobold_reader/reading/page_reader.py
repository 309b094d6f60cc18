"""PageReader: the part of a run that makes the images of a page and has them read.

`LocalPageReader` does it on this machine, `kobold_reader.cluster` on the nodes of a Ray cluster.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from kobold_reader.pages import FileFacts, PageImages, SourceFile
from kobold_reader.reading.engine import Engine, EngineFacts, PageJob, TaskOutcome
from kobold_reader.reading.ledger import KnownPage
from kobold_reader.reading.open_file import OpenFile
from kobold_reader.reading.results import Reading
from kobold_reader.reading.upright import upright_images


@dataclass(slots=True)
class DuePage:
    """One page, what there is of it, and which tasks are due."""

    source: SourceFile
    file: FileFacts
    known: KnownPage
    tasks: tuple[str, ...]
    readings: dict[str, Reading]
    due_tasks: tuple[str, ...]
    images: PageImages | None = None


class PageReader(Protocol):
    """Reads pages. `read` may be called by `parallel` threads at once, `images` by one thread beside them."""

    name: str
    """Of the engine whose readings it makes."""

    @property
    def parallel(self) -> int:
        """How many pages it can have in hand at once; known without asking any server."""
        ...

    def prepare(self, cancel: threading.Event | None = None) -> EngineFacts:
        """Make ready and return what the engine is; as `Engine.prepare`."""
        ...

    def images(self, opened: OpenFile, page: DuePage, cancel: threading.Event | None = None) -> PageImages | None:
        """Make the images of a page before its turn comes; None where `read` makes them elsewhere.

        Raises:
            SourceError: The page or the file cannot be read.
            ServerError: As `prepare`.
        """
        ...

    def read(
        self,
        page: DuePage,
        on_progress: Callable[[str, int], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> Mapping[str, TaskOutcome]:
        """Return an outcome for every due task; readings with the status `blank` where the page turned out blank.

        Args:
            page: With its images, if `images` made any.
            on_progress: Called with the task and the characters so far.
            cancel: Set by another thread to stop: the running job is aborted on the server.

        Raises:
            ServerError: No server is left for any page.
            CancelledError: `cancel` was set.
        """
        ...


class LocalPageReader:
    """Makes the images in this process's page child, and gives them to an engine.

    Args:
        engine: Reads the images.
        rotate_deg: Turn every page clockwise by this; None: pages on their side or head are turned upright.
    """

    def __init__(self, engine: Engine, rotate_deg: int | None) -> None:
        self.name = engine.name
        self._engine = engine
        self._rotate_deg = rotate_deg

    @property
    def parallel(self) -> int:
        """As the engine's."""
        return self._engine.parallel

    def prepare(self, cancel: threading.Event | None = None) -> EngineFacts:
        """As the engine's."""
        return self._engine.prepare(cancel)

    def images(self, opened: OpenFile, page: DuePage, cancel: threading.Event | None = None) -> PageImages:
        """Make the images of a page, as large as the engine takes them; see `PageReader.images`."""
        budget = self._engine.prepare(cancel).budget
        facts = page.known.facts
        if self._rotate_deg is None:
            return upright_images(opened, page.source, page.file, facts, budget)
        return opened.page_images(page.source, page.file, facts.page_number, budget, self._rotate_deg)

    def read(
        self,
        page: DuePage,
        on_progress: Callable[[str, int], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> Mapping[str, TaskOutcome]:
        """Have the engine read the page's images; see `PageReader.read`."""
        assert page.images is not None  # noqa: S101  (`images` made them)
        return self._engine.read(
            PageJob(
                source=page.source.path,
                page_number=page.known.facts.page_number,
                tasks=page.due_tasks,
                images=page.images,
                on_progress=on_progress,
                cancel=cancel,
            )
        )
