"""Loops: does a text end in endless repetition? Cheap enough to be checked every second while a page is written.

Repetition alone proves nothing: forty equal ledger lines, rows of dots, tables of zeros and columns of ditto marks are
on real paper, and have to be kept. But paper is finite and a loop is not: a text is a loop if it ends in more
repetition than a page can hold. So every limit below is the capacity of a page, with room to spare.

Exact repetition is found by its period. Many loops are not exact: a model at a higher temperature, or under a penalty
on repetition, varies what it repeats. They are found by what does not come any more: something new. `_varied` counts
how long a text has gone on with words, or sequences of words, that it has written before.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MAX_EQUAL_LINES = 80
"""Repetitions of a unit that contains a line end. Ruled and typewritten pages have up to 70 lines."""
MAX_WORD_CHARS = 600
"""Characters of repeated words without a line end. A printed line has up to 200."""
LITANY = 1.5
"""Factor on these limits for a few Chinese or Japanese characters without a stop: prayers are written 108 times."""
MAX_LEADER_CHARS = 2000
"""Characters of a repeated unit without letters: dots, dashes, zeros. Models join several dotted lines of a form."""
MIN_COPIES_IN_LINE = 10
"""Fewer copies within a paragraph are a refrain, however long."""
MAX_PROSE_COPIES = ((100, 16), (400, 6))
"""Pairs: least letters of a unit, and how often it occurs at most, on a sheet of labels or receipts."""
MAX_LINE_STEPS = 150
"""Lines that are equal except for a number that grows by one."""
MAX_SHORT_STEPS = 250
"""Numbers that grow by one within a line, or in lines of letters: sheets of answers have 200 of `1. (A) (B)`."""
MIN_LINES_OF_FEW = 120
MAX_DISTINCT_LINES = 4
"""A text whose last 120 lines are at most four different ones is a loop that changes its order."""

MAX_OLD_WORDS = 600
"""Words in a row (net, see `_varied`) in sequences that the text has held before. The fullest pages have up to 350."""
MIN_WORD_LETTERS = 3
"""Shorter words and numbers fill tables, rosters and patterns; one weighs as much as `SHORT_WORD` words."""
SHORT_WORD = 0.1
LINE_WORDS = 3.0
"""A line weighs no less than this many words, and no more where it equals an earlier line that has few letters."""

_WINDOW = 24_000
_MIN_COPIES = min(copies for _, copies in MAX_PROSE_COPIES)
_LINE_END = re.compile(r"\n|<br ?/?>|</tr>|</p>|\\\\")
_MARKUP = re.compile(r"<[^<>\n]{1,80}>")
_NUMBER = re.compile(r"(\d+)")
_WORD = re.compile(r"[^\W\d_]{3}")


@dataclass(frozen=True, slots=True)
class Loop:
    """Where a text begins to repeat itself without end."""

    start: int
    """Start of the first occurrence."""
    kept: int
    """Where to cut the text: after the first or second occurrence of the repeated part."""


def find_loop(text: str, *, patience: float = 1.0) -> Loop | None:
    r"""Find the endless repetition that a text ends in.

    Args:
        text: The text so far.
        patience: Factor on all limits; more than 1 for a text that the model ended by itself, because that is finite.

    >>> find_loop("1 bushel of oats 0.50\n" * 60) is None
    True
    >>> find_loop("To Axel. " + "and the slates " * 60)
    Loop(start=8, kept=23)
    """
    exact = _repeated_unit(text, patience) or _counting(text, patience) or _few_lines(text, patience)
    varied = _varied(text, patience)
    is_earlier = varied is not None and exact is not None and varied.kept < exact.start
    return varied if exact is None or is_earlier else exact


def _repeated_unit(text: str, patience: float) -> Loop | None:
    """Find the shortest unit of which the text ends in more copies than a page can hold."""
    tail = text[-_WINDOW:]
    shared = _shared_ends(tail)
    periods: list[int] = []
    for period in range(1, len(tail) // _MIN_COPIES + 1):
        length = shared[period] + period
        if length < _MIN_COPIES * period or any(period % shorter == 0 for shorter in periods):
            continue  # three equal lines are no unit that is longer than one of them
        periods.append(period)
        if not _is_endless(tail[-period:], length, patience):
            continue
        start = len(text) - length
        while start > 0 and text[start - 1] == text[start - 1 + period]:
            start -= 1
        return _loop(text, start, start + period, has_lines="\n" in tail[-period:])
    return None


def _shared_ends(text: str) -> list[int]:
    """For each distance: how many characters at the end of the text equal those that far before (the Z-function)."""
    reverse = text[::-1]
    size = len(reverse)
    shared = [0] * (size + 1)
    left = right = 0
    for at in range(1, size):
        known = min(right - at, shared[at - left]) if at < right else 0
        while at + known < size and reverse[known] == reverse[at + known]:
            known += 1
        shared[at] = known
        if at + known > right:
            left, right = at, at + known
    return shared


def _is_endless(unit: str, length: int, patience: float) -> bool:
    copies = length / len(unit)
    patience *= LITANY if _IS_LITANY.fullmatch(unit) else 1
    letters = _letters(unit * 3) - _letters(unit * 2)  # a unit may begin within a tag
    if any(letters >= least and copies >= most * patience for least, most in MAX_PROSE_COPIES):
        return True
    if _LINE_END.search(unit * 2):
        return copies > MAX_EQUAL_LINES * patience
    return copies >= MIN_COPIES_IN_LINE and length >= (MAX_WORD_CHARS if letters else MAX_LEADER_CHARS) * patience


def _letters(text: str) -> int:
    return sum(map(str.isalpha, _MARKUP.sub("", text)))


def _counting(text: str, patience: float) -> Loop | None:
    """Find text that is equal except for one number that grows by one; the last number may be half written."""
    parts = _NUMBER.split(text[-_WINDOW:])
    numbers, between = parts[1::2], parts[2::2]
    first = last = len(numbers) - 2
    # Longer numbers are no counters, and Python refuses to read the longest.
    while (
        first > 0
        and between[first - 1] == between[last - 1]
        and max(len(numbers[first - 1]), len(numbers[first])) <= 9  # noqa: PLR2004
        and int(numbers[first]) == int(numbers[first - 1]) + 1
    ):
        first -= 1
    step = between[last - 1] if last > 0 else ""
    has_lines = "\n" in step
    has_choices = _letters(step) > 0 and not _WORD.search(step)
    if last - first < (MAX_LINE_STEPS if has_lines and not has_choices else MAX_SHORT_STEPS) * patience:
        return None
    start = len(text) - sum(map(len, parts[2 * first + 1 :]))
    kept = start + sum(map(len, parts[2 * first + 1 : 2 * first + 4]))
    return _loop(text, start, kept, has_lines=has_lines)


def _few_lines(text: str, patience: float) -> Loop | None:
    """Find many lines in a row of which only a few differ."""
    least = MIN_LINES_OF_FEW * patience
    lines = [line.strip() for line in text.split("\n")[:-1]]
    filled = [line for line in lines if line]
    known = set(filled[-int(least) :])
    if len(filled) < least or len(known) > MAX_DISTINCT_LINES:
        return None
    first = len(lines)
    while first > 0 and (not lines[first - 1] or lines[first - 1] in known):
        first -= 1
    ends = [0, *(found.end() for found in re.finditer("\n", text))]
    return Loop(ends[first], ends[min(first + len(known), len(lines))])


# ── loops that vary ──────────────────────────────────────────────────────────────────────────────

_IDEOGRAPH = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_UNSPACED = "\u0e00-\u0eff\u0f00-\u109f\u1780-\u17ff"  # Thai, Lao, Tibetan, Burmese, Khmer
_PIECE = re.compile(
    rf"(?P<line_end>{_LINE_END.pattern})|(?P<markup>{_MARKUP.pattern}|[<|])"
    rf"|(?P<ideograph>[{_IDEOGRAPH}])|(?P<letter>[{_UNSPACED}])|(?P<word>[^\s<|{_IDEOGRAPH}{_UNSPACED}]+)"
)
_NO_LETTER = re.compile(r"[\d_!-/:-@\[-`{-~]")  # not \W, which holds the vowel signs of India
_IS_LITANY = re.compile(rf"[{_IDEOGRAPH}\s]{{4,9}}")
_EDGES = re.compile(r"^[\W_]+|[\W_]+$")
_LONGEST_WORD = 40
_WEIGHTS = {"ideograph": 0.4, "letter": 0.15}
"""In words: a word of Chinese has one or two characters."""
_MEASURES: Sequence[tuple[Mapping[str, int], float]] = (
    ({"word": 3, "ideograph": 4, "letter": 8}, 0.2),
    ({"word": 1, "ideograph": 2, "letter": 5}, 0.04),
)
"""How many pieces in a row make a sequence, and the share of new sequences that a loop stays below. Prose has 0.9 of
the first, and 0.15 of the second at the end of a long page; a litany or a poem with refrains has 0.3 of the first."""


@dataclass(frozen=True, slots=True)
class _LoopWord:
    """A word, or a letter of a script without blanks."""

    kind: str
    text: str
    start: int
    line: int
    weight: float


def _varied(text: str, patience: float) -> Loop | None:
    """Find where a text ceased to say anything new, if it has gone on too long since.

    Each old sequence counts for a loop, by its weight, and each new one against it, so many times more that they cancel
    out at the share in `_MEASURES`. The loop begins where the sum to the end of the text is greatest.
    """
    if len(text) > _WINDOW and _varied(text[-_WINDOW:], patience) is None:
        return None  # the whole text is only needed to find the beginning of a loop
    pieces = _pieces(text)
    weights = _weights(pieces)
    limit = MAX_OLD_WORDS * patience
    if sum(weights) < limit:
        return None
    (at, old_words), (loose_at, loose_words) = (_old_end(pieces, weights, *measure) for measure in _MEASURES)
    if old_words < limit or loose_words > 2 * old_words:  # it began with more variation than at its end
        at, old_words = loose_at, loose_words
    if old_words < limit:
        return None
    start = pieces[at].start
    return _loop(text, start, start, has_lines=pieces[-1].line - pieces[at].line > 1)


def _pieces(text: str) -> list[_LoopWord]:
    """Split a text, without its markup; a number that counts on from the one in its place before is no news."""
    pieces: list[_LoopWord] = []
    counters: dict[str, tuple[int, int | None]] = {}
    """By the word before in its line: the last number, and how much more it was than the one before it."""
    before, line = "", 0
    for found in _PIECE.finditer(text):
        kind, piece, start = found.lastgroup or "", found.group(), found.start()
        if kind == "line_end":
            line += 1
            before = ""
        elif kind in _WEIGHTS:
            pieces.append(_LoopWord(kind, piece, start, line, _WEIGHTS[kind]))
        elif kind == "word" and (word := _EDGES.sub("", piece)):
            if len(word) > _LONGEST_WORD:
                weight = _WEIGHTS["letter"] if any(map(str.isalpha, word)) else SHORT_WORD / 5
                pieces += [_LoopWord("letter", char, start, line, weight) for char in word]
                continue
            digits = word.replace(".", "").replace(",", "")
            if digits.isdecimal() and len(digits) <= 9:  # noqa: PLR2004  (longer ones are no counters)
                number = int(digits)
                if (counter := counters.get(before)) is None:
                    counters[before] = number, None
                else:
                    counters[before] = number, number - counter[0]
                    word = "#" if number - counter[0] in {1, counter[1]} else word
            weight = 1.0 if len(word) - len(_NO_LETTER.findall(word)) >= MIN_WORD_LETTERS else SHORT_WORD
            pieces.append(_LoopWord(kind, word, start, line, weight))
            before = word
    return pieces


def _weights(pieces: Sequence[_LoopWord]) -> list[float]:
    """Return what each piece counts for; see LINE_WORDS."""
    of_lines: dict[int, float] = defaultdict(float)
    words: dict[int, list[str]] = defaultdict(list)
    for piece in pieces:
        of_lines[piece.line] += piece.weight
        words[piece.line].append(piece.text)
    known: set[str] = set()
    factors: dict[int, float] = {}
    for line, weight in of_lines.items():
        content = " ".join(words[line])
        is_equal = content in known and _letters(content) < MAX_PROSE_COPIES[0][0]
        known.add(content)
        factors[line] = LINE_WORDS / weight if weight < LINE_WORDS or is_equal else 1.0
    return [piece.weight * factors[piece.line] for piece in pieces]


def _old_end(
    pieces: Sequence[_LoopWord], weights: Sequence[float], lengths: Mapping[str, int], share: float
) -> tuple[int, float]:
    """Return where the old sequences begin that the text ends in, and their net weight in words."""
    known: set[tuple[str, ...]] = set()
    texts = [piece.text for piece in pieces]
    scores: list[float] = []
    for at, piece in enumerate(pieces):
        sequence = tuple(texts[at : at + lengths[piece.kind]])
        is_old = sequence in known
        known.add(sequence)
        scores.append(weights[at] * (share if is_old else share - 1))
    best, begin, total = 0.0, len(pieces), 0.0
    for at in range(len(pieces) - 1, -1, -1):
        total += scores[at]
        if total > best:
            best, begin = total, at
    return begin, best / share


def _loop(text: str, start: int, kept: int, *, has_lines: bool) -> Loop:
    """Keep whole lines where lines are repeated."""
    if has_lines:
        line_end = text.find("\n", max(kept - 1, 0))
        kept = line_end + 1 if line_end >= 0 else kept
    return Loop(start, kept)
