"""Which tasks of a page are due: decided from its facts, the readings kept of it, and the user's options.

A task is due where no reading was made with the same engine and the same *user-given* options (`ReadOptions.key`). The
rest (our default wording, our release, the model that happens to be loaded) makes nothing due; only `redo` does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kobold_reader.options import ReadOptions, Redo
from kobold_reader.pages import ImageBudget, PageFacts
from kobold_reader.reading.ledger import KnownPage, Ledger
from kobold_reader.reading.results import DOUBTFUL, WITNESS_AGREES, PageResult, Reading

if TYPE_CHECKING:
    from kobold_reader.reading.page_reader import EngineFacts

OF_THE_PAGE: Final = frozenset({"pdf", "image"})
"""`Reading.engine` where no engine was asked: a text layer and blank paper are facts of the page."""
CAPTION_COVERAGE: Final = 0.25
"""A page with a good text layer is captioned and tagged only where images cover at least this share of it."""
LOW_CONFIDENCE: Final = 0.8
"""Mean over the page, for engines that tell no more (RapidOCR)."""
LOW_CONFIDENCE_P5: Final = DOUBTFUL
"""Fifth percentile of the words, where it is known: below it at least one word in twenty is doubtful. The mean over a
page would hide them: a rival at least as near as can be seen costs its word 0.3 to 0.5, and a page has 300 words."""
_CLEARLY: Final = 0.95
"""Less than 5 % is rounding, or the paper's proportions; it makes no print legible."""


@dataclass(frozen=True, slots=True)
class PageTasks:
    """The tasks asked of a page, with the readings that exist, and those that are due."""

    tasks: tuple[str, ...]
    readings: dict[str, Reading]
    """Also those that are to be made again."""
    due_tasks: tuple[str, ...]


def find_due(
    ledger: Ledger,
    options: ReadOptions,
    known: KnownPage,
    *,
    engine: EngineFacts | None = None,
    made: AbstractSet[tuple[str, str]] = frozenset(),
    able: frozenset[str] | None = None,
    last_family: str | None = None,
) -> PageTasks:
    """Find the readings of a page that the engine of the options made, and decide what is due.

    Args:
        ledger: Has the readings.
        options: The options of the run.
        known: The page.
        engine: Needed where `options.redo` compares readings with what the model would do now.
        made: Content and task of readings made in this run, which `redo` does not make again.
        able: The tasks that the engine can do; None: it was not asked yet.
        last_family: See `possible`.
    """
    facts = known.facts
    tasks = tasks_of_page(facts, options)
    if options.is_stand_in and "ocr" in tasks:
        kept = find_due(ledger, options.of_koboldcpp, known)
        if "ocr" in kept.readings:
            return PageTasks(tuple(task for task in kept.tasks if task in kept.readings), kept.readings, ())
        tasks = ("ocr",)
    readings: dict[str, Reading] = {}
    due_tasks: list[str] = []
    for task in tasks:
        if task == "ocr" and has_text_layer(facts, options):
            readings[task] = Reading(task=task, status="text_layer", text=facts.text.strip(), engine="pdf")
        elif known.is_blank:
            readings[task] = blank_reading(task)
        else:
            reading = ledger.reading(facts.content_sha256, task, options.engine, options.key(task))
            if reading:
                readings[task] = reading
            redo = None if (facts.content_sha256, task) in made else options.redo
            if reading is None or to_redo(reading, redo, engine, facts):
                due_tasks.append(task)
    if due_tasks and options.are_tasks_default:
        due_tasks = possible(due_tasks, readings, able, last_family)
        tasks = tuple(task for task in tasks if task in readings or task in due_tasks)
    return PageTasks(tasks, readings, tuple(due_tasks))


def stand_in(ledger: Ledger, options: ReadOptions, page: PageResult) -> Reading | None:
    """Return RapidOCR's whole reading of a page that is meant for KoboldCpp, if there is one with text."""
    if (options.engine == "rapidocr" and not options.is_stand_in) or "ocr" not in page.tasks or not page.content_sha256:
        return None
    own = page.readings.get("ocr")
    if own is not None and own.engine in {*OF_THE_PAGE, "rapidocr"}:
        return None
    found = ledger.reading(page.content_sha256, "ocr", "rapidocr", options.key("ocr"))
    return found if found is not None and found.status == "ok" else None


def tasks_of_page(facts: PageFacts, options: ReadOptions) -> tuple[str, ...]:
    """Return the tasks to ask of this page, `ocr` too where a good text layer answers it."""
    if "ocr" not in options.tasks or not has_text_layer(facts, options):
        return options.tasks
    if options.text_layer == "only" or facts.image_coverage < CAPTION_COVERAGE:
        return ("ocr",)
    return options.tasks


def has_text_layer(facts: PageFacts, options: ReadOptions) -> bool:
    """Tell whether the page's text layer answers `ocr`."""
    if options.text_layer == "only":
        return bool(facts.text.strip())
    return options.text_layer == "auto" and facts.text_layer == "good"


def possible(
    due_tasks: Sequence[str], readings: Mapping[str, Reading], able: frozenset[str] | None, last_family: str | None
) -> list[str]:
    """Return which of the default tasks can be done.

    A page read by a model that only transcribes is not due for a caption, neither now (no server is asked for that) nor
    when another model happens to be loaded.

    `readings` are the kept ones of that page, `able` is as in `find_due`, and `last_family` is that of the model that
    read last; it counts for pages whose text layer answers `ocr`.
    """
    from kobold_reader.kobold import FAMILIES  # what compares sizes only does without HTTP

    can = [task for task in due_tasks if able is None or task in able]
    ocr = readings.get("ocr")
    if ocr is not None and "ocr" not in due_tasks:
        maker = FAMILIES.get((ocr.family if ocr.status != "text_layer" or able is not None else last_family) or "")
        can = [task for task in can if task in readings or maker is None or task in maker.tasks]
    return can


def to_redo(reading: Reading, redo: Redo | None, engine: EngineFacts | None, facts: PageFacts) -> bool:
    """Tell whether this reading is to be made again; `engine` is needed for `outdated` and `low-resolution`.

    A page that has few pixels of its own is not read again for more.
    """
    match redo:
        case None:
            return False
        case "all":
            return True
        case "truncated" | "looping":
            return reading.status == redo
        case "disagreeing":
            return is_disagreeing(reading)
        case "low-confidence":
            if reading.confidence_p5 is not None:
                return reading.confidence_p5 < LOW_CONFIDENCE_P5
            return reading.confidence is not None and reading.confidence < LOW_CONFIDENCE
        case "outdated":
            return engine is not None and _is_outdated(reading, engine)
        case "low-resolution":
            if engine is None:
                return False
            now_px = would_reach_px((facts.width_px, facts.height_px), (facts.width_pt, facts.height_pt), engine.budget)
            return is_clearly_lower(reading.effective_px, now_px)
    raise AssertionError(redo)


def is_disagreeing(reading: Reading) -> bool:
    """Tell whether the witness found more than single letters that differ."""
    found = reading.witness or {}
    agreement = found.get("agreement")
    return reading.status == "unsupported" or (
        agreement is not None
        and (agreement < WITNESS_AGREES or any(found.get(what) for what in ("missing", "unsupported", "repeated")))
    )


def _is_outdated(reading: Reading, engine: EngineFacts) -> bool:
    """Tell whether another model or another wording would be used today."""
    wording = (engine.prompts or {}).get(reading.task)
    return reading.model != engine.model or bool(wording and reading.prompt and wording not in reading.prompt)


def blank_reading(task: str) -> Reading:
    """Return the reading of a blank page."""
    return Reading(task=task, status="blank", text="", engine="image")


def spread(count: int, sample: int) -> Sequence[int]:
    """Return `sample` positions spread evenly over `count`, each in the middle of its share.

    >>> list(spread(10, 2))
    [2, 7]
    """
    if sample >= count:
        return range(count)
    return [int((number + 0.5) * count / sample) for number in range(sample)]


# ── resolution ───────────────────────────────────────────────────────────────────────────────────


def long_side_px(width: float, height: float, max_side_px: int, max_pixels: int | None) -> int:
    """Return the longest side, in px, of a picture of these proportions that is as large as both limits allow.

    >>> long_side_px(210, 297, 1024, None), long_side_px(210, 297, 2048, 2048 * 28 * 28)
    (1024, 1506)
    """
    long_px = float(max_side_px)
    if max_pixels is not None and width > 0 and height > 0:
        long_px = min(long_px, math.sqrt(max_pixels * max(width, height) / min(width, height)))
    return int(long_px)


def would_reach_px(size_px: tuple[int, int], size_pt: tuple[float | None, float | None], budget: ImageBudget) -> int:
    """Return the longest side, in px, with which a whole page would reach the encoder.

    `size_px` is that of the embedded scan or photo (zeros for a born-digital page), `size_pt` that of the paper.
    """
    paper_pt = size_pt[0] or 0.0, size_pt[1] or 0.0
    width, height = size_px if all(size_px) else paper_pt
    reach_px = long_side_px(width, height, budget.max_side_px, budget.max_pixels)
    if all(size_px):
        return min(reach_px, max(size_px))
    return min(reach_px, int(max(paper_pt) / 72 * budget.max_dpi)) if all(paper_pt) else reach_px


def is_clearly_lower(effective_px: int | None, now_px: int) -> bool:
    """Tell whether a page was read with clearly fewer px than it would be now; unknown is not lower."""
    return effective_px is not None and effective_px < _CLEARLY * now_px
