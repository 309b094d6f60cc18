"""How a run over pages ended: its messages and exit code, and the pages that could be read at a higher resolution."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from typing_extensions import override

from kobold_reader.cli.exit_codes import EXIT_OK, EXIT_PARTIAL, EXIT_SOURCE
from kobold_reader.cli.options import LEDGER_VARIABLE, RapidOcrAgreed, ReadingOptions
from kobold_reader.cli.output import complain, notice, program_to_type
from kobold_reader.errors import (
    ConfigError,
    KoboldReaderError,
    NoServerAvailableError,
    NoVisionModelError,
    ServerError,
    SourceError,
    quoted,
)
from kobold_reader.pages import TAKEN, ImageBudget
from kobold_reader.progress import PageProgress, spell_count, spell_statuses
from kobold_reader.reading.due import is_clearly_lower, would_reach_px
from kobold_reader.reading.ledger import Ledger, default_ledger_path
from kobold_reader.reading.remembered import SelfTestFile
from kobold_reader.reading.results import PageResult

if TYPE_CHECKING:
    from kobold_reader.session import ReadSession


def existing_ledger(given: str | None) -> Path | None:
    """Return the ledger given, else that of the environment, else the default one; None where nothing has been kept.

    Raises:
        ConfigError: The ledger given does not exist.
    """
    name = given or os.environ.get(LEDGER_VARIABLE)
    if name == "none":
        return None
    path = Path(name) if name else default_ledger_path()
    if path.is_file():
        return path
    if path.is_dir():
        raise ConfigError(f"{name} is a folder, and a ledger is a file.", hint="Name a file with --ledger.")
    if given:
        hint = "Name another one with --ledger; left out, it is the default one."
        raise ConfigError(f"there is no ledger {given}.", hint=hint)
    return None


@dataclass(frozen=True, slots=True)
class LowerResolution:
    """Pages that `--redo low-resolution` would read again, in the form that `status --json` prints."""

    pages: int
    read_px: int
    """Longest side of the largest image that one of them was read with."""
    now_px: int
    """Longest side of the largest image that one of them would be read with now."""
    server: str
    tested: str
    """Day of the server's self-test; it may have been started with other settings since."""

    @override
    def __str__(self) -> str:
        were = "was" if self.pages == 1 else "were"
        return (
            f"{spell_count(self.pages, 'page')} {were} read at up to {self.read_px} px; {self.server} could give "
            f"{self.now_px} px when it was tested ({self.tested}): --redo low-resolution"
        )


def find_lower_resolution(ledger: Path, urls: Sequence[str]) -> LowerResolution | None:
    """Compare a ledger's pages with the kept self-test of the first server that has one; ask no server."""
    file = SelfTestFile()
    url, tested = next(((url, found) for url in urls if (found := file.find(url))), ("", None))
    if tested is None or not ledger.is_file():
        return None
    with Ledger(ledger, read_only=True) as opened:
        rows = opened.resolutions("koboldcpp")
    budget = ImageBudget(max_side_px=tested.max_side_px, max_pixels=tested.max_pixels)
    lower = []
    for read_px, width_px, height_px, width_pt, height_pt, pages in rows:
        now_px = would_reach_px((width_px, height_px), (width_pt, height_pt), budget)
        if is_clearly_lower(read_px, now_px):
            lower.append((pages, read_px, now_px))
    if not lower:
        return None
    pages_of_size, read_px_of_size, now_px_of_size = zip(*lower, strict=True)
    tested_day = datetime.fromtimestamp(tested.tested_s, UTC).date().isoformat()
    return LowerResolution(sum(pages_of_size), max(read_px_of_size), max(now_px_of_size), url, tested_day)


def offer_rapidocr(session: ReadSession, progress: PageProgress) -> None:
    """Ask on a terminal whether RapidOCR may read, where no KoboldCpp answers; for commands that need one now.

    Raises:
        RapidOcrAgreed: The user agreed.
    """
    is_terminal = sys.stdin.isatty() and sys.stderr.isatty()
    if not is_terminal or find_spec("rapidocr") is None or not session.is_unanswered():
        return
    progress.pause()  # it would be drawn over the question
    notice(f"No KoboldCpp answers at {', '.join(session.options.api_url)}.")
    if typer.confirm("Read with RapidOCR instead? Printed text, no captions", default=True, err=True):
        raise RapidOcrAgreed


@contextmanager
def saying_ways_on(options: ReadingOptions) -> Iterator[None]:
    """Add the ways on to an error that no server can be used."""
    try:
        yield
    except ServerError as err:
        add_ways_on(err, options)
        raise


def add_ways_on(error: ServerError, options: ReadingOptions) -> None:
    """Add the command that reads without a server to the error that none can be used."""
    if isinstance(error, NoServerAvailableError | NoVisionModelError) and options.engine == "koboldcpp":
        command = f"{program_to_type()} {quoted([*_without_secrets(sys.argv[1:]), '--engine', 'rapidocr'])}"
        ways = f"Then run the same command again. Or read printed text without a server: {command}"
        error.hint = f"{error.hint} {ways}" if error.hint else ways


def _without_secrets(arguments: Iterable[str]) -> Iterator[str]:
    """Yield the arguments of a command, without what names the server, and with dots for passwords of files."""
    values = iter(arguments)
    for one in values:
        name, has_value, _ = one.partition("=")
        if name in {"--api-url", "--api-password", "--api-password-file"}:
            _ = has_value or next(values, "")
        elif name == "--pdf-password":
            _ = has_value or next(values, "")
            yield "--pdf-password=…"
        else:
            yield one


def name_due(due: Sequence[PageResult]) -> None:
    """Name the pages that are still due because no engine could be used, file by file."""
    by_file: dict[str, list[int]] = {}
    for result in due:
        by_file.setdefault(result.source.path, []).append(result.page_number)
    for path, numbers in list(by_file.items())[:10]:
        complain(f"still due: {path} page {', '.join(map(str, numbers[:20]))}{', …' if len(numbers) > 20 else ''}")  # noqa: PLR2004
    if len(by_file) > 10:  # noqa: PLR2004
        complain(f"still due: pages of {spell_count(len(by_file) - 10, 'file')} more")


@contextmanager
def count_if_interrupted(pages: Mapping[str, int], due: Sequence[PageResult]) -> Iterator[None]:
    """Report the pages by status, and name those that still need a reader, when a server or Ctrl-C ends the run."""
    try:
        yield
    except (KoboldReaderError, KeyboardInterrupt):
        if sum(pages.values()) > len(due):
            notice(f"so far {spell_statuses(pages)}")
        name_due(due)
        raise


def notice_no_such_pages(
    asked: str | None, pages: Mapping[str, int], errors: Sequence[KoboldReaderError], files: int
) -> None:
    """Say so where `--pages` names pages that no file has."""
    if asked and files and not errors and not sum(pages.values()):
        notice(f"--pages {asked}: none of the {spell_count(files, 'file')} has such a page")


def notice_pages_left(stop_after: str | None, left_pages: int) -> None:
    """Report the pages that `--stop-after` left for the next run."""
    if stop_after and left_pages:
        notice(f"{spell_count(left_pages, 'page')} left for the next run")


def closing_code(
    errors: Sequence[KoboldReaderError],
    usable_pages: int,
    on_error: str,
    *,
    named_by: str | None,
    taken_of: Mapping[str, int] | None = None,
) -> int:
    """Report the errors of files and pages, and return the exit code.

    Args:
        errors: One for each file or page that failed.
        usable_pages: Those that did not fail.
        on_error: As in `ReadOptions`.
        named_by: What to type to see all errors; None: nothing does, so all are named here.
        taken_of: The files that were not taken, by ending, where none was taken.
    """
    if taken_of is not None and not errors:
        count = sum(taken_of.values())
        found = f"{spell_count(count, 'file')} there, none of a supported kind" if count else "no files there"
        complain(f"nothing to read: {found}. Supported: {TAKEN}")
        return EXIT_SOURCE
    shown = errors[:10] if named_by else errors
    for error in shown:
        complain(str(error))
    if more := len(errors) - len(shown):
        complain(f"and {more} more; to see all: {named_by}")
    if not errors:
        return EXIT_OK
    if on_error == "raise":
        complain("failed, as --on-error raise asks; all other pages were read")
    if not usable_pages and all(isinstance(error, SourceError) for error in errors):
        return EXIT_SOURCE
    return EXIT_PARTIAL
