"""The one file that is open in the page child, and what the ledger knows of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from typing import Self, TypeVar

from kobold_reader.errors import CorruptSourceError, PageProcessKilledError, SourceError
from kobold_reader.pages import FileFacts, ImageBudget, PageChild, PageFacts, PageImages, PageLook, SourceFile
from kobold_reader.reading.ledger import Ledger

__all__ = ["OpenFile"]

log = logging.getLogger(__name__)

T = TypeVar("T")


class OpenFile:
    """Opens files in the page child as late as possible: a file whose pages are all known is never touched.

    Not thread-safe: it belongs to the thread that prepares pages.

    Args:
        ledger: Remembers which file has which content.
        passwords: Tried on encrypted files.
    """

    def __init__(self, ledger: Ledger, passwords: tuple[str, ...] = ()) -> None:
        self._ledger = ledger
        self._passwords = passwords
        self._child = PageChild()
        self._holding = ExitStack()
        self._now: tuple[str, str] | None = None
        """URI and sha256 of the file that is open."""

    def facts(self, source: SourceFile) -> FileFacts:
        """Return the facts of a file, from the ledger where file and content are known.

        Raises:
            SourceError: The file cannot be opened.
        """
        sha256 = self._ledger.sha256_of(source)
        known = self._ledger.document(sha256) if sha256 else None
        return known or self._open(source)

    def page_facts(self, source: SourceFile, file: FileFacts, page_number: int) -> PageFacts:
        """Look at one page (1-based) of a file that is still what `file` says.

        Raises:
            SourceError: The page or the file cannot be read.
        """
        self._ensure(source, file)
        return self._ask(source, page_number, lambda: self._child.page_facts(page_number))

    def page_look(self, source: SourceFile, file: FileFacts, page_number: int) -> PageLook:
        """Look at the picture that one page (1-based) is, of a file that is still what `file` says.

        Raises:
            SourceError: The file cannot be read, or the page makes whoever looks at it crash.
        """
        self._ensure(source, file)
        return self._ask(source, page_number, lambda: self._child.page_look(page_number))

    def page_images(
        self, source: SourceFile, file: FileFacts, page_number: int, budget: ImageBudget, rotate_deg: int | None
    ) -> PageImages:
        """Make the images of one page (1-based) of a file that is still what `file` says.

        Turned clockwise by `rotate_deg`, or where that is None as its picture asks for.

        Raises:
            SourceError: The page or the file cannot be read.
        """
        self._ensure(source, file)
        return self._ask(
            source, page_number, lambda: self._child.page_images(page_number, budget, rotate_deg=rotate_deg)
        )

    def _ask(self, source: SourceFile, page_number: int, request: Callable[[], T]) -> T:
        """Ask the child about a page, once more where the child was killed from outside: the page is not to blame."""
        try:
            try:
                return request()
            except PageProcessKilledError as err:
                log.warning("%s page %d: %s Once more.", source.path, page_number, err)
                return request()
        except SourceError as err:
            raise err.at(source.path, page_number) from err.__cause__

    def _ensure(self, source: SourceFile, file: FileFacts) -> None:
        if self._now != (source.uri, file.sha256):
            self._open(source, expected_sha256=file.sha256)

    def _open(self, source: SourceFile, expected_sha256: str | None = None) -> FileFacts:
        self._let_go()
        try:
            path = self._holding.enter_context(source.opened_path())
            facts = self._ask_open(path, source)
        except SourceError as err:
            self._let_go()
            raise err.at(source.path) from err.__cause__
        if expected_sha256 not in {None, facts.sha256}:
            # Its pages must not be recorded as those of the content that lay here before.
            self._let_go()
            msg = "The file was changed since this run began."
            raise CorruptSourceError(msg, source=source.path, hint="The next run reads it as it is now.")
        self._now = (source.uri, facts.sha256)
        self._ledger.remember_file(source, facts)
        log.info("%s: %d pages", source.path, facts.total_pages)
        return facts

    def _ask_open(self, path: str, source: SourceFile) -> FileFacts:
        try:
            return self._child.open(path, source=source.path, kind=source.kind, passwords=self._passwords)
        except PageProcessKilledError as err:
            log.warning("%s: %s Once more.", source.path, err)
            return self._child.open(path, source=source.path, kind=source.kind, passwords=self._passwords)

    def _let_go(self) -> None:
        self._now = None
        self._holding.close()

    def close(self) -> None:
        """End the child and remove temporary copies."""
        self._let_go()
        self._child.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
