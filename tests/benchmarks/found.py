"""How well search knows whether it has found: `python -m tests.benchmarks.found --help`.

Half of the questions are answered by a page of the archive. The others are answered by none: gibberish, names, dates
and topics that are not in it, and receipts that were left out. The constants of `ranking.py` were set on the
questions called developed; those called held out, over other pages, were in view when one constant was chosen.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from kobold_reader import Archive
from kobold_reader.archive.archive import CATALOG
from kobold_reader.archive.query import fold
from kobold_reader.archive.rows import PageRow
from kobold_reader.archive.store import Catalog
from kobold_reader.options import EMBEDDERS, Mode
from tests.benchmarks.questions import PICTURES, QUESTIONS, Question
from tests.benchmarks.search_quality import RECEIPT_FIELDS, SAMPLES, as_row

HALVES = ("developed", "held_out")
FOLDS = 3
"""Each receipt is left out of one archive of three."""
TRUTH = SAMPLES.parent / "ground_truth"
FIRST = 5
GIBBERISH = 40


@dataclass(frozen=True)
class Collection:
    """An archive's pages and what is asked of it; a question without pages has no answer there."""

    half: str
    pages: tuple[PageRow, ...]
    questions: tuple[Question, ...]


def own_texts(half: str) -> Collection:
    """Return the texts of `found.toml`."""
    table = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    pages, questions = [], []
    for number, entry in enumerate(table[half]):
        name = f"texts/{number:02}.txt#1"
        pages.append(as_row(name, entry["text"]))
        for kind in ("words", "meaning", "abroad"):
            questions += [Question(f"texts: {kind}", text, (name,)) for text in entry[kind]]
    for kind in ("things", "topics"):
        questions += [Question(f"absent: {kind}", text, ()) for text in table["absent"][half][kind]]
    questions += [Question("absent: gibberish", text, ()) for text in gibberish(half)]
    return Collection(half, tuple(pages), tuple(questions))


def gibberish(half: str) -> Iterator[str]:
    """Yield letters without a meaning: as a cat types them, and as a stranger speaks."""
    chance = random.Random(half)
    for number in range(GIBBERISH):
        words = []
        for _ in range(chance.randint(1, 4)):
            if number % 2:
                words.append("".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(3, 10))))
            else:
                pairs = chance.randint(2, 4)
                words.append("".join(chance.choice("bdfgklmnprstvz") + chance.choice("aeiou") for _ in range(pairs)))
        yield " ".join(words)


def samples(half: str) -> Collection:
    """Return the true texts of the packaged samples, with every second of their questions."""
    asked = QUESTIONS[HALVES.index(half) :: 2]
    pages = []
    for path in sorted(TRUTH.rglob("*.txt")):
        name = path.relative_to(TRUTH).as_posix().removesuffix(".txt")
        for number, text in enumerate(path.read_text(encoding="utf-8").split("\f"), start=1):
            pages.append(as_row(f"{name}#{number}", text.strip(), PICTURES.get(f"{name}#{number}", "")))
    return Collection(half, tuple(pages), tuple(Question(f"samples: {one.kind}", one.text, one.pages) for one in asked))


def receipts(half: str, folder: Path) -> Iterator[Collection]:
    """Yield three times the receipts of one half, each time without another third of them."""
    names = sorted(path.stem for path in folder.glob("*.json"))[HALVES.index(half) :: 2]
    truth = {name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in names}
    texts = {name: _receipt_text(folder / f"{name}.csv") for name in names}
    for fold_number in range(FOLDS):
        kept = [name for at, name in enumerate(names) if at % FOLDS != fold_number]
        questions = []
        for fields in RECEIPT_FIELDS:
            for name in names:
                asked = [truth[name].get(key, "") for key in fields]
                if not all(asked):
                    continue
                kind = " + ".join(fields)
                right = [one for one in kept if [truth[one].get(key, "") for key in fields] == asked]
                if right:
                    questions.append(
                        Question(f"receipts: {kind}", " ".join(asked), tuple(f"{one}.jpg#1" for one in right))
                    )
                elif not any(all(fold(value) in fold(texts[one]) for value in asked) for one in kept):
                    questions.append(Question(f"absent: {kind}", " ".join(asked), ()))
        yield Collection(half, tuple(as_row(f"{name}.jpg#1", texts[name]) for name in kept), tuple(questions))


def _receipt_text(path: Path) -> str:
    """Return the lines of a receipt's ground truth: eight coordinates and the text, separated by commas."""
    with path.open(encoding="utf-8", newline="") as file:
        return "\n".join(line.rstrip("\r\n").split(",", 8)[-1] for line in file if line.strip())


@dataclass(frozen=True)
class Outcome:
    """What a search gave for one question."""

    question: Question
    found: int
    """Hits above the line."""
    right: int
    """Right pages among them."""
    rank: int
    """Of the first right page among all hits; 0: not among them."""
    others: int
    """Hits below the line."""
    score: float
    """Of the best hit."""


def ask(collection: Collection, embedder: str, mode: Mode) -> list[Outcome]:
    """Index the pages, and ask the questions."""
    outcomes = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "archive"
        with (
            Archive.open(folder, create=True, embedder=embedder) as archive,
            closing(Catalog(folder / CATALOG)) as catalog,
        ):
            catalog.begin(collection.pages)
            archive.reembed()
            for question in collection.questions:
                hits = archive.search(question.text, limit=2 * FIRST, mode=mode, related=True)
                pages = [hit.page_id for hit in hits]
                found = [hit.page_id for hit in hits if hit.match != "related"]
                outcomes.append(
                    Outcome(
                        question,
                        len(found),
                        sum(page in question.pages for page in found),
                        next((at for at, page in enumerate(pages, start=1) if page in question.pages), 0),
                        len(pages) - len(found),
                        hits[0].score if hits else 0.0,
                    )
                )
    return outcomes


def _share(values: Iterable[bool]) -> str:
    kept = list(values)
    return f"{sum(kept) / len(kept):.2f}" if kept else "-"


def table(outcomes: dict[str, list[Outcome]]) -> Iterator[str]:
    """Yield the lines of a table in Markdown, one for each kind of question and half."""
    yield "| questions with an answer | n | page found | found or related | page first | of those found, right |"
    yield "|---|---|---|---|---|---|"
    kinds = sorted({(bool(one.question.pages), one.question.kind) for some in outcomes.values() for one in some})
    for half, all_of_half in outcomes.items():
        rows = [(kind, [one for one in all_of_half if one.question.kind == kind]) for has, kind in kinds if has]
        exact = [one for one in all_of_half if one.question.pages and not is_by_meaning(one.question)]
        for kind, some in [*rows, ("all by words, names, numbers", exact)]:
            cells = (
                _share(one.right > 0 for one in some),
                _share(one.rank > 0 for one in some),
                _share(one.rank == 1 for one in some),
                f"{sum(one.right for one in some) / max(1, sum(one.found for one in some)):.2f}",
            )
            yield f"| {half}: {kind} | {len(some)} | {' | '.join(cells)} |"
    yield ""
    yield "| questions without an answer | n | nothing above the line | nothing at all |"
    yield "|---|---|---|---|"
    for half, all_of_half in outcomes.items():
        rows = [(kind, [one for one in all_of_half if one.question.kind == kind]) for has, kind in kinds if not has]
        for kind, some in [*rows, ("all", [one for one in all_of_half if not one.question.pages])]:
            nothing_found, nothing = (not one.found for one in some), (not one.found + one.others for one in some)
            yield f"| {half}: {kind} | {len(some)} | {_share(nothing_found)} | {_share(nothing)} |"
    yield ""
    yield "| score of the best hit | n | with an answer |"
    yield "|---|---|---|"
    for half, all_of_half in outcomes.items():
        for least in (0.9, 0.7, 0.5, 0.3, 0.05, 0.0):
            most = min((one for one in (0.3, 0.5, 0.7, 0.9, 1.1) if one > least), default=1.1) if least else 0.05
            some = [one for one in all_of_half if least <= one.score < most]
            yield f"| {half}: from {least} | {len(some)} | {_share(bool(one.question.pages) for one in some)} |"


def is_by_meaning(question: Question) -> bool:
    """Tell whether only the vectors can find the page."""
    return any(word in question.kind for word in ("meaning", "abroad", "picture"))


def main() -> None:
    """Measure and print tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--corpus", type=Path, help="a folder of NNN.csv with NNN.json (ICDAR 2019 SROIE), asked as well"
    )
    parser.add_argument("--embedder", choices=EMBEDDERS, default="minilm")
    parser.add_argument("--mode", choices=get_args(Mode), default="hybrid")
    parser.add_argument("--misses", action="store_true", help="say which questions are answered wrongly")
    options = parser.parse_args()
    outcomes: dict[str, list[Outcome]] = {}
    for half in HALVES:
        collections = [own_texts(half), samples(half), *(receipts(half, options.corpus) if options.corpus else ())]
        first = collections[:3]
        together = Collection(
            half,
            tuple(page for one in first for page in one.pages),
            tuple(question for one in first for question in one.questions),
        )
        for collection in (together, *collections[3:]):
            outcomes.setdefault(half, []).extend(ask(collection, options.embedder, options.mode))
    for half, some in outcomes.items():
        for one in some if options.misses else ():
            if bool(one.question.pages) != bool(one.right) or (not one.question.pages and one.found):
                sys.stderr.write(f"{half}: {one.question.kind}: {one.question.text!r}: {one}\n")
    sys.stdout.write("\n".join(table(outcomes)) + "\n")


if __name__ == "__main__":
    main()
