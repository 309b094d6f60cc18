"""Runs the command line over and over in processes of its own, each killed at the instant that was asked for.

Started as a process, this has imported everything once and forks for every run: a fork is as mortal as any process and
costs no three seconds of imports. An instant is the end of a call that changes a file: each commit, each call of
Chroma, each rename and removal; what lies between two of them is what the first one left. POSIX only.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from typing_extensions import override

ROOT = Path(__file__).parent.parent
COMMITS = ("COMMIT", "VACUUM", "PRAGMA wal_checkpoint")


@dataclass(frozen=True)
class Ended:
    """How one run ended."""

    code: int
    """Exit code; -9: killed."""
    instants: int
    """How many it had come to."""
    err: str
    """What it said."""


class KilledRuns:
    """Starts runs of `kobold-reader` one after another."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.killed_runs"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )
        assert self._process.stdin
        assert self._process.stdout
        self._to, self._from = self._process.stdin, self._process.stdout

    def run(self, *arguments: object, home: Path, die_at: int = 0, after_s: float = 0.0) -> Ended:
        """Run a command; it is killed at its n-th instant, or after a while."""
        order = {"arguments": [str(one) for one in arguments], "home": str(home), "die_at": die_at, "after_s": after_s}
        self._to.write(json.dumps(order) + "\n")
        self._to.flush()
        code, come_to = json.loads(self._from.readline())
        return Ended(code, come_to, Path(f"{home}.err").read_text(encoding="utf-8"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._to.close()
        self._process.wait(30)
        self._from.close()


class _Clock:
    """Counts instants, and ends the process at one of them."""

    def __init__(self, die_at: int, report: int) -> None:
        self._die_at, self._report = die_at, report
        self._lock = threading.Lock()  # reading and indexing are two threads

    def tick(self) -> None:
        with self._lock:
            os.write(self._report, b".")
            if self._die_at:
                self._die_at -= 1
                if not self._die_at:
                    os.kill(os.getpid(), signal.SIGKILL)

    def around(self, owner: Any, name: str) -> None:
        original = getattr(owner, name)

        @functools.wraps(original)
        def wrapper(*arguments: Any, **options: Any) -> Any:
            answer = original(*arguments, **options)
            self.tick()
            return answer

        setattr(owner, name, wrapper)


def _install(clock: _Clock) -> None:
    from chromadb.api.models.Collection import Collection
    from chromadb.api.rust import RustBindingsAPI

    class Connection(sqlite3.Connection):
        @override
        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            if not sql.startswith(COMMITS):
                return super().execute(sql, *values)
            done = super().execute(sql, *values)
            clock.tick()
            return done

    setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Connection))  # noqa: B010
    for name in ("upsert", "update", "delete"):
        clock.around(Collection, name)
    for name in ("get_or_create_collection", "delete_collection"):
        clock.around(RustBindingsAPI, name)
    clock.around(Path, "rename")
    clock.around(shutil, "rmtree")


def _child(order: dict[str, Any], report: int, run: Callable[[], int]) -> None:
    for name in ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        os.environ[name] = order["home"]
    _install(_Clock(order["die_at"], report))
    if order["after_s"]:
        signal.setitimer(signal.ITIMER_REAL, order["after_s"])
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    sys.argv = ["kobold-reader", *order["arguments"]]
    quiet = os.open(os.devnull, os.O_RDWR)
    os.dup2(quiet, 0)
    os.dup2(quiet, 1)
    os.dup2(os.open(f"{order['home']}.err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os._exit(run())


def _serve() -> None:
    import chromadb.api.client
    import chromadb.api.rust  # noqa: F401
    import llama_index.core  # noqa: F401

    import kobold_reader.archive
    import kobold_reader.demo  # noqa: F401
    from kobold_reader.archive import vectors  # noqa: F401
    from kobold_reader.cli import app as cli
    from kobold_reader.embeddings import KoboldEmbedding  # noqa: F401
    from kobold_reader.reading import koboldcpp  # noqa: F401

    for line in sys.stdin:
        order = json.loads(line)
        come, report = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(come)
            _child(order, report, cli.run)
        os.close(report)
        ticks = 0
        while piece := os.read(come, 4096):
            ticks += len(piece)
        os.close(come)
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(json.dumps([os.waitstatus_to_exitcode(status), ticks]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
