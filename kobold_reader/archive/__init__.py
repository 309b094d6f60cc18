"""The archive: what was read, found again."""

from kobold_reader.archive.archive import Archive, ArchiveStatus, Doubt
from kobold_reader.archive.ask import Answer, AnswerStream
from kobold_reader.archive.corrections import Correction
from kobold_reader.archive.duplicates import Alike
from kobold_reader.archive.export import ExportReport, ImportReport
from kobold_reader.archive.search import Hit, Hits
from kobold_reader.archive.sync import SyncReport
from kobold_reader.archive.tags import TagCount, TagStatistics

__all__ = [
    "Alike",
    "Answer",
    "AnswerStream",
    "Archive",
    "ArchiveStatus",
    "Correction",
    "Doubt",
    "ExportReport",
    "Hit",
    "Hits",
    "ImportReport",
    "SyncReport",
    "TagCount",
    "TagStatistics",
]
