"""How busy one, two and four servers are kept: `python -m tests.benchmarks.server_utilisation [--service-ms 500]`.

Every simulated server runs in a process of its own and takes exactly the service time for each request, so what is
missing to 100 % is ours: preparing pages, recording readings, and the gap between two requests. (That the simulator
decodes the image counts as service time.)
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from PIL import Image, ImageDraw

from kobold_reader import KoboldReader
from tests.kobold_simulator import KoboldSimulator, ScriptBrain

TASKS = ["ocr", "caption"]


def serve(service_s: float) -> None:
    """One server: says its address, serves until stdin ends, then says when it was busy."""
    brain = ScriptBrain(lambda _: "Dear Axel, the slates came on Tuesday, inventory 1954/37-b.")
    with KoboldSimulator(model="Qwen2.5-VL-7B-Instruct-Q4_K_M", brain=brain, service_s=service_s) as server:
        sys.stdout.write(f"{server.url}\n")
        sys.stdout.flush()
        sys.stdin.read()
        for began, ended in server.busy:
            sys.stdout.write(f"{began} {ended}\n")


@contextlib.contextmanager
def servers(count: int, service_s: float) -> Iterator[tuple[list[str], list[subprocess.Popen[str]]]]:
    """Start servers."""
    command = [sys.executable, "-m", "tests.benchmarks.server_utilisation", "--serve", str(service_s)]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)
    ]
    try:
        yield [process.stdout.readline().strip() for process in started if process.stdout], started
    finally:
        for process in started:
            process.kill()
            process.wait()


def pictures(folder: Path, count: int) -> None:
    """Small scans, each another one."""
    for number in range(count):
        image = Image.new("L", (700, 900), 250)
        for line in range(40, 860, 40):
            ImageDraw.Draw(image).text((40, line), f"{number} {line} Dear Axel, the slates came on Tuesday.", fill=10)
        image.save(folder / f"{number:03}.jpg")


@dataclass(frozen=True)
class Run:
    """What one run over all pages came to."""

    pages_per_s: float
    busy: float
    """Share of the time from a server's first request to its last."""
    gap_ms: float
    longest_gap_ms: float
    own_cpu_ms: float
    """A page: of this process, which no other load on the machine changes."""
    child_cpu_ms: float
    """A page: of the process that opens files, its start included."""


def measure(count: int, pages: int, service_s: float, folder: Path) -> Run:
    """Read all pages through so many servers."""
    with servers(count, service_s) as (urls, processes):
        reader = KoboldReader(api_url=urls, tasks=TASKS, ledger=str(folder / f"{count}.sqlite"), rotate=0)
        with reader:
            reader.make_engine().prepare()
            began, cpu_s, child_s = time.monotonic(), time.process_time(), _children_s()
            read = sum(result.status == "ok" for result in reader.read_pages(folder / "scans"))
            took_s, cpu_s, child_s = time.monotonic() - began, time.process_time() - cpu_s, _children_s() - child_s
        assert read == pages
        shares: list[float] = []
        gaps: list[float] = []
        for process in processes:
            said, _ = process.communicate("")
            spans = [tuple(map(float, line.split())) for line in said.splitlines()]
            busy_s = sum(end - start for start, end in spans)
            shares.append(busy_s / (spans[-1][1] - spans[0][0]))
            gaps += [(later[0] - earlier[1]) * 1000 for earlier, later in pairwise(spans)]
    return Run(
        pages_per_s=read / took_s,
        busy=statistics.mean(shares),
        gap_ms=statistics.median(gaps),
        longest_gap_ms=max(gaps),
        own_cpu_ms=cpu_s * 1000 / pages,
        child_cpu_ms=child_s * 1000 / pages,
    )


def _children_s() -> float:
    """CPU seconds of the processes that have ended; the servers have not."""
    times = os.times()
    return times.children_user + times.children_system


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--serve", type=float)
    parser.add_argument("--service-ms", type=float, default=500)
    parser.add_argument("--pages", type=int, default=24)
    parser.add_argument("--servers", type=int, nargs="+", default=[1, 2, 4])
    given = parser.parse_args()
    if given.serve is not None:
        serve(given.serve)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_DATA_HOME"] = name
        (folder / "scans").mkdir()
        pictures(folder / "scans", given.pages)
        one = 0.0
        for count in given.servers:
            run = measure(count, given.pages, given.service_ms / 1000, folder)
            one = one or run.pages_per_s / count
            print(
                f"{count} servers: {run.pages_per_s:.3f} pages/s, {run.pages_per_s / one:.2f} times one, "
                f"busy {run.busy:.1%}, gap {run.gap_ms:.1f} ms (longest {run.longest_gap_ms:.0f} ms), "
                f"CPU a page {run.own_cpu_ms:.0f} ms here, {run.child_cpu_ms:.0f} ms in the page child",
                flush=True,
            )


if __name__ == "__main__":
    main()
