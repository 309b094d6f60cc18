"""Connected shapes, rules and medians, each against the plainest way to find them."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image, ImageFilter

from kobold_reader.pages import shapes
from kobold_reader.pages.blank import median_around
from kobold_reader.pages.shapes import Shape, find_shapes, without_rules


def masks(seed: int, count: int = 40) -> Iterator[Image.Image]:
    chance = random.Random(seed)
    for _ in range(count):
        size = chance.randint(1, 30), chance.randint(1, 30)
        density = chance.random()
        pixels = bytes(255 * (chance.random() < density) for _ in range(size[0] * size[1]))
        yield Image.frombytes("L", size, pixels)


def flooded(mask: Image.Image, ink: Image.Image) -> list[Shape]:
    """What hangs together, pixel by pixel."""
    width, height = mask.size
    left = {(x, y) for y in range(height) for x in range(width) if mask.getpixel((x, y))}
    found = []
    while left:
        here, at = [left.pop()], 0
        while at < len(here):
            x, y = here[at]
            at += 1
            near = {(x + dx, y + dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)} & left
            left -= near
            here += sorted(near)
        across, down = zip(*here, strict=True)
        area = sum(bool(ink.getpixel(place)) for place in here)
        found.append(Shape(min(across), min(down), max(across) + 1, max(down) + 1, area))
    return found


def in_order(found: list[Shape] | None) -> list[tuple[int, ...]]:
    assert found is not None
    return sorted((one.left, one.top, one.right, one.bottom, one.area) for one in found)


def test_shapes_are_what_hangs_together() -> None:
    for mask, ink in zip(masks(1), masks(2), strict=True):
        assert in_order(find_shapes(mask)) == in_order(flooded(mask, mask))
        ink = ink.resize(mask.size, Image.Resampling.NEAREST)  # noqa: PLW2901
        assert in_order(find_shapes(mask, ink)) == in_order(flooded(mask, ink))


def test_paper_has_no_shapes_and_a_photo_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_shapes(Image.new("L", (30, 20))) == []
    monkeypatch.setattr(shapes, "_MAX_RUNS", 30)
    stripes = Image.new("L", (3, 31))
    stripes.paste(255, (1, 0, 2, 30))
    assert find_shapes(stripes) == [Shape(1, 0, 2, 30, 30)]
    stripes.paste(255, (1, 0, 2, 31))
    assert find_shapes(stripes) is None


def test_rules_are_taken_out_along_both_axes_and_strokes_are_not() -> None:
    mask = Image.new("L", (60, 50))
    for box in ((0, 48, 60, 50), (30, 0, 31, 50), (3, 20, 12, 22), (50, 0, 60, 3)):
        mask.paste(255, box)
    kept = Image.new("L", (60, 50))
    kept.paste(255, (3, 20, 12, 22))
    kept.paste(255, (50, 0, 60, 3))
    assert without_rules(mask, 12).tobytes() == kept.tobytes()
    askew = Image.new("L", (40, 20))
    for x in range(40):
        askew.putpixel((x, 5 + x // 10), 255)
    assert without_rules(askew, 12).tobytes() == askew.tobytes()
    assert without_rules(askew, 12, slack_px=1).getbbox() is None


def test_the_median_is_pillows() -> None:
    for seed, size in enumerate(((30, 40), (5, 3), (1, 1))):
        noise = Image.frombytes("L", size, random.Random(seed).randbytes(size[0] * size[1]))
        expected = noise.filter(ImageFilter.MedianFilter(7))
        assert median_around(np.asarray(noise)).tobytes() == expected.tobytes()
