"""What is gained by cutting pages into tiles, measured: `python -m tests.benchmarks.legibility --help`.

Every page goes the whole way: from the file, through the child that opens it, over HTTP to the simulated server, which
shrinks it as KoboldCpp and its encoder do. Its model is RapidOCR on the very pixels that are left. Nothing is kept from
one run to the next.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from typing_extensions import override

from kobold_reader.kobold import ServerPool
from kobold_reader.options import ReadOptions
from kobold_reader.pages import PageChild, PageImages, select
from kobold_reader.reading.koboldcpp import KoboldEngine
from kobold_reader.reading.page_reader import Engine, PageJob
from kobold_reader.reading.rapidocr import RapidOcrEngine
from kobold_reader.reading.results import Reading
from tests.kobold_simulator import EyesBrain, KoboldSimulator
from tests.measure import character_error_rate, letters, tokens

SAMPLES = Path(__file__).parents[2] / "kobold_reader" / "_samples"


@dataclass(frozen=True)
class Encoder:
    """A server whose model sees so many pixels at most."""

    model: str
    projector: str
    visionmaxres: int = 1024


ENCODERS = {
    336: Encoder("llava-v1.5-7b", "mlp"),
    448: Encoder("Qwen2.5-VL-7B", "qwen2vl", visionmaxres=448),
    896: Encoder("gemma-3-12b-it", "gemma3"),
    1024: Encoder("Qwen2.5-VL-7B", "qwen2vl"),
}


@dataclass(frozen=True)
class Page:
    """A page, and what stands on it."""

    path: Path
    number: int
    truth: str


@dataclass
class Score:
    """Counts over many pages: a long page weighs more than a short one."""

    wanted: int = 0
    found: int = 0
    common: int = 0
    letters: int = 0
    errors: float = 0.0
    pages: int = 0
    images: int = 0

    def add(self, truth: str, text: str, images: int) -> None:
        """Count one page; a failed one is an empty text."""
        wanted, found = tokens(truth), tokens(text)
        self.wanted += wanted.total()
        self.found += found.total()
        self.common += (wanted & found).total()
        self.letters += len(letters(truth))
        self.errors += character_error_rate(truth, text) * max(1, len(letters(truth)))
        self.pages += 1
        self.images += images

    @override
    def __str__(self) -> str:
        recall, precision = self.common / max(1, self.wanted), self.common / max(1, self.found)
        return f"{recall:.3f} | {precision:.3f} | {self.errors / max(1, self.letters):.3f}"


def sample_pages() -> Iterator[Page]:
    """The packaged samples that carry writing."""
    truths = SAMPLES / "ground_truth"
    for path in sorted(truths.rglob("*.txt")):
        source = SAMPLES / "archive" / path.relative_to(truths).with_suffix("")
        for number, truth in enumerate(path.read_text(encoding="utf-8").split("\f"), start=1):
            if truth.strip():
                yield Page(source, number, truth)


def corpus_pages(folder: Path) -> Iterator[Page]:
    """Pictures beside a .csv of the same name, as ICDAR 2019 SROIE has them: eight coordinates and the line's text."""
    for table in sorted(folder.glob("*.csv")):
        picture = table.with_suffix(".jpg")
        if picture.exists():
            rows = table.read_text(encoding="utf-8", errors="replace").splitlines()
            yield Page(picture, 1, "\n".join(row.split(",", 8)[8] for row in rows if row.count(",") >= 8))


def spread(pages: list[Page], limit: int | None) -> list[Page]:
    """So many of them, evenly."""
    if limit is None or limit >= len(pages):
        return pages
    return [pages[int((number + 0.5) * len(pages) / limit)] for number in range(limit)]


def measure_full(pages: list[Page]) -> Score:
    """Read pages whole at up to 2,000 px, as no small encoder sees them: what these eyes can read at all."""
    engine, score = RapidOcrEngine(), Score()
    budget = engine.prepare().budget
    with PageChild() as child:
        for page in pages:
            source = select([page.path]).files[0]
            child.open(source.path, source=source.uri, kind=source.kind)
            images = child.page_images(page.number, budget, rotate_deg=None)
            score.add(page.truth, _read(engine, page, images), 1)
    return score


def measure(pages: list[Page], px: int, *, names: bool) -> tuple[Score, Score]:
    """Read pages whole and in tiles through a server whose encoder takes `px`."""
    encoder = ENCODERS[px]
    scores = (Score(), Score())
    with (
        KoboldSimulator(
            model=encoder.model,
            projector=encoder.projector,
            visionmaxres=encoder.visionmaxres,
            brain=EyesBrain(),
        ) as server,
        PageChild() as child,
        tempfile.TemporaryDirectory() as locks,
    ):
        pool = ServerPool([server.url], lock_dir=Path(locks))
        engine = KoboldEngine(pool, ReadOptions(visionmaxres=encoder.visionmaxres))
        budget = engine.prepare().budget
        for page in pages:
            source = select([page.path]).files[0]
            child.open(source.path, source=source.uri, kind=source.kind)
            images = child.page_images(page.number, budget, rotate_deg=None)
            texts = []
            for score, shown in zip(scores, (replace(images, tiles=()), images), strict=True):
                texts.append(_read(engine, page, shown))
                score.add(page.truth, texts[-1], max(1, len(shown.tiles)))
            if names:
                one, other = Score(), Score()
                one.add(page.truth, texts[0], 1)
                other.add(page.truth, texts[1], max(1, len(images.tiles)))
                _say(f"  {px} {page.path.name} {page.number}: {one} → {other} ({len(images.tiles)} tiles)")
        engine.close()
    return scores


def _read(engine: Engine, page: Page, images: PageImages) -> str:
    outcome = engine.read(PageJob(page.path.name, page.number, ("ocr",), images))["ocr"]
    if isinstance(outcome, Reading):
        return outcome.text
    _say(f"  {outcome}")
    return ""


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, help="a folder of NNN.jpg with NNN.csv (ICDAR 2019 SROIE), read as well")
    parser.add_argument("--only", nargs="*", help="only pages whose file name has one of these in it")
    parser.add_argument("--limit", type=int, help="so many pages of each collection, evenly spread")
    parser.add_argument("--px", type=int, nargs="*", default=sorted(ENCODERS), choices=sorted(ENCODERS))
    parser.add_argument("--full", action="store_true", help="read them at full resolution as well")
    parser.add_argument("--pages", action="store_true", help="say how each page did")
    options = parser.parse_args()
    collections = {"samples": list(sample_pages())}
    if options.corpus:
        collections[options.corpus.name] = list(corpus_pages(options.corpus))
    sys.stdout.write(
        "| pages | px | whole: recall | precision | CER | tiles: recall | precision | CER | images a page |\n"
    )
    sys.stdout.write("|---|---|---|---|---|---|---|---|---|\n")
    for name, every in collections.items():
        wanted = [page for page in every if any(part in page.path.name for part in options.only or ("",))]
        pages = spread(wanted, options.limit)
        if options.full and pages:
            full = measure_full(pages)
            sys.stdout.write(f"| {name}, {full.pages} | up to 2000 | {full} | | | | 1.0 |\n")
        for px in options.px if pages else ():
            started_s = time.monotonic()
            whole, tiled = measure(pages, px, names=options.pages)
            _say(f"{name} {px}: {time.monotonic() - started_s:.0f} s")
            row = f"| {name}, {whole.pages} | {px} | {whole} | {tiled} | {tiled.images / tiled.pages:.1f} |\n"
            sys.stdout.write(row)
            sys.stdout.flush()


if __name__ == "__main__":
    main()
