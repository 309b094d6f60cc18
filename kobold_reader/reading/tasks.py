"""What a page can be asked: its transcription, a description of its pictures, keywords."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from kobold_reader.errors import ConfigError

__all__ = ["DEFAULT_TASKS", "TASKS", "check_tasks"]

TASKS: Final = ("ocr", "caption", "tags")
"""Tasks by name, in the order in which they are asked of one page (the image stays in the server's cache)."""

DEFAULT_TASKS: Final = ("ocr", "caption")


def check_tasks(tasks: Iterable[str]) -> tuple[str, ...]:
    """Return the tasks without repetitions, in the order given; a name that is no task raises ConfigError."""
    asked = tuple(dict.fromkeys(tasks))
    if not asked:
        msg = f"tasks is empty: name at least one of {', '.join(TASKS)}."
        raise ConfigError(msg)
    for task in asked:
        if task not in TASKS:
            msg = f"tasks: {task!r} is no task; there are {', '.join(TASKS)}."
            raise ConfigError(msg)
    return asked
