"""One look at a small copy of a picture: what it is, and the hash by which pictures like it are found.

Neither is needed to read a page, so nothing here fails: a picture that cannot be decoded is nothing, and says so itself
when it is to be read.
"""

from __future__ import annotations

import io

from PIL import Image

from kobold_reader.errors import PageRenderError, SourceError
from kobold_reader.pages.image import check_pixels, flatten
from kobold_reader.pages.metadata import exif_of, orientation_of
from kobold_reader.pages.phash import perceptual_hash
from kobold_reader.pages.photograph import THUMBNAIL_PX, kind_of, making_of
from kobold_reader.pages.picture import picture_errors
from kobold_reader.pages.turns import UPRIGHT
from kobold_reader.pages.values import PageLook

__all__ = ["look_at", "look_at_jpeg"]


def look_at(picture: Image.Image, exif: Image.Exif) -> PageLook:
    """Look at a picture that is opened and not yet decoded: a JPEG is decoded small, and stays so.

    Raises:
        PageRenderError: It is too large to decode.
    """
    check_pixels(*picture.size)
    is_bilevel = picture.mode == "1"
    making = making_of(exif, picture.info.get("dpi"))
    if picture.format == "JPEG":
        picture.draft(picture.mode, (2 * THUMBNAIL_PX, 2 * THUMBNAIL_PX))
    flat = flatten(picture)
    scale = min(1.0, THUMBNAIL_PX / max(flat.size))
    size = (max(1, round(flat.width * scale)), max(1, round(flat.height * scale)))
    small = flat.resize(size, Image.Resampling.BOX, reducing_gap=2.0)
    step = UPRIGHT[orientation_of(exif)][0]
    upright = small if step is None else small.transpose(step)
    return PageLook("scan" if is_bilevel else kind_of(small, making), perceptual_hash(upright))


def look_at_jpeg(data: bytes) -> PageLook:
    """Look at the one picture that a PDF page is."""
    try:
        with picture_errors(PageRenderError), Image.open(io.BytesIO(data), formats=("JPEG",)) as picture:
            return look_at(picture, exif_of(picture))
    except SourceError:
        return PageLook()
