"""What a run over pages comes to: counted, said at the end, and turned into an exit code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from kobold_reader.cli.app import EXIT_OK, EXIT_PARTIAL, EXIT_SOURCE
from kobold_reader.cli.output import complain, notice, spell_skipped
from kobold_reader.errors import KoboldReaderError, SourceError
from kobold_reader.pages import Selection
from kobold_reader.reading.ledger import Ledger, default_ledger_path
from kobold_reader.reading.results import PageResult

__all__ = ["Outcome", "closing_code", "summary"]

SHOWN_ERRORS = 10


class Outcome:
    """Counts the pages of one run of `read`."""

    def __init__(self, selection: Selection, ledger: Ledger) -> None:
        self._selection = selection
        self._pages: Counter[str] = Counter()
        self._errors: list[KoboldReaderError] = list(selection.errors)
        self._kept = 0
        if ledger.path == default_ledger_path() and not ledger.count()["files"]:
            notice(f"readings are kept in {ledger.path}")

    def take(self, result: PageResult) -> None:
        """Count one page."""
        self._pages[result.status] += result.page_number > 0
        self._kept += result.is_kept
        self._errors += [result.error] if result.error else list(result.errors.values())

    def end(self, on_error: str) -> int:
        """Say what became of everything, and return the exit code."""
        notice(summary(self._pages, self._kept))
        if self._selection.skipped:
            notice(spell_skipped(self._selection.skipped))
        if not self._selection.files and not self._errors:
            msg = "nothing there is of a kind that is taken (PDF, JPEG, PNG, TIFF, WebP, BMP, GIF)."
            self._errors.append(SourceError(msg))
        return closing_code(self._errors, sum(self._pages.values()) - self._pages["failed"], on_error)


def summary(pages: Mapping[str, int], kept: int) -> str:
    """Return one line on what became of the pages."""
    total = sum(pages.values())
    if not total:
        return "no pages"
    by_status = ", ".join(f"{count} {status}" for status, count in sorted(pages.items()) if count)
    return f"{total} pages: {by_status}" + (f" ({kept} read before)" if kept else "")


def closing_code(errors: Sequence[KoboldReaderError], read_pages: int, on_error: str) -> int:
    """Name the errors and return the exit code."""
    for error in errors[:SHOWN_ERRORS]:
        complain(str(error))
    if len(errors) > SHOWN_ERRORS:
        complain(f"and {len(errors) - SHOWN_ERRORS} more; `kobold-reader status` names all")
    if not errors:
        return EXIT_OK
    if on_error == "raise":
        complain("stopped as --on-error raise asks; what was read is kept")
    if not read_pages and all(isinstance(error, SourceError) for error in errors):
        return EXIT_SOURCE
    return EXIT_PARTIAL
