"""A training step of ResNet-20 and of its splits, with the layers of a split joined to one convolution and one by one.

`python -m benchmarks.bench_split [--precision bf16] [--threads 1] [--rounds 6]`

Nine residual splits in the first round, their slow halves split again in the second, their fast halves in the third.
Forward and backward on one batch of 128 random images, in turns; the least processor time of all turns counts.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch

from caffe_split.engine.model.net import Net
from caffe_split.formats import prototxt
from caffe_split.formats.prototxt.nets import read_net
from caffe_split.net.layers import all_layers, convolutions
from tests.split.nets import split_again

ROOT = Path(__file__).resolve().parents[1]
BATCH = 128


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=6)
    words = parser.parse_args(arguments)
    torch.set_num_threads(words.threads)
    print(f"{words.precision}, {words.threads} threads, load {os.getloadavg()[0]:.1f} at the start")
    nets = {
        (splits, joins): Net(derived(splits), "TRAIN", seed=1, fuse=True, joins=joins, precision=words.precision)
        for splits in range(4)
        for joins in (False, True)
    }
    least = {key: step(net) for key, net in nets.items()}
    for _ in range(words.rounds):
        least = {key: min(least[key], step(net)) for key, net in nets.items()}
    for splits in range(4):
        apart, joined = (1000 * least[splits, joins] for joins in (False, True))
        calls = [
            sum(call.layer.text.type == "Convolution" for call in nets[splits, joins].calls) for joins in (False, True)
        ]
        each = f"{apart:6.0f} ms one by one ({calls[0]} convolutions), {joined:6.0f} joined ({calls[1]})"
        print(f"  {splits} rounds: {each}: {apart / joined:.2f} times")


def derived(rounds: int) -> prototxt.Document:
    """ResNet-20 with its data layers as an Input, split in `rounds`."""
    path = ROOT / "prototxt/resnet20_cifar10/train_val.prototxt"
    net = read_net(path, upgrade=True)
    for layer in all_layers(net):
        if layer.type == "Data":
            net.remove(layer.field)
    shapes = f"shape {{ dim: {BATCH} dim: 3 dim: 32 dim: 32 }} shape {{ dim: {BATCH} }}"
    head = f'layer {{ name: "data" type: "Input" top: "data" top: "label" input_param {{ {shapes} }} }}\n'
    net = prototxt.parse(head + net.to_bytes().decode(), "net")
    names = [layer.name for layer in convolutions(all_layers(net))][1:10]
    for suffix in ("", "_split2", "_split1")[:rounds]:
        for name in names:
            split_again(net, name + suffix, kind="residual")
    return prototxt.parse(net.to_bytes().decode(), "net")


def step(net: Net) -> float:
    """The processor time of one step, in seconds."""
    images = np.random.default_rng(0).standard_normal((BATCH, 3, 32, 32)).astype(np.float32)
    start = time.process_time()
    net.forward({"data": images, "label": np.arange(BATCH) % 10}).loss.backward()
    return time.process_time() - start


if __name__ == "__main__":
    main(sys.argv[1:])
