"""Our words in sidecars: merged, renamed and taken out without a trace, and read by the programs that matter."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kobold_reader.errors import SidecarError
from kobold_reader.pages import xmp
from kobold_reader.pages.metadata import read_sidecar, read_xmp, sidecar_metadata
from kobold_reader.pages.values import Embedded, Scalar
from kobold_reader.pages.xmp import MAX_DEPTH, Words, remove, rename, without_ours
from tests import page_files as make
from tests import sidecar_samples as samples

WORDS = Words(
    ("boat", "vehicle|car", "lake", "24/7"), "A boat & a car at\nthe <lake>.", "At the lake", "Qwen2.5-VL-7B", "AI"
)
ALL = pytest.mark.parametrize("name", samples.ALL)
merge, begin = partial(xmp.merge, with_title=True), partial(xmp.begin, with_title=True)


def canonical(data: bytes | None) -> str:
    assert data is not None
    return ET.canonicalize(data.decode("utf-8-sig"), strip_text=False, with_comments=True)


def people_say(sidecar: bytes) -> dict[str, Scalar]:
    return sidecar_metadata([read_sidecar(sidecar)])


def values(data: bytes) -> dict[str, list[str]]:
    return read_xmp(data)


# ── merge and remove ─────────────────────────────────────────────────────────────────────────────


@ALL
def test_what_is_put_in_is_taken_out_to_the_byte(name: str) -> None:
    before = samples.ALL[name]
    merged = merge(before, WORDS)
    assert merged != before
    assert canonical(remove(merged)) == canonical(before)
    if name != "bare":  # its `<rdf:RDF/>` comes back as `<rdf:RDF></rdf:RDF>`
        assert remove(merged) == before


@ALL
def test_the_same_words_again_change_no_byte_and_other_words_replace_ours(name: str) -> None:
    merged = merge(samples.ALL[name], WORDS)
    assert merge(merged, WORDS) == merged
    other = merge(merged, Words(("harbour",), "Another one.", model="Gemma"))
    assert "harbour" in values(other)["keywords"]
    assert not {"lake", "car"} & set(values(other)["keywords"])
    assert canonical(remove(other)) == canonical(samples.ALL[name])
    assert canonical(merge(other, Words())) == canonical(samples.ALL[name])  # nothing to say any more


@ALL
def test_nothing_that_is_a_persons_is_changed(name: str) -> None:
    before = samples.ALL[name]
    merged = merge(before, WORDS)
    rest = merged
    for piece in before.replace(b"/>", b">").split(b"<"):
        place = rest.replace(b"/>", b">").find(piece)
        assert place >= 0, piece
        rest = rest.replace(b"/>", b">")[place:]
    theirs, both = values(before), values(merged)
    for key, some in theirs.items():
        assert [value for value in both[key] if value in some] == some
    assert people_say(merged) == people_say(before)


def test_a_persons_description_stays_unless_it_is_to_be_overwritten() -> None:
    before = samples.DIGIKAM
    assert values(merge(before, WORDS))["description"] == values(before)["description"]
    over = merge(before, WORDS, overwrite=["description"])
    assert values(over)["description"][0] == "A boat & a car at\nthe <lake>."
    assert "Märta i hamnen" in values(over)["description"]
    assert 'Märta at the harbour, "midsummer"' in over.decode()
    assert merge(over, WORDS) == over  # once overwritten, it stays so
    assert canonical(remove(over)) == canonical(before)
    assert people_say(over) == people_say(before)


def test_a_description_that_somebody_edited_is_theirs() -> None:
    merged = merge(samples.LIGHTROOM, WORDS)
    edited = merged.replace(b'"x-default">A boat', b'"x-default">Our boat')
    assert edited != merged
    again = merge(edited, Words(("boat",), "Something else."))
    assert values(again)["description"][0].startswith("Our boat")
    left = remove(again)
    assert left is not None
    assert values(left)["description"][0].startswith("Our boat")


def test_a_keyword_of_ours_that_somebody_took_out_stays_out() -> None:
    merged = merge(samples.DIGIKAM, WORDS)
    item = b"\n     <rdf:li>lake</rdf:li>"
    edited = merged.replace(item, b"", 1)
    again = merge(edited, WORDS)
    assert "lake" not in values(again)["keywords"]
    assert "AI/lake" not in values(again)["paths"]
    assert merge(again, WORDS) == again
    assert "lake" not in values(merge(again, Words(("lake", "net"), "")))["keywords"]


def test_words_that_another_program_lost_altogether_are_written_again() -> None:
    merged = merge(samples.DIGIKAM, WORDS)
    lost = merged
    for word in ("boat", "car", "lake", "24/7"):
        lost = lost.replace(f"\n     <rdf:li>{word}</rdf:li>".encode(), b"", 1)
    lost = lost.replace(b'x-default">At the lake', b'x-default">Another title', 1)
    assert {"boat", "car", "lake", "24/7"} <= set(values(merge(lost, WORDS))["keywords"])


def test_keywords_that_people_have_are_not_written_twice() -> None:
    merged = merge(samples.LIGHTROOM, Words(("Boat", "gotland", "net")))
    assert values(merged)["keywords"] == ["boat", "Gotland", "net"]
    assert "AI|Boat" not in values(merged)["paths"]


def test_a_new_list_of_tags_has_the_keywords_of_people_too() -> None:
    """digiKam and immich look at no other list where this one is."""
    tags = b"<digiKam:TagsList>"
    merged = merge(samples.LIGHTROOM, Words(("net",)))
    assert tags not in samples.LIGHTROOM
    assert b"<rdf:li>Places/Sweden/Gotland</rdf:li>" in merged.partition(tags)[2]
    tagged = merged.replace(b"<rdf:li>Gotland</rdf:li>", b"<rdf:li>Gotland</rdf:li><rdf:li>Anna</rdf:li>", 1)
    tagged = tagged.replace(b"<rdf:li>boat</rdf:li>", b"<rdf:li>boat</rdf:li>\r\n     <rdf:li>Anna</rdf:li>")
    assert b"<rdf:li>Anna</rdf:li>" in merge(tagged, Words(("mast",))).partition(tags)[2]


@pytest.mark.parametrize(
    ("parent", "path", "tag"), [("AI|photos", "AI|photos|net", "AI/photos/net"), ("", "net", "net")]
)
def test_the_keyword_above_ours(parent: str, path: str, tag: str) -> None:
    merged = merge(samples.BARE, Words(("net",), parent=parent))
    assert set(values(merged)["paths"]) == {path, tag}


def test_the_title_is_written_where_it_is_asked_for_and_then_kept() -> None:
    assert "title" not in values(xmp.merge(samples.DIGIKAM, WORDS))
    titled = merge(samples.DIGIKAM, WORDS)
    assert values(titled)["title"] == ["At the lake"]
    assert xmp.merge(titled, WORDS) == titled


def test_the_keyword_above_ours_stays_as_it_was_chosen() -> None:
    for parent in ("Model", ""):
        chosen = merge(samples.BARE, Words(("net",), parent=parent))
        assert merge(chosen, Words(("net",))) == chosen


def test_renaming_is_of_our_keywords_alone() -> None:
    merged = merge(samples.LIGHTROOM, Words(("automobile", "vehicle|net"), "Cars."))
    renamed = rename(merged, {"Automobile": "car", "boat": "ship", "net": "web"})
    assert values(renamed)["keywords"] == ["boat", "Gotland", "car", "web"]
    assert {"AI|car", "AI|vehicle|web", "AI/car"} <= set(values(renamed)["paths"])
    assert merge(renamed, Words(("car", "vehicle|web"), "Cars.")) == renamed
    assert remove(renamed) == samples.LIGHTROOM
    assert rename(samples.LIGHTROOM, {"boat": "ship"}) == samples.LIGHTROOM
    assert rename(renamed, {"car": "web"}).count(b">web<") < renamed.count(b">web<") + 5  # two become one


def test_encodings_and_line_ends_stay() -> None:
    text = samples.DIGIKAM.decode().replace('encoding="UTF-8"', 'encoding="UTF-16"')
    for data in (text.encode("utf-16"), b"\xfe\xff" + text.encode("utf-16-be"), b"\xef\xbb\xbf" + samples.LIGHTROOM):
        merged = merge(data, WORDS)
        assert merged[:2] == data[:2]
        assert remove(merged) == data
        assert people_say(merged)["rating"] in {4, 5}
    merged = merge(samples.LIGHTROOM, Words(("net",)))
    assert merged.count(b"\n") == merged.count(b"\r\n")


# ── a photo without a sidecar ────────────────────────────────────────────────────────────────────


def test_a_new_sidecar_begins_with_what_is_in_the_photo_and_goes_as_a_whole() -> None:
    embedded = Embedded(samples.LIGHTROOM.decode(), {"subject": ["other"], "title": ["Boats\x00\x1b"], "Rating": ["2"]})
    sidecar = begin(embedded, WORDS)
    found = people_say(sidecar)
    assert found["keywords"] == "boat, Gotland, other"
    assert (found["title"], found["rating"]) == ("Boats", 5)
    assert b"crs:Exposure2012" in sidecar
    assert remove(sidecar) is None
    assert remove(merge(sidecar, Words(("net",)))) is None
    rated = sidecar.replace(b'xmp:Rating="5"', b'xmp:Rating="3"')
    assert b'xmp:Rating="3"' in (remove(rated) or b"")


@pytest.mark.parametrize("packet", ["", "<no", "<!DOCTYPE a><a/>"])
def test_a_photo_whose_own_packet_is_no_xmp(packet: str) -> None:
    sidecar = begin(Embedded(packet, {"description": ["Ours at home"]}), WORDS)
    assert people_say(sidecar) == {"description": "Ours at home"}


def test_a_sidecar_of_ours_that_was_written_into_the_photo_is_not_a_persons() -> None:
    inside = merge(samples.DIGIKAM, WORDS)
    assert without_ours(begin(Embedded(inside.decode()), WORDS)) == samples.DIGIKAM.strip()


# ── what is refused ──────────────────────────────────────────────────────────────────────────────

LAUGHS = """<!DOCTYPE lolz [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>"""
HEAD = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{samples.RDF}">'


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"\x00\x00 \n", "empty"),
        (b"this is a note", "not XML"),
        (samples.DIGIKAM[:900], "not XML"),
        (samples.DIGIKAM.replace(b"utf-8", b"utf-8").replace(b"\xc3\xa4", b"\xe4"), "UTF-8"),
        (samples.DIGIKAM.replace(b"UTF-8", b"ISO-8859-1"), "ISO-8859-1"),
        (samples.DIGIKAM.decode().encode("utf-16")[:-1], "UTF-16"),
        (f"{LAUGHS}{HEAD}&b;</rdf:RDF></x:xmpmeta>".encode(), "document type"),
        (b'<!DOCTYPE a SYSTEM "http://127.0.0.1:9/a.dtd">' + samples.LIGHTROOM, "document type"),
        (f"{HEAD}&nbsp;</rdf:RDF></x:xmpmeta>".encode(), "not XML"),
        (b"<html><body/></html>", "rdf:RDF"),
        (b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>', "rdf:RDF"),
        (f"{HEAD}<dc:subject/></rdf:RDF></x:xmpmeta>".encode(), "prefix 'dc'"),
        (f"{HEAD}{'<rdf:a>' * MAX_DEPTH}{'</rdf:a>' * MAX_DEPTH}</rdf:RDF></x:xmpmeta>".encode(), "deeply"),
        (f"{HEAD}{'<rdf:a/>' * 50_000}</rdf:RDF></x:xmpmeta>".encode(), "parts"),
        (b" " * 16_000_001, "larger"),
        (samples.OTHER_PREFIXES.replace(b"<Bag><li>net</li></Bag>", b"net"), "not a list"),
        (samples.OTHER_PREFIXES.replace(b"<Bag><li>net</li></Bag>", b"<Description/>"), "not a list"),
    ],
)
def test_what_is_no_sidecar_is_refused_by_name(data: bytes, reason: str) -> None:
    with pytest.raises(SidecarError, match=reason):
        merge(data, WORDS)


@pytest.mark.parametrize(
    "form", ["<d:subject/>", "<d:subject><Bag/></d:subject>", "<d:subject><Bag></Bag></d:subject>"]
)
def test_an_empty_list_is_filled(form: str) -> None:
    before = samples.OTHER_PREFIXES.replace(b"<d:subject><Bag><li>net</li></Bag></d:subject\n   >", form.encode())
    assert before != samples.OTHER_PREFIXES
    merged = merge(before, WORDS)
    assert values(merged)["keywords"] == ["boat", "car", "lake", "24/7"]
    assert values(remove(merged) or b"") == values(before) == {}


@pytest.mark.parametrize(
    "form",
    [
        "<d:description>Mine</d:description>",
        "<d:description><Alt><li>Mine</li></Alt></d:description>",
        "<d:description><Alt/></d:description>",
        "<d:description/>",
    ],
)
def test_forms_of_a_description(form: str) -> None:
    before = samples.OTHER_PREFIXES.replace(b"</Description>", form.encode() + b"</Description>")
    merged = merge(before, WORDS, overwrite=["description"])
    assert values(merged)["description"] == ["A boat & a car at\nthe <lake>."]
    assert values(remove(merged) or b"") == values(before)
    attribute = samples.OTHER_PREFIXES.replace(b"r:about=", b'd:description="Mi&quot;ne" r:about=')
    attribute = attribute.replace(b'r:about="uuid:1"', b'r:about="uuid:1" xmlns:d="http://purl.org/dc/elements/1.1/"')
    attribute = attribute.replace(b'\n   xmlns:d="http://purl.org/dc/elements/1.1/"><d:s', b"><d:s")
    over = merge(attribute, WORDS, overwrite=["description"])
    assert values(over)["description"] == ["A boat & a car at\nthe <lake>."]
    assert remove(over) == attribute


def test_a_description_with_something_said_about_it_is_a_persons() -> None:
    value = "<value>Mine</value><d:source>box</d:source>"
    form = f'<d:description r:parseType="Resource">{value}</d:description></Description>'.encode()
    before = samples.OTHER_PREFIXES.replace(b"</Description>", form)
    merged = merge(before, WORDS)
    assert form.removesuffix(b"</Description>") in merged
    assert remove(merged) == before
    with pytest.raises(SidecarError, match="dc:description is not plain text"):
        merge(before, WORDS, overwrite=["description"])


# ── any sidecar, any words ───────────────────────────────────────────────────────────────────────

TEXT = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), max_size=12)
LINE = TEXT.map(lambda text: " ".join(text.split()))


@st.composite
def sidecars(draw: st.DrawFn) -> bytes:
    quote, gap = draw(st.sampled_from("'\"")), draw(st.sampled_from(["", "\n", "\n   ", "\r\n\t"]))
    names = {"dc": "http://purl.org/dc/elements/1.1/", "q": "urn:strange"}
    names |= {"lr": "http://ns.adobe.com/lightroom/1.0/", "digiKam": "http://www.digikam.org/ns/1.0/"}
    declared = "".join(f"{gap or ' '}xmlns:{prefix}={quote}{uri}{quote}" for prefix, uri in names.items())
    lists = []
    for name, form in (("dc:subject", "Bag"), ("lr:hierarchicalSubject", "Bag"), ("digiKam:TagsList", "Seq")):
        if some := draw(st.lists(LINE.filter(bool), max_size=3)):
            items = "".join(f"{gap}<rdf:li>{escape(one)}</rdf:li>" for one in some)
            lists.append(f"{gap}<{name}>{gap}<rdf:{form}>{items}{gap}</rdf:{form}></{name}>")
    if text := draw(LINE):
        item = f"<rdf:li xml:lang={quote}x-default{quote}>{escape(text)}</rdf:li>"
        lists.append(f"{gap}<dc:description><rdf:Alt>{item}</rdf:Alt></dc:description>")
    lists.append(f"{gap}<q:strange q:a={quote}&lt;{quote}><![CDATA[<&]]><!-- {quote}> --></q:strange>")
    lists = draw(st.permutations(lists))
    cut = draw(st.integers(0, len(lists)))
    blocks = "".join(
        f"{gap}<rdf:Description rdf:about={quote}{quote}{declared}>{''.join(some)}{gap}</rdf:Description>"
        for some in (lists[:cut], lists[cut:])
    )
    return f"{HEAD}{blocks}{gap}</rdf:RDF></x:xmpmeta>{gap}<?xpacket end='w'?>".encode()


def some_words() -> st.SearchStrategy[Words]:
    return st.builds(Words, st.lists(TEXT, max_size=4).map(tuple), TEXT, TEXT, TEXT, TEXT)


@given(sidecars(), some_words(), some_words())
def test_merge_then_remove_gives_the_same_bytes(before: bytes, first: Words, second: Words) -> None:
    once = merge(before, first)
    assert merge(once, first) == once
    twice = merge(once, second)
    assert remove(once) == remove(twice) == before
    for key, some in values(before).items():
        assert set(some) <= set(values(twice)[key])
    assert people_say(twice) == people_say(before)


BITS = "< > / \" ' & : rdf: dc: <rdf:li> </rdf:li> <rdf:Bag/> <dc:subject/> <!-- --> kobold: xmlns: &#65; <?a?> | li"


@given(st.sampled_from(sorted(samples.ALL)), st.booleans(), st.data())
def test_a_damaged_sidecar_is_refused_or_merged_and_restored(name: str, is_merged: bool, data: st.DataObject) -> None:
    damaged = merge(samples.ALL[name], WORDS) if is_merged else samples.ALL[name]
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(damaged)))
        end = start + data.draw(st.integers(0, 30))
        damaged = damaged[:start] + data.draw(st.sampled_from(["", *BITS.split()])).encode() + damaged[end:]
    try:
        bare = without_ours(damaged)
        merged = merge(damaged, WORDS)
        assert merge(merged, WORDS) == merged
        restored = remove(merged)
    except SidecarError:
        return
    with suppress(ET.ParseError):  # expat knows no namespaces, and takes what is wrong with them alone
        assert canonical(restored) == canonical(bare)


# ── held against the programs ────────────────────────────────────────────────────────────────────

FIELDS = {
    "XMP-dc:Description": "A boat & a car at.the <lake>.",
    "XMP-dc:Title": "At the lake",
    "XMP-dc:Subject": "boat, car, lake, 24/7",
    "XMP-lr:HierarchicalSubject": "AI|boat, AI|vehicle|car, AI|lake, AI|24/7",
    "XMP-digiKam:TagsList": "AI/boat, AI/vehicle/car, AI/lake, AI/24∕7",
    "XMP-kobold:Model": "Qwen2.5-VL-7B",
    "XMP-kobold:Description": "A boat & a car at.the <lake>.",
}


@pytest.mark.slow
def test_exiftool_reads_every_field(tmp_path: Path) -> None:
    (tmp_path / "a.jpg.xmp").write_bytes(begin(Embedded(), WORDS))
    found = samples.exiftool_reads(tmp_path / "a.jpg.xmp")
    assert FIELDS.items() <= found.items()
    assert found["XMP-xmp:CreatorTool"].startswith("kobold-reader ")


@pytest.mark.slow
def test_exiv2_reads_every_field(tmp_path: Path) -> None:
    (tmp_path / "a.jpg.xmp").write_bytes(begin(Embedded(), WORDS))
    found = samples.exiv2_reads(tmp_path / "a.jpg.xmp")
    assert found["Xmp.dc.subject"] == "boat, car, lake, 24/7"
    assert found["Xmp.lr.hierarchicalSubject"] == "AI|boat, AI|vehicle|car, AI|lake, AI|24/7"
    assert found["Xmp.digiKam.TagsList"] == "AI/boat, AI/vehicle/car, AI/lake, AI/24∕7"
    assert found["Xmp.dc.title"] == 'lang="x-default" At the lake'
    assert found["Xmp.dc.description"].startswith('lang="x-default" A boat & a car at')
    assert found["Xmp.kobold.model"] == "Qwen2.5-VL-7B"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digikam", "lightroom"])
@pytest.mark.parametrize("reads", [samples.exiftool_reads, samples.exiv2_reads])
def test_programs_read_what_they_read_before(name: str, reads: samples.Reads, tmp_path: Path) -> None:
    path = tmp_path / "a.xmp"
    path.write_bytes(samples.ALL[name])
    before = reads(path)
    path.write_bytes(merge(samples.ALL[name], WORDS))
    after = reads(path)
    assert len(before) > 15
    for field, value in before.items():
        is_list = "ubject" in field or "TagsList" in field
        assert after[field].startswith(value) if is_list else after[field] == value, field


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digikam", "lightroom"])
def test_ours_are_told_from_theirs_after_exiftool_wrote_the_sidecar_anew(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.xmp"
    path.write_bytes(samples.ALL[name])
    before = samples.exiftool_reads(path)
    path.write_bytes(merge(samples.ALL[name], WORDS, overwrite=["description"]))
    samples.write_with("exiftool", "-q", "-overwrite_original", "-XMP-xmp:Rating=1", "-XMP-dc:Subject+=mine", str(path))
    rewritten = path.read_bytes()
    assert merge(rewritten, WORDS) == rewritten
    path.write_bytes(remove(rewritten) or b"")
    after = samples.exiftool_reads(path)
    assert after.pop("XMP-xmp:Rating") == "1"
    assert after.pop("XMP-dc:Subject") == before.pop("XMP-dc:Subject") + ", mine"
    for gone in ("XMP-xmp:Rating", "XMP-x:XMPToolkit"):
        before.pop(gone), after.pop(gone, None)
    assert after == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digikam", "lightroom"])
def test_ours_are_told_from_theirs_after_exiv2_wrote_the_sidecar_anew(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.xmp"
    path.write_bytes(samples.ALL[name])
    before = samples.exiv2_reads(path)
    path.write_bytes(merge(samples.ALL[name], WORDS))
    samples.write_with("exiv2", "-Mset Xmp.xmp.Label Blue", str(path))
    rewritten = path.read_bytes()
    assert b"XMP Core 4.4.0-Exiv2" in rewritten
    assert merge(rewritten, WORDS) == rewritten
    path.write_bytes(remove(rewritten) or b"")
    assert b"kobold" not in path.read_bytes()
    assert samples.exiv2_reads(path) == before | {"Xmp.xmp.Label": "Blue"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "writes",
    [
        samples.sidecar_by_exiftool,
        samples.sidecar_by_exiv2,
        pytest.param(samples.sidecar_by_darktable, marks=pytest.mark.thorough),
    ],
)
def test_what_the_programs_wrote_is_kept(writes: Callable[[Path], Path], tmp_path: Path) -> None:
    photo = tmp_path / "a.jpg"
    samples.tagged_photo(photo, make.jpeg(make.corners()))
    sidecar = writes(photo)
    written, before = sidecar.read_bytes(), [samples.exiftool_reads(sidecar), samples.exiv2_reads(sidecar)]
    merged = merge(written, WORDS)
    assert remove(merged) == written
    sidecar.write_bytes(merged)
    for old, new in zip(before, [samples.exiftool_reads(sidecar), samples.exiv2_reads(sidecar)], strict=True):
        assert len(old) > 5
        assert {field for field, value in old.items() if not new[field].startswith(value)} == set()
        assert all("ubject" in field for field, value in old.items() if new[field] != value)


@pytest.mark.thorough
def test_darktable_reads_ours_and_ours_are_told_from_theirs_afterwards(tmp_path: Path) -> None:
    """It adds the words above ours to the flat list."""
    photo = tmp_path / "a.jpg"
    samples.tagged_photo(photo, make.jpeg(make.corners()))
    sidecar = samples.sidecar_by_darktable(photo)
    theirs = people_say(sidecar.read_bytes())
    sidecar.write_bytes(merge(sidecar.read_bytes(), Words(("boat", "vehicle|car"), "Two boats.", "Boats")))
    samples.sidecar_by_darktable(photo)
    rewritten = sidecar.read_bytes()
    assert {"AI", "boat", "car", "vehicle", "mast"} <= set(values(rewritten)["keywords"])
    assert people_say(rewritten) == theirs
    assert merge(rewritten, Words(("boat", "vehicle|car"), "Two boats.", "Boats")) == rewritten
    shown = samples.exiftool_reads(tmp_path / "shown.jpg")
    assert {"AI", "boat", "car", "mast"} <= set(shown["XMP-dc:Subject"].split(", "))
    assert shown["XMP-dc:Title"] == "Boats"
    assert b"boat" not in (remove(rewritten) or b"")


def test_words_above_ours_that_a_program_adds_are_ours_and_those_of_people_are_theirs() -> None:
    merged = merge(samples.LIGHTROOM, Words(("vehicle|car", "boat|sail")))
    item = b"\r\n     <rdf:li>car</rdf:li>"
    flat = merged.replace(item, item + b"<rdf:li>AI</rdf:li><rdf:li>vehicle</rdf:li>", 1)
    assert remove(flat) == samples.LIGHTROOM  # with its "boat"
    assert merge(flat, Words(("vehicle|car", "boat|sail"))) == flat
