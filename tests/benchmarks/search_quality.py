"""How often the right page comes first: `python -m tests.benchmarks.search_quality --help`.

Every page is read by RapidOCR (or by its own text layer) and indexed as an archive does it; the vectors, the words, the
trigrams and the hybrid search answer the same questions. Readings are kept in the ledger, so a second run reads
nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from typing_extensions import override

from kobold_reader import Archive, KoboldReader
from kobold_reader.archive import words
from kobold_reader.archive.archive import CATALOG
from kobold_reader.archive.query import parse_query
from kobold_reader.archive.rows import PageRow, version_of
from kobold_reader.archive.store import Catalog
from tests.benchmarks.questions import PICTURES, QUESTIONS, Question

SAMPLES = Path(__file__).parents[2] / "kobold_reader" / "_samples" / "archive"
DEEP = 20
"""Hits looked at: a right page behind them counts as not found."""
NEAR = 5
RECEIPT_FIELDS = (("company", "date"), ("company", "total"), ("date", "total"))
WAYS = ("dense", "words", "trigrams", "hybrid")


@dataclass
class Score:
    """How one way of searching did on one kind of question."""

    ranks: list[int] = field(default_factory=list)
    """Of the first right page, from 1; 0: not among the hits."""

    @override
    def __str__(self) -> str:
        count = max(1, len(self.ranks))
        first = sum(rank == 1 for rank in self.ranks) / count
        near = sum(1 <= rank <= NEAR for rank in self.ranks) / count
        reciprocal = sum(1 / rank for rank in self.ranks if rank) / count
        return f"{first:.2f} / {near:.2f} / {reciprocal:.2f}"


def read_pages(folder: Path, ledger: Path, captions: Mapping[str, str] | None = None) -> list[PageRow]:
    """Read a folder; a page's id is its path below the folder and its number."""
    reader = KoboldReader(engine="rapidocr", ledger=str(ledger), on_error="skip", include_empty=True)
    rows: dict[str, PageRow] = {}
    paths = sorted(path for path in folder.rglob("*") if path.suffix in {".jpg", ".pdf", ".tif"})
    for document in reader.lazy_load_data(paths):
        name = Path(document.metadata["file_path"]).relative_to(folder.resolve()).as_posix()
        page_id = f"{name}#{document.metadata['page_number']}"
        caption = (captions or {}).get(page_id, "")
        rows[page_id] = as_row(page_id, document.text, caption)
    return list(rows.values())


def as_row(page_id: str, text: str, caption: str = "") -> PageRow:
    """Return a page as an archive knows it."""
    parts = {part: written for part, written in (("ocr", text), ("caption", caption)) if written}
    name, _, number = page_id.partition("#")
    metadata = {
        "page_id": page_id,
        "file_path": name,
        "file_name": name.rpartition("/")[2],
        "page_number": int(number or 1),
    }
    status = "ok" if parts else "no_text"
    return PageRow(page_id, page_id, int(number or 1), status, parts, version_of(parts), metadata, name)


def receipt_questions(folder: Path) -> list[Question]:
    """Two fields of each receipt's ground truth; a receipt whose two fields are the same is right as well."""
    truth = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    questions = []
    for fields in RECEIPT_FIELDS:
        for values in truth.values():
            asked = [values.get(key, "") for key in fields]
            if all(asked):
                right = [name for name, other in truth.items() if [other.get(key, "") for key in fields] == asked]
                questions.append(
                    Question(" + ".join(fields), " ".join(asked), tuple(f"{name}.jpg#1" for name in right))
                )
    return questions


def measure(
    rows: Sequence[PageRow], questions: Iterable[Question], *, names_misses: bool = False
) -> dict[str, dict[str, Score]]:
    """Index the pages, and ask: kind of question → way of searching → score."""
    scores: dict[str, dict[str, Score]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "archive"
        with (
            Archive.open(folder, create=True, embedder="minilm") as archive,
            closing(Catalog(folder / CATALOG)) as catalog,
        ):
            catalog.begin(rows)
            archive.reembed()
            ways = _ways(archive, catalog)
            for question in questions:
                for way, search in ways.items():
                    found = search(question.text)
                    rank = next((at for at, page in enumerate(found, start=1) if page in question.pages), 0)
                    scores.setdefault(question.kind, {}).setdefault(way, Score()).ranks.append(rank)
                    if names_misses and way == "hybrid" and rank != 1:
                        _say(f"  {question.kind}: {question.text!r}: {rank or 'not found'}; first {found[:1]}")
    return scores


def _ways(archive: Archive, catalog: Catalog) -> dict[str, Callable[[str], list[str]]]:
    def by_words(query: str) -> list[str]:
        with catalog.reading() as db:
            return [page for page, _ in words.look_up(db, parse_query(query), DEEP).words]

    def by_trigrams(query: str) -> list[str]:
        with catalog.reading() as db:
            return [page for page, _ in words.look_up(db, parse_query(query), DEEP).trigrams]

    return {
        "dense": lambda query: [hit.page_id for hit in archive.search(query, limit=DEEP, mode="dense")],
        "words": by_words,
        "trigrams": by_trigrams,
        "hybrid": lambda query: [hit.page_id for hit in archive.search(query, limit=DEEP)],
    }


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--corpus", type=Path, help="a folder of NNN.jpg with NNN.json (ICDAR 2019 SROIE), asked as well"
    )
    parser.add_argument("--ledger", type=Path, required=True, help="a file that keeps the readings from run to run")
    parser.add_argument("--misses", action="store_true", help="say which questions hybrid does not answer first")
    options = parser.parse_args()
    collections = {"samples": (read_pages(SAMPLES, options.ledger, PICTURES), list(QUESTIONS))}
    if options.corpus:
        pages = read_pages(options.corpus, options.ledger)
        collections[options.corpus.name] = (pages, receipt_questions(options.corpus))
    sys.stdout.write("Right page first / among the first five / mean reciprocal rank.\n\n")
    sys.stdout.write(f"| questions | {' | '.join(WAYS)} |\n|---|{'---|' * len(WAYS)}\n")
    for name, (rows, questions) in collections.items():
        for kind, scores in measure(rows, questions, names_misses=options.misses).items():
            cells = " | ".join(str(scores[way]) for way in WAYS)
            sys.stdout.write(f"| {name}: {kind}, {len(scores['hybrid'].ranks)} | {cells} |\n")


if __name__ == "__main__":
    main()
