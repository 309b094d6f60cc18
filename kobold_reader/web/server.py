"""The search page's HTTP server, which runs until Ctrl-C."""

from __future__ import annotations

import socket
from typing import Self

import uvicorn
from starlette.types import ASGIApp

from kobold_reader.errors import ConfigError


class WebServer:
    """Takes its address when it is made, so that `port` can be shown before `run` answers there.

    Args:
        host: Name or address of this machine; the default can be reached from this machine only.
        port: 0: any free one.

    Raises:
        ConfigError: The address is in use, or does not belong to this machine.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 8642) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family)
        except (OSError, OverflowError) as err:
            hint = "Another page may be open there; --port 0 takes any free one."
            raise ConfigError(f"port {port} of {host} cannot be used: {err}.", hint=hint) from err
        self.port: int = self._socket.getsockname()[1]
        self._server: uvicorn.Server | None = None

    def run(self, app: ASGIApp) -> None:
        """Serve until `stop`, or Ctrl-C, which is raised after the last answers were sent."""
        config = uvicorn.Config(
            app,
            access_log=False,  # addresses hold what was searched for
            log_level="critical",  # views log their own errors; an answer cut short at the end is none
            lifespan="off",
            ws="none",
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=2,
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
