"""Vocabulary: the keywords that tags may have, with their synonyms and the words above them.

The file is a keyword list as Lightroom exports it: one word a line, indented by one tab more than the word above it,
`{synonym}` a level below its word, and `[heading]` for a word that only groups others.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from pathlib import Path

from kobold_reader.errors import ConfigError, reason

LONGEST_WORD: int = 64
"""Characters."""
_UNFIT = re.compile(r'[,;|"\\{}\[\]\x00-\x08\x0a-\x1f\x7f]')
"""Commas part keywords, bars the levels of a hierarchy, and the rest would have to be escaped in JSON."""


@dataclass(frozen=True)
class Vocabulary:
    r"""Words in the order of the list.

    >>> words = Vocabulary.parse("[nature]\n\tdog\n\t\t{hound}\n\t\tpoodle")
    >>> words.word_of("Hounds"), words.paths("poodle"), words.words
    ('dog', (('nature', 'dog', 'poodle'),), ('dog', 'poodle'))
    """

    words: tuple[str, ...]
    """Those that may be used; headings are not among them."""
    synonyms: Mapping[str, str] = field(default_factory=dict)
    """The word of each synonym."""
    above: Mapping[str, tuple[tuple[str, ...], ...]] = field(default_factory=dict)
    """The words above each word, from the top; a word may stand in several places."""
    text: str = ""
    """The list without what makes no difference."""

    @classmethod
    def of(cls, given: str | Path) -> Vocabulary:
        """Return the vocabulary in a file, or in a text of several lines.

        Raises:
            ConfigError: It cannot be read, or is no keyword list.
        """
        if isinstance(given, str) and "\n" in given:
            return cls.parse(given)
        try:
            data = Path(given).read_bytes()
        except OSError as err:
            raise ConfigError(f"{given} cannot be read ({reason(err)}).", argument="vocabulary") from err
        encoding = "utf-16" if data[:2] in {b"\xff\xfe", b"\xfe\xff"} else "utf-8-sig"
        try:
            return cls.parse(data.decode(encoding))
        except UnicodeDecodeError:
            raise ConfigError(f"{given} is not text in UTF-8.", argument="vocabulary") from None

    @classmethod
    def parse(cls, text: str) -> Vocabulary:
        """Read a keyword list.

        Raises:
            ConfigError: A line that is none of a keyword list, or no word at all; names the line.
        """
        above: dict[str, list[tuple[str, ...]]] = {}
        synonyms: dict[str, str] = {}
        lines: list[str] = []
        names: list[str] = []  # from the top to the word before
        is_heading: set[tuple[str, ...]] = set()
        for number, level, entry in _entries(text):
            if level > len(names):
                raise _fault(number, entry, "it is indented by more than one tab below the line above")
            del names[level:]
            lines.append("\t" * level + entry)
            if entry.startswith("{"):
                if not names or tuple(names) in is_heading:
                    raise _fault(number, entry, "a synonym stands one tab below its word")
                synonyms.setdefault(entry[1:-1].strip(), names[-1])
                continue
            word = entry.strip("[]").strip()
            if entry.startswith("["):
                is_heading.add((*names, word))
            else:
                places = above.setdefault(word, [])
                places += [tuple(names)] if tuple(names) not in places else []
            names.append(word)
        if not above:
            raise ConfigError("the vocabulary has no word.", argument="vocabulary", hint="Write one word a line.")
        own = {word: key for word, key in synonyms.items() if word not in above}
        return cls(tuple(above), own, {word: tuple(places) for word, places in above.items()}, "\n".join(lines) + "\n")

    @cached_property
    def _known(self) -> dict[str, str]:
        words = {_key(synonym): word for synonym, word in self.synonyms.items()}
        return words | {_key(word): word for word in self.words}

    def word_of(self, text: str) -> str | None:
        """Return the word that a keyword means: itself, in another case or number, or the word of a synonym."""
        key = _key(text)
        forms = (key, *sorted(number_forms(key) - {key}))
        return next((self._known[form] for form in forms if form in self._known), None)

    def paths(self, word: str) -> tuple[tuple[str, ...], ...]:
        """Return the word with all words above it, from the top, for each place where it stands; () if unknown."""
        return tuple((*names, word) for names in self.above.get(word, ()))

    @cached_property
    def grammar(self) -> str:
        """The words and synonyms as an expression of GBNF, in quotes as JSON has them.

        Common beginnings are written once: then a model's next letter has few ways to go, however long the list is.
        """
        return '"\\"" ' + _alternatives(sorted({*self.words, *self.synonyms})) + ' "\\""'


def number_forms(word: str) -> set[str]:
    """Return a word of English, its possible plurals, and what it may be the plural of.

    >>> sorted(number_forms("boxes") & {"box", "boxes"})
    ['box', 'boxes']
    """
    forms = {word, word + "s", word + "es", re.sub("ies$", "y", word), re.sub("y$", "ies", word)}
    return forms | {word.removesuffix("s"), word.removesuffix("es")} if len(word) > 3 else forms  # noqa: PLR2004


def _entries(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield number, level and entry of each line that is not empty."""
    for number, line in enumerate(unicodedata.normalize("NFC", text).splitlines(), start=1):
        entry = line.strip()
        if not entry:
            continue
        indent = line[: len(line) - len(line.lstrip())]
        if indent.strip("\t"):
            raise _fault(number, entry, "words are indented by tabs, not by spaces")
        found = re.fullmatch(r"\{([^{}]+)\}|\[([^][]+)\]|([^][{}]+)", entry)
        word = " ".join((found[1] or found[2] or found[3]).split()) if found else ""
        if not word or _UNFIT.search(word):
            raise _fault(number, entry, 'a word holds none of , ; | " \\ { } [ ]')
        if len(word) > LONGEST_WORD:
            raise _fault(number, entry, f"a word has at most {LONGEST_WORD} characters")
        marks = "{}" if found and found[1] else "[]" if found and found[2] else ("", "")
        yield number, len(indent), f"{marks[0]}{word}{marks[1]}"


def _fault(number: int, entry: str, why: str) -> ConfigError:
    return ConfigError(
        f"line {number} of the vocabulary ({entry[:60]!r}): {why}.",
        argument="vocabulary",
        hint="Write one word a line, a tab more for each level, {synonym} one tab below its word.",
    )


def _key(word: str) -> str:
    return " ".join(re.split(r"[\s_-]+", unicodedata.normalize("NFC", word).casefold().strip()))


def _alternatives(words: Sequence[str]) -> str:
    """Return sorted words as one expression of GBNF."""
    ways = []
    for _, some in groupby(words, key=lambda word: word[:1]):
        group = list(some)
        if not group[0]:
            continue
        first, last = group[0], group[-1]  # they are sorted, so what these two share all share
        shared = next(
            (at for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first)
        )
        rests = [word[shared:] for word in group]
        literal = f'"{first[:shared]}"'
        if rests == [""]:
            ways.append(literal)
        else:
            ways.append(f"{literal} {_alternatives(rests)}{'' if rests[0] else '?'}")
    return f"({' | '.join(ways)})"
