"""What the model says about photos, in their XMP sidecars; `pages/xmp.py` and `pages/sidecars.py` know the files.

The texts are those of an archive, with the names that people gave to tags, or else those of a ledger. A photo of which
nothing is known since it changed is left as it is. Each sidecar is read, merged and replaced on its own: an error is
one sidecar's, and a run that is killed leaves each as it was or as it is to be.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from kobold_reader.archive.store import Catalog
from kobold_reader.border import of_one_page
from kobold_reader.documents import page_id
from kobold_reader.errors import KoboldReaderError, SidecarError, SourceError, reason
from kobold_reader.pages import Selection, SourceFile, local_path, shown
from kobold_reader.pages.sidecars import PHOTO_KINDS, SidecarName, contents, replace_file
from kobold_reader.pages.sources import sidecar_finder
from kobold_reader.pages.xmp import LEVEL, NAMESPACE, Overwrite, Words, begin, merge, remove, rename
from kobold_reader.reading.ledger import Ledger
from kobold_reader.reading.open_file import OpenFile, public_metadata
from kobold_reader.reading.tags import description_of, keywords_of

Change = Callable[[Path, bytes | None, bytes | None], None]
"""Is told of each change: the sidecar, what it held and what it holds then; None: there is none."""

_LONGEST_TITLE: Final = 120
_SENTENCE: Final = re.compile(r".+?[.!?。！？](?=\s|$)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class SidecarOptions:
    """How sidecars are written."""

    name: SidecarName | None = None
    """None: those that are there, else `photo.jpg.xmp`."""
    keyword_parent: str | None = None
    """The keyword above ours; None: as before, else `AI`."""
    with_title: bool = False
    overwrite: tuple[Overwrite, ...] = ()
    """Texts of people that ours replace; theirs are kept aside."""
    dry_run: bool = False
    """Write nothing."""


@dataclass(slots=True)
class SidecarReport:
    """What became of sidecars."""

    photos: int = 0
    written: int = 0
    """Sidecars that were changed or made."""
    new: int = 0
    """Of these, those that were made."""
    removed: int = 0
    """Sidecars that were ours as a whole, and are gone."""
    unchanged: int = 0
    wordless_photos: int = 0
    """Nothing was read of them that could be written."""
    unknown_files: int = 0
    """They were never read, or changed since."""
    other_files: int = 0
    """They are no photos."""
    errors: list[KoboldReaderError] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return plain values, under the names of the fields; errors as sentences."""
        return {name: getattr(self, name) for name in self.__slots__} | {"errors": [str(one) for one in self.errors]}


class Sidecars:
    """Writes the sidecars of photos.

    Args:
        options: How.
        on_change: Told of each change, before it is made.
    """

    def __init__(self, options: SidecarOptions | None = None, on_change: Change | None = None) -> None:
        self._options = options or SidecarOptions()
        self._on_change = on_change
        self._report = SidecarReport()

    # ── write ────────────────────────────────────────────────────────────────────────────────────

    def write(self, selection: Selection, ledger: Ledger, catalog: Catalog | None = None) -> SidecarReport:
        """Put into the sidecars of photos what the model says about them; what is there already is not written again.

        Args:
            selection: Photos and other files.
            ledger: Knows the files, and what was read of them.
            catalog: Where that is shown; None: nowhere.
        """
        self._report.errors += selection.errors
        finder = sidecar_finder()
        with Ledger(None) as facts, OpenFile(facts) as opened:
            for source in selection.files:
                words = self._words_about(source, ledger, catalog)
                if words is None:
                    continue
                photo = Path(local_path(source.uri))
                try:
                    places = finder.written_of(photo, self._options.name)
                except SourceError as error:
                    self._report.errors.append(error.at(source.path))
                    continue
                except OSError as error:
                    why = f"The photo's folder cannot be listed ({reason(error)})."
                    self._report.errors.append(SidecarError(why, source=source.path))
                    continue
                for place in places:
                    self._change(place, partial(self._merged, words, source, opened), photo)
        return self._report

    def _words_about(self, source: SourceFile, ledger: Ledger, catalog: Catalog | None) -> Words | None:
        """Return what is to be written about a file; None where nothing is, which is counted."""
        if source.kind not in PHOTO_KINDS or not source.uri.startswith("file:"):
            self._report.other_files += 1
            return None
        sha256 = ledger.sha256_of(source)
        page = ledger.page(sha256, 1) if sha256 else None
        if sha256 is None or page is None:
            self._report.unknown_files += 1
            return None
        file = ledger.document(sha256)
        if public_metadata(page.facts.metadata).get("image_kind") != "photo" or (file and file.total_pages > 1):
            self._report.other_files += 1
            return None
        self._report.photos += 1
        row = catalog.page(page_id(sha256, 1)) if catalog is not None else None
        if catalog is not None and row is None:
            self._report.unknown_files += 1
            return None
        readings = {task: ledger.newest(page.facts.content_sha256, task) for task in ("caption", "tags")}
        texts = {task: reading.text for task, reading in readings.items() if reading} if row is None else row.parts
        model = next((reading.model for reading in readings.values() if reading and reading.model), "")
        words = _words(texts, row.metadata if row is not None else {}, model or "", self._options.keyword_parent)
        self._report.wordless_photos += not words
        return words or None

    def _merged(self, words: Words, source: SourceFile, opened: OpenFile, before: bytes | None) -> bytes:
        options = self._options
        if before is not None:
            return merge(before, words, overwrite=options.overwrite, with_title=options.with_title)
        return begin(opened.embedded(source, opened.facts(source)), words, with_title=options.with_title)

    # ── remove and rename ────────────────────────────────────────────────────────────────────────

    def remove(self, selection: Selection) -> SidecarReport:
        """Take our words out of all sidecars beside these files and in these folders; those that are ours alone go."""
        return self._each(selection, remove)

    def rename(self, selection: Selection, names: Mapping[str, str]) -> SidecarReport:
        """Rename keywords of ours in all sidecars beside these files and in these folders; `names`: new by old."""
        return self._each(selection, lambda data: rename(data, names))

    def _each(self, selection: Selection, change: Callable[[bytes], bytes | None]) -> SidecarReport:
        self._report.errors += selection.errors
        for place in dict.fromkeys((*_beside(selection), *_below(selection.roots))):
            self._change(place, lambda before: change(before) if before and _may_be_ours(before) else before, place)
        return self._report

    # ── one sidecar ──────────────────────────────────────────────────────────────────────────────

    def _change(self, place: Path, change: Callable[[bytes | None], bytes | None], photo: Path) -> None:
        report, name = self._report, shown(str(place))
        try:
            with of_one_page("reading the sidecar", name):
                before = contents(place) if os.path.lexists(place) else None
                after = change(before)
            if after == before:
                report.unchanged += before is not None
                return
            if self._on_change:
                self._on_change(place, before, after)
            if not self._options.dry_run:
                with of_one_page("writing the sidecar", name):
                    replace_file(place, before, after, photo=photo)
        except SourceError as error:
            report.errors.append(error.at(name))
            return
        report.removed += after is None
        report.written += after is not None
        report.new += before is None


def _words(texts: Mapping[str, str], metadata: Mapping[str, Any], model: str, parent: str | None) -> Words:
    """Return what is written about a photo, from the texts of its tasks and its metadata."""
    tags = texts.get("tags", "")
    sentence = description_of(tags)
    caption = texts.get("caption", "")
    first = _SENTENCE.match(caption)
    title = sentence or (first[0] if first else caption)
    paths: dict[str, list[str]] = {}
    for path in filter(None, str(metadata.get("tag_paths", "")).split(", ")):
        paths.setdefault(path.rpartition(LEVEL)[2], []).append(path)
    keywords = [path for word in keywords_of(tags) for path in paths.get(word, [word])]
    return Words(
        tuple(keywords),
        description=caption or sentence,
        title=title if len(title) <= _LONGEST_TITLE else f"{title[: _LONGEST_TITLE - 1].rstrip()}…",
        model=model,
        parent=parent,
    )


def _may_be_ours(data: bytes) -> bool:
    """Tell whether anything of ours can be in a file, so that what is not XMP at all is no error."""
    return any(NAMESPACE.encode(encoding) in data for encoding in ("utf-8", "utf-16-le", "utf-16-be"))


def _beside(selection: Selection) -> Iterator[Path]:
    for file in selection.files:
        yield from (Path(sidecar.path) for sidecar in file.sidecars)


def _below(roots: Sequence[str]) -> Iterator[Path]:
    for root in roots:
        for folder, _, names in os.walk(local_path(root)):
            yield from (Path(folder, name) for name in sorted(names) if name.lower().endswith(".xmp"))
