"""A model that knows what the test card of one seed says, and reads its print down to a size."""

from kobold_reader.pages.testcard import draw_card
from tests.kobold_simulator import BrainRequest, ScriptBrain

__all__ = ["CARD", "DRAWN_BY", "SEED", "card_text", "reads_down_to"]

SEED = 7
CARD = draw_card(SEED)
DRAWN_BY = "kobold_reader.reading.selftest.secrets.randbelow"
"""What chooses the seed; a test that patches it knows the card."""


def card_text(smallest_pt: int) -> str:
    """What a reader sees who reads print down to that size."""
    return "\n".join(" ".join(row.texts) for row in CARD.rows if row.size_pt >= smallest_pt)


def reads_down_to(smallest_pt: int) -> ScriptBrain:
    """Plausible also where no image was shown, as a real model is."""

    def answer(request: BrainRequest) -> str:
        return card_text(smallest_pt) if request.images else "A card with some words on it: amber 1234."

    return ScriptBrain(answer)
