"""Sidecars as photo programs write them, and the programs themselves where they are installed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"

DIGIKAM = b"""<?xml version="1.0" encoding="UTF-8"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 5.6.0">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:digiKam="http://www.digikam.org/ns/1.0/"
    xmlns:MicrosoftPhoto="http://ns.microsoft.com/photo/1.0/"
    xmlns:lr="http://ns.adobe.com/lightroom/1.0/"
    xmlns:mediapro="http://ns.iview-multimedia.com/mediapro/1.0/"
    xmlns:dc="http://purl.org/dc/elements/1.1/"
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:exif="http://ns.adobe.com/exif/1.0/"
    xmlns:mwg-rs="http://www.metadataworkinggroup.com/schemas/regions/"
    xmlns:stArea="http://ns.adobe.com/xmp/sType/Area#"
    xmlns:stDim="http://ns.adobe.com/xap/1.0/sType/Dimensions#"
   digiKam:ColorLabel="2"
   digiKam:PickLabel="3"
   xmp:Rating="4"
   xmp:CreatorTool="digiKam-8.2.0"
   exif:GPSLatitude="57,38.4600000N"
   exif:GPSLongitude="18,17.5200000E">
   <digiKam:TagsList>
    <rdf:Seq>
     <rdf:li>Places/Skarvholm</rdf:li>
     <rdf:li>People/M\xc3\xa4rta Lind</rdf:li>
    </rdf:Seq>
   </digiKam:TagsList>
   <lr:hierarchicalSubject>
    <rdf:Bag>
     <rdf:li>Places|Skarvholm</rdf:li>
     <rdf:li>People|M\xc3\xa4rta Lind</rdf:li>
    </rdf:Bag>
   </lr:hierarchicalSubject>
   <mediapro:CatalogSets>
    <rdf:Bag>
     <rdf:li>Places|Skarvholm</rdf:li>
    </rdf:Bag>
   </mediapro:CatalogSets>
   <dc:subject>
    <rdf:Bag>
     <rdf:li>Skarvholm</rdf:li>
     <rdf:li>M\xc3\xa4rta Lind</rdf:li>
    </rdf:Bag>
   </dc:subject>
   <dc:description>
    <rdf:Alt>
     <rdf:li xml:lang="x-default">M\xc3\xa4rta at the harbour, &quot;midsummer&quot;</rdf:li>
     <rdf:li xml:lang="sv">M\xc3\xa4rta i hamnen</rdf:li>
    </rdf:Alt>
   </dc:description>
   <mwg-rs:Regions rdf:parseType="Resource">
    <mwg-rs:AppliedToDimensions stDim:w="4000" stDim:h="3000" stDim:unit="pixel"/>
    <mwg-rs:RegionList>
     <rdf:Bag>
      <rdf:li>
       <rdf:Description mwg-rs:Name="M\xc3\xa4rta Lind" mwg-rs:Type="Face">
       <mwg-rs:Area stArea:x="0.5" stArea:y="0.4" stArea:w="0.1" stArea:h="0.2" stArea:unit="normalized"/>
       </rdf:Description>
      </rdf:li>
     </rdf:Bag>
    </mwg-rs:RegionList>
   </mwg-rs:Regions>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
"""

LIGHTROOM = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="Adobe XMP Core 7.0-c000 1.000000, 0000/00/00-00:00:00 ">\r
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\r
  <rdf:Description rdf:about=""\r
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"\r
    xmlns:dc="http://purl.org/dc/elements/1.1/"\r
    xmlns:lr="http://ns.adobe.com/lightroom/1.0/"\r
    xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/"\r
    xmlns:xmpMM="http://ns.adobe.com/xap/1.0/mm/"\r
    xmlns:stEvt="http://ns.adobe.com/xap/1.0/sType/ResourceEvent#"\r
    xmlns:crs="http://ns.adobe.com/camera-raw-settings/1.0/"\r
   xmp:ModifyDate="2021-07-18T19:42:10"\r
   xmp:CreatorTool="Adobe Photoshop Lightroom Classic 12.3 (Windows)"\r
   xmp:MetadataDate="2023-05-02T20:11:43+02:00"\r
   xmp:Rating="5"\r
   xmp:Label="Red"\r
   photoshop:SidecarForExtension="CR2"\r
   xmpMM:DocumentID="xmp.did:0a1b2c3d-0000-4444-8888-123456789abc"\r
   crs:Version="15.3"\r
   crs:ProcessVersion="11.0"\r
   crs:WhiteBalance="As Shot"\r
   crs:Exposure2012="+0.35"\r
   crs:HasSettings="True">\r
   <dc:subject>\r
    <rdf:Bag>\r
     <rdf:li>boat</rdf:li>\r
     <rdf:li>Gotland</rdf:li>\r
    </rdf:Bag>\r
   </dc:subject>\r
   <lr:hierarchicalSubject>\r
    <rdf:Bag>\r
     <rdf:li>boat</rdf:li>\r
     <rdf:li>Places|Sweden|Gotland</rdf:li>\r
    </rdf:Bag>\r
   </lr:hierarchicalSubject>\r
   <xmpMM:History>\r
    <rdf:Seq>\r
     <rdf:li stEvt:action="saved" stEvt:changed="/metadata" stEvt:when="2023-05-02T20:11:43+02:00"/>\r
    </rdf:Seq>\r
   </xmpMM:History>\r
   <crs:ToneCurvePV2012>\r
    <rdf:Seq>\r
     <rdf:li>0, 0</rdf:li>\r
     <rdf:li>255, 255</rdf:li>\r
    </rdf:Seq>\r
   </crs:ToneCurvePV2012>\r
   <!-- a comment that no program understands -->\r
  </rdf:Description>\r
 </rdf:RDF>\r
</x:xmpmeta>\r
"""

BARE = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<rdf:RDF xmlns:rdf="{RDF}"/>
<?xpacket end="w"?>""".encode()
"""The least that is XMP."""

OTHER_PREFIXES = f"""<m:xmpmeta xmlns:m="adobe:ns:meta/"><RDF xmlns="{RDF}" xmlns:r="{RDF}">
  <Description r:about="uuid:1" xmlns:kobold="http://example.org/mine/" kobold:subject="mine"
   xmlns:d="http://purl.org/dc/elements/1.1/"><d:subject><Bag><li>net</li></Bag></d:subject
   ></Description></RDF></m:xmpmeta>""".encode()
"""Names that are legal and that nobody writes; our usual prefix means something else."""

Reads = Callable[[Path], dict[str, str]]

ALL = {"digikam": DIGIKAM, "lightroom": LIGHTROOM, "bare": BARE, "prefixes": OTHER_PREFIXES}


def program(name: str) -> str:
    """Return where a program is; the test is skipped where there is none."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def exiftool_reads(path: Path) -> dict[str, str]:
    """Return each field of a sidecar with its group, as exiftool reads it: `XMP-dc:Subject`."""
    lines = _run("exiftool", "-G1", "-a", "-s", "-n", "-XMP:all", str(path))
    found = {}
    for line in lines:
        column, _, value = line.partition(":")
        group, _, name = column.strip().removeprefix("[").partition("]")
        found[f"{group}:{name.strip()}"] = value.strip()
    return found


def exiv2_reads(path: Path) -> dict[str, str]:
    """Return each field of a sidecar as exiv2 reads it: `Xmp.dc.subject`."""
    fields = (line.partition(" ") for line in _run("exiv2", "-PXkt", str(path)))
    return {name: value.strip() for name, _, value in fields}


def _run(name: str, *arguments: str) -> list[str]:
    run = subprocess.run([program(name), *arguments], capture_output=True, text=True, check=True, encoding="utf-8")
    return run.stdout.splitlines()


def tagged_photo(path: Path, picture: bytes) -> None:
    """Write a photo into which a person wrote keywords, a description and a rating."""
    path.write_bytes(picture)
    told = ["dc:Subject=mast", "dc:Subject=Skarvholm", "dc:Description=At home", "xmp:Rating=3", "dc:Source=a box"]
    regions = "{RegionList=[{Area={X=0.5,Y=0.5,W=0.1,H=0.1,Unit=normalized},Name=Anna,Type=Face}]}"
    write_with(
        "exiftool", "-q", "-overwrite_original", *(f"-XMP-{one}" for one in told), f"-RegionInfo={regions}", str(path)
    )


def sidecar_by_exiftool(photo: Path) -> Path:
    """Have exiftool write the sidecar of a photo."""
    write_with("exiftool", "-q", "-tagsfromfile", str(photo), "-all:all", "-o", f"{photo}.xmp")
    return Path(f"{photo}.xmp")


def sidecar_by_exiv2(photo: Path) -> Path:
    """Have exiv2 write the sidecar of a photo."""
    write_with("exiv2", "-f", "-eX", str(photo))
    return photo.with_suffix(".xmp")


def sidecar_by_darktable(photo: Path) -> Path:
    """Have darktable import a photo, with its sidecar if there is one, and write its sidecar."""
    settings = ["--configdir", str(photo.parent / "darktable"), "--library", ":memory:"]
    settings += ["--conf", "write_sidecar_files=on import", "--conf", "plugins/lighttable/export/force_lcms2=FALSE"]
    shown = photo.with_name("shown.jpg")
    shown.unlink(missing_ok=True)
    write_with("darktable-cli", str(photo), str(shown), "--width", "40", "--core", *settings)
    return Path(f"{photo}.xmp")


def write_with(name: str, *arguments: str) -> None:
    """Have a program change a file."""
    _run(name, *arguments)
