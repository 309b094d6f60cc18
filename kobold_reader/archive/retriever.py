"""The archive as a LlamaIndex retriever."""

from __future__ import annotations

from collections.abc import Callable

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from typing_extensions import override

from kobold_reader.archive.search import Hit
from kobold_reader.documents import EMBED_KEYS, LLM_KEYS

__all__ = ["ArchiveRetriever"]


class ArchiveRetriever(BaseRetriever):
    """Retrieves whole pages by hybrid search; a node's text is all of the page's text.

    Args:
        search: From a query to pages, best first; its archive stays open as long as the retriever is used.
    """

    def __init__(self, search: Callable[[str], list[Hit]]) -> None:
        super().__init__()
        self._search = search

    @override
    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        hits = self._search(query_bundle.query_str)
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
