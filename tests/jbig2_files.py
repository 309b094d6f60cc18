"""JBIG2 as few programs write it: regions coded by the arithmetic coder of the standard (T.88), and refined."""

from __future__ import annotations

import struct
from collections.abc import Callable

from PIL import Image

from tests import page_files as make

# Chance of the less probable symbol; the states after the more and the less probable one; 1: they change roles.
_STATES = [
    (0x5601, 1, 1, 1), (0x3401, 2, 6, 0), (0x1801, 3, 9, 0), (0x0AC1, 4, 12, 0), (0x0521, 5, 29, 0),
    (0x0221, 38, 33, 0),
    (0x5601, 7, 6, 1), (0x5401, 8, 14, 0), (0x4801, 9, 14, 0), (0x3801, 10, 14, 0), (0x3001, 11, 17, 0),
    (0x2401, 12, 18, 0), (0x1C01, 13, 20, 0), (0x1601, 29, 21, 0), (0x5601, 15, 14, 1), (0x5401, 16, 14, 0),
    (0x5101, 17, 15, 0), (0x4801, 18, 16, 0), (0x3801, 19, 17, 0), (0x3401, 20, 18, 0), (0x3001, 21, 19, 0),
    (0x2801, 22, 19, 0), (0x2401, 23, 20, 0), (0x2201, 24, 21, 0), (0x1C01, 25, 22, 0), (0x1801, 26, 23, 0),
    (0x1601, 27, 24, 0), (0x1401, 28, 25, 0), (0x1201, 29, 26, 0), (0x1101, 30, 27, 0), (0x0AC1, 31, 28, 0),
    (0x09C1, 32, 29, 0), (0x08A1, 33, 30, 0), (0x0521, 34, 31, 0), (0x0441, 35, 32, 0), (0x02A1, 36, 33, 0),
    (0x0221, 37, 34, 0), (0x0141, 38, 35, 0), (0x0111, 39, 36, 0), (0x0085, 40, 37, 0), (0x0049, 41, 38, 0),
    (0x0025, 42, 39, 0), (0x0015, 43, 40, 0), (0x0009, 44, 41, 0), (0x0005, 45, 42, 0), (0x0001, 45, 43, 0),
]  # fmt: skip


class _Coder:
    """The MQ coder of annex E."""

    def __init__(self) -> None:
        self._interval, self._code, self._left = 0x8000, 0, 12
        self._data = bytearray(1)
        self._contexts: dict[int, tuple[int, int]] = {}

    def add(self, context: int, bit: int) -> None:
        state, likely = self._contexts.get(context, (0, 0))
        chance, after_likely, after_other, changes = _STATES[state]
        self._interval -= chance
        if (bit == likely) == (self._interval >= chance):
            self._code += chance
        else:
            self._interval = chance
        if bit != likely:
            self._contexts[context] = (after_other, 1 - likely if changes else likely)
        elif self._interval & 0x8000:
            return
        else:
            self._contexts[context] = (after_likely, likely)
        while not self._interval & 0x8000:
            self._interval, self._code, self._left = self._interval << 1, self._code << 1, self._left - 1
            if not self._left:
                self._put()

    def _put(self) -> None:
        if self._data[-1] != 0xFF and self._code >= 0x8000000:
            self._data[-1] += 1
            self._code &= 0x7FFFFFF
        self._left = 7 if self._data[-1] == 0xFF else 8
        shift = 27 - self._left
        self._data.append(self._code >> shift & 0xFF)
        self._code &= (1 << shift) - 1

    def end(self) -> bytes:
        highest = self._code + self._interval
        self._code |= 0xFFFF
        if self._code >= highest:
            self._code -= 0x8000
        for _ in range(2):
            self._code <<= self._left
            self._put()
        return bytes(self._data[1:]) + b"\xff\xac"


def _pixels(picture: Image.Image) -> Callable[[int, int], int]:
    width, height = picture.size
    levels = picture.convert("L").tobytes()
    return lambda x, y: int(levels[y * width + x] < 128) if 0 <= x < width and 0 <= y < height else 0


_BEFORE = [(-4, 0), (-3, 0), (-2, 0), (-1, 0), (-3, -1), (-2, -1), (-1, -1), (0, -1), (1, -1), (2, -1), (3, -1),
           (-2, -2), (-1, -2), (0, -2), (1, -2), (2, -2)]  # fmt: skip
_REFINED_BEFORE = [(-1, 0), (-1, -1), (0, -1), (1, -1)]
_REFERENCE = [(0, -1), (-1, 0), (0, 0), (1, 0), (0, 1), (1, 1)]


def _coded(picture: Image.Image, reference: Image.Image | None = None) -> bytes:
    own, coder = _pixels(picture), _Coder()
    other = _pixels(reference) if reference else None
    for y in range(picture.height):
        for x in range(picture.width):
            near = [own(x + dx, y + dy) for dx, dy in (_REFINED_BEFORE if other else _BEFORE)]
            near += [other(x + dx, y + dy) for dx, dy in _REFERENCE] if other else []
            coder.add(sum(bit << place for place, bit in enumerate(near)), own(x, y))
    return coder.end()


def _segment(number: int, kind: int, picture: Image.Image, body: bytes, refers_to: tuple[int, ...] = ()) -> bytes:
    region = struct.pack(">IIIIB", *picture.size, 0, 0, 0) + body
    head = struct.pack(">IBB", number, kind, len(refers_to) << 5) + bytes(refers_to)
    return head + struct.pack(">BI", 1, len(region)) + region


def refined(picture: Image.Image) -> bytes:
    """A white picture kept for later, then one that refines it: MuPDF gives up at the first, PDFium draws both."""
    white = Image.new("1", picture.size, 1)
    moved_pixels = struct.pack("8b", 3, -1, -3, -1, 2, -2, -2, -2)
    kept = _segment(1, 36, white, b"\0" + moved_pixels + _coded(white))
    return make.jbig2_page(*picture.size) + kept + _segment(2, 42, picture, b"\1" + _coded(picture, white), (1,))


def generic(picture: Image.Image) -> bytes:
    """One region, as most programs write it."""
    moved_pixels = struct.pack("8b", 3, -1, -3, -1, 2, -2, -2, -2)
    return make.jbig2_page(*picture.size) + _segment(1, 38, picture, b"\0" + moved_pixels + _coded(picture))


def white_refined(picture: Image.Image) -> bytes:
    """A white picture, as a refinement of the white page."""
    white = Image.new("1", picture.size, 1)
    return make.jbig2_page(*picture.size) + _segment(1, 42, white, b"\1" + _coded(white, white))
