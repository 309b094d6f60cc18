"""What was forgotten leaves the bytes of the vectors, too.

Chroma marks a deleted node as deleted: its text stays in free pages, in the log of past writes and in the trigrams of
its SQLite file, its vector in the graph. So the nodes that stay are copied, vectors and all, into a new folder that
then takes the old one's place; nothing is embedded again (about 700 nodes a second).

`chroma.part` is being written, `chroma.new` is whole, `chroma.gone` is being removed: a kill at any instant leaves the
old folder or a whole new one, and `settle` ends what it interrupted.
"""

from __future__ import annotations

import itertools
import os
import shutil
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from kobold_reader.archive.catalog import Catalog
from kobold_reader.archive.vectors import Vectors
from kobold_reader.errors import StoreError

__all__ = ["any_left", "blank_unused", "discard", "rewrite", "settle"]

PAGES_AT_ONCE: Final = 100
_SWAP_TRIES: Final = 10
_HEADER: Final = struct.Struct("<iQQQ")
"""Begin of a graph's header: version, offset, room for so many nodes, nodes."""
_HEADER_VERSION: Final = 1
_EMPTY_ROOM: Final = 100
_ENDINGS: Final = ("new", "gone", "part")


def rewrite(folder: Path, record: Mapping[str, Any], catalog: Catalog) -> None:
    """Write Chroma's folder anew with the nodes that the catalog knows; only for the writer, with no client open.

    Args:
        folder: Chroma's.
        record: Of the embedder whose vectors they are.
        catalog: Pages whose nodes are not all there become unfinished: the next `index` makes their vectors.

    Raises:
        StoreError: The disk is full, or another process holds the folder open (Windows).
    """
    settle(folder)
    if not folder.exists():
        return
    part = _beside(folder, "part")
    old = Vectors(folder, embedder=record["name"], dimension=record["dimension"])
    try:
        if not old.is_of(record["name"], record["dimension"]):
            old.close()
            discard(folder)  # another embedder's: the next `index` makes all anew
            return
        new = Vectors(part, embedder=record["name"], dimension=record["dimension"])
        try:
            _copy(old, new, catalog)
        finally:
            new.close()
    finally:
        old.close()
    with _said(folder):
        blank_unused(part)
        _sync(part)
        part.rename(_beside(folder, "new"))
    settle(folder)


def any_left(folder: Path) -> bool:
    """Tell whether a kill left anything beside Chroma's folder."""
    return any(_beside(folder, ending).exists() for ending in _ENDINGS)


def settle(folder: Path) -> None:
    """End what a kill interrupted; only for the writer, with no client open.

    Raises:
        StoreError: Another process holds the folder open (Windows).
    """
    new, gone, part = (_beside(folder, ending) for ending in _ENDINGS)
    with _said(folder):
        for _ in range(_SWAP_TRIES if new.exists() else 0):
            _remove(folder)
            try:
                new.rename(folder)
                break
            except OSError:
                # A search that opens the archive at this very instant makes an empty folder there.
                if not folder.exists():
                    raise
        for left in (gone, part):
            if left.exists():
                shutil.rmtree(left)


def discard(folder: Path) -> None:
    """Remove Chroma's folder with all that may lie beside it."""
    with _said(folder):
        for left in (_beside(folder, "new"), _beside(folder, "part")):
            if left.exists():
                shutil.rmtree(left)
        _remove(folder)


def _remove(folder: Path) -> None:
    """Remove Chroma's folder in one step: half of one would not open again."""
    gone = _beside(folder, "gone")
    if gone.exists():
        shutil.rmtree(gone)
    if folder.exists():
        folder.rename(gone)
        shutil.rmtree(gone)


def _copy(old: Vectors, new: Vectors, catalog: Catalog) -> None:
    lost: list[str] = []
    pages = iter(catalog.nodes())
    while some := list(itertools.islice(pages, PAGES_AT_ONCE)):
        there = new.copy(old, [node_id for _, ids, _ in some for node_id in ids])
        lost += [page_id for page_id, ids, is_finished in some if is_finished and not there.issuperset(ids)]
    for start in range(0, len(lost), PAGES_AT_ONCE):
        catalog.begin(catalog.pages(lost[start : start + PAGES_AT_ONCE]))


def blank_unused(folder: Path) -> None:
    """Write zeros where Chroma wrote memory that it had never used; only under the archive's lock.

    Chroma (1.5.9) saves a graph that has no nodes yet, when it is made and at the first use by each client, with
    whatever lay in memory at that place: texts of pages, forgotten ones too, or a password.
    """
    for header in folder.glob("*/header.bin"):
        start = header.read_bytes()[: _HEADER.size]
        if len(start) == _HEADER.size and _HEADER.unpack(start) == (_HEADER_VERSION, 0, _EMPTY_ROOM, 0):
            for name in ("data_level0.bin", "length.bin"):
                path = header.with_name(name)
                if path.is_file() and any(path.read_bytes()):
                    path.write_bytes(bytes(path.stat().st_size))


def _sync(folder: Path) -> None:
    """Have everything on the disk before the old folder goes."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())


def _beside(folder: Path, ending: str) -> Path:
    return folder.with_name(f"{folder.name}.{ending}")


@contextmanager
def _said(folder: Path) -> Iterator[None]:
    """Turn the system's errors into sentences."""
    try:
        yield
    except OSError as err:
        msg = f"the vectors in {folder} cannot be written anew: {err}."
        hint = "End what else uses the archive, make room on the disk, and repeat; nothing is lost."
        raise StoreError(msg, hint=hint) from err
