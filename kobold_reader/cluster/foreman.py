"""The foreman: one for each run, beside the driver; says who may use which server, and remembers what is not home yet.

A plain class: in a run it is a Ray actor, in its tests it is not. Each reader holds one server at a time. A server that
fails is left alone for a while, as in `kobold.pool`, and the readers share what is left. A reader that is lost for good
gives its server back by its silence.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from kobold_reader.errors import ConfigError, KoboldReaderError, NoServerAvailableError
from kobold_reader.kobold import RetryPolicy

__all__ = ["Foreman", "Order"]

Order = Literal["go on", "begin nothing", "stop"]
"""What a reader hears whenever it speaks."""

LOST_AFTER_S: Final = 60.0
"""A reader says every second that it is there; after so much silence its server is free for others."""


WAITING_S: Final = 2.0
"""Who waits for a server asks again several times a second."""

AT_HOME_A_SERVER: Final = 2
"""So many units are remembered after their last page came home."""


@dataclass(slots=True)
class _Server:
    url: str
    holder: str | None = None
    last_holder: str | None = None
    heard_s: float = 0.0
    has_worked: bool = False
    failures: int = 0
    shunned_until_s: float = 0.0
    error: KoboldReaderError | None = None


@dataclass(slots=True)
class _Waiting:
    ticket: int
    asked_s: float
    tried: frozenset[str]


class Foreman:
    """See the module.

    Args:
        urls: The servers.
        patience_s: How long servers that have worked are waited for when all are gone.
        clock: Monotonic seconds.
    """

    def __init__(
        self, urls: Sequence[str], patience_s: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._servers = {url: _Server(url) for url in urls}
        self._policy = RetryPolicy(outage_patience_s=patience_s)
        self._clock = clock
        self._waiting: dict[str, _Waiting] = {}
        self._tickets = itertools.count()
        self._order: Order = "go on"
        self._rows: dict[int, list[Any]] = {}
        self._at_home: deque[int] = deque()
        self._model: tuple[str, str | None] | None = None
        self._outage_since_s: float | None = None
        self._error: KoboldReaderError | None = None
        self._news: list[str] = []

    # ── servers ──────────────────────────────────────────────────────────────────────────────────

    def take(self, holder: str, tried: Collection[str] = ()) -> tuple[str | None, bool]:
        """Hand out a server: the one that the holder had last, if it may be used, else one that is free.

        Args:
            holder: Whoever asks; what it still holds (it died meanwhile, and was started anew) is free again.
            tried: Servers that had their chance with these pages.

        Returns:
            The server, or None; and whether waiting may bring one.
        """
        now_s = self._clock()
        for server in self._servers.values():
            if server.holder == holder or (server.holder and now_s - server.heard_s > LOST_AFTER_S):
                server.holder = None
        left = [server for server in self._servers.values() if server.url not in tried]
        fit = [server for server in left if server.shunned_until_s <= now_s]
        # Those that failed lately come last, but they come: there may be no other.
        usable = fit or sorted(left, key=lambda server: server.shunned_until_s)
        free = sorted(
            (server for server in usable if server.holder is None),
            key=lambda server: (server.last_holder != holder, server.last_holder is not None) if fit else (),
        )
        if not usable:
            self._waiting.pop(holder, None)
            return None, False
        waiting = self._waiting.setdefault(holder, _Waiting(next(self._tickets), now_s, frozenset()))
        waiting.asked_s, waiting.tried = now_s, frozenset(tried)
        if len(free) <= self._before(holder, {server.url for server in free}):
            return None, True
        del self._waiting[holder]
        chosen = free[0]
        chosen.holder = chosen.last_holder = holder
        chosen.heard_s = now_s
        return chosen.url, False

    def _before(self, holder: str, urls: Collection[str]) -> int:
        """Count who has waited longer for one of these servers, and waits still."""
        own = self._waiting[holder]
        return sum(
            other.ticket < own.ticket and own.asked_s - other.asked_s < WAITING_S and not other.tried.issuperset(urls)
            for other in self._waiting.values()
        )

    def give_back(self, holder: str, url: str, error: KoboldReaderError | None = None) -> None:
        """Take a server back; with an error, which is the server's and not a page's, it is left alone for a while."""
        server = self._servers[url]
        if server.holder == holder:
            server.holder = None
        if error is None:
            if server.failures:
                self._news.append(f"{url} works again.")
            server.failures, server.shunned_until_s, server.error = 0, 0.0, None
            server.has_worked = True
            self._outage_since_s = None
            return
        server.failures += 1
        server.error = error
        server.shunned_until_s = self._clock() + self._policy.quarantine_of(server.failures)
        if server.failures == 1:
            self._news.append(f"{error} The other servers go on.")

    def runs(self, url: str, model: str | None) -> None:
        """Hear what a server runs; another model than the others' ends the run, as its pages would be read by both."""
        self._servers[url].has_worked = True
        self._model = self._model or (url, model)
        if self._model[1] != model:
            msg = (
                f"the servers run different models: {self._model[0]} {self._model[1]}, {url} {model}; "
                "the pages of one archive would be read by both, at random."
            )
            self.end(ConfigError(msg, hint="Load the same model everywhere, or name one of them only."))

    def is_waited_for(self) -> bool:
        """Tell whether a server is waited for now that all had their chance; if not, that ends the run."""
        now_s = self._clock()
        if self._outage_since_s is None:
            self._outage_since_s = now_s
        has_worked = any(server.has_worked for server in self._servers.values())
        if has_worked and now_s - self._outage_since_s < self._policy.outage_patience_s:
            return True
        errors = {server.url: server.error for server in self._servers.values() if server.error}
        said = " ".join(map(str, errors.values()))
        self.end(NoServerAvailableError(f"None of the {len(self._servers)} servers can be used. {said}", errors=errors))
        return False

    def held(self) -> int:
        """Return how many servers are in use."""
        return sum(server.holder is not None for server in self._servers.values())

    # ── units under way ──────────────────────────────────────────────────────────────────────────

    def keep(self, unit: int, row: Any) -> Order:
        """Keep a row of a unit: whoever reads the unit after its reader was lost goes on from there."""
        self._rows.setdefault(unit, []).append(row)
        return self._order

    def rows(self, unit: int) -> list[Any]:
        """Return what was read of a unit before."""
        return list(self._rows.get(unit, ()))

    def forget(self, unit: int) -> None:
        """Let go, soon, of a unit that is at home as a whole: its reader may be lost before Ray hears its end."""
        self._at_home.append(unit)
        if len(self._at_home) > AT_HOME_A_SERVER * len(self._servers):
            self._rows.pop(self._at_home.popleft(), None)

    # ── the run ──────────────────────────────────────────────────────────────────────────────────

    def hear(self, holder: str) -> Order:
        """Note that a reader is there, and say how it goes on."""
        for server in self._servers.values():
            if server.holder == holder:
                server.heard_s = self._clock()
        return self._order

    def order(self, order: Order) -> None:
        """Change what the readers are told; never back to an earlier state."""
        ranks: tuple[Order, ...] = ("go on", "begin nothing", "stop")
        self._order = max(self._order, order, key=ranks.index)

    def end(self, error: KoboldReaderError) -> None:
        """End the run: the readers begin nothing more, and the driver raises the first error."""
        self._error = self._error or error
        self.order("begin nothing")

    def error(self) -> KoboldReaderError | None:
        """Return what ended the run."""
        return self._error

    def news(self) -> list[str]:
        """Return what became of servers since this was asked last, for people."""
        news, self._news = self._news, []
        return news
