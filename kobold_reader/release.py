"""The release of this package, as readings record it, and how more of it is installed."""

import json
import os
import sys
from importlib.metadata import PackageNotFoundError, distribution, version
from urllib.parse import urlsplit

try:
    RELEASE = version("kobold-reader")
except PackageNotFoundError:  # run from a checkout that was not installed
    RELEASE = "0+unknown"
__version__ = RELEASE


def pip_command() -> str:
    """The command that runs this environment's pip, as it can be typed in a shell."""
    if sys.prefix in {sys.base_prefix, os.environ.get("VIRTUAL_ENV")}:
        return "pip"
    python = f'"{sys.executable}"' if " " in sys.executable else sys.executable
    return f"{python} -m pip"


def install_command(extra: str) -> str:
    """The command that installs an extra of this package, from the clone where it was installed from one.

    PEP 610 has pip record the folder that it installed from, in `direct_url.json`.
    """
    from urllib.request import url2pathname  # which imports all of HTTP

    try:
        record = distribution("kobold-reader").read_text("direct_url.json")
    except PackageNotFoundError:
        record = None
    origin = json.loads(record or "{}")
    if not origin.get("url", "").startswith("file:"):
        return f'{pip_command()} install "kobold-reader[{extra}]"'
    editable = "--editable " if origin.get("dir_info", {}).get("editable") else ""
    return f'{pip_command()} install {editable}"{url2pathname(urlsplit(origin["url"]).path)}[{extra}]"'
