"""axe-core, which finds what keeps people with a screen reader or a keyboard out; from npm, for the tests only."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any, Final

import pytest

from tests.browser import Browser

VERSION: Final = "4.10.3"
SHA256: Final = "880970c081707360e64f34cea25ff91892f5bc95675b0776925b9709dd8a68bb"
"""Of axe.min.js."""


@functools.cache
def axe_source() -> str:
    """Return the script; skips the test, with the reason, where npm or the package cannot be had."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed: axe-core is fetched by it")
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", "--silent", "--prefer-offline", f"axe-core@{VERSION}"]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
        except subprocess.TimeoutExpired:
            pytest.skip("npm does not answer")
        packed = Path(folder) / f"axe-core-{VERSION}.tgz"
        if done.returncode or not packed.is_file():
            pytest.skip(f"npm cannot fetch axe-core {VERSION}: {done.stderr.strip()[-200:]}")
        with tarfile.open(packed) as package:
            member = package.extractfile("package/axe.min.js")
            assert member is not None
            source = member.read()
    assert hashlib.sha256(source).hexdigest() == SHA256
    return source.decode("utf-8")


def serious_findings(browser: Browser) -> list[str]:
    """Return what axe finds serious or critical on the page that is open: the rule, and the element."""
    browser.run(axe_source() + "; 0")
    found: Any = json.loads(browser.run("axe.run(document, {resultTypes: ['violations']}).then(JSON.stringify)"))
    return [
        f"{one['id']}: {node['html'][:200]}"
        for one in found["violations"]
        if one["impact"] in {"serious", "critical"}
        for node in one["nodes"]
    ]
