"""Filters over metadata: `KEY=VALUE`, `KEY=A..B`, `KEY=~WORD`."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kobold_reader.archive.query import fold
from kobold_reader.errors import ConfigError

__all__ = ["Condition", "parse_where"]

_SHAPE = re.compile(r"\s*(\w+)\s*=\s*(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition; a page without the key never meets it."""

    key: str
    kind: Literal["equal", "between", "contains"]
    values: tuple[str, ...]
    """One value; two for `between`, either may be "" (open)."""

    def holds(self, metadata: Mapping[str, Any]) -> bool:
        """Tell whether a page's metadata meets it; numbers compare as numbers, all else as folded text."""
        value = metadata.get(self.key)
        if value is None:
            return False
        if self.kind == "contains":
            return fold(self.values[0]) in fold(str(value))
        if self.kind == "equal":
            return _key(value) == _key(self.values[0])
        low, high = self.values
        return (not low or _compare(low, value)) and (not high or _compare(value, high))


def parse_where(conditions: Iterable[str]) -> list[Condition]:
    """Read conditions as typed.

    Raises:
        ConfigError: Not of one of the three shapes.

    >>> parse_where(["date_taken=1950..1960"])[0].kind
    'between'
    """
    return [_parse(text) for text in conditions]


def _parse(text: str) -> Condition:
    found = _SHAPE.fullmatch(text)
    if not found or not found[2].strip():
        msg = f"where: {text!r} is no condition; write KEY=VALUE, KEY=A..B or KEY=~WORD."
        raise ConfigError(msg)
    key, value = found[1], found[2].strip()
    if value.startswith("~"):
        return Condition(key, "contains", (value[1:].strip(),))
    if ".." in value:
        low, _, high = value.partition("..")
        return Condition(key, "between", (low.strip(), high.strip()))
    return Condition(key, "equal", (value,))


def check_keys(conditions: Iterable[Condition], known: Iterable[str]) -> None:
    """Raise ConfigError for a key that no page has, naming those there are."""
    keys = sorted(set(known))
    for condition in conditions:
        if condition.key not in keys:
            msg = f"where: no page has {condition.key!r}; there are {', '.join(keys)}."
            raise ConfigError(msg)


def _key(value: object) -> float | str:
    with contextlib.suppress(ValueError):
        number = float(str(value))
        if math.isfinite(number):  # "nan" and "infinity" are words, or names
            return number
    return fold(str(value))


def _compare(low: object, high: object) -> bool:
    """Tell whether low <= high; `1950..1960` holds all of 1960 where the value is a longer date."""
    first, second = _key(low), _key(high)
    if isinstance(first, float) and isinstance(second, float):
        return first <= second
    first, second = fold(str(low)), fold(str(high))
    return first <= second or first.startswith(second)
