"""How busy servers are kept: `python -m tests.benchmarks.server_utilisation [--peers DIR] [--witness] [--quick]`.

Every simulated server runs in a process of its own and takes exactly the service time for each request, so what is
missing to 100 % is the reader's: preparing pages, recording readings, and the gap between two requests. (That the
simulator parses a request, decodes its image and writes its answer counts as service time, for the real one holds its
lock meanwhile; that it receives and sends them does not: "requests alone" sends bodies that lie ready and does nothing
else, so its gap is the simulator's own.) Two tasks a page; other programs know one prompt a run, and so are run twice.
They are given the same scans, the plain script as JPEGs, the others in a PDF, and can use one server only.

With `--witness` each run is made once more while RapidOCR reads the pages too (41 lines each) on this machine.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Final

from kobold_reader import KoboldReader
from kobold_reader.options import WitnessName
from tests.benchmarks.peers import Installed, PeerFailedError, installed
from tests.benchmarks.report import show, verdict
from tests.benchmarks.scans import jpeg, letter, make_pdfs
from tests.benchmarks.soak import MODEL
from tests.kobold_simulator import BrainRequest, KoboldSimulator, ScriptBrain

TASKS: Final = ["ocr", "caption"]
PAGES: Final = {50.0: 60, 500.0: 24, 5000.0: 3}
"""By service time in ms: pages for each server, about half a minute."""
PEERS_MS: Final = (50.0, 500.0)
PEER_NAMES: Final = ("plain script", "py-zerox", "docling")
FLOOR: Final = "(requests alone)"
NOT_APPLICABLE: Final = (
    "LlamaIndex's image readers (Donut, BLIP, pytesseract) run their models in their own process: they use no server."
)
WITNESSED: Final = "kobold-reader, with the witness"
LOST_POINTS: Final = 0.01
"""Of the time that a server works, with the witness."""
LONG_MS: Final = 500
LEAST_BUSY: Final = 0.99
MOST_GAP_MS: Final = 10
SCALING: Final = 0.97


def serve(service_s: float, linger_s: float) -> None:
    """One server: says its address, serves until stdin ends, then says when it was busy."""
    simulator = KoboldSimulator(model=MODEL, service_s=service_s, linger_s=linger_s)

    def answer(_: BrainRequest) -> str:
        # It keeps every request with its images: after thousands of pages that would be all there is of memory.
        simulator.requests.clear()
        simulator.seen.clear()
        return "Dear Axel, the slates came on Tuesday, inventory 1954/37-b."

    simulator.brain = ScriptBrain(answer)
    with simulator as server:
        sys.stdout.write(f"{server.url}\n")
        sys.stdout.flush()
        sys.stdin.read()
        for began, ended in server.busy:
            sys.stdout.write(f"{began} {ended}\n")


@contextlib.contextmanager
def servers(
    count: int, service_s: float, linger_s: float = 0.0
) -> Iterator[tuple[list[str], list[subprocess.Popen[str]]]]:
    """Start servers."""
    command = [sys.executable, "-m", "tests.benchmarks.server_utilisation", "--serve", str(service_s), str(linger_s)]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)
    ]
    try:
        yield [process.stdout.readline().strip() for process in started if process.stdout], started
    finally:
        for process in started:
            process.kill()
            process.communicate()


@dataclass(frozen=True)
class Run:
    """What one run over all pages came to."""

    who: str
    service_ms: float
    servers: int
    pages_per_s: float
    """From the first request to the last answer."""
    busy: float
    """Share of that time in which a server was at work, their mean."""
    gap_ms: float
    """Between two requests to one server, the median."""
    longest_gap_ms: float
    start_s: float
    """From the start of reading, everything imported, to the end, less all of that."""
    cpu_ms: tuple[float, float] | None = None
    """A page: of the reader, and of the page child with its start."""


def said_by(processes: list[subprocess.Popen[str]]) -> list[list[tuple[float, float]]]:
    """When each server was busy."""
    spans = []
    for process in processes:
        lines = process.communicate("")[0].splitlines()
        spans.append([(float(began), float(ended)) for began, ended in map(str.split, lines)])
    return spans


def judged(who: str, service_ms: float, pages: int, spans: list[list[tuple[float, float]]], took_s: float) -> Run:
    """Work out a run from when the servers were busy."""
    every = [span for of_one in spans for span in of_one]
    whole_s = max(ended for _, ended in every) - min(began for began, _ in every)
    gaps = [(later[0] - earlier[1]) * 1000 for of_one in spans for earlier, later in pairwise(of_one)]
    busy = [sum(ended - began for began, ended in of_one) / whole_s for of_one in spans]
    return Run(
        who,
        service_ms,
        len(spans),
        pages_per_s=pages / whole_s,
        busy=statistics.mean(busy),
        gap_ms=statistics.median(gaps),
        longest_gap_ms=max(gaps),
        start_s=took_s - whole_s,
    )


def ours(
    count: int, pages: int, service_ms: float, linger_ms: float, folder: Path, *, has_witness: bool = False
) -> Run:
    """Read all pages through so many servers."""
    with servers(count, service_ms / 1000, linger_ms / 1000) as (urls, processes):
        ledger = folder / f"{count}-{service_ms:g}-{has_witness}.sqlite"
        witness: WitnessName = "rapidocr" if has_witness else "none"
        with KoboldReader(api_url=urls, tasks=TASKS, ledger=str(ledger), rotate=0, witness=witness) as reader:
            reader.session.engine().prepare()
            began, cpu_s, child_s = time.monotonic(), time.process_time(), _children_s()
            read = sum(result.status == "ok" for result in reader.read_pages(folder / "pdf"))
            took_s, cpu_s, child_s = time.monotonic() - began, time.process_time() - cpu_s, _children_s() - child_s
        if read != pages:
            raise SystemExit(f"{read} of {pages} pages were read")
        run = judged(WITNESSED if has_witness else "kobold-reader", service_ms, pages, said_by(processes), took_s)
    return replace(run, cpu_ms=(cpu_s * 1000 / pages, child_s * 1000 / pages))


def floor(pages: int, service_ms: float, linger_ms: float, folder: Path) -> Run:
    """Send what lies ready, one after the other, and do nothing else: what the simulator itself needs."""
    scans = [base64.b64encode(path.read_bytes()).decode() for path in sorted((folder / "jpeg").glob("*.jpg"))]
    bodies = [
        json.dumps({"prompt": task, "images": [scan], "max_length": 2048, "logprobs": True}).encode()
        for scan in scans
        for task in TASKS
    ]
    with servers(1, service_ms / 1000, linger_ms / 1000) as (urls, processes):
        began = time.monotonic()
        for body in bodies:
            with urllib.request.urlopen(urllib.request.Request(f"{urls[0]}/api/v1/generate", body)) as answer:
                json.load(answer)
        return judged(FLOOR, service_ms, pages, said_by(processes), time.monotonic() - began)


def theirs(peer: Installed, pages: int, service_ms: float, folder: Path) -> Run:
    """Have another program read all pages.

    Raises:
        PeerFailedError: It did not, or not all of them.
    """
    with servers(1, service_ms / 1000) as (urls, processes):
        said = peer.run("read", urls[0], folder / "jpeg", folder / "pdf" / "scans-000.pdf")
        if said["requests"] != pages * len(TASKS):
            raise PeerFailedError(f"{said['requests']} answers for {pages} pages, {len(TASKS)} tasks")
        return judged(peer.peer.name, service_ms, pages, said_by(processes), said["took_s"])


def make(folder: Path, pages: int) -> None:
    """Small scans, each another one, in a PDF and as JPEGs."""
    scans = [jpeg(letter(number)) for number in range(pages)]
    make_pdfs(folder / "pdf", pages, scans.__getitem__)
    (folder / "jpeg").mkdir()
    for number, scan in enumerate(scans):
        (folder / "jpeg" / f"{number:03}.jpg").write_bytes(scan)


def _children_s() -> float:
    """CPU seconds of the processes that have ended; the servers have not."""
    times = os.times()
    return times.children_user + times.children_system


def run_all(given: argparse.Namespace) -> Iterator[Run]:
    """Yield what was measured, kobold-reader and the others in turn."""
    others = list(installed(PEER_NAMES, given.peers)) if given.peers else []
    for service_ms in given.service_ms:
        each = given.pages or PAGES.get(service_ms, 24)
        for count in given.servers:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                os.environ["XDG_DATA_HOME"] = name
                make(folder, each * count)
                yield ours(count, each * count, service_ms, given.linger_ms, folder)
                if given.witness:
                    yield ours(count, each * count, service_ms, given.linger_ms, folder, has_witness=True)
                if count == given.servers[0]:
                    yield floor(each, service_ms, given.linger_ms, folder)
                for other in others if count == 1 and service_ms in PEERS_MS else ():
                    try:
                        yield theirs(other, each, service_ms, folder)
                    except PeerFailedError as err:
                        print(f"{other.peer.name}: failed, {err}", flush=True)


def main(arguments: Sequence[str] | None = None) -> list[Run]:
    """Print the table; return the runs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--serve", type=float, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--service-ms", type=float, nargs="+", default=list(PAGES))
    parser.add_argument("--pages", type=int, help="For each server; left out: as many as take half a minute.")
    parser.add_argument("--servers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument(
        "--linger-ms",
        type=float,
        default=0.0,
        help="A server stays locked so long after an answer: KoboldCpp does, 50.",
    )
    parser.add_argument("--peers", type=Path, metavar="DIR", help="Where other programs are installed; left out: none.")
    parser.add_argument("--witness", action="store_true", help="Each run again, with the witness RapidOCR.")
    parser.add_argument("--quick", action="store_true", help="50 ms, 6 pages, 1 and 2 servers")
    given = parser.parse_args(arguments)
    if given.serve is not None:
        serve(*given.serve)
        return []
    if given.quick:
        given.service_ms, given.pages, given.servers = [50.0], 6, [1, 2]
    runs = []
    for run in run_all(given):
        runs.append(run)
        print(f"{run.who}, {run.service_ms:g} ms, {run.servers} servers: busy {run.busy:.1%}", flush=True)
    report(runs, has_peers=bool(given.peers), linger_ms=given.linger_ms)
    return runs


def report(runs: Sequence[Run], *, has_peers: bool, linger_ms: float) -> None:
    """Print the table and what became of the goals."""
    floors = {run.service_ms: run.gap_ms for run in runs if run.who == FLOOR}
    busy_alone = {run.service_ms: run.busy for run in runs if run.who == FLOOR}
    one = {(run.who, run.service_ms): run.pages_per_s / run.servers for run in reversed(runs)}
    show(
        "Servers at work, two tasks a page",
        (
            "service",
            "servers",
            "by",
            "pages/s",
            "times one",
            "busy",
            "gap ms",
            "longest",
            "before and after s",
            "CPU ms a page",
        ),
        [
            (
                f"{run.service_ms:g} ms",
                run.servers,
                run.who,
                f"{run.pages_per_s:.3f}",
                f"{run.pages_per_s / one[run.who, run.service_ms]:.2f}",
                f"{run.busy:.1%}",
                f"{run.gap_ms:.1f}",
                f"{run.longest_gap_ms:.0f}",
                f"{run.start_s:.1f}",
                "{:.0f} + {:.0f}".format(*run.cpu_ms) if run.cpu_ms else "",
            )
            for run in runs
        ],
    )
    if has_peers:
        print(NOT_APPLICABLE)
    without = {(run.service_ms, run.servers): run.busy for run in runs if run.who == "kobold-reader"}
    for run in runs:
        if run.who == WITNESSED:
            lost = without[run.service_ms, run.servers] - run.busy
            verdict(
                f"{run.service_ms:g} ms, {run.servers} servers: the witness costs a server at most "
                f"{LOST_POINTS * 100:g} point of its time: {lost * 100:.1f}",
                is_reached=lost <= LOST_POINTS,
            )
    for run in runs:
        if run.cpu_ms is None or run.who == WITNESSED:
            continue
        what = f"{run.service_ms:g} ms, {run.servers} servers"
        if linger_ms:
            alone = busy_alone[run.service_ms]
            verdict(
                f"{what}: at work {LEAST_BUSY:.0%} as long as with requests alone: {run.busy:.1%} of {alone:.1%}",
                is_reached=run.busy >= LEAST_BUSY * alone,
            )
        elif run.service_ms >= LONG_MS:
            verdict(f"{what}: {LEAST_BUSY:.0%} busy: {run.busy:.1%}", is_reached=run.busy >= LEAST_BUSY)
        else:
            gap_ms = run.gap_ms - floors.get(run.service_ms, 0.0)
            verdict(
                f"{what}: gap under {MOST_GAP_MS} ms a request: {run.gap_ms:.1f} ms, "
                f"{gap_ms:.1f} ms beyond requests alone",
                is_reached=gap_ms < MOST_GAP_MS,
            )
        times = run.pages_per_s / one[run.who, run.service_ms]
        if run.servers > 1:
            verdict(f"{what}: {times:.2f} times one", is_reached=times >= SCALING * run.servers)


if __name__ == "__main__":
    main()
