"""Builds PDFs and pictures in code, so that no test depends on a file that somebody made."""

from __future__ import annotations

import functools
import io
import itertools
import math
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import pymupdf
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont, ImageOps

A4_INCHES = (8.27, 11.69)
A4_PT = (595, 842)
WORDS = "The quick brown fox jumps over the lazy dog near the river bank at seven o'clock sharp"


# ── sheets of paper ───────────────────────────────────────────────────────────────────────────


def sheet(dpi: int = 150, colour: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    return Image.new("RGB", (round(A4_INCHES[0] * dpi), round(A4_INCHES[1] * dpi)), colour)


def font(dpi: int, points: float) -> Any:
    return ImageFont.load_default(size=points * dpi / 72)


def write(
    paper: Image.Image,
    text: str,
    *,
    dpi: int,
    at: tuple[float, float] = (0.5, 0.5),
    points: float = 11,
    ink: tuple[int, int, int] = (20, 20, 20),
) -> Image.Image:
    """Print text with its top left corner at shares of the sheet."""
    ImageDraw.Draw(paper).text((paper.width * at[0], paper.height * at[1]), text, font=font(dpi, points), fill=ink)
    return paper


def handwrite(
    paper: Image.Image,
    *,
    dpi: int,
    seed: int = 0,
    at: tuple[float, float] = (0.4, 0.4),
    ink: tuple[int, int, int] = (40, 40, 90),
    stroke_mm: float = 0.45,
) -> Image.Image:
    """One scribbled word of about 25 × 6 mm: loops of a thin, antialiased line."""
    chance = random.Random(seed)
    mm, fine = dpi / 25.4, 4
    points = []
    for step in range(200):
        turn = step / 200 * 5 * 2 * math.pi
        x = step / 200 * 25 + 1.3 * math.cos(turn) + chance.uniform(-0.05, 0.05)
        y = 3 + 2.4 * math.sin(turn) * (1 if step % 80 < 50 else 0.5)
        points.append((x * mm * fine, y * mm * fine))
    size = (round(30 * mm * fine), round(9 * mm * fine))
    layer = Image.new("L", size, 0)
    ImageDraw.Draw(layer).line(points, fill=255, width=max(1, round(stroke_mm * mm * fine)))
    layer = layer.resize((round(30 * mm), round(9 * mm)), Image.Resampling.LANCZOS)
    place = (round(paper.width * at[0]), round(paper.height * at[1]))
    paper.paste(Image.new("RGB", layer.size, ink), place, layer)
    return paper


def printed_page(dpi: int = 150, lines: int = 40) -> Image.Image:
    return _printed_page(dpi, lines).copy()


@functools.lru_cache
def _printed_page(dpi: int, lines: int) -> Image.Image:
    paper = sheet(dpi)
    for line in range(lines):
        write(paper, WORDS, dpi=dpi, at=(0.1, 0.08 + line * 0.02), points=10)
    return paper


def with_dust(paper: Image.Image, *, dpi: int, specks: int = 120, seed: int = 1) -> Image.Image:
    chance = random.Random(seed)
    draw = ImageDraw.Draw(paper)
    for _ in range(specks):
        x, y = chance.uniform(0, paper.width), chance.uniform(0, paper.height)
        radius = chance.uniform(0.05, 0.3) * dpi / 25.4
        level = chance.randint(30, 180)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(level,) * 3)
    return paper


def with_texture(paper: Image.Image, *, sigma: float = 5, seed_blur: float = 0.7) -> Image.Image:
    noise = Image.effect_noise(paper.size, sigma).filter(ImageFilter.GaussianBlur(seed_blur))
    grain = Image.merge("RGB", (noise, noise, noise))
    return ImageChops.add(paper, grain, 1, -128)


def with_bleed_through(paper: Image.Image, *, dpi: int, strength: float = 0.08) -> Image.Image:
    """The other side of the leaf, mirrored, blurred, faint."""
    back = ImageOps.mirror(printed_page(dpi)).resize(paper.size)
    back = back.filter(ImageFilter.GaussianBlur(dpi / 100))
    ink = ImageOps.invert(back).point(lambda value: int(value * strength))
    return ImageChops.subtract(paper, ink)


def with_edge_shadow(paper: Image.Image, *, width: float = 0.03, dark: int = 120) -> Image.Image:
    """A soft shadow along two edges, as the spine and the lid of a scanner cast it."""
    shadow = Image.new("L", paper.size, 0)
    draw = ImageDraw.Draw(shadow)
    reach = round(paper.width * width)
    for x in range(reach):
        draw.line((x, 0, x, paper.height), fill=round(dark * (1 - x / reach)))
    for y in range(reach):
        draw.line((0, y, paper.width, y), fill=round(dark * (1 - y / reach)))
    return ImageChops.subtract(paper, Image.merge("RGB", (shadow, shadow, shadow)))


def with_uneven_light(paper: Image.Image, *, drop: int = 40) -> Image.Image:
    ramp = Image.linear_gradient("L").point(lambda value: value * drop // 255).resize(paper.size)
    return ImageChops.subtract(paper, Image.merge("RGB", (ramp, ramp, ramp)))


def with_black_bar(paper: Image.Image, *, width: float = 0.012) -> Image.Image:
    """The scanner's lid beyond the paper."""
    draw = ImageDraw.Draw(paper)
    draw.rectangle((paper.width * (1 - width), 0, paper.width, paper.height), fill=(15, 15, 15))
    return paper


def with_holes(paper: Image.Image, *, dpi: int) -> Image.Image:
    draw, mm = ImageDraw.Draw(paper), dpi / 25.4
    for y in (0.365, 0.635):
        x, radius = 11 * mm, 3 * mm
        middle = paper.height * y
        draw.ellipse((x - radius, middle - radius, x + radius, middle + radius), fill=(60, 60, 60))
    return paper


# ── encoded pictures ──────────────────────────────────────────────────────────────────────────


def encoded(picture: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(picture: Image.Image, *, quality: int = 85, **options: Any) -> bytes:
    return encoded(picture, "JPEG", quality=quality, **options)


def corners() -> Image.Image:
    """90 × 60 px, red top left, green top right, blue bottom left, white bottom right."""
    picture = Image.new("RGB", (90, 60), (255, 255, 255))
    picture.paste((220, 0, 0), (0, 0, 45, 30))
    picture.paste((0, 200, 0), (45, 0, 90, 30))
    picture.paste((0, 0, 220), (0, 30, 45, 60))
    return picture


_STORED = {  # EXIF orientation → how an upright picture is stored under it
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def as_stored(picture: Image.Image, orientation: int) -> Image.Image:
    """An upright picture as it is stored under an EXIF orientation."""
    step = _STORED[orientation]
    return picture if step is None else picture.transpose(step)


def oriented_jpeg(orientation: int) -> bytes:
    """`corners()` as a camera would store it, held that way."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return jpeg(as_stored(corners(), orientation), quality=95, exif=exif)


def tiff(frames: Sequence[Image.Image], **options: Any) -> bytes:
    return encoded(frames[0], "TIFF", save_all=True, append_images=list(frames[1:]), **options)


def grey_png_16(levels: tuple[int, int] = (0, 65535)) -> bytes:
    """A 16-bit grey PNG: left half the first level, right half the second."""
    row = struct.pack("<" + "H" * 64, *([levels[0]] * 32 + [levels[1]] * 32))
    return encoded(Image.frombytes("I;16", (64, 64), row * 64), "PNG")


# ── PDFs ──────────────────────────────────────────────────────────────────────────────────────


def pdf(*draw: Callable[[Any], Any], size: tuple[float, float] = A4_PT, **save: Any) -> bytes:
    """A PDF with a page for each function, which is given the page to draw on."""
    document = pymupdf.open()
    for step in draw:
        step(document.new_page(width=size[0], height=size[1]))
    data: bytes = document.tobytes(**save)
    document.close()
    return data


def text_on(page: Any, lines: int = 30) -> None:
    for line in range(lines):
        page.insert_text((60, 80 + line * 20), f"Line {line + 1}. {WORDS}", fontsize=10)


def scan_on(data: bytes) -> Callable[[Any], None]:
    """Lay a picture over the whole page."""
    return lambda page: page.insert_image(page.rect, stream=data, keep_proportion=False)


def cut_scan_pdf(picture: Image.Image, share: float, *, kind: str) -> bytes:
    """A page that is one scan, of whose stored data only this share is there."""
    document = pymupdf.open("pdf", pdf(scan_on(jpeg(picture) if kind == "JPEG" else encoded(picture, kind))))
    xref = document.get_page_images(0)[0][0]
    if kind == "JPEG":
        raw = document.xref_stream_raw(xref)
        document.update_stream(xref, raw[: int(len(raw) * share)] or b"\0", compress=False, new=False)
        document.xref_set_key(xref, "Filter", "/DCTDecode")
    else:
        pixels = document.xref_stream(xref)
        document.update_stream(xref, pixels[: int(len(pixels) * share)])
    data: bytes = document.tobytes()
    document.close()
    return data


def hidden_text_on(page: Any) -> None:
    for line in range(30):
        page.insert_text((60, 80 + line * 20), WORDS, fontsize=10, render_mode=3)


def both(*steps: Callable[[Any], Any]) -> Callable[[Any], None]:
    def draw(page: Any) -> None:
        for step in steps:
            step(page)

    return draw


def blank_on(page: Any) -> None:
    """Leave the page as it is."""


def labelled_pdf() -> bytes:
    """Pages i, ii, then 1."""
    document = pymupdf.open()
    for _ in range(3):
        text_on(document.new_page())
    document.set_page_labels(
        [
            {"startpage": 0, "prefix": "", "style": "r", "firstpagenum": 1},
            {"startpage": 2, "prefix": "", "style": "D", "firstpagenum": 1},
        ]
    )
    data: bytes = document.tobytes()
    document.close()
    return data


def locked_pdf(*, user: str, owner: str = "owner") -> bytes:
    return pdf(text_on, encryption=pymupdf.PDF_ENCRYPT_AES_256, user_pw=user, owner_pw=owner, permissions=4)


def strips_on(picture: Image.Image, count: int) -> Callable[[Any], None]:
    """One scan laid on the page in strips, as many a scanner's driver stores it."""

    def draw(page: Any) -> None:
        edges = [round(picture.height * step / count) for step in range(count + 1)]
        for top, bottom in itertools.pairwise(edges):
            strip = encoded(picture.crop((0, top, picture.width, bottom)), "PNG")
            share = page.rect.height / picture.height
            place = pymupdf.Rect(0, top * share, page.rect.width, bottom * share)
            page.insert_image(place, stream=strip, keep_proportion=False)

    return draw


def group4(stencil: Image.Image) -> bytes:
    """A 1-bit picture, coded as a fax is, black where it is 0."""
    # A fax counts white as 0, a picture of Pillow's as 1.
    fax = encoded(ImageChops.invert(stencil), "TIFF", compression="group4", strip_size=1 << 30)
    with Image.open(io.BytesIO(fax)) as stored:
        tags: Any = stored.tag_v2  # type: ignore[attr-defined]
        start, length = tags[273][0], tags[279][0]
    return fax[start : start + length]


def jbig2_segment(number: int, kind: int, body: bytes) -> bytes:
    return struct.pack(">IBBBI", number, kind, 0, 1, len(body)) + body


def jbig2_page(width: int, height: int) -> bytes:
    return jbig2_segment(0, 48, struct.pack(">IIIIBH", width, height, 0, 0, 0, 0))


def jbig2(stencil: Image.Image) -> bytes:
    """A 1-bit picture as JBIG2: one generic region, coded as a fax is."""
    width, height = stencil.size
    region = struct.pack(">IIIIB", width, height, 0, 0, 0) + b"\x01" + group4(stencil)  # MMR
    return jbig2_page(width, height) + jbig2_segment(1, 38, region)


def jbig2_pdf(picture: Image.Image, data: bytes | None = None) -> bytes:
    """A PDF whose scan is JBIG2; `data` stands in place of the picture's own."""
    black = picture.convert("1")
    document = pymupdf.open("pdf", pdf(scan_on(encoded(black, "PNG"))))
    xref = document.get_page_images(0)[0][0]
    document.update_stream(xref, jbig2(black) if data is None else data, compress=False)
    for key in ("DecodeParms", "SMask"):
        document.xref_set_key(xref, key, "null")
    document.xref_set_key(xref, "Filter", "/JBIG2Decode")
    document.xref_set_key(xref, "ColorSpace", "/DeviceGray")
    document.xref_set_key(xref, "BitsPerComponent", "1")
    made: bytes = document.tobytes()
    document.close()
    return made


def annotated_on(page: Any) -> None:
    """A filled form, a text box, a note, and a comment on a marked word."""
    text_on(page, lines=3)
    page.add_freetext_annot((60, 300, 300, 330), "Written in a text box")
    page.add_text_annot((400, 300), "A note pinned to the page")
    marked = page.add_highlight_annot((60, 70, 160, 84))
    marked.set_info(content="A comment on marked words")
    marked.update()
    field = pymupdf.Widget()
    field.field_type, field.field_name = pymupdf.PDF_WIDGET_TYPE_TEXT, "name"
    field.field_value, field.rect = "Filled into a form", pymupdf.Rect(60, 350, 300, 370)
    page.add_widget(field)


def form_pdf() -> bytes:
    """Two boxes with words beside them, one without, and a group of two buttons; the first of each is chosen."""

    def draw(page: Any) -> None:
        page.insert_text((60, 60), "Application for a mooring in the harbour")
        page.insert_text((95, 94), "with an engine")
        page.insert_text((60, 124), "with sails")
        page.insert_text((95, 184), "the north quay")
        page.insert_text((95, 214), "the south quay")
        for name, kind, x, y, is_on in (
            ("engine", pymupdf.PDF_WIDGET_TYPE_CHECKBOX, 72, 80, True),
            ("sails", pymupdf.PDF_WIDGET_TYPE_CHECKBOX, 120, 110, False),
            ("member", pymupdf.PDF_WIDGET_TYPE_CHECKBOX, 72, 140, True),
            ("quay", pymupdf.PDF_WIDGET_TYPE_RADIOBUTTON, 72, 170, True),
            ("quay", pymupdf.PDF_WIDGET_TYPE_RADIOBUTTON, 72, 200, False),
        ):
            field = pymupdf.Widget()
            field.field_type, field.field_name, field.field_value = kind, name, is_on
            field.rect = pymupdf.Rect(x, y, x + 18, y + 18)
            page.add_widget(field)

    return pdf(draw)


def attachment_locked_pdf() -> bytes:
    """Only the attached letter.pdf needs the password; the page is stored in the open."""
    document = pymupdf.open("pdf", locked_pdf(user="secret"))
    lock = document.xref_get_key(-1, "Encrypt")[1]
    document.close()
    opened = pymupdf.open("pdf", pdf(text_on))
    opened.embfile_add("letter.pdf", bytes(range(256)))  # as encrypted bytes look
    plain: bytes = opened.tobytes()
    opened.close()
    at = plain.rindex(b"/Root")
    lock = re.sub(r"/(StmF|StrF)/\w+", r"/\1/Identity", lock).removesuffix(">>") + "/EFF/StdCF>>"
    identity = b"/ID[<" + b"00" * 16 + b"><" + b"00" * 16 + b">]"
    return plain[:at] + b"/Encrypt " + lock.encode("latin-1") + identity + plain[at:]


# ── books, comics, raw photos ─────────────────────────────────────────────────────────────────


def zipped(entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in entries.items():
            kind = zipfile.ZIP_STORED if name == "mimetype" else method
            archive.writestr(zipfile.ZipInfo(name), data, compress_type=kind)
    return buffer.getvalue()


def epub(*chapters: str, title: str = "The Harbour", author: str = "A. Clerk") -> bytes:
    items = "".join(
        f'<item id="c{n}" href="{n}.xhtml" media-type="application/xhtml+xml"/>' for n in range(len(chapters))
    )
    spine = "".join(f'<itemref idref="c{n}"/>' for n in range(len(chapters)))
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf" version="2.0" unique-identifier="i">'
        '<metadata xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f"<dc:title>{title}</dc:title><dc:creator>{author}</dc:creator></metadata>"
        f"<manifest>{items}</manifest><spine>{spine}</spine></package>"
    )
    container = (
        '<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        '<rootfile full-path="book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
    )
    page = '<html xmlns="http://www.w3.org/1999/xhtml"><body>{}</body></html>'
    return zipped(
        {
            "mimetype": b"application/epub+zip",
            "META-INF/container.xml": container.encode(),
            "book.opf": package.encode(),
            **{f"{n}.xhtml": page.format(chapter).encode() for n, chapter in enumerate(chapters)},
        }
    )


def xps(text: str) -> bytes:
    schema = "http://schemas.microsoft.com/xps/2005/06"
    kinds = "".join(
        f'<Default Extension="{ending}" ContentType="{kind}"/>'
        for ending, kind in {
            "rels": "application/vnd.openxmlformats-package.relationships+xml",
            "fdseq": "application/vnd.ms-package.xps-fixeddocumentsequence+xml",
            "fdoc": "application/vnd.ms-package.xps-fixeddocument+xml",
            "fpage": "application/vnd.ms-package.xps-fixedpage+xml",
            "ttf": "application/vnd.ms-opentype",
        }.items()
    )
    page = (
        f'<FixedPage xmlns="{schema}" Width="793" Height="1122" xml:lang="en"><Glyphs Fill="#000000" '
        f'FontUri="/font.ttf" FontRenderingEmSize="16" OriginX="80" OriginY="120" UnicodeString="{text}"/></FixedPage>'
    )
    return zipped(
        {
            "[Content_Types].xml": (
                f'<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">{kinds}</Types>'
            ).encode(),
            "_rels/.rels": (
                '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship '
                f'Id="R" Type="{schema}/fixedrepresentation" Target="/FixedDocSeq.fdseq"/></Relationships>'
            ).encode(),
            "FixedDocSeq.fdseq": (
                f'<FixedDocumentSequence xmlns="{schema}"><DocumentReference Source="/1/FixedDoc.fdoc"/>'
                "</FixedDocumentSequence>"
            ).encode(),
            "1/FixedDoc.fdoc": (
                f'<FixedDocument xmlns="{schema}"><PageContent Source="/1/1.fpage"/></FixedDocument>'
            ).encode(),
            "1/1.fpage": page.encode(),
            "font.ttf": pymupdf.Font("helv").buffer,
        }
    )


def _ifd(entries: dict[int, tuple[int, Any]], at: int, following: int = 0) -> bytes:
    """A TIFF directory, placed at an offset, its longer values behind it."""
    sizes = {1: "B", 2: "s", 3: "H", 4: "I", 7: "s"}
    body, behind = b"", b""
    end = at + 2 + 12 * len(entries) + 4
    for tag, (kind, value) in sorted(entries.items()):
        if kind in {2, 7}:
            packed, count = value, len(value)
        else:
            values = value if isinstance(value, tuple) else (value,)
            packed, count = struct.pack(f"<{len(values)}{sizes[kind]}", *values), len(values)
        if len(packed) > 4:
            behind += b"\0" * (len(behind) % 2)
            body += struct.pack("<HHII", tag, kind, count, end + len(behind))
            behind += packed
        else:
            body += struct.pack("<HHI", tag, kind, count) + packed.ljust(4, b"\0")
    return struct.pack("<H", len(entries)) + body + struct.pack("<I", following) + behind


def dng(preview: Image.Image, *, orientation: int = 1) -> bytes:
    """A camera's raw file: a small sensor's grey levels, and the camera's own JPEG beside them."""
    shown = jpeg(preview, quality=95)
    side = 64
    sensor = struct.pack(f"<{side * side}H", *(1000 for _ in range(side * side)))
    jpeg_at, sensor_at = 8, 8 + len(shown) + len(shown) % 2
    sub_at = sensor_at + len(sensor)
    sub = _ifd(
        {
            254: (4, 0), 256: (4, side), 257: (4, side), 258: (3, 16), 259: (3, 1), 262: (3, 32803),
            273: (4, sensor_at), 277: (3, 1), 278: (4, side), 279: (4, len(sensor)),
            33421: (3, (2, 2)), 33422: (1, (0, 1, 1, 2)),
        },
        sub_at,
    )  # fmt: skip
    shot_at = sub_at + len(sub) + len(sub) % 2
    shot = _ifd({0x9003: (2, b"2008:10:22 16:28:39\0"), 0x8827: (3, 200)}, shot_at)
    main_at = shot_at + len(shot) + len(shot) % 2
    main = _ifd(
        {
            254: (4, 1), 256: (4, preview.width), 257: (4, preview.height), 258: (3, (8, 8, 8)), 259: (3, 7),
            262: (3, 6), 271: (2, b"Solstad\0"), 272: (2, b"Solstad Havet\0"), 273: (4, jpeg_at),
            274: (3, orientation), 277: (3, 3), 278: (4, preview.height), 279: (4, len(shown)), 330: (4, sub_at),
            0x8769: (4, shot_at), 50706: (1, (1, 4, 0, 0)), 50708: (2, b"Solstad Havet\0"),
        },
        main_at,
    )  # fmt: skip
    data = bytearray(struct.pack("<2sHI", b"II", 42, main_at))
    for place, piece in ((jpeg_at, shown), (sensor_at, sensor), (sub_at, sub), (shot_at, shot), (main_at, main)):
        data.extend(bytes(place - len(data)) + piece)
    return bytes(data)


# ── what people wrote into a picture ──────────────────────────────────────────────────────────

_XMP_NAMES = {
    "dc": "http://purl.org/dc/elements/1.1/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "lr": "http://ns.adobe.com/lightroom/1.0/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "mwg-rs": "http://www.metadataworkinggroup.com/schemas/regions/",
    "MPReg": "http://ns.microsoft.com/photo/1.2/t/Region#",
}


def xmp(body: str, *, attributes: str = "", before: str = "") -> bytes:
    names = " ".join(f'xmlns:{name}="{uri}"' for name, uri in _XMP_NAMES.items())
    return (
        f'<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>{before}<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" {names} {attributes}>{body}</rdf:Description></rdf:RDF></x:xmpmeta>'
        '<?xpacket end="w"?>'
    ).encode()


def bag(name: str, *values: str) -> str:
    return f"<{name}><rdf:Bag>{''.join(f'<rdf:li>{value}</rdf:li>' for value in values)}</rdf:Bag></{name}>"


def with_segment(data: bytes, marker: int, body: bytes) -> bytes:
    """A JPEG with one more segment."""
    return data[:2] + struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body + data[2:]


def with_xmp(data: bytes, packet: bytes) -> bytes:
    return with_segment(data, 0xE1, b"http://ns.adobe.com/xap/1.0/\0" + packet)


def with_iptc(data: bytes, *fields: tuple[int, int, bytes]) -> bytes:
    records = b"".join(struct.pack(">BBBH", 0x1C, record, number, len(v)) + v for record, number, v in fields)
    block = b"8BIM" + struct.pack(">HH", 0x0404, 0) + struct.pack(">I", len(records)) + records
    return with_segment(data, 0xED, b"Photoshop 3.0\0" + block + b"\0" * (len(records) % 2))


# ── files made to harm ────────────────────────────────────────────────────────────────────────


def png_claiming(width: int, height: int) -> bytes:
    data = bytearray(encoded(Image.new("L", (10, 10)), "PNG"))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


def pdf_of_many_pages(count: int) -> bytes:
    """Empty pages, written by hand: a library would take minutes."""
    data, places = bytearray(b"%PDF-1.4\n"), []
    kids = b" ".join(b"%d 0 R" % (number + 3) for number in range(count))
    tree = b"<</Type/Pages/Count %d/Kids[%s]/MediaBox[0 0 200 200]>>" % (count, kids)
    for number, body in enumerate(
        [b"<</Type/Catalog/Pages 2 0 R>>", tree, *[b"<</Type/Page/Parent 2 0 R>>"] * count], start=1
    ):
        places.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(data)
    data += b"xref\n0 %d\n0000000000 65535 f \n" % (len(places) + 1)
    data += b"".join(b"%010d 00000 n \n" % place for place in places)
    data += b"trailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % (len(places) + 1, start)
    return bytes(data)


def tiff_in_a_circle(frames: int = 2) -> bytes:
    """Frames of 8 × 8 px, of which the last names the first as its follower."""
    shared: dict[int, tuple[int, Any]] = {
        256: (3, 8), 257: (3, 8), 258: (3, 8), 259: (3, 1), 262: (3, 1),
        273: (4, 8), 277: (3, 1), 278: (3, 8), 279: (4, 64),
    }  # fmt: skip
    size = len(_ifd(shared, 0))
    first = 8 + 64
    data = struct.pack("<2sHI", b"II", 42, first) + bytes(range(64))
    for number in range(frames):
        follower = first if number == frames - 1 else first + (number + 1) * size
        data += _ifd(shared, first + number * size, follower)
    return data


def nested_pdf(depth: int) -> bytes:
    """Lists in lists, and a form that paints itself."""
    return (
        b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Count 1/Kids[3 0 R]>>endobj\n"
        b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]/Contents 4 0 R/Resources<</XObject<</A 5 0 R>>>>"
        b"/X " + b"[" * depth + b"]" * depth + b">>endobj\n"
        b"4 0 obj<</Length 5>>stream\n/A Do\nendstream endobj\n"
        b"5 0 obj<</Type/XObject/Subtype/Form/BBox[0 0 99 99]/Resources<</XObject<</A 5 0 R>>>>/Length 11>>stream\n"
        b"/A Do /A Do\nendstream endobj\ntrailer<</Root 1 0 R>>"
    )
