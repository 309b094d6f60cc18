"""The application: commands, and the one place that turns errors into a sentence and an exit code.

Importing this must stay cheap, since `--help` imports it: commands import what they need when they run.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import weakref
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NoReturn

from kobold_reader.cli.exit_codes import (
    EXIT_EXTRA,
    EXIT_INTERNAL,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_USAGE,
    exit_code,
)

if TYPE_CHECKING:
    import typer

# Before anything can import onnxruntime or tiktoken: no telemetry, no download.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_AGAIN_S: Final = 0.05


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


def run(app: typer.Typer) -> int:
    """Run the application with the arguments of this process and return its exit code.

    No traceback for anything a user can cause.
    """
    import typer

    from kobold_reader.cli.output import complain
    from kobold_reader.errors import KoboldReaderError

    command = typer.main.get_command(app)
    try:
        with _ended_as_by_ctrl_c():
            # Not `app()`: it turns Ctrl-C and a closed pipe into exits of its own, before they can be told apart here.
            with command.make_context("kobold-reader", sys.argv[1:]) as context:
                code = command.invoke(context)
            sys.stdout.flush()
    except typer.Exit as err:
        return err.exit_code
    except (KeyboardInterrupt, typer.Abort):
        complain("interrupted; what was read is kept, the same command goes on from here")
        return EXIT_INTERRUPTED
    except _usage_error() as err:
        _show_usage(err)
        return EXIT_USAGE
    except KoboldReaderError as err:
        complain(str(err))
        return exit_code(err)
    except BrokenPipeError:
        # The reader of our output went away (`| head`): no error, but nothing more can be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except OSError as err:
        # A full disk, a folder that may not be read: what the library could not name any better.
        complain(f"{err.filename or 'the system'}: {err.strerror or err}")
        return EXIT_INTERNAL
    return int(code or EXIT_OK)


@contextlib.contextmanager
def _ended_as_by_ctrl_c() -> Iterator[None]:
    """Make a logout, `kill`, a shutdown or Ctrl-Break end the command as Ctrl-C does, with its jobs aborted.

    What whoever started us had set aside (`nohup`) stays set aside.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        if _is_finalizer(frame):
            threading.Timer(_AGAIN_S, _send_again, [number]).start()
        else:
            raise KeyboardInterrupt

    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():  # the only one in which Python hears signals
        for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):  # of which each system has some
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) in {signal.SIG_DFL, signal.default_int_handler}:
                before[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _send_again(number: int) -> None:
    """To the main thread itself: else it would sleep on."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:  # Windows
        signal.raise_signal(number)


def _is_finalizer(frame: FrameType | None) -> bool:
    """Whether Python is tidying up just now: what is raised there is printed, and then lost."""
    while frame is not None:
        code = frame.f_code
        of_a_lock = code.co_name == "cb" and "importlib" in code.co_filename
        if code.co_name == "__del__" or code.co_filename == weakref.__file__ or of_a_lock:
            return True
        frame = frame.f_back
    return False


def _usage_error() -> type[Exception]:
    """Return what typer raises for wrong arguments: click's class, or that of the copy it now brings along."""
    import typer

    return next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def _show_usage(error: Exception) -> None:
    """Say what was wrong with the arguments; on a bare `kobold-reader`, show the help."""
    from kobold_reader.cli.output import complain, notice

    message: str = error.format_message()  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        notice(message)
        return
    complain(" ".join(message.split()))
    if context is not None:
        notice(f"`{context.command_path} --help` names all options")


if __name__ == "__main__":
    main()
