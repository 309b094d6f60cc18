"""The arithmetic of sizes, and the bytes that come out."""

from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from kobold_reader.errors import PageRenderError
from kobold_reader.pages.images import (
    check_pixels,
    darkest_around,
    encode,
    encode_within,
    fit_size,
    lightest_around,
    without_colour,
)
from kobold_reader.pages.values import ImageBudget
from tests import page_files as make

SIDES = st.integers(1, 20_000)


@settings(max_examples=80, deadline=None)
@given(SIDES, SIDES, st.integers(1, 5000), st.none() | st.integers(1, 5_000_000))
def test_a_fitted_size_keeps_every_bound(width: int, height: int, side: int, pixels: int | None) -> None:
    budget = ImageBudget(max_side_px=side, max_pixels=pixels)
    fitted = fit_size(width, height, budget)
    assert 1 <= fitted[0] <= min(width, side)
    assert 1 <= fitted[1] <= min(height, side)
    if pixels is not None and min(fitted) > 1:
        assert fitted[0] * fitted[1] <= pixels
    scale = min(1, side / max(width, height), ((pixels or 10**12) / (width * height)) ** 0.5)
    assert abs(max(1, width * scale) - fitted[0]) <= 1  # thinner than a pixel is still drawn
    assert abs(max(1, height * scale) - fitted[1]) <= 1


@settings(max_examples=40, deadline=None)
@given(SIDES, SIDES)
def test_what_fits_is_left_alone(width: int, height: int) -> None:
    assert fit_size(width, height, ImageBudget(max_side_px=20_000)) == (width, height)


@pytest.mark.parametrize(
    ("size", "fitted"),
    [
        ((3000, 9000), (667, 2000)),
        ((500, 12_000), (500, 12_000)),
        ((1000, 12_000), (667, 8000)),
        ((12_000, 1000), (8000, 667)),
        ((300, 100_000), (196, 65_500)),
        ((2480, 3508), (1414, 2000)),
    ],
)
def test_a_page_that_is_read_in_bands_is_bounded_by_its_width(size: tuple[int, int], fitted: tuple[int, int]) -> None:
    assert fit_size(*size, ImageBudget(max_side_px=2000, max_aspect=3.0)) == fitted


def test_line_art_becomes_png_and_a_photo_jpeg() -> None:
    assert encode(make.printed_page(100).convert("L"), 90)[1] == "image/png"
    noise = Image.effect_noise((200, 200), 60)
    assert encode(noise, 90)[1] == "image/jpeg"


def test_png_is_tried_only_where_some_bands_of_the_page_gain_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[int, int]] = []
    save = Image.Image.save

    def counted(picture: Image.Image, target: io.BytesIO, kind: str, **options: int) -> None:
        if kind == "PNG":
            tried.append(picture.size)
        save(picture, target, kind, **options)

    monkeypatch.setattr(Image.Image, "save", counted)
    page = make.printed_page(100).convert("L")
    assert encode(page, 90)[1] == "image/png"
    assert page.size in tried
    tried.clear()
    page.paste(255, (0, 0, *page.size))
    page.paste(Image.effect_noise((page.width // 3, page.height), 40), (0, 0))  # a photo beside white paper
    assert encode(page, 90)[1] == "image/jpeg"
    assert tried == [(page.width, 96)]


def test_bytes_are_kept_by_quality_first_then_size() -> None:
    noise = Image.effect_noise((400, 400), 60)
    sizes = []

    def at(width: int, height: int) -> Image.Image:
        sizes.append((width, height))
        return noise.resize((width, height))

    full = len(encode(noise, 90)[0])
    data, _, picture = encode_within(at, (400, 400), ImageBudget(max_bytes=full - 1))
    assert (len(data) < full, picture.size, sizes) == (True, (400, 400), [(400, 400)])
    data, _, picture = encode_within(at, (400, 400), ImageBudget(max_bytes=full // 8))
    assert len(data) <= full // 8
    assert picture.size == sizes[-1] != (400, 400)
    with pytest.raises(PageRenderError, match="fits 10 bytes"):
        encode_within(at, (400, 400), ImageBudget(max_bytes=10))


def test_only_true_grey_loses_its_colour() -> None:
    assert without_colour(make.printed_page(20)).mode == "L"
    assert without_colour(make.corners()).mode == "RGB"


@pytest.mark.parametrize("size", [(97, 61), (300, 1), (2, 3)])
@pytest.mark.parametrize("size_px", [3, 5])
def test_the_lightest_and_the_darkest_around_are_those_of_pillow(size: tuple[int, int], size_px: int) -> None:
    picture = Image.effect_noise(size, 60)
    assert lightest_around(picture, size_px) == picture.filter(ImageFilter.MaxFilter(size_px))
    assert darkest_around(picture, size_px) == picture.filter(ImageFilter.MinFilter(size_px))


@pytest.mark.parametrize("size", [(0, 5), (20_000, 20_000)])
def test_impossible_sizes_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(PageRenderError, match="measures"):
        check_pixels(*size)
