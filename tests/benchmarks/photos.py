"""How fast a large collection of photos is shown: `python -m tests.benchmarks.photos --photos 20000`.

Synthetic photos: date, camera, place, persons, keywords, stars, a description, and a perceptual hash; every fortieth
looks like the one before. Their rows and the sizes of their pictures are written as `index` would write them; only
the first 2,000 pictures exist. Chromium, where it is installed, opens the wall and scrolls.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import io
import random
import re
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from kobold_reader import Archive
from kobold_reader.archive.folder import LEDGER
from kobold_reader.archive.rows import PLACE_COLUMNS, PageRow, Place, to_row, version_of
from kobold_reader.pages import PageFacts, local_uri
from kobold_reader.reading.ledger import KnownPage, Ledger
from kobold_reader.reading.tags import Tags
from kobold_reader.web import Access, WebServer, make_app
from tests.archive_rows import catalog_of
from tests.benchmarks.archive import timed
from tests.browser import Browser, find_browser
from tests.scenes import scene

REAL = 2000
"""Photos whose files exist: what is scrolled past."""
SCROLL_S = 20
REPEATS = 5
BATCH = 500
OF_FILE = ("file_name", "file_path", "file_type", "file_size", "folder")
SIZES = [(4000, 3000), (3000, 4000), (6000, 4000), (4096, 2304)]
CAMERAS = ["NIKON D700", "Apple iPhone 12", "Canon EOS 5D", "SONY ILCE-7M3", "FUJIFILM X-T3", ""]
THINGS = re.findall(
    r"\w+",
    "boat lake forest mountain street market church bridge train harbour child birthday cake garden rose snow winter "
    "beach sunset tram window cat dog horse meadow barn castle museum concert guitar bicycle kitchen table lamp book",
)
PERSONS = ["Axel", "Berta", "Cecilia", "David", "Elin", "Folke", "Greta", "Hugo"]
PLACES = [(59.86, 17.64), (59.33, 18.07), (57.71, 11.97), (55.60, 13.00), (48.86, 2.35), (52.52, 13.40), (41.90, 12.50)]


@functools.cache
def picture(number: int) -> bytes:
    """Return a JPEG."""
    data = io.BytesIO()
    scene(number, (1280, 960)).save(data, "JPEG", quality=80)
    return data.getvalue()


class Photos:
    """Synthetic photos in a folder; photo n is the same whatever their number."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def file(self, number: int) -> Path:
        """Return where a photo is."""
        return self._folder / f"{1980 + number * 40 // 20_000}" / f"IMG_{number:05}.jpg"

    def sha256(self, number: int) -> str:
        """Return the hash of a photo, which is written if it is one of the first."""
        if number >= REAL:
            return hashlib.sha256(f"photo {number}".encode()).hexdigest()
        data = picture(number % 16) + str(number).encode()  # decoders pass over what comes behind a picture
        self.file(number).parent.mkdir(exist_ok=True)
        self.file(number).write_bytes(data)
        return hashlib.sha256(data).hexdigest()

    def row(self, number: int) -> PageRow:
        """Return the page of a photo, as `index` records it."""
        drawn = random.Random(f"photo {number}")
        path, sha256 = self.file(number), self.sha256(number)
        things = drawn.sample(THINGS, 5)
        parts = {
            "caption": f"A {things[0]} and a {things[1]} near a {things[2]}, seen from a {things[3]}.",
            "tags": Tags(f"A {things[0]} with a {things[1]}.", tuple(things)).text,
        }
        of_twin = random.Random(f"hash {number - 1 if number % 40 == 39 else number}")
        latitude, longitude = drawn.choice(PLACES)
        day = number % 360
        metadata: dict[str, Any] = {
            "file_name": path.name,
            "file_path": str(path),
            "file_type": "image/jpeg",
            "file_size": 3_000_000 + number,
            "folder": path.parent.name,
            "page_number": 1,
            "total_pages": 1,
            "page_status": "no_text",
            "image_kind": "photo",
            "phash": f"{of_twin.getrandbits(64):016x}",
            "date_taken": f"{path.parent.name}-{day // 30 + 1:02}-{day % 28 + 1:02}T12:00:00",
            "camera": drawn.choice(CAMERAS),
            "keywords": ", ".join(things),
            "keywords_source": "model",
            "persons": ", ".join(drawn.sample(PERSONS, number % 3)),
            "rating": drawn.choice([1, 2, 3, 4, 5, "", ""]),
            "latitude": round(latitude + drawn.uniform(-0.2, 0.2), 6),
            "longitude": round(longitude + drawn.uniform(-0.2, 0.2), 6),
        }
        return PageRow(
            page_id=f"{sha256[:32]}-1",
            sha256=sha256,
            page_number=1,
            status="no_text",
            parts=parts,
            version=version_of(parts),
            metadata={key: value for key, value in metadata.items() if value != ""},
            uri=local_uri(path),
            content_sha256=sha256,
        )


def make_archive(folder: Path, photos: Photos, count: int) -> None:
    """Write the rows of an archive of words only."""
    with (
        Archive.open(folder, create=True, embedder="none") as archive,
        catalog_of(archive) as catalog,
        Ledger(folder / LEDGER) as ledger,
    ):
        for start in range(0, count, BATCH):
            rows = [photos.row(number) for number in range(start, min(count, start + BATCH))]
            places = [Place(row.uri, row.sha256, {key: row.metadata[key] for key in OF_FILE}) for row in rows]
            with catalog.transaction() as db:  # one for all: `put_place` waits for the disk each time
                marks = ", ".join("?" * len(Place.__slots__))
                db.executemany(f"INSERT INTO places ({PLACE_COLUMNS}) VALUES ({marks})", map(to_row, places))  # noqa: S608
            catalog.finish(catalog.begin(rows))
            for number, row in enumerate(rows, start=start):
                width, height = SIZES[number % len(SIZES)]
                facts = PageFacts(1, "1", row.sha256, None, None, width, height, "", "none", 1.0, 0)
                ledger.remember_pages(row.sha256, [KnownPage(facts, False)])


def processor_time(action: Callable[[], object]) -> float:
    """Return how many seconds of the processor something takes, in all threads."""
    started_s = time.process_time()
    action()
    return time.process_time() - started_s


def measure(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield what was measured, a line of the table each."""
    with Archive.open(folder) as archive:
        access = Access(port=8642)
        here = "http://127.0.0.1:8642"
        asked = {
            "the wall": "/photos",
            "its end": "/photos?from=19000",
            "all files": "/",
            "a camera": "/?camera=NIKON+D700",
            "a person": "/?persons=Axel",
        }
        for name, path in asked.items():
            app, close = make_app(archive, access)  # a new one: the first view looks at every page once
            try:
                with TestClient(app, here) as client:
                    client.cookies.set(access.cookie, access.session, domain="127.0.0.1")
                    show = functools.partial(lambda path: client.get(path).raise_for_status(), path)
                    first_s = processor_time(show)
                    again_s = statistics.median(processor_time(show) for _ in range(REPEATS))
                    kilobytes = len(client.get(path).content) / 1000
            finally:
                close()
            yield name, f"processor: first {1000 * first_s:.0f} ms, then {1000 * again_s:.0f} ms; {kilobytes:.0f} kB"


PAINT = """new Promise((done) => {
  new PerformanceObserver((list) => {
    for (const one of list.getEntriesByName("first-contentful-paint")) done(one.startTime);
  }).observe({ type: "paint", buffered: true });
})"""
SCROLL = f"""new Promise((done) => {{
  const started = performance.now();
  const gaps = [];
  let last = started;
  function frame(now) {{
    gaps.push(now - last);
    last = now;
    if (now - started > {1000 * SCROLL_S}) {{
      gaps.sort((one, other) => one - other);
      const seen = [...document.querySelectorAll(".wall li")].filter((one) => one.getBoundingClientRect().top < 0);
      done([seen.length, gaps[Math.floor(gaps.length / 2)], gaps[Math.floor(gaps.length * 0.95)]]);
    }} else {{
      scrollBy(0, 40);
      requestAnimationFrame(frame);
    }}
  }}
  requestAnimationFrame(frame);
}})"""
"""Scrolls by 40 px in each frame, which are 2,400 px a second where the machine can."""


def in_browser(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield what was measured in Chromium."""
    if find_browser() is None:
        return
    with Archive.open(folder) as archive, WebServer(port=0) as server:
        access = Access(port=server.port)
        app, close = make_app(archive, access)
        thread = threading.Thread(target=server.run, args=(app,))
        thread.start()
        try:
            with Browser() as browser:
                browser.open(access.url("127.0.0.1"))
                taken_ms: dict[str, list[tuple[float, float]]] = {"/photos": [], "/about": []}
                for path in REPEATS * list(taken_ms):
                    browser.open(f"http://127.0.0.1:{server.port}{path}")
                    loaded = "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
                    taken_ms[path].append((browser.run(PAINT), browser.run(loaded)))
                for path, name in (("/photos", "the wall"), ("/about", "a short page, by turns")):
                    painted_ms, loaded_ms = map(statistics.median, zip(*taken_ms[path], strict=True))
                    yield (
                        f"{name} in the browser",
                        f"painted after {painted_ms:.0f} ms, complete after {loaded_ms:.0f} ms",
                    )
                browser.open(f"http://127.0.0.1:{server.port}/photos")
                count, half_ms, most_ms = browser.run(SCROLL)
                yield (
                    f"scrolled for {SCROLL_S} s, past {count} photos",
                    f"a frame takes {half_ms:.0f} ms, 95 of 100 at most {most_ms:.0f} ms",
                )
        finally:
            server.stop()
            thread.join(30)
            close()


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=20_000, help="of the archive (20,000)")
    parser.add_argument("--folder", type=Path, help="keep it here, and take it from here if it is there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = (options.folder or Path(temporary)).absolute()
        if not (place / "archive").exists():
            taken_s = timed(lambda: make_archive(place / "archive", Photos(place / "photos"), options.photos))
            sys.stderr.write(f"made in {taken_s:.0f} s\n")
        sys.stdout.write(f"| {options.photos} photos | |\n|---|---|\n")
        for name, value in (*measure(place / "archive"), *in_browser(place / "archive")):
            sys.stdout.write(f"| {name} | {value} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
