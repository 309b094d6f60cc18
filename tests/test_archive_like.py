"""Photos like a picture: that look like it, or whose descriptions say the like."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import ExifTags, Image
from typer.testing import CliRunner

from kobold_reader import Archive, KoboldReader
from kobold_reader.archive import Hits
from kobold_reader.archive.rows import PageRow, version_of
from kobold_reader.cli.app import make_app
from kobold_reader.embeddings import MiniLMEmbedding
from kobold_reader.errors import ConfigError, SourceError
from kobold_reader.reading.tags import Tags
from tests.archive_rows import put
from tests.kobold_simulator import KoboldSimulator, ScriptBrain
from tests.scenes import scene


def described(name: str, phash: str, text: str, *keywords: str, **about: Any) -> PageRow:
    parts = {"caption": text, "tags": Tags(text, keywords).text} if text else {}
    sha256 = name.encode().hex().ljust(64, "0")
    metadata = {"file_name": name, "file_path": f"/photos/{name}", "page_number": 1, "phash": phash, **about}
    uri = f"file:///photos/{name}"
    return PageRow(f"{sha256[:32]}-1", sha256, 1, "no_text", parts, version_of(parts), metadata, uri)


@pytest.fixture
def collection(tmp_path: Path) -> Iterator[Archive]:
    with Archive.open(tmp_path / "photos", create=True, embedder="none") as archive:
        put(
            archive,
            described("boat.jpg", "00ff00ff00ff00ff", "A red boat on a lake.", "boat", "lake"),
            described("smaller.jpg", "00ff00ff00ff00fc", "", camera="Leica"),
            described("cropped.jpg", "00ff00ff00ff0f0e", "A boat.", "boat"),
            described("sail.jpg", "f0f0f0f0f0f0f0f0", "A boat with a sail on a lake.", "boat", "sail", "lake"),
            described("tram.jpg", "0f0f0f0f0f0f0f0f", "A tram in a street.", "tram", "street"),
            replace(described("page.pdf", "", "A boat on a lake.", "boat", "lake"), metadata={"file_name": "page.pdf"}),
        )
        yield archive


def names(hits: Hits) -> list[str]:
    return [f"{hit.file_name} {hit.match}" for hit in hits]


def test_photos_like_one_look_like_it_or_show_the_like(collection: Archive) -> None:
    boat = described("boat.jpg", "", "").page_id
    found = collection.like(boat, all_copies=True)
    assert names(found) == ["smaller.jpg similar", "cropped.jpg similar", "sail.jpg similar"]
    assert "tram.jpg" not in str(names(collection.like(boat, related=True))), "nothing speaks for it"
    assert names(collection.like(boat, where=["camera=Leica"])) == ["smaller.jpg similar"]
    assert [hit.file_name for hit in collection.like(boat, limit=1)] == ["smaller.jpg"]
    with pytest.raises(ConfigError, match="no page has"):
        collection.like(boat, where=["nothing=1"])


def test_a_picture_outside_the_archive_is_looked_up(tmp_path: Path, simulator: KoboldSimulator) -> None:
    folder = tmp_path / "scenes"
    folder.mkdir()
    for number in range(4):
        scene(number).save(folder / f"{number}.jpg", quality=92)
    said = iter(["A red hill.", "Three trees.", "A green meadow.", "Clouds at night."])
    simulator.brain = ScriptBrain(lambda _: next(said))
    reader = KoboldReader(api_url=simulator.url, tasks=["caption"], image_kind="photo", ledger="none")
    outside = tmp_path / "small copy.png"
    scene(2).resize((320, 240)).save(outside)
    with Archive.open(tmp_path / "a", create=True, embedder="none") as archive:
        archive.sync(folder, reader=reader)
        assert [hit.file_name for hit in archive.like(outside)] == ["2.jpg"]
        assert archive.like(folder / "2.jpg").total == 0, "it is in the archive, and alone"
        copy = tmp_path / "copy.jpg"
        copy.write_bytes((folder / "2.jpg").read_bytes())
        assert [f"{hit.file_name} {hit.match}" for hit in archive.like(copy)] == ["2.jpg exact"]
        (tmp_path / "empty").mkdir()
        for none_or_several in (folder, tmp_path / "empty"):
            with pytest.raises(SourceError, match="One picture is compared"):
                archive.like(none_or_several)
        with pytest.raises(SourceError):
            archive.like(tmp_path / "gone.jpg")
    found = CliRunner().invoke(
        make_app(), ["search", "--like", str(outside), "--archive", str(tmp_path / "a"), "--json"]
    )
    assert [hit["file_name"] for hit in json.loads(found.output)] == ["2.jpg"]
    alone = ["search", "--like", str(folder / "2.jpg"), "--archive", str(tmp_path / "a")]
    assert "no other photo is like it" in CliRunner().invoke(make_app(), alone).output
    for wrong in ([], ["boat", "--like", str(outside)]):
        assert CliRunner().invoke(make_app(), ["search", *wrong, "--archive", str(tmp_path / "a")]).exit_code == 2


def test_without_looks_the_words_that_people_wrote_are_compared(collection: Archive, tmp_path: Path) -> None:
    outside = tmp_path / "other.jpg"
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = "A tram in the street"
    scene(7).save(outside, exif=exif)
    assert names(collection.like(outside)) == ["tram.jpg similar"]


@pytest.mark.skipif(not MiniLMEmbedding.available(), reason="MiniLM is not installed")
def test_descriptions_are_compared_by_meaning(tmp_path: Path, simulator: KoboldSimulator) -> None:
    folder = tmp_path / "scenes"
    folder.mkdir()
    said = iter(["A sailing boat on a lake.", "A yacht in the water.", "A birthday cake with candles.", "A tax form."])
    for number in range(4):
        scene(number).save(folder / f"{number}.jpg", quality=92)
    simulator.brain = ScriptBrain(lambda _: next(said))
    reader = KoboldReader(api_url=simulator.url, tasks=["caption"], image_kind="photo", ledger="none")
    with Archive.open(tmp_path / "a", create=True, embedder="minilm") as archive:
        archive.sync(folder, reader=reader)
        found = archive.like(folder / "0.jpg", related=True)
        assert [hit.file_name for hit in found][:1] == ["1.jpg"], "no word of it is the same"
        assert archive.like(folder / "0.jpg", mode="keyword", related=True).total == 0
