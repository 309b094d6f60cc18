"""Camera raw files: the picture that the camera itself made of them, which lies inside.

Developing the sensor's data would take seconds a photo and look like nobody's picture; every camera
puts a JPEG of screen size or larger beside it.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Final

from PIL import ExifTags, Image

from kobold_reader.errors import CorruptSourceError
from kobold_reader.pages.image import LIBRARY_ERRORS
from kobold_reader.pages.metadata import exif_of
from kobold_reader.pages.picture_file import PictureFile, needs_extra

__all__ = ["open_raw"]

_ORIENTATION: Final = 0x0112
_FLIPS: Final = {3: 3, 5: 8, 6: 6}  # LibRaw's code for how the camera was held → EXIF's


def open_raw(path: Path, sha256: str) -> PictureFile:
    """Open a raw photo's preview.

    Raises:
        UnsupportedSourceError: rawpy is not installed.
        CorruptSourceError: It is no raw file that LibRaw knows, or holds no preview.
    """
    try:
        import rawpy
    except ImportError as error:
        raise needs_extra("Camera raw", "raw") from error
    try:
        with rawpy.imread(str(path)) as photo:
            sizes = photo.sizes
            data = _encoded(photo.extract_thumb().data)
    except rawpy.LibRawNoThumbnailError as error:
        raise CorruptSourceError("The raw photo holds no preview.", hint="Export it as a JPEG.") from error
    except (rawpy.LibRawError, *LIBRARY_ERRORS) as error:
        said = error.args[0] if error.args else type(error).__name__
        text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
        raise CorruptSourceError(f"The raw photo cannot be opened ({text}).", hint="Export it as a JPEG.") from error
    return PictureFile(data, sha256, kind="raw", exif=_exif(path, data, sizes))


def _encoded(data: Any) -> bytes:
    if isinstance(data, bytes):
        return data
    buffer = io.BytesIO()
    Image.fromarray(data).save(buffer, "PNG")  # the few cameras that keep plain pixels
    return buffer.getvalue()


def _exif(path: Path, preview: bytes, sizes: Any) -> Image.Exif:
    """The raw file's own EXIF, or that of its preview, with how the preview lies.

    A preview that says nothing of its orientation lies as the sensor did. LibRaw gives one without
    EXIF a short one of its own, without dates, so the outer file comes first.
    """
    with Image.open(io.BytesIO(preview)) as picture:
        inner = exif_of(picture)
        # Phones turn the preview itself and leave the sensor's picture lying.
        is_upright = picture.height > picture.width and sizes.raw_width > sizes.raw_height
    try:
        with Image.open(path, formats=("TIFF",)) as outer:
            exif = exif_of(outer)
            for part in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
                exif.get_ifd(part)  # while the file is open
    except LIBRARY_ERRORS:
        exif = inner  # not every maker's raw file is a TIFF
    exif[_ORIENTATION] = inner.get(_ORIENTATION) or (1 if is_upright else _FLIPS.get(int(sizes.flip), 1))
    return exif
