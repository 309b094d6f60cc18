"""The release of this package, as readings record it."""

from importlib.metadata import PackageNotFoundError, version

try:
    RELEASE = version("kobold-reader")
except PackageNotFoundError:  # run from a checkout that was not installed
    RELEASE = "0+unknown"
