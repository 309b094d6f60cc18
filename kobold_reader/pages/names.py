"""Names of files that are no plain text: their URIs, how they are shown, and how they are opened.

Linux allows any bytes in a name, and Windows lone halves of surrogate pairs. Python holds both as lone surrogates,
which UTF-8 cannot: no database and no JSON takes them. A URI holds such bytes percent-encoded and is a file's identity.
What is shown and stored beside it is written in the same way: `latin1-%E4.jpg`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePath, PureWindowsPath
from urllib.parse import quote_from_bytes, unquote, unquote_to_bytes, urlsplit

_LONE = re.compile("[\ud800-\udfff]+")
# Beside these: what steers a terminal, begins a new line, or lets a name read backwards.
_NEVER_SHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]+")

RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])(\..*)?", re.IGNORECASE)
"""Names that are devices on Windows, whatever their ending."""
_LONGEST_WINDOWS_PATH = 259


def is_text(text: str) -> bool:
    """Tell whether text can be stored and sent: it has no lone surrogates."""
    return _LONE.search(text) is None


def storable(text: str) -> str:
    """Return text with its lone surrogates percent-encoded, all else as it is."""
    return _LONE.sub(_percent_encoded, text)


def shown(name: str) -> str:
    r"""Return a name or path as it is shown and stored: what cannot be, or must not be, is percent-encoded.

    >>> shown("letter.pdf"), shown("b\n\u202egpj.exe")
    ('letter.pdf', 'b%0A%E2%80%AEgpj.exe')
    """
    return _NEVER_SHOWN.sub(_percent_encoded, name)


def _percent_encoded(found: re.Match[str]) -> str:
    return quote_from_bytes(_bytes_of(found[0]))


def _bytes_of(text: str) -> bytes:
    try:
        return os.fsencode(text)
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def uri_of(path: PurePath) -> str:
    """Return the URI of an absolute path, for every name that the path's system allows."""
    try:
        return path.as_uri()
    except UnicodeEncodeError:  # a lone surrogate on Windows
        text = path.as_posix()
        slashes = "" if text.startswith("//") else "///"
        return f"file:{slashes}{quote_from_bytes(text.encode('utf-8', 'surrogatepass'), safe='/:')}"


def local_path(uri: str, *, is_windows: bool = os.name == "nt") -> str:
    r"""Return the path of a local file's URI; any other URI as it is.

    >>> local_path("file:///scans/a%20b.pdf", is_windows=False), local_path("file:///C:/a%20b.pdf", is_windows=True)
    ('/scans/a b.pdf', 'C:\\a b.pdf')
    """
    if not uri.startswith("file:"):
        return uri
    parts = urlsplit(uri)
    if not is_windows:
        return os.fsdecode(unquote_to_bytes(parts.path))
    path = unquote(parts.path, errors="surrogatepass")
    host = f"//{parts.netloc}" if parts.netloc not in {"", "localhost"} else ""
    return str(PureWindowsPath(host + path if host else path.lstrip("/")))


def shown_of(quoted: str) -> str:
    """Return a part of a URI as it is shown."""
    return shown(os.fsdecode(unquote_to_bytes(quoted)))


def openable(path: Path) -> Path:
    """Return a path by which a file can be opened, whatever its name."""
    return Path(extended(PureWindowsPath(path))) if os.name == "nt" else path


def extended(path: PureWindowsPath) -> str:
    r"""Return an absolute path as Windows takes it.

    Unless a path begins with `\\?\`, Windows cuts dots and spaces off the end of a name, takes CON for a device, and
    refuses long paths.
    """
    text = str(path)
    is_plain = len(text) <= _LONGEST_WINDOWS_PATH and not any(
        part.endswith((".", " ")) or RESERVED.fullmatch(part) for part in path.parts[1:]
    )
    if is_plain or text.startswith("\\\\?\\"):
        return text
    return f"\\\\?\\UNC\\{text[2:]}" if text.startswith("\\\\") else f"\\\\?\\{text}"
