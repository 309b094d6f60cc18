"""An archive's embedder and vectors: opened when needed, and anew when another process has written."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from kobold_reader.archive.catalog import Catalog
from kobold_reader.archive.chroma_server import ChromaServer, check_server
from kobold_reader.archive.embedder import Embedder, ServerAccess, open_embedder
from kobold_reader.archive.erasing import any_left, blank_unused, discard, rewrite, settle
from kobold_reader.archive.folder import LOCK
from kobold_reader.archive.indexing import Indexer
from kobold_reader.archive.search import DenseSearch, Mode
from kobold_reader.archive.vectors import Near, Vectors
from kobold_reader.errors import ConfigError, KoboldReaderError, MissingExtraError, ServerError, StoreError

__all__ = ["Meaning", "record_of"]

log = logging.getLogger(__name__)

CHROMA: Final = "chroma"
SERVER: Final = "chroma_server"
WORDS_ONLY: Final = {"kind": "none"}


def record_of(embedder: Embedder | None) -> str:
    """Return what an archive remembers of its embedder; None: words only."""
    return embedder.record() if embedder else json.dumps(WORDS_ONLY)


class Meaning:
    """What one open archive knows of meaning; safe to use from several threads.

    Args:
        folder: The archive's.
        catalog: Remembers the embedder, and counts generations.
        access: KoboldCpp, where the embedder is its own.
        embedder: Just chosen for a new archive, so that it is not opened twice.
    """

    def __init__(self, folder: Path, catalog: Catalog, access: ServerAccess, embedder: Embedder | None = None) -> None:
        self._folder = folder / CHROMA
        self._lock_file = folder / LOCK
        self._catalog = catalog
        self._access = access
        self._lock = threading.RLock()
        self._embedder = embedder
        self._vectors: Vectors | None = None
        self._seen_generation = -1
        self._is_writing = False
        self._is_used = False
        """Whether Chroma has loaded what lies in its folder: at the first use of a client it may write there."""

    def record(self) -> dict[str, Any]:
        """Return the embedder as the archive remembers it."""
        record: dict[str, Any] = json.loads(self._catalog.meta("embedder") or json.dumps(WORDS_ONLY))
        return record

    def server(self) -> ChromaServer | None:
        """Return where the vectors lie if not in the archive's folder."""
        return ChromaServer.from_record(self._catalog.meta(SERVER))

    def move_to(self, url: str) -> None:
        """Have the vectors on a Chroma server from now on; only for the writer, which makes them there if they lack.

        Raises:
            ConfigError: No URL of a server, or an archive of words only.
        """
        check_server(url, has_vectors=self.record()["kind"] != "none")
        chosen = ChromaServer.chosen(url, self.server())
        if chosen == self.server():
            return
        with self._lock:
            self.close()
            self._catalog.set_meta(SERVER, chosen.record())

    def embedder(self) -> Embedder | None:
        """Open the archive's embedder, once; None for an archive of words only."""
        with self._lock:
            record = self.record()
            if record["kind"] == "none":
                return None
            known = self._embedder
            if known is None or (known.kind, known.name, known.dimension) != (
                record["kind"],
                record["name"],
                record["dimension"],
            ):  # not opened yet, or another process has made the vectors anew with another one
                self._embedder = None
                self._embedder = open_embedder(record, self._access)
            return self._embedder

    def vectors(self, embedder: Embedder) -> Vectors:
        """Return the vectors as they are now: opened again if another process has written since."""
        with self._lock:
            generation = self._catalog.generation
            # While we write, what is new is our own, and the indexer holds this very client.
            if self._vectors is not None and generation != self._seen_generation and not self._is_writing:
                self._vectors.close()
                self._vectors = None
            if self._vectors is None:
                self._vectors = Vectors(
                    self.server() or self._folder, embedder=embedder.name, dimension=embedder.dimension
                )
                self._seen_generation = generation
                self._is_used = False
            return self._vectors

    def begin_writing(self) -> Indexer:
        """Return the indexer; only for the process that holds the archive's lock, until `end_writing`."""
        embedder = self.embedder()
        if embedder is None:
            return Indexer(self._catalog, None, None)
        with self._lock:
            if any_left(self._folder):
                self.close()
                settle(self._folder)
            if self.server() and self._folder.exists():
                discard(self._folder)  # they lay here before they were to be on a server
            vectors = self.vectors(embedder)
            self._is_writing = True
        if vectors.renew_unless_of(embedder.name, embedder.dimension):
            # The vectors are gone, or were another embedder's: all are due again.
            self._catalog.begin([row for row in self._catalog.every_page() if row.node_ids])
        return Indexer(self._catalog, vectors, embedder)

    def end_writing(self) -> None:
        """Give the vectors back to searches."""
        with self._lock:
            self._is_writing = False
            blank_unused(self._folder)
            # Our own writes are no news to our own client.
            self._seen_generation = self._catalog.generation

    def replace(self, embedder: Embedder | None) -> None:
        """Forget all vectors, and remember another embedder; only for the writer. All pages are unfinished before."""
        with self._lock:
            if self.server() and (before := self.embedder()):
                self.vectors(before).remove()
            self.close()
            self._embedder = embedder
            self._catalog.set_meta("embedder", record_of(embedder))
            discard(self._folder)

    def erase_deleted(self) -> None:
        """Write the vectors anew without what the catalog has forgotten; only for the writer. Asks no embedder."""
        with self._lock:
            record = self.record()
            if (server := self.server()) and record["kind"] != "none":
                # Nodes, not bytes: what its files hold of deleted ones is the server's.
                self._vectors = self._vectors or Vectors(server, embedder=record["name"], dimension=record["dimension"])
                known = {node_id for _, ids, _ in self._catalog.nodes() for node_id in ids}
                self._vectors.delete(sorted(self._vectors.ids() - known))
                return
            self.close()
            if record["kind"] != "none":
                rewrite(self._folder, record, self._catalog)

    def close(self) -> None:
        """Release Chroma's folder."""
        with self._lock:
            if self._vectors:
                self._vectors.close()
                self._vectors = None

    def search(self, mode: Mode, notices: list[str]) -> DenseSearch | None:
        """Return the search by vectors, or None (with a notice for people) where it cannot be had now.

        Raises:
            KoboldReaderError: It cannot be had, and `mode` is dense.
        """
        if mode == "keyword":
            return None
        try:
            embedder = self.embedder()
            if embedder is None:
                return None
            self.vectors(embedder)
        except (ServerError, MissingExtraError, ConfigError, StoreError) as err:
            if mode == "dense":
                raise
            notices.append(f"Searching by words only: {err}")
            return None

        return _ByMeaning(self, embedder, mode, notices)

    def near(
        self, embedder: Embedder, embedding: Sequence[float], limit: int, node_ids: Sequence[str] | None
    ) -> list[Near]:
        """Return the chunks nearest to a query; see `Vectors.query`."""
        with self._lock:  # or another thread would close this client to open a newer one
            found = self.vectors(embedder).query(embedding, limit, node_ids)
            self._blank_after_first_use()
            return found

    def texts(self, embedder: Embedder, node_ids: Sequence[str]) -> dict[str, str]:
        """Return what stands in some chunks; see `Vectors.texts`."""
        with self._lock:
            found = self.vectors(embedder).texts(node_ids)
            self._blank_after_first_use()
            return found

    def _blank_after_first_use(self) -> None:
        """See `blank_unused`; tried again at the next use where another process holds the archive just now."""
        if self._is_used or self._is_writing:
            return
        try:
            with FileLock(self._lock_file, timeout=0):
                blank_unused(self._folder)
        except (Timeout, OSError, NotImplementedError) as err:  # or a folder in which Chroma cannot write either
            log.debug("%s: what Chroma wrote of its memory is still there: %s", self._folder, err)
        else:
            self._is_used = True


@dataclass
class _ByMeaning:
    """One search by meaning; where it cannot be had after all, the words remain."""

    meaning: Meaning
    embedder: Embedder
    mode: Mode
    notices: list[str]
    _asked: tuple[str, Sequence[float]] | None = None
    """The last query with its embedding: a search may ask twice."""

    def near(self, query: str, limit: int, node_ids: Sequence[str] | None) -> list[Near]:
        try:
            if self._asked is None or self._asked[0] != query:
                self._asked = query, self.embedder.model.get_query_embedding(query)
            return self.meaning.near(self.embedder, self._asked[1], limit, node_ids)
        except KoboldReaderError as err:
            if self.mode == "dense":
                raise
            self.notices.append(f"Searching by words only: {err}")
            return []

    def texts(self, node_ids: Sequence[str]) -> dict[str, str]:
        try:
            return self.meaning.texts(self.embedder, node_ids)
        except KoboldReaderError as err:  # the pages are found; where on them is told by their words
            log.debug("%s", err)
            return {}
