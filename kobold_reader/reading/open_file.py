"""OpenFile: the one file that is open in the page child, and its facts in the ledger."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final, Self, TypeVar

from kobold_reader.border import of_one_page
from kobold_reader.errors import CorruptSourceError, PageProcessKilledError, SourceError, UnexpectedError
from kobold_reader.options import ImageKindUse
from kobold_reader.pages import (
    FileFacts,
    ImageBudget,
    PageChild,
    PageFacts,
    PageImages,
    PlacedText,
    Scalar,
    SourceFile,
    TextLine,
)
from kobold_reader.pages.values import Embedded
from kobold_reader.reading.ledger import KnownPage, Ledger
from kobold_reader.reading.line_reader import LOOK_PX, is_shown, line_reader

log = logging.getLogger(__name__)

T = TypeVar("T")

new_child: Callable[[], PageChild] = PageChild
"""Makes the page child of an OpenFile. The tests lend one that runs already, as a start takes a third of a second."""

_AHEAD_PAGES: Final = 8
"""Pages that the child looks at while this process works."""
_KNOWN_AT_ONCE: Final = 256
"""Known pages that are held at a time: a book has megabytes of facts."""
_PICTURE_COVERAGE: Final = 0.5
# Keys of a page's metadata; those with "_" are not shown.
_KIND: Final = "image_kind"
_HASH: Final = "phash"
_GIVEN: Final = "_image_kind_given"
"""The user's own kind."""
_LOOKED: Final = "_looked"
"""Kept even if nothing was found."""


class OpenFile:
    """Opens files in the page child as late as possible: a file whose pages are all known is never touched.

    Not thread-safe: it belongs to the thread that prepares pages. All methods about a page take the file's facts. They
    raise SourceError where the page or the file cannot be read, and CorruptSourceError where the file was changed since
    its facts were read.

    The ledger knows the content of each file; the passwords are tried on encrypted ones.
    """

    def __init__(self, ledger: Ledger, passwords: tuple[str, ...] = ()) -> None:
        self._ledger = ledger
        self._passwords = passwords
        self._child = new_child()
        self._holding = ExitStack()
        self._now: tuple[str, str] | None = None
        """URI and sha256 of the file that is open."""

    def facts(self, source: SourceFile) -> FileFacts:
        """Return the facts of a file, from the ledger where file and content are known.

        Raises:
            SourceError: The file cannot be opened.
        """
        with of_one_page("opening it", source.path):
            sha256 = self._ledger.sha256_of(source)
            known = self._ledger.document(sha256) if sha256 else None
            return known or self._open(source)

    def page_facts(
        self, source: SourceFile, file: FileFacts, page_number: int, *, ahead: Sequence[int] = ()
    ) -> PageFacts:
        """Return the facts of one page (1-based), while the child goes on with those of a few pages `ahead`.

        A text layer whose letters leave a doubt is compared with the page's picture, where RapidOCR is installed.
        """
        facts = self._ask(source, file, page_number, lambda: self._child.page_facts(page_number, ahead=ahead))
        if not facts.doubtful_lines:
            return facts
        is_good = self._is_shown(source, file, facts)
        return replace(facts, text_layer="good" if is_good else "poor", doubtful_lines=())

    def _is_shown(self, source: SourceFile, file: FileFacts, facts: PageFacts) -> bool:
        """Tell whether the doubtful lines are what the page shows; False where that cannot be told."""
        if (read := line_reader()) is None:
            return False
        number = facts.page_number
        try:
            view = self.page_images(source, file, number, ImageBudget(max_side_px=LOOK_PX), 0).views[0]
            return is_shown(facts.doubtful_lines, view, read)
        except Exception as err:  # noqa: BLE001  (OpenCV and onnxruntime raise anything; the page's image is read)
            log.warning("%s page %d: RapidOCR cannot tell if its text layer is right: %s", source.path, number, err)
            return False

    def page_images(
        self, source: SourceFile, file: FileFacts, page_number: int, budget: ImageBudget, rotate_deg: int | None
    ) -> PageImages:
        """Make the images of one page (1-based), turned clockwise by `rotate_deg`; None: as its picture asks for."""
        return self._ask(
            source, file, page_number, lambda: self._child.page_images(page_number, budget, rotate_deg=rotate_deg)
        )

    def text_lines(self, source: SourceFile, file: FileFacts, page_number: int) -> tuple[TextLine, ...]:
        """Return the lines of a page's own text with their places; none where it has no text."""
        return self._ask(source, file, page_number, lambda: self._child.text_lines(page_number))

    def embedded(self, source: SourceFile, file: FileFacts) -> Embedded:
        """Return what a photo says itself, for its sidecar."""
        return self._ask(source, file, 1, self._child.embedded)

    def copy_with_text(
        self, source: SourceFile, file: FileFacts, target: Path, pages: Iterable[Sequence[PlacedText]]
    ) -> tuple[str, ...]:
        """Write a PDF with the same pages and their text, in page order; `target` is not there yet.

        Returns:
            Sentences for the reader of the copy.

        Raises:
            SourceError: Of this file no copy can be made, or it cannot be read any more.
        """
        notices = self._ask(source, file, 1, lambda: self._child.begin_copy(target))
        for number, lines in enumerate(pages, start=1):
            self._child.copy_page(number, lines)
        self._child.end_copy()
        return notices

    def with_image_kind(
        self, source: SourceFile, file: FileFacts, known: KnownPage, given: ImageKindUse | None
    ) -> KnownPage:
        """Return a page with the kind of its picture (photo or scan); the very same page where that adds nothing.

        The file is opened only where this page was not looked at before. The kind does not change how a page is read,
        so it makes nothing due. A page that cannot be looked at is left as it is: reading it will report the error.
        `given`, the user's own kind, holds for later runs until the user gives another one, or auto.
        """
        facts = known.facts
        is_picture = facts.width_px > 0 and facts.text_layer != "good" and facts.image_coverage >= _PICTURE_COVERAGE
        if not is_picture:
            return known
        metadata = dict(facts.metadata)
        if _LOOKED not in metadata:
            number = facts.page_number
            try:
                look = self._ask(source, file, number, lambda: self._child.page_look(number))
            except SourceError as err:
                log.debug("%s page %d: not looked at (%s)", source.path, number, err)
            else:
                found = {_KIND: look.kind, _HASH: look.phash, _LOOKED: True}
                metadata |= {key: value for key, value in found.items() if value is not None}
        if given == "auto":
            metadata.pop(_GIVEN, None)
        elif given is not None:
            metadata[_GIVEN] = given
        return known if metadata == facts.metadata else replace(known, facts=replace(facts, metadata=metadata))

    def remember(self, source: SourceFile, file: FileFacts, page: KnownPage) -> None:
        """Record facts of a page in the ledger; where it cannot take them, the next run looks at the page again."""
        try:
            with of_one_page("keeping what is known of it", source.path, page.facts.page_number):
                self._ledger.remember_pages(file.sha256, [page])
        except UnexpectedError as err:
            log.warning("%s", err)

    def _ask(self, source: SourceFile, file: FileFacts, page_number: int, request: Callable[[], T]) -> T:
        with of_one_page("looking at it", source.path, page_number):
            if self._now != (source.uri, file.sha256):
                self._open(source, expected_sha256=file.sha256)
            try:
                return _twice(request, f"{source.path} page {page_number}")
            except SourceError as err:
                raise err.at(source.path, page_number) from err.__cause__

    def _open(self, source: SourceFile, expected_sha256: str | None = None) -> FileFacts:
        self._let_go()
        try:
            path = self._holding.enter_context(source.opened_path())
            facts = _twice(
                lambda: self._child.open(path, source=source.path, kind=source.kind, passwords=self._passwords),
                source.path,
            )
        except SourceError as err:
            self._let_go()
            raise err.at(source.path) from err.__cause__
        if expected_sha256 not in {None, facts.sha256}:
            # Its pages must not be recorded under the file's earlier content.
            self._let_go()
            raise CorruptSourceError(
                "The file was changed since this run began.",
                source=source.path,
                hint="The next run reads it as it is now.",
            )
        self._now = (source.uri, facts.sha256)
        self._ledger.remember_file(source, facts)
        log.info("%s: %d pages", source.path, facts.total_pages)
        if expected_sha256 is None:  # else this was said when the file was first opened
            if damage := facts.metadata.get("damage"):
                log.warning("%s: %s", source.path, damage)
            if left_out := facts.metadata.get("attachments_left_out"):
                log.warning("%s: attached files of unsupported kinds are skipped: %s", source.path, left_out)
        return facts

    def _let_go(self) -> None:
        self._now = None
        self._holding.close()

    def close(self) -> None:
        """End the child, remove temporary copies, and have the ledger write what it put off."""
        self._let_go()
        self._child.close()
        self._ledger.settle()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def with_known(
    ledger: Ledger, source: SourceFile, file: FileFacts, page_numbers: Iterable[int]
) -> Iterator[tuple[int, KnownPage | None, list[int]]]:
    """Yield each page number, the page if it is known, and the next numbers that are not, for `OpenFile.page_facts`.

    Raises:
        SourceError: The ledger's rows of the file cannot be used.
    """
    numbers = list(page_numbers)
    known: dict[int, KnownPage] = {}
    for position, number in enumerate(numbers):
        if position % _KNOWN_AT_ONCE == 0:
            with of_one_page("looking at its pages", source.path):
                known = ledger.pages(file.sha256, numbers[position : position + _KNOWN_AT_ONCE + _AHEAD_PAGES])
        following = numbers[position + 1 : position + 1 + _AHEAD_PAGES]
        yield number, known.pop(number, None), [one for one in following if one not in known]


def _twice(request: Callable[[], T], place: str) -> T:
    """Ask the child again if it was killed from outside: the page is not to blame."""
    try:
        return request()
    except PageProcessKilledError as err:
        log.warning("%s: %s Once more.", place, err)
        return request()


def public_metadata(metadata: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return a page's metadata as it is shown: with the user's own kind of picture, and `phash` of photos only."""
    kind = metadata.get(_GIVEN, metadata.get(_KIND))
    shown = {key: value for key, value in metadata.items() if not key.startswith("_")}
    if kind is not None:
        shown[_KIND] = kind
    if kind != "photo":
        shown.pop(_HASH, None)  # all pages of writing look alike
    return shown
