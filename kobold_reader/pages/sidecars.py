"""Sidecars: which files beside a photo hold its XMP, and how one is written.

Two conventions name them. Adobe and Capture One write `photo.xmp`; digiKam, darktable and immich write `photo.jpg.xmp`.
The first does not say to which of several files with this stem it belongs:

- beside a camera's raw file it is the raw file's, also if there is a JPEG. The two are one picture, so it is read as
  the JPEG's too, and written for the JPEG where this name is asked for;
- of one single picture it is that picture's;
- of several other pictures or films it is nobody's: it is neither read nor written.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Final, Literal, NamedTuple

from kobold_reader.border import is_of_the_system
from kobold_reader.errors import SidecarError, reason
from kobold_reader.files import write_atomically
from kobold_reader.pages.names import openable, shown
from kobold_reader.pages.values import Kind, Scalar

log = logging.getLogger(__name__)

SidecarName = Literal["photo.xmp", "photo.jpg.xmp"]

PHOTO_KINDS: Final = frozenset({"image", "heic", "avif", "raw"})
CAMERA_JPEGS: Final = (".jpg", ".jpeg", ".heic", ".heif", ".hif")
"""What cameras write beside a raw file."""
_FILMS: Final = frozenset(".mov .mp4 .m4v .avi .mts .m2ts .3gp .mpg".split())  # noqa: SIM905
_ENDING: Final = ".xmp"


class SidecarFile(NamedTuple):
    """A sidecar that is there, as it was when it was found."""

    path: str
    """As it is opened."""
    size_bytes: int
    mtime_ns: int


class _Folder:
    """The names in a folder that decide about sidecars."""

    def __init__(self, folder: Path, kinds: Mapping[str, Kind]) -> None:
        self.sidecars: dict[str, str] = {}
        """Names of sidecars, by what stands before the ending."""
        self.by_stem: defaultdict[str, list[str]] = defaultdict(list)
        """Names of pictures and films."""
        self._pictures: set[str] = set()
        for name in sorted(os.listdir(folder)):  # noqa: PTH208  (names, not paths)
            stem, ending = (path := PurePath(name)).stem, path.suffix.lower()
            if ending == _ENDING:
                self.sidecars.setdefault(stem, name)
            elif kinds.get(ending) in PHOTO_KINDS or ending in _FILMS:
                self.by_stem[stem].append(name)
                self._pictures.add(name)
        self._kinds = kinds

    def owner(self, stem: str) -> str | None:
        """Return the name of the file to which `stem.xmp` belongs; None: to none, or nobody knows."""
        names = self.by_stem.get(stem, [])
        if stem in self._pictures:
            return None  # `a.jpg.xmp` is that of a.jpg, and not of a.jpg.tif
        raw = [name for name in names if self._kind(name) == "raw"]
        found = raw or names
        return found[0] if len(found) == 1 else None

    def _kind(self, name: str) -> Kind | None:
        return self._kinds.get(PurePath(name).suffix.lower())

    def is_of_pair(self, name: str, owner: str | None) -> bool:
        """Tell whether a camera wrote this picture beside the raw file that owns a sidecar."""
        is_camera_jpeg = PurePath(name).suffix.lower() in CAMERA_JPEGS
        return owner is not None and is_camera_jpeg and self._kind(owner) == "raw"


class SidecarFinder:
    """Finds the sidecars of local photos; each folder is listed once.

    Args:
        kinds: Kinds of files by ending.
    """

    def __init__(self, kinds: Mapping[str, Kind]) -> None:
        self._kinds = kinds
        self._folders: dict[Path, _Folder] = {}

    def read_of(self, photo: Path) -> tuple[SidecarFile, ...]:
        """Return the sidecars that say something about a photo; that of its full name first."""
        folder, stem = self._folder(photo), photo.stem
        names = [folder.sidecars.get(photo.name)]
        owner = folder.owner(stem) if stem in folder.sidecars else None
        if owner == photo.name or folder.is_of_pair(photo.name, owner):
            names.append(folder.sidecars.get(stem))
        found = []
        for path in (photo.with_name(name) for name in names if name is not None):
            try:
                state = openable(path).stat()
            except OSError:
                continue  # it is gone, or a link that leads nowhere
            if stat.S_ISREG(state.st_mode):
                found.append(SidecarFile(str(openable(path)), state.st_size, state.st_mtime_ns))
        return tuple(found)

    def written_of(self, photo: Path, name: SidecarName | None = None) -> tuple[Path, ...]:
        """Return the sidecars into which words about a photo go: those that are there, else a new one.

        Args:
            photo: The photo.
            name: Use this one, whatever is there.

        Raises:
            SidecarError: `photo.xmp` is asked for, and would be that of several files.
        """
        folder, stem = self._folder(photo), photo.stem
        owner = folder.owner(stem)
        full = photo.with_name(folder.sidecars.get(photo.name, photo.name + _ENDING))
        short = photo.with_name(folder.sidecars.get(stem, stem + _ENDING))
        if name == "photo.xmp":
            if owner != photo.name and not folder.is_of_pair(photo.name, owner):
                others = ", ".join(shown(other) for other in folder.by_stem[stem] if other != photo.name)
                raise SidecarError(
                    f"{shown(short.name)} would also be the sidecar of {others}.",
                    source=shown(str(photo)),
                    hint="--sidecar-name photo.jpg.xmp gives each file its own.",
                )
            return (short,)
        if name == "photo.jpg.xmp":
            return (full,)
        there = [full] if photo.name in folder.sidecars else []
        there += [short] if stem in folder.sidecars and owner == photo.name else []
        return tuple(there) or (full,)

    def _folder(self, photo: Path) -> _Folder:
        folder = photo.parent
        if folder not in self._folders:
            self._folders[folder] = _Folder(openable(folder), self._kinds)
        return self._folders[folder]


def contents(path: Path) -> bytes:
    """Return what a sidecar holds.

    Raises:
        SidecarError: It cannot be read, or is too large.
    """
    from kobold_reader.pages.xmp import MAX_BYTES  # parses XML: only where there is a sidecar

    place = shown(str(path))
    try:
        if not stat.S_ISREG(openable(path).stat().st_mode):  # to open a pipe would wait for ever
            raise SidecarError("It is not a file.", source=place)
        with openable(path).open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise SidecarError(f"The sidecar cannot be read ({reason(error)}).", source=place) from error
    if len(data) > MAX_BYTES:
        raise SidecarError(f"It is larger than a sidecar ever is ({MAX_BYTES:,} bytes).", source=place)
    return data


def replace_file(path: Path, before: bytes | None, after: bytes | None, *, photo: Path) -> None:
    """Write a sidecar, whole or not at all.

    Args:
        path: The sidecar.
        before: What it held when it was read; None: there was none.
        after: What it is to hold; None: it is removed.
        photo: Gives a new sidecar its permissions.

    Raises:
        SidecarError: It may not be written, or another program has written it meanwhile.
        OSError: The disk is full, or the like.
    """
    path = openable(path)
    place = shown(str(path))
    try:
        path = path.resolve() if path.is_symlink() else path
        if (contents(path) if path.exists() else None) != before:
            raise SidecarError("Another program wrote the sidecar just now.", source=place, hint="Run it again.")
        if before is not None and not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, "it is read-only")
        if after is None:
            path.unlink(missing_ok=True)
        else:
            write_atomically(path, after, mode_of=path if before is not None else openable(photo))
    except OSError as error:
        if error.errno not in {errno.EACCES, errno.EPERM, errno.EROFS}:
            if is_of_the_system(error):
                raise
            raise SidecarError(f"The sidecar cannot be written ({reason(error)}).", source=place) from error
        raise SidecarError(
            "The sidecar cannot be written: its folder, or the file, may not be changed.",
            source=place,
            hint="Give yourself the right to write there.",
        ) from error


def people_say(sidecars: Sequence[SidecarFile]) -> dict[str, Scalar]:
    """Return what people wrote into the sidecars of a photo; one that cannot be read is named in the log."""
    if not sidecars:
        return {}
    from kobold_reader.pages.metadata import read_sidecar, sidecar_metadata  # loads Pillow: only where it is needed

    found = []
    for sidecar in sidecars:
        try:
            found.append(read_sidecar(contents(Path(sidecar.path))))
        except SidecarError as error:
            log.warning("%s", error.at(shown(sidecar.path)))
    return sidecar_metadata(found)
