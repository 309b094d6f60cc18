"""The local search page: an archive in the browser, on this machine."""

from __future__ import annotations

from kobold_reader.web.app import make_app
from kobold_reader.web.security import Access
from kobold_reader.web.server import Address, WebServer

__all__ = ["Access", "Address", "WebServer", "make_app"]
