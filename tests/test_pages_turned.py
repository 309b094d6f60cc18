"""Pictures that are stored turned or mirrored: TIFFs of every mode and compression, and other formats.

Each must come upright, with the same pixels as its upright twin.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_index.core import SimpleDirectoryReader
from PIL import Image, ImageChops, ImageDraw, TiffImagePlugin, features

from kobold_reader import KoboldReader
from kobold_reader.errors import CorruptSourceError
from kobold_reader.pages import ImageBudget, PageFacts, PageImages
from kobold_reader.pages.worker import open_file
from tests import page_files as make
from tests.kobold_simulator import KoboldSimulator

BUDGET = ImageBudget()
ORIENTATIONS = range(1, 9)
ORIENTATION_TAG = 0x0112
MODES_AND_COMPRESSIONS = [
    *[("1", compression) for compression in ("raw", "tiff_lzw", "group4")],
    *[(mode, compression) for mode in ("L", "RGB", "CMYK") for compression in ("raw", "tiff_lzw", "jpeg")],
    *[(mode, compression) for mode in ("P", "I;16", "LA", "RGBA") for compression in ("raw", "tiff_adobe_deflate")],
]


def figure(mode: str = "RGB", size: tuple[int, int] = (203, 131)) -> Image.Image:
    """A figure that no turn and no mirror maps to itself, and whose rows are no whole number of bytes at one bit."""
    picture = Image.new("RGB", size, (250, 250, 250))
    draw = ImageDraw.Draw(picture)
    width, height = size
    draw.rectangle((10, 10, width // 2, 34), fill=(200, 20, 20))
    draw.rectangle((10, 10, 26, height - 12), fill=(20, 30, 160))
    draw.ellipse((width - 60, height - 60, width - 20, height - 20), fill=(40, 40, 40))
    draw.line((30, height - 8, width - 70, 50), fill=(0, 110, 60), width=5)
    if mode == "I;16":
        return Image.frombytes(
            "I;16", size, bytes(byte for level in picture.convert("L").tobytes() for byte in (7, level))
        )
    return picture.quantize(16) if mode == "P" else picture.convert(mode)


def tiff(upright: Image.Image, orientation: int, compression: str) -> bytes:
    """A TIFF that shows this picture if its orientation is heeded."""
    options: dict[str, object] = {"quality": 95} if compression == "jpeg" else {}
    stored = make.as_stored(upright, orientation)
    return make.encoded(stored, "TIFF", compression=compression, tiffinfo={ORIENTATION_TAG: orientation}, **options)


def read(path: Path, kind: str = "image") -> tuple[PageFacts, PageImages]:
    file = open_file(path, kind)
    try:
        return file.page_facts(1), file.page_images(1, BUDGET, 0)
    finally:
        file.close()


def pixels(images: PageImages) -> Image.Image:
    return Image.open(io.BytesIO(images.views[0].image))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize(("mode", "compression"), MODES_AND_COMPRESSIONS)
def test_a_tiff_of_any_orientation_is_its_upright_twin(
    tmp_path: Path, mode: str, compression: str, orientation: int
) -> None:
    path, twin, photo = tmp_path / "turned.tif", tmp_path / "upright.tif", tmp_path / "turned.jpg"
    upright = figure(mode)
    path.write_bytes(tiff(upright, orientation, compression))
    twin.write_bytes(tiff(upright, 1, compression))
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    photo.write_bytes(make.jpeg(make.as_stored(figure("L"), orientation), exif=exif))
    facts, images = read(path)
    view = images.views[0]
    assert (facts.width_px, facts.height_px) == (view.width_px, view.height_px) == upright.size
    assert facts.rotation_deg == view.rotation_deg == read(photo)[0].rotation_deg
    if compression != "jpeg":
        assert view.image == read(twin)[1].views[0].image
    else:  # a JPEG of a turned picture differs by its rounding
        apart = ImageChops.difference(pixels(images).convert("L"), pixels(read(twin)[1]).convert("L"))
        assert sum(apart.histogram()[24:]) < 0.002 * upright.width * upright.height


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize(("form", "kind"), [("PNG", "image"), ("WEBP", "image"), ("AVIF", "avif"), ("HEIF", "heic")])
def test_other_formats_with_an_orientation_come_upright(tmp_path: Path, form: str, kind: str, orientation: int) -> None:
    if kind == "heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
    if kind == "avif" and not features.check("avif"):
        pytest.skip("this Pillow knows no AVIF")
    path, exif = tmp_path / "turned", Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    path.write_bytes(make.encoded(make.as_stored(figure(), orientation), form, exif=exif.tobytes(), quality=90))
    facts, images = read(path, kind)
    assert (facts.width_px, facts.height_px) == figure().size
    apart = ImageChops.difference(pixels(images).convert("L"), figure("L"))
    assert sum(apart.histogram()[40:]) < 0.01 * apart.width * apart.height


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "jpeg"])
def test_its_look_is_that_of_its_upright_twin(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "turned.tif"
    looks = []
    for orientation in ORIENTATIONS:
        path.write_bytes(tiff(figure(), orientation, compression))
        file = open_file(path, "image")
        looks.append(file.page_look(1))
        file.close()
    kinds, hashes = {look.kind for look in looks}, [int(look.phash or "", 16) for look in looks]
    assert len(kinds) == 1
    assert all((one ^ hashes[0]).bit_count() <= (3 if compression == "jpeg" else 0) for one in hashes)


def planes(upright: Image.Image, orientation: int, order: str) -> bytes:
    """A TIFF of 16 bits that holds red, green and blue one after the other; Pillow writes none."""
    stored = make.as_stored(upright, orientation)
    high_first = order == ">"
    data = b"".join(
        bytes(byte for level in band.tobytes() for byte in ((level, 7) if high_first else (7, level)))
        for band in stored.split()
    )
    length, head = len(data) // 3, 8 + 2 + 10 * 12 + 4
    tags = [(256, stored.width), (257, stored.height), (258, 3, head), (259, 1), (262, 2), (273, 3, head + 6)]
    tags += [(274, orientation), (277, 3), (279, 3, head + 18), (284, 2)]
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, *(1, *value)[-2:]) for tag, *value in tags)
    entries = entries.replace(struct.pack(f"{order}HH", 258, 4), struct.pack(f"{order}HH", 258, 3))
    start = head + 30
    lists = struct.pack(f"{order}3H6I", 16, 16, 16, *(start + length * band for band in range(3)), *[length] * 3)
    mark = b"MM" if high_first else b"II"
    return mark + struct.pack(f"{order}HIH", 42, 8, len(tags)) + entries + bytes(4) + lists + data


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_planes_of_16_bits_are_read_as_such(tmp_path: Path, orientation: int, order: str) -> None:
    path = tmp_path / "planes.tif"
    path.write_bytes(planes(figure(), orientation, order))
    assert ImageChops.difference(pixels(read(path)[1]).convert("RGB"), figure()).getbbox() is None


def grey_tiff(levels: np.ndarray[Any, Any], order: str, *, white_is_zero: bool, orientation: int = 1) -> bytes:
    """An uncompressed TIFF of one channel, in whatever type its levels have; Pillow writes few of them."""
    data = levels.astype(levels.dtype.newbyteorder(order)).tobytes()
    height, width = levels.shape
    sample_format = {"u": 1, "i": 2, "f": 3}[levels.dtype.kind]
    tags = [(256, width), (257, height), (258, levels.itemsize * 8), (259, 1), (262, not white_is_zero)]
    tags += [(273, 8 + 2 + 11 * 12 + 4), (274, orientation), (277, 1), (278, height), (279, len(data))]
    tags += [(339, sample_format)]
    entries = b"".join(
        struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0)
        if tag not in {273, 279}
        else struct.pack(f"{order}HHII", tag, 4, 1, value)
        for tag, value in tags
    )
    mark = b"MM" if order == ">" else b"II"
    return mark + struct.pack(f"{order}HIH", 42, 8, len(tags)) + entries + bytes(4) + data


def printed() -> Image.Image:
    """A grey page with writing, neither white nor black anywhere."""
    return make.printed_page(30, 10).convert("L").point(lambda level: 20 + level * 220 // 255)


DEEP = {
    "16 bits": lambda shares: (shares * 65535).round().astype("u2"),
    "12 of 16 bits": lambda shares: (shares * 4095).round().astype("u2"),
    "15 bits with a sign": lambda shares: (shares * 32767).round().astype("i2"),
    "32 bits": lambda shares: (shares * (2**32 - 1)).round().astype("u4"),
    "fractions": lambda shares: shares.astype("f4"),
    "fractions up to 255": lambda shares: (shares * 255).astype("f4"),
    "fractions up to 65535": lambda shares: (shares * 65535).astype("f4"),
}
NOT_OPENED = {("32 bits", ">", False), ("32 bits", ">", True), ("32 bits", "<", True)}
NOT_OPENED |= {("15 bits with a sign", order, True) for order in "<>"}


@pytest.mark.parametrize("white_is_zero", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("depth", DEEP)
def test_deep_grey_is_its_twin_of_8_bits(tmp_path: Path, depth: str, order: str, white_is_zero: bool) -> None:
    shares = np.asarray(printed()) / 255
    path = tmp_path / "deep.tif"
    levels = DEEP[depth](1 - shares if white_is_zero else shares)
    path.write_bytes(grey_tiff(levels, order, white_is_zero=white_is_zero, orientation=3))
    if (depth, order, white_is_zero) in NOT_OPENED:
        with pytest.raises(CorruptSourceError, match="The TIFF cannot be decoded"):
            read(path)
        return
    difference = ImageChops.difference(pixels(read(path)[1]).convert("L"), printed().rotate(180))
    assert np.asarray(difference).max() <= 2  # JPEG


def test_where_a_fraction_is_no_number_is_paper(tmp_path: Path) -> None:
    shares = np.asarray(printed()) / np.float32(255)
    shares[:20], shares[20, 0] = np.nan, np.inf
    (tmp_path / "deep.tif").write_bytes(grey_tiff(shares, "<", white_is_zero=False))
    seen = np.asarray(pixels(read(tmp_path / "deep.tif")[1]).convert("L")).astype(int)
    assert (seen[:20] >= 253).all()
    assert abs(seen[24:] - np.asarray(printed())[24:]).max() <= 2


def keyed_png(picture: Image.Image, key: int, bits: int) -> bytes:
    """A PNG of 8 or 16 bits a channel in which one level, or one colour, is transparent."""
    channels = len(picture.getbands())
    deep = np.asarray(picture).astype("u2") * (257 if bits == 16 else 1)
    rows = deep.reshape(picture.height, -1).astype(">u2" if bits == 16 else "u1")
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", *picture.size, bits, 2 if channels == 3 else 0, 0, 0, 0)),
        (b"tRNS", struct.pack(">H", key * (257 if bits == 16 else 1)) * channels),
        (b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))),
        (b"IEND", b""),
    ]
    chunks = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_transparent_level_of_a_png_is_paper(tmp_path: Path, mode: str, bits: int) -> None:
    """Dark under the transparency, as programs leave it: taken for ink, the page would be black."""
    twin = make.printed_page(30, 10).convert(mode)
    under = twin.point(lambda level: 7 if level == 255 else level)
    (tmp_path / "keyed.png").write_bytes(keyed_png(under, 7, bits))
    difference = ImageChops.difference(pixels(read(tmp_path / "keyed.png")[1]).convert("L"), twin.convert("L"))
    assert np.asarray(difference).max() <= 2


def frames(path: Path, sheets: Sequence[tuple[Image.Image, int, str]]) -> Path:
    with TiffImagePlugin.AppendingTiffWriter(str(path), new=True) as writer:
        for upright, orientation, compression in sheets:
            make.as_stored(upright, orientation).save(
                writer, "TIFF", compression=compression, tiffinfo={ORIENTATION_TAG: orientation}
            )
            writer.newFrame()
    return path


def test_frames_have_an_orientation_each_in_whatever_order_they_are_asked_for(tmp_path: Path) -> None:
    kinds = [("1", "group4"), ("L", "raw"), ("RGB", "tiff_lzw"), ("CMYK", "raw")]
    sheets = [(figure(*kinds[number % 4][:1]), number, kinds[number % 4][1]) for number in ORIENTATIONS]
    file = open_file(frames(tmp_path / "frames.tif", sheets), "image")
    twin = tmp_path / "upright.tif"
    try:
        assert file.facts.total_pages == 8
        for number in (3, 6, 6, 5, 1, 8, 2, 7, 4, 5):
            upright, orientation, compression = sheets[number - 1]
            twin.write_bytes(tiff(upright, 1, compression))
            facts, images = file.page_facts(number), file.page_images(number, BUDGET, 0)
            assert (facts.width_px, facts.height_px) == upright.size
            assert facts.rotation_deg == {3: 180, 4: 180, 5: 270, 6: 90, 7: 90, 8: 270}.get(orientation, 0)
            assert images.views[0].image == read(twin)[1].views[0].image, f"frame {number}"
    finally:
        file.close()


def test_a_fax_on_its_side_keeps_its_proportions(tmp_path: Path) -> None:
    """204 × 98 dots to the inch are those of the rows as they are stored."""
    path = tmp_path / "fax.tif"
    stored = make.as_stored(figure("1", (800, 600)), 6)
    path.write_bytes(make.encoded(stored, "TIFF", compression="group4", tiffinfo={ORIENTATION_TAG: 6}, dpi=(204, 98)))
    facts, images = read(path)
    assert (facts.width_px, facts.height_px) == (800, 600)
    assert images.views[0].width_px / images.views[0].height_px == pytest.approx(800 / 98 / (600 / 204), rel=0.01)


@pytest.mark.slow
def test_llamaindex_gets_the_same_text_for_each_frame(
    make_simulator: Callable[..., KoboldSimulator], tmp_path: Path
) -> None:
    """The simulator's text comes from the pixels that it is sent."""
    folder = tmp_path / "scans"
    folder.mkdir()
    frames(folder / "scan.tif", [(figure("L", (400, 280)), orientation, "raw") for orientation in ORIENTATIONS])
    reader = KoboldReader(api_url=make_simulator().url, ledger=str(tmp_path / "ledger.sqlite"), tasks=["ocr"], rotate=0)
    documents = SimpleDirectoryReader(str(folder), file_extractor=reader.file_extractor()).load_data()
    assert len(documents) == len(ORIENTATIONS)
    assert len({document.text for document in documents}) == 1
