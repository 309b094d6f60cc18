"""From what a person names (file, folder, glob, fsspec URL) to the files that are taken."""

from __future__ import annotations

import glob
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeAlias

from kobold_reader.errors import SourceError, SourceNotFoundError, UnsupportedSourceError
from kobold_reader.pages.kinds import HEAD_BYTES, TAKEN, extra_hint, kind_of, missing_extra
from kobold_reader.pages.source_file import (
    FS_ERRORS,
    FileSystem,
    SourceFile,
    local_file,
    local_uri,
    remote_file,
    remote_uri,
    sha256_of,
    without_login,
)
from kobold_reader.pages.values import Kind

__all__ = ["KnownKind", "Selection", "SourceFile", "local_uri", "natural_key", "select", "sha256_of"]


_NOT_COUNTED: Final = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini"})
_CAMERA_JPEGS: Final = (".jpg", ".jpeg", ".heic", ".heif", ".hif")
_NEEDS_EXTRA: Final = "Files of this kind need an optional part that is not installed."


KnownKind: TypeAlias = Callable[[SourceFile], Kind | None]
"""Tells the kind of a file from what is known of its URI, size and time of change; None: it must be looked into."""


@dataclass(frozen=True)
class Selection:
    """What was found.

    Attributes:
        files: In natural order within each path given (IMG_2 before IMG_10), each file once.
        skipped: Files not taken, by lower-case ending; "" for none. Hidden ones are not counted. A
            camera's raw file whose JPEG is taken is counted apart (`.cr2 beside its .jpg`), and so
            is what its ending hides (`.jpg holding heic`); `extra_hint` says what would take it.
        errors: What could not be looked at, and what was named by hand and is not taken.
        roots: URIs of the folders given.
    """

    files: tuple[SourceFile, ...]
    skipped: Mapping[str, int]
    errors: tuple[SourceError, ...]
    roots: tuple[str, ...]


def select(
    paths: Iterable[str | Path] | str | Path,
    *,
    fs: FileSystem | None = None,
    recursive: bool = True,
    known: KnownKind | None = None,
) -> Selection:
    """Find the files to read. None is opened beyond its first kilobyte.

    Args:
        paths: Files, folders, patterns (`scans/**/*.pdf`) or URLs (`s3://bucket/scans`).
        fs: Filesystem that the paths lie in, instead of the local one.
        recursive: Look into folders inside folders.
        known: Tells the kind of a file that was read before and did not change since: it is not opened at all.
    """
    finder = _Finder(recursive=recursive, known=known)
    for path in [paths] if isinstance(paths, (str, Path)) else paths:
        finder.add(path, fs)
    finder.settle()
    return Selection(
        tuple(finder.files.values()),
        dict(sorted(finder.skipped.items())),
        tuple(finder.errors),
        tuple(dict.fromkeys(finder.roots)),
    )


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sorts IMG_2 before IMG_10, and capitals among small letters."""
    parts = re.findall(r"[0-9]+|[^0-9]+", text)
    folded = tuple((0, int(part), "") if part.isdigit() else (1, 0, part.casefold()) for part in parts)
    return (*folded, (2, 0, text))


class _Finder:
    """Collects files; one method a kind of place."""

    def __init__(self, *, recursive: bool, known: KnownKind | None) -> None:
        self._known = known
        self.files: dict[str, SourceFile] = {}
        self.skipped: Counter[str] = Counter()
        self.errors: list[SourceError] = []
        self.roots: list[str] = []
        self._seen: set[str] = set()
        self._recursive = recursive

    def add(self, path: str | Path, fs: FileSystem | None) -> None:
        text = str(path)
        if fs is not None and not _is_local(fs):
            self._add_remote(text, fs)
        elif isinstance(path, str) and (match := re.match(r"([a-z][a-z0-9+.\-]+)(://|::)", text)):
            self._add_url(text, match[1])
        else:
            self._add_local(Path(text).expanduser() if text.startswith("~") else Path(text))

    # ── this machine ──────────────────────────────────────────────────────────────────────────

    def _add_local(self, path: Path) -> None:
        try:
            if path.is_dir():
                root = Path(os.path.normpath(path.absolute())).resolve()
                self.roots.append(local_uri(root))
                self._walk(root, root)
            elif path.exists():
                self._take_local(path, named=True)
            elif path.is_symlink():
                self._fail(SourceNotFoundError("The link leads nowhere.", source=local_uri(path)))
            else:
                self._add_pattern(path)
        except (OSError, ValueError) as error:
            self._fail(SourceError(f"The path cannot be looked at ({error}).", source=str(path)))

    def _add_pattern(self, path: Path) -> None:
        found: list[str] = []
        if glob.has_magic(str(path)):
            found = sorted(glob.iglob(str(path), recursive=True), key=natural_key)  # noqa: PTH207 - Path.glob takes no absolute pattern
        if not found:
            hint = "No file matches the pattern." if glob.has_magic(str(path)) else None
            self._fail(SourceNotFoundError("There is no such file or folder.", source=local_uri(path), hint=hint))
        for name in found:
            if Path(name).is_dir():
                if "**" not in path.parts:  # `**` has listed what lies inside
                    root = Path(name).resolve()
                    self._walk(root, root)
            elif not _is_hidden(Path(name).name):
                self._take_local(Path(name), named=False)

    def _walk(self, folder: Path, root: Path) -> None:
        try:
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: natural_key(entry.name))
        except OSError as error:
            reason = error.strerror or str(error)
            self._fail(SourceError(f"The folder cannot be read ({reason}).", source=local_uri(folder)))
            return
        folders = []
        for entry in entries:
            if _is_hidden(entry.name):
                continue
            path = Path(entry.path)
            if entry.is_symlink() and not _stays_inside(path, root):
                continue
            if entry.is_dir():
                # A link to a folder inside the root shows files that are found there anyway.
                if not entry.is_symlink():
                    folders.append(path)
            elif entry.is_file():
                self._take_local(path, named=False)
        if self._recursive:
            for path in folders:
                self._walk(path, root)

    def _take_local(self, path: Path, *, named: bool) -> None:
        uri = local_uri(path)
        if uri in self._seen:
            return
        self._seen.add(uri)
        try:
            state = path.stat()
            if not stat.S_ISREG(state.st_mode):
                raise UnsupportedSourceError("It is neither a file nor a folder.", source=uri)
            found = local_file(path, uri, state, named=named)
            kind = self._known(found) if self._known else None
            if kind is None:
                with path.open("rb") as stream:
                    kind = kind_of(stream.read(HEAD_BYTES), path.name)
        except SourceError as error:
            self._fail(error)
            return
        except OSError as error:
            reason = error.strerror or str(error)
            if named or kind_of(b"", path.name):
                self._fail(SourceError(f"The file cannot be read ({reason}).", source=uri))
            else:
                self.skipped[path.suffix.lower()] += 1
            return
        self._take(kind, found)

    # ── other filesystems ─────────────────────────────────────────────────────────────────────

    def _add_url(self, url: str, protocol: str) -> None:
        if protocol == "file":
            from urllib.parse import urlsplit
            from urllib.request import url2pathname

            self._add_local(Path(url2pathname(urlsplit(url).path)))
            return
        try:
            import fsspec

            fs, path = fsspec.core.url_to_fs(url)
        except ImportError as error:
            # Either fsspec itself, or what it needs for this protocol.
            self._fail(SourceError(f"{protocol}:// cannot be read: {error}.", source=without_login(url)))
            return
        except FS_ERRORS as error:
            self._fail(SourceError(f"The URL cannot be used ({error}).", source=without_login(url)))
            return
        self._add_remote(path, fs)

    def _add_remote(self, path: str, fs: FileSystem) -> None:
        uri = remote_uri(fs, path)
        try:
            if fs.isdir(path):
                self.roots.append(uri)
                depth = None if self._recursive else 1
                found = fs.find(path, maxdepth=depth, detail=True)
                root = str(fs._strip_protocol(path)).rstrip("/")  # noqa: SLF001 - fsspec's own idiom
                self._take_all(found, fs, root)
            elif fs.exists(path):
                self._take_remote(fs, fs.info(path), named=True)
            elif glob.has_magic(path) and (found := fs.glob(path, detail=True)):
                self._take_all({k: v for k, v in found.items() if v.get("type") != "directory"}, fs, "")
            else:
                self._fail(SourceNotFoundError("There is no such file or folder.", source=uri))
        except FS_ERRORS as error:
            self._fail(SourceError(f"The path cannot be looked at ({error}).", source=uri))

    def _take_all(self, found: Mapping[str, Mapping[str, Any]], fs: FileSystem, root: str) -> None:
        for name in sorted(found, key=natural_key):
            inside = str(name).removeprefix(root).strip("/").split("/")
            if not any(_is_hidden(part) for part in (inside if root else inside[-1:])):
                self._take_remote(fs, found[name], named=False)

    def _take_remote(self, fs: FileSystem, info: Mapping[str, Any], *, named: bool) -> None:
        path = str(info["name"])
        uri = remote_uri(fs, path)
        if uri in self._seen:
            return
        self._seen.add(uri)
        found = remote_file(fs, path, uri, info, named=named)
        try:
            kind = self._known(found) if self._known else None
            if kind is None:
                with fs.open(path, "rb") as stream:
                    kind = kind_of(stream.read(HEAD_BYTES), found.name)
        except FS_ERRORS as error:
            self._fail(SourceError(f"The file cannot be read ({error}).", source=uri))
            return
        self._take(kind, found)

    # ── both ──────────────────────────────────────────────────────────────────────────────────

    def _take(self, kind: Kind | None, found: SourceFile) -> None:
        if kind is not None:
            self.files[found.uri] = replace(found, kind=kind)
        elif found.named_by_hand:
            self._fail(UnsupportedSourceError("Files of this kind are not taken.", source=found.uri, hint=TAKEN))
        else:
            self.skipped[Path(found.name).suffix.lower()] += 1

    def settle(self) -> None:
        """Let go of what needs an extra that is missing, and of raw files whose JPEG is taken."""
        for file in list(self.files.values()):
            extra = missing_extra(file.kind)
            ending = Path(file.name).suffix.lower()
            if file.kind == "raw" and not file.named_by_hand and (twin := self._twin_of(file)):
                del self.files[file.uri]
                self.skipped[f"{ending} beside its {twin}"] += 1
            elif extra is not None:
                del self.files[file.uri]
                if file.named_by_hand:
                    hint = f'Install what opens it: pip install "kobold-reader[{extra}]"'
                    self._fail(UnsupportedSourceError(_NEEDS_EXTRA, source=file.uri, hint=hint))
                else:
                    self.skipped[ending if extra_hint(ending) else f"{ending} holding {file.kind}"] += 1

    def _twin_of(self, raw: SourceFile) -> str:
        """The ending of the picture that the camera wrote beside a raw file; "" where none is taken."""
        stem = raw.uri.rpartition(".")[0]
        for ending in _CAMERA_JPEGS:
            for written in (ending, ending.upper()):
                file = self.files.get(stem + written)
                if file is not None and file.kind != "raw" and missing_extra(file.kind) is None:
                    return ending
        return ""

    def _fail(self, error: SourceError) -> None:
        self.errors.append(error)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _NOT_COUNTED


def _stays_inside(link: Path, root: Path) -> bool:
    try:
        return link.resolve(strict=True).is_relative_to(root)
    except (OSError, RuntimeError):
        return False


def _is_local(fs: FileSystem) -> bool:
    protocol = getattr(fs, "protocol", "")
    names = (protocol,) if isinstance(protocol, str) else tuple(protocol)
    return "file" in names or "local" in names
