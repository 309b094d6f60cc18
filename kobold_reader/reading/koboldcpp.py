"""KoboldEngine: reads pages with the vision model that KoboldCpp runs.

Which server, which family, which views for which task; the conversation about one view is `asking`'s. A page whose
server is lost goes on with the next one.

What an attempt is worth: is it a reading of the page, and how sure was the model?

One task on one view: KoboldCpp is asked until its answer is a reading of the page.

Owns the *content* attempts. Transport attempts (refused, busy, reset) belong to the pool's lease. An attempt is made in
`attempt`, and judged in `judging`; here it is decided whether to ask again, and what to take in the end.

A page that was cut: its tiles are read one after another, and what they say is joined.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from kobold_reader.errors import (
    AuthenticationError,
    ContextTooSmallError,
    EmptyTranscriptionError,
    ImageNotSeenError,
    KoboldReaderError,
    NoServerAvailableError,
    NoVisionModelError,
    ResponseFormatError,
    ServerBusyError,
    ServerConnectionError,
    ServerError,
    ServerHungError,
    ServerTimeoutError,
    TranscriptionError,
)
from kobold_reader.kobold import Family, GenerateRequest, Lease, ServerInfo, ServerPool, choose_family
from kobold_reader.pages import ImageBudget, PageView
from kobold_reader.reading import tags
from kobold_reader.reading.attempts import Asking, Attempt, Question, attempt, prepare
from kobold_reader.reading.cleaning import Traced, clean, is_refusal
from kobold_reader.reading.confidence import confidence_of
from kobold_reader.reading.engine import EngineFacts, PageJob, TaskOutcome
from kobold_reader.reading.joining import join_readings
from kobold_reader.reading.records import RecordForm
from kobold_reader.reading.results import Reading, Scalar, Status
from kobold_reader.reading.selftest import DEFAULT_VISIONMAXRES_PX, Eyesight
from kobold_reader.release import RELEASE

__all__ = [
    "DEFAULT_VISIONMAXRES_PX",
    "ENGINE_NAME",
    "Asking",
    "KoboldEngine",
    "Verdict",
    "ask",
    "judge",
    "read_tiles",
    "reading_of",
]

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


def read_tiles(asking: Asking, instruction: str, finished: dict[int, Reading]) -> Reading:
    """Read a page's tiles one after another, and join what they say.

    Args:
        asking: Server, family and page.
        instruction: What the user's turn says.
        finished: Tiles that were read before a server was lost, by number; what is read here is added.

    Raises:
        KoboldReaderError: As `ask` says, naming the tile: a page of which a part is missing is not read.
    """
    tiles = asking.job.images.tiles
    for number, tile in enumerate(tiles):
        before = finished.get(number)
        if before is not None and (before.model, before.family) == (asking.info.model, asking.family.name):
            continue  # one text is by one model
        job = replace(asking.job, on_progress=_counting_on(asking.job, finished, number))
        try:
            finished[number] = ask(replace(asking, job=job), "ocr", instruction, tile)
        except (TranscriptionError, ServerError) as err:
            err.message = f"part {number + 1} of {len(tiles)} of the page: {err.message}"
            raise
    return join_readings(tiles, [finished[number] for number in range(len(tiles))])


def _counting_on(job: PageJob, finished: Mapping[int, Reading], number: int) -> Callable[[str, int], None] | None:
    """Progress that does not fall back to nothing with each tile."""
    on_progress = job.on_progress
    if on_progress is None:
        return None
    read = sum(len(finished[tile].text) for tile in range(number) if tile in finished)
    return lambda task, characters: on_progress(task, read + characters)


PAGE_ERRORS: Final = (TranscriptionError, ServerError)
"""What befalls one page …"""
RUN_ERRORS: Final = (NoServerAvailableError, AuthenticationError, NoVisionModelError)
"""… but for these: no page could be read, so they end the run."""
SERVERS_OWN: Final = (
    AuthenticationError,
    NoVisionModelError,
    ResponseFormatError,
    ContextTooSmallError,
    ImageNotSeenError,
)
"""What one server answers and another one may not: with several, the page goes there."""


class KoboldEngine:
    """Reads pages through the servers of a pool.

    Args:
        pool: One lease holds one server for one page.
        family: Name of the model family; None: chosen by the model's name.
        prompts: Wording by task in place of the family's.
        hint: What the user knows of the pages ("Swedish letters, about 1900"), added to every instruction.
        visionmaxres: What the server was started with, in px; None: what its self-test found out, else the default.
        page_timeout_s: Limit for one request; None: none.
        form: What answers to `ocr` must be, in place of a text; each page is then asked as a whole.
    """

    name = ENGINE_NAME

    def __init__(
        self,
        pool: ServerPool,
        *,
        family: str | None = None,
        prompts: Mapping[str, str] | None = None,
        hint: str | None = None,
        visionmaxres: int | None = None,
        page_timeout_s: float | None = None,
        form: RecordForm | None = None,
    ) -> None:
        self._pool = pool
        self._form = form
        self._family = family
        self._prompts = dict(prompts or {})
        self._hint = hint
        self._eyesight = Eyesight(visionmaxres)
        self._page_timeout_s = page_timeout_s
        self._lock = threading.RLock()
        """Of what follows; pages are read without it."""
        self._facts: EngineFacts | None = None
        self._families: dict[tuple[str, str], Family] = {}

    @property
    def parallel(self) -> int:
        """One page a server."""
        return len(self._pool.urls)

    def _family_of(self, info: ServerInfo) -> Family:
        """Choose the family once for each model: an unknown one is warned of once."""
        key = (info.model, info.version)
        with self._lock:
            if key not in self._families:
                self._families[key] = choose_family(info, self._family)
            return self._families[key]

    def prepare(self, cancel: threading.Event | None = None) -> EngineFacts:
        """Find a server with vision and the family of its model; see `Engine.prepare`."""
        with self._lock:
            if self._facts is None:
                self._pool.compare()
                with self._pool.lease(cancel=cancel, vision=True) as lease:
                    info = lease.info
                    visionmaxres_px = self._eyesight.visionmaxres_px(lease, info)
                family = self._family_of(info)
                self._facts = EngineFacts(
                    name=self.name,
                    model=info.model,
                    family=family.name,
                    tasks=family.tasks,
                    budget=self._budget(family, visionmaxres_px),
                    release=RELEASE,
                    server_version=info.version,
                    prompts={task: self._instruction(family, task) for task in family.tasks},
                )
                log.info("%s: %s (KoboldCpp %s), family %s", info.url, info.model, info.version, family.name)
            return self._facts

    @staticmethod
    def _budget(family: Family, visionmaxres_px: int) -> ImageBudget:
        return ImageBudget(
            max_side_px=min(family.max_side_px, visionmaxres_px),
            max_pixels=family.max_pixels,
            min_px_per_inch=family.min_px_per_inch,
        )

    def _instruction(self, family: Family, task: str) -> str:
        return family.instruction(task, wording=self._prompts.get(task), hint=self._hint)

    def read(self, job: PageJob) -> Mapping[str, TaskOutcome]:
        """Ask all tasks of one page back to back on one server; see `Engine.read`.

        A page that is cut is read tile by tile; a caption is asked of the whole page.

        Where the server is lost, the tasks that are left go on with the next one, or with the same one if it answers
        again; a page that every server broke off is that page's error. Where the server answers, but with nonsense or
        without having seen the image, one of the others is asked, if there is any. Where none answers, the pool ends
        the run.
        """
        self.prepare(job.cancel)
        urls = self._pool.urls
        outcomes: dict[str, TaskOutcome] = {}
        finished: dict[int, Reading] = {}
        spent: set[str] = set()
        failure: KoboldReaderError | None = None
        if job.images.is_coarse:
            log.warning(
                "%s page %d: its print is so small that even %d tiles do not make it as large as it should be; "
                "a model that takes larger images reads it better",
                job.source,
                job.page_number,
                len(job.images.tiles),
            )
        for _ in range(len(urls) + 1):
            todo = [task for task in job.tasks if task not in outcomes or outcomes[task] is failure]
            try:
                with self._pool.lease(cancel=job.cancel, vision=True, exclude=spent) as lease:
                    has_others = len(urls) > len(spent) + 1
                    failure = self._read_with(lease, job, todo, outcomes, finished, has_others=has_others)
            except NoServerAvailableError:
                if not spent:
                    raise
                break  # who has not been asked cannot be; what the others answered stands
            if failure is None:
                break
            if not _is_lost(failure):
                spent.add(lease.info.url)
            has_waited_enough = isinstance(failure, ServerBusyError | ServerHungError) and len(urls) == 1
            if has_waited_enough or len(spent) == len(urls):
                break
        return {task: outcomes[task] for task in job.tasks}

    def _read_with(
        self,
        lease: Lease,
        job: PageJob,
        todo: Sequence[str],
        outcomes: dict[str, TaskOutcome],
        finished: dict[int, Reading],
        *,
        has_others: bool,
    ) -> KoboldReaderError | None:
        """Ask one server for some tasks of a page.

        Returns:
            Why the rest is to be asked of another server, as the outcome of all that is left; None: it was all asked.
        """
        info = lease.info
        family = self._family_of(info)
        asking = Asking(
            lease,
            info,
            family,
            job,
            time_limit_s=self._page_timeout_s,
            max_side_px=self._budget(family, self._eyesight.visionmaxres_px(lease, info)).max_side_px,
            form=self._form,
        )
        for position, task in enumerate(todo):
            try:
                self._eyesight.ensure_vision(lease, info, family, time_limit_s=self._page_timeout_s, cancel=job.cancel)
                instruction = self._instruction(family, task)
                if task == "ocr" and job.images.tiles and self._form is None:
                    outcomes[task] = read_tiles(asking, instruction, finished)
                else:
                    outcomes[task] = ask(asking, task, instruction, job.images.views[0])
            except PAGE_ERRORS as err:
                if isinstance(err, RUN_ERRORS) and not (has_others and isinstance(err, SERVERS_OWN)):
                    raise
                outcomes[task] = err
                if isinstance(err, ImageNotSeenError) and has_others:
                    lease.fail(err)
                if _is_lost(err) or (has_others and isinstance(err, SERVERS_OWN)):
                    outcomes.update(dict.fromkeys(todo[position:], err))
                    return err
        return None

    def close(self) -> None:
        """Close the connections to all servers."""
        self._facts = None
        self._pool.close()


def _is_lost(outcome: TaskOutcome) -> bool:
    """Tell whether no answer came though the request was sent again: the server is to blame, not the page.

    A time limit is not that: another server would need as long.
    """
    return isinstance(outcome, ServerConnectionError | ServerBusyError) and not isinstance(outcome, ServerTimeoutError)
