"""A query taken apart: its terms, how exact each of them looks, and other ways to write its dates and amounts.

Pages and queries are compared as folded text (`fold`), so that case, accents, vowel marks, ligatures, the long s,
full-width forms, forms of Arabic letters and the ends of lines never decide whether a page is found.

A date or an amount in a query also finds its other notations: 12.03.1954 and 12th March 1954, 1249.00 and 1.249,00.
The tables are in `notations.toml` and `stopwords.toml`.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any

MAX_QUERY_CHARS = 2000
MAX_TERMS = 48


class Kind(StrEnum):
    """How a term looks. The more exact it is, the likelier a page without it is the wrong page."""

    PHRASE = "phrase"
    NUMBER = "number"
    CODE = "code"
    NAME = "name"
    WORD = "word"
    STOP = "stop"


@dataclass(frozen=True)
class Term:
    """A word, a number or a quoted phrase of a query."""

    text: str
    """As typed, without quotes and edge punctuation."""
    folded: str
    parts: tuple[str, ...]
    """The runs of letters and digits of `folded`, at least one; a term of symbols is a part as a whole."""
    kind: Kind

    @property
    def notation(self) -> Notation | None:
        """Other ways to write a date or an amount."""
        return notation_of(self.folded) if self.kind is Kind.NUMBER else None


@dataclass(frozen=True)
class Query:
    """A query taken apart."""

    text: str
    """As typed, cut at 2,000 characters, and valid Unicode."""
    terms: tuple[Term, ...]
    """In the order typed, without repetitions, 48 at most; empty if only punctuation was typed."""
    is_question: bool
    """Whether it reads like a sentence rather than a list of search words."""


# ── folding ───────────────────────────────────────────────────────────────────────────────────────

FOLDING = 6
"""Raised with every change of `PageRow.names`, and of what `fold` or `words.put` make of a text.

An archive's words are then made anew.
"""
_VOICING = frozenset("\u3099\u309a")
"""Part of the Japanese letters that they are written with; か and が are two letters."""
_TATWEEL = "\u0640"
"""It draws out an Arabic word in print, as in محـمـد."""
_REPLACED = str.maketrans(
    {
        _TATWEEL: "",
        "ø": "o",
        "đ": "d",
        "ł": "l",
        "æ": "ae",
        "œ": "oe",
        "ı": "i",
        **dict.fromkeys("‘’ʼ", "'"),
        **dict.fromkeys("‐‑‒–—−", "-"),
        # Arabic, as it is written and as keyboards of the neighbouring languages write it.
        "ٱ": "ا",
        **dict.fromkeys("ىی", "ي"),
        **dict.fromkeys("ةہھەۀ", "ه"),
        "ک": "ك",
    }
)


_PICTOGRAPH = re.compile(r"[\u2190-\u21ff\u2300-\u23ff\u2500-\u27bf\u2900-\u297f\u2b00-\u2bff\U0001f000-\U0001faff]")
"""Emoji, arrows, dingbats and drawn symbols."""
_HALF_WIDTH = re.compile(r"[\uff66-\uff9d][\uff9e\uff9f]")
"""A half-width letter of Japanese with its voicing mark."""
_CLUSTER = re.compile(
    rf"{_HALF_WIDTH.pattern}|[\u3046-\u30fe][\u3099\u309a]|[\u1100-\u115f][\u1160-\u11a7][\u11a8-\u11ff]?|.", re.DOTALL
)
"""Characters that make one letter together."""
_HAN_OR_KANA = r"[\u3041-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
_SPACE = r"[ \u00a0\u2000-\u200a\u202f\u205f\u3000]"
HYPHENS = "-‐¬⸗"
"""Written where a word is broken at the end of a line."""
_LINE_END = re.compile(
    # A hyphen goes where one word was broken. It stays, and only the line end goes, in Lindqvist-Berg.
    rf"(?<=[^\W\d_]|[\u0300-\u036f])[{HYPHENS}]\s*\n\s*(?=[^\W\d_])(?!(?:und|oder|bzw|och|eller|og)\b)"
    r"|(?<=[^\W\d_]|[\u0300-\u036f])\u00ad\s*\n\s*(?=[^\W\d_])"
    rf"|(?<={_HAN_OR_KANA})(?:[ \t\r]*\n[ \t]*|{_SPACE})(?={_HAN_OR_KANA})"
)
"""Left out between two halves of a word at the end of a line, and between characters of Chinese and Japanese."""


def _is_mark(char: str) -> bool:
    return unicodedata.category(char).startswith("M")


class _Folding(dict[int, str]):
    """A table for `str.translate` that folds each character when it first occurs."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        category = unicodedata.category(char)
        # Python 3.11 does not know the newest emoji, which are "Cn".
        is_unknown = category == "Cn" and not _PICTOGRAPH.fullmatch(char)
        if is_unknown or category in {"Cf", "Cs"} or (category == "Cc" and not char.isspace()):
            folded = ""
        else:
            plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", char).casefold())
            letters = "".join(
                str(unicodedata.decimal(one, one))
                for one in plain.translate(_REPLACED)
                if one in _VOICING or not _is_mark(one)
            )
            folded = unicodedata.normalize("NFC", letters)
            folded = "" if folded in _VOICING else folded  # without a letter
            folded = char if folded.isspace() and not char.isspace() else folded  # a lone accent is no space
        self[code] = folded
        return folded


_FOLDING = _Folding()


def _cuts(text: str) -> list[tuple[int, int]]:
    """Return start and end of what is left out at the ends of lines."""
    cuts = []
    for found in _LINE_END.finditer(text):
        start, after = found.start(), text[found.end()]
        is_compound = text[start] in HYPHENS and after.isupper() and not text[start - 1].isupper()
        cuts.append((start + is_compound, found.end()))
    return cuts


def fold(text: str) -> str:
    """Return text as it is compared: lower case, no accents or vowel marks, no variants of letters and figures.

    Words that were broken at the end of a line are whole.
    """
    if text.isascii() and text.isprintable():
        return text.lower()
    if cuts := _cuts(text):
        starts = (0, *(end for _, end in cuts))
        text = "".join(text[start:end] for start, (end, _) in zip(starts, (*cuts, (len(text), 0)), strict=True))
    text = _HALF_WIDTH.sub(lambda found: unicodedata.normalize("NFKC", found[0]), text)
    return unicodedata.normalize("NFC", text).translate(_FOLDING)


def fold_with_offsets(text: str) -> tuple[str, list[int]]:
    """Return the folded text, and for each of its characters (and its end) the offset in `text`."""
    pieces: list[tuple[int, str]] = []
    start = 0
    for stop, after in (*_cuts(text), (len(text), len(text))):
        part = text[start:stop]
        if unicodedata.is_normalized("NFC", part) and not _HALF_WIDTH.search(part):
            pieces += [(at, _FOLDING[ord(char)]) for at, char in enumerate(part, start=start)]
        else:
            pieces += [(start + found.start(), fold(found[0])) for found in _CLUSTER.finditer(part)]
        start = after
    offsets = [at for at, piece in pieces for _ in piece]
    return "".join(piece for _, piece in pieces), [*offsets, len(text)]


# Korean has spaces, but its particles are written together with the word: 범선 is in 범선이.
UNSPACED = (
    r"[\uac00-\ud7a3\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
    r"\U00020000-\U0003ffff]"
)

_UNSPACED = re.compile(UNSPACED)


def is_unspaced(text: str) -> bool:
    """Tell whether text is found inside of others: Chinese, Japanese, Korean, Thai and others, and symbols."""
    return _UNSPACED.search(text) is not None or not any(map(str.isalnum, text))


def _table(name: str) -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name(name).read_text(encoding="utf-8"))


# ── parsing ───────────────────────────────────────────────────────────────────────────────────────

_PICTOGRAPHS = re.compile(f"(?:{_PICTOGRAPH.pattern}[\\ufe00-\\ufe0f\\u200d\U0001f3fb-\U0001f3ff]*)+")
_QUOTES = '"“”„‟«»「」『』〝〞〟'
_QUOTED = re.compile(rf"[{_QUOTES}]([^{_QUOTES}]+)[{_QUOTES}]")
_GAPS = re.compile(rf"[\s()\[\]{{}}<>|;{_QUOTES}…]+|(?<!\d)[,:]|[,:](?!\d)")
RUNS = re.compile(r"[^\W_]+")
EDGES = re.compile(r"^[\W_]+|[\W_]+$")
_STOPWORDS, _QUESTION_WORDS = (
    frozenset(fold(word) for words in _table("stopwords.toml")[kind].values() for word in words.split())
    for kind in ("stop", "question")
)


def parse_query(text: str) -> Query:
    """Take a query apart. Any string is a query; none raises."""
    text = text[:MAX_QUERY_CHARS].encode("utf-8", "replace").decode("utf-8")
    found: list[Term] = []
    is_loud = text.isupper()
    rest_start = 0
    for quoted in _QUOTED.finditer(text):
        found += _plain_terms(text[rest_start : quoted.start()], is_start=rest_start == 0, is_loud=is_loud)
        found += _make_terms(quoted[1], Kind.PHRASE)
        rest_start = quoted.end()
    found += _plain_terms(text[rest_start:], is_start=rest_start == 0, is_loud=is_loud)
    if not found:  # beside words, signs such as + and € tell nothing
        found = [_symbols(piece) for piece in text.split() if any(map(_is_symbol, piece))]
    found = [term for term in found if term.folded]  # a lone ¨ is folded away
    terms = tuple({(term.folded, term.kind is Kind.PHRASE): term for term in found}.values())
    return Query(text, terms[:MAX_TERMS], _is_question(text, terms))


def unquoted(text: str) -> str:
    """Return a query whose words need not stand side by side."""
    return " ".join(re.sub(rf"[{_QUOTES}]", " ", text).split())


def _plain_terms(text: str, *, is_start: bool, is_loud: bool) -> list[Term]:
    terms: list[Term] = []
    pieces = [piece for raw in _GAPS.split(_PICTOGRAPHS.sub(r" \g<0> ", text)) if (piece := _core(raw))]
    while pieces:
        if _PICTOGRAPH.match(pieces[0]):
            length = 1
            terms.append(_symbols(pieces[0]))
        elif length := _date_length([fold(piece) for piece in pieces[:5]]):
            terms += _make_terms(" ".join(pieces[:length]), Kind.NUMBER)
        else:
            length = 1
            kind = _kind(pieces[0], is_first=is_start and not terms, is_loud=is_loud)
            terms += _make_terms(pieces[0], kind)
        del pieces[:length]
    return terms


def _core(piece: str) -> str:
    """Return a piece of a query without its edge punctuation; pictographs as they are."""
    return piece if _PICTOGRAPH.match(piece) else EDGES.sub("", piece)


def _is_symbol(char: str) -> bool:
    return unicodedata.category(char).startswith("S")


def _symbols(piece: str) -> Term:
    folded = "".join(char for char in fold(piece) if _is_symbol(char) or _PICTOGRAPH.match(char))
    return Term(piece, folded, (folded,), Kind.WORD)


def _make_terms(text: str, kind: Kind) -> list[Term]:
    text = EDGES.sub("", text)
    folded = EDGES.sub("", fold(text))
    parts = tuple(RUNS.findall(folded))
    return [Term(text, folded, parts, kind)] if parts else []


def _kind(text: str, *, is_first: bool, is_loud: bool) -> Kind:
    if any(char.isdigit() for char in text):
        return Kind.CODE if any(char.isalpha() for char in text) else Kind.NUMBER
    if len(text) > 1 and text.isupper() and not is_loud and fold(text) in _STOPWORDS:
        return Kind.STOP  # AND, OR and NOT are no operators, and no names
    if text[:1].isupper() and not (is_first and text[1:].islower()):
        return Kind.NAME  # also a stopword: it may be part of a name (Du Pont, Sin Du)
    return Kind.STOP if fold(text) in _STOPWORDS else Kind.WORD


def _is_question(text: str, terms: tuple[Term, ...]) -> bool:
    if text.rstrip().endswith("?") or (terms and terms[0].folded in _QUESTION_WORDS):
        return True
    stops = sum(term.kind is Kind.STOP for term in terms)
    return stops > 1 and stops * 3 >= len(terms)


# ── dates and amounts ─────────────────────────────────────────────────────────────────────────────

SURE = 0.95
"""Strength of another notation of the same date or amount."""
SHORT_YEAR = 0.85
"""Strength of a date without its century."""
OTHER_ORDER = 0.75
"""Strength of a date whose month and day may have been meant the other way round."""

_NOTATIONS = _table("notations.toml")
_MONTHS: list[list[str]] = _NOTATIONS["date"]["months"]
_MONTH_NUMBERS = {name: number for number, names in enumerate(_MONTHS, start=1) for name in names}
_FILLERS = frozenset(_NOTATIONS["date"]["fillers"])
_SEPARATOR = rf"(?:[\W_]|{'|'.join(_NOTATIONS['date']['separators'])})"
_THOUSANDS = f"[{re.escape(_NOTATIONS['amount']['thousands'])}]"
_DECIMAL = f"[{re.escape(_NOTATIONS['amount']['decimals'])}]"

_DAY = re.compile(r"(\d{1,2})(?:st|nd|rd|th)?\.?")
_YEAR = re.compile(r"\d{4}")
_YEAR_FIRST = re.compile(r"(\d{4})([./-])(\d{1,2})\2(\d{2})")
_YEAR_LAST = re.compile(r"(\d{1,2})([./-])(\d{1,2})\2(\d{4})")
_AMOUNT = re.compile(rf"(\d{{1,3}}(?:{_THOUSANDS}\d{{3}})+|\d+)(?:{_DECIMAL}(\d{{2}}))?")
_ALONE = r"(?<!\d)(?<!\d[.,])"
"""Before a number that is not the end of a longer one."""
_LAST_MONTH = 12
_LAST_DAY = 31
_LEAST_GROUPED = 1000
_REACH = 48
"""Characters before and behind an anchor: no date is longer."""


@dataclass(frozen=True)
class Spelling:
    """One way to write a date or an amount."""

    anchor: str
    """Digits in it; `pattern` is tried only around them."""
    pattern: re.Pattern[str]
    """For folded text."""
    strength: float
    """How surely it means the same, 0 to 1."""

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield start and end of each occurrence."""
        done, at = 0, text.find(self.anchor)
        while at >= 0:
            for found in self.pattern.finditer(text, max(done, at - _REACH), at + _REACH):
                done = found.end()
                yield found.span()
            at = text.find(self.anchor, max(done, at + 1))


@dataclass(frozen=True)
class Notation:
    """All ways to write one date or one amount."""

    phrases: tuple[tuple[str, ...], ...]
    """Runs of words as the index of words holds them; any of them makes a page a candidate."""
    spellings: tuple[Spelling, ...]
    """The surest first."""

    def spans(self, text: str) -> Iterator[tuple[int, int, float]]:
        """Yield start, end and strength of the occurrences in folded text, of the surest spelling only."""
        for spelling in self.spellings:
            if found := list(spelling.spans(text)):
                yield from ((*span, spelling.strength) for span in found)
                return


@lru_cache(maxsize=256)
def notation_of(folded: str) -> Notation | None:
    """Return the notations of a folded date or amount; None for any other text."""
    if day := _named_day([word for word in re.split(r"[\s,]+", folded) if word not in _FILLERS]):
        return _date(*day, is_named=True)
    if found := _YEAR_FIRST.fullmatch(folded):
        return _date(int(found[1]), int(found[3]), int(found[4]), is_named=True)
    if found := _YEAR_LAST.fullmatch(folded):
        return _ambiguous_date(int(found[1]), int(found[3]), int(found[4]))
    found = _AMOUNT.fullmatch(folded)
    return _amount(re.sub(r"\D", "", found[1]), found[2]) if found else None


def _date_length(words: Sequence[str]) -> int:
    """Return how many of the first folded words are a date with a named month; 0 for none."""
    kept: list[str] = []
    for count, word in enumerate(words, start=1):
        if word not in _FILLERS or not kept:
            kept.append(word)
        if len(kept) == 3:  # noqa: PLR2004
            return count if _named_day(kept) else 0
    return 0


def _named_day(words: Sequence[str]) -> tuple[int, int, int] | None:
    """Return year, month and day of `12 march 1954` and `march 12 1954`."""
    match words:
        case (first, second, year) if _YEAR.fullmatch(year):
            for day, month in ((first, second), (second, first)):
                found, number = _DAY.fullmatch(day), _MONTH_NUMBERS.get(month.rstrip("."))
                if found and number and 1 <= int(found[1]) <= _LAST_DAY:
                    return int(year), number, int(found[1])
    return None


def _ambiguous_date(first: int, second: int, year: int) -> Notation | None:
    """Day and month in this order, as most of the world writes them; the other order with less trust."""
    sure, other = _date(year, second, first, is_named=False), _date(year, first, second, is_named=False)
    if sure is None or other is None or first == second:
        return sure or other
    turned = tuple(replace(spelling, strength=OTHER_ORDER) for spelling in other.spellings)
    return Notation(tuple(dict.fromkeys(sure.phrases + other.phrases)), sure.spellings + turned)


def _date(year: int, month: int, day: int, *, is_named: bool) -> Notation | None:
    if not (1 <= month <= _LAST_MONTH and 1 <= day <= _LAST_DAY):
        return None
    names = "|".join(sorted(_MONTHS[month - 1], key=len, reverse=True))
    full, short = f"{year:04}", f"{year % 100:02}"
    gap, gap_or_none = f"{_SEPARATOR}{{1,4}}", f"{_SEPARATOR}{{0,4}}"
    day_first = rf"0?{day}{gap}0?{month}{gap}"
    month_first = rf"0?{month}{gap}0?{day}{gap}"
    day_named = rf"0?{day}(?:st|nd|rd|th)?"

    def spelling(year_digits: str, strength: float) -> Spelling:
        forms = [
            rf"{day_named}{gap_or_none}(?:{names}){gap_or_none}{year_digits}",
            rf"(?:{names}){gap_or_none}{day_named}{gap}{year_digits}",
            day_first + year_digits,
        ]
        if year_digits == full:
            forms.append(rf"{full}{gap}0?{month}{gap}0?{day}")
            forms.append(rf"{full}{month:02}{day:02}")
        if day > _LAST_MONTH:  # in the other order it can only be this day
            forms.append(month_first + year_digits)
        return Spelling(year_digits, re.compile(rf"{_ALONE}(?:{'|'.join(forms)})(?!\d)"), strength)

    spellings = [spelling(full, SURE), spelling(short, SHORT_YEAR)]
    if is_named and day <= _LAST_MONTH and day != month:
        spellings.append(Spelling(full, re.compile(rf"{_ALONE}{month_first}{full}(?!\d)"), OTHER_ORDER))
    return Notation(tuple(_date_phrases(day, month, full, short)), tuple(spellings))


def _date_phrases(day: int, month: int, full: str, short: str) -> Iterator[tuple[str, ...]]:
    names = _MONTHS[month - 1]
    for d in dict.fromkeys((str(day), f"{day:02}")):
        for m in dict.fromkeys((str(month), f"{month:02}")):
            yield from ((d, m, full), (full, m, d), (m, d, full), (d, m, short))
        for name in names:
            yield from ((d, name, full), (name, d, full), (d, name, short))
    ordinal = f"{day}{'th' if day // 10 == 1 else {1: 'st', 2: 'nd', 3: 'rd'}.get(day % 10, 'th')}"
    for name in names[:2]:
        yield from ((ordinal, name, full), (ordinal, "of", name, full), (name, ordinal, full))
    yield (f"{full}{month:02}{day:02}",)


def _amount(whole: str, cents: str | None) -> Notation | None:
    if int(whole) < _LEAST_GROUPED and cents is None:
        return None
    groups = [whole[max(0, end - 3) : end] for end in range(len(whole), 0, -3)][::-1]
    number = f"{_THOUSANDS}?".join(groups)
    phrases = [(whole,), tuple(groups)]
    if cents is not None:
        number += _DECIMAL + cents
        phrases = [(*phrase, cents) for phrase in phrases]
    pattern = re.compile(rf"{_ALONE}{number}(?![\d]|[.,]\d)")
    return Notation(tuple(dict.fromkeys(phrases)), (Spelling(groups[-1], pattern, SURE),))
