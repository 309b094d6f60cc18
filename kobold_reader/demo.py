"""The demo: the sample pages are read and indexed in one folder, with or without a server.

Without a usable server RapidOCR reads them. Only the demo falls back like this, and it tells the user.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from kobold_reader.archive import Archive, SyncReport
from kobold_reader.errors import ConfigError, ServerError, ServerTimeoutError, TranscriptionError
from kobold_reader.kobold import KoboldClient
from kobold_reader.options import ReadOptions
from kobold_reader.pages import select
from kobold_reader.session import ReadSession

FIRST_PAGE_LIMIT_S = 60.0
"""With a server that is slower than this for one page, the demo would take all evening."""
SEARCHES = {
    "by meaning": "who complained about the noise of the engine?",
    "an exact number": "1954/37-b",
    "a name with a misread letter": "Rosenfeldt",
}


def copy_samples(folder: Path) -> Path:
    """Copy the sample files into `folder/samples`, to which links lead; return that folder."""
    target = folder / "samples"
    with as_file(files("kobold_reader") / "_samples" / "archive") as source:
        for path in sorted(source.rglob("*")):
            copy = target / path.relative_to(source)
            if path.is_file() and not copy.exists():
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, copy)
    return target


def sync_samples(
    archive: Archive, folder: Path, url: str, password: str | None, *, tell: Callable[[str], None], **callbacks: Any
) -> SyncReport:
    """Read and index the samples; a second run asks nothing.

    Args:
        archive: Where they are indexed.
        folder: The demo's folder.
        url: KoboldCpp's address; nothing needs to answer there.
        password: Password of that server.
        tell: Called with sentences for the user.
        callbacks: Arguments of `Archive.sync`.
    """
    samples = copy_samples(folder)
    known = archive.settings_of(samples)
    if known:
        engine = "RapidOCR" if known.get("engine") == "rapidocr" else "KoboldCpp"
        tell(f"The samples were read by {engine} before; to read them anew, delete {folder}.")
        session = ReadSession(ReadOptions.of({**known, "api_password": password}))
    else:
        session = _choose_session(archive, samples, url, password, tell)
    with session:
        return archive.sync(samples, reader=session, **callbacks)


def _choose_session(
    archive: Archive, samples: Path, url: str, password: str | None, tell: Callable[[str], None]
) -> ReadSession:
    """Return a session on KoboldCpp if one with vision answers in time, else one on RapidOCR."""
    options = ReadOptions(api_url=(url,), api_password=password, on_error="skip")
    try:
        with KoboldClient(url, password=password) as client:
            info = client.require_vision()
        tell(
            f"KoboldCpp answers at {info.url} with {info.model}: it reads the samples, if the first page takes "
            f"less than {FIRST_PAGE_LIMIT_S:g} s."
        )
        _try_first_page(archive, samples, options)
    except (ServerError, TranscriptionError, ConfigError) as err:
        tell(f"{err.message} So RapidOCR reads the samples: printed text only, no captions.")
        return ReadSession(ReadOptions(engine="rapidocr", on_error="skip"))
    return ReadSession(options)


def _try_first_page(archive: Archive, samples: Path, options: ReadOptions) -> None:
    """Read one page into the archive's ledger, where the run finds it; raise if that fails or takes too long."""
    session = ReadSession(replace(options, page_timeout_s=FIRST_PAGE_LIMIT_S))
    first = select([samples]).files[:1]
    with session, archive.open_ledger(options) as ledger, closing(session.transcriber(ledger).run(first)) as results:
        errors = list(next(results).errors.values())
    if any(isinstance(error, ServerTimeoutError) for error in errors):
        raise ServerTimeoutError(f"KoboldCpp took longer than {FIRST_PAGE_LIMIT_S:g} s for the first page.")
    if errors:
        raise errors[0]
