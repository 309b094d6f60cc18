"""One file to read, and the one place where URIs are made.

Ids, the ledger and the archive all hang on a file's URI, so one file has one URI however it was
reached.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final, TypeAlias

from kobold_reader.errors import CorruptSourceError
from kobold_reader.pages.values import Kind

__all__ = [
    "FS_ERRORS",
    "FileSystem",
    "SourceFile",
    "local_file",
    "local_uri",
    "remote_file",
    "remote_uri",
    "sha256_of",
    "without_login",
]

FileSystem: TypeAlias = Any
"""An `fsspec.AbstractFileSystem`; fsspec is not needed unless one is given."""

_CHUNK_BYTES: Final = 4 * 1024 * 1024

FS_ERRORS: Final = (OSError, ValueError, RuntimeError, EOFError, NotImplementedError)
"""What filesystems raise; the remote ones are not strict about OSError."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file that is taken.

    Attributes:
        uri: `file:///…` or `protocol://…`; the same however the file was reached.
        path: Local path, or the path inside its filesystem.
        name: File name.
        folder: Its folder, for people.
        size_bytes: Size.
        mtime_ns: Last change; 0 where the filesystem does not say.
        birth_date: `YYYY-MM-DD`, only from a real time of birth.
        modified_date: `YYYY-MM-DD`.
        kind: By the first bytes; by the ending where these tell nothing.
        named_by_hand: The path itself was named, not found in a folder or by a pattern.
    """

    uri: str
    path: str
    name: str
    folder: str
    size_bytes: int
    mtime_ns: int
    birth_date: str | None
    modified_date: str | None
    kind: Kind
    named_by_hand: bool
    filesystem: FileSystem | None = field(default=None, repr=False, compare=False)

    @contextlib.contextmanager
    def opened_path(self) -> Iterator[str]:
        """A local path to the file; one elsewhere is copied to a temporary file for that long.

        Raises:
            CorruptSourceError: It cannot be copied here.
        """
        if self.filesystem is None:
            yield self.path
            return
        handle, name = tempfile.mkstemp(prefix="kobold-reader-", suffix=PurePosixPath(self.name).suffix)
        try:
            try:
                with (
                    os.fdopen(handle, "wb") as target,
                    self.filesystem.open(self.path, "rb") as stream,
                ):
                    shutil.copyfileobj(stream, target, _CHUNK_BYTES)
            except FS_ERRORS as error:
                raise CorruptSourceError(f"The file cannot be fetched ({error}).", source=self.uri) from error
            yield name
        finally:
            with contextlib.suppress(OSError):
                Path(name).unlink()


def local_file(path: Path, uri: str, state: os.stat_result, *, named: bool) -> SourceFile:
    """A file of this machine, its kind not told yet."""
    place = Path(os.path.normpath(path.absolute()))
    birth = getattr(state, "st_birthtime", None)
    return SourceFile(
        uri=uri,
        path=str(place),
        name=place.name,
        folder=str(place.parent),
        size_bytes=state.st_size,
        mtime_ns=state.st_mtime_ns,
        birth_date=day_of(birth) if birth else None,
        modified_date=day_of(state.st_mtime),
        kind="",
        named_by_hand=named,
    )


def remote_file(fs: FileSystem, path: str, uri: str, info: Mapping[str, Any], *, named: bool) -> SourceFile:
    """A file in another filesystem, its kind not told yet."""
    pure = PurePosixPath(path)
    changed = moment_of(info)
    return SourceFile(
        uri=uri,
        path=path,
        name=pure.name,
        folder=str(pure.parent),
        size_bytes=int(info.get("size") or 0),
        mtime_ns=round(changed * 1_000_000) * 1_000 if changed else 0,
        birth_date=None,
        modified_date=day_of(changed) if changed else None,
        kind="",
        named_by_hand=named,
        filesystem=fs,
    )


def sha256_of(source: SourceFile) -> str:
    """Checksum of the whole file, in lower-case hex.

    Raises:
        CorruptSourceError: The file cannot be read.
    """
    digest = hashlib.sha256()
    fs = source.filesystem
    try:
        with Path(source.path).open("rb") if fs is None else fs.open(source.path, "rb") as stream:
            while piece := stream.read(_CHUNK_BYTES):
                digest.update(piece)
    except FS_ERRORS as error:
        raise CorruptSourceError(f"The file cannot be read ({error}).", source=source.uri) from error
    return digest.hexdigest()


def local_uri(path: str | Path) -> str:
    """The URI of a local path: absolute, `.` and `..` taken out, its folder's links followed.

    The file's own name is kept even where it is a link: two names are two files to a person.
    """
    absolute = Path(os.path.normpath(Path(path).absolute()))
    with contextlib.suppress(OSError, RuntimeError):
        absolute = absolute.parent.resolve() / absolute.name if absolute.name else absolute
    return absolute.as_uri()


def remote_uri(fs: FileSystem, path: str) -> str:
    """The URI of a path in another filesystem, without the login that may lie in it."""
    return without_login(str(fs.unstrip_protocol(path)))


def without_login(url: str) -> str:
    """A URL without user name and password: URIs are shown, stored and sent to models."""
    return re.sub(r"(?<=://)[^/@]*@", "", url)


def day_of(timestamp: float) -> str:
    """The day of a moment in seconds since 1970, where this machine stands."""
    return dt.datetime.fromtimestamp(timestamp, tz=dt.UTC).astimezone().strftime("%Y-%m-%d")


def moment_of(info: Mapping[str, Any]) -> float | None:
    """Seconds since 1970 of the last change: every filesystem has its own name for it."""
    for key in ("mtime", "LastModified", "last_modified", "updated", "modified"):
        value = info.get(key)
        if isinstance(value, dt.datetime):
            return value.timestamp()
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                return dt.datetime.fromisoformat(value).timestamp()
    return None
