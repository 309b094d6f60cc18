"""Write nodes into a new Chroma folder, in a process of its own.

Chroma 1.5.9 saves the unused part of its graph as it finds it in memory. This process never has any text in its memory
but that of the nodes it writes, so nothing else can get into the folder. It imports nothing of kobold_reader.

On stdin, JSON in lines: first {"folder", "name", "metadata"}, then batches as `Collection.upsert` takes them.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def main() -> None:
    """Write everything that comes on stdin."""
    # Chroma imports jsonschema, which compiles a grammar with this where Jupyter brought it: two seconds for nothing.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    import chromadb
    from chromadb.config import Settings

    made: dict[str, Any] = json.loads(sys.stdin.readline())
    client = chromadb.PersistentClient(made["folder"], Settings(anonymized_telemetry=False))
    collection = client.create_collection(made["name"], metadata=made["metadata"], embedding_function=None)
    for line in sys.stdin:
        collection.upsert(**json.loads(line))


if __name__ == "__main__":
    main()
