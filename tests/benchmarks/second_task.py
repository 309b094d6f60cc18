"""How often the server encodes an image: `python -m tests.benchmarks.second_task`.

Encoding is the dear part of a request. KoboldCpp 1.115 keeps the last image encoded, so a page's second and third task
should cost none: one encoding for a page shown whole, and for a cut page its tiles and once the whole. 1.76 encodes for
every request, so there no request may be sent that is not needed.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Final

from kobold_reader import KoboldReader
from kobold_reader.reading.remembered import Remembered, SelfTestFile
from tests.benchmarks.report import show, verdict
from tests.benchmarks.scans import jpeg, letter, pdf_of
from tests.benchmarks.soak import MODEL
from tests.kobold_simulator import KoboldSimulator, ScriptBrain

TASKS: Final = ("ocr", "caption", "tags")
KINDS: Final = {"whole": 41, "cut": 110}
"""Lines of writing: print of 11 pt, and of 4 pt."""
SERVERS: Final = {"1.115.1": (MODEL, "qwen2vl"), "1.76": ("MiniCPM-V-2_6-Q4_K_M", "resampler")}
"""By release: a model that it can load, and its projector."""


def count(folder: Path, version: str, kind: str, tasks: Sequence[str], pages: int) -> tuple[int, int, int]:
    """Read pages; requests, encodings, and encodings that it should have been."""
    pdf = folder / f"{kind}.pdf"
    if not pdf.exists():
        pdf_of([jpeg(letter(number, size_px=(2480, 3508), lines=KINDS[kind])) for number in range(pages)], pdf)
    brain = ScriptBrain(lambda request: '{"tags": ["letter"]}' if "tags" in request.prompt.lower() else "Dear Axel.")
    model, projector = SERVERS[version]
    with (
        KoboldSimulator(model=model, projector=projector, version=version, brain=brain) as server,
        KoboldReader(api_url=server.url, tasks=list(tasks), ledger="none", rotate=0) as reader,
    ):
        # What a self-test would have found: the card that proves on 1.76 that images are seen is no page.
        started_s = time.time() - server.perf()["uptime"]
        SelfTestFile().put(server.url, Remembered(model, version, started_s, time.time(), True, 1024, 1024))
        parts = [len(result.readings["ocr"].view_sizes) for result in reader.read_pages(pdf)]
        encodings = sum(number + (number > 1 and len(tasks) > 1) for number in parts)
        requests = sum(number + len(tasks) - 1 for number in parts)
        return server.count(), server.encodings, requests if version == "1.76" else encodings


def main(arguments: Sequence[str] | None = None) -> bool:
    """Print the table; return whether every image was encoded once."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pages", type=int, default=4)
    parser.add_argument("--quick", action="store_true", help="1 page, all tasks; 1.115.1 whole, 1.76 cut")
    given = parser.parse_args(arguments)
    pages = 1 if given.quick else given.pages
    rows, is_right = [], True
    with tempfile.TemporaryDirectory() as name:
        os.environ["XDG_DATA_HOME"] = name
        for version, kind in list(product(SERVERS, KINDS))[:: 3 if given.quick else 1]:
            for tasks in (TASKS,) if given.quick else (TASKS[:1], TASKS[:2], TASKS):
                requests, encodings, right = count(Path(name), version, kind, tasks, pages)
                rows.append((version, kind, " + ".join(tasks), requests / pages, encodings / pages, right / pages))
                is_right = is_right and encodings == right
    show(
        f"{pages} pages of each kind",
        ("KoboldCpp", "page", "tasks", "requests a page", "encodings a page", "at least"),
        rows,
    )
    verdict(
        "every image is encoded once (tiles + 1 for a cut page, 1 for a whole one), on 1.76 once a request",
        is_reached=is_right,
    )
    return is_right


if __name__ == "__main__":
    main()
