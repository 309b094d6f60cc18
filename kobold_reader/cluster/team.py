"""Team: the foreman and the readers on the cluster, as the driver sees them."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final, Self

from kobold_reader.cluster.foreman import Foreman, Order
from kobold_reader.cluster.session import connect, quiet_context
from kobold_reader.cluster.unit_reader import UnitReader
from kobold_reader.cluster.units import PageToRead, ReadPage, in_units
from kobold_reader.errors import ClusterError, KoboldReaderError
from kobold_reader.reader import KoboldReader

__all__ = ["Team"]

log = logging.getLogger(__name__)

_LOOK_S: Final = 0.2
_END_S: Final = 10.0
"""At most so long the readers are given to abort the jobs that run on their servers."""


class _RemoteForeman:
    """The foreman's methods by name, across the cluster; goes to the actors."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def __call__(self, method: str, *arguments: Any) -> Any:
        import ray

        return ray.get(getattr(self._actor, method).remote(*arguments))


class _Actor:
    """What Ray Data calls: a UnitReader in columns and rows."""

    def __init__(self, reader: KoboldReader, foreman: _RemoteForeman) -> None:
        import ray

        # The same where Ray starts a lost actor anew.
        name = ray.get_runtime_context().get_actor_id()
        self._units = UnitReader(reader, foreman, name)

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, list[Any]]]:
        for unit in batch["unit"]:
            for page in self._units.read(unit):
                yield {"page": [page]}


class Team:
    """Joins the cluster when the first page is to be read; use it in a `with` statement.

    Args:
        reader: How to read, and the servers.
        address: As `connect` takes it.
        is_cancelled: Whether the run is to be broken off.
        goes_on: Whether more pages are to be begun.
    """

    def __init__(
        self, reader: KoboldReader, address: str, is_cancelled: Callable[[], bool], goes_on: Callable[[], bool]
    ) -> None:
        self._reader = reader
        self._urls = list(dict.fromkeys(reader.api_urls))
        self._address = address
        self._is_cancelled = is_cancelled
        self._goes_on = goes_on
        self._unit_numbers = itertools.count()
        self._foreman: _RemoteForeman | None = None
        self._is_over = threading.Event()
        self.error: KoboldReaderError | None = None
        """What ended the run."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()

    def read(self, pages: Sequence[PageToRead]) -> Iterator[ReadPage]:
        """Yield pages as they are read, in any order; those that nobody began are missing.

        Raises:
            ClusterError: The cluster cannot be joined, or was lost.
        """
        if not pages:
            return
        ray = connect(self._address)
        units = in_units(pages, servers=len(self._urls), numbers=self._unit_numbers)
        missing = {unit.number: len(unit.pages) for unit in units}
        foreman = self._foreman or self._begin(ray)
        # Nothing is fetched ahead: a page that waits for the next one could be lost with this process.
        batches = iter(
            self._dataset(ray, foreman, units).iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0)
        )
        try:
            for page in itertools.chain.from_iterable(batch["page"] for batch in batches):
                missing[page.unit] -= 1
                if not missing[page.unit]:
                    foreman("forget", page.unit)
                yield page
            self.error = foreman("error")
        except ray.exceptions.RayError as err:
            msg = f"the Ray cluster lost what it was doing: {str(err).strip().splitlines()[-1]}"
            raise ClusterError(msg, hint="What was read is kept; the next run goes on from here.") from err
        finally:
            with suppress(Exception):  # a foreman that is gone has nobody to stop
                self._end(foreman, is_done=not any(missing.values()))
            close = getattr(batches, "close", None)
            if close:
                close()

    def _begin(self, ray: Any) -> _RemoteForeman:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # Beside the driver: where that is lost, so is the run. Were it soft, Ray would put what needs no processor
        # on any node.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(Foreman).options(num_cpus=0, scheduling_strategy=here)
        self._foreman = _RemoteForeman(actor.remote(self._urls, self._reader.outage_patience_s))
        threading.Thread(target=self._watch, args=(self._foreman,), name="kobold-reader-team", daemon=True).start()
        return self._foreman

    def _dataset(self, ray: Any, foreman: _RemoteForeman, units: Sequence[Any]) -> Any:
        with ray.data.DataContext.current(quiet_context(ray)):
            return ray.data.from_items([{"unit": unit} for unit in units], override_num_blocks=len(units)).map_batches(
                _Actor,
                fn_constructor_args=(self._reader, foreman),
                batch_size=1,
                batch_format="numpy",
                # One unit at a time: those that wait are for whoever is free first.
                compute=ray.data.ActorPoolStrategy(
                    size=min(len(self._urls), len(units)), max_tasks_in_flight_per_actor=1
                ),
                # They wait for their servers most of the time; but Ray does not spread what asks for nothing.
                num_cpus=0.01,
            )

    def _watch(self, foreman: _RemoteForeman) -> None:
        """Pass the driver's wishes on, and say what became of servers."""
        order: Order = "go on"
        with suppress(Exception):  # the cluster is gone; the driver sees that by itself
            while not self._is_over.wait(_LOOK_S):
                wish: Order = "stop" if self._is_cancelled() else "go on" if self._goes_on() else "begin nothing"
                if wish != order:
                    foreman("order", wish)
                    order = wish
                for news in foreman("news"):
                    log.warning(news)

    def _end(self, foreman: _RemoteForeman, *, is_done: bool) -> None:
        for news in foreman("news"):
            log.warning(news)
        if is_done:
            return
        foreman("order", "stop")
        end_s = time.monotonic() + _END_S
        while foreman("held") and time.monotonic() < end_s:
            time.sleep(_LOOK_S)
