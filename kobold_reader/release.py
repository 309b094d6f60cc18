"""The release of this package, as readings record it."""

from importlib.metadata import PackageNotFoundError, version
from typing import Final

__all__ = ["RELEASE"]

try:
    RELEASE: Final = version("kobold-reader")
except PackageNotFoundError:  # run from a checkout that was not installed
    RELEASE: Final = "0+unknown"  # type: ignore[misc]
