"""Joining a Ray cluster, or starting one here: quiet, and without a word to anybody outside."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Final

from typing_extensions import override

from kobold_reader.errors import ClusterError, MissingExtraError

__all__ = ["check_installed", "connect", "quiet_context", "session"]

LOCAL: Final = "local"
_LOOK_S: Final = 1.0


def check_installed() -> None:
    """Refuse where Ray is missing, without importing it: that takes seconds.

    Raises:
        MissingExtraError: It is not installed.
    """
    if not all(importlib.util.find_spec(name) for name in ("ray", "pyarrow")):
        raise MissingExtraError("ray", "Reading on a Ray cluster")


def _import_ray() -> Any:
    check_installed()
    # Before the first import. A cluster that is started here tells Ray's makers nothing.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its warnings are in its own log files
    import ray
    import ray.data

    # They tell of every step on the console, and that SIGTERM is left to us.
    for name in ("ray.data", "ray._private.worker"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return ray


def connect(address: str = LOCAL) -> Any:
    """Join the cluster at `address` unless this process has joined one already; returns the module `ray`.

    Args:
        address: `local` starts one on this machine, for this process; `auto` joins the one that runs here;
            `HOST:6379` or `ray://HOST:10001` one elsewhere.

    Raises:
        MissingExtraError: Ray is not installed.
        ClusterError: Nobody answers there.
    """
    ray = _import_ray()
    if ray.is_initialized():
        return ray
    ours = {"include_dashboard": False} if address == LOCAL else {}
    joining = _Joining(ray, {"address": address, "log_to_driver": False, "configure_logging": False, **ours})
    joining.start()
    try:
        joining.joined.result()
    except (ConnectionError, OSError, RuntimeError, ValueError, TimeoutError) as err:
        msg = f"the Ray cluster at {address!r} cannot be joined: {err}."
        raise ClusterError(msg, hint="`ray start --head` starts one; 'local' starts one for this run alone.") from err
    return ray


class _Joining(threading.Thread):
    """The thread that joins, and stays for as long as the cluster is joined.

    The processes of a local cluster end with the thread that started them (Linux tells them of its death), so it must
    not be one that ends before; and in the main thread Ray takes SIGTERM for itself, which has to abort the jobs that
    run on the servers.
    """

    def __init__(self, ray: Any, options: dict[str, Any]) -> None:
        super().__init__(name="kobold-reader-ray", daemon=True)
        self._ray = ray
        self._options = options
        self.joined: Future[None] = Future()

    @override
    def run(self) -> None:
        try:
            self._ray.init(**self._options)
        except BaseException as err:  # noqa: BLE001  (raised in the thread that waits)
            self.joined.set_exception(err)
            return
        self.joined.set_result(None)
        while self._ray.is_initialized():
            time.sleep(_LOOK_S)


@contextmanager
def session() -> Iterator[None]:
    """Leave, at the end, a cluster that was joined meanwhile.

    Raises:
        MissingExtraError: Ray is not installed.
    """
    check_installed()
    had_joined = _has_joined()
    try:
        yield
    finally:
        if not had_joined and _has_joined():
            sys.modules["ray"].shutdown()


def _has_joined() -> bool:
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


def quiet_context(ray: Any) -> Any:
    """Return a context for a dataset that hands out every row at once and shows no progress."""
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.target_max_block_size = 1  # in bytes: each row is a block, so that it arrives as soon as it is there
    context.target_min_block_size = 0
    return context
