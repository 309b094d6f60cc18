"""The archive as a LlamaIndex retriever."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from typing_extensions import override

from kobold_reader.archive.search import Hit, Mode
from kobold_reader.documents import EMBED_KEYS, LLM_KEYS

if TYPE_CHECKING:
    from kobold_reader.archive.archive import Archive

__all__ = ["ArchiveRetriever"]


class ArchiveRetriever(BaseRetriever):
    """Retrieves whole pages by hybrid search; a node's text is all of the page's text.

    Args:
        archive: Stays open as long as the retriever is used.
        limit: At most so many pages.
        mode: As in `Archive.search`.
        where: As in `Archive.search`.
    """

    def __init__(self, archive: Archive, *, limit: int, mode: Mode, where: Sequence[str]) -> None:
        super().__init__()
        self._archive = archive
        self._limit = limit
        self._mode: Mode = mode
        self._where = where

    @override
    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        hits = self._archive.search(query_bundle.query_str, limit=self._limit, mode=self._mode, where=self._where)
        return [NodeWithScore(node=_node(hit), score=hit.score) for hit in hits if hit.page_text]


def _node(hit: Hit) -> TextNode:
    metadata = {**hit.metadata, "link": hit.link, "passage": hit.text}
    return TextNode(
        id_=hit.page_id,
        text=hit.page_text,
        metadata=metadata,
        excluded_embed_metadata_keys=sorted(key for key in metadata if key not in EMBED_KEYS),
        excluded_llm_metadata_keys=sorted(key for key in metadata if key not in LLM_KEYS),
    )
