"""The fault matrix: what each failure of a server costs, and that it costs no other page anything.

Five pages, each of a width of its own, so that the simulated model can say which one it saw. A fault strikes the first,
the middle and the last of them: once each (it passes) or at every request (it lasts). Every row states the requests for
a struck page, the seconds waited between them, and what becomes of it; every other page must arrive under its own
number with its own text, asked for once.
"""

from __future__ import annotations

import functools
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from kobold_reader.errors import (
    AuthenticationError,
    BadRequestError,
    EmptyTranscriptionError,
    ImageNotSeenError,
    KoboldReaderError,
    NoServerAvailableError,
    NoVisionModelError,
    ResponseFormatError,
    ServerBusyError,
    ServerConnectionError,
    ServerStatusError,
    ServerTimeoutError,
)
from kobold_reader.kobold import RetryPolicy, ServerPool
from kobold_reader.kobold.client import KoboldClient
from kobold_reader.kobold.pool import OWN_LOCK_WAIT_S
from kobold_reader.options import ReadOptions
from kobold_reader.pages import select
from kobold_reader.reading.attempts import RETRY_TEMPERATURES
from kobold_reader.reading.koboldcpp import KoboldEngine
from kobold_reader.reading.ledger import Ledger
from kobold_reader.reading.page_reader import LocalPageReader
from kobold_reader.reading.results import PageResult
from kobold_reader.reading.transcriber import Transcriber
from tests.kobold_simulator import BrainRequest, Fault, KoboldSimulator, RecordedRequest, ScriptBrain

pytestmark = pytest.mark.slow

MakeSimulator = Callable[..., KoboldSimulator]

WIDTHS_PX = (280, 308, 336, 364, 392)
PAGES = (1, 2, 3, 4, 5)
STRUCK = (1, 3, 5)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five scans; the number of each can be told by its width."""
    folder = tmp_path_factory.mktemp("scans")
    paths = []
    for number, width_px in enumerate(WIDTHS_PX, start=1):
        image = Image.new("L", (width_px, 420), 250)
        draw = ImageDraw.Draw(image)
        for line in range(20, 400, 24):
            draw.text((12, line), f"page {number} Dear Axel, the slates", fill=10)
        paths.append(folder / f"{number}.png")
        image.save(paths[-1])
    return paths


def text_of(number: int) -> str:
    return f"This is page {number}. Dear Axel, the slates came on Tuesday."


def page_of(width_px: int) -> int:
    return WIDTHS_PX.index(width_px) + 1


def read_it(request: BrainRequest) -> str:
    return text_of(page_of(request.images[0].width)) if request.images else "A page that nobody showed."


def asked_page(request: RecordedRequest) -> int | None:
    """The page that a request for text is about."""
    if not request.path.endswith("/api/v1/generate") or not isinstance(request.body, dict):
        return None
    images = request.body.get("images") or [None]
    size = images[0]["size"] if isinstance(images[0], dict) else None
    return page_of(size[0]) if size else None


class Run:
    """One run over the pages, against simulated servers, that never sleeps between attempts."""

    def __init__(
        self,
        servers: list[KoboldSimulator],
        files: list[Path],
        folder: Path,
        *,
        page_timeout_s: float | None = None,
        connect_timeout_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        policy: RetryPolicy | None = None,
        urls: tuple[str, ...] = (),
        on_result: Callable[[PageResult], None] | None = None,
    ) -> None:
        self.servers = servers
        self.waits: list[float] = []
        self.results: list[PageResult] = []
        self.error: KoboldReaderError | None = None
        pool = ServerPool(
            [*urls, *(server.url for server in servers)],
            policy=policy or RetryPolicy(),  # as users have it
            sleep=self.waits.append,
            clock=clock,
            lock_dir=folder / "locks",
            random=lambda: 0.0,
            make_client=lambda url: KoboldClient(url, clock=clock, connect_timeout_s=connect_timeout_s),
        )
        engine = KoboldEngine(pool, ReadOptions(page_timeout_s=page_timeout_s))
        try:
            with Ledger(folder / "ledger.sqlite") as ledger:
                pages = LocalPageReader(engine, None)
                for result in Transcriber(pages, ledger, ReadOptions(tasks=("ocr",), rotate=0)).run(
                    select(files).files
                ):
                    self.results.append(result)
                    if on_result:
                        on_result(result)
        except KoboldReaderError as err:
            self.error = err
        finally:
            engine.close()

    @property
    def waited_s(self) -> float:
        """Seconds that a user would have waited between attempts."""
        return round(sum(self.waits), 3)

    def requests(self, page: int) -> int:
        """How many requests for text were about this page, at all servers."""
        return sum(asked_page(request) == page for server in self.servers for request in server.requests)

    def of(self, page: int) -> PageResult:
        return next(result for result in self.results if result.source.name == f"{page}.png")

    def check(self, good: Iterable[int], *, requests: int | None = 1) -> None:
        """These pages arrived under their own numbers, and all pages in order, each once."""
        for number in good:
            result = self.of(number)
            assert (result.status, result.text) == ("ok", text_of(number)), result.error
            assert requests is None or self.requests(number) == requests
        names = [result.source.name for result in self.results]
        assert names == sorted(set(names)), "page order, every page once"


def strike(servers: list[KoboldSimulator], pages: Iterable[int], fault: Fault, *, times: int | None) -> None:
    """Let the fault strike so many requests for each of the pages, whichever server gets them; None: all of them."""
    lock, struck = threading.Lock(), Counter[int | None]()
    chosen = frozenset(pages)

    def when(request: RecordedRequest) -> Fault | None:
        page = asked_page(request)
        if page not in chosen:
            return None
        with lock:
            struck[page] += 1
            return fault if times is None or struck[page] <= times else None

    for server in servers:
        server.fault_when = when


@dataclass(frozen=True)
class Row:
    """One kind of failure.

    Attributes:
        fault: What happens.
        passes: Requests for a page that is struck once, and seconds waited; None: it is an error at once.
        error: What a page ends as that is struck at every request.
        lasts: Requests for it, and seconds waited, with one server.
        rounds: How often that is repeated with three servers: where the server may be to blame, others are tried.
    """

    fault: Fault
    passes: tuple[int, float] | None
    error: type[KoboldReaderError]
    lasts: tuple[int, float]
    rounds: int = 1


LOST_S = 1.0 + 2.0 + 4.0  # between four attempts at one server; each server is tried twice at most by one page
MATRIX = {
    "closed without an answer": Row(Fault.CLOSE, (2, 1.0), ServerConnectionError, (8, 2 * LOST_S), rounds=2),
    "reset": Row(Fault.RESET, (2, 1.0), ServerConnectionError, (8, 2 * LOST_S), rounds=2),
    "reset in the body": Row(Fault.RESET_BODY, (2, 1.0), ServerConnectionError, (8, 2 * LOST_S), rounds=2),
    "wrong Content-Length": Row(Fault.WRONG_LENGTH, (2, 1.0), ServerConnectionError, (8, 2 * LOST_S), rounds=2),
    "truncated JSON": Row(Fault.TRUNCATED_JSON, (2, 1.0), ResponseFormatError, (2, 1.0), rounds=3),
    "HTML with 200": Row(Fault.HTML, (2, 1.0), ResponseFormatError, (2, 1.0), rounds=3),
    "null": Row(Fault.NULL, (2, 1.0), ResponseFormatError, (2, 1.0), rounds=3),
    "not UTF-8": Row(Fault.NOT_UTF8, (2, 1.0), ResponseFormatError, (2, 1.0), rounds=3),
    "endless": Row(Fault.ENDLESS, (2, 1.0), ResponseFormatError, (2, 1.0), rounds=3),
    "finish_reason error": Row(Fault.ERROR, (2, 1.0), ResponseFormatError, (2, 1.0), rounds=3),
    "empty text": Row(Fault.EMPTY_TEXT, (2, 0.0), EmptyTranscriptionError, (1 + len(RETRY_TEMPERATURES), 0.0)),
    "image dropped": Row(Fault.DROP_IMAGES, None, ImageNotSeenError, (1, 0.0), rounds=3),
    "500 bad input": Row(Fault.BAD_INPUT, None, BadRequestError, (1, 0.0)),
    "500": Row(Fault.reply(500, "oops"), None, ServerStatusError, (1, 0.0)),
    "503 busy": Row(Fault.BUSY, (2, 1.0), ServerBusyError, (0, 0.0)),
    "503 rate limit": Row(Fault.rate_limit(9), (2, 9.0), ServerBusyError, (0, 0.0)),
}


@pytest.fixture(params=[1, 3], ids=["one server", "three servers"])
def servers(request: pytest.FixtureRequest, make_simulator: MakeSimulator) -> list[KoboldSimulator]:
    """One server or three, all of the same model."""
    return [make_simulator(brain=ScriptBrain(read_it)) for _ in range(request.param)]


@pytest.mark.parametrize(
    "servers",
    [pytest.param(1, id="one server"), pytest.param(3, id="three servers", marks=pytest.mark.thorough)],
    indirect=True,
)
@pytest.mark.parametrize("name", [name for name, row in MATRIX.items() if row.passes])
def test_a_fault_that_passes_costs_one_request(
    servers: list[KoboldSimulator], files: list[Path], tmp_path: Path, name: str
) -> None:
    row = MATRIX[name]
    strike(servers, STRUCK, row.fault, times=1)
    run = Run(servers, files, tmp_path)
    assert run.error is None
    run.check(set(PAGES) - set(STRUCK))
    assert row.passes is not None
    requests, waited_s = row.passes
    run.check(STRUCK, requests=requests)
    # A server that refuses right after its answer to us is asked again very soon.
    short = run.waits.count(OWN_LOCK_WAIT_S) if row.fault is Fault.BUSY else 0
    assert run.waited_s == round(short * OWN_LOCK_WAIT_S + (len(STRUCK) - short) * waited_s, 3)


@pytest.mark.parametrize("name", [name for name, row in MATRIX.items() if row.lasts[0]])
def test_a_fault_that_lasts_costs_its_page_alone(
    servers: list[KoboldSimulator], files: list[Path], tmp_path: Path, name: str
) -> None:
    row = MATRIX[name]
    # Several servers may end three struck pages in a row, and then they, not the pages, count as broken.
    struck = STRUCK if len(servers) == 1 else STRUCK[::2]
    strike(servers, struck, row.fault, times=None)
    run = Run(servers, files, tmp_path)
    assert run.error is None
    run.check(set(PAGES) - set(struck))
    requests, waited_s = row.lasts
    rounds = row.rounds if len(servers) > 1 else 1
    for page in struck:
        failed = run.of(page)
        assert failed.status == "failed"
        assert isinstance(failed.error, row.error)
        assert f"{page}.png" in str(failed.error), "the error names its file"
        assert run.requests(page) == requests * rounds
    assert run.waited_s == waited_s * rounds * len(struck)


# ── what ends a run ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("page", STRUCK)
@pytest.mark.parametrize(
    ("fault", "error"), [(Fault.NO_VISION, NoVisionModelError), (Fault.UNAUTHORIZED, AuthenticationError)]
)
def test_a_server_that_cannot_read_at_all_ends_the_run(
    simulator: KoboldSimulator,
    files: list[Path],
    tmp_path: Path,
    fault: Fault,
    error: type[KoboldReaderError],
    page: int,
) -> None:
    simulator.brain = ScriptBrain(read_it)
    strike([simulator], PAGES[page - 1 :], fault, times=None)
    run = Run([simulator], files, tmp_path)
    assert isinstance(run.error, error)
    assert [result.is_due for result in run.results] == [number >= page for number in PAGES]
    run.check(PAGES[: page - 1])
    assert run.requests(page) == 1
    simulator.fault_when = None
    again = Run([simulator], files, tmp_path)
    assert again.error is None
    again.check(PAGES, requests=None)
    assert again.requests(page) == 2
    assert all(again.requests(before) == 1 for before in PAGES[: page - 1]), "what was read is kept"


@pytest.mark.parametrize("page", STRUCK)
def test_the_only_server_dies(simulator: KoboldSimulator, files: list[Path], tmp_path: Path, page: int) -> None:
    simulator.brain = ScriptBrain(read_it)

    def die(request: RecordedRequest) -> Fault | None:
        if asked_page(request) != page:
            return None
        threading.Thread(target=simulator.stop).start()
        return Fault.CLOSE

    simulator.fault_when = die
    run = Run([simulator], files, tmp_path)
    assert isinstance(run.error, NoServerAvailableError)
    assert simulator.url in run.error.errors
    run.check(PAGES[: page - 1])
    simulator.fault_when = None
    simulator.restart()
    again = Run([simulator], files, tmp_path)
    assert again.error is None
    again.check(PAGES, requests=None)
    assert all(again.requests(before) == 1 for before in PAGES[: page - 1])


@pytest.mark.parametrize("page", STRUCK)
def test_one_of_three_servers_dies(make_simulator: MakeSimulator, files: list[Path], tmp_path: Path, page: int) -> None:
    servers = [make_simulator(brain=ScriptBrain(read_it)) for _ in range(3)]
    died: list[KoboldSimulator] = []

    def dying(server: KoboldSimulator) -> Callable[[RecordedRequest], Fault | None]:
        def when(request: RecordedRequest) -> Fault | None:
            if asked_page(request) != page or died:
                return None
            died.append(server)
            threading.Thread(target=server.stop).start()
            return Fault.CLOSE

        return when

    for server in servers:
        server.fault_when = dying(server)
    run = Run(servers, files, tmp_path)
    assert run.error is None
    assert len(died) == 1
    run.check(set(PAGES) - {page})
    run.check([page], requests=2)


def test_an_address_where_nobody_listens(simulator: KoboldSimulator, files: list[Path], tmp_path: Path) -> None:
    simulator.brain = ScriptBrain(read_it)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = f"http://127.0.0.1:{taken.getsockname()[1]}"
    alone = Run([], files, tmp_path, urls=(free,))
    assert isinstance(alone.error, NoServerAvailableError)
    assert all(result.is_due for result in alone.results)
    assert len(alone.results) == len(PAGES)
    both = Run([simulator], files, tmp_path, urls=(free,))
    assert both.error is None
    both.check(PAGES)


def test_a_machine_that_takes_no_connection(files: list[Path], tmp_path: Path) -> None:
    with socket.socket() as deaf, ExitStack() as waiting:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(3):  # fills its queue: further connections are neither taken nor refused
            knock = waiting.enter_context(socket.socket())
            knock.setblocking(False)
            knock.connect_ex(deaf.getsockname())
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        run = Run([], files, tmp_path, urls=(url,), connect_timeout_s=0.2)
    assert isinstance(run.error, NoServerAvailableError)
    assert "no connection within 0.2 s" in str(run.error)


# ── time ──────────────────────────────────────────────────────────────────────────────────────────


def is_idle(server: KoboldSimulator) -> bool:
    return not server.running


def test_a_server_that_says_nothing_is_left_after_the_time_limit(
    servers: list[KoboldSimulator], files: list[Path], tmp_path: Path
) -> None:
    strike(servers, STRUCK, Fault.HANG, times=None)
    run = Run(servers, files, tmp_path, page_timeout_s=0.5)
    assert run.error is None
    run.check(set(PAGES) - set(STRUCK))
    for page in STRUCK:
        assert isinstance(run.of(page).error, ServerTimeoutError)
        assert run.requests(page) == 1, "the same work would take the same time"
    assert all(server.wait_for(functools.partial(is_idle, server)) for server in servers), "aborted"


def test_a_server_busy_with_others_is_waited_for_half_an_hour(
    simulator: KoboldSimulator, files: list[Path], tmp_path: Path
) -> None:
    simulator.brain = ScriptBrain(read_it)
    strike([simulator], [3], Fault.BUSY, times=None)
    run = Run([simulator], files, tmp_path)
    assert run.error is None
    run.check([1, 2, 4, 5])
    assert isinstance(run.of(3).error, ServerBusyError)
    assert 1740 <= run.waited_s <= 1800
    assert max(run.waits) <= 30, "a busy server is asked again at least twice a minute"


@pytest.mark.parametrize("jump_s", [86_400.0, -86_400.0], ids=["forward", "back"])
def test_a_clock_that_jumps_loses_nothing(
    servers: list[KoboldSimulator], files: list[Path], tmp_path: Path, jump_s: float
) -> None:
    strike(servers, [3], Fault.CLOSE, times=1)
    jumped = threading.Event()

    def jump(result: PageResult) -> None:
        if result.source.name == "2.png":
            jumped.set()

    run = Run(
        servers,
        files,
        tmp_path,
        clock=lambda: time.monotonic() + (jump_s if jumped.is_set() else 0.0),
        on_result=jump,
    )
    assert run.error is None
    run.check(set(PAGES) - {3})
    run.check([3], requests=2)


# ── what else may happen midway ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("page", STRUCK)
def test_a_server_restarted_with_another_model(
    simulator: KoboldSimulator, files: list[Path], tmp_path: Path, page: int
) -> None:
    simulator.brain = ScriptBrain(read_it)
    restarted = threading.Event()

    def restart(request: RecordedRequest) -> Fault | None:
        if asked_page(request) != page or restarted.is_set():
            return None
        restarted.set()
        thread = threading.Thread(target=simulator.restart, kwargs={"model": "gemma-3-12b-it-Q4_K_M"})
        thread.start()
        return Fault.CLOSE

    simulator.fault_when = restart
    run = Run([simulator], files, tmp_path)
    assert run.error is None
    run.check(PAGES, requests=None)
    models = [run.of(number).readings["ocr"].model for number in PAGES]
    assert models[: page - 1] == ["Qwen2.5-VL-7B-Instruct-Q4_K_M"] * (page - 1)
    assert models[page:] == ["gemma-3-12b-it-Q4_K_M"] * (len(PAGES) - page), "each reading names who made it"


@pytest.mark.usefixtures("own_child")
@pytest.mark.parametrize("page", STRUCK)
def test_the_process_that_opens_files_is_killed(
    servers: list[KoboldSimulator],
    files: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    page: int,
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen.__init__

    def noted(self: subprocess.Popen[bytes], *arguments: Any, **options: Any) -> None:
        start(self, *arguments, **options)
        started.append(self)

    monkeypatch.setattr(subprocess.Popen, "__init__", noted)

    def kill(request: RecordedRequest) -> Fault | None:
        if asked_page(request) == page:
            started[0].kill()
        return None

    for server in servers:
        server.fault_when = kill
    run = Run(servers, files, tmp_path)
    assert run.error is None
    run.check(PAGES)
    assert len(started) <= 2
