"""Trying again, taking turns, and choosing servers. Time and chance are injected."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time as real_time
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kobold_reader.errors import (
    AuthenticationError,
    BadRequestError,
    ConfigError,
    KoboldReaderError,
    NoServerAvailableError,
    NoVisionModelError,
    ResponseFormatError,
    ServerBusyError,
    ServerConnectionError,
    ServerError,
    ServerTimeoutError,
)
from kobold_reader.kobold import GenerateRequest, KoboldClient, RetryPolicy, ServerPool
from kobold_reader.kobold.pool import OWN_LOCK_WAIT_S, Turn
from tests.kobold_simulator import Fault, KoboldSimulator

pytestmark = pytest.mark.slow

ASK = GenerateRequest("Read the page.", max_length=400)
WORD = "geheim-4711"
NOWHERE = "http://127.0.0.1:9"


class Time:
    """A clock that only sleeping moves."""

    def __init__(self, during: Callable[[float], None] | None = None) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        self._during = during

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        if self._during is not None:
            self._during(seconds)

    def clock(self) -> float:
        return self.now


def pool_of(*urls: str, folder: Path, time: Time | None = None, **more: Any) -> ServerPool:
    time = time or Time()
    return ServerPool(
        urls,
        lock_dir=folder,
        sleep=time.sleep,
        clock=time.clock,
        random=lambda: 0.0,
        make_client=lambda url: KoboldClient(url, password=more.get("password")),
        policy=more.get("policy"),
    )


# ── the policy ────────────────────────────────────────────────────────────────────────────────


def busy(retry_after_s: float | None = None) -> ServerBusyError:
    error = ServerBusyError("busy", status=503)
    error.retry_after_s = retry_after_s
    return error


LOST = ServerConnectionError("lost")


@given(
    attempt=st.integers(1, 10_000),
    base_s=st.floats(0, 100),
    cap_s=st.floats(0, 1000),
    jitter=st.floats(0, 1),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_our_own_delay_is_bounded(attempt: int, base_s: float, cap_s: float, jitter: float, chance: float) -> None:
    policy = RetryPolicy(base_s=base_s, cap_s=cap_s, jitter=jitter)
    assert 0 <= policy.delay_s(attempt, LOST, lambda: chance) <= cap_s


@given(attempt=st.integers(1, 200))
def test_delays_do_not_shrink(attempt: int) -> None:
    policy = RetryPolicy()
    delays = [policy.delay_s(n, LOST, lambda: 0.0) for n in (attempt, attempt + 1)]
    assert delays == sorted(delays)


def test_delays_double_up_to_the_cap() -> None:
    policy = RetryPolicy(base_s=1, cap_s=10)
    assert [policy.delay_s(n, LOST, lambda: 0.0) for n in range(1, 7)] == [1, 2, 4, 8, 10, 10]
    assert policy.delay_s(1, LOST, lambda: 0.999) == pytest.approx(0.75, abs=0.01)


def test_what_the_server_asks_for_is_never_shortened() -> None:
    policy = RetryPolicy(base_s=1, cap_s=10)
    assert policy.delay_s(1, busy(60.0), lambda: 0.99) == 60.0
    assert policy.delay_s(4, busy(0.5), lambda: 0.0) == 8.0
    assert policy.delay_s(1, busy(None), lambda: 0.0) == 1.0


@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        (LOST, 4),
        (ResponseFormatError("null"), 2),
        (ServerTimeoutError("slow"), 1),
        (NoVisionModelError("blind"), 1),
        (BadRequestError("no", status=500), 1),
        (AuthenticationError("no", status=401), 1),
    ],
)
def test_how_often_each_error_is_tried(error: KoboldReaderError, attempts: int) -> None:
    policy = RetryPolicy()
    given_up = [policy.gives_up(attempt, error) for attempt in range(1, 6)]
    assert given_up.index(True) + 1 == attempts


def test_busy_is_waited_for_not_counted() -> None:
    policy = RetryPolicy(busy_patience_s=100)
    assert not policy.gives_up(99, busy(), busy_s=100)
    assert policy.gives_up(1, busy(), busy_s=101)


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"jitter": 2.0}, {"base_s": -1.0}, {"outage_patience_s": -1.0}])
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        RetryPolicy(**wrong)


# ── trying again ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("faults", "error", "requests", "slept"),
    [
        ([], None, 1, []),
        ([Fault.RESET] * 3, None, 4, [1, 2, 4]),
        ([Fault.RESET] * 4, ServerConnectionError, 4, [1, 2, 4]),
        ([Fault.NULL], None, 2, [1]),
        ([Fault.NULL] * 2, ResponseFormatError, 2, [1]),
        ([Fault.BUSY] * 6, None, 7, [1, 2, 4, 8, 16, 30]),
        ([Fault.rate_limit(9), Fault.RESET], None, 3, [9, 1]),
        ([Fault.NO_VISION], NoVisionModelError, 1, []),
        ([Fault.BAD_INPUT], BadRequestError, 1, []),
        ([Fault.UNAUTHORIZED], AuthenticationError, 1, []),
        ([Fault.ERROR], None, 2, [1]),
    ],
)
def test_how_often_and_how_long(
    tmp_path: Path,
    faults: list[Fault],
    error: type[KoboldReaderError] | None,
    requests: int,
    slept: list[float],
) -> None:
    time = Time()
    with KoboldSimulator() as sim, pool_of(sim.url, folder=tmp_path, time=time) as pool:
        sim.fault(*faults)
        with pool.lease() as lease:
            if error is None:
                assert lease.generate(ASK).ending == "eos"
            else:
                with pytest.raises(KoboldReaderError) as caught:
                    lease.generate(ASK)
                assert type(caught.value) is error
        assert sim.count() == requests
        assert time.slept == slept


@pytest.mark.parametrize("version", ["1.76", "1.115.1"])
def test_the_servers_own_lock_after_an_answer_is_waited_for_briefly(tmp_path: Path, version: str) -> None:
    """With `--multiuser 0` a server refuses whoever asks within 50 ms after it answered."""
    time = Time(during=real_time.sleep)
    with (
        KoboldSimulator(multiuser=0, version=version) as sim,
        pool_of(sim.url, folder=tmp_path, time=time) as pool,
        pool.lease() as lease,
    ):
        for _ in range(6):
            assert lease.generate(ASK).ending == "eos"
    assert set(time.slept) == {OWN_LOCK_WAIT_S}
    assert len(time.slept) <= 5, "one wait an answer; on a loaded machine the lock is sometimes free by then"


def test_a_server_that_closes_its_answer_to_us_is_not_called_full(tmp_path: Path) -> None:
    with KoboldSimulator(multiuser=0, linger_s=60) as sim, pool_of(sim.url, folder=tmp_path) as pool:
        client = pool.clients[0]
        client.generate(ASK)
        with pytest.raises(ServerBusyError, match="is still closing its last answer") as own:
            client.generate(ASK)
        with pytest.raises(ServerBusyError, match="busy with another request") as others:
            KoboldClient(sim.url).generate(ASK)
    assert (own.value.is_own_lock, others.value.is_own_lock) == (True, False)


def test_where_the_lock_stays_another_is_being_served(tmp_path: Path) -> None:
    """After its own lock the waits are the usual ones."""
    time = Time(during=lambda seconds: real_time.sleep(min(seconds, 0.1)))
    policy = RetryPolicy(busy_patience_s=10)
    with (
        KoboldSimulator(multiuser=0, linger_s=60) as sim,
        pool_of(sim.url, folder=tmp_path, time=time, policy=policy) as pool,
        pool.lease() as lease,
    ):
        lease.generate(ASK)
        with pytest.raises(ServerBusyError, match="busy with another request"):
            lease.generate(ASK)
    assert time.slept == [OWN_LOCK_WAIT_S, 1, 2, 4]


def test_a_busy_server_is_given_up_when_patience_ends(tmp_path: Path) -> None:
    time = Time()
    policy = RetryPolicy(busy_patience_s=10)
    with (
        KoboldSimulator() as sim,
        pool_of(sim.url, folder=tmp_path, time=time, policy=policy) as pool,
    ):
        sim.fault(*[Fault.BUSY] * 20)
        with pool.lease() as lease, pytest.raises(ServerBusyError):
            lease.generate(ASK)
        assert time.slept == [1, 2, 4]


def test_a_time_limit_is_not_tried_again(tmp_path: Path) -> None:
    with KoboldSimulator() as sim, pool_of(sim.url, folder=tmp_path) as pool:
        sim.fault(Fault.HANG)
        with pool.lease() as lease, pytest.raises(ServerTimeoutError):
            lease.client.generate(ASK, time_limit_s=0.15)
        assert sim.count() == 1


def test_cancel_ends_the_wait(tmp_path: Path) -> None:
    cancel = threading.Event()
    time = Time(during=lambda _: cancel.set())
    with KoboldSimulator() as sim, pool_of(sim.url, folder=tmp_path, time=time) as pool:
        sim.fault(Fault.rate_limit(600))
        with pool.lease() as lease, pytest.raises(CancelledError):
            lease.generate(ASK, cancel=cancel)
        assert time.slept == [0.5]
        assert sim.count() == 1
        with pytest.raises(CancelledError), pool.lease(cancel=cancel):
            pass


def test_a_server_that_comes_back_is_used_again(tmp_path: Path) -> None:
    with KoboldSimulator() as sim:
        time = Time(during=lambda _: sim.restart() if len(time.slept) == 2 else None)
        with pool_of(sim.url, folder=tmp_path, time=time) as pool, pool.lease() as lease:
            sim.stop()
            assert lease.generate(ASK).ending == "eos"
        assert time.slept == [1, 2]


# ── choosing ──────────────────────────────────────────────────────────────────────────────────


def test_the_first_server_is_preferred_and_checked_once(tmp_path: Path) -> None:
    with KoboldSimulator() as one, KoboldSimulator() as two:
        with pool_of(one.url, two.url, folder=tmp_path) as pool:
            for _ in range(3):
                with pool.lease() as lease:
                    assert lease.info.url == one.url
                    lease.generate(ASK)
        assert one.count("/api/extra/version") == 1
        assert not two.requests


def test_two_pages_at_once_go_to_two_servers(tmp_path: Path) -> None:
    with (
        KoboldSimulator() as one,
        KoboldSimulator() as two,
        pool_of(one.url, two.url, folder=tmp_path) as pool,
        pool.lease() as first,
        pool.lease() as second,
    ):
        assert {first.info.url, second.info.url} == {one.url, two.url}


def test_an_unreachable_server_is_passed_over_for_a_while(tmp_path: Path) -> None:
    time = Time()
    with KoboldSimulator() as two, pool_of(NOWHERE, two.url, folder=tmp_path, time=time) as pool:
        for _ in range(3):
            with pool.lease() as lease:
                assert lease.info.url == two.url


def test_a_server_that_fails_is_left_for_the_next_page_and_checked_anew(tmp_path: Path) -> None:
    time = Time()
    with (
        KoboldSimulator() as one,
        KoboldSimulator() as two,
        pool_of(one.url, two.url, folder=tmp_path, time=time) as pool,
    ):
        one.fault(*[Fault.RESET] * 4)
        with pool.lease() as lease, pytest.raises(ServerConnectionError):
            lease.generate(ASK)
        with pool.lease() as lease:
            assert lease.info.url == two.url
        left_with = one.count("/api/extra/version")
        time.now += 61
        with pool.lease() as lease:
            assert lease.info.url == one.url
        assert one.count("/api/extra/version") > left_with


def test_a_bad_request_is_not_the_servers_fault(tmp_path: Path) -> None:
    with KoboldSimulator() as one, KoboldSimulator() as two:
        with pool_of(one.url, two.url, folder=tmp_path) as pool:
            one.fault(Fault.BAD_INPUT)
            with pool.lease() as lease, pytest.raises(BadRequestError):
                lease.generate(ASK)
            with pool.lease() as lease:
                assert lease.info.url == one.url
        assert one.count("/api/extra/version") == 1


def test_none_left_names_the_last_error_of_each(tmp_path: Path) -> None:
    with (
        KoboldSimulator(password=WORD) as locked,
        pool_of(NOWHERE, locked.url, folder=tmp_path) as pool,
    ):
        with pytest.raises(NoServerAvailableError) as caught, pool.lease():
            pass
        errors = caught.value.errors
        assert list(errors) == [NOWHERE, locked.url]
        assert isinstance(errors[NOWHERE], ServerConnectionError)
        assert isinstance(errors[locked.url], AuthenticationError)
        assert NOWHERE in str(caught.value)
        assert "password" in str(caught.value)


def test_the_only_server_is_tried_again_by_the_next_lease(tmp_path: Path) -> None:
    with KoboldSimulator() as sim, pool_of(sim.url, folder=tmp_path) as pool:
        sim.stop()
        with pytest.raises(NoServerAvailableError, match="nothing answers"), pool.lease():
            pass
        sim.restart()
        with pool.lease() as lease:
            assert lease.generate(ASK).ending == "eos"


def test_an_outage_is_waited_for_if_the_server_has_worked(tmp_path: Path) -> None:
    with KoboldSimulator() as sim:
        time = Time(during=lambda _: sim.restart() if len(time.slept) == 3 else None)
        policy = RetryPolicy(outage_patience_s=300)
        with pool_of(sim.url, folder=tmp_path, time=time, policy=policy) as pool:
            with pool.lease():
                pass
            sim.fault(Fault.UNAUTHORIZED)
            with pool.lease() as lease, pytest.raises(AuthenticationError):
                lease.generate(ASK)
            sim.stop()
            with pool.lease() as lease:
                assert lease.generate(ASK).ending == "eos"
            assert time.slept == [30, 30, 30]


def test_an_outage_is_not_waited_for_ever(tmp_path: Path) -> None:
    time = Time()
    policy = RetryPolicy(outage_patience_s=50)
    with (
        KoboldSimulator() as sim,
        pool_of(sim.url, folder=tmp_path, time=time, policy=policy) as pool,
    ):
        with pool.lease() as lease:
            sim.stop()
            with pytest.raises(ServerConnectionError):
                lease.generate(ASK)
        time.slept.clear()
        with pytest.raises(NoServerAvailableError), pool.lease():
            pass
        assert sum(time.slept) == 50


def test_servers_with_different_models_are_refused(tmp_path: Path) -> None:
    with (
        KoboldSimulator(model="a-7b") as one,
        KoboldSimulator(model="b-7b") as two,
        pool_of(one.url, two.url, folder=tmp_path) as pool,
    ):
        with pool.lease(), pytest.raises(ConfigError) as caught, pool.lease():
            pass
        for part in (one.url, two.url, "a-7b", "b-7b"):
            assert part in str(caught.value)


def test_spellings_of_one_server_count_once(tmp_path: Path) -> None:
    with KoboldSimulator() as sim:
        port = sim.url.rpartition(":")[2]
        spellings = (sim.url, f"localhost:{port}/api/v1/", f"http://127.0.0.1:{port}/")
        with pool_of(*spellings, folder=tmp_path) as pool:
            assert pool.urls == (sim.url,)


def test_a_pool_needs_a_server_and_does_not_outlive_its_end(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        ServerPool([], lock_dir=tmp_path)
    pool = ServerPool(NOWHERE, lock_dir=tmp_path, password=WORD)
    assert pool.urls == (NOWHERE,)
    assert WORD not in repr(pool)
    pool.close()
    with pytest.raises(ConfigError, match="closed"), pool.lease():
        pass


# ── taking turns ──────────────────────────────────────────────────────────────────────────────


def test_one_server_serves_one_page_at_a_time(tmp_path: Path) -> None:
    with KoboldSimulator() as sim, pool_of(sim.url, folder=tmp_path) as pool:
        inside, most, lock = 0, 0, threading.Lock()

        def page() -> None:
            nonlocal inside, most
            with pool.lease() as lease:
                with lock:
                    inside += 1
                    most = max(most, inside)
                lease.generate(ASK)
                with lock:
                    inside -= 1

        threads = [threading.Thread(target=page) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert most == 1
        assert sim.count() == 8
        assert sim.in_flight_max == 1


def test_a_failed_page_frees_the_server(tmp_path: Path) -> None:
    with KoboldSimulator() as sim, pool_of(sim.url, folder=tmp_path) as pool:
        with pytest.raises(KeyboardInterrupt), pool.lease():
            raise KeyboardInterrupt
        with pool.lease():
            pass


def test_who_waits_comes_before_who_asks_again(tmp_path: Path) -> None:
    one, two = Turn("server", tmp_path), Turn("server", tmp_path)
    assert one.try_take()
    assert not two.try_take()
    one.give_back()
    assert not one.try_take(), "two has been waiting"
    assert two.try_take()
    assert not one.try_take()
    two.give_back()
    assert one.try_take()
    one.give_back()


def test_who_no_longer_waits_keeps_no_place(tmp_path: Path) -> None:
    one, two = Turn("server", tmp_path), Turn("server", tmp_path)
    assert one.try_take()
    assert not two.try_take()
    two.leave_queue()
    one.give_back()
    assert one.try_take()
    one.give_back()


def test_different_servers_do_not_wait_for_each_other(tmp_path: Path) -> None:
    one, two = Turn("a", tmp_path), Turn("b", tmp_path)
    assert one.try_take()
    assert two.try_take()
    one.give_back()
    two.give_back()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_lock_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="lock_dir"):
        Turn("a", tmp_path / "locks").try_take()


def test_a_lock_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "locks").write_text("")
    with pytest.raises(ConfigError, match="lock_dir"):
        Turn("a", tmp_path / "locks").try_take()


HOLDER = """
import sys
from pathlib import Path
from kobold_reader.kobold import ServerPool
pool = ServerPool([sys.argv[1]], lock_dir=Path(sys.argv[2]))
with pool.lease():
    print("held", flush=True)
    sys.stdin.readline()
print("freed", flush=True)
"""


def holder(url: str, folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, url, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("killed", [False, True])
def test_two_processes_take_turns(tmp_path: Path, *, killed: bool) -> None:
    with KoboldSimulator() as sim, pool_of(sim.url, folder=tmp_path) as pool:
        process = holder(sim.url, tmp_path)
        taken = threading.Event()

        def wait_for_turn() -> None:
            with pool.lease():
                taken.set()

        thread = threading.Thread(target=wait_for_turn)
        thread.start()
        assert not taken.wait(0.25)
        if killed:
            process.send_signal(signal.SIGKILL)
        else:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        assert taken.wait(5)
        thread.join()
        process.communicate(timeout=10)


def test_the_wait_for_another_process_can_be_cancelled(tmp_path: Path) -> None:
    with KoboldSimulator() as sim, pool_of(sim.url, folder=tmp_path) as pool:
        process = holder(sim.url, tmp_path)
        cancel = threading.Event()
        threading.Timer(0.2, cancel.set).start()
        with pytest.raises(CancelledError), pool.lease(cancel=cancel):
            pass
        process.communicate("\n", timeout=10)
        with pool_of(sim.url, folder=tmp_path) as other, other.lease():
            pass  # the one who left keeps no place in the queue


def test_run_tries_any_request_again(tmp_path: Path) -> None:
    time = Time()
    with KoboldSimulator(embeddings_model="minilm") as sim:
        failures = [Fault.BUSY, Fault.RESET]
        sim.fault_when = lambda request: failures.pop() if request.path == "/v1/embeddings" and failures else None
        with pool_of(sim.url, folder=tmp_path, time=time) as pool, pool.lease() as lease:
            assert len(lease.run(lambda client: client.embed(["x"]))) == 1
        assert time.slept == [1, 1]


def test_closing_the_pool_ends_the_wait(tmp_path: Path) -> None:
    with KoboldSimulator() as sim, pool_of(sim.url, folder=tmp_path) as pool:
        refused: list[ConfigError] = []

        def wait_for_turn() -> None:
            try:
                with pool.lease():
                    pass
            except ConfigError as err:
                refused.append(err)

        with pool.lease():
            thread = threading.Thread(target=wait_for_turn)
            thread.start()
            pool.close()
            thread.join()
        assert refused


def test_while_another_server_works_a_failed_one_is_not_asked(tmp_path: Path) -> None:
    with KoboldSimulator() as one, pool_of(NOWHERE, one.url, folder=tmp_path) as pool:
        for _ in range(2):
            with pool.lease():
                pass
        cancel = threading.Event()
        threading.Timer(0.15, cancel.set).start()
        with pool.lease(), pytest.raises(CancelledError), pool.lease(cancel=cancel):
            pass


def test_a_long_wait_is_slept_in_slices(tmp_path: Path) -> None:
    time = Time()
    with KoboldSimulator() as sim, pool_of(sim.url, folder=tmp_path, time=time) as pool:
        sim.fault(Fault.rate_limit(2))
        with pool.lease() as lease:
            assert lease.generate(ASK, cancel=threading.Event()).ending == "eos"
        assert time.slept == [0.5] * 4


def test_errors_of_the_pool_are_server_errors() -> None:
    assert issubclass(NoServerAvailableError, ServerError)


# ── quarantine ────────────────────────────────────────────────────────────────────────────────


def test_a_quarantine_doubles_with_each_failure_up_to_ten_minutes() -> None:
    policy = RetryPolicy()
    assert [policy.quarantine_of(count) for count in range(1, 7)] == [60, 120, 240, 480, 600, 600]


def test_a_server_comes_back_by_itself_and_a_page_that_works_clears_it(tmp_path: Path) -> None:
    time = Time()
    with (
        KoboldSimulator() as bad,
        KoboldSimulator() as good,
        pool_of(bad.url, good.url, folder=tmp_path, time=time) as pool,
    ):

        def used() -> str:
            with pool.lease() as lease:
                return lease.info.url

        def fail() -> None:
            bad.fault(Fault.NULL, Fault.NULL)
            with pytest.raises(ResponseFormatError), pool.lease() as lease:
                lease.generate(ASK)

        fail()
        time.now += 59
        assert used() == good.url
        time.now += 1
        fail()
        time.now += 119
        assert used() == good.url, "longer this time"
        time.now += 1
        assert used() == bad.url
        fail()
        time.now += 61
        assert used() == bad.url, "a page that worked has cleared it"


def test_all_servers_are_asked_for_their_model_at_once(tmp_path: Path) -> None:
    with (
        KoboldSimulator(model="a-7b") as one,
        KoboldSimulator(model="b-7b") as two,
        pool_of(NOWHERE, one.url, two.url, folder=tmp_path) as pool,
        pytest.raises(ConfigError, match="different models"),
    ):
        pool.compare()


def test_a_busy_server_is_not_waited_for_where_another_works(tmp_path: Path) -> None:
    time = Time()
    with (
        KoboldSimulator() as busy_one,
        KoboldSimulator() as free,
        pool_of(busy_one.url, free.url, folder=tmp_path, time=time) as pool,
    ):
        busy_one.fault(*[Fault.BUSY] * 20)
        with pool.lease() as lease, pytest.raises(ServerBusyError):
            lease.generate(ASK)
        assert sum(time.slept) <= 30
        with pool.lease() as lease:
            assert lease.generate(ASK).ending == "eos"
            assert lease.info.url == free.url


def test_a_server_that_had_its_chance_is_left_out(tmp_path: Path) -> None:
    with (
        KoboldSimulator() as one,
        pool_of(one.url, NOWHERE, folder=tmp_path) as pool,
        pytest.raises(NoServerAvailableError),
        pool.lease(exclude={one.url}),
    ):
        pass
