"""The projectors of the simulated KoboldCpp: which pixels reach the encoder, and how many tokens they make.

Written from KoboldCpp 1.115.1 (`tools/mtmd/clip.cpp`; the numbers of its mmproj files), not from the client. What was
measured on a real server (mlp, gemma3, qwen2vl) agrees to the token.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image, ImageOps

__all__ = ["PROJECTORS", "Projector", "clamp", "letterbox"]

Size = tuple[int, int]
Colour = tuple[int, int, int]

_CLIP_GREY = (122, 116, 104)
_BLACK = (0, 0, 0)


def clamp(image: Image.Image, longest_px: int) -> Image.Image:
    """Scale the longest side down to `--visionmaxres`, as KoboldCpp does before the projector."""
    longest = max(image.size)
    if longest <= longest_px:
        return image
    width, height = (max(1, round(side * longest_px / longest)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=3.0)


def letterbox(image: Image.Image) -> Image.Image:
    """Black bars where one side is more than four times the other."""
    width, height = image.size
    wide, high = max(width, height // 4), max(height, width // 4)
    if (wide, high) == (width, height):
        return image
    canvas = Image.new("RGB", (wide, high))
    canvas.paste(image, ((wide - width) // 2, (high - height) // 2))
    return canvas


class Encoder(Protocol):
    """What one kind of projector does with an image."""

    def view(self, image: Image.Image) -> Image.Image:
        """The pixels that reach the encoder; tiles put together as they lie on the page."""
        ...

    def tokens(self, size: Size) -> int:
        """Image tokens of a view of that size."""
        ...


@dataclass(frozen=True)
class Square:
    """One square, the image padded into it: CLIP, SigLIP, MobileVLM, Gemma 3."""

    side_px: int
    count: int
    colour: Colour = _CLIP_GREY

    def view(self, image: Image.Image) -> Image.Image:
        return ImageOps.pad(image, (self.side_px, self.side_px), Image.Resampling.BILINEAR, self.colour)

    def tokens(self, size: Size) -> int:
        return self.count * (size[0] // self.side_px)


@dataclass(frozen=True)
class Dynamic:
    """Sides rounded to the patch, the area kept between two bounds: Qwen-VL, Pixtral, GLM-4V, LFM2 and more."""

    patch_px: int
    low: int
    high: int
    row_tokens: int = 0

    def view(self, image: Image.Image) -> Image.Image:
        return image.resize(self._size(*image.size), Image.Resampling.BICUBIC)

    def _size(self, width: int, height: int) -> Size:
        patch = self.patch_px
        low, high = self.low * patch**2, self.high * patch**2
        wide, tall = (max(1, math.floor(side / patch + 0.5)) * patch for side in (width, height))  # as std::round
        if wide * tall > high:
            shrink = math.sqrt(width * height / high)
            wide, tall = (max(1, math.floor(side / shrink / patch)) * patch for side in (width, height))
        elif wide * tall < low:
            grow = math.sqrt(low / (width * height))
            wide, tall = (math.ceil(side * grow / patch) * patch for side in (width, height))
        return wide, tall

    def tokens(self, size: Size) -> int:
        columns, rows = (side // self.patch_px for side in size)
        return columns * rows + self.row_tokens * rows


@dataclass(frozen=True)
class LongestEdge:
    """The longest side scaled to one length, up as well as down: LightOnOCR."""

    longest_px: int
    patch_px: int

    def view(self, image: Image.Image) -> Image.Image:
        scale = self.longest_px / max(image.size)
        width, height = (max(1, math.ceil(side * scale / self.patch_px)) * self.patch_px for side in image.size)
        return image.resize((width, height), Image.Resampling.BICUBIC)

    def tokens(self, size: Size) -> int:
        return (size[0] // self.patch_px) * (size[1] // self.patch_px)


@dataclass(frozen=True)
class Pinpoints:
    """An overview, and the grid of tiles that keeps most of the image: LLaVA 1.6, Granite Vision."""

    side_px: int
    count: int
    grids: Sequence[Size]

    def view(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        if max(width, height) <= self.side_px:
            return ImageOps.pad(image, (self.side_px, self.side_px), Image.Resampling.BICUBIC, _BLACK)

        def fitness(grid: Size) -> tuple[int, int]:
            wide, tall = grid[0] * self.side_px, grid[1] * self.side_px
            scale = min(wide / width, tall / height)
            kept = min(int(width * scale) * int(height * scale), width * height)
            return kept, kept - wide * tall

        columns, rows = max(self.grids, key=fitness)
        size = (columns * self.side_px, rows * self.side_px)
        return ImageOps.pad(image, size, Image.Resampling.BICUBIC, _BLACK)

    def tokens(self, size: Size) -> int:
        parts = (size[0] // self.side_px) * (size[1] // self.side_px)
        return self.count * (1 if parts == 1 else 1 + parts)


@dataclass(frozen=True)
class ClosestGrid:
    """An overview, and the grid of tiles nearest to the image's shape, stretched: InternVL."""

    side_px: int
    count: int
    most: int

    def view(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        grids = [(a, b) for a in range(1, self.most + 1) for b in range(1, self.most // a + 1)]

        def fitness(grid: Size) -> tuple[float, int]:
            is_large = width * height > 0.5 * self.side_px**2 * grid[0] * grid[1]
            return -abs(width / height - grid[0] / grid[1]), grid[0] * grid[1] if is_large else -grid[0] * grid[1]

        columns, rows = max(grids, key=fitness)
        return image.resize((columns * self.side_px, rows * self.side_px), Image.Resampling.BICUBIC)

    def tokens(self, size: Size) -> int:
        parts = (size[0] // self.side_px) * (size[1] // self.side_px)
        return self.count * (1 if parts == 1 else 1 + parts)


@dataclass(frozen=True)
class StretchedTiles:
    """The longest side scaled up or down to so many tiles, and an overview: SmolVLM."""

    side_px: int
    longest_px: int
    count: int
    around: int
    """Tokens of the marks around each tile."""

    def view(self, image: Image.Image) -> Image.Image:
        scale = self.longest_px / max(image.size)
        width, height = (math.ceil(side * scale / self.side_px) * self.side_px for side in image.size)
        return image.resize((width, height), Image.Resampling.BICUBIC)

    def tokens(self, size: Size) -> int:
        parts = 1 + (size[0] // self.side_px) * (size[1] // self.side_px)
        return (self.count + self.around) * parts


@dataclass(frozen=True)
class Slices:
    """An overview, and up to nine slices of about a square each: MiniCPM-V."""

    side_px: int
    count: int
    most: int = 9

    def view(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        scale = math.sqrt(max(1, self._parts(image.size)) * self.side_px**2 / (width * height))
        size = (max(14, round(width * scale)), max(14, round(height * scale)))
        return image.resize(size, Image.Resampling.BICUBIC)

    def _parts(self, size: Size) -> int:
        needed = math.ceil(size[0] * size[1] / self.side_px**2 - 0.01)
        return 0 if needed <= 1 else min(needed, self.most)

    def tokens(self, size: Size) -> int:
        return self.count * (1 + self._parts(size))


@dataclass(frozen=True)
class NativeSquares:
    """The smallest square the image fits into, padded: DeepSeek-OCR."""

    sides_px: Sequence[int]

    def view(self, image: Image.Image) -> Image.Image:
        side = next((side for side in self.sides_px if side >= max(image.size)), self.sides_px[-1])
        return ImageOps.pad(image, (side, side), Image.Resampling.BICUBIC, (127, 127, 127))

    def tokens(self, size: Size) -> int:
        rows = size[0] // 64
        return rows * (rows + 1) + 1


def _grids(most: int) -> list[Size]:
    return [(a, b) for a in range(1, most + 1) for b in range(1, most // a + 1)]


PROJECTORS: dict[str, tuple[Encoder, int]] = {
    "mlp": (Square(336, 576), 2),
    "mlp-384": (Square(384, 729), 2),
    "mlp-grid": (Pinpoints(336, 576, [(1, 2), (2, 1), (2, 2), (3, 1), (1, 3)]), 2),
    "mlp-grid-384": (Pinpoints(384, 729, _grids(10)), 2),
    "ldp": (Square(336, 144), 2),
    "ldpv2": (Square(336, 144), 2),
    "resampler": (Slices(448, 64), 4),
    "resampler-2.5": (Slices(448, 96), 4),
    "qwen2vl": (Dynamic(28, 8, 2048), 12),
    "qwen3vl": (Dynamic(32, 8, 2048), 12),
    "gemma3": (Square(896, 256, _BLACK), 16),
    "gemma4": (Dynamic(48, 40, 280), 16),
    "pixtral": (Dynamic(16, 8, 1024, row_tokens=1), 4),
    "mistral3": (Dynamic(28, 8, 1024, row_tokens=1), 4),
    "lightonocr": (LongestEdge(1540, 28), 4),
    "internvl": (ClosestGrid(448, 256, 12), 6),
    "idefics3": (StretchedTiles(512, 2048, 64, 3), 4),
    "idefics3-384": (StretchedTiles(384, 1536, 81, 3), 4),
    "lfm2": (Dynamic(32, 64, 256), 4),
    "glm4v": (Dynamic(28, 8, 4096), 6),
    "paddleocr": (Dynamic(28, 188, 1280), 6),
    "dots_ocr": (Dynamic(28, 4, 14_400), 6),
    "deepseekocr": (NativeSquares((512, 640, 1024, 1280)), 3),
}
"""By name: the encoder, and the tokens of the marks and line feeds around an image.

A name is the projector's type, with the size of the encoder where the files of one type differ.
"""


@dataclass(frozen=True)
class Projector:
    """One projector as it is loaded; `encoder_px` stands for a file with another encoder of the same kind."""

    kind: str
    encoder_px: int | None = None
    visionmaxres: int | None = 1024
    mrope: bool = False

    @property
    def _encoder(self) -> Encoder:
        encoder = PROJECTORS[self.kind][0]
        if self.encoder_px and isinstance(encoder, Square):
            count = (self.encoder_px // 14) ** 2 if self.kind.startswith("mlp") else encoder.count
            return Square(self.encoder_px, count, encoder.colour)
        return encoder

    def view(self, image: Image.Image) -> Image.Image:
        """The pixels the encoder gets."""
        if self.visionmaxres is not None:
            image = letterbox(clamp(image, self.visionmaxres))
        encoder = self._encoder
        if self.encoder_px and not isinstance(encoder, Square):
            image = clamp(image, self.encoder_px)
        return encoder.view(image)

    def tokens(self, view: Image.Image) -> int:
        """Tokens of one image with its markers and the two line feeds after it.

        With M-RoPE the server counts positions, not the cells that the image takes.
        """
        encoder, around = self._encoder, PROJECTORS[self.kind][1]
        if self.mrope and isinstance(encoder, Dynamic):
            return max(side // encoder.patch_px for side in view.size) + around
        return encoder.tokens(view.size) + around
