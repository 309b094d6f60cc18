"""What a run over pages comes to: counted, said at the end, and turned into an exit code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from kobold_reader.cli.app import EXIT_OK, EXIT_PARTIAL, EXIT_SOURCE
from kobold_reader.cli.output import complain, notice, spell_count, spell_skipped
from kobold_reader.errors import ConfigError, KoboldReaderError, SourceError
from kobold_reader.pages import TAKEN, Selection
from kobold_reader.reading.ledger import Ledger, default_ledger_path
from kobold_reader.reading.results import PageResult

__all__ = [
    "Outcome",
    "closing_code",
    "existing_ledger",
    "path_of",
    "read_pages",
    "said_if_cut_short",
    "said_if_stopped",
    "summary",
]

SHOWN_ERRORS = 10


class Outcome:
    """Counts the pages of one run of `read`."""

    def __init__(self, selection: Selection, ledger: Ledger) -> None:
        self._selection = selection
        self.pages: Counter[str] = Counter()
        self._errors: list[KoboldReaderError] = list(selection.errors)
        self._kept = 0
        if ledger.path == default_ledger_path() and not ledger.count()["files"]:
            notice(f"readings are kept in {ledger.path}")

    def take(self, result: PageResult) -> None:
        """Count one page."""
        self.pages[result.status] += result.page_number > 0
        self._kept += result.is_kept
        self._errors += [result.error] if result.error else list(result.errors.values())

    def end(self, on_error: str) -> int:
        """Say what became of everything, and return the exit code."""
        notice(summary(self.pages, self._kept))
        if self._selection.skipped:
            notice(spell_skipped(self._selection.skipped))
        return closing_code(self._errors, read_pages(self.pages), on_error, nothing_taken=not self._selection.files)


def read_pages(pages: Mapping[str, int]) -> int:
    """Return how many pages did not fail."""
    return sum(count for status, count in pages.items() if status != "failed")


def existing_ledger(name: str | None) -> Path | None:
    """Return the ledger named, or the default one; None where nothing has been kept.

    Raises:
        ConfigError: A ledger that was named is not there.
    """
    if name == "none":
        return None
    place = Path(name) if name else default_ledger_path()
    if place.is_file():
        return place
    if name:
        msg = f"there is no ledger {name}."
        raise ConfigError(msg)
    return None


def path_of(uri: str) -> str:
    """Return a local file's URI as its path; other URIs as they are."""
    if not uri.startswith("file:"):
        return uri
    return url2pathname(urlsplit(uri).path)


@contextmanager
def said_if_cut_short(pages: Mapping[str, int]) -> Iterator[None]:
    """Say how far a run came when a server or Ctrl-C ends it."""
    try:
        yield
    except (KoboldReaderError, KeyboardInterrupt):
        if any(pages.values()):
            notice(f"until then {summary(pages, 0)}")
        raise


def said_if_stopped(stop_after: str | None, left_pages: int) -> None:
    """Say what `--stop-after` left; nothing where the time was enough."""
    if stop_after and left_pages:
        notice(f"{spell_count(left_pages, 'page')} left for the next run")


def summary(pages: Mapping[str, int], kept: int) -> str:
    """Return one line on what became of the pages."""
    total = sum(pages.values())
    if not total:
        return "no pages"
    by_status = ", ".join(f"{count} {status}" for status, count in sorted(pages.items()) if count)
    return f"{spell_count(total, 'page')}: {by_status}" + (f" ({kept} read before)" if kept else "")


def closing_code(
    errors: Sequence[KoboldReaderError], read_pages: int, on_error: str, *, nothing_taken: bool = False
) -> int:
    """Name the errors and return the exit code."""
    if nothing_taken and not errors:
        complain(f"nothing there is of a kind that is taken: {TAKEN}")
        return EXIT_SOURCE
    for error in errors[:SHOWN_ERRORS]:
        complain(str(error))
    if len(errors) > SHOWN_ERRORS:
        complain(f"and {len(errors) - SHOWN_ERRORS} more; `kobold-reader status` names all")
    if not errors:
        return EXIT_OK
    if on_error == "raise":
        complain("failed, as --on-error raise asks; all other pages were read")
    if not read_pages and all(isinstance(error, SourceError) for error in errors):
        return EXIT_SOURCE
    return EXIT_PARTIAL
