"""KoboldEngine: reads pages with the vision model that KoboldCpp runs; owns the *content* attempts.

Transport attempts (refused, busy, reset) belong to the pool's lease; this room decides whether an answer is a reading
of the page: was the image seen, is the answer empty, a refusal, cut off? A page whose server is lost goes on with the
next one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from kobold_reader.errors import (
    AuthenticationError,
    ContextTooSmallError,
    EmptyTranscriptionError,
    ImageNotSeenError,
    NoServerAvailableError,
    NoVisionModelError,
    ServerBusyError,
    ServerConnectionError,
    ServerError,
    ServerTimeoutError,
    TranscriptionError,
)
from kobold_reader.kobold import (
    SETTINGS,
    Completion,
    ExpandedPrompt,
    Family,
    GenerateRequest,
    Lease,
    ServerInfo,
    ServerPool,
    choose_family,
    image_tokens,
    render_prompt,
)
from kobold_reader.pages import ImageBudget, PageView
from kobold_reader.reading.engine import EngineFacts, PageJob, TaskOutcome
from kobold_reader.reading.quality import is_refusal, tidy
from kobold_reader.reading.results import Reading, Status
from kobold_reader.release import RELEASE

__all__ = ["DEFAULT_VISIONMAXRES_PX", "KoboldEngine"]

log = logging.getLogger(__name__)

DEFAULT_VISIONMAXRES_PX: Final = 1024
"""What a server shrinks images to unless started with --visionmaxres; no endpoint reports it (measured on 1.115.1)."""
CONTENT_ATTEMPTS: Final = ((0.1, 1), (0.2, 2), (0.4, 3))
"""Temperature and seed of each attempt: the first is nearly greedy and repeatable, the next ones leave the same rut."""
MIN_ANSWER_TOKENS: Final = 256
"""A context that leaves less room than this for the answer cannot hold a page."""
CONTEXT_SHARE: Final = 0.75
"""KoboldCpp cuts `max_length` to 80 % of its context without a word, so we stay below it."""
CONTEXT_MARGIN_TOKENS: Final = 4
"""KoboldCpp drops every image where image tokens + max_length + 4 exceed its context."""

PAGE_ERRORS: Final = (TranscriptionError, ServerError)
"""What befalls one page …"""
RUN_ERRORS: Final = (NoServerAvailableError, AuthenticationError, NoVisionModelError)
"""… but for these: no page could be read, so they end the run."""


@dataclass(frozen=True, slots=True)
class _Ask:
    """One task on one view, ready to be sent."""

    task: str
    view: PageView
    prompt: ExpandedPrompt
    max_length: int


class KoboldEngine:
    """Reads pages through the servers of a pool.

    Args:
        pool: One lease holds one server for one page.
        family: Name of the model family; None: chosen by the model's name.
        prompts: Wording by task in place of the family's.
        hint: What the user knows of the pages ("Swedish letters, about 1900"), added to every instruction.
        visionmaxres: What the server was started with, in px; None: its default.
        page_timeout_s: Limit for one request; None: none.
    """

    name = "koboldcpp"

    def __init__(
        self,
        pool: ServerPool,
        *,
        family: str | None = None,
        prompts: Mapping[str, str] | None = None,
        hint: str | None = None,
        visionmaxres: int | None = None,
        page_timeout_s: float | None = None,
    ) -> None:
        self._pool = pool
        self._family = family
        self._prompts = dict(prompts or {})
        self._hint = hint
        self._visionmaxres_px = visionmaxres or DEFAULT_VISIONMAXRES_PX
        self._page_timeout_s = page_timeout_s
        self._facts: EngineFacts | None = None
        self._families: dict[tuple[str, str], Family] = {}

    def _family_of(self, info: ServerInfo) -> Family:
        """Choose the family once for each model: an unknown one is warned of once."""
        key = (info.model, info.version)
        if key not in self._families:
            self._families[key] = choose_family(info, self._family)
        return self._families[key]

    def prepare(self, cancel: threading.Event | None = None) -> EngineFacts:
        """Find a server with vision and the family of its model; see `Engine.prepare`."""
        if self._facts is None:
            with self._pool.lease(cancel=cancel) as lease:
                info = lease.client.require_vision()
            family = self._family_of(info)
            self._facts = EngineFacts(
                name=self.name,
                model=info.model,
                family=family.name,
                tasks=family.tasks,
                budget=self._budget(family),
                release=RELEASE,
                server_version=info.version,
                prompts={task: self._instruction(family, task) for task in family.tasks},
            )
            log.info("%s: %s (KoboldCpp %s), family %s", info.url, info.model, info.version, family.name)
        return self._facts

    def _budget(self, family: Family) -> ImageBudget:
        return ImageBudget(max_side_px=min(family.max_side_px, self._visionmaxres_px), max_pixels=family.max_pixels)

    def _instruction(self, family: Family, task: str) -> str:
        wording = self._prompts.get(task) or family.prompts[task]
        return f"{wording}\n{self._hint}" if self._hint else wording

    def read(self, job: PageJob) -> Mapping[str, TaskOutcome]:
        """Ask all tasks of one page back to back on one server; see `Engine.read`.

        Where the server is lost, the tasks that are left go on with the next one, or with the same one if it answers
        again; a page that every server broke off is that page's error. Where none answers, the pool ends the run.
        """
        self.prepare(job.cancel)
        outcomes: dict[str, TaskOutcome] = {}
        for _ in range(len(self._pool.urls) + 1):
            with self._pool.lease(cancel=job.cancel) as lease:
                self._read_with(lease, job, outcomes)
            lost = next((outcome for outcome in outcomes.values() if _is_lost(outcome)), None)
            has_waited_enough = isinstance(lost, ServerBusyError) and len(self._pool.urls) == 1
            if lost is None or has_waited_enough:
                break
        return {task: outcomes[task] for task in job.tasks}

    def _read_with(self, lease: Lease, job: PageJob, outcomes: dict[str, TaskOutcome]) -> None:
        """Ask one server for what has no outcome yet; a lost server is the outcome of all that is left."""
        info = lease.client.require_vision()
        family = self._family_of(info)
        todo = [task for task in job.tasks if task not in outcomes or _is_lost(outcomes[task])]
        for view in job.images.views:
            for position, task in enumerate(todo):
                try:
                    ask = self._ask(lease, info, family, task, view)
                    outcomes[task] = self._attempts(lease, info, family, ask, job)
                except RUN_ERRORS:
                    raise
                except PAGE_ERRORS as err:
                    outcomes[task] = err
                    if _is_lost(err):
                        outcomes.update(dict.fromkeys(todo[position:], err))
                        return

    # ── before sending ───────────────────────────────────────────────────────────────────────────

    def _ask(self, lease: Lease, info: ServerInfo, family: Family, task: str, view: PageView) -> _Ask:
        """Expand the prompt and make room for the answer.

        Raises:
            ContextTooSmallError: The server would drop the image silently.
        """
        instruction = self._instruction(family, task)
        prompt = lease.run(lambda client: render_prompt(client, info, family, instruction))
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

    # ── asking ───────────────────────────────────────────────────────────────────────────────────

    def _attempts(self, lease: Lease, info: ServerInfo, family: Family, ask: _Ask, job: PageJob) -> TaskOutcome:
        """Ask until the answer is a reading, at most once per rung of CONTENT_ATTEMPTS."""
        refusals = 0
        for attempt, (temperature, seed) in enumerate(CONTENT_ATTEMPTS, start=1):
            request = GenerateRequest(
                prompt=ask.prompt.text,
                images=(ask.view.image,),
                max_length=ask.max_length,
                temperature=temperature,
                sampler_seed=seed,
                stop_sequence=family.stop_sequence,
            )
            completion = lease.generate(
                request,
                time_limit_s=self._page_timeout_s,
                on_progress=self._progress(ask, job),
                cancel=job.cancel,
            )
            _check_seen(completion, ask, info)
            text = tidy(completion.text)
            refusals += is_refusal(text)
            if text and not is_refusal(text):
                status: Status = "truncated" if completion.ending == "length" else "ok"
                return self._reading(
                    info,
                    family,
                    ask,
                    request,
                    completion,
                    text=text,
                    status=status,
                    attempts=attempt,
                )
            if refusals == 2 and ask.task == "ocr":  # noqa: PLR2004  (said twice, it is taken at its word)
                return self._reading(
                    info,
                    family,
                    ask,
                    request,
                    completion,
                    text="",
                    status="no_text",
                    attempts=attempt,
                )
            log.info(
                "page %d: %s on attempt %d",
                job.page_number,
                "refused" if text else "empty answer",
                attempt,
            )
        what = "says that it cannot see anything" if refusals else "gave no text"
        msg = f"the model {info.model} {what} on a page with ink on it, {len(CONTENT_ATTEMPTS)} times ({ask.task})."
        raise EmptyTranscriptionError(
            msg,
            server=info.url,
            hint="Look at the page; another model or --visionmaxres may read it.",
        )

    def _progress(self, ask: _Ask, job: PageJob) -> Callable[[str], bool] | None:
        on_progress = job.on_progress
        if on_progress is None:
            return None

        def report(text_so_far: str) -> bool:
            on_progress(ask.task, len(text_so_far))
            return True

        return report

    def _reading(
        self,
        info: ServerInfo,
        family: Family,
        ask: _Ask,
        request: GenerateRequest,
        completion: Completion,
        *,
        text: str,
        status: Status,
        attempts: int,
    ) -> Reading:
        view = ask.view
        return Reading(
            task=ask.task,
            status=status,
            text=text,
            engine=self.name,
            model=info.model,
            family=family.name,
            prompt=ask.prompt.text,
            decoding={
                "temperature": request.temperature,
                "sampler_seed": request.sampler_seed,
                "max_length": request.max_length,
            },
            view_sizes=((view.width_px, view.height_px),),
            effective_px=min(max(view.width_px, view.height_px), self._budget(family).max_side_px),
            server_version=info.version,
            release=RELEASE,
            image_verified=completion.prompt_tokens is not None,
            rotation_deg=view.rotation_deg,
            attempts=attempts,
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
            elapsed_s=round(completion.elapsed_s, 3),
        )

    def close(self) -> None:
        """Close the connections to all servers."""
        self._facts = None
        self._pool.close()


def _is_lost(outcome: TaskOutcome) -> bool:
    """Tell whether no answer came though the request was sent again: the server is to blame, not the page.

    A time limit is not that: another server would need as long.
    """
    return isinstance(outcome, ServerConnectionError | ServerBusyError) and not isinstance(outcome, ServerTimeoutError)


def _check_seen(completion: Completion, ask: _Ask, info: ServerInfo) -> None:
    """Raise where the server dropped the image: then its prompt was no longer than the text that was sent.

    Before 1.77 servers return no counts, so nothing is proved (`Reading.image_verified` is False).
    """
    if completion.prompt_tokens is not None and completion.prompt_tokens <= ask.prompt.tokens:
        msg = (
            f"the server did not see the image: it read {completion.prompt_tokens} tokens, as many as the text alone "
            f"has ({ask.prompt.tokens}). Its answer would be invented, so it was thrown away."
        )
        hint = (
            f"Check that the projector is loaded (start it {SETTINGS['mmproj'].remedy()}) and that the context is "
            f"large enough ({SETTINGS['contextsize'].remedy('8192')}); `kobold-reader doctor` tells more."
        )
        raise ImageNotSeenError(msg, server=info.url, hint=hint)
