"""Builds PDFs and pictures in code, so that no test depends on a file that somebody made."""

from __future__ import annotations

import functools
import io
import math
import random
import struct
from collections.abc import Callable, Sequence
from typing import Any

import pymupdf
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont, ImageOps

A4_INCHES = (8.27, 11.69)
A4_PT = (595, 842)
WORDS = "The quick brown fox jumps over the lazy dog near the river bank at seven o'clock sharp"


# ── sheets of paper ───────────────────────────────────────────────────────────────────────────


def sheet(dpi: int = 150, colour: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    return Image.new("RGB", (round(A4_INCHES[0] * dpi), round(A4_INCHES[1] * dpi)), colour)


def font(dpi: int, points: float) -> Any:
    return ImageFont.load_default(size=points * dpi / 72)


def write(
    paper: Image.Image,
    text: str,
    *,
    dpi: int,
    at: tuple[float, float] = (0.5, 0.5),
    points: float = 11,
    ink: tuple[int, int, int] = (20, 20, 20),
) -> Image.Image:
    """Print text with its top left corner at shares of the sheet."""
    ImageDraw.Draw(paper).text((paper.width * at[0], paper.height * at[1]), text, font=font(dpi, points), fill=ink)
    return paper


def handwrite(
    paper: Image.Image,
    *,
    dpi: int,
    seed: int = 0,
    at: tuple[float, float] = (0.4, 0.4),
    ink: tuple[int, int, int] = (40, 40, 90),
    stroke_mm: float = 0.45,
) -> Image.Image:
    """One scribbled word of about 25 × 6 mm: loops of a thin, antialiased line."""
    chance = random.Random(seed)
    mm, fine = dpi / 25.4, 4
    points = []
    for step in range(200):
        turn = step / 200 * 5 * 2 * math.pi
        x = step / 200 * 25 + 1.3 * math.cos(turn) + chance.uniform(-0.05, 0.05)
        y = 3 + 2.4 * math.sin(turn) * (1 if step % 80 < 50 else 0.5)
        points.append((x * mm * fine, y * mm * fine))
    size = (round(30 * mm * fine), round(9 * mm * fine))
    layer = Image.new("L", size, 0)
    ImageDraw.Draw(layer).line(points, fill=255, width=max(1, round(stroke_mm * mm * fine)))
    layer = layer.resize((round(30 * mm), round(9 * mm)), Image.Resampling.LANCZOS)
    place = (round(paper.width * at[0]), round(paper.height * at[1]))
    paper.paste(Image.new("RGB", layer.size, ink), place, layer)
    return paper


def printed_page(dpi: int = 150, lines: int = 40) -> Image.Image:
    return _printed_page(dpi, lines).copy()


@functools.lru_cache
def _printed_page(dpi: int, lines: int) -> Image.Image:
    paper = sheet(dpi)
    for line in range(lines):
        write(paper, WORDS, dpi=dpi, at=(0.1, 0.08 + line * 0.02), points=10)
    return paper


def with_dust(paper: Image.Image, *, dpi: int, specks: int = 120, seed: int = 1) -> Image.Image:
    chance = random.Random(seed)
    draw = ImageDraw.Draw(paper)
    for _ in range(specks):
        x, y = chance.uniform(0, paper.width), chance.uniform(0, paper.height)
        radius = chance.uniform(0.05, 0.3) * dpi / 25.4
        level = chance.randint(30, 180)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(level,) * 3)
    return paper


def with_texture(paper: Image.Image, *, sigma: float = 5, seed_blur: float = 0.7) -> Image.Image:
    noise = Image.effect_noise(paper.size, sigma).filter(ImageFilter.GaussianBlur(seed_blur))
    grain = Image.merge("RGB", (noise, noise, noise))
    return ImageChops.add(paper, grain, 1, -128)


def with_bleed_through(paper: Image.Image, *, dpi: int, strength: float = 0.08) -> Image.Image:
    """The other side of the leaf, mirrored, blurred, faint."""
    back = ImageOps.mirror(printed_page(dpi)).resize(paper.size)
    back = back.filter(ImageFilter.GaussianBlur(dpi / 100))
    ink = ImageOps.invert(back).point(lambda value: int(value * strength))
    return ImageChops.subtract(paper, ink)


def with_edge_shadow(paper: Image.Image, *, width: float = 0.03, dark: int = 120) -> Image.Image:
    """A soft shadow along two edges, as the spine and the lid of a scanner cast it."""
    shadow = Image.new("L", paper.size, 0)
    draw = ImageDraw.Draw(shadow)
    reach = round(paper.width * width)
    for x in range(reach):
        draw.line((x, 0, x, paper.height), fill=round(dark * (1 - x / reach)))
    for y in range(reach):
        draw.line((0, y, paper.width, y), fill=round(dark * (1 - y / reach)))
    return ImageChops.subtract(paper, Image.merge("RGB", (shadow, shadow, shadow)))


def with_uneven_light(paper: Image.Image, *, drop: int = 40) -> Image.Image:
    ramp = Image.linear_gradient("L").point(lambda value: value * drop // 255).resize(paper.size)
    return ImageChops.subtract(paper, Image.merge("RGB", (ramp, ramp, ramp)))


def with_black_bar(paper: Image.Image, *, width: float = 0.012) -> Image.Image:
    """The scanner's lid beyond the paper."""
    draw = ImageDraw.Draw(paper)
    draw.rectangle((paper.width * (1 - width), 0, paper.width, paper.height), fill=(15, 15, 15))
    return paper


def with_holes(paper: Image.Image, *, dpi: int) -> Image.Image:
    draw, mm = ImageDraw.Draw(paper), dpi / 25.4
    for y in (0.365, 0.635):
        x, radius = 11 * mm, 3 * mm
        middle = paper.height * y
        draw.ellipse((x - radius, middle - radius, x + radius, middle + radius), fill=(60, 60, 60))
    return paper


# ── encoded pictures ──────────────────────────────────────────────────────────────────────────


def encoded(picture: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(picture: Image.Image, *, quality: int = 85, **options: Any) -> bytes:
    return encoded(picture, "JPEG", quality=quality, **options)


def corners() -> Image.Image:
    """90 × 60 px, red top left, green top right, blue bottom left, white bottom right."""
    picture = Image.new("RGB", (90, 60), (255, 255, 255))
    picture.paste((220, 0, 0), (0, 0, 45, 30))
    picture.paste((0, 200, 0), (45, 0, 90, 30))
    picture.paste((0, 0, 220), (0, 30, 45, 60))
    return picture


_STORED = {  # EXIF orientation → how an upright picture is stored under it
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def oriented_jpeg(orientation: int) -> bytes:
    """`corners()` as a camera would store it, held that way."""
    step = _STORED[orientation]
    picture = corners() if step is None else corners().transpose(step)
    exif = Image.Exif()
    exif[0x0112] = orientation
    return jpeg(picture, quality=95, exif=exif)


def tiff(frames: Sequence[Image.Image], **options: Any) -> bytes:
    return encoded(frames[0], "TIFF", save_all=True, append_images=list(frames[1:]), **options)


def grey_png_16(levels: tuple[int, int] = (0, 65535)) -> bytes:
    """A 16-bit grey PNG: left half the first level, right half the second."""
    row = struct.pack("<" + "H" * 64, *([levels[0]] * 32 + [levels[1]] * 32))
    return encoded(Image.frombytes("I;16", (64, 64), row * 64), "PNG")


# ── PDFs ──────────────────────────────────────────────────────────────────────────────────────


def pdf(*draw: Callable[[Any], Any], size: tuple[float, float] = A4_PT, **save: Any) -> bytes:
    """A PDF with a page for each function, which is given the page to draw on."""
    document = pymupdf.open()
    for step in draw:
        step(document.new_page(width=size[0], height=size[1]))
    data: bytes = document.tobytes(**save)
    document.close()
    return data


def text_on(page: Any, lines: int = 30) -> None:
    for line in range(lines):
        page.insert_text((60, 80 + line * 20), f"Line {line + 1}. {WORDS}", fontsize=10)


def scan_on(data: bytes) -> Callable[[Any], None]:
    """Lay a picture over the whole page."""
    return lambda page: page.insert_image(page.rect, stream=data, keep_proportion=False)


def hidden_text_on(page: Any) -> None:
    for line in range(30):
        page.insert_text((60, 80 + line * 20), WORDS, fontsize=10, render_mode=3)


def both(*steps: Callable[[Any], Any]) -> Callable[[Any], None]:
    def draw(page: Any) -> None:
        for step in steps:
            step(page)

    return draw


def blank_on(page: Any) -> None:
    """Leave the page as it is."""


def labelled_pdf() -> bytes:
    """Pages i, ii, then 1."""
    document = pymupdf.open()
    for _ in range(3):
        text_on(document.new_page())
    document.set_page_labels(
        [
            {"startpage": 0, "prefix": "", "style": "r", "firstpagenum": 1},
            {"startpage": 2, "prefix": "", "style": "D", "firstpagenum": 1},
        ]
    )
    data: bytes = document.tobytes()
    document.close()
    return data


def locked_pdf(*, user: str, owner: str = "owner") -> bytes:
    return pdf(text_on, encryption=pymupdf.PDF_ENCRYPT_AES_256, user_pw=user, owner_pw=owner, permissions=4)
