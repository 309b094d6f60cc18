"""Finds the files to read in files, folders, patterns and fsspec URLs, and tells what kind each is by its first bytes.

Ids, the ledger and the archive all depend on a file's URI, so a file has one URI however it was reached.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import glob
import importlib.util
import os
import re
import shutil
import stat
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath, PurePosixPath
from typing import IO, Any, TypeAlias

from kobold_reader.errors import (
    ConfigError,
    CorruptSourceError,
    SourceError,
    SourceNotFoundError,
    UnsupportedSourceError,
    reason,
)
from kobold_reader.pages.names import is_text, local_path, openable, shown, storable, uri_of
from kobold_reader.pages.sidecars import CAMERA_JPEGS, PHOTO_KINDS, SidecarFile, SidecarFinder
from kobold_reader.pages.values import Kind

FileSystem: TypeAlias = Any
"""An `fsspec.AbstractFileSystem`; fsspec is not needed unless one is given."""

_FS_ERRORS = (OSError, ValueError, RuntimeError, EOFError, NotImplementedError)
"""What filesystems raise; the remote ones are not strict about OSError."""


# ── kinds of files ───────────────────────────────────────────────────────────────────────────────

HEAD_BYTES = 1024
"""How much of a file `kind_of` looks at."""
TAKEN = "PDF, JPEG, PNG, TIFF, WebP, BMP, GIF, JPEG 2000, AVIF, HEIC, camera RAW, CBZ, EPUB and XPS"
"""The kinds that are taken, for people."""

ENDINGS: Mapping[Kind, str] = {
    "pdf": ".pdf",
    "epub": ".epub",
    "xps": ".xps .oxps",
    "cbz": ".cbz",
    "heic": ".heic .heif .hif",
    "avif": ".avif",
    "image": ".jpg .jpeg .jpe .jfif .png .tif .tiff .webp .bmp .gif .jp2 .j2k .jpx",
    "raw": ".3fr .arw .cr2 .cr3 .dcr .dng .erf .iiq .kdc .mef .mos"
    " .nef .nrw .orf .pef .raf .raw .rw2 .sr2 .srf .srw .x3f",
}
_KINDS_BY_ENDING = {ending: kind for kind, endings in ENDINGS.items() for ending in endings.split()}
TIFF_STARTS = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_IMAGE_STARTS = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a"),
    *(b"\x00\x00\x00\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),  # JPEG 2000: in boxes, and bare
)
_RAW_STARTS = (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\x00", b"FOVb", b"\x00MRM")
_HEIC_BRANDS = frozenset(b"heic heix heim heis hevc hevx hevm hevs".split())
_ZIP = b"PK\x03\x04"
ATTACHED = " attached to a PDF"
"""So ends the key in `skipped` of a file that is attached to another."""
_EXTRAS = {"heic": "heic", "avif": "heic", "raw": "raw"}


def kind_of(head: bytes, name: str) -> Kind | None:
    """The kind of a file by its first bytes, or by its ending where they tell nothing; None: it is not taken."""
    by_ending = _KINDS_BY_ENDING.get(PurePath(name).suffix.lower())
    # The PDF standard allows a kilobyte of other bytes before the header.
    if b"%PDF-" in head and not head.startswith(_ZIP):
        return "pdf"
    if head.startswith(_RAW_STARTS) or head[8:10] == b"CR":
        return "raw"
    if head.startswith(TIFF_STARTS):
        # Many cameras' raw files are TIFFs, in which Pillow would find only the thumbnail.
        return "raw" if by_ending == "raw" else "image"
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    is_bmp = head[:2] == b"BM" and head[6:10] == bytes(4)
    if head.startswith(_IMAGE_STARTS) or is_webp or is_bmp:
        return "image"
    if head[4:8] == b"ftyp":
        return _kind_of_boxes(head)
    if head.startswith(_ZIP):
        # An EPUB names itself in its first entry; no other ZIP does.
        if b"mimetypeapplication/epub+zip" in head:
            return "epub"
        if b"FixedDocSeq.fdseq" in head or b"FixedDocumentSequence.fdseq" in head:
            return "xps"
    return by_ending


def _kind_of_boxes(head: bytes) -> Kind | None:
    """The kind of a HEIF, AVIF or Canon CR3, which share their container with films."""
    if head[8:12] == b"crx ":
        return "raw"
    end = min(int.from_bytes(head[:4]), len(head))
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))}
    if brands & _HEIC_BRANDS:
        return "heic"
    if brands & {b"avif", b"avis"}:
        return "avif"
    return "heic" if brands & {b"mif1", b"msf1"} else None


def missing_extra(kind: Kind) -> str | None:
    """The extra that must be installed before files of this kind can be opened; None: none."""
    return _EXTRAS[kind] if kind in _EXTRAS and not _is_there(kind) else None


def install_line(kind: Kind) -> str:
    """The command that installs what opens files of this kind."""
    from kobold_reader.release import install_command  # looks into the installed package: only where it is needed

    return install_command(_EXTRAS[kind])


def extra_hint(ending: str) -> str | None:
    """The command that installs what is missing to read the files counted under a key of `Selection.skipped`."""
    _, _, inside = ending.removesuffix(ATTACHED).rpartition(" holding ")
    kind = _KINDS_BY_ENDING.get(inside, inside)
    return install_line(kind) if missing_extra(kind) else None


@functools.cache
def _is_there(kind: Kind) -> bool:
    """Whether the library for a kind is installed, without importing it."""
    if kind in {"heic", "raw"}:
        return importlib.util.find_spec("pillow_heif" if kind == "heic" else "rawpy") is not None
    pillow = importlib.util.find_spec("PIL")
    folders = (pillow.submodule_search_locations if pillow else None) or ()
    return any(any(Path(folder).glob("_avif.*")) for folder in folders)  # Pillow 11.3 and later


# ── one file ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file to read."""

    uri: str
    """`file:///…` or `protocol://…`; the same however the file was reached."""
    path: str
    """Local path, or the path inside its filesystem, as it is shown and stored (see `names.shown`)."""
    name: str
    """As it is shown, like `folder`."""
    folder: str
    size_bytes: int
    mtime_ns: int
    """Last change; 0 where the filesystem does not tell, or tells what cannot be."""
    birth_date: str | None
    """`YYYY-MM-DD`, only from a real time of birth."""
    modified_date: str | None
    """`YYYY-MM-DD`."""
    kind: Kind
    named_by_hand: bool
    """The path itself was named, not found in a folder or by a pattern."""
    filesystem: FileSystem | None = field(default=None, repr=False, compare=False)
    opened_as: str = field(default="", repr=False)
    """The path by which it is opened; "": `path`."""
    sidecars: tuple[SidecarFile, ...] = field(default=(), repr=False)
    """Of a local photo."""

    @contextlib.contextmanager
    def opened_path(self) -> Iterator[str]:
        """A local path to the file that every library takes.

        A remote file is copied to a temporary one meanwhile. A file whose name is no text is given another name.

        Raises:
            CorruptSourceError: It cannot be copied here.
        """
        path = self.opened_as or self.path
        if self.filesystem is None:
            with _named_as_text(path) as name:
                yield name
            return
        handle, name = tempfile.mkstemp(prefix="kobold-reader-", suffix=PurePosixPath(self.name).suffix)
        try:
            try:
                with os.fdopen(handle, "wb") as target, self.filesystem.open(path, "rb") as stream:
                    shutil.copyfileobj(stream, target, 4 * 1024 * 1024)
            except _FS_ERRORS as error:
                raise CorruptSourceError(f"The file cannot be fetched ({error}).", source=self.uri) from error
            yield name
        finally:
            with contextlib.suppress(OSError):
                Path(name).unlink()


@contextlib.contextmanager
def _named_as_text(path: str) -> Iterator[str]:
    """Give a path that is text: a link with another name where it is none, or a copy where links are not allowed."""
    if is_text(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="kobold-reader-") as folder:
        link = Path(folder, "file")
        try:
            link.symlink_to(path)
        except (OSError, NotImplementedError):  # Windows allows links to some users only
            try:
                shutil.copyfile(path, link)
            except OSError as error:
                raise CorruptSourceError(f"The file cannot be copied ({reason(error)}).") from error
        yield str(link)


def local_uri(path: str | Path) -> str:
    """The URI of a local path: absolute, `.` and `..` taken out, its folder's links followed.

    The file's own name is kept even where it is a link: two names are two files to a person.
    """
    absolute = _absolute(Path(path))
    with contextlib.suppress(OSError, RuntimeError):
        absolute = absolute.parent.resolve() / absolute.name if absolute.name else absolute
    return uri_of(absolute)


def as_uri(place: str) -> str:
    """Return the URI of a local path, and a URI as it is."""
    return place if "://" in place else local_uri(place)


def is_at(uri: str, root: str) -> bool:
    """Tell whether a URI is this one, or of a file below it."""
    return uri == root or is_below(uri, root)


def is_below(uri: str, root: str) -> bool:
    """Tell whether a URI is of a file below this one."""
    return uri.startswith(root.rstrip("/") + "/")


def _absolute(path: Path) -> Path:
    return Path(os.path.normpath(path.absolute()))


def expanded(path: str) -> Path:
    """Return a path as typed, with `~` replaced; a name that merely begins with `~` stays.

    Raises:
        ConfigError: It is empty: a variable that is not set must not mean the current folder.
    """
    if not path:
        raise ConfigError("A path is empty.", hint="For the current folder write: .")
    with contextlib.suppress(RuntimeError):  # no such user
        return Path(path).expanduser()
    return Path(path)


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """A key that sorts IMG_2 before IMG_10, and capitals among small letters."""
    parts = re.findall(r"[0-9]+|[^0-9]+", text)
    folded = tuple((0, int(part), "") if part.isdigit() else (1, 0, part.casefold()) for part in parts)
    return (*folded, (2, 0, text))


def _without_login(url: str) -> str:
    """A URL without user name and password: URIs are shown, stored and sent to models."""
    return re.sub(r"(?<=://)[^/@]*@", "", url)


def _day_of(timestamp: float) -> str | None:
    """The local day of a moment in seconds since 1970; None where the calendar or the system does not go so far."""
    with contextlib.suppress(ValueError, OverflowError, OSError):
        return dt.datetime.fromtimestamp(timestamp, tz=dt.UTC).astimezone().strftime("%Y-%m-%d")
    return None


def _kept_ns(time_ns: int) -> int:
    """A time as the ledger can hold it; 0 for one that is centuries away, as a broken clock or archive leaves it."""
    return time_ns if abs(time_ns) < 1 << 63 else 0


def _changed_at(info: Mapping[str, Any]) -> float | None:
    """Seconds since 1970 of the last change, for which every filesystem has its own name."""
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


# ── all files ────────────────────────────────────────────────────────────────────────────────────

KnownKind: TypeAlias = Callable[[SourceFile], Kind | None]
"""Tells the kind of a file from what is known of its URI, size and time of change; None: it must be opened."""

_NOT_COUNTED = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini"})


@dataclass(frozen=True)
class Selection:
    """The files found, and what was not taken."""

    files: tuple[SourceFile, ...]
    """In natural order within each path given (IMG_2 before IMG_10), each file once."""
    skipped: Mapping[str, int]
    """Files not taken, by lower-case ending ("" for none); hidden files are not counted.

    A camera's raw file whose JPEG is taken has a key of its own (`.cr2 beside its .jpg`). So have a file that needs an
    extra and has another ending (`.jpg holding heic`), and a link (`.jpg behind a link out of the folder`). Files
    attached to PDFs are known once these are opened: see `Ledger.attachments_skipped`.
    """
    errors: tuple[SourceError, ...]
    """Of paths that cannot be examined, and of files that were named by hand and are not taken."""
    roots: tuple[str, ...]
    """URIs of the folders given."""
    unseen: tuple[str, ...] = ()
    """URIs of what the errors are about."""


def select(
    paths: Iterable[str | Path] | str | Path,
    *,
    fs: FileSystem | None = None,
    known: KnownKind | None = None,
) -> Selection:
    """Find the files to read. No more than the first kilobyte of each is read.

    Args:
        paths: Files, folders, patterns (`scans/**/*.pdf`) or URLs (`s3://bucket/scans`).
        fs: The filesystem of the paths, instead of the local one.
        known: Tells the kind of a file that was read before and has not changed since; such a file is not opened.
    """
    finder = _Finder(known)
    for path in [paths] if isinstance(paths, (str, Path)) else paths:
        finder.add(path, fs)
    return finder.selection()


@dataclass
class _Finder:
    """Collects files, from this machine and from other filesystems."""

    known: KnownKind | None
    seen: set[str] = field(default_factory=set)
    files: dict[str, SourceFile] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)
    errors: list[SourceError] = field(default_factory=list)
    roots: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    typed: dict[str, str] = field(default_factory=dict)
    """The local paths that were given, by URI, as errors show them."""
    seen_sidecars: list[str] = field(default_factory=list)
    """Paths of sidecars that were counted as skipped; those of photos that are taken will be read."""

    def add(self, path: str | Path, fs: FileSystem | None) -> None:
        text = str(path)
        protocol = getattr(fs, "protocol", ())
        if fs is not None and not {"file", "local"} & {*([protocol] if isinstance(protocol, str) else protocol)}:
            self._add_remote(text, fs)
        elif isinstance(path, str) and (match := re.match(r"([a-z][a-z0-9+.\-]+)(://|::)", text)):
            self._add_url(text, match[1])
        else:
            self.typed[local_uri(expanded(text))] = shown(text)
            self._add_local(expanded(text))

    def _add_local(self, path: Path) -> None:
        try:
            if path.is_dir():
                root = _absolute(path).resolve()
                self.roots.append(local_uri(root))
                self._walk(root, root)
            elif path.exists():
                self._take_local(path, named=True)
            elif path.is_symlink():
                self._fail("The link leads nowhere.", local_uri(path), SourceNotFoundError)
            else:
                self._add_pattern(path)
        except (OSError, ValueError) as error:
            self._fail(f"The path cannot be examined ({reason(error)}).", shown(str(path)))

    def _add_pattern(self, path: Path) -> None:
        is_pattern = glob.has_magic(str(path))
        found = glob.glob(str(path), recursive=True) if is_pattern else []  # noqa: PTH207 - Path.glob takes no absolute pattern
        if not found:
            message = "No file matches this pattern." if is_pattern else "There is no such file or folder."
            self._fail(message, local_uri(path), SourceNotFoundError)
        for name in sorted(found, key=natural_key):
            if Path(name).is_dir():
                if "**" not in path.parts:  # `**` has listed its contents
                    root = Path(name).resolve()
                    self._walk(root, root)
            elif not _is_hidden(Path(name).name):
                self._take_local(Path(name), named=False)

    def _walk(self, folder: Path, root: Path) -> None:
        try:
            with os.scandir(openable(folder)) as listing:
                entries = sorted(listing, key=lambda entry: natural_key(entry.name))
        except OSError as error:
            self._fail(f"The folder cannot be read ({reason(error)}).", local_uri(folder))
            return
        folders = []
        for entry in entries:
            path = folder / entry.name
            if _is_hidden(entry.name):
                continue
            if entry.is_symlink() and (why := _why_not_followed(path, root)):
                what = "(folder)" if entry.is_dir() else path.suffix.lower() or "(no ending)"
                self.skipped[f"{what} behind {why}"] += 1
            elif entry.is_file():
                self._take_local(path, named=False)
            elif entry.is_dir() and not entry.is_symlink():  # a linked folder is found at its own place
                folders.append(path)
        for path in folders:
            self._walk(path, root)

    def _take_local(self, path: Path, *, named: bool) -> None:
        if (uri := local_uri(path)) in self.seen:
            return
        self.seen.add(uri)
        place = _absolute(path)
        try:
            opened = openable(place)
            state = opened.stat()
            if not stat.S_ISREG(state.st_mode):
                self._fail("It is neither a file nor a folder.", uri, UnsupportedSourceError)
                return
            birth = getattr(state, "st_birthtime", None)
            found = SourceFile(
                uri=uri,
                path=shown(str(place)),
                name=shown(place.name),
                folder=shown(str(place.parent)),
                size_bytes=state.st_size,
                mtime_ns=_kept_ns(state.st_mtime_ns),
                birth_date=_day_of(birth) if birth else None,
                modified_date=_day_of(state.st_mtime),
                kind="",
                named_by_hand=named,
                opened_as="" if str(opened) == shown(str(place)) else str(opened),
            )
            self._take(found, lambda: opened.open("rb"))
        except OSError as error:
            if named or kind_of(b"", path.name):
                self._fail(f"The file cannot be read ({reason(error)}).", uri)
            else:
                self.skipped[shown(path.suffix).lower()] += 1

    def _add_url(self, url: str, protocol: str) -> None:
        if protocol == "file":
            self._add_local(Path(local_path(url)))
            return
        try:
            import fsspec

            fs, path = fsspec.core.url_to_fs(url)
        except ImportError as error:
            # Either fsspec itself, or what it needs for this protocol.
            self._fail(f"{protocol}:// cannot be read: {error}.", _without_login(url))
        except _FS_ERRORS as error:
            self._fail(f"The URL cannot be used ({error}).", _without_login(url))
        else:
            self._add_remote(path, fs)

    def _add_remote(self, path: str, fs: FileSystem) -> None:
        uri = storable(_without_login(str(fs.unstrip_protocol(path))))
        try:
            if fs.isdir(path):
                self.roots.append(uri)
                found = fs.find(path, detail=True)
                root = str(fs._strip_protocol(path)).rstrip("/")  # noqa: SLF001 - fsspec's own idiom
                self._take_all(found, fs, root)
            elif fs.exists(path):
                self._take_remote(fs, fs.info(path), named=True)
            elif glob.has_magic(path) and (found := fs.glob(path, detail=True)):
                self._take_all({k: v for k, v in found.items() if v.get("type") != "directory"}, fs, "")
            else:
                self._fail("There is no such file or folder.", uri, SourceNotFoundError)
        except _FS_ERRORS as error:
            self._fail(f"The path cannot be examined ({reason(error)}).", uri)

    def _take_all(self, found: Mapping[str, Mapping[str, Any]], fs: FileSystem, root: str) -> None:
        for name in sorted(found, key=natural_key):
            inside = str(name).removeprefix(root).strip("/").split("/")
            if not any(map(_is_hidden, inside if root else inside[-1:])):
                self._take_remote(fs, found[name], named=False)

    def _take_remote(self, fs: FileSystem, info: Mapping[str, Any], *, named: bool) -> None:
        path = PurePosixPath(str(info["name"]))
        uri = storable(_without_login(str(fs.unstrip_protocol(info["name"]))))
        if uri in self.seen:
            return
        self.seen.add(uri)
        changed = _changed_at(info)
        found = SourceFile(
            uri=uri,
            path=shown(str(info["name"])),
            name=shown(path.name),
            folder=shown(str(path.parent)),
            size_bytes=int(info.get("size") or 0),
            mtime_ns=_kept_ns(round(changed * 1_000_000) * 1_000) if changed else 0,
            birth_date=None,
            modified_date=_day_of(changed) if changed else None,
            kind="",
            named_by_hand=named,
            filesystem=fs,
            opened_as=str(info["name"]),
        )
        try:
            self._take(found, lambda: fs.open(found.opened_as, "rb"))
        except _FS_ERRORS as error:
            self._fail(f"The file cannot be read ({error}).", uri)

    def _take(self, found: SourceFile, open_it: Callable[[], IO[bytes]]) -> None:
        kind = self.known(found) if self.known else None
        if kind is None:
            with open_it() as stream:
                kind = kind_of(stream.read(HEAD_BYTES), found.name)
        if kind is not None:
            self.files[found.uri] = replace(found, kind=kind)
        elif found.named_by_hand:
            self._fail("This kind of file is not supported.", found.uri, UnsupportedSourceError, f"Supported: {TAKEN}.")
        else:
            self.skipped[Path(found.name).suffix.lower()] += 1
            if found.name.lower().endswith(".xmp"):
                self.seen_sidecars.append(found.opened_as or found.path)

    def selection(self) -> Selection:
        """The files found, without those whose extra is missing and raw files whose JPEG is taken."""
        for file in list(self.files.values()):
            ending = Path(file.name).suffix.lower()
            if file.kind == "raw" and not file.named_by_hand and (twin := self._twin_of(file)):
                self.skipped[f"{ending} beside its {twin}"] += 1
            elif not missing_extra(file.kind):
                continue
            elif file.named_by_hand:
                message = "Files of this kind need an optional part that is not installed."
                hint = f"Install what opens it: {install_line(file.kind)}"
                self._fail(message, file.uri, UnsupportedSourceError, hint)
            else:
                self.skipped[ending if extra_hint(ending) else f"{ending} holding {file.kind}"] += 1
            del self.files[file.uri]
        self._find_sidecars()
        skipped, roots = dict(sorted(self.skipped.items())), tuple(dict.fromkeys(self.roots))
        return Selection(tuple(self.files.values()), skipped, tuple(self.errors), roots, tuple(self.unseen))

    def _find_sidecars(self) -> None:
        finder = sidecar_finder()
        read: set[str] = set()
        for file in self.files.values():
            if file.kind in PHOTO_KINDS and file.uri.startswith("file:"):
                with contextlib.suppress(OSError):  # the folder can be entered and not listed
                    if found := finder.read_of(Path(local_path(file.uri))):
                        self.files[file.uri] = replace(file, sidecars=found)
                        read.update(sidecar.path for sidecar in found)
        self.skipped[".xmp"] -= sum(path in read for path in self.seen_sidecars)
        self.skipped += Counter()  # without what is zero now

    def _twin_of(self, raw: SourceFile) -> str:
        """The ending of the picture that the camera wrote beside a raw file; "" where none is taken."""
        stem = raw.uri.rpartition(".")[0]
        for ending in CAMERA_JPEGS:
            for file in (self.files.get(stem + ending), self.files.get(stem + ending.upper())):
                if file is not None and file.kind != "raw" and missing_extra(file.kind) is None:
                    return ending
        return ""

    def _fail(self, message: str, uri: str, kind: type[SourceError] = SourceError, hint: str | None = None) -> None:
        self.unseen.append(uri)
        self.errors.append(kind(message, source=self.typed.get(uri) or shown(local_path(uri)), hint=hint))


def sidecar_finder() -> SidecarFinder:
    """Return what finds the sidecars of photos."""
    return SidecarFinder(_KINDS_BY_ENDING)


def file_at(uri: str) -> SourceFile:
    """Return the file at a URI.

    Raises:
        SourceNotFoundError: There is none.
        SourceError: It is not of a kind that is taken.
    """
    path = local_path(uri)
    # `select` would take a path with `*`, or the path of a folder, for other files.
    if uri.startswith("file:") and not Path(path).is_file():
        raise SourceNotFoundError("The file is not there any more.", hint=f"It was {shown(path)}.")
    selection = select([path])
    if not selection.files:
        raise next(iter(selection.errors), SourceError("This kind of file is not supported."))
    return selection.files[0]


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _NOT_COUNTED


def _why_not_followed(link: Path, root: Path) -> str:
    """What is wrong with a link inside a folder, for people; "" where it leads to another place in that folder."""
    try:
        return "" if link.resolve(strict=True).is_relative_to(root) else "a link out of the folder"
    except (OSError, RuntimeError):
        return "a link that cannot be followed"
