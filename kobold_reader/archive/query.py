"""What a person typed, taken apart: the terms, and how exact each of them looks.

Everything that is compared with a page, query or page alike, goes through `fold`, so that case,
accents, ligatures, the long s and full-width forms of a transcription never decide whether a page
is found.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from enum import StrEnum

from kobold_reader.archive.notations import Notation, date_length, notation_of

__all__ = ["Kind", "Query", "Term", "fold", "fold_with_offsets", "is_unspaced", "parse_query"]

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
