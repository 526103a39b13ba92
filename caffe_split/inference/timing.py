"""How long each layer of a net takes, beside what it computes and holds."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from caffe_split.backends.choose import choose_backend
from caffe_split.backends.protocol import Timing
from caffe_split.engine.log import number
from caffe_split.errors import expect, expect_count
from caffe_split.files import PathLike
from caffe_split.inference.given import DEFAULTS, GivenNet, RunOptions, check_sources, open_net
from caffe_split.layertypes.shapes import NetShapes, infer_shapes

_BYTES = 4
_MEGA = 1e6


@dataclass(frozen=True)
class LayerCost:
    """A layer's mean times in milliseconds, and what it computes and holds.

    macs: multiply-adds of its forward pass over the batch. bytes: of its tops that are not in place, and of its
    parameters, without gradients. Both are None where they are not known.
    """

    name: str
    forward: float
    backward: float
    macs: int | None
    bytes: int | None

    @property
    def gigaflops(self) -> float | None:
        """Floating point operations of the forward pass in 10^9 per second; a multiply-add is two. None without any."""
        return 2 * self.macs / self.forward / 1e6 if self.macs and self.forward else None


@dataclass(frozen=True)
class NetTimes:
    """Mean times of a net in milliseconds per iteration, as `caffe time` measures them.

    engine: the back end. iterations: how many were measured. layers: in the order in which they run, Caffe's own Splits
    among them. forward, backward, both: of the whole net. notes: what was not measured, since it is not computed.
    """

    engine: str
    iterations: int
    layers: tuple[LayerCost, ...]
    forward: float
    backward: float
    both: float
    notes: tuple[str, ...] = ()

    @property
    def total(self) -> float:
        """The sum over all layers, which shares refer to."""
        return sum(layer.forward + layer.backward for layer in self.layers)

    def lines(self) -> list[str]:
        """As `caffe time` prints them; after each layer's time its share, GFLOP/s and MB."""
        said = ["Average time per layer: "]
        for layer in self.layers:
            for way, took in (("forward", layer.forward), ("backward", layer.backward)):
                more = [f"{100 * took / self.total:.1f} %" if self.total else "-"]
                if way == "forward":
                    more += [f"{layer.gigaflops:.3g} GFLOP/s"] if layer.gigaflops is not None else []
                    more += [f"{layer.bytes / _MEGA:.3g} MB"] if layer.bytes else []
                said.append("\t".join([f"{layer.name:>10}", f"{way}: {number(took)} ms.", *more]))
        said += [
            f"Average Forward pass: {number(self.forward)} ms.",
            f"Average Backward pass: {number(self.backward)} ms.",
            f"Average Forward-Backward: {number(self.both)} ms.",
            f"Total Time: {number(self.both * self.iterations)} ms.",
        ]
        return said + list(self._costs())

    def _costs(self) -> Iterator[str]:
        macs, held = (sum(getattr(layer, name) or 0 for layer in self.layers) for name in ("macs", "bytes"))
        if macs and self.forward:
            yield f"Forward: {number(2 * macs / self.forward / 1e6)} GFLOP/s, a multiply-add counted as two."
        least = "at least " if any(layer.bytes is None for layer in self.layers) else ""
        yield (
            f"Memory of blobs and parameters: {least}{number(held / _MEGA)} MB, with their gradients "
            f"{number(2 * held / _MEGA)} MB."
        )

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        rows = [{**vars(layer), "gigaflops": layer.gigaflops} for layer in self.layers]
        kept = {name: value for name, value in vars(self).items() if name != "notes"}
        return {**kept, "layers": rows, "total": self.both * self.iterations}

    def csv_text(self) -> str:
        """A line per layer: times in milliseconds, shares of their sum, what it computes and holds."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["layer", "forward_ms", "backward_ms", "share", "multiply_adds", "gflops", "bytes"])
        for layer in self.layers:
            share = (layer.forward + layer.backward) / self.total if self.total else 0.0
            gigaflops = "" if layer.gigaflops is None else number(layer.gigaflops)
            cells = [layer.name, number(layer.forward), number(layer.backward), number(share)]
            writer.writerow([*cells, _or_empty(layer.macs), gigaflops, _or_empty(layer.bytes)])
        return stream.getvalue()


def _or_empty(value: int | None) -> str:
    return "" if value is None else str(value)


def _silent(_number: int, _took: float) -> None:
    return


def time_net(
    net: PathLike,
    *,
    iterations: int = 50,
    options: RunOptions = DEFAULTS,
    phase: str = "TRAIN",
    say: Callable[[int, float], None] = _silent,
) -> NetTimes:
    """Measure how long each layer of a net (or of a solver's net) takes, forward and backward.

    In the built Caffe it is the program `caffe time` that measures. Parameters are those of the fillers. `phase` is
    that of the net, unless `options`, which say how it is run, have a state. `say` is given the number of each of the
    `iterations`, from 1, and its milliseconds. Raises `CaffeSplitError` for data that are missing, and for what the
    back end cannot run.

    >>> import os, tempfile
    >>> import caffe_split as cs
    >>> net = os.path.join(tempfile.mkdtemp(), "net.prototxt")
    >>> with open(net, "w") as stream:
    ...     _ = stream.write('''
    ... layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }
    ... layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
    ...         convolution_param { num_output: 4 kernel_size: 3 } }''')
    >>> times = cs.time_net(net, iterations=2)
    >>> [(layer.name, layer.macs, layer.bytes, layer.forward > 0) for layer in times.layers][1:]
    [('conv', 7776, 1600, True)]
    """
    expect(options, RunOptions, "RunOptions(...) as options")
    expect_count(iterations, "iterations")
    given = open_net(net, options, phase)
    check_sources(given)
    backend = choose_backend(options.engine)
    asked = Timing(given.state, iterations, options.device, options.threads, options.program)
    with given.chosen.as_file() as file:
        timed = backend.time(file, asked, say)
    costs = dict(_costs(given))
    # Layers that Caffe adds itself, its Splits, neither compute nor hold anything.
    layers = tuple(
        LayerCost(each.name, each.forward, each.backward, *costs.get(each.name, (0, 0))) for each in timed.layers
    )
    return NetTimes(backend.name, iterations, layers, timed.forward, timed.backward, timed.both, tuple(timed.notes))


def _costs(given: GivenNet) -> Iterator[tuple[str, tuple[int | None, int | None]]]:
    """Of each layer: multiply-adds over the batch, and bytes of tops and parameters."""
    shapes = infer_shapes(given.layers)
    for layer in given.layers:
        if layer.name not in shapes.tops:
            yield layer.name, (None, None)
            continue
        fresh = [shape for top, shape in zip(layer.tops, shapes.tops[layer.name]) if top not in layer.bottoms]
        values = sum(map(math.prod, fresh)) + _parameters(shapes, layer.name)
        yield layer.name, (shapes.batch_macs.get(layer.name, 0), _BYTES * values)


def _parameters(shapes: NetShapes, layer: str) -> int:
    return shapes.parameters_of(layer) + sum(map(math.prod, shapes.state.get(layer, ())))
