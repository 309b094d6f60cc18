"""Files made or damaged to harm: every outcome is facts and images, or an error of ours in time."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kobold_reader.errors import ConfigError, CorruptSourceError, PageRenderError, SourceError
from kobold_reader.pages import ImageBudget, PageChild, PageFacts, PageImages
from kobold_reader.pages.sources import HEAD_BYTES, kind_of
from tests import page_files as make

pytestmark = pytest.mark.slow

BUDGET = ImageBudget(max_side_px=300)
SMALL = make.printed_page(30, 8)

SAMPLES: dict[str, bytes] = {
    "text.pdf": make.pdf(make.text_on, make.annotated_on),
    "scan.pdf": make.pdf(make.scan_on(make.jpeg(SMALL))),
    "strips.pdf": make.pdf(make.strips_on(SMALL, 5)),
    "jbig2.pdf": make.jbig2_pdf(SMALL),
    "locked.pdf": make.locked_pdf(user=""),
    "photo.jpg": make.with_xmp(
        make.with_iptc(make.jpeg(SMALL), (2, 25, b"boats")), make.xmp(make.bag("dc:subject", "a"))
    ),
    "scan.png": make.encoded(SMALL, "PNG"),
    "frames.tif": make.tiff([SMALL.convert("1"), SMALL.convert("1")], compression="group4"),
    "jpeg.tif": make.tiff([SMALL], compression="jpeg"),
    "moving.gif": make.encoded(SMALL.quantize(8), "GIF"),
    "picture.bmp": make.encoded(SMALL, "BMP"),
    "picture.webp": make.encoded(SMALL, "WEBP"),
    "picture.jp2": make.encoded(SMALL, "JPEG2000"),
    "photo.dng": make.dng(SMALL),
    "comic.cbz": make.zipped({"1.jpg": make.jpeg(SMALL), "2.png": make.encoded(SMALL, "PNG")}),
    "book.epub": make.epub(f"<p>{make.WORDS}</p>" * 5),
    "letter.xps": make.xps(make.WORDS),
}


@pytest.fixture(scope="module")
def child() -> Iterator[PageChild]:
    with PageChild(timeout_s=20) as child:
        yield child


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


def mutated(data: bytes, other: bytes, how: str, places: list[float], value: int) -> bytes:
    """Damage as it happens: a transfer cut short, flipped bytes, a piece of another file inside."""
    at = [int(place * len(data)) for place in places]
    if how == "cut":
        return data[: at[0]]
    if how == "lose":
        return data[: min(at)] + data[max(at) :]
    if how == "splice":
        return data[: at[0]] + other[int(places[1] * len(other)) :][: value * 20] + data[at[0] :]
    changed = bytearray(data)
    for place in at:
        if place < len(changed):
            changed[place] = changed[place] ^ (1 << value % 8) if how == "flip" else value
    return bytes(changed)


def look(child: PageChild, path: Path) -> str:
    """Look at a file as a run does; what is not ours passes through and fails the test."""
    with path.open("rb") as stream:
        kind = kind_of(stream.read(HEAD_BYTES), path.name)
    if kind is None:
        return "not taken"
    try:
        facts = child.open(path, kind=kind)
    except SourceError as error:
        assert error.source == str(path)  # noqa: PT017 - an error is a fine outcome, one without a name is not
        return type(error).__name__
    assert facts.total_pages >= 1
    for number in range(1, min(facts.total_pages, 3) + 1):
        try:
            assert isinstance(child.page_facts(number), PageFacts)
            images = child.page_images(number, BUDGET)
        except SourceError as error:
            assert error.page_number == number  # noqa: PT017
            continue
        assert isinstance(images, PageImages)
        assert images.views
    return "open"


def look_at_mutation(
    child: PageChild, folder: Path, name: str, other: str, how: str, places: list[float], value: int
) -> None:
    path = folder / name
    path.write_bytes(mutated(SAMPLES[name], SAMPLES[other], how, places, value))
    look(child, path)


NAMES = st.sampled_from(sorted(SAMPLES))
HOW = st.sampled_from(["cut", "lose", "splice", "flip", "set"])
PLACES = st.lists(st.floats(0, 1, exclude_max=True), min_size=2, max_size=12)
FEW = settings(
    max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@FEW
@given(name=NAMES, other=NAMES, how=HOW, places=PLACES, value=st.integers(0, 255))
def test_damage_never_passes_the_child(
    child: PageChild, folder: Path, name: str, other: str, how: str, places: list[float], value: int
) -> None:
    look_at_mutation(child, folder, name, other, how, places, value)


@pytest.mark.thorough
@settings(FEW, max_examples=1500, derandomize=False)
@given(name=NAMES, other=NAMES, how=HOW, places=PLACES, value=st.integers(0, 255))
def test_much_damage_never_passes_the_child(
    child: PageChild, folder: Path, name: str, other: str, how: str, places: list[float], value: int
) -> None:
    look_at_mutation(child, folder, name, other, how, places, value)


@pytest.mark.parametrize("name", SAMPLES)
def test_the_samples_themselves_open(child: PageChild, folder: Path, name: str) -> None:
    """Else the damage above would be done to what nobody could read anyway."""
    path = folder / name
    path.write_bytes(SAMPLES[name])
    library = {"photo.dng": "rawpy"}.get(name)
    if library is not None:
        pytest.importorskip(library)
    assert look(child, path) == "open"


def test_a_hundred_thousand_pages_are_counted_and_not_read(child: PageChild, folder: Path) -> None:
    path = folder / "many.pdf"
    path.write_bytes(make.pdf_of_many_pages(100_000))
    started = time.monotonic()
    assert child.open(path, kind="pdf").total_pages == 100_000
    assert child.page_facts(99_999).page_number == 99_999
    assert child.page_images(50_000, BUDGET).is_blank
    assert time.monotonic() - started < 15


def test_deep_nesting_ends(child: PageChild, folder: Path) -> None:
    path = folder / "nested.pdf"
    path.write_bytes(make.nested_pdf(200_000))
    look(child, path)
    assert child.pid is not None


def test_a_book_that_unpacks_without_end(folder: Path) -> None:
    """Whichever limit is met first, memory or time, the next file is read."""
    path, letter = folder / "bomb.epub", folder / "letter.epub"
    path.write_bytes(make.epub("<p>" + "word " * 20_000_000 + "</p>"))
    letter.write_bytes(SAMPLES["book.epub"])
    with PageChild(timeout_s=3, memory_limit_bytes=400_000_000) as child:
        with pytest.raises(CorruptSourceError):
            child.open(path, kind="epub")
        assert child.open(letter, kind="epub").total_pages == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces the limit")
@pytest.mark.parametrize("kind", ["pdf", "image"])
def test_too_little_memory_is_said(folder: Path, kind: str) -> None:
    from PIL import Image

    path = folder / "large"
    scan = make.encoded(Image.new("L", (9_000, 9_000), 255), "PNG")
    path.write_bytes(make.pdf(make.scan_on(scan)) if kind == "pdf" else scan)
    with PageChild(memory_limit_bytes=180_000_000) as child:
        child.open(path, kind=kind)
        with pytest.raises(PageRenderError, match="more memory") as caught:
            child.page_images(1, ImageBudget(max_side_px=8_000))
        assert caught.value.page_number == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces the limit")
def test_there_is_a_limit_without_asking(child: PageChild, folder: Path) -> None:
    path = folder / "scan.png"
    path.write_bytes(SAMPLES["scan.png"])
    child.open(path, kind="image")
    assert child.pid is not None
    limits = Path(f"/proc/{child.pid}/limits").read_text()
    (soft,) = (line.split()[3] for line in limits.splitlines() if line.startswith("Max data size"))
    assert 1 << 30 <= int(soft) <= 4 << 30
    with pytest.raises(ConfigError, match="memory_limit_bytes"):
        PageChild(memory_limit_bytes=-1)


@pytest.mark.skipif(os.name == "nt", reason="stops the child by a signal")
def test_a_crash_of_the_library_is_reported_as_one(folder: Path) -> None:
    path, letter = folder / "crash.png", folder / "scan.png"
    for place in (path, letter):
        place.write_bytes(SAMPLES["scan.png"])
    with PageChild(timeout_s=20) as child:
        child.open(path, kind="image")
        pid = child.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)  # so that the request is under way when the end comes
        os.kill(pid, signal.SIGSEGV)
        timer = threading.Timer(0.2, os.kill, (pid, signal.SIGCONT))
        timer.start()
        with pytest.raises(CorruptSourceError, match="SIGSEGV") as caught:
            child.page_images(1, BUDGET)
        timer.join()
        assert (caught.value.source, caught.value.page_number) == (str(path), 1)
        assert child.open(letter, kind="image").total_pages == 1
