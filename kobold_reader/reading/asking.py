"""One task on one view: KoboldCpp is asked until its answer is a reading of the page.

Owns the *content* attempts. Transport attempts (refused, busy, reset) belong to the pool's lease; here it is decided
whether an answer is a reading: does the image fit into the context, was it seen, is the answer empty, a refusal, cut
off?
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from kobold_reader.errors import ContextTooSmallError, EmptyTranscriptionError, ImageNotSeenError
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
from kobold_reader.reading.quality import is_refusal, tidy
from kobold_reader.reading.results import Reading, Status
from kobold_reader.release import RELEASE

__all__ = ["ENGINE_NAME", "Asking", "ask"]

log = logging.getLogger(__name__)

ENGINE_NAME: Final = "koboldcpp"

CONTENT_ATTEMPTS: Final = ((0.1, 1), (0.2, 2), (0.4, 3))
"""Temperature and seed of each attempt: the first is nearly greedy and repeatable, the next ones leave the same rut."""
MIN_ANSWER_TOKENS: Final = 256
"""A context that leaves less room than this for the answer cannot hold a page."""
CONTEXT_SHARE: Final = 0.75
"""KoboldCpp cuts `max_length` to 80 % of its context without a word, so we stay below it."""
CONTEXT_MARGIN_TOKENS: Final = 4
"""KoboldCpp drops every image where image tokens + max_length + 4 exceed its context."""


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


@dataclass(frozen=True, slots=True)
class _Ask:
    """One task on one view, ready to be sent."""

    task: str
    view: PageView
    prompt: ExpandedPrompt
    max_length: int


def ask(asking: Asking, task: str, instruction: str, view: PageView) -> Reading:
    """Ask until the answer is a reading, at most once per rung of CONTENT_ATTEMPTS.

    Args:
        asking: Server, family and page.
        task: One of `tasks.TASKS`.
        instruction: What the user's turn says.
        view: The page, or the part of it, to be looked at.

    Raises:
        ContextTooSmallError: The server would drop the image silently.
        ImageNotSeenError: It dropped the image.
        EmptyTranscriptionError: Nothing came out of all attempts.
        ServerError: As `Lease.generate` says.
    """
    prepared = _prepare(asking, task, instruction, view)
    job, info = asking.job, asking.info
    refusals = 0
    for attempt, (temperature, seed) in enumerate(CONTENT_ATTEMPTS, start=1):
        request = GenerateRequest(
            prompt=prepared.prompt.text,
            images=(view.image,),
            max_length=prepared.max_length,
            temperature=temperature,
            sampler_seed=seed,
            stop_sequence=asking.family.stop_sequence,
        )
        completion = asking.lease.generate(
            request,
            time_limit_s=asking.time_limit_s,
            on_progress=_progress(task, job),
            cancel=job.cancel,
        )
        _check_seen(completion, prepared, info)
        text = tidy(completion.text)
        refusals += is_refusal(text)
        if text and not is_refusal(text):
            status: Status = "truncated" if completion.ending == "length" else "ok"
            return _reading(asking, prepared, request, completion, text=text, status=status, attempts=attempt)
        if refusals == 2 and task == "ocr":  # noqa: PLR2004  (said twice, it is taken at its word)
            return _reading(asking, prepared, request, completion, text="", status="no_text", attempts=attempt)
        log.info("page %d: %s on attempt %d", job.page_number, "refused" if text else "empty answer", attempt)
    what = "says that it cannot see anything" if refusals else "gave no text"
    msg = f"the model {info.model} {what} on a page with ink on it, {len(CONTENT_ATTEMPTS)} times ({task})."
    raise EmptyTranscriptionError(
        msg,
        server=info.url,
        hint="Look at the page; another model or --visionmaxres may read it.",
    )


def _prepare(asking: Asking, task: str, instruction: str, view: PageView) -> _Ask:
    """Expand the prompt and make room for the answer."""
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
    max_length = min(family.max_length[task], room_tokens, int(info.context_tokens * CONTEXT_SHARE))
    return _Ask(task, view, prompt, max_length)


def _progress(task: str, job: PageJob) -> Callable[[str], bool] | None:
    on_progress = job.on_progress
    if on_progress is None:
        return None

    def report(text_so_far: str) -> bool:
        on_progress(task, len(text_so_far))
        return True

    return report


def _reading(
    asking: Asking,
    prepared: _Ask,
    request: GenerateRequest,
    completion: Completion,
    *,
    text: str,
    status: Status,
    attempts: int,
) -> Reading:
    view = prepared.view
    return Reading(
        task=prepared.task,
        status=status,
        text=text,
        engine=ENGINE_NAME,
        model=asking.info.model,
        family=asking.family.name,
        prompt=prepared.prompt.text,
        decoding={
            "temperature": request.temperature,
            "sampler_seed": request.sampler_seed,
            "max_length": request.max_length,
        },
        view_sizes=((view.width_px, view.height_px),),
        effective_px=min(max(view.width_px, view.height_px), asking.max_side_px),
        server_version=asking.info.version,
        release=RELEASE,
        image_verified=completion.prompt_tokens is not None,
        rotation_deg=view.rotation_deg,
        attempts=attempts,
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
        elapsed_s=round(completion.elapsed_s, 3),
    )


def _check_seen(completion: Completion, prepared: _Ask, info: ServerInfo) -> None:
    """Raise where the server dropped the image: then its prompt was no longer than the text that was sent.

    Before 1.77 servers return no counts, so nothing is proved (`Reading.image_verified` is False).
    """
    if completion.prompt_tokens is not None and completion.prompt_tokens <= prepared.prompt.tokens:
        msg = (
            f"the server did not see the image: it read {completion.prompt_tokens} tokens, as many as the text alone "
            f"has ({prepared.prompt.tokens}). Its answer would be invented, so it was thrown away."
        )
        hint = (
            f"Check that the projector is loaded (start it {SETTINGS['mmproj'].remedy()}) and that the context is "
            f"large enough ({SETTINGS['contextsize'].remedy('8192')}); `kobold-reader doctor` tells more."
        )
        raise ImageNotSeenError(msg, server=info.url, hint=hint)
