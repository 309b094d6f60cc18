"""Camera raw files: the picture that the camera itself made of them, which lies inside.

Developing the sensor's data would take seconds a photo and look like nobody's picture; every camera
puts a JPEG of screen size or larger beside it.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Final

from PIL import Image

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
            flip = int(photo.sizes.flip)
            preview = photo.extract_thumb()
            data = _encoded(preview.data)
    except rawpy.LibRawNoThumbnailError as error:
        raise CorruptSourceError("The raw photo holds no preview.", hint="Export it as a JPEG.") from error
    except (rawpy.LibRawError, *LIBRARY_ERRORS) as error:
        said = error.args[0] if error.args else type(error).__name__
        text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
        raise CorruptSourceError(f"The raw photo cannot be opened ({text}).", hint="Export it as a JPEG.") from error
    return PictureFile(data, sha256, kind="raw", exif=_exif(path, data, flip))


def _encoded(data: Any) -> bytes:
    if isinstance(data, bytes):
        return data
    buffer = io.BytesIO()
    Image.fromarray(data).save(buffer, "PNG")  # the few cameras that keep plain pixels
    return buffer.getvalue()


def _exif(path: Path, preview: bytes, flip: int) -> Image.Exif:
    """The preview's EXIF, or the raw file's own, with how the camera was held.

    Where a preview says nothing of its orientation it lies as the sensor did.
    """
    with Image.open(io.BytesIO(preview)) as picture:
        exif = exif_of(picture)
    is_told = _ORIENTATION in exif
    if len(exif) < 3:  # noqa: PLR2004 - nothing but a resolution or an orientation
        try:
            with Image.open(path, formats=("TIFF",)) as outer:
                own = exif_of(outer)
                own.get_ifd(0x8769)  # while the file is open
                own.get_ifd(0x8825)
        except LIBRARY_ERRORS:
            own = Image.Exif()  # not every maker's raw file is a TIFF
        if is_told:
            own[_ORIENTATION] = exif[_ORIENTATION]
        exif = own
    if not is_told:
        exif[_ORIENTATION] = _FLIPS.get(flip, 1)
    return exif
