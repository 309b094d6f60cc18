"""What a person typed, taken apart: the terms, and how exact each of them looks.

Everything that is compared with a page, query or page alike, goes through `fold`, so that case,
accents, ligatures, the long s and full-width forms of a transcription never decide whether a page
is found.

The same day, the same amount, written another way: 12.03.1954 and 12th March 1954, 1249.00 and 1.249,00.

A number in a query stands for all the ways to write it. Two digits before a year are day and month in this order, as
most of the world writes them; the other order is found too where nothing else says which is meant, with less trust.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache

__all__ = [
    "Kind",
    "Notation",
    "Query",
    "Term",
    "date_length",
    "fold",
    "fold_with_offsets",
    "is_unspaced",
    "notation_of",
    "parse_query",
]

_MONTHS = tuple(
    tuple(names.split())
    for names in (
        "january jan januar janner janvier janv enero ene gennaio gen januari",
        "february feb februar fevrier fevr febrero febbraio februari",
        "march mar marz maerz mrz mars marzo maart mrt",
        "april apr avril avr abril abr aprile",
        "may mai mayo maggio mag mei maj",
        "june jun juni juin junio giugno giu",
        "july jul juli juillet juil julio luglio lug",
        "august aug aout agosto ago augustus augusti",
        "september sep sept septembre septiembre settembre set",
        "october oct okt oktober octobre octubre ottobre ott",
        "november nov novembre noviembre",
        "december dec dez dezember decembre diciembre dic dicembre",
    )
)
"""Of English, German, French, Spanish, Italian, Dutch, Swedish; folded."""
_NUMBER_OF = {name: number for number, names in enumerate(_MONTHS, start=1) for name in names}

_DAY = re.compile(r"(\d{1,2})(?:st|nd|rd|th)?\.?")
_YEAR = re.compile(r"\d{4}")
_NUMERIC = re.compile(r"(\d{1,4})([./-])(\d{1,2})\2(\d{2,4})")
_WHOLE = re.compile(r"(\d{1,3}(?:[.,']\d{3})+|\d+)(?:[.,](\d{2}))?")
_BETWEEN = frozenset({"de", "of", "del", "den"})
_LEAST_GROUPED = 1000
_CENTURY = 100
_MONTHS_A_YEAR = 12
_LAST_DAY = 31
_REACH = 48
"""Characters before and behind an anchor: no date is longer."""

SURE = 0.95
"""Another notation of the same."""
SHORT_YEAR = 0.85
"""The century is left out."""
OTHER_ORDER = 0.75
"""Month and day may have been meant the other way round."""


@dataclass(frozen=True)
class Way:
    """One way to write something.

    Attributes:
        anchor: Digits that stand in it: the pattern is tried around them alone.
        pattern: For folded text.
        strength: How sure it is that this is meant, 0 to 1.
    """

    anchor: str
    pattern: re.Pattern[str]
    strength: float

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Start and end of where it stands."""
        done, at = 0, text.find(self.anchor)
        while at >= 0:
            for found in self.pattern.finditer(text, max(done, at - _REACH), at + _REACH):
                done = found.end()
                yield found.span()
            at = text.find(self.anchor, max(done, at + 1))


@dataclass(frozen=True)
class Notation:
    """All ways to write one day or one amount.

    Attributes:
        phrases: Runs of words as an index of words holds them, any of which makes a page a candidate.
        ways: The surest first.
    """

    phrases: tuple[tuple[str, ...], ...]
    ways: tuple[Way, ...]

    def spans(self, text: str) -> Iterator[tuple[int, int, float]]:
        """Start and end of where it stands in folded text, with how sure that is; of the surest way alone."""
        for way in self.ways:
            found = list(way.spans(text))
            if found:
                yield from ((*span, way.strength) for span in found)
                return


@lru_cache(maxsize=256)
def notation_of(folded: str) -> Notation | None:
    """Return the notations of a folded date or amount; None for what is neither."""
    words = [word for word in re.split(r"[\s,]+", folded) if word not in _BETWEEN]
    if day := _named(words):
        return _of_day(*day, is_named=True)
    if found := _NUMERIC.fullmatch(folded):
        first, _, second, third = found.groups()
        if len(first) == 4 and len(third) <= 2:  # noqa: PLR2004
            return _of_day(int(first), int(second), int(third), is_named=True)
        if len(first) <= 2 and len(third) in {2, 4}:  # noqa: PLR2004
            return _of_numbers(int(first), int(second), third)
        return None
    found = _WHOLE.fullmatch(folded)
    return _of_amount(re.sub(r"\D", "", found[1]), found[2]) if found else None


def date_length(words: Sequence[str]) -> int:
    """Return how many of the first folded words are one date with its month by name; 0: they begin with none."""
    kept: list[str] = []
    for count, word in enumerate(words[:5], start=1):
        if word in _BETWEEN and kept:
            continue
        kept.append(word)
        if len(kept) == 3:  # noqa: PLR2004
            return count if _named(kept) else 0
    return 0


# ── days ──────────────────────────────────────────────────────────────────────────────────────────


def _named(words: Sequence[str]) -> tuple[int, int, int] | None:
    """Year, month and day of `12 march 1954` and `march 12 1954`."""
    if len(words) != 3 or not _YEAR.fullmatch(words[2]):  # noqa: PLR2004
        return None
    for day, month in ((words[0], words[1]), (words[1], words[0])):
        found, number = _DAY.fullmatch(day), _NUMBER_OF.get(month.rstrip("."))
        if found and number and 1 <= int(found[1]) <= _LAST_DAY:
            return int(words[2]), number, int(found[1])
    return None


def _of_numbers(first: int, second: int, year: str) -> Notation | None:
    if len(year) == 2:  # noqa: PLR2004
        return None  # of which century: only what is typed is looked for
    if first > _MONTHS_A_YEAR:
        return _of_day(int(year), second, first, is_named=False)
    if second > _MONTHS_A_YEAR:
        return _of_day(int(year), first, second, is_named=False)
    sure, other = (_of_day(int(year), *pair, is_named=False) for pair in ((second, first), (first, second)))
    if sure is None or other is None or first == second:
        return sure
    turned = tuple(replace(way, strength=OTHER_ORDER) for way in other.ways)
    phrases = tuple(dict.fromkeys((*sure.phrases, *other.phrases)))
    return Notation(phrases, (*sure.ways, *turned))


def _of_day(year: int, month: int, day: int, *, is_named: bool) -> Notation | None:
    if not (1 <= month <= _MONTHS_A_YEAR and 1 <= day <= _LAST_DAY):
        return None
    names = "|".join(sorted(_MONTHS[month - 1], key=len, reverse=True))
    full, short = f"{year:04}", f"{year % _CENTURY:02}"
    gap = r"(?:[\W_年月]|de|of){1,4}"
    between = r"(?:[\W_年月]|de|of){0,4}"
    day_digits, month_digits = f"0?{day}", f"0?{month}"
    day_named = rf"{day_digits}(?:st|nd|rd|th)?"

    def written(year_digits: str) -> re.Pattern[str]:
        forms = [
            rf"{day_named}{between}(?:{names}){between}{year_digits}",
            rf"(?:{names}){between}{day_named}{gap}{year_digits}",
            rf"{day_digits}{gap}{month_digits}{gap}{year_digits}",
        ]
        if len(year_digits) == len(full):
            forms.append(rf"{year_digits}{gap}{month_digits}{gap}{day_digits}")
            forms.append(rf"{year_digits}{month:02}{day:02}")
        if day > _MONTHS_A_YEAR:  # the other order can only be this day
            forms.append(rf"{month_digits}{gap}{day_digits}{gap}{year_digits}")
        return re.compile(rf"(?<!\d)(?<!\d[.,])(?:{'|'.join(forms)})(?!\d)")

    ways = [Way(full, written(full), SURE), Way(short, written(short), SHORT_YEAR)]
    if is_named and day <= _MONTHS_A_YEAR and day != month:
        turned = rf"(?<!\d)(?<!\d[.,]){month_digits}{gap}{day_digits}{gap}{full}(?!\d)"
        ways.append(Way(full, re.compile(turned), OTHER_ORDER))
    return Notation(tuple(_phrases(day, month, full, short)), tuple(ways))


def _phrases(day: int, month: int, full: str, short: str) -> Iterator[tuple[str, ...]]:
    for d in dict.fromkeys((str(day), f"{day:02}")):
        for m in dict.fromkeys((str(month), f"{month:02}")):
            yield from ((d, m, full), (full, m, d), (m, d, full), (d, m, short))
        for name in _MONTHS[month - 1]:
            yield from ((d, name, full), (name, d, full), (d, name, short))
    ordinal = f"{day}{_ordinal(day)}"
    for name in _MONTHS[month - 1][:2]:
        yield from ((ordinal, name, full), (ordinal, "of", name, full), (name, ordinal, full))
    yield (f"{full}{month:02}{day:02}",)


def _ordinal(day: int) -> str:
    return "th" if day // 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")


# ── amounts ───────────────────────────────────────────────────────────────────────────────────────


def _of_amount(whole: str, cents: str | None) -> Notation | None:
    """The thousands apart or not, either sign before the cents."""
    if int(whole) < _LEAST_GROUPED and cents is None:
        return None
    groups = [whole[max(0, end - 3) : end] for end in range(len(whole), 0, -3)][::-1]
    number = r"[.,' ]?".join(groups)
    phrases = [(whole,), tuple(groups)]
    if cents is not None:
        number += rf"[.,]{cents}"
        phrases = [(*phrase, cents) for phrase in phrases]
    pattern = re.compile(rf"(?<!\d)(?<!\d[.,]){number}(?![\d]|[.,]\d)")
    return Notation(tuple(dict.fromkeys(phrases)), (Way(groups[-1], pattern, SURE),))


MAX_QUERY_CHARS = 2000
MAX_TERMS = 48


class Kind(StrEnum):
    """How a term looks; the more exact, the more a page that lacks it is the wrong page."""

    PHRASE = "phrase"
    NUMBER = "number"
    CODE = "code"
    NAME = "name"
    WORD = "word"
    STOP = "stop"


@dataclass(frozen=True)
class Term:
    """One thing asked for: a word, a number, a quoted phrase.

    Attributes:
        text: As typed, without quotes and edge punctuation.
        folded: As pages are indexed.
        parts: The runs of letters and digits of `folded`, at least one.
        kind: How exact it looks.
    """

    text: str
    folded: str
    parts: tuple[str, ...]
    kind: Kind

    @property
    def notation(self) -> Notation | None:
        """Other ways to write it, where it is a date or an amount."""
        return notation_of(self.folded) if self.kind is Kind.NUMBER else None


@dataclass(frozen=True)
class Query:
    """A query taken apart; `terms` may be empty (only punctuation was typed).

    Attributes:
        text: As typed, cut at 2,000 characters.
        terms: Without repetitions, in the order typed, 48 at most.
        is_question: Whether it reads like a sentence and not like a list of search words.
    """

    text: str
    terms: tuple[Term, ...]
    is_question: bool


# ── folding ───────────────────────────────────────────────────────────────────────────────────────

# The accents of European scripts only: marks elsewhere (Japanese voicing, Indic vowels) are letters
# of their own.
_ACCENTS = (
    (0x0300, 0x036F),
    (0x1AB0, 0x1AFF),
    (0x1DC0, 0x1DFF),
    (0x20D0, 0x20FF),
    (0xFE20, 0xFE2F),
)
_EXTRA = {
    "ø": "o",
    "đ": "d",
    "ł": "l",
    "æ": "ae",
    "œ": "oe",
    "ı": "i",
    "’": "'",
    "‐": "-",
    "‑": "-",
    "–": "-",
    "—": "-",
}


class _Folding(dict[int, str]):
    """Table for `str.translate`, filled with each character when it is first met."""

    def __missing__(self, code: int) -> str:
        self[code] = folded = _fold_char(chr(code))
        return folded


def _fold_char(char: str) -> str:
    category = unicodedata.category(char)
    if category in {"Cf", "Cs", "Cn"} or (category == "Cc" and not char.isspace()):
        return ""
    plain = "".join(
        _EXTRA.get(c, c)
        for c in unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", char).casefold())
        if not any(first <= ord(c) <= last for first, last in _ACCENTS)
    )
    return unicodedata.normalize("NFC", plain)


_FOLDING = _Folding()


def fold(text: str) -> str:
    """Bring text into the form in which it is compared: lower case, no accents, no odd forms."""
    if text.isascii():
        text = text.lower()
        return text if text.isprintable() else text.translate(_FOLDING)
    return unicodedata.normalize("NFC", text).translate(_FOLDING)


def fold_with_offsets(text: str) -> tuple[str, list[int]]:
    """Fold, and say for each folded character (and for the end) where it stands in `text`."""
    pieces: list[str] = []
    offsets: list[int] = []
    for index, char in enumerate(text):
        piece = _FOLDING[ord(char)]
        pieces.append(piece)
        offsets.extend([index] * len(piece))
    offsets.append(len(text))
    return "".join(pieces), offsets


_UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
    r"\U00020000-\U0003ffff]"
)


def is_unspaced(text: str) -> bool:
    """Whether the script puts no spaces between words (Chinese, Japanese, Thai and others)."""
    return _UNSPACED.search(text) is not None


# ── parsing ───────────────────────────────────────────────────────────────────────────────────────

_QUOTED = re.compile(r"[\"“”„«]([^\"“”„«»]+)[\"“”»]")
_GAPS = re.compile(r"[\s()\[\]{}<>|;\"“”„«»…]+|(?<!\d)[,:]|[,:](?!\d)")
_RUNS = re.compile(r"[^\W_]+")
_EDGES = re.compile(r"^[\W_]+|[\W_]+$")

# Words that say nothing about a page, in the languages of the families' OCR models. Short on
# purpose: in an archive of any size the document frequency says the same, this list only serves
# small ones.
_STOPWORDS = frozenset(
    """a about all am an and any are as at be been but by can could did do does for from had has
    have he her him his how i if in into is it its me my no not of on or our out she so than that
    the their them then there these they this to up was we were what when where which who whom whose
    why will with would you your aber als am an auch auf aus bei bin bis das dass dem den der des
    die doch du ein eine einem einen einer eines er es für hat hatte ich ihr im in ist ja kann man
    mein mit nach nicht noch nur ob oder sein seine sich sie sind so über um und uns unter vom von
    vor wann war waren warum was weil welche welcher welches wem wen wenn wer wie wir wird wo wurde
    zu zum zur au aux avec ce ces cette dans de des du elle en est et eu il ils je la le les leur
    lui ma mais ne nous on ou où par pas pour qu que quel quelle qui sa se ses son sont sur un une
    vous al como con cual cuando de del donde el ella en era es esta este la las lo los más no o
    para pero por que quien se sin su sus un una y che chi come con da dal dei del della di dove e
    gli ha i il la le lo ma nel non per quando se si sono un una uno aan als bij dat de die door een
    en er het hij in is met naar niet of om op te van voor wat wie zijn att av den det en ett för
    från har i med och på som till var vem är""".split()  # noqa: SIM905
)
_FOLDED_STOPWORDS = frozenset(fold(word) for word in _STOPWORDS)
_QUESTION_WORDS = frozenset(
    """what when where which who whom whose why how wann warum was welche welcher welches wem wen
    wer wie wo wohin comment où pourquoi quand quel quelle qui cuándo cómo dónde quién qué chi come
    dove perché quando hoe waar waarom wanneer wat wie hur när vad var vem""".split()  # noqa: SIM905
)
_FOLDED_QUESTION_WORDS = frozenset(fold(word) for word in _QUESTION_WORDS)


def parse_query(text: str) -> Query:
    """Take a query apart. Any string is a query; none raises."""
    text = text[:MAX_QUERY_CHARS].encode("utf-8", "replace").decode("utf-8")
    found: list[Term] = []
    rest_start = 0
    for quoted in _QUOTED.finditer(text):
        found += _plain_terms(text[rest_start : quoted.start()], is_start=rest_start == 0)
        found += _make_terms(quoted[1], Kind.PHRASE)
        rest_start = quoted.end()
    found += _plain_terms(text[rest_start:], is_start=rest_start == 0)
    terms = tuple({(term.folded, term.kind is Kind.PHRASE): term for term in found}.values())
    return Query(text, terms[:MAX_TERMS], _is_question(text, terms))


def _plain_terms(text: str, *, is_start: bool) -> list[Term]:
    terms: list[Term] = []
    pieces = [piece for raw in _GAPS.split(text) if (piece := _EDGES.sub("", raw))]
    folded = [fold(piece) for piece in pieces]
    position = 0
    while position < len(pieces):
        if length := date_length(folded[position : position + 5]):
            terms += _make_terms(" ".join(pieces[position : position + length]), Kind.NUMBER)
            position += length
            continue
        is_first = is_start and not terms
        terms += _make_terms(pieces[position], _kind(pieces[position], is_first=is_first))
        position += 1
    return terms


def _make_terms(text: str, kind: Kind) -> list[Term]:
    text = _EDGES.sub("", text)
    folded = _EDGES.sub("", fold(text))
    parts = tuple(_RUNS.findall(folded))
    return [Term(text, folded, parts, kind)] if parts else []


def _kind(text: str, *, is_first: bool) -> Kind:
    if any(char.isdigit() for char in text):
        return Kind.CODE if any(char.isalpha() for char in text) else Kind.NUMBER
    is_capitalised = text[:1].isupper() and not (is_first and text[1:].islower())
    if is_capitalised:  # also a short one: it may be a name (Du Pont, Sin Du)
        return Kind.NAME
    if fold(text) in _FOLDED_STOPWORDS:
        return Kind.STOP
    return Kind.WORD


def _is_question(text: str, terms: tuple[Term, ...]) -> bool:
    if text.rstrip().endswith("?") or (terms and terms[0].folded in _FOLDED_QUESTION_WORDS):
        return True
    stops = sum(term.kind is Kind.STOP for term in terms)
    return stops >= 2 and stops * 3 >= len(terms)  # noqa: PLR2004
