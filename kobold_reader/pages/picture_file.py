"""Image files: what Pillow opens, HEIC and AVIF included, and a raw photo's own preview."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from PIL import Image

from kobold_reader.errors import CorruptSourceError, PageRenderError, SourceError, UnsupportedSourceError
from kobold_reader.pages.image import LIBRARY_ERRORS, check_pixels
from kobold_reader.pages.look import look_at
from kobold_reader.pages.metadata import exif_of, is_photo, orientation_of
from kobold_reader.pages.picture import Placement, picture_errors, picture_images, placement_of
from kobold_reader.pages.values import FileFacts, ImageBudget, PageFacts, PageImages, PageLook, Scalar
from kobold_reader.pages.written import picture_metadata

__all__ = ["PictureFile", "formats_of", "needs_extra"]

FORMATS: Final = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "JPEG2000")
"""Pillow's names of what is opened; its other plugins are never tried on strangers' bytes."""

_REDUCED_IMAGE: Final = 1  # TIFF NewSubfileType bit 0: a thumbnail of another frame
_NEW_SUBFILE_TYPE: Final = 254


def formats_of(kind: str) -> tuple[str, ...]:
    """Pillow's names of the formats of a kind, once what decodes them is loaded.

    Raises:
        UnsupportedSourceError: An optional part is not installed.
    """
    if kind == "heic":
        try:
            import pillow_heif
        except ImportError as error:
            raise needs_extra("HEIC", "heic") from error
        pillow_heif.register_heif_opener()
        return ("HEIF",)
    if kind == "avif":
        Image.init()
        if "AVIF" not in Image.OPEN:
            raise needs_extra("AVIF", "heic")
        return ("AVIF",)
    return FORMATS


def needs_extra(what: str, extra: str) -> UnsupportedSourceError:
    """The error for a kind whose library is missing."""
    return UnsupportedSourceError(
        f"{what} files need an optional part that is not installed.",
        hint=f'Install it with: pip install "kobold-reader[{extra}]"',
    )


class PictureFile:
    """An image file, one page a frame for TIFF, else one page.

    Args:
        source: Local path, or the bytes of a picture that lies inside another file.
        sha256: Of the file; a page that is all of it has this content.
        kind: As `sources` found it.
        exif: Where it is not the picture's own, as for the preview of a raw photo.

    Raises:
        CorruptSourceError: The bytes are no image, or its head is damaged.
        PageRenderError: The picture is too large to decode.
    """

    def __init__(
        self, source: Path | bytes, sha256: str, *, kind: str = "image", exif: Image.Exif | None = None
    ) -> None:
        self._source = source
        self._sha256 = sha256
        self._exif = exif
        self._formats = formats_of(kind) if kind != "raw" else FORMATS
        with picture_errors(CorruptSourceError):
            self._picture = self._open()
        try:
            with picture_errors(CorruptSourceError):
                check_pixels(*self._picture.size)
                self._frames = self._pages()
                metadata = picture_metadata(self._picture, exif)
        except SourceError:
            self._picture.close()
            raise
        self.facts = FileFacts(sha256, kind, len(self._frames), is_repaired=False, metadata=metadata)

    def _open(self) -> Image.Image:
        source = io.BytesIO(self._source) if isinstance(self._source, bytes) else self._source
        return Image.open(source, formats=self._formats)

    def _pages(self) -> list[int]:
        """Indexes of the frames that are pages: a thumbnail beside its picture is none."""
        total = getattr(self._picture, "n_frames", 1)
        if self._picture.format != "TIFF" or total == 1:
            return [0]  # a moving picture is one page; an MPO's other frames are previews
        pages = []
        for index in range(total):
            try:
                self._picture.seek(index)
                kind = self._picture.tag_v2.get(_NEW_SUBFILE_TYPE, 0)  # type: ignore[attr-defined]
            except LIBRARY_ERRORS:
                kind = 0  # a damaged frame is a page all the same, and will say so itself
            if not (isinstance(kind, int) and kind & _REDUCED_IMAGE):
                pages.append(index)
        self._picture.seek(0)
        return pages or list(range(total))

    def close(self) -> None:
        """Let go of the file."""
        self._picture.close()

    @contextmanager
    def _frame(self, page_number: int) -> Iterator[Image.Image]:
        if len(self._frames) == 1:
            # Decoding a JPEG small changes the object for good, so each use has its own.
            with picture_errors(CorruptSourceError), self._open() as picture:
                yield picture
            return
        with picture_errors(PageRenderError):
            self._picture.seek(self._frames[page_number - 1])
            yield self._picture

    def _placement(self, picture: Image.Image) -> Placement:
        exif = exif_of(picture) if self._exif is None else self._exif
        return placement_of(picture, is_camera=is_photo(exif), orientation=orientation_of(exif))

    def page_facts(self, page_number: int) -> PageFacts:
        """What the page is."""
        with self._frame(page_number) as picture:
            check_pixels(*picture.size)
            placement = self._placement(picture)
            width, height = picture.size
            metadata: dict[str, Scalar] = {}
            content = self._sha256
            if len(self._frames) > 1:
                content = hashlib.sha256(f"{self._sha256}:{page_number}".encode()).hexdigest()
                own = picture_metadata(picture)
                metadata = {key: value for key, value in own.items() if self.facts.metadata.get(key) != value}
        paper = placement.inches
        if placement.is_turned:
            width, height = height, width
            paper = paper and (paper[1], paper[0])
        return PageFacts(
            page_number=page_number,
            page_label=str(page_number),
            content_sha256=content,
            width_pt=paper[0] * 72 if paper else None,
            height_pt=paper[1] * 72 if paper else None,
            width_px=width,
            height_px=height,
            text="",
            text_layer="none",
            image_coverage=1.0,
            rotation_deg=placement.rotation_deg,
            metadata=metadata,
        )

    def page_look(self, page_number: int) -> PageLook:
        """What the page is a picture of."""
        try:
            with self._frame(page_number) as picture:
                return look_at(picture, exif_of(picture) if self._exif is None else self._exif)
        except SourceError:
            return PageLook()

    def page_images(self, page_number: int, budget: ImageBudget, rotate_deg: int | None) -> PageImages:
        """What the page looks like."""
        with self._frame(page_number) as picture:
            placement = self._placement(picture)
            original = None
            if len(self._frames) == 1 and picture.format in {"JPEG", "PNG"}:
                original = self._bytes(budget.max_bytes)
            return picture_images(
                picture, placement, budget, original=original, rotate_deg=rotate_deg, reopen=self._open
            )

    def _bytes(self, most: int) -> bytes | None:
        """The file's bytes, None where there are too many to be sent."""
        if isinstance(self._source, bytes):
            return self._source if len(self._source) <= most else None
        return self._source.read_bytes() if self._source.stat().st_size <= most else None
