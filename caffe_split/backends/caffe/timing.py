"""The times that `caffe time` prints."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

from caffe_split.backends.caffe.child import last_words
from caffe_split.backends.protocol import LayerTime, Timed, Timing
from caffe_split.errors import CaffeSplitError

_SECONDS_BETWEEN_LOOKS = 1.0
_NUMBER = r"([-+0-9.e]+|nan|inf)"
_ITERATION = re.compile(rf"\] Iteration: (\d+) forward-backward time: {_NUMBER} ms\.")
_LAYER = re.compile(rf"\] *(\S.*?|)\t(forward|backward): {_NUMBER} ms\.")
_WHOLE = re.compile(rf"\] Average (Forward pass|Backward pass|Forward-Backward): {_NUMBER} ms\.")


def run_caffe_time(
    program: Path, net: Path, how: Timing, environment: Mapping[str, str], say: Callable[[int, float], None]
) -> Timed:
    """Run `caffe time`, and read what it prints. Raises `CaffeSplitError` with Caffe's own last words."""
    words = [str(program), "time", "-model", str(net), "-iterations", str(how.iterations), "-phase", how.state.phase]
    words += ["-level", str(how.state.level)] if how.state.level else []
    words += ["-stage", ",".join(how.state.stages)] if how.state.stages else []
    words += ["-gpu", "0"] if how.device == "cuda" else []
    variables = {**environment, "GLOG_logtostderr": "1"}
    # Caffe times itself while it prints a line per iteration. Whoever waits for these at the other end of a pipe takes
    # the processor from it between two layers, for up to a fifth of a small net's iteration; so they go into a file.
    with tempfile.TemporaryFile() as written:
        child = subprocess.Popen(words, env=variables, stderr=written)
        with child:
            try:
                lines = list(_followed(child, written, say))
            except BaseException:
                child.kill()
                raise
    if child.returncode:
        raise CaffeSplitError(last_words("".join(lines)) or f"{program} ended with status {child.returncode}.")
    return parse_times(lines, str(program))


def _followed(child: subprocess.Popen[bytes], written: IO[bytes], say: Callable[[int, float], None]) -> Iterator[str]:
    """The lines that a program writes into a file, a second after they are written; to the end of the program."""
    place, rest, runs = 0, b"", True
    while runs:
        try:
            child.wait(_SECONDS_BETWEEN_LOOKS)
            runs = False
        except subprocess.TimeoutExpired:
            pass
        # The program goes on writing at the place that both share, so it is read by its number.
        found = os.pread(written.fileno(), os.fstat(written.fileno()).st_size - place, place)
        place += len(found)
        *whole, rest = (rest + found).split(b"\n")
        for line in [*whole, *([] if runs else [rest])]:
            text = line.decode("utf-8", "replace")
            iteration = _ITERATION.search(text)
            if iteration:
                say(int(iteration[1]), float(iteration[2]))
            yield text + "\n"


def parse_times(lines: list[str], program: str) -> Timed:
    """The times among the lines of `caffe time`. Raises `CaffeSplitError` where they are not all there."""
    layers: list[LayerTime] = []
    whole: dict[str, float] = {}
    for line in lines:
        layer, total = _LAYER.search(line), _WHOLE.search(line)
        if layer and layer[2] == "forward":
            layers.append(LayerTime(layer[1], float(layer[3]), 0.0))
        elif layer and layers and layers[-1].name == layer[1]:
            layers[-1] = layers[-1]._replace(backward=float(layer[3]))
        elif total:
            whole[total[1]] = float(total[2])
    if not layers or len(whole) != 3:
        raise CaffeSplitError(
            f"{program} time: its output has no times of layers; expected those of BVLC's `caffe time`."
        )
    return Timed(layers, whole["Forward pass"], whole["Backward pass"], whole["Forward-Backward"])
