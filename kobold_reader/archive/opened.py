"""An archive folder while it is open: made or found, held for writing by one process at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

from filelock import FileLock, Timeout

from kobold_reader.archive.catalog import Catalog
from kobold_reader.archive.chroma_server import check_server
from kobold_reader.archive.duplicates import Duplicates
from kobold_reader.archive.embedder import EmbedderKind, ServerAccess, choose_embedder
from kobold_reader.archive.folder import LOCK, check_folder
from kobold_reader.archive.indexing import Indexer
from kobold_reader.archive.meaning import Meaning, record_of
from kobold_reader.archive.sync import at_place
from kobold_reader.errors import ConfigError, KoboldReaderError, StoreError
from kobold_reader.reader import KoboldReader
from kobold_reader.reading.ledger import Ledger, default_ledger_path

__all__ = ["CATALOG", "BusyError", "OpenArchive"]

CATALOG: Final = "archive.sqlite"
LOCK_WAIT_S: Final = 1.0
"""How long the archive's lock is waited for: searches hold it for a moment, other writers for long."""


class BusyError(StoreError):
    """Another process is writing."""


class OpenArchive:
    """An open archive folder: its catalog, its embedder, and who may write."""

    def __init__(self, folder: Path, catalog: Catalog, access: ServerAccess, meaning: Meaning) -> None:
        self.folder = folder
        self._catalog = catalog
        self._access = access
        self._meaning = meaning
        self._duplicates = Duplicates(catalog)
        self.notices: list[str] = []
        """What a search could not do (the embedder cannot be reached), for people."""

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        create: bool = False,
        embedder: EmbedderKind | None = None,
        api_url: str | Sequence[str] = "http://127.0.0.1:5001",
        api_password: str | None = None,
        chroma_url: str | None = None,
    ) -> Self:
        """Open an archive.

        Args:
            folder: Where it lies.
            create: Make it if there is none.
            embedder: For a new archive: `minilm`, `koboldcpp` or `none`; None: MiniLM if it is installed, else words
                only. An archive keeps its embedder; asking for another one is refused.
            api_url: KoboldCpp, where the embedder is its own.
            api_password: Of that server.
            chroma_url: A Chroma server for the vectors; all else stays in the folder. The archive remembers it; named
                for one that had them elsewhere, the next `sync` makes them there, without reading a page.

        Raises:
            StoreError: No archive there (and not `create`), or the folder lies on a network share.
            MissingExtraError: The embedder asked for is not installed.
            ServerError: KoboldCpp's embedder was asked for and cannot be reached.
            ConfigError: The archive was made with another embedder, or has no vectors to put on a server.
        """
        folder = Path(folder)
        urls = (api_url,) if isinstance(api_url, str) else tuple(api_url)
        access = ServerAccess(urls, api_password)
        exists = (folder / CATALOG).is_file() and _is_complete(folder / CATALOG)
        if not exists and not create:
            msg = f"there is no archive in {folder}."
            raise StoreError(msg, hint=f"Make one with: kobold-reader index PATH --archive {folder}")
        check_folder(folder)
        # Chosen before anything is written: a missing extra leaves no half-made archive behind.
        chosen = None if exists else choose_embedder(embedder, access)
        if chroma_url is not None and not exists:
            check_server(chroma_url, has_vectors=chosen is not None)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            msg = f"the folder {folder} cannot be made: {err}."
            raise StoreError(msg, hint="Name another folder with --archive.") from err
        catalog = Catalog(folder / CATALOG)
        archive = cls(folder, catalog, access, Meaning(folder, catalog, access, chosen))
        if not exists:
            catalog.set_meta("embedder", record_of(chosen))
            archive._move_vectors(chroma_url)
            return archive
        kept = archive._meaning.record()["kind"]
        if embedder is not None and embedder != kept:
            archive.close()
            msg = f"the archive {folder} was made with the embedder {kept!r}, not {embedder!r}."
            raise ConfigError(msg, hint="Leave --embedder out, or make the vectors anew with --reembed.")
        archive._move_vectors(chroma_url)
        return archive

    def _move_vectors(self, chroma_url: str | None) -> None:
        if chroma_url is None:
            return
        try:
            with self._locked():
                self._meaning.move_to(chroma_url)
        except KoboldReaderError:
            self.close()
            raise

    def close(self) -> None:
        """Release all files."""
        self._meaning.close()
        self._catalog.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def embed_model(self) -> Any:
        """The LlamaIndex embed_model of this archive, for `VectorStoreIndex.from_vector_store`.

        Raises:
            ConfigError: An archive of words only.
        """
        embedder = self._meaning.embedder()
        if embedder is None:
            msg = f"the archive {self.folder} has words only, no vectors."
            raise ConfigError(msg, hint="index --reembed --embedder minilm makes them.")
        return embedder.model

    @property
    def chroma_collection(self) -> Any:
        """Chroma's collection `pages`, for `ChromaVectorStore(chroma_collection=…)`."""
        embedder = self._meaning.embedder()
        if embedder is None:
            return self.embed_model  # raises
        return self._meaning.vectors(embedder).collection

    @contextmanager
    def _locked(self, wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
        """Hold the archive for writing.

        Raises:
            StoreError: Another process does.
        """
        lock = FileLock(self.folder / LOCK, timeout=wait_s)
        try:
            lock.acquire()
        except Timeout:
            msg = f"another process is writing to the archive {self.folder}."
            raise BusyError(msg, hint="Wait for it to end; searching goes on meanwhile.") from None
        try:
            yield
        finally:
            self._meaning.end_writing()
            lock.release()

    @contextmanager
    def _writing(self) -> Iterator[Indexer]:
        """Hold the archive for writing, with the indexer that does it."""
        with self._locked():
            self._end_erasing()
            yield self._meaning.begin_writing()

    def _end_erasing(self) -> None:
        """Take what was forgotten out of the bytes of all files; also what a killed `forget` left there."""
        if not self._catalog.is_erasing:
            return
        moved = [
            at_place(row, place)
            for row in self._catalog.shown_nowhere()
            if (place := self._catalog.first_place(row.sha256))
        ]
        if moved:  # copies of what was forgotten stay
            self._meaning.begin_writing().rename(moved)
        self._meaning.erase_deleted()
        self._catalog.erase_deleted()

    def open_ledger(self, reader: KoboldReader) -> Ledger:
        """Open the archive's ledger, which reads through to the one that the reader names."""
        behind = None
        if reader.ledger != "none":
            path = Path(reader.ledger) if reader.ledger else default_ledger_path()
            behind = Ledger(path, read_only=True) if path.is_file() else None
        return Ledger(self.folder / "ledger.sqlite", fallback=behind)


def _is_complete(path: Path) -> bool:
    """Tell whether an archive was made to the end: its embedder is what is written last."""
    catalog = Catalog(path)
    try:
        return catalog.meta("embedder") is not None
    finally:
        catalog.close()
