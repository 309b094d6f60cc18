"""Talk: what a model says in place of a page, such as "I'm sorry, but I can't assist with that".

An answer is talk only if each of its sentences is. So a letter that quotes such a sentence is a letter, and a page that
says more than that stays a page. The sentences, in the languages of the models' makers, are in `chat_phrases.toml`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final, Literal, Self

Talk = Literal["no_text", "unseen", "refused"]
"""It says that there is nothing to read; that it sees no image; that it cannot or will not read this one."""

_MOST_IMPORTANT_FIRST: Final[tuple[Talk, ...]] = ("unseen", "no_text", "refused")
_KINDS: Final = ("no_text", "unseen", "refused", "asks", "polite", "describes")
"""The first that a sentence matches is its kind."""
_LONGEST_TALK: Final = 1500
_SENTENCE_END: Final = re.compile(r"(?<=[.!?])[\"”’)\]*_]*\s+|(?<=[。！？])|\n+")
_MARKS: Final = " \t\r*_#>`'’\"“”„«»‘()[]{}<>|~.!?¿¡。！？…:;,-–—•"
_MOST_OPENINGS: Final = 3


def load_phrases() -> Mapping[str, Any]:
    """Read `chat_phrases.toml`."""
    path = resources.files("kobold_reader.reading") / "chat_phrases.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))


@dataclass(frozen=True, slots=True)
class _Sentences:
    """The patterns of all languages."""

    of_page: re.Pattern[str]
    """A page has dates and sums, and tells what people said."""
    opening: re.Pattern[str]
    kinds: Mapping[str, re.Pattern[str]]

    @classmethod
    @cache  # a tenth of a second, and most runs that start meet no chat
    def load(cls) -> Self:
        data = load_phrases()

        def any_of(key: str) -> str:
            phrases = "|".join(f"(?:{one})" for language in data["languages"] for one in language.get(key, ()))
            while (filled := re.sub("<([a-z]+)>", lambda name: data["parts"][name[1]], phrases)) != phrases:
                phrases = filled
            return phrases.replace("...", r"[^\n]{0,160}?")

        kinds = {kind: re.compile(any_of(kind), re.IGNORECASE) for kind in _KINDS}
        of_page = re.compile(rf"\d|\b{data['parts']['reports']}\b", re.IGNORECASE)
        return cls(of_page, re.compile(rf"(?:{any_of('opens')})(?:(?=\W|$)|(?<=\W))|", re.IGNORECASE), kinds)

    def kind_of(self, sentence: str) -> str | None:
        """Return what a sentence says, "" where it says nothing, None where it is no talk."""
        sentence = sentence.strip(_MARKS).replace("'", "’")
        if self.of_page.search(sentence):
            return None
        rests = [sentence]  # "Unfortunately, it seems that the image is blank": without one beginning, without two
        while (opening := self.opening.match(rests[-1])) and opening.end() and len(rests) <= _MOST_OPENINGS:
            rests.append(rests[-1][opening.end() :].strip(_MARKS))
        if not rests[-1]:
            return ""
        return next((kind for kind, pattern in self.kinds.items() if any(map(pattern.fullmatch, rests))), None)


def talk_of(text: str, *, is_description: bool = False) -> Talk | None:
    """Tell what an answer says about itself, if it holds no page; None for everything that may be a page.

    Args:
        text: The answer, cleaned.
        is_description: A description was asked for, so that a sentence on the image as such is an answer.

    >>> talk_of("I'm unable to view images directly. If you describe the content, I'd be happy to help!")
    'unseen'
    >>> talk_of("There is no text in the image of 1954, wrote Lindqvist.")
    """
    if len(text) > _LONGEST_TALK:
        return None
    sentences = _Sentences.load()
    found: set[str] = set()
    for sentence in _SENTENCE_END.split(text.strip()):
        kind = sentences.kind_of(sentence)
        if kind is None or (kind == "describes" and is_description):
            return None
        found.add(kind)
    return next((kind for kind in _MOST_IMPORTANT_FIRST if kind in found), "unseen" if "asks" in found else None)
