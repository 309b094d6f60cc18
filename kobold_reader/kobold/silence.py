"""Telling a server that hangs from one that is slow. No clock and no HTTP here.

A limit on the whole request would have to know the machine: what takes a GPU seconds takes an old CPU an hour, and
other people's jobs stand before ours in the queue. So the *silence* is limited: the time without any sign of work, that
is without new text of ours and without a job of others coming to its end. A model that writes shows a token at a time,
however slow; only the reading of the prompt and image is silent for long, and how long follows from the speed that the
server itself reports.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["IDLE_LIMIT_S", "LOOK_S", "Silence", "silence_limit_s"]

LOOK_S: Final = 30.0
"""Between two questions to a silent server about what it is doing."""
FLOOR_S: Final = 600.0
"""No silence shorter than this is called a hang."""
UNMEASURED_S: Final = 1800.0
"""For the prompt of a server that has not measured its speed yet: its first image may be a slow one."""
PROMPT_TOKENS: Final = 16_384
"""So many tokens' time is allowed for a prompt: a large page with its image, four times over."""
TEXT_TOKENS: Final = 100
"""So many tokens' time is allowed between two signs of new text."""
IDLE_LIMIT_S: Final = 300.0
"""A server that says for so long that it has nothing to do has lost our job, or its answer was lost on the way."""


def silence_limit_s(perf: Mapping[str, Any], *, has_text: bool) -> float:
    """How long a server that works may show nothing, in s.

    Args:
        perf: Body of `/api/extra/perf`: `last_process` and `last_eval` are ms per token (1.76 and later).
        has_text: Whether it has begun to write; before, it reads prompt and image.
    """
    ms_per_token = perf.get("last_eval" if has_text else "last_process")
    if not isinstance(ms_per_token, int | float) or ms_per_token <= 0:
        return FLOOR_S if has_text else UNMEASURED_S
    return max(FLOOR_S, ms_per_token / 1000 * (TEXT_TOKENS if has_text else PROMPT_TOKENS))


class Silence:
    """How long one job has shown no sign of work.

    Args:
        now_s: Monotonic time at which it was sent.
    """

    def __init__(self, now_s: float) -> None:
        self._since_s = now_s
        self._next_look_s = now_s + 2 * LOOK_S
        self._text = ""
        self._perf: Mapping[str, Any] = {}
        self._idle_since_s: float | None = None

    def hear(self, text: str | None, now_s: float) -> None:
        """Take note of the job's text so far; None: it could not be learnt."""
        if text and text != self._text:
            self._text = text
            self._break(now_s)

    def wants_look(self, now_s: float) -> bool:
        """Tell whether the server is to be asked what it is doing."""
        return now_s >= self._next_look_s

    def look(self, perf: Mapping[str, Any] | None, now_s: float) -> None:
        """Take note of the server's counters; None: it did not answer."""
        self._next_look_s = now_s + LOOK_S
        if perf is None:
            return
        before, self._perf = self._perf, perf
        if before and any(before.get(key) != perf.get(key) for key in ("total_gens", "queue")):
            self._break(now_s)  # somebody else is being served
        if perf.get("idle") != 1 or perf.get("queue"):
            self._idle_since_s = None
        elif self._idle_since_s is None:
            self._idle_since_s = now_s

    def _break(self, now_s: float) -> None:
        self._since_s = now_s
        self._idle_since_s = None
        self._next_look_s = now_s + 2 * LOOK_S

    def lasts_s(self, now_s: float) -> float:
        """How long it has lasted."""
        return now_s - self._since_s

    def is_hang(self, now_s: float) -> bool:
        """Tell whether it has lasted longer than this server's work explains."""
        return self.lasts_s(now_s) >= silence_limit_s(self._perf, has_text=bool(self._text))

    def is_lost(self, now_s: float) -> bool:
        """Tell whether the server has had nothing to do all the while, though our job is not answered."""
        return self._idle_since_s is not None and now_s - self._idle_since_s >= IDLE_LIMIT_S
