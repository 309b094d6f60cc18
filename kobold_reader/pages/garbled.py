"""Whether the characters of a text are those that its page shows, or those of a font with a wrong table.

A font in a PDF may say of its glyphs that they are other letters (shifted by a constant, permuted), signs, letters of
another code page ("Îãëàâëåíèå"), or nothing. The evidence does not depend on the language: pairs of letters that follow
one another in no language, characters without a meaning, a sign where spaces should be. Words of code are words too.

`letter_pairs.toml` tells how common pairs are. The rule was measured on the texts of tests/garbled_texts.py.
"""

from __future__ import annotations

import functools
import itertools
import re
import tomllib
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Final, Literal, NamedTuple

Judgement = Literal["text", "garbled", "doubtful"]

_MAX_CHARACTERS: Final = 20_000
"""More tell no more."""

# ── what no text has, in any script ──────────────────────────────────────────────────────────────

_MEANINGLESS: Final = frozenset({"Cc", "Co", "Cn", "Cs"})
_MAX_MEANINGLESS: Final = 0.05
_GLYPH_NAMES: Final = re.compile(r"\(cid:\d+\)|(?:/(?:[a-zA-Z]|glyph|uni|cid|index)\d{1,5}\b){2,}")
_LONGEST_NAME: Final = 11  # /glyph12345
_MAX_GLYPH_NAMES: Final = 0.2
_LEADERS: Final = re.compile(r"(\S)(?:\s?\1){2,}")  # dotted lines in a table of contents, rules
_MAX_SIGNS: Final = 0.5
_MIN_CHARACTERS: Final = 40
# A sign that stands for the space is the most common of all, where spaces are rare; minified code has others.
_FOR_SPACE: Final = "!#$%@¡¢£¤¥¦§¨©¬°±´¶¸"
_FOR_SPACE_SHARE: Final = 0.08
_BRACKETS: Final = ("()", "[]", "{}")
_CODE_SIGNS: Final = 0.25
_MIN_BRACKETS: Final = 8
# Many kinds of signs inside words: the codes of a font for another script, as old fonts for Hindi have.
_SIGNS_INSIDE: Final = frozenset('!"#$%&*<=>?@[\\]^`{|}~')
_SIGN_INSIDE: Final = re.compile(rf"(?<=[^\W_])[{re.escape(''.join(sorted(_SIGNS_INSIDE)))}](?=[^\W_])")
_STREWN_SIGNS: Final = 6
_STREWN_SHARE: Final = 0.3
_LONG_WORD: Final = 20
_LONG_STRETCH: Final = 30
_MAX_LONG_WORDS: Final = 0.5
_MAX_LONE_LETTERS: Final = 0.7
_MIN_LETTERS: Final = 40
_STRETCH: Final = re.compile(r"[^ \t\n]+")
# Glyphs to which a font gives no letters, in words otherwise right: ligatures, and the shapes of scripts whose letters
# join. They come out as U+FFFD, as control characters, or as the letters that have their numbers: ǁ in an Arabic word.
_MAX_HOLED: Final = 0.03
_MIN_HOLED: Final = 3
_HOLE: Final = re.compile("[la]x+[laj]|jx|jl|lj|ja+j")
_JOINED: Final = re.compile("[\u0590-\u0dff\ufb1d-\ufdff\ufe70-\ufefc]")
_WESTERN: Final = {bytes([code]).decode("cp1252", "ignore") or chr(code): code for code in range(256)}
_MIN_MISREAD: Final = 3


def judge(text: str, counted: Counter[str] | None = None) -> Judgement:
    """Judge a page's text layer; a few letters are no evidence against it.

    Args:
        text: The page's text.
        counted: How often each character is in it, where the caller knows that.
    """
    if counted is None or len(text) > _MAX_CHARACTERS:
        text = text[:_MAX_CHARACTERS]
        counted = Counter(text)
    every = _without_spaces(counted)
    words = list(map(_look_up, _letters_of(text)))
    if (
        _has_no_meaning(text, every)
        or _has_no_words(text, every, words)
        or _is_misread_utf8(text)
        or _is_holed(text, counted)
    ):
        return "garbled"
    share = _unlikely_share(words)
    if share > _GARBLED_SHARE:
        return "garbled"
    return "doubtful" if share > _DOUBTFUL_SHARE else "text"


def _has_no_meaning(text: str, every: Counter[str]) -> bool:
    """Whether the text is codes and signs instead of letters."""
    meaningless = sum(n for one, n in every.items() if _is_meaningless(one))
    if meaningless > _MAX_MEANINGLESS * every.total():
        return True
    if _has_few_signs(text, every):
        return False
    plain = _signs_of(_LEADERS.sub(" ", text))
    count = plain.total()
    if count < _MIN_CHARACTERS:
        return False
    signs = sum(n for one, n in plain.items() if _is_sign(one))
    names = sum(len(match[0]) for match in _GLYPH_NAMES.finditer(text))
    if names > _MAX_GLYPH_NAMES * every.total():
        return True
    # Where signs are code, as many brackets are closed as are opened.
    opened, closed = ([plain[pair[side]] for pair in _BRACKETS] for side in (0, 1))
    brackets, odd = sum(opened + closed), sum(abs(a - b) for a, b in zip(opened, closed, strict=True))
    if brackets >= _MIN_BRACKETS and odd * 3 > 2 * brackets:
        return signs > _CODE_SIGNS * count
    if brackets >= _MIN_BRACKETS and odd * 5 <= brackets:
        return False
    inside = _SIGN_INSIDE.findall(text)
    is_strewn = len(set(inside)) >= _STREWN_SIGNS and len(inside) > _STREWN_SHARE * len(text.split())
    return is_strewn or signs > _MAX_SIGNS * count


def _has_few_signs(text: str, every: Counter[str]) -> bool:
    """Whether there are so many letters and so few signs that those need no closer look: as in nearly all texts."""
    close = "".join(text.split())
    signs = sum(n for one, n in every.items() if _is_sign(one))
    letters = itertools.accumulate(
        n for one, n in every.items() if one.isalnum() and one * 3 not in close
    )  # no leaders
    if not any(signs <= _CODE_SIGNS * (signs + some) for some in letters):
        return False
    if len(_SIGNS_INSIDE & every.keys()) >= _STREWN_SIGNS:
        return False
    return "(cid:" not in text and every["/"] * _LONGEST_NAME <= _MAX_GLYPH_NAMES * every.total()


def _is_meaningless(character: str) -> bool:
    return character == "\ufffd" or unicodedata.category(character) in _MEANINGLESS


def _is_sign(character: str) -> bool:
    return not character.isalnum() and unicodedata.category(character)[0] != "M"


def _signs_of(text: str) -> Counter[str]:
    """How often each character but space is in the text."""
    return _without_spaces(Counter(text))


def _without_spaces(counted: Counter[str]) -> Counter[str]:
    every = counted.copy()
    for character in [one for one in every if one.isspace()]:
        del every[character]
    return every


def _is_misread_utf8(text: str) -> bool:
    """Whether the bytes of UTF-8 were taken for letters of Western Europe: "mÃ¶te" for "möte"."""
    if text.isascii():
        return False
    marked = [word for word in _STRETCH.findall(text) if not word.isascii()]
    misread = 0
    for word in marked:
        codes = [_WESTERN.get(character, -1) for character in word]
        try:
            misread += -1 not in codes and bool(bytes(codes).decode("utf-8"))
        except UnicodeDecodeError:
            continue
    return misread >= _MIN_MISREAD and misread * 2 > len(marked)


def _is_holed(text: str, counted: Counter[str]) -> bool:
    """Whether many words have something inside that is no letter, or none of their script."""
    if {_KINDS[ord(one)] for one in counted}.isdisjoint({"j", "x"}):
        return False
    words = text.translate(_KINDS).split()
    holed = sum(_HOLE.search(word) is not None for word in words)
    return holed >= _MIN_HOLED and holed > _MAX_HOLED * len(words)


class _Kinds(dict[int, str]):
    """What a character is in a word.

    a: a letter of ASCII; l: another one of Europe; j: one of a script whose letters join; x: nothing.
    """

    def __missing__(self, code: int) -> str:
        self[code] = kind = self._kind(chr(code))
        return kind

    @staticmethod
    def _kind(character: str) -> str:
        category = unicodedata.category(character)
        if category == "Cf":
            return ""
        if _is_meaningless(character):
            return " " if character in "\t\n\r" else "x"
        if category[0] not in "LM":
            return " "
        if _JOINED.match(character):
            return "j"
        if category[0] == "M":
            return ""
        return "a" if character.isascii() else "l" if character < "\u0590" else " "


_KINDS: Final = _Kinds()


def _has_no_words(text: str, every: Counter[str], words: Sequence[_Word]) -> bool:
    """Whether there is a sign for the space, or no space at all, or one behind each letter."""
    stretches = len(text.split())
    sign = max(_FOR_SPACE, key=every.__getitem__)
    most = every[sign]
    if most > _FOR_SPACE_SHARE * len(text) and most > 2 * stretches and len(text) >= _MIN_CHARACTERS:
        return sign * 3 not in text
    lengths = [word.length for word in words]
    count = sum(lengths)
    if count < _MIN_LETTERS:
        return False
    if lengths.count(1) > _MAX_LONE_LETTERS * count:
        return True
    if len(text) <= _LONG_STRETCH * stretches:
        return False
    return sum(length for length in lengths if length > _LONG_WORD) > _MAX_LONG_WORDS * count


# ── pairs of letters ─────────────────────────────────────────────────────────────────────────────

_WINDOW: Final = 36
"""Pairs judged together: five or six words."""
_FEW: Final = 12.0
"""By how much a shorter piece must be below."""
_GARBLED_SHARE: Final = 0.45
_DOUBTFUL_SHARE: Final = 0.3
_LEAST: Final = {
    "latin": 6.6,
    "cyrillic": 6.3,
    "greek": 6.3,
    "arabic": 6.4,
    "hebrew": 6.6,
    "thai": 5.2,
    "kana": 5.4,
    "han": 5.4,
    "hangul": 5.4,
}
"""The mean level of pairs that separates texts of a script from garbage."""
_LEAST_INDIC: Final = 6.0
_GAINED: Final = 0.1
"""How much more likely a pair of letters must be on average, read the other way, in a text that is stored backwards:
Arabic and Hebrew as they are seen, mirrored pages of any script."""
_UNSPACED: Final = frozenset({"thai", "kana", "han"})
_MIXED: Final = -6.0
_MARKED: Final = -3.0
_STANDARD_LEVEL: Final = 4
_KNOWN_WORDS: Final = 8192
"""Words whose value is kept: half of a text is the same few hundred words."""
_CAMEL: Final = re.compile(r"[A-ZÀ-ÖØ-Þ](?<=[a-zß-öø-ÿ][A-ZÀ-ÖØ-Þ])")  # capitals are few, so they are sought first
_SAME: Final = {"ی": "ي", "ى": "ي", "ک": "ك", "ș": "ş", "ț": "ţ"}


def _unlikely_share(words: Sequence[_Word]) -> float:
    """Share of the pairs of letters that stand among pairs of no language; all of them in a text written backwards."""
    unlikely = count = 0
    gained = window = 0.0
    pairs = 0
    for value, of_word, gained_in_word, _ in words:
        window += value
        pairs += of_word
        gained += gained_in_word
        if pairs >= _WINDOW:
            unlikely += pairs * (window < 0)
            count += pairs
            window, pairs = 0.0, 0
    if window < -_FEW or (count and window < 0):
        unlikely += pairs
    count += pairs
    if not count:
        return 0.0
    if gained > max(_FEW, _GAINED * count):
        return 1.0
    return unlikely / count


class _Word(NamedTuple):
    """What the table says of a word."""

    value: float
    """Of all its pairs together."""
    pairs: int
    gained: float
    """By how much they are more likely read the other way."""
    length: int
    """0 of a word whose letters do not stand in words."""


@functools.lru_cache(_KNOWN_WORDS)
def _look_up(word: str) -> _Word:
    table = _table()
    values = table.values(word)
    value = sum(values)
    gained = sum(table.values(word[::-1])) - value if values and word[0] in table.scripts else 0.0
    return _Word(value, len(values), gained, len(word) if table.is_spaced(word) else 0)


@dataclass(frozen=True, slots=True)
class _PairTable:
    pairs: Mapping[str, float]
    """Level of two letters less the least of their script; " " is the edge of a word."""
    single: Mapping[str, float]
    """The same of characters that are judged alone."""
    scripts: Mapping[str, str]
    """Script of each letter in the pairs."""

    def is_spaced(self, word: str) -> bool:
        """Whether the word is of letters that stand in words."""
        return word[0] not in self.single and self.scripts.get(word[0]) not in _UNSPACED

    def values(self, word: str) -> list[float]:
        """Values of the pairs of letters in a word: below 0 where they are rarer than in texts."""
        if word in self.single:
            return [self.single[word]]
        if len(word) == 1:  # a variable, an initial; but not a lone letter that is no word in any language
            return [] if word.isascii() or word in self.scripts else [_MIXED]
        found = []
        for first, second in zip(f" {word}", f"{word} ", strict=True):
            value = self.pairs.get(first + second)
            if value is None:
                own, other = self.scripts.get(first), self.scripts.get(second)
                if (own is None and first != " ") or (other is None and second != " "):
                    continue
                script = other or own
                value = -_LEAST.get(script or "", _LEAST_INDIC) if own in {None, script} else _MIXED
            # The table lacks pairs of rare letters with marks; only two of them side by side are a sign of garbage.
            found.append(max(value, _MARKED) if first.isascii() != second.isascii() else value)
        return found


@functools.cache
def _table() -> _PairTable:
    data = tomllib.loads(files(__package__).joinpath("letter_pairs.toml").read_text("utf-8"))
    pairs: dict[str, float] = {}
    scripts: dict[str, str] = {}
    for script, rows in data["pairs"].items():
        least = _LEAST.get(script, _LEAST_INDIC)
        for first, row in rows.items():
            level = 0
            for second in row:
                if second.isascii() and second.isdigit():
                    level = int(second)
                else:
                    pairs[first + second] = level - least
                    scripts[first] = scripts[second] = script
    scripts.pop(" ")
    single = dict.fromkeys(_standard_han(), _STANDARD_LEVEL - _LEAST["han"])
    for script, (common, less) in data["characters"].items():
        single |= dict.fromkeys(less, (6 if script == "kana" else 5) - _LEAST[script])
        single |= dict.fromkeys(common, 9 - _LEAST[script])
    return _PairTable(pairs, single, scripts)


def _standard_han() -> Iterator[str]:
    """The Chinese characters of daily use, by the first levels of the Chinese and Japanese standards."""
    every = [*range(0x40, 0x7F), *range(0xA1, 0xFF)]
    for name, rows in (("gb2312", range(0xB0, 0xD8)), ("big5", range(0xA4, 0xC7)), ("euc_jp", range(0xB0, 0xD0))):
        for row in rows:
            for cell in every if name == "big5" else every[63:]:
                yield from bytes((row, cell)).decode(name, "ignore")


class _Folded(dict[int, str]):
    """What each character counts as: letters as the table has them, digits as 0, signs as a space."""

    def __missing__(self, code: int) -> str:
        self[code] = folded = "".join(map(self._one, unicodedata.normalize("NFKC", chr(code)).casefold()))
        return folded

    def _one(self, character: str) -> str:
        table, kind = _table(), unicodedata.category(character)
        name = unicodedata.name(character, "")
        if kind == "Cf" or character == "ـ" or (kind == "Mn" and name.startswith(("ARABIC", "HEBREW"))):
            return ""  # vowel marks, soft hyphens, joiners
        if kind[0] == "N":
            return "0"
        if kind[0] not in "LM":
            return " "
        character = "ể" if "\u1ea0" <= character <= "\u1eff" else _SAME.get(character, character)
        if character in table.scripts:
            return character
        if _is_alone(character):
            return f" {character} "
        stripped = unicodedata.normalize("NFD", character)
        while len(stripped) > 1 and unicodedata.normalize("NFC", stripped) not in table.scripts:
            stripped = stripped[:-1]
        return unicodedata.normalize("NFC", stripped)


def _is_alone(character: str) -> bool:
    return "\u3040" <= character <= "\u30ff" or "\u3400" <= character <= "\u9fff" or "\uac00" <= character <= "\ud7a3"


_FOLDED: Final = _Folded()


def _letters_of(text: str) -> list[str]:
    """The words of a text, those with digits left out; a capital inside a word begins another."""
    folded = unicodedata.normalize("NFC", _CAMEL.sub(r" \g<0>", text)).translate(_FOLDED)
    return [word for word in folded.split() if "0" not in word]
