"""What an answer is worth: loops, cuts, thoughts, talk, and how sure the model was, against the simulated server."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kobold_reader.errors import ContextTooSmallError, EmptyTranscriptionError, ImageNotSeenError, TranscriptionError
from kobold_reader.kobold import FAMILIES, Family, KoboldClient, ServerPool
from kobold_reader.pages import Box, LinePiece, PageImages, PageView
from kobold_reader.reading.attempts import PageContext, ask, overlap
from kobold_reader.reading.page_reader import PageJob
from kobold_reader.reading.results import LineBox, Reading
from tests.kobold_simulator import Answer, BrainRequest, Fault, KoboldSimulator, ScriptBrain
from tests.test_reading_koboldcpp import generated, picture

pytestmark = pytest.mark.slow

MakeSimulator = Callable[..., KoboldSimulator]
Ask = Callable[..., Reading]

SYLLABLES = [
    *("sla", "oat", "the", "bu", "cam", "mor", "of", "an", "tue", "car", "by", "bro", "two"),
    *("li", "nor", "wes", "ra", "ki", "pe", "du", "so", "ha", "we", "ja"),
]
_random = random.Random(1954)
LONG_PAGE = [f" {''.join(_random.choices(SYLLABLES, k=2))}" for _ in range(1200)]
"""1200 tokens: a text that goes on saying something new."""
BEFORE = ["Dear", " Axel", ",", "\n"]
CIRCLE = [" and", " the", " slates", " came"]
INSTRUCTION = "Read the page."


@pytest.fixture
def ask_once(tmp_path: Path) -> Iterator[Ask]:
    """Ask one server for one task on one page; looks at the text every 10 ms."""
    pools: list[ServerPool] = []

    def run(
        simulator: KoboldSimulator,
        task: str = "ocr",
        *,
        family: Family = FAMILIES["qwen2.5-vl"],
        on_progress: Callable[[str, int], None] | None = None,
        instruction: str = INSTRUCTION,
        line: Box | None = None,
    ) -> Reading:
        pool = ServerPool(
            [simulator.url],
            lock_dir=tmp_path / "locks",
            make_client=lambda url: KoboldClient(url, poll_interval_s=0.01),
        )
        pools.append(pool)
        view = PageView(picture(), "image/jpeg", 700, 900, None, 0)
        if line:  # the lower right quarter of a page, where that line stands
            view = replace(view, box=(0.5, 0.5, 1.0, 1.0), lines=(LinePiece(0, line),))
        job = PageJob("file:///letter.pdf", 3, (task,), PageImages((view,), False), on_progress)
        with pool.lease() as lease:
            context = PageContext(lease, family, job, time_limit_s=None, max_side_px=1024)
            return ask(context, task, instruction, view)

    yield run
    for pool in pools:
        pool.close()


def small(**max_length: int) -> Family:
    """A family whose answers are cut soon."""
    family = FAMILIES["qwen2.5-vl"]
    return replace(family, max_length={**family.max_length, **max_length})


def circling(before: list[str], unit: list[str]) -> Answer:
    return Answer([*before, *unit * 5000])


# ── loops ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_loop_is_aborted_while_it_is_written_and_asked_for_hotter(
    make_simulator: MakeSimulator, ask_once: Ask
) -> None:
    brain = ScriptBrain([circling(BEFORE, CIRCLE), "Dear Axel, the slates came."])
    simulator = make_simulator(brain=brain, tokens_per_s=2000)

    one = ask_once(simulator, family=small(ocr=8000))

    assert (one.status, one.text, one.attempts) == ("ok", "Dear Axel, the slates came.", 2)
    assert simulator.count("/api/extra/abort") >= 1
    first, second = generated(simulator)
    assert (first["temperature"], second["temperature"]) == (0.1, 0.2)
    assert first["sampler_seed"] != second["sampler_seed"]
    assert (first["dry_multiplier"], second["dry_multiplier"]) == (0, 0.8)
    assert first["rep_pen"] == second["rep_pen"] == 1
    assert one.decoding["dry_multiplier"] == 0.8
    assert simulator.encodings == 1, "the image stays in the server's cache"


def test_what_goes_on_looping_keeps_what_came_before(simulator: KoboldSimulator, ask_once: Ask) -> None:
    """Too quick to be seen while it is written: the whole answer is looked at too. The best attempt is taken."""
    simulator.brain = ScriptBrain(
        [
            circling(BEFORE, CIRCLE),
            circling([*BEFORE, "the", " oats", " came", " on", " Monday", ".", "\n"], CIRCLE),
            circling(BEFORE, CIRCLE),
            circling(["Dear"], CIRCLE),
        ]
    )

    one = ask_once(simulator, family=small(ocr=400))

    assert (one.status, one.attempts) == ("looping", 4)
    assert one.text == "Dear Axel,\nthe oats came on Monday.\n and the slates came"
    assert [body["temperature"] for body in generated(simulator)] == [0.1, 0.2, 0.4, 0.8]
    assert len({body["sampler_seed"] for body in generated(simulator)}) == 4
    assert {body["rep_pen"] for body in generated(simulator)} == {1.0}
    assert one.decoding["sampler_seed"] == 2


def test_a_model_that_varies_its_loop_at_every_attempt_is_stopped_each_time(
    make_simulator: MakeSimulator, ask_once: Ask
) -> None:
    """The penalty on repetition, which the second attempt sends, makes a model vary what it repeats."""
    few = [" and", " the", " slates", " came", " with", " old", " Johansson", " on", " Tuesday", "."]
    varied = [Answer([*BEFORE, *_random.choices(few, k=6000)], ends=False) for _ in range(4)]
    simulator = make_simulator(brain=ScriptBrain(varied), tokens_per_s=20_000)

    one = ask_once(simulator, family=small(ocr=6000))

    assert (one.status, one.attempts) == ("looping", 4)
    assert one.text.startswith("Dear Axel,\n")
    assert len(one.text) < 500
    assert [body["dry_multiplier"] for body in generated(simulator)] == [0, 0.8, 0.8, 0.8]
    assert simulator.count("/api/extra/abort") >= 4, "while it is written"


def test_equal_lines_that_stand_on_the_paper_are_kept(simulator: KoboldSimulator, ask_once: Ask) -> None:
    page = "\n".join(["1 bushel of oats ...... 0.50"] * 60)
    simulator.brain = ScriptBrain([page])

    one = ask_once(simulator)

    assert (one.status, one.text, one.attempts) == ("ok", page, 1)


def test_a_page_that_is_nothing_but_a_loop_is_no_empty_page(simulator: KoboldSimulator, ask_once: Ask) -> None:
    simulator.brain = ScriptBrain([circling([], ["\n"])])

    with pytest.raises(EmptyTranscriptionError, match="gave no text"):
        ask_once(simulator, family=small(ocr=256))


def test_a_hot_family_is_asked_hotter_still(simulator: KoboldSimulator, ask_once: Ask) -> None:
    simulator.brain = ScriptBrain([circling(BEFORE, CIRCLE)])
    family = replace(small(ocr=400), decoding={"temperature": 0.5, "top_p": 0.9, "reasoning_effort": "none"})

    ask_once(simulator, family=family)

    bodies = generated(simulator)
    assert [body["temperature"] for body in bodies] == [0.5, 0.6, 0.7, 0.8]
    assert {(body["top_p"], body["reasoning_effort"]) for body in bodies} == {(0.9, "none")}


# ── cut pages ─────────────────────────────────────────────────────────────────────────────────────


def test_a_cut_page_is_continued_and_joined(simulator: KoboldSimulator, ask_once: Ask) -> None:
    simulator.brain = ScriptBrain([Answer(LONG_PAGE), "another page"])
    told: list[int] = []

    one = ask_once(simulator, family=small(ocr=500), on_progress=lambda _, chars: told.append(chars))

    assert (one.status, one.text, one.attempts) == ("ok", "".join(LONG_PAGE).strip(), 1)
    bodies = generated(simulator)
    assert [body["prompt"] for body in bodies] == [
        one.prompt,
        f"{one.prompt}{''.join(LONG_PAGE[:500])}",
        f"{one.prompt}{''.join(LONG_PAGE[:1000])}",
    ]
    assert len({json.dumps(body["images"]) for body in bodies}) == 1
    assert simulator.encodings == 1
    assert one.completion_tokens == len(LONG_PAGE) + 1
    assert one.decoding["continuations"] == 2
    assert one.image_verified is True
    assert told == sorted(told), "characters of the whole page"


def test_a_page_that_ends_just_at_its_limit_is_whole(simulator: KoboldSimulator, ask_once: Ask) -> None:
    simulator.brain = ScriptBrain([Answer(LONG_PAGE[:300]), "another page"])

    one = ask_once(simulator, family=small(ocr=300))

    assert (one.status, one.text) == ("ok", "".join(LONG_PAGE[:300]).strip())
    assert simulator.count() == 2


def test_limits_of_the_server_that_it_does_not_tell_are_seen(make_simulator: MakeSimulator, ask_once: Ask) -> None:
    simulator = make_simulator(brain=ScriptBrain([Answer(LONG_PAGE), "another page"]), genlimit=333)

    one = ask_once(simulator)

    assert (one.status, one.text) == ("ok", "".join(LONG_PAGE).strip())
    assert simulator.count() == 4


def test_a_page_longer_than_four_answers_is_truncated(simulator: KoboldSimulator, ask_once: Ask) -> None:
    simulator.brain = ScriptBrain([Answer(LONG_PAGE), "another page"])

    one = ask_once(simulator, family=small(ocr=256))

    assert one.status == "truncated"
    assert one.text == "".join(LONG_PAGE[:1024]).strip()
    assert simulator.count() == 4


def test_a_page_is_continued_only_while_the_context_has_room(make_simulator: MakeSimulator, ask_once: Ask) -> None:
    """Else the server would drop the image, and cut the prompt, without a word."""
    simulator = make_simulator(brain=ScriptBrain([Answer(LONG_PAGE), "another page"]), context_size=1800)

    one = ask_once(simulator, family=small(ocr=300))

    assert one.status == "truncated"
    assert one.text == "".join(LONG_PAGE).strip()[: len(one.text)]
    for body in generated(simulator):
        tokens = len(simulator.tokenizer.pieces(body["prompt"])) + 1
        assert tokens + 25 * 33 + 32 + body["max_length"] + 4 <= 1800
    assert all(request.images for request in simulator.seen)
    assert simulator.count() > 1


def test_a_model_that_starts_over_is_not_read_twice(simulator: KoboldSimulator, ask_once: Ask) -> None:
    page = "".join(LONG_PAGE[:700]).strip()

    def from_the_top(request: BrainRequest) -> Answer:
        return Answer([page]) if request.so_far else Answer(LONG_PAGE[:700])

    simulator.brain = ScriptBrain(from_the_top)

    one = ask_once(simulator, family=small(ocr=500))

    assert (one.status, one.text) == ("ok", page)


def test_a_model_that_repeats_its_last_line_is_not_read_twice(simulator: KoboldSimulator, ask_once: Ask) -> None:
    before = "".join(LONG_PAGE[:300])

    def again(request: BrainRequest) -> Answer:
        return Answer([before[-60:] + " and Johansson.", " Yours"]) if request.so_far else Answer(LONG_PAGE[:400])

    simulator.brain = ScriptBrain(again)

    one = ask_once(simulator, family=small(ocr=300))

    assert one.text == f"{before} and Johansson. Yours".strip()


@pytest.mark.parametrize(
    ("before", "after", "skipped"),
    [
        ("", "Dear Axel", 0),
        ("Dear Axel,\nthe slates came on Tuesday", "the slates came on Tuesday with Johansson.", 26),
        ("1 bushel of oats ... 0.50\n" * 9, "1 bushel of oats ... 0.50\n" * 3 + "2 sacks", 0),
        ("He said: do, re, do, re", "do, re, mi", 0),
        ("Dear Axel, the slates came on Tuesday", "Dear Axel, the slates came on Tuesday, broken.", 37),
        ("\n".join(f"line {n} of it" for n in range(30)), "\n".join(f"line {n} of it" for n in range(20)), 269),
    ],
)
def test_seams(before: str, after: str, skipped: int) -> None:
    assert overlap(before, after) == skipped


def test_a_continuation_without_the_image_is_thrown_away(simulator: KoboldSimulator, ask_once: Ask) -> None:
    """Its prompt is longer than the first one; the text it holds is counted too."""
    simulator.brain = ScriptBrain([Answer(LONG_PAGE)])
    simulator.fault(None, Fault.DROP_IMAGES)

    with pytest.raises(ImageNotSeenError):
        ask_once(simulator, family=small(ocr=500))


# ── was the image seen? ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mrope", [False, True])
@pytest.mark.parametrize("projector", ["mlp", "gemma3", "resampler", "qwen2vl"])
def test_an_image_is_seen_or_not_with_every_projector(
    make_simulator: MakeSimulator, ask_once: Ask, projector: str, *, mrope: bool
) -> None:
    simulator = make_simulator(projector=projector, mrope=mrope)
    assert ask_once(simulator).image_verified is True

    simulator.fault(Fault.DROP_IMAGES)
    with pytest.raises(ImageNotSeenError):
        ask_once(simulator)


def test_the_context_is_reckoned_in_what_an_image_takes_not_in_what_it_counts(
    make_simulator: MakeSimulator, ask_once: Ask
) -> None:
    """With M-RoPE the server counts 33 tokens for this page, lets it pass, and fails later on: it takes 825."""
    simulator = make_simulator(mrope=True, context_size=1100)

    with pytest.raises(ContextTooSmallError, match="up to 857"):
        ask_once(simulator)
    assert simulator.count() == 0


def test_a_server_of_2024_proves_nothing_about_continuations_either(
    make_simulator: MakeSimulator, ask_once: Ask
) -> None:
    simulator = make_simulator(version="1.76", brain=ScriptBrain([Answer(LONG_PAGE), "another page"]))

    one = ask_once(simulator, family=small(ocr=700))

    assert (one.status, one.text) == ("ok", "".join(LONG_PAGE).strip())
    assert (one.image_verified, one.confidence, one.completion_tokens) == (False, None, None)


# ── thoughts and talk ─────────────────────────────────────────────────────────────────────────────


def test_a_thought_is_no_part_of_the_page(simulator: KoboldSimulator, ask_once: Ask) -> None:
    simulator.brain = ScriptBrain("<think>A letter.</think>\n\nHere is the transcription:\n\n```\nDear Axel\n```")

    one = ask_once(simulator)

    assert (one.status, one.text, one.attempts) == ("ok", "Dear Axel", 1)


def test_a_thought_that_eats_the_whole_answer_is_no_page(simulator: KoboldSimulator, ask_once: Ask) -> None:
    simulator.brain = ScriptBrain([Answer(["<think>", *LONG_PAGE]), "Dear Axel"])

    one = ask_once(simulator, family=small(ocr=256))

    assert (one.status, one.text, one.attempts) == ("ok", "Dear Axel", 2)
    assert simulator.count() == 5, "it may still have come to the page"


def test_an_envelope_of_json_is_opened_when_it_is_whole(simulator: KoboldSimulator, ask_once: Ask) -> None:
    """A cut answer is continued as the model wrote it."""
    pieces = ['{"', "natural_text", '":', ' "', *LONG_PAGE, "\\n", "Yours", '"}']
    simulator.brain = ScriptBrain([Answer(pieces), "another page"])

    one = ask_once(simulator, family=small(ocr=500))

    assert (one.status, one.text) == ("ok", f"{''.join(LONG_PAGE).strip()}\nYours")
    assert generated(simulator)[1]["prompt"] == f"{one.prompt}{''.join(pieces[:500])}"
    assert one.confidence is not None


def test_an_envelope_that_is_empty_twice_says_that_there_is_no_text(simulator: KoboldSimulator, ask_once: Ask) -> None:
    simulator.brain = ScriptBrain('{"natural_text": null}')
    assert (ask_once(simulator).status, simulator.count()) == ("no_text", 2)


def test_places_that_the_model_tells_are_kept(simulator: KoboldSimulator, ask_once: Ask) -> None:
    simulator.brain = ScriptBrain("<|ref|>text<|/ref|><|det|>[[0, 0, 999, 333]]<|/det|>\nDear Axel")
    one = ask_once(simulator)
    assert (one.text, one.boxes) == ("Dear Axel", (LineBox(0, 9, (0, 0, 10_000, 0, 10_000, 3333, 0, 3333)),))


def test_talk_and_nothing_else_is_asked_again(simulator: KoboldSimulator, ask_once: Ask) -> None:
    simulator.brain = ScriptBrain(["Sure! Here is the transcription of the image:", "Dear Axel"])

    one = ask_once(simulator)

    assert (one.text, one.attempts) == ("Dear Axel", 2)


@pytest.mark.parametrize(
    ("line", "status"),
    [
        pytest.param((0.9, 0.9, 0.915, 0.91), "no_text", id="a page number"),
        pytest.param((0.9, 0.6, 0.901, 0.8), "no_text", id="a rule set on end"),
        pytest.param((0.6, 0.9, 0.7, 0.91), None, id="words"),
        pytest.param(None, None, id="a whole page"),
    ],
)
def test_a_part_with_a_speck_may_be_answered_with_nothing(
    simulator: KoboldSimulator, ask_once: Ask, line: Box | None, status: str | None
) -> None:
    """A stain at the edge of a page in tiles costs the page nothing; words that are answered with nothing do."""
    simulator.brain = ScriptBrain("")

    if status is None:
        with pytest.raises(EmptyTranscriptionError, match="4 times"):
            ask_once(simulator, line=line)
    else:
        one = ask_once(simulator, line=line)
        assert (one.status, one.text, one.attempts) == (status, "", 2)


# ── how sure was it? ──────────────────────────────────────────────────────────────────────────────


def test_doubtful_words_come_with_their_place_and_rival(simulator: KoboldSimulator, ask_once: Ask) -> None:
    tokens = ["```", "\n", "Dear", " Ax", "el", ",", " 12", " oats", " came", ".", "\n", "```"]
    simulator.brain = ScriptBrain([Answer(tokens, rivals={4: ("on", 0.8), 6: (" 17", 0.5), 7: (" cats", 0.2)})])

    one = ask_once(simulator)

    assert one.text == "Dear Axel, 12 oats came."
    words = {one.text[int(word["start"]) : int(word["end"])]: word["rival"] for word in one.doubtful}
    assert words == {"Axel": "Axon", "12": "17"}, "a ratio of 0.2 cannot be seen at temperature 0.1"
    expected = (1 + 1 / 1.8 + 1 / 1.5 + 1 + 1) / 5
    assert one.confidence == pytest.approx(expected, abs=1e-3)
    assert one.confidence_p5 == pytest.approx(1 / 1.8, abs=1e-3)
    assert generated(simulator)[0]["logprobs"] is True


def test_a_retry_is_reckoned_with_its_own_temperature(simulator: KoboldSimulator, ask_once: Ask) -> None:
    simulator.brain = ScriptBrain(["", Answer(["Dear", " Axel"], rivals={1: (" Alex", 0.25)})])

    one = ask_once(simulator)

    assert one.decoding["temperature"] == 0.2
    assert one.confidence_p5 == pytest.approx(0.8, abs=1e-3), "at 0.2 a ratio of 0.25 is seen"


def test_the_doubts_of_all_parts_are_told(simulator: KoboldSimulator, ask_once: Ask) -> None:
    rivals = {40: (" goats", 0.6), 620: (" goats", 0.6)}
    simulator.brain = ScriptBrain([Answer(LONG_PAGE[:900], rivals=rivals)])

    one = ask_once(simulator, family=small(ocr=300))

    assert one.decoding["continuations"] == 3
    assert [one.text[: int(word["start"])].count(" ") for word in one.doubtful] == [40, 620]
    assert {word["rival"] for word in one.doubtful} == {"goats"}


@pytest.mark.parametrize(
    ("task", "decoding"), [("caption", {}), ("ocr", {"temperature": 0.0}), ("ocr", {"temperature": 0.1, "top_k": 1})]
)
def test_log_probabilities_are_asked_for_only_where_they_tell_something(
    simulator: KoboldSimulator, ask_once: Ask, task: str, decoding: Any
) -> None:
    one = ask_once(simulator, task, family=replace(FAMILIES["qwen2.5-vl"], decoding=decoding))

    assert "logprobs" not in generated(simulator)[0]
    assert (one.confidence, one.confidence_p5, one.doubtful) == (None, None, ())


# ── tags ──────────────────────────────────────────────────────────────────────────────────────────


def test_tags_are_asked_for_under_a_grammar(simulator: KoboldSimulator, ask_once: Ask) -> None:
    simulator.brain = ScriptBrain('{"description": "A letter to Axel.", "keywords": ["letter", "Letters", "slates"]}')

    one = ask_once(simulator, "tags", instruction="Name what is on it.")

    assert (one.task, one.status, one.attempts) == ("tags", "ok", 1)
    assert one.text == "A letter to Axel.\n\nKeywords: letter, slates"
    body = generated(simulator)[0]
    assert body["grammar"].startswith("root ::= ")
    assert "Name what is on it." in body["prompt"]
    assert '"keywords"' in body["prompt"]
    assert body["max_length"] >= 256


def test_an_answer_without_keywords_is_asked_for_again(simulator: KoboldSimulator, ask_once: Ask) -> None:
    """The server ignores a grammar that it does not understand without a word."""
    simulator.brain = ScriptBrain(["It is a letter to Axel about slates, written by Johansson.", "letter, slates"])

    one = ask_once(simulator, "tags")

    assert (one.text, one.attempts) == ("Keywords: letter, slates", 2)


def test_a_model_that_gives_no_keywords_is_an_error_that_says_so(simulator: KoboldSimulator, ask_once: Ask) -> None:
    simulator.brain = ScriptBrain("It is a letter to Axel about slates, written by Johansson.")

    with pytest.raises(TranscriptionError, match="4 times without keywords") as caught:
        ask_once(simulator, "tags")
    assert "It is a letter to Axel" in str(caught.value)


def test_cut_tags_are_repaired_and_not_continued(simulator: KoboldSimulator, ask_once: Ask) -> None:
    few = SYLLABLES[:13]
    listed = ['"letter", ', '"slates", ', *(f'"{one}{other}", ' for one in few for other in few)] * 9
    simulator.brain = ScriptBrain([Answer(['{"description": "A letter.", ', '"keywords": [', *listed])])

    one = ask_once(simulator, "tags")

    assert one.text.startswith("A letter.\n\nKeywords: letter, slates, ")
    assert (one.status, one.text.count(","), simulator.count()) == ("ok", 14, 1)
