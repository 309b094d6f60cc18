"""Addresses of servers: as they are typed, where pages sent to them go, and which of them mean the same server."""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
from collections.abc import Iterable
from typing import Literal
from urllib.parse import urlsplit

from kobold_reader.errors import ConfigError

log = logging.getLogger(__name__)

AddressKind = Literal["loopback", "private", "public"]

EXAMPLE = "For example: http://127.0.0.1:5001"
PRIVATE_SUFFIXES = (".local", ".lan", ".home", ".internal", ".home.arpa", ".localdomain")


def normalize_url(url: str) -> str:
    """Return an address as a user typed it in the form that every message and lock uses.

    A missing scheme becomes `http`; `/`, `/api`, `/v1`, `/api/v1` and `/api/extra` at the end are cut off; other path
    prefixes stay (KoboldCpp matches paths by their end, so a reverse proxy may add one).

    Raises:
        ConfigError: No host, another scheme than http(s), a bad port, or a user name, password, query or fragment in
            it. The message never repeats the part that may be secret.

    >>> normalize_url("localhost:5001/api/v1/")
    'http://localhost:5001'
    """
    text = url.strip()
    if "://" not in text:
        text = f"http://{text}"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as err:
        # Without `from`: the text of the original repeats the address, and with it a password.
        raise ConfigError(f"The server address is not a URL. {EXAMPLE}") from err.__cause__
    if "@" in parts.netloc:
        raise ConfigError(
            "The server address holds a user name or password, which would show up in every log.",
            hint="Give the address without it, and the password by itself (api_password).",
        )
    if parts.query or parts.fragment:
        raise ConfigError(f"The server address has a query or fragment (? or #). {EXAMPLE}")
    if parts.scheme not in ("http", "https"):
        raise ConfigError(f"The server address begins with {parts.scheme}://. {EXAMPLE}")
    if not host or any(char.isspace() for char in parts.netloc + parts.path):
        raise ConfigError(f"The server address names no host. {EXAMPLE}")
    shown_host = f"[{host}]" if ":" in host else host
    shown_port = "" if port is None else f":{port}"
    path = re.sub(r"(/api/extra|/api/v1|/v1|/api)$", "", parts.path.rstrip("/")).rstrip("/")
    return f"{parts.scheme}://{shown_host}{shown_port}{path}"


def address_kind(url: str) -> AddressKind:
    """Tell where pages sent to this address go: this machine, the local network, or beyond.

    Names are judged by their form alone: `localhost`, dotless names and the suffixes of home networks are near. All
    others are public, whatever they resolve to, and so are addresses shared by carriers (100.64.0.0/10).
    """
    host = (urlsplit(normalize_url(url)).hostname or "").rstrip(".")
    address = _ip(host)
    if address is not None:
        if address.is_loopback:
            return "loopback"
        return "private" if address.is_private or address.is_link_local else "public"
    if host == "localhost" or host.endswith(".localhost"):
        return "loopback"
    return "private" if "." not in host or host.endswith(PRIVATE_SUFFIXES) else "public"


def check_way(urls: Iterable[str], *, allow_remote: bool) -> None:
    """Check the way that pages would take to these servers; a warning in the log announces a public one.

    Raises:
        ConfigError: A public address over plain http without `allow_remote`.
    """
    for url in urls:
        if address_kind(url) != "public":
            continue
        if not url.startswith("https:") and not allow_remote:
            raise ConfigError(
                f"{url} is a public address, and plain http lets anybody on the way read the pages.",
                hint="Use https, or allow it with allow_remote=True (--allow-remote).",
            )
        log.warning("the pages are sent to %s, which is neither this machine nor in a private network", url)


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        try:
            # The resolver also takes 127.1, 0x7f000001 and 134744072 (a dotless 8.8.8.8).
            return ipaddress.IPv4Address(socket.inet_aton(host))
        except (OSError, ValueError):
            return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def server_key(url: str) -> str:
    """Return the same text for every spelling of one server; it names its lock.

    All loopback names are one server per port: `localhost` is not leased beside `127.0.0.1`.
    """
    parts = urlsplit(normalize_url(url))
    host = "loopback" if address_kind(url) == "loopback" else (parts.hostname or "").rstrip(".")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"{host}:{port}{parts.path}"
