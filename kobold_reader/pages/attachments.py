"""Files attached to a PDF, as in portfolios: those of a kind that is taken are further pages, after the PDF's own."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol

from kobold_reader.errors import PageRenderError, SourceError
from kobold_reader.pages.sources import ATTACHED, HEAD_BYTES, extra_hint, kind_of, missing_extra
from kobold_reader.pages.values import FileFacts, ImageBudget, Kind, PageFacts, PageImages, PageLook, TextLines

if TYPE_CHECKING:
    from kobold_reader.pages.text_copy import TextCopy

_MAX_FILES = 1_000
_MAX_BYTES = 512 * 1024 * 1024


class _PageFile(Protocol):
    facts: FileFacts

    def page_facts(self, page_number: int) -> PageFacts: ...
    def text_lines(self, page_number: int) -> TextLines: ...
    def page_look(self, page_number: int) -> PageLook: ...
    def page_images(self, page_number: int, budget: ImageBudget, rotate_deg: int | None) -> PageImages: ...
    def text_copy(self, target: Path) -> TextCopy: ...

    def close(self) -> None: ...


Opener = Callable[[Path, Kind, str], _PageFile]
"""Opens a file of a kind; the sha256 of its content is known."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file inside a PDF."""

    name: str
    data: Callable[[], bytes]
    """Takes it out; raises SourceError where it cannot be."""


@dataclass(frozen=True, slots=True)
class _Part:
    name: str
    first_page: int
    total_pages: int
    path: Path
    kind: Kind
    sha256: str
    error: str
    """Why it cannot be opened; "" where it can. It counts as one page then."""


def _skipped_as(name: str, kind: Kind | None, *, is_beyond: bool) -> str:
    """The key under which an attached file is counted as skipped: its ending, and why."""
    ending = PurePosixPath(name).suffix.lower()
    holding = f" holding {kind}" if kind and not is_beyond and not extra_hint(ending) else ""
    beyond = f" beyond {_MAX_FILES} files or {_MAX_BYTES >> 20} MB" if is_beyond else ""
    return f"{ending or '(no ending)'}{holding}{ATTACHED}{beyond}"


class Portfolio:
    """A PDF with files attached: a `PageFile`.

    Args:
        pdf: The PDF, which is closed with this.
        attachments: What is attached to it.
        opener: Opens what was taken out.
    """

    def __init__(self, pdf: _PageFile, attachments: Sequence[Attachment], opener: Opener) -> None:
        self._pdf = pdf
        self._opener = opener
        self._folder = tempfile.TemporaryDirectory(prefix="kobold-reader-")
        self._opened: tuple[_Part, _PageFile] | None = None
        self._parts: list[_Part] = []
        self._skipped: Counter[str] = Counter()
        left_out: list[str] = []
        total, size_bytes = pdf.facts.total_pages, 0
        for number, attachment in enumerate(attachments):
            data, error = b"", ""
            try:
                data = attachment.data() if number < _MAX_FILES else b""
            except SourceError as err:
                error = str(err)
            kind = kind_of(data[:HEAD_BYTES], attachment.name)
            is_taken = kind is not None and not missing_extra(kind)
            size_bytes += len(data) if is_taken else 0
            if kind is None or not is_taken or number >= _MAX_FILES or size_bytes > _MAX_BYTES:
                left_out.append(attachment.name)
                is_beyond = is_taken or number >= _MAX_FILES
                self._skipped[_skipped_as(attachment.name, kind, is_beyond=is_beyond)] += 1
                continue
            path = Path(self._folder.name) / f"{number}{PurePosixPath(attachment.name).suffix}"
            part = _Part(attachment.name, total + 1, 1, path, kind, hashlib.sha256(data).hexdigest(), error)
            if not error:
                path.write_bytes(data)
                part = self._counted(part)
            self._parts.append(part)
            total += part.total_pages
        metadata = dict(pdf.facts.metadata)
        if left_out:
            metadata["attachments_left_out"] = f"{len(left_out)}: {', '.join(left_out)}"
        self.facts = replace(
            pdf.facts, total_pages=total, metadata=metadata, attachments_skipped=dict(sorted(self._skipped.items()))
        )

    def _counted(self, part: _Part) -> _Part:
        try:
            file = self._opener(part.path, part.kind, part.sha256)
        except SourceError as err:
            return replace(part, error=str(err))
        try:
            self._skipped.update(file.facts.attachments_skipped)
            return replace(part, total_pages=file.facts.total_pages)
        finally:
            file.close()

    def _place(self, page_number: int) -> tuple[_Part | None, _PageFile, int]:
        """The part that a page belongs to (None: the PDF itself), open, and the page's number in it."""
        part = next((part for part in reversed(self._parts) if part.first_page <= page_number), None)
        if part is None:
            return None, self._pdf, page_number
        if part.error:
            raise PageRenderError(f"The attached file {part.name} cannot be read: {part.error}")
        if self._opened is None or self._opened[0] is not part:
            self._close_part()
            self._opened = part, self._opener(part.path, part.kind, part.sha256)
        return part, self._opened[1], page_number - part.first_page + 1

    def page_facts(self, page_number: int) -> PageFacts:
        """Facts about a page; those of an attached file say so in their label and as `attachment`."""
        part, file, number = self._place(page_number)
        facts = file.page_facts(number)
        if part is None:
            return facts
        inner = facts.metadata.get("attachment")  # of a portfolio inside this one
        name = f"{part.name}!{inner}" if inner else part.name
        label = facts.page_label if inner else f"{part.name} {facts.page_label}"
        metadata = {**file.facts.metadata, **facts.metadata, "attachment": name}
        return replace(facts, page_number=page_number, page_label=label, metadata=metadata)

    def text_lines(self, page_number: int) -> TextLines:
        """The lines of the page's own text."""
        _, file, number = self._place(page_number)
        return file.text_lines(number)

    def text_copy(self, target: Path) -> TextCopy:
        """A copy of the PDF with all that is attached, which gets no text."""
        return self._pdf.text_copy(target)

    def copy_page(self, page_number: int, copy: TextCopy) -> None:
        """Nothing: the copy has every page."""

    def page_look(self, page_number: int) -> PageLook:
        """Whether the page is a photo or a scan."""
        _, file, number = self._place(page_number)
        return file.page_look(number)

    def page_images(self, page_number: int, budget: ImageBudget, rotate_deg: int | None) -> PageImages:
        """The images of the page."""
        _, file, number = self._place(page_number)
        return file.page_images(number, budget, rotate_deg)

    def _close_part(self) -> None:
        if self._opened is not None:
            self._opened[1].close()
            self._opened = None

    def close(self) -> None:
        """Close all files, and remove what was taken out."""
        self._close_part()
        self._pdf.close()
        self._folder.cleanup()
