"""Does a page lie on its side, or on its head? Judged on its ink, and in doubt it lies right.

Letters stand closer to their neighbours in a line than to the lines above and below, in print, typescript and
handwriting, in columns and in tables, skewed or not; the shapes of a photo or a map have neighbours on all sides. So
the nearest neighbours of some hundred shapes tell along which axis the writing runs.

Which end of that axis is up they tell for Latin writing only: of two neighbours more share the line they stand on than
the line of their tops, because tall letters are many and letters that hang down are few. Cyrillic, Greek, Armenian and
Arabic print looks upside down by that measure. So it may choose the side to which a page that surely lies on its side
is turned, but never turns an upright page on its head: only whoever reads a few lines can tell (`Posture`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from PIL import Image

from kobold_reader.pages.shapes import Shape, find_shapes, without_rules
from kobold_reader.pages.values import Box, Posture

__all__ = ["Lie", "find_lie", "runs_across"]

_Axis = Literal["across", "down"]

_RULE_PX: Final = 48  # at about 100 dpi: rules, bars and dark areas of photos are longer, strokes of letters shorter
_LETTER_PX: Final = 5
_MIN_SHAPES: Final = 12
_SAMPLE: Final = 700  # so many shapes are asked for their neighbours
_NEAR: Final = 2.0  # letters: no neighbour is further away
_BESIDE: Final = 1.5
_WORD: Final = 2.0
_SMALL, _LONG, _THICK = 0.25, 12.0, 3.0  # letters: what is no letter, accent or joined word of the page's own size
_UPRIGHT_SHARE: Final = 0.65
_SIDEWAYS_SHARE: Final = 0.8  # columns of Chinese, Japanese and Korean reach 0.76
_SIDEWAYS_PAIRS: Final = 60

# How much more neighbours must share one line than the other: so many times, and so many standard deviations.
_CLEAR_RATIO: Final = 3.0
_CLEAR_SIGMAS: Final = 3.5
_CLEAR_VOTES: Final = 30

_LINES: Final = 8
_LINE_STARTS: Final = 40
_LINE_LETTERS: Final = 5
_LINE_ASPECT: Final = (2.5, 10.0)  # longer pieces of a skewed line would show its neighbours too
_LINE_PAD: Final = 0.2


@dataclass(frozen=True, slots=True)
class Lie:
    """How the writing of a page lies.

    Attributes:
        turn_deg: Clockwise turn that puts it upright, 0 or 90 or 270; 0 also where that is not known.
        posture: What only reading can tell, of the page as it lies; None where nothing is open.
    """

    turn_deg: int = 0
    posture: Posture | None = None

    def after(self, turn_deg: int) -> Posture | None:
        """What is still open once the page was turned clockwise by `turn_deg`."""
        if self.posture is None or not turn_deg:
            return self.posture
        lines = tuple(_turned(box, turn_deg) for box in self.posture.lines)
        first, second = ((turn - turn_deg) % 360 for turn in self.posture.turns)
        return Posture(turns=(first, second), lines=lines)


@dataclass(slots=True)
class _Votes:
    """What the shapes say: neighbours along each axis, and the side on which those neighbours are level."""

    across: int = 0
    down: int = 0
    bottoms: int = 0
    tops: int = 0
    rights: int = 0
    lefts: int = 0


def find_lie(mask: Image.Image) -> Lie:
    """Judge a mask of ink (255) at about 100 dpi."""
    shapes = find_shapes(without_rules(mask, _RULE_PX))
    letters = None if shapes is None else _Letters.of(shapes)
    if letters is None:
        return Lie()
    votes = letters.votes()
    pairs = votes.across + votes.down
    if votes.across >= _UPRIGHT_SHARE * pairs:
        if _is_clear(votes.bottoms, votes.tops):
            return Lie()
        return Lie(0, _posture(letters.lines("across"), (0, 180), mask.size))
    if votes.down >= _SIDEWAYS_PAIRS and votes.down >= _SIDEWAYS_SHARE * pairs:
        turn = 90 if _is_clear(votes.rights, votes.lefts) else 270 if _is_clear(votes.lefts, votes.rights) else 0
        return Lie(turn, _posture(letters.lines("down"), (90, 270), mask.size))
    return Lie()


def runs_across(shapes: list[Shape]) -> bool:
    """Whether these shapes are letters in lines from left to right, and not the spots of a photo or a map."""
    letters = _Letters.of(shapes)
    if letters is None:
        return False
    votes = letters.votes()
    return votes.across >= _UPRIGHT_SHARE * (votes.across + votes.down)


def _is_clear(votes: int, against: int) -> bool:
    if votes < max(_CLEAR_VOTES, _CLEAR_RATIO * against):
        return False
    return votes - against >= _CLEAR_SIGMAS * math.sqrt(votes + against)


def _posture(lines: Iterable[Shape], turns: tuple[int, int], size: tuple[int, int]) -> Posture | None:
    width, height = size
    boxes = []
    for line in lines:
        pad = max(1.0, _LINE_PAD * min(line.width, line.height))
        left, top = max(0.0, line.left - pad), max(0.0, line.top - pad)
        right, bottom = min(width, line.right + pad), min(height, line.bottom + pad)
        boxes.append((left / width, top / height, right / width, bottom / height))
    return Posture(turns=turns, lines=tuple(boxes)) if boxes else None


def _turned(box: Box, turn_deg: int) -> Box:
    """Where a part of the page is after a clockwise turn."""
    for _ in range(turn_deg // 90):
        left, top, right, bottom = box
        box = (1 - bottom, left, 1 - top, right)
    return box


class _Letters:
    """The shapes that may be letters, found by place.

    Args:
        shapes: All of about the page's letter size.
        size: That size, px.
    """

    def __init__(self, shapes: list[Shape], size: int) -> None:
        self._shapes = shapes
        self._size = size
        self._cell = max(8, 2 * size)
        self._grid: dict[tuple[int, int], list[int]] = {}
        for index, shape in enumerate(shapes):
            for place in self._places(shape, 0):
                self._grid.setdefault(place, []).append(index)

    @classmethod
    def of(cls, shapes: list[Shape]) -> _Letters | None:
        """The letters among these shapes, by the median of what is no speck; None where there are too few."""
        sizes = sorted(max(shape.width, shape.height) for shape in shapes)
        sizes = [size for size in sizes if size >= _LETTER_PX]
        if len(sizes) < _MIN_SHAPES:
            return None
        size = sizes[len(sizes) // 2]
        found = [
            shape
            for shape in shapes
            if max(3.0, _SMALL * size) <= max(shape.width, shape.height) <= _LONG * size
            and min(shape.width, shape.height) <= _THICK * size
        ]
        found = [shape for shape in found if max(shape.width, shape.height) >= 0.5 * size]
        return cls(found, size) if len(found) >= _MIN_SHAPES else None

    def _places(self, shape: Shape, reach: int) -> Iterator[tuple[int, int]]:
        cell = self._cell
        for x in range((shape.left - reach) // cell, (shape.right + reach) // cell + 1):
            for y in range((shape.top - reach) // cell, (shape.bottom + reach) // cell + 1):
                yield x, y

    def _around(self, index: int) -> Iterator[tuple[int, int, int]]:
        """Number of and distances to the shapes that lie right beside, above or below this one."""
        one = self._shapes[index]
        near: set[int] = set()
        for place in self._places(one, round(_NEAR * self._size)):
            near.update(self._grid.get(place, ()))
        near.discard(index)
        left, top, right, bottom = one.left, one.top, one.right, one.bottom
        for number in near:
            other = self._shapes[number]
            across = other.left - right if other.left > right else left - other.right
            down = other.top - bottom if other.top > bottom else top - other.bottom
            if (across > 0) != (down > 0):  # neither touching boxes nor a neighbour round the corner
                yield number, max(across, 0), max(down, 0)

    def votes(self) -> _Votes:
        """Ask a sample of the shapes for their nearest neighbours."""
        votes = _Votes()
        asked: set[tuple[int, int]] = set()
        for index in range(0, len(self._shapes), len(self._shapes) // _SAMPLE + 1):
            one = self._shapes[index]
            if max(one.width, one.height) >= _WORD * self._size and not 1 / _WORD < one.width / one.height < _WORD:
                # Letters that touch: a word is nearer to the lines above and below than to the next word.
                votes.across += one.width > one.height
                votes.down += one.height > one.width
                continue
            nearest = min(self._around(index), key=lambda near: near[1] or near[2], default=None)
            if nearest is None or max(nearest[1:]) > _NEAR * self._size:
                continue
            other, across, down = nearest
            if across:
                votes.across += 1
            else:
                votes.down += 1
            pair = (min(index, other), max(index, other))
            if pair not in asked and max(across, down) <= _BESIDE * self._size:
                asked.add(pair)
                self._compare(one, self._shapes[other], votes, is_across=across > 0)
        return votes

    def _compare(self, one: Shape, other: Shape, votes: _Votes, *, is_across: bool) -> None:
        """Count on which side two neighbours are level while they are not on the other."""
        if is_across:
            longest = max(one.height, other.height)
            first, last = abs(one.top - other.top), abs(one.bottom - other.bottom)
        else:
            longest = max(one.width, other.width)
            first, last = abs(one.left - other.left), abs(one.right - other.right)
        if longest > _THICK * self._size:
            return
        level, apart = max(1.0, 0.1 * longest), max(2.1, 0.2 * longest)
        is_last = last <= level and first >= apart
        is_first = first <= level and last >= apart
        if is_across:
            votes.bottoms += is_last
            votes.tops += is_first
        else:
            votes.rights += is_last
            votes.lefts += is_first

    def lines(self, axis: _Axis) -> list[Shape]:
        """Some pieces of lines along this axis, those with the most letters."""
        found: list[tuple[int, Shape]] = []
        used: set[int] = set()
        for start in range(0, len(self._shapes), len(self._shapes) // _LINE_STARTS + 1):
            if start in used:
                continue
            line, letters = self._line_from(start, axis, used)
            length, thickness = (line.width, line.height) if axis == "across" else (line.height, line.width)
            if letters >= _LINE_LETTERS and length >= _LINE_ASPECT[0] * thickness:
                found.append((letters, line))
        found.sort(key=lambda one: -one[0])
        return [line for _, line in found[:_LINES]]

    def _line_from(self, start: int, axis: _Axis, used: set[int]) -> tuple[Shape, int]:
        """The box of a line from this letter on, and how many letters it holds."""
        first = self._shapes[start]
        line = Shape(first.left, first.top, first.right, first.bottom, first.area)
        letters, index = 1, start
        used.add(start)
        while max(line.width, line.height) < _LINE_ASPECT[1] * self._size:
            here = self._shapes[index]
            following = [
                (across or down, other)
                for other, across, down in self._around(index)
                if other not in used
                and _follows(here, self._shapes[other], axis)
                and (across or down) <= 2 * self._size
            ]
            if not following:
                break
            _, index = min(following)
            used.add(index)
            letters += 1
            added = self._shapes[index]
            line.left, line.right = min(line.left, added.left), max(line.right, added.right)
            line.top, line.bottom = min(line.top, added.top), max(line.bottom, added.bottom)
        return line, letters


def _follows(one: Shape, other: Shape, axis: _Axis) -> bool:
    return other.left >= one.right if axis == "across" else other.top >= one.bottom
