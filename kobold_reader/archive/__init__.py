"""The archive: what was read, found again."""

from kobold_reader.archive.archive import Archive, ArchiveStatus
from kobold_reader.archive.corrections import Correction
from kobold_reader.archive.search import Hit
from kobold_reader.archive.sync import SyncReport

__all__ = ["Archive", "ArchiveStatus", "Correction", "Hit", "SyncReport"]
