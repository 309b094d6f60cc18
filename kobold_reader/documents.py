"""PageResult → LlamaIndex Documents: text, deterministic ids, flat metadata.

Metadata is flat, scalar and reproducible (no timings, no server address): LlamaIndex hashes all of it to see whether a
document changed, and Chroma takes nothing else. Long text never goes into it: splitters count metadata against the
chunk size.
"""

from __future__ import annotations

import functools
import mimetypes
import uuid
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from kobold_reader.errors import KoboldReaderError
from kobold_reader.options import TASKS
from kobold_reader.pages import Scalar, as_uri, storable
from kobold_reader.reading.results import EMPTY_STATUSES, PageResult

if TYPE_CHECKING:
    from llama_index.core.schema import Document, TextNode

EMBED_KEYS: Final = frozenset({"title"})
"""Metadata that embedders see; a renamed file must not change what is embedded."""
LLM_KEYS: Final = frozenset(
    "file_name folder page_label title author date_taken camera keywords page_status".split()  # noqa: SIM905
)
"""Metadata that LLMs see."""

_FILE_TYPES: Final = {  # the other kinds have several: the name's suffix decides
    "pdf": "application/pdf",
    "epub": "application/epub+zip",
    "xps": "application/oxps",
    "cbz": "application/vnd.comicbook+zip",
    "heic": "image/heic",
    "avif": "image/avif",
    "raw": "image/x-raw",
}


def page_id(file_sha256: str, page_number: int) -> str:
    """Return the id of a page's content: equal for all copies of the file."""
    return f"{file_sha256[:32]}-{page_number}"


def page_link(uri: str, file_type: str, page_number: int) -> str:
    """Return a link that opens the file, a PDF at the page."""
    return f"{uri}#page={page_number}" if file_type == "application/pdf" else uri


@functools.lru_cache
def _folder_name(folder: str) -> str:
    return PurePosixPath(folder.replace("\\", "/")).name or folder


def to_metadata(result: PageResult, part: str = "page") -> dict[str, Scalar]:
    """Return the metadata of a page (`part`: page, ocr, caption or tags); unknown keys are left out."""
    source, attached = result.source, result.metadata.get("attachment")
    metadata: dict[str, Any] = {
        "file_name": f"{source.name}!{attached}" if attached else source.name,
        "file_path": source.path,
        "file_type": _FILE_TYPES.get(source.kind) or mimetypes.guess_type(source.name)[0] or f"{source.kind}/unknown",
        "file_size": source.size_bytes,
        "creation_date": source.birth_date,
        "last_modified_date": source.modified_date,
        "folder": _folder_name(source.folder),
        "file_sha256": result.file_sha256 or None,
        "page_number": result.page_number,
        "page_label": result.page_label,
        "total_pages": result.total_pages,
        "page_id": page_id(result.file_sha256, result.page_number) if result.file_sha256 else None,
        "page_part": part,
        "page_status": result.status,
        **{key: value for key, value in result.metadata.items() if not key.startswith("_")},
    }
    # What a program wrote into file and sidecar alike is of the file.
    is_of_file = metadata.get("keywords") == result.beside.get("keywords")
    metadata |= {key: value for key, value in result.beside.items() if not (is_of_file and key == "keywords_source")}
    if metadata.get("description") == metadata.get("title"):
        metadata.pop("description", None)
    readings = [result.readings[task] for task in result.tasks if task in result.readings and part in {"page", task}]
    if readings and readings[0].task == "ocr" and readings[0].status not in EMPTY_STATUSES:
        metadata["text_source"] = "text_layer" if readings[0].status == "text_layer" else "ocr"
    if "keywords" not in metadata and "tags" in result.readings:
        from kobold_reader.reading.tags import keywords_of

        # Keywords that people wrote are not mixed with the model's, which are found in the text.
        metadata["keywords"] = ", ".join(keywords_of(result.readings["tags"].text)) or None
        metadata["keywords_source"] = "model" if metadata["keywords"] else None
    metadata["model"] = next((reading.model for reading in readings if reading.model), None)
    metadata["confidence"] = next((reading.confidence for reading in readings if reading.confidence is not None), None)
    spoken = next((reading.witness for reading in readings if reading.witness), {})
    metadata["witness_agreement"] = spoken.get("agreement")
    metadata["rotation_deg"] = next((reading.rotation_deg for reading in readings if reading.rotation_deg), None)
    # Only where it is so: nearly all servers prove it, and then the key says nothing.
    metadata["image_verified"] = False if any(reading.image_verified is False for reading in readings) else None
    metadata["failed_tasks"] = ",".join(result.failed_tasks) or None
    return {key: value for key, value in metadata.items() if value is not None}


def to_documents(
    result: PageResult,
    *,
    split: bool = False,
    include_empty: bool = False,
    mark_failed: bool = False,
    extra_info: Mapping[str, Any] | None = None,
) -> list[Document]:
    """Return the Documents of one page: one, with `split` one for each part that has text, or none.

    Args:
        result: The page.
        split: Make Documents of transcription, caption and tags, all with the same `page_id`.
        include_empty: Make Documents of blank pages and pages without lettering too (LlamaIndex embeds empty nodes).
        mark_failed: Make an empty Document with `page_status="failed"` and `page_error` of a failed page.
        extra_info: The caller's metadata; it overrides no key of kobold-reader.
    """
    place = result.source.uri, result.page_number
    if result.status == "failed":
        metadata = {**to_metadata(result), "page_error": str(result.error)}
        return [_document(*place, "page", "", metadata, extra_info)] if mark_failed else []
    texts = {"page": result.text}
    if split:
        texts = {task: result.readings[task].text for task in TASKS if task in result.readings}
    documents = [
        _document(*place, part, text, to_metadata(result, part), extra_info) for part, text in texts.items() if text
    ]
    if not documents and include_empty:
        documents = [_document(*place, "page", "", to_metadata(result), extra_info)]
    return documents


def failed_document(error: KoboldReaderError, extra_info: Mapping[str, Any] | None = None) -> Document:
    """Return the Document that marks a path that cannot be opened: it is missing, or a folder without permission."""
    place = error.source or ""
    metadata = {
        "file_name": PurePosixPath(place.replace("\\", "/")).name,
        "file_path": place,
        "page_number": 0,
        "total_pages": 0,
        "page_part": "page",
        "page_status": "failed",
        "page_error": str(error),
    }
    return _document(as_uri(place), 0, "page", "", metadata, extra_info)


def _document(
    uri: str, page_number: int, part: str, text: str, metadata: Mapping[str, Any], extra_info: Mapping[str, Any] | None
) -> Document:
    from llama_index.core.schema import Document  # takes seconds; commands that make no Document do without

    given = {key: storable(value) if isinstance(value, str) else value for key, value in (extra_info or {}).items()}
    merged = {**given, **metadata}
    # By place, not by content: LlamaIndex's docstore then sees a re-scanned file as a changed
    # document, and copies never collide.
    name = f"{uri}#page={page_number}&part={part}"
    return Document(
        id_=str(uuid.uuid5(uuid.NAMESPACE_URL, name)),
        text=text,
        metadata=merged,
        excluded_embed_metadata_keys=sorted(key for key in merged if key not in EMBED_KEYS),
        excluded_llm_metadata_keys=sorted(key for key in metadata if key not in LLM_KEYS),
    )


def text_node(node_id: str, text: str, metadata: dict[str, Any]) -> TextNode:
    """Return a node of which embedders and models are given the same metadata as of a Document."""
    from llama_index.core.schema import TextNode

    return TextNode(
        id_=node_id,
        text=text,
        metadata=metadata,
        excluded_embed_metadata_keys=sorted(metadata.keys() - EMBED_KEYS),
        excluded_llm_metadata_keys=sorted(metadata.keys() - LLM_KEYS),
    )
