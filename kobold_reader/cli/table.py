"""Tables: as wide as the terminal, and one plain line a row where stdout is piped."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

__all__ = ["say_table"]

_UNBOUNDED: Final = 10_000
_NEVER_WRAPPED: Final = 30
"""Names of families, numbers: broken over two lines nobody can copy or compare them."""


def say_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table of results to stdout."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from kobold_reader.cli.output import harmless, say

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
