"""How a run over pages goes, counted and in words for people; the terminal and the search page show it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kobold_reader.reading.survey import Forecast, PageKind

_HOUR_S = 3600


class PageProgress:
    """Counts pages, and estimates the time left from the pages that this run read.

    Args:
        show: Called with whatever has changed, by name: `total`, `completed`, `left` (the time, in words), `doing`,
            `is_paused`.
    """

    def __init__(self, show: Callable[..., object] | None = None) -> None:
        self._show = show
        self.total_pages = 0
        self.done_pages = 0
        self._to_read = 0
        self._started_s = time.monotonic()
        self.read_pages = 0
        """Pages that this run has read."""
        self.is_forecast = False
        """The user has seen how long the run will take."""

    def expect(self, pages: int, to_read: int) -> None:
        """Add pages of the run, and how many of them need reading."""
        self.total_pages += pages
        self._to_read += to_read
        self._started_s = time.monotonic()  # without the time of the survey
        self._update(total=self.total_pages)

    def page_done(self, *, is_asked: bool) -> None:
        """Count one page; `is_asked`: it had to be read, which took time."""
        self.done_pages += 1
        self.read_pages += is_asked
        left = "" if self.left_s is None else f"{spell_about(self.left_s)} left"
        self._update(completed=self.done_pages, left=left)

    def pause(self) -> None:
        """Take the display away, so that the user can be asked something; the next change brings it back."""
        self._update(is_paused=True)

    def doing(self, text: str) -> None:
        """Take what is being done now."""
        self._update(doing=text)

    def _update(self, **values: Any) -> None:
        if self._show:
            self._show(**values)

    @property
    def left_pages(self) -> int:
        """Pages that still need reading."""
        return max(0, min(self._to_read - self.read_pages, self.total_pages - self.done_pages))

    @property
    def left_s(self) -> float | None:
        """Time until the last page is read; None before the first one was."""
        if not self.read_pages or not self._to_read:
            return None
        return (time.monotonic() - self._started_s) / self.read_pages * self.left_pages


def spell_count(count: int, what: str) -> str:
    """Return a number of things.

    >>> spell_count(1, "page"), spell_count(3, "page")
    ('1 page', '3 pages')
    """
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def spell_duration(seconds: float) -> str:
    """Return a duration.

    >>> spell_duration(4000)
    '1 h 07 min'
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def spell_about(seconds: float) -> str:
    """Return a duration, rounded to what a forecast can know.

    >>> spell_about(26_500), spell_about(800), spell_about(300_000)
    ('7 h 20 min', '13 min', '3 days 11 h')
    """
    if seconds >= 48 * _HOUR_S:
        days, hours = divmod(round(seconds / _HOUR_S), 24)
        return f"{days} days {hours} h"
    step_s = 600 if seconds >= 2 * _HOUR_S else 60 if seconds >= 120 else 1  # noqa: PLR2004
    return spell_duration(round(seconds / step_s) * step_s).removesuffix(" 00 s")


def spell_bytes(size_bytes: float) -> str:
    """Return a size.

    >>> spell_bytes(812), spell_bytes(45_000), spell_bytes(2_600_000)
    ('1 kB', '45 kB', '2.6 MB')
    """
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if size_bytes >= unit:
            return f"{size_bytes / unit:.1f} {name}"
    return f"{max(1, round(size_bytes / 1000))} kB"


def spell_tokens(tokens: int) -> str:
    """Return a number of tokens, rounded to what a forecast can know.

    >>> spell_tokens(1_234_567), spell_tokens(45_678), spell_tokens(700)
    ('1.2 million', '46 thousand', '700')
    """
    for size, name in ((1_000_000, "million"), (1000, "thousand")):
        if tokens >= size:
            number = tokens / size
            return f"{number:.1f} {name}" if number < 10 else f"{number:.0f} {name}"  # noqa: PLR2004
    return str(tokens)


def spell_forecast(forecast: Forecast) -> str:
    """Return how long reading will take, with its range: `about 7 h 20 min (5–9 h)`."""
    unit_s, unit = next(
        (size_s, name)
        for size_s, name in ((24 * _HOUR_S, "days"), (_HOUR_S, "h"), (60, "min"), (1, "s"))
        if forecast.high_s >= 3 * size_s or size_s == 1
    )
    low, high = (f"{seconds / unit_s:.0f}" for seconds in (forecast.low_s, forecast.high_s))
    return f"about {spell_about(forecast.seconds)}" + (f" ({low}–{high} {unit})" if low != high else "")


def spell_kinds(by_kind: Mapping[PageKind, int]) -> str:
    """Return the number of pages of each kind, in words."""
    words: dict[PageKind, str] = {
        "read": "read before",
        "text_layer": "with their own text",
        "blank": "known to be blank",
        "copy": "copy" if by_kind.get("copy") == 1 else "copies",
        "failed": "unreadable",
        "to_read": "to be read",
    }
    return ", ".join(f"{by_kind[kind]} {what}" for kind, what in words.items() if by_kind.get(kind)) or "none"


def spell_skipped(skipped: Mapping[str, int]) -> str:
    """Return the files that were not taken, by ending: `skipped: 412 .mov, 3 .heic (pip install …)`."""
    from kobold_reader.pages import extra_hint

    hints = {ending: f" ({hint})" if (hint := extra_hint(ending)) else "" for ending in skipped}
    counts = (f"{count} {ending or '(no ending)'}{hints[ending]}" for ending, count in sorted(skipped.items()))
    return f"skipped: {', '.join(counts)}"


def spell_statuses(pages: Mapping[str, int], kept: int = 0) -> str:
    """Return pages by status, and how many of them were read before: `3 pages: 1 failed, 2 ok (1 read before)`."""
    if not (total := sum(pages.values())):
        return "no pages"
    by_status = ", ".join(f"{count} {status}" for status, count in sorted(pages.items()) if count)
    return f"{spell_count(total, 'page')}: {by_status}" + (f" ({kept} read before)" if kept else "")
