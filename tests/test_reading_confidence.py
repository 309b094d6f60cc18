"""How sure was the model? Over recorded log-probabilities, and over some that must not be believed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kobold_reader.kobold import Completion, GenerateRequest
from kobold_reader.reading.cleaning import clean
from kobold_reader.reading.confidence import Confidence, confidence_of
from kobold_reader.reading.results import DOUBTFUL

Part = tuple[Completion, int]
"""A completion, and how many characters at its beginning are left out."""
RECORDINGS = Path(__file__).parent / "recordings"


def recorded(temperature: str) -> tuple[GenerateRequest, Completion, int]:
    """The request, the answer, and the bytes of its body."""
    record = json.loads((RECORDINGS / f"generate_image_logprobs_t{temperature}.json").read_text(encoding="utf-8"))
    result = record["body"]["results"][0]
    request = GenerateRequest("Read.", temperature=float(temperature), logprobs=True)
    completion = Completion(result["text"], "length", logprobs=result["logprobs"])
    return request, completion, len(json.dumps(record["body"]))


def judged(request: GenerateRequest, *parts: Part, text: str | None = None) -> Confidence | None:
    said = "".join(completion.text[skipped:] for completion, skipped in parts)
    return confidence_of(parts, request.temperature, clean(said if text is None else text))


def entry(token: str, logprob: float, *others: tuple[str, float], own_bytes: list[int] | None = None) -> dict[str, Any]:
    listed = sorted([(token, logprob), *others], key=lambda one: -one[1])
    return {
        "token": token,
        "logprob": logprob,
        "bytes": list(token.encode()) if own_bytes is None else own_bytes,
        "top_logprobs": [{"token": one, "logprob": value, "bytes": list(one.encode())} for one, value in listed],
    }


def said(*entries: dict[str, Any], text: str | None = None, skipped: int = 0) -> Part:
    spoken = b"".join(bytes(one["bytes"]) for one in entries).decode()
    return Completion(spoken if text is None else text, "eos", logprobs={"content": list(entries)}), skipped


AT_01 = GenerateRequest("Read.", temperature=0.1)
FLOOR = (" the", -9.2103)


def ratio(share: float, temperature: float = 0.1) -> tuple[float, float]:
    """Log-probabilities of a first and a second choice with that ratio of the model's own."""
    odds = share ** (1 / temperature)
    return math.log(1 / (1 + odds)), math.log(odds / (1 + odds))


# ── as recorded ───────────────────────────────────────────────────────────────────────────────────


def test_all_temperatures_tell_the_same_ratio() -> None:
    """The first token was `//` each time, and `::` the only rival near it: 0.6 times as likely."""
    for temperature in ("0.1", "0.3", "1.0"):
        _, completion, _ = recorded(temperature)
        assert completion.logprobs is not None
        first = completion.logprobs["content"][0]
        odds = {one["token"]: one["logprob"] for one in first["top_logprobs"]}
        assert math.exp(float(temperature) * (odds["::"] - odds["//"])) == pytest.approx(0.597, abs=0.003)


def test_a_recorded_answer_is_judged() -> None:
    """` URL` and `oogle` had no rival near, `autoswap` was drawn against ` inputs` (1) and `scribe` (0.5)."""
    request, completion, _ = recorded("0.1")
    sure = judged(request, (completion, 0))

    assert completion.text == "// URLoogleautoswap"
    assert sure is not None
    own, third = math.exp(0.1 * (-2.688 + 0.071)), math.exp(0.1 * (-7.01 + 0.071))
    assert sure.mean == sure.p5 == pytest.approx(own / (own + 1 + third), abs=0.01)
    assert sure.doubtful == ({"start": 3, "end": 19, "rival": "URLoogle"},), "the word might have ended there"


def test_at_temperature_0_nothing_is_told() -> None:
    request, completion, _ = recorded("0")
    assert all(len(one["top_logprobs"]) == 1 for one in (completion.logprobs or {})["content"])
    assert judged(request, (completion, 0)) is None
    assert judged(AT_01, (completion, 0)) is None, "asked for 0.1, but the server forced 0 (--gendefaultsoverwrite)"


def test_what_log_probabilities_cost() -> None:
    """About 1.5 kB a token: 3 MB for a page of 2048 tokens, so they are asked for the transcription only."""
    _, completion, size_bytes = recorded("0.1")
    assert 1300 < (size_bytes - 150) / len((completion.logprobs or {})["content"]) < 1600


# ── what must not be believed ─────────────────────────────────────────────────────────────────────


def test_without_log_probabilities_nothing_is_told() -> None:
    assert judged(AT_01, (Completion("Dear Axel", "eos"), 0)) is None
    assert judged(AT_01, (Completion("Dear Axel", "eos", logprobs={}), 0)) is None
    assert judged(AT_01, (Completion("Dear Axel", "eos", logprobs={"content": []}), 0)) is None
    assert judged(AT_01, (Completion("Dear Axel", "eos", logprobs={"content": ["Dear"]}), 0)) is None


def test_where_one_part_tells_nothing_nothing_is_told() -> None:
    first = said(entry("Dear", 0.0, FLOOR))
    assert judged(AT_01, first) is not None
    assert judged(AT_01, first, (Completion(" Axel", "eos"), 0)) is None


def test_tokens_that_do_not_make_up_the_text_tell_nothing() -> None:
    assert judged(AT_01, said(entry("Dear", 0.0, FLOOR), entry(" Axel", 0.0, FLOOR), text="Dear Alex")) is None


def test_one_candidate_alone_tells_nothing() -> None:
    """A tight top_p of the server's, or top_k 1: the rivals were cut away before they were counted."""
    assert judged(AT_01, said(entry("Dear", 0.0), entry(" Axel", 0.0))) is None


def test_a_crowd_of_candidates_betrays_another_temperature() -> None:
    others = [(f" {letter}", -3.0 - number) for number, letter in enumerate("abcde")]
    crowd = said(entry("Dear", -0.1, *others), entry(" Axel", -0.1, *others))
    assert judged(AT_01, crowd) is None
    assert judged(GenerateRequest("Read.", temperature=0.8), crowd) is not None


# ── words ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_word_is_as_sure_as_its_least_sure_token() -> None:
    first, second = ratio(0.9)
    sure = judged(
        AT_01,
        said(entry("Lind", 0.0, FLOOR), entry("qv", first, ("kv", second), FLOOR), entry("ist", 0.0, FLOOR)),
    )
    assert sure is not None
    assert sure.mean == pytest.approx(1 / 1.9, abs=1e-3)
    assert sure.doubtful == ({"start": 0, "end": 9, "rival": "Lindkv"},)


def test_a_rival_outside_the_word_is_no_doubt_about_it() -> None:
    first, second = ratio(0.9)
    sure = judged(
        AT_01,
        said(
            entry("Dear", first, ("**", second), FLOOR),  # bold or not
            entry(" Axel", first, ("\n", second), FLOOR),  # on the next line or not
            entry(",", first, (".", second), FLOOR),
            entry(" 12", first, (" 12", second), FLOOR),  # the same letters, cut otherwise
        ),
    )
    assert sure is not None
    assert (sure.mean, sure.p5, sure.doubtful) == (1.0, 1.0, ())


def test_scripts_without_blanks_are_judged_by_the_character() -> None:
    first, second = ratio(0.9)
    sure = judged(
        AT_01, said(entry("今天", 0.0, FLOOR), entry("天", first, ("大", second), FLOOR), entry("气", 0.0, FLOOR))
    )
    assert sure is not None
    assert sure.doubtful == ({"start": 2, "end": 3, "rival": "大"},)


def test_a_character_spread_over_tokens_keeps_its_place() -> None:
    first, second = ratio(0.8)
    whole = "漢".encode()
    sure = judged(
        AT_01,
        said(
            entry("a ", 0.0, FLOOR),
            entry("\ufffd", first, ("b", second), FLOOR, own_bytes=list(whole[:2])),
            entry("\ufffd", 0.0, FLOOR, own_bytes=list(whole[2:])),
            entry(" c", 0.0, FLOOR),
        ),
    )
    assert sure is not None
    assert sure.doubtful == ({"start": 2, "end": 3, "rival": "b"},)


def test_places_are_those_of_the_cleaned_text() -> None:
    first, second = ratio(0.6)
    sure = judged(
        AT_01,
        said(
            entry("<think>hm</think>", 0.0, FLOOR),
            entry("\n\nDear", 0.0, FLOOR),
            entry(" Axel", first, (" Alex", second), FLOOR),
            entry("<|im_end|>", 0.0, FLOOR),
        ),
    )
    assert sure is not None
    assert sure.doubtful == ({"start": 5, "end": 9, "rival": "Alex"},)


def test_what_a_seam_took_away_is_not_judged() -> None:
    first, second = ratio(0.6)
    again = said(entry("Dear Axel", first, ("Deer Axel", second), FLOOR), entry(" came", 0.0, FLOOR), skipped=9)
    sure = judged(AT_01, said(entry("Dear Axel", 0.0, FLOOR)), again)
    assert sure is not None
    assert sure.doubtful == ()


def test_the_fifth_percentile_falls_where_one_word_in_twenty_is_doubtful() -> None:
    first, second = ratio(0.9)
    doubt = entry(" oats", first, (" cats", second), FLOOR)
    plain = entry(" oats", 0.0, FLOOR)
    some, few = judged(AT_01, said(doubt, *[plain] * 19)), judged(AT_01, said(doubt, *[plain] * 39))
    assert some is not None
    assert few is not None
    assert some.p5 < DOUBTFUL < few.p5 == 1.0
    assert some.mean == pytest.approx((19 + 1 / 1.9) / 20, abs=1e-3)


@given(
    st.lists(
        st.tuples(st.text(min_size=1, max_size=6), st.floats(0.42, 1), st.text(max_size=6)), min_size=1, max_size=20
    )
)
def test_whatever_is_written_confidence_is_a_share_and_places_are_words(tokens: list[tuple[str, float, str]]) -> None:
    entries = [entry(text, ratio(share)[0], (rival, ratio(share)[1]), FLOOR) for text, share, rival in tokens]
    part = said(*entries)
    page = clean(part[0].text)
    sure = confidence_of([part], AT_01.temperature, page)
    if sure is None:
        return
    assert 0 < sure.p5 <= 1
    for word in sure.doubtful:
        assert 0 <= int(word["start"]) < int(word["end"]) <= len(page.text)
        assert page.text[int(word["start"]) : int(word["end"])] != word["rival"]


@pytest.mark.parametrize("listed", [[300], [-1], ["a"], [None], "é", None])
def test_bytes_that_are_none_give_way_to_the_token(listed: object) -> None:
    without_bytes = {**entry("é", 0.0, FLOOR), "bytes": listed}
    assert judged(AT_01, (Completion("é", "eos", logprobs={"content": [without_bytes]}), 0)) is not None
    half = entry("?", 0.0, FLOOR, own_bytes=[0xC3])
    assert judged(AT_01, (Completion("?", "eos", logprobs={"content": [half]}), 0)) is None, "bytes come first"
