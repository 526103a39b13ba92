"""A net that was derived and folded again is the user's file, byte for byte, in whatever layout it is written."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

import caffe_split as cs

GAPS = [" ", "\n", "\r\n", "  ", " # c\n", "\t", "\n  # c\n  ", "\n\n", "\n    "]
# What stands between two layers.
ENDS = ["\n", " ", "\n\n", " # end\n", " # end\n\n", " # end\r\n\r\n", "\n\n\n", "\n# next\n\n", "\r\n", ""]
KINDS = ["residual", "skip", "extension", "conv1x1", "identity"]


def drawn_layer(rng: random.Random, name: str, kind: str, bottom: str, more: str = "") -> str:
    fields = [f'name: "{name}"', f"type: '{kind}'", f'bottom:"{bottom}"', f'top: "{name if more else bottom}"']
    fields += [f"convolution_param {{{rng.choice(GAPS)}{more}{rng.choice(GAPS)}}}"] if more else []
    if more and rng.random() < 0.4:
        fields += rng.choice(
            [["param { lr_mult: 1 }"], ["param {lr_mult: 1 decay_mult: 1}"] * 2, ["param: <lr_mult: 2>"]]
        )
    rng.shuffle(fields)
    # Strings in quotes and messages need no gap behind them.
    body = "".join(field + rng.choice([*GAPS, ""]) for field in fields)
    begin = f"layer{rng.choice(['', ' ', ': ', chr(10)])}{{{rng.choice(['', ' ', chr(10), ' # hi' + chr(10)])}"
    return begin + body + "}" + rng.choice(ENDS)


def drawn_net(rng: random.Random) -> str:
    text = rng.choice(["# top\n", "", 'name: "n" '])
    text += 'layer { name: "d" type: "Input" top: "d" input_param { shape { dim: 1 dim: 2 dim: 7 dim: 7 } } }\n'
    text += drawn_layer(rng, "c1", "Convolution", "d", "num_output: 4 kernel_size: 3 pad: 1")
    text += drawn_layer(rng, "r", "ReLU", "c1")
    return text + drawn_layer(rng, "c2", "Convolution", "c1", "num_output: 5 kernel_size: 2 bias_term: false")


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_comes_back_in_any_layout(kind: str, tmp_path: Path) -> None:
    rng, values = random.Random(kind), np.random.default_rng(0)
    net, weights = tmp_path / "n.prototxt", tmp_path / "w.caffemodel"
    shapes = {"c1": [(4, 2, 3, 3), (4,)], "c2": [(5, 4, 2, 2)]}
    cs.write_weights(weights, {name: [values.normal(size=size) for size in sizes] for name, sizes in shapes.items()})
    for number in range(15):
        text = drawn_net(rng).encode()
        net.write_bytes(text)
        options = cs.DeriveOptions(kind=kind, partition=rng.choice(["random:1", "all"]))
        out, back = tmp_path / f"derived{number}", tmp_path / f"folded{number}"
        cs.derive(cs.open_training(net), weights=weights, layers=["c1", "c2"], options=options, out=out).write()
        cs.fold(out / "n.prototxt", out / "init.caffemodel", out=back).write(check=None)
        assert (back / "n.prototxt").read_bytes() == text, text
