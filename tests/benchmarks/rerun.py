"""What a run over pages that were read before costs: `python -m tests.benchmarks.rerun [--pages 2000] [--quick]`.

PDFs of scans whose readings stand in the ledger are read in fresh processes, with no server there: as PageResults, as
LlamaIndex's Documents, and by the command. Python's audit hook counts the files of the folder
that are opened, and the processes started.
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

from kobold_reader import KoboldReader, Reading
from kobold_reader.reading.ledger import KnownPage
from kobold_reader.reading.open_file import OpenFile
from kobold_reader.session import take
from tests.benchmarks.report import show, timed, verdict
from tests.benchmarks.scans import make_pdfs, specks
from tests.benchmarks.soak import MODEL

MOST_MS: Final = 1.0
TASKS: Final = ["ocr", "caption"]
NOBODY: Final = "http://127.0.0.1:9"
TEXT: Final = "\n".join(
    f"Dear Axel, the slates of case {n} came on {n % 28 + 1} May, inventory 1954/{n * n}." for n in range(20)
)
"""As much as stands on a page of a letter."""
PAGES: Final = "PageResults"
DOCUMENTS: Final = "Documents"
COMMAND: Final = "kobold-reader read, the whole process"


def again(folder: Path) -> None:
    """In a process of its own: read all pages again; say how long it took and what was opened."""
    opened: list[str] = []
    scans = str((folder / "scans").resolve())

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "subprocess.Popen" or (event == "open" and str(arguments[0]).startswith(scans)):
            opened.append(str(arguments[0]))

    reader = reader_of(folder, NOBODY)
    found: dict[str, list[int]] = {PAGES: [], DOCUMENTS: []}
    sys.addaudithook(watch)
    took_s = {
        PAGES: timed(
            lambda: found[PAGES].append(sum(result.is_kept for result in reader.read_pages(folder / "scans")))
        ),
        DOCUMENTS: timed(lambda: found[DOCUMENTS].append(len(reader.load_data(folder / "scans")))),
    }
    print(json.dumps({"pages": found, "took_s": took_s, "opened": opened}))


def reader_of(folder: Path, url: str) -> KoboldReader:
    """The same reader, before and after."""
    return KoboldReader(api_url=url, tasks=TASKS, ledger=str(folder / "ledger.sqlite"), rotate=0)


def fill(folder: Path) -> None:
    """Look at every page, and record readings for it, as a run records them."""
    with reader_of(folder, NOBODY) as reader, reader.open_ledger() as ledger, OpenFile(ledger) as opened:
        settings = reader.options
        keys = {task: settings.key(task) for task in TASKS}
        readings = {
            task: Reading(task=task, status="ok", text=TEXT, engine="koboldcpp", model=MODEL, confidence=0.97)
            for task in TASKS
        }
        for source in take(folder / "scans").files:
            file = opened.facts(source)
            for number in range(1, file.total_pages + 1):
                known = KnownPage(opened.page_facts(source, file, number), is_blank=False)
                known = opened.with_image_kind(source, file, known, settings.image_kind)
                ledger.record(source, file.sha256, known, readings, keys, {})


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Print the table; return ms a page by what was asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pages", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="200 pages, 2 rounds")
    parser.add_argument("--again", metavar="FOLDER", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.again:
        again(Path(given.again))
        return {}
    pages, rounds = (200, 2) if given.quick else (given.pages, given.rounds)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_DATA_HOME"] = name
        make_pdfs(folder / "scans", pages, specks)
        fill(folder)
        opened: list[str] = []

        taken: dict[str, list[float]] = {}

        def in_process() -> None:
            command = [sys.executable, "-m", "tests.benchmarks.rerun", "--again", name]
            said = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
            if said["pages"] != {PAGES: [pages], DOCUMENTS: [pages]}:
                raise SystemExit(f"{said['pages']} of {pages} pages came back")
            opened.extend(said["opened"])
            for what, took_s in said["took_s"].items():
                taken.setdefault(what, []).append(took_s)

        def by_command() -> float:
            command = [
                sys.executable,
                "-m",
                "kobold_reader",
                "read",
                str(folder / "scans"),
                "--format",
                "jsonl",
                "--api-url",
                NOBODY,
            ]
            command += ["--tasks", ",".join(TASKS), "--rotate", "0", "--ledger", str(folder / "ledger.sqlite")]
            return timed(lambda: subprocess.run(command, capture_output=True, check=True))

        for _ in range(rounds):
            in_process()
            taken.setdefault(COMMAND, []).append(by_command())
    each_ms = {what: min(times) * 1000 / pages for what, times in taken.items()}
    show(
        f"{pages} pages again, least of {rounds} rounds",
        ("", "ms a page", "s in all"),
        [(what, f"{ms:.3f}", f"{ms * pages / 1000:.2f}") for what, ms in each_ms.items()],
    )
    verdict(f"under {MOST_MS:g} ms a page", is_reached=max(each_ms[PAGES], each_ms[DOCUMENTS]) < MOST_MS)
    verdict(f"no file opened, no process started: {len(opened)} were", is_reached=not opened)
    return {**each_ms, "opened": len(opened)}


if __name__ == "__main__":
    main()
