"""Fits the pages, which are written to be read in the repository, to the site."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    """Show the README as the home page, and name files outside of docs/ in place of a link to them."""
    if page.file.src_uri == "index.md":
        markdown = (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
        return re.sub(r"\[([^]]+)\]\((examples|notebooks)\)", r"\1 (in `\2/`)", markdown)
    return re.sub(r"\[([^]]+)\]\(\.\./([^)]+)\)", r"`\2`", markdown)
