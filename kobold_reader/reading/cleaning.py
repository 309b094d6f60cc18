"""Cleaning: text that a model wrote around a page is removed; the text of the page stays.

Thoughts, code fences, preambles, closing remarks, tags of chat templates and of OCR models: each is removed only where
its place in the answer, its exact wording and the text next to it show that the model wrote it and not the paper. A
page that contains such words itself keeps them. In doubt a line too many stays: that is ugly, but the loss of a line of
the page would be worse.

The phrases of chat models, in eleven languages, are in `chat_phrases.toml`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from html import unescape
from typing import Self

from kobold_reader.reading.envelope import open_envelope
from kobold_reader.reading.places import TextPlace, find_places
from kobold_reader.reading.talk import load_phrases


@dataclass(frozen=True, slots=True)
class Traced:
    """The rest of an answer, and the place of each of its characters in the answer."""

    text: str
    origin: Sequence[int]
    """For each character: its position in the answer; of a decoded one, that of its code."""
    places: tuple[TextPlace, ...] = ()
    """What the answer says about where its parts stand."""

    @classmethod
    def of(cls, answer: str) -> Self:
        """Return the whole answer."""
        return cls(answer, range(len(answer)))

    def slice(self, start: int = 0, end: int | None = None) -> Traced:
        """Return the characters from `start` to `end`."""
        return replace(self, text=self.text[start:end], origin=self.origin[start:end])

    def keep(self, is_kept: Callable[[int], bool]) -> Traced:
        """Return the characters at the positions that `is_kept` accepts."""
        return self.at(list(filter(is_kept, range(len(self.text)))))

    def at(self, positions: Sequence[int]) -> Traced:
        """Return the characters at these positions, which are in ascending order."""
        text, origin = "".join(self.text[at] for at in positions), [self.origin[at] for at in positions]
        return replace(self, text=text, origin=origin)


# ── phrases of chat models ────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class ChatPhrases:
    """Patterns of what chat models write around a page; what they write instead of one is in `talk`.

    The loose patterns also match what a page may say. They count only where the form of the answer shows that the model
    is chatting: a blank line or a fence after a preamble, a preamble or a fence before a closing remark.
    """

    preamble: re.Pattern[str]
    loose_preamble: re.Pattern[str]
    closing: re.Pattern[str]
    loose_closing: re.Pattern[str]

    @classmethod
    @cache
    def load(cls) -> Self:
        """Make the patterns from `chat_phrases.toml`, once: to compile them takes a tenth of a second."""
        languages = load_phrases()["languages"]

        def any_of(key: str) -> str:
            return "|".join(phrase for language in languages for phrase in language.get(key, ()))

        strict: list[str] = []
        loose: list[str] = []
        for language in (one for one in languages if "sure" in one):
            keys = ("sure", "here_is", "the_text", "of", "image", "paper")
            sure, here_is, the_text, of, image, paper = ("|".join(language[key]) for key in keys)
            here = rf"(?:{here_is})\s+{the_text}"
            strict.append(rf"(?:{sure})\s?[!,.:]*\s+{here}(?:\s+{of}(?:{image}|{paper})){{0,2}}")
            strict.append(rf"{here}(?:\s+{of}(?:{paper}))?\s+{of}(?:{image})")
            loose.append(rf"{here}(?:\s+{of}(?:{paper}))?")
        whole = "|".join(one["preamble"] for one in languages if "preamble" in one)
        marks = r"[\s*_#>\"“]*"
        colon = r"\s?(?:,? (?:in|as) (?:plain |bare )?(?:markdown|text)(?: format)?)?\s?[:：][*_]*"
        last = r"\n[^\S\n]*\n(?:[-*_]{3,}[^\S\n]*\n\s*)?[*_(\[]*"
        rest = r"[^\n]{0,250}\s*\Z"
        patterns = (
            rf"(?:{marks}(?:{'|'.join(strict)}){colon}[^\S\n]*\n?|\s*(?:{whole})\s*[：:。]\s*(?:\n|\Z))",
            rf"{marks}(?:{'|'.join(loose)}){colon}[^\S\n]*(?=\n[^\S\n]*\n|\n`{{3}}|\n-{{3,}}|\Z)",
            rf"{last}(?:{any_of('sure_closings')}){rest}",
            rf"{last}(?:{any_of('closings')}){rest}",
        )
        return cls(*(re.compile(pattern, re.IGNORECASE) for pattern in patterns))


# ── the steps of cleaning ─────────────────────────────────────────────────────────────────────────

_THOUGHT = r"think|thinking|thought|reasoning"
_THOUGHT_OPENED = re.compile(
    rf"\s*(?:<(?P<tag>{_THOUGHT})>|\[THINK\]|◁think▷|<\|channel>thought|<\|begin_of_thought\|>)", re.IGNORECASE
)
_THOUGHT_CLOSED = re.compile(
    rf"(?:</(?:{_THOUGHT})>|\[/THINK\]|◁/think▷|<channel\|>|<\|end_of_thought\|>)", re.IGNORECASE
)
_LINE_END = re.compile(r"[ \t]*(?:\n|\Z)")

_END_TAG = (
    r"<\|(?:im_end|endoftext|end_of_text|eot_id|eot|eom_id|end|return)\|>|<end_of_turn>|<turn\|>|<｜end▁of▁sentence｜>"
    r"|<eos>|</s>|\[/INST\]|<\|(?:endofassistant|end_of_utterance)\|>|<end_of_utterance>"
)
_START_TAG = (
    r"<\|im_start\|>|<start_of_turn>|<\|turn>|<\|start_header_id\|>|<\|(?:user|assistant|system)\|>|<｜User｜>|\[INST\]"
)
_ROLE = r"### ?(?:Response|Instruction|Input|Assistant|Human):|(?:ASSISTANT|USER|HUMAN):"
_TAG_AT_END = re.compile(rf"(?:{_END_TAG}|{_START_TAG}|(?:^|(?<=\n))(?:{_ROLE}))\s*\Z")
_TAG_AT_BEGINNING = re.compile(
    rf"\s*(?:{_END_TAG}|(?:{_START_TAG})(?:assistant|model)\n?|<\|assistant\|>|### ?(?:Response|Assistant):|ASSISTANT:)"
)
_NEXT_TURN = re.compile(rf"(?:{_END_TAG})\s*(?:{_START_TAG})")
_TURN_BEFORE = rf"\s*(?:(?:<s>|{_START_TAG})(?:user\b)?\s*)*"
_TURN_BEHIND = rf"(?:\s*(?:{_END_TAG}))*"
_TURN_STARTED = re.compile(_START_TAG)
_TURN_ENDED = re.compile(_END_TAG)

_SPECIAL = re.compile(
    rf"(?:{_END_TAG}|{_START_TAG}|<\|/?[A-Za-z][A-Za-z0-9_]{{2,40}}\|>|<｜[^｜<>\n]{{2,40}}｜>"
    r"|</?(?:bos|eos|pad|unk|sop|eop|global-img|row_\d+_col_\d+|fake_token_around_image|IMG_CONTEXT|image_soft_token)>"
    r"|<(?:fim_(?:prefix|middle|suffix|pad)|file_sep|repo_name|unused\d+|page_break|[xy]_\d\.\d+|class_\w+)>"
    r"|</?(?:doctag|otsl|(?:un)?ordered_list)>|<\|[A-Za-z][A-Za-z0-9_]*\|?\Z|<(?:end|start)_of_[a-z]*\Z"
    r"|<(?:start|end)_of_image>|<image(?:_\d+)?>|<\|?(?:image|video)\|?>|\[(?:IMG|IMG_BREAK|IMG_END|gMASK)\])"
)
"""Tokens that stand for something else than text: images, and the ends of texts and turns; the last may be cut."""
_CELL = re.compile(r"<(?:(?P<row_end>nl)|[felux]cel|[cr]hed|srow)>")
"""Tokens of DocTags that begin a cell of a table, or end its row."""
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][\da-fA-F]{1,6}|[A-Za-z][A-Za-z\d]{1,31});")
_CODE_SPAN = re.compile(r"`[^`\n]+`")

_FENCE = re.compile(r"^(`{3,}|~{3,})[ \t]*([\w+-]*)[ \t]*$", re.MULTILINE)
_CHATTY_KINDS = frozenset({"markdown", "md", "text", "plaintext"})
"""Kinds of fenced blocks in which chat models put a page."""
_LONGEST_REMARK = 300

_FRONT_MATTER = re.compile(
    r"\s*---[ \t]*\n(?:(?:primary_language|is_rotation_valid|rotation_correction|is_table|is_diagram):[^\n]*\n)+"
    r"---[ \t]*(?:\n|\Z)"
)
_WRAPPED = re.compile(r"<(page_number|watermark|signature)>([^<>\n]{1,200})</\1>")
_WRAPPER = re.compile(
    r"\s*<(?P<tag>transcription|transcript|ocr|ocr_text|output|answer|response|result|markdown|text|page|content|s)>"
    r"(?P<page>(?:[^<]|<(?![A-Za-z/])|</?(?:table|thead|tbody|tr|t[dh]|br|sup|sub|[biup])\b)*)</(?P=tag)>\s*",
    re.IGNORECASE,
)
"""A tag around the whole page, which has no others but those of tables and of type."""
_RULE = re.compile(r"\s*(?:[-*_]{3,}[ \t]*(?:\n|\Z))?")
_SHORTEST_ECHO = 25
_FIRST_SENTENCES = re.compile(r".{25,}?[.!?:](?=\s|$)", re.DOTALL)


def clean(answer: str, instruction: str = "", *, is_json: bool = False) -> Traced:
    r"""Return the page in an answer, "" where it has none; some models repeat the instruction before it.

    Cleaning a cleaned page changes nothing. With `is_json`, JSON was asked for, and is left as it is.

    >>> clean("<think>A letter.</think>```markdown\nDear Axel\n```").text
    'Dear Axel'
    >>> clean("The tag <think> opens a thought.").text
    'The tag <think> opens a thought.'
    """
    page = _tidied(Traced.of(answer))
    while True:
        length = len(page.text)
        page = _without_special(_without_markup(_without_turns(_without_thoughts(page))))
        page = _tidied(_without_chatter(_without_echo(page, instruction)))
        if not is_json:
            page = _tidied(_decoded(_opened(page)))
        if len(page.text) == length:
            return page


def tidy(text: str) -> str:
    """Remove outer white space, blanks at line ends, NULs and stray carriage returns."""
    return _tidied(Traced.of(text)).text


def _tidied(page: Traced) -> Traced:
    text = page.text
    if "\0" in text or "\r" in text:
        page = page.keep(lambda at: text[at] != "\0" and text[at : at + 2] != "\r\n")
        page = replace(page, text=page.text.replace("\r", "\n"))
    kept: list[int] = []
    start = 0
    for line in page.text.split("\n"):
        kept.extend(range(start, start + len(line.rstrip())))
        start += len(line) + 1
        kept.append(start - 1)
    kept.pop()
    while kept and page.text[kept[-1]].isspace():
        kept.pop()
    first = next((number for number, at in enumerate(kept) if not page.text[at].isspace()), len(kept))
    return page.at(kept[first:])


def _without_thoughts(page: Traced) -> Traced:
    """Remove the thoughts at the beginning; their opening tag may be part of the prompt, and so missing."""
    opened = _THOUGHT_OPENED.match(page.text)
    closed = _THOUGHT_CLOSED.search(page.text, opened.end() if opened else 0)
    if opened is not None:
        return page.slice(closed.end() if closed else len(page.text))
    if closed is None or not _LINE_END.match(page.text, closed.end()):
        return page
    before = page.text[: closed.start()]
    in_code = len(_FENCE.findall(before)) % 2 == 1 or before.count("`") % 2 == 1
    is_of_page = in_code or re.search(rf"<(?:{_THOUGHT})\b", before, re.IGNORECASE)
    return page if is_of_page else page.slice(closed.end())


def _without_turns(page: Traced) -> Traced:
    """Remove the template's tags at both ends, and the next turn that the model made up.

    A page that prints such tags prints those that begin a turn too, before those that end it.
    """
    begins = _TAG_AT_BEGINNING.match(page.text)
    if begins is not None and not re.search(r"^USER:", page.text, re.MULTILINE):
        page = page.slice(begins.end())
    following = _NEXT_TURN.search(page.text)
    if following is not None and not _TURN_STARTED.search(page.text, 0, following.start()):
        page = page.slice(0, following.start())
    ends = _TAG_AT_END.search(page.text)
    if ends is None or _TURN_STARTED.search(page.text, 0, ends.start()):
        return page
    is_strikethrough = ends.group().strip() == "</s>" and page.text.count("<s>") >= page.text.count("</s>")
    return page if is_strikethrough else page.slice(0, ends.start())


def _without_markup(page: Traced) -> Traced:
    """Remove the markup of OCR models: front matter, positions on the page, names of its parts."""
    front = _FRONT_MATTER.match(page.text)
    if front is not None:
        page = page.slice(front.end())
    wrapper = _WRAPPER.fullmatch(page.text)
    if wrapper is not None:
        page = page.slice(*wrapper.span("page"))
    code = _code(page.text)
    found_places = find_places(page.text, code)
    removed = set(found_places.said)
    places = tuple(
        TextPlace(page.origin[one.start], page.origin[one.end - 1] + 1, one.shares) for one in found_places.places
    )
    broken = "".join("\n" if at in found_places.breaks else char for at, char in enumerate(page.text))
    page = replace(page, text=broken, places=page.places + places)
    for found in _WRAPPED.finditer(page.text):
        if not any(found.start() in lines for lines in code):
            removed |= set(range(*found.span())) - set(range(*found.span(2)))
    return page.keep(lambda at: at not in removed) if removed else page


def _code(text: str) -> list[range]:
    """Return where code stands: in fences, and between backticks."""
    fences = list(_FENCE.finditer(text))
    blocks = [range(one.start(), other.end()) for one, other in zip(fences[::2], fences[1::2], strict=False)]
    if blocks and not text[: blocks[0].start].strip() and fences[0][2].lower() in {"", "json", *_CHATTY_KINDS}:
        blocks = blocks[1:]  # the fence around the page
    return blocks + [range(*span.span()) for span in _CODE_SPAN.finditer(text)]


def _without_special(page: Traced) -> Traced:
    """Remove special tokens; not from a page on chat templates, which shows the beginnings of turns too."""
    begun = _TURN_STARTED.search(page.text)
    if begun and _TURN_ENDED.search(page.text, begun.end()):
        return page
    has_strikethrough = page.text.count("<s>") >= page.text.count("</s>") > 0
    code = _code(page.text)
    removed: set[int] = set()
    marks: dict[int, str] = {}
    if "<nl>" in page.text:
        for cell in _CELL.finditer(page.text):
            marks[cell.start()] = "\n" if cell["row_end"] else "|"
            removed |= set(range(cell.start() + 1, cell.end()))
    for found in _SPECIAL.finditer(page.text):
        if any(found.start() in lines for lines in code) or (has_strikethrough and found.group() == "</s>"):
            continue
        removed |= set(range(*found.span()))
        is_alone = page.text[: found.start()].rpartition("\n")[2].strip() == ""
        if is_alone and page.text[found.end() : found.end() + 1] == "\n":
            removed.add(found.end())
    page = replace(page, text="".join(marks.get(at, char) for at, char in enumerate(page.text))) if marks else page
    return page.keep(lambda at: at not in removed) if removed else page


def _opened(page: Traced) -> Traced:
    """Take the text out of an envelope of JSON."""
    opened = open_envelope(page.text)
    if opened is None:
        return page
    text, places = opened
    return replace(page, text=text, origin=[page.origin[at] for at in places])


def _decoded(page: Traced) -> Traced:
    """Decode HTML's entities outside of code, unless the page has an ampersand as such: then it shows entities."""
    code = _code(page.text)
    entities = [one for one in _ENTITY.finditer(page.text) if not any(one.start() in lines for lines in code)]
    bare = sum(char == "&" and not any(at in lines for lines in code) for at, char in enumerate(page.text))
    if not entities or bare != len(entities):
        return page
    text, origin, at = "", [], 0
    for entity in entities:
        decoded = unescape(entity.group()).replace("\xa0", " ")
        text += page.text[at : entity.start()] + decoded
        origin += [*page.origin[at : entity.start()], *page.origin[entity.start() : entity.start() + len(decoded)]]
        at = entity.end()
    return replace(page, text=text + page.text[at:], origin=[*origin, *page.origin[at:]])


def _without_echo(page: Traced, instruction: str) -> Traced:
    """Remove the repeated instruction: all of it, or its first sentences, and the tags of its turn."""
    instruction = instruction.strip()
    sentences = _FIRST_SENTENCES.match(instruction)
    for echo in (instruction, sentences.group() if sentences else ""):
        if len(echo) < _SHORTEST_ECHO:
            continue
        said = r"\s+".join(map(re.escape, echo.split()))
        words = re.match(rf"{_TURN_BEFORE}{said}(?!\w){_TURN_BEHIND}", page.text)
        if words is not None:
            return page.slice(words.end())
    return page


def _without_chatter(page: Traced) -> Traced:
    """Remove preamble, fence and closing remark. One of the first two makes the last more likely."""
    phrases = ChatPhrases.load()
    preamble = phrases.preamble.match(page.text) or phrases.loose_preamble.match(page.text)
    if preamble is not None:
        rule = _RULE.match(page.text, preamble.end())
        page = page.slice(rule.end() if rule else preamble.end())
    unfenced = _unfenced(page)
    is_chatty = preamble is not None or unfenced is not page
    text = unfenced.text
    closing = phrases.closing.search(text) or (phrases.loose_closing.search(text) if is_chatty else None)
    if closing is not None and text[: closing.start()].strip():
        return unfenced.slice(0, closing.start())
    return unfenced


def _unfenced(page: Traced) -> Traced:
    """Remove a fence around the whole page; fences of the page's own code stay."""
    fences = list(_FENCE.finditer(page.text))
    if not fences or page.text[: fences[0].start()].strip():
        return page
    opening, kind = fences[0], fences[0][2].lower()
    closing = _closing_fence(fences, is_chatty=kind in _CHATTY_KINDS)
    if closing is None:  # the answer was cut, or the model forgot it
        return page.slice(opening.end()) if len(fences) == 1 and kind in {"markdown", "md", "json"} else page
    after = page.text[closing.end() :].strip()
    is_remark = kind in _CHATTY_KINDS and "\n" not in after and len(after) <= _LONGEST_REMARK
    return page if after and not is_remark else page.slice(opening.end(), closing.start())


def _closing_fence(fences: list[re.Match[str]], *, is_chatty: bool) -> re.Match[str] | None:
    """Return the fence that closes the first one; None where the fences between them are no pairs."""
    first, last = fences[0], fences[-1]
    if last[2]:
        return None
    if len(fences) == 2:  # noqa: PLR2004
        return last if last[1] == first[1] else None
    inner = fences[1:-1]
    is_nested = len(inner) % 2 == 0 and all(
        one[2] and not two[2] for one, two in zip(inner[::2], inner[1::2], strict=True)
    )
    return last if is_chatty and is_nested and inner else None
