"""The vector index of an archive: how pages get into Chroma, and how a query finds their chunks.

Only one process writes at a time, through the `Indexer`. Readers compare the archive's generation at each query, and
open Chroma again when another process has written. The embedder is chosen and recorded when the archive is made.
"""

from __future__ import annotations

import json
import logging
import math
import statistics
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from kobold_reader.archive.embedders import Embedder, ServerAccess, open_embedder, record_of
from kobold_reader.archive.ranking import Cosines
from kobold_reader.archive.rows import PageRow
from kobold_reader.archive.store import Catalog
from kobold_reader.archive.vectors import (
    ChromaServer,
    Near,
    Node,
    Vectors,
    discard,
    has_vectors,
    is_settled,
    rewrite,
    settle,
)
from kobold_reader.border import of_one_page
from kobold_reader.documents import text_node
from kobold_reader.errors import (
    KoboldReaderError,
    StoreError,
    UnexpectedError,
)
from kobold_reader.options import Mode
from kobold_reader.reading.due import spread
from kobold_reader.reading.ledger import Ledger

if TYPE_CHECKING:  # numpy is imported where there are vectors
    import numpy as np
    from llama_index.core.node_parser import SentenceSplitter
    from llama_index.core.schema import TextNode
    from numpy.typing import NDArray

    from kobold_reader.archive.search import DenseSearch

log = logging.getLogger(__name__)

_ASKED = ("en", "fr", "fi", "ru", "zh", "ja")
"""Languages whose sentences are asked to measure the spread: it is much the same in all."""
BATCH_PAGES: Final = 32
CHUNK_TOKENS: Final = 96
"""About a paragraph: one vector for a whole page says little about any part of it. Measured with MiniLM on eight
questions by meaning over the samples: the right page came first for 3 of them with 96 tokens, for 1 with 254; among the
first three for 8 against 6."""
OVERLAP_TOKENS: Final = 24
SPEED: Final = "indexing_s_a_page"
"""The catalog's key for the time that indexing took in the last run, embedding included."""
CALIBRATION: Final = "calibration"
"""The catalog's key for what the cosines of its embedder say."""
LEAST_SPREAD: Final = 0.01
SERVER: Final = "chroma_server"
"""The catalog's key for an archive's Chroma server."""
_TIMED_PAGES: Final = 8
_TIMED_PASSAGES: Final = 40


@dataclass(frozen=True)
class Calibration:
    """What an embedder's cosines say; measured with the texts of `calibration.toml`.

    Some models give any two texts 0.7, and one that knows only English gives any two texts of another language 0.4. So
    a question is compared to texts that have nothing to do with it, in the language to which it is nearest.
    """

    means: Sequence[Sequence[float]]
    """For each language the mean vector of its texts."""
    spread: float
    """The standard deviation of the cosines of texts of one language that have nothing in common."""

    @classmethod
    def of(cls, embedder: Embedder) -> Self:
        """Measure an embedder."""
        sentences = tomllib.loads(Path(__file__).with_name("calibration.toml").read_text(encoding="utf-8"))
        halves = [halves_of(language, some) for language, some in sentences.items()]
        texts = _unit_vectors(embedder.embed([text for two in halves for text in two])).reshape(len(halves), 2, -1)
        texts_of = dict(zip(sentences, texts, strict=True))
        asked = [sentence for language in _ASKED for sentence in sentences[language]]
        questions = iter(_unit_vectors(embedder.embed_queries(asked)))
        squares, count = 0.0, 0
        for language in _ASKED:
            first, second = texts_of[language]
            middle = len(sentences[language]) // 2
            apart = [float(next(questions) @ (second if n < middle else first)) for n in range(2 * middle)]
            squares += statistics.variance(apart) * (len(apart) - 1)
            count += len(apart) - 1
        return cls(texts.mean(axis=1).tolist(), max(LEAST_SPREAD, math.sqrt(squares / count)))

    def for_question(self, vector: Sequence[float]) -> Cosines:
        """Return what the cosines of one question say."""
        import numpy as np

        return Cosines(float((np.asarray(self.means) @ _unit_vectors([vector])[0]).max()), self.spread)


def halves_of(language: str, sentences: Sequence[str]) -> tuple[str, str]:
    """Return two texts of the sentences."""
    space = "" if language in {"ja", "zh"} else " "
    middle = len(sentences) // 2
    return space.join(sentences[:middle]), space.join(sentences[middle:])


def _unit_vectors(vectors: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Return vectors with length 1; one of zeros stays as it is."""
    import numpy as np

    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors) / np.where(lengths > 0, lengths, 1.0)


def make_splitter(embedder: Embedder) -> SentenceSplitter:
    """Make what cuts the text of a page into passages."""
    from llama_index.core.node_parser import SentenceSplitter  # seconds, and most runs index nothing

    size = min(CHUNK_TOKENS, embedder.max_tokens - 2)  # every text gets a start and an end in addition
    tokenizer = {} if embedder.tokenizer is None else {"tokenizer": embedder.tokenizer}
    return SentenceSplitter(chunk_size=size, chunk_overlap=min(OVERLAP_TOKENS, size // 4), **tokenizer)


def measure_embedding(embedder: Embedder | None, ledger: Ledger, contents: AbstractSet[str]) -> float | None:
    """Return how many seconds it takes to embed all of these pages, by some passages of those whose text is known.

    None: no text of them is known yet, or there is no embedder.
    """
    if embedder is None:
        return None
    texts = ledger.texts(contents, _TIMED_PAGES)
    split = make_splitter(embedder).split_text
    passages = [passage for text in texts for passage in split(text)]
    if not passages:
        return None
    timed = [passages[position] for position in spread(len(passages), _TIMED_PASSAGES)]
    started_s = time.perf_counter()
    embedder.embed(timed)
    passage_s = (time.perf_counter() - started_s) / len(timed)
    return passage_s * len(passages) / len(texts) * len(contents)


class Indexer:
    """Brings Chroma and the words to the state of the catalog's rows; the only writer of an archive.

    Chroma and the embedder take seconds to load, so they are opened when the first page needs them.

    Args:
        catalog: Holds the rows and the words.
        open_vectors: Opens Chroma and the embedder; None for an archive of words only.

    Attributes:
        failed: The errors, by page id, of pages that could not be indexed. They stay unfinished, and are found by their
            words.
    """

    def __init__(self, catalog: Catalog, open_vectors: Callable[[], tuple[Vectors, Embedder]] | None) -> None:
        self._catalog = catalog
        self._open_vectors = open_vectors
        self.failed: dict[str, UnexpectedError] = {}
        self._timed_pages, self._timed_s = 0, 0.0

    @cached_property
    def _opened(self) -> tuple[Vectors, Embedder] | None:
        return self._open_vectors() if self._open_vectors else None

    @property
    def _vectors(self) -> Vectors | None:
        return self._opened[0] if self._opened else None

    @property
    def _embedder(self) -> Embedder | None:
        return self._opened[1] if self._opened else None

    def index(self, rows: Sequence[PageRow]) -> int:
        """Index pages whose text is new or changed, in three steps between which a kill may come: see `store`.

        Returns:
            The number of pages that have text, and so can be found by it.

        Raises:
            ServerError: The embedder's server is gone. The pages stay unfinished; the next run continues.
        """
        self._each(rows, self._index)
        return sum(bool(row.parts) and row.page_id not in self.failed for row in rows)

    def _each(self, rows: Sequence[PageRow], work: Callable[[Sequence[PageRow]], None]) -> None:
        """Work on pages in batches; where one fails, on its pages one by one, to find those that are to blame."""
        for start in range(0, len(rows), BATCH_PAGES):
            some = rows[start : start + BATCH_PAGES]
            with suppress(UnexpectedError), of_one_page("indexing it with others", some[0].path):
                work(some)
                continue
            for row in some:
                self._alone(row, work)

    def _alone(self, row: PageRow, work: Callable[[Sequence[PageRow]], None]) -> None:
        place = row.path, row.page_number
        try:
            with of_one_page("indexing it", *place):
                work([row])
        except UnexpectedError as err:
            self.failed[row.page_id] = err
        if row.page_id in self.failed:
            with suppress(UnexpectedError), of_one_page("noting its error", *place):
                self._catalog.leave_unfinished(replace(row, error=str(self.failed[row.page_id])))

    def _index(self, rows: Sequence[PageRow]) -> None:
        started_s = time.perf_counter()
        self._put(rows)
        self._timed_s += time.perf_counter() - started_s
        self._timed_pages += len(rows)
        self._catalog.set_meta(SPEED, str(self._timed_s / self._timed_pages))

    def _put(self, rows: Sequence[PageRow]) -> None:
        chunks = {row.page_id: self._chunks(row) for row in rows}
        ids = {page_id: tuple(node.node_id for node in nodes) for page_id, nodes in chunks.items()}
        begun = self._catalog.begin([replace(row, node_ids=ids[row.page_id]) for row in rows])
        if self._vectors is not None:
            self._vectors.put(self._embed([node for nodes in chunks.values() for node in nodes]))
            wanted = {node_id for some_ids in ids.values() for node_id in some_ids}
            self._vectors.delete([node_id for row in begun for node_id in row.node_ids if node_id not in wanted])
        self._catalog.finish([replace(row, node_ids=ids[row.page_id]) for row in begun])

    def finish(self) -> int:
        """Complete what a killed run began; returns the number of pages that were indexed."""
        indexed = self.index(self._catalog.unfinished())
        self.remove_orphans()
        return indexed

    def rename(self, rows: Sequence[PageRow]) -> None:
        """Write new metadata of pages whose text is unchanged, without embedding anything."""
        self._each(rows, self._rename)

    def _rename(self, rows: Sequence[PageRow]) -> None:
        vectors = self._vectors  # opened before anything is written: that may fail
        begun = self._catalog.begin(rows)
        if vectors is not None:
            nodes = [node for row in begun for node in self._chunks(row)]
            vectors.put_metadata({node.node_id: _chroma_metadata(node) for node in nodes})
        self._catalog.finish(begun)

    def remove_orphans(self) -> int:
        """Remove pages of contents that no place has any more; returns their number."""
        rows = self._catalog.orphans()
        if rows:
            if self._vectors is not None:
                self._vectors.delete([node_id for row in rows for node_id in row.node_ids])
            self._catalog.remove_pages([row.page_id for row in rows])
        return len(rows)

    @cached_property
    def _splitter(self) -> SentenceSplitter:
        assert self._embedder is not None  # noqa: S101  (without one there is nothing to split for)
        return make_splitter(self._embedder)

    def _chunks(self, row: PageRow) -> list[TextNode]:
        if self._embedder is None:
            return []
        from llama_index.core.schema import NodeRelationship, RelatedNodeInfo

        nodes = []
        for part, text in row.parts.items():
            for number, chunk in enumerate(self._splitter.split_text(text)):
                node = text_node(f"{row.page_id}-{part}-{number}", chunk, {**row.metadata, "page_part": part})
                node.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id=row.page_id)
                nodes.append(node)
        return nodes

    def _embed(self, nodes: Sequence[TextNode]) -> list[Node]:
        if self._embedder is None or not nodes:
            return []
        vectors = self._embedder.embed([node.text for node in nodes])
        return [
            Node(node.node_id, node.text, _chroma_metadata(node), vector)
            for node, vector in zip(nodes, vectors, strict=True)
        ]


def _chroma_metadata(node: TextNode) -> dict[str, Any]:
    """Return a node's metadata in the format that llama-index-vector-stores-chroma reads back."""
    from llama_index.core.vector_stores.utils import node_to_metadata_dict

    return node_to_metadata_dict(node, remove_text=True, flat_metadata=True)


class VectorIndex:
    """The embedder and the vectors of one open archive; safe to use from several threads.

    A new archive gives the embedder that it has just chosen, so that it is not opened twice.
    """

    def __init__(self, folder: Path, catalog: Catalog, access: ServerAccess, embedder: Embedder | None = None) -> None:
        self._folder = folder / "chroma"
        self._catalog = catalog
        self._access = access
        self._lock = threading.RLock()
        self._embedder = embedder
        self._vectors: Vectors | None = None
        self._calibration: tuple[str, Calibration] | None = None
        self._seen_generation = -1
        self._is_writing = False

    def record(self) -> dict[str, Any]:
        """Return the recorded embedder: `kind`, and unless that is `none`, `name`, `dimension` and `max_tokens`."""
        record: dict[str, Any] = json.loads(self._catalog.meta("embedder") or record_of(None))
        return record

    def move_to(self, url: str) -> None:
        """Use a Chroma server from now on; only for the writer, which makes the vectors there if they are missing.

        Raises:
            ConfigError: As `ChromaServer.chosen`.
        """
        chosen = ChromaServer.chosen(url, self._server(), has_vectors=self.record()["kind"] != "none")
        if chosen != self._server():
            with self._lock:
                self.close()
                self._catalog.set_meta(SERVER, chosen.record())

    def _server(self) -> ChromaServer | None:
        """Return where the vectors are if not in the archive's folder."""
        return ChromaServer.from_record(self._catalog.meta(SERVER))

    def use(self, embedder: Embedder) -> None:
        """Use an embedder that is opened already: the one that is recorded."""
        self._embedder = embedder

    def embedder(self) -> Embedder | None:
        """Open the archive's embedder, once; None for an archive of words only."""
        with self._lock:
            record = self.record()
            if record["kind"] == "none":
                return None
            known = self._embedder
            if known is None or any(getattr(known, key) != record[key] for key in ("kind", "name", "dimension")):
                # Not opened yet, or another process has made the vectors anew with another embedder.
                self._embedder = None
                self._embedder = open_embedder(record, self._access)
            return self._embedder

    def calibration(self, embedder: Embedder) -> Calibration:
        """Return what the embedder's cosines say; measured once for each archive, at its first search."""
        with self._lock:
            if self._calibration is None or self._calibration[0] != embedder.name:
                known = json.loads(self._catalog.meta(CALIBRATION) or "{}")
                if known.pop("name", None) == embedder.name:
                    measured = Calibration(**known)
                else:
                    measured = Calibration.of(embedder)
                    rounded = [[round(value, 4) for value in mean] for mean in measured.means]
                    record = {"name": embedder.name, "means": rounded, "spread": measured.spread}
                    with suppress(StoreError):  # an archive that cannot be written is measured anew each time
                        self._catalog.set_meta(CALIBRATION, json.dumps(record))
                self._calibration = embedder.name, measured
            return self._calibration[1]

    def vectors(self, embedder: Embedder) -> Vectors:
        """Return the vectors as they are now: opened again if another process has written since."""
        with self._lock:
            generation = self._catalog.generation
            # While we write, the changes are our own, and the indexer holds this very collection.
            if generation != self._seen_generation and not self._is_writing:
                self.close()
            if self._vectors is None:
                self._vectors = self._open(embedder.name, embedder.dimension)
                self._seen_generation = generation
            return self._vectors

    def _open(self, embedder: str, dimension: int) -> Vectors:
        place = self._server() or self._folder
        return Vectors(place, embedder=embedder, dimension=dimension, is_read_only=self._catalog.is_read_only)

    @contextmanager
    def held(self, embedder: Embedder) -> Iterator[Vectors]:
        """Hold the vectors for one question: another thread would close them to open newer ones."""
        with self._lock:
            yield self.vectors(embedder)

    def begin_writing(self) -> Indexer:
        """Return the indexer; only for the process that holds the archive's lock, until `end_writing`."""
        if self.record()["kind"] == "none":
            return Indexer(self._catalog, None)
        with self._lock:
            if not is_settled(self._folder):
                self.close()
                settle(self._folder)
            if self._server() and self._folder.exists():
                discard(self._folder)  # from the time before the vectors were on a server
        if self._server() or not has_vectors(self._folder):
            opened = self._open_for_writing()  # now: what is lost must be made again before the run begins
            return Indexer(self._catalog, lambda: opened)
        return Indexer(self._catalog, self._open_for_writing)

    def _open_for_writing(self) -> tuple[Vectors, Embedder]:
        embedder = self.embedder()
        assert embedder is not None  # noqa: S101  (an archive of words only opens none)
        with self._lock:
            vectors = self.vectors(embedder)
            self._is_writing = True
        if vectors.renew_unless_of(embedder.name, embedder.dimension):
            # The vectors are lost, or were another embedder's: all are due again.
            self._catalog.begin([row for row in self._catalog.every_page() if row.node_ids])
        return vectors, embedder

    def end_writing(self) -> None:
        """Give the vectors back to searches."""
        with self._lock:
            if self._is_writing:
                self._seen_generation = self._catalog.generation  # our own collection has what we wrote
            self._is_writing = False

    def replace(self, embedder: Embedder | None) -> None:
        """Remove all vectors and record another embedder; only for the writer. All pages are unfinished before."""
        with self._lock:
            if self._server() and (before := self.embedder()):
                self.vectors(before).remove()
            self.close()
            self._embedder = embedder
            self._catalog.set_meta("embedder", record_of(embedder))
            discard(self._folder)

    def erase_deleted(self) -> None:
        """Write the vectors anew without what the catalog has forgotten; only for the writer. Asks no embedder.

        Nodes on a Chroma server are deleted, but not erased from the bytes of its files.
        """
        with self._lock:
            record = self.record()
            if record["kind"] == "none":
                return
            if self._server():
                self._vectors = self._vectors or self._open(record["name"], record["dimension"])
                known = {node_id for _, ids, _ in self._catalog.nodes() for node_id in ids}
                self._vectors.delete(sorted(self._vectors.ids() - known))
                return
            self.close()
            rewrite(self._folder, self._catalog, embedder=record["name"], dimension=record["dimension"])

    def close(self) -> None:
        """Release Chroma; the next use opens it again."""
        with self._lock:
            if self._vectors:
                self._vectors.close()
                self._vectors = None

    def search(self, mode: Mode, on_notice: Callable[[str], None]) -> DenseSearch | None:
        """Return the search by vectors; None where it is not wanted or, with a notice, not possible now.

        Raises:
            KoboldReaderError: It is not possible, and `mode` is dense.
        """
        if mode == "keyword":
            return None
        with _else_words_only(mode, on_notice):
            embedder = self.embedder()
            if embedder is not None:
                self.vectors(embedder)
                return _VectorSearch(self, embedder, mode, on_notice)
        return None


@contextmanager
def _else_words_only(mode: Mode, on_notice: Callable[[str], None]) -> Iterator[None]:
    """Where the vectors cannot be used, say that only words are searched; raises if `mode` is dense."""
    try:
        yield
    except KoboldReaderError as err:
        if mode == "dense":
            raise
        on_notice(f"Searching by words only: {err}")


@dataclass
class _VectorSearch:
    """One search by vectors; if they cannot be used after all, only words are searched."""

    index: VectorIndex
    embedder: Embedder
    mode: Mode
    on_notice: Callable[[str], None]
    asked: tuple[str, Sequence[float]] | None = None
    """The last query with its embedding: a search may ask twice."""

    def near(self, query: str, limit: int, node_ids: Sequence[str] | None) -> list[Near]:
        with _else_words_only(self.mode, self.on_notice):
            vector = self._vector(query)
            with self.index.held(self.embedder) as vectors:
                return vectors.query(vector, limit, node_ids)
        return []

    def _vector(self, query: str) -> Sequence[float]:
        if self.asked is None or self.asked[0] != query:
            self.asked = query, self.embedder.embed_queries([query])[0]
        return self.asked[1]

    def cosines(self, query: str) -> Cosines | None:
        with _else_words_only(self.mode, self.on_notice):
            return self.index.calibration(self.embedder).for_question(self._vector(query))
        return None

    def texts(self, node_ids: Sequence[str]) -> dict[str, str]:
        try:
            with self.index.held(self.embedder) as vectors:
                return vectors.texts(node_ids)
        except KoboldReaderError as err:  # the pages are found; their words choose the passages
            log.debug("%s", err)
            return {}
