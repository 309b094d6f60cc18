"""Which pages are photos, and what they look like: found once for each page, kept with its facts in the ledger.

What is found changes nothing of how a page is read, so it makes nothing due. It is told with the page, as `image_kind`
and, of photos, `phash`. What a person says of a page stands for all later runs, until another word or `auto` is said.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from kobold_reader.errors import SourceError
from kobold_reader.pages import FileFacts, PageFacts, Scalar, SourceFile
from kobold_reader.reading.due import ImageKindUse
from kobold_reader.reading.ledger import KnownPage
from kobold_reader.reading.openfile import OpenFile

__all__ = ["looked_at", "told"]

log = logging.getLogger(__name__)

_KIND: Final = "image_kind"
_HASH: Final = "phash"
_GIVEN: Final = "_image_kind_given"
"""What a person said."""
_LOOKED: Final = "_looked"
"""That nothing was found is remembered, too."""
_PICTURE_COVERAGE: Final = 0.5


def looked_at(
    known: KnownPage, opened: OpenFile, source: SourceFile, file: FileFacts, given: ImageKindUse | None
) -> KnownPage:
    """Return a page with what its picture is; the very same page where nothing new is known of it.

    Opens the file where nobody has looked at this page yet. A page that nobody can look at is left as it is: when it is
    to be read, it says itself why that fails.

    Args:
        known: The page.
        opened: Opens its file.
        source: Its file.
        file: What is known of the file.
        given: What the user says that pictures are.
    """
    facts = known.facts
    if not _is_picture(facts):
        return known
    metadata = dict(facts.metadata)
    if _LOOKED not in metadata:
        try:
            look = opened.page_look(source, file, facts.page_number)
        except SourceError as err:
            log.debug("%s page %d: not looked at (%s)", source.path, facts.page_number, err)
        else:
            found = {_KIND: look.kind, _HASH: look.phash, _LOOKED: True}
            metadata |= {key: value for key, value in found.items() if value is not None}
    if given == "auto":
        metadata.pop(_GIVEN, None)
    elif given is not None:
        metadata[_GIVEN] = given
    return known if metadata == facts.metadata else replace(known, facts=replace(facts, metadata=metadata))


def _is_picture(facts: PageFacts) -> bool:
    """Whether the page is one picture as a whole, and not a text with a figure."""
    return facts.width_px > 0 and facts.text_layer != "good" and facts.image_coverage >= _PICTURE_COVERAGE


def told(metadata: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return a page's metadata as others see it: what a person said of it in place of what was found."""
    kind = metadata.get(_GIVEN, metadata.get(_KIND))
    shown = {key: value for key, value in metadata.items() if not key.startswith("_")}
    if kind is not None:
        shown[_KIND] = kind
    if kind != "photo":
        shown.pop(_HASH, None)  # all pages of writing look alike
    return shown
