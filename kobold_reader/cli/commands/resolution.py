"""Which pages were read with fewer px than the server gives now, as far as its last self-test tells; asks no server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from kobold_reader.cli.output import spell_count
from kobold_reader.pages import ImageBudget
from kobold_reader.reading.asking import ENGINE_NAME
from kobold_reader.reading.ledger import Ledger
from kobold_reader.reading.remembered import SelfTestFile
from kobold_reader.reading.resolution import is_clearly_lower, would_reach_px

__all__ = ["LowerResolution", "find_lower", "spell_lower"]


@dataclass(frozen=True, slots=True)
class LowerResolution:
    """Pages that `--redo low-resolution` would read again.

    Attributes:
        pages: How many.
        read_px: The most px that any of them was read with, along its longest side.
        now_px: The most px that any of them would be read with.
        server: The server that would give them.
        tested: The day of its self-test; it may have been started otherwise since.
    """

    pages: int
    read_px: int
    now_px: int
    server: str
    tested: str


def find_lower(ledger: Path, urls: Sequence[str]) -> LowerResolution | None:
    """Return what the first of the servers with a remembered self-test would give more; None: nothing."""
    file = SelfTestFile()
    url, found = next(((url, found) for url in urls if (found := file.find(url))), ("", None))
    if found is None or not ledger.is_file():
        return None
    with Ledger(ledger, read_only=True) as opened:
        rows = opened.resolutions(ENGINE_NAME)
    lower = []
    for read_px, width_px, height_px, width_pt, height_pt, pages in rows:
        now_px = would_reach_px(
            (width_px, height_px), (width_pt, height_pt), found.max_side_px, found.max_pixels, ImageBudget().max_dpi
        )
        if is_clearly_lower(read_px, now_px):
            lower.append((read_px, now_px, pages))
    if not lower:
        return None
    return LowerResolution(
        pages=sum(pages for _, _, pages in lower),
        read_px=max(read_px for read_px, _, _ in lower),
        now_px=max(now_px for _, now_px, _ in lower),
        server=url,
        tested=datetime.fromtimestamp(found.tested_s, UTC).date().isoformat(),
    )


def spell_lower(lower: LowerResolution) -> str:
    """Return it as one line, with what to do."""
    were = "was" if lower.pages == 1 else "were"
    return (
        f"{spell_count(lower.pages, 'page')} {were} read at up to {lower.read_px} px; {lower.server} could give "
        f"{lower.now_px} px when it was tested ({lower.tested}): --redo low-resolution"
    )
