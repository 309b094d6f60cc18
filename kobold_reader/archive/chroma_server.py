"""An archive's vectors on a Chroma server: where it is, and which collection there is the archive's."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final, Self
from urllib.parse import urlsplit

from kobold_reader.errors import ConfigError, MissingExtraError, StoreError
from kobold_reader.kobold import check_way

__all__ = ["ChromaServer", "check_server"]

_PORT: Final = 8000


@dataclass(frozen=True, slots=True)
class ChromaServer:
    """A collection on a server; several archives may share the server, none another one's collection."""

    url: str
    collection: str

    @classmethod
    def chosen(cls, url: str, known: Self | None) -> Self:
        """Return the archive's place on the server at `url`: a new collection, or the one it has had since it was made.

        Raises:
            ConfigError: No URL of a server, or a public one without https.
        """
        parts = urlsplit(url)
        try:
            is_server = parts.scheme in {"http", "https"} and parts.hostname and parts.path in {"", "/"}
            port = parts.port or _PORT
        except ValueError:
            is_server, port = False, 0
        if not is_server or "@" in parts.netloc:
            msg = "--chroma-url names no Chroma server."
            raise ConfigError(msg, hint=f"One like http://127.0.0.1:{_PORT} ; `chroma run --path DIR` starts one.")
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        plain = f"{parts.scheme}://{host}:{port}"
        check_way([plain], allow_remote=False)
        return cls(plain, known.collection if known else f"kobold-reader-{secrets.token_hex(6)}")

    @classmethod
    def from_record(cls, record: str | None) -> Self | None:
        """Return what an archive remembers; None: its vectors lie in its own folder."""
        return cls(**json.loads(record)) if record else None

    def record(self) -> str:
        """Return what an archive remembers."""
        return json.dumps(asdict(self))

    @contextmanager
    def client(self) -> Iterator[Any]:
        """Connect, until the end of the `with` block.

        Raises:
            MissingExtraError: chromadb is not installed.
            StoreError: The server cannot be reached.
        """
        try:
            import chromadb
            import httpx
            from chromadb.config import Settings
            from chromadb.errors import ChromaError
        except ImportError as err:
            raise MissingExtraError("chroma", "An archive with vectors") from err
        parts = urlsplit(self.url)
        try:
            client = chromadb.HttpClient(
                host=parts.hostname or "",
                port=parts.port or _PORT,
                ssl=parts.scheme == "https",
                settings=Settings(anonymized_telemetry=False),
            )
        except (ChromaError, OSError, ValueError) as err:
            msg = f"the Chroma server {self.url} cannot be used: {err}."
            hint = "Start it (`chroma run`), or name where it is now with index --chroma-url."
            raise StoreError(msg, hint=hint) from err
        # Chroma (1.5.9) never closes its connections, and would send them through a proxy that the environment names.
        api = client._server  # noqa: SLF001
        for opened in (api, client._admin_client._server):  # noqa: SLF001
            opened._session.close()  # noqa: SLF001
        with httpx.Client(timeout=None, trust_env=False, headers=api._session.headers) as api._session:  # noqa: S113, SLF001
            try:
                yield client
            finally:
                client.close()


def check_server(url: str, *, has_vectors: bool) -> None:
    """Refuse, before anything is written, what an archive cannot have.

    Raises:
        ConfigError: No URL of a server, or an archive of words only.
    """
    if not has_vectors:
        msg = "--chroma-url: this archive has words only, no vectors."
        raise ConfigError(msg, hint="index --reembed --embedder minilm --chroma-url URL makes them there.")
    ChromaServer.chosen(url, None)
