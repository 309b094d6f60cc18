"""Reading past one machine: pages are prepared on the nodes of a Ray cluster, by an actor for each server.

The driver decides what is due, gives out one page at a time, and alone writes the ledger: what an actor knows is lost
with it and not missed. Importing this is cheap; Ray is imported when the first page is due.
"""

from __future__ import annotations

from kobold_reader.cluster.dataset import read_pages
from kobold_reader.cluster.joining import LOCAL, connect, session
from kobold_reader.cluster.page_reader import transcriber

__all__ = ["LOCAL", "connect", "read_pages", "session", "transcriber"]
