"""A real, headless Chromium, driven through its own pipe: no other package, no other port, no other host."""

from __future__ import annotations

import atexit
import base64
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find_browser() -> str | None:
    """Return the browser's program; None where none is installed, or the system has no such pipes."""
    if sys.platform == "win32":
        return None
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """A window that knows nothing of the windows before it: no cookie, no kept picture.

    Args:
        width_px: Of the window.
        height_px: Of the window.
        is_dark: What the person prefers.
        is_phone: Touch instead of a mouse.
        pixel_ratio: Pixels of the screen in one of the page.
    """

    def __init__(
        self,
        *,
        width_px: int = 1280,
        height_px: int = 900,
        is_dark: bool = False,
        is_phone: bool = False,
        pixel_ratio: float = 1,
    ) -> None:
        self._chromium = _chromium()
        self._session: str | None = None
        self.requested: list[str] = []
        """Addresses that were asked for."""
        self.said: list[str] = []
        """What was written to the console: errors, breaches of the policy."""
        self._loaded = 0
        self._fingers = 0
        self._context = self._ask("Target.createBrowserContext")["browserContextId"]
        target = self._ask("Target.createTarget", url="about:blank", browserContextId=self._context)["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable")
        scheme = "dark" if is_dark else "light"
        self._ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self._ask(
            "Emulation.setDeviceMetricsOverride",
            width=width_px,
            height=height_px,
            deviceScaleFactor=pixel_ratio,
            mobile=is_phone,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._session = None
        self._ask("Target.disposeBrowserContext", browserContextId=self._context)

    def open(self, url: str) -> None:
        """Open an address, and wait until all of it is loaded."""
        loaded = self._loaded
        self._ask("Page.navigate", url=url)
        self.await_load(loaded)

    def await_load(self, loaded: int) -> None:
        """Wait until a page after the first `loaded` ones is there."""
        while self._loaded <= loaded:
            self._take()

    @property
    def loaded(self) -> int:
        """Pages loaded so far."""
        return self._loaded

    def run(self, script: str) -> Any:
        """Return what an expression of JavaScript gives, promises waited for."""
        answer = self._ask(
            "Runtime.evaluate",
            expression=script,
            awaitPromise=True,
            returnByValue=True,
            allowUnsafeEvalBlockedByCSP=False,  # as a page's own scripts are treated
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def html(self) -> str:
        """Return the page as it is now, scripts or not."""
        root = self._ask("DOM.getDocument")["root"]["nodeId"]
        return str(self._ask("DOM.getOuterHTML", nodeId=root)["outerHTML"])

    def without_scripts(self) -> None:
        """Run no scripts from the next page on."""
        self._ask("Emulation.setScriptExecutionDisabled", value=True)

    def text(self) -> str:
        """Return what can be read on the page."""
        return str(self.run("document.body.innerText"))

    def press(self, key: str, *, leads_on: bool = False, ctrl: bool = False) -> None:
        """Press a key; with `leads_on`, wait for the page that it opens."""
        loaded = self._loaded
        named = {"Enter": ("\r", "Enter", 13), "Escape": ("", "Escape", 27)}
        named |= {
            "ArrowRight": ("", "ArrowRight", 39),
            "ArrowDown": ("", "ArrowDown", 40),
            "ArrowUp": ("", "ArrowUp", 38),
            "+": ("+", "BracketRight", 187),
            "0": ("0", "Digit0", 48),
        }
        typed, code, number = named.get(key, (key, f"Key{key.upper()}", ord(key.upper()[0])))
        event = {"key": key, "code": code, "windowsVirtualKeyCode": number, "modifiers": 2 if ctrl else 0}
        self._ask("Input.dispatchKeyEvent", type="keyDown", text="" if ctrl else typed, **event)
        self._ask("Input.dispatchKeyEvent", type="keyUp", **event)
        if leads_on:
            self.await_load(loaded)

    def touch(self, *points: tuple[float, float]) -> None:
        """Put fingers on the glass, or move those that are there; without points, lift them."""
        if not self._fingers and points:
            self._ask("Emulation.setTouchEmulationEnabled", enabled=True, maxTouchPoints=5)
        kind = "touchEnd" if not points else "touchMove" if len(points) == self._fingers else "touchStart"
        self._fingers = len(points)
        spots = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
        self._ask("Input.dispatchTouchEvent", type=kind, touchPoints=spots)

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self._ask("Input.insertText", text=text)

    def screenshot(self, path: Path, *, is_whole: bool = False) -> None:
        """Save what is seen as PNG; `is_whole`: what is further down, too."""
        answer = self._ask("Page.captureScreenshot", format="png", captureBeyondViewport=is_whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = self._chromium.send(method, self._session, parameters)
        while True:
            message = self._take()
            if message.get("id") == number:
                if "navigated" in message.get("error", {}).get("message", ""):
                    return self._ask(method, **parameters)  # it was asked of the page before
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result

    def _take(self) -> dict[str, Any]:
        message = self._chromium.take()
        if message.get("sessionId") == self._session:
            self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, method: str, event: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._loaded += 1
        elif method == "Network.requestWillBeSent":
            self.requested.append(event["request"]["url"])
        elif method == "Log.entryAdded" and event["entry"]["level"] == "error":
            self.said.append(event["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.said.append(str(event["exceptionDetails"]))


class _Chromium:
    """The program, with a profile of its own. It takes a second to start, so all windows of a process share it."""

    def __init__(self) -> None:
        program = find_browser()
        assert program is not None
        self._profile = tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True)
        to_child, self._out = os.pipe()
        self._in, from_child = os.pipe()

        def pipes() -> None:  # Chromium reads its orders from 3 and answers on 4
            first, second = os.dup(to_child), os.dup(from_child)
            os.dup2(first, 3)
            os.dup2(second, 4)

        self._process = subprocess.Popen(
            [
                program,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--disable-component-update",
                "--no-first-run",
                "--hide-scrollbars",
                "--remote-debugging-pipe",
                f"--user-data-dir={self._profile.name}",
                "about:blank",
            ],
            preexec_fn=pipes,  # noqa: PLW1509  (no thread of the tests forks meanwhile)
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_child)
        os.close(from_child)
        self._rest = b""
        self._number = 0

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._out)
        os.close(self._in)
        self._profile.cleanup()

    def send(self, method: str, session: str | None, parameters: dict[str, Any]) -> int:
        """Send an order; returns the number that its answer has."""
        self._number += 1
        order: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if session:
            order["sessionId"] = session
        data = json.dumps(order).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        return self._number

    def take(self) -> dict[str, Any]:
        """Wait for an answer or an event."""
        while b"\0" not in self._rest:
            piece = os.read(self._in, 1 << 20)
            assert piece, "the browser is gone"
            self._rest += piece
        one, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(one)
        return message


@functools.cache
def _chromium() -> _Chromium:
    chromium = _Chromium()
    atexit.register(chromium.close)
    return chromium
