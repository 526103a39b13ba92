"""Convolutions by Winograd's algorithm and by PyTorch (oneDNN), float32, in turns.

    python -m benchmarks.bench_convolution [--threads 1] [--rounds 9] [--shapes 128x16x32x32x16,...]

A shape is batch, channels, height, width, outputs; kernels are 3x3 with a pad of 1. Milliseconds are the least of the
rounds, of the time of this process's threads; the ratios are the medians of the rounds. The errors are the largest
differences to the result of float64, relative to the largest value.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from caffe_split.engine.device import keep_memory
from caffe_split.engine.kernels import winograd

# Those of ResNet-20 with a batch of 128, and of ResNet-18 and VGG with a batch of 8.
SHAPES = "128x16x32x32x16,128x32x16x16x32,128x64x8x8x64,8x64x56x56x64,8x128x28x28x128,8x256x14x14x256"


def measured(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each round, of all in turns."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for _ in range(rounds):
        for name, work in works.items():
            start = time.process_time()
            work()
            found[name].append((time.process_time() - start) * 1000)
    return found


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def row(sizes: list[int], rounds: int) -> str:
    n, channels, height, width, outputs = sizes
    x, given = (
        torch.randn(n, count, height, width).contiguous(memory_format=torch.channels_last) for count in sizes[1::3]
    )
    weight = torch.randn(outputs, channels, 3, 3) * 0.1
    assert winograd.fits(x, weight, (1, 1), (1, 1))
    exact = torch.conv2d(x.double(), weight.double(), padding=1)
    x.requires_grad_(), weight.requires_grad_()
    ways = {
        "torch": lambda: torch.conv2d(x, weight, padding=1),
        "ours": lambda: winograd.convolved(x, weight, None, (1, 1)),
    }
    tops = {name: way() for name, way in ways.items()}
    errors = [error(top.detach(), exact) for top in tops.values()]
    back = {
        name: lambda top=top: torch.autograd.grad(top, (x, weight), given, retain_graph=True)
        for name, top in tops.items()
    }
    cells = []
    for works in (ways, back):
        found = measured(works, rounds)
        ratio = statistics.median(one / other for one, other in zip(found["torch"], found["ours"]))
        cells.append(f"{min(found['torch']):.2f} / {min(found['ours']):.2f}: {ratio:.2f}")
    return " | ".join(["x".join(map(str, sizes)), *cells, f"{errors[0]:.1e}, {errors[1]:.1e}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--shapes", default=SHAPES)
    words = parser.parse_args()
    keep_memory()
    torch.manual_seed(0)
    torch.set_num_threads(words.threads)
    print(f"{words.threads} threads; PyTorch's and the kernels' milliseconds, and PyTorch's / the kernels'")
    print("| shape | top | both gradients | errors of the top, PyTorch's and the kernels' |")
    print("|---|---|---|---|")
    for shape in words.shapes.split(","):
        print(f"| {row([int(word) for word in shape.split('x')], words.rounds)} |")


if __name__ == "__main__":
    main()
