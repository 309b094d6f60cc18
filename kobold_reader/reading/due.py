"""What is still to be done: pure decisions over facts, readings and the user's settings.

A page is due where a task has no reading made with the same engine and the same *user-given* settings. What the user
did not choose (our default wording, our release, the model that happens to be loaded) makes nothing due; `redo` does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from kobold_reader.errors import ConfigError
from kobold_reader.kobold import FAMILIES
from kobold_reader.pages import PageFacts
from kobold_reader.reading.engine import EngineFacts
from kobold_reader.reading.pagerange import PageRange
from kobold_reader.reading.resolution import is_clearly_lower, would_reach_px
from kobold_reader.reading.results import DOUBTFUL, Reading
from kobold_reader.reading.tasks import DEFAULT_TASKS, check_tasks

__all__ = [
    "ImageKindUse",
    "ReadSettings",
    "Redo",
    "TextLayerUse",
    "is_outdated",
    "possible",
    "tasks_of_page",
    "to_redo",
]

TextLayerUse = Literal["auto", "ignore", "only"]
ImageKindUse = Literal["auto", "photo", "scan"]
Redo = Literal["outdated", "truncated", "looping", "low-confidence", "low-resolution", "all"]

CAPTION_COVERAGE: Final = 0.25
"""A page with a good text layer is captioned and tagged only where images cover at least this share of it."""
_OF_PICTURES: Final = frozenset({"caption", "tags"})
LOW_CONFIDENCE: Final = 0.8
"""Mean over the page, for engines that tell no more (RapidOCR)."""
LOW_CONFIDENCE_P5: Final = DOUBTFUL
"""Fifth percentile of the words, where it is known: below it at least one word in twenty is doubtful. The mean over a
page would hide them: a rival at least as near as can be seen costs its word 0.3 to 0.5, and a page has 300 words."""


@dataclass(frozen=True, slots=True)
class ReadSettings:
    """What the user asks for.

    Raises:
        ConfigError: A value is out of its range; the message names it.
    """

    tasks: tuple[str, ...] = DEFAULT_TASKS
    are_tasks_default: bool = False
    """The user named none: what the model cannot do is left out, where it would be refused."""
    text_layer: TextLayerUse = "auto"
    image_kind: ImageKindUse | None = None
    """What pictures are; "auto": decided for each, whatever was said before; None: as was said before, else decided."""
    rotate_deg: int | None = None
    """Turn every page clockwise; 0: as the file says; None: pages on their side or head are turned by themselves."""
    pages: PageRange = field(default_factory=PageRange)
    sample: int | None = None
    """Read only so many pages, spread evenly over everything."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    hint: str | None = None
    family: str | None = None
    redo: Redo | None = None
    passwords: tuple[str, ...] = field(default=(), repr=False)
    page_timeout_s: float | None = None
    stop_after_s: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", check_tasks(self.tasks))  # each once: a task named twice was asked twice
        for name, value, allowed in (
            ("text_layer", self.text_layer, get_args(TextLayerUse)),
            ("image_kind", self.image_kind, (None, *get_args(ImageKindUse))),
            ("redo", self.redo, (None, *get_args(Redo))),
            ("rotate", self.rotate_deg, (None, 0, 90, 180, 270)),
        ):
            if value not in allowed:
                msg = f"{name}: {value!r} is not one of {', '.join(str(one) for one in allowed if one is not None)}."
                raise ConfigError(msg)
        for name, number in (
            ("sample", self.sample),
            ("page_timeout_s", self.page_timeout_s),
            ("stop_after_s", self.stop_after_s),
        ):
            if number is not None and number <= 0:
                msg = f"{name}: {number} must be greater than 0."
                raise ConfigError(msg)
        check_tasks(self.prompts or self.tasks)

    def key(self, task: str) -> str:
        """Return the key under which the ledger keeps readings of the task made with these settings.

        Whether a text layer is used decides only *which* pages are read, not how, so it is no part of the key.
        """
        given = {
            "prompt": self.prompts.get(task),
            "hint": self.hint,
            "family": self.family,
            "rotate_deg": self.rotate_deg,
        }
        given = {name: value for name, value in given.items() if value is not None}
        if not given:
            return "default"
        return hashlib.sha256(json.dumps(given, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:32]


def tasks_of_page(facts: PageFacts, settings: ReadSettings) -> tuple[str, ...]:
    """Return the tasks to ask of this page, a good text layer's own answer to `ocr` included."""
    if settings.tasks[0] != "ocr" and "ocr" not in settings.tasks:
        return settings.tasks
    if has_text_layer(facts, settings) and (settings.text_layer == "only" or facts.image_coverage < CAPTION_COVERAGE):
        return tuple(task for task in settings.tasks if task not in _OF_PICTURES)
    return settings.tasks


def has_text_layer(facts: PageFacts, settings: ReadSettings) -> bool:
    """Tell whether the page's text layer answers `ocr`."""
    if settings.text_layer == "only":
        return bool(facts.text.strip())
    return settings.text_layer == "auto" and facts.text_layer == "good"


def possible(
    due_tasks: Sequence[str], readings: Mapping[str, Reading], able: frozenset[str] | None, last_family: str | None
) -> tuple[str, ...]:
    """Return what can be done of the tasks that are asked for by default.

    A page read by a model that only reads is read: it is not due for a caption, neither now (no server is asked to find
    that out) nor when another model happens to be loaded.

    Args:
        due_tasks: Of one page.
        readings: Kept ones of that page.
        able: What the engine can do; None: nobody has asked it yet.
        last_family: Of the model that read last; stands for the model of a page whose text layer answers `ocr`.
    """
    can = set(due_tasks) if able is None else set(due_tasks) & able
    ocr = readings.get("ocr")
    if ocr is not None and "ocr" not in due_tasks:
        maker = FAMILIES.get((ocr.family if ocr.status != "text_layer" or able is not None else last_family) or "")
        can = {task for task in can if task in readings or maker is None or task in maker.tasks}
    return tuple(task for task in due_tasks if task in can)


def is_outdated(reading: Reading, engine: EngineFacts) -> bool:
    """Tell whether another model or another wording would be used today."""
    wording = (engine.prompts or {}).get(reading.task)
    asked_otherwise = bool(wording and reading.prompt and wording not in reading.prompt)
    return reading.model != engine.model or asked_otherwise


def to_redo(reading: Reading, redo: Redo | None, engine: EngineFacts | None, facts: PageFacts) -> bool:
    """Tell whether the user asked for this reading to be made again.

    Args:
        reading: What there is.
        redo: What the user asked for.
        engine: Needed for `outdated` and `low-resolution`.
        facts: Of the page: one that has few pixels of its own is not read again for more.
    """
    match redo:
        case None:
            return False
        case "all":
            return True
        case "truncated" | "looping":
            return reading.status == redo
        case "low-confidence":
            if reading.confidence_p5 is not None:
                return reading.confidence_p5 < LOW_CONFIDENCE_P5
            return reading.confidence is not None and reading.confidence < LOW_CONFIDENCE
        case "outdated":
            return engine is not None and is_outdated(reading, engine)
        case "low-resolution":
            return engine is not None and is_clearly_lower(reading.effective_px, _now_px(facts, engine))
    raise AssertionError(redo)


def _now_px(facts: PageFacts, engine: EngineFacts) -> int:
    budget = engine.budget
    return would_reach_px(
        (facts.width_px, facts.height_px),
        (facts.width_pt, facts.height_pt),
        budget.max_side_px,
        budget.max_pixels,
        budget.max_dpi,
    )


def spread(count: int, sample: int) -> Sequence[int]:
    """Return `sample` positions spread evenly over `count`, each in the middle of its share.

    >>> list(spread(10, 2))
    [2, 7]
    """
    if sample >= count:
        return range(count)
    return [int((number + 0.5) * count / sample) for number in range(sample)]
