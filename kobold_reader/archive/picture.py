"""Picture: what photos are compared with: its looks, and the words by which it is described."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from kobold_reader.archive.rows import PageRow
from kobold_reader.archive.store import Catalog
from kobold_reader.html.pages import keywords_in


@dataclass(frozen=True, slots=True)
class Picture:
    """What is known of a picture."""

    phash: str = ""
    """Its perceptual hash; "" where it has none."""
    text: str = ""
    """Its description: what the model says of it, else what people wrote into its file."""
    terms: str = ""
    """Its keywords, else the words of its description, each once."""
    page_id: str = ""
    """Of the page that it is, if it is one of the archive."""

    @classmethod
    def of(cls, row: PageRow) -> Self:
        """Return the picture of a page."""
        return cls._of(row.parts, row.metadata, row.page_id)

    @classmethod
    def at(cls, path: str | Path, catalog: Catalog) -> Self:
        """Return the picture in a file, of its first page; if the archive has its content, that page's.

        Only a file of the archive itself is that page: the archive's page is a photo like a copy elsewhere.

        Raises:
            SourceError: The file cannot be opened, or the path means no file or several.
        """
        from kobold_reader.errors import SourceError
        from kobold_reader.reading.ledger import KnownPage, Ledger
        from kobold_reader.reading.open_file import OpenFile
        from kobold_reader.session import take

        files = take(path).files
        if len(files) != 1:
            raise SourceError("One picture is compared, and this is not a file of one.", source=str(path))
        source = files[0]
        with Ledger(None) as ledger, OpenFile(ledger) as opened:
            file = opened.facts(source)
            if rows := catalog.pages_of(file.sha256):
                picture = cls.of(rows[0])
                is_here = any(place.uri == source.uri for place in catalog.places_of(file.sha256))
                return picture if is_here else replace(picture, page_id="")
            page = KnownPage(opened.page_facts(source, file, 1), is_blank=None)
            looked_at = opened.with_image_kind(source, file, page, None)
            return cls._of({}, {**file.metadata, **looked_at.facts.metadata})

    @classmethod
    def _of(cls, parts: Mapping[str, str], metadata: Mapping[str, Any], page_id: str = "") -> Self:
        described = "\n".join(parts[part] for part in ("caption", "tags") if part in parts)
        written = (metadata.get(key) for key in ("title", "description", "keywords"))
        text = described or "\n".join(str(one) for one in written if one)
        telling = ", ".join(keywords_in(parts.get("tags", ""))) or text
        # Numbers, names and quotes ask to be found as typed, and here nobody typed them.
        words = (word.casefold() for word in re.findall(r"[^\W\d_]{2,}", telling))
        return cls(str(metadata.get("phash") or ""), text, " ".join(dict.fromkeys(words)), page_id)

    def described_as(self, row: PageRow) -> Self:
        """Return the picture with the description of a photo that looks the same."""
        other = self.of(row)
        return replace(self, text=other.text, terms=other.terms)
