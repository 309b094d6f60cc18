"""How much memory a run takes: `python -m tests.benchmarks.memory [--pages 20 200 2000] [--quick]` (Linux).

Scans of A4, 150 px to the inch, are read through a simulator in another process, as Documents that are thrown away and
as PageResults, by a reader in a process of its own. Measured is the peak of that process and of its page child (VmHWM),
less what each has in use when everything is imported and nothing is open (VmRSS).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from typing_extensions import override

from kobold_reader import KoboldReader
from kobold_reader.pages import ImageBudget, PageChild
from kobold_reader.reading import open_file as openfile
from tests.benchmarks.report import show, verdict
from tests.benchmarks.scans import grained, jpeg, letter, make_pdfs, pdf_of
from tests.benchmarks.server_utilisation import servers

MOST_MB: Final = 250
FLAT: Final = 1.3
"""Of the peak for most pages over that for fewest: more would grow with the pages."""
SIZE_PX: Final = (1240, 1754)
DRAWN: Final = 20
TASKS: Final = ["ocr"]


def in_use_mb(pid: int | str, what: str) -> float:
    """`VmRSS` now, or `VmHWM` at most, of a process."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) / 1024
    raise LookupError(what)


class Watched(PageChild):
    """A page child whose peak is known when it has ended."""

    peak_mb = 0.0

    @override
    def close(self) -> None:
        """End it."""
        if self.pid is not None:
            Watched.peak_mb = max(Watched.peak_mb, in_use_mb(self.pid, "VmHWM"))
        super().close()


def read(folder: Path, url: str, nothing: Path) -> dict[str, Any]:
    """Read all pages in this process; its peak and its child's, less what both need for nothing."""
    with PageChild() as child:
        child.open(nothing, kind="pdf")
        child.page_facts(1)
        child.page_images(1, ImageBudget(max_side_px=64), rotate_deg=0)
        assert child.pid is not None
        child_idle_mb = in_use_mb(child.pid, "VmRSS")
    openfile.new_child = Watched
    reader = KoboldReader(api_url=url, tasks=TASKS, ledger=str(folder / "ledger.sqlite"), rotate=0)
    idle_mb = in_use_mb("self", "VmRSS")
    with reader:
        pages = sum(1 for _ in reader.lazy_load_data(folder / "scans"))
    return {
        "pages": pages,
        "idle": (idle_mb, child_idle_mb),
        "peak": (in_use_mb("self", "VmHWM"), Watched.peak_mb),
    }


def measure(pages: int) -> dict[str, Any]:
    """Read so many pages in a fresh process."""
    with tempfile.TemporaryDirectory() as name, servers(1, 0.0) as (urls, _):
        folder = Path(name)
        drawn = [jpeg(grained(letter(number, size_px=SIZE_PX), number)) for number in range(min(pages, DRAWN))]
        # Bytes behind a JPEG's end make it another scan without drawing it anew.
        make_pdfs(folder / "scans", pages, lambda number: drawn[number % DRAWN] + number.to_bytes(4))
        pdf_of([jpeg(letter(0, size_px=(64, 90)))], folder / "nothing.pdf")
        command = [sys.executable, "-m", "tests.benchmarks.memory", "--read", name, urls[0]]
        ended = subprocess.run(command, stdout=subprocess.PIPE, check=True, env={**os.environ, "XDG_DATA_HOME": name})
        said: dict[str, Any] = json.loads(ended.stdout)
    if said["pages"] != pages:
        raise SystemExit(f"{said['pages']} of {pages} pages were read")
    return said


def main(arguments: Sequence[str] | None = None) -> dict[int, tuple[float, float]]:
    """Print the table; return MB beyond imports, of parent and child, by pages."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pages", type=int, nargs="+", default=[20, 200, 2000])
    parser.add_argument("--quick", action="store_true", help="4 and 12 pages")
    parser.add_argument("--read", nargs=2, metavar=("FOLDER", "URL"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.read:
        folder = Path(given.read[0])
        print(json.dumps(read(folder, given.read[1], folder / "nothing.pdf")))
        return {}
    if not Path("/proc/self/status").exists():
        print("Measured on Linux only: no other system tells another process's peak.")
        return {}
    found = {pages: measure(pages) for pages in ([4, 12] if given.quick else given.pages)}
    beyond = {
        pages: (said["peak"][0] - said["idle"][0], said["peak"][1] - said["idle"][1]) for pages, said in found.items()
    }
    show(
        "Memory in MB: at its peak, beyond imports",
        ("pages", "reader, imports", "reader, beyond", "page child, imports", "page child, beyond"),
        [
            (pages, *(f"{mb:.0f}" for pair in zip(said["idle"], beyond[pages], strict=True) for mb in pair))
            for pages, said in found.items()
        ],
    )
    most = [max(pair[place] for pair in beyond.values()) for place in (0, 1)]
    verdict(f"under {MOST_MB} MB beyond imports, parent and child", is_reached=max(most) < MOST_MB)
    fewest, largest = min(beyond), max(beyond)
    is_flat = all(
        beyond[largest][place] <= max(FLAT * beyond[fewest][place], beyond[fewest][place] + 15) for place in (0, 1)
    )
    verdict(f"flat: {largest} pages take no more than {fewest}", is_reached=is_flat)
    return beyond


if __name__ == "__main__":
    main()
