"""Page children that outlive the test which started them: a start takes a third of a second of processor time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from kobold_reader.pages import FileFacts, ImageBudget, PageChild, PageFacts, PageImages, PlacedText, TextLine
from kobold_reader.pages.values import Embedded, PageLook


class LendingRoom:
    """Lends real page children, one at a time to each borrower, and ends them all in the end."""

    def __init__(self) -> None:
        self._idle: list[PageChild] = []

    def lend(self) -> PageChild:
        """A page child whose `close` gives it back."""
        return cast("PageChild", _Loan(self._idle))

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()


class _Loan:
    def __init__(self, idle: list[PageChild]) -> None:
        self._idle = idle
        self._child: PageChild | None = None

    def open(
        self, path: str | Path, *, source: str | None = None, kind: str, passwords: Sequence[str] = ()
    ) -> FileFacts:
        return self._held().open(path, source=source, kind=kind, passwords=passwords)

    def page_facts(self, page_number: int, *, ahead: Sequence[int] = ()) -> PageFacts:
        return self._held().page_facts(page_number, ahead=ahead)

    def page_look(self, page_number: int) -> PageLook:
        return self._held().page_look(page_number)

    def text_lines(self, page_number: int) -> tuple[TextLine, ...]:
        return self._held().text_lines(page_number)

    def embedded(self) -> Embedded:
        return self._held().embedded()

    def page_images(self, page_number: int, budget: ImageBudget, *, rotate_deg: int | None = 0) -> PageImages:
        return self._held().page_images(page_number, budget, rotate_deg=rotate_deg)

    def begin_copy(self, target: Path) -> tuple[str, ...]:
        return self._held().begin_copy(target)

    def copy_page(self, page_number: int, lines: Sequence[PlacedText]) -> None:
        self._held().copy_page(page_number, lines)

    def end_copy(self) -> None:
        self._held().end_copy()

    def close(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            self._idle.append(child)

    def _held(self) -> PageChild:
        if self._child is None:
            try:
                self._child = self._idle.pop()
            except IndexError:
                self._child = PageChild()
        return self._child
