"""What a page with its own text costs, beside plain PyMuPDF: `python -m tests.benchmarks.born_digital [--peers DIR]`.

No server, no image: kobold-reader reads the files into Documents, with a fresh ledger, which judges each text layer and
keeps what it found. Beside it `page.get_text()` of PyMuPDF, and LlamaIndex's PyMuPDFReader. Processor time of a run
with its page child, less that of a run over one file of one page; one process a cell, in turn, which has imported
everything before. The least of all rounds counts.
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import pymupdf

from kobold_reader import KoboldReader
from tests.benchmarks.peers import PeerFailedError, installed
from tests.benchmarks.report import cpu_s, show, timed, verdict

MOST_TIMES: Final = 3.0
OURS: Final = "kobold-reader"
PLAIN: Final = "PyMuPDF get_text"
PEER: Final = "PyMuPDFReader"
WARM: Final = "warm"
NOBODY: Final = "http://127.0.0.1:9"
_SAID: Final = """the of and to in was that his with for had which at on by from harbour master slates schooner barrels
letter inventory Monday annual meeting committee ledger quay warden office received account balance paid against freight
cargo captain signed council decision north breakwater repair timber wages crew season winter storm"""
WORDS: Final = _SAID.split()


def words(chance: random.Random, count: int) -> str:
    """Some words of English, as sentences."""
    said = [chance.choice(WORDS) for _ in range(count)]
    return " ".join(f"{word}." if number % 12 == 11 else word for number, word in enumerate(said))


def book(path: Path, pages: int) -> None:
    """Running text, forty lines a page, with printed labels and an outline."""
    chance = random.Random(1)
    with pymupdf.open() as document:
        for number in range(pages):
            page = document.new_page(width=420, height=595)
            page.insert_textbox(pymupdf.Rect(50, 50, 370, 540), words(chance, 330), fontname="tiro", fontsize=11)
            page.insert_text((205, 570), str(number + 1), fontname="tiro", fontsize=9)
        document.set_toc([[1, f"Chapter {n // 20 + 1}", n + 1] for n in range(0, pages, 20)])
        document.set_page_labels([{"startpage": 0, "prefix": "", "style": "D", "firstpagenum": 1}])
        document.save(path, deflate=True)


def paper(path: Path, pages: int) -> None:
    """Two columns, a plot of a thousand short strokes, and dots."""
    chance = random.Random(2)
    with pymupdf.open() as document:
        for _ in range(pages):
            page = document.new_page(width=595, height=842)
            for left in (45, 307):
                page.insert_textbox(pymupdf.Rect(left, 330, left + 243, 800), words(chance, 260), fontsize=9)
            shape = page.new_shape()
            for _ in range(4):
                shape.draw_polyline([(60 + x * 1.9, 180 + 100 * chance.gauss(0, 0.4)) for x in range(250)])
                shape.finish(color=(chance.random(), 0, 0.4), width=0.6)
            for _ in range(400):
                shape.draw_circle((60 + chance.random() * 475, 70 + chance.random() * 240), 1.5)
                shape.finish(fill=(0, 0, chance.random()))
            shape.commit()
        document.save(path, deflate=True)


def tables(path: Path, pages: int) -> None:
    """Ruled tables of fifty rows and eight columns."""
    chance = random.Random(3)
    with pymupdf.open() as document:
        for number in range(pages):
            page = document.new_page(width=595, height=842)
            shape = page.new_shape()
            for row in range(51):
                shape.draw_line((40, 40 + row * 15), (555, 40 + row * 15))
            for column in range(9):
                shape.draw_line((40 + column * 64.375, 40), (40 + column * 64.375, 790))
            shape.finish(width=0.5)
            for row in range(50):
                for column in range(8):
                    cell = chance.choice(WORDS) if column < 3 else f"{chance.random() * 5000:,.2f}"
                    shape.insert_text((43 + column * 64.375, 51 + row * 15), cell, fontsize=8)
            shape.commit()
            page.insert_text((40, 815), f"Harbour dues, sheet {number + 1}", fontsize=9)
        document.save(path, deflate=True)


def repeated(path: Path, times: int) -> Path:
    """The pages of a PDF again and again: drawing them takes far longer than reading them."""
    target = path.with_stem(f"{path.stem}-{times}")
    with pymupdf.open() as document, pymupdf.open(path) as once:
        for _ in range(times):
            document.insert_pdf(once)
        document.save(target)
    return target


def letters(folder: Path, files: int) -> None:
    """Many files of one page."""
    folder.mkdir()
    chance = random.Random(4)
    for number in range(files):
        with pymupdf.open() as document:
            page = document.new_page(width=595, height=842)
            page.insert_textbox(pymupdf.Rect(70, 70, 525, 770), f"Letter {number}\n\n{words(chance, 250)}", fontsize=11)
            document.set_metadata({"title": f"Letter {number}", "creationDate": "D:20200102030405Z"})
            document.save(folder / f"letter-{number:03}.pdf", deflate=True)


def make(folder: Path, scale: float) -> dict[str, tuple[Path, int]]:
    """Return files and folders with their pages, made in the folder."""
    made: dict[str, tuple[Path, int]] = {}
    kinds = (("book", 960, 1, book), ("paper", 24, 16, paper), ("tables", 40, 20, tables), (WARM, 1, 1, book))
    for name, pages, times, write in kinds:
        path, count = folder / f"{name}.pdf", max(1, round(pages * scale))
        write(path, count)
        if times > 1:
            path = repeated(path, times)
        made[name] = path, count * times
    count = max(1, round(800 * scale))
    letters(folder / "letters", count)
    return {**made, "letters, a file each": (folder / "letters", count)}


def of_folder(folder: Path) -> dict[str, tuple[Path, int]]:
    """Return the PDFs of a folder with the pages that they have."""
    found = {}
    for path in sorted(folder.rglob("*.pdf")):
        with pymupdf.open(path) as document:
            found[path.name] = path, document.page_count
    return found


def files_of(path: Path) -> list[Path]:
    """Return the file, or the folder's."""
    return sorted(path.glob("*.pdf")) if path.is_dir() else [path]


def read(who: str, warm: Path, path: Path) -> dict[str, Any]:
    """In a process of its own, after another file: read all pages; return processor seconds, seconds, pages, length."""
    texts: list[str] = []

    def ours(path: Path = path) -> None:
        with tempfile.TemporaryDirectory() as name, KoboldReader(api_url=NOBODY, ledger=Path(name, "l")) as reader:
            texts.extend(document.text for document in reader.load_data(path))

    def plain() -> None:
        for file in files_of(path):
            with pymupdf.open(file) as document:
                texts.extend(page.get_text() for page in document)

    if who == OURS:
        ours(warm)
        texts.clear()
    before_s = cpu_s()
    took_s = timed(ours if who == OURS else plain)
    return {"cpu_s": cpu_s() - before_s, "took_s": took_s, "pages": len(texts), "characters": sum(map(len, texts))}


def _apart(who: str, warm: Path, path: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.benchmarks.born_digital", "--read", who, str(warm), str(path)]
    said: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return said


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Print the table; return times plain PyMuPDF by kind of file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a tenth of the pages, 1 round")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="Measure the PDFs of this folder instead.")
    parser.add_argument("--peers", type=Path, metavar="DIR", help="Where other programs are installed; left out: none.")
    parser.add_argument("--read", nargs=3, metavar=("WHO", "WARM", "PATH"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.read:
        print(json.dumps(read(given.read[0], *map(Path, given.read[1:]))))
        return {}
    with tempfile.TemporaryDirectory() as name:
        made = make(Path(name), 0.1 if given.quick else 1)
        if given.folder:
            made = {WARM: made[WARM], **of_folder(given.folder)}
        runs: dict[tuple[str, str], Callable[[], dict[str, Any]]] = {}
        others = list(installed((PEER,), given.peers)) if given.peers else []
        for what, (path, _) in made.items():
            for who in (OURS, PLAIN):
                runs[what, who] = functools.partial(_apart, who, made[WARM][0], path)
            for other in others:
                runs[what, other.peer.name] = functools.partial(other.run, *files_of(path))
        found: dict[tuple[str, str], list[dict[str, Any]]] = {key: [] for key in runs}
        for _ in range(1 if given.quick else given.rounds):
            for key, run in runs.items():
                try:
                    found[key].append(run())
                except (PeerFailedError, subprocess.CalledProcessError) as err:
                    print(f"{key}: failed, {err}", flush=True)
    return report(found, {what: pages for what, (_, pages) in made.items()})


def report(found: dict[tuple[str, str], list[dict[str, Any]]], pages: dict[str, int]) -> dict[str, float]:
    """Print the table and what became of the goal."""
    least = {
        (*key, unit): min(run[unit] for run in runs)
        for key, runs in found.items()
        if runs
        for unit in ("cpu_s", "took_s")
    }
    ms = {
        (what, who, unit): (seconds - least[WARM, who, unit]) * 1000 / pages[what]
        for (what, who, unit), seconds in least.items()
        if what != WARM
    }
    times = {what: ms[what, OURS, "cpu_s"] / ms[what, PLAIN, "cpu_s"] for what, who, _ in ms if who == OURS}
    show(
        "Pages with their own text",
        ("pages", "by", "CPU ms a page", "ms a page", "times plain PyMuPDF"),
        [
            (
                f"{what} ({pages[what]})",
                who,
                f"{each:.2f}",
                f"{ms[what, who, 'took_s']:.2f}",
                f"{each / ms[what, PLAIN, 'cpu_s']:.1f}",
            )
            for (what, who, unit), each in ms.items()
            if unit == "cpu_s"
        ],
    )
    start_s = least[WARM, OURS, "cpu_s"] - least[WARM, PLAIN, "cpu_s"]
    print(f"Besides, once a run: {start_s:.2f} s of processor time for a page child and the first page.")
    for what, each in times.items():
        verdict(f"{what}: within {MOST_TIMES:g} times plain PyMuPDF: {each:.1f}", is_reached=each <= MOST_TIMES)
    return times


if __name__ == "__main__":
    main()
