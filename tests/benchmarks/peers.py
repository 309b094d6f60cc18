"""Other people's programs, each in an environment of its own, so that what they need never meets ours.

    for peer in found(["plain", "py-zerox"], folder): peer.run("server", url, "scans", "scans.pdf")

Each has a script in `peer_scripts/` that does its task the way its own documentation shows, and ends with one line of
JSON. What cannot be installed is said, with pip's last words, and left out.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

SCRIPTS: Final = Path(__file__).parent / "peer_scripts"
INSTALL_TIMEOUT_S: Final = 900


@dataclass(frozen=True)
class Peer:
    """Another program.

    Attributes:
        name: As people call it.
        script: In `peer_scripts/`.
        packages: What pip installs for it.
        program: What must stand on the PATH besides.
        servers: How many servers it can use at once.
    """

    name: str
    script: str
    packages: tuple[str, ...]
    program: str | None = None
    servers: int = 1


PEERS: Final = {
    peer.name: peer
    for peer in (
        Peer("plain script", "plain.py", ("requests", "Pillow")),
        Peer("py-zerox", "zerox.py", ("py-zerox==0.0.7",), program="pdftoppm"),
        Peer("docling", "docling_vlm.py", ("docling==2.143.0",)),
        Peer("pdf2image", "with_pdf2image.py", ("pdf2image", "Pillow"), program="pdftoppm"),
        Peer("PyMuPDFReader", "with_pymupdfreader.py", ("llama-index-readers-file[pymupdf]",)),
        Peer("pypdfium2", "with_pypdfium2.py", ("pypdfium2", "Pillow")),
    )
}


class PeerFailedError(Exception):
    """It cannot be installed, or did not end well; says why."""


@dataclass(frozen=True)
class Installed:
    """A peer that can be run."""

    peer: Peer
    python: Path

    def run(self, *arguments: object, timeout_s: float = 1800) -> dict[str, Any]:
        """Run its script and return what it reported.

        Raises:
            PeerFailedError: It ended otherwise, or not in time.
        """
        command = [str(self.python), str(SCRIPTS / self.peer.script), *map(str, arguments)]
        # litellm asks GitHub for prices when it is imported, unless told not to.
        quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
        apart = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | quiet
        try:
            ended = subprocess.run(
                command, capture_output=True, text=True, timeout=timeout_s, check=False, env=apart, encoding="utf-8"
            )
        except subprocess.TimeoutExpired as err:
            raise PeerFailedError(f"no end after {timeout_s:.0f} s") from err
        try:
            said: dict[str, Any] = json.loads(ended.stdout.strip().splitlines()[-1])
        except (ValueError, IndexError) as err:
            raise PeerFailedError(_last_words(ended.stderr or ended.stdout)) from err
        return said


def installed(names: Sequence[str], folder: Path) -> Iterator[Installed]:
    """Yield those that can be run, made in the folder where they are not there yet; say which cannot, and why."""
    for name in names:
        try:
            yield install(PEERS[name], folder)
        except PeerFailedError as err:
            print(f"{name}: left out, {err}", flush=True)


def install(peer: Peer, folder: Path) -> Installed:
    """Return the peer, installed.

    Raises:
        PeerFailedError: It cannot be.
    """
    if peer.program and not shutil.which(peer.program):
        raise PeerFailedError(f"it needs the program {peer.program} (poppler-utils)")
    home = folder / peer.name.replace(" ", "-")
    python = home / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    done = home / "installed"
    if not done.exists():
        print(f"{peer.name} is installed in {home} …", flush=True)
        venv.create(home, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *peer.packages]
        try:
            ended = subprocess.run(
                pip, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False, encoding="utf-8"
            )
        except subprocess.TimeoutExpired as err:
            raise PeerFailedError(f"pip did not end within {INSTALL_TIMEOUT_S} s") from err
        if ended.returncode:
            raise PeerFailedError(f"pip: {_last_words(ended.stderr)}")
        done.write_text(" ".join(peer.packages), encoding="utf-8")
    return Installed(peer, python)


def _last_words(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:300] if lines else "it said nothing"
