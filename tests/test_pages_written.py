"""What people wrote into their pictures and PDFs: found, flat, and never taken on trust."""

from __future__ import annotations

import io
from pathlib import Path

import pymupdf
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kobold_reader.pages.metadata import join_names, pdf_metadata, picture_metadata, read_xmp
from kobold_reader.pages.values import Scalar
from tests import page_files as make

pytestmark = pytest.mark.slow

PLAIN = make.jpeg(make.corners())


def told(data: bytes) -> dict[str, Scalar]:
    with Image.open(io.BytesIO(data)) as picture:
        return picture_metadata(picture)


FULL = make.xmp(
    '<dc:title><rdf:Alt><rdf:li xml:lang="fr">Le port</rdf:li><rdf:li xml:lang="x-default">The harbour</rdf:li>'
    "</rdf:Alt></dc:title>"
    "<dc:description><rdf:Alt><rdf:li>Boats &amp; nets,\n drying</rdf:li></rdf:Alt></dc:description>"
    + make.bag("dc:creator", "A. Clerk")
    + make.bag("dc:subject", "boats", "Skarvholm", "boats", "summer 1961")
    + make.bag("Iptc4xmpExt:PersonInImage", "Åke Lind")
    + '<mwg-rs:Regions rdf:parseType="Resource"><mwg-rs:RegionList><rdf:Bag>'
    '<rdf:li><rdf:Description mwg-rs:Name="Märta Lind" mwg-rs:Type="Face"/></rdf:li>'
    '<rdf:li><rdf:Description mwg-rs:Name="Focus" mwg-rs:Type="Focus"/></rdf:li>'
    '<rdf:li rdf:parseType="Resource"><mwg-rs:Type>Pet</mwg-rs:Type><mwg-rs:Name>Rex</mwg-rs:Name></rdf:li>'
    '<rdf:li rdf:parseType="Resource"><mwg-rs:Type>Face</mwg-rs:Type><mwg-rs:Name>Ulla</mwg-rs:Name></rdf:li>'
    "</rdf:Bag></mwg-rs:RegionList></mwg-rs:Regions>",
    attributes='xmp:Rating="4"',
)
TOLD = {
    "title": "The harbour",
    "description": "Boats & nets, drying",
    "author": "A. Clerk",
    "keywords": "boats, Skarvholm, summer 1961",
    "keywords_source": "xmp",
    "persons": "Åke Lind, Märta Lind, Ulla",
    "rating": 4,
}


def test_xmp_of_a_jpeg() -> None:
    assert told(make.with_xmp(PLAIN, FULL)) == TOLD


def test_exif_in_utf_8() -> None:
    """EXIF asks for ASCII, and every program writes UTF-8."""
    exif = make.jpeg(make.corners(), exif=_exif_of({0x010E: "Hamnen i maj", 0x013B: "Ake Ostlund"}))
    told_now = told(exif.replace(b"Hamnen i maj", "Hamnän i m".encode() + b"a").replace(b"Ake Ost", "Åke st".encode()))
    assert (told_now["title"], told_now["author"]) == ("Hamnän i ma", "Åke stlund")


def _exif_of(tags: dict[int, str]) -> bytes:
    exif = Image.Exif()
    for tag, text in tags.items():
        exif[tag] = text
    return exif.tobytes()


def test_the_position_in_xmp_is_that_of_the_camera() -> None:
    names = 'xmlns:exif="http://ns.adobe.com/exif/1.0/"'
    place = '<dc:relation rdf:parseType="Resource"><exif:GPSLatitude>1,2.5N</exif:GPSLatitude></dc:relation>'
    packet = make.xmp(place, attributes=f'{names} exif:GPSLatitude="57,38,30N" exif:GPSLongitude="18,17.52W"')
    found = told(make.with_xmp(PLAIN, packet))
    assert (found["latitude"], found["longitude"]) == (57.641667, -18.292)
    elements = "<exif:GPSLatitude>57,38.46S</exif:GPSLatitude><exif:GPSLongitude>18,17.52E</exif:GPSLongitude>"
    found = told(make.with_xmp(PLAIN, make.xmp(elements, attributes=names)))
    assert (found["latitude"], found["longitude"]) == (-57.641, 18.292)
    assert told(make.with_xmp(PLAIN, make.xmp(place, attributes=names))) == {}


def test_xmp_where_pillow_leaves_it_in_the_segments() -> None:
    with Image.open(io.BytesIO(make.with_xmp(PLAIN, FULL))) as picture:
        picture.info.pop("xmp", None)
        assert picture_metadata(picture) == TOLD


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_xmp_of_other_formats(kind: str) -> None:
    options: dict[str, object] = {"xmp": FULL}
    if kind == "PNG":
        from PIL import PngImagePlugin

        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", FULL.decode())
        options = {"pnginfo": info}
    elif kind == "TIFF":
        from PIL import TiffImagePlugin

        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[700] = FULL
        tags.tagtype[700] = 1
        options = {"tiffinfo": tags}
    assert told(make.encoded(make.corners(), kind, **options)) == TOLD


def test_iptc_in_both_its_alphabets() -> None:
    latin = make.with_iptc(PLAIN, (2, 25, b"br\xfccke"), (2, 25, b"hafen"), (2, 120, b"Am Ufer"), (2, 5, b"Br\xfccke"))
    assert told(latin) == {
        "title": "Brücke",
        "description": "Am Ufer",
        "keywords": "brücke, hafen",
        "keywords_source": "iptc",
    }
    utf8 = make.with_iptc(PLAIN, (1, 90, b"\x1b%G"), (2, 25, "brücke".encode()), (2, 80, "Åke".encode()))
    assert told(utf8) == {"author": "Åke", "keywords": "brücke", "keywords_source": "iptc"}


def test_what_windows_writes_into_exif() -> None:
    exif = Image.Exif()
    exif[0x9C9E] = "boats;Skarvholm".encode("utf-16-le") + b"\0\0"
    exif[0x9C9B] = "The harbour".encode("utf-16-le") + b"\0\0"
    exif[0x010E] = "Seen from the quay"
    exif[0x4746] = 5
    assert told(make.jpeg(make.corners(), exif=exif)) == {
        "title": "The harbour",
        "description": "Seen from the quay",
        "keywords": "boats, Skarvholm",
        "keywords_source": "exif",
        "rating": 5,
    }


@pytest.mark.parametrize(
    ("comment", "description"),
    [
        (b"ASCII\0\0\0Two boats at the quay", "Two boats at the quay"),
        (b"UNICODE\0" + "Två båtar".encode("utf-16-le"), "Två båtar"),
        (b"UNICODE\0" + "Två båtar".encode("utf-16-be"), "Två båtar"),
        (b"ASCII\0\0\0\0\0\0\0\0", None),
        (b"ASCII\0\0\0FCNT0042;V=1.2", None),
        (b"\0\0\0\0\0\0\0\0Two boats at the quay", None),
    ],
)
def test_the_comment_that_cameras_leave_room_for(comment: bytes, description: str | None) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = comment
    assert told(make.jpeg(make.corners(), exif=exif)).get("description") == description


def test_the_longest_list_of_keywords_is_the_newest() -> None:
    both = make.with_xmp(
        make.with_iptc(PLAIN, (2, 25, b"boats"), (2, 25, b"nets")), make.xmp(make.bag("dc:subject", "boats"))
    )
    assert told(both) == {"keywords": "boats, nets", "keywords_source": "iptc"}
    equal = make.with_xmp(make.with_iptc(PLAIN, (2, 25, b"boats")), make.xmp(make.bag("dc:subject", "boats")))
    assert told(equal)["keywords_source"] == "xmp"


def test_keywords_in_a_tree_give_their_leaves() -> None:
    packet = make.xmp(make.bag("lr:hierarchicalSubject", "Places|Skarvholm", "Boats"))
    assert told(make.with_xmp(PLAIN, packet))["keywords"] == "Skarvholm, Boats"


def test_one_text_is_not_told_twice() -> None:
    exif = Image.Exif()
    exif[0x010E] = "Two boats"
    packet = make.xmp("<dc:description><rdf:Alt><rdf:li>Two boats</rdf:li></rdf:Alt></dc:description>")
    assert told(make.with_xmp(make.jpeg(make.corners(), exif=exif), packet)) == {"title": "Two boats"}


@pytest.mark.parametrize(("stars", "rating"), [("0", None), ("-1", -1), ("5", 5), ("6", None), ("x", None)])
def test_ratings(stars: str, rating: int | None) -> None:
    assert told(make.with_xmp(PLAIN, make.xmp("", attributes=f'xmp:Rating="{stars}"'))).get("rating") == rating


@pytest.mark.parametrize(
    "before",
    [
        '<!DOCTYPE x [<!ENTITY a "boats">]>',
        '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>',
        '<!DOCTYPE x SYSTEM "file:///etc/passwd">',
    ],
)
def test_no_entity_is_ever_expanded(before: str) -> None:
    packet = make.xmp(make.bag("dc:subject", "&a;" if "ENTITY" in before else "boats"), before=before)
    assert told(make.with_xmp(PLAIN, packet)) == {}


@pytest.mark.parametrize(
    "packet",
    [b"<", b"\xff\xfe\x00", b"<a>" * 10_000, FULL[: len(FULL) // 2], b"<a b='" + b"x" * 5_000_000 + b"'/>"],
)
def test_a_packet_that_cannot_be_parsed_tells_nothing(packet: bytes) -> None:
    assert read_xmp(packet) == {}


def test_names_are_joined_whole_and_once() -> None:
    assert join_names(["b", " a ", "b", "", "a\nc"]) == "b, a, a c"
    long = join_names(f"keyword {number}" for number in range(100))
    assert len(long) <= 300
    assert long.endswith("keyword 24")


@given(st.binary(max_size=300))
def test_any_bytes_as_xmp(packet: bytes) -> None:
    assert isinstance(read_xmp(packet), dict)


def test_what_a_pdf_tells() -> None:
    info = {"title": "Minutes", "subject": "The year 1961", "keywords": "boats; dues, harbour"}
    assert pdf_metadata(info, {}, is_scan=False) == {
        "title": "Minutes",
        "description": "The year 1961",
        "keywords": "boats, dues, harbour",
        "keywords_source": "pdf",
    }


def test_what_only_the_xmp_of_a_pdf_tells(tmp_path: Path) -> None:
    from kobold_reader.pages.pdf import PdfFile

    document = pymupdf.open("pdf", make.pdf(make.text_on))
    document.set_xml_metadata(FULL.decode())
    path = tmp_path / "minutes.pdf"
    path.write_bytes(document.tobytes())
    document.close()
    file = PdfFile(path, "ab")
    file.close()
    assert file.facts.metadata == {key: TOLD[key] for key in TOLD if key not in {"persons", "rating"}}
