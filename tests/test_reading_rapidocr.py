"""RapidOCR on real pixels of the samples, against their ground truth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from kobold_reader import KoboldReader
from kobold_reader.errors import ConfigError, MissingExtraError
from kobold_reader.reading.rapidocr import in_pieces
from tests import page_files as make
from tests.conftest import GROUND_TRUTH, SAMPLES
from tests.kobold_simulator import EyesBrain, KoboldSimulator
from tests.measure import character_error_rate, precision, recall

pytestmark = pytest.mark.slow


def truth(name: str, page_number: int = 1) -> str:
    text = (GROUND_TRUTH / f"{name}.txt").read_text(encoding="utf-8")
    return text.split("\f")[page_number - 1]


@pytest.mark.parametrize(
    ("name", "page", "least_recall", "highest_error_rate"),
    [
        ("letters/1954-lindqvist-letter.pdf", 1, 0.95, 0.05),
        ("minutes/1961 annual meeting.pdf", 1, 0.95, 0.05),
        ("ledger/1938-harbour-dues.pdf", 1, 0.95, 0.05),
    ],
)
@pytest.mark.thorough
def test_samples_are_read(name: str, page: int, least_recall: float, highest_error_rate: float) -> None:
    [document] = KoboldReader(engine="rapidocr", pages=str(page)).load_data(SAMPLES / name)
    wanted = truth(name, page)
    assert recall(wanted, document.text) >= least_recall
    assert precision(wanted, document.text) >= least_recall
    assert character_error_rate(wanted, document.text) <= highest_error_rate, "reading order counts here"
    assert document.metadata["model"].startswith("rapidocr-")
    assert 0.5 < document.metadata["confidence"] <= 1


def test_a_photo_has_no_text_and_a_blank_page_is_not_asked() -> None:
    documents = KoboldReader(engine="rapidocr", include_empty=True).load_data(
        [SAMPLES / "photos" / "boathouse 1999.jpg", SAMPLES / "scans" / "scan0008.jpg"]
    )
    assert [document.metadata["page_status"] for document in documents] == ["no_text", "blank"]
    assert [document.text for document in documents] == ["", ""]
    assert documents[0].metadata["camera"]
    assert documents[0].metadata["latitude"]


def test_it_says_what_it_cannot_do() -> None:
    with pytest.raises(ConfigError, match=r"rapidocr.*cannot do the task 'caption'; it can do ocr"):
        KoboldReader(engine="rapidocr", tasks=["caption"]).load_data(SAMPLES / "receipts")


def test_a_missing_engine_is_named_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rapidocr", None)
    with pytest.raises(MissingExtraError, match=r"pip install .*\[rapidocr\]"):
        KoboldReader(engine="rapidocr").load_data(SAMPLES / "receipts")


@pytest.mark.thorough
def test_the_page_survives_the_way_through_the_server(
    make_simulator: Callable[..., KoboldSimulator], tmp_path: Path
) -> None:
    """The simulator's eyes read the very pixels that would reach the encoder."""
    name = "receipts/1987-05-12 chandler.jpg"
    simulator = make_simulator(brain=EyesBrain(), visionmaxres=1024)
    reader = KoboldReader(api_url=simulator.url, ledger=str(tmp_path / "ledger.sqlite"))
    [document] = reader.load_data(SAMPLES / name)
    text, _, caption = document.text.partition("\n\n## Image description\n\n")
    assert recall(truth(name), text) >= 0.9
    assert caption
    assert simulator.encodings == 1


@pytest.mark.parametrize(
    ("size", "pitch_px", "slant_deg"),
    [
        ((640, 2400), 300, 0.0),
        ((260, 2600), 36, 0.0),
        ((260, 2600), 36, 1.5),
    ],
)
@pytest.mark.thorough
def test_a_long_receipt_loses_and_doubles_no_line(
    tmp_path: Path, size: tuple[int, int], pitch_px: int, slant_deg: float
) -> None:
    """RapidOCR would shrink it to a width at which nothing can be read."""
    paper = Image.new("L", size, 255)
    tops = range(40, size[1] - 60, pitch_px)
    lines = [f"{number * 37:04d} rope {number * 13 % 90 + 10}.50" for number, _ in enumerate(tops, 1)]
    for top, line in zip(tops, lines, strict=True):
        ImageDraw.Draw(paper).text((40, top), line, font=make.font(72, 20), fill=20)
    path = tmp_path / "receipt.png"
    paper.rotate(slant_deg, resample=Image.Resampling.BICUBIC, fillcolor=255).save(path)
    [result] = KoboldReader(engine="rapidocr", rotate=0, ledger="none").read_pages(path)
    reading = result.readings["ocr"]
    assert reading.view_sizes == (size,)
    assert [line.replace(" ", "") for line in reading.text.splitlines()] == [line.replace(" ", "") for line in lines]
    for top, box in zip(tops, reading.boxes, strict=True):
        assert sum(box.corners[1::2]) / 4 / 10_000 * size[1] == pytest.approx(top + 12, abs=12)


def test_cells_far_apart_have_places_of_their_own_in_one_line(tmp_path: Path) -> None:
    """RapidOCR takes both for one line; words apart by a space stay together."""
    paper, font = Image.new("L", (900, 300), 255), make.font(72, 28)
    for top, gap in ((40, 40), (140, 10)):
        ImageDraw.Draw(paper).text((40, top), "Mooring of the sloop", font=font, fill=20)
        right = 40 + font.getlength("Mooring of the sloop")
        ImageDraw.Draw(paper).text((right + gap, top), "12.50", font=font, fill=20)
    path = tmp_path / "bill.png"
    paper.save(path)
    [result] = KoboldReader(engine="rapidocr", rotate=0, ledger="none").read_pages(path)
    reading = result.readings["ocr"]
    assert reading.text == "Mooring of the sloop 12.50\nMooring of the sloop 12.50"
    pieces = [reading.text[box.start : box.end] for box in reading.boxes]
    assert pieces == ["Mooring of the sloop", "12.50", "Mooring of the sloop 12.50"]
    cell, amount = ([x / 10_000 * 900 for x in box.corners[::2]] for box in reading.boxes[:2])
    assert max(cell) == pytest.approx(right + 5, abs=8)
    assert min(amount) == pytest.approx(right + 40 - 5, abs=8)
    left, wide = min(cell), max(cell) - min(cell)
    begins = [left + begin / 10_000 * wide for begin in reading.boxes[0].words[::2]]
    words = ["Mooring", "of", "the", "sloop"]
    before = [40 + font.getlength(" ".join([*words[:at], ""])) for at in range(4)]
    assert begins == pytest.approx(before, abs=8)


@pytest.mark.parametrize("told", [0, 1, 2])
def test_no_letter_is_lost_where_rapidocr_tells_few_words(told: int) -> None:
    box = np.array([(0, 0), (600, 0), (600, 20), (0, 20)], np.float32)
    words = [
        ("Mooring", 0.9, [(5, 2), (95, 2), (95, 18), (5, 18)]),
        ("12.50", 0.9, [(400, 2), (460, 2), (460, 18), (400, 18)]),
    ]
    lines = list(in_pieces("Mooring 12.50 kronor", 0.9, box, words[:told]))
    assert [line.text for line in lines] == [
        ["Mooring 12.50 kronor"],
        ["Mooring 12.50 kronor"],
        ["Mooring", "12.50 kronor"],
    ][told]
    assert lines[0].corners[0].tolist() == [0, 0]
    assert lines[-1].corners[2].tolist() == [600, 20]
