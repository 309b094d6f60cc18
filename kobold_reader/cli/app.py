"""The application: commands, and the one place that turns errors into a sentence and an exit code.

Importing this must stay cheap, since `--help` imports it: commands import what they need when they run.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Final, NoReturn

# Before anything can import onnxruntime or tiktoken: no telemetry, no download.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

EXIT_OK: Final = 0
EXIT_INTERNAL: Final = 1
EXIT_USAGE: Final = 2
EXIT_SOURCE: Final = 3
EXIT_SERVER: Final = 4
EXIT_PARTIAL: Final = 5
EXIT_EXTRA: Final = 6
EXIT_INTERRUPTED: Final = 130


def main() -> NoReturn:
    """Run the command line and exit; see the README for the exit codes."""
    for stream in (sys.stdout, sys.stderr):
        # Windows would write results in the console's code page.
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    try:
        from kobold_reader.cli.typer_app import app
    except ImportError as err:
        if err.name not in {"typer", "rich", "click"}:
            raise
        sys.stderr.write('The command line needs: pip install "kobold-reader[cli]"\n')
        sys.exit(EXIT_EXTRA)
    sys.exit(run(app))


def run(app: object) -> int:
    """Run the application and return its exit code; no traceback for anything a user can cause."""
    import click

    from kobold_reader.cli.output import complain
    from kobold_reader.errors import KoboldReaderError

    try:
        code = app(standalone_mode=False)  # type: ignore[operator]
    except click.exceptions.Abort:
        return _interrupted()
    except click.ClickException as err:
        err.show()
        return err.exit_code
    except KeyboardInterrupt:
        return _interrupted()
    except BrokenPipeError:
        # The reader of our output went away (`| head`): no error, but nothing more can be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except KoboldReaderError as err:
        complain(str(err))
        return exit_code(err)
    return int(code or EXIT_OK)


def _interrupted() -> int:
    from kobold_reader.cli.output import complain

    complain("interrupted; what was read is kept, the same command goes on from here")
    return EXIT_INTERRUPTED


def exit_code(error: Exception) -> int:
    """Return the exit code of an error that ended a command."""
    from kobold_reader import errors

    table: tuple[tuple[type[Exception], int], ...] = (
        (errors.ConfigError, EXIT_USAGE),
        (errors.StoreError, EXIT_USAGE),
        (errors.MissingExtraError, EXIT_EXTRA),
        (errors.SourceError, EXIT_SOURCE),
        (errors.ServerError, EXIT_SERVER),
        (errors.PagesFailedError, EXIT_PARTIAL),
        (errors.TranscriptionError, EXIT_PARTIAL),
    )
    return next((code for kind, code in table if isinstance(error, kind)), EXIT_INTERNAL)


if __name__ == "__main__":
    main()
