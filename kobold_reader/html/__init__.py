"""Pages beside their text, as one HTML file that needs no other host."""

from __future__ import annotations

from kobold_reader.html.writer import HtmlWriter

__all__ = ["HtmlWriter"]
