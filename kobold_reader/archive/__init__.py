"""The archive: what was read, found again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kobold_reader.lazy import lazy_names

if TYPE_CHECKING:
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

if not TYPE_CHECKING:  # else a type checker takes every name for one of these
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "archive": ("Archive", "ArchiveStatus", "Doubt"),
            "ask": ("Answer", "AnswerStream"),
            "corrections": ("Correction",),
            "duplicates": ("Alike",),
            "export": ("ExportReport", "ImportReport"),
            "search": ("Hit", "Hits"),
            "sync": ("SyncReport",),
            "tags": ("TagCount", "TagStatistics"),
        },
    )
