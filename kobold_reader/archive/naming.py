"""Names of exported files: the folders as they lie, in names that every system takes."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import unquote, urlsplit

__all__ = ["relative_names", "safe_paths"]

_FORBIDDEN: Final = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f\ud800-\udfff]')
_RESERVED: Final = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])(\..*)?", re.IGNORECASE)
"""Names that are devices on Windows, whatever ending they have."""
_MAX_BYTES: Final = 180
"""Of one name; 255 on most systems, less what is put behind it."""


def relative_names(uris: Iterable[str], roots: Iterable[str]) -> dict[str, PurePosixPath]:
    """Return each file's path below the outermost of the folders that were indexed, else its folder and name."""
    outermost = sorted({root.rstrip("/") for root in roots}, key=len)
    found = {}
    for uri in uris:
        root = next((root for root in outermost if uri.startswith(f"{root}/")), None)
        path = uri[len(root) + 1 :] if root else "/".join(urlsplit(uri).path.split("/")[-2:])
        found[uri] = PurePosixPath(unquote(path).lstrip("/"))
    return found


def safe_paths(names: Mapping[str, PurePosixPath], ending: str) -> dict[str, PurePosixPath]:
    """Return a path for each name that exists on every system, and twice on none.

    Args:
        names: By what is named; of two that would be one file where upper and lower case are the same, the second, in
            the order of the keys, gets a tail made of its key.
        ending: Of all files, with its dot.
    """
    taken: set[str] = set()
    found = {}
    for key, name in sorted(names.items()):
        path = PurePosixPath(*[_safe(part) for part in name.parts or ("_",)])
        file = path.with_name(path.name + ending)
        if _folded(file) in taken:
            file = path.with_name(f"{path.name}~{_tail(key)}{ending}")
        taken.add(_folded(file))
        found[key] = file
    return found


def _safe(name: str) -> str:
    safe = _FORBIDDEN.sub("_", name)
    if safe.endswith((".", " ")):
        safe = f"{safe[:-1]}_"
    if _RESERVED.fullmatch(safe):
        safe = f"_{safe}"
    if len(safe.encode()) > _MAX_BYTES:
        ending = PurePosixPath(safe).suffix if len(PurePosixPath(safe).suffix.encode()) < _MAX_BYTES // 9 else ""
        tail = f"~{_tail(name)}{ending}"
        safe = safe.encode()[: _MAX_BYTES - len(tail.encode())].decode(errors="ignore") + tail
    return safe or "_"


def _folded(path: PurePosixPath) -> str:
    return unicodedata.normalize("NFC", str(path)).casefold()


def _tail(key: str) -> str:
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()[:6]
