"""The vectors: a Chroma collection that plain LlamaIndex opens, in the format of llama-index-vector-stores-chroma.

Own upserts instead of ChromaVectorStore.add: that one uses `collection.add`, which silently keeps the old text of a
known id, and exceeds Chroma's largest batch. Chroma's default embedder would download a model: it is never used, only
given vectors are.

An archive's vectors on a Chroma server: where it is, and which collection there is the archive's.

What was forgotten leaves the bytes of the vectors, too.

Chroma marks a deleted node as deleted: its text stays in free pages, in the log of past writes and in the trigrams of
its SQLite file, its vector in the graph. So the nodes that stay are copied, vectors and all, into a new folder that
then takes the old one's place; nothing is embedded again (about 700 nodes a second).

`chroma.part` is being written, `chroma.new` is whole, `chroma.gone` is being removed: a kill at any instant leaves the
old folder or a whole new one, and `settle` ends what it interrupted.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import secrets
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, ParamSpec, Self, TypeVar
from urllib.parse import urlsplit

import numpy as np

from kobold_reader.archive.store import Catalog
from kobold_reader.errors import ConfigError, MissingExtraError, StoreError
from kobold_reader.kobold import check_way

__all__ = [
    "COLLECTION",
    "ChromaServer",
    "Near",
    "Node",
    "Vectors",
    "any_left",
    "blank_unused",
    "check_server",
    "discard",
    "rewrite",
    "settle",
]

_PORT: Final = 8000


@dataclass(frozen=True, slots=True)
class ChromaServer:
    """A collection on a server; several archives may share the server, none another one's collection."""

    url: str
    collection: str

    @classmethod
    def chosen(cls, url: str, known: Self | None) -> Self:
        """Return the archive's place on the server at `url`: a new collection, or the one it has had since it was made.

        Raises:
            ConfigError: No URL of a server, or a public one without https.
        """
        parts = urlsplit(url)
        try:
            is_server = parts.scheme in {"http", "https"} and parts.hostname and parts.path in {"", "/"}
            port = parts.port or _PORT
        except ValueError:
            is_server, port = False, 0
        if not is_server or "@" in parts.netloc:
            msg = "--chroma-url names no Chroma server."
            raise ConfigError(msg, hint=f"One like http://127.0.0.1:{_PORT} ; `chroma run --path DIR` starts one.")
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        plain = f"{parts.scheme}://{host}:{port}"
        check_way([plain], allow_remote=False)
        return cls(plain, known.collection if known else f"kobold-reader-{secrets.token_hex(6)}")

    @classmethod
    def from_record(cls, record: str | None) -> Self | None:
        """Return what an archive remembers; None: its vectors lie in its own folder."""
        return cls(**json.loads(record)) if record else None

    def record(self) -> str:
        """Return what an archive remembers."""
        return json.dumps(asdict(self))

    @contextmanager
    def client(self) -> Iterator[Any]:
        """Connect, until the end of the `with` block.

        Raises:
            MissingExtraError: chromadb is not installed.
            StoreError: The server cannot be reached.
        """
        try:
            import chromadb
            import httpx
            from chromadb.config import Settings
            from chromadb.errors import ChromaError
        except ImportError as err:
            raise MissingExtraError("chroma", "An archive with vectors") from err
        parts = urlsplit(self.url)
        try:
            client = chromadb.HttpClient(
                host=parts.hostname or "",
                port=parts.port or _PORT,
                ssl=parts.scheme == "https",
                settings=Settings(anonymized_telemetry=False),
            )
        except (ChromaError, OSError, ValueError) as err:
            msg = f"the Chroma server {self.url} cannot be used: {err}."
            hint = "Start it (`chroma run`), or name where it is now with index --chroma-url."
            raise StoreError(msg, hint=hint) from err
        # Chroma (1.5.9) never closes its connections, and would send them through a proxy that the environment names.
        api = client._server  # noqa: SLF001
        for opened in (api, client._admin_client._server):  # noqa: SLF001
            opened._session.close()  # noqa: SLF001
        with httpx.Client(timeout=None, trust_env=False, headers=api._session.headers) as api._session:  # noqa: S113, SLF001
            try:
                yield client
            finally:
                client.close()


def check_server(url: str, *, has_vectors: bool) -> None:
    """Refuse, before anything is written, what an archive cannot have.

    Raises:
        ConfigError: No URL of a server, or an archive of words only.
    """
    if not has_vectors:
        msg = "--chroma-url: this archive has words only, no vectors."
        raise ConfigError(msg, hint="index --reembed --embedder minilm --chroma-url URL makes them there.")
    ChromaServer.chosen(url, None)


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


PAGES_AT_ONCE: Final = 100
_SWAP_TRIES: Final = 10
_HEADER: Final = struct.Struct("<iQQQ")
"""Begin of a graph's header: version, offset, room for so many nodes, nodes."""
_HEADER_VERSION: Final = 1
_EMPTY_ROOM: Final = 100
_ENDINGS: Final = ("new", "gone", "part")


def rewrite(folder: Path, record: Mapping[str, Any], catalog: Catalog) -> None:
    """Write Chroma's folder anew with the nodes that the catalog knows; only for the writer, with no client open.

    Args:
        folder: Chroma's.
        record: Of the embedder whose vectors they are.
        catalog: Pages whose nodes are not all there become unfinished: the next `index` makes their vectors.

    Raises:
        StoreError: The disk is full, or another process holds the folder open (Windows).
    """
    settle(folder)
    if not folder.exists():
        return
    part = _beside(folder, "part")
    old = Vectors(folder, embedder=record["name"], dimension=record["dimension"])
    try:
        if not old.is_of(record["name"], record["dimension"]):
            old.close()
            discard(folder)  # another embedder's: the next `index` makes all anew
            return
        new = Vectors(part, embedder=record["name"], dimension=record["dimension"])
        try:
            _copy(old, new, catalog)
        finally:
            new.close()
    finally:
        old.close()
    with _said(folder):
        blank_unused(part)
        _sync(part)
        part.rename(_beside(folder, "new"))
    settle(folder)


def any_left(folder: Path) -> bool:
    """Tell whether a kill left anything beside Chroma's folder."""
    return any(_beside(folder, ending).exists() for ending in _ENDINGS)


def settle(folder: Path) -> None:
    """End what a kill interrupted; only for the writer, with no client open.

    Raises:
        StoreError: Another process holds the folder open (Windows).
    """
    new, gone, part = (_beside(folder, ending) for ending in _ENDINGS)
    with _said(folder):
        for _ in range(_SWAP_TRIES if new.exists() else 0):
            _remove(folder)
            try:
                new.rename(folder)
                break
            except OSError:
                # A search that opens the archive at this very instant makes an empty folder there.
                if not folder.exists():
                    raise
        for left in (gone, part):
            if left.exists():
                shutil.rmtree(left)


def discard(folder: Path) -> None:
    """Remove Chroma's folder with all that may lie beside it."""
    with _said(folder):
        for left in (_beside(folder, "new"), _beside(folder, "part")):
            if left.exists():
                shutil.rmtree(left)
        _remove(folder)


def _remove(folder: Path) -> None:
    """Remove Chroma's folder in one step: half of one would not open again."""
    gone = _beside(folder, "gone")
    if gone.exists():
        shutil.rmtree(gone)
    if folder.exists():
        folder.rename(gone)
        shutil.rmtree(gone)


def _copy(old: Vectors, new: Vectors, catalog: Catalog) -> None:
    lost: list[str] = []
    pages = iter(catalog.nodes())
    while some := list(itertools.islice(pages, PAGES_AT_ONCE)):
        there = new.copy(old, [node_id for _, ids, _ in some for node_id in ids])
        lost += [page_id for page_id, ids, is_finished in some if is_finished and not there.issuperset(ids)]
    for start in range(0, len(lost), PAGES_AT_ONCE):
        catalog.begin(catalog.pages(lost[start : start + PAGES_AT_ONCE]))


def blank_unused(folder: Path) -> None:
    """Write zeros where Chroma wrote memory that it had never used; only under the archive's lock.

    Chroma (1.5.9) saves a graph that has no nodes yet, when it is made and at the first use by each client, with
    whatever lay in memory at that place: texts of pages, forgotten ones too, or a password.
    """
    for header in folder.glob("*/header.bin"):
        start = header.read_bytes()[: _HEADER.size]
        if len(start) == _HEADER.size and _HEADER.unpack(start) == (_HEADER_VERSION, 0, _EMPTY_ROOM, 0):
            for name in ("data_level0.bin", "length.bin"):
                path = header.with_name(name)
                if path.is_file() and any(path.read_bytes()):
                    path.write_bytes(bytes(path.stat().st_size))


def _sync(folder: Path) -> None:
    """Have everything on the disk before the old folder goes."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())


def _beside(folder: Path, ending: str) -> Path:
    return folder.with_name(f"{folder.name}.{ending}")


@contextmanager
def _said(folder: Path) -> Iterator[None]:
    """Turn the system's errors into sentences."""
    try:
        yield
    except OSError as err:
        msg = f"the vectors in {folder} cannot be written anew: {err}."
        hint = "End what else uses the archive, make room on the disk, and repeat; nothing is lost."
        raise StoreError(msg, hint=hint) from err
