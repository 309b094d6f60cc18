"""How fast a large archive is: `python -m tests.benchmarks.archive --pages 100000`.

Synthetic pages: words by Zipf's law, names, dates, amounts, inventory numbers; vectors are random, since what is
timed is the search and not the model. They come in through the archive's own catalog and vectors, a thousand at
a time. Needles are planted: a search that does not find them is reported.
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kobold_reader import Archive
from kobold_reader.archive.archive import CATALOG
from kobold_reader.archive.catalog import Catalog, PageRow
from kobold_reader.archive.embedder import Embedder, ServerAccess
from kobold_reader.archive.indexing import Indexer
from kobold_reader.archive.meaning import Meaning, record_of
from kobold_reader.archive.version import version_of

DIMENSION = 384
AT_ONCE = 1000
VOCABULARY = 40_000
WORDS_A_PAGE = 120
PAGES_A_FILE = 100
REPEATS = 3
SYLLABLES = [
    first + second for first in "bdfghklmnprstvw" for second in ("a", "e", "i", "o", "u", "an", "er", "in", "or")
]


class RandomVectors:
    """Embeds any text as a random vector of length 1, the same text always as the same."""

    def get_text_embedding_batch(self, texts: list[str]) -> list[list[float]]:
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

    def row(self, number: int) -> PageRow:
        """Return a page."""
        drawn = random.Random(f"page {number}")
        text = drawn.choices(self.words, cum_weights=self._weights, k=WORDS_A_PAGE)
        text += [drawn.choice(self.words).title(), f"{drawn.randint(1, 28)}.{drawn.randint(1, 12)}.{self.year(number)}"]
        text += [f"{drawn.randint(1, 2000)}.{drawn.randint(0, 99):02}", f"inv. {self.year(number)}/{number}-b"]
        if number % 1000 == 7:
            text.insert(60, needle(number))
        file = f"/box/year {self.year(number)}/file {number // PAGES_A_FILE}.pdf"
        sha256 = hashlib.sha256(file.encode()).hexdigest()
        in_file = number % PAGES_A_FILE + 1
        page_id = f"{sha256[:32]}-{in_file}"
        parts = {"ocr": " ".join(text)}
        metadata = {
            "file_path": file,
            "file_name": file.rpartition("/")[2],
            "file_type": "application/pdf",
            "page_number": in_file,
            "page_id": page_id,
            "page_part": "page",
            "page_status": "ok",
            "date_digitized": f"{self.year(number)}-05-01T12:00:00",
        }
        return PageRow(page_id, sha256, in_file, "ok", parts, version_of(parts), metadata, f"file://{file}")

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
    embedder = Embedder("random", "random", DIMENSION, 256, model, str.split)
    catalog.set_meta("embedder", record_of(embedder))
    return Archive(folder, catalog, access, Meaning(folder, catalog, access, embedder))


def build(archive: Archive, pages: Pages, count: int) -> None:
    """Index so many pages, a thousand at once."""
    with archive._writing() as indexer:
        for start in range(0, count, AT_ONCE):
            put(indexer, archive._catalog, [pages.row(number) for number in range(start, min(count, start + AT_ONCE))])


def put(indexer: Indexer, catalog: Catalog, rows: list[PageRow]) -> None:
    """Index pages as `Indexer.index` does, in larger batches."""
    assert indexer._vectors is not None
    nodes = [node for row in rows for node in indexer._embed(indexer._chunks(row))]
    catalog.begin(rows)
    indexer._vectors.put(nodes)
    catalog.finish(rows)


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


def measure(folder: Path, pages: Pages, count: int) -> Iterator[tuple[str, str]]:
    """Yield what was measured, a line of the table each."""
    opened: list[Archive] = []
    yield "open", f"{timed(lambda: opened.append(open_archive(folder))):.2f} s"
    archive = opened[0]
    yield "first search", f"{timed(lambda: archive.search(pages.words[500])):.2f} s"
    taken_ms: dict[str, list[float]] = {}
    lost: dict[str, int] = {}
    for kind, query, narrowed, right in questions(pages, count):
        hits = archive.search(query, **narrowed)
        if right is not None and (not hits or hits[0].page_id != pages.row(right).page_id):
            lost[kind] = lost.get(kind, 0) + 1
        ask = functools.partial(archive.search, query, **narrowed)
        taken_ms.setdefault(kind, []).extend(1000 * timed(ask) for _ in range(REPEATS))
    for kind, taken in taken_ms.items():
        missed = f", {lost[kind]} needles not first" if kind in lost else ""
        yield f"search: {kind}", f"median {statistics.median(taken):.0f} ms, slowest {max(taken):.0f} ms{missed}"
    plain = [one for kind, taken in taken_ms.items() if "pages" not in kind for one in taken]
    yield "hybrid search, all kinds without a filter", f"median {statistics.median(plain):.0f} ms"
    with archive._writing() as indexer:
        changed = [pages.row(count + number) for number in range(PAGES_A_FILE)]
        yield "index one more file of 100 pages", f"{timed(lambda: indexer.index(changed)):.1f} s"
    yield "search after that", f"{timed(lambda: archive.search(pages.words[500])):.2f} s"
    archive.close()
    yield "memory at most", f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB"
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    yield "on disk", f"{size / 1e6:.0f} MB"


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pages", type=int, default=20_000, help="of the archive (20,000)")
    parser.add_argument("--archive", type=Path, help="keep it here, and take it from here if it is there")
    options = parser.parse_args()
    pages = Pages()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.archive or Path(temporary) / "archive"
        sys.stdout.write(f"| {options.pages} pages | |\n|---|---|\n")
        if not (folder / CATALOG).exists():
            with open_archive(folder) as archive:
                taken_s = timed(lambda: build(archive, pages, options.pages))
            sys.stdout.write(f"| made, {options.pages / taken_s:.0f} pages a second | {taken_s:.0f} s |\n")
        for name, value in measure(folder, pages, options.pages):
            sys.stdout.write(f"| {name} | {value} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
