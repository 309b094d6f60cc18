"""The witness: a model's text compared with what RapidOCR, a reader of another kind, reads on the same page.

A vision model fails by writing fluent text that is not on the page, and by leaving lines out or repeating them; its own
probabilities do not tell. RapidOCR misreads letters, but it invents nothing. So its lines are put into the order of the
model's text, both are aligned letter by letter, and what has no counterpart is reported. Where RapidOCR itself is not
sure (handwriting, Fraktur, scripts that it does not read) it abstains. The same alignment gives the model's words the
places of RapidOCR's lines.

Letters and digits are compared, without case, accents, spaces, punctuation, Markdown and HTML.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect, bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby, pairwise
from math import hypot
from typing import Any, Final, NamedTuple

from rapidfuzz import fuzz
from rapidfuzz.distance import Indel, Levenshtein

from kobold_reader.reading.results import SHARES, Corners, LineBox, Reading, words_along

SURE: Final = 0.9
"""Score of a line that RapidOCR read; print is mostly above 0.95."""
LEAST_LETTERS: Final = 12
"""On a page, or of a line: fewer are no evidence."""
_SURE_PAGE: Final = 0.85
"""Mean score below which RapidOCR abstains."""
_SURE_SHARE: Final = 0.6
"""Share of the letters in sure lines below which it abstains."""
UNSUPPORTED: Final = 0.5
"""Of another page is a text of which less than this share stands on the page, if it lacks as much of the page."""
_SAME_NUMBERS: Final = 0.6
"""Of another page of the same form is a text that shares less of its numbers with the page; true texts share 0.85."""
_SAME_DIGITS: Final = 0.85
"""Share of the digits that agree, above which only the signs and spaces between them differ."""
_LEAST_NUMBERS: Final = 8
_ANCHOR_LETTERS: Final = 8
_ANCHOR_RATIO: Final = 75.0
_LEFT_LETTERS: Final = 5
_LEFT_RATIO: Final = 90.0
_HALF: Final = 0.5
_CHANCE: Final = 3
"""Fewer equal letters in a row are chance where nothing beside them is equal."""
_USED: Final = "\0"
_NUMBER_SIGNS: Final = frozenset(".,:/'’-")


Look = Callable[[Sequence[Corners]], Sequence[Sequence[str]]]
"""Has RapidOCR read lines in these places once more, each in several ways; empty where that is not possible."""


class Difference(NamedTuple):
    """A number, date or name that both read in one place, and not alike."""

    text: str
    page: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the witness says about a text."""

    agreement: float | None
    """Share of the letters on which both agree, 0 to 1; None: RapidOCR cannot judge this page."""
    support: float | None = None
    """Share of the text's letters that stand on the page."""
    covered: float | None = None
    """Share of the page's letters that are in the text."""
    numbers: float | None = None
    """Share of the numbers that both have, 0 to 1; None: there are few, or they agree."""
    missing: tuple[str, ...] = ()
    """Lines on the page that are not in the text."""
    unsupported: tuple[str, ...] = ()
    """Sentences of the text that are not on the page."""
    differences: tuple[Difference, ...] = ()
    repeated: tuple[str, ...] = ()
    """Passages that stand in the text more often than on the page."""
    places: tuple[LineBox, ...] = ()
    """Of the text's words, one for each run of them that stands in one line of the page."""

    @property
    def is_of_another_page(self) -> bool:
        """The text has no support on the page, or it is a form's that was filled in otherwise.

        A handwritten letter under a printed head still has that head.
        """
        if self.support is None or self.covered is None:
            return False
        is_another = self.support < UNSUPPORTED and self.covered < UNSUPPORTED
        return is_another or (self.numbers is not None and self.numbers < _SAME_NUMBERS)

    @property
    def findings(self) -> Mapping[str, Any]:
        """What people should look at, as plain values; what was not found is left out."""
        lists: dict[str, Sequence[Any]] = {
            "missing": self.missing,
            "unsupported": self.unsupported,
            "differences": [one._asdict() for one in self.differences],
            "repeated": self.repeated,
        }
        shares = {"agreement": self.agreement, "support": self.support, "covered": self.covered}
        shares |= {} if self.numbers is None else {"numbers": self.numbers}
        return shares | {name: list(found) for name, found in lists.items() if found}


# ── letters ──────────────────────────────────────────────────────────────────────────────────────

_MARKUP: Final = re.compile(
    r"<!--.*?-->|</?[A-Za-z][^<>\n]{0,300}>|!\[[^\]\n]*\]\([^)\n]*\)|\]\([^)\n]*\)|&(?:[a-z]{2,8}|#\d{1,6});|^\s*```\w*",
    re.DOTALL | re.MULTILINE,
)
_CJK: Final = re.compile("[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")


class Letters(NamedTuple):
    """Letters and digits of a text, folded, and the position of each in the text."""

    text: str
    origin: Sequence[int]


def letters_of(text: str) -> Letters:
    """Return the letters of a text, without those of Markdown and HTML."""
    folded: list[str] = []
    origin: list[int] = []
    at = 0
    for begin, behind in [*(found.span() for found in _MARKUP.finditer(text)), (len(text), len(text))]:
        for position in range(at, begin):
            for letter in unicodedata.normalize("NFKD", text[position].casefold()):
                if letter.isalnum():
                    folded.append(letter)
                    origin.append(position)
        at = max(at, behind)
    return Letters("".join(folded), origin)


class _WitnessLine(NamedTuple):
    """A line of the page, or a piece of one."""

    letters: Letters
    """Their positions are those in `text`."""
    text: str
    box: LineBox
    is_sure: bool


def _lines(witness: Reading) -> list[_WitnessLine]:
    texts = ((witness.text[box.start : box.end], box) for box in witness.boxes)
    lines = (_WitnessLine(letters_of(text), text, box, box.score is None or box.score >= SURE) for text, box in texts)
    return [line for line in lines if line.letters.text]


def can_judge(witness: Reading) -> bool:
    """Tell whether RapidOCR read enough of a page, and surely enough, to judge a text by it."""
    lines = _lines(witness)
    letters = sum(len(line.letters.text) for line in lines)
    sure = sum(len(line.letters.text) for line in lines if line.is_sure)
    return (
        letters >= LEAST_LETTERS
        and sure >= _SURE_SHARE * letters
        and (witness.confidence is None or witness.confidence >= _SURE_PAGE)
    )


# ── alignment ────────────────────────────────────────────────────────────────────────────────────


class _Alignment:
    """Where each letter of a text stands on the page."""

    def __init__(self, text: str, lines: Sequence[_WitnessLine]) -> None:
        self._text = text
        self.letters = letters_of(text)
        self.lines = lines
        count = len(self.letters.text)
        self.line = [-1] * count
        """By letter: the number of its line; -1: it has no counterpart."""
        self.at = [-1] * count
        """By letter: the position of its counterpart in that line."""
        self.is_equal = [False] * count
        self.is_taken = [bytearray(len(line.letters.text)) for line in lines]
        """By line and letter: 1 where it is the counterpart of one."""
        self.order = self._order()
        self._align_all()
        self._align_left_over()
        self.equal = Counter(number for number, is_equal in zip(self.line, self.is_equal, strict=True) if is_equal)
        """Letters of each line that are equal in the text."""

    def _order(self) -> list[int]:
        """Return the lines in the order of the text; short ones follow the line before them on the page."""
        left, lines = self.letters.text, self.lines
        found_at: dict[int, int] = {}
        for number in sorted(range(len(lines)), key=lambda one: -len(lines[one].letters.text)):
            letters = lines[number].letters.text
            if len(letters) < _ANCHOR_LETTERS:
                break
            start, end = _first_place(letters, left, _ANCHOR_RATIO)
            if start < end:
                found_at[number] = start
                left = left[:start] + _USED * (end - start) + left[end:]
        places: list[tuple[int, int]] = []
        latest = -1
        for number in range(len(lines)):
            latest = found_at.get(number, latest)
            places.append((latest, number))
        return [number for _, number in sorted(places)]

    def _align_all(self) -> None:
        page = "".join(self.lines[number].letters.text for number in self.order)
        owner = [(number, at) for number in self.order for at in range(len(self.lines[number].letters.text))]
        pairs: dict[int, list[tuple[int, int]]] = {}
        for start, text_start in _counterparts(page, self.letters.text):
            number, at = owner[start]
            pairs.setdefault(number, []).append((at, text_start))
        for number, of_line in pairs.items():
            self._take(number, of_line)

    def _take(self, number: int, pairs: Sequence[tuple[int, int]]) -> None:
        """Keep the counterparts of a line's letters, except those that are equal by chance."""
        letters, text = self.lines[number].letters.text, self.letters.text
        for group in _close_groups(pairs):
            equal = [letters[at] == text[position] for at, position in group]
            trimmed = _trimmed(group, equal)
            count, firm = sum(equal), _in_runs(group, equal)
            is_whole = count >= _HALF * len(letters) and (len(letters) >= _CHANCE + 1 or count >= len(letters) - 1)
            is_firm = firm >= _HALF * count or len(letters) <= _CHANCE + 1
            if count and is_firm and (is_whole or (count > _CHANCE and count >= 0.7 * len(trimmed))):
                for at, position in trimmed:
                    self._pair(number, at, position)

    def _pair(self, number: int, at: int, position: int) -> None:
        if self.line[position] >= 0:
            self.is_taken[self.line[position]][self.at[position]] = 0
        self.line[position], self.at[position] = number, at
        self.is_equal[position] = self.lines[number].letters.text[at] == self.letters.text[position]
        self.is_taken[number][at] = 1

    def _align_left_over(self) -> None:
        """Find lines, and then single words, that stand in another order in the text."""
        for number, line in enumerate(self.lines):
            letters = line.letters.text
            if len(letters) < _LEFT_LETTERS or sum(self.is_taken[number]) > _HALF * len(letters):
                continue
            left = "".join(_USED if taken else one for one, taken in zip(self.letters.text, self.is_equal, strict=True))
            cutoff = _ANCHOR_RATIO if len(letters) >= _ANCHOR_LETTERS else _LEFT_RATIO
            start, end = _first_place(letters, left, cutoff)
            if start < end:
                part = left[start:end]
                self._take(
                    number,
                    [
                        (at, start + position)
                        for at, position in _counterparts(letters, part)
                        if letters[at] == part[position] and not self.is_taken[number][at]
                    ],
                )
        self._align_words()

    def _align_words(self) -> None:
        words: dict[str, list[tuple[int, int]]] = {}
        for number, line in enumerate(self.lines):
            for start, end in _words(line.letters, line.text):
                if not any(self.is_taken[number][start:end]):
                    words.setdefault(line.letters.text[start:end], []).append((number, start))
        for start, end in _words(self.letters, self._text):
            if end - start < 2 or any(number >= 0 for number in self.line[start:end]):  # noqa: PLR2004
                continue
            word = self.letters.text[start:end]
            near = [other for other, left in words.items() if left and _is_near_number(word, other)]
            waiting = words.get(word) or (words[near[0]] if len(near) == 1 else [])
            if waiting:
                number, at = waiting.pop(0)
                for step in range(end - start):
                    self._pair(number, at + step, start + step)

    def counterparts(self) -> list[list[int]]:
        """Return for each letter of each line the position of its counterpart in the text's letters, or -1."""
        found = [[-1] * len(line.letters.text) for line in self.lines]
        for position, (number, at) in enumerate(zip(self.line, self.at, strict=True)):
            if number >= 0:
                found[number][at] = position
        return found

    def support(self, start: int, end: int) -> float:
        """Return the share of these letters that stand on the page."""
        return sum(self.is_equal[start:end]) / max(1, end - start)

    def is_exact(self, number: int) -> bool:
        """Tell whether every letter of a line stands in the text."""
        return self.equal[number] == len(self.lines[number].letters.text)

    def found(self, number: int) -> float:
        """Return the share of a line's letters that have a counterpart."""
        taken = self.is_taken[number]
        return sum(taken) / len(taken)


def _first_place(letters: str, text: str, cutoff: float) -> tuple[int, int]:
    """Return where letters stand in a text, the first of equal places, or nearly stand; an empty span: nowhere."""
    start = text.find(letters)
    if start >= 0:
        return start, start + len(letters)
    found = fuzz.partial_ratio_alignment(letters, text, score_cutoff=cutoff)
    return (found.dest_start, found.dest_end) if found is not None else (0, 0)


def _counterparts(page: str, text: str) -> Iterator[tuple[int, int]]:
    """Yield the positions of letters that stand for one another, equal or not."""
    for step in Levenshtein.opcodes(page, text):
        if step.tag in {"equal", "replace"}:
            yield from zip(range(step.src_start, step.src_end), range(step.dest_start, step.dest_end), strict=True)


def _close_groups(pairs: Sequence[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Split the pairs of one line where the text has more than a few letters between them."""
    group: list[tuple[int, int]] = []
    for pair in pairs:
        if group and pair[1] - group[-1][1] > _ANCHOR_LETTERS:
            yield group
            group = []
        group.append(pair)
    if group:
        yield group


def _in_runs(group: Sequence[tuple[int, int]], equal: Sequence[bool]) -> int:
    """Count the letters in runs that are equal without a gap; a text spread over a longer one has hardly any."""
    count = run = 0
    before = (-2, -2)
    for pair, is_equal in [*zip(group, equal, strict=True), ((-2, -2), False)]:
        is_next = is_equal and pair == (before[0] + 1, before[1] + 1)
        if not is_next:
            count += run if run >= _CHANCE else 0
            run = 0
        run += is_equal
        before = pair
    return count


def _trimmed(group: list[tuple[int, int]], equal: Sequence[bool]) -> list[tuple[int, int]]:
    """Return a group; where it is long, without unequal letters at its ends."""
    if len(group) <= _CHANCE + 1 or not any(equal):
        return group
    first, last = equal.index(True), len(equal) - 1 - list(reversed(equal)).index(True)
    return group[first : last + 1]


def _is_near_number(one: str, other: str) -> bool:
    """Tell whether two numbers differ in one digit."""
    if len(one) != len(other) or len(one) < _CHANCE or not (one.isdecimal() and other.isdecimal()):
        return False
    return sum(first != second for first, second in zip(one, other, strict=True)) == 1


def _words(letters: Letters, text: str) -> Iterator[tuple[int, int]]:
    """Yield the words as spans of letters; a number is one with the signs in it."""
    start = 0
    for at in range(1, len(letters.text) + 1):
        if at < len(letters.text):
            before, after = letters.origin[at - 1], letters.origin[at]
            is_number = letters.text[at - 1].isdecimal() and letters.text[at].isdecimal()
            if after - before <= 1 or (is_number and text[before + 1 : after] in _NUMBER_SIGNS):
                continue
        yield start, at
        start = at


# ── the comparison ───────────────────────────────────────────────────────────────────────────────

_UNIT: Final = re.compile(r"[^\n]+?(?:[.!?](?=\s)|(?=\n)|\Z)")
_NUMBER: Final = re.compile(r"\d(?:[\d.,:/'’-]*\d)?")
_NAME: Final = re.compile(r"[^\W\d_]{4,}")
_ROW_LETTERS: Final = 7
"""A dropped row of twelve characters has hardly fewer letters."""
_UNIT_LETTERS: Final = 10
"""A line of twelve characters has hardly fewer."""
_LONG_NUMBER: Final = 7
_SURE_WORD: Final = 0.95
"""Score of a line with a name, an amount or a year in it; the doubt may be about its other letters."""
_DISPUTED: Final = 0.85
"""Score of a line that may be held against the text if every further look reads the same."""
_DOUBT: Final = 0.15
"""A line's score is the mean over its letters: more doubt than this in all may hide a letter that is wrong."""
_NEARLY: Final = 0.65
_EXACT: Final = 0.4
"""Of print, at least this share of the lines is read without an error."""
_BESIDE: Final = 1
"""Letters on either side of one digit or two, which every further look must read as well."""
_GONE: Final = 0.4
_REPEATED: Final = 85.0
_SEEN: Final = 70.0
_SPACINGS: Final = (0.8, 1.1)
"""From line to line, in heights of RapidOCR's boxes."""
_EXCUSE: Final = 0.4


def compare(text: str, witness: Reading, look: Look | None = None) -> Comparison:
    """Compare a model's text with RapidOCR's reading of the same page.

    `look` settles what is in dispute; without it the scores of the first reading decide.
    """
    lines = _lines(witness)
    found = _Alignment(text, lines)
    places = tuple(_places(text, found, next(iter(witness.view_sizes), (1, 1))))
    if not can_judge(witness) or _is_misread(found):
        return Comparison(None, places=places)
    if sum(found.is_equal) < UNSUPPORTED * len(found.letters.text):
        look = None  # it is another page's text: all of it would be in dispute
    missing, unsupported, repeated = [*_missing(witness, found)], [], []
    excused = 0
    for start, end, first, last in _units(text, found.letters):
        if last - first < _UNIT_LETTERS or found.support(first, last) >= _HALF:
            continue
        if _is_excused(found, first, last):
            excused += last - first
        elif _is_copy(found, first, last):
            repeated.append(text[start:end].strip())
        elif look is not None and _is_seen(found, first, last, look):
            excused += last - first
        else:
            unsupported.append(text[start:end].strip())
    equal, written = sum(found.is_equal), len(found.letters.text) - excused
    shown = sum(len(line.letters.text) for n, line in enumerate(lines) if line.is_sure or found.found(n) > _HALF)
    support = equal / written if written > 0 else None
    return Comparison(
        agreement=round(2 * equal / (written + shown), 4),
        support=None if support is None or written < LEAST_LETTERS else round(min(1.0, support), 4),
        covered=round(equal / shown, 4),
        numbers=_same_numbers(text, found, look),
        missing=tuple(missing),
        unsupported=tuple(unsupported),
        differences=tuple(_differences(text, witness.text, found, look)),
        repeated=tuple(repeated),
        places=places,
    )


def _is_misread(found: _Alignment) -> bool:
    """Tell whether most lines stand in the text, but hardly any letter by letter: such is RapidOCR's reading of a hand.

    A text of another page has other lines, a translation has other words between its numbers, and of print most lines
    are read without an error.
    """
    if sum(found.is_equal) < _NEARLY * sum(len(line.letters.text) for line in found.lines):
        return False
    long = [number for number, line in enumerate(found.lines) if len(line.letters.text) >= _ANCHOR_LETTERS]
    near = [number for number in long if found.equal[number] >= _NEARLY * len(found.lines[number].letters.text)]
    exact = sum(found.is_exact(number) for number in near)
    return len(near) >= max(_CHANCE, _HALF * len(long)) and exact < _EXACT * len(near)


def _units(text: str, letters: Letters) -> Iterator[tuple[int, int, int, int]]:
    """Yield sentences and lines as spans of the text and of its letters."""
    at = 0
    for unit in _UNIT.finditer(text):
        first = at
        while at < len(letters.origin) and letters.origin[at] < unit.end():
            at += 1
        if at > first:
            yield *unit.span(), first, at


def _missing(witness: Reading, found: _Alignment) -> Iterator[str]:
    """Yield rows of the page that are not in the text; words that it has nearly, in another place, do not count."""
    left = "".join(_USED if number >= 0 else one for one, number in zip(found.letters.text, found.line, strict=True))
    gone = [line.is_sure and found.found(number) < _GONE for number, line in enumerate(found.lines)]
    for is_gone, numbers in groupby(range(len(gone)), key=lambda number: gone[number]):
        run = [found.lines[number] for number in numbers]
        words = (line.letters.text[start:end] for line in run for start, end in _words(line.letters, line.text))
        if is_gone and sum(len(word) for word in words if not _is_nearly_in(word, left)) >= _ROW_LETTERS:
            yield witness.text[run[0].box.start : run[-1].box.end]


def _is_nearly_in(word: str, text: str) -> bool:
    return len(word) > _CHANCE and _first_place(word, text, _SEEN) != (0, 0)


def _is_excused(found: _Alignment, first: int, last: int) -> bool:
    """Tell whether RapidOCR read something unsurely where these letters stand."""
    ranks = {number: rank for rank, number in enumerate(found.order)}
    before = next((ranks[found.line[at]] for at in range(first - 1, -1, -1) if found.line[at] >= 0), -1)
    after = next((ranks[found.line[at]] for at in range(last, len(found.line)) if found.line[at] >= 0), len(ranks))
    unsure = sum(
        len(found.lines[number].letters.text)
        for number in found.order[max(0, before) : after + 1]
        if not found.lines[number].is_sure and found.found(number) < _HALF
    )
    return unsure >= _EXCUSE * (last - first)


def _is_copy(found: _Alignment, first: int, last: int) -> bool:
    text = found.letters.text
    return fuzz.partial_ratio(text[first:last], text[:first] + _USED + text[last:]) >= _REPEATED


class _Dispute(NamedTuple):
    """A number or name that is aligned with another one, which the text lacks elsewhere."""

    difference: Difference
    line: _WitnessLine
    start: int
    """In that line's letters."""
    other: str
    """The letters there."""
    is_sure: bool
    """By the score of the line."""


def _differences(text: str, page_text: str, found: _Alignment, look: Look | None) -> Iterator[Difference]:
    """Yield numbers and names that are aligned with others, of which RapidOCR is sure."""
    disputes = [*_disputes(text, page_text, found)]
    places = list(dict.fromkeys(one.line.box.corners for one in disputes))
    looks = dict(zip(places, look(places), strict=False)) if look is not None and places else {}
    for one in disputes:
        again = looks.get(one.line.box.corners)
        if one.is_sure if again is None else _is_read_alike(one, again):
            yield one.difference


def _is_read_alike(dispute: _Dispute, again: Sequence[str]) -> bool:
    """Tell whether all further looks at a line read the number or name that is in dispute.

    One digit or two stand in many places of a line, so the letters beside them must be the same, too.
    """
    line, whole = dispute.line, dispute.line.letters.text
    beside = _BESIDE if len(dispute.other) < _CHANCE else 0
    letters = whole[max(0, dispute.start - beside) : dispute.start + len(dispute.other) + beside]
    is_in_all = all(letters_of(text).text.count(letters) >= whole.count(letters) for text in again)
    return is_in_all and any(_is_apart(dispute.other, text) for text in (line.text, *again))


def _is_apart(letters: str, text: str) -> bool:
    """Tell whether letters stand in a text, and no digit touches one of theirs: RapidOCR joins numbers if near."""
    before, after = (r"(?<!\d)" if letters[0].isdigit() else "", r"(?!\d)" if letters[-1].isdigit() else "")
    pattern = before + r"[\W_]*".join(letters) + after
    return bool(re.search(pattern, unicodedata.normalize("NFKD", text.casefold())))


def _disputes(text: str, page_text: str, found: _Alignment) -> Iterator[_Dispute]:
    written, shown = _tokens(text), _tokens(page_text)
    position: dict[int, int] = {}
    for at, origin in enumerate(found.letters.origin):
        position.setdefault(origin, at)
    for kind in (_NUMBER, _NAME):
        for token in kind.finditer(text):
            letters = [position[one] for one in range(*token.span()) if one in position]
            numbers = {found.line[at] for at in letters} - {-1}
            line = found.lines[numbers.pop()] if len(numbers) == 1 else None
            if line is None or _score(line) < _DISPUTED:
                continue
            # A letter that has no counterpart is one that differs: the whole number beside the others is meant.
            there = [found.at[one] for one in letters if found.line[one] >= 0]
            start, end = min(there), max(there) + 1
            if kind is _NUMBER and end - start < len(letters):
                start, end = _whole_number(line.letters.text, start, end)
            mine, other = "".join(found.letters.text[one] for one in letters), line.letters.text[start:end]
            is_other = _is_other_number(mine, other) if kind is _NUMBER else _is_other_name(mine, other)
            if is_other and written[mine] > shown[mine]:
                first, last = line.letters.origin[start], line.letters.origin[end - 1] + 1
                while kind is _NAME and last < len(line.text) and line.text[last].isalpha():
                    last += 1
                is_sure = _is_surely_read(line, other, is_name=kind is _NAME)
                yield _Dispute(Difference(token[0], line.text[first:last]), line, start, other, is_sure)


def _is_seen(found: _Alignment, first: int, last: int, look: Look) -> bool:
    """Tell whether RapidOCR reads these letters where their line should be, between its neighbours.

    Where handwriting or a stamp touches a line, RapidOCR does not find it; led to its place, it can read it.
    """
    before = next((found.line[at] for at in range(first - 1, -1, -1) if found.line[at] >= 0), -1)
    after = next((found.line[at] for at in range(last, len(found.line)) if found.line[at] >= 0), -1)
    places = [
        _beside(found.lines[number].box.corners, way * spacing)
        for number, way in ((before, 1), (after, -1))
        for spacing in _SPACINGS
        if number >= 0
    ]
    letters = found.letters.text[first:last]
    return any(fuzz.ratio(letters, letters_of(seen).text) >= _SEEN for again in look(places) for seen in again)


def _beside(corners: Corners, heights: float) -> Corners:
    """Return the place so many heights below a line; above it, if negative."""
    x0, y0, x1, y1, x2, y2, x3, y3 = corners
    right, down = ((x3 - x0) + (x2 - x1)) / 2 * heights, ((y3 - y0) + (y2 - y1)) / 2 * heights
    return tuple(
        min(SHARES, max(0, round(one + (down if at % 2 else right))))
        for at, one in enumerate((x0, y0, x1, y1, x2, y2, x3, y3))
    )


def _same_numbers(text: str, found: _Alignment, look: Look | None) -> float | None:
    """Return the share of the numbers that text and page have in common, the larger one of both ways to count."""
    digits = [at for at, letter in enumerate(found.letters.text) if letter.isdecimal()]
    if sum(found.is_equal[at] for at in digits) >= _SAME_DIGITS * len(digits):
        return None
    written = _numbers([text])
    shown = _numbers(line.text for line in found.lines)
    lines = [line for line in found.lines if line.is_sure]
    if look is not None:  # of a form that was filled in by hand, RapidOCR may be wrong and sure
        disputed = [line for line in lines if _numbers([line.text]) - written]
        looks = zip(disputed, look([line.box.corners for line in disputed]), strict=False)
        unsure = [line for line, again in looks if any(_numbers([seen]) != _numbers([line.text]) for seen in again)]
        lines = [line for line in lines if line not in unsure]
    sure = _numbers(line.text for line in lines)
    if min(written.total(), sure.total()) < _LEAST_NUMBERS:
        return None
    return round(max((written & shown).total() / written.total(), (sure & written).total() / sure.total()), 4)


def _numbers(texts: Iterable[str]) -> Counter[str]:
    """Count the numbers of three digits and more, without the signs between these."""
    digits = (re.sub(r"\D", "", token[0]) for text in texts for token in _NUMBER.finditer(text))
    return Counter(number for number in digits if len(number) >= _CHANCE)


def _is_surely_read(line: _WitnessLine, letters: str, *, is_name: bool) -> bool:
    """Tell whether these letters of a line may be held against the text."""
    if not _is_apart(letters, line.text):
        return False
    if len(letters) < len(line.letters.text) and (is_name or len(letters) < _LONG_NUMBER):
        return _score(line) >= _SURE_WORD
    return (1 - _score(line)) * len(line.letters.text) <= _DOUBT


def _score(line: _WitnessLine) -> float:
    return 1.0 if line.box.score is None else line.box.score


def _whole_number(letters: str, start: int, end: int) -> tuple[int, int]:
    while start > 0 and letters[start - 1].isdecimal():
        start -= 1
    while end < len(letters) and letters[end].isdecimal():
        end += 1
    return start, end


def _tokens(text: str) -> Counter[str]:
    tokens = (token[0] for kind in (_NUMBER, _NAME) for token in kind.finditer(text))
    return Counter(letters_of(token).text for token in tokens)


def _is_other_number(mine: str, other: str) -> bool:
    return mine != other and mine.isdecimal() and other.isdecimal() and len(mine) == len(other)


def _is_other_name(mine: str, other: str) -> bool:
    is_word = other.isalpha() and len(other) > _CHANCE
    return is_word and Indel.normalized_similarity(mine, other) < 0.6  # noqa: PLR2004


# ── side by side ─────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class ComparedLine:
    """A line of a text beside what RapidOCR read of it."""

    start: int
    end: int
    """Of the line in the text; equal where the text lacks what is on the page."""
    page: str
    """"": RapidOCR read nothing there."""
    boxes: tuple[LineBox, ...]
    """Of RapidOCR's reading."""
    text_marks: tuple[tuple[int, int], ...]
    """Words in the text that are not on the page; as spans of the text."""
    page_marks: tuple[tuple[int, int], ...]
    """Words on the page that are not in the text; as spans of `page`."""

    @property
    def is_different(self) -> bool:
        """Whether both read the line in other letters or digits."""
        return bool(self.text_marks or self.page_marks)

    def taken(self, text: str) -> str:
        """Return the text with RapidOCR's line in place of its own; without the line, where RapidOCR has none."""
        if self.start < self.end:
            end = self.end if self.page else self.end + 1
            return (text[: self.start] + self.page + text[end:]).strip("\n")
        before, after = text[: self.start], text[self.start :].lstrip("\n")
        return "\n".join(filter(None, (before, self.page, after)))


def side_by_side(text: str, witness: Reading) -> tuple[ComparedLine, ...]:
    """Return the lines of a text, each beside what RapidOCR read of it; lines that are missing stand between them."""
    found = _Alignment(text, _lines(witness))
    origin = found.letters.origin
    spans = [line.span() for line in re.finditer(r"[^\n]*\S[^\n]*", text)]
    starts = [start for start, _ in spans]
    row_of = [bisect(starts, at) - 1 for at in origin]
    counterparts = found.counterparts()
    beside: list[list[_LinePiece]] = [[] for _ in spans]
    lacking: list[list[list[_LinePiece]]] = [[] for _ in range(len(spans) + 1)]
    row, latest = -1, list[_LinePiece]()
    for number, line in enumerate(found.lines):
        for row_or_none, piece in _pieces(line, counterparts[number], found.is_equal, row_of):
            if row_or_none is not None:
                row, latest = row_or_none, beside[row_or_none]
                latest.append(piece)
            elif latest and witness.text[line.box.start - 1 : line.box.start] == " ":
                latest.append(piece._replace(position=latest[-1].position))  # of the printed line of the one before
            else:
                latest = [piece]
                lacking[row + 1].append(latest)
    unlike: list[list[tuple[int, int]]] = [[] for _ in spans]
    for first, last in _words(found.letters, text):
        if not all(found.is_equal[first:last]):
            unlike[row_of[first]].append((origin[first], origin[last - 1] + 1))
    rows = [_row(0, 0, pieces, ()) for pieces in lacking[0]]
    for (start, end), pieces, marks, more in zip(spans, beside, unlike, lacking[1:], strict=True):
        whole = _row(start, end, sorted(pieces, key=lambda piece: piece.position), marks)
        if letters_of(whole.page).text == letters_of(text[start:end]).text:
            whole = replace(whole, text_marks=(), page_marks=())  # whichever of equal letters were aligned
        rows += [whole, *(_row(end, end, group, ()) for group in more)]
    return tuple(rows)


class _LinePiece(NamedTuple):
    """What stands of a line of the page in one line of the text."""

    position: int
    """In the text's letters."""
    text: str
    box: LineBox
    marks: tuple[tuple[int, int], ...]


def _row(start: int, end: int, pieces: Sequence[_LinePiece], text_marks: Sequence[tuple[int, int]]) -> ComparedLine:
    page, marks = "", list[tuple[int, int]]()
    for piece in pieces:
        page += " " if page else ""
        marks += [(len(page) + first, len(page) + last) for first, last in piece.marks]
        page += piece.text
    return ComparedLine(start, end, page, tuple(piece.box for piece in pieces), tuple(text_marks), tuple(marks))


def _pieces(
    line: _WitnessLine, counterparts: Sequence[int], is_equal: Sequence[bool], row_of: Sequence[int]
) -> Iterator[tuple[int | None, _LinePiece]]:
    """Cut a line of the page where the text has a new line; None: no line of the text has anything of it."""
    words = list(_words(line.letters, line.text))
    rows: list[int | None] = []
    for first, last in words:
        there = Counter(row_of[at] for at in counterparts[first:last] if at >= 0)
        rows.append(there.most_common(1)[0][0] if there else rows[-1] if rows else None)
    known = [row for row in rows if row is not None]
    rows = [known[0] if row is None and known else row for row in rows]
    groups = [list(group) for _, group in groupby(zip(words, rows, strict=True), key=lambda one: one[1])]
    starts = [0, *(line.text.rfind(" ", 0, line.letters.origin[group[0][0][0]]) + 1 for group in groups[1:])]
    for group, start, end in zip(groups, starts, [*starts[1:], len(line.text)], strict=True):
        letters = range(group[0][0][0], group[-1][0][1])
        marks = tuple(
            (line.letters.origin[first] - start, line.letters.origin[last - 1] + 1 - start)
            for (first, last), _ in group
            if not all(at >= 0 and is_equal[at] for at in counterparts[first:last])
        )
        position = min((counterparts[at] for at in letters if counterparts[at] >= 0), default=0)
        yield group[0][1], _LinePiece(position, line.text[start:end].rstrip(), line.box, marks)


# ── places ───────────────────────────────────────────────────────────────────────────────────────


def _places(text: str, found: _Alignment, size_px: tuple[int, int]) -> Iterator[LineBox]:
    """Yield the place of each run of words that stands in one line of the text and in one of the page.

    One letter or two that are part of a longer word of the page are equal by chance.
    """
    row = list(accumulate(letter == "\n" for letter in text))
    words = [_word_place(found, start, end) for start, end in _words(found.letters, text)]
    for (number, _), group in groupby(words, key=lambda word: (word[2], row[found.letters.origin[word[0]]])):
        run = list(group)
        if number < 0:
            continue
        line = found.lines[number]
        first, last = run[0][0], run[-1][1]
        start, end = min(word[3] for word in run), max(word[4] for word in run)
        if last - first < _CHANCE and (start, end) not in _words(line.letters, line.text):
            continue
        along = _along(line, size_px)
        origin = line.letters.origin
        # Signs at the ends of a line are of the run that has its first letters, or its last ones.
        left = along[origin[start] if start else 0][0]
        right = along[origin[end - 1] if end < len(origin) else len(line.text) - 1][1]
        ends = _word_ends(text, found, range(first, last), number, along) if line.box.words else []
        yield LineBox(
            found.letters.origin[first],
            found.letters.origin[last - 1] + 1,
            _part(line.box.corners, left, right),
            words=words_along(ends, left, right),
        )


def _word_place(found: _Alignment, start: int, end: int) -> tuple[int, int, int, int, int]:
    """Return a word's span of letters, its line, and the part of that line; line -1 where that is not sure."""
    (number, count), *_ = Counter(found.line[start:end]).most_common(1)
    equal = sum(found.is_equal[at] for at in range(start, end) if found.line[at] == number)
    if number < 0 or count < _HALF * (end - start) or equal < _HALF * (end - start):
        return start, end, -1, 0, 0
    at = [found.at[one] for one in range(start, end) if found.line[one] == number]
    line = found.lines[number]
    # All of a word, also where chance gave one of its letters to another word.
    for first, last in _words(line.letters, line.text):
        if first <= min(at) < last and line.letters.text[first:last] == found.letters.text[start:end]:
            return start, end, number, first, last
    return start, end, number, min(at), max(at) + 1


_NARROW: Final = frozenset("iljtf1|.,:;'!()[] ")
_MARGIN: Final = 0.12
"""Of its height, which RapidOCR adds to a line on all sides."""
_WIDE: Final = frozenset("mwMW@%")


def _width(letter: str) -> float:
    if letter in _NARROW:
        return 0.5
    return 2.0 if _CJK.match(letter) else 1.4 if letter in _WIDE or letter.isupper() else 1.0


def _along(line: _WitnessLine, size_px: tuple[int, int]) -> list[tuple[float, float]]:
    """Return where each character of a line begins and ends, in shares of the line's length.

    Within a word, or a line whose words' places are not known, letters are as wide as they usually are.
    """
    spans = [word.span() for word in re.finditer(r"\S+", line.text)]
    ends = [end / SHARES for end in line.box.words]
    if len(ends) != 2 * len(spans):
        x0, y0, x1, y1, _, _, x3, y3 = line.box.corners
        high_px = hypot((x3 - x0) * size_px[0], (y3 - y0) * size_px[1])
        wide_px = hypot((x1 - x0) * size_px[0], (y1 - y0) * size_px[1])
        margin = min(_MARGIN * high_px / max(1.0, wide_px), _MARGIN)
        spans, ends = [(0, len(line.text))], [margin, 1 - margin]
    places = [(0.0, 0.0)] * len(line.text)
    for (start, end), left, right in zip(spans, ends[::2], ends[1::2], strict=True):
        widths = list(accumulate(map(_width, line.text[start:end]), initial=0.0))
        places[start:end] = pairwise(left + (right - left) * width / widths[-1] for width in widths)
    return places


def _part(corners: Corners, left: float, right: float) -> Corners:
    """Return the corners of a part of a line, without RapidOCR's margin above and below."""
    x0, y0, x1, y1, x2, y2, x3, y3 = corners

    def point(at: float, down: float) -> tuple[int, int]:
        top, bottom = (x0 + at * (x1 - x0), y0 + at * (y1 - y0)), (x3 + at * (x2 - x3), y3 + at * (y2 - y3))
        return (
            round(min(SHARES, max(0, top[0] + down * (bottom[0] - top[0])))),
            round(min(SHARES, max(0, top[1] + down * (bottom[1] - top[1])))),
        )

    return (
        *point(left, _MARGIN),
        *point(right, _MARGIN),
        *point(right, 1 - _MARGIN),
        *point(left, 1 - _MARGIN),
    )


def _word_ends(
    text: str, found: _Alignment, run: range, number: int, along: Sequence[tuple[float, float]]
) -> list[float]:
    """Return where the words of a run of letters begin and end along their line; [] if one has no letter in it."""
    origin, line = found.letters.origin, found.lines[number].letters
    ends: list[float] = []
    for word in re.compile(r"\S+").finditer(text, origin[run[0]], origin[run[-1]] + 1):
        letters = range(bisect_left(origin, word.start()), bisect_left(origin, word.end()))
        at = [line.origin[found.at[one]] for one in letters if found.line[one] == number]
        if not at:
            return []
        ends += [along[min(at)][0], along[max(at)][1]]
    return ends
