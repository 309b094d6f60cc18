"""One long POST in a thread of its own, so that the caller stays free to watch, stop and leave.

A synchronous generate cannot be interrupted from within, and a client that goes away does not stop
the server: it writes on to the limit (measured on KoboldCpp 1.115.1).
"""

from __future__ import annotations

import threading

from kobold_reader.kobold.transport import Answer, Transport, Wire

__all__ = ["Job"]


class Job:
    """A POST that runs once it is started; `done` is set when it has an answer or has failed.

    The thread is a daemon: if all else fails, it does not keep the program from ending.
    """

    def __init__(self, transport: Transport, path: str, body: bytes, *, read_timeout_s: float) -> None:
        self.done = threading.Event()
        self._wire = Wire()
        self._answer: Answer | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(
            target=self._run,
            args=(transport, path, body, read_timeout_s),
            name=f"kobold-reader {path}",
            daemon=True,
        )
        self.begun = False

    def start(self) -> None:
        """Send it. Ctrl-C may come while the thread starts: whoever calls this must then stop the job."""
        self.begun = True
        self._thread.start()

    def _run(self, transport: Transport, path: str, body: bytes, read_timeout_s: float) -> None:
        try:
            self._answer = transport.exchange(path, body, read_timeout_s=read_timeout_s, wire=self._wire)
        except BaseException as err:  # noqa: BLE001 - raised again in the caller's thread
            self._error = err
        finally:
            self.done.set()

    @property
    def connected(self) -> bool:
        """Whether the server was ever reached, and so may have begun to work."""
        return self._wire.connected

    def result(self) -> Answer:
        """The answer, or the error raised here; only after `done`."""
        if self._error is not None:
            raise self._error
        if self._answer is None:
            raise RuntimeError("the job is not done")
        return self._answer

    def leave(self, timeout_s: float) -> None:
        """Cut the connection if it still stands, and wait for the thread to end."""
        if not self.done.is_set():
            self._wire.cut()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
