"""The local search page: an archive in the browser, on this machine."""

from kobold_reader.web.add import Adding
from kobold_reader.web.app import WebServer, make_app
from kobold_reader.web.security import Access

__all__ = ["Access", "Adding", "WebServer", "make_app"]
