"""The task `tags`: one sentence and a handful of keywords, as people would have written them.

The model is asked for JSON, under a grammar. The server silently ignores a grammar that it does not understand, and
models then answer with lists, so answers are read leniently and checked.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kobold_reader.reading.cleaning import clean
from kobold_reader.reading.talk import talk_of

FORMAT = (
    "Describe it in one sentence too. Answer in JSON only: "
    '{"description": "one sentence", "keywords": ["first", "second", "third"]}'
)
"""Added to every instruction, also to the user's own."""
MIN_LENGTH_TOKENS = 256
"""Enough for a sentence and 15 keywords, also in scripts that take a token for each character."""
GRAMMAR = r"""root ::= "{" ws "\"description\":" ws string "," ws "\"keywords\":" ws list ws "}"
list ::= "[" ws string ("," ws string){0,14} ws "]"
string ::= "\"" char+ "\""
char ::= [^"\\\x00-\x1F] | "\\" (["\\/bfnrt] | "u" hex hex hex hex)
hex ::= [0-9a-fA-F]
ws ::= " "?
"""
"""GBNF, because every version takes it; JSON schemas only work from 1.89 on."""

MOST_KEYWORDS = 15
LONGEST_KEYWORD = 40
LONGEST_LIST = 300
"""Characters in all, as for keywords of files: splitters count metadata against the size of a chunk."""
MOST_WORDS = 5
"""More words are a sentence."""

_HEADING = "Keywords: "
_DESCRIPTION_KEYS = ("description", "caption", "summary")
_KEYWORD_KEYS = ("keywords", "tags", "keyword")
_SEPARATORS = re.compile(r"[,;\n|、，；]")
_NUMBERING = re.compile(r"^\s*(?:[-*•#–]+|\(?\d{1,2}[.)](?!\d))\s*")
_QUOTES = " \t\"'`“”„«»‘’*_[]{}<>.:;,、。"
_LABELLED = re.compile(r"[*_#\s]*(?:description|caption)[*_]*\s*:[*_]*\s*(.+)", re.IGNORECASE)
_LIST_LABEL = re.compile(r"[*_#\s]*(?:key ?words?|tags?)[*_]*\s*[:：][*_]*", re.IGNORECASE)
_ECHO = re.compile(
    r"(?:\d+(?: to |-|–)\d+ )?(?:key ?words?|tags?)(?: for this (?:image|page))?|(?:this )?image|picture|description"
    r"|one sentence|first|second|third|most important first|(?:one or )?two words|only what can be seen|json|string"
    r"|none|n/?a|null|unknown|etc|and so on",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Tags:
    """What a page is about."""

    description: str
    keywords: tuple[str, ...]

    @property
    def text(self) -> str:
        """The text that is stored and shown; `keywords_of` reads the keywords back."""
        return "\n\n".join(filter(None, (self.description, _HEADING + ", ".join(self.keywords))))


def keywords_of(text: str) -> tuple[str, ...]:
    r"""Read the keywords back from `Tags.text`.

    >>> keywords_of("A letter to Axel.\n\nKeywords: letter, slates")
    ('letter', 'slates')
    """
    last = text.rpartition("\n")[2]
    return tuple(last.removeprefix(_HEADING).split(", ")) if last.startswith(_HEADING) else ()


def parse(answer: str, instruction: str = "") -> Tags | None:
    """Read description and keywords from an answer; None if it contains no keyword.

    Of JSON that was cut off, everything that is complete is read.

    >>> parse('{"description": "A letter.", "keywords": ["Letter", "letters", "1954", "la')
    Tags(description='A letter.', keywords=('Letter', '1954'))
    """
    text = clean(answer, instruction).text
    if not text or talk_of(text):
        return None
    found = _json_object(text)
    if found is not None:
        description, listed = _from_json(found)
    elif text[0] in "{[":
        return None  # JSON that was cut before it held anything
    else:
        description, listed = _from_lines(text)
    description = " ".join(unicodedata.normalize("NFC", description).split())
    keywords = _normalized(listed, description)
    return Tags(description, keywords) if keywords else None


def _json_object(text: str) -> Mapping[str, Any] | None:
    start = text.find("{")
    if start < 0:
        return None
    decoder = json.JSONDecoder(strict=False)
    for candidate in (text[start:], *_closed(text[start:])):
        try:
            found, _ = decoder.raw_decode(candidate)
        except (ValueError, RecursionError):
            continue
        return found if isinstance(found, dict) else None
    return None


def _closed(text: str) -> Iterable[str]:
    """Close a cut object after one of its last whole strings or commas."""
    for mark in ('"', ","):
        whole = text.rstrip()
        for _ in range(3):
            end = whole.rfind(mark)
            if end < 0:
                break
            whole = whole[: end + 1].rstrip(",").rstrip()
            for closing in ("]}", "}"):
                yield whole + closing
            whole = whole[:end]


def _from_json(found: Mapping[str, Any]) -> tuple[str, list[str]]:
    by_name = {str(key).strip().casefold(): value for key, value in found.items()}
    description = next((by_name[key] for key in _DESCRIPTION_KEYS if isinstance(by_name.get(key), str)), "")
    listed: Any = next((by_name[key] for key in _KEYWORD_KEYS if by_name.get(key)), [])
    if isinstance(listed, str):
        listed = [listed]
    return description, [one for one in listed if isinstance(one, str)] if isinstance(listed, list) else []


def _from_lines(text: str) -> tuple[str, list[str]]:
    """Read a list after a label, with a description before it, or a list alone."""
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    labels = [number for number, line in enumerate(lines) if _LIST_LABEL.match(line)]
    if labels:
        before, lines = lines[: labels[0]], lines[labels[0] :]
        lines[0] = _LIST_LABEL.sub("", lines[0], count=1)
        labelled = next((match for line in before if (match := _LABELLED.match(line))), None)
        return (labelled.group(1) if labelled else " ".join(before)), lines
    is_list = all(len(part.split()) <= MOST_WORDS for line in lines for part in _SEPARATORS.split(line))
    return "", lines if is_list else []


def _normalized(listed: Iterable[str], description: str) -> tuple[str, ...]:
    """Return each keyword once, in their order, without numbers, quotes, and words of the instruction."""
    kept: list[str] = []
    for part in (part for one in listed for part in _SEPARATORS.split(one)):
        word, rest = "", " ".join(unicodedata.normalize("NFC", part).split())
        while rest != word:  # numbers may be in quotes, and quotes behind numbers
            word, rest = rest, _NUMBERING.sub("", rest).strip(_QUOTES)
        too_long = len(word) > LONGEST_KEYWORD or len(word.split()) > MOST_WORDS
        if any(map(str.isalnum, word)) and not too_long and not _ECHO.fullmatch(word):
            kept.append(word)
    unique: dict[str, str] = {}
    for word in _cased(kept, description):
        forms = _forms(word.casefold())
        has_room = sum(map(len, unique)) + 2 * len(unique) + len(word) <= LONGEST_LIST
        if has_room and not any(form in unique for form in forms):
            unique[word.casefold()] = word
    return tuple(unique.values())[:MOST_KEYWORDS]


def _forms(word: str) -> set[str]:
    """The word, its possible plurals, and what it may be the plural of."""
    forms = {word, word + "s", word + "es", re.sub("ies$", "y", word), re.sub("y$", "ies", word)}
    return forms | {word.removesuffix("s"), word.removesuffix("es")} if len(word) > 3 else forms  # noqa: PLR2004


def _cased(words: list[str], description: str) -> list[str]:
    """Lower the capitals of a list that capitalises every word; there only names keep theirs.

    A word is a name if it has capitals inside, or a capital within a sentence of the description.
    """
    starts = [word[0] for word in words if word[0].lower() != word[0].upper()]
    if not starts or not all(map(str.isupper, starts)):
        return words

    def is_name(word: str) -> bool:
        has_inner = any(map(str.isupper, word[1:])) and " " not in word
        return has_inner or re.search(rf"(?<=[\w,;:] ){re.escape(word)}(?!\w)", description) is not None

    return [word if is_name(word) else word.lower() for word in words]
