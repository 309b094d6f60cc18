"""What the witness catches, and what it accuses falsely: `python -m tests.benchmarks.witness --help`.

Faults are put into true texts, and each text is compared with what RapidOCR reads on the page. Half of the pages are
for developing, the other half for reporting (`--half held-out`). RapidOCR's readings are kept in the ledger that is
named, so only the first run is slow.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from pathlib import Path

from kobold_reader.options import ReadOptions
from kobold_reader.pages import PageImages
from kobold_reader.reading.ledger import Ledger
from kobold_reader.reading.open_file import OpenFile
from kobold_reader.reading.rapidocr import BUDGET, RapidOcrEngine
from kobold_reader.reading.results import SHARES, Corners, LineBox, PageResult, Reading, joined
from kobold_reader.reading.witness import Comparison, Look, can_judge, compare
from kobold_reader.session import ReadSession
from tests.benchmarks.report import show, verdict

SAMPLES = Path(__file__).parents[2] / "kobold_reader" / "_samples"
COMPLETE = "complete"
RECEIPTS: Mapping[str, str] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))["receipts"]
"""What is known of the truths of the corpus, by name."""
LINE_CHARACTERS = 12
RIGHT_IOU = 0.5
ENGINE = RapidOcrEngine()
READ_RIGHT = 0.95
"""Agreement with a true text, from which on there is no need to abstain."""


@dataclass(frozen=True)
class Page:
    """A page, its true text, and what RapidOCR reads on it."""

    name: str
    truth: str
    witness: Reading
    boxes: tuple[LineBox, ...] = ()
    """The true places of the true lines; empty where they are not known."""
    look: Look | None = None
    """RapidOCR's second look at the page's lines."""
    completeness: str = COMPLETE
    """COMPLETE where the truth is known to be the page's whole text, or else what is wrong with it."""

    def compared(self, text: str) -> Comparison:
        """Return what the witness says about a text of this page."""
        return compare(text, self.witness, self.look)


def sample_pages(ledger: Path) -> Iterator[Page]:
    """Yield the packaged samples that carry print."""
    truths = SAMPLES / "ground_truth"
    for name, number, reading, look in _readings(SAMPLES / "archive", ledger):
        relative = Path(name).relative_to((SAMPLES / "archive").resolve())
        pages = (truths / f"{relative}.txt").read_text(encoding="utf-8").split("\f")
        if pages[number - 1].strip():
            yield Page(f"{relative.name} {number}", pages[number - 1].strip(), reading, look=look)


def corpus_pages(folder: Path, ledger: Path) -> Iterator[Page]:
    """Yield pictures beside a .csv of the same name, as ICDAR 2019 SROIE has them: eight coordinates and the text."""
    for name, _, reading, look in _readings(folder, ledger):
        table = Path(name).with_suffix(".csv")
        if not table.exists():
            continue
        rows = [row.split(",", 8) for row in table.read_text(encoding="utf-8", errors="replace").splitlines()]
        width, height = _size(Path(name))
        lines = [[(row[8], _shares(row[:8], width, height), None)] for row in rows if len(row) == 9]
        text, boxes = joined(lines)
        completeness = RECEIPTS.get(Path(name).stem, "not checked")
        yield Page(Path(name).stem, text, reading, boxes, look, completeness)


def _readings(folder: Path, ledger: Path) -> Iterator[tuple[str, int, Reading, Look]]:
    options = ReadOptions(engine="rapidocr", text_layer="ignore", ledger=str(ledger), on_error="skip")
    with ReadSession(options) as session:
        for result in session.read_pages(folder):
            reading = result.readings.get("ocr")
            if reading is not None and reading.status == "ok":
                yield result.source.path, result.page_number, reading, _look(result, reading.rotation_deg)


def _look(result: PageResult, rotation_deg: int) -> Look:
    """Return what reads lines of this page again, each once."""
    read: dict[Corners, Sequence[str]] = {}

    @cache
    def images() -> PageImages:
        with Ledger(None) as ledger, OpenFile(ledger) as opened:
            file = opened.facts(result.source)
            own_deg = opened.page_facts(result.source, file, result.page_number).rotation_deg
            turn_deg = (rotation_deg - own_deg) % 360
            return opened.page_images(result.source, file, result.page_number, BUDGET, turn_deg)

    def look(places: Sequence[Corners]) -> Sequence[Sequence[str]]:
        new = [corners for corners in places if corners not in read]
        read.update(zip(new, ENGINE.look(images(), new) if new else (), strict=True))
        return [read[corners] for corners in places]

    return look


def _size(picture: Path) -> tuple[int, int]:
    from PIL import Image

    with Image.open(picture) as image:
        return image.size


def _shares(numbers: Sequence[str], width: int, height: int) -> Corners:
    return tuple(round(int(number) * SHARES / (height if at % 2 else width)) for at, number in enumerate(numbers))


# ── faults ───────────────────────────────────────────────────────────────────────────────────────

Fault = Callable[[Page, random.Random, Sequence[Page]], str | None]
"""Returns the text with the fault in it; None where the page offers no place for it."""


def _long_lines(text: str) -> list[int]:
    return [number for number, line in enumerate(text.split("\n")) if len(line.strip()) >= LINE_CHARACTERS]


def _drop(page: Page, chance: random.Random, _: Sequence[Page]) -> str | None:
    lines = page.truth.split("\n")
    long = [number for number in _long_lines(page.truth) if re.search(r"\w{3}", lines[number])]
    if not long:
        return None
    del lines[chance.choice(long)]
    return "\n".join(lines)


INVENTED = (
    "Please keep this slip for your records.",
    "Signed in the presence of two witnesses",
    "The meeting was closed at half past nine.",
    "Delivery within fourteen working days",
    "Yours faithfully, Margaret Holloway",
    "No smoking in the engine room",
    "Payment is due by the end of the month",
    "CHEESE SANDWICH LARGE",
    "Discount on second item",
    "See overleaf for conditions",
)


def _invent(page: Page, chance: random.Random, _: Sequence[Page]) -> str:
    lines = page.truth.split("\n")
    lines.insert(chance.randint(0, len(lines)), chance.choice(INVENTED))
    return "\n".join(lines)


def _digit(page: Page, chance: random.Random, number: str) -> str | None:
    numbers = [found.span() for found in re.finditer(rf"(?<![\d.,/:-]){number}(?![\d.,/:-])", page.truth)]
    if not numbers:
        return None
    start, end = chance.choice(numbers)
    at = chance.choice([one for one in range(start, end) if page.truth[one].isdigit()])
    other = chance.choice([digit for digit in "0123456789" if digit != page.truth[at]])
    return page.truth[:at] + other + page.truth[at + 1 :]


def _swap(page: Page, chance: random.Random, _: Sequence[Page]) -> str | None:
    lines = page.truth.split("\n")
    long = [number for number in _long_lines(page.truth) if number + 1 in _long_lines(page.truth)]
    if not long:
        return None
    first = chance.choice(long)
    lines[first], lines[first + 1] = lines[first + 1], lines[first]
    return "\n".join(lines)


def _repeat(page: Page, chance: random.Random, _: Sequence[Page]) -> str | None:
    lines = page.truth.split("\n")
    if len(lines) < 6:
        return None
    first = chance.randint(0, len(lines) - 4)
    return "\n".join([*lines[: first + 4], *lines[first:]])


def _other_page(page: Page, chance: random.Random, pages: Sequence[Page]) -> str:
    return chance.choice([other for other in pages if other.name.split()[0] != page.name.split()[0]]).truth


def _summary(page: Page, chance: random.Random, _: Sequence[Page]) -> str:
    words = re.findall(r"[A-Z][\w.]{3,}", page.truth)
    amounts = re.findall(r"\d+[.,]\d\d", page.truth)
    named = " and ".join(chance.sample(words, min(2, len(words))))
    sums = f" The amount of {chance.choice(amounts)} is mentioned." if amounts else ""
    return (
        f"The image shows a document concerning {named}. It lists several items together with their details, and it is "
        f"laid out in the usual manner of its time.{sums} The writer asks the reader to take note of its contents."
    )


WORDS = re.findall(  # what a translator writes; numbers stay as they are
    r"\w+",
    "der Rechnung Betrag wurde bezahlt und dankend erhalten bitte beachten Sie die folgenden Hinweise am Tage "
    "Mitglieder Versammlung über neue Boote sowie Kosten für Hafen Jahr beschlossen wir haben gestern Ihre Waren "
    "geliefert Straße Anzahl Preis Summe Wechselgeld Steuer enthalten vielen Dank für Ihren Einkauf kommen wieder",
)


def _translate(page: Page, chance: random.Random, _: Sequence[Page]) -> str:
    return re.sub(r"[^\W\d_]{2,}", lambda word: word[0] if chance.random() < 0.1 else chance.choice(WORDS), page.truth)


def _first_third(page: Page, *_: object) -> str:
    lines = page.truth.split("\n")
    return "\n".join(lines[: max(1, len(lines) // 3)])


@dataclass(frozen=True)
class Kind:
    """A kind of fault, and what share of such texts should be caught."""

    fault: Fault
    named: Callable[[Comparison], Sequence[object]]
    """What a comparison names of this kind."""
    goal: float | None

    def is_caught(self, with_fault: Comparison, without: Comparison) -> bool:
        """Tell whether something is named that is not named without the fault: a truth may lack a stamp, say."""
        return bool(set(self.named(with_fault)) - set(self.named(without)))


def _accusations(found: Comparison) -> Sequence[object]:
    return (*found.missing, *found.unsupported, *found.differences, *found.repeated)


KINDS: Mapping[str, Kind] = {
    "line dropped": Kind(_drop, attrgetter("missing"), 0.95),
    "line invented": Kind(_invent, attrgetter("unsupported"), 0.95),
    "digit of an amount changed": Kind(
        lambda page, chance, _: _digit(page, chance, r"\d{1,5}[.,]\d\d"), attrgetter("differences"), 0.85
    ),
    "digit of a two-digit number changed": Kind(
        lambda page, chance, _: _digit(page, chance, r"\d\d"), attrgetter("differences"), None
    ),
    "two lines swapped": Kind(_swap, _accusations, None),
    "passage repeated": Kind(_repeat, attrgetter("repeated"), None),
    "whole other page": Kind(_other_page, _accusations, 1.0),
    "summary": Kind(_summary, attrgetter("unsupported"), 1.0),
    "translation": Kind(_translate, attrgetter("unsupported"), 1.0),
    "first third only": Kind(_first_third, attrgetter("missing"), None),
}


def faults(pages: Sequence[Page], rounds: int, *, names: bool) -> dict[str, float]:
    """Print what is caught by kind; returns the shares."""
    shares: dict[str, float] = {}
    rows = []
    of_truths = [page.compared(page.truth) for page in pages]
    for name, kind in KINDS.items():
        caught = called = asked = 0
        for number, (page, of_truth) in enumerate(zip(pages, of_truths, strict=True)):
            for turn in range(rounds):
                text = kind.fault(page, random.Random(f"{name} {number} {turn}"), pages)
                if text is None:
                    continue
                found = page.compared(text)
                is_caught = kind.is_caught(found, of_truth)
                asked += 1
                caught += is_caught
                called += found.is_of_another_page
                if names and not is_caught and kind.goal:
                    print(f"  not caught: {name}, {page.name}, {turn}: {found.agreement}", file=sys.stderr)
        shares[name] = caught / max(1, asked)
        goal = "" if kind.goal is None else f">= {kind.goal:.2f}"
        rows.append((name, asked, f"{shares[name]:.3f}", goal, f"{called / max(1, asked):.3f}"))
    show("Faults caught", ("fault", "texts", "caught", "goal", "status unsupported"), rows)
    return shares


# ── false accusations ────────────────────────────────────────────────────────────────────────────


def perfect(page: Page) -> Reading:
    """Return what a witness reads that makes no errors."""
    boxes = tuple(box._replace(score=0.99) for box in page.boxes)
    return Reading("ocr", "ok", page.truth, "rapidocr", boxes=boxes, confidence=0.99)


WITHOUT_ERRORS = "a witness without errors"
OF_COMPLETE = "RapidOCR, where the truth is complete"
"""The other truths may be accused rightly."""
MOST_ACCUSED = {WITHOUT_ERRORS: 0.02, OF_COMPLETE: 0.05}


def false_accusations(pages: Sequence[Page], *, names: bool) -> dict[str, float]:
    """Print how many true texts are accused, by a witness without errors and by RapidOCR; returns the shares."""
    ways: Mapping[str, Callable[[Page], Reading | None]] = {
        WITHOUT_ERRORS: lambda page: perfect(page) if page.boxes else None,
        "RapidOCR, errors and all": lambda page: page.witness,
        OF_COMPLETE: lambda page: page.witness if page.completeness == COMPLETE else None,
    }
    rows = []
    shares = {}
    for way, reading_of in ways.items():
        asked = accused = abstained = 0
        counts = dict.fromkeys(("missing", "unsupported", "differences", "repeated"), 0)
        agreements: list[float] = []
        for page in pages:
            reading = reading_of(page)
            if reading is None:
                continue
            found = compare(page.truth, reading, page.look if reading is page.witness else None)
            asked += 1
            accused += bool(_accusations(found))
            abstained += found.agreement is None
            agreements += [found.agreement] if found.agreement is not None else []
            for what in counts:
                counts[what] += bool(getattr(found, what))
                if names and getattr(found, what):
                    said = f"{page.name} ({page.completeness}): {what} {getattr(found, what)}"
                    print(f"  accused by {way}: {said}", file=sys.stderr)
        if asked:
            shares[way] = accused / asked
            least = min(agreements, default=0.0)
            rows.append((way, asked, f"{shares[way]:.3f}", *counts.values(), abstained, f"{least:.2f}"))
    columns = (
        "witness",
        "pages",
        "accused",
        "missing",
        "unsupported",
        "differ",
        "repeated",
        "abstains",
        "least agreement",
    )
    show("True texts accused", columns, rows)
    return shares


# ── places ───────────────────────────────────────────────────────────────────────────────────────


def places(pages: Sequence[Page]) -> tuple[float, float, float]:
    """Print how many words get a place and whether it is right; returns shares: words placed, lines placed, right."""
    words = placed = lines = boxed = right = inside = 0
    for page in pages:
        if not page.boxes:
            continue
        found = page.compared(page.truth).places
        for true in page.boxes:
            here = [box for box in found if box.start < true.end and box.end > true.start]
            spans = [word.span() for word in re.finditer(r"\w+", page.truth[true.start : true.end])]
            for start, end in spans:
                words += 1
                at = [box for box in here if box.start < true.start + end and box.end > true.start + start]
                placed += bool(at)
                inside += bool(at) and all(_is_inside(box.corners, true.corners) for box in at)
            if not spans:
                continue
            lines += 1
            if here:
                boxed += 1
                right += _iou(_hull([box.corners for box in here]), _hull([true.corners])) >= RIGHT_IOU
    shares = placed / max(1, words), inside / max(1, placed), right / max(1, boxed)
    show(
        "Places, against the true lines",
        (
            "words",
            "with a place",
            "of those in their true line",
            "lines",
            "with a place",
            f"of those IoU >= {RIGHT_IOU}",
        ),
        [(words, f"{shares[0]:.3f}", f"{shares[1]:.3f}", lines, f"{boxed / max(1, lines):.3f}", f"{shares[2]:.3f}")],
    )
    return shares


Box = tuple[float, float, float, float]


def _hull(many: Sequence[Corners]) -> Box:
    xs, ys = [x for corners in many for x in corners[::2]], [y for corners in many for y in corners[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def _common(one: Box, other: Box) -> float:
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, wide) * max(0.0, high)


def _area(box: Box) -> float:
    return max(1.0, (box[2] - box[0]) * (box[3] - box[1]))


def _iou(one: Box, other: Box) -> float:
    common = _common(one, other)
    return common / (_area(one) + _area(other) - common)


def _is_inside(part: Corners, whole: Corners) -> bool:
    """Tell whether most of a word's place lies in its line's."""
    one = _hull([part])
    return _common(one, _hull([whole])) >= RIGHT_IOU * _area(one)


# ── abstaining ───────────────────────────────────────────────────────────────────────────────────


def abstains(fonts: Sequence[Path], ledger: Path) -> float:
    """Print on how many pages in these hands and types RapidOCR abstains, or reads what is there; returns the share."""
    from PIL import Image, ImageDraw, ImageFont

    truths = [path.read_text(encoding="utf-8").split("\f")[0] for path in sorted(SAMPLES.rglob("*.txt"))]
    lines = [line for truth in truths for line in truth.split("\n") if len(line) >= LINE_CHARACTERS]
    rows = []
    count = accused = 0
    truth_of: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, path in enumerate(fonts):
            image = Image.new("L", (1000, 1100), 245)
            font = ImageFont.truetype(str(path), 34)
            written = [lines[(number * 18 + at) % len(lines)][:48] for at in range(18)]
            for at, line in enumerate(written):
                ImageDraw.Draw(image).text((60, 60 + 56 * at), line, fill=30, font=font)
            image.save(Path(folder) / f"{number:02} {path.stem}.png")
            truth_of[f"{number:02} {path.stem}"] = "\n".join(written)
        for name, _, reading, look in _readings(Path(folder), ledger):
            found = compare(truth_of[Path(name).stem], reading, look)
            count += found.agreement is None or found.agreement >= READ_RIGHT
            accused += bool(_accusations(found))
            said = "abstains" if found.agreement is None else f"{found.agreement:.2f}"
            rows.append((Path(name).stem, reading.confidence, said, bool(_accusations(found)), reading.text[:40]))
    columns = ("font", "confidence", "agreement with the truth", "accused", "it reads")
    show("Hands and types, true texts", columns, rows)
    verdict(f"none of them accused falsely: {accused}", is_reached=not accused)
    return count / max(1, len(rows))


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Measure and print tables; returns the shares caught, by kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ledger", type=Path, required=True, help="where RapidOCR's readings are kept")
    parser.add_argument("--corpus", type=Path, help="a folder of NNN.jpg with NNN.csv (ICDAR 2019 SROIE), as well")
    parser.add_argument("--half", choices=("develop", "held-out", "all"), default="held-out")
    parser.add_argument("--rounds", type=int, default=5, help="faults of each kind put into each page")
    parser.add_argument("--pages", action="store_true", help="name the pages that are not caught, or accused falsely")
    parser.add_argument(
        "--font", type=Path, nargs="*", help="hands and types on which it must abstain, in place of all else"
    )
    options = parser.parse_args(arguments)
    if options.font:
        share = abstains(options.font, options.ledger)
        verdict(
            f"abstains, or reads >= {READ_RIGHT}, on >= 0.90 of hands and types: {share:.2f}", is_reached=share >= 0.9
        )
        return {"abstains": share}
    every = [*sample_pages(options.ledger), *(corpus_pages(options.corpus, options.ledger) if options.corpus else ())]
    halves = {"develop": every[::2], "held-out": every[1::2], "all": every}
    pages = [page for page in halves[options.half] if can_judge(page.witness)]
    chosen = len(halves[options.half])
    print(f"{chosen} pages, {options.half}; RapidOCR abstains on {chosen - len(pages)}")
    shares = faults(pages, options.rounds, names=options.pages)
    accused = false_accusations(pages, names=options.pages)
    placed = places(pages)
    for name, kind in KINDS.items():
        if kind.goal is not None:
            verdict(f"{name}: caught >= {kind.goal:.2f}", is_reached=shares[name] >= kind.goal)
    for way, share in MOST_ACCUSED.items():
        if way in accused:
            verdict(f"true texts accused by {way} <= {share:.2f}", is_reached=accused[way] <= share)
    if any(page.boxes for page in pages):
        verdict("words with a place >= 0.95", is_reached=placed[0] >= 0.95)
        verdict("of those in their line >= 0.98", is_reached=placed[1] >= 0.98)
        verdict(f"lines with a place: IoU >= {RIGHT_IOU} for >= 0.98", is_reached=placed[2] >= 0.98)
    return shares


if __name__ == "__main__":
    main()
