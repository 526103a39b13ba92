"""Deriving for ResNet-20 and a net of ResNet-50's size: plan, derive and write; cost per layer; folding beside it."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.common import Result, in_turns, report, run
from caffe_split.derivation.choose import candidates
from caffe_split.derivation.make import derive
from caffe_split.derivation.options import DeriveOptions
from caffe_split.folding.make import fold
from caffe_split.formats import prototxt
from caffe_split.formats.weights import caffemodel
from caffe_split.layertypes.shapes import infer_shapes
from caffe_split.net.layers import all_layers, phase_layers
from caffe_split.net.state import TEST
from caffe_split.net.training import open_training

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("residual", "skip", "extension")


def convolution(name: str, bottom: str, kernels: int, side: int, stride: int = 1) -> str:
    """A convolution without bias, with BatchNorm, Scale and ReLU in place behind it."""
    lines = [
        f'layer {{\n  name: "{name}"\n  type: "Convolution"\n  bottom: "{bottom}"\n  top: "{name}"\n'
        f"  convolution_param {{\n    num_output: {kernels}\n    kernel_size: {side}\n    pad: {side // 2}\n"
        f"    stride: {stride}\n    bias_term: false\n  }}\n}}\n"
    ]
    for kind, more in (("BatchNorm", ""), ("Scale", "\n  scale_param { bias_term: true }"), ("ReLU", "")):
        lines.append(
            f'layer {{\n  name: "{name}_{kind}"\n  type: "{kind}"\n  bottom: "{name}"\n  top: "{name}"{more}\n}}\n'
        )
    return "".join(lines)


def source(channels: int, side: int) -> str:
    shape = f"shape {{ dim: 1 dim: {channels} dim: {side} dim: {side} }}"
    return f'layer {{ name: "data" type: "Input" top: "data" input_param {{ {shape} }} }}\n'


def chain(layers: int) -> str:
    """`layers` 3x3 convolutions of 64 kernels, one after another."""
    names = ["data", *(f"conv{i}" for i in range(layers))]
    return source(64, 16) + "".join(convolution(name, below, 64, 3) for below, name in zip(names, names[1:]))


def bottlenecks() -> str:
    """53 convolutions with the shapes of ResNet-50's, 23.5 million weights."""
    text, below = source(3, 224) + convolution("conv1", "data", 64, 7, 2), "conv1"
    for stage, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), 2):
        for block in range(blocks):
            name, stride = f"res{stage}_{block}", 2 if stage > 2 and block == 0 else 1
            text += convolution(f"{name}_a", below, width, 1, stride) + convolution(f"{name}_b", f"{name}_a", width, 3)
            text += convolution(f"{name}_c", f"{name}_b", 4 * width, 1)
            if block == 0:
                text += convolution(f"{name}_proj", below, 4 * width, 1, stride)
                below = f"{name}_proj"
            text += f'layer {{\n  name: "{name}"\n  type: "Eltwise"\n  bottom: "{below}"\n  bottom: "{name}_c"\n'
            text += f'  top: "{name}"\n}}\n'
            below = name
    return text


NETS = {
    "resnet20": lambda: (ROOT / "prototxt/resnet20_cifar10/deploy.prototxt").read_text(),
    "resnet50": bottlenecks,
    **{f"chain{n}": (lambda n=n: chain(n)) for n in (10, 20, 40, 80, 160)},
}


def weights_for(text: str) -> dict[str, list[np.ndarray]]:
    """Random weights for a deploy net."""
    rng = np.random.default_rng(0)
    document = prototxt.parse(text, "net")
    shapes = infer_shapes(phase_layers(document, TEST))
    blobs = {name: [rng.standard_normal(shape) for shape in found] for name, found in shapes.params.items()}
    for layer in all_layers(document):
        if layer.type == "BatchNorm":
            count = shapes.blobs[layer.bottoms[0]][1]
            blobs[layer.name] = [rng.standard_normal(count), rng.uniform(1, 2, count), np.ones(1)]
    return blobs


def contestant(net: str, kind: str, splits: int) -> None:
    """Time one job without imports, in a process of its own. splits: 0 for all layers that can be split."""
    folder = Path(tempfile.mkdtemp())
    path, weights = folder / "net.prototxt", folder / "w.caffemodel"
    text = NETS[net]()
    path.write_text(text)
    caffemodel.write_weights(weights, weights_for(text))

    def derived(out: Path) -> None:
        training = open_training(path)
        names = [layer.name for layer in candidates(training.net)]
        if splits:
            names = names[:: len(names) // splits][:splits]
        options = DeriveOptions(kind="residual" if kind == "fold" else kind, partition="random:0")
        derive(training, weights=weights, layers=names, options=options, out=out).write()

    if kind == "fold":
        derived(folder / "derived")
        report(lambda: fold(folder / "derived/net.prototxt", folder / "derived/init.caffemodel", out=folder / "out"))
    else:
        report(lambda: derived(folder / "out"))


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="only the jobs whose name has this in it, e.g. 'resnet20'")
    parser.add_argument("--contestant", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.contestant:
        net, kind, splits = options.contestant
        contestant(net, kind, int(splits))
        return {}

    def child(net: str, kind: str, splits: int) -> Result:
        command = [sys.executable, "-m", "benchmarks.bench_derive", "--contestant", net, kind, str(splits)]
        return run(command)

    jobs = [(net, kind, splits) for net in ("resnet20", "resnet50") for kind in (*KINDS, "fold") for splits in (9, 0)]
    jobs += [(net, "residual", 0) for net in NETS if net.startswith("chain")]
    contestants = {
        f"{net} {kind} {splits or 'all'}": (lambda job=(net, kind, splits): child(*job))
        for net, kind, splits in jobs
        if options.only in f"{net} {kind} {splits or 'all'}"
    }
    results = in_turns(contestants, dict.fromkeys(contestants, options.rounds))
    print("plan, derive and write (fold: plan the folding), median seconds without imports")
    for name, result in results.items():
        net = name.split()[0]
        layers = f"   {result.seconds / int(net[5:]) * 1e3:6.2f} ms per layer" if net.startswith("chain") else ""
        print(f"  {name:26} {result.seconds:7.3f} s   peak {result.peak / 1e6:.0f} MB{layers}")
    return {name: result.seconds for name, result in results.items()}


if __name__ == "__main__":
    main()
