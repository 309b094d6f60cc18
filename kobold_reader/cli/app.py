"""The command line: all commands, and the one place that turns an error into a message and an exit code.

Importing this must stay cheap, as `--help` imports it: commands import what they need when they run.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import signal
import sys
import threading
import weakref
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from kobold_reader.cli.exit_codes import EXIT_INTERNAL, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, exit_code
from kobold_reader.cli.options import option_of
from kobold_reader.cli.output import complain, notice, say, show_log
from kobold_reader.errors import ConfigError, KoboldReaderError, reason

# Set before anything can import onnxruntime or tiktoken: no telemetry, no download.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

COMMANDS = (
    *("demo", "plan", "read", "index", "search", "ask", "web", "mcp", "status", "doctor", "models"),
    *("export", "import_", "sidecars", "forget"),
)
"""In the order of the help; each is a module and a function of `cli/commands`."""


def make_app(commands: Iterable[str] = COMMANDS, *, without_options: bool = False) -> typer.Typer:
    """Return the application with these commands; without their options it is made in half the time."""
    app = typer.Typer(
        name="kobold-reader",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(options)
    for name in commands:
        function = getattr(importlib.import_module(f"kobold_reader.cli.commands.{name}"), name)
        app.command(name.rstrip("_"), help=function.__doc__)(_unasked if without_options else function)
    return app


def _unasked() -> None:
    """Stand in for a command of which only the name and the help are shown."""


def _print_version(wanted: bool) -> None:
    if wanted:
        from kobold_reader.release import RELEASE

        say(f"kobold-reader {RELEASE}")
        raise typer.Exit


def options(
    *,
    verbose: Annotated[
        int,
        typer.Option("-v", "--verbose", count=True, show_default=False, help="Say more on stderr; twice: everything."),
    ] = 0,
    version: Annotated[  # noqa: ARG001  (its callback acts)
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="The version.")
    ] = False,
) -> None:
    """Make private scanned archives searchable on your own machine, with KoboldCpp."""
    show_log(verbose)


def main() -> NoReturn:
    """Run the command line and exit; docs/commands.md lists the exit codes."""
    # Chroma imports jsonschema, which imports this where Jupyter brought it and compiles a grammar that nothing here
    # needs: two seconds of processor time.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    _open_missing_streams()
    for stream in (sys.stdout, sys.stderr):
        # Windows would write results in the console's code page.
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    sys.exit(run())


def _open_missing_streams() -> None:
    """Open the null device for what this process was started without: closed by its parent, or by pythonw.

    In this order the system gives it the very number that is missing. A file would get that number otherwise, and with
    it what a library writes to stderr.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: PTH123, SIM115  (open until the end)
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


def run() -> int:
    """Run the application with the arguments of this process and return its exit code.

    Nothing that a user can cause ends in a traceback.
    """
    # typer brings its own copy of click, or uses the one installed.
    usage_error: type[Exception] = next(
        kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
    )
    # typer looks at every option of every command that it is given; the one that is named is enough.
    named = [name for name in COMMANDS if sys.argv[1:2] == [name.rstrip("_")]]
    is_overview = sys.argv[1:] in ([], ["--help"])
    command = typer.main.get_command(make_app(named or COMMANDS, without_options=is_overview))
    try:
        with interrupted_by_signals():
            # `app()` itself exits on Ctrl-C and on a closed pipe, and they could not be told apart here.
            with command.make_context("kobold-reader", sys.argv[1:]) as context:
                code = command.invoke(context)
            sys.stdout.flush()
    except typer.Exit as err:
        return err.exit_code
    except (KeyboardInterrupt, typer.Abort):
        complain("interrupted. What was read is kept; the same command continues from here.")
        return EXIT_INTERRUPTED
    except usage_error as err:
        _explain_usage(err)
        return EXIT_USAGE
    except KoboldReaderError as err:
        if isinstance(err, ConfigError) and err.argument:
            err.argument = option_of(err.argument)
        complain(str(err))
        return exit_code(err)
    except BrokenPipeError:
        # The program that read our output has ended (`| head`). That is no error, but no more can be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except (PermissionError, IsADirectoryError, NotADirectoryError) as err:
        hint = "Name another place, or change the rights there."
        complain(f"{err.filename or 'a file'} cannot be used ({reason(err)}). {hint}")
        return EXIT_USAGE
    except OSError as err:  # for example a full disk
        complain(f"{err.filename or 'the system'}: {reason(err)}")
        return EXIT_INTERNAL
    return int(code or EXIT_OK)


_IN_PLAIN_WORDS = {
    r"Missing option '--archive' .*'(\w+)'\)": r"name the archive's folder with --archive DIR, or in the variable \1",
    r" \(env var: '\w+'\)": "",
    r"Value error, ": "",
    r"Input should be a valid integer\b.*": "it must be a whole number",
    r"Input should be a valid number\b.*": "it must be a number",
    r"Input should be a finite number": "it must be a number",
    r"Input should be greater than or equal to (\S+)": r"it must be \1 or more",
    r"Input should be less than or equal to (\S+)": r"it must be \1 or less",
}
"""What typer says of wrong arguments, and pydantic, which checks the values of options for it."""


def _explain_usage(error: Any) -> None:
    """Report what was wrong with the arguments; on a bare `kobold-reader`, show the help."""
    message: str = error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":
        notice(message)
        return
    for theirs, ours in _IN_PLAIN_WORDS.items():
        message = re.sub(theirs, ours, message)
    complain(" ".join(message.split()))
    if error.ctx is not None:
        what = "options" if error.ctx.parent else "commands"
        notice(f"`{error.ctx.command_path} --help` lists all {what}")


# ── signals ──────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Let a logout, `kill`, a shutdown or Ctrl-Break end the command as Ctrl-C does, with its jobs aborted.

    A signal that the parent process chose to ignore (`nohup`) stays ignored.
    """
    was_interrupted = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal was_interrupted
        if _is_finalizer(frame):
            threading.Timer(0.05, _send_again, [number]).start()
        else:
            was_interrupted = True
            raise KeyboardInterrupt

    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():  # Python handles signals in this thread only
        for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):  # no system has all of them
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) in {signal.SIG_DFL, signal.default_int_handler}:
                before[number] = signal.signal(number, interrupt)
    try:
        yield
    except Exception as err:
        # A library may have made an error of its own of the KeyboardInterrupt: omegaconf does, while it is imported.
        if was_interrupted:
            raise KeyboardInterrupt from err
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _send_again(number: int) -> None:
    if hasattr(signal, "pthread_kill"):
        # Sent to the process, it would not wake the main thread from a sleep.
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:  # Windows
        signal.raise_signal(number)


def _is_finalizer(frame: FrameType | None) -> bool:
    """Tell whether Python runs a finalizer now: its exceptions are printed and then lost."""
    while frame is not None:
        code = frame.f_code
        is_lock_callback = code.co_name == "cb" and "importlib" in code.co_filename
        if code.co_name == "__del__" or code.co_filename == weakref.__file__ or is_lock_callback:
            return True
        frame = frame.f_back
    return False


if __name__ == "__main__":
    main()
