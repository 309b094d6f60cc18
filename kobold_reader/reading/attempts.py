"""Attempts: one task on one view of a page, asked of one server until the answer is a reading.

`ask` tells the story. An attempt is sent, watched while it is written, and continued where it was cut. Then it is
cleaned and judged. If it is no reading, the next attempt is made at a higher temperature. These are attempts at the
*content*; requests that fail on their way (refused, busy, reset) are repeated by the pool's lease.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from operator import methodcaller
from typing import Any, Literal

from kobold_reader.errors import ContextTooSmallError, EmptyTranscriptionError, ImageNotSeenError, TranscriptionError
from kobold_reader.kobold import (
    SETTINGS,
    Completion,
    ExpandedPrompt,
    Family,
    GenerateRequest,
    Lease,
    image_tokens,
    render_prompt,
)
from kobold_reader.kobold.protocol import CONTEXT_MARGIN_TOKENS, MIN_ANSWER_TOKENS
from kobold_reader.pages import PageView, Scalar
from kobold_reader.reading.cleaning import Traced, clean
from kobold_reader.reading.confidence import confidence_of
from kobold_reader.reading.envelope import open_envelope
from kobold_reader.reading.loops import Loop, find_loop
from kobold_reader.reading.page_reader import PageJob
from kobold_reader.reading.places import boxes_of
from kobold_reader.reading.records import RecordForm
from kobold_reader.reading.results import LineBox, Reading, Status
from kobold_reader.reading.tags import TagForm
from kobold_reader.reading.talk import Talk, talk_of
from kobold_reader.release import RELEASE

log = logging.getLogger(__name__)

RETRY_TEMPERATURES = (0.2, 0.4, 0.8)
"""After the first attempt, which is nearly greedy and repeatable: only more chance leaves the same rut."""
STEP_HOTTER = 0.1
"""What each attempt adds to a family's own temperature where that is higher than these."""
DRY_MULTIPLIER = 0.8
"""KoboldCpp's penalty on repeated sequences, once a loop was seen. Never `rep_pen`: it spoils tables and figures."""
SPECK_HEIGHTS = 2.0
"""A tile with no more writing than this, in heights of its line, may rightly be answered with nothing."""

LONGEST_ANSWER = 4
"""A cut page is continued up to this many times `max_length`."""
MIN_CONTINUATION_TOKENS = 64
"""Less room than this is not worth a request."""
FINITE_PATIENCE = 1.5
"""The patience of `find_loop` for an answer that the model ended by itself."""

SHORTEST_OVERLAP = 24
"""Fewer characters are repeated by chance."""
LONGEST_OVERLAP = 2000
RESTART = 200
"""A continuation that equals this many characters at the beginning of the page has started over."""


@dataclass(frozen=True, slots=True)
class PageContext:
    """The values shared by all questions about one page on one server."""

    lease: Lease
    family: Family
    job: PageJob
    time_limit_s: float | None
    """Of one request."""
    max_side_px: int
    """Longest side, in px, that can reach the model's encoder."""
    form: RecordForm | None = None
    """The form of the answer to `ocr`: a record in place of a text."""
    tag_form: TagForm = field(default_factory=TagForm)
    """The form of the answer to `tags`."""


@dataclass(frozen=True, slots=True)
class Question:
    """One task on one view, ready to be sent."""

    task: str
    instruction: str
    view: PageView
    view_tokens: int
    """An upper bound, in cells of the server's memory; the server's own count may be lower (M-RoPE)."""
    prompt: ExpandedPrompt
    max_length: int
    form: RecordForm | TagForm | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """The answer to one attempt."""

    request: GenerateRequest
    parts: tuple[tuple[Completion, int], ...]
    """The completions, each with the number of characters at its beginning that repeat the text before it."""
    text: str
    """The texts of all parts, joined, not cleaned."""
    loop: Loop | None
    is_cut: bool
    """The model had not finished, and the rest could not be had."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement of one attempt; text and status are those of a reading."""

    kind: Literal["reading", "empty", "unusable"] | Talk
    attempt: Attempt
    page: Traced
    """The answer, cleaned."""
    text: str = ""
    status: Status = "ok"
    fault: str = ""
    """What is wrong with an unusable record."""


def ask(context: PageContext, task: str, instruction: str, view: PageView) -> Reading:
    """Ask until the answer is a reading: once, and three times more at higher temperatures.

    Args:
        context: Server, family and page.
        task: The task.
        instruction: The user's turn of the prompt.
        view: The page, or a part of it.

    Raises:
        ContextTooSmallError: The server would drop the image silently.
        EmptyTranscriptionError: Nothing came out of all attempts.
        ImageNotSeenError: The server dropped the image, or the model says that it sees none.
        TranscriptionError: No answer of all attempts can be used.
        ServerError: As `Lease.generate` says.
    """
    question = _prepare(context, task, instruction, view)
    verdicts: list[Verdict] = []
    tries = list(enumerate(_temperatures(context), start=1))
    for number, temperature in tries[1:] if context.job.is_again else tries:
        saw_loop = any(verdict.attempt.loop for verdict in verdicts)
        request = _request(context, question, temperature, seed=number, saw_loop=saw_loop)
        verdict = _judge(question, _attempt(context, question, request))
        verdicts.append(verdict)
        if verdict.kind == "reading" and verdict.status != "looping":
            return _reading(context, question, verdicts, verdict)
        no_text_kinds = {"no_text", "empty"} if _is_speck(view) else {"no_text"}
        nothing = [one for one in verdicts if one.kind in no_text_kinds]
        if task == "ocr" and len(nothing) == 2:  # noqa: PLR2004  (a model that says it twice is believed)
            return _reading(context, question, verdicts, verdict)
        found = verdict.status if verdict.kind == "reading" else verdict.kind
        log.info("page %d: %s, attempt %d: %s", context.job.page_number, task, number, found)
    loops = [verdict for verdict in verdicts if verdict.kind == "reading"]
    if loops:
        longest = max(loops, key=lambda verdict: verdict.attempt.loop.start if verdict.attempt.loop else 0)
        return _reading(context, question, verdicts, longest)
    raise _failure(context, question, verdicts)


# ── the request ──────────────────────────────────────────────────────────────────────────────────


def _prepare(context: PageContext, task: str, instruction: str, view: PageView) -> Question:
    info, family = context.lease.info, context.family
    if task == "tags":
        instruction = f"{instruction}\n{context.tag_form.instruction}"
    prompt = context.lease.run(lambda client: render_prompt(client, info, family, instruction))
    view_tokens = image_tokens(family, view.width_px, view.height_px)
    room_tokens = info.context_tokens - view_tokens - prompt.tokens - CONTEXT_MARGIN_TOKENS
    if room_tokens < MIN_ANSWER_TOKENS:
        needed = info.context_tokens - room_tokens + MIN_ANSWER_TOKENS
        raise ContextTooSmallError(
            f"the context of {info.context_tokens} tokens is too small for this page: the image takes up to "
            f"{view_tokens}, the prompt {prompt.tokens}; KoboldCpp would drop the image without a word.",
            server=info.url,
            hint=f"Start it {SETTINGS['contextsize'].remedy(str(max(8192, needed)))}.",
        )
    wanted = max(family.max_length[task], context.tag_form.min_length_tokens if task == "tags" else 0)
    max_length = min(wanted, room_tokens, info.max_answer_tokens)
    form = {"ocr": context.form, "tags": context.tag_form}.get(task)
    return Question(task, instruction, view, view_tokens, prompt, max_length, form)


def _temperatures(context: PageContext) -> list[float]:
    coolest = context.family.decoding_for(context.lease.info).get("temperature", GenerateRequest("").temperature)
    hotter = [max(one, coolest + step * STEP_HOTTER) for step, one in enumerate(RETRY_TEMPERATURES, start=1)]
    return [round(temperature, 3) for temperature in (coolest, *hotter)]


def _request(
    context: PageContext, question: Question, temperature: float, *, seed: int, saw_loop: bool
) -> GenerateRequest:
    """Make the request of an attempt, with a seed of its own, so that the reading can be repeated."""
    decoding: dict[str, Any] = {**context.family.decoding_for(context.lease.info), "temperature": temperature}
    if saw_loop:
        decoding["dry_multiplier"] = max(DRY_MULTIPLIER, decoding.get("dry_multiplier", 0.0))
    return GenerateRequest(
        prompt=question.prompt.text,
        images=(question.view.image,),
        max_length=question.max_length,
        sampler_seed=seed,
        stop_sequence=context.family.stop_sequence,
        # About 1.5 kB a token, so only where they are used and tell something.
        logprobs=question.task == "ocr" and temperature > 0 and decoding.get("top_k", 0) != 1,
        grammar=question.form.grammar if question.form else None,
        **decoding,
    )


def _attempt(context: PageContext, question: Question, request: GenerateRequest) -> Attempt:
    """Send the request, and continue its answer until the model ends it, a loop shows, or there is no more room.

    To continue a page, the same image is sent again (1.115 does not encode it again) with a prompt that ends in the
    text so far; measured, that gives exactly the text of one longer answer.
    """
    parts: list[tuple[Completion, int]] = []
    text, sent_tokens, next_request = "", question.prompt.tokens, request
    while True:
        watch = _Watch(question.task, context.job, text)
        completion = context.lease.generate(
            next_request, time_limit_s=context.time_limit_s, on_progress=watch, cancel=context.job.cancel
        )
        _check_seen(completion, sent_tokens, context.lease.info.url)
        skipped = overlap(text, completion.text)
        parts.append((completion, skipped))
        text += completion.text[skipped:]
        is_finite = completion.ending in {"eos", "stop_sequence"}
        loop = find_loop(text, patience=FINITE_PATIENCE if is_finite else 1.0) or watch.loop
        is_cut = completion.ending == "length"
        if loop is None and is_cut and question.task != "tags" and len(completion.text) > skipped:
            prompt = question.prompt.text + text
            sent_tokens = context.lease.run(methodcaller("count_tokens", prompt), cancel=context.job.cancel)
            max_length = _room_tokens(context, question, sent_tokens)
            if max_length >= MIN_CONTINUATION_TOKENS:
                where = context.job.page_number, question.task
                log.info("page %d: %s was cut after %d characters and is continued", *where, len(text))
                next_request = replace(request, prompt=prompt, max_length=max_length)
                continue
        return Attempt(request, tuple(parts), text, loop, is_cut)


def _room_tokens(context: PageContext, question: Question, sent_tokens: int) -> int:
    """Return how many tokens the next part may have: within the context, and within the limit for a page."""
    in_context = context.lease.info.context_tokens - question.view_tokens - sent_tokens - CONTEXT_MARGIN_TOKENS
    written = sent_tokens - question.prompt.tokens
    return min(question.max_length, in_context, LONGEST_ANSWER * question.max_length - written)


class _Watch:
    """Called with the text so far about every second; stops the server when the text ends in a loop."""

    def __init__(self, task: str, job: PageJob, before: str) -> None:
        self._task = task
        self._job = job
        self._before = before
        self.loop: Loop | None = None

    def __call__(self, text_so_far: str) -> bool:
        if self._job.on_progress is not None:
            self._job.on_progress(self._task, len(self._before) + len(text_so_far))
        self.loop = find_loop(self._before + text_so_far)
        return self.loop is None


def _check_seen(completion: Completion, sent_tokens: int, url: str) -> None:
    """Raise where the server dropped the image: then its prompt was no longer than the text that was sent.

    This holds for every projector, also for those whose images count few tokens. Servers before 1.77 return no counts,
    so nothing is proved (`Reading.image_verified` is False).
    """
    if completion.prompt_tokens is not None and completion.prompt_tokens <= sent_tokens:
        raise ImageNotSeenError(
            f"the server did not see the image: it read {completion.prompt_tokens} tokens, as many as the text alone "
            f"has ({sent_tokens}). Its answer would be invented, so it was thrown away.",
            server=url,
            hint=f"Check that the projector is loaded (start it {SETTINGS['mmproj'].remedy()}) and that the context is "
            f"large enough ({SETTINGS['contextsize'].remedy('8192')}); `kobold-reader doctor` tells more.",
        )


def overlap(before: str, after: str) -> int:
    r"""Tell how many characters at the beginning of `after` repeat the end of `before`.

    KoboldCpp continues exactly. But some models write the last line again, or begin the page again. Equal text counts
    as such a repetition only where it is long, exact, and occurs nowhere else before: a page may repeat itself.

    >>> overlap("Dear Axel,\nthe slates came on Tuesday", "the slates came on Tuesday with Johansson.")
    26
    >>> overlap("1 bushel of oats ... 0.50\n1 bushel of oats ... 0.50\n", "1 bushel of oats ... 0.50\n")
    0
    """
    if not before:
        return 0
    page, again = before.lstrip(), after.lstrip()
    lead = len(after) - len(again)
    differs = (at for at, (one, other) in enumerate(zip(page, again, strict=False)) if one != other)
    equal = next(differs, min(len(page), len(again)))
    if equal >= RESTART or (equal == len(page) and equal >= SHORTEST_OVERLAP):
        # It starts over. What goes beyond the page is new; where it differs it is another attempt, and adds nothing.
        return lead + equal if equal == len(page) else len(after)
    for length in range(min(len(before), len(after), LONGEST_OVERLAP), SHORTEST_OVERLAP - 1, -1):
        head = after[:length]
        if before.endswith(head) and before.count(head) == 1:
            return length
    return 0


# ── the answer ────────────────────────────────────────────────────────────────────────────────


def _judge(question: Question, attempt: Attempt) -> Verdict:
    """Clean the answer, and tell whether it is a reading. A loop is cut off; what comes before it was read."""
    answer = attempt.text[: attempt.loop.kept] if attempt.loop else attempt.text
    is_json = question.form is not None
    page = clean(answer, question.instruction, is_json=is_json)
    if isinstance(question.form, TagForm):
        found = question.form.parse(attempt.text, question.instruction)
        if found is None:
            return Verdict("unusable" if page.text else "empty", attempt, page)
        return Verdict("reading", attempt, page, found.text)
    if not page.text:
        # An empty envelope says that there is no text; an empty answer says nothing.
        says_so = not is_json and bool(open_envelope(clean(answer, question.instruction, is_json=True).text))
        return Verdict("no_text" if says_so else "empty", attempt, page)
    if question.form:
        fault = question.form.fault(page.text)
        if fault is not None:
            return Verdict("unusable", attempt, page, fault=fault)
        return Verdict("reading", attempt, page, page.text)
    talk = talk_of(page.text, is_description=question.task == "caption")
    if talk:
        return Verdict(talk, attempt, page)
    status: Status = "looping" if attempt.loop else "truncated" if attempt.is_cut else "ok"
    return Verdict("reading", attempt, page, page.text, status)


def _is_speck(view: PageView) -> bool:
    """Tell whether a tile shows no more than a letter or two: a number, a stain, a vertical rule."""
    left, top, right, bottom = view.box
    page_width_px, page_height_px = view.width_px / (right - left), view.height_px / (bottom - top)
    boxes = [piece.box for piece in view.lines]
    long_px = sum((box[2] - box[0]) * page_width_px for box in boxes)
    high_px = max(((box[3] - box[1]) * page_height_px for box in boxes), default=0.0)
    return long_px < SPECK_HEIGHTS * high_px


def _reading(context: PageContext, question: Question, verdicts: Sequence[Verdict], taken: Verdict) -> Reading:
    """Make a reading of the verdict that is taken; a verdict of another kind says that the page has no text."""
    info, attempt, view = context.lease.info, taken.attempt, question.view
    confidence = None
    boxes: tuple[LineBox, ...] = ()
    if taken.text == taken.page.text:
        boxes = boxes_of(taken.page, view)
        confidence = confidence_of(attempt.parts, attempt.request.temperature, taken.page)
    completions = [completion for completion, _ in attempt.parts]
    counts = [completion.completion_tokens for completion in completions]
    return Reading(
        task=question.task,
        status=taken.status if taken.kind == "reading" else "no_text",
        text=taken.text,
        engine="koboldcpp",
        model=info.model,
        family=context.family.name,
        prompt=question.prompt.text,
        decoding=_decoding(attempt),
        view_sizes=((view.width_px, view.height_px),),
        effective_px=min(max(view.width_px, view.height_px), context.max_side_px),
        server_version=info.version,
        release=RELEASE,
        image_verified=all(completion.prompt_tokens is not None for completion in completions),
        confidence=confidence.mean if confidence else None,
        confidence_p5=confidence.p5 if confidence else None,
        doubtful=confidence.doubtful if confidence else (),
        boxes=boxes,
        rotation_deg=view.rotation_deg,
        attempts=len(verdicts),
        prompt_tokens=completions[0].prompt_tokens,
        completion_tokens=None if None in counts else sum(count or 0 for count in counts),
        elapsed_s=round(sum(part.elapsed_s for verdict in verdicts for part, _ in verdict.attempt.parts), 3),
    )


def _decoding(attempt: Attempt) -> dict[str, Scalar]:
    """Return the sampling fields of a request: the important ones, and others where they are not the default."""
    request = attempt.request
    decoding: dict[str, Scalar] = {
        name: getattr(request, name) for name in ("temperature", "sampler_seed", "max_length")
    }
    for name in ("top_k", "top_p", "min_p", "rep_pen", "dry_multiplier", "reasoning_effort"):
        value = getattr(request, name)
        if value is not None and value != getattr(GenerateRequest(""), name):
            decoding[name] = value
    if len(attempt.parts) > 1:
        decoding["continuations"] = len(attempt.parts) - 1
    return decoding


def _failure(context: PageContext, question: Question, verdicts: Sequence[Verdict]) -> TranscriptionError:
    info, times = context.lease.info, len(verdicts)
    unusable = next((verdict for verdict in verdicts if verdict.kind == "unusable"), None)
    if unusable is not None and isinstance(question.form, RecordForm):
        return TranscriptionError(
            f"the model {info.model} gave no record of the schema asked for, {times} times: {unusable.fault}.",
            server=info.url,
            hint="Fewer or shorter fields, or another model, may do it.",
        )
    if unusable is not None:
        is_held = context.tag_form.vocabulary is not None
        return TranscriptionError(
            f"the model {info.model} answered {times} times without keywords that can be used ({question.task}). "
            f"It began: {unusable.page.text[:80]!r}",
            server=info.url,
            hint=f"Another model, or other words (--{'vocabulary ' if is_held else 'prompt tags='}FILE).",
        )
    said = {verdict.kind: verdict.page.text for verdict in verdicts}
    if "unseen" in said:
        return ImageNotSeenError(
            f"the model {info.model} says that it sees no image ({question.task}): {said['unseen'][:80]!r}",
            server=info.url,
            hint="The projector may belong to another model (`kobold-reader models` tells which fits), or the server "
            "dropped the image; `kobold-reader doctor` tells more.",
        )
    what = (
        f"will not or cannot read the page; it says {said['refused'][:80]!r}"
        if "refused" in said
        else "says that there is nothing to read on a page with ink on it"
        if "no_text" in said
        else "gave no text on a page with ink on it"
    )
    return EmptyTranscriptionError(
        f"the model {info.model} {what}, {times} times ({question.task}).",
        server=info.url,
        hint="Look at the page; another model or --visionmaxres may read it.",
    )
