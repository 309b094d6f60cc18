"""How a page is read: what an engine promises, and the part of a run that makes a page's images and has them read.

Both engines keep the protocol `Engine`. `LocalPageReader` reads on this machine, `kobold_reader.cluster` on the nodes
of a Ray cluster.

The page child finds the axis of the writing, but can tell which end is up at best for Latin print. Where RapidOCR is
installed, a few lines are read both ways: the right way scores near 1, the wrong way gives gibberish. Its own direction
classifier is not used: it is confidently wrong about upright dot-matrix and typewritten lines.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from kobold_reader.errors import KoboldReaderError, PageRenderError
from kobold_reader.pages import FileFacts, ImageBudget, PageFacts, PageImages, PageView, Posture, SourceFile
from kobold_reader.reading.ledger import KnownPage
from kobold_reader.reading.line_reader import LOOK_PX, LineReader, line_reader
from kobold_reader.reading.open_file import OpenFile
from kobold_reader.reading.results import Reading

TaskOutcome = Reading | KoboldReaderError
"""A reading, or the error that concerns this page alone."""


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What an engine is, once it is ready (for KoboldCpp: once a server has answered)."""

    model: str
    family: str | None
    tasks: frozenset[str]
    """What it can be asked; an OCR-only model is never asked for a caption."""
    budget: ImageBudget
    """How large a view may be."""
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
    is_again: bool = False
    """The first answer was of another page: begin with the next temperature."""


class Engine(Protocol):
    """Reads page images. `read` may be called by `parallel` threads at once, everything else by any number."""

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


log = logging.getLogger(__name__)

_READ = 0.9
"""Score of a line that was read. The wrong way up, real lines reached 0.91 at most, and most of them 0.75."""
_BETTER = 0.15
_LETTERS = 4
_LINES = 3
"""How many lines must agree, and three more for each that does not."""
# Chinese, Japanese, Korean: an upright page of columns looks like one on its side, and RapidOCR reads it that way too.
_COLUMN_SCRIPT = re.compile("[\u1100-\u11ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")


def upright_images(
    opened: OpenFile, source: SourceFile, file: FileFacts, facts: PageFacts, budget: ImageBudget
) -> PageImages:
    """Make the images of a page, turned upright where that can be told.

    Raises:
        SourceError: The page or the file cannot be read.
    """
    number = facts.page_number
    images = opened.page_images(source, file, number, budget, None)
    if images.is_blank:
        return images
    turned = (images.views[0].rotation_deg - facts.rotation_deg) % 360
    read = line_reader() if images.posture else None
    if read is not None and images.posture is not None:
        view = images.views[0]
        if max(view.width_px, view.height_px) < LOOK_PX and budget.max_side_px < LOOK_PX:
            larger = replace(budget, max_side_px=LOOK_PX, max_pixels=None, min_px_per_inch=None)
            view = opened.page_images(source, file, number, larger, turned).views[0]
        try:
            more = turn_by_reading(view, images.posture, read)
        except Exception as err:  # noqa: BLE001  (OpenCV and onnxruntime raise anything; the page stays as it is)
            log.warning("%s page %d: RapidOCR cannot tell which end is up: %s", source.path, number, err)
            more = 0
        if more:
            turned = (turned + more) % 360
            images = opened.page_images(source, file, number, budget, turned)
    if turned:
        log.info("%s page %d: turned by %d°", source.path, number, turned)
    return images


def turn_by_reading(view: PageView, posture: Posture, read: LineReader) -> int:
    """Return the clockwise turn of the view that makes its lines legible; 0 where that is not clear."""
    votes = [0, 0]
    for box in posture.lines:
        scores = [0.0, 0.0]
        for index, turn in sorted(enumerate(posture.turns), key=lambda index_and_turn: index_and_turn[1]):
            text, score = read(view, box, turn)
            if len(text.replace(" ", "")) >= _LETTERS and not (turn in (90, 270) and _COLUMN_SCRIPT.search(text)):
                scores[index] = score
            if turn == 0 and scores[index] >= _READ:
                break  # it reads well as it is: no need to look at it upside down
        best = int(scores[1] > scores[0])
        if scores[best] >= _READ and scores[best] - scores[1 - best] >= _BETTER:
            votes[best] += 1
        for index, turn in enumerate(posture.turns):
            if votes[index] >= _LINES * (1 + votes[1 - index]):
                return turn
    return 0


@dataclass(slots=True)
class DuePage:
    """One page, its readings, and which tasks are due."""

    source: SourceFile
    file: FileFacts
    known: KnownPage
    tasks: tuple[str, ...]
    readings: dict[str, Reading]
    due_tasks: tuple[str, ...]
    images: PageImages | None = None
    is_again: bool = False
    """As in `PageJob`."""


class PageReader(Protocol):
    """Reads pages. `read` may be called by `parallel` threads at once, `images` by one thread beside them."""

    @property
    def parallel(self) -> int:
        """How many pages it can read at once; known without asking a server."""
        ...

    def prepare(self, cancel: threading.Event | None = None) -> EngineFacts:
        """Get ready, and return what the engine is; as `Engine.prepare`."""
        ...

    def images(self, opened: OpenFile, page: DuePage, cancel: threading.Event | None = None) -> PageImages | None:
        """Make the images of a page ahead of time; None where `read` makes them elsewhere.

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

        `on_progress` and `cancel` are as in `PageJob`.

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
        """Give the page's images to the engine; see `PageReader.read`."""
        assert page.images is not None  # noqa: S101  (`images` made them)
        number = page.known.facts.page_number
        outcomes = self._engine.read(
            PageJob(
                page.source.path,
                number,
                page.due_tasks,
                page.images,
                on_progress=on_progress,
                cancel=cancel,
                is_again=page.is_again,
            )
        )
        damage = page.images.damage
        return {task: _of_a_part(outcome, damage) for task, outcome in outcomes.items()} if damage else outcomes


def _of_a_part(outcome: TaskOutcome, damage: str) -> TaskOutcome:
    """Return the outcome of a task for a page of which only a part could be shown."""
    if not isinstance(outcome, Reading) or outcome.status not in {"ok", "no_text"}:
        return outcome
    if outcome.status == "no_text":
        return PageRenderError(f"{damage} What is there has no lettering.", hint="Copy or scan the file again.")
    return replace(outcome, status="damaged")
