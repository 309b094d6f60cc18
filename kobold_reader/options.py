"""Which pages of a file are meant: `1-3,7,10-`.

What a page can be asked: its transcription, a description of its pictures, keywords.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from typing_extensions import override

from kobold_reader.errors import ConfigError

__all__ = ["DEFAULT_TASKS", "TASKS", "PageRange", "check_tasks"]

TASKS: Final = ("ocr", "caption", "tags")
"""Tasks by name, in the order in which they are asked of one page (the image stays in the server's cache)."""

DEFAULT_TASKS: Final = ("ocr", "caption")

# What an archive can be asked; here, because the command line's help must not load the archive.
Mode = Literal["hybrid", "dense", "keyword"]
Grouping = Literal["page", "file", "folder"]
GroupBy = Literal["file", "folder"]
ExportFormat = Literal["md", "txt", "jsonl"]
EmbedderKind = Literal["minilm", "koboldcpp", "none"]


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


_PART = re.compile(r"\s*(\d+)?\s*(-)?\s*(\d+)?\s*")


@dataclass(frozen=True, slots=True)
class PageRange:
    """1-based page numbers, as spans; the empty range means all pages."""

    spans: tuple[tuple[int, int | None], ...] = ()

    @classmethod
    def parse(cls, text: str | None) -> PageRange:
        """Read `1-3,7,10-` or `-5`; None or "" means all pages.

        Raises:
            ConfigError: Not a range, page 0, or a span that runs backwards.

        >>> 7 in PageRange.parse("1-3,7")
        True
        """
        if text is None or not text.strip():
            return cls()
        return cls(tuple(_span(part, text) for part in text.split(",")))

    def __contains__(self, page_number: int) -> bool:
        if not self.spans:
            return True
        return any(first <= page_number and (last is None or page_number <= last) for first, last in self.spans)

    @override
    def __str__(self) -> str:
        return ",".join(
            str(first) if first == last else f"{first}-{'' if last is None else last}" for first, last in self.spans
        )


def _span(part: str, whole: str) -> tuple[int, int | None]:
    found = _PART.fullmatch(part)
    if not found or not (found[1] or found[3]):
        msg = f"pages: {part.strip()!r} in {whole!r} is no page range; write for example 1-3,7 or 10-."
        raise ConfigError(msg)
    first = int(found[1]) if found[1] else 1
    last = (int(found[3]) if found[3] else None) if found[2] else first
    if first < 1 or (last is not None and last < first):
        msg = f"pages: {part.strip()!r} in {whole!r}: pages count from 1, and a span runs forwards."
        raise ConfigError(msg)
    return first, last
