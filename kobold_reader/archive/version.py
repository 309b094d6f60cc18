"""The version of a page's texts: what is indexed under another one is stale."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

__all__ = ["version_of"]


def version_of(parts: Mapping[str, str]) -> str:
    """Return a hash of a page's texts."""
    return hashlib.sha256(json.dumps(dict(parts), ensure_ascii=False, sort_keys=True).encode()).hexdigest()[:32]
