"""Image files that Pillow opens, HEIC and AVIF included; previews in camera raw files; comics (CBZ)."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from PIL import ExifTags, Image, UnidentifiedImageError

from kobold_reader.errors import (
    CorruptSourceError,
    EncryptedSourceError,
    PageRenderError,
    SourceError,
    UnsupportedSourceError,
)
from kobold_reader.pages.images import (
    JPEG_START,
    JPEG_TAIL_BYTES,
    LIBRARY_ERRORS,
    check_pixels,
    lacks_end_mark,
    missing_from,
    picture_errors,
    salvaged,
    with_end_mark,
)
from kobold_reader.pages.metadata import embedded, exif_of, is_photo, orientation_of, picture_metadata, take_orientation
from kobold_reader.pages.photos import look_at
from kobold_reader.pages.sources import HEAD_BYTES, TIFF_STARTS, install_line, kind_of, natural_key
from kobold_reader.pages.values import (
    Embedded,
    FileFacts,
    ImageBudget,
    PageFacts,
    PageImages,
    PageLook,
    Scalar,
    TextLines,
)
from kobold_reader.pages.views import Placement, picture_images, placement_of

if TYPE_CHECKING:
    from kobold_reader.pages.text_copy import TextCopy

_FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "JPEG2000")
"""Pillow's other plugins are never tried on strangers' bytes."""
_DEEP_RGB = "RGB;16B"
_PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})
_ASSUMED_DPI = 200
"""Of a picture that does not say its size on paper, in a PDF."""
_REDUCED_IMAGE = 1  # TIFF NewSubfileType bit 0: a thumbnail of another frame
_NEW_SUBFILE_TYPE = 254


def _formats_of(kind: str) -> tuple[str, ...]:
    """Pillow's names of the formats of a kind, once the plugin that decodes them is loaded."""
    if kind == "heic":
        try:
            import pillow_heif
        except ImportError as error:
            raise _needs_extra("HEIC", kind) from error
        pillow_heif.register_heif_opener()
        return ("HEIF",)
    if kind == "avif":
        Image.init()
        if "AVIF" not in Image.OPEN:
            raise _needs_extra("AVIF", kind)
        return ("AVIF",)
    return _FORMATS


def _needs_extra(what: str, kind: str) -> UnsupportedSourceError:
    return UnsupportedSourceError(
        f"{what} files need an optional part that is not installed.", hint=f"Install it with: {install_line(kind)}"
    )


class PictureFile:
    """An image file, or the bytes of a picture inside another file; each frame of a TIFF is a page.

    Args:
        source: Local path, or the bytes.
        sha256: Of the file.
        kind: `SourceFile.kind`.
        exif: Used instead of the picture's own, as for the preview of a raw photo.

    Raises:
        CorruptSourceError: The bytes are no image, or its head is damaged.
        PageRenderError: The picture is too large to decode.
        UnsupportedSourceError: The extra that opens this kind is not installed.
    """

    def __init__(
        self, source: Path | bytes, sha256: str, *, kind: str = "image", exif: Image.Exif | None = None
    ) -> None:
        self._sha256 = sha256
        self._exif = exif
        self._formats = _formats_of(kind)
        self._orientations: dict[int, int] = {}
        """By frame: from a frame that was visited, it has been taken."""
        with picture_errors(CorruptSourceError):
            whole = _with_end_mark(source)
            self._source = source if whole is None else whole
            self._picture = self._open()
        try:
            with picture_errors(CorruptSourceError):
                check_pixels(*self._picture.size)
                self._frames = self._pages()
                metadata = picture_metadata(self._picture, exif)
                if whole is not None:
                    metadata["damage"] = "The end mark of the JPEG is missing; all its pixels are there."
        except SourceError:
            self._picture.close()
            raise
        self.facts = FileFacts(sha256, kind, len(self._frames), is_repaired=False, metadata=metadata)

    def _open(self) -> Image.Image:
        source = io.BytesIO(self._source) if isinstance(self._source, bytes) else self._source
        try:
            picture = Image.open(source, formats=self._formats)
        except UnidentifiedImageError as error:
            if not self._start().startswith(TIFF_STARTS):
                raise
            message = "The TIFF cannot be decoded: it is damaged, or of a rare kind, such as colours of 32 bits."
            raise CorruptSourceError(message, hint="Save it anew, with 8 bits a colour.") from error
        key = picture.info.get("transparency")
        if isinstance(key, tuple) and picture.format == "PNG" and picture.tile[0].args == _DEEP_RGB:
            picture.info["transparency"] = tuple(level >> 8 for level in key)  # as its pixels are once decoded
        return picture

    def _start(self) -> bytes:
        if isinstance(self._source, bytes):
            return self._source[:HEAD_BYTES]
        with self._source.open("rb") as stream:
            return stream.read(HEAD_BYTES)

    def _pages(self) -> list[int]:
        """Indices of the frames that are pages; a thumbnail beside its picture is not."""
        total = getattr(self._picture, "n_frames", 1)
        if self._picture.format != "TIFF" or total == 1:
            return [0]  # a moving picture is one page; an MPO's other frames are previews
        pages = []
        for index in range(total):
            try:
                self._picture.seek(index)
                kind = self._picture.tag_v2.get(_NEW_SUBFILE_TYPE, 0)  # type: ignore[attr-defined]
            except LIBRARY_ERRORS:
                kind = 0  # a damaged frame is a page too; its error is raised when it is read
            if not (isinstance(kind, int) and kind & _REDUCED_IMAGE):
                pages.append(index)
        self._picture.seek(0)
        return pages or list(range(total))

    def close(self) -> None:
        """Close the file."""
        self._picture.close()

    @contextmanager
    def _frame(self, page_number: int) -> Iterator[tuple[Image.Image, int]]:
        """The picture of a page, which decodes as it is stored; and its orientation."""
        if len(self._frames) == 1:
            # Decoding a JPEG small changes the object for good, so each use has its own.
            with picture_errors(CorruptSourceError), self._open() as picture:
                yield picture, self._orientation_of(picture)
            return
        index = self._frames[page_number - 1]
        with picture_errors(PageRenderError):
            self._picture.seek(index)
            orientation = self._orientations.setdefault(index, self._orientation_of(self._picture))
            yield self._picture, orientation

    def _orientation_of(self, picture: Image.Image) -> int:
        taken = take_orientation(picture)
        return taken if self._exif is None else orientation_of(self._exif)

    def _exif_of(self, picture: Image.Image) -> Image.Exif:
        return exif_of(picture) if self._exif is None else self._exif

    def _placement(self, picture: Image.Image, orientation: int) -> Placement:
        return placement_of(picture, is_camera=is_photo(self._exif_of(picture)), orientation=orientation)

    def page_facts(self, page_number: int) -> PageFacts:
        """Facts about the page."""
        with self._frame(page_number) as (picture, orientation):
            check_pixels(*picture.size)
            placement = self._placement(picture, orientation)
            size = picture.size
            metadata: dict[str, Scalar] = {}
            content = self._sha256
            if len(self._frames) > 1:
                content = hashlib.sha256(f"{self._sha256}:{page_number}".encode()).hexdigest()
                own = picture_metadata(picture)
                metadata = {key: value for key, value in own.items() if self.facts.metadata.get(key) != value}
        paper = placement.inches
        if placement.rotation_deg in {90, 270}:
            size, paper = size[::-1], paper and paper[::-1]
        return PageFacts(
            page_number=page_number,
            page_label=str(page_number),
            content_sha256=content,
            width_pt=paper[0] * 72 if paper else None,
            height_pt=paper[1] * 72 if paper else None,
            width_px=size[0],
            height_px=size[1],
            text="",
            text_layer="none",
            image_coverage=1.0,
            rotation_deg=placement.rotation_deg,
            metadata=metadata,
        )

    def embedded(self) -> Embedded:
        """What the photo says itself."""
        with picture_errors(CorruptSourceError), self._open() as picture:
            return embedded(picture, self._exif)

    def text_lines(self, page_number: int) -> TextLines:  # noqa: ARG002
        """None: pictures have no text of their own."""
        return TextLines()

    def page_look(self, page_number: int) -> PageLook:
        """Whether the page is a photo or a scan."""
        with self._frame(page_number) as (picture, orientation):
            return look_at(picture, self._exif_of(picture), orientation)

    def page_images(self, page_number: int, budget: ImageBudget, rotate_deg: int | None) -> PageImages:
        """The images of the page; of one that is cut short, of what is there."""
        try:
            return self._whole_images(page_number, budget, rotate_deg)
        except (CorruptSourceError, PageRenderError) as error:
            try:
                images = self._images_of_part(page_number, budget, rotate_deg)
            except (SourceError, *LIBRARY_ERRORS):
                raise error from error.__cause__
            if images.is_blank:
                raise
            return images

    def _images_of_part(self, page_number: int, budget: ImageBudget, rotate_deg: int | None) -> PageImages:
        with picture_errors(PageRenderError), self._open() as opened:
            check_pixels(*opened.size)
            opened.seek(self._frames[page_number - 1])
            orientation = self._orientation_of(opened)
            placement = self._placement(opened, orientation)
            picture, share = salvaged(lambda: opened)
        images = picture_images(picture, placement, budget, original=None, rotate_deg=rotate_deg, reopen=picture.copy)
        return dataclasses.replace(images, damage=missing_from(share))

    def _whole_images(self, page_number: int, budget: ImageBudget, rotate_deg: int | None) -> PageImages:
        with self._frame(page_number) as (picture, orientation):
            original = None
            if len(self._frames) == 1 and picture.format in {"JPEG", "PNG"}:
                if isinstance(self._source, bytes):
                    original = self._source
                elif self._source.stat().st_size <= budget.max_bytes:
                    original = self._source.read_bytes()
            placement = self._placement(picture, orientation)
            return picture_images(
                picture, placement, budget, original=original, rotate_deg=rotate_deg, reopen=self._open
            )

    def text_copy(self, target: Path) -> TextCopy:
        """A PDF without pages."""
        from kobold_reader.pages.text_copy import TextCopy

        return TextCopy(target)

    def copy_page(self, page_number: int, copy: TextCopy) -> None:
        """Add a page that shows the picture in its size, or what is there of it; a JPEG or PNG goes in as it is."""
        facts = self.page_facts(page_number)
        point = 72 / _ASSUMED_DPI
        size = facts.width_pt or facts.width_px * point, facts.height_pt or facts.height_px * point
        try:
            with self._frame(page_number) as (picture, orientation), picture_errors(PageRenderError):
                copy.add_picture(self._for_copy(picture), size, orientation)
        except (CorruptSourceError, PageRenderError):
            with picture_errors(PageRenderError), self._open() as opened:
                opened.seek(self._frames[page_number - 1])
                orientation = self._orientation_of(opened)
                part, buffer = salvaged(lambda: opened)[0], io.BytesIO()
            part.save(buffer, "PNG")
            copy.add_picture(buffer.getvalue(), size, orientation)

    def _for_copy(self, picture: Image.Image) -> bytes:
        if len(self._frames) == 1 and picture.format in {"JPEG", "MPO", "PNG"}:
            return self._source if isinstance(self._source, bytes) else self._source.read_bytes()
        stored, buffer = picture if picture.mode in _PNG_MODES else picture.convert("RGB"), io.BytesIO()
        if self.facts.kind in {"heic", "avif"}:
            stored.convert("RGB").save(buffer, "JPEG", quality=95, subsampling=0)
        else:
            stored.save(buffer, "PNG")
        return buffer.getvalue()


def _with_end_mark(source: Path | bytes) -> bytes | None:
    """The bytes of a whole JPEG that lacks its end mark, with it; None for any other picture."""
    if isinstance(source, bytes):
        return with_end_mark(source)
    with source.open("rb") as stream:
        start, size = stream.read(len(JPEG_START)), stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - JPEG_TAIL_BYTES))
        if not lacks_end_mark(start, stream.read()):
            return None
    return with_end_mark(source.read_bytes())


# ── camera raw files ─────────────────────────────────────────────────────────────────────────────

_FLIPS = {3: 3, 5: 8, 6: 6}  # LibRaw's code for how the camera was held → EXIF's


def open_raw(path: Path, sha256: str) -> PictureFile:
    """Open the preview in a raw photo: a JPEG of screen size or larger that the camera made.

    Developing the sensor's data would take seconds a photo, and would not look like the camera's picture.

    Raises:
        UnsupportedSourceError: rawpy is not installed.
        CorruptSourceError: It is no raw file that LibRaw knows, or contains no preview.
    """
    try:
        import rawpy
    except ImportError as error:
        raise _needs_extra("Camera raw", "raw") from error
    hint = "Export it as a JPEG."
    try:
        with rawpy.imread(str(path)) as photo:
            sizes = photo.sizes
            data: Any = photo.extract_thumb().data
            if not isinstance(data, bytes):  # a few cameras keep plain pixels
                buffer = io.BytesIO()
                Image.fromarray(data).save(buffer, "PNG")
                data = buffer.getvalue()
    except rawpy.LibRawNoThumbnailError as error:
        raise CorruptSourceError("The raw photo contains no preview.", hint=hint) from error
    except (rawpy.LibRawError, *LIBRARY_ERRORS) as error:
        reason = error.args[0] if error.args else type(error).__name__
        text = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else reason
        raise CorruptSourceError(f"The raw photo cannot be opened ({text}).", hint=hint) from error
    return PictureFile(data, sha256, kind="raw", exif=_raw_exif(path, data, sizes))


def _raw_exif(path: Path, preview: bytes, sizes: Any) -> Image.Exif:
    """The raw file's own EXIF, or that of its preview, with the preview's orientation.

    LibRaw adds a short EXIF without dates to a preview that has none, so the raw file's EXIF is preferred. A preview
    without an orientation is turned as the sensor was.
    """
    with Image.open(io.BytesIO(preview)) as picture:
        inner = exif_of(picture)
        # Phones turn the preview itself and leave the sensor's picture as it is.
        is_upright = picture.height > picture.width and sizes.raw_width > sizes.raw_height
    try:
        with Image.open(path, formats=("TIFF",)) as outer:
            exif = exif_of(outer)
            for part in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
                exif.get_ifd(part)  # while the file is open
    except LIBRARY_ERRORS:
        exif = inner  # not every maker's raw file is a TIFF
    tag = ExifTags.Base.Orientation
    exif[tag] = inner.get(tag) or (1 if is_upright else _FLIPS.get(int(sizes.flip), 1))
    return exif


# ── comics ───────────────────────────────────────────────────────────────────────────────────────

_MAX_ENTRY_BYTES = 256 * 1024 * 1024
_MAX_ENTRIES = 100_000
_PICTURES = frozenset({"image", "heic", "avif"})
_ZIP_ERRORS = (zipfile.BadZipFile, *LIBRARY_ERRORS)


class ComicFile:
    """An open CBZ: a ZIP of pictures, each a page, in natural order of their names.

    Nothing is unpacked to disk, and no more than one page at a time.

    Raises:
        CorruptSourceError: It is no ZIP, or contains no pictures.
        EncryptedSourceError: Its pictures are locked.
    """

    def __init__(self, path: Path, sha256: str) -> None:
        self._open_page: tuple[int, PictureFile] | None = None
        try:
            self._zip = zipfile.ZipFile(path)
        except _ZIP_ERRORS as error:
            raise CorruptSourceError(f"The file cannot be opened as a CBZ ({error}).") from error
        entries = filter(_is_page, self._zip.infolist()[:_MAX_ENTRIES])
        self._pages = sorted(entries, key=lambda entry: natural_key(entry.filename))
        if not self._pages:
            self.close()
            raise CorruptSourceError("The CBZ contains no pictures.")
        if all(entry.flag_bits & 1 for entry in self._pages):  # the bit of encrypted entries
            self.close()
            raise EncryptedSourceError("This CBZ is locked.", hint="Unpack it and read the folder.")
        self.facts = FileFacts(sha256, "cbz", len(self._pages), is_repaired=False)

    def close(self) -> None:
        """Close the file."""
        self._close_page()
        self._zip.close()

    def _close_page(self) -> None:
        if self._open_page is not None:
            self._open_page[1].close()
            self._open_page = None

    def _page(self, page_number: int) -> PictureFile:
        """The picture of a page; the last one is kept, as facts and images are asked for in turn."""
        if self._open_page is None or self._open_page[0] != page_number:
            self._close_page()
            data = self._read(self._pages[page_number - 1])
            kind = kind_of(data[:HEAD_BYTES], "") or ""
            with _as_page():
                sha256 = hashlib.sha256(data).hexdigest()
                picture = PictureFile(data, sha256, kind=kind if kind in _PICTURES else "image")
            if picture.facts.total_pages > 1:
                picture.close()
                raise PageRenderError("The page is a picture of many pages.", hint="Unpack it and read the folder.")
            self._open_page = (page_number, picture)
        return self._open_page[1]

    def _read(self, entry: zipfile.ZipInfo) -> bytes:
        """An entry's bytes, no more than the size that it claims."""
        if entry.file_size > _MAX_ENTRY_BYTES:
            raise PageRenderError(f"The page unpacks to {entry.file_size:,} bytes, which is more than a picture has.")
        try:
            with self._zip.open(entry) as stream:
                return stream.read(entry.file_size)
        except _ZIP_ERRORS as error:
            raise PageRenderError(f"The page cannot be unpacked ({error}).", hint="Copy the file again.") from error

    def page_facts(self, page_number: int) -> PageFacts:
        """Facts about the page."""
        picture = self._page(page_number)
        with _as_page():
            facts = picture.page_facts(1)
        label, metadata = str(page_number), picture.facts.metadata
        return dataclasses.replace(facts, page_number=page_number, page_label=label, metadata=metadata)

    def text_copy(self, target: Path) -> TextCopy:
        """A PDF without pages."""
        from kobold_reader.pages.text_copy import TextCopy

        return TextCopy(target)

    def copy_page(self, page_number: int, copy: TextCopy) -> None:
        """Add a page that shows the picture."""
        with _as_page():
            self._page(page_number).copy_page(1, copy)

    def text_lines(self, page_number: int) -> TextLines:  # noqa: ARG002
        """None: pictures have no text of their own."""
        return TextLines()

    def page_look(self, page_number: int) -> PageLook:
        """Whether the page is a photo or a scan."""
        return self._page(page_number).page_look(1)

    def page_images(self, page_number: int, budget: ImageBudget, rotate_deg: int | None) -> PageImages:
        """The images of the page."""
        picture = self._page(page_number)
        with _as_page():
            return picture.page_images(1, budget, rotate_deg)


@contextmanager
def _as_page() -> Iterator[None]:
    """Turn the errors of a picture file into errors of one page."""
    try:
        yield
    except PageRenderError:
        raise
    except SourceError as error:
        raise PageRenderError(error.message, hint=error.hint) from error


def _is_page(entry: zipfile.ZipInfo) -> bool:
    path = PurePosixPath(entry.filename.replace("\\", "/"))
    if entry.is_dir() or any(part.startswith((".", "__MACOSX")) for part in path.parts):
        return False
    return kind_of(b"", path.name) in _PICTURES
