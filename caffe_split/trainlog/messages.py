"""What Caffe's messages look like, from the first public version to NVIDIA's, Intel's and SSD's."""

from __future__ import annotations

import re

# A number ends at a blank, a comma, a backslash (a log line inside JSON) or the end of the line; anything
# else there means that the line was damaged.
_NUMBER = rb"([-+.\w#]+)(?=[\s,\\]|$)"

# Iterations have at most fifteen digits, so that they fit into int64.
ITERATION = re.compile(
    rb"Iteration (\d{1,15})"
    rb"(?:/\d{1,15})?"
    rb"(?:(, Testing net)(?: \(#(\d{1,6})\))?"
    rb"|, lr = " + _NUMBER + rb"|(?: \((?:(\S+) iter/s)?[^=]*\))?(?:, [\d.]+/[\d.]+ ?ep)?, loss = " + _NUMBER + rb")"
)
# After the value of an output with a loss weight comes ` (* WEIGHT = VALUE loss)`; of the weight its sign is read.
NET_OUTPUT = re.compile(rb"net output #\d+: (.+?) = " + _NUMBER + rb"(?: \(\* (-?))?")
# 2014 numbers the outputs instead of naming them.
TEST_SCORE = re.compile(rb"Test score #(\d{1,9}): " + _NUMBER)
TEST_LOSS = re.compile(rb"Test loss: " + _NUMBER)
# A file that a snapshot wrote: its path, blanks included, and its iteration. 2014 left out `.caffemodel`.
SNAPSHOT = re.compile(
    rb"Snapshotting (?:solver state )?to (?:(?:binary proto|HDF5) file )?"
    rb"(?P<path>.*_iter_(?P<iteration>\d{1,15})(?:\.(?:caffemodel|solverstate)(?:\.h5)?)?)"
)
CLIP = re.compile(rb"Gradient clipping: .*\(L2 norm (\S+) > \S+\) by scale factor " + _NUMBER)
BATCH = re.compile(rb"Batch (\d{1,15}), (.+?) = " + _NUMBER)
HEADER = re.compile(rb"Log file created at: (\d{4})/\d\d/\d\d")
# NVCaffe may name the device: `[0] Iteration ...`.
TAG = re.compile(rb"\[[\w.]{1,20}\] ")
# After the last batch `caffe test` prints means, `caffe time` milliseconds.
MEAN = re.compile(rb"(.+?) = " + _NUMBER)
LOSS = re.compile(rb"Loss: " + _NUMBER)
TIMING = re.compile(rb"(?:Average )?(.+?)\s*: ([\d.]+(?:e[-+]\d+)?) ms\.")

# Messages that are events, by how they begin.
EVENTS = {
    b"Log file created at": "header",
    b"Use CPU": "start",
    b"Using GPUs": "start",
    b"Use GPU with": "start",
    b"Initializing solver": "start",
    b"Starting Optimization": "start",
    b"Solving": "solving",
    b"Resuming from": "resume",
    b"Restoring previous solver": "restore",
    b"Finetuning from": "weights",
    b"MultiStep Status": "multistep",
    b"Optimization stopped early": "stopped",
    b"Optimization Done": "done",
    b"Test interrupted": "interrupted",
    b"GPUs pairs": "gpus",
    b"Waiting for data": "waiting",
    b"Ignoring source layer": "ignored",
    b"*** SIG": "signal",
    b"*** Aborted": "signal",
}

# How Microsoft's C library prints nan and inf.
_WINDOWS = {b"1.#QNAN": "nan", b"-1.#IND": "nan", b"1.#INF": "inf", b"-1.#INF": "-inf"}


def number(text: bytes) -> float | None:
    """The value of a printed number, which may be nan or inf; None if the text is not a number."""
    try:
        return float(text)
    except ValueError:
        return float(_WINDOWS[text]) if text in _WINDOWS else None


def text(message: bytes) -> str:
    """A message as text; bytes that are not UTF-8 become escapes."""
    return message.decode("utf-8", "backslashreplace")


def weight_sign(sign: bytes | None) -> int:
    """1 or -1 for the third group of NET_OUTPUT, which is b"-" for a weight below zero; 0 without a weight."""
    return 0 if sign is None else -1 if sign else 1
