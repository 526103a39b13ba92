"""Weights: a VGG-16-sized model read and written by us, by plain protobuf, by pycaffe, and copied by `cp`."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.common import Result, in_turns, report, run
from caffe_split.formats.weights import caffemodel

# VGG-16: (name, inputs, outputs) of the convolutions, () for a pooling; then the inner products.
CONVS = [
    ("conv1_1", 3, 64),
    ("conv1_2", 64, 64),
    (),
    ("conv2_1", 64, 128),
    ("conv2_2", 128, 128),
    (),
    ("conv3_1", 128, 256),
    ("conv3_2", 256, 256),
    ("conv3_3", 256, 256),
    (),
    ("conv4_1", 256, 512),
    ("conv4_2", 512, 512),
    ("conv4_3", 512, 512),
    (),
    ("conv5_1", 512, 512),
    ("conv5_2", 512, 512),
    ("conv5_3", 512, 512),
    (),
]
DENSE = [("fc6", 25088, 4096), ("fc7", 4096, 4096), ("fc8", 4096, 1000)]


def vgg_weights(scale: int) -> dict[str, list[np.ndarray]]:
    """Random weights in VGG-16's shapes; `scale` divides the widths of the dense layers."""
    rng = np.random.default_rng(0)
    shapes = {name: [(out, ins, 3, 3), (out,)] for name, ins, out in filter(None, CONVS)}
    shapes.update({name: [(out // scale, ins), (out // scale,)] for name, ins, out in DENSE})
    if scale > 1:
        shapes = {name: [((s[0][0]), *(s[0][1:])), s[1]] for name, s in shapes.items() if name not in ("fc7", "fc8")}
    return {name: [rng.standard_normal(s, np.float32) for s in pair] for name, pair in shapes.items()}


def vgg_prototxt() -> str:
    """The net itself, for pycaffe."""
    lines = ['layer { name: "data" type: "Input" top: "t" input_param { shape { dim: 1 dim: 3 dim: 224 dim: 224 } } }']
    for index, conv in enumerate(CONVS):
        if conv:
            lines.append(
                f'layer {{ name: "{conv[0]}" type: "Convolution" bottom: "t" top: "t{index}" '
                f"convolution_param {{ num_output: {conv[2]} pad: 1 kernel_size: 3 }} }}"
            )
        else:
            lines.append(
                f'layer {{ name: "pool{index}" type: "Pooling" bottom: "t" top: "t{index}" '
                "pooling_param { kernel_size: 2 stride: 2 } }"
            )
        lines[-1] = lines[-1].replace('bottom: "t"', f'bottom: "t{index - 1}"' if index else 'bottom: "t"')
    last = f"t{len(CONVS) - 1}"
    for name, _, out in DENSE:
        lines.append(
            f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{last}" top: "{name}" '
            f"inner_product_param {{ num_output: {out} }} }}"
        )
        last = name
    return "\n".join(lines)


def ours(source: str, target: str) -> None:
    caffemodel.write_weights(target, caffemodel.read_weights(source))


def protobuf(source: str, target: str) -> None:
    """As a script on plain protobuf does it: arrays out of the message, and into a new one."""
    from caffe_split.formats.prototxt import caffe_pb2

    model = caffe_pb2.NetParameter()
    with open(source, "rb") as stream:
        model.ParseFromString(stream.read())
    arrays = {
        layer.name: [np.array(blob.data, np.float32).reshape(tuple(blob.shape.dim)) for blob in layer.blobs]
        for layer in model.layer
    }
    del model
    out = caffe_pb2.NetParameter()
    for name, blobs in arrays.items():
        layer = out.layer.add(name=name)
        for array in blobs:
            blob = layer.blobs.add()
            blob.shape.dim.extend(array.shape)
            blob.data.extend(array.ravel().tolist())
    with open(target, "wb") as stream:
        stream.write(out.SerializeToString())


def pycaffe(source: str, target: str, net: object) -> None:
    net.copy_from(source)  # type: ignore[attr-defined]
    net.save(target)  # type: ignore[attr-defined]


def contestant(name: str, source: str, target: str) -> None:
    if name == "pycaffe":
        os.environ["GLOG_minloglevel"] = "2"  # noqa: SIM112 (glog's own spelling)
        import caffe

        prototxt = Path(target).with_suffix(".prototxt")
        prototxt.write_text(vgg_prototxt())
        net = caffe.Net(str(prototxt), caffe.TEST)  # not timed: only load and save are
        report(lambda: pycaffe(source, target, net))
    else:
        work = {"ours": ours, "protobuf": protobuf}[name]
        report(lambda: work(source, target))


def copy(source: str, target: str, flush: bool) -> Result:
    start = time.perf_counter()
    subprocess.run(["cp", source, target], check=True)
    if flush:
        with open(target, "rb") as stream:
            os.fsync(stream.fileno())
    return Result(time.perf_counter() - start, 0)


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--protobuf-rounds", type=int, default=1, help="it takes minutes (default 1)")
    parser.add_argument("--scale", type=int, default=1, help="a smaller model, without pycaffe")
    parser.add_argument("--contestant", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.contestant:
        contestant(*options.contestant)
        return {}
    folder = tempfile.mkdtemp(prefix="bench-weights-")
    try:
        source, target = os.path.join(folder, "in.caffemodel"), os.path.join(folder, "out.caffemodel")
        caffemodel.write_weights(source, vgg_weights(options.scale), "vgg")
        size = os.stat(source).st_size

        def child(name: str) -> Result:
            done = run([sys.executable, "-m", "benchmarks.bench_weights", "--contestant", name, source, target])
            os.unlink(target)  # each contestant writes a new file
            return done

        def copied(flush: bool) -> Result:
            done = copy(source, target, flush)
            os.unlink(target)
            return done

        contestants = {
            "ours": lambda: child("ours"),
            "cp": lambda: copied(False),
            "cp and fsync": lambda: copied(True),
            "protobuf": lambda: child("protobuf"),
        }
        rounds = dict.fromkeys(contestants, options.rounds) | {"protobuf": options.protobuf_rounds}
        if options.scale == 1 and have_pycaffe():
            contestants["pycaffe"] = lambda: child("pycaffe")
            rounds["pycaffe"] = min(options.rounds, 3)
        results = in_turns(contestants, rounds)
    finally:
        shutil.rmtree(folder)
    mine = results["ours"]
    print(f"weights, {size / 1e6:.0f} MB, read and written (median; imports not counted; ours flushes to disk)")
    for name, result in results.items():
        peak = f"   peak memory {result.peak / size:.2f}x the file" if result.peak else ""
        print(f"  {name:13} {result.seconds:8.3f} s   {result.seconds / mine.seconds:7.2f}x ours{peak}")
    return {name: result.seconds / mine.seconds for name, result in results.items()}


def have_pycaffe() -> bool:
    done = subprocess.run([sys.executable, "-c", "import caffe"], capture_output=True)
    if done.returncode:
        print("  (no pycaffe here: run ./tools/build_caffe to compare with it)", file=sys.stderr)
    return done.returncode == 0


if __name__ == "__main__":
    main()
