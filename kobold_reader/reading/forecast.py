"""How long it will take: what earlier readings by the same model took, for as many as are to be made.

The whole takes the mean times the number of pages: the median would leave out the slow pages that make a night long.
The range is Student's, for eight times in ten; task by task added up, as a page that is long to read is long to
describe. Images are prepared while the server answers, so they cost no time of their own. Pages that turn out to be
blank cost none either, so the forecast is rather too long.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev
from typing import Final

from kobold_reader.reading.ledger import Timing

__all__ = ["Forecast", "forecast"]

_STUDENT: Final = (3.08, 1.89, 1.64, 1.53, 1.48, 1.44, 1.41, 1.40, 1.38)
"""90 % quantile of Student's t for 1, 2, 3 … degrees of freedom."""
_NORMAL: Final = 1.3


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is to be expected, and from how many pages that is known."""

    seconds: float
    low_s: float
    high_s: float
    """Eight times in ten it lies between these; from one page nothing is known of that, and they are equal."""
    timed_pages: int
    requests: int
    tokens: int | None
    """In and out; None where the server does not count."""
    kept_bytes: int
    model: str | None
    images_a_page: float
    """For `ocr`: more than 1 where pages are cut into tiles."""

    def pages_in(self, seconds: float, pages: int) -> int:
        """Return how many of so many pages are done in a given time."""
        return min(pages, int(pages * seconds / self.seconds)) if self.seconds else pages


def forecast(due_tasks: Mapping[str, int], timings: Sequence[Timing], *, servers: int = 1) -> Forecast | None:
    """Say how long so many tasks will take; None where one of them was never timed.

    Args:
        due_tasks: How often each task is to be asked.
        timings: Of readings by the same model.
        servers: So many work at once.
    """
    totals = [0.0, 0.0, 0.0]
    requests = tokens = kept_bytes = 0.0
    is_counted = True
    images_a_page = 1.0
    for task, count in due_tasks.items():
        own = [timing for timing in timings if timing.task == task]
        if not own:
            return None
        for position, seconds in enumerate(_mean_and_range([timing.elapsed_s for timing in own])):
            totals[position] += count * seconds / max(1, servers)
        images = fmean(timing.images for timing in own)
        images_a_page = images if task == "ocr" else images_a_page
        requests += count * images
        kept_bytes += count * fmean(timing.kept_bytes for timing in own)
        counted = [
            timing.prompt_tokens + timing.completion_tokens
            for timing in own
            if timing.prompt_tokens is not None and timing.completion_tokens is not None
        ]
        is_counted &= bool(counted)
        tokens += count * fmean(counted) if counted else 0
    return Forecast(
        seconds=totals[0],
        low_s=totals[1],
        high_s=totals[2],
        timed_pages=len({timing.content_sha256 for timing in timings if timing.task in due_tasks}),
        requests=round(requests),
        tokens=round(tokens) if is_counted else None,
        kept_bytes=round(kept_bytes),
        model=timings[0].model if timings else None,
        images_a_page=images_a_page,
    )


def _mean_and_range(seconds: Sequence[float]) -> tuple[float, float, float]:
    mean = fmean(seconds)
    if len(seconds) == 1:
        return mean, mean, mean
    freedom = len(seconds) - 1
    student = _STUDENT[freedom - 1] if freedom <= len(_STUDENT) else _NORMAL
    reach = student * stdev(seconds) / sqrt(len(seconds))
    # The mean of all is hardly below the quickest page seen.
    return mean, max(min(seconds), mean - reach), mean + reach
