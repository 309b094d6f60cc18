"""The self-test: a server is shown a drawn card, and its answer is compared with the card.

It answers three questions that no endpoint answers:

- Is the image seen at all? On KoboldCpp before 1.77, which counts no tokens, words that come back are the only proof.
- How small may print be? The card is an A4 page whose rows get smaller; losses on the way to the encoder are included.
  Where the context has no room for the card at its full size, it is shrunk to the size at which pages are sent there,
  or to the largest that fits.
- How large an image does the server let through (`--visionmaxres`)? Where the number of an image's tokens depends on
  its size, two sheets of one shape that become equally many tokens reached the encoder at one size. Where it does not
  (the old CLIP projectors, Gemma 3), the encoder's own 336 or 896 px are below anything the server may be told, and the
  question does not matter.

An encoder's own limit and the server's can be told apart only for known families.

Results are kept in a small JSON file beside the ledger. Each holds for one start of a server with one model: a server
that was started again, perhaps with another `--visionmaxres`, is tested again. Without the file the test is made again,
so no trouble with it ends a run.
"""

from __future__ import annotations

import logging
import re
import secrets
import threading
import time
from dataclasses import dataclass
from typing import Any

from kobold_reader.errors import ContextTooSmallError, ImageNotSeenError, NoVisionModelError, ServerError
from kobold_reader.kobold import (
    SETTINGS,
    Completion,
    Family,
    GenerateRequest,
    KoboldClient,
    Lease,
    ServerInfo,
    image_tokens,
    render_prompt,
)
from kobold_reader.kobold.protocol import CONTEXT_MARGIN_TOKENS, MIN_ANSWER_TOKENS
from kobold_reader.pages.testcard import (
    CARD_HEIGHT_PX,
    CARD_WIDTH_PX,
    Card,
    CardRow,
    draw_card,
    draw_probe,
    shrink_card,
)
from kobold_reader.reading.due import long_side_px
from kobold_reader.reading.remembered import Remembered, SelfTestFile

log = logging.getLogger(__name__)

DEFAULT_VISIONMAXRES_PX = 1024
"""What a server shrinks images to unless started with --visionmaxres; no endpoint reports it (measured on 1.115.1)."""
UNLIMITED_BEFORE = (1, 83)
"""The first KoboldCpp that shrinks images before the encoder does."""
LARGEST_VISIONMAXRES_PX = CARD_HEIGHT_PX
"""KoboldCpp allows no more."""

ROOM_TOKENS = 1024
"""What an image of more than the default size must leave for prompt and answer: larger images gain nothing where the
answer is cut."""
_SMALLER_PX = (1024, 768, 512, 448, 320)
"""To these the card is shrunk where it does not fit."""

_STEPS_PX = (512, 768, 1024, 1280, 1536, 1792, 2048)
"""The limits that are told apart; the server's may be anything between the first and the last."""
_BELOW_ALL_PX = 448
_PROBE_SHAPE = 2.4
"""With this shape each step becomes another number of tokens, also where they come in slices (MiniCPM-V), and no known
family's limit of area makes two steps alike."""
_ANSWER_TOKENS = 768
_ROW_SHARE = 0.75
"""A row counts as read where this share of its words and numbers came back."""
_TRIES = ((0.1, 1), (0.4, 2))
"""Temperature and seed; the second try is for a model whose first word led it astray."""


def start_of(client: KoboldClient) -> float | None:
    """Return when the server was started, in seconds of the epoch; None where it does not tell."""
    try:
        uptime_s = client.perf().get("uptime")
    except ServerError as err:
        log.debug("%s: no uptime: %s", client.url, err)
        return None
    if not isinstance(uptime_s, int | float) or isinstance(uptime_s, bool):
        return None
    return time.time() - uptime_s


def _remembered(lease: Lease) -> Remembered | None:
    """Return the remembered result for the server that is leased, if it was not started again since."""
    info = lease.info
    found = SelfTestFile().find(info.url)
    if found is None or found.holds_for(info, start_of(lease.client), time.time()):
        return found
    log.info("%s was started again since its self-test; `kobold-reader doctor` tests it again", info.url)
    return None


class Eyesight:
    """What is known of the vision of an engine's servers; looked up once after each check of a server by the pool.

    Args:
        visionmaxres_px: The user's word; None: the result of a self-test, else KoboldCpp's default.
    """

    def __init__(self, visionmaxres_px: int | None = None) -> None:
        self._given_px = visionmaxres_px
        self._known: dict[str, tuple[ServerInfo, int]] = {}
        self._proved: dict[str, ServerInfo] = {}

    def visionmaxres_px(self, lease: Lease, family: Family) -> int:
        """Return the longest side, in px, of an image to be sent: what the server lets through, as far as is known.

        A measured limit above KoboldCpp's default is used as far as the context has room for it.
        """
        info = lease.info
        known, px = self._known.get(info.url, (None, 0))
        if known is not info:
            found = _remembered(lease)
            if found and not found.is_seen:
                log.warning(
                    "%s read not one word of the test card: what it writes about pages may be invented. "
                    "`kobold-reader doctor` says what to change",
                    info.url,
                )
            px = self._given_px or DEFAULT_VISIONMAXRES_PX
            if found and found.visionmaxres_px and not self._given_px:
                px = with_room_px(info, family, found.visionmaxres_px)
                log.info("%s lets %d px through, as its self-test found out", info.url, found.visionmaxres_px)
            self._known[info.url] = (info, px)
        return px

    def ensure_vision(
        self,
        lease: Lease,
        family: Family,
        *,
        time_limit_s: float | None = None,
        cancel: threading.Event | None = None,
    ) -> None:
        """Prove once per start of a server that it sees images, where no token counts prove it for each page.

        Raises:
            NoVisionModelError: Nothing of the card came back.
            ServerError: As `self_test` says.
        """
        info = lease.info
        if info.counts_tokens or self._proved.get(info.url) is info:
            return
        known = _remembered(lease)
        if known is None or not (known.is_seen or known.family == family.name):
            found = self_test(lease, family, time_limit_s=time_limit_s, cancel=cancel)
            is_seen = found.smallest is not None
        else:
            is_seen = known.is_seen
        if not is_seen:
            raise NoVisionModelError(
                f"{info.url}: not one word of a test card came back, so this KoboldCpp {info.version} seems not "
                "to see images at all; what it writes about pages would be invented.",
                server=info.url,
                hint=f"Start it {SETTINGS['mmproj'].remedy('FILE.gguf')}, with the file made for its model, or "
                "update it. Until it is started again, only `kobold-reader doctor` shows it another card.",
            )
        log.info("%s: sees images, as a test card proved", info.url)
        self._proved[info.url] = info


# ── the size at which pages are sent ──────────────────────────────────────────────────────────────


def a4_tokens(family: Family, max_side_px: int) -> int:
    """Return how many tokens a whole A4 page takes at most that is sent with no side longer than this."""
    side_px = min(family.max_side_px, max_side_px)
    long_px = long_side_px(CARD_WIDTH_PX, CARD_HEIGHT_PX, side_px, family.max_pixels)
    return image_tokens(family, round(long_px * CARD_WIDTH_PX / CARD_HEIGHT_PX), long_px)


def with_room_px(info: ServerInfo, family: Family, limit_px: int) -> int:
    """Return the longest side to send to a server that lets `limit_px` through.

    More than KoboldCpp's default only as far as an A4 page of that size leaves room for a good part of its text.
    """
    larger = (px for px in reversed(_STEPS_PX) if DEFAULT_VISIONMAXRES_PX < px <= limit_px)
    fitting = (px for px in larger if a4_tokens(family, px) + ROOM_TOKENS <= info.context_tokens)
    return next(fitting, min(limit_px, DEFAULT_VISIONMAXRES_PX))


def fitting_px(info: ServerInfo, family: Family, prompt_tokens: int, most_px: int) -> int | None:
    """Return the longest side, `most_px` or smaller, at which an A4 page fits into the context; None: it never does."""
    taken_tokens = prompt_tokens + CONTEXT_MARGIN_TOKENS + MIN_ANSWER_TOKENS
    sides_px = (most_px, *(px for px in _SMALLER_PX if px < most_px))
    return next((px for px in sides_px if a4_tokens(family, px) + taken_tokens <= info.context_tokens), None)


# ── the test ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class SelfTest:
    """The result of one self-test; `letter_px` and `visionmaxres_px` are as in `Remembered`."""

    smallest: CardRow | None
    """The smallest row that was read; None: nothing came back."""
    is_smallest_of_card: bool
    """Whether that is the last row of the card: the server may read even smaller print."""
    letter_px: float | None
    visionmaxres_px: int | None
    is_counted: bool
    """Whether token counts prove that the card was seen."""
    card_px: int = CARD_HEIGHT_PX
    """Height of the card as it was sent: less than it was drawn with where the context has no room for more."""
    is_cut: bool = False
    """Whether the context had no room for the whole answer: smaller print may be read, too."""
    has_dropped_sheets: bool = False
    """Whether the limit is unknown because the sheets that measure it did not fit into the context."""


def self_test(
    lease: Lease, family: Family, *, time_limit_s: float | None = None, cancel: threading.Event | None = None
) -> SelfTest:
    """Show the card and the sheets to the leased server, and remember the result; `time_limit_s` is for one request.

    Raises:
        ContextTooSmallError: The server would drop the card silently.
        ImageNotSeenError: It dropped the card.
        MissingExtraError: Pillow cannot draw the card here.
        ServerError: As `Lease.generate` says.
    """
    card = draw_card(secrets.randbelow(2**31))
    info, test = lease.info, _Test(lease, family, time_limit_s, cancel)
    card_px = test.card_px()
    smallest, is_counted, is_cut = test.smallest_print(
        card if card_px == CARD_HEIGHT_PX else shrink_card(card, card_px), card_px
    )
    visionmaxres_px, has_dropped_sheets = test.visionmaxres_px()
    lets_through_px = visionmaxres_px or DEFAULT_VISIONMAXRES_PX
    max_side_px = min(family.max_side_px, with_room_px(info, family, lets_through_px))
    is_encoder_known = family.is_known or visionmaxres_px is not None
    card_side_px = min(family.max_side_px, lets_through_px, card_px)
    reaches_px = long_side_px(CARD_WIDTH_PX, CARD_HEIGHT_PX, card_side_px, family.max_pixels)
    letter_px = round(smallest.letter_px * reaches_px / CARD_HEIGHT_PX, 1) if smallest and is_encoder_known else None
    found = Remembered(
        model=info.model,
        version=info.version,
        started_s=start_of(lease.client),
        tested_s=time.time(),
        is_seen=smallest is not None,
        visionmaxres_px=visionmaxres_px,
        max_side_px=max_side_px,
        max_pixels=family.max_pixels,
        smallest_pt=smallest.size_pt if smallest else None,
        letter_px=letter_px,
        family=family.name,
    )
    SelfTestFile().put(info.url, found)
    return SelfTest(
        smallest,
        smallest is card.rows[-1],
        letter_px,
        visionmaxres_px,
        is_counted,
        card_px=card_px,
        is_cut=is_cut,
        has_dropped_sheets=has_dropped_sheets,
    )


def smallest_row(card: Card, text: str) -> CardRow | None:
    """Return the smallest row that was read; two rows in a row that were not read end the search.

    Order and line breaks are the model's own; each word and number is on the card once.
    """
    words = set(re.findall(r"[^\W\d_]+|\d+", text.casefold()))
    smallest, misses = None, 0
    for row in card.rows:
        if sum(word in words for word in row.texts) >= _ROW_SHARE * len(row.texts):
            smallest, misses = row, 0
        else:
            misses += 1
            if misses == 2:  # noqa: PLR2004  (one may be misread, two are the end of its eyesight)
                break
    return smallest


class _Test:
    """The requests of one self-test."""

    def __init__(
        self, lease: Lease, family: Family, time_limit_s: float | None, cancel: threading.Event | None
    ) -> None:
        self._lease = lease
        self._info = info = lease.info
        self._family = family
        self._time_limit_s = time_limit_s
        self._cancel = cancel
        self._prompt = lease.run(
            lambda client: render_prompt(client, info, family, family.prompts["ocr"]), cancel=cancel
        )
        self._tokens_by_side: dict[int, int] = {}

    def _generate(self, image: bytes, **fields: Any) -> Completion:
        request = GenerateRequest(prompt=self._prompt.text, images=(image,), **fields)
        return self._lease.generate(request, time_limit_s=self._time_limit_s, cancel=self._cancel)

    def card_px(self) -> int:
        """Return the height at which the card is sent: as drawn, or what fits, but no more than what runs send."""
        info, family = self._info, self._family
        if image_tokens(family, CARD_WIDTH_PX, CARD_HEIGHT_PX) + ROOM_TOKENS <= info.context_tokens:
            return CARD_HEIGHT_PX
        found_px = fitting_px(info, family, self._prompt.tokens, min(DEFAULT_VISIONMAXRES_PX, family.max_side_px))
        if found_px is None:
            raise ContextTooSmallError(
                f"the context of {info.context_tokens} tokens is too small for the test card: even at "
                f"{_SMALLER_PX[-1]} px it takes up to {a4_tokens(family, _SMALLER_PX[-1])}, and the prompt "
                f"{self._prompt.tokens}; KoboldCpp would drop it without a word.",
                server=info.url,
                hint=f"Start it {SETTINGS['contextsize'].remedy('8192')}.",
            )
        return long_side_px(CARD_WIDTH_PX, CARD_HEIGHT_PX, found_px, family.max_pixels)

    def smallest_print(self, card: Card, card_px: int) -> tuple[CardRow | None, bool, bool]:
        """Return the smallest row that was read.

        Also whether token counts prove that the card was seen, and whether the answer was cut for want of room.
        """
        info, family = self._info, self._family
        card_tokens = image_tokens(family, round(card_px * CARD_WIDTH_PX / CARD_HEIGHT_PX), card_px)
        room_tokens = info.context_tokens - card_tokens - self._prompt.tokens - CONTEXT_MARGIN_TOKENS
        max_length = min(_ANSWER_TOKENS, room_tokens, info.max_answer_tokens)
        is_counted = False
        for temperature, seed in _TRIES:
            fields = {**family.decoding_for(info), "temperature": temperature, "stop_sequence": family.stop_sequence}
            completion = self._generate(card.image, max_length=max_length, sampler_seed=seed, **fields)
            tokens = completion.prompt_tokens
            is_counted = tokens is not None
            if tokens is not None and tokens <= self._prompt.tokens:
                raise ImageNotSeenError(
                    f"{info.url}: the server did not see the test card: it read {tokens} tokens, as many as the text "
                    "alone has.",
                    server=info.url,
                    hint=f"Start it {SETTINGS['mmproj'].remedy('FILE.gguf')}, with the file made for its model.",
                )
            smallest = smallest_row(card, completion.text)
            if smallest:
                return smallest, is_counted, completion.ending == "length" and max_length < _ANSWER_TOKENS
        return None, is_counted, False

    def visionmaxres_px(self) -> tuple[int | None, bool]:
        """Return the longest side that the server lets through, to the next of `_STEPS_PX`; None: nothing tells.

        Also whether nothing tells because the sheets were dropped.
        """
        if self._info.version_tuple < UNLIMITED_BEFORE:
            return LARGEST_VISIONMAXRES_PX, False
        if self._family.image.kind == "fixed":
            return None, False
        try:
            whole = self._tokens(_STEPS_PX[-1])
            low, high = 0, len(_STEPS_PX) - 1
            position = _STEPS_PX.index(DEFAULT_VISIONMAXRES_PX)  # the limit of most servers
            while low < high:
                if self._tokens(_STEPS_PX[position]) == whole:
                    high = position
                else:
                    low = position + 1
                position = (low + high) // 2
            if high == 0 and self._tokens(_BELOW_ALL_PX) == whole:
                return None, False  # the size of an image makes no difference
        except ImageNotSeenError as err:
            log.debug("%s: no sheet can be measured: %s", self._info.url, err)
            return None, True
        return _STEPS_PX[high], False

    def _tokens(self, side_px: int) -> int:
        if side_px not in self._tokens_by_side:
            sheet = draw_probe(side_px, round(side_px / _PROBE_SHAPE))
            tokens = self._generate(sheet, max_length=1).prompt_tokens
            if tokens is None or tokens <= self._prompt.tokens:
                raise ImageNotSeenError(f"a sheet of {side_px} px was dropped.", server=self._info.url)
            self._tokens_by_side[side_px] = tokens
        return self._tokens_by_side[side_px]
