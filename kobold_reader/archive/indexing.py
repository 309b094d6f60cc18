"""How one page gets into the indexes, so that a kill between any two steps leaves it completable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.utils import node_to_metadata_dict

from kobold_reader.archive.catalog import FILE_KEYS, Catalog, PageRow
from kobold_reader.archive.embedder import Embedder
from kobold_reader.archive.vectors import Node, Vectors
from kobold_reader.documents import EMBED_KEYS, LLM_KEYS

__all__ = ["Indexer"]

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
