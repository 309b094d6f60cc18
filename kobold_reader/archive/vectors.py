"""The Chroma collection of an archive: nodes with their vectors, in the format of llama-index-vector-stores-chroma.

Plain LlamaIndex opens it. `ChromaVectorStore.add` is not used: it calls `collection.add`, which silently keeps the old
text of a known id, and it exceeds Chroma's largest batch. Chroma's default embedder would download a model: it is
switched off, and every call brings its own vectors.

Chroma only marks a deleted node as deleted: its text stays in the bytes of its SQLite file, its vector in the graph.
`rewrite` therefore copies the other nodes, vectors included, into a new folder that takes the place of the old one
(about 700 nodes a second). A process of its own writes it: see `chroma_copy`. `chroma.part` is being written,
`chroma.new` is complete, `chroma.gone` is being removed. A kill leaves either the old folder or a complete new one, and
`settle` finishes the rest.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, ParamSpec, Self, TypeVar
from urllib.parse import urlsplit

from kobold_reader.archive.store import Catalog
from kobold_reader.errors import ConfigError, MissingExtraError, StoreError, reason
from kobold_reader.kobold.addresses import check_way

COLLECTION: Final = "pages"
BATCH: Final = 1000
"""Chroma's own limit is 5461; larger batches than this are no faster (measured on Chroma 1.5.9)."""
IDS_AT_ONCE: Final = 500
PAGES_AT_ONCE: Final = 100
FEW_NODES: Final = 1500
"""Up to this number, nodes are compared one by one, at 50 µs each. To find a few among very many, Chroma walks through
most of its graph (200,000 nodes: 200 of them take 440 ms, 1,000 190 ms, 10,000 85 ms)."""
FULL_BYTES: Final = 1 << 20
"""A disk with less room counts as full: Chroma's files grow by more than that."""
PORT: Final = 8000

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


@dataclass(frozen=True, slots=True)
class ChromaServer:
    """A collection on a Chroma server. Several archives may share the server, each with a collection of its own."""

    url: str
    collection: str

    @classmethod
    def chosen(cls, url: str, known: Self | None = None, *, has_vectors: bool = True) -> Self:
        """Return the archive's collection on the server at `url`: the known one, else a new one.

        Raises:
            ConfigError: Not the URL of a server, a public one without https, or an archive of words only.
        """
        if not has_vectors:
            raise ConfigError(
                "--chroma-url: this archive has words only, no vectors.",
                hint="index --reembed --embedder minilm --chroma-url URL makes them there.",
            )
        parts = urlsplit(url)
        try:
            is_server = parts.scheme in {"http", "https"} and parts.hostname and parts.path in {"", "/"}
            port = parts.port or PORT
        except ValueError:
            is_server, port = False, 0
        if not is_server or "@" in parts.netloc:
            raise ConfigError(
                "--chroma-url names no Chroma server.",
                hint=f"One like http://127.0.0.1:{PORT} ; `chroma run --path DIR` starts one.",
            )
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        plain = f"{parts.scheme}://{host}:{port}"
        check_way([plain], allow_remote=False)
        return cls(plain, known.collection if known else f"kobold-reader-{secrets.token_hex(6)}")

    @classmethod
    def from_record(cls, record: str | None) -> Self | None:
        """Return the collection that an archive has recorded; None: its vectors are in its own folder."""
        return cls(**json.loads(record)) if record else None

    def record(self) -> str:
        """Return what the archive records."""
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class Node:
    """One chunk of one page, with its vector."""

    node_id: str
    """PAGE_ID-PART-NUMBER."""
    text: str
    metadata: Mapping[str, Any]
    """Flat, with LlamaIndex's own keys."""
    embedding: Sequence[float]


@dataclass(frozen=True, slots=True)
class Near:
    """One chunk that is near a query."""

    node_id: str
    page_id: str
    part: str
    cosine: float
    """Similarity, -1 to 1."""


def _store_errors(method: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Turn Chroma's errors into StoreError."""

    @functools.wraps(method)
    def wrapper(*arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
        from chromadb.errors import ChromaError
        from httpx import HTTPError

        try:
            return method(*arguments, **options)
        except HTTPError as err:
            raise StoreError(
                f"the Chroma server does not answer ({method.__name__}): {err}.",
                hint="Start it again; the next `index` continues from here.",
            ) from err
        except ChromaError as err:
            raise StoreError(
                f"Chroma refused ({method.__name__}): {err}.",
                hint=_hint(err, getattr(arguments[0], "place", None), "index --reembed makes the vectors anew."),
            ) from err

    return wrapper


class Vectors:
    """The collection of an archive: `pages` in its own Chroma folder, or one on a server.

    Args:
        place: A folder, made if missing, or a collection on a server.
        embedder: Name of the model; recorded in the collection when it is made.
        dimension: Length of a vector; recorded too.
        is_read_only: Nothing may be written in the folder: it is copied, as Chroma writes when it opens one.

    Attributes:
        collection: Chroma's collection, for `ChromaVectorStore(chroma_collection=…)`.

    Raises:
        MissingExtraError: chromadb is not installed.
        StoreError: The folder cannot be opened, or the server not reached.
    """

    def __init__(
        self, place: Path | ChromaServer, *, embedder: str, dimension: int, is_read_only: bool = False
    ) -> None:
        try:
            import httpx
            from chromadb.errors import ChromaError
        except ImportError as err:
            raise MissingExtraError("chroma", "An archive with vectors") from err
        self.place = place
        self._name = place.collection if isinstance(place, ChromaServer) else COLLECTION
        with ExitStack() as opened:
            try:
                where = opened.enter_context(_copied(place)) if is_read_only and isinstance(place, Path) else place
                self._api = opened.enter_context(_connection(where))
                self.collection = self._get_or_create(embedder, dimension)
            except (ChromaError, httpx.HTTPError, OSError, ValueError) as err:
                if isinstance(place, ChromaServer):
                    raise StoreError(
                        f"the Chroma server {place.url} cannot be used: {err}.",
                        hint="Start it (`chroma run`), or name where it is now with index --chroma-url.",
                    ) from err
                otherwise = "Check that the folder can be written; index --reembed makes the vectors anew."
                raise StoreError(
                    f"the vectors in {place} cannot be opened: {reason(err)}.", hint=_hint(err, place, otherwise)
                ) from err
            self._opened = opened.pop_all()

    def _get_or_create(self, embedder: str, dimension: int) -> Any:
        from chromadb import Collection

        model = self._api.get_or_create_collection(
            self._name, metadata={"hnsw:space": "cosine", "embedder": embedder, "dimension": dimension}
        )
        return Collection(client=self._api, model=model, embedding_function=None)

    def is_of(self, embedder: str, dimension: int) -> bool:
        """Tell whether this embedder made the collection."""
        made_by = self.collection.metadata or {}
        return (made_by.get("embedder"), made_by.get("dimension")) == (embedder, dimension)

    @_store_errors
    def renew_unless_of(self, embedder: str, dimension: int) -> bool:
        """Empty the collection if another embedder made it; returns whether it is empty. Only for the writer."""
        if not self.is_of(embedder, dimension):
            self._api.delete_collection(self._name)
            self.collection = self._get_or_create(embedder, dimension)
        return not self.collection.get(limit=1, include=[])["ids"]  # `count` reads all of them

    @_store_errors
    def remove(self) -> None:
        """Remove the collection; nothing but `close` may be called afterwards."""
        self._api.delete_collection(self._name)

    def close(self) -> None:
        """Release the folder, or the connection."""
        self._opened.close()

    @_store_errors
    def put(self, nodes: Sequence[Node]) -> None:
        """Write nodes in place of those with the same ids; metadata keys that they no longer have are removed."""
        for some in _batches(nodes, BATCH):
            ids = [node.node_id for node in some]
            old = self._metadata(ids)
            with _of_nodes():
                self.collection.upsert(
                    ids=ids,
                    embeddings=[list(node.embedding) for node in some],
                    documents=[node.text for node in some],
                    metadatas=[_replacing(node.metadata, old.get(node.node_id, {})) for node in some],
                )

    @_store_errors
    def put_metadata(self, metadata: Mapping[str, Mapping[str, Any]]) -> None:
        """Replace the metadata of nodes by id and keep their vectors; unknown ids are ignored."""
        for ids in _batches(list(metadata), BATCH):
            old = self._metadata(ids)
            if old:
                new = [_replacing(metadata[node_id], old[node_id]) for node_id in old]
                self.collection.update(ids=list(old), metadatas=new)

    def _metadata(self, ids: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        found: dict[str, Mapping[str, Any]] = {}
        for some in _batches(ids, IDS_AT_ONCE):
            answer = self.collection.get(ids=list(some), include=["metadatas"])
            found |= dict(zip(answer["ids"], answer["metadatas"], strict=True))
        return found

    @_store_errors
    def delete(self, ids: Sequence[str]) -> None:
        """Remove nodes; unknown ids are ignored."""
        for some in _batches(ids, IDS_AT_ONCE):
            self.collection.delete(ids=list(some))

    @_store_errors
    def stored(self, ids: Sequence[str]) -> dict[str, Any]:
        """Return nodes, vectors included, as `Collection.upsert` takes them; unknown ids are left out."""
        import numpy as np

        keys = ["documents", "metadatas", "embeddings"]
        found = self.collection.get(ids=list(ids), include=keys)
        return {**{key: found[key] for key in ("ids", *keys)}, "embeddings": np.asarray(found["embeddings"]).tolist()}

    @_store_errors
    def ids(self) -> set[str]:
        """Return the ids of all nodes."""
        return set(self.collection.get(include=[])["ids"])

    @_store_errors
    def query(self, embedding: Sequence[float], limit: int, node_ids: Sequence[str] | None = None) -> list[Near]:
        """Return the nearest chunks, nearest first, of all nodes or of `node_ids`; unknown ids are left out."""
        from chromadb.errors import ChromaError

        if node_ids is not None and len(node_ids) <= FEW_NODES:
            return self._nearest_of(embedding, node_ids)[:limit]
        try:
            answer = self.collection.query(
                query_embeddings=[list(embedding)],
                n_results=limit,
                ids=list(node_ids) if node_ids is not None else None,
                include=["distances"],  # texts and metadata of hundreds of chunks take ten times as long
            )
        except ChromaError:
            if node_ids is None:
                raise
            # Chroma 1.5.9 raises for an unknown id, such as that of a page that is being indexed.
            known = [
                node_id
                for some in _batches(node_ids, BATCH)
                for node_id in self.collection.get(ids=list(some), include=[])["ids"]
            ]
            if len(known) == len(node_ids):
                raise
            return self.query(embedding, limit, known)
        return [
            _near(node_id, 1.0 - float(distance))
            for node_id, distance in zip(answer["ids"][0], answer["distances"][0], strict=True)
        ]

    def _nearest_of(self, embedding: Sequence[float], node_ids: Sequence[str]) -> list[Near]:
        import numpy as np

        found: list[Near] = []
        query = np.asarray(embedding, dtype=np.float32)
        for some in _batches(node_ids, IDS_AT_ONCE):
            answer = self.collection.get(ids=list(some), include=["embeddings"])
            if answer["ids"]:
                vectors = np.asarray(answer["embeddings"], dtype=np.float32)
                lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)  # may be 0
                found += map(_near, answer["ids"], (vectors @ query / np.maximum(lengths, 1e-12)).tolist())
        return sorted(found, key=lambda near: -near.cosine)

    @_store_errors
    def texts(self, node_ids: Sequence[str]) -> dict[str, str]:
        """Return the texts of chunks by node id; unknown ids are left out."""
        if not node_ids:
            return {}
        answer = self.collection.get(ids=list(node_ids), include=["documents"])
        return dict(zip(answer["ids"], answer["documents"], strict=True))


@contextmanager
def _copied(folder: Path) -> Iterator[Path]:
    """Copy Chroma's folder to a temporary one, all of it writable, whatever the rights of the files are."""
    if not folder.exists():
        folder = _beside(folder)[0]  # complete, and not yet in its place
    with tempfile.TemporaryDirectory(prefix="kobold-reader-", ignore_cleanup_errors=True) as name:
        copy = Path(name, "chroma")
        copy.mkdir()
        for path in folder.rglob("*"):
            to = copy / path.relative_to(folder)
            if path.is_file():
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, to)
        yield copy


@contextmanager
def _connection(place: Path | ChromaServer) -> Iterator[Any]:
    """Open Chroma's API over a folder or a server.

    The clients of `chromadb.PersistentClient` share one system for each path in the process, and that system does not
    see what another process has written since (measured on Chroma 1.5.9). A system of our own shares nothing: it can
    be closed and opened again whatever other clients this process has.
    """
    import httpx
    from chromadb.api import ServerAPI
    from chromadb.config import Settings, System

    if isinstance(place, Path):
        place.mkdir(parents=True, exist_ok=True)
        settings = Settings(is_persistent=True, persist_directory=str(place.absolute()), anonymized_telemetry=False)
        system = System(settings)
        api: Any = system.instance(ServerAPI)
        system.start()
        try:
            yield api
        finally:
            system.stop()
        return
    parts = urlsplit(place.url)
    settings = Settings(
        chroma_api_impl="chromadb.api.fastapi.FastAPI",
        chroma_server_host=parts.hostname,
        chroma_server_http_port=parts.port or PORT,
        chroma_server_ssl_enabled=parts.scheme == "https",
        anonymized_telemetry=False,
    )
    api = System(settings).instance(ServerAPI)
    # Chroma 1.5.9 never closes its connections, and would send them through a proxy that the environment names.
    api._session.close()  # noqa: SLF001
    with httpx.Client(timeout=None, trust_env=False, headers=api._session.headers) as api._session:  # noqa: S113, SLF001
        yield api


@contextmanager
def _of_nodes() -> Iterator[None]:
    """Raise ValueError where Chroma refuses the nodes themselves, which is no failure of the collection."""
    from chromadb.errors import InvalidArgumentError

    try:
        yield
    except InvalidArgumentError as err:
        raise ValueError(f"Chroma refused the page: {err}") from err


def _near(node_id: str, cosine: float) -> Near:
    page_id, part, _ = node_id.rsplit("-", 2)
    return Near(node_id, page_id, part, cosine)


def _hint(error: Exception, place: Path | ChromaServer | None, otherwise: str) -> str:
    is_full = any(text in str(error) for text in ("disk is full", "No space left"))
    with suppress(OSError):  # Chroma does not always say why it could not write
        is_full = is_full or (isinstance(place, Path) and shutil.disk_usage(place).free < FULL_BYTES)
    return "The disk is full. Make room on the disk; the same command continues from here." if is_full else otherwise


def _replacing(new: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata that removes old keys: Chroma merges, and a key stays until it is set to None."""
    return {**dict.fromkeys(old.keys() - new.keys()), **new}


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


# ── the folder, written anew ──────────────────────────────────────────────────────────────────────


def rewrite(folder: Path, catalog: Catalog, *, embedder: str, dimension: int) -> None:
    """Write Chroma's folder anew with the nodes that the catalog knows; only for the writer, with no client open.

    Finished pages whose nodes are not all there become unfinished: the next `index` makes their vectors. A folder of
    another embedder's vectors is removed.

    Raises:
        StoreError: The disk is full, or another process holds the folder open (Windows).
    """
    settle(folder)
    if not folder.exists():
        return
    new, _, part = _beside(folder)
    with closing(Vectors(folder, embedder=embedder, dimension=dimension)) as old:
        is_ours = old.is_of(embedder, dimension)
        if is_ours:
            _copy(old, part, catalog)
    if not is_ours:
        discard(folder)
        return
    with _os_errors(folder):
        _flush(part)
        part.rename(new)
    settle(folder)


def _copy(old: Vectors, part: Path, catalog: Catalog) -> None:
    """Copy the nodes that the catalog knows into a new folder, through a process without other memories."""
    lost: list[str] = []
    pages = iter(catalog.nodes())
    made = {"folder": str(part.absolute()), "name": COLLECTION, "metadata": old.collection.metadata}
    command = [sys.executable, "-P", str(Path(__file__).with_name("chroma_copy.py"))]
    with subprocess.Popen(  # noqa: S603
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    ) as child:
        assert child.stdin  # noqa: S101  (a pipe)
        with suppress(BrokenPipeError):  # the child has ended, and says why
            child.stdin.write(json.dumps(made) + "\n")
            while some := list(itertools.islice(pages, PAGES_AT_ONCE)):
                there: set[str] = set()
                for ids in _batches([node_id for _, node_ids, _ in some for node_id in node_ids], IDS_AT_ONCE):
                    if (found := old.stored(ids))["ids"]:
                        child.stdin.write(json.dumps(found) + "\n")
                        there |= set(found["ids"])
                lost += [page_id for page_id, ids, is_finished in some if is_finished and not there.issuperset(ids)]
        _, err = child.communicate()
    if child.returncode:
        reason = (err.strip().splitlines() or [f"its process ended with {child.returncode}"])[-1]
        raise StoreError(
            f"the vectors in {old.place} cannot be written anew: {reason}.",
            hint=_hint(RuntimeError(err), part.parent, "Make room on the disk, and repeat; nothing is lost."),
        )
    for page_ids in _batches(lost, PAGES_AT_ONCE):
        catalog.begin(catalog.pages(page_ids))


def _flush(folder: Path) -> None:
    """Have every file on the disk before the old folder is removed."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())


def has_vectors(folder: Path) -> bool:
    """Tell whether Chroma has a database in this folder; cheap, as it does not load Chroma."""
    return (folder / "chroma.sqlite3").exists()


def is_settled(folder: Path) -> bool:
    """Tell whether nothing that a killed `rewrite` left is beside Chroma's folder."""
    return not any(left.exists() for left in _beside(folder))


def settle(folder: Path) -> None:
    """Finish what a kill interrupted; only for the writer, with no client open.

    Raises:
        StoreError: Another process holds the folder open (Windows).
    """
    new, gone, part = _beside(folder)
    with _os_errors(folder):
        for _ in range(10 if new.exists() else 0):
            _remove(folder)
            try:
                new.rename(folder)
                break
            except OSError:
                # A search that opens the archive at this very instant makes an empty folder.
                if not folder.exists():
                    raise
        _remove_trees(gone, part)


def discard(folder: Path) -> None:
    """Remove Chroma's folder and what `rewrite` left beside it."""
    new, _, part = _beside(folder)
    with _os_errors(folder):
        _remove_trees(new, part)
        _remove(folder)


def _remove(folder: Path) -> None:
    """Remove Chroma's folder in one step: half of one would not open again."""
    _, gone, _ = _beside(folder)
    _remove_trees(gone)
    if folder.exists():
        folder.rename(gone)
        shutil.rmtree(gone)


def _remove_trees(*folders: Path) -> None:
    for folder in folders:
        if folder.exists():
            shutil.rmtree(folder)


def _beside(folder: Path) -> tuple[Path, Path, Path]:
    new, gone, part = (folder.with_name(f"{folder.name}.{ending}") for ending in ("new", "gone", "part"))
    return new, gone, part


@contextmanager
def _os_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        raise StoreError(
            f"the vectors in {folder} cannot be written anew: {reason(err)}.",
            hint="End what else uses the archive, make room on the disk, and repeat; nothing is lost.",
        ) from err
