"""Photo or scan, and what photos look like: on the samples, on drawn pages, and on what fools a simple rule."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from PIL import ExifTags, Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from kobold_reader.pages import PageChild, select
from kobold_reader.pages.photos import device_of, look_at, look_at_jpeg, perceptual_hash, photo_or_scan
from tests import page_files as make
from tests.conftest import SAMPLES
from tests.scenes import grain, on_a_desk, scene

Device = Literal["camera", "scanner"] | None
NEAR = 10
BOATHOUSE = SAMPLES / "photos" / "boathouse 1999.jpg"


def decided(picture: Image.Image, device: Device = None) -> str | None:
    small = picture.copy()
    small.thumbnail((256, 256), Image.Resampling.BOX)
    return photo_or_scan(small, device)


def bits(one: Image.Image, other: Image.Image) -> int:
    first, second = perceptual_hash(one), perceptual_hash(other)
    assert first is not None
    assert second is not None
    return (int(first, 16) ^ int(second, 16)).bit_count()


# ── photo or scan ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_every_page_of_the_samples(child: PageChild) -> None:
    found: dict[str, set[str | None]] = {}
    for file in select([SAMPLES]).files:
        total = child.open(file.path, kind=file.kind).total_pages
        for number in range(1, total + 1):
            text = child.page_facts(number).text_layer
            found.setdefault(file.name if text != "good" else "text", set()).add(child.page_look(number).kind)
    assert found.pop("text") == {None}, "a page of text is no picture"
    assert found.pop("boathouse 1999.jpg") == {"photo"}
    assert len(found) == 8
    assert set.union(*found.values()) == {"scan"}


@pytest.mark.parametrize("device", [None, "camera", "scanner"])
@pytest.mark.parametrize("seed", range(6))
def test_a_scene_is_a_photo_whatever_took_it(seed: int, device: Device) -> None:
    assert decided(scene(seed), device) == "photo"


PAPERS: dict[str, Callable[[], Image.Image]] = {
    "print": make.printed_page,
    "texture": lambda: make.with_texture(make.printed_page(), sigma=6),
    "yellowed": lambda: ImageOps.colorize(make.printed_page().convert("L"), (40, 30, 20), (232, 214, 180)),
    "uneven": lambda: make.with_uneven_light(make.printed_page(), drop=90),
    "coloured": lambda: ImageChops.multiply(make.printed_page(), Image.new("RGB", make.printed_page().size, "#ffd040")),
    "empty": make.sheet,
    "few words": lambda: make.printed_page(lines=3),
}


@pytest.mark.parametrize("device", [None, "scanner"])
@pytest.mark.parametrize("paper", PAPERS)
def test_a_sheet_is_a_scan(paper: str, device: Device) -> None:
    assert decided(PAPERS[paper](), device) == "scan"


@pytest.mark.parametrize("darkest", [0.9, 0.6])
def test_a_page_is_a_scan_although_a_phone_took_it(darkest: float) -> None:
    assert decided(on_a_desk(make.printed_page(), darkest=darkest), "camera") == "scan"


def test_a_camera_is_believed_where_nothing_is_written() -> None:
    snow = Image.new("RGB", (600, 400), (236, 238, 240))
    assert decided(snow.filter(ImageFilter.GaussianBlur(1)), "camera") == "photo"
    snow.paste(scene(1, (600, 120)), (0, 280))
    assert decided(snow, "camera") == "photo"


def test_one_tone_that_is_no_paper() -> None:
    def under(colour: tuple[int, int, int]) -> Image.Image:
        picture = grain((600, 400), 60, 1).convert("RGB")
        picture = Image.blend(Image.new("RGB", (600, 400), colour), picture, 0.1)
        picture.paste(scene(2, (600, 90)), (0, 310))
        return picture

    assert decided(under((70, 130, 225))) == "photo", "the sky"
    assert decided(under((12, 14, 22))) == "photo", "the night"


def test_what_was_drawn_by_a_program_is_no_photo() -> None:
    logo = Image.new("RGB", (500, 400), (20, 60, 140))
    ImageDraw.Draw(logo).ellipse((40, 40, 160, 160), fill=(255, 255, 255))
    assert decided(logo) == "scan"
    assert decided(Image.new("RGB", (48, 48), "red")) is None, "an icon is neither"


def test_a_scanners_word_lowers_the_limit() -> None:
    page = make.printed_page().convert("RGB")
    # Figures on a page, of which they leave a little more than half.
    page.paste(scene(3, (page.width, round(page.height * 0.4))), (0, 0))
    assert (decided(page), decided(page, "scanner")) == ("photo", "scan")


def test_what_files_say_of_their_making() -> None:
    camera, scanner = Image.Exif(), Image.Exif()
    camera.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExposureTime] = 0.01
    scanner[ExifTags.Base.Software] = "EPSON Scan 2"
    assert device_of(camera, (600, 600)) == "camera", "a camera that writes a scanner's resolution is one"
    assert device_of(scanner) == "scanner"
    assert device_of(Image.Exif(), (600, 600)) == "scanner"
    assert device_of(Image.Exif(), (72, 72)) is device_of(Image.Exif(), (float("nan"), 1)) is None


def test_two_tones_are_a_scan_and_what_cannot_be_decoded_is_nothing() -> None:
    assert look_at(scene(4).convert("1"), Image.Exif(), 1).kind == "scan", "no camera makes such a picture"
    data = make.jpeg(scene(4))
    assert look_at_jpeg(data).kind == "photo"
    broken = look_at_jpeg(data[: len(data) // 2])
    assert (broken.kind, broken.phash) == (None, None)


@pytest.mark.slow
def test_pictures_in_other_files(child: PageChild, tmp_path: Path) -> None:
    photo = make.jpeg(scene(5, (1190, 1684)))
    mixed = make.pdf(make.scan_on(photo), make.text_on, make.scan_on(make.jpeg(make.printed_page())))
    (tmp_path / "mixed.pdf").write_bytes(mixed)
    child.open(tmp_path / "mixed.pdf", kind="pdf")
    assert [child.page_look(number).kind for number in (1, 2, 3)] == ["photo", None, "scan"]
    (tmp_path / "book.cbz").write_bytes(make.zipped({"1.jpg": photo, "2.jpg": photo[:3000]}))
    child.open(tmp_path / "book.cbz", kind="cbz")
    assert [child.page_look(number).kind for number in (1, 2)] == ["photo", None]


# ── what photos look like ────────────────────────────────────────────────────────────────────────


def compressed(picture: Image.Image, quality: int) -> Image.Image:
    return Image.open(io.BytesIO(make.jpeg(picture, quality=quality)))


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "small": lambda one: ImageOps.contain(one, (320, 320)),
    "compressed": lambda one: compressed(one, 25),
    "brighter": lambda one: ImageEnhance.Brightness(one).enhance(1.15),
    "grey": lambda one: one.convert("L"),
    "cropped": lambda one: ImageOps.crop(one, round(one.width * 0.02)),
    "all": lambda one: compressed(
        ImageEnhance.Brightness(ImageOps.contain(ImageOps.crop(one, 8), (400, 400))).enhance(1.08), 60
    ),
}


@pytest.mark.parametrize("copy", COPIES)
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_a_copy_is_near(copy: str, seed: int | None) -> None:
    with Image.open(BOATHOUSE) as photo:
        original = photo.convert("RGB") if seed is None else scene(seed)
    assert bits(original, COPIES[copy](original)) <= NEAR


def test_other_pictures_are_far() -> None:
    scenes = [scene(seed) for seed in range(12)]
    assert min(bits(one, other) for one in scenes for other in scenes if one is not other) > NEAR


def test_every_orientation_has_the_same_hash() -> None:
    found = {look_at_jpeg(make.oriented_jpeg(orientation)).phash for orientation in range(1, 9)}
    first, *others = (int(one, 16) for one in found if one)
    assert all((first ^ other).bit_count() <= NEAR for other in others)
    upright = Image.open(io.BytesIO(make.oriented_jpeg(6)))
    assert bits(upright, ImageOps.exif_transpose(upright)) > NEAR, "turned, it would be another one"


def test_nothing_to_tell_pictures_apart_by() -> None:
    fog = grain((400, 300), 2, 1)
    assert perceptual_hash(fog) is None
