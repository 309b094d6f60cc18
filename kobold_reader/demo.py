"""The demo: samples → read → Chroma → three searches, in one folder, with or without a server.

Only here does a missing server fall back to RapidOCR, and it says so; a library call never does.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from itertools import islice
from pathlib import Path
from typing import Any, Final

from kobold_reader.archive import Archive, Hit, SyncReport
from kobold_reader.errors import ConfigError, ServerError, ServerTimeoutError, TranscriptionError
from kobold_reader.kobold import KoboldClient
from kobold_reader.pages import select
from kobold_reader.reader import KoboldReader

__all__ = ["SEARCHES", "Demo", "DemoSearch", "copy_samples"]

FIRST_PAGE_LIMIT_S: Final = 60.0
"""A server slower than this for one page would turn the demo into an evening."""


@dataclass(frozen=True, slots=True)
class DemoSearch:
    """One of the demo's searches."""

    what: str
    query: str


SEARCHES: Final = (
    DemoSearch("by meaning", "who complained about the noise of the engine?"),
    DemoSearch("an exact number", "1954/37-b"),
    DemoSearch("a name with a misread letter", "Rosenfeldt"),
)


def copy_samples(folder: Path) -> Path:
    """Copy the sample archive beside the demo's index, where links lead to it; returns its folder."""
    target = folder / "samples"
    with as_file(files("kobold_reader") / "_samples" / "archive") as source:
        for path in sorted(source.rglob("*")):
            copy = target / path.relative_to(source)
            if path.is_file() and not copy.exists():
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, copy)
    return target


class Demo:
    """One run of the demo.

    Args:
        folder: Holds `samples` and `archive`.
        url: Where KoboldCpp might answer.
        password: Of that server.
        tell: Called with sentences for the person who watches.
    """

    def __init__(self, folder: Path, url: str, password: str | None, tell: Callable[[str], None]) -> None:
        self._folder = folder
        self._url = url
        self._password = password
        self._tell = tell
        self._archive: Archive | None = None

    @contextmanager
    def archive(self) -> Iterator[Archive]:
        """Open the demo's archive."""
        with Archive.open(
            self._folder / "archive", create=True, api_url=self._url, api_password=self._password
        ) as archive:
            yield archive

    def sync(self, archive: Archive, **callbacks: Any) -> SyncReport:
        """Read and index the samples; on a second run nothing is asked."""
        samples = copy_samples(self._folder)
        known = archive.settings_of(samples)
        if known:
            engine = "RapidOCR" if known.get("engine") == "rapidocr" else "KoboldCpp"
            self._tell(f"The samples were read by {engine} before; to read them anew, delete {self._folder}.")
            return archive.sync(
                samples, reader=KoboldReader.from_dict({**known, "api_password": self._password}), **callbacks
            )
        with self._reader(samples, archive) as reader:
            return archive.sync(samples, reader=reader, **callbacks)

    def _reader(self, samples: Path, archive: Archive) -> KoboldReader:
        """Return a reader on KoboldCpp if one with vision answers in time, else on RapidOCR, saying why."""
        reader = KoboldReader(
            api_url=self._url, api_password=self._password, on_error="skip", page_timeout_s=FIRST_PAGE_LIMIT_S
        )
        try:
            with KoboldClient(self._url, password=self._password) as client:
                info = client.require_vision()
            self._tell(
                f"KoboldCpp answers at {info.url} with {info.model}: it reads the samples, if the first page takes "
                f"less than {FIRST_PAGE_LIMIT_S:g} s."
            )
            self._try_first_page(reader, samples, archive)
        except (ServerError, TranscriptionError, ConfigError) as err:
            self._tell(f"{err.message} So RapidOCR reads the samples: printed text only, no captions.")
            return KoboldReader(engine="rapidocr", on_error="skip")
        return KoboldReader(api_url=self._url, api_password=self._password, on_error="skip")

    def _try_first_page(self, reader: KoboldReader, samples: Path, archive: Archive) -> None:
        """Read one page into the archive's ledger, where the run finds it again.

        Raises:
            ServerTimeoutError: It took longer than FIRST_PAGE_LIMIT_S.
            ServerError | TranscriptionError: The server, or its model, cannot be used after all.
        """
        first = select([samples]).files[:1]
        with archive.open_ledger(reader) as ledger, closing(reader.transcriber(ledger).run(first)) as results:
            errors = [error for result in islice(results, 1) for error in result.errors.values()]
        if any(isinstance(error, ServerTimeoutError) for error in errors):
            msg = f"KoboldCpp took longer than {FIRST_PAGE_LIMIT_S:g} s for the first page."
            raise ServerTimeoutError(msg)
        if errors:
            raise errors[0]

    @staticmethod
    def searches(archive: Archive) -> Iterator[tuple[DemoSearch, list[Hit]]]:
        """Run the demo's searches."""
        for search in SEARCHES:
            yield search, archive.search(search.query, limit=2)
