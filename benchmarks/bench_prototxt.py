"""Prototxt: 10,000 layers parsed and written; the cost per layer at several lengths; protobuf's parser beside it."""

from __future__ import annotations

import argparse
import sys

from benchmarks.common import Result, in_turns, report, run
from caffe_split.formats import prototxt

LAYER = """\
layer {{
  name: "conv{i}"   # the {i}th
  type: "Convolution"
  bottom: "t{i}"
  top: "t{j}"
  param {{ lr_mult: 1 decay_mult: 1 }}
  param {{ lr_mult: 2 decay_mult: 0 }}
  convolution_param {{
    num_output: 64
    kernel_size: 3
    weight_filler {{ type: "gaussian" std: 0.01 }}
  }}
}}
"""


def text(layers: int) -> str:
    return "".join(LAYER.format(i=i, j=i + 1) for i in range(layers))


def contestant(name: str, layers: int) -> None:
    source = text(layers)
    if name == "ours":
        report(lambda: str(prototxt.parse(source)))
    else:
        from google.protobuf import text_format

        from caffe_split.formats.prototxt import caffe_pb2

        report(lambda: text_format.MessageToString(text_format.Parse(source, caffe_pb2.NetParameter())))


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--contestant", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.contestant:
        contestant(options.contestant[0], int(options.contestant[1]))
        return {}

    def child(name: str, layers: int) -> Result:
        return run([sys.executable, "-m", "benchmarks.bench_prototxt", "--contestant", name, str(layers)])

    lengths = (2_500, 5_000, 10_000, 20_000)
    contestants = {f"ours {n}": lambda n=n: child("ours", n) for n in lengths}
    contestants["protobuf 10000"] = lambda: child("protobuf", 10_000)
    results = in_turns(contestants, dict.fromkeys(contestants, options.rounds))
    base = results["ours 10000"]
    print(f"prototxt, parsed and written (median), {len(text(10_000)) / 1e6:.1f} MB for 10,000 layers")
    for name, result in results.items():
        layers = int(name.split()[1])
        print(
            f"  {name:15} layers {result.seconds:7.3f} s   {result.seconds / layers * 1e6:6.1f} us per layer   "
            f"{result.seconds / base.seconds:5.2f}x ours at 10000   peak {result.peak / 1e6:.0f} MB"
        )
    return {name: result.seconds for name, result in results.items()}


if __name__ == "__main__":
    main()
