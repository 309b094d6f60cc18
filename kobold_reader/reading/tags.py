"""The task `tags`: one sentence and a handful of keywords, as people would have written them.

The model is asked for JSON, under a grammar. The server silently ignores a grammar that it does not understand, and
models then answer with lists, so answers are read leniently and checked. With a vocabulary the grammar allows its words
only, and so does the check.
"""

from __future__ import annotations

import functools
import json
import re
import tomllib
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kobold_reader.reading.cleaning import clean
from kobold_reader.reading.talk import talk_of
from kobold_reader.vocabulary import Vocabulary, number_forms

FORMAT = (
    "Describe it in one sentence too. Answer in JSON only: "
    '{"description": "one sentence", "keywords": ["first", "second", "third"]}'
)
"""Added to every instruction, also to the user's own."""
_SENTENCE_TOKENS, _KEYWORD_TOKENS = 106, 10
"""Enough also in scripts that take a token for each character."""
_GRAMMAR = r"""root ::= "{" ws "\"description\":" ws string "," ws "\"keywords\":" ws list ws "}"
list ::= "[" ws LIST ws "]"
string ::= "\"" char+ "\""
char ::= [^"\\\x00-\x1F] | "\\" (["\\/bfnrt] | "u" hex hex hex hex)
hex ::= [0-9a-fA-F]
ws ::= " "?
"""
"""GBNF, because every version takes it; JSON schemas only work from 1.89 on."""

LISTED_CHARS = 4000
"""A longer vocabulary is not shown to the model: it would take the room of the image. The grammar still holds it."""
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
_ENGLISH = re.compile(r"\b(?:the|with|and)\b", re.IGNORECASE)
"""Small words of English that no other language has: they tell which rules the keywords follow."""
_SHORTEST_PLURAL = 4
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
        return with_keywords(self.description, self.keywords)


@dataclass(frozen=True, slots=True)
class TagForm:
    """The form that an answer must have."""

    vocabulary: Vocabulary | None = None
    """The words that may be used; None: any."""
    most: int = MOST_KEYWORDS
    """Number of keywords, at most."""

    @property
    def instruction(self) -> str:
        """What the model is told of the form."""
        told = [f"At most {self.most} keywords."] if self.most != MOST_KEYWORDS else []
        if self.vocabulary is not None:
            words = ", ".join(self.vocabulary.words)
            if len(words) <= LISTED_CHARS:
                told.append(f"Take keywords from this list only, and only those that fit: {words}.")
        return "\n".join((*told, FORMAT))

    @property
    def min_length_tokens(self) -> int:
        """Room for a sentence and the keywords."""
        return _SENTENCE_TOKENS + _KEYWORD_TOKENS * max(self.most, MOST_KEYWORDS)

    @property
    def grammar(self) -> str:
        """The form as GBNF. With a vocabulary the list may be empty: no word of it may fit."""
        word = "string" if self.vocabulary is None else "word"
        listed = word if self.most == 1 else f'{word} ("," ws {word}){{0,{self.most - 1}}}'
        if self.vocabulary is None:
            return _GRAMMAR.replace("LIST", listed)
        return _GRAMMAR.replace("LIST", f"({listed})?") + f"word ::= {self.vocabulary.grammar}\n"

    def parse(self, answer: str, instruction: str = "") -> Tags | None:
        r"""Read description and keywords from an answer; None if it contains no keyword.

        Of JSON that was cut off, everything that is complete is read. With a vocabulary an empty list is an answer; one
        of other words only is none.

        >>> TagForm().parse('{"description": "A letter.", "keywords": ["Letter", "letters", "1954", "la')
        Tags(description='A letter.', keywords=('Letter', '1954'))
        >>> TagForm(Vocabulary.parse("car\n\t{automobile}")).parse('{"description": "A road.", "keywords": []}')
        Tags(description='A road.', keywords=())
        """
        described = _described(answer, instruction)
        if described is None:
            return None
        description, listed = described
        description = " ".join(unicodedata.normalize("NFC", description).split())
        if self.vocabulary is None:
            keywords = _normalized(listed or (), description, self.most)
            return Tags(description, keywords) if keywords else None
        known = (self.vocabulary.word_of(word) for part in listed or () for word in _words_in(part))
        allowed = _fitting(dict.fromkeys(word for word in known if word is not None))[: self.most]
        is_empty = listed is not None and not any(map(str.strip, listed))
        return Tags(description, allowed) if allowed or (is_empty and description) else None


def with_keywords(description: str, keywords: Iterable[str]) -> str:
    """Return the text of a description and its keywords."""
    listed = ", ".join(keywords)
    return "\n\n".join(filter(None, (description, listed and _HEADING + listed)))


def description_of(text: str) -> str:
    """Return the text of `Tags.text` without its keywords."""
    return text.rpartition("\n")[0].rstrip() if keywords_of(text) else text


def keywords_of(text: str) -> tuple[str, ...]:
    r"""Read the keywords back from `Tags.text`.

    >>> keywords_of("A letter to Axel.\n\nKeywords: letter, slates")
    ('letter', 'slates')
    """
    last = text.rpartition("\n")[2]
    return tuple(last.removeprefix(_HEADING).split(", ")) if last.startswith(_HEADING) else ()


def _described(answer: str, instruction: str) -> tuple[str, list[str] | None] | None:
    """Return description and list of an answer; the list is None where the answer has none."""
    text = clean(answer, instruction).text
    if not text or talk_of(text):
        return None
    found = _json_object(text)
    if found is not None:
        return _from_json(found)
    return None if text[0] in "{[" else _from_lines(text)  # JSON that was cut before it held anything


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


def _from_json(found: Mapping[str, Any]) -> tuple[str, list[str] | None]:
    by_name = {str(key).strip().casefold(): value for key, value in found.items()}
    description = next((by_name[key] for key in _DESCRIPTION_KEYS if isinstance(by_name.get(key), str)), "")
    listed: Any = next((by_name[key] for key in _KEYWORD_KEYS if key in by_name), None)
    if isinstance(listed, str):
        listed = [listed]
    return description, [one for one in listed if isinstance(one, str)] if isinstance(listed, list) else None


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


def _words_in(listed: str) -> Iterable[str]:
    """Yield the words of one entry, without numbers and quotes."""
    for part in _SEPARATORS.split(listed):
        word, rest = "", " ".join(unicodedata.normalize("NFC", part).split())
        while rest != word:  # numbers may be in quotes, and quotes behind numbers
            word, rest = rest, _NUMBERING.sub("", rest).strip(_QUOTES)
        yield word


def _normalized(listed: Iterable[str], description: str, most: int) -> tuple[str, ...]:
    """Return each keyword once, in their order, in its normal form, without words of the instruction."""
    kept: list[str] = []
    for word in (word for one in listed for word in _words_in(one)):
        too_long = len(word) > LONGEST_KEYWORD or len(word.split()) > MOST_WORDS
        if any(map(str.isalnum, word)) and not too_long and not _ECHO.fullmatch(word):
            kept.append(word)
    unique: dict[str, str] = {}
    is_english = _ENGLISH.search(description) is not None
    for cased in _cased(kept, description):
        word = singular(cased) if is_english else cased
        forms = number_forms(word.casefold())
        if not any(form in unique for form in forms):
            unique[word.casefold()] = word
    return _fitting(unique.values())[:most]


def _fitting(words: Iterable[str]) -> tuple[str, ...]:
    """Return the words for which there is room, in their order."""
    kept: list[str] = []
    for word in words:
        if sum(map(len, kept)) + 2 * len(kept) + len(word) <= LONGEST_LIST:
            kept.append(word)
    return tuple(kept)


def singular(keyword: str) -> str:
    """Return a keyword of English with its last word in the singular, where that is sure.

    Names, and words whose plural has no rule or several, stay as they are.

    >>> [singular(word) for word in ("fishing boats", "cherries", "women", "glasses", "shoes", "Netherlands")]
    ['fishing boat', 'cherry', 'woman', 'glasses', 'shoes', 'Netherlands']
    """
    known = _plurals()
    before, space, last = keyword.rpartition(" ")
    if not re.fullmatch("[a-z]{3,}", last) or last in known["kept"]:
        return keyword
    if last in known["irregular"]:
        return before + space + str(known["irregular"][last])
    for ending, one in known["endings"].items():
        if re.search(ending, last) and len(last) >= _SHORTEST_PLURAL:
            return before + space + re.sub(ending, one, last)
    return keyword


@functools.cache
def _plurals() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name("plurals.toml").read_text(encoding="utf-8"))


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
