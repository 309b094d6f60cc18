"""What there is of one page, and what is still due: the one answer for whoever reads, surveys or plans."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from kobold_reader.reading import due
from kobold_reader.reading.due import ReadSettings
from kobold_reader.reading.engine import EngineFacts
from kobold_reader.reading.ledger import KnownPage, Ledger
from kobold_reader.reading.results import Reading

__all__ = ["Lookup", "blank_reading", "look_up"]


@dataclass(frozen=True, slots=True)
class Lookup:
    """The tasks asked of a page, by what becomes of them."""

    tasks: tuple[str, ...]
    readings: dict[str, Reading]
    """What there is; a reading that is to be made again is here as well."""
    due_tasks: tuple[str, ...]


def look_up(
    ledger: Ledger,
    engine_name: str,
    settings: ReadSettings,
    known: KnownPage,
    *,
    engine: EngineFacts | None = None,
    made: AbstractSet[tuple[str, str]] = frozenset(),
    able: frozenset[str] | None = None,
    last_family: str | None = None,
) -> Lookup:
    """Find what is known of a page, and decide what is due.

    Args:
        ledger: Asked for the readings.
        engine_name: Whose readings.
        settings: What the user asks for.
        known: The page.
        engine: Needed where `settings.redo` asks what the model would do now.
        made: Content and task of readings made in this run, which `redo` does not ask for again.
        able: What the engine can do, where it was asked.
        last_family: See `due.possible`.
    """
    facts = known.facts
    tasks = due.tasks_of_page(facts, settings)
    readings: dict[str, Reading] = {}
    due_tasks: list[str] = []
    for task in tasks:
        if task == "ocr" and due.has_text_layer(facts, settings):
            readings[task] = Reading(task=task, status="text_layer", text=facts.text.strip(), engine="pdf")
            continue
        if known.is_blank:
            readings[task] = blank_reading(task)
            continue
        reading = ledger.reading(facts.content_sha256, task, engine_name, settings.key(task))
        if reading:
            readings[task] = reading
        redo = None if (facts.content_sha256, task) in made else settings.redo
        if reading is None or due.to_redo(reading, redo, engine, facts):
            due_tasks.append(task)
    if due_tasks and settings.are_tasks_default:
        due_tasks = list(due.possible(due_tasks, readings, able, last_family))
        tasks = tuple(task for task in tasks if task in readings or task in due_tasks)
    return Lookup(tasks, readings, tuple(due_tasks))


def blank_reading(task: str) -> Reading:
    """Return the reading of a page that holds nothing."""
    return Reading(task=task, status="blank", text="", engine="image")
