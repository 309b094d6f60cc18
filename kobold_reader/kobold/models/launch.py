"""How to start KoboldCpp for reading pages: its arguments, as a command line and as a configuration file."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from kobold_reader.errors import ConfigError
from kobold_reader.kobold.models.pairing import Pair
from kobold_reader.kobold.models.projectors import KINDS, ProjectorKind

CONTEXT_TOKENS = 16_384
VISIONMAXRES_PX = 2048
LINE_VERSION = "1.112"
"""First KoboldCpp that knows all these arguments."""


def settings(pair: Pair) -> dict[str, str | int | bool]:
    """Return KoboldCpp's arguments for reading pages with a pair, by the names that its configurations use."""
    kind = KINDS.get(pair.projector.kind, ProjectorKind(""))
    chosen: dict[str, str | int | bool] = {
        "model_param": str(pair.model.path),
        "mmproj": str(pair.projector.path),
        "contextsize": min(CONTEXT_TOKENS, pair.model.context_tokens or CONTEXT_TOKENS),
        "visionmaxres": VISIONMAXRES_PX,
    }
    if kind.vision_tokens:
        chosen["visionmintokens"], chosen["visionmaxtokens"] = kind.vision_tokens
    chosen["batchsize"] = kind.batch_tokens
    return {**chosen, "noshift": True, "quiet": True, **pair.template.settings}


def arguments(chosen: Mapping[str, str | int | bool]) -> list[str]:
    """Return the command line with KoboldCpp's arguments."""
    line = ["koboldcpp"]
    for name, value in chosen.items():
        line.append("--model" if name == "model_param" else f"--{name}")
        if value is not True:
            line.append(str(value))
    return line


def quoted(line: Sequence[str], *, is_windows: bool = sys.platform == "win32") -> str:
    """Return a command line to be pasted into this system's shell."""
    return subprocess.list2cmdline(line) if is_windows else shlex.join(line)


def command(pair: Pair) -> str:
    """Return the line that starts KoboldCpp with a pair."""
    return quoted(arguments(settings(pair)))


def write_kcpps(path: Path, chosen: Mapping[str, str | int | bool]) -> None:
    """Write a KoboldCpp configuration: whole, or not at all, and never over an existing file.

    Raises:
        ConfigError: The file exists, or cannot be written.
    """
    if path.exists() or path.is_symlink():
        raise ConfigError(f"{path} exists already, and is not overwritten.", hint="Name another file, or remove it.")
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_text(json.dumps(chosen, ensure_ascii=False, indent=1) + "\n", encoding="utf-8", newline="\n")
        os.replace(part, path)  # noqa: PTH105  (atomic on Windows too)
    except OSError as err:
        raise ConfigError(f"{path} cannot be written ({err.strerror or err}).", hint="Name another file.") from err
    finally:
        part.unlink(missing_ok=True)
