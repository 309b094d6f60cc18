"""The drawn card that measures what a server can read: an A4 page with words and numbers at falling sizes.

It is drawn in the caller's process, as no foreign file is opened; Pillow is loaded only then. Every seed gives other
words, so that no model can know or guess them.
"""

from __future__ import annotations

import io
import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kobold_reader.errors import MissingExtraError

if TYPE_CHECKING:
    from PIL import Image, ImageFont

CARD_WIDTH_PX = 1448
CARD_HEIGHT_PX = 2048
"""The most that KoboldCpp can be told to let through (`--visionmaxres`)."""

_A4_HEIGHT_PT = 842.0
_SIZES_PT = (84, 64, 48, 38, 30, 24, 18, 14, 12, 10, 9, 8, 7, 6, 5, 4)
_MARGIN_PX = 70
_INK = 20
_X_HEIGHT_SHARE = 0.54
"""Height of the small letters without ascenders in Pillow's own font, as a share of its size."""
_MOST_PAIRS = 3
# Five letters each, any two differ in at least two of them; numbers without 0 and 1, which are letters to many eyes.
_WORDS = (
    "amber anvil apron badge basin bench birch bread brush cabin camel chalk cider cloud coral crane daisy delta dwarf "
    "eagle elbow fable fever flint frost ghost glove grape hazel honey hotel ivory jewel kayak knife lemon lilac linen "
    "maple medal noble nylon ocean olive otter panel pearl piano quilt radar raven salad shelf spoon storm sugar tiger "
    "tulip uncle wagon whale yacht zebra"
)
_DIGITS = "23456789"


@dataclass(frozen=True, slots=True)
class CardRow:
    """One row of the card."""

    size_pt: int
    """Size of its print, the card taken as an A4 page."""
    letter_px: float
    """Height of its small letters (x-height) on the card as drawn."""
    texts: tuple[str, ...]
    """Words and numbers in turn; each is on the card once."""


@dataclass(frozen=True, slots=True)
class Card:
    """A drawn card, and what is on it."""

    image: bytes
    """PNG, grey; as drawn, `CARD_WIDTH_PX` by `CARD_HEIGHT_PX`."""
    rows: tuple[CardRow, ...]
    """From the largest print to the smallest."""


def draw_card(seed: int) -> Card:
    """Draw the card of this seed: the same seed, the same card.

    Raises:
        MissingExtraError: This Pillow cannot draw letters of a chosen size.
    """
    from PIL import Image, ImageDraw

    dice = random.Random(seed)  # noqa: S311  (words for a picture, no secret)
    words = _WORDS.split()
    dice.shuffle(words)
    numbers = [int("".join(dice.choices(_DIGITS, k=4))) for _ in words]
    while len(set(numbers)) < len(numbers):
        numbers = [int("".join(dice.choices(_DIGITS, k=4))) for _ in words]
    # Two blanks: one is hardly seen between a small letter and a digit.
    pairs = [f"{word}  {number}" for word, number in zip(words, numbers, strict=True)]

    picture = Image.new("L", (CARD_WIDTH_PX, CARD_HEIGHT_PX), 255)
    pen = ImageDraw.Draw(picture)
    heights_px = [size * CARD_HEIGHT_PX / _A4_HEIGHT_PT for size in _SIZES_PT]
    gap_px = (CARD_HEIGHT_PX - 2 * _MARGIN_PX - sum(heights_px)) / (len(heights_px) - 1)
    rows: list[CardRow] = []
    top_px = float(_MARGIN_PX)
    for size_pt, height_px in zip(_SIZES_PT, heights_px, strict=True):
        font = _font(height_px)
        count = _MOST_PAIRS
        while count > 1 and font.getlength("   ".join(pairs[:count])) > CARD_WIDTH_PX - 2 * _MARGIN_PX:
            count -= 1
        line, pairs = "   ".join(pairs[:count]), pairs[count:]
        pen.text((_MARGIN_PX, round(top_px + height_px)), line, fill=_INK, font=font, anchor="ls")
        rows.append(CardRow(size_pt, round(_X_HEIGHT_SHARE * height_px, 1), tuple(line.split())))
        top_px += height_px + gap_px
    return Card(_png(picture), tuple(rows))


def shrink_card(card: Card, height_px: int) -> Card:
    """Return the card at a smaller size, as a page is shrunk; its rows keep the sizes that they were drawn with."""
    from PIL import Image

    with Image.open(io.BytesIO(card.image)) as picture:
        size = round(CARD_WIDTH_PX * height_px / CARD_HEIGHT_PX), height_px
        return replace(card, image=_png(picture.resize(size, Image.Resampling.LANCZOS)))


def draw_probe(width_px: int, height_px: int) -> bytes:
    """Draw a ruled sheet of that size as PNG, to see how many tokens such a picture becomes."""
    from PIL import Image, ImageDraw

    picture = Image.new("L", (width_px, height_px), 255)
    pen = ImageDraw.Draw(picture)
    for top_px in range(height_px // 8, height_px, max(1, height_px // 8)):
        pen.line((0, top_px, width_px, top_px), fill=_INK)
    return _png(picture)


def _font(height_px: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    from PIL import ImageFont

    try:
        return ImageFont.load_default(size=height_px)
    except (ImportError, OSError) as err:
        hint = "This Pillow was built without FreeType; PyPI's has it: pip install --force-reinstall Pillow"
        raise MissingExtraError("pillow", "Drawing the test card", hint=hint) from err


def _png(picture: Image.Image) -> bytes:
    data = io.BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()
