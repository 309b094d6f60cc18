"""The exit codes of the command line, as docs/commands.md lists them."""

from __future__ import annotations

from kobold_reader import errors

EXIT_OK = 0
EXIT_INTERNAL = 1
EXIT_USAGE = 2
EXIT_SOURCE = 3
EXIT_SERVER = 4
EXIT_PARTIAL = 5
EXIT_EXTRA = 6
EXIT_INTERRUPTED = 130


def exit_code(error: Exception) -> int:
    """Return the exit code of an error that ended a command."""
    match error:
        case errors.ConfigError() | errors.StoreError() | errors.LedgerError():
            return EXIT_USAGE
        case errors.MissingExtraError():
            return EXIT_EXTRA
        case errors.SourceError():
            return EXIT_SOURCE
        case errors.ServerError():
            return EXIT_SERVER
        case errors.PagesFailedError() | errors.TranscriptionError():
            return EXIT_PARTIAL
    return EXIT_INTERNAL
