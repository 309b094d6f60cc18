"""SecondReader: RapidOCR as the witness, in a process of low priority beside the servers' work.

It opens the pages itself, one at a time, and keeps its readings in the ledger like any other, so no page is read twice.
Pages that a server reads now come before pages that were read earlier. Nothing waits for it but what asks for its word.
"""

from __future__ import annotations

import importlib.util
import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Self

from kobold_reader.border import of_one_page
from kobold_reader.errors import KoboldReaderError, MissingExtraError
from kobold_reader.options import ReadOptions
from kobold_reader.pages import FileFacts, PageFacts, PageImages, SourceFile
from kobold_reader.reading.ledger import Ledger
from kobold_reader.reading.open_file import OpenFile
from kobold_reader.reading.page_reader import PageJob, upright_images
from kobold_reader.reading.rapidocr import BUDGET, NAME
from kobold_reader.reading.results import Corners, Reading
from kobold_reader.reading.witness import Comparison, Look, compare
from kobold_reader.reading.witness_process import WitnessProcess

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Case:
    """One page's content."""

    source: SourceFile
    file: FileFacts
    facts: PageFacts
    is_urgent: bool
    witness: Reading | None = None
    text: str | None = None
    """What the model read; None: it is not known yet."""


@dataclass(frozen=True, slots=True)
class Word:
    """What the witness says about one page."""

    witness: Reading
    comparison: Comparison


class SecondReader:
    """Reads pages and compares texts with them, in one thread that starts with the first page.

    Args:
        ledger: Keeps the readings.
        options: The options of the run; the witness turns pages as they say.

    Raises:
        MissingExtraError: RapidOCR is not installed.
    """

    def __init__(self, ledger: Ledger, options: ReadOptions) -> None:
        if not is_installed():
            raise MissingExtraError("rapidocr", "The witness RapidOCR")
        self._ledger = ledger
        self._options = options
        self._key = witness_key(options)
        self._engine = WitnessProcess()
        self._changed = threading.Condition()
        self._cases: OrderedDict[str, _Case] = OrderedDict()
        self._words: dict[str, Word | KoboldReaderError] = {}
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def look_at(self, source: SourceFile, file: FileFacts, facts: PageFacts, *, is_urgent: bool) -> None:
        """Have a page read when its turn comes; `is_urgent`: before all pages that are not."""
        with self._changed:
            case = self._cases.setdefault(facts.content_sha256, _Case(source, file, facts, is_urgent))
            case.is_urgent |= is_urgent
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="kobold-reader-witness", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def compare(self, content_sha256: str, text: str) -> None:
        """Have the text that a model read compared; the page was given to `look_at`."""
        with self._changed:
            if content_sha256 in self._cases and content_sha256 not in self._words:
                self._cases[content_sha256].text = text
                self._changed.notify_all()

    def is_awaited(self, content_sha256: str, timeout_s: float = 0.0) -> bool:
        """Tell whether its word about a page is still to come; waits for it so long."""
        with self._changed:
            self._changed.wait_for(lambda: content_sha256 in self._words, timeout_s)
            return content_sha256 in self._cases and content_sha256 not in self._words

    def word(self, content_sha256: str) -> Word | KoboldReaderError | None:
        """Return what it says about a page, or why it cannot read it; None where it says nothing."""
        with self._changed:
            return self._words.get(content_sha256)

    def leave(self, content_sha256: str) -> None:
        """Forget a page."""
        with self._changed:
            self._cases.pop(content_sha256, None)
            self._words.pop(content_sha256, None)

    # ── the thread ───────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        with self._engine, OpenFile(self._ledger, self._options.pdf_passwords) as opened:
            while (content_sha256 := self._next()) is not None:
                self._work(content_sha256, opened)

    def _next(self) -> str | None:
        """Return the page to work on now: texts to compare first, then urgent pages; None: closed."""
        with self._changed:
            while not self._is_closed:
                waiting = [
                    (case.witness is None, not case.is_urgent, number, content)
                    for number, (content, case) in enumerate(self._cases.items())
                    if content not in self._words and (case.witness is None or case.text is not None)
                ]
                if waiting:
                    return min(waiting)[-1]
                self._changed.wait()
        return None

    def _work(self, content_sha256: str, opened: OpenFile) -> None:
        with self._changed:
            case = self._cases.get(content_sha256)
        if case is None:
            return
        place = case.source.path, case.facts.page_number
        word: Word | KoboldReaderError | None = None
        try:
            with of_one_page("reading it with the witness", *place):
                if case.witness is None:
                    case.witness = self._read(case, opened)
                if case.text is not None:
                    word = Word(case.witness, compare(case.text, case.witness, self._looks(case, case.witness, opened)))
        except KoboldReaderError as err:
            if self._is_closed:
                return  # it was interrupted
            log.warning("%s page %d: the witness cannot read it: %s", *place, err)
            word = err
        if word is not None:
            with self._changed:
                if content_sha256 in self._cases:
                    self._words[content_sha256] = word
                    self._changed.notify_all()

    def _read(self, case: _Case, opened: OpenFile) -> Reading:
        source, facts = case.source, case.facts
        kept = self._ledger.reading(facts.content_sha256, "ocr", NAME, self._key)
        if kept is not None:
            return kept
        turn_deg = self._options.rotate_deg
        if turn_deg is None:
            images = upright_images(opened, source, case.file, facts, BUDGET)
        else:
            images = opened.page_images(source, case.file, facts.page_number, BUDGET, turn_deg)
        outcome = self._engine.read(PageJob(source.path, facts.page_number, ("ocr",), images))
        if isinstance(outcome, KoboldReaderError):
            raise outcome
        self._ledger.keep(facts.content_sha256, self._key, outcome)
        return outcome

    def _looks(self, case: _Case, witness: Reading, opened: OpenFile) -> Look:
        """Return what reads lines of a page again, for one comparison.

        The page's image is made anew at its first call, since none is held while the text is awaited.
        """
        turn_deg = (witness.rotation_deg - case.facts.rotation_deg) % 360  # beyond the file's own

        @cache
        def images() -> PageImages:
            return opened.page_images(case.source, case.file, case.facts.page_number, BUDGET, turn_deg)

        def look(places: Sequence[Corners]) -> Sequence[Sequence[str]]:
            try:
                return self._engine.look(images(), places)
            except KoboldReaderError as err:
                log.info("%s page %d: not looked at again: %s", case.source.path, case.facts.page_number, err)
                return ()

        return look

    def close(self) -> None:
        """End the thread, also in the middle of a page; what it has not read stays for another run."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._engine.close()
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def is_installed() -> bool:
    """Tell whether RapidOCR can be imported; does not import it, which takes a second."""
    return all(importlib.util.find_spec(name) for name in ("rapidocr", "onnxruntime"))


def witness_key(options: ReadOptions) -> str:
    """Return the key of the witness's readings, which are those that the engine RapidOCR would make."""
    return replace(options, engine="rapidocr", witness=None, hint=None, family=None, prompts={}).key("ocr")
