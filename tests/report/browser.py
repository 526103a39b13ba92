"""A headless Chromium, driven over its own DevTools protocol: one page, real mouse and keys, screenshots."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",  # which is small in a container
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)
PATIENCE = 60.0  # seconds for a start or an answer; a busy machine is slow


def find_browser() -> str | None:
    """The browser's path; None: there is none."""
    return next((found for found in map(shutil.which, PROGRAMS) if found), None)


class Page:
    """One tab. Places are in CSS pixels from the window's upper left corner."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._number = 0
        self.events: list[dict[str, Any]] = []  # everything the browser reported without being asked
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol and its answer."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(timeout=PATIENCE))
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def open(self, path: Path, width: int = 1100, height: int = 900, dark: bool = False) -> None:
        """Load a file in a window of this size and wait until it is there."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self.events.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.wait_for("document.readyState === 'complete'")

    def run(self, expression: str) -> Any:
        """The value of some JavaScript, as JSON has it."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, (expression, answer["exceptionDetails"])
        return answer["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Until it becomes true."""
        end = time.monotonic() + PATIENCE
        while not self.run(expression):
            assert time.monotonic() < end, f"never became true: {expression}"
            time.sleep(0.02)

    def mouse(self, kind: str, x: float, y: float, clicks: int = 0) -> None:
        """kind: mouseMoved, mousePressed or mouseReleased."""
        button = "none" if kind == "mouseMoved" and not clicks else "left"
        held = 1 if clicks and kind != "mouseReleased" else 0
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, buttons=held, clickCount=clicks)

    def click(self, x: float, y: float, times: int = 1) -> None:
        """A click, or a double one."""
        self.mouse("mouseMoved", x, y)
        for count in range(1, times + 1):
            self.mouse("mousePressed", x, y, count)
            self.mouse("mouseReleased", x, y, count)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """With the left button held, over a place halfway."""
        middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
        self.mouse("mouseMoved", *start)
        self.mouse("mousePressed", *start, 1)
        for place in (middle, end):
            self.mouse("mouseMoved", *place, 1)
        self.mouse("mouseReleased", *end, 1)

    def touch(self, *places: tuple[float, float]) -> None:
        """Put a finger down at the first place, move it over the others, and lift it."""
        for kind, place in zip(["touchStart", *["touchMove"] * (len(places) - 1)], places):
            self.call("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": place[0], "y": place[1]}])
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def key(self, name: str) -> None:
        """Press and release a key by its DOM name; a single character is typed."""
        text = {"text": name} if len(name) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=name, **KEYS.get(name, {}), **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=name, **KEYS.get(name, {}))

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """What is seen, or the whole page, as PNG."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))


KEYS: dict[str, dict[str, Any]] = {
    "Tab": {"code": "Tab", "windowsVirtualKeyCode": 9},
    "Enter": {"code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"},
    "ArrowRight": {"code": "ArrowRight", "windowsVirtualKeyCode": 39},
    "ArrowLeft": {"code": "ArrowLeft", "windowsVirtualKeyCode": 37},
    "End": {"code": "End", "windowsVirtualKeyCode": 35},
    "Escape": {"code": "Escape", "windowsVirtualKeyCode": 27},
}


@contextlib.contextmanager
def browser() -> Iterator[Page]:
    """A browser with an empty profile of its own, ended at the end."""
    program = find_browser()
    assert program is not None
    profile = Path(tempfile.mkdtemp())
    command = [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    log = profile / "stderr"
    with log.open("wb") as stderr:
        child = subprocess.Popen(command, stdout=stderr, stderr=stderr, start_new_session=True)
    try:
        with connect(_address(child, profile, log), max_size=None, proxy=None) as socket:
            yield Page(socket)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        shutil.rmtree(profile, ignore_errors=True)


def _address(child: subprocess.Popen[bytes], profile: Path, log: Path) -> str:
    """The WebSocket of the browser's first tab, once it listens."""
    from urllib.request import ProxyHandler, build_opener

    opener = build_opener(ProxyHandler({}))  # the browser is on this machine
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        assert child.poll() is None, f"the browser ended: {log.read_text(errors='replace')[-2000:]}"
        with contextlib.suppress(OSError, ValueError, IndexError, StopIteration):
            port = int((profile / "DevToolsActivePort").read_text().split()[0])
            with opener.open(f"http://127.0.0.1:{port}/json/list", timeout=5) as answer:
                tabs = json.load(answer)
            return str(next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page"))
        time.sleep(0.05)
    raise AssertionError(f"the browser does not listen: {log.read_text(errors='replace')[-2000:]}")
