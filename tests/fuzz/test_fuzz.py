"""A short slice of fuzzing, and the bounds on work and memory that hostile files must not break."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from functools import partial

import pytest

from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.formats.prototxt import check
from tests.formats.wire_files import blob, layer, net, raw_field
from tests.fuzz.plain import mutate
from tests.fuzz.seeds import seeds
from tests.fuzz.targets import TARGETS
from tests.support import calls

# Mutations each: a second or two.
RUNS = {"prototxt": 400, "caffemodel": 600, "solverstate": 600, "hdf5": 800, "proto": 800}


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_files_give_a_value_or_one_error(name):
    runs = []
    mutate(TARGETS[name], seeds()[name], map(runs.append, range(RUNS[name])), seed=1)
    assert len(runs) == RUNS[name]


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
BEFORE = ["", "a: ", "a: '", "a: ['b'", 'a: "\\']


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("before", BEFORE)
def test_work_is_linear_in_the_text(shape, before):
    """Ten times the text takes about ten times the calls: far from the hundred of a quadratic reader.

    What the calls do not show, patterns that look back, benchmarks/bench_linear.py does.
    """

    def work(size):
        with contextlib.suppress(CaffeSplitError):
            check.problems(prototxt.parse(before + SHAPES[shape] * (size // len(SHAPES[shape]))))

    work(100)  # what is loaded once
    short, long = (calls(partial(work, size)) for size in (2_000, 20_000))
    assert long < 15 * max(short, 200)


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
