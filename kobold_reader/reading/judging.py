"""What an attempt is worth: is it a reading of the page, and how sure was the model?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from kobold_reader.kobold import GenerateRequest
from kobold_reader.reading import tags
from kobold_reader.reading.attempt import Asking, Attempt, Question
from kobold_reader.reading.cleaning import clean
from kobold_reader.reading.confidence import confidence_of
from kobold_reader.reading.quality import is_refusal
from kobold_reader.reading.results import Reading, Scalar, Status
from kobold_reader.reading.traced import Traced
from kobold_reader.release import RELEASE

__all__ = ["ENGINE_NAME", "Verdict", "judge", "reading_of"]

ENGINE_NAME: Final = "koboldcpp"

_RECORDED: Final = ("temperature", "sampler_seed", "max_length")
_RECORDED_IF_SET: Final = ("top_k", "top_p", "min_p", "rep_pen", "dry_multiplier", "reasoning_effort")
_PLAIN: Final = GenerateRequest("")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one attempt gave."""

    worth: Literal["reading", "empty", "refusal", "unusable"]
    made: Attempt
    page: Traced
    status: Status = "ok"
    text: str = ""
    """Of the reading."""
    why: str = ""
    """What is wrong with an unusable one."""


def judge(question: Question, made: Attempt) -> Verdict:
    """Clean the answer and tell what it is.

    A loop is cut behind the first occurrence or two of what is repeated; what comes before it was read.
    """
    answer = made.text if made.loop is None else made.text[: made.loop.kept]
    page = clean(answer, question.instruction)
    if question.task == "tags":
        found = tags.parse(made.text, question.instruction)
        if found is None:
            return Verdict("unusable" if page.text else "empty", made, page)
        return Verdict("reading", made, page, text=found.text)
    if not page.text:
        return Verdict("empty", made, page)
    if question.form:
        fault = question.form.fault(page.text)
        if fault is None:
            return Verdict("reading", made, page, text=page.text)
        return Verdict("unusable", made, page, why=fault)
    if is_refusal(page.text):
        return Verdict("refusal", made, page)
    status: Status = "looping" if made.loop else "truncated" if made.is_cut else "ok"
    return Verdict("reading", made, page, status, page.text)


def reading_of(
    asking: Asking, question: Question, verdict: Verdict, *, status: Status, text: str, attempts: int, elapsed_s: float
) -> Reading:
    """Make the reading: the text, how it came about, and what can be said of its doubtful words.

    Args:
        asking: Server and family.
        question: What was asked.
        verdict: Of the attempt that is taken.
        status: Of the reading.
        text: Of the reading; "" where nothing is to be read.
        attempts: How many it took.
        elapsed_s: All of them together.
    """
    made, view = verdict.made, question.view
    sure = confidence_of(made, verdict.page) if text == verdict.page.text else None
    return Reading(
        task=question.task,
        status=status,
        text=text,
        engine=ENGINE_NAME,
        model=asking.info.model,
        family=asking.family.name,
        prompt=question.prompt.text,
        decoding=_decoding(made),
        view_sizes=((view.width_px, view.height_px),),
        effective_px=min(max(view.width_px, view.height_px), asking.max_side_px),
        server_version=asking.info.version,
        release=RELEASE,
        image_verified=all(part.completion.prompt_tokens is not None for part in made.parts),
        confidence=sure.mean if sure else None,
        confidence_p5=sure.p5 if sure else None,
        doubtful=sure.doubtful if sure else (),
        rotation_deg=view.rotation_deg,
        attempts=attempts,
        prompt_tokens=made.prompt_tokens,
        completion_tokens=made.completion_tokens,
        elapsed_s=round(elapsed_s, 3),
    )


def _decoding(made: Attempt) -> dict[str, Scalar]:
    request = made.request
    decoding: dict[str, Scalar] = {name: getattr(request, name) for name in _RECORDED}
    decoding |= {
        name: getattr(request, name)
        for name in _RECORDED_IF_SET
        if getattr(request, name) != getattr(_PLAIN, name) and getattr(request, name) is not None
    }
    if len(made.parts) > 1:
        decoding["continuations"] = len(made.parts) - 1
    return decoding
