"""Which model family wants what: a table, and a few functions that read it.

`family` says what a row holds, `templates` and `wording` what rows share; the rows stand in `guide` (the pairs of
KoboldCpp's Vision Model Guide), `today` (what came after) and `specialists` (models that only read). `choosing` finds
the row of a server's model, `recommended` names models for a given graphics memory.
"""

from kobold_reader.kobold.families.choosing import DEFAULT, FAMILIES, choose_family
from kobold_reader.kobold.families.family import Decoding, Family, ImageRule, Thinking, image_tokens
from kobold_reader.kobold.families.recommended import RECOMMENDED, Recommendation
from kobold_reader.kobold.families.templates import Tags, tags_of

__all__ = [
    "DEFAULT",
    "FAMILIES",
    "RECOMMENDED",
    "Decoding",
    "Family",
    "ImageRule",
    "Recommendation",
    "Tags",
    "Thinking",
    "choose_family",
    "image_tokens",
    "tags_of",
]
