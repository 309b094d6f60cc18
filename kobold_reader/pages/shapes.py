"""Connected shapes of a black-and-white mask: specks, letters, words, stains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_MAX_RUNS = 60_000

_Numbers = NDArray[np.intp]


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
        """Width of the box."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """Height of the box."""
        return self.bottom - self.top


def find_shapes(mask: Image.Image, ink: Image.Image | None = None) -> list[Shape] | None:
    """The connected shapes of a mask of 0 and 255; None where there are too many to be writing.

    Pixels that touch, also at a corner, are one shape. Areas count the pixels of `ink`, or of the mask itself.
    """
    starts, ends = _runs(np.asarray(mask))
    if not starts.size:
        return []
    if starts.size > _MAX_RUNS:
        return None
    stride = mask.width + 1
    shape_of = _connected(starts, ends, stride)
    areas = ends - starts
    if ink is not None:
        edges = np.column_stack((starts, ends)).ravel()
        areas = np.add.reduceat(_in_one_line(np.asarray(ink))[1:], edges, dtype=np.intp)[::2]
    rows = starts // stride
    # Run by run from top to bottom, one shape after the other.
    order = np.argsort(shape_of, kind="stable")
    first = np.flatnonzero(np.diff(shape_of[order], prepend=-1))
    boxes = zip(
        np.minimum.reduceat((starts - rows * stride)[order], first).tolist(),
        rows[order[first]].tolist(),
        np.maximum.reduceat((ends - rows * stride)[order], first).tolist(),
        (rows[order[np.append(first[1:], order.size) - 1]] + 1).tolist(),
        np.add.reduceat(areas[order], first).tolist(),
        strict=True,
    )
    return [Shape(*box) for box in boxes]


def _in_one_line(mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """All rows in one, with a pixel of paper before the first and after each."""
    height, width = mask.shape
    line = np.zeros(height * (width + 1) + 1, np.bool_)
    line[1:].reshape(height, width + 1)[:, :width] = mask
    return line


def _runs(mask: NDArray[np.uint8]) -> tuple[_Numbers, _Numbers]:
    """The places where ink begins and ends, counted along the rows; each row is one longer than the mask is wide."""
    line = _in_one_line(mask)
    edges = np.flatnonzero(line[1:] != line[:-1])
    return edges[::2], edges[1::2]


def _connected(starts: _Numbers, ends: _Numbers, stride: int) -> _Numbers:
    """The number of each run's shape, which is the number of one of its runs."""
    # The runs of the row above that touch: from the first that ends late enough to the last that begins soon enough.
    first = np.searchsorted(ends, starts - stride, "left")
    after = np.searchsorted(starts, ends - stride, "right")
    # Each run joins the first of them; runs that meet only further down are joined after that.
    joined = _followed(np.where(after > first, first, np.arange(starts.size))).tolist()

    def top_of(run: int) -> int:
        while joined[run] != run:
            joined[run] = joined[joined[run]]
            run = joined[run]
        return run

    for run in np.flatnonzero(after - first > 1).tolist():
        top = top_of(run)
        for other in range(first[run] + 1, after[run]):
            joined[top_of(other)] = top
    return _followed(np.array(joined))


def _followed(parent: _Numbers) -> _Numbers:
    """The root of each number."""
    while not np.array_equal(further := parent[parent], parent):
        parent = further
    return parent


def without_rules(mask: Image.Image, longest_px: int, *, slack_px: int = 0) -> Image.Image:
    """The mask without runs that are longer than a stroke, along both axes.

    A rule may climb or jump by `slack_px` to each side, as on a scan it is askew.
    """
    pixels = np.array(mask)
    for _ in range(2):
        thick = pixels.copy()
        for by in range(1, slack_px + 1):
            thick[by:] |= pixels[:-by]
            thick[:-by] |= pixels[by:]
        starts, ends = _runs(thick)
        long = ends - starts >= longest_px
        for start, end in zip(starts[long].tolist(), ends[long].tolist(), strict=True):
            row, column = divmod(start, pixels.shape[1] + 1)
            pixels[row, column : column + end - start] = 0
        pixels = np.ascontiguousarray(pixels.T)
    return Image.fromarray(pixels)
