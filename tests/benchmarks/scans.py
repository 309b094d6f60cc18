"""Scans to measure with: drawn pages whose every one is another, as pictures and in PDFs."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pymupdf
from PIL import Image, ImageDraw, ImageFont

PAGES_PER_FILE: Final = 200


def letter(number: int, *, size_px: tuple[int, int] = (700, 900), mode: str = "L", lines: int = 41) -> Image.Image:
    """A typewritten page; with 41 lines its print is 11 pt high on A4."""
    image = Image.new(mode, size_px, 250 if mode == "L" else (250, 246, 235))
    draw = ImageDraw.Draw(image)
    height = size_px[1] // (lines + 4)
    font = ImageFont.load_default(size=height * 0.6)
    for line in range(2, lines + 2):
        text = f"{number} {line} Dear Axel, the slates came on Tuesday, inventory 1954/{number * line}."
        draw.text((size_px[0] // 20, line * height), text, fill=10 if mode == "L" else (20, 20, 60), font=font)
    return image


def grained(image: Image.Image, seed: int) -> Image.Image:
    """The page with a scanner's grain, without which no JPEG of paper is as large as it really is."""
    noise = Image.frombytes("L", image.size, random.Random(seed).randbytes(image.width * image.height))
    return Image.blend(image, noise.convert(image.mode), 0.06)


def jpeg(image: Image.Image, quality: int = 85) -> bytes:
    """Encoded as scanners do."""
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    return data.getvalue()


def pdf_of(images: list[bytes], path: Path) -> None:
    """A PDF of A4 pages, each one scan."""
    with pymupdf.open() as document:
        for image in images:
            page = document.new_page(width=595, height=842)
            page.insert_image(page.rect, stream=image, keep_proportion=False)
        document.save(path)


def specks(number: int) -> bytes:
    """A tiny scan like no other, made in no time: for what never looks at it."""
    data = io.BytesIO()
    Image.frombytes("L", (40, 56), random.Random(number).randbytes(40 * 56)).save(data, "PNG")
    return data.getvalue()


def make_pdfs(folder: Path, pages: int, image: Callable[[int], bytes]) -> None:
    """PDFs of scans, up to PAGES_PER_FILE pages each."""
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, pages, PAGES_PER_FILE):
        numbers = range(first, min(first + PAGES_PER_FILE, pages))
        pdf_of([image(number) for number in numbers], folder / f"scans-{first // PAGES_PER_FILE:03}.pdf")
