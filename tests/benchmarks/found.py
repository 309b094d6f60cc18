"""How well search knows whether it has found: `python -m tests.benchmarks.found --help`.

Half of the questions are answered by a page of the archive. The others are answered by none: gibberish, names, dates
and topics that are not in it, receipts that were left out, and each question by meaning without the pages that answer
it. The constants of `ranking.py` were set on the questions called developed. Those called seen, over other pages, were
in view when one constant was chosen; those called held out were not.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from kobold_reader import Archive
from kobold_reader.archive.folder import CATALOG
from kobold_reader.archive.query import fold
from kobold_reader.archive.rows import PageRow
from kobold_reader.archive.search import Hit
from kobold_reader.archive.store import Catalog
from kobold_reader.options import EMBEDDERS, Mode
from tests.benchmarks.questions import PICTURES, QUESTIONS, Question, in_languages
from tests.benchmarks.search_quality import RECEIPT_FIELDS, SAMPLES, as_row

HALVES = ("developed", "seen", "held_out")
SILENT = 0.95
"""Share of the questions without an answer that must give nothing."""
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


def _table() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


def own_texts(half: str) -> Collection:
    """Return the texts of `found.toml`."""
    table = _table()
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
    """Return the true texts of the packaged samples, with every second of their questions, or others held out."""
    asked = list(QUESTIONS[HALVES.index(half) :: 2])
    if half == "held_out":
        asked = [Question(kind, text, tuple(right)) for kind, text, right in _table()["samples"][half]]
    pages = []
    for path in sorted(TRUTH.rglob("*.txt")):
        name = path.relative_to(TRUTH).as_posix().removesuffix(".txt")
        for number, text in enumerate(path.read_text(encoding="utf-8").split("\f"), start=1):
            pages.append(as_row(f"{name}#{number}", text.strip(), PICTURES.get(f"{name}#{number}", "")))
    return Collection(half, tuple(pages), tuple(Question(f"samples: {one.kind}", one.text, one.pages) for one in asked))


def languages(half: str) -> Collection:
    """Return pages in six languages with questions in each of them; all are developed."""
    pages, questions = in_languages() if half == "developed" else ({}, [])
    return Collection(half, tuple(as_row(page_id, text) for page_id, text in pages.items()), tuple(questions))


def receipts(half: str, folder: Path) -> Iterator[Collection]:
    """Yield three times half of the receipts, each time without another third of them; none are held out."""
    names = [] if half == "held_out" else sorted(path.stem for path in folder.glob("*.json"))[HALVES.index(half) :: 2]
    truth = {name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in names}
    texts = {name: _receipt_text(folder / f"{name}.csv") for name in names}
    for fold_number in range(FOLDS if names else 0):
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
    right_score: float
    """Of the first right page; 0 without one."""


def _outcome(question: Question, hits: Sequence[Hit]) -> Outcome:
    found = [hit for hit in hits if hit.match != "related"]
    right = [at for at, hit in enumerate(hits) if hit.page_id in question.pages]
    return Outcome(
        question,
        len(found),
        sum(hit.page_id in question.pages for hit in found),
        right[0] + 1 if right else 0,
        len(hits) - len(found),
        hits[0].score if hits else 0.0,
        hits[right[0]].score if right else 0.0,
    )


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
                hits = archive.search(question.text, limit=3 * FIRST, mode=mode, related=True)
                outcomes.append(_outcome(question, hits))
                if is_by_meaning(question):
                    without = Question(f"absent: answer left out, {question.kind}", question.text, ())
                    outcomes.append(_outcome(without, [hit for hit in hits if hit.page_id not in question.pages]))
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
        for kind, some in [*((kind, some) for kind, some in rows if some), ("all by words, names, numbers", exact)]:
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
        unanswered = [one for one in all_of_half if not one.question.pages]
        for kind, some in [*((kind, some) for kind, some in rows if some), ("all", unanswered)]:
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


def reachable(outcomes: dict[str, list[Outcome]]) -> Iterator[str]:
    """Yield the lines of a table: how many pages a line found for which `SILENT` of the questions gave nothing."""
    yield f"| by meaning, at the line above which {1 - SILENT:.0%} of the unanswered are | n | line | page found |"
    yield "|---|---|---|---|"
    for half, all_of_half in outcomes.items():
        for absent in ("absent: topics", "absent: "):
            scores = sorted(one.score for one in all_of_half if one.question.kind.startswith(absent))
            line = scores[min(len(scores) - 1, int(SILENT * len(scores)))]
            for name, languages in (("same language", SAME_LANGUAGE), ("other language", OTHER_LANGUAGE)):
                some = [one for one in all_of_half if one.question.pages and _is_of(one.question, languages)]
                share = _share(one.right_score > line for one in some)
                against = absent.removeprefix("absent: ") or "all"
                yield f"| {half}: {name}, against {against} | {len(some)} | {line:.2f} | {share} |"


SAME_LANGUAGE = ("meaning", "picture", "same language")
OTHER_LANGUAGE = ("abroad", "other language")


def is_by_meaning(question: Question) -> bool:
    """Tell whether only the vectors can find the page."""
    return bool(question.pages) and _is_of(question, SAME_LANGUAGE + OTHER_LANGUAGE)


def _is_of(question: Question, kinds: Iterable[str]) -> bool:
    return any(word in question.kind for word in kinds)


def main() -> None:
    """Measure and print tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--corpus", type=Path, help="a folder of NNN.csv with NNN.json (ICDAR 2019 SROIE), asked as well"
    )
    parser.add_argument("--embedder", choices=EMBEDDERS, default="minilm")
    parser.add_argument("--mode", choices=get_args(Mode), default="hybrid")
    parser.add_argument("--halves", nargs="+", choices=HALVES, default=HALVES)
    parser.add_argument("--misses", action="store_true", help="say which questions are answered wrongly")
    options = parser.parse_args()
    outcomes: dict[str, list[Outcome]] = {}
    for half in options.halves:
        parts = own_texts(half), samples(half), languages(half)
        collections = [*parts, *(receipts(half, options.corpus) if options.corpus else ())]
        first = collections[: len(parts) + 1]
        together = Collection(
            half,
            tuple(page for one in first for page in one.pages),
            tuple(question for one in first for question in one.questions),
        )
        for collection in (together, *collections[len(parts) + 1 :]):
            outcomes.setdefault(half, []).extend(ask(collection, options.embedder, options.mode))
    for half, some in outcomes.items():
        for one in some if options.misses else ():
            if bool(one.question.pages) != bool(one.right) or (not one.question.pages and one.found):
                sys.stderr.write(f"{half}: {one.question.kind}: {one.question.text!r}: {one}\n")
    sys.stdout.write("\n".join([*table(outcomes), "", *reachable(outcomes)]) + "\n")


if __name__ == "__main__":
    main()
