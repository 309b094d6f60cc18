"""When to send a request again, as a frozen value and pure functions. No clock, no sleep here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kobold_reader.errors import (
    ConfigError,
    KoboldReaderError,
    ResponseFormatError,
    ServerBusyError,
    ServerHungError,
    ServerTimeoutError,
)

__all__ = ["RetryPolicy"]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently one server is asked the same.

    Attributes:
        attempts: Requests in all, the first included, while the connection fails.
        base_s: Wait after the first failure; it doubles with each one.
        cap_s: Longest wait of our own choosing.
        jitter: Share of a wait that is left to chance, so that several clients part ways.
        busy_patience_s: How long a busy server is waited for. Busy is no failure: someone else is
            being served, and waiting costs nothing that trying another page would save.
        outage_patience_s: How long a lease waits for servers that have worked before and are now
            all gone (one that restarts needs minutes to load its model).
        handover_s: How long a busy server is waited for where another one works: then the page goes there.
        quarantine_s: How long a server that failed is left alone while others work; it doubles with each failure in a
            row, up to `quarantine_cap_s`.
        quarantine_cap_s: See there.
    """

    attempts: int = 4
    base_s: float = 1.0
    cap_s: float = 30.0
    jitter: float = 0.25
    busy_patience_s: float = 1800.0
    outage_patience_s: float = 0.0
    handover_s: float = 30.0
    quarantine_s: float = 60.0
    quarantine_cap_s: float = 600.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ConfigError(f"attempts is {self.attempts}; it must be 1 or more.")
        if not 0 <= self.jitter <= 1:
            raise ConfigError(f"jitter is {self.jitter}; it must be between 0 and 1.")
        times_s = (self.base_s, self.cap_s, self.busy_patience_s, self.outage_patience_s, self.handover_s)
        if min(*times_s, self.quarantine_s, self.quarantine_cap_s) < 0:
            raise ConfigError("The times of a RetryPolicy cannot be negative.")

    def delay_s(self, attempt: int, error: KoboldReaderError, random: Callable[[], float]) -> float:
        """How long to wait after the failure of an attempt (1-based).

        A wait the server asked for is never shortened; chance shortens only our own.

        Args:
            attempt: Which attempt failed.
            error: How.
            random: Gives a number in [0, 1).
        """
        grown_s = self.base_s * 2.0 ** min(attempt - 1, 60)
        own_s = min(self.cap_s, grown_s) * (1.0 - self.jitter * random())
        asked_s = error.retry_after_s if isinstance(error, ServerBusyError) else None
        return own_s if asked_s is None else max(own_s, asked_s)

    def quarantine_of(self, failures: int) -> float:
        """How long, in s, a server is left alone after so many failures in a row."""
        return min(self.quarantine_cap_s, self.quarantine_s * 2.0 ** min(failures - 1, 60))

    def gives_up(
        self, attempt: int, error: KoboldReaderError, busy_s: float = 0.0, *, has_others: bool = False
    ) -> bool:
        """Whether no further request is to be sent to this server.

        A time limit is not tried again: it was the caller's, and the same work takes the same time. Nor is a server
        that hangs: it was waited for long enough. A malformed answer is tried once more only.

        Args:
            attempt: How many attempts failed, those at a busy server not counted.
            error: The last failure.
            busy_s: How long the server has been busy by now, the next wait included.
            has_others: Whether another server could do the work.
        """
        if isinstance(error, ServerBusyError):
            return busy_s > (min(self.handover_s, self.busy_patience_s) if has_others else self.busy_patience_s)
        if not error.retryable or isinstance(error, ServerTimeoutError | ServerHungError):
            return True
        limit = min(2, self.attempts) if isinstance(error, ResponseFormatError) else self.attempts
        return attempt >= limit
