"""How a run over pages ended: what is said about it, and its exit code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from kobold_reader.cli.exit_codes import EXIT_OK, EXIT_PARTIAL, EXIT_SOURCE
from kobold_reader.cli.output import complain, notice
from kobold_reader.cli.wording import spell_count, spell_statuses
from kobold_reader.errors import KoboldReaderError, SourceError
from kobold_reader.pages import TAKEN

SHOWN_ERRORS = 10


@contextmanager
def count_if_interrupted(pages: Mapping[str, int]) -> Iterator[None]:
    """Report the pages by status when a server or Ctrl-C ends the run."""
    try:
        yield
    except (KoboldReaderError, KeyboardInterrupt):
        if any(pages.values()):
            notice(f"until then {spell_statuses(pages)}")
        raise


def notice_pages_left(stop_after: str | None, left_pages: int) -> None:
    """Report the pages that `--stop-after` left for the next run."""
    if stop_after and left_pages:
        notice(f"{spell_count(left_pages, 'page')} left for the next run")


def closing_code(
    errors: Sequence[KoboldReaderError], usable_pages: int, on_error: str, *, nothing_taken: bool = False
) -> int:
    """Name the errors and return the exit code.

    Args:
        errors: Of files and pages.
        usable_pages: Pages that did not fail.
        on_error: As `--on-error` says.
        nothing_taken: The paths held no file of a kind that is taken.
    """
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
    if not usable_pages and all(isinstance(error, SourceError) for error in errors):
        return EXIT_SOURCE
    return EXIT_PARTIAL
