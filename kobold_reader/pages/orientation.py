"""Turns pictures upright, and finds whether the writing on a page is sideways. In doubt it is upright.

Letters are closer to their neighbours in a line than to the lines above and below, in print, typescript and
handwriting, in columns and in tables, skewed or not; the shapes of a photo or a map have neighbours on all sides. So
the nearest neighbours of some hundred shapes show along which axis the writing runs.

They show which end of that axis is up for Latin writing only: more pairs of neighbours are level at their bottoms than
at their tops, because tall letters are common and letters with tails are rare. By that measure Cyrillic, Greek,
Armenian and Arabic print looks upside down. So it decides to which side a page that is surely sideways is turned, but
an upright page is never turned on its head by it: that takes reading a few lines (`Posture`).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kobold_reader.pages.shapes import Shape, find_shapes, without_rules
from kobold_reader.pages.values import Box, Posture

_Axis = Literal["across", "down"]
_Numbers = NDArray[np.signedinteger[Any]]
_Pixels = tuple[int, int, int, int]
_Step = Image.Transpose

UPRIGHT = {
    1: (None, 0),
    2: (_Step.FLIP_LEFT_RIGHT, 0),
    3: (_Step.ROTATE_180, 180),
    4: (_Step.FLIP_TOP_BOTTOM, 180),
    5: (_Step.TRANSPOSE, 270),
    6: (_Step.ROTATE_270, 90),
    7: (_Step.TRANSVERSE, 90),
    8: (_Step.ROTATE_90, 270),
}
"""EXIF orientation → what makes a picture upright, and how far clockwise that turns."""
CLOCKWISE = {0: None, 90: _Step.ROTATE_270, 180: _Step.ROTATE_180, 270: _Step.ROTATE_90}
_UNDO = {_Step.ROTATE_90: _Step.ROTATE_270, _Step.ROTATE_270: _Step.ROTATE_90}

_RULE_PX = 48  # at about 100 dpi: rules, bars and dark areas of photos are longer, strokes of letters shorter
_LETTER_PX = 5
_LONG_SIDES = 4
"""A receipt with too many shapes is judged by its middle, which is this many times as long as wide."""
_MIN_SHAPES = 12
_SAMPLE = 700  # letters whose neighbours are looked for
_AT_ONCE = 128  # letters, as a dense page has thousands of possible neighbours
_NEAR = 2.0  # letters: no neighbour is further away
_BESIDE = 1.5
_WORD = 2.0
_SMALL, _LONG, _THICK = 0.5, 12.0, 3.0  # letters: limits of a letter, an accent or a joined word
_UPRIGHT_SHARE = 0.65
_SIDEWAYS_SHARE = 0.8  # columns of Chinese, Japanese and Korean reach 0.76
_SIDEWAYS_PAIRS = 60

# The lead that votes for one way up need over those for the other: as a ratio, and in standard deviations.
_CLEAR_RATIO = 3.0
_CLEAR_SIGMAS = 3.5
_CLEAR_VOTES = 30

_LINES = 8
_LINE_STARTS = 40
_LINE_LETTERS = 5
_LINE_ASPECT = (2.5, 10.0)  # longer pieces of a skewed line would show its neighbours too
_LINE_PAD = 0.2


def upright(picture: Image.Image, orientation: int, turn_deg: int = 0) -> Image.Image:
    """The picture as its EXIF orientation asks for, and turned clockwise beyond that."""
    for step in (UPRIGHT[orientation][0], CLOCKWISE[turn_deg]):
        picture = picture if step is None else picture.transpose(step)
    return picture


def stored_box(box: Box, orientation: int, turn_deg: int) -> Box:
    """Where a part of the page `upright` is in the picture as stored."""
    for step in (CLOCKWISE[turn_deg], UPRIGHT[orientation][0]):
        if step is not None:
            box = _moved(box, _UNDO.get(step, step))
    return box


def _moved(box: Box, step: _Step) -> Box:
    left, top, right, bottom = box
    if step in {_Step.TRANSPOSE, _Step.TRANSVERSE, _Step.ROTATE_90, _Step.ROTATE_270}:
        left, top, right, bottom = top, left, bottom, right
    if step in {_Step.FLIP_LEFT_RIGHT, _Step.ROTATE_180, _Step.TRANSVERSE, _Step.ROTATE_270}:
        left, right = 1 - right, 1 - left
    if step in {_Step.FLIP_TOP_BOTTOM, _Step.ROTATE_180, _Step.TRANSVERSE, _Step.ROTATE_90}:
        top, bottom = 1 - bottom, 1 - top
    return left, top, right, bottom


@dataclass(frozen=True, slots=True)
class Orientation:
    """Which way the writing of a page runs."""

    turn_deg: int = 0
    """Clockwise turn that puts it upright: 0, 90 or 270; 0 also where that is not known."""
    posture: Posture | None = None
    """The two ways between which only reading can decide, for the page as it is; None where the turn is known."""

    def after(self, turn_deg: int) -> Posture | None:
        """The posture once the page was turned clockwise by `turn_deg`."""
        step = CLOCKWISE[turn_deg]
        if self.posture is None or step is None:
            return self.posture
        first, second = ((turn - turn_deg) % 360 for turn in self.posture.turns)
        return Posture(turns=(first, second), lines=tuple(_moved(box, step) for box in self.posture.lines))


@dataclass(slots=True)
class _Votes:
    """How many letters have their nearest neighbour beside or below them, and which edges of neighbours are level."""

    across: int
    down: int
    bottoms: int = 0
    """Neighbours across that are level at their bottoms and not at their tops; the others are alike."""
    tops: int = 0
    rights: int = 0
    lefts: int = 0


def find_orientation(mask: Image.Image) -> Orientation:
    """Judge a mask of ink (255) at about 100 dpi."""
    written = without_rules(mask, _RULE_PX)
    shapes = find_shapes(written)
    if shapes is None:  # on a long receipt there are too many, but a part of it is enough
        shapes = find_shapes(_middle(written))
    letters = None if shapes is None else _Letters.of(shapes)
    if letters is None:
        return Orientation()
    votes = letters.votes()
    pairs = votes.across + votes.down
    if votes.across >= _UPRIGHT_SHARE * pairs:
        if _is_clear(votes.bottoms, votes.tops):
            return Orientation()
        return Orientation(0, _posture(letters.lines("across"), (0, 180), mask.size))
    if votes.down >= _SIDEWAYS_PAIRS and votes.down >= _SIDEWAYS_SHARE * pairs:
        turn = 90 if _is_clear(votes.rights, votes.lefts) else 270 if _is_clear(votes.lefts, votes.rights) else 0
        return Orientation(turn, _posture(letters.lines("down"), (90, 270), mask.size))
    return Orientation()


def _middle(mask: Image.Image) -> Image.Image:
    """Return a long mask with ink in its middle only, so that places on it stay what they are."""
    reach = _LONG_SIDES * min(mask.size)
    middle = Image.new(mask.mode, mask.size)
    left, top = (max(0, (side - reach) // 2) for side in mask.size)
    box = (left, top, mask.width - left, mask.height - top)
    middle.paste(mask.crop(box), box)
    return middle


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


def _posture(lines: Iterable[_Pixels], turns: tuple[int, int], size: tuple[int, int]) -> Posture | None:
    width, height = size
    boxes = []
    for left, top, right, bottom in lines:
        pad = max(1.0, _LINE_PAD * min(right - left, bottom - top))
        start = max(0.0, left - pad) / width, max(0.0, top - pad) / height
        boxes.append((*start, min(width, right + pad) / width, min(height, bottom + pad) / height))
    return Posture(turns=turns, lines=tuple(boxes)) if boxes else None


class _Letters:
    """The shapes that may be letters: left, top, right and bottom of each, and the page's letter size, in px."""

    def __init__(self, boxes: _Numbers, size: int) -> None:
        self._boxes = boxes
        self._left, self._top, self._right, self._bottom = boxes.T
        self._size = size

    @classmethod
    def of(cls, shapes: list[Shape]) -> _Letters | None:
        """The letters among these shapes, by the median size of all but specks; None if there are too few."""
        if len(shapes) < _MIN_SHAPES:
            return None
        boxes = np.array([(one.left, one.top, one.right, one.bottom) for one in shapes], np.int32)
        sides = boxes[:, 2:] - boxes[:, :2]
        longest = sides.max(axis=1)
        sizes = np.sort(longest[longest >= _LETTER_PX])
        if sizes.size < _MIN_SHAPES:
            return None
        size = int(sizes[sizes.size // 2])
        is_letter = (longest >= max(3.0, _SMALL * size)) & (longest <= _LONG * size)
        is_letter &= sides.min(axis=1) <= _THICK * size
        return cls(boxes[is_letter], size) if np.count_nonzero(is_letter) >= _MIN_SHAPES else None

    def votes(self) -> _Votes:
        """Look for the nearest neighbours of a sample of the letters."""
        asked = np.arange(0, len(self._boxes), len(self._boxes) // _SAMPLE + 1)
        width, height = (self._right - self._left)[asked], (self._bottom - self._top)[asked]
        # Letters that touch are one word, which is nearer to the lines above and below than to the next word.
        is_word = (np.maximum(width, height) >= _WORD * self._size) & (
            (width >= _WORD * height) | (height >= _WORD * width)
        )
        votes = _Votes(int((is_word & (width > height)).sum()), int((is_word & (height > width)).sum()))
        beside, below = [], []
        for few in np.array_split(asked[~is_word], len(asked) // _AT_ONCE + 1):
            one, other, apart, is_across = self._nearest(few)
            votes.across += int(is_across.sum())
            votes.down += int((~is_across).sum())
            pairs = np.stack((np.minimum(one, other), np.maximum(one, other)))
            is_near = apart <= _BESIDE * self._size
            beside.append(pairs[:, is_near & is_across])
            below.append(pairs[:, is_near & ~is_across])
        votes.bottoms, votes.tops = self._level(np.concatenate(beside, axis=1), self._top, self._bottom)
        votes.rights, votes.lefts = self._level(np.concatenate(below, axis=1), self._left, self._right)
        return votes

    def _nearest(self, few: _Numbers) -> tuple[_Numbers, _Numbers, _Numbers, NDArray[np.bool_]]:
        """The nearest neighbours of some letters: both indices, their distance, and whether it is beside the letter."""
        reach = round(_NEAR * self._size)
        widest = int((self._right - self._left).max())
        asked, other = _between(self._left, self._left[few] - reach - widest, self._right[few] + reach)
        asked = few[asked]
        across = np.maximum(self._left[other] - self._right[asked], self._left[asked] - self._right[other])
        down = np.maximum(self._top[other] - self._bottom[asked], self._top[asked] - self._bottom[other])
        # Neighbours do not touch, and are beside or below each other, not diagonal.
        apart = np.where(across > 0, across, down)
        is_near = ((across > 0) != (down > 0)) & (apart <= _NEAR * self._size)
        asked, other, apart, is_across = asked[is_near], other[is_near], apart[is_near], across[is_near] > 0
        order = np.lexsort((other, apart, asked))
        nearest = order[np.diff(asked[order], prepend=-1) > 0]
        return asked[nearest], other[nearest], apart[nearest], is_across[nearest]

    def _level(self, pairs: _Numbers, start: _Numbers, end: _Numbers) -> tuple[int, int]:
        """The number of pairs that are level at their ends and not at their starts, and the reverse."""
        one, other = np.unique(pairs, axis=1)
        longest = np.maximum(end[one] - start[one], end[other] - start[other])
        at_start, at_end = np.abs(start[one] - start[other]), np.abs(end[one] - end[other])
        level, apart = np.maximum(1.0, 0.1 * longest), np.maximum(2.1, 0.2 * longest)
        is_letter = longest <= _THICK * self._size
        ends = is_letter & (at_end <= level) & (at_start >= apart)
        starts = is_letter & (at_start <= level) & (at_end >= apart)
        return int(np.count_nonzero(ends)), int(np.count_nonzero(starts))

    def lines(self, axis: _Axis) -> list[_Pixels]:
        """Pieces of lines along this axis: the few that have the most letters."""
        found: list[tuple[int, _Pixels]] = []
        used: set[int] = set()
        following = self._following(axis)
        boxes: list[_Pixels] = [tuple(box) for box in self._boxes.tolist()]
        for start in range(0, len(boxes), len(boxes) // _LINE_STARTS + 1):
            if start in used:
                continue
            left, top, right, bottom = boxes[start]
            letters, index = 0, start
            while index >= 0:
                left, top = min(left, boxes[index][0]), min(top, boxes[index][1])
                right, bottom = max(right, boxes[index][2]), max(bottom, boxes[index][3])
                letters += 1
                used.add(index)
                if max(right - left, bottom - top) >= _LINE_ASPECT[1] * self._size:
                    break
                index = next((other for other in following.get(index, ()) if other not in used), -1)
            length, thickness = (right - left, bottom - top) if axis == "across" else (bottom - top, right - left)
            if letters >= _LINE_LETTERS and length >= _LINE_ASPECT[0] * thickness:
                found.append((letters, (left, top, right, bottom)))
        found.sort(key=lambda one: -one[0])
        return [line for _, line in found[:_LINES]]

    def _following(self, axis: _Axis) -> dict[int, list[int]]:
        """For each letter those that may continue its line, the nearest first."""
        across, down = (self._left, self._right), (self._top, self._bottom)
        (start, end), (above, below) = (across, down) if axis == "across" else (down, across)
        one, other = _between(start, end + 1, end + 2 * self._size)
        is_level = (above[other] <= below[one]) & (above[one] <= below[other])
        one, other = one[is_level], other[is_level]
        order = np.lexsort((other, start[other] - end[one], one))
        following: defaultdict[int, list[int]] = defaultdict(list)
        for index, next_one in zip(one[order].tolist(), other[order].tolist(), strict=True):
            following[index].append(next_one)
        return following


def _between(places: _Numbers, lowest: _Numbers, highest: _Numbers) -> tuple[_Numbers, _Numbers]:
    """All pairs of a range and a place in it, bounds included, as indices."""
    order = np.argsort(places, kind="stable")
    first = np.searchsorted(places[order], lowest, "left")
    counts = np.maximum(np.searchsorted(places[order], highest, "right") - first, 0)
    ranges = np.repeat(np.arange(counts.size), counts)
    return ranges, order[np.arange(ranges.size) + np.repeat(first - np.cumsum(counts) + counts, counts)]
