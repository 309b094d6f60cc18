"""Scans stored in layers (mixed raster content): fine letters as a mask, coarse colour below and in them."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Sequence

from PIL import Image, ImageChops

from tests import page_files as make

Stream = tuple[bytes, bytes]
"""A dictionary's entries, and what follows them."""

WIDTH, HEIGHT = make.A4_PT
DARK = bytes((20, 20, 60))


def written_pdf(
    contents: bytes, resources: bytes, *streams: Stream, size: tuple[float, float] = make.A4_PT, page: bytes = b""
) -> bytes:
    """A PDF of one page, written by hand; its streams are the objects 5, 6, 7 …"""
    box = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 %g %g]/Resources<<%s>>/Contents 4 0 R%s>>"
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        box % (*size, resources, page),
        *(b"<<%s/Length %d>>\nstream\n%s\nendstream" % (entries, len(data), data)
          for entries, data in ((b"", contents), *streams)),
    ]  # fmt: skip
    data, places = bytearray(b"%PDF-1.5\n"), []
    for number, body in enumerate(objects, start=1):
        places.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(data)
    data += b"xref\n0 %d\n0000000000 65535 f \n" % (len(places) + 1)
    data += b"".join(b"%010d 00000 n \n" % place for place in places)
    return bytes(data) + b"trailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % (len(places) + 1, start)


def image(picture: Image.Image, more: bytes = b"") -> Stream:
    """A picture stored without loss: grey, RGB, or the stencil of a 1-bit one."""
    kind = {"1": b"/ImageMask true/BitsPerComponent 1", "L": b"/ColorSpace/DeviceGray/BitsPerComponent 8"}.get(
        picture.mode, b"/ColorSpace/DeviceRGB/BitsPerComponent 8"
    )
    return _image(picture.size, kind + b"/Filter/FlateDecode" + more), zlib.compress(picture.tobytes())


def jpeg(picture: Image.Image) -> Stream:
    kind = b"/ColorSpace/DeviceRGB/BitsPerComponent 8/Filter/DCTDecode"
    return _image(picture.size, kind), make.jpeg(picture.convert("RGB"))


def fax(stencil: Image.Image) -> Stream:
    parms = b"<</K -1/Columns %d/Rows %d>>" % stencil.size
    kind = b"/ImageMask true/BitsPerComponent 1/Filter/CCITTFaxDecode/DecodeParms" + parms
    return _image(stencil.size, kind), make.group4(stencil)


def jbig2(stencil: Image.Image) -> Stream:
    kind = b"/ImageMask true/BitsPerComponent 1/Filter/JBIG2Decode"
    return _image(stencil.size, kind), make.jbig2(stencil)


def _image(size: tuple[int, int], more: bytes) -> bytes:
    return b"/Type/XObject/Subtype/Image/Width %d/Height %d" % size + more


def form(contents: bytes, resources: bytes, more: bytes = b"") -> Stream:
    entries = b"/Type/XObject/Subtype/Form/BBox[0 0 %d %d]/Resources<<%s>>" % (WIDTH, HEIGHT, resources)
    return entries + more, contents


def painted(name: bytes, box: tuple[float, float, float, float] = (0, 0, 1, 1)) -> bytes:
    """Paint an image in a box, in shares of the page from its upper left corner."""
    left, top, right, bottom = box
    place = ((right - left) * WIDTH, (bottom - top) * HEIGHT, left * WIDTH, (1 - bottom) * HEIGHT)
    return b"q %f 0 0 %f %f %f cm /%s Do Q " % (*place, name)


def patch(dpi: float) -> Image.Image:
    """Ink of one colour."""
    size = tuple(max(1, round(inches * dpi)) for inches in make.A4_INCHES)
    return Image.frombytes("RGB", size, DARK * (size[0] * size[1]))  # type: ignore[arg-type]


PAPER = jpeg(make.sheet(50))
ONE = b"/XObject<</I 5 0 R>>"
TWO = b"/XObject<</B 5 0 R/M 6 0 R>>"


def _strips(stencil: Image.Image) -> bytes:
    edges = [round(stencil.height * step / 6) for step in range(7)]
    contents, names, streams = painted(b"B"), b"/B 5 0 R", [PAPER]
    for number, (top, bottom) in enumerate(itertools.pairwise(edges)):
        streams.append(image(stencil.crop((0, top, stencil.width, bottom))))
        names += b"/M%d %d 0 R" % (number, number + 6)
        contents += painted(b"M%d" % number, (0, top / stencil.height, 1, bottom / stencil.height))
    return written_pdf(contents, b"/XObject<<%s>>" % names, *streams)


def _one_block(stencil: Image.Image) -> bytes:
    left, top, right, bottom = box = ImageChops.invert(stencil.convert("L")).getbbox() or (0, 0, *stencil.size)
    shares = (left / stencil.width, top / stencil.height, right / stencil.width, bottom / stencil.height)
    return written_pdf(painted(b"B") + painted(b"M", shares), TWO, PAPER, image(stencil.crop(box)))


def _inline(stencil: Image.Image) -> bytes:
    start = b"q %d 0 0 %d 0 0 cm BI /W %d /H %d /IM true /BPC 1 /F /Fl ID " % (WIDTH, HEIGHT, *stencil.size)
    contents = painted(b"B") + start + zlib.compress(stencil.tobytes()) + b"\nEI Q"
    return written_pdf(contents, b"/XObject<</B 5 0 R>>", PAPER)


def _soft_mask_of_state(ink: Image.Image) -> bytes:
    group = form(painted(b"I"), b"/XObject<</I 7 0 R>>", b"/Group<</S/Transparency/CS/DeviceGray>>")
    state = b"/ExtGState<</S<</SMask<</S/Luminosity/G 6 0 R>>>>>>"
    return written_pdf(b"/S gs " + painted(b"I"), ONE + state, image(patch(1)), group, image(ink))


def _nested(ink: Image.Image) -> bytes:
    outer, inner = form(b"/G Do", b"/XObject<</G 7 0 R>>"), form(painted(b"I"), b"/XObject<</I 8 0 R>>")
    layer = image(patch(10), b"/SMask 9 0 R")
    return written_pdf(painted(b"B") + b"/M Do", TWO, PAPER, outer, inner, layer, image(ink))


def layered(paper: Image.Image, kind: str) -> bytes:
    """A page of dark letters on white as one of the `KINDS` of layered PDF."""
    grey = paper.convert("L")
    stencil = grey.point([0] * 185 + [255] * 71).convert("1", dither=Image.Dither.NONE)  # 0 paints
    return KINDS[kind](stencil, ImageChops.invert(grey))


_Maker = Callable[[Image.Image, Image.Image], bytes]


def _pieces(
    contents: bytes, resources: bytes, streams: Callable[[Image.Image, Image.Image], Sequence[Stream]]
) -> _Maker:
    return lambda stencil, ink: written_pdf(contents, resources, *streams(stencil, ink))


KINDS: dict[str, _Maker] = {
    "mask on a dot": _pieces(painted(b"I"), ONE, lambda mask, _: (image(patch(0.1), b"/Mask 6 0 R"), image(mask))),
    "soft mask on 1 dpi": _pieces(painted(b"I"), ONE, lambda _, ink: (image(patch(1), b"/SMask 6 0 R"), image(ink))),
    "soft mask on 25 dpi": _pieces(painted(b"I"), ONE, lambda _, ink: (image(patch(25), b"/SMask 6 0 R"), image(ink))),
    "stencil over JPEG": _pieces(painted(b"B") + painted(b"M"), TWO, lambda mask, _: (PAPER, image(mask))),
    "fax over JPEG": _pieces(painted(b"B") + painted(b"M"), TWO, lambda mask, _: (PAPER, fax(mask))),
    "JBIG2 over JPEG": _pieces(painted(b"B") + painted(b"M"), TWO, lambda mask, _: (PAPER, jbig2(mask))),
    "soft mask over JPEG": _pieces(
        painted(b"B") + painted(b"M"), TWO, lambda _, ink: (PAPER, image(patch(10), b"/SMask 7 0 R"), image(ink))
    ),
    "stencils in strips": lambda mask, _: _strips(mask),
    "stencil of a block": lambda mask, _: _one_block(mask),
    "inline stencil": lambda mask, _: _inline(mask),
    "soft mask of the state": lambda _, ink: _soft_mask_of_state(ink),
    "nested forms": lambda _, ink: _nested(ink),
}
