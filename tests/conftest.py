"""What all tests share: a home of their own, no network but loopback, and a KoboldCpp that answers."""

from __future__ import annotations

import functools
import logging
import os
import signal
import socket
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import settings as hypothesis_settings
from typing_extensions import override

from kobold_reader.embeddings import minilm_model
from kobold_reader.kobold import RetryPolicy, pool
from kobold_reader.pages import PageChild
from kobold_reader.reading import open_file, transcriber
from kobold_reader.reading import page_reader as upright
from tests.kobold_simulator import BrainRequest, KoboldSimulator, ScriptBrain
from tests.page_children import LendingRoom

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# As the page child and the command line do: five seconds less to import.
for unused in ("pymupdf.layout", "pymupdf4llm", "rfc3987_syntax"):
    sys.modules[unused] = None  # type: ignore[assignment]

# Where the tests are run in the background these are ignored, and every process that a test starts would ignore them.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "kobold_reader" / "_samples" / "archive"
GROUND_TRUTH = ROOT / "kobold_reader" / "_samples" / "ground_truth"
LETTER = SAMPLES / "letters" / "1954-lindqvist-letter.pdf"

hypothesis_settings.register_profile("dev", max_examples=40, deadline=None)
hypothesis_settings.load_profile("dev")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files of slow tests: the quick ones fill the end, when one of the workers has nothing to do."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@contextmanager
def without_line_reader() -> Iterator[None]:
    """For fixtures of a module, which are made before `no_line_reader` holds."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (upright, open_file):
            patch.setattr(module, "line_reader", lambda: None)
        yield


@pytest.fixture(autouse=True)
def no_line_reader() -> Iterator[None]:
    """As where RapidOCR is not installed, pages are turned only where their picture tells it: a second less a page.

    Tests of turning (test_pages_orientation) and whatever runs in a process of its own have the real one.
    """
    with without_line_reader():
        yield


@pytest.fixture(autouse=True)
def no_witness(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001  (after it has set the environment)
    """No witness reads along, neither here nor in other processes: RapidOCR takes seconds to load.

    A test that names the witness has it.
    """
    monkeypatch.setattr(transcriber, "is_installed", lambda: False)
    monkeypatch.setenv("KOBOLD_READER_WITNESS", "none")


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's cache folder, shared by all workers: MiniLM's graph is built there once."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(autouse=True)
def home(tmp_path: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of the test's own, for every system's way of finding it."""
    folder = tmp_path / "home"
    folder.mkdir()
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(folder))
    for name in ("XDG_DATA_HOME", "LOCALAPPDATA", "APPDATA"):
        monkeypatch.setenv(name, str(folder / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared_cache))
    for name in list(os.environ):
        if name.startswith("KOBOLD_READER_") and name != "KOBOLD_READER_LIVE_URL":
            monkeypatch.delenv(name)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-must-never-be-used")
    return folder


@pytest.fixture(autouse=True)
def quiet_logger() -> Iterator[None]:
    """The command line sets the level of our logger; the next test starts as a library does."""
    logger = logging.getLogger("kobold_reader")
    before = (logger.level, logger.propagate, list(logger.handlers))
    yield
    logger.setLevel(before[0])
    logger.propagate, logger.handlers[:] = before[1], before[2]


OWN_ADDRESSES = {one.address for many in psutil.net_if_addrs().values() for one in many}
"""Of this machine; a cluster of Ray uses the one that others would see."""


@pytest.fixture(autouse=True)
def only_this_machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test talks to anything but this machine (the live suite talks to the server it was given)."""
    if request.node.get_closest_marker("live"):
        return
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        host = address[0] if isinstance(address, tuple) else "local"
        if host not in {"localhost", "local", *OWN_ADDRESSES}:
            pytest.fail(f"a connection to {host} was tried")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True)
def impatient(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between attempts are tested with a clock of their own; everywhere else they only cost time."""
    if request.module.__name__.startswith("tests.test_kobold_") or request.node.get_closest_marker("live"):
        return
    monkeypatch.setattr(pool, "RetryPolicy", functools.partial(RetryPolicy, base_s=0.01, cap_s=0.02))


@pytest.fixture(scope="session", autouse=True)
def lent_children() -> Iterator[None]:
    """All readers of the session borrow their page child; `own_child` takes that back for a test."""
    room = LendingRoom()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_file, "new_child", room.lend)
        yield
    room.close()


class Hasty(sqlite3.Connection):
    """A database that does not wait for the disk at each commit: no test cuts the power.

    That it waits elsewhere is tested in `test_reading_ledger`.
    """

    @override
    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        return super().execute(sql.replace("synchronous=FULL", "synchronous=OFF"), *parameters)


@pytest.fixture(scope="session", autouse=True)
def hasty_databases() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Hasty))
        yield


@pytest.fixture(scope="session", autouse=True)
def kept_vectors() -> Iterator[None]:
    """What archives embed again has the vector that it had: nearly all of them embed the same few pages."""
    kept: dict[str, list[float]] = {}

    def embed(texts: Sequence[str], *model: Any) -> list[list[float]]:
        if any(model):
            return minilm(texts, *model)
        new = [text for text in dict.fromkeys(texts) if text not in kept]
        kept.update(zip(new, minilm(new), strict=True))  # also of no texts: it says if a library is missing
        return [[*kept[text]] for text in texts]

    minilm = minilm_model.embed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(minilm_model, "embed", embed)
        yield


@pytest.fixture
def own_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reader of the test starts its own page child, as outside of the tests."""
    monkeypatch.setattr(open_file, "new_child", PageChild)


@pytest.fixture(scope="module")
def child() -> Iterator[PageChild]:
    """The process in which files are opened, one for all tests of a module."""
    with PageChild(timeout_s=60) as child:
        yield child


def page_text(request: BrainRequest) -> str:
    """A model that says what it was asked, and which image it saw, so that pages can be told apart."""
    if not request.images:
        return "Axel Lindqvist, a page that nobody showed."  # plausible, as a real model's answer is
    width, height = request.images[0].size
    dark = sum(request.images[0].convert("L").resize((8, 8)).tobytes())
    kind = "A page" if "describe" in request.prompt.lower() or "caption" in request.prompt.lower() else "Text of a page"
    return f"{kind} of {width} by {height} pixels with the darkness {dark}. Axel Lindqvist, inventory 1954/37-b."


@pytest.fixture
def make_simulator() -> Iterator[Callable[..., KoboldSimulator]]:
    """Start simulators; all are stopped at the end."""
    started: list[KoboldSimulator] = []

    def make(**options: Any) -> KoboldSimulator:
        options.setdefault("brain", ScriptBrain(page_text))
        options.setdefault("model", "Qwen2.5-VL-7B-Instruct-Q4_K_M")
        simulator = KoboldSimulator(**options)
        simulator.__enter__()
        started.append(simulator)
        return simulator

    yield make
    for simulator in started:
        simulator.__exit__(None, None, None)


@pytest.fixture
def simulator(make_simulator: Callable[..., KoboldSimulator]) -> KoboldSimulator:
    """A KoboldCpp with a Qwen2.5-VL that answers at once."""
    return make_simulator()
