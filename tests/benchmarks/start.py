"""How long a command takes to begin: `python -m tests.benchmarks.start`.

`--help` against the smallest typer application there is, which imports pydantic only when its command runs; `import
kobold_reader` against an empty Python; a page child that opens a PDF and renders its page against `import pymupdf`;
commands over an archive of ten PDFs with their own text against typer and `import chromadb`; and `web` until it
listens, with a search before and after it is warm. All in turn. Processor time, since starting waits for nothing; the
least of all rounds.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import psutil
import pymupdf
import requests

from kobold_reader.pages import ImageBudget
from kobold_reader.pages.values import write_frame
from tests.benchmarks.report import process_cpu_s, show, side_by_side, timed, verdict

PLAIN: Final = "typer, one command"
RUN: Final = "typer, one command that runs"
RICH: Final = "typer, one command, help by rich"
HELP: Final = "kobold-reader --help"
EMPTY: Final = "python"
IMPORT: Final = "import kobold_reader"
PYMUPDF: Final = "import pymupdf"
CHILD: Final = "page child, first page"
CHROMA: Final = "import chromadb"
LOADED: Final = "import chromadb, MiniLM loaded"
STATUS: Final = "status"
EXPORT: Final = "export"
MODELS: Final = "models"
FORGET: Final = "forget"
UNCHANGED: Final = "index, nothing changed"
KEYWORD: Final = "search --mode keyword"
SEARCH: Final = "search, the embedder loaded"
WEB: Final = "web, until it listens"
WEB_FIRST: Final = "web, first search, by words"
WEB_WARM: Final = "web, search once warm"
MOST_TIMES: Final = 2.0
MOST_IMPORT_S: Final = 0.1
MOST_CHILD_S: Final = 0.35
MOST_COMMAND_S: Final = 0.3
MOST_UNCHANGED_S: Final = 1.0
MOST_SEARCH_S: Final = 0.5
MOST_WEB_S: Final = 1.0

_PDF: Final = Path(__file__).parents[2] / "kobold_reader/_samples/archive/letters/1954-lindqvist-letter.pdf"

_OURS: Final = ("-m", "kobold_reader")
# Without the grammar that Chroma's import compiles where Jupyter is installed; the command line leaves it out, too.
_LOADED: Final = """
import sys
sys.modules["rfc3987_syntax"] = None
import chromadb
from kobold_reader.embeddings.minilm_model import embed
embed(["schooner"])
"""
_BARE: Final = "import typer\napp = typer.Typer({})\n@app.command()\ndef greet(name: str) -> None: ...\napp()\n"


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Print the table; return seconds by what was run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        plain, rich = Path(name, "plain.py"), Path(name, "rich_help.py")
        plain.write_text(_BARE.format("add_completion=False, rich_markup_mode=None"), encoding="utf-8")
        rich.write_text(_BARE.format(""), encoding="utf-8")
        folder, archive = _texts(Path(name, "texts")), str(Path(name, "archive"))
        at = ("--archive", archive)
        own = {**os.environ, "XDG_DATA_HOME": name, "KOBOLD_READER_WITNESS": "none"}
        subprocess.run([sys.executable, *_OURS, "index", folder, *at], check=True, capture_output=True, env=own)
        runs = {
            EMPTY: ("-c", "pass"),
            IMPORT: ("-c", "import kobold_reader"),
            PLAIN: (str(plain), "--help"),
            RUN: (str(plain), "Anna"),
            RICH: (str(rich), "--help"),
            HELP: (*_OURS, "--help"),
            PYMUPDF: ("-c", "import pymupdf"),
            CHROMA: ("-c", "import chromadb"),
            LOADED: ("-c", _LOADED),
            STATUS: (*_OURS, "status", *at),
            EXPORT: (*_OURS, "export", str(Path(name, "exported")), *at),
            MODELS: (*_OURS, "models"),
            FORGET: (*_OURS, "forget", str(Path(folder, "none.pdf")), *at),
            UNCHANGED: (*_OURS, "index", folder, *at),
            KEYWORD: (*_OURS, "search", "schooner", "--mode", "keyword", *at),
            SEARCH: (*_OURS, "search", "schooner", *at),
        }
        child = ("-m", "kobold_reader.pages.worker")
        # Compiled once, as what pip installs is; a round of its own does that.
        kept = {**own, "PYTHONPYCACHEPREFIX": name}
        kept.pop("PYTHONDONTWRITEBYTECODE", None)
        actions = {what: functools.partial(process_cpu_s, *run, environment=kept) for what, run in runs.items()}
        actions[CHILD] = functools.partial(process_cpu_s, *child, environment=kept, stdin=_requests())
        side_by_side(actions, 1)
        taken = side_by_side(actions, given.rounds)
        served = [_served(archive, kept) for _ in range(min(given.rounds, 5))]
        taken |= {what: [times[what] for times in served] for what in (WEB, WEB_FIRST, WEB_WARM)}
    least = {what: min(times) for what, times in taken.items()}
    show(
        "Starting, processor time of the whole process",
        ("", "ms", "times the bare typer"),
        [(what, f"{s * 1000:.0f}", f"{s / least[PLAIN]:.2f}") for what, s in least.items()],
    )
    verdict(f"--help within {MOST_TIMES:g} times bare typer", is_reached=least[HELP] <= MOST_TIMES * least[PLAIN])
    importing_s = least[IMPORT] - least[EMPTY]
    verdict(
        f"import kobold_reader under {MOST_IMPORT_S:g} s: {importing_s:.3f} s more than an empty Python",
        is_reached=importing_s < MOST_IMPORT_S,
    )
    verdict(
        f"a page child's first page under {MOST_CHILD_S:g} s: {least[CHILD]:.2f} s,"
        f" {least[CHILD] / least[PYMUPDF]:.2f} times the bare import of PyMuPDF",
        is_reached=least[CHILD] < MOST_CHILD_S,
    )
    slowest = max((STATUS, EXPORT, MODELS, FORGET), key=least.__getitem__)
    for what in (RUN, PLAIN):
        beyond_s = least[slowest] - least[what]
        verdict(
            f"commands without vectors within {MOST_COMMAND_S:g} s of {what}: {slowest} takes {beyond_s:.2f} s more",
            is_reached=beyond_s <= MOST_COMMAND_S,
        )
    keyword_s = least[KEYWORD] - least[RUN]
    print(f"search --mode keyword takes {keyword_s:.2f} s more than {RUN}.")
    beyond_s = least[SEARCH] - least[LOADED]
    verdict(
        f"search within {MOST_SEARCH_S:g} s of {LOADED}: {beyond_s:.2f} s more",
        is_reached=beyond_s <= MOST_SEARCH_S,
    )
    verdict(
        f"index of an unchanged folder within {MOST_UNCHANGED_S:g} s: {least[UNCHANGED]:.2f} s",
        is_reached=least[UNCHANGED] <= MOST_UNCHANGED_S,
    )
    verdict(
        f"web listens within {MOST_WEB_S:g} s: {least[WEB]:.2f} s, a search takes {least[WEB_WARM]:.2f} s once warm",
        is_reached=least[WEB] <= MOST_WEB_S and least[WEB_WARM] < MOST_WEB_S,
    )
    return least


def _served(archive: str, environment: Mapping[str, str]) -> dict[str, float]:
    """Start `web`: processor seconds until it prints its address, and seconds on the clock of two searches."""
    command = [sys.executable, *_OURS, "web", "--archive", archive, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().decode().strip()
            used = psutil.Process(process.pid).cpu_times()
            base = address.partition("/?")[0]
            with requests.Session() as browser:
                browser.get(address, timeout=60)
                first_s = timed(lambda: browser.get(f"{base}/?q=schooner", timeout=60))
                while not browser.get(f"{base}/ready", timeout=60).json()["ready"]:
                    pass  # it waits for a while itself
                warm_s = timed(lambda: browser.get(f"{base}/?q=slates", timeout=60))
        finally:
            process.terminate()
    return {WEB: used.user + used.system, WEB_FIRST: first_s, WEB_WARM: warm_s}


def _texts(folder: Path) -> str:
    """Make ten PDFs of one page each that has its own text, and return their folder."""
    folder.mkdir()
    for number in range(10):
        with pymupdf.open() as document:
            document.new_page().insert_text((72, 72), f"Page {number}: the schooner arrived on Monday with slates.")
            document.save(folder / f"{number}.pdf")
    return str(folder)


def _requests() -> bytes:
    """What a page child is asked until it has rendered its first page."""
    asked = io.BytesIO()
    every = {"source": _PDF.name, "timeout_s": 60}
    write_frame(asked, {**every, "do": "open", "path": str(_PDF), "kind": "pdf", "passwords": [], "sha256": None})
    budget = dataclasses.asdict(ImageBudget())
    write_frame(asked, {**every, "do": "page_images", "page_number": 1, "budget": budget, "rotate_deg": 0})
    return asked.getvalue()


if __name__ == "__main__":
    main()
