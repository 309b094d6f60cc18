"""Pictures that show no page: scenes, and pages as a phone sees them."""

from __future__ import annotations

import random

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps


def grain(size: tuple[int, int], sigma: float, seed: int) -> Image.Image:
    """Grey noise around the middle, the same for every run: what is decided by it must not change from day to day."""
    even = Image.frombytes("L", size, random.Random(seed).randbytes(size[0] * size[1]))
    return Image.blend(Image.new("L", size, 128), even, sigma / 74)  # the deviation of even noise


def scene(seed: int, size: tuple[int, int] = (640, 480)) -> Image.Image:
    """A landscape: sky, hills, trees, another one for every seed."""
    chance = random.Random(seed)
    width, height = size
    above, below = (f"rgb({','.join(str(chance.randrange(90, 240)) for _ in range(3))})" for _ in range(2))
    picture = ImageOps.colorize(Image.linear_gradient("L").resize(size), above, below)
    draw = ImageDraw.Draw(picture)
    for _ in range(14):
        x, y = chance.randrange(width), chance.randrange(height // 3, height)
        wide, high = chance.randrange(40, width // 2), chance.randrange(40, height // 2)
        colour = tuple(chance.randrange(20, 220) for _ in range(3))
        draw.ellipse((x - wide, y - high // 2, x + wide, y + high), fill=colour)
    for _ in range(60):
        x, y = chance.randrange(width), chance.randrange(height // 2, height)
        draw.line((x, y, x + chance.randrange(-30, 30), y - chance.randrange(20, 120)), fill=(40, 50, 30), width=5)
    noise = grain(size, 40, seed).convert("RGB")
    return ImageChops.add(picture, noise, 1, -128).filter(ImageFilter.GaussianBlur(1))


def on_a_desk(page: Image.Image, *, darkest: float = 0.6) -> Image.Image:
    """A page as a phone takes it: a little askew, wood around it, the window on one side."""
    size = (768, 1024)
    desk = ImageOps.colorize(grain(size, 30, 1), (60, 35, 20), (150, 100, 60))
    page = ImageOps.contain(page.convert("RGB"), (round(size[0] * 0.92), round(size[1] * 0.92)))
    mask = Image.new("L", page.size, 255).rotate(2, expand=True)
    page = page.rotate(2, expand=True, resample=Image.Resampling.BICUBIC)
    desk.paste(page, ((size[0] - page.width) // 2, (size[1] - page.height) // 2), mask)
    light = Image.linear_gradient("L").resize(size).point(lambda level: int(255 * darkest + (1 - darkest) * level))
    return ImageChops.multiply(desk, Image.merge("RGB", [light] * 3))
