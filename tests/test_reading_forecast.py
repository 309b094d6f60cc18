"""How long it will take: arithmetic that can be done by hand."""

from __future__ import annotations

import pytest

from kobold_reader.progress import spell_about, spell_bytes, spell_forecast, spell_kinds, spell_tokens
from kobold_reader.reading.ledger import Timing
from kobold_reader.reading.survey import Forecast, forecast


def timing(content: str, task: str, elapsed_s: float, *, images: int = 1, tokens: int | None = 500) -> Timing:
    return Timing(content, task, "a-model", elapsed_s, images, tokens, tokens, kept_bytes=2000)


def test_the_whole_takes_the_mean_of_each_task_as_often_as_it_is_asked() -> None:
    timings = [timing("a", "ocr", 10), timing("b", "ocr", 20), timing("a", "caption", 4)]
    found = forecast({"ocr": 100, "caption": 50}, timings)
    assert found is not None
    assert found.seconds == 100 * 15 + 50 * 4
    assert (found.timed_pages, found.requests, found.tokens) == (2, 150, 150_000)
    assert found.kept_bytes == 300_000
    assert found.low_s == 100 * 10 + 50 * 4, "not less than the quickest page seen"
    # 15 ± 3.08 × 7.07 / √2, and of the one caption nothing is known but itself
    assert found.high_s == pytest.approx(100 * (15 + 3.08 * 5) + 50 * 4, rel=1e-3)


def test_more_pages_timed_make_the_range_narrower() -> None:
    few = forecast({"ocr": 100}, [timing(str(number), "ocr", 10 + number % 3) for number in range(3)])
    many = forecast({"ocr": 100}, [timing(str(number), "ocr", 10 + number % 3) for number in range(60)])
    assert few is not None
    assert many is not None
    assert few.low_s <= many.low_s < many.seconds < many.high_s < few.high_s


def test_tiles_and_servers_count() -> None:
    found = forecast({"ocr": 10}, [timing("a", "ocr", 40, images=4), timing("b", "ocr", 20, images=2)], servers=2)
    assert found is not None
    assert (found.seconds, found.requests, found.images_a_page) == (150, 30, 3)


def test_a_task_that_was_never_timed_is_not_guessed() -> None:
    assert forecast({"ocr": 10, "caption": 10}, [timing("a", "ocr", 40)]) is None
    assert forecast({"ocr": 10}, []) is None


def test_a_server_that_counts_no_tokens_gives_none() -> None:
    found = forecast({"ocr": 10}, [timing("a", "ocr", 40, tokens=None)])
    assert found is not None
    assert found.tokens is None


def test_pages_in_a_night() -> None:
    found = forecast({"ocr": 1000}, [timing("a", "ocr", 36)])
    assert found is not None
    assert found.pages_in(7 * 3600, 1000) == 700
    assert found.pages_in(70 * 3600, 1000) == 1000


def span(seconds: float, low_s: float, high_s: float) -> Forecast:
    return Forecast(seconds, low_s, high_s, 3, 1, None, 1, "a-model", 1.0)


@pytest.mark.parametrize(
    ("forecast", "said"),
    [
        (span(26_500, 18_000, 32_400), "about 7 h 20 min (5–9 h)"),
        (span(300_000, 200_000, 400_000), "about 3 days 11 h (2–5 days)"),
        (span(700, 500, 900), "about 12 min (8–15 min)"),
        (span(20, 10, 31), "about 20 s (10–31 s)"),
        (span(26_500, 26_500, 26_500), "about 7 h 20 min"),
    ],
)
def test_a_forecast_is_said_as_exactly_as_it_can_be(forecast: Forecast, said: str) -> None:
    assert spell_forecast(forecast) == said


def test_spelling() -> None:
    assert [spell_about(seconds) for seconds in (97, 800, 26_500)] == ["1 min 37 s", "13 min", "7 h 20 min"]
    assert [spell_bytes(size) for size in (100, 45_000, 2_600_000, 3e9)] == ["1 kB", "45 kB", "2.6 MB", "3.0 GB"]
    assert [spell_tokens(count) for count in (700, 45_678, 1_234_567)] == ["700", "46 thousand", "1.2 million"]
    assert spell_kinds({"to_read": 2, "read": 1, "blank": 0}) == "1 read before, 2 to be read"
    assert spell_kinds({}) == "none"
