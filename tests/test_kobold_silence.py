"""A server that hangs is told from one that is slow; the clock is injected, nothing is waited for."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from kobold_reader.errors import KoboldReaderError, ServerConnectionError, ServerHungError
from kobold_reader.kobold import GenerateRequest, KoboldClient
from kobold_reader.kobold.client import IDLE_LIMIT_S, LOOK_S, Silence, silence_limit_s
from tests.kobold_simulator import Fault, KoboldSimulator, RecordedRequest

ASK = GenerateRequest("Read the page.", max_length=400)
WORKING = {"idle": 0, "queue": 0, "total_gens": 3}


@pytest.mark.parametrize(
    ("perf", "has_text", "limit_s"),
    [
        ({}, False, 1800),  # nothing measured yet
        ({"last_process": 0.0}, False, 1800),
        ({"last_process": 2.0, "last_eval": 20.0, "last_input_count": 1200}, False, 600),  # a GPU
        ({"last_process": 250.0, "last_eval": 1000.0, "last_input_count": 1200}, False, 4096),  # an old CPU
        ({"last_process": 238.0, "last_eval": 90.0, "last_input_count": 1}, False, 1800),  # the rest was in its memory
        ({"last_process": 595.0, "last_eval": 90.0}, False, 1800),  # 1.76 does not tell of how many tokens
        ({"last_process": 595.0, "last_input_count": "?"}, False, 1800),
        ({}, True, 600),
        ({"last_process": 250.0, "last_eval": 1000.0}, True, 600),
        ({"last_eval": 20_000.0}, True, 2000),
        ({"last_eval": "?"}, True, 600),
    ],
)
def test_the_limit_follows_from_the_measured_speed(perf: dict[str, object], limit_s: float, *, has_text: bool) -> None:
    assert silence_limit_s(perf, has_text=has_text) == limit_s


def test_a_slow_writer_never_hangs() -> None:
    silence = Silence(0.0)
    for number in range(1, 200):
        silence.hear("x" * number, number * 500.0)
        silence.look(WORKING, number * 500.0)
        assert not silence.is_hang(number * 500.0)
    assert silence.lasts_s(199 * 500.0) == 0


def test_the_work_of_others_before_ours_is_a_sign_of_work() -> None:
    silence = Silence(0.0)
    for number in range(1, 50):
        silence.hear("", number * 1500.0)
        silence.look({**WORKING, "total_gens": number}, number * 1500.0)
        assert not silence.is_hang(number * 1500.0)
    silence.look({**WORKING, "total_gens": 49}, 49 * 1500.0 + 1799)
    assert not silence.is_hang(49 * 1500.0 + 1799)
    assert silence.is_hang(49 * 1500.0 + 1800)


def test_a_text_that_stands_still_is_no_sign_of_work() -> None:
    silence = Silence(0.0)
    silence.hear("Dear", 10.0)
    silence.hear("Dear", 500.0)
    silence.hear(None, 600.0)
    assert not silence.is_hang(609.0)
    assert silence.is_hang(610.0)


def test_a_silent_server_is_asked_now_and_then() -> None:
    silence = Silence(0.0)
    assert not silence.wants_look(LOOK_S)
    assert silence.wants_look(2 * LOOK_S)
    silence.look(None, 2 * LOOK_S)
    assert not silence.wants_look(2.5 * LOOK_S)
    assert silence.wants_look(3 * LOOK_S)


def test_a_server_that_is_idle_has_lost_the_job_but_not_at_once() -> None:
    silence = Silence(0.0)
    silence.look({"idle": 1, "queue": 0, "total_gens": 1}, 100.0)
    assert not silence.is_lost(100.0 + IDLE_LIMIT_S - 1)
    assert silence.is_lost(100.0 + IDLE_LIMIT_S)
    silence.look({"idle": 0, "queue": 0, "total_gens": 1}, 100.0 + IDLE_LIMIT_S)
    assert not silence.is_lost(100.0 + IDLE_LIMIT_S)


# ── with a server ─────────────────────────────────────────────────────────────────────────────────


def ticking(step_s: float) -> Callable[[], float]:
    ticks = itertools.count()
    return lambda: next(ticks) * step_s


@pytest.mark.slow
def test_a_hung_job_is_aborted_and_named() -> None:
    with KoboldSimulator() as server:
        server.fault(Fault.HANG)
        with pytest.raises(ServerHungError, match=r"no sign of work for \d+ min; the job was aborted"):
            KoboldClient(server.url, clock=ticking(20.0)).generate(ASK)
        assert server.count("/api/extra/abort") == 1
        assert server.wait_for(lambda: not server.running)


@pytest.mark.slow
def test_a_time_limit_of_ones_own_takes_its_place() -> None:
    with KoboldSimulator() as server:
        server.fault(Fault.HANG)
        with pytest.raises(KoboldReaderError, match="no answer within 5000 s"):
            KoboldClient(server.url, clock=ticking(200.0)).generate(ASK, time_limit_s=5000.0)
        assert server.count("/api/extra/perf") == 0


@pytest.mark.slow
def test_an_answer_that_got_lost_is_not_waited_for() -> None:
    with KoboldSimulator() as server:
        server.fault(Fault.HANG)

        def idle(request: RecordedRequest) -> Fault | None:
            says = '{"idle": 1, "queue": 0, "total_gens": 7}'
            return Fault.reply(200, says) if request.path.endswith("/perf") else None

        server.fault_when = idle
        with pytest.raises(ServerConnectionError, match="has nothing to do"):
            KoboldClient(server.url, clock=ticking(20.0)).generate(ASK)


@pytest.mark.slow
def test_a_server_that_writes_slowly_is_waited_for() -> None:
    with KoboldSimulator(tokens_per_s=5.0) as server:
        completion = KoboldClient(server.url, clock=ticking(20.0), poll_interval_s=0.1).generate(
            ASK, on_progress=lambda _: True
        )
    assert completion.ending == "eos"
    assert completion.elapsed_s > 600, "longer than any silence may last"
