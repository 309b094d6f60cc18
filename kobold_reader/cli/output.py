"""Results to stdout, everything else to stderr.

Tables: as wide as the terminal, and one plain line a row where stdout is piped.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from typing_extensions import override

__all__ = [
    "PageProgress",
    "complain",
    "harmless",
    "notice",
    "page_progress",
    "say",
    "say_table",
    "show_log",
    "spell_about",
    "spell_bytes",
    "spell_count",
    "spell_duration",
    "spell_forecast",
    "spell_kinds",
    "spell_skipped",
]

if TYPE_CHECKING:
    from kobold_reader.reading.survey import Forecast, PageKind

_HOUR_S: Final = 3600
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


def spell_about(seconds: float) -> str:
    """Return a duration as exactly as a forecast can be.

    >>> spell_about(26_500), spell_about(800), spell_about(300_000)
    ('7 h 20 min', '13 min', '3 days 11 h')
    """
    if seconds >= 48 * _HOUR_S:
        days, hours = divmod(round(seconds / _HOUR_S), 24)
        return f"{days} days {hours} h"
    step_s = 600 if seconds >= 2 * _HOUR_S else 60 if seconds >= 120 else 1  # noqa: PLR2004
    return spell_duration(round(seconds / step_s) * step_s).removesuffix(" 00 s")


def spell_bytes(size_bytes: float) -> str:
    """Return a size.

    >>> spell_bytes(812), spell_bytes(45_000), spell_bytes(2_600_000)
    ('1 kB', '45 kB', '2.6 MB')
    """
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if size_bytes >= unit:
            return f"{size_bytes / unit:.1f} {name}"
    return f"{max(1, round(size_bytes / 1000))} kB"


def spell_forecast(forecast: Forecast) -> str:
    """Return how long it will take, and how far that can be trusted: `about 7 h 20 min (5–9 h)`."""
    unit_s, unit = next(
        (size_s, name)
        for size_s, name in ((24 * _HOUR_S, "days"), (_HOUR_S, "h"), (60, "min"), (1, "s"))
        if forecast.high_s >= 3 * size_s or size_s == 1
    )
    low, high = (f"{seconds / unit_s:.0f}" for seconds in (forecast.low_s, forecast.high_s))
    return f"about {spell_about(forecast.seconds)}" + (f" ({low}–{high} {unit})" if low != high else "")


def spell_kinds(by_kind: Mapping[PageKind, int]) -> str:
    """Return pages by what will become of them."""
    words: tuple[tuple[PageKind, str], ...] = (
        ("read", "read before"),
        ("text_layer", "with their own text"),
        ("blank", "known to be blank"),
        ("copy", "copy" if by_kind.get("copy") == 1 else "copies"),
        ("failed", "unreadable"),
        ("to_read", "to be read"),
    )
    return ", ".join(f"{by_kind[kind]} {what}" for kind, what in words if by_kind.get(kind)) or "none"


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
        self.is_forecast = False
        """Whether it was said how long all will take."""

    def expect(self, pages: int, to_read: int) -> None:
        """Say how many more pages there are, and how many of them need reading."""
        self._total += pages
        self._to_read += to_read
        self._started_s = time.monotonic()  # looking at what there is was no reading
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

    @property
    def read_pages(self) -> int:
        """Pages that were really read by now."""
        return self._read

    @property
    def left_pages(self) -> int:
        """Pages that still need reading."""
        return max(0, min(self._to_read - self._read, self._total - self._done))

    @property
    def left_s(self) -> float | None:
        """Time that those will take; None before the first was read."""
        if not self._read or not self._to_read:
            return None
        return (time.monotonic() - self._started_s) / self._read * self.left_pages

    def _left(self) -> str:
        return "" if self.left_s is None else f"{spell_about(self.left_s)} left"


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


_UNBOUNDED: Final = 10_000
_NEVER_WRAPPED: Final = 30
"""Names of families, numbers: broken over two lines nobody can copy or compare them."""


def say_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table of results to stdout."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # A console of rich's takes 80 columns where there is no terminal, and would cut rows that a program reads.
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else _UNBOUNDED)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for number, column in enumerate(columns):
        cells = [row[number] for row in rows]
        is_short = all(" " not in cell and len(cell) <= _NEVER_WRAPPED for cell in cells)
        table.add_column(column, overflow="fold", no_wrap=is_short)
    for row in rows:
        table.add_row(*(Text(harmless(cell)) for cell in row))  # Text: a file may be called [red].gguf
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        say(line.rstrip(), is_harmless=True)
