"""UnitReader: the actor. Reads units of pages with the server that the foreman lets it use.

It keeps no ledger: what it reads of a unit lies in memory until the unit is done. Files are opened here, in the actor's
own page child, and a file that lies elsewhere is fetched once for as long as its pages come one after another.

What goes to the actors and comes back: units of pages, small enough to spread, large enough to open files once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

from typing_extensions import override

from kobold_reader.cluster.foreman import Order
from kobold_reader.errors import ConfigError, ImageNotSeenError, KoboldReaderError, ServerError, ServerTimeoutError
from kobold_reader.pages import FileFacts, SourceFile
from kobold_reader.reader import KoboldReader
from kobold_reader.reading.engine import Engine
from kobold_reader.reading.ledger import KnownPage, Ledger
from kobold_reader.reading.results import PageResult
from kobold_reader.reading.transcriber import Transcriber

__all__ = ["ForemanCalls", "PageToRead", "ReadPage", "Unit", "UnitReader", "in_units"]

UNIT_PAGES: Final = 16
"""At most so many pages are read in one go: the last server to finish keeps the others waiting for no more."""
UNITS_A_SERVER: Final = 4
"""A wave of fewer pages is cut so that each server gets about so many units."""


@dataclass(frozen=True, slots=True)
class PageToRead:
    """One page as the driver knows it."""

    position: int
    """In its wave."""
    source: SourceFile
    file: FileFacts
    known: KnownPage
    tasks: tuple[str, ...]
    """Due ones."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Pages that one actor reads in one go, all with the same tasks due."""

    number: int
    pages: tuple[PageToRead, ...]

    @property
    def tasks(self) -> tuple[str, ...]:
        """What is due of every page."""
        return self.pages[0].tasks


@dataclass(frozen=True, slots=True)
class ReadPage:
    """One page as an actor gives it back."""

    unit: int
    position: int
    result: PageResult
    known: KnownPage | None
    """With what was learned of it; None where it could not be looked at."""


def in_units(pages: Sequence[PageToRead], *, servers: int, numbers: Iterator[int]) -> list[Unit]:
    """Cut the pages of a wave into units, numbered as none before.

    A unit may hold pages of several files (photos), and a file may lie in several units (a book).
    """
    size = max(1, min(UNIT_PAGES, -(-len(pages) // (servers * UNITS_A_SERVER))))
    return [Unit(next(numbers), some) for some in _cut(pages, size)]


def _cut(pages: Iterable[PageToRead], size: int) -> Iterator[tuple[PageToRead, ...]]:
    some: list[PageToRead] = []
    for page in pages:
        if some and (len(some) == size or page.tasks != some[0].tasks):
            yield tuple(some)
            some = []
        some.append(page)
    if some:
        yield tuple(some)


_LOOK_S: Final = 0.2
_SAY_S: Final = 1.0
_OUTAGE_LOOK_S: Final = 5.0


class ForemanCalls(Protocol):
    """The foreman as a reader speaks to it: the methods of `Foreman` by name, wherever it runs."""

    def __call__(self, method: str, *arguments: Any) -> Any:
        """Call a method and wait for its answer."""
        ...


class _UnitTranscriber(Transcriber):
    """Reads the pages that it is given, whatever else their files hold."""

    def __init__(self, *arguments: Any, pages: frozenset[tuple[str, int]], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._of_unit = pages

    @override
    def _choose_sample(self, files: Sequence[SourceFile]) -> None:
        self._chosen = self._of_unit


class UnitReader:
    """Reads units; one for each server.

    Args:
        reader: How to read.
        foreman: Whom to ask for a server.
        name: Stays the same where the actor is started anew.
    """

    def __init__(self, reader: KoboldReader, foreman: ForemanCalls, name: str) -> None:
        self._reader = reader
        self._foreman = foreman
        self._name = name
        self._readers: dict[str, KoboldReader] = {}
        self._fetched = _Fetched()
        self._cancel = threading.Event()
        self._asking = threading.Event()
        """To break off what is being asked now: each transcriber sets its own when it is done."""
        threading.Thread(target=self._say_here, name="kobold-reader-here", daemon=True).start()

    def _say_here(self) -> None:
        """Tell the foreman that this reader lives, and hear whether the run was broken off."""
        with suppress(Exception):  # without a foreman there is no run
            while self._foreman("hear", self._name) != "stop":
                time.sleep(_SAY_S)
        self._cancel.set()
        self._asking.set()

    def read(self, unit: Unit) -> Iterator[ReadPage]:
        """Yield every page of a unit, those first that were read by a reader that was lost."""
        kept: list[ReadPage] = self._foreman("rows", unit.number)
        yield from kept
        done = {page.position for page in kept}
        left = {
            (page.source.uri, page.known.facts.page_number): page for page in unit.pages if page.position not in done
        }
        order: Order = self._foreman("hear", self._name)
        if not left or order != "go on":
            return
        for page in self._rest(unit, left):
            order = self._foreman("keep", unit.number, page)
            yield page
            if order != "go on":
                return

    def _rest(self, unit: Unit, left: dict[tuple[str, int], PageToRead]) -> Iterator[ReadPage]:
        """Read what is left of a unit, with one server after the other where they fail; `left` is emptied meanwhile."""
        failed: dict[tuple[str, int], ReadPage] = {}
        tried: set[str] = set()
        with Ledger(None) as memory:
            while left:
                url = self._server(tried)
                if url is None:
                    if len(failed) == len(left) or self._cancel.is_set() or not self._foreman("is_waited_for"):
                        break
                    tried.clear()
                    self._cancel.wait(_OUTAGE_LOOK_S)
                    continue
                failure: KoboldReaderError | None = None
                try:
                    for place, page in self._read_with(url, unit, left, memory):
                        if error := _servers_fault(page.result):
                            failed[place], failure = page, failure or error
                            continue
                        del left[place]
                        failed.pop(place, None)
                        yield page
                except ConfigError as err:
                    self._foreman("end", err)
                    break
                except ServerError as err:
                    failure = err
                finally:
                    self._foreman("give_back", self._name, url, failure)
                if failure is None:
                    break
                tried.add(url)
        # Asked of every server, and no answer is one: that is the page's error now.
        yield from failed.values()

    def _server(self, tried: set[str]) -> str | None:
        """Wait for a server that has not been tried; None: there is none."""
        while not self._cancel.is_set():
            url, is_worth_waiting = self._foreman("take", self._name, tried)
            if url or not is_worth_waiting:
                return str(url) if url else None
            self._cancel.wait(_LOOK_S)
        return None

    def _read_with(
        self, url: str, unit: Unit, left: Mapping[tuple[str, int], PageToRead], memory: Ledger
    ) -> Iterator[tuple[tuple[str, int], ReadPage]]:
        self._asking = threading.Event()
        if self._cancel.is_set():
            return
        engine = self._engine(url)
        self._foreman("runs", url, engine.prepare(self._asking).model)
        files: dict[str, SourceFile] = {}
        for page in left.values():
            memory.remember_file(page.source, page.file)  # so it is opened for its images only
            memory.remember_pages(page.file.sha256, [page.known])
            files[page.source.uri] = self._fetched.at_hand(page.source)
        settings = replace(self._reader.options, tasks=unit.tasks, sample=None, redo=None, stop_after_s=None)
        transcriber = _UnitTranscriber(engine, memory, settings, cancel=self._asking, pages=frozenset(left))
        with closing(transcriber.run(list(files.values()))) as results:
            for result in results:
                place = (result.source.uri, result.page_number)
                page = left[place]
                known = memory.pages(page.file.sha256).get(result.page_number)
                bare = replace(result, source=replace(page.source, filesystem=None))  # the driver has its own
                yield place, ReadPage(unit.number, page.position, bare, known)

    def _engine(self, url: str) -> Engine:
        if url not in self._readers:
            # Whether an outage is waited for is the foreman's to say: other servers may be left.
            self._readers[url] = self._reader.changed(api_url=url, ledger="none", outage_patience_s=0)
        return self._readers[url].make_engine()


def _servers_fault(result: PageResult) -> KoboldReaderError | None:
    """Return why another server may read this page, if it is worth asking: not where the time limit was the user's."""
    for error in result.errors.values():
        if isinstance(error, ServerError | ImageNotSeenError) and not isinstance(error, ServerTimeoutError):
            return error
    return None


class _Fetched:
    """The file that was fetched last from elsewhere, kept until another one is wanted: a book comes in many units."""

    def __init__(self) -> None:
        self._uri = ""
        self._path = ""
        self._holding = ExitStack()

    def at_hand(self, source: SourceFile) -> SourceFile:
        """Return the file as one that is fetched once only; a local one as it is."""
        return source if source.filesystem is None else replace(source, filesystem=_Once(source, self))

    def open(self, source: SourceFile) -> BinaryIO:
        """Open the copy of a file.

        Raises:
            CorruptSourceError: It cannot be copied here.
        """
        if self._uri != source.uri:
            self._holding.close()
            self._uri = ""
            self._path = self._holding.enter_context(source.opened_path())
            self._uri = source.uri
        return Path(self._path).open("rb")


class _Once:
    """Stands where a SourceFile holds its filesystem, of which only `open` is asked once it is known what to read."""

    def __init__(self, source: SourceFile, fetched: _Fetched) -> None:
        self._source = source
        self._fetched = fetched

    def open(self, _path: str, _mode: str) -> BinaryIO:
        return self._fetched.open(self._source)
