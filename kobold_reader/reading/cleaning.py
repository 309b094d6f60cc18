"""What the model wrote around the page goes; what stands on the page stays.

Thoughts, fences, preambles, closing remarks, tags of templates and of OCR models: each goes only where the evidence
says that the model, not the paper, wrote it: its place in the answer, its exact wording, what stands beside it. A page
that speaks of such things keeps them. In doubt a line too many stays: that is ugly, the other way would be a loss.
"""

from __future__ import annotations

import re
from typing import Final

from kobold_reader.reading.phrases import CLOSING, LOOSE_CLOSING, LOOSE_PREAMBLE, PREAMBLE
from kobold_reader.reading.traced import Traced

__all__ = ["clean"]

_THOUGHT: Final = r"think|thinking|thought|reasoning"
_OPENED: Final = re.compile(
    rf"\s*(?:<(?P<tag>{_THOUGHT})>|\[THINK\]|◁think▷|<\|channel>thought|<\|begin_of_thought\|>)", re.IGNORECASE
)
_CLOSED: Final = re.compile(
    rf"(?:</(?:{_THOUGHT})>|\[/THINK\]|◁/think▷|<channel\|>|<\|end_of_thought\|>)", re.IGNORECASE
)
_AT_LINE_END: Final = re.compile(r"[ \t]*(?:\n|\Z)")

_END_TAG: Final = (
    r"<\|(?:im_end|endoftext|end_of_text|eot_id|eot|eom_id|end|return)\|>|<end_of_turn>|<turn\|>|<｜end▁of▁sentence｜>"
    r"|<eos>|</s>|\[/INST\]|<\|(?:endofassistant|end_of_utterance)\|>|<end_of_utterance>"
)
_START_TAG: Final = (
    r"<\|im_start\|>|<start_of_turn>|<\|turn>|<\|start_header_id\|>|<\|(?:user|assistant|system)\|>|<｜User｜>|\[INST\]"
)
_ROLE: Final = r"### ?(?:Response|Instruction|Input|Assistant|Human):|(?:ASSISTANT|USER|HUMAN):"
_ENDS: Final = re.compile(rf"(?:{_END_TAG}|{_START_TAG}|(?:^|(?<=\n))(?:{_ROLE}))\s*\Z")
_NEXT_TURN: Final = re.compile(rf"(?:{_END_TAG})\s*(?:{_START_TAG})")
_STARTED: Final = re.compile(_START_TAG)
_BEGINS: Final = re.compile(
    rf"\s*(?:{_END_TAG}|(?:{_START_TAG})(?:assistant|model)\n?|<\|assistant\|>|### ?(?:Response|Assistant):|ASSISTANT:)"
)

_FENCE: Final = re.compile(r"^(`{3,}|~{3,})[ \t]*([\w+-]*)[ \t]*$", re.MULTILINE)
_PAGE_KINDS: Final = frozenset({"", "markdown", "md", "text", "txt", "plaintext", "plain", "html", "json", "yaml"})
_CHATTY_KINDS: Final = frozenset({"markdown", "md", "text", "plaintext"})
_LONGEST_REMARK: Final = 300

_LABEL: Final = (
    r"title|sub_title|text|image|table|figure|header|footer|caption|image_caption|table_caption|figure_title|formula"
    r"|equation|list|page_number|reference|code|stamp|seal|table_footnote|aside_text"
)
_GROUNDED: Final = re.compile(r"<\|ref\|>(.*?)<\|/ref\|><\|det\|>\[\[.*?\]\]<\|/det\|>\n?", re.DOTALL)
_IS_LABEL: Final = re.compile(_LABEL, re.IGNORECASE)
_FRONT_MATTER: Final = re.compile(
    r"\s*---[ \t]*\n(?:(?:primary_language|is_rotation_valid|rotation_correction|is_table|is_diagram):[^\n]*\n)+"
    r"---[ \t]*(?:\n|\Z)"
)
_WRAPPED: Final = re.compile(r"<(page_number|watermark|signature)>([^<>\n]{1,200})</\1>")
_RULE: Final = re.compile(r"\s*(?:[-*_]{3,}[ \t]*(?:\n|\Z))?")
_SHORTEST_ECHO: Final = 25
_SENTENCE: Final = re.compile(r".{25,}?[.!?:](?=\s|$)", re.DOTALL)


def clean(answer: str, instruction: str = "") -> Traced:
    r"""Return the page in an answer: "" where the model has not come to it, or said nothing of it.

    Doing it twice changes nothing more.

    Args:
        answer: As it came.
        instruction: What was asked; a model that repeats it is not reading.

    >>> clean("<think>A letter.</think>```markdown\nDear Axel\n```").text
    'Dear Axel'
    >>> clean("The tag <think> opens a thought.").text
    'The tag <think> opens a thought.'
    """
    page = _tidy(Traced.of(answer))
    while True:
        before = len(page.text)
        page = _without_thoughts(page)
        page = _without_turns(page)
        page = _without_markup(page)
        page = _without_echo(page, instruction)
        page = _tidy(_without_chatter(page))
        if len(page.text) == before:
            return page


def _without_thoughts(page: Traced) -> Traced:
    """Thoughts come first; their opening tag may be part of the prompt, and so missing."""
    opened = _OPENED.match(page.text)
    closed = _CLOSED.search(page.text, opened.end() if opened else 0)
    if opened is not None:
        return page.only(closed.end(), len(page.text)) if closed else page.only(0, 0)
    if closed is None or not _AT_LINE_END.match(page.text, closed.end()):
        return page
    before = page.text[: closed.start()]
    in_code = len(_FENCE.findall(before)) % 2 == 1 or before.count("`") % 2 == 1
    opened_on_page = re.search(rf"<(?:{_THOUGHT})\b", before, re.IGNORECASE)
    return page if in_code or opened_on_page else page.only(closed.end(), len(page.text))


def _without_turns(page: Traced) -> Traced:
    """Tags of the template at both ends, and the next turn that the model made up.

    A page that prints such tags prints those that begin a turn too, before those that end it.
    """
    begins = _BEGINS.match(page.text)
    if begins is not None and not re.search(r"^USER:", page.text, re.MULTILINE):
        page = page.only(begins.end(), len(page.text))
    following = _NEXT_TURN.search(page.text)
    if following is not None and not _STARTED.search(page.text[: following.start()]):
        page = page.only(0, following.start())
    ends = _ENDS.search(page.text)
    if ends is None or _STARTED.search(page.text[: ends.start()]):
        return page
    is_struck = ends.group().strip() == "</s>" and page.text.count("<s>") >= page.text.count("</s>")
    return page if is_struck else page.only(0, ends.start())


def _without_markup(page: Traced) -> Traced:
    """What OCR models write about a page: front matter, places on it, and names for its parts."""
    front = _FRONT_MATTER.match(page.text)
    if front is not None:
        page = page.only(front.end(), len(page.text))
    gone: set[int] = set()
    for found in _GROUNDED.finditer(page.text):
        place = set(range(*found.span()))
        gone |= place if _IS_LABEL.fullmatch(found.group(1).strip()) else place - set(range(*found.span(1)))
        if page.text[found.end() - 1] == "\n" and not _IS_LABEL.fullmatch(found.group(1).strip()):
            gone.discard(found.end() - 1)
    code = [range(one.start(), other.end()) for one, other in _fenced(page.text)]
    for found in _WRAPPED.finditer(page.text):
        if not any(found.start() in lines for lines in code):
            gone |= set(range(*found.span())) - set(range(*found.span(2)))
    return page.keep(lambda at: at not in gone) if gone else page


def _fenced(text: str) -> list[tuple[re.Match[str], re.Match[str]]]:
    fences = list(_FENCE.finditer(text))
    return list(zip(fences[::2], fences[1::2], strict=False))


def _without_echo(page: Traced, instruction: str) -> Traced:
    """The instruction again, whole, or from its first sentence on."""
    text = page.text.lstrip()
    lead = len(page.text) - len(text)
    sentences = _SENTENCE.match(instruction.strip())
    for echo in (instruction.strip(), sentences.group() if sentences else ""):
        if len(echo) < _SHORTEST_ECHO:
            continue
        words = re.match(r"\s+".join(re.escape(word) for word in echo.split()) + r"(?!\w)", text)
        if words is not None:
            return page.only(lead + words.end(), len(page.text))
    return page


def _without_chatter(page: Traced) -> Traced:
    """Preamble, fence, closing remark. One of the first two makes the last more likely: less is asked of it then."""
    text = page.text
    is_chatty = False
    preamble = PREAMBLE.match(text) or LOOSE_PREAMBLE.match(text)
    if preamble is not None:
        rule = _RULE.match(text, preamble.end())
        page = page.only(rule.end() if rule else preamble.end(), len(text))
        is_chatty = True
    unfenced = _unfenced(page)
    is_chatty = is_chatty or unfenced is not page
    page = unfenced
    closing = CLOSING.search(page.text) or (LOOSE_CLOSING.search(page.text) if is_chatty else None)
    if closing is not None and page.text[: closing.start()].strip():
        page = page.only(0, closing.start())
    return page


def _unfenced(page: Traced) -> Traced:
    """The inside of a fence around the whole page; fences of the page's own code stay."""
    fences = list(_FENCE.finditer(page.text))
    if not fences or page.text[: fences[0].start()].strip():
        return page
    opening, kind = fences[0], fences[0].group(2).lower()
    closing = _closing(fences, is_page=kind in _CHATTY_KINDS)
    if closing is None:  # the answer was cut, or the model forgot it
        alone = len(fences) == 1 and kind in {"markdown", "md"}
        return page.only(opening.end(), len(page.text)) if alone else page
    after = page.text[closing.end() :].strip()
    is_remark = kind in _CHATTY_KINDS and "\n" not in after and len(after) <= _LONGEST_REMARK
    if after and not is_remark:
        return page
    return page.only(opening.end(), closing.start())


def _closing(fences: list[re.Match[str]], *, is_page: bool) -> re.Match[str] | None:
    """The fence that closes the first one, or None where others stand between that are no pairs within it."""
    marks = fences[0].group(1)
    if len(fences) == 2:  # noqa: PLR2004
        return fences[1] if fences[1].group(1) == marks and not fences[1].group(2) else None
    inner = fences[1:-1]
    is_nested = len(inner) % 2 == 0 and all(
        one.group(2) and not two.group(2) for one, two in zip(inner[::2], inner[1::2], strict=True)
    )
    last = fences[-1]
    return last if is_page and is_nested and len(fences) > 1 and not last.group(2) else None


def _tidy(page: Traced) -> Traced:
    """As `quality.tidy`."""
    text = page.text
    if "\0" in text or "\r" in text:
        page = page.keep(lambda at: text[at] != "\0" and text[at : at + 2] != "\r\n")
        page = Traced(page.text.replace("\r", "\n"), page.origin)
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
