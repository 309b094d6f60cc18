"""What a page costs before it is sent: `python -m tests.benchmarks.page_preparation [--peers DIR] [--quick]`.

The same scans of A4 pages, 300 px to the inch, in PDFs and as JPEGs: processor time and bytes a page, at an equal
longest side, one process a line, in turn. kobold-reader does what its page child does: what kind of page is it, is it
blank, which way up, does it need to be cut; `--rotate 0` leaves out the third. Where a scan fits it is sent as it is
(passthrough), else it is made smaller. The least of all rounds counts.
"""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from kobold_reader.pages import ImageBudget
from kobold_reader.pages.worker import open_file
from tests.benchmarks.peers import PEERS, PeerFailedError, installed
from tests.benchmarks.report import show, verdict
from tests.benchmarks.scans import grained, jpeg, letter, pdf_of

COLOURS: Final = ("grey", "colour")
SIDES_PX: Final = (1024, 1540)
SCAN_PX: Final = {300: (2480, 3508), 100: (827, 1169)}
PASSTHROUGH_TIMES: Final = 20
RENDERING_TIMES: Final = 1.2
OURS: Final = {"kobold-reader --rotate 0": "0", "kobold-reader": "auto"}
PLAIN, FULL = OURS
PEER_NAMES: Final = ("plain script", "pdf2image", "pypdfium2")


def make(folder: Path, pages: int, colours: Sequence[str]) -> None:
    """Grey and coloured scans, large ones and ones that fit as they are."""
    for dpi, size in SCAN_PX.items():
        for colour in colours:
            mode = "L" if colour == "grey" else "RGB"
            scans = [jpeg(grained(letter(number, size_px=size, mode=mode), number)) for number in range(pages)]
            pdf_of(scans, folder / f"{colour}-{dpi}.pdf")
            pictures = folder / f"{colour}-{dpi}"
            pictures.mkdir()
            for number, scan in enumerate(scans):
                (pictures / f"{number:03}.jpg").write_bytes(scan)


def prepare(pdf: Path, side_px: int, rotate_deg: int | None) -> dict[str, Any]:
    """Prepare all pages as the page child does, once everything is imported."""
    budget = ImageBudget(max_side_px=side_px)
    sent, passed = 0, 0
    warm = open_file(pdf, "pdf")
    warm.page_images(1, budget, rotate_deg)
    warm.close()
    before_s = time.process_time()
    file = open_file(pdf, "pdf")
    for number in range(1, file.facts.total_pages + 1):
        file.page_facts(number)
        view = file.page_images(number, budget, rotate_deg).views[0]
        sent += len(view.image)
        passed += view.is_passthrough
    cpu_s = time.process_time() - before_s
    file.close()
    return {"cpu_s": cpu_s, "bytes": sent, "size": "passthrough" if passed else "rendered"}


def _ours(pdf: Path, side_px: int, rotate: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.benchmarks.page_preparation", "--prepare", str(pdf), str(side_px), rotate]
    said: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return said


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Print the tables; return ms a page by what was done."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pages", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="1 grey page, 1 size, 1 round")
    parser.add_argument("--peers", type=Path, metavar="DIR", help="Where other programs are installed; left out: none.")
    parser.add_argument("--prepare", nargs=3, metavar=("PDF", "PX", "TURN"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.prepare:
        pdf, side, turn = given.prepare
        print(json.dumps(prepare(Path(pdf), int(side), None if turn == "auto" else int(turn))))
        return {}
    pages, rounds = (1, 1) if given.quick else (given.pages, given.rounds)
    colours, sides = (COLOURS[:1], SIDES_PX[:1]) if given.quick else (COLOURS, SIDES_PX)
    others = list(installed(PEER_NAMES, given.peers)) if given.peers else []
    runs: dict[tuple[str, str], Callable[[], dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, pages, colours)
        for colour in colours:
            small, large = folder / f"{colour}-100.pdf", folder / f"{colour}-300.pdf"
            fitting = (f"{colour}, the scan fits", small, max(SCAN_PX[100]))
            for title, pdf, side_px in (fitting, *((f"{colour}, {px} px", large, px) for px in sides)):
                for who, rotate in OURS.items():
                    runs[title, who] = functools.partial(_ours, pdf, side_px, rotate)
                for other in others:
                    source = pdf.with_suffix("") if other.peer is PEERS["plain script"] else pdf
                    runs[title, other.peer.name] = functools.partial(other.run, "prepare", source, side_px)
        found: dict[tuple[str, str], list[dict[str, Any]]] = {key: [] for key in runs}
        for _ in range(rounds):
            for key, run in runs.items():
                try:
                    found[key].append(run())
                except PeerFailedError as err:
                    print(f"{key[1]}: failed, {err}", flush=True)
    return report(found, pages)


def report(found: dict[tuple[str, str], list[dict[str, Any]]], pages: int) -> dict[str, float]:
    """Print the table and what became of the goals."""
    ms = {key: min(run["cpu_s"] for run in runs) * 1000 / pages for key, runs in found.items() if runs}
    show(
        f"{pages} scans of A4, 300 px to the inch (100 where the scan fits)",
        ("page", "by", "how", "CPU ms a page", "KiB a page", "times ours"),
        [
            (
                title,
                who,
                found[title, who][-1]["size"],
                f"{each:.1f}",
                f"{found[title, who][-1]['bytes'] / pages / 1024:.0f}",
                f"{each / ms[title, PLAIN]:.2f}",
            )
            for (title, who), each in ms.items()
        ],
    )
    for colour in dict.fromkeys(title.partition(",")[0] for title, _ in ms):
        times = ms[f"{colour}, {SIDES_PX[0]} px", PLAIN] / ms[f"{colour}, the scan fits", PLAIN]
        verdict(
            f"{colour}: passthrough {PASSTHROUGH_TIMES} times faster than rendering: {times:.1f} times",
            is_reached=times >= PASSTHROUGH_TIMES,
        )
        for title in (title for title, who in ms if who == PLAIN and title.startswith(f"{colour}, ") and "px" in title):
            peers = [each for (other, who), each in ms.items() if other == title and who not in OURS]
            if peers:
                times = ms[title, PLAIN] / min(peers)
                verdict(
                    f"{title}: rendering within {RENDERING_TIMES} of the fastest peer: {times:.2f} times its time",
                    is_reached=times <= RENDERING_TIMES,
                )
    return {f"{title}, {who}": each for (title, who), each in ms.items()}


if __name__ == "__main__":
    main()
