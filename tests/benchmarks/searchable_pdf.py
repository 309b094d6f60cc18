"""Time and memory of searchable PDFs: `python -m tests.benchmarks.searchable_pdf [--pages 50 1000]` (Linux).

Pictures, and the pages of a PDF, get fifty lines of text each, in a process of its own. Its peak is compared for few
pages and many, less what it used before the first page.

`--words` tells instead where words stand in the copy of a drawn page that RapidOCR read: print and typewriting.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pymupdf

from kobold_reader import KoboldReader
from kobold_reader.pages.text_copy import TextCopy
from kobold_reader.pages.values import PlacedText
from kobold_reader.reading.results import SHARES
from tests.benchmarks.memory import in_use_mb
from tests.benchmarks.report import show, verdict
from tests.benchmarks.scans import grained, jpeg, letter

LINES: Final = 50
FONTS: Final = {"helv": "Helvetica", "tiro": "Times", "cour": "Courier"}
WORDS: Final = re.findall(
    r"\w+",
    "the harbour master wrote that all dues for mooring of schooners and sloops will be raised by Whitsun as Committee "
    "resolved unanimously with Mr Illingworth abstaining because winter storms had filled minimum wages",
)
FLAT_MB: Final = 50
"""More for twenty times the pages would grow with the pages."""


def write(path: Path, pages: int, picture: bytes) -> dict[str, Any]:
    """Give pages their text in this process: those of the PDF at the path, or new ones that show the picture."""
    is_pdf = path.exists()
    copy = TextCopy(path)
    before_mb, started_s = in_use_mb("self", "VmRSS"), time.process_time()
    for number in range(1, pages + 1):
        if not is_pdf:
            copy.add_picture(picture[:-2] + number.to_bytes(2, "big") + picture[-2:], (595, 842), 1)
        tops = [at / (LINES + 1) for at in range(LINES)]
        copy.add(
            number,
            [
                PlacedText(f"Entry {number} names a boat and its dues.", (0.1, top, 0.9, top, 0.9, low, 0.1, low))
                for top, low in ((top, top + 0.8 / LINES) for top in tops)
            ],
        )
    copy.save()
    took_s = time.process_time() - started_s
    return {"page_ms": 1000 * took_s / pages, "grown_mb": in_use_mb("self", "VmHWM") - before_mb}


def measured(kind: str, pages: int) -> dict[str, Any]:
    """Write a document in a new process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "copy.pdf"
        picture = jpeg(grained(letter(1, size_px=(1240, 1754)), seed=1))
        (Path(folder) / "page.jpg").write_bytes(picture)
        if kind == "pdf":
            with pymupdf.open() as document:
                for number in range(pages):
                    page = document.new_page(width=595, height=842)
                    page.insert_image(page.rect, stream=picture[:-2] + number.to_bytes(2, "big") + picture[-2:])
                document.save(path)
        command = [sys.executable, "-m", "tests.benchmarks.searchable_pdf", "--worker", folder, str(pages)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout)
        return found


def words(font: str) -> list[float]:
    """Return for each word of a drawn page how much of its width the copy's word shares with it (IoU)."""
    chance = random.Random(font)
    with pymupdf.open() as drawn, tempfile.TemporaryDirectory() as folder:
        page = drawn.new_page(width=420, height=595)
        for top in range(60, 540, 15):
            line = " ".join(chance.choices(WORDS, k=9 if font == "cour" else 12))
            page.insert_text((40, top), line, fontname=font, fontsize=10 if font != "cour" else 8)
        picture = Path(folder) / "page.png"
        page.get_pixmap(dpi=150).save(picture)
        (result,) = KoboldReader(engine="rapidocr", ledger="none").read_pages(picture)
        reading = result.readings["ocr"]
        copy = TextCopy(Path(folder) / "copy.pdf")
        copy.add_picture(picture.read_bytes(), (420, 595), 1)
        for box in reading.boxes:
            corners, ends = (tuple(one / SHARES for one in part) for part in (box.corners, box.words))
            copy.add(1, [PlacedText(reading.text[box.start : box.end], corners, ends)])
        copy.save()
        with pymupdf.open(Path(folder) / "copy.pdf") as written:
            return [_shared(word, written[0].get_text("words")) for word in page.get_text("words")]


def _shared(true: Sequence[Any], found: Sequence[Sequence[Any]]) -> float:
    left, top, right, bottom, text = true[:5]
    shares = [0.0]
    for x0, y0, x1, y1, word, *_ in found:
        if word == text and top < (y0 + y1) / 2 < bottom:
            shares.append((min(right, x1) - max(left, x0)) / (max(right, x1) - min(left, x0)))
    return max(shares)


def show_words() -> dict[str, float]:
    """Print how well the words stand, by typeface; returns the medians."""
    shares = {name: sorted(words(font)) for font, name in FONTS.items()}
    rows = [[name, len(of), f"{of[len(of) // 20]:.2f}", f"{statistics.median(of):.2f}"] for name, of in shares.items()]
    show("Words of a copy, width shared with the drawn word", ["", "words", "of 1 in 20 less than", "median"], rows)
    return {name: statistics.median(of) for name, of in shares.items()}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Print a table; returns it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pages", type=int, nargs=2, default=[50, 1000])
    parser.add_argument("--words", action="store_true", help="where words stand in the copy of a page")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.worker:
        folder, pages = Path(given.worker[0]), int(given.worker[1])
        print(json.dumps(write(folder / "copy.pdf", pages, (folder / "page.jpg").read_bytes())))
        return {}
    if given.words:
        return show_words()
    rows = {f"{kind}, {pages} pages": measured(kind, pages) for kind in ("pictures", "pdf") for pages in given.pages}
    figures = [[name, f"{row['page_ms']:.1f}", f"{row['grown_mb']:.0f}"] for name, row in rows.items()]
    show("Searchable PDFs", ["", "ms a page (processor)", "MB above the start"], figures)
    few, many = given.pages
    for kind in ("pictures", "pdf"):
        growth = rows[f"{kind}, {many} pages"]["grown_mb"] - rows[f"{kind}, {few} pages"]["grown_mb"]
        verdict(f"{kind}: {growth:.0f} MB more for {many} pages than for {few}", is_reached=growth < FLAT_MB)
    return rows


if __name__ == "__main__":
    main()
