"""A short slice of fuzzing, and the bounds on time and memory that hostile files must not break."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time

import pytest

from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.formats.prototxt import check
from tests.formats.wire_files import blob, layer, net, raw_field
from tests.fuzz.plain import mutate_for
from tests.fuzz.seeds import seeds
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_files_give_a_value_or_one_error(name):
    assert mutate_for(TARGETS[name], seeds()[name], 3, seed=1) > 50


def seconds(work, *arguments) -> float:
    start = time.process_time()
    with contextlib.suppress(CaffeSplitError):
        work(*arguments)
    return time.process_time() - start


SHAPES = {
    "comments": "# c\n",
    "blanks": " \n",
    "lists": "a: [1, 2] ",
    "strings": "'a' ",
    "open": "a { ",
    "open and shut": "a { } ",
    "quotes": '"',
    "escapes": "\\",
    "names": "a",
    "numbers": "1",
    "minus": "-",
    "minus and gaps": "a: - #\n",
    "separators": "a: 1; ",
    "hash": "#",
    "zeros": "a: 0x0 ",
    "boms": "\ufeff",
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("before", ["", "a: ", "a: '", "a: ['b'", 'a: "\\'])
def test_time_is_linear_in_the_text(shape, before):
    """Ten times the text takes about ten times as long: far from the hundred of a quadratic reader."""

    def work(size):
        check.problems(prototxt.parse(before + SHAPES[shape] * (size // len(SHAPES[shape]))))

    long = min(seconds(work, 200_000) for _ in range(2))
    if long > 0.2:  # else too quick to matter
        assert long < 30 * max(seconds(work, 20_000), 0.005)
    assert long < 3


MEMORY = """
import resource, sys
from caffe_split.formats.weights import caffemodel
from caffe_split.errors import CaffeSplitError
import numpy
def peak():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
before = peak()
try:
    if sys.argv[2] == "solverstate":
        kept = caffemodel.read_solverstate(sys.argv[1])
    else:
        weights = caffemodel.read_weights(sys.argv[1])
        kept = [weights[name] for name in weights]
    print("read", end=" ")
except CaffeSplitError:
    print("refused", end=" ")
print(peak() - before)
"""


SIZE = 20_000_000
ONE = b"\x2d\0\0\x80\x3f"
# Files that would make a careless reader take far more memory than they have bytes.
HOSTILE = {
    "one by one": ("caffemodel", lambda: net(layer("a", blob(ONE * (SIZE // 5), SIZE // 5)))),
    "pieces": ("caffemodel", lambda: net(layer("a", blob((raw_field(5, b"\0" * 4) + b"\x2a\0") * 100_000, 100_000)))),
    "packed": ("caffemodel", lambda: net(layer("a", blob(raw_field(5, bytes(SIZE)), SIZE // 4)))),
    "doubles": ("caffemodel", lambda: net(layer("a", blob(raw_field(8, bytes(SIZE)), SIZE // 8)))),
    "layers": ("caffemodel", lambda: net(*(layer(f"{i}") for i in range(200_000)))),
    "empty layers": ("caffemodel", lambda: b"\xa2\x06\0" * (SIZE // 3)),
    "empty blobs": ("caffemodel", lambda: net(layer("a") + b"\x3a\0" * (SIZE // 2))),
    "empty shapes": ("caffemodel", lambda: net(layer("a", b"\x3a\0" * (SIZE // 20)))),
    "no layers": ("caffemodel", lambda: b"\x18\x01" * (SIZE // 20)),
    "groups": ("caffemodel", lambda: b"\x1b" * SIZE),
    "long name": ("caffemodel", lambda: net(raw_field(1, b"a" * SIZE))),
    "history": ("solverstate", lambda: b"\x08\x01" + b"\x1a\0" * (SIZE // 20)),
    "unknown": ("solverstate", lambda: b"\x08\x01" + b"\x30\x01" * (SIZE // 20)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_memory_for_weights_is_bounded_by_the_file(name, tmp_path):
    """Never more than three times the file, besides a fixed allowance of 32 MB for the index and Python itself."""
    kind, make = HOSTILE[name]
    data = make()
    path = tmp_path / "x"
    path.write_bytes(data)
    done = subprocess.run([sys.executable, "-c", MEMORY, str(path), kind], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    taken = int(done.stdout.split()[1])
    assert taken < 3 * len(data) + 32_000_000, f"{done.stdout} for a file of {len(data)}"


def test_memory_of_prototxt_is_linear():
    import tracemalloc

    def peak(layers):
        text = "layer { name: 'a' type: 'B' bottom: 'c' param { lr_mult: 1 } }\n" * layers
        tracemalloc.start()
        doc = prototxt.parse(text)
        assert str(doc) == text
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most / len(text)

    assert peak(2000) < 1.5 * peak(200) and peak(2000) < 60
