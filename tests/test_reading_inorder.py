"""Several workers, one order: how far they run ahead, what they never do at once, and how they end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kobold_reader.reading.pipeline import InOrder


class Bench:
    """Workers whose items end when the test says so."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.begun: list[int] = []
        self.ended: set[int] = set()
        self.stopped = False

    def work(self, item: int) -> int:
        with self.changed:
            self.begun.append(item)
            self.changed.notify_all()
            self.changed.wait_for(lambda: item in self.ended or self.stopped)
            if item not in self.ended:
                raise InterruptedError(item)
        return item * 10

    def end(self, *items: int) -> None:
        with self.changed:
            self.ended.update(items)
            self.changed.notify_all()

    def stop(self) -> None:
        with self.changed:
            self.stopped = True
            self.changed.notify_all()

    def has_begun(self, *items: int) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: set(items) <= set(self.begun), 10)


def in_order(
    items: Iterator[int],
    bench: Bench,
    *,
    workers: int = 2,
    few: int = 4,
    many: int = 8,
    key: Callable[[int], int | None] = lambda item: item,
    goes_on: Callable[[], bool] = lambda: True,
    work: Callable[[int], int] | None = None,
) -> InOrder[int, int]:
    return InOrder(
        items,
        work or bench.work,
        workers=workers,
        few=few,
        many=many,
        key=key,
        goes_on=goes_on,
        on_close=bench.stop,
    )


def collecting(results: InOrder[int, int]) -> tuple[threading.Thread, list[int]]:
    """A caller who waits for every result."""
    taken: list[int] = []

    def collect() -> None:
        with suppress(InterruptedError):
            taken.extend(results)

    thread = threading.Thread(target=collect)
    thread.start()
    return thread, taken


@given(
    workers=st.integers(1, 5),
    items=st.lists(st.integers(0, 5), max_size=30),
    few=st.integers(1, 6),
    many=st.integers(1, 12),
)
@settings(max_examples=60)
def test_every_result_once_in_order_and_no_key_twice_at_once(
    workers: int, items: list[int], few: int, many: int
) -> None:
    running: set[int] = set()
    together: list[int] = []
    lock = threading.Lock()

    def work(item: int) -> int:
        with lock:
            if item in running and item:
                together.append(item)
            running.add(item)
        with lock:
            running.discard(item)
        return item * 10

    bench = Bench()
    with closing(
        in_order(iter(items), bench, workers=workers, few=few, many=many, work=work, key=lambda item: item or None)
    ) as results:
        assert list(results) == [item * 10 for item in items]
    assert together == []


def test_a_slow_item_holds_back_its_result_not_the_others() -> None:
    bench = Bench()
    with closing(in_order(iter(range(100)), bench, few=2, many=8)) as results:
        thread, taken = collecting(results)
        assert bench.has_begun(0)
        bench.end(*range(1, 100))
        assert bench.has_begun(*range(8)), "many: while the caller waits for the first"
        assert sorted(bench.begun) == list(range(8))
        assert taken == []
        bench.end(0)
        thread.join(10)
    assert taken == [number * 10 for number in range(100)]


def test_a_caller_who_does_not_ask_is_not_run_away_from() -> None:
    bench = Bench()
    bench.end(*range(100))
    with closing(in_order(iter(range(100)), bench, few=4, many=50)) as results:
        iterator = iter(results)
        first = next(iterator)
        with bench.changed:
            before = len(bench.begun)
            # While it waited for the first, the workers may have been quicker than it; then they must stand still.
            assert not bench.changed.wait_for(lambda: len(bench.begun) > max(before, 5), 0.2)
        assert first == 0


def test_finished_items_count_for_nothing_but_memory() -> None:
    bench = Bench()
    pulled: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            pulled.append(number)
            yield number

    with closing(
        in_order(
            items(), bench, few=1, many=20, key=lambda item: item if item % 10 == 0 else None, work=lambda item: item
        )
    ) as results:
        assert list(results) == list(range(100))
    bench = Bench()
    pulled.clear()
    with closing(in_order(items(), bench, few=1, many=20, key=lambda _: None, work=lambda item: item)) as results:
        assert next(iter(results)) == 0
    assert len(pulled) <= 22


def test_the_second_of_a_key_is_done_by_who_did_the_first_and_keeps_nobody_idle() -> None:
    bench = Bench()
    with closing(in_order(iter([1, 11, 2, 3]), bench, key=lambda item: item % 10)) as results:
        thread, taken = collecting(results)
        assert bench.has_begun(1, 2), "11 is like 1, so 2 is taken"
        assert 11 not in bench.begun
        bench.end(1)
        assert bench.has_begun(11)
        bench.end(11, 2, 3)
        thread.join(10)
    assert taken == [10, 110, 20, 30]


def test_an_exception_ends_all_and_comes_after_what_was_finished_before_it() -> None:
    bench = Bench()

    def work(item: int) -> int:
        if item == 2:
            bench.has_begun(1)
            raise LookupError(item)
        return bench.work(item)

    bench.end(0)
    taken: list[int] = []
    with closing(in_order(iter(range(9)), bench, work=work)) as results, pytest.raises(LookupError):
        taken.extend(results)
    assert taken == [0]
    assert 3 not in bench.begun


def test_an_exception_of_the_items_is_raised() -> None:
    def items() -> Iterator[int]:
        yield 0
        raise LookupError

    bench = Bench()
    with (
        closing(in_order(items(), bench, work=lambda item: item)) as results,
        pytest.raises(LookupError),
    ):
        list(results)


def test_the_end_of_pulling_lets_what_was_begun_finish() -> None:
    bench = Bench()
    with closing(in_order(iter(range(9)), bench, goes_on=lambda: len(bench.begun) < 2)) as results:
        thread, taken = collecting(results)
        assert bench.has_begun(0, 1)
        bench.end(*range(9))
        thread.join(10)
    assert taken == [0, 10]


def test_closed_early_it_leaves_no_thread() -> None:
    before = threading.active_count()
    bench = Bench()
    results = in_order(iter(range(9)), bench)
    assert bench.has_begun(0, 1)
    results.close()
    assert threading.active_count() == before
