"""The server of the search page: one address, one archive, until Ctrl-C."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Final, Self

import uvicorn
from starlette.types import ASGIApp

from kobold_reader.errors import ConfigError

__all__ = ["Address", "WebServer"]

_LAST_ANSWERS_S: Final = 2


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen.

    Attributes:
        host: Name or number of this machine; the default is reached by this machine alone.
        port: 0: any free one.
    """

    host: str = "127.0.0.1"
    port: int = 8642


class WebServer:
    """Holds the address from the moment it is made, and serves when it is run.

    Args:
        address: Where to listen.

    Raises:
        ConfigError: It is taken, or none of this machine's.
    """

    def __init__(self, address: Address) -> None:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        try:
            self._socket = socket.create_server((address.host, address.port), family=family)
        except (OSError, OverflowError) as err:
            msg = f"port {address.port} of {address.host} cannot be used: {err}."
            raise ConfigError(msg, hint="Another page may be open there; --port 0 takes any free one.") from err
        self.port: int = self._socket.getsockname()[1]
        self._server: uvicorn.Server | None = None

    def run(self, app: ASGIApp) -> None:
        """Serve until `stop`, or Ctrl-C, which is raised when the last answers were given."""
        config = uvicorn.Config(
            app,
            # Addresses hold what was searched for: they are logged nowhere.
            access_log=False,
            # What goes wrong in a view is logged by the view; a last answer cut short at the end is no error.
            log_level="critical",
            lifespan="off",
            ws="none",
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=_LAST_ANSWERS_S,
        )
        self._server = uvicorn.Server(config)
        self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """End `run`, from another thread."""
        if self._server is not None:
            self._server.should_exit = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
