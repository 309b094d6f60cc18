"""Joining a Ray cluster, or starting one here: quietly, and without reports to Ray's makers."""

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
from typing import Any

from kobold_reader.errors import ClusterError, MissingExtraError

LOCAL = "local"
"""The address of a cluster that is started on this machine for this process."""
_LOOK_S = 1.0


def check_installed() -> None:
    """Refuse where Ray is missing, without importing it: that takes seconds.

    Raises:
        MissingExtraError: It is not installed.
    """
    if not all(importlib.util.find_spec(name) for name in ("ray", "pyarrow")):
        raise MissingExtraError("ray", "Reading on a Ray cluster")


def _import_ray() -> Any:
    check_installed()
    # Before the first import. A cluster that is started here sends no usage reports.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its warnings are in its own log files
    import ray

    logging.getLogger("ray._private.worker").setLevel(logging.ERROR)  # it reports every step on the console
    return ray


def connect(address: str = LOCAL) -> Any:
    """Join the cluster at `address` unless this process has joined one already; returns the module `ray`.

    Args:
        address: `local` starts one on this machine, for this process; `auto` joins the one that runs here;
            `HOST:6379` or `ray://HOST:10001` one elsewhere.

    Raises:
        MissingExtraError: Ray is not installed.
        ClusterError: No cluster answers there.
    """
    ray = _import_ray()
    if ray.is_initialized():
        return ray
    options = {"address": address, "log_to_driver": False, "configure_logging": False}
    if address == LOCAL:
        options["include_dashboard"] = False
    joined: Future[None] = Future()
    threading.Thread(target=_join, args=(ray, options, joined), name="kobold-reader-ray", daemon=True).start()
    try:
        joined.result()
    except (ConnectionError, OSError, RuntimeError, ValueError, TimeoutError) as err:
        raise ClusterError(
            f"The Ray cluster at {address!r} cannot be joined: {err}.",
            hint="`ray start --head` starts one; 'local' starts one for this run alone.",
        ) from err
    return ray


def _join(ray: Any, options: dict[str, Any], joined: Future[None]) -> None:
    """Join in this thread, and keep it for as long as the cluster is joined.

    The processes of a local cluster end with the thread that started them (Linux tells them of its death), so it must
    not be one that ends before. In the main thread Ray would take SIGTERM for itself, which has to abort the jobs that
    run on the servers.
    """
    try:
        ray.init(**options)
    except BaseException as err:  # noqa: BLE001  (raised in the thread that waits)
        joined.set_exception(err)
        return
    joined.set_result(None)
    while ray.is_initialized():
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
