"""What self-tests found out about servers, kept for the runs that follow.

One small JSON file beside the ledger and the locks. It holds for one start of a server with one model: whoever starts
it anew, perhaps with another `--visionmaxres`, makes it void. Losing it costs a self-test, so nothing here ends a run.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import platformdirs
from filelock import FileLock, Timeout

from kobold_reader.errors import ServerError
from kobold_reader.kobold import KoboldClient, ServerInfo
from kobold_reader.kobold.addresses import server_key

__all__ = ["Remembered", "SelfTestFile", "start_of"]

log = logging.getLogger(__name__)

FORMAT: Final = 1
_LOCK_WAIT_S: Final = 5.0
_START_TOLERANCE_S: Final = 3.0
"""A server needs longer than that to load a model again."""
_CLOCK_DRIFT: Final = 1e-4
"""Two clocks part by some seconds a day."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """What one self-test found out.

    Attributes:
        model: As the server names it.
        version: Of KoboldCpp.
        started_s: When the server was started, in seconds of the epoch; None where it does not tell its uptime.
        tested_s: When it was tested.
        is_seen: Whether words of the card came back.
        visionmaxres_px: Longest side that it lets through; None where nothing tells.
        max_side_px: Longest side of an image sent there, the family's own limit included.
        max_pixels: The family's limit of an image's area, where it has one.
        smallest_pt: Smallest print read on a whole A4 page; None: none.
        letter_px: Height of its small letters where they reach the encoder.
    """

    model: str
    version: str
    started_s: float | None
    tested_s: float
    is_seen: bool
    visionmaxres_px: int | None
    max_side_px: int
    max_pixels: int | None = None
    smallest_pt: int | None = None
    letter_px: float | None = None

    def holds_for(self, info: ServerInfo, started_s: float | None, now_s: float) -> bool:
        """Tell whether this was found out about the very server that runs there now."""
        if (self.model, self.version) != (info.model, info.version) or self.started_s is None or started_s is None:
            return False
        tolerance_s = _START_TOLERANCE_S + _CLOCK_DRIFT * max(0.0, now_s - started_s)
        return abs(self.started_s - started_s) <= tolerance_s


def start_of(client: KoboldClient, now: Callable[[], float] = time.time) -> float | None:
    """Return when the server was started, in seconds of the epoch; None where it does not tell."""
    try:
        uptime_s = client.perf().get("uptime")
    except ServerError as err:
        log.debug("%s: no uptime: %s", client.url, err)
        return None
    if not isinstance(uptime_s, int | float) or isinstance(uptime_s, bool):
        return None
    return now() - uptime_s


class SelfTestFile:
    """The file of remembered self-tests, one for each server.

    Args:
        path: The file; left out: `self-tests.json` in the user's data folder.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or Path(platformdirs.user_data_dir("kobold-reader", appauthor=False), "self-tests.json")

    def find(self, url: str) -> Remembered | None:
        """Return what was found out last about the server of this address, whatever runs there now."""
        return self._load().get(server_key(url))

    def put(self, url: str, found: Remembered) -> None:
        """Keep what was found out; a folder that cannot be written is said in the log and costs nothing else."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.with_suffix(".lock"), timeout=_LOCK_WAIT_S):
                self._write({**self._load(), server_key(url): found})
        except (OSError, Timeout) as err:
            log.warning("the self-test of %s could not be kept in %s: %s", url, self.path, err)

    def _load(self) -> dict[str, Remembered]:
        try:
            stored = json.loads(self.path.read_text(encoding="utf-8"))
            if stored["format"] != FORMAT:
                return {}
            return {key: _remembered(values) for key, values in stored["servers"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as err:
            log.warning("%s cannot be read and is written anew with the next self-test: %s", self.path, err)
            return {}

    def _write(self, servers: Mapping[str, Remembered]) -> None:
        content = {"format": FORMAT, "servers": {key: asdict(found) for key, found in sorted(servers.items())}}
        # A temporary file of Python's has mode 0600.
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f"{self.path.stem}-", suffix=".tmp")
        written = Path(name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(content, file, ensure_ascii=False, indent=1)
            written.replace(self.path)
        except BaseException:
            written.unlink(missing_ok=True)
            raise


_KINDS: Final[Mapping[str, tuple[type, ...]]] = {
    "str": (str,),
    "bool": (bool,),
    "int": (int,),
    "float": (float, int),
    "int | None": (int, type(None)),
    "float | None": (float, int, type(None)),
}


def _remembered(values: Mapping[str, Any]) -> Remembered:
    """Return the value, or raise a TypeError for a file that somebody else wrote."""
    found = Remembered(**values)
    for field in fields(found):
        if not isinstance(getattr(found, field.name), _KINDS[str(field.type)]):
            msg = f"{field.name} is {getattr(found, field.name)!r}"
            raise TypeError(msg)
    return found
