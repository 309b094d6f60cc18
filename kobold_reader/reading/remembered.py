"""Self-tests that are remembered: what each server's test card showed, in a file among the user's data."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from kobold_reader.files import user_data_folder, write_atomically
from kobold_reader.kobold.addresses import server_key

if TYPE_CHECKING:
    from kobold_reader.kobold import ServerInfo

log = logging.getLogger(__name__)

_FORMAT = 1
_LOCK_WAIT_S = 5.0
_START_TOLERANCE_S = 3.0
"""A server needs longer than that to load a model again."""
_CLOCK_DRIFT = 1e-4
"""Two clocks part by some seconds a day."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """The result of one self-test, as it is stored; times in seconds of the epoch."""

    model: str
    version: str
    started_s: float | None
    """When the server was started; None where it does not tell its uptime."""
    tested_s: float
    is_seen: bool
    """Whether words of the card came back."""
    visionmaxres_px: int | None
    """Longest side that the server lets through; None where nothing tells."""
    max_side_px: int
    """Longest side of an image sent there, the family's own limit included."""
    max_pixels: int | None = None
    """The family's limit of an image's area, where it has one."""
    smallest_pt: int | None = None
    """Smallest print read on a whole A4 page; None: none."""
    letter_px: float | None = None
    """Height of its small letters where they reach the encoder; None: not known."""
    family: str | None = None
    """The family whose prompt and tags were sent."""

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> Remembered:
        """Check values that somebody may have edited.

        Raises:
            TypeError: A value is missing, unknown, or of another type.
        """
        found = cls(**values)
        for name, hint in get_type_hints(cls).items():
            value = getattr(found, name)
            takes_integers = float in {hint, *get_args(hint)}
            if not isinstance(value, hint | int if takes_integers else hint):
                raise TypeError(f"{name} is {value!r}")
        return found

    def holds_for(self, info: ServerInfo, started_s: float | None, now_s: float) -> bool:
        """Tell whether this is a result for the server that runs there now."""
        if (self.model, self.version) != (info.model, info.version) or self.started_s is None or started_s is None:
            return False
        tolerance_s = _START_TOLERANCE_S + _CLOCK_DRIFT * max(0.0, now_s - started_s)
        return abs(self.started_s - started_s) <= tolerance_s


class SelfTestFile:
    """The file of remembered self-tests, the last one of each server.

    Args:
        path: The file; left out: `self-tests.json` in the user's data folder.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or user_data_folder() / "self-tests.json"

    def find(self, url: str) -> Remembered | None:
        """Return the last result for the server of this address, whatever runs there now."""
        return self._load().get(server_key(url))

    def put(self, url: str, found: Remembered) -> None:
        """Keep a result; a folder that cannot be written is only logged."""
        from filelock import FileLock, Timeout

        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.with_suffix(".lock"), timeout=_LOCK_WAIT_S):
                servers = {**self._load(), server_key(url): found}
                content = {"format": _FORMAT, "servers": {key: asdict(servers[key]) for key in sorted(servers)}}
                write_atomically(self.path, json.dumps(content, ensure_ascii=False, indent=1).encode())
        except (OSError, Timeout) as err:
            log.warning("the self-test of %s could not be kept in %s: %s", url, self.path, err)

    def _load(self) -> dict[str, Remembered]:
        try:
            stored = json.loads(self.path.read_text(encoding="utf-8"))
            if stored["format"] != _FORMAT:
                return {}
            return {key: Remembered.of_json(values) for key, values in stored["servers"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as err:
            log.warning("%s cannot be read and is written anew with the next self-test: %s", self.path, err)
            return {}
