"""The vectors: a Chroma collection that plain LlamaIndex opens, in the format of llama-index-vector-stores-chroma.

Own upserts instead of ChromaVectorStore.add: that one uses `collection.add`, which silently keeps the old text of a
known id, and exceeds Chroma's largest batch. Chroma's default embedder would download a model: it is never used, only
given vectors are.
"""

from __future__ import annotations

import functools
import itertools
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

import numpy as np

from kobold_reader.archive.chroma_server import ChromaServer
from kobold_reader.errors import MissingExtraError, StoreError

__all__ = ["COLLECTION", "Near", "Node", "Vectors"]

COLLECTION: Final = "pages"
BATCH: Final = 1000
"""Chroma's own limit is 5461; beyond a thousand nothing is gained (measured on 1.5.9)."""
_IDS_AT_ONCE: Final = 500
FEW_NODES: Final = 1500
"""So many are compared one by one, at 50 µs each: to find a few among very many, Chroma walks through most of its graph
(200,000 nodes: 200 of them take 440 ms, 1,000 190 ms, 10,000 85 ms)."""

FULL_BYTES: Final = 1 << 20
"""A disk with less room is full: Chroma's files grow by more than that."""
_LEAST_LENGTH: Final = 1e-12
"""Of two vectors, multiplied: nothing is near one of length 0."""

_openings = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Node:
    """One chunk of one page, with its vector."""

    node_id: str
    text: str
    metadata: Mapping[str, Any]
    """As in `chroma_metadata`: flat, with LlamaIndex's own keys."""
    embedding: Sequence[float]


@dataclass(frozen=True, slots=True)
class Near:
    """One chunk that is near a query."""

    node_id: str
    page_id: str
    part: str
    cosine: float
    """Similarity, -1 to 1."""


Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


def _to_the_border(method: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Raise StoreError for what Chroma raises."""

    @functools.wraps(method)
    def wrapper(*arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
        from chromadb.errors import ChromaError
        from httpx import HTTPError

        try:
            return method(*arguments, **options)
        except HTTPError as err:
            msg = f"the Chroma server does not answer ({method.__name__.strip('_')}): {err}."
            raise StoreError(msg, hint="Start it again; the next `index` goes on from here.") from err
        except ChromaError as err:
            msg = f"Chroma refused ({method.__name__.strip('_')}): {err}."
            folder = getattr(arguments[0], "_folder", None)
            otherwise = "index --reembed makes the vectors anew; no page is read."
            raise StoreError(msg, hint=_hint(err, folder, otherwise)) from err

    return wrapper


class Vectors:
    """The collection of an archive: `pages` of its own Chroma folder, or one of its own on a server.

    Args:
        place: A folder, made if missing, or a collection on a server.
        embedder: Recorded in the collection when it is made.
        dimension: Of the vectors, recorded too.

    Raises:
        MissingExtraError: chromadb is not installed.
        StoreError: The folder cannot be opened, or the server not reached.
    """

    def __init__(self, place: Path | ChromaServer, *, embedder: str, dimension: int) -> None:
        self._holding = ExitStack()
        self._folder = None if isinstance(place, ChromaServer) else place
        if isinstance(place, ChromaServer):
            self._name, self._client = place.collection, self._holding.enter_context(place.client())
        else:
            self._name, self._client = COLLECTION, _open_client(place)
            self._holding.callback(self._client.close)
        self._collection = self._get_or_create(embedder, dimension)

    @_to_the_border
    def _get_or_create(self, embedder: str, dimension: int) -> Any:
        return self._client.get_or_create_collection(
            self._name,
            embedding_function=None,
            metadata={"hnsw:space": "cosine", "embedder": embedder, "dimension": dimension},
        )

    def is_of(self, embedder: str, dimension: int) -> bool:
        """Tell whether this embedder made the collection."""
        made_by = self._collection.metadata or {}
        return (made_by.get("embedder"), made_by.get("dimension")) == (embedder, dimension)

    @_to_the_border
    def renew_unless_of(self, embedder: str, dimension: int) -> bool:
        """Empty the collection where another embedder made it; returns whether it is empty now. Only for the writer."""
        if not self.is_of(embedder, dimension):
            self._client.delete_collection(self._name)
            self._collection = self._get_or_create(embedder, dimension)
        return not self._collection.get(limit=1, include=[])["ids"]  # a count reads all of them

    @_to_the_border
    def remove(self) -> None:
        """Remove the collection with all that is in it; these vectors are of no more use then."""
        self._client.delete_collection(self._name)

    @property
    def collection(self) -> Any:
        """Chroma's collection, for `ChromaVectorStore(chroma_collection=…)`."""
        return self._collection

    def close(self) -> None:
        """Release the folder, or the connection."""
        self._holding.close()

    @_to_the_border
    def put(self, nodes: Sequence[Node]) -> None:
        """Write nodes in place of those with the same ids; metadata keys that are gone go."""
        for some in _batches(nodes, BATCH):
            ids = [node.node_id for node in some]
            old = self._metadata(ids)
            self._collection.upsert(
                ids=ids,
                embeddings=[list(node.embedding) for node in some],
                documents=[node.text for node in some],
                metadatas=[_replacing(node.metadata, old.get(node.node_id, {})) for node in some],
            )

    @_to_the_border
    def put_metadata(self, metadata: Mapping[str, Mapping[str, Any]]) -> None:
        """Replace the metadata of nodes by id, keeping their vectors."""
        for ids in _batches(list(metadata), BATCH):
            old = self._metadata(ids)
            known = [node_id for node_id in ids if node_id in old]
            if known:
                self._collection.update(
                    ids=known,
                    metadatas=[_replacing(metadata[node_id], old[node_id]) for node_id in known],
                )

    def _metadata(self, ids: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        found: dict[str, Mapping[str, Any]] = {}
        for some in _batches(ids, _IDS_AT_ONCE):
            answer = self._collection.get(ids=list(some), include=["metadatas"])
            found |= dict(zip(answer["ids"], answer["metadatas"], strict=True))
        return found

    @_to_the_border
    def delete(self, ids: Sequence[str]) -> None:
        """Remove nodes; unknown ids are ignored."""
        for some in _batches(ids, _IDS_AT_ONCE):
            self._collection.delete(ids=list(some))

    @_to_the_border
    def copy(self, other: Vectors, ids: Sequence[str]) -> set[str]:
        """Copy nodes of another folder, vectors and all; returns the ids of those that were there."""
        copied: set[str] = set()
        for some in _batches(ids, _IDS_AT_ONCE):
            found = other.collection.get(ids=list(some), include=["documents", "metadatas", "embeddings"])
            if found["ids"]:
                self._collection.upsert(**{key: found[key] for key in ("ids", "documents", "metadatas", "embeddings")})
                copied |= set(found["ids"])
        return copied

    @_to_the_border
    def ids(self) -> set[str]:
        """Return the ids of all nodes."""
        return set(self._collection.get(include=[])["ids"])

    @_to_the_border
    def query(self, embedding: Sequence[float], limit: int, node_ids: Sequence[str] | None = None) -> list[Near]:
        """Return the nearest chunks, nearest first.

        Args:
            embedding: Of the query.
            limit: At most so many chunks.
            node_ids: Only some of these.
        """
        from chromadb.errors import ChromaError

        if node_ids is not None and len(node_ids) <= FEW_NODES:
            return self._nearest_of(embedding, node_ids)[:limit]
        try:
            answer = self._ask(embedding, limit, node_ids)
        except ChromaError:
            if node_ids is None:
                raise
            # An id that is not there, of a page that is being indexed, is an error to Chroma (measured on 1.5.9).
            there = [node_id for some in _batches(node_ids, BATCH) for node_id in self._there(some)]
            if len(there) == len(node_ids):
                raise
            return self.query(embedding, limit, there)
        return [
            _near(node_id, 1.0 - float(distance))
            for node_id, distance in zip(answer["ids"][0], answer["distances"][0], strict=True)
        ]

    def _ask(self, embedding: Sequence[float], limit: int, node_ids: Sequence[str] | None) -> Any:
        return self._collection.query(
            query_embeddings=[list(embedding)],
            n_results=limit,
            ids=list(node_ids) if node_ids is not None else None,
            include=["distances"],  # texts and metadata of hundreds of chunks take ten times as long
        )

    def _nearest_of(self, embedding: Sequence[float], node_ids: Sequence[str]) -> list[Near]:
        """Return these chunks, nearest first; those that are gone are left out."""
        found: list[Near] = []
        query = np.asarray(embedding, dtype=np.float32)
        for some in _batches(node_ids, _IDS_AT_ONCE):
            answer = self._collection.get(ids=list(some), include=["embeddings"])
            if answer["ids"]:
                vectors = np.asarray(answer["embeddings"], dtype=np.float32)
                lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
                found += map(_near, answer["ids"], (vectors @ query / np.maximum(lengths, _LEAST_LENGTH)).tolist())
        return sorted(found, key=lambda near: -near.cosine)

    def _there(self, node_ids: Sequence[str]) -> list[str]:
        found: list[str] = self._collection.get(ids=list(node_ids), include=[])["ids"]
        return found

    @_to_the_border
    def texts(self, node_ids: Sequence[str]) -> dict[str, str]:
        """Return what stands in some chunks, by node id; those that are gone are left out."""
        if not node_ids:
            return {}
        answer = self._collection.get(ids=list(node_ids), include=["documents"])
        return dict(zip(answer["ids"], answer["documents"], strict=True))


def _near(node_id: str, cosine: float) -> Near:
    page_id, part, _ = node_id.rsplit("-", 2)
    return Near(node_id, page_id, part, cosine)


def _open_client(folder: Path) -> Any:
    try:
        import chromadb
        from chromadb.config import Settings
        from chromadb.errors import ChromaError
    except ImportError as err:
        raise MissingExtraError("chroma", "An archive with vectors") from err
    # Chroma shares one system among all clients of a path, and that system does not see what another process
    # wrote since (measured on 1.5.9). It goes by the path's spelling, so another spelling is a system of our own.
    # The number of the opening is spelled in dots and slashes, bit by bit: one dot each would outgrow any path.
    path = f"{folder.absolute()}{''.join('/.' if bit == '1' else '//.' for bit in f'{next(_openings):b}')}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return chromadb.PersistentClient(path=path, settings=Settings(anonymized_telemetry=False))
    except (ChromaError, OSError, ValueError) as err:
        msg = f"the vectors in {folder} cannot be opened: {err}."
        hint = _hint(err, folder, "Check that the folder can be written; index --reembed makes the vectors anew.")
        raise StoreError(msg, hint=hint) from err


def _hint(error: Exception, folder: Path | None, otherwise: str) -> str:
    is_full = any(said in str(error) for said in ("disk is full", "No space left"))
    with suppress(OSError):  # Chroma does not always say why it could not write
        is_full = is_full or (folder is not None and shutil.disk_usage(folder).free < FULL_BYTES)
    return "The disk is full. Make room on the disk; the same command goes on from here." if is_full else otherwise


def _replacing(new: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, Any]:
    """Chroma merges metadata: a key stays until it is set to None."""
    return {**dict.fromkeys(old.keys() - new.keys()), **new}


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
