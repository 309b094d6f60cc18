"""What the benchmarks share: runs side by side, and tables that can go into the README as they are."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

if sys.platform != "win32":
    import resource

OK: Final = "reached"
MISSED: Final = "MISSED"


def machine() -> str:
    """What it ran on."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}"


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Markdown whose columns line up."""
    cells = [[str(cell) for cell in row] for row in [columns, *rows]]
    widths = [max(len(row[place]) for row in cells) for place in range(len(columns))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table under its title."""
    print(f"\n{title} ({machine()})\n\n{table(columns, rows)}\n", flush=True)


def verdict(goal: str, *, is_reached: bool) -> None:
    """Say whether a goal was reached; a missed one ends no run."""
    print(f"{OK if is_reached else MISSED}: {goal}", flush=True)


def side_by_side(actions: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Run all actions in turn, so many rounds: whatever else the machine does meets each of them alike."""
    taken: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            taken[name].append(action())
    return taken


def timed(action: Callable[[], object]) -> float:
    """Return how many seconds it takes."""
    began_s = time.perf_counter()
    action()
    return time.perf_counter() - began_s


def process_cpu_s(*arguments: str, environment: Mapping[str, str] | None = None, stdin: bytes = b"") -> float:
    """Run this Python with arguments and its stdin; its processor seconds, which other load hardly changes.

    Where the system does not tell them (Windows), the seconds on the clock.
    """
    before_s = children_s()
    command = [sys.executable, *arguments]
    took_s = timed(lambda: subprocess.run(command, input=stdin, stdout=subprocess.DEVNULL, check=True, env=environment))
    return children_s() - before_s or took_s


def cpu_s() -> float:
    """Processor seconds of this process and of those of its children that have ended."""
    return time.process_time() + children_s()


def children_s() -> float:
    """Processor seconds of the children that have ended."""
    if sys.platform == "win32":
        return 0.0
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
