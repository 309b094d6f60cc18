"""Output: results go to stdout, everything else to stderr (errors, notices, the log, progress)."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from typing_extensions import override

from kobold_reader.errors import quoted
from kobold_reader.progress import PageProgress


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
    return quoted([str(path)])


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202d\u202e]")


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
    """Write a table of results: 80 columns wide or as wide as the terminal, or a line for each row where piped."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Without a terminal, rich assumes 80 columns and would cut the rows that a program reads. On a narrow one it would
    # cut names.
    width = max(80, shutil.get_terminal_size().columns) if sys.stdout.isatty() else 10_000
    console = Console(file=sys.stdout, width=width)
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
        task = bar.add_task("pages", total=None, left="", doing="")

        def show(**values: Any) -> None:
            if values.get("is_paused"):
                bar.stop()
                return
            bar.start()  # which changes nothing unless it was paused
            values |= {"doing": harmless(values["doing"])} if "doing" in values else {}
            bar.update(task, **values)

        yield PageProgress(show)
