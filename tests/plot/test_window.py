"""The window of plot_loss.py on a virtual screen: it opens, and follows a log that grows."""

from __future__ import annotations

import importlib.util
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.report.made_runs import write_run

SCRIPT = Path(__file__).parents[2] / "tools" / "plot_loss.py"
PATIENCE = 60.0  # seconds; a busy machine is slow

pytestmark = pytest.mark.skipif(
    shutil.which("Xvfb") is None or importlib.util.find_spec("tkinter") is None,
    reason="no Xvfb or no tkinter: `./tools/environment --tests` installs them where it may",
)


class Screen:
    """A virtual X screen whose picture can be read."""

    def __init__(self, name: str, file: Path) -> None:
        self.name, self._file = name, file

    def picture(self) -> np.ndarray:
        """uint8 (height, width, 3), blue first. The file is an XWD dump."""
        data = self._file.read_bytes()
        head = struct.unpack(">25I", data[:100])
        size, width, height, bits, line, colours = head[0], head[4], head[5], head[11], head[12], head[19]
        assert bits == 32
        pixels = np.frombuffer(data, np.uint8, line * height, size + 12 * colours)
        return pixels.reshape(height, line // 4, 4)[:, :width, :3].copy()

    def settled(self) -> np.ndarray:
        """The picture once it shows something and has not changed for a moment."""
        end = time.monotonic() + PATIENCE
        last, since = self.picture(), time.monotonic()
        while time.monotonic() < end:
            time.sleep(0.1)
            now = self.picture()
            if not np.array_equal(now, last):
                last, since = now, time.monotonic()
            shades = len(np.unique(now[::5, ::5].reshape(-1, 3), axis=0))
            # A window on a busy machine takes a second and more between two drawings.
            if time.monotonic() - since > 4 and shades >= 30:
                return now
        raise AssertionError("the window shows nothing")


def shows(screen: Screen, log: Path, expected: np.ndarray) -> bool:
    """Does the window come to show that picture?

    The toolkit may change the window's size a little after it has opened, and labels are placed when the curves are
    drawn. So the log gets an empty line now and then, after which a window that follows draws again.
    """
    for look in range(int(5 * PATIENCE)):
        if np.array_equal(screen.picture(), expected):
            return True
        time.sleep(0.2)
        if look % 10 == 9:
            with log.open("a") as stream:
                stream.write("\n")
    return False


@pytest.fixture
def screen(tmp_path: Path) -> Iterator[Screen]:
    folder = tmp_path / "screen"
    folder.mkdir()
    readable, writable = os.pipe()
    words = ["-screen", "0", "1000x900x24", "-fbdir", str(folder), "-nolisten", "tcp", "-noreset"]
    with open(tmp_path / "xvfb.log", "wb") as log:
        command = ["Xvfb", "-displayfd", str(writable), *words]
        server = subprocess.Popen(command, pass_fds=[writable], stdout=log, stderr=log)
    os.close(writable)
    with open(readable) as answer:
        number = answer.readline().strip()
    assert number, (tmp_path / "xvfb.log").read_text()
    yield Screen(f":{number}", folder / "Xvfb_screen0")
    server.terminate()
    server.wait(20)


@pytest.fixture
def open_window(screen: Screen, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """A function: start plot_loss.py on the screen."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*words: str) -> subprocess.Popen[bytes]:
        environment = {k: v for k, v in os.environ.items() if k not in ("WAYLAND_DISPLAY", "MPLBACKEND")}
        command = [sys.executable, str(SCRIPT), *words]
        started.append(subprocess.Popen(command, cwd=tmp_path, env={**environment, "DISPLAY": screen.name}))
        return started[-1]

    yield start
    for child in started:
        child.kill()
        child.wait()


def test_it_follows_a_growing_log(
    screen: Screen, open_window: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    log = write_run(tmp_path / "run", 0.0).folder / "train.log"
    whole = log.read_text()
    cut = whole.rindex("\n", 0, whole.index("Iteration 300,")) + 1
    log.write_text(whole[:cut])
    live = open_window("run/train.log", "--avg", "3", "--every", "0.2")
    screen.settled()
    with log.open("a") as stream:
        stream.write("\n")
    half = screen.settled()
    with log.open("a") as stream:
        stream.write(whole[cut:])
    full = screen.settled()
    assert not np.array_equal(half, full)
    log.unlink()  # a log that is gone for a moment does not end the window
    time.sleep(1)
    assert live.poll() is None and np.array_equal(screen.picture(), full)
    for text, expected in ((whole[:cut], half), (whole, full)):  # started anew, and grown again
        log.write_text(text)
        assert shows(screen, log, expected)
    assert live.poll() is None and not (tmp_path / "loss.png").exists()
