"""The local search page: an archive in the browser, on this machine."""

from kobold_reader.web.app import make_app
from kobold_reader.web.security import Access
from kobold_reader.web.server import WebServer

__all__ = ["Access", "WebServer", "make_app"]
