"""Tables of data in TOML files beside the code, read when they are first used."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping
from importlib.resources import files
from typing import Any, TypeVar

from typing_extensions import override

K = TypeVar("K")
V = TypeVar("V")


def read_toml(package: str, name: str) -> dict[str, Any]:
    """Read a TOML file that comes with a package."""
    return tomllib.loads(files(package).joinpath(name).read_text(encoding="utf-8"))


class LazyTable(Mapping[K, V]):
    """A mapping that is loaded when it is first looked into, and then kept.

    Two threads may both load it; they get equal tables.
    """

    def __init__(self, load: Callable[[], Mapping[K, V]]) -> None:
        self._load = load
        self._rows: Mapping[K, V] | None = None

    def _loaded(self) -> Mapping[K, V]:
        if self._rows is None:
            self._rows = self._load()
        return self._rows

    @override
    def __getitem__(self, key: K) -> V:
        return self._loaded()[key]

    @override
    def __iter__(self) -> Iterator[K]:
        return iter(self._loaded())

    @override
    def __len__(self) -> int:
        return len(self._loaded())
