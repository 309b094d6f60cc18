"""Reading past one machine: files are opened and pages prepared on the nodes of a Ray cluster.

    driver: what is missing?  →  units of pages  →  Ray Data: an actor for each server  →  driver: ledger, page order

Only the driver writes the ledger, as every page comes in; what the actors know is lost with them and missed by nobody.
Importing this is cheap: Ray is imported when it is needed.
"""

from __future__ import annotations

from kobold_reader.cluster.dataset import read_pages
from kobold_reader.cluster.driver import ClusterTranscriber, transcriber
from kobold_reader.cluster.session import connect, session

__all__ = ["ClusterTranscriber", "connect", "read_pages", "session", "transcriber"]
