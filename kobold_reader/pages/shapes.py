"""Connected shapes of a black-and-white mask: specks, letters, words, stains."""

from __future__ import annotations

import re
from dataclasses import dataclass

from PIL import Image, ImageChops

__all__ = ["Shape", "find_shapes", "without_rules"]

_MAX_RUNS = 60_000
_RUN = re.compile(b"\xff+")


@dataclass(slots=True)
class Shape:
    """One connected shape: its box, right and bottom exclusive, and its pixels."""

    left: int
    top: int
    right: int
    bottom: int
    area: int

    @property
    def width(self) -> int:
        """Of the box."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """Of the box."""
        return self.bottom - self.top

    def _add(self, other: Shape) -> None:
        self.left, self.top = min(self.left, other.left), min(self.top, other.top)
        self.right, self.bottom = max(self.right, other.right), max(self.bottom, other.bottom)
        self.area += other.area


def find_shapes(mask: Image.Image, ink: Image.Image | None = None) -> list[Shape] | None:
    """The connected shapes of a mask of 0 and 255; None where there are too many to be writing.

    Args:
        mask: What hangs together, also across a corner, is one shape.
        ink: Areas count the pixels of this mask; left out: of `mask` itself.
    """
    width, height = mask.size
    data = mask.tobytes()
    inked = data if ink is None else ink.tobytes()
    parent: list[int] = []
    whole: list[Shape] = []
    above: list[tuple[int, int, int]] = []
    runs = 0
    for y in range(height):
        offset, first = y * width, 0
        here: list[tuple[int, int, int]] = []
        for match in _RUN.finditer(data, offset, offset + width):
            start, end = match.start() - offset, match.end() - offset
            area = end - start if ink is None else inked.count(b"\xff", match.start(), match.end())
            while first < len(above) and above[first][1] < start:
                first += 1
            root, index = -1, first
            while index < len(above) and above[index][0] <= end:
                other = above[index][2]
                index += 1
                while parent[other] != other:
                    parent[other] = parent[parent[other]]
                    other = parent[other]
                if root < 0:
                    root = other
                elif other != root:
                    parent[other] = root
                    whole[root]._add(whole[other])  # noqa: SLF001 - of the same class
            if root < 0:
                root = len(parent)
                parent.append(root)
                whole.append(Shape(start, y, end, y + 1, area))
            else:
                shape = whole[root]
                if start < shape.left:  # noqa: PLR1730 - once a run, thousands a page: quicker than min()
                    shape.left = start
                if end > shape.right:  # noqa: PLR1730
                    shape.right = end
                shape.bottom = y + 1
                shape.area += area
            here.append((start, end, root))
        above = here
        runs += len(here)
        if runs > _MAX_RUNS:
            return None
    return [shape for node, shape in enumerate(whole) if parent[node] == node]


def without_rules(mask: Image.Image, longest_px: int, *, slack_px: int = 0) -> Image.Image:
    """The mask without what runs on for longer than a stroke: both axes, by way of a transposition each.

    Args:
        mask: Of 0 and 255.
        longest_px: A stroke is no longer.
        slack_px: A rule may climb or jump so far to each side and still be one: it lies askew on the scan.
    """
    rule = re.compile(b"\xff{%d,}" % longest_px)
    for _ in range(2):
        thick = mask
        for by in range(1, slack_px + 1):
            for step in (by, -by):
                thick = ImageChops.lighter(thick, ImageChops.offset(mask, 0, step))
        data = rule.sub(lambda run: bytes(len(run[0])), thick.tobytes())
        mask = ImageChops.darker(mask, Image.frombytes("L", mask.size, data)).transpose(Image.Transpose.TRANSPOSE)
    return mask
