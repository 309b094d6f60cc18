"""Results to stdout, everything else to stderr."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from typing_extensions import override

__all__ = [
    "PageProgress",
    "complain",
    "harmless",
    "notice",
    "page_progress",
    "say",
    "show_log",
    "spell_count",
    "spell_duration",
    "spell_skipped",
]

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def harmless(text: str) -> str:
    """Return text without control characters: a page's text must not steer the terminal it is shown on."""
    return _CONTROL.sub("\ufffd", text)


def say(text: str = "", *, is_harmless: bool = False) -> None:
    """Write a line of results to stdout; `is_harmless`: what came from pages was cleaned, escape codes are our own."""
    sys.stdout.write(f"{text if is_harmless or not sys.stdout.isatty() else harmless(text)}\n")


def notice(text: str) -> None:
    """Write a line for the person at the terminal to stderr."""
    # Nobody may be listening any more (`2>&1 | head`): that must not end a night's work.
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{harmless(text)}\n")
        sys.stderr.flush()


def complain(text: str) -> None:
    """Write an error to stderr."""
    notice(f"kobold-reader: {text}")


class _LogLines(logging.Handler):
    """Shows what the library logs as notices."""

    @override
    def emit(self, record: logging.LogRecord) -> None:
        notice(record.getMessage())


_LOG_LINES: Final = _LogLines()


def show_log(verbosity: int) -> None:
    """Show what the library logs: warnings, with 1 what it does, with 2 everything."""
    logger = logging.getLogger("kobold_reader")
    logger.addHandler(_LOG_LINES)  # once only, however often it is added
    logger.setLevel({0: logging.WARNING, 1: logging.INFO}.get(verbosity, logging.DEBUG))


def spell_count(count: int, what: str) -> str:
    """Return a number of things.

    >>> spell_count(1, "page"), spell_count(3, "page")
    ('1 page', '3 pages')
    """
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def spell_duration(seconds: float) -> str:
    """Return a duration as people say it.

    >>> spell_duration(4000)
    '1 h 07 min'
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def spell_skipped(skipped: Mapping[str, int]) -> str:
    """Return what was not taken, by ending, with what would take it: `skipped: 412 .mov, 3 .heic (pip install …)`."""
    from kobold_reader.pages import extra_hint

    parts = []
    for ending, count in sorted(skipped.items()):
        hint = extra_hint(ending)
        parts.append(f"{count} {ending or '(no ending)'}" + (f" ({hint})" if hint else ""))
    return "skipped: " + ", ".join(parts)


class PageProgress:
    """Counts pages; shows them on a terminal, keeps silent where stderr is piped.

    The time left is reckoned from pages that were really read; kept pages cost nothing.
    """

    def __init__(self, bar: Any, task: Any) -> None:
        self._bar = bar
        self._task = task
        self._total = 0
        self._done = 0
        self._read = 0
        self._to_read = 0
        self._started_s = time.monotonic()

    def expect(self, pages: int, to_read: int) -> None:
        """Say how many more pages there are, and how many of them need reading."""
        self._total += pages
        self._to_read += to_read
        if self._bar:
            self._bar.update(self._task, total=self._total)

    def page_done(self, *, is_kept: bool) -> None:
        """Count one page."""
        self._done += 1
        self._read += not is_kept
        if self._bar:
            self._bar.update(self._task, completed=self._done, left=self._left())

    def doing(self, text: str) -> None:
        """Show what is being done now."""
        if self._bar:
            self._bar.update(self._task, doing=harmless(text))

    def _left(self) -> str:
        if not self._read or not self._to_read:
            return ""
        per_page_s = (time.monotonic() - self._started_s) / self._read
        return f"{spell_duration(per_page_s * max(0, self._to_read - self._read))} left"


@contextmanager
def page_progress(*, is_wanted: bool = True) -> Iterator[PageProgress]:
    """Show progress while pages are read; `is_wanted`: False where results are being written to the same terminal."""
    if not sys.stderr.isatty() or not is_wanted:
        yield PageProgress(None, None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.table import Column

    doing = TextColumn("{task.fields[doing]}", markup=False, table_column=Column(ratio=1, no_wrap=True))
    columns = (BarColumn(bar_width=20), MofNCompleteColumn(), TextColumn("pages {task.fields[left]}"), doing)
    with Progress(*columns, console=Console(stderr=True), transient=True, expand=True) as bar:
        yield PageProgress(bar, bar.add_task("pages", total=None, left="", doing=""))
