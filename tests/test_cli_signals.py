"""Signals that end a command, and generators that nobody closed; no server is needed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from kobold_reader.cli.app import interrupted_by_signals
from tests.conftest import ROOT

NAMES = [name for name in ("SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]


@pytest.mark.parametrize("name", NAMES)
def test_a_signal_ends_a_command_as_ctrl_c_does_and_only_while_it_runs(name: str) -> None:
    number = getattr(signal, name)
    assert signal.getsignal(number) is signal.SIG_DFL
    with pytest.raises(KeyboardInterrupt), interrupted_by_signals():
        signal.raise_signal(number)
    assert signal.getsignal(number) is signal.SIG_DFL


def test_ctrl_c_that_a_library_turns_into_an_error_of_its_own_is_still_ctrl_c() -> None:
    def library() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise AttributeError("'NoneType' object has no attribute '_flags'") from None

    with pytest.raises(KeyboardInterrupt), interrupted_by_signals():
        library()
    with pytest.raises(AttributeError), interrupted_by_signals():
        raise AttributeError("a fault of ours stays one")


@pytest.mark.parametrize("name", NAMES)
def test_what_was_set_aside_stays_set_aside(name: str) -> None:
    """As by `nohup`."""
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with interrupted_by_signals():
            signal.raise_signal(number)
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


class Tidied:
    """What is told to end just while Python tidies it up."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __del__(self) -> None:
        signal.raise_signal(getattr(signal, self._name))


@pytest.mark.parametrize("name", ["SIGINT", *NAMES])
def test_a_signal_that_comes_while_python_tidies_up_is_not_lost(name: str) -> None:
    """What is raised in a finalizer is printed and forgotten; the command would have gone on."""
    before = signal.getsignal(getattr(signal, name))

    def command() -> None:
        with interrupted_by_signals():
            Tidied(name)
            time.sleep(30)

    started_s = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        command()
    assert time.monotonic() - started_s < 20
    assert signal.getsignal(getattr(signal, name)) is before


ABANDONED = """
import sys, threading
from kobold_reader.reading.pipeline import InOrder
ended = threading.Event()
def stop():
    ended.set()
def work(number):
    if number:
        ended.wait()
        sys.stdout.write(f"{number} aborted. ")
    return number
results = iter(InOrder(iter(range(9)), work, workers=2, few=4, many=9, key=lambda n: n, goes_on=lambda: True,
                       on_close=stop))
for result in results:
    raise LookupError("the consumer failed")
"""


def test_a_program_that_fails_while_it_consumes_ends_its_workers_and_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ABANDONED],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=100,
        check=False,
    )
    assert done.returncode == 1
    assert b"LookupError: the consumer failed" in done.stderr
    assert b"Fatal" not in done.stderr
    assert b"aborted." in done.stdout
