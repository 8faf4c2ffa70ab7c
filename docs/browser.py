"""A headless Chromium, spoken to in its own DevTools protocol through two pipes: no driver and no port."""

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
"""The browser of this machine; None: it has none."""

MISSING = "no chromium on this machine (apt-get install chromium)"

_FLAGS = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--no-first-run",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
_PATIENCE = 60.0
_ENDING = 5.0


class BrowserError(Exception):
    """The browser said no, or nothing."""


class Page:
    """One tab. Made by :func:`open_browser`."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._read = b""
        self._asked = 0
        self._session: dict[str, str] = {}
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol; returns its result."""
        self._asked += 1
        message = {"id": self._asked, "method": method, "params": parameters, **self._session}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + _PATIENCE
        while True:
            said = self._message(deadline)
            if said.get("id") == self._asked:
                if "error" in said:
                    raise BrowserError(f"{method}: {said['error']['message']}")
                result: dict[str, Any] = said["result"]
                return result

    def open(self, url: str) -> None:
        """Go to an address."""
        self.call("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """Evaluate an expression in the page, a promise is waited for; returns what JSON can say of it."""
        said = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in said:
            raise BrowserError(json.dumps(said["exceptionDetails"])[:500])
        return said["result"].get("value")

    def wait_for(self, condition: str, seconds: float = 30.0) -> None:
        """Wait until an expression is true in the page."""
        deadline = time.monotonic() + seconds
        while not self.run(f"Boolean({condition})"):
            if time.monotonic() > deadline:
                raise BrowserError(f"not so after {seconds:g} s: {condition}")
            time.sleep(0.05)

    def press(self, key: str, text: str = "") -> None:
        """Press and release a key of the keyboard, "Tab" or "Enter" say."""
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                text=text if kind == "keyDown" else "",
                windowsVirtualKeyCode={"Tab": 9, "Enter": 13}.get(key, 0),
            )

    def write(self, text: str) -> None:
        """Type into what has the focus."""
        self.call("Input.insertText", text=text)

    def prefer(self, theme: str) -> None:
        """Prefer a "light" or a "dark" theme from now on."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])

    def resize(self, width: int, height: int) -> None:
        """Give the window another size."""
        size = {"width": width, "height": height}
        self.call("Emulation.setDeviceMetricsOverride", **size, deviceScaleFactor=1, mobile=False)

    def picture(self) -> bytes:
        """Take a picture of the whole page, however long it is: PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        said = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        return base64.b64decode(said["data"])

    def _message(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._read:
            if not select.select([self._from], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise BrowserError("the browser does not answer")
            some = os.read(self._from, 1 << 20)
            if not some:
                raise BrowserError("the browser has ended")
            self._read += some
        message, _, self._read = self._read.partition(b"\0")
        said: dict[str, Any] = json.loads(message)
        return said


@contextlib.contextmanager
def open_browser(profile: Path) -> Iterator[Page]:
    """Start a browser and end it.

    Parameters
    ----------
    profile : folder for what it keeps; made.

    Raises
    ------
    BrowserError
        There is none, or it does not answer.
    """
    if CHROMIUM is None:
        raise BrowserError(MISSING)
    pipes = [_high(end) for end in (*os.pipe(), *os.pipe())]
    its_in, to_browser, from_browser, its_out = pipes
    nothing = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
    pid = os.posix_spawn(
        CHROMIUM,
        [CHROMIUM, *_FLAGS, f"--user-data-dir={profile}"],
        os.environ,
        file_actions=[*nothing, (os.POSIX_SPAWN_DUP2, its_in, 3), (os.POSIX_SPAWN_DUP2, its_out, 4)],
        setpgroup=0,
    )
    os.close(its_in)
    os.close(its_out)
    try:
        page = Page(to_browser, from_browser)
        yield page
        with contextlib.suppress(BrowserError, OSError):
            page._session = {}
            page.call("Browser.close")
    finally:
        os.close(to_browser)
        os.close(from_browser)
        _end(pid)


def _high(descriptor: int) -> int:
    """Move a descriptor out of the way of 3 and 4, where the browser looks for its pipes."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(descriptor)
    return moved


def _end(pid: int) -> None:
    """Wait until the browser has ended by itself, then end its process group."""
    deadline = time.monotonic() + _ENDING
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # its children, if any is left
