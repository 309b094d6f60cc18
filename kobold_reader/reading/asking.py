"""One task on one view: KoboldCpp is asked until its answer is a reading of the page.

Owns the *content* attempts. Transport attempts (refused, busy, reset) belong to the pool's lease. An attempt is made in
`attempt`, and judged in `judging`; here it is decided whether to ask again, and what to take in the end.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from kobold_reader.errors import EmptyTranscriptionError, TranscriptionError
from kobold_reader.kobold import GenerateRequest
from kobold_reader.pages import PageView
from kobold_reader.reading import tags
from kobold_reader.reading.attempt import Asking, Question, attempt, prepare
from kobold_reader.reading.judging import ENGINE_NAME, Verdict, judge, reading_of
from kobold_reader.reading.results import Reading

__all__ = ["ENGINE_NAME", "Asking", "ask"]

log = logging.getLogger(__name__)

RETRY_TEMPERATURES: Final = (0.2, 0.4, 0.8)
"""After the first attempt, which is nearly greedy and repeatable: the same rut is left only by more chance."""
STEP_HOTTER: Final = 0.1
"""Where a family's own temperature is higher than these, each attempt is so much hotter than the one before."""
DRY_MULTIPLIER: Final = 0.8
"""KoboldCpp's penalty on repeated sequences, once a loop was seen. Never `rep_pen`: it spoils tables and figures."""

SPECK_HEIGHTS: Final = 2.0
"""A tile whose writing is no longer than this, in heights of its line, may rightly be answered with nothing."""


def ask(asking: Asking, task: str, instruction: str, view: PageView) -> Reading:
    """Ask until the answer is a reading: once, and hotter three times more.

    Args:
        asking: Server, family and page.
        task: One of `tasks.TASKS`.
        instruction: What the user's turn says.
        view: The page, or the part of it, to be looked at.

    Raises:
        ContextTooSmallError: The server would drop the image silently.
        ImageNotSeenError: It dropped the image.
        EmptyTranscriptionError: Nothing came out of all attempts.
        TranscriptionError: No answer of all attempts can be used.
        ServerError: As `Lease.generate` says.
    """
    if task == "tags":
        instruction = f"{instruction}\n{tags.FORMAT}"
        question = prepare(asking, task, instruction, view, min_length=tags.MIN_LENGTH_TOKENS)
    else:
        question = prepare(asking, task, instruction, view)
        if task == "ocr":
            question = replace(question, form=asking.form)
    verdicts: list[Verdict] = []
    for request in _requests(asking, question, verdicts):
        made = attempt(asking, question, request)
        verdict = judge(question, made)
        verdicts.append(verdict)
        if verdict.worth == "reading" and verdict.status != "looping":
            return _taken(asking, question, verdicts, verdict)
        nothing = [
            one.worth for one in verdicts if one.worth == "refusal" or (one.worth == "empty" and _is_speck(view))
        ]
        if len(nothing) == 2 and task == "ocr":  # noqa: PLR2004  (said twice, it is taken at its word)
            return _taken(asking, question, verdicts, verdict)
        what = verdict.status if verdict.worth == "reading" else verdict.worth
        log.info("page %d: %s, attempt %d: %s", asking.job.page_number, task, len(verdicts), what)
    loops = [verdict for verdict in verdicts if verdict.worth == "reading"]
    if loops:
        return _taken(asking, question, verdicts, max(loops, key=_length_before_loop))
    raise _no_reading(asking, question, verdicts)


def _requests(asking: Asking, question: Question, verdicts: Sequence[Verdict]) -> Iterator[GenerateRequest]:
    """One request for each attempt, each with a seed of its own, so that a reading can be made again."""
    fields: dict[str, Any] = {"temperature": GenerateRequest("").temperature, **asking.family.decoding_for(asking.info)}
    coolest = fields["temperature"]
    hotter = [max(one, coolest + step * STEP_HOTTER) for step, one in enumerate(RETRY_TEMPERATURES, start=1)]
    for seed, temperature in enumerate([coolest, *hotter], start=1):
        fields["temperature"] = round(temperature, 3)
        if any(verdict.made.loop for verdict in verdicts):
            fields["dry_multiplier"] = max(DRY_MULTIPLIER, fields.get("dry_multiplier", 0.0))
        yield GenerateRequest(
            prompt=question.prompt.text,
            images=(question.view.image,),
            max_length=question.max_length,
            sampler_seed=seed,
            stop_sequence=asking.family.stop_sequence,
            # About 1.5 kB a token, so only where they say something, and somebody looks at the words.
            logprobs=question.task == "ocr" and temperature > 0 and fields.get("top_k", 0) != 1,
            grammar=_grammar(question),
            **fields,
        )


def _grammar(question: Question) -> str | None:
    if question.task == "tags":
        return tags.GRAMMAR
    return question.form.grammar if question.form else None


def _is_speck(view: PageView) -> bool:
    """Whether a tile shows no more than a letter or two: a number, a stain, a rule set on end."""
    left, top, right, bottom = view.box
    width_px, height_px = view.width_px / (right - left), view.height_px / (bottom - top)  # of the page
    boxes = [piece.box for piece in view.lines]
    long_px = sum((box[2] - box[0]) * width_px for box in boxes)
    high_px = max(((box[3] - box[1]) * height_px for box in boxes), default=0.0)
    return long_px < SPECK_HEIGHTS * high_px


def _length_before_loop(verdict: Verdict) -> int:
    return verdict.made.loop.start if verdict.made.loop else 0


def _taken(asking: Asking, question: Question, verdicts: Sequence[Verdict], taken: Verdict) -> Reading:
    is_empty = taken.worth != "reading"
    return reading_of(
        asking,
        question,
        taken,
        status="no_text" if is_empty else taken.status,
        text="" if is_empty else taken.text,
        attempts=len(verdicts),
        elapsed_s=sum(verdict.made.elapsed_s for verdict in verdicts),
    )


def _no_reading(asking: Asking, question: Question, verdicts: Sequence[Verdict]) -> TranscriptionError:
    info, times = asking.info, len(verdicts)
    unusable = next((verdict for verdict in verdicts if verdict.worth == "unusable"), None)
    if unusable is not None and question.form:
        msg = f"the model {info.model} gave no record of the schema asked for, {times} times: {unusable.why}."
        return TranscriptionError(msg, server=info.url, hint="Fewer or shorter fields, or another model, may do it.")
    if unusable is not None:
        msg = (
            f"the model {info.model} answered {times} times without keywords that can be used ({question.task}). "
            f"It began: {unusable.page.text[:80]!r}"
        )
        return TranscriptionError(msg, server=info.url, hint="Another model, or other words (--prompt tags=FILE).")
    refused = any(verdict.worth == "refusal" for verdict in verdicts)
    what = "says that it cannot see anything" if refused else "gave no text"
    msg = f"the model {info.model} {what} on a page with ink on it, {times} times ({question.task})."
    return EmptyTranscriptionError(
        msg,
        server=info.url,
        hint="Look at the page; another model or --visionmaxres may read it.",
    )
