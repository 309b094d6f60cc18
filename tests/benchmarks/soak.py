"""Soak: a long `index` on servers that fail at random, killed again and again, compared with an undisturbed one.

    python -m tests.benchmarks.soak [--pages 2000] [--servers 3] [--kill-every-s 60] [--fault-share 0.03] [--seed 1]

Makes PDFs of scans whose page number is drawn as a bar code, so that the simulated model reads it from the pixels it
was sent: its answer belongs to the page, whatever was mixed up on the way. Then it runs `kobold-reader index` twice: on
servers that work, and on servers that break connections, cut answers, answer nonsense, are busy, die and come back,
while the run itself is killed (SIGKILL) every so often and started again, until it has ended by itself. Prints a table,
and ends with 1 where a page is missing, doubled or differs.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pymupdf
from PIL import Image, ImageDraw

from tests.kobold_simulator import BrainRequest, Fault, KoboldSimulator, RecordedRequest, ScriptBrain

BITS: Final = 16
BAR_PX: Final = 24
SIZE_PX: Final = (420, 588)
PAGES_PER_FILE: Final = 200
MODEL: Final = "Qwen2.5-VL-7B-Instruct-Q4_K_M"
FAULTS: Final = {
    "closed": Fault.CLOSE,
    "reset": Fault.RESET,
    "reset in the body": Fault.RESET_BODY,
    "truncated JSON": Fault.TRUNCATED_JSON,
    "wrong length": Fault.WRONG_LENGTH,
    "null": Fault.NULL,
    "HTML": Fault.HTML,
    "finish_reason error": Fault.ERROR,
    "empty": Fault.EMPTY_TEXT,
    "busy": Fault.BUSY,
}


def page_image(number: int) -> bytes:
    """A page with lines of writing, and its number as black and white bars."""
    image = Image.new("L", SIZE_PX, 250)
    draw = ImageDraw.Draw(image)
    for bit in range(BITS):
        left = 18 + bit * BAR_PX
        draw.rectangle((left, 18, left + BAR_PX - 1, 18 + 2 * BAR_PX), fill=10 if number >> bit & 1 else 240)
    for line in range(110, SIZE_PX[1] - 30, 22):
        draw.text((18, line), f"{number} Dear Axel, the slates came on Tuesday.", fill=20)
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def read_number(request: BrainRequest) -> int:
    """The number that stands on the image which reached the model."""
    image = request.images[0].convert("L")
    scale = image.width / SIZE_PX[0]
    middle = [(18 + (bit + 0.5) * BAR_PX) * scale for bit in range(BITS)]
    levels = [image.getpixel((round(x), round((18 + BAR_PX) * scale))) for x in middle]
    return sum(1 << bit for bit, level in enumerate(levels) if isinstance(level, int | float) and level < 128)


def make_files(folder: Path, pages: int) -> None:
    """PDFs of scans, up to PAGES_PER_FILE pages each."""
    for first in range(0, pages, PAGES_PER_FILE):
        with pymupdf.open() as document:
            for number in range(first, min(first + PAGES_PER_FILE, pages)):
                page = document.new_page(width=595, height=842)
                page.insert_image(page.rect, stream=page_image(number), keep_proportion=False)
            document.save(folder / f"scans-{first // PAGES_PER_FILE:03}.pdf")


@dataclass
class Trouble:
    """Faults at random, and a server that dies now and then; one for all servers."""

    share: float
    chance: random.Random
    struck: Counter[str] = field(default_factory=Counter)
    deaths: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, request: RecordedRequest) -> Fault | None:
        if not request.path.endswith("/api/v1/generate"):
            return None
        with self._lock:
            if self.chance.random() >= self.share:
                return None
            name = self.chance.choice(list(FAULTS))
            self.struck[name] += 1
        return FAULTS[name]


@dataclass
class Outcome:
    """What one way through all pages cost."""

    seconds: float
    requests: int
    runs: int
    peak_rss_mb: float
    codes: list[int]


def environment(home: Path) -> dict[str, str]:
    """The user's own folders, moved into one of the benchmark's."""
    moved = dict.fromkeys(("HOME", "USERPROFILE", "XDG_DATA_HOME", "LOCALAPPDATA", "APPDATA"), str(home))
    moved["KOBOLD_READER_WITNESS"] = "none"
    return {**os.environ, **moved, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])}


def rss_mb(pid: int) -> float:
    """Resident memory of a process and its children, where the system tells it (Linux)."""
    total = 0
    pending = [pid]
    while pending:
        one = pending.pop()
        try:
            status = Path(f"/proc/{one}/status").read_text(encoding="utf-8")
            total += int(status.partition("VmRSS:")[2].split()[0])
            pending += map(int, Path(f"/proc/{one}/task/{one}/children").read_text(encoding="utf-8").split())
        except (OSError, IndexError, ValueError):
            continue
    return total / 1024


def run_index(
    scans: Path,
    archive: Path,
    servers: list[KoboldSimulator],
    *,
    kill_every_s: float | None,
    log: Path,
) -> Outcome:
    """Index until a run ends by itself with 0, killing each run after `kill_every_s`."""
    urls = [word for server in servers for word in ("--api-url", server.url)]
    command = [sys.executable, "-m", "kobold_reader", "index", str(scans), "--archive", str(archive)]
    command += ["--tasks", "ocr", "--embedder", "none", "--rotate", "0", *urls]
    before = sum(server.count() for server in servers)
    started, peak = time.monotonic(), 0.0
    codes: list[int] = []
    with log.open("ab") as output:
        while not codes or codes[-1] != 0:
            process = subprocess.Popen(command, stdout=output, stderr=output, env=environment(archive.parent))
            begun = time.monotonic()
            while process.poll() is None:
                peak = max(peak, rss_mb(process.pid))
                if kill_every_s is not None and time.monotonic() - begun > kill_every_s:
                    process.kill()
                time.sleep(0.2)
            codes.append(process.returncode)
            if len(codes) > 1000:
                raise SystemExit(f"it does not come to an end; see {log}")
    return Outcome(
        time.monotonic() - started, sum(server.count() for server in servers) - before, len(codes), peak, codes
    )


def pages_of(scans: Path, archive: Path) -> Counter[tuple[str, int, str]]:
    """Every page of the archive: file, page number, text; read from its ledger, no server asked."""
    command = [
        sys.executable,
        "-m",
        "kobold_reader",
        "read",
        str(scans),
        "--format",
        "jsonl",
        "--tasks",
        "ocr",
        "--rotate",
        "0",
    ]
    command += ["--ledger", str(archive / "ledger.sqlite"), "--api-url", "http://127.0.0.1:9"]
    done = subprocess.run(command, capture_output=True, env=environment(archive.parent), check=True)
    lines = [json.loads(line) for line in done.stdout.decode("utf-8").splitlines()]
    return Counter((line["metadata"]["file_name"], line["metadata"]["page_number"], line["text"]) for line in lines)


def deaths(servers: list[KoboldSimulator], trouble: Trouble, stop: threading.Event, every_s: float) -> None:
    """Kill one server after the other for a few seconds."""
    while not stop.wait(every_s):
        server = trouble.chance.choice(servers)
        server.stop()
        trouble.deaths += 1
        stop.wait(3.0)
        server.start()


def main() -> int:
    """Run the soak; 0 where every page came through."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=2000)
    parser.add_argument("--servers", type=int, default=3)
    parser.add_argument("--service-s", type=float, default=0.3, help="seconds that a server takes for a page")
    parser.add_argument("--kill-every-s", type=float, default=60.0)
    parser.add_argument("--server-dies-every-s", type=float, default=45.0)
    parser.add_argument("--fault-share", type=float, default=0.03, help="share of requests that go wrong")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    trouble = Trouble(args.fault_share, random.Random(args.seed))
    brain = ScriptBrain(lambda request: f"This is page {read_number(request)} of the slates, Tuesday.")
    servers = [
        KoboldSimulator(brain=brain, model=MODEL, prompt_seconds=args.service_s).start() for _ in range(args.servers)
    ]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        place = Path(folder)
        scans, calm, rough = place / "scans", place / "calm" / "archive", place / "rough" / "archive"
        for one in (scans, calm.parent, rough.parent):
            one.mkdir()
        make_files(scans, args.pages)
        log = place / "log.txt"
        quiet = run_index(scans, calm, servers, kill_every_s=None, log=log)
        stop = threading.Event()
        for server in servers:
            server.fault_when = trouble
        killer = threading.Thread(target=deaths, args=(servers, trouble, stop, args.server_dies_every_s))
        killer.start()
        try:
            wild = run_index(scans, rough, servers, kill_every_s=args.kill_every_s, log=log)
        finally:
            stop.set()
            killer.join()
        for server in servers:
            server.stop()
        expected, found = pages_of(scans, calm), pages_of(scans, rough)
        right = all(f"page {int(name[6:9]) * PAGES_PER_FILE + page - 1} of" in text for name, page, text in found)
    kills = sum(code < 0 or code > 128 for code in wild.codes)
    rows: list[tuple[str, object, object]] = [
        ("", "undisturbed", "disturbed"),
        ("pages", len(expected), len(found)),
        ("pages twice", sum(n > 1 for n in expected.values()), sum(n > 1 for n in found.values())),
        ("texts that differ", "", len(set(expected) ^ set(found))),
        ("requests a page", f"{quiet.requests / args.pages:.3f}", f"{wild.requests / args.pages:.3f}"),
        ("runs (killed)", f"{quiet.runs} (0)", f"{wild.runs} ({kills})"),
        ("servers died", 0, trouble.deaths),
        ("faults", 0, sum(trouble.struck.values())),
        ("seconds", f"{quiet.seconds:.0f}", f"{wild.seconds:.0f}"),
        ("peak memory, MB", f"{quiet.peak_rss_mb:.0f}", f"{wild.peak_rss_mb:.0f}"),
    ]
    for what, quietly, wildly in rows:
        print(f"{what:20}{quietly!s:>14}{wildly!s:>14}")
    print("faults:", ", ".join(f"{name} {count}" for name, count in sorted(trouble.struck.items())))
    print("exit codes of the disturbed runs:", " ".join(map(str, wild.codes)))
    is_whole = expected == found and len(found) == args.pages and max(found.values()) == 1 and right
    print("every page once, each with its own text" if is_whole else "NOT WHOLE")
    return 0 if is_whole else 1


if __name__ == "__main__":
    sys.exit(main())
