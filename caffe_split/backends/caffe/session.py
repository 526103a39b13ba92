"""A net in the built Caffe that runs batch after batch.

Run as a program it is the child of `open_session`. The child answers on its standard output, each answer a line of JSON
and after it the raw values of the blobs that the line names; it reads what it is asked in the same form.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np

from caffe_split.backends.caffe.child import last_words, open_net
from caffe_split.backends.protocol import Batch, NetFiles, Running, Session
from caffe_split.errors import CaffeSplitError
from caffe_split.files import open_new, scratch

Blobs = Mapping[str, np.ndarray]


def write_message(stream: IO[bytes], message: Mapping[str, Any], blobs: Blobs) -> None:
    """Write a message and, after it, blobs as float32."""
    shapes = {name: list(blob.shape) for name, blob in blobs.items()}
    stream.write(json.dumps({**message, "blobs": shapes}).encode() + b"\n")
    for blob in blobs.values():
        stream.write(np.ascontiguousarray(blob, np.float32).data)
    stream.flush()


def read_message(stream: IO[bytes]) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """What `write_message` wrote; None where the other side has ended."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        return None
    message = json.loads(line)
    blobs = {}
    for name, shape in message["blobs"].items():
        values = stream.read(4 * math.prod(shape))
        if len(values) < 4 * math.prod(shape):
            return None
        blobs[name] = np.frombuffer(values, np.float32).reshape(shape)
    return message, blobs


class CaffeSession(Session):
    """The child seen from its parent; `errors` is the file that has what Caffe says."""

    def __init__(self, child: subprocess.Popen[bytes], errors: Path) -> None:
        assert child.stdin is not None and child.stdout is not None
        self._ask, self._answer, self._child, self._errors = child.stdin, child.stdout, child, errors
        first, _ = self._read()
        self.inputs: Sequence[str] = first["inputs"]
        self.outputs: Sequence[str] = first["outputs"]
        self.shapes = {name: tuple(shape) for name, shape in first["shapes"].items()}
        self.loss_weights: Mapping[str, float] = first["loss_weights"]

    def forward(self, inputs: Mapping[str, np.ndarray] | None = None) -> Batch:
        """See `Session.forward`. Raises `CaffeSplitError` with Caffe's own last words."""
        with contextlib.suppress(BrokenPipeError):
            write_message(self._ask, {}, inputs or {})
        message, blobs = self._read()
        return Batch(message["loss"], blobs)

    def _read(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        found = read_message(self._answer)
        if found is None:
            status = self._child.wait()
            said = last_words(self._errors.read_text(encoding="utf-8", errors="replace"))
            raise CaffeSplitError(said or f"Caffe ended with status {status}.")
        return found


@contextlib.contextmanager
def open_session(net: NetFiles, how: Running, environment: Mapping[str, str]) -> Iterator[Session]:
    """The net in a child, which ends with the block. Raises `CaffeSplitError` with Caffe's own last words."""
    job = {
        "net": str(net.net),
        "weights": str(net.weights),
        "state": asdict(how.state),
        "blobs": list(how.blobs),
        "shapes": dict(how.shapes),
        "skip": how.skip,
        "device": how.device,
    }
    with scratch() as folder, open_new(folder / "errors") as errors:
        child = subprocess.Popen(
            [sys.executable, "-m", __name__, json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=dict(environment),
        )
        try:
            yield CaffeSession(child, folder / "errors")
        finally:
            child.kill()  # it waits to be asked, and keeps nothing that is not in its answers
            child.wait()
            for stream in (child.stdin, child.stdout):
                with contextlib.suppress(OSError):  # what it did not read any more
                    stream.close()  # type: ignore[union-attr]


def main() -> None:
    """The child: a job as JSON in the first argument, then a message per batch."""
    import caffe

    job = json.loads(sys.argv[1])
    # What layers print must not get between the answers.
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    if job["device"] == "cuda":
        caffe.set_mode_gpu()
    net = open_net(job["net"], job["weights"], job["state"])
    for name, shape in job["shapes"].items():
        net.blobs[name].reshape(*shape)
    if job["shapes"]:
        net.reshape()
    wanted = list(dict.fromkeys([*net.outputs, *job["blobs"]]))
    lacking = [name for name in wanted if name not in net.blobs]
    if lacking:
        sys.exit(f"{job['net']}: no blob '{lacking[0]}'; it has {', '.join(net.blobs)}.")
    names = list(net._layer_names)  # noqa: SLF001 - pycaffe has no public name for either.
    for number, name in enumerate(names):
        for _ in range(0 if net.bottom_names[name] else job["skip"]):
            net._forward(number, number)  # noqa: SLF001
    head = {
        "inputs": list(net.inputs),
        "outputs": list(net.outputs),
        "shapes": {name: list(blob.data.shape) for name, blob in net.blobs.items()},
        "loss_weights": {name: weight for name, weight in net.blob_loss_weights.items() if weight},
    }
    write_message(answer, head, {})
    while (asked := read_message(sys.stdin.buffer)) is not None:
        for name, values in asked[1].items():
            net.blobs[name].data[...] = values
        loss = net._forward(0, len(names) - 1)  # noqa: SLF001 - `forward` does not return it.
        write_message(answer, {"loss": loss}, {name: net.blobs[name].data for name in wanted})


if __name__ == "__main__":
    main()
