"""One attempt at one task on one view: sent, watched while it is written, continued where it was cut.

What came is returned as it came; whether it is a reading of the page is `judging`'s to say.

Where a continued answer begins again with what it was given.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from kobold_reader.errors import ContextTooSmallError, ImageNotSeenError
from kobold_reader.kobold import (
    SETTINGS,
    Completion,
    ExpandedPrompt,
    Family,
    GenerateRequest,
    Lease,
    ServerInfo,
    image_tokens,
    render_prompt,
)
from kobold_reader.pages import PageView
from kobold_reader.reading.engine import PageJob
from kobold_reader.reading.loops import Loop, find_loop
from kobold_reader.reading.records import RecordForm

__all__ = ["Asking", "Attempt", "Part", "Question", "attempt", "overlap", "prepare"]

SHORTEST_OVERLAP: Final = 24
"""Fewer characters are repeated by chance."""
LONGEST_OVERLAP: Final = 2000
RESTART: Final = 200
"""A continuation that equals the first so many characters of the page has started over."""


def overlap(before: str, after: str) -> int:
    r"""Tell how many characters of `after` stand at the end of `before` already.

    KoboldCpp continues exactly, so plain concatenation is the rule. Some models all the same say the last line again,
    or begin the page again. Repetition is taken for that only where it is long, exact, and stands nowhere else before:
    a page that repeats itself may go on doing so.

    >>> overlap("Dear Axel,\nthe slates came on Tuesday", "the slates came on Tuesday with Johansson.")
    26
    >>> overlap("1 bushel of oats ... 0.50\n1 bushel of oats ... 0.50\n", "1 bushel of oats ... 0.50\n")
    0
    """
    if not before:
        return 0
    lead_before = len(before) - len(before.lstrip())
    lead = len(after) - len(after.lstrip())
    page, again = before[lead_before:], after[lead:]
    equal = next((at for at, (one, other) in enumerate(zip(page, again, strict=False)) if one != other), None)
    equal = min(len(page), len(again)) if equal is None else equal
    if equal >= RESTART or (equal == len(page) and equal >= SHORTEST_OVERLAP):
        # From the top: what goes beyond is new. Where it differs it is another attempt, and adds nothing.
        return lead + equal if equal == len(page) else len(after)
    for length in range(min(len(before), len(after), LONGEST_OVERLAP), SHORTEST_OVERLAP - 1, -1):
        head = after[:length]
        if before.endswith(head) and before.count(head) == 1:
            return length
    return 0


log = logging.getLogger(__name__)

MIN_ANSWER_TOKENS: Final = 256
"""A context that leaves less room than this for the answer cannot hold a page."""
CONTEXT_SHARE: Final = 0.75
"""KoboldCpp cuts `max_length` to 80 % of its context without a word, so we stay below it."""
CONTEXT_MARGIN_TOKENS: Final = 4
"""KoboldCpp drops every image where image tokens + max_length + 4 exceed its context."""
LONGEST_ANSWER: Final = 4
"""A cut page is continued up to so many times `max_length`."""
MIN_CONTINUATION_TOKENS: Final = 64
"""Less room than this is not worth a request."""
FINITE_PATIENCE: Final = 2.0
"""For repetition in an answer that the model ended by itself."""


@dataclass(frozen=True, slots=True)
class Asking:
    """What stays the same for all that is asked of one page on one server."""

    lease: Lease
    info: ServerInfo
    family: Family
    job: PageJob
    time_limit_s: float | None
    """For one request."""
    max_side_px: int
    """Longest side, in px, that can reach the model's encoder."""
    form: RecordForm | None = None
    """What the answer to `ocr` must be: a record, not a text."""


@dataclass(frozen=True, slots=True)
class Question:
    """One task on one view, ready to be sent."""

    task: str
    instruction: str
    view: PageView
    view_tokens: int
    """At most: as cells of the server's memory, of which its own count may know fewer (M-RoPE)."""
    prompt: ExpandedPrompt
    max_length: int
    is_continued: bool
    """Whether the rest is asked for where the answer was cut."""
    form: RecordForm | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """One answer of the server."""

    completion: Completion
    skipped: int = 0
    """Characters at its beginning that the text before it holds already."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """All that came of one attempt."""

    request: GenerateRequest
    parts: tuple[Part, ...]
    text: str
    """Of all parts, as it came."""
    loop: Loop | None
    is_cut: bool
    """The model had not finished, and the rest could not be had."""

    @property
    def prompt_tokens(self) -> int | None:
        """Of the first request."""
        return self.parts[0].completion.prompt_tokens

    @property
    def completion_tokens(self) -> int | None:
        """Of all parts; None where one was not counted."""
        counts = [part.completion.completion_tokens for part in self.parts]
        return None if None in counts else sum(count or 0 for count in counts)

    @property
    def elapsed_s(self) -> float:
        """Of all requests."""
        return sum(part.completion.elapsed_s for part in self.parts)


def prepare(asking: Asking, task: str, instruction: str, view: PageView, *, min_length: int = 0) -> Question:
    """Expand the prompt, and make room for the answer.

    Args:
        asking: Server, family and page.
        task: One of `tasks.TASKS`.
        instruction: What the user's turn says.
        view: The page, or the part of it, to be looked at.
        min_length: Tokens of an answer that is of no use otherwise, and is not continued; 0 for a text.

    Raises:
        ContextTooSmallError: The server would drop the image silently.
    """
    info, family = asking.info, asking.family
    prompt = asking.lease.run(lambda client: render_prompt(client, info, family, instruction))
    view_tokens = image_tokens(family, view.width_px, view.height_px)
    room_tokens = info.context_tokens - view_tokens - prompt.tokens - CONTEXT_MARGIN_TOKENS
    if room_tokens < MIN_ANSWER_TOKENS:
        needed = view_tokens + prompt.tokens + MIN_ANSWER_TOKENS + CONTEXT_MARGIN_TOKENS
        msg = (
            f"the context of {info.context_tokens} tokens is too small for this page: the image takes up to "
            f"{view_tokens}, the prompt {prompt.tokens}; KoboldCpp would drop the image without a word."
        )
        hint = f"Start it {SETTINGS['contextsize'].remedy(str(max(8192, needed)))}."
        raise ContextTooSmallError(msg, server=info.url, hint=hint)
    wanted = max(family.max_length[task], min_length)
    max_length = min(wanted, room_tokens, int(info.context_tokens * CONTEXT_SHARE))
    return Question(task, instruction, view, view_tokens, prompt, max_length, is_continued=min_length == 0)


def attempt(asking: Asking, question: Question, request: GenerateRequest) -> Attempt:
    """Send the request, and continue its answer until the model ends it, a loop shows, or there is no more room.

    Continued, a page is the same image again (which is not encoded again) and a prompt that ends in the text so far;
    measured, that gives the very text that one longer answer gives.

    Raises:
        ImageNotSeenError: The server dropped the image.
        ServerError: As `Lease.generate` says.
    """
    parts: list[Part] = []
    text, sent_tokens, next_request = "", question.prompt.tokens, request
    while True:
        watch = _Watch(question.task, asking.job, text)
        completion = asking.lease.generate(
            next_request,
            time_limit_s=asking.time_limit_s,
            on_progress=watch,
            cancel=asking.job.cancel,
        )
        _check_seen(completion, sent_tokens, asking.info)
        skipped = overlap(text, completion.text)
        parts.append(Part(completion, skipped))
        text += completion.text[skipped:]
        is_finite = completion.ending in {"eos", "stop_sequence"}
        loop = find_loop(text, patience=FINITE_PATIENCE if is_finite else 1.0) or watch.loop
        is_cut = completion.ending == "length"
        if loop is None and is_cut and question.is_continued and len(completion.text) > skipped:
            sent_tokens = _count(asking, question.prompt.text + text)
            max_length = _room(asking.info, question, sent_tokens)
            if max_length >= MIN_CONTINUATION_TOKENS:
                log.info("page %d: %s was cut after %d characters, going on", *_where(asking, question), len(text))
                next_request = replace(request, prompt=question.prompt.text + text, max_length=max_length)
                continue
        return Attempt(request, tuple(parts), text, loop, is_cut)


def _where(asking: Asking, question: Question) -> tuple[int, str]:
    return asking.job.page_number, question.task


def _count(asking: Asking, text: str) -> int:
    return asking.lease.run(lambda client: client.count_tokens(text), cancel=asking.job.cancel)


def _room(info: ServerInfo, question: Question, sent_tokens: int) -> int:
    """Tokens that the next part may have: within the context, and within what a page may take in all."""
    in_context = info.context_tokens - question.view_tokens - sent_tokens - CONTEXT_MARGIN_TOKENS
    written = sent_tokens - question.prompt.tokens
    return min(question.max_length, in_context, LONGEST_ANSWER * question.max_length - written)


class _Watch:
    """Told the text so far about every second; has enough when it goes round in circles."""

    def __init__(self, task: str, job: PageJob, before: str) -> None:
        self._task = task
        self._tell: Callable[[str, int], None] | None = job.on_progress
        self._before = before
        self.loop: Loop | None = None

    def __call__(self, text_so_far: str) -> bool:
        if self._tell is not None:
            self._tell(self._task, len(self._before) + len(text_so_far))
        self.loop = find_loop(self._before + text_so_far)
        return self.loop is None


def _check_seen(completion: Completion, sent_tokens: int, info: ServerInfo) -> None:
    """Raise where the server dropped the image: then its prompt was no longer than the text that was sent.

    Holds for every projector, also for those whose images count few tokens. Before 1.77 servers return no counts, so
    nothing is proved (`Reading.image_verified` is False).
    """
    if completion.prompt_tokens is not None and completion.prompt_tokens <= sent_tokens:
        msg = (
            f"the server did not see the image: it read {completion.prompt_tokens} tokens, as many as the text alone "
            f"has ({sent_tokens}). Its answer would be invented, so it was thrown away."
        )
        hint = (
            f"Check that the projector is loaded (start it {SETTINGS['mmproj'].remedy()}) and that the context is "
            f"large enough ({SETTINGS['contextsize'].remedy('8192')}); `kobold-reader doctor` tells more."
        )
        raise ImageNotSeenError(msg, server=info.url, hint=hint)
