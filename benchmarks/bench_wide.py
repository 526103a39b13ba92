"""`make-derived` of wide nets, side by side with another checkout of this project: processor seconds and peak memory.

The nets: 53 convolutions of ResNet-50's shapes, all split; FCN-AlexNet's two layers of 4,096 kernels (6x6 over 256
channels, 1x1 over 4,096), both split. Each run is a process of its own, imports included, on one thread.
"""

from __future__ import annotations

import functools
import shutil
import tempfile
from pathlib import Path

from benchmarks.bench_derive import bottlenecks, convolution, source, weights_for
from benchmarks.common import Result, beside, checkouts, command, in_turns
from caffe_split.derivation.choose import candidates
from caffe_split.formats import prototxt
from caffe_split.formats.weights import caffemodel


def fcn() -> str:
    """The end of FCN-AlexNet: what its fully connected layers have become."""
    text = source(256, 12)
    for name, below, side in (("fc6", "data", 6), ("fc7", "fc6", 1)):
        text += convolution(name, below, 4096, side).replace("pad: 3", "pad: 0")
    return text


NETS = {"resnet50": bottlenecks, "fcn-alexnet": fcn}


def prepare(net: str, folder: Path) -> tuple[Path, Path, str]:
    """The net, random weights for it, and the names of its convolutions."""
    path, weights = folder / f"{net}.prototxt", folder / f"{net}.caffemodel"
    text = NETS[net]()
    path.write_text(text)
    caffemodel.write_weights(weights, weights_for(text))
    return path, weights, ",".join(layer.name for layer in candidates(prototxt.parse(text, "net")))


def timed(checkout: Path, words: list[str], out: Path) -> Result:
    """`command` with --out, whose folder is removed before."""
    shutil.rmtree(out, ignore_errors=True)
    return command(checkout, [*words, "--out", str(out)])


def main(arguments: list[str] | None = None) -> None:
    parser = beside(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kind", default="residual")
    parser.add_argument("--only", default="", help="only the nets whose name has this in it")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for net in (net for net in NETS if options.only in net):
            path, weights, layers = prepare(net, folder)
            words = ["make-derived", str(path), "--weights", str(weights), "--layers", layers]
            words += ["--partition", "random:0", "--kind", options.kind]
            contestants = {
                which: functools.partial(timed, checkout, words, folder / which)
                for which, checkout in checkouts(options).items()
            }
            results = in_turns(contestants, dict.fromkeys(contestants, options.rounds))
            read, written = weights.stat().st_size, (folder / "this/init.caffemodel").stat().st_size
            print(f"{net}: {read / 1e6:.0f} MB of weights, {written / 1e6:.0f} MB derived; medians of {options.rounds}")
            for which, result in results.items():
                peak = f"peak {result.peak / 1e6:.0f} MB ({result.peak / read:.1f}x, {result.peak / written:.1f}x)"
                print(f"  {which:8} {result.seconds:7.2f} s   {peak}")


if __name__ == "__main__":
    main()
