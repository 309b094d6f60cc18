"""An archive's embedder and vectors: opened when needed, and anew when another process has written.

Which embedder an archive has: chosen when it is made, recorded, and opened again from the record.

How one page gets into the indexes, so that a kill between any two steps leaves it completable.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

from filelock import FileLock, Timeout
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.utils import node_to_metadata_dict

from kobold_reader.archive.search import DenseSearch
from kobold_reader.archive.store import FILE_KEYS, LOCK, Catalog, PageRow
from kobold_reader.archive.vectors import (
    ChromaServer,
    Near,
    Node,
    Vectors,
    any_left,
    blank_unused,
    check_server,
    discard,
    rewrite,
    settle,
)
from kobold_reader.documents import EMBED_KEYS, LLM_KEYS
from kobold_reader.errors import ConfigError, KoboldReaderError, MissingExtraError, ServerError, StoreError
from kobold_reader.options import EmbedderKind, Mode

__all__ = [
    "Embedder",
    "Indexer",
    "Meaning",
    "ServerAccess",
    "choose_embedder",
    "open_embedder",
    "record_of",
]


class EmbedModel(Protocol):
    """The part of LlamaIndex's BaseEmbedding that an archive uses."""

    def get_text_embedding_batch(self, texts: list[str]) -> list[list[float]]:
        """Embed passages."""
        ...

    def get_query_embedding(self, query: str) -> list[float]:
        """Embed a question."""
        ...


@dataclass(frozen=True, slots=True)
class ServerAccess:
    """How to reach KoboldCpp, where the embedder is its own."""

    urls: Sequence[str] = ("http://127.0.0.1:5001",)
    password: str | None = None


@dataclass(frozen=True, slots=True)
class Embedder:
    """An embedder with what must never change within one archive."""

    kind: str
    name: str
    """Of the model."""
    dimension: int
    max_tokens: int
    """Longest text it takes, in its own tokens."""
    model: Any
    """A LlamaIndex BaseEmbedding."""
    tokenizer: Any = None
    """Text → tokens, for splitting; None: LlamaIndex's own."""

    def record(self) -> str:
        """Return the form in which the archive remembers it."""
        return json.dumps(
            {
                "kind": self.kind,
                "name": self.name,
                "dimension": self.dimension,
                "max_tokens": self.max_tokens,
            }
        )


_KOBOLD_MAX_TOKENS: Final = 480
"""Embedding models of the BERT kind take 512; KoboldCpp cuts longer texts from the front without a word."""


def choose_embedder(kind: EmbedderKind | None, access: ServerAccess) -> Embedder | None:
    """Return the embedder for a new archive: the one asked for, else MiniLM if it is installed, else none (words only).

    Raises:
        MissingExtraError: MiniLM was asked for and is not installed.
        ServerError: KoboldCpp was asked for and has no embedding model, or does not answer.
        ConfigError: No such embedder.
    """
    from kobold_reader.embeddings import MiniLMEmbedding

    match kind:
        case "none":
            return None
        case None:
            return _minilm() if MiniLMEmbedding.available() else None
        case "minilm":
            return _minilm()
        case "koboldcpp":
            return _koboldcpp(access)
    msg = f"embedder: {kind!r} is not one of minilm, koboldcpp, none."
    raise ConfigError(msg)


def open_embedder(record: Mapping[str, Any], access: ServerAccess) -> Embedder:
    """Return the embedder that an archive remembers.

    Raises:
        MissingExtraError: It is not installed here.
        ServerError: It is KoboldCpp's, and the server does not answer.
        ConfigError: KoboldCpp runs another embedding model now: its vectors would not fit.
    """
    embedder = _minilm() if record["kind"] == "minilm" else _koboldcpp(access)
    if (embedder.name, embedder.dimension) != (record["name"], record["dimension"]):
        msg = (
            f"the archive's vectors were made by {record['name']} ({record['dimension']} dimensions), but the server "
            f"has {embedder.name} ({embedder.dimension}) loaded."
        )
        raise ConfigError(msg, hint="Load that model, or make the vectors anew with index --reembed.")
    return embedder


def _minilm() -> Embedder:
    from kobold_reader.embeddings import MiniLMEmbedding

    model = MiniLMEmbedding()
    dimension = len(model.get_query_embedding("ready"))
    return Embedder("minilm", "all-MiniLM-L6-v2", dimension, 256, model, model.tokenizer)


def _koboldcpp(access: ServerAccess) -> Embedder:
    from kobold_reader.embeddings import KoboldEmbedding

    model = KoboldEmbedding(api_url=list(access.urls), api_password=access.password)
    dimension = len(model.get_query_embedding("ready"))
    return Embedder("koboldcpp", model.loaded_model(), dimension, _KOBOLD_MAX_TOKENS, model)


CHUNK_TOKENS: Final = 96
"""About a paragraph: one vector for a whole page knows little of any part of it.

Measured with MiniLM on eight questions by meaning over the samples: the right page came first for 3 of them with 96
tokens, for 1 with 254; among the first three for 8 against 6.
"""
OVERLAP_TOKENS: Final = 24
SPECIAL_TOKENS: Final = 2
"""Start and end, which every text gets on top."""
BATCH_PAGES: Final = 32


class Indexer:
    """Brings Chroma and the words to what the catalog's rows say; the only writer of an archive.

    Args:
        catalog: The rows.
        vectors: None for an archive of words only.
        embedder: None for an archive of words only.
    """

    def __init__(self, catalog: Catalog, vectors: Vectors | None, embedder: Embedder | None) -> None:
        self._catalog = catalog
        self._vectors = vectors
        self._embedder = embedder
        self._splitter = _splitter(embedder) if embedder else None

    def index(self, rows: Sequence[PageRow]) -> None:
        """Index pages whose text is new or changed.

        Raises:
            ServerError: The embedder's server is gone; the pages stay unfinished, and the next opening goes on.
        """
        for start in range(0, len(rows), BATCH_PAGES):
            some = rows[start : start + BATCH_PAGES]
            chunks = {row.page_id: self._chunks(row) for row in some}
            begun = self._catalog.begin(
                [replace(row, node_ids=tuple(node.node_id for node in chunks[row.page_id])) for row in some]
            )
            if self._vectors is not None and self._embedder is not None:
                nodes = [node for row in some for node in chunks[row.page_id]]
                self._vectors.put(self._embed(nodes))
                wanted = {node.node_id for node in nodes}
                self._vectors.delete([node_id for row in begun for node_id in row.node_ids if node_id not in wanted])
            self._catalog.finish(
                [replace(row, node_ids=tuple(n.node_id for n in chunks[row.page_id])) for row in begun]
            )

    def finish(self) -> int:
        """Complete what a killed run began; returns how many pages that were."""
        rows = self._catalog.unfinished()
        self.index(rows)
        return len(rows) + self.remove_orphans()

    def rename(self, rows: Sequence[PageRow]) -> None:
        """Write new metadata of pages whose text is unchanged, without embedding anything."""
        for start in range(0, len(rows), BATCH_PAGES):
            begun = self._catalog.begin(rows[start : start + BATCH_PAGES])
            if self._vectors is not None:
                nodes = [node for row in begun for node in self._chunks(row)]
                self._vectors.put_metadata({node.node_id: _chroma_metadata(node) for node in nodes})
            self._catalog.finish(begun)

    def remove_orphans(self) -> int:
        """Remove pages of contents that lie nowhere any more; returns how many."""
        rows = self._catalog.orphans()
        if rows and self._vectors is not None:
            self._vectors.delete([node_id for row in rows for node_id in row.node_ids])
        if rows:
            self._catalog.remove_pages([row.page_id for row in rows])
        return len(rows)

    def _chunks(self, row: PageRow) -> list[TextNode]:
        if self._splitter is None:
            return []
        nodes = []
        for part, text in row.parts.items():
            for number, chunk in enumerate(self._splitter.split_text(text)):
                metadata = {**row.metadata, "page_part": part}
                node = TextNode(
                    id_=f"{row.page_id}-{part}-{number}",
                    text=chunk,
                    metadata=metadata,
                    excluded_embed_metadata_keys=sorted(key for key in metadata if key not in EMBED_KEYS),
                    excluded_llm_metadata_keys=sorted(key for key in metadata if key not in LLM_KEYS),
                )
                node.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id=row.page_id)
                nodes.append(node)
        return nodes

    def _embed(self, nodes: Sequence[TextNode]) -> list[Node]:
        assert self._embedder is not None  # noqa: S101  (called only where there is one)
        vectors = self._embedder.model.get_text_embedding_batch([node.text for node in nodes]) if nodes else []
        return [
            Node(node.node_id, node.text, _chroma_metadata(node), vector)
            for node, vector in zip(nodes, vectors, strict=True)
        ]


def _splitter(embedder: Embedder) -> SentenceSplitter:
    size = min(CHUNK_TOKENS, embedder.max_tokens - SPECIAL_TOKENS)
    tokenizer = {} if embedder.tokenizer is None else {"tokenizer": embedder.tokenizer}
    return SentenceSplitter(chunk_size=size, chunk_overlap=min(OVERLAP_TOKENS, size // 4), **tokenizer)


def _chroma_metadata(node: TextNode) -> dict[str, Any]:
    """Return a node's metadata in the format that llama-index-vector-stores-chroma reads back."""
    return node_to_metadata_dict(node, remove_text=True, flat_metadata=True)


def with_place(metadata: Mapping[str, Any], place: Mapping[str, Any]) -> dict[str, Any]:
    """Return a page's metadata with another place's FILE_KEYS."""
    kept = {key: value for key, value in metadata.items() if key not in FILE_KEYS}
    return {**place, **kept}


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

    def search(self, mode: Mode, on_notice: Callable[[str], None]) -> DenseSearch | None:
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
            on_notice(f"Searching by words only: {err}")
            return None

        return _ByMeaning(self, embedder, mode, on_notice)

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
    on_notice: Callable[[str], None]
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
            self.on_notice(f"Searching by words only: {err}")
            return []

    def texts(self, node_ids: Sequence[str]) -> dict[str, str]:
        try:
            return self.meaning.texts(self.embedder, node_ids)
        except KoboldReaderError as err:  # the pages are found; where on them is told by their words
            log.debug("%s", err)
            return {}
