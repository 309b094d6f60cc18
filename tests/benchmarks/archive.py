"""How fast a large archive is: `python -m tests.benchmarks.archive --pages 100000`.

Synthetic pages: words by Zipf's law, names, dates, amounts, inventory numbers; vectors are random, since what is
timed is the archive and not the model. The ledger knows what stands on them, so no file is opened; the rest is what
`Archive.sync` does with any folder. Needles are planted: a search that does not find them is reported.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import itertools
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from starlette.testclient import TestClient

from kobold_reader import Archive, KoboldReader
from kobold_reader.archive.embedders import Embedder, ServerAccess, record_of
from kobold_reader.archive.folder import CATALOG
from kobold_reader.archive.store import Catalog
from kobold_reader.archive.vector_index import VectorIndex
from kobold_reader.documents import page_id
from kobold_reader.pages import FileFacts, PageFacts, Scalar, select
from kobold_reader.reading.ledger import KnownPage, Ledger
from kobold_reader.web import Access, make_app

DIMENSION = 384
VOCABULARY = 40_000
WORDS_A_PAGE = 120
PAGES_A_FILE = 100
REPEATS = 3
SYLLABLES = [
    first + second for first in "bdfghklmnprstvw" for second in ("a", "e", "i", "o", "u", "an", "er", "in", "or")
]


class RandomVectors:
    """Embeds any text as a random vector of length 1, the same text always as the same."""

    def get_text_embedding_batch(self, texts: Sequence[str]) -> list[list[float]]:
        """Embed passages."""
        return [self.get_query_embedding(text) for text in texts]

    def get_query_embedding(self, query: str) -> list[float]:
        """Embed a question."""
        seed = int.from_bytes(hashlib.sha256(query.encode()).digest()[:8], "big")
        values = np.random.default_rng(seed).standard_normal(DIMENSION)
        vector: list[float] = (values / np.linalg.norm(values)).tolist()
        return vector


class Pages:
    """Synthetic pages; page n is the same whatever the number of pages."""

    def __init__(self) -> None:
        drawn = random.Random("vocabulary")
        self.words = ["".join(drawn.choices(SYLLABLES, k=drawn.choice((1, 2, 2, 3, 3, 4)))) for _ in range(VOCABULARY)]
        self._weights = list(itertools.accumulate(1 / (rank + 5) for rank in range(VOCABULARY)))

    def text(self, number: int) -> str:
        """Return what stands on a page."""
        drawn = random.Random(f"page {number}")
        text = drawn.choices(self.words, cum_weights=self._weights, k=WORDS_A_PAGE)
        text += [drawn.choice(self.words).title(), f"{drawn.randint(1, 28)}.{drawn.randint(1, 12)}.{self.year(number)}"]
        text += [f"{drawn.randint(1, 2000)}.{drawn.randint(0, 99):02}", f"inv. {self.year(number)}/{number}-b"]
        if number % 1000 == 7:
            text.insert(60, needle(number))
        return " ".join(text)

    @staticmethod
    def year(number: int) -> int:
        """Return the year of a page: each is that of a few hundred pages in a hundred thousand."""
        return 1800 + number // PAGES_A_FILE % 200


def needle(number: int) -> str:
    """Return a name that stands on this page alone."""
    drawn = random.Random(f"needle {number}")
    return "Q" + "".join(drawn.choices("uxyzjquvw", k=3)) + "".join(drawn.choices("abcdeklmnorst", k=7))


def open_archive(folder: Path) -> Archive:
    """Open the archive, made if there is none, with random vectors."""
    folder.mkdir(parents=True, exist_ok=True)
    catalog, access = Catalog(folder / CATALOG), ServerAccess()
    model = RandomVectors()
    embedder = Embedder("random", "random", DIMENSION, 256, model.get_text_embedding_batch, lambda: model, str.split)
    catalog.set_meta("embedder", record_of(embedder))
    return Archive(folder, catalog, access, VectorIndex(folder, catalog, access, embedder))


def make_files(scans: Path, ledger: Ledger, pages: Pages, numbers: range) -> None:
    """Put files where they are found, and what stands on their pages into the ledger, as if they had been looked at."""
    for start in range(numbers.start, numbers.stop, PAGES_A_FILE):
        of_file = range(start, min(numbers.stop, start + PAGES_A_FILE))
        path = scans / f"year {pages.year(start)}" / f"file {start // PAGES_A_FILE}.pdf"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(start))
        sha256 = hashlib.sha256(content(start)).hexdigest()
        source = select([path]).files[0]
        metadata: dict[str, Scalar] = {"date_digitized": f"{pages.year(start)}-05-01T12:00:00"}
        ledger.remember_file(source, FileFacts(sha256, "pdf", len(of_file), is_repaired=False, metadata=metadata))
        facts = [
            PageFacts(
                at,
                str(at),
                hashlib.sha256(f"page {number}".encode()).hexdigest(),
                595,
                842,
                0,
                0,
                pages.text(number),
                "good",
                0.0,
                0,
            )
            for at, number in enumerate(of_file, start=1)
        ]
        ledger.remember_pages(sha256, [KnownPage(one, False) for one in facts])


def content(start: int) -> bytes:
    """Return the bytes of the file that begins with this page; nobody opens it, since the ledger knows it."""
    return b"%PDF-1.7\n% " + str(start).encode()


def id_of(number: int) -> str:
    """Return the id of a page."""
    start = number - number % PAGES_A_FILE
    return page_id(hashlib.sha256(content(start)).hexdigest(), number - start + 1)


def questions(pages: Pages, count: int) -> Iterator[tuple[str, str, dict[str, Any], int | None]]:
    """Yield kind, query, filter, and the page that has to come first."""
    words = pages.words
    for number in range(7, min(count, 20_000), 2000):
        name = needle(number)
        drawn = random.Random(number)
        rare, middle, common = (words[drawn.randrange(*span)] for span in ((8000, 30_000), (300, 3000), (0, 60)))
        yield "a name", name, {}, number
        yield "a misread name", f"{name[:6]}{'q' if name[6] != 'q' else 'p'}{name[7:]}", {}, number
        yield "an inventory number", f"{pages.year(number)}/{number}-b", {}, number
        yield "a name and common words", f"{common} {name} {middle}", {}, number
        yield "rare words", f"{rare} {middle}", {}, None
        yield "common words", f"{words[drawn.randrange(20)]} {common} {words[drawn.randrange(20)]}", {}, None
        yield "a date", f"{drawn.randint(1, 28)} March {pages.year(number)}", {}, None
        yield "a question", f"where was the {middle} {rare} of {common} that they had with them?", {}, None
        yield (
            "a year of pages",
            f"{common} {middle}",
            {"since": str(pages.year(number)), "until": str(pages.year(number))},
            None,
        )
        yield "half of all pages", f"{rare} {middle}", {"until": "1899"}, None


def timed(action: Callable[[], object]) -> float:
    """Return how many seconds something takes."""
    started_s = time.perf_counter()
    action()
    return time.perf_counter() - started_s


def views(archive: Archive, pages: Pages, count: int) -> Iterator[tuple[str, str]]:
    """Yield how long the search page takes for its views, beside the first of them, which looks at every page once."""
    access = Access(port=8642)
    app, close = make_app(archive, access)
    year, here = pages.year(count // 2), "http://127.0.0.1:8642"
    asked = {
        "all files": "/",
        "a folder": f"/?folder=year+{year}",
        "a year": f"/?since={year}&until={year}",
        "a hundred years": "/?until=1899",
        "a folder and a year": f"/?folder=year+{year}&since={year}&until={year}",
        "photos": "/photos",
        "places": "/places",
        "worth a look": "/look",
        "failed": "/failed",
        "about": "/about",
        "a page": f"/page/{id_of(count // 2)}",
    }
    try:
        with TestClient(app, here) as client:
            client.cookies.set(access.cookie, access.session, domain="127.0.0.1")
            first_s = timed(lambda: client.get("/").raise_for_status())
            yield "search page: first view", f"{first_s:.2f} s"
            for name, path in asked.items():
                show = functools.partial(lambda path: client.get(path).raise_for_status(), path)
                taken_s = statistics.median(timed(show) for _ in range(REPEATS))
                kilobytes = len(client.get(path).content) / 1000
                yield f"search page: {name}", f"{1000 * taken_s:.0f} ms, {taken_s / first_s:.3f}, {kilobytes:.0f} kB"
    finally:
        close()


def measure(folder: Path, scans: Path, pages: Pages, count: int) -> Iterator[tuple[str, str]]:
    """Yield what was measured, a line of the table each."""
    opened: list[Archive] = []
    yield "open", f"{timed(lambda: opened.append(open_archive(folder))):.2f} s"
    archive = opened[0]
    yield "first search", f"{timed(lambda: archive.search(pages.words[500])):.2f} s"
    taken_ms: dict[str, list[float]] = {}
    lost: dict[str, int] = {}
    for kind, query, narrowed, right in questions(pages, count):
        hits = archive.search(query, **narrowed)
        if right is not None and (not hits or hits[0].page_id != id_of(right)):
            lost[kind] = lost.get(kind, 0) + 1
        ask = functools.partial(archive.search, query, **narrowed)
        taken_ms.setdefault(kind, []).extend(1000 * timed(ask) for _ in range(REPEATS))
    for kind, taken in taken_ms.items():
        missed = f", {lost[kind]} needles not first" if kind in lost else ""
        yield f"search: {kind}", f"median {statistics.median(taken):.0f} ms, slowest {max(taken):.0f} ms{missed}"
    plain = [one for kind, taken in taken_ms.items() if "pages" not in kind for one in taken]
    yield "hybrid search, all kinds without a filter", f"median {statistics.median(plain):.0f} ms"
    yield from views(archive, pages, count)
    yield "sync, nothing changed", f"{timed(archive.sync):.1f} s"
    with Ledger(folder / "ledger.sqlite") as ledger:
        make_files(scans, ledger, pages, range(count, count + PAGES_A_FILE))
    yield "sync, one more file of 100 pages", f"{timed(archive.sync):.1f} s"
    yield "search after that", f"{timed(lambda: archive.search(pages.words[500])):.2f} s"
    archive.close()
    yield "memory at most", f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB"
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    yield "on disk", f"{size / 1e6:.0f} MB"


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pages", type=int, default=20_000, help="of the archive (20,000)")
    parser.add_argument("--folder", type=Path, help="keep it here, and take it from here if it is there")
    options = parser.parse_args()
    pages = Pages()
    with tempfile.TemporaryDirectory() as temporary:
        place = options.folder or Path(temporary)
        folder, scans = place / "archive", place / "scans"
        sys.stdout.write(f"| {options.pages} pages | |\n|---|---|\n")
        if not (folder / CATALOG).exists():
            with open_archive(folder) as archive:
                with Ledger(folder / "ledger.sqlite") as ledger:
                    make_files(scans, ledger, pages, range(options.pages))
                reader = KoboldReader(text_layer="only", tasks=["ocr"], ledger="none")
                taken_s = timed(lambda: archive.sync(scans, reader=reader))
            sys.stdout.write(f"| indexed, {options.pages / taken_s:.0f} pages a second | {taken_s:.0f} s |\n")
        for name, value in measure(folder, scans, pages, options.pages):
            sys.stdout.write(f"| {name} | {value} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
