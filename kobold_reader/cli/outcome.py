"""What a run over pages comes to: counted, said at the end, and turned into an exit code.

Which pages were read with fewer px than the server gives now, as far as its last self-test tells; asks no server.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from kobold_reader.cli.exit_codes import EXIT_OK, EXIT_PARTIAL, EXIT_SOURCE
from kobold_reader.cli.output import complain, notice, spell_count, spell_skipped
from kobold_reader.errors import ConfigError, KoboldReaderError, SourceError
from kobold_reader.pages import TAKEN, ImageBudget, Selection
from kobold_reader.reading.due import is_clearly_lower, would_reach_px
from kobold_reader.reading.koboldcpp import ENGINE_NAME
from kobold_reader.reading.ledger import Ledger, default_ledger_path
from kobold_reader.reading.results import PageResult
from kobold_reader.reading.selftest import SelfTestFile

__all__ = [
    "LowerResolution",
    "Outcome",
    "closing_code",
    "existing_ledger",
    "find_lower",
    "path_of",
    "read_pages",
    "said_if_cut_short",
    "said_if_stopped",
    "spell_lower",
    "summary",
]


@dataclass(frozen=True, slots=True)
class LowerResolution:
    """Pages that `--redo low-resolution` would read again.

    Attributes:
        pages: How many.
        read_px: The most px that any of them was read with, along its longest side.
        now_px: The most px that any of them would be read with.
        server: The server that would give them.
        tested: The day of its self-test; it may have been started otherwise since.
    """

    pages: int
    read_px: int
    now_px: int
    server: str
    tested: str


def find_lower(ledger: Path, urls: Sequence[str]) -> LowerResolution | None:
    """Return what the first of the servers with a remembered self-test would give more; None: nothing."""
    file = SelfTestFile()
    url, found = next(((url, found) for url in urls if (found := file.find(url))), ("", None))
    if found is None or not ledger.is_file():
        return None
    with Ledger(ledger, read_only=True) as opened:
        rows = opened.resolutions(ENGINE_NAME)
    lower = []
    for read_px, width_px, height_px, width_pt, height_pt, pages in rows:
        now_px = would_reach_px(
            (width_px, height_px), (width_pt, height_pt), found.max_side_px, found.max_pixels, ImageBudget().max_dpi
        )
        if is_clearly_lower(read_px, now_px):
            lower.append((read_px, now_px, pages))
    if not lower:
        return None
    return LowerResolution(
        pages=sum(pages for _, _, pages in lower),
        read_px=max(read_px for read_px, _, _ in lower),
        now_px=max(now_px for _, now_px, _ in lower),
        server=url,
        tested=datetime.fromtimestamp(found.tested_s, UTC).date().isoformat(),
    )


def spell_lower(lower: LowerResolution) -> str:
    """Return it as one line, with what to do."""
    were = "was" if lower.pages == 1 else "were"
    return (
        f"{spell_count(lower.pages, 'page')} {were} read at up to {lower.read_px} px; {lower.server} could give "
        f"{lower.now_px} px when it was tested ({lower.tested}): --redo low-resolution"
    )


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
