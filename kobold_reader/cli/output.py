"""Output: results go to stdout, everything else to stderr (errors, notices, the log, progress)."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

if TYPE_CHECKING:
    from kobold_reader.reading.survey import Forecast, PageKind

_HOUR_S = 3600


def program_to_type() -> str:
    """Return what starts this program in a shell here: `kobold-reader` only where that finds this environment's."""
    folder = Path(sys.executable).parent
    found = shutil.which("kobold-reader")
    if found and Path(found).absolute().parent == folder:
        return "kobold-reader"
    script = shutil.which("kobold-reader", path=str(folder))
    return _as_typed(Path(script)) if script else f"{_as_typed(Path(sys.executable))} -m kobold_reader"


def activate_command() -> str | None:
    """Return the command that puts this environment's programs on the path; None where there is no environment."""
    script = Path(sys.executable).with_name("Activate.ps1" if sys.platform == "win32" else "activate")
    if not script.exists():
        return None
    return _as_typed(script) if sys.platform == "win32" else f"source {_as_typed(script)}"


def _as_typed(path: Path) -> str:
    """Return the shorter of the path and the one from the current folder, quoted where a shell needs it."""
    with contextlib.suppress(ValueError):
        path = path.relative_to(Path.cwd())
    text = str(path)
    return f'"{text}"' if " " in text else text


def spell_count(count: int, what: str) -> str:
    """Return a number of things.

    >>> spell_count(1, "page"), spell_count(3, "page")
    ('1 page', '3 pages')
    """
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def spell_duration(seconds: float) -> str:
    """Return a duration.

    >>> spell_duration(4000)
    '1 h 07 min'
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def spell_about(seconds: float) -> str:
    """Return a duration, rounded to what a forecast can know.

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


def spell_tokens(tokens: int) -> str:
    """Return a number of tokens, rounded to what a forecast can know.

    >>> spell_tokens(1_234_567), spell_tokens(45_678), spell_tokens(700)
    ('1.2 million', '46 thousand', '700')
    """
    for size, name in ((1_000_000, "million"), (1000, "thousand")):
        if tokens >= size:
            number = tokens / size
            return f"{number:.1f} {name}" if number < 10 else f"{number:.0f} {name}"  # noqa: PLR2004
    return str(tokens)


def spell_forecast(forecast: Forecast) -> str:
    """Return how long reading will take, with its range: `about 7 h 20 min (5–9 h)`."""
    unit_s, unit = next(
        (size_s, name)
        for size_s, name in ((24 * _HOUR_S, "days"), (_HOUR_S, "h"), (60, "min"), (1, "s"))
        if forecast.high_s >= 3 * size_s or size_s == 1
    )
    low, high = (f"{seconds / unit_s:.0f}" for seconds in (forecast.low_s, forecast.high_s))
    return f"about {spell_about(forecast.seconds)}" + (f" ({low}–{high} {unit})" if low != high else "")


def spell_kinds(by_kind: Mapping[PageKind, int]) -> str:
    """Return the number of pages of each kind, in words."""
    words: dict[PageKind, str] = {
        "read": "read before",
        "text_layer": "with their own text",
        "blank": "known to be blank",
        "copy": "copy" if by_kind.get("copy") == 1 else "copies",
        "failed": "unreadable",
        "to_read": "to be read",
    }
    return ", ".join(f"{by_kind[kind]} {what}" for kind, what in words.items() if by_kind.get(kind)) or "none"


def spell_skipped(skipped: Mapping[str, int]) -> str:
    """Return the files that were not taken, by ending: `skipped: 412 .mov, 3 .heic (pip install …)`."""
    from kobold_reader.pages import extra_hint

    hints = {ending: f" ({hint})" if (hint := extra_hint(ending)) else "" for ending in skipped}
    counts = (f"{count} {ending or '(no ending)'}{hints[ending]}" for ending, count in sorted(skipped.items()))
    return f"skipped: {', '.join(counts)}"


def spell_statuses(pages: Mapping[str, int], kept: int = 0) -> str:
    """Return pages by status, and how many of them were read before: `3 pages: 1 failed, 2 ok (1 read before)`."""
    if not (total := sum(pages.values())):
        return "no pages"
    by_status = ", ".join(f"{count} {status}" for status, count in sorted(pages.items()) if count)
    return f"{spell_count(total, 'page')}: {by_status}" + (f" ({kept} read before)" if kept else "")


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def harmless(text: str) -> str:
    """Return text without control characters: a page's text must not steer the terminal it is shown on."""
    return _CONTROL.sub("\ufffd", text)


def say(text: str = "", *, is_harmless: bool = False) -> None:
    """Write a line of results to stdout; `is_harmless`: `harmless` has cleaned the parts that come from pages."""
    sys.stdout.write(f"{text if is_harmless or not sys.stdout.isatty() else harmless(text)}\n")


def say_json(value: object) -> None:
    """Write a result to stdout as JSON."""
    say(json.dumps(value, ensure_ascii=False, indent=1))


def notice(text: str) -> None:
    """Write a line for the person at the terminal to stderr."""
    # The other end of the pipe may be closed (`2>&1 | head`), which must not end a night's work.
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{harmless(text)}\n")
        sys.stderr.flush()


def complain(text: str) -> None:
    """Write an error to stderr."""
    notice(f"kobold-reader: {text}")


class _NoticeHandler(logging.Handler):
    shows_tracebacks = False

    @override
    def emit(self, record: logging.LogRecord) -> None:
        notice(logging.Formatter().format(record) if self.shows_tracebacks else record.getMessage())


_NOTICES = _NoticeHandler()


def show_log(verbosity: int) -> None:
    """Show what the library logs: 0: warnings, 1: what it does, 2: everything."""
    logger = logging.getLogger("kobold_reader")
    _NOTICES.shows_tracebacks = verbosity > 0
    logger.addHandler(_NOTICES)  # adding it twice changes nothing
    logger.setLevel({0: logging.WARNING, 1: logging.INFO}.get(verbosity, logging.DEBUG))


def say_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table of results: as wide as the terminal, or one line for each row where stdout is piped."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Without a terminal, rich assumes 80 columns and would cut the rows that a program reads.
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 10_000)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for number, column in enumerate(columns):
        cells = [row[number] for row in rows]
        # Names and numbers that are broken over two lines cannot be copied or compared.
        is_short = all(" " not in cell and len(cell) <= 30 for cell in cells)  # noqa: PLR2004
        table.add_column(column, overflow="fold", no_wrap=is_short)
    for row in rows:
        table.add_row(*(Text(harmless(cell)) for cell in row))  # Text, not markup: a file may be called [red].gguf
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        say(line.rstrip(), is_harmless=True)


class PageProgress:
    """Counts pages, shows them on a terminal, and estimates the time left from the pages that this run read."""

    def __init__(self, bar: Any = None) -> None:
        self._bar = bar
        self._task = bar.add_task("pages", total=None, left="", doing="") if bar else None
        self._total = 0
        self._done = 0
        self._to_read = 0
        self._started_s = time.monotonic()
        self.read_pages = 0
        """Pages that this run has read."""
        self.is_forecast = False
        """The user has seen how long the run will take."""

    def expect(self, pages: int, to_read: int) -> None:
        """Add pages of the run, and how many of them need reading."""
        self._total += pages
        self._to_read += to_read
        self._started_s = time.monotonic()  # without the time of the survey
        self._update(total=self._total)

    def page_done(self, *, is_asked: bool) -> None:
        """Count one page; `is_asked`: it had to be read, which took time."""
        self._done += 1
        self.read_pages += is_asked
        left = "" if self.left_s is None else f"{spell_about(self.left_s)} left"
        self._update(completed=self._done, left=left)

    def doing(self, text: str) -> None:
        """Show what is being done now."""
        self._update(doing=harmless(text))

    def _update(self, **values: Any) -> None:
        if self._bar:
            self._bar.update(self._task, **values)

    @property
    def left_pages(self) -> int:
        """Pages that still need reading."""
        return max(0, min(self._to_read - self.read_pages, self._total - self._done))

    @property
    def left_s(self) -> float | None:
        """Time until the last page is read; None before the first one was."""
        if not self.read_pages or not self._to_read:
            return None
        return (time.monotonic() - self._started_s) / self.read_pages * self.left_pages


@contextlib.contextmanager
def page_progress(*, is_wanted: bool = True) -> Iterator[PageProgress]:
    """Count pages, and show a bar if stderr is a terminal and the bar is wanted there."""
    if not sys.stderr.isatty() or not is_wanted:
        yield PageProgress()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.table import Column

    doing = TextColumn("{task.fields[doing]}", markup=False, table_column=Column(ratio=1, no_wrap=True))
    columns = (BarColumn(bar_width=20), MofNCompleteColumn(), TextColumn("pages {task.fields[left]}"), doing)
    with Progress(*columns, console=Console(stderr=True), transient=True, expand=True) as bar:
        yield PageProgress(bar)
