"""What the model says about photos comes into their sidecars, and what people wrote there comes into the archive."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree as ET

import pytest
from PIL import Image

from kobold_reader import Archive, KoboldReader
from kobold_reader.archive.folder import LEDGER
from kobold_reader.archive.sidecars import SidecarOptions, SidecarReport, Sidecars
from kobold_reader.archive.sync import SyncReport
from kobold_reader.cli import app
from kobold_reader.pages import select
from kobold_reader.pages.metadata import read_xmp
from tests import page_files as make
from tests import sidecar_samples as samples
from tests.kobold_simulator import KoboldSimulator, ScriptBrain
from tests.scenes import scene

pytestmark = pytest.mark.slow

TAGS = json.dumps({"description": "Boats at a jetty.", "keywords": ["boat", "jetty", "summer"]})
SAYS = {"JSON": TAGS, "": "Two boats lie at a wooden jetty. It is summer."}


def photo(seed: int, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[0x010F] = "Solstad Optik"
    exif.get_ifd(0x8769).update({0x829A: 0.01, 0x9003: "1999:07:18 19:42:10"})
    return make.jpeg(scene(seed, (320, 240)), exif=exif.tobytes(), **options)


class Album:
    """An archive of words over a folder of photos."""

    def __init__(self, place: Path, simulator: KoboldSimulator) -> None:
        self.simulator = simulator
        self.folder = place / "album"
        self.folder.mkdir()
        simulator.brain = ScriptBrain(SAYS)
        self.archive = Archive.open(place / "a", create=True, embedder="none")

    def put(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content)
        return path

    def sync(self) -> SyncReport:
        reader = KoboldReader(api_url=self.simulator.url, tasks=["caption", "tags"], on_error="skip")
        return self.archive.sync(self.folder, reader=reader)

    def write(self, **options: Any) -> SidecarReport:
        return self.archive.write_sidecars(self.folder, SidecarOptions(**options))

    def about(self, name: str) -> dict[str, Any]:
        [metadata] = [dict(row.metadata) for row in self.archive.pages() if row.metadata["file_name"] == name]
        return metadata

    def requests(self) -> int:
        return self.simulator.count()


@pytest.fixture
def album(tmp_path: Path, simulator: KoboldSimulator) -> Album:
    return Album(tmp_path, simulator)


def values(path: Path) -> dict[str, list[str]]:
    return read_xmp(path.read_bytes())


def test_photos_get_sidecars_and_nothing_else_does(album: Album) -> None:
    place = album.put("a.jpg", photo(1))
    os.utime(place, ns=(1, 946_684_800_000_000_000))
    album.put("letter.jpg", make.jpeg(make.printed_page(60, 20)))
    album.sync()
    (album.folder / "later.jpg").write_bytes(photo(2))

    report = album.write()

    assert (report.photos, report.written, report.new, report.errors) == (1, 1, 1, [])
    assert (report.other_files, report.unknown_files) == (1, 1)
    found = values(album.folder / "a.jpg.xmp")
    assert found["description"] == ["Two boats lie at a wooden jetty. It is summer."]
    assert found["keywords"] == ["boat", "jetty", "summer"]
    assert "AI|boat" in found["paths"]
    assert b"1999-07-18T19:42:10" in (album.folder / "a.jpg.xmp").read_bytes()  # it begins with what the photo says
    assert sorted(path.name for path in album.folder.glob("*.xmp*")) == ["a.jpg.xmp"]
    assert (place.read_bytes(), place.stat().st_mtime_ns) == (photo(1), 946_684_800_000_000_000)


def test_what_the_photo_says_is_in_its_new_sidecar_and_stays_the_same(album: Album) -> None:
    exif = Image.Exif()
    exif[0x010E], exif[0x013B] = "Sigrid at the mole", "A. Clerk"
    exif.get_ifd(0x8769).update({0x829A: 0.01, 0x9003: "1961:07:02 10:00:00"})
    exif.get_ifd(0x8825).update({1: "N", 2: (57.0, 38.0, 27.6), 3: "W", 4: (18.0, 17.0, 31.2)})
    picture = make.jpeg(scene(1, (320, 240)), exif=exif.tobytes())
    picture = make.with_iptc(picture, (2, 25, "Åland".encode()), (2, 25, b"boat"), (2, 25, b"summer 1961"))
    album.put("a.jpg", make.with_xmp(picture, make.xmp(make.bag("dc:subject", "boat"), attributes='xmp:Rating="4"')))
    album.sync()
    before = album.about("a.jpg")
    assert (before["keywords"], before["rating"]) == ("Åland, boat, summer 1961", 4)

    album.write()

    found = values(album.folder / "a.jpg.xmp")
    assert set(found["keywords"]) == {"Åland", "boat", "summer 1961", "jetty", "summer"}
    assert (found["description"], found["author"], found["rating"]) == (["Sigrid at the mole"], ["A. Clerk"], ["4"])
    assert found["latitude"] == ["57,38.460000N"]
    album.sync()
    after = album.about("a.jpg")
    assert set(after.pop("keywords").split(", ")) == set(before.pop("keywords").split(", "))
    assert (after.pop("keywords_source"), before.pop("keywords_source")) == ("sidecar", "iptc")
    assert after == before


def test_the_same_run_again_writes_nothing_and_remove_leaves_the_folder_as_it_was(album: Album) -> None:
    album.put("a.jpg", photo(1))
    album.put("b.jpg", photo(2))
    before = {"b.xmp": samples.LIGHTROOM, "c.jpg": photo(3), "c.jpg.xmp": samples.DIGIKAM}
    for name, content in before.items():
        album.put(name, content)
    album.sync()
    album.write(with_title=True)
    written = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in album.folder.iterdir()}
    assert set(written) == {"a.jpg", "a.jpg.xmp", "b.jpg", *before}
    assert written["b.xmp"][0] != samples.LIGHTROOM

    again = album.write()

    assert (again.written, again.unchanged) == (0, 3)
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in album.folder.iterdir()} == written
    requests = album.requests()
    assert (album.sync().read_pages, album.requests()) == (0, requests)
    removed = Sidecars().remove(select([album.folder]))
    assert (removed.removed, removed.written, removed.errors) == (1, 2, [])
    assert not (album.folder / "a.jpg.xmp").exists()
    assert all((album.folder / name).read_bytes() == content for name, content in before.items())


def test_what_people_wrote_beside_a_photo_is_found_and_ours_is_not_theirs(album: Album) -> None:
    album.put("a.jpg", photo(1))
    album.put("a.jpg.xmp", samples.DIGIKAM)
    album.sync()
    theirs = {
        "keywords": "Skarvholm, Märta Lind",
        "keywords_source": "sidecar",
        "description": 'Märta at the harbour, "midsummer"',
        "persons": "Märta Lind",
        "rating": 4,
        "latitude": 57.641,
        "longitude": 18.292,
    }
    assert theirs.items() <= album.about("a.jpg").items()
    for word in ("Skarvholm", '"Märta Lind"', "midsummer"):
        assert [hit.file_name for hit in album.archive.search(word)] == ["a.jpg"], word
    album.write()
    album.sync()
    assert theirs.items() <= album.about("a.jpg").items()


def test_a_changed_sidecar_changes_the_metadata_and_asks_nothing(album: Album) -> None:
    album.put("a.jpg", photo(1))
    album.sync()
    assert album.about("a.jpg")["keywords_source"] == "model"
    requests = album.requests()

    album.put("a.xmp", samples.LIGHTROOM)
    album.sync()
    assert (album.about("a.jpg")["keywords"], album.about("a.jpg")["rating"]) == ("boat, Gotland", 5)
    album.put("a.xmp", samples.LIGHTROOM.replace(b'xmp:Rating="5"', b'xmp:Rating="2"'))
    album.sync()
    assert album.about("a.jpg")["rating"] == 2
    assert album.archive.search("jetty", where=["rating=2"])
    assert album.archive.search("Gotland")
    (album.folder / "a.xmp").unlink()
    report = album.sync()
    assert album.about("a.jpg")["keywords"] == "boat, jetty, summer"
    assert not album.archive.search("Gotland")
    assert "rating" not in album.about("a.jpg")
    assert (album.requests(), report.read_pages, report.changed_files) == (requests, 0, 0)


def test_a_title_in_a_sidecar_is_found(album: Album) -> None:
    album.put("a.jpg", photo(1))
    album.sync()
    title = b"<dc:title><rdf:Alt><rdf:li>Skarvholm regatta</rdf:li></rdf:Alt></dc:title>\r\n   <dc:subject>"
    album.put("a.xmp", samples.LIGHTROOM.replace(b"<dc:subject>", title))
    album.sync()
    assert [hit.file_name for hit in album.archive.search("regatta")] == ["a.jpg"]


def test_a_copy_has_a_sidecar_of_its_own(album: Album) -> None:
    """Both are one page; it says what stands beside the place where it is shown, and goes with that one."""
    album.put("a.jpg", photo(1))
    album.put("a.jpg.xmp", samples.DIGIKAM)
    album.put("b.jpg", photo(1))
    album.put("b.jpg.xmp", samples.LIGHTROOM)
    album.sync()
    assert album.about("a.jpg")["rating"] == 4
    album.put("b.jpg.xmp", samples.LIGHTROOM + b" ")
    album.sync()
    assert album.about("a.jpg")["rating"] == 4

    moved = album.folder / "moved"
    moved.mkdir()
    for name in ("b.jpg", "b.jpg.xmp"):
        (album.folder / name).unlink()
    for name in ("a.jpg", "a.jpg.xmp"):
        shutil.move(album.folder / name, moved / name)
    album.sync()
    about = album.about("a.jpg")
    assert (about["folder"], about["rating"]) == ("moved", 4)


def test_a_raw_file_and_its_jpeg(album: Album) -> None:
    """They are one picture: the raw file's sidecar is read for it, and not written."""
    album.put("a.jpg", photo(1))
    album.put("a.cr2", b"II*\x00\x10\x00\x00\x00CR\x02\x00")
    album.put("a.xmp", samples.LIGHTROOM)
    album.sync()
    assert album.about("a.jpg")["rating"] == 5
    assert album.write().new == 1
    assert (album.folder / "a.xmp").read_bytes() == samples.LIGHTROOM
    assert "boat" in values(album.folder / "a.jpg.xmp")["keywords"]
    album.write(name="photo.xmp")
    assert "jetty" in values(album.folder / "a.xmp")["keywords"]


HOSTILE = b'<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>' + samples.LIGHTROOM


def test_a_hostile_sidecar_is_named_and_left_and_the_rest_goes_on(
    album: Album, caplog: pytest.LogCaptureFixture
) -> None:
    album.put("a.jpg", photo(1))
    album.put("a.jpg.xmp", HOSTILE)
    album.put("b.jpg", photo(2))
    report = album.sync()
    assert report.errors == []
    assert "a.jpg.xmp: It has a document type" in caplog.text

    written = album.write()

    assert (album.folder / "a.jpg.xmp").read_bytes() == HOSTILE
    assert (album.folder / "b.jpg.xmp").exists()
    [error] = written.errors
    assert str(error).startswith(f"{album.folder / 'a.jpg.xmp'}: It has a document type")


def test_what_the_caller_s_own_function_raises_is_no_sidecar_s_error(album: Album) -> None:
    """As where the output of `--dry-run` goes to `head`."""
    album.put("a.jpg", photo(1))
    album.sync()

    def closed(*_: object) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        album.archive.write_sidecars(album.folder, SidecarOptions(), on_change=closed)
    assert not (album.folder / "a.jpg.xmp").exists()


def test_two_pictures_of_one_stem_never_share_a_sidecar(album: Album) -> None:
    album.put("a.jpg", photo(1))
    album.put("a.png", make.encoded(scene(2, (320, 240)), "PNG"))
    album.put("a.xmp", samples.DIGIKAM)
    album.sync()
    assert "rating" not in album.about("a.jpg")
    album.write()
    assert (album.folder / "a.xmp").read_bytes() == samples.DIGIKAM
    refused = album.write(name="photo.xmp")
    assert refused.errors
    assert (album.folder / "a.xmp").read_bytes() == samples.DIGIKAM


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="needs rights that can be taken")
def test_a_folder_that_may_not_be_written_gets_a_sentence(album: Album) -> None:
    album.put("a.jpg", photo(1))
    album.sync()
    album.folder.chmod(0o555)
    try:
        [error] = album.write().errors
    finally:
        album.folder.chmod(0o755)
    assert "may not be changed" in str(error)


# ── the command ──────────────────────────────────────────────────────────────────────────────────


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    def run_it(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["kobold-reader", *map(str, arguments)])
        capsys.readouterr()
        code = app.run()
        return Outcome(code, *capsys.readouterr())

    return run_it


def test_the_command_shows_writes_renames_and_removes(album: Album, run: Command) -> None:
    album.put("a.jpg", photo(1))
    album.put("a.xmp", samples.DIGIKAM)
    album.sync()
    command = ("sidecars", album.folder, "--archive", album.archive.folder)

    shown = run(*command, "--dry-run")
    assert shown.code == 0
    assert f"--- {album.folder / 'a.xmp'}" in shown.out
    assert "\n+     <rdf:li>jetty</rdf:li>" in shown.out
    assert not [line for line in shown.out.splitlines() if line.startswith("-") and not line.startswith("---")]
    assert "1 sidecar would be written" in shown.err
    assert (album.folder / "a.xmp").read_bytes() == samples.DIGIKAM

    assert "1 sidecar written" in run(*command, "--keyword-parent", "Model/words").err
    assert "Model|words|jetty" in values(album.folder / "a.xmp")["paths"]
    assert "0 sidecars written, 1 unchanged" in run(*command).err
    assert json.loads(run(*command, "--json").out)["unchanged"] == 1

    said = run(*command, "--rename", "jetty=pier").err
    assert "tags of 1 page in the archive renamed" in said
    assert "pier" in values(album.folder / "a.xmp")["keywords"]
    assert "0 sidecars written, 1 unchanged" in run(*command).err

    assert run(*command, "--overwrite", "description").code == 0
    assert values(album.folder / "a.xmp")["description"][0].startswith("Two boats")
    assert run("sidecars", album.folder, "--remove").code == 0
    assert ET.canonicalize((album.folder / "a.xmp").read_text("utf-8")) == ET.canonicalize(samples.DIGIKAM.decode())
    assert run(*command, "--remove", "--rename", "a=b").code == 2
    assert run("sidecars", album.folder / "no.jpg", "--remove").code == 3


def test_without_an_archive_the_ledger_tells(album: Album, run: Command) -> None:
    album.put("a.jpg", photo(1))
    album.sync()
    said = run("sidecars", album.folder, "--ledger", album.archive.folder / LEDGER)
    assert said.code == 0
    assert values(album.folder / "a.jpg.xmp")["keywords"] == ["boat", "jetty", "summer"]
    empty = run("sidecars", album.folder)
    assert empty.code == 2
    assert "name it with --archive DIR" in empty.err


def test_a_photo_of_which_nothing_is_said_keeps_its_sidecar(album: Album, tmp_path: Path) -> None:
    album.put("a.jpg", photo(1))
    album.sync()
    album.write()
    written = (album.folder / "a.jpg.xmp").read_bytes()
    with Archive.open(tmp_path / "b", create=True, embedder="none") as other:
        other.sync(album.folder, reader=KoboldReader(api_url=album.simulator.url, tasks=["ocr"], on_error="skip"))
        report = other.write_sidecars()
    assert (report.wordless_photos, report.written, report.removed) == (1, 0, 0)
    assert (album.folder / "a.jpg.xmp").read_bytes() == written


def test_index_writes_sidecars(album: Album, run: Command) -> None:
    album.put("a.jpg", photo(1))
    album.put("b.jpg", photo(2))
    album.put("b.jpg.xmp", b"no xmp")
    command = ("index", "--archive", album.archive.folder, "--sidecars", "--json", "--api-url", album.simulator.url)
    first = run(*command, album.folder, "--tasks", "caption,tags")
    assert first.code == 5
    assert json.loads(first.out)["sidecars"]["new"] == 1
    assert "b.jpg.xmp: It is not XML" in first.err
    assert (album.folder / "a.jpg.xmp").exists()
    (album.folder / "b.jpg.xmp").unlink()
    again = run(*command)
    assert (again.code, json.loads(again.out)["sidecars"]["written"]) == (0, 1)


KILLED = """
import sys
from kobold_reader.pages.sidecars import replace_file
from collections.abc import Callable
from pathlib import Path
place, contents = Path(sys.argv[1]), [b"<a>" + b"x" * 500_000, b"<b>" + b"y" * 500_000]
place.write_bytes(contents[0])
print("ready", flush=True)
for number in range(10_000):
    replace_file(place, contents[number % 2], contents[(number + 1) % 2], photo=place)
"""


def test_a_kill_leaves_the_old_or_the_new_sidecar(tmp_path: Path) -> None:
    place = tmp_path / "a.xmp"
    for wait_s in (0.003, 0.02):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(place)], stdout=subprocess.PIPE)
        with process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(wait_s)
            process.kill()
        data = place.read_bytes()
        assert data in {b"<a>" + b"x" * 500_000, b"<b>" + b"y" * 500_000}
